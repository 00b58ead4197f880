/* test_engine_loading.c - model directories that are broken, and what sc_engine_open says about them.
 *
 * Each case starts from a good directory, breaks one thing and opens it. The answer is SC_EINVAL or SC_EIO, no engine, and a text
 * that names the file and what in it. Single keys of config.json and single bytes of safetensors headers are the business of
 * test_config.c and test_safetensors.c; here the parts meet. */
#include "tests/unit/engine_model.h"

static tiny_model *model; /* the good one */

static int good_model(void **state) {
    (void)state;
    model = tiny_build(&tiny_default);
    tiny_save(model);
    return 0;
}

static int remove_model(void **state) {
    tiny_free(model);
    return tiny_remove(state);
}

static int cases;

static void expect(const char *what, sc_status status, const char *word1, const char *word2) {
    sc_engine *e = (sc_engine *)1;
    sc_error err = {0};
    const sc_status rc = sc_engine_open(&e, &(sc_engine_options){.model_dir = tiny_dir, .threads = 1, .max_sessions = 1}, &err);

    cases++;
    if (rc == SC_OK) {
        sc_engine_close(e);
        if (status) fail_msg("%s: opened", what);
        return;
    }
    if (rc != status) fail_msg("%s: status %s, wanted %s; text \"%s\"", what, sc_status_name(rc), sc_status_name(status), err.text);
    assert_int_equal(err.status, status);
    assert_null(e);
    if (!strstr(err.text, word1)) fail_msg("%s: \"%s\" lacks \"%s\"", what, err.text, word1);
    if (word2 && !strstr(err.text, word2)) fail_msg("%s: \"%s\" lacks \"%s\"", what, err.text, word2);
    if (!strstr(err.text, tiny_dir)) fail_msg("%s: \"%s\" lacks the folder", what, err.text);
}

static tiny_file *file_of_model(int i) { return i == 0 ? &model->dit : i == 1 ? &model->text : &model->decoder; }
static const char *const file_name[] = {"dit.safetensors", "text.safetensors", "tae.safetensors"};

static void save(int i) { tiny_save_file(file_of_model(i), tiny_path(file_name[i])); }

/* ---- one tensor --------------------------------------------------------------------------------------------------------- */

static void a_missing_tensor_is_named_with_its_file(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        tiny_file *f = file_of_model(i);
        for (int k = 0; k < f->count; k++) {
            const tiny_tensor t = f->t[k];
            f->count--;
            f->t[k] = f->t[f->count]; /* the last takes its place */
            save(i);
            f->t[f->count++] = f->t[k];
            f->t[k] = t;
            if (strcmp(t.name, "pos_embedding")) expect(t.name, SC_EINVAL, file_name[i], t.name);
            else expect(t.name, SC_OK, "", NULL); /* Wan's own models have none */
        }
        save(i);
    }
}

static void a_misshapen_tensor_is_refused_with_its_file(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        tiny_file *f = file_of_model(i);
        for (int k = 0; k < f->count; k++) {
            const tiny_tensor t = f->t[k];
            f->t[k].shape[0]--; /* may be seen at the neighbour whose size depends on it */
            save(i);
            f->t[k] = t;
            expect(t.name, SC_EINVAL, file_name[i], "tensor");
            f->t[k].rank++;
            f->t[k].shape[t.rank] = 2; /* twice the numbers */
            save(i);
            f->t[k] = t;
            expect(t.name, SC_EINVAL, file_name[i], t.name);
        }
        save(i);
    }
}

static void a_tensor_of_the_wrong_type_is_refused_with_its_name(void **state) {
    static const char *const types[] = {"I32", "U8", "F64", "I16"};
    (void)state;
    for (int i = 0; i < 3; i++) {
        tiny_file *f = file_of_model(i);
        for (int k = 0; k < f->count; k++) {
            f->t[k].dtype = types[k % 4];
            save(i);
            f->t[k].dtype = "F32";
            expect(f->t[k].name, SC_EINVAL, file_name[i], f->t[k].name);
        }
        save(i);
    }
    for (int t = 0; t < 4; t++) { /* a convolution among matrices: its rank is looked at first */
        tiny_find(&model->dit, "patch_embedding.weight")->dtype = types[t];
        save(0);
        tiny_find(&model->dit, "patch_embedding.weight")->dtype = "F32";
        expect(types[t], SC_EINVAL, "patch_embedding.weight", "float");
    }
    save(0);
}

static void shapes_that_fit_each_other_but_not_the_model_are_refused(void **state) {
    static const struct { int file; const char *tensor; int rank; long shape[5]; const char *word; } table[] = {
        {2, "decoder.7.conv.weight", 4, {6, 6, 3, 3}, "decoder.7.conv.weight"},   /* grow runs before the doubling: 1x1 only */
        {2, "decoder.1.weight", 4, {6, 4, 5, 5}, "5x5"},
        {2, "decoder.1.weight", 4, {6, 4, 3, 1}, "3x1"},
        {2, "decoder.1.weight", 4, {6, 5, 3, 3}, "5 input channels where 4 come in"},
        {2, "decoder.1.weight", 4, {0, 4, 3, 3}, "out of 1..8192"},
        {2, "decoder.13.conv.weight", 4, {7, 4, 1, 1}, "7 output channels, 8 are needed"},
        {0, "patch_embedding.weight", 5, {16, 4, 1, 2, 3}, "patch_embedding.weight"},
        {0, "patch_embedding.weight", 5, {4, 16, 1, 2, 2}, "patch_embedding.weight"},
        {0, "patch_embedding.weight", 0, {0}, "patch_embedding.weight"},
        {0, "pos_embedding", 2, {8, 16}, "8 rows, a latent frame has 4 tokens"},
        {0, "pos_embedding", 2, {16, 4}, "pos_embedding"},
        {0, "pos_embedding", 1, {64}, "pos_embedding"},
        {0, "blocks.1.self_attn.k.weight", 2, {8, 32}, "blocks.1.self_attn.k.weight"},
        {1, "blocks.0.pos_embedding.embedding.weight", 2, {2, 32}, "pos_embedding.embedding.weight"},
        {1, "token_embedding.weight", 2, {8, 498}, "token_embedding.weight"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        tiny_tensor *t = tiny_find(file_of_model(table[i].file), table[i].tensor), before = *t;
        t->rank = table[i].rank;
        memcpy(t->shape, table[i].shape, sizeof table[i].shape);
        save(table[i].file);
        *t = before;
        expect(table[i].tensor, SC_EINVAL, file_name[table[i].file], table[i].word);
        save(table[i].file);
    }
}

/* ---- whole files -------------------------------------------------------------------------------------------------------- */

static void a_broken_weight_file_is_refused_with_its_path(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        const char *path = tiny_path(file_name[i]);
        char keep[192];
        size_t n;
        unsigned char *whole = tiny_read(path, &n), *b = malloc(n + 8);
        char *at;

        assert_non_null(b);
        snprintf(keep, sizeof keep, "%s", path);
        unlink(keep);
        expect("missing", SC_EIO, keep, "No such file");
        assert_int_equal(mkdir(keep, 0700), 0);
        expect("a folder", SC_EIO, keep, "a directory");
        rmdir(keep);
        for (size_t cut = 1; cut < n; cut = cut * 2 + 5) {
            tiny_write(keep, whole, n - cut);
            expect("cut", SC_EINVAL, keep, NULL);
        }
        tiny_write(keep, whole, 0);
        expect("empty", SC_EINVAL, keep, "0 bytes");
        memcpy(b, whole, n);
        memcpy(b + n, "surplus", 7);
        tiny_write(keep, b, n + 7);
        expect("longer", SC_EINVAL, keep, "7 bytes after the last tensor");
        memset(b, 0xff, 8);
        tiny_write(keep, b, n);
        expect("header length", SC_EINVAL, keep, "header length 18446744073709551615");
        memcpy(b, whole, n);
        b[8] = '[';
        tiny_write(keep, b, n);
        expect("no object", SC_EINVAL, keep, "no JSON object");
        memcpy(b, whole, n);
        at = strstr((char *)b + 8, "\"data_offsets\":[0,");
        assert_non_null(at);
        at[16] = '9'; /* the first tensor begins at 9: its span is wrong */
        tiny_write(keep, b, n);
        expect("span", SC_EINVAL, keep, "span");
        memcpy(b, whole, n);
        at = strstr((char *)b + 8, "\"shape\":[");
        assert_non_null(at);
        at[9] = '-';
        tiny_write(keep, b, n);
        expect("negative dimension", SC_EINVAL, keep, NULL);
        tiny_write(keep, model->config, strlen(model->config));
        expect("a config in its place", SC_EINVAL, keep, "header length");
        tiny_write(keep, whole, n);
        free(whole);
        free(b);
    }
}

static void two_tensors_in_one_place_are_refused(void **state) {
    size_t n;
    char *b = tiny_read(tiny_path("text.safetensors"), &n), *one, *two;

    (void)state;
    /* norm1 and norm2 of a layer have the same size: both get the offsets of one */
    one = strstr(b + 8, "\"blocks.0.norm1.weight\"");
    two = strstr(b + 8, "\"blocks.0.norm2.weight\"");
    assert_true(one && two);
    memcpy(strstr(two, "data_offsets"), strstr(one, "data_offsets"), strcspn(strstr(one, "data_offsets"), "]"));
    tiny_write(tiny_path("text.safetensors"), b, n);
    expect("overlap", SC_EINVAL, "text.safetensors", "overlaps blocks.0.norm1.weight");
    free(b);
    save(1);
}

static void a_broken_tokenizer_is_refused_with_its_path(void **state) {
    size_t n;
    char path[192], *whole;

    (void)state;
    snprintf(path, sizeof path, "%s", tiny_path("spiece.model"));
    whole = tiny_read(path, &n);
    unlink(path);
    expect("missing", SC_EIO, path, "No such file");
    tiny_write(path, "", 0);
    expect("empty", SC_EINVAL, path, "0 bytes");
    tiny_write(path, "no model at all", 15);
    expect("text", SC_EINVAL, path, NULL);
    tiny_write(path, whole, n / 2);
    expect("half", SC_EINVAL, path, NULL);
    tiny_write(path, whole, n);
    free(whole);
    expect("whole", SC_OK, "", NULL);
}

/* ---- config.json against the weights ------------------------------------------------------------------------------------ */

static void write_edited(const char *from, const char *to) {
    const char *at = strstr(model->config, from);
    char text[sizeof model->config + 256];
    if (!at) fail_msg("the config lacks %s", from);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - model->config), model->config, to, at + strlen(from));
    tiny_write(tiny_path("config.json"), text, strlen(text));
}

static void a_config_that_does_not_fit_is_refused(void **state) {
    static const struct { const char *from, *to, *word1, *word2; } table[] = {
        {"\"layers\": 2, \"text_dim\"", "\"layers\": 3, \"text_dim\"", "dit.safetensors", "blocks.2.self_attn.q.weight"},
        {"\"dim\": 16, \"heads\": 2, \"head_dim\": 8", "\"dim\": 32, \"heads\": 4, \"head_dim\": 8", "dit.safetensors", "patch_embedding.weight"},
        {"\"ffn_dim\": 24", "\"ffn_dim\": 23", "dit.safetensors", "blocks.0.ffn.0.weight"},
        {"\"freq_dim\": 8", "\"freq_dim\": 10", "dit.safetensors", "time_embedding.0.weight"},
        {"\"text_dim\": 8", "\"text_dim\": 9", "config.json", "dit.text_dim"},
        {"\"in_ch\": 4", "\"in_ch\": 5", "config.json", "in_ch"},
        {"\"vocab\": 498", "\"vocab\": 497", "spiece.model", "498 pieces, but t5.vocab in config.json is 497"},
        {"\"vocab\": 498", "\"vocab\": 499", "text.safetensors", "token_embedding.weight"},
        {"\"dim_attn\": 8", "\"dim_attn\": 6", "text.safetensors", "attn.q.weight"},
        {"\"buckets\": 32", "\"buckets\": 16", "text.safetensors", "pos_embedding.embedding.weight"},
        {"\"layers\": 2, \"buckets\"", "\"layers\": 9, \"buckets\"", "text.safetensors", "blocks.2.attn.q.weight"},
        {"\"patch\": 2, \"file\"", "\"patch\": 1, \"file\"", "tae.safetensors", "decoder.22.weight: 12 output channels"},
        {"\"latent_hw\": [4, 4]", "\"latent_hw\": [4, 8]", "dit.safetensors", "pos_embedding: 4 rows, a latent frame has 8 tokens"},
        {"\"latent_hw\": [4, 4]", "\"latent_hw\": [5, 4]", "config.json", "latent_hw"},
        {"dit.safetensors", "text.safetensors", "text.safetensors", "patch_embedding.weight"},
        {"\"dit.safetensors\"", "\"dit.safetensors\", \"dit.safetensors\"", "config.json", "comes twice"},
        {"\"dit.safetensors\"", "\"dit.safetensors\", \"tae.safetensors\", \"none.safetensors\"", "none.safetensors", "No such file"},
        {"\"tae.safetensors\"", "\"text.safetensors\"", "text.safetensors", "decoder.1.weight"},
        {"\"spiece.model\"", "\"tae.safetensors\"", "tokenizer", "tae.safetensors"},
        {"\"dit.safetensors\"", "\"../dit.safetensors\"", "config.json", "dit.files"},
        {"\"eps\": 1e-06", "\"eps\": NaN", "config.json", "a value is expected"},
        {"\"eps\": 1e-06", "\"eps\": -1e-06", "config.json", "dit.eps"},
        {"\"eps\": 1e-06", "\"eps\": 1e999", "config.json", "dit.eps"},
        {"\"keep_ratio\": 0.5", "\"keep_ratio\": nan", "config.json", "a value is expected"},
        {"\"keep_ratio\": 0.5", "\"keep_ratio\": 1.5", "config.json", "memory.keep_ratio"},
        {"\"window_chunks\": 3", "\"window_chunks\": 0", "config.json", "memory.window_chunks"},
        {"\"window_chunks\": 3", "\"window_chunks\": 99999999999", "config.json", "memory.window_chunks"},
        {"\"tile\": [3, 2, 1]", "\"tile\": [3, 3, 1]", "config.json", "memory.tile"},
        {"\"chunk_frames\": 3", "\"chunk_frames\": 2", "config.json", "memory.tile"},
        {"[1000, 500]", "[500, 1000]", "config.json", "steps"},
        {"\"steps\": [1000, 500], ", "", "config.json", "sampler.steps: missing"},
        {"\"kind\": \"taehv\", \"dec\": [6, 4, 4, 4]", "\"kind\": \"taehw\", \"dec\": [6, 4, 4, 4]", "config.json", "decoder.kind"},
        {"{\"format\"", "{\"formal\"", "config.json", NULL},
        {"}}\n", "}", "config.json", "line"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        write_edited(table[i].from, table[i].to);
        expect(table[i].to, strstr(table[i].to, "none.safetensors") ? SC_EIO : SC_EINVAL, table[i].word1, table[i].word2);
    }
    unlink(tiny_path("config.json"));
    expect("no config", SC_EIO, "config.json", "No such file");
    tiny_write(tiny_path("config.json"), model->config, strlen(model->config));
    expect("good again", SC_OK, "", NULL);
}

static void the_error_of_several_shards_names_them(void **state) {
    tiny_tensor *t = tiny_find(&model->dit, "head.head.bias");
    (void)state;
    t->shape[0]--;
    save(0);
    t->shape[0]++;
    write_edited("\"files\": [\"dit.safetensors\"]", "\"files\": [\"dit.safetensors\", \"tae.safetensors\"]");
    expect("two shards", SC_EINVAL, "dit.safetensors .. tae.safetensors", "head.head.bias");
    tiny_write(tiny_path("config.json"), model->config, strlen(model->config));
    save(0);
}

static void sizes_that_overflow_together_are_refused(void **state) {
    tiny_shape s = tiny_default;
    tiny_model *m;
    sc_engine *e = NULL;
    sc_error err = {0};

    (void)state;
    s.latent_h = s.latent_w = 32; /* 4 blocks a frame */
    s.window_frames = 1000000;
    m = tiny_build(&s);
    tiny_save(m);
    tiny_free(m);
    assert_int_equal(sc_engine_open(&e, &(sc_engine_options){.model_dir = tiny_dir, .max_sessions = 256}, &err), SC_EINVAL);
    if (!strstr(err.text, "config.json: memory: 4000000 blocks of 2 layers and 2 heads for 256 sessions")) fail_msg("%s", err.text);
    assert_null(e);
    tiny_save(model);
}

static void options_that_cannot_be_are_refused(void **state) {
    static const struct { const char *device, *memory, *word; } table[] = {
        {"gpu", NULL, "gpu"}, {"", NULL, ""}, {NULL, "sparse", "memory sparse"}, {NULL, "", "memory "}};
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        sc_engine *e = NULL;
        sc_error err = {0};
        assert_int_equal(sc_engine_open(&e, &(sc_engine_options){.model_dir = tiny_dir, .device = table[i].device, .memory = table[i].memory}, &err), SC_EINVAL);
        if (!strstr(err.text, table[i].word)) fail_msg("%s", err.text);
        assert_null(e);
    }
    sc_engine *e = NULL;
    sc_error err = {0};
    assert_int_equal(sc_engine_open(&e, &(sc_engine_options){.model_dir = "/nonexistent/model"}, &err), SC_EIO);
    if (!strstr(err.text, "/nonexistent/model/config.json")) fail_msg("%s", err.text);
}

static uint64_t three_chunks(const tiny_shape *s) {
    sc_engine *e = tiny_open(s, "cpu", 1);
    sc_session *x = tiny_session(e, 7, "a red ball");
    const uint64_t h = tiny_play(x, 3, NULL);
    sc_session_destroy(x);
    sc_engine_close(e);
    return h;
}

static void a_header_of_odd_length_changes_nothing(void **state) {
    (void)state;
    for (int f16 = 0; f16 < 2; f16++) {
        tiny_shape s = tiny_default;
        s.f16 = f16;
        const uint64_t want = three_chunks(&s);
        s.odd_header = true;
        assert_true(three_chunks(&s) == want);
    }
    tiny_save(model);
}

static void at_least_250_broken_models_were_tried(void **state) {
    (void)state;
    assert_in_range(cases, 250, 100000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_tensor_is_named_with_its_file),
        cmocka_unit_test(a_misshapen_tensor_is_refused_with_its_file),
        cmocka_unit_test(a_tensor_of_the_wrong_type_is_refused_with_its_name),
        cmocka_unit_test(shapes_that_fit_each_other_but_not_the_model_are_refused),
        cmocka_unit_test(a_broken_weight_file_is_refused_with_its_path),
        cmocka_unit_test(two_tensors_in_one_place_are_refused),
        cmocka_unit_test(a_broken_tokenizer_is_refused_with_its_path),
        cmocka_unit_test(a_config_that_does_not_fit_is_refused),
        cmocka_unit_test(the_error_of_several_shards_names_them),
        cmocka_unit_test(sizes_that_overflow_together_are_refused),
        cmocka_unit_test(options_that_cannot_be_are_refused),
        cmocka_unit_test(a_header_of_odd_length_changes_nothing),
        cmocka_unit_test(at_least_250_broken_models_were_tried),
    };
    return cmocka_run_group_tests(tests, good_model, remove_model);
}

/* test_engine_weights.c - how weights get to where they belong: progress, weights of bf16, a text encoder on a device of its own, and that
 * the pages of what has been taken over leave the process. */
#include "tests/unit/engine_model.h"

/* ---- progress ------------------------------------------------------------------------------------------------------------- */

struct told {
    size_t last, all, calls;
    char parts[128];
    const char *what;
};

static void tell(void *ctx, const char *what, size_t done, size_t all) {
    struct told *t = ctx;
    assert_true(done >= t->last && done <= all && (!t->calls || all == t->all));
    if (!t->what || strcmp(t->what, what)) {
        strcat(t->parts, what);
        strcat(t->parts, "|");
    }
    t->what = what;
    t->last = done;
    t->all = all;
    t->calls++;
}

static void progress_rises_to_all_bytes_part_by_part(void **state) {
    struct told t = {0};
    sc_model_info info;
    sc_engine *e;
    tiny_model *m = tiny_build(&tiny_default);
    (void)state;
    tiny_save(m);
    assert_int_equal(sc_engine_open(&e, &(sc_engine_options){.model_dir = tiny_dir, .threads = 1, .progress = tell, .progress_ctx = &t}, NULL), SC_OK);
    sc_engine_describe(e, &info);
    assert_string_equal(t.parts, "transformer|text encoder|decoder|ready|");
    assert_true(t.last == t.all && t.all == info.weight_bytes);
    assert_true(t.calls >= (size_t)(m->dit.count + m->text.count + m->decoder.count)); /* every tensor, and the ends of the parts */
    sc_engine_close(e);
    tiny_free(m);
}

static void a_load_that_fails_has_said_how_far_it_came(void **state) {
    struct told t = {0};
    sc_error err = {0};
    sc_engine *e;
    tiny_model *m = tiny_build(&tiny_default);
    (void)state;
    free(m->decoder.t[--m->decoder.count].data); /* its last tensor is missing */
    tiny_save(m);
    assert_int_equal(sc_engine_open(&e, &(sc_engine_options){.model_dir = tiny_dir, .threads = 1, .progress = tell, .progress_ctx = &t}, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "tae.safetensors"));
    assert_string_equal(t.parts, "transformer|text encoder|decoder|");
    assert_true(t.last > 0 && t.last < t.all);
    tiny_free(m);
}

/* ---- bf16 ----------------------------------------------------------------------------------------------------------------- */

static void set_type(tiny_file *f, const char *dtype) {
    for (int i = 0; i < f->count; i++) {
        f->t[i].dtype = dtype;
        for (size_t k = 0; k < f->t[i].count; k++) memset(&f->t[i].data[k], 0, 2); /* values that bf16 holds exactly */
    }
}

static uint64_t three_chunks_of(tiny_model *m, const char *dtype, bool odd) {
    sc_engine *e;
    tiny_file *files[] = {&m->dit, &m->text, &m->decoder};
    for (int i = 0; i < 3; i++) {
        set_type(files[i], dtype);
        files[i]->odd = odd;
    }
    tiny_save(m);
    assert_int_equal(sc_engine_open(&e, &(sc_engine_options){.model_dir = tiny_dir, .threads = 2}, NULL), SC_OK);
    sc_session *x = tiny_session(e, 7, "a red ball");
    const uint64_t h = tiny_play(x, 3, NULL);
    sc_session_destroy(x);
    sc_engine_close(e);
    return h;
}

static void a_model_of_bf16_makes_the_frames_of_the_same_weights_in_f32(void **state) {
    tiny_model *m = tiny_build(&tiny_default);
    (void)state;
    const uint64_t want = three_chunks_of(m, "F32", false);
    assert_true(three_chunks_of(m, "BF16", false) == want);
    assert_true(three_chunks_of(m, "BF16", true) == want); /* used in place at odd addresses */
    tiny_free(m);
}

/* ---- the text encoder's own device ---------------------------------------------------------------------------------------- */

static void a_text_encoder_on_another_device_says_the_same(void **state) {
    static const char words[] = "two yellow birds over the sea";
    static const char *const dtypes[] = {"F32", "BF16"};
    tiny_model *m = tiny_build(&tiny_default);
    (void)state;
    for (int i = 0; i < 2; i++) {
        sc_engine *one, *two;
        sc_prompt *a, *b;
        set_type(&m->text, dtypes[i]);
        tiny_save(m);
        assert_int_equal(sc_engine_open(&one, &(sc_engine_options){.model_dir = tiny_dir, .device = "twin"}, NULL), SC_OK);
        assert_int_equal(sc_engine_open(&two, &(sc_engine_options){.model_dir = tiny_dir, .device = "twin", .text_device = "cpu", .threads = 3}, NULL), SC_OK);
        assert_ptr_equal(one->text_dev, one->dev);
        assert_true(two->text_dev != two->dev && two->text_dev->ops != two->dev->ops);
        assert_int_equal(sc_prompt_get(one, words, sizeof words - 1, &a, NULL), SC_OK);
        assert_int_equal(sc_prompt_get(two, words, sizeof words - 1, &b, NULL), SC_OK);
        assert_true(a->tokens == b->tokens && a->tokens > 3);
        for (size_t k = 0; k < (size_t)a->tokens * TINY_TEXT; k++) assert_true(fabsf(a->emb[k] - b->emb[k]) < 2e-5f);
        sc_prompt_drop(one, a);
        sc_prompt_drop(two, b);
        sc_session *x = tiny_session(two, 3, words);
        tiny_play(x, 2, NULL);
        sc_session_destroy(x);
        sc_engine_close(one);
        sc_engine_close(two);
    }
    tiny_free(m);
}

static void the_models_own_device_named_again_is_one_device(void **state) {
    tiny_model *m = tiny_build(&tiny_default);
    sc_engine *e = NULL;
    sc_error err = {0};
    (void)state;
    tiny_save(m);
    assert_int_equal(sc_engine_open(&e, &(sc_engine_options){.model_dir = tiny_dir, .text_device = "cpu"}, NULL), SC_OK);
    assert_ptr_equal(e->text_dev, e->dev);
    sc_engine_close(e);
    assert_int_equal(sc_engine_open(&e, &(sc_engine_options){.model_dir = tiny_dir, .text_device = "gpu"}, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "device gpu"));
    assert_null(e);
    tiny_free(m);
}

/* ---- pages ---------------------------------------------------------------------------------------------------------------- */

static long mapped_kib(void) { /* resident pages of files; a folder in memory counts as shared memory */
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    long kib = 0, n;
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "RssFile: %ld", &n) == 1 || sscanf(line, "RssShmem: %ld", &n) == 1) kib += n;
    fclose(f);
    return kib;
}

static size_t bytes_seen;
static void see(void *ctx, size_t bytes) {
    assert_ptr_equal(ctx, &bytes_seen);
    bytes_seen += bytes;
}

static void used_tensors_leave_the_process_and_can_be_read_again(void **state) {
    enum { ROWS = 2048, COLS = 4096 }; /* 32 MiB */
    static tiny_file f;
    const char *path = tiny_path("big.safetensors");
    sc_tensors *set;
    (void)state;
    tiny_add(&f, false, 0, 1, "a", 1, 3, 0, 0, 0, 0);
    tiny_add(&f, false, 0, 1, "big", 2, ROWS, COLS, 0, 0, 0);
    tiny_add(&f, false, 0, 1, "z", 1, 5, 0, 0, 0, 0);
    tiny_save_file(&f, path);
    assert_int_equal(sc_tensors_open(&set, &path, 1, NULL), SC_OK);
    sc_tensors_watch(set, see, &bytes_seen);
    const sc_tensor *big = sc_tensors_find(set, "big");
    assert_memory_equal(big->data, f.t[1].data, big->bytes);
    const long before = mapped_kib();
    sc_tensors_used(set, big, false);
    assert_true(bytes_seen == big->bytes && mapped_kib() > before - 1024);
    sc_tensors_used(set, sc_tensors_find(set, "a"), true); /* less than a page: nothing to drop */
    sc_tensors_used(set, big, true);
    assert_true(bytes_seen == 2 * big->bytes + 12);
    assert_in_range(before - mapped_kib(), ROWS * COLS * 4 / 1024 - 1024, ROWS * COLS * 4 / 1024 + 1024);
    assert_memory_equal(big->data, f.t[1].data, big->bytes);
    assert_memory_equal(sc_tensors_find(set, "z")->data, f.t[2].data, 20);
    sc_tensors_drop(set);
    assert_true(before - mapped_kib() > ROWS * COLS * 4 / 1024 - 1024);
    assert_memory_equal(sc_tensors_find(set, "a")->data, f.t[0].data, 12);
    sc_tensors_close(set);
    unlink(path);
    for (int i = 0; i < f.count; i++) free(f.t[i].data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(progress_rises_to_all_bytes_part_by_part),
        cmocka_unit_test(a_load_that_fails_has_said_how_far_it_came),
        cmocka_unit_test(a_model_of_bf16_makes_the_frames_of_the_same_weights_in_f32),
        cmocka_unit_test(a_text_encoder_on_another_device_says_the_same),
        cmocka_unit_test(the_models_own_device_named_again_is_one_device),
        cmocka_unit_test(used_tensors_leave_the_process_and_can_be_read_again),
    };
    return cmocka_run_group_tests(tests, NULL, tiny_remove);
}

/* test_import_names.c - the name maps are complete: every tensor of the published models, in every spelling, and no other.
 *
 * Files of true size are made with holes for data (nothing is written, nothing is read), so sizes and counts are those of the
 * published checkpoints. */
#include "import_make.h"
#include "import/import.h"
#include "import/names.h"
#include <fcntl.h>

static char dir[] = "/tmp/sc_names_XXXXXX";
static mk_list list;

static int setup(void **state) {
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    return rmdir(dir);
}

/* A safetensors file whose data is a hole. Returns its size. */
static off_t sparse_file(const char *path, const mk_list *l, const char *prefix, int spelling, sc_dtype type) {
    mk_buf head = {0}, out = {0};
    char line[600];
    uint64_t at = 0;
    mk_text(&head, "{");
    for (int i = 0; i < l->n; i++) {
        const mk_tensor *t = &l->t[i];
        const uint64_t end = at + (uint64_t)mk_count(t) * sc_dtype_bytes(type);
        int n = snprintf(line, sizeof line, "%s\"%s%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", prefix, spelling ? t->other[spelling - 1] : t->wan, mk_word(type));
        for (int k = 0; k < t->rank; k++) n += snprintf(line + n, sizeof line - (size_t)n, "%s%lld", k ? "," : "", (long long)t->shape[k]);
        snprintf(line + n, sizeof line - (size_t)n, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)end);
        mk_text(&head, line);
        at = end;
    }
    mk_text(&head, "}");
    mk_int(&out, head.n, 8);
    mk_bytes(&out, head.b, head.n);
    mk_save(path, &out);
    const off_t size = (off_t)(out.n + at);
    assert_int_equal(truncate(path, size), 0);
    free(head.b);
    free(out.b);
    return size;
}

typedef struct { sc_family family; int count, spellings, layers; int64_t parameters; } known;

static void check(const known *k) {
    sc_name_list names;
    char path[128];
    sc_error err = {0};

    snprintf(path, sizeof path, "%s/x.safetensors", dir);
    assert_int_equal(list.n, k->count);
    if (sc_names_create(&names, k->family, k->layers, &err)) fail_msg("%s", err.text);
    int required = 0;
    for (int i = 0; i < names.count; i++) required += !(names.names[i].flags & SC_NAME_OPTIONAL);
    assert_int_equal(required, k->count);
    assert_int_equal(names.spellings, k->spellings);
    for (int s = 0; s < k->spellings; s++) {
        sc_import_report r;
        for (int i = 0; i < list.n; i++) { /* one entry each, under the same original name */
            const char *spelt = s ? list.t[i].other[s - 1] : list.t[i].wan;
            int hits = 0;
            for (int j = 0; j < names.count; j++)
                if (!strcmp(names.names[j].spelling[s], spelt)) {
                    assert_string_equal(names.names[j].spelling[0], list.t[i].wan);
                    assert_int_equal(names.names[j].rank, list.t[i].rank);
                    hits++;
                }
            if (hits != 1) fail_msg("%s: %d entries", spelt, hits);
        }
        for (int wrapped = 0; wrapped < 2; wrapped++) {
            const off_t size = sparse_file(path, &list, wrapped ? "model._fsdp_wrapped_module." : "", s, SC_BF16);
            if (sc_import_identify(path, &r, &err)) fail_msg("%s", err.text);
            assert_int_equal(r.family, k->family);
            assert_string_equal(r.spelling, sc_spelling_name(k->family, s));
            assert_int_equal(r.expected, k->count);
            assert_int_equal(r.found, k->count);
            if (r.missing_count || r.unexpected_count || r.wrong_count)
                fail_msg("%d missing, %d unexpected, %d wrong: %s%s%s", r.missing_count, r.unexpected_count, r.wrong_count, r.missing[0], r.unexpected[0], r.wrong[0]);
            assert_int_equal(r.parameters, k->parameters);
            assert_true(size > 2 * k->parameters);
        }
    }
    sc_names_free(&names);
    unlink(path);
}

static void the_wan_transformer_has_825_tensors(void **state) {
    (void)state;
    mk_dit(&list, 1536, 8960, 30, 4096, 256, 16);
    check(&(known){SC_FAMILY_DIT, 825, 3, 30, 1418996800});
}

static void the_14b_transformer_has_1095_tensors(void **state) {
    (void)state;
    mk_dit(&list, 5120, 13824, 40, 4096, 256, 16);
    check(&(known){SC_FAMILY_DIT, 1095, 3, 40, 14288491584});
}

static void the_text_encoder_has_242_tensors(void **state) {
    (void)state;
    mk_t5(&list, 256384, 4096, 4096, 10240, 64, 24);
    check(&(known){SC_FAMILY_T5, 242, 2, 24, 5680910336});
}

static void the_wan_vae_has_194_tensors(void **state) {
    int64_t decoder = 0;
    (void)state;
    mk_vae(&list, 96, 16);
    for (int i = 0; i < list.n; i++)
        if (!strncmp(list.t[i].wan, "decoder.", 8)) decoder += mk_count(&list.t[i]);
    assert_int_equal(decoder, 73295331);
    check(&(known){SC_FAMILY_VAE, 194, 2, 0, 126892531});
}

static void taehv_has_128_tensors(void **state) {
    static const int widths[4] = {256, 128, 64, 64};
    (void)state;
    mk_tae(&list, widths, 64, 16, 3);
    check(&(known){SC_FAMILY_TAE, 128, 1, 0, 11315539});
}

static void the_pocket_model_is_known_with_its_positions(void **state) {
    sc_import_report r;
    sc_error err = {0};
    (void)state;
    if (sc_import_identify(SC_SOURCE_DIR "/models/pocket/dit-00001-of-00002.safetensors", &r, &err)) fail_msg("%s", err.text);
    assert_int_equal(r.family, SC_FAMILY_DIT);
    assert_int_equal(r.found, r.expected);
    assert_int_equal(r.missing_count + r.unexpected_count + r.wrong_count, 0);
    if (sc_import_identify(SC_SOURCE_DIR "/models/pocket/text_encoder.safetensors", &r, &err)) fail_msg("%s", err.text);
    assert_int_equal(r.family, SC_FAMILY_T5);
    assert_int_equal(r.missing_count + r.unexpected_count + r.wrong_count, 0);
    if (sc_import_identify(SC_SOURCE_DIR "/models/pocket/tae.safetensors", &r, &err)) fail_msg("%s", err.text);
    assert_int_equal(r.family, SC_FAMILY_TAE);
    assert_int_equal(r.missing_count + r.wrong_count, 0);
}

static void names_are_stripped_of_wrapping(void **state) {
    static const char *const cases[][2] = {
        {"model.blocks.0.norm3.bias", "blocks.0.norm3.bias"},
        {"model.diffusion_model.head.head.bias", "head.head.bias"},
        {"model._fsdp_wrapped_module.blocks.3._fsdp_wrapped_module.ffn.0.bias", "blocks.3.ffn.0.bias"},
        {"_orig_mod.module.blocks.3._checkpoint_wrapped_module.ffn.0.bias", "blocks.3.ffn.0.bias"},
        {"base_model.model.model.blocks.0.self_attn.q.lora_A.weight", "blocks.0.self_attn.q.lora_A.weight"},
        {"taehv.decoder.1.bias", "decoder.1.bias"},
        {"model.", "model."},
        {"remodel.x", "remodel.x"},
        {"", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[SC_NAME_ROOM];
        sc_name_strip(out, cases[i][0]);
        assert_string_equal(out, cases[i][1]);
    }
}

static void distances_of_names_are_edit_distances(void **state) {
    (void)state;
    assert_int_equal(sc_name_distance("kitten", "sitting", 100), 3);
    assert_int_equal(sc_name_distance("", "abc", 100), 3);
    assert_int_equal(sc_name_distance("same", "same", 100), 0);
    assert_int_equal(sc_name_distance("kitten", "sitting", 3), 3);
    assert_int_equal(sc_name_distance("kitten", "a very long other name", 5), 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_wan_transformer_has_825_tensors),
        cmocka_unit_test(the_14b_transformer_has_1095_tensors),
        cmocka_unit_test(the_text_encoder_has_242_tensors),
        cmocka_unit_test(the_wan_vae_has_194_tensors),
        cmocka_unit_test(taehv_has_128_tensors),
        cmocka_unit_test(the_pocket_model_is_known_with_its_positions),
        cmocka_unit_test(names_are_stripped_of_wrapping),
        cmocka_unit_test(distances_of_names_are_edit_distances),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

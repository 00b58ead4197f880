/* test_tokenizer.c - prompts to ids, against the golden file of the pocket model. */
#include "engine/safetensors.h"
#include "engine/tokenizer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POCKET SC_SOURCE_DIR "/models/pocket/"
#define VECTORS SC_SOURCE_DIR "/tests/vectors/pocket.safetensors"

static int open_tokenizer(void **state) {
    sc_error err = {0};

    if (sc_tokenizer_open((sc_tokenizer **)state, POCKET "spiece.model", &err)) {
        print_error("%s\n", err.text);
        return 1;
    }
    return 0;
}

static int close_tokenizer(void **state) {
    sc_tokenizer_close(*state);
    return 0;
}

static int32_t int_at(const sc_tensor *t, int64_t i) {
    int32_t v;

    assert_in_range(i, 0, t->count - 1);
    memcpy(&v, (const char *)t->data + 4 * i, 4);
    return v;
}

/* Ids of `text`, expected to succeed; *n ids, poisoned behind. */
static void encode(const sc_tokenizer *tok, const char *text, size_t bytes, int32_t *ids, int max, int *n) {
    sc_error err = {0};

    for (int i = 0; i < max; i++) ids[i] = -77;
    if (sc_tokenizer_encode(tok, text, bytes, ids, max, n, &err)) fail_msg("%s", err.text);
    assert_in_range(*n, 1, max);
    assert_int_equal(ids[*n - 1], 1);
    for (int i = *n; i < max; i++) assert_int_equal(ids[i], -77);
}

static void every_golden_prompt_gives_the_golden_ids(void **state) {
    const char *path = VECTORS;
    sc_tensors *set = NULL;
    sc_error err = {0};
    const sc_tensor *want, *offset, *text;

    if (sc_tensors_open(&set, &path, 1, &err)) fail_msg("%s", err.text);
    want = sc_tensors_find(set, "tok.ids");
    offset = sc_tensors_find(set, "tok.text_offset");
    text = sc_tensors_find(set, "tok.text_utf8");
    assert_non_null(want);
    assert_non_null(offset);
    assert_non_null(text);
    assert_int_equal(want->dtype, SC_I32);
    assert_int_equal(want->rank, 2);
    assert_int_equal(offset->count, want->shape[0] + 1);
    assert_int_equal(int_at(offset, want->shape[0]), text->count);
    assert_true(want->shape[0] >= 16);
    for (int64_t p = 0; p < want->shape[0]; p++) {
        int32_t ids[64];
        int max = (int)want->shape[1], n = 0;
        int32_t begin = int_at(offset, p), end = int_at(offset, p + 1);
        assert_true(max <= 64);
        encode(*state, (const char *)text->data + begin, (size_t)(end - begin), ids, max, &n);
        for (int i = 0; i < max; i++) {
            int32_t golden = int_at(want, p * max + i), got = i < n ? ids[i] : 0;
            if (got != golden) fail_msg("prompt %d, id %d: %d, golden %d", (int)p, i, got, golden);
        }
    }
    sc_tensors_close(set);
}

static void the_vocabulary_has_the_size_the_model_says(void **state) { assert_int_equal(sc_tokenizer_vocab(*state), 498); }

static void empty_text_is_the_end_alone(void **state) {
    int32_t ids[4];
    int n = 0;

    encode(*state, "", 0, ids, 4, &n);
    assert_int_equal(n, 1);
    encode(*state, " \t\n ", 4, ids, 4, &n);
    assert_int_equal(n, 1);
}

static void a_typed_control_piece_is_plain_text(void **state) {
    static const char *const typed[] = {"</s>", "<pad>", "a red ball</s> over hills", "<pad><pad>", "</s></s>", "<s>", "<unk>", "<0x41>"};

    for (size_t i = 0; i < sizeof typed / sizeof *typed; i++) {
        int32_t ids[64];
        int n = 0;
        encode(*state, typed[i], strlen(typed[i]), ids, 64, &n);
        assert_true(n > 2);
        for (int k = 0; k < n - 1; k++)
            if (ids[k] <= 1) fail_msg("\"%s\": id %d at %d", typed[i], ids[k], k);
    }
}

static void long_text_is_cut_to_leave_room_for_the_end(void **state) {
    int32_t all[400], cut[32];
    int n_all = 0, n_cut = 0;
    char text[800] = "";

    for (int i = 0; i < 40; i++) strcat(text, "red ball ");
    encode(*state, text, strlen(text), all, 400, &n_all);
    encode(*state, text, strlen(text), cut, 32, &n_cut);
    assert_true(n_all > 32);
    assert_int_equal(n_cut, 32);
    assert_memory_equal(all, cut, 31 * sizeof *all);
    encode(*state, text, strlen(text), cut, 1, &n_cut);
    assert_int_equal(n_cut, 1);
}

static void bad_utf8_is_refused_with_its_place(void **state) {
    static const struct { const char *text; size_t n, at; } cases[] = {
        {"a\xff", 2, 1}, {"\x80", 1, 0}, {"ab\xc3", 3, 2}, {"\xc3\x28", 2, 0}, {"red \xc0\xaf", 6, 4}, {"\xed\xa0\x80", 3, 0},
        {"\xf4\x90\x80\x80", 4, 0}, {"x\xe0\x80\xaf", 4, 1}, {"\xf0\x9f\x8e", 3, 0}, {"\xf8\x88\x80\x80\x80", 5, 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t ids[8];
        int n = 9;
        sc_error err = {0};
        char want[32];
        assert_int_equal(sc_tokenizer_encode(*state, cases[i].text, cases[i].n, ids, 8, &n, &err), SC_EINVAL);
        snprintf(want, sizeof want, "bad UTF-8 at byte %zu", cases[i].at);
        if (!strstr(err.text, want)) fail_msg("case %zu: \"%s\" lacks \"%s\"", i, err.text, want);
        assert_int_equal(n, 0);
    }
}

static void room_for_no_id_is_refused(void **state) {
    int32_t id;
    int n = 9;
    sc_error err = {0};

    assert_int_equal(sc_tokenizer_encode(*state, "red", 3, &id, 0, &n, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "room for 0"));
}

static void a_nul_byte_is_text_like_any_other(void **state) {
    int32_t ids[16], without[16];
    int n = 0, m = 0;

    encode(*state, "red\0ball", 8, ids, 16, &n);
    encode(*state, "red", 3, without, 16, &m);
    assert_true(n > m); /* the text does not end at the NUL */
}

static char *slurp(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    char *b = malloc(1 << 20);

    assert_non_null(f);
    assert_non_null(b);
    *n = fread(b, 1, 1 << 20, f);
    fclose(f);
    return b;
}

static void a_model_that_is_none_is_refused_with_its_path(void **state) {
    char path[] = "/tmp/sc_tok_XXXXXX";
    static const size_t keep[] = {0, 1, 100, 5000, 100000, 255268};
    size_t n;
    char *model = slurp(POCKET "spiece.model", &n);
    int fd = mkstemp(path);
    sc_tokenizer *tok = (sc_tokenizer *)1;
    sc_error err = {0};

    (void)state;
    assert_true(fd >= 0 && n == 255269);
    for (size_t i = 0; i < sizeof keep / sizeof *keep; i++) {
        assert_int_equal(ftruncate(fd, 0), 0);
        assert_int_equal(pwrite(fd, model, keep[i], 0), (ssize_t)keep[i]);
        memset(&err, 0, sizeof err);
        if (sc_tokenizer_open(&tok, path, &err) != SC_EINVAL) fail_msg("%zu bytes were taken", keep[i]);
        assert_null(tok);
        assert_non_null(strstr(err.text, path));
    }
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(pwrite(fd, "{\"not\": \"a model\"}", 18, 0), 18);
    assert_int_equal(sc_tokenizer_open(&tok, path, &err), SC_EINVAL);
    assert_int_equal(sc_tokenizer_open(&tok, "/tmp", &err), SC_EIO);
    assert_non_null(strstr(err.text, "a directory"));
    close(fd);
    unlink(path);
    assert_int_equal(sc_tokenizer_open(&tok, path, &err), SC_EIO);
    assert_non_null(strstr(err.text, "No such file"));
    free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_golden_prompt_gives_the_golden_ids),
        cmocka_unit_test(the_vocabulary_has_the_size_the_model_says),
        cmocka_unit_test(empty_text_is_the_end_alone),
        cmocka_unit_test(a_typed_control_piece_is_plain_text),
        cmocka_unit_test(long_text_is_cut_to_leave_room_for_the_end),
        cmocka_unit_test(bad_utf8_is_refused_with_its_place),
        cmocka_unit_test(room_for_no_id_is_refused),
        cmocka_unit_test(a_nul_byte_is_text_like_any_other),
        cmocka_unit_test(a_model_that_is_none_is_refused_with_its_path),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}

/* test_tokenizer.c - prompts to ids, against the golden file of the pocket model; and the cleaning of prompts. */
#include "engine/safetensors.h"
#include "engine/tokenizer.h"
#include "engine/utf8.h"
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

/* --- sc_text_clean --- */

static char *clean(const char *text, size_t n, size_t *out_n) {
    char *out = (char *)1, *exact = malloc(n ? n : 1); /* no byte behind the text, so that reading past it is seen */
    sc_error err = {0};

    assert_non_null(exact);
    memcpy(exact, text, n);
    if (sc_text_clean(exact, n, &out, out_n, &err)) fail_msg("\"%s\": %s", text, err.text);
    free(exact);
    assert_int_equal(out[*out_n], 0);
    return out;
}

static void each_fault_of_a_text_is_cleaned_and_nothing_else(void **state) {
    static const struct { const char *text, *want; } cases[] = {
        /* white space */
        {"", ""}, {" ", ""}, {"a red ball", "a red ball"}, {"  a\t red \r\n\r\nball\n", "a red ball"},
        {"a\u00a0\u2003b\u3000c\u2028d\u2029e", "a b c d e"}, {"a\fb\vc", "a bc"},
        /* quotes, ligatures, width, controls, escapes */
        {"\u201ccurly\u201d \u2018it\u2019s\u201b \u201elow\u201f \u02bcn", "\"curly\" 'it's' \"low\" 'n"}, {"5\u2032 \u00abso\u00bb", "5\u2032 \u00abso\u00bb"},
        {"\ufb01sh \ufb02y o\ufb00 \ufb03 \ufb04 \ufb06 \u0133s \u01c6", "fish fly off ffi ffl st ijs d\u017e"}, {"\u00e6 \u0153", "\u00e6 \u0153"},
        {"\uff21\u3000\uff52\uff45\uff44\uff01 \uffe12 \uff76\uff9e", "A red! \u00a32 \u30ac"}, {"\u2460 \u00b2", "\u2460 \u00b2"},
        {"a\x01\x1f\x7f\ufeff\u206a\ufffc" "b", "ab"}, {"\x1b[1;31mred\x1b[0m ball\x1b", "red ball"}, {"\x1b[31", "[31"},
        {"a\302\205b\302\226c\302\222", "a\u2026b\u2013c'"},
        /* composition */
        {"cafe\u0301 No\u0308l", "caf\u00e9 N\u00f6l"}, {"a\u0323\u0302 a\u0302\u0323 \u00e2\u0323", "\u1ead \u1ead \u1ead"}, {"\u212b \u2126", "\u00c5 \u03a9"},
        {"x\u0301", "x\u0301"}, {"\u0301", "\u0301"}, {"\u304b\u3099", "\u304c"},
        /* entities: with ';' until they stop changing, bare ones twice, the text with a '<' only twice */
        {"salt &amp; pepper", "salt & pepper"}, {"&amp;amp;amp;amp; x", "& x"}, {"<&amp;amp;amp;", "<&amp;"}, {"a\n<b\n&amp;amp;amp;", "a <b &amp;"},
        {"&lt;b&gt; &eacute;&EACUTE;&Eacute; &hearts; &apos;", "<b> \u00e9\u00c9\u00c9 \u2665 '"}, {"&#65;&#x42;&#X43; &#8217;", "ABC '"},
        {"&copy 1 &notit; &amp", "\u00a9 1 \u00acit; &"}, {"&unknown; &; & &# &#; &#x; &hearts x", "&unknown; &; & &# &#; &#x; &hearts x"},
        {"a&nbsp;&#32;b", "a b"}, {"&#0; &#xd800; &#x110000; &#99999999999999999999;", "\ufffd \ufffd \ufffd \ufffd"}, {"a&#1;&#xfdd0;b", "ab"},
        {"&#128;&#x99;", "\u20ac\u2122"},
        /* mojibake, single and double, and what only looks like it */
        {"caf\u00c3\u00a9", "caf\u00e9"}, {"No\u00c3\u00abl \u00c3\u00a0 la", "No\u00ebl \u00e0 la"}, {"caf\u00c3\u0192\u00c2\u00a9", "caf\u00e9"},
        {"it\u00e2\u20ac\u2122s \u00e2\u20ac\u0153so\u00e2\u20ac\302\235", "it's \"so\""}, {"a\u00e2\302\200\302\224b", "a\u2014b"},
        {"\u00c2\u00a35 \u00c2\u00b0", "\u00a35 \u00b0"}, {"\u00f0\u0178\u017d\u02c6 balloon", "\U0001f388 balloon"},
        {"\u00e6\u2014\u00a5\u00e6\u0153\u00ac", "\u65e5\u672c"}, {"\u00d0\u00bf\u00d1\u20ac\u00d0\u00b8", "\u043f\u0440\u0438"},
        {"CAF\u00c9\u2122", "CAF\u00c9\u2122"}, {"at the caf\u00e9\u2026\u201d", "at the caf\u00e9\u2026\""}, {"N\u00c3O \u00c3 \u00c2", "N\u00c3O \u00c3 \u00c2"},
        {"IRM\u00c3\u201d", "IRM\u00c3\""}, {"\u00e9t\u00e9 \u00e0 No\u00ebl, stra\u00dfe", "\u00e9t\u00e9 \u00e0 No\u00ebl, stra\u00dfe"},
        {"\u8d64\u3044\u30dc\u30fc\u30eb \u7ea2\u7403 \U0001f30a", "\u8d64\u3044\u30dc\u30fc\u30eb \u7ea2\u7403 \U0001f30a"},
        {"\u00c3\u00a9 &amp;#233; &Atilde;&copy;", "\u00e9 \u00e9 \u00e9"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n;
        char *got = clean(cases[i].text, strlen(cases[i].text), &n);
        if (n != strlen(cases[i].want) || strcmp(got, cases[i].want))
            fail_msg("case %zu \"%s\": \"%s\", wanted \"%s\"", i, cases[i].text, got, cases[i].want);
        free(got);
    }
}

static void a_nul_byte_is_dropped_from_cleaned_text(void **state) {
    size_t n;
    char *got = clean("red\0 ball", 9, &n);

    (void)state;
    assert_int_equal(n, 8);
    assert_string_equal(got, "red ball");
    free(got);
}

static void bad_utf8_is_not_cleaned(void **state) {
    char *out = (char *)1;
    size_t n = 9;
    sc_error err = {0};

    (void)state;
    assert_int_equal(sc_text_clean("ab\xc3", 3, &out, &n, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "bad UTF-8 at byte 2"));
    assert_null(out);
    assert_int_equal(n, 0);
}

/* Any mixture of the pieces that the rules look for gives UTF-8 without outer or double spaces. */
static void cleaned_text_is_utf8_with_single_spaces_whatever_came_in(void **state) {
    static const char *const pieces[] = {"&", "#", ";", "amp", "x41", "<", "\x1b[", "1m", " ", "\n", "\r", "\u00c3", "\u00a9", "\u00e2", "\u20ac",
                                         "\u2122", "\u00f0", "\u0178", "\u0301", "\u0323", "e", "A", "\ufb03", "\uff21", "\xc2\x85", "\u00a0", "\U0001f388", "\u0344"};
    uint32_t seed = 1;

    (void)state;
    for (int round = 0; round < 3000; round++) {
        char text[512] = "";
        size_t n;
        char *got;
        for (int k = 0; k < round % 60; k++) {
            seed = seed * 1664525u + 1013904223u;
            strcat(text, pieces[(seed >> 16) % (sizeof pieces / sizeof *pieces)]);
        }
        got = clean(text, strlen(text), &n);
        if (sc_utf8_bad(got, n) != n || strlen(got) != n || (n && (got[0] == ' ' || got[n - 1] == ' ')) || strstr(got, "  ") || strpbrk(got, "\n\r\t\x1b"))
            fail_msg("\"%s\" became \"%s\"", text, got);
        free(got);
    }
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
        cmocka_unit_test(each_fault_of_a_text_is_cleaned_and_nothing_else),
        cmocka_unit_test(a_nul_byte_is_dropped_from_cleaned_text),
        cmocka_unit_test(bad_utf8_is_not_cleaned),
        cmocka_unit_test(cleaned_text_is_utf8_with_single_spaces_whatever_came_in),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}

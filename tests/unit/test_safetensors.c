/* test_safetensors.c - good files, and files that lie.
 *
 * Each hostile file is made here: header text as written, `data` bytes behind it. A row says which status comes back and which
 * words the message must hold; the path is always among them. */
#include "engine/safetensors.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/sc_st_XXXXXX";
static const char *file_path(const char *name) {
    static char path[4][128];
    static int turn;
    char *p = path[turn++ % 4];

    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static void put_file(const char *path, const void *head, size_t head_n, const void *data, size_t data_n) {
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(head, 1, head_n, f), head_n);
    assert_int_equal(fwrite(data, 1, data_n, f), data_n);
    assert_int_equal(fclose(f), 0);
}

/* A file of header length `claim` (or the true one where SIZE_MAX), header `json` of n bytes, `data` bytes 0, 1, 2, ... */
static const char *make(const char *name, uint64_t claim, const char *json, size_t n, size_t data) {
    const char *path = file_path(name);
    char *b = malloc(8 + n + data);

    assert_non_null(b);
    if (claim == UINT64_MAX) claim = n;
    for (int i = 0; i < 8; i++) b[i] = (char)(claim >> (8 * i));
    memcpy(b + 8, json, n);
    for (size_t i = 0; i < data; i++) b[8 + n + i] = (char)i;
    put_file(path, b, 8 + n, b + 8 + n, data);
    free(b);
    return path;
}

static void expect_failure(const char *what, const char *const *paths, int count, sc_status status, const char *word1, const char *word2) {
    sc_tensors *set = (sc_tensors *)1;
    sc_error err = {0};
    sc_status rc = sc_tensors_open(&set, paths, count, &err);

    if (rc != status) fail_msg("%s: status %s, wanted %s; text \"%s\"", what, sc_status_name(rc), sc_status_name(status), err.text);
    assert_int_equal(err.status, status);
    assert_null(set);
    if (count == 1 && !strstr(err.text, paths[0])) fail_msg("%s: \"%s\" lacks the path", what, err.text);
    if (!strstr(err.text, word1)) fail_msg("%s: \"%s\" lacks \"%s\"", what, err.text, word1);
    if (word2 && !strstr(err.text, word2)) fail_msg("%s: \"%s\" lacks \"%s\"", what, err.text, word2);
}

#define T(name, dtype, shape, begin, end) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"
#define GOOD "{" T("a", "F32", "[2,2]", 0, 16) "," T("b", "F16", "[4]", 16, 24) "}"

static void a_lying_header_is_refused_with_its_name_and_number(void **state) {
    static const struct { const char *what, *json; size_t data; const char *word1, *word2; } cases[] = {
        /* JSON */
        {"empty object, bytes behind", "{}", 4, "4 bytes after the last", NULL},
        {"no object", "[]", 0, "no JSON object", NULL},
        {"bare number", "12", 0, "no JSON object", NULL},
        {"spaces only", "      ", 0, "no JSON object", NULL},
        {"byte order mark", "\xef\xbb\xbf{}", 0, "byte order mark", NULL},
        {"unclosed", "{\"a\":", 0, "line 1, column 6", "ends where a value"},
        {"unclosed string", "{\"a", 0, "ends inside a string", NULL},
        {"trailing comma", "{\"a\":1,}", 0, "a string is expected", NULL},
        {"no colon", "{\"a\" 1}", 0, "':' is expected", NULL},
        {"two objects", "{}{}", 0, "text after the end", "column 3"},
        {"comment", "{/* */}", 0, "a string is expected", NULL},
        {"bad UTF-8 in a name", "{\"a\xff\":1}", 0, "bad UTF-8", "column 4"},
        {"overlong UTF-8", "{\"\xc0\xaf\":1}", 0, "bad UTF-8", NULL},
        {"surrogate in UTF-8", "{\"\xed\xa0\x80\":1}", 0, "bad UTF-8", NULL},
        {"control byte in a name", "{\"a\nb\":1}", 0, "control byte", NULL},
        {"NUL as escape", "{\"a\\u0000b\":1}", 0, "NUL", NULL},
        {"lone surrogate escape", "{\"\\ud800\":1}", 0, "lone surrogate", NULL},
        {"unknown escape", "{\"\\q\":1}", 0, "unknown escape", NULL},
        {"leading zero", "{\"a\":01}", 0, "starts with 0", NULL},
        {"number with a bare point", "{\"a\":1.}", 0, "a digit is expected", NULL},
        {"infinity", "{\"a\":Infinity}", 0, "a value is expected", NULL},
        {"deep nesting", "{\"a\":[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}", 0, "deeper than 16", NULL},
        {"a name twice", "{" T("a", "U8", "[1]", 0, 1) "," T("a", "U8", "[1]", 1, 2) "}", 2, "\"a\" comes twice", NULL},
        {"a name twice, once escaped", "{" T("a", "U8", "[1]", 0, 1) "," T("\\u0061", "U8", "[1]", 1, 2) "}", 2, "\"a\" comes twice", NULL},
        {"dtype twice", "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "\"dtype\" comes twice", NULL},
        /* entries */
        {"entry is a number", "{\"weight\":3}", 0, "weight: the entry is no object", NULL},
        {"no dtype", "{\"weight\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "weight: dtype is missing", NULL},
        {"dtype is a number", "{\"weight\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "weight: dtype is missing or no string", NULL},
        {"unknown dtype", "{" T("weight", "F13", "[1]", 0, 1) "}", 1, "weight", "unknown dtype \"F13\""},
        {"dtype in lower case", "{" T("weight", "f32", "[1]", 0, 4) "}", 4, "weight", "unknown dtype \"f32\""},
        {"no shape", "{\"weight\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "weight: shape is missing", NULL},
        {"shape is a number", "{" T("weight", "U8", "1", 0, 1) "}", 1, "weight: shape is missing or no list", NULL},
        {"negative dimension", "{" T("weight", "U8", "[2,-1]", 0, 1) "}", 1, "weight: shape[1]", "0 or more"},
        {"broken dimension", "{" T("weight", "U8", "[1.5]", 0, 1) "}", 1, "weight: shape[0]", "whole number"},
        {"dimension as string", "{" T("weight", "U8", "[\"1\"]", 0, 1) "}", 1, "weight: shape[0]", "whole number"},
        {"infinite dimension", "{" T("weight", "U8", "[1e999]", 0, 1) "}", 1, "weight: shape[0]", "whole number"},
        {"dimension above 2^53", "{" T("weight", "U8", "[9007199254740994]", 0, 1) "}", 1, "weight: shape[0]", "whole number"},
        {"rank 9", "{" T("weight", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1, "weight", "more than 8 dimensions"},
        {"product overflows", "{" T("weight", "U8", "[4294967296,4294967296]", 0, 1) "}", 1, "weight", "overflows at shape[1]"},
        {"product wraps to a small number", "{" T("weight", "U8", "[4294967296,4294967296,1]", 0, 0) "}", 0, "weight", "overflows"},
        {"bytes overflow", "{" T("weight", "F64", "[4503599627370496,1024]", 0, 8) "}", 8, "weight", "overflow"},
        {"no offsets", "{\"weight\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "weight: data_offsets", NULL},
        {"one offset", "{\"weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "weight: data_offsets", "two whole"},
        {"three offsets", "{\"weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, "weight: data_offsets", "two whole"},
        {"offset as string", "{\"weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[\"0\",1]}}", 1, "weight: data_offsets", "two whole"},
        {"broken offset", "{" T("weight", "U8", "[1]", 0.5, 1) "}", 1, "weight: data_offsets", "two whole"},
        {"negative offset", "{" T("weight", "U8", "[1]", -1, 0) "}", 1, "weight: data_offsets [-1, 0]", "backwards"},
        {"offsets backwards", "{" T("weight", "U8", "[1]", 1, 0) "}", 1, "weight: data_offsets [1, 0]", "backwards"},
        {"past the end", "{" T("weight", "U8", "[2]", 0, 2) "}", 1, "weight: data_offsets [0, 2]", "1 bytes of data"},
        {"far past the end", "{" T("weight", "U8", "[9007199254740992]", 0, 9007199254740992) "}", 1, "weight", "leave the file"},
        {"span too small", "{" T("weight", "F32", "[2,3]", 0, 23) "}", 23, "weight: F32 [2, 3] takes 24 bytes", "span 23"},
        {"span too large", "{" T("weight", "F16", "[3]", 0, 8) "}", 8, "weight: F16 [3] takes 6 bytes", "span 8"},
        {"scalar with no bytes", "{" T("weight", "F32", "[]", 0, 0) "}", 0, "weight: F32 [] takes 4 bytes", "span 0"},
        {"overlap", "{" T("x", "U8", "[4]", 0, 4) "," T("y", "U8", "[4]", 3, 7) "}", 7, "y overlaps x by 1", NULL},
        {"same place", "{" T("x", "U8", "[4]", 0, 4) "," T("y", "U8", "[4]", 0, 4) "}", 4, "y overlaps x by 4", NULL},
        {"one inside the other", "{" T("y", "U8", "[2]", 1, 3) "," T("x", "U8", "[4]", 0, 4) "}", 4, "y overlaps x by 3", NULL},
        {"hole", "{" T("x", "U8", "[4]", 0, 4) "," T("y", "U8", "[4]", 6, 10) "}", 10, "y", "a hole of 2 bytes"},
        {"hole at the start", "{" T("x", "U8", "[4]", 1, 5) "}", 5, "x", "a hole of 1 bytes"},
        {"tail", "{" T("x", "U8", "[4]", 0, 4) "}", 9, "5 bytes after the last", NULL},
        {"metadata is a list", "{\"__metadata__\":[]}", 0, "__metadata__ is no object", NULL},
        {"metadata holds a number", "{\"__metadata__\":{\"k\":1}}", 0, "__metadata__", "\"k\" is no string"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = make("lie", UINT64_MAX, cases[i].json, strlen(cases[i].json), cases[i].data);
        expect_failure(cases[i].what, &path, 1, SC_EINVAL, cases[i].word1, cases[i].word2);
    }
}

static void a_raw_nul_byte_in_the_header_is_refused(void **state) {
    static const char json[] = "{\"a\0b\":1}", after[] = "{}\0";
    const char *path = make("nul", UINT64_MAX, json, sizeof json - 1, 0);

    (void)state;
    expect_failure("NUL in a name", &path, 1, SC_EINVAL, "NUL", NULL);
    path = make("nul", UINT64_MAX, after, 3, 0);
    expect_failure("NUL behind the object", &path, 1, SC_EINVAL, "text after the end", NULL);
}

static void a_header_length_that_cannot_be_is_refused(void **state) {
    static const struct { uint64_t claim; const char *word; } cases[] = {
        {0, "header length 0"}, {1, "header length 1"}, {100000001, "above 100000000"}, {UINT64_MAX - 1, "18446744073709551614"},
        {1ull << 63, "9223372036854775808"}, {UINT64_MAX - 7, "above"}, {1000, "only 4 bytes follow"}, {5, "only 4 bytes follow"},
        {3, "ends inside"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = make("length", cases[i].claim, cases[i].claim == 3 ? "{\"a\"" : "{}  ", 4, 0);
        expect_failure(cases[i].word, &path, 1, SC_EINVAL, cases[i].word, NULL);
    }
}

static void a_file_cut_anywhere_is_refused(void **state) {
    char whole[8 + sizeof GOOD - 1 + 24] = {0};
    size_t n = sizeof whole;
    const char *path = file_path("cut");
    sc_tensors *set = NULL;

    (void)state;
    whole[0] = (char)(sizeof GOOD - 1);
    memcpy(whole + 8, GOOD, sizeof GOOD - 1);
    for (size_t keep = 0; keep < n; keep++) {
        put_file(path, whole, keep, "", 0);
        expect_failure("cut", &path, 1, SC_EINVAL, "", keep < 8 ? "the header length alone takes 8" : keep < n - 24 ? "bytes follow" : "leave the file");
    }
    put_file(path, whole, n, "", 0);
    assert_int_equal(sc_tensors_open(&set, &path, 1, NULL), SC_OK);
    sc_tensors_close(set);
}

static void a_path_that_is_no_file_is_refused(void **state) {
    const char *missing = file_path("nothing_here"), *folder = dir, *fifo = file_path("fifo"), *null = "/dev/null", *empty = "";

    (void)state;
    expect_failure("missing", &missing, 1, SC_EIO, "No such file", NULL);
    expect_failure("directory", &folder, 1, SC_EIO, "a directory", NULL);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    expect_failure("fifo", &fifo, 1, SC_EIO, "a device or pipe", NULL); /* and does not wait for a writer */
    unlink(fifo);
    expect_failure("device", &null, 1, SC_EIO, "a device or pipe", NULL);
    expect_failure("empty name", &empty, 1, SC_EIO, "No such file", NULL);
    expect_failure("no files", &missing, 0, SC_EINVAL, "0 files", NULL);
    expect_failure("fewer than none", &missing, -1, SC_EINVAL, "-1 files", NULL);
    expect_failure("very many files", &missing, 100000, SC_EINVAL, "100000 files", NULL);
}

static void more_tensors_than_the_cap_are_refused(void **state) {
    size_t n = 0, room = 100001 * 64 + 16;
    char *json = malloc(room);
    const char *path;

    (void)state;
    assert_non_null(json);
    n += (size_t)sprintf(json, "{");
    for (int i = 0; i <= 100000; i++)
        n += (size_t)sprintf(json + n, "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", i ? "," : "", i);
    n += (size_t)sprintf(json + n, "}");
    assert_true(n < room);
    path = make("many", UINT64_MAX, json, n, 0);
    expect_failure("100001 tensors", &path, 1, SC_EINVAL, "more than 100000 tensors", NULL);
    unlink(path);
    free(json);
}

static void a_header_of_endless_small_values_is_refused_before_it_grows(void **state) {
    size_t n = 6 * 1000 * 1000;
    char *json = malloc(n);
    const char *path;

    (void)state;
    assert_non_null(json);
    memcpy(json, "{\"a\":[", 6);
    for (size_t i = 6; i < n; i += 2) memcpy(json + i, "1,", 2);
    path = make("wide", UINT64_MAX, json, n, 0);
    expect_failure("3 million values", &path, 1, SC_EINVAL, "too many values", NULL);
    unlink(path);
    free(json);
}

static void shards_may_not_share_a_name(void **state) {
    const char *one = "{" T("a", "U8", "[1]", 0, 1) "," T("b", "U8", "[1]", 1, 2) "}", *two = "{" T("b", "U8", "[1]", 0, 1) "}";
    const char *paths[2] = {make("one", UINT64_MAX, one, strlen(one), 2), make("two", UINT64_MAX, two, strlen(two), 1)};

    (void)state;
    expect_failure("shared name", paths, 2, SC_EINVAL, "both hold a tensor b", "/one");
    expect_failure("shared name", paths, 2, SC_EINVAL, "/two", NULL);
    paths[1] = file_path("missing_shard");
    expect_failure("missing shard", paths, 2, SC_EIO, "missing_shard", NULL);
}

static void shards_open_as_one_set_in_order_of_file_and_offset(void **state) {
    const char *one = "{\"__metadata__\":{\"k\":\"first\",\"only\":\"1\"}," T("z", "F32", "[2]", 4, 12) "," T("b", "I32", "[]", 0, 4) "}";
    const char *two = "{\"__metadata__\":{\"k\":\"second\",\"other\":\"2\"}," T("a", "BF16", "[1,3]", 0, 6) "," T("void", "F32", "[0,7]", 6, 6) "}  ";
    const char *paths[2] = {make("one", UINT64_MAX, one, strlen(one), 12), make("two", UINT64_MAX, two, strlen(two), 6)};
    static const char *const order[] = {"b", "z", "a", "void"};
    sc_tensors *set = NULL;
    const sc_tensor *t;
    sc_error err = {0};

    (void)state;
    if (sc_tensors_open(&set, paths, 2, &err)) fail_msg("%s", err.text);
    assert_int_equal(sc_tensors_count(set), 4);
    for (int i = 0; i < 4; i++) {
        assert_string_equal(sc_tensors_at(set, i)->name, order[i]);
        assert_ptr_equal(sc_tensors_find(set, order[i]), sc_tensors_at(set, i));
    }
    assert_null(sc_tensors_at(set, 4));
    assert_null(sc_tensors_at(set, -1));
    assert_null(sc_tensors_find(set, "zz"));
    assert_null(sc_tensors_find(set, ""));
    assert_null(sc_tensors_find(set, "__metadata__"));
    t = sc_tensors_find(set, "a");
    assert_int_equal(t->dtype, SC_BF16);
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->shape[0], 1);
    assert_int_equal(t->shape[1], 3);
    assert_int_equal(t->count, 3);
    assert_int_equal(t->bytes, 6);
    assert_memory_equal(t->data, "\0\1\2\3\4\5", 6);
    t = sc_tensors_find(set, "b");
    assert_int_equal(t->rank, 0);
    assert_int_equal(t->count, 1);
    t = sc_tensors_find(set, "void");
    assert_int_equal(t->count, 0);
    assert_string_equal(sc_tensors_metadata(set, "k"), "first");
    assert_string_equal(sc_tensors_metadata(set, "only"), "1");
    assert_string_equal(sc_tensors_metadata(set, "other"), "2");
    assert_null(sc_tensors_metadata(set, "K"));
    sc_tensors_close(set);
    sc_tensors_close(NULL);
}

static void an_empty_file_of_tensors_is_fine(void **state) {
    const char *path = make("none", UINT64_MAX, "{}", 2, 0);
    sc_tensors *set = NULL;
    const sc_tensor *t = (const sc_tensor *)1;
    sc_error err = {0};

    (void)state;
    assert_int_equal(sc_tensors_open(&set, &path, 1, NULL), SC_OK);
    assert_int_equal(sc_tensors_count(set), 0);
    assert_int_equal(sc_tensors_need(set, "w", 0, NULL, &t, &err), SC_ENOTFOUND);
    assert_non_null(strstr(err.text, "there are none"));
    assert_null(t);
    sc_tensors_close(set);
}

static void need_says_which_shape_it_has_and_which_was_wanted(void **state) {
    const char *json = "{" T("blocks.0.ffn.weight", "F32", "[2,3]", 0, 24) "," T("ids", "I32", "[1]", 24, 28) "}";
    const char *path = make("need", UINT64_MAX, json, strlen(json), 28);
    static const struct { const char *name; int rank; int64_t shape[3]; sc_status status; const char *word1, *word2; } cases[] = {
        {"blocks.0.ffn.weight", 2, {2, 3, 0}, SC_OK, "", NULL},
        {"blocks.0.ffn.weight", 2, {-1, 3, 0}, SC_OK, "", NULL},
        {"blocks.0.ffn.weight", 2, {3, 2, 0}, SC_EINVAL, "shape [2, 3]", "wanted [3, 2]"},
        {"blocks.0.ffn.weight", 2, {-1, 4, 0}, SC_EINVAL, "shape [2, 3]", "wanted [any, 4]"},
        {"blocks.0.ffn.weight", 3, {2, 3, 1}, SC_EINVAL, "shape [2, 3]", "wanted [2, 3, 1]"},
        {"blocks.0.ffn.weight", 1, {6, 0, 0}, SC_EINVAL, "shape [2, 3]", "wanted [6]"},
        {"blocks.0.ffn.weight", 0, {0, 0, 0}, SC_EINVAL, "shape [2, 3]", "wanted []"},
        {"blocks.0.fnn.weight", 2, {2, 3, 0}, SC_ENOTFOUND, "tensor blocks.0.fnn.weight", "nearest name is blocks.0.ffn.weight"},
        {"id", 1, {1, 0, 0}, SC_ENOTFOUND, "tensor id", "nearest name is ids"},
        {"ids", 1, {1, 0, 0}, SC_EINVAL, "ids: type I32", "wanted F32"},
    };
    sc_tensors *set = NULL;

    (void)state;
    assert_int_equal(sc_tensors_open(&set, &path, 1, NULL), SC_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const sc_tensor *t = (const sc_tensor *)1;
        sc_error err = {0};
        sc_status rc = sc_tensors_need(set, cases[i].name, cases[i].rank, cases[i].shape, &t, &err);
        if (rc != cases[i].status) fail_msg("case %zu: %s \"%s\"", i, sc_status_name(rc), err.text);
        assert_ptr_equal(t, rc ? NULL : sc_tensors_find(set, cases[i].name));
        if (!strstr(err.text, cases[i].word1)) fail_msg("case %zu: \"%s\" lacks \"%s\"", i, err.text, cases[i].word1);
        if (cases[i].word2 && !strstr(err.text, cases[i].word2)) fail_msg("case %zu: \"%s\" lacks \"%s\"", i, err.text, cases[i].word2);
    }
    sc_tensors_close(set);
}

/* Values of three types, one subnormal half among them, at every alignment the header length can give. */
static void floats_are_read_at_any_alignment(void **state) {
    static const float f32[3] = {1.5f, -0.25f, 3e-39f};
    static const uint16_t f16[3] = {0x3c00, 0xc000, 0x0001}, bf16[3] = {0x3f80, 0xc000, 0x7f80};
    static const float want[3][3] = {{1.5f, -0.25f, 3e-39f}, {1, -2, 0x1p-24f}, {1, -2, INFINITY}};
    static const char *const names[3] = {"f", "h", "b"};
    char data[24];

    (void)state;
    memcpy(data, f32, 12);
    memcpy(data + 12, f16, 6);
    memcpy(data + 18, bf16, 6);
    for (int pad = 0; pad < 8; pad++) {
        char head[256] = {0};
        const char *path = file_path("floats");
        sc_tensors *set = NULL;
        sc_error err = {0};
        int n = snprintf(head + 8, sizeof head - 8, "{%s,%s,%s}%*s", T("f", "F32", "[3]", 0, 12), T("h", "F16", "[3]", 12, 18),
                         T("b", "BF16", "[3]", 18, 24), pad, "");
        head[0] = (char)n;
        put_file(path, head, (size_t)n + 8, data, 24);
        if (sc_tensors_open(&set, &path, 1, &err)) fail_msg("pad %d: %s", pad, err.text);
        for (int k = 0; k < 3; k++) {
            float *got = sc_tensor_to_f32(sc_tensors_find(set, names[k]));
            assert_non_null(got);
            assert_memory_equal(got, want[k], sizeof want[k]);
            free(got);
        }
        sc_tensors_close(set);
    }
}

static void integers_do_not_become_floats(void **state) {
    const char *json = "{" T("ids", "I32", "[1]", 0, 4) "}", *path = make("ints", UINT64_MAX, json, strlen(json), 4);
    sc_tensors *set = NULL;

    (void)state;
    assert_int_equal(sc_tensors_open(&set, &path, 1, NULL), SC_OK);
    assert_null(sc_tensor_to_f32(sc_tensors_at(set, 0)));
    sc_tensors_close(set);
}

static void the_pocket_weights_open_and_count_as_published(void **state) {
    static const char *const dit[] = {SC_SOURCE_DIR "/models/pocket/dit-00001-of-00002.safetensors",
                                      SC_SOURCE_DIR "/models/pocket/dit-00002-of-00002.safetensors"};
    static const char *const text[] = {SC_SOURCE_DIR "/models/pocket/text_encoder.safetensors"};
    static const char *const tae[] = {SC_SOURCE_DIR "/models/pocket/tae.safetensors"};
    static const struct { const char *const *paths; int files, tensors; const char *one; } sets[] = {
        {dit, 2, 178, "pos_embedding"}, {text, 1, 32, "token_embedding.weight"}, {tae, 1, 64, "decoder.22.weight"}};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        sc_tensors *set = NULL;
        sc_error err = {0};
        if (sc_tensors_open(&set, sets[i].paths, sets[i].files, &err)) fail_msg("%s", err.text);
        assert_int_equal(sc_tensors_count(set), sets[i].tensors);
        assert_non_null(sc_tensors_find(set, sets[i].one));
        sc_tensors_close(set);
    }
}

static int make_dir(void **state) {
    (void)state;
    return mkdtemp(dir) ? 0 : 1;
}

static int remove_dir(void **state) {
    static const char *const names[] = {"lie", "nul", "length", "cut", "one", "two", "none", "need", "floats", "ints", "many", "wide"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unlink(file_path(names[i]));
    return rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lying_header_is_refused_with_its_name_and_number),
        cmocka_unit_test(a_raw_nul_byte_in_the_header_is_refused),
        cmocka_unit_test(a_header_length_that_cannot_be_is_refused),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(a_path_that_is_no_file_is_refused),
        cmocka_unit_test(more_tensors_than_the_cap_are_refused),
        cmocka_unit_test(a_header_of_endless_small_values_is_refused_before_it_grows),
        cmocka_unit_test(shards_may_not_share_a_name),
        cmocka_unit_test(shards_open_as_one_set_in_order_of_file_and_offset),
        cmocka_unit_test(an_empty_file_of_tensors_is_fine),
        cmocka_unit_test(need_says_which_shape_it_has_and_which_was_wanted),
        cmocka_unit_test(floats_are_read_at_any_alignment),
        cmocka_unit_test(integers_do_not_become_floats),
        cmocka_unit_test(the_pocket_weights_open_and_count_as_published),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}

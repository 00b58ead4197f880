/* test_server_ws_reader.c - frames of clients: what is taken, and with which close code the rest is refused.
 *
 * Every case is read in one piece and byte by byte; the two must say the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/ws_reader.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX = 16384 };
#define M "\x01\x02\x03\x04"                 /* a mask */
#define BIN(s) s, sizeof(s) - 1

struct sample { const char *bytes; size_t n; const char *expected; };

/* "T:text" "P:ping" "O:pong" "C:code" "B:code" one after the other, separated by blanks. Payload bytes are the plain ones xor mask. */
static const struct sample cases[] = {
    {BIN("\x81\x80" M), "T:"},
    {BIN("\x81\x82" M "ig"), "T:he"},
    {BIN("\x01\x81" M "i" "\x80\x81" M "d"), "T:he"},
    {BIN("\x01\x81" M "i" "\x89\x80" M "\x00\x80" M "\x80\x81" M "d"), "P: T:he"},
    {BIN("\x89\x82" M "ig"), "P:he"},
    {BIN("\x8a\x80" M), "O:"},
    {BIN("\x88\x80" M), "C:1005"},
    {BIN("\x88\x82" M "\x02\xea"), "C:1000"},
    {BIN("\x88\x84" M "\x02\xea" "ag"), "C:1000"},
    {BIN("\x88\x82" M "\x0e\xba"), "C:4024"},
    {BIN("\x81\x82" M "ig" "\x81\x82" M "ig"), "T:he T:he"},
    /* no mask */
    {BIN("\x81\x02" "he"), "B:1002 mask"},
    {BIN("\x81\x00"), "B:1002 mask"},
    {BIN("\x88\x00"), "B:1002 mask"},
    {BIN("\x89\x00"), "B:1002 mask"},
    /* bits and opcodes */
    {BIN("\xc1\x80" M), "B:1002 reserved"},
    {BIN("\xa1\x80" M), "B:1002 reserved"},
    {BIN("\x91\x80" M), "B:1002 reserved"},
    {BIN("\x83\x80" M), "B:1002 opcode"},
    {BIN("\x87\x80" M), "B:1002 opcode"},
    {BIN("\x8b\x80" M), "B:1002 opcode"},
    {BIN("\x8f\x80" M), "B:1002 opcode"},
    {BIN("\x82\x80" M), "B:1003 binary"},
    /* order */
    {BIN("\x80\x80" M), "B:1002 continuation"},
    {BIN("\x00\x80" M), "B:1002 continuation"},
    {BIN("\x01\x80" M "\x81\x80" M), "B:1002 inside"},
    {BIN("\x81\x80" M "\x80\x80" M), "T: B:1002 continuation"},
    {BIN("\x09\x80" M), "B:1002 pieces"},
    {BIN("\x08\x80" M), "B:1002 pieces"},
    /* lengths */
    {BIN("\x89\xfe"), "B:1002 too long"},
    {BIN("\x88\xff"), "B:1002 too long"},
    {BIN("\x81\xfe\x00\x05" M), "B:1002 shortest"},
    {BIN("\x81\xff\x00\x00\x00\x00\x00\x00\x01\x00" M), "B:1002 shortest"},
    {BIN("\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00" M), "B:1002 highest"},
    {BIN("\x81\xff\x40\x00\x00\x00\x00\x00\x00\x00" M), "B:1009 longer"},
    {BIN("\x81\xfe\x40\x01" M), "B:1009 longer"},
    /* closing */
    {BIN("\x88\x81" M "\x02"), "B:1002 one byte"},
    {BIN("\x88\x82" M "\x01\x02"), "B:1002 does not exist"},          /* 0 */
    {BIN("\x88\x82" M "\x02\xe5"), "B:1002 does not exist"},          /* 999 */
    {BIN("\x88\x82" M "\x02\xee"), "B:1002 does not exist"},          /* 1004 */
    {BIN("\x88\x82" M "\x02\xef"), "B:1002 does not exist"},          /* 1005 */
    {BIN("\x88\x82" M "\x02\xec"), "B:1002 does not exist"},          /* 1006 */
    {BIN("\x88\x82" M "\x02\xf5"), "B:1002 does not exist"},          /* 1015 */
    {BIN("\x88\x82" M "\x06\xd2"), "B:1002 does not exist"},          /* 2000 */
    {BIN("\x88\x82" M "\x12\x8a"), "B:1002 does not exist"},          /* 5000 */
    {BIN("\x88\x82" M "\xfe\xfd"), "B:1002 does not exist"},          /* 65535 */
    {BIN("\x88\x83" M "\x02\xea" "\xfc"), "B:1007 UTF-8"},
    /* text */
    {BIN("\x81\x81" M "\xfe"), "B:1007 UTF-8"},                        /* ff */
    {BIN("\x81\x82" M "\xc1\xad"), "B:1007 UTF-8"},                    /* c0 af */
    {BIN("\x01\x81" M "\xc2" "\x80\x81" M "\xa5"), "T:\xc3\xa4"},      /* a character in two frames */
};

/* What comes out, as in the table; of a refusal the code and the words. */
static void read_all(const unsigned char *bytes, size_t n, size_t step, char *out, size_t cap) {
    sc_ws_reader r;
    size_t used = 0;
    out[0] = 0;
    sc_ws_reader_init(&r, MAX);
    for (size_t at = 0; at < n; at += step) {
        size_t k = n - at < step ? n - at : step;
        unsigned char *copy = malloc(k);
        memcpy(copy, bytes + at, k);
        const unsigned char *p = copy;
        for (sc_ws_event e; (e = sc_ws_read(&r, &p, copy + k)) != SC_WS_MORE;) {
            const char *blank = used ? " " : "";
            if (e == SC_WS_BAD) used += (size_t)snprintf(out + used, cap - used, "%sB:%d %s", blank, r.code, r.why);
            else if (e == SC_WS_CLOSE) used += (size_t)snprintf(out + used, cap - used, "%sC:%d", blank, r.code);
            else used += (size_t)snprintf(out + used, cap - used, "%s%c:%.*s", blank, "?TPO"[e], (int)r.n, (const char *)r.data);
            if (e == SC_WS_BAD) { free(copy); goto done; }
        }
        assert_ptr_equal(p, copy + k);
        free(copy);
    }
done:
    sc_ws_reader_free(&r);
}

/* `expected` up to a refusal literally; then its code, and its words somewhere behind. */
static void check(size_t i, const char *got, const char *expected) {
    const char *refusal = strstr(expected, "B:");
    size_t n = refusal ? (size_t)(refusal - expected) + 6 : strlen(expected) + 1;
    if (strncmp(got, expected, n) || (refusal && !strstr(got, refusal + 7))) fail_msg("case %zu: \"%s\", not \"%s\"", i, got, expected);
}

static void frames_are_read_strictly(void **state) {
    char whole[512], bytes[512];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct sample *c = &cases[i];
        read_all((const unsigned char *)c->bytes, c->n, c->n, whole, sizeof whole);
        read_all((const unsigned char *)c->bytes, c->n, 1, bytes, sizeof bytes);
        check(i, whole, c->expected);
        assert_string_equal(bytes, whole);
    }
}

static size_t frame(unsigned char *out, unsigned char first, size_t n) {
    size_t at = 0;
    out[at++] = first;
    if (n < 126) out[at++] = (unsigned char)(0x80 | n);
    else {
        out[at++] = 0x80 | 126;
        out[at++] = (unsigned char)(n >> 8);
        out[at++] = (unsigned char)n;
    }
    memset(out + at, 0, 4); /* a mask of zeros */
    memset(out + at + 4, 'a', n);
    return at + 4 + n;
}

static void a_message_of_the_largest_size_is_taken_also_in_pieces(void **state) {
    unsigned char *bytes = malloc(2 * MAX);
    char *out = malloc(2 * MAX);
    (void)state;
    static const size_t splits[] = {0, 1, 125, 126, 8000, MAX - 1, MAX};
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++) {
        size_t n = frame(bytes, 0x01, splits[i]);
        n += frame(bytes + n, 0x80, MAX - splits[i]);
        read_all(bytes, n, 1000, out, 2 * MAX);
        assert_int_equal(strlen(out), MAX + 2);
        n = frame(bytes, 0x01, splits[i]);
        n += frame(bytes + n, 0x80, MAX - splits[i] + 1);
        read_all(bytes, n, 1000, out, 2 * MAX);
        assert_int_equal(strncmp(out, "B:1009", 6), 0);
    }
    free(bytes);
    free(out);
}

static void nothing_is_read_after_a_refusal(void **state) {
    static const unsigned char bytes[] = "\x81\x00\x81\x80" M;
    const unsigned char *p = bytes, *end = bytes + sizeof bytes - 1;
    sc_ws_reader r;
    (void)state;
    sc_ws_reader_init(&r, MAX);
    for (int i = 0; i < 3; i++) assert_int_equal(sc_ws_read(&r, &p, end), SC_WS_BAD);
    assert_ptr_equal(p, bytes + 2);
    sc_ws_reader_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_read_strictly),
        cmocka_unit_test(a_message_of_the_largest_size_is_taken_also_in_pieces),
        cmocka_unit_test(nothing_is_read_after_a_refusal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

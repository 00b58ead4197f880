/* json.c - the strict scanner in front of cJSON.
 *
 * A recursive descent over RFC 8259 with depth at most 16, so its stack is bounded; it allocates nothing. It accepts a subset of what
 * cJSON accepts, in particular no string with a NUL, so the tree that cJSON then builds says what the text says. Duplicate keys
 * are looked for in the tree, where escapes are resolved ("a" and "\u0061" are the same key); keys per object are compared
 * through a sorted array, since a body of 64 KiB can hold ten thousand of them and n^2 would be a way to burn our time. */
#include "proto/json.h"

#include "proto/utf8.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *s;
    size_t n, at;
    int depth;
    sc_json_error *err;
} scanner;

size_t sc_text_bad_utf8(const char *s, size_t n) {
    size_t i = 0, step;

    while (i < n && (step = sc_utf8_step(s + i, n - i))) i += step;
    return i;
}

size_t sc_text_bad_prompt(const char *s, size_t n) {
    size_t i = 0, step;

    while (i < n && (step = sc_utf8_step(s + i, n - i))) {
        unsigned char c = (unsigned char)s[i];
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) break;
        i += step;
    }
    return i;
}

static void locate(sc_json_error *err, const char *s, size_t offset) {
    err->offset = offset;
    err->line = err->column = 1;
    for (size_t i = 0; i < offset; i++) {
        if (s[i] == '\n') {
            err->line++;
            err->column = 1;
        } else err->column++;
    }
}

static bool __attribute__((format(printf, 3, 4))) bad(scanner *x, size_t offset, const char *fmt, ...) {
    va_list ap;

    locate(x->err, x->s, offset);
    va_start(ap, fmt);
    vsnprintf(x->err->text, sizeof x->err->text, fmt, ap);
    va_end(ap);
    return false;
}

/* What stands at the cursor, for messages; two slots are not needed, one message names one place. */
static const char *found(const scanner *x, char out[16]) {
    unsigned char c;

    if (x->at >= x->n) return "the end";
    c = (unsigned char)x->s[x->at];
    if (c > 0x20 && c < 0x7f) snprintf(out, 16, "'%c'", c);
    else snprintf(out, 16, "byte 0x%02x", c);
    return out;
}

static void space(scanner *x) {
    while (x->at < x->n && (x->s[x->at] == ' ' || x->s[x->at] == '\t' || x->s[x->at] == '\n' || x->s[x->at] == '\r')) x->at++;
}

static int peek(const scanner *x) { return x->at < x->n ? (unsigned char)x->s[x->at] : -1; }
static bool digit(int c) { return c >= '0' && c <= '9'; }

static int hex4(const scanner *x, size_t at) {
    int v = 0;

    if (x->n < 4 || at > x->n - 4) return -1;
    for (size_t i = at; i < at + 4; i++) {
        int c = (unsigned char)x->s[i];
        if (digit(c)) v = v * 16 + c - '0';
        else if (c >= 'a' && c <= 'f') v = v * 16 + c - 'a' + 10;
        else if (c >= 'A' && c <= 'F') v = v * 16 + c - 'A' + 10;
        else return -1;
    }
    return v;
}

/* \uXXXX at the backslash: surrogates only as a pair, no NUL. */
static bool unicode_escape(scanner *x) {
    size_t from = x->at;
    int v = hex4(x, x->at + 2), low;

    if (v < 0) return bad(x, from, "\\u needs four hexadecimal digits");
    if (v == 0) return bad(x, from, "\\u0000 is not allowed");
    x->at += 6;
    if (v < 0xd800 || v > 0xdfff) return true;
    low = v <= 0xdbff && peek(x) == '\\' && x->at + 1 < x->n && x->s[x->at + 1] == 'u' ? hex4(x, x->at + 2) : -1;
    if (low < 0xdc00 || low > 0xdfff) return bad(x, from, "half of a surrogate pair");
    x->at += 6;
    return true;
}

static bool string(scanner *x) {
    char f[16];
    size_t from = x->at++;

    for (;;) {
        int c = peek(x);
        if (c < 0) return bad(x, from, "string without end");
        if (c == '"') {
            x->at++;
            return true;
        }
        if (c < 0x20) return bad(x, x->at, "raw control %s in a string, write it as an escape", found(x, f));
        if (c == '\\') {
            int e = x->at + 1 < x->n ? (unsigned char)x->s[x->at + 1] : 0;
            if (e == 'u') {
                if (!unicode_escape(x)) return false;
            } else if (e && strchr("\"\\/bfnrt", e)) x->at += 2;
            else return bad(x, x->at, "unknown escape in a string");
            continue;
        }
        x->at++; /* UTF-8 was checked over the whole text */
    }
}

static bool number(scanner *x) {
    size_t from = x->at;
    char text[64];

    if (peek(x) == '-') x->at++;
    if (!digit(peek(x))) return bad(x, from, "a number needs a digit after '-'");
    if (peek(x) == '0') {
        x->at++;
        if (digit(peek(x))) return bad(x, from, "a number must not begin with 0");
    } else while (digit(peek(x))) x->at++;
    if (peek(x) == '.') {
        x->at++;
        if (!digit(peek(x))) return bad(x, from, "a number needs a digit after '.'");
        while (digit(peek(x))) x->at++;
    }
    if (peek(x) == 'e' || peek(x) == 'E') {
        x->at++;
        if (peek(x) == '+' || peek(x) == '-') x->at++;
        if (!digit(peek(x))) return bad(x, from, "a number needs a digit in its exponent");
        while (digit(peek(x))) x->at++;
    }
    if (x->at - from >= sizeof text) return bad(x, from, "a number of %zu characters is too long", x->at - from);
    memcpy(text, x->s + from, x->at - from);
    text[x->at - from] = 0;
    if (!isfinite(strtod(text, NULL))) return bad(x, from, "a number too large");
    return true;
}

static bool value(scanner *x);

static bool members(scanner *x, char close, bool named) {
    char f[16];

    if (++x->depth > SC_JSON_DEPTH_MAX) return bad(x, x->at, "nested deeper than %d", SC_JSON_DEPTH_MAX);
    x->at++;
    space(x);
    if (peek(x) == close) {
        x->at++;
        x->depth--;
        return true;
    }
    for (;;) {
        if (named) {
            if (peek(x) != '"') return bad(x, x->at, "expected a name in double quotes, found %s", found(x, f));
            if (!string(x)) return false;
            space(x);
            if (peek(x) != ':') return bad(x, x->at, "expected ':' after a name, found %s", found(x, f));
            x->at++;
            space(x);
        }
        if (!value(x)) return false;
        space(x);
        if (peek(x) == close) break;
        if (peek(x) != ',') return bad(x, x->at, "expected ',' or '%c', found %s", close, found(x, f));
        x->at++;
        space(x);
    }
    x->at++;
    x->depth--;
    return true;
}

static bool literal(scanner *x, const char *word) {
    size_t n = strlen(word);
    char f[16];

    if (x->n - x->at < n || memcmp(x->s + x->at, word, n)) return bad(x, x->at, "expected a value, found %s", found(x, f));
    x->at += n;
    return true;
}

static bool value(scanner *x) {
    char f[16];
    int c = peek(x);

    switch (c) {
    case '{': return members(x, '}', true);
    case '[': return members(x, ']', false);
    case '"': return string(x);
    case 't': return literal(x, "true");
    case 'f': return literal(x, "false");
    case 'n': return literal(x, "null");
    }
    if (c == '-' || digit(c)) return number(x);
    return bad(x, x->at, "expected a value, found %s", found(x, f));
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* SC_EINVAL and *twice when some object of the tree has a key twice. */
static sc_status find_duplicate(const cJSON *node, const char **twice) {
    const cJSON *child;
    size_t n = 0, i = 0;
    const char **keys;

    if (!node->child) return SC_OK;
    for (child = node->child; child; child = child->next) {
        sc_status rc = find_duplicate(child, twice);
        if (rc) return rc;
        n++;
    }
    if (!cJSON_IsObject(node) || n < 2) return SC_OK;
    keys = malloc(n * sizeof *keys);
    if (!keys) return SC_ENOMEM;
    for (child = node->child; child; child = child->next) keys[i++] = child->string;
    qsort(keys, n, sizeof *keys, by_text);
    for (i = 1; i < n && !*twice; i++)
        if (!strcmp(keys[i - 1], keys[i])) *twice = keys[i];
    free(keys);
    return *twice ? SC_EINVAL : SC_OK;
}

sc_status sc_json_read(struct cJSON **out, const char *text, size_t n, size_t max_bytes, sc_json_error *err) {
    scanner x = {.s = text, .n = n, .err = err};
    const char *twice = NULL, *nul;
    char f[16], *copy;
    sc_status rc;

    *out = NULL;
    *err = (sc_json_error){.line = 1, .column = 1};
    if (n > max_bytes) {
        err->too_big = true;
        snprintf(err->text, sizeof err->text, "%zu bytes, at most %zu are allowed", n, max_bytes);
        return SC_EINVAL;
    }
    if (n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) return bad(&x, 0, "byte order mark, not allowed in JSON"), SC_EINVAL;
    nul = n ? memchr(text, 0, n) : NULL;
    if (nul) return bad(&x, (size_t)(nul - text), "NUL byte"), SC_EINVAL;
    x.at = sc_text_bad_utf8(text, n);
    if (x.at < n) return bad(&x, x.at, "not UTF-8"), SC_EINVAL;
    x.at = 0;
    space(&x);
    if (!value(&x)) return SC_EINVAL;
    space(&x);
    if (x.at < n) return bad(&x, x.at, "text after the end of the value, found %s", found(&x, f)), SC_EINVAL;

    copy = malloc(n + 1); /* cJSON wants the NUL inside the length when it checks for trailing text */
    if (!copy) goto no_memory;
    memcpy(copy, text, n);
    copy[n] = 0;
    *out = cJSON_ParseWithLengthOpts(copy, n + 1, NULL, 1);
    free(copy);
    if (!*out) goto no_memory; /* the scanner accepted it, so only memory can be missing */
    rc = find_duplicate(*out, &twice);
    if (rc == SC_EINVAL) bad(&x, 0, "the name \"%.64s\" stands twice in one object", twice);
    if (rc) {
        cJSON_Delete(*out);
        *out = NULL;
        if (rc == SC_ENOMEM) goto no_memory;
    }
    return rc;
no_memory:
    snprintf(err->text, sizeof err->text, "out of memory");
    return SC_ENOMEM;
}

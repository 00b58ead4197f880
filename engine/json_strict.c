/* json_strict.c - a grammar check in front of cJSON.
 *
 * cJSON builds good trees but takes more than JSON: 01 and 1., raw control bytes and bad UTF-8 in strings, a byte order mark,
 * any byte below 0x21 as white space, text after the value; it ends strings at \u0000 and keeps keys that come twice. So the
 * text is first walked here by the grammar of RFC 8259, which also gives messages with a place, and only then handed to
 * cJSON. Keys are compared afterwards, in the tree, where "\u0061" and "a" are the same; each object's keys are sorted, so
 * that a header of 100,000 tensors stays quick.
 * Thread: any, no state.   Source: RFC 8259; cJSON 1.7.15. */
#include "engine/json_strict.h"
#include "engine/utf8.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *start, *at, *end;
    size_t values, max_values;
    const char *reason; /* first fault; the place is `at` */
} scanner;

static bool fault(scanner *s, const char *reason) {
    if (!s->reason) s->reason = reason;
    return false;
}

static int peek(const scanner *s) { return s->at < s->end ? (unsigned char)*s->at : -1; }

static void skip_space(scanner *s) {
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r')) s->at++;
}

static bool scan_hex4(scanner *s, unsigned *value) {
    *value = 0;
    for (int i = 0; i < 4; i++) {
        int c = peek(s);
        if (c >= '0' && c <= '9') c -= '0';
        else if ((c | 32) >= 'a' && (c | 32) <= 'f') c = (c | 32) - 'a' + 10;
        else return fault(s, "\\u needs four hex digits");
        *value = *value << 4 | (unsigned)c;
        s->at++;
    }
    return true;
}

static bool scan_escape(scanner *s) {
    unsigned hi, lo;
    int c = peek(s);

    if (c < 0) return fault(s, "the text ends inside a string");
    if (c != 'u') {
        if (!strchr("\"\\/bfnrt", c) || c == 0) return fault(s, "unknown escape in a string");
        s->at++;
        return true;
    }
    s->at++;
    if (!scan_hex4(s, &hi)) return false;
    if (hi == 0) return fault(s, "NUL in a string");
    if (hi >= 0xdc00 && hi <= 0xdfff) return fault(s, "lone surrogate in a string");
    if (hi < 0xd800 || hi > 0xdbff) return true;
    if (s->end - s->at < 2 || s->at[0] != '\\' || s->at[1] != 'u') return fault(s, "lone surrogate in a string");
    s->at += 2;
    if (!scan_hex4(s, &lo)) return false;
    return lo >= 0xdc00 && lo <= 0xdfff ? true : fault(s, "lone surrogate in a string");
}

static bool scan_string(scanner *s) {
    uint32_t cp;

    if (peek(s) != '"') return fault(s, "a string is expected here");
    s->at++;
    for (;;) {
        int c = peek(s), len;
        if (c < 0) return fault(s, "the text ends inside a string");
        if (c == '"') {
            s->at++;
            return true;
        }
        if (c == 0) return fault(s, "NUL in a string");
        if (c < 0x20) return fault(s, "control byte in a string");
        if (c == '\\') {
            s->at++;
            if (!scan_escape(s)) return false;
            continue;
        }
        len = sc_utf8_next(s->at, (size_t)(s->end - s->at), &cp);
        if (!len) return fault(s, "bad UTF-8");
        s->at += len;
    }
}

static bool scan_digits(scanner *s) {
    if (peek(s) < '0' || peek(s) > '9') return fault(s, "a digit is expected here");
    while (peek(s) >= '0' && peek(s) <= '9') s->at++;
    return true;
}

static bool scan_number(scanner *s) {
    const char *first = s->at;

    if (peek(s) == '-') s->at++;
    if (peek(s) == '0') {
        s->at++;
        if (peek(s) >= '0' && peek(s) <= '9') return fault(s, "a number starts with 0");
    } else if (!scan_digits(s)) {
        return false;
    }
    if (peek(s) == '.') {
        s->at++;
        if (!scan_digits(s)) return false;
    }
    if (peek(s) == 'e' || peek(s) == 'E') {
        s->at++;
        if (peek(s) == '+' || peek(s) == '-') s->at++;
        if (!scan_digits(s)) return false;
    }
    if (s->at - first > 60) return fault(s, "a number of more than 60 characters"); /* cJSON reads 63 */
    return true;
}

static bool scan_word(scanner *s, const char *word) {
    size_t n = strlen(word);

    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n)) return fault(s, "a value is expected here");
    s->at += n;
    return true;
}

static bool scan_value(scanner *s, int depth) {
    int c = peek(s), close = c == '{' ? '}' : ']';

    if (++s->values > s->max_values) return fault(s, "too many values");
    switch (c) {
    case -1: return fault(s, "the text ends where a value should be");
    case '"': return scan_string(s);
    case 't': return scan_word(s, "true");
    case 'f': return scan_word(s, "false");
    case 'n': return scan_word(s, "null");
    case '{': case '[': break;
    default: return c == '-' || (c >= '0' && c <= '9') ? scan_number(s) : fault(s, "a value is expected here");
    }
    if (depth >= SC_JSON_DEPTH) return fault(s, "nested deeper than 16");
    s->at++;
    skip_space(s);
    if (peek(s) == close) {
        s->at++;
        return true;
    }
    for (;;) {
        if (close == '}') {
            if (!scan_string(s)) return false;
            skip_space(s);
            if (peek(s) != ':') return fault(s, "':' is expected here");
            s->at++;
            skip_space(s);
        }
        if (!scan_value(s, depth + 1)) return false;
        skip_space(s);
        c = peek(s);
        if (c == -1) return fault(s, "the text ends inside an object or a list");
        s->at++;
        if (c == close) return true;
        if (c != ',') {
            s->at--;
            return fault(s, "',' or the closing bracket is expected here");
        }
        skip_space(s);
    }
}

static int by_key(const void *a, const void *b) {
    return strcmp((*(const cJSON *const *)a)->string, (*(const cJSON *const *)b)->string);
}

/* Depth is bounded by the scan before. */
static sc_status check_keys(const cJSON *node, const char *where, sc_error *err) {
    size_t n = 0, i = 0;
    const cJSON **keys, *child;
    sc_status rc = SC_OK;

    cJSON_ArrayForEach(child, node) {
        n++;
        if (child->child && (rc = check_keys(child, where, err))) return rc;
    }
    if (!cJSON_IsObject(node) || n < 2) return SC_OK;
    keys = malloc(n * sizeof *keys);
    if (!keys) return sc_fail(err, SC_ENOMEM, "%.200s: out of memory for %zu keys", where, n);
    cJSON_ArrayForEach(child, node) keys[i++] = child;
    qsort(keys, n, sizeof *keys, by_key);
    for (i = 1; i < n && !rc; i++)
        if (!strcmp(keys[i - 1]->string, keys[i]->string))
            rc = sc_fail(err, SC_EINVAL, "%.200s: key \"%.120s\" comes twice", where, keys[i]->string);
    free(keys);
    return rc;
}

sc_status sc_json_parse(cJSON **out, const char *text, size_t n, size_t max_values, const char *where, sc_error *err) {
    scanner s = {.start = text, .at = text, .end = text + n, .max_values = max_values};
    cJSON *tree = NULL;
    char *copy = NULL;
    sc_status rc = SC_OK;

    *out = NULL;
    skip_space(&s);
    if (peek(&s) != '{') fault(&s, n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? "byte order mark" : "the text is no JSON object");
    else if (scan_value(&s, 0)) {
        skip_space(&s);
        if (s.at != s.end) fault(&s, "text after the end of the object");
    }
    if (s.reason) {
        size_t line = 1, column = 1;
        for (const char *p = text; p < s.at; p++, column++)
            if (*p == '\n') {
                line++;
                column = 0;
            }
        return sc_fail(err, SC_EINVAL, "%.200s: line %zu, column %zu: %s", where, line, column, s.reason);
    }
    copy = malloc(n + 1);
    if (!copy) return sc_fail(err, SC_ENOMEM, "%.200s: out of memory for %zu bytes of JSON", where, n);
    memcpy(copy, text, n);
    copy[n] = 0;
    tree = cJSON_ParseWithLengthOpts(copy, n + 1, NULL, 1);
    free(copy);
    if (!tree) return sc_fail(err, SC_ENOMEM, "%.200s: out of memory for a JSON tree of %zu values", where, s.values);
    rc = check_keys(tree, where, err);
    if (rc) cJSON_Delete(tree);
    else *out = tree;
    return rc;
}

bool sc_json_int(const cJSON *item, int64_t *value) {
    if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble) || item->valuedouble != floor(item->valuedouble) ||
        fabs(item->valuedouble) > 9007199254740992.0)
        return false;
    *value = (int64_t)item->valuedouble;
    return true;
}

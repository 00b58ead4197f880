/* json_out.c - see json_out.h.
 *
 * One byte of `cap` is always kept for the NUL. `comma` says whether a value came before at this level: opening clears it, closing
 * and every value set it, so no stack is needed. */
#include "proto/json_out.h"

#include "proto/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sc_json_out_init(sc_json_out *o, char *buf, size_t cap) {
    *o = (sc_json_out){.data = buf, .cap = cap, .failed = cap == 0};
    if (cap) buf[0] = 0;
}

void sc_json_out_grow(sc_json_out *o) { *o = (sc_json_out){.grows = true}; }

static void put(sc_json_out *o, const char *s, size_t n) {
    if (o->failed) return;
    if (n >= o->cap - o->used || o->cap == 0) {
        size_t cap = o->cap ? o->cap : 512;
        char *data;

        if (!o->grows) {
            o->failed = true;
            return;
        }
        while (cap - o->used <= n) cap *= 2;
        data = realloc(o->data, cap);
        if (!data) {
            o->failed = true;
            return;
        }
        o->data = data;
        o->cap = cap;
    }
    memcpy(o->data + o->used, s, n);
    o->used += n;
    o->data[o->used] = 0;
}

static void quoted(sc_json_out *o, const char *s, size_t n) {
    size_t i = 0, from = 0;

    put(o, "\"", 1);
    while (i < n) {
        unsigned char c = (unsigned char)s[i];
        size_t step = sc_utf8_step(s + i, n - i);
        char esc[8];

        if (step && c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) {
            i += step;
            continue;
        }
        put(o, s + from, i - from);
        if (!step) put(o, "\xef\xbf\xbd", 3);
        else if (c == '"') put(o, "\\\"", 2);
        else if (c == '\\') put(o, "\\\\", 2);
        else if (c == '\n') put(o, "\\n", 2);
        else if (c == '\t') put(o, "\\t", 2);
        else if (c == '\r') put(o, "\\r", 2);
        else put(o, esc, (size_t)snprintf(esc, sizeof esc, "\\u%04x", c));
        from = ++i;
    }
    put(o, s + from, i - from);
    put(o, "\"", 1);
}

static void begin(sc_json_out *o, const char *name) {
    if (o->comma) put(o, ",", 1);
    o->comma = true;
    if (!name) return;
    quoted(o, name, strlen(name));
    put(o, ":", 1);
}

static void __attribute__((format(printf, 3, 4))) value(sc_json_out *o, const char *name, const char *fmt, ...) {
    char text[48];
    int n;
    va_list ap;

    begin(o, name);
    va_start(ap, fmt);
    n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    put(o, text, (size_t)n);
}

void sc_json_object(sc_json_out *o, const char *name) {
    begin(o, name);
    put(o, "{", 1);
    o->comma = false;
}

void sc_json_end_object(sc_json_out *o) {
    put(o, "}", 1);
    o->comma = true;
}

void sc_json_array(sc_json_out *o, const char *name) {
    begin(o, name);
    put(o, "[", 1);
    o->comma = false;
}

void sc_json_end_array(sc_json_out *o) {
    put(o, "]", 1);
    o->comma = true;
}

void sc_json_text_n(sc_json_out *o, const char *name, const char *s, size_t n) {
    begin(o, name);
    quoted(o, s, n);
}

void sc_json_text(sc_json_out *o, const char *name, const char *s) {
    if (s) sc_json_text_n(o, name, s, strlen(s));
    else sc_json_null(o, name);
}

void sc_json_u64(sc_json_out *o, const char *name, uint64_t v) { value(o, name, "%" PRIu64, v); }
void sc_json_i64(sc_json_out *o, const char *name, int64_t v) { value(o, name, "%" PRId64, v); }
void sc_json_bool(sc_json_out *o, const char *name, bool v) { value(o, name, "%s", v ? "true" : "false"); }
void sc_json_null(sc_json_out *o, const char *name) { value(o, name, "null"); }

void sc_json_number(sc_json_out *o, const char *name, double v) {
    char text[40];
    int digits = 15;

    if (!isfinite(v)) {
        sc_json_null(o, name);
        return;
    }
    do snprintf(text, sizeof text, "%.*g", digits, v);
    while (strtod(text, NULL) != v && ++digits <= 17);
    value(o, name, "%s", text);
}

void sc_json_ms(sc_json_out *o, const char *name, double v) {
    if (isfinite(v) && fabs(v) < 1e15) value(o, name, "%.3f", v + 0.0);
    else sc_json_null(o, name);
}

size_t sc_json_out_size(const sc_json_out *o) { return o->failed ? 0 : o->used; }

char *sc_json_out_take(sc_json_out *o, size_t *n) {
    char *data = o->data;

    if (o->failed) {
        free(data);
        data = NULL;
    }
    if (n) *n = data ? o->used : 0;
    *o = (sc_json_out){.grows = true};
    return data;
}

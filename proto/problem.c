/* problem.c - see problem.h. */
#include "proto/problem.h"

#include "proto/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *sc_problem_title(int status) {
    switch (status) {
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 406: return "Not Acceptable";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 411: return "Length Required";
    case 412: return "Precondition Failed";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 416: return "Range Not Satisfiable";
    case 417: return "Expectation Failed";
    case 421: return "Misdirected Request";
    case 422: return "Unprocessable Content";
    case 426: return "Upgrade Required";
    case 428: return "Precondition Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    case 507: return "Insufficient Storage";
    }
    return "Error";
}

/* vsnprintf that does not leave half a character at the end. */
static void format_text(char *out, size_t cap, const char *fmt, va_list ap) {
    size_t at = 0, step, n;

    vsnprintf(out, cap, fmt, ap);
    n = strlen(out);
    if (n + 1 < cap) return;
    while (at < n && (step = sc_utf8_step(out + at, n - at))) at += step;
    if (n - at < 4) out[at] = 0;
}

void sc_problem_set(sc_problem *p, int status, const char *fmt, ...) {
    va_list ap;

    p->status = status;
    p->instance[0] = 0;
    p->count = p->more = 0;
    va_start(ap, fmt);
    format_text(p->detail, sizeof p->detail, fmt, ap);
    va_end(ap);
}

void sc_problem_add(sc_problem *p, const char *pointer, const char *fmt, ...) {
    sc_field_error *e;
    va_list ap;
    int n;

    if (p->count == SC_PROBLEM_ERRORS_MAX) {
        p->more++;
        return;
    }
    e = &p->errors[p->count++];
    n = snprintf(e->pointer, sizeof e->pointer, "%s", pointer);
    if (n >= (int)sizeof e->pointer) { /* cut between characters */
        size_t at = 0, len = strlen(e->pointer), step;
        while (at < len && (step = sc_utf8_step(e->pointer + at, len - at))) at += step;
        e->pointer[at] = 0;
    }
    va_start(ap, fmt);
    format_text(e->detail, sizeof e->detail, fmt, ap);
    va_end(ap);
    if (p->status) return;
    p->status = 422;
    if (*e->pointer) snprintf(p->detail, sizeof p->detail, "%s: %s", e->pointer + 1, e->detail);
    else snprintf(p->detail, sizeof p->detail, "%s", e->detail);
}

static void write_fields(sc_json_out *o, const sc_problem *p, const char *instance) {
    sc_json_text(o, "type", "about:blank");
    sc_json_text(o, "title", sc_problem_title(p->status));
    sc_json_i64(o, "status", p->status);
    sc_json_text(o, "detail", p->detail);
    if (instance && *instance) sc_json_text(o, "instance", instance);
    if (p->count == 0) return;
    sc_json_array(o, "errors");
    for (int i = 0; i < p->count; i++) {
        sc_json_object(o, NULL);
        sc_json_text(o, "pointer", p->errors[i].pointer);
        sc_json_text(o, "detail", p->errors[i].detail);
        sc_json_end_object(o);
    }
    sc_json_end_array(o);
    if (p->more) sc_json_i64(o, "more_errors", p->more);
}

void sc_problem_write(sc_json_out *o, const char *name, const sc_problem *p) {
    sc_json_object(o, name);
    write_fields(o, p, p->instance);
    sc_json_end_object(o);
}

char *sc_problem_json(const sc_problem *p, const char *instance, size_t *n) {
    sc_json_out o;

    sc_json_out_grow(&o);
    sc_json_object(&o, NULL);
    write_fields(&o, p, instance ? instance : p->instance);
    sc_json_end_object(&o);
    return sc_json_out_take(&o, n);
}

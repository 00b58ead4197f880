/* fields.c - see fields.h.
 *
 * Errors say what was found and what is allowed. What was found is quoted short (40 bytes, cut between characters): enough to
 * recognise, too little to make an answer big. Whole numbers are taken from the double that cJSON read: 60.0 and 6e1 are the
 * whole number 60, as in JSON Schema; beyond 2^53 a double would lie, so such numbers are refused. */
#include "proto/fields.h"

#include "proto/json.h"
#include "proto/utf8.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUOTE_BYTES = 40 };
static const double two_to_53 = 9007199254740992.0;

/* s as a short text without controls. */
static const char *shortened(const char *s, char out[QUOTE_BYTES + 8]) {
    size_t at = 0, n = strlen(s), step;

    while (at < n && (step = sc_utf8_step(s + at, n - at)) && at + step <= QUOTE_BYTES) {
        memcpy(out + at, s + at, step);
        if ((unsigned char)out[at] < 0x20 || out[at] == 0x7f) out[at] = '?';
        at += step;
    }
    strcpy(out + at, at < n ? "..." : "");
    return out;
}

static const char *found(const cJSON *v, char out[96]) {
    char q[QUOTE_BYTES + 8];

    if (cJSON_IsNull(v)) return "null";
    if (cJSON_IsTrue(v)) return "true";
    if (cJSON_IsFalse(v)) return "false";
    if (cJSON_IsArray(v)) return "an array";
    if (cJSON_IsObject(v)) return "an object";
    if (cJSON_IsString(v)) snprintf(out, 96, "the text \"%s\"", shortened(v->valuestring, q));
    else snprintf(out, 96, "%.17g", v->valuedouble);
    return out;
}

/* "/name" with RFC 6901 escapes. */
static const char *pointer_to(const char *name, char out[96]) {
    size_t at = 0;

    out[at++] = '/';
    for (; *name && at < 90; name++) {
        if (*name == '~' || *name == '/') {
            out[at++] = '~';
            out[at++] = *name == '~' ? '0' : '1';
        } else out[at++] = (unsigned char)*name < 0x20 || *name == 0x7f ? '?' : *name;
    }
    out[at] = 0;
    for (size_t i = 0, step; i < at; i += step)
        if (!(step = sc_utf8_step(out + i, at - i))) {
            out[i] = 0;
            break;
        }
    return out;
}

static cJSON *take(cJSON *o, const char *name) { return cJSON_DetachItemFromObjectCaseSensitive(o, name); }

struct cJSON *sc_fields_parse(const char *text, size_t n, size_t max_bytes, const char *what, sc_problem *problem) {
    sc_json_error e;
    cJSON *o = NULL;
    sc_status rc = sc_json_read(&o, text, n, max_bytes, &e);
    char f[96];

    memset(problem, 0, sizeof *problem);
    if (rc == SC_ENOMEM) sc_problem_set(problem, 500, "out of memory while reading the %s", what);
    else if (rc && e.too_big) sc_problem_set(problem, 413, "the %s has %s", what, e.text);
    else if (rc && n == 0) sc_problem_set(problem, 400, "the %s is empty, a JSON object is needed", what);
    else if (rc) sc_problem_set(problem, 400, "the %s is not JSON: line %d, column %d: %s", what, e.line, e.column, e.text);
    else if (!cJSON_IsObject(o)) sc_problem_set(problem, 400, "the %s must be a JSON object, found %s", what, found(o, f));
    else return o;
    cJSON_Delete(o);
    return NULL;
}

bool sc_field_prompt(struct cJSON *o, const char *name, bool required, char out[SC_PROMPT_TEXT_MAX + 1], size_t *bytes, sc_problem *p) {
    cJSON *v = take(o, name);
    char f[96], ptr[96];
    size_t n, bad;
    bool ok = false;

    pointer_to(name, ptr);
    *bytes = 0;
    out[0] = 0;
    if (!v) {
        if (required) sc_problem_add(p, ptr, "is missing: a text of 1 to %d bytes is needed", SC_PROMPT_TEXT_MAX);
        return false;
    }
    if (!cJSON_IsString(v)) {
        sc_problem_add(p, ptr, "must be a text of 1 to %d bytes, found %s", SC_PROMPT_TEXT_MAX, found(v, f));
        goto done;
    }
    n = strlen(v->valuestring);
    bad = sc_text_bad_prompt(v->valuestring, n);
    if (n == 0) sc_problem_add(p, ptr, "must be a text of 1 to %d bytes, found an empty one", SC_PROMPT_TEXT_MAX);
    else if (n > SC_PROMPT_TEXT_MAX) sc_problem_add(p, ptr, "must be a text of 1 to %d bytes, found %zu bytes", SC_PROMPT_TEXT_MAX, n);
    else if (bad < n)
        sc_problem_add(p, ptr, "must not contain control characters other than tab and newline, found 0x%02x at byte %zu",
                       (unsigned)(unsigned char)v->valuestring[bad], bad);
    else {
        memcpy(out, v->valuestring, n + 1);
        *bytes = n;
        ok = true;
    }
done:
    cJSON_Delete(v);
    return ok;
}

bool sc_field_int(struct cJSON *o, const char *name, int64_t min, int64_t max, int64_t *out, sc_problem *p) {
    cJSON *v = take(o, name);
    char f[96], ptr[96];
    bool ok;

    if (!v) return false;
    ok = cJSON_IsNumber(v) && v->valuedouble == floor(v->valuedouble) && v->valuedouble >= (double)min && v->valuedouble <= (double)max;
    if (ok) *out = (int64_t)v->valuedouble;
    else
        sc_problem_add(p, pointer_to(name, ptr), "must be a whole number from %" PRId64 " to %" PRId64 ", found %s", min, max,
                       found(v, f));
    cJSON_Delete(v);
    return ok;
}

bool sc_field_small(struct cJSON *o, const char *name, int min, int max, int *out, sc_problem *p) {
    int64_t v;

    if (!sc_field_int(o, name, min, max, &v, p)) return false;
    *out = (int)v;
    return true;
}

bool sc_field_number(struct cJSON *o, const char *name, double *out, sc_problem *p) {
    cJSON *v = take(o, name);
    char f[96], ptr[96];
    bool ok;

    if (!v) return false;
    ok = cJSON_IsNumber(v) && isfinite(v->valuedouble);
    if (ok) *out = v->valuedouble;
    else sc_problem_add(p, pointer_to(name, ptr), "must be a number, found %s", found(v, f));
    cJSON_Delete(v);
    return ok;
}

bool sc_field_bool(struct cJSON *o, const char *name, bool *out, sc_problem *p) {
    cJSON *v = take(o, name);
    char f[96], ptr[96];
    bool ok;

    if (!v) return false;
    ok = cJSON_IsBool(v);
    if (ok) *out = cJSON_IsTrue(v);
    else sc_problem_add(p, pointer_to(name, ptr), "must be true or false, found %s", found(v, f));
    cJSON_Delete(v);
    return ok;
}

/* Only decimal digits, no sign, no leading zero, up to 2^64 - 1. */
static bool decimal_u64(const char *s, uint64_t *out) {
    uint64_t v = 0;

    if (!*s || (s[0] == '0' && s[1])) return false;
    for (; *s; s++) {
        unsigned d = (unsigned)(unsigned char)*s - '0';
        if (d > 9 || v > (UINT64_MAX - d) / 10) return false;
        v = v * 10 + d;
    }
    *out = v;
    return true;
}

bool sc_field_seed(struct cJSON *o, const char *name, uint64_t *out, sc_problem *p) {
    cJSON *v = take(o, name);
    char f[96], ptr[96];
    bool ok;

    if (!v) return false;
    if (cJSON_IsString(v)) ok = decimal_u64(v->valuestring, out);
    else {
        ok = cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble < two_to_53 && v->valuedouble == floor(v->valuedouble);
        if (ok) *out = (uint64_t)v->valuedouble;
    }
    if (!ok)
        sc_problem_add(p, pointer_to(name, ptr),
                       "must be a whole number from 0 to 9007199254740991 or decimal digits in a text up to "
                       "\"18446744073709551615\", found %s", found(v, f));
    cJSON_Delete(v);
    return ok;
}

bool sc_field_text(struct cJSON *o, const char *name, char *out, size_t cap, sc_problem *p) {
    cJSON *v = take(o, name);
    char f[96], ptr[96];
    size_t n;
    bool ok;

    if (!v) return false;
    n = cJSON_IsString(v) ? strlen(v->valuestring) : 0;
    ok = n > 0 && n < cap && sc_text_bad_prompt(v->valuestring, n) == n;
    if (ok) memcpy(out, v->valuestring, n + 1);
    else if (n >= cap) sc_problem_add(p, pointer_to(name, ptr), "must be a text of 1 to %zu bytes, found %zu bytes", cap - 1, n);
    else
        sc_problem_add(p, pointer_to(name, ptr), "must be a text of 1 to %zu bytes without control characters, found %s", cap - 1,
                       found(v, f));
    cJSON_Delete(v);
    return ok;
}

bool sc_field_word(struct cJSON *o, const char *name, const char *const *words, int count, int *out, sc_problem *p) {
    cJSON *v = take(o, name);
    char f[96], ptr[96], list[128] = "";
    bool ok = false;

    if (!v) return false;
    for (int i = 0; i < count; i++) {
        size_t at = strlen(list);
        snprintf(list + at, sizeof list - at, "%s\"%s\"", i == 0 ? "" : i + 1 < count ? ", " : " or ", words[i]);
        if (cJSON_IsString(v) && !strcmp(v->valuestring, words[i])) {
            *out = i;
            ok = true;
        }
    }
    if (!ok) sc_problem_add(p, pointer_to(name, ptr), "must be %s, found %s", list, found(v, f));
    cJSON_Delete(v);
    return ok;
}

bool sc_field_transition(struct cJSON *o, sc_wire_transition *out, sc_problem *p) {
    const char *words[SC_WIRE_NOT_GIVEN];
    int i;

    for (i = 0; i < SC_WIRE_NOT_GIVEN; i++) words[i] = sc_wire_transition_name((sc_wire_transition)i);
    if (!sc_field_word(o, "transition", words, SC_WIRE_NOT_GIVEN, &i, p)) return false;
    *out = (sc_wire_transition)i;
    return true;
}

void sc_fields_end(struct cJSON *o, const char *allowed, sc_problem *p) {
    char ptr[96], q[QUOTE_BYTES + 8];

    for (const cJSON *v = o->child; v; v = v->next)
        sc_problem_add(p, pointer_to(v->string, ptr), "unknown field \"%s\"; known are %s", shortened(v->string, q), allowed);
}

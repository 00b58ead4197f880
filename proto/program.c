/* program.c - see program.h. */
#include "proto/program.h"

#include "proto/fields.h"
#include "proto/json.h"
#include "proto/json_out.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POINTER = 96 };
static const int64_t CHUNK_MAX = 9007199254740991; /* a double holds it */
static const uint64_t LENGTH_MIN_US = 1000;

/* What *q says of a part of the body is said in *p, of what stands at `prefix`. */
static void adopt(sc_problem *p, const char *prefix, const sc_problem *q) {
    char pointer[POINTER * 2];
    for (int i = 0; i < q->count; i++) {
        snprintf(pointer, sizeof pointer, "%s%s", prefix, q->errors[i].pointer);
        sc_problem_add(p, pointer, "%s", q->errors[i].detail);
    }
    p->more += q->more;
}

/* ---- one entry of a list ---- */

static const cJSON *field(const cJSON *o, const char *name) { return cJSON_GetObjectItemCaseSensitive(o, name); }

static bool seconds(cJSON *o, const char *name, double min, double max, uint64_t *us, sc_problem *p) {
    char pointer[32];
    double s;
    if (!sc_field_number(o, name, &s, p)) return false;
    snprintf(pointer, sizeof pointer, "/%s", name);
    if (!(s >= min && s <= max)) {
        sc_problem_add(p, pointer, "must be a number from %.10g to %.0f, found %.17g", min, max, s);
        return false;
    }
    *us = (uint64_t)llround(s * 1e6);
    return true;
}

/* Its text goes behind those that are there: the caller made room. */
static void append(sc_program *g, sc_program_entry *e, const char *prompt, size_t n) {
    e->text = (uint32_t)g->text_bytes;
    e->bytes = (uint32_t)n;
    memcpy(g->texts + g->text_bytes, prompt, n);
    g->texts[g->text_bytes + n] = 0;
    g->text_bytes += n + 1;
}

/* Of an object; *length is how long it stays, in its unit, 0: not said. What is wrong goes to *q, with pointers that begin with the field. */
static void read_entry(cJSON *o, sc_program *g, sc_program_entry *e, bool may_end, uint64_t *length, sc_problem *q) {
    char prompt[SC_PROMPT_TEXT_MAX + 1];
    size_t bytes;
    int64_t chunk = 0;

    *length = 0;
    e->transition = SC_WIRE_NOT_GIVEN;
    e->timed = field(o, "at_s") != NULL;
    if (e->timed == (field(o, "at_chunk") != NULL))
        sc_problem_add(q, "", e->timed ? "must have one of at_chunk and at_s, found both" : "must have at_chunk or at_s");
    if (sc_field_int(o, "at_chunk", 0, CHUNK_MAX, &chunk, q)) e->at = (uint64_t)chunk;
    seconds(o, "at_s", 0, SC_PROGRAM_AT_S_MAX, &e->at, q);
    if (sc_field_prompt(o, "prompt", true, prompt, &bytes, q)) append(g, e, prompt, bytes);
    sc_field_transition(o, &e->transition, q);
    for (int timed = 0; timed < 2; timed++) {
        const char *name = timed ? "for_s" : "for_chunks", *pointer = timed ? "/for_s" : "/for_chunks";
        if (!field(o, name)) continue;
        if (!may_end) sc_problem_add(q, pointer, "says how long the last prompt of a loop stays; this is %s", g->loop ? "not the last" : "no loop");
        else if (e->timed != timed) sc_problem_add(q, pointer, "must have the unit of %s", e->timed ? "at_s" : "at_chunk");
        if (timed) seconds(o, name, 0.001, SC_PROGRAM_FOR_S_MAX, length, q);
        else if (sc_field_int(o, name, 1, SC_PROGRAM_FOR_CHUNKS_MAX, &chunk, q)) *length = (uint64_t)chunk;
    }
    sc_fields_end(o, g->loop ? "at_chunk, at_s, prompt, transition, for_chunks, for_s" : "at_chunk, at_s, prompt, transition", q);
}

static void read_list(cJSON *list, const char *prefix, sc_program *g, sc_problem *p) {
    char pointer[POINTER];
    uint64_t length = 0;
    int count = cJSON_GetArraySize(list), i = 0;

    if (count > SC_PROGRAM_ENTRIES_MAX) {
        snprintf(pointer, sizeof pointer, "%s/prompts", prefix);
        sc_problem_add(p, pointer, "must have at most %d entries, found %d", SC_PROGRAM_ENTRIES_MAX, count);
        return;
    }
    for (cJSON *o = list->child; o; o = o->next, i++) {
        sc_program_entry *e = &g->entry[i];
        sc_problem q = {0};
        if (cJSON_IsObject(o)) read_entry(o, g, e, g->loop && i == count - 1, &length, &q);
        else sc_problem_add(&q, "", "must be an object with at_chunk or at_s, and prompt");
        if (!q.status && g->loop && e->timed != g->entry[0].timed)
            sc_problem_add(&q, e->timed ? "/at_s" : "/at_chunk", "must have the same unit as the first entry of a loop");
        if (!q.status && g->loop && i == count - 1 && !length)
            sc_problem_add(&q, e->timed ? "/for_s" : "/for_chunks", "is missing: a loop needs to know how long its last prompt stays");
        snprintf(pointer, sizeof pointer, "%s/prompts/%d", prefix, i);
        adopt(p, pointer, &q);
        g->count = i + 1;
    }
    if (p->status || !count) return;
    const sc_program_entry *first = &g->entry[0], *last = &g->entry[count - 1];
    if (g->loop && last->at >= first->at) g->period = last->at - first->at + length; /* falling ones are refused where the stream is known */
    else if (g->loop) g->period = length;
}

/* ---- text ---- */

/* "5" or "2.5" into microseconds; digits behind the sixth are left out. */
static bool read_length(const char *s, size_t n, uint64_t *us) {
    uint64_t whole = 0, part = 0, unit = 1000000;
    size_t i = 0, digits = 0;
    for (; i < n && s[i] >= '0' && s[i] <= '9'; i++, digits++)
        if ((whole = whole * 10 + (uint64_t)(s[i] - '0')) > SC_PROGRAM_FOR_S_MAX) return false;
    if (i < n && s[i] == '.')
        for (i++; i < n && s[i] >= '0' && s[i] <= '9'; i++, digits++)
            if (unit > 1) part += (uint64_t)(s[i] - '0') * (unit /= 10);
    *us = whole * 1000000 + part;
    return i == n && digits && *us >= LENGTH_MIN_US && *us <= (uint64_t)SC_PROGRAM_FOR_S_MAX * 1000000;
}

static bool space(char c) { return c == ' ' || c == '\t' || c == '\n'; }

static void trim(const char **s, size_t *n) {
    while (*n && space(**s)) (*s)++, (*n)--;
    while (*n && space((*s)[*n - 1])) (*n)--;
}

/* Without the brackets at its end. False: what stands in them is no length. */
static bool take_length(const char *s, size_t *n, uint64_t *us) {
    size_t open = *n;
    *us = 0;
    if (!*n || s[*n - 1] != ']') return true;
    while (open > 0 && s[open - 1] != '[') open--;
    if (!open) return false;
    const char *inside = s + open;
    size_t m = *n - open - 1;
    trim(&inside, &m);
    if (!m || inside[m - 1] != 's' || !read_length(inside, m - 1, us)) return false;
    *n = open - 1;
    trim(&s, n);
    return true;
}

static void read_text(const char *text, const char *prefix, sc_program *g, sc_problem *p) {
    char pointer[POINTER];
    uint64_t at = 0, length = 0;
    int i = 0;

    snprintf(pointer, sizeof pointer, "%s/text", prefix);
    for (const char *s = text; s; i++) {
        const char *bar = strchr(s, '|'), *words = s;
        size_t n = bar ? (size_t)(bar - s) : strlen(s), bad;
        s = bar ? bar + 1 : NULL;
        if (i == SC_PROGRAM_ENTRIES_MAX) {
            sc_problem_add(p, pointer, "must have at most %d prompts", SC_PROGRAM_ENTRIES_MAX);
            return;
        }
        trim(&words, &n);
        bool good = take_length(words, &n, &length);
        bad = sc_text_bad_prompt(words, n);
        if (!good)
            sc_problem_add(p, pointer, "prompt %d: square brackets at its end are its length, from [0.001s] to [%ds]", i, SC_PROGRAM_FOR_S_MAX);
        else if (!n) sc_problem_add(p, pointer, "prompt %d is empty: a text of 1 to %d bytes is needed", i, SC_PROMPT_TEXT_MAX);
        else if (n > SC_PROMPT_TEXT_MAX) sc_problem_add(p, pointer, "prompt %d has %zu bytes, %d are allowed", i, n, SC_PROMPT_TEXT_MAX);
        else if (bad < n)
            sc_problem_add(p, pointer, "prompt %d must not contain control characters other than tab and newline, found 0x%02x", i,
                           (unsigned)(unsigned char)words[bad]);
        else if (!length && bar) sc_problem_add(p, pointer, "prompt %d needs a length such as [5s], since another one follows", i);
        else if (!length && g->loop) sc_problem_add(p, pointer, "prompt %d needs a length such as [5s], since the first one follows again", i);
        else append(g, &g->entry[i], words, n);
        g->entry[i].timed = true;
        g->entry[i].transition = SC_WIRE_NOT_GIVEN;
        g->entry[i].at = at;
        at += length;
    }
    g->count = i;
    g->relative = true;
    if (g->loop) g->period = at;
}

/* ---- whole ones ---- */

/* Bytes that the prompts can take: what is longer is refused before it is copied. */
static size_t room(const cJSON *list, const cJSON *text) {
    size_t n = 1;
    if (cJSON_IsString(text)) n += strlen(text->valuestring) + SC_PROGRAM_ENTRIES_MAX;
    if (cJSON_IsArray(list))
        for (const cJSON *o = list->child; o; o = o->next) {
            const cJSON *v = field(o, "prompt");
            if (cJSON_IsString(v)) n += strlen(v->valuestring) + 1;
        }
    return n;
}

bool sc_program_read(struct cJSON *o, const char *prefix, sc_program **out, sc_problem *p) {
    const int before = p->count + p->more;
    cJSON *list = cJSON_DetachItemFromObjectCaseSensitive(o, "prompts"), *text = cJSON_DetachItemFromObjectCaseSensitive(o, "text");
    char pointer[POINTER];
    sc_problem q = {0};
    sc_program *g = calloc(1, sizeof *g + room(list, text));
    bool ok = g != NULL;

    *out = NULL;
    if (!g) {
        sc_problem_set(p, 500, "out of memory while reading the schedule");
        goto cleanup;
    }
    atomic_init(&g->refs, 1);
    sc_field_bool(o, "loop", &g->loop, &q);
    sc_fields_end(o, "prompts, text, loop", &q);
    adopt(p, prefix, &q);
    snprintf(pointer, sizeof pointer, "%s/%s", prefix, text ? "text" : "prompts");
    if (!list == !text) sc_problem_add(p, prefix, "must have one of prompts (a list) and text (\"a cat[5s] | a dog\"), found %s", list ? "both" : "none");
    else if (list && !cJSON_IsArray(list)) sc_problem_add(p, pointer, "must be a list of at most %d prompts", SC_PROGRAM_ENTRIES_MAX);
    else if (text && !cJSON_IsString(text)) sc_problem_add(p, pointer, "must be a text such as \"a cat[5s] | a dog\"");
    else if (list) read_list(list, prefix, g, p);
    else read_text(text->valuestring, prefix, g, p);
    if (list && !g->count && g->loop && !p->status) {
        snprintf(pointer, sizeof pointer, "%s/loop", prefix);
        sc_problem_add(p, pointer, "must not be true for an empty list");
    }
    ok = p->count + p->more == before;
    if (ok && g->count) {
        *out = g;
        g = NULL;
    }
cleanup:
    free(g);
    cJSON_Delete(list);
    cJSON_Delete(text);
    return ok;
}

bool sc_request_program(const char *body, size_t n, sc_program **out, sc_problem *problem) {
    cJSON *o = sc_fields_parse(body, n, SC_BODY_BYTES_MAX, "body", problem);

    *out = NULL;
    if (!o) return false;
    bool ok = sc_program_read(o, "", out, problem);
    cJSON_Delete(o);
    return ok;
}

sc_program *sc_program_retain(sc_program *g) {
    if (g) atomic_fetch_add(&g->refs, 1);
    return g;
}

void sc_program_release(sc_program *g) {
    if (g && atomic_fetch_sub(&g->refs, 1) == 1) free(g);
}

bool sc_program_same(const sc_program *a, const sc_program *b) {
    if (!a || !b) return a == b;
    if (a->count != b->count || a->loop != b->loop || a->relative != b->relative || a->period != b->period) return false;
    for (int i = 0; i < a->count; i++) {
        const sc_program_entry *x = &a->entry[i], *y = &b->entry[i];
        if (x->at != y->at || x->timed != y->timed || x->transition != y->transition || x->bytes != y->bytes ||
            memcmp(sc_program_prompt(a, i), sc_program_prompt(b, i), x->bytes)) return false;
    }
    return true;
}

char *sc_program_json(const sc_program_view *v, size_t *n) {
    const sc_program *g = v->program;
    sc_json_out o;

    sc_json_out_grow(&o);
    sc_json_object(&o, NULL);
    sc_json_bool(&o, "loop", g && g->loop);
    if (g && v->in_force >= 0) {
        sc_json_object(&o, "in_force");
        sc_json_i64(&o, "entry", v->in_force);
        sc_json_text_n(&o, "prompt", sc_program_prompt(g, v->in_force), g->entry[v->in_force].bytes);
        sc_json_u64(&o, "seq", v->in_force_seq);
        sc_json_end_object(&o);
    } else sc_json_null(&o, "in_force");
    sc_json_array(&o, "prompts");
    for (int i = 0; i < v->count; i++) {
        const int k = v->coming[i].entry;
        sc_json_object(&o, NULL);
        sc_json_i64(&o, "entry", k);
        sc_json_u64(&o, "at_chunk", v->coming[i].chunk);
        sc_json_text_n(&o, "prompt", sc_program_prompt(g, k), g->entry[k].bytes);
        sc_json_text(&o, "transition", sc_wire_transition_name(g->entry[k].transition));
        if (v->coming[i].seq) sc_json_u64(&o, "seq", v->coming[i].seq);
        else sc_json_null(&o, "seq");
        sc_json_end_object(&o);
    }
    sc_json_end_array(&o);
    sc_json_end_object(&o);
    return sc_json_out_take(&o, n);
}

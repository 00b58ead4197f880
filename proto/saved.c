/* saved.c - see saved.h. */
#include "proto/saved.h"
#include "proto/fields.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

static const int64_t LARGEST = (INT64_C(1) << 53) - 1;

typedef enum { NUMBER, U32, SMALL } field_type;

/* All that are numbers. */
static const struct field {
    const char *name;
    field_type type;
    size_t at;
    int64_t max;
} fields[] = {
#define AT(member) offsetof(sc_saved, member)
    {"saved", NUMBER, AT(saved), LARGEST},
    {"chunk", NUMBER, AT(chunk), INT32_MAX},
    {"pts_us", NUMBER, AT(pts_us), LARGEST},
    {"last_pts_us", NUMBER, AT(last_pts_us), LARGEST},
    {"prompt_seq", U32, AT(prompt_seq), UINT32_MAX},
    {"newest_seq", U32, AT(newest_seq), UINT32_MAX},
    {"logged_seq", U32, AT(logged_seq), UINT32_MAX},
    {"prompt_chunk", NUMBER, AT(prompt_chunk), INT32_MAX},
    {"created", NUMBER, AT(created), LARGEST},
    {"forked_chunk", NUMBER, AT(forked_chunk), INT32_MAX},
    {"fps", SMALL, AT(fps), 60},
    {"jpeg_quality", SMALL, AT(jpeg_quality), 100},
    {"lookahead_chunks", SMALL, AT(lookahead_chunks), 4},
    {"idle_timeout_s", SMALL, AT(idle_timeout_s), 86400},
#undef AT
};
enum { FIELDS = sizeof fields / sizeof *fields };

bool sc_snapshot_name_valid(const char *name, size_t n) {
    return n >= 1 && n <= SC_SNAPSHOT_NAME_MAX && strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") >= n;
}

static int64_t number_of(const sc_saved *s, const struct field *f) {
    const void *at = (const char *)s + f->at;
    return f->type == NUMBER ? *(const int64_t *)at : f->type == U32 ? (int64_t) *(const uint32_t *)at : (int64_t) *(const int *)at;
}

static void write_transition(sc_json_out *o, const char *name, sc_wire_transition t) {
    if (t < SC_WIRE_NOT_GIVEN) sc_json_text(o, name, sc_wire_transition_name(t));
}

void sc_saved_write(sc_json_out *o, const sc_saved *s, const char *schedule, size_t schedule_bytes) {
    sc_json_object(o, NULL);
    sc_json_i64(o, "format", SC_SAVED_FORMAT);
    sc_json_text(o, "session", s->session);
    for (int i = 0; i < FIELDS; i++) sc_json_i64(o, fields[i].name, number_of(s, &fields[i]));
    sc_json_bool(o, "run_without_viewers", s->run_without_viewers);
    sc_json_bool(o, "paused", s->paused);
    if (s->forked_from[0]) sc_json_text(o, "forked_from", s->forked_from);
    sc_json_text_n(o, "prompt", s->prompt, s->prompt_bytes);
    write_transition(o, "transition", s->transition);
    write_transition(o, "prompt_transition", s->prompt_transition);
    if (schedule) sc_json_text_n(o, "schedule", schedule, schedule_bytes);
    sc_json_end_object(o);
}

static void lacks(sc_problem *p, const char *name) {
    char pointer[64];
    if (p->count) return;
    snprintf(pointer, sizeof pointer, "/%s", name);
    sc_problem_add(p, pointer, "is missing");
}

static void read_number(cJSON *o, const struct field *f, sc_saved *s, sc_problem *p) {
    void *at = (char *)s + f->at;
    int64_t v = 0;

    if (!sc_field_int(o, f->name, f->type == SMALL, f->max, &v, p)) lacks(p, f->name);
    else if (f->type == NUMBER) *(int64_t *)at = v;
    else if (f->type == U32) *(uint32_t *)at = (uint32_t)v;
    else *(int *)at = (int)v;
}

static sc_wire_transition read_transition(cJSON *o, const char *name, sc_problem *p) {
    static const char *const words[] = {"switch", "blend", "recache", "flush", "cut"};
    int word = SC_WIRE_NOT_GIVEN;
    sc_field_word(o, name, words, SC_WIRE_NOT_GIVEN, &word, p);
    return (sc_wire_transition)word;
}

static void read_schedule(cJSON *o, sc_program **out, sc_problem *p) {
    cJSON *text = cJSON_DetachItemFromObjectCaseSensitive(o, "schedule");
    sc_problem why = {0};

    if (cJSON_IsString(text) && !sc_request_program(text->valuestring, strlen(text->valuestring), out, &why)) sc_problem_add(p, "/schedule", "%.200s", why.detail);
    else if (text && !cJSON_IsString(text)) sc_problem_add(p, "/schedule", "must be a text");
    cJSON_Delete(text);
}

bool sc_saved_read(const char *text, size_t n, sc_saved *out, sc_program **schedule, sc_problem *p) {
    cJSON *o = sc_fields_parse(text, n, SC_SAVED_BYTES_MAX, "head", p);
    int format = 0;

    memset(out, 0, sizeof *out);
    *schedule = NULL;
    if (!o) return false;
    if (!sc_field_small(o, "format", SC_SAVED_FORMAT, SC_SAVED_FORMAT, &format, p)) lacks(p, "format");
    if (!sc_field_text(o, "session", out->session, sizeof out->session, p)) lacks(p, "session");
    else if (!sc_id_valid(out->session, strlen(out->session))) sc_problem_add(p, "/session", "must be the id of a session");
    for (int i = 0; i < FIELDS; i++) read_number(o, &fields[i], out, p);
    if (!sc_field_bool(o, "run_without_viewers", &out->run_without_viewers, p)) lacks(p, "run_without_viewers");
    if (!sc_field_bool(o, "paused", &out->paused, p)) lacks(p, "paused");
    if (sc_field_text(o, "forked_from", out->forked_from, sizeof out->forked_from, p) && !sc_id_valid(out->forked_from, strlen(out->forked_from)))
        sc_problem_add(p, "/forked_from", "must be the id of a session");
    sc_field_prompt(o, "prompt", true, out->prompt, &out->prompt_bytes, p);
    out->transition = read_transition(o, "transition", p);
    out->prompt_transition = read_transition(o, "prompt_transition", p);
    read_schedule(o, schedule, p);
    if (!p->count && (out->newest_seq < out->prompt_seq || out->prompt_chunk > out->chunk)) sc_problem_add(p, "/prompt_seq", "is of a prompt that is to come");
    sc_fields_end(o, "the fields of a saved session", p);
    cJSON_Delete(o);
    if (!p->status) return true;
    sc_program_release(*schedule);
    *schedule = NULL;
    return false;
}

bool sc_request_snapshot(const char *body, size_t n, char name[SC_SNAPSHOT_NAME_MAX + 1], sc_problem *problem) {
    cJSON *o = sc_fields_parse(body, n, SC_BODY_BYTES_MAX, "body", problem);

    name[0] = 0;
    if (!o) return false;
    if (!cJSON_GetObjectItemCaseSensitive(o, "name")) sc_problem_add(problem, "/name", "is missing: a snapshot has one");
    else if (sc_field_text(o, "name", name, SC_SNAPSHOT_NAME_MAX + 1, problem) && !sc_snapshot_name_valid(name, strlen(name)))
        sc_problem_add(problem, "/name", "must be 1 to %d of A-Z a-z 0-9 - _", SC_SNAPSHOT_NAME_MAX);
    sc_fields_end(o, "name", problem);
    cJSON_Delete(o);
    return problem->status == 0;
}

char *sc_saved_json(const char *name, const char *session, uint64_t chunk, uint64_t bytes, int64_t created, size_t *n) {
    sc_json_out o;

    sc_json_out_grow(&o);
    sc_json_object(&o, NULL);
    sc_json_text(&o, "name", name);
    sc_json_text(&o, "session", session);
    sc_json_u64(&o, "chunk", chunk);
    sc_json_u64(&o, "bytes", bytes);
    sc_json_i64(&o, "created", created);
    sc_json_end_object(&o);
    return sc_json_out_take(&o, n);
}

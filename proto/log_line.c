/* log_line.c - see log_line.h. A table says which fields a kind of line has, in their order: writing and reading walk along it. */
#include "proto/log_line.h"
#include "proto/fields.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { SESSION = 1 << SC_LINE_SESSION, FORK = 1 << SC_LINE_FORK, PROMPT = 1 << SC_LINE_PROMPT, CHUNK = 1 << SC_LINE_CHUNK, END = 1 << SC_LINE_END,
       LOST = 1 << SC_LINE_LOST };
static const int64_t LARGEST = (INT64_C(1) << 53) - 1;

static const char *const kinds[] = {"session", "fork", "prompt", "chunk", "end", "lost"};
enum { KINDS = sizeof kinds / sizeof *kinds };

const char *sc_log_line_kind_name(sc_log_line_kind kind) { return kinds[kind]; }

typedef enum { NUMBER, U32, SMALL, INSTANT, SEED, TEXT, WORDS, ID, HASH, DIGEST, BOOL } field_type;

/* In the order in which they are written, behind `event` and `type`. Not here: transition and blend_chunks, which depend on one another. */
static const struct field {
    const char *name;
    field_type type;
    unsigned kinds;
    size_t at, room;        /* room: of TEXT */
    int min, max;           /* of SMALL */
    bool may_lack;
} fields[] = {
#define AT(member) .at = offsetof(sc_log_line, member), .room = sizeof ((sc_log_line *)0)->member
    {"from", NUMBER, LOST, AT(event)},
    {"to", NUMBER, LOST, AT(last)},
    {"prompts", BOOL, LOST, AT(prompts)},
    {"chunk", NUMBER, FORK | PROMPT | CHUNK, AT(chunk)},
    {"first_frame", NUMBER, CHUNK, AT(first_frame)},
    {"frames", SMALL, CHUNK, AT(frames), .min = 1, .max = 65536},
    {"hash", HASH, CHUNK, AT(hash)},
    {"session", ID, SESSION | FORK, AT(session)},
    {"from", ID, FORK, AT(from)},
    {"created", INSTANT, SESSION | FORK, AT(created)},
    {"model", TEXT, SESSION, AT(made.model)},
    {"digest", DIGEST, SESSION, AT(made.digest)},
    {"device", TEXT, SESSION, AT(made.device)},
    {"machine", TEXT, SESSION, AT(made.machine)},
    {"text_device", TEXT, SESSION, AT(made.text_device)},
    {"memory", TEXT, SESSION, AT(made.memory)},
    {"width", SMALL, SESSION, AT(made.width), .min = 1, .max = 65536},
    {"height", SMALL, SESSION, AT(made.height), .min = 1, .max = 65536},
    {"steps", SMALL, SESSION, AT(made.steps), .min = 1, .max = 1000},
    {"first_chunk_frames", SMALL, SESSION, AT(made.first_chunk_frames), .min = 1, .max = 65536},
    {"chunk_frames", SMALL, SESSION, AT(made.chunk_frames), .min = 1, .max = 65536},
    {"seed", SEED, SESSION | FORK, AT(seed)},
    {"seq", U32, SESSION | PROMPT, AT(seq)},
    {"prompt", WORDS, SESSION | PROMPT, AT(prompt)},
    {"state", TEXT, END, AT(state)},
    {"reason", TEXT, END, AT(reason), .may_lack = true},
#undef AT
};
enum { FIELDS = sizeof fields / sizeof *fields };

/* ---- writing ---- */

static void write_field(sc_json_out *o, const struct field *f, const sc_log_line *l) {
    const void *at = (const char *)l + f->at;
    char text[24];

    switch (f->type) {
    case NUMBER: sc_json_u64(o, f->name, *(const uint64_t *)at); break;
    case U32: sc_json_u64(o, f->name, *(const uint32_t *)at); break;
    case SMALL: sc_json_i64(o, f->name, *(const int *)at); break;
    case INSTANT: sc_json_i64(o, f->name, *(const int64_t *)at); break;
    case SEED:
        snprintf(text, sizeof text, "%" PRIu64, *(const uint64_t *)at);
        sc_json_text(o, f->name, text);
        break;
    case WORDS: sc_json_text_n(o, f->name, l->prompt, l->prompt_bytes); break;
    case TEXT: case ID: case HASH: case DIGEST:
        if (!f->may_lack || *(const char *)at) sc_json_text(o, f->name, at);
        break;
    case BOOL: sc_json_bool(o, f->name, *(const bool *)at); break;
    }
}

void sc_log_line_write(sc_json_out *o, const sc_log_line *l) {
    sc_json_object(o, NULL);
    if (l->kind != SC_LINE_LOST) sc_json_u64(o, "event", l->event);
    sc_json_text(o, "type", kinds[l->kind]);
    if (l->kind == SC_LINE_SESSION) sc_json_i64(o, "format", SC_LOG_FORMAT);
    for (int i = 0; i < FIELDS; i++)
        if (fields[i].kinds & 1u << l->kind) write_field(o, &fields[i], l);
    if (l->kind == SC_LINE_PROMPT) {
        sc_json_text(o, "transition", sc_wire_transition_name(l->transition));
        if (l->transition == SC_WIRE_BLEND) sc_json_i64(o, "blend_chunks", l->blend_chunks);
    }
    sc_json_end_object(o);
}

/* ---- reading ---- */

static bool is_hex(const char *s, size_t n) { return strlen(s) == n && strspn(s, "0123456789abcdef") == n; }

static bool read_text(cJSON *o, const struct field *f, char *at, sc_problem *p) {
    char pointer[96];

    if (!sc_field_text(o, f->name, at, f->room, p)) return false;
    snprintf(pointer, sizeof pointer, "/%s", f->name);
    if (f->type == ID && !sc_id_valid(at, strlen(at))) sc_problem_add(p, pointer, "must be the id of a session, 26 characters a-z and 2-7");
    else if ((f->type == HASH || f->type == DIGEST) && !is_hex(at, f->room - 1)) sc_problem_add(p, pointer, "must be %zu hexadecimal digits in lower case", f->room - 1);
    else return true;
    return false;
}

static bool read_field(cJSON *o, const struct field *f, sc_log_line *l, sc_problem *p) {
    void *at = (char *)l + f->at;
    int64_t v = 0;
    bool good = false;

    switch (f->type) {
    case NUMBER:
        if ((good = sc_field_int(o, f->name, 0, LARGEST, &v, p))) *(uint64_t *)at = (uint64_t)v;
        break;
    case U32:
        if ((good = sc_field_int(o, f->name, 0, UINT32_MAX, &v, p))) *(uint32_t *)at = (uint32_t)v;
        break;
    case SMALL: good = sc_field_small(o, f->name, f->min, f->max, at, p); break;
    case INSTANT: good = sc_field_int(o, f->name, -LARGEST, LARGEST, at, p); break;
    case SEED: good = sc_field_seed(o, f->name, at, p); break;
    case WORDS: good = sc_field_prompt(o, f->name, true, l->prompt, &l->prompt_bytes, p); break;
    case TEXT: case ID: case HASH: case DIGEST: good = read_text(o, f, at, p); break;
    case BOOL: good = sc_field_bool(o, f->name, at, p); break;
    }
    return good;
}

static void read_transition(cJSON *o, sc_log_line *l, sc_problem *p) {
    const bool there = sc_field_transition(o, &l->transition, p);

    if (!there && !p->count) sc_problem_add(p, "/transition", "is missing");
    if (there && l->transition == SC_WIRE_BLEND && !sc_field_small(o, "blend_chunks", 1, 64, &l->blend_chunks, p) && !p->count)
        sc_problem_add(p, "/blend_chunks", "is missing: a blend needs it");
}

/* What no field can say alone. */
static void check(const sc_log_line *l, sc_problem *p) {
    if (l->kind != SC_LINE_LOST && l->event < 1) sc_problem_add(p, "/event", "must be 1 or more");
    if (l->kind == SC_LINE_LOST && (l->event < 1 || l->last < l->event)) sc_problem_add(p, "/to", "must be \"from\" or more, and that at least 1");
    if (l->kind == SC_LINE_END && strcmp(l->state, "ended") && strcmp(l->state, "failed")) sc_problem_add(p, "/state", "must be \"ended\" or \"failed\"");
}

bool sc_log_line_read(const char *text, size_t n, sc_log_line *out, sc_problem *p) {
    cJSON *o = sc_fields_parse(text, n, SC_LOG_LINE_MAX, "line", p);
    char allowed[256], pointer[96];
    int kind = 0, format = 0;
    int64_t event = 0;
    size_t used;

    memset(out, 0, sizeof *out);
    out->transition = SC_WIRE_NOT_GIVEN;
    if (!o) return false;
    if (!sc_field_word(o, "type", kinds, KINDS, &kind, p)) {
        if (!p->count) sc_problem_add(p, "/type", "is missing: what kind of line is it?");
        cJSON_Delete(o);
        return false;
    }
    out->kind = (sc_log_line_kind)kind;
    used = (size_t)snprintf(allowed, sizeof allowed, "type");
    if (out->kind != SC_LINE_LOST) {
        used += (size_t)snprintf(allowed + used, sizeof allowed - used, ", event");
        if (sc_field_int(o, "event", 0, LARGEST, &event, p)) out->event = (uint64_t)event;
        else if (!p->count) sc_problem_add(p, "/event", "is missing");
    }
    if (out->kind == SC_LINE_SESSION) {
        used += (size_t)snprintf(allowed + used, sizeof allowed - used, ", format");
        if (!sc_field_small(o, "format", SC_LOG_FORMAT, SC_LOG_FORMAT, &format, p) && !p->count) sc_problem_add(p, "/format", "is missing: it must be %d", SC_LOG_FORMAT);
    }
    for (int i = 0; i < FIELDS; i++) {
        const struct field *f = &fields[i];
        const int before = p->count + p->more;
        if (!(f->kinds & 1u << kind)) continue;
        used += (size_t)snprintf(allowed + used, sizeof allowed - used, ", %s", f->name);
        snprintf(pointer, sizeof pointer, "/%s", f->name);
        if (!read_field(o, f, out, p) && !f->may_lack && p->count + p->more == before) sc_problem_add(p, pointer, "is missing");
    }
    if (out->kind == SC_LINE_PROMPT) {
        snprintf(allowed + used, sizeof allowed - used, ", transition, blend_chunks");
        read_transition(o, out, p);
    }
    if (!p->count) check(out, p);
    sc_fields_end(o, allowed, p);
    cJSON_Delete(o);
    return !p->status;
}

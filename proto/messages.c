/* messages.c - see messages.h. */
#include "proto/messages.h"

#include "proto/fields.h"
#include "proto/json.h"

#include <cjson/cJSON.h>
#include <string.h>

static const char *const kinds[] = {"prompt", "pause", "resume", "ack", "ping", "quality"};
enum { KINDS = sizeof kinds / sizeof *kinds };

const char *sc_client_kind_name(sc_client_kind kind) { return kinds[kind]; }

bool sc_client_kind_needs_control(sc_client_kind kind) {
    return kind == SC_CLIENT_PROMPT || kind == SC_CLIENT_PAUSE || kind == SC_CLIENT_RESUME;
}

static void missing(sc_problem *p, const char *pointer, const char *what) {
    sc_problem_add(p, pointer, "is missing: %s is needed", what);
}

bool sc_client_message_parse(const char *text, size_t n, sc_client_message *out, sc_problem *problem) {
    static const char *const allowed[KINDS] = {"type, text, transition, ref", "type", "type", "type, frame", "type, t", "type, jpeg_quality"};
    cJSON *o = sc_fields_parse(text, n, SC_CLIENT_MESSAGE_MAX, "message", problem);
    int kind;
    int64_t frame;

    memset(out, 0, sizeof *out);
    out->transition = SC_WIRE_NOT_GIVEN;
    if (!o) return false;
    if (!cJSON_GetObjectItemCaseSensitive(o, "type")) {
        missing(problem, "/type", "one of \"prompt\", \"pause\", \"resume\", \"ack\", \"ping\", \"quality\"");
        cJSON_Delete(o);
        return false;
    }
    if (!sc_field_word(o, "type", kinds, KINDS, &kind, problem)) {
        cJSON_Delete(o);
        return false;
    }
    out->kind = (sc_client_kind)kind;
    switch (out->kind) {
    case SC_CLIENT_PROMPT:
        sc_field_prompt(o, "text", true, out->text, &out->text_bytes, problem);
        sc_field_transition(o, &out->transition, problem);
        sc_field_text(o, "ref", out->ref, sizeof out->ref, problem);
        break;
    case SC_CLIENT_ACK:
        if (!cJSON_GetObjectItemCaseSensitive(o, "frame")) missing(problem, "/frame", "the number of the frame last shown");
        if (sc_field_int(o, "frame", 0, 9007199254740991, &frame, problem)) out->frame = (uint64_t)frame;
        break;
    case SC_CLIENT_PING:
        if (!cJSON_GetObjectItemCaseSensitive(o, "t")) missing(problem, "/t", "a number, which the answer repeats,");
        sc_field_number(o, "t", &out->t, problem);
        break;
    case SC_CLIENT_QUALITY:
        if (!cJSON_GetObjectItemCaseSensitive(o, "jpeg_quality")) missing(problem, "/jpeg_quality", "a whole number from 1 to 100");
        sc_field_small(o, "jpeg_quality", 1, 100, &out->jpeg_quality, problem);
        break;
    case SC_CLIENT_PAUSE:
    case SC_CLIENT_RESUME:
        break;
    }
    sc_fields_end(o, allowed[kind], problem);
    cJSON_Delete(o);
    return problem->status == 0;
}

static void open_message(sc_json_out *o, char *buf, size_t cap, const char *type) {
    sc_json_out_init(o, buf, cap);
    sc_json_object(o, NULL);
    sc_json_text(o, "type", type);
}

static size_t close_message(sc_json_out *o) {
    sc_json_end_object(o);
    return sc_json_out_size(o);
}

static void count_or_null(sc_json_out *o, const char *name, int64_t v) {
    if (v < 0) sc_json_null(o, name);
    else sc_json_i64(o, name, v);
}

size_t sc_message_hello(char *buf, size_t cap, const char *session_id, const char *role, int64_t newest_frame) {
    sc_json_out o;

    open_message(&o, buf, cap, "hello");
    sc_json_text(&o, "session", session_id);
    sc_json_text(&o, "role", role);
    sc_json_i64(&o, "protocol", 1);
    count_or_null(&o, "newest_frame", newest_frame);
    return close_message(&o);
}

size_t sc_message_prompt(char *buf, size_t cap, uint32_t seq, sc_prompt_state state, const char *prompt, size_t prompt_bytes,
                         int64_t chunk, sc_wire_transition transition, const char *ref) {
    static const char *const states[] = {"received", "applied", "shown", "superseded"};
    sc_json_out o;

    open_message(&o, buf, cap, "prompt");
    sc_json_u64(&o, "seq", seq);
    sc_json_text(&o, "state", states[state]);
    sc_json_text_n(&o, "prompt", prompt, prompt_bytes);
    count_or_null(&o, "chunk", chunk);
    sc_json_text(&o, "transition", sc_wire_transition_name(transition));
    if (ref && *ref) sc_json_text(&o, "ref", ref);
    return close_message(&o);
}

size_t sc_message_chunk(char *buf, size_t cap, const sc_chunk_times *t) {
    sc_json_out o;

    open_message(&o, buf, cap, "chunk");
    sc_json_u64(&o, "chunk", t->chunk);
    sc_json_ms(&o, "wait_ms", t->wait_ms);
    sc_json_ms(&o, "denoise_ms", t->denoise_ms);
    sc_json_ms(&o, "decode_ms", t->decode_ms);
    sc_json_ms(&o, "encode_ms", t->encode_ms);
    sc_json_ms(&o, "lateness_ms", t->lateness_ms);
    return close_message(&o);
}

size_t sc_message_state(char *buf, size_t cap, const char *state, const char *reason) {
    sc_json_out o;

    open_message(&o, buf, cap, "state");
    sc_json_text(&o, "state", state);
    if (reason) sc_json_text(&o, "reason", reason);
    return close_message(&o);
}

size_t sc_message_viewers(char *buf, size_t cap, int count) {
    sc_json_out o;

    open_message(&o, buf, cap, "viewers");
    sc_json_i64(&o, "count", count);
    return close_message(&o);
}

size_t sc_message_stats(char *buf, size_t cap, const sc_viewer_stats *s) {
    sc_json_out o;

    open_message(&o, buf, cap, "stats");
    count_or_null(&o, "frame", s->frame);
    count_or_null(&o, "chunk", s->chunk);
    sc_json_i64(&o, "viewers", s->viewers);
    sc_json_u64(&o, "sent", s->sent);
    sc_json_u64(&o, "dropped", s->dropped);
    count_or_null(&o, "lag_frames", s->lag_frames);
    sc_json_ms(&o, "lookahead_s", s->lookahead_s);
    return close_message(&o);
}

size_t sc_message_error(char *buf, size_t cap, const sc_problem *problem, const char *ref) {
    sc_json_out o;

    open_message(&o, buf, cap, "error");
    sc_problem_write(&o, "problem", problem);
    if (ref && *ref) sc_json_text(&o, "ref", ref);
    return close_message(&o);
}

size_t sc_message_pong(char *buf, size_t cap, double t, uint64_t server_us) {
    sc_json_out o;

    open_message(&o, buf, cap, "pong");
    sc_json_number(&o, "t", t);
    sc_json_u64(&o, "server_us", server_us);
    return close_message(&o);
}

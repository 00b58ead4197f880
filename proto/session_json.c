/* session_json.c - see session_json.h. */
#include "proto/session_json.h"

#include "proto/json_out.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

static const char base32[] = "abcdefghijklmnopqrstuvwxyz234567";

void sc_id_format(char out[SC_ID_CHARS + 1], const uint8_t bits[SC_ID_BITS_BYTES]) {
    unsigned held = 0, bit_count = 0;
    int at = 0;

    for (int i = 0; i < SC_ID_BITS_BYTES; i++) {
        held = (held << 8 | bits[i]) & 0xffffu;
        for (bit_count += 8; bit_count >= 5; bit_count -= 5) out[at++] = base32[held >> (bit_count - 5) & 31];
    }
    out[at++] = base32[held << (5 - bit_count) & 31]; /* 128 = 25 * 5 + 3 */
    out[at] = 0;
}

sc_status sc_id_random(char out[SC_ID_CHARS + 1], sc_error *err) {
    uint8_t bits[SC_ID_BITS_BYTES];
    ssize_t n;

    out[0] = 0;
    do n = getrandom(bits, sizeof bits, 0);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof bits) return sc_fail(err, SC_EIO, "no random bits for an id: %s", n < 0 ? strerror(errno) : "too few");
    sc_id_format(out, bits);
    return SC_OK;
}

sc_status sc_seed_random(uint64_t *seed, sc_error *err) {
    char id[SC_ID_CHARS + 1];
    sc_status rc = sc_id_random(id, err);

    *seed = 0;
    for (int i = 0; !rc && i < 10; i++) *seed = *seed * 32 + (uint64_t)(strchr(base32, id[i]) - base32);
    return rc;
}

bool sc_id_valid(const char *s, size_t n) {
    const char *c = NULL;

    if (n != SC_ID_CHARS) return false;
    for (size_t i = 0; i < n; i++)
        if (!s[i] || !(c = strchr(base32, s[i]))) return false;
    return (c - base32) % 4 == 0;
}

static void count_or_null(sc_json_out *o, const char *name, int64_t v) {
    if (v < 0) sc_json_null(o, name);
    else sc_json_i64(o, name, v);
}

static void write_stage(sc_json_out *o, const char *name, sc_stage_time t) {
    sc_json_object(o, name);
    sc_json_ms(o, "p50", t.p50_ms);
    sc_json_ms(o, "p95", t.p95_ms);
    sc_json_end_object(o);
}

static void write_session(sc_json_out *o, const sc_session_view *s) {
    char text[64];

    sc_json_object(o, NULL);
    sc_json_text(o, "id", s->id);
    sc_json_text(o, "state", s->state);
    if (s->reason) sc_json_text(o, "reason", s->reason);
    sc_json_text(o, "model", s->model);
    sc_json_text_n(o, "prompt", s->prompt, s->prompt_bytes);
    sc_json_u64(o, "prompt_seq", s->prompt_seq);
    sc_json_u64(o, "prompt_chunk", s->prompt_chunk);
    sc_json_text(o, "transition", sc_wire_transition_name(s->transition));
    snprintf(text, sizeof text, "%" PRIu64, s->seed);
    sc_json_text(o, "seed", text);
    sc_json_i64(o, "width", s->width);
    sc_json_i64(o, "height", s->height);
    sc_json_i64(o, "fps", s->fps);
    sc_json_i64(o, "chunk_frames", s->chunk_frames);
    sc_json_i64(o, "created", s->created);
    count_or_null(o, "chunk", s->chunk);
    count_or_null(o, "frame", s->frame);
    sc_json_i64(o, "viewers", s->viewers);
    snprintf(text, sizeof text, "/v1/sessions/%.26s/stream", s->id);
    sc_json_text(o, "stream", text);
    sc_json_i64(o, "jpeg_quality", s->jpeg_quality);
    sc_json_i64(o, "lookahead_chunks", s->lookahead_chunks);
    sc_json_i64(o, "idle_timeout_s", s->idle_timeout_s);
    sc_json_bool(o, "run_without_viewers", s->run_without_viewers);
    sc_json_object(o, "stage_ms");
    write_stage(o, "wait", s->wait);
    write_stage(o, "denoise", s->denoise);
    write_stage(o, "decode", s->decode);
    write_stage(o, "encode", s->encode);
    sc_json_end_object(o);
    sc_json_u64(o, "memory_bytes", s->memory_bytes);
    if (s->forked_from) {
        sc_json_object(o, "forked_from");
        sc_json_text(o, "id", s->forked_from);
        sc_json_u64(o, "chunk", s->forked_chunk);
        sc_json_end_object(o);
    }
    sc_json_end_object(o);
}

char *sc_session_json(const sc_session_view *s, size_t *n) {
    sc_json_out o;

    sc_json_out_grow(&o);
    write_session(&o, s);
    return sc_json_out_take(&o, n);
}

static void open_list(sc_json_out *o) {
    sc_json_out_grow(o);
    sc_json_object(o, NULL);
    sc_json_text(o, "object", "list");
    sc_json_array(o, "data");
}

static char *close_list(sc_json_out *o, size_t *n) {
    sc_json_end_array(o);
    sc_json_end_object(o);
    return sc_json_out_take(o, n);
}

char *sc_sessions_json(const sc_session_view *s, size_t count, size_t *n) {
    sc_json_out o;

    open_list(&o);
    for (size_t i = 0; i < count; i++) write_session(&o, &s[i]);
    return close_list(&o, n);
}

char *sc_receipt_json(bool has_prompt, uint32_t seq, int64_t applies_at_chunk, size_t *n) {
    sc_json_out o;

    sc_json_out_grow(&o);
    sc_json_object(&o, NULL);
    count_or_null(&o, "seq", has_prompt ? (int64_t)seq : -1);
    count_or_null(&o, "applies_at_chunk", has_prompt ? applies_at_chunk : -1);
    sc_json_end_object(&o);
    return sc_json_out_take(&o, n);
}

char *sc_models_json(const sc_model_view *m, size_t count, size_t *n) {
    sc_json_out o;

    open_list(&o);
    for (size_t i = 0; i < count; i++, m++) {
        sc_json_object(&o, NULL);
        sc_json_text(&o, "id", m->id);
        sc_json_text(&o, "object", "model");
        sc_json_i64(&o, "created", m->created);
        sc_json_text(&o, "owned_by", "sparsecast");
        sc_json_text(&o, "device", m->device);
        sc_json_text(&o, "digest", m->digest);
        sc_json_i64(&o, "width", m->width);
        sc_json_i64(&o, "height", m->height);
        sc_json_i64(&o, "fps", m->fps);
        sc_json_i64(&o, "first_chunk_frames", m->frames_first);
        sc_json_i64(&o, "chunk_frames", m->chunk_frames);
        sc_json_u64(&o, "session_bytes", m->session_bytes);
        sc_json_u64(&o, "weight_bytes", m->weight_bytes);
        sc_json_u64(&o, "parameters", m->parameters);
        sc_json_end_object(&o);
    }
    return close_list(&o, n);
}

char *sc_capacity_json(const sc_capacity_view *c, size_t *n) {
    sc_json_out o;

    sc_json_out_grow(&o);
    sc_json_object(&o, NULL);
    sc_json_i64(&o, "sessions", c->sessions);
    sc_json_i64(&o, "sessions_max", c->sessions_max);
    sc_json_i64(&o, "fit_memory", c->fit_memory);
    sc_json_i64(&o, "fit_time", c->fit_time);
    sc_json_u64(&o, "pages_used", c->pages_used);
    sc_json_u64(&o, "pages_free", c->pages_free);
    sc_json_end_object(&o);
    return sc_json_out_take(&o, n);
}

/* One map; `layers` of them added up. */
static void write_map(sc_json_out *o, const char *name, const sc_memory_view *m, const uint32_t *held, int layers) {
    const size_t places = (size_t)m->rows * (size_t)m->columns;

    sc_json_array(o, name);
    for (int r = 0; r < m->rows; r++) {
        sc_json_array(o, NULL);
        for (int c = 0; c < m->columns; c++) {
            uint64_t sum = 0;
            for (int l = 0; l < layers; l++) sum += held[(size_t)l * places + (size_t)r * (size_t)m->columns + (size_t)c];
            sc_json_u64(o, NULL, sum);
        }
        sc_json_end_array(o);
    }
    sc_json_end_array(o);
}

char *sc_memory_json(const sc_memory_view *m, size_t *n) {
    sc_json_out o;

    sc_json_out_grow(&o);
    sc_json_object(&o, NULL);
    sc_json_u64(&o, "chunk", m->chunk);
    sc_json_i64(&o, "layers", m->layers);
    sc_json_i64(&o, "heads", m->heads);
    sc_json_i64(&o, "capacity", m->capacity);
    sc_json_i64(&o, "persistent", m->persistent);
    sc_json_i64(&o, "rows", m->rows);
    sc_json_i64(&o, "columns", m->columns);
    sc_json_i64(&o, "tile_width", m->tile_width);
    sc_json_i64(&o, "tile_height", m->tile_height);
    write_map(&o, "map", m, m->held, m->layers);
    sc_json_array(&o, "oldest_chunk");
    for (int r = 0; r < m->rows; r++) {
        sc_json_array(&o, NULL);
        for (int c = 0; c < m->columns; c++) count_or_null(&o, NULL, m->oldest[r * m->columns + c]);
        sc_json_end_array(&o);
    }
    sc_json_end_array(&o);
    sc_json_array(&o, "by_layer");
    for (int l = 0; l < m->layers; l++) write_map(&o, NULL, m, m->held + (size_t)l * (size_t)(m->rows * m->columns), 1);
    sc_json_end_array(&o);
    sc_json_end_object(&o);
    return sc_json_out_take(&o, n);
}

char *sc_ticket_json(const char *ticket, const char *role, int expires_in_s, size_t *n) {
    sc_json_out o;

    sc_json_out_grow(&o);
    sc_json_object(&o, NULL);
    sc_json_text(&o, "ticket", ticket);
    sc_json_text(&o, "role", role);
    sc_json_i64(&o, "expires_in_s", expires_in_s);
    sc_json_end_object(&o);
    return sc_json_out_take(&o, n);
}

char *sc_status_json(const char *word, size_t *n) {
    sc_json_out o;

    sc_json_out_grow(&o);
    sc_json_object(&o, NULL);
    sc_json_text(&o, "status", word);
    sc_json_end_object(&o);
    return sc_json_out_take(&o, n);
}

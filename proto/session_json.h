/* session_json.h - what GET answers: sessions, models, capacity; and the ids in their paths.
 *
 * Plain structs with borrowed texts in, JSON out: every function returns owned text (free()), its size in *n (may be NULL), or
 * NULL when memory ran out. Numbers that a double could not hold (seeds) are decimal strings; instants are Unix seconds. Any thread. */
#ifndef SC_PROTO_SESSION_JSON_H
#define SC_PROTO_SESSION_JSON_H
#include "base/status.h"
#include "proto/requests.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SC_ID_CHARS = 26, SC_ID_BITS_BYTES = 16 };

/* 128 bits as RFC 4648 base32, lower case, without padding; out is NUL-terminated. */
void sc_id_format(char out[SC_ID_CHARS + 1], const uint8_t bits[SC_ID_BITS_BYTES]);

/* A fresh id from getrandom(). SC_EIO when the kernel gives none. */
sc_status sc_id_random(char out[SC_ID_CHARS + 1], sc_error *err);

/* 50 random bits, so that a double holds them. SC_EIO as above. */
sc_status sc_seed_random(uint64_t *seed, sc_error *err);

/* Exactly 26 characters a-z 2-7 that sc_id_format could have made (the last one holds three bits). */
bool sc_id_valid(const char *s, size_t n);

typedef struct {
    double p50_ms, p95_ms;
} sc_stage_time;

typedef struct {
    const char *id;
    const char *state;          /* starting, running, paused, ended, failed */
    const char *reason;         /* of state; NULL: left out */
    const char *model;
    const char *prompt;         /* in force */
    size_t prompt_bytes;
    uint32_t prompt_seq;
    uint64_t prompt_chunk;      /* the first chunk made under it */
    sc_wire_transition transition; /* SC_WIRE_NOT_GIVEN: null */
    uint64_t seed;
    int width, height, fps, chunk_frames;
    int64_t created;            /* Unix seconds */
    int64_t chunk, frame;       /* newest ones; < 0: null */
    int viewers;
    int jpeg_quality, lookahead_chunks, idle_timeout_s;
    bool run_without_viewers;
    sc_stage_time wait, denoise, decode, encode;
    uint64_t memory_bytes;
    const char *forked_from;    /* NULL: of nobody; left out */
    uint64_t forked_chunk;      /* its first own chunk */
} sc_session_view;

/* One session object; `stream` is made from the id. */
char *sc_session_json(const sc_session_view *s, size_t *n);

/* {"object":"list","data":[...]} */
char *sc_sessions_json(const sc_session_view *s, size_t count, size_t *n);

/* Answer to PATCH: {"seq":..,"applies_at_chunk":..}. Without a new prompt (has_prompt false) both are null.
 * applies_at_chunk < 0: null. */
char *sc_receipt_json(bool has_prompt, uint32_t seq, int64_t applies_at_chunk, size_t *n);

typedef struct {
    const char *id;             /* OpenAI's name for a model's name */
    int64_t created;
    const char *device, *digest;
    int width, height, fps, frames_first, chunk_frames;
    uint64_t session_bytes, weight_bytes, parameters;
} sc_model_view;

/* {"object":"list","data":[{"id":..,"object":"model","created":..,"owned_by":"sparsecast",...}]} */
char *sc_models_json(const sc_model_view *m, size_t count, size_t *n);

typedef struct {
    int sessions, sessions_max;      /* now; slots of the pool */
    int fit_memory, fit_time;        /* how many more fit by memory, and by the time a chunk takes */
    uint64_t pages_used, pages_free;
} sc_capacity_view;

char *sc_capacity_json(const sc_capacity_view *c, size_t *n);

typedef struct {
    uint64_t chunk;
    int layers, heads, rows, columns, tile_width, tile_height, capacity, persistent;
    const uint32_t *held;            /* [layers][rows][columns] */
    const int64_t *oldest;           /* [rows][columns], -1: none */
} sc_memory_view;

/* {"chunk":..,"layers":..,...,"map":[rows of columns, all layers together],"oldest_chunk":[the same, or null],"by_layer":[maps]} */
char *sc_memory_json(const sc_memory_view *m, size_t *n);

/* {"ticket":..,"role":..,"expires_in_s":..} */
char *sc_ticket_json(const char *ticket, const char *role, int expires_in_s, size_t *n);

/* {"status":word} for /healthz ("ok") and /readyz ("ready"). */
char *sc_status_json(const char *word, size_t *n);

#endif

/* messages.h - the text messages of the stream's WebSocket, both directions.
 *
 * From clients: one strict JSON object of at most 16 KiB; wrong ones give a problem (400 not JSON, 422 wrong fields, 413 too long)
 * that goes back in an `error` message, the connection lives on.
 *
 * To clients: writers into a bounded buffer. Each returns the bytes written (a NUL follows, not counted), or 0 when `cap` is too
 * small; SC_SERVER_MESSAGE_MAX is enough for any of them. Any thread. */
#ifndef SC_PROTO_MESSAGES_H
#define SC_PROTO_MESSAGES_H
#include "proto/problem.h"
#include "proto/requests.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SC_CLIENT_MESSAGE_MAX = 16384, SC_CLIENT_MESSAGES_PER_S = 20, SC_REF_MAX = 64, SC_SERVER_MESSAGE_MAX = 32768 };

#define SC_STREAM_SUBPROTOCOL "sparsecast.v1"

typedef enum { SC_CLIENT_PROMPT, SC_CLIENT_PAUSE, SC_CLIENT_RESUME, SC_CLIENT_ACK, SC_CLIENT_PING, SC_CLIENT_QUALITY } sc_client_kind;

typedef struct {
    sc_client_kind kind;
    char text[SC_PROMPT_TEXT_MAX + 1]; /* prompt: UTF-8, 1..4096 bytes */
    size_t text_bytes;
    sc_wire_transition transition;     /* prompt; SC_WIRE_NOT_GIVEN */
    char ref[SC_REF_MAX + 1];          /* prompt; "" not given */
    uint64_t frame;                    /* ack: playback position, below 2^53 */
    double t;                          /* ping: any finite number, echoed */
    int jpeg_quality;                  /* quality: 1..100 */
} sc_client_message;

/* True: *out is filled. False: *problem is; out->ref still holds the message's ref when that could be read. */
bool sc_client_message_parse(const char *text, size_t n, sc_client_message *out, sc_problem *problem);

/* Whether only a role "control" may send this (prompt, pause, resume). */
bool sc_client_kind_needs_control(sc_client_kind kind);
const char *sc_client_kind_name(sc_client_kind kind);

/* {"type":"hello","session":id,"role":"control","protocol":1,"newest_frame":n}; newest_frame < 0: null, nothing shown yet. */
size_t sc_message_hello(char *buf, size_t cap, const char *session_id, const char *role, int64_t newest_frame);

typedef enum { SC_PROMPT_RECEIVED, SC_PROMPT_APPLIED, SC_PROMPT_SHOWN, SC_PROMPT_SUPERSEDED } sc_prompt_state;

/* {"type":"prompt","seq":s,"state":"received","prompt":text,"chunk":c,"transition":word,"ref":ref}
 * chunk < 0: null (not known yet); transition SC_WIRE_NOT_GIVEN: null (the first prompt); ref NULL or "": left out. */
size_t sc_message_prompt(char *buf, size_t cap, uint32_t seq, sc_prompt_state state, const char *prompt, size_t prompt_bytes,
                         int64_t chunk, sc_wire_transition transition, const char *ref);

typedef struct {
    uint64_t chunk;
    double wait_ms, denoise_ms, decode_ms, encode_ms;
    double lateness_ms; /* against the playout clock; negative = early */
} sc_chunk_times;

/* {"type":"chunk","chunk":n,"wait_ms":..,"denoise_ms":..,"decode_ms":..,"encode_ms":..,"lateness_ms":..} */
size_t sc_message_chunk(char *buf, size_t cap, const sc_chunk_times *t);

/* {"type":"state","state":word,"reason":text}; reason NULL: left out. */
size_t sc_message_state(char *buf, size_t cap, const char *state, const char *reason);

/* {"type":"viewers","count":n} */
size_t sc_message_viewers(char *buf, size_t cap, int count);

typedef struct {
    int64_t frame, chunk;     /* newest of the session; < 0: null */
    int viewers;
    uint64_t sent, dropped;   /* frames, this viewer */
    int64_t lag_frames;       /* newest frame minus the last ack; < 0: null, no ack yet */
    double lookahead_s;       /* stream time made but not yet due */
} sc_viewer_stats;

/* {"type":"stats","frame":..,"chunk":..,"viewers":..,"sent":..,"dropped":..,"lag_frames":..,"lookahead_s":..} */
size_t sc_message_stats(char *buf, size_t cap, const sc_viewer_stats *s);

/* {"type":"error","problem":{...},"ref":ref}; ref NULL or "": left out. */
size_t sc_message_error(char *buf, size_t cap, const sc_problem *problem, const char *ref);

/* {"type":"pong","t":t,"server_us":us}; us is the same clock as the frame header's sent_us. */
size_t sc_message_pong(char *buf, size_t cap, double t, uint64_t server_us);

#endif

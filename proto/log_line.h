/* log_line.h - a session's log, line by line: what is written down while a stream is made, and all that making it again needs.
 *
 * One JSON object a line. `event` numbers the events of a session from 1, without end and without a number twice:
 *
 *     {"event":1,"type":"session","format":1,"session":id,"created":1764547200,"model":..,"digest":..,"device":"cpu",...,"seed":"7","seq":1,"prompt":..}
 *     {"event":2,"type":"chunk","chunk":0,"first_frame":0,"frames":9,"hash":"32 hex digits"}
 *     {"event":3,"type":"prompt","chunk":1,"seq":2,"prompt":..,"transition":"switch"}              chunk 1 is the first that is made under it
 *     {"event":4,"type":"chunk","chunk":1,"first_frame":9,"frames":12,"hash":..}
 *     {"event":5,"type":"fork","chunk":2,"session":id,"from":id,"created":..,"seed":"8"}
 *     {"event":6,"type":"end","state":"ended","reason":"session deleted"}
 *
 *   session  comes first. What decides about frames: the model with its digest, what it ran on, the memory's kind, the seed, the first prompt
 *            (even when another replaced it before chunk 0: a blend begins at it).
 *   prompt   took hold. Who sent it, and how, does not matter, nor do those that others replaced before their chunk: they touched no frame.
 *   chunk    hash: base/frame_hash.h over its frames, I420 planes one after the other, as the decoder gave them and before any JPEG.
 *   fork     a fork's log begins with all of its source's, whose `session` line stands first; from this chunk on the stream is its own.
 *   end      the last one.
 *   lost     {"type":"lost","from":3,"to":90,"prompts":false}: stands where events are that are not kept any more. prompts: a prompt or a fork is
 *            among them, so that nobody can make the stream again.
 *
 * Written and read by the same table of fields, so that what is written can be read. Any thread. */
#ifndef SC_PROTO_LOG_LINE_H
#define SC_PROTO_LOG_LINE_H
#include "base/frame_hash.h"
#include "proto/json_out.h"
#include "proto/problem.h"
#include "proto/requests.h"
#include "proto/session_json.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SC_LOG_FORMAT = 1, SC_LOG_LINE_MAX = 32768 /* bytes; a prompt of 4096 may be six times as long in JSON */ };

typedef enum { SC_LINE_SESSION, SC_LINE_FORK, SC_LINE_PROMPT, SC_LINE_CHUNK, SC_LINE_END, SC_LINE_LOST } sc_log_line_kind;
const char *sc_log_line_kind_name(sc_log_line_kind kind);

/* Of SESSION: what made the frames. */
typedef struct {
    char model[64], digest[65];
    char device[16], machine[128]; /* as it was asked for: "cpu"; in its own words */
    char text_device[16], memory[16]; /* as asked for; "model": as the model says */
    int width, height, steps, first_chunk_frames, chunk_frames;
} sc_log_made;

/* Numbers are below 2^53, but for seeds. */
typedef struct {
    sc_log_line_kind kind;
    uint64_t event;                      /* LOST: the first one that is */
    uint64_t last;                       /* LOST: the last one */
    bool prompts;                        /* LOST */
    char session[SC_ID_CHARS + 1];       /* SESSION, FORK */
    char from[SC_ID_CHARS + 1];          /* FORK */
    int64_t created;                     /* SESSION, FORK: Unix seconds */
    uint64_t seed;                       /* SESSION, FORK */
    sc_log_made made;                    /* SESSION */
    uint64_t chunk;                      /* FORK, PROMPT, CHUNK */
    uint32_t seq;                        /* SESSION, PROMPT */
    char prompt[SC_PROMPT_TEXT_MAX + 1]; /* SESSION, PROMPT */
    size_t prompt_bytes;
    sc_wire_transition transition;       /* PROMPT */
    int blend_chunks;                    /* PROMPT with a blend: over how many; else 0 */
    uint64_t first_frame;                /* CHUNK */
    int frames;
    char hash[SC_FRAME_HASH_CHARS + 1];
    char state[8], reason[160];          /* END: "ended" or "failed"; "" is left out */
} sc_log_line;

/* The object, as a bare value. */
void sc_log_line_write(sc_json_out *o, const sc_log_line *l);

/* One line of n bytes, without its newline. False: *p says what is wrong (see requests.h). */
bool sc_log_line_read(const char *text, size_t n, sc_log_line *out, sc_problem *p);

#endif

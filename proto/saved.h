/* saved.h - what a daemon writes down of a session beside its memory, when it saves it: one JSON object.
 *
 *     {"format":1,"session":id,"saved":1764547200,"chunk":12,"pts_us":8812500,...,"prompt":..,"prompt_seq":2,...,"fps":16,...,"schedule":{..}}
 *
 * The prompt is the one that the next chunk will be made under. The schedule is what is to come of it, in the form of PUT. Written and read along one
 * table. Any thread. */
#ifndef SC_PROTO_SAVED_H
#define SC_PROTO_SAVED_H
#include "proto/json_out.h"
#include "proto/problem.h"
#include "proto/program.h"
#include "proto/requests.h"
#include "proto/session_json.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SC_SAVED_FORMAT = 1, SC_SNAPSHOT_NAME_MAX = 64, SC_SAVED_BYTES_MAX = 1 << 20 /* 65 prompts of 4096 bytes that may be longer in JSON */ };

/* Numbers are below 2^53. */
typedef struct {
    char session[SC_ID_CHARS + 1];       /* that was saved */
    int64_t saved;                       /* Unix seconds */
    uint64_t chunk;                      /* the next one */
    uint64_t pts_us, last_pts_us;        /* of its first frame; of the frame before that */
    uint32_t prompt_seq, newest_seq, logged_seq; /* in force; newest that was taken; newest in the log */
    uint64_t prompt_chunk;
    char prompt[SC_PROMPT_TEXT_MAX + 1];
    size_t prompt_bytes;
    sc_wire_transition transition;       /* of prompts that name none; may be SC_WIRE_NOT_GIVEN */
    sc_wire_transition prompt_transition; /* with which the prompt in force came */
    char forked_from[SC_ID_CHARS + 1];   /* "": it is no fork; else that one's first own chunk */
    uint64_t forked_chunk;
    int64_t created;                     /* Unix seconds */
    int fps, jpeg_quality, lookahead_chunks, idle_timeout_s;
    bool run_without_viewers, paused;
} sc_saved;

/* One to SC_SNAPSHOT_NAME_MAX of A-Z a-z 0-9 - _, so that it is a file's name anywhere and no path. */
bool sc_snapshot_name_valid(const char *name, size_t n);

/* schedule: an object, or NULL. */
void sc_saved_write(sc_json_out *o, const sc_saved *s, const char *schedule, size_t schedule_bytes);

/* False: *p says what is wrong. *schedule is owned, sc_program_release(), or NULL. */
bool sc_saved_read(const char *text, size_t n, sc_saved *out, sc_program **schedule, sc_problem *p);

/* {"name":"dawn"}: the body of save and of restore. */
bool sc_request_snapshot(const char *body, size_t n, char name[SC_SNAPSHOT_NAME_MAX + 1], sc_problem *problem);

/* What save answers. Owned, free(); NULL when memory ran out. */
char *sc_saved_json(const char *name, const char *session, uint64_t chunk, uint64_t bytes, int64_t created, size_t *n);

#endif

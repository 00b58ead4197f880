/* requests.h - bodies of HTTP requests into structs.
 *
 * A function returns true and fills *out, or returns false and fills *problem:
 *     400  not JSON (place and reason), not UTF-8, not an object
 *     413  longer than SC_BODY_BYTES_MAX
 *     422  JSON, but fields are wrong: all of them are named (up to 16), with what was found and what is allowed
 *     500  out of memory
 * Nothing is defaulted here: a field that was not given says so, the server has the defaults. Any thread. */
#ifndef SC_PROTO_REQUESTS_H
#define SC_PROTO_REQUESTS_H
#include "proto/problem.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SC_BODY_BYTES_MAX = 65536, SC_PROMPT_TEXT_MAX = 4096 };

/* Same words and same order as the engine's sc_transition: the server casts, behind a static assertion. */
typedef enum { SC_WIRE_SWITCH, SC_WIRE_BLEND, SC_WIRE_RECACHE, SC_WIRE_FLUSH, SC_WIRE_CUT, SC_WIRE_NOT_GIVEN } sc_wire_transition;

const char *sc_wire_transition_name(sc_wire_transition t); /* NULL for SC_WIRE_NOT_GIVEN */
bool sc_wire_transition_parse(const char *word, sc_wire_transition *out);

typedef struct {
    char prompt[SC_PROMPT_TEXT_MAX + 1]; /* UTF-8, no NUL inside, NUL behind */
    size_t prompt_bytes;                 /* 1..4096 */
    bool has_seed;
    uint64_t seed;
    char model[64];                      /* "" not given */
    sc_wire_transition transition;       /* SC_WIRE_NOT_GIVEN */
    int fps;                             /* 1..60, 0 not given; likewise the rest */
    int jpeg_quality;                    /* 1..100 */
    int lookahead_chunks;                /* 1..4 */
    int idle_timeout_s;                  /* 1..86400 */
    int run_without_viewers;             /* 0, 1; -1 not given */
} sc_create_request;

typedef struct {
    bool has_prompt;
    char prompt[SC_PROMPT_TEXT_MAX + 1];
    size_t prompt_bytes;
    sc_wire_transition transition;       /* of the prompt: an error without one */
    enum { SC_PATCH_STATE_NOT_GIVEN, SC_PATCH_RUNNING, SC_PATCH_PAUSED } state;
    int fps, jpeg_quality, idle_timeout_s; /* 0 not given */
} sc_patch_request;

typedef struct {
    bool has_at_chunk, has_prompt, has_seed;
    uint64_t at_chunk;                   /* below 2^53 */
    char prompt[SC_PROMPT_TEXT_MAX + 1];
    size_t prompt_bytes;
    uint64_t seed;
} sc_fork_request;

/* *schedule: what `schedule` says (proto/program.h), owned, sc_program_release(); NULL: it was not given, or is empty. */
struct sc_program;
bool sc_request_create(const char *body, size_t n, sc_create_request *out, struct sc_program **schedule, sc_problem *problem);

/* At least one field is needed. */
bool sc_request_patch(const char *body, size_t n, sc_patch_request *out, sc_problem *problem);

/* No field is needed. */
bool sc_request_fork(const char *body, size_t n, sc_fork_request *out, sc_problem *problem);

/* {"role":"control"} or {"role":"watch"}; the role is needed. */
bool sc_request_ticket(const char *body, size_t n, bool *control, sc_problem *problem);

#endif

/* replay_plan.h - a session's log (proto/log_line.h) as the steps that make its stream again.
 *
 * What cannot be right is refused with the number of its line: what is no line of a log, lines out of order or left out, chunks whose frames do not add
 * up, a log that has lost prompts. Hashes that are lost are only not compared. */
#ifndef SC_CLI_REPLAY_PLAN_H
#define SC_CLI_REPLAY_PLAN_H
#include "base/status.h"
#include "proto/log_line.h"
#include <stddef.h>

enum { SC_REPLAY_BYTES_MAX = 64 << 20 };

typedef struct {
    sc_log_line_kind kind;        /* PROMPT, FORK: before this chunk begins; CHUNK: its frames */
    int line;
    uint64_t chunk, seed;
    uint32_t seq;
    sc_wire_transition transition;
    int blend_chunks;
    char *prompt;                 /* owned; of PROMPT, else NULL */
    size_t prompt_bytes;
    char hash[SC_FRAME_HASH_CHARS + 1];
} sc_replay_step;

typedef struct {
    sc_log_line session;          /* the first line */
    char id[SC_ID_CHARS + 1];     /* whose log it is: the session's, or the newest fork's */
    sc_replay_step *step;
    size_t count, room, end;      /* end: behind the last chunk; what comes later is not seen */
    uint64_t compared, chunks;    /* hashes; chunks up to the last of them */
    bool forks;                   /* with another seed */
} sc_replay_plan;

/* Errors: SC_EINVAL (the line and what is wrong with it), SC_ENOMEM. After one *p is empty. */
sc_status sc_replay_plan_read(sc_replay_plan *p, const char *text, size_t n, sc_error *err);
void sc_replay_plan_free(sc_replay_plan *p);

#endif

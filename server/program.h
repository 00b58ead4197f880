/* program.h - which prompt of a schedule comes when: the arithmetic, without sockets, threads or engine.
 *
 * A prompt applies to a chunk that begins, so a moment of the stream becomes the chunk that holds it. A clock says where the stream stands: the first
 * chunk whose frames are not out yet, and its presentation time. From there on chunks are counted at today's frame rate; what has been is in pts_us,
 * whatever the rate was then. So a schedule in seconds stays one when fps changes, and pausing stops it.
 *
 *     chunk    0        1           2           3            first chunk 9 frames, later ones 12; at 16 fps a chunk takes 0.75 s
 *     pts      0      0.5625      1.3125      2.0625 s       1.5 s -> chunk 2
 *
 * An entry is handed over while the chunk before its own is in work: as soon as its chunk is the next one that begins ("earliest"). What has been
 * handed over is a prompt like any other. A loop counts rounds: entry i of round r is at entry[i].at + r * period, so nothing drifts. Pure, any thread. */
#ifndef SC_SERVER_PROGRAM_H
#define SC_SERVER_PROGRAM_H
#include "proto/problem.h"
#include "proto/program.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint64_t chunk, pts_us;    /* the first chunk whose frames are not out; the moment of its first frame */
    int fps, frames_first, frames_chunk;
} sc_program_clock;

typedef struct {
    int next;                  /* entry that is handed over next; == count: none */
    uint64_t round, base_us;   /* rounds done; where a relative schedule began */
    struct { int entry; uint32_t seq; uint64_t chunk; } given, before; /* newest that was handed over; the one in force when that was. seq 0: none */
} sc_program_state;

/* The chunk that holds this moment; for one that is past, some chunk that has begun. */
uint64_t sc_program_chunk_of(const sc_program_clock *c, uint64_t us);
/* The moment at which `chunk` (not before c->chunk) begins, rounded up. */
uint64_t sc_program_moment_of(const sc_program_clock *c, uint64_t chunk);

/* A schedule is given to a stream whose next chunk to begin is `earliest`. False: *p names every entry whose chunk has begun already (409), or that
 * does not come after the one before it (422). */
bool sc_program_begin(const sc_program *g, const sc_program_clock *c, uint64_t earliest, const char *prefix, sc_program_state *out, sc_problem *p);

/* The chunk of the next entry; UINT64_MAX: there is none (g may be NULL). */
uint64_t sc_program_next_chunk(const sc_program *g, const sc_program_state *s, const sc_program_clock *c);

/* The entry whose turn it is, s->next, or -1. Entries that it overtakes are left out: a change of fps can bring two into one chunk. */
int sc_program_due(const sc_program *g, sc_program_state *s, const sc_program_clock *c, uint64_t earliest);

/* s->next is done with. Given as prompt `seq` for `chunk`; seq 0: it could not be taken. in_force: of the prompt in force now. */
void sc_program_gave(const sc_program *g, sc_program_state *s, uint32_t seq, uint64_t chunk, uint32_t in_force);

/* What GET answers. A loop shows each entry once. in_force, newest: seq of the prompt in force, of the newest prompt. */
void sc_program_look(const sc_program *g, const sc_program_state *s, const sc_program_clock *c, uint32_t in_force, uint32_t newest, sc_program_view *out);

/* What is to come of it, as a body of PUT that begins the same at this clock: a loop is turned, so that the entry that comes next is its first. Owned,
 * free(); NULL when nothing is to come (*n 0) or memory ran out (*n 1). */
char *sc_program_rest(const sc_program *g, const sc_program_state *s, const sc_program_clock *c, size_t *n);

#endif

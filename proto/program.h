/* program.h - the schedule of a session, "prompts to come", as it is written: JSON in, a shared object out, and what GET answers.
 *
 * (A program in code, a schedule on the wire: engine/schedule.h has that name for its noise levels.) Two forms:
 *
 *     {"prompts":[{"at_chunk":12,"prompt":"snow","transition":"cut"},{"at_s":20.5,"prompt":"rain"}]}
 *         at_chunk   the chunk that begins under this prompt
 *         at_s       or a moment of the stream, seconds from its first frame: the chunk that holds it
 *         for_chunks, for_s   with "loop":true, of the last one alone: how long it stays before all begins again. With loop all entries have the
 *                             same unit.
 *     {"text":"a cat[5s] | a dog[2.5s] | snow"}
 *         one after the other, from the next chunk that begins on; square brackets at the end of a prompt are its length. With "loop":true the last
 *         one has one too.
 *
 * Which chunks these are, and whether they have begun, is for server/program.h, which knows where the stream stands. What cannot be right anywhere
 * is refused here: both forms or none, more than 64 entries, lengths out of range, prompts as everywhere. Nothing of it depends on a session, so an
 * object is never changed: whoever holds one shares it, reference counted. Any thread. */
#ifndef SC_PROTO_PROGRAM_H
#define SC_PROTO_PROGRAM_H
#include "proto/problem.h"
#include "proto/requests.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cJSON;

enum { SC_PROGRAM_ENTRIES_MAX = 64, SC_PROGRAM_AT_S_MAX = 1000000000, SC_PROGRAM_FOR_S_MAX = 86400, SC_PROGRAM_FOR_CHUNKS_MAX = 1000000 };

typedef struct {
    uint64_t at;               /* chunk, or microseconds where timed */
    bool timed;
    sc_wire_transition transition; /* SC_WIRE_NOT_GIVEN: as the session has it */
    uint32_t text, bytes;      /* where in texts its prompt begins; 1..4096 bytes, NUL behind */
} sc_program_entry;

struct sc_program {
    atomic_int refs;
    int count;                 /* 1..64 */
    bool loop;
    bool relative;             /* text: `at` counts from where the schedule begins */
    uint64_t period;           /* loop: from the first entry to where it comes again, in the unit of the entries */
    sc_program_entry entry[SC_PROGRAM_ENTRIES_MAX];
    size_t text_bytes;
    char texts[];
};
typedef struct sc_program sc_program;

static inline const char *sc_program_prompt(const sc_program *g, int i) { return g->texts + g->entry[i].text; }

/* The body of PUT. True: *out is it, owned, or NULL for an empty list. False: see requests.h. */
bool sc_request_program(const char *body, size_t n, sc_program **out, sc_problem *problem);

/* The same from an object, for the field `schedule` of another body: pointers begin with `prefix`. What it reads it takes away. False: *p says more. */
bool sc_program_read(struct cJSON *o, const char *prefix, sc_program **out, sc_problem *p);

sc_program *sc_program_retain(sc_program *g);   /* NULL is fine, in both */
void sc_program_release(sc_program *g);
bool sc_program_same(const sc_program *a, const sc_program *b); /* the same words for the same places; NULL is like NULL */

/* What GET answers. */
typedef struct {
    const sc_program *program;  /* borrowed; NULL: none, all else is 0 */
    int in_force;               /* which entry; -1: none of them is */
    uint32_t in_force_seq;
    int count;
    struct { int entry; uint64_t chunk; uint32_t seq; } coming[SC_PROGRAM_ENTRIES_MAX]; /* seq 0: not handed over yet, null */
} sc_program_view;

/* {"loop":false,"in_force":{"entry":0,"prompt":..,"seq":2},"prompts":[{"entry":1,"at_chunk":12,"prompt":..,"transition":..,"seq":null}]}
 * Owned, free(); NULL when memory ran out. */
char *sc_program_json(const sc_program_view *v, size_t *n);

#endif

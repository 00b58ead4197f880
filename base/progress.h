/* progress.h - says on stderr how far the loading of a model has come.
 *
 * On a terminal: one line, written anew. Elsewhere: a log line (info) at each tenth, so a program that logs only warnings stays silent.
 * A model that is there within half a second is not worth a word. Thread: one at a time. */
#ifndef SC_BASE_PROGRESS_H
#define SC_BASE_PROGRESS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    bool terminal, shown; /* shown: the line stands on the terminal */
    bool fresh;           /* the last step brought a new percentage, and at least 100 ms had passed: time for other listeners */
    int percent, tenth;
    uint64_t start_ns, told_ns;
} sc_progress;

void sc_progress_begin(sc_progress *p);

/* `done` of `all` bytes; of the form of sc_engine_options.progress, ctx is the sc_progress. */
void sc_progress_step(void *ctx, const char *what, size_t done, size_t all);

void sc_progress_end(sc_progress *p); /* takes the line away; also after a failure */

#endif

/* plan.h - which session runs next, and when: the arithmetic of the scheduler without threads or clocks.
 *
 * Every session has one job: the work left until the first frame of its next chunk is out. Its deadline is the moment playback runs
 * dry. Two rules make the plan:
 *
 *     earliest deadline first     among jobs that may run now, the one whose viewers would notice first
 *     just in time                a chunk that has not begun waits as long as everything can still be ready, because a prompt
 *                                 applies to the next chunk that begins: a chunk made early is a prompt answered late
 *
 * "As long as" is found backwards: the job with the last deadline is laid right before it, the one before ends where that begins (or at
 * its own deadline), and so on:
 *
 *     now ....[ job A ][ job B ]..|dA ...[ job C ]|dC        A may wait until its left edge
 *
 * Work that has begun goes on at once: waiting would gain nothing. Pure, any thread. */
#ifndef SC_SERVER_PLAN_H
#define SC_SERVER_PLAN_H
#include <stdbool.h>
#include <stdint.h>

#define SC_NEVER UINT64_MAX
enum { SC_PLAN_JOBS_MAX = 64, SC_WINDOW_SAMPLES = 64 };

typedef struct {
    uint64_t deadline_ns;    /* playback runs dry; SC_NEVER: nobody waits */
    uint64_t remaining_ns;   /* expected work until the chunk's first frame is out */
    uint64_t not_before_ns;  /* look-ahead: a chunk must not begin earlier; 0 for none */
    bool started;            /* the chunk has begun, or what comes is the end of the last one */
} sc_plan_job;

/* The job to run a pass of, or -1; then *wake_ns says when to ask again (SC_NEVER: only when something happens). n <= SC_PLAN_JOBS_MAX.
 * margin_ns is kept free before every deadline. Equal deadlines: begun work first, then the lower index. */
int sc_plan_pick(const sc_plan_job *jobs, int n, uint64_t now_ns, uint64_t margin_ns, uint64_t *wake_ns);

/* Which jobs may run now: begun, or their time has come. Returns the earliest start among the others (SC_NEVER: none). */
uint64_t sc_plan_eligible(const sc_plan_job *jobs, int n, uint64_t now_ns, uint64_t margin_ns, bool *eligible);

/* The latest moment at which each job may begin with everything still in time; 0 when it is too late already. */
void sc_plan_latest_starts(const sc_plan_job *jobs, int n, uint64_t margin_ns, uint64_t *starts_ns);

/* How long to hold the second frame back when playback begins with `buffered` frames while `remaining_ns` of work stand before the next
 * ones: a picture that stands still once reads better than a stutter a moment later. At least one period. */
uint64_t sc_plan_preroll_ns(uint64_t remaining_ns, uint64_t margin_ns, int buffered, uint64_t period_ns);

/* How many more sessions like the running ones fit: each takes cost_ns of every chunk_ns. */
int sc_plan_fit(uint64_t cost_ns, uint64_t chunk_ns, int running);

/* The last samples of a measured time. */
typedef struct {
    uint32_t us[SC_WINDOW_SAMPLES];
    uint32_t count, at;
} sc_window;

void sc_window_add(sc_window *w, uint64_t ns);

/* The q-quantile (0..1, nearest rank) in nanoseconds; 0 when there is no sample. */
uint64_t sc_window_quantile(const sc_window *w, double q);

#endif

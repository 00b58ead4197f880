/* metrics.h - what the daemon counts, for GET /metrics.
 *
 * One process has one set of counters: relaxed atomics, any thread, no lock on the frame path. Times are kept in windows of the last
 * samples (quantiles) beside a sum and a count, as Prometheus summaries. */
#ifndef SC_SERVER_METRICS_H
#define SC_SERVER_METRICS_H
#include "server/plan.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

typedef struct {
    atomic_ullong frames_made, frames_sent, frames_dropped, bytes_sent;
    atomic_ullong chunks, late_chunks, passes[3]; /* denoise, decode, clean */
    atomic_ullong http_requests, http_errors, streams_refused, streams_opened, streams_closed_slow;
    atomic_ullong prompts, prompts_superseded, sessions_created, sessions_failed, forks, saved, restored, events_lost, videos_made, videos_failed;
    atomic_int sessions, viewers, pending_sockets, forks_waiting, event_readers, videos_queued, videos_in_progress;
} sc_counters;
extern sc_counters sc_count;

#define SC_COUNT(field, n) atomic_fetch_add_explicit(&sc_count.field, (n), memory_order_relaxed)

typedef enum { SC_TIME_DENOISE_PASS, SC_TIME_DECODE_PASS, SC_TIME_CLEAN_PASS, SC_TIME_ENCODE, SC_TIME_LATENESS, SC_TIME_PROMPT_TO_PHOTON,
               SC_TIME_CREATE, SC_TIMES } sc_time;
void sc_metrics_time(sc_time which, uint64_t ns);
void sc_metrics_quantiles(sc_time which, uint64_t *p50_ns, uint64_t *p95_ns);

/* The exposition text: owned, free(). NULL: out of memory. */
char *sc_metrics_text(size_t *n);

#endif

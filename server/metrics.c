/* metrics.c - see metrics.h. */
#include "server/metrics.h"
#include <stdio.h>
#include <stdlib.h>

sc_counters sc_count;

static struct { sc_window window; uint64_t sum_ns, count; } times[SC_TIMES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static const struct { const char *name, *label, *help; } time_names[SC_TIMES] = {
    {"pass_seconds", "kind=\"denoise\"", "One pass of the engine."},
    {"pass_seconds", "kind=\"decode\"", NULL},
    {"pass_seconds", "kind=\"clean\"", NULL},
    {"encode_seconds", NULL, "JPEG encoding of one frame."},
    {"chunk_lateness_seconds", NULL, "How late chunks came against the playout clock; early ones count as 0."},
    {"prompt_to_photon_seconds", NULL, "From receiving a prompt to handing over the first frame made under it."},
    {"session_create_seconds", NULL, "From taking POST /v1/sessions to its answer."},
};

void sc_metrics_time(sc_time which, uint64_t ns) {
    pthread_mutex_lock(&lock);
    sc_window_add(&times[which].window, ns);
    times[which].sum_ns += ns;
    times[which].count++;
    pthread_mutex_unlock(&lock);
}

void sc_metrics_quantiles(sc_time which, uint64_t *p50_ns, uint64_t *p95_ns) {
    pthread_mutex_lock(&lock);
    *p50_ns = sc_window_quantile(&times[which].window, 0.5);
    *p95_ns = sc_window_quantile(&times[which].window, 0.95);
    pthread_mutex_unlock(&lock);
}

static void counter(FILE *f, const char *name, const char *help, unsigned long long v) {
    fprintf(f, "# HELP sparsecast_%s %s\n# TYPE sparsecast_%s counter\nsparsecast_%s %llu\n", name, help, name, name, v);
}

static void gauge(FILE *f, const char *name, const char *help, long v) {
    fprintf(f, "# HELP sparsecast_%s %s\n# TYPE sparsecast_%s gauge\nsparsecast_%s %ld\n", name, help, name, name, v);
}

static unsigned long long get(atomic_ullong *v) { return atomic_load_explicit(v, memory_order_relaxed); }

char *sc_metrics_text(size_t *n) {
    static const char *const kinds[3] = {"denoise", "decode", "clean"};
    char *text = NULL;
    FILE *f = open_memstream(&text, n);
    if (!f) return NULL;
    counter(f, "frames_made_total", "Frames decoded and encoded.", get(&sc_count.frames_made));
    counter(f, "frames_sent_total", "Frames handed to viewers.", get(&sc_count.frames_sent));
    counter(f, "frames_dropped_total", "Frames viewers did not get because newer ones were there.", get(&sc_count.frames_dropped));
    counter(f, "sent_bytes_total", "Bytes of frames handed to viewers.", get(&sc_count.bytes_sent));
    counter(f, "chunks_total", "Chunks decoded.", get(&sc_count.chunks));
    counter(f, "late_chunks_total", "Chunks that came after playback had run dry.", get(&sc_count.late_chunks));
    fprintf(f, "# HELP sparsecast_passes_total Engine passes.\n# TYPE sparsecast_passes_total counter\n");
    for (int i = 0; i < 3; i++) fprintf(f, "sparsecast_passes_total{kind=\"%s\"} %llu\n", kinds[i], get(&sc_count.passes[i]));
    counter(f, "http_requests_total", "HTTP requests answered.", get(&sc_count.http_requests));
    counter(f, "http_errors_total", "HTTP answers of 400 and above.", get(&sc_count.http_errors));
    counter(f, "streams_opened_total", "WebSocket streams opened.", get(&sc_count.streams_opened));
    counter(f, "streams_refused_total", "WebSocket handshakes refused.", get(&sc_count.streams_refused));
    counter(f, "streams_closed_slow_total", "Streams closed because nothing was taken for 10 s.", get(&sc_count.streams_closed_slow));
    counter(f, "prompts_total", "Prompts received.", get(&sc_count.prompts));
    counter(f, "prompts_superseded_total", "Prompts replaced before they applied.", get(&sc_count.prompts_superseded));
    counter(f, "sessions_created_total", "Sessions created.", get(&sc_count.sessions_created));
    counter(f, "forks_total", "Sessions that were forked from others; sessions_created_total counts them too.", get(&sc_count.forks));
    counter(f, "snapshots_saved_total", "Snapshots that were written.", get(&sc_count.saved));
    counter(f, "sessions_restored_total", "Sessions that were made of snapshots; sessions_created_total counts them too.", get(&sc_count.restored));
    counter(f, "sessions_failed_total", "Sessions that failed.", get(&sc_count.sessions_failed));
    counter(f, "videos_made_total", "Videos that were completed.", get(&sc_count.videos_made));
    counter(f, "videos_failed_total", "Videos that failed.", get(&sc_count.videos_failed));
    counter(f, "events_lost_total", "Messages to viewers dropped because a queue was full.", get(&sc_count.events_lost));
    gauge(f, "sessions", "Sessions now.", atomic_load(&sc_count.sessions));
    gauge(f, "forks_waiting", "Forks that wait for their chunk.", atomic_load(&sc_count.forks_waiting));
    gauge(f, "viewers", "Viewers now.", atomic_load(&sc_count.viewers));
    gauge(f, "event_readers", "Readers of sessions' events now.", atomic_load(&sc_count.event_readers));
    gauge(f, "videos_queued", "Videos that wait to be made.", atomic_load(&sc_count.videos_queued));
    gauge(f, "videos_in_progress", "Videos that are being made.", atomic_load(&sc_count.videos_in_progress));
    gauge(f, "pending_sockets", "Accepted sockets whose first request is not complete.", atomic_load(&sc_count.pending_sockets));
    for (int i = 0; i < SC_TIMES; i++) {
        pthread_mutex_lock(&lock);
        sc_window w = times[i].window;
        uint64_t sum = times[i].sum_ns, count = times[i].count;
        pthread_mutex_unlock(&lock);
        const char *name = time_names[i].name, *label = time_names[i].label;
        if (time_names[i].help) fprintf(f, "# HELP sparsecast_%s %s\n# TYPE sparsecast_%s summary\n", name, time_names[i].help, name);
        static const double qs[] = {0.5, 0.95, 0.99};
        for (int q = 0; q < 3; q++)
            fprintf(f, "sparsecast_%s{%s%squantile=\"%g\"} %.9g\n", name, label ? label : "", label ? "," : "", qs[q],
                    (double)sc_window_quantile(&w, qs[q]) * 1e-9);
        fprintf(f, "sparsecast_%s_sum%s%s%s %.9g\n", name, label ? "{" : "", label ? label : "", label ? "}" : "", (double)sum * 1e-9);
        fprintf(f, "sparsecast_%s_count%s%s%s %llu\n", name, label ? "{" : "", label ? label : "", label ? "}" : "",
                (unsigned long long)count);
    }
    if (fclose(f)) { free(text); return NULL; }
    return text;
}

/* progress.c - see progress.h. */
#include "base/progress.h"
#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <unistd.h>

static const uint64_t QUIET_NS = 500000000, STEP_NS = 100000000;

void sc_progress_begin(sc_progress *p) { *p = (sc_progress){.terminal = isatty(STDERR_FILENO), .percent = -1, .start_ns = sc_now_ns()}; }

void sc_progress_step(void *ctx, const char *what, size_t done, size_t all) {
    sc_progress *p = ctx;
    const uint64_t now = sc_now_ns();
    const int percent = all ? (int)((double)done * 100.0 / (double)all) : 100;
    const double gb = (double)done * 1e-9, of = (double)all * 1e-9, s = (double)(now - p->start_ns) * 1e-9;

    p->fresh = percent != p->percent && (now - p->told_ns >= STEP_NS || done == all);
    if (!p->fresh) return;
    p->percent = percent;
    p->told_ns = now;
    if (now - p->start_ns < QUIET_NS) return;
    if (p->terminal) {
        fprintf(stderr, "\rloading %d %%  %.2f of %.2f GB  %.1f GB/s  %s\033[K", percent, gb, of, gb / s, what);
        p->shown = true;
    } else if (percent / 10 > p->tenth) {
        p->tenth = percent / 10;
        sc_log(SC_LOG_INFO, "load", "percent=%d gb=%.2f all_gb=%.2f gb_s=%.1f part=\"%s\"", percent, gb, of, gb / s, what);
    }
}

void sc_progress_end(sc_progress *p) {
    if (p->shown) fputs("\r\033[K", stderr);
    p->shown = false;
}

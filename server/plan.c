/* plan.c - see plan.h. Up to 64 jobs: insertion sort on a copy of indices is all the machinery there is. */
#include "server/plan.h"
#include <assert.h>
#include <string.h>

static uint64_t minus(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

static uint64_t due(const sc_plan_job *j, uint64_t margin_ns) {
    return j->deadline_ns == SC_NEVER ? SC_NEVER : minus(j->deadline_ns, margin_ns);
}

void sc_plan_latest_starts(const sc_plan_job *jobs, int n, uint64_t margin_ns, uint64_t *starts_ns) {
    int order[SC_PLAN_JOBS_MAX];
    uint64_t edge = SC_NEVER; /* where the work laid so far begins */

    assert(n >= 0 && n <= SC_PLAN_JOBS_MAX);
    for (int i = 0; i < n; i++) { /* last deadline first */
        int k = i;
        for (; k > 0 && jobs[order[k - 1]].deadline_ns < jobs[i].deadline_ns; k--) order[k] = order[k - 1];
        order[k] = i;
    }
    for (int k = 0; k < n; k++) {
        const sc_plan_job *j = &jobs[order[k]];
        uint64_t end = due(j, margin_ns);
        if (end == SC_NEVER) { starts_ns[order[k]] = SC_NEVER; continue; } /* nobody waits: takes no room in the plan */
        if (end > edge) end = edge;
        edge = minus(end, j->remaining_ns);
        starts_ns[order[k]] = edge;
    }
}

uint64_t sc_plan_eligible(const sc_plan_job *jobs, int n, uint64_t now_ns, uint64_t margin_ns, bool *eligible) {
    uint64_t starts[SC_PLAN_JOBS_MAX], next = SC_NEVER;
    sc_plan_latest_starts(jobs, n, margin_ns, starts);
    for (int i = 0; i < n; i++) {
        uint64_t start = starts[i] > jobs[i].not_before_ns ? starts[i] : jobs[i].not_before_ns;
        eligible[i] = jobs[i].started || start <= now_ns;
        if (!eligible[i] && start < next) next = start;
    }
    return next;
}

int sc_plan_pick(const sc_plan_job *jobs, int n, uint64_t now_ns, uint64_t margin_ns, uint64_t *wake_ns) {
    bool eligible[SC_PLAN_JOBS_MAX];
    int best = -1;

    *wake_ns = sc_plan_eligible(jobs, n, now_ns, margin_ns, eligible);
    for (int i = 0; i < n; i++) {
        const sc_plan_job *j = &jobs[i];
        if (!eligible[i]) continue;
        if (best < 0 || j->deadline_ns < jobs[best].deadline_ns ||
            (j->deadline_ns == jobs[best].deadline_ns && j->started && !jobs[best].started)) best = i;
    }
    return best;
}

uint64_t sc_plan_preroll_ns(uint64_t remaining_ns, uint64_t margin_ns, int buffered, uint64_t period_ns) {
    uint64_t hold = minus(remaining_ns + margin_ns, (uint64_t)(buffered > 0 ? buffered : 0) * period_ns);
    return hold > period_ns ? hold : period_ns;
}

int sc_plan_fit(uint64_t cost_ns, uint64_t chunk_ns, int running) {
    if (!cost_ns) return SC_PLAN_JOBS_MAX;
    int all = (int)(chunk_ns / cost_ns);
    return all > running ? all - running : 0;
}

void sc_window_add(sc_window *w, uint64_t ns) {
    uint64_t us = (ns + 500) / 1000;
    w->us[w->at] = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
    w->at = (w->at + 1) % SC_WINDOW_SAMPLES;
    if (w->count < SC_WINDOW_SAMPLES) w->count++;
}

uint64_t sc_window_quantile(const sc_window *w, double q) {
    uint32_t sorted[SC_WINDOW_SAMPLES];
    if (!w->count) return 0;
    for (uint32_t i = 0; i < w->count; i++) {
        uint32_t k = i;
        for (; k > 0 && sorted[k - 1] > w->us[i]; k--) sorted[k] = sorted[k - 1];
        sorted[k] = w->us[i];
    }
    double rank = q * w->count;
    uint32_t i = rank <= 1 ? 0 : (uint32_t)(rank + 0.999999) - 1;
    if (i >= w->count) i = w->count - 1;
    return (uint64_t)sorted[i] * 1000;
}

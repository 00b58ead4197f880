/* schedule.c - see schedule.h. Source: Self-Forcing's utils/scheduler.py, FlowMatchScheduler. */
#include "engine/schedule.h"

#include <math.h>

void sc_schedule_init(sc_schedule *s, double shift, bool exact) {
    s->exact = exact;
    s->shift = shift;
    for (int i = 0; i < SC_SCHEDULE_ENTRIES; i++) {
        double u = 1.0 - i / (double)SC_SCHEDULE_ENTRIES;
        double sigma = shift * u / (1.0 + (shift - 1.0) * u);
        s->sigma[i] = (float)sigma;
        s->timestep[i] = (float)(1000.0 * sigma);
    }
}

double sc_schedule_warp(const sc_schedule *s, int step) {
    if (step <= 0) return 0.0;
    if (s->exact) {
        double u = step / 1000.0;
        return 1000.0 * s->shift * u / (1.0 + (s->shift - 1.0) * u);
    }
    return s->timestep[SC_SCHEDULE_ENTRIES - step];
}

int sc_schedule_nearest(const sc_schedule *s, double timestep) {
    int best = 0;
    double gap = INFINITY;
    for (int i = 0; i < SC_SCHEDULE_ENTRIES; i++) {
        double g = fabs(s->timestep[i] - timestep);
        if (g < gap) { gap = g; best = i; }
    }
    return best;
}

double sc_schedule_sigma(const sc_schedule *s, double timestep) {
    return s->exact ? timestep / 1000.0 : s->sigma[sc_schedule_nearest(s, timestep)];
}

/* schedule.h - timesteps and noise levels of flow matching. Pure arithmetic.
 *
 * Two forms. Table (Wan family): the reference's FlowMatchScheduler has 1000 float32 entries, u_i = 1 - i/1000,
 * sigma_i = s u_i / (1 + (s - 1) u_i), timestep_i = 1000 sigma_i; a step n of the config is timestep_(1000-n) (0 for n = 0), and
 * sigma(t) is the sigma of the nearest entry, so t = 0 gives sigma_999. Exact (pocket): t = 1000 s u / (1 + (s - 1) u) with
 * u = n / 1000, sigma = t / 1000. */
#ifndef SC_ENGINE_SCHEDULE_H
#define SC_ENGINE_SCHEDULE_H
#include <stdbool.h>

enum { SC_SCHEDULE_ENTRIES = 1000 };

typedef struct {
    bool exact;
    double shift;
    float sigma[SC_SCHEDULE_ENTRIES], timestep[SC_SCHEDULE_ENTRIES];
} sc_schedule;

void sc_schedule_init(sc_schedule *s, double shift, bool exact);
double sc_schedule_warp(const sc_schedule *s, int step);      /* timestep of step n in 0..1000 */
int sc_schedule_nearest(const sc_schedule *s, double timestep); /* table index; ties: lower index */
double sc_schedule_sigma(const sc_schedule *s, double timestep);

#endif

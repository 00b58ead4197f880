/* clock.h - monotonic time. */
#ifndef SC_BASE_CLOCK_H
#define SC_BASE_CLOCK_H
#include <stdint.h>
#include <time.h>

/* Nanoseconds since some fixed moment (CLOCK_MONOTONIC). */
static inline uint64_t sc_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#endif

/* kernels_decoder.h - what the tests of the sampler and of the decoder's operations share: devices, one per instruction set,
 * outputs between guard words, numbers. */
#ifndef SC_TESTS_KERNELS_DECODER_H
#define SC_TESTS_KERNELS_DECODER_H
#include "kernels/ops.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { GUARD = 16 };

/* The twin and the fast path of one instruction set; fast is NULL where the processor lacks it. */
typedef struct {
    const char *isa;
    sc_device *twin, *fast;
} devices;

static inline sc_device *open_fast(const char *isa, int threads) {
    sc_device *dev;
    sc_error err;
    setenv("SC_CPU_ISA", isa, 1);
    return sc_device_open(&dev, "cpu", threads, SC_F32, &err) ? NULL : dev;
}

static inline int open_devices(void **state, const char *isa) {
    devices *d = calloc(1, sizeof *d);
    sc_error err;
    if (!d || sc_device_open(&d->twin, "twin", 1, SC_F32, &err)) return -1;
    d->isa = isa;
    d->fast = open_fast(isa, 2);
    *state = d;
    return 0;
}
static inline int setup_avx512(void **state) { return open_devices(state, "avx512"); }
static inline int setup_avx2(void **state) { return open_devices(state, "avx2"); }
static inline int setup_portable(void **state) { return open_devices(state, "portable"); }

static inline int teardown(void **state) {
    devices *d = *state;
    sc_device_close(d->fast);
    sc_device_close(d->twin);
    free(d);
    return 0;
}

#define EVERY_ISA(test)                                                                                                            \
    {#test " (avx512)", test, setup_avx512, teardown, NULL}, {#test " (avx2)", test, setup_avx2, teardown, NULL},                    \
        {#test " (portable)", test, setup_portable, teardown, NULL}

/* `bytes` of poison (0xff: nan as floats) between guard words; release with guarded_free, which checks the guards. */
static inline void *guarded(size_t bytes) {
    char *p = malloc(bytes + 2 * GUARD);
    assert_non_null(p);
    memset(p, 0xa5, GUARD);
    memset(p + GUARD, 0xff, bytes);
    memset(p + GUARD + bytes, 0xa5, GUARD);
    return p + GUARD;
}

static inline void guarded_free(void *data, size_t bytes) {
    const unsigned char *p = (unsigned char *)data - GUARD;
    for (size_t i = 0; i < GUARD; i++) {
        assert_int_equal(p[i], 0xa5);
        assert_int_equal(p[GUARD + bytes + i], 0xa5);
    }
    free((void *)p);
}

static uint32_t test_seed = 1;

static inline float uniform(void) { /* [-1, 1) */
    test_seed = test_seed * 1664525u + 1013904223u;
    return (float)(int32_t)test_seed * 0x1p-31f;
}

static inline float *random_floats(size_t n, float scale) {
    float *p = malloc((n ? n : 1) * sizeof *p);
    assert_non_null(p);
    for (size_t i = 0; i < n; i++) p[i] = uniform() * scale;
    return p;
}

/* Places of nan and inf first, then values: |got - want| <= limit. Prints the worst. */
static inline void assert_close(const char *what, const float *got, const float *want, size_t n, double limit) {
    size_t worst = 0;
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        if (isfinite(got[i]) != isfinite(want[i])) fail_msg("%s: element %zu of %zu is %g, not %g", what, i, n, (double)got[i], (double)want[i]);
        double d = isfinite(want[i]) ? fabs((double)got[i] - (double)want[i]) : 0;
        if (d > most) {
            most = d;
            worst = i;
        }
    }
    if (most > limit) fail_msg("%s: element %zu of %zu is %.9g, not %.9g (limit %g)", what, worst, n, (double)got[worst], (double)want[worst], limit);
}

#endif

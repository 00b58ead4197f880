/* kernels_check.h - what the tests of the CPU kernels share: twin and fast device side by side, poisoned and guarded buffers,
 * seeded numbers, closeness.
 *
 * A group runs once per instruction set; one that this processor lacks is skipped, not passed. */
#ifndef SC_TESTS_KERNELS_CHECK_H
#define SC_TESTS_KERNELS_CHECK_H
#include "kernels/cpu/isa.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { GUARD = 32 };

struct pair { sc_device *twin, *fast; };

static inline int open_pair(void **state, const char *isa) {
    struct pair *p = calloc(1, sizeof *p);
    sc_error err = {0};

    assert_non_null(p);
    assert_int_equal(setenv("SC_CPU_ISA", isa, 1), 0);
    assert_int_equal(sc_twin_open(&p->twin, &err), SC_OK);
    if (sc_cpu_open(&p->fast, 3, &err)) printf("[  no %-7s ] %s\n", isa, err.text);
    *state = p;
    return 0;
}

static inline int open_amx(void **state) { return open_pair(state, "amx"); }
static inline int open_avx512(void **state) { return open_pair(state, "avx512"); }
static inline int open_avx2(void **state) { return open_pair(state, "avx2"); }
static inline int open_portable(void **state) { return open_pair(state, "portable"); }

static inline int close_pair(void **state) {
    struct pair *p = *state;
    sc_device_close(p->twin);
    sc_device_close(p->fast);
    free(p);
    return 0;
}

#define RUN_ON_EVERY_ISA(tests) \
    (cmocka_run_group_tests_name("avx512", tests, open_avx512, close_pair) + cmocka_run_group_tests_name("avx2", tests, open_avx2, close_pair) + \
     cmocka_run_group_tests_name("portable", tests, open_portable, close_pair))

/* n numbers of nan between guard words. Freed by release_guarded, which looks at the guards. */
static inline float *guarded(size_t n) {
    if (n >= SIZE_MAX / 64) abort(); /* the compiler sees through the callers' sizes and wants to know */
    float *p = malloc((n + 2 * GUARD) * sizeof *p);
    assert_non_null(p);
    memset(p, 0xff, (n + 2 * GUARD) * sizeof *p);
    return p + GUARD;
}

static inline void release_guarded(float *p, size_t n) {
    static const unsigned char want[GUARD * sizeof(float)] = {[0 ... GUARD * sizeof(float) - 1] = 0xff};
    assert_memory_equal(p - GUARD, want, sizeof want);
    assert_memory_equal(p + n, want, sizeof want);
    free(p - GUARD);
}

static uint64_t random_state;

static inline float random_number(void) { /* about normal: sum of four uniforms */
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        sum += (float)(random_state >> 40) / 16777216.0f - 0.5f;
    }
    return sum * 1.7320508f;
}

static inline float *random_floats(size_t n, uint64_t seed) {
    float *p = guarded(n);
    random_state = seed * 977 + 1;
    for (size_t i = 0; i < n; i++) p[i] = random_number();
    return p;
}

/* Places of nan and inf first, then |got - want| <= tolerance * max |want|. Prints the worst place. */
static inline void assert_close(const char *what, const float *got, const float *want, size_t n, double tolerance) {
    double largest = 0, worst = 0;
    size_t at = 0;

    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i]) != !isfinite(want[i])) fail_msg("%s: [%zu] is %g, wanted %g", what, i, (double)got[i], (double)want[i]);
        if (!isfinite(want[i])) continue;
        if (fabs((double)want[i]) > largest) largest = fabs((double)want[i]);
        if (fabs((double)got[i] - (double)want[i]) > worst) worst = fabs((double)got[i] - (double)want[i]), at = i;
    }
    if (worst > tolerance * largest)
        fail_msg("%s: [%zu] of %zu is %.9g, wanted %.9g: off by %.3g of %.3g, allowed %.3g", what, at, n, (double)got[at], (double)want[at], worst, largest,
                 tolerance * largest);
}

#endif

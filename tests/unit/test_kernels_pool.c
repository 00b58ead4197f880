/* test_kernels_pool.c - the thread pool: every item once, its work seen by the caller, thread numbers that are never shared.
 *
 * Made for the thread sanitizer, and for machines with fewer cores than threads, where workers come late, even into a later run.
 * Items write plain memory: a run that returns early, an item that is given out twice or a thread number in two hands is a race
 * there and a wrong number everywhere. */
#include "kernels/cpu/cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ITEMS = 3000, THREADS = 9 };

typedef struct {
    uint32_t done[ITEMS];        /* plain: an item is one thread's, and the caller's afterwards */
    uint32_t by_thread[THREADS]; /* plain: a thread number is one thread's */
    uint32_t run;
    int threads;
    bool bad;
} work;

static void item_of(void *ctx, int item, int thread) {
    work *w = ctx;
    if (thread < 0 || thread >= w->threads || item < 0 || item >= ITEMS) {
        w->bad = true;
        return;
    }
    w->done[item] += w->run;
    w->by_thread[thread]++;
}

static void run_and_look(sc_pool *pool, work *w, int items) {
    uint32_t all = 0;
    memset(w->by_thread, 0, sizeof w->by_thread);
    memset(w->done, 0, (size_t)items * sizeof *w->done);
    w->run++;
    sc_pool_run(pool, item_of, w, items);
    assert_false(w->bad);
    for (int i = 0; i < items; i++)
        if (w->done[i] != w->run) fail_msg("%d threads, run %u, item %d of %d: %u", w->threads, w->run, i, items, w->done[i]);
    for (int t = 0; t < w->threads; t++) all += w->by_thread[t];
    assert_int_equal(all, items);
}

static void every_item_runs_once_and_is_seen_by_the_caller(void **state) {
    static const int counts[] = {0, 1, 2, 3, 7, 8, 9, 10, 64, 500};
    (void)state;
    for (int threads = 1; threads <= THREADS; threads += threads < 3 ? 1 : 3) {
        sc_pool *pool = sc_pool_create(threads);
        work *w = calloc(1, sizeof *w);
        assert_true(pool && w);
        assert_int_equal(sc_pool_threads(pool), threads);
        w->threads = threads;
        for (int round = 0; round < 150; round++)
            for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) run_and_look(pool, w, counts[i]);
        run_and_look(pool, w, ITEMS);
        sc_pool_destroy(pool);
        free(w);
    }
}

/* Contexts of different runs share nothing: a late worker with the old one would write to freed memory. */
static void a_run_never_touches_the_context_of_one_before(void **state) {
    sc_pool *pool = sc_pool_create(4);
    (void)state;
    assert_non_null(pool);
    for (int round = 0; round < 1500; round++) {
        work *w = calloc(1, sizeof *w);
        assert_non_null(w);
        w->threads = 4;
        run_and_look(pool, w, 2 + round % 5);
        memset(w, 0xff, sizeof *w);
        free(w);
    }
    sc_pool_destroy(pool);
}

static void pools_come_and_go_used_or_not(void **state) {
    (void)state;
    for (int round = 0; round < 60; round++) {
        sc_pool *pool = sc_pool_create(1 + round % 6);
        work *w = calloc(1, sizeof *w);
        assert_true(pool && w);
        w->threads = 1 + round % 6;
        for (int i = 0; i < round % 3; i++) run_and_look(pool, w, 20);
        sc_pool_destroy(pool);
        free(w);
    }
    sc_pool_destroy(NULL);
    sc_pool *pool = sc_pool_create(0);
    assert_non_null(pool);
    assert_true(sc_pool_threads(pool) >= 1);
    sc_pool_destroy(pool);
}

/* Two devices in one process: each pool has its own caller. */
static void two_pools_do_not_meet(void **state) {
    sc_pool *pool[2] = {sc_pool_create(3), sc_pool_create(4)};
    work *w = calloc(2, sizeof *w);
    (void)state;
    assert_true(pool[0] && pool[1] && w);
    w[0].threads = 3;
    w[1].threads = 4;
    for (int round = 0; round < 600; round++) run_and_look(pool[round % 2], &w[round % 2], 5 + round % 11);
    sc_pool_destroy(pool[0]);
    sc_pool_destroy(pool[1]);
    free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_runs_once_and_is_seen_by_the_caller),
        cmocka_unit_test(a_run_never_touches_the_context_of_one_before),
        cmocka_unit_test(pools_come_and_go_used_or_not),
        cmocka_unit_test(two_pools_do_not_meet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

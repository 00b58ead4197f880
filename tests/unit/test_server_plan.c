/* test_server_plan.c - which session runs next, and when: earliest deadline first, just in time. Times in ms for the eye. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/plan.h"
#include <string.h>

#define MS(x) ((uint64_t)(x) * 1000000u)

static sc_plan_job job(uint64_t deadline_ms, uint64_t remaining_ms) {
    return (sc_plan_job){.deadline_ns = MS(deadline_ms), .remaining_ns = MS(remaining_ms)};
}

static void nothing_to_do_sleeps_for_ever(void **state) {
    uint64_t wake = 0;
    (void)state;
    assert_int_equal(sc_plan_pick(NULL, 0, MS(5), 0, &wake), -1);
    assert_true(wake == SC_NEVER);
}

static void a_chunk_begins_as_late_as_its_cost_allows(void **state) {
    sc_plan_job j[] = {job(1000, 600)};
    uint64_t wake;
    (void)state;
    assert_int_equal(sc_plan_pick(j, 1, MS(0), MS(25), &wake), -1);
    assert_int_equal(wake, MS(375));
    assert_int_equal(sc_plan_pick(j, 1, MS(374), MS(25), &wake), -1);
    assert_int_equal(sc_plan_pick(j, 1, MS(375), MS(25), &wake), 0);
    assert_int_equal(sc_plan_pick(j, 1, MS(5000), MS(25), &wake), 0); /* late already: at once */
}

static void begun_work_goes_on_at_once(void **state) {
    sc_plan_job j[] = {job(10000, 100)};
    uint64_t wake;
    (void)state;
    j[0].started = true;
    assert_int_equal(sc_plan_pick(j, 1, MS(0), MS(25), &wake), 0);
}

static void the_earliest_deadline_runs_first(void **state) {
    sc_plan_job j[] = {job(900, 500), job(800, 500), job(850, 500)};
    uint64_t wake;
    (void)state;
    assert_int_equal(sc_plan_pick(j, 3, MS(700), 0, &wake), 1);
    j[1].deadline_ns = MS(2000);
    assert_int_equal(sc_plan_pick(j, 3, MS(700), 0, &wake), 2);
}

static void of_equal_deadlines_begun_work_wins_then_the_lower_index(void **state) {
    sc_plan_job j[] = {job(900, 900), job(900, 900), job(900, 900)};
    uint64_t wake;
    (void)state;
    assert_int_equal(sc_plan_pick(j, 3, MS(0), 0, &wake), 0);
    j[2].started = true;
    assert_int_equal(sc_plan_pick(j, 3, MS(0), 0, &wake), 2);
}

static void jobs_are_laid_backwards_from_their_deadlines(void **state) {
    /* C ends at 3000; B at 1000; A must make room for B: it ends where B begins. */
    sc_plan_job j[] = {job(900, 300), job(1000, 400), job(3000, 500)};
    uint64_t starts[3];
    (void)state;
    sc_plan_latest_starts(j, 3, 0, starts);
    assert_int_equal(starts[2], MS(2500));
    assert_int_equal(starts[1], MS(600));
    assert_int_equal(starts[0], MS(300));
    sc_plan_latest_starts(j, 3, MS(100), starts);
    assert_int_equal(starts[2], MS(2400));
    assert_int_equal(starts[1], MS(500));
    assert_int_equal(starts[0], MS(200));
}

static void too_late_is_now(void **state) {
    sc_plan_job j[] = {job(100, 300), job(200, 300)};
    uint64_t starts[2];
    (void)state;
    sc_plan_latest_starts(j, 2, 0, starts);
    assert_int_equal(starts[0], 0);
    assert_int_equal(starts[1], 0);
}

static void a_job_nobody_waits_for_takes_no_room_and_begins_only_by_itself(void **state) {
    sc_plan_job j[] = {job(0, 500), job(1000, 400)};
    uint64_t starts[2], wake;
    (void)state;
    j[0].deadline_ns = SC_NEVER;
    sc_plan_latest_starts(j, 2, 0, starts);
    assert_true(starts[0] == SC_NEVER);
    assert_int_equal(starts[1], MS(600));
    assert_int_equal(sc_plan_pick(j, 2, MS(0), 0, &wake), -1);
    assert_int_equal(wake, MS(600));
    j[0].started = true; /* a clean pass after the last viewer left */
    assert_int_equal(sc_plan_pick(j, 2, MS(0), 0, &wake), 0);
    assert_int_equal(sc_plan_pick(j, 2, MS(600), 0, &wake), 1); /* but whoever has a deadline goes first */
}

static void look_ahead_is_not_exceeded(void **state) {
    sc_plan_job j[] = {job(1000, 2000)};
    uint64_t wake;
    (void)state;
    j[0].not_before_ns = MS(250); /* too slow for real time: still not before the buffer has room */
    assert_int_equal(sc_plan_pick(j, 1, MS(0), 0, &wake), -1);
    assert_int_equal(wake, MS(250));
    assert_int_equal(sc_plan_pick(j, 1, MS(250), 0, &wake), 0);
}

/* Sessions of equal cost for a long time, pass by pass: with enough time for all nobody is ever late; and no chunk begins early. */
static void sessions_that_fit_are_never_late(void **state) {
    enum { N = 4, STEPS = 5 };
    static const uint64_t pass_ms[] = {30, 37}; /* 4 x 150 and 4 x 185 of every 750 */
    (void)state;
    for (int c = 0; c < 2; c++) {
        uint64_t pass = MS(pass_ms[c]), now = 0, dry[N], wake;
        int left[N], done = 0;
        for (int i = 0; i < N; i++) dry[i] = MS(750 + 100 * i), left[i] = STEPS;
        while (now < MS(60000)) {
            sc_plan_job j[N];
            for (int i = 0; i < N; i++)
                j[i] = (sc_plan_job){.deadline_ns = dry[i], .remaining_ns = pass * (uint64_t)left[i], .started = left[i] < STEPS,
                                     .not_before_ns = dry[i] > MS(750) ? dry[i] - MS(750) : 0};
            int k = sc_plan_pick(j, N, now, MS(1), &wake);
            if (k < 0) {
                assert_true(wake > now && wake != SC_NEVER);
                now = wake;
                continue;
            }
            assert_true(j[k].started || now >= j[k].not_before_ns);
            now += pass;
            if (--left[k]) continue;
            if (now > dry[k] + MS(40)) fail_msg("cost %d: late by %llu ms", c, (unsigned long long)(now - dry[k]) / 1000000u);
            dry[k] = (now > dry[k] ? now : dry[k]) + MS(750);
            left[k] = STEPS;
            done++;
        }
        assert_true(done > 60000 / 750 * N - 2 * N);
    }
}

static void preroll_covers_what_the_buffer_does_not(void **state) {
    (void)state;
    assert_int_equal(sc_plan_preroll_ns(MS(700), MS(50), 8, MS(62)), MS(750 - 8 * 62));
    assert_int_equal(sc_plan_preroll_ns(MS(100), MS(0), 8, MS(62)), MS(62)); /* one period at least */
    assert_int_equal(sc_plan_preroll_ns(MS(700), MS(0), 0, MS(62)), MS(700));
    assert_int_equal(sc_plan_preroll_ns(MS(700), MS(0), -3, MS(62)), MS(700));
}

static void places_are_counted_by_time(void **state) {
    (void)state;
    assert_int_equal(sc_plan_fit(MS(200), MS(750), 0), 3);
    assert_int_equal(sc_plan_fit(MS(200), MS(750), 2), 1);
    assert_int_equal(sc_plan_fit(MS(200), MS(750), 5), 0);
    assert_int_equal(sc_plan_fit(MS(800), MS(750), 0), 0);
    assert_int_equal(sc_plan_fit(0, MS(750), 3), SC_PLAN_JOBS_MAX);
}

static void quantiles_are_of_the_last_samples(void **state) {
    sc_window w;
    (void)state;
    memset(&w, 0, sizeof w);
    assert_int_equal(sc_window_quantile(&w, 0.5), 0);
    sc_window_add(&w, MS(7));
    assert_int_equal(sc_window_quantile(&w, 0), MS(7));
    assert_int_equal(sc_window_quantile(&w, 1), MS(7));
    for (int i = 100; i > 0; i--) sc_window_add(&w, MS(i)); /* 64 are kept: 64 down to 1 */
    assert_int_equal(sc_window_quantile(&w, 0.5), MS(32));
    assert_int_equal(sc_window_quantile(&w, 0.95), MS(61));
    assert_int_equal(sc_window_quantile(&w, 1), MS(64));
    for (int i = 0; i < SC_WINDOW_SAMPLES; i++) sc_window_add(&w, UINT64_MAX - 1000);
    assert_int_equal(sc_window_quantile(&w, 0.5), (uint64_t)UINT32_MAX * 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_to_do_sleeps_for_ever),
        cmocka_unit_test(a_chunk_begins_as_late_as_its_cost_allows),
        cmocka_unit_test(begun_work_goes_on_at_once),
        cmocka_unit_test(the_earliest_deadline_runs_first),
        cmocka_unit_test(of_equal_deadlines_begun_work_wins_then_the_lower_index),
        cmocka_unit_test(jobs_are_laid_backwards_from_their_deadlines),
        cmocka_unit_test(too_late_is_now),
        cmocka_unit_test(a_job_nobody_waits_for_takes_no_room_and_begins_only_by_itself),
        cmocka_unit_test(look_ahead_is_not_exceeded),
        cmocka_unit_test(sessions_that_fit_are_never_late),
        cmocka_unit_test(preroll_covers_what_the_buffer_does_not),
        cmocka_unit_test(places_are_counted_by_time),
        cmocka_unit_test(quantiles_are_of_the_last_samples),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_server_hub.c - the playout clock with a made-up time: frames leave one by one, late ones move the clock, holds hold; and how
 * prompts and ends are told. One period is 62.5 ms (16 frames a second). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/hub.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS(x) ((uint64_t)((x) * 1000000.0))
#define PERIOD MS(62.5)
#define T0 MS(1000000)

struct world {
    sc_hub *hub;
    sc_channel *c;
    uint64_t next_frame;
    int wakes, viewer_changes, releases, closes, close_code;
    uint32_t shown;
    char said[8192];
};

static void on_frames(void *ctx) { ((struct world *)ctx)->wakes++; }
static void on_viewers(void *ctx) { ((struct world *)ctx)->viewer_changes++; }
static void on_released(void *ctx, sc_channel *c) { (void)c; ((struct world *)ctx)->releases++; }
static void on_shown(void *ctx, sc_channel *c, uint32_t seq) { (void)c; ((struct world *)ctx)->shown = seq; }
static void on_closed(void *ctx, sc_channel *c, int code, const char *reason) {
    struct world *w = ctx;
    (void)c; (void)reason;
    w->closes++;
    w->close_code = code;
}
static void on_say(void *ctx, sc_channel *c, uint64_t viewer, bool all_but, const char *text, size_t n) {
    struct world *w = ctx;
    size_t used = strlen(w->said);
    (void)c;
    snprintf(w->said + used, sizeof w->said - used, "%s%llu:%.*s\n", all_but ? "!" : "", (unsigned long long)viewer, (int)n, text);
}

static int set_up(void **state) {
    struct world *w = calloc(1, sizeof *w);
    sc_facts facts = {.state = SC_STATE_STARTING, .chunk = -1};
    w->hub = sc_hub_create();
    sc_hub_listen(w->hub, &(sc_hub_listener){.ctx = w, .frames = on_frames, .say = on_say, .closed = on_closed, .engine_ctx = w,
                                             .viewers = on_viewers, .http_ctx = w, .released = on_released, .shown = on_shown});
    w->c = sc_channel_create(w->hub, "aaaaaaaaaaaaaaaaaaaaaaaaaa", 16, 36, &facts, NULL, T0);
    *state = w;
    return w->c ? 0 : -1;
}

static int tear_down(void **state) {
    struct world *w = *state;
    sc_channel_close(w->c, 1000, "over");
    sc_channel_release(w->c);
    sc_hub_destroy(w->hub);
    free(w);
    return 0;
}

static void push(struct world *w, int count, uint64_t now, uint32_t seq, int64_t *lateness) {
    sc_channel_expect(w->c, count);
    for (int i = 0; i < count; i++) {
        sc_frame_header h = {.frame = w->next_frame++, .prompt_seq = seq};
        sc_frame *f = sc_frame_create(&h, "jpeg", 4);
        assert_non_null(f);
        sc_channel_push(w->c, f, now, i ? NULL : lateness);
    }
}

static int64_t newest(struct world *w) {
    sc_frame *f = sc_channel_newest(w->c);
    int64_t n = f ? (int64_t)f->head.frame : -1;
    sc_frame_release(f);
    return n;
}

static uint64_t release(struct world *w, uint64_t now) { return sc_hub_release_due(w->hub, now, NULL, NULL); }

static void a_burst_of_frames_leaves_one_by_one(void **state) {
    struct world *w = *state;
    uint64_t at = T0 + MS(700);
    sc_channel_viewer(w->c, 1, true, T0);
    push(w, 9, at, 1, NULL);
    assert_int_equal(release(w, at), at + PERIOD);
    assert_int_equal(newest(w), 0);
    assert_int_equal(release(w, at + PERIOD - 1), at + PERIOD);
    assert_int_equal(newest(w), 0);
    for (int i = 1; i < 9; i++) {
        assert_int_equal(release(w, at + (uint64_t)i * PERIOD), i < 8 ? at + (uint64_t)(i + 1) * PERIOD : SC_NEVER);
        assert_int_equal(newest(w), i);
    }
    assert_int_equal(w->releases, 9);
}

static void timer_jitter_does_not_add_up(void **state) {
    struct world *w = *state;
    sc_channel_viewer(w->c, 1, true, T0);
    push(w, 9, T0, 1, NULL);
    release(w, T0);
    for (int i = 1; i < 8; i++) assert_int_equal(release(w, T0 + (uint64_t)i * PERIOD + MS(3)), T0 + (uint64_t)(i + 1) * PERIOD);
}

static void a_late_chunk_moves_the_clock_and_nothing_is_caught_up(void **state) {
    struct world *w = *state;
    int64_t lateness = 0;
    sc_channel_viewer(w->c, 1, true, T0);
    push(w, 2, T0, 1, NULL);
    release(w, T0);
    release(w, T0 + PERIOD);
    uint64_t at = T0 + 2 * PERIOD + MS(300); /* due 300 ms ago */
    push(w, 12, at, 1, &lateness);
    assert_int_equal(lateness, MS(300));
    for (int i = 0; i < 12; i++) {
        release(w, at + (uint64_t)i * PERIOD);
        assert_int_equal(newest(w), 2 + i);
        release(w, at + (uint64_t)i * PERIOD + PERIOD / 2); /* no second one within the period */
        assert_int_equal(newest(w), 2 + i);
    }
}

static void an_early_chunk_has_a_negative_lateness(void **state) {
    struct world *w = *state;
    int64_t lateness = 0;
    sc_channel_viewer(w->c, 1, true, T0);
    push(w, 9, T0, 1, NULL);
    release(w, T0);
    push(w, 12, T0 + PERIOD, 1, &lateness); /* 8 frames are queued, the first of them is due now */
    assert_int_equal(lateness, -(int64_t)(8 * PERIOD));
}

static void a_sleep_through_many_periods_shows_no_burst(void **state) {
    struct world *w = *state;
    sc_channel_viewer(w->c, 1, true, T0);
    push(w, 9, T0, 1, NULL);
    release(w, T0);
    uint64_t at = T0 + 5 * PERIOD;
    assert_int_equal(release(w, at), at + PERIOD);
    assert_int_equal(newest(w), 1);
}

static void nobody_watches_one_frame_comes_out_and_the_rest_waits(void **state) {
    struct world *w = *state;
    sc_playout p;
    push(w, 9, T0 + MS(700), 1, NULL);
    assert_int_equal(release(w, T0 + MS(700)), SC_NEVER);
    assert_int_equal(newest(w), 0);
    release(w, T0 + MS(60000));
    assert_int_equal(newest(w), 0);
    sc_channel_playout(w->c, &p, T0 + MS(60000));
    assert_false(p.playing);
    assert_true(p.dry_ns == SC_NEVER);
    assert_int_equal(p.buffered, 8);
    assert_int_equal(p.seen_ns, T0);
    uint64_t at = T0 + MS(90000); /* somebody comes: playback goes on from there */
    sc_channel_viewer(w->c, 1, true, at);
    sc_channel_playout(w->c, &p, at);
    assert_true(p.playing);
    assert_int_equal(p.seen_ns, 0);
    assert_int_equal(p.dry_ns, at + 8 * PERIOD);
    assert_int_equal(release(w, at), at + PERIOD);
    assert_int_equal(newest(w), 1);
    sc_channel_viewer(w->c, -1, true, at + MS(10));
    release(w, at + MS(1000));
    assert_int_equal(newest(w), 1);
    assert_int_equal(w->viewer_changes, 2);
}

static void run_alone_plays_without_viewers(void **state) {
    struct world *w = *state;
    sc_channel_set_play(w->c, false, true, T0);
    push(w, 3, T0, 1, NULL);
    release(w, T0);
    release(w, T0 + PERIOD);
    assert_int_equal(newest(w), 1);
}

static void a_pause_holds_and_does_not_count_as_lateness(void **state) {
    struct world *w = *state;
    int64_t lateness = 0;
    sc_channel_viewer(w->c, 1, true, T0);
    push(w, 4, T0, 1, NULL);
    release(w, T0);
    sc_channel_set_play(w->c, true, false, T0 + MS(10));
    assert_int_equal(release(w, T0 + MS(5000)), SC_NEVER);
    assert_int_equal(newest(w), 0);
    uint64_t at = T0 + MS(9000);
    sc_channel_set_play(w->c, false, false, at);
    assert_int_equal(release(w, at), at + PERIOD);
    assert_int_equal(newest(w), 1);
    push(w, 12, at + MS(5), 1, &lateness);
    assert_true(lateness < 0);
}

static void a_hold_keeps_the_next_frame_back_but_never_the_first(void **state) {
    struct world *w = *state;
    sc_channel_viewer(w->c, 1, true, T0);
    sc_channel_hold_until(w->c, T0 + MS(1500));
    push(w, 9, T0 + MS(700), 1, NULL);
    assert_int_equal(release(w, T0 + MS(700)), T0 + MS(1500));
    assert_int_equal(newest(w), 0);
    release(w, T0 + MS(1499));
    assert_int_equal(newest(w), 0);
    release(w, T0 + MS(1500));
    assert_int_equal(newest(w), 1);
}

static void the_moment_of_running_dry_counts_frames_still_being_encoded(void **state) {
    struct world *w = *state;
    sc_playout p;
    sc_channel_viewer(w->c, 1, true, T0);
    push(w, 3, T0, 1, NULL);
    release(w, T0);
    sc_channel_expect(w->c, 12);
    sc_channel_playout(w->c, &p, T0);
    assert_int_equal(p.buffered, 14);
    assert_int_equal(p.dry_ns, T0 + PERIOD + 14 * PERIOD);
    sc_channel_lost(w->c, 12);
    sc_channel_playout(w->c, &p, T0);
    assert_int_equal(p.dry_ns, T0 + 3 * PERIOD);
}

static void a_queue_that_overflows_drops_its_oldest(void **state) {
    struct world *w = *state;
    sc_channel_view view;
    push(w, 40, T0, 1, NULL); /* room for 36 */
    release(w, T0);
    assert_int_equal(newest(w), 4);
    sc_channel_read(w->c, &view, T0);
    assert_int_equal(view.dropped, 4);
}

static void another_rate_changes_the_period(void **state) {
    struct world *w = *state;
    sc_channel_viewer(w->c, 1, true, T0);
    push(w, 9, T0, 1, NULL);
    sc_channel_set_fps(w->c, 8);
    assert_int_equal(release(w, T0), T0 + 2 * PERIOD);
}

static void days_of_playing_keep_the_clock(void **state) {
    struct world *w = *state;
    uint64_t now = T0;
    sc_channel_viewer(w->c, 1, true, T0);
    push(w, 9, now, 1, NULL);
    release(w, now);
    for (int chunk = 0; chunk < 20000; chunk++) {
        push(w, 12, now, 1, NULL);
        for (int i = 0; i < 12; i++) release(w, now += PERIOD);
    }
    assert_int_equal(newest(w), 20000 * 12);
    assert_int_equal(now, T0 + 20000 * 12 * PERIOD);
}

static void frames_in_use_outlive_the_session(void **state) {
    struct world *w = *state;
    push(w, 1, T0, 1, NULL);
    release(w, T0);
    sc_frame *f = sc_channel_newest(w->c);
    sc_channel_close(w->c, 1000, "deleted");
    sc_channel_close(w->c, 1000, "deleted"); /* once is enough */
    assert_int_equal(w->closes, 1);
    assert_true(sc_channel_closed(w->c));
    assert_null(sc_hub_find(w->hub, sc_channel_id(w->c)));
    assert_int_equal(w->shown, UINT32_MAX);
    assert_memory_equal(sc_frame_jpeg(f), "jpeg", 4);
    sc_frame_release(f);
}

static void channels_are_found_and_listed_oldest_first(void **state) {
    struct world *w = *state;
    sc_facts facts = {0};
    sc_channel *second = sc_channel_create(w->hub, "baaaaaaaaaaaaaaaaaaaaaaaaa", 16, 12, &facts, NULL, T0), *list[4];
    assert_int_equal(sc_hub_list(w->hub, list, 4), 2);
    assert_ptr_equal(list[0], w->c);
    assert_ptr_equal(list[1], second);
    for (int i = 0; i < 2; i++) sc_channel_release(list[i]);
    sc_channel *found = sc_hub_find(w->hub, "baaaaaaaaaaaaaaaaaaaaaaaaa");
    assert_ptr_equal(found, second);
    sc_channel_release(found);
    sc_channel_close(second, 1000, "deleted");
    sc_channel_release(second);
    assert_null(sc_hub_find(w->hub, "baaaaaaaaaaaaaaaaaaaaaaaaa"));
}

/* ---- prompts ---- */

static void received(struct world *w, uint32_t seq, const char *text, const char *ref, uint64_t viewer) {
    sc_channel_prompt_received(w->c, seq, text, strlen(text), 7, SC_WIRE_SWITCH, ref, viewer, T0);
}

/* The lines said since last time: "TO seq state" each. */
static void assert_said(struct world *w, const char *expected) {
    char got[1024] = "";
    char *rest = w->said;
    for (char *line; (line = strsep(&rest, "\n")) && *line;) {
        char to[16], prompt_state[16] = "?";
        int seq = -1;
        const char *s = strstr(line, "\"seq\":"), *t = strstr(line, "\"state\":\"");
        snprintf(to, sizeof to, "%.*s", (int)strcspn(line, ":"), line);
        if (s) seq = atoi(s + 6);
        if (t) snprintf(prompt_state, sizeof prompt_state, "%.*s", (int)strcspn(t + 9, "\""), t + 9);
        size_t used = strlen(got);
        snprintf(got + used, sizeof got - used, "%s %d %s%s; ", to, seq, prompt_state, strstr(line, "\"ref\":\"r1\"") ? " r1" : "");
    }
    assert_string_equal(got, expected);
    w->said[0] = 0;
}

static void a_prompt_is_received_applied_and_shown(void **state) {
    struct world *w = *state;
    sc_channel_viewer(w->c, 1, true, T0);
    w->said[0] = 0;
    received(w, 2, "a cat", "r1", 5);
    assert_said(w, "!5 2 received; 5 2 received r1; ");
    sc_channel_prompt_applied(w->c, 1, 6); /* another one: nothing to say */
    assert_said(w, "");
    sc_channel_prompt_applied(w->c, 2, 8);
    sc_channel_prompt_applied(w->c, 2, 9); /* each chunk says so; once is news */
    assert_said(w, "!5 2 applied; 5 2 applied r1; ");
    assert_false(sc_channel_prompt_seen(w->c, 2));
    sc_channel_prompt_shown(w->c, 1, T0);
    assert_said(w, "");
    sc_channel_prompt_shown(w->c, 2, T0);
    sc_channel_prompt_shown(w->c, 2, T0);
    assert_said(w, "!5 2 shown; 5 2 shown r1; ");
    assert_true(sc_channel_prompt_seen(w->c, 2));
    assert_int_equal(w->shown, 2);
}

static void a_prompt_replaced_before_it_applied_is_superseded(void **state) {
    struct world *w = *state;
    received(w, 2, "a cat", "r1", 5);
    assert_said(w, "!5 2 received; 5 2 received r1; ");
    received(w, 3, "a dog", NULL, 0);
    assert_said(w, "!5 2 superseded; 5 2 superseded r1; 0 3 received; ");
    sc_channel_prompt_applied(w->c, 3, 8);
    received(w, 4, "a bird", NULL, 0); /* 3 applies already: it will be seen */
    assert_said(w, "0 3 applied; 0 4 received; ");
    sc_channel_prompt_applied(w->c, 4, 9);
    sc_channel_prompt_shown(w->c, 4, T0); /* 3 was skipped over by a slow viewer */
    assert_said(w, "0 4 applied; 0 3 shown; 0 4 shown; ");
}

static void without_stream_viewers_a_released_frame_shows_its_prompt(void **state) {
    struct world *w = *state;
    received(w, 2, "a cat", NULL, 0);
    sc_channel_prompt_applied(w->c, 2, 8);
    w->said[0] = 0;
    sc_channel_viewer(w->c, 1, true, T0); /* a WebSocket viewer: its writes decide */
    push(w, 1, T0, 2, NULL);
    release(w, T0);
    assert_false(sc_channel_prompt_seen(w->c, 2));
    sc_channel_viewer(w->c, -1, true, T0);
    sc_channel_viewer(w->c, 1, false, T0 + MS(10)); /* Motion-JPEG */
    push(w, 1, T0 + MS(10), 2, NULL);
    release(w, T0 + MS(500));
    assert_true(sc_channel_prompt_seen(w->c, 2));
}

static void more_prompts_than_places_lose_the_oldest_news_only(void **state) {
    struct world *w = *state;
    for (uint32_t seq = 2; seq < 100; seq++) { /* applied and never shown: playback stands */
        received(w, seq, "a", NULL, 0);
        sc_channel_prompt_applied(w->c, seq, seq);
    }
    w->said[0] = 0;
    sc_channel_prompt_shown(w->c, 99, T0);
    int lines = 0;
    for (const char *p = w->said; (p = strstr(p, "\"shown\"")); p++) lines++;
    assert_int_equal(lines, SC_CHANNEL_NOTES);
    assert_true(sc_channel_prompt_seen(w->c, 99));
}

static void a_failed_session_closes_its_viewers_and_stays_to_be_looked_at(void **state) {
    struct world *w = *state;
    sc_channel_kick(w->c, 1011, "session failed");
    assert_int_equal(w->close_code, 1011);
    assert_int_equal(w->shown, UINT32_MAX);
    sc_channel *c = sc_hub_find(w->hub, sc_channel_id(w->c));
    assert_ptr_equal(c, w->c);
    sc_channel_release(c);
}

#define WORLD(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
int main(void) {
    const struct CMUnitTest tests[] = {
        WORLD(a_burst_of_frames_leaves_one_by_one),
        WORLD(timer_jitter_does_not_add_up),
        WORLD(a_late_chunk_moves_the_clock_and_nothing_is_caught_up),
        WORLD(an_early_chunk_has_a_negative_lateness),
        WORLD(a_sleep_through_many_periods_shows_no_burst),
        WORLD(nobody_watches_one_frame_comes_out_and_the_rest_waits),
        WORLD(run_alone_plays_without_viewers),
        WORLD(a_pause_holds_and_does_not_count_as_lateness),
        WORLD(a_hold_keeps_the_next_frame_back_but_never_the_first),
        WORLD(the_moment_of_running_dry_counts_frames_still_being_encoded),
        WORLD(a_queue_that_overflows_drops_its_oldest),
        WORLD(another_rate_changes_the_period),
        WORLD(days_of_playing_keep_the_clock),
        WORLD(frames_in_use_outlive_the_session),
        WORLD(channels_are_found_and_listed_oldest_first),
        WORLD(a_prompt_is_received_applied_and_shown),
        WORLD(a_prompt_replaced_before_it_applied_is_superseded),
        WORLD(without_stream_viewers_a_released_frame_shows_its_prompt),
        WORLD(more_prompts_than_places_lose_the_oldest_news_only),
        WORLD(a_failed_session_closes_its_viewers_and_stays_to_be_looked_at),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

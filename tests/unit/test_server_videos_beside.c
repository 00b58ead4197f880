/* test_server_videos_beside.c - clips beside sessions: the scheduler with an engine, an encoder and a maker of files that only count, in made-up time.
 *
 * Passes take what the pocket model's take on two cores, or what a device that runs behind its calls needs for them. Time passes in steps of a millisecond,
 * at each of which the hub releases what is due, as the stream thread does. What a session shows alone it must show beside clips, to the frame. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/scheduler_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MS(x) ((uint64_t)(x) * 1000000u)
enum { FPS = 16, FIRST = 9, CHUNK = 12, STEPS = 4, CLIP_SEED = 1000, WIDTH = 32, HEIGHT = 16 };

/* ---- time ---- */

static uint64_t now_ns = MS(1000000);
static sc_hub *hub;

int clock_gettime(clockid_t id, struct timespec *t) {
    (void)id;
    *t = (struct timespec){(time_t)(now_ns / 1000000000u), (long)(now_ns % 1000000000u)};
    return 0;
}

static uint64_t look_at_ns; /* a moment, also one in the middle of a pass, at which the frames that were shown are counted */
static int64_t looked;

static int64_t shown_in_all(void) {
    sc_channel *all[8];
    sc_channel_view view;
    int64_t frames = 0;
    for (int n = sc_hub_list(hub, all, 8); n-- > 0; sc_channel_release(all[n])) {
        sc_channel_read(all[n], &view, now_ns);
        frames += view.frame;
    }
    return frames;
}

static void pass_time(uint64_t until) {
    while (now_ns < until) {
        now_ns = until - now_ns > MS(1) ? now_ns + MS(1) : until;
        if (look_at_ns && now_ns > look_at_ns) {
            looked = shown_in_all();
            look_at_ns = 0;
        }
        if (hub) sc_hub_release_due(hub, now_ns, NULL, NULL);
    }
}

/* ---- an engine that counts ---- */

struct sc_session {
    uint64_t seed, ready_ns, chunk, frame, took;
    int step;                /* 0..3 denoise, 4 decode, 5 clean */
    bool failed;
    sc_frames frames;
};

static struct {
    uint64_t cost[3];        /* denoise, decode, clean */
    bool behind;
    uint64_t free_ns;        /* when the device will have done what it was asked for */
    int open, live, clip;    /* sessions; passes */
    int between;             /* passes of a clip while a session's chunk was in work */
    int working;             /* sessions in the middle of a chunk */
    bool fail_clip;
    uint64_t hiccup;         /* what the next pass takes besides */
} engine;

static sc_pass_kind kind_of(const sc_session *t) { return t->step < STEPS ? SC_PASS_DENOISE : t->step == STEPS ? SC_PASS_DECODE : SC_PASS_CLEAN; }
static bool is_clip(const sc_session *t) { return t->seed >= CLIP_SEED; }

sc_pass sc_session_next(const sc_session *t) {
    return (sc_pass){.kind = kind_of(t), .step = t->step < STEPS ? t->step : 0, .chunk = t->chunk, .prompt_seq = 1};
}

sc_status sc_session_create(sc_engine *e, uint64_t seed, const char *prompt, size_t n, uint32_t seq, sc_session **out, sc_error *err) {
    (void)e; (void)prompt; (void)n; (void)seq; (void)err;
    *out = calloc(1, sizeof **out);
    (*out)->seed = seed;
    engine.open++;
    return SC_OK;
}

void sc_session_destroy(sc_session *t) {
    if (t) engine.open--;
    if (t && !is_clip(t) && t->step) engine.working--;
    free(t);
}

sc_status sc_engine_run(sc_engine *e, sc_session *const *sessions, int count, sc_error *err) {
    (void)e; (void)err;
    for (int i = 0; i < count; i++) {
        sc_session *t = sessions[i];
        const uint64_t cost = engine.cost[kind_of(t)] + engine.hiccup;
        engine.hiccup = 0;
        t->took += cost;
        if (engine.behind) {
            pass_time(now_ns + MS(1));
            engine.free_ns = (engine.free_ns > now_ns ? engine.free_ns : now_ns) + cost;
        } else pass_time(now_ns + cost);
        *(is_clip(t) ? &engine.clip : &engine.live) += 1;
        if (is_clip(t)) engine.between += engine.working > 0;
        else if (t->step == 0) engine.working++;
        if (is_clip(t) && engine.fail_clip) {
            t->failed = true;
            continue;
        }
        if (kind_of(t) == SC_PASS_DECODE) {
            const int frames = t->chunk ? CHUNK : FIRST;
            t->ready_ns = engine.behind ? engine.free_ns : now_ns;
            t->frames = (sc_frames){.chunk = t->chunk, .first_frame = t->frame, .count = frames, .width = WIDTH, .height = HEIGHT, .prompt_seq = 1,
                                    .data = (const uint8_t *)"", .denoise_ns = t->took - cost, .decode_ns = cost, .clean_ns = engine.cost[2]};
            t->took = 0;
            t->frame += (uint64_t)frames;
        }
        if (++t->step <= STEPS + 1) continue;
        t->step = 0;
        t->chunk++;
        if (!is_clip(t)) engine.working--;
    }
    return SC_OK;
}

bool sc_session_failed(const sc_session *t, sc_error *err) {
    if (t->failed) sc_fail(err, SC_EGPU, "as the test says");
    return t->failed;
}
bool sc_session_frames_coming(const sc_session *t) { return t->ready_ns > now_ns; }
sc_status sc_session_frames(sc_session *t, sc_frames *out, sc_error *err) {
    (void)err;
    pass_time(t->ready_ns);
    *out = t->frames;
    return SC_OK;
}

/* Nothing here comes to these. */
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define NEVER(name, ...) sc_status name(__VA_ARGS__) { fail_msg(#name); return SC_EINVAL; }
NEVER(sc_engine_open, sc_engine **out, const sc_engine_options *o, sc_error *err)
NEVER(sc_engine_prompt_answer, sc_engine *e, sc_error *err)
NEVER(sc_engine_prompt_ask, sc_engine *e, const char *text, size_t n, void (*done)(void *ctx), void *ctx, sc_error *err)
NEVER(sc_session_fork, sc_session *from, uint64_t seed, sc_session **out, sc_error *err)
NEVER(sc_session_memory, sc_session *t, sc_memory_map *out, sc_error *err)
NEVER(sc_session_restore, sc_engine *e, const sc_snapshot *s, sc_session **out, sc_error *err)
NEVER(sc_session_save, sc_session *t, void **bytes, size_t *n, sc_error *err)
NEVER(sc_session_set_prompt, sc_session *t, const char *text, size_t n, uint32_t seq, sc_transition how, int blend, uint64_t *at, sc_error *err)
NEVER(sc_snapshot_open, sc_snapshot **out, const sc_engine *e, const void *bytes, size_t n, sc_error *err)
bool sc_engine_prompt_known(const sc_engine *e, const char *text, size_t n) { return true; }
void sc_engine_close(sc_engine *e) { }
void sc_engine_describe(const sc_engine *e, sc_model_info *out) { }
void sc_snapshot_close(sc_snapshot *s) { }
void sc_snapshot_describe(const sc_snapshot *s, sc_snapshot_info *out) { }
void sc_memory_map_free(sc_memory_map *m) { }

/* ---- an encoder and a maker that are done at once ---- */

static int late;
sc_status sc_encoder_submit(sc_encoder *e, const sc_encode_job *j, sc_error *err) {
    (void)e; (void)err;
    for (int i = 0; i < j->count; i++) {
        const sc_frame_header head = {.frame = j->first_frame + (uint64_t)i, .chunk = (uint32_t)j->chunk, .prompt_seq = 1};
        int64_t lateness = 0;
        sc_channel_push(j->channel, sc_frame_create(&head, "x", 1), now_ns, i ? NULL : &lateness);
        if (!j->begins && lateness > (int64_t)MS(5)) late++;
    }
    return SC_OK;
}

static sc_videos *videos;
static int given, dropped;
bool sc_video_maker_has_room(sc_video_maker *m) { (void)m; return true; }
void sc_video_maker_drop(sc_video_maker *m) { (void)m; dropped++; }
sc_status sc_video_maker_give(sc_video_maker *m, const sc_video *job, const sc_frames *f, sc_error *err) {
    (void)m;
    if (f->first_frame == 0) given = 0;
    assert_int_equal(f->first_frame, given);
    given += f->count;
    if (given < sc_video_frames(job)) sc_videos_progress(videos, job, given, (uint64_t)given, err);
    else sc_videos_complete(videos, job, memfd_create("x", MFD_CLOEXEC), (uint64_t)given, 1);
    return SC_OK;
}

/* ---- the scheduler, driven by hand ---- */

static sc_scheduler *begin(bool behind, int max_sessions) {
    sc_scheduler *s = calloc(1, sizeof *s);
    sc_error err;

    memset(&engine, 0, sizeof engine);
    engine.behind = behind;
    engine.cost[0] = behind ? MS(30) : MS(53);
    engine.cost[1] = behind ? MS(25) : MS(72);
    engine.cost[2] = behind ? MS(20) : MS(46);
    late = given = dropped = 0;
    hub = sc_hub_create();
    assert_int_equal(sc_videos_create(&videos, NULL, 1 << 20, &err), SC_OK);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    s->made = calloc(SC_SCHEDULER_KEYS, sizeof *s->made);
    s->hub = hub;
    s->o.videos = videos;
    s->o.jpeg_quality = 85;
    s->o.idle_timeout_s = 86400;
    s->info = (sc_model_info){.name = "m", .width = WIDTH, .height = HEIGHT, .fps = FPS, .frames_first = FIRST, .frames_chunk = CHUNK, .steps = STEPS,
                              .max_sessions = max_sessions, .behind = behind};
    return s;
}

static void end(sc_scheduler *s) {
    sc_scheduler_drop_clip(s);
    while (s->n) sc_scheduler_end_session(s, s->streams[0], 1000, "over");
    assert_int_equal(engine.open, 0);
    sc_hub_destroy(hub);
    hub = NULL;
    sc_videos_destroy(videos);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s->made);
    free(s);
}

/* What the engine thread does, for so long. */
static void run(sc_scheduler *s, uint64_t ns) {
    for (const uint64_t until = now_ns + ns; now_ns < until;) {
        uint64_t wake = SC_NEVER;
        sc_scheduler_housekeeping(s, now_ns);
        if (sc_scheduler_run_pass(s, now_ns, &wake) || sc_scheduler_run_clip(s, now_ns, &wake)) continue;
        const uint64_t next = now_ns + MS(500) < wake ? now_ns + MS(500) : wake;
        pass_time(next > until ? until : next > now_ns ? next : now_ns + 1);
    }
}

static struct stream *session(sc_scheduler *s) {
    static uint64_t seed;
    sc_command *c = calloc(1, sizeof *c);
    c->kind = SC_COMMAND_CREATE;
    c->create = (sc_create_request){.prompt = "a", .prompt_bytes = 1, .has_seed = true, .seed = ++seed % CLIP_SEED, .transition = SC_WIRE_NOT_GIVEN, .run_without_viewers = 1};
    sc_scheduler_create(s, c);
    assert_int_equal(c->problem.status, 0);
    free(c);
    return s->streams[s->n - 1];
}

static sc_video clip(int seconds) {
    sc_video v = {.prompt = "a", .prompt_bytes = 1, .seed = CLIP_SEED, .seconds = seconds, .width = WIDTH, .height = HEIGHT, .fps = FPS, .jpeg_quality = 85};
    sc_problem p = {0};
    assert_true(sc_videos_add(videos, &v, 1, &p));
    return v;
}

static sc_video look(const sc_video *v) {
    sc_video got = {0};
    assert_true(sc_videos_get(videos, v->id, 1, &got));
    return got;
}

/* Frames shown in a minute by n sessions, with so many clips of a minute beside them; passes of clips in *made. */
static int64_t minute(bool behind, int n, int clips, int *made) {
    sc_scheduler *s = begin(behind, 8);
    int64_t frames;

    for (int i = 0; i < n; i++) session(s);
    run(s, MS(10000)); /* what passes take is known, and where they find their places */
    late = 0;
    for (int i = 0; i < clips; i++) clip(60);
    frames = shown_in_all();
    look_at_ns = now_ns + MS(60000);
    run(s, MS(60001));
    frames = looked - frames;
    *made = engine.clip;
    if (!behind) assert_int_equal(engine.between, 0);
    end(s);
    return frames;
}

static void sessions_show_beside_clips_what_they_show_alone(void **state) {
    int made, none;

    (void)state;
    for (int behind = 0; behind < 2; behind++)
        for (int n = 1; n <= 2; n++) {
            const int64_t alone = minute(behind, n, 0, &none);
            assert_int_equal(none, 0);
            assert_int_equal(late, 0);
            const int64_t beside = minute(behind, n, 4, &made);
            print_message("%s, %d sessions: %d frames alone, %d beside %d passes of clips, %d chunks late\n", behind ? "behind" : "cpu", n, (int)alone, (int)beside, made, late);
            assert_int_equal(late, 0);
            assert_int_equal(beside, alone);
            assert_true(made > (n > 1 ? 50 : 500));
        }
}

static void a_machine_that_sessions_fill_makes_no_clip(void **state) {
    int made;
    (void)state;
    minute(false, 3, 1, &made); /* 3 x 330 ms of 750 */
    assert_int_equal(made, 0);
}

static void a_pass_that_once_took_long_does_not_keep_clips_from_coming_on(void **state) {
    (void)state;
    for (int behind = 0; behind < 2; behind++) {
        sc_scheduler *s = begin(behind, 2);
        sc_video a;
        clip(60);
        engine.hiccup = MS(3000);
        run(s, MS(4000));
        a = clip(60);
        session(s);
        run(s, MS(20000)); /* chunks in which it is seen that it was the exception */
        const int before = engine.clip;
        run(s, MS(10000));
        assert_true(engine.clip > before + 50);
        sc_videos_remove(videos, a.id);
        end(s);
    }
}

static void without_sessions_clips_are_made_one_after_the_other(void **state) {
    sc_scheduler *s = begin(false, 1);
    const sc_video a = clip(2), b = clip(1);

    (void)state;
    run(s, MS(700));
    assert_int_equal(look(&a).status, SC_VIDEO_IN_PROGRESS);
    assert_int_equal(look(&b).status, SC_VIDEO_QUEUED);
    run(s, MS(5000));
    assert_int_equal(look(&a).status, SC_VIDEO_COMPLETED);
    assert_int_equal(look(&b).status, SC_VIDEO_COMPLETED);
    assert_int_equal(engine.clip, 6 + 6 + 5 + 6 + 5); /* 32 and 16 frames are 3 and 2 chunks, and nobody needs the memory of the last one */
    assert_int_equal(engine.open, 0);
    end(s);
}

static void a_session_gets_the_last_place_and_the_clip_begins_anew(void **state) {
    sc_scheduler *s = begin(false, 2);
    const sc_video a = clip(4);
    sc_video got;

    (void)state;
    struct stream *first = session(s);
    run(s, MS(2000));
    got = look(&a);
    assert_true(got.status == SC_VIDEO_IN_PROGRESS && got.done > 0);
    assert_int_equal(engine.open, 2);
    session(s);
    assert_int_equal(engine.open, 2);
    got = look(&a);
    assert_true(got.status == SC_VIDEO_QUEUED && got.done == 0 && dropped == 1);
    run(s, MS(2000));
    assert_int_equal(look(&a).status, SC_VIDEO_QUEUED);
    sc_scheduler_end_session(s, first, 1000, "over");
    run(s, MS(20000));
    assert_int_equal(look(&a).status, SC_VIDEO_COMPLETED);
    assert_int_equal(engine.open, 1);
    end(s);
}

static void one_that_is_deleted_or_fails_leaves_its_place_to_the_next(void **state) {
    sc_scheduler *s = begin(true, 1);
    const sc_video a = clip(60), b = clip(60), c = clip(1);

    (void)state;
    run(s, MS(1000));
    assert_true(look(&a).done > 0);
    assert_true(sc_videos_remove(videos, a.id));
    run(s, MS(1000));
    assert_int_equal(engine.open, 1);
    assert_true(look(&b).done > 0);
    engine.fail_clip = true;
    for (int i = 0; look(&b).status == SC_VIDEO_IN_PROGRESS && i < 1000; i++) run(s, MS(1));
    engine.fail_clip = false;
    const sc_video failed = look(&b);
    assert_int_equal(failed.status, SC_VIDEO_FAILED);
    assert_string_equal(failed.error_code, "server_error");
    run(s, MS(5000));
    assert_int_equal(look(&c).status, SC_VIDEO_COMPLETED);
    assert_int_equal(s->fault.status, SC_OK);
    end(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sessions_show_beside_clips_what_they_show_alone),
        cmocka_unit_test(a_machine_that_sessions_fill_makes_no_clip),
        cmocka_unit_test(a_pass_that_once_took_long_does_not_keep_clips_from_coming_on),
        cmocka_unit_test(without_sessions_clips_are_made_one_after_the_other),
        cmocka_unit_test(a_session_gets_the_last_place_and_the_clip_begins_anew),
        cmocka_unit_test(one_that_is_deleted_or_fails_leaves_its_place_to_the_next),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

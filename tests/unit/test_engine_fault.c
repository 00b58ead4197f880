/* test_engine_fault.c - device calls that fail: whose failure it is, what the others see of it, and a device that is lost.
 *
 * Three sessions run in step, every pass as one batch, on a device that fails where the test says (tests/fault/faulty_device.h). The
 * yardstick is the run in which nothing fails: whoever is not marked failed must give its frames bit for bit. */
#include "tests/fault/faulty_device.h"
#include "tests/unit/engine_model.h"

#include <limits.h>

enum { CROWD = 3, CHUNKS = 5 };

typedef struct { uint64_t seed; const char *prompt; int change_at; const char *next; sc_transition transition; } script;
static const script crowd[CROWD] = {{11, "a red car", 2, "a green bird", SC_BLEND}, {12, "snow", 3, "rain at night", SC_RECACHE}, {13, "fog over the sea", 3, "desert", SC_FLUSH}};

typedef struct {
    sc_session *session[CROWD];
    uint64_t hash[CROWD];
    sc_pass_kind kind_failed;  /* of the pass in which a call failed first */
    uint64_t chunk_failed;
} run;

static tiny_shape shape_of(int kind) {
    tiny_shape s = tiny_default;
    if (kind == 1) s.window_frames = 7, s.sink_frames = 1;
    if (kind == 2) s.window_chunks = 2, s.capacity = 5, s.steps = "[1000, 800, 400]";
    return s;
}

static sc_engine *open_faulty(int kind) {
    const tiny_shape shape = shape_of(kind);
    sc_engine *e = tiny_open(&shape, "cpu", CROWD);
    sc_faulty_wrap(e->dev);
    sc_faulty_plan(&(sc_fault){0}, false);
    return e;
}

static void begin(run *r, sc_engine *e) {
    memset(r, 0, sizeof *r);
    for (int i = 0; i < CROWD; i++) r->session[i] = tiny_session(e, crowd[i].seed, crowd[i].prompt);
}

static void end(run *r) {
    for (int i = 0; i < CROWD; i++) sc_session_destroy(r->session[i]);
}

/* All passes of all chunks, every pass one batch of those that live. Stops at the first status. */
static sc_status play(run *r, sc_engine *e, sc_error *err) {
    for (;;) {
        sc_session *live[CROWD];
        int who[CROWD], n = 0;
        for (int i = 0; i < CROWD; i++)
            if (!r->session[i]->failed && r->session[i]->chunk < CHUNKS) { who[n] = i; live[n++] = r->session[i]; }
        if (!n) return SC_OK;
        for (int i = 0; i < n; i++) { /* sessions in step stay in step, whoever failed before */
            const script *k = &crowd[who[i]];
            assert_int_equal(live[i]->phase, live[0]->phase);
            if (live[i]->phase == 0 && !live[i]->begun && live[i]->chunk == (uint64_t)k->change_at) {
                const bool armed = atomic_exchange(&sc_faulty.armed, false); /* only passes fail */
                tiny_prompt(live[i], k->next, 2, k->transition, 2);
                atomic_store(&sc_faulty.armed, armed);
            }
        }
        const sc_pass pass = sc_session_next(live[0]);
        const long before = sc_faulty.failed;
        const sc_status rc = sc_engine_run(e, live, n, err);
        if (!before && sc_faulty.failed) r->kind_failed = pass.kind, r->chunk_failed = pass.chunk;
        if (rc) return rc;
        for (int i = 0; pass.kind == SC_PASS_DECODE && i < n; i++) {
            sc_frames f;
            if (live[i]->failed) continue;
            assert_int_equal(sc_session_frames(live[i], &f, err), SC_OK);
            r->hash[who[i]] = tiny_hash(r->hash[who[i]], f.data, (size_t)f.count * f.frame_bytes);
        }
    }
}

/* The yardstick; *calls: how many device calls the passes make. */
static void undisturbed(sc_engine *e, uint64_t *hash, long *calls) {
    run r;
    sc_error err = {0};
    begin(&r, e);
    sc_faulty_plan(&(sc_fault){.nth = LONG_MAX}, true);
    if (play(&r, e, &err)) fail_msg("%s", err.text);
    *calls = sc_faulty.counted;
    memcpy(hash, r.hash, sizeof r.hash);
    sc_faulty_plan(&(sc_fault){0}, false);
    end(&r);
    assert_true(hash[0] != hash[1] && hash[1] != hash[2] && *calls > 500);
}

/* Everybody who lives has its frames; how many failed, and *who. Each says why, and when. */
static int count_failed(const run *r, const uint64_t *want, const char *why, int *who) {
    int failed = 0;
    for (int i = 0; i < CROWD; i++) {
        sc_error err = {0};
        char chunk[32];
        if (!sc_session_failed(r->session[i], &err)) {
            assert_int_equal(r->session[i]->chunk, CHUNKS);
            if (r->hash[i] != want[i]) fail_msg("session %d has other frames than undisturbed, %s", i, why);
            continue;
        }
        failed++;
        *who = i;
        snprintf(chunk, sizeof chunk, "chunk %llu:", (unsigned long long)r->session[i]->chunk);
        assert_int_equal(err.status, SC_EGPU);
        assert_true(!strncmp(err.text, chunk, strlen(chunk)) && strstr(err.text, "says the test"));
    }
    return failed;
}

/* Every device call of the passes in turn (at a stride that meets each operation) fails once. */
static void a_call_that_fails_once_fails_nobody_but_a_session_that_decodes(void **state) {
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        sc_engine *e = open_faulty(kind);
        uint64_t want[CROWD];
        long calls, decoding = 0, others = 0;
        undisturbed(e, want, &calls);
        for (long n = 1; n <= calls; n += 11) {
            run r;
            sc_error err = {0};
            char why[64];
            int who = -1;
            begin(&r, e);
            snprintf(why, sizeof why, "kind %d, call %ld of %ld", kind, n, calls);
            sc_faulty_plan(&(sc_fault){.nth = n, .times = 1, .status = SC_EGPU}, true);
            if (play(&r, e, &err)) fail_msg("%s: %s", why, err.text);
            assert_int_equal(sc_faulty.failed, 1);
            const int failed = count_failed(&r, want, why, &who);
            if (failed != (r.kind_failed == SC_PASS_DECODE)) fail_msg("%s: %d sessions failed in a pass of kind %d", why, failed, r.kind_failed);
            if (failed) decoding++;
            else others++;
            sc_faulty_plan(&(sc_fault){0}, false);
            end(&r);
        }
        assert_true(decoding > 10 && others > 10);
        sc_engine_close(e);
    }
}

/* ---- one session's calls ------------------------------------------------------------------------------------------------ */

static bool in_views(const sc_kv_view *view, int n, const sc_session *s) {
    for (int i = 0; i < n; i++)
        if (view[i].slots >= s->memory.device && view[i].slots < s->memory.device + (size_t)s->memory.layers * (size_t)s->memory.heads * (size_t)s->memory.slots) return true;
    return false;
}

static bool is_of(void *ctx, const char *op, const void *what) {
    const sc_session *s = ctx;
    const sc_engine *e = s->engine;
    if (!strcmp(op, "qkv")) return in_views(((const sc_qkv_args *)what)->view, ((const sc_qkv_args *)what)->seqs, s);
    if (!strcmp(op, "select")) return in_views(((const sc_select_args *)what)->view, ((const sc_select_args *)what)->seqs, s);
    if (!strcmp(op, "attention")) return in_views(((const sc_attention_args *)what)->view, ((const sc_attention_args *)what)->seqs, s);
    if (!strcmp(op, "memory_update")) return in_views(((const sc_memory_update_args *)what)->view, 1, s);
    if (!strcmp(op, "patchify")) return ((const sc_patch_args *)what)->in == s->x;
    if (!strcmp(op, "unpatchify")) return ((const sc_patch_args *)what)->out == s->flow;
    if (!strcmp(op, "noise")) return ((const sc_noise_args *)what)->seed == s->seed;
    if (!strcmp(op, "denoise")) return ((const sc_denoise_args *)what)->x == s->x;
    if (!strcmp(op, "latent_in")) return ((const sc_latent_in_args *)what)->latent == s->x;
    if (!strcmp(op, "pixels")) return ((const sc_pixels_args *)what)->i420 == s->pixels;
    const float *past = what;
    return what && (what == s->x || what == s->pixels || what == s->memory.device || what == s->memory.saved ||
                    (s->past && past >= s->past && past < s->past + (size_t)e->past_chunks * e->latent_count));
}

static void whoever_fails_alone_is_the_one_and_the_rest_go_on(void **state) {
    static const char *const ops[] = {"qkv", "select", "attention", "memory_update", "patchify", "unpatchify", "noise", "denoise", "latent_in", "pixels", "copy",
                                      "upload", "download", NULL};
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        sc_engine *e = open_faulty(kind);
        uint64_t want[CROWD];
        long calls;
        int seen = 0;
        undisturbed(e, want, &calls);
        for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
            for (long n = 1; n < 60; n = n * 2 + 1) { /* the victim's calls, all from the n-th on */
                const int victim = (int)((n + (long)i) % CROWD);
                run r;
                sc_error err = {0};
                char why[80];
                int who = -1;
                begin(&r, e);
                snprintf(why, sizeof why, "kind %d, %s of session %d from call %ld on", kind, ops[i] ? ops[i] : "all calls", victim, n);
                sc_faulty_plan(&(sc_fault){.op = ops[i], .nth = n, .times = -1, .status = SC_EGPU, .counts = is_of, .ctx = r.session[victim]}, true);
                if (play(&r, e, &err)) fail_msg("%s: %s", why, err.text);
                const int failed = count_failed(&r, want, why, &who);
                if (failed != (sc_faulty.failed > 0)) fail_msg("%s: %d sessions failed", why, failed);
                if (failed && who != victim) fail_msg("%s: session %d failed", why, who);
                if (failed) {
                    assert_int_equal(r.session[victim]->chunk, r.chunk_failed);
                    seen++;
                }
                sc_faulty_plan(&(sc_fault){0}, false);
                end(&r);
            }
        assert_true(seen > 25);
        uint64_t again[CROWD];
        undisturbed(e, again, &calls); /* what was left in the pool harms nobody */
        assert_memory_equal(again, want, sizeof want);
        sc_engine_close(e);
    }
}

/* The first retry fails like the batch: that session is the one, as far as anybody can tell. */
static void a_call_that_fails_twice_in_a_row_fails_one_session(void **state) {
    sc_engine *e = open_faulty(0);
    uint64_t want[CROWD];
    long calls;
    (void)state;
    undisturbed(e, want, &calls);
    for (long n = 1; n < 150; n += 7) {
        run r;
        sc_error err = {0};
        int who = -1;
        begin(&r, e);
        sc_faulty_plan(&(sc_fault){.op = "cross_attention", .nth = n, .times = 2, .status = SC_EGPU}, true);
        if (play(&r, e, &err)) fail_msg("%s", err.text);
        if (sc_faulty.failed) {
            assert_int_equal(count_failed(&r, want, "twice", &who), 1);
            assert_int_equal(who, 0);
        }
        sc_faulty_plan(&(sc_fault){0}, false);
        end(&r);
    }
    sc_engine_close(e);
}

/* ---- a device that is lost ---------------------------------------------------------------------------------------------- */

static void a_lost_device_ends_the_call_and_is_not_called_again(void **state) {
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        sc_engine *e = open_faulty(kind);
        uint64_t want[CROWD];
        long calls;
        undisturbed(e, want, &calls);
        for (long n = 1; n <= calls; n += 23) {
            run r;
            sc_error err = {0};
            sc_frames f;
            begin(&r, e);
            sc_faulty_plan(&(sc_fault){.nth = n, .times = 1, .status = SC_ELOST}, true);
            assert_int_equal(play(&r, e, &err), SC_ELOST);
            assert_int_equal(err.status, SC_ELOST);
            assert_non_null(strstr(err.text, "says the test"));
            assert_int_equal(sc_faulty.failed, 1);
            assert_int_equal(sc_faulty.after_loss, 0);
            for (int i = 0; i < CROWD; i++) {
                assert_false(sc_session_failed(r.session[i], NULL)); /* it is nobody's fault */
                if (r.chunk_failed) assert_int_equal(sc_session_frames(r.session[i], &f, &err), SC_OK);
            }
            assert_int_equal(sc_session_set_prompt(r.session[0], "something new", 13, 3, SC_SWITCH, 0, NULL, &err), SC_ELOST);
            sc_faulty_plan(&(sc_fault){0}, false); /* so that the test can free what it holds */
            end(&r);
        }
        sc_engine_close(e);
    }
}

/* ---- requests ----------------------------------------------------------------------------------------------------------- */

static void a_request_that_fails_on_the_device_fails_alone_and_can_be_made_again(void **state) {
    sc_engine *e = open_faulty(0);
    sc_session *s = tiny_session(e, 1, "a red car"), *other = NULL;
    uint64_t want, h = 0;
    sc_error err = {0};
    long failures = 0;

    (void)state;
    want = tiny_play(s, 2, NULL);
    tiny_prompt(s, "a green bird", 2, SC_SWITCH, 0);
    want = tiny_hash(want, &(uint64_t){tiny_play(s, 3, NULL)}, 8);
    sc_session_destroy(s);
    s = tiny_session(e, 1, "a red car");
    h = tiny_play(s, 2, NULL);
    sc_prompt_cache_clear(e);
    for (long n = 1;; n++) {
        uint64_t applies = 77;
        sc_faulty_plan(&(sc_fault){.nth = n, .times = 1, .status = SC_EGPU}, true);
        const sc_status rc = sc_session_set_prompt(s, "a green bird", 12, 2, SC_SWITCH, 0, &applies, &err);
        sc_faulty_plan(&(sc_fault){0}, false);
        if (!rc) break;
        failures++;
        assert_int_equal(rc, SC_EGPU);
        assert_true(applies == 77 && sc_session_next(s).prompt_seq == 1);
        assert_false(sc_session_failed(s, NULL));
    }
    assert_in_range(failures, 30, 1000);
    h = tiny_hash(h, &(uint64_t){tiny_play(s, 3, NULL)}, 8);
    assert_true(h == want);
    sc_prompt_cache_clear(e);
    for (long n = 1; !other; n++) {
        sc_faulty_plan(&(sc_fault){.nth = n, .times = 1, .status = SC_EGPU}, true);
        const sc_status rc = sc_session_create(e, 2, "snow", 4, 1, &other, &err);
        sc_faulty_plan(&(sc_fault){0}, false);
        sc_prompt_cache_clear(e);
        assert_true(rc ? rc == SC_EGPU && !other : other != NULL);
    }
    sc_session_destroy(other);
    sc_session_destroy(s);
    sc_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_that_fails_once_fails_nobody_but_a_session_that_decodes),
        cmocka_unit_test(whoever_fails_alone_is_the_one_and_the_rest_go_on),
        cmocka_unit_test(a_call_that_fails_twice_in_a_row_fails_one_session),
        cmocka_unit_test(a_lost_device_ends_the_call_and_is_not_called_again),
        cmocka_unit_test(a_request_that_fails_on_the_device_fails_alone_and_can_be_made_again),
    };
    return cmocka_run_group_tests(tests, NULL, tiny_remove);
}

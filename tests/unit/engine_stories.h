/* engine_stories.h - what happens to a stream, told of several models: for tests of what goes on with a stream elsewhere (a fork, a snapshot).
 *
 * The yardstick is a stream that nobody disturbed; what goes on is held against it, chunk by chunk. fork_at says where it leaves its source. The
 * pocket model's heads are cut by the batch as a whole on a card (engine.h): one by one alone. */
#ifndef SC_TESTS_ENGINE_STORIES_H
#define SC_TESTS_ENGINE_STORIES_H
#include "tests/unit/engine_vae_model.h"

enum { CHUNKS = 9, PLACES = 3 };

static const char *device = "cpu";

/* ---- models ------------------------------------------------------------------------------------------------------------- */

enum { POCKET, POCKET_WINDOW, PBSA, WINDOW, VAE, VAE_WINDOW, KINDS };
static const char *const kinds[] = {"pocket", "pocket, window", "tiny", "tiny, window", "tiny with VAE", "tiny with VAE, window"};
enum { WITH_A_FULL_WINDOW = 2, IN_A_BLEND = 9, TWO_BLENDS = 11 }; /* stories below */

static tiny_shape shape_of(int kind) {
    tiny_shape s = tiny_default;
    if (kind == WINDOW || kind == VAE_WINDOW) s.window_frames = 7, s.sink_frames = 1;
    return s;
}

static sc_engine *open_kind(int kind) {
    const tiny_shape shape = shape_of(kind);
    sc_engine_options o = {.model_dir = tiny_dir, .device = device, .threads = 2, .max_sessions = PLACES};
    sc_engine *e = NULL;
    sc_error err = {0};

    sc_log_set_level(SC_LOG_ERROR);
    if (kind <= POCKET_WINDOW) {
        o.model_dir = SC_SOURCE_DIR "/models/pocket";
        o.memory = kind == POCKET_WINDOW ? "window" : NULL;
    } else if (kind == VAE || kind == VAE_WINDOW) save_vae_model(&shape, VAE_CONFIG("6"));
    else {
        tiny_model *m = tiny_build(&shape);
        tiny_save(m);
        tiny_free(m);
    }
    if (sc_engine_open(&e, &o, &err)) fail_msg("open: %s", err.text);
    return e;
}

static bool on_card(void) { return strcmp(device, "cpu") && strcmp(device, "twin"); }

/* The pocket model's chunks take long where there is no card. */
static bool left_out(int kind) { return kind <= POCKET_WINDOW && !on_card(); }

/* Company in a pass changes how sums are rounded. */
static bool alone(int kind) { return kind <= POCKET_WINDOW; }

/* What a VAE remembers has nothing to do with prompts, and a card's time is dear. */
static bool told(int kind, int i) { return kind == PBSA || kind == WINDOW || i < 3 || i == IN_A_BLEND; }

/* ---- what happens to a stream ------------------------------------------------------------------------------------------- */

typedef struct { const char *what; int fork_at, change_at, again_at; sc_transition how, then; int blend; } story;

/* change_at: the chunk before which a prompt comes; fork_at: before which the fork is made, behind the prompt. */
static const story stories[] = {
    {"before anything", 0, -1, -1, 0, 0, 0},
    {"after one chunk", 1, -1, -1, 0, 0, 0},
    {"with a full window", 6, -1, -1, 0, 0, 0},
    {"with a waiting prompt", 4, 4, -1, SC_SWITCH, 0, 0},
    {"with a cut that waits", 4, 4, -1, SC_CUT, 0, 0},
    {"with a flush that waits", 5, 5, -1, SC_FLUSH, 0, 0},
    {"with a recache that waits", 5, 5, -1, SC_RECACHE, 0, 0},
    {"with a blend that waits", 3, 3, -1, SC_BLEND, 0, 4},
    {"in a blend, after one chunk of it", 4, 3, -1, SC_BLEND, 0, 4},
    {"in a blend, after two", 5, 3, -1, SC_BLEND, 0, 4},
    {"before the last of a blend", 6, 3, -1, SC_BLEND, 0, 4},
    {"in a blend with another that waits", 5, 3, 5, SC_BLEND, SC_BLEND, 5},
    {"behind a cut", 5, 4, -1, SC_CUT, 0, 0},
    {"behind a flush", 6, 5, -1, SC_FLUSH, 0, 0},
    {"behind a recache", 6, 5, -1, SC_RECACHE, 0, 0},
};
enum { STORIES = sizeof stories / sizeof *stories };

static void prompts_of(const story *k, sc_session *s) {
    if ((int)s->chunk == k->change_at && !s->next_prompt) tiny_prompt(s, "a blue car in the rain at night", 2, k->how, k->blend);
    if ((int)s->chunk == k->again_at && s->next_seq != 3) tiny_prompt(s, "snow", 3, k->then, k->blend);
}

static uint64_t hash_of(sc_session *s) {
    sc_frames f;
    sc_error err = {0};
    if (sc_session_failed(s, &err) || sc_session_frames(s, &f, &err)) fail_msg("%s", err.text);
    assert_true(f.chunk + 1 == s->chunk && f.first_frame == (f.chunk ? 12 * f.chunk - 3 : 0));
    return tiny_hash(f.first_of_prompt + 1, f.data, (size_t)f.count * f.frame_bytes);
}

/* All passes of a chunk of `count` sessions that stand alike, as batches. */
static void chunk_of(sc_session *const *s, int count) {
    sc_error err = {0};
    bool clean;
    do {
        clean = sc_session_next(s[0]).kind == SC_PASS_CLEAN;
        if (sc_engine_run(s[0]->engine, s, count, &err)) fail_msg("pass: %s", err.text);
    } while (!clean && !sc_session_failed(s[0], NULL));
}

static sc_session *begin(sc_engine *e) { return tiny_session(e, 7, "a red balloon over the sea"); }

static void undisturbed(sc_engine *e, const story *k, uint64_t *want) {
    sc_session *s = begin(e);
    for (int c = 0; c < CHUNKS; c++) {
        prompts_of(k, s);
        chunk_of(&s, 1);
        want[c] = hash_of(s);
    }
    sc_session_destroy(s);
}

static sc_session *until_fork(sc_engine *e, const story *k, const uint64_t *want) {
    sc_session *s = begin(e);
    for (int c = 0; c < k->fork_at; c++) {
        prompts_of(k, s);
        chunk_of(&s, 1);
        assert_true(hash_of(s) == want[c]);
    }
    prompts_of(k, s);
    return s;
}

static void expect(const story *k, int kind, const char *who, sc_session *s, uint64_t want) {
    if (hash_of(s) != want) fail_msg("%s, %s: %s has other frames in chunk %d", kinds[kind], k->what, who, (int)s->chunk - 1);
}

static void begins_with_the_last_picture(sc_session *fork, sc_session *source) {
    sc_frames f, all;
    const sc_status rc = sc_session_frames(source, &all, NULL);
    assert_int_equal(sc_session_frames(fork, &f, NULL), rc);
    if (rc) {
        assert_int_equal(rc, SC_ENOTFOUND);
        return;
    }
    assert_true(f.count == 1 && f.chunk == all.chunk && f.first_frame + 1 == all.first_frame + (uint64_t)all.count && f.prompt_seq == all.prompt_seq);
    assert_true(f.width == all.width && f.height == all.height && f.frame_bytes == all.frame_bytes && f.data != all.data && !f.first_of_prompt);
    assert_memory_equal(f.data, all.data + (size_t)(all.count - 1) * all.frame_bytes, f.frame_bytes);
}

/* Of every model, every story with what an undisturbed stream shows. */
static void tell_all(void (*tell)(sc_engine *e, const story *k, int kind, const uint64_t *want)) {
    for (int kind = 0; kind < KINDS; kind++) {
        if (left_out(kind)) continue;
        print_message("%s\n", kinds[kind]);
        sc_engine *e = open_kind(kind);
        for (int i = 0; i < STORIES; i++) {
            uint64_t want[CHUNKS];
            if (!told(kind, i)) continue;
            undisturbed(e, &stories[i], want);
            tell(e, &stories[i], kind, want);
        }
        for (int i = 0; i < PLACES; i++) assert_false(e->taken[i]);
        sc_engine_close(e);
    }
}

/* ---- calls that fail ---------------------------------------------------------------------------------------------------- */

static const sc_ops *real_ops;
static long countdown, live; /* countdown < 0: nothing fails */
static sc_status failure;

static bool fails(void) { return countdown >= 0 && countdown-- == 0; }
static sc_status failing_alloc(sc_device *d, void **out, size_t n, sc_error *err) {
    *out = NULL;
    if (fails()) return sc_fail(err, failure, "says the test");
    live++;
    return real_ops->alloc(d, out, n, err);
}
static sc_status failing_alloc_host(sc_device *d, void **out, size_t n, sc_error *err) {
    *out = NULL;
    if (fails()) return sc_fail(err, failure, "says the test");
    live++;
    return real_ops->alloc_host(d, out, n, err);
}
static void counting_release(sc_device *d, void *p) { live -= p != NULL, real_ops->release(d, p); }
static void counting_release_host(sc_device *d, void *p) { live -= p != NULL, real_ops->release_host(d, p); }
#define FAILING(name, dst, src)                                                                                  \
    static sc_status failing_##name(sc_device *d, dst, src, size_t n, sc_error *err) {                           \
        return fails() ? sc_fail(err, failure, "says the test") : real_ops->name(d, to, from, n, err);           \
    }
FAILING(copy, void *to, const void *from)
FAILING(upload, void *to, const void *from)
FAILING(download, void *to, const void *from)

#endif

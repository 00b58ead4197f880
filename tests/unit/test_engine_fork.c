/* test_engine_fork.c - a fork remembers what its source remembers: with the same seed and prompts it makes the same frames, bit for bit.
 *
 *   test_engine_fork [DEVICE]     cpu unless told otherwise; on another device models/pocket runs too; 77 where there is no such device
 *
 * The yardstick is a stream that nobody forked. A source and its fork are held against it from the fork on, in one batch and one by one, with
 * the source gone, on pages that others have used. The pocket model's heads are cut by the batch as a whole on a card (engine.h): one by one alone. */
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

static sc_session *fork_of(sc_session *from, uint64_t seed) {
    sc_session *s = NULL;
    sc_error err = {0};
    if (sc_session_fork(from, seed, &s, &err)) fail_msg("fork: %s", err.text);
    return s;
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

/* ---- the same ----------------------------------------------------------------------------------------------------------- */

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

enum { TOGETHER, ONE_BY_ONE, SOURCE_ENDS, FORK_ENDS, FORK_OF_A_FORK, WAYS };

static void go_on(sc_engine *e, const story *k, int kind, int way, const uint64_t *want) {
    sc_session *source = until_fork(e, k, want), *fork = fork_of(source, source->seed), *both[2] = {source, fork};

    assert_true(sc_session_next(fork).chunk == (uint64_t)k->fork_at);
    assert_int_equal(sc_session_next(fork).prompt_seq, sc_session_next(source).prompt_seq);
    begins_with_the_last_picture(fork, source);
    if (way == SOURCE_ENDS) sc_session_destroy(source), source = NULL;
    if (way == FORK_ENDS) sc_session_destroy(fork), fork = NULL;
    if (way == FORK_OF_A_FORK) { /* the middle one goes, and another takes its pages */
        sc_session *last = fork_of(fork, fork->seed), *other;
        begins_with_the_last_picture(last, source);
        sc_session_destroy(fork);
        other = tiny_session(e, 99, "fog");
        chunk_of(&other, 1);
        sc_session_destroy(other);
        fork = last;
    }
    both[1] = fork;
    for (int c = k->fork_at; c < CHUNKS; c++) {
        if (source) prompts_of(k, source);
        if (fork) prompts_of(k, fork);
        if (way == TOGETHER) chunk_of(both, 2);
        else {
            if (fork) chunk_of(&fork, 1);
            if (source) chunk_of(&source, 1);
        }
        if (source) expect(k, kind, "the source", source, want[c]);
        if (fork) expect(k, kind, "the fork", fork, want[c]);
    }
    sc_session_destroy(source);
    sc_session_destroy(fork);
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

static void every_way(sc_engine *e, const story *k, int kind, const uint64_t *want) {
    for (int way = alone(kind) ? ONE_BY_ONE : TOGETHER; way < WAYS; way++) go_on(e, k, kind, way, want);
}

static void with_the_same_seed_and_prompts_a_fork_makes_the_same_frames(void **state) {
    (void)state;
    tell_all(every_way);
}

/* ---- other seeds, other prompts ----------------------------------------------------------------------------------------- */

static void part(sc_engine *e, const story *k, int kind, const uint64_t *want) {
    sc_session *s[3] = {until_fork(e, k, want)};
    s[1] = fork_of(s[0], s[0]->seed + 1);
    s[2] = fork_of(s[0], s[0]->seed);
    tiny_prompt(s[2], "a green bird in the desert", 9, SC_SWITCH, 0);
    for (int c = k->fork_at; c < CHUNKS; c++) {
        prompts_of(k, s[0]);
        for (int n = 0; n < 3; n += alone(kind) ? 1 : 3) chunk_of(s + n, alone(kind) ? 1 : 3);
        expect(k, kind, "the source", s[0], want[c]);
        if (hash_of(s[1]) == want[c] || hash_of(s[2]) == want[c]) fail_msg("%s, %s: chunk %d is like the source's", kinds[kind], k->what, c);
        if (c == k->fork_at) assert_true(s[2]->newest.first_of_prompt && s[2]->newest.prompt_seq == 9);
    }
    for (int n = 0; n < 3; n++) sc_session_destroy(s[n]);
}

static void another_seed_or_prompt_makes_other_frames_and_leaves_the_source_alone(void **state) {
    (void)state;
    tell_all(part);
}

/* ---- refusals ----------------------------------------------------------------------------------------------------------- */

static void a_chunk_that_has_begun_and_a_full_house_are_refused(void **state) {
    sc_engine *e = open_kind(PBSA);
    sc_session *s = begin(e), *fork = (sc_session *)1, *more[PLACES - 1];
    uint64_t want[CHUNKS];
    sc_error err = {0};

    (void)state;
    undisturbed(e, &stories[0], want);
    for (int c = 0; c < 4; c++) {
        do {
            tiny_pass(s);
            if (!s->phase) break;
            assert_int_equal(sc_session_fork(s, 1, &fork, &err), SC_EBUSY);
            assert_null(fork);
            assert_non_null(strstr(err.text, "has begun"));
        } while (true);
        assert_true(hash_of(s) == want[c]);
    }
    for (int i = 0; i < PLACES - 1; i++) more[i] = fork_of(s, (uint64_t)i);
    assert_int_equal(sc_session_fork(s, 1, &fork, &err), SC_EBUSY);
    assert_non_null(strstr(err.text, "all 3 places"));
    sc_session_destroy(more[0]);
    more[0] = fork_of(s, s->seed);
    chunk_of(&more[0], 1);
    assert_true(hash_of(more[0]) == want[4]);
    for (int i = 0; i < PLACES - 1; i++) sc_session_destroy(more[i]);
    s->failed = true;
    sc_fail(&s->error, SC_EGPU, "chunk 3: says the test");
    assert_int_equal(sc_session_fork(s, 1, &fork, &err), SC_EGPU);
    assert_string_equal(err.text, "chunk 3: says the test");
    sc_session_destroy(s);
    sc_engine_close(e);
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

static void a_fork_that_fails_leaves_nothing_and_its_source_as_it_was(void **state) {
    const story *k = &stories[TWO_BLENDS];
    (void)state;
    if (strcmp(device, "cpu")) skip(); /* the table of a device that has one queue */
    for (int kind = PBSA; kind <= VAE_WINDOW; kind++)
        for (int round = 0; round < 2; round++) {
            sc_engine *e = open_kind(kind);
            uint64_t want[CHUNKS];
            undisturbed(e, k, want);
            sc_session *s = until_fork(e, k, want), *fork = NULL;
            sc_ops ops = *e->dev->ops;
            sc_error err = {0};
            long failures = 0;
            failure = round ? SC_EGPU : SC_ENOMEM;
            real_ops = e->dev->ops;
            ops.alloc = failing_alloc, ops.release = counting_release, ops.alloc_host = failing_alloc_host, ops.release_host = counting_release_host;
            ops.copy = failing_copy, ops.upload = failing_upload, ops.download = failing_download;
            e->dev->ops = &ops;
            sc_prompt_cache_clear(e); /* a full device: nothing that could be given back */
            live = 0;
            for (long n = 0; !fork; n++, failures++) {
                countdown = n;
                const sc_status rc = sc_session_fork(s, s->seed, &fork, &err);
                countdown = -1;
                if (!rc) break;
                assert_int_equal(rc, failure);
                assert_string_equal(err.text, "says the test");
                assert_null(fork);
                assert_int_equal(live, 0);
            }
            assert_in_range(failures, 20, 200);
            sc_session *both[2] = {s, fork};
            for (int c = k->fork_at; c < CHUNKS; c++) {
                chunk_of(both, 2);
                expect(k, kind, "the source", s, want[c]);
                expect(k, kind, "the fork", fork, want[c]);
            }
            sc_session_destroy(fork);
            e->dev->ops = real_ops;
            sc_session_destroy(s);
            sc_engine_close(e);
        }
}

static void prompts_that_nobody_uses_make_room_for_a_fork(void **state) {
    sc_engine *e = open_kind(PBSA);
    sc_session *s = begin(e), *other = tiny_session(e, 1, "nobody's"), *fork;
    sc_ops ops = *e->dev->ops;

    (void)state;
    sc_session_destroy(other);
    assert_true(sc_engine_prompt_known(e, "nobody's", 8));
    real_ops = e->dev->ops;
    failure = SC_ENOMEM;
    ops.alloc = failing_alloc;
    e->dev->ops = &ops;
    countdown = 3;
    fork = fork_of(s, 1);
    assert_false(sc_engine_prompt_known(e, "nobody's", 8));
    countdown = -1;
    e->dev->ops = real_ops;
    sc_session_destroy(fork);
    sc_session_destroy(s);
    sc_engine_close(e);
}

/* ---- a device that runs behind its calls -------------------------------------------------------------------------------- */

/* Marks alone: what is measured between two of them must have been passed. */
typedef struct { bool set; } mark;
static sc_status mark_create(sc_device *d, sc_mark **out, sc_error *err) { return (void)d, (void)err, *out = calloc(1, sizeof(mark)), *out ? SC_OK : SC_ENOMEM; }
static void mark_destroy(sc_device *d, sc_mark *m) { (void)d, free(m); }
static sc_status mark_set(sc_device *d, sc_mark *m, sc_error *err) { return (void)d, (void)err, ((mark *)m)->set = true, SC_OK; }
static sc_status mark_wait(sc_device *d, sc_mark *m, sc_error *err) { return (void)d, (void)m, (void)err, SC_OK; }
static bool mark_passed(sc_device *d, const sc_mark *m) { return (void)d, (void)m, true; }
static sc_status mark_elapsed(sc_device *d, sc_mark *from, sc_mark *to, uint64_t *ns, sc_error *err) {
    (void)d, (void)err;
    if (!((mark *)from)->set || !((mark *)to)->set) fail_msg("a clock is read that nobody has started");
    *ns = 5;
    return SC_OK;
}

static void the_clocks_of_a_fork_begin_with_its_first_own_chunk(void **state) {
    sc_engine *e = open_kind(PBSA);
    sc_ops ops = *e->dev->ops;
    uint64_t want[CHUNKS];

    (void)state;
    if (ops.beside) { sc_engine_close(e); skip(); } /* has its own marks */
    undisturbed(e, &stories[WITH_A_FULL_WINDOW], want);
    real_ops = e->dev->ops;
    ops.mark_create = mark_create, ops.mark_destroy = mark_destroy, ops.mark = mark_set, ops.after = ops.wait = mark_wait, ops.passed = mark_passed;
    ops.elapsed = mark_elapsed;
    e->dev->ops = &ops;
    sc_session *s = until_fork(e, &stories[WITH_A_FULL_WINDOW], want), *fork = fork_of(s, s->seed);
    assert_true(s->newest.clean_ns == 5);
    for (int c = stories[WITH_A_FULL_WINDOW].fork_at; c < CHUNKS; c++) {
        chunk_of(&fork, 1);
        assert_true(hash_of(fork) == want[c]);
        assert_true(fork->newest.denoise_ns == 10 && fork->newest.clean_ns == (c == stories[WITH_A_FULL_WINDOW].fork_at ? 0 : 5));
    }
    sc_session_destroy(s);
    sc_session_destroy(fork);
    e->dev->ops = real_ops;
    sc_engine_close(e);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(with_the_same_seed_and_prompts_a_fork_makes_the_same_frames),
        cmocka_unit_test(another_seed_or_prompt_makes_other_frames_and_leaves_the_source_alone),
        cmocka_unit_test(a_chunk_that_has_begun_and_a_full_house_are_refused),
        cmocka_unit_test(a_fork_that_fails_leaves_nothing_and_its_source_as_it_was),
        cmocka_unit_test(prompts_that_nobody_uses_make_room_for_a_fork),
        cmocka_unit_test(the_clocks_of_a_fork_begin_with_its_first_own_chunk),
    };
    sc_device *probe = NULL;
    sc_error err = {0};

    if (argc > 1) device = argv[1];
    if (sc_device_open(&probe, device, 1, SC_F16, &err)) {
        printf("no %s: %s\n", device, err.text);
        return 77;
    }
    sc_device_close(probe);
    return cmocka_run_group_tests(tests, NULL, tiny_remove);
}

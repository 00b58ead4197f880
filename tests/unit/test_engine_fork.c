/* test_engine_fork.c - a fork remembers what its source remembers: with the same seed and prompts it makes the same frames, bit for bit.
 *
 *   test_engine_fork [DEVICE]     cpu unless told otherwise; on another device models/pocket runs too; 77 where there is no such device
 *
 * The yardstick is a stream that nobody forked. A source and its fork are held against it from the fork on, in one batch and one by one, with
 * the source gone, on pages that others have used. The pocket model's heads are cut by the batch as a whole on a card (engine.h): one by one alone. */
#include "tests/unit/engine_stories.h"

static sc_session *fork_of(sc_session *from, uint64_t seed) {
    sc_session *s = NULL;
    sc_error err = {0};
    if (sc_session_fork(from, seed, &s, &err)) fail_msg("fork: %s", err.text);
    return s;
}

/* ---- the same ----------------------------------------------------------------------------------------------------------- */

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

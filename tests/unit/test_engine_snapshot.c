/* test_engine_snapshot.c - a session that was saved and restored makes the frames that it would have made, bit for bit; and what is no snapshot is refused.
 *
 *   test_engine_snapshot [DEVICE]     cpu unless told otherwise; on another device models/pocket runs too; 77 where there is no such device
 *
 * The yardstick is a stream that nobody disturbed. A restored one that is saved at once must give the same bytes again, since nothing is in them that
 * follows from something else. */
#include "tests/unit/engine_stories.h"
#include "engine/snapshot_format.h"

typedef struct { void *bytes; size_t n; } saved;

static saved save_of(sc_session *s) {
    saved x;
    sc_error err = {0};
    if (sc_session_save(s, &x.bytes, &x.n, &err)) fail_msg("save: %s", err.text);
    return x;
}

static sc_session *restore_of(sc_engine *e, saved x) {
    sc_snapshot *snapshot;
    sc_session *s = NULL;
    sc_error err = {0};
    if (sc_snapshot_open(&snapshot, e, x.bytes, x.n, &err) || sc_session_restore(e, snapshot, &s, &err)) fail_msg("restore: %s", err.text);
    sc_snapshot_close(snapshot);
    return s;
}

/* ---- the same ----------------------------------------------------------------------------------------------------------- */

static void has_the_bytes(sc_session *s, saved x) {
    saved again = save_of(s);
    assert_int_equal(again.n, x.n);
    assert_memory_equal(again.bytes, x.bytes, x.n);
    free(again.bytes);
}

static void describes(const sc_engine *e, saved x, sc_session *s) {
    sc_snapshot *snapshot;
    sc_snapshot_info i;
    const sc_pass next = sc_session_next(s);
    assert_int_equal(sc_snapshot_open(&snapshot, e, x.bytes, x.n, NULL), SC_OK);
    sc_snapshot_describe(snapshot, &i);
    assert_true(i.seed == s->seed && i.chunk == next.chunk && (i.next_seq ? i.next_seq : i.prompt_seq) == next.prompt_seq);
    sc_snapshot_close(snapshot);
}

static void saves(sc_engine *e, const story *k, int kind, const uint64_t *want) {
    sc_session *source = until_fork(e, k, want);
    const saved x = save_of(source);
    sc_session *other = tiny_session(e, 99, "fog"), *s = restore_of(e, x); /* on other pages than the source's */

    describes(e, x, source);
    has_the_bytes(source, x);
    has_the_bytes(s, x);
    begins_with_the_last_picture(s, source);
    for (int c = k->fork_at; c < CHUNKS; c++) {
        prompts_of(k, source);
        prompts_of(k, s);
        if (alone(kind)) chunk_of(&s, 1), chunk_of(&source, 1);
        else chunk_of((sc_session *[]){source, s}, 2);
        if (c < k->fork_at + 2 && !alone(kind)) chunk_of(&other, 1);
        expect(k, kind, "the source", source, want[c]);
        expect(k, kind, "the restored one", s, want[c]);
    }
    sc_session_destroy(source);
    sc_session_destroy(s);
    s = restore_of(e, x); /* long after its source, on pages that others had */
    sc_session_destroy(other);
    for (int c = k->fork_at; c < CHUNKS; c++) {
        prompts_of(k, s);
        chunk_of(&s, 1);
        expect(k, kind, "the one restored later", s, want[c]);
    }
    sc_session_destroy(s);
    free(x.bytes);
}

static void a_restored_session_makes_the_frames_that_the_saved_one_makes(void **state) {
    (void)state;
    tell_all(saves);
}

static void another_engine_of_the_same_model_goes_on(void **state) {
    (void)state;
    for (int kind = PBSA; kind < KINDS; kind++)
        for (int i = 0; i < STORIES; i++) {
            const story *k = &stories[i];
            uint64_t want[CHUNKS];
            if (i != WITH_A_FULL_WINDOW && i != IN_A_BLEND && i != TWO_BLENDS) continue;
            sc_engine *e = open_kind(kind);
            undisturbed(e, k, want);
            sc_session *s = until_fork(e, k, want);
            const saved x = save_of(s);
            sc_session_destroy(s);
            sc_engine_close(e);
            e = open_kind(kind);
            s = restore_of(e, x);
            assert_true(sc_engine_prompt_known(e, "a red balloon over the sea", 26) == false); /* words that came with a file are nobody else's */
            for (int c = k->fork_at; c < CHUNKS; c++) {
                prompts_of(k, s);
                chunk_of(&s, 1);
                expect(k, kind, "the restored one", s, want[c]);
            }
            sc_session_destroy(s);
            free(x.bytes);
            sc_engine_close(e);
        }
}

/* ---- refusals ----------------------------------------------------------------------------------------------------------- */

static void refused(const sc_engine *e, saved x, const char *why) {
    sc_snapshot *snapshot = (sc_snapshot *)1;
    sc_error err = {0};
    assert_int_equal(sc_snapshot_open(&snapshot, e, x.bytes, x.n, &err), SC_EINVAL);
    assert_null(snapshot);
    if (!strstr(err.text, why)) fail_msg("\"%s\" says nothing of \"%s\"", err.text, why);
}

static void a_chunk_that_has_begun_and_a_full_house_are_refused(void **state) {
    sc_engine *e = open_kind(PBSA);
    sc_session *s = begin(e), *more[PLACES - 1], *one = (sc_session *)1;
    sc_snapshot *snapshot;
    sc_error err = {0};
    saved x;

    (void)state;
    tiny_pass(s);
    x.bytes = &x;
    assert_int_equal(sc_session_save(s, &x.bytes, &x.n, &err), SC_EBUSY);
    assert_null(x.bytes);
    assert_non_null(strstr(err.text, "has begun"));
    while (s->phase) tiny_pass(s);
    x = save_of(s);
    for (int i = 0; i < PLACES - 1; i++) more[i] = restore_of(e, x);
    assert_int_equal(sc_snapshot_open(&snapshot, e, x.bytes, x.n, &err), SC_OK);
    assert_int_equal(sc_session_restore(e, snapshot, &one, &err), SC_EBUSY);
    assert_null(one);
    assert_non_null(strstr(err.text, "all 3 places"));
    sc_snapshot_close(snapshot);
    for (int i = 0; i < PLACES - 1; i++) sc_session_destroy(more[i]);
    free(x.bytes);
    s->failed = true;
    sc_fail(&s->error, SC_EGPU, "chunk 1: says the test");
    assert_int_equal(sc_session_save(s, &x.bytes, &x.n, &err), SC_EGPU);
    assert_string_equal(err.text, "chunk 1: says the test");
    sc_session_destroy(s);
    sc_engine_close(e);
}

static void another_model_or_memory_is_refused(void **state) {
    static const struct { int from, to; const char *why; } pairs[] = {
        {PBSA, VAE, "another model"}, {PBSA, WINDOW, "kind of memory"}, {WINDOW, PBSA, "kind of memory"}};
    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        sc_engine *e = open_kind(pairs[i].from);
        sc_session *s = begin(e);
        chunk_of(&s, 1);
        const saved x = save_of(s);
        sc_session_destroy(s);
        sc_engine_close(e);
        e = open_kind(pairs[i].to);
        refused(e, x, pairs[i].why);
        sc_engine_close(e);
        free(x.bytes);
    }
}

/* ---- hostile bytes ------------------------------------------------------------------------------------------------------ */

/* Refused; or it is a snapshot, and its session makes chunks or fails, and harms no other. */
static bool taken(sc_engine *e, saved x) {
    sc_snapshot *snapshot;
    sc_session *s = NULL;
    sc_error err = {0};
    const sc_status rc = sc_snapshot_open(&snapshot, e, x.bytes, x.n, &err);

    if (rc) {
        assert_int_equal(rc, SC_EINVAL);
        assert_true(!snapshot && !strncmp(err.text, "snapshot: ", 10));
        return false;
    }
    if (sc_session_restore(e, snapshot, &s, &err)) fail_msg("restore: %s", err.text);
    sc_snapshot_close(snapshot);
    for (int c = 0; c < 2 && !sc_session_failed(s, NULL); c++) chunk_of(&s, 1);
    sc_session_destroy(s);
    return true;
}

static void whatever_the_bytes_are_nothing_crashes_and_no_other_session_is_touched(void **state) {
    (void)state;
    for (int kind = PBSA; kind <= WINDOW; kind++) {
        sc_engine *e = open_kind(kind);
        const story *k = &stories[TWO_BLENDS];
        uint64_t want[CHUNKS];
        int good = 0, bad = 0;

        undisturbed(e, k, want);
        sc_session *s = until_fork(e, k, want);
        const saved x = save_of(s);
        unsigned char *bytes = x.bytes;
        const size_t header = 24 + 64 + 8 * SC_SHAPE_NUMBERS + sizeof(sc_snapshot_state);
        for (size_t n = 0; n < x.n; n += n < header ? 1 : 997) { /* its own allocation each: a reader that goes too far is seen */
            saved cut = {malloc(n ? n : 1), n};
            memcpy(cut.bytes, x.bytes, n);
            assert_false(taken(e, cut));
            free(cut.bytes);
        }
        for (size_t i = 0; i < x.n; i += i < header ? 1 : 61)
            for (int bit = 0; bit < 8; bit += i < header ? 1 : 7) {
                bytes[i] ^= (unsigned char)(1 << bit);
                if (taken(e, x)) good++;
                else bad++;
                bytes[i] ^= (unsigned char)(1 << bit);
            }
        assert_true(good > 0 && bad > 8 * 24);
        has_the_bytes(s, x);
        for (int c = k->fork_at; c < CHUNKS; c++) {
            chunk_of(&s, 1);
            expect(k, kind, "the neighbour", s, want[c]);
        }
        sc_session_destroy(s);
        free(x.bytes);
        sc_engine_close(e);
    }
}

static void what_is_not_finite_is_refused(void **state) {
    sc_engine *e = open_kind(PBSA);
    sc_session *s = begin(e);
    sc_snapshot *snapshot;

    (void)state;
    for (int c = 0; c < 4; c++) chunk_of(&s, 1);
    const saved x = save_of(s);
    assert_int_equal(sc_snapshot_open(&snapshot, e, x.bytes, x.n, NULL), SC_OK);
    sc_snapshot_close(snapshot);
    float *f = x.bytes;
    int places = 0, found = 0;
    for (size_t i = 24 * 16; i < x.n / 4; i += 16, places++) { /* behind header and words; a part is a multiple of 16 floats */
        const float was = f[i];
        f[i] = places % 2 ? INFINITY : NAN;
        if (sc_snapshot_open(&snapshot, e, x.bytes, x.n, NULL)) found++;
        else sc_snapshot_close(snapshot);
        f[i] = was;
    }
    assert_true(found > 40 && found < places);
    free(x.bytes);
    sc_session_destroy(s);
    sc_engine_close(e);
}

/* ---- calls that fail ---------------------------------------------------------------------------------------------------- */

static void a_save_or_a_restore_that_fails_leaves_nothing(void **state) {
    const story *k = &stories[TWO_BLENDS];
    (void)state;
    if (strcmp(device, "cpu")) skip(); /* the table of a device that has one queue */
    for (int kind = PBSA; kind <= VAE_WINDOW; kind++)
        for (int round = 0; round < 2; round++) {
            sc_engine *e = open_kind(kind);
            uint64_t want[CHUNKS];
            undisturbed(e, k, want);
            sc_session *s = until_fork(e, k, want), *one = NULL;
            sc_snapshot *snapshot;
            sc_ops ops = *e->dev->ops;
            sc_error err = {0};
            saved x = {NULL, 0};
            int failures = 0;
            failure = round ? SC_EGPU : SC_ENOMEM;
            real_ops = e->dev->ops;
            ops.alloc = failing_alloc, ops.release = counting_release, ops.alloc_host = failing_alloc_host, ops.release_host = counting_release_host;
            ops.copy = failing_copy, ops.upload = failing_upload, ops.download = failing_download;
            e->dev->ops = &ops;
            sc_prompt_cache_clear(e);
            for (long n = 0; !x.bytes; n++, failures++) {
                countdown = n;
                const sc_status rc = sc_session_save(s, &x.bytes, &x.n, &err);
                countdown = -1;
                if (!rc) break;
                assert_int_equal(rc, failure);
                assert_null(x.bytes);
            }
            assert_in_range(failures, 10, 200);
            assert_int_equal(sc_snapshot_open(&snapshot, e, x.bytes, x.n, &err), SC_OK);
            live = 0;
            for (long n = 0; !one; n++, failures++) {
                countdown = n;
                const sc_status rc = sc_session_restore(e, snapshot, &one, &err);
                countdown = -1;
                if (!rc) break;
                assert_int_equal(rc, failure);
                assert_string_equal(err.text, "says the test");
                assert_null(one);
                assert_int_equal(live, 0);
            }
            assert_in_range(failures, 40, 400);
            sc_snapshot_close(snapshot);
            free(x.bytes);
            for (int c = k->fork_at; c < CHUNKS; c++) {
                chunk_of((sc_session *[]){s, one}, 2);
                expect(k, kind, "the source", s, want[c]);
                expect(k, kind, "the restored one", one, want[c]);
            }
            sc_session_destroy(one);
            e->dev->ops = real_ops;
            sc_session_destroy(s);
            sc_engine_close(e);
        }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_restored_session_makes_the_frames_that_the_saved_one_makes),
        cmocka_unit_test(another_engine_of_the_same_model_goes_on),
        cmocka_unit_test(a_chunk_that_has_begun_and_a_full_house_are_refused),
        cmocka_unit_test(another_model_or_memory_is_refused),
        cmocka_unit_test(whatever_the_bytes_are_nothing_crashes_and_no_other_session_is_touched),
        cmocka_unit_test(what_is_not_finite_is_refused),
        cmocka_unit_test(a_save_or_a_restore_that_fails_leaves_nothing),
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

/* test_engine_endless.c - a stream may go on for ever: positions never grow, and neither does memory.
 *
 * A page carries its place inside its chunk, a query adds the age of the page it looks at, and ages of persistent blocks are held
 * at max_distance. So a memory whose chunk numbers are all shifted gives the same pictures to the last bit, which is tested with
 * numbers far past anything that a stream can reach; max_distance is short here, so that most persistent blocks are held at it. */
#include "tests/unit/engine_model.h"

#include <malloc.h>

static const int64_t shifts[] = {1, 1000, (INT64_C(1) << 31) - 2, (INT64_C(1) << 32) - 3, INT64_C(1) << 40, (INT64_C(1) << 52) + 1, INT64_C(1) << 59};

static sc_session *session_at(sc_engine *e, int64_t shift) {
    sc_session *s = tiny_session(e, 42, "a yellow boat on the sea");
    sc_error err = {0};
    if (sc_kv_reset(&s->memory, shift, &err)) fail_msg("%s", err.text);
    return s;
}

/* Oldest true age in latent frames among the persistent blocks of a PBSA session. */
static int64_t oldest_age(const sc_session *s) {
    const sc_kv_memory *m = &s->memory;
    int64_t oldest = 0;
    for (int h = 0; h < m->layers * m->heads; h++)
        for (int i = 0; i < m->persistent; i++) {
            const int64_t age = (m->chunk - m->device[(size_t)h * (size_t)m->slots + (size_t)i].chunk) * m->layout->frames;
            if (age > oldest) oldest = age;
        }
    return oldest;
}

static const struct { const char *what; int chunks, max_distance, window, sink, window_chunks, capacity; const char *device; bool pictures; } kinds[] = {
    {"held at 6 frames", 45, 6, 0, 0, 3, 3, "cpu", true},
    {"held at 6 frames, twin", 30, 6, 0, 0, 3, 3, "twin", true},
    {"held at the window", 45, 9, 0, 0, 3, 5, "cpu", false},
    {"held at 0", 45, 0, 0, 0, 2, 4, "cpu", false},
    {"never held", 45, -1, 0, 0, 3, 3, "cpu", false},
    {"window of one chunk", 45, 6, 0, 0, 1, 4, "cpu", false},
    {"no persistent blocks", 30, 6, 0, 0, 3, 0, "cpu", false},
    {"plain window", 45, -1, 9, 0, 0, 0, "cpu", true},
    {"plain window with a sink", 45, -1, 7, 1, 0, 0, "cpu", true},
    {"plain window, large sink", 45, -1, 9, 6, 0, 0, "twin", false},
};

static void a_history_that_is_shifted_gives_the_same_pictures_bit_for_bit(void **state) {
    (void)state;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        tiny_shape shape = tiny_default;
        sc_engine *e;
        shape.max_distance = kinds[k].max_distance;
        shape.window_frames = kinds[k].window;
        shape.sink_frames = kinds[k].sink;
        shape.window_chunks = kinds[k].window_chunks;
        shape.capacity = kinds[k].capacity;
        e = tiny_open(&shape, kinds[k].device, 2);
        for (size_t i = 0; i < sizeof shifts / sizeof *shifts; i++) {
            sc_session *a = session_at(e, 0), *b = session_at(e, shifts[i]);
            for (int c = 0; c < kinds[k].chunks / (i ? 3 : 1); c++) {
                sc_frames fa, fb;
                tiny_chunk(a, kinds[k].pictures);
                tiny_chunk(b, kinds[k].pictures);
                if (memcmp(a->x, b->x, e->latent_count * sizeof(float))) fail_msg("%s: chunk %d, shifted by %lld, differs", kinds[k].what, c, (long long)shifts[i]);
                if (!kinds[k].pictures) continue;
                assert_int_equal(sc_session_frames(a, &fa, NULL), SC_OK);
                assert_int_equal(sc_session_frames(b, &fb, NULL), SC_OK);
                assert_int_equal(fa.count, fb.count);
                assert_memory_equal(fa.data, fb.data, (size_t)fa.count * fa.frame_bytes);
            }
            assert_int_equal(b->memory.chunk - a->memory.chunk, shifts[i]);
            if (k == 0 && i == 0) assert_true(oldest_age(a) > kinds[k].max_distance); /* the clamp was needed */
            sc_session_destroy(a);
            sc_session_destroy(b);
        }
        sc_engine_close(e);
    }
}

/* The clamp matters: without it the same stream is another one, so the test above does test something. */
static void holding_the_age_shows_in_the_pictures(void **state) {
    tiny_shape shape = tiny_default;
    uint64_t hash[2];
    (void)state;
    for (int i = 0; i < 2; i++) {
        shape.max_distance = i ? -1 : 6;
        sc_engine *e = tiny_open(&shape, "cpu", 1);
        sc_session *s = session_at(e, 0);
        for (int c = 0; c < 30; c++) tiny_chunk(s, false);
        hash[i] = tiny_hash(0, s->x, e->latent_count * sizeof(float));
        sc_session_destroy(s);
        sc_engine_close(e);
    }
    assert_true(hash[0] != hash[1]);
}

/* ---- thousands of chunks ------------------------------------------------------------------------------------------------ */

size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

static size_t heap_bytes(void) {
    return __sanitizer_get_current_allocated_bytes ? __sanitizer_get_current_allocated_bytes() : mallinfo2().uordblks;
}

static long allocs, releases;
static const sc_ops *real_ops;
static sc_status counting_alloc(sc_device *d, void **out, size_t n, sc_error *err) { return allocs++, real_ops->alloc(d, out, n, err); }
static void counting_release(sc_device *d, void *p) { releases += p != NULL, real_ops->release(d, p); }

static double rms(const float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    return sqrt(sum / (double)n);
}

static void thousands_of_chunks_on(const tiny_shape *shape, int chunks) {
    sc_engine *e = tiny_open(shape, "cpu", 1);
    sc_session *s = session_at(e, 0);
    sc_ops ops = *e->dev->ops;
    size_t heap = 0;
    double early = 0, late = 0;

    real_ops = e->dev->ops;
    ops.alloc = counting_alloc;
    ops.release = counting_release;
    e->dev->ops = &ops;
    for (int c = 0; c < chunks; c++) {
        if (c == 100) { /* everything has been used once */
            heap = heap_bytes();
            allocs = releases = 0;
        }
        tiny_chunk(s, c % 50 == 0);
        if (c >= 50 && c < 150) early += rms(s->x, e->latent_count) / 100;
        if (c >= chunks - 100) late += rms(s->x, e->latent_count) / 100;
    }
    assert_int_equal(allocs, 0); /* the path of a chunk allocates nothing on the device */
    assert_int_equal(releases, 0);
    const size_t after = heap_bytes();
    if (__sanitizer_get_current_allocated_bytes ? after != heap : after > heap + 4096) fail_msg("the heap went from %zu to %zu bytes", heap, after);
    assert_int_equal(s->chunk, chunks);
    assert_int_equal(s->memory.chunk, chunks);
    if (!(late > early / 1.1 && late < early * 1.1)) fail_msg("latents had an rms of %g, now %g", early, late);
    e->dev->ops = real_ops;
    sc_session_destroy(s);
    sc_engine_close(e);
}

static void thousands_of_chunks_leave_no_trace_in_memory_or_size(void **state) {
    tiny_shape shape = tiny_default;
    (void)state;
    shape.steps = "[1000]";
    thousands_of_chunks_on(&shape, 2500);
    shape.window_frames = 7;
    shape.sink_frames = 1;
    thousands_of_chunks_on(&shape, 1000);
}

/* The pages of a memory are used over and over: what a chunk looks like depends on what is remembered, never on which page. */
static void where_a_memory_lies_in_the_pool_changes_nothing(void **state) {
    sc_engine *e = tiny_open(&tiny_default, "cpu", 3);
    sc_session *s[3];
    (void)state;
    for (int i = 0; i < 3; i++) s[i] = session_at(e, 0);
    for (int c = 0; c < 40; c++) {
        for (int i = 0; i < 3; i++) tiny_chunk(s[i], false);
        assert_memory_equal(s[0]->x, s[1]->x, e->latent_count * sizeof(float));
        assert_memory_equal(s[0]->x, s[2]->x, e->latent_count * sizeof(float));
    }
    for (int i = 0; i < 3; i++) sc_session_destroy(s[i]);
    sc_engine_close(e);
}

/* Noise is counted in 64 bits: a chunk number past 2^32 is not its low half, and frames are numbered on. */
static void a_stream_crosses_two_to_the_32_chunks(void **state) {
    const uint64_t far = (UINT64_C(1) << 32) - 2;
    sc_engine *e = tiny_open(&tiny_default, "cpu", 2);
    sc_session *near = session_at(e, 0), *s = session_at(e, 0);
    sc_frames f;

    (void)state;
    s->chunk = far;
    s->frames_made = far * 12 - 3;
    for (int c = 0; c < 5; c++) {
        assert_true(sc_session_next(s).chunk == far + (uint64_t)c);
        tiny_chunk(s, true);
        assert_int_equal(sc_session_frames(s, &f, NULL), SC_OK);
        assert_true(f.chunk == far + (uint64_t)c);
        assert_true(f.first_frame == far * 12 - 3 + (c ? (uint64_t)c * 12 - 3 : 0));
    }
    if (sc_kv_reset(&s->memory, 0, NULL) || sc_kv_reset(&near->memory, 0, NULL)) fail();
    s->past_count = near->past_count = 0;
    s->chunk = UINT64_C(1) << 32; /* low half 0, as near */
    near->chunk = 0;
    tiny_chunk(s, false);
    tiny_chunk(near, false);
    assert_memory_not_equal(s->x, near->x, e->latent_count * sizeof(float));
    sc_session_destroy(s);
    sc_session_destroy(near);
    sc_engine_close(e);
}

/* Thousands of chunks of microseconds: a second thread would only cost (that it changes nothing is test_engine_session.c's). */
static int on_one_thread(void **state) {
    (void)state;
    tiny_threads = 1;
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_history_that_is_shifted_gives_the_same_pictures_bit_for_bit),
        cmocka_unit_test(holding_the_age_shows_in_the_pictures),
        cmocka_unit_test(thousands_of_chunks_leave_no_trace_in_memory_or_size),
        cmocka_unit_test(where_a_memory_lies_in_the_pool_changes_nothing),
        cmocka_unit_test(a_stream_crosses_two_to_the_32_chunks),
    };
    return cmocka_run_group_tests(tests, on_one_thread, tiny_remove);
}

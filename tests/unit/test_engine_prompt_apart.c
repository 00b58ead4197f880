/* test_engine_prompt_apart.c - words that another thread reads while the engine goes on (sc_engine_prompt_ask).
 *
 * The text encoder's device has a gate before its attention, so that a text takes as long as the test wants. */
#include "tests/unit/engine_model.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

static sc_ops gated;
static const sc_ops *real;
static sem_t gate, finished;
static atomic_int encodings;
static atomic_bool closed, broken;

static sc_status gated_gather(sc_device *d, float *out, const sc_matrix *t, const int32_t *rows, int n, sc_error *err) {
    atomic_fetch_add(&encodings, 1);
    if (atomic_load(&closed)) sem_wait(&gate);
    if (atomic_load(&broken)) return sc_fail(err, SC_EGPU, "gather: says the test");
    return real->gather(d, out, t, rows, n, err);
}

static void done(void *ctx) { sem_post(ctx); }

static sc_engine *open_apart(void) {
    sc_engine *e = NULL;
    sc_error err = {0};
    tiny_model *m = tiny_build(&tiny_default);
    tiny_save(m);
    tiny_free(m);
    if (sc_engine_open(&e, &(sc_engine_options){.model_dir = tiny_dir, .device = "cpu", .text_device = "twin", .threads = 2, .max_sessions = 2}, &err)) fail_msg("%s", err.text);
    real = e->text_dev->ops;
    gated = *real;
    gated.gather = gated_gather;
    e->text_dev->ops = &gated;
    sem_init(&gate, 0, 0);
    sem_init(&finished, 0, 0);
    atomic_store(&encodings, 0);
    atomic_store(&closed, false);
    atomic_store(&broken, false);
    return e;
}

static void close_apart(sc_engine *e) {
    sc_engine_close(e);
    sem_destroy(&gate);
    sem_destroy(&finished);
}

static sc_status ask(sc_engine *e, const char *text, sc_error *err) { return sc_engine_prompt_ask(e, text, strlen(text), done, &finished, err); }
static bool known(const sc_engine *e, const char *text) { return sc_engine_prompt_known(e, text, strlen(text)); }

static uint64_t chunk(sc_session *s, uint64_t h) {
    sc_frames f;
    tiny_chunk(s, true);
    if (sc_session_frames(s, &f, NULL)) fail_msg("no frames");
    return tiny_hash(h, f.data, (size_t)f.count * f.frame_bytes);
}

static void chunks_go_on_while_words_are_read_and_then_show_them(void **state) {
    static const char first[] = "a red car", next[] = "a green bird over the sea";
    uint64_t want = 0, got = 0;
    sc_error err = {0};
    sc_model_info info;

    (void)state;
    for (int apart = 0; apart < 2; apart++) {
        sc_engine *e = open_apart();
        sc_session *s = tiny_session(e, 5, first);
        uint64_t h = 0;
        sc_engine_describe(e, &info);
        assert_true(info.text_apart);
        if (apart) {
            atomic_store(&closed, true);
            assert_int_equal(ask(e, next, &err), SC_OK);
        }
        for (int c = 0; c < 3; c++) h = chunk(s, h); /* the encoder stands still */
        if (apart) {
            assert_false(known(e, next));
            assert_int_equal(sem_trywait(&finished), -1);
            sem_post(&gate);
            sem_wait(&finished);
            atomic_store(&closed, false);
            assert_int_equal(sc_engine_prompt_answer(e, &err), SC_OK);
            assert_true(known(e, next));
        }
        const int before = atomic_load(&encodings);
        tiny_prompt(s, next, 2, SC_SWITCH, 0);
        assert_int_equal(atomic_load(&encodings), before + !apart);
        for (int c = 0; c < 3; c++) h = chunk(s, h);
        *(apart ? &got : &want) = h;
        sc_session_destroy(s);
        close_apart(e);
    }
    assert_true(want == got);
}

static void an_answer_is_what_a_prompt_would_have_said(void **state) {
    static char long_text[SC_PROMPT_BYTES_MAX + 2];
    sc_engine *e = open_apart();
    sc_error err = {0};

    (void)state;
    memset(long_text, 'x', sizeof long_text - 1);
    assert_int_equal(sc_engine_prompt_answer(e, &err), SC_ENOTFOUND);
    assert_int_equal(ask(e, long_text, &err), SC_EINVAL);
    assert_int_equal(ask(e, "a boat \xff", &err), SC_OK);
    sem_wait(&finished);
    assert_int_equal(ask(e, "another", &err), SC_EBUSY); /* until the answer is taken */
    assert_int_equal(sc_engine_prompt_answer(e, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "7")); /* the offset */
    atomic_store(&broken, true);
    assert_int_equal(ask(e, "a boat", &err), SC_OK);
    assert_int_equal(sc_engine_prompt_answer(e, &err), SC_EGPU); /* waits by itself */
    assert_false(known(e, "a boat"));
    sem_wait(&finished);
    atomic_store(&broken, false);
    assert_int_equal(ask(e, "a boat", &err), SC_OK);
    assert_int_equal(sc_engine_prompt_answer(e, &err), SC_OK);
    assert_true(known(e, "a boat") && !known(e, "a boat ") && !known(e, ""));
    close_apart(e);
}

static void who_needs_the_encoder_meanwhile_waits_for_it(void **state) {
    sc_engine *e = open_apart();
    sc_session *s = tiny_session(e, 1, "snow");
    sc_error err = {0};

    (void)state;
    assert_int_equal(ask(e, "fog", &err), SC_OK);
    tiny_prompt(s, "rain", 2, SC_SWITCH, 0);
    assert_true(known(e, "rain") && !known(e, "fog"));
    assert_int_equal(sc_engine_prompt_answer(e, &err), SC_OK);
    assert_int_equal(ask(e, "night", &err), SC_OK);
    tiny_prompt(s, "night", 3, SC_SWITCH, 0); /* the very words */
    assert_int_equal(sc_engine_prompt_answer(e, &err), SC_OK);
    assert_true(known(e, "fog") && known(e, "night"));
    assert_int_equal(ask(e, "nobody asks what became of it", &err), SC_OK);
    tiny_chunk(s, true);
    sc_session_destroy(s);
    close_apart(e);
}

static void one_device_for_both_is_not_apart(void **state) {
    sc_engine *e = tiny_open(&tiny_default, "cpu", 1);
    sc_model_info info;

    (void)state;
    sc_engine_describe(e, &info);
    assert_false(info.text_apart);
    sc_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_go_on_while_words_are_read_and_then_show_them),
        cmocka_unit_test(an_answer_is_what_a_prompt_would_have_said),
        cmocka_unit_test(who_needs_the_encoder_meanwhile_waits_for_it),
        cmocka_unit_test(one_device_for_both_is_not_apart),
    };
    return cmocka_run_group_tests(tests, NULL, tiny_remove);
}

/* test_server_program.c - which prompt of a schedule comes when. The stream of most tests is the pocket model's: 16 frames a second, 9 frames in the
 * first chunk, 12 in later ones, so chunks begin at 0, 0.5625, 1.3125, 2.0625 s and so on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/program.h"
#include <stdio.h>
#include <string.h>

static const sc_program_clock begin = {.chunk = 0, .pts_us = 0, .fps = 16, .frames_first = 9, .frames_chunk = 12};

/* Where a stream stands before chunk n, as the scheduler counts its time. */
static sc_program_clock at_chunk(uint64_t n, int fps) {
    sc_program_clock c = {.chunk = n, .fps = fps, .frames_first = 9, .frames_chunk = 12};
    for (uint64_t i = 0; i < n; i++) c.pts_us += (i ? 12u : 9u) * 1000000u / (uint64_t)fps;
    return c;
}

static sc_program *program(const char *body) {
    sc_program *g;
    sc_problem p;
    if (!sc_request_program(body, strlen(body), &g, &p)) fail_msg("%s: %s", body, p.detail);
    return g;
}

static void a_moment_becomes_the_chunk_that_holds_it(void **state) {
    static const struct { uint64_t us, chunk; } moments[] = {{0, 0}, {562499, 0}, {562500, 1}, {1312499, 1}, {1312500, 2}, {2062500, 3}, {8500000, 11}, {1000000000000000, 1333333333}};
    (void)state;
    for (size_t i = 0; i < sizeof moments / sizeof *moments; i++) {
        assert_int_equal(sc_program_chunk_of(&begin, moments[i].us), moments[i].chunk);
        for (uint64_t n = 1; n <= 11 && n <= moments[i].chunk; n++) { /* wherever the stream stands */
            const sc_program_clock c = at_chunk(n, 16);
            assert_int_equal(sc_program_chunk_of(&c, moments[i].us), moments[i].chunk);
        }
    }
    const sc_program_clock late = at_chunk(5, 16);
    assert_true(sc_program_chunk_of(&late, 0) < 5 && sc_program_chunk_of(&late, late.pts_us - 1) < 5);
}

static void a_chunk_and_its_moment_agree_at_every_rate(void **state) {
    (void)state;
    for (int fps = 1; fps <= 60; fps++)
        for (uint64_t n = 0; n < 40; n++) {
            const sc_program_clock c = at_chunk(n, fps);
            for (uint64_t chunk = n; chunk < n + 40; chunk++) {
                const uint64_t us = sc_program_moment_of(&c, chunk);
                assert_int_equal(sc_program_chunk_of(&c, us), chunk);
                assert_true(chunk == n || sc_program_chunk_of(&c, us - 1) == chunk - 1);
                const sc_program_clock there = at_chunk(chunk, fps);
                assert_int_equal(sc_program_chunk_of(&there, us), chunk); /* once it is there, too */
            }
        }
}

/* Chunks begin one after the other; notes which entry is handed over before which, "0@0 1@3 ". fps changes to `then` before chunk `change`. */
static void play(const sc_program *g, sc_program_state *s, uint64_t from, uint64_t until, uint64_t change, int then, char *out) {
    sc_program_clock c = at_chunk(from, 16);
    out[0] = 0;
    for (uint64_t n = from; n < until; n++) {
        int i;
        if (n == change) c.fps = then;
        while ((i = sc_program_due(g, s, &c, n)) >= 0) {
            assert_int_equal(i, s->next);
            sprintf(out + strlen(out), "%d@%llu ", i, (unsigned long long)n);
            sc_program_gave(g, s, (uint32_t)n + 2, n, 1);
        }
        c.pts_us += (c.chunk ? 12u : 9u) * 1000000u / (uint64_t)c.fps;
        c.chunk++;
    }
}

static void plays(const char *body, uint64_t from, uint64_t until, uint64_t change, int then, const char *expected) {
    sc_program *g = program(body);
    const sc_program_clock c = at_chunk(from, 16);
    sc_program_state s;
    sc_problem p = {0};
    char got[1024];
    if (!sc_program_begin(g, &c, from, "", &s, &p)) fail_msg("%s: %s", body, p.detail);
    play(g, &s, from, until, change, then, got);
    assert_string_equal(got, expected);
    sc_program_release(g);
}

static void entries_come_at_their_chunks(void **state) {
    (void)state;
    plays("{\"prompts\":[{\"at_chunk\":0,\"prompt\":\"a\"},{\"at_s\":1.5,\"prompt\":\"b\"},{\"at_chunk\":7,\"prompt\":\"c\"}]}", 0, 20, 99, 0, "0@0 1@2 2@7 ");
    plays("{\"prompts\":[{\"at_chunk\":5,\"prompt\":\"a\"},{\"at_chunk\":6,\"prompt\":\"b\"}]}", 5, 20, 99, 0, "0@5 1@6 ");
}

static void text_begins_with_the_next_chunk(void **state) {
    (void)state;
    plays("{\"text\":\"a[2s]|b[0.75s]|c\"}", 0, 20, 99, 0, "0@0 1@2 2@3 "); /* 2 s, 2.75 s */
    plays("{\"text\":\"a[2s]|b[0.75s]|c\"}", 10, 20, 99, 0, "0@10 1@12 2@13 ");
    plays("{\"text\":\"a[2s]|b[3s]\",\"loop\":false}", 3, 40, 99, 0, "0@3 1@5 ");
}

static void loops_do_not_drift(void **state) {
    sc_program *g = program("{\"text\":\"a[1s]|b[1s]\",\"loop\":true}");
    sc_program_state s;
    sc_problem p = {0};
    (void)state;
    plays("{\"text\":\"a[1s]|b[1s]\",\"loop\":true}", 1, 12, 99, 0, "0@1 1@2 0@3 1@5 0@6 1@7 0@9 1@10 0@11 ");
    plays("{\"prompts\":[{\"at_chunk\":2,\"prompt\":\"a\"},{\"at_chunk\":3,\"prompt\":\"b\",\"for_chunks\":2}],\"loop\":true}", 0, 12, 99, 0, "0@2 1@3 0@5 1@6 0@8 1@9 0@11 ");
    plays("{\"prompts\":[{\"at_s\":3,\"prompt\":\"a\",\"for_s\":1.5}],\"loop\":true}", 0, 12, 99, 0, "0@4 0@6 0@8 0@10 ");
    assert_true(sc_program_begin(g, &begin, 0, "", &s, &p));
    s.round = 1000000; /* two million seconds later */
    assert_int_equal(sc_program_next_chunk(g, &s, &begin), 1 + (32000000 - 9) / 12);
    sc_program_release(g);
}

static void seconds_stay_seconds_when_fps_changes(void **state) {
    const char *body = "{\"prompts\":[{\"at_s\":3,\"prompt\":\"a\"},{\"at_s\":6,\"prompt\":\"b\"},{\"at_s\":12,\"prompt\":\"c\"}]}";
    (void)state;
    plays(body, 0, 40, 99, 0, "0@4 1@8 2@16 ");
    plays(body, 0, 40, 5, 8, "0@4 1@6 2@10 ");    /* from 3.5625 s on a chunk takes 1.5 s */
    plays(body, 0, 60, 5, 60, "0@4 1@17 2@47 ");
    plays(body, 0, 40, 2, 1, "2@2 ");          /* 3, 6 and 12 s are in the twelve of chunk 2: the last one comes alone */
}

static void what_has_begun_is_named(void **state) {
    static const struct { const char *body; int status, count; const char *pointer, *words; } bad[] = {
        {"{\"prompts\":[{\"at_chunk\":9,\"prompt\":\"a\"}]}", 409, 1, "/x/prompts/0/at_chunk", "must be 10 or later, found 9"},
        {"{\"prompts\":[{\"at_chunk\":0,\"prompt\":\"a\"},{\"at_s\":0,\"prompt\":\"b\"},{\"at_chunk\":10,\"prompt\":\"c\"}]}", 409, 2, "/x/prompts/1/at_s", "must be 7.3125 or later, found 0"},
        {"{\"prompts\":[{\"at_s\":7.3124,\"prompt\":\"a\"}]}", 409, 1, "/x/prompts/0/at_s", "must be 7.3125 or later, found 7.3124"},
        {"{\"prompts\":[{\"at_chunk\":12,\"prompt\":\"a\"},{\"at_chunk\":12,\"prompt\":\"b\"}]}", 422, 1, "/x/prompts/1/at_chunk", "must rise"},
        {"{\"prompts\":[{\"at_chunk\":12,\"prompt\":\"a\"},{\"at_chunk\":11,\"prompt\":\"b\"}]}", 422, 1, "/x/prompts/1/at_chunk", "at chunk 11, and the prompt before it at chunk 12"},
        {"{\"prompts\":[{\"at_s\":7.4,\"prompt\":\"a\"},{\"at_chunk\":10,\"prompt\":\"b\"}]}", 422, 1, "/x/prompts/1/at_chunk", "must rise"},
        {"{\"loop\":true,\"prompts\":[{\"at_chunk\":12,\"prompt\":\"a\"},{\"at_chunk\":11,\"prompt\":\"b\",\"for_chunks\":9}]}", 422, 1, "/x/prompts/1/at_chunk", "must rise"},
        {"{\"loop\":true,\"prompts\":[{\"at_s\":12,\"prompt\":\"a\",\"for_s\":0.7499}]}", 422, 1, "/x/prompts/0/at_s", "must stay for a chunk, 0.7500 s"},
        {"{\"text\":\"a[0.1s]|b\"}", 422, 1, "/x/text", "prompt 0 is gone before it begins"},
        {"{\"text\":\"a[5s]|b[0.7s]\",\"loop\":true}", 422, 1, "/x/text", "prompt 1 of a loop must stay for a chunk"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sc_program *g = program(bad[i].body);
        const sc_program_clock c = at_chunk(9, 16); /* chunk 9 is in work */
        sc_program_state s;
        sc_problem p = {0};
        assert_false(sc_program_begin(g, &c, 10, "/x", &s, &p));
        if (p.status != bad[i].status || p.count != bad[i].count || strcmp(p.errors[p.count - 1].pointer, bad[i].pointer) || !strstr(p.errors[p.count - 1].detail, bad[i].words))
            fail_msg("%s: %d, %d errors, %s: %s", bad[i].body, p.status, p.count, p.errors[p.count - 1].pointer, p.errors[p.count - 1].detail);
        sc_program_release(g);
    }
}

static void none_is_fine(void **state) {
    sc_program_state s;
    sc_program_view v;
    sc_problem p = {0};
    (void)state;
    assert_true(sc_program_begin(NULL, &begin, 0, "", &s, &p));
    assert_true(sc_program_next_chunk(NULL, &s, &begin) == UINT64_MAX);
    assert_int_equal(sc_program_due(NULL, &s, &begin, 0), -1);
    sc_program_look(NULL, &s, &begin, 1, 1, &v);
    assert_true(!v.program && v.count == 0 && v.in_force == -1);
}

static void a_look_shows_what_is_to_come_and_what_is_in_force(void **state) {
    sc_program *g = program("{\"prompts\":[{\"at_chunk\":3,\"prompt\":\"a\"},{\"at_chunk\":5,\"prompt\":\"b\"},{\"at_s\":8.5,\"prompt\":\"c\"}]}");
    sc_program_state s;
    sc_program_view v;
    sc_problem p = {0};
    (void)state;
    assert_true(sc_program_begin(g, &begin, 0, "", &s, &p));
    sc_program_look(g, &s, &begin, 1, 1, &v);
    assert_true(v.in_force == -1 && v.count == 3 && v.coming[2].entry == 2 && v.coming[2].chunk == 11 && v.coming[0].seq == 0);
    sc_program_gave(g, &s, 2, 3, 1); /* entry 0 waits for chunk 3 */
    sc_program_look(g, &s, &begin, 1, 2, &v);
    assert_true(v.in_force == -1 && v.count == 3 && v.coming[0].entry == 0 && v.coming[0].seq == 2 && v.coming[0].chunk == 3 && v.coming[1].entry == 1);
    sc_program_look(g, &s, &begin, 1, 3, &v); /* somebody said something else before chunk 3 */
    assert_true(v.in_force == -1 && v.count == 2 && v.coming[0].entry == 1);
    sc_program_look(g, &s, &begin, 3, 3, &v);
    assert_true(v.in_force == -1 && v.count == 2);
    sc_program_look(g, &s, &begin, 2, 2, &v); /* nobody did */
    assert_true(v.in_force == 0 && v.in_force_seq == 2 && v.count == 2);
    sc_program_gave(g, &s, 4, 5, 2); /* entry 1 waits, entry 0 is in force */
    sc_program_look(g, &s, &begin, 2, 4, &v);
    assert_true(v.in_force == 0 && v.count == 2 && v.coming[0].entry == 1 && v.coming[0].seq == 4);
    sc_program_gave(g, &s, 5, 5, 2); /* so does entry 2, instead of it */
    sc_program_look(g, &s, &begin, 2, 5, &v);
    assert_true(v.in_force == 0 && v.count == 1 && v.coming[0].entry == 2);
    sc_program_look(g, &s, &begin, 5, 5, &v);
    assert_true(v.in_force == 2 && v.in_force_seq == 5 && v.count == 0);
    sc_program_look(g, &s, &begin, 6, 6, &v);
    assert_int_equal(v.in_force, -1);
    sc_program_release(g);
}

static void an_entry_that_is_not_taken_leaves_the_one_before_in_force(void **state) {
    sc_program *g = program("{\"text\":\"a[5s]|b[5s]\",\"loop\":true}");
    sc_program_state s;
    sc_program_view v;
    sc_problem p = {0};
    (void)state;
    assert_true(sc_program_begin(g, &begin, 0, "", &s, &p));
    sc_program_gave(g, &s, 2, 0, 1);
    sc_program_gave(g, &s, 0, 0, 2);
    sc_program_look(g, &s, &begin, 2, 2, &v);
    assert_true(v.in_force == 0 && v.count == 2 && v.coming[0].entry == 0 && v.coming[1].entry == 1); /* once more around */
    assert_int_equal(s.round, 1);
    sc_program_release(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_moment_becomes_the_chunk_that_holds_it),
        cmocka_unit_test(a_chunk_and_its_moment_agree_at_every_rate),
        cmocka_unit_test(entries_come_at_their_chunks),
        cmocka_unit_test(text_begins_with_the_next_chunk),
        cmocka_unit_test(loops_do_not_drift),
        cmocka_unit_test(seconds_stay_seconds_when_fps_changes),
        cmocka_unit_test(what_has_begun_is_named),
        cmocka_unit_test(none_is_fine),
        cmocka_unit_test(a_look_shows_what_is_to_come_and_what_is_in_force),
        cmocka_unit_test(an_entry_that_is_not_taken_leaves_the_one_before_in_force),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

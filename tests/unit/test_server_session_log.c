/* test_server_session_log.c - a log in little room: what goes first, what a reader is told of it, and that numbers go on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/session_log.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROOM = 64 << 10 };

static void add_session(sc_session_log *log, const char *prompt) {
    sc_log_line l = {.kind = SC_LINE_SESSION, .seed = 7, .seq = 1, .prompt_bytes = strlen(prompt)};
    memcpy(l.session, "abcdefghijklmnopqrstuvwxya", sizeof l.session);
    memcpy(l.prompt, prompt, l.prompt_bytes);
    sc_session_log_add(log, &l);
}

static void hash_of(uint64_t chunk, char out[SC_FRAME_HASH_CHARS + 1]) {
    snprintf(out, SC_FRAME_HASH_CHARS + 1, "%016llx%016llx", (unsigned long long)(chunk * 0x9e3779b97f4a7c15u), (unsigned long long)~chunk);
}

static void add_chunk(sc_session_log *log, uint64_t chunk) {
    sc_log_line l = {.kind = SC_LINE_CHUNK, .chunk = chunk, .first_frame = chunk ? 9 + (chunk - 1) * 12 : 0, .frames = chunk ? 12 : 9};
    hash_of(chunk, l.hash);
    sc_session_log_add(log, &l);
}

static void add_prompt(sc_session_log *log, uint64_t chunk, uint32_t seq, size_t bytes) {
    sc_log_line l = {.kind = SC_LINE_PROMPT, .chunk = chunk, .seq = seq, .prompt_bytes = bytes, .transition = SC_WIRE_BLEND, .blend_chunks = 4};
    memset(l.prompt, 'a' + (int)(seq % 26), bytes);
    sc_session_log_add(log, &l);
}

static void add_end(sc_session_log *log) {
    sc_log_line l = {.kind = SC_LINE_END, .state = "ended", .reason = "idle"};
    sc_session_log_add(log, &l);
}

typedef struct { uint64_t chunks, prompts, lost, lost_prompts, last; } told;

/* Reads from `after` to the end: every event once, in order, or in a gap. */
static told read_all(sc_session_log *log, uint64_t after) {
    told t = {.last = after};
    sc_log_line l;
    char hash[SC_FRAME_HASH_CHARS + 1];
    while (sc_session_log_next(log, t.last, &l)) {
        assert_true(l.event == t.last + 1);
        t.last = l.kind == SC_LINE_LOST ? l.last : l.event;
        switch (l.kind) {
        case SC_LINE_CHUNK:
            hash_of(l.chunk, hash);
            assert_string_equal(l.hash, hash);
            assert_true(l.frames == (l.chunk ? 12 : 9) && l.first_frame == (l.chunk ? 9 + (l.chunk - 1) * 12 : 0));
            t.chunks++;
            break;
        case SC_LINE_PROMPT:
            assert_true(l.prompt[0] == 'a' + (int)(l.seq % 26) && strlen(l.prompt) == l.prompt_bytes && l.transition == SC_WIRE_BLEND && l.blend_chunks == 4);
            t.prompts++;
            break;
        case SC_LINE_LOST:
            assert_true(l.last >= l.event);
            t.lost += l.last - l.event + 1;
            t.lost_prompts += l.prompts;
            break;
        case SC_LINE_SESSION: case SC_LINE_FORK: case SC_LINE_END: break;
        }
    }
    bool ended;
    assert_true(t.last == sc_session_log_newest(log, &ended));
    return t;
}

static void what_is_added_is_read_in_order(void **state) {
    sc_session_log *log = sc_session_log_create(ROOM);
    sc_log_line l;
    bool ended;
    (void)state;
    assert_non_null(log);
    assert_false(sc_session_log_next(log, 0, &l));
    assert_int_equal(sc_session_log_newest(log, &ended), 0);
    add_session(log, "first");
    add_prompt(log, 0, 2, 1);
    for (uint64_t i = 0; i < 10; i++) {
        add_chunk(log, i);
        if (i % 3 == 0) add_prompt(log, i + 1, (uint32_t)i, 4096);
    }
    assert_true(sc_session_log_next(log, 0, &l) && l.kind == SC_LINE_SESSION && l.event == 1 && l.seed == 7);
    assert_string_equal(l.prompt, "first");
    told t = read_all(log, 0);
    assert_true(t.chunks == 10 && t.prompts == 5 && t.lost == 0 && t.last == 16);
    assert_true(sc_session_log_newest(log, &ended) == 16 && !ended);
    t = read_all(log, 14);
    assert_true(t.chunks == 1 && t.prompts == 1);
    add_end(log);
    assert_true(sc_session_log_newest(log, &ended) == 17 && ended);
    assert_true(sc_session_log_next(log, 16, &l) && l.kind == SC_LINE_END);
    assert_string_equal(l.reason, "idle");
    assert_false(sc_session_log_next(log, 17, &l));
    assert_false(sc_session_log_next(log, UINT64_MAX, &l));
    sc_session_log_destroy(log);
}

static void hashes_go_first_and_the_oldest_of_them(void **state) {
    sc_session_log *log = sc_session_log_create(ROOM);
    uint64_t prompts = 0;
    sc_log_line l;
    (void)state;
    add_session(log, "first");
    for (uint64_t i = 0; i < 100000; i++) {
        add_chunk(log, i);
        if (i % 2000 == 0) add_prompt(log, i + 1, (uint32_t)++prompts, 100);
    }
    const told t = read_all(log, 0);
    assert_true(t.prompts == prompts && t.lost_prompts == 0 && t.last == 1 + 100000 + prompts);
    assert_true(t.chunks > 500 && t.chunks < 1200 && t.chunks + t.lost == 100000);
    assert_true(sc_session_log_next(log, t.last - 1, &l) && l.kind == SC_LINE_CHUNK && l.chunk == 99999);
    assert_true(sc_session_log_next(log, 1, &l) && l.kind == SC_LINE_LOST && l.last == 2 && !l.prompts); /* chunk 0, and then its neighbour's prompt */
    assert_true(sc_session_log_next(log, 2, &l) && l.kind == SC_LINE_PROMPT && l.seq == 1);
    sc_session_log_destroy(log);
}

static void prompts_go_when_no_hash_is_left_and_it_says_so(void **state) {
    sc_session_log *log = sc_session_log_create(ROOM);
    sc_log_line l;
    (void)state;
    add_session(log, "first");
    for (uint32_t i = 0; i < 40; i++) {
        add_prompt(log, i, 2 + i, 4096);
        add_chunk(log, i);
    }
    told t = read_all(log, 0);
    assert_true(t.last == 81 && t.prompts >= 10 && t.prompts < 20 && t.lost_prompts == 1);
    assert_true(sc_session_log_next(log, 0, &l) && l.kind == SC_LINE_SESSION);
    assert_true(sc_session_log_next(log, 1, &l) && l.kind == SC_LINE_LOST && l.event == 2 && l.prompts);
    assert_true(l.last >= 2 + 2 * (40 - t.prompts) - 2);
    add_chunk(log, 40);
    assert_true(sc_session_log_next(log, 81, &l) && l.kind == SC_LINE_CHUNK && l.chunk == 40);
    t = read_all(log, 81);
    assert_true(t.lost == 0 && t.chunks == 1);
    sc_session_log_destroy(log);
}

static void no_room_at_all_is_a_gap(void **state) {
    sc_session_log *log = sc_session_log_create(100);
    bool ended;
    (void)state;
    add_session(log, "first");
    for (uint32_t i = 0; i < 20; i++) {
        add_chunk(log, i);
        add_prompt(log, i + 1, 2 + i, 500);
    }
    add_end(log);
    told t = read_all(log, 0);
    assert_true(t.lost == 41 && t.lost_prompts == 1 && t.last == 42);
    assert_true(sc_session_log_newest(log, &ended) == 42 && ended);
    sc_session_log_destroy(log);
}

static void a_fork_has_its_sources_past_and_goes_on_alone(void **state) {
    sc_session_log *log = sc_session_log_create(ROOM), *fork = sc_session_log_create(ROOM);
    sc_log_line l = {.kind = SC_LINE_FORK, .chunk = 900, .seed = 8, .created = 77};
    sc_error err;
    (void)state;
    add_session(log, "first");
    for (uint64_t i = 0; i < 3000; i++) {
        if (i % 200 == 100) add_prompt(log, i, (uint32_t)i, 50);
        add_chunk(log, i);
    }
    assert_int_equal(sc_session_log_copy(fork, log, &err), SC_OK);
    const told was = read_all(log, 0), copied = read_all(fork, 0);
    assert_memory_equal(&was, &copied, sizeof was);
    memcpy(l.session, "bbcdefghijklmnopqrstuvwxya", sizeof l.session);
    memcpy(l.from, "abcdefghijklmnopqrstuvwxya", sizeof l.from);
    sc_session_log_add(fork, &l);
    sc_session_log_destroy(log);
    assert_true(sc_session_log_next(fork, was.last, &l) && l.kind == SC_LINE_FORK && l.event == was.last + 1 && l.seed == 8 && l.chunk == 900 && l.created == 77);
    assert_string_equal(l.from, "abcdefghijklmnopqrstuvwxya");
    for (uint64_t i = 3000; i < 6000; i++) add_chunk(fork, i);
    assert_true(read_all(fork, 0).last == was.last + 3001);
    sc_session_log_destroy(fork);
}

/* Readers at any place, while all of the log is written anew again and again. */
struct reading { sc_session_log *log; unsigned step; };

static void *read_along(void *arg) {
    const struct reading *r = arg;
    uint64_t after = 0;
    sc_log_line l;
    bool ended = false;
    while (!(sc_session_log_newest(r->log, &ended) == after && ended)) {
        if (!sc_session_log_next(r->log, after, &l)) continue;
        if (l.event != after + 1) return arg;
        after = l.kind == SC_LINE_LOST ? l.last : l.event;
    }
    return NULL;
}

static void readers_beside_the_writer_miss_nothing_unsaid(void **state) {
    struct reading r = {.log = sc_session_log_create(ROOM)};
    pthread_t readers[2];
    void *failed;
    (void)state;
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&readers[i], NULL, read_along, &r), 0);
    add_session(r.log, "first");
    for (uint32_t i = 0; i < 20000; i++) {
        if (i % 50 == 0) add_prompt(r.log, i, i, 300);
        add_chunk(r.log, i);
    }
    add_end(r.log);
    for (int i = 0; i < 2; i++) {
        pthread_join(readers[i], &failed);
        assert_null(failed);
    }
    sc_session_log_destroy(r.log);
}

static void a_hash_is_what_xxhsum_prints(void **state) {
    char hash[SC_FRAME_HASH_CHARS + 1];
    (void)state;
    sc_frame_hash("", 0, hash);
    assert_string_equal(hash, "99aa06d3014798d86001c324468d497f"); /* xxhsum -H2 /dev/null */
    sc_frame_hash("abc", 3, hash);
    assert_string_equal(hash, "06b05ab6733a618578af5f94892f3950");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_added_is_read_in_order), cmocka_unit_test(hashes_go_first_and_the_oldest_of_them),
        cmocka_unit_test(prompts_go_when_no_hash_is_left_and_it_says_so), cmocka_unit_test(no_room_at_all_is_a_gap),
        cmocka_unit_test(a_fork_has_its_sources_past_and_goes_on_alone), cmocka_unit_test(readers_beside_the_writer_miss_nothing_unsaid),
        cmocka_unit_test(a_hash_is_what_xxhsum_prints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

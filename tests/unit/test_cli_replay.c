/* test_cli_replay.c - a log becomes the steps of a stream, or an error that names its line. */
#include "../../cli/replay_plan.c"

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define ID_A "abcdefghijklmnopqrstuvwxya"
#define ID_B "bbcdefghijklmnopqrstuvwxya"
#define HASH "00112233445566778899aabbccddeeff"
#define SESSION "{\"event\":1,\"type\":\"session\",\"format\":1,\"session\":\"" ID_A "\",\"created\":1,\"model\":\"pocket\",\"digest\":\"" HASH HASH "\"," \
                "\"device\":\"cpu\",\"machine\":\"m\",\"text_device\":\"model\",\"memory\":\"model\",\"width\":256,\"height\":160,\"steps\":4," \
                "\"first_chunk_frames\":9,\"chunk_frames\":12,\"seed\":\"7\",\"seq\":1,\"prompt\":\"a\"}\n"
#define CHUNK_OF(event, chunk, first, frames) "{\"event\":" #event ",\"type\":\"chunk\",\"chunk\":" #chunk ",\"first_frame\":" #first ",\"frames\":" #frames ",\"hash\":\"" HASH "\"}\n"
#define PROMPT(event, chunk) "{\"event\":" #event ",\"type\":\"prompt\",\"chunk\":" #chunk ",\"seq\":2,\"prompt\":\"b\",\"transition\":\"blend\",\"blend_chunks\":3}\n"
#define FORK(event, chunk, seed) "{\"event\":" #event ",\"type\":\"fork\",\"chunk\":" #chunk ",\"session\":\"" ID_B "\",\"from\":\"" ID_A "\",\"created\":2,\"seed\":\"" #seed "\"}\n"
#define LOST(from, to, prompts) "{\"type\":\"lost\",\"from\":" #from ",\"to\":" #to ",\"prompts\":" #prompts "}\n"
#define END(event) "{\"event\":" #event ",\"type\":\"end\",\"state\":\"ended\"}\n"
#define C0 CHUNK_OF(2, 0, 0, 9)

static sc_status read_plan(const char *text, sc_replay_plan *p, sc_error *err) {
    const size_t n = strlen(text);
    char *copy = malloc(n + !n); /* exact size, so that a read past the end is seen */
    assert_non_null(copy);
    memcpy(copy, text, n);
    const sc_status rc = sc_replay_plan_read(p, copy, n, err);
    free(copy);
    return rc;
}

static void good(const char *text, sc_replay_plan *p) {
    sc_error err;
    if (read_plan(text, p, &err)) fail_msg("%s: %s", text, err.text);
}

static void a_log_is_steps(void **state) {
    sc_replay_plan p;
    (void)state;
    good(SESSION C0 PROMPT(3, 1) CHUNK_OF(4, 1, 9, 12) FORK(5, 2, 8) PROMPT(6, 2) CHUNK_OF(7, 2, 21, 12) PROMPT(8, 3) END(9), &p);
    assert_true(p.count == 7 && p.end == 6 && p.compared == 3 && p.chunks == 3 && p.forks);
    assert_string_equal(p.id, ID_B);
    assert_string_equal(p.session.session, ID_A);
    assert_true(p.step[0].kind == SC_LINE_CHUNK && p.step[0].line == 2);
    assert_true(p.step[1].kind == SC_LINE_PROMPT && p.step[1].chunk == 1 && p.step[1].seq == 2 && p.step[1].blend_chunks == 3 && p.step[1].prompt_bytes == 1);
    assert_string_equal(p.step[1].prompt, "b");
    assert_true(p.step[3].kind == SC_LINE_FORK && p.step[3].seed == 8 && p.step[3].chunk == 2);
    sc_replay_plan_free(&p);
}

static void a_fork_with_its_sources_seed_takes_no_place(void **state) {
    sc_replay_plan p;
    (void)state;
    good(SESSION C0 FORK(3, 1, 7) CHUNK_OF(4, 1, 9, 12), &p);
    assert_false(p.forks);
    sc_replay_plan_free(&p);
}

static void two_prompts_may_meet_one_chunk_and_lines_may_end_as_on_windows(void **state) {
    sc_replay_plan p;
    (void)state;
    good(SESSION PROMPT(2, 0) PROMPT(3, 0) "{\"event\":4,\"type\":\"chunk\",\"chunk\":0,\"first_frame\":0,\"frames\":9,\"hash\":\"" HASH "\"}\r\n", &p);
    assert_true(p.count == 3 && p.end == 3);
    sc_replay_plan_free(&p);
    good(SESSION "{\"event\":2,\"type\":\"chunk\",\"chunk\":0,\"first_frame\":0,\"frames\":9,\"hash\":\"" HASH "\"}", &p); /* no newline at the end */
    sc_replay_plan_free(&p);
}

static void hashes_that_are_lost_are_not_compared(void **state) {
    sc_replay_plan p;
    (void)state;
    good(SESSION LOST(2, 6, false) PROMPT(7, 5) LOST(8, 9, false) CHUNK_OF(10, 7, 81, 12), &p);
    assert_true(p.compared == 1 && p.chunks == 8 && p.step[1].chunk == 7);
    sc_replay_plan_free(&p);
}

static void what_is_wrong_has_a_line(void **state) {
    static const struct { const char *text, *part; } bad[] = {
        {"", "it is empty"},
        {"\n", "line 1: the line is empty"},
        {SESSION, "no chunk in it"},
        {SESSION PROMPT(2, 0) END(3), "no chunk in it"},
        {"SCF1", "line 1: the line is not JSON"},
        {C0, "line 1: a \"chunk\", where a log begins with its \"session\""},
        {SESSION SESSION, "line 2: a second \"session\""},
        {SESSION C0 "\n", "line 3: the line is empty"},
        {SESSION "{\"event\":2,\"type\":\"chunk\",\"chunk\":0,\"first_fr", "line 2: the line is not JSON"},
        {SESSION CHUNK_OF(3, 0, 0, 9), "line 2: event 3 behind event 1"},
        {SESSION C0 CHUNK_OF(2, 1, 9, 12), "line 3: event 2 behind event 2"},
        {SESSION C0 CHUNK_OF(3, 2, 21, 12), "line 3: a chunk of chunk 2, where chunk 1 comes next"},
        {SESSION C0 CHUNK_OF(3, 0, 0, 9), "line 3: a chunk of chunk 0, where chunk 1 comes next"},
        {SESSION C0 PROMPT(3, 2), "line 3: a prompt of chunk 2, where chunk 1 comes next"},
        {SESSION C0 PROMPT(3, 0), "line 3: a prompt of chunk 0, where chunk 1 comes next"},
        {SESSION C0 FORK(3, 5, 8), "line 3: a fork of chunk 5, where chunk 1 comes next"},
        {SESSION C0 CHUNK_OF(3, 1, 9, 11), "line 3: chunk 1 has frames 9 and the 10 behind it"},
        {SESSION C0 CHUNK_OF(3, 1, 12, 12), "line 3: chunk 1 has frames 12"},
        {SESSION C0 END(3) CHUNK_OF(4, 1, 9, 12), "line 4: a line behind the end"},
        {SESSION C0 LOST(4, 9, false), "line 3: event 4 behind event 2"},
        {SESSION LOST(2, 6, true) CHUNK_OF(7, 7, 81, 12), "line 2: the log had no room for events 2 to 6, prompts among them"},
        {SESSION LOST(2, 6, false) CHUNK_OF(7, 4, 45, 12) CHUNK_OF(8, 6, 69, 12), "line 4: a chunk of chunk 6, where chunk 5 comes next"},
    };
    sc_replay_plan p;
    sc_error err;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (read_plan(bad[i].text, &p, &err) != SC_EINVAL) fail_msg("%s is taken", bad[i].text);
        if (!strstr(err.text, bad[i].part)) fail_msg("%s: %s", bad[i].text, err.text);
        assert_true(!p.step && !p.count);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_log_is_steps), cmocka_unit_test(a_fork_with_its_sources_seed_takes_no_place),
        cmocka_unit_test(two_prompts_may_meet_one_chunk_and_lines_may_end_as_on_windows), cmocka_unit_test(hashes_that_are_lost_are_not_compared),
        cmocka_unit_test(what_is_wrong_has_a_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

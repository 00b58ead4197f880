/* test_proto_log_line.c - what is written into a log can be read from it, whatever a prompt holds; and every way for a line to be wrong says where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/log_line.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ID_A "abcdefghijklmnopqrstuvwxya"
#define ID_B "bbcdefghijklmnopqrstuvwxya"
#define HASH "00112233445566778899aabbccddeeff"
#define DIGEST HASH HASH
#define MADE "\"model\":\"pocket\",\"digest\":\"" DIGEST "\",\"device\":\"cpu\",\"machine\":\"some CPU, 2 threads\",\"text_device\":\"model\"," \
             "\"memory\":\"window\",\"width\":256,\"height\":160,\"steps\":4,\"first_chunk_frames\":9,\"chunk_frames\":12"
#define SESSION "{\"event\":1,\"type\":\"session\",\"format\":1,\"session\":\"" ID_A "\",\"created\":1764547200," MADE ",\"seed\":\"18446744073709551615\"," \
                "\"seq\":1,\"prompt\":\"a c\xc3\xa4t\"}"
#define CHUNK "{\"event\":2,\"type\":\"chunk\",\"chunk\":0,\"first_frame\":0,\"frames\":9,\"hash\":\"" HASH "\"}"
#define PROMPT "{\"event\":3,\"type\":\"prompt\",\"chunk\":1,\"seq\":2,\"prompt\":\"b\",\"transition\":\"cut\"}"
#define BLEND "{\"event\":4,\"type\":\"prompt\",\"chunk\":2,\"seq\":3,\"prompt\":\"c\",\"transition\":\"blend\",\"blend_chunks\":4}"
#define FORK "{\"event\":5,\"type\":\"fork\",\"chunk\":9007199254740991,\"session\":\"" ID_B "\",\"from\":\"" ID_A "\",\"created\":1764547201,\"seed\":\"0\"}"
#define END "{\"event\":9007199254740991,\"type\":\"end\",\"state\":\"failed\",\"reason\":\"why\"}"
#define LOST "{\"type\":\"lost\",\"from\":3,\"to\":90,\"prompts\":true}"

static char *written(const sc_log_line *l) {
    sc_json_out o;
    sc_json_out_grow(&o);
    sc_log_line_write(&o, l);
    char *text = sc_json_out_take(&o, NULL);
    assert_non_null(text);
    return text;
}

/* Exact size, so that a read past the end is seen. */
static bool read_line(const char *text, sc_log_line *out, sc_problem *p) {
    const size_t n = strlen(text);
    char *copy = malloc(n + !n);
    assert_non_null(copy);
    memcpy(copy, text, n);
    const bool good = sc_log_line_read(copy, n, out, p);
    free(copy);
    return good;
}

static void lines_are_written_as_they_were_read(void **state) {
    static const char *const lines[] = {SESSION, CHUNK, PROMPT, BLEND, FORK, END, LOST, "{\"event\":7,\"type\":\"end\",\"state\":\"ended\"}"};
    sc_log_line l;
    sc_problem p;
    (void)state;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        if (!read_line(lines[i], &l, &p)) fail_msg("%s: %s", lines[i], p.detail);
        char *again = written(&l);
        assert_string_equal(again, lines[i]);
        free(again);
    }
}

static void a_session_says_what_made_it(void **state) {
    sc_log_line l;
    sc_problem p;
    (void)state;
    assert_true(read_line(SESSION, &l, &p));
    assert_true(l.kind == SC_LINE_SESSION && l.event == 1 && l.seed == UINT64_MAX && l.seq == 1 && l.prompt_bytes == 6 && l.created == 1764547200);
    assert_string_equal(l.session, ID_A);
    assert_string_equal(l.made.model, "pocket");
    assert_string_equal(l.made.digest, DIGEST);
    assert_string_equal(l.made.memory, "window");
    assert_true(l.made.width == 256 && l.made.height == 160 && l.made.steps == 4 && l.made.first_chunk_frames == 9 && l.made.chunk_frames == 12);
}

static void the_longest_prompt_comes_back(void **state) {
    sc_log_line l = {.kind = SC_LINE_PROMPT, .event = 4, .chunk = 3, .seq = 2, .prompt_bytes = SC_PROMPT_TEXT_MAX, .transition = SC_WIRE_SWITCH}, back;
    sc_problem p;
    (void)state;
    for (int i = 0; i < SC_PROMPT_TEXT_MAX; i++) l.prompt[i] = "\n\"\\\t"[i % 4]; /* each takes two bytes in JSON */
    char *text = written(&l);
    assert_true(strlen(text) < SC_LOG_LINE_MAX);
    assert_null(strchr(text, '\n'));
    if (!read_line(text, &back, &p)) fail_msg("%s", p.detail);
    assert_memory_equal(back.prompt, l.prompt, sizeof l.prompt);
    free(text);
}

static void what_is_wrong_is_said(void **state) {
    static const struct { const char *text, *part; int status; } bad[] = {
        {"", "the line is empty", 400},
        {"[]", "must be a JSON object", 400},
        {"{\"event\":2,\"type\":\"chunk\"", "not JSON", 400},
        {"{\"event\":2,\"event\":2,\"type\":\"chunk\"}", "not JSON", 400},
        {"{\"event\":2}", "/type", 422},
        {"{\"event\":2,\"type\":\"frame\"}", "/type", 422},
        {"{\"type\":\"end\",\"state\":\"ended\"}", "/event", 422},
        {"{\"event\":0,\"type\":\"end\",\"state\":\"ended\"}", "/event", 422},
        {"{\"event\":-1,\"type\":\"end\",\"state\":\"ended\"}", "/event", 422},
        {"{\"event\":1.5,\"type\":\"end\",\"state\":\"ended\"}", "/event", 422},
        {"{\"event\":9007199254740992,\"type\":\"end\",\"state\":\"ended\"}", "/event", 422},
        {"{\"event\":1,\"type\":\"end\",\"state\":\"running\"}", "/state", 422},
        {"{\"event\":1,\"type\":\"end\",\"state\":\"running, and on\"}", "/state", 422},
        {"{\"event\":1,\"type\":\"end\"}", "/state", 422},
        {"{\"event\":1,\"type\":\"end\",\"state\":\"ended\",\"reason\":\"\"}", "/reason", 422},
        {"{\"event\":1,\"type\":\"end\",\"state\":\"ended\",\"chunk\":3}", "unknown field \"chunk\"", 422},
        {"{\"event\":2,\"type\":\"chunk\",\"chunk\":0,\"first_frame\":0,\"frames\":9}", "/hash", 422},
        {"{\"event\":2,\"type\":\"chunk\",\"chunk\":0,\"first_frame\":0,\"frames\":9,\"hash\":\"00112233445566778899AABBCCDDEEFF\"}", "/hash", 422},
        {"{\"event\":2,\"type\":\"chunk\",\"chunk\":0,\"first_frame\":0,\"frames\":9,\"hash\":\"0011\"}", "/hash", 422},
        {"{\"event\":2,\"type\":\"chunk\",\"chunk\":0,\"first_frame\":0,\"frames\":9,\"hash\":\"" HASH "0\"}", "/hash", 422},
        {"{\"event\":2,\"type\":\"chunk\",\"chunk\":0,\"first_frame\":0,\"frames\":0,\"hash\":\"" HASH "\"}", "/frames", 422},
        {"{\"event\":2,\"type\":\"chunk\",\"chunk\":\"0\",\"first_frame\":0,\"frames\":9,\"hash\":\"" HASH "\"}", "/chunk", 422},
        {"{\"event\":3,\"type\":\"prompt\",\"chunk\":1,\"seq\":2,\"prompt\":\"b\"}", "/transition", 422},
        {"{\"event\":3,\"type\":\"prompt\",\"chunk\":1,\"seq\":2,\"prompt\":\"b\",\"transition\":\"fade\"}", "/transition", 422},
        {"{\"event\":3,\"type\":\"prompt\",\"chunk\":1,\"seq\":2,\"prompt\":\"b\",\"transition\":\"blend\"}", "/blend_chunks", 422},
        {"{\"event\":3,\"type\":\"prompt\",\"chunk\":1,\"seq\":2,\"prompt\":\"b\",\"transition\":\"blend\",\"blend_chunks\":65}", "/blend_chunks", 422},
        {"{\"event\":3,\"type\":\"prompt\",\"chunk\":1,\"seq\":2,\"prompt\":\"b\",\"transition\":\"cut\",\"blend_chunks\":4}", "unknown field \"blend_chunks\"", 422},
        {"{\"event\":3,\"type\":\"prompt\",\"chunk\":1,\"seq\":2,\"prompt\":\"\",\"transition\":\"cut\"}", "/prompt", 422},
        {"{\"event\":3,\"type\":\"prompt\",\"chunk\":1,\"seq\":4294967296,\"prompt\":\"b\",\"transition\":\"cut\"}", "/seq", 422},
        {"{\"event\":5,\"type\":\"fork\",\"chunk\":1,\"session\":\"" ID_B "\",\"from\":\"" ID_A "x\",\"created\":0,\"seed\":\"0\"}", "/from", 422},
        {"{\"event\":5,\"type\":\"fork\",\"chunk\":1,\"session\":\"" ID_B "\",\"from\":\"ABCDEFGHIJKLMNOPQRSTUVWXYA\",\"created\":0,\"seed\":\"0\"}", "/from", 422},
        {"{\"event\":5,\"type\":\"fork\",\"chunk\":1,\"session\":\"" ID_B "\",\"from\":\"" ID_A "\",\"created\":0,\"seed\":\"-1\"}", "/seed", 422},
        {"{\"type\":\"lost\",\"from\":3,\"to\":2,\"prompts\":true}", "/to", 422},
        {"{\"type\":\"lost\",\"from\":3,\"to\":4}", "/prompts", 422},
        {"{\"event\":3,\"type\":\"lost\",\"from\":3,\"to\":4,\"prompts\":true}", "unknown field \"event\"", 422},
        {"{\"event\":1,\"type\":\"session\",\"format\":2,\"session\":\"" ID_A "\",\"created\":0," MADE ",\"seed\":\"1\",\"seq\":1,\"prompt\":\"a\"}", "/format", 422},
        {"{\"event\":1,\"type\":\"session\",\"session\":\"" ID_A "\",\"created\":0," MADE ",\"seed\":\"1\",\"seq\":1,\"prompt\":\"a\"}", "/format", 422},
        {"{\"event\":1,\"type\":\"session\",\"format\":1,\"session\":\"" ID_A "\",\"created\":0,\"seed\":\"1\",\"seq\":1,\"prompt\":\"a\"}", "/model", 422},
    };
    sc_log_line l;
    sc_problem p;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (read_line(bad[i].text, &l, &p)) fail_msg("%s is taken", bad[i].text);
        const bool found = bad[i].part[0] == '/' ? p.count && !strcmp(p.errors[0].pointer, bad[i].part) : strstr(p.detail, bad[i].part) != NULL;
        if (p.status != bad[i].status || !found) fail_msg("%s: %d %s", bad[i].text, p.status, p.detail);
    }
}

static void a_line_has_a_longest_length(void **state) {
    char *text = malloc(SC_LOG_LINE_MAX + 2);
    sc_log_line l;
    sc_problem p;
    (void)state;
    assert_non_null(text);
    memset(text, ' ', SC_LOG_LINE_MAX + 1);
    text[SC_LOG_LINE_MAX + 1] = 0;
    assert_false(read_line(text, &l, &p));
    assert_int_equal(p.status, 413);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_written_as_they_were_read), cmocka_unit_test(a_session_says_what_made_it), cmocka_unit_test(the_longest_prompt_comes_back),
        cmocka_unit_test(what_is_wrong_is_said), cmocka_unit_test(a_line_has_a_longest_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_proto_requests.c - bodies of requests: what is taken, and that every refusal says what is wrong and where.
 *
 * The tables hold one body per way to be wrong. A case asserts the status, the pointer of an error (NULL: no `errors`) and words of
 * the text that a person needs. Bodies are copied to the exact size, so that a read past the end is seen by AddressSanitizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/json.h"
#include "proto/openapi.h"
#include "proto/program.h"
#include "proto/requests.h"
#include "proto/saved.h"
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bad {
    const char *body;
    size_t n; /* 0: strlen */
    int status;
    const char *pointer, *words;
};

#define BIN(s) s, sizeof(s) - 1

static const struct bad broken[] = {
    {"", 0, 400, NULL, "body is empty"},
    {"   ", 0, 400, NULL, "column 4: expected a value, found the end"},
    {"{", 0, 400, NULL, "column 2: expected a name in double quotes, found the end"},
    {"}", 0, 400, NULL, "column 1: expected a value, found '}'"},
    {"{\"prompt\"}", 0, 400, NULL, "column 10: expected ':' after a name, found '}'"},
    {"{\"prompt\":}", 0, 400, NULL, "column 11: expected a value, found '}'"},
    {"{\"prompt\":\"a\"", 0, 400, NULL, "expected ',' or '}', found the end"},
    {"{\"prompt\":\"a\",}", 0, 400, NULL, "expected a name in double quotes, found '}'"},
    {"{\"prompt\":\"a\"}}", 0, 400, NULL, "column 15: text after the end of the value, found '}'"},
    {"{\"prompt\":\"a\"} x", 0, 400, NULL, "column 16: text after the end"},
    {"{\"prompt\":\"a}", 0, 400, NULL, "column 11: string without end"},
    {"{'prompt':'a'}", 0, 400, NULL, "expected a name in double quotes, found '''"},
    {"{prompt:\"a\"}", 0, 400, NULL, "found 'p'"},
    {"{\"fps\":01}", 0, 400, NULL, "column 8: a number must not begin with 0"},
    {"{\"fps\":1.}", 0, 400, NULL, "a number needs a digit after '.'"},
    {"{\"fps\":.5}", 0, 400, NULL, "expected a value, found '.'"},
    {"{\"fps\":+1}", 0, 400, NULL, "expected a value, found '+'"},
    {"{\"fps\":-}", 0, 400, NULL, "a number needs a digit after '-'"},
    {"{\"fps\":1e}", 0, 400, NULL, "a digit in its exponent"},
    {"{\"fps\":1e999}", 0, 400, NULL, "a number too large"},
    {"{\"fps\":0x10}", 0, 400, NULL, "expected ',' or '}', found 'x'"},
    {"{\"fps\":NaN}", 0, 400, NULL, "expected a value, found 'N'"},
    {"{\"fps\":Infinity}", 0, 400, NULL, "expected a value, found 'I'"},
    {"{\"fps\":11111111111111111111111111111111111111111111111111111111111111111}", 0, 400, NULL, "a number of 65 characters"},
    {"{\"a\":tru}", 0, 400, NULL, "expected a value, found 't'"},
    {"{\"a\":True}", 0, 400, NULL, "expected a value, found 'T'"},
    {"{/* hi */}", 0, 400, NULL, "found '/'"},
    {"{\"prompt\":\"a\\x\"}", 0, 400, NULL, "unknown escape"},
    {"{\"prompt\":\"\\u12g4\"}", 0, 400, NULL, "four hexadecimal digits"},
    {"{\"prompt\":\"\\u12", 0, 400, NULL, "four hexadecimal digits"},
    {"{\"prompt\":\"a\\u0000b\"}", 0, 400, NULL, "column 13: \\u0000 is not allowed"},
    {"{\"prompt\":\"\\ud800\"}", 0, 400, NULL, "half of a surrogate pair"},
    {"{\"prompt\":\"\\udc00\\ud800\"}", 0, 400, NULL, "half of a surrogate pair"},
    {"{\"prompt\":\"\\ud83d\\u0041\"}", 0, 400, NULL, "half of a surrogate pair"},
    {"{\"prompt\":\"a\nb\"}", 0, 400, NULL, "raw control byte 0x0a in a string"},
    {"{\"prompt\":\"a\tb\"}", 0, 400, NULL, "raw control byte 0x09"},
    {BIN("{\"prompt\":\"a\0b\"}"), 400, NULL, "column 13: NUL byte"},
    {BIN("{\"prompt\":\"a\"}\0"), 400, NULL, "column 15: NUL byte"},
    {"\xef\xbb\xbf{\"prompt\":\"a\"}", 0, 400, NULL, "byte order mark"},
    {"{\"prompt\":\"\xc3\x28\"}", 0, 400, NULL, "column 12: not UTF-8"},
    {"{\"prompt\":\"\xc0\xaf\"}", 0, 400, NULL, "not UTF-8"},          /* overlong */
    {"{\"prompt\":\"\xe0\x80\xaf\"}", 0, 400, NULL, "not UTF-8"},      /* overlong */
    {"{\"prompt\":\"\xed\xa0\x80\"}", 0, 400, NULL, "not UTF-8"},      /* surrogate */
    {"{\"prompt\":\"\xf4\x90\x80\x80\"}", 0, 400, NULL, "not UTF-8"},  /* above U+10FFFF */
    {"{\"prompt\":\"\xf8\x88\x80\x80\x80\"}", 0, 400, NULL, "not UTF-8"},
    {"{\"prompt\":\"a\xe2\x82", 0, 400, NULL, "not UTF-8"},            /* cut short */
    {"{\n  \"prompt\": \"a\",\n  \"fps\": 08\n}", 0, 400, NULL, "line 3, column 10: a number must not begin with 0"},
    {"{\"prompt\":\"a\",\"prompt\":\"b\"}", 0, 400, NULL, "\"prompt\" stands twice"},
    {"{\"prompt\":\"a\",\"\\u0070rompt\":\"b\"}", 0, 400, NULL, "\"prompt\" stands twice"},
    {"{\"x\":{\"k\":1,\"j\":2,\"k\":3}}", 0, 400, NULL, "\"k\" stands twice"},
    {"[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]", 0, 400, NULL, "nested deeper than 16"},
    {"[]", 0, 400, NULL, "must be a JSON object, found an array"},
    {"\"prompt\"", 0, 400, NULL, "must be a JSON object, found the text \"prompt\""},
    {"17", 0, 400, NULL, "must be a JSON object, found 17"},
    {"null", 0, 400, NULL, "must be a JSON object, found null"},
    {"true", 0, 400, NULL, "must be a JSON object, found true"},
    {"\x0b{}", 0, 400, NULL, "found byte 0x0b"},
};

#define P "{\"prompt\":\"a\","
static const struct bad wrong_create[] = {
    {"{}", 0, 422, "/prompt", "is missing: a text of 1 to 4096 bytes"},
    {"{\"prompt\":\"\"}", 0, 422, "/prompt", "found an empty one"},
    {"{\"prompt\":7}", 0, 422, "/prompt", "must be a text of 1 to 4096 bytes, found 7"},
    {"{\"prompt\":null}", 0, 422, "/prompt", "found null"},
    {"{\"prompt\":[\"a\"]}", 0, 422, "/prompt", "found an array"},
    {"{\"prompt\":\"a\\u0001\"}", 0, 422, "/prompt", "control characters other than tab and newline, found 0x01 at byte 1"},
    {"{\"prompt\":\"a\\u001b[31m\"}", 0, 422, "/prompt", "found 0x1b at byte 1"},
    {"{\"prompt\":\"\\r\"}", 0, 422, "/prompt", "found 0x0d at byte 0"},
    {"{\"prompt\":\"\x7f\"}", 0, 422, "/prompt", "found 0x7f"},
    {"{\"Prompt\":\"a\"}", 0, 422, "/Prompt", "unknown field \"Prompt\"; known are prompt, seed"},
    {P "\"colour\":1}", 0, 422, "/colour", "unknown field \"colour\""},
    {P "\"a/b~c\":1}", 0, 422, "/a~1b~0c", "unknown field \"a/b~c\""},
    {P "\"\":1}", 0, 422, "/", "unknown field \"\""},
    {P "\"a\\u0007b\":1}", 0, 422, "/a?b", "unknown field \"a?b\""},
    {P "\"seed\":-1}", 0, 422, "/seed", "found -1"},
    {P "\"seed\":1.5}", 0, 422, "/seed", "found 1.5"},
    {P "\"seed\":9007199254740992}", 0, 422, "/seed", "0 to 9007199254740991 or decimal digits"},
    {P "\"seed\":\"18446744073709551616\"}", 0, 422, "/seed", "up to \"18446744073709551615\""},
    {P "\"seed\":\"99999999999999999999999999\"}", 0, 422, "/seed", "found the text \"99999999999999999999999999\""},
    {P "\"seed\":\"\"}", 0, 422, "/seed", "found the text \"\""},
    {P "\"seed\":\"-1\"}", 0, 422, "/seed", "found the text \"-1\""},
    {P "\"seed\":\"007\"}", 0, 422, "/seed", "found the text \"007\""},
    {P "\"seed\":\"0x7\"}", 0, 422, "/seed", "found the text \"0x7\""},
    {P "\"seed\":\" 7\"}", 0, 422, "/seed", "found the text \" 7\""},
    {P "\"seed\":true}", 0, 422, "/seed", "found true"},
    {P "\"seed\":null}", 0, 422, "/seed", "found null"},
    {P "\"model\":3}", 0, 422, "/model", "must be a text of 1 to 63 bytes"},
    {P "\"model\":\"\"}", 0, 422, "/model", "found the text \"\""},
    {P "\"model\":\"0123456789012345678901234567890123456789012345678901234567890123\"}", 0, 422, "/model", "found 64 bytes"},
    {P "\"schedule\":[]}", 0, 422, "/schedule", "must be an object"},
    {P "\"schedule\":\"a[5s] | b\"}", 0, 422, "/schedule", "must be an object"},
    {P "\"schedule\":null}", 0, 422, "/schedule", "must be an object"},
    {P "\"schedule\":{}}", 0, 422, "/schedule", "one of prompts"},
    {P "\"schedule\":{\"prompts\":[{\"at_chunk\":-1,\"prompt\":\"a\"}]}}", 0, 422, "/schedule/prompts/0/at_chunk", "found -1"},
    {P "\"schedule\":{\"text\":\"a | b\"}}", 0, 422, "/schedule/text", "prompt 0 needs a length"},
    {P "\"schedule\":{\"text\":\"a\"},\"fps\":0}", 0, 422, "/fps", "found 0"},
    {P "\"transition\":\"fade\"}", 0, 422, "/transition", "\"switch\", \"blend\", \"recache\", \"flush\" or \"cut\", found the text \"fade\""},
    {P "\"transition\":\"Cut\"}", 0, 422, "/transition", "found the text \"Cut\""},
    {P "\"transition\":1}", 0, 422, "/transition", "found 1"},
    {P "\"fps\":0}", 0, 422, "/fps", "must be a whole number from 1 to 60, found 0"},
    {P "\"fps\":61}", 0, 422, "/fps", "from 1 to 60, found 61"},
    {P "\"fps\":16.5}", 0, 422, "/fps", "found 16.5"},
    {P "\"fps\":\"16\"}", 0, 422, "/fps", "found the text \"16\""},
    {P "\"fps\":1e300}", 0, 422, "/fps", "from 1 to 60"},
    {P "\"fps\":-16}", 0, 422, "/fps", "found -16"},
    {P "\"fps\":4294967312}", 0, 422, "/fps", "found 4294967312"},
    {P "\"jpeg_quality\":0}", 0, 422, "/jpeg_quality", "from 1 to 100, found 0"},
    {P "\"jpeg_quality\":101}", 0, 422, "/jpeg_quality", "from 1 to 100, found 101"},
    {P "\"lookahead_chunks\":5}", 0, 422, "/lookahead_chunks", "from 1 to 4, found 5"},
    {P "\"lookahead_chunks\":[]}", 0, 422, "/lookahead_chunks", "found an array"},
    {P "\"run_without_viewers\":1}", 0, 422, "/run_without_viewers", "must be true or false, found 1"},
    {P "\"run_without_viewers\":\"true\"}", 0, 422, "/run_without_viewers", "found the text \"true\""},
    {P "\"idle_timeout_s\":0}", 0, 422, "/idle_timeout_s", "from 1 to 86400, found 0"},
    {P "\"idle_timeout_s\":86401}", 0, 422, "/idle_timeout_s", "found 86401"},
    {P "\"idle_timeout_s\":{}}", 0, 422, "/idle_timeout_s", "found an object"},
    {P "\"fps\":\"\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4"
       "\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4x\xc3\xa4\"}", 0, 422, "/fps", "x...\""},
};

static const struct bad wrong_patch[] = {
    {"{}", 0, 422, "", "nothing to change: at least one of prompt"},
    {"{\"prompt\":\"\"}", 0, 422, "/prompt", "found an empty one"},
    {"{\"state\":\"ended\"}", 0, 422, "/state", "must be \"running\" or \"paused\", found the text \"ended\""},
    {"{\"state\":true}", 0, 422, "/state", "found true"},
    {"{\"transition\":\"cut\"}", 0, 422, "/transition", "no \"prompt\" beside it"},
    {"{\"prompt\":\"a\",\"transition\":\"wipe\"}", 0, 422, "/transition", "found the text \"wipe\""},
    {"{\"seed\":1}", 0, 422, "/seed", "unknown field \"seed\"; known are prompt, transition, state"},
    {"{\"run_without_viewers\":true}", 0, 422, "/run_without_viewers", "unknown field"},
    {"{\"fps\":0}", 0, 422, "/fps", "from 1 to 60"},
    {"{\"jpeg_quality\":1000}", 0, 422, "/jpeg_quality", "from 1 to 100"},
    {"{\"idle_timeout_s\":-5}", 0, 422, "/idle_timeout_s", "found -5"},
    {"{\"fps\":null}", 0, 422, "/fps", "found null"},
};

static const struct bad wrong_fork[] = {
    {"{\"at_chunk\":-1}", 0, 422, "/at_chunk", "from 0 to 9007199254740991, found -1"},
    {"{\"at_chunk\":2.5}", 0, 422, "/at_chunk", "found 2.5"},
    {"{\"at_chunk\":9007199254740992}", 0, 422, "/at_chunk", "from 0 to 9007199254740991"},
    {"{\"at_chunk\":\"12\"}", 0, 422, "/at_chunk", "found the text \"12\""},
    {"{\"at_chunk\":null}", 0, 422, "/at_chunk", "found null"},
    {"{\"prompt\":\"\"}", 0, 422, "/prompt", "found an empty one"},
    {"{\"prompt\":\"a\\u0001\"}", 0, 422, "/prompt", "found 0x01 at byte 1"},
    {"{\"seed\":-1}", 0, 422, "/seed", "found -1"},
    {"{\"seed\":null}", 0, 422, "/seed", "found null"},
    {"{\"fps\":16}", 0, 422, "/fps", "unknown field \"fps\"; known are at_chunk, prompt, seed"},
    {"{\"transition\":\"cut\"}", 0, 422, "/transition", "unknown field"},
    {"{\"at\":1}", 0, 422, "/at", "unknown field"},
};

static const struct bad wrong_snapshot[] = {
    {"{}", 0, 422, "/name", "is missing"},
    {"{\"name\":\"\"}", 0, 422, "/name", ""},
    {"{\"name\":\"../x\"}", 0, 422, "/name", "A-Z a-z 0-9 - _"},
    {"{\"name\":\"a.b\"}", 0, 422, "/name", "A-Z a-z 0-9 - _"},
    {"{\"name\":\"a/b\"}", 0, 422, "/name", "A-Z a-z 0-9 - _"},
    {"{\"name\":\"n\u00e4chts\"}", 0, 422, "/name", "A-Z a-z 0-9 - _"},
    {"{\"name\":7}", 0, 422, "/name", "found 7"},
    {"{\"name\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}", 0, 422, "/name", "64"},
    {"{\"name\":\"a\",\"seed\":1}", 0, 422, "/seed", "unknown field"},
};

typedef bool parse_fn(const char *body, size_t n, sc_problem *p);

static bool create(const char *body, size_t n, sc_problem *p) {
    sc_create_request r;
    sc_program *program;
    bool good = sc_request_create(body, n, &r, &program, p);
    if (!good) assert_null(program);
    sc_program_release(program);
    return good;
}

static bool patch(const char *body, size_t n, sc_problem *p) {
    sc_patch_request r;
    return sc_request_patch(body, n, &r, p);
}

static bool snapshot_body(const char *body, size_t n, sc_problem *p) {
    char name[SC_SNAPSHOT_NAME_MAX + 1];
    return sc_request_snapshot(body, n, name, p);
}

static bool fork_body(const char *body, size_t n, sc_problem *p) {
    sc_fork_request r;
    return sc_request_fork(body, n, &r, p);
}

static void check(const struct bad *c, parse_fn *parse) {
    size_t n = c->n ? c->n : strlen(c->body);
    char *body = malloc(n ? n : 1), *text;
    sc_problem p;
    bool taken, named = c->pointer == NULL;

    assert_non_null(body);
    memcpy(body, c->body, n);
    memset(&p, 0xa5, sizeof p);
    taken = parse(body, n, &p);
    free(body);
    if (taken || p.status != c->status) fail_msg("%s: taken %d, status %d, not %d", c->body, taken, p.status, c->status);
    if (!strstr(p.detail, c->words)) {
        bool there = false;
        for (int i = 0; i < p.count; i++) there |= strstr(p.errors[i].detail, c->words) != NULL;
        if (!there) fail_msg("%s: \"%s\" is not in \"%s\"", c->body, c->words, p.detail);
    }
    for (int i = 0; i < p.count; i++) named |= c->pointer && !strcmp(p.errors[i].pointer, c->pointer);
    if (!named) fail_msg("%s: no error at %s", c->body, c->pointer);
    if (!c->pointer) assert_int_equal(p.count, 0);
    text = sc_problem_json(&p, "/v1/sessions", NULL);
    assert_non_null(text);
    {
        sc_json_error e;
        cJSON *doc;
        if (sc_json_read(&doc, text, strlen(text), 1 << 20, &e)) fail_msg("%s: the answer is not JSON: %s", c->body, e.text);
        assert_int_equal(cJSON_GetObjectItemCaseSensitive(doc, "status")->valueint, c->status);
        cJSON_Delete(doc);
    }
    free(text);
}

static void broken_bodies_are_refused_with_the_place(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        check(&broken[i], create);
        check(&broken[i], patch);
        check(&broken[i], fork_body);
    }
    print_message("%zu broken bodies, each for three calls\n", sizeof broken / sizeof *broken);
}

static void wrong_fields_are_named(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof wrong_create / sizeof *wrong_create; i++) check(&wrong_create[i], create);
    for (size_t i = 0; i < sizeof wrong_patch / sizeof *wrong_patch; i++) check(&wrong_patch[i], patch);
    for (size_t i = 0; i < sizeof wrong_fork / sizeof *wrong_fork; i++) check(&wrong_fork[i], fork_body);
    for (size_t i = 0; i < sizeof wrong_snapshot / sizeof *wrong_snapshot; i++) check(&wrong_snapshot[i], snapshot_body);
    print_message("%zu bodies with wrong fields\n",
                  sizeof wrong_create / sizeof *wrong_create + sizeof wrong_patch / sizeof *wrong_patch + sizeof wrong_fork / sizeof *wrong_fork);
}

static void a_full_session_body_is_read(void **state) {
    static const char body[] =
        " {\"prompt\":\"\\ud83d\\ude00 a b\\n\xc3\xa4\",\"seed\":\"18446744073709551615\",\"model\":\"pocket\",\"transition\":\"recache\","
        "\"fps\":60,\"jpeg_quality\":1,\"lookahead_chunks\":4,\"run_without_viewers\":false,\"idle_timeout_s\":8.64e4}\r\n\t";
    sc_create_request r;
    sc_program *program;
    sc_problem p;

    (void)state;
    if (!sc_request_create(body, sizeof body - 1, &r, &program, &p)) fail_msg("%s", p.detail);
    assert_string_equal(r.prompt, "\xf0\x9f\x98\x80 a b\n\xc3\xa4");
    assert_int_equal(r.prompt_bytes, 11);
    assert_true(r.has_seed && r.seed == UINT64_MAX);
    assert_string_equal(r.model, "pocket");
    assert_int_equal(r.transition, SC_WIRE_RECACHE);
    assert_int_equal(r.fps, 60);
    assert_int_equal(r.jpeg_quality, 1);
    assert_int_equal(r.lookahead_chunks, 4);
    assert_int_equal(r.run_without_viewers, 0);
    assert_int_equal(r.idle_timeout_s, 86400);
}

static void what_is_not_given_says_so(void **state) {
    static const char body[] = "{\"prompt\":\"a\",\"seed\":9007199254740991}";
    sc_create_request r;
    sc_patch_request q;
    sc_program *program;
    sc_problem p;

    (void)state;
    assert_true(sc_request_create(body, sizeof body - 1, &r, &program, &p));
    assert_int_equal(p.status, 0);
    assert_true(r.seed == 9007199254740991u && r.has_seed);
    assert_string_equal(r.model, "");
    assert_int_equal(r.transition, SC_WIRE_NOT_GIVEN);
    assert_int_equal(r.fps + r.jpeg_quality + r.lookahead_chunks + r.idle_timeout_s, 0);
    assert_int_equal(r.run_without_viewers, -1);
    assert_null(program);
    assert_true(sc_request_patch("{\"state\":\"paused\"}", 18, &q, &p));
    assert_int_equal(q.state, SC_PATCH_PAUSED);
    assert_false(q.has_prompt);
    assert_true(sc_request_patch("{\"prompt\":\"b\",\"transition\":\"cut\"}", 33, &q, &p));
    assert_true(q.has_prompt && q.prompt_bytes == 1 && q.transition == SC_WIRE_CUT && q.state == SC_PATCH_STATE_NOT_GIVEN);
}

static void a_fork_needs_nothing_and_takes_three_fields(void **state) {
    static const char body[] = "{\"at_chunk\":9007199254740991,\"prompt\":\"n\\u00e4chts\",\"seed\":\"18446744073709551615\"}";
    sc_fork_request r;
    sc_problem p;

    (void)state;
    memset(&r, 0xa5, sizeof r);
    assert_true(sc_request_fork("{}", 2, &r, &p));
    assert_true(!r.has_at_chunk && !r.has_prompt && !r.has_seed && !r.at_chunk && !r.seed && !r.prompt_bytes && !r.prompt[0]);
    if (!sc_request_fork(body, sizeof body - 1, &r, &p)) fail_msg("%s", p.detail);
    assert_true(r.has_at_chunk && r.at_chunk == 9007199254740991u && r.has_seed && r.seed == UINT64_MAX && r.has_prompt);
    assert_string_equal(r.prompt, "n\xc3\xa4" "chts");
    assert_int_equal(r.prompt_bytes, 7);
    assert_true(sc_request_fork("{\"at_chunk\":0}", 14, &r, &p));
    assert_true(r.has_at_chunk && r.at_chunk == 0);
}

static void all_errors_of_a_body_are_collected_up_to_sixteen(void **state) {
    static const char five[] = "{\"fps\":0,\"jpeg_quality\":\"x\",\"seed\":-1,\"nope\":1}";
    char body[2048] = "{\"fps\":0,\"jpeg_quality\":\"x\",\"seed\":-1";
    sc_problem p;
    size_t at;

    (void)state;
    assert_false(create(five, sizeof five - 1, &p));
    assert_int_equal(p.count, 5);
    assert_string_equal(p.errors[0].pointer, "/prompt");
    assert_string_equal(p.errors[4].pointer, "/nope");
    for (int i = 0; i < 40; i++) {
        at = strlen(body);
        snprintf(body + at, sizeof body - at, ",\"u%d\":1", i);
    }
    strcat(body, "}");
    assert_false(create(body, strlen(body), &p));
    assert_int_equal(p.count, SC_PROBLEM_ERRORS_MAX);
    assert_int_equal(p.more, 44 - SC_PROBLEM_ERRORS_MAX);
}

static void sizes_are_exact(void **state) {
    size_t cap = SC_BODY_BYTES_MAX + 1;
    char *body = malloc(cap);
    sc_create_request r;
    sc_program *program;
    sc_problem p;

    (void)state;
    assert_non_null(body);
    memset(body, ' ', cap);
    memcpy(body, "{\"prompt\":\"a\"}", 14);
    assert_true(sc_request_create(body, SC_BODY_BYTES_MAX, &r, &program, &p));
    assert_false(sc_request_create(body, SC_BODY_BYTES_MAX + 1, &r, &program, &p));
    assert_int_equal(p.status, 413);
    assert_non_null(strstr(p.detail, "65537 bytes, at most 65536"));

    memset(body, 'x', cap);
    memcpy(body, "{\"prompt\":\"", 11);
    memcpy(body + 11 + 4096, "\"}", 2);
    assert_true(sc_request_create(body, 11 + 4096 + 2, &r, &program, &p));
    assert_int_equal(r.prompt_bytes, 4096);
    memcpy(body + 11 + 4096, "x\"}", 3);
    assert_false(sc_request_create(body, 11 + 4096 + 3, &r, &program, &p));
    assert_non_null(strstr(p.detail, "found 4097 bytes"));
    free(body);
}

static void every_cut_of_a_body_is_refused(void **state) {
    static const char body[] = "{\"prompt\":\"\xf0\x9f\x98\x80\\u00e4\",\"seed\":\"12\",\"fps\":1.6e1,\"run_without_viewers\":true}";
    sc_problem p;

    (void)state;
    assert_true(create(body, sizeof body - 1, &p));
    for (size_t n = 0; n < sizeof body - 1; n++) {
        char *cut = malloc(n ? n : 1);
        assert_non_null(cut);
        memcpy(cut, body, n);
        assert_false(create(cut, n, &p));
        assert_int_equal(p.status, 400);
        free(cut);
    }
}

/* 10 000 different keys in one object must not cost n^2. */
static void many_keys_are_quick(void **state) {
    char *body = malloc(SC_BODY_BYTES_MAX + 16);
    size_t at = 1;
    sc_problem p;

    (void)state;
    assert_non_null(body);
    body[0] = '{';
    for (int i = 0; at < SC_BODY_BYTES_MAX - 16; i++) at += (size_t)sprintf(body + at, "%s\"%x\":1", i ? "," : "", i);
    body[at++] = '}';
    assert_false(create(body, at, &p));
    assert_int_equal(p.status, 422);
    assert_true(p.more > 1000);
    free(body);
}

static double limit(cJSON *schema, const char *field, const char *bound) {
    cJSON *f = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(schema, "properties"), field);
    cJSON *b = cJSON_GetObjectItemCaseSensitive(f, bound);
    if (!cJSON_IsNumber(b)) fail_msg("openapi.json has no %s of %s", bound, field);
    return b->valuedouble;
}

static void openapi_and_code_agree_on_ranges(void **state) {
    static const char *const fields[] = {"fps", "jpeg_quality", "lookahead_chunks", "idle_timeout_s"};
    sc_json_error e;
    cJSON *doc, *schema;
    char body[128];
    sc_problem p;

    (void)state;
    if (sc_json_read(&doc, (const char *)sc_openapi_json, sc_openapi_json_size, 1 << 20, &e)) fail_msg("openapi.json:%d: %s", e.line, e.text);
    assert_int_equal(sc_openapi_json[sc_openapi_json_size], 0);
    schema = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(doc, "components"), "schemas"), "SessionCreate");
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        for (int out = 0; out < 2; out++) {
            snprintf(body, sizeof body, P "\"%s\":%.0f}", fields[i], limit(schema, fields[i], "minimum") - out);
            assert_int_equal(create(body, strlen(body), &p), !out);
            snprintf(body, sizeof body, P "\"%s\":%.0f}", fields[i], limit(schema, fields[i], "maximum") + out);
            assert_int_equal(create(body, strlen(body), &p), !out);
        }
    assert_int_equal((int)limit(schema, "prompt", "maxLength"), SC_PROMPT_TEXT_MAX);
    cJSON_Delete(doc);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_bodies_are_refused_with_the_place),
        cmocka_unit_test(wrong_fields_are_named),
        cmocka_unit_test(a_full_session_body_is_read),
        cmocka_unit_test(what_is_not_given_says_so),
        cmocka_unit_test(a_fork_needs_nothing_and_takes_three_fields),
        cmocka_unit_test(all_errors_of_a_body_are_collected_up_to_sixteen),
        cmocka_unit_test(sizes_are_exact),
        cmocka_unit_test(every_cut_of_a_body_is_refused),
        cmocka_unit_test(many_keys_are_quick),
        cmocka_unit_test(openapi_and_code_agree_on_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

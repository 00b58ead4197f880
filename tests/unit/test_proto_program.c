/* test_proto_program.c - schedules as they are written: both forms, every way to be wrong, and what GET answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/json.h"
#include "proto/openapi.h"
#include "proto/program.h"
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Exact size, so that a read past the end is seen. */
static bool read_program(const char *body, sc_program **out, sc_problem *p) {
    size_t n = strlen(body);
    char *copy = malloc(n + !n);
    assert_non_null(copy);
    memcpy(copy, body, n);
    bool good = sc_request_program(copy, n, out, p);
    free(copy);
    return good;
}

static sc_program *good(const char *body) {
    sc_program *g;
    sc_problem p;
    if (!read_program(body, &g, &p)) fail_msg("%s: %s", body, p.detail);
    return g;
}

static void a_list_is_read(void **state) {
    sc_program *g = good("{\"prompts\":[{\"at_chunk\":12,\"prompt\":\"a c\\u00e4t\",\"transition\":\"blend\"},{\"at_s\":20.5,\"prompt\":\"b\"},"
                         "{\"prompt\":\"c\",\"at_chunk\":9007199254740991}],\"loop\":false}");
    (void)state;
    assert_int_equal(g->count, 3);
    assert_true(!g->loop && !g->relative);
    assert_true(!g->entry[0].timed && g->entry[0].at == 12 && g->entry[0].transition == SC_WIRE_BLEND && g->entry[0].bytes == 6);
    assert_string_equal(sc_program_prompt(g, 0), "a c\xc3\xa4t");
    assert_true(g->entry[1].timed && g->entry[1].at == 20500000 && g->entry[1].transition == SC_WIRE_NOT_GIVEN);
    assert_string_equal(sc_program_prompt(g, 1), "b");
    assert_true(g->entry[2].at == 9007199254740991u);
    sc_program_release(g);
}

static void a_text_is_read(void **state) {
    sc_program *g = good("{\"text\":\" a [red] cat [5s]|\\ta dog[2.5s] |\\nsnow[ 0.0010009s ]| the [end] now \"}");
    (void)state;
    assert_int_equal(g->count, 4);
    assert_true(!g->loop && g->relative && g->entry[0].timed && g->entry[3].timed);
    assert_string_equal(sc_program_prompt(g, 0), "a [red] cat");
    assert_string_equal(sc_program_prompt(g, 1), "a dog");
    assert_string_equal(sc_program_prompt(g, 2), "snow");
    assert_true(g->entry[0].at == 0 && g->entry[1].at == 5000000 && g->entry[2].at == 7500000 && g->entry[3].at == 7501000);
    sc_program_release(g);
}

static void loops_know_how_long_they_are(void **state) {
    sc_program *g = good("{\"text\":\"a[5s]|b[10s]\",\"loop\":true}");
    (void)state;
    assert_true(g->loop && g->period == 15000000);
    sc_program_release(g);
    g = good("{\"loop\":true,\"prompts\":[{\"at_chunk\":10,\"prompt\":\"a\"},{\"at_chunk\":14,\"prompt\":\"b\",\"for_chunks\":3}]}");
    assert_true(g->loop && g->period == 7);
    sc_program_release(g);
    g = good("{\"loop\":true,\"prompts\":[{\"at_s\":10,\"prompt\":\"a\"},{\"at_s\":14,\"prompt\":\"b\",\"for_s\":0.5}]}");
    assert_true(g->period == 4500000);
    sc_program_release(g);
}

static void an_empty_list_is_none(void **state) {
    (void)state;
    assert_null(good("{\"prompts\":[]}"));
    assert_null(good("{\"prompts\":[],\"loop\":false}"));
}

static void sixty_four_and_no_more(void **state) {
    char body[8192] = "{\"text\":\"";
    (void)state;
    for (int i = 0; i < 63; i++) strcat(body, "p[1s]|");
    strcat(body, "q\"}");
    sc_program *g = good(body);
    assert_int_equal(g->count, 64);
    assert_true(g->entry[63].at == 63000000);
    assert_string_equal(sc_program_prompt(g, 63), "q");
    sc_program_release(g);
    strcpy(body, "{\"prompts\":[");
    for (int i = 0; i < 64; i++) sprintf(body + strlen(body), "%s{\"at_chunk\":%d,\"prompt\":\"p%d\"}", i ? "," : "", i, i);
    strcat(body, "]}");
    g = good(body);
    assert_int_equal(g->count, 64);
    assert_string_equal(sc_program_prompt(g, 63), "p63");
    sc_program_release(g);
}

#define E(fields) "{\"prompts\":[{" fields "}]}"
#define L(fields) "{\"loop\":true,\"prompts\":[{\"at_chunk\":1,\"prompt\":\"a\"},{" fields "}]}"
#define T(text) "{\"text\":\"" text "\"}"

static void what_is_wrong_is_named(void **state) {
    static const struct { const char *body; int status; const char *pointer, *words; } bad[] = {
        {"", 400, NULL, "empty"},
        {"[]", 400, NULL, "a JSON object, found an array"},
        {"{}", 422, "", "one of prompts (a list) and text"},
        {"{\"prompts\":[],\"text\":\"a\"}", 422, "", "found both"},
        {"{\"prompts\":null}", 422, "/prompts", "a list"},
        {"{\"prompts\":\"a[5s] | b\"}", 422, "/prompts", "a list"},
        {"{\"text\":[]}", 422, "/text", "must be a text"},
        {"{\"prompts\":[],\"loop\":1}", 422, "/loop", "true or false, found 1"},
        {"{\"prompts\":[],\"loop\":true}", 422, "/loop", "empty list"},
        {"{\"prompts\":[],\"repeat\":true}", 422, "/repeat", "unknown field"},
        {"{\"prompts\":[3]}", 422, "/prompts/0", "must be an object"},
        {E(""), 422, "/prompts/0", "at_chunk or at_s"},
        {E("\"at_chunk\":1"), 422, "/prompts/0/prompt", "is missing"},
        {E("\"prompt\":\"a\""), 422, "/prompts/0", "at_chunk or at_s"},
        {E("\"at_chunk\":1,\"at_s\":1,\"prompt\":\"a\""), 422, "/prompts/0", "found both"},
        {E("\"at_chunk\":1.5,\"prompt\":\"a\""), 422, "/prompts/0/at_chunk", "found 1.5"},
        {E("\"at_chunk\":-1,\"prompt\":\"a\""), 422, "/prompts/0/at_chunk", "found -1"},
        {E("\"at_chunk\":9007199254740992,\"prompt\":\"a\""), 422, "/prompts/0/at_chunk", "9007199254740992"},
        {E("\"at_s\":-0.001,\"prompt\":\"a\""), 422, "/prompts/0/at_s", "from 0 to 1000000000"},
        {E("\"at_s\":1000000001,\"prompt\":\"a\""), 422, "/prompts/0/at_s", "found 1000000001"},
        {E("\"at_s\":\"5s\",\"prompt\":\"a\""), 422, "/prompts/0/at_s", "must be a number"},
        {E("\"at_chunk\":1,\"prompt\":\"\""), 422, "/prompts/0/prompt", "an empty one"},
        {E("\"at_chunk\":1,\"prompt\":\"\\u0007\""), 422, "/prompts/0/prompt", "0x07"},
        {E("\"at_chunk\":1,\"prompt\":\"a\",\"transition\":\"fade\""), 422, "/prompts/0/transition", "\"fade\""},
        {E("\"at_chunk\":1,\"prompt\":\"a\",\"text\":\"b\""), 422, "/prompts/0/text", "unknown field"},
        {E("\"at_chunk\":1,\"prompt\":\"a\",\"for_chunks\":3"), 422, "/prompts/0/for_chunks", "no loop"},
        {L("\"at_chunk\":2,\"prompt\":\"b\""), 422, "/prompts/1/for_chunks", "is missing"},
        {L("\"at_chunk\":2,\"prompt\":\"b\",\"for_chunks\":0"), 422, "/prompts/1/for_chunks", "found 0"},
        {L("\"at_chunk\":2,\"prompt\":\"b\",\"for_chunks\":1000001"), 422, "/prompts/1/for_chunks", "found 1000001"},
        {L("\"at_chunk\":2,\"prompt\":\"b\",\"for_s\":1"), 422, "/prompts/1/for_s", "unit of at_chunk"},
        {L("\"at_s\":2,\"prompt\":\"b\",\"for_s\":1"), 422, "/prompts/1/at_s", "same unit"},
        {"{\"loop\":true,\"prompts\":[{\"at_s\":1,\"prompt\":\"a\",\"for_s\":1},{\"at_s\":2,\"prompt\":\"b\",\"for_s\":0}]}", 422, "/prompts/0/for_s", "not the last"},
        {"{\"loop\":true,\"prompts\":[{\"at_s\":1,\"prompt\":\"a\",\"for_s\":0.0001}]}", 422, "/prompts/0/for_s", "from 0.001 to 86400"},
        {T(""), 422, "/text", "prompt 0 is empty"},
        {T("[5s]"), 422, "/text", "prompt 0 is empty"},
        {T("a[5s] |"), 422, "/text", "prompt 1 is empty"},
        {T("a | b"), 422, "/text", "prompt 0 needs a length such as [5s], since another"},
        {T("a[5]"), 422, "/text", "square brackets"},
        {T("a[s]"), 422, "/text", "square brackets"},
        {T("a[.s]"), 422, "/text", "square brackets"},
        {T("a[5.5.5s]"), 422, "/text", "square brackets"},
        {T("a[-5s]"), 422, "/text", "square brackets"},
        {T("a[+5s]"), 422, "/text", "square brackets"},
        {T("a[1e3s]"), 422, "/text", "square brackets"},
        {T("a[infs]"), 422, "/text", "square brackets"},
        {T("a[0s]"), 422, "/text", "square brackets"},
        {T("a[0.0009s]"), 422, "/text", "square brackets"},
        {T("a[86401s]"), 422, "/text", "square brackets"},
        {T("a[99999999999999999999999999s]"), 422, "/text", "square brackets"},
        {T("a]"), 422, "/text", "square brackets"},
        {T("]"), 422, "/text", "square brackets"},
        {T("a\\u0001[5s]"), 422, "/text", "0x01"},
        {"{\"text\":\"a[5s] | b\",\"loop\":true}", 422, "/text", "prompt 1 needs a length such as [5s], since the first"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sc_program *g;
        sc_problem p;
        bool named = !bad[i].pointer;
        if (read_program(bad[i].body, &g, &p)) fail_msg("%s was taken", bad[i].body);
        assert_null(g);
        for (int k = 0; k < p.count && !named; k++) named = !strcmp(p.errors[k].pointer, bad[i].pointer) && strstr(p.errors[k].detail, bad[i].words);
        if (p.status != bad[i].status || !named || (!bad[i].pointer && !strstr(p.detail, bad[i].words)))
            fail_msg("%s: %d %s (first at \"%s\": %s)", bad[i].body, p.status, p.detail, p.errors[0].pointer, p.errors[0].detail);
    }
}

static void long_prompts_are_exact(void **state) {
    char *body = malloc(SC_BODY_BYTES_MAX + 1);
    sc_program *g;
    sc_problem p;
    (void)state;
    assert_non_null(body);
    for (int more = 0; more < 2; more++)
        for (int list = 0; list < 2; list++) {
            strcpy(body, list ? "{\"prompts\":[{\"at_chunk\":1,\"prompt\":\"" : "{\"text\":\"");
            size_t at = strlen(body);
            memset(body + at, 'x', (size_t)(SC_PROMPT_TEXT_MAX + more));
            strcpy(body + at + SC_PROMPT_TEXT_MAX + more, list ? "\"}]}" : "[1s]\"}");
            assert_int_equal(read_program(body, &g, &p), !more);
            if (!more) assert_int_equal(g->entry[0].bytes, SC_PROMPT_TEXT_MAX);
            sc_program_release(g);
        }
    free(body);
}

static void same_means_the_same_words_at_the_same_places(void **state) {
    static const char *const others[] = {"{\"text\":\"a[5s]|b[6s]\",\"loop\":true}", "{\"text\":\"a[5s]|b\"}", "{\"text\":\"a[5s]|c[5s]\",\"loop\":true}",
                                         "{\"text\":\"a[5s]\",\"loop\":true}", "{\"prompts\":[{\"at_s\":0,\"prompt\":\"a\"},{\"at_s\":5,\"prompt\":\"b\"}]}"};
    sc_program *g = good("{\"text\":\"a[5s]|b[5s]\",\"loop\":true}"), *h = good("{\"loop\":true,\"text\":\" a [5.0s] | b [5s]\"}");
    (void)state;
    assert_true(sc_program_same(g, h) && sc_program_same(NULL, NULL) && !sc_program_same(g, NULL) && !sc_program_same(NULL, g));
    sc_program_release(h);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        h = good(others[i]);
        assert_false(sc_program_same(g, h));
        sc_program_release(h);
    }
    assert_ptr_equal(sc_program_retain(g), g);
    sc_program_release(g);
    sc_program_release(g);
    sc_program_release(NULL);
    assert_null(sc_program_retain(NULL));
}

static void the_answer_says_all(void **state) {
    sc_program *g = good("{\"prompts\":[{\"at_chunk\":1,\"prompt\":\"a\"},{\"at_chunk\":12,\"prompt\":\"\\\"b\\\"\",\"transition\":\"cut\"},{\"at_chunk\":13,\"prompt\":\"c\"}]}");
    sc_program_view v = {.program = g, .in_force = 0, .in_force_seq = 2, .count = 2, .coming = {{1, 12, 3}, {2, 13, 0}}}, none = {.in_force = -1};
    size_t n;
    char *text = sc_program_json(&v, &n);
    (void)state;
    assert_string_equal(text, "{\"loop\":false,\"in_force\":{\"entry\":0,\"prompt\":\"a\",\"seq\":2},\"prompts\":["
                              "{\"entry\":1,\"at_chunk\":12,\"prompt\":\"\\\"b\\\"\",\"transition\":\"cut\",\"seq\":3},"
                              "{\"entry\":2,\"at_chunk\":13,\"prompt\":\"c\",\"transition\":null,\"seq\":null}]}");
    assert_int_equal(n, strlen(text));
    free(text);
    text = sc_program_json(&none, NULL);
    assert_string_equal(text, "{\"loop\":false,\"in_force\":null,\"prompts\":[]}");
    free(text);
    sc_program_release(g);
}

static double said(cJSON *schemas, const char *schema, const char *field, const char *bound) {
    cJSON *s = cJSON_GetObjectItemCaseSensitive(schemas, schema);
    cJSON *b = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(s, "properties"), field), bound);
    if (!cJSON_IsNumber(b)) fail_msg("openapi.json has no %s of %s", bound, field);
    return b->valuedouble;
}

static void openapi_says_the_same_limits(void **state) {
    sc_json_error e;
    cJSON *doc;
    (void)state;
    assert_int_equal(sc_json_read(&doc, (const char *)sc_openapi_json, sc_openapi_json_size, 1 << 20, &e), SC_OK);
    cJSON *schemas = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(doc, "components"), "schemas");
    assert_true(said(schemas, "ScheduleEntry", "at_s", "maximum") == SC_PROGRAM_AT_S_MAX && said(schemas, "ScheduleEntry", "at_s", "minimum") == 0);
    assert_true(said(schemas, "ScheduleEntry", "for_s", "maximum") == SC_PROGRAM_FOR_S_MAX && said(schemas, "ScheduleEntry", "for_s", "minimum") == 0.001);
    assert_true(said(schemas, "ScheduleEntry", "for_chunks", "maximum") == SC_PROGRAM_FOR_CHUNKS_MAX);
    assert_true(said(schemas, "ScheduleEntry", "at_chunk", "maximum") == 9007199254740991.0);
    assert_true(said(schemas, "ScheduleEntry", "prompt", "maxLength") == SC_PROMPT_TEXT_MAX);
    assert_true(said(schemas, "ScheduleState", "prompts", "maxItems") == SC_PROGRAM_ENTRIES_MAX);
    cJSON_Delete(doc);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_is_read),
        cmocka_unit_test(a_text_is_read),
        cmocka_unit_test(loops_know_how_long_they_are),
        cmocka_unit_test(an_empty_list_is_none),
        cmocka_unit_test(sixty_four_and_no_more),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(long_prompts_are_exact),
        cmocka_unit_test(same_means_the_same_words_at_the_same_places),
        cmocka_unit_test(the_answer_says_all),
        cmocka_unit_test(openapi_says_the_same_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_proto_video.c - bodies of POST /v1/videos, and the objects that its calls answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/video_json.h"
#include <stdlib.h>
#include <string.h>

#define ID "aaaaaaaaaaaaaaaaaaaaaaaaaa"
#define P "{\"prompt\":\"a\","

static void what_is_wrong_is_named(void **state) {
    static const struct { const char *body; int status; const char *pointer, *words; } bad[] = {
        {"", 400, NULL, "empty"},
        {"{}", 422, "/prompt", "is missing"},
        {P "\"second\":\"4\"}", 422, "/second", "known are prompt, model, seconds, size, seed"},
        {P "\"seconds\":0}", 422, "/seconds", "1 to 120, found 0"},
        {P "\"seconds\":121}", 422, "/seconds", "found 121"},
        {P "\"seconds\":1.5}", 422, "/seconds", "found 1.5"},
        {P "\"seconds\":null}", 422, "/seconds", "found null"},
        {P "\"seconds\":\"0\"}", 422, "/seconds", "\"1\" to \"120\", found \"0\""},
        {P "\"seconds\":\"121\"}", 422, "/seconds", "found \"121\""},
        {P "\"seconds\":\"04\"}", 422, "/seconds", "found \"04\""},
        {P "\"seconds\":\"4s\"}", 422, "/seconds", "found \"4s\""},
        {P "\"seconds\":\"-4\"}", 422, "/seconds", "found \"-4\""},
        {P "\"seconds\":\" 4\"}", 422, "/seconds", "found \" 4\""},
        {P "\"seconds\":\"\"}", 422, "/seconds", "must be a text"},
        {P "\"seconds\":\"99999999999999999999\"}", 422, "/seconds", "found 20 bytes"},
        {P "\"size\":\"256\"}", 422, "/size", "width and height"},
        {P "\"size\":\"256x\"}", 422, "/size", "found \"256x\""},
        {P "\"size\":\"x160\"}", 422, "/size", "found \"x160\""},
        {P "\"size\":\"256x160x1\"}", 422, "/size", "found \"256x160x1\""},
        {P "\"size\":\"256X160\"}", 422, "/size", "found \"256X160\""},
        {P "\"size\":\"0x160\"}", 422, "/size", "found \"0x160\""},
        {P "\"size\":\"256x99999\"}", 422, "/size", "found \"256x99999\""},
        {P "\"size\":[256,160]}", 422, "/size", "found an array"},
        {P "\"seed\":-1}", 422, "/seed", "found -1"},
        {P "\"input_reference\":\"x\"}", 422, "/input_reference", "unknown field"},
    };
    sc_video_request r;
    sc_problem p;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const size_t n = strlen(bad[i].body);
        char *body = memcpy(malloc(n ? n : 1), bad[i].body, n); /* exactly as long: a read past the end is seen */
        if (sc_request_video(body, n, &r, &p)) fail_msg("%s was taken", bad[i].body);
        free(body);
        assert_int_equal(p.status, bad[i].status);
        if (!bad[i].pointer) continue;
        assert_string_equal(p.errors[0].pointer, bad[i].pointer);
        if (!strstr(p.errors[0].detail, bad[i].words)) fail_msg("%s: %s", bad[i].body, p.errors[0].detail);
    }
}

static void a_full_body_and_a_bare_one_are_read(void **state) {
    static const char full[] = "{\"prompt\":\"a b\",\"model\":\"pocket\",\"seconds\":\"120\",\"size\":\"256x160\",\"seed\":\"18446744073709551615\"}";
    sc_video_request r;
    sc_problem p;

    (void)state;
    assert_true(sc_request_video(full, sizeof full - 1, &r, &p));
    assert_string_equal(r.prompt, "a b");
    assert_string_equal(r.model, "pocket");
    assert_int_equal(r.seconds, 120);
    assert_int_equal(r.width, 256);
    assert_int_equal(r.height, 160);
    assert_true(r.has_seed && r.seed == UINT64_MAX);
    assert_true(sc_request_video(P "\"seconds\":4}", strlen(P "\"seconds\":4}"), &r, &p));
    assert_int_equal(r.seconds, 4);
    assert_true(sc_request_video("{\"prompt\":\"a\"}", 14, &r, &p));
    assert_true(!r.model[0] && !r.seconds && !r.width && !r.height && !r.has_seed);
}

static void is(char *got, size_t n, const char *want) {
    assert_non_null(got);
    assert_string_equal(got, want);
    assert_int_equal(n, strlen(want));
    free(got);
}

static void objects_have_openai_s_shape(void **state) {
    sc_video_view v[2] = {
        {.id = ID, .model = "pocket", .status = "completed", .prompt = "a", .prompt_bytes = 1, .progress = 100, .seconds = 4, .width = 256, .height = 160,
         .created = 10, .completed = 20, .expires = 30, .seed = UINT64_MAX},
        {.id = ID, .model = "pocket", .status = "failed", .prompt = "a", .prompt_bytes = 1, .seconds = 4, .width = 256, .height = 160, .created = 10,
         .error_code = "server_error", .error_message = "no \"room\""},
    };
    size_t n;
    char *text;

    (void)state;
#define ONE "{\"id\":\"video_" ID "\",\"object\":\"video\",\"model\":\"pocket\",\"status\":\"completed\",\"progress\":100,\"created_at\":10,\"completed_at\":20,\
\"expires_at\":30,\"size\":\"256x160\",\"seconds\":\"4\",\"prompt\":\"a\",\"seed\":\"18446744073709551615\",\"error\":null}"
#define TWO "{\"id\":\"video_" ID "\",\"object\":\"video\",\"model\":\"pocket\",\"status\":\"failed\",\"progress\":0,\"created_at\":10,\"completed_at\":null,\
\"expires_at\":null,\"size\":\"256x160\",\"seconds\":\"4\",\"prompt\":\"a\",\"seed\":\"0\",\"error\":{\"code\":\"server_error\",\"message\":\"no \\\"room\\\"\"}}"
    text = sc_video_json(&v[0], &n);
    is(text, n, ONE);
    text = sc_videos_json(v, 2, true, &n);
    is(text, n, "{\"object\":\"list\",\"data\":[" ONE "," TWO "],\"first_id\":\"video_" ID "\",\"last_id\":\"video_" ID "\",\"has_more\":true}");
    text = sc_videos_json(NULL, 0, false, &n);
    is(text, n, "{\"object\":\"list\",\"data\":[],\"first_id\":null,\"last_id\":null,\"has_more\":false}");
    text = sc_video_deleted_json(ID, &n);
    is(text, n, "{\"id\":\"video_" ID "\",\"object\":\"video.deleted\",\"deleted\":true}");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(a_full_body_and_a_bare_one_are_read),
        cmocka_unit_test(objects_have_openai_s_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

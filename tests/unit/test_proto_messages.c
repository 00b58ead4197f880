/* test_proto_messages.c - messages, problem documents, session objects and the frame header, byte for byte.
 *
 * The golden texts and bytes below are the wire: changing one is changing the protocol. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/frame_header.h"
#include "proto/json.h"
#include "proto/messages.h"
#include "proto/session_json.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void frame_header_has_its_golden_bytes(void **state) {
    static const uint8_t golden[64] = {
        'S', 'C', 'F', '1', 0x40, 0x00, 0x05, 0x00, 0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01,
        0xd4, 0xc3, 0xb2, 0xa1, 0x2a, 0x00, 0x00, 0x00, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
        0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21, 0x01, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00,
        0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x01, 0xa0, 0x00, 0x07, 0x00, 0x00, 0x80};
    sc_frame_header h = {.flags = SC_FRAME_CHUNK | SC_FRAME_REPEAT, .frame = 0x0102030405060708u, .chunk = 0xa1b2c3d4u, .prompt_seq = 42,
                         .pts_us = 0x1112131415161718u, .sent_us = 0x2122232425262728u, .wait_us = 1, .denoise_us = 0x200,
                         .decode_us = 0x30000, .encode_us = 0x4000000, .width = 256, .height = 160, .dropped = 0x80000007u};
    sc_frame_header back;
    uint8_t out[64];

    (void)state;
    memset(out, 0xee, sizeof out);
    sc_frame_header_write(out, &h);
    assert_memory_equal(out, golden, 64);
    assert_int_equal(sc_frame_header_read(&back, out, 64, NULL), SC_OK);
    assert_int_equal(back.header_bytes, 64);
    h.header_bytes = 64;
    assert_true(back.flags == h.flags && back.frame == h.frame && back.chunk == h.chunk && back.prompt_seq == h.prompt_seq);
    assert_true(back.pts_us == h.pts_us && back.sent_us == h.sent_us && back.wait_us == h.wait_us && back.denoise_us == h.denoise_us);
    assert_true(back.decode_us == h.decode_us && back.encode_us == h.encode_us && back.width == 256 && back.height == 160);
    assert_true(back.dropped == h.dropped);
    sc_frame_header_patch(out, 2, 9, 3);
    assert_int_equal(sc_frame_header_read(&back, out, 64, NULL), SC_OK);
    assert_true(back.flags == 2 && back.sent_us == 9 && back.dropped == 3 && back.frame == h.frame && back.wait_us == 1);
}

static void frame_header_reader_refuses_what_is_none(void **state) {
    uint8_t data[80] = {0};
    sc_frame_header h = {0};
    sc_error err;

    (void)state;
    sc_frame_header_write(data, &h);
    assert_int_equal(sc_frame_header_read(&h, data, 63, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "63 bytes is shorter"));
    data[4] = 80;
    assert_int_equal(sc_frame_header_read(&h, data, 80, &err), SC_OK); /* a longer header of later versions */
    assert_int_equal(h.header_bytes, 80);
    assert_int_equal(sc_frame_header_read(&h, data, 79, &err), SC_EINVAL);
    data[4] = 63;
    assert_int_equal(sc_frame_header_read(&h, data, 80, &err), SC_EINVAL);
    data[0] = 'X';
    assert_int_equal(sc_frame_header_read(&h, data, 80, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "0x31464358"));
}

struct bad {
    const char *text;
    int status;
    const char *pointer, *words;
};

static const struct bad bad_messages[] = {
    {"", 400, NULL, "message is empty"},
    {"hello", 400, NULL, "not JSON: line 1, column 1: expected a value, found 'h'"},
    {"{\"type\":\"ping\",\"t\":1", 400, NULL, "expected ',' or '}'"},
    {"[\"ping\"]", 400, NULL, "must be a JSON object, found an array"},
    {"{\"type\":\"ping\",\"t\":1}{}", 400, NULL, "text after the end"},
    {"{\"type\":\"ping\",\"t\":01}", 400, NULL, "must not begin with 0"},
    {"{\"type\":\"ping\",\"type\":\"ack\"}", 400, NULL, "\"type\" stands twice"},
    {"{\"type\":\"prompt\",\"text\":\"\\u0000\"}", 400, NULL, "\\u0000 is not allowed"},
    {"{}", 422, "/type", "is missing: one of \"prompt\""},
    {"{\"Type\":\"pause\"}", 422, "/type", "is missing"},
    {"{\"type\":\"stop\"}", 422, "/type", "\"quality\", found the text \"stop\""},
    {"{\"type\":1}", 422, "/type", "found 1"},
    {"{\"type\":null}", 422, "/type", "found null"},
    {"{\"type\":\"prompt\"}", 422, "/text", "is missing: a text of 1 to 4096 bytes"},
    {"{\"type\":\"prompt\",\"prompt\":\"a\"}", 422, "/prompt", "unknown field \"prompt\"; known are type, text, transition, ref"},
    {"{\"type\":\"prompt\",\"text\":\"\"}", 422, "/text", "found an empty one"},
    {"{\"type\":\"prompt\",\"text\":5}", 422, "/text", "found 5"},
    {"{\"type\":\"prompt\",\"text\":\"\\u0008\"}", 422, "/text", "found 0x08"},
    {"{\"type\":\"prompt\",\"text\":\"a\",\"transition\":\"x\"}", 422, "/transition", "found the text \"x\""},
    {"{\"type\":\"prompt\",\"text\":\"a\",\"ref\":7}", 422, "/ref", "must be a text of 1 to 64 bytes"},
    {"{\"type\":\"prompt\",\"text\":\"a\",\"ref\":\"\"}", 422, "/ref", "1 to 64 bytes"},
    {"{\"type\":\"prompt\",\"text\":\"a\",\"ref\":\"\\n\\u0001\"}", 422, "/ref", "without control characters"},
    {"{\"type\":\"prompt\",\"text\":\"a\",\"ref\":\"01234567890123456789012345678901234567890123456789012345678901234\"}", 422, "/ref",
     "found 65 bytes"},
    {"{\"type\":\"pause\",\"now\":true}", 422, "/now", "unknown field \"now\"; known are type"},
    {"{\"type\":\"resume\",\"text\":\"a\"}", 422, "/text", "unknown field"},
    {"{\"type\":\"ack\"}", 422, "/frame", "is missing"},
    {"{\"type\":\"ack\",\"frame\":-1}", 422, "/frame", "found -1"},
    {"{\"type\":\"ack\",\"frame\":1.5}", 422, "/frame", "found 1.5"},
    {"{\"type\":\"ack\",\"frame\":\"1\"}", 422, "/frame", "found the text \"1\""},
    {"{\"type\":\"ack\",\"frame\":9007199254740992}", 422, "/frame", "to 9007199254740991"},
    {"{\"type\":\"ping\"}", 422, "/t", "is missing"},
    {"{\"type\":\"ping\",\"t\":\"now\"}", 422, "/t", "must be a number, found the text \"now\""},
    {"{\"type\":\"ping\",\"t\":null}", 422, "/t", "must be a number, found null"},
    {"{\"type\":\"quality\"}", 422, "/jpeg_quality", "is missing"},
    {"{\"type\":\"quality\",\"jpeg_quality\":0}", 422, "/jpeg_quality", "from 1 to 100, found 0"},
    {"{\"type\":\"quality\",\"jpeg_quality\":true}", 422, "/jpeg_quality", "found true"},
    {"{\"type\":\"quality\",\"quality\":50}", 422, "/quality", "known are type, jpeg_quality"},
};

static void bad_messages_are_refused_with_the_place(void **state) {
    sc_client_message m;
    sc_problem p;

    (void)state;
    for (size_t i = 0; i < sizeof bad_messages / sizeof *bad_messages; i++) {
        const struct bad *c = &bad_messages[i];
        size_t n = strlen(c->text);
        char *text = malloc(n ? n : 1);
        bool taken, named = c->pointer == NULL, said = false;

        assert_non_null(text);
        memcpy(text, c->text, n);
        taken = sc_client_message_parse(text, n, &m, &p);
        free(text);
        if (taken || p.status != c->status) fail_msg("%s: taken %d, status %d", c->text, taken, p.status);
        said = strstr(p.detail, c->words) != NULL;
        for (int k = 0; k < p.count; k++) {
            named |= c->pointer && !strcmp(p.errors[k].pointer, c->pointer);
            said |= strstr(p.errors[k].detail, c->words) != NULL;
        }
        if (!named || !said) fail_msg("%s: got \"%s\"", c->text, p.detail);
    }
    print_message("%zu bad messages\n", sizeof bad_messages / sizeof *bad_messages);
}

static bool parse(const char *text, sc_client_message *m) {
    sc_problem p;
    return sc_client_message_parse(text, strlen(text), m, &p);
}

static void good_messages_are_read(void **state) {
    sc_client_message m;
    char *long_one = malloc(SC_CLIENT_MESSAGE_MAX + 1);
    sc_problem p;

    (void)state;
    assert_non_null(long_one);
    assert_true(parse("{\"type\":\"prompt\",\"text\":\"a \\\"cat\\\"\",\"transition\":\"blend\",\"ref\":\"p1\"}", &m));
    assert_true(m.kind == SC_CLIENT_PROMPT && m.transition == SC_WIRE_BLEND && m.text_bytes == 7);
    assert_string_equal(m.text, "a \"cat\"");
    assert_string_equal(m.ref, "p1");
    assert_true(parse("{\"ref\":\"r\",\"text\":\"b\",\"type\":\"prompt\"}", &m) && m.transition == SC_WIRE_NOT_GIVEN);
    assert_true(parse("{\"type\":\"pause\"}", &m) && m.kind == SC_CLIENT_PAUSE);
    assert_true(parse(" {\"type\" : \"resume\"} ", &m) && m.kind == SC_CLIENT_RESUME);
    assert_true(parse("{\"type\":\"ack\",\"frame\":9007199254740991}", &m) && m.kind == SC_CLIENT_ACK && m.frame == 9007199254740991u);
    assert_true(parse("{\"type\":\"ping\",\"t\":-12.25}", &m) && m.kind == SC_CLIENT_PING && m.t == -12.25);
    assert_true(parse("{\"type\":\"quality\",\"jpeg_quality\":100}", &m) && m.kind == SC_CLIENT_QUALITY && m.jpeg_quality == 100);
    assert_true(sc_client_kind_needs_control(SC_CLIENT_PROMPT) && sc_client_kind_needs_control(SC_CLIENT_RESUME));
    assert_false(sc_client_kind_needs_control(SC_CLIENT_ACK) || sc_client_kind_needs_control(SC_CLIENT_QUALITY));

    memset(long_one, ' ', SC_CLIENT_MESSAGE_MAX + 1);
    memcpy(long_one, "{\"type\":\"pause\"}", 16);
    assert_true(sc_client_message_parse(long_one, SC_CLIENT_MESSAGE_MAX, &m, &p));
    assert_false(sc_client_message_parse(long_one, SC_CLIENT_MESSAGE_MAX + 1, &m, &p));
    assert_int_equal(p.status, 413);
    free(long_one);
}

static void the_ref_of_a_wrong_prompt_is_kept(void **state) {
    sc_client_message m;

    (void)state;
    assert_false(parse("{\"type\":\"prompt\",\"text\":\"\",\"ref\":\"p9\"}", &m));
    assert_string_equal(m.ref, "p9");
    assert_false(parse("{\"type\":\"prompt\",\"ref\":\"p9\"", &m));
    assert_string_equal(m.ref, "");
}

static const char id[] = "abcdefghijklmnopqrstuvwxya";

static void server_messages_are_golden(void **state) {
    char b[SC_SERVER_MESSAGE_MAX];
    size_t n;
    sc_problem p = {0};
    sc_chunk_times t = {.chunk = 7, .wait_ms = 0.5, .denoise_ms = 101.25, .decode_ms = 12, .encode_ms = 0.0004, .lateness_ms = -80.5};
    sc_viewer_stats s = {.frame = 90, .chunk = 7, .viewers = 2, .sent = 88, .dropped = 3, .lag_frames = -1, .lookahead_s = 0.75};

    (void)state;
    n = sc_message_hello(b, sizeof b, id, "control", 41);
    assert_int_equal(n, strlen(b));
    assert_string_equal(b, "{\"type\":\"hello\",\"session\":\"abcdefghijklmnopqrstuvwxya\",\"role\":\"control\",\"protocol\":1,\"newest_frame\":41}");
    sc_message_hello(b, sizeof b, id, "watch", -1);
    assert_non_null(strstr(b, "\"role\":\"watch\",\"protocol\":1,\"newest_frame\":null}"));
    sc_message_prompt(b, sizeof b, 2, SC_PROMPT_RECEIVED, "a \"b\"\n\xc3\xa4", 8, 5, SC_WIRE_SWITCH, "p1");
    assert_string_equal(b, "{\"type\":\"prompt\",\"seq\":2,\"state\":\"received\",\"prompt\":\"a \\\"b\\\"\\n\xc3\xa4\",\"chunk\":5,"
                           "\"transition\":\"switch\",\"ref\":\"p1\"}");
    sc_message_prompt(b, sizeof b, 0, SC_PROMPT_SUPERSEDED, "a", 1, -1, SC_WIRE_NOT_GIVEN, NULL);
    assert_string_equal(b, "{\"type\":\"prompt\",\"seq\":0,\"state\":\"superseded\",\"prompt\":\"a\",\"chunk\":null,\"transition\":null}");
    sc_message_chunk(b, sizeof b, &t);
    assert_string_equal(b, "{\"type\":\"chunk\",\"chunk\":7,\"wait_ms\":0.500,\"denoise_ms\":101.250,\"decode_ms\":12.000,"
                           "\"encode_ms\":0.000,\"lateness_ms\":-80.500}");
    t.lateness_ms = NAN;
    sc_message_chunk(b, sizeof b, &t);
    assert_non_null(strstr(b, "\"lateness_ms\":null}"));
    sc_message_state(b, sizeof b, "paused", "no viewer");
    assert_string_equal(b, "{\"type\":\"state\",\"state\":\"paused\",\"reason\":\"no viewer\"}");
    sc_message_state(b, sizeof b, "running", NULL);
    assert_string_equal(b, "{\"type\":\"state\",\"state\":\"running\"}");
    sc_message_viewers(b, sizeof b, 3);
    assert_string_equal(b, "{\"type\":\"viewers\",\"count\":3}");
    sc_message_stats(b, sizeof b, &s);
    assert_string_equal(b, "{\"type\":\"stats\",\"frame\":90,\"chunk\":7,\"viewers\":2,\"sent\":88,\"dropped\":3,\"lag_frames\":null,\"lookahead_s\":0.750}");
    sc_problem_add(&p, "/fps", "must be %d", 3);
    sc_message_error(b, sizeof b, &p, "p2");
    assert_string_equal(b, "{\"type\":\"error\",\"problem\":{\"type\":\"about:blank\",\"title\":\"Unprocessable Content\",\"status\":422,"
                           "\"detail\":\"fps: must be 3\",\"errors\":[{\"pointer\":\"/fps\",\"detail\":\"must be 3\"}]},\"ref\":\"p2\"}");
    sc_message_pong(b, sizeof b, 1234567890123.0, 77);
    assert_string_equal(b, "{\"type\":\"pong\",\"t\":1234567890123,\"server_us\":77}");
    sc_message_pong(b, sizeof b, 0.1, UINT64_MAX);
    assert_string_equal(b, "{\"type\":\"pong\",\"t\":0.1,\"server_us\":18446744073709551615}");
}

/* Every capacity: either the whole message fits or 0 comes back and nothing past the buffer is touched (AddressSanitizer looks). */
static void writers_keep_inside_their_buffer(void **state) {
    char whole[512];
    size_t n = sc_message_prompt(whole, sizeof whole, 2, SC_PROMPT_SHOWN, "a\n\"\xff", 4, 5, SC_WIRE_CUT, "p\xc3");

    (void)state;
    assert_true(n > 0);
    assert_non_null(strstr(whole, "a\\n\\\"\xef\xbf\xbd")); /* what is not UTF-8 becomes U+FFFD */
    for (size_t cap = 1; cap <= n + 1; cap++) {
        char *b = malloc(cap);
        size_t got;

        assert_non_null(b);
        got = sc_message_prompt(b, cap, 2, SC_PROMPT_SHOWN, "a\n\"\xff", 4, 5, SC_WIRE_CUT, "p\xc3");
        assert_int_equal(got, cap == n + 1 ? n : 0);
        free(b);
    }
    assert_int_equal(sc_message_viewers(whole, 0, 1), 0);
}

static void the_largest_messages_fit(void **state) {
    char *b = malloc(SC_SERVER_MESSAGE_MAX), text[SC_PROMPT_TEXT_MAX];
    sc_problem p = {0};

    (void)state;
    assert_non_null(b);
    memset(text, '"', sizeof text);
    assert_true(sc_message_prompt(b, SC_SERVER_MESSAGE_MAX, UINT32_MAX, SC_PROMPT_RECEIVED, text, sizeof text, INT64_MAX, SC_WIRE_RECACHE, "r") > 8192);
    for (int i = 0; i < 20; i++) sc_problem_add(&p, "/\"\"\"\"", "%.*s", 600, text);
    assert_true(sc_message_error(b, SC_SERVER_MESSAGE_MAX, &p, "r") > 0);
    assert_int_equal(p.more, 4);
    free(b);
}

static void texts_are_cut_between_characters(void **state) {
    sc_problem p = {0};
    char wide[700];

    (void)state;
    for (size_t i = 0; i + 2 < sizeof wide; i += 2) memcpy(wide + i, "\xc3\xa4", 3);
    sc_problem_set(&p, 404, "x%s", wide);
    assert_int_equal(sc_text_bad_utf8(p.detail, strlen(p.detail)), strlen(p.detail));
    sc_problem_set(&p, 404, "%s", wide);
    assert_int_equal(sc_text_bad_utf8(p.detail, strlen(p.detail)), strlen(p.detail));
    sc_problem_add(&p, wide, "%s", wide);
    assert_int_equal(sc_text_bad_utf8(p.errors[0].detail, strlen(p.errors[0].detail)), strlen(p.errors[0].detail));
    assert_int_equal(sc_text_bad_utf8(p.errors[0].pointer, strlen(p.errors[0].pointer)), strlen(p.errors[0].pointer));
}

static void problems_are_golden(void **state) {
    sc_problem p;
    size_t n;
    char *text;

    (void)state;
    sc_problem_set(&p, 404, "no session \"%s\"", "x");
    text = sc_problem_json(&p, "/v1/sessions/x", &n);
    assert_string_equal(text, "{\"type\":\"about:blank\",\"title\":\"Not Found\",\"status\":404,\"detail\":\"no session \\\"x\\\"\",\"instance\":\"/v1/sessions/x\"}");
    assert_int_equal(n, strlen(text));
    free(text);
    assert_string_equal(sc_problem_title(413), "Content Too Large");
    assert_string_equal(sc_problem_title(421), "Misdirected Request");
    assert_string_equal(sc_problem_title(299), "Error");
}

static void sessions_are_golden(void **state) {
    sc_session_view s = {.id = id, .state = "running", .model = "pocket", .prompt = "a cat", .prompt_bytes = 5, .prompt_seq = 1, .prompt_chunk = 4,
                         .transition = SC_WIRE_SWITCH, .seed = UINT64_MAX, .width = 256, .height = 160, .fps = 16, .chunk_frames = 12,
                         .created = 1700000000, .chunk = 5, .frame = 68, .viewers = 2, .jpeg_quality = 80, .lookahead_chunks = 2,
                         .idle_timeout_s = 300, .wait = {1, 2}, .denoise = {3, 4}, .decode = {5, 6}, .encode = {7, 8}, .memory_bytes = 99};
    size_t n;
    char *text = sc_session_json(&s, &n);

    (void)state;
    assert_string_equal(text,
        "{\"id\":\"abcdefghijklmnopqrstuvwxya\",\"state\":\"running\",\"model\":\"pocket\",\"prompt\":\"a cat\",\"prompt_seq\":1,\"prompt_chunk\":4,"
        "\"transition\":\"switch\",\"seed\":\"18446744073709551615\",\"width\":256,\"height\":160,\"fps\":16,\"chunk_frames\":12,\"created\":1700000000,"
        "\"chunk\":5,\"frame\":68,\"viewers\":2,\"stream\":\"/v1/sessions/abcdefghijklmnopqrstuvwxya/stream\",\"jpeg_quality\":80,"
        "\"lookahead_chunks\":2,\"idle_timeout_s\":300,\"run_without_viewers\":false,\"stage_ms\":{\"wait\":{\"p50\":1.000,\"p95\":2.000},"
        "\"denoise\":{\"p50\":3.000,\"p95\":4.000},\"decode\":{\"p50\":5.000,\"p95\":6.000},\"encode\":{\"p50\":7.000,\"p95\":8.000}},"
        "\"memory_bytes\":99}");
    assert_int_equal(n, strlen(text));
    free(text);
    s.forked_from = "zyxwvutsrqponmlkjihgfedcba";
    s.forked_chunk = 12;
    text = sc_session_json(&s, NULL);
    assert_non_null(strstr(text, ",\"memory_bytes\":99,\"forked_from\":{\"id\":\"zyxwvutsrqponmlkjihgfedcba\",\"chunk\":12}}"));
    free(text);
    s.forked_from = NULL;
    s.chunk = s.frame = -1;
    s.reason = "gpu";
    text = sc_sessions_json(&s, 1, NULL);
    assert_int_equal(strncmp(text, "{\"object\":\"list\",\"data\":[{\"id\":", 31), 0);
    assert_non_null(strstr(text, "\"reason\":\"gpu\""));
    assert_non_null(strstr(text, "\"chunk\":null,\"frame\":null"));
    free(text);
    text = sc_sessions_json(NULL, 0, NULL);
    assert_string_equal(text, "{\"object\":\"list\",\"data\":[]}");
    free(text);
}

static void small_answers_are_golden(void **state) {
    sc_capacity_view c = {.sessions = 1, .sessions_max = 4, .fit_memory = 3, .fit_time = 2, .pages_used = 10, .pages_free = 30};
    sc_model_view m = {.id = "pocket", .created = 5, .device = "cpu", .digest = "d", .width = 256, .height = 160, .fps = 16, .frames_first = 9,
                       .chunk_frames = 12, .session_bytes = 1, .weight_bytes = 2, .parameters = 3};
    char *text = sc_receipt_json(true, 3, 9, NULL);

    (void)state;
    assert_string_equal(text, "{\"seq\":3,\"applies_at_chunk\":9}");
    free(text);
    text = sc_receipt_json(false, 3, 9, NULL);
    assert_string_equal(text, "{\"seq\":null,\"applies_at_chunk\":null}");
    free(text);
    text = sc_capacity_json(&c, NULL);
    assert_string_equal(text, "{\"sessions\":1,\"sessions_max\":4,\"fit_memory\":3,\"fit_time\":2,\"pages_used\":10,\"pages_free\":30}");
    free(text);
    text = sc_models_json(&m, 1, NULL);
    assert_string_equal(text, "{\"object\":\"list\",\"data\":[{\"id\":\"pocket\",\"object\":\"model\",\"created\":5,\"owned_by\":\"sparsecast\","
                              "\"device\":\"cpu\",\"digest\":\"d\",\"width\":256,\"height\":160,\"fps\":16,\"first_chunk_frames\":9,\"chunk_frames\":12,"
                              "\"session_bytes\":1,\"weight_bytes\":2,\"parameters\":3}]}");
    free(text);
    const uint32_t held[] = {1, 0, 2, 3, 0, 4};
    const int64_t oldest[] = {5, -1, 0};
    text = sc_memory_json(&(sc_memory_view){.chunk = 9, .layers = 2, .heads = 5, .rows = 1, .columns = 3, .tile_width = 64, .tile_height = 80, .capacity = 8,
                                            .persistent = 1, .held = held, .oldest = oldest}, NULL);
    assert_string_equal(text, "{\"chunk\":9,\"layers\":2,\"heads\":5,\"capacity\":8,\"persistent\":1,\"rows\":1,\"columns\":3,\"tile_width\":64,"
                              "\"tile_height\":80,\"map\":[[4,0,6]],\"oldest_chunk\":[[5,null,0]],\"by_layer\":[[[1,0,2]],[[3,0,4]]]}");
    free(text);
    text = sc_memory_json(&(sc_memory_view){.chunk = 1, .layers = 2, .heads = 1}, NULL);
    assert_string_equal(text, "{\"chunk\":1,\"layers\":2,\"heads\":1,\"capacity\":0,\"persistent\":0,\"rows\":0,\"columns\":0,\"tile_width\":0,"
                              "\"tile_height\":0,\"map\":[],\"oldest_chunk\":[],\"by_layer\":[[],[]]}");
    free(text);
    text = sc_status_json("ok", NULL);
    assert_string_equal(text, "{\"status\":\"ok\"}");
    free(text);
}

static void ids_are_base32_of_128_bits(void **state) {
    static const uint8_t zero[16] = {0}, counting[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    uint8_t ones[16];
    char a[27], b[27] = "";
    sc_error err;

    (void)state;
    memset(ones, 255, sizeof ones);
    sc_id_format(a, zero);
    assert_string_equal(a, "aaaaaaaaaaaaaaaaaaaaaaaaaa");
    sc_id_format(a, ones);
    assert_string_equal(a, "77777777777777777777777774");
    sc_id_format(a, counting);
    assert_string_equal(a, "aaaqeayeaudaocajbifqydiob4"); /* coreutils: printf of the bytes | base32, lower case, without '=' */
    for (int i = 0; i < 100; i++) {
        assert_int_equal(sc_id_random(a, &err), SC_OK);
        assert_true(sc_id_valid(a, 26));
        assert_string_not_equal(a, b);
        strcpy(b, a);
    }
    assert_false(sc_id_valid(a, 25));
    assert_false(sc_id_valid("aaaaaaaaaaaaaaaaaaaaaaaaab", 26)); /* bits behind the 128th */
    assert_false(sc_id_valid("Aaaaaaaaaaaaaaaaaaaaaaaaaa", 26));
    assert_false(sc_id_valid("1aaaaaaaaaaaaaaaaaaaaaaaaa", 26));
    assert_false(sc_id_valid("aaaaaaaaaaaa\0aaaaaaaaaaaaa", 26));
    assert_false(sc_id_valid("", 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frame_header_has_its_golden_bytes),
        cmocka_unit_test(frame_header_reader_refuses_what_is_none),
        cmocka_unit_test(bad_messages_are_refused_with_the_place),
        cmocka_unit_test(good_messages_are_read),
        cmocka_unit_test(the_ref_of_a_wrong_prompt_is_kept),
        cmocka_unit_test(server_messages_are_golden),
        cmocka_unit_test(writers_keep_inside_their_buffer),
        cmocka_unit_test(the_largest_messages_fit),
        cmocka_unit_test(texts_are_cut_between_characters),
        cmocka_unit_test(problems_are_golden),
        cmocka_unit_test(sessions_are_golden),
        cmocka_unit_test(small_answers_are_golden),
        cmocka_unit_test(ids_are_base32_of_128_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

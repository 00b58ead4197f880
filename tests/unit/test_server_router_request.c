/* test_server_router_request.c - first requests of a connection: which go to HTTP, which are streams, which are refused and how. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/router_request.h"
#include <stdlib.h>
#include <string.h>

#define ID "aaaaaaaaaaaaaaaaaaaaaaaaaa"
#define PATH "/v1/sessions/" ID "/stream"
#define HOST "Host: localhost:8080\r\n"
#define UP "Upgrade: websocket\r\nConnection: Upgrade\r\n"
#define VER "Sec-WebSocket-Version: 13\r\n"
#define KEY "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#define SUB "Sec-WebSocket-Protocol: sparsecast.v1\r\n"
#define GET(path) "GET " path " HTTP/1.1\r\n"
#define STREAM GET(PATH)
#define END "\r\n"

enum { HTTP = 0, WS = 1 }; /* otherwise a status */

struct sample { const char *text; int expected; const char *words; };

static const struct sample cases[] = {
    /* HTTP goes on unread */
    {GET("/") HOST END, HTTP, NULL},
    {GET("/healthz") "host: LOCALHOST:8080\r\n" END, HTTP, NULL},
    {GET("/healthz") "Host:\t127.0.0.1:8080 \r\n" END, HTTP, NULL},
    {GET("/healthz") "Host: [::1]:8080\r\n" END, HTTP, NULL},
    {GET("/healthz") "Host: cast.example\r\n" END, HTTP, NULL},
    {"GET /healthz HTTP/1.0\r\n" HOST END, HTTP, NULL},
    {"POST /v1/sessions HTTP/1.1\r\n" HOST "Content-Length: 2\r\nExpect: 100-continue\r\n" END, HTTP, NULL},
    {"PATCH /v1/sessions/x?wait=applied HTTP/1.1\r\n" HOST END, HTTP, NULL},
    {"FOO " PATH " HTTP/1.1\r\n" HOST UP VER KEY SUB END, HTTP, NULL},      /* its 405 is the HTTP side's */
    {GET("/v1/sessions//stream/x") HOST END, HTTP, NULL},
    {GET("/v1/sessions/a/b/stream") HOST UP VER KEY SUB END, HTTP, NULL},
    {GET("/") HOST "Origin: http://localhost:8080\r\n" END, HTTP, NULL},
    {GET("/") HOST "Origin: https://listed.example\r\n" END, HTTP, NULL},
    {GET("/") HOST "X-Empty:\r\nX-Utf8: \xc3\xa4\r\n" END, HTTP, NULL},
    /* form */
    {"\r\n" GET("/") HOST END, 400, "no method"},
    {"GET / HTTP/1.1\n" HOST END, 400, "CR LF"},
    {GET("/") "Host: localhost:8080\n" END, 400, "CR LF"},
    {"GET\r\n" HOST END, 400, "no method"},
    {"GET /\r\n" HOST END, 400, "path"},
    {"GET  / HTTP/1.1\r\n" HOST END, 400, "path"},
    {"GET / HTTP/1.1 x\r\n" HOST END, 400, "HTTP/1.1"},
    {"G@T / HTTP/1.1\r\n" HOST END, 400, "no method"},
    {"GET http://evil.example/ HTTP/1.1\r\n" HOST END, 400, "begins with a slash"},
    {"GET * HTTP/1.1\r\n" HOST END, 400, "begins with a slash"},
    {"GET /\x01 HTTP/1.1\r\n" HOST END, 400, "byte"},
    {"GET /\xc3\xa4 HTTP/1.1\r\n" HOST END, 400, "byte"},
    {"GET / HTTP/2.0\r\n" HOST END, 505, "HTTP/1.1"},
    {"GET / HTTP/1.2\r\n" HOST END, 505, "HTTP/1.1"},
    {"GET / HTTP/x.1\r\n" HOST END, 400, "HTTP/1.1"},
    {"GET / http/1.1\r\n" HOST END, 400, "HTTP/1.1"},
    {GET("/") HOST "No colon\r\n" END, 400, "no name"},
    {GET("/") HOST ": value\r\n" END, 400, "no name"},
    {GET("/") HOST "X Y: 1\r\n" END, 400, "name"},
    {GET("/") "Host : localhost:8080\r\n" END, 400, "name"},
    {GET("/") HOST "X: a\r\n b\r\n" END, 400, "name"},                      /* folded */
    {GET("/") HOST "X: a\x0b\r\n" END, 400, "control byte"},
    {GET("/") HOST "X: a\x7f\r\n" END, 400, "control byte"},
    {GET("/") END, 400, "exactly one Host"},
    {GET("/") HOST HOST END, 400, "exactly one Host"},
    {GET("/") HOST "Content-Length: 1\r\nContent-Length: 2\r\n" END, 400, "Content-Length"},
    {GET("/") HOST "Content-Length: -1\r\n" END, 400, "number"},
    {GET("/") HOST "Content-Length: 1, 2\r\n" END, 400, "number"},
    {GET("/") HOST "Content-Length:\r\n" END, 400, "number"},
    {GET("/") HOST "Content-Length: 99999999999999999999\r\n" END, 413, "too long"},
    {GET("/") HOST "Content-Length: 65537\r\n" END, 413, "65536"},
    {GET("/") HOST "Transfer-Encoding: chunked\r\n" END, 411, "Transfer-Encoding"},
    {GET("/") HOST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" END, 411, "Transfer-Encoding"},
    {GET("/") HOST "Content-Type: a\r\nContent-Type: b\r\n" END, 400, "once"},
    {GET("/") HOST "Expect: 200-maybe\r\n" END, 417, "100-continue"},
    /* Host and Origin */
    {GET("/") "Host: evil.example\r\n" END, 421, "host"},
    {GET("/") "Host: localhost\r\n" END, 421, "host"},
    {GET("/") "Host: localhost:80\r\n" END, 421, "host"},
    {GET("/") "Host: localhost:8080@evil\r\n" END, 421, "host"},
    {GET("/") "Host:\r\n" END, 421, "host"},
    {GET("/") "Host: localhost.evil.example:8080\r\n" END, 421, "host"},
    {GET("/") HOST "Origin: http://evil.example\r\n" END, 403, "origin"},
    {GET("/") HOST "Origin: null\r\n" END, 403, "origin"},
    {GET("/") HOST "Origin: http://localhost:8081\r\n" END, 403, "origin"},
    {GET("/") HOST "Origin: http://localhost:8080\r\nOrigin: http://localhost:8080\r\n" END, 400, "Origin"},
    {STREAM HOST "Origin: http://evil.example\r\n" UP VER KEY SUB END, 403, "origin"},
    /* streams */
    {STREAM HOST UP VER KEY SUB END, WS, NULL},
    {GET(PATH "?x=1") HOST UP VER KEY SUB END, WS, NULL},
    {STREAM HOST "Connection: keep-alive, upgrade\r\nUpgrade: h2c, WebSocket\r\n" VER KEY SUB END, WS, NULL},
    {STREAM HOST UP VER KEY "Sec-WebSocket-Protocol: chat,  sparsecast.v1 ,x\r\n" END, WS, NULL},
    {STREAM HOST UP VER KEY SUB "Origin: http://localhost:8080\r\nSec-WebSocket-Extensions: permessage-deflate\r\n" END, WS, NULL},
    {STREAM HOST "X-Auth: 1\r\nA: 2\r\nOri: 3\r\nUser: 4\r\n" UP VER KEY SUB END, WS, NULL},
    {STREAM HOST UP VER KEY SUB "Content-Length: 0\r\n" END, WS, NULL},
    {"GET " PATH " HTTP/1.0\r\n" HOST UP VER KEY SUB END, 400, "HTTP/1.1"},
    {STREAM HOST UP VER KEY SUB "Content-Length: 1\r\n" END, 400, "no body"},
    {STREAM HOST END, 426, "Upgrade"},
    {STREAM HOST "Upgrade: websocket\r\n" VER KEY SUB END, 426, "Upgrade"},
    {STREAM HOST "Upgrade: websockets\r\nConnection: Upgrade\r\n" VER KEY SUB END, 426, "Upgrade"},
    {STREAM HOST UP KEY SUB END, 426, "13"},
    {STREAM HOST UP "Sec-WebSocket-Version: 8\r\n" KEY SUB END, 426, "13"},
    {STREAM HOST UP VER VER KEY SUB END, 426, "13"},
    {STREAM HOST UP VER SUB END, 400, "Sec-WebSocket-Key"},
    {STREAM HOST UP VER KEY KEY SUB END, 400, "Sec-WebSocket-Key"},
    {STREAM HOST UP VER "Sec-WebSocket-Key: short==\r\n" SUB END, 400, "Sec-WebSocket-Key"},
    {STREAM HOST UP VER "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==\r\n" SUB END, 400, "Sec-WebSocket-Key"}, /* bits behind the 16 bytes */
    {STREAM HOST UP VER "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j$Q==\r\n" SUB END, 400, "Sec-WebSocket-Key"},
    {STREAM HOST UP VER KEY END, 400, "sparsecast.v1"},
    {STREAM HOST UP VER KEY SUB SUB END, 400, "sparsecast.v1"},
    {STREAM HOST UP VER KEY "Sec-WebSocket-Protocol: sparsecast.v2\r\n" END, 400, "sparsecast.v1"},
    {STREAM HOST UP VER KEY "Sec-WebSocket-Protocol: sparsecast.v10\r\n" END, 400, "sparsecast.v1"},
    {STREAM HOST UP VER KEY "Sec-WebSocket-Protocol: none\r\n" END, 400, "sparsecast.v1"},
    {GET("/v1/sessions/short/stream") HOST UP VER KEY SUB END, 404, "no such session"},
    {GET("/v1/sessions/AAAAAAAAAAAAAAAAAAAAAAAAAA/stream") HOST UP VER KEY SUB END, 404, "no such session"},
    {GET("/v1/sessions/aaaaaaaaaaaaaaaaaaaaaaaa%41/stream") HOST UP VER KEY SUB END, 404, "no such session"},
    {GET("/v1/sessions/aaaaaaaaaaaaaaaaaaaaaaaaab/stream") HOST UP VER KEY SUB END, 404, "no such session"}, /* more than 128 bits */
    {STREAM HOST UP VER KEY "Sec-WebSocket-Protocol: sparsecast.v1, ticket.never-made\r\n" END, 401, "ticket"},
    {STREAM HOST UP VER KEY "Sec-WebSocket-Protocol: sparsecast.v1, ticket.\r\n" END, 401, "ticket"},
};

struct fixture { sc_server_config config; sc_access *access; };

static void open_access(struct fixture *f, const char *key) {
    sc_error err;
    assert_int_equal(sc_server_config_init(&f->config, &err), SC_OK);
    assert_int_equal(sc_server_config_set(&f->config, "allow-origin", "https://listed.example", &err), SC_OK);
    assert_int_equal(sc_server_config_set(&f->config, "allow-host", "cast.example", &err), SC_OK);
    if (key) assert_int_equal(sc_server_config_set(&f->config, "key", key, &err), SC_OK);
    assert_int_equal(sc_server_config_check(&f->config, &err), SC_OK);
    f->access = sc_access_create(&f->config);
    assert_non_null(f->access);
}

static void close_access(struct fixture *f) {
    sc_access_destroy(f->access);
    sc_server_config_free(&f->config);
}

/* The text in memory of its exact size, so that a read past its end is seen. */
static void route(struct fixture *f, const char *text, bool over_unix, sc_route *r) {
    size_t n = strlen(text);
    char *copy = malloc(n);
    memcpy(copy, text, n);
    sc_route_request(copy, n, f->access, over_unix, 1, r);
    free(copy);
}

static void requests_are_routed_or_refused_with_their_status(void **state) {
    struct fixture f;
    (void)state;
    open_access(&f, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct sample *c = &cases[i];
        sc_route r;
        route(&f, c->text, false, &r);
        int got = r.kind == SC_ROUTE_HTTP ? HTTP : r.kind == SC_ROUTE_STREAM ? WS : r.status;
        if (got != c->expected) fail_msg("case %zu:\n%s\ngives %d (%s), not %d", i, c->text, got, r.detail, c->expected);
        if (c->words && !strstr(r.detail, c->words)) fail_msg("case %zu:\n%s\nsays \"%s\", not a word of \"%s\"", i, c->text, r.detail, c->words);
        if (got == WS) assert_string_equal(r.id, ID);
        if (got == 426) assert_non_null(strstr(r.header, "Sec-WebSocket-Version: 13\r\n"));
    }
    close_access(&f);
}

static void every_cut_of_a_request_is_judged_without_reading_past_it(void **state) {
    static const char text[] = STREAM HOST UP VER KEY SUB "Origin: http://localhost:8080\r\n" END;
    struct fixture f;
    (void)state;
    open_access(&f, NULL);
    for (size_t n = 1; n < sizeof text - 1; n++) {
        bool bad;
        char *copy = malloc(n);
        sc_route r;
        memcpy(copy, text, n);
        assert_int_equal(sc_route_header_end(copy, n, &bad), 0);
        assert_false(bad);
        sc_route_request(copy, n, f.access, false, 1, &r);
        assert_int_equal(r.kind, SC_ROUTE_REFUSE);
        free(copy);
    }
    bool bad;
    assert_int_equal(sc_route_header_end(text, sizeof text - 1, &bad), sizeof text - 1);
    close_access(&f);
}

static void the_end_of_a_header_is_found_and_bare_line_feeds_are_not_taken(void **state) {
    static const struct { const char *text; size_t end; bool bad; } ends[] = {
        {"", 0, false}, {"GET", 0, false}, {"\r\n", 0, false}, {"a\r\n\r", 0, false}, {"a\r\n\r\n", 5, false}, {"a\r\n\r\nbody\n\n", 5, false},
        {"a\r\nb\r\n\r\n", 8, false}, {"\r\n\r\n", 4, false}, {"\n", 0, true}, {"a\n", 0, true}, {"a\r\nb\nc", 0, true}, {"a\r\n\n", 0, true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        bool bad;
        assert_int_equal(sc_route_header_end(ends[i].text, strlen(ends[i].text), &bad), ends[i].end);
        assert_int_equal(bad, ends[i].bad);
    }
}

static void too_many_headers_and_too_long_paths_are_refused(void **state) {
    struct fixture f;
    sc_route r;
    char *text = malloc(20000);
    (void)state;
    open_access(&f, NULL);
    strcpy(text, GET("/") HOST);
    for (int i = 0; i < 100; i++) strcat(text, "X: y\r\n");
    strcat(text, END);
    route(&f, text, false, &r);
    assert_int_equal(r.status, 400);
    assert_non_null(strstr(r.detail, "too many headers"));
    strcpy(text, "GET /");
    memset(text + 5, 'a', SC_TARGET_BYTES_MAX);
    strcpy(text + 5 + SC_TARGET_BYTES_MAX, " HTTP/1.1\r\n" HOST END);
    route(&f, text, false, &r);
    assert_int_equal(r.status, 414);
    free(text);
    close_access(&f);
}

static void a_unix_socket_takes_a_host_with_any_port_or_none(void **state) {
    struct fixture f;
    sc_route r;
    (void)state;
    open_access(&f, NULL);
    route(&f, GET("/") "Host: localhost\r\n" END, true, &r);
    assert_int_equal(r.kind, SC_ROUTE_HTTP);
    route(&f, GET("/") "Host: evil.example\r\n" END, true, &r);
    assert_int_equal(r.status, 421);
    close_access(&f);
}

static void with_keys_a_stream_needs_its_ticket_once(void **state) {
    struct fixture f;
    sc_route r;
    sc_error err;
    char ticket[SC_ID_CHARS + 1], text[1024];
    (void)state;
    open_access(&f, "0123456789abcdef");
    route(&f, STREAM HOST UP VER KEY SUB END, false, &r);
    assert_int_equal(r.status, 401);
    assert_non_null(strstr(r.header, "WWW-Authenticate"));
    for (int control = 0; control < 2; control++) {
        assert_int_equal(sc_access_ticket(f.access, ID, control, 0, ticket, &err), SC_OK);
        snprintf(text, sizeof text, STREAM HOST UP VER KEY "Sec-WebSocket-Protocol: sparsecast.v1, ticket.%s\r\n" END, ticket);
        route(&f, text, false, &r);
        assert_int_equal(r.kind, SC_ROUTE_STREAM);
        assert_int_equal(r.control, control);
        route(&f, text, false, &r);
        assert_int_equal(r.status, 401);
    }
    close_access(&f);
}

static void a_refusal_is_a_whole_answer_of_http(void **state) {
    struct fixture f;
    sc_route r;
    size_t n = 0;
    (void)state;
    open_access(&f, NULL);
    route(&f, GET("/v1/x?secret=1") "Host: evil.example\r\nX-Request-Id: abc-1\r\n" END, false, &r);
    char *text = sc_route_answer(&r, &n);
    assert_non_null(text);
    assert_int_equal(strlen(text), n);
    assert_int_equal(strncmp(text, "HTTP/1.1 421 Misdirected Request\r\n", 34), 0);
    assert_non_null(strstr(text, "\r\nX-Request-Id: abc-1\r\n"));
    assert_non_null(strstr(text, "\r\nContent-Type: application/problem+json\r\n"));
    assert_non_null(strstr(text, "\"instance\":\"/v1/x\""));
    const char *length = strstr(text, "Content-Length: "), *body = strstr(text, "\r\n\r\n");
    assert_int_equal(atoi(length + 16), strlen(body + 4));
    free(text);
    route(&f, "HEAD / HTTP/1.1\r\nHost: evil.example\r\nX-Request-Id: no good\r\n" END, false, &r);
    text = sc_route_answer(&r, &n);
    assert_string_equal(strstr(text, "\r\n\r\n"), "\r\n\r\n");
    assert_null(strstr(text, "no good"));
    free(text);
    close_access(&f);
}

static void the_canonical_request_holds_nothing_of_the_clients(void **state) {
    struct fixture f;
    sc_route r;
    char text[512];
    (void)state;
    open_access(&f, NULL);
    route(&f, STREAM HOST "X-Evil: 1\r\n" UP VER KEY SUB END, false, &r);
    size_t n = sc_route_canonical(&r, text, sizeof text);
    assert_int_equal(n, strlen(text));
    assert_string_equal(text, "GET /" ID "/control HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              KEY VER SUB END);
    assert_int_equal(sc_route_canonical(&r, text, 20), 0);
    close_access(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_routed_or_refused_with_their_status),
        cmocka_unit_test(every_cut_of_a_request_is_judged_without_reading_past_it),
        cmocka_unit_test(the_end_of_a_header_is_found_and_bare_line_feeds_are_not_taken),
        cmocka_unit_test(too_many_headers_and_too_long_paths_are_refused),
        cmocka_unit_test(a_unix_socket_takes_a_host_with_any_port_or_none),
        cmocka_unit_test(with_keys_a_stream_needs_its_ticket_once),
        cmocka_unit_test(a_refusal_is_a_whole_answer_of_http),
        cmocka_unit_test(the_canonical_request_holds_nothing_of_the_clients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

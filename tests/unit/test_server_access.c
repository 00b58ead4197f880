/* test_server_access.c - Host, Origin, keys and tickets: who may talk to the daemon. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/access.h"
#include <string.h>

#define ID "aaaaaaaaaaaaaaaaaaaaaaaaaa"
#define OTHER "baaaaaaaaaaaaaaaaaaaaaaaaa"
#define SECOND UINT64_C(1000000000)

struct fixture { sc_server_config config; sc_access *access; };

/* name, value pairs up to NULL. */
static void open_access(struct fixture *f, const char *const *options) {
    sc_error err;
    assert_int_equal(sc_server_config_init(&f->config, &err), SC_OK);
    for (; options && *options; options += 2)
        if (sc_server_config_set(&f->config, options[0], options[1], &err)) fail_msg("%s", err.text);
    if (sc_server_config_check(&f->config, &err)) fail_msg("%s", err.text);
    assert_non_null(f->access = sc_access_create(&f->config));
}

static void close_access(struct fixture *f) {
    sc_access_destroy(f->access);
    sc_server_config_free(&f->config);
}

struct host { const char *host; bool good, good_over_unix; };

static void hosts(const char *const *options, const struct host *list, size_t n) {
    struct fixture f;
    open_access(&f, options);
    for (size_t i = 0; i < n; i++) {
        if (sc_access_host(f.access, list[i].host, false) != list[i].good) fail_msg("\"%s\" should be %d", list[i].host, list[i].good);
        if (sc_access_host(f.access, list[i].host, true) != list[i].good_over_unix) fail_msg("\"%s\" over UNIX", list[i].host);
    }
    close_access(&f);
}

static void loopback_names_with_our_port_are_ours(void **state) {
    static const struct host list[] = {
        {"localhost:8080", true, true}, {"LocalHost:8080", true, true}, {"127.0.0.1:8080", true, true}, {"[::1]:8080", true, true},
        {"localhost", false, true}, {"localhost:80", false, true}, {"localhost:8081", false, true}, {"[::1]", false, true},
        {"localhost:", false, false}, {"localhost:8080x", false, false}, {"localhost:080808080", false, false}, {"localhost:-1", false, false},
        {"", false, false}, {":8080", false, false}, {"[::1", false, false}, {"[::1]8080", false, false}, {"::1:8080", false, false},
        {"127.0.0.2:8080", false, false}, {"0.0.0.0:8080", false, false}, {"evil.example:8080", false, false},
        {"localhost.:8080", false, false}, {"localhost.evil.example:8080", false, false}, {"xlocalhost:8080", false, false},
        {"a@localhost:8080", false, false}, {" localhost:8080", false, false}, {"localhost:8080:8080", false, false},
    };
    (void)state;
    hosts(NULL, list, sizeof list / sizeof *list);
}

static void listed_hosts_and_the_address_listened_on_are_ours(void **state) {
    static const char *const options[] = {"listen", "127.0.0.5:9000", "allow-host", "cast.example", "allow-host", "exact.example:443", NULL};
    static const struct host list[] = {
        {"127.0.0.5:9000", true, true}, {"cast.example", true, true}, {"CAST.example:1234", true, true}, {"exact.example:443", true, true},
        {"exact.example", false, false}, {"exact.example:444", false, false}, {"sub.cast.example", false, false}, {"cast.example.evil", false, false},
    };
    static const char *const wildcard[] = {"listen", "0.0.0.0:9000", "key", "0123456789abcdef", NULL};
    static const struct host behind_wildcard[] = {{"0.0.0.0:9000", false, false}, {"localhost:9000", true, true}, {"192.168.0.1:9000", false, false}};
    static const char *const v6[] = {"listen", "[::1]:9000", NULL};
    static const struct host of_v6[] = {{"[::1]:9000", true, true}, {"[::1]:9001", false, true}, {"[::2]:9000", false, false}};
    (void)state;
    hosts(options, list, sizeof list / sizeof *list);
    hosts(wildcard, behind_wildcard, 3);
    hosts(v6, of_v6, 3);
}

static void the_port_may_be_known_late(void **state) {
    static const char *const options[] = {"listen", "127.0.0.1:0", NULL};
    struct fixture f;
    (void)state;
    open_access(&f, options);
    sc_access_port(f.access, 4711);
    assert_true(sc_access_host(f.access, "localhost:4711", false));
    assert_false(sc_access_host(f.access, "localhost:8080", false));
    close_access(&f);
}

static void origins_are_ours_listed_or_foreign(void **state) {
    static const char *const options[] = {"allow-origin", "https://listed.example", NULL};
    static const struct { const char *origin, *host; sc_origin expected; } list[] = {
        {NULL, "localhost:8080", SC_ORIGIN_OURS}, {"http://localhost:8080", "localhost:8080", SC_ORIGIN_OURS},
        {"https://localhost:8080", "localhost:8080", SC_ORIGIN_OURS}, {"http://LOCALHOST:8080", "localhost:8080", SC_ORIGIN_OURS},
        {"https://listed.example", "localhost:8080", SC_ORIGIN_LISTED}, {"http://listed.example", "localhost:8080", SC_ORIGIN_FOREIGN},
        {"https://listed.example:444", "localhost:8080", SC_ORIGIN_FOREIGN}, {"https://listed.example.evil", "localhost:8080", SC_ORIGIN_FOREIGN},
        {"http://localhost:8081", "localhost:8080", SC_ORIGIN_FOREIGN}, {"http://localhost", "localhost:8080", SC_ORIGIN_FOREIGN},
        {"http://127.0.0.1:8080", "localhost:8080", SC_ORIGIN_FOREIGN}, {"null", "localhost:8080", SC_ORIGIN_FOREIGN},
        {"", "localhost:8080", SC_ORIGIN_FOREIGN}, {"file://", "localhost:8080", SC_ORIGIN_FOREIGN},
        {"ftp://localhost:8080", "localhost:8080", SC_ORIGIN_FOREIGN}, {"http://localhost:8080/", "localhost:8080", SC_ORIGIN_FOREIGN},
        {"http://localhost:8080", NULL, SC_ORIGIN_FOREIGN},
    };
    struct fixture f;
    (void)state;
    open_access(&f, options);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (sc_access_origin(f.access, list[i].origin, list[i].host) != list[i].expected) fail_msg("case %zu: %s", i, list[i].origin);
    close_access(&f);
}

static void keys_must_be_equal_to_the_last_byte(void **state) {
    static const char *const options[] = {"key", "0123456789abcdef", "key", "another-key-of-ours", NULL};
    static const struct { const char *authorization; bool good; } list[] = {
        {"Bearer 0123456789abcdef", true}, {"bearer another-key-of-ours", true}, {NULL, false}, {"", false}, {"Bearer", false}, {"Bearer ", false},
        {"0123456789abcdef", false}, {"Bearer 0123456789abcde", false}, {"Bearer 0123456789abcdefg", false}, {"Bearer 0123456789ABCDEF", false},
        {"Bearer  0123456789abcdef", false}, {"Basic 0123456789abcdef", false}, {"Bearer 0123456789abcdef ", false},
    };
    struct fixture f;
    char longest[1024];
    (void)state;
    open_access(&f, options);
    assert_true(sc_access_needs_key(f.access));
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (sc_access_key(f.access, list[i].authorization) != list[i].good) fail_msg("\"%s\"", list[i].authorization);
    memset(longest, 'x', sizeof longest - 1);
    memcpy(longest, "Bearer ", 7);
    longest[sizeof longest - 1] = 0;
    assert_false(sc_access_key(f.access, longest));
    close_access(&f);
    open_access(&f, NULL);
    assert_false(sc_access_needs_key(f.access));
    assert_true(sc_access_key(f.access, NULL));
    close_access(&f);
}

static void a_ticket_is_good_once_for_its_session_and_for_thirty_seconds(void **state) {
    struct fixture f;
    char ticket[SC_ID_CHARS + 1];
    sc_error err;
    bool control = true;
    (void)state;
    open_access(&f, NULL);
    assert_int_equal(sc_access_ticket(f.access, ID, false, 0, ticket, &err), SC_OK);
    assert_true(sc_access_ticket_take(f.access, ticket, ID, 29 * SECOND, &control));
    assert_false(control);
    assert_false(sc_access_ticket_take(f.access, ticket, ID, 29 * SECOND, &control));
    assert_int_equal(sc_access_ticket(f.access, ID, true, 0, ticket, &err), SC_OK);
    assert_false(sc_access_ticket_take(f.access, ticket, ID, 30 * SECOND, &control));
    assert_int_equal(sc_access_ticket(f.access, ID, true, 0, ticket, &err), SC_OK);
    assert_false(sc_access_ticket_take(f.access, ticket, OTHER, 1, &control)); /* and it is spent by the try */
    assert_false(sc_access_ticket_take(f.access, ticket, ID, 1, &control));
    assert_int_equal(sc_access_ticket(f.access, ID, true, 0, ticket, &err), SC_OK);
    ticket[0] = ticket[0] == 'a' ? 'b' : 'a';
    assert_false(sc_access_ticket_take(f.access, ticket, ID, 1, &control));
    assert_false(sc_access_ticket_take(f.access, "", ID, 1, &control));
    close_access(&f);
}

static void tickets_are_bounded_and_old_ones_make_room(void **state) {
    struct fixture f;
    char ticket[SC_ID_CHARS + 1];
    sc_error err;
    int made = 0;
    (void)state;
    open_access(&f, NULL);
    while (made < 10000 && !sc_access_ticket(f.access, ID, true, 0, ticket, &err)) made++;
    assert_int_equal(made, 256);
    assert_int_equal(err.status, SC_EBUSY);
    assert_int_equal(sc_access_ticket(f.access, ID, true, 30 * SECOND, ticket, &err), SC_OK);
    close_access(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loopback_names_with_our_port_are_ours),
        cmocka_unit_test(listed_hosts_and_the_address_listened_on_are_ours),
        cmocka_unit_test(the_port_may_be_known_late),
        cmocka_unit_test(origins_are_ours_listed_or_foreign),
        cmocka_unit_test(keys_must_be_equal_to_the_last_byte),
        cmocka_unit_test(a_ticket_is_good_once_for_its_session_and_for_thirty_seconds),
        cmocka_unit_test(tickets_are_bounded_and_old_ones_make_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

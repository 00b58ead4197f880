/* test_server_config.c - options of the daemon: what is refused says which option, what was found and what is allowed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/config.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ARGS = 6 };

/* The command line of argv, then the check; frees the config. */
static sc_status parse(const char *const *args, sc_server_config *c, sc_error *err) {
    char *argv[ARGS + 2] = {(char *)"sparsecastd"};
    int argc = 1;
    while (argc <= ARGS && args[argc - 1]) { argv[argc] = (char *)args[argc - 1]; argc++; }
    assert_int_equal(sc_server_config_init(c, err), SC_OK);
    sc_status rc = sc_server_config_args(c, argc, argv, err);
    return rc ? rc : sc_server_config_check(c, err);
}

struct bad { const char *args[ARGS]; const char *words; };

static const struct bad bads[] = {
    {{"--nonsense", "1"}, "--nonsense: there is no such option"},
    {{"nonsense"}, "\"nonsense\" is not an option"},
    {{"-x"}, "\"-x\" is not an option"},
    {{"--"}, "is not an option"},
    {{""}, "is not an option"},
    {{"--listen"}, "--listen needs a value"},
    {{"--help=yes"}, "--help takes no value"},
    {{"--listen", "127.0.0.1"}, "listen: must be address:port"},
    {{"--listen", "127.0.0.1:"}, "listen: must be address:port"},
    {{"--listen", "127.0.0.1:x"}, "listen: must be address:port"},
    {{"--listen", "127.0.0.1:70000"}, "listen: must be address:port"},
    {{"--listen", "127.0.0.1:-1"}, "listen: must be address:port"},
    {{"--listen", "127.0.0.1: 80"}, "listen: must be address:port"},
    {{"--listen", "127.0.0.1:+80"}, "listen: must be address:port"},
    {{"--listen", "127.0.0.1:80x"}, "listen: must be address:port"},
    {{"--listen", "example.org:80"}, "\"example.org\" is not a numeric address"},
    {{"--listen", "127.0.0.256:80"}, "\"127.0.0.256\" is not a numeric address"},
    {{"--listen", "[::1:80"}, "is not a numeric address"},
    {{"--listen", "0.0.0.0:8080"}, "can be reached by others; configure a key"},
    {{"--listen", ":8080"}, "can be reached by others"},
    {{"--listen", "192.168.0.1:8080"}, "can be reached by others"},
    {{"--listen", "[::]:8080"}, "can be reached by others"},
    {{"--listen", "[fe80::1]:8080"}, "can be reached by others"},
    {{"--threads", "-1"}, "threads: must be 0 to 1024, found \"-1\""},
    {{"--threads", "two"}, "threads: must be 0 to 1024, found \"two\""},
    {{"--threads", ""}, "threads: must be 0 to 1024"},
    {{"--threads", " 2"}, "threads: must be 0 to 1024"},
    {{"--threads", "+2"}, "threads: must be 0 to 1024"},
    {{"--threads=2x"}, "threads: must be 0 to 1024, found \"2x\""},
    {{"--max-sessions", "0"}, "max-sessions: must be 1 to 64, found \"0\""},
    {{"--max-sessions", "65"}, "max-sessions: must be 1 to 64"},
    {{"--max-sessions", "99999999999999999999"}, "max-sessions: must be 1 to 64"},
    {{"--max-viewers", "0"}, "max-viewers: must be 1 to 4000"},
    {{"--jpeg-quality", "0"}, "jpeg-quality: must be 1 to 100"},
    {{"--jpeg-quality", "101"}, "jpeg-quality: must be 1 to 100"},
    {{"--idle-timeout-s", "86401"}, "idle-timeout-s: must be 1 to 86400"},
    {{"--device", "gpu"}, "device: must be one of: cpu twin cuda; found \"gpu\""},
    {{"--device", "cpu twin"}, "device: must be one of"},
    {{"--device", "c"}, "device: must be one of"},
    {{"--log-level", "loud"}, "log-level: must be one of: error warn info debug; found \"loud\""},
    {{"--key", "short"}, "key: must have 16 characters at least"},
    {{"--key", "@/nonexistent/key"}, "key: /nonexistent/key: No such file"},
    {{"--key", ""}, "key: must not be empty"},
    {{"--allow-origin", ""}, "allow-origin: must not be empty"},
    {{"--config", "/nonexistent/conf"}, "config: /nonexistent/conf: No such file"},
};

static void wrong_options_are_named(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
        sc_server_config c;
        sc_error err = {0};
        sc_status rc = parse(bads[i].args, &c, &err);
        if (!rc) fail_msg("case %zu: %s %s is taken", i, bads[i].args[0], bads[i].args[1] ? bads[i].args[1] : "");
        if (!strstr(err.text, bads[i].words)) fail_msg("case %zu: \"%s\" is not in \"%s\"", i, bads[i].words, err.text);
        sc_server_config_free(&c);
    }
}

static void defaults_serve_the_pocket_model_on_loopback(void **state) {
    const char *args[ARGS] = {0};
    sc_server_config c;
    sc_error err = {0};
    (void)state;
    assert_int_equal(parse(args, &c, &err), SC_OK);
    assert_string_equal(c.host, "127.0.0.1");
    assert_int_equal(c.port, 8080);
    assert_string_equal(c.model, "models/pocket");
    assert_string_equal(c.device, "cpu");
    assert_int_equal(c.key.count, 0);
    sc_server_config_free(&c);
}

static void addresses_are_read(void **state) {
    static const struct { const char *listen, *host; int port; bool v6; } good[] = {
        {"127.0.0.1:0", "127.0.0.1", 0, false}, {"localhost:80", "127.0.0.1", 80, false}, {"127.9.9.9:1", "127.9.9.9", 1, false},
        {"[::1]:8080", "::1", 8080, true}, {"none", "", 0, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        const char *args[ARGS] = {"--listen", good[i].listen};
        sc_server_config c;
        sc_error err = {0};
        if (parse(args, &c, &err)) fail_msg("%s: %s", good[i].listen, err.text);
        assert_string_equal(c.host, good[i].host);
        if (good[i].host[0]) assert_int_equal(c.port, good[i].port);
        assert_int_equal(c.ipv6, good[i].v6);
        sc_server_config_free(&c);
    }
}

static void with_a_key_any_address_may_be_served(void **state) {
    static const char *const where[] = {"0.0.0.0:1", "[::]:1", ":1", "192.168.0.1:1"};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        const char *args[ARGS] = {"--key=0123456789abcdef", "--listen", where[i]};
        sc_server_config c;
        sc_error err = {0};
        if (parse(args, &c, &err)) fail_msg("%s: %s", where[i], err.text);
        sc_server_config_free(&c);
    }
}

static void write_file(char path[32], const char *text) {
    strcpy(path, "/tmp/sc-config-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static void a_file_is_read_first_and_the_command_line_wins(void **state) {
    char path[32];
    sc_server_config c;
    sc_error err = {0};
    (void)state;
    write_file(path, "# ours\n\n  threads = 3 \njpeg-quality=70\nallow-host = a.example\nkey = 0123456789abcdef\n");
    const char *args[ARGS] = {"--jpeg-quality", "90", "--allow-host=b.example", "--config", path};
    if (parse(args, &c, &err)) fail_msg("%s", err.text);
    assert_int_equal(c.threads, 3);
    assert_int_equal(c.jpeg_quality, 90);
    assert_int_equal(c.allow_host.count, 2);
    assert_int_equal(c.key.count, 1);
    sc_server_config_free(&c);
    unlink(path);
}

static void bad_files_name_their_line(void **state) {
    static const struct { const char *text, *words; } files[] = {
        {"threads 3\n", ":1: "}, {"\n\nnonsense = 1\n", ":3: nonsense: there is no such option"}, {"threads = x\n", ":1: threads: must be 0 to 1024"},
        {"help = 1\n", ":1: help is for the command line"}, {"config = x\n", ":1: config is for the command line"}, {"= 3\n", ":1: "},
        {"key = short\n", ":1: key: must have 16"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[32];
        sc_server_config c;
        sc_error err = {0};
        write_file(path, files[i].text);
        const char *args[ARGS] = {"--config", path};
        assert_int_not_equal(parse(args, &c, &err), SC_OK);
        if (!strstr(err.text, files[i].words)) fail_msg("\"%s\" is not in \"%s\"", files[i].words, err.text);
        sc_server_config_free(&c);
        unlink(path);
    }
}

static void a_line_that_is_too_long_is_refused(void **state) {
    char path[32], *text = malloc(6000);
    sc_server_config c;
    sc_error err = {0};
    (void)state;
    memset(text, 'a', 5999);
    text[5999] = 0;
    write_file(path, text);
    const char *args[ARGS] = {"--config", path};
    assert_int_not_equal(parse(args, &c, &err), SC_OK);
    assert_non_null(strstr(err.text, ":1: line is too long"));
    sc_server_config_free(&c);
    unlink(path);
    free(text);
}

static void a_key_may_come_from_a_file(void **state) {
    char path[32], option[40];
    sc_server_config c;
    sc_error err = {0};
    (void)state;
    write_file(path, "secret-of-the-house\nnot this\n");
    snprintf(option, sizeof option, "--key=@%s", path);
    const char *args[ARGS] = {option};
    if (parse(args, &c, &err)) fail_msg("%s", err.text);
    assert_string_equal(c.key.item[0], "secret-of-the-house");
    sc_server_config_free(&c);
    unlink(path);
    write_file(path, "\n");
    snprintf(option, sizeof option, "--key=@%s", path);
    assert_int_not_equal(parse(args, &c, &err), SC_OK);
    assert_non_null(strstr(err.text, "first line is empty"));
    sc_server_config_free(&c);
    unlink(path);
}

static void lists_end_at_their_limit(void **state) {
    sc_server_config c;
    sc_error err = {0};
    (void)state;
    assert_int_equal(sc_server_config_init(&c, &err), SC_OK);
    for (int i = 0; i < SC_CONFIG_LIST_MAX; i++) assert_int_equal(sc_server_config_set(&c, "allow-host", "a", &err), SC_OK);
    assert_int_equal(sc_server_config_set(&c, "allow-host", "a", &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "at most 32"));
    sc_server_config_free(&c);
}

static void help_lists_every_option(void **state) {
    static const char *const names[] = {"listen", "unix", "model", "device", "threads", "max-sessions", "max-viewers", "jpeg-quality",
                                        "idle-timeout-s", "allow-origin", "allow-host", "key", "log-level", "config", "help", "version"};
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    (void)state;
    sc_server_config_help(f);
    fclose(f);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char option[32];
        snprintf(option, sizeof option, "  --%s", names[i]);
        if (!strstr(text, option)) fail_msg("%s is not in the help", option);
    }
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_options_are_named),
        cmocka_unit_test(defaults_serve_the_pocket_model_on_loopback),
        cmocka_unit_test(addresses_are_read),
        cmocka_unit_test(with_a_key_any_address_may_be_served),
        cmocka_unit_test(a_file_is_read_first_and_the_command_line_wins),
        cmocka_unit_test(bad_files_name_their_line),
        cmocka_unit_test(a_line_that_is_too_long_is_refused),
        cmocka_unit_test(a_key_may_come_from_a_file),
        cmocka_unit_test(lists_end_at_their_limit),
        cmocka_unit_test(help_lists_every_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

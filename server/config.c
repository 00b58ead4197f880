/* config.c - see config.h. */
#include "server/config.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef enum { TEXT, INT, LIST, FLAG } option_type;

struct option {
    const char *name;
    option_type type;
    size_t offset;
    const char *value;   /* default; NULL or "": none */
    long min, max;       /* of an INT */
    const char *words;   /* allowed words, space separated; NULL: any */
    const char *help;
};

#define AT(field) offsetof(sc_server_config, field)
static const struct option options[] = {
    {"listen", TEXT, AT(listen), "127.0.0.1:8080", 0, 0, NULL, "address and port, [v6]:port, or \"none\"; port 0 takes a free one"},
    {"unix", TEXT, AT(unix_path), "", 0, 0, NULL, "path of a UNIX socket to serve as well"},
    {"model", TEXT, AT(model), "models/pocket", 0, 0, NULL, "model directory: from here, then beside the executable"},
    {"device", TEXT, AT(device), "cpu", 0, 0, "cpu twin cuda", "where the model runs"},
    {"memory", TEXT, AT(memory), "model", 0, 0, "model pbsa window dense", "memory of a session, whatever the model; \"model\": as it says"},
    {"text-device", TEXT, AT(text_device), "model", 0, 0, "model cpu twin cuda", "where the text encoder runs; \"model\": beside it"},
    {"threads", INT, AT(threads), "0", 0, 1024, NULL, "CPU threads of the engine; 0: one a core"},
    {"max-sessions", INT, AT(max_sessions), "4", 1, 64, NULL, "sessions memory is set aside for"},
    {"max-viewers", INT, AT(max_viewers), "256", 1, 4000, NULL, "connected viewers in all"},
    {"jpeg-quality", INT, AT(jpeg_quality), "85", 1, 100, NULL, "JPEG quality of a session that asks for none"},
    {"idle-timeout-s", INT, AT(idle_timeout_s), "300", 1, 86400, NULL, "a session nobody watches ends after so many seconds"},
    {"allow-origin", LIST, AT(allow_origin), "", 0, 0, NULL, "an origin other than our own that may call, like https://example.org"},
    {"allow-host", LIST, AT(allow_host), "", 0, 0, NULL, "a Host that is ours, like stream.example.org or name:port"},
    {"key", LIST, AT(key), "", 0, 0, NULL, "an API key clients must send; @FILE reads it; needed beyond loopback"},
    {"state-dir", TEXT, AT(state_dir), "", 0, 0, NULL, "directory for snapshots, for files of videos, and for sessions over a restart; without it systemd's STATE_DIRECTORY, or none"},
    {"log-level", TEXT, AT(log_level), "info", 0, 0, "error warn info debug", "how much is logged to stderr"},
    {"config", TEXT, AT(config), "", 0, 0, NULL, "file of \"name = value\" lines, these names"},
    {"help", FLAG, AT(help), NULL, 0, 0, NULL, "this text"},
    {"version", FLAG, AT(version), NULL, 0, 0, NULL, "the version"},
};
enum { OPTIONS = sizeof options / sizeof *options };

static void *field(sc_server_config *c, const struct option *o) { return (char *)c + o->offset; }

static const struct option *find(const char *name, size_t n) {
    for (int i = 0; i < OPTIONS; i++) if (strlen(options[i].name) == n && !strncmp(options[i].name, name, n)) return &options[i];
    return NULL;
}

static bool one_of(const char *words, const char *value) {
    size_t n = strlen(value);
    for (const char *w = words; *w;) {
        size_t k = strcspn(w, " ");
        if (k == n && !strncmp(w, value, n)) return true;
        w += k + strspn(w + k, " ");
    }
    return false;
}

static sc_status read_secret(const char *path, char **out, sc_error *err) {
    char line[512] = "";
    FILE *f = fopen(path, "re");
    if (!f) return sc_fail(err, SC_EIO, "key: %s: %s", path, strerror(errno));
    bool got = fgets(line, sizeof line, f) != NULL;
    fclose(f);
    line[strcspn(line, "\r\n")] = 0;
    if (!got || !line[0]) return sc_fail(err, SC_EINVAL, "key: %s: the first line is empty", path);
    return (*out = strdup(line)) ? SC_OK : sc_fail(err, SC_ENOMEM, "key: out of memory");
}

sc_status sc_server_config_set(sc_server_config *c, const char *name, const char *value, sc_error *err) {
    const struct option *o = find(name, strlen(name));
    char *copy = NULL, *end;
    if (!o) return sc_fail(err, SC_EINVAL, "%s: there is no such option; --help lists them", name);
    switch (o->type) {
    case FLAG: *(bool *)field(c, o) = true; return SC_OK;
    case INT: {
        errno = 0;
        long v = strtol(value, &end, 10);
        if (errno || end == value || *end || isspace((unsigned char)*value) || *value == '+' || v < o->min || v > o->max)
            return sc_fail(err, SC_EINVAL, "%s: must be %ld to %ld, found \"%.60s\"", name, o->min, o->max, value);
        *(int *)field(c, o) = (int)v;
        return SC_OK;
    }
    case TEXT:
        if (o->words && !one_of(o->words, value)) return sc_fail(err, SC_EINVAL, "%s: must be one of: %s; found \"%.60s\"", name, o->words, value);
        if (!(copy = strdup(value))) return sc_fail(err, SC_ENOMEM, "%s: out of memory", name);
        free(*(char **)field(c, o));
        *(char **)field(c, o) = copy;
        return SC_OK;
    case LIST: {
        sc_config_list *l = field(c, o);
        if (!*value) return sc_fail(err, SC_EINVAL, "%s: must not be empty", name);
        if (l->count == SC_CONFIG_LIST_MAX) return sc_fail(err, SC_EINVAL, "%s: at most %d of them", name, SC_CONFIG_LIST_MAX);
        if (l == &c->key && *value == '@') {
            sc_status rc = read_secret(value + 1, &copy, err);
            if (rc) return rc;
        } else if (!(copy = strdup(value))) return sc_fail(err, SC_ENOMEM, "%s: out of memory", name);
        if (l == &c->key && strlen(copy) < 16) {
            free(copy);
            return sc_fail(err, SC_EINVAL, "key: must have 16 characters at least");
        }
        l->item[l->count++] = copy;
        return SC_OK;
    }
    }
    return SC_OK;
}

sc_status sc_server_config_init(sc_server_config *c, sc_error *err) {
    memset(c, 0, sizeof *c);
    for (int i = 0; i < OPTIONS; i++) {
        if (options[i].type == FLAG || options[i].type == LIST) continue;
        sc_status rc = sc_server_config_set(c, options[i].name, options[i].value, err);
        if (rc) return rc;
    }
    return SC_OK;
}

void sc_server_config_free(sc_server_config *c) {
    for (int i = 0; i < OPTIONS; i++) {
        if (options[i].type == TEXT) {
            free(*(char **)field(c, &options[i]));
            *(char **)field(c, &options[i]) = NULL;
        }
        if (options[i].type != LIST) continue;
        sc_config_list *l = field(c, &options[i]);
        for (int k = 0; k < l->count; k++) free(l->item[k]);
        l->count = 0;
    }
}

static char *trim(char *s) {
    while (isspace((unsigned char)*s)) s++;
    for (size_t n = strlen(s); n && isspace((unsigned char)s[n - 1]);) s[--n] = 0;
    return s;
}

sc_status sc_server_config_file(sc_server_config *c, const char *path, sc_error *err) {
    char line[4096];
    int number = 0;
    sc_status rc = SC_OK;
    FILE *f = fopen(path, "re");
    if (!f) return sc_fail(err, SC_EIO, "config: %s: %s", path, strerror(errno));
    while (!rc && fgets(line, sizeof line, f)) {
        sc_error why = {0};
        number++;
        if (!strchr(line, '\n') && !feof(f)) { rc = sc_fail(err, SC_EINVAL, "%s:%d: line is too long", path, number); break; }
        char *s = trim(line), *eq;
        if (!*s || *s == '#') continue;
        if (!(eq = strchr(s, '='))) { rc = sc_fail(err, SC_EINVAL, "%s:%d: expected name = value", path, number); break; }
        *eq = 0;
        s = trim(s);
        const struct option *o = find(s, strlen(s));
        if (o && (o->type == FLAG || !strcmp(s, "config"))) rc = sc_fail(err, SC_EINVAL, "%s:%d: %s is for the command line", path, number, s);
        else if (sc_server_config_set(c, s, trim(eq + 1), &why)) rc = sc_fail(err, SC_EINVAL, "%s:%d: %s", path, number, why.text);
    }
    fclose(f);
    return rc;
}

/* One argument: its option and value. *step: how many words it took. */
static sc_status argument(int argc, char **argv, int i, const struct option **o, const char **value, int *step, sc_error *err) {
    const char *a = argv[i];
    if (strncmp(a, "--", 2) || !a[2]) {
        if (!strcmp(a, "-h")) { *o = find("help", 4); *value = ""; *step = 1; return SC_OK; }
        return sc_fail(err, SC_EINVAL, "\"%.60s\" is not an option; --help lists them", a);
    }
    const char *eq = strchr(a, '=');
    size_t n = eq ? (size_t)(eq - a - 2) : strlen(a + 2);
    *o = find(a + 2, n);
    if (!*o) return sc_fail(err, SC_EINVAL, "--%.*s: there is no such option; --help lists them", (int)(n < 60 ? n : 60), a + 2);
    *step = 1;
    *value = eq ? eq + 1 : "";
    if ((*o)->type == FLAG) return eq ? sc_fail(err, SC_EINVAL, "--%s takes no value", (*o)->name) : SC_OK;
    if (!eq) {
        if (i + 1 >= argc) return sc_fail(err, SC_EINVAL, "--%s needs a value", (*o)->name);
        *value = argv[i + 1];
        *step = 2;
    }
    return SC_OK;
}

sc_status sc_server_config_args(sc_server_config *c, int argc, char **argv, sc_error *err) {
    for (int pass = 0; pass < 2; pass++) /* the file first: the command line wins */
        for (int i = 1, step = 1; i < argc; i += step) {
            const struct option *o = NULL;
            const char *value = "";
            sc_status rc = argument(argc, argv, i, &o, &value, &step, err);
            if (rc) return rc;
            bool file = !strcmp(o->name, "config");
            if (!pass && file && (rc = sc_server_config_file(c, value, err))) return rc;
            if (pass && (rc = sc_server_config_set(c, o->name, value, err))) return rc;
        }
    return SC_OK;
}

static bool loopback(const sc_server_config *c) {
    struct in_addr a;
    if (c->ipv6) return !strcmp(c->host, "::1");
    return inet_pton(AF_INET, c->host, &a) == 1 && (ntohl(a.s_addr) >> 24) == 127;
}

sc_status sc_server_config_check(sc_server_config *c, sc_error *err) {
    unsigned char addr[16];
    char *end;
    c->host[0] = 0;
    if (!strcmp(c->listen, "none")) return SC_OK;
    const char *colon = strrchr(c->listen, ':');
    size_t n = colon ? (size_t)(colon - c->listen) : 0;
    errno = 0;
    long port = colon ? strtol(colon + 1, &end, 10) : -1;
    if (!colon || !isdigit((unsigned char)colon[1]) || *end || port < 0 || port > 65535 || n >= sizeof c->host)
        return sc_fail(err, SC_EINVAL, "listen: must be address:port, found \"%.60s\"", c->listen);
    memcpy(c->host, c->listen, n);
    c->host[n] = 0;
    c->port = (int)port;
    if (!strcmp(c->host, "localhost")) strcpy(c->host, "127.0.0.1");
    if (!n) strcpy(c->host, "0.0.0.0");
    if (c->host[0] == '[' && c->host[strlen(c->host) - 1] == ']') {
        memmove(c->host, c->host + 1, strlen(c->host));
        c->host[strlen(c->host) - 1] = 0;
    }
    c->ipv6 = inet_pton(AF_INET6, c->host, addr) == 1;
    if (!c->ipv6 && inet_pton(AF_INET, c->host, addr) != 1)
        return sc_fail(err, SC_EINVAL, "listen: \"%.60s\" is not a numeric address", c->host);
    if (!loopback(c) && !c->key.count)
        return sc_fail(err, SC_EINVAL, "listen: %s can be reached by others; configure a key first (--key), or listen on 127.0.0.1", c->host);
    return SC_OK;
}

void sc_server_config_help(FILE *out) {
    fprintf(out, "sparsecastd - streams autoregressive video diffusion: type a prompt, watch the picture follow\n\n"
                 "usage: sparsecastd [--name value]...\n\n");
    for (int i = 0; i < OPTIONS; i++) {
        const struct option *o = &options[i];
        static const char *const words[] = {" TEXT", " N", " TEXT", ""};
        char left[64];
        snprintf(left, sizeof left, "--%s%s", o->name, words[o->type]);
        fprintf(out, "  %-22s %s", left, o->help);
        if (o->type == INT) fprintf(out, " (%ld to %ld)", o->min, o->max);
        if (o->words) fprintf(out, ": %s", o->words);
        if (o->type == LIST) fprintf(out, "; may be repeated");
        if (o->value && *o->value) fprintf(out, " [%s]", o->value);
        fputc('\n', out);
    }
}

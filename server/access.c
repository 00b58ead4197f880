/* access.c - see access.h. */
#include "server/access.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { TICKETS = 256, KEY_BYTES = 512 };

struct ticket { char text[SC_ID_CHARS + 1], session[SC_ID_CHARS + 1]; bool control; uint64_t until_ns; };

struct sc_access {
    const sc_server_config *c;
    int port;
    pthread_mutex_t lock;
    struct ticket tickets[TICKETS]; /* guarded by lock; until_ns 0: free */
};

sc_access *sc_access_create(const sc_server_config *c) {
    sc_access *a = calloc(1, sizeof *a);
    if (!a) return NULL;
    a->c = c;
    a->port = c->port;
    pthread_mutex_init(&a->lock, NULL);
    return a;
}

void sc_access_destroy(sc_access *a) {
    if (!a) return;
    pthread_mutex_destroy(&a->lock);
    free(a);
}

void sc_access_port(sc_access *a, int port) { a->port = port; }

/* "name", "name:port", "[v6]:port" into name (as written, brackets kept) and port (-1: none). */
static bool split(const char *host, size_t *name_n, int *port) {
    const char *colon = host[0] == '[' ? strchr(host, ']') : strchr(host, ':');
    if (host[0] == '[') {
        if (!colon) return false;
        colon = colon[1] == ':' ? colon + 1 : colon[1] ? NULL : colon + 1;
        if (!colon) return false;
    }
    *name_n = colon ? (size_t)(colon - host) : strlen(host);
    *port = -1;
    if (!colon || !*colon) return *name_n > 0;
    size_t digits = strspn(colon + 1, "0123456789");
    if (!digits || digits > 5 || colon[1 + digits]) return false;
    *port = atoi(colon + 1);
    return *name_n > 0;
}

static bool is(const char *s, size_t n, const char *word) { return strlen(word) == n && !strncasecmp(s, word, n); }

bool sc_access_host(const sc_access *a, const char *host, bool any_port) {
    size_t n;
    int port;
    if (!split(host, &n, &port)) return false;
    for (int i = 0; i < a->c->allow_host.count; i++) {
        const char *item = a->c->allow_host.item[i];
        size_t k;
        int p;
        if (split(item, &k, &p) && k == n && !strncasecmp(item, host, n) && (p == port || p == -1)) return true;
    }
    if (!any_port && a->port && port != a->port && !(port == -1 && a->port == 80)) return false;
    if (is(host, n, "localhost") || is(host, n, "127.0.0.1") || is(host, n, "[::1]")) return true;
    if (!a->c->host[0] || !strcmp(a->c->host, "0.0.0.0") || !strcmp(a->c->host, "::")) return false;
    return a->c->ipv6 ? n == strlen(a->c->host) + 2 && host[0] == '[' && !strncasecmp(host + 1, a->c->host, n - 2) : is(host, n, a->c->host);
}

sc_origin sc_access_origin(const sc_access *a, const char *origin, const char *host) {
    if (!origin) return SC_ORIGIN_OURS;
    for (int i = 0; i < a->c->allow_origin.count; i++) if (!strcasecmp(a->c->allow_origin.item[i], origin)) return SC_ORIGIN_LISTED;
    const char *name = !strncmp(origin, "http://", 7) ? origin + 7 : !strncmp(origin, "https://", 8) ? origin + 8 : NULL;
    return name && host && !strcasecmp(name, host) ? SC_ORIGIN_OURS : SC_ORIGIN_FOREIGN;
}

bool sc_access_needs_key(const sc_access *a) { return a->c->key.count > 0; }

/* Both in buffers of one size, every byte looked at whatever the first ones say. */
static bool same(const char *a, const char *b) {
    unsigned char x[KEY_BYTES] = {0}, y[KEY_BYTES] = {0};
    volatile unsigned char differs = 0;
    size_t n = strnlen(a, KEY_BYTES), m = strnlen(b, KEY_BYTES);
    if (n == KEY_BYTES || m == KEY_BYTES) return false;
    memcpy(x, a, n);
    memcpy(y, b, m);
    for (size_t i = 0; i < KEY_BYTES; i++) differs |= x[i] ^ y[i];
    return !differs;
}

bool sc_access_key(const sc_access *a, const char *authorization) {
    bool found = false;
    if (!sc_access_needs_key(a)) return true;
    if (!authorization || strncasecmp(authorization, "Bearer ", 7)) return false;
    for (int i = 0; i < a->c->key.count; i++) found |= same(a->c->key.item[i], authorization + 7);
    return found;
}

sc_status sc_access_ticket(sc_access *a, const char *session, bool control, uint64_t now_ns, char out[SC_ID_CHARS + 1], sc_error *err) {
    sc_status rc = sc_id_random(out, err);
    if (rc) return rc;
    rc = SC_EBUSY;
    pthread_mutex_lock(&a->lock);
    for (int i = 0; i < TICKETS && rc; i++) {
        struct ticket *t = &a->tickets[i];
        if (t->until_ns > now_ns) continue;
        memcpy(t->text, out, sizeof t->text);
        memcpy(t->session, session, sizeof t->session);
        t->control = control;
        t->until_ns = now_ns + (uint64_t)SC_TICKET_LIFE_S * 1000000000u;
        rc = SC_OK;
    }
    pthread_mutex_unlock(&a->lock);
    return rc ? sc_fail(err, rc, "too many tickets are waiting to be used") : SC_OK;
}

bool sc_access_ticket_take(sc_access *a, const char *ticket, const char *session, uint64_t now_ns, bool *control) {
    bool good = false;
    pthread_mutex_lock(&a->lock);
    for (int i = 0; i < TICKETS; i++) {
        struct ticket *t = &a->tickets[i];
        if (t->until_ns <= now_ns || !same(t->text, ticket)) continue;
        good = !strcmp(t->session, session);
        *control = t->control;
        t->until_ns = 0; /* once, even when it was for another session */
    }
    pthread_mutex_unlock(&a->lock);
    return good;
}

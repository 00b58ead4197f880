/* router_request.c - see router_request.h. */
#include "server/router_request.h"
#include "proto/messages.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { HEADERS_MAX = 100 };

struct header { const char *name, *value; size_t name_n, value_n; };
struct request { const char *target; size_t target_n; const char *version; size_t version_n; struct header h[HEADERS_MAX]; int count; };

static void refuse(sc_route *r, int status, const char *header, const char *detail) {
    r->kind = SC_ROUTE_REFUSE;
    r->status = status;
    r->header = header;
    snprintf(r->detail, sizeof r->detail, "%s", detail);
}

static bool is_token(int c) { return c > 0 && c < 127 && (isalnum(c) || strchr("!#$%&'*+-.^_`|~", c)); }

/* Header lines, strictly: CRLF, a token before the colon, no folding, no control bytes. Text of what is wrong, or NULL. */
static const char *read_headers(const char *p, const char *end, struct request *q) {
    while (p < end) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        if (!eol || eol == p || eol[-1] != '\r') return "Lines must end in CR LF.";
        size_t n = (size_t)(eol - p) - 1;
        if (!n) return NULL;
        const char *colon = memchr(p, ':', n);
        if (!colon || colon == p) return "A header line has no name.";
        for (const char *c = p; c < colon; c++) if (!is_token((unsigned char)*c)) return "A header name has a byte it must not have.";
        struct header h = {p, colon + 1, (size_t)(colon - p), n - (size_t)(colon + 1 - p)};
        while (h.value_n && (*h.value == ' ' || *h.value == '\t')) h.value++, h.value_n--;
        while (h.value_n && (h.value[h.value_n - 1] == ' ' || h.value[h.value_n - 1] == '\t')) h.value_n--;
        for (size_t i = 0; i < h.value_n; i++)
            if ((unsigned char)h.value[i] < 0x20 && h.value[i] != '\t') return "A header value has a control byte.";
        if (q->count == HEADERS_MAX) return "There are too many headers.";
        q->h[q->count++] = h;
        p = eol + 1;
    }
    return "The request does not end.";
}

static int count(const struct request *q, const char *name, const struct header **last) {
    int n = 0;
    for (int i = 0; i < q->count; i++)
        if (strlen(name) == q->h[i].name_n && !strncasecmp(name, q->h[i].name, q->h[i].name_n)) { n++; if (last) *last = &q->h[i]; }
    return n;
}

/* The next item of a comma-separated list; false at its end. */
static bool item(const char **p, const char *end, const char **s, size_t *n) {
    while (*p < end && (**p == ',' || **p == ' ' || **p == '\t')) (*p)++;
    if (*p >= end) return false;
    const char *e = memchr(*p, ',', (size_t)(end - *p));
    if (!e) e = end;
    *s = *p;
    *p = e;
    while (e > *s && (e[-1] == ' ' || e[-1] == '\t')) e--;
    *n = (size_t)(e - *s);
    return true;
}

static bool has_item(const struct request *q, const char *name, const char *word) {
    for (int i = 0; i < q->count; i++) {
        const struct header *h = &q->h[i];
        if (strlen(name) != h->name_n || strncasecmp(name, h->name, h->name_n)) continue;
        const char *p = h->value, *end = p + h->value_n, *s;
        size_t n;
        while (item(&p, end, &s, &n)) if (n == strlen(word) && !strncasecmp(s, word, n)) return true;
    }
    return false;
}

static bool copy_value(const struct header *h, char *buf, size_t cap) {
    if (h->value_n >= cap) return false;
    memcpy(buf, h->value, h->value_n);
    buf[h->value_n] = 0;
    return true;
}

static bool good_key(const struct header *h) { /* 16 bytes in base64: 22 characters and "==", the last one holds two bits */
    if (h->value_n != 24 || memcmp(h->value + 22, "==", 2) || !strchr("AQgw", h->value[21])) return false;
    for (int i = 0; i < 22; i++) if (!isalnum((unsigned char)h->value[i]) && h->value[i] != '+' && h->value[i] != '/') return false;
    return true;
}

/* "/v1/sessions/{id}/stream", with or without a query. False: another path. *id_n may be wrong for an id. */
static bool stream_path(const char *s, size_t n, const char **id, size_t *id_n) {
    static const char head[] = "/v1/sessions/", tail[] = "/stream";
    const char *q = memchr(s, '?', n);
    if (q) n = (size_t)(q - s);
    if (n <= sizeof head - 1 + sizeof tail - 1 || memcmp(s, head, sizeof head - 1) || memcmp(s + n - (sizeof tail - 1), tail, sizeof tail - 1))
        return false;
    *id = s + sizeof head - 1;
    *id_n = n - (sizeof head - 1) - (sizeof tail - 1);
    return !memchr(*id, '/', *id_n);
}

static void check_stream(struct request *q, const char *id, size_t id_n, sc_access *access, uint64_t now_ns, sc_route *r) {
    static const char upgrade[] = "Upgrade: websocket\r\n", version[] = "Sec-WebSocket-Version: 13\r\n";
    const struct header *h = NULL;
    char host[256], origin[512], ticket[64] = "";

    if (q->version_n != 8 || memcmp(q->version, "HTTP/1.1", 8)) return refuse(r, 400, "", "A stream needs HTTP/1.1.");
    if (count(q, "Host", &h) != 1) return refuse(r, 400, "", "There must be exactly one Host header.");
    if (!copy_value(h, host, sizeof host) || !sc_access_host(access, host)) return refuse(r, 421, "", "This host is not served here.");
    int origins = count(q, "Origin", &h);
    if (origins > 1) return refuse(r, 400, "", "There must be at most one Origin header.");
    if (origins && (!copy_value(h, origin, sizeof origin) || sc_access_origin(access, origin, host) == SC_ORIGIN_FOREIGN))
        return refuse(r, 403, "", "This origin is not allowed.");
    if (count(q, "Transfer-Encoding", NULL) || (count(q, "Content-Length", &h) && !(h->value_n == 1 && *h->value == '0')))
        return refuse(r, 400, "", "A stream request has no body.");
    if (!has_item(q, "Upgrade", "websocket") || !has_item(q, "Connection", "Upgrade"))
        return refuse(r, 426, upgrade, "This is a WebSocket: it needs Upgrade: websocket and Connection: Upgrade.");
    if (count(q, "Sec-WebSocket-Version", &h) != 1 || h->value_n != 2 || memcmp(h->value, "13", 2))
        return refuse(r, 426, version, "Sec-WebSocket-Version must be 13.");
    if (count(q, "Sec-WebSocket-Key", &h) != 1 || !good_key(h)) return refuse(r, 400, "", "Sec-WebSocket-Key must be 16 bytes in base64.");
    memcpy(r->key, h->value, 24);
    if (count(q, "Sec-WebSocket-Protocol", &h) != 1) return refuse(r, 400, "", "The subprotocol sparsecast.v1 must be offered.");
    const char *p = h->value, *end = p + h->value_n, *s;
    size_t n;
    bool ours = false;
    while (item(&p, end, &s, &n)) {
        if (n == strlen(SC_STREAM_SUBPROTOCOL) && !memcmp(s, SC_STREAM_SUBPROTOCOL, n)) ours = true;
        if (n > 7 && n < sizeof ticket + 7 && !memcmp(s, "ticket.", 7)) snprintf(ticket, sizeof ticket, "%.*s", (int)n - 7, s + 7);
    }
    if (!ours) return refuse(r, 400, "", "The subprotocol sparsecast.v1 must be offered.");
    if (!sc_id_valid(id, id_n)) return refuse(r, 404, "", "There is no such session.");
    memcpy(r->id, id, id_n);
    r->control = true;
    if (sc_access_needs_key(access) && !sc_access_ticket_take(access, ticket, r->id, now_ns, &r->control))
        return refuse(r, 401, "WWW-Authenticate: Bearer\r\n", "A ticket is needed: offer the subprotocol ticket.TICKET as well.");
    r->kind = SC_ROUTE_STREAM;
}

void sc_route_request(const char *text, size_t n, sc_access *access, uint64_t now_ns, sc_route *r) {
    struct request q = {0};
    const char *end = text + n, *eol = memchr(text, '\n', n), *id;
    size_t id_n;

    memset(r, 0, sizeof *r);
    r->kind = SC_ROUTE_HTTP;
    r->header = "";
    if (!eol || n < 4 || memcmp(text, "GET ", 4)) return;
    q.target = text + 4;
    const char *line_end = eol > text && eol[-1] == '\r' ? eol - 1 : eol;
    const char *sp = line_end > q.target ? memchr(q.target, ' ', (size_t)(line_end - q.target)) : NULL;
    if (!sp) return;
    q.target_n = (size_t)(sp - q.target);
    q.version = sp + 1;
    q.version_n = (size_t)(line_end - q.version);
    if (!stream_path(q.target, q.target_n, &id, &id_n)) return;
    size_t k = q.target_n < sizeof r->path ? q.target_n : sizeof r->path - 1;
    const char *query = memchr(q.target, '?', k);
    if (query) k = (size_t)(query - q.target);
    memcpy(r->path, q.target, k);
    for (size_t i = 0; i < k; i++) if ((unsigned char)r->path[i] < 0x21 || (unsigned char)r->path[i] > 0x7e) r->path[i] = '?';
    if (line_end == eol) return refuse(r, 400, "", "Lines must end in CR LF.");
    const char *wrong = read_headers(eol + 1, end, &q);
    if (wrong) return refuse(r, 400, "", wrong);
    check_stream(&q, id, id_n, access, now_ns, r);
}

size_t sc_route_canonical(const sc_route *r, char *buf, size_t cap) {
    int n = snprintf(buf, cap, "GET /%s/%s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: " SC_STREAM_SUBPROTOCOL "\r\n\r\n",
                     r->id, r->control ? "control" : "watch", r->key);
    return n > 0 && (size_t)n < cap ? (size_t)n : 0;
}

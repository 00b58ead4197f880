/* router_request.c - see router_request.h. */
#include "server/router_request.h"
#include "proto/messages.h"
#include "proto/problem.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { HEADERS_MAX = 100 };

struct header { const char *name, *value; size_t name_n, value_n; };
struct request { const char *target; size_t target_n; bool version_1_1; struct header h[HEADERS_MAX]; int count; };

static void refuse(sc_route *r, int status, const char *header, const char *detail) {
    r->kind = SC_ROUTE_REFUSE;
    r->status = status;
    r->header = header;
    snprintf(r->detail, sizeof r->detail, "%s", detail);
}

void sc_route_refuse(sc_route *r, int status, const char *detail) {
    refuse(r, status, status == 503 || status == 429 ? "Retry-After: 1\r\n" : "", detail);
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
            if (((unsigned char)h.value[i] < 0x20 && h.value[i] != '\t') || h.value[i] == 0x7f) return "A header value has a control byte.";
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

/* What every request must be. True: it is. */
static bool check_form(struct request *q, sc_access *access, bool over_unix, sc_route *r) {
    const struct header *h = NULL;
    char host[256], origin[512];

    if (count(q, "X-Request-Id", &h) == 1) sc_request_id(r->request_id, h->value, h->value_n);
    if (count(q, "Host", &h) != 1) return refuse(r, 400, "", "There must be exactly one Host header."), false;
    if (!copy_value(h, host, sizeof host) || !sc_access_host(access, host, over_unix))
        return refuse(r, 421, "", "This host is not served here."), false;
    int origins = count(q, "Origin", &h);
    if (origins > 1) return refuse(r, 400, "", "There must be at most one Origin header."), false;
    if (origins && (!copy_value(h, origin, sizeof origin) || sc_access_origin(access, origin, host) == SC_ORIGIN_FOREIGN))
        return refuse(r, 403, "", "This origin is not allowed."), false;
    if (count(q, "Transfer-Encoding", NULL)) return refuse(r, 411, "", "A body needs a Content-Length; Transfer-Encoding is not taken."), false;
    int lengths = count(q, "Content-Length", &h);
    if (lengths > 1) return refuse(r, 400, "", "There must be at most one Content-Length header."), false;
    if (lengths) {
        size_t digits = 0;
        while (digits < h->value_n && isdigit((unsigned char)h->value[digits])) digits++;
        if (!digits || digits != h->value_n) return refuse(r, 400, "", "Content-Length must be a number."), false;
        if (digits > 18) return refuse(r, 413, "", "The body is too long."), false;
        /* Here and not only behind the router, which reads the rest of a refused request: else a reset could overtake the answer. */
        if (strtoull(h->value, NULL, 10) > SC_BODY_BYTES_MAX) return refuse(r, 413, "", "A body may have 65536 bytes at most."), false;
    }
    if (count(q, "Authorization", NULL) > 1 || count(q, "Content-Type", NULL) > 1 || count(q, "Idempotency-Key", NULL) > 1)
        return refuse(r, 400, "", "Authorization, Content-Type and Idempotency-Key may come once only."), false;
    if (count(q, "Expect", &h) && (h->value_n != 12 || strncasecmp(h->value, "100-continue", 12)))
        return refuse(r, 417, "", "The only thing to expect here is 100-continue."), false;
    return true;
}

static void check_stream(struct request *q, const char *id, size_t id_n, sc_access *access, uint64_t now_ns, sc_route *r) {
    static const char upgrade[] = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    static const char version[] = "Sec-WebSocket-Version: 13\r\n";
    const struct header *h = NULL;
    char ticket[64] = "";

    if (!q->version_1_1) return refuse(r, 400, "", "A stream needs HTTP/1.1.");
    if (count(q, "Content-Length", &h) && !(h->value_n == 1 && *h->value == '0')) return refuse(r, 400, "", "A stream request has no body.");
    if (!has_item(q, "Upgrade", "websocket") || !has_item(q, "Connection", "Upgrade"))
        return refuse(r, 426, upgrade, "This is a WebSocket: it needs Upgrade: websocket and Connection: Upgrade.");
    if (count(q, "Sec-WebSocket-Version", &h) != 1 || h->value_n != 2 || memcmp(h->value, "13", 2))
        return refuse(r, 426, version, "Sec-WebSocket-Version must be 13.");
    if (count(q, "Sec-WebSocket-Key", &h) != 1 || !good_key(h)) return refuse(r, 400, "", "Sec-WebSocket-Key must be 16 bytes in base64.");
    memcpy(r->key, h->value, 24);
    if (count(q, "Sec-WebSocket-Protocol", &h) != 1) return refuse(r, 400, "", "The subprotocol sparsecast.v1 must be offered.");
    const char *p = h->value, *end = p + h->value_n, *s;
    size_t n;
    bool ours = false, offered = false;
    while (item(&p, end, &s, &n)) {
        if (n == strlen(SC_STREAM_SUBPROTOCOL) && !memcmp(s, SC_STREAM_SUBPROTOCOL, n)) ours = true;
        if (n < 7 || memcmp(s, "ticket.", 7)) continue;
        offered = true;
        snprintf(ticket, sizeof ticket, "%.*s", n - 7 < sizeof ticket ? (int)n - 7 : 0, s + 7);
    }
    if (!ours) return refuse(r, 400, "", "The subprotocol sparsecast.v1 must be offered.");
    if (!sc_id_valid(id, id_n)) return refuse(r, 404, "", "There is no such session.");
    memcpy(r->id, id, id_n);
    r->control = true; /* whoever shows a ticket gets what it says, with or without keys */
    if ((offered || sc_access_needs_key(access)) && !sc_access_ticket_take(access, ticket, r->id, now_ns, &r->control))
        return refuse(r, 401, "WWW-Authenticate: Bearer\r\n",
                      offered ? "This ticket is not good: it was used, is too old, or is for another session."
                              : "A ticket is needed: offer the subprotocol ticket.TICKET as well.");
    r->kind = SC_ROUTE_STREAM;
}

/* "METHOD SP target SP HTTP/1.x": the parts, or a refusal. */
static bool read_request_line(const char *text, const char *end, struct request *q, const char **method, size_t *method_n, sc_route *r) {
    const char *sp = memchr(text, ' ', (size_t)(end - text));
    *method = text;
    *method_n = sp ? (size_t)(sp - text) : 0;
    for (size_t i = 0; i < *method_n; i++) if (!is_token((unsigned char)text[i])) *method_n = 0;
    if (!*method_n || *method_n > 32) return refuse(r, 400, "", "The request line has no method."), false;
    r->head = *method_n == 4 && !memcmp(text, "HEAD", 4);
    q->target = sp + 1;
    sp = memchr(q->target, ' ', (size_t)(end - q->target));
    q->target_n = sp ? (size_t)(sp - q->target) : 0;
    size_t path_n = 0;
    for (; path_n < q->target_n && path_n < sizeof r->path - 1 && q->target[path_n] != '?'; path_n++) {
        unsigned char c = (unsigned char)q->target[path_n];
        r->path[path_n] = c > 0x20 && c < 0x7f ? (char)c : '?';
    }
    for (size_t i = 0; i < q->target_n; i++)
        if ((unsigned char)q->target[i] < 0x21 || (unsigned char)q->target[i] > 0x7e) return refuse(r, 400, "", "The path has a byte it must not have."), false;
    if (!q->target_n || *q->target != '/') return refuse(r, 400, "", "The request must name a path that begins with a slash."), false;
    if (q->target_n > SC_TARGET_BYTES_MAX) return refuse(r, 414, "", "The path is too long."), false;
    const char *version = sp + 1;
    if (end - version != 8 || memcmp(version, "HTTP/", 5) || !isdigit((unsigned char)version[5]) || version[6] != '.' || !isdigit((unsigned char)version[7]))
        return refuse(r, 400, "", "The request line must end in HTTP/1.1."), false;
    if (version[5] != '1' || version[7] > '1') return refuse(r, 505, "", "HTTP/1.1 is spoken here."), false;
    q->version_1_1 = version[7] == '1';
    return true;
}

size_t sc_route_header_end(const char *text, size_t n, bool *bad) {
    *bad = false;
    for (const char *p = text, *end = text + n; (p = memchr(p, '\n', (size_t)(end - p))); p++) {
        if (p == text || p[-1] != '\r') { *bad = true; return 0; }
        if (p - text >= 3 && p[-2] == '\n') return (size_t)(p - text) + 1;
    }
    return 0;
}

void sc_route_request(const char *text, size_t n, sc_access *access, bool over_unix, uint64_t now_ns, sc_route *r) {
    struct request q = {0};
    const char *end = text + n, *eol = memchr(text, '\n', n), *id, *method;
    size_t id_n, method_n;

    memset(r, 0, sizeof *r);
    r->kind = SC_ROUTE_HTTP;
    r->header = "";
    sc_request_id(r->request_id, NULL, 0);
    if (!eol || eol == text || eol[-1] != '\r') return refuse(r, 400, "", "Lines must end in CR LF.");
    if (!read_request_line(text, eol - 1, &q, &method, &method_n, r)) return;
    const char *wrong = read_headers(eol + 1, end, &q);
    if (wrong) return refuse(r, 400, "", wrong);
    if (!check_form(&q, access, over_unix, r)) return;
    if (method_n == 3 && !memcmp(method, "GET", 3) && stream_path(q.target, q.target_n, &id, &id_n))
        check_stream(&q, id, id_n, access, now_ns, r);
}

char *sc_route_answer(const sc_route *r, size_t *n) {
    char date[64], *text = NULL;
    size_t body_n = 0;
    sc_problem p = {0};
    time_t now = time(NULL);
    struct tm t;

    sc_problem_set(&p, r->status, "%s", r->detail);
    char *body = sc_problem_json(&p, r->path, &body_n);
    if (!body) return NULL;
    gmtime_r(&now, &t);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &t);
    int size = asprintf(&text, "HTTP/1.1 %d %s\r\nDate: %s\r\nConnection: close\r\nContent-Type: " SC_PROBLEM_MEDIA_TYPE "\r\n"
                               "Content-Length: %zu\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nX-Request-Id: %s\r\n%s\r\n%s",
                        r->status, sc_problem_title(r->status), date, body_n, r->request_id, r->header, r->head ? "" : body);
    free(body);
    *n = size > 0 ? (size_t)size : 0;
    return size > 0 ? text : NULL;
}

size_t sc_route_canonical(const sc_route *r, char *buf, size_t cap) {
    int n = snprintf(buf, cap, "GET /%s/%s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: " SC_STREAM_SUBPROTOCOL "\r\n\r\n",
                     r->id, r->control ? "control" : "watch", r->key);
    return n > 0 && (size_t)n < cap ? (size_t)n : 0;
}

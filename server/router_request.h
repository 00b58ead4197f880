/* router_request.h - what the first request of a connection wants, decided from its text.
 *
 * Every connection carries one request, so all requests pass here, and what follows sees only well-formed ones:
 *
 *     GET /v1/sessions/{id}/stream, a correct WebSocket handshake   ->  STREAM: libwebsockets gets a request we wrote ourselves
 *     anything else that is HTTP/1.x                                ->  HTTP: the socket goes to libmicrohttpd unread
 *     something is wrong                                            ->  REFUSE with a status; the libraries accept nearly anything
 *
 * Order of refusals: form of the request (400, 411, 414, 505), Host (421), Origin (403), WebSocket (426, 400), session id (404), ticket
 * (401). Whether the session exists and there is room is the router's question. Pure but for taking the ticket. */
#ifndef SC_SERVER_ROUTER_REQUEST_H
#define SC_SERVER_ROUTER_REQUEST_H
#include "server/access.h"
#include "server/request_id.h"

enum { SC_TARGET_BYTES_MAX = 1024 };

typedef enum { SC_ROUTE_HTTP, SC_ROUTE_STREAM, SC_ROUTE_REFUSE } sc_route_kind;

typedef struct {
    sc_route_kind kind;
    int status;                 /* REFUSE */
    char detail[160];
    const char *header;         /* REFUSE: a header line the status needs, with CRLF, or "" */
    bool head;                  /* the method is HEAD: an answer has no body */
    char path[128];             /* of the request, for the problem document; printable, may be cut */
    char request_id[SC_REQUEST_ID_MAX + 1];
    char id[SC_ID_CHARS + 1];   /* STREAM */
    char key[25];               /* Sec-WebSocket-Key */
    bool control;
} sc_route;

/* Where the header ends (behind the empty line), 0: not yet. *bad: its lines do not end in CR LF. */
size_t sc_route_header_end(const char *text, size_t n, bool *bad);

/* text: from the request line to the empty line, n bytes. over_unix: it came by a UNIX socket, where a Host has any port or none. */
void sc_route_request(const char *text, size_t n, sc_access *access, bool over_unix, uint64_t now_ns, sc_route *out);

/* A refusal that another part decides on. */
void sc_route_refuse(sc_route *r, int status, const char *detail);

/* The whole answer of a refusal as bytes of HTTP: owned, free(); NULL when memory ran out. */
char *sc_route_answer(const sc_route *r, size_t *n);

/* The request for libwebsockets; returns its size, 0 when it does not fit. */
size_t sc_route_canonical(const sc_route *r, char *buf, size_t cap);

#endif

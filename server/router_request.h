/* router_request.h - what the first request of a connection wants, decided from its text.
 *
 *     anything but GET /v1/sessions/{id}/stream  ->  HTTP: the socket goes to libmicrohttpd unread
 *     that, a correct WebSocket handshake        ->  STREAM: libwebsockets gets a request we wrote ourselves
 *     that, but something is wrong               ->  REFUSE with a status; libwebsockets would accept nearly anything
 *
 * Order of refusals: form of the request (400), Host (421), Origin (403), WebSocket (426, 400), ticket (401). Whether the session exists and
 * there is room is the router's question. Pure but for taking the ticket. */
#ifndef SC_SERVER_ROUTER_REQUEST_H
#define SC_SERVER_ROUTER_REQUEST_H
#include "server/access.h"

typedef enum { SC_ROUTE_HTTP, SC_ROUTE_STREAM, SC_ROUTE_REFUSE } sc_route_kind;

typedef struct {
    sc_route_kind kind;
    int status;                 /* REFUSE */
    char detail[160];
    const char *header;         /* REFUSE: a header line the status needs, with CRLF, or "" */
    char path[128];             /* REFUSE: of the request, for the problem document */
    char id[SC_ID_CHARS + 1];   /* STREAM */
    char key[25];               /* Sec-WebSocket-Key */
    bool control;
} sc_route;

/* text: from the request line to the empty line, n bytes. */
void sc_route_request(const char *text, size_t n, sc_access *access, uint64_t now_ns, sc_route *out);

/* The request for libwebsockets; returns its size, 0 when it does not fit. */
size_t sc_route_canonical(const sc_route *r, char *buf, size_t cap);

#endif

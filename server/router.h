/* router.h - the router thread: every connection begins here.
 *
 *     accept -> peek until the header is whole -> router_request.h decides -> http(fd) | stream(fd) | an answer, then the end
 *
 * Nothing is consumed before the decision, so libmicrohttpd reads the request itself; of a stream's request exactly the header is taken and
 * a canonical one is handed on. A header has 5 s in all (408) and 8 KB (431); at most 1024 sockets wait here (503 beyond). After a refusal
 * the socket is read empty for a moment, for a close with unread bytes would be a reset that may overtake the answer. */
#ifndef SC_SERVER_ROUTER_H
#define SC_SERVER_ROUTER_H
#include "base/status.h"
#include "server/listen.h"
#include "server/router_request.h"
#include <sys/socket.h>

typedef struct sc_router sc_router;

typedef struct {
    sc_access *access;
    const sc_listeners *listeners; /* borrowed until stop */
    void *ctx;
    /* Router thread. Both take the socket when they return 0; otherwise the status to refuse it with (it stays the router's). */
    int (*http)(void *ctx, int fd, const struct sockaddr *addr, socklen_t n);
    int (*stream)(void *ctx, int fd, const sc_route *route);
} sc_router_options;

sc_status sc_router_start(sc_router **out, const sc_router_options *o, sc_error *err);
void sc_router_stop(sc_router *r); /* sockets that wait are closed; NULL is fine */

#endif

/* access.h - who may talk to the daemon: Host and Origin allowlists, keys, tickets.
 *
 * Host    keeps a web page from reaching us under a name of its own (DNS rebinding): ours are localhost, 127.0.0.1, [::1] and the address we
 *         listen on, with our port, and what --allow-host adds.
 * Origin  keeps other pages from using a visitor's browser: absent, same as the Host, or listed by --allow-origin.
 * Key     `Authorization: Bearer KEY`, compared in constant time.
 * Ticket  a browser cannot send that header with a WebSocket: a ticket is good for one stream of one session, once, for 30 s.
 *
 * Any thread once it is made and sc_access_port was called. */
#ifndef SC_SERVER_ACCESS_H
#define SC_SERVER_ACCESS_H
#include "proto/session_json.h"
#include "server/config.h"

typedef struct sc_access sc_access;
typedef enum { SC_ORIGIN_OURS, SC_ORIGIN_LISTED, SC_ORIGIN_FOREIGN } sc_origin;

enum { SC_TICKET_LIFE_S = 30 };

sc_access *sc_access_create(const sc_server_config *c); /* c borrowed for its whole life; NULL: out of memory */
void sc_access_destroy(sc_access *a);
void sc_access_port(sc_access *a, int port);

bool sc_access_host(const sc_access *a, const char *host, bool any_port);
sc_origin sc_access_origin(const sc_access *a, const char *origin, const char *host); /* origin NULL: ours */
bool sc_access_needs_key(const sc_access *a);
bool sc_access_key(const sc_access *a, const char *authorization);

/* SC_EBUSY: too many tickets are out. */
sc_status sc_access_ticket(sc_access *a, const char *session, bool control, uint64_t now_ns, char out[SC_ID_CHARS + 1], sc_error *err);
bool sc_access_ticket_take(sc_access *a, const char *ticket, const char *session, uint64_t now_ns, bool *control);

#endif

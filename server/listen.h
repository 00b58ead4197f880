/* listen.h - the sockets the daemon listens on: systemd's (LISTEN_FDS), or its own TCP and UNIX ones.
 *
 * A TCP address others can reach needs a key, wherever the socket comes from. Main thread, before the others start. */
#ifndef SC_SERVER_LISTEN_H
#define SC_SERVER_LISTEN_H
#include "server/config.h"

enum { SC_LISTENERS_MAX = 8 };

typedef struct {
    int fd[SC_LISTENERS_MAX];
    int count;
    int port;               /* of the first TCP listener, 0: none */
    char url[160];          /* where to point a browser, "" when there is no TCP listener */
    const char *unlink_path; /* a UNIX socket of our own making; borrowed from the config */
} sc_listeners;

/* Errors: SC_EINVAL (an address without a key), SC_EBUSY (address in use), SC_EIO. After one all is closed. */
sc_status sc_listeners_open(sc_listeners *l, const sc_server_config *c, sc_error *err);
void sc_listeners_close(sc_listeners *l);

#endif

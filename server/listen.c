/* listen.c - see listen.h. */
#include "server/listen.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

enum { BACKLOG = 512 };

typedef union { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; struct sockaddr_un un; struct sockaddr_storage room; } address;

static sc_status keep(sc_listeners *l, int fd, sc_error *err) {
    if (l->count == SC_LISTENERS_MAX) {
        close(fd);
        return sc_fail(err, SC_EINVAL, "listen: more than %d sockets", SC_LISTENERS_MAX);
    }
    l->fd[l->count++] = fd;
    return SC_OK;
}

static bool loopback(const address *a) {
    if (a->any.sa_family == AF_INET) return (ntohl(a->v4.sin_addr.s_addr) >> 24) == 127;
    return IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr) || (IN6_IS_ADDR_V4MAPPED(&a->v6.sin6_addr) && a->v6.sin6_addr.s6_addr[12] == 127);
}

/* What a TCP listener is bound to: port and URL; and whether it may be. */
static sc_status note_tcp(sc_listeners *l, int fd, const sc_server_config *c, sc_error *err) {
    address a = {0};
    socklen_t n = sizeof a;
    char text[INET6_ADDRSTRLEN] = "";
    if (getsockname(fd, &a.any, &n)) return sc_fail(err, SC_EIO, "listen: %s", strerror(errno));
    if (a.any.sa_family != AF_INET && a.any.sa_family != AF_INET6) return SC_OK;
    bool v6 = a.any.sa_family == AF_INET6;
    int port = ntohs(v6 ? a.v6.sin6_port : a.v4.sin_port);
    inet_ntop(a.any.sa_family, v6 ? (void *)&a.v6.sin6_addr : (void *)&a.v4.sin_addr, text, sizeof text);
    if (!loopback(&a) && !c->key.count)
        return sc_fail(err, SC_EINVAL, "listen: %s can be reached by others; configure a key first (--key), or listen on 127.0.0.1", text);
    if (l->port) return SC_OK;
    l->port = port;
    bool wildcard = v6 ? IN6_IS_ADDR_UNSPECIFIED(&a.v6.sin6_addr) : a.v4.sin_addr.s_addr == 0;
    snprintf(l->url, sizeof l->url, v6 && !wildcard ? "http://[%s]:%d/" : "http://%s:%d/", wildcard ? "localhost" : text, port);
    return SC_OK;
}

static sc_status open_tcp(sc_listeners *l, const sc_server_config *c, sc_error *err) {
    address a = {0};
    const int on = 1, off = 0;
    socklen_t n = c->ipv6 ? sizeof a.v6 : sizeof a.v4;
    int fd = socket(c->ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return sc_fail(err, SC_EIO, "listen %s: %s", c->listen, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (c->ipv6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
        a.v6.sin6_family = AF_INET6;
        a.v6.sin6_port = htons((uint16_t)c->port);
        inet_pton(AF_INET6, c->host, &a.v6.sin6_addr);
    } else {
        a.v4.sin_family = AF_INET;
        a.v4.sin_port = htons((uint16_t)c->port);
        inet_pton(AF_INET, c->host, &a.v4.sin_addr);
    }
    if (bind(fd, &a.any, n) || listen(fd, BACKLOG)) {
        int why = errno;
        close(fd);
        return sc_fail(err, why == EADDRINUSE ? SC_EBUSY : SC_EIO, "listen %s: %s", c->listen, strerror(why));
    }
    sc_status rc = keep(l, fd, err);
    return rc ? rc : note_tcp(l, fd, c, err);
}

/* A socket file that nobody answers on is left over from a daemon that was killed. */
static sc_status clear_path(const char *path, const address *a, sc_error *err) {
    struct stat st;
    if (lstat(path, &st)) return errno == ENOENT ? SC_OK : sc_fail(err, SC_EIO, "unix %s: %s", path, strerror(errno));
    if (!S_ISSOCK(st.st_mode)) return sc_fail(err, SC_EINVAL, "unix %s: there is a file of this name that is not a socket", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return sc_fail(err, SC_EIO, "unix %s: %s", path, strerror(errno));
    int refused = connect(fd, &a->any, sizeof a->un) && errno == ECONNREFUSED;
    close(fd);
    if (!refused) return sc_fail(err, SC_EBUSY, "unix %s: another daemon serves it", path);
    return unlink(path) ? sc_fail(err, SC_EIO, "unix %s: %s", path, strerror(errno)) : SC_OK;
}

static sc_status open_unix(sc_listeners *l, const sc_server_config *c, sc_error *err) {
    address a = {0};
    const char *path = c->unix_path;
    sc_status rc;
    if (strlen(path) >= sizeof a.un.sun_path) return sc_fail(err, SC_EINVAL, "unix: the path may have %zu bytes at most", sizeof a.un.sun_path - 1);
    a.un.sun_family = AF_UNIX;
    strcpy(a.un.sun_path, path);
    if ((rc = clear_path(path, &a, err))) return rc;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return sc_fail(err, SC_EIO, "unix %s: %s", path, strerror(errno));
    mode_t mask = umask(0117); /* owner and group; no other thread runs yet */
    int bad = bind(fd, &a.any, sizeof a.un);
    int why = errno;
    umask(mask);
    if (!bad) l->unlink_path = path;
    if (bad || listen(fd, BACKLOG)) {
        if (!bad) why = errno;
        close(fd);
        return sc_fail(err, SC_EIO, "unix %s: %s", path, strerror(why));
    }
    return keep(l, fd, err);
}

static sc_status take_systemd(sc_listeners *l, int count, const sc_server_config *c, sc_error *err) {
    for (int i = 0; i < count; i++) {
        int fd = SD_LISTEN_FDS_START + i;
        if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) <= 0) return sc_fail(err, SC_EINVAL, "LISTEN_FDS: descriptor %d is not a stream socket that listens", fd);
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        sc_status rc = keep(l, fd, err);
        if (!rc) rc = note_tcp(l, fd, c, err);
        if (rc) return rc;
    }
    return SC_OK;
}

sc_status sc_listeners_open(sc_listeners *l, const sc_server_config *c, sc_error *err) {
    sc_status rc = SC_OK;
    memset(l, 0, sizeof *l);
    int given = sd_listen_fds(1);
    if (given > 0) rc = take_systemd(l, given, c, err);
    else if (strcmp(c->listen, "none")) rc = open_tcp(l, c, err);
    if (!rc && *c->unix_path) rc = open_unix(l, c, err);
    if (!rc && !l->count) rc = sc_fail(err, SC_EINVAL, "listen: there is neither an address nor a UNIX socket to serve");
    if (rc) sc_listeners_close(l);
    return rc;
}

void sc_listeners_close(sc_listeners *l) {
    for (int i = 0; i < l->count; i++) close(l->fd[i]);
    l->count = 0;
    if (l->unlink_path) unlink(l->unlink_path);
    l->unlink_path = NULL;
}

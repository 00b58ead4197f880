/* router.c - see router.h. Edge-triggered: every new segment gives one event, so a header that comes byte by byte does not spin. */
#include "server/router.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/metrics.h"
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { PENDING_MAX = 1024, HEADER_MAX = 8192, EVENTS = 64, LINGER_BYTES = 4 << 20, STREAM_SNDBUF = 65536 };
static const uint64_t HEADER_NS = 5000000000u, LINGER_NS = 1000000000u, BREATH_NS = 100000000u;

struct pending {
    int fd;                  /* -1: free */
    bool linger;             /* answered; only read empty */
    size_t drained;
    uint64_t deadline_ns;
    socklen_t addr_n;
    struct sockaddr_storage addr;
};

struct sc_router {
    pthread_t thread;
    sc_router_options o;
    int epoll, wake;
    uint64_t breath_until_ns; /* no descriptors were left: listeners rest until then */
    uint64_t complained_ns;   /* and when the log was told, once in 50 s */
    int used;                 /* slots below this may be taken */
    struct pending pending[PENDING_MAX];
    char buf[HEADER_MAX + 1];
};

static void drop(sc_router *r, struct pending *p, bool close_it) {
    epoll_ctl(r->epoll, EPOLL_CTL_DEL, p->fd, NULL);
    if (close_it) close(p->fd);
    p->fd = -1;
    SC_COUNT(pending_sockets, -1);
}

/* Read and forget. False: the peer has closed, or sends without end. */
static bool drain(sc_router *r, struct pending *p) {
    for (;;) {
        ssize_t n = recv(p->fd, r->buf, sizeof r->buf, MSG_DONTWAIT);
        if (n < 0) return errno == EAGAIN || errno == EINTR;
        p->drained += (size_t)n;
        if (n == 0 || p->drained > LINGER_BYTES) return false;
    }
}

static void refuse(sc_router *r, struct pending *p, sc_route *route) {
    size_t n = 0;
    char *text = sc_route_answer(route, &n);
    if (text) {
        ssize_t sent = send(p->fd, text, n, MSG_NOSIGNAL | MSG_DONTWAIT); /* an empty send buffer takes it whole */
        if (sent != (ssize_t)n) sc_log(SC_LOG_DEBUG, "router", "refusal not sent, status=%d", route->status);
    }
    free(text);
    SC_COUNT(http_requests, 1);
    SC_COUNT(http_errors, 1);
    sc_log(SC_LOG_DEBUG, "router", "refused status=%d request=%s path=%s", route->status, route->request_id, route->path);
    shutdown(p->fd, SHUT_WR);
    p->linger = true;
    p->deadline_ns = sc_now_ns() + LINGER_NS;
    if (!drain(r, p)) drop(r, p, true);
}

static void refuse_plainly(sc_router *r, struct pending *p, int status, const char *detail) {
    sc_route route = {.header = ""};
    sc_request_id(route.request_id, NULL, 0);
    sc_route_refuse(&route, status, detail);
    refuse(r, p, &route);
}

static void hand_over(sc_router *r, struct pending *p, size_t header_n) {
    sc_route route;
    int status = 0, fd = p->fd;
    sc_route_request(r->buf, header_n, r->o.access, p->addr.ss_family == AF_UNIX, sc_now_ns(), &route);
    if (route.kind == SC_ROUTE_REFUSE) {
        if (route.key[0] || strstr(route.path, "/stream")) SC_COUNT(streams_refused, 1);
        refuse(r, p, &route);
        return;
    }
    epoll_ctl(r->epoll, EPOLL_CTL_DEL, fd, NULL); /* before another thread may close it */
    if (route.kind == SC_ROUTE_HTTP) status = r->o.http(r->o.ctx, fd, (struct sockaddr *)&p->addr, p->addr_n);
    else {
        const int bytes = STREAM_SNDBUF; /* otherwise the kernel hides seconds of frames in front of a slow viewer */
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
        if (recv(fd, r->buf, header_n, MSG_DONTWAIT) != (ssize_t)header_n) status = 400;
        else status = r->o.stream(r->o.ctx, fd, &route);
        if (status) SC_COUNT(streams_refused, 1);
    }
    if (!status) { /* the socket is theirs */
        p->fd = -1;
        SC_COUNT(pending_sockets, -1);
        return;
    }
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u32 = (uint32_t)(p - r->pending)};
    epoll_ctl(r->epoll, EPOLL_CTL_ADD, fd, &e);
    sc_route_refuse(&route, status, status == 404   ? "There is no such session."
                                    : status == 409 ? "This session has failed."
                                    : status == 503 ? "All places for viewers are taken, or the daemon is shutting down."
                                                    : "The request could not be read.");
    refuse(r, p, &route);
}

static void look(sc_router *r, struct pending *p) {
    bool bad;
    if (p->linger) {
        if (!drain(r, p)) drop(r, p, true);
        return;
    }
    ssize_t n = recv(p->fd, r->buf, sizeof r->buf, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) { drop(r, p, true); return; }
    size_t end = sc_route_header_end(r->buf, (size_t)n, &bad);
    if (end) hand_over(r, p, end);
    else if (!isupper((unsigned char)r->buf[0])) refuse_plainly(r, p, 400, "This is not HTTP. (TLS ends in a front proxy.)");
    else if (bad) refuse_plainly(r, p, 400, "Lines must end in CR LF.");
    else if (n > HEADER_MAX) refuse_plainly(r, p, 431, "The header is longer than 8 KiB.");
}

static struct pending *free_slot(sc_router *r) {
    for (int i = 0; i < PENDING_MAX; i++) {
        if (r->pending[i].fd >= 0) continue;
        if (i >= r->used) r->used = i + 1;
        return &r->pending[i];
    }
    return NULL;
}

static void listen_again(sc_router *r, bool on) {
    for (int i = 0; i < r->o.listeners->count; i++) {
        struct epoll_event e = {.events = on ? EPOLLIN : 0, .data.u32 = PENDING_MAX + (uint32_t)i};
        epoll_ctl(r->epoll, EPOLL_CTL_MOD, r->o.listeners->fd[i], &e);
    }
}

static void accept_all(sc_router *r, int listener) {
    const int on = 1;
    for (int i = 0; i < EVENTS; i++) { /* level-triggered: the rest comes with the next round */
        struct pending fresh = {.addr_n = sizeof fresh.addr}, *p;
        fresh.fd = accept4(listener, (struct sockaddr *)&fresh.addr, &fresh.addr_n, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fresh.fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                uint64_t now = sc_now_ns();
                if (!r->complained_ns || now - r->complained_ns > 10 * HEADER_NS)
                    sc_log(SC_LOG_WARN, "router", "cannot accept: %s; trying again every 100 ms", strerror(errno)), r->complained_ns = now;
                r->breath_until_ns = now + BREATH_NS;
                listen_again(r, false);
            }
            return;
        }
        if (fresh.addr.ss_family != AF_UNIX) setsockopt(fresh.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        fresh.deadline_ns = sc_now_ns() + HEADER_NS;
        if (!(p = free_slot(r))) { /* nobody's turn to wait: say so and go */
            SC_COUNT(pending_sockets, 1);
            refuse_plainly(r, &fresh, 503, "Too many connections wait to be read.");
            if (fresh.fd >= 0) drop(r, &fresh, true);
            continue;
        }
        *p = fresh;
        SC_COUNT(pending_sockets, 1);
        struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u32 = (uint32_t)(p - r->pending)};
        if (epoll_ctl(r->epoll, EPOLL_CTL_ADD, p->fd, &e)) drop(r, p, true);
    }
}

/* Deadlines that passed; returns when the next one does, in ms for epoll_wait. */
static int sweep(sc_router *r, uint64_t now) {
    uint64_t next = now + 1000000000u;
    if (r->breath_until_ns && r->breath_until_ns <= now) {
        r->breath_until_ns = 0;
        listen_again(r, true);
    }
    if (r->breath_until_ns && r->breath_until_ns < next) next = r->breath_until_ns;
    int highest = 0;
    for (int i = 0; i < r->used; i++) {
        struct pending *p = &r->pending[i];
        if (p->fd >= 0 && p->deadline_ns <= now) {
            if (p->linger) drop(r, p, true);
            else refuse_plainly(r, p, 408, "The header did not come within 5 seconds.");
        }
        if (p->fd < 0) continue;
        highest = i + 1;
        if (p->deadline_ns < next) next = p->deadline_ns;
    }
    r->used = highest;
    return (int)((next - now) / 1000000u) + 1;
}

static void *router_main(void *arg) {
    sc_router *r = arg;
    struct epoll_event events[EVENTS];
    pthread_setname_np(pthread_self(), "router");
    for (;;) {
        int n = epoll_wait(r->epoll, events, EVENTS, sweep(r, sc_now_ns()));
        for (int i = 0; i < n; i++) {
            uint32_t at = events[i].data.u32;
            if (at == UINT32_MAX) return NULL;
            if (at >= PENDING_MAX) { accept_all(r, r->o.listeners->fd[at - PENDING_MAX]); continue; }
            struct pending *p = &r->pending[at];
            if (p->fd < 0) continue;
            look(r, p);
            /* Its header will never be whole once the peer has stopped sending. */
            if (p->fd >= 0 && !p->linger && (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))) drop(r, p, true);
        }
    }
}

sc_status sc_router_start(sc_router **out, const sc_router_options *o, sc_error *err) {
    sc_router *r = calloc(1, sizeof *r);
    sc_status rc = SC_OK;

    *out = NULL;
    if (!r) return sc_fail(err, SC_ENOMEM, "router: out of memory");
    r->o = *o;
    for (int i = 0; i < PENDING_MAX; i++) r->pending[i].fd = -1;
    r->epoll = epoll_create1(EPOLL_CLOEXEC);
    r->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    if (r->epoll < 0 || r->wake < 0 || epoll_ctl(r->epoll, EPOLL_CTL_ADD, r->wake, &e)) {
        rc = sc_fail(err, SC_EIO, "router: %s", strerror(errno));
        goto cleanup;
    }
    for (int i = 0; i < o->listeners->count; i++) {
        e = (struct epoll_event){.events = EPOLLIN, .data.u32 = PENDING_MAX + (uint32_t)i};
        if (epoll_ctl(r->epoll, EPOLL_CTL_ADD, o->listeners->fd[i], &e)) { rc = sc_fail(err, SC_EIO, "router: %s", strerror(errno)); goto cleanup; }
    }
    if (pthread_create(&r->thread, NULL, router_main, r)) { rc = sc_fail(err, SC_ENOMEM, "router: cannot start a thread"); goto cleanup; }
    *out = r;
    r = NULL;
cleanup:
    if (r) {
        if (r->epoll >= 0) close(r->epoll);
        if (r->wake >= 0) close(r->wake);
        free(r);
    }
    return rc;
}

void sc_router_stop(sc_router *r) {
    if (!r) return;
    const uint64_t one = 1;
    if (write(r->wake, &one, sizeof one) != sizeof one) sc_log(SC_LOG_WARN, "router", "cannot be woken: %s", strerror(errno));
    pthread_join(r->thread, NULL);
    for (int i = 0; i < PENDING_MAX; i++) if (r->pending[i].fd >= 0) drop(r, &r->pending[i], true);
    close(r->epoll);
    close(r->wake);
    free(r);
}

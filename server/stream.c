/* stream.c - see stream.h: the thread, its mailbox, and libwebsockets. */
#include "server/stream_internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/metrics.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { SAYS_MAX = 4096, EVENTS = 64, SPARE_FDS = 64 };
enum { ON_WAKE = 0 }; /* in an event's u64; viewers count from 1, the timer is UINT64_MAX */
static const uint64_t TICK_NS = 1000000000u;

struct letter {
    enum { SAY, CLOSED, OFFER } kind;
    struct letter *next;
    sc_channel *channel;
    uint64_t viewer;
    bool all_but;
    struct text *text;
    int code, fd;
    char reason[124];
    sc_route route;
};

/* ---- the mailbox: any thread ---- */

static void wake(sc_stream *s) {
    const uint64_t one = 1;
    if (write(s->wake, &one, sizeof one) < 0 && errno != EAGAIN) sc_log(SC_LOG_WARN, "stream", "cannot be woken: %s", strerror(errno));
}

static void put(sc_stream *s, struct letter *l) {
    pthread_mutex_lock(&s->lock);
    *s->last = l;
    s->last = &l->next;
    if (l->kind == SAY) s->says++;
    pthread_mutex_unlock(&s->lock);
    wake(s);
}

static struct letter *take_all(sc_stream *s, int *stop_ms, int *stop_code) {
    pthread_mutex_lock(&s->lock);
    struct letter *l = s->first;
    s->first = NULL;
    s->last = &s->first;
    s->says = 0;
    *stop_ms = s->stop_ms;
    *stop_code = s->stop_code;
    pthread_mutex_unlock(&s->lock);
    return l;
}

static void letter_free(struct letter *l) {
    if (l->kind == OFFER && l->fd >= 0) close(l->fd);
    sc_text_release(l->text);
    sc_channel_release(l->channel);
    free(l);
}

void sc_stream_frames(void *stream) { wake(stream); }

void sc_stream_say(void *stream, sc_channel *c, uint64_t viewer, bool all_but, const char *text, size_t n) {
    sc_stream *s = stream;
    pthread_mutex_lock(&s->lock);
    bool full = s->says >= SAYS_MAX;
    pthread_mutex_unlock(&s->lock);
    struct letter *l = full ? NULL : calloc(1, sizeof *l);
    struct text *t = l ? sc_text_create(text, n) : NULL;
    if (!t) {
        free(l);
        SC_COUNT(events_lost, 1);
        return;
    }
    l->kind = SAY;
    l->channel = sc_channel_retain(c);
    l->viewer = viewer;
    l->all_but = all_but;
    l->text = t;
    put(s, l);
}

void sc_stream_closed(void *stream, sc_channel *c, int code, const char *reason) {
    struct letter *l = calloc(1, sizeof *l);
    if (!l) return; /* the viewers find out within a second, see sc_viewer_tick */
    l->kind = CLOSED;
    l->channel = sc_channel_retain(c);
    l->code = code;
    strncpy(l->reason, reason, sizeof l->reason - 1);
    put(stream, l);
}

int sc_stream_offer(sc_stream *s, int fd, const sc_route *route) {
    sc_channel_view view;
    sc_channel *c = sc_hub_find(s->o.hub, route->id);
    if (!c) return 404;
    sc_channel_read(c, &view, sc_now_ns());
    sc_channel_release(c);
    if (view.facts.state == SC_STATE_FAILED) return 409;
    if (atomic_load(&sc_count.viewers) + atomic_load(&s->offers_now) >= s->o.max_viewers) return 503;
    struct letter *l = calloc(1, sizeof *l);
    if (!l) return 503;
    l->kind = OFFER;
    l->fd = fd;
    l->route = *route;
    atomic_fetch_add(&s->offers_now, 1);
    put(s, l);
    return 0;
}

/* ---- the thread ---- */

static void deliver(sc_stream *s, struct letter *l) {
    if (l->kind == OFFER) {
        char request[512];
        size_t n = sc_route_canonical(&l->route, request, sizeof request);
        int fd = l->fd;
        l->fd = -1; /* closed by libwebsockets when it fails */
        if (!n || !lws_adopt_socket_vhost_readbuf(s->vhost, fd, request, n)) sc_log(SC_LOG_WARN, "stream", "a socket could not be taken over");
        atomic_fetch_sub(&s->offers_now, 1);
        return;
    }
    for (struct viewer *v = s->viewers; v; v = v->next) {
        if (v->channel != l->channel) continue;
        if (l->kind == CLOSED) sc_viewer_close(v, l->code, l->reason);
        else if (!l->viewer || (v->id == l->viewer) != l->all_but) sc_viewer_text(v, l->text);
    }
}

static void released(void *ctx, sc_channel *c) {
    sc_stream *s = ctx;
    for (struct viewer *v = s->viewers; v; v = v->next) if (v->channel == c) sc_viewer_ask(v);
}

static void arm(sc_stream *s, uint64_t when_ns) {
    if (when_ns == s->armed_ns) return;
    struct itimerspec t = {.it_value = {(time_t)(when_ns / 1000000000u), (long)(when_ns % 1000000000u)}};
    timerfd_settime(s->timer, TFD_TIMER_ABSTIME, &t, NULL);
    s->armed_ns = when_ns;
}

static void read_events(sc_stream *s) {
    struct epoll_event events[EVENTS];
    uint64_t ignored;
    int n = epoll_wait(s->epoll, events, EVENTS, 0);
    for (int i = 0; i < n; i++) {
        uint64_t id = events[i].data.u64;
        if (id == ON_WAKE || id == UINT64_MAX) {
            if (read(id == ON_WAKE ? s->wake : s->timer, &ignored, sizeof ignored) > 0 && id != ON_WAKE) s->armed_ns = 0;
            continue;
        }
        struct viewer *v = s->viewers;
        while (v && v->id != id) v = v->next;
        if (v) sc_viewer_read(v);
    }
}

static void *stream_main(void *arg) {
    sc_stream *s = arg;
    pthread_setname_np(pthread_self(), "stream");
    for (;;) {
        int stop_ms, stop_code;
        lws_service(s->context, 0);
        read_events(s);
        for (struct letter *l = take_all(s, &stop_ms, &stop_code), *next; l; l = next) {
            next = l->next;
            deliver(s, l);
            letter_free(l);
        }
        uint64_t now = sc_now_ns();
        if (stop_ms && !s->stop_by_ns) {
            s->stop_by_ns = now + (uint64_t)stop_ms * 1000000u;
            for (struct viewer *v = s->viewers; v; v = v->next) sc_viewer_close(v, stop_code, stop_code == 1012 ? "device fault" : "shutting down");
        }
        if (s->stop_by_ns && (!s->viewers || now >= s->stop_by_ns)) break;
        uint64_t due = sc_hub_release_due(s->o.hub, now, released, s);
        bool tick = now >= s->tick_ns;
        if (tick) s->tick_ns = now + TICK_NS;
        if (s->tick_ns < due) due = s->tick_ns;
        if (s->stop_by_ns && s->stop_by_ns < due) due = s->stop_by_ns;
        for (struct viewer *v = s->viewers, *next; v; v = next) {
            next = v->next;
            if (v->kill_ns && v->kill_ns > now && v->kill_ns < due) due = v->kill_ns;
            if (tick || (v->kill_ns && v->kill_ns <= now)) sc_viewer_tick(v, now);
        }
        arm(s, due);
    }
    lws_context_destroy(s->context); /* closes s->epoll as well: it was adopted */
    s->context = NULL;
    s->epoll = -1;
    return NULL;
}

/* ---- libwebsockets ---- */

/* What no client can reach: connections come adopted, with a request the router wrote. Whatever is bound here is refused. */
static int on_nothing(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t n) {
    (void)wsi; (void)user; (void)in; (void)n;
    switch (reason) {
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION:
    case LWS_CALLBACK_ESTABLISHED:
    case LWS_CALLBACK_HTTP: return -1;
    default: return 0; /* RAW_RX_FILE among them: our own descriptor; the loop reads it */
    }
}

/* "/{id}/control" or "/{id}/watch", as sc_route_canonical writes it. */
static bool read_path(struct lws *wsi, char id[SC_ID_CHARS + 1], bool *control) {
    char path[64];
    int n = lws_hdr_copy(wsi, path, sizeof path, WSI_TOKEN_GET_URI);
    if (n < SC_ID_CHARS + 2 || path[0] != '/' || !sc_id_valid(path + 1, SC_ID_CHARS)) return false;
    memcpy(id, path + 1, SC_ID_CHARS);
    id[SC_ID_CHARS] = 0;
    *control = !strcmp(path + 1 + SC_ID_CHARS, "/control");
    return *control || !strcmp(path + 1 + SC_ID_CHARS, "/watch");
}

static int on_stream(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t n) {
    struct viewer *v = user;
    char id[SC_ID_CHARS + 1];
    bool control;
    (void)in; (void)n;
    switch (reason) {
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION: return read_path(wsi, id, &control) ? 0 : -1;
    case LWS_CALLBACK_ESTABLISHED:
        if (!v || !read_path(wsi, id, &control)) return -1;
        return sc_viewer_open(lws_context_user(lws_get_context(wsi)), v, wsi, id, control);
    case LWS_CALLBACK_SERVER_WRITEABLE: return v && v->stream ? sc_viewer_write(v) : -1;
    case LWS_CALLBACK_CLOSED: /* also for what was never established, and without memory of its own */
        if (v && v->stream) sc_viewer_gone(v);
        return 0;
    case LWS_CALLBACK_HTTP: return -1;
    default: return 0;
    }
}

static const struct lws_protocols protocols[] = {
    {.name = "none", .callback = on_nothing},
    {.name = SC_STREAM_SUBPROTOCOL, .callback = on_stream, .per_session_data_size = sizeof(struct viewer), .rx_buffer_size = 4096},
    {.name = NULL},
};

static void emit_log(int level, const char *line) {
    if (strstr(line, "calling service")) return; /* said at error level on every adoption */
    sc_log(level & LLL_ERR ? SC_LOG_WARN : SC_LOG_DEBUG, "lws", "%.*s", (int)strcspn(line, "\n"), line);
}

static sc_status open_lws(sc_stream *s, sc_error *err) {
    static const lws_retry_bo_t no_idle_rule = {0}; /* ours is in sc_viewer_tick: libwebsockets does not see what clients send */
    struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN_SERVER, .protocols = protocols, .gid = (gid_t)-1, .uid = (uid_t)-1, .user = s,
        .options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS, .fd_limit_per_thread = (unsigned)(s->o.max_viewers * 2 + SPARE_FDS),
        .timeout_secs = 5, .retry_and_idle_policy = &no_idle_rule, .vhost_name = "stream", .max_http_header_data = 1024};
    lws_sock_file_fd_type fd = {.filefd = s->epoll};

    lws_set_log_level(LLL_ERR | LLL_WARN, emit_log);
    if (!(s->context = lws_create_context(&info))) return sc_fail(err, SC_ENOMEM, "stream: libwebsockets gives no context");
    if (!(s->vhost = lws_create_vhost(s->context, &info))) return sc_fail(err, SC_ENOMEM, "stream: libwebsockets gives no vhost");
    if (!lws_adopt_descriptor_vhost(s->vhost, LWS_ADOPT_RAW_FILE_DESC, fd, protocols[0].name, NULL)) {
        s->epoll = -1;
        return sc_fail(err, SC_EIO, "stream: libwebsockets does not take a descriptor");
    }
    return SC_OK;
}

sc_status sc_stream_create(sc_stream **out, const sc_stream_options *o, sc_error *err) {
    struct epoll_event on_wake = {.events = EPOLLIN, .data.u64 = ON_WAKE}, on_timer = {.events = EPOLLIN, .data.u64 = UINT64_MAX};
    sc_stream *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!s) return sc_fail(err, SC_ENOMEM, "stream: out of memory");
    s->o = *o;
    s->last = &s->first;
    pthread_mutex_init(&s->lock, NULL);
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    s->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->epoll < 0 || s->timer < 0 || s->wake < 0 || epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->wake, &on_wake) ||
        epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->timer, &on_timer)) {
        sc_status rc = sc_fail(err, SC_EIO, "stream: %s", strerror(errno));
        sc_stream_free(s);
        return rc;
    }
    *out = s;
    return SC_OK;
}

sc_status sc_stream_start(sc_stream *s, sc_scheduler *scheduler, sc_error *err) {
    s->scheduler = scheduler;
    sc_status rc = open_lws(s, err);
    if (rc) return rc;
    if (pthread_create(&s->thread, NULL, stream_main, s)) return sc_fail(err, SC_ENOMEM, "stream: cannot start a thread");
    s->started = true;
    return SC_OK;
}

void sc_stream_stop(sc_stream *s, int code, int most_ms) {
    if (!s || !s->started) return;
    pthread_mutex_lock(&s->lock);
    s->stop_ms = most_ms > 0 ? most_ms : 1;
    s->stop_code = code;
    pthread_mutex_unlock(&s->lock);
    wake(s);
    pthread_join(s->thread, NULL);
    s->started = false;
}

void sc_stream_free(sc_stream *s) {
    int ignored[2];
    if (!s) return;
    if (s->context) { /* opened, but never started */
        lws_context_destroy(s->context);
        s->epoll = -1;
    }
    for (struct letter *l = take_all(s, &ignored[0], &ignored[1]), *next; l; l = next) {
        next = l->next;
        letter_free(l);
    }
    if (s->epoll >= 0) close(s->epoll);
    if (s->timer >= 0) close(s->timer);
    if (s->wake >= 0) close(s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

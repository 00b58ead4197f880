/* viewer.c - one WebSocket viewer: what it says, what it is sent, how it ends. See stream.h and PROTOCOL.md.
 *
 * Closing: texts that wait go first, then the close frame; the peer's own close or the end of the connection finishes it, or a deadline. What
 * still comes until then is read and thrown away: left unread it would make our end a reset, which may overtake the close frame. */
#include "server/stream_internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/metrics.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { READS_A_TURN = 8, EXCESS_MAX = 100 };
static const uint64_t SECOND_NS = 1000000000u, SLOW_NS = 10000000000u, STATS_NS = 5000000000u, PING_NS = 15000000000u, SILENCE_NS = 45000000000u,
                      CLOSE_NS = 5000000000u, FLUSH_NS = 50000000u, DEAF_NS = 1000000000u;

static_assert(SC_FRAME_HEADROOM >= LWS_PRE, "the WebSocket header goes in front of the frame");

struct text *sc_text_create(const char *text, size_t n) {
    struct text *t = malloc(sizeof *t + LWS_PRE + n);
    if (!t) return NULL;
    t->refs = 1;
    t->n = n;
    memcpy(t->bytes + LWS_PRE, text, n);
    return t;
}

void sc_text_release(struct text *t) { if (t && --t->refs == 0) free(t); }

void sc_viewer_ask(struct viewer *v) {
    if (!v->asked_ns) v->asked_ns = sc_now_ns();
    lws_callback_on_writable(v->wsi);
}

void sc_viewer_text(struct viewer *v, struct text *t) {
    if (v->close_begun) return;
    if (v->texts_n == SC_VIEWER_TEXTS) { SC_COUNT(events_lost, 1); return; }
    t->refs++;
    v->texts[(v->texts_at + v->texts_n++) % SC_VIEWER_TEXTS] = t;
    sc_viewer_ask(v);
}

static void tell(struct viewer *v, const char *text, size_t n) {
    struct text *t = n ? sc_text_create(text, n) : NULL;
    if (!t) { SC_COUNT(events_lost, 1); return; }
    sc_viewer_text(v, t);
    sc_text_release(t);
}

static void tell_problem(struct viewer *v, const sc_problem *p, const char *ref) {
    char text[16384];
    tell(v, text, sc_message_error(text, sizeof text, p, ref));
}

/* The smallest wish rules only when everybody has one: the others did not ask for less. */
static void set_quality(sc_stream *s, sc_channel *c) {
    int cap = 0;
    for (struct viewer *v = s->viewers; v; v = v->next) {
        if (v->channel != c) continue;
        if (!v->quality) { cap = 0; break; }
        if (v->quality > cap) cap = v->quality;
    }
    sc_channel_quality_cap(c, cap);
}

/* No longer a viewer of its session, though the connection may still stand. */
static void detach(struct viewer *v) {
    sc_channel *c = v->channel;
    if (!c) return;
    v->channel = NULL;
    set_quality(v->stream, c);
    sc_channel_viewer(c, -1, true, sc_now_ns());
    sc_log(SC_LOG_INFO, "stream", "session=%s viewer=%llu left sent=%llu dropped=%llu code=%d", sc_channel_id(c), (unsigned long long)v->id,
           (unsigned long long)v->sent, (unsigned long long)v->dropped, v->close_code);
    sc_channel_release(c);
}

void sc_viewer_close(struct viewer *v, int code, const char *reason) {
    if (v->close_code) return;
    v->close_code = code;
    strncpy(v->close_reason, reason, sizeof v->close_reason - 1);
    v->kill_ns = sc_now_ns() + CLOSE_NS;
    sc_viewer_ask(v);
}

void sc_viewer_cut(struct viewer *v) {
    detach(v);
    lws_set_timeout(v->wsi, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_SYNC);
}

int sc_viewer_open(sc_stream *s, struct viewer *v, struct lws *wsi, const char *id, bool control) {
    char text[512];
    sc_channel_view view;
    uint64_t now = sc_now_ns();
    struct epoll_event e = {.events = EPOLLIN};

    v->stream = s;
    v->wsi = wsi;
    v->fd = lws_get_socket_fd(wsi);
    v->id = e.data.u64 = ++s->next_id;
    v->control = control;
    v->last = v->repeat = v->ack = -1;
    v->heard_ns = v->pinged_ns = v->stats_ns = v->tokens_ns = now;
    v->tokens = SC_CLIENT_MESSAGES_PER_S;
    sc_ws_reader_init(&v->reader, SC_CLIENT_MESSAGE_MAX);
    lws_rx_flow_control(wsi, 0);
    v->next = s->viewers;
    if (v->next) v->next->before = v;
    s->viewers = v;
    atomic_fetch_add(&s->viewers_now, 1);
    SC_COUNT(streams_opened, 1);
    if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, v->fd, &e)) {
        sc_log(SC_LOG_WARN, "stream", "epoll: %s", strerror(errno));
        return -1;
    }
    if (!(v->channel = sc_hub_find(s->o.hub, id))) { /* ended between the router's look and now */
        sc_viewer_close(v, 4404, "no such session");
        return 0;
    }
    sc_channel_read(v->channel, &view, now);
    v->repeat = view.frame;
    tell(v, text, sc_message_hello(text, sizeof text, id, control ? "control" : "watch", view.frame));
    tell(v, text, sc_message_state(text, sizeof text, sc_state_name(view.facts.state), view.facts.reason[0] ? view.facts.reason : NULL));
    sc_channel_viewer(v->channel, 1, true, now);
    set_quality(s, v->channel);
    sc_log(SC_LOG_INFO, "stream", "session=%s viewer=%llu role=%s", id, (unsigned long long)v->id, control ? "control" : "watch");
    return 0;
}

void sc_viewer_gone(struct viewer *v) {
    sc_stream *s = v->stream;
    if (!s) return; /* refused before it was a viewer */
    epoll_ctl(s->epoll, EPOLL_CTL_DEL, v->fd, NULL);
    detach(v);
    for (; v->texts_n; v->texts_n--, v->texts_at++) sc_text_release(v->texts[v->texts_at % SC_VIEWER_TEXTS]);
    sc_ws_reader_free(&v->reader);
    if (v->next) v->next->before = v->before;
    if (v->before) v->before->next = v->next;
    else s->viewers = v->next;
    v->stream = NULL;
    atomic_fetch_sub(&s->viewers_now, 1);
}

/* ---- what it says ---- */

static void command_done(sc_command *c) {
    sc_channel *channel = c->ctx;
    if (c->problem.status) {
        char *text = malloc(SC_SERVER_MESSAGE_MAX);
        if (text) sc_hub_say(NULL, channel, c->viewer, false, text, sc_message_error(text, SC_SERVER_MESSAGE_MAX, &c->problem, c->ref));
        free(text);
    }
    sc_channel_release(channel);
    free(c);
}

static void post(struct viewer *v, sc_command_kind kind, const sc_client_message *m) {
    sc_problem p = {0};
    sc_command *c = calloc(1, sizeof *c);
    if (!c) {
        sc_problem_set(&p, 503, "Out of memory; try again later.");
        tell_problem(v, &p, m->ref);
        return;
    }
    c->kind = kind;
    strcpy(c->id, sc_channel_id(v->channel));
    if (kind == SC_COMMAND_PROMPT) {
        c->patch.has_prompt = true;
        memcpy(c->patch.prompt, m->text, sizeof c->patch.prompt);
        c->patch.prompt_bytes = m->text_bytes;
        c->patch.transition = m->transition;
        strcpy(c->ref, m->ref);
    }
    c->viewer = v->id;
    c->asked_ns = sc_now_ns();
    c->done = command_done;
    c->ctx = sc_channel_retain(v->channel);
    if (sc_scheduler_post(v->stream->scheduler, c)) return;
    sc_problem_set(&p, 503, "Too much to do at the moment; try again later.");
    tell_problem(v, &p, m->ref);
    sc_channel_release(v->channel);
    free(c);
}

/* A bucket of 20 messages that fills with 20 a second. */
static bool within_rate(struct viewer *v, uint64_t now) {
    v->tokens += (double)(now - v->tokens_ns) * 1e-9 * SC_CLIENT_MESSAGES_PER_S;
    v->tokens_ns = now;
    if (v->tokens > SC_CLIENT_MESSAGES_PER_S) {
        v->tokens = SC_CLIENT_MESSAGES_PER_S;
        v->excess = 0;
    }
    if (v->tokens < 1) return false;
    v->tokens -= 1;
    return true;
}

static void too_many(struct viewer *v, uint64_t now) {
    sc_problem p = {0};
    if (++v->excess > EXCESS_MAX) { sc_viewer_close(v, 1008, "too many messages"); return; }
    if (v->scolded_ns && now - v->scolded_ns < SECOND_NS) return;
    v->scolded_ns = now;
    sc_problem_set(&p, 429, "Too many messages: at most %d a second are read, the others are dropped.", SC_CLIENT_MESSAGES_PER_S);
    tell_problem(v, &p, NULL);
}

static void on_text(struct viewer *v, const char *text, size_t n) {
    char answer[256];
    sc_client_message m;
    sc_problem p = {0};
    uint64_t now = sc_now_ns();

    if (!within_rate(v, now)) { too_many(v, now); return; }
    if (!sc_client_message_parse(text, n, &m, &p)) { tell_problem(v, &p, m.ref); return; }
    if (sc_client_kind_needs_control(m.kind) && !v->control) {
        sc_problem_set(&p, 403, "A watcher may not send \"%s\": this needs the role control.", sc_client_kind_name(m.kind));
        tell_problem(v, &p, m.ref);
        return;
    }
    switch (m.kind) {
    case SC_CLIENT_PROMPT: post(v, SC_COMMAND_PROMPT, &m); break;
    case SC_CLIENT_PAUSE: post(v, SC_COMMAND_PAUSE, &m); break;
    case SC_CLIENT_RESUME: post(v, SC_COMMAND_RESUME, &m); break;
    case SC_CLIENT_ACK: v->ack = (int64_t)m.frame; break;
    case SC_CLIENT_PING: tell(v, answer, sc_message_pong(answer, sizeof answer, m.t, now / 1000)); break;
    case SC_CLIENT_QUALITY:
        v->quality = m.jpeg_quality;
        set_quality(v->stream, v->channel);
        break;
    }
}

void sc_viewer_read(struct viewer *v) {
    for (int i = 0; i < READS_A_TURN; i++) {
        ssize_t n = recv(v->fd, v->stream->rx, sizeof v->stream->rx, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0) { sc_viewer_cut(v); return; }
        v->heard_ns = sc_now_ns();
        const unsigned char *p = v->stream->rx, *end = p + n;
        for (sc_ws_event e; !v->deaf && (e = sc_ws_read(&v->reader, &p, end)) != SC_WS_MORE;) {
            if (e == SC_WS_TEXT && !v->close_code) on_text(v, (const char *)v->reader.data, v->reader.n);
            else if (e == SC_WS_PING && !v->close_code) { /* of several only the newest needs its answer */
                memcpy(v->pong + LWS_PRE, v->reader.data, v->reader.n);
                v->pong_n = v->reader.n;
                v->pong_due = true;
                sc_viewer_ask(v);
            } else if (e == SC_WS_CLOSE) {
                if (v->close_begun) { sc_viewer_cut(v); return; } /* ours is answered */
                v->peer_closed = v->deaf = true;
                sc_viewer_close(v, v->reader.code == 1005 ? 1000 : v->reader.code, "");
            } else if (e == SC_WS_BAD) {
                sc_log(SC_LOG_INFO, "stream", "viewer=%llu bad input: %s", (unsigned long long)v->id, v->reader.why);
                v->deaf = true;
                sc_viewer_close(v, v->reader.code, v->reader.why);
            }
        }
    }
}

/* ---- what it is sent ---- */

static int send_frame(struct viewer *v) {
    sc_frame *f = sc_channel_newest(v->channel);
    int rc = 0;
    if (f && (int64_t)f->head.frame > v->last) {
        int64_t number = (int64_t)f->head.frame;
        uint64_t now = sc_now_ns(), gap = v->last >= 0 ? (uint64_t)(number - v->last - 1) : 0;
        v->dropped += gap;
        sc_frame_header_patch(sc_frame_message(f), f->head.flags | (number == v->repeat ? SC_FRAME_REPEAT : 0), now / 1000, (uint32_t)v->dropped);
        rc = lws_write(v->wsi, sc_frame_message(f), sc_frame_message_bytes(f), LWS_WRITE_BINARY) < 0 ? -1 : 0;
        v->last = number;
        v->sent++;
        sc_channel_count(v->channel, 1, gap);
        SC_COUNT(bytes_sent, sc_frame_message_bytes(f));
        sc_channel_prompt_shown(v->channel, f->head.prompt_seq, now);
    }
    sc_frame_release(f);
    return rc;
}

static int send_close(struct viewer *v) {
    lws_close_reason(v->wsi, (enum lws_close_status)v->close_code, (unsigned char *)v->close_reason, strlen(v->close_reason));
    v->close_begun = true;
    if (v->peer_closed) v->kill_ns = sc_now_ns() + FLUSH_NS; /* nothing more will come from there: the close frame, and the end */
    else if (v->deaf) v->kill_ns = sc_now_ns() + DEAF_NS;    /* its close frame would not be understood */
    detach(v);
    return -1;
}

int sc_viewer_write(struct viewer *v) {
    v->asked_ns = 0;
    if (v->close_begun) return 0;
    if (lws_partial_buffered(v->wsi)) { sc_viewer_ask(v); return 0; }
    while (v->texts_n && !lws_send_pipe_choked(v->wsi)) {
        struct text *t = v->texts[v->texts_at];
        v->texts_at = (v->texts_at + 1) % SC_VIEWER_TEXTS;
        v->texts_n--;
        int rc = lws_write(v->wsi, t->bytes + LWS_PRE, t->n, LWS_WRITE_TEXT);
        sc_text_release(t);
        if (rc < 0) return -1;
    }
    if (v->close_code && !v->texts_n) return send_close(v);
    if (v->pong_due && !lws_send_pipe_choked(v->wsi)) {
        v->pong_due = false;
        if (lws_write(v->wsi, v->pong + LWS_PRE, v->pong_n, LWS_WRITE_PONG) < 0) return -1;
    }
    if (v->ping_due && !lws_send_pipe_choked(v->wsi)) {
        unsigned char nothing[LWS_PRE];
        v->ping_due = false;
        if (lws_write(v->wsi, nothing + LWS_PRE, 0, LWS_WRITE_PING) < 0) return -1;
    }
    if (v->channel && !v->close_code && !lws_send_pipe_choked(v->wsi) && send_frame(v)) return -1;
    if (v->texts_n || v->pong_due || lws_partial_buffered(v->wsi)) sc_viewer_ask(v);
    return 0;
}

static void tell_stats(struct viewer *v, uint64_t now) {
    char text[512];
    sc_channel_view view;
    sc_channel_read(v->channel, &view, now);
    sc_viewer_stats s = {.frame = view.frame, .chunk = view.facts.chunk, .viewers = view.viewers, .sent = v->sent, .dropped = v->dropped,
                         .lag_frames = v->ack < 0 || view.frame < v->ack ? -1 : view.frame - v->ack,
                         .lookahead_s = (double)view.lookahead_ns * 1e-9};
    if (v->ack >= 0 && view.frame >= 0 && view.frame < v->ack) s.lag_frames = 0;
    tell(v, text, sc_message_stats(text, sizeof text, &s));
}

void sc_viewer_tick(struct viewer *v, uint64_t now) {
    if (v->kill_ns) {
        if (now >= v->kill_ns) sc_viewer_cut(v);
        return;
    }
    if (!v->channel) return;
    if (v->asked_ns && now > v->asked_ns && now - v->asked_ns > SLOW_NS) {
        SC_COUNT(streams_closed_slow, 1);
        sc_viewer_close(v, 1013, "nothing was taken for 10 seconds");
        return;
    }
    if (now > v->heard_ns && now - v->heard_ns > SILENCE_NS) { sc_viewer_cut(v); return; }
    if (now > v->heard_ns + PING_NS && now > v->pinged_ns + PING_NS) {
        v->pinged_ns = now;
        v->ping_due = true;
        sc_viewer_ask(v);
    }
    if (now >= v->stats_ns + STATS_NS) {
        v->stats_ns = now;
        tell_stats(v, now);
    }
    if (sc_channel_closed(v->channel)) sc_viewer_close(v, 1000, "session ended"); /* in case its own letter was lost */
}

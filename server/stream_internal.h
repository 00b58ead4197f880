/* stream_internal.h - what stream.c (thread, mailbox, libwebsockets) and viewer.c (one connection) share. Stream thread only, except where
 * it is said. */
#ifndef SC_SERVER_STREAM_INTERNAL_H
#define SC_SERVER_STREAM_INTERNAL_H
#include "server/stream.h"
#include "server/ws_reader.h"
#include <libwebsockets.h>

enum { SC_VIEWER_TEXTS = 64, SC_RX_BYTES = 65536 };

/* A text message, shared by the viewers it goes to. */
struct text {
    int refs;
    size_t n;
    unsigned char bytes[]; /* LWS_PRE, then the text */
};
struct text *sc_text_create(const char *text, size_t n); /* any thread; NULL: out of memory */
void sc_text_release(struct text *t);

/* libwebsockets' memory of a connection; zeroed by it. */
struct viewer {
    sc_stream *stream;
    struct lws *wsi;
    struct viewer *next, *before;
    sc_channel *channel;      /* NULL: closing, no longer counted */
    uint64_t id;
    int fd;
    bool control;
    sc_ws_reader reader;
    struct text *texts[SC_VIEWER_TEXTS];
    int texts_at, texts_n;
    int64_t last, repeat;     /* number of the last frame sent; of the one that is a repeat, -1 for none */
    int64_t ack;
    uint64_t sent, dropped;
    uint64_t asked_ns;        /* since when something waits to be taken, 0: nothing */
    uint64_t heard_ns, pinged_ns, stats_ns;
    int quality;              /* at most, 0: no wish */
    double tokens;            /* messages it may still send */
    uint64_t tokens_ns, scolded_ns;
    int excess;
    unsigned char pong[LWS_PRE + 125];
    size_t pong_n;
    bool pong_due, ping_due;
    int close_code;           /* 0: not closing */
    char close_reason[124];
    bool peer_closed, close_begun;
    bool deaf;                /* what it sends is no longer looked at */
    uint64_t kill_ns;         /* cut then, 0: never */
};

struct sc_stream {
    sc_stream_options o;
    sc_scheduler *scheduler;
    pthread_t thread;
    bool started;
    struct lws_context *context;
    struct lws_vhost *vhost;
    int epoll, timer, wake;
    struct viewer *viewers;
    uint64_t next_id, tick_ns, armed_ns, stop_by_ns;
    unsigned char rx[SC_RX_BYTES];

    pthread_mutex_t lock;
    struct letter *first, **last; /* guarded by lock, like the three below */
    int says, stop_ms, stop_code; /* stop_ms 0: run */
    atomic_int viewers_now, offers_now;
};

/* A connection is up: greet it. Nonzero: let it go. */
int sc_viewer_open(sc_stream *s, struct viewer *v, struct lws *wsi, const char *id, bool control);
void sc_viewer_read(struct viewer *v);                  /* not from inside a callback; may free v */
int sc_viewer_write(struct viewer *v);                  /* the socket can take something; nonzero: close */
void sc_viewer_text(struct viewer *v, struct text *t);  /* t borrowed */
void sc_viewer_ask(struct viewer *v);                   /* something waits to be written */
void sc_viewer_close(struct viewer *v, int code, const char *reason);
void sc_viewer_tick(struct viewer *v, uint64_t now_ns); /* once a second; not from inside a callback; may free v */
void sc_viewer_cut(struct viewer *v);                   /* at once; not from inside a callback; frees v, or will */
void sc_viewer_gone(struct viewer *v);                  /* the connection is no more */

#endif

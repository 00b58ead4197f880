/* stream.h - the stream thread: every WebSocket, and the clock that releases frames.
 *
 *     router --socket, route-->  mailbox  <--texts, closes-- hub        libwebsockets: handshake, frames out, closing
 *                                   |                                   ws_reader.h:   frames in
 *     loop: lws_service -> what is readable -> mailbox -> frames that are due -> once a second: stats, pings, the slow
 *
 * libwebsockets waits in poll(); an epoll descriptor adopted into it wakes it for our own things: client bytes, the mailbox, the timer.
 * Client bytes are read by us (why: ws_reader.h), so its own reading is switched off with rx flow control.
 *
 * A viewer has a short queue of texts and nothing else: when its socket can take something, it gets the texts and then the newest frame,
 * straight from the one buffer all viewers share. A viewer that takes nothing for 10 s while something waits is closed with 1013. */
#ifndef SC_SERVER_STREAM_H
#define SC_SERVER_STREAM_H
#include "base/status.h"
#include "server/hub.h"
#include "server/router_request.h"
#include "server/scheduler.h"

typedef struct sc_stream sc_stream;

typedef struct {
    sc_hub *hub;
    int max_viewers;           /* of both kinds, WebSocket and Motion-JPEG */
} sc_stream_options;

/* Made before the hub's listener is set, started when the scheduler is there. */
sc_status sc_stream_create(sc_stream **out, const sc_stream_options *o, sc_error *err);
sc_status sc_stream_start(sc_stream *s, sc_scheduler *scheduler, sc_error *err);

/* Router thread. 0: the socket is taken; else the HTTP status to refuse it with. */
int sc_stream_offer(sc_stream *s, int fd, const sc_route *route);

/* For sc_hub_listener; ctx is the stream. Any thread. */
void sc_stream_frames(void *stream);
void sc_stream_say(void *stream, sc_channel *c, uint64_t viewer, bool all_but, const char *text, size_t n);
void sc_stream_closed(void *stream, sc_channel *c, int code, const char *reason);

/* Close all viewers (with `code` where nothing else was said), wait for them at most so long, stop. */
void sc_stream_stop(sc_stream *s, int code, int most_ms);
void sc_stream_free(sc_stream *s); /* NULL is fine */

#endif

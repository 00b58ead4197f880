/* http.h - everything that is not a WebSocket, by libmicrohttpd: one thread, one request a connection.
 *
 * A connection comes from the router, which has judged the form of its request, Host and Origin; it ends after its answer, so that every
 * request passes there. What takes time never blocks the thread: the connection is suspended and whoever has the answer resumes it:
 *
 *     POST, PATCH, DELETE    until the engine thread has done the command; a fork until its chunk comes, a snapshot until it is on the disk
 *     PATCH ?wait=applied    until a frame that shows the prompt was sent
 *     stream.mjpg            between two frames
 *     events                 between two events
 *
 * Clips are asked for in a table (videos.h), which the engine thread looks into: nobody waits for that.
 */
#ifndef SC_SERVER_HTTP_H
#define SC_SERVER_HTTP_H
#include "base/status.h"
#include "server/access.h"
#include "server/hub.h"
#include "server/scheduler.h"
#include <sys/socket.h>

typedef struct sc_http sc_http;

typedef struct {
    sc_hub *hub;
    sc_access *access;
    sc_videos *videos;
    int max_viewers, jpeg_quality;
    int64_t model_created;      /* Unix seconds */
} sc_http_options;

/* Made before the hub's listener is set, started when the scheduler is there. */
sc_status sc_http_create(sc_http **out, const sc_http_options *o, sc_error *err);
sc_status sc_http_start(sc_http *h, sc_scheduler *scheduler, sc_error *err);

/* Router thread. 0: the socket is taken; else the status to refuse it with. */
int sc_http_offer(sc_http *h, int fd, const struct sockaddr *addr, socklen_t n);

/* For sc_hub_listener; ctx is the sc_http. Stream or engine thread. */
void sc_http_released(void *http, sc_channel *c);
void sc_http_shown(void *http, sc_channel *c, uint32_t seq);
void sc_http_logged(void *http, sc_channel *c);

void sc_http_tick(sc_http *h);  /* about once a second: waits that took too long, readers of events that had nothing for long. Any thread. */
void sc_http_stop(sc_http *h);  /* after the scheduler: nothing is left to wait for */
void sc_http_free(sc_http *h);  /* NULL is fine */

#endif

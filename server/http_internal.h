/* http_internal.h - what the files of the HTTP side share: a request on its way, and how it is answered.
 *
 *     http.c           the daemon, the life of a request, what may be asked: routes, keys, bodies
 *     http_answer.c    answers and their headers
 *     http_info.c      viewer files, health, metrics, models, capacity
 *     http_sessions.c  sessions, snapshots, memory, schedules and tickets
 *     http_videos.c    clips, and their files
 *     http_feed.c      answers that go on, and wait in between
 *     http_pictures.c  snapshot and Motion-JPEG
 *     http_log.c       the log of a session, as lines and as events
 *
 * HTTP thread only, except where it is said. */
#ifndef SC_SERVER_HTTP_INTERNAL_H
#define SC_SERVER_HTTP_INTERNAL_H
#include "server/http.h"
#include "server/request_id.h"
#include "proto/problem.h"
#include "web/web_files.h"
#include <microhttpd.h>
#include <pthread.h>

struct sc_request;
typedef enum MHD_Result (*http_handler)(struct sc_request *r);

struct route {
    const char *method, *path;      /* {id} stands for the id of a session or video; a path that ends in * is a beginning */
    http_handler handle;
    bool body, key, page;           /* takes JSON; needs an API key; is for browsers: a query does not matter */
    const char *query;              /* the parameters it knows, spaces between them; NULL: none */
};

struct sc_request {
    sc_http *http;
    struct MHD_Connection *connection;
    const struct route *route;
    const char *url;                /* libmicrohttpd's, good while the request lives */
    char method[8], request_id[SC_REQUEST_ID_MAX + 1], session[SC_ID_CHARS + 1];
    bool asked;                     /* its command is on the way or done */
    uint64_t began_ns;
    char *body;                     /* room + 1 bytes; NULL: none */
    size_t body_n, room;
    sc_problem problem;             /* of its command */
    char id[SC_ID_CHARS + 1];       /* of the session made */
    char name[SC_SNAPSHOT_NAME_MAX + 1]; /* of a snapshot: and where it stands, its size, when */
    uint64_t chunk, saved_bytes;
    int64_t saved_at;
    sc_memory_map memory;           /* of a session: owned */
    bool has_seq, wait_shown, waiting, timed_out;
    uint32_t seq;
    int64_t applies_at;
    sc_channel *channel;            /* PATCH: whose frames are waited for */
    uint64_t wait_until_ns;
    struct sc_request *next;        /* of those that wait; guarded by http->lock */
};

struct sc_http {
    sc_http_options o;
    sc_scheduler *scheduler;
    struct MHD_Daemon *daemon;
    pthread_mutex_t lock;
    struct sc_request *waiting;     /* guarded by lock */
    struct feed *motions, *log_readers; /* guarded by lock */
    double wrong_keys;              /* a bucket: how many lately */
    uint64_t wrong_keys_ns;
};

extern const struct route http_routes[];
extern const size_t http_route_count;

/* ---- http_answer.c: each queues the answer and returns what the handler returns ---- */
typedef enum { ANSWER_COPY, ANSWER_MOVE, ANSWER_CONSTANT } answer_memory; /* MOVE: free()d; data NULL: out of memory, 500 */
enum MHD_Result http_answer(struct sc_request *r, int status, const char *type, const void *data, size_t n, answer_memory how);
enum MHD_Result http_answer_json(struct sc_request *r, int status, char *text, size_t n); /* moved */
enum MHD_Result http_problem(struct sc_request *r, int status, const char *detail);
enum MHD_Result http_problem_full(struct sc_request *r, const sc_problem *p);
/* For answers with headers of their own; the response is moved. NULL: out of memory, cuts the connection. */
struct MHD_Response *http_response(const void *data, size_t n, answer_memory how);
enum MHD_Result http_send(struct sc_request *r, int status, struct MHD_Response *response, const char *type);
const char *http_header(struct sc_request *r, const char *name);
const char *http_query(struct sc_request *r, const char *name);
bool http_origin_listed(struct sc_request *r);

/* ---- handlers ---- */
enum MHD_Result http_get_page(struct sc_request *r);
enum MHD_Result http_get_health(struct sc_request *r);
enum MHD_Result http_get_ready(struct sc_request *r);
enum MHD_Result http_get_metrics(struct sc_request *r);
enum MHD_Result http_get_openapi(struct sc_request *r);
enum MHD_Result http_get_models(struct sc_request *r);
enum MHD_Result http_get_capacity(struct sc_request *r);
enum MHD_Result http_get_sessions(struct sc_request *r);
enum MHD_Result http_get_session(struct sc_request *r);
enum MHD_Result http_post_session(struct sc_request *r);
enum MHD_Result http_patch_session(struct sc_request *r);
enum MHD_Result http_delete_session(struct sc_request *r);
enum MHD_Result http_post_fork(struct sc_request *r);
enum MHD_Result http_post_save(struct sc_request *r);
enum MHD_Result http_post_restore(struct sc_request *r);
enum MHD_Result http_get_schedule(struct sc_request *r);
enum MHD_Result http_put_schedule(struct sc_request *r);
enum MHD_Result http_get_memory(struct sc_request *r);
enum MHD_Result http_post_ticket(struct sc_request *r);
enum MHD_Result http_get_snapshot(struct sc_request *r);
enum MHD_Result http_get_motion(struct sc_request *r);
enum MHD_Result http_get_log(struct sc_request *r);
enum MHD_Result http_get_events(struct sc_request *r);
enum MHD_Result http_post_video(struct sc_request *r);
enum MHD_Result http_get_videos(struct sc_request *r);
enum MHD_Result http_get_video(struct sc_request *r);
enum MHD_Result http_get_video_content(struct sc_request *r);
enum MHD_Result http_delete_video(struct sc_request *r);
enum MHD_Result http_no_stream(struct sc_request *r);

/* An answer that goes on: the first member of what http_pictures.c and http_log.c have of each. */
struct feed {
    sc_http *http;
    struct MHD_Connection *connection;
    sc_channel *channel;    /* a reference */
    uint64_t wrote_ns;      /* while it is suspended: guarded by http->lock */
    bool suspended;         /* guarded by http->lock */
    struct feed *next;      /* guarded by http->lock */
};
void http_feed_begin(struct feed **list, struct feed *f);
void http_feed_end(struct feed **list, struct feed *f); /* its reference stays the caller's */
void http_feed_suspend(struct feed *f);                 /* http->lock is held */
void http_feeds_resume(sc_http *h, struct feed *const *list, const sc_channel *c, uint64_t silent_since_ns); /* of c, or NULL: of any; any thread */

const char *http_not_ready(struct sc_request *r);       /* http_sessions.c: why the engine takes nothing, or NULL */
void http_forget(struct sc_request *r);                 /* http_sessions.c: what a request holds */
void http_motions_released(sc_http *h, sc_channel *c);  /* http_pictures.c; stream or engine thread */
void http_log_written(sc_http *h, sc_channel *c);       /* http_log.c; any thread. NULL: of any session */
void http_log_tick(sc_http *h);

#endif

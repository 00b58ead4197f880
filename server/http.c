/* http.c - see http.h and http_internal.h. */
#include "server/http_internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/metrics.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { CONNECTIONS = 1024, CONNECTIONS_TAKEN = 960, POOL_BYTES = 32768, IDLE_S = 10, WRONG_KEYS = 20 };
static const uint64_t BODY_NS = 10000000000u;

#define ROUTE(m, p, h, ...) {.method = m, .path = p, .handle = h, __VA_ARGS__}
const struct route http_routes[] = {
    ROUTE("GET", "/", http_get_page, .page = true),
    ROUTE("GET", "/viewer/*", http_get_page, .page = true),
    ROUTE("GET", "/healthz", http_get_health, .key = false),
    ROUTE("GET", "/readyz", http_get_ready, .key = false),
    ROUTE("GET", "/metrics", http_get_metrics, .key = true),
    ROUTE("GET", "/openapi.json", http_get_openapi, .key = false),
    ROUTE("GET", "/v1/models", http_get_models, .key = true),
    ROUTE("GET", "/v1/capacity", http_get_capacity, .key = true),
    ROUTE("POST", "/v1/sessions", http_post_session, .body = true, .key = true),
    ROUTE("GET", "/v1/sessions", http_get_sessions, .key = true),
    ROUTE("GET", "/v1/sessions/{id}", http_get_session, .key = true),
    ROUTE("PATCH", "/v1/sessions/{id}", http_patch_session, .body = true, .key = true, .query = "wait"),
    ROUTE("DELETE", "/v1/sessions/{id}", http_delete_session, .key = true),
    ROUTE("POST", "/v1/sessions/{id}/fork", http_post_fork, .body = true, .key = true),
    ROUTE("POST", "/v1/sessions/{id}/save", http_post_save, .body = true, .key = true),
    ROUTE("POST", "/v1/sessions/restore", http_post_restore, .body = true, .key = true),
    ROUTE("GET", "/v1/sessions/{id}/schedule", http_get_schedule, .key = true),
    ROUTE("PUT", "/v1/sessions/{id}/schedule", http_put_schedule, .body = true, .key = true),
    ROUTE("GET", "/v1/sessions/{id}/memory", http_get_memory, .key = true),
    ROUTE("POST", "/v1/sessions/{id}/tickets", http_post_ticket, .body = true, .key = true),
    ROUTE("GET", "/v1/sessions/{id}/snapshot.jpg", http_get_snapshot, .key = true, .page = true), /* ?t=... makes browsers load anew */
    ROUTE("GET", "/v1/sessions/{id}/stream.mjpg", http_get_motion, .key = true, .page = true),
    ROUTE("GET", "/v1/sessions/{id}/log", http_get_log, .key = true),
    ROUTE("GET", "/v1/sessions/{id}/events", http_get_events, .key = true),
    ROUTE("POST", "/v1/videos", http_post_video, .body = true, .key = true),
    ROUTE("GET", "/v1/videos", http_get_videos, .key = true, .query = "limit after order"),
    ROUTE("GET", "/v1/videos/" SC_VIDEO_ID_PREFIX "{id}", http_get_video, .key = true),
    ROUTE("GET", "/v1/videos/" SC_VIDEO_ID_PREFIX "{id}/content", http_get_video_content, .key = true),
    ROUTE("DELETE", "/v1/videos/" SC_VIDEO_ID_PREFIX "{id}", http_delete_video, .key = true),
    ROUTE("GET", "/v1/sessions/{id}/stream", http_no_stream, .page = true), /* GET itself is the router's */
};
const size_t http_route_count = sizeof http_routes / sizeof *http_routes;

/* ---- what may be asked ---- */

static bool path_matches(const char *pattern, const char *url, char session[SC_ID_CHARS + 1]) {
    session[0] = 0;
    for (; *pattern; pattern++, url++) {
        if (*pattern == '*') return true;
        if (*pattern == '{') {
            size_t n = strcspn(url, "/");
            if (!n) return false;
            if (n == SC_ID_CHARS) memcpy(session, url, n + 1), session[n] = 0; /* another length is no session's */
            url += n - 1;
            pattern += 3;
        } else if (*pattern != *url) return false;
    }
    return !*url;
}

/* The route, or NULL with `allow` listing the methods of the path ("" when there is no such path). */
static const struct route *find_route(struct sc_request *r, const char *method, char allow[64]) {
    const char *wanted = !strcmp(method, "HEAD") ? "GET" : method;
    allow[0] = 0;
    for (size_t i = 0; i < http_route_count; i++) {
        const struct route *route = &http_routes[i];
        char session[SC_ID_CHARS + 1];
        if (!path_matches(route->path, r->url, session)) continue;
        if (!strcmp(route->method, wanted)) {
            memcpy(r->session, session, sizeof session);
            return route;
        }
        if (allow[0]) strcat(allow, ", ");
        strcat(allow, strcmp(route->method, "GET") ? route->method : route->handle == http_no_stream ? "GET" : "GET, HEAD");
    }
    return NULL;
}

static enum MHD_Result wrong_method(struct sc_request *r, const char *allow) {
    char detail[128];
    sc_problem p = {0};
    snprintf(detail, sizeof detail, "This path takes %s.", allow);
    sc_problem_set(&p, 405, "%s", detail);
    size_t n;
    char *text = sc_problem_json(&p, r->url, &n);
    struct MHD_Response *response = text ? http_response(text, n, ANSWER_MOVE) : NULL;
    if (!response) return MHD_NO;
    MHD_add_response_header(response, "Allow", allow);
    return http_send(r, 405, response, SC_PROBLEM_MEDIA_TYPE);
}

/* A browser asks this before it sends what a form could not; only pages of listed origins get a yes. */
static enum MHD_Result preflight(struct sc_request *r, const char *allow) {
    struct MHD_Response *response = http_response("", 0, ANSWER_CONSTANT);
    if (!response) return MHD_NO;
    MHD_add_response_header(response, "Access-Control-Allow-Methods", allow);
    MHD_add_response_header(response, "Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id");
    MHD_add_response_header(response, "Access-Control-Max-Age", "600");
    return http_send(r, 204, response, NULL);
}

/* Wrong keys fill a bucket that empties by one a second; full, the answer is 429. Right ones are never kept waiting by it. */
static bool too_many_wrong_keys(sc_http *h) {
    uint64_t now = sc_now_ns();
    h->wrong_keys -= (double)(now - h->wrong_keys_ns) * 1e-9;
    h->wrong_keys_ns = now;
    if (h->wrong_keys < 0) h->wrong_keys = 0;
    if (h->wrong_keys > WRONG_KEYS) return true;
    h->wrong_keys += 1;
    return false;
}

static enum MHD_Result no_key(struct sc_request *r, bool given) {
    sc_problem p = {0};
    size_t n;
    if (given && too_many_wrong_keys(r->http)) return http_problem(r, 429, "Too many wrong keys; wait a little.");
    sc_problem_set(&p, 401, "%s", given ? "This key is not known." : "An API key is needed: Authorization: Bearer KEY.");
    char *text = sc_problem_json(&p, r->url, &n);
    struct MHD_Response *response = text ? http_response(text, n, ANSWER_MOVE) : NULL;
    if (!response) return MHD_NO;
    MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    return http_send(r, 401, response, SC_PROBLEM_MEDIA_TYPE);
}

static bool is_json(const char *type) {
    if (!type || strncasecmp(type, "application/json", 16)) return false;
    const char *p = type + 16 + strspn(type + 16, " \t");
    if (!*p) return true;
    if (*p++ != ';') return false;
    p += strspn(p, " \t");
    return !*p || !strcasecmp(p, "charset=utf-8") || !strcasecmp(p, "charset=\"utf-8\"");
}

static enum MHD_Result each_query(void *cls, enum MHD_ValueKind kind, const char *name, const char *value) {
    struct sc_request *r = cls;
    (void)kind; (void)value;
    const size_t n = strlen(name);
    for (const char *p = r->route->query; p && *p;) {
        const size_t k = strcspn(p, " ");
        if (k == n && !strncmp(name, p, k)) return MHD_YES;
        p += k + strspn(p + k, " ");
    }
    if (!r->problem.status) sc_problem_set(&r->problem, 400, "The query parameter \"%.60s\" is not known.", name);
    return MHD_NO;
}

/* Everything that can be said before the body: *answer is set when it is a refusal. */
static bool refused_early(struct sc_request *r, const char *method, enum MHD_Result *answer) {
    char allow[64];
    const char *length = http_header(r, "Content-Length"), *authorization = http_header(r, "Authorization");
    long long n = length ? atoll(length) : 0;
    r->route = find_route(r, method, allow);
    if (!r->route && !allow[0]) return *answer = http_problem(r, 404, "There is nothing of this name."), true;
    if (!r->route && !strcmp(method, "OPTIONS") && http_origin_listed(r)) return *answer = preflight(r, allow), true;
    if (!r->route) return *answer = wrong_method(r, allow), true;
    if (r->route->key && !sc_access_key(r->http->o.access, authorization)) return *answer = no_key(r, authorization != NULL), true;
    const char *site = http_header(r, "Sec-Fetch-Site");
    if (strcmp(r->route->method, "GET") && site && strcmp(site, "same-origin") && strcmp(site, "none") && !http_origin_listed(r))
        return *answer = http_problem(r, 403, "A page of another site may not do this."), true;
    if (!r->route->page) {
        MHD_get_connection_values(r->connection, MHD_GET_ARGUMENT_KIND, each_query, r);
        if (r->problem.status) return *answer = http_problem_full(r, &r->problem), true;
    }
    if (n > SC_BODY_BYTES_MAX) return *answer = http_problem(r, 413, "A body may have 65536 bytes at most."), true;
    if (n > 0 && !r->route->body) return *answer = http_problem(r, 400, "This call takes no body."), true;
    if (n > 0 && !is_json(http_header(r, "Content-Type")))
        return *answer = http_problem(r, 415, "The body must be JSON and say so: Content-Type: application/json."), true;
    r->room = (size_t)(n > 0 ? n : 0);
    r->body = r->route->body ? malloc(r->room + 1) : NULL;
    if (r->route->body && !r->body) return *answer = http_problem(r, 503, "Out of memory; try again later."), true;
    return false;
}

/* ---- the life of a request ---- */

static enum MHD_Result handle(void *cls, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
                              const char *data, size_t *size, void **state) {
    struct sc_request *r = *state;
    enum MHD_Result answer;
    (void)version;
    if (!r) {
        if (!(r = *state = calloc(1, sizeof *r))) return MHD_NO;
        r->http = cls;
        r->connection = connection;
        r->url = url;
        r->began_ns = sc_now_ns();
        strncpy(r->method, method, sizeof r->method - 1);
        const char *given = http_header(r, "X-Request-Id");
        sc_request_id(r->request_id, given, given ? strlen(given) : 0);
        return refused_early(r, method, &answer) ? answer : MHD_YES;
    }
    if (*size) {
        if (r->body_n + *size > r->room || sc_now_ns() - r->began_ns > BODY_NS) return MHD_NO; /* no answer can be queued here */
        memcpy(r->body + r->body_n, data, *size);
        r->body_n += *size;
        *size = 0;
        return MHD_YES;
    }
    if (r->body) r->body[r->body_n] = 0;
    return r->route->handle(r);
}

static void completed(void *cls, struct MHD_Connection *connection, void **state, enum MHD_RequestTerminationCode why) {
    struct sc_request *r = *state;
    (void)cls; (void)connection;
    if (!r) return;
    sc_log(SC_LOG_DEBUG, "http", "%s %s request=%s ms=%.1f end=%d", r->method, r->url, r->request_id,
           (double)(sc_now_ns() - r->began_ns) * 1e-6, why);
    http_forget(r);
    free(r->body);
    free(r);
    *state = NULL;
}

/* Paths stand as they were sent: ours need no escapes, so one in a path is another path. */
static size_t no_unescape(void *cls, struct MHD_Connection *connection, char *text) {
    (void)cls; (void)connection;
    return strlen(text);
}

static void mhd_log(void *cls, const char *fmt, va_list ap) {
    char line[512];
    (void)cls;
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\r\n")] = 0;
    sc_log(SC_LOG_DEBUG, "mhd", "%s", line);
}

sc_status sc_http_create(sc_http **out, const sc_http_options *o, sc_error *err) {
    sc_http *h = calloc(1, sizeof *h);
    *out = h;
    if (!h) return sc_fail(err, SC_ENOMEM, "http: out of memory");
    h->o = *o;
    pthread_mutex_init(&h->lock, NULL);
    return SC_OK;
}

sc_status sc_http_start(sc_http *h, sc_scheduler *scheduler, sc_error *err) {
    h->scheduler = scheduler;
    h->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET |
                                 MHD_USE_ERROR_LOG, 0, NULL, NULL, handle, h,
                                 MHD_OPTION_EXTERNAL_LOGGER, mhd_log, NULL,
                                 MHD_OPTION_NOTIFY_COMPLETED, completed, h,
                                 MHD_OPTION_UNESCAPE_CALLBACK, no_unescape, NULL,
                                 MHD_OPTION_STRICT_FOR_CLIENT, 1,
                                 MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS,
                                 MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S,
                                 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL_BYTES,
                                 MHD_OPTION_END);
    return h->daemon ? SC_OK : sc_fail(err, SC_ENOMEM, "http: libmicrohttpd does not start");
}

int sc_http_offer(sc_http *h, int fd, const struct sockaddr *addr, socklen_t n) {
    const union MHD_DaemonInfo *now = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);
    if (now && now->num_connections >= CONNECTIONS_TAKEN) return 503;
    if (MHD_add_connection(h->daemon, fd, addr, n) != MHD_YES) sc_log(SC_LOG_WARN, "http", "a socket could not be taken over"); /* it is closed */
    return 0;
}

void sc_http_released(void *http, sc_channel *c) { http_motions_released(http, c); }
void sc_http_logged(void *http, sc_channel *c) { http_log_written(http, c); }

void sc_http_stop(sc_http *h) {
    if (!h || !h->daemon) return;
    http_motions_released(h, NULL);
    http_log_written(h, NULL);
    MHD_stop_daemon(h->daemon);
    h->daemon = NULL;
}

void sc_http_free(sc_http *h) {
    if (!h) return;
    pthread_mutex_destroy(&h->lock);
    free(h);
}

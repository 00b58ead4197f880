/* http_answer.c - answers, and the headers that each of them carries. */
#include "server/http_internal.h"
#include "server/metrics.h"
#include <stdlib.h>
#include <string.h>

const char *http_header(struct sc_request *r, const char *name) { return MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name); }

const char *http_query(struct sc_request *r, const char *name) {
    return MHD_lookup_connection_value(r->connection, MHD_GET_ARGUMENT_KIND, name);
}

/* The router has refused foreign origins; what is left is ours, listed, or none. */
bool http_origin_listed(struct sc_request *r) {
    const char *origin = http_header(r, "Origin");
    return origin && sc_access_origin(r->http->o.access, origin, http_header(r, "Host")) == SC_ORIGIN_LISTED;
}

struct MHD_Response *http_response(const void *data, size_t n, answer_memory how) {
    static const enum MHD_ResponseMemoryMode modes[] = {MHD_RESPMEM_MUST_COPY, MHD_RESPMEM_MUST_FREE, MHD_RESPMEM_PERSISTENT};
    struct MHD_Response *response = MHD_create_response_from_buffer(n, (void *)data, modes[how]);
    if (!response && how == ANSWER_MOVE) free((void *)data);
    return response;
}

enum MHD_Result http_send(struct sc_request *r, int status, struct MHD_Response *response, const char *type) {
    bool listed = http_origin_listed(r);
    MHD_add_response_header(response, "X-Request-Id", r->request_id);
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
    MHD_add_response_header(response, "Cross-Origin-Resource-Policy", listed ? "cross-origin" : "same-origin");
    if (!MHD_get_response_header(response, "Cache-Control")) MHD_add_response_header(response, "Cache-Control", "no-store");
    MHD_add_response_header(response, "Connection", "close"); /* one request a connection, see http.h */
    if (type) MHD_add_response_header(response, "Content-Type", type);
    if (status == 429 || status == 503) MHD_add_response_header(response, "Retry-After", "1");
    if (listed) {
        MHD_add_response_header(response, "Access-Control-Allow-Origin", http_header(r, "Origin"));
        MHD_add_response_header(response, "Access-Control-Expose-Headers", "Location, Retry-After, X-Request-Id");
        MHD_add_response_header(response, "Vary", "Origin");
    }
    SC_COUNT(http_requests, 1);
    if (status >= 400) SC_COUNT(http_errors, 1);
    enum MHD_Result rc = MHD_queue_response(r->connection, (unsigned)status, response);
    MHD_destroy_response(response);
    return rc;
}

enum MHD_Result http_answer(struct sc_request *r, int status, const char *type, const void *data, size_t n, answer_memory how) {
    struct MHD_Response *response = data ? http_response(data, n, how) : NULL;
    if (!response) return data ? MHD_NO : http_problem(r, 500, "Out of memory.");
    return http_send(r, status, response, type);
}

enum MHD_Result http_answer_json(struct sc_request *r, int status, char *text, size_t n) {
    return http_answer(r, status, "application/json", text, n, ANSWER_MOVE);
}

enum MHD_Result http_problem_full(struct sc_request *r, const sc_problem *p) {
    char path[128];
    size_t n;
    strncpy(path, r->url, sizeof path - 1);
    path[sizeof path - 1] = 0;
    char *text = sc_problem_json(p, path, &n);
    return text ? http_answer(r, p->status, SC_PROBLEM_MEDIA_TYPE, text, n, ANSWER_MOVE) : MHD_NO;
}

enum MHD_Result http_problem(struct sc_request *r, int status, const char *detail) {
    sc_problem p = {0};
    sc_problem_set(&p, status, "%s", detail);
    return http_problem_full(r, &p);
}

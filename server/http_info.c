/* http_info.c - what the daemon says about itself, and the viewer's files. */
#include "server/http_internal.h"
#include "proto/openapi.h"
#include "server/metrics.h"
#include <stdlib.h>
#include <string.h>

/* Scripts, styles and connections of this server only; pictures also from memory; no frame around it. */
static const char page_policy[] = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
                                  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

enum MHD_Result http_get_page(struct sc_request *r) {
    const struct sc_web_file *file = NULL;
    for (size_t i = 0; i < sc_web_file_count && !file; i++) if (!strcmp(sc_web_files[i].path, r->url)) file = &sc_web_files[i];
    if (!file) return http_problem(r, 404, "The viewer has no such file.");
    const char *have = http_header(r, "If-None-Match");
    bool same = have && (strstr(have, file->etag) || !strcmp(have, "*"));
    struct MHD_Response *response = http_response(same ? (const void *)"" : file->data, same ? 0 : file->size, ANSWER_CONSTANT);
    if (!response) return MHD_NO;
    MHD_add_response_header(response, "ETag", file->etag);
    MHD_add_response_header(response, "Cache-Control", "no-cache"); /* ask each time: an update of the daemon is an update of the page */
    MHD_add_response_header(response, "Content-Security-Policy", page_policy);
    MHD_add_response_header(response, "Cross-Origin-Opener-Policy", "same-origin");
    MHD_add_response_header(response, "X-Frame-Options", "DENY");
    return http_send(r, same ? 304 : 200, response, same ? NULL : file->type);
}

enum MHD_Result http_get_health(struct sc_request *r) {
    size_t n = 0;
    char *text = sc_status_json("ok", &n);
    return http_answer_json(r, 200, text, n);
}

enum MHD_Result http_get_ready(struct sc_request *r) {
    size_t n = 0;
    switch (sc_scheduler_state(r->http->scheduler, NULL)) {
    case SC_ENGINE_LOADING: return http_problem(r, 503, "loading: the model is not there yet.");
    case SC_ENGINE_DRAINING: return http_problem(r, 503, "draining: the daemon is shutting down.");
    case SC_ENGINE_FAILED: return http_problem(r, 503, "failed: the model could not be loaded, or the device failed.");
    case SC_ENGINE_READY: break;
    }
    char *text = sc_status_json("ready", &n);
    return http_answer_json(r, 200, text, n);
}

enum MHD_Result http_get_metrics(struct sc_request *r) {
    size_t n = 0;
    char *text = sc_metrics_text(&n);
    return http_answer(r, 200, "text/plain; version=0.0.4; charset=utf-8", text, n, ANSWER_MOVE);
}

enum MHD_Result http_get_openapi(struct sc_request *r) {
    return http_answer(r, 200, "application/json", sc_openapi_json, sc_openapi_json_size, ANSWER_CONSTANT);
}

enum MHD_Result http_get_models(struct sc_request *r) {
    sc_model_info i;
    size_t n = 0;
    bool there = sc_scheduler_state(r->http->scheduler, &i) != SC_ENGINE_LOADING && i.name[0];
    sc_model_view v = {0};
    if (there)
        v = (sc_model_view){.id = i.name, .created = r->http->o.model_created, .device = i.device, .digest = i.digest, .width = i.width,
                            .height = i.height, .fps = i.fps, .frames_first = i.frames_first, .chunk_frames = i.frames_chunk,
                            .session_bytes = i.session_bytes, .weight_bytes = i.weight_bytes, .parameters = (uint64_t)i.parameters};
    char *text = sc_models_json(&v, there ? 1 : 0, &n);
    return http_answer_json(r, 200, text, n);
}

enum MHD_Result http_get_capacity(struct sc_request *r) {
    sc_model_info i;
    sc_capacity_view v = {0};
    uint64_t cost_ns;
    size_t n = 0;
    if (sc_scheduler_state(r->http->scheduler, &i) == SC_ENGINE_READY) {
        sc_scheduler_load(r->http->scheduler, &cost_ns, &v.sessions);
        v.sessions_max = i.max_sessions;
        v.fit_memory = i.max_sessions - v.sessions;
        v.fit_time = sc_plan_fit(cost_ns, 1000000000u / (uint64_t)i.fps * (uint64_t)i.frames_chunk, v.sessions);
        if (v.fit_time > v.fit_memory && !cost_ns) v.fit_time = v.fit_memory; /* nothing measured yet */
        v.pages_used = (uint64_t)i.session_pages * (uint64_t)v.sessions;
        v.pages_free = (uint64_t)i.session_pages * (uint64_t)v.fit_memory;
    }
    char *text = sc_capacity_json(&v, &n);
    return http_answer_json(r, 200, text, n);
}

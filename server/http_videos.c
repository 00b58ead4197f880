/* http_videos.c - clips in the shape of OpenAI's API: ask for one, look, fetch its file, take it back.
 *
 * Nothing here waits: a job stands in the table (videos.h) before its answer is sent, and the engine thread is woken. A file is sent by the kernel from a
 * descriptor of the answer's own, so that one that is deleted or expires meanwhile comes whole. Ranges are RFC 9110's, one at a time; a request
 * for several, or in other units, gets the whole file, which that allows. */
#include "server/http_internal.h"
#include "server/video_file.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LIMIT = 20, LIMIT_MAX = 100, SECONDS = 4 };
static const char no_video[] = "There is no such video.";

static int64_t now(void) { return (int64_t)time(NULL); }

/* The view borrows from *v. */
static sc_video_view view(const sc_video *v) {
    const int frames = sc_video_frames(v);
    return (sc_video_view){
        .id = v->id, .model = v->model, .status = sc_video_status_name(v->status), .prompt = v->prompt, .prompt_bytes = v->prompt_bytes,
        .progress = v->status == SC_VIDEO_COMPLETED ? 100 : v->done * 100 / frames, .seconds = v->seconds, .width = v->width, .height = v->height,
        .created = v->created, .completed = v->completed, .expires = v->status == SC_VIDEO_COMPLETED ? v->expires : 0, .seed = v->seed,
        .error_code = v->status == SC_VIDEO_FAILED ? v->error_code : NULL, .error_message = v->error_message};
}

static enum MHD_Result answer_video(struct sc_request *r, int status, const sc_video *v) {
    const sc_video_view w = view(v);
    char location[64];
    size_t n = 0;
    char *text = sc_video_json(&w, &n);
    struct MHD_Response *response = text ? http_response(text, n, ANSWER_MOVE) : NULL;
    if (!response) return MHD_NO;
    snprintf(location, sizeof location, "/v1/videos/" SC_VIDEO_ID_PREFIX "%s", v->id);
    if (status == 201) MHD_add_response_header(response, "Location", location);
    return http_send(r, status, response, "application/json");
}

/* What was asked for, as this model makes it. False: r->problem says what cannot be. */
static bool fill(struct sc_request *r, const sc_video_request *q, sc_video *v) {
    sc_problem *p = &r->problem;
    sc_model_info i;
    sc_error err;

    sc_scheduler_state(r->http->scheduler, &i);
    if (q->model[0] && strcmp(q->model, i.name)) sc_problem_add(p, "/model", "must be \"%s\": there is no model of another name", i.name);
    if (q->width && (q->width != i.width || q->height != i.height))
        sc_problem_add(p, "/size", "must be \"%dx%d\", the size of the model; found \"%dx%d\"", i.width, i.height, q->width, q->height);
    if (p->status) return false;
    *v = (sc_video){.prompt_bytes = q->prompt_bytes, .seed = q->seed, .seconds = q->seconds ? q->seconds : SECONDS, .width = i.width, .height = i.height,
                    .fps = i.fps, .jpeg_quality = r->http->o.jpeg_quality};
    memcpy(v->prompt, q->prompt, q->prompt_bytes);
    memcpy(v->model, i.name, sizeof v->model);
    if (!q->has_seed && sc_seed_random(&v->seed, &err)) sc_problem_set(p, 503, "There are no random numbers; try again later.");
    return !p->status;
}

enum MHD_Result http_post_video(struct sc_request *r) {
    const char *why = http_not_ready(r);
    sc_video_request *q = malloc(sizeof *q);
    sc_video *v = malloc(sizeof *v);
    enum MHD_Result rc;

    if (!sc_video_file_there()) rc = http_problem(r, 501, "This daemon makes no videos: it was built without libavformat.");
    else if (why) rc = http_problem(r, 503, why);
    else if (!q || !v) rc = http_problem(r, 503, "Out of memory; try again later.");
    else if (!sc_request_video(r->body, r->body_n, q, &r->problem) || !fill(r, q, v) || !sc_videos_add(r->http->o.videos, v, now(), &r->problem))
        rc = http_problem_full(r, &r->problem);
    else {
        sc_scheduler_wake(r->http->scheduler);
        rc = answer_video(r, 201, v);
    }
    free(q);
    free(v);
    return rc;
}

enum MHD_Result http_get_video(struct sc_request *r) {
    sc_video v;
    return sc_videos_get(r->http->o.videos, r->session, now(), &v) ? answer_video(r, 200, &v) : http_problem(r, 404, no_video);
}

enum MHD_Result http_delete_video(struct sc_request *r) {
    size_t n = 0;
    if (!sc_videos_remove(r->http->o.videos, r->session)) return http_problem(r, 404, no_video);
    sc_scheduler_wake(r->http->scheduler); /* it may be in work */
    char *text = sc_video_deleted_json(r->session, &n);
    return http_answer_json(r, 200, text, n);
}

/* ---- the list ---- */

enum MHD_Result http_get_videos(struct sc_request *r) {
    static const size_t prefix = sizeof SC_VIDEO_ID_PREFIX - 1;
    const char *limit = http_query(r, "limit"), *after = http_query(r, "after"), *order = http_query(r, "order");
    char *end = NULL;
    const long max = limit ? strtol(limit, &end, 10) : LIMIT;
    bool more;
    size_t n = 0;

    if (limit && (*limit < '0' || *limit > '9' || *end || max < 1 || max > LIMIT_MAX)) return http_problem(r, 400, "The query parameter limit must be 1 to 100.");
    if (order && strcmp(order, "asc") && strcmp(order, "desc")) return http_problem(r, 400, "The query parameter order must be \"asc\" or \"desc\".");
    if (after && strncmp(after, SC_VIDEO_ID_PREFIX, prefix)) return http_problem(r, 400, "The query parameter after must be the id of a video.");
    const int room = max < SC_VIDEOS_MAX ? (int)max : SC_VIDEOS_MAX;
    sc_video *all = malloc(sizeof *all * (size_t)room);
    sc_video_view *views = malloc(sizeof *views * (size_t)room);
    char *text = NULL;
    const int count = all && views ? sc_videos_list(r->http->o.videos, after ? after + prefix : NULL, order && *order == 'a', now(), all, room, &more) : 0;
    for (int i = 0; i < count; i++) views[i] = view(&all[i]);
    if (all && views && count >= 0) text = sc_videos_json(views, (size_t)count, more, &n);
    free(all);
    free(views);
    return count < 0 ? http_problem(r, 404, "There is no video of the id in after.") : http_answer_json(r, 200, text, n);
}

/* ---- the file ---- */

/* Digits up to `end`. */
static bool number(const char **s, char end, uint64_t *out) {
    const char *p = *s;
    for (*out = 0; *p >= '0' && *p <= '9' && *out < UINT64_MAX / 100; p++) *out = *out * 10 + (uint64_t)(*p - '0');
    if (p == *s || *p != end) return false;
    *s = p + 1;
    return true;
}

typedef enum { RANGE_WHOLE, RANGE_PART, RANGE_NONE } range_kind;

/* "bytes=first-last", "bytes=first-", "bytes=-last ones" of n bytes. */
static range_kind range_of(const char *s, uint64_t n, uint64_t *first, uint64_t *bytes) {
    uint64_t last;

    if (!s || strncmp(s, "bytes=", 6)) return RANGE_WHOLE;
    s += 6;
    if (*s == '-') {
        s++;
        if (!number(&s, 0, &last)) return RANGE_WHOLE;
        if (!last) return RANGE_NONE;
        *bytes = last < n ? last : n;
        *first = n - *bytes;
        return RANGE_PART;
    }
    if (!number(&s, '-', first)) return RANGE_WHOLE;
    if (!*s) last = n - 1;
    else if (!number(&s, 0, &last) || last < *first) return RANGE_WHOLE;
    if (*first >= n) return RANGE_NONE;
    *bytes = (last < n ? last + 1 : n) - *first;
    return RANGE_PART;
}

static enum MHD_Result send_file(struct sc_request *r, const sc_video *v, int fd) {
    const char *have = http_header(r, "If-None-Match"), *only = http_header(r, "If-Range");
    char tag[SC_ID_CHARS + 3], text[96];
    uint64_t first = 0, bytes = v->bytes;
    const range_kind kind = range_of(http_header(r, "Range"), v->bytes, &first, &bytes);

    snprintf(tag, sizeof tag, "\"%s\"", v->id); /* a file is made once, whole, and never changed */
    const bool same = have && (strstr(have, tag) || !strcmp(have, "*"));
    int status = same ? 304 : 200;
    if (!same && kind != RANGE_WHOLE && (!only || !strcmp(only, tag))) status = kind == RANGE_PART ? 206 : 416;
    if (status == 200) first = 0, bytes = v->bytes;
    if (status == 416) {
        sc_problem p = {0};
        size_t n;
        sc_problem_set(&p, 416, "The file has %" PRIu64 " bytes.", v->bytes);
        char *doc = sc_problem_json(&p, r->url, &n);
        struct MHD_Response *response = doc ? http_response(doc, n, ANSWER_MOVE) : NULL;
        close(fd);
        if (!response) return MHD_NO;
        snprintf(text, sizeof text, "bytes */%" PRIu64, v->bytes);
        MHD_add_response_header(response, "Content-Range", text);
        return http_send(r, status, response, SC_PROBLEM_MEDIA_TYPE);
    }
    struct MHD_Response *response = same ? http_response("", 0, ANSWER_CONSTANT) : MHD_create_response_from_fd_at_offset64(bytes, fd, first);
    if (same || !response) close(fd);
    if (!response) return MHD_NO;
    if (status == 206) {
        snprintf(text, sizeof text, "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, first, first + bytes - 1, v->bytes);
        MHD_add_response_header(response, "Content-Range", text);
    }
    MHD_add_response_header(response, "ETag", tag);
    MHD_add_response_header(response, "Accept-Ranges", "bytes");
    MHD_add_response_header(response, "Cache-Control", "private, no-cache");
    snprintf(text, sizeof text, "attachment; filename=\"" SC_VIDEO_ID_PREFIX "%s.mp4\"", v->id);
    MHD_add_response_header(response, "Content-Disposition", text);
    return http_send(r, status, response, same ? NULL : "video/mp4");
}

enum MHD_Result http_get_video_content(struct sc_request *r) {
    sc_video v;
    char text[384];
    int fd;

    if (!sc_videos_open(r->http->o.videos, r->session, now(), &v, &fd)) return http_problem(r, 404, no_video);
    if (fd >= 0) return send_file(r, &v, fd);
    if (v.status == SC_VIDEO_COMPLETED) return http_problem(r, 503, "Too many files are open; try again later.");
    if (v.status == SC_VIDEO_FAILED) snprintf(text, sizeof text, "This video has failed: %s", v.error_message);
    else snprintf(text, sizeof text, "This video is %s: its file is there when it is completed.", sc_video_status_name(v.status));
    return http_problem(r, 409, text);
}

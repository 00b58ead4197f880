/* video_json.c - see video_json.h. */
#include "proto/video_json.h"

#include "proto/fields.h"
#include "proto/json_out.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Digits without a leading zero, 1 to max, up to `end` of the text; 0: none such. */
static int small(const char *s, char end, int max, const char **rest) {
    int v = 0;
    const char *p = s;

    if (*p == '0') return 0;
    for (; *p >= '0' && *p <= '9'; p++)
        if ((v = v * 10 + (*p - '0')) > max) return 0;
    *rest = p + 1;
    return p > s && *p == end ? v : 0;
}

/* A text goes the way of a text, everything else the way of a number, so that what is wrong is said as everywhere. */
static void read_seconds(cJSON *o, int *out, sc_problem *p) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, "seconds");
    const char *rest;
    char text[16];

    if (!cJSON_IsString(v)) {
        sc_field_small(o, "seconds", 1, SC_VIDEO_SECONDS_MAX, out, p);
        return;
    }
    if (sc_field_text(o, "seconds", text, sizeof text, p) && !(*out = small(text, 0, SC_VIDEO_SECONDS_MAX, &rest)))
        sc_problem_add(p, "/seconds", "must be \"1\" to \"%d\", found \"%s\"", SC_VIDEO_SECONDS_MAX, text);
}

static void read_size(cJSON *o, int *width, int *height, sc_problem *p) {
    const char *rest;
    char text[32];

    if (!sc_field_text(o, "size", text, sizeof text, p)) return;
    *width = small(text, 'x', SC_VIDEO_SIDE_MAX, &rest);
    *height = *width ? small(rest, 0, SC_VIDEO_SIDE_MAX, &rest) : 0;
    if (!*height) sc_problem_add(p, "/size", "must be width and height like \"832x480\", found \"%s\"", text);
}

bool sc_request_video(const char *body, size_t n, sc_video_request *out, sc_problem *problem) {
    cJSON *o = sc_fields_parse(body, n, SC_BODY_BYTES_MAX, "body", problem);

    memset(out, 0, sizeof *out);
    if (!o) return false;
    sc_field_prompt(o, "prompt", true, out->prompt, &out->prompt_bytes, problem);
    sc_field_text(o, "model", out->model, sizeof out->model, problem);
    read_seconds(o, &out->seconds, problem);
    read_size(o, &out->width, &out->height, problem);
    out->has_seed = sc_field_seed(o, "seed", &out->seed, problem);
    sc_fields_end(o, "prompt, model, seconds, size, seed", problem);
    cJSON_Delete(o);
    return problem->status == 0;
}

static void id_or_null(sc_json_out *o, const char *name, const char *id) {
    char text[sizeof SC_VIDEO_ID_PREFIX + SC_ID_CHARS];

    if (!id) {
        sc_json_null(o, name);
        return;
    }
    snprintf(text, sizeof text, SC_VIDEO_ID_PREFIX "%.*s", SC_ID_CHARS, id);
    sc_json_text(o, name, text);
}

static void when(sc_json_out *o, const char *name, int64_t t) {
    if (t) sc_json_i64(o, name, t);
    else sc_json_null(o, name);
}

static void write_video(sc_json_out *o, const sc_video_view *v) {
    char text[64];

    sc_json_object(o, NULL);
    id_or_null(o, "id", v->id);
    sc_json_text(o, "object", "video");
    sc_json_text(o, "model", v->model);
    sc_json_text(o, "status", v->status);
    sc_json_i64(o, "progress", v->progress);
    when(o, "created_at", v->created);
    when(o, "completed_at", v->completed);
    when(o, "expires_at", v->expires);
    snprintf(text, sizeof text, "%dx%d", v->width, v->height);
    sc_json_text(o, "size", text);
    snprintf(text, sizeof text, "%d", v->seconds);
    sc_json_text(o, "seconds", text);
    sc_json_text_n(o, "prompt", v->prompt, v->prompt_bytes);
    snprintf(text, sizeof text, "%" PRIu64, v->seed);
    sc_json_text(o, "seed", text);
    if (v->error_code) {
        sc_json_object(o, "error");
        sc_json_text(o, "code", v->error_code);
        sc_json_text(o, "message", v->error_message);
        sc_json_end_object(o);
    } else sc_json_null(o, "error");
    sc_json_end_object(o);
}

char *sc_video_json(const sc_video_view *v, size_t *n) {
    sc_json_out o;

    sc_json_out_grow(&o);
    write_video(&o, v);
    return sc_json_out_take(&o, n);
}

char *sc_videos_json(const sc_video_view *v, size_t count, bool more, size_t *n) {
    sc_json_out o;

    sc_json_out_grow(&o);
    sc_json_object(&o, NULL);
    sc_json_text(&o, "object", "list");
    sc_json_array(&o, "data");
    for (size_t i = 0; i < count; i++) write_video(&o, &v[i]);
    sc_json_end_array(&o);
    id_or_null(&o, "first_id", count ? v[0].id : NULL);
    id_or_null(&o, "last_id", count ? v[count - 1].id : NULL);
    sc_json_bool(&o, "has_more", more);
    sc_json_end_object(&o);
    return sc_json_out_take(&o, n);
}

char *sc_video_deleted_json(const char *id, size_t *n) {
    sc_json_out o;

    sc_json_out_grow(&o);
    sc_json_object(&o, NULL);
    id_or_null(&o, "id", id);
    sc_json_text(&o, "object", "video.deleted");
    sc_json_bool(&o, "deleted", true);
    sc_json_end_object(&o);
    return sc_json_out_take(&o, n);
}

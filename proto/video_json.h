/* video_json.h - whole clips as jobs, in OpenAI's shape: what POST /v1/videos asks for, and what the calls answer.
 *
 * {"id":"video_6u3k...","object":"video","model":"pocket","status":"in_progress","progress":37,"created_at":1796123805,"completed_at":null,
 *  "expires_at":null,"size":"256x160","seconds":"4","prompt":"...","seed":"7","error":null}
 *
 * seed is ours. Bodies into structs as in requests.h, structs into owned text as in session_json.h. Any thread. */
#ifndef SC_PROTO_VIDEO_JSON_H
#define SC_PROTO_VIDEO_JSON_H
#include "proto/problem.h"
#include "proto/requests.h"
#include "proto/session_json.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SC_VIDEO_SECONDS_MAX = 120, SC_VIDEO_SIDE_MAX = 16384 };

#define SC_VIDEO_ID_PREFIX "video_"

typedef struct {
    char prompt[SC_PROMPT_TEXT_MAX + 1]; /* UTF-8, no NUL inside, NUL behind */
    size_t prompt_bytes;
    char model[64];             /* "": not given */
    int seconds;                /* 1..SC_VIDEO_SECONDS_MAX; 0: not given */
    int width, height;          /* 0: not given */
    bool has_seed;
    uint64_t seed;
} sc_video_request;

/* seconds: a whole number, or one in a text, as OpenAI has it. size: "WIDTHxHEIGHT". */
bool sc_request_video(const char *body, size_t n, sc_video_request *out, sc_problem *problem);

typedef struct {
    const char *id;             /* without the prefix, like all ids here */
    const char *model, *status, *prompt;
    size_t prompt_bytes;
    int progress, seconds, width, height;
    int64_t created, completed, expires; /* Unix seconds; 0: null */
    uint64_t seed;
    const char *error_code, *error_message; /* NULL: no error */
} sc_video_view;

char *sc_video_json(const sc_video_view *v, size_t *n);

/* {"object":"list","data":[...],"first_id":..,"last_id":..,"has_more":..} */
char *sc_videos_json(const sc_video_view *v, size_t count, bool more, size_t *n);

/* {"id":..,"object":"video.deleted","deleted":true} */
char *sc_video_deleted_json(const char *id, size_t *n);

#endif

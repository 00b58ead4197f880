/* videos.h - the clips that were asked for: a table between those who ask (HTTP), who makes chunks of them (engine) and who packs those (video_maker.h).
 *
 *     queued --take--> in_progress --complete--> completed --a day, or room is needed--> gone
 *        ^                 |  |
 *        +---- put back ---+  +--fail--> failed --place is needed--> gone
 *
 * Bounds: SC_VIDEOS_QUEUED wait at most, SC_VIDEOS_MAX are known at most (the oldest that is finished makes place), and all files together have bytes_max:
 * the oldest completed ones go when the one in work needs their room. A file is a descriptor without a name: below the state directory where there is
 * one, else in memory. It goes with its record, and with the daemon, whatever ends that; an answer that is being read has a descriptor of its own.
 *
 * Time is passed in, Unix seconds. Any thread; one mutex, held for copies only. */
#ifndef SC_SERVER_VIDEOS_H
#define SC_SERVER_VIDEOS_H
#include "base/status.h"
#include "proto/problem.h"
#include "proto/video_json.h"
#include <stdbool.h>

enum { SC_VIDEOS_MAX = 64, SC_VIDEOS_QUEUED = 16, SC_VIDEO_LIFE_S = 86400 };

typedef enum { SC_VIDEO_QUEUED, SC_VIDEO_IN_PROGRESS, SC_VIDEO_COMPLETED, SC_VIDEO_FAILED } sc_video_status;
const char *sc_video_status_name(sc_video_status s);

typedef struct {
    char id[SC_ID_CHARS + 1];
    int run;                   /* how often it was begun: what was begun before says nothing any more */
    char prompt[SC_PROMPT_TEXT_MAX + 1], model[64];
    size_t prompt_bytes;
    uint64_t seed;
    int seconds, width, height, fps, jpeg_quality;
    sc_video_status status;
    int done;                  /* frames in the file */
    int64_t created, completed, expires;
    uint64_t bytes;            /* of the file */
    char error_code[32], error_message[256];
} sc_video;

static inline int sc_video_frames(const sc_video *v) { return v->seconds * v->fps; }

typedef struct sc_videos sc_videos;

/* dir: where files lie, made when it is not there; NULL: in memory. Errors: SC_EINVAL with the reason, SC_ENOMEM. */
sc_status sc_videos_create(sc_videos **out, const char *dir, uint64_t bytes_max, sc_error *err);
void sc_videos_destroy(sc_videos *v); /* NULL is fine */

/* ---- who asks ---- */

/* What `asked` says of prompt, model, seed and sizes is a job now; its id and moment in *asked. False: *problem says why. */
bool sc_videos_add(sc_videos *v, sc_video *asked, int64_t now, sc_problem *problem);
bool sc_videos_get(sc_videos *v, const char *id, int64_t now, sc_video *out);
/* Up to max of them, the newest first unless `oldest_first`, behind the one of id `after` (NULL: from the beginning). How many; -1: there is no such `after`. */
int sc_videos_list(sc_videos *v, const char *after, bool oldest_first, int64_t now, sc_video *out, int max, bool *more);
/* False: there is none. *fd: the file of a completed one, the caller's; -1: there is none of it. */
bool sc_videos_open(sc_videos *v, const char *id, int64_t now, sc_video *out, int *fd);
bool sc_videos_remove(sc_videos *v, const char *id);

/* ---- who makes them ---- */

bool sc_videos_take(sc_videos *v, sc_video *out);             /* the oldest that is queued, in progress from now on */
void sc_videos_put_back(sc_videos *v, const sc_video *job);   /* it is begun again later */
bool sc_videos_wanted(sc_videos *v, const sc_video *job);     /* in progress, and this run of it */
void sc_videos_fail(sc_videos *v, const sc_video *job, const char *code, const char *message);

/* A file, empty; the caller's. Errors: SC_EIO, SC_EBUSY: no room. */
sc_status sc_videos_new_file(sc_videos *v, int *fd, sc_error *err);
/* It has so many frames and bytes. False: it is not wanted any more, or there is no room for it, which *err (status SC_EBUSY) says. */
bool sc_videos_progress(sc_videos *v, const sc_video *job, int frames, uint64_t bytes, sc_error *err);
/* The file is whole; moved in any case. */
void sc_videos_complete(sc_videos *v, const sc_video *job, int fd, uint64_t bytes, int64_t now);

#endif

/* video_maker.h - a thread that makes files of chunks: pictures to JPEG, as the encoder does it for viewers, and JPEG into a file (video_file.h).
 *
 *     engine thread --a chunk, copied--> [one place] --> JPEG --> file --the last frame--> sc_videos_complete
 *
 * It stands apart from the encoder, so that a slow disk delays nobody who watches. One clip at a time, one chunk at a time: whoever has a chunk asks first
 * whether there is place for it, and makes none while there is not. What goes wrong is said to the table (videos.h), where the engine thread finds it. */
#ifndef SC_SERVER_VIDEO_MAKER_H
#define SC_SERVER_VIDEO_MAKER_H
#include "engine/engine.h"
#include "server/videos.h"

typedef struct sc_video_maker sc_video_maker;

/* room: there is place for a chunk again; called on the maker's thread. Errors: SC_ENOMEM. */
sc_status sc_video_maker_start(sc_video_maker **out, sc_videos *videos, void (*room)(void *ctx), void *ctx, sc_error *err);
void sc_video_maker_stop(sc_video_maker *m); /* what is not finished is not; NULL is fine */

/* ---- engine thread ---- */

bool sc_video_maker_has_room(sc_video_maker *m);
/* Frames of job, in order, the first with frame 0, which begins a file; those behind its end are left out. There is room. Errors: SC_ENOMEM. */
sc_status sc_video_maker_give(sc_video_maker *m, const sc_video *job, const sc_frames *f, sc_error *err);
void sc_video_maker_drop(sc_video_maker *m); /* the clip in work is not wanted any more */

#endif

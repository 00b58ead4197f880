/* scheduler_videos.c - whole clips, made in the time that sessions leave. Engine thread.
 *
 *     live     | chunk 11 ............|   just in time: sleeps    | chunk 12 ............|      sleeps ...
 *     clip                             | pass | pass | pass |                            | pass | pass |
 *
 * A pass of a clip begins when no session has one to run, and when it will be over, by what such passes took (95th percentile), before the plan wants to
 * begin the next chunk of a session: those keep their frame rate, and a machine that they fill makes no clip. On a device that runs behind its calls a
 * pass cannot be waited for without waiting, so there it is the whole chunk that must fit. A command, as ever, may find one pass in its way.
 *
 * One clip at a time, in the order in which they were asked for. It is a session without a channel: no viewers, no clock, no log, not in any list. It takes a place
 * only while one is free, and a session that wants the last one gets it: the clip goes back to the front of the queue, and is begun again later, with
 * the same seed and so the same frames. Chunks go to a thread of their own (video_maker.h); while it has one, none is begun. */
#include "server/scheduler_internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/metrics.h"
#include <stdlib.h>
#include <string.h>

static const uint64_t LOOK_NS = 500000, LOOK_FOR_NS = 2000000000; /* as in scheduler_passes.c */

static void end_clip(sc_scheduler *s) {
    struct clip *c = &s->clip;
    sc_scheduler_enter_device(s);
    sc_session_destroy(c->session);
    sc_scheduler_leave_device(s);
    c->session = NULL;
    c->active = false;
    c->due_ns = 0;
}

void sc_scheduler_drop_clip(sc_scheduler *s) {
    if (!s->clip.active) return;
    sc_videos_put_back(s->o.videos, &s->clip.video);
    sc_video_maker_drop(s->o.maker);
    end_clip(s);
}

void sc_scheduler_make_place(sc_scheduler *s) {
    if (!s->clip.session || s->n + 1 < s->info.max_sessions) return;
    sc_log(SC_LOG_INFO, "videos", "id=" SC_VIDEO_ID_PREFIX "%s gives its place to a session and is begun again later", s->clip.video.id);
    sc_scheduler_drop_clip(s);
}

static void fail(sc_scheduler *s, const sc_error *err) {
    if (err->status == SC_ELOST) s->fault = *err; /* the process ends, and the table with it */
    if (err->status == SC_EINVAL) sc_videos_fail(s->o.videos, &s->clip.video, "invalid_prompt", err->text);
    else sc_videos_fail(s->o.videos, &s->clip.video, "server_error", "The engine could not make it.");
    sc_log(SC_LOG_ERROR, "videos", "id=" SC_VIDEO_ID_PREFIX "%s %s", s->clip.video.id, err->text);
    sc_video_maker_drop(s->o.maker);
    if (err->status != SC_ELOST) end_clip(s);
}

/* ---- its beginning: a command of the scheduler's own, which waits for its words where another thread reads them ---- */

/* It was done, or refused: its words are none, too much waits, all is over. */
static void settled(sc_command *c) {
    sc_scheduler *s = c->ctx;
    struct clip *clip = &s->clip;

    clip->asked = false;
    if (c->problem.status && clip->active && !strcmp(clip->video.id, c->id)) {
        if (c->problem.status == 422) sc_videos_fail(s->o.videos, &clip->video, "invalid_prompt", c->problem.detail);
        else if (c->problem.status == 500) sc_videos_fail(s->o.videos, &clip->video, "server_error", c->problem.detail);
        sc_scheduler_drop_clip(s); /* which puts nothing back that has failed */
    }
    free(c);
}

static bool take(sc_scheduler *s) {
    struct clip *clip = &s->clip;
    sc_command *c;

    if (clip->asked || s->n >= s->info.max_sessions || !sc_videos_take(s->o.videos, &clip->video)) return false;
    if (!(c = calloc(1, sizeof *c))) {
        sc_videos_put_back(s->o.videos, &clip->video);
        return false;
    }
    clip->active = clip->asked = true;
    c->kind = SC_COMMAND_CLIP;
    memcpy(c->id, clip->video.id, sizeof c->id);
    memcpy(c->create.prompt, clip->video.prompt, sizeof c->create.prompt);
    c->create.prompt_bytes = clip->video.prompt_bytes;
    c->done = settled;
    c->ctx = s;
    sc_scheduler_do(s, c);
    return clip->active;
}

void sc_scheduler_begin_clip(sc_scheduler *s, sc_command *c) {
    struct clip *clip = &s->clip;
    const sc_video *v = &clip->video;
    sc_error err = {0};

    if (!clip->active || strcmp(v->id, c->id)) return; /* it was dropped while its words were read */
    if (s->n >= s->info.max_sessions) {
        sc_scheduler_drop_clip(s);
        return;
    }
    sc_scheduler_enter_device(s);
    const sc_status rc = sc_session_create(s->engine, v->seed, v->prompt, v->prompt_bytes, 1, &clip->session, &err);
    sc_scheduler_leave_device(s);
    if (rc == SC_EBUSY) sc_scheduler_drop_clip(s);
    else if (rc) fail(s, &err);
    else sc_log(SC_LOG_INFO, "videos", "id=" SC_VIDEO_ID_PREFIX "%s begins seed=%llu frames=%d", v->id, (unsigned long long)v->seed, sc_video_frames(v));
}

/* ---- its passes ---- */

/* How long nothing else may run: by what passes of clips took, or of sessions, whichever is less, since what once took long must not keep a clip from running,
 * and so from being measured again, while sessions are measured all the time; else as if a chunk took as long as it plays. */
static uint64_t cost_ns(const sc_scheduler *s, sc_pass pass) {
    const uint64_t chunk = 1000000000u / (uint64_t)s->info.fps * (uint64_t)s->info.frames_chunk, steps = (uint64_t)s->info.steps;
    const sc_window *const each[] = {&s->denoise, &s->decode, &s->clean};
    const uint64_t mine = sc_window_quantile(s->info.behind ? &s->clip.whole : &s->clip.took[pass.kind], 0.95);
    uint64_t theirs = sc_window_quantile(s->info.behind ? &s->whole : each[pass.kind], 0.95);

    if (!s->info.behind && pass.kind == SC_PASS_DENOISE) theirs /= steps;
    if (mine && theirs) return mine < theirs ? mine : theirs;
    return mine ? mine : theirs ? theirs : s->info.behind ? chunk : chunk / (steps + 2);
}

static void frames_out(sc_scheduler *s) {
    struct clip *c = &s->clip;
    sc_error err = {0};
    sc_frames f;

    sc_scheduler_enter_device(s);
    sc_status rc = sc_session_frames(c->session, &f, &err);
    sc_scheduler_leave_device(s);
    c->due_ns = 0;
    if (!rc && sc_session_failed(c->session, &err)) rc = err.status;
    if (!rc && s->info.behind) sc_window_add(&c->whole, f.denoise_ns + f.decode_ns + (f.clean_ns ? f.clean_ns : f.denoise_ns / (uint64_t)s->info.steps));
    if (!rc) rc = sc_video_maker_give(s->o.maker, &c->video, &f, &err);
    if (rc) {
        fail(s, &err);
        return;
    }
    SC_COUNT(chunks, 1);
    if (f.first_frame + (uint64_t)f.count >= (uint64_t)sc_video_frames(&c->video)) end_clip(s); /* the rest is the maker's */
}

static void run(sc_scheduler *s, sc_pass pass) {
    struct clip *c = &s->clip;
    sc_error err = {0};
    const uint64_t begin = sc_now_ns();

    if (sc_scheduler_run_engine(s, &c->session, 1, &pass, &err) || err.status || sc_session_failed(c->session, &err)) {
        fail(s, &err);
        return;
    }
    SC_COUNT(passes[pass.kind], 1);
    sc_window_add(&c->took[pass.kind], sc_now_ns() - begin);
    if (pass.kind != SC_PASS_DECODE) return;
    c->due_ns = begin;
    if (!s->info.behind) frames_out(s);
}

bool sc_scheduler_run_clip(sc_scheduler *s, uint64_t now, uint64_t *wake_ns) {
    struct clip *c = &s->clip;

    if (!s->o.videos) return false;
    if (c->active && !sc_videos_wanted(s->o.videos, &c->video)) { /* deleted, or its file could not be written */
        sc_video_maker_drop(s->o.maker);
        end_clip(s);
    }
    if (!c->active) return take(s);
    if (!c->session) return false; /* its words are being read */
    if (c->due_ns && (!sc_session_frames_coming(c->session) || now - c->due_ns >= LOOK_FOR_NS)) {
        frames_out(s);
        return true;
    }
    if (c->due_ns && *wake_ns > now + LOOK_NS) *wake_ns = now + LOOK_NS;
    const sc_pass pass = sc_session_next(c->session);
    const bool fresh = pass.kind == SC_PASS_DENOISE && pass.step == 0;
    if (fresh && (c->due_ns || !sc_video_maker_has_room(s->o.maker))) return false;
    if ((fresh || !s->info.behind) && *wake_ns != SC_NEVER && now + cost_ns(s, pass) > *wake_ns) return false;
    run(s, pass);
    return true;
}

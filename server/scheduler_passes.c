/* scheduler_passes.c - what the engine does next: states that follow from who watches, the most urgent pass, its frames on their way.
 *
 * A device that runs behind its calls (sc_model_info) decodes beside the pass that is asked for next. Frames that are coming are looked at every
 * LOOK_NS between commands and passes, so that no command waits for the card; they bring along what the passes took. Meanwhile chunks that
 * have begun go on but none begins: what the card has been asked for takes no prompt and joins no batch any more. Frames that do not come are
 * waited for in earnest, which the watch over the device notices (sc_scheduler_hangs_ns).
 *
 * What is planned is decided in plan.c from what is measured here: how long passes took (95th percentile), how far ahead a viewer's playback
 * is. A chunk begins as late as that allows, since a chunk made early is a prompt applied late. */
#include "server/scheduler_internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/metrics.h"
#include <string.h>

enum { BATCH = 8 };
static const uint64_t LOOK_NS = 500000, LOOK_FOR_NS = 2000000000; /* at frames that are coming: how often, and how long before they are waited for */
static const uint64_t MARGIN_NS = 25000000, FIRST_FRAME_NS = 2000000;

static uint64_t chunk_ns(const sc_scheduler *s, uint64_t period_ns) { return period_ns * (uint64_t)s->info.frames_chunk; }

static uint64_t or_else(uint64_t v, uint64_t fallback) { return v ? v : fallback; }

/* Expected work until the first frame of the next chunk, from pass `next` on. Nothing measured yet: as long as a chunk plays. */
static uint64_t remaining_ns(const sc_scheduler *s, sc_pass next, uint64_t period_ns) {
    uint64_t guess = chunk_ns(s, period_ns) / (uint64_t)(s->info.steps + 2), steps = (uint64_t)s->info.steps;
    uint64_t denoise = or_else(sc_window_quantile(&s->denoise, 0.95), guess * steps);
    uint64_t decode = or_else(sc_window_quantile(&s->decode, 0.95), guess) + FIRST_FRAME_NS;
    uint64_t clean = or_else(sc_window_quantile(&s->clean, 0.95), denoise / steps);
    switch (next.kind) {
    case SC_PASS_DENOISE: return denoise * (steps - (uint64_t)next.step) / steps + decode;
    case SC_PASS_DECODE: return decode;
    case SC_PASS_CLEAN: return clean + denoise + decode;
    }
    return 0;
}

static uint64_t margin_ns(const sc_scheduler *s) { return MARGIN_NS + sc_window_quantile(&s->whole, 0.95) / 12; }

static sc_stage_time stage(const sc_window *w) {
    return (sc_stage_time){(double)sc_window_quantile(w, 0.5) * 1e-6, (double)sc_window_quantile(w, 0.95) * 1e-6};
}

/* The session's state follows from what was asked and who watches. */
void sc_scheduler_look_after(sc_scheduler *s, struct stream *t, uint64_t now) {
    sc_playout p;
    sc_channel_playout(t->channel, &p, now);
    if (t->facts.chunk < 0) sc_scheduler_set_state(t, t->paused ? SC_STATE_PAUSED : SC_STATE_STARTING, t->paused ? "asked to" : NULL);
    else if (t->paused) sc_scheduler_set_state(t, SC_STATE_PAUSED, "asked to");
    else if (p.playing) sc_scheduler_set_state(t, SC_STATE_RUNNING, NULL);
    else sc_scheduler_set_state(t, SC_STATE_PAUSED, "no viewers");
    if (p.playing && !t->was_playing && p.shown_any) { /* playback begins again: better one long look than a stutter */
        sc_pass next = sc_session_next(t->session);
        sc_channel_hold_until(t->channel, now + sc_plan_preroll_ns(remaining_ns(s, next, p.period_ns), margin_ns(s), p.buffered, p.period_ns));
    }
    t->was_playing = p.playing;
}

bool sc_scheduler_housekeeping(sc_scheduler *s, uint64_t now) {
    for (int i = 0; i < s->n; i++) {
        struct stream *t = s->streams[i];
        sc_playout p;
        if (t->session) sc_scheduler_look_after(s, t, now);
        sc_channel_playout(t->channel, &p, now);
        if (p.seen_ns && now > p.seen_ns && now - p.seen_ns > (uint64_t)t->facts.idle_timeout_s * 1000000000u && !t->facts.run_without_viewers) {
            sc_scheduler_end_session(s, t, 1000, "idle");
            i--;
        }
    }
    return s->n > 0;
}

static void before_pass(struct stream *t, sc_pass pass, uint64_t now) {
    if (pass.kind != SC_PASS_DENOISE || pass.step != 0) return;
    t->began_ns = now;
    t->denoise_ns = 0;
    if (pass.prompt_seq != t->facts.prompt_seq) {
        memcpy(t->facts.prompt, t->next_prompt, sizeof t->facts.prompt);
        t->facts.prompt_bytes = t->next_prompt_bytes;
        t->facts.prompt_seq = pass.prompt_seq;
        t->facts.prompt_chunk = pass.chunk;
        sc_scheduler_publish(t);
    }
    sc_channel_prompt_applied(t->channel, pass.prompt_seq, pass.chunk);
    sc_scheduler_log_prompt(t, pass);
}

static void pass_took(sc_scheduler *s, sc_pass_kind kind, uint64_t ns) {
    static const sc_time times[] = {SC_TIME_DENOISE_PASS, SC_TIME_DECODE_PASS, SC_TIME_CLEAN_PASS};
    sc_metrics_time(times[kind], ns);
    if (kind == SC_PASS_CLEAN) sc_window_add(&s->clean, ns);
}

/* The frames that are due. Waits for them where they are still coming. */
static void frames_out(sc_scheduler *s, struct stream *t) {
    sc_frames f;
    sc_error err = {0};
    sc_playout p;
    sc_scheduler_enter_device(s);
    sc_status rc = sc_session_frames(t->session, &f, &err);
    sc_scheduler_leave_device(s);
    if (rc == SC_ELOST) { s->fault = err; return; }
    uint64_t now = sc_now_ns(), began = t->due_began_ns, decode_ns = now - t->due_ns;
    t->due_ns = 0;
    if ((rc || f.chunk != (uint64_t)(t->facts.chunk + 1)) && sc_session_failed(t->session, &err)) rc = err.status; /* and these are older ones */
    if (rc) { sc_scheduler_fail_session(t, &err); return; }
    if (s->info.behind) {
        t->denoise_ns = f.denoise_ns;
        decode_ns = f.decode_ns;
        for (int i = 0; i < s->info.steps; i++) pass_took(s, SC_PASS_DENOISE, f.denoise_ns / (uint64_t)s->info.steps);
        pass_took(s, SC_PASS_DECODE, f.decode_ns);
        if (f.clean_ns) pass_took(s, SC_PASS_CLEAN, f.clean_ns);
        sc_window_add(&s->whole, f.denoise_ns + f.decode_ns + (f.clean_ns ? f.clean_ns : f.denoise_ns / (uint64_t)s->info.steps));
    }
    uint64_t spent = t->denoise_ns + decode_ns, wait = now - began > spent ? now - began - spent : 0;
    t->wait_ns = wait;
    t->decode_ns = decode_ns;
    sc_window_add(&t->wait, wait);
    sc_window_add(&t->denoise, t->denoise_ns);
    sc_window_add(&t->decode, decode_ns);
    sc_window_add(&s->denoise, t->denoise_ns);
    sc_window_add(&s->decode, decode_ns);
    t->facts.wait = stage(&t->wait);
    t->facts.denoise = stage(&t->denoise);
    t->facts.decode = stage(&t->decode);
    const uint64_t first_pts_us = t->facts.pts_us;
    t->last_pts_us = first_pts_us + (uint64_t)(f.count - 1) * 1000000u / (uint64_t)t->facts.fps;
    t->facts.pts_us = first_pts_us + (uint64_t)f.count * 1000000u / (uint64_t)t->facts.fps;
    t->facts.chunk = (int64_t)f.chunk;
    sc_scheduler_publish(t);
    SC_COUNT(chunks, 1);
    sc_channel_playout(t->channel, &p, now);
    if (f.chunk == 0 && p.playing) { /* one picture at once, the next when playback can go on */
        sc_pass next = {.kind = SC_PASS_CLEAN};
        sc_channel_hold_until(t->channel, now + sc_plan_preroll_ns(remaining_ns(s, next, p.period_ns), margin_ns(s), f.count - 1, p.period_ns));
    }
    int quality = p.quality_cap && p.quality_cap < t->facts.jpeg_quality ? p.quality_cap : t->facts.jpeg_quality;
    sc_encode_job job = {.channel = t->channel, .data = f.data, .frame_bytes = f.frame_bytes, .count = f.count, .width = f.width,
                         .height = f.height, .quality = quality, .fps = t->facts.fps, .chunk = f.chunk, .first_frame = f.first_frame,
                         .first_pts_us = first_pts_us, .prompt_seq = f.prompt_seq, .first_of_prompt = f.first_of_prompt,
                         .begins = f.chunk == t->first, .wait_ns = wait,
                         .denoise_ns = t->denoise_ns, .decode_ns = decode_ns};
    sc_channel_expect(t->channel, f.count);
    if (sc_encoder_submit(s->encoder, &job, &err)) sc_log(SC_LOG_ERROR, "session", "id=%s %s", sc_channel_id(t->channel), err.text);
    sc_scheduler_log_chunk(t, &f);
    sc_log(SC_LOG_DEBUG, "session", "id=%s chunk=%llu wait_ms=%.1f denoise_ms=%.1f decode_ms=%.1f", sc_channel_id(t->channel),
           (unsigned long long)f.chunk, (double)wait * 1e-6, (double)t->denoise_ns * 1e-6, (double)decode_ns * 1e-6);
}

static void after_pass(sc_scheduler *s, struct stream *t, sc_pass pass, uint64_t began, uint64_t took) {
    sc_error err = {0};
    if (!s->info.behind) pass_took(s, pass.kind, took);
    SC_COUNT(passes[pass.kind], 1);
    if (sc_session_failed(t->session, &err)) { sc_scheduler_fail_session(t, &err); return; }
    switch (pass.kind) {
    case SC_PASS_DENOISE: t->denoise_ns += took; break;
    case SC_PASS_DECODE:
        t->due_ns = began;
        t->due_began_ns = t->began_ns;
        if (!s->info.behind) frames_out(s, t);
        break;
    case SC_PASS_CLEAN:
        if (!s->info.behind) sc_window_add(&s->whole, t->denoise_ns + took + sc_window_quantile(&s->decode, 0.5));
        t->began_ns = 0;
        sc_scheduler_update_load(s);
        break;
    }
}

/* The engine tells apart whose failure a device call was (sc_session_failed). What is left is memory: the sessions that did not move on
 * take the pass again, each alone, and only those without memory of their own fail. */
sc_status sc_scheduler_run_engine(sc_scheduler *s, sc_session *const *sessions, int count, const sc_pass *passes, sc_error *each) {
    sc_scheduler_enter_device(s);
    sc_status rc = sc_engine_run(s->engine, sessions, count, &each[0]);
    for (int i = count - 1; rc && rc != SC_ELOST && i >= 0; i--) {
        const sc_pass next = sc_session_next(sessions[i]);
        bool there = next.kind == passes[i].kind && next.step == passes[i].step && next.chunk == passes[i].chunk;
        if (count == 1) break;
        each[i] = (sc_error){0};
        if (!there || sc_session_failed(sessions[i], NULL)) continue;
        if (sc_engine_run(s->engine, &sessions[i], 1, &each[i]) == SC_ELOST) {
            each[0] = each[i];
            rc = SC_ELOST;
        }
    }
    sc_scheduler_leave_device(s);
    return rc == SC_ELOST ? rc : SC_OK;
}

void sc_scheduler_end_chunk(sc_scheduler *s, struct stream *t, uint64_t end_ns) {
    while (t->session && !s->fault.status && sc_now_ns() < end_ns) {
        const sc_pass pass = sc_session_next(t->session);
        sc_error why = {0};
        if (pass.kind == SC_PASS_DENOISE && pass.step == 0) break;
        const uint64_t begin = sc_now_ns();
        if (sc_scheduler_run_engine(s, &t->session, 1, &pass, &why)) s->fault = why;
        else if (why.status) sc_scheduler_fail_session(t, &why);
        else after_pass(s, t, pass, begin, sc_now_ns() - begin);
    }
    if (t->session && t->due_ns && !s->fault.status) frames_out(s, t);
}

/* What has come of the frames that are due. Sets s->fault when the device is gone. False: none; *wake_ns is when to look again. */
static bool collect(sc_scheduler *s, uint64_t now, uint64_t *wake_ns) {
    bool any = false;
    for (int i = 0; i < s->n && !s->fault.status; i++) {
        struct stream *t = s->streams[i];
        if (!t->due_ns || !t->session) continue;
        if (sc_session_frames_coming(t->session) && now - t->due_ns < LOOK_FOR_NS) {
            if (*wake_ns > now + LOOK_NS) *wake_ns = now + LOOK_NS;
            continue;
        }
        frames_out(s, t);
        any = true;
    }
    return any;
}

/* One pass of the most urgent session (of several, where the device gains from it). False: nothing to do before *wake_ns. */
bool sc_scheduler_run_pass(sc_scheduler *s, uint64_t now, uint64_t *wake_ns) {
    sc_plan_job jobs[SC_PLAN_JOBS_MAX];
    struct stream *who[SC_PLAN_JOBS_MAX], *mine[BATCH];
    sc_pass next[SC_PLAN_JOBS_MAX], passes[BATCH];
    sc_session *sessions[BATCH];
    sc_error each[BATCH] = {0};
    bool eligible[SC_PLAN_JOBS_MAX];
    int n = 0, count = 0;
    uint64_t look_ns = SC_NEVER;

    if (collect(s, now, &look_ns)) return true;
    for (int i = 0; i < s->n; i++) {
        struct stream *t = s->streams[i];
        sc_playout p;
        if (!t->session) continue;
        sc_channel_playout(t->channel, &p, now);
        sc_pass pass = sc_session_next(t->session);
        bool fresh = pass.kind == SC_PASS_DENOISE && pass.step == 0;
        if (fresh && look_ns != SC_NEVER) continue;
        if (fresh && pass.chunk > 0 && !p.playing) continue; /* nobody watches: the next chunk can wait */
        if (fresh && pass.chunk == 0 && t->paused) continue;
        uint64_t length = chunk_ns(s, p.period_ns), ahead = length * (uint64_t)t->facts.lookahead_chunks;
        uint64_t dry = p.dry_ns;
        if (dry != SC_NEVER && ahead > length) dry = dry > ahead - length ? dry - (ahead - length) : 0;
        jobs[n] = (sc_plan_job){.deadline_ns = dry, .remaining_ns = remaining_ns(s, pass, p.period_ns), .started = !fresh,
                                .not_before_ns = p.dry_ns != SC_NEVER && p.dry_ns > ahead ? p.dry_ns - ahead : 0};
        if (fresh && pass.chunk == 0) jobs[n].not_before_ns = 0;
        who[n] = t;
        next[n++] = pass;
    }
    uint64_t margin = margin_ns(s);
    int best = sc_plan_pick(jobs, n, now, margin, wake_ns);
    if (best < 0) {
        if (look_ns < *wake_ns) *wake_ns = look_ns;
        return false;
    }
    mine[count] = who[best];
    passes[count++] = next[best];
    if (s->batches) {
        sc_plan_eligible(jobs, n, now, margin, eligible);
        for (int i = 0; i < n && count < BATCH; i++)
            if (i != best && eligible[i] && next[i].kind == next[best].kind) { mine[count] = who[i]; passes[count++] = next[i]; }
    }
    for (int i = 0; i < count; i++) {
        sessions[i] = mine[i]->session;
        before_pass(mine[i], passes[i], now);
    }
    uint64_t begin = sc_now_ns();
    if (sc_scheduler_run_engine(s, sessions, count, passes, each)) {
        s->fault = each[0];
        return true;
    }
    uint64_t end = sc_now_ns();
    for (int i = 0; i < count; i++) {
        if (each[i].status) sc_scheduler_fail_session(mine[i], &each[i]);
        else after_pass(s, mine[i], passes[i], begin, end - begin);
    }
    return true;
}

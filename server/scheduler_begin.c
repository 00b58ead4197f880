/* scheduler_begin.c - how sessions begin: from a prompt, or as a fork of another. Engine thread.
 *
 * A fork is what its source was between two chunks, so it is taken when the source stands there and its frames are out; the source itself goes on as
 * if nothing had been. It begins with the chunk that was asked for, or with the next one that begins:
 *
 *     source   | chunk 11 in work .... | 12 | 13 ...        at_chunk   11: 409, the earliest is 12
 *     now            ^                                                 none or 12: when chunk 11 is done
 *                                                                      13 .. 28: waits; 29: 409
 *
 * Nobody waits for what does not come: a source that is paused before the chunk ends the wait (409), as does its own end. A place is not kept for a
 * fork that waits. What it is given besides: the source's settings, its numbers of chunks, frames and prompts, what is to come of its schedule, its
 * last picture for whoever comes before the first of its own; but not its pause. The prompt that its first own chunk is made under counts as in
 * force from the beginning. */
#include "server/scheduler_internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/metrics.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LOOKAHEAD_MAX = 4, FORK_AHEAD = 16 };

/* ---- what both have ---- */

static const void *asked_for(const sc_command *c, size_t *n) {
    *n = c->kind == SC_COMMAND_FORK ? sizeof c->fork : sizeof c->create;
    return c->kind == SC_COMMAND_FORK ? (const void *)&c->fork : &c->create;
}

/* True: it has its answer, since the key made a session that is still there. */
static bool answered_before(sc_scheduler *s, sc_command *c) {
    size_t n;
    const void *request = asked_for(c, &n);
    for (int i = 0; c->key[0] && i < SC_SCHEDULER_KEYS; i++) {
        const struct made *m = &s->made[i];
        if (strcmp(m->key, c->key) || !sc_scheduler_find(s, m->id)) continue;
        if (m->kind != c->kind || memcmp(&m->create, request, n) || !sc_program_same(m->program, c->program) ||
            (c->kind == SC_COMMAND_FORK && strcmp(m->from, c->id)))
            sc_problem_set(&c->problem, 422, "This Idempotency-Key was used for another request.");
        else memcpy(c->id, m->id, sizeof c->id);
        return true;
    }
    return false;
}

bool sc_scheduler_has_place(const sc_scheduler *s, sc_command *c) {
    if (s->n < SC_PLAN_JOBS_MAX && s->n < s->info.max_sessions) return true;
    sc_problem_set(&c->problem, 503, "All %d places are taken; try again later.", s->info.max_sessions);
    return false;
}

sc_status sc_scheduler_enter(sc_scheduler *s, struct stream *t, const struct stream *from, sc_session_log *past, sc_command *c, sc_error *err) {
    const sc_facts *f = &t->facts;
    char id[SC_ID_CHARS + 1] = {0};
    uint64_t now = sc_now_ns();
    sc_session_log *log;
    size_t n;
    const bool back = c->kind == SC_COMMAND_RESTORE && c->id[0];
    sc_status rc = back ? SC_OK : sc_id_random(id, err);

    if (back) memcpy(id, c->id, sizeof id);
    if (rc) sc_session_log_destroy(past);
    if (rc || (rc = sc_scheduler_log_open(s, t, from, past, id, &log, err))) return rc;
    t->channel = sc_channel_create(s->hub, id, f->fps, (LOOKAHEAD_MAX + 2) * s->info.frames_chunk, f, log, now);
    if (!t->channel) return sc_fail(err, SC_ENOMEM, "session: no room");
    sc_channel_set_play(t->channel, false, f->run_without_viewers, now);
    if (t->program) sc_channel_set_program(t->channel, t->program, f);
    s->streams[s->n++] = t;
    if (c->key[0]) {
        struct made *m = &s->made[s->made_at++ % SC_SCHEDULER_KEYS];
        const void *request = asked_for(c, &n);
        memcpy(m->key, c->key, sizeof m->key);
        m->kind = c->kind;
        memcpy(m->from, c->id, sizeof m->from);
        memcpy(m->id, id, sizeof m->id);
        memcpy(&m->create, request, n);
        sc_program_release(m->program);
        m->program = sc_program_retain(c->program);
    }
    memcpy(c->id, id, sizeof c->id);
    SC_COUNT(sessions_created, 1);
    sc_scheduler_update_load(s);
    return SC_OK;
}

/* ---- from a prompt ---- */

void sc_scheduler_create(sc_scheduler *s, sc_command *c) {
    const sc_create_request *r = &c->create;
    sc_error err = {0};
    struct stream *t = NULL;

    if (answered_before(s, c)) return;
    if (r->model[0] && strcmp(r->model, s->info.name)) {
        sc_problem_set(&c->problem, 422, "model: there is no model of this name; GET /v1/models lists them.");
        sc_problem_add(&c->problem, "/model", "must be \"%s\"", s->info.name);
        return;
    }
    if (!sc_scheduler_has_place(s, c)) return;
    t = calloc(1, sizeof *t);
    if (!t) { sc_fail(&err, SC_ENOMEM, "session: out of memory"); goto failed; }
    sc_facts *f = &t->facts;
    f->state = SC_STATE_STARTING;
    memcpy(f->prompt, r->prompt, sizeof f->prompt);
    f->prompt_bytes = r->prompt_bytes;
    f->prompt_seq = f->newest_seq = 1;
    f->transition = r->transition;
    memcpy(f->model, s->info.name, sizeof f->model);
    f->seed = r->seed;
    if (!r->has_seed && sc_seed_random(&f->seed, &err)) goto failed;
    f->memory_bytes = s->info.session_bytes;
    f->width = s->info.width;
    f->height = s->info.height;
    f->fps = r->fps ? r->fps : s->info.fps;
    f->first_frames = s->info.frames_first;
    f->chunk_frames = s->info.frames_chunk;
    f->jpeg_quality = r->jpeg_quality ? r->jpeg_quality : s->o.jpeg_quality;
    f->lookahead_chunks = r->lookahead_chunks ? r->lookahead_chunks : 1;
    f->idle_timeout_s = r->idle_timeout_s ? r->idle_timeout_s : s->o.idle_timeout_s;
    f->run_without_viewers = r->run_without_viewers == 1;
    f->created = (int64_t)time(NULL);
    f->chunk = -1;
    const sc_program_clock clock = sc_facts_clock(f);
    if (!sc_program_begin(c->program, &clock, 0, "/schedule", &f->program, &c->problem)) goto refused;
    t->program = sc_program_retain(c->program);
    sc_scheduler_make_place(s);
    sc_scheduler_enter_device(s);
    sc_status rc = sc_session_create(s->engine, f->seed, r->prompt, r->prompt_bytes, 1, &t->session, &err);
    sc_scheduler_leave_device(s);
    if (rc || sc_scheduler_enter(s, t, NULL, NULL, c, &err)) goto failed;
    sc_log(SC_LOG_INFO, "session", "id=%s created seed=%llu prompt_bytes=%zu sessions=%d", c->id, (unsigned long long)f->seed, r->prompt_bytes, s->n);
    sc_scheduler_hand_over(s, t);
    return;
failed:
    sc_scheduler_problem(s, &c->problem, &err, "/prompt");
refused:
    if (t) sc_session_destroy(t->session);
    sc_scheduler_free_stream(t);
}

/* ---- from another session ---- */

/* What t knows beside its session: as its source, but for what was asked for. */
static void inherit(struct stream *t, const struct stream *from, const sc_command *c, sc_pass next) {
    const sc_fork_request *r = &c->fork;
    const bool waits = next.prompt_seq != from->facts.prompt_seq;
    sc_facts *f = &t->facts;

    t->last_pts_us = from->last_pts_us;
    t->wait_ns = from->wait_ns;
    t->denoise_ns = from->denoise_ns;
    t->decode_ns = from->decode_ns;
    t->program = sc_program_retain(from->program);
    t->next_transition = r->has_prompt ? SC_WIRE_SWITCH : from->next_transition;
    *f = from->facts;
    f->newest_seq += r->has_prompt;
    f->state = SC_STATE_STARTING;
    f->reason[0] = 0;
    f->wait = f->denoise = f->decode = (sc_stage_time){0, 0};
    f->created = (int64_t)time(NULL);
    memcpy(f->forked_from, c->id, sizeof f->forked_from);
    f->forked_chunk = t->first = next.chunk;
    if (r->has_seed) f->seed = r->seed;
    if (!r->has_prompt && !waits) return;
    memcpy(f->prompt, r->has_prompt ? r->prompt : from->next_prompt, sizeof f->prompt);
    f->prompt_bytes = r->has_prompt ? r->prompt_bytes : from->next_prompt_bytes;
    f->prompt_seq = f->newest_seq;
    f->prompt_chunk = next.chunk;
}

void sc_scheduler_show_past(sc_scheduler *s, struct stream *t) {
    const sc_facts *facts = &t->facts;
    sc_frames f;
    sc_error err = {0};
    if (sc_session_frames(t->session, &f, &err)) return; /* there is no past */
    sc_encode_job job = {.channel = t->channel, .data = f.data, .frame_bytes = f.frame_bytes, .count = f.count, .width = f.width, .height = f.height,
                         .quality = facts->jpeg_quality, .fps = facts->fps, .chunk = f.chunk, .first_frame = f.first_frame,
                         .first_pts_us = t->last_pts_us, .prompt_seq = f.prompt_seq, .past = true,
                         .wait_ns = t->wait_ns, .denoise_ns = t->denoise_ns, .decode_ns = t->decode_ns};
    sc_channel_expect(t->channel, f.count);
    if (sc_encoder_submit(s->encoder, &job, &err)) sc_log(SC_LOG_ERROR, "session", "id=%s %s", sc_channel_id(t->channel), err.text);
}

static void take(sc_scheduler *s, const struct stream *from, sc_command *c, sc_pass next) {
    const sc_fork_request *r = &c->fork;
    char source[SC_ID_CHARS + 1];
    sc_error err = {0};
    struct stream *t = calloc(1, sizeof *t);

    if (!t) { sc_fail(&err, SC_ENOMEM, "session: out of memory"); goto failed; }
    inherit(t, from, c, next);
    memcpy(source, c->id, sizeof source);
    sc_scheduler_make_place(s);
    sc_scheduler_enter_device(s);
    sc_status rc = sc_session_fork(from->session, t->facts.seed, &t->session, &err);
    if (!rc && r->has_prompt) rc = sc_session_set_prompt(t->session, r->prompt, r->prompt_bytes, t->facts.newest_seq, SC_SWITCH, 0, NULL, &err);
    sc_scheduler_leave_device(s);
    if (rc || sc_scheduler_enter(s, t, from, NULL, c, &err)) goto failed;
    sc_scheduler_show_past(s, t);
    sc_scheduler_hand_over(s, t);
    SC_COUNT(forks, 1);
    sc_log(SC_LOG_INFO, "session", "id=%s forked from=%s chunk=%llu seed=%llu prompt_bytes=%zu sessions=%d", c->id, source,
           (unsigned long long)next.chunk, (unsigned long long)t->facts.seed, r->prompt_bytes, s->n);
    return;
failed:
    sc_scheduler_problem(s, &c->problem, &err, "/prompt");
    if (t) sc_session_destroy(t->session);
    sc_scheduler_free_stream(t);
}

/* The next chunk of a session that stands before it does not begin by itself. */
static bool stays(const struct stream *t, uint64_t chunk, uint64_t now) {
    sc_playout p;
    if (chunk == 0) return t->paused;
    sc_channel_playout(t->channel, &p, now);
    return !p.playing;
}

static void refuse_chunk(sc_command *c, const char *fmt, unsigned long long chunk, unsigned long long earliest) {
    sc_problem_set(&c->problem, 409, fmt, chunk, earliest, earliest + FORK_AHEAD);
    sc_problem_add(&c->problem, "/at_chunk", "must be %llu to %llu", earliest, earliest + FORK_AHEAD);
}

/* True: c has its answer. */
static bool fork_or_wait(sc_scheduler *s, sc_command *c) {
    if (answered_before(s, c)) return true;
    const struct stream *from = sc_scheduler_find(s, c->id);
    if (!from && c->waits) sc_problem_set(&c->problem, 409, "The session ended before chunk %llu began.", (unsigned long long)c->chunk);
    else if (!from) sc_problem_set(&c->problem, 404, "There is no such session.");
    else if (!from->session) sc_problem_set(&c->problem, 409, "This session has failed.");
    if (c->problem.status || (!c->waits && !sc_scheduler_has_place(s, c))) return true;

    const sc_pass next = sc_session_next(from->session);
    const bool between = next.kind == SC_PASS_DENOISE && next.step == 0;
    const uint64_t earliest = between ? next.chunk : next.chunk + 1;
    if (!c->waits) c->chunk = c->fork.has_at_chunk ? c->fork.at_chunk : earliest;
    if (c->chunk < earliest) refuse_chunk(c, "Chunk %llu has begun already; the earliest that a fork can begin with is %llu.", c->chunk, earliest);
    else if (c->chunk - earliest > FORK_AHEAD) refuse_chunk(c, "Chunk %llu is too far ahead: a fork can begin with %llu to %llu.", c->chunk, earliest);
    else if (!between || from->due_ns) return false;
    else if (c->chunk == earliest) {
        if (sc_scheduler_has_place(s, c)) take(s, from, c, next);
    }
    else if (stays(from, next.chunk, sc_now_ns()))
        refuse_chunk(c, "Chunk %llu does not come while the session is paused; the earliest that a fork can begin with is %llu.", c->chunk, earliest);
    else return false;
    return true;
}

bool sc_scheduler_fork(sc_scheduler *s, sc_command *c) {
    if (fork_or_wait(s, c)) return true;
    if (s->forks_n == SC_SCHEDULER_QUEUE) {
        sc_problem_set(&c->problem, 503, "Too many forks wait for their chunk; try again later.");
        return true;
    }
    c->waits = true;
    SC_COUNT(forks_waiting, 1);
    s->forks[s->forks_n++] = c;
    return false;
}

static sc_command *remove_fork(sc_scheduler *s, int i) {
    sc_command *c = s->forks[i];
    SC_COUNT(forks_waiting, -1);
    memmove(s->forks + i, s->forks + i + 1, sizeof *s->forks * (size_t)(--s->forks_n - i));
    return c;
}

void sc_scheduler_run_forks(sc_scheduler *s) {
    for (int i = 0; i < s->forks_n && !s->fault.status;) {
        if (!fork_or_wait(s, s->forks[i])) { i++; continue; }
        sc_command *c = remove_fork(s, i);
        c->done(c);
    }
}

sc_command *sc_scheduler_take_fork(sc_scheduler *s) { return s->forks_n ? remove_fork(s, 0) : NULL; }

/* scheduler.c - see scheduler.h. What is planned is decided in plan.c; what runs next in scheduler_passes.c; how sessions begin stands in
 * scheduler_begin.c, their schedules in scheduler_program.c, snapshots in scheduler_save.c and scheduler_return.c, their logs in scheduler_log.c,
 * clips in scheduler_videos.c; here are the thread, its commands and the rest of a session's life. */
#include "server/scheduler_internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/metrics.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const uint64_t NAP_NS = 500000000;

static_assert((int)SC_WIRE_SWITCH == (int)SC_SWITCH && (int)SC_WIRE_CUT == (int)SC_CUT, "transitions are cast");

void sc_scheduler_enter_device(sc_scheduler *s) { atomic_store(&s->busy_since_ns, sc_now_ns()); }

void sc_scheduler_leave_device(sc_scheduler *s) {
    uint64_t took = sc_now_ns() - atomic_load(&s->busy_since_ns);
    atomic_store(&s->busy_since_ns, 0);
    if (took > atomic_load(&s->longest_ns)) atomic_store(&s->longest_ns, took);
}

void sc_scheduler_publish(struct stream *t) { sc_channel_publish(t->channel, &t->facts); }

void sc_scheduler_set_state(struct stream *t, sc_state state, const char *reason) {
    char text[512];
    if (t->facts.state == state && !strcmp(t->facts.reason, reason ? reason : "")) return;
    t->facts.state = state;
    strncpy(t->facts.reason, reason ? reason : "", sizeof t->facts.reason - 1);
    sc_scheduler_publish(t);
    sc_log(SC_LOG_INFO, "session", "id=%s state=%s reason=%s", sc_channel_id(t->channel), sc_state_name(state), t->facts.reason);
    sc_hub_say(NULL, t->channel, 0, false, text, sc_message_state(text, sizeof text, sc_state_name(state), reason));
}

/* ---- life of a session ---- */

void sc_scheduler_update_load(sc_scheduler *s) {
    pthread_mutex_lock(&s->lock);
    s->sessions = s->n;
    s->chunk_cost_ns = sc_window_quantile(&s->whole, 0.95);
    pthread_mutex_unlock(&s->lock);
}

struct stream *sc_scheduler_find(sc_scheduler *s, const char *id) {
    for (int i = 0; i < s->n; i++) if (!strcmp(sc_channel_id(s->streams[i]->channel), id)) return s->streams[i];
    return NULL;
}

void sc_scheduler_free_stream(struct stream *t) {
    if (!t) return;
    sc_channel_release(t->channel);
    sc_program_release(t->program);
    free(t);
}

void sc_scheduler_end_session(sc_scheduler *s, struct stream *t, int code, const char *reason) {
    if (t->facts.state != SC_STATE_FAILED) {
        sc_scheduler_set_state(t, SC_STATE_ENDED, reason);
        sc_scheduler_log_end(t);
    }
    for (int i = 0; i < s->n; i++) {
        if (s->streams[i] != t) continue;
        memmove(&s->streams[i], &s->streams[i + 1], sizeof *s->streams * (size_t)(s->n - i - 1));
        s->n--;
        break;
    }
    if (s->keeper) sc_keeper_forget(s->keeper, sc_channel_id(t->channel));
    sc_scheduler_enter_device(s);
    sc_session_destroy(t->session);
    sc_scheduler_leave_device(s);
    sc_channel_close(t->channel, code, reason);
    sc_scheduler_free_stream(t);
    sc_scheduler_update_load(s);
}

void sc_scheduler_fail_session(struct stream *t, const sc_error *err) {
    sc_log(SC_LOG_ERROR, "session", "id=%s failed: %s", sc_channel_id(t->channel), err->text);
    SC_COUNT(sessions_failed, 1);
    sc_scheduler_set_state(t, SC_STATE_FAILED, "the engine could not go on with this session");
    sc_scheduler_log_end(t);
    sc_session_destroy(t->session);
    t->session = NULL;
    sc_channel_kick(t->channel, 1011, "session failed");
}

void sc_scheduler_problem(sc_scheduler *s, sc_problem *p, const sc_error *err, const char *pointer) {
    if (err->status != SC_EINVAL && err->status != SC_EBUSY) sc_log(SC_LOG_ERROR, "engine", "a request failed: %s", err->text);
    switch (err->status) {
    case SC_EINVAL:
        sc_problem_set(p, 422, "%s", err->text);
        if (pointer) sc_problem_add(p, pointer, "%s", err->text);
        break;
    case SC_EBUSY: sc_problem_set(p, 503, "All places are taken; try again later."); break;
    case SC_ENOTFOUND: sc_problem_set(p, 404, "There is no such session."); break;
    case SC_ENOMEM: sc_problem_set(p, 503, "Out of memory; try again later."); break;
    case SC_ELOST:
        s->fault = *err;
        sc_problem_set(p, 503, "The device failed; the daemon restarts.");
        break;
    default: sc_problem_set(p, 500, "The engine could not do this."); break;
    }
}

static const char *pointer_of(const sc_command *c) { return c->kind == SC_COMMAND_PROMPT ? "/text" : "/prompt"; }

static void do_prompt(sc_scheduler *s, struct stream *t, sc_command *c) {
    const sc_patch_request *r = &c->patch;
    sc_error err = {0};
    uint64_t at = 0;
    sc_wire_transition how = r->transition != SC_WIRE_NOT_GIVEN ? r->transition
                           : t->facts.transition != SC_WIRE_NOT_GIVEN ? t->facts.transition : SC_WIRE_SWITCH;
    uint32_t seq = t->facts.newest_seq + 1;
    sc_scheduler_enter_device(s);
    sc_status rc = sc_session_set_prompt(t->session, r->prompt, r->prompt_bytes, seq, (sc_transition)how, SC_BLEND_CHUNKS, &at, &err);
    sc_scheduler_leave_device(s);
    if (rc) {
        sc_scheduler_problem(s, &c->problem, &err, pointer_of(c));
        return;
    }
    t->facts.newest_seq = seq;
    c->has_seq = true;
    c->seq = seq;
    c->applies_at = (int64_t)at;
    memcpy(t->next_prompt, r->prompt, sizeof t->next_prompt);
    t->next_prompt_bytes = r->prompt_bytes;
    t->next_transition = how;
    sc_scheduler_publish(t);
    sc_channel_prompt_received(t->channel, seq, r->prompt, r->prompt_bytes, at, how, c->ref, c->viewer, c->asked_ns);
}

static void do_pause(struct stream *t, bool paused) {
    t->paused = paused;
    sc_channel_set_play(t->channel, paused, t->facts.run_without_viewers, sc_now_ns());
}

static void do_patch(sc_scheduler *s, struct stream *t, sc_command *c) {
    const sc_patch_request *r = &c->patch;
    if (r->has_prompt) do_prompt(s, t, c);
    if (c->problem.status) return; /* nothing of it happened */
    if (r->state != SC_PATCH_STATE_NOT_GIVEN) do_pause(t, r->state == SC_PATCH_PAUSED);
    if (r->fps) {
        t->facts.fps = r->fps;
        sc_channel_set_fps(t->channel, r->fps);
        sc_scheduler_hand_over(s, t); /* moments are in other chunks now */
    }
    if (r->jpeg_quality) t->facts.jpeg_quality = r->jpeg_quality;
    if (r->idle_timeout_s) t->facts.idle_timeout_s = r->idle_timeout_s;
    sc_scheduler_publish(t);
}

static void do_memory(sc_scheduler *s, struct stream *t, sc_command *c) {
    sc_error err = {0};
    sc_scheduler_enter_device(s);
    const sc_status rc = sc_session_memory(t->session, &c->memory, &err);
    sc_scheduler_leave_device(s);
    if (rc) sc_scheduler_problem(s, &c->problem, &err, NULL);
}

static void do_now(sc_scheduler *s, sc_command *c) {
    struct stream *t = NULL;
    if (c->kind == SC_COMMAND_FORK) {
        if (!sc_scheduler_fork(s, c)) return;
    } else if (c->kind == SC_COMMAND_SAVE || c->kind == SC_COMMAND_RESTORE) {
        if (!sc_scheduler_save(s, c)) return;
    } else if (c->kind == SC_COMMAND_READ) {} /* read it is */
    else if (c->kind == SC_COMMAND_CLIP) sc_scheduler_begin_clip(s, c);
    else if (c->kind != SC_COMMAND_CREATE && !(t = sc_scheduler_find(s, c->id))) sc_problem_set(&c->problem, 404, "There is no such session.");
    else if (c->kind == SC_COMMAND_CREATE) sc_scheduler_create(s, c);
    else if (c->kind == SC_COMMAND_DELETE) sc_scheduler_end_session(s, t, 1000, "session deleted");
    else if (!t->session) sc_problem_set(&c->problem, 409, "This session has failed.");
    else {
        if (c->kind == SC_COMMAND_PATCH) do_patch(s, t, c);
        else if (c->kind == SC_COMMAND_PROMPT) do_prompt(s, t, c);
        else if (c->kind == SC_COMMAND_SCHEDULE) sc_scheduler_schedule(s, t, c);
        else if (c->kind == SC_COMMAND_MEMORY) do_memory(s, t, c);
        else if (c->kind == SC_COMMAND_SCHEDULED) { if (sc_scheduler_still_scheduled(t, c)) do_prompt(s, t, c); }
        else do_pause(t, c->kind == SC_COMMAND_PAUSE);
        sc_scheduler_look_after(s, t, sc_now_ns());
    }
    c->done(c);
}

/* ---- commands whose words another thread reads ---- */

/* The prompt that a command brings, or NULL. */
static const char *words_of(const sc_command *c, size_t *n) {
    if (c->kind == SC_COMMAND_CREATE || c->kind == SC_COMMAND_CLIP) {
        *n = c->create.prompt_bytes;
        return c->create.prompt;
    }
    if (c->kind == SC_COMMAND_FORK) {
        *n = c->fork.prompt_bytes;
        return c->fork.has_prompt ? c->fork.prompt : NULL;
    }
    if (!c->patch.has_prompt && c->kind != SC_COMMAND_PROMPT) return NULL;
    *n = c->patch.prompt_bytes;
    return c->patch.prompt;
}

/* Nothing is to be read for a command: it has no words, they are known, or its session is gone, which doing it will say. */
static bool ready(sc_scheduler *s, const sc_command *c) {
    size_t n = 0;
    const char *words = words_of(c, &n);
    if (!words) return true;
    if (c->kind != SC_COMMAND_CREATE && c->kind != SC_COMMAND_READ && c->kind != SC_COMMAND_CLIP) {
        const struct stream *t = sc_scheduler_find(s, c->id);
        if (!t || !t->session) return true;
    }
    return sc_engine_prompt_known(s->engine, words, n);
}

/* A fork without words has those that wait for its source. */
static bool must_wait(sc_scheduler *s, const sc_command *c) {
    size_t n = 0;
    if (c->kind != SC_COMMAND_FORK && !words_of(c, &n)) return false;
    for (int i = 0; i < s->parked_n; i++) if (c->id[0] && !strcmp(s->parked[i]->id, c->id)) return true;
    return !ready(s, c);
}

void sc_scheduler_do(sc_scheduler *s, sc_command *c) {
    if (!s->info.text_apart || !must_wait(s, c)) {
        do_now(s, c);
        return;
    }
    if (s->parked_n < SC_SCHEDULER_QUEUE) {
        s->parked[s->parked_n++] = c;
        return;
    }
    sc_problem_set(&c->problem, 503, "Too many prompts wait for the text encoder; try again later.");
    c->done(c);
}

static sc_command *unpark(sc_scheduler *s) {
    if (!s->parked_n) return NULL;
    sc_command *c = s->parked[0];
    memmove(s->parked, s->parked + 1, sizeof *s->parked * (size_t)--s->parked_n);
    return c;
}

/* Any thread. */
static void text_read(void *arg) {
    sc_scheduler *s = arg;
    atomic_store(&s->text_read, true);
    sc_scheduler_wake(s);
}

/* Does what can be done of the parked commands, in order, and asks for the words of the first that cannot. */
static void run_parked(sc_scheduler *s) {
    while (!s->fault.status) {
        sc_error err = {0};
        sc_status rc = SC_OK;
        if (s->asking) {
            if (!atomic_load(&s->text_read)) return;
            s->asking = false;
            sc_scheduler_enter_device(s);
            rc = sc_engine_prompt_answer(s->engine, &err);
            sc_scheduler_leave_device(s);
        } else if (!s->parked_n) return;
        else if (!ready(s, s->parked[0])) {
            size_t n = 0;
            const char *words = words_of(s->parked[0], &n);
            atomic_store(&s->text_read, false);
            rc = sc_engine_prompt_ask(s->engine, words, n, text_read, s, &err);
            s->asking = !rc;
            if (!rc) return;
        }
        sc_command *c = unpark(s);
        if (rc) {
            sc_scheduler_problem(s, &c->problem, &err, pointer_of(c));
            c->done(c);
        } else do_now(s, c);
    }
}

/* ---- the thread ---- */

static void set_engine_state(sc_scheduler *s, sc_engine_state state) {
    pthread_mutex_lock(&s->lock);
    s->state = state;
    pthread_mutex_unlock(&s->lock);
}

static sc_command *take_command(sc_scheduler *s) {
    sc_command *c = NULL;
    pthread_mutex_lock(&s->lock);
    if (s->count) {
        c = s->queue[s->head];
        s->head = (s->head + 1) % SC_SCHEDULER_QUEUE;
        s->count--;
    }
    pthread_mutex_unlock(&s->lock);
    return c;
}

/* Sleep until something happens or the plan's moment comes. False: stop. */
static bool rest(sc_scheduler *s, uint64_t until_ns) {
    struct timespec t = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
    pthread_mutex_lock(&s->lock);
    while (!s->stop && !s->count && !s->woken)
        if (pthread_cond_timedwait(&s->changed, &s->lock, &t)) break;
    s->woken = false;
    bool on = !s->stop;
    pthread_mutex_unlock(&s->lock);
    return on;
}

static bool stopping(sc_scheduler *s) {
    pthread_mutex_lock(&s->lock);
    bool stop = s->stop;
    pthread_mutex_unlock(&s->lock);
    return stop;
}

static void refuse_all(sc_scheduler *s, const char *why) {
    for (sc_command *c; (c = sc_scheduler_take_fork(s)) || (c = sc_scheduler_take_save(s)) || (c = unpark(s)) || (c = take_command(s));) {
        sc_problem_set(&c->problem, 503, "%s", why);
        c->done(c);
    }
}

static void *engine_main(void *arg) {
    sc_scheduler *s = arg;
    sc_error err = {0};
    sc_model_info info;

    pthread_setname_np(pthread_self(), "engine");
    uint64_t begin = sc_now_ns();
    if (sc_engine_open(&s->engine, &s->o.engine, &err)) {
        set_engine_state(s, SC_ENGINE_FAILED);
        refuse_all(s, "The model could not be loaded.");
        s->o.failed(s->o.ctx, &err);
        while (rest(s, sc_now_ns() + NAP_NS)) refuse_all(s, "The model could not be loaded.");
        return NULL;
    }
    sc_engine_describe(s->engine, &info);
    if (info.fps < 1) info.fps = 16;
    if (info.steps < 1) info.steps = 1;
    /* Calls that only launch say nothing of how long frames may take: a model with chunks of seconds does not hang. */
    if (info.first_chunk_ns > atomic_load(&s->longest_ns)) atomic_store(&s->longest_ns, info.first_chunk_ns);
    pthread_mutex_lock(&s->lock);
    s->info = info;
    pthread_mutex_unlock(&s->lock);
    sc_scheduler_bring_back(s);
    set_engine_state(s, SC_ENGINE_READY);
    sc_log(SC_LOG_INFO, "engine", "model=%s device=%s size=%dx%d fps=%d sessions=%d load_ms=%.0f", info.name, info.device, info.width,
           info.height, info.fps, info.max_sessions, (double)(sc_now_ns() - begin) * 1e-6);
    s->o.ready(s->o.ctx);
    while (!stopping(s) && !s->fault.status) {
        uint64_t wake = SC_NEVER;
        sc_scheduler_hand_over_all(s); /* before commands: what a person says now is newer */
        for (sc_command *c; !s->fault.status && (c = take_command(s));) sc_scheduler_do(s, c);
        run_parked(s);
        sc_scheduler_run_forks(s);
        sc_scheduler_run_saves(s);
        if (s->fault.status) break;
        uint64_t now = sc_now_ns();
        sc_scheduler_housekeeping(s, now);
        if (s->o.alive) s->o.alive(s->o.ctx);
        if (sc_scheduler_run_pass(s, now, &wake) || sc_scheduler_run_clip(s, now, &wake)) continue;
        if (wake > now + NAP_NS) wake = now + NAP_NS;
        rest(s, wake);
    }
    if (!s->fault.status) {
        sc_scheduler_drop_clip(s);
        sc_scheduler_save_all(s);
    }
    const bool fatal = s->fault.status == SC_ELOST;
    if (fatal) { /* the device is not called again, not even to free what it holds: sessions stay as they are */
        set_engine_state(s, SC_ENGINE_FAILED);
        s->o.failed(s->o.ctx, &s->fault);
        sc_scheduler_fault(s, s->fault.text);
        refuse_all(s, "The device failed; the daemon restarts.");
        while (rest(s, sc_now_ns() + NAP_NS)) refuse_all(s, "The device failed; the daemon restarts.");
    }
    set_engine_state(s, fatal ? SC_ENGINE_FAILED : SC_ENGINE_DRAINING);
    if (!fatal) sc_scheduler_close_state(s);
    while (s->n && !fatal) sc_scheduler_end_session(s, s->streams[s->n - 1], s->stop_code, s->stop_reason);
    refuse_all(s, "The daemon is shutting down.");
    return NULL;
}

/* Any thread: the engine's own may be the one that hangs. Channels are found in the hub, since the streams are the engine thread's. */
void sc_scheduler_fault(sc_scheduler *s, const char *why) {
    sc_channel *channels[SC_PLAN_JOBS_MAX];
    set_engine_state(s, SC_ENGINE_FAILED);
    sc_log(SC_LOG_ERROR, "engine", "device fault: %s", why);
    int n = sc_hub_list(s->hub, channels, SC_PLAN_JOBS_MAX);
    for (int i = 0; i < n; i++) {
        sc_channel_kick(channels[i], 1012, "device fault");
        sc_channel_release(channels[i]);
    }
}

uint64_t sc_scheduler_hangs_ns(sc_scheduler *s, uint64_t least_ns) {
    enum { TIMES = 20 }; /* a card shared with others may take that much longer than ever before */
    uint64_t since = atomic_load(&s->busy_since_ns), now = sc_now_ns(), limit = TIMES * atomic_load(&s->longest_ns);
    if (limit < least_ns) limit = least_ns;
    return since && now > since && now - since > limit ? now - since : 0;
}

sc_status sc_scheduler_start(sc_scheduler **out, const sc_scheduler_options *o, sc_hub *hub, sc_encoder *encoder, sc_error *err) {
    pthread_condattr_t attr;
    sc_scheduler *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!s || !(s->made = calloc(SC_SCHEDULER_KEYS, sizeof *s->made))) {
        free(s);
        return sc_fail(err, SC_ENOMEM, "scheduler: out of memory");
    }
    s->o = *o;
    strncpy(s->model_dir, o->engine.model_dir ? o->engine.model_dir : "", sizeof s->model_dir - 1);
    s->o.engine.model_dir = s->model_dir;
    if (o->engine.device) {
        strncpy(s->device, o->engine.device, sizeof s->device - 1);
        s->o.engine.device = s->device;
    }
    if (o->engine.memory) {
        strncpy(s->memory, o->engine.memory, sizeof s->memory - 1);
        s->o.engine.memory = s->memory;
    }
    s->batches = !strcmp(s->device, "cuda"); /* a CPU gains nothing from a pass twice as long */
    s->hub = hub;
    s->encoder = encoder;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    *out = s;
    const sc_status rc = o->state_dir ? sc_scheduler_open_state(s, o->state_dir, err) : SC_OK;
    if (rc || pthread_create(&s->thread, NULL, engine_main, s)) {
        *out = NULL;
        sc_keeper_stop(s->keeper);
        free(s->made);
        free(s);
        return rc ? rc : sc_fail(err, SC_ENOMEM, "scheduler: cannot start a thread");
    }
    return SC_OK;
}

bool sc_scheduler_post(sc_scheduler *s, sc_command *c) {
    pthread_mutex_lock(&s->lock);
    bool taken = s->count < SC_SCHEDULER_QUEUE && !s->stop;
    if (taken) {
        s->queue[(s->head + s->count++) % SC_SCHEDULER_QUEUE] = c;
        pthread_cond_signal(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return taken;
}

void sc_scheduler_wake(void *arg) {
    sc_scheduler *s = arg;
    pthread_mutex_lock(&s->lock);
    s->woken = true;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

void sc_scheduler_stop(sc_scheduler *s, int code, const char *reason) {
    if (!s || s->joined) return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    s->stop_code = code;
    strncpy(s->stop_reason, reason, sizeof s->stop_reason - 1);
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    s->joined = true;
}

void sc_scheduler_free(sc_scheduler *s) {
    if (!s) return;
    assert(s->joined);
    sc_keeper_stop(s->keeper); /* after a model that could not be loaded */
    for (int i = 0; i < s->n; i++) { /* after a device fault: the device is not touched again */
        sc_channel_close(s->streams[i]->channel, 1012, "device fault");
        sc_scheduler_free_stream(s->streams[i]);
    }
    if ((!s->n && !s->clip.session) || s->state != SC_ENGINE_FAILED) sc_engine_close(s->engine);
    else if (s->asking) return; /* its thread is not waited for: the process ends, and it may still say that it is done */
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    for (int i = 0; i < SC_SCHEDULER_KEYS; i++) sc_program_release(s->made[i].program);
    free(s->made);
    free(s);
}

sc_engine_state sc_scheduler_state(sc_scheduler *s, sc_model_info *info) {
    pthread_mutex_lock(&s->lock);
    sc_engine_state state = s->stop && s->state != SC_ENGINE_FAILED ? SC_ENGINE_DRAINING : s->state;
    if (info) *info = s->info;
    pthread_mutex_unlock(&s->lock);
    return state;
}

void sc_scheduler_load(sc_scheduler *s, uint64_t *chunk_cost_ns, int *sessions) {
    pthread_mutex_lock(&s->lock);
    *chunk_cost_ns = s->chunk_cost_ns;
    *sessions = s->sessions;
    pthread_mutex_unlock(&s->lock);
}

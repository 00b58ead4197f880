/* scheduler_save.c - sessions to the state directory and back. Engine thread; the disk is the keeper's (keeper.h).
 *
 *     save      waits for the end of the chunk in work and for the keeper; memory to the host at once, then: job -> keeper -> 201
 *     restore   waits for the keeper: job -> keeper reads and checks -> a session is made of it here -> 201
 *
 * A restored session is what a fork with the same seed would have been, taken where the other was saved: its log begins with that one's and says
 * from whom it comes, chunks and frames are numbered on, it shows the last picture until it has its own. What is to come of the schedule is
 * saved too. The daemon may be another one, on another machine, as long as model, memory and the type of its numbers are the same. */
#include "server/scheduler_internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/metrics.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- the keeper ---- */

/* Its thread. */
static void came_back(void *ctx, sc_keeper_job *job) {
    sc_scheduler *s = ctx;
    pthread_mutex_lock(&s->lock);
    s->kept = job;
    pthread_mutex_unlock(&s->lock);
    sc_scheduler_wake(s);
}

sc_status sc_scheduler_open_state(sc_scheduler *s, const char *dir, sc_error *err) { return sc_keeper_start(&s->keeper, dir, came_back, s, err); }

static void give(sc_scheduler *s, sc_command *c, sc_keeper_job *job) {
    memcpy(job->name, c->name, sizeof job->name);
    s->keeping = c;
    sc_keeper_give(s->keeper, job);
}

/* What a file said, or a disk. */
static void problem_of(sc_scheduler *s, sc_command *c, const sc_error *err) {
    const bool save = c->kind == SC_COMMAND_SAVE;
    sc_log(SC_LOG_WARN, "keeper", "%s name=%s: %s", save ? "save" : "restore", c->name, err->text);
    switch (err->status) {
    case SC_EBUSY: sc_problem_set(&c->problem, 507, "The session was not saved: %s.", err->text); break;
    case SC_ENOTFOUND: sc_problem_set(&c->problem, 404, "There is no snapshot of this name."); break;
    case SC_EINVAL: sc_problem_set(&c->problem, 409, "This cannot be restored here: %s.", err->text); break;
    case SC_EIO: sc_problem_set(&c->problem, 500, "The state directory does not work: %s.", err->text); break;
    default: sc_scheduler_problem(s, &c->problem, err, NULL); break;
    }
}

/* ---- saving ---- */

static sc_saved describe(const struct stream *t, sc_pass next) {
    const sc_facts *f = &t->facts;
    const bool waits = next.prompt_seq != f->prompt_seq;
    sc_saved v = {.saved = (int64_t)time(NULL), .chunk = next.chunk, .pts_us = f->pts_us, .last_pts_us = t->last_pts_us, .prompt_seq = next.prompt_seq,
                  .newest_seq = f->newest_seq, .logged_seq = t->logged_seq, .prompt_chunk = waits ? next.chunk : f->prompt_chunk,
                  .prompt_bytes = waits ? t->next_prompt_bytes : f->prompt_bytes, .transition = f->transition, .prompt_transition = t->next_transition,
                  .fps = f->fps, .jpeg_quality = f->jpeg_quality, .lookahead_chunks = f->lookahead_chunks, .idle_timeout_s = f->idle_timeout_s,
                  .run_without_viewers = f->run_without_viewers, .paused = t->paused, .forked_chunk = f->forked_chunk, .created = f->created};
    memcpy(v.session, sc_channel_id(t->channel), sizeof v.session);
    memcpy(v.forked_from, f->forked_from, sizeof v.forked_from);
    memcpy(v.prompt, waits ? t->next_prompt : f->prompt, sizeof v.prompt);
    return v;
}

sc_status sc_scheduler_write_down(sc_scheduler *s, struct stream *t, sc_saved *v, sc_snapshot_file *out, sc_error *err) {
    const sc_program_clock clock = sc_facts_clock(&t->facts);
    size_t schedule_bytes;
    char *schedule = sc_program_rest(t->program, &t->facts.program, &clock, &schedule_bytes);
    sc_status rc = SC_OK;

    *v = describe(t, sc_session_next(t->session));
    if (!schedule && schedule_bytes) return sc_fail(err, SC_ENOMEM, "save: out of memory");
    if (schedule_bytes > SC_BODY_BYTES_MAX) rc = sc_fail(err, SC_EINVAL, "what is to come of the schedule is too long to be saved");
    else if (!(out->text = sc_saved_text_write(v, schedule, schedule_bytes, sc_channel_log(t->channel), &out->text_bytes)))
        rc = sc_fail(err, SC_ENOMEM, "save: out of memory");
    free(schedule);
    if (rc) return rc;
    sc_scheduler_enter_device(s);
    rc = sc_session_save(t->session, &out->memory, &out->memory_bytes, err);
    sc_scheduler_leave_device(s);
    return rc;
}

/* True: c has its answer. */
static bool save_or_wait(sc_scheduler *s, sc_command *c) {
    struct stream *t = sc_scheduler_find(s, c->id);
    sc_keeper_job *job;
    sc_error err = {0};
    sc_saved v;

    if (!t && c->waits) sc_problem_set(&c->problem, 409, "The session ended before it could be saved.");
    else if (!t) sc_problem_set(&c->problem, 404, "There is no such session.");
    else if (!t->session) sc_problem_set(&c->problem, 409, "This session has failed.");
    if (c->problem.status) return true;
    const sc_pass next = sc_session_next(t->session);
    if (next.kind != SC_PASS_DENOISE || next.step != 0 || t->due_ns || s->keeping) return false;
    if (!(job = calloc(1, sizeof *job))) sc_fail(&err, SC_ENOMEM, "save: out of memory");
    else if (!sc_scheduler_write_down(s, t, &v, &job->file, &err)) {
        c->chunk = v.chunk;
        c->saved_at = v.saved;
        give(s, c, job);
        return false;
    }
    sc_keeper_job_free(job);
    if (err.status == SC_EINVAL) sc_problem_set(&c->problem, 409, "The session was not saved: %s.", err.text);
    else sc_scheduler_problem(s, &c->problem, &err, NULL);
    return true;
}

/* ---- restoring ---- */

static bool restore_or_wait(sc_scheduler *s, sc_command *c) {
    sc_keeper_job *job;

    if (!sc_scheduler_has_place(s, c)) return true;
    if (s->keeping) return false;
    if (!(job = calloc(1, sizeof *job))) {
        sc_problem_set(&c->problem, 503, "Out of memory; try again later.");
        return true;
    }
    job->load = true;
    job->engine = s->engine;
    give(s, c, job);
    return false;
}

static void fill_facts(const sc_scheduler *s, struct stream *t, bool back, const sc_saved *v, const sc_snapshot_info *i) {
    sc_facts *f = &t->facts;
    *f = (sc_facts){.state = SC_STATE_STARTING, .prompt_bytes = v->prompt_bytes, .prompt_seq = v->prompt_seq, .prompt_chunk = v->prompt_chunk, .transition = v->transition,
                    .seed = i->seed, .memory_bytes = s->info.session_bytes, .width = s->info.width, .height = s->info.height, .fps = v->fps,
                    .first_frames = s->info.frames_first, .chunk_frames = s->info.frames_chunk, .jpeg_quality = v->jpeg_quality,
                    .lookahead_chunks = v->lookahead_chunks, .idle_timeout_s = v->idle_timeout_s, .run_without_viewers = v->run_without_viewers,
                    .created = back ? v->created : (int64_t)time(NULL), .chunk = (int64_t)i->chunk - 1, .forked_chunk = back ? v->forked_chunk : i->chunk, .newest_seq = v->newest_seq, .pts_us = v->pts_us};
    memcpy(f->prompt, v->prompt, sizeof f->prompt);
    memcpy(f->model, s->info.name, sizeof f->model);
    memcpy(f->forked_from, back ? v->forked_from : v->session, sizeof f->forked_from);
    t->returned = back;
    t->paused = back && v->paused;
    t->first = i->chunk;
    t->last_pts_us = v->last_pts_us;
    t->logged_seq = v->logged_seq;
    t->next_transition = v->prompt_transition < SC_WIRE_NOT_GIVEN ? v->prompt_transition : SC_WIRE_SWITCH;
}

/* A prompt that came too late for its chunk is no reason to keep a session from coming back. */
static void take_schedule(struct stream *t, sc_program *program, uint64_t earliest) {
    const sc_program_clock clock = sc_facts_clock(&t->facts);
    sc_problem why = {0};
    if (sc_program_begin(program, &clock, earliest, "", &t->facts.program, &why)) t->program = sc_program_retain(program);
    else sc_log(SC_LOG_WARN, "keeper", "a schedule is left out: %s", why.detail);
}

void sc_scheduler_restored(sc_scheduler *s, sc_command *c, sc_keeper_job *job) {
    const sc_saved *v = &job->words.saved;
    sc_snapshot_info i;
    sc_error err = {0};
    struct stream *t = NULL;
    sc_session_log *past = job->words.log;
    const bool back = c->id[0];

    sc_snapshot_describe(job->snapshot, &i);
    if (v->chunk != i.chunk || v->prompt_seq != (i.next_seq ? i.next_seq : i.prompt_seq)) {
        sc_fail(&err, SC_EINVAL, "its words are those of another session");
        problem_of(s, c, &err);
        return;
    }
    if (!sc_scheduler_has_place(s, c)) return;
    if (!(t = calloc(1, sizeof *t))) { sc_fail(&err, SC_ENOMEM, "session: out of memory"); goto failed; }
    fill_facts(s, t, back, v, &i);
    take_schedule(t, job->words.schedule, i.chunk);
    sc_scheduler_make_place(s);
    sc_scheduler_enter_device(s);
    sc_status rc = sc_session_restore(s->engine, job->snapshot, &t->session, &err);
    sc_scheduler_leave_device(s);
    if (rc) goto failed;
    job->words.log = NULL;
    if (sc_scheduler_enter(s, t, NULL, past, c, &err)) goto failed;
    sc_channel_set_play(t->channel, t->paused, t->facts.run_without_viewers, sc_now_ns());
    sc_scheduler_show_past(s, t);
    sc_scheduler_hand_over(s, t);
    SC_COUNT(restored, 1);
    sc_log(SC_LOG_INFO, "session", "id=%s restored name=%s from=%s chunk=%llu sessions=%d", c->id, c->name, v->session, (unsigned long long)i.chunk, s->n);
    return;
failed:
    sc_scheduler_problem(s, &c->problem, &err, NULL);
    if (t) sc_session_destroy(t->session);
    sc_scheduler_free_stream(t);
}

/* ---- those that wait ---- */

static void finish(sc_scheduler *s) {
    pthread_mutex_lock(&s->lock);
    sc_keeper_job *job = s->kept;
    s->kept = NULL;
    pthread_mutex_unlock(&s->lock);
    sc_command *c = job ? s->keeping : NULL;
    if (job) s->keeping = NULL;
    if (c && job->err.status) problem_of(s, c, &job->err);
    else if (c && job->load) sc_scheduler_restored(s, c, job);
    else if (c) {
        c->saved_bytes = job->file.bytes;
        SC_COUNT(saved, 1);
        sc_log(SC_LOG_INFO, "session", "id=%s saved name=%s chunk=%llu bytes=%llu", c->id, c->name, (unsigned long long)c->chunk, (unsigned long long)c->saved_bytes);
    }
    sc_keeper_job_free(job);
    if (c) c->done(c);
}

static bool do_or_wait(sc_scheduler *s, sc_command *c) { return c->kind == SC_COMMAND_SAVE ? save_or_wait(s, c) : restore_or_wait(s, c); }

bool sc_scheduler_save(sc_scheduler *s, sc_command *c) {
    if (!s->keeper) sc_problem_set(&c->problem, 501, "There is nowhere to keep snapshots: the daemon was started without a state directory (--state-dir DIR).");
    else if (s->saves_n == SC_SCHEDULER_QUEUE) sc_problem_set(&c->problem, 503, "Too many snapshots wait; try again later.");
    if (c->problem.status || do_or_wait(s, c)) return true;
    if (s->keeping == c) return false;
    c->waits = true;
    s->saves[s->saves_n++] = c;
    return false;
}

static sc_command *remove_save(sc_scheduler *s, int i) {
    sc_command *c = s->saves[i];
    memmove(s->saves + i, s->saves + i + 1, sizeof *s->saves * (size_t)(--s->saves_n - i));
    return c;
}

void sc_scheduler_run_saves(sc_scheduler *s) {
    if (s->keeping) finish(s);
    for (int i = 0; i < s->saves_n && !s->fault.status;) {
        sc_command *c = s->saves[i];
        if (do_or_wait(s, c)) {
            remove_save(s, i);
            c->done(c);
        } else if (s->keeping == c) remove_save(s, i);
        else i++;
    }
}

sc_command *sc_scheduler_take_save(sc_scheduler *s) {
    sc_command *c = s->keeping;
    if (s->saves_n) return remove_save(s, 0);
    s->keeping = NULL; /* whatever becomes of its job */
    return c;
}

void sc_scheduler_close_state(sc_scheduler *s) {
    sc_keeper_stop(s->keeper);
    s->keeper = NULL;
    if (s->keeping) finish(s);
}

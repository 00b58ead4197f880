/* scheduler_begin.c - how sessions begin. Engine thread. */
#include "server/scheduler_internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/metrics.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LOOKAHEAD_MAX = 4 };

void sc_scheduler_create(sc_scheduler *s, sc_command *c) {
    const sc_create_request *r = &c->create;
    sc_error err = {0};
    struct stream *t = NULL;
    char id[SC_ID_CHARS + 1] = {0};

    if (c->key[0] && s->made)
        for (int i = 0; i < SC_SCHEDULER_KEYS; i++) {
            struct made *m = &s->made[i];
            if (strcmp(m->key, c->key) || !sc_scheduler_find(s, m->id)) continue;
            if (memcmp(&m->request, r, sizeof *r)) sc_problem_set(&c->problem, 422, "This Idempotency-Key was used for another request.");
            else memcpy(c->id, m->id, sizeof c->id);
            return;
        }
    if (r->model[0] && strcmp(r->model, s->info.name)) {
        sc_problem_set(&c->problem, 422, "model: there is no model of this name; GET /v1/models lists them.");
        sc_problem_add(&c->problem, "/model", "must be \"%s\"", s->info.name);
        return;
    }
    if (s->n == SC_PLAN_JOBS_MAX || s->n >= s->info.max_sessions) {
        sc_problem_set(&c->problem, 503, "All %d places are taken; try again later.", s->info.max_sessions);
        return;
    }
    t = calloc(1, sizeof *t);
    if (!t) { sc_fail(&err, SC_ENOMEM, "session: out of memory"); goto failed; }
    if (sc_id_random(id, &err)) goto failed;
    sc_facts *f = &t->facts;
    f->state = SC_STATE_STARTING;
    memcpy(f->prompt, r->prompt, sizeof f->prompt);
    f->prompt_bytes = r->prompt_bytes;
    f->prompt_seq = t->last_seq = 1;
    f->transition = r->transition;
    memcpy(f->model, s->info.name, sizeof f->model);
    if (r->has_seed) f->seed = r->seed;
    else {
        char random[SC_ID_CHARS + 1];
        if (sc_id_random(random, &err)) goto failed;
        for (int i = 0; i < 10; i++) f->seed = f->seed * 32 + (uint64_t)(random[i] & 31);
    }
    f->memory_bytes = s->info.session_bytes;
    f->width = s->info.width;
    f->height = s->info.height;
    f->fps = r->fps ? r->fps : s->info.fps;
    f->chunk_frames = s->info.frames_chunk;
    f->jpeg_quality = r->jpeg_quality ? r->jpeg_quality : s->o.jpeg_quality;
    f->lookahead_chunks = r->lookahead_chunks ? r->lookahead_chunks : 1;
    f->idle_timeout_s = r->idle_timeout_s ? r->idle_timeout_s : s->o.idle_timeout_s;
    f->run_without_viewers = r->run_without_viewers == 1;
    f->created = (int64_t)time(NULL);
    f->chunk = -1;
    sc_scheduler_enter_device(s);
    sc_status rc = sc_session_create(s->engine, f->seed, r->prompt, r->prompt_bytes, 1, &t->session, &err);
    sc_scheduler_leave_device(s);
    if (rc) goto failed;
    uint64_t now = sc_now_ns();
    t->channel = sc_channel_create(s->hub, id, f->fps, (LOOKAHEAD_MAX + 2) * s->info.frames_chunk, f, now);
    if (!t->channel) { sc_fail(&err, SC_ENOMEM, "session: no room"); goto failed; }
    sc_channel_set_play(t->channel, false, f->run_without_viewers, now);
    s->streams[s->n++] = t;
    memcpy(c->id, id, sizeof c->id);
    if (c->key[0] && s->made) {
        struct made *m = &s->made[s->made_at++ % SC_SCHEDULER_KEYS];
        memcpy(m->key, c->key, sizeof m->key);
        memcpy(m->id, id, sizeof m->id);
        m->request = *r;
    }
    SC_COUNT(sessions_created, 1);
    sc_scheduler_update_load(s);
    sc_log(SC_LOG_INFO, "session", "id=%s created seed=%llu prompt_bytes=%zu sessions=%d", id, (unsigned long long)f->seed, r->prompt_bytes,
           s->n);
    return;
failed:
    sc_scheduler_problem(s, &c->problem, &err, "/prompt");
    if (t) sc_session_destroy(t->session);
    free(t);
}

/* http_sessions.c - sessions, snapshots, memory, schedules and tickets: JSON to commands for the engine thread, and back.
 *
 *     handler: parse -> suspend the connection -> post        engine thread: done() copies the answer -> resume
 *     handler again (libmicrohttpd calls it after the resume): r->asked -> answer
 *
 * ?wait=applied stays suspended after done() and joins http->waiting, under whose lock the hub is asked once more: a frame that is shown
 * in between is seen either by that question or by sc_http_shown. */
#include "server/http_internal.h"
#include "base/clock.h"
#include "server/metrics.h"
#include <stdlib.h>
#include <string.h>

enum { LIST_MAX = 64 };
static const uint64_t WAIT_NS = 60000000000u;

void http_forget(struct sc_request *r) {
    sc_channel_release(r->channel);
    r->channel = NULL;
    sc_memory_map_free(&r->memory);
}

/* The view borrows from *c. */
static sc_session_view session_view(const char *id, const sc_channel_view *c) {
    const sc_facts *f = &c->facts;
    return (sc_session_view){
        .id = id, .state = sc_state_name(f->state), .reason = f->reason[0] ? f->reason : NULL, .model = f->model, .prompt = f->prompt,
        .prompt_bytes = f->prompt_bytes, .prompt_seq = f->prompt_seq, .prompt_chunk = f->prompt_chunk, .transition = f->transition,
        .seed = f->seed, .width = f->width, .height = f->height, .fps = f->fps, .chunk_frames = f->chunk_frames, .created = f->created,
        .chunk = f->chunk, .frame = c->frame, .viewers = c->viewers, .jpeg_quality = f->jpeg_quality, .lookahead_chunks = f->lookahead_chunks,
        .idle_timeout_s = f->idle_timeout_s, .run_without_viewers = f->run_without_viewers, .wait = f->wait, .denoise = f->denoise,
        .decode = f->decode, .encode = c->encode, .memory_bytes = f->memory_bytes, .forked_from = f->forked_from[0] ? f->forked_from : NULL,
        .forked_chunk = f->forked_chunk};
}

/* Of the session in the path; NULL when there is none. Retained. */
static sc_channel *find(struct sc_request *r) { return r->session[0] ? sc_hub_find(r->http->o.hub, r->session) : NULL; }

static enum MHD_Result answer_session(struct sc_request *r, int status, const char *id) {
    sc_channel_view view;
    size_t n = 0;
    sc_channel *c = sc_hub_find(r->http->o.hub, id);
    if (!c) return http_problem(r, 404, "There is no such session.");
    sc_channel_read(c, &view, sc_now_ns());
    sc_session_view v = session_view(id, &view);
    char *text = sc_session_json(&v, &n), location[64];
    sc_channel_release(c);
    struct MHD_Response *response = text ? http_response(text, n, ANSWER_MOVE) : NULL;
    if (!response) return MHD_NO;
    snprintf(location, sizeof location, "/v1/sessions/%s", id);
    if (status == 201) MHD_add_response_header(response, "Location", location);
    return http_send(r, status, response, "application/json");
}

enum MHD_Result http_get_session(struct sc_request *r) { return answer_session(r, 200, r->session); }

enum MHD_Result http_get_sessions(struct sc_request *r) {
    sc_channel *channels[LIST_MAX];
    int count = sc_hub_list(r->http->o.hub, channels, LIST_MAX);
    size_t n = 0;
    char *text = NULL;
    sc_channel_view *views = calloc((size_t)count + 1, sizeof *views);
    sc_session_view *list = calloc((size_t)count + 1, sizeof *list);
    for (int i = 0; views && list && i < count; i++) {
        sc_channel_read(channels[i], &views[i], sc_now_ns());
        list[i] = session_view(sc_channel_id(channels[i]), &views[i]);
    }
    if (views && list) text = sc_sessions_json(list, (size_t)count, &n);
    for (int i = 0; i < count; i++) sc_channel_release(channels[i]);
    free(views);
    free(list);
    return http_answer_json(r, 200, text, n);
}

/* ---- commands ---- */

static void resume(struct sc_request *r) {
    r->asked = true;
    MHD_resume_connection(r->connection);
}

static void wait_until_shown(struct sc_request *r) {
    sc_http *h = r->http;
    pthread_mutex_lock(&h->lock);
    bool wait = !sc_channel_prompt_seen(r->channel, r->seq);
    if (wait) {
        r->waiting = true;
        r->wait_until_ns = sc_now_ns() + WAIT_NS;
        r->next = h->waiting;
        h->waiting = r;
    }
    pthread_mutex_unlock(&h->lock);
    if (!wait) resume(r);
}

static void forget(sc_command *c) {
    sc_program_release(c->program);
    sc_memory_map_free(&c->memory);
    free(c);
}

static void command_done(sc_command *c) {
    struct sc_request *r = c->ctx;
    r->problem = c->problem;
    memcpy(r->id, c->id, sizeof r->id);
    r->has_seq = c->has_seq;
    r->seq = c->seq;
    r->applies_at = c->applies_at;
    memcpy(r->name, c->name, sizeof r->name);
    r->chunk = c->chunk;
    r->saved_bytes = c->saved_bytes;
    r->saved_at = c->saved_at;
    r->memory = c->memory;
    c->memory = (sc_memory_map){0};
    if (c->kind == SC_COMMAND_CREATE && !c->problem.status) sc_metrics_time(SC_TIME_CREATE, sc_now_ns() - c->asked_ns);
    forget(c);
    if (r->wait_shown && r->has_seq && !r->problem.status && r->channel) wait_until_shown(r);
    else resume(r);
}

/* Those whose turn it is, taken out of the list. */
static void resume_waiting(sc_http *h, sc_channel *c, uint32_t seq, uint64_t now_ns) {
    struct sc_request *ready = NULL;
    pthread_mutex_lock(&h->lock);
    for (struct sc_request **p = &h->waiting, *r; (r = *p);) {
        bool shown = r->channel == c && r->seq <= seq;
        if (!shown && now_ns < r->wait_until_ns) { p = &r->next; continue; }
        *p = r->next;
        r->timed_out = !shown;
        r->waiting = false;
        r->next = ready;
        ready = r;
    }
    pthread_mutex_unlock(&h->lock);
    for (struct sc_request *next; ready; ready = next) {
        next = ready->next; /* resumed, it may be gone at once */
        resume(ready);
    }
}

void sc_http_shown(void *http, sc_channel *c, uint32_t seq) { resume_waiting(http, c, seq, 0); }
void sc_http_tick(sc_http *h) {
    resume_waiting(h, NULL, 0, sc_now_ns());
    http_log_tick(h);
}

static sc_command *command(struct sc_request *r, sc_command_kind kind) {
    sc_command *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->kind = kind;
    memcpy(c->id, r->session, sizeof c->id);
    c->asked_ns = sc_now_ns();
    c->done = command_done;
    c->ctx = r;
    return c;
}

const char *http_not_ready(struct sc_request *r) {
    switch (sc_scheduler_state(r->http->scheduler, NULL)) {
    case SC_ENGINE_LOADING: return "The model is being loaded; try again in a moment.";
    case SC_ENGINE_DRAINING: return "The daemon is shutting down.";
    case SC_ENGINE_FAILED: return "The model could not be loaded, or the device failed.";
    case SC_ENGINE_READY: break;
    }
    return NULL;
}

static enum MHD_Result post(struct sc_request *r, sc_command *c) {
    const char *why = http_not_ready(r);
    if (why) {
        forget(c);
        return http_problem(r, 503, why);
    }
    MHD_suspend_connection(r->connection);
    if (sc_scheduler_post(r->http->scheduler, c)) return MHD_YES;
    forget(c);
    sc_problem_set(&r->problem, 503, "Too much to do at the moment; try again later.");
    resume(r);
    return MHD_YES;
}

static bool good_key(const char *key) {
    size_t n = strlen(key);
    for (size_t i = 0; i < n; i++) if ((unsigned char)key[i] < 0x21 || (unsigned char)key[i] > 0x7e) return false;
    return n >= 1 && n <= 128;
}

/* What makes a session: CREATE, or FORK, which may do without a body. */
static enum MHD_Result make(struct sc_request *r, sc_command_kind kind) {
    const char *key = http_header(r, "Idempotency-Key");
    if (r->asked) return r->problem.status ? http_problem_full(r, &r->problem) : answer_session(r, 201, r->id);
    if (key && !good_key(key)) return http_problem(r, 400, "Idempotency-Key must be 1 to 128 visible ASCII characters.");
    sc_command *c = command(r, kind);
    if (!c) return http_problem(r, 503, "Out of memory; try again later.");
    bool good = kind == SC_COMMAND_CREATE ? sc_request_create(r->body, r->body_n, &c->create, &c->program, &r->problem)
                                          : sc_request_fork(r->body_n ? r->body : "{}", r->body_n ? r->body_n : 2, &c->fork, &r->problem);
    if (!good) {
        forget(c);
        return http_problem_full(r, &r->problem);
    }
    if (key) strcpy(c->key, key);
    return post(r, c);
}

enum MHD_Result http_post_session(struct sc_request *r) { return make(r, SC_COMMAND_CREATE); }
enum MHD_Result http_post_fork(struct sc_request *r) { return make(r, SC_COMMAND_FORK); }

static enum MHD_Result snapshot(struct sc_request *r, sc_command_kind kind) {
    sc_command *c = command(r, kind);
    if (!c) return http_problem(r, 503, "Out of memory; try again later.");
    if (!sc_request_snapshot(r->body, r->body_n, c->name, &r->problem)) {
        forget(c);
        return http_problem_full(r, &r->problem);
    }
    return post(r, c);
}

enum MHD_Result http_post_save(struct sc_request *r) {
    size_t n = 0;
    if (!r->asked) return snapshot(r, SC_COMMAND_SAVE);
    if (r->problem.status) return http_problem_full(r, &r->problem);
    char *text = sc_saved_json(r->name, r->id, r->chunk, r->saved_bytes, r->saved_at, &n);
    return http_answer_json(r, 201, text, n);
}

enum MHD_Result http_post_restore(struct sc_request *r) {
    if (!r->asked) return snapshot(r, SC_COMMAND_RESTORE);
    return r->problem.status ? http_problem_full(r, &r->problem) : answer_session(r, 201, r->id);
}

enum MHD_Result http_get_memory(struct sc_request *r) {
    const sc_memory_map *m = &r->memory;
    size_t n = 0;
    if (!r->asked) {
        sc_command *c = command(r, SC_COMMAND_MEMORY);
        return c ? post(r, c) : http_problem(r, 503, "Out of memory; try again later.");
    }
    if (r->problem.status) return http_problem_full(r, &r->problem);
    sc_memory_view v = {.chunk = m->chunk, .layers = m->layers, .heads = m->heads, .rows = m->rows, .columns = m->columns, .tile_width = m->tile_width,
                        .tile_height = m->tile_height, .capacity = m->capacity, .persistent = m->persistent, .held = m->held, .oldest = m->oldest};
    char *text = sc_memory_json(&v, &n);
    return http_answer_json(r, 200, text, n);
}

static enum MHD_Result answer_patch(struct sc_request *r) {
    size_t n = 0;
    if (r->problem.status) return http_problem_full(r, &r->problem);
    if (r->timed_out) return http_problem(r, 504, "The prompt was taken, but no frame that shows it was sent within a minute. Does anybody watch?");
    if (r->wait_shown && r->has_seq && sc_channel_closed(r->channel)) return http_problem(r, 409, "The session ended before the prompt was seen.");
    char *text = sc_receipt_json(r->has_seq, r->seq, r->applies_at, &n);
    return http_answer_json(r, 202, text, n);
}

enum MHD_Result http_patch_session(struct sc_request *r) {
    const char *wait = http_query(r, "wait");
    if (r->asked) return answer_patch(r);
    if (wait && strcmp(wait, "applied")) return http_problem(r, 400, "The query parameter wait may only be \"applied\".");
    if (!(r->channel = find(r))) return http_problem(r, 404, "There is no such session.");
    sc_command *c = command(r, SC_COMMAND_PATCH);
    if (!c) return http_problem(r, 503, "Out of memory; try again later.");
    if (!sc_request_patch(r->body, r->body_n, &c->patch, &r->problem)) {
        forget(c);
        return http_problem_full(r, &r->problem);
    }
    r->wait_shown = wait != NULL;
    return post(r, c);
}

enum MHD_Result http_delete_session(struct sc_request *r) {
    if (r->asked) return r->problem.status ? http_problem_full(r, &r->problem) : http_answer(r, 204, NULL, "", 0, ANSWER_CONSTANT);
    if (!(r->channel = find(r))) return http_problem(r, 404, "There is no such session.");
    sc_command *c = command(r, SC_COMMAND_DELETE);
    return c ? post(r, c) : http_problem(r, 503, "Out of memory; try again later.");
}

enum MHD_Result http_get_schedule(struct sc_request *r) {
    sc_facts facts;
    sc_program_view view;
    size_t n = 0;
    sc_channel *c = find(r);
    if (!c) return http_problem(r, 404, "There is no such session.");
    sc_program *g = sc_channel_program(c, &facts);
    const sc_program_clock clock = sc_facts_clock(&facts);
    sc_program_look(g, &facts.program, &clock, facts.prompt_seq, facts.newest_seq, &view);
    char *text = sc_program_json(&view, &n);
    sc_program_release(g);
    sc_channel_release(c);
    return http_answer_json(r, 200, text, n);
}

enum MHD_Result http_put_schedule(struct sc_request *r) {
    if (r->asked) return r->problem.status ? http_problem_full(r, &r->problem) : http_get_schedule(r);
    if (!(r->channel = find(r))) return http_problem(r, 404, "There is no such session.");
    sc_command *c = command(r, SC_COMMAND_SCHEDULE);
    if (!c) return http_problem(r, 503, "Out of memory; try again later.");
    if (!sc_request_program(r->body, r->body_n, &c->program, &r->problem)) {
        forget(c);
        return http_problem_full(r, &r->problem);
    }
    return post(r, c);
}

enum MHD_Result http_post_ticket(struct sc_request *r) {
    char ticket[SC_ID_CHARS + 1];
    bool control;
    size_t n = 0;
    sc_error err = {0};
    if (!(r->channel = find(r))) return http_problem(r, 404, "There is no such session.");
    if (!sc_request_ticket(r->body, r->body_n, &control, &r->problem)) return http_problem_full(r, &r->problem);
    if (sc_access_ticket(r->http->o.access, r->session, control, sc_now_ns(), ticket, &err))
        return err.status == SC_EBUSY ? http_problem(r, 429, "Too many tickets wait to be used.") : http_problem(r, 503, "No ticket could be made.");
    char *text = sc_ticket_json(ticket, control ? "control" : "watch", SC_TICKET_LIFE_S, &n);
    return http_answer_json(r, 201, text, n);
}

/* HEAD and whatever else comes here with the path of a stream: it is a WebSocket, for GET alone. */
enum MHD_Result http_no_stream(struct sc_request *r) { return http_problem(r, 426, "This is a WebSocket: it needs GET and Upgrade: websocket."); }

/* replay_plan.c - see replay_plan.h. */
#include "cli/replay_plan.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    sc_replay_plan *plan;
    int line;
    uint64_t event, next, seed;   /* the newest event; the chunk that comes next; the seed in force */
    bool gap, ended;              /* lines were lost just before: chunks may be missing; the end was there */
} reading;

static sc_status __attribute__((format(printf, 3, 4))) fail(const reading *r, sc_error *err, const char *fmt, ...) {
    char text[440];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return sc_fail(err, SC_EINVAL, "line %d: %s", r->line, text);
}

void sc_replay_plan_free(sc_replay_plan *p) {
    for (size_t i = 0; i < p->count; i++) free(p->step[i].prompt);
    free(p->step);
    memset(p, 0, sizeof *p);
}

static sc_status add_step(reading *r, const sc_log_line *l, sc_error *err) {
    sc_replay_plan *p = r->plan;
    char *prompt = NULL;

    if (p->count == p->room) {
        const size_t room = p->room ? 2 * p->room : 64;
        sc_replay_step *more = realloc(p->step, room * sizeof *more);
        if (!more) return sc_fail(err, SC_ENOMEM, "line %d: out of memory", r->line);
        p->step = more;
        p->room = room;
    }
    if (l->kind == SC_LINE_PROMPT && !(prompt = strndup(l->prompt, l->prompt_bytes))) return sc_fail(err, SC_ENOMEM, "line %d: out of memory", r->line);
    sc_replay_step *s = &p->step[p->count++];
    *s = (sc_replay_step){.kind = l->kind, .line = r->line, .chunk = l->chunk, .seed = l->seed, .seq = l->seq, .transition = l->transition,
                          .blend_chunks = l->blend_chunks, .prompt = prompt, .prompt_bytes = l->prompt_bytes};
    memcpy(s->hash, l->hash, sizeof s->hash);
    return SC_OK;
}

/* Event after event, chunk after chunk; where lines are lost, chunks may be. */
static sc_status check_order(reading *r, const sc_log_line *l, sc_error *err) {
    const unsigned long long event = l->event, before = r->event, chunk = l->chunk, next = r->next;

    if (l->event != r->event + 1 && r->event == 0) return fail(r, err, "event %llu, where a log begins with 1", event);
    if (l->event != r->event + 1) return fail(r, err, "event %llu behind event %llu: lines are missing or out of order", event, before);
    if (l->kind == SC_LINE_END || l->kind == SC_LINE_LOST || l->kind == SC_LINE_SESSION) return SC_OK;
    if (l->chunk < r->next || (l->chunk > r->next && !r->gap)) return fail(r, err, "a %s of chunk %llu, where chunk %llu comes next", sc_log_line_kind_name(l->kind), chunk, next);
    return SC_OK;
}

static sc_status check_frames(const reading *r, const sc_log_line *l, sc_error *err) {
    const sc_log_made *m = &r->plan->session.made;
    const uint64_t first = l->chunk ? (uint64_t)m->first_chunk_frames + (l->chunk - 1) * (uint64_t)m->chunk_frames : 0;
    const int frames = l->chunk ? m->chunk_frames : m->first_chunk_frames;

    if (l->first_frame == first && l->frames == frames) return SC_OK;
    return fail(r, err, "chunk %llu has frames %llu and the %d behind it, where its session says %llu and %d", (unsigned long long)l->chunk,
                (unsigned long long)l->first_frame, l->frames - 1, (unsigned long long)first, frames - 1);
}

static sc_status take_line(reading *r, const sc_log_line *l, sc_error *err) {
    sc_replay_plan *p = r->plan;
    sc_status rc;

    if (r->ended) return fail(r, err, "a line behind the end of the session");
    if (r->line == 1 && l->kind != SC_LINE_SESSION) return fail(r, err, "a \"%s\", where a log begins with its \"session\"", sc_log_line_kind_name(l->kind));
    if (r->line > 1 && l->kind == SC_LINE_SESSION) return fail(r, err, "a second \"session\": one log at a time");
    if ((rc = check_order(r, l, err))) return rc;
    r->event = l->kind == SC_LINE_LOST ? l->last : l->event;
    switch (l->kind) {
    case SC_LINE_SESSION:
        p->session = *l;
        memcpy(p->id, l->session, sizeof p->id);
        r->seed = l->seed;
        return SC_OK;
    case SC_LINE_LOST:
        if (l->prompts)
            return fail(r, err, "the log had no room for events %llu to %llu, prompts among them: nobody can make this stream again", (unsigned long long)l->event,
                        (unsigned long long)l->last);
        r->gap = true;
        return SC_OK;
    case SC_LINE_END:
        r->ended = true;
        return SC_OK;
    case SC_LINE_FORK:
        if (l->seed != r->seed) p->forks = true;
        memcpy(p->id, l->session, sizeof p->id);
        r->seed = l->seed;
        r->next = l->chunk;
        break;
    case SC_LINE_PROMPT: r->next = l->chunk; break;
    case SC_LINE_CHUNK:
        if ((rc = check_frames(r, l, err))) return rc;
        r->next = l->chunk + 1;
        break;
    }
    r->gap = false;
    if ((rc = add_step(r, l, err))) return rc;
    if (l->kind == SC_LINE_CHUNK) {
        p->compared++;
        p->chunks = l->chunk + 1;
        p->end = p->count;
    }
    return SC_OK;
}

sc_status sc_replay_plan_read(sc_replay_plan *p, const char *text, size_t n, sc_error *err) {
    reading r = {.plan = p};
    sc_log_line line;
    sc_problem problem;
    sc_status rc = SC_OK;

    memset(p, 0, sizeof *p);
    for (size_t at = 0, next; at < n && !rc; at = next) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t bytes = end ? (size_t)(end - text) - at : n - at;
        next = at + bytes + 1;
        r.line++;
        if (bytes && text[at + bytes - 1] == '\r') bytes--;
        if (!sc_log_line_read(text + at, bytes, &line, &problem))
            rc = problem.status == 500 ? sc_fail(err, SC_ENOMEM, "line %d: out of memory", r.line) : fail(&r, err, "%s", problem.detail);
        else rc = take_line(&r, &line, err);
    }
    if (!rc && !r.line) rc = sc_fail(err, SC_EINVAL, "it is empty: a log has a line for its session at least");
    else if (!rc && !p->end) rc = sc_fail(err, SC_EINVAL, "there is no chunk in it to be compared");
    if (rc) sc_replay_plan_free(p);
    return rc;
}

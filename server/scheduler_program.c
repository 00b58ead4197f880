/* scheduler_program.c - the schedule of a session: taken, and its prompts handed over in time. Engine thread.
 *
 *     loop:  hand over -> commands -> ... -> a pass        chunk 11 | begins ............................ | 12 begins
 *                                                          entry of chunk 12: handed over here ^  a person's prompt that comes now replaces it
 *
 * Handing over is a command like the prompt of a PATCH, so it waits for a text encoder that stands apart as that does, and the schedule does not move
 * on before it is done. Such an encoder takes longer than a chunk: it is given the words of the next entry to read READ_AHEAD chunks before, which
 * leaves them in the engine's cache. An entry that cannot be taken is an error to the viewers and left out. */
#include "server/scheduler_internal.h"
#include "base/log.h"
#include <stdlib.h>
#include <string.h>

enum { READ_AHEAD = 16 };

/* The next chunk that begins. */
static uint64_t earliest(const struct stream *t) {
    const sc_pass next = sc_session_next(t->session);
    return next.kind == SC_PASS_DENOISE && next.step == 0 ? next.chunk : next.chunk + 1;
}

void sc_scheduler_schedule(sc_scheduler *s, struct stream *t, sc_command *c) {
    const sc_program_clock clock = sc_facts_clock(&t->facts);
    sc_program_state begin;
    if (!sc_program_begin(c->program, &clock, earliest(t), "", &begin, &c->problem)) return;
    sc_program_release(t->program);
    t->program = sc_program_retain(c->program);
    t->facts.program = begin;
    t->handing = t->read = false;
    sc_channel_set_program(t->channel, t->program, &t->facts);
    sc_log(SC_LOG_INFO, "session", "id=%s schedule entries=%d loop=%d", c->id, t->program ? t->program->count : 0, t->program && t->program->loop);
    sc_scheduler_hand_over(s, t);
}

/* ---- handing over ---- */

static sc_command *command(sc_scheduler *s, const struct stream *t, sc_command_kind kind, void (*done)(sc_command *c)) {
    sc_command *c = calloc(1, sizeof *c);
    const int i = t->facts.program.next;
    if (!c) return NULL;
    c->kind = kind;
    c->done = done;
    c->ctx = s;
    c->program = sc_program_retain(t->program);
    c->patch.has_prompt = true;
    c->patch.transition = t->program->entry[i].transition;
    c->patch.prompt_bytes = t->program->entry[i].bytes;
    memcpy(c->patch.prompt, sc_program_prompt(t->program, i), c->patch.prompt_bytes + 1);
    return c;
}

static void was_read(sc_command *c) { /* or not: handing it over will say */
    sc_program_release(c->program);
    free(c);
}

bool sc_scheduler_still_scheduled(const struct stream *t, const sc_command *c) { return t->program == c->program; }

static void handed_over(sc_command *c) {
    sc_scheduler *s = c->ctx;
    struct stream *t = sc_scheduler_find(s, c->id);
    if (t && sc_scheduler_still_scheduled(t, c)) {
        char text[SC_SERVER_MESSAGE_MAX];
        const int i = t->facts.program.next;
        t->handing = t->read = false;
        sc_program_gave(t->program, &t->facts.program, c->has_seq ? c->seq : 0, (uint64_t)c->applies_at, t->facts.prompt_seq);
        sc_scheduler_publish(t);
        if (c->problem.status) {
            sc_problem p = {0};
            sc_problem_set(&p, c->problem.status, "Prompt %d of the schedule is left out: %s", i, c->problem.detail);
            sc_log(SC_LOG_WARN, "session", "id=%s prompt %d of the schedule is left out: %s", c->id, i, c->problem.detail);
            sc_hub_say(NULL, t->channel, 0, false, text, sc_message_error(text, sizeof text, &p, NULL));
        }
    }
    sc_program_release(c->program);
    free(c);
}

void sc_scheduler_hand_over(sc_scheduler *s, struct stream *t) {
    while (t->program && t->session && !t->handing && !s->fault.status) {
        const sc_program_clock clock = sc_facts_clock(&t->facts);
        const uint64_t begins = earliest(t), at = sc_program_next_chunk(t->program, &t->facts.program, &clock);
        sc_command *c;
        if (at <= begins) {
            sc_program_due(t->program, &t->facts.program, &clock, begins);
            if (!(c = command(s, t, SC_COMMAND_SCHEDULED, handed_over))) return; /* with memory, later */
            memcpy(c->id, sc_channel_id(t->channel), sizeof c->id);
            t->handing = true;
            sc_scheduler_do(s, c);
            continue;
        }
        if (s->info.text_apart && !t->read && at - begins <= READ_AHEAD && (c = command(s, t, SC_COMMAND_READ, was_read))) {
            t->read = true;
            sc_scheduler_do(s, c);
        }
        return;
    }
}

void sc_scheduler_hand_over_all(sc_scheduler *s) {
    for (int i = 0; i < s->n && !s->fault.status; i++) sc_scheduler_hand_over(s, s->streams[i]);
}

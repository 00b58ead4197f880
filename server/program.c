/* program.c - see program.h. */
#include "server/program.h"
#include "proto/json_out.h"
#include <stdio.h>
#include <string.h>

uint64_t sc_program_chunk_of(const sc_program_clock *c, uint64_t us) {
    if (us < c->pts_us) return c->chunk ? c->chunk - 1 : 0;
    uint64_t frame = (us - c->pts_us) * (uint64_t)c->fps / 1000000u, first = (uint64_t)c->frames_first, later = (uint64_t)c->frames_chunk;
    if (c->chunk) return c->chunk + frame / later;
    return frame < first ? 0 : 1 + (frame - first) / later;
}

uint64_t sc_program_moment_of(const sc_program_clock *c, uint64_t chunk) {
    uint64_t frames = (chunk - c->chunk) * (uint64_t)c->frames_chunk;
    if (c->chunk == 0 && chunk > 0) frames -= (uint64_t)(c->frames_chunk - c->frames_first);
    return c->pts_us + (frames * 1000000u + (uint64_t)c->fps - 1) / (uint64_t)c->fps;
}

static uint64_t chunk_of_entry(const sc_program *g, const sc_program_clock *c, uint64_t base_us, int i, uint64_t round) {
    uint64_t at = g->entry[i].at + round * g->period;
    return g->entry[i].timed ? sc_program_chunk_of(c, base_us + at) : at;
}

/* How long a chunk takes. */
static uint64_t chunk_us(const sc_program_clock *c) { return (uint64_t)c->frames_chunk * 1000000u / (uint64_t)c->fps; }

/* From entry i to the one after it. */
static uint64_t stays(const sc_program *g, int i) {
    if (i + 1 < g->count) return g->entry[i + 1].at - g->entry[i].at;
    return g->period - (g->entry[i].at - g->entry[0].at);
}

static const char *pointer_to(const sc_program *g, int i, const char *prefix, char out[96]) {
    if (g->relative) snprintf(out, 96, "%s/text", prefix);
    else snprintf(out, 96, "%s/prompts/%d/%s", prefix, i, g->entry[i].timed ? "at_s" : "at_chunk");
    return out;
}

/* Every one of them, when there is one. */
static void name_late(const sc_program *g, const sc_program_clock *c, uint64_t earliest, const char *prefix, sc_problem *p) {
    const uint64_t us = sc_program_moment_of(c, earliest);
    char pointer[96];
    for (int i = 0; i < g->count; i++) {
        const sc_program_entry *e = &g->entry[i];
        if (chunk_of_entry(g, c, 0, i, 0) >= earliest) continue;
        if (!p->status) sc_problem_set(p, 409, "Prompt %d of the schedule comes too late: its chunk has begun already. The earliest is chunk %llu, at %.4f s.", i,
                                       (unsigned long long)earliest, (double)us * 1e-6);
        if (e->timed) sc_problem_add(p, pointer_to(g, i, prefix, pointer), "must be %.4f or later, found %.4f", (double)us * 1e-6, (double)e->at * 1e-6);
        else sc_problem_add(p, pointer_to(g, i, prefix, pointer), "must be %llu or later, found %llu", (unsigned long long)earliest, (unsigned long long)e->at);
    }
}

static void name_falling(const sc_program *g, const sc_program_clock *c, uint64_t base_us, const char *prefix, sc_problem *p) {
    const double chunk_s = (double)chunk_us(c) * 1e-6;
    char pointer[96];
    for (int i = 1; i < g->count; i++) {
        const uint64_t was = chunk_of_entry(g, c, base_us, i - 1, 0), is = chunk_of_entry(g, c, base_us, i, 0);
        if (is > was) continue;
        if (g->relative) sc_problem_add(p, pointer_to(g, i, prefix, pointer), "prompt %d is gone before it begins: a chunk takes %.4f s", i - 1, chunk_s);
        else sc_problem_add(p, pointer_to(g, i, prefix, pointer), "comes at chunk %llu, and the prompt before it at chunk %llu: they must rise",
                            (unsigned long long)is, (unsigned long long)was);
    }
    if (p->status || !g->loop || !g->entry[0].timed) return;
    for (int i = 0; i < g->count; i++) /* in a later round these may fall into one chunk */
        if (stays(g, i) < chunk_us(c))
            sc_problem_add(p, pointer_to(g, i, prefix, pointer), "prompt %d of a loop must stay for a chunk, %.4f s", i, chunk_s);
}

bool sc_program_begin(const sc_program *g, const sc_program_clock *c, uint64_t earliest, const char *prefix, sc_program_state *out, sc_problem *p) {
    *out = (sc_program_state){0};
    if (!g) return true;
    if (g->relative) out->base_us = sc_program_moment_of(c, earliest);
    else name_late(g, c, earliest, prefix, p);
    if (!p->status) name_falling(g, c, out->base_us, prefix, p);
    return !p->status;
}

uint64_t sc_program_next_chunk(const sc_program *g, const sc_program_state *s, const sc_program_clock *c) {
    return g && s->next < g->count ? chunk_of_entry(g, c, s->base_us, s->next, s->round) : UINT64_MAX;
}

static void step(const sc_program *g, sc_program_state *s) {
    if (++s->next < g->count || !g->loop) return;
    s->next = 0;
    s->round++;
}

int sc_program_due(const sc_program *g, sc_program_state *s, const sc_program_clock *c, uint64_t earliest) {
    if (sc_program_next_chunk(g, s, c) > earliest) return -1;
    for (sc_program_state ahead = *s; step(g, &ahead), sc_program_next_chunk(g, &ahead, c) <= earliest;) *s = ahead;
    return s->next;
}

void sc_program_gave(const sc_program *g, sc_program_state *s, uint32_t seq, uint64_t chunk, uint32_t in_force) {
    if (seq) {
        if (s->given.seq && s->given.seq == in_force) s->before = s->given;
        s->given.entry = s->next;
        s->given.seq = seq;
        s->given.chunk = chunk;
    }
    step(g, s);
}

void sc_program_look(const sc_program *g, const sc_program_state *s, const sc_program_clock *c, uint32_t in_force, uint32_t newest, sc_program_view *out) {
    sc_program_state ahead = *s;
    *out = (sc_program_view){.program = g, .in_force = -1};
    if (!g) return;
    if (s->given.seq && in_force >= s->given.seq) {
        if (in_force == s->given.seq) out->in_force = s->given.entry;
    } else if (s->before.seq && in_force == s->before.seq) out->in_force = s->before.entry;
    if (out->in_force >= 0) out->in_force_seq = in_force;
    if (s->given.seq && in_force < s->given.seq && newest == s->given.seq) {
        out->coming[out->count].entry = s->given.entry;
        out->coming[out->count].chunk = s->given.chunk;
        out->coming[out->count++].seq = s->given.seq;
    }
    for (int left = g->count - out->count; left > 0 && ahead.next < g->count; left--, step(g, &ahead)) {
        out->coming[out->count].entry = ahead.next;
        out->coming[out->count++].chunk = sc_program_next_chunk(g, &ahead, c);
    }
}

static void write_length(sc_json_out *o, bool timed, uint64_t length) {
    if (timed) sc_json_number(o, "for_s", (double)length * 1e-6);
    else sc_json_u64(o, "for_chunks", length);
}

char *sc_program_rest(const sc_program *g, const sc_program_state *s, const sc_program_clock *c, size_t *n) {
    sc_program_state ahead = *s;
    sc_json_out o;
    char *text;

    *n = 0;
    if (!g || s->next >= g->count) return NULL;
    sc_json_out_grow(&o);
    sc_json_object(&o, NULL);
    if (g->loop) sc_json_bool(&o, "loop", true);
    sc_json_array(&o, "prompts");
    for (int left = g->loop ? g->count : g->count - s->next; left > 0; left--, step(g, &ahead)) {
        const int i = ahead.next;
        const sc_program_entry *e = &g->entry[i];
        const uint64_t at = e->at + ahead.round * g->period, chunk = sc_program_next_chunk(g, &ahead, c);
        sc_json_object(&o, NULL);
        if (e->timed && (g->loop || chunk >= c->chunk)) sc_json_number(&o, "at_s", (double)(s->base_us + at) * 1e-6);
        else sc_json_u64(&o, "at_chunk", chunk > c->chunk ? chunk : c->chunk);
        if (g->loop && left == 1) write_length(&o, e->timed, stays(g, i));
        sc_json_text_n(&o, "prompt", sc_program_prompt(g, i), e->bytes);
        if (e->transition != SC_WIRE_NOT_GIVEN) sc_json_text(&o, "transition", sc_wire_transition_name(e->transition));
        sc_json_end_object(&o);
    }
    sc_json_end_array(&o);
    sc_json_end_object(&o);
    if (!(text = sc_json_out_take(&o, n))) *n = 1;
    return text;
}

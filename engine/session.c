/* session.c - one running stream: where it stands in its chunk, its prompt, its transitions.
 *
 * A prompt that arrives is encoded at once and waits; the next chunk that begins takes it. How the memory meets the new words:
 *   switch   new keys and values from this chunk on, the memory as it is
 *   blend    the embeddings move from old to new over n chunks
 *   recache  the window's pages are written again from its clean latents under the new words (persistent blocks and sink frames stay)
 *   flush    only the persistent blocks and the newest chunk stay
 *   cut      an empty memory: a new scene
 *
 * A fork is a copy of all that a stream remembers: pages with their table, clean latents, what the decoder keeps. Pages shared by reference count
 * would save nothing: memory is set aside for whole sessions, so that admission is exact and a chunk's path allocates nothing, and a fork parts from
 * its source within a window anyhow. The pages of a 1.3B model are 3.45 GB, some 2 ms of an H200; the pocket model's a few MB.
 * Thread: engine. */
#include "engine/internal.h"
#include "engine/devmem.h"

#include <stdlib.h>
#include <string.h>

#define TRY(call) do { if ((rc = (call))) goto cleanup; } while (0)

static const char *const transition_words[] = {[SC_SWITCH] = "switch", [SC_BLEND] = "blend", [SC_RECACHE] = "recache", [SC_FLUSH] = "flush", [SC_CUT] = "cut"};

bool sc_transition_parse(const char *word, sc_transition *out) {
    for (int i = 0; i <= SC_CUT; i++)
        if (!strcmp(word, transition_words[i])) { *out = (sc_transition)i; return true; }
    return false;
}

const char *sc_transition_name(sc_transition t) { return transition_words[t]; }

static void free_mixes(sc_engine *e, sc_cross *mix) {
    for (int i = 0; i < 2; i++) sc_cross_free(e->dit, &mix[i]);
}

sc_status sc_session_create_at(sc_engine *e, int place, uint64_t seed, sc_prompt *prompt, uint32_t prompt_seq, sc_session **out, sc_error *err) {
    sc_session *s = NULL;
    const sc_ops *ops = e->dev->ops;
    const size_t latent = e->latent_count * 4, pixels = (size_t)e->info.frames_chunk * e->info.frame_bytes;
    sc_status rc = SC_OK;

    if (!(s = calloc(1, sizeof *s))) return sc_fail(err, SC_ENOMEM, "session: out of memory");
    s->engine = e;
    s->seed = seed;
    s->place = place;
    s->serial = ++e->sessions_made;
    e->taken[place] = true;
    s->prompt_seq = prompt_seq;
    s->fresh_prompt = true;
    s->prompt = prompt;
    prompt->refs++;
    TRY(sc_kv_init(&s->memory, e->dev, &e->rule, e->layout, e->cfg.dit.layers, e->cfg.dit.heads, place * e->pages_per_session, err));
    TRY(ops->alloc(e->dev, (void **)&s->x, latent, err));
    TRY(ops->alloc(e->dev, (void **)&s->flow, latent, err));
    if (e->past_chunks) TRY(ops->alloc(e->dev, (void **)&s->past, latent * (size_t)e->past_chunks, err));
    TRY(ops->alloc(e->dev, (void **)&s->pixels, pixels, err));
    TRY(ops->alloc(e->dev, (void **)&s->finite, sizeof *s->finite, err));
    TRY(sc_decoder_state_create(e->decoder, &s->decoder, err));
    for (int i = 0; i < 2; i++) TRY(ops->alloc_host(e->dev, (void **)&s->frames[i], pixels, err));
    TRY(ops->alloc_host(e->dev, (void **)&s->finite_host, sizeof *s->finite_host, err));
    for (int i = 0; ops->mark_create && i < e->cfg.step_count + 2; i++) {
        TRY(ops->mark_create(e->dev, &s->from[i], err));
        TRY(ops->mark_create(e->dev, &s->to[i], err));
    }
    if (ops->mark_create) {
        TRY(ops->mark_create(e->decode_dev, &s->decode_from, err));
        TRY(ops->mark_create(e->decode_dev, &s->drawn, err));
        TRY(ops->mark_create(e->decode_dev, &s->decoded, err));
    }
    *out = s;
    s = NULL;
cleanup:
    sc_session_destroy(s);
    return rc;
}

sc_status sc_session_free_place(const sc_engine *e, int *place, sc_error *err) {
    for (*place = 0; *place < e->max_sessions; ++*place)
        if (!e->taken[*place]) return SC_OK;
    return sc_fail(err, SC_EBUSY, "all %d places for sessions are taken", e->max_sessions);
}

sc_status sc_session_create(sc_engine *e, uint64_t seed, const char *prompt, size_t n, uint32_t prompt_seq, sc_session **out, sc_error *err) {
    int place;
    sc_prompt *p;
    sc_status rc;

    *out = NULL;
    if ((rc = sc_session_free_place(e, &place, err)) || (rc = sc_prompt_get(e, prompt, n, &p, err))) return rc;
    do rc = sc_session_create_at(e, place, seed, p, prompt_seq, out, err);
    while (rc == SC_ENOMEM && sc_prompt_cache_shrink(e));
    sc_prompt_drop(e, p);
    return rc;
}

/* ---- fork --------------------------------------------------------------------------------------------------------------- */

static sc_prompt *shared(sc_prompt *p) {
    if (p) p->refs++;
    return p;
}

/* The run of pages of `from` to that of s: a page lies at the same place of its run. */
static sc_status copy_pages(sc_session *s, const sc_session *from, sc_error *err) {
    const sc_engine *e = s->engine;
    const size_t run = (size_t)e->pages_per_session, row = (size_t)e->pages.head_dim, page = (size_t)e->pages.page_rows * row * sc_act_bytes(e->dev);
    const size_t to = run * (size_t)s->place, at = run * (size_t)from->place;
    const struct { char *pool; size_t bytes; } part[] = {{e->pages.k, page}, {e->pages.v, page}, {(char *)e->pages.rep_k, row * sizeof *e->pages.rep_k}};
    sc_status rc = SC_OK;

    for (int i = 0; i < 3 && !rc; i++)
        rc = e->dev->ops->copy(e->dev, part[i].pool + to * part[i].bytes, part[i].pool + at * part[i].bytes, run * part[i].bytes, err);
    return rc;
}

/* Planned again as for `from`: a chunk writes its own mix before it reads one. */
static sc_status fork_prompts(sc_session *s, const sc_session *from, sc_error *err) {
    sc_status rc = SC_OK;

    s->next_prompt = shared(from->next_prompt);
    s->next_seq = from->next_seq;
    s->transition = from->transition;
    s->blend_from = shared(from->blend_from);
    s->blend_chunks = from->blend_chunks;
    s->blend_done = from->blend_done;
    for (int i = 0; i < 2 && !rc; i++) {
        if (from->blend[i].kv) rc = sc_prompt_plan_mix(s->engine, s->blend_from, s->prompt, &s->blend[i], err);
        if (!rc && from->next_blend[i].kv) rc = sc_prompt_plan_mix(s->engine, s->prompt, s->next_prompt, &s->next_blend[i], err);
    }
    return rc;
}

/* The last picture of the past that both have. */
static void show_past(sc_session *s, const sc_session *from) {
    const sc_frames *f = &from->newest;
    const int last = f->count - 1;

    if (last < 0) return;
    memcpy(s->frames[s->frames_at], f->data + (size_t)last * f->frame_bytes, f->frame_bytes);
    s->newest = (sc_frames){.chunk = f->chunk, .first_frame = f->first_frame + (uint64_t)last, .count = 1, .width = f->width, .height = f->height,
                            .prompt_seq = f->prompt_seq, .data = s->frames[s->frames_at], .frame_bytes = f->frame_bytes};
}

static sc_status fork_at(int place, const sc_session *from, uint64_t seed, sc_session **out, sc_error *err) {
    sc_engine *e = from->engine;
    sc_session *s = NULL;
    sc_status rc;

    TRY(sc_session_create_at(e, place, seed, from->prompt, from->prompt_seq, &s, err));
    s->chunk = s->first = from->chunk;
    s->frames_made = from->frames_made;
    s->past_at = from->past_at;
    s->past_count = from->past_count;
    TRY(fork_prompts(s, from, err));
    TRY(sc_kv_fork(&s->memory, &from->memory, err));
    TRY(copy_pages(s, from, err));
    if (e->past_chunks) TRY(e->dev->ops->copy(e->dev, s->past, from->past, e->latent_count * 4 * (size_t)e->past_chunks, err));
    TRY(sc_decoder_state_copy(e->decoder, s->decoder, from->decoder, err));
    show_past(s, from);
    *out = s;
    s = NULL;
cleanup:
    sc_session_destroy(s);
    return rc;
}

sc_status sc_session_stands(sc_session *s, sc_error *err) {
    const sc_status rc = sc_session_collect(s, err);

    if (rc) return rc;
    if (s->failed) return sc_fail(err, s->error.status, "%s", s->error.text);
    return s->phase || s->begun ? sc_fail(err, SC_EBUSY, "chunk %llu has begun", (unsigned long long)s->chunk) : SC_OK;
}

sc_status sc_session_fork(sc_session *from, uint64_t seed, sc_session **out, sc_error *err) {
    sc_engine *e = from->engine;
    int place;
    sc_status rc;

    *out = NULL;
    if ((rc = sc_session_stands(from, err)) || (rc = sc_session_free_place(e, &place, err))) return rc;
    do rc = fork_at(place, from, seed, out, err);
    while (rc == SC_ENOMEM && sc_prompt_cache_shrink(e));
    return rc;
}

/* ---- the end, prompts --------------------------------------------------------------------------------------------------- */

void sc_session_destroy(sc_session *s) {
    if (!s) return;
    sc_engine *e = s->engine;
    void *p[] = {s->x, s->flow, s->past, s->pixels, s->finite};
    sc_error ignored;
    e->taken[s->place] = false;
    if (s->decoded) e->dev->ops->wait(e->decode_dev, s->decoded, &ignored); /* nothing on the other queue uses what goes now */
    for (size_t i = 0; i < sizeof p / sizeof *p; i++) e->dev->ops->release(e->dev, p[i]);
    sc_kv_free(&s->memory);
    sc_decoder_state_destroy(e->decoder, s->decoder);
    free_mixes(e, s->blend);
    free_mixes(e, s->next_blend);
    sc_prompt_drop(e, s->prompt);
    sc_prompt_drop(e, s->next_prompt);
    sc_prompt_drop(e, s->blend_from);
    for (int i = 0; i < 2; i++) e->dev->ops->release_host(e->dev, s->frames[i]);
    e->dev->ops->release_host(e->dev, s->finite_host);
    for (int i = 0; e->dev->ops->mark_destroy && i < SC_MAX_STEPS + 2; i++) {
        e->dev->ops->mark_destroy(e->dev, s->from[i]);
        e->dev->ops->mark_destroy(e->dev, s->to[i]);
    }
    if (s->decode_from) e->dev->ops->mark_destroy(e->decode_dev, s->decode_from);
    if (s->drawn) e->dev->ops->mark_destroy(e->decode_dev, s->drawn);
    if (s->decoded) e->dev->ops->mark_destroy(e->decode_dev, s->decoded);
    free(s);
}

sc_status sc_session_plan_blend(sc_engine *e, const sc_prompt *a, const sc_prompt *b, int chunks, sc_cross mix[2], sc_error *err) {
    sc_status rc = SC_OK;

    for (int i = 0; i < 2 && i < chunks - 1 && !rc; i++) rc = sc_prompt_plan_mix(e, a, b, &mix[i], err);
    if (rc) free_mixes(e, mix);
    return rc;
}

sc_status sc_session_set_prompt(sc_session *s, const char *text, size_t n, uint32_t seq, sc_transition transition, int blend_chunks, uint64_t *applies_at,
                                sc_error *err) {
    sc_engine *e = s->engine;
    sc_cross mix[2] = {0};
    sc_prompt *p;
    sc_status rc;

    if (transition == SC_BLEND && (blend_chunks < 1 || blend_chunks > 64)) return sc_fail(err, SC_EINVAL, "transition blend: %d chunks is not in 1..64", blend_chunks);
    if ((rc = sc_prompt_get(e, text, n, &p, err))) return rc;
    if (transition == SC_BLEND && (rc = sc_session_plan_blend(e, s->prompt, p, blend_chunks, mix, err))) {
        sc_prompt_drop(e, p);
        return rc;
    }
    sc_prompt_drop(e, s->next_prompt);
    free_mixes(e, s->next_blend);
    memcpy(s->next_blend, mix, sizeof mix);
    s->next_prompt = p;
    s->next_seq = seq;
    s->transition = transition;
    s->blend_chunks = blend_chunks;
    if (applies_at) *applies_at = s->begun ? s->chunk + 1 : s->chunk;
    return SC_OK;
}

float *sc_session_past(const sc_session *s, int k) {
    const int room = s->engine->past_chunks;
    return s->past + (size_t)((s->past_at - s->past_count + k + room) % room) * s->engine->latent_count;
}

/* Write the window's pages again from its clean latents under the prompt in force, oldest chunk first. */
static sc_status recache(sc_session *s, sc_error *err) {
    sc_engine *e = s->engine;

    for (int k = 0; k < s->past_count; k++) {
        sc_pass_args a = {.seqs = 1, .layout = e->layout, .pages = e->pages, .mods = sc_mods_of(e, e->cfg.step_count), .sparse = e->rule.pbsa,
                          .capacity = e->rule.capacity};
        bool held;
        sc_status rc;
        if ((rc = sc_kv_recache(&s->memory, s->memory.chunk - s->past_count + k, &a.view[0], &held, err))) return rc;
        if (!held) continue;
        a.keep[0] = sc_kv_keep(e->cfg.memory.keep_ratio, a.view[0].window);
        a.cross[0] = &s->prompt->cross;
        a.latent[0] = sc_session_past(s, k);
        if ((rc = sc_engine_pass(e, &a, err))) return rc;
    }
    return sc_kv_begin(&s->memory, err);
}

static void end_blend(sc_session *s) {
    sc_prompt_drop(s->engine, s->blend_from);
    s->blend_from = NULL;
    free_mixes(s->engine, s->blend);
}

/* This chunk's keys and values. They are made beside the clean pass of the chunk before, which reads the other ones; these were read last by
 * that of the chunk before it. */
static sc_status mix_prompts(sc_session *s, sc_error *err) {
    sc_engine *e = s->engine;
    sc_status rc;

    if (!s->blend_from || s->mixed) return SC_OK;
    if (s->decoded && (rc = e->prompt_dev->ops->after(e->prompt_dev, s->to[sc_clean_mark(s, s->chunk)], err))) return rc;
    rc = sc_prompt_mix(e, s->blend_from, s->prompt, (double)s->blend_done / s->blend_chunks, sc_session_blend(s), err);
    s->mixed = !rc;
    return rc;
}

/* The waiting prompt is now in force; what the memory does about it is due. */
static void take_prompt(sc_session *s) {
    sc_engine *e = s->engine;

    end_blend(s);
    memcpy(s->blend, s->next_blend, sizeof s->blend);
    memset(s->next_blend, 0, sizeof s->next_blend);
    if (s->transition == SC_BLEND) s->blend_from = s->prompt;
    else sc_prompt_drop(e, s->prompt);
    s->prompt = s->next_prompt;
    s->next_prompt = NULL;
    s->prompt_seq = s->next_seq;
    s->fresh_prompt = true;
    s->blend_done = 0;
    s->due = s->transition;
}

static sc_status meet_prompt(sc_session *s, sc_error *err) {
    switch (s->due) {
    case SC_CUT:
        s->past_count = 0;
        return sc_kv_reset(&s->memory, s->memory.chunk, err);
    case SC_FLUSH:
        if (s->past_count > 1) s->past_count = 1;
        return sc_kv_flush(&s->memory, err);
    case SC_RECACHE: /* once the chunk has its place in the window */
    case SC_SWITCH: case SC_BLEND: break;
    }
    return SC_OK;
}

/* What can fail may be tried again, alone or because another session of the batch failed: the bookkeeping is done once a chunk. */
sc_status sc_session_begin_chunk(sc_session *s, sc_error *err) {
    sc_engine *e = s->engine;
    sc_status rc;

    if (!s->begun) {
        s->fresh_prompt = s->chunk == 0;
        if (s->next_prompt) take_prompt(s);
        if (s->blend_from && ++s->blend_done >= s->blend_chunks) end_blend(s);
        s->mixed = false;
        s->begun = true;
    }
    if ((rc = meet_prompt(s, err))) return rc;
    if (s->due != SC_RECACHE) s->due = SC_SWITCH;
    if ((rc = mix_prompts(s, err))) return rc;
    if ((rc = sc_kv_begin(&s->memory, err))) return rc;
    if (s->due == SC_RECACHE && (rc = recache(s, err))) return rc;
    s->due = SC_SWITCH;
    if (s->decoded && (rc = e->dev->ops->after(e->dev, s->decoded, err))) return rc; /* x is read by the decoder until then */
    return e->dev->ops->noise(e->dev, &(sc_noise_args){.out = s->x, .count = e->latent_count, .seed = s->seed, .chunk = s->chunk, .step = 0}, err);
}

sc_pass sc_session_next(const sc_session *s) {
    const int steps = s->engine->cfg.step_count;
    sc_pass p = {.chunk = s->chunk, .prompt_seq = !s->begun && s->next_prompt ? s->next_seq : s->prompt_seq};
    p.kind = s->phase < steps ? SC_PASS_DENOISE : s->phase == steps ? SC_PASS_DECODE : SC_PASS_CLEAN;
    p.step = s->phase < steps ? s->phase : 0;
    return p;
}

bool sc_session_failed(const sc_session *s, sc_error *err) {
    if (s->failed && err) *err = s->error;
    return s->failed;
}

/* run.c - passes of a batch of sessions: denoise, decode, clean; and whose failure it was when one fails.
 *
 * A device that runs behind its calls (kernels/ops.h, queues) is handed one pass after another and waited for once a chunk, for the frames:
 *
 *     dev         denoise 0 .. n-1 | clean ------------ | denoise 0 of the next chunk (its noise overwrites x: after `decoded`)
 *     decode_dev                   '- finite?, decode - drawn - frames to host -' decoded
 *
 * A clean pass that fills the card by itself waits for `drawn`: side by side the two would end together no sooner than one after the other, and
 * frames that somebody waits for come first (full_pass; the figures are in kernels/README.md).
 *
 * Passes and decoding are given to the device as something that it may play again: the key says all that their calls depend on. */
#include "engine/internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Fills what every transformer pass needs. step[s]: row of the modulation table, steps = the clean pass. */
static sc_status prepare(sc_engine *e, sc_session *const *ss, int n, const int *step, sc_pass_args *a, sc_error *err) {
    const size_t tokens = (size_t)e->layout->tokens;
    bool same = true;

    a->seqs = n;
    a->layout = e->layout;
    a->pages = e->pages;
    a->mods = e->mods;
    a->sparse = e->rule.pbsa;
    a->capacity = e->rule.capacity;
    for (int i = 0; i < n; i++) {
        sc_session *s = ss[i];
        a->view[i] = sc_kv_view_of(&s->memory);
        a->keep[i] = sc_kv_keep(e->cfg.memory.keep_ratio, a->view[i].window);
        a->cross[i] = s->blend_from ? sc_session_blend(s) : &s->prompt->cross;
        a->latent[i] = s->x;
        same = same && step[i] == step[0];
    }
    if (same) { /* one gate for all rows lets a product add itself to the residual */
        a->mods = sc_mods_of(e, step[0]);
        return SC_OK;
    }
    for (int i = 0; i < n; i++)
        for (size_t t = 0; t < tokens; t++) e->row_mod_host[(size_t)i * tokens + t] = step[i];
    a->row_mod = e->row_mod_mixed;
    return e->dev->ops->upload(e->dev, e->row_mod_mixed, e->row_mod_host, (size_t)n * tokens * 4, err);
}

/* A stream does not go on behind a hole. */
static void fail_at(sc_session *s, uint64_t chunk, const sc_error *why) {
    s->failed = true;
    sc_fail(&s->error, why->status, "chunk %llu: %.480s", (unsigned long long)chunk, why->text);
}
static void mark_failed(sc_session *s, const sc_error *why) { fail_at(s, s->chunk, why); }

/* ---- a pass, perhaps played again --------------------------------------------------------------------------------------- */

enum { KEY_PASS = 1, KEY_DECODE };

typedef struct {
    sc_engine *engine;
    const sc_pass_args *args;
} pass;

static sc_status launch_pass(void *ctx, sc_error *err) {
    const pass *p = ctx;
    return sc_dit_pass(p->engine->dit, p->engine->work, p->args, err);
}

/* Everything in `a` but what is one engine's for ever. */
static int pass_key(const sc_pass_args *a, uint64_t *key) {
    int n = 0;

    key[n++] = KEY_PASS;
    key[n++] = (uint64_t)a->seqs;
    key[n++] = (uintptr_t)a->mods;
    key[n++] = (uintptr_t)a->row_mod;
    for (int i = 0; i < a->seqs; i++) {
        const sc_kv_view *v = &a->view[i];
        uint32_t bias;
        memcpy(&bias, &a->cross[i]->last_bias, sizeof bias);
        key[n++] = (uintptr_t)v->slots;
        key[n++] = (uintptr_t)v->chunk_now;
        key[n++] = (uint64_t)v->persistent << 32 | (uint32_t)v->window;
        key[n++] = (uint64_t)v->window_base << 32 | (uint32_t)v->slot_stride;
        key[n++] = a->cross[i]->serial;
        key[n++] = (uint64_t)a->cross[i]->rows << 32 | bias;
        key[n++] = (uintptr_t)a->latent[i];
        key[n++] = (uintptr_t)a->flow[i];
        key[n++] = (uint64_t)a->keep[i] << 1 | a->update[i];
    }
    return n;
}

sc_status sc_engine_pass(sc_engine *e, const sc_pass_args *a, sc_error *err) {
    uint64_t key[4 + 9 * SC_MAX_BATCH];
    pass p = {e, a};

    _Static_assert(sizeof key / sizeof *key <= SC_REPLAY_WORDS, "a key of the largest batch");
    if (!e->dev->ops->replay) return launch_pass(&p, err);
    return e->dev->ops->replay(e->dev, &(sc_replay_args){.key = key, .words = pass_key(a, key), .launch = launch_pass, .ctx = &p}, err);
}

/* ---- denoise, clean ----------------------------------------------------------------------------------------------------- */

static sc_status run_denoise(sc_engine *e, sc_session *const *ss, int n, sc_error *err) {
    const sc_ops *ops = e->dev->ops;
    sc_pass_args a = {0};
    int step[SC_MAX_BATCH];
    sc_status rc;

    for (int i = 0; i < n; i++) {
        step[i] = ss[i]->phase;
        if (step[i] == 0 && (rc = sc_session_begin_chunk(ss[i], err))) return rc;
        a.flow[i] = ss[i]->flow;
    }
    if ((rc = prepare(e, ss, n, step, &a, err))) return rc;
    if ((rc = sc_engine_pass(e, &a, err))) return rc;
    for (int i = 0; i < n; i++) {
        const bool last = step[i] == e->cfg.step_count - 1;
        if (!last && (rc = ops->noise(e->dev, &(sc_noise_args){.out = e->noise, .count = e->latent_count, .seed = ss[i]->seed, .chunk = ss[i]->chunk,
                                                               .step = (uint32_t)step[i] + 1}, err))) return rc;
        if ((rc = ops->denoise(e->dev, &(sc_denoise_args){.x = ss[i]->x, .flow = ss[i]->flow, .noise = e->noise, .count = e->latent_count,
                                                          .sigma = e->sigma[step[i]], .next_sigma = last ? -1.0 : e->sigma[step[i] + 1]}, err))) return rc;
        ss[i]->phase++;
    }
    return SC_OK;
}

/* Before the pass what can be done twice, after it what cannot fail: a clean pass that failed can be made again. */
static sc_status run_clean(sc_engine *e, sc_session *const *ss, int n, sc_error *err) {
    const bool full = (long)n * e->layout->tokens * e->cfg.dit.dim >= e->full_pass;
    sc_pass_args a = {0};
    int step[SC_MAX_BATCH];
    sc_status rc;

    for (int i = 0; i < n; i++) {
        step[i] = e->cfg.step_count;
        if (full && ss[i]->awaited && ss[i]->drawn && (rc = e->dev->ops->after(e->dev, ss[i]->drawn, err))) return rc;
        a.update[i] = sc_kv_must_update(&ss[i]->memory);
        if (e->past_chunks && (rc = e->dev->ops->copy(e->dev, sc_session_past(ss[i], ss[i]->past_count), ss[i]->x, e->latent_count * 4, err))) return rc;
        if (a.update[i] && (rc = sc_kv_save(&ss[i]->memory, err))) return rc;
    }
    if ((rc = prepare(e, ss, n, step, &a, err))) return rc;
    if ((rc = sc_engine_pass(e, &a, err))) {
        for (int i = 0; i < n && rc != SC_ELOST; i++) {
            sc_error why = {0};
            if (!a.update[i] || !sc_kv_restore(&ss[i]->memory, &why)) continue;
            if (why.status == SC_ELOST) return sc_fail(err, SC_ELOST, "%s", why.text);
            mark_failed(ss[i], &why); /* nobody knows what its memory holds */
        }
        return rc;
    }
    for (int i = 0; i < n; i++) {
        sc_session *s = ss[i];
        if (e->past_chunks) {
            s->past_at = (s->past_at + 1) % e->past_chunks;
            if (s->past_count < e->past_chunks) s->past_count++;
        }
        sc_kv_end(&s->memory);
        s->chunk++;
        s->phase = 0;
        s->begun = false;
    }
    return SC_OK;
}

/* ---- decoding ----------------------------------------------------------------------------------------------------------- */

static const sc_error not_finite = {SC_EINVAL, "the model's output is not finite"};

static sc_status decode(void *ctx, sc_error *err) {
    sc_session *s = ctx;
    int count;
    return sc_decoder_run(s->engine->decoder, s->decoder, s->x, s->engine->cfg.chunk_frames, NULL, s->pixels, &count, err);
}

/* A stream's first call is unlike the others (it drops frames). */
static sc_status decode_or_replay(sc_session *s, int *count, sc_error *err) {
    sc_engine *e = s->engine;
    const sc_ops *ops = e->decode_dev->ops;
    const uint64_t key[] = {KEY_DECODE, s->serial}; /* what it has was made with it */

    *count = e->info.frames_chunk;
    if (!ops->replay || !sc_decoder_started(e->decoder, s->decoder))
        return sc_decoder_run(e->decoder, s->decoder, s->x, e->cfg.chunk_frames, NULL, s->pixels, count, err);
    return ops->replay(e->decode_dev, &(sc_replay_args){.key = key, .words = sizeof key / sizeof *key, .launch = decode, .ctx = s}, err);
}

static sc_status to_host(sc_device *dev, void *host, const void *src, size_t bytes, sc_error *err) {
    return (dev->ops->fetch ? dev->ops->fetch : dev->ops->download)(dev, host, src, bytes, err);
}

static sc_status run_decode(sc_engine *e, sc_session *s, sc_error *err) {
    sc_device *dev = e->decode_dev;
    const sc_ops *ops = dev->ops;
    int count = 0;
    sc_status rc;

    if ((rc = sc_session_collect(s, err)) || s->failed) return rc;
    if (s->decoded && ((rc = ops->after(dev, s->to[e->cfg.step_count - 1], err)) || (rc = ops->mark(dev, s->decode_from, err)))) return rc;
    if ((rc = ops->finite(dev, s->finite, s->x, e->latent_count, err))) return rc;
    if ((rc = to_host(dev, s->finite_host, s->finite, sizeof *s->finite, err))) return rc;
    if (!s->decoded && !*s->finite_host) { /* known already: no decoding of that */
        mark_failed(s, &not_finite);
        return SC_OK;
    }
    if ((rc = decode_or_replay(s, &count, err))) return rc;
    if (s->decoded && (rc = ops->mark(dev, s->drawn, err))) return rc;
    uint8_t *const frames = s->frames[s->frames_at ^= 1];
    if ((rc = to_host(dev, frames, s->pixels, (size_t)count * e->info.frame_bytes, err))) return rc;
    if (s->decoded && (rc = ops->mark(dev, s->decoded, err))) return rc;
    s->coming = (sc_frames){.chunk = s->chunk, .first_frame = s->frames_made, .count = count, .width = e->info.width, .height = e->info.height,
                            .prompt_seq = s->prompt_seq, .first_of_prompt = s->fresh_prompt, .data = frames, .frame_bytes = e->info.frame_bytes};
    s->awaited = true;
    s->frames_made += (uint64_t)count;
    s->phase++;
    return s->decoded ? SC_OK : sc_session_collect(s, err);
}

/* How long the device was at the passes of the chunk that has come. */
static sc_status read_clocks(sc_session *s, sc_error *err) {
    sc_device *dev = s->engine->dev;
    const int steps = s->engine->cfg.step_count, clean = sc_clean_mark(s, s->coming.chunk - 1);
    uint64_t ns;
    sc_status rc;

    for (int i = 0; i < steps; i++) {
        if ((rc = dev->ops->elapsed(dev, s->from[i], s->to[i], &ns, err))) return rc;
        s->coming.denoise_ns += ns;
    }
    if ((rc = dev->ops->elapsed(s->engine->decode_dev, s->decode_from, s->decoded, &s->coming.decode_ns, err))) return rc;
    return s->coming.chunk != s->first ? dev->ops->elapsed(dev, s->from[clean], s->to[clean], &s->coming.clean_ns, err) : SC_OK;
}

sc_status sc_session_collect(sc_session *s, sc_error *err) {
    sc_device *dev = s->engine->decode_dev;
    sc_error clock;
    sc_status rc = SC_OK;

    if (!s->awaited) return SC_OK;
    if (s->decoded && (rc = dev->ops->wait(dev, s->decoded, err)) == SC_ELOST) return rc;
    s->awaited = false;
    if (!rc && s->decoded && read_clocks(s, &clock) == SC_ELOST) return sc_fail(err, SC_ELOST, "%s", clock.text); /* any other failure there costs a figure */
    if (rc) fail_at(s, s->coming.chunk, err); /* the session may be a chunk ahead */
    else if (!*s->finite_host) fail_at(s, s->coming.chunk, &not_finite);
    else s->newest = s->coming;
    return SC_OK;
}

bool sc_session_frames_coming(const sc_session *s) {
    sc_device *dev = s->engine->decode_dev;
    return s->awaited && s->decoded && !dev->ops->passed(dev, s->decoded);
}

sc_status sc_session_frames(sc_session *s, sc_frames *out, sc_error *err) {
    sc_status rc = sc_session_collect(s, err);

    if (rc) return rc;
    if (!s->newest.count) return sc_fail(err, SC_ENOTFOUND, "no chunk has been decoded yet");
    *out = s->newest;
    return SC_OK;
}

/* ---- batches ------------------------------------------------------------------------------------------------------------ */

/* run_denoise or run_clean, and a mark of each session before and behind it. */
static sc_status clocked(sc_engine *e, sc_pass_kind kind, sc_session *const *ss, int n, sc_error *err) {
    const sc_ops *ops = e->dev->ops;
    int at[SC_MAX_BATCH];
    sc_status rc = SC_OK;

    for (int i = 0; i < n && !rc && ss[i]->decoded; i++) {
        at[i] = kind == SC_PASS_DENOISE ? ss[i]->phase : sc_clean_mark(ss[i], ss[i]->chunk);
        rc = ops->mark(e->dev, ss[i]->from[at[i]], err);
    }
    if (!rc) rc = kind == SC_PASS_DENOISE ? run_denoise(e, ss, n, err) : run_clean(e, ss, n, err);
    for (int i = 0; i < n && !rc && ss[i]->decoded; i++) rc = ops->mark(e->dev, ss[i]->to[at[i]], err);
    return rc;
}

static sc_status run_kind(sc_engine *e, sc_pass_kind kind, sc_session *const *ss, int n, sc_error *err) {
    sc_status rc = SC_OK;
    switch (kind) {
    case SC_PASS_DENOISE:
    case SC_PASS_CLEAN: return clocked(e, kind, ss, n, err);
    case SC_PASS_DECODE:
        for (int k = 0; k < n && rc != SC_ELOST; k++) {
            /* Only its own calls: it is this session's failure, and what its decoder remembers is half of one chunk, half of another. */
            if ((rc = run_decode(e, ss[k], err)) && rc != SC_ELOST) mark_failed(ss[k], err);
        }
        return rc == SC_ELOST ? rc : SC_OK;
    }
    return rc;
}

/* A batched pass failed and the device is well. Whose failure was it? Those that have not moved on take the pass again, one by one;
 * whoever fails alone is the one (in a batch of one there is nothing to find out). */
static sc_status find_culprit(sc_engine *e, sc_pass_kind kind, sc_session *const *ss, int n, const int *phase, sc_error *err) {
    for (int i = 0; i < n; i++) {
        sc_error why = *err;
        sc_status rc = SC_EGPU;
        if (ss[i]->failed || ss[i]->phase != phase[i]) continue;
        if (n > 1) rc = run_kind(e, kind, ss + i, 1, &why);
        if (rc == SC_EGPU) mark_failed(ss[i], &why);
        else if (rc) return sc_fail(err, rc, "%s", why.text);
    }
    return SC_OK;
}

sc_status sc_engine_run(sc_engine *e, sc_session *const *sessions, int count, sc_error *err) {
    sc_session *live[SC_MAX_BATCH];
    int n = 0;
    sc_status rc = SC_OK;

    assert(count >= 1 && count <= SC_MAX_BATCH);
    for (int i = 0; i < count; i++) {
        assert(sessions[i]->engine == e && sc_session_next(sessions[i]).kind == sc_session_next(sessions[0]).kind);
        if (!sessions[i]->failed) live[n++] = sessions[i];
    }
    for (int i = 0; i < n && !rc; i += e->batch) {
        const int part = n - i < e->batch ? n - i : e->batch;
        const sc_pass_kind kind = sc_session_next(live[i]).kind;
        sc_error why = {0};
        int phase[SC_MAX_BATCH];
        for (int k = 0; k < part; k++) phase[k] = live[i + k]->phase;
        if ((rc = run_kind(e, kind, live + i, part, &why)) == SC_EGPU) rc = find_culprit(e, kind, live + i, part, phase, &why);
        if (rc) sc_fail(err, rc, "%s", why.text);
    }
    return rc;
}

/* vectors_pocket.c - runs the whole pocket model against tests/vectors/pocket.safetensors: tokenizer, text encoder, one pass with its
 * insides, ten chunks with selections and memory updates, in closed loop (f16: open), the decoder. Weights come from the model directory.
 *
 * Only the file's own tolerances count (largest absolute error); a device that computes in f16 is held to its relative L2 instead, and
 * to equal index sets. */
#include "cli/vectors.h"
#include "engine/devmem.h"
#include "engine/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    sc_vectors *v;
    sc_engine *e;
    cJSON *tolerance;
    sc_session *s;
    const char *case_name; /* "step" or "stream.cN" */
    int persistent, window; /* of the pass being watched */
} pocket;

static double tolerance_of(pocket *p, const char *name) {
    const cJSON *t = cJSON_GetObjectItemCaseSensitive(p->tolerance, name);
    return cJSON_IsNumber(t) ? t->valuedouble : 0.0;
}

static void check(pocket *p, const char *name, const float *got, size_t n) { sc_vectors_check_abs(p->v, name, got, n, tolerance_of(p, name)); }

static void check_device(pocket *p, const char *name, const float *x, size_t n) {
    float *host = malloc(n * sizeof *host);
    sc_vectors_get(p->v, host, x, n, SC_F32);
    check(p, name, host, n);
    free(host);
}

/* ---- text --------------------------------------------------------------------------------------------------------------- */

static bool run_tokenizer(pocket *p) {
    sc_vectors *v = p->v;
    const sc_tensor *ids_t = sc_vectors_find_rank(v, "tok.ids", 2), *text = sc_vectors_find(v, "tok.text_utf8");
    int32_t *offset = ids_t ? sc_vectors_i32_n(v, "tok.text_offset", (size_t)ids_t->shape[0] + 1) : NULL, *got;
    if (!ids_t || !text || !offset) return true;
    const int n = (int)ids_t->shape[0], len = (int)ids_t->shape[1];
    for (int i = 0; i <= n; i++)
        if (offset[i] < (i ? offset[i - 1] : 0) || offset[i] > (int64_t)text->bytes) { sc_fail(&v->err, SC_EINVAL, "%s: tok.text_offset[%d] leaves the text", v->path, i); return false; }
    got = calloc((size_t)ids_t->count, sizeof *got);
    for (int i = 0; i < n; i++) {
        int count;
        if (sc_tokenizer_encode(p->e->tokenizer, (const char *)text->data + offset[i], (size_t)(offset[i + 1] - offset[i]), got + i * len, len, &count, &v->err)) return false;
    }
    sc_vectors_check_ints_n(v, "tok.ids", got, (size_t)ids_t->count);
    free(got);
    free(offset);
    return true;
}

static bool run_text(pocket *p) {
    sc_vectors *v = p->v;
    const sc_tensor *ids_t = sc_vectors_find_rank(v, "text.ids", 2), *bias_t = sc_vectors_find_rank(v, "text.rel_bucket_31", 3);
    int32_t *ids = ids_t ? sc_vectors_i32(v, "text.ids") : NULL;
    if (!ids || !bias_t) return true;
    const int n = (int)ids_t->shape[0], len = (int)ids_t->shape[1];
    const size_t dim = sc_t5_dim(p->e->t5);
    float *emb = calloc((size_t)ids_t->count * dim, sizeof *emb), *bias = malloc((size_t)bias_t->count * sizeof *bias);
    for (int i = 0; i < n; i++) {
        int real = 0;
        while (real < len && ids[i * len + real]) real++;
        if (real && sc_t5_encode(p->e->t5, ids + i * len, real, emb + (size_t)(i * len) * dim, NULL, NULL, &v->err)) return false;
    }
    check(p, "text.emb", emb, (size_t)ids_t->count * dim);
    if (bias_t->shape[0] != p->e->cfg.t5.layers || bias_t->shape[1] != p->e->cfg.t5.heads) { sc_fail(&v->err, SC_EINVAL, "%s: text.rel_bucket_31: not [%d, %d, keys]", v->path, p->e->cfg.t5.layers, p->e->cfg.t5.heads); return false; }
    const int layers = (int)bias_t->shape[0], heads = (int)bias_t->shape[1], keys = (int)bias_t->shape[2], n_pos = keys > 32 ? keys : 32;
    float *table = malloc((size_t)(heads * (2 * n_pos - 1)) * sizeof *table);
    for (int l = 0; l < layers; l++) { /* query 31 against every key */
        sc_t5_bias(p->e->t5, l, n_pos, table);
        for (int h = 0; h < heads; h++)
            for (int k = 0; k < keys; k++) bias[(l * heads + h) * keys + k] = table[h * (2 * n_pos - 1) + k - 31 + n_pos - 1];
    }
    check(p, "text.rel_bucket_31", bias, (size_t)bias_t->count);
    free(table); free(emb); free(bias); free(ids);
    return true;
}

/* Padded embeddings of the prompts of `list`, checked as NAME [n][len][dim]. */
static bool check_context(pocket *p, const char *name, const cJSON *prompts, bool single) {
    const size_t dim = sc_t5_dim(p->e->t5), len = (size_t)p->e->cfg.dit.text_len;
    const int n = single ? 1 : cJSON_GetArraySize(prompts);
    float *ctx = calloc((size_t)n * len * dim, sizeof *ctx);
    for (int i = 0; i < n; i++) {
        const char *text = single ? prompts->valuestring : cJSON_GetArrayItem(prompts, i)->valuestring;
        sc_prompt *q;
        if (!text) { sc_fail(&p->v->err, SC_EINVAL, "%s: %s: a prompt is no text", p->v->path, name); return false; }
        if (sc_prompt_get(p->e, text, strlen(text), &q, &p->v->err)) return false;
        memcpy(ctx + (size_t)i * len * dim, q->emb, (size_t)q->tokens * dim * sizeof *ctx);
        sc_prompt_drop(p->e, q);
    }
    check(p, name, ctx, (size_t)n * len * dim);
    free(ctx);
    return true;
}

/* ---- what a pass shows -------------------------------------------------------------------------------------------------- */

/* Fills the file's .sel [H][query][local] from the lists, and .S from the scores. */
static void check_selection(pocket *p, int layer, const sc_work *w) {
    const int heads = p->e->cfg.dit.heads, B = p->e->layout->blocks.blocks, P = p->persistent, L = p->window, base = p->e->rule.capacity;
    const size_t lists = (size_t)(heads * B);
    char name[64];
    float *score = malloc(lists * (size_t)w->score_stride * 4), *s = malloc(lists * (size_t)L * 4);
    int32_t *list = malloc(lists * (size_t)w->list_stride * 4), *sel = calloc(lists * (size_t)L, 4); /* the file masks the own block's score with +inf */
    const int keep = sc_kv_keep(p->e->cfg.memory.keep_ratio, L);
    sc_vectors_get(p->v, score, w->score, lists * (size_t)w->score_stride, SC_F32);
    sc_vectors_get(p->v, (float *)list, w->list, lists * (size_t)w->list_stride, SC_F32);
    for (size_t i = 0; i < lists; i++) {
        memcpy(s + i * (size_t)L, score + i * (size_t)w->score_stride + P, (size_t)L * 4);
        s[i * (size_t)L + (size_t)(L - B) + i % (size_t)B] = INFINITY;
        for (int k = 0; k < keep; k++) {
            const int at = list[i * (size_t)w->list_stride + (size_t)(P + k)] - base;
            if (at >= 0 && at < L) sel[i * (size_t)L + (size_t)at] = 1;
        }
    }
    snprintf(name, sizeof name, "%s.L%d.sel", p->case_name, layer);
    if (sc_vectors_has(p->v, name)) sc_vectors_check_ints_n(p->v, name, sel, lists * (size_t)L);
    snprintf(name, sizeof name, "%s.L%d.S", p->case_name, layer);
    if (sc_vectors_has(p->v, name)) check(p, name, s, lists * (size_t)L);
    free(score); free(s); free(list); free(sel);
}

static void check_update(pocket *p, int layer, const sc_work *w) {
    const int heads = p->e->cfg.dit.heads, B = p->e->layout->blocks.blocks, C = p->e->rule.capacity, frames = p->e->cfg.chunk_frames, slots = p->s->memory.slots;
    const int candidates = p->persistent + B, kept_n = candidates < C ? candidates : C;
    float *mass = malloc((size_t)(heads * w->score_stride) * 4), *s = malloc((size_t)(heads * candidates) * 4);
    int32_t *kept = malloc((size_t)(heads * C) * 4), *fp = malloc((size_t)(heads * C) * 4), *block = malloc((size_t)(heads * C) * 4);
    sc_kv_slot *table = malloc((size_t)(heads * slots) * sizeof *table);
    char name[64];
    sc_vectors_get(p->v, mass, w->mass, (size_t)(heads * w->score_stride), SC_F32);
    sc_vectors_get(p->v, (float *)kept, w->kept, (size_t)(heads * C), SC_F32);
    if (p->e->dev->ops->download(p->e->dev, table, p->s->memory.device + (size_t)(layer * heads * slots), (size_t)(heads * slots) * sizeof *table, &p->v->err)) exit(70);
    for (int h = 0; h < heads; h++) {
        memcpy(s + h * candidates, mass + h * w->score_stride, (size_t)candidates * 4);
        for (int i = 0; i < kept_n; i++) {
            fp[h * kept_n + i] = (int32_t)(table[h * slots + i].chunk * frames);
            block[h * kept_n + i] = table[h * slots + i].block;
            kept[h * kept_n + i] = kept[h * C + i];
        }
    }
    const struct { const char *key; const int32_t *x; } ints[] = {{"kept", kept}, {"fp", fp}, {"block", block}};
    snprintf(name, sizeof name, "%s.L%d.s", p->case_name, layer);
    if (sc_vectors_has(p->v, name)) {
        check(p, name, s, (size_t)(heads * candidates));
        for (int i = 0; i < 3; i++) {
            snprintf(name, sizeof name, "%s.L%d.%s", p->case_name, layer, ints[i].key);
            sc_vectors_check_ints_n(p->v, name, ints[i].x, (size_t)(heads * kept_n));
        }
    }
    free(mass); free(s); free(kept); free(fp); free(block); free(table);
}

static void stream_tap(void *ctx, sc_tap tap, int layer, const sc_work *w) {
    if (tap == SC_TAP_SELECT) check_selection(ctx, layer, w);
    if (tap == SC_TAP_UPDATE) check_update(ctx, layer, w);
}

static void step_tap(void *ctx, sc_tap tap, int layer, const sc_work *w) {
    pocket *p = ctx;
    static const char *const what[] = {"x_in", "after_self", "after_cross", "out"};
    const size_t tokens = (size_t)p->e->layout->tokens, dim = (size_t)p->e->cfg.dit.dim;
    char name[64];
    if (tap == SC_TAP_SELECT) { check_selection(p, layer, w); return; }
    if (tap > SC_TAP_OUT) return;
    float *x = malloc(tokens * dim * sizeof *x);
    sc_vectors_get(p->v, x, w->x, tokens * dim, SC_F32);
    snprintf(name, sizeof name, "step.L%d.%s", layer, what[tap]);
    if (sc_vectors_has(p->v, name)) check(p, name, x, tokens * dim);
    snprintf(name, sizeof name, "step.L%d.out_every8", layer);
    if (tap == SC_TAP_OUT && sc_vectors_has(p->v, name)) {
        for (size_t t = 0; t * 8 < tokens; t++) memmove(x + t * dim, x + t * 8 * dim, dim * sizeof *x);
        check(p, name, x, (tokens + 7) / 8 * dim);
    }
    free(x);
}

/* One pass of the session's current chunk at row `step` of the table `mods`; flow goes to the session. */
static bool one_pass(pocket *p, const float *mods, int step, const sc_cross *cross, bool want_flow, void (*tap)(void *, sc_tap, int, const sc_work *)) {
    sc_engine *e = p->e;
    sc_session *s = p->s;
    sc_pass_args a = {.seqs = 1, .layout = e->layout, .pages = e->pages, .mods = mods + (size_t)step * sc_dit_mod_row(e->dit), .sparse = true,
                      .capacity = e->rule.capacity, .tap = tap, .tap_ctx = p};
    if (sc_kv_begin(&s->memory, &p->v->err)) return false;
    a.view[0] = sc_kv_view_of(&s->memory);
    a.keep[0] = sc_kv_keep(e->cfg.memory.keep_ratio, a.view[0].window);
    a.cross[0] = cross;
    a.latent[0] = s->x;
    a.flow[0] = want_flow ? s->flow : NULL;
    a.update[0] = !want_flow && sc_kv_must_update(&s->memory);
    p->persistent = a.view[0].persistent;
    p->window = a.view[0].window;
    return !sc_dit_pass(e->dit, e->work, &a, &p->v->err);
}

/* ---- step --------------------------------------------------------------------------------------------------------------- */

static bool run_step(pocket *p) {
    sc_engine *e = p->e;
    sc_vectors *v = p->v;
    cJSON *meta = sc_vectors_meta(v, "step");
    const double t = sc_vectors_num(meta, "timestep", 900);
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(meta, "prompt");
    const size_t dim = (size_t)e->cfg.dit.dim;
    float *x = sc_vectors_f32_n(v, "step.x", e->latent_count), *time = malloc(7 * dim * sizeof *time), *row = malloc(sc_dit_mod_row(e->dit) * sizeof *row), *mods, *proj;
    sc_prompt *prompt;

    if (!x) return true;
    if (!cJSON_IsString(text)) { sc_fail(&v->err, SC_EINVAL, "%s: metadata: step.prompt is no text", v->path); return false; }
    p->case_name = "step";
    if (!check_context(p, "step.ctx", text, true)) return false;
    if (sc_prompt_get(e, text->valuestring, strlen(text->valuestring), &prompt, &v->err)) return false;
    if (sc_dit_modulation(e->dit, t, row, time, time + dim, &v->err)) return false;
    mods = sc_vectors_put(v, row, sc_dit_mod_row(e->dit), false); /* of the file's t, which need not be a step of the model */
    check(p, "step.time_e", time, dim);
    check(p, "step.time_e0", time + dim, 6 * dim);
    proj = malloc((size_t)e->cfg.dit.text_len * dim * sizeof *proj);
    if (sc_dit_text(e->dit, prompt->emb, prompt->tokens, e->cfg.dit.text_len, proj, &v->err)) return false;
    check(p, "step.text_proj", proj, (size_t)e->cfg.dit.text_len * dim);
    if (e->dev->ops->upload(e->dev, p->s->x, x, e->latent_count * 4, &v->err)) return false;
    if (!one_pass(p, mods, 0, &prompt->cross, true, step_tap)) return false;
    check_device(p, "step.flow", p->s->flow, e->latent_count);
    /* Every padding row as a key of its own must give the same flow. */
    sc_cross longer;
    if (sc_cross_create(e->dit, prompt->emb, prompt->tokens, false, &longer, &v->err) || !one_pass(p, mods, 0, &longer, true, NULL)) return false;
    check_device(p, "step.flow", p->s->flow, e->latent_count);
    sc_cross_free(e->dit, &longer);
    sc_prompt_drop(e, prompt);
    e->dev->ops->release(e->dev, mods);
    free(x); free(time); free(row); free(proj);
    cJSON_Delete(meta);
    return true;
}

/* ---- stream ------------------------------------------------------------------------------------------------------------- */

static bool run_stream(pocket *p) {
    sc_engine *e = p->e;
    sc_vectors *v = p->v;
    cJSON *meta = sc_vectors_meta(v, "stream");
    const cJSON *prompts = cJSON_GetObjectItemCaseSensitive(meta, "prompts");
    const int steps = e->cfg.step_count;
    int chunks, at;
    const size_t n = e->latent_count;
    float *noise_dev, *x0 = malloc(n * (size_t)steps * sizeof *x0);
    sc_prompt *prompt[2] = {0};

    if (!sc_vectors_size(v, meta, "chunks", 1, 1 << 20, &chunks) || !sc_vectors_size(v, meta, "switch", 0, 1 << 20, &at)) return false;
    if (cJSON_GetArraySize(prompts) != 2) { sc_fail(&v->err, SC_EINVAL, "%s: stream: two prompts are needed", v->path); return false; }
    if (!check_context(p, "stream.ctx", prompts, false)) return false;
    for (int i = 0; i < 2; i++) {
        const char *text = cJSON_GetArrayItem(prompts, i)->valuestring;
        if (sc_prompt_get(e, text, strlen(text), &prompt[i], &v->err)) return false;
    }
    if (sc_kv_reset(&p->s->memory, 0, &v->err)) return false;
    for (int c = 0; c < chunks; c++) {
        char name[64], label[32];
        const sc_cross *cross = &prompt[c >= at]->cross;
        snprintf(label, sizeof label, "stream.c%d", c);
        snprintf(name, sizeof name, "%s.noise", label);
        float *noise = sc_vectors_f32_n(v, name, n * (size_t)steps);
        if (!noise) return true;
        noise_dev = sc_vectors_put(v, noise, n * (size_t)steps, false);
        p->case_name = label;
        if (e->dev->ops->upload(e->dev, p->s->x, noise, n * 4, &v->err)) return false;
        for (int i = 0; i < steps; i++) {
            const bool last = i == steps - 1;
            if (!one_pass(p, e->mods, i, cross, true, NULL)) return false;
            if (e->dev->ops->denoise(e->dev, &(sc_denoise_args){.x = p->s->x, .flow = p->s->flow, .noise = last ? NULL : noise_dev + (size_t)(i + 1) * n, .x0 = e->noise, .count = n,
                                     .sigma = e->sigma[i], .next_sigma = last ? -1.0 : e->sigma[i + 1]}, &v->err)) return false;
            sc_vectors_get(v, x0 + (size_t)i * n, e->noise, n, SC_F32);
        }
        snprintf(name, sizeof name, "%s.x0", label);
        check(p, name, x0 + (size_t)(steps - 1) * n, n);
        snprintf(name, sizeof name, "%s.x0_per_step", label);
        if (sc_vectors_has(v, name)) check(p, name, x0, n * (size_t)steps);
        if (v->half) { /* open loop: the memory sees the file's x0, so that roundings do not add up over the chunks */
            snprintf(name, sizeof name, "%s.x0", label);
            float *exact = sc_vectors_f32_n(v, name, n);
            if (!exact) return true;
            if (e->dev->ops->upload(e->dev, p->s->x, exact, n * 4, &v->err)) return false;
            free(exact);
        }
        if (!one_pass(p, e->mods, steps, cross, false, stream_tap)) return false;
        sc_kv_end(&p->s->memory);
        e->dev->ops->release(e->dev, noise_dev);
        free(noise);
    }
    for (int i = 0; i < 2; i++) sc_prompt_drop(e, prompt[i]);
    free(x0);
    cJSON_Delete(meta);
    return true;
}

/* ---- decode ------------------------------------------------------------------------------------------------------------- */

static void check_frames(pocket *p, int chunk, const float *rgb, int count, int h, int w) {
    char name[64];
    const size_t picture = 3 * (size_t)(h * w);
    for (int f = 0; f < count; f++) {
        snprintf(name, sizeof name, "decode.c%d.frame%d", chunk, f);
        if (sc_vectors_has(p->v, name)) check(p, name, rgb + (size_t)f * picture, picture);
    }
    snprintf(name, sizeof name, "decode.c%d.all_pooled8", chunk);
    if (!sc_vectors_has(p->v, name)) return;
    const int ph = h / 8, pw = w / 8;
    float *pool = calloc((size_t)(count * 3 * ph * pw), sizeof *pool);
    for (int i = 0; i < count * 3; i++)
        for (int y = 0; y < ph; y++)
            for (int x = 0; x < pw; x++) {
                double sum = 0;
                for (int k = 0; k < 64; k++) sum += rgb[((size_t)i * (size_t)h + (size_t)(y * 8 + k / 8)) * (size_t)w + (size_t)(x * 8 + k % 8)];
                pool[(i * ph + y) * pw + x] = (float)(sum / 64);
            }
    check(p, name, pool, (size_t)(count * 3 * ph * pw));
    free(pool);
}

static bool run_decode(pocket *p) {
    sc_engine *e = p->e;
    sc_vectors *v = p->v;
    sc_decoder_state *state = NULL;
    const int h = e->info.height, w = e->info.width;
    const size_t most = (size_t)e->info.frames_chunk * 3 * (size_t)(h * w);
    float *rgb = malloc(most * sizeof *rgb), *rgb_dev;
    int last = -1; /* the last chunk whose frames the file has */
    if (sc_decoder_state_create(e->decoder, &state, &v->err) || e->dev->ops->alloc(e->dev, (void **)&rgb_dev, most * 4, &v->err)) return false;
    for (int i = 0, c; i < sc_tensors_count(v->file); i++)
        if (sscanf(sc_tensors_at(v->file, i)->name, "decode.c%d.", &c) == 1 && c > last && c < 1 << 20) last = c;
    for (int c = 0; c <= last; c++) {
        char name[64];
        int count;
        snprintf(name, sizeof name, "stream.c%d.x0", c);
        float *x0 = sc_vectors_f32_n(v, name, e->latent_count), *dev;
        if (!x0) break;
        dev = sc_vectors_put(v, x0, e->latent_count, false);
        if (e->dev->ops->sync(e->dev, &v->err)) return false; /* the decoder has a queue of its own */
        if (sc_decoder_run(e->decoder, state, dev, e->cfg.chunk_frames, rgb_dev, NULL, &count, &v->err)) return false;
        if (e->decode_dev->ops->sync(e->decode_dev, &v->err)) return false;
        sc_vectors_get(v, rgb, rgb_dev, (size_t)count * 3 * (size_t)(h * w), SC_F32);
        check_frames(p, c, rgb, count, h, w);
        e->dev->ops->release(e->dev, dev);
        free(x0);
    }
    e->dev->ops->release(e->dev, rgb_dev);
    sc_decoder_state_destroy(e->decoder, state);
    free(rgb);
    return true;
}

bool sc_vectors_pocket(sc_vectors *v) {
    const sc_engine_options o = {.model_dir = v->model_dir, .device = v->device, .threads = v->threads, .max_sessions = 1};
    pocket p = {.v = v, .tolerance = sc_vectors_meta(v, "tolerance")};
    bool ok = false;

    if (sc_engine_open(&p.e, &o, &v->err)) goto cleanup;
    if (!p.e->rule.pbsa) { sc_fail(&v->err, SC_EINVAL, "%s: the model in %s has no persistent-block memory", v->path, v->model_dir); goto cleanup; }
    if (sc_session_create(p.e, 0, "", 0, 0, &p.s, &v->err)) goto cleanup;
    /* The engine's device is the one to compute on. */
    sc_device *own = v->dev;
    v->dev = p.e->dev;
    ok = run_tokenizer(&p) && run_text(&p) && run_step(&p) && run_stream(&p) && run_decode(&p);
    v->dev = own;
cleanup:
    sc_session_destroy(p.s);
    sc_engine_close(p.e);
    cJSON_Delete(p.tolerance);
    return ok;
}

/* vectors_dit.c - runners for one transformer layer, the whole transformer, and rollouts with plain windows. */
#include "cli/vectors.h"
#include "engine/devmem.h"
#include "engine/kv_memory.h"
#include "engine/schedule.h"
#include "engine/transformer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_FRAMES = 64, MOST_STEPS = 64 };

static bool shape_of(sc_vectors *v, const cJSON *c, sc_dit_shape *s) {
    const cJSON *patch = cJSON_GetObjectItemCaseSensitive(c, "patch_size");
    *s = (sc_dit_shape){.freq_dim = 256, .in_ch = 16, .out_ch = 16, .patch_h = 2, .patch_w = 2, .eps = sc_vectors_num(c, "eps", 1e-6)};
    const struct { const char *key; int lo, hi; bool optional; int *out; } sizes[] = {
        {"dim", 1, 65536, false, &s->dim},           {"num_heads", 1, 1024, false, &s->heads},     {"ffn_dim", 1, 262144, false, &s->ffn_dim},
        {"num_layers", 1, 256, false, &s->layers},   {"text_dim", 1, 65536, false, &s->text_dim},  {"text_len", 1, 4096, false, &s->text_len},
        {"freq_dim", 2, 65536, true, &s->freq_dim},  {"in_dim", 1, 4096, true, &s->in_ch},         {"out_dim", 1, 4096, true, &s->out_ch}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (sizes[i].optional && !cJSON_HasObjectItem(c, sizes[i].key)) continue;
        if (!sc_vectors_size(v, c, sizes[i].key, sizes[i].lo, sizes[i].hi, sizes[i].out)) return false;
    }
    if (cJSON_GetArraySize(patch) == 3) {
        s->patch_h = cJSON_GetArrayItem(patch, 1)->valueint;
        s->patch_w = cJSON_GetArrayItem(patch, 2)->valueint;
    }
    s->head_dim = s->dim / s->heads;
    if (s->dim % s->heads || s->head_dim % 2 || s->head_dim < 6 || s->head_dim > 2 * SC_MAX_ROPE_PAIRS || s->patch_h < 1 || s->patch_h > 64 || s->patch_w < 1 || s->patch_w > 64 || s->in_ch != s->out_ch) {
        sc_fail(&v->err, SC_EINVAL, "%s: metadata: a transformer of %d in %d heads, patch %dx%d, %d to %d channels is not one that runs here", v->path, s->dim, s->heads, s->patch_h, s->patch_w, s->in_ch, s->out_ch);
        return false;
    }
    return true;
}

/* The file beside this one that has the weights (weights_file), or this one. */
static const sc_tensors *weights(sc_vectors *v, sc_tensors **opened) {
    const char *name = sc_tensors_metadata(v->file, "weights_file"), *slash = strrchr(v->path, '/');
    char path[1200];
    const char *list[1] = {path};
    *opened = NULL;
    if (!name) return v->file;
    snprintf(path, sizeof path, "%.*s%s", slash ? (int)(slash - v->path + 1) : 0, v->path, name);
    if (sc_tensors_open(opened, list, 1, &v->err)) return NULL;
    return *opened;
}

/* A transformer with its layout, one memory and work space. */
typedef struct {
    sc_vectors *v;
    sc_dit *dit;
    sc_layout *layout;
    sc_work *work;
    sc_kv_memory memory;
    sc_pages pages;
    sc_cross cross;
    float *x, *flow, *mods;
    int32_t *row_mod;
    size_t latent;   /* floats of a chunk */
    int frames, ch, h, w;
} bench;

static bool bench_open(bench *b, sc_vectors *v, const sc_tensors *set, const sc_dit_shape *shape, int frames, int h, int w, const sc_kv_rule *rule) {
    const sc_ops *ops = v->dev->ops;
    const int rows = h / shape->patch_h, cols = w / shape->patch_w;
    sc_error *e = &v->err;

    if (frames < 1 || frames > MOST_FRAMES || h < 1 || w < 1 || h % shape->patch_h || w % shape->patch_w || rule->window_frames > 4096) {
        sc_fail(e, SC_EINVAL, "%s: chunks of %d frames of %dx%d, a window of %d: does not fit the model", v->path, frames, h, w, rule->window_frames);
        return false;
    }
    *b = (bench){.v = v, .frames = frames, .ch = shape->in_ch, .h = h, .w = w};
    b->latent = (size_t)shape->in_ch * (size_t)frames * (size_t)(h * w);
    if (sc_dit_load(&b->dit, v->dev, set, "w.", shape, e)) return false;
    if (sc_layout_create(&b->layout, v->dev, frames, rows, cols, NULL, shape->head_dim, -1, e)) return false;
    if (sc_kv_init(&b->memory, v->dev, rule, b->layout, shape->layers, shape->heads, 0, e)) return false;
    b->pages = (sc_pages){.pages = shape->layers * shape->heads * b->memory.slots, .page_rows = b->layout->block_max, .head_dim = shape->head_dim};
    const size_t bytes = (size_t)b->pages.pages * (size_t)(b->pages.page_rows * shape->head_dim) * sc_act_bytes(v->dev), row = sc_dit_mod_row(b->dit);
    return !(ops->alloc(v->dev, &b->pages.k, bytes, e) || ops->alloc(v->dev, &b->pages.v, bytes, e) ||
             ops->alloc(v->dev, (void **)&b->pages.rep_k, (size_t)b->pages.pages * (size_t)shape->head_dim * 4, e) ||
             sc_work_create(&b->work, b->dit, b->layout, 1, b->memory.slots, 0, e) || ops->alloc(v->dev, (void **)&b->x, b->latent * 4, e) ||
             ops->alloc(v->dev, (void **)&b->flow, b->latent * 4, e) || ops->alloc(v->dev, (void **)&b->mods, (size_t)frames * row * 4, e) ||
             ops->alloc(v->dev, (void **)&b->row_mod, (size_t)b->layout->tokens * 4, e));
}

static void bench_close(bench *b) {
    const sc_ops *ops = b->v->dev->ops;
    void *p[] = {b->pages.k, b->pages.v, b->pages.rep_k, b->x, b->flow, b->mods, b->row_mod};
    for (size_t i = 0; i < sizeof p / sizeof *p; i++) ops->release(b->v->dev, p[i]);
    if (b->cross.kv) sc_cross_free(b->dit, &b->cross);
    sc_kv_free(&b->memory);
    sc_work_free(b->work, b->v->dev);
    if (b->layout) sc_layout_free(b->layout, b->v->dev);
    sc_dit_close(b->dit);
}

/* One timestep per latent frame, as the files have it. e [F][D], e0 [F][6D] may be NULL. */
static bool bench_times(bench *b, const double *t, float *e, float *e0) {
    const size_t row = sc_dit_mod_row(b->dit), dim = (size_t)b->dit->shape.dim;
    float *host = malloc(row * sizeof *host);
    int32_t *index = malloc((size_t)b->layout->tokens * sizeof *index);
    bool ok = host && index;
    for (int f = 0; ok && f < b->frames; f++)
        ok = !sc_dit_modulation(b->dit, t[f], host, e ? e + (size_t)f * dim : NULL, e0 ? e0 + (size_t)f * 6 * dim : NULL, &b->v->err) &&
             !b->v->dev->ops->upload(b->v->dev, b->mods + (size_t)f * row, host, row * 4, &b->v->err);
    for (int i = 0; ok && i < b->layout->tokens; i++) index[i] = b->layout->order_host[i] / (b->layout->rows * b->layout->cols);
    ok = ok && !b->v->dev->ops->upload(b->v->dev, b->row_mod, index, (size_t)b->layout->tokens * 4, &b->v->err);
    free(host);
    free(index);
    return ok;
}

static bool bench_pass(bench *b, void (*tap)(void *, sc_tap, int, const sc_work *), void *ctx) {
    sc_pass_args a = {.seqs = 1, .layout = b->layout, .pages = b->pages, .mods = b->mods, .row_mod = b->row_mod, .tap = tap, .tap_ctx = ctx};
    if (sc_kv_begin(&b->memory, &b->v->err)) return false;
    a.view[0] = sc_kv_view_of(&b->memory);
    a.cross[0] = &b->cross;
    a.latent[0] = b->x;
    a.flow[0] = b->flow;
    return !sc_dit_pass(b->dit, b->work, &a, &b->v->err);
}

/* [F][C][h][w] and [C][F][h][w], both ways: the outer two axes change places. */
static void swap_axes(float *out, const float *in, int a, int b, size_t px) {
    for (int i = 0; i < a; i++)
        for (int j = 0; j < b; j++) memcpy(out + ((size_t)j * (size_t)a + (size_t)i) * px, in + ((size_t)i * (size_t)b + (size_t)j) * px, px * sizeof *out);
}

static bool put_latent(bench *b, const float *frames_first) {
    float *host = malloc(b->latent * sizeof *host);
    bool ok;
    swap_axes(host, frames_first, b->frames, b->ch, (size_t)(b->h * b->w));
    ok = !b->v->dev->ops->upload(b->v->dev, b->x, host, b->latent * 4, &b->v->err);
    free(host);
    return ok;
}

static void get_latent(bench *b, const float *dev, float *frames_first) {
    float *host = malloc(b->latent * sizeof *host);
    sc_vectors_get(b->v, host, dev, b->latent, SC_F32);
    swap_axes(frames_first, host, b->ch, b->frames, (size_t)(b->h * b->w));
    free(host);
}

/* ---- dit_model ---------------------------------------------------------------------------------------------------------- */

static void model_tap(void *ctx, sc_tap tap, int layer, const sc_work *w) {
    bench *b = ctx;
    const size_t tokens = (size_t)b->layout->tokens, dim = (size_t)b->dit->shape.dim;
    if (layer || (tap != SC_TAP_X_IN && tap != SC_TAP_OUT)) return;
    float *x = malloc(tokens * dim * sizeof *x), *t = malloc(tokens * dim * sizeof *t);
    sc_vectors_get(b->v, x, w->x, tokens * dim, SC_F32);
    if (tap == SC_TAP_OUT) {
        if (sc_vectors_has(b->v, "out.a.block0")) sc_vectors_check_n(b->v, "out.a.block0", x, tokens * dim);
    } else {
        for (size_t i = 0; i < tokens; i++)
            for (size_t d = 0; d < dim; d++) t[d * tokens + i] = x[i * dim + d];
        if (sc_vectors_has(b->v, "out.a.patch_embedding")) sc_vectors_check_n(b->v, "out.a.patch_embedding", t, tokens * dim);
    }
    free(x);
    free(t);
}

bool sc_vectors_dit_model(sc_vectors *v) {
    sc_dit_shape shape;
    int prompt_len;
    bench b;

    if (!shape_of(v, v->config, &shape) || !sc_vectors_size(v, v->config, "prompt_len", 1, shape.text_len, &prompt_len)) return false;
    const sc_tensor *x_t = sc_vectors_find_rank(v, "in.a.x", 5);
    float *prompt = sc_vectors_f32_n(v, "in.prompt_embeds", (size_t)shape.text_len * (size_t)shape.text_dim);
    if (!x_t || !prompt) return true;
    if (x_t->shape[0] != 1 || x_t->shape[2] != shape.in_ch || x_t->shape[1] > MOST_FRAMES) { sc_fail(&v->err, SC_EINVAL, "%s: in.a.x: not [1, frames, %d, h, w] with at most %d frames", v->path, shape.in_ch, MOST_FRAMES); return false; }
    const int frames = (int)x_t->shape[1], h = (int)x_t->shape[3], w = (int)x_t->shape[4];
    if (!bench_open(&b, v, v->file, &shape, frames, h, w, &(sc_kv_rule){.window_frames = 2 * frames})) return false;
    if (sc_cross_create(b.dit, prompt, prompt_len, true, &b.cross, &v->err)) return false;
    for (const char *pass = "abcd"; *pass; pass++) {
        char name[32];
        float *x, *t, *e = malloc((size_t)frames * (size_t)shape.dim * 7 * sizeof *e), *e0 = e + (size_t)frames * (size_t)shape.dim;
        double time[MOST_FRAMES];
        snprintf(name, sizeof name, "in.%c.x", *pass);
        if (!sc_vectors_has(v, name)) { free(e); continue; }
        x = sc_vectors_f32_n(v, name, b.latent);
        snprintf(name, sizeof name, "in.%c.t", *pass);
        t = sc_vectors_f32_n(v, name, (size_t)frames);
        if (!x || !t) return true;
        for (int f = 0; f < frames; f++) time[f] = t[f];
        if (*pass == 'c') sc_kv_end(&b.memory); /* a and b are the first chunk, c and d the second */
        if (!bench_times(&b, time, e, e0) || !put_latent(&b, x) || !bench_pass(&b, *pass == 'a' ? model_tap : NULL, &b)) return false;
        if (*pass == 'a') {
            float *text = malloc((size_t)shape.text_len * (size_t)shape.dim * sizeof *text);
            if (sc_dit_text(b.dit, prompt, prompt_len, shape.text_len, text, &v->err)) return false;
            const struct { const char *name; const float *got; size_t n; } outs[] = {{"out.a.time_embedding", e, (size_t)frames * (size_t)shape.dim},
                {"out.a.time_projection", e0, (size_t)frames * 6 * (size_t)shape.dim}, {"out.a.text_embedding", text, (size_t)shape.text_len * (size_t)shape.dim}};
            for (int i = 0; i < 3; i++) if (sc_vectors_has(v, outs[i].name)) sc_vectors_check_n(v, outs[i].name, outs[i].got, outs[i].n);
            free(text);
        }
        get_latent(&b, b.flow, x);
        snprintf(name, sizeof name, "out.%c.flow", *pass);
        sc_vectors_check_n(v, name, x, b.latent);
        free(x); free(t); free(e);
    }
    /* The long form of the padding: all rows as keys of their own must give the same flow. */
    if (sc_vectors_has(v, "out.a.flow")) {
        float *x = sc_vectors_f32(v, "in.a.x"), *t = sc_vectors_f32(v, "in.a.t");
        double time[MOST_FRAMES];
        for (int f = 0; f < frames; f++) time[f] = t[f];
        sc_cross_free(b.dit, &b.cross);
        if (sc_cross_create(b.dit, prompt, prompt_len, false, &b.cross, &v->err) || sc_kv_reset(&b.memory, 0, &v->err) || !bench_times(&b, time, NULL, NULL) ||
            !put_latent(&b, x) || !bench_pass(&b, NULL, NULL)) return false;
        get_latent(&b, b.flow, x);
        sc_vectors_check_n(v, "out.a.flow", x, b.latent);
        free(x); free(t);
    }
    free(prompt);
    bench_close(&b);
    return true;
}

/* ---- rollout ------------------------------------------------------------------------------------------------------------ */

bool sc_vectors_rollout(sc_vectors *v) {
    cJSON *roll = sc_vectors_meta(v, "rollout");
    const cJSON *hw = cJSON_GetObjectItemCaseSensitive(roll, "latent_hw"), *steps = cJSON_GetObjectItemCaseSensitive(roll, "denoising_step_list");
    const int n_steps = cJSON_GetArraySize(steps), window = sc_vectors_int(v, roll, "local_attn_size", -1), sink = sc_vectors_int(v, roll, "sink_size", 0);
    int frames, chunks, prompt_len;
    sc_dit_shape shape;
    sc_tensors *opened;
    const sc_tensors *set = weights(v, &opened);
    sc_schedule schedule;
    double t[MOST_STEPS];
    float warped[MOST_STEPS];
    bench b;

    if (!set || !shape_of(v, v->config, &shape) || !sc_vectors_size(v, roll, "chunk_frames", 1, MOST_FRAMES, &frames) || !sc_vectors_size(v, roll, "num_chunks", 1, 1024, &chunks) ||
        !sc_vectors_size(v, roll, "prompt_len", 1, shape.text_len, &prompt_len)) return false;
    if (cJSON_GetArraySize(hw) != 2 || n_steps < 1 || n_steps > MOST_STEPS || sink < 0 || window == 0) { sc_fail(&v->err, SC_EINVAL, "%s: rollout: metadata does not fit", v->path); return false; }
    const sc_kv_rule rule = {.window_frames = window < 0 ? frames * chunks : window, .sink_frames = sink};
    if (!bench_open(&b, v, set, &shape, frames, cJSON_GetArrayItem(hw, 0)->valueint, cJSON_GetArrayItem(hw, 1)->valueint, &rule)) return false;
    const size_t mid = (size_t)(n_steps - 1);
    float *noise = sc_vectors_f32_n(v, "in.noise", b.latent * (size_t)chunks), *prompt = sc_vectors_f32_n(v, "in.prompt_embeds", (size_t)shape.text_len * (size_t)shape.text_dim);
    float *renoise = mid ? sc_vectors_f32_n(v, "in.renoise", b.latent * (size_t)chunks * mid) : NULL;
    const sc_tensor *cache_t = sc_vectors_find_rank(v, "out.cache_frames", 2);
    if (!noise || !prompt || (mid && !renoise) || !cache_t) return true;
    if (sc_cross_create(b.dit, prompt, prompt_len, true, &b.cross, &v->err)) return false;
    sc_schedule_init(&schedule, sc_vectors_num(roll, "shift", 5.0), false);
    for (int i = 0; i < n_steps; i++) warped[i] = (float)(t[i] = sc_schedule_warp(&schedule, cJSON_GetArrayItem(steps, i)->valueint));
    sc_vectors_check_n(v, "out.timesteps", warped, (size_t)n_steps);

    float *x0 = malloc(b.latent * (size_t)chunks * (mid + 1) * sizeof *x0), *latents = malloc(b.latent * (size_t)chunks * sizeof *latents);
    int32_t *cache = malloc((size_t)cache_t->count * sizeof *cache), *evicted = malloc((size_t)(chunks * frames) * sizeof *evicted);
    float *x0_dev, *noise_dev;
    if (v->dev->ops->alloc(v->dev, (void **)&x0_dev, b.latent * 4, &v->err)) return false;
    for (int i = 0; i < chunks * frames; i++) evicted[i] = -1;
    for (int64_t i = 0; i < cache_t->count; i++) cache[i] = -1;
    for (int c = 0; c < chunks; c++) {
        double per_frame[MOST_FRAMES];
        int64_t before[4096];
        const int had = b.memory.frames;
        memcpy(before, b.memory.frame, (size_t)had * sizeof *before);
        if (!put_latent(&b, noise + (size_t)c * b.latent)) return false;
        for (int s = 0; s <= n_steps; s++) { /* the last is the clean pass */
            for (int f = 0; f < frames; f++) per_frame[f] = s < n_steps ? t[s] : 0.0;
            if (!bench_times(&b, per_frame, NULL, NULL) || !bench_pass(&b, NULL, NULL)) return false;
            if (s == n_steps) break;
            const bool last = s == n_steps - 1;
            float *nz = NULL;
            if (!last) {
                nz = malloc(b.latent * sizeof *nz);
                swap_axes(nz, renoise + ((size_t)c * mid + (size_t)s) * b.latent, frames, b.ch, (size_t)(b.h * b.w));
            }
            noise_dev = nz ? sc_vectors_put(v, nz, b.latent, false) : NULL;
            if (v->dev->ops->denoise(v->dev, &(sc_denoise_args){.x = b.x, .flow = b.flow, .noise = noise_dev, .x0 = x0_dev, .count = b.latent,
                                     .sigma = sc_schedule_sigma(&schedule, t[s]), .next_sigma = last ? -1.0 : sc_schedule_sigma(&schedule, t[s + 1])}, &v->err)) return false;
            get_latent(&b, x0_dev, last ? latents + (size_t)c * b.latent : x0 + ((size_t)c * mid + (size_t)s) * b.latent);
            v->dev->ops->release(v->dev, noise_dev);
            free(nz);
        }
        for (int f = 0; f < b.memory.frames && c < (int)cache_t->shape[0] && f < (int)cache_t->shape[1]; f++) cache[c * cache_t->shape[1] + f] = (int32_t)b.memory.frame[f];
        for (int i = 0, out = 0; i < had; i++) {
            bool kept = false;
            for (int f = 0; f < b.memory.frames; f++) kept = kept || b.memory.frame[f] == before[i];
            if (!kept && out < frames) evicted[c * frames + out++] = (int32_t)before[i];
        }
        sc_kv_end(&b.memory);
    }
    if (mid || sc_vectors_has(v, "out.x0_steps")) sc_vectors_check_n(v, "out.x0_steps", x0, b.latent * (size_t)chunks * mid);
    sc_vectors_check_n(v, "out.latents", latents, b.latent * (size_t)chunks);
    sc_vectors_check_ints_n(v, "out.cache_frames", cache, (size_t)chunks * (size_t)cache_t->shape[1]);
    sc_vectors_check_ints_n(v, "out.evicted_frames", evicted, (size_t)(chunks * frames));
    v->dev->ops->release(v->dev, x0_dev);
    free(x0); free(latents); free(cache); free(evicted); free(noise); free(renoise); free(prompt);
    bench_close(&b);
    sc_tensors_close(opened);
    cJSON_Delete(roll);
    return true;
}

/* ---- dit_block ---------------------------------------------------------------------------------------------------------- */

/* Rotates [tokens][heads][d] by `frames` latent frames more: our tables hold the place inside the chunk, the file's are absolute. */
static void turn(float *x, size_t rows, int head_dim, const sc_layout *l, double frames) {
    for (size_t r = 0; r < rows; r++)
        for (int i = 0; i < l->rope.frame_pairs; i++) {
            float *p = x + r * (size_t)head_dim + 2 * i;
            const double c = cos(frames * l->theta[i]), s = sin(frames * l->theta[i]), a = p[0], b = p[1];
            p[0] = (float)(a * c - b * s);
            p[1] = (float)(a * s + b * c);
        }
}

/* A tensor of the device checked and left alone. */
static void look(sc_vectors *v, const char *name, const void *x, size_t n, sc_dtype type) {
    float *host = malloc(n * sizeof *host);
    sc_vectors_get(v, host, x, n, type);
    if (sc_vectors_has(v, name) || !strcmp(name, "out.x")) sc_vectors_check_n(v, name, host, n);
    free(host);
}

/* Fills the cached frames' pages from cache_k, cache_v [rows][heads][d]; layer 0 of the memory is used. */
static bool fill_cache(bench *b, const float *k, const float *val, int cached, int start_frame) {
    const int per = b->layout->rows * b->layout->cols, heads = b->dit->shape.heads, d = b->dit->shape.head_dim, pr = b->pages.page_rows;
    const int blocks_per_frame = b->layout->blocks.blocks / b->frames;
    const size_t page = (size_t)(pr * d);
    sc_kv_memory *m = &b->memory;
    float *pk = calloc((size_t)b->pages.pages * page, sizeof *pk), *pv = calloc((size_t)b->pages.pages * page, sizeof *pv);
    for (int h = 0; h < heads; h++)
        for (int s = 0; s < m->slots; s++) {
            sc_kv_slot *slot = m->host + (size_t)h * (size_t)m->slots + s;
            const int frame = s / blocks_per_frame, start = s % blocks_per_frame * SC_BLOCK_TOKENS_MAX;
            slot->page = h * m->slots + s;
            slot->chunk = frame < cached ? 0 : start_frame;
            slot->block = frame < cached ? s % blocks_per_frame : s - cached * blocks_per_frame;
            for (int t = start; frame < cached && t < per && t < start + SC_BLOCK_TOKENS_MAX; t++) {
                memcpy(pk + (size_t)slot->page * page + (size_t)((t - start) * d), k + (((size_t)frame * (size_t)per + (size_t)t) * (size_t)heads + (size_t)h) * (size_t)d, (size_t)d * 4);
                memcpy(pv + (size_t)slot->page * page + (size_t)((t - start) * d), val + (((size_t)frame * (size_t)per + (size_t)t) * (size_t)heads + (size_t)h) * (size_t)d, (size_t)d * 4);
            }
        }
    b->v->dev->ops->release(b->v->dev, b->pages.k);
    b->v->dev->ops->release(b->v->dev, b->pages.v);
    b->pages.k = sc_vectors_put(b->v, pk, (size_t)b->pages.pages * page, true);
    b->pages.v = sc_vectors_put(b->v, pv, (size_t)b->pages.pages * page, true);
    free(pk);
    free(pv);
    return !b->v->dev->ops->upload(b->v->dev, m->device, m->host, (size_t)(heads * m->slots) * sizeof *m->host, &b->v->err);
}

bool sc_vectors_dit_block(sc_vectors *v) {
    const cJSON *c = v->config, *grid = cJSON_GetObjectItemCaseSensitive(c, "chunk_grid");
    int index = 0, cached, start, context_len;
    sc_tensors *opened;
    const sc_tensors *set = weights(v, &opened);
    cJSON *model = set && sc_tensors_metadata(set, "config") ? cJSON_Parse(sc_tensors_metadata(set, "config")) : NULL;
    bench b;

    if (!set || !sc_vectors_size(v, c, "block_index", 0, 255, &index) || !sc_vectors_size(v, c, "cached_frames", 0, 2048, &cached) ||
        !sc_vectors_size(v, c, "start_frame", 0, 1 << 20, &start) || !sc_vectors_size(v, c, "context_len", 1, 4096, &context_len)) return false;
    if (!model || cJSON_GetArraySize(grid) != 3) { sc_fail(&v->err, SC_EINVAL, "%s: dit_block: metadata does not fit", v->path); return false; }
    sc_dit_shape shape;
    if (!shape_of(v, model, &shape)) return false;
    const int frames = cJSON_GetArrayItem(grid, 0)->valueint, rows = cJSON_GetArrayItem(grid, 1)->valueint, cols = cJSON_GetArrayItem(grid, 2)->valueint;
    if (index >= shape.layers || rows < 1 || rows > 4096 || cols < 1 || cols > 4096) { sc_fail(&v->err, SC_EINVAL, "%s: dit_block: block_index or chunk_grid does not fit", v->path); return false; }
    if (!bench_open(&b, v, set, &shape, frames, rows * shape.patch_h, cols * shape.patch_w, &(sc_kv_rule){.window_frames = cached + frames})) return false;
    const int m = b.layout->tokens, dim = shape.dim, heads = shape.heads, d = shape.head_dim;
    const size_t md = (size_t)m * (size_t)dim;
    const float eps = (float)shape.eps;
    const sc_dit_layer *l = &b.dit->layer[index];
    const sc_ops *ops = v->dev->ops;
    const sc_dtype act = v->dev->act;
    const size_t cache_n = (size_t)cached * (size_t)(rows * cols) * (size_t)dim;
    float *x_host = sc_vectors_f32_n(v, "in.x", md), *e = sc_vectors_f32_n(v, "in.e", (size_t)frames * 6 * (size_t)dim), *context = sc_vectors_f32_n(v, "in.context", (size_t)context_len * (size_t)dim);
    float *ck = sc_vectors_f32_n(v, "in.cache_k", cache_n), *cv = sc_vectors_f32_n(v, "in.cache_v", cache_n);
    if (!x_host || !e || !context || !ck || !cv) return true;
    if (!fill_cache(&b, ck, cv, cached, start)) return false;

    for (int f = 0; f < frames; f++)
        for (int i = 0; i < 6 * dim; i++) e[(size_t)f * 6 * (size_t)dim + (size_t)i] += l->modulation[i];
    float *mods = sc_vectors_put(v, e, (size_t)frames * 6 * (size_t)dim, false), *x = sc_vectors_put(v, x_host, md, false), *f32 = sc_vectors_put(v, x_host, md, false);
    void *ctx = sc_vectors_put(v, context, (size_t)context_len * (size_t)dim, true), *key = sc_vectors_put(v, context, (size_t)context_len * (size_t)dim, true);
    void *val = sc_vectors_put(v, context, (size_t)context_len * (size_t)dim, true);
    int32_t *row = malloc((size_t)m * sizeof *row);
    for (int i = 0; i < m; i++) row[i] = i / (rows * cols);
    if (ops->upload(v->dev, b.row_mod, row, (size_t)m * 4, &v->err)) return false;
    const int64_t now = start;
    if (ops->upload(v->dev, b.memory.now, &now, sizeof now, &v->err)) return false;
    sc_work *w = b.work;
    sc_rope rope = b.layout->rope;
    rope.chunk_frames = 1; /* ages count in frames here: the cached keys carry their absolute frame, so their page's "chunk" is 0 */
    const sc_kv_view view = {.slots = b.memory.device, .slot_stride = b.memory.slots, .window = b.memory.slots, .chunk_now = b.memory.now};
    const sc_layer_norm_args plain = {.x = x, .out = f32, .out_f32 = true, .m = m, .dim = dim, .eps = eps};
    sc_layer_norm_args mod1 = {.x = x, .out = w->norm, .m = m, .dim = dim, .eps = eps, .shift = mods, .scale = mods + dim, .mod_stride = 6 * dim, .row_mod = b.row_mod};
    sc_layer_norm_args mod2 = mod1;
    sc_qkv_args qkv = {.qkv = w->qkv, .qkv_type = w->qkv_type, .seqs = 1, .heads = heads, .head_dim = d, .norm_q = l->norm_q, .norm_k = l->norm_k, .eps = eps,
                       .blocks = b.layout->blocks, .rope = rope, .pages = b.pages, .view = {view}, .q = w->q, .rep_q = w->rep_q};
    const sc_attention_args att = {.seqs = 1, .heads = heads, .head_dim = d, .blocks = b.layout->blocks, .rope = rope, .pages = b.pages, .view = {view}, .q = w->q,
                                   .list_count = {view.window}, .out = w->heads_out};
    mod2.shift = mods + 3 * dim;
    mod2.scale = mods + 4 * dim;
#define DO(call) do { if (call) return false; } while (0)
    DO(ops->layer_norm(v->dev, &plain, &v->err));
    look(v, "out.norm1", f32, md, SC_F32);
    DO(ops->layer_norm(v->dev, &mod1, &v->err));
    look(v, "out.norm1_mod", w->norm, md, act);
    DO(ops->linear(v->dev, &(sc_linear_args){.w = l->qkv, .x = w->norm, .out = w->qkv, .out_type = w->qkv_type, .m = m}, &v->err));
    for (int part = 0; part < 2; part++) {
        DO(ops->rms_norm(v->dev, &(sc_rms_norm_args){.x = (char *)w->qkv + (size_t)(part * dim) * sc_dtype_bytes(w->qkv_type), .x_type = w->qkv_type, .ldx = 3 * dim, .out = f32,
                         .out_type = SC_F32, .m = m, .dim = dim, .eps = eps, .weight = part ? l->norm_k : l->norm_q}, &v->err));
        look(v, part ? "out.k_rms" : "out.q_rms", f32, md, SC_F32);
    }
    float *host = malloc(3 * md * sizeof *host), *packed = malloc(md * sizeof *packed);
    sc_vectors_get(v, host, w->qkv, 3 * md, w->qkv_type);
    for (int i = 0; i < m; i++) memcpy(packed + (size_t)i * (size_t)dim, host + ((size_t)i * 3 + 2) * (size_t)dim, (size_t)dim * 4);
    sc_vectors_check_n(v, "out.v", packed, md);
    DO(ops->qkv(v->dev, &qkv, &v->err));
    sc_vectors_get(v, host, w->q, md, act); /* [heads][tokens][d] */
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < m; i++) memcpy(packed + ((size_t)i * (size_t)heads + (size_t)h) * (size_t)d, host + ((size_t)h * (size_t)m + (size_t)i) * (size_t)d, (size_t)d * 4);
    turn(packed, (size_t)m * (size_t)heads, d, b.layout, start);
    sc_vectors_check_n(v, "out.q_rope", packed, md);
    float *pages = malloc((size_t)b.pages.pages * (size_t)(b.pages.page_rows * d) * sizeof *pages);
    sc_vectors_get(v, pages, b.pages.k, (size_t)b.pages.pages * (size_t)(b.pages.page_rows * d), act);
    const int blocks = b.layout->blocks.blocks;
    for (int h = 0; h < heads; h++)
        for (int blk = 0; blk < blocks; blk++)
            for (int t = b.layout->start_host[blk]; t < b.layout->start_host[blk + 1]; t++)
                memcpy(packed + ((size_t)t * (size_t)heads + (size_t)h) * (size_t)d,
                       pages + ((size_t)(h * b.memory.slots + b.memory.slots - blocks + blk) * (size_t)b.pages.page_rows + (size_t)(t - b.layout->start_host[blk])) * (size_t)d, (size_t)d * 4);
    turn(packed, (size_t)m * (size_t)heads, d, b.layout, start);
    sc_vectors_check_n(v, "out.k_rope", packed, md);
    DO(ops->attention(v->dev, &att, &v->err));
    look(v, "out.self_attn_heads", w->heads_out, md, act);
    DO(ops->linear(v->dev, &(sc_linear_args){.w = l->o, .x = w->heads_out, .out = f32, .out_type = SC_F32, .m = m}, &v->err));
    look(v, "out.self_attn", f32, md, SC_F32);
    DO(ops->linear(v->dev, &(sc_linear_args){.w = l->o, .x = w->heads_out, .out = x, .out_type = SC_F32, .m = m, .epilogue = SC_EPI_GATED_RESIDUAL, .gate = mods + 2 * dim,
                                             .gate_stride = 6 * dim, .row_mod = b.row_mod}, &v->err));
    look(v, "out.x_after_self", x, md, SC_F32);
    DO(ops->layer_norm(v->dev, &(sc_layer_norm_args){.x = x, .out = w->norm, .m = m, .dim = dim, .eps = eps, .weight = l->norm3_w, .bias = l->norm3_b}, &v->err));
    look(v, "out.norm3", w->norm, md, act);
    DO(ops->linear(v->dev, &(sc_linear_args){.w = l->cross_q, .x = w->norm, .out = w->q, .out_type = act, .m = m}, &v->err));
    DO(ops->rms_norm(v->dev, &(sc_rms_norm_args){.x = w->q, .x_type = act, .ldx = dim, .out = w->q, .out_type = act, .m = m, .dim = dim, .eps = eps, .weight = l->cross_norm_q}, &v->err));
    look(v, "out.cross_q_rms", w->q, md, act);
    DO(ops->linear(v->dev, &(sc_linear_args){.w = l->cross_k, .x = ctx, .out = key, .out_type = act, .m = context_len}, &v->err));
    DO(ops->rms_norm(v->dev, &(sc_rms_norm_args){.x = key, .x_type = act, .ldx = dim, .out = key, .out_type = act, .m = context_len, .dim = dim, .eps = eps, .weight = l->cross_norm_k}, &v->err));
    look(v, "out.cross_k_rms", key, (size_t)context_len * (size_t)dim, act);
    DO(ops->linear(v->dev, &(sc_linear_args){.w = l->cross_v, .x = ctx, .out = val, .out_type = act, .m = context_len}, &v->err));
    look(v, "out.cross_v", val, (size_t)context_len * (size_t)dim, act);
    DO(ops->cross_attention(v->dev, &(sc_cross_attention_args){.seqs = 1, .tokens = m, .heads = heads, .head_dim = d, .q = w->q, .k = {key}, .v = {val}, .n = {context_len}, .out = w->heads_out}, &v->err));
    DO(ops->linear(v->dev, &(sc_linear_args){.w = l->cross_o, .x = w->heads_out, .out = f32, .out_type = SC_F32, .m = m}, &v->err));
    look(v, "out.cross_attn", f32, md, SC_F32);
    DO(ops->linear(v->dev, &(sc_linear_args){.w = l->cross_o, .x = w->heads_out, .out = x, .out_type = SC_F32, .m = m, .epilogue = SC_EPI_RESIDUAL}, &v->err));
    look(v, "out.x_after_cross", x, md, SC_F32);
    DO(ops->layer_norm(v->dev, &mod2, &v->err));
    look(v, "out.norm2_mod", w->norm, md, act);
    DO(ops->linear(v->dev, &(sc_linear_args){.w = l->ffn_up, .x = w->norm, .out = w->ffn, .out_type = act, .m = m, .epilogue = SC_EPI_GELU}, &v->err));
    DO(ops->linear(v->dev, &(sc_linear_args){.w = l->ffn_down, .x = w->ffn, .out = f32, .out_type = SC_F32, .m = m}, &v->err));
    look(v, "out.ffn", f32, md, SC_F32);
    DO(ops->linear(v->dev, &(sc_linear_args){.w = l->ffn_down, .x = w->ffn, .out = x, .out_type = SC_F32, .m = m, .epilogue = SC_EPI_GATED_RESIDUAL, .gate = mods + 5 * dim,
                                             .gate_stride = 6 * dim, .row_mod = b.row_mod}, &v->err));
    look(v, "out.x", x, md, SC_F32);
#undef DO
    void *dev[] = {mods, x, f32, ctx, key, val};
    for (size_t i = 0; i < sizeof dev / sizeof *dev; i++) ops->release(v->dev, dev[i]);
    free(pages); free(host); free(packed); free(row); free(x_host); free(e); free(context); free(ck); free(cv);
    bench_close(&b);
    sc_tensors_close(opened);
    cJSON_Delete(model);
    return true;
}

/* vectors_small.c - runners for the scheduler, the text encoder and the TAEHV. */
#include "cli/vectors.h"
#include "engine/devmem.h"
#include "engine/schedule.h"
#include "engine/tae.h"
#include "engine/text_encoder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- scheduler ---------------------------------------------------------------------------------------------------------- */

static void warped(sc_vectors *v, const sc_schedule *s, double shift, const cJSON *list) {
    char name[512];
    float out[SC_SCHEDULE_ENTRIES];
    size_t n = 0, at = (size_t)snprintf(name, sizeof name, "out.shift%g.warped", shift);
    const cJSON *step;
    cJSON_ArrayForEach(step, list) {
        if (at < sizeof name) at += (size_t)snprintf(name + at, sizeof name - at, "_%d", step->valueint);
        if (n < SC_SCHEDULE_ENTRIES && step->valueint >= 0 && step->valueint <= 1000) out[n++] = (float)sc_schedule_warp(s, step->valueint);
    }
    sc_vectors_check_n(v, name, out, n);
}

/* The sampler's operation, one sample at a time because each has its own t. */
static void conversions(sc_vectors *v, const sc_schedule *s, double shift) {
    char name[64];
    const sc_tensor *t = sc_vectors_find(v, "in.x0");
    if (!t || t->rank < 1 || t->count < 1) return;
    const size_t count = (size_t)t->count, n = (size_t)t->shape[0], per = count / n;
    snprintf(name, sizeof name, "in.shift%g.t", shift);
    float *x0 = sc_vectors_f32_n(v, "in.x0", count), *noise = sc_vectors_f32_n(v, "in.noise", count), *flow = sc_vectors_f32_n(v, "in.flow", count);
    float *xt = sc_vectors_f32_n(v, "in.xt", count), *time = sc_vectors_f32_n(v, name, n);
    float *out = malloc((count * 3 + n) * sizeof *out), *added = out + count, *flow_out = added + count, *sigma = flow_out + count;
    int32_t *index = malloc(n * sizeof *index);
    const sc_ops *ops = v->dev->ops;
    if (!x0 || !noise || !flow || !xt || !time || !out || !index) goto cleanup;

    for (size_t i = 0; i < n; i++) {
        const size_t o = i * per;
        index[i] = sc_schedule_nearest(s, time[i]);
        sigma[i] = (float)sc_schedule_sigma(s, time[i]);
        float *x = sc_vectors_put(v, xt + o, per, false), *f = sc_vectors_put(v, flow + o, per, false), *nz = sc_vectors_put(v, noise + o, per, false);
        float *clean = sc_vectors_put(v, x0 + o, per, false), *zero = sc_vectors_put(v, x0 + o, per, false);
        if (ops->denoise(v->dev, &(sc_denoise_args){.x = x, .flow = f, .count = per, .sigma = sigma[i], .next_sigma = -1.0}, &v->err)) break;
        sc_vectors_get(v, out + o, x, per, SC_F32);
        /* sigma 0 leaves x0 alone, then noise is added. */
        if (ops->denoise(v->dev, &(sc_denoise_args){.x = clean, .flow = zero, .noise = nz, .count = per, .sigma = 0.0, .next_sigma = sigma[i]}, &v->err)) break;
        sc_vectors_get(v, added + o, clean, per, SC_F32);
        for (size_t j = 0; j < per; j++) flow_out[o + j] = (float)(((double)xt[o + j] - x0[o + j]) / sigma[i]);
        float *p[] = {x, f, nz, clean, zero};
        for (int j = 0; j < 5; j++) ops->release(v->dev, p[j]);
    }
    const struct { const char *key; const float *got; size_t count; } check[] = {{"sigma_t", sigma, n}, {"x0_from_flow", out, count}, {"add_noise", added, count}, {"flow_from_x0", flow_out, count}};
    for (int j = 0; j < 4; j++) {
        snprintf(name, sizeof name, "out.shift%g.%s", shift, check[j].key);
        sc_vectors_check_n(v, name, check[j].got, check[j].count);
    }
    snprintf(name, sizeof name, "out.shift%g.index", shift);
    sc_vectors_check_ints_n(v, name, index, n);
cleanup:
    free(index);
    free(x0); free(noise); free(flow); free(xt); free(time); free(out);
}

bool sc_vectors_scheduler(sc_vectors *v) {
    const cJSON *shifts = cJSON_GetObjectItemCaseSensitive(v->config, "shifts"), *lists = cJSON_GetObjectItemCaseSensitive(v->config, "warped_lists"), *it, *list;
    cJSON_ArrayForEach(it, shifts) {
        sc_schedule s;
        char name[64];
        sc_schedule_init(&s, it->valuedouble, false);
        snprintf(name, sizeof name, "out.shift%g.sigmas", it->valuedouble);
        sc_vectors_check_n(v, name, s.sigma, SC_SCHEDULE_ENTRIES);
        snprintf(name, sizeof name, "out.shift%g.timesteps", it->valuedouble);
        sc_vectors_check_n(v, name, s.timestep, SC_SCHEDULE_ENTRIES);
        cJSON_ArrayForEach(list, lists) warped(v, &s, it->valuedouble, list);
        conversions(v, &s, it->valuedouble);
    }
    return true;
}

/* ---- text encoder ------------------------------------------------------------------------------------------------------- */

typedef struct { float *block; size_t layer_stride, at, n; } t5_blocks;

static void keep_block(void *ctx, int layer, const float *x) {
    t5_blocks *b = ctx;
    memcpy(b->block + (size_t)layer * b->layer_stride + b->at, x, b->n * sizeof *x);
}

/* relative L2 over the rows of real tokens: padding rows of the reference hold what nobody reads. */
static void check_valid_rows(sc_vectors *v, const char *name, const float *got, const int32_t *mask, size_t rows, size_t dim) {
    float *want = sc_vectors_f32_n(v, name, rows * dim), *mixed;
    if (!want || !(mixed = malloc(rows * dim * sizeof *mixed))) return;
    for (size_t r = 0; r < rows; r++) memcpy(mixed + r * dim, (mask[r] ? got : want) + r * dim, dim * sizeof *mixed);
    sc_vectors_check_n(v, name, mixed, rows * dim);
    free(want);
    free(mixed);
}

bool sc_vectors_t5(sc_vectors *v) {
    const cJSON *c = v->config;
    sc_t5_shape shape;
    const sc_tensor *ids_t = sc_vectors_find_rank(v, "in.ids", 2), *buckets_t = sc_vectors_find(v, "out.buckets");
    if (!ids_t || !buckets_t) return true;
    int32_t *ids = sc_vectors_i32(v, "in.ids"), *mask = sc_vectors_i32_n(v, "in.mask", (size_t)ids_t->count), *bucket;
    sc_t5 *t5;

    if (!ids || !mask) return true;
    if (!sc_vectors_size(v, c, "vocab", 1, 1 << 20, &shape.vocab) || !sc_vectors_size(v, c, "dim", 1, 65536, &shape.dim) ||
        !sc_vectors_size(v, c, "dim_attn", 1, 65536, &shape.dim_attn) || !sc_vectors_size(v, c, "dim_ffn", 1, 262144, &shape.dim_ffn) ||
        !sc_vectors_size(v, c, "num_heads", 1, 1024, &shape.heads) || !sc_vectors_size(v, c, "num_layers", 1, 256, &shape.layers) ||
        !sc_vectors_size(v, c, "num_buckets", 4, 4096, &shape.buckets) || !sc_vectors_size(v, c, "max_dist", 2, 1 << 20, &shape.max_dist)) return false;
    if (shape.buckets % 4 || shape.max_dist <= shape.buckets / 4) { sc_fail(&v->err, SC_EINVAL, "%s: metadata: %d buckets do not go with max_dist %d", v->path, shape.buckets, shape.max_dist); return false; }
    if (shape.dim_attn % shape.heads) { sc_fail(&v->err, SC_EINVAL, "%s: metadata: dim_attn %d is no multiple of num_heads %d", v->path, shape.dim_attn, shape.heads); return false; }
    shape.tokens = ids_t->shape[1] > 0 ? (int)ids_t->shape[1] : 1;
    if (sc_t5_load(&t5, v->dev, v->file, "w.", &shape, &v->err)) return false;
    const size_t n = (size_t)ids_t->shape[0], len = (size_t)ids_t->shape[1], dim = (size_t)shape.dim, total = n * len * dim;
    float *emb = calloc(total, sizeof *emb), *blocks = calloc(total * (size_t)shape.layers, sizeof *blocks);
    for (size_t i = 0; i < n; i++) {
        int real = 0;
        while (real < (int)len && mask[i * len + (size_t)real]) real++;
        t5_blocks tap = {blocks, total, i * len * dim, (size_t)real * dim};
        if (real && sc_t5_encode(t5, ids + i * len, real, emb + i * len * dim, keep_block, &tap, &v->err)) return false;
    }
    for (int l = 0; l < shape.layers; l++) {
        char name[32];
        float *table = malloc((size_t)shape.heads * (2 * len - 1) * sizeof *table), *bias = malloc((size_t)shape.heads * len * len * sizeof *bias);
        sc_t5_bias(t5, l, (int)len, table);
        for (size_t h = 0; h < (size_t)shape.heads; h++)
            for (size_t q = 0; q < len; q++)
                for (size_t k = 0; k < len; k++) bias[(h * len + q) * len + k] = table[h * (2 * len - 1) + k + len - 1 - q];
        snprintf(name, sizeof name, "out.pos_bias%d", l);
        if (sc_vectors_has(v, name)) sc_vectors_check_n(v, name, bias, (size_t)shape.heads * len * len);
        snprintf(name, sizeof name, "out.block%d", l);
        if (sc_vectors_has(v, name)) check_valid_rows(v, name, blocks + (size_t)l * total, mask, n * len, dim);
        free(table);
        free(bias);
    }
    check_valid_rows(v, "out.embeddings", emb, mask, n * len, dim);
    sc_vectors_check_n(v, "out.prompt_embeds", emb, total);
    bucket = malloc((size_t)buckets_t->count * sizeof *bucket);
    for (int i = 0; i < (int)buckets_t->count; i++) bucket[i] = sc_t5_bucket(i - (int)buckets_t->count / 2, shape.buckets, shape.max_dist);
    sc_vectors_check_ints_n(v, "out.buckets", bucket, (size_t)buckets_t->count);
    free(bucket); free(ids); free(mask); free(emb); free(blocks);
    sc_t5_close(t5);
    return true;
}

/* ---- TAEHV -------------------------------------------------------------------------------------------------------------- */

typedef struct { sc_vectors *v; } tae_tap;

/* A device tensor [n][h][w][c] as host [n][c][h][w]. */
static float *planar(sc_vectors *v, const void *x, int n, int h, int w, int c) {
    const size_t px = (size_t)h * (size_t)w, count = (size_t)n * px * (size_t)c;
    float *in = malloc(count * sizeof *in), *out = malloc(count * sizeof *out);
    sc_vectors_get(v, in, x, count, v->dev->act);
    for (size_t f = 0; f < (size_t)n; f++)
        for (size_t p = 0; p < px; p++)
            for (size_t k = 0; k < (size_t)c; k++) out[(f * (size_t)c + k) * px + p] = in[(f * px + p) * (size_t)c + k];
    free(in);
    return out;
}

static void tae_look(void *ctx, int index, const void *x, int n, int h, int w, int c) {
    sc_vectors *v = ((tae_tap *)ctx)->v;
    char name[32];
    snprintf(name, sizeof name, "out.dec.after_%d", index);
    float *got = planar(v, x, n, h, w, c);
    if (sc_vectors_has(v, name)) sc_vectors_check_first(v, name, got, (size_t)n * (size_t)h * (size_t)w * (size_t)c);
    free(got);
}

/* [1][F][C][h][w] to [C][F][h][w]. */
static float *latent_order(const float *z, int frames, int ch, size_t px) {
    float *out = malloc((size_t)frames * (size_t)ch * px * sizeof *out);
    for (size_t f = 0; f < (size_t)frames; f++)
        for (size_t c = 0; c < (size_t)ch; c++) memcpy(out + (c * (size_t)frames + f) * px, z + (f * (size_t)ch + c) * px, px * sizeof *out);
    return out;
}

static bool decode(sc_vectors *v) {
    const sc_tensor *z_t = sc_vectors_find_rank(v, "in.z", 5);
    float *z = z_t ? sc_vectors_f32(v, "in.z") : NULL;
    int patch = 1;
    if (!z) return true;
    if (z_t->shape[0] != 1) { sc_fail(&v->err, SC_EINVAL, "%s: in.z: a batch of %lld, only 1 is run", v->path, (long long)z_t->shape[0]); return false; }
    if (cJSON_HasObjectItem(v->config, "patch_size") && !sc_vectors_size(v, v->config, "patch_size", 1, 16, &patch)) return false;
    const int frames = (int)z_t->shape[1], ch = (int)z_t->shape[2], h = (int)z_t->shape[3], w = (int)z_t->shape[4];
    const size_t px = (size_t)h * (size_t)w;
    sc_tae_shape shape = sc_tae_published(ch, patch, h, w, frames);
    const cJSON *time = cJSON_GetObjectItemCaseSensitive(v->config, "decoder_time_upscale"), *space = cJSON_GetObjectItemCaseSensitive(v->config, "decoder_space_upscale");
    for (int i = 0; i < SC_TAE_LEVELS; i++) {
        if (cJSON_GetArrayItem(time, i)) shape.time[i] = cJSON_IsTrue(cJSON_GetArrayItem(time, i)) ? 2 : 1;
        if (cJSON_GetArrayItem(space, i)) shape.space[i] = cJSON_IsTrue(cJSON_GetArrayItem(space, i)) ? 2 : 1;
    }
    const sc_ops *ops = v->dev->ops;
    sc_tae *tae;
    sc_tae_state state = {0};
    if (sc_tae_load(&tae, v->dev, v->file, "w.", &shape, &v->err) || sc_tae_state_init(tae, &state, &v->err)) return false;

    const int startup = sc_tae_startup(tae), scale = sc_tae_scale(tae);
    const size_t picture = 3 * px * (size_t)(scale * scale), all = picture * (size_t)(frames * sc_tae_time_scale(tae));
    float *latent = latent_order(z, frames, ch, px), *host = malloc(all * sizeof *host), *pixels;
    float *dev_latent = sc_vectors_put(v, latent, (size_t)z_t->count, false), *dev_one;
    void *soft = NULL;
    int count;
    if (ops->alloc(v->dev, (void **)&pixels, all * 4, &v->err) || ops->alloc(v->dev, &soft, (size_t)z_t->count * 4, &v->err)) return false;
    if (ops->latent_in(v->dev, &(sc_latent_in_args){.latent = dev_latent, .out = soft, .ch = ch, .frames = frames, .h = h, .w = w}, &v->err)) return false;
    float *clamped = planar(v, soft, frames, h, w, ch);
    sc_vectors_check_n(v, "out.dec.clamped_latent", clamped, (size_t)z_t->count);
    /* all at once, before trimming and clamping */
    if (sc_tae_decode(tae, &state, dev_latent, frames, true, false, pixels, NULL, &count, tae_look, &(tae_tap){v}, &v->err)) return false;
    sc_vectors_get(v, host, pixels, all, SC_F32);
    sc_vectors_check_first(v, "out.dec.raw", host, all);
    /* latent by latent, as a stream: the same frames, start-up dropped, clamped */
    int32_t *per = malloc((size_t)frames * sizeof *per);
    size_t made = 0;
    if (sc_tae_state_init(tae, &state, &v->err)) return false;
    for (int f = 0; f < frames; f++) {
        float *one = latent_order(z + (size_t)f * (size_t)ch * px, 1, ch, px);
        dev_one = sc_vectors_put(v, one, (size_t)ch * px, false);
        if (sc_tae_decode(tae, &state, dev_one, 1, false, true, pixels, NULL, &count, NULL, NULL, &v->err)) return false;
        per[f] = count;
        sc_vectors_get(v, host + made * picture, pixels, (size_t)count * picture, SC_F32);
        made += (size_t)count;
        ops->release(v->dev, dev_one);
        free(one);
    }
    if (made != all / picture - (size_t)startup) v->failed++;
    sc_vectors_check_ints_n(v, "out.dec.frames_per_latent", per, (size_t)frames);
    sc_vectors_check_first(v, "out.dec.decoded", host, made * picture);
    ops->release(v->dev, pixels);
    ops->release(v->dev, dev_latent);
    ops->release(v->dev, soft);
    free(per); free(clamped); free(latent); free(host); free(z);
    sc_tae_state_free(tae, &state);
    sc_tae_close(tae);
    return true;
}

/* One convolution of the encoder, allocated as it goes: [n][h][w][in] to [n][oh][ow][out]. NULL, also for x NULL: v->err says why. */
static void *enc_conv(sc_vectors *v, const char *name, bool bias, int stride, bool pool, bool past, const void *x, const void *residual, bool relu, int *n, int *h, int *w, int *c) {
    char full[96];
    const sc_ops *ops = v->dev->ops;
    const sc_tensor *wt, *b = NULL;
    sc_filter *f;
    void *out, *zeros = NULL;

    if (!x) return NULL;
    snprintf(full, sizeof full, "w.encoder.%s.weight", name);
    if (sc_tensors_need(v->file, full, 4, (const int64_t[]){-1, pool ? -1 : *c * (past ? 2 : 1), -1, -1}, &wt, &v->err)) return NULL;
    snprintf(full, sizeof full, "w.encoder.%s.bias", name);
    if (bias && sc_tensors_need(v->file, full, 1, (const int64_t[]){wt->shape[0]}, &b, &v->err)) return NULL;
    if (wt->shape[0] < 1 || wt->shape[1] < 1 || wt->shape[1] % *c || (pool && *n % (int)(wt->shape[1] / *c)) || (wt->shape[2] != 1 && wt->shape[2] != 3) || wt->shape[3] != wt->shape[2] ||
        (residual && wt->shape[0] != *c)) {
        sc_fail(&v->err, SC_EINVAL, "%s: tensor w.encoder.%s.weight has a shape that does not fit", v->path, name);
        return NULL;
    }
    const int oc = (int)wt->shape[0], ic = (int)wt->shape[1], s = pool ? ic / *c : 1, oh = (*h + stride - 1) / stride, ow = (*w + stride - 1) / stride;
    if (ops->filter_create(v->dev, &f, &(sc_filter_desc){.out_ch = oc, .in_ch = ic, .size = (int)wt->shape[2], .stride = stride, .has_past = past, .data = wt->data,
                           .type = wt->dtype, .bias = b ? b->data : NULL, .bias_type = b ? b->dtype : SC_F32}, &v->err) ||
        ops->alloc(v->dev, &out, (size_t)(*n / s) * (size_t)(oh * ow) * (size_t)oc * 4, &v->err) ||
        ops->alloc(v->dev, &zeros, (size_t)(*h * *w * *c) * 4, &v->err)) return NULL;
    sc_status rc = pool ? ops->pool(v->dev, &(sc_pool_args){.w = f, .x = x, .out = out, .n = *n / s, .h = *h, .w_px = *w, .s = s}, &v->err)
                        : ops->conv(v->dev, &(sc_conv_args){.w = f, .x = x, .past = past ? zeros : NULL, .residual = residual, .out = out, .n = *n, .h = *h, .w_px = *w, .relu = relu}, &v->err);
    if (rc || ops->sync(v->dev, &v->err)) return NULL;
    ops->filter_destroy(v->dev, f);
    ops->release(v->dev, zeros);
    *n /= s;
    *h = oh;
    *w = ow;
    *c = oc;
    return out;
}

static void *enc_block(sc_vectors *v, int index, void *x, int *n, int *h, int *w, int *c) {
    char name[3][32];
    const int width = *c;
    for (int i = 0; i < 3; i++) snprintf(name[i], sizeof name[i], "%d.conv.%d", index, 2 * i);
    void *a = enc_conv(v, name[0], true, 1, false, true, x, NULL, true, n, h, w, c), *b = enc_conv(v, name[1], true, 1, false, false, a, NULL, true, n, h, w, c);
    if (b && *c != width) { sc_fail(&v->err, SC_EINVAL, "%s: encoder.%s: %d channels come out of a block of %d", v->path, name[1], *c, width); return NULL; }
    void *out = enc_conv(v, name[2], true, 1, false, false, b, x, true, n, h, w, c);
    v->dev->ops->release(v->dev, a);
    v->dev->ops->release(v->dev, b);
    v->dev->ops->release(v->dev, x);
    return out;
}

/* conv, relu, then per level: pool in time, conv with stride 2, three memory blocks; a last conv. The end is padded with copies. */
static bool encode(sc_vectors *v) {
    const sc_tensor *t = sc_vectors_find_rank(v, "in.clip", 5);
    float *clip = t ? sc_vectors_f32(v, "in.clip") : NULL;
    int patch = 1;
    if (!clip) return true;
    if (t->shape[0] != 1) { sc_fail(&v->err, SC_EINVAL, "%s: in.clip: a batch of %lld, only 1 is run", v->path, (long long)t->shape[0]); return false; }
    if (cJSON_HasObjectItem(v->config, "patch_size") && !sc_vectors_size(v, v->config, "patch_size", 1, 16, &patch)) return false;
    const int given = (int)t->shape[1], colours = (int)t->shape[2], wide = (int)t->shape[4];
    int n = (given + 3) / 4 * 4, c = colours * patch * patch, h = (int)t->shape[3] / patch, w = wide / patch;
    const size_t px = (size_t)h * (size_t)w;
    float *in = malloc((size_t)n * px * (size_t)c * sizeof *in);
    for (int f = 0; f < n; f++) /* the last frame again; patch x patch pixels side by side become channels (colour, row, column) */
        for (size_t p = 0; p < px; p++)
            for (int k = 0; k < c; k++) {
                const int colour = k / (patch * patch), y = (int)(p / (size_t)w) * patch + k / patch % patch, x = (int)(p % (size_t)w) * patch + k % patch;
                in[((size_t)f * px + p) * (size_t)c + (size_t)k] = clip[(((size_t)(f < given ? f : given - 1) * (size_t)colours + (size_t)colour) * (size_t)t->shape[3] + (size_t)y) * (size_t)wide + (size_t)x];
            }
    void *x = sc_vectors_put(v, in, (size_t)n * px * (size_t)c, true), *y = enc_conv(v, "0", true, 1, false, false, x, NULL, true, &n, &h, &w, &c);
    v->dev->ops->release(v->dev, x);
    for (int level = 0; level < 3; level++) {
        char name[16];
        snprintf(name, sizeof name, "%d.conv", 2 + 5 * level);
        x = enc_conv(v, name, false, 1, true, false, y, NULL, false, &n, &h, &w, &c);
        v->dev->ops->release(v->dev, y);
        snprintf(name, sizeof name, "%d", 3 + 5 * level);
        y = enc_conv(v, name, false, 2, false, false, x, NULL, false, &n, &h, &w, &c);
        v->dev->ops->release(v->dev, x);
        for (int b = 0; b < 3; b++) y = enc_block(v, 4 + 5 * level + b, y, &n, &h, &w, &c);
    }
    x = enc_conv(v, "17", true, 1, false, false, y, NULL, false, &n, &h, &w, &c);
    if (!x) return false;
    float *got = planar(v, x, n, h, w, c);
    sc_vectors_check_n(v, "out.enc.latents", got, (size_t)n * (size_t)h * (size_t)w * (size_t)c);
    v->dev->ops->release(v->dev, x);
    v->dev->ops->release(v->dev, y);
    free(got); free(in); free(clip);
    return true;
}

bool sc_vectors_taehv(sc_vectors *v) { return decode(v) && (!sc_vectors_has(v, "in.clip") || encode(v)); }

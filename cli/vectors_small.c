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
    char name[128];
    float out[SC_SCHEDULE_ENTRIES];
    int n = 0, at = snprintf(name, sizeof name, "out.shift%g.warped", shift);
    const cJSON *step;
    cJSON_ArrayForEach(step, list) {
        at += snprintf(name + at, sizeof name - (size_t)at, "_%d", step->valueint);
        if (n < SC_SCHEDULE_ENTRIES && step->valueint >= 0 && step->valueint <= 1000 && at < 100) out[n++] = (float)sc_schedule_warp(s, step->valueint);
    }
    sc_vectors_check(v, name, out);
}

/* The sampler's operation, one sample at a time because each has its own t. */
static void conversions(sc_vectors *v, const sc_schedule *s, double shift) {
    char name[64];
    const sc_tensor *t = sc_vectors_find(v, "in.x0");
    snprintf(name, sizeof name, "in.shift%g.t", shift);
    float *x0 = sc_vectors_f32(v, "in.x0"), *noise = sc_vectors_f32(v, "in.noise"), *flow = sc_vectors_f32(v, "in.flow"), *xt = sc_vectors_f32(v, "in.xt");
    float *time = sc_vectors_f32(v, name);
    if (!t || !x0 || !noise || !flow || !xt || !time) return;
    const size_t n = (size_t)t->shape[0], per = (size_t)t->count / n;
    float *out = malloc((size_t)t->count * 3 * sizeof *out), *added = out + t->count, *flow_out = added + t->count, sigma[64];
    int32_t index[64];
    const sc_ops *ops = v->dev->ops;

    for (size_t i = 0; i < n && i < 64; i++) {
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
    const struct { const char *key; const float *got; } check[] = {{"sigma_t", sigma}, {"x0_from_flow", out}, {"add_noise", added}, {"flow_from_x0", flow_out}};
    for (int j = 0; j < 4; j++) {
        snprintf(name, sizeof name, "out.shift%g.%s", shift, check[j].key);
        sc_vectors_check(v, name, check[j].got);
    }
    snprintf(name, sizeof name, "out.shift%g.index", shift);
    sc_vectors_check_ints(v, name, index);
    free(x0); free(noise); free(flow); free(xt); free(time); free(out);
}

bool sc_vectors_scheduler(sc_vectors *v) {
    const cJSON *shifts = cJSON_GetObjectItemCaseSensitive(v->config, "shifts"), *lists = cJSON_GetObjectItemCaseSensitive(v->config, "warped_lists"), *it, *list;
    cJSON_ArrayForEach(it, shifts) {
        sc_schedule s;
        char name[64];
        sc_schedule_init(&s, it->valuedouble, false);
        snprintf(name, sizeof name, "out.shift%g.sigmas", it->valuedouble);
        sc_vectors_check(v, name, s.sigma);
        snprintf(name, sizeof name, "out.shift%g.timesteps", it->valuedouble);
        sc_vectors_check(v, name, s.timestep);
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
    const sc_tensor *t = sc_vectors_find(v, name);
    float *want = t ? sc_tensor_to_f32(t) : NULL, *mixed;
    if (!want || !(mixed = malloc((size_t)t->count * sizeof *mixed))) return;
    for (size_t r = 0; r < rows; r++) memcpy(mixed + r * dim, (mask[r] ? got : want) + r * dim, dim * sizeof *mixed);
    sc_vectors_check(v, name, mixed);
    free(want);
    free(mixed);
}

bool sc_vectors_t5(sc_vectors *v) {
    const cJSON *c = v->config;
    const sc_t5_shape shape = {.vocab = sc_vectors_int(v, c, "vocab", 0), .dim = sc_vectors_int(v, c, "dim", 0), .dim_attn = sc_vectors_int(v, c, "dim_attn", 0),
                               .dim_ffn = sc_vectors_int(v, c, "dim_ffn", 0), .heads = sc_vectors_int(v, c, "num_heads", 0), .layers = sc_vectors_int(v, c, "num_layers", 0),
                               .buckets = sc_vectors_int(v, c, "num_buckets", 32), .max_dist = sc_vectors_int(v, c, "max_dist", 128)};
    const sc_tensor *ids_t = sc_vectors_find(v, "in.ids"), *buckets_t = sc_vectors_find(v, "out.buckets");
    int32_t *ids = sc_vectors_i32(v, "in.ids"), *mask = sc_vectors_i32(v, "in.mask"), *bucket;
    sc_t5 *t5;

    if (!ids || !mask || !ids_t || !buckets_t) return true;
    if (sc_t5_load(&t5, v->dev, v->file, "w.", &shape, &v->err)) return false;
    const size_t n = (size_t)ids_t->shape[0], len = (size_t)ids_t->shape[1], dim = (size_t)shape.dim, total = n * len * dim;
    float *emb = calloc(total, sizeof *emb), *blocks = calloc(total * (size_t)shape.layers, sizeof *blocks);
    for (size_t i = 0; i < n; i++) {
        int real = 0;
        while (real < (int)len && mask[i * len + (size_t)real]) real++;
        t5_blocks tap = {blocks, total, i * len * dim, (size_t)real * dim};
        if (sc_t5_encode(t5, ids + i * len, real, emb + i * len * dim, keep_block, &tap, &v->err)) return false;
    }
    for (int l = 0; l < shape.layers; l++) {
        char name[32];
        float *table = malloc((size_t)shape.heads * (2 * len - 1) * sizeof *table), *bias = malloc((size_t)shape.heads * len * len * sizeof *bias);
        sc_t5_bias(t5, l, (int)len, table);
        for (size_t h = 0; h < (size_t)shape.heads; h++)
            for (size_t q = 0; q < len; q++)
                for (size_t k = 0; k < len; k++) bias[(h * len + q) * len + k] = table[h * (2 * len - 1) + k + len - 1 - q];
        snprintf(name, sizeof name, "out.pos_bias%d", l);
        sc_vectors_check(v, name, bias);
        snprintf(name, sizeof name, "out.block%d", l);
        check_valid_rows(v, name, blocks + (size_t)l * total, mask, n * len, dim);
        free(table);
        free(bias);
    }
    check_valid_rows(v, "out.embeddings", emb, mask, n * len, dim);
    sc_vectors_check(v, "out.prompt_embeds", emb);
    bucket = malloc((size_t)buckets_t->count * sizeof *bucket);
    for (int i = 0; i < (int)buckets_t->count; i++) bucket[i] = sc_t5_bucket(i - (int)buckets_t->count / 2, shape.buckets, shape.max_dist);
    sc_vectors_check_ints(v, "out.buckets", bucket);
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
    if (sc_vectors_has(v, name)) sc_vectors_check(v, name, got); /* the file may hold the first frames only */
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
    const sc_tensor *z_t = sc_vectors_find(v, "in.z"), *raw_t = sc_vectors_find(v, "out.dec.raw");
    float *z = sc_vectors_f32(v, "in.z");
    if (!z || !raw_t) return true;
    const int frames = (int)z_t->shape[1], ch = (int)z_t->shape[2], h = (int)z_t->shape[3], w = (int)z_t->shape[4];
    const size_t px = (size_t)h * (size_t)w;
    sc_tae_shape shape = sc_tae_published(ch, sc_vectors_int(v, v->config, "patch_size", 1), h, w, frames);
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
    const size_t picture = 3 * px * (size_t)(scale * scale), all = (size_t)raw_t->count;
    float *latent = latent_order(z, frames, ch, px), *host = malloc(all * sizeof *host), *pixels;
    float *dev_latent = sc_vectors_put(v, latent, (size_t)z_t->count, false), *dev_one;
    void *soft = NULL;
    int count;
    if (ops->alloc(v->dev, (void **)&pixels, all * 4, &v->err) || ops->alloc(v->dev, &soft, (size_t)z_t->count * 4, &v->err)) return false;
    if (ops->latent_in(v->dev, &(sc_latent_in_args){.latent = dev_latent, .out = soft, .ch = ch, .frames = frames, .h = h, .w = w}, &v->err)) return false;
    float *clamped = planar(v, soft, frames, h, w, ch);
    sc_vectors_check(v, "out.dec.clamped_latent", clamped);
    /* all at once, before trimming and clamping */
    if (sc_tae_decode(tae, &state, dev_latent, frames, true, false, pixels, NULL, &count, tae_look, &(tae_tap){v}, &v->err)) return false;
    sc_vectors_get(v, host, pixels, all, SC_F32);
    sc_vectors_check(v, "out.dec.raw", host);
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
    sc_vectors_check_ints(v, "out.dec.frames_per_latent", per);
    sc_vectors_check(v, "out.dec.decoded", host);
    ops->release(v->dev, pixels);
    ops->release(v->dev, dev_latent);
    ops->release(v->dev, soft);
    free(per); free(clamped); free(latent); free(host); free(z);
    sc_tae_state_free(tae, &state);
    sc_tae_close(tae);
    return true;
}

/* One convolution of the encoder, allocated as it goes: [n][h][w][in] to [n][oh][ow][out]. */
static void *enc_conv(sc_vectors *v, const char *name, bool bias, int stride, bool pool, bool past, const void *x, const void *residual, bool relu, int *n, int *h, int *w, int *c) {
    char full[96];
    const sc_ops *ops = v->dev->ops;
    const sc_tensor *wt, *b = NULL;
    sc_filter *f;
    void *out, *zeros = NULL;

    snprintf(full, sizeof full, "w.encoder.%s.weight", name);
    if (!(wt = sc_vectors_find(v, full))) exit(2);
    snprintf(full, sizeof full, "w.encoder.%s.bias", name);
    if (bias && !(b = sc_vectors_find(v, full))) exit(2);
    const int oc = (int)wt->shape[0], ic = (int)wt->shape[1], s = pool ? ic / *c : 1, oh = (*h + stride - 1) / stride, ow = (*w + stride - 1) / stride;
    if (ops->filter_create(v->dev, &f, &(sc_filter_desc){.out_ch = oc, .in_ch = ic, .size = (int)wt->shape[2], .stride = stride, .has_past = past, .data = wt->data,
                           .type = wt->dtype, .bias = b ? b->data : NULL, .bias_type = b ? b->dtype : SC_F32}, &v->err) ||
        ops->alloc(v->dev, &out, (size_t)(*n / s) * (size_t)(oh * ow) * (size_t)oc * 4, &v->err) ||
        ops->alloc(v->dev, &zeros, (size_t)(*h * *w * *c) * 4, &v->err)) exit(70);
    sc_status rc = pool ? ops->pool(v->dev, &(sc_pool_args){.w = f, .x = x, .out = out, .n = *n / s, .h = *h, .w_px = *w, .s = s}, &v->err)
                        : ops->conv(v->dev, &(sc_conv_args){.w = f, .x = x, .past = past ? zeros : NULL, .residual = residual, .out = out, .n = *n, .h = *h, .w_px = *w, .relu = relu}, &v->err);
    if (rc || ops->sync(v->dev, &v->err)) exit(70);
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
    for (int i = 0; i < 3; i++) snprintf(name[i], sizeof name[i], "%d.conv.%d", index, 2 * i);
    void *a = enc_conv(v, name[0], true, 1, false, true, x, NULL, true, n, h, w, c), *b = enc_conv(v, name[1], true, 1, false, false, a, NULL, true, n, h, w, c);
    void *out = enc_conv(v, name[2], true, 1, false, false, b, x, true, n, h, w, c);
    v->dev->ops->release(v->dev, a);
    v->dev->ops->release(v->dev, b);
    v->dev->ops->release(v->dev, x);
    return out;
}

/* conv, relu, then per level: pool in time, conv with stride 2, three memory blocks; a last conv. The end is padded with copies. */
static bool encode(sc_vectors *v) {
    const sc_tensor *t = sc_vectors_find(v, "in.clip");
    float *clip = sc_vectors_f32(v, "in.clip");
    if (!clip) return true;
    int n = (int)t->shape[1], c = (int)t->shape[2], h = (int)t->shape[3], w = (int)t->shape[4];
    const int padded = (n + 3) / 4 * 4;
    const size_t px = (size_t)h * (size_t)w;
    float *in = malloc((size_t)padded * px * (size_t)c * sizeof *in);
    for (int f = 0; f < padded; f++)
        for (size_t p = 0; p < px; p++)
            for (int k = 0; k < c; k++) in[((size_t)f * px + p) * (size_t)c + (size_t)k] = clip[((size_t)(f < n ? f : n - 1) * (size_t)c + (size_t)k) * px + p];
    n = padded;
    void *x = sc_vectors_put(v, in, (size_t)padded * px * (size_t)c, true), *y = enc_conv(v, "0", true, 1, false, false, x, NULL, true, &n, &h, &w, &c);
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
    float *got = planar(v, x, n, h, w, c);
    sc_vectors_check(v, "out.enc.latents", got);
    v->dev->ops->release(v->dev, x);
    v->dev->ops->release(v->dev, y);
    free(got); free(in); free(clip);
    return true;
}

bool sc_vectors_taehv(sc_vectors *v) { return decode(v) && (!sc_vectors_has(v, "in.clip") || encode(v)); }

/* vae_layers.c - see vae_layers.h.
 *
 * Each layer is loaded where it stands in the order of the data, so the width that arrives is known and every shape in the file can be
 * demanded exactly; the same walk finds the largest tensor and the sizes of the caches. Running follows the loading call for call. */
#include "engine/vae_layers.h"
#include "engine/devmem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call) do { if ((rc = (call))) goto cleanup; } while (0)

sc_status sc_vae_check_device(const sc_device *dev, sc_error *err) {
    const sc_ops *ops = dev->ops;
    const char *lacks = !ops->conv3 ? "conv3" : !ops->channel_norm ? "channel_norm" : !ops->frame_attention ? "frame_attention" : !ops->planes_in ? "planes_in" : NULL;
    if (!lacks) return SC_OK;
    return sc_fail(err, SC_EINVAL, "Wan VAE: not on this device (%s has no operation %s); another device or a TAEHV decoder does it", dev->name, lacks);
}

sc_status sc_vae_check_shape(const sc_vae_shape *s, sc_error *err) {
    if (s->z < 1 || s->z > SC_VAE_CHANNELS_MAX) return sc_fail(err, SC_EINVAL, "Wan VAE: %d latent channels are not in 1..%d", s->z, SC_VAE_CHANNELS_MAX);
    if (s->levels < 2 || s->levels > SC_VAE_LEVELS) return sc_fail(err, SC_EINVAL, "Wan VAE: %d levels are not in 2..%d", s->levels, SC_VAE_LEVELS);
    if (s->dim < 1 || s->dim > 2048 || s->blocks < 1 || s->blocks > 8 || s->latent_h < 1 || s->latent_w < 1 || s->latent_h > 4096 || s->latent_w > 4096)
        return sc_fail(err, SC_EINVAL, "Wan VAE: dim %d, %d blocks, latents of %d x %d: a size out of range", s->dim, s->blocks, s->latent_h, s->latent_w);
    for (int i = 0; i < s->levels; i++) {
        if (s->mult[i] < 1 || s->mult[i] > 16) return sc_fail(err, SC_EINVAL, "Wan VAE: multiplier %d of level %d is not in 1..16", s->mult[i], i);
        if (i && s->dim * s->mult[i] % 2) return sc_fail(err, SC_EINVAL, "Wan VAE: level %d has %d channels, an odd number cannot be halved", i, s->dim * s->mult[i]);
    }
    return SC_OK;
}

/* ---- loading ------------------------------------------------------------------------------------------------------------ */

/* A tensor of this size occurs in the longest call. */
static void occurs(sc_vae_net *t, int n, int h, int w, int ch) {
    const size_t bytes = (size_t)n * (size_t)h * (size_t)w * (size_t)ch * sc_act_bytes(t->dev);
    if (bytes > t->most) t->most = bytes;
}

/* Index of a new cache of two frames. */
static sc_status new_cache(sc_vae_net *t, int h, int w, int ch, int *index, sc_error *err) {
    if (t->caches == t->cache_room) {
        const int room = t->cache_room ? 2 * t->cache_room : 32;
        size_t *grown = realloc(t->cache_bytes, (size_t)room * sizeof *grown);
        if (!grown) return sc_fail(err, SC_ENOMEM, "Wan VAE: out of memory");
        t->cache_bytes = grown;
        t->cache_room = room;
    }
    t->cache_bytes[t->caches] = 2 * (size_t)h * (size_t)w * (size_t)ch * sc_act_bytes(t->dev);
    *index = t->caches++;
    return SC_OK;
}

/* Filter NAME.weight [out][in]([taps])[size][size] (rank 5 or 4) with its bias. `desc` says the rest. */
static sc_status load_filter(const sc_vae_net *t, const char *name, int rank, sc_filter_desc desc, sc_filter **out, sc_error *err) {
    const int64_t three[5] = {desc.out_ch, desc.in_ch, desc.taps ? desc.taps : 1, desc.size, desc.size}, two[4] = {desc.out_ch, desc.in_ch, desc.size, desc.size};
    const sc_tensor *w, *b;
    char full[256];
    sc_status rc;

    snprintf(full, sizeof full, "%s%s.weight", t->prefix, name);
    if ((rc = sc_tensors_need(t->set, full, rank, rank == 5 ? three : two, &w, err))) return rc;
    snprintf(full, sizeof full, "%s%s.bias", t->prefix, name);
    if ((rc = sc_tensors_need(t->set, full, 1, (const int64_t[]){desc.out_ch}, &b, err))) return rc;
    desc.data = w->data;
    desc.type = w->dtype;
    desc.bias = b->data;
    desc.bias_type = b->dtype;
    if ((rc = t->dev->ops->filter_create(t->dev, out, &desc, err))) return rc;
    sc_tensors_used(t->set, w, true);
    sc_tensors_used(t->set, b, true);
    return SC_OK;
}

sc_status sc_vae_net_conv(sc_vae_net *t, const char *name, int out, int taps, int size, sc_vae_conv *conv, sc_error *err) {
    sc_status rc;

    conv->cache = -1;
    if (taps > 1 && (rc = new_cache(t, t->h, t->w, t->ch, &conv->cache, err))) return rc;
    rc = load_filter(t, name, 5, (sc_filter_desc){.out_ch = out, .in_ch = t->ch, .size = size, .stride = 1, .taps = taps > 1 ? taps : 0}, &conv->w, err);
    occurs(t, t->n, t->h, t->w, t->ch);
    occurs(t, t->n, t->h, t->w, out);
    t->ch = out;
    return rc;
}

sc_status sc_vae_net_gamma(sc_vae_net *t, const char *name, float **gamma, sc_error *err) {
    return sc_load_f32(t->dev, t->set, t->prefix, name, t->ch, gamma, err);
}

static sc_status new_layer(sc_vae_net *t, sc_vae_kind kind, int out, sc_vae_layer **layer, sc_error *err) {
    if (t->layers == t->room) {
        const int room = t->room ? 2 * t->room : 32;
        sc_vae_layer *grown = realloc(t->layer, (size_t)room * sizeof *grown);
        if (!grown) return sc_fail(err, SC_ENOMEM, "Wan VAE: out of memory");
        t->layer = grown;
        t->room = room;
    }
    *layer = &t->layer[t->layers++];
    **layer = (sc_vae_layer){.kind = kind, .in = t->ch, .out = out, .conv = {{NULL, -1}, {NULL, -1}, {NULL, -1}}};
    return SC_OK;
}

sc_status sc_vae_net_residual(sc_vae_net *t, const char *name, int out, sc_error *err) {
    char full[192];
    sc_vae_layer *l = NULL;
    sc_status rc;

    TRY(new_layer(t, SC_VAE_RESIDUAL, out, &l, err));
    if (l->in != out) {
        snprintf(full, sizeof full, "%s.shortcut", name);
        TRY(load_filter(t, full, 5, (sc_filter_desc){.out_ch = out, .in_ch = l->in, .size = 1, .stride = 1}, &l->conv[2].w, err));
    }
    for (int i = 0; i < 2; i++) {
        snprintf(full, sizeof full, "%s.residual.%d.gamma", name, 3 * i);
        TRY(sc_vae_net_gamma(t, full, &l->gamma[i], err));
        snprintf(full, sizeof full, "%s.residual.%d", name, i ? 6 : 2);
        TRY(sc_vae_net_conv(t, full, out, 3, 3, &l->conv[i], err));
    }
cleanup:
    return rc;
}

sc_status sc_vae_net_attention(sc_vae_net *t, const char *name, sc_error *err) {
    char full[192];
    sc_vae_layer *l = NULL;
    sc_status rc;

    TRY(new_layer(t, SC_VAE_ATTENTION, t->ch, &l, err));
    snprintf(full, sizeof full, "%s.norm.gamma", name);
    TRY(sc_vae_net_gamma(t, full, &l->gamma[0], err));
    snprintf(full, sizeof full, "%s.to_qkv", name);
    TRY(load_filter(t, full, 4, (sc_filter_desc){.out_ch = 3 * t->ch, .in_ch = t->ch, .size = 1, .stride = 1}, &l->conv[0].w, err));
    snprintf(full, sizeof full, "%s.proj", name);
    TRY(load_filter(t, full, 4, (sc_filter_desc){.out_ch = t->ch, .in_ch = t->ch, .size = 1, .stride = 1}, &l->conv[1].w, err));
    occurs(t, t->n, t->h, t->w, 3 * t->ch);
cleanup:
    return rc;
}

sc_status sc_vae_net_up(sc_vae_net *t, const char *name, bool time, sc_error *err) {
    char full[192];
    sc_vae_layer *l = NULL;
    sc_status rc;

    TRY(new_layer(t, SC_VAE_UP, t->ch / 2, &l, err));
    if (time) {
        snprintf(full, sizeof full, "%s.time_conv", name);
        TRY(new_cache(t, t->h, t->w, t->ch, &l->conv[0].cache, err));
        TRY(load_filter(t, full, 5, (sc_filter_desc){.out_ch = 2 * t->ch, .in_ch = t->ch, .size = 1, .stride = 1, .taps = 3}, &l->conv[0].w, err));
        t->n *= 2;
        occurs(t, t->n, t->h, t->w, t->ch);
    }
    snprintf(full, sizeof full, "%s.resample.1", name);
    TRY(load_filter(t, full, 4, (sc_filter_desc){.out_ch = t->ch / 2, .in_ch = t->ch, .size = 3, .stride = 1, .taps = 1}, &l->conv[1].w, err));
    t->h *= 2;
    t->w *= 2;
    t->ch /= 2;
    occurs(t, t->n, t->h, t->w, t->ch);
cleanup:
    return rc;
}

sc_status sc_vae_net_down(sc_vae_net *t, const char *name, bool time, sc_error *err) {
    char full[192];
    sc_vae_layer *l = NULL;
    sc_status rc;

    TRY(new_layer(t, SC_VAE_DOWN, t->ch, &l, err));
    snprintf(full, sizeof full, "%s.resample.1", name);
    TRY(load_filter(t, full, 4, (sc_filter_desc){.out_ch = t->ch, .in_ch = t->ch, .size = 3, .stride = 2, .pad_end = true}, &l->conv[0].w, err));
    t->h /= 2;
    t->w /= 2;
    if (!time) goto cleanup;
    snprintf(full, sizeof full, "%s.time_conv", name);
    TRY(new_cache(t, t->h, t->w, t->ch, &l->conv[1].cache, err));
    TRY(load_filter(t, full, 5, (sc_filter_desc){.out_ch = t->ch, .in_ch = t->ch, .size = 1, .stride = 1, .taps = 3, .time_stride = 2}, &l->conv[1].w, err));
    t->n /= 2;
cleanup:
    return rc;
}

sc_status sc_vae_net_middle(sc_vae_net *t, const char *half, sc_error *err) {
    char name[3][64];
    sc_status rc;

    for (int i = 0; i < 3; i++) snprintf(name[i], sizeof name[i], "%s.middle.%d", half, i);
    TRY(sc_vae_net_residual(t, name[0], t->ch, err));
    TRY(sc_vae_net_attention(t, name[1], err));
    TRY(sc_vae_net_residual(t, name[2], t->ch, err));
cleanup:
    return rc;
}

bool sc_vae_net_has(const sc_vae_net *t, const char *name, const char *end) {
    char full[256];
    snprintf(full, sizeof full, "%s%s%s", t->prefix, name, end);
    return sc_tensors_find(t->set, full) != NULL;
}

sc_status sc_vae_net_work(sc_vae_net *t, sc_error *err) {
    sc_status rc = SC_OK;
    for (int i = 0; i < 3 && !rc; i++) rc = t->dev->ops->alloc(t->dev, &t->work[i], t->most, err);
    t->set = NULL;
    return rc;
}

void sc_vae_net_free(sc_vae_net *t) {
    const sc_ops *ops = t->dev->ops;
    for (int i = 0; i < t->layers; i++) {
        for (int k = 0; k < 2; k++) ops->release(t->dev, t->layer[i].gamma[k]);
        for (int k = 0; k < 3; k++) if (t->layer[i].conv[k].w) ops->filter_destroy(t->dev, t->layer[i].conv[k].w);
    }
    if (t->first.w) ops->filter_destroy(t->dev, t->first.w);
    if (t->head.w) ops->filter_destroy(t->dev, t->head.w);
    ops->release(t->dev, t->head_gamma);
    for (int i = 0; i < 3; i++) ops->release(t->dev, t->work[i]);
    free(t->layer);
    free(t->cache_bytes);
}

/* ---- the state of a stream ---------------------------------------------------------------------------------------------- */

size_t sc_vae_net_state_bytes(const sc_vae_net *t) {
    size_t bytes = 0;
    for (int i = 0; i < t->caches; i++) bytes += t->cache_bytes[i];
    return bytes;
}

sc_status sc_vae_net_state(const sc_vae_net *t, sc_vae_state **out, sc_error *err) {
    sc_vae_state *s = calloc(1, sizeof *s);
    sc_status rc = SC_OK;

    *out = NULL;
    if (!s || !(s->past = calloc((size_t)t->caches, sizeof *s->past))) {
        free(s);
        return sc_fail(err, SC_ENOMEM, "decoder: out of memory for the state of a stream");
    }
    for (int i = 0; i < t->caches && !rc; i++) rc = t->dev->ops->alloc(t->dev, &s->past[i], t->cache_bytes[i], err);
    if (rc) sc_vae_net_state_free(t, s);
    else *out = s;
    return rc;
}

void sc_vae_net_state_free(const sc_vae_net *t, sc_vae_state *s) {
    if (!s) return;
    for (int i = 0; i < t->caches; i++) t->dev->ops->release(t->dev, s->past[i]);
    free(s->past);
    free(s);
}

sc_status sc_vae_net_state_copy(const sc_vae_net *t, sc_vae_state *s, const sc_vae_state *from, sc_error *err) {
    sc_status rc = SC_OK;
    for (int i = 0; i < t->caches && !rc; i++) rc = t->dev->ops->copy(t->dev, s->past[i], from->past[i], t->cache_bytes[i], err);
    s->started = from->started;
    return rc;
}

sc_status sc_vae_net_state_save(const sc_vae_net *t, const sc_vae_state *s, void *host, sc_error *err) {
    char *to = host;
    sc_status rc = SC_OK;
    for (int i = 0; i < t->caches && !rc; to += t->cache_bytes[i++]) rc = t->dev->ops->download(t->dev, to, s->past[i], t->cache_bytes[i], err);
    return rc;
}

sc_status sc_vae_net_state_load(const sc_vae_net *t, sc_vae_state *s, const void *host, sc_error *err) {
    const char *from = host;
    sc_status rc = SC_OK;
    for (int i = 0; i < t->caches && !rc; from += t->cache_bytes[i++]) rc = t->dev->ops->upload(t->dev, s->past[i], from, t->cache_bytes[i], err);
    s->started = true;
    return rc;
}

/* ---- running ------------------------------------------------------------------------------------------------------------ *
 *
 * A norm is asked for with the convolution before it (ops.h, `then`), which may be another layer's; f->a then holds the next layer's input
 * beside f->x, and f->x itself is only written where a residual or a doubling reads it. */

/* The last two frames of [past, x] become the past. */
static sc_status remember(const sc_vae_net *t, sc_vae_state *s, int cache, const void *x, int n, sc_error *err) {
    const size_t frame = t->cache_bytes[cache] / 2;
    char *past = s->past[cache];
    sc_status rc;

    if (n >= 2) return t->dev->ops->copy(t->dev, past, (const char *)x + (size_t)(n - 2) * frame, 2 * frame, err);
    if ((rc = t->dev->ops->copy(t->dev, past, past + frame, frame, err))) return rc;
    return t->dev->ops->copy(t->dev, past + frame, x, frame, err);
}

sc_status sc_vae_run_conv(const sc_vae_net *t, const sc_vae_conv *conv, sc_vae_state *s, sc_conv3_args args, sc_error *err) {
    args.w = conv->w;
    args.past = s->past[conv->cache];
    const sc_status rc = t->dev->ops->conv3(t->dev, &args, err);
    return rc ? rc : remember(t, s, conv->cache, args.x, args.n, err);
}

/* What layer i, or the head behind the last, makes of x before all else; gamma NULL: nothing, it takes x as it is. */
static sc_channel_norm_args norm_of(const sc_vae_net *t, int i) {
    if (i == t->layers) return (sc_channel_norm_args){.gamma = t->head_gamma, .silu = true};
    return (sc_channel_norm_args){.gamma = t->layer[i].gamma[0], .silu = t->layer[i].kind == SC_VAE_RESIDUAL};
}

/* f->a = what layer i begins with, unless it is there. */
static sc_status run_norm(const sc_vae_net *t, int i, sc_vae_flow *f, sc_error *err) {
    sc_channel_norm_args norm = norm_of(t, i);
    if (f->normed || !norm.gamma) return SC_OK;
    norm.x = f->x, norm.out = f->a, norm.rows = (size_t)f->n * (size_t)f->h * (size_t)f->w, norm.ch = f->c;
    f->normed = true;
    return t->dev->ops->channel_norm(t->dev, &norm, err);
}

/* The norm that layer i begins with, to be made by a convolution before it: to `out`. */
static const sc_channel_norm_args *ahead(const sc_vae_net *t, int i, void *out, sc_channel_norm_args *norm) {
    *norm = norm_of(t, i);
    norm->out = out;
    return norm->gamma ? norm : NULL;
}

static void swap(void **a, void **b) {
    void *t = *a;
    *a = *b;
    *b = t;
}

static sc_status run_residual(const sc_vae_net *t, int i, sc_vae_state *s, sc_vae_flow *f, sc_error *err) {
    const sc_vae_layer *l = &t->layer[i];
    sc_channel_norm_args norm = {.out = f->b, .gamma = l->gamma[1], .silu = true};
    sc_status rc;

    TRY(sc_vae_run_conv(t, &l->conv[0], s, (sc_conv3_args){.x = f->a, .n = f->n, .h = f->h, .w_px = f->w, .then = &norm}, err));
    if (l->conv[2].w) { /* x goes on in the new width, and its place is free for the norm */
        TRY(t->dev->ops->conv(t->dev, &(sc_conv_args){.w = l->conv[2].w, .x = f->x, .out = f->a, .n = f->n, .h = f->h, .w_px = f->w}, err));
        swap(&f->x, &f->a);
    }
    f->c = l->out;
    const sc_channel_norm_args *then = ahead(t, i + 1, f->a, &norm);
    TRY(sc_vae_run_conv(t, &l->conv[1], s, (sc_conv3_args){.x = f->b, .residual = f->x, .out = i + 1 < t->layers ? f->x : NULL, .n = f->n, .h = f->h, .w_px = f->w, .then = then},
                        err));
    f->normed = then;
cleanup:
    return rc;
}

static sc_status run_attention(const sc_vae_net *t, const sc_vae_layer *l, sc_vae_flow *f, sc_error *err) {
    const sc_ops *ops = t->dev->ops;
    const int pixels = f->h * f->w;
    sc_status rc;

    TRY(ops->conv(t->dev, &(sc_conv_args){.w = l->conv[0].w, .x = f->a, .out = f->b, .n = f->n, .h = f->h, .w_px = f->w}, err));
    TRY(ops->frame_attention(t->dev, &(sc_frame_attention_args){.qkv = f->b, .out = f->a, .n = f->n, .pixels = pixels, .ch = l->in}, err));
    TRY(ops->conv(t->dev, &(sc_conv_args){.w = l->conv[1].w, .x = f->a, .residual = f->x, .out = f->b, .n = f->n, .h = f->h, .w_px = f->w}, err));
    swap(&f->x, &f->b);
    f->normed = false;
cleanup:
    return rc;
}

/* The first frame of a stream is not doubled, and the doubling does not remember it: the second sees zeros. */
static sc_status run_up(const sc_vae_net *t, int i, sc_vae_state *s, sc_vae_flow *f, sc_error *err) {
    const sc_vae_layer *l = &t->layer[i];
    sc_channel_norm_args norm;
    sc_status rc;

    if (l->conv[0].w && s->started) {
        TRY(sc_vae_run_conv(t, &l->conv[0], s, (sc_conv3_args){.x = f->x, .out = f->a, .n = f->n, .h = f->h, .w_px = f->w, .split = 2}, err));
        swap(&f->x, &f->a);
        f->n *= 2;
    }
    const sc_channel_norm_args *then = ahead(t, i + 1, f->b, &norm);
    TRY(t->dev->ops->conv3(t->dev, &(sc_conv3_args){.w = l->conv[1].w, .x = f->x, .out = f->a, .n = f->n, .h = f->h, .w_px = f->w, .upsample = true, .then = then}, err));
    swap(&f->x, &f->a);
    swap(&f->a, &f->b);
    f->h *= 2;
    f->w *= 2;
    f->c = l->out;
    f->normed = then;
cleanup:
    return rc;
}

/* The first frame of a clip is not halved but remembered; later ones meet the last frame before them. */
static sc_status run_down(const sc_vae_net *t, const sc_vae_layer *l, sc_vae_state *s, sc_vae_flow *f, sc_error *err) {
    sc_status rc;

    TRY(t->dev->ops->conv3(t->dev, &(sc_conv3_args){.w = l->conv[0].w, .x = f->x, .out = f->a, .n = f->n, .h = f->h, .w_px = f->w}, err));
    swap(&f->x, &f->a);
    f->h /= 2;
    f->w /= 2;
    if (!l->conv[1].w) goto cleanup;
    if (!s->started) {
        TRY(remember(t, s, l->conv[1].cache, f->x, f->n, err));
    } else {
        TRY(sc_vae_run_conv(t, &l->conv[1], s, (sc_conv3_args){.x = f->x, .out = f->a, .n = f->n, .h = f->h, .w_px = f->w}, err));
        swap(&f->x, &f->a);
        f->n /= 2;
    }
cleanup:
    return rc;
}

sc_status sc_vae_run_layer(const sc_vae_net *t, int i, sc_vae_state *s, sc_vae_flow *f, sc_error *err) {
    const sc_vae_layer *l = &t->layer[i];
    const sc_status rc = run_norm(t, i, f, err);

    if (rc) return rc;
    switch (l->kind) {
    case SC_VAE_RESIDUAL: return run_residual(t, i, s, f, err);
    case SC_VAE_ATTENTION: return run_attention(t, l, f, err);
    case SC_VAE_UP: return run_up(t, i, s, f, err);
    case SC_VAE_DOWN: return run_down(t, l, s, f, err);
    }
    return SC_OK;
}

sc_status sc_vae_run_head(const sc_vae_net *t, sc_vae_state *s, sc_vae_flow *f, sc_error *err) {
    const sc_status rc = run_norm(t, t->layers, f, err);
    return rc ? rc : sc_vae_run_conv(t, &t->head, s, (sc_conv3_args){.x = f->a, .out = f->b, .n = f->n, .h = f->h, .w_px = f->w}, err);
}

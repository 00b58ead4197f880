/* tae.c - see tae.h.
 *
 *   3 tanh(z/3) -> conv -> relu -> [ 3 memory blocks -> 2x nearest -> grow -> conv ] x 3 -> relu -> conv -> pixel shuffle
 *
 * A grow layer is a 1x1 convolution, which commutes with nearest upsampling: it runs before it, on a quarter of the pixels, and the
 * 3x3 convolution behind it reads its input doubled. Nothing stands between the two, no bias even, so they are one convolution whose weights
 * are the product of both: made at load for a device that deals output channels to frames (sc_device.conv_deals), at the cost of no arithmetic,
 * since the grown frames see the same pixels. Two work buffers take turns, a third holds the inside of a memory block. */
#include "engine/tae.h"
#include "engine/devmem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call) do { if ((rc = (call))) goto cleanup; } while (0)

typedef struct { sc_filter *conv[3]; } memory_block;

typedef struct {
    int width;             /* channels of its memory blocks */
    int next;              /* channels after its convolution */
    int time;              /* frames out per frame in */
    bool upsample;
    memory_block block[SC_TAE_BLOCKS];
    sc_filter *grow, *conv; /* grow NULL: it is in conv */
} level;

struct sc_tae {
    sc_device *dev;
    int latent_ch, patch, h, w, max_frames;
    sc_filter *first, *last;
    level level[SC_TAE_LEVELS];
    void *work[3];
    size_t work_bytes;
};

/* Tensors PREFIXname.weight, .bias of a filter; rows > 0: only the last `rows` output channels of the file (a grow layer may have more). */
static sc_status find_filter(const sc_tensors *set, const char *prefix, const char *name, int rows, bool bias, int *out_ch, int *in_ch, const sc_tensor **weight,
                             const sc_tensor **bias_of, sc_error *err) {
    char full[256];
    const int64_t any[4] = {-1, -1, -1, -1};
    const sc_tensor *w;
    sc_status rc;

    *weight = *bias_of = NULL;
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    if ((rc = sc_tensors_need(set, full, 4, any, &w, err))) return rc;
    if (w->shape[2] != w->shape[3] || (w->shape[2] != 1 && w->shape[2] != 3)) return sc_fail(err, SC_EINVAL, "tensor %s: a %lldx%lld convolution, only 1x1 and 3x3 exist here", full, (long long)w->shape[2], (long long)w->shape[3]);
    if (w->shape[0] < 1 || w->shape[0] > 8192 || w->shape[1] < 1 || w->shape[1] > 8192) return sc_fail(err, SC_EINVAL, "tensor %s: channel counts out of 1..8192", full);
    if (rows <= 0) rows = (int)w->shape[0];
    if (rows > w->shape[0]) return sc_fail(err, SC_EINVAL, "tensor %s: %lld output channels, %d are needed", full, (long long)w->shape[0], rows);
    if (*in_ch && *in_ch != w->shape[1]) return sc_fail(err, SC_EINVAL, "tensor %s: %lld input channels where %d come in", full, (long long)w->shape[1], *in_ch);
    if (bias) {
        const int64_t bs[1] = {w->shape[0]};
        snprintf(full, sizeof full, "%s%s.bias", prefix, name);
        if ((rc = sc_tensors_need(set, full, 1, bs, bias_of, err))) return rc;
    }
    *weight = w;
    *out_ch = rows;
    *in_ch = (int)w->shape[1];
    return SC_OK;
}

static sc_status load_filter(sc_tae *t, const sc_tensors *set, const char *prefix, const char *name, int rows, bool has_past, bool bias, int *out_ch,
                             int *in_ch, sc_filter **out, sc_error *err) {
    const sc_tensor *w = NULL, *b = NULL;
    sc_status rc;

    if ((rc = find_filter(set, prefix, name, rows, bias, out_ch, in_ch, &w, &b, err))) return rc;
    rows = *out_ch;
    const size_t skip = (size_t)(w->shape[0] - rows) * (size_t)(w->shape[1] * w->shape[2] * w->shape[3]) * sc_dtype_bytes(w->dtype);
    rc = t->dev->ops->filter_create(t->dev, out, &(sc_filter_desc){.out_ch = rows, .in_ch = *in_ch, .size = (int)w->shape[2], .stride = 1, .has_past = has_past,
                                    .data = (const char *)w->data + skip, .type = w->dtype, .bias = b ? b->data : NULL, .bias_type = b ? b->dtype : SC_F32}, err);
    if (rc) return rc;
    sc_tensors_used(set, w, true);
    if (b) sc_tensors_used(set, b, true);
    return SC_OK;
}

/* to [time * next][width][taps]: conv [next][width][taps] behind grow [time * width][width]. */
static void compose(float *to, float *row /* [taps][width] */, const float *conv, const float *grow, int width, int time, int next, int taps) {
    for (int o = 0; o < time * next; o++) {
        const float *frame = grow + (size_t)(o / next) * (size_t)width * (size_t)width, *from = conv + (size_t)(o % next) * (size_t)(width * taps);
        memset(row, 0, (size_t)(taps * width) * sizeof *row);
        for (int m = 0; m < width; m++)
            for (int tap = 0; tap < taps; tap++) {
                const float by = from[m * taps + tap], *g = frame + (size_t)m * (size_t)width;
                float *sum = row + tap * width;
                for (int c = 0; c < width; c++) sum[c] += by * g[c];
            }
        for (int c = 0; c < width; c++)
            for (int tap = 0; tap < taps; tap++) *to++ = row[tap * width + c];
    }
}

/* The convolution `name` with the grow layer `grow_name` in it; sets l->next. */
static sc_status load_composed(sc_tae *t, const sc_tensors *set, const char *prefix, const char *grow_name, const char *name, level *l, sc_error *err) {
    const sc_tensor *w, *g, *none;
    int grown, in = l->width;
    float *conv = NULL, *grow = NULL, *both = NULL;
    sc_status rc;

    TRY(find_filter(set, prefix, grow_name, l->width * l->time, false, &grown, &in, &g, &none, err));
    TRY(find_filter(set, prefix, name, 0, false, &l->next, &in, &w, &none, err));
    const int taps = (int)(w->shape[2] * w->shape[3]);
    const size_t rows = (size_t)(l->time * l->next), count = rows * (size_t)(l->width * taps);
    conv = sc_tensor_to_f32(w), grow = sc_tensor_to_f32(g), both = malloc((count + (size_t)(taps * l->width)) * sizeof *both);
    if (!conv || !grow || !both) {
        rc = sc_fail(err, SC_EINVAL, "tensor %s%s.weight or %s.weight: not a float tensor, or no memory for it", prefix, name, grow_name);
        goto cleanup;
    }
    compose(both, both + count, conv, grow + (size_t)(g->shape[0] - grown) * (size_t)l->width, l->width, l->time, l->next, taps);
    TRY(t->dev->ops->filter_create(t->dev, &l->conv, &(sc_filter_desc){.out_ch = (int)rows, .in_ch = l->width, .size = (int)w->shape[2], .stride = 1, .data = both,
                                   .type = SC_F32}, err));
    sc_tensors_used(set, w, true);
    sc_tensors_used(set, g, true);
cleanup:
    free(conv);
    free(grow);
    free(both);
    return rc;
}

static sc_status load_level(sc_tae *t, const sc_tensors *set, const char *prefix, const sc_tae_shape *shape, int index, int width, sc_error *err) {
    level *l = &t->level[index];
    const int base = 3 + 6 * index;
    char name[64], full[256];
    const sc_tensor *w;
    int out = 0, in;
    sc_status rc;

    l->width = width;
    l->time = shape->time[index];
    l->upsample = shape->space[index] == 2;
    for (int b = 0; b < SC_TAE_BLOCKS; b++)
        for (int c = 0; c < 3; c++) {
            in = c ? width : 2 * width;
            snprintf(name, sizeof name, "decoder.%d.conv.%d", base + b, 2 * c);
            TRY(load_filter(t, set, prefix, name, width, c == 0, true, &out, &in, &l->block[b].conv[c], err));
        }
    snprintf(name, sizeof name, "decoder.%d.conv", base + 4);
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    TRY(sc_tensors_need(set, full, 4, (const int64_t[]){-1, -1, 1, 1}, &w, err)); /* runs before the doubling, which only a 1x1 may */
    if (t->dev->conv_deals) {
        snprintf(full, sizeof full, "decoder.%d", base + 5);
        return load_composed(t, set, prefix, name, full, l, err);
    }
    in = width;
    TRY(load_filter(t, set, prefix, name, width * l->time, false, false, &out, &in, &l->grow, err));
    snprintf(name, sizeof name, "decoder.%d", base + 5);
    in = width;
    TRY(load_filter(t, set, prefix, name, 0, false, false, &l->next, &in, &l->conv, err));
cleanup:
    return rc;
}

sc_tae_shape sc_tae_published(int latent_ch, int patch, int latent_h, int latent_w, int max_frames) {
    return (sc_tae_shape){.latent_ch = latent_ch, .patch = patch, .latent_h = latent_h, .latent_w = latent_w, .max_frames = max_frames,
                          .time = {1, 2, 2}, .space = {2, 2, patch == 1 ? 2 : 1}};
}

sc_status sc_tae_load(sc_tae **out, sc_device *dev, const sc_tensors *set, const char *prefix, const sc_tae_shape *shape, sc_error *err) {
    sc_tae *t = calloc(1, sizeof *t);
    const int latent_ch = shape->latent_ch, patch = shape->patch, latent_h = shape->latent_h, latent_w = shape->latent_w, max_frames = shape->max_frames;
    int width = 0, in = latent_ch, out_ch = 0;
    size_t most = 0;
    sc_status rc = SC_OK;

    *out = NULL;
    if (!t) return sc_fail(err, SC_ENOMEM, "decoder: out of memory");
    t->dev = dev;
    t->latent_ch = latent_ch;
    t->patch = patch;
    t->h = latent_h;
    t->w = latent_w;
    t->max_frames = max_frames;
    TRY(load_filter(t, set, prefix, "decoder.1", 0, false, true, &width, &in, &t->first, err));
    for (int i = 0; i < SC_TAE_LEVELS; i++) {
        TRY(load_level(t, set, prefix, shape, i, width, err));
        width = t->level[i].next;
    }
    in = width;
    TRY(load_filter(t, set, prefix, "decoder.22", 0, false, true, &out_ch, &in, &t->last, err));
    if (out_ch != 3 * patch * patch) { rc = sc_fail(err, SC_EINVAL, "tensor %sdecoder.22.weight: %d output channels, pictures with a shuffle of %d need %d", prefix, out_ch, patch, 3 * patch * patch); goto cleanup; }

    int h = latent_h, w = latent_w, n = max_frames;
    most = (size_t)n * (size_t)(h * w) * (size_t)latent_ch;
    for (int i = 0; i < SC_TAE_LEVELS; i++) {
        const level *l = &t->level[i];
        size_t blocks = (size_t)n * (size_t)(h * w) * (size_t)l->width, grown, conv;
        n *= l->time;
        grown = (size_t)n * (size_t)(h * w) * (size_t)l->width;
        if (l->upsample) { h *= 2; w *= 2; }
        conv = (size_t)n * (size_t)(h * w) * (size_t)(l->next > out_ch ? l->next : out_ch);
        if (blocks > most) most = blocks;
        if (grown > most) most = grown;
        if (conv > most) most = conv;
    }
    for (int i = 0; i < 3; i++) TRY(dev->ops->alloc(dev, &t->work[i], most * sc_act_bytes(dev), err));
    t->work_bytes = 3 * most * sc_act_bytes(dev);
    *out = t;
    t = NULL;
cleanup:
    sc_tae_close(t);
    return rc;
}

void sc_tae_close(sc_tae *t) {
    if (!t) return;
    const sc_ops *ops = t->dev->ops;
    for (int i = 0; i < SC_TAE_LEVELS; i++) {
        level *l = &t->level[i];
        for (int b = 0; b < SC_TAE_BLOCKS; b++)
            for (int c = 0; c < 3; c++) if (l->block[b].conv[c]) ops->filter_destroy(t->dev, l->block[b].conv[c]);
        if (l->grow) ops->filter_destroy(t->dev, l->grow);
        if (l->conv) ops->filter_destroy(t->dev, l->conv);
    }
    if (t->first) ops->filter_destroy(t->dev, t->first);
    if (t->last) ops->filter_destroy(t->dev, t->last);
    for (int i = 0; i < 3; i++) ops->release(t->dev, t->work[i]);
    free(t);
}

void sc_tae_move(sc_tae *t, sc_device *dev) { t->dev = dev; }

int sc_tae_scale(const sc_tae *t) {
    int s = t->patch;
    for (int i = 0; i < SC_TAE_LEVELS; i++) s *= t->level[i].upsample ? 2 : 1;
    return s;
}

int sc_tae_time_scale(const sc_tae *t) {
    int s = 1;
    for (int i = 0; i < SC_TAE_LEVELS; i++) s *= t->level[i].time;
    return s;
}

int sc_tae_startup(const sc_tae *t) { return sc_tae_time_scale(t) - 1; }
size_t sc_tae_work_bytes(const sc_tae *t) { return t->work_bytes; }

/* Bytes of the frame that block b of level i remembers. */
static size_t past_bytes(const sc_tae *t, int i) {
    int h = t->h, w = t->w;
    for (int j = 0; j < i; j++)
        if (t->level[j].upsample) { h *= 2; w *= 2; }
    return (size_t)(h * w) * (size_t)t->level[i].width * sc_act_bytes(t->dev);
}

size_t sc_tae_state_bytes(const sc_tae *t) {
    size_t bytes = 0;
    for (int i = 0; i < SC_TAE_LEVELS; i++) bytes += SC_TAE_BLOCKS * past_bytes(t, i);
    return bytes;
}

sc_status sc_tae_state_init(const sc_tae *t, sc_tae_state *s, sc_error *err) {
    sc_tae_state_free(t, s);
    for (int i = 0; i < SC_TAE_LEVELS * SC_TAE_BLOCKS; i++) {
        size_t bytes = past_bytes(t, i / SC_TAE_BLOCKS);
        sc_status rc = t->dev->ops->alloc(t->dev, &s->past[i], bytes, err);
        if (rc) { sc_tae_state_free(t, s); return rc; }
        s->bytes += bytes;
    }
    return SC_OK;
}

void sc_tae_state_free(const sc_tae *t, sc_tae_state *s) {
    for (int i = 0; i < SC_TAE_LEVELS * SC_TAE_BLOCKS; i++) t->dev->ops->release(t->dev, s->past[i]);
    memset(s, 0, sizeof *s);
}

sc_status sc_tae_state_copy(const sc_tae *t, sc_tae_state *s, const sc_tae_state *from, sc_error *err) {
    for (int i = 0; i < SC_TAE_LEVELS * SC_TAE_BLOCKS; i++) {
        sc_status rc = t->dev->ops->copy(t->dev, s->past[i], from->past[i], past_bytes(t, i / SC_TAE_BLOCKS), err);
        if (rc) return rc;
    }
    s->started = from->started;
    return SC_OK;
}

sc_status sc_tae_state_save(const sc_tae *t, const sc_tae_state *s, void *host, sc_error *err) {
    char *to = host;
    for (int i = 0; i < SC_TAE_LEVELS * SC_TAE_BLOCKS; i++) {
        const size_t bytes = past_bytes(t, i / SC_TAE_BLOCKS);
        sc_status rc = t->dev->ops->download(t->dev, to, s->past[i], bytes, err);
        if (rc) return rc;
        to += bytes;
    }
    return SC_OK;
}

sc_status sc_tae_state_load(const sc_tae *t, sc_tae_state *s, const void *host, sc_error *err) {
    const char *from = host;
    for (int i = 0; i < SC_TAE_LEVELS * SC_TAE_BLOCKS; i++) {
        const size_t bytes = past_bytes(t, i / SC_TAE_BLOCKS);
        sc_status rc = t->dev->ops->upload(t->dev, s->past[i], from, bytes, err);
        if (rc) return rc;
        from += bytes;
    }
    s->started = true;
    return SC_OK;
}

sc_status sc_tae_decode(const sc_tae *t, sc_tae_state *s, const float *latent, int frames, bool keep_startup, bool clamp, float *rgb, uint8_t *i420,
                        int *count, sc_tae_tap *tap, void *tap_ctx, sc_error *err) {
    const sc_ops *ops = t->dev->ops;
    const size_t act = sc_act_bytes(t->dev);
    void *x = t->work[0], *a = t->work[1], *b = t->work[2], *swap;
    int n = frames, h = t->h, w = t->w;
    sc_status rc;

    if (frames < 1 || frames > t->max_frames) return sc_fail(err, SC_EINVAL, "decoder: %d latent frames, 1 to %d fit", frames, t->max_frames);
    TRY(ops->latent_in(t->dev, &(sc_latent_in_args){.latent = latent, .out = a, .ch = t->latent_ch, .frames = n, .h = h, .w = w}, err));
    TRY(ops->conv(t->dev, &(sc_conv_args){.w = t->first, .x = a, .out = x, .n = n, .h = h, .w_px = w, .relu = true}, err));
    for (int i = 0; i < SC_TAE_LEVELS; i++) {
        const level *l = &t->level[i];
        for (int k = 0; k < SC_TAE_BLOCKS; k++) {
            void *past = s->past[i * SC_TAE_BLOCKS + k];
            TRY(ops->conv(t->dev, &(sc_conv_args){.w = l->block[k].conv[0], .x = x, .past = past, .out = a, .n = n, .h = h, .w_px = w, .relu = true}, err));
            TRY(ops->conv(t->dev, &(sc_conv_args){.w = l->block[k].conv[1], .x = a, .out = b, .n = n, .h = h, .w_px = w, .relu = true}, err));
            TRY(ops->conv(t->dev, &(sc_conv_args){.w = l->block[k].conv[2], .x = b, .residual = x, .out = a, .keep = past, .n = n, .h = h, .w_px = w, .relu = true}, err));
            swap = x; x = a; a = swap;
        }
        if (tap && i == 0) tap(tap_ctx, 5, x, n, h, w, l->width);
        if (l->grow) {
            TRY(ops->grow(t->dev, &(sc_grow_args){.w = l->grow, .x = x, .out = a, .n = n, .h = h, .w_px = w, .s = l->time}, err));
            n *= l->time;
            swap = x; x = a; a = swap;
        }
        TRY(ops->conv(t->dev, &(sc_conv_args){.w = l->conv, .x = x, .out = a, .n = n, .h = h, .w_px = w, .upsample = l->upsample,
                                              .relu = i == SC_TAE_LEVELS - 1, .s = l->grow ? 1 : l->time}, err));
        if (!l->grow) n *= l->time;
        swap = x; x = a; a = swap;
        if (l->upsample) { h *= 2; w *= 2; }
        if (tap && i == 1) tap(tap_ctx, 14, x, n, h, w, l->next);
    }
    const int skip = !s->started && !keep_startup ? sc_tae_startup(t) : 0;
    const size_t in_frame = (size_t)(h * w) * (size_t)t->level[SC_TAE_LEVELS - 1].next * act;
    s->started = true;
    *count = n - skip;
    TRY(ops->conv(t->dev, &(sc_conv_args){.w = t->last, .x = (char *)x + (size_t)skip * in_frame, .out = a, .n = n - skip, .h = h, .w_px = w}, err));
    TRY(ops->pixels(t->dev, &(sc_pixels_args){.x = a, .rgb = rgb, .i420 = i420, .n = n - skip, .h = h, .w = w, .p = t->patch, .clamp = clamp}, err));
cleanup:
    return rc;
}

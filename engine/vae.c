/* vae.c - the decoder of vae.h.
 *
 *   z * std + mean -> conv2 1x1x1 -> conv1 3x3x3 -> residual, attention, residual -> [ residual x (blocks + 1) -> up ] x levels -> norm, SiLU
 *                                                                                                    (no up at the finest)      -> 3x3x3
 *
 * Latents go through in groups, the first of a stream alone: the engine's chunk is one group where memory allows it, which fills a card
 * better at the coarse levels and moves the caches once a chunk. Nothing but the caches passes from one group to the next, and no
 * operation looks at how many frames come together, so any grouping gives the same bits. */
#include "engine/vae_layers.h"
#include "engine/devmem.h"

#include <stdio.h>
#include <stdlib.h>

#define TRY(call) do { if ((rc = (call))) goto cleanup; } while (0)

struct sc_vae {
    sc_vae_net net;
    int z, h, w, group, scale, time_scale, first_up;
    sc_vae_conv conv2;
    float *mean, *std; /* device [z] */
};

static sc_status upload_channels(sc_device *dev, const double *values, int n, float **out, sc_error *err) {
    float host[SC_VAE_CHANNELS_MAX];
    sc_status rc = dev->ops->alloc(dev, (void **)out, (size_t)n * 4, err);
    for (int i = 0; i < n; i++) host[i] = (float)values[i];
    return rc ? rc : dev->ops->upload(dev, *out, host, (size_t)n * 4, err);
}

static sc_status load_levels(sc_vae *v, const sc_vae_shape *shape, sc_error *err) {
    sc_vae_net *t = &v->net;
    char name[64];
    int n = 0;
    sc_status rc = SC_OK;

    for (int i = shape->levels - 1; i >= 0; i--) {
        for (int b = 0; b < shape->blocks + 1; b++) {
            snprintf(name, sizeof name, "decoder.upsamples.%d", n++);
            TRY(sc_vae_net_residual(t, name, shape->dim * shape->mult[i], err));
            snprintf(name, sizeof name, "decoder.upsamples.%d", n);
            if (!sc_vae_net_has(t, name, ".to_qkv.weight")) continue;
            TRY(sc_vae_net_attention(t, name, err));
            n++;
        }
        if (i == 0) break;
        if (i == shape->levels - 1) v->first_up = t->layers;
        snprintf(name, sizeof name, "decoder.upsamples.%d", n++);
        TRY(sc_vae_net_up(t, name, shape->halves_time[i - 1], err));
        v->scale *= 2;
        if (shape->halves_time[i - 1]) v->time_scale *= 2;
    }
cleanup:
    return rc;
}

sc_status sc_vae_load(sc_vae **out, sc_device *dev, const sc_tensors *set, const char *prefix, const sc_vae_shape *shape, sc_error *err) {
    sc_vae *v = NULL;
    sc_status rc;

    *out = NULL;
    if ((rc = sc_vae_check_device(dev, err)) || (rc = sc_vae_check_shape(shape, err))) return rc;
    if (!(v = calloc(1, sizeof *v))) return sc_fail(err, SC_ENOMEM, "decoder: out of memory");
    v->z = shape->z;
    v->h = shape->latent_h;
    v->w = shape->latent_w;
    v->scale = v->time_scale = 1;
    v->net = (sc_vae_net){.dev = dev, .set = set, .prefix = prefix, .n = 1, .h = v->h, .w = v->w, .ch = v->z};
    TRY(upload_channels(dev, shape->mean, v->z, &v->mean, err));
    TRY(upload_channels(dev, shape->std, v->z, &v->std, err));
    TRY(sc_vae_net_conv(&v->net, "conv2", v->z, 1, 1, &v->conv2, err));
    TRY(sc_vae_net_conv(&v->net, "decoder.conv1", shape->dim * shape->mult[shape->levels - 1], 3, 3, &v->net.first, err));
    TRY(sc_vae_net_middle(&v->net, "decoder", err));
    TRY(load_levels(v, shape, err));
    TRY(sc_vae_net_gamma(&v->net, "decoder.head.0.gamma", &v->net.head_gamma, err));
    TRY(sc_vae_net_conv(&v->net, "decoder.head.2", 3, 3, 3, &v->net.head, err));
    v->group = sc_vae_group(shape->group, 3 * v->net.most);
    v->net.most *= (size_t)v->group;
    TRY(sc_vae_net_work(&v->net, err));
    *out = v;
    v = NULL;
cleanup:
    sc_vae_close(v);
    return rc;
}

void sc_vae_close(sc_vae *v) {
    if (!v) return;
    sc_device *dev = v->net.dev;
    if (v->conv2.w) dev->ops->filter_destroy(dev, v->conv2.w);
    dev->ops->release(dev, v->mean);
    dev->ops->release(dev, v->std);
    sc_vae_net_free(&v->net);
    free(v);
}

void sc_vae_move(sc_vae *v, sc_device *dev) { v->net.dev = dev; }

int sc_vae_group(int wanted, size_t bytes) {
    const size_t fit = SC_VAE_WORK_BYTES / bytes;
    return wanted < 1 || fit < 1 ? 1 : fit < (size_t)wanted ? (int)fit : wanted;
}

int sc_vae_scale(const sc_vae *v) { return v->scale; }
int sc_vae_time_scale(const sc_vae *v) { return v->time_scale; }
size_t sc_vae_work_bytes(const sc_vae *v) { return 3 * v->net.most; }
size_t sc_vae_state_bytes(const sc_vae *v) { return sc_vae_net_state_bytes(&v->net); }

sc_status sc_vae_state_create(const sc_vae *v, sc_vae_state **out, sc_error *err) { return sc_vae_net_state(&v->net, out, err); }
void sc_vae_state_destroy(const sc_vae *v, sc_vae_state *s) { sc_vae_net_state_free(&v->net, s); }
sc_status sc_vae_state_copy(const sc_vae *v, sc_vae_state *s, const sc_vae_state *from, sc_error *err) { return sc_vae_net_state_copy(&v->net, s, from, err); }
sc_status sc_vae_state_save(const sc_vae *v, const sc_vae_state *s, void *host, sc_error *err) { return sc_vae_net_state_save(&v->net, s, host, err); }
sc_status sc_vae_state_load(const sc_vae *v, sc_vae_state *s, const void *host, sc_error *err) { return sc_vae_net_state_load(&v->net, s, host, err); }
bool sc_vae_started(const sc_vae_state *s) { return s->started; }
void sc_vae_state_pretend_started(sc_vae_state *s) { s->started = true; }

typedef struct {
    const float *latent;
    int frames; /* of latent */
    bool clamp;
    float *rgb;
    uint8_t *i420;
    sc_vae_tap *tap;
    void *ctx;
} decoding;

/* Latents [first, first + n) to pictures [made ..); *made moves on. */
static sc_status decode_group(const sc_vae *v, sc_vae_state *s, const decoding *d, int first, int n, int *made, sc_error *err) {
    const sc_vae_net *t = &v->net;
    const sc_ops *ops = t->dev->ops;
    sc_vae_flow f = {.x = t->work[0], .a = t->work[1], .b = t->work[2], .n = n, .h = v->h, .w = v->w, .c = v->z};
    sc_status rc;

    TRY(ops->planes_in(t->dev, &(sc_planes_in_args){.planes = d->latent, .scale = v->std, .shift = v->mean, .out = f.a, .ch = v->z, .frames = d->frames, .first = first,
                                                    .n = n, .h = f.h, .w = f.w}, err));
    TRY(ops->conv(t->dev, &(sc_conv_args){.w = v->conv2.w, .x = f.a, .out = f.b, .n = n, .h = f.h, .w_px = f.w}, err));
    if (d->tap) d->tap(d->ctx, SC_VAE_AFTER_CONV2, f.b, n, f.h, f.w, v->z);
    TRY(sc_vae_run_conv(t, &t->first, s, (sc_conv3_args){.x = f.b, .out = f.x, .n = n, .h = f.h, .w_px = f.w}, err));
    f.c = t->layer[0].in;
    for (int i = 0; i < t->layers; i++) {
        TRY(sc_vae_run_layer(t, i, s, &f, err));
        if (d->tap && i == 2) d->tap(d->ctx, SC_VAE_AFTER_MIDDLE, f.x, f.n, f.h, f.w, f.c);
        if (d->tap && i == v->first_up) d->tap(d->ctx, SC_VAE_AFTER_UP0, f.x, f.n, f.h, f.w, f.c);
    }
    TRY(sc_vae_run_head(t, s, &f, err));
    const size_t picture = (size_t)f.h * (size_t)f.w, at = (size_t)*made * picture;
    TRY(ops->pixels(t->dev, &(sc_pixels_args){.x = f.b, .rgb = d->rgb ? d->rgb + 3 * at : NULL, .i420 = d->i420 ? d->i420 + at / 2 * 3 : NULL, .n = f.n, .h = f.h,
                                              .w = f.w, .p = 1, .clamp = d->clamp, .centred = true}, err));
    s->started = true;
    *made += f.n;
cleanup:
    return rc;
}

sc_status sc_vae_decode(const sc_vae *v, sc_vae_state *s, const float *latent, int frames, bool clamp, float *rgb, uint8_t *i420, int *count,
                        sc_vae_tap *tap, void *tap_ctx, sc_error *err) {
    const decoding d = {.latent = latent, .frames = frames, .clamp = clamp, .rgb = rgb, .i420 = i420, .tap = tap, .ctx = tap_ctx};
    sc_status rc = SC_OK;

    *count = 0;
    for (int first = 0, n; first < frames && !rc; first += n) {
        n = !s->started ? 1 : frames - first < v->group ? frames - first : v->group;
        rc = decode_group(v, s, &d, first, n, count, err);
    }
    return rc;
}

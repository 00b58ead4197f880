/* vae_encoder.c - the encoder of vae.h: pictures to latents.
 *
 *   conv1 3x3x3 -> [ residual x blocks -> down ] x levels -> residual, attention, residual -> norm, SiLU -> 3x3x3 to 2 z -> conv1 1x1x1
 *                  (no down at the coarsest)                                                        the first z are the means; (mu - mean) / std
 *
 * A clip passes in portions, the first frame alone, so that the halvings in time meet what the decoder's doublings undo. Loaded, run
 * and let go in one call: nothing that streams encodes. */
#include "engine/vae_layers.h"
#include "engine/devmem.h"

#include <stdio.h>
#include <stdlib.h>

#define TRY(call) do { if ((rc = (call))) goto cleanup; } while (0)

typedef struct {
    sc_vae_net net;
    sc_vae_conv last; /* conv1 of the whole model */
    int width;        /* channels after the first convolution */
} encoder;

static int time_scale(const sc_vae_shape *shape) {
    int s = 1;
    for (int i = 0; i + 1 < shape->levels; i++) s *= shape->halves_time[i] ? 2 : 1;
    return s;
}

int sc_vae_encoded(const sc_vae_shape *shape, int frames) { return frames < 1 ? 0 : 1 + (frames - 1) / time_scale(shape); }

static sc_status load(encoder *e, const sc_vae_shape *shape, sc_error *err) {
    sc_vae_net *t = &e->net;
    char name[64];
    int n = 0;
    sc_status rc;

    e->width = shape->dim;
    TRY(sc_vae_net_conv(t, "encoder.conv1", shape->dim, 3, 3, &t->first, err));
    for (int i = 0; i < shape->levels; i++) {
        for (int b = 0; b < shape->blocks; b++) {
            snprintf(name, sizeof name, "encoder.downsamples.%d", n++);
            TRY(sc_vae_net_residual(t, name, shape->dim * shape->mult[i], err));
            snprintf(name, sizeof name, "encoder.downsamples.%d", n);
            if (!sc_vae_net_has(t, name, ".to_qkv.weight")) continue;
            TRY(sc_vae_net_attention(t, name, err));
            n++;
        }
        if (i + 1 == shape->levels) break;
        snprintf(name, sizeof name, "encoder.downsamples.%d", n++);
        TRY(sc_vae_net_down(t, name, shape->halves_time[i], err));
    }
    TRY(sc_vae_net_middle(t, "encoder", err));
    TRY(sc_vae_net_gamma(t, "encoder.head.0.gamma", &t->head_gamma, err));
    TRY(sc_vae_net_conv(t, "encoder.head.2", 2 * shape->z, 3, 3, &t->head, err));
    TRY(sc_vae_net_conv(t, "conv1", 2 * shape->z, 1, 1, &e->last, err));
    TRY(sc_vae_net_work(t, err));
cleanup:
    return rc;
}

/* Frames [first, first + n) of the clip (device planes) to one latent frame: act [h][w][2 z] in *out. */
static sc_status encode_portion(const encoder *e, sc_vae_state *s, const float *clip, int frames, int first, int n, int h, int w, const void **out, sc_error *err) {
    const sc_vae_net *t = &e->net;
    const sc_ops *ops = t->dev->ops;
    sc_vae_flow f = {.x = t->work[0], .a = t->work[1], .b = t->work[2], .n = n, .h = h, .w = w, .c = e->width};
    sc_status rc;

    TRY(ops->planes_in(t->dev, &(sc_planes_in_args){.planes = clip, .out = f.a, .ch = 3, .frames = frames, .first = first, .n = n, .h = h, .w = w}, err));
    TRY(sc_vae_run_conv(t, &t->first, s, (sc_conv3_args){.x = f.a, .out = f.x, .n = n, .h = h, .w_px = w}, err));
    for (int i = 0; i < t->layers; i++) TRY(sc_vae_run_layer(t, i, s, &f, err));
    TRY(sc_vae_run_head(t, s, &f, err));
    TRY(ops->conv(t->dev, &(sc_conv_args){.w = e->last.w, .x = f.b, .out = f.a, .n = f.n, .h = f.h, .w_px = f.w}, err));
    s->started = true;
    *out = f.a;
cleanup:
    return rc;
}

sc_status sc_vae_encode(sc_device *dev, const sc_tensors *set, const char *prefix, const sc_vae_shape *shape, const float *clip, int frames, float *latent,
                        sc_error *err) {
    const sc_ops *ops = dev->ops;
    sc_status rc;

    if ((rc = sc_vae_check_device(dev, err)) || (rc = sc_vae_check_shape(shape, err))) return rc;
    if (frames < 1) return sc_fail(err, SC_EINVAL, "encoder: no frames");
    const int step = time_scale(shape), made = sc_vae_encoded(shape, frames), h = shape->latent_h << (shape->levels - 1), w = shape->latent_w << (shape->levels - 1);
    const size_t picture = (size_t)h * (size_t)w, px = (size_t)shape->latent_h * (size_t)shape->latent_w, z = (size_t)shape->z, all = 3 * (size_t)frames * picture;
    encoder e = {.net = {.dev = dev, .set = set, .prefix = prefix, .n = step, .h = h, .w = w, .ch = 3}};
    sc_vae_state *state = NULL;
    void *device_clip = NULL, *raw = malloc(px * 2 * z * sc_act_bytes(dev));
    float *rows = malloc(px * 2 * z * sizeof *rows);
    const void *out;

    if (!raw || !rows) { rc = sc_fail(err, SC_ENOMEM, "encoder: out of memory"); goto cleanup; }
    TRY(load(&e, shape, err));
    TRY(sc_vae_net_state(&e.net, &state, err));
    TRY(ops->alloc(dev, &device_clip, all * 4, err));
    TRY(ops->upload(dev, device_clip, clip, all * 4, err));
    for (int i = 0; i < made; i++) {
        TRY(encode_portion(&e, state, device_clip, frames, i ? 1 + (i - 1) * step : 0, i ? step : 1, h, w, &out, err));
        TRY(ops->download(dev, raw, out, px * 2 * z * sc_act_bytes(dev), err));
        sc_to_f32(rows, raw, dev->act, px * 2 * z);
        for (size_t c = 0; c < z; c++)
            for (size_t p = 0; p < px; p++)
                latent[(c * (size_t)made + (size_t)i) * px + p] = (float)(((double)rows[p * 2 * z + c] - shape->mean[c]) / shape->std[c]);
    }
cleanup:
    sc_vae_net_state_free(&e.net, state);
    if (e.last.w) ops->filter_destroy(dev, e.last.w);
    sc_vae_net_free(&e.net);
    ops->release(dev, device_clip);
    free(raw);
    free(rows);
    return rc;
}

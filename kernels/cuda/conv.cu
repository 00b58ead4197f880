/* conv.cu - the convolutions of the decoder: arguments checked and flattened, the kernel chosen.
 *
 * On a card of compute capability 9.0, stride 1: conv_narrow.cuh takes 3x3 that lead to at most 3 channels, conv_ring.cuh all other 3x3 from and to a
 * multiple of 64, conv.cuh (wgmma too) 1x1 and the rest of the 3x3 whose sources have a multiple of 8; conv_mma.cuh takes everything else, and everything
 * when mma.sync is forced.
 * A nearest-neighbour doubling runs as four 2x2 convolutions.
 * Thread: engine; asynchronous on the device's stream. */
#include "kernels/cuda/conv.cuh"
#include "kernels/cuda/conv_mma.cuh"
#include "kernels/cuda/conv_narrow.cuh"
#include "kernels/cuda/conv_ring.cuh"
#include "kernels/cuda/filter.h"

#include <assert.h>

using namespace sc;

template <class T> static void launch_wide(struct sc_cuda *c, conv_args a, const sc_filter *f, int taps, int frames) {
    const int slab = 16 * sc_conv_kk(taps, f->pw);
    a.slabs = (a.ch + slab - 1) / slab;
    a.oc_tiles = f->oc_tiles;
    a.tiles_x = (a.w + 7) / 8;
    a.bias = f->bias;
    if (taps == 9 && f->pw == 1) conv_launch<T, 9, 1, 1>(c, a, frames);
    else if (taps == 9) conv_launch<T, 9, 1, 2>(c, a, frames);
    else if (taps == 4 && f->pw == 1) conv_launch<T, 4, 2, 1>(c, a, frames);
    else if (taps == 4) conv_launch<T, 4, 2, 2>(c, a, frames);
    else if (f->pw == 1) conv_launch<T, 1, 4, 1>(c, a, frames);
    else conv_launch<T, 1, 2, 2>(c, a, frames);
}

static bool aligned16(const void *a, const void *b, const void *c, const void *d) { return (((uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d) & 15) == 0; }

/* False: conv_narrow.cuh does not take it, and nothing was launched. */
static bool launch_narrow(struct sc_cuda *c, const sc_conv_args *a) {
    const sc_filter *f = a->w;
    bool done = false;
    if (!f->narrow || a->s > 1 || c->force_mma || a->upsample || a->residual || !aligned16(a->x, NULL, NULL, NULL)) return false;
    conv_narrow_args k = {};
    k.out = a->out, k.weights = f->narrow, k.bias = f->bias, k.h = a->h, k.w = a->w_px, k.oc = f->out_ch, k.relu = a->relu;
    SC_ACT_CALL(c->base.act, done = conv_narrow_launch<T>(c, k, a->x, f->in_ch, a->n));
    return done;
}

/* The form of conv_ring.cuh that makes the picture in the fewest rounds. */
template <class T> static bool ring_any(struct sc_cuda *c, const conv_ring_args &k, const sc_conv_args *a, int ch) {
    if (k.oc % 128) return a->upsample ? conv_ring_launch<T, 4, 24, 2>(c, k, a->x, NULL, ch) : conv_ring_launch<T, 9, 24, 2>(c, k, a->x, a->past, ch);
    if (a->upsample)
        return conv_ring_cost<4, 24, 1>(c, k) < conv_ring_cost<4, 20, 1>(c, k) ? conv_ring_launch<T, 4, 24, 1>(c, k, a->x, NULL, ch) : conv_ring_launch<T, 4, 20, 1>(c, k, a->x, NULL, ch);
    return conv_ring_cost<9, 24, 1>(c, k) < conv_ring_cost<9, 20, 1>(c, k) ? conv_ring_launch<T, 9, 24, 1>(c, k, a->x, a->past, ch) : conv_ring_launch<T, 9, 20, 1>(c, k, a->x, a->past, ch);
}

/* False: conv_ring.cuh does not take it, and nothing was launched. */
static bool launch_ring(struct sc_cuda *c, const sc_conv_args *a) {
    const sc_filter *f = a->w;
    const int s = a->s > 1 ? a->s : 1;
    const void *weights = a->upsample ? f->ring_phases : f->ring;
    bool done = false;
    if (!weights || c->force_mma || f->out_ch / s % 64 || (a->residual && a->upsample)) return false;
    if (!aligned16(a->x, a->past, a->residual, a->out) || !aligned16(a->keep, NULL, NULL, NULL)) return false;
    conv_ring_args k = {};
    k.weights = weights, k.bias = f->bias, k.residual = a->residual, k.out = a->out, k.keep = a->keep;
    k.h = a->h, k.w = a->w_px, k.oc = f->out_ch, k.frames = a->n, k.groups = s, k.group_ch = f->out_ch / s, k.relu = a->relu;
    SC_ACT_CALL(c->base.act, done = ring_any<T>(c, k, a, f->in_ch / f->sources));
    return done;
}

extern "C" sc_status sc_cuda_conv(sc_device *dev, const sc_conv_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    const sc_filter *f = a->w;
    const int up = a->upsample ? 2 : 1, ch = f->in_ch / f->sources, s = a->s > 1 ? a->s : 1;
    const void *wide = a->upsample ? f->phases : f->wide;
    assert((f->sources == 1 || a->past) && (!a->keep || a->residual) && (s == 1 || (f->out_ch % s == 0 && f->sources == 1 && !a->residual)));
    if (a->n < 1 || launch_narrow(c, a) || launch_ring(c, a)) return sc_launched("conv", err);
    if (wide && (s == 1 || f->out_ch / s % 8 == 0) && !c->force_mma && aligned16(a->x, a->past, a->residual, a->out)) {
        conv_args k = {};
        k.x = a->x, k.past = a->past, k.residual = a->residual, k.out = a->out;
        k.weights = wide, k.phase_weights = f->phase_elems;
        k.h = a->h, k.w = a->w_px, k.ch = ch, k.oc = f->out_ch, k.sources = f->sources;
        k.out_scale = up, k.phases = a->upsample ? 4 : 1, k.groups = s, k.group_ch = f->out_ch / s, k.relu = a->relu;
        SC_ACT_CALL(dev->act, launch_wide<T>(c, k, f, a->upsample ? 4 : f->size * f->size, a->n));
    } else {
        conv_mma_args k = {};
        k.x = a->x, k.past = a->past, k.residual = a->residual, k.out = a->out, k.weights = f->plain, k.bias = f->bias;
        k.h = a->h, k.w = a->w_px, k.oh = (a->h * up - 1) / f->stride + 1, k.ow = (a->w_px * up - 1) / f->stride + 1;
        k.ch = ch, k.in_ch = f->in_ch, k.oc = f->out_ch, k.size = f->size, k.stride = f->stride, k.up = up;
        k.groups = s, k.group_ch = f->out_ch / s, k.relu = a->relu;
        SC_ACT_CALL(dev->act, conv_mma_launch<T>(k, a->n, c->stream));
    }
    if (a->keep) { /* nothing has written the residual */
        const size_t bytes = (size_t)((a->h * up - 1) / f->stride + 1) * ((a->w_px * up - 1) / f->stride + 1) * f->out_ch * sizeof(uint16_t);
        cudaMemcpyAsync(a->keep, (const char *)a->residual + (a->n - 1) * bytes, bytes, cudaMemcpyDeviceToDevice, c->stream);
    }
    return sc_launched("conv", err);
}

/* 1x1 convolution whose output channels are `groups` frames, or whose input channels are `pool` frames. */
static void one_by_one(struct sc_cuda *c, const sc_grow_args *a, int groups, int pool) {
    const sc_filter *f = a->w;
    conv_mma_args k = {};
    k.x = a->x, k.out = a->out, k.weights = f->plain, k.bias = f->bias;
    k.h = k.oh = a->h, k.w = k.ow = a->w_px, k.ch = pool ? f->in_ch / pool : f->in_ch, k.in_ch = f->in_ch, k.oc = f->out_ch;
    k.size = 1, k.stride = 1, k.up = 1, k.pool = pool, k.groups = groups, k.group_ch = f->out_ch / groups;
    SC_ACT_CALL(c->base.act, conv_mma_launch<T>(k, a->n, c->stream));
}

extern "C" sc_status sc_cuda_grow(sc_device *dev, const sc_grow_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    const sc_filter *f = a->w;
    const int group_ch = f->out_ch / a->s;
    assert(f->size == 1 && f->stride == 1 && f->sources == 1 && f->out_ch % a->s == 0);
    if (a->n < 1) return SC_OK;
    if (f->wide && group_ch % 8 == 0 && !c->force_mma && aligned16(a->x, a->out, NULL, NULL)) {
        conv_args k = {};
        k.x = a->x, k.out = a->out, k.weights = f->wide;
        k.h = a->h, k.w = a->w_px, k.ch = f->in_ch, k.oc = f->out_ch, k.sources = 1, k.out_scale = 1, k.phases = 1;
        k.groups = a->s, k.group_ch = group_ch;
        SC_ACT_CALL(dev->act, launch_wide<T>(c, k, f, 1, a->n));
    } else one_by_one(c, a, a->s, 0);
    return sc_launched("grow", err);
}

extern "C" sc_status sc_cuda_pool(sc_device *dev, const sc_pool_args *a, sc_error *err) {
    assert(a->w->size == 1 && a->w->stride == 1 && a->w->sources == 1 && a->w->in_ch % a->s == 0);
    if (a->n > 0) one_by_one((struct sc_cuda *)dev, a, 1, a->s);
    return sc_launched("pool", err);
}

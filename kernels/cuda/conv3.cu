/* conv3.cu - convolutions that see several frames: their weights packed, arguments checked and flattened, the kernel chosen.
 *
 * conv3.cuh (wgmma) takes 3x3x3, 3x1x1 and 3x3 of doubled pictures without strides on a card of compute capability 9.0 where channels
 * come in multiples of 8 (out of a doubling or a split of 32), conv3_narrow.cuh 3x3x3 from at most SC_NARROW3_IN to at most 3 channels;
 * conv3_mma.cuh takes everything else and everything when mma.sync is forced. A norm that follows is made by the convolution where
 * conv3.cuh has all channels of a pixel in one tile, by channel_norm otherwise.
 *
 * Packed weights, act type, zeros where padded:
 *   wide   conv3.cuh:     [frame][slab of 16 kk channels][tap][out padded to 16][16 kk], kk 1 for 3x3, 4 for 1x1, swizzled as it stands in
 *                         shared memory
 *   phases conv3.cuh, doubled pictures: [parity][slab of 32][2 x 2 taps][out padded to 16][32], sums of the 3x3 weights, swizzled likewise
 *   narrow conv3_narrow.cuh: [slab of 64][96][64], column = 32 (2 - frame) + 3 tap + output channel, swizzled likewise
 *   plain  conv3_mma.cuh: [frame][tap][in / 16][out padded to 64][16]
 * The width of a tile, NT channels, is chosen by the call: the one whose waves over the multiprocessors cost least.
 * Thread: engine; conv3 is asynchronous on the device's stream. */
#include "kernels/cuda/conv3.cuh"
#include "kernels/cuda/conv3_mma.cuh"
#include "kernels/cuda/conv3_narrow.cuh"
#include "kernels/cuda/filter.h"

#include <assert.h>
#include <stdlib.h>

using namespace sc;

/* ---- weights ------------------------------------------------------------------------------------------------------------ */

static uint16_t bits(float f, sc_dtype act) {
    if (act == SC_F16) return __half_as_ushort(__float2half_rn(f));
    return __bfloat16_as_ushort(__float2bfloat16_rn(f));
}

static int padded(int n, int to) { return (n + to - 1) / to * to; }

/* w [out][in][frames][taps] to [frame][slab][tap][out padded][pieces of 8]; returns the elements, writes none when `to` is NULL. */
static size_t pack_steps(uint16_t *to, const sc_filter *f, const float *w, int taps, int pieces, sc_dtype act) {
    const int slabs = (f->in_ch + pieces * 8 - 1) / (pieces * 8), oc = padded(f->out_ch, 16);
    for (int o = 0; to && o < f->out_ch; o++)
        for (int i = 0; i < f->in_ch; i++)
            for (int t = 0; t < f->taps; t++)
                for (int tap = 0; tap < taps; tap++) {
                    const int piece = i % (pieces * 8) / 8 ^ (o * pieces / 8 & (pieces - 1));
                    const size_t step = (size_t)t * slabs + i / (pieces * 8);
                    to[(((step * taps + tap) * oc + o) * pieces + piece) * 8 + i % 8] = bits(w[(((size_t)o * f->in_ch + i) * f->taps + t) * taps + tap], act);
                }
    return (size_t)f->taps * slabs * taps * pieces * oc * 8;
}

static size_t pack_wide(uint16_t *to, const sc_filter *f, const float *w, sc_dtype act) {
    return f->size == 3 ? pack_steps(to, f, w, 9, 2, act) : pack_steps(to, f, w, 1, 8, act);
}

static size_t pack_phases(uint16_t *to, const sc_filter *f, const float *w, sc_dtype act) {
    const size_t pairs = (size_t)f->out_ch * f->in_ch, each = pack_steps(NULL, f, NULL, 4, 4, act);
    float *sums = to ? (float *)malloc(pairs * 4 * sizeof *sums) : NULL;
    if (to && !sums) return 0;
    for (int phase = 0; to && phase < 4; phase++) {
        sc_cuda_sum_phase(sums, w, pairs, phase);
        pack_steps(to + phase * each, f, sums, 4, 4, act);
    }
    free(sums);
    return 4 * each;
}

/* Piece p of the 8 channels of a column's row stands at p ^ column % 8. */
static size_t pack_narrow(uint16_t *to, const sc_filter *f, const float *w, sc_dtype act) {
    for (int o = 0; to && o < f->out_ch; o++)
        for (int i = 0; i < f->in_ch; i++)
            for (int t = 0; t < 27; t++) {
                const int column = 32 * (2 - t / 9) + t % 9 * SC_NARROW_CHANNELS + o, piece = i / 8 % 8 ^ column % 8;
                to[(((size_t)(i / 64) * 96 + column) * 8 + piece) * 8 + i % 8] = bits(w[((size_t)o * f->in_ch + i) * 27 + t], act);
            }
    return (size_t)(f->in_ch + 63) / 64 * 96 * 64;
}

/* The same to [frame][tap][in / 16][out padded to 64][16]. */
static size_t pack_plain(uint16_t *to, const sc_filter *f, const float *w, sc_dtype act) {
    const int taps = f->size * f->size, slabs = (f->in_ch + 15) / 16, oc = padded(f->out_ch, 64);
    for (int o = 0; to && o < f->out_ch; o++)
        for (int i = 0; i < f->in_ch; i++)
            for (int t = 0; t < f->taps * taps; t++)
                to[(((size_t)t * slabs + i / 16) * oc + o) * 16 + i % 16] = bits(w[((size_t)o * f->in_ch + i) * f->taps * taps + t], act);
    return (size_t)f->taps * taps * slabs * oc * 16;
}

/* 0: no memory. */
typedef size_t pack(uint16_t *to, const sc_filter *f, const float *w, sc_dtype act);

static cudaError_t pack_and_place(struct sc_cuda *c, void **to, pack *form, const sc_filter *f, const float *w) {
    const size_t count = form(NULL, f, w, c->base.act);
    uint16_t *packed = (uint16_t *)calloc(count, 2);
    if (!packed) return cudaErrorMemoryAllocation;
    cudaError_t e = form(packed, f, w, c->base.act) ? cudaMalloc(to, count * 2) : cudaErrorMemoryAllocation;
    if (e == cudaSuccess) e = cudaMemcpyAsync(*to, packed, count * 2, cudaMemcpyHostToDevice, c->stream);
    if (e == cudaSuccess) e = cudaStreamSynchronize(c->stream);
    free(packed);
    return e;
}

extern "C" sc_status sc_cuda_filter3_create(sc_device *dev, sc_filter **out, const sc_filter_desc *d, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    const int times = d->taps ? d->taps : 1;
    const size_t count = (size_t)d->out_ch * d->in_ch * times * d->size * d->size, biases = (size_t)padded(d->out_ch, 64) + CONV3_NT_MAX;
    sc_filter *f = (sc_filter *)calloc(1, sizeof *f);
    float *w = (float *)malloc(count * sizeof *w), *bias = (float *)calloc(biases, sizeof *bias);
    cudaError_t e = cudaErrorMemoryAllocation;

    *out = NULL;
    assert((d->size == 1 || d->size == 3) && (d->stride == 1 || d->stride == 2) && times <= 3 && d->time_stride <= 2 && !d->has_past);
    if (!f || !w || !bias) goto cleanup;
    f->out_ch = d->out_ch, f->in_ch = d->in_ch, f->size = d->size, f->stride = d->stride, f->sources = 1;
    f->taps = times, f->time_stride = d->time_stride ? d->time_stride : 1, f->pad_end = d->pad_end;
    sc_to_f32(w, d->data, d->type, count);
    if (d->bias) sc_to_f32(bias, d->bias, d->bias_type, d->out_ch);
    e = cudaMalloc((void **)&f->bias, biases * sizeof *bias);
    if (e == cudaSuccess) e = cudaMemcpyAsync(f->bias, bias, biases * sizeof *bias, cudaMemcpyHostToDevice, c->stream);
    if (e == cudaSuccess) e = cudaStreamSynchronize(c->stream);
    if (e == cudaSuccess) e = pack_and_place(c, &f->plain, pack_plain, f, w);
    if (e == cudaSuccess && c->cc_major == 9 && d->stride == 1 && f->time_stride == 1 && !d->pad_end && d->in_ch % 8 == 0)
        e = pack_and_place(c, &f->wide, pack_wide, f, w);
    if (e == cudaSuccess && f->wide && times == 1 && d->size == 3) e = pack_and_place(c, &f->phases, pack_phases, f, w);
    if (e == cudaSuccess && f->wide && times == 3 && d->size == 3 && d->out_ch <= SC_NARROW_CHANNELS && d->in_ch <= SC_NARROW3_IN)
        e = pack_and_place(c, &f->narrow, pack_narrow, f, w);
    if (e == cudaSuccess) {
        *out = f;
        f = NULL;
    }
cleanup:
    free(w), free(bias);
    sc_cuda_filter_destroy(dev, f);
    if (e == cudaSuccess) return SC_OK;
    if (e == cudaErrorMemoryAllocation) cudaGetLastError();
    return sc_fail(err, e == cudaErrorMemoryAllocation ? SC_ENOMEM : SC_EGPU, "filter %d x %d x %d x %d x %d: %s", d->out_ch, d->in_ch, times, d->size, d->size, cudaGetErrorString(e));
}

/* ---- the operation ------------------------------------------------------------------------------------------------------ */

/* Time of a convolution with tiles of `nt` channels x 128 mt pixels, in units of one column of a product: waves times a CTA's share. */
static long cost(const conv3_args &a, int mt, int nt, int sm_count) {
    const long tiles = (long)((a.w + 15) / 16) * ((a.h + 8 * mt - 1) / (8 * mt)) * a.frames * ((a.oc + nt - 1) / nt);
    return (tiles + sm_count - 1) / sm_count * mt * (nt + 30); /* 30: measured, what a product costs over its columns */
}

/* Channels of the narrowest tile that has all, whatever the number of frames: so a pixel's norm is one sum, the same in any call. */
static int norm_columns(int oc) { return oc <= 96 ? 96 : oc <= 128 ? 128 : oc <= 192 ? 192 : 0; }

template <class T> static bool launch_wide(const conv3_args &a, int size, bool upsample, int sm_count, cudaStream_t stream) {
    if (size == 1) return conv3_launch<T, 1, 4, 2, 192>(a, sm_count, stream);
    if (upsample) return a.oc <= 96 ? conv3_launch<T, 4, 2, 4, 96>(a, sm_count, stream) : conv3_launch<T, 4, 2, 2, 192>(a, sm_count, stream);
    const long c192 = cost(a, 2, 192, sm_count), c128 = cost(a, 2, 128, sm_count), c96 = cost(a, 4, 96, sm_count), c384 = cost(a, 3, 128, sm_count);
    const int columns = a.norm ? norm_columns(a.oc) : c192 <= c128 && c192 <= c96 && c192 <= c384 ? 192 : c128 <= c96 || c384 <= c96 ? 128 : 96;
    if (columns == 192) return conv3_launch<T, 9, 1, 2, 192>(a, sm_count, stream);
    if (columns == 96) return conv3_launch<T, 9, 1, 4, 96>(a, sm_count, stream);
    return c384 < c128 ? conv3_launch<T, 9, 1, 3, 128>(a, sm_count, stream) : conv3_launch<T, 9, 1, 2, 128>(a, sm_count, stream);
}

static bool aligned16(const void *a, const void *b, const void *c, const void *d) { return (((uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d) & 15) == 0; }

/* False: conv3_narrow.cuh does not take it, and nothing was launched. */
static bool launch_narrow(struct sc_cuda *c, const sc_conv3_args *a, int frames, void *out) {
    const sc_filter *f = a->w;
    bool done = false;
    if (!f->narrow || c->force_mma || a->residual || !aligned16(a->x, a->past, NULL, NULL)) return false;
    conv3_narrow_args k = {};
    k.out = out, k.weights = f->narrow, k.bias = f->bias, k.h = a->h, k.w = a->w_px, k.oc = f->out_ch, k.frames = frames;
    SC_ACT_CALL(c->base.act, done = conv3_narrow_launch<T>(c, k, a->x, a->past, f->in_ch));
    return done;
}

/* The same of conv3.cuh. *normed: and the norm that follows has been made. */
static bool launch_tiles(struct sc_cuda *c, const sc_conv3_args *a, int frames, void *out, bool *normed) {
    const sc_filter *f = a->w;
    const int split = a->split ? a->split : 1, oc = f->out_ch / split;
    const void *weights = a->upsample ? f->phases : f->wide;
    bool done = false;
    if (!weights || c->force_mma || !aligned16(a->x, a->past, a->residual, out) || oc % (split > 1 || a->upsample ? 32 : 8) || (a->residual && split > 1)) return false;
    conv3_args k = {};
    k.x = a->x, k.past = a->past, k.residual = a->residual, k.out = out, k.weights = weights, k.bias = f->bias;
    k.h = a->h, k.w = a->w_px, k.ch = f->in_ch, k.oc = f->out_ch, k.oc_padded = padded(f->out_ch, 16);
    k.times = f->taps, k.frames = frames, k.split = split, k.group_ch = oc;
    *normed = a->then && split == 1 && f->size == 3 && norm_columns(oc) && aligned16(a->then->out, NULL, NULL, NULL);
    if (*normed) k.out = a->out, k.norm = a->then->out, k.gamma = a->then->gamma, k.silu = a->then->silu;
    SC_ACT_CALL(c->base.act, done = launch_wide<T>(k, f->size, a->upsample, c->sm_count, c->stream));
    return done;
}

extern "C" sc_status sc_cuda_conv3(sc_device *dev, const sc_conv3_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    const sc_filter *f = a->w;
    const int split = a->split ? a->split : 1, up = a->upsample ? 2 : 1, frames = f->taps ? a->n / f->time_stride : 0;
    void *out = a->out ? a->out : a->then->out;
    bool normed = false;
    assert(f->taps && f->out_ch % split == 0 && (split == 1 || f->size == 1) && (f->taps == 1 || a->past));
    assert(!a->upsample || (f->taps == 1 && f->size == 3 && f->stride == 1 && !f->pad_end && !a->residual));
    if (frames < 1) return SC_OK;
    const int oh = (a->h * up - 1) / f->stride + 1, ow = (a->w_px * up - 1) / f->stride + 1;
    const bool narrow = split == 1 && !a->upsample && launch_narrow(c, a, frames, out);
    if (!narrow && !launch_tiles(c, a, frames, out, &normed)) {
        conv3_mma_args k = {};
        normed = false;
        k.x = a->x, k.past = a->past, k.residual = a->residual, k.out = out, k.weights = f->plain, k.bias = f->bias;
        k.h = a->h, k.w = a->w_px, k.oh = oh, k.ow = ow, k.ch = f->in_ch, k.oc = f->out_ch;
        k.size = f->size, k.stride = f->stride, k.up = up, k.pad = f->pad_end ? 0 : f->size / 2, k.times = f->taps, k.time_stride = f->time_stride;
        k.split = split, k.group_ch = f->out_ch / split;
        SC_ACT_CALL(dev->act, conv3_mma_launch<T>(k, frames, c->stream));
    }
    const sc_status rc = sc_launched("conv3", err);
    if (rc || !a->then || normed) return rc;
    const sc_channel_norm_args norm = {out, a->then->out, a->then->gamma, (size_t)frames * split * oh * ow, f->out_ch / split, a->then->silu};
    return sc_cuda_channel_norm(dev, &norm, err);
}

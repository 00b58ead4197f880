/* filter.cu - packs the weight of a convolution into the forms that the kernels read (filter.h), once, on the host.
 *
 * Odd numbers of 64 output channels take conv.cuh's tiles of 64 channels x 8 x 40 pixels, even ones 128 x 8 x 20: both waste nothing.
 * The forms of wgmma are left out where no such kernel can run: another card, a stride, sources whose channels are no multiple of 8. What conv_ring.cuh
 * refuses of the filters it takes (a doubling with a residual, frames of other than a multiple of 64 channels, unaligned addresses) is conv_mma.cuh's.
 * Thread: engine. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/filter.h"
#include "kernels/cuda/upload.h"

#include <assert.h>
#include <stdlib.h>

static uint16_t bits(float f, sc_dtype act) {
    if (act == SC_F16) return __half_as_ushort(__float2half_rn(f));
    return __bfloat16_as_ushort(__float2bfloat16_rn(f));
}

/* The forms, of w [out][in][taps]: return the elements, write none when `to` is NULL. */
typedef size_t pack(uint16_t *to, const sc_filter *f, const float *w, int taps, sc_dtype act);

/* [step][oc / 64][tap][2 kk][64][8] */
static size_t pack_wide(uint16_t *to, const sc_filter *f, const float *w, int taps, sc_dtype act) {
    const int kk = sc_conv_kk(taps, f->pw), ch = f->in_ch / f->sources, slab = 16 * kk, slabs = (ch + slab - 1) / slab;
    const int oc64 = f->oc_tiles * (f->pw == 1 ? 2 : 1);
    const size_t total = (size_t)f->sources * slabs * oc64 * taps * 2 * kk * 64 * 8;
    for (int o = 0; to && o < f->out_ch; o++)
        for (int i = 0; i < f->in_ch; i++) {
            const int c = i % ch, step = i / ch * slabs + c / slab, plane = c % slab / 8;
            for (int tap = 0; tap < taps; tap++)
                to[(((((size_t)step * oc64 + o / 64) * taps + tap) * 2 * kk + plane) * 64 + o % 64) * 8 + c % 8] = bits(w[((size_t)o * f->in_ch + i) * taps + tap], act);
        }
    return total;
}

extern "C" void sc_cuda_sum_phase(float *to, const float *w, size_t pairs, int phase) {
    const int py = phase / 2, px = phase % 2;
    for (size_t p = 0; p < pairs; p++)
        for (int t = 0; t < 4; t++) {
            float sum = 0;
            /* parity 0: {0}, {1, 2}; parity 1: {0, 1}, {2} */
            for (int y = t / 2 ? 1 + py : 0; y <= (t / 2 ? 2 : py); y++)
                for (int x = t % 2 ? 1 + px : 0; x <= (t % 2 ? 2 : px); x++) sum += w[p * 9 + y * 3 + x];
            to[p * 4 + t] = sum;
        }
}

/* [slab of 64][32][8 pieces of 8 channels], column = 3 tap + output channel, piece p of column c standing at p ^ c % 8. */
static size_t pack_narrow(uint16_t *to, const sc_filter *f, const float *w, int taps, sc_dtype act) {
    for (int o = 0; to && o < f->out_ch; o++)
        for (int i = 0; i < f->in_ch; i++)
            for (int tap = 0; tap < taps; tap++) {
                const int column = tap * SC_NARROW_CHANNELS + o, piece = i / 8 % 8 ^ column % 8;
                to[(((size_t)(i / 64) * 32 + column) * 8 + piece) * 8 + i % 8] = bits(w[((size_t)o * f->in_ch + i) * taps + tap], act);
            }
    return (size_t)(f->in_ch + 63) / 64 * 64 * 32;
}

/* [out / rows][source][slab of 64][tap][rows][8 pieces of 8 channels], piece p of row r standing at p ^ r % 8. */
static size_t pack_ring(uint16_t *to, const sc_filter *f, const float *w, int taps, sc_dtype act) {
    const int rows = f->out_ch % 128 ? 64 : 128, slabs = f->in_ch / 64; /* of all sources, one behind the other as in w */
    for (int o = 0; to && o < f->out_ch; o++)
        for (int i = 0; i < f->in_ch; i++)
            for (int tap = 0; tap < taps; tap++) {
                const size_t place = ((size_t)(o / rows) * slabs + i / 64) * taps + tap;
                to[((place * rows + o % rows) * 8 + (i / 8 % 8 ^ o % 8)) * 8 + i % 8] = bits(w[((size_t)o * f->in_ch + i) * taps + tap], act);
            }
    return (size_t)f->out_ch * f->in_ch * taps;
}

/* [tap][in / 16][oc padded to 64][16] */
static size_t pack_plain(uint16_t *to, const sc_filter *f, const float *w, int taps, sc_dtype act) {
    const int slabs = (f->in_ch + 15) / 16, oc = (f->out_ch + 63) / 64 * 64;
    for (int o = 0; to && o < f->out_ch; o++)
        for (int i = 0; i < f->in_ch; i++)
            for (int tap = 0; tap < taps; tap++)
                to[(((size_t)tap * slabs + i / 16) * oc + o) * 16 + i % 16] = bits(w[((size_t)o * f->in_ch + i) * taps + tap], act);
    return (size_t)taps * slabs * oc * 16;
}

static cudaError_t place(struct sc_cuda *c, void **to, const void *host, size_t bytes) {
    cudaError_t e = cudaMalloc(to, bytes);
    return e == cudaSuccess ? sc_cuda_send(c, *to, host, bytes) : e;
}

/* w [phases][out][in][taps] to the card in one form, phase by phase. */
static cudaError_t pack_and_place(struct sc_cuda *c, void **to, pack *form, const sc_filter *f, const float *w, int taps, int phases) {
    const size_t each = form(NULL, f, NULL, taps, c->base.act), weights = (size_t)f->out_ch * f->in_ch * taps;
    uint16_t *packed = (uint16_t *)calloc(phases * each, 2);
    if (!packed) return cudaErrorMemoryAllocation;
    for (int phase = 0; phase < phases; phase++) form(packed + phase * each, f, w + phase * weights, taps, c->base.act);
    const cudaError_t e = place(c, to, packed, phases * each * 2);
    free(packed);
    return e;
}

extern "C" void sc_cuda_filter_destroy(sc_device *, sc_filter *f) {
    if (!f) return;
    cudaFree(f->wide);
    cudaFree(f->phases);
    cudaFree(f->narrow);
    cudaFree(f->ring);
    cudaFree(f->ring_phases);
    cudaFree(f->plain);
    cudaFree(f->bias);
    free(f);
}

extern "C" sc_status sc_cuda_filter_create(sc_device *dev, sc_filter **out, const sc_filter_desc *d, sc_error *err) {
    if (d->taps || d->time_stride > 1 || d->pad_end) return sc_cuda_filter3_create(dev, out, d, err);
    struct sc_cuda *c = (struct sc_cuda *)dev;
    const int taps = d->size * d->size, oc64 = (d->out_ch + 63) / 64, ch = d->has_past ? d->in_ch / 2 : d->in_ch;
    const size_t pairs = (size_t)d->out_ch * d->in_ch, bias_count = (size_t)(d->out_ch + 127) / 128 * 128;
    const bool wgmma = c->cc_major == 9 && d->stride == 1 && ch % 8 == 0, three = wgmma && d->size == 3, ring = three && ch % 64 == 0 && d->out_ch % 64 == 0;
    sc_filter *f = (sc_filter *)calloc(1, sizeof *f);
    float *w = (float *)malloc(pairs * taps * sizeof *w), *bias = (float *)calloc(bias_count, sizeof *bias), *sums = NULL; /* sums: [4 phases][out][in][2 x 2] */
    cudaError_t e = cudaErrorMemoryAllocation;

    *out = NULL;
    assert((d->size == 1 || d->size == 3) && (d->stride == 1 || d->stride == 2) && !(d->has_past && d->in_ch % 2));
    if (!f || !w || !bias) goto cleanup;
    f->out_ch = d->out_ch, f->in_ch = d->in_ch, f->size = d->size, f->stride = d->stride, f->sources = d->has_past ? 2 : 1;
    f->pw = oc64 % 2 ? 2 : 1;
    f->oc_tiles = f->pw == 1 ? oc64 / 2 : oc64;
    sc_to_f32(w, d->data, d->type, pairs * taps);
    if (d->bias) sc_to_f32(bias, d->bias, d->bias_type, d->out_ch);
    e = place(c, (void **)&f->bias, bias, bias_count * sizeof *bias);
    if (e == cudaSuccess) e = pack_and_place(c, &f->plain, pack_plain, f, w, taps, 1);
    if (e == cudaSuccess && wgmma) e = ring ? pack_and_place(c, &f->ring, pack_ring, f, w, taps, 1) : pack_and_place(c, &f->wide, pack_wide, f, w, taps, 1);
    if (e == cudaSuccess && three && !d->has_past && d->out_ch <= SC_NARROW_CHANNELS && d->in_ch <= SC_NARROW_IN)
        e = pack_and_place(c, &f->narrow, pack_narrow, f, w, taps, 1);
    if (e == cudaSuccess && three && !d->has_past) {
        if (!(sums = (float *)malloc(pairs * 16 * sizeof *sums))) {
            e = cudaErrorMemoryAllocation;
            goto cleanup;
        }
        for (int phase = 0; phase < 4; phase++) sc_cuda_sum_phase(sums + phase * pairs * 4, w, pairs, phase);
        f->phase_elems = pack_wide(NULL, f, NULL, 4, dev->act);
        e = ring ? pack_and_place(c, &f->ring_phases, pack_ring, f, sums, 4, 4) : pack_and_place(c, &f->phases, pack_wide, f, sums, 4, 4);
    }
    if (e == cudaSuccess) {
        *out = f;
        f = NULL;
    }
cleanup:
    free(w), free(sums), free(bias);
    sc_cuda_filter_destroy(dev, f);
    if (e == cudaSuccess) return SC_OK;
    if (e == cudaErrorMemoryAllocation) cudaGetLastError();
    return sc_fail(err, e == cudaErrorMemoryAllocation ? SC_ENOMEM : SC_EGPU, "filter %d x %d x %d x %d: %s", d->out_ch, d->in_ch, d->size, d->size, cudaGetErrorString(e));
}

/* filter.cu - packs the weight of a convolution into the forms that the kernels read (filter.h), once, on the host.
 *
 * Odd numbers of 64 output channels take conv.cuh's tiles of 64 channels x 8 x 40 pixels, even ones 128 x 8 x 20: both waste nothing.
 * The forms of wgmma are left out where conv.cuh cannot run: another card, a stride, sources whose channels are no multiple of 8.
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

/* w [out][in][taps] to [step][oc / 64][tap][2 kk][64][8] at `to`; returns the elements written. */
static size_t pack_wide(uint16_t *to, const sc_filter *f, const float *w, int taps, sc_dtype act) {
    const int kk = sc_conv_kk(taps, f->pw), ch = f->in_ch / f->sources, slab = 16 * kk, slabs = (ch + slab - 1) / slab;
    const int oc64 = f->oc_tiles * (f->pw == 1 ? 2 : 1);
    const size_t total = (size_t)f->sources * slabs * oc64 * taps * 2 * kk * 64 * 8;
    if (!to) return total;
    for (int o = 0; o < f->out_ch; o++)
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

/* w [out][in][9] to [slab of 64][32][8 pieces of 8 channels], column = 3 tap + output channel, piece p of column c standing at p ^ c % 8. */
static void pack_narrow(uint16_t *to, const sc_filter *f, const float *w, sc_dtype act) {
    for (int o = 0; o < f->out_ch; o++)
        for (int i = 0; i < f->in_ch; i++)
            for (int tap = 0; tap < 9; tap++) {
                const int column = tap * SC_NARROW_CHANNELS + o, piece = i / 8 % 8 ^ column % 8;
                to[(((size_t)(i / 64) * 32 + column) * 8 + piece) * 8 + i % 8] = bits(w[((size_t)o * f->in_ch + i) * 9 + tap], act);
            }
}

/* Source `source` of w [64 * groups][in][taps] to [group][part of parts][tap][64][64 channels], piece p of 8 channels of row r standing at p ^ r % 8. */
static void pack_resident(uint16_t *to, const sc_filter *f, const float *w, int taps, int source, int part, int parts, sc_dtype act) {
    for (int o = 0; o < f->out_ch; o++)
        for (int c = 0; c < 64; c++)
            for (int tap = 0; tap < taps; tap++) {
                const int row = o % 64, piece = c / 8 ^ row % 8;
                const size_t place = ((size_t)(o / 64) * parts + part) * taps + tap;
                to[((place * 64 + row) * 8 + piece) * 8 + c % 8] = bits(w[((size_t)o * f->in_ch + source * 64 + c) * taps + tap], act);
            }
}

static void pack_plain(uint16_t *to, const sc_filter *f, const float *w, sc_dtype act) {
    const int taps = f->size * f->size, slabs = (f->in_ch + 15) / 16, oc = (f->out_ch + 63) / 64 * 64;
    for (int o = 0; o < f->out_ch; o++)
        for (int i = 0; i < f->in_ch; i++)
            for (int tap = 0; tap < taps; tap++)
                to[(((size_t)tap * slabs + i / 16) * oc + o) * 16 + i % 16] = bits(w[((size_t)o * f->in_ch + i) * taps + tap], act);
}

static cudaError_t place(struct sc_cuda *c, void **to, const void *host, size_t bytes) {
    cudaError_t e = cudaMalloc(to, bytes);
    return e == cudaSuccess ? sc_cuda_send(c, *to, host, bytes) : e;
}

extern "C" void sc_cuda_filter_destroy(sc_device *, sc_filter *f) {
    if (!f) return;
    cudaFree(f->wide);
    cudaFree(f->phases);
    cudaFree(f->narrow);
    cudaFree(f->resident);
    cudaFree(f->resident_phases);
    cudaFree(f->plain);
    cudaFree(f->bias);
    free(f);
}

extern "C" sc_status sc_cuda_filter_create(sc_device *dev, sc_filter **out, const sc_filter_desc *d, sc_error *err) {
    if (d->taps || d->time_stride > 1 || d->pad_end) return sc_cuda_filter3_create(dev, out, d, err);
    struct sc_cuda *c = (struct sc_cuda *)dev;
    const int taps = d->size * d->size, oc64 = (d->out_ch + 63) / 64, ch = d->has_past ? d->in_ch / 2 : d->in_ch;
    const size_t pairs = (size_t)d->out_ch * d->in_ch, bias_count = (size_t)(d->out_ch + 127) / 128 * 128;
    const size_t plain = (size_t)taps * ((d->in_ch + 15) / 16) * oc64 * 64 * 16;
    const bool wgmma = c->cc_major == 9 && d->stride == 1 && ch % 8 == 0;
    sc_filter *f = (sc_filter *)calloc(1, sizeof *f);
    float *w = (float *)malloc(pairs * taps * sizeof *w), *sums = NULL, *bias = (float *)calloc(bias_count, sizeof *bias);
    uint16_t *packed = NULL;
    cudaError_t e = cudaSuccess;

    *out = NULL;
    assert((d->size == 1 || d->size == 3) && (d->stride == 1 || d->stride == 2) && !(d->has_past && d->in_ch % 2));
    if (!f || !w || !bias) goto no_memory;
    f->out_ch = d->out_ch, f->in_ch = d->in_ch, f->size = d->size, f->stride = d->stride, f->sources = d->has_past ? 2 : 1;
    f->pw = oc64 % 2 ? 2 : 1;
    f->oc_tiles = f->pw == 1 ? oc64 / 2 : oc64;
    sc_to_f32(w, d->data, d->type, pairs * taps);
    if (d->bias) sc_to_f32(bias, d->bias, d->bias_type, d->out_ch);
    e = place(c, (void **)&f->bias, bias, bias_count * sizeof *bias);

    if (!(packed = (uint16_t *)calloc(plain, 2))) goto no_memory;
    pack_plain(packed, f, w, dev->act);
    if (e == cudaSuccess) e = place(c, &f->plain, packed, plain * 2);
    if (wgmma) {
        const size_t count = pack_wide(NULL, f, NULL, taps, dev->act);
        free(packed);
        if (!(packed = (uint16_t *)calloc(count, 2))) goto no_memory;
        pack_wide(packed, f, w, taps, dev->act);
        if (e == cudaSuccess) e = place(c, &f->wide, packed, count * 2);
    }
    if (wgmma && d->size == 3 && !d->has_past && d->out_ch <= SC_NARROW_CHANNELS && d->in_ch <= SC_NARROW_IN) {
        const size_t count = (size_t)(d->in_ch + 63) / 64 * 64 * 32;
        free(packed);
        if (!(packed = (uint16_t *)calloc(count, 2))) goto no_memory;
        pack_narrow(packed, f, w, dev->act);
        if (e == cudaSuccess) e = place(c, &f->narrow, packed, count * 2);
    }
    if (wgmma && d->size == 3 && ch == 64 && d->out_ch == 64) {
        const size_t count = pairs * taps;
        free(packed);
        if (!(packed = (uint16_t *)calloc(count, 2))) goto no_memory;
        for (int s = 0; s < f->sources; s++) pack_resident(packed, f, w, taps, s, s, f->sources, dev->act);
        if (e == cudaSuccess) e = place(c, &f->resident, packed, count * 2);
    }
    if (wgmma && d->size == 3 && !d->has_past) {
        const bool resident = ch == 64 && d->out_ch % 64 == 0;
        uint16_t *kept = NULL;
        f->phase_elems = pack_wide(NULL, f, NULL, 4, dev->act);
        free(packed);
        packed = (uint16_t *)calloc(4 * f->phase_elems, 2);
        sums = (float *)malloc(pairs * 4 * sizeof *sums);
        if (resident) kept = (uint16_t *)calloc(pairs * 16, 2);
        if (!packed || !sums || (resident && !kept)) {
            free(kept);
            goto no_memory;
        }
        for (int phase = 0; phase < 4; phase++) {
            sc_cuda_sum_phase(sums, w, pairs, phase);
            pack_wide(packed + phase * f->phase_elems, f, sums, 4, dev->act);
            if (resident) pack_resident(kept, f, sums, 4, 0, phase, 4, dev->act);
        }
        if (e == cudaSuccess) e = place(c, &f->phases, packed, 4 * f->phase_elems * 2);
        if (e == cudaSuccess && resident) e = place(c, &f->resident_phases, kept, pairs * 16 * 2);
        free(kept);
    }
    free(w), free(sums), free(bias), free(packed);
    if (e == cudaSuccess) {
        *out = f;
        return SC_OK;
    }
    sc_cuda_filter_destroy(dev, f);
    if (e == cudaErrorMemoryAllocation) cudaGetLastError();
    return sc_fail(err, e == cudaErrorMemoryAllocation ? SC_ENOMEM : SC_EGPU, "filter %d x %d x %d x %d: %s", d->out_ch, d->in_ch, d->size, d->size, cudaGetErrorString(e));
no_memory:
    free(w), free(sums), free(bias), free(packed);
    sc_cuda_filter_destroy(dev, f);
    return sc_fail(err, SC_ENOMEM, "filter %d x %d x %d x %d: out of memory", d->out_ch, d->in_ch, d->size, d->size);
}

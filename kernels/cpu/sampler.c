/* sampler.c - noise and the denoising step; the twin's and the fast path's are the same arithmetic, so that a stream replays.
 *
 * Noise is counter-based: element i depends on (seed, chunk, step, i) alone, whatever the thread, the batch or the device.
 * Philox4x32-10 gives four words per counter, Box-Muller makes four normals of them. Logarithm, root and angle are taken in
 * double and rounded once: 2^-32 is the smallest u1, so the largest normal is 6.66. A chunk of the pocket model needs 30,720
 * normals a step, which is under a millisecond on one core: threads are worth it, vectors are not.
 *
 * The step: x0 = x - sigma * flow in double, rounded once (the reference's conversion runs in float64); the renoising mix is
 * float32, as the reference's add_noise.
 * Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011); Self-Forcing's FlowMatchScheduler. */
#include "kernels/cpu/conv.h"

#include <assert.h>
#include <math.h>

void sc_philox(uint32_t out[4], const uint32_t c[4], const uint32_t k[2]) {
    uint32_t c0 = c[0], c1 = c[1], c2 = c[2], c3 = c[3], k0 = k[0], k1 = k[1];
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u; /* golden ratio */
        k1 += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void sc_noise_range(float *out, const sc_noise_args *a, size_t first, size_t count) {
    const uint32_t key[2] = {(uint32_t)a->seed, (uint32_t)(a->seed >> 32)};
    const double two_pi = 6.283185307179586476925286766559, scale = 0x1p-32;
    assert(first % 4 == 0);
    for (size_t i = 0; i < count; i += 4) {
        const uint32_t counter[4] = {(uint32_t)((first + i) / 4), a->step, (uint32_t)a->chunk, (uint32_t)(a->chunk >> 32)};
        uint32_t w[4];
        sc_philox(w, counter, key);
        for (size_t pair = 0; pair < 4 && i + pair < count; pair += 2) {
            double r = sqrt(-2 * log(((double)w[pair] + 1) * scale)), angle = two_pi * ((double)w[pair + 1] * scale);
            out[i + pair] = (float)(r * cos(angle));
            if (i + pair + 1 < count) out[i + pair + 1] = (float)(r * sin(angle));
        }
    }
}

void sc_denoise_range(const sc_denoise_args *a, size_t first, size_t count) {
    const bool mix = a->next_sigma >= 0;
    const float s = (float)a->next_sigma, keep = 1.0f - s;
    for (size_t i = first; i < first + count; i++) {
        float x0 = (float)((double)a->x[i] - a->sigma * (double)a->flow[i]);
        if (a->x0) a->x0[i] = x0;
        a->x[i] = mix ? keep * x0 + s * a->noise[i] : x0;
    }
}

sc_status sc_twin_noise(sc_device *dev, const sc_noise_args *a, sc_error *err) {
    (void)dev;
    (void)err;
    sc_noise_range(a->out, a, 0, a->count);
    return SC_OK;
}

sc_status sc_twin_denoise(sc_device *dev, const sc_denoise_args *a, sc_error *err) {
    (void)dev;
    (void)err;
    sc_denoise_range(a, 0, a->count);
    return SC_OK;
}

sc_status sc_twin_finite(sc_device *dev, int32_t *out, const float *x, size_t count, sc_error *err) {
    (void)dev, (void)err;
    *out = 1;
    for (size_t i = 0; i < count; i++)
        if (!isfinite(x[i])) *out = 0;
    return SC_OK;
}

/* ---- all cores ---------------------------------------------------------------------------------------------------------- */

enum { NOISE_ITEM = 2048, DENOISE_ITEM = 16384 };

static void noise_item(void *ctx, int item, int thread) {
    const sc_noise_args *a = ctx;
    size_t first = (size_t)item * NOISE_ITEM, left = a->count - first;
    (void)thread;
    sc_noise_range(a->out + first, a, first, left < NOISE_ITEM ? left : NOISE_ITEM);
}

static void denoise_item(void *ctx, int item, int thread) {
    const sc_denoise_args *a = ctx;
    size_t first = (size_t)item * DENOISE_ITEM, left = a->count - first;
    (void)thread;
    sc_denoise_range(a, first, left < DENOISE_ITEM ? left : DENOISE_ITEM);
}

sc_status sc_fast_noise(sc_device *dev, const sc_noise_args *a, sc_error *err) {
    (void)err;
    sc_pool_run(sc_cpu(dev)->pool, noise_item, (void *)a, (int)((a->count + NOISE_ITEM - 1) / NOISE_ITEM));
    return SC_OK;
}

sc_status sc_fast_denoise(sc_device *dev, const sc_denoise_args *a, sc_error *err) {
    (void)err;
    sc_pool_run(sc_cpu(dev)->pool, denoise_item, (void *)a, (int)((a->count + DENOISE_ITEM - 1) / DENOISE_ITEM));
    return SC_OK;
}

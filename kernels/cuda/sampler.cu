/* sampler.cu - counter-based noise, the denoising step, and whether its result is finite.
 *
 * Element i of the noise depends on (seed, chunk, step, i) alone: Philox4x32-10, four words a counter, two Box-Muller pairs, in
 * double and rounded once, as the twin has it, so that a stream replays on any device. A thread makes one counter's four normals.
 * 300,000 normals a step at 832x480 are 75,000 counters: some microseconds, double or not.
 * Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011). Thread: engine; asynchronous. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/cuda.h"

#include <stdint.h>

enum { THREADS = 128, FINITE_EACH = 4 };

__global__ static void noise_kernel(sc_noise_args a) {
    const size_t g = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (4 * g >= a.count) return;
    uint32_t c0 = (uint32_t)g, c1 = a.step, c2 = (uint32_t)a.chunk, c3 = (uint32_t)(a.chunk >> 32), k0 = (uint32_t)a.seed, k1 = (uint32_t)(a.seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t l0 = 0xD2511F53u * c0, h0 = __umulhi(0xD2511F53u, c0), l2 = 0xCD9E8D57u * c2, h2 = __umulhi(0xCD9E8D57u, c2);
        c0 = h2 ^ c1 ^ k0;
        c2 = h0 ^ c3 ^ k1;
        c1 = l2;
        c3 = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const uint32_t w[4] = {c0, c1, c2, c3};
#pragma unroll
    for (int p = 0; p < 4; p += 2) {
        const double r = sqrt(-2 * log(((double)w[p] + 1) * 0x1p-32)), angle = 6.283185307179586476925286766559 * ((double)w[p + 1] * 0x1p-32);
        double s, co;
        sincos(angle, &s, &co);
        if (4 * g + p < a.count) a.out[4 * g + p] = (float)(r * co);
        if (4 * g + p + 1 < a.count) a.out[4 * g + p + 1] = (float)(r * s);
    }
}

__global__ static void denoise_kernel(sc_denoise_args a) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= a.count) return;
    /* No fused multiply-add: the host's twin rounds each product. */
    const float x0 = (float)__dsub_rn((double)a.x[i], __dmul_rn(a.sigma, (double)a.flow[i]));
    if (a.x0) a.x0[i] = x0;
    const float s = (float)a.next_sigma;
    a.x[i] = a.next_sigma >= 0 ? __fadd_rn(__fmul_rn(1.0f - s, x0), __fmul_rn(s, a.noise[i])) : x0;
}

/* By one CTA alone, a value after another, this took 52 us of a chunk's way to its frames. */
__global__ static void say_finite_kernel(int32_t *out) { *out = 1; }
__global__ static void __launch_bounds__(THREADS) finite_kernel(int32_t *out, const float *x, size_t count) {
    const size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * FINITE_EACH;
    bool all = true;
#pragma unroll
    for (int j = 0; j < FINITE_EACH; j++) all &= i + j >= count || isfinite(x[i + j]);
    if (!__syncthreads_and(all) && threadIdx.x == 0) *out = 0;
}

extern "C" sc_status sc_cuda_finite(sc_device *dev, int32_t *out, const float *x, size_t count, sc_error *err) {
    const cudaStream_t stream = ((struct sc_cuda *)dev)->stream;
    say_finite_kernel<<<1, 1, 0, stream>>>(out);
    if (count) finite_kernel<<<(unsigned)((count + FINITE_EACH * THREADS - 1) / (FINITE_EACH * THREADS)), THREADS, 0, stream>>>(out, x, count);
    return sc_launched("finite", err);
}

extern "C" sc_status sc_cuda_noise(sc_device *dev, const sc_noise_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    if (a->count) noise_kernel<<<(unsigned)((a->count + 4 * THREADS - 1) / (4 * THREADS)), THREADS, 0, c->stream>>>(*a);
    return sc_launched("noise", err);
}

extern "C" sc_status sc_cuda_denoise(sc_device *dev, const sc_denoise_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    if (a->count) denoise_kernel<<<(unsigned)((a->count + THREADS - 1) / THREADS), THREADS, 0, c->stream>>>(*a);
    return sc_launched("denoise", err);
}

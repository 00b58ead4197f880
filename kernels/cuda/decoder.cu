/* decoder.cu - the two ends of the decoder: soft-clamped latents to NHWC, and pixels to f32 planes or YUV 4:2:0.
 *
 * Bound: bytes. pixels: one thread per 2 x 2 pixels, so that chroma needs no second reading; 12 frames of 832x480 bring 28.8 MB and
 * leave 7.2 MB of I420. The colour arithmetic rounds after every operation, as the twin's does: bytes are equal.
 * Thread: engine; asynchronous on the device's stream. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.cuh"

#include <assert.h>

using namespace sc;

enum { THREADS = 256 };

template <class T> __global__ static void latent_in_kernel(sc_latent_in_args a) {
    stream_order();
    const size_t picture = (size_t)a.h * a.w, at = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= picture * a.frames) return;
    const size_t frame = at / picture, p = at % picture;
    for (int c = 0; c < a.ch; c++)
        ((T *)a.out)[at * a.ch + c] = from_float<T>(3.0f * tanhf(a.latent[((size_t)c * a.frames + frame) * picture + p] / 3.0f));
}

__device__ __forceinline__ float clamp01(float v) { return v > 0.0f ? v < 1.0f ? v : 1.0f : 0.0f; } /* nan becomes 0 */
__device__ __forceinline__ uint8_t to_byte(float v) {
    v = __fadd_rn(v, 0.5f);
    return v > 0.0f ? v < 255.0f ? (uint8_t)v : 255 : 0;
}
/* x a + y b + z c, each step rounded. */
__device__ __forceinline__ float weigh(float a, float x, float b, float y, float c, float z) {
    return __fadd_rn(__fadd_rn(__fmul_rn(x, a), __fmul_rn(y, b)), __fmul_rn(z, c));
}

template <class T> __global__ static void pixels_kernel(sc_pixels_args a) {
    stream_order();
    const int W = a.w * a.p, H = a.h * a.p, qw = (W + 1) / 2, qh = (H + 1) / 2;
    const size_t quad = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (quad >= (size_t)a.n * qh * qw) return;
    const int x0 = (int)(quad % qw) * 2, y0 = (int)(quad / qw % qh) * 2;
    const size_t n = quad / qw / qh;
    float v[3][4]; /* colour, pixel */
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int y = y0 + i / 2, x = x0 + i % 2;
        if (y >= H || x >= W) continue;
        const T *cell = (const T *)a.x + ((n * a.h + y / a.p) * a.w + x / a.p) * 3 * a.p * a.p + y % a.p * a.p + x % a.p;
#pragma unroll
        for (int k = 0; k < 3; k++) {
            const float as_is = to_float(cell[k * a.p * a.p]), raw = a.centred ? __fadd_rn(__fmul_rn(as_is, 0.5f), 0.5f) : as_is;
            v[k][i] = clamp01(raw);
            if (a.rgb) a.rgb[((n * 3 + k) * H + y) * W + x] = a.clamp ? v[k][i] : raw;
        }
    }
    if (!a.i420) return;
    uint8_t *luma = a.i420 + n * ((size_t)H * W * 3 / 2), *cb = luma + (size_t)H * W, *cr = cb + (size_t)H * W / 4;
    float mean[3];
#pragma unroll
    for (int i = 0; i < 4; i++)
        luma[(size_t)(y0 + i / 2) * W + x0 + i % 2] = to_byte(__fmul_rn(255.0f, weigh(v[0][i], 0.299f, v[1][i], 0.587f, v[2][i], 0.114f)));
#pragma unroll
    for (int k = 0; k < 3; k++) mean[k] = __fmul_rn(0.25f, __fadd_rn(__fadd_rn(__fadd_rn(v[k][0], v[k][1]), v[k][2]), v[k][3]));
    const size_t at = (size_t)(y0 / 2) * (W / 2) + x0 / 2;
    cb[at] = to_byte(__fadd_rn(128.0f, __fmul_rn(255.0f, weigh(mean[0], -0.168735892f, mean[1], -0.331264108f, mean[2], 0.5f))));
    cr[at] = to_byte(__fadd_rn(128.0f, __fmul_rn(255.0f, weigh(mean[0], 0.5f, mean[1], -0.418687589f, mean[2], -0.081312411f))));
}

extern "C" sc_status sc_cuda_latent_in(sc_device *dev, const sc_latent_in_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    const size_t count = (size_t)a->frames * a->h * a->w;
    if (count) SC_ACT_CALL(dev->act, (launch(c, latent_in_kernel<T>, (unsigned)((count + THREADS - 1) / THREADS), THREADS, 0, 0, *a)));
    return sc_launched("latent_in", err);
}

extern "C" sc_status sc_cuda_pixels(sc_device *dev, const sc_pixels_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    const size_t W = (size_t)a->w * a->p, H = (size_t)a->h * a->p, quads = a->n * ((W + 1) / 2) * ((H + 1) / 2);
    assert(!a->i420 || (W % 2 == 0 && H % 2 == 0));
    if (quads) SC_ACT_CALL(dev->act, (launch(c, pixels_kernel<T>, (unsigned)((quads + THREADS - 1) / THREADS), THREADS, 0, 0, *a)));
    return sc_launched("pixels", err);
}

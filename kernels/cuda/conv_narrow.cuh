/* conv_narrow.cuh - 3x3 convolution to at most 3 channels (the decoder's last) on wgmma (sm_90a).
 *
 * Idea. The nine taps times three channels are the 27 columns of one product over the input channels: every pixel of the halo tile is
 * multiplied once with all of them, and an output is the sum of nine neighbours' parts. conv.cuh would pad 3 channels to 64 for each tap;
 * pixels as M with the channels alone as N = 8 read each pixel nine times from shared memory.
 *
 * A CTA makes 8 rows of 32 pixels. The halo tile, 10 rows of 34, is a flat list of pixels: 8 in a row are a core matrix, 64 are M; two
 * warpgroups take three such runs each. Shared memory, one stage of 64 channels: planes of 8 channels [8][340][8], weights [8 planes][32][8];
 * then, in the same place, parts [27][388] f32. Three CTAs fit a multiprocessor and cover each other's loads.
 *
 * Bound: bytes. Reading a 64-channel picture of 12 frames at 832x480 takes 0.2 ms. */
#ifndef SC_KERNELS_CUDA_CONV_NARROW_CUH
#define SC_KERNELS_CUDA_CONV_NARROW_CUH
#include "kernels/cuda/conv.cuh"
#include "kernels/cuda/filter.h"

namespace sc {

enum {
    NARROW_W = 32, NARROW_H = 8, NARROW_LINE = NARROW_W + 2, NARROW_PIXELS = (NARROW_H + 2) * NARROW_LINE, NARROW_PLANES = 8, NARROW_PLANE = NARROW_PIXELS * 16, NARROW_N = 32,
    NARROW_RUNS = 3,     /* runs of 64 pixels of a warpgroup */
    NARROW_PITCH = 388,  /* floats of a column of parts; 4 mod 32: no bank twice */
    NARROW_WEIGHTS_AT = NARROW_PLANES * NARROW_PLANE, NARROW_WEIGHTS = NARROW_PLANES * NARROW_N * 8 /* elements of 64 channels */,
    NARROW_SHARED = NARROW_WEIGHTS_AT + NARROW_WEIGHTS * 2
};
static_assert(9 * SC_NARROW_CHANNELS * NARROW_PITCH * 4 <= NARROW_WEIGHTS_AT && 2 * NARROW_RUNS * 64 >= NARROW_PIXELS, "tile");

struct conv_narrow_args {
    const void *x;
    void *out;
    const void *weights; /* [slab of 64][8 planes][32][8], column = 3 tap + channel */
    const float *bias;
    int h, w, ch, oc, tiles_x;
    bool relu;
};

#define SC_WGMMA_32(type)                                                                                                           \
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type                                                        \
                 " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, 1, 1, 1, 0, 0;\n"                             \
                 : SC_R8(0), SC_R8(8) : "l"(a), "l"(b))
template <class T> __device__ __forceinline__ void wgmma32(float (&d)[16], uint64_t a, uint64_t b);
#ifdef SC_CONV_WGMMA
template <> __device__ __forceinline__ void wgmma32<__half>(float (&d)[16], uint64_t a, uint64_t b) { SC_WGMMA_32("f16"); }
template <> __device__ __forceinline__ void wgmma32<__nv_bfloat16>(float (&d)[16], uint64_t a, uint64_t b) { SC_WGMMA_32("bf16"); }
#endif

/* Grid: (tiles of the picture, 1, frames). */
template <class T> __global__ static void __launch_bounds__(CONV_THREADS, 3) conv_narrow_kernel(const __grid_constant__ conv_narrow_args a) {
#ifdef SC_CONV_WGMMA
    extern __shared__ __align__(1024) unsigned char conv_shared[];
    const int x0 = blockIdx.x % a.tiles_x * NARROW_W, y0 = blockIdx.x / a.tiles_x * NARROW_H, group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const uint32_t base = shared_at(conv_shared);
    const T *x = (const T *)a.x + (size_t)blockIdx.z * a.h * a.w * a.ch;
    float d[NARROW_RUNS][16];
#pragma unroll
    for (int i = 0; i < NARROW_RUNS * 16; i++) d[i / 16][i % 16] = 0;
    for (int c0 = 0; c0 < a.ch; c0 += 64) {
        if (c0) __syncthreads();
        for (int i = threadIdx.x; i < NARROW_PIXELS * NARROW_PLANES; i += CONV_THREADS) {
            const int plane = i % NARROW_PLANES, p = i / NARROW_PLANES, sy = y0 + p / NARROW_LINE - 1, sx = x0 + p % NARROW_LINE - 1, ch = c0 + plane * 8;
            const bool in = sy >= 0 && sy < a.h && sx >= 0 && sx < a.w && ch < a.ch;
            copy16_async(base + plane * NARROW_PLANE + p * 16, in ? x + ((size_t)sy * a.w + sx) * a.ch + ch : x, in ? 16 : 0);
        }
        const T *w = (const T *)a.weights + (size_t)(c0 / 64) * NARROW_WEIGHTS;
        for (int i = threadIdx.x; i < NARROW_WEIGHTS / 8; i += CONV_THREADS) copy16_async(base + NARROW_WEIGHTS_AT + i * 16, w + i * 8, 16);
        copy_commit();
        copy_wait<0>();
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int k = 0; k < NARROW_PLANES / 2; k++)
#pragma unroll
            for (int run = 0; run < NARROW_RUNS; run++) /* pixels past the tile: rows that nobody reads */
                wgmma32<T>(d[run], conv_descriptor(base + 2 * k * NARROW_PLANE + (group * NARROW_RUNS + run) * 1024, NARROW_PLANE, 128),
                           conv_descriptor(base + NARROW_WEIGHTS_AT + 2 * k * NARROW_N * 16, NARROW_N * 16, 128));
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }
    __syncthreads();

    /* Accumulator: pixel 16 warp + lane / 4 (+ 8) of a run, columns 8 j + lane % 4 * 2 (+ 1). */
    float *parts = (float *)conv_shared;
#pragma unroll
    for (int run = 0; run < NARROW_RUNS; run++)
#pragma unroll
        for (int e = 0; e < 16; e++) {
            const int column = e / 4 * 8 + lane % 4 * 2 + e % 2, pixel = (group * NARROW_RUNS + run) * 64 + warp * 16 + lane / 4 + e / 2 % 2 * 8;
            if (column < 9 * SC_NARROW_CHANNELS && pixel < NARROW_PIXELS) parts[column * NARROW_PITCH + pixel] = d[run][e];
        }
    __syncthreads();
    const int row = threadIdx.x / NARROW_W, col = threadIdx.x % NARROW_W, y = y0 + row, xx = x0 + col;
    if (y >= a.h || xx >= a.w) return;
    T *out = (T *)a.out + (((size_t)blockIdx.z * a.h + y) * a.w + xx) * a.oc;
    for (int o = 0; o < a.oc; o++) {
        float v = a.bias[o];
#pragma unroll
        for (int tap = 0; tap < 9; tap++) v += parts[(tap * SC_NARROW_CHANNELS + o) * NARROW_PITCH + (row + tap / 3) * NARROW_LINE + col + tap % 3];
        out[o] = from_float<T>(a.relu ? fmaxf(v, 0.0f) : v);
    }
#endif
}

template <class T> static void conv_narrow_launch(const conv_narrow_args &a, int frames, cudaStream_t stream) {
    const int tiles_y = (a.h + NARROW_H - 1) / NARROW_H;
    cudaFuncSetAttribute(conv_narrow_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, NARROW_SHARED);
    conv_narrow_kernel<T><<<dim3(a.tiles_x * tiles_y, 1, frames), CONV_THREADS, NARROW_SHARED, stream>>>(a);
}

} // namespace sc
#endif

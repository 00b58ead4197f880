/* conv_narrow.cuh - 3x3 convolution to a few output channels (the decoder's last) as implicit GEMM on wgmma (sm_90a).
 *
 * Roles. conv.cuh would pad 3 channels to 64; here pixels are M (A, 64 of them: 8 rows of 8) and channels N = 8 or 16 (B). Eight
 * pixels of a row are the eight rows of a core matrix, as there, so the nine taps read one halo tile at shifted addresses. A CTA has
 * two warpgroups, each two tiles of 8 x 8 one above the other: 8 x 32 pixels.
 *
 * Shared memory, one stage of 64 channels: planes of 8 channels [8][34][10][8], then weights [tap][8 planes][N][8]. Four CTAs fit a
 * multiprocessor and cover each other's loads.
 *
 * Bound: bytes. Reading a 64-channel picture of 12 frames at 832x480 takes 0.2 ms; A is read from shared memory at 16 cycles a product,
 * which takes as long. */
#ifndef SC_KERNELS_CUDA_CONV_NARROW_CUH
#define SC_KERNELS_CUDA_CONV_NARROW_CUH
#include "kernels/cuda/conv.cuh"

namespace sc {

enum {
    NARROW_ROWS = 32, NARROW_SLAB = 64, NARROW_PLANES = NARROW_SLAB / 8, NARROW_PLANE = (NARROW_ROWS + 2) * CONV_COLS * 16, /* 64 mod 128 */
    NARROW_MAX = 16
};

struct conv_narrow_args {
    const void *x;
    void *out;
    const void *weights; /* [slab][tap][8 planes][N][8] */
    const float *bias;
    int h, w, ch, oc, tiles_x;
    bool relu;
};

#define SC_WGMMA_8(type)                                                                                                            \
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32." type "." type " {%0,%1,%2,%3}, %4, %5, 1, 1, 1, 0, 0;\n"             \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b))
#define SC_WGMMA_16(type)                                                                                                           \
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32." type "." type " {%0,%1,%2,%3,%4,%5,%6,%7}, %8, %9, 1, 1, 1, 0, 0;\n" \
                 : SC_R8(0) : "l"(a), "l"(b))
template <class T, int N> struct narrow_product;
#ifdef SC_CONV_WGMMA
template <> struct narrow_product<__half, 8> { static __device__ __forceinline__ void run(float (&d)[4], uint64_t a, uint64_t b) { SC_WGMMA_8("f16"); } };
template <> struct narrow_product<__nv_bfloat16, 8> { static __device__ __forceinline__ void run(float (&d)[4], uint64_t a, uint64_t b) { SC_WGMMA_8("bf16"); } };
template <> struct narrow_product<__half, 16> { static __device__ __forceinline__ void run(float (&d)[8], uint64_t a, uint64_t b) { SC_WGMMA_16("f16"); } };
template <> struct narrow_product<__nv_bfloat16, 16> { static __device__ __forceinline__ void run(float (&d)[8], uint64_t a, uint64_t b) { SC_WGMMA_16("bf16"); } };
#endif

__host__ __device__ constexpr int narrow_shared_bytes(int n) { return NARROW_PLANES * NARROW_PLANE + 9 * NARROW_PLANES * n * 16; }

/* Grid: (tiles of the picture, 1, frames). */
template <class T, int N> __global__ static void __launch_bounds__(CONV_THREADS, 4) conv_narrow_kernel(const __grid_constant__ conv_narrow_args a) {
#ifdef SC_CONV_WGMMA
    extern __shared__ __align__(1024) unsigned char conv_shared[];
    constexpr int WEIGHTS_AT = NARROW_PLANES * NARROW_PLANE, WEIGHTS = 9 * NARROW_PLANES * N * 8;
    const int x0 = blockIdx.x % a.tiles_x * 8, y0 = blockIdx.x / a.tiles_x * NARROW_ROWS, group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const uint32_t base = shared_at(conv_shared);
    const T *x = (const T *)a.x + (size_t)blockIdx.z * a.h * a.w * a.ch;
    float d[2][N / 2];
#pragma unroll
    for (int i = 0; i < N; i++) d[i / (N / 2)][i % (N / 2)] = 0;
    for (int c0 = 0; c0 < a.ch; c0 += NARROW_SLAB) {
        if (c0) __syncthreads();
        for (int i = threadIdx.x; i < (NARROW_ROWS + 2) * CONV_COLS * NARROW_PLANES; i += CONV_THREADS) {
            const int plane = i % NARROW_PLANES, p = i / NARROW_PLANES, sy = y0 + p / CONV_COLS - 1, sx = x0 + p % CONV_COLS - 1, ch = c0 + plane * 8;
            const bool in = sy >= 0 && sy < a.h && sx >= 0 && sx < a.w && ch < a.ch;
            copy16_async(base + plane * NARROW_PLANE + p * 16, in ? x + ((size_t)sy * a.w + sx) * a.ch + ch : x, in ? 16 : 0);
        }
        const T *w = (const T *)a.weights + (size_t)(c0 / NARROW_SLAB) * WEIGHTS;
        for (int i = threadIdx.x; i < WEIGHTS / 8; i += CONV_THREADS) copy16_async(base + WEIGHTS_AT + i * 16, w + i * 8, 16);
        copy_commit();
        copy_wait<0>();
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        const int steps = min(NARROW_SLAB, a.ch - c0 + 15) / 16;
        for (int k = 0; k < steps; k++) {
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (int tap = 0; tap < 9; tap++) {
                const uint64_t b = conv_descriptor(base + WEIGHTS_AT + (tap * NARROW_PLANES + 2 * k) * N * 16, N * 16, 128);
#pragma unroll
                for (int tile = 0; tile < 2; tile++)
                    narrow_product<T, N>::run(d[tile], conv_descriptor(base + 2 * k * NARROW_PLANE + ((group * 16 + tile * 8 + tap / 3) * CONV_COLS + tap % 3) * 16, NARROW_PLANE, CONV_COLS * 16), b);
            }
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }

    /* Accumulator: pixel lane / 4 of picture row 2 warp (+ 1), channels 8 j + lane % 4 * 2 (+ 1). */
#pragma unroll
    for (int tile = 0; tile < 2; tile++)
#pragma unroll
        for (int e = 0; e < N / 2; e++) {
            const int o = e / 4 * 8 + lane % 4 * 2 + e % 2, y = y0 + group * 16 + tile * 8 + warp * 2 + e / 2 % 2, xx = x0 + lane / 4;
            if (o >= a.oc || y >= a.h || xx >= a.w) continue;
            const float v = d[tile][e] + a.bias[o];
            ((T *)a.out)[(((size_t)blockIdx.z * a.h + y) * a.w + xx) * a.oc + o] = from_float<T>(a.relu ? fmaxf(v, 0.0f) : v);
        }
#endif
}

template <class T, int N> static void conv_narrow_launch(const conv_narrow_args &a, int frames, cudaStream_t stream) {
    const int bytes = narrow_shared_bytes(N), tiles_y = (a.h + NARROW_ROWS - 1) / NARROW_ROWS;
    cudaFuncSetAttribute(conv_narrow_kernel<T, N>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    conv_narrow_kernel<T, N><<<dim3(a.tiles_x * tiles_y, 1, frames), CONV_THREADS, bytes, stream>>>(a);
}

} // namespace sc
#endif

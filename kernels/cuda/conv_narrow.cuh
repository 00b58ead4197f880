/* conv_narrow.cuh - 3x3 convolution to at most 3 channels (the decoder's last) on wgmma (sm_90a).
 *
 * Idea. The nine taps times three channels are the 27 columns of one product over the input channels: every pixel of the halo tile is
 * multiplied once with all of them, and an output is the sum of nine neighbours' parts. conv.cuh would pad 3 channels to 64 for each tap;
 * pixels as M with the channels alone as N = 8 read each pixel nine times from shared memory.
 *
 * A CTA makes tiles of 8 rows of 32 pixels, one after the other. The halo tile, 10 rows of 34, is a flat list of pixels of 64 channels, 128 bytes
 * swizzled by as much: 64 pixels are M; two warpgroups take three such runs each. Shared memory: the halo tile, copied by the tensor copy
 * (zeros outside the picture), weights of all channels [slab of 64][32][64], parts [27][388] f32. The next tile, or the next 64 channels of this one, is
 * ordered as soon as the products have read the last, so it comes while parts are added up and written; two CTAs fit a multiprocessor.
 *
 * Bound: bytes. Reading a 64-channel picture of 12 frames at 832x480 takes 0.2 ms. */
#ifndef SC_KERNELS_CUDA_CONV_NARROW_CUH
#define SC_KERNELS_CUDA_CONV_NARROW_CUH
#include "kernels/cuda/conv.cuh"
#include "kernels/cuda/conv3.cuh"
#include "kernels/cuda/filter.h"
#include "kernels/cuda/launch.cuh"

namespace sc {

enum {
    NARROW_W = 32, NARROW_H = 8, NARROW_LINE = NARROW_W + 2, NARROW_PIXELS = (NARROW_H + 2) * NARROW_LINE, NARROW_ROW = 128, NARROW_N = 32,
    NARROW_RUNS = 3,     /* runs of 64 pixels of a warpgroup */
    NARROW_PITCH = 388,  /* floats of a column of parts; 4 mod 32: no bank twice */
    NARROW_PARTS = 9 * SC_NARROW_CHANNELS * NARROW_PITCH * 4, NARROW_STAGE = 2 * NARROW_RUNS * 64 * NARROW_ROW, NARROW_WEIGHTS = NARROW_N * NARROW_ROW /* of 64 channels */
};
static_assert(2 * NARROW_RUNS * 64 >= NARROW_PIXELS && NARROW_PITCH >= NARROW_PIXELS, "tile");

constexpr int narrow_shared_bytes(int slabs) { return NARROW_STAGE + slabs * NARROW_WEIGHTS + NARROW_PARTS + 16 + 1023; }

struct conv_narrow_args {
    void *out;
    const void *weights; /* [slab of 64][32][64], column = 3 tap + channel, swizzled as in shared memory */
    const float *bias;
    int h, w, slabs, oc, tiles_x, tiles_y, tiles;
    bool relu;
};

#ifdef SC_CONV3_WGMMA
/* A warpgroup's three runs times the weights of 64 channels, added to d; done when it returns. */
template <class T, int N> __device__ __forceinline__ void narrow_product(float (&d)[NARROW_RUNS][N], uint64_t pixels, uint64_t w) {
#pragma unroll
    for (int run = 0; run < NARROW_RUNS; run++) hopper::registers_ready(d[run]);
    hopper::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int run = 0; run < NARROW_RUNS; run++) /* pixels past the tile: rows that nobody reads */
            conv3_product(d[run], pixels + run * (64 * NARROW_ROW / 16) + 2 * k, w + 2 * k, T());
    hopper::wgmma_commit();
    hopper::wgmma_wait<0>();
#pragma unroll
    for (int run = 0; run < NARROW_RUNS; run++) hopper::registers_ready(d[run]);
}
#endif

/* Grid: two CTAs a multiprocessor. */
template <class T> __global__ static void __launch_bounds__(CONV_THREADS, 2) conv_narrow_kernel(const __grid_constant__ conv_narrow_args a, const __grid_constant__ CUtensorMap x) {
#ifdef SC_CONV3_WGMMA
    extern __shared__ __align__(1024) unsigned char conv3_shared[];
    const uint32_t start = shared_at(conv3_shared), stage = (start + 1023) & ~1023u, weights = stage + NARROW_STAGE, full = weights + a.slabs * NARROW_WEIGHTS + NARROW_PARTS, ready = full + 8;
    float *parts = (float *)(conv3_shared + (weights + a.slabs * NARROW_WEIGHTS - start));
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, places = a.tiles_x * a.tiles_y;
    if (threadIdx.x == 0) {
        hopper::barrier_init(full, 1);
        hopper::barrier_init(ready, 1);
        hopper::barrier_init_fence();
        hopper::barrier_expect(ready, a.slabs * NARROW_WEIGHTS);
        hopper::copy_1d(weights, a.weights, a.slabs * NARROW_WEIGHTS, ready); /* nobody writes weights: no need for stream_order */
    }
    __syncthreads();
    stream_order();
    auto order = [&](int tile, int slab) {
        hopper::barrier_expect(full, NARROW_PIXELS * NARROW_ROW);
        picture_copy(stage, &x, slab * 64, tile % places % a.tiles_x * NARROW_W - 1, tile % places / a.tiles_x * NARROW_H - 1, tile / places, full);
    };
    if (threadIdx.x == 0 && blockIdx.x < a.tiles) order(blockIdx.x, 0);
    hopper::barrier_wait(ready, 0);
    uint32_t parity = 0;
    for (int tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        float d[NARROW_RUNS][NARROW_N / 2];
#pragma unroll
        for (int i = 0; i < NARROW_RUNS * NARROW_N / 2; i++) d[i / (NARROW_N / 2)][i % (NARROW_N / 2)] = 0;
        for (int slab = 0; slab < a.slabs; slab++, parity ^= 1) {
            const uint64_t pixels = conv3_descriptor(stage + group * NARROW_RUNS * 64 * NARROW_ROW, 8 * NARROW_ROW, 1), w = conv3_descriptor(weights + slab * NARROW_WEIGHTS, 8 * NARROW_ROW, 1);
            hopper::barrier_wait(full, parity);
            narrow_product<T>(d, pixels, w);
            __syncthreads(); /* the stage has been read, and the parts of the tile before */
            if (threadIdx.x == 0) {
                if (slab + 1 < a.slabs) order(tile, slab + 1);
                else if (tile + gridDim.x < a.tiles) order(tile + gridDim.x, 0);
            }
        }

        /* Accumulator: pixel 16 warp + lane / 4 (+ 8) of a run, columns 8 j + lane % 4 * 2 (+ 1). */
#pragma unroll
        for (int run = 0; run < NARROW_RUNS; run++)
#pragma unroll
            for (int e = 0; e < 16; e++) {
                const int column = e / 4 * 8 + lane % 4 * 2 + e % 2, pixel = (group * NARROW_RUNS + run) * 64 + warp * 16 + lane / 4 + e / 2 % 2 * 8;
                if (column < 9 * SC_NARROW_CHANNELS && pixel < NARROW_PIXELS) parts[column * NARROW_PITCH + pixel] = d[run][e];
            }
        __syncthreads();
        const int row = threadIdx.x / NARROW_W, col = threadIdx.x % NARROW_W, y = tile % places / a.tiles_x * NARROW_H + row, xx = tile % places % a.tiles_x * NARROW_W + col;
        if (y >= a.h || xx >= a.w) continue;
        T *out = (T *)a.out + (((size_t)(tile / places) * a.h + y) * a.w + xx) * a.oc;
        for (int o = 0; o < a.oc; o++) {
            float v = a.bias[o];
#pragma unroll
            for (int tap = 0; tap < 9; tap++) v += parts[(tap * SC_NARROW_CHANNELS + o) * NARROW_PITCH + (row + tap / 3) * NARROW_LINE + col + tap % 3];
            out[o] = from_float<T>(a.relu ? fmaxf(v, 0.0f) : v);
        }
    }
#endif
}

/* What conv3_map needs. */
struct narrow_box { enum { ROW = NARROW_ROW, COLS = NARROW_LINE, ROWS = NARROW_H + 2 }; };

/* x [frames][h][w][ch]. False: the driver takes no such pictures, and nothing was launched. */
template <class T> static bool conv_narrow_launch(struct sc_cuda *c, conv_narrow_args a, const void *x, int ch, int frames) {
    conv3_args picture = {};
    picture.h = a.h, picture.w = a.w, picture.ch = ch;
    CUtensorMap map;
    if (!conv3_map<narrow_box>(&map, x, picture, frames)) return false;
    a.slabs = (ch + 63) / 64, a.tiles_x = (a.w + NARROW_W - 1) / NARROW_W, a.tiles_y = (a.h + NARROW_H - 1) / NARROW_H, a.tiles = a.tiles_x * a.tiles_y * frames;
    cudaFuncSetAttribute(conv_narrow_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, narrow_shared_bytes(SC_NARROW_IN / 64));
    launch(c, conv_narrow_kernel<T>, a.tiles < 2 * c->sm_count ? a.tiles : 2 * c->sm_count, CONV_THREADS, narrow_shared_bytes(a.slabs), 0, a, map);
    return true;
}

} // namespace sc
#endif

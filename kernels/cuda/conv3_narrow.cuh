/* conv3_narrow.cuh - causal 3x3x3 convolution to at most 3 channels (the Wan VAE's last) on wgmma (sm_90a).
 *
 * Idea. As conv_narrow.cuh: the nine taps of the plane times three channels are columns of one product, every pixel of the halo tile is
 * multiplied once, and an output is the sum of nine neighbours' parts. The three taps in time are three such sets of 32 columns: frame t gives parts
 * to the outputs t, t + 1 and t + 2, in whose accumulators they are added up. A CTA walks through the frames of its tile, the two of the
 * past first; after frame t the first set is complete, goes through shared memory to be summed, and the others move up. So a picture is
 * read once, not once for each frame that sees it.
 *
 * Tiles of 8 rows of 32 pixels, two warpgroups with three runs of 64 halo pixels each, 3 x 48 accumulators a thread. Shared memory: a ring of
 * STAGES halo tiles of 64 channels, by the tensor copy (zeros outside the picture and past the last channel), weights [slab of 64][96][64], parts
 * [27][388] f32; one CTA a multiprocessor, persistent.
 *
 * Bound: bytes. Reading 12 frames of 96 channels at 832x480 takes 0.31 ms. */
#ifndef SC_KERNELS_CUDA_CONV3_NARROW_CUH
#define SC_KERNELS_CUDA_CONV3_NARROW_CUH
#include "kernels/cuda/conv_narrow.cuh"

namespace sc {

enum { NARROW3_N = 96, NARROW3_SET = NARROW3_N / 3, NARROW3_STAGES = 3, NARROW3_WEIGHTS = NARROW3_N * NARROW_ROW /* of 64 channels */ };

constexpr int narrow3_shared_bytes(int slabs) { return NARROW3_STAGES * (NARROW_STAGE + 8) + slabs * NARROW3_WEIGHTS + NARROW_PARTS + 8 + 1023; }
static_assert(narrow3_shared_bytes(SC_NARROW3_IN / 64) <= CONV3_SHARED_MAX, "fits");

struct conv3_narrow_args {
    void *out;
    const void *weights; /* [slab of 64][96][64], column = 32 (2 - frame) + 3 tap + channel, swizzled as in shared memory */
    const float *bias;
    int h, w, slabs, oc, frames, tiles_x, tiles;
};

/* Grid: a CTA a multiprocessor at most. */
template <class T> __global__ static void __launch_bounds__(CONV_THREADS, 1)
conv3_narrow_kernel(const __grid_constant__ conv3_narrow_args a, const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap past) {
#ifdef SC_CONV3_WGMMA
    extern __shared__ __align__(1024) unsigned char conv3_shared[];
    const uint32_t start = shared_at(conv3_shared), base = (start + 1023) & ~1023u, weights = base + NARROW3_STAGES * NARROW_STAGE;
    const uint32_t full = weights + a.slabs * NARROW3_WEIGHTS + NARROW_PARTS, ready = full + 8 * NARROW3_STAGES;
    float *parts = (float *)(conv3_shared + (weights + a.slabs * NARROW3_WEIGHTS - start));
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, row = threadIdx.x / NARROW_W, col = threadIdx.x % NARROW_W;
    const int each = (a.frames + 2) * a.slabs, uses = (a.tiles - 1 - (int)blockIdx.x) / (int)gridDim.x * each + each; /* stages of a tile, of this CTA */
    if (threadIdx.x == 0) {
        for (int s = 0; s <= NARROW3_STAGES; s++) hopper::barrier_init(full + 8 * s, 1);
        hopper::barrier_init_fence();
        hopper::barrier_expect(ready, a.slabs * NARROW3_WEIGHTS);
        hopper::copy_1d(weights, a.weights, a.slabs * NARROW3_WEIGHTS, ready); /* nobody writes weights: no need for stream_order */
    }
    __syncthreads();
    stream_order();
    auto order = [&](int use) {
        const int stage = use % NARROW3_STAGES, tile = blockIdx.x + use / each * gridDim.x, frame = use % each / a.slabs - 2;
        hopper::barrier_expect(full + 8 * stage, NARROW_PIXELS * NARROW_ROW);
        picture_copy(base + stage * NARROW_STAGE, frame < 0 ? &past : &x, use % a.slabs * 64, tile % a.tiles_x * NARROW_W - 1, tile / a.tiles_x * NARROW_H - 1,
                     frame < 0 ? frame + 2 : frame, full + 8 * stage);
    };
    if (threadIdx.x == 0)
        for (int use = 0; use < NARROW3_STAGES && use < uses; use++) order(use);
    hopper::barrier_wait(ready, 0);
    int use = 0;
    for (int tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        const int y = tile / a.tiles_x * NARROW_H + row, xx = tile % a.tiles_x * NARROW_W + col;
        float d[NARROW_RUNS][NARROW3_N / 2];
#pragma unroll
        for (int i = 0; i < NARROW_RUNS * NARROW3_N / 2; i++) d[i / (NARROW3_N / 2)][i % (NARROW3_N / 2)] = 0;
#pragma unroll 1
        for (int frame = -2; frame < a.frames; frame++) {
#pragma unroll 1
            for (int slab = 0; slab < a.slabs; slab++, use++) {
                const int stage = use % NARROW3_STAGES;
                const uint64_t pixels = conv3_descriptor(base + stage * NARROW_STAGE + group * NARROW_RUNS * 64 * NARROW_ROW, 8 * NARROW_ROW, 1);
                const uint64_t w = conv3_descriptor(weights + slab * NARROW3_WEIGHTS, 8 * NARROW_ROW, 1);
                hopper::barrier_wait(full + 8 * stage, use / NARROW3_STAGES % 2);
                narrow_product<T>(d, pixels, w);
                __syncthreads(); /* the stage has been read, and the parts of the frame before */
                if (threadIdx.x == 0 && use + NARROW3_STAGES < uses) order(use + NARROW3_STAGES);
            }

            /* Accumulator: pixel 16 warp + lane / 4 (+ 8) of a run, columns 8 j + lane % 4 * 2 (+ 1); the first set is this frame's. */
            if (frame >= 0) {
#pragma unroll
                for (int run = 0; run < NARROW_RUNS; run++)
#pragma unroll
                    for (int e = 0; e < NARROW3_SET / 2; e++) {
                        const int column = e / 4 * 8 + lane % 4 * 2 + e % 2, pixel = (group * NARROW_RUNS + run) * 64 + warp * 16 + lane / 4 + e / 2 % 2 * 8;
                        if (column < 9 * SC_NARROW_CHANNELS && pixel < NARROW_PIXELS) parts[column * NARROW_PITCH + pixel] = d[run][e];
                    }
                __syncthreads();
                if (y < a.h && xx < a.w) {
                    T *out = (T *)a.out + (((size_t)frame * a.h + y) * a.w + xx) * a.oc;
                    for (int o = 0; o < a.oc; o++) {
                        float v = a.bias[o];
#pragma unroll
                        for (int tap = 0; tap < 9; tap++) v += parts[(tap * SC_NARROW_CHANNELS + o) * NARROW_PITCH + (row + tap / 3) * NARROW_LINE + col + tap % 3];
                        out[o] = from_float<T>(v);
                    }
                }
            }
#pragma unroll
            for (int run = 0; run < NARROW_RUNS; run++)
#pragma unroll
                for (int e = 0; e < NARROW3_N / 2; e++) d[run][e] = e < NARROW3_SET ? d[run][e + NARROW3_SET / 2] : 0;
        }
    }
#endif
}

/* x [frames][h][w][ch], past [2][h][w][ch]. False: the driver takes no such pictures, and nothing was launched. */
template <class T> static bool conv3_narrow_launch(struct sc_cuda *c, conv3_narrow_args a, const void *x, const void *past, int ch) {
    conv3_args picture = {};
    picture.h = a.h, picture.w = a.w, picture.ch = ch;
    CUtensorMap map, before;
    if (!conv3_map<narrow_box>(&map, x, picture, a.frames) || !conv3_map<narrow_box>(&before, past, picture, 2)) return false;
    a.slabs = (ch + 63) / 64, a.tiles_x = (a.w + NARROW_W - 1) / NARROW_W, a.tiles = a.tiles_x * ((a.h + NARROW_H - 1) / NARROW_H);
    cudaFuncSetAttribute(conv3_narrow_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, narrow3_shared_bytes(SC_NARROW3_IN / 64));
    launch(c, conv3_narrow_kernel<T>, a.tiles < c->sm_count ? a.tiles : c->sm_count, CONV_THREADS, narrow3_shared_bytes(a.slabs), 0, a, map, before);
    return true;
}

} // namespace sc
#endif

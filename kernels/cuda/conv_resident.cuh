/* conv_resident.cuh - 3x3 convolutions from 64 to 64 channels with the weights kept in shared memory: the decoder's widest pictures (sm_90a).
 *
 * Why. At 64 channels a picture is as long as it is cheap: what conv.cuh fetches of weights for each tile is more than the tile itself. All
 * weights of such a layer fit in one multiprocessor: nine taps 72 KiB, with the frame before 144, the four parities of a doubling (conv.cuh)
 * 128. So a CTA loads them once, stays, and only pictures go by.
 *
 * Roles. M = 64 pixels (A), an 8 x 8 patch, N = 64 output channels (B), K = 16 input channels of one tap. A tile is two patches side by side,
 * 16 x 8 pixels; its input with halo, [10][18][64 channels], is one stage. Three warpgroups take tiles in turn: while one waits for its input,
 * for its products or writes, the others' products keep the tensor cores busy. Each has one or two stages of its own and orders the next input by
 * the tensor copy (zeros outside the picture) as soon as its products have read the last. Eight pixels of a row are the eight rows of a core
 * matrix, rows swizzled by their own length as in conv3.cuh, so all taps read one stage at shifted addresses.
 *
 * Shared memory: weights [tap][64 out][64 channels], then stages [warpgroup][10 * 18 pixels][64 channels].
 *
 * Doubling: the four parities of the output pixel one after the other from one stage, four taps each. Output channels of several frames (groups)
 * are dealt to CTAs: each keeps one group's weights.
 *
 * Early start: weights are no other kernel's output, so they are fetched before stream_order. Epilogue: the accumulators begin as the bias; to act
 * type, transposed among the four threads of a quad, + residual, relu, 16-byte stores; the last frame of the residual goes to `keep`. Bound: level 2 of TAEHV at 832x480, 3x3: 44 GFLOP
 * and 153 to 230 MB, 0.06 to 0.08 ms; doubling: 157 GFLOP and 690 MB, 0.25 ms. */
#ifndef SC_KERNELS_CUDA_CONV_RESIDENT_CUH
#define SC_KERNELS_CUDA_CONV_RESIDENT_CUH
#include "kernels/cuda/conv3.cuh"
#include "kernels/cuda/filter.h"
#include "kernels/cuda/launch.cuh"

namespace sc {

enum { RESIDENT_GROUPS = 3, RESIDENT_THREADS = RESIDENT_GROUPS * 128, RESIDENT_ROW = 128 /* bytes of 64 channels */ };
enum resident_kind { RESIDENT_ONE, RESIDENT_PAST, RESIDENT_DOUBLE };

struct resident_args {
    const void *weights;     /* [group][taps][64][64], swizzled as in shared memory */
    const float *bias;       /* [groups * 64] */
    const void *residual;    /* RESIDENT_ONE, or NULL */
    void *out, *keep;        /* keep: the residual's last frame, or NULL */
    int h, w, frames, tiles_x, tiles_y, tiles, groups; /* picture in; tiles of a group */
    bool relu;
};

template <int KIND> struct resident_plan {
    enum {
        SOURCES = KIND == RESIDENT_PAST ? 2 : 1, PHASES = KIND == RESIDENT_DOUBLE ? 4 : 1, TAPS = KIND == RESIDENT_DOUBLE ? 4 : 9,
        COLS = 18, PIXELS = 10 * COLS, ROW = RESIDENT_ROW, STAGE = (PIXELS * ROW + 1023) / 1024 * 1024,
        WEIGHT_ROWS = 64 * ROW, WEIGHTS = SOURCES * PHASES * TAPS * WEIGHT_ROWS, FIT = (CONV3_SHARED_MAX - 1023 - 256 - WEIGHTS) / STAGE,
        OWN = FIT / RESIDENT_GROUPS < 2 ? FIT / RESIDENT_GROUPS : 2 /* stages of a warpgroup */, STAGES = OWN * RESIDENT_GROUPS,
        SHARED = WEIGHTS + STAGES * STAGE + 256 + 1023, SWIZZLE = 1 /* rows of 128 bytes */
    };
    static_assert(OWN >= 1, "one for each warpgroup");
};

struct resident_tile {
    int frame, y0, x0;
    __device__ __forceinline__ resident_tile(const resident_args &a, int tile) {
        const int place = tile % (a.tiles_x * a.tiles_y);
        frame = tile / (a.tiles_x * a.tiles_y), x0 = place % a.tiles_x * 16, y0 = place / a.tiles_x * 8;
    }
};

#ifdef SC_CONV3_WGMMA
/* Adds the 64 x 64 products of `taps` taps of one source to both patches. pixels: of the stage, weights: of the first tap. */
template <class T, int KIND>
__device__ __forceinline__ void resident_multiply(float (&d)[2][32], uint32_t stage, uint32_t weights, int py, int px) {
    using P = resident_plan<KIND>;
    const uint64_t pixels = conv3_descriptor(stage + (py * P::COLS + px) * P::ROW, P::COLS * P::ROW, P::SWIZZLE), w = conv3_descriptor(weights, 8 * P::ROW, P::SWIZZLE);
    hopper::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int tap = 0; tap < P::TAPS; tap++)
#pragma unroll
            for (int patch = 0; patch < 2; patch++) {
                const int pixel = (P::TAPS == 9 ? tap / 3 * P::COLS + tap % 3 : tap / 2 * P::COLS + tap % 2) + patch * 8;
                hopper::wgmma_64_shared(d[patch], pixels + pixel * P::ROW / 16 + k * 2, w + tap * (P::WEIGHT_ROWS / 16) + k * 2, T());
            }
    hopper::wgmma_commit();
}
#endif

/* Four words of each of four neighbouring threads: word k of thread q becomes word q of thread k. */
__device__ __forceinline__ void quad_transpose(uint32_t (&u)[4], int q) {
#pragma unroll
    for (int bit = 1; bit < 4; bit *= 2)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i & bit) continue;
            const uint32_t got = __shfl_xor_sync(0xffffffffu, q & bit ? u[i] : u[i + bit], bit);
            if (q & bit) u[i] = got;
            else u[i + bit] = got;
        }
}

template <class T, int KIND> __global__ static void __launch_bounds__(RESIDENT_THREADS, 1)
resident_kernel(const __grid_constant__ resident_args a, const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap past) {
#ifdef SC_CONV3_WGMMA
    extern __shared__ __align__(1024) unsigned char conv3_shared[];
    using P = resident_plan<KIND>;
    const int mine = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, q = lane % 4;
    const uint32_t weights = (shared_at(conv3_shared) + 1023) & ~1023u, ready = weights + P::WEIGHTS + P::STAGES * P::STAGE;
    const uint32_t base = weights + P::WEIGHTS + mine * P::OWN * P::STAGE, full = ready + 8 + mine * P::OWN * 8; /* this warpgroup's */
    const int group = blockIdx.x % a.groups, stride = gridDim.x / a.groups * RESIDENT_GROUPS; /* the grid is a multiple of groups */
    const int first = blockIdx.x / a.groups + gridDim.x / a.groups * mine, uses = first < a.tiles ? ((a.tiles - 1 - first) / stride + 1) * P::SOURCES : 0;
    if (threadIdx.x == 0) {
        for (int s = 0; s <= P::STAGES; s++) hopper::barrier_init(ready + 8 * s, 1);
        hopper::barrier_init_fence();
        hopper::barrier_expect(ready, P::WEIGHTS);
        for (int at = 0; at < P::WEIGHTS; at += P::WEIGHT_ROWS)
            hopper::copy_1d(weights + at, (const unsigned char *)a.weights + (size_t)group * P::WEIGHTS + at, P::WEIGHT_ROWS, ready);
    }
    __syncthreads();
    stream_order();

    /* Input `use` of this warpgroup, that is source use % SOURCES of its tile use / SOURCES, by its first thread. */
    auto order = [&](int use) {
        const int stage = use % P::OWN;
        const resident_tile at(a, first + use / P::SOURCES * stride);
        const int frame = at.frame - use % P::SOURCES;
        hopper::barrier_expect(full + 8 * stage, P::PIXELS * P::ROW);
        picture_copy(base + stage * P::STAGE, frame < 0 ? &past : &x, 0, at.x0 - 1, at.y0 - 1, frame < 0 ? 0 : frame, full + 8 * stage);
    };
    /* All products of this warpgroup have read their input. */
    auto give_back = [&](int use) {
        hopper::warpgroup_sync(1 + mine);
        if (threadIdx.x % 128 == 0 && use + P::OWN < uses) order(use + P::OWN);
    };
    if (threadIdx.x % 128 == 0)
        for (int use = 0; use < P::OWN && use < uses; use++) order(use);
    hopper::barrier_wait(ready, 0);
    for (int use = 0; use < uses; use++) {
        const resident_tile at(a, first + use / P::SOURCES * stride);
        const int x0 = at.x0 + lane / 4, y0 = at.y0 + warp * 2;
        hopper::barrier_wait(full + 8 * (use % P::OWN), use / P::OWN % 2);
#pragma unroll 1
        for (int phase = 0; phase < P::PHASES; phase++) {
            float d[2][32];
            uint4 rest[2][2][2];
            const float *bias = a.bias + group * 64 + q * 2;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const float2 b = __ldg((const float2 *)(bias + j * 8));
#pragma unroll
                for (int patch = 0; patch < 2; patch++) d[patch][4 * j] = d[patch][4 * j + 2] = b.x, d[patch][4 * j + 1] = d[patch][4 * j + 3] = b.y;
            }
            hopper::registers_ready(d[0]);
            hopper::registers_ready(d[1]);
#pragma unroll 1
            for (int part = phase; part < phase + P::SOURCES; part++) { /* of the weights: a phase, or a source */
                if (part > phase) { /* the frame before */
                    hopper::wgmma_wait<0>();
                    hopper::registers_ready(d[0]);
                    hopper::registers_ready(d[1]);
                    give_back(use++);
                    hopper::barrier_wait(full + 8 * (use % P::OWN), use / P::OWN % 2);
                }
                resident_multiply<T, KIND>(d, base + use % P::OWN * P::STAGE, weights + part * P::TAPS * P::WEIGHT_ROWS, phase / 2, phase % 2);
            }
            constexpr int SCALE = KIND == RESIDENT_DOUBLE ? 2 : 1;
            const int oh = a.h * SCALE, ow = a.w * SCALE;
            const size_t out0 = (((size_t)at.frame * a.groups + group) * oh + y0 * SCALE + phase / 2) * ow + x0 * SCALE + phase % 2;
            if (KIND == RESIDENT_ONE && a.residual) /* on its way while the products are made */
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    const int patch = i / 4, e = i / 2 % 2, half = i % 2;
                    if (x0 + patch * 8 < a.w && y0 + e < a.h)
                        rest[patch][e][half] = __ldg((const uint4 *)((const T *)a.residual + (out0 + (size_t)e * ow + patch * 8) * 64 + half * 32 + q * 8));
                }
            hopper::wgmma_wait<0>();
            hopper::registers_ready(d[0]);
            hopper::registers_ready(d[1]);
            if (phase == P::PHASES - 1) give_back(use);

            /* Accumulator: rows = pixels 16 * warp + lane / 4 (+ 8): picture rows 2 * warp (+ 1), column lane / 4; d[4j ..] = channels 8j + 2q (+ 1). */
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const int patch = i / 4, e = i / 2 % 2, half = i % 2;
                uint32_t u[4];
#pragma unroll
                for (int j = 0; j < 4; j++) u[j] = pack2<T>(d[patch][4 * (half * 4 + j) + 2 * e], d[patch][4 * (half * 4 + j) + 2 * e + 1]);
                quad_transpose(u, q);
                if (KIND == RESIDENT_ONE && a.residual) {
                    const uint32_t r[4] = {rest[patch][e][half].x, rest[patch][e][half].y, rest[patch][e][half].z, rest[patch][e][half].w};
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        const float2 v = unpack2<T>(u[j]), s = unpack2<T>(r[j]);
                        u[j] = pack2<T>(v.x + s.x, v.y + s.y);
                    }
                }
                if (a.relu)
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        const float2 v = unpack2<T>(u[j]);
                        u[j] = pack2<T>(fmaxf(v.x, 0.0f), fmaxf(v.y, 0.0f));
                    }
                if (KIND == RESIDENT_ONE && a.keep && at.frame == a.frames - 1 && x0 + patch * 8 < a.w && y0 + e < a.h)
                    *(uint4 *)((T *)a.keep + ((size_t)(y0 + e) * a.w + x0 + patch * 8) * 64 + half * 32 + q * 8) = rest[patch][e][half];
                if (x0 + patch * 8 < a.w && y0 + e < a.h)
                    *(uint4 *)((T *)a.out + (out0 + ((size_t)e * ow + patch * 8) * SCALE) * 64 + half * 32 + q * 8) = make_uint4(u[0], u[1], u[2], u[3]);
            }
        }
    }
#endif
}

/* What conv3_map needs. */
struct resident_box { enum { ROW = RESIDENT_ROW, COLS = 18, ROWS = 10 }; };

/* x [frames][h][w][64]; past one such frame, or NULL. False: the driver takes no such pictures, and nothing was launched. */
template <class T, int KIND> static bool resident_launch(struct sc_cuda *c, resident_args a, const void *x, const void *past, int frames) {
    using P = resident_plan<KIND>;
    conv3_args picture = {};
    picture.h = a.h, picture.w = a.w, picture.ch = 64;
    CUtensorMap map, before;
    if (!conv3_map<resident_box>(&map, x, picture, frames) || !conv3_map<resident_box>(&before, past ? past : x, picture, 1)) return false;
    a.tiles_x = (a.w + 15) / 16, a.tiles_y = (a.h + 7) / 8, a.tiles = a.tiles_x * a.tiles_y * frames, a.frames = frames;
    const int most = c->sm_count / a.groups, ctas = a.tiles < most ? a.tiles : most;
    cudaFuncSetAttribute(resident_kernel<T, KIND>, cudaFuncAttributeMaxDynamicSharedMemorySize, P::SHARED);
    launch(c, resident_kernel<T, KIND>, ctas * a.groups, RESIDENT_THREADS, P::SHARED, 0, a, map, before);
    return true;
}

} // namespace sc
#endif

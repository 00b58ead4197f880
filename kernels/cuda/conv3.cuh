/* conv3.cuh - causal 3x3x3 and 3x1x1 convolutions of NHWC pictures as implicit GEMM on wgmma (sm_90a).
 *
 * Roles. M = pixels (A), N = NT output channels (B), K = 16 input channels of one tap of one frame. Channels are N because 96 of them
 * are one and a half tiles of 64: as M a quarter of the work would be wasted. A CTA makes 2 * MT * 64 pixels: each of its two consumer
 * warpgroups a column of 8 pixels, MT patches of 8 x 8 pixels one below the other, MT * NT / 2 accumulators a thread (192 where
 * it counts). Eight pixels of a row are the eight rows of a core matrix.
 *
 * Ring of stages. A step = 16 KK channels of one frame with all taps of the plane: the picture with its halo [8 MT + 2][18][16 KK channels],
 * then weights [tap][NT][16 KK]. Rows are 32 KK bytes, swizzled by as much: the 16-byte pieces of the row at byte address A stand XORed by the
 * low bits of A / 128. That goes by address, not by row of a tile, so nine taps read the same pixels at shifted addresses and a
 * pixel is fetched 1.2 times instead of 9; eight rows meet eight different banks from any start.
 *
 * Order. Warpgroup 0 produces, running up to STAGES steps ahead and on into the next tile: weights by bulk copies, pictures by the tensor
 * copy (zeros outside), both counted by the full barrier. Consumers keep one group of products in flight and give a stage back when the
 * next group is under way. A residual comes last through the same ring, by cp.async, MT stages [2 * 64 pixels][NT], pitch + 16 bytes.
 * Epilogue: + bias + residual in f32, rounded once, transposed among the four threads of a quad to 16-byte stores.
 *
 * Tiles: one CTA a multiprocessor, persistent; channels fastest, then frames, then the picture, so that the three frames that
 * neighbours in time share come from L2.
 *
 * Bound: flops. Shared memory is read at (64 + NT) * 32 bytes a 64 x NT x 16 product of NT / 2 cycles: 85 % of its rate at NT = 96, to
 * which the stage's writes add 9 % (MT = 4). Wan VAE at 832x480, 12 frames: 36 TFLOP here. */
#ifndef SC_KERNELS_CUDA_CONV3_CUH
#define SC_KERNELS_CUDA_CONV3_CUH
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/tensor_map.h"

namespace sc {

enum { CONV3_THREADS = 384, CONV3_TILE_W = 16, CONV3_NT_MAX = 192, CONV3_SHARED_MAX = 227 * 1024 };

struct conv3_args {
    const void *x, *past, *residual;
    void *out;
    const void *weights;     /* [step][tap][oc_padded][16 KK], swizzled */
    const float *bias;       /* [oc_padded + CONV3_NT_MAX] */
    int h, w, ch, oc, oc_padded;
    int times, slabs;        /* frames an output sees, oldest first; steps of one of them. step = time * slabs + slab */
    int frames, split, group_ch; /* frames made before the split; channel o goes to frame n * split + o / group_ch */
    int tiles_x, tiles_n, tiles;
    bool vector;             /* 16-byte stores of 8 channels are possible */
};

template <int TAPS, int KK, int MT, int NT> struct conv3_plan {
    enum {
        HALO = TAPS == 9, ROWS = 8 * MT + 2 * HALO, COLS = CONV3_TILE_W + 2 * HALO, PIXELS = ROWS * COLS,
        ROW = 32 * KK, PIECES = ROW / 16, PICTURE = (PIXELS * ROW + 1023) / 1024 * 1024, STAGE = (PICTURE + TAPS * NT * ROW + 1023) / 1024 * 1024,
        FIT = (CONV3_SHARED_MAX - 256 - 1023) / STAGE, STAGES = FIT < 6 ? FIT : 6, PITCH = NT * 2 + 16, SHARED = STAGES * STAGE + 256 + 1023,
        SWIZZLE = KK == 1 ? 3 : KK == 2 ? 2 : 1 /* as a descriptor says 32, 64, 128 bytes */
    };
    static_assert(STAGES >= 3, "a consumer holds two stages while copies land in the third");
    static_assert(128 * PITCH <= STAGE, "the residual of two patches takes one stage");
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SC_CONV3_WGMMA 1
#endif

/* d[64 pixels][N] += a . b, both in shared memory, K-major. */
#define SC_CONV3_R8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SC_WGMMA_SS_16(type) \
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32." type "." type " {" \
                 "%0,%1,%2,%3,%4,%5,%6,%7}, " \
                 "%8, %9, 1, 1, 1, 0, 0;\n" \
                 : SC_CONV3_R8(0) : "l"(a), "l"(b))
#define SC_WGMMA_SS_32(type) \
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type " {" \
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, " \
                 "%16, %17, 1, 1, 1, 0, 0;\n" \
                 : SC_CONV3_R8(0), SC_CONV3_R8(8) : "l"(a), "l"(b))
#define SC_WGMMA_SS_96(type) \
    asm volatile("wgmma.mma_async.sync.aligned.m64n96k16.f32." type "." type " {" \
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
                 "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47}, " \
                 "%48, %49, 1, 1, 1, 0, 0;\n" \
                 : SC_CONV3_R8(0), SC_CONV3_R8(8), SC_CONV3_R8(16), SC_CONV3_R8(24), SC_CONV3_R8(32), SC_CONV3_R8(40) : "l"(a), "l"(b))
#define SC_WGMMA_SS_128(type) \
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" \
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
                 "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, " \
                 "%64, %65, 1, 1, 1, 0, 0;\n" \
                 : SC_CONV3_R8(0), SC_CONV3_R8(8), SC_CONV3_R8(16), SC_CONV3_R8(24), SC_CONV3_R8(32), SC_CONV3_R8(40),  \
                   SC_CONV3_R8(48), SC_CONV3_R8(56) : "l"(a), "l"(b))
#define SC_WGMMA_SS_192(type) \
    asm volatile("wgmma.mma_async.sync.aligned.m64n192k16.f32." type "." type " {" \
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
                 "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71," \
                 "%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95}, " \
                 "%96, %97, 1, 1, 1, 0, 0;\n" \
                 : SC_CONV3_R8(0), SC_CONV3_R8(8), SC_CONV3_R8(16), SC_CONV3_R8(24), SC_CONV3_R8(32), SC_CONV3_R8(40),  \
                   SC_CONV3_R8(48), SC_CONV3_R8(56), SC_CONV3_R8(64), SC_CONV3_R8(72), SC_CONV3_R8(80), SC_CONV3_R8(88) : "l"(a), "l"(b))
#define SC_CONV3_PRODUCT(n)                                                                                                                        \
    __device__ __forceinline__ void conv3_product(float (&d)[n / 2], uint64_t a, uint64_t b, __half) { SC_WGMMA_SS_##n("f16"); }         \
    __device__ __forceinline__ void conv3_product(float (&d)[n / 2], uint64_t a, uint64_t b, __nv_bfloat16) { SC_WGMMA_SS_##n("bf16"); }
#ifdef SC_CONV3_WGMMA
SC_CONV3_PRODUCT(16)
SC_CONV3_PRODUCT(32)
SC_CONV3_PRODUCT(96)
SC_CONV3_PRODUCT(128)
SC_CONV3_PRODUCT(192)
#endif
#undef SC_CONV3_PRODUCT

/* Matrix descriptor, `stride` bytes between eights of rows. */
__device__ __forceinline__ uint64_t conv3_descriptor(uint32_t at, uint32_t stride, int swizzle) {
    return (uint64_t)((at >> 4) & 0x3fff) | (uint64_t)1 << 16 | (uint64_t)(stride >> 4) << 32 | (uint64_t)swizzle << 62;
}

/* Box of the map at channel c, column x, row y of a frame; places outside become zeros. */
__device__ __forceinline__ void picture_copy(uint32_t to, const CUtensorMap *map, int c, int x, int y, int frame, uint32_t bar) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to), "l"(map), "r"(c), "r"(x),
                 "r"(y), "r"(frame), "r"(bar) : "memory");
}

/* The barrier counts this thread once its copies by cp.async have landed. */
__device__ __forceinline__ void arrive_when_copied(uint32_t bar) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(bar) : "memory");
}

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

struct conv3_tile {
    int n0, frame, y0, x0;
    __device__ __forceinline__ conv3_tile(const conv3_args &a, int tile, int nt, int rows) {
        const int r = tile / a.tiles_n, place = r / a.frames;
        n0 = tile % a.tiles_n * nt, frame = r % a.frames;
        x0 = place % a.tiles_x * CONV3_TILE_W, y0 = place / a.tiles_x * rows;
    }
};

/* Where channel o of pixel `pixel` of a frame stands in out and residual. */
__device__ __forceinline__ size_t conv3_place(const conv3_args &a, int frame, int pixel, int o) {
    if (a.split == 1) return ((size_t)frame * a.h * a.w + pixel) * a.oc + o;
    const int k = o / a.group_ch;
    return ((size_t)(frame * a.split + k) * a.h * a.w + pixel) * a.group_ch + (o - k * a.group_ch);
}

template <class T, int TAPS, int KK, int MT, int NT>
__device__ __forceinline__ void conv3_produce(const conv3_args &a, const CUtensorMap *x, const CUtensorMap *past, uint32_t base, uint32_t full, uint32_t empty) {
    using P = conv3_plan<TAPS, KK, MT, NT>;
    const int tid = threadIdx.x, steps = a.times * a.slabs;
    int stage = 0;
    uint32_t parity = 1; /* the first round finds all stages empty */

    auto advance = [&] {
        if (++stage == P::STAGES) stage = 0, parity ^= 1;
    };
    for (int tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        const conv3_tile at(a, tile, NT, 8 * MT);
        const int columns = min(NT, a.oc_padded - at.n0);
        for (int step = 0; step < steps; step++) {
            const uint32_t to = base + stage * P::STAGE, bar = full + 8 * stage;
            hopper::barrier_wait(empty + 8 * stage, parity);
            if (tid < 32) {
                if (tid == 0) {
                    const int time = step / a.slabs, from = at.frame - (a.times - 1) + time;
                    hopper::barrier_expect(bar, TAPS * columns * P::ROW + P::PIXELS * P::ROW);
                    picture_copy(to, from >= 0 ? x : past, (step - time * a.slabs) * 16 * KK, at.x0 - P::HALO, at.y0 - P::HALO, from >= 0 ? from : from + a.times - 1, bar);
                }
                __syncwarp();
                if (tid < TAPS)
                    hopper::copy_1d(to + P::PICTURE + tid * NT * P::ROW, (const T *)a.weights + ((size_t)(step * TAPS + tid) * a.oc_padded + at.n0) * 16 * KK, columns * P::ROW, bar);
            }
            hopper::barrier_arrive(bar, 1);
            advance();
        }
        for (int patch = 0; patch < MT && a.residual && a.vector; patch++) {
            const uint32_t to = base + stage * P::STAGE, bar = full + 8 * stage;
            hopper::barrier_wait(empty + 8 * stage, parity);
            if (tid == 0) hopper::barrier_arrive(bar, 1);
            for (int i = tid; i < 128 * NT / 8; i += 128) {
                const int p = i / (NT / 8), part = i % (NT / 8), y = at.y0 + patch * 8 + p % 64 / 8, x0 = at.x0 + p / 64 * 8 + p % 8, o = at.n0 + part * 8;
                const bool in = y < a.h && x0 < a.w && o < a.oc;
                copy16_async(to + p * P::PITCH + part * 16, (const T *)a.residual + (in ? conv3_place(a, at.frame, y * a.w + x0, o) : 0), in ? 16 : 0);
            }
            arrive_when_copied(bar);
            advance();
        }
    }
    copy_wait<0>();
}

template <class T, int TAPS, int KK, int MT, int NT>
__device__ __forceinline__ void conv3_consume(const conv3_args &a, const unsigned char *shared, uint32_t base, uint32_t full, uint32_t empty) {
#ifdef SC_CONV3_WGMMA
    using P = conv3_plan<TAPS, KK, MT, NT>;
    const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, q = lane % 4, steps = a.times * a.slabs;
    int stage = 0;
    uint32_t parity = 0;
    float d[MT][NT / 2];

    auto give_back = [&](int s) {
        if (lane == 0) hopper::barrier_arrive(empty + 8 * s, 1);
    };
    for (int tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        const conv3_tile at(a, tile, NT, 8 * MT);
        int previous = 0;
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < NT / 2; i++) d[m][i] = 0;
        for (int step = 0; step < steps; step++) {
            const uint32_t from = base + stage * P::STAGE;
            const uint64_t pixels = conv3_descriptor(from + group * 8 * P::ROW, P::COLS * P::ROW, P::SWIZZLE);
            const uint64_t weights = conv3_descriptor(from + P::PICTURE, 8 * P::ROW, P::SWIZZLE);
            hopper::barrier_wait(full + 8 * stage, parity);
            hopper::wgmma_fence();
#pragma unroll
            for (int k = 0; k < KK; k++)
#pragma unroll
                for (int tap = 0; tap < TAPS; tap++)
#pragma unroll
                    for (int m = 0; m < MT; m++) {
                        const int pixel = ((TAPS == 9 ? tap / 3 : 0) + m * 8) * P::COLS + (TAPS == 9 ? tap % 3 : 0);
                        conv3_product(d[m], pixels + pixel * P::PIECES + k * 2, weights + tap * NT * P::PIECES + k * 2, T());
                    }
            hopper::wgmma_commit();
            if (step) {
                hopper::wgmma_wait<1>();
                give_back(previous);
            }
            previous = stage;
            if (++stage == P::STAGES) stage = 0, parity ^= 1;
        }
        hopper::wgmma_wait<0>();
        give_back(previous);

        /* Accumulator: rows = pixels 16 * warp + lane / 4 (+ 8), that is picture rows 2 * warp (+ 1), column lane / 4; d[4j ..] = channels
         * 8j + 2q (+ 1) of the first row, then of the second. */
        const int x = at.x0 + group * 8 + lane / 4;
#pragma unroll
        for (int m = 0; m < MT; m++) {
            const int y = at.y0 + m * 8 + warp * 2;
            if (a.vector) {
                const unsigned char *rest = shared + stage * P::STAGE + (group * 64 + warp * 16 + lane / 4) * P::PITCH + q * 4;
                if (a.residual) hopper::barrier_wait(full + 8 * stage, parity);
#pragma unroll
                for (int j0 = 0; j0 < NT / 8; j0 += 4) {
                    constexpr int LANES = NT / 8 < 4 ? NT / 8 : 4;
                    float2 bias[4];
#pragma unroll
                    for (int j = 0; j < LANES; j++) bias[j] = __ldg((const float2 *)(a.bias + at.n0 + (j0 + j) * 8 + q * 2));
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        uint32_t u[4] = {};
#pragma unroll
                        for (int j = 0; j < LANES; j++) {
                            float2 r = make_float2(0, 0);
                            if (a.residual) r = unpack2<T>(*(const uint32_t *)(rest + e * 8 * P::PITCH + (j0 + j) * 16));
                            u[j] = pack2<T>(d[m][4 * (j0 + j) + 2 * e] + bias[j].x + r.x, d[m][4 * (j0 + j) + 2 * e + 1] + bias[j].y + r.y);
                        }
                        quad_transpose(u, q);
                        const int o = at.n0 + (j0 + q) * 8;
                        if (y + e < a.h && x < a.w && o < a.oc && q < LANES)
                            *(uint4 *)((T *)a.out + conv3_place(a, at.frame, (y + e) * a.w + x, o)) = make_uint4(u[0], u[1], u[2], u[3]);
                    }
                }
                if (a.residual) {
                    __syncwarp();
                    give_back(stage);
                    if (++stage == P::STAGES) stage = 0, parity ^= 1;
                }
            } else
#pragma unroll
                for (int i = 0; i < NT / 2; i++) { /* few or odd numbers of channels */
                    const int o = at.n0 + i / 4 * 8 + q * 2 + i % 2, row = y + i / 2 % 2;
                    if (o >= a.oc || row >= a.h || x >= a.w) continue;
                    const size_t to = conv3_place(a, at.frame, row * a.w + x, o);
                    ((T *)a.out)[to] = from_float<T>(d[m][i] + a.bias[o] + (a.residual ? to_float(((const T *)a.residual)[to]) : 0.0f));
                }
        }
    }
#endif
}

/* TAPS 9: 3x3 in the plane, 1: 1x1. Grid: one CTA a multiprocessor. */
template <class T, int TAPS, int KK, int MT, int NT> __global__ static void __launch_bounds__(CONV3_THREADS, 1)
conv3_kernel(const __grid_constant__ conv3_args a, const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap past) {
#ifdef SC_CONV3_WGMMA
    extern __shared__ __align__(1024) unsigned char conv3_shared[];
    using P = conv3_plan<TAPS, KK, MT, NT>;
    const uint32_t base = (shared_at(conv3_shared) + 1023) & ~1023u, full = base + P::STAGES * P::STAGE, empty = full + 8 * P::STAGES;
    if (threadIdx.x == 0) {
        for (int s = 0; s < P::STAGES; s++) {
            hopper::barrier_init(full + 8 * s, 128 + 1); /* the producer's threads, and its first once more with the bytes to come */
            hopper::barrier_init(empty + 8 * s, 8);      /* the consumers' warps */
        }
        hopper::barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        hopper::registers_shrink<40>();
        conv3_produce<T, TAPS, KK, MT, NT>(a, &x, &past, base, full, empty);
    } else {
        hopper::registers_grow<232>();
        conv3_consume<T, TAPS, KK, MT, NT>(a, conv3_shared + (base - shared_at(conv3_shared)), base, full, empty);
    }
#endif
}

/* Frames [frames][h][w][ch] in boxes of a step. */
template <class P> static bool conv3_map(CUtensorMap *map, const void *x, const conv3_args &a, int frames) {
    const cuuint64_t size[4] = {(cuuint64_t)a.ch, (cuuint64_t)a.w, (cuuint64_t)a.h, (cuuint64_t)frames};
    const cuuint32_t box[4] = {P::ROW / 2, P::COLS, P::ROWS, 1};
    const CUtensorMapSwizzle swizzle = P::ROW == 32 ? CU_TENSOR_MAP_SWIZZLE_32B : P::ROW == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B;
    return sc_cuda_map(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, x, 4, size, box, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B);
}

/* False: the driver takes no such pictures, and nothing was launched. */
template <class T, int TAPS, int KK, int MT, int NT> static bool conv3_launch(conv3_args a, int sm_count, cudaStream_t stream) {
    using P = conv3_plan<TAPS, KK, MT, NT>;
    a.slabs = (a.ch + 16 * KK - 1) / (16 * KK);
    a.tiles_x = (a.w + CONV3_TILE_W - 1) / CONV3_TILE_W;
    a.tiles_n = (a.oc + NT - 1) / NT;
    a.tiles = a.tiles_x * ((a.h + 8 * MT - 1) / (8 * MT)) * a.frames * a.tiles_n;
    CUtensorMap x, past;
    if (!conv3_map<P>(&x, a.x, a, a.frames) || !conv3_map<P>(&past, a.past, a, a.times - 1)) return false;
    cudaFuncSetAttribute(conv3_kernel<T, TAPS, KK, MT, NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, P::SHARED);
    conv3_kernel<T, TAPS, KK, MT, NT><<<a.tiles < sm_count ? a.tiles : sm_count, CONV3_THREADS, P::SHARED, stream>>>(a, x, past);
    return true;
}

} // namespace sc
#endif

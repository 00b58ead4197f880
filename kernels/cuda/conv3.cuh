/* conv3.cuh - causal 3x3x3 and 3x1x1 convolutions, and 3x3 of doubled pictures, NHWC, as implicit GEMM on wgmma (sm_90a).
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
 * Doubling. For each of the four parities of the output pixel a 3x3 convolution of a picture doubled by nearest neighbour is a 2x2
 * convolution of the small picture with sums of the weights, 4/9 of the products: TAPS 4, halo of one row and one column, a tile has a parity.
 *
 * Order. Warpgroup 0 produces, running up to STAGES steps ahead and on into the next tile: weights by bulk copies, all else by the tensor
 * copy (zeros outside), counted by the full barrier. Consumers keep one group of products in flight and give a stage back when the
 * next group is under way. A residual comes last through the same ring, MT stages [NT / 32][2 * 64 pixels][32 channels] swizzled by 64 bytes, asked
 * for in L2 when the tile begins: all CTAs come to their ends together and would wait for memory there.
 *
 * Epilogue: + residual in f32, rounded once, by stmatrix to boxes of 2 rows of 8 pixels and 32 channels and out by the tensor copy, each warp by
 * itself. Where a tile has all channels of its pixels, a quad has all of a pixel and makes the norm that follows, too (ops.h, `then`), from
 * f32: the pictures of the finest levels are not read again for it, and not written where nobody else wants them.
 * It is straight code over all accumulators and stands between the products of two tiles: what counts is how few instructions it has.
 *
 * Tiles: one CTA a multiprocessor, persistent; channels fastest, then parities, then frames, then the picture, so that the three frames
 * that neighbours in time share come from L2.
 *
 * Bound: flops. Shared memory is read at (64 + NT) * 32 bytes a 64 x NT x 16 product of NT / 2 cycles: 85 % of its rate at NT = 96, to
 * which the stage's writes add 9 % (MT = 4). Wan VAE at 832x480, 12 frames: 36 TFLOP here. */
#ifndef SC_KERNELS_CUDA_CONV3_CUH
#define SC_KERNELS_CUDA_CONV3_CUH
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/tensor_map.h"

namespace sc {

enum { CONV3_THREADS = 384, CONV3_TILE_W = 16, CONV3_NT_MAX = 192, CONV3_SHARED_MAX = 227 * 1024,
       CONV3_BOX = 2 * 8 * 64, CONV3_PATCH = 8 * 16 * 64 /* bytes of 32 channels: what a warp stores at once, and a patch of both warpgroups */ };

struct conv3_args {
    const void *x, *past, *residual; /* residual: not with a doubling or split */
    void *out;               /* NULL: not wanted */
    void *norm;              /* the norm of out, or NULL; only where a tile has all channels */
    const float *gamma;      /* of the norm, [oc] */
    const void *weights;     /* [parity][step][tap][oc_padded][16 KK], swizzled */
    const float *bias;       /* [oc_padded + CONV3_NT_MAX] */
    int h, w, ch, oc, oc_padded;
    int times, slabs;        /* frames an output sees, oldest first; steps of one of them. step = time * slabs + slab */
    int frames, split, group_ch; /* frames made before the split; channel o goes to frame n * split + o / group_ch. group_ch: a multiple of
                                  * 8, with a doubling or a split of 32 */
    int tiles_x, tiles_n, tiles;
    bool silu;               /* behind the norm */
};

template <int TAPS, int KK, int MT, int NT> struct conv3_plan {
    enum {
        SIDE = TAPS == 9 ? 3 : TAPS == 4 ? 2 : 1, ROWS = 8 * MT + SIDE - 1, COLS = CONV3_TILE_W + SIDE - 1, PIXELS = ROWS * COLS, PHASES = TAPS == 4 ? 4 : 1,
        ROW = 32 * KK, PIECES = ROW / 16, PICTURE = (PIXELS * ROW + 1023) / 1024 * 1024, STAGE = (PICTURE + TAPS * NT * ROW + 1023) / 1024 * 1024,
        ROOM = CONV3_SHARED_MAX - 1023 - 1024 /* barriers */, FIT = (ROOM - 2 * 8 * CONV3_BOX) / STAGE, STAGES = FIT < 6 ? FIT : 6,
        LEFT = (ROOM - STAGES * STAGE) / (8 * CONV3_BOX), BOXES = LEFT < 4 ? LEFT : 4 /* of a warp */, SHARED = STAGES * STAGE + 1024 + BOXES * 8 * CONV3_BOX + 1023,
        SWIZZLE = KK == 1 ? 3 : KK == 2 ? 2 : 1 /* as a descriptor says 32, 64, 128 bytes */
    };
    static_assert(STAGES >= 3, "a consumer holds two stages while copies land in the third");
    static_assert(NT % 32 == 0 && NT / 32 * CONV3_PATCH <= STAGE && BOXES >= 2 && MT * NT / 32 <= 32 && TAPS <= 32, "a patch a stage, a lane a copy");
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SC_CONV3_WGMMA 1
#endif

/* d[64 pixels][N] += a . b, both in shared memory, K-major. */
#define SC_CONV3_R8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
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
#define SC_WGMMA_SS_160(type) \
    asm volatile("wgmma.mma_async.sync.aligned.m64n160k16.f32." type "." type " {" \
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
                 "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71," \
                 "%72,%73,%74,%75,%76,%77,%78,%79}, " \
                 "%80, %81, 1, 1, 1, 0, 0;\n" \
                 : SC_CONV3_R8(0), SC_CONV3_R8(8), SC_CONV3_R8(16), SC_CONV3_R8(24), SC_CONV3_R8(32), SC_CONV3_R8(40),  \
                   SC_CONV3_R8(48), SC_CONV3_R8(56), SC_CONV3_R8(64), SC_CONV3_R8(72) : "l"(a), "l"(b))
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
SC_CONV3_PRODUCT(32)
SC_CONV3_PRODUCT(96)
SC_CONV3_PRODUCT(128)
SC_CONV3_PRODUCT(160)
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

/* The same box to L2. */
__device__ __forceinline__ void picture_prefetch(const CUtensorMap *map, int c, int x, int y, int frame) {
    asm volatile("cp.async.bulk.prefetch.tensor.4d.L2.global [%0, {%1, %2, %3, %4}];" ::"l"(map), "r"(c), "r"(x), "r"(y), "r"(frame) : "memory");
}

/* The other way, from shared memory: axes channel, column, parity of the row, row, frame. Places outside are left out. */
__device__ __forceinline__ void box_store(const CUtensorMap *map, uint32_t from, int c, int x, int parity, int y, int frame) {
    asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4, %5}], [%6];\ncp.async.bulk.commit_group;" ::"l"(map), "r"(c), "r"(x),
                 "r"(parity), "r"(y), "r"(frame), "r"(from) : "memory");
}
/* a / (1 + exp(-a)) and the same of b, where the epilogue waits for the special unit: in f16 with one division for both (below -41 the quotient is off by
 * less than 1e-16), in bf16 as a/2 + a/2 tanh(a/2), one operation of that unit, off by at most |a| 2^-12 where rounding takes 2^-9 of the larger. */
__device__ __forceinline__ float2 silu2(float a, float b, __half) {
    const float p = 1.0f + hopper::exp2_fast(fminf(a * -1.44269504f, 60.0f)), q = 1.0f + hopper::exp2_fast(fminf(b * -1.44269504f, 60.0f));
    const float r = __fdividef(1.0f, p * q);
    return make_float2(a * q * r, b * p * r);
}
__device__ __forceinline__ float2 silu2(float a, float b, __nv_bfloat16) {
    float s, t;
    a *= 0.5f, b *= 0.5f;
    asm("tanh.approx.f32 %0, %1;" : "=f"(s) : "f"(a));
    asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(b));
    return make_float2(a + a * s, b + b * t);
}

struct conv3_tile {
    int n0, phase, frame, y0, x0;
    __device__ __forceinline__ conv3_tile(const conv3_args &a, int tile, int nt, int rows, int phases) {
        int r = tile / a.tiles_n;
        n0 = tile % a.tiles_n * nt;
        phase = r % phases, r /= phases;
        frame = r % a.frames, r /= a.frames;
        x0 = r % a.tiles_x * CONV3_TILE_W, y0 = r / a.tiles_x * rows;
    }
};

/* A stage has been read, say the warps of the consumers; and the producer's waits for them. One of the CTA's barriers for each stage: compute-sanitizer's
 * racecheck follows no mbarrier from a reader to the next writer. */
__device__ __forceinline__ void conv3_give_back(int stage) { asm volatile("bar.arrive %0, 288;" ::"r"(stage + 1) : "memory"); }
__device__ __forceinline__ void conv3_empty(int stage) { asm volatile("bar.sync %0, 288;" ::"r"(stage + 1) : "memory"); }

/* One warp. */
template <class T, int TAPS, int KK, int MT, int NT>
__device__ __forceinline__ void conv3_produce(const conv3_args &a, const CUtensorMap *x, const CUtensorMap *past, const CUtensorMap *rest, uint32_t base, uint32_t full) {
    using P = conv3_plan<TAPS, KK, MT, NT>;
    enum { PARTS = NT / 32 };
    const int lane = threadIdx.x, steps = a.times * a.slabs;
    int stage = 0, filled = 0; /* filled: stages that have been, P::STAGES at most */

    auto empty = [&] {
        if (filled == P::STAGES) conv3_empty(stage);
        else filled++;
    };
    auto advance = [&] {
        if (++stage == P::STAGES) stage = 0;
    };
    for (int tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        const conv3_tile at(a, tile, NT, 8 * MT, P::PHASES);
        const int columns = min(NT, a.oc_padded - at.n0), left = at.x0 - P::SIDE / 2 + (TAPS == 4 ? at.phase % 2 : 0), top = at.y0 - P::SIDE / 2 + (TAPS == 4 ? at.phase / 2 : 0);
        const T *weights = (const T *)a.weights + ((size_t)at.phase * steps * TAPS * a.oc_padded + at.n0) * 16 * KK;
        for (int step = 0; step < steps; step++) {
            const uint32_t to = base + stage * P::STAGE, bar = full + 8 * stage;
            empty();
            if (lane == 0) {
                const int time = step / a.slabs, from = at.frame - (a.times - 1) + time;
                hopper::barrier_expect(bar, TAPS * columns * P::ROW + P::PIXELS * P::ROW);
                picture_copy(to, from >= 0 ? x : past, (step - time * a.slabs) * 16 * KK, left, top, from >= 0 ? from : from + a.times - 1, bar);
            }
            __syncwarp();
            if (lane < TAPS) hopper::copy_1d(to + P::PICTURE + lane * NT * P::ROW, weights + (size_t)(step * TAPS + lane) * a.oc_padded * 16 * KK, columns * P::ROW, bar);
            if (step == 0 && a.residual && lane < MT * PARTS) picture_prefetch(rest, at.n0 + lane % PARTS * 32, at.x0, at.y0 + lane / PARTS * 8, at.frame);
            advance();
        }
        for (int patch = 0; patch < MT && a.residual; patch++) {
            const uint32_t bar = full + 8 * stage;
            empty();
            if (lane == 0) hopper::barrier_expect(bar, PARTS * CONV3_PATCH);
            __syncwarp();
            if (lane < PARTS) picture_copy(base + stage * P::STAGE + lane * CONV3_PATCH, rest, at.n0 + lane * 32, at.x0, at.y0 + patch * 8, at.frame, bar);
            advance();
        }
    }
    if (filled < P::STAGES) stage = 0;
    for (; filled; filled--) { /* so that no barrier is left half full */
        conv3_empty(stage);
        advance();
    }
}

template <class T, int TAPS, int KK, int MT, int NT>
__device__ __forceinline__ void conv3_consume(const conv3_args &a, const CUtensorMap *out, const CUtensorMap *norm, uint32_t base, uint32_t full) {
#ifdef SC_CONV3_WGMMA
    using P = conv3_plan<TAPS, KK, MT, NT>;
    const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, q = lane % 4, steps = a.times * a.slabs;
    const uint32_t boxes = full + 1024 + (group * 4 + warp) * P::BOXES * CONV3_BOX;
    const uint32_t row = lane % 8 * 64 + (lane / 8 ^ lane % 8 / 2) * 16; /* pixel lane % 8, piece lane / 8 of a box: the lane's row of four matrices */
    int stage = 0, box = 0;
    uint32_t parity = 0;
    float d[MT][NT / 2];

    for (int tile = blockIdx.x; tile < a.tiles; tile += gridDim.x) {
        const conv3_tile at(a, tile, NT, 8 * MT, P::PHASES);
        int previous = 0;
#pragma unroll
        for (int j = 0; j < NT / 8; j++) {
            const float2 bias = __ldg((const float2 *)(a.bias + at.n0 + j * 8 + q * 2));
#pragma unroll
            for (int i = 0; i < 2 * MT; i++) d[i / 2][4 * j + i % 2 * 2] = bias.x, d[i / 2][4 * j + i % 2 * 2 + 1] = bias.y;
        }
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
                        const int pixel = (tap / P::SIDE + m * 8) * P::COLS + tap % P::SIDE;
                        conv3_product(d[m], pixels + pixel * P::PIECES + k * 2, weights + tap * NT * P::PIECES + k * 2, T());
                    }
            hopper::wgmma_commit();
            if (step) {
                hopper::wgmma_wait<1>();
                conv3_give_back(previous);
            }
            previous = stage;
            if (++stage == P::STAGES) stage = 0, parity ^= 1;
        }
        hopper::wgmma_wait<0>();
        conv3_give_back(previous);

        /* Accumulator: rows = pixels 16 * warp + lane / 4 (+ 8), that is picture rows 2 * warp (+ 1), column lane / 4; d[4j ..] = channels
         * 8j + 2q (+ 1) of the first row, then of the second. */
#pragma unroll
        for (int m = 0; m < MT; m++) {
            auto put = [&](const CUtensorMap *to) {
#pragma unroll
                for (int part = 0; part < NT / 32; part++) {
                    const uint32_t here = boxes + box * CONV3_BOX;
                    int o = at.n0 + part * 32, frame = at.frame;
                    if (o >= a.oc) break;
                    if (lane == 0) hopper::stores_read<P::BOXES - 1>();
                    __syncwarp();
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        uint32_t u[4];
#pragma unroll
                        for (int k = 0; k < 4; k++) u[k] = pack2<T>(d[m][16 * part + 4 * k + 2 * e], d[m][16 * part + 4 * k + 2 * e + 1]);
                        hopper::store_matrices(here + e * (CONV3_BOX / 2) + row, u);
                    }
                    hopper::proxy_fence();
                    __syncwarp();
                    if (lane == 0) {
                        if (a.split > 1) frame = frame * a.split + o / a.group_ch, o %= a.group_ch;
                        box_store(to, here, o + at.phase % 2 * a.oc, at.x0 + group * 8, at.phase / 2, at.y0 + m * 8 + warp * 2, frame);
                    }
                    if (++box == P::BOXES) box = 0;
                }
            };
            if (a.residual) {
                const uint32_t rest = base + stage * P::STAGE + warp * 2 * 16 * 64 + group * 8 * 64 + row;
                hopper::barrier_wait(full + 8 * stage, parity);
#pragma unroll
                for (int i = 0; i < NT / 16; i++) { /* 32 channels of a row */
                    uint32_t u[4];
                    ldmatrix4(u, rest + i / 2 * CONV3_PATCH + i % 2 * 16 * 64);
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        const float2 r = unpack2<T>(u[k]);
                        d[m][16 * (i / 2) + 4 * k + 2 * (i % 2)] += r.x, d[m][16 * (i / 2) + 4 * k + 2 * (i % 2) + 1] += r.y;
                    }
                }
                __syncwarp();
                conv3_give_back(stage);
                if (++stage == P::STAGES) stage = 0, parity ^= 1;
            }
            if (a.out) put(out);
            if (!a.norm) continue;
            float sum[2] = {0, 0};
#pragma unroll
            for (int j = 0; j < NT / 8; j++) {
                if (j * 8 >= a.oc) break; /* not even zeros stand there */
#pragma unroll
                for (int i = 0; i < 4; i++) sum[i / 2] += d[m][4 * j + i] * d[m][4 * j + i];
            }
#pragma unroll
            for (int e = 0; e < 2; e++) {
                sum[e] += __shfl_xor_sync(0xffffffffu, sum[e], 1);
                sum[e] += __shfl_xor_sync(0xffffffffu, sum[e], 2);
                sum[e] = sqrtf((float)a.oc) / fmaxf(sqrtf(sum[e]), 1e-12f);
            }
#pragma unroll
            for (int j = 0; j < NT / 8; j++) {
                if (j * 8 >= a.oc) break;
                const float2 gamma = __ldg((const float2 *)(a.gamma + j * 8 + q * 2));
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float2 v = make_float2(d[m][4 * j + 2 * e] * sum[e] * gamma.x, d[m][4 * j + 2 * e + 1] * sum[e] * gamma.y);
                    if (a.silu) v = silu2(v.x, v.y, T());
                    d[m][4 * j + 2 * e] = v.x, d[m][4 * j + 2 * e + 1] = v.y;
                }
            }
            put(norm);
        }
    }
    if (lane == 0) hopper::stores_read<0>(); /* shared memory goes with the CTA */
#endif
}

/* TAPS 9: 3x3 in the plane, 4: 2x2 of a parity of the doubled picture, 1: 1x1. Grid: one CTA a multiprocessor. */
template <class T, int TAPS, int KK, int MT, int NT> __global__ static void __launch_bounds__(CONV3_THREADS, 1)
conv3_kernel(const __grid_constant__ conv3_args a, const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap past, const __grid_constant__ CUtensorMap rest,
             const __grid_constant__ CUtensorMap out, const __grid_constant__ CUtensorMap norm) {
#ifdef SC_CONV3_WGMMA
    extern __shared__ __align__(1024) unsigned char conv3_shared[];
    using P = conv3_plan<TAPS, KK, MT, NT>;
    const uint32_t base = (shared_at(conv3_shared) + 1023) & ~1023u, full = base + P::STAGES * P::STAGE;
    if (threadIdx.x == 0) {
        for (int s = 0; s < P::STAGES; s++) hopper::barrier_init(full + 8 * s, 1); /* the producer, with the bytes to come */
        hopper::barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        hopper::registers_shrink<40>();
        if (threadIdx.x < 32) conv3_produce<T, TAPS, KK, MT, NT>(a, &x, &past, &rest, base, full);
    } else {
        hopper::registers_grow<232>();
        conv3_consume<T, TAPS, KK, MT, NT>(a, &out, &norm, base, full);
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

/* A residual in boxes of a patch's 32 channels. */
static inline bool conv3_rest_map(CUtensorMap *map, const conv3_args &a) {
    const cuuint64_t size[4] = {(cuuint64_t)a.oc, (cuuint64_t)a.w, (cuuint64_t)a.h, (cuuint64_t)a.frames};
    const cuuint32_t box[4] = {32, CONV3_TILE_W, 8, 1};
    return sc_cuda_map(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, a.residual, 4, size, box, CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B);
}

/* What comes out, in boxes of a warp. A doubled picture's row holds the even and the odd pixel of a place one behind the other, and an even row
 * stands before its odd one: [frames][h][2][w][2 oc]. */
static inline bool conv3_out_map(CUtensorMap *map, const void *out, const conv3_args &a, int up) {
    const cuuint64_t size[5] = {(cuuint64_t)(a.group_ch * up), (cuuint64_t)a.w, (cuuint64_t)up, (cuuint64_t)a.h, (cuuint64_t)a.frames * a.split};
    const cuuint32_t box[5] = {32, 8, 1, 2, 1};
    return !out || sc_cuda_map(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, out, 5, size, box, CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_L2_PROMOTION_NONE);
}

/* False: the driver takes no such pictures, and nothing was launched. */
template <class T, int TAPS, int KK, int MT, int NT> static bool conv3_launch(conv3_args a, int sm_count, cudaStream_t stream) {
    using P = conv3_plan<TAPS, KK, MT, NT>;
    a.slabs = (a.ch + 16 * KK - 1) / (16 * KK);
    a.tiles_x = (a.w + CONV3_TILE_W - 1) / CONV3_TILE_W;
    a.tiles_n = (a.oc + NT - 1) / NT;
    a.tiles = a.tiles_x * ((a.h + 8 * MT - 1) / (8 * MT)) * a.frames * P::PHASES * a.tiles_n;
    CUtensorMap x, past = {}, rest = {}, out = {}, norm = {};
    if (!conv3_map<P>(&x, a.x, a, a.frames) || (a.times > 1 && !conv3_map<P>(&past, a.past, a, a.times - 1)) || (a.residual && !conv3_rest_map(&rest, a))) return false;
    if (!conv3_out_map(&out, a.out, a, P::PHASES == 4 ? 2 : 1) || !conv3_out_map(&norm, a.norm, a, P::PHASES == 4 ? 2 : 1)) return false;
    cudaFuncSetAttribute(conv3_kernel<T, TAPS, KK, MT, NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, P::SHARED);
    conv3_kernel<T, TAPS, KK, MT, NT><<<a.tiles < sm_count ? a.tiles : sm_count, CONV3_THREADS, P::SHARED, stream>>>(a, x, past, rest, out, norm);
    return true;
}

} // namespace sc
#endif

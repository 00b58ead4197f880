/* conv_ring.cuh - 3x3 convolutions from and to a multiple of 64 channels, and those of doubled pictures, NHWC, as implicit GEMM on wgmma (sm_90a): pictures
 * by the tensor copy, weights in a ring, two warpgroups that take turns. All of a decoder but its ends.
 *
 * Roles. M = 64 output channels (A, weights), N = 8 R pixels (B), a column of R rows of eight, K = 16 input channels of one tap. A product of 192 columns
 * reads 85 bytes of shared memory a cycle where one of 64 x 64 reads 128, all there are. A tile is one warpgroup's, two products wide:
 *   PW = 1   128 output channels of R rows, where the channels are a multiple of 128
 *   PW = 2   64 output channels of 2 R rows
 * R, 20 or 24, is what makes whole rounds of the card out of the picture (conv_ring_cost). The CTA stays; its tiles go to its two warpgroups in turn: what
 * one writes, the other's products hide. One thread brings all that is read, in order of use: tile, source, 64 channels, tap.
 *
 * Shared memory: two pictures with halo, [PW R + 2][10][64 channels], rows of 128 bytes swizzled by as much as in conv3.cuh, so that all taps read
 * one picture at shifted addresses; the ring of weights, a stage [128 / PW][64 channels] of one tap; what leaves, [warpgroup][8 R pixels][64
 * channels + 16 bytes].
 *
 * Doubling: a tile has a parity of the output pixel (conv.cuh) and reads its 2 x 2 taps from the same picture. Groups: 64 channels go to one frame.
 *
 * Turns. A parity tells a filling from the one before the last only to who knows that the last has landed; here that one may have been the other
 * warpgroup's. So turn t + 1 waits for nothing until turn t has waited for all of its own: bar.arrive of the one, bar.sync of the other, a barrier for each
 * direction. By induction all fillings of earlier turns have then landed, and within a turn they are waited for in order. The bringer alone waits for what
 * is given back, and for each giving back in order: it lags by none.
 * Why nobody waits for ever: turn 0 waits for no turn, and t arrives only if the CTA has a turn t + 1, which syncs once: one tile, an odd number, none for
 * the second warpgroup leave nobody behind (no CTA is without a tile). Turn t + 2 arrives behind its own sync, which is behind t + 1's arrival and so
 * behind t + 1's sync: arrivals do not pile up. Copies are ordered as they are used, and a stage or picture is given back before its reader leaves its turn,
 * at the latest one step after its use; that step has been ordered by then, for the ring is longer than one and pictures are two.
 *
 * Early start: weights are no other kernel's output, so the first are fetched before stream_order. Epilogue: the accumulators begin as the bias; to act
 * type, transposed through shared memory by stmatrix, + residual, relu, 16-byte stores; the last frame of the residual goes to `keep`.
 * Bound: flops; levels 0 and 1 of TAEHV at 832x480, 22 or 44 GFLOP a layer; level 2, 44 or 88, as much by its bytes, 153 to 230 MB; its doubling 157 and
 * 690 MB. */
#ifndef SC_KERNELS_CUDA_CONV_RING_CUH
#define SC_KERNELS_CUDA_CONV_RING_CUH
#include "kernels/cuda/conv3.cuh"
#include "kernels/cuda/filter.h"
#include "kernels/cuda/launch.cuh"

namespace sc {

enum { RING_THREADS = 384, RING_ROW = 128 /* bytes of 64 channels */, RING_PITCH = RING_ROW + 16, RING_COLS = 10 };

struct conv_ring_args {
    const void *weights;     /* [phase][oc / WROWS][step][WROWS][64], swizzled as in shared memory; step = (source, 64 channels, tap) */
    const float *bias;       /* [oc] */
    const void *residual;    /* or NULL; not with a doubling, not with groups */
    void *out, *keep;        /* keep: the residual's last frame, or NULL */
    int h, w, oc, frames;    /* picture in */
    int pictures, slabs;     /* 64 channels of a source: all that a tile sees; of one source */
    int oc_tiles, tiles_x, tiles_y, tiles;
    int groups, group_ch;    /* output channel o goes to frame n * groups + o / group_ch; group_ch: a multiple of 64 */
    bool relu;
};

template <int TAPS, int R, int PW> struct conv_ring_plan {
    enum {
        HEIGHT = PW * R, PICTURE = (HEIGHT + 2) * RING_COLS * RING_ROW, PICTURE_STAGE = (PICTURE + 1023) / 1024 * 1024, WROWS = 128 / PW, WEIGHTS = WROWS * RING_ROW,
        LEAVES = 8 * R * RING_PITCH, FIT = (CONV3_SHARED_MAX - 1023 - 256 - 2 * PICTURE_STAGE - 2 * LEAVES) / WEIGHTS, STAGES = FIT < 8 ? FIT : 8,
        PHASES = TAPS == 4 ? 4 : 1, SCALE = TAPS == 4 ? 2 : 1, SHARED = 2 * PICTURE_STAGE + STAGES * WEIGHTS + 2 * LEAVES + 256 + 1023, SWIZZLE = 1 /* rows of 128 bytes */
    };
    static_assert(STAGES >= 3, "a consumer holds two stages while copies land in the third");
};

/* Channels and parities fastest: what neighbours read comes from L2. */
template <class P> struct conv_ring_tile {
    int variant, phase, oc_tile, frame, y0, x0;
    __device__ __forceinline__ conv_ring_tile(const conv_ring_args &a, int tile) {
        const int variants = a.oc_tiles * P::PHASES, place = tile / variants, at = place % (a.tiles_x * a.tiles_y);
        variant = tile % variants, phase = variant / a.oc_tiles, oc_tile = variant % a.oc_tiles;
        frame = place / (a.tiles_x * a.tiles_y), x0 = at % a.tiles_x * 8, y0 = at / a.tiles_x * P::HEIGHT;
    }
};

/* In shared memory: pictures, weights, what leaves, then the barriers of both. */
template <class P> struct conv_ring_shared {
    uint32_t pictures, weights, leaves, picture_full, picture_empty, full, empty;
    __device__ __forceinline__ conv_ring_shared(uint32_t base)
        : pictures(base), weights(base + 2 * P::PICTURE_STAGE), leaves(weights + P::STAGES * P::WEIGHTS), picture_full(leaves + 2 * P::LEAVES), picture_empty(picture_full + 16),
          full(picture_full + 32), empty(full + 8 * P::STAGES) {}
};

#ifdef SC_CONV3_WGMMA
/* One thread: weights as far ahead as the ring is long, pictures by one. */
template <class P, int TAPS> __device__ __forceinline__ void conv_ring_bring(const conv_ring_args &a, const CUtensorMap *x, const CUtensorMap *past, const conv_ring_shared<P> &s) {
    const int mine = (a.tiles - 1 - blockIdx.x) / gridDim.x + 1, steps = a.pictures * TAPS, weights = mine * steps, pictures = mine * a.pictures;
    int next = 0, stage = 0, tile = blockIdx.x, step = 0; /* of the weights */
    uint32_t parity = 1;

    auto order_weights = [&] {
        const uint32_t bar = s.full + 8 * stage;
        const int variant = tile % (a.oc_tiles * P::PHASES);
        hopper::barrier_wait(s.empty + 8 * stage, parity);
        hopper::barrier_expect(bar, P::WEIGHTS);
        hopper::copy_1d(s.weights + stage * P::WEIGHTS, (const unsigned char *)a.weights + ((size_t)variant * steps + step) * P::WEIGHTS, P::WEIGHTS, bar);
        if (++stage == P::STAGES) stage = 0, parity ^= 1;
        if (++step == steps) step = 0, tile += gridDim.x;
        next++;
    };
    auto order_picture = [&](int use) {
        const conv_ring_tile<P> at(a, blockIdx.x + use / a.pictures * gridDim.x);
        const int part = use % a.pictures, frame = at.frame - part / a.slabs;
        const uint32_t bar = s.picture_full + 8 * (use & 1);
        hopper::barrier_wait(s.picture_empty + 8 * (use & 1), (use / 2 & 1) ^ 1);
        hopper::barrier_expect(bar, P::PICTURE);
        picture_copy(s.pictures + (use & 1) * P::PICTURE_STAGE, frame < 0 ? past : x, part % a.slabs * 64, at.x0 - 1, at.y0 - 1, frame < 0 ? 0 : frame, bar);
    };
    while (next < P::STAGES && next < weights) order_weights();
    stream_order();
    for (int use = 0; use < 2 && use < pictures; use++) order_picture(use);
    for (int use = 0; use < pictures; use++) {
        for (int i = 0; i < TAPS && next < weights; i++) order_weights();
        if (use + 2 < pictures) order_picture(use + 2);
    }
}

/* 16 bytes that this kernel does not write, here and no earlier: there are no registers to spare before. */
__device__ __forceinline__ uint4 load_once(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    return v;
}

/* The turn passes to warpgroup `group`; it waits for it. */
__device__ __forceinline__ void pass_turn(int group) { asm volatile("bar.arrive %0, 256;" ::"r"(3 + group) : "memory"); }
__device__ __forceinline__ void await_turn(int group) { asm volatile("bar.sync %0, 256;" ::"r"(3 + group) : "memory"); }

/* The warpgroup's products of one half of a tile go out, 8 R pixels of 64 channels: accumulator rows = channels 16 * warp + lane / 4 (+ 8), d[4j ..] =
 * picture row j, pixels lane % 4 * 2 (+ 1). A thread stores pixels thread / 8 + 16 i of the column, piece thread % 8 of their channels. */
template <class T, class P, int R>
__device__ __forceinline__ void conv_ring_leave(const conv_ring_args &a, float (&d)[4 * R], const conv_ring_tile<P> &at, int oc, int y0, uint32_t leaves, const unsigned char *read, int group) {
    const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32, y = y0 + thread / 64, x = at.x0 + thread / 8 % 8;
    const int early = a.relu && !a.residual;
    auto to_act = [&](float v, float w) {
        uint32_t u = pack2<T>(v, w);
        return early ? relu2<T>(u) : u;
    };
    hopper::warpgroup_sync(1 + group); /* what stood there has been read */
#pragma unroll
    for (int j = 0; j < R; j += 2) {
        const uint32_t to = leaves + ((j + lane / 16) * 8 + lane % 8) * RING_PITCH + (warp * 16 + lane / 8 % 2 * 8) * 2;
        const uint32_t u[4] = {to_act(d[4 * j], d[4 * j + 1]), to_act(d[4 * j + 2], d[4 * j + 3]), to_act(d[4 * j + 4], d[4 * j + 5]), to_act(d[4 * j + 6], d[4 * j + 7])};
        hopper::store_matrices_turned(to, u);
    }
    const size_t frame = (size_t)at.frame * a.groups + oc / a.group_ch, line = (size_t)2 * P::SCALE * (a.w * P::SCALE) * a.group_ch; /* line: two rows of the picture in */
    const size_t place = ((frame * (a.h * P::SCALE) + (size_t)y * P::SCALE + at.phase / 2) * (a.w * P::SCALE) + (size_t)x * P::SCALE + at.phase % 2) * a.group_ch + oc % a.group_ch + thread % 8 * 8;
    const int rows = x < a.w ? (a.h - y + 1) / 2 : 0; /* of this thread that are in the picture */
    const uint4 *from = (const uint4 *)read + thread / 8 * (RING_PITCH / 16) + thread % 8;
    T *const out = (T *)a.out + place;
    if (P::PHASES > 1 || !a.residual) {
        hopper::warpgroup_sync(1 + group);
#pragma unroll
        for (int i = 0; i < R / 2; i++)
            if (i < rows) *(uint4 *)(out + i * line) = from[i * RING_PITCH];
        return;
    }
    enum { PARTS = R % 8 ? 2 : 3, EACH = R / 2 / PARTS }; /* there are registers for so much of the residual */
    const T *const residual = (const T *)a.residual + place;
    T *const keep = a.keep && at.frame == a.frames - 1 ? (T *)a.keep + (place - (size_t)at.frame * a.h * a.w * a.oc) : NULL;
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        uint4 rest[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (part * EACH + i < rows) rest[i] = load_once(residual + (part * EACH + i) * line);
        if (part == 0) hopper::warpgroup_sync(1 + group);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int row = part * EACH + i;
            if (row >= rows) break;
            const uint4 v = from[row * RING_PITCH];
            uint32_t u[4] = {v.x, v.y, v.z, v.w};
            const uint32_t r[4] = {rest[i].x, rest[i].y, rest[i].z, rest[i].w};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float2 p = unpack2<T>(u[j]), q = unpack2<T>(r[j]);
                u[j] = pack2<T>(p.x + q.x, p.y + q.y);
                if (a.relu) u[j] = relu2<T>(u[j]);
            }
            *(uint4 *)(out + row * line) = make_uint4(u[0], u[1], u[2], u[3]);
            if (keep) *(uint4 *)(keep + row * line) = rest[i];
        }
    }
}

/* Warpgroup `group`: every other tile of the CTA. */
template <class T, class P, int TAPS, int R, int PW> __device__ __forceinline__ void conv_ring_multiply(const conv_ring_args &a, const unsigned char *shared, const conv_ring_shared<P> &s) {
    const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, steps = a.pictures * TAPS;
    float d[2][4 * R];

    auto give_back = [&](uint32_t bar) { /* a warp has multiplied */
        __syncwarp();
        if (lane == 0) hopper::barrier_arrive(bar, 1);
    };
    stream_order();
    for (int turn = group; blockIdx.x + turn * gridDim.x < a.tiles; turn += 2) {
        const conv_ring_tile<P> at(a, blockIdx.x + turn * gridDim.x);
        const int oc0 = at.oc_tile * P::WROWS, corner = TAPS == 4 ? at.phase / 2 * RING_COLS + at.phase % 2 : 0;
        int used = turn * a.pictures, stage = turn * steps % P::STAGES;
        uint32_t parity = turn * steps / P::STAGES & 1, held = 0; /* held: the barrier of the weights that are multiplied */
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float *bias = a.bias + oc0 + (PW == 1 ? half * 64 : 0) + warp * 16 + lane / 4, b0 = __ldg(bias), b1 = __ldg(bias + 8);
#pragma unroll
            for (int j = 0; j < R; j++) d[half][4 * j] = d[half][4 * j + 1] = b0, d[half][4 * j + 2] = d[half][4 * j + 3] = b1;
        }
        if (turn) await_turn(group);
        for (int picture = 0; picture < a.pictures; picture++, used++) {
            const uint64_t pixels = conv3_descriptor(s.pictures + (used & 1) * P::PICTURE_STAGE + corner * RING_ROW, RING_COLS * RING_ROW, P::SWIZZLE);
            hopper::barrier_wait(s.picture_full + 8 * (used & 1), used / 2 & 1);
#pragma unroll
            for (int tap = 0; tap < TAPS; tap++) {
                const int pixel = TAPS == 9 ? tap / 3 * RING_COLS + tap % 3 : tap / 2 * RING_COLS + tap % 2;
                const uint64_t w = conv3_descriptor(s.weights + stage * P::WEIGHTS, 8 * RING_ROW, P::SWIZZLE);
                hopper::barrier_wait(s.full + 8 * stage, parity);
                hopper::wgmma_fence();
#pragma unroll
                for (int k = 0; k < 4; k++)
#pragma unroll
                    for (int half = 0; half < 2; half++)
                        conv3_product(d[half], w + (PW == 1 ? half * 64 * RING_ROW / 16 : 0) + 2 * k,
                                      pixels + (pixel + (PW == 2 ? half * R * RING_COLS : 0)) * (RING_ROW / 16) + 2 * k, T());
                hopper::wgmma_commit();
                if (held) {
                    hopper::wgmma_wait<1>();
                    give_back(held);
                    if (tap == 0) give_back(s.picture_empty + 8 * ((used & 1) ^ 1)); /* the picture before */
                }
                held = s.empty + 8 * stage;
                if (++stage == P::STAGES) stage = 0, parity ^= 1;
            }
        }
        if (blockIdx.x + (turn + 1) * gridDim.x < a.tiles) pass_turn(group ^ 1);
        hopper::wgmma_wait<0>();
        hopper::registers_ready(d[0]);
        hopper::registers_ready(d[1]);
        give_back(held);
        give_back(s.picture_empty + 8 * ((used & 1) ^ 1));
#pragma unroll
        for (int half = 0; half < 2; half++)
            conv_ring_leave<T, P, R>(a, d[half], at, oc0 + (PW == 1 ? half * 64 : 0), at.y0 + (PW == 2 ? half * R : 0), s.leaves + group * P::LEAVES,
                                     shared + (s.leaves - s.pictures) + group * P::LEAVES, group);
    }
}
#endif

/* TAPS 9: 3x3, 4: 2x2 of a parity of the doubled picture. Grid: one CTA a multiprocessor, no more than tiles. */
template <class T, int TAPS, int R, int PW> __global__ static void __launch_bounds__(RING_THREADS, 1)
conv_ring_kernel(const __grid_constant__ conv_ring_args a, const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap past) {
#ifdef SC_CONV3_WGMMA
    extern __shared__ __align__(1024) unsigned char conv3_shared[];
    using P = conv_ring_plan<TAPS, R, PW>;
    const uint32_t start = shared_at(conv3_shared), base = (start + 1023) & ~1023u;
    const conv_ring_shared<P> s(base);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) hopper::barrier_init(s.picture_full + 8 * i, 1), hopper::barrier_init(s.picture_empty + 8 * i, 4);
        for (int i = 0; i < P::STAGES; i++) hopper::barrier_init(s.full + 8 * i, 1), hopper::barrier_init(s.empty + 8 * i, 4);
        hopper::barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        hopper::registers_shrink<40>();
        if (threadIdx.x == 0) conv_ring_bring<P, TAPS>(a, &x, &past, s);
    } else {
        hopper::registers_grow<232>();
        conv_ring_multiply<T, P, TAPS, R, PW>(a, conv3_shared + (base - start), s);
    }
#endif
}

/* What conv3_map needs. */
template <int HEIGHT> struct conv_ring_box { enum { ROW = RING_ROW, COLS = RING_COLS, ROWS = HEIGHT + 2 }; };

template <int TAPS, int R, int PW> static conv_ring_args conv_ring_tiles(conv_ring_args a) {
    using P = conv_ring_plan<TAPS, R, PW>;
    a.oc_tiles = a.oc / P::WROWS, a.tiles_x = (a.w + 7) / 8, a.tiles_y = (a.h + P::HEIGHT - 1) / P::HEIGHT;
    a.tiles = a.tiles_x * a.tiles_y * a.frames * a.oc_tiles * P::PHASES;
    return a;
}

/* Picture rows that the busiest CTA makes. */
template <int TAPS, int R, int PW> static int conv_ring_cost(const struct sc_cuda *c, const conv_ring_args &a) {
    return (conv_ring_tiles<TAPS, R, PW>(a).tiles + c->sm_count - 1) / c->sm_count * R;
}

/* x [frames][h][w][ch]; past one such frame, or NULL. False: the driver takes no such pictures, and nothing was launched. */
template <class T, int TAPS, int R, int PW> static bool conv_ring_launch(struct sc_cuda *c, conv_ring_args a, const void *x, const void *past, int ch) {
    using P = conv_ring_plan<TAPS, R, PW>;
    conv3_args picture = {};
    picture.h = a.h, picture.w = a.w, picture.ch = ch;
    CUtensorMap map, before;
    if (!conv3_map<conv_ring_box<P::HEIGHT>>(&map, x, picture, a.frames) || !conv3_map<conv_ring_box<P::HEIGHT>>(&before, past ? past : x, picture, 1)) return false;
    a = conv_ring_tiles<TAPS, R, PW>(a);
    a.slabs = ch / 64, a.pictures = a.slabs * (past ? 2 : 1);
    cudaFuncSetAttribute(conv_ring_kernel<T, TAPS, R, PW>, cudaFuncAttributeMaxDynamicSharedMemorySize, P::SHARED);
    launch(c, conv_ring_kernel<T, TAPS, R, PW>, a.tiles < c->sm_count ? a.tiles : c->sm_count, RING_THREADS, P::SHARED, 0, a, map, before);
    return true;
}

} // namespace sc
#endif

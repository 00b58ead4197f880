/* linear_hopper.cu - the feed-forward's first product of a whole pass on Hopper: gelu(x w^T + bias) in bf16.
 *
 * Why not cuBLASLt: GELU costs it a tenth of the product's time, since nothing is multiplied while a tile's sums are turned into outputs. Here
 * they leave while the next tile is multiplied.
 *
 * A CTA stays and takes tiles of 128 rows (of x, M) x BN channels (rows of w, N), BN 224 or 256, whichever wastes less (rounds_of). A producing
 * thread fills a ring of stages, 64 channels deep (K), with the bulk tensor copy; two warpgroups multiply 64 rows each, m64 x BN x 16, and keep
 * the sums in registers. When a tile's K is through, sums and bias become bf16, two in a register, and the next tile begins at once; behind
 * each of its first steps a warp takes 16 channels of its 16 rows through GELU to a small buffer, whence the tensor copy brings them away by
 * 32. So what GELU sees has been rounded to bf16, as it is where product and activation are two operations.
 *
 * Order of tiles: bands of BAND_TILES rows of tiles, in a band column after column: what is at work at once is nearly square, so that a long K
 * passes the L2 cache once.
 *
 * Swizzles: hopper.cuh for x and w; output in rows of 64 bytes whose four pieces are XORed by row / 2 mod 4. Tried and left out (kernels/README.md): clusters that
 * share w's tile, a warpgroup that runs behind the other, products without GELU, the addition to the residual stream.
 * Source of the scheme: the persistent cooperative kernels of CUTLASS 3 and the epilogue of one tile beside the next one's sums of its ping-pong kernels; none of its code.
 * Compared with the twin in test_cuda_ops, timed by linear_bench. Thread: engine; asynchronous on the device's stream. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/product_hopper.cuh"
#include "kernels/cuda/tensor_map.h"

using namespace sc;

enum {
    BAND_TILES = 20,        /* at most this many tiles in a band's column */
    CHUNK = 32,             /* channels that leave at a time */
    OUT_BUFFERS = 4, OUT_BYTES = 16 * CHUNK * 2, /* of each warp */
    LEAST_ROWS = 1024,      /* of x: below, cuBLASLt's smaller tiles are better */
};

typedef struct {
    int m_tiles, n_tiles, band, steps; /* steps along K */
    int n;
    const float *bias;                 /* [n] */
} args;

/* ---- what hopper.cuh has no wrapper for --------------------------------------------------------------------------------- */

__device__ __forceinline__ void store_2d(const CUtensorMap *map, int x, int y, uint32_t src) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x), "r"(y), "r"(src) : "memory");
}
__device__ __forceinline__ void store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
__device__ __forceinline__ void store_wait_all() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

/* GELU by the card's tanh, which errs by 5e-4 at most: an eighth of what rounding to bf16 does where GELU is not tiny. */
__device__ __forceinline__ float gelu_fast(float y) {
    float t;
    asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(y * (0.7978845608028654f + 0.035677408136300125f * y * y)));
    return 0.5f * y + 0.5f * y * t;
}

/* ---- the kernel --------------------------------------------------------------------------------------------------------- */

template <int BN> struct layout {
    static const int STAGE_BYTES = stage_of<BN>::BYTES;
    static const int OUT = PRODUCT_WARPS * OUT_BUFFERS * OUT_BYTES;
    static const int REST = OUT + 2 * BN * 4 + 128; /* all but the ring: output, two warpgroups' bias, barriers */
    static const int STAGES = (227 * 1024 - REST) / STAGE_BYTES;
    static const int BYTES = STAGES * STAGE_BYTES + REST;
    static const int PIECES = BN / 16; /* of what is left to bring away, a step each */
};

/* Shared memory of a CTA, as addresses. */
struct memory {
    ring r;
    uint32_t buffers, bias, bias_full; /* bias, and whether it is there: of each warpgroup that multiplies */
};

struct tile {
    int m0, n0;
    __device__ __forceinline__ tile(const args &a, int t, int bn) {
        const int in_band = a.band * a.n_tiles, b = t / in_band, r = t % in_band, height = min(a.band, a.m_tiles - b * a.band);
        n0 = r / height * bn, m0 = (b * a.band + r % height) * TILE_M;
    }
};

template <int BN> __device__ __forceinline__ void produce(const args &a, const CUtensorMap *x, const CUtensorMap *w, const memory &s) {
    using L = layout<BN>;
    cursor<L::STAGES> at;
    for (int t = blockIdx.x; t < a.m_tiles * a.n_tiles; t += gridDim.x) {
        const tile here(a, t, BN);
        for (int k = 0; k < a.steps; k++, at.next()) ring_bring<BN>(s.r, at, x, w, k * TILE_K, here.m0, here.n0);
    }
}

/* What a warp has still to bring away of the tile before: its 16 rows from m0 on, channels from n0 on. */
template <int BN> struct output {
    uint32_t u[BN / 4]; /* pairs of channels, as the sums lie: by eights of channels, row and row + 8 */
    int m0, n0;

    /* Sums and bias, rounded. */
    __device__ __forceinline__ void take(const float (&d)[BN / 2], uint32_t bias) {
#pragma unroll
        for (int i = 0; i < BN / 8; i++) {
            const float2 b = load_2(bias + (8 * i + threadIdx.x % 4 * 2) * 4);
            u[2 * i] = pack2<__nv_bfloat16>(d[4 * i] + b.x, d[4 * i + 1] + b.y);
            u[2 * i + 1] = pack2<__nv_bfloat16>(d[4 * i + 2] + b.x, d[4 * i + 3] + b.y);
        }
    }

    /* 16 channels to the warp's buffers, with every second piece 32 from there to memory. */
    __device__ __forceinline__ void piece(int p, const args &a, const CUtensorMap *out, uint32_t buffers) {
        const int lane = threadIdx.x % 32, row = lane % 16, channel = n0 + p / 2 * CHUNK;
        const uint32_t to = buffers + p / 2 % OUT_BUFFERS * OUT_BYTES;
        if (channel >= a.n) return;
        if (p % 2 == 0) {
            if (lane == 0) hopper::stores_read<OUT_BUFFERS - 1>();
            __syncwarp();
        }
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 y = unpack2<__nv_bfloat16>(u[4 * p + i]);
            v[i] = pack2<__nv_bfloat16>(gelu_fast(y.x), gelu_fast(y.y));
        }
        hopper::store_matrices(to + row * (CHUNK * 2) + ((p % 2 * 2 + lane / 16) ^ (row / 2 % 4)) * 16, v);
        if (p % 2) {
            hopper::proxy_fence();
            __syncwarp();
            if (lane == 0) store_2d(out, channel, m0, to), store_commit();
        }
    }
};

/* A warpgroup multiplies the 64 rows from `rows` on of each tile. */
template <int BN> struct consumer {
    using L = layout<BN>;
    const memory &s;
    const int rows;
    cursor<L::STAGES> at;
    float d[BN / 2];

    __device__ __forceinline__ uint32_t ask(bool add) { return ring_multiply<BN>(d, s.r, at, rows, add); }

    /* The tile's bias, by a thread of the warpgroup, once all of it have read the one before: at a barrier and not at the ring's, whose chain
     * racecheck does not follow. The products asked for last go on meanwhile. */
    __device__ __forceinline__ void ask_bias(const args &a, int n0, uint32_t bias, uint32_t bar, bool any) {
        const uint32_t bytes = min(BN, a.n - n0) * 4;
        if (any) hopper::warpgroup_sync((int)threadIdx.x / 128);
        if (threadIdx.x % 128) return;
        hopper::barrier_expect(bar, bytes);
        hopper::copy_1d(bias, a.bias + n0, bytes, bar);
    }

    __device__ __forceinline__ void run(const args &a, const CUtensorMap *out) {
        const int warp = threadIdx.x / 32 - 4;
        const uint32_t buffers = s.buffers + warp * OUT_BUFFERS * OUT_BYTES, bias = s.bias + warp / 4 * BN * 4, bias_bar = s.bias_full + warp / 4 * 8;
        output<BN> left;
        bool any = false;
        for (int t = blockIdx.x, odd = 0; t < a.m_tiles * a.n_tiles; t += gridDim.x, odd ^= 1) {
            const tile here(a, t, BN);
            uint32_t before = ask(false);
            ask_bias(a, here.n0, bias, bias_bar, any);
            if (any) left.piece(0, a, out, buffers);
#pragma unroll
            for (int k = 1; k < L::PIECES; k++) {
                const uint32_t bar = ask(true);
                if (any) left.piece(k, a, out, buffers);
                hopper::wgmma_wait<1>();
                ring_release(before);
                before = bar;
            }
            for (int k = L::PIECES; k < a.steps; k++) {
                const uint32_t bar = ask(true);
                hopper::wgmma_wait<1>();
                ring_release(before);
                before = bar;
            }
            hopper::wgmma_wait<0>();
            hopper::registers_ready(d);
            ring_release(before);
            hopper::barrier_wait(bias_bar, odd);
            left.take(d, bias);
            left.m0 = here.m0 + rows + warp % 4 * 16, left.n0 = here.n0;
            any = true;
        }
        if (any)
#pragma unroll
            for (int p = 0; p < L::PIECES; p++) left.piece(p, a, out, buffers);
        if (threadIdx.x % 32 == 0) store_wait_all();
    }
};

template <int BN>
__global__ static void __launch_bounds__(PRODUCT_THREADS, 1)
    linear_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w, const __grid_constant__ CUtensorMap out, const args a) {
#if __CUDA_ARCH__ >= 900
    using L = layout<BN>;
    extern __shared__ __align__(1024) char raw[];
    memory s;
    s.r.stages = hopper::smem_u32(raw), s.buffers = s.r.stages + L::STAGES * L::STAGE_BYTES, s.bias = s.buffers + L::OUT;
    s.r.full = s.bias + 2 * BN * 4, s.r.empty = s.r.full + L::STAGES * 8, s.bias_full = s.r.empty + L::STAGES * 8;

    if (threadIdx.x == 0) {
        if (s.r.stages & 1023) __trap();
        ring_init(s.r, L::STAGES);
        for (int i = 0; i < 2; i++) hopper::barrier_init(s.bias_full + i * 8, 1);
        hopper::barrier_init_fence();
    }
    __syncthreads();
    stream_order();
    if (threadIdx.x < 128) {
        hopper::registers_shrink<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) produce<BN>(a, &x, &w, s);
    } else {
        hopper::registers_grow<CONSUMER_REGISTERS>();
        consumer<BN> c = {s, (int)threadIdx.x / 128 * 64 - 64};
        c.run(a, &out);
    }
#endif
}

/* ---- launch ------------------------------------------------------------------------------------------------------------- */

/* Time of all rounds in channels: what a tile's width costs. */
static long rounds_of(const struct sc_cuda *c, const args &a, int bn) {
    const long tiles = (long)a.m_tiles * ((a.n + bn - 1) / bn);
    return (tiles + c->sm_count - 1) / c->sm_count * bn;
}

template <int BN> static bool start(struct sc_cuda *c, const CUtensorMap &x, const CUtensorMap &w, const CUtensorMap &out, const args &a) {
    using L = layout<BN>;
    const int tiles = a.m_tiles * a.n_tiles;
    if (cudaFuncSetAttribute(linear_kernel<BN>, cudaFuncAttributeMaxDynamicSharedMemorySize, L::BYTES) != cudaSuccess) return false;
    launch(c, linear_kernel<BN>, dim3(tiles < c->sm_count ? tiles : c->sm_count), PRODUCT_THREADS, L::BYTES, 0, x, w, out, a);
    return true;
}

template <int BN> static bool prepare(struct sc_cuda *c, const sc_matrix *w, const void *x, void *out, int m, args a) {
    CUtensorMap xs, ws, outs;
    a.n_tiles = (a.n + BN - 1) / BN;
    if (a.steps < layout<BN>::PIECES ||
        !sc_cuda_map_matrix(&xs, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, x, m, w->cols, TILE_M, TILE_K, CU_TENSOR_MAP_SWIZZLE_128B) ||
        !sc_cuda_map_matrix(&ws, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, w->w, a.n, w->cols, BN, TILE_K, CU_TENSOR_MAP_SWIZZLE_128B) ||
        !sc_cuda_map_matrix(&outs, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, out, m, a.n, 16, CHUNK, CU_TENSOR_MAP_SWIZZLE_64B)) return false;
    return start<BN>(c, xs, ws, outs, a);
}

extern "C" bool sc_cuda_linear_gelu(struct sc_cuda *c, const sc_matrix *w, const void *x, void *out, int m) {
    args a = {};
    if (c->cc_major != 9 || c->force_mma || c->base.act != SC_BF16 || m < LEAST_ROWS || w->rows % 8 || w->cols % 8) return false;
    if (((uintptr_t)x | (uintptr_t)out | (uintptr_t)w->w) & 15) return false;
    a.n = w->rows, a.steps = (w->cols + TILE_K - 1) / TILE_K;
    a.m_tiles = (m + TILE_M - 1) / TILE_M;
    const int bands = (a.m_tiles + BAND_TILES - 1) / BAND_TILES;
    a.band = (a.m_tiles + bands - 1) / bands;
    a.bias = w->bias_f32;
    return rounds_of(c, a, 224) < rounds_of(c, a, 256) ? prepare<224>(c, w, x, out, m, a) : prepare<256>(c, w, x, out, m, a);
}

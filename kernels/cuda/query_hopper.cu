/* query_hopper.cu - the weights of cross attention to folded keys, without the queries (ops.h, query_weights), for Hopper in bf16.
 *
 * One product with x, whose columns are the folded keys and then r's rows (query.cu), by a CTA that stays, in tiles of 128 x 256
 * (product_hopper.cuh). Of a column of r nothing is kept but its share of the sum of squares: of a tile one f32 a row, added up in the order of
 * the columns, to be added in the order of the tiles by the kernel behind, so that a pass gives the same bits every time. Logits go to memory in
 * f32 as they are.
 *
 * r is triangular, so r's tile from row i on begins at channel i, and in its first three steps of 64 channels only the first 64, 128, 192 of its
 * columns are brought and multiplied: at 1536 channels and 16 columns for each of 12 heads the work of 93 steps for a row of tiles, where q takes 144.
 * The keys' last tile, 192 columns of its 256 here, is filled with r's first rows, which need all channels too. Tiles go by their length, the
 * longest first, to and fro among the CTAs: at 37 rows of tiles no CTA has more than one step above the average of 26.
 *
 * Shared memory: the ring of four stages, and each warpgroup's bias of this tile and the one before.
 *
 * The softmax is a thread's for each row and head: it reads the sums and the head's logits, 64 bytes at 16 keys, and writes 32. Bound of all: the
 * products, 18 us at 4680 rows and 800 TFLOP/s. On a H200 they took 26.5 before the narrow steps (which at 8 columns a head make 24.97 us 24.27) and
 * the softmax 5.8; q itself with cross_weights.cuh takes 33 + 14.
 *
 * Workspace: logits f32 [rows][columns], sums f32 [tiles][rows], behind cuBLASLt's; rows go in pieces when they do not fit.
 * Compared with the twin in test_cuda_ops. Thread: engine; asynchronous on the device's stream. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/product_hopper.cuh"
#include "kernels/cuda/tensor_map.h"

#include <assert.h>
#include <math.h>

using namespace sc;

enum { BN = SC_CUDA_KEYS_TILE, PART = 64, STAGES = 4, BIAS_BYTES = 2 * 2 * BN * 4, SHARED_BYTES = STAGES * stage_of<BN>::BYTES + BIAS_BYTES + STAGES * 16, SOFTMAX_THREADS = 128 };

typedef struct {
    int m, dim, cols;             /* rows of x; channels; folded keys */
    int first;                    /* r's rows in the keys' last tile */
    int m_tiles, key_tiles, tiles; /* tiles: all, m_tiles for each 256 columns */
    const float *key_bias, *c;    /* [cols + first], [dim] */
    float *logit, *square;        /* [m][cols]; [parts][m] */
} args;

/* The CTA's tile of turn i, or none: every second turn goes back. */
struct tile {
    int m0, column, row, k0; /* column: of its 256 among all; row: r's first in it, in a tile of keys the keys' */
    bool there, keys;
    __device__ __forceinline__ tile(const args &a, int i) {
        const int t = i * gridDim.x + (i % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
        there = t < a.tiles;
        column = t / a.m_tiles, m0 = t % a.m_tiles * TILE_M;
        keys = column < a.key_tiles;
        row = keys ? column * BN : a.first + (column - a.key_tiles) * BN;
        k0 = keys ? 0 : row / TILE_K * TILE_K;
    }
    /* How many of the tile's columns channels [k, k + 64) have a share in, up to a multiple of PART. */
    __device__ __forceinline__ int columns(int k) const { return keys ? BN : min(BN, (k + TILE_K - row + PART - 1) / PART * PART); }
};

/* As ring_bring, of w's rows only so many, a multiple of PART. */
__device__ __forceinline__ void bring(const ring &r, const cursor<STAGES> &at, const CUtensorMap *x, const CUtensorMap *w, int k, int m0, int n0, int columns) {
    const uint32_t to = r.stages + at.stage * stage_of<BN>::BYTES, bar = r.full + at.stage * 8;
    hopper::barrier_wait(r.empty + at.stage * 8, at.phase ^ 1);
    hopper::barrier_expect(bar, (TILE_M + columns) * ROW_BYTES);
    hopper::copy_2d(to, x, k, m0, bar);
    for (int n = 0; n < columns; n += PART) hopper::copy_2d(to + (TILE_M + n) * ROW_BYTES, w, k, n0 + n, bar);
}

__device__ __forceinline__ void produce(const args &a, const CUtensorMap *x, const CUtensorMap *keys, const CUtensorMap *r, const ring &ring) {
    cursor<STAGES> at;
    for (int i = 0;; i++) {
        const tile here(a, i);
        if (!here.there) return;
        for (int k = here.k0; k < a.dim; k += TILE_K, at.next()) bring(ring, at, x, here.keys ? keys : r, k, here.m0, here.row, here.columns(k));
    }
}

/* Sums of a tile's columns leave: d of rows `row` and 8 more, this thread's columns 2 of 8 each. keys: how many of the columns are keys. */
__device__ __forceinline__ void finish(const args &a, const float (&d)[BN / 2], const tile &here, int row, uint32_t bias, int keys) {
    const int lane = threadIdx.x % 4;
    float sum[2] = {};
    float *to = a.logit + (size_t)row * a.cols + here.row + lane * 2;
#pragma unroll
    for (int i = 0; i < BN / 8; i++) {
        const float2 b = load_2(bias + (8 * i + lane * 2) * 4);
        const float y[4] = {d[4 * i] + b.x, d[4 * i + 1] + b.y, d[4 * i + 2] + b.x, d[4 * i + 3] + b.y};
        if (8 * i < keys) {
            if (row < a.m) *(float2 *)(to + 8 * i) = make_float2(y[0], y[1]);
            if (row + 8 < a.m) *(float2 *)(to + 8 * (size_t)a.cols + 8 * i) = make_float2(y[2], y[3]);
        } else {
            sum[0] += y[0] * y[0] + y[1] * y[1];
            sum[1] += y[2] * y[2] + y[3] * y[3];
        }
    }
    if (keys == BN) return;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
        sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
        if (lane == 0 && row + 8 * r < a.m) a.square[(size_t)(here.column - a.key_tiles + (a.first > 0)) * a.m + row + 8 * r] = sum[r];
    }
}

/* A step at r's diagonal, where only the first N columns of the tile have a share, if there is one at channel k. The sums are out of the way behind it:
 * products of different width do not follow one another into the same registers. */
template <int N> __device__ __forceinline__ void narrow(float (&d)[BN / 2], const ring &ring, cursor<STAGES> &at, int rows, int &k, int dim) {
    if (k >= dim) return;
    const uint32_t bar = ring_multiply<BN, N>(d, ring, at, rows, true);
    hopper::wgmma_wait<0>();
    hopper::registers_ready(d);
    ring_release(bar);
    k += TILE_K;
}

__device__ __forceinline__ void consume(const args &a, const ring &ring, uint32_t bias) {
    const int group = threadIdx.x / 128 - 1, rows = group * 64, t = threadIdx.x % 128, warp = t / 32;
    cursor<STAGES> at;
    float d[BN / 2];
    bias += group * 2 * BN * 4;
    for (int i = 0;; i++) {
        const tile here(a, i);
        if (!here.there) return;
        const float *from = here.keys ? a.key_bias : a.c;
        const int end = (here.keys ? a.cols + a.first : a.dim) - here.row - 2 * t; /* columns are even in number */
        int k = here.k0;
        if (!here.keys) {
#pragma unroll
            for (int e = 0; e < BN / 2; e++) d[e] = 0;
            narrow<64>(d, ring, at, rows, k, a.dim), narrow<128>(d, ring, at, rows, k, a.dim), narrow<192>(d, ring, at, rows, k, a.dim);
        }
        const float2 b = end > 0 ? *(const float2 *)(from + here.row + 2 * t) : make_float2(0, 0);
        asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(bias + (i % 2 * BN + 2 * t) * 4), "f"(b.x), "f"(b.y) : "memory");
        if (k < a.dim) {
            uint32_t before = ring_multiply<BN>(d, ring, at, rows, !here.keys);
            for (k += TILE_K; k < a.dim; k += TILE_K) {
                const uint32_t bar = ring_multiply<BN>(d, ring, at, rows, true);
                hopper::wgmma_wait<1>();
                ring_release(before);
                before = bar;
            }
            hopper::wgmma_wait<0>();
            ring_release(before);
        }
        hopper::registers_ready(d);
        hopper::warpgroup_sync(group + 1); /* the bias is there; and who writes the one after the next has come this far */
        finish(a, d, here, here.m0 + rows + warp * 16 + threadIdx.x % 32 / 4, bias + i % 2 * BN * 4, here.keys ? min(BN, a.cols - here.row) : 0);
    }
}

__global__ static void __launch_bounds__(PRODUCT_THREADS, 1)
    query_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap keys, const __grid_constant__ CUtensorMap r, const args a) {
#if __CUDA_ARCH__ >= 900
    extern __shared__ __align__(1024) char raw[];
    ring ring;
    ring.stages = hopper::smem_u32(raw);
    const uint32_t bias = ring.stages + STAGES * stage_of<BN>::BYTES;
    ring.full = bias + BIAS_BYTES, ring.empty = ring.full + STAGES * 8;
    if (threadIdx.x == 0) {
        if (ring.stages & 1023) __trap();
        ring_init(ring, STAGES);
        hopper::barrier_init_fence();
    }
    __syncthreads();
    stream_order();
    if (threadIdx.x < 128) {
        hopper::registers_shrink<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) produce(a, &x, &keys, &r, ring);
    } else {
        hopper::registers_grow<CONSUMER_REGISTERS>();
        consume(a, ring, bias);
    }
#endif
}

/* ---- softmax ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    const float *logit, *square, *rest; /* [m][heads * stride]; [parts][m]; [1] */
    __nv_bfloat16 *out;                 /* [m][heads * stride] */
    int m, heads, parts, n;
    float mean, eps, scale, last_bias;  /* mean: 1 / channels; scale and last_bias in base 2 */
} softmax_args;

template <int EIGHTS> __global__ static void __launch_bounds__(SOFTMAX_THREADS) softmax_kernel(const softmax_args a) {
    enum { STRIDE = 8 * EIGHTS };
    stream_order();
    const int at = blockIdx.x * SOFTMAX_THREADS + threadIdx.x, row = at / a.heads;
    if (row >= a.m) return;
    float x[STRIDE], square = 0, top = -INFINITY, sum = 0;
#pragma unroll
    for (int j = 0; j < STRIDE; j += 4) load4<float>(*(float(*)[4])(x + j), a.logit + (size_t)at * STRIDE + j);
    for (int p = 0; p < a.parts; p++) square += a.square[(size_t)p * a.m + row];
    const float by = a.scale / sqrtf((square + *a.rest) * a.mean + a.eps);
#pragma unroll
    for (int j = 0; j < STRIDE; j++) {
        x[j] = j < a.n ? x[j] * by + (j == a.n - 1 ? a.last_bias : 0.0f) : -INFINITY;
        top = fmaxf(top, x[j]); /* finite: there is a key */
    }
#pragma unroll
    for (int j = 0; j < STRIDE; j++) sum += x[j] = exp2f(x[j] - top);
    const float share = 1.0f / sum;
#pragma unroll
    for (int j = 0; j < STRIDE; j++) x[j] *= share;
#pragma unroll
    for (int j = 0; j < STRIDE; j += 8) store8<__nv_bfloat16>(a.out + (size_t)at * STRIDE + j, x + j);
}

/* ---- launch ------------------------------------------------------------------------------------------------------------- */

static void softmax(struct sc_cuda *c, const softmax_args &s, int stride) {
    const dim3 grid((unsigned)(((size_t)s.m * s.heads + SOFTMAX_THREADS - 1) / SOFTMAX_THREADS));
    switch (stride / 8) {
    case 1: launch(c, softmax_kernel<1>, grid, SOFTMAX_THREADS, 0, 0, s); break;
    case 2: launch(c, softmax_kernel<2>, grid, SOFTMAX_THREADS, 0, 0, s); break;
    case 3: launch(c, softmax_kernel<3>, grid, SOFTMAX_THREADS, 0, 0, s); break;
    case 4: launch(c, softmax_kernel<4>, grid, SOFTMAX_THREADS, 0, 0, s); break;
    case 5: launch(c, softmax_kernel<5>, grid, SOFTMAX_THREADS, 0, 0, s); break;
    case 6: launch(c, softmax_kernel<6>, grid, SOFTMAX_THREADS, 0, 0, s); break;
    case 7: launch(c, softmax_kernel<7>, grid, SOFTMAX_THREADS, 0, 0, s); break;
    default: launch(c, softmax_kernel<8>, grid, SOFTMAX_THREADS, 0, 0, s);
    }
}

static bool map_of(CUtensorMap *map, const void *data, size_t rows, size_t cols, int box) {
    return sc_cuda_map_matrix(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, data, rows, cols, box, TILE_K, CU_TENSOR_MAP_SWIZZLE_128B);
}

extern "C" sc_status sc_cuda_query_weights(sc_device *dev, const sc_query_weights_args *p, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    const sc_query *q = p->query;
    const int rows = sc_cuda_keys_rows(p->heads, p->stride);
    args a = {};
    assert(p->n >= 1 && p->n <= p->stride && p->stride <= SC_FOLD_MAX && p->stride % 8 == 0 && q->dim % p->heads == 0);
    a.dim = q->dim, a.cols = p->heads * p->stride;
    a.first = sc_cuda_keys_first(q->dim, p->heads, p->stride);
    a.key_tiles = rows / BN;
    a.key_bias = (const float *)((const __nv_bfloat16 *)p->keys + (size_t)rows * q->dim), a.c = q->c;
    const int left = (a.dim - a.first + BN - 1) / BN, parts = left + (a.first > 0);
    const size_t room = (c->workspace_bytes - SC_CUDA_LT_BYTES) / sizeof(float) / (size_t)(a.cols + parts) / TILE_M * TILE_M;
    const int piece = (size_t)p->tokens < room ? p->tokens : (int)room;
    assert(room > 0);
    a.logit = (float *)((char *)c->workspace + SC_CUDA_LT_BYTES), a.square = a.logit + (size_t)piece * a.cols;

    CUtensorMap x, keys, r;
    bool ok = map_of(&keys, p->keys, a.cols + a.first, a.dim, PART) && map_of(&r, q->r, a.dim, a.dim, PART) &&
              cudaFuncSetAttribute(query_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES) == cudaSuccess;
    for (int at = 0; ok && at < p->tokens; at += piece) {
        a.m = p->tokens - at < piece ? p->tokens - at : piece;
        a.m_tiles = (a.m + TILE_M - 1) / TILE_M;
        a.tiles = a.m_tiles * (a.key_tiles + left);
        if (!(ok = map_of(&x, (const __nv_bfloat16 *)p->x + (size_t)at * a.dim, a.m, a.dim, TILE_M))) break;
        launch(c, query_kernel, dim3(a.tiles < c->sm_count ? a.tiles : c->sm_count), PRODUCT_THREADS, SHARED_BYTES, 0, x, keys, r, a);
        softmax(c, {a.logit, a.square, q->rest, (__nv_bfloat16 *)p->out + (size_t)at * a.cols, a.m, p->heads, parts, p->n, 1.0f / a.dim, p->eps,
                    1.4426950408889634f / sqrtf((float)(a.dim / p->heads)), 1.4426950408889634f * p->last_bias}, p->stride);
    }
    return ok ? sc_launched("query_weights", err) : sc_fail(err, SC_EGPU, "query_weights: the card takes no such tiles");
}

/* mha.cuh - softmax attention of short key sequences, shared by cross attention and the text encoder.
 *
 * Grid (heads, query tiles of 64, sequences), 4 warps of 16 rows. Queries stay in registers; tiles of 64 keys and values go through
 * two stages of shared memory by cp.async, the next in flight while this one is used. Products are mma.sync m16n8k16, the softmax
 * is the running one in base 2, f32; the weights are rounded to the act type for the second product. Sixteens of keys past the end are
 * left out. The result goes back through shared memory, so that whole rows are written.
 *
 * Queries that are not normalised yet (cross attention, compute capability 9.0, at most 16 heads): the CTAs of all heads of a tile are a
 * cluster, each adds up the squares of its part of the rows, and the sums are put together through distributed shared memory in the order
 * of the heads, while the keys are on their way. So q is read once and never written back.
 *
 * Shared memory: stage { K [64][D + 8], V [64][D + 8] } x 2, the second one only half (for the queries) with a single tile of keys; 8
 * elements of padding put the 8 rows of an ldmatrix on different banks. Keys past the end are zero and masked. Head sizes that are not
 * instantiated, or rows off 16 bytes, take a plain kernel.
 *
 * Instead of out the bare products q k^T can be made, of at most one tile of keys: what the making of a fold needs (ops.h). Then there is no V, and
 * the queries' place is the second tile. The softmax by itself is cross_weights.cuh's, and the plain kernel's. Bound: flops. 4 * rows * keys * D * heads, 15 GFLOP for
 * 4680 x 512 x 12 x 128; bytes with a short prompt: q in and out, 29 MB. */
#ifndef SC_KERNELS_CUDA_MHA_CUH
#define SC_KERNELS_CUDA_MHA_CUH
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/ops.h"

namespace sc {

enum { MHA_TILE = 64, MHA_THREADS = 128, MHA_PAD = 8, MHA_CLUSTER_MAX = 16 };
enum { MHA_OUT, MHA_WEIGHTS, MHA_PRODUCTS }; /* what is made */

/* Row r of sequence s: q + (s * tokens + r) * ldq + head * D; likewise k, v (ldk, own base a sequence) and out. */
struct mha_args {
    const void *q, *k[SC_MAX_BATCH], *v[SC_MAX_BATCH];
    void *out;
    int ldq, ldk, ldo, tokens;
    int n[SC_MAX_BATCH];
    float last_bias[SC_MAX_BATCH]; /* cross: added to the logit of the last key */
    const float *bias;             /* text: [heads][2 * reach + 1], by key - query held to +- reach, + reach */
    int reach;
    float scale;
    const float *norm;             /* cross: [heads * D], q still to be normalised; the launch is one of clusters then. Or NULL */
    float eps;
    int weights;                   /* WEIGHTS (the plain kernel alone), PRODUCTS: columns of a head in out, a multiple of 8, zeros from n on */
};

template <int D> constexpr int mha_shared_bytes(int tiles) { return tiles * MHA_TILE * (D + MHA_PAD) * 2; }

/* Text: the largest distance whose bias of a head is kept in shared memory, behind the tiles. */
enum { MHA_REACH_MAX = 2047 };

/* `rows` rows of D elements, at most 64, and zero ones up to a multiple of 16. */
template <class T, int D> __device__ __forceinline__ void mha_load(uint32_t to, const T *from, int ld, int rows) {
    const int pieces = min(MHA_TILE, (rows + 15) / 16 * 16) * (D / 8);
#pragma unroll 8
    for (int i = threadIdx.x; i < pieces; i += MHA_THREADS) {
        const int r = i / (D / 8), d = i % (D / 8) * 8;
        copy16_async(to + (r * (D + MHA_PAD) + d) * 2, from + (size_t)(r < rows ? r : 0) * ld + d, r < rows ? 16 : 0);
    }
}

/* q of this warp's 16 rows *= weight / sqrt(mean over all heads of the squares + eps), rounded once. `part`, `factor`: [MHA_TILE] shared. */
template <class T, int D> __device__ __forceinline__ void mha_normalise(uint32_t (&q)[D / 16][4], const float *weight, float eps, float *part, float *factor) {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4, heads = gridDim.x;
    float square[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float2 x = unpack2<T>(q[i][e]);
            square[e % 2] += x.x * x.x + x.y * x.y;
        }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        square[r] += __shfl_xor_sync(0xffffffffu, square[r], 1);
        square[r] += __shfl_xor_sync(0xffffffffu, square[r], 2);
        if (lane % 4 == 0) part[row + r * 8] = square[r];
    }
    cluster_sync();
    if (threadIdx.x < MHA_TILE) {
        float sum = 0;
        for (int h = 0; h < heads; h++) sum += load_of(h, part + threadIdx.x);
        factor[threadIdx.x] = 1.0f / sqrtf(sum / (heads * D) + eps);
    }
    cluster_arrive(); /* nobody leaves before all have read: mha_kernel waits at its end */
    __syncthreads();
    const float by[2] = {factor[row], factor[row + 8]};
#pragma unroll
    for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float2 x = unpack2<T>(q[i][e]), w = *(const float2 *)(weight + i * 16 + e / 2 * 8 + lane % 4 * 2);
            q[i][e] = pack2<T>(x.x * by[e % 2] * w.x, x.y * by[e % 2] * w.y);
        }
}

/* A warp's 16 rows of one tile's products, from row `first` on. `rows`: its part of the queries' place, which it alone has read. At most D columns. */
template <class T, int D> __device__ __forceinline__ void mha_store(const mha_args &a, const float (&s)[8][4], T *rows, int first) {
    constexpr int LD = D + MHA_PAD;
    const int lane = threadIdx.x % 32, pieces = a.weights / 8;
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int j = 0; j < (D < MHA_TILE ? D : MHA_TILE) / 8; j++)
            if (j < pieces) *(uint32_t *)(rows + (lane / 4 + r * 8) * LD + j * 8 + lane % 4 * 2) = pack2<T>(s[j][2 * r], s[j][2 * r + 1]);
    __syncwarp();
    for (int i = lane; i < 16 * pieces; i += 32) {
        const int r = i / pieces, d = i % pieces * 8;
        if (first + r < a.tokens) *(uint4 *)((T *)a.out + ((size_t)blockIdx.z * a.tokens + first + r) * a.ldo + blockIdx.x * a.weights + d) = *(const uint4 *)(rows + r * LD + d);
    }
}

/* ONE: no sequence has more than one tile of keys, which frees the registers of the running result while the logits are made. */
template <class T, int D, bool TEXT, bool ONE, int MAKES> /* MHA_OUT or MHA_PRODUCTS */
__global__ static void __launch_bounds__(MHA_THREADS, MAKES != MHA_OUT ? 5 : ONE || (TEXT && D <= 64) ? 4 : D == 128 ? 3 : 1) mha_kernel(const __grid_constant__ mha_args a) {
    stream_order();
    extern __shared__ __align__(128) unsigned char mha_shared[];
    constexpr int LD = D + MHA_PAD, TILE_BYTES = MHA_TILE * LD * 2;
    constexpr float LOG2E = 1.4426950408889634f;
    const int seq = blockIdx.z, head = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first = blockIdx.y * MHA_TILE, n = a.n[seq], tiles = ONE ? 1 : (n + MHA_TILE - 1) / MHA_TILE;
    constexpr int QUERIES = (MAKES == MHA_OUT ? 2 : 1) * TILE_BYTES; /* where they pass */
    const uint32_t base = shared_at(mha_shared);
    const T *k = (const T *)a.k[seq] + head * D, *v = (const T *)a.v[seq] + head * D;
    const float scale = MAKES == MHA_PRODUCTS ? 1.0f : a.scale * LOG2E;

    /* Queries through stage 1 into registers, while stage 0 fills. */
    mha_load<T, D>(base + QUERIES, (const T *)a.q + ((size_t)seq * a.tokens + first) * a.ldq + head * D, a.ldq, a.tokens - first);
    copy_commit();
    mha_load<T, D>(base, k, a.ldk, n);
    if constexpr (MAKES == MHA_OUT) mha_load<T, D>(base + TILE_BYTES, v, a.ldk, n);
    copy_commit();
    const int reach = min(a.reach, n - 1);
    float *bias = (float *)(mha_shared + 4 * TILE_BYTES) + reach; /* text: in base 2, by distance */
    if (TEXT)
        for (int r = threadIdx.x - reach; r <= reach; r += MHA_THREADS) bias[r] = LOG2E * a.bias[(size_t)head * (2 * a.reach + 1) + a.reach + r];
    copy_wait<1>();
    __syncthreads();
    uint32_t q[D / 16][4];
#pragma unroll
    for (int i = 0; i < D / 16; i++) ldmatrix4(q[i], base + QUERIES + ((warp * 16 + lane % 16) * LD + i * 16 + lane / 16 * 8) * 2);
    __syncthreads();
    if constexpr (!TEXT) {
        __shared__ float part[MHA_TILE], factor[MHA_TILE];
        if (a.norm) mha_normalise<T, D>(q, a.norm + head * D, a.eps, part, factor);
    }

    float out[D / 8][4], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < D / 8; i++) out[i][0] = out[i][1] = out[i][2] = out[i][3] = 0;

    for (int tile = 0; tile < tiles; tile++) {
        const uint32_t sk = base + (tile & 1) * 2 * TILE_BYTES, sv = sk + TILE_BYTES;
        if (tile + 1 < tiles) {
            const uint32_t next = base + (~tile & 1) * 2 * TILE_BYTES;
            const int at = (tile + 1) * MHA_TILE;
            mha_load<T, D>(next, k + (size_t)at * a.ldk, a.ldk, n - at);
            mha_load<T, D>(next + TILE_BYTES, v + (size_t)at * a.ldk, a.ldk, n - at);
        }
        copy_commit();
        copy_wait<1>();
        __syncthreads();

        float s[8][4];
#pragma unroll
        for (int j = 0; j < 8; j++) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0;
#pragma unroll
        for (int i = 0; i < D / 16; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (tile * MHA_TILE + j * 16 >= n) continue;
                uint32_t b[4];
                ldmatrix4(b, sk + ((j * 16 + lane % 8 + lane / 16 * 8) * LD + i * 16 + lane / 8 % 2 * 8) * 2);
                mma16816<T>(s[2 * j], q[i], b[0], b[1]);
                mma16816<T>(s[2 * j + 1], q[i], b[2], b[3]);
            }

        float tile_top[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int j = 0; j < 8; j++) {
            if (tile * MHA_TILE + j / 2 * 16 >= n) continue;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int key = tile * MHA_TILE + j * 8 + lane % 4 * 2 + e % 2;
                float x = s[j][e] * scale;
                if (TEXT) x += bias[max(-reach, min(reach, key - (first + warp * 16 + lane / 4 + e / 2 * 8)))];
                else if (MAKES != MHA_PRODUCTS && key == n - 1) x += LOG2E * a.last_bias[seq];
                s[j][e] = key < n ? x : MAKES == MHA_PRODUCTS ? 0 : -INFINITY;
                tile_top[e / 2] = fmaxf(tile_top[e / 2], s[j][e]);
            }
        }
#pragma unroll
        for (int r = 0; r < (MAKES == MHA_PRODUCTS ? 0 : 2); r++) {
            float m = tile_top[r];
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
            m = fmaxf(m, top[r]);                    /* finite: every tile has a valid key */
            const float keep = exp2f(top[r] - m);
            top[r] = m;
            sum[r] *= keep;
#pragma unroll
            for (int i = 0; i < D / 8; i++) out[i][2 * r] *= keep, out[i][2 * r + 1] *= keep;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                if (tile * MHA_TILE + j / 2 * 16 >= n) continue;
                s[j][2 * r] = exp2f(s[j][2 * r] - m);
                s[j][2 * r + 1] = exp2f(s[j][2 * r + 1] - m);
                sum[r] += s[j][2 * r] + s[j][2 * r + 1];
            }
        }
        if constexpr (MAKES != MHA_OUT) mha_store<T, D>(a, s, (T *)(mha_shared + QUERIES) + warp * 16 * LD, first + warp * 16);
        else
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (tile * MHA_TILE + j * 16 >= n) continue;
                const uint32_t p[4] = {pack2<T>(s[2 * j][0], s[2 * j][1]), pack2<T>(s[2 * j][2], s[2 * j][3]),
                                       pack2<T>(s[2 * j + 1][0], s[2 * j + 1][1]), pack2<T>(s[2 * j + 1][2], s[2 * j + 1][3])};
#pragma unroll
                for (int i = 0; i < D / 16; i++) {
                    uint32_t b[4];
                    ldmatrix4_trans(b, sv + ((j * 16 + lane % 16) * LD + i * 16 + lane / 16 * 8) * 2);
                    mma16816<T>(out[2 * i], p, b[0], b[1]);
                    mma16816<T>(out[2 * i + 1], p, b[2], b[3]);
                }
            }
        __syncthreads();
    }

    if constexpr (MAKES == MHA_OUT) {
        T *rows = (T *)mha_shared + warp * 16 * LD; /* the keys' place; the loop ended with a barrier */
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float total = sum[r];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            const float share = 1.0f / total;
#pragma unroll
            for (int i = 0; i < D / 8; i++)
                *(uint32_t *)(rows + (lane / 4 + r * 8) * LD + i * 8 + lane % 4 * 2) = pack2<T>(out[i][2 * r] * share, out[i][2 * r + 1] * share);
        }
        __syncwarp();
#pragma unroll
        for (int i = lane; i < 16 * (D / 8); i += 32) {
            const int r = i / (D / 8), d = i % (D / 8) * 8, row = first + warp * 16 + r;
            if (row < a.tokens) *(uint4 *)((T *)a.out + ((size_t)seq * a.tokens + row) * a.ldo + head * D + d) = *(const uint4 *)(rows + r * LD + d);
        }
    }
    if constexpr (!TEXT)
        if (a.norm) cluster_wait();
}

/* Any head size, any alignment: one CTA per (row, head, sequence), logits in shared memory. */
template <class T, bool TEXT> __global__ static void __launch_bounds__(MHA_THREADS) mha_plain_kernel(const __grid_constant__ mha_args a, int dim, int makes) {
    extern __shared__ float logit[];
    __shared__ float part[2][MHA_THREADS / 32];
    const int row = blockIdx.x, head = blockIdx.y, seq = blockIdx.z, n = a.n[seq];
    const T *q = (const T *)a.q + ((size_t)seq * a.tokens + row) * a.ldq + head * dim, *k = (const T *)a.k[seq] + head * dim, *v = (const T *)a.v[seq] + head * dim;
    float top = -INFINITY, sum = 0;
    for (int j = threadIdx.x; j < n; j += MHA_THREADS) {
        float x = 0;
        for (int d = 0; d < dim; d++) x += to_float(q[d]) * to_float(k[(size_t)j * a.ldk + d]);
        if (makes == MHA_PRODUCTS) {
            logit[j] = x;
            continue;
        }
        x *= a.scale;
        if (TEXT) x += a.bias[(size_t)head * (2 * a.reach + 1) + a.reach + max(-a.reach, min(a.reach, j - row))];
        else if (j == n - 1) x += a.last_bias[seq];
        logit[j] = x;
        top = fmaxf(top, x);
    }
#pragma unroll
    for (int o = 16; o; o /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
    if (threadIdx.x % 32 == 0) part[0][threadIdx.x / 32] = top;
    __syncthreads();
    for (int i = 0; i < MHA_THREADS / 32; i++) top = fmaxf(top, part[0][i]);
    for (int j = threadIdx.x; j < n && makes != MHA_PRODUCTS; j += MHA_THREADS) sum += logit[j] = expf(logit[j] - top);
    sum = cta_sum<MHA_THREADS>(sum, part[1]); /* its barrier shows all weights to all threads */
    if (makes != MHA_OUT) {
        T *out = (T *)a.out + ((size_t)seq * a.tokens + row) * a.ldo + head * a.weights;
        for (int j = threadIdx.x; j < a.weights; j += MHA_THREADS) out[j] = from_float<T>(j >= n ? 0 : makes == MHA_PRODUCTS ? logit[j] : logit[j] / sum);
        return;
    }
    for (int d = threadIdx.x; d < dim; d += MHA_THREADS) {
        float x = 0;
        for (int j = 0; j < n; j++) x += logit[j] * to_float(v[(size_t)j * a.ldk + d]);
        ((T *)a.out)[((size_t)seq * a.tokens + row) * a.ldo + head * dim + d] = from_float<T>(x / sum);
    }
}

template <class T, bool TEXT> static void mha_plain_launch(const mha_args *a, int dim, int heads, int seqs, cudaStream_t stream, int makes = MHA_OUT) {
    int most = 0;
    /* 3 more: the compiler reads the last logits four at a time */
    for (int s = 0; s < seqs; s++) most = a->n[s] > most ? a->n[s] : most;
    mha_plain_kernel<T, TEXT><<<dim3(a->tokens, heads, seqs), MHA_THREADS, (most + 3) * sizeof(float), stream>>>(*a, dim, makes);
}

template <class T, int D, bool TEXT, bool ONE, int MAKES = MHA_OUT> static void mha_launch_tiles(struct sc_cuda *dev, const mha_args *a, int heads, int seqs) {
    const auto kernel = mha_kernel<T, D, TEXT, ONE, MAKES>;
    constexpr int TILES = MAKES != MHA_OUT ? 2 : ONE ? 3 : 4; /* of shared memory */
    const dim3 grid(heads, (a->tokens + MHA_TILE - 1) / MHA_TILE, seqs);
    const int bytes = mha_shared_bytes<D>(TILES) + (TEXT ? (2 * (a->reach < a->n[0] ? a->reach : a->n[0] - 1) + 1) * (int)sizeof(float) : 0);
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, mha_shared_bytes<D>(TILES) + (TEXT ? (2 * MHA_REACH_MAX + 1) * (int)sizeof(float) : 0));
    if (a->norm) cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1); /* more than 8 */
    launch(dev, kernel, grid, MHA_THREADS, bytes, a->norm ? heads : 0, *a);
}

/* With a->norm: on a card of compute capability 9.0, heads <= MHA_CLUSTER_MAX. */
template <class T, int D, bool TEXT> static void mha_launch(struct sc_cuda *dev, const mha_args *a, int heads, int seqs) {
    bool one = !TEXT;
    for (int s = 0; s < seqs; s++) one = one && a->n[s] <= MHA_TILE;
    if constexpr (!TEXT)
        if (one) return mha_launch_tiles<T, D, TEXT, true>(dev, a, heads, seqs);
    mha_launch_tiles<T, D, TEXT, false>(dev, a, heads, seqs);
}

} // namespace sc
#endif

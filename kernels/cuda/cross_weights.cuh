/* cross_weights.cuh - the softmax of cross attention to a short prompt, of at most SC_FOLD_MAX keys, by itself: what a fold's product takes (ops.h).
 *
 * Grid (tiles of 16 rows, sequences, groups of heads), a warp for each head of a group and nothing in shared memory but sums. A contraction may take
 * its terms in any order, so a lane's share of 32 channels is 8 neighbours, one load of 16 bytes: channels 8t .. 8t + 7 of lane t (mma.cuh) are its
 * columns of two k-steps. Queries and keys come that way from memory to fragments; the keys of a prompt, 4 KB a head and 16 of them, stay in L1.
 *
 * Queries that are not normalised yet: all heads of a row are one group then, at most 12, each warp adds up the squares of its part, and the sums are put
 * together in the order of the heads. Then q is read once more, from L1, and never held as a whole: to hold it takes 80 registers instead of 56 and the
 * same 13.7 us at 4680 rows.
 *
 * Bound: bytes; q in, 14 MB at 4680 rows, and 24 columns a head out, 2.7. Head sizes 32, 64, 128 at 16 bytes; others take the plain kernel of mha.cuh. */
#ifndef SC_KERNELS_CUDA_CROSS_WEIGHTS_CUH
#define SC_KERNELS_CUDA_CROSS_WEIGHTS_CUH
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/ops.h"

namespace sc {

enum { WEIGHTS_ROWS = 16, WEIGHTS_HEADS = 12, WEIGHTS_TILES = SC_FOLD_MAX / 8 };

/* Row r of sequence s: q + (s * tokens + r) * width, out + (s * tokens + r) * heads * stride. */
struct weights_args {
    const void *q, *k[SC_MAX_BATCH];
    void *out;
    int tokens, heads, stride, n[SC_MAX_BATCH];
    float last_bias[SC_MAX_BATCH];
    const float *norm; /* [heads * D]: q is still to be normalised; or NULL */
    float scale, eps;  /* scale: of the logits, in base 2 */
};

/* 8 channels of a row, at `i` times 32, zeros where there is no row. */
__device__ __forceinline__ uint4 weights_load(const void *row, int i, bool there) { return there ? *((const uint4 *)row + 4 * i) : make_uint4(0, 0, 0, 0); }

/* 1 / sqrt(mean over all heads of the squares + eps) of rows lane/4 and 8 more. */
template <class T, int D> __device__ __forceinline__ void weights_factors(float (&by)[2], const void *const (&row)[2], const bool (&there)[2], const weights_args &a) {
    __shared__ float part[WEIGHTS_HEADS][WEIGHTS_ROWS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float square = 0;
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            const uint4 q = weights_load(row[r], i, there[r]);
            const uint32_t u[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float2 x = unpack2<T>(u[e]);
                square += x.x * x.x + x.y * x.y;
            }
        }
        square += __shfl_xor_sync(~0u, square, 1);
        square += __shfl_xor_sync(~0u, square, 2);
        if (lane % 4 == 0) part[warp][lane / 4 + 8 * r] = square;
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = 0;
        for (int h = 0; h < a.heads; h++) sum += part[h][lane / 4 + 8 * r];
        by[r] = 1.0f / sqrtf(sum / (a.heads * D) + a.eps);
    }
}

/* q * by * w, rounded once. */
template <class T> __device__ __forceinline__ uint4 weights_scaled(const uint4 &q, float by, const float (&w)[8]) {
    uint32_t u[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const float2 x = unpack2<T>(u[e]);
        u[e] = pack2<T>(x.x * by * w[2 * e], x.y * by * w[2 * e + 1]);
    }
    return make_uint4(u[0], u[1], u[2], u[3]);
}

/* TILES of eight keys, at least stride / 8. */
template <class T, int D, int TILES> __global__ static void __launch_bounds__(32 * WEIGHTS_HEADS, TILES <= 2 ? 3 : 2) weights_kernel(const __grid_constant__ weights_args a) {
    stream_order();
    const int lane = threadIdx.x % 32, head = blockIdx.z * (blockDim.x / 32) + threadIdx.x / 32, seq = blockIdx.y, n = a.n[seq], width = a.heads * D, first = blockIdx.x * WEIGHTS_ROWS + lane / 4;
    if (head >= a.heads) return; /* of a last group, where nobody waits for anybody */
    const T *const from = (const T *)a.q + ((size_t)seq * a.tokens + first) * width + head * D + lane % 4 * 8, *const k = (const T *)a.k[seq] + head * D + lane % 4 * 8;
    const void *const row[2] = {from, from + (size_t)8 * width};
    const bool there[2] = {first < a.tokens, first + 8 < a.tokens};
    float s[TILES][4] = {}, by[2];
    if (a.norm) weights_factors<T, D>(by, row, there, a);
#pragma unroll
    for (int i = 0; i < D / 32; i++) {
        uint4 q[2] = {weights_load(row[0], i, there[0]), weights_load(row[1], i, there[1])};
        if (a.norm) {
            float w[8];
            load8<float>(w, a.norm + head * D + i * 32 + lane % 4 * 8);
#pragma unroll
            for (int r = 0; r < 2; r++) q[r] = weights_scaled<T>(q[r], by[r], w);
        }
        const uint32_t low[4] = {q[0].x, q[1].x, q[0].y, q[1].y}, high[4] = {q[0].z, q[1].z, q[0].w, q[1].w};
#pragma unroll
        for (int j = 0; j < TILES; j++) {
            if (8 * j >= n) continue;
            const uint4 b = weights_load(k + (size_t)min(8 * j + lane / 4, n - 1) * width, i, true);
            mma16816<T>(s[j], low, b.x, b.y);
            mma16816<T>(s[j], high, b.z, b.w);
        }
    }

    float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int key = j * 8 + lane % 4 * 2 + e % 2;
            float x = s[j][e] * a.scale;
            if (key == n - 1) x += 1.4426950408889634f * a.last_bias[seq];
            s[j][e] = key < n ? x : -INFINITY;
            top[e / 2] = fmaxf(top[e / 2], s[j][e]);
        }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 1));
        top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 2)); /* finite: there is a key */
        float sum = 0;
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) sum += s[j][2 * r + e] = exp2f(s[j][2 * r + e] - top[r]);
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        const float share = 1.0f / sum;
        if (first + 8 * r >= a.tokens) continue;
        T *to = (T *)a.out + (((size_t)seq * a.tokens + first + 8 * r) * a.heads + head) * a.stride + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < TILES; j++)
            if (8 * j < a.stride) *(uint32_t *)(to + 8 * j) = pack2<T>(s[j][2 * r] * share, s[j][2 * r + 1] * share);
    }
}

/* With a->norm: at most WEIGHTS_HEADS heads. */
template <class T, int D> static void weights_launch(struct sc_cuda *c, const weights_args *a, int seqs) {
    const int groups = (a->heads + WEIGHTS_HEADS - 1) / WEIGHTS_HEADS, heads = (a->heads + groups - 1) / groups;
    const dim3 grid((a->tokens + WEIGHTS_ROWS - 1) / WEIGHTS_ROWS, seqs, groups);
    if (a->stride <= 16) launch(c, weights_kernel<T, D, 2>, grid, 32 * heads, 0, 0, *a);
    else if (a->stride <= 32) launch(c, weights_kernel<T, D, 4>, grid, 32 * heads, 0, 0, *a);
    else launch(c, weights_kernel<T, D, WEIGHTS_TILES>, grid, 32 * heads, 0, 0, *a);
}

} // namespace sc
#endif

/* qkv.cu - what happens between the fused product and attention: norms, the in-chunk rotation, pages, representatives.
 *
 * The norm of q and k runs over the whole width, so a row's heads need each other's sums of squares. Heads of 128 channels:
 *   compute capability 9.0: one kernel, one read. A block belongs to a cluster of six CTAs, its rows dealt out to them one by one, a CTA
 *     has all heads of its rows: a thread holds the same eight channels of q, k and v (16-byte accesses) of two rows at a time, in registers
 *     while the CTA adds up the squares of both. Then it scales, rotates, writes q and the page rows, and keeps sums of the rotated,
 *     unrounded q and k. The CTAs add those through distributed shared memory in the order of their ranks, each for a share of the
 *     channels, so the means are the same in every run. Six, since the 78 clusters of 832x480 then fit at once (four CTAs a multiprocessor).
 *   older cards: two kernels. row_scale makes the two factors of every row; then one CTA per (block, head, sequence) reads its rows again,
 *     16 threads a row, 8 tokens at a time, and the sums of the 8 token groups are added in a fixed order.
 * Heads of another size take the plain kernels.
 *
 * Bound: bytes. Per token 3 * width in and 3 * width out, act type: 4680 tokens of width 1536 move 86 MB, 30 us at 2.9 TB/s; what the
 * product left in L2 is not read from memory.
 * Thread: engine; asynchronous on the device's stream. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.cuh"

#include <assert.h>

using namespace sc;

enum { THREADS = 128, LANES = 16, GROUPS = THREADS / LANES, DIM = 128, CLUSTER = 6, ROWS = 2, WIDEST = 5120 };

template <class X> __global__ static void __launch_bounds__(THREADS) row_scale_kernel(float2 *scale, const X *qkv, int width, float eps) {
    __shared__ float part[2][THREADS / 32];
    const X *q = qkv + (size_t)blockIdx.x * 3 * width, *k = q + width;
    float sq = 0, sk = 0;
    for (int g = threadIdx.x; g < width / 8; g += THREADS) {
        float a[8], b[8];
        load8<X>(a, q + 8 * g);
        load8<X>(b, k + 8 * g);
#pragma unroll
        for (int j = 0; j < 8; j++) sq += a[j] * a[j], sk += b[j] * b[j];
    }
    sq = cta_sum<THREADS>(sq, part[0]);
    sk = cta_sum<THREADS>(sk, part[1]);
    if (threadIdx.x == 0) scale[blockIdx.x] = make_float2(1.0f / sqrtf(sq / width + eps), 1.0f / sqrtf(sk / width + eps));
}

/* What the CTAs read of sc_qkv_args. */
typedef struct {
    const void *qkv;
    const float2 *scale;
    const float *norm_q, *norm_k, *in_chunk;
    const int32_t *start;
    void *q, *k, *v;
    float *rep_q, *rep_k;
    int heads, tokens, blocks, page_rows;
    float eps;
    struct { const sc_kv_slot *slots; int stride, own; } view[SC_MAX_BATCH]; /* own: index of the first slot of the own chunk */
} heads_args;

/* y = x * s * weight, then every pair turned by (cos, sin). */
__device__ __forceinline__ void norm_rotate(float y[8], const float x[8], float s, const float w[8], const float cs[8]) {
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
        const float a = x[j] * s * w[j], b = x[j + 1] * s * w[j + 1];
        y[j] = a * cs[j] - b * cs[j + 1];
        y[j + 1] = a * cs[j + 1] + b * cs[j];
    }
}

template <class X, class T> __global__ static void __launch_bounds__(THREADS) heads_kernel(const __grid_constant__ heads_args a) {
    __shared__ __align__(16) float sums[2][GROUPS][DIM];
    const int b = blockIdx.x, h = blockIdx.y, s = blockIdx.z, group = threadIdx.x / LANES, d = threadIdx.x % LANES * 8;
    const int first = a.start[b], length = a.start[b + 1] - first, width = a.heads * DIM;
    const int page = a.view[s].slots[(size_t)h * a.view[s].stride + a.view[s].own + b].page;
    const size_t head = (size_t)s * a.heads + h, page_at = (size_t)page * a.page_rows * DIM;
    float wq[8], wk[8], sum_q[8] = {0}, sum_k[8] = {0};
    load8<float>(wq, a.norm_q + h * DIM + d);
    load8<float>(wk, a.norm_k + h * DIM + d);
    for (int t = group; t < length; t += GROUPS) {
        const size_t row = (size_t)s * a.tokens + first + t;
        const X *x = (const X *)a.qkv + row * 3 * width + h * DIM + d;
        const float2 scale = a.scale[row];
        float q[8], k[8], v[8], cs[8], y[8];
        load8<X>(q, x);
        load8<X>(k, x + width);
        load8<X>(v, x + 2 * width);
        load8<float>(cs, a.in_chunk + (size_t)(first + t) * DIM + d);
        norm_rotate(y, q, scale.x, wq, cs);
        store8<T>((T *)a.q + (head * a.tokens + first + t) * DIM + d, y);
#pragma unroll
        for (int j = 0; j < 8; j++) sum_q[j] += y[j];
        norm_rotate(y, k, scale.y, wk, cs);
        store8<T>((T *)a.k + page_at + t * DIM + d, y);
#pragma unroll
        for (int j = 0; j < 8; j++) sum_k[j] += y[j];
        store8<T>((T *)a.v + page_at + t * DIM + d, v);
    }
    store8<float>(&sums[0][group][d], sum_q);
    store8<float>(&sums[1][group][d], sum_k);
    __syncthreads();
    float q = 0, k = 0;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) q += sums[0][g][threadIdx.x], k += sums[1][g][threadIdx.x];
    a.rep_q[(head * a.blocks + b) * DIM + threadIdx.x] = q / length;
    a.rep_k[(size_t)page * DIM + threadIdx.x] = k / length;
}

/* Eight neighbours as they lie in memory: half the registers that floats would take while a row waits for its sum. */
template <class X> struct eight {
    uint4 u;
    __device__ void load(const X *p) { u = *(const uint4 *)p; }
    __device__ void get(float v[8]) const { load8<X>(v, (const X *)&u); }
};
template <> struct eight<float> {
    float u[8];
    __device__ void load(const float *p) { load8<float>(u, p); }
    __device__ void get(float v[8]) const {
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = u[j];
    }
};

/* Grid (CLUSTER, blocks, seqs); width / 8 threads, rounded up to whole warps; dynamic shared memory: the sums of q and of k, [2][width]. */
template <class X, class T, int COUNT> __global__ static void __launch_bounds__(COUNT, COUNT > 192 ? 1 : sizeof(X) == 4 ? 3 : 4) block_kernel(const __grid_constant__ heads_args a) {
    stream_order();
    extern __shared__ __align__(16) float sums[];
    __shared__ float part[2][2 * ROWS][COUNT / 32];
    const int rank = blockIdx.x, b = blockIdx.y, s = blockIdx.z, first = a.start[b], length = a.start[b + 1] - first, width = a.heads * DIM;
    const int col = threadIdx.x * 8, h = col / DIM, d = col % DIM, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const bool mine = col < width;
    const sc_kv_slot *slots = a.view[s].slots + a.view[s].own + b;
    const size_t head = (size_t)s * a.heads + h, page_at = mine ? (size_t)slots[(size_t)h * a.view[s].stride].page * a.page_rows * DIM + d : 0;
    float sum_q[8] = {}, sum_k[8] = {};
    for (int t0 = rank, turn = 0; t0 < length; t0 += ROWS * CLUSTER, turn ^= 1) {
        eight<X> q[ROWS], k[ROWS], v[ROWS];
        float x[8], square[2 * ROWS] = {};
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int t = t0 + r * CLUSTER;
            if (!mine || t >= length) continue;
            const X *from = (const X *)a.qkv + ((size_t)s * a.tokens + first + t) * 3 * width + col;
            q[r].load(from);
            k[r].load(from + width);
            v[r].load(from + 2 * width);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (mine && t0 + r * CLUSTER < length) {
                q[r].get(x);
#pragma unroll
                for (int j = 0; j < 8; j++) square[2 * r] += x[j] * x[j];
                k[r].get(x);
#pragma unroll
                for (int j = 0; j < 8; j++) square[2 * r + 1] += x[j] * x[j];
            }
            square[2 * r] = warp_sum(square[2 * r]);
            square[2 * r + 1] = warp_sum(square[2 * r + 1]);
        }
        if (threadIdx.x % 32 == 0)
#pragma unroll
            for (int i = 0; i < 2 * ROWS; i++) part[turn][i][warp] = square[i];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 2 * ROWS; i++) {
            float all = 0;
            for (int w = 0; w < warps; w++) all += part[turn][i][w];
            square[i] = 1.0f / sqrtf(all / width + a.eps);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const int t = t0 + r * CLUSTER;
            if (!mine || t >= length) continue;
            float w[8], cs[8], y[8];
            load8<float>(cs, a.in_chunk + (size_t)(first + t) * DIM + d);
            load8<float>(w, a.norm_q + col);
            q[r].get(x);
            norm_rotate(y, x, square[2 * r], w, cs);
            store8<T>((T *)a.q + (head * a.tokens + first + t) * DIM + d, y);
#pragma unroll
            for (int j = 0; j < 8; j++) sum_q[j] += y[j];
            load8<float>(w, a.norm_k + col);
            k[r].get(x);
            norm_rotate(y, x, square[2 * r + 1], w, cs);
            store8<T>((T *)a.k + page_at + t * DIM, y);
#pragma unroll
            for (int j = 0; j < 8; j++) sum_k[j] += y[j];
            v[r].get(x);
            store8<T>((T *)a.v + page_at + t * DIM, x);
        }
    }
    if (mine) {
        store8<float>(sums + col, sum_q);
        store8<float>(sums + width + col, sum_k);
    }
    cluster_sync();
    for (int g = rank * blockDim.x + threadIdx.x; g < width / 2; g += CLUSTER * blockDim.x) { /* groups of four: q's, then k's */
        const int c = 4 * g % width, of = c / DIM;
        float4 sum = {};
        for (int i = 0; i < CLUSTER; i++) {
            const float4 part_of = load4_of(i, sums + 4 * g);
            sum.x += part_of.x, sum.y += part_of.y, sum.z += part_of.z, sum.w += part_of.w;
        }
        float *rep = 4 * g < width ? a.rep_q + (((size_t)s * a.heads + of) * a.blocks + b) * DIM : a.rep_k + (size_t)slots[(size_t)of * a.view[s].stride].page * DIM;
        *(float4 *)(rep + c % DIM) = make_float4(sum.x / length, sum.y / length, sum.z / length, sum.w / length);
    }
    cluster_sync(); /* nobody leaves while another reads its sums */
}

/* Any even head size: one CTA per (block, head, sequence), a thread a channel pair, tokens one after another. */
template <class X> __global__ static void __launch_bounds__(THREADS) row_scale_plain(float2 *scale, const X *qkv, int width, float eps) {
    __shared__ float part[2][THREADS / 32];
    const X *q = qkv + (size_t)blockIdx.x * 3 * width, *k = q + width;
    float sq = 0, sk = 0;
    for (int i = threadIdx.x; i < width; i += THREADS) sq += to_float(q[i]) * to_float(q[i]), sk += to_float(k[i]) * to_float(k[i]);
    sq = cta_sum<THREADS>(sq, part[0]);
    sk = cta_sum<THREADS>(sk, part[1]);
    if (threadIdx.x == 0) scale[blockIdx.x] = make_float2(1.0f / sqrtf(sq / width + eps), 1.0f / sqrtf(sk / width + eps));
}

template <class X, class T> __global__ static void __launch_bounds__(THREADS) heads_plain(const __grid_constant__ heads_args a, int dim) {
    const int b = blockIdx.x, h = blockIdx.y, s = blockIdx.z, first = a.start[b], length = a.start[b + 1] - first, width = a.heads * dim;
    const int page = a.view[s].slots[(size_t)h * a.view[s].stride + a.view[s].own + b].page;
    const size_t head = (size_t)s * a.heads + h;
    for (int d = 2 * threadIdx.x; d < dim; d += 2 * THREADS) {
        float2 sum[2] = {};
        for (int t = 0; t < length; t++) {
            const size_t row = (size_t)s * a.tokens + first + t, in_page = ((size_t)page * a.page_rows + t) * dim + d;
            const X *x = (const X *)a.qkv + row * 3 * width + h * dim + d;
            const float c = a.in_chunk[(size_t)(first + t) * dim + d], si = a.in_chunk[(size_t)(first + t) * dim + d + 1];
#pragma unroll
            for (int half = 0; half < 2; half++) { /* q, k */
                const float *w = (half ? a.norm_k : a.norm_q) + h * dim + d, scale = half ? a.scale[row].y : a.scale[row].x;
                const float re = to_float(x[half * width]) * scale * w[0], im = to_float(x[half * width + 1]) * scale * w[1];
                const float2 y = make_float2(re * c - im * si, re * si + im * c);
                T *to = half ? (T *)a.k + in_page : (T *)a.q + (head * a.tokens + first + t) * dim + d;
                to[0] = from_float<T>(y.x), to[1] = from_float<T>(y.y);
                sum[half].x += y.x, sum[half].y += y.y;
            }
            ((T *)a.v)[in_page] = from_float<T>(to_float(x[2 * width]));
            ((T *)a.v)[in_page + 1] = from_float<T>(to_float(x[2 * width + 1]));
        }
        float *rep_q = a.rep_q + (head * a.blocks + b) * dim + d, *rep_k = a.rep_k + (size_t)page * dim + d;
        rep_q[0] = sum[0].x / length, rep_q[1] = sum[0].y / length;
        rep_k[0] = sum[1].x / length, rep_k[1] = sum[1].y / length;
    }
}

template <class X, class T> static void launch_qkv(struct sc_cuda *c, const sc_qkv_args *a, const heads_args *h, float2 *scale) {
    const cudaStream_t stream = c->stream;
    const bool clusters = c->cc_major >= 9 && !c->force_mma;
    const dim3 grid(a->blocks.blocks, a->heads, a->seqs), all_heads(CLUSTER, a->blocks.blocks, a->seqs);
    const int width = a->heads * DIM, threads = (width / 8 + 31) / 32 * 32;
    if (a->head_dim == DIM && clusters && width <= WIDEST) {
        if (threads <= 192) sc::launch(c, block_kernel<X, T, 192>, all_heads, threads, 2 * width * sizeof(float), CLUSTER, *h);
        else sc::launch(c, block_kernel<X, T, WIDEST / 8>, all_heads, threads, 2 * width * sizeof(float), CLUSTER, *h);
    } else if (a->head_dim == DIM) {
        row_scale_kernel<X><<<a->seqs * a->blocks.tokens, THREADS, 0, stream>>>(scale, (const X *)a->qkv, a->heads * DIM, a->eps);
        heads_kernel<X, T><<<grid, THREADS, 0, stream>>>(*h);
    } else {
        row_scale_plain<X><<<a->seqs * a->blocks.tokens, THREADS, 0, stream>>>(scale, (const X *)a->qkv, a->heads * a->head_dim, a->eps);
        heads_plain<X, T><<<grid, THREADS, 0, stream>>>(*h, a->head_dim);
    }
}

extern "C" sc_status sc_cuda_qkv(sc_device *dev, const sc_qkv_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    assert(a->head_dim % 2 == 0 && a->seqs >= 1 && a->seqs <= SC_MAX_BATCH && (a->qkv_type == SC_F32 || a->qkv_type == dev->act));
    assert((size_t)a->seqs * (size_t)a->blocks.tokens * sizeof(float2) <= c->workspace_bytes);
    float2 *scale = (float2 *)c->workspace;
    heads_args h = {a->qkv, scale, a->norm_q, a->norm_k, a->rope.in_chunk, a->blocks.start, a->q, a->pages.k, a->pages.v, a->rep_q, a->pages.rep_k,
                    a->heads, a->blocks.tokens, a->blocks.blocks, a->pages.page_rows, a->eps, {}};
    for (int s = 0; s < a->seqs; s++) {
        h.view[s].slots = a->view[s].slots;
        h.view[s].stride = a->view[s].slot_stride;
        h.view[s].own = a->view[s].window_base + a->view[s].window - a->blocks.blocks;
    }
    if (a->qkv_type == SC_F32) SC_ACT_CALL(dev->act, (launch_qkv<float, T>(c, a, &h, scale)));
    else SC_ACT_CALL(dev->act, (launch_qkv<T, T>(c, a, &h, scale)));
    return sc_launched("qkv", err);
}

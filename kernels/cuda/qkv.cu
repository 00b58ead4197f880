/* qkv.cu - what happens between the fused product and attention: norms, the in-chunk rotation, pages, representatives.
 *
 * The norm of q and k runs over the whole width, so a row's heads need each other's sums of squares. Heads of 128 channels:
 *   compute capability 9.0: one kernel, one read. A block belongs to a cluster of six CTAs, its rows dealt out to them one by one, a CTA
 *     has all heads of its rows. They come by the bulk copy, a row with the rotations of its token, to a ring of stages, so that some are on
 *     their way at any time. A thread takes the same eight channels of q, k and v (16-byte accesses) to registers, v goes on to its page,
 *     and when the CTA has added up the squares of q and k the stage is asked for again. Then it scales, rotates, writes q and the page
 *     row of k, and keeps sums of the rotated, unrounded q and k. The CTAs add those through distributed shared memory in the order of their
 *     ranks, each for a share of the channels, so the means are the same in every run. Six, since the 78 clusters of 832x480 then fit at once
 *     (four CTAs a multiprocessor).
 *   older cards: two kernels. row_scale makes the two factors of every row; then one CTA per (block, head, sequence) reads its rows again,
 *     16 threads a row, 8 tokens at a time, and the sums of the 8 token groups are added in a fixed order.
 * Heads of another size take the plain kernels.
 *
 * Bound: bytes. Per token 3 * width in and 3 * width out, act type: 4680 tokens of width 1536 move 86 MB, 20 us at an H200's 4.3 TB/s; what
 * the product left in L2 is not read from memory.
 * Thread: engine; asynchronous on the device's stream. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.cuh"

#include <assert.h>

using namespace sc;

enum { THREADS = 128, LANES = 16, GROUPS = THREADS / LANES, DIM = 128, CLUSTER = 6, WIDEST = 5120 };
enum { TURN_BYTES = DIM * 4, RING_BYTES = 30 << 10, STAGES_MAX = 8 }; /* three stages of 1536 channels: with five it is slower by 3 % */

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
    float eps, q_scale;
    struct { const sc_kv_slot *slots; int stride, own; } view[SC_MAX_BATCH]; /* own: index of the first slot of the own chunk */
} heads_args;

/* 16 bytes to global memory in one store: of some of those written as an assignment the compiler makes four, which each touch all sectors. */
__device__ __forceinline__ void store16(void *p, uint4 u) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "r"(u.x), "r"(u.y), "r"(u.z), "r"(u.w) : "memory");
}

/* Eight of q as they are stored. */
template <class T> __device__ __forceinline__ uint4 stored_q(const float y[8], float q_scale) {
    float v[8];
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = y[j] * q_scale;
    return pack8<T>(v);
}

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
        store16((T *)a.q + (head * a.tokens + first + t) * DIM + d, stored_q<T>(y, a.q_scale));
#pragma unroll
        for (int j = 0; j < 8; j++) sum_q[j] += y[j];
        norm_rotate(y, k, scale.y, wk, cs);
        store16((T *)a.k + page_at + t * DIM + d, pack8<T>(y));
#pragma unroll
        for (int j = 0; j < 8; j++) sum_k[j] += y[j];
        store16((T *)a.v + page_at + t * DIM + d, pack8<T>(v));
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
    __device__ __forceinline__ void load(const X *p) { u = *(const uint4 *)p; }
    __device__ __forceinline__ void get(float v[8]) const { load8<X>(v, (const X *)&u); }
    __device__ __forceinline__ uint4 as(X) const { return u; }
};
template <> struct eight<float> {
    float u[8];
    __device__ __forceinline__ void load(const float *p) { load8<float>(u, p); }
    __device__ __forceinline__ void get(float v[8]) const {
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = u[j];
    }
    template <class T> __device__ __forceinline__ uint4 as(T) const { return pack8<T>(u); }
};

/* Grid (CLUSTER, blocks, seqs); width / 8 threads, rounded up to whole warps. Dynamic shared memory: `stages` times a row's q k v and its token's
 * rotations; once all rows are through, the sums of q and of k, [2][width], in the same place. */
template <class X, class T, int COUNT> __global__ static void __launch_bounds__(COUNT, COUNT > 192 ? 1 : 4) block_kernel(const __grid_constant__ heads_args a, int stages) {
#if __CUDA_ARCH__ >= 900
    extern __shared__ __align__(128) char ring[];
    __shared__ uint64_t full[STAGES_MAX];
    __shared__ float part[2][COUNT / 32][2];
    const int rank = blockIdx.x, b = blockIdx.y, s = blockIdx.z, width = a.heads * DIM, row_bytes = 3 * width * (int)sizeof(X), stage_bytes = row_bytes + TURN_BYTES;
    const int col = threadIdx.x * 8, h = col / DIM, d = col % DIM, warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    const uint32_t to = hopper::smem_u32(ring), bar = hopper::smem_u32(full);
    const bool mine = col < width;
    if (threadIdx.x == 0) {
        for (int i = 0; i < stages; i++) hopper::barrier_init(bar + 8 * i, 1);
        hopper::barrier_init_fence();
    }
    __syncthreads();
    stream_order();
    const int first = a.start[b], length = a.start[b + 1] - first, rows = (length - rank + CLUSTER - 1) / CLUSTER;
    auto ask = [&](int i, int stage) { /* for the CTA's i-th row */
        const size_t t = (size_t)(first + rank + i * CLUSTER);
        hopper::barrier_expect(bar + 8 * stage, stage_bytes);
        hopper::copy_1d(to + stage * stage_bytes, (const X *)a.qkv + ((size_t)s * a.tokens + t) * 3 * width, row_bytes, bar + 8 * stage);
        hopper::copy_1d(to + stage * stage_bytes + row_bytes, a.in_chunk + t * DIM, TURN_BYTES, bar + 8 * stage);
    };
    if (threadIdx.x == 0)
        for (int i = 0; i < stages && i < rows; i++) ask(i, i);
    const sc_kv_slot *slots = a.view[s].slots + a.view[s].own + b;
    const size_t page_at = mine ? (size_t)slots[(size_t)h * a.view[s].stride].page * a.page_rows * DIM + d : 0;
    T *q_to = (T *)a.q + (((size_t)s * a.heads + h) * a.tokens + first) * DIM + d;
    float wq[8] = {}, wk[8] = {}, sum_q[8] = {}, sum_k[8] = {};
    if (mine) load8<float>(wq, a.norm_q + col), load8<float>(wk, a.norm_k + col);
    for (int i = 0, stage = 0, phase = 0; i < rows; i++) {
        const int t = rank + i * CLUSTER;
        const X *row = (const X *)(ring + stage * stage_bytes) + col;
        eight<X> q, k, v;
        float x[8], y[8], turn[8], squares_q = 0, squares_k = 0;
        hopper::barrier_wait(bar + 8 * stage, phase);
        if (mine) {
            q.load(row);
            k.load(row + width);
            v.load(row + 2 * width);
            load8<float>(turn, (const float *)(ring + stage * stage_bytes + row_bytes) + d);
            store16((T *)a.v + page_at + t * DIM, v.as(T()));
            q.get(x);
#pragma unroll
            for (int j = 0; j < 8; j++) squares_q += x[j] * x[j];
            k.get(x);
#pragma unroll
            for (int j = 0; j < 8; j++) squares_k += x[j] * x[j];
        }
        /* As warp_sum, but from the first exchange on the lower half has q's and the upper half k's. */
        float sum = (lane < 16 ? squares_q : squares_k) + __shfl_xor_sync(~0u, lane < 16 ? squares_k : squares_q, 16);
#pragma unroll
        for (int o = 8; o; o /= 2) sum += __shfl_xor_sync(~0u, sum, o);
        if (lane % 16 == 0) part[i & 1][warp][lane / 16] = sum;
        __syncthreads(); /* and all have read the stage */
        if (threadIdx.x == 0 && i + stages < rows) ask(i + stages, stage);
        if (++stage == stages) stage = 0, phase ^= 1;
        float all = 0; /* of q in even lanes, of k in odd ones */
        for (int w = 0; w < warps; w++) all += part[i & 1][w][lane % 2];
        const float scale = 1.0f / sqrtf(all / width + a.eps), scale_q = __shfl_sync(~0u, scale, 0), scale_k = __shfl_sync(~0u, scale, 1);
        if (!mine) continue;
        q.get(x);
        norm_rotate(y, x, scale_q, wq, turn);
        store16(q_to + t * DIM, stored_q<T>(y, a.q_scale));
#pragma unroll
        for (int j = 0; j < 8; j++) sum_q[j] += y[j];
        k.get(x);
        norm_rotate(y, x, scale_k, wk, turn);
        store16((T *)a.k + page_at + t * DIM, pack8<T>(y));
#pragma unroll
        for (int j = 0; j < 8; j++) sum_k[j] += y[j];
    }
    float *sums = (float *)ring;
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
#endif
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
                const float stored = half ? 1.0f : a.q_scale;
                to[0] = from_float<T>(y.x * stored), to[1] = from_float<T>(y.y * stored);
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

template <class X, class T, int COUNT> static void launch_blocks(struct sc_cuda *c, const heads_args &a, int seqs) {
    const int width = a.heads * DIM, threads = (width / 8 + 31) / 32 * 32, stage_bytes = 3 * width * (int)sizeof(X) + TURN_BYTES, room = RING_BYTES / stage_bytes;
    const int stages = room < 2 ? 2 : room > STAGES_MAX ? STAGES_MAX : room, bytes = stages * stage_bytes;
    static_assert(2 * 3 * sizeof(X) >= 2 * sizeof(float), "the sums take the place of two stages");
    if (cudaFuncSetAttribute(block_kernel<X, T, COUNT>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) != cudaSuccess) return;
    sc::launch(c, block_kernel<X, T, COUNT>, dim3(CLUSTER, a.blocks, seqs), threads, bytes, CLUSTER, a, stages);
}

template <class X, class T> static void launch_qkv(struct sc_cuda *c, const sc_qkv_args *a, const heads_args *h, float2 *scale) {
    const cudaStream_t stream = c->stream;
    const bool clusters = c->cc_major >= 9 && !c->force_mma;
    const dim3 grid(a->blocks.blocks, a->heads, a->seqs);
    const int width = a->heads * DIM;
    if (a->head_dim == DIM && clusters && width <= WIDEST) {
        if (width <= 1536) launch_blocks<X, T, 192>(c, *h, a->seqs);
        else launch_blocks<X, T, WIDEST / 8>(c, *h, a->seqs);
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
                    a->heads, a->blocks.tokens, a->blocks.blocks, a->pages.page_rows, a->eps, sc_q_scale(a->q_scale), {}};
    for (int s = 0; s < a->seqs; s++) {
        h.view[s].slots = a->view[s].slots;
        h.view[s].stride = a->view[s].slot_stride;
        h.view[s].own = a->view[s].window_base + a->view[s].window - a->blocks.blocks;
    }
    if (a->qkv_type == SC_F32) SC_ACT_CALL(dev->act, (launch_qkv<float, T>(c, a, &h, scale)));
    else SC_ACT_CALL(dev->act, (launch_qkv<T, T>(c, a, &h, scale)));
    return sc_launched("qkv", err);
}

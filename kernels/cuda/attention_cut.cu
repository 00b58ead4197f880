/* attention_cut.cu - around the Hopper kernel: what its groups of blocks read, how the work falls to CTAs, and the sums of cut pieces
 * put together. attention.cuh has the words. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.cuh"

#include <assert.h>

enum { GROUP = SC_ATT_GROUP, PLAN_THREADS = 256 };

/* ---- plans -------------------------------------------------------------------------------------------------------------- */

/* One CTA an item. A byte a slot collects the bits of the blocks whose lists name it; the slots with a bit are then written in
 * order, which is that of age. */
__global__ static void __launch_bounds__(PLAN_THREADS) attention_plan_kernel(const __grid_constant__ sc_att_params p) {
    extern __shared__ unsigned char bits[];
    __shared__ int warp_count[PLAN_THREADS / 32];
    sc::stream_order();
    const int item = blockIdx.x, s = item / (p.heads * p.groups), head = item / p.groups % p.heads, group = item % p.groups, tid = threadIdx.x;
    const sc_att_seq &seq = p.seq[s];
    const int members = min(GROUP, p.blocks - group * GROUP), end = seq.window_base + seq.window, columns = seq.persistent + seq.window;
    for (int i = tid; i < end; i += PLAN_THREADS) bits[i] = p.list ? 0 : (1 << members) - 1;
    __syncthreads();
    for (int m = 0; p.list && m < members; m++) {
        const int32_t *list = p.list + ((size_t)(s * p.heads + head) * p.blocks + group * GROUP + m) * p.list_stride;
        for (int i = tid; i < seq.count; i += PLAN_THREADS) bits[list[i]] |= 1 << m;
        __syncthreads();
    }
    int32_t *plan = p.plan + (size_t)item * p.plan_stride;
    int n = 0;
    for (int base = 0; base < columns; base += PLAN_THREADS) {
        const int column = base + tid, slot = column < seq.persistent ? column : seq.window_base + column - seq.persistent;
        const int b = column < columns ? bits[slot] : 0;
        const unsigned votes = __ballot_sync(~0u, b != 0);
        if ((tid & 31) == 0) warp_count[tid >> 5] = __popc(votes);
        __syncthreads();
        int before = n + __popc(votes & ((1u << (tid & 31)) - 1));
#pragma unroll
        for (int w = 0; w < PLAN_THREADS / 32; w++) {
            if (w < tid >> 5) before += warp_count[w];
            n += warp_count[w];
        }
        if (b) plan[before] = slot << GROUP | b;
        __syncthreads();
    }
    if (tid == 0) p.plan_count[item] = n;
}

void sc_cuda_attention_plan(struct sc_cuda *dev, const sc_att_params *p) {
    int slots = 1;
    for (int s = 0; s < p->seqs; s++) {
        const int end = p->seq[s].window_base + p->seq[s].window;
        slots = slots > end ? slots : end;
    }
    assert(slots <= SC_ATT_SLOTS_MAX);
    sc::launch(dev, attention_plan_kernel, dim3((unsigned)p->items), PLAN_THREADS, (size_t)slots, 0, *p);
}

/* ---- the cut ------------------------------------------------------------------------------------------------------------ */

/* Whole rounds first. A last round that is nearly full stays whole too: cutting it would cost more than it gains. */
void sc_cuda_attention_cut(sc_att_params *p, int sm_count) {
    int stride = 1;
    p->groups = (p->blocks + GROUP - 1) / GROUP;
    p->items = p->seqs * p->heads * p->groups;
    p->ctas = sm_count;
    for (int s = 0; s < p->seqs; s++) {
        const int columns = p->seq[s].persistent + p->seq[s].window;
        stride = stride > columns ? stride : columns;
    }
    p->plan_stride = stride;
    p->waves = p->items / sm_count;
    int rest = p->items - p->waves * sm_count;
    if (rest * 16 >= sm_count * 15) p->waves++, rest = 0;
    p->tail_first = p->items - rest;
    p->tail_steps = 0;
    for (int i = p->tail_first; i < p->items; i++) p->tail_steps += p->seq[i / (p->heads * p->groups)].count;
    const int64_t pieces = p->tail_steps / 4; /* fewer than 4 pages a piece are not worth joining */
    p->tail_ctas = pieces < rest ? rest : pieces > sm_count ? sm_count : (int)pieces;
}

/* ---- joining the pieces ------------------------------------------------------------------------------------------------- */

/* One CTA per (item of the tail, query block), 4 threads a row: out = sum of O 2^(m - top) / sum of l 2^(m - top). */
template <typename T> __global__ static void __launch_bounds__(256) attention_join_kernel(const __grid_constant__ sc_att_params p) {
    sc::stream_order();
    const int item = p.tail_first + blockIdx.x, member = blockIdx.y, per_seq = p.heads * p.groups;
    const int s = item / per_seq, head = item % per_seq / p.groups, block = item % p.groups * GROUP + member;
    if (block >= p.blocks) return;
    int64_t begin = 0;
    for (int i = p.tail_first / per_seq; i <= s; i++) {
        const int from = max(i * per_seq, p.tail_first), to = min((i + 1) * per_seq, item);
        begin += (int64_t)(to - from) * p.seq[i].count;
    }
    const int c0 = att_tail_owner(p, begin), c1 = att_tail_owner(p, begin + p.seq[s].count - 1);
    const int row = threadIdx.x >> 2, first = p.start[block];
    if (c0 == c1 || row >= p.start[block + 1] - first) return;
    float top = -INFINITY, l = 0, o[32] = {};
    for (int c = c0; c <= c1; c++) top = fmaxf(top, p.partial_ml[((size_t)(2 * c + (c == c0)) * GROUP + member) * SC_ATT_ROWS + row].x);
    for (int c = c0; c <= c1; c++) {
        const size_t place = ((size_t)(2 * c + (c == c0)) * GROUP + member) * SC_ATT_ROWS + row;
        const float2 ml = p.partial_ml[place];
        const float f = hopper::exp2_fast((ml.x - top) * p.scale_log2);
        l += ml.y * f;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float4 x = ((const float4 *)(p.partial + place * SC_ATT_DIM))[j * 4 + (threadIdx.x & 3)];
            o[4 * j] += x.x * f, o[4 * j + 1] += x.y * f, o[4 * j + 2] += x.z * f, o[4 * j + 3] += x.w * f;
        }
    }
    T *out = (T *)p.out + ((size_t)s * p.tokens + first + row) * p.heads * SC_ATT_DIM + head * SC_ATT_DIM;
    const float inv = 1 / l;
#pragma unroll
    for (int j = 0; j < 8; j++)
        *(uint2 *)(out + (j * 4 + (threadIdx.x & 3)) * 4) =
            make_uint2(sc::pack2<T>(o[4 * j] * inv, o[4 * j + 1] * inv), sc::pack2<T>(o[4 * j + 2] * inv, o[4 * j + 3] * inv));
}

void sc_cuda_attention_join(struct sc_cuda *dev, const sc_att_params *p) {
    if (p->items == p->tail_first) return;
    const dim3 grid(p->items - p->tail_first, GROUP);
    SC_ACT_CALL(dev->base.act, sc::launch(dev, attention_join_kernel<T>, grid, 256, 0, 0, *p));
}

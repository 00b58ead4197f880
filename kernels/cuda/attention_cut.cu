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
    const int per_seq = p->heads * ((p->blocks + GROUP - 1) / GROUP);
    int stride = 1;
    p->groups = (p->blocks + GROUP - 1) / GROUP;
    p->items = p->seqs * per_seq;
    p->ctas = sm_count < SC_ATT_CUT_MAX ? sm_count : SC_ATT_CUT_MAX;
    for (int s = 0; s < p->seqs; s++) {
        const int columns = p->seq[s].persistent + p->seq[s].window;
        stride = stride > columns ? stride : columns;
    }
    p->plan_stride = stride;
    p->waves = p->items / p->ctas;
    int rest = p->items - p->waves * p->ctas;
    if (rest * 16 >= p->ctas * 15) p->waves++, rest = 0;
    p->tail_first = p->items - rest;
    p->tail_cost = 0;
    for (int i = p->tail_first; i < p->items; i++) p->tail_cost += att_item_cost(p->seq[i / per_seq]);
    const int64_t pieces = p->tail_cost / (4 * SC_ATT_SHARED_COST); /* fewer than 4 pages a piece are not worth joining */
    p->tail_ctas = pieces < rest ? rest : pieces > p->ctas ? p->ctas : (int)pieces;
    /* Items cut at the same steps are read side by side, so that L2 brings a page once: worth a tenth of the SMs, where that is all it costs. */
    const int each = rest ? p->tail_ctas / rest : 0;
    if (rest * each * 10 >= p->tail_ctas * 9) p->tail_ctas = rest * each;

    int64_t begin = 0;
    int c = 0;
    for (int i = 0; i < rest; i++) {
        const sc_att_seq &seq = p->seq[(p->tail_first + i) / per_seq];
        const int cost = att_item_cost(seq);
        int last = c, some = 0;
        for (; c < p->tail_ctas; c++) { /* from the CTA that the item before ends in */
            const int64_t from = att_tail_begin(*p, c) - begin, to = att_tail_begin(*p, c + 1) - begin;
            if (from >= cost) break;
            if (att_step_at(seq, (int)(from < 0 ? 0 : from)) < att_step_at(seq, (int)(to < cost ? to : cost))) { /* else it ends within the first step */
                if (!some++) p->cut[i].first = (uint8_t)c;
                last = c;
            }
            if (to > cost) break;
        }
        p->cut[i].count = (uint8_t)(last - p->cut[i].first + 1);
        begin += cost;
    }
}

/* ---- joining the pieces ------------------------------------------------------------------------------------------------- */

enum { JOIN_THREADS = 256, JOIN_LANES = 16, JOIN_ROWS = JOIN_THREADS / JOIN_LANES };

/* Largest, sum of the JOIN_LANES lanes of a row. */
static __device__ __forceinline__ float row_max(float x) {
#pragma unroll
    for (int d = JOIN_LANES / 2; d; d /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
    return x;
}
static __device__ __forceinline__ float row_sum(float x) {
#pragma unroll
    for (int d = JOIN_LANES / 2; d; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    return x;
}

/* Grid (items of the tail, query blocks of an item, ROWS / JOIN_ROWS), JOIN_LANES a row: out = sum of O 2^(m - top) / sum of l 2^(m - top). A lane weighs
 * one piece, and adds up eight channels; sums of four pieces are asked for together. */
template <typename T> __global__ static void __launch_bounds__(JOIN_THREADS) attention_join_kernel(const __grid_constant__ sc_att_params p) {
    sc::stream_order();
    const int item = p.tail_first + blockIdx.x, member = blockIdx.y, per_seq = p.heads * p.groups, lane = threadIdx.x % JOIN_LANES;
    const int s = item / per_seq, head = item % per_seq / p.groups, block = item % p.groups * GROUP + member;
    const int row = blockIdx.z * JOIN_ROWS + threadIdx.x / JOIN_LANES, first = p.cut[blockIdx.x].first, count = p.cut[blockIdx.x].count;
    if (count == 1 || block >= p.blocks) return; /* one CTA had it all and has written it */
    const bool real = row < p.start[block + 1] - p.start[block];
    auto place_of = [&](int i) { return ((size_t)(2 * (first + i) + (i == 0)) * GROUP + member) * SC_ATT_ROWS + row; };
    float top = -INFINITY, l = 0, o[8] = {};
    for (int base = 0; base < count; base += JOIN_LANES) {
        const int here = min(JOIN_LANES, count - base);
        const float2 ml = real && lane < here ? p.partial_ml[place_of(base + lane)] : make_float2(-INFINITY, 0);
        const float now = fmaxf(top, row_max(ml.x)), before = base ? hopper::exp2_fast((top - now) * p.scale_log2) : 0;
        const float f = lane < here && real ? hopper::exp2_fast((ml.x - now) * p.scale_log2) : 0;
        top = now;
        l = l * before + row_sum(ml.y * f);
#pragma unroll
        for (int j = 0; j < 8; j++) o[j] *= before;
        for (int i = 0; i < here; i += 4) {
            float4 x[4][2];
            float weight[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const bool there = real && i + k < here;
                const float4 *from = (const float4 *)(p.partial + place_of(base + i + k) * SC_ATT_DIM) + 2 * lane;
                weight[k] = __shfl_sync(~0u, f, min(i + k, JOIN_LANES - 1), JOIN_LANES);
                x[k][0] = there ? from[0] : make_float4(0, 0, 0, 0);
                x[k][1] = there ? from[1] : make_float4(0, 0, 0, 0);
            }
#pragma unroll
            for (int k = 0; k < 4; k++) {
                o[0] += x[k][0].x * weight[k], o[1] += x[k][0].y * weight[k], o[2] += x[k][0].z * weight[k], o[3] += x[k][0].w * weight[k];
                o[4] += x[k][1].x * weight[k], o[5] += x[k][1].y * weight[k], o[6] += x[k][1].z * weight[k], o[7] += x[k][1].w * weight[k];
            }
        }
    }
    if (!real) return;
    T *out = (T *)p.out + ((size_t)s * p.tokens + p.start[block] + row) * p.heads * SC_ATT_DIM + head * SC_ATT_DIM;
    const float inv = 1 / l;
    *(uint4 *)(out + lane * 8) = make_uint4(sc::pack2<T>(o[0] * inv, o[1] * inv), sc::pack2<T>(o[2] * inv, o[3] * inv), sc::pack2<T>(o[4] * inv, o[5] * inv),
                                            sc::pack2<T>(o[6] * inv, o[7] * inv));
}

void sc_cuda_attention_join(struct sc_cuda *dev, const sc_att_params *p) {
    if (p->items == p->tail_first) return;
    const dim3 grid(p->items - p->tail_first, GROUP, SC_ATT_ROWS / JOIN_ROWS);
    SC_ACT_CALL(dev->base.act, sc::launch(dev, attention_join_kernel<T>, grid, JOIN_THREADS, 0, 0, *p));
}

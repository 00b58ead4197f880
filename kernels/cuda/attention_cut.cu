/* attention_cut.cu - around the Hopper kernel: what its groups of blocks read, how the work falls to CTAs, and the sums of cut pieces
 * put together. attention.cuh has the words. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.cuh"

#include <assert.h>

enum { GROUP = SC_ATT_GROUP, PLAN_THREADS = 256 };

/* ---- plans -------------------------------------------------------------------------------------------------------------- */

/* One CTA an item. Each of its blocks has a set of slots, a bit each, in which its list is marked; of every eight slots a thread unites the sets and
 * writes those that are in any, in order, which is that of age. */
__global__ static void __launch_bounds__(PLAN_THREADS) attention_plan_kernel(const __grid_constant__ sc_att_params p, int words) {
    extern __shared__ uint32_t sets[]; /* [GROUP][words] */
    __shared__ int warp_count[PLAN_THREADS / 32];
    const int item = blockIdx.x, s = item / (p.heads * p.groups), head = item / p.groups % p.heads, group = item % p.groups, tid = threadIdx.x, lane = tid & 31;
    const sc_att_seq &seq = p.seq[s];
    const int members = min(GROUP, p.blocks - group * GROUP), end = seq.window_base + seq.window;
    for (int i = tid; i < GROUP * words; i += PLAN_THREADS) sets[i] = 0;
    __syncthreads();
    sc::stream_order();
    if (p.list) {
        const int32_t *list = p.list + ((size_t)(s * p.heads + head) * p.blocks + group * GROUP) * p.list_stride;
#pragma unroll 4
        for (int i = tid; i < members * seq.count; i += PLAN_THREADS) {
            const int m = i / seq.count, slot = list[(size_t)m * p.list_stride + i - m * seq.count];
            atomicOr(&sets[m * words + slot / 32], 1u << slot % 32);
        }
    } else {
        for (int i = tid; i < end; i += PLAN_THREADS)
            for (int m = 0; m < members && (i < seq.persistent || i >= seq.window_base); m++) atomicOr(&sets[m * words + i / 32], 1u << i % 32);
    }
    __syncthreads();
    int32_t *plan = p.plan + (size_t)item * p.plan_stride;
    int n = 0;
    for (int base = 0; base < words * 4; base += PLAN_THREADS) {
        const int first = (base + tid) * 8;
        uint32_t set[GROUP], any = 0;
#pragma unroll
        for (int m = 0; m < GROUP; m++) any |= set[m] = first < words * 32 ? sets[m * words + first / 32] >> first % 32 & 0xff : 0;
        int up_to = __popc(any); /* of this lane and those before */
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
            const int x = __shfl_up_sync(~0u, up_to, d);
            if (lane >= d) up_to += x;
        }
        if (lane == 31) warp_count[tid >> 5] = up_to;
        __syncthreads();
        int at = n + up_to - __popc(any);
#pragma unroll
        for (int w = 0; w < PLAN_THREADS / 32; w++) {
            if (w < tid >> 5) at += warp_count[w];
            n += warp_count[w];
        }
        for (; any; any &= any - 1) {
            const int bit = __ffs(any) - 1;
            int keeps = 0;
#pragma unroll
            for (int m = 0; m < GROUP; m++) keeps |= (int)(set[m] >> bit & 1) << m;
            plan[at++] = (first + bit) << GROUP | keeps;
        }
        __syncthreads(); /* warp_count is read */
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
    const int words = (slots + 31) / 32;
    sc::launch(dev, attention_plan_kernel, dim3((unsigned)p->items), PLAN_THREADS, (size_t)words * GROUP * 4, 0, *p, words);
}

/* ---- the cut ------------------------------------------------------------------------------------------------------------ */

/* Whole rounds first. A last round that is nearly full stays whole too: cutting it would cost more than it gains. */
void sc_cuda_attention_cut(sc_att_params *p, int sm_count) {
    int stride = 1;
    p->groups = (p->blocks + GROUP - 1) / GROUP;
    const int per_seq = p->heads * p->groups;
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
        const float now = fmaxf(top, row_max(ml.x)), before = base ? hopper::exp2_fast(top - now) : 0;
        const float f = lane < here && real ? hopper::exp2_fast(ml.x - now) : 0;
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

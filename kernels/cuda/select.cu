/* select.cu - which slots each query block attends: block scores in f32, then the best K of the window for each row.
 *
 * Two kernels.
 *   score: S = rep_q . rep_k turned back by the slot's age / sqrt(d). Turning the key by -age instead of the query by +age gives the
 *     same product and lets one tile hold columns of any ages. One CTA of 256 threads per tile of 64 query blocks x 64 columns, 4 x 4
 *     results a thread, f32 throughout: TF32 would change which blocks are kept. Channels go by in slices of 32.
 *   keep: one warp a row. Scores become integers of the same order; the K-th largest is found bit by bit (32 counts over
 *     the row, no sorting); what is above it is kept, and of what equals it the first few, so ties go to the lower index. The own block
 *     counts as larger than any score.
 *
 * Bound: 2 * 128 flop a score on the f32 pipes (75 MFLOP a layer at 832x480, a few microseconds). */
#include "kernels/cuda/cuda_common.cuh"

#include <assert.h>
#include <math.h>

enum { TILE = 64, SLICE = 32, PER_LANE = 32 };

struct select_seq {
    const sc_kv_slot *slots;
    int slot_stride, persistent, window_base, window, keep;
    int64_t chunk_now;
};
struct select_params {
    select_seq seq[SC_MAX_BATCH];
    sc_age_rule age;
    int heads, head_dim, blocks, score_stride, list_stride;
    float scale;
    const float *rep_q, *rep_k;
    float *score;
    int32_t *list;
};

/* Grid (column tiles, row tiles, seqs * heads). */
__global__ static void __launch_bounds__(256) score_kernel(const __grid_constant__ select_params p) {
    __shared__ __align__(16) float q_tile[SLICE][TILE + 4], k_tile[SLICE][TILE + 4]; /* transposed: 4 neighbours are one load */
    __shared__ int page[TILE], age[TILE];
    const int s = blockIdx.z / p.heads, head = blockIdx.z % p.heads, row0 = blockIdx.y * TILE, col0 = blockIdx.x * TILE;
    const select_seq &seq = p.seq[s];
    const int columns = seq.persistent + seq.window, tid = threadIdx.x, tx = tid & 15, ty = tid >> 4;
    if (col0 >= columns) return;
    if (tid < TILE) {
        const int j = min(col0 + tid, columns - 1);
        const sc_kv_slot slot = seq.slots[(size_t)head * seq.slot_stride + (j < seq.persistent ? j : seq.window_base + j - seq.persistent)];
        page[tid] = slot.page;
        age[tid] = slot_age(p.age, seq.chunk_now, slot.chunk);
    }
    float sum[4][4] = {};
    const float *rep_q = p.rep_q + (size_t)blockIdx.z * p.blocks * p.head_dim;
    for (int base = 0; base < p.head_dim; base += SLICE) {
        __syncthreads();
        for (int i = tid; i < TILE * SLICE / 2; i += 256) { /* a channel pair of a row; lanes take rows, so stores do not collide */
            const int r = i % TILE, c = i / TILE * 2, pair = (base + c) / 2;
            float2 q = make_float2(0, 0), k = make_float2(0, 0);
            if (base + c < p.head_dim) {
                if (row0 + r < p.blocks) q = __ldg((const float2 *)(rep_q + (size_t)(row0 + r) * p.head_dim + base + c));
                k = __ldg((const float2 *)(p.rep_k + (size_t)page[r] * p.head_dim + base + c));
                if (age[r] && pair < p.age.pairs) {
                    const float2 turn = age_rotation(p.age.table, age[r], pair);
                    k = make_float2(k.x * turn.x + k.y * turn.y, k.y * turn.x - k.x * turn.y);
                }
            }
            q_tile[c][r] = q.x, q_tile[c + 1][r] = q.y;
            k_tile[c][r] = k.x, k_tile[c + 1][r] = k.y;
        }
        __syncthreads();
#pragma unroll 8
        for (int c = 0; c < SLICE; c++) {
            const float4 a = *(const float4 *)&q_tile[c][ty * 4], b = *(const float4 *)&k_tile[c][tx * 4];
            const float x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] += x[i] * y[j];
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = row0 + ty * 4 + i;
        float *out = p.score + ((size_t)blockIdx.z * p.blocks + row) * p.score_stride;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int col = col0 + tx * 4 + j;
            if (row < p.blocks && col < columns) out[col] = sum[i][j] * p.scale;
        }
    }
}

/* Integer of the same order as the float; 0 stands for no column. */
static __device__ __forceinline__ uint32_t order_of(float f) {
    const uint32_t u = __float_as_uint(f);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* Keys of a row: in registers where the window allows it, else read again each time. Column c * 32 + lane is key c. */
struct row_keys {
    const float *score;
    int window, own;
    __device__ uint32_t at(int i) const { return i == own ? ~0u : i < window ? order_of(score[i]) : 0; }
};

/* One warp per row (sequence, head, query block). */
template <bool IN_REGISTERS> __global__ static void __launch_bounds__(128) keep_kernel(const __grid_constant__ select_params p, int rows) {
    const int row = blockIdx.x * 4 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= rows) return;
    const select_seq &seq = p.seq[row / (p.heads * p.blocks)];
    const int block = row % p.blocks, turns = (seq.window + 31) / 32;
    const row_keys keys = {p.score + (size_t)row * p.score_stride + seq.persistent, seq.window, seq.window - p.blocks + block};
    int32_t *list = p.list + (size_t)row * p.list_stride;
    uint32_t key[PER_LANE];
    if (IN_REGISTERS) {
#pragma unroll
        for (int c = 0; c < PER_LANE; c++) key[c] = c < turns ? keys.at(c * 32 + lane) : 0;
    }
    for (int i = lane; i < seq.persistent; i += 32) list[i] = i;

    /* floor = the K-th largest key = the largest x with at least K keys >= x. */
    uint32_t floor = 0;
    for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
        const uint32_t x = floor | bit;
        unsigned n = 0;
        if (IN_REGISTERS) {
#pragma unroll
            for (int c = 0; c < PER_LANE; c++) n += key[c] >= x;
        } else {
            for (int c = 0; c < turns; c++) n += keys.at(c * 32 + lane) >= x;
        }
        if (__reduce_add_sync(~0u, n) >= (unsigned)seq.keep) floor = x;
    }
    unsigned above = 0;
    if (IN_REGISTERS) {
#pragma unroll
        for (int c = 0; c < PER_LANE; c++) above += key[c] > floor;
    } else {
        for (int c = 0; c < turns; c++) above += keys.at(c * 32 + lane) > floor;
    }
    int equal = seq.keep - (int)__reduce_add_sync(~0u, above), n = seq.persistent;
    const unsigned before = (1u << lane) - 1;
#pragma unroll
    for (int c = 0; c < (IN_REGISTERS ? PER_LANE : 1 << 20); c++) {
        if (c >= turns) break;
        const uint32_t k = IN_REGISTERS ? key[c] : keys.at(c * 32 + lane);
        const unsigned ties = __ballot_sync(~0u, k == floor);
        const bool kept = k > floor || (k == floor && __popc(ties & before) < equal);
        const unsigned taken = __ballot_sync(~0u, kept);
        if (kept) list[n + __popc(taken & before)] = seq.window_base + c * 32 + lane;
        n += __popc(taken);
        equal -= min(equal, __popc(ties));
    }
}

sc_status sc_cuda_select(sc_device *device, const sc_select_args *a, sc_error *err) {
    struct sc_cuda *dev = (struct sc_cuda *)device;
    select_params p = {};
    int columns = 0, window = 0;
    assert(a->seqs >= 1 && a->seqs <= SC_MAX_BATCH && a->head_dim % 2 == 0);
    sc_status rc = sc_cuda_age_rule(dev, &a->rope, &p.age, err);
    if (rc) return rc;
    for (int s = 0; s < a->seqs; s++) {
        const sc_kv_view *v = &a->view[s];
        assert(a->keep[s] >= 1 && a->keep[s] <= v->window && v->window >= a->blocks.blocks);
        p.seq[s] = select_seq{v->slots, v->slot_stride, v->persistent, v->window_base, v->window, a->keep[s], v->chunk_now};
        columns = columns > v->persistent + v->window ? columns : v->persistent + v->window;
        window = window > v->window ? window : v->window;
    }
    p.heads = a->heads;
    p.head_dim = a->head_dim;
    p.blocks = a->blocks.blocks;
    p.score_stride = a->score_stride;
    p.list_stride = a->list_stride;
    p.scale = (float)(1.0 / sqrt((double)a->head_dim));
    p.rep_q = a->rep_q;
    p.rep_k = a->pages.rep_k;
    p.score = a->score;
    p.list = a->list;
    const dim3 grid((columns + TILE - 1) / TILE, (p.blocks + TILE - 1) / TILE, a->seqs * a->heads);
    score_kernel<<<grid, 256, 0, dev->stream>>>(p);
    const int rows = a->seqs * a->heads * p.blocks;
    if (window <= 32 * PER_LANE) keep_kernel<true><<<(rows + 3) / 4, 128, 0, dev->stream>>>(p, rows);
    else keep_kernel<false><<<(rows + 3) / 4, 128, 0, dev->stream>>>(p, rows);
    return sc_cuda_launched("select", err);
}

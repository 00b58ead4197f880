/* select.cu - which slots each query block attends: block scores in f32, then the best K of the window for each row.
 *
 * One kernel, a CTA of 16 warps per (eight query blocks, head, sequence), in two parts.
 *   score: S = rep_q . rep_k turned back by the slot's age / sqrt(d). Turning the key by -age instead of the query by +age gives the
 *     same product and lets one CTA hold columns of any ages. A warp takes four columns at a time: a lane has two channel pairs (four for
 *     heads of more than 128 channels) of the four keys and of all eight queries in registers; 31 exchanges between lanes add up the 32
 *     products, each lane ends with one. f32 throughout: TF32 would change which blocks are kept. Every column is added in the same order,
 *     so equal keys score the same.
 *   keep: one warp a row. Scores become integers of the same order; the K-th largest is found bit by bit, no sorting, until exactly K keys
 *     are as large as what is known of it; what is above it is kept, and of what equals it the first few, so ties go to the lower index.
 *     The own block counts as larger than any score.
 *
 * Bound: latency. 2 * 128 flop a score on the f32 pipes are 56 MFLOP a layer at 832x480; every CTA reads its head's keys, 120 KB, from L2. */
#include "kernels/cuda/cuda_common.cuh"
#include "kernels/cuda/launch.cuh"

#include <assert.h>
#include <math.h>

enum { QUERIES = 8, COLUMNS = 4, WARPS = 16, THREADS = 32 * WARPS, TILE = 512 };

struct select_seq {
    const sc_kv_slot *slots;
    int slot_stride, persistent, window_base, window, keep;
    const int64_t *chunk_now;
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

/* v[i] of all lanes added up, i = the lane that gets the sum. The order of additions is the same for all i. */
template <int N> __device__ __forceinline__ float sum_to_lanes(const float (&v)[N], int lane) {
    const bool upper = lane & (N / 2);
    float half[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++) half[i] = (upper ? v[i + N / 2] : v[i]) + __shfl_xor_sync(~0u, upper ? v[i] : v[i + N / 2], N / 2);
    return sum_to_lanes(half, lane);
}
template <> __device__ __forceinline__ float sum_to_lanes<1>(const float (&v)[1], int) { return v[0]; }

/* Scores of query blocks [row0, row0 + QUERIES) with all columns. PAIRS: channel pairs a lane. */
template <int PAIRS> __device__ __forceinline__ void score(const select_params &p, const select_seq &seq, int seq_head, int head, int row0, int *page, int *age) {
    const int columns = seq.persistent + seq.window, lane = threadIdx.x % 32, warp = threadIdx.x / 32, pairs = p.head_dim / 2;
    float2 q[QUERIES][PAIRS];
#pragma unroll
    for (int r = 0; r < QUERIES; r++)
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            const bool there = row0 + r < p.blocks && lane + 32 * i < pairs;
            q[r][i] = there ? ((const float2 *)(p.rep_q + ((size_t)seq_head * p.blocks + row0 + r) * p.head_dim))[lane + 32 * i] : make_float2(0, 0);
        }
    for (int tile = 0; tile < columns; tile += TILE) {
        __syncthreads();
        for (int i = threadIdx.x; i < TILE && tile + i < columns; i += THREADS) {
            const int j = tile + i;
            const sc_kv_slot slot = seq.slots[(size_t)head * seq.slot_stride + (j < seq.persistent ? j : seq.window_base + j - seq.persistent)];
            page[i] = slot.page;
            age[i] = slot_age(p.age, seq.chunk_now, slot.chunk);
        }
        __syncthreads();
        const int end = min(TILE, columns - tile);
        for (int at = warp * COLUMNS; at < end; at += WARPS * COLUMNS) {
            float sum[QUERIES * COLUMNS];
            float2 k[COLUMNS][PAIRS];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
#pragma unroll
                for (int i = 0; i < PAIRS; i++) {
                    const float2 *key = (const float2 *)(p.rep_k + (size_t)page[min(at + c, end - 1)] * p.head_dim);
                    k[c][i] = lane + 32 * i < pairs ? key[lane + 32 * i] : make_float2(0, 0);
                }
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const int turn_by = age[min(at + c, end - 1)];
#pragma unroll
                for (int i = 0; i < PAIRS; i++)
                    if (turn_by && lane + 32 * i < p.age.pairs) {
                        const float2 turn = age_rotation(p.age.table, turn_by, lane + 32 * i), key = k[c][i];
                        k[c][i] = make_float2(key.x * turn.x + key.y * turn.y, key.y * turn.x - key.x * turn.y);
                    }
#pragma unroll
                for (int r = 0; r < QUERIES; r++) {
                    float s = 0;
#pragma unroll
                    for (int i = 0; i < PAIRS; i++) s += q[r][i].x * k[c][i].x, s += q[r][i].y * k[c][i].y;
                    sum[r * COLUMNS + c] = s;
                }
            }
            const float s = sum_to_lanes(sum, lane) * p.scale;
            const int row = row0 + lane / COLUMNS, col = tile + at + lane % COLUMNS;
            if (row < p.blocks && col < columns) p.score[((size_t)seq_head * p.blocks + row) * p.score_stride + col] = s;
        }
    }
}

/* Integer of the same order as the float; 0 stands for no column. */
static __device__ __forceinline__ uint32_t order_of(float f) {
    const uint32_t u = __float_as_uint(f);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* Keys of a row's window: PER a lane in registers where that holds it, else (PER 0) read again each time. Key c * 32 + lane is c of a lane. */
template <int PER> struct row_keys {
    const float *score;
    int window, own, turns;
    uint32_t key[PER ? PER : 1];
    __device__ uint32_t read(int i) const { return i == own ? ~0u : i < window ? order_of(score[i]) : 0; }
    __device__ void load(int lane) {
#pragma unroll
        for (int c = 0; c < PER; c++) key[c] = c < turns ? read(c * 32 + lane) : 0;
    }
    __device__ uint32_t at(int c, int lane) const { return PER ? key[c] : read(c * 32 + lane); }
    __device__ int as_large(uint32_t x, int lane) const { /* keys >= x, of all lanes; x > 0 */
        unsigned n = 0;
        if (PER) {
#pragma unroll
            for (int c = 0; c < PER; c++) n += key[c] >= x;
        } else
            for (int c = 0; c < turns; c++) n += read(c * 32 + lane) >= x;
        return (int)__reduce_add_sync(~0u, n);
    }
};

/* The list of one query block, by one warp. */
template <int PER> __device__ __forceinline__ void keep(const select_params &p, const select_seq &seq, int seq_head, int block) {
    const int lane = threadIdx.x % 32;
    const size_t row = (size_t)seq_head * p.blocks + block;
    int32_t *list = p.list + row * p.list_stride;
    row_keys<PER> keys = {p.score + row * p.score_stride + seq.persistent, seq.window, seq.window - p.blocks + block, (seq.window + 31) / 32, {}};
    keys.load(lane);
    for (int i = lane; i < seq.persistent; i += 32) list[i] = i;

    /* floor = the largest x with at least K keys >= x, the K-th largest key: found from the top bit down. With exactly K of them the rest of
     * x does not matter: all are kept, none is a tie. */
    uint32_t floor = 0;
    bool exact = false;
    for (uint32_t bit = 1u << 31; bit && !exact; bit >>= 1) {
        const int n = keys.as_large(floor | bit, lane);
        if (n >= seq.keep) floor |= bit;
        exact = n == seq.keep;
    }
    int equal = exact ? 0 : seq.keep - (floor == ~0u ? 0 : keys.as_large(floor + 1, lane)), n = seq.persistent;
    const unsigned before = (1u << lane) - 1;
#pragma unroll
    for (int c = 0; c < (PER ? PER : 1 << 20); c++) {
        if (c >= keys.turns) break;
        const uint32_t k = keys.at(c, lane);
        const bool tie = !exact && k == floor;
        const unsigned ties = __ballot_sync(~0u, tie);
        const bool kept = exact ? k >= floor : k > floor || (tie && __popc(ties & before) < equal);
        const unsigned taken = __ballot_sync(~0u, kept);
        if (kept) list[n + __popc(taken & before)] = seq.window_base + c * 32 + lane;
        n += __popc(taken);
        equal -= min(equal, __popc(ties));
    }
}

/* Grid (groups of QUERIES, seqs * heads). PER 8, 32: windows of at most 256, 1024 blocks; 0: any. */
template <int PAIRS, int PER> __global__ static void __launch_bounds__(THREADS) select_kernel(const __grid_constant__ select_params p) {
    sc::stream_order();
    __shared__ int page[TILE], age[TILE];
    const int seq_head = blockIdx.y, row0 = blockIdx.x * QUERIES, warp = threadIdx.x / 32;
    const select_seq &seq = p.seq[seq_head / p.heads];
    score<PAIRS>(p, seq, seq_head, seq_head % p.heads, row0, page, age);
    __syncthreads(); /* this CTA's scores are seen by all of it */
    for (int r = warp; r < QUERIES && row0 + r < p.blocks; r += WARPS) keep<PER>(p, seq, seq_head, row0 + r);
}

template <int PAIRS> static void launch_select(struct sc_cuda *dev, const select_params *p, int seqs, int window) {
    const dim3 grid((p->blocks + QUERIES - 1) / QUERIES, seqs * p->heads);
    if (window <= 256) sc::launch(dev, select_kernel<PAIRS, 8>, grid, THREADS, 0, 0, *p);
    else if (window <= 1024) sc::launch(dev, select_kernel<PAIRS, 32>, grid, THREADS, 0, 0, *p);
    else sc::launch(dev, select_kernel<PAIRS, 0>, grid, THREADS, 0, 0, *p);
}

sc_status sc_cuda_select(sc_device *device, const sc_select_args *a, sc_error *err) {
    struct sc_cuda *dev = (struct sc_cuda *)device;
    select_params p = {};
    int window = 0;
    assert(a->seqs >= 1 && a->seqs <= SC_MAX_BATCH && a->head_dim % 2 == 0 && a->head_dim <= 256);
    sc_status rc = sc_cuda_age_rule(dev, &a->rope, &p.age, err);
    if (rc) return rc;
    for (int s = 0; s < a->seqs; s++) {
        const sc_kv_view *v = &a->view[s];
        assert(a->keep[s] >= 1 && a->keep[s] <= v->window && v->window >= a->blocks.blocks);
        p.seq[s] = select_seq{v->slots, v->slot_stride, v->persistent, v->window_base, v->window, a->keep[s], v->chunk_now};
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
    if (a->head_dim <= 128) launch_select<2>(dev, &p, a->seqs, window);
    else launch_select<4>(dev, &p, a->seqs, window);
    return sc_cuda_launched("select", err);
}

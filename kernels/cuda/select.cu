/* select.cu - which slots each query block attends: block scores in f32, then the best K of the window for each row.
 *
 * One kernel, a CTA of 16 warps per (eight query blocks, head, sequence), in two parts.
 *   score: S = rep_q . rep_k turned back by the slot's age / sqrt(d). Turning the key by -age instead of the query by +age gives the
 *     same product and lets one CTA hold columns of any ages. A thread has one or two columns and all eight queries: 8 or 16 sums in registers.
 *     Keys come by cp.async, 16 channels of every column at a time, the next 16 on their way while these are multiplied; who has copied a
 *     piece turns it. f32 throughout: TF32 would change which blocks are kept. Every sum is added in the order of the channels, so equal
 *     keys score the same.
 *   keep: one warp a row. Scores become integers of the same order; the K-th largest is found bit by bit, no sorting, until exactly K keys
 *     are as large as what is known of it; what is above it is kept, and of what equals it the first few, so ties go to the lower index.
 *     The own block counts as larger than any score. Lane c then has the word that says which of keys 32 c .. 32 c + 31 are kept and writes
 *     them: 32 keys a lane, unrolled and written one after another, were 10 us, most of them waiting for instructions that run once.
 *
 * Shared memory: two stages of keys [columns][4 pieces of 4 channels], the pieces of a column swizzled so that neither the copies of a column's
 * pieces nor eight columns' reads of one piece meet a bank twice; the queries [8][channels], read by all lanes at once.
 *
 * Bound: 2 * 128 flop a score on the f32 pipes, 4.2 us at 80 queries, 1024 columns, 12 heads; shared memory is read as long as that (two
 * columns a thread: 16 wavefronts for 64 multiply-adds), and every CTA reads its head's keys, 512 KB there, from L2. */
#include "kernels/cuda/cuda_common.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"

#include <assert.h>
#include <math.h>

enum { QUERIES = 8, WARPS = 16, THREADS = 32 * WARPS, CHANNELS = 16, PIECES = CHANNELS / 4, HEAD_MAX = 256 };

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

/* COLUMNS: columns a thread. */
template <int COLUMNS> struct select_shared {
    float4 key[2][COLUMNS * THREADS][PIECES];
    float q[QUERIES][HEAD_MAX]; /* zeros past the head and past the last query block */
    int page[COLUMNS * THREADS], age[COLUMNS * THREADS];
};
static_assert(THREADS / QUERIES == 64 && THREADS % (8 * PIECES) == 0, "64 threads bring a query; a thread copies the same piece of each of its columns, to the same place");

/* Where piece `piece` of a column stands among its pieces. */
static __device__ __forceinline__ int place_of(int column, int piece) { return piece ^ (column >> 1 & 3); }

/* A thread copies piece threadIdx.x % PIECES of the columns copied_column(0), (1), ... */
static __device__ __forceinline__ int copied_column(int i) { return (i * THREADS + (int)threadIdx.x) / PIECES; }

/* Asks for the queries. They are there when the first keys are, which are asked for later. */
static __device__ __forceinline__ void ask_queries(const select_params &p, float (&to)[QUERIES][HEAD_MAX], int seq_head, int row0, int padded) {
    const int r = threadIdx.x / 64;
    const float *q = p.rep_q + ((size_t)seq_head * p.blocks + row0 + r) * p.head_dim;
    const bool real = row0 + r < p.blocks;
    if (p.head_dim % 4 == 0) {
        for (int d = threadIdx.x % 64 * 4; d < padded; d += 256) {
            const bool there = real && d < p.head_dim;
            sc::copy16_async(sc::shared_at(&to[r][d]), there ? q + d : p.rep_q, there ? 16 : 0);
        }
    } else
        for (int d = threadIdx.x % 64; d < padded; d += 64) to[r][d] = real && d < p.head_dim ? q[d] : 0;
    sc::copy_commit();
}

/* Asks for channels [first, first + CHANNELS) of `columns` keys; those past the head are zeros. */
template <int COLUMNS> static __device__ __forceinline__ void ask_keys(const select_params &p, select_shared<COLUMNS> &sh, int stage, int first, int columns) {
    const int channel = first + threadIdx.x % PIECES * 4, place = place_of(copied_column(0), threadIdx.x % PIECES), left = p.head_dim - channel;
    const float *from = p.rep_k + (left > 0 ? channel : 0);
    if (p.head_dim % 4 == 0) {
#pragma unroll
        for (int i = 0; i < COLUMNS * PIECES; i++)
            if (copied_column(i) < columns)
                sc::copy16_async(sc::shared_at(&sh.key[stage][copied_column(i)][place]), from + (size_t)sh.page[copied_column(i)] * p.head_dim, left > 0 ? 16 : 0);
    } else {
        for (int i = 0; i < COLUMNS * PIECES && copied_column(i) < columns; i++) {
            const float2 *key = (const float2 *)(from + (size_t)sh.page[copied_column(i)] * p.head_dim);
            const float2 a = left > 0 ? key[0] : make_float2(0, 0), b = left > 2 ? key[1] : make_float2(0, 0);
            sh.key[stage][copied_column(i)][place] = make_float4(a.x, a.y, b.x, b.y);
        }
    }
    sc::copy_commit();
}

/* Turns the pieces that this thread asked for by their columns' ages. Rotations are asked for together, before the keys are waited for: a row of
 * the table has SC_MAX_ROPE_PAIRS pairs, those that do not turn among them. LEFT: copies that may still be on their way. */
template <int COLUMNS, int LEFT> static __device__ __forceinline__ void turn_keys(const select_params &p, select_shared<COLUMNS> &sh, int stage, int first, int columns) {
    const int piece = threadIdx.x % PIECES, place = place_of(copied_column(0), piece), pair = (first + piece * 4) / 2;
    float4 turn[COLUMNS * PIECES]; /* cos, sin of two pairs */
#pragma unroll
    for (int i = 0; i < COLUMNS * PIECES; i++) {
        const int age = copied_column(i) < columns ? sh.age[copied_column(i)] : 0;
        turn[i] = __ldg((const float4 *)(p.age.table + (age & (SC_CUDA_AGE_BASE - 1)) * SC_MAX_ROPE_PAIRS + pair));
    }
    sc::copy_wait<LEFT>();
#pragma unroll
    for (int i = 0; i < COLUMNS * PIECES; i++)
        if (copied_column(i) < columns) {
            const int age = sh.age[copied_column(i)];
            float4 t = turn[i];
            if (age >= SC_CUDA_AGE_BASE) {
                const float2 a = age_rotation(p.age.table, age, pair), b = age_rotation(p.age.table, age, pair + 1);
                t = make_float4(a.x, a.y, b.x, b.y);
            }
            float4 &key = sh.key[stage][copied_column(i)][place];
            const float4 k = key;
            key = make_float4(k.x * t.x + k.y * t.y, k.y * t.x - k.x * t.y, k.z * t.z + k.w * t.w, k.w * t.z - k.z * t.w);
        }
}

/* Scores of query blocks [row0, row0 + QUERIES) with all columns. */
template <int COLUMNS> static __device__ __forceinline__ void score(const select_params &p, const select_seq &seq, select_shared<COLUMNS> &sh, int seq_head, int head, int row0) {
    enum { TILE = COLUMNS * THREADS };
    const int columns = seq.persistent + seq.window, padded = (p.head_dim + CHANNELS - 1) / CHANNELS * CHANNELS;
    ask_queries(p, sh.q, seq_head, row0, padded);
    for (int tile = 0; tile < columns; tile += TILE) {
        const int here = min(TILE, columns - tile);
        for (int i = threadIdx.x; i < here; i += THREADS) {
            const int j = tile + i;
            const sc_kv_slot slot = seq.slots[(size_t)head * seq.slot_stride + (j < seq.persistent ? j : seq.window_base + j - seq.persistent)];
            sh.page[i] = slot.page;
            sh.age[i] = slot_age(p.age, seq.chunk_now, slot.chunk);
        }
        __syncthreads();
        float sum[QUERIES][COLUMNS] = {};
        ask_keys(p, sh, 0, 0, here);
        for (int first = 0, stage = 0; first < padded; first += CHANNELS, stage ^= 1) {
            const bool last = first + CHANNELS >= padded, turns = first < 2 * p.age.pairs;
            if (!last) ask_keys(p, sh, stage ^ 1, first + CHANNELS, here);
            if (turns && !last) turn_keys<COLUMNS, 1>(p, sh, stage, first, here);
            else if (turns) turn_keys<COLUMNS, 0>(p, sh, stage, first, here);
            else if (!last) sc::copy_wait<1>();
            else sc::copy_wait<0>();
            __syncthreads();
            if ((int)(threadIdx.x & ~31u) < here) {
#pragma unroll
                for (int piece = 0; piece < PIECES; piece++) {
                    float4 k[COLUMNS];
#pragma unroll
                    for (int c = 0; c < COLUMNS; c++) k[c] = sh.key[stage][c * THREADS + threadIdx.x][place_of(threadIdx.x, piece)];
#pragma unroll
                    for (int r = 0; r < QUERIES; r++) {
                        const float4 q = *(const float4 *)&sh.q[r][first + piece * 4];
#pragma unroll
                        for (int c = 0; c < COLUMNS; c++)
                            sum[r][c] = fmaf(q.w, k[c].w, fmaf(q.z, k[c].z, fmaf(q.y, k[c].y, fmaf(q.x, k[c].x, sum[r][c]))));
                    }
                }
            }
            __syncthreads(); /* this stage, and after the last the ages, are done with */
        }
#pragma unroll
        for (int r = 0; r < QUERIES; r++)
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const int i = c * THREADS + threadIdx.x;
                if (row0 + r < p.blocks && i < here) p.score[((size_t)seq_head * p.blocks + row0 + r) * p.score_stride + tile + i] = sum[r][c] * p.scale;
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
    __device__ uint32_t read(int i) const { /* no branch: a lane's loads are all on their way together */
        const uint32_t key = order_of(score[min(i, window - 1)]);
        return i == own ? ~0u : i < window ? key : 0;
    }
    __device__ void load(int lane) {
#pragma unroll
        for (int c = 0; c < PER; c++) key[c] = read(c * 32 + lane);
    }
    __device__ int as_large(uint32_t x, int lane) const { /* keys >= x, of all lanes; x > 0 */
        unsigned n[4] = {}; /* four, because each addition waits for the one before */
        if (PER) {
#pragma unroll
            for (int c = 0; c < PER; c++) n[c % 4] += key[c] >= x;
        } else
            for (int c = 0; c < turns; c++) n[0] += read(c * 32 + lane) >= x;
        return (int)__reduce_add_sync(~0u, n[0] + n[1] + n[2] + n[3]);
    }
};

/* x of this and all lanes before, added up. */
static __device__ __forceinline__ int sum_up_to(int x, int lane) {
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const int y = __shfl_up_sync(~0u, x, d);
        if (lane >= d) x += y;
    }
    return x;
}

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
    /* 1024 keys at a time: lane c gets the word of bits that says which of keys 32 c .. 32 c + 31 are kept. */
    int equal = exact ? 0 : seq.keep - (floor == ~0u ? 0 : keys.as_large(floor + 1, lane)), n = seq.persistent;
    for (int base = 0; base < keys.turns; base += 32) {
        unsigned kept = 0, ties = 0;
#pragma unroll
        for (int c = 0; c < (PER ? PER : 32); c++) {
            const uint32_t k = PER ? keys.key[PER ? c : 0] : base + c < keys.turns ? keys.read((base + c) * 32 + lane) : 0;
            const unsigned word = __ballot_sync(~0u, exact ? k >= floor : k > floor);
            if (lane == c) kept = word;
        }
        if (equal) { /* the first `equal` of those that equal the floor */
#pragma unroll
            for (int c = 0; c < (PER ? PER : 32); c++) {
                const uint32_t k = PER ? keys.key[PER ? c : 0] : base + c < keys.turns ? keys.read((base + c) * 32 + lane) : 0;
                const unsigned word = __ballot_sync(~0u, k == floor);
                if (lane == c) ties = word;
            }
            const int up_to = sum_up_to(__popc(ties), lane);
            for (int spare = up_to - max(equal, 0); spare > 0 && ties; spare--) ties &= ~(1u << (31 - __clz(ties))); /* from the last */
            kept |= ties;
            equal -= min(equal, __shfl_sync(~0u, up_to, 31));
        }
        const int end = sum_up_to(__popc(kept), lane);
        for (int at = n + end - __popc(kept); kept; kept &= kept - 1, at++) list[at] = seq.window_base + (base + lane) * 32 + __ffs(kept) - 1;
        n += __shfl_sync(~0u, end, 31);
    }
}

/* Grid (groups of QUERIES, seqs * heads). PER 8, 32: windows of at most 256, 1024 blocks; 0: any. */
template <int COLUMNS, int PER> __global__ static void __launch_bounds__(THREADS, COLUMNS == 1 && PER == 8 ? 2 : 1) select_kernel(const __grid_constant__ select_params p) {
    extern __shared__ float4 raw[];
    select_shared<COLUMNS> &sh = *(select_shared<COLUMNS> *)raw;
    sc::stream_order();
    const int seq_head = blockIdx.y, row0 = blockIdx.x * QUERIES, warp = threadIdx.x / 32;
    const select_seq &seq = p.seq[seq_head / p.heads];
    score<COLUMNS>(p, seq, sh, seq_head, seq_head % p.heads, row0);
    __syncthreads(); /* this CTA's scores are seen by all of it */
    for (int r = warp; r < QUERIES && row0 + r < p.blocks; r += WARPS) keep<PER>(p, seq, seq_head, row0 + r);
}

template <int COLUMNS, int PER> static sc_status launch_select(struct sc_cuda *dev, const select_params *p, int seqs, sc_error *err) {
    static bool raised;
    const int bytes = sizeof(select_shared<COLUMNS>);
    if (!raised) {
        cudaError_t e = cudaFuncSetAttribute(select_kernel<COLUMNS, PER>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
        if (e) return sc_fail(err, SC_EGPU, "select: %d bytes of shared memory: %s", bytes, cudaGetErrorString(e));
        raised = true;
    }
    sc::launch(dev, select_kernel<COLUMNS, PER>, dim3((p->blocks + QUERIES - 1) / QUERIES, seqs * p->heads), THREADS, bytes, 0, *p);
    return sc_cuda_launched("select", err);
}

sc_status sc_cuda_select(sc_device *device, const sc_select_args *a, sc_error *err) {
    struct sc_cuda *dev = (struct sc_cuda *)device;
    select_params p = {};
    int window = 0, columns = 0;
    assert(a->seqs >= 1 && a->seqs <= SC_MAX_BATCH && a->head_dim % 2 == 0 && a->head_dim <= HEAD_MAX);
    sc_status rc = sc_cuda_age_rule(dev, &a->rope, &p.age, err);
    if (rc) return rc;
    for (int s = 0; s < a->seqs; s++) {
        const sc_kv_view *v = &a->view[s];
        assert(a->keep[s] >= 1 && a->keep[s] <= v->window && v->window >= a->blocks.blocks);
        p.seq[s] = select_seq{v->slots, v->slot_stride, v->persistent, v->window_base, v->window, a->keep[s], v->chunk_now};
        window = window > v->window ? window : v->window;
        columns = columns > v->persistent + v->window ? columns : v->persistent + v->window;
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
    /* two columns a thread need 144 KB of shared memory, which only a data centre's card has */
    const bool two = columns > THREADS && dev->cc_major == 9;
    if (window <= 256) return two ? launch_select<2, 8>(dev, &p, a->seqs, err) : launch_select<1, 8>(dev, &p, a->seqs, err);
    if (window <= 1024) return two ? launch_select<2, 32>(dev, &p, a->seqs, err) : launch_select<1, 32>(dev, &p, a->seqs, err);
    return two ? launch_select<2, 0>(dev, &p, a->seqs, err) : launch_select<1, 0>(dev, &p, a->seqs, err);
}

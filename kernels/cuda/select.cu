/* select.cu - which slots each query block attends: block scores in f32, then the best K of the window for each row.
 *
 * Two kernels.
 *   score, a CTA per (COLUMNS slots, head of a sequence, ROWS query blocks): S = rep_q . rep_k turned back by the slot's age / sqrt(d). Turning the key by
 *     -age instead of the query by +age gives the same product and lets one CTA hold columns of any ages. A key is brought and turned once for ROWS
 *     queries: with all columns in a CTA of eight queries, as it was, every CTA read its head's keys, 512 KB of them at 1024 slots. Queries and keys
 *     come by cp.async, CHANNELS of them a stage, two stages; who has copied a piece of a key turns it. A thread has 5 x 4 sums, of rows and columns that
 *     lie 16 and 8 apart. f32 throughout: TF32 would change which blocks are kept. Every sum is added in the order of the channels, so equal
 *     keys score the same.
 *   keep: one warp a row. Scores become integers of the same order; the K-th largest is found bit by bit, no sorting, until exactly K keys
 *     are as large as what is known of it; what is above it is kept, and of what equals it the first few, so ties go to the lower index.
 *     The own block counts as larger than any score. Lane c then has the word that says which of keys 32 c .. 32 c + 31 are kept and writes
 *     them: 32 keys a lane, unrolled and written one after another, were 10 us, most of them waiting for instructions that run once.
 *
 * Shared memory: rows of CHANNELS floats, of queries and of keys; a row's 16-byte pieces are XORed by the row, so that the eight keys, or the four queries, that a
 * warp reads at once meet no bank twice.
 *
 * Bound: 2 * 128 flop a score on the f32 pipes, 4.2 us at 80 queries, 1024 columns, 12 heads; measured 12 us for the scores, 9 to keep (kernels/README.md). */
#include "kernels/cuda/cuda_common.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"

#include <assert.h>
#include <math.h>

enum { ROWS = 80, COLUMNS = 32, THREADS = 128, CHANNELS = 64, PIECES = CHANNELS / 4, KEEP_WARPS = 8 };
enum { ROW_STEP = 16, COLUMN_STEP = 8 }; /* between a thread's rows, columns */
static_assert(THREADS == ROW_STEP * COLUMN_STEP && ROWS == 5 * ROW_STEP && COLUMNS == 4 * COLUMN_STEP, "a thread has 5 x 4 sums");

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

/* What a stage holds: rows of CHANNELS, queries first. */
struct select_stage {
    float4 q[ROWS][PIECES], k[COLUMNS][PIECES];
};

/* Where piece `piece` of a row stands in it. */
static __device__ __forceinline__ int place_of(int row, int piece) { return piece ^ (row & 7); }

/* Asks for 16 bytes of a row, zeros past its end. `from` lies on 8 bytes, and on 16 when head_dim is a multiple of four. */
static __device__ __forceinline__ void ask_piece(float4 &to, const float *from, int head_dim, int channel) {
    const int left = head_dim - channel;
    if (head_dim % 4 == 0) {
        sc::copy16_async(sc::shared_at(&to), left > 0 ? from + channel : from, left > 0 ? 16 : 0);
    } else {
        const float2 *at = (const float2 *)(from + channel);
        const float2 a = left > 0 ? at[0] : make_float2(0, 0), b = left > 2 ? at[1] : make_float2(0, 0);
        to = make_float4(a.x, a.y, b.x, b.y);
    }
}

static __device__ __forceinline__ void ask_queries(const select_params &p, select_stage &to, const float *q, int rows, int first) {
    const int piece = threadIdx.x % PIECES;
#pragma unroll
    for (int r = threadIdx.x / PIECES; r < ROWS; r += THREADS / PIECES)
        if (r < rows) ask_piece(to.q[r][place_of(r, piece)], q + (size_t)r * p.head_dim, p.head_dim, first + piece * 4);
        else to.q[r][place_of(r, piece)] = make_float4(0, 0, 0, 0);
}

/* The pieces of keys that a thread copies and turns: of every eighth column. */
enum { COPIED = COLUMNS * PIECES / THREADS };
static __device__ __forceinline__ int copied_column(int i) { return i * (THREADS / PIECES) + (int)threadIdx.x / PIECES; }

static __device__ __forceinline__ void ask_keys(const select_params &p, select_stage &to, const int (&page)[COPIED], int first) {
    const int piece = threadIdx.x % PIECES;
#pragma unroll
    for (int i = 0; i < COPIED; i++)
        ask_piece(to.k[copied_column(i)][place_of(copied_column(i), piece)], p.rep_k + (size_t)page[i] * p.head_dim, p.head_dim, first + piece * 4);
}

/* Rotations of this thread's pieces, cos and sin of two pairs each: a row of the table has SC_MAX_ROPE_PAIRS pairs, those that do not turn among them. */
static __device__ __forceinline__ void ask_turns(const select_params &p, float4 (&turn)[COPIED], const int (&age)[COPIED], int first) {
    const int pair = (first + (int)threadIdx.x % PIECES * 4) / 2;
#pragma unroll
    for (int i = 0; i < COPIED; i++) {
        turn[i] = __ldg((const float4 *)(p.age.table + (age[i] & (SC_CUDA_AGE_BASE - 1)) * SC_MAX_ROPE_PAIRS + pair));
        if (age[i] >= SC_CUDA_AGE_BASE) {
            const float2 a = age_rotation(p.age.table, age[i], pair), b = age_rotation(p.age.table, age[i], pair + 1);
            turn[i] = make_float4(a.x, a.y, b.x, b.y);
        }
    }
}
static __device__ __forceinline__ void turn_keys(select_stage &of, const float4 (&turn)[COPIED]) {
    const int piece = threadIdx.x % PIECES;
#pragma unroll
    for (int i = 0; i < COPIED; i++) {
        float4 &key = of.k[copied_column(i)][place_of(copied_column(i), piece)];
        const float4 k = key, t = turn[i];
        key = make_float4(k.x * t.x + k.y * t.y, k.y * t.x - k.x * t.y, k.z * t.z + k.w * t.w, k.w * t.z - k.z * t.w);
    }
}

/* Grid (tiles of COLUMNS, seqs * heads, tiles of ROWS). Columns: the persistent slots, then the window's. */
__global__ static void __launch_bounds__(THREADS) score_kernel(const __grid_constant__ select_params p) {
    extern __shared__ float4 raw[];
    select_stage *stage = (select_stage *)raw;
    sc::stream_order();
    const int seq_head = blockIdx.y, head = seq_head % p.heads, row0 = blockIdx.z * ROWS, column0 = blockIdx.x * COLUMNS;
    const select_seq &seq = p.seq[seq_head / p.heads];
    const int columns = seq.persistent + seq.window, rows = min(ROWS, p.blocks - row0);
    if (column0 >= columns) return;
    const float *q = p.rep_q + ((size_t)seq_head * p.blocks + row0) * p.head_dim;
    int page[COPIED], age[COPIED];
    ask_queries(p, stage[0], q, rows, 0);
#pragma unroll
    for (int i = 0; i < COPIED; i++) { /* past the last column the last one again */
        const int j = min(column0 + copied_column(i), columns - 1);
        const sc_kv_slot slot = seq.slots[(size_t)head * seq.slot_stride + (j < seq.persistent ? j : seq.window_base + j - seq.persistent)];
        page[i] = slot.page, age[i] = slot_age(p.age, seq.chunk_now, slot.chunk);
    }
    ask_keys(p, stage[0], page, 0);
    sc::copy_commit();
    const int row = threadIdx.x / COLUMN_STEP, column = threadIdx.x % COLUMN_STEP;
    float sum[5][4] = {};
    for (int first = 0, at = 0; first < p.head_dim; first += CHANNELS, at ^= 1) {
        const bool last = first + CHANNELS >= p.head_dim, turns = first < 2 * p.age.pairs;
        if (!last) {
            ask_queries(p, stage[at ^ 1], q, rows, first + CHANNELS);
            ask_keys(p, stage[at ^ 1], page, first + CHANNELS);
            sc::copy_commit();
        }
        float4 turn[COPIED];
        if (turns) ask_turns(p, turn, age, first);
        if (last) sc::copy_wait<0>();
        else sc::copy_wait<1>();
        if (turns) turn_keys(stage[at], turn);
        __syncthreads();
        const int pieces = min(PIECES, (p.head_dim - first + 3) / 4);
#pragma unroll 4
        for (int piece = 0; piece < pieces; piece++) {
            float4 k[4];
#pragma unroll
            for (int c = 0; c < 4; c++) k[c] = stage[at].k[c * COLUMN_STEP + column][place_of(column, piece)];
#pragma unroll
            for (int r = 0; r < 5; r++) {
                const float4 x = stage[at].q[r * ROW_STEP + row][place_of(row, piece)];
#pragma unroll
                for (int c = 0; c < 4; c++) sum[r][c] = fmaf(x.w, k[c].w, fmaf(x.z, k[c].z, fmaf(x.y, k[c].y, fmaf(x.x, k[c].x, sum[r][c]))));
            }
        }
        __syncthreads(); /* the stage is done with */
    }
#pragma unroll
    for (int r = 0; r < 5; r++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const int i = r * ROW_STEP + row, j = column0 + c * COLUMN_STEP + column;
            if (i < rows && j < columns) p.score[((size_t)seq_head * p.blocks + row0 + i) * p.score_stride + j] = sum[r][c] * p.scale;
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

/* Grid (groups of KEEP_WARPS rows, seqs * heads). PER 8, 32: windows of at most 256, 1024 blocks; 0: any. */
template <int PER> __global__ static void __launch_bounds__(32 * KEEP_WARPS) keep_kernel(const __grid_constant__ select_params p) {
    const int seq_head = blockIdx.y, block = blockIdx.x * KEEP_WARPS + threadIdx.x / 32;
    sc::stream_order();
    if (block < p.blocks) keep<PER>(p, p.seq[seq_head / p.heads], seq_head, block);
}

/* Rows of up to 1024 blocks are work enough for a multiprocessor: launched early, CTAs gather where scores are done first, two and more to one. So they ask for shared memory,
 * which they do not use, that leaves room for no more than their even share. */
template <int PER> static cudaError_t launch_keep(struct sc_cuda *dev, const select_params &p, int seqs) {
    enum { SHARED_OF_SM = 228 << 10 };
    const dim3 grid((p.blocks + KEEP_WARPS - 1) / KEEP_WARPS, seqs * p.heads);
    const int share = ((int)(grid.x * grid.y) + dev->sm_count - 1) / dev->sm_count, bytes = PER == 32 && dev->cc_major == 9 ? SHARED_OF_SM / (share + 1) : 0;
    static bool raised;
    if (bytes && !raised) {
        const cudaError_t e = cudaFuncSetAttribute(keep_kernel<PER>, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_OF_SM / 2);
        if (e) return e;
        raised = true;
    }
    sc::launch(dev, keep_kernel<PER>, grid, 32 * KEEP_WARPS, (size_t)bytes, 0, p);
    return cudaSuccess;
}

sc_status sc_cuda_select(sc_device *device, const sc_select_args *a, sc_error *err) {
    struct sc_cuda *dev = (struct sc_cuda *)device;
    select_params p = {};
    int window = 0, columns = 0;
    assert(a->seqs >= 1 && a->seqs <= SC_MAX_BATCH && a->head_dim % 2 == 0);
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
    static bool raised;
    const int bytes = 2 * sizeof(select_stage);
    if (!raised) {
        cudaError_t e = cudaFuncSetAttribute(score_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
        if (e) return sc_fail(err, SC_EGPU, "select: %d bytes of shared memory: %s", bytes, cudaGetErrorString(e));
        raised = true;
    }
    const dim3 tiles((columns + COLUMNS - 1) / COLUMNS, a->seqs * a->heads, (p.blocks + ROWS - 1) / ROWS);
    sc::launch(dev, score_kernel, tiles, THREADS, bytes, 0, p);
    const cudaError_t e = window <= 256 ? launch_keep<8>(dev, p, a->seqs) : window <= 1024 ? launch_keep<32>(dev, p, a->seqs) : launch_keep<0>(dev, p, a->seqs);
    return e == cudaSuccess ? sc_cuda_launched("select", err) : sc_fail(err, SC_EGPU, "select: shared memory: %s", cudaGetErrorString(e));
}

/* attention_hopper.cu - persistent-block sparse attention on wgmma and bulk tensor copies (heads of 128 channels).
 *
 * Grid: one CTA per SM, each with GROUP + 1 warpgroups. Warpgroup 0 brings pages, each other one owns a query block of the item at
 * hand (attention.cuh says what an item is and how items fall to CTAs): 64 rows of q as the A operand of the first product, 64 x 128
 * of O in registers as the accumulator of the second.
 *
 * Pages. An item's blocks share all of P, and neighbouring blocks keep many of the same pages of L. The plan (attention_cut.cu) lists
 * each page that any of them keeps once, with a bit for each block; a page is brought once and passed over by the warpgroups whose
 * bit is not set.
 *
 * Shared memory: a ring of STAGES pairs of tiles, a page of K and a page of V, 16 KiB each, swizzled by 128 bytes. K and V have
 * barriers of their own, so that a K tile goes back as soon as its product is done. Rows past the pool's page_rows are never
 * written by a copy; they are zeroed once, because 0 * NaN would reach O. Every warpgroup waits for every stage in order, also for
 * those that it passes over, so a parity never lags by two phases.
 *
 * A warpgroup issues page n + 1's S = q K^T and page n's O += P V together; the warpgroups run unsynchronised, so that one's softmax
 * meets the others' products:
 *     wait K(n+1), V(n) -> issue S, O += P V -> S done: give K back, look ahead at n + 2 -> maximum -> O done: give V back
 *     -> scale O if the maximum rose -> exponentials -> P(n+1) to registers
 * V of page n is held until page n + 1 is found; a warpgroup that passes over more than PATIENCE pages does O += P V at once, or the
 * ring would fill up behind it. 160 registers a thread hold S (32), P (16), O (64) and the half of q that turns with age (16); the
 * other half of q, 64 channels that no age turns, is read from shared memory by the product itself. What a warpgroup knows of its
 * piece lies in shared memory for the same reason.
 *
 * Position: q is kept turned by the age of the current page. Channel pair (2i, 2i+1) of a row is one register of one thread, so a
 * change of age reloads up to 3 of 4 k-steps from global memory and turns them in place; plans are in order of age, so
 * they change age a handful of times.
 *
 * The running maximum is only raised when a row exceeds it by 2^8: a softmax is the same for any reference value, P stays far
 * from f16's limit, and the rescaling of O, 64 multiplications, nearly vanishes.
 *
 * Bound: 4 * 64 * 64 * 128 flop a page and block on the tensor cores (512 cycles), of which 60/64 squared count for 60-token
 * blocks. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/hopper.cuh"

#include <assert.h>

using namespace hopper;

enum { GROUP = SC_ATT_GROUP, STAGES = 6, PATIENCE = 2, HALF = 8192, TILE = 2 * HALF, THREADS = 128 * (GROUP + 1) };
static_assert(2 * SC_ATT_TURNING_PAIRS == 64, "the half of q in registers is the one that turns");

/* A run [begin, end) of an item's plan. slot: where its sums go, -1 = it is the whole item. */
struct piece {
    int item, seq, head, group, begin, end, slot;
};

/* The pieces of this CTA, one after another. Producer and consumers each walk their own copy. */
struct walk {
    int wave;
    int64_t at, end;
    __device__ explicit walk(const sc_att_params &p) : wave(0), at(0), end(0) {
        if ((int)blockIdx.x < p.tail_ctas) at = att_tail_begin(p, blockIdx.x), end = att_tail_begin(p, blockIdx.x + 1);
    }
    __device__ bool next(const sc_att_params &p, piece *out) {
        int item, begin = 0;
        int64_t left = INT64_MAX;
        if (wave < p.waves && wave * p.ctas + (int)blockIdx.x < p.items) {
            item = wave++ * p.ctas + (int)blockIdx.x;
        } else if (at < end) {
            att_locate(p, at, &item, &begin);
            left = end - at;
        } else return false;
        out->item = item;
        out->seq = item / (p.heads * p.groups);
        const int rest = item - out->seq * p.heads * p.groups, n = p.seq[out->seq].count, planned = __ldg(p.plan_count + item);
        const int end = left < n - begin ? begin + (int)left : n;
        out->head = rest / p.groups;
        out->group = rest - out->head * p.groups;
        out->begin = att_plan_place(p.seq[out->seq], begin, planned);
        out->end = att_plan_place(p.seq[out->seq], end, planned);
        out->slot = end - begin == n ? -1 : 2 * (int)blockIdx.x + (begin == 0);
        if (left != INT64_MAX) at += end - begin;
        return true;
    }
};

/* What a warpgroup works on: its query block within a piece. */
struct work_item {
    walk where;
    piece of;
    bool more;
    const void *q; /* first row of the block */
    int first, rows;  /* of the block in the chunk */
};

static_assert(PATIENCE <= STAGES - 2, "a stage held, the ones passed over and the one waited for are all in the ring");

struct ring {
    unsigned char k[STAGES][TILE], v[STAGES][TILE]; /* [halves of 64 channels][64 rows][128 bytes] */
    unsigned char q[GROUP][HALF];                   /* channels 64 .. 127 of each warpgroup's block */
    uint64_t k_full[STAGES], v_full[STAGES], k_empty[STAGES], v_empty[STAGES];
    work_item work[GROUP]; /* of each warpgroup: shared memory holds it so that the products have the registers */
    int2 note[STAGES]; /* age; rows << 3 | bits of the blocks that keep the page */
};
enum { SMEM_BYTES = sizeof(ring) + 1024 };

/* ---- producer: one warp ------------------------------------------------------------------------------------------------- */

/* Entry i of a piece's plan: page, age, rows << 3 | bits. */
static __device__ __forceinline__ int3 planned_page(const sc_att_params &p, const piece &w, int i) {
    const sc_att_seq &seq = p.seq[w.seq];
    const int entry = __ldg(p.plan + (size_t)w.item * p.plan_stride + w.begin + i);
    const int4 slot = __ldg((const int4 *)(seq.slots + (size_t)w.head * seq.slot_stride + (entry >> SC_ATT_GROUP))); /* page, block, chunk */
    const int64_t chunk = (int64_t)(uint32_t)slot.z | (int64_t)slot.w << 32;
    const int rows = __ldg(p.start + slot.y + 1) - __ldg(p.start + slot.y);
    return make_int3(slot.x, slot_age(p.age, seq.chunk_now, chunk), rows << SC_ATT_GROUP | (entry & ((1 << SC_ATT_GROUP) - 1)));
}

static __device__ void produce(const sc_att_params &p, ring &r, const CUtensorMap *k_map, const CUtensorMap *v_map) {
    const int lane = threadIdx.x & 31, bytes = p.page_rows * 256;
    int s = 0, parity = 1;
    walk work(p);
    piece w;
    while (work.next(p, &w)) {
        const int pages = w.end - w.begin;
        if (!pages) continue;
        int3 ahead = planned_page(p, w, min(lane, pages - 1));
        for (int base = 0; base < pages; base += 32) {
            const int3 now = ahead;
            if (base + 32 < pages) ahead = planned_page(p, w, min(base + 32 + lane, pages - 1));
            for (int i = 0; i < 32 && base + i < pages; i++) {
                const int page = __shfl_sync(~0u, now.x, i), age = __shfl_sync(~0u, now.y, i), rows_bits = __shfl_sync(~0u, now.z, i);
                if (lane == 0) {
                    const int y = page * p.page_rows;
                    const uint32_t k_full = smem_u32(&r.k_full[s]), v_full = smem_u32(&r.v_full[s]);
                    const uint32_t k = smem_u32(r.k[s]), v = smem_u32(r.v[s]);
                    barrier_wait(smem_u32(&r.k_empty[s]), parity);
                    r.note[s] = make_int2(age, rows_bits);
                    barrier_expect(k_full, bytes);
                    copy_2d(k, k_map, 0, y, k_full);
                    copy_2d(k + HALF, k_map, 64, y, k_full);
                    barrier_wait(smem_u32(&r.v_empty[s]), parity);
                    barrier_expect(v_full, bytes);
                    copy_2d(v, v_map, 0, y, v_full);
                    copy_2d(v + HALF, v_map, 64, y, v_full);
                }
                __syncwarp();
                if (++s == STAGES) s = 0, parity ^= 1;
            }
        }
    }
}

/* ---- consumers: one query block a warpgroup ----------------------------------------------------------------------------- */

/* This thread's first row of its warpgroup's 64; the second is 8 below. */
static __device__ __forceinline__ int own_row() { return (threadIdx.x >> 5 & 3) * 16 + (threadIdx.x & 31) / 4; }

/* Registers of q's channels 0 .. 63, turned by `age`: k-step ks, lane (row g = lane / 4, t = lane % 4) holds pairs 8 ks + t and
 * 8 ks + t + 4 of rows g and g + 8. `first`: all k-steps, else only those with frame pairs. */
template <typename T> static __device__ __forceinline__ void load_q(uint32_t (&q)[4][4], const work_item &w, const sc_age_rule &rule, int age, bool first) {
    const int t = threadIdx.x & 3, row = own_row(), rows = w.rows;
    const uint32_t *at = (const uint32_t *)((const T *)w.q + row * SC_ATT_DIM) + t;
#pragma unroll
    for (int ks = 0; ks < 4; ks++) {
        if (!first && ks * 8 >= rule.pairs) continue;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int pair = ks * 8 + t + half * 4;
            uint32_t a = row < rows ? __ldg(at + ks * 8 + half * 4) : 0, b = row + 8 < rows ? __ldg(at + 4 * SC_ATT_DIM + ks * 8 + half * 4) : 0;
            if (age && pair < rule.pairs) {
                const float2 c = age_rotation(rule.table, age, pair), x = sc::unpack2<T>(a), y = sc::unpack2<T>(b);
                a = sc::pack2<T>(x.x * c.x - x.y * c.y, x.x * c.y + x.y * c.x);
                b = sc::pack2<T>(y.x * c.x - y.y * c.y, y.x * c.y + y.y * c.x);
            }
            q[ks][half * 2] = a;
            q[ks][half * 2 + 1] = b;
        }
    }
}

/* Channels 64 .. 127 of the block's rows to the warpgroup's tile, zeros past its end. A thread does half a row. */
template <typename T> static __device__ __forceinline__ void store_q_half(unsigned char *tile, const T *block, int rows) {
    const int row = (threadIdx.x & 127) >> 1, first = (threadIdx.x & 1) * 4;
    const uint4 *from = (const uint4 *)(block + row * SC_ATT_DIM + 64) + first;
#pragma unroll
    for (int i = 0; i < 4; i++)
        *(uint4 *)(tile + row * 128 + (((first + i) ^ (row & 7)) << 4)) = row < rows ? __ldg(from + i) : make_uint4(0, 0, 0, 0);
    proxy_fence();
}

/* Largest of a row's 64 columns: its four lanes hold 16 each. */
static __device__ __forceinline__ float row_top(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

/* Columns past a page's length count for nothing. */
static __device__ __forceinline__ void mask_columns(float (&s)[32], int length) {
    const int t = threadIdx.x & 3;
    if (length <= 56) {
#pragma unroll
        for (int i = 0; i < 32; i++)
            if ((i >> 2) * 8 + 2 * t + (i & 1) >= length) s[i] = -INFINITY;
    } else if (length < 64) {
#pragma unroll
        for (int i = 28; i < 32; i++)
            if (56 + 2 * t + (i & 1) >= length) s[i] = -INFINITY;
    }
}

/* Running maxima (unscaled) and sums of this thread's two rows. */
struct softmax_rows {
    float m0, m1, l0, l1;
};

/* The maxima, raised when one of the warp's scores exceeds its row's by 2^8; the lanes only talk then. True: they rose, O is to be scaled by c. */
static __device__ __forceinline__ bool raise_maxima(const float (&s)[32], softmax_rows &r, float scale, float2 &c) {
    float top[4];
#pragma unroll
    for (int i = 0; i < 4; i++) top[i] = fmaxf(s[i], s[i + 4]);
#pragma unroll
    for (int i = 8; i < 32; i++) top[i & 3] = fmaxf(top[i & 3], s[i]);
    float top0 = fmaxf(top[0], top[1]), top1 = fmaxf(top[2], top[3]);
    if (!__any_sync(~0u, fmaxf(top0 - r.m0, top1 - r.m1) * scale > 8.0f)) return false;
    top0 = row_top(top0), top1 = row_top(top1);
    const float n0 = fmaxf(r.m0, top0), n1 = fmaxf(r.m1, top1);
    c = make_float2(exp2_fast((r.m0 - n0) * scale), exp2_fast((r.m1 - n1) * scale));
    r.m0 = n0, r.m1 = n1, r.l0 *= c.x, r.l1 *= c.y;
    return true;
}

/* s becomes the exponentials of a page, their sums are counted. */
static __device__ __forceinline__ void exponentials(float (&s)[32], softmax_rows &r, float scale) {
    const float b0 = r.m0 * scale, b1 = r.m1 * scale;
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
        s[i] = exp2_fast(s[i] * scale - b0), s[i + 1] = exp2_fast(s[i + 1] * scale - b0);
        s[i + 2] = exp2_fast(s[i + 2] * scale - b1), s[i + 3] = exp2_fast(s[i + 3] * scale - b1);
    }
#pragma unroll
    for (int i = 0; i < 32; i += 4) r.l0 += s[i] + s[i + 1], r.l1 += s[i + 2] + s[i + 3];
}

static __device__ __forceinline__ void scale_rows(float (&o)[64], float2 c) {
#pragma unroll
    for (int i = 0; i < 64; i += 4) o[i] *= c.x, o[i + 1] *= c.x, o[i + 2] *= c.y, o[i + 3] *= c.y;
}

/* P as the A operand of the second product. */
template <typename T> static __device__ __forceinline__ void pack_p(uint32_t (&pr)[4][4], const float (&s)[32]) {
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
        pr[i >> 3][(i >> 1) & 2] = sc::pack2<T>(s[i], s[i + 1]);
        pr[i >> 3][((i >> 1) & 2) + 1] = sc::pack2<T>(s[i + 2], s[i + 3]);
    }
}

/* Where a consumer stands in the ring. */
struct cursor {
    int stage, parity;
    __device__ void step() { if (++stage == STAGES) stage = 0, parity ^= 1; }
};

/* One lane of each warp gives a tile back. */
static __device__ __forceinline__ void give_back(uint64_t &empty) {
    if ((threadIdx.x & 31) == 0) barrier_arrive(smem_u32(&empty), 1);
}

/* Gives back the stages that this warpgroup passes over, `patience` at most. False: the piece or patience ends first; on true the
 * cursor stands on a page of ours whose K is there. `left`: stages of the piece that have not been looked at. */
static __device__ __forceinline__ bool next_page(ring &r, cursor &at, int &left, int patience, int bit, int2 &note) {
    for (; left > 0 && patience >= 0; patience--) {
        barrier_wait(smem_u32(&r.k_full[at.stage]), at.parity);
        left--;
        note = r.note[at.stage];
        if (note.y & bit) return true;
        barrier_wait(smem_u32(&r.v_full[at.stage]), at.parity); /* else the arrival might count for V's phase before */
        __syncwarp(); /* all lanes have read the note */
        give_back(r.k_empty[at.stage]);
        give_back(r.v_empty[at.stage]);
        at.step();
    }
    return false;
}

/* S = q K^T of the stage, issued. */
template <typename T> static __device__ __forceinline__ void issue_scores(float (&s)[32], const uint32_t (&q)[4][4], ring &r, int member, int stage) {
    stage = __shfl_sync(~0u, stage, 0); /* the same in all lanes: descriptors in uniform registers */
    member = __shfl_sync(~0u, member, 0);
    const uint64_t k = tile_desc(smem_u32(r.k[stage]), 16), q_half = tile_desc(smem_u32(r.q[member]), 16);
    wgmma_fence();
#pragma unroll
    for (int ks = 0; ks < 4; ks++) wgmma_64(s, q[ks], k + ks * (32 >> 4), ks != 0, T());
#pragma unroll
    for (int ks = 0; ks < 4; ks++) wgmma_64_shared(s, q_half + ks * (32 >> 4), k + (HALF >> 4) + ks * (32 >> 4), T());
    wgmma_commit();
}

/* O += P V of the stage, issued. */
template <typename T> static __device__ __forceinline__ void issue_output(float (&o)[64], const uint32_t (&pr)[4][4], ring &r, int stage) {
    stage = __shfl_sync(~0u, stage, 0);
    const uint64_t v = tile_desc(smem_u32(r.v[stage]), HALF);
    wgmma_fence();
#pragma unroll
    for (int ks = 0; ks < 4; ks++) wgmma_128(o, pr[ks], v + ks * (2048 >> 4), T());
    wgmma_commit();
}

/* The next piece to r.work[member], by one thread; all 128 come out of it together. False: no more. */
template <typename T> static __device__ __forceinline__ bool next_work(const sc_att_params &p, ring &r, int member) {
    work_item &w = r.work[member];
    warpgroup_sync(1 + member); /* the last piece is done with */
    if ((threadIdx.x & 127) == 0) {
        w.more = w.where.next(p, &w.of);
        const int block = w.of.group * GROUP + member;
        const bool real = w.more && block < p.blocks;
        w.first = real ? p.start[block] : 0;
        w.rows = real ? p.start[block + 1] - w.first : 0;
        w.q = (const T *)p.q + ((size_t)(w.of.seq * p.heads + w.of.head) * p.tokens + w.first) * SC_ATT_DIM;
    }
    warpgroup_sync(1 + member);
    return w.more;
}

/* The block's rows of a whole item to `out`, or a piece's unfinished sums to the workspace. */
template <typename T> static __device__ __forceinline__ void store_output(const sc_att_params &p, const work_item &w, int member, const float (&o)[64], softmax_rows sums) {
    const int row = own_row(), t = threadIdx.x & 3;
    sums.l0 += __shfl_xor_sync(~0u, sums.l0, 1);
    sums.l1 += __shfl_xor_sync(~0u, sums.l1, 1);
    sums.l0 += __shfl_xor_sync(~0u, sums.l0, 2);
    sums.l1 += __shfl_xor_sync(~0u, sums.l1, 2);
    if (w.of.slot < 0) {
        const float i0 = 1 / sums.l0, i1 = 1 / sums.l1;
        const size_t width = (size_t)p.heads * SC_ATT_DIM;
        T *out = (T *)p.out + ((size_t)w.of.seq * p.tokens + w.first + row) * width + w.of.head * SC_ATT_DIM + 2 * t;
#pragma unroll
        for (int j = 0; j < 16; j++) {
            if (row < w.rows) *(uint32_t *)(out + j * 8) = sc::pack2<T>(o[4 * j] * i0, o[4 * j + 1] * i0);
            if (row + 8 < w.rows) *(uint32_t *)(out + 8 * width + j * 8) = sc::pack2<T>(o[4 * j + 2] * i1, o[4 * j + 3] * i1);
        }
    } else if (w.rows) {
        const size_t place = ((size_t)w.of.slot * GROUP + member) * SC_ATT_ROWS + row;
        float *out = p.partial + place * SC_ATT_DIM + 2 * t;
#pragma unroll
        for (int j = 0; j < 16; j++) {
            *(float2 *)(out + j * 8) = make_float2(o[4 * j], o[4 * j + 1]);
            *(float2 *)(out + 8 * SC_ATT_DIM + j * 8) = make_float2(o[4 * j + 2], o[4 * j + 3]);
        }
        if (t == 0) p.partial_ml[place] = make_float2(sums.m0, sums.l0), p.partial_ml[place + 8] = make_float2(sums.m1, sums.l1);
    }
}

template <typename T> static __device__ void consume(const sc_att_params &p, ring &r, int member) {
    const int bit = 1 << member;
    const float scale = p.scale_log2;
    cursor at = {0, 0};
    if ((threadIdx.x & 127) == 0) r.work[member].where = walk(p);
    while (next_work<T>(p, r, member)) {
        uint32_t q[4][4], pr[4][4];
        float s[32], o[64];
        softmax_rows sums = {-INFINITY, -INFINITY, 0, 0};
        int age = 0, left = r.work[member].of.end - r.work[member].of.begin;
        int2 note;
        load_q<T>(q, r.work[member], p.age, 0, true);
        store_q_half(r.q[member], (const T *)r.work[member].q, r.work[member].rows);
        warpgroup_sync(1 + member);
#pragma unroll
        for (int i = 0; i < 64; i++) o[i] = 0;

        while (next_page(r, at, left, left, bit, note)) {
            float2 c;
            if (note.x != age) load_q<T>(q, r.work[member], p.age, age = note.x, false);
            issue_scores<T>(s, q, r, member, at.stage);
            wgmma_wait<0>();
            registers_ready(s);
            give_back(r.k_empty[at.stage]);
            mask_columns(s, note.y >> SC_ATT_GROUP);
            if (raise_maxima(s, sums, scale, c)) scale_rows(o, c);
            exponentials(s, sums, scale);
            pack_p<T>(pr, s);
            cursor before = at;
            at.step();
            bool there = left > 0 && barrier_test(smem_u32(&r.k_full[at.stage]), at.parity);
            note = r.note[at.stage];
            for (;;) {
                if (there && (note.y & bit)) left--;
                else if (!next_page(r, at, left, PATIENCE, bit, note)) break;
                if (note.x != age) load_q<T>(q, r.work[member], p.age, age = note.x, false);
                barrier_wait(smem_u32(&r.v_full[before.stage]), before.parity);
                issue_scores<T>(s, q, r, member, at.stage);
                issue_output<T>(o, pr, r, before.stage);
                const int length = note.y >> SC_ATT_GROUP;
                const cursor now = at;
                at.step();
                wgmma_wait<1>();
                registers_ready(s);
                give_back(r.k_empty[now.stage]);
                there = left > 0 && barrier_test(smem_u32(&r.k_full[at.stage]), at.parity); /* a look ahead, its answer is wanted after the softmax */
                note = r.note[at.stage];
                mask_columns(s, length);
                const bool rose = raise_maxima(s, sums, scale, c);
                wgmma_wait<0>();
                registers_ready(o);
                give_back(r.v_empty[before.stage]);
                if (rose) scale_rows(o, c);
                exponentials(s, sums, scale);
                pack_p<T>(pr, s);
                before = now;
            }
            barrier_wait(smem_u32(&r.v_full[before.stage]), before.parity);
            issue_output<T>(o, pr, r, before.stage);
            wgmma_wait<0>();
            registers_ready(o);
            give_back(r.v_empty[before.stage]);
        }
        store_output<T>(p, r.work[member], member, o, sums);
    }
}

template <typename T>
__global__ static void __launch_bounds__(THREADS, 1)
attention_kernel(const __grid_constant__ sc_att_params p, const __grid_constant__ CUtensorMap k_map, const __grid_constant__ CUtensorMap v_map) {
    extern __shared__ unsigned char raw[];
    ring &r = *(ring *)(raw + ((1024 - (smem_u32(raw) & 1023)) & 1023));
    if (threadIdx.x == 0) {
        prefetch_map(&k_map);
        prefetch_map(&v_map);
        for (int s = 0; s < STAGES; s++) {
            barrier_init(smem_u32(&r.k_full[s]), 1);
            barrier_init(smem_u32(&r.v_full[s]), 1);
            barrier_init(smem_u32(&r.k_empty[s]), 4 * GROUP);
            barrier_init(smem_u32(&r.v_empty[s]), 4 * GROUP);
        }
        barrier_init_fence();
    }
    if (p.page_rows < SC_ATT_ROWS) {
        const int per_half = (SC_ATT_ROWS - p.page_rows) * 8; /* pieces of 16 bytes */
        for (int i = threadIdx.x; i < 4 * STAGES * per_half; i += THREADS) {
            unsigned char *half = r.k[0] + (i / per_half) * HALF; /* r.v follows r.k */
            *(uint4 *)(half + p.page_rows * 128 + (i % per_half) * 16) = make_uint4(0, 0, 0, 0);
        }
        proxy_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        registers_shrink<32>();
        if (threadIdx.x < 32) produce(p, r, &k_map, &v_map);
    } else {
        registers_grow<160>();
        consume<T>(p, r, (threadIdx.x >> 7) - 1);
    }
}

/* ---- launcher ----------------------------------------------------------------------------------------------------------- */

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *,
                              const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                              CUtensorMapFloatOOBfill);

/* The pool as [pages * page_rows][128], in boxes of one page's rows by 64 channels. Host work only, less than a microsecond. */
static bool map_pool(CUtensorMap *map, void *pool, const sc_pages *pages) {
    static encode_fn encode;
    if (!encode) {
        cudaDriverEntryPointQueryResult found;
        void *fn = NULL;
        if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000, cudaEnableDefault, &found) != cudaSuccess) return false;
        encode = (encode_fn)fn;
    }
    const cuuint64_t size[2] = {SC_ATT_DIM, (cuuint64_t)pages->pages * (cuuint64_t)pages->page_rows}, stride[1] = {SC_ATT_DIM * 2};
    const cuuint32_t box[2] = {64, (cuuint32_t)pages->page_rows}, element[2] = {1, 1};
    return encode && encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, pool, size, stride, box, element, CU_TENSOR_MAP_INTERLEAVE_NONE,
                            CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <typename T> static sc_status launch(struct sc_cuda *dev, const sc_att_params &p, const sc_pages *pages, sc_error *err) {
    static bool raised;
    CUtensorMap k_map, v_map;
    if (!map_pool(&k_map, pages->k, pages) || !map_pool(&v_map, pages->v, pages))
        return sc_fail(err, SC_EGPU, "attention: no tensor map of a pool of %d pages of %d rows", pages->pages, pages->page_rows);
    if (!raised) {
        cudaError_t e = cudaFuncSetAttribute(attention_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM_BYTES);
        if (e) return sc_fail(err, SC_EGPU, "attention: %d bytes of shared memory: %s", (int)SMEM_BYTES, cudaGetErrorString(e));
        raised = true;
    }
    sc_cuda_attention_plan(dev, &p);
    attention_kernel<T><<<p.waves ? p.ctas : p.tail_ctas, THREADS, SMEM_BYTES, dev->stream>>>(p, k_map, v_map);
    sc_cuda_attention_join(dev, &p);
    return sc_cuda_launched("attention", err);
}

sc_status sc_cuda_attention_hopper(struct sc_cuda *dev, const sc_att_params *args, const sc_pages *pages, sc_error *err) {
    sc_att_params p = *args;
    sc_cuda_attention_cut(&p, dev->sm_count);
    const size_t rows = (size_t)2 * (size_t)p.tail_ctas * GROUP * SC_ATT_ROWS, partial = rows * (SC_ATT_DIM * sizeof(float) + sizeof(float2));
    const size_t plan = ((size_t)p.plan_stride + 1) * (size_t)p.items * sizeof(int32_t);
    if (partial + plan > dev->workspace_bytes)
        return sc_fail(err, SC_ENOMEM, "attention: plans of %d groups of blocks over %d pages take %zu bytes, the workspace has %zu", p.items, p.plan_stride, partial + plan,
                       dev->workspace_bytes);
    p.partial = (float *)dev->workspace;
    p.partial_ml = (float2 *)(p.partial + rows * SC_ATT_DIM);
    p.plan_count = (int32_t *)(p.partial_ml + rows);
    p.plan = p.plan_count + p.items;
    return dev->base.act == SC_F16 ? launch<__half>(dev, p, pages, err) : launch<__nv_bfloat16>(dev, p, pages, err);
}

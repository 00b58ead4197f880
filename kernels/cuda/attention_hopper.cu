/* attention_hopper.cu - persistent-block sparse attention on wgmma and bulk tensor copies (heads of 128 channels).
 *
 * Grid: one CTA per SM, each with GROUP + 1 warpgroups. Warpgroup 0 is a producer, a warp that brings pages, and GROUP scouts, a warp for
 * each of the other warpgroups; each of these owns a query block of the item at hand (attention.cuh says what an item is and how items fall
 * to CTAs): 64 rows of q as the A operand of the first product, 64 x 128 of O in registers as the accumulator of the second.
 *
 * Pages. An item's blocks share all of P, and neighbouring blocks keep many of the same pages of L. The plan (attention_cut.cu) lists
 * each page that any of them keeps once, with a bit for each block; a page is brought once.
 *
 * Shared memory: a ring of STAGES pairs of tiles, a page of K and a page of V, 16 KiB each, swizzled by 128 bytes. K and V go back
 * separately, K as soon as its product is done. Rows past the pool's page_rows are never written by a copy; they are zeroed once, because
 * 0 * NaN would reach O.
 *
 * Scouts. To wait for a barrier and to look at what has come costs a warpgroup some 200 cycles even when all is there, and it is the chain of
 * one warpgroup's latencies that bounds this kernel. So its scout waits for every stage, in order (a parity never lags by two phases), gives
 * back the pages that the block does not keep, and tells the rest through a queue of 64-bit entries: one load that is issued a page ahead.
 *
 * A warpgroup issues page n + 1's S = q K^T and page n's O += P V together; the warpgroups run unsynchronised, so that one's softmax
 * meets the others' products:
 *     entry n + 1 -> issue S, O += P V -> load entry n + 2 -> S done: give K back -> [f16: maximum] -> O done: give V back
 *     -> [f16: scale O if the maximum rose] -> exponentials -> P(n+1) to registers
 * V of page n is held until entry n + 1 is there. When more than PATIENCE pages lie between, the scout says FLUSH: the warpgroup then does
 * O += P V at once, or the ring would fill up behind it. 160 registers a thread hold S (32), P (16), O (64) and the half of q that turns with
 * age (16); the other half of q, 64 channels that no age turns, is read from shared memory by the product itself. What a warpgroup knows of
 * its piece lies in shared memory for the same reason.
 *
 * Position: q is kept turned by the age of the current page. Channel pair (2i, 2i+1) of a row is one register of one thread, so a
 * change of age reloads up to 3 of 4 k-steps from global memory and turns them in place; plans are in order of age, so
 * they change age a handful of times.
 *
 * attention_rows.cuh has what a thread does with its rows: q, masks, exponentials and what they refer to.
 *
 * Bound: 4 * 64 * 64 * 128 flop a page and block on the tensor cores (512 cycles), of which 60/64 squared count for 60-token
 * blocks. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/tensor_map.h"

#include <assert.h>

using namespace attention;
using namespace hopper;

enum { GROUP = SC_ATT_GROUP, STAGES = 6, PATIENCE = 1, QUEUE = 16, HALF = 8192, TILE = 2 * HALF, THREADS = 128 * (GROUP + 1) };
static_assert(2 * SC_ATT_TURNING_PAIRS == 64, "the half of q in registers is the one that turns");

/* A run [begin, end) of an item's plan. slot: where its sums go, -1 = it is the whole item. */
struct piece {
    int item, seq, head, group, begin, end, slot;
};

/* The pieces of this CTA, one after another. Producer, scouts and consumers each walk their own copy. */
struct walk {
    int wave;
    int64_t at, end; /* costs of the tail */
    __device__ explicit walk(const sc_att_params &p) : wave(0), at(0), end(0) {
        if ((int)blockIdx.x < p.tail_ctas) at = att_tail_begin(p, blockIdx.x), end = att_tail_begin(p, blockIdx.x + 1);
    }
    __device__ bool next(const sc_att_params &p, piece *out) {
        int item, begin = 0, end_step;
        const bool whole = wave < p.waves && wave * p.ctas + (int)blockIdx.x < p.items;
        if (whole) item = wave++ * p.ctas + (int)blockIdx.x;
        do {
            int inside = 0;
            if (!whole) {
                if (at >= end) return false;
                att_locate(p, at, &item, &inside);
            }
            out->seq = item / (p.heads * p.groups);
            const int cost = att_item_cost(p.seq[out->seq]);
            const int until = whole || end - at >= cost - inside ? cost : inside + (int)(end - at);
            begin = att_step_at(p.seq[out->seq], inside);
            end_step = att_step_at(p.seq[out->seq], until);
            if (!whole) at += until - inside;
        } while (begin == end_step); /* a range may end within an item's first step */
        const int rest = item - out->seq * p.heads * p.groups, n = p.seq[out->seq].count, planned = __ldg(p.plan_count + item);
        out->item = item;
        out->head = rest / p.groups;
        out->group = rest - out->head * p.groups;
        out->begin = att_plan_place(p.seq[out->seq], begin, planned);
        out->end = att_plan_place(p.seq[out->seq], end_step, planned);
        out->slot = end_step - begin == n ? -1 : 2 * (int)blockIdx.x + (begin == 0);
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

/* What a scout tells its warpgroup; 64 bits, read at once. `what`: 16 bits of the entry's number, from 1 | 8 bits: the page's length | STOP, TURN, SHORT | 4 bits:
 * its stage, or with STOP what there is in place of a page. */
enum { FLUSH = 0, END = 1 };                    /* finish O, no page comes soon; the piece ends */
enum { STOP = 0x10, TURN = 0x20, SHORT = 0x40 }; /* not a page; of another age than the one before; not all that a page can hold, or that is so little */
struct entry {
    uint32_t what, age;
    __device__ uint32_t place() const { return what & 15; }
    __device__ int length() const { return what >> 8 & 127; }
};
static_assert(QUEUE >= 2 * STAGES + 2, "a page and a FLUSH for each stage and two ENDs: no entry is overwritten before all warps have read it");

struct ring {
    unsigned char k[STAGES][TILE], v[STAGES][TILE]; /* [halves of 64 channels][64 rows][128 bytes] */
    unsigned char q[GROUP][HALF];                   /* channels 64 .. 127 of each warpgroup's block */
    uint64_t k_full[STAGES], v_full[STAGES], k_empty[STAGES], v_empty[STAGES];
    alignas(128) uint64_t queue[GROUP][QUEUE];       /* entries of each scout for its warpgroup, number n at n % QUEUE */
    volatile unsigned ended[GROUP];                  /* pieces whose END each warpgroup has read; counted on by an atomic */
    work_item scouted[GROUP];
    work_item work[GROUP]; /* of each warpgroup: shared memory holds it so that the products have the registers */
    uint64_t note[STAGES]; /* age; above it, 32 bits up, rows << 3 | bits of the blocks that keep the page */
};
enum { SMEM_BYTES = sizeof(ring) + 1024 };

/* ---- producer: one warp ------------------------------------------------------------------------------------------------- */

/* Entry i of a piece's plan: page, age, rows << 3 | bits. */
static __device__ __forceinline__ int3 planned_page(const sc_att_params &p, const piece &w, int i) {
    const sc_att_seq &seq = p.seq[w.seq];
    const int planned = __ldg(p.plan + (size_t)w.item * p.plan_stride + w.begin + i);
    const int4 slot = __ldg((const int4 *)(seq.slots + (size_t)w.head * seq.slot_stride + (planned >> SC_ATT_GROUP))); /* page, block, chunk */
    const int64_t chunk = (int64_t)(uint32_t)slot.z | (int64_t)slot.w << 32;
    const int rows = __ldg(p.start + slot.y + 1) - __ldg(p.start + slot.y);
    return make_int3(slot.x, slot_age(p.age, seq.chunk_now, chunk), rows << SC_ATT_GROUP | (planned & ((1 << SC_ATT_GROUP) - 1)));
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
                    store_release(smem_u32(&r.note[s]), (uint64_t)(uint32_t)rows_bits << 32 | (uint32_t)age);
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

/* ---- scouts: a warp for each consumer ------------------------------------------------------------------------------------ */

/* The next entry of a warpgroup's queue; `count` is the last one's number. */
static __device__ __forceinline__ void tell(ring &r, int member, uint32_t &count, uint32_t what, uint32_t age) {
    ++count;
    store_release(smem_u32(&r.queue[member][count % QUEUE]), (uint64_t)(count << 16 | what) << 32 | age);
}

/* One lane: waits for every stage of every piece and tells its warpgroup of those it keeps. */
static __device__ void scout(const sc_att_params &p, ring &r, int member) {
    work_item &own = r.scouted[member];
    uint32_t count = 0;
    int s = 0, parity = 0;
    unsigned pieces = 0;
    own.where = walk(p);
    while (own.where.next(p, &own.of)) {
        uint32_t age = 0;
        int passed = PATIENCE + 1; /* stages since the last page; more than PATIENCE: the warpgroup holds none */
        for (int left = own.of.end - own.of.begin; left > 0; left--) {
            barrier_wait(smem_u32(&r.k_full[s]), parity);
            barrier_wait(smem_u32(&r.v_full[s]), parity);
            const uint64_t note = load_acquire(smem_u32(&r.note[s]));
            const uint32_t rows_bits = (uint32_t)(note >> 32);
            if (rows_bits >> member & 1) {
                const int rows = (int)(rows_bits >> SC_ATT_GROUP);
                const uint32_t turned = (uint32_t)note != age ? TURN : 0, cut = rows < p.page_rows || rows <= 56 ? SHORT : 0;
                age = (uint32_t)note;
                tell(r, member, count, (uint32_t)rows << 8 | cut | turned | (uint32_t)s, age);
                passed = 0;
            } else {
                barrier_arrive(smem_u32(&r.k_empty[s]), 4);
                barrier_arrive(smem_u32(&r.v_empty[s]), 4);
                if (++passed == PATIENCE + 1) tell(r, member, count, STOP | FLUSH, 0);
            }
            if (++s == STAGES) s = 0, parity ^= 1;
        }
        while (r.ended[member] < pieces) {} /* the END before is read */
        pieces++;
        tell(r, member, count, STOP | END, 0);
    }
}

/* ---- consumers: one query block a warpgroup ----------------------------------------------------------------------------- */

/* One lane of each warp gives a tile back. */
static __device__ __forceinline__ void give_back(uint64_t &empty) {
    if ((threadIdx.x & 31) == 0) barrier_arrive(smem_u32(&empty), 1);
}

/* What the queue has in place of the entry whose number stands in the upper half of `turn`: that entry or an older one. */
static __device__ __forceinline__ entry look(const ring &r, int member, uint32_t turn) {
    const uint64_t e = load_acquire(smem_u32(r.queue[member]) | (turn >> 13 & 8 * (QUEUE - 1)));
    return {(uint32_t)(e >> 32), (uint32_t)e};
}
/* Makes e, which look() brought, that entry. */
static __device__ __forceinline__ void await(const ring &r, int member, uint32_t turn, entry &e) {
    while ((e.what ^ turn) >> 16) e = look(r, member, turn);
}
enum { NEXT = 1 << 16 };

/* S = q K^T of the stage, issued. The shuffle tells the compiler that all lanes mean one stage: descriptors are made in uniform registers. */
template <typename T> static __device__ __forceinline__ void issue_scores(float (&s)[32], const uint32_t (&q)[4][4], const ring &r, int member, uint32_t stage) {
    const uint32_t k = tile_low(smem_u32(r.k[0]), 16) + __shfl_sync(~0u, stage, 0) * (TILE >> 4);
    const uint64_t q_half = tile_desc(smem_u32(r.q[member]), 16);
    wgmma_fence();
#pragma unroll
    for (int ks = 0; ks < 4; ks++) wgmma_64(s, q[ks], tile_desc_of(k + ks * (32 >> 4)), ks != 0, T());
#pragma unroll
    for (int ks = 0; ks < 4; ks++) wgmma_64_shared(s, q_half + ks * (32 >> 4), tile_desc_of(k + (HALF >> 4) + ks * (32 >> 4)), T());
    wgmma_commit();
}

/* O += P V of the stage, issued. */
template <typename T> static __device__ __forceinline__ void issue_output(float (&o)[64], const uint32_t (&pr)[4][4], const ring &r, uint32_t stage) {
    const uint32_t v = tile_low(smem_u32(r.v[0]), HALF) + __shfl_sync(~0u, stage, 0) * (TILE >> 4);
    wgmma_fence();
#pragma unroll
    for (int ks = 0; ks < 4; ks++) wgmma_128(o, pr[ks], tile_desc_of(v + ks * (2048 >> 4)), T());
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

/* ---- a piece once more --------------------------------------------------------------------------------------------------- */

/* 16-bit values of two rows of V, a column of the B operand. */
static __device__ __forceinline__ uint32_t two_rows(const uint16_t *v, bool first, bool second) {
    return (first ? __ldg(v) : 0u) | (second ? (uint32_t)__ldg(v + SC_ATT_DIM) : 0u) << 16;
}

/* The warp's 16 rows of its piece from the beginning, for sums that ended outside LOWEST to HIGHEST: each page's maximum is looked at,
 * products by mma.sync, K and V from where they lie, since the ring has gone on. Rows of q past 64 channels still stand in shared memory. */
template <typename T>
static __device__ __forceinline__ void once_more(float (&o)[64], softmax_rows &sums, const sc_att_params &p, const ring &r, int member) {
    const work_item &w = r.work[member];
    const float scale = score_scale<T>(p), factor = q_factor<T>(p);
    uint32_t q[4][4], pr[4][4];
    int thread, age = 0; /* volatile: what follows from it takes no registers of those who never come here */
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    const int g = thread / 4 & 7, t = thread & 3, row = (thread >> 5 & 3) * 16 + g;
    sums = {-INFINITY, -INFINITY, 0, 0};
    const page_edge edge(SC_ATT_ROWS); /* what is past a page's length is masked */
#pragma unroll
    for (int i = 0; i < 64; i++) o[i] = 0;
    load_q<T>(q, (const T *)w.q, w.rows, p.age, 0, true, factor);
#pragma unroll 1
    for (int i = 0; i < w.of.end - w.of.begin; i++) {
        const int3 planned = planned_page(p, w.of, i); /* page, age, rows << 3 | bits */
        if (!(planned.z >> member & 1)) continue;
        if (planned.y != age) load_q<T>(q, (const T *)w.q, w.rows, p.age, age = planned.y, false, factor);
        const size_t page = (size_t)planned.x * p.page_rows * SC_ATT_DIM;
        const T *k = (const T *)p.k + page + g * SC_ATT_DIM + 2 * t;
        const uint16_t *v = (const uint16_t *)p.v + page + 2 * t * SC_ATT_DIM + g;
        float s[32] = {};
        float2 c;
#pragma unroll
        for (int ks = 0; ks < 8; ks++) {
            uint32_t a[4];
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int at = row + e % 2 * 8, eight = ks % 4 * 2 + e / 2;
                a[e] = ks < 4 ? q[ks & 3][e] : *(const uint32_t *)(r.q[member] + at * 128 + ((eight ^ (at & 7)) << 4) + t * 4);
            }
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const bool there = 8 * j + g < p.page_rows;
                const uint32_t *b = (const uint32_t *)(k + 8 * j * SC_ATT_DIM + 16 * ks);
                sc::mma16816<T>(&s[4 * j], a, there ? __ldg(b) : 0, there ? __ldg(b + 4) : 0);
            }
        }
        mask_columns(s, planned.z >> SC_ATT_GROUP);
        if (raise_maxima(s, sums, scale, c)) scale_rows(o, c);
        exponentials<true>(s, sums, scale, edge);
        pack_p<T>(pr, s);
#pragma unroll
        for (int ks = 0; ks < 4; ks++) {
            const int key = 16 * ks + 2 * t, left = p.page_rows - key;
#pragma unroll
            for (int j = 0; j < 16; j++) {
                const uint16_t *b = v + 16 * ks * SC_ATT_DIM + 8 * j;
                sc::mma16816<T>(&o[4 * j], pr[ks], two_rows(b, left > 0, left > 1), two_rows(b + 8 * SC_ATT_DIM, left > 8, left > 9));
            }
        }
    }
    row_sums(sums);
}

/* The block's rows of a whole item to `out`, or a piece's unfinished sums to the workspace. */
template <typename T> static __device__ __forceinline__ void store_output(const sc_att_params &p, const work_item &w, int member, const float (&o)[64], softmax_rows sums) {
    const int row = own_row(), t = threadIdx.x & 3;
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
        const float scale = score_scale<T>(p);
        if (t == 0) p.partial_ml[place] = make_float2(sums.m0 * scale, sums.l0), p.partial_ml[place + 8] = make_float2(sums.m1 * scale, sums.l1);
    }
}

template <typename T> static __device__ void consume(const sc_att_params &p, ring &r, int member) {
    const float scale = score_scale<T>(p), factor = q_factor<T>(p);
    uint32_t turn = NEXT;
    member = __shfl_sync(~0u, member, 0);
    if ((threadIdx.x & 127) == 0) r.work[member].where = walk(p);
    const page_edge edge(narrow<T> ? SC_ATT_ROWS : p.page_rows);
    while (next_work<T>(p, r, member)) {
        uint32_t q[4][4], pr[4][4];
        float s[32], o[64];
        softmax_rows sums = {-INFINITY, -INFINITY, 0, 0};
        load_q<T>(q, (const T *)r.work[member].q, r.work[member].rows, p.age, 0, true, factor);
        store_q_half(r.q[member], (const T *)r.work[member].q, r.work[member].rows, factor);
        warpgroup_sync(1 + member);
#pragma unroll
        for (int i = 0; i < 64; i++) o[i] = 0;

        entry e = look(r, member, turn);
        for (;;) {
            float2 c;
            await(r, member, turn, e);
            turn += NEXT;
            if (e.what & STOP) {
                if (e.place() == END) break;
                e = look(r, member, turn); /* a FLUSH of the last run of pages, which is done */
                continue;
            }
            if (e.what & TURN) load_q<T>(q, (const T *)r.work[member].q, r.work[member].rows, p.age, e.age, false, factor);
            issue_scores<T>(s, q, r, member, e.place());
            wgmma_wait<0>();
            registers_ready(s);
            give_back(r.k_empty[e.place()]);
            if (narrow<T> || e.what & SHORT) mask_columns(s, e.length());
            if (!narrow<T>) sums.m0 = sums.m1 = 0;
            else if (raise_maxima(s, sums, scale, c)) scale_rows(o, c);
            exponentials<narrow<T>>(s, sums, scale, edge);
            pack_p<T>(pr, s);
            uint32_t before = e.place();
            e = look(r, member, turn);
            for (;;) {
                await(r, member, turn, e);
                if (e.what & STOP) break;
                turn += NEXT;
                if (e.what & TURN) load_q<T>(q, (const T *)r.work[member].q, r.work[member].rows, p.age, e.age, false, factor);
                issue_scores<T>(s, q, r, member, e.place());
                issue_output<T>(o, pr, r, before);
                const entry now = e;
                e = look(r, member, turn);
                wgmma_wait<1>();
                registers_ready(s);
                give_back(r.k_empty[now.place()]);
                if (narrow<T> || now.what & SHORT) mask_columns(s, now.length());
                const bool rose = narrow<T> && raise_maxima(s, sums, scale, c);
                wgmma_wait<0>();
                registers_ready(o);
                give_back(r.v_empty[before]);
                if (rose) scale_rows(o, c);
                exponentials<narrow<T>>(s, sums, scale, edge);
                pack_p<T>(pr, s);
                before = now.place();
            }
            issue_output<T>(o, pr, r, before);
            wgmma_wait<0>();
            registers_ready(o);
            give_back(r.v_empty[before]);
        }
        if ((threadIdx.x & 127) == 0) atomicAdd((unsigned *)&r.ended[member], 1);
        row_sums(sums);
        if (!narrow<T>) { /* m0 is 0 when there was a page */
            const bool far = fmaxf(sums.l0, sums.l1) > HIGHEST || fminf(sums.l0, sums.l1) < LOWEST;
            if (__any_sync(~0u, sums.m0 == 0 && far)) once_more<T>(o, sums, p, r, member);
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
    if (threadIdx.x < GROUP * QUEUE) r.queue[threadIdx.x / QUEUE][threadIdx.x % QUEUE] = 0;
    if (threadIdx.x < GROUP) r.ended[threadIdx.x] = 0;
    if (p.page_rows < SC_ATT_ROWS) {
        const int per_half = (SC_ATT_ROWS - p.page_rows) * 8; /* pieces of 16 bytes */
        for (int i = threadIdx.x; i < 4 * STAGES * per_half; i += THREADS) {
            unsigned char *half = r.k[0] + (i / per_half) * HALF; /* r.v follows r.k */
            *(uint4 *)(half + p.page_rows * 128 + (i % per_half) * 16) = make_uint4(0, 0, 0, 0);
        }
        proxy_fence();
    }
    __syncthreads();
    sc::stream_order();
    if (threadIdx.x < 128) {
        registers_shrink<32>();
        const int warp = threadIdx.x >> 5;
        if (warp == 0) produce(p, r, &k_map, &v_map);
        else if ((threadIdx.x & 31) == 0 && warp <= GROUP) scout(p, r, warp - 1);
    } else {
        registers_grow<160>();
        consume<T>(p, r, (threadIdx.x >> 7) - 1);
    }
}

/* ---- launcher ----------------------------------------------------------------------------------------------------------- */

/* The pool as [pages * page_rows][128], in boxes of one page's rows by 64 channels. */
static bool map_pool(CUtensorMap *map, void *pool, const sc_pages *pages) {
    return sc_cuda_map_matrix(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, pool, (size_t)pages->pages * (size_t)pages->page_rows, SC_ATT_DIM, (unsigned)pages->page_rows, 64,
                              CU_TENSOR_MAP_SWIZZLE_128B);
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
    sc::launch(dev, attention_kernel<T>, dim3(p.waves ? p.ctas : p.tail_ctas), THREADS, SMEM_BYTES, 0, p, k_map, v_map);
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

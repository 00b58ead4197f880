/* attention_hopper.cu - persistent-block sparse attention on wgmma and bulk tensor copies (heads of 128 channels).
 *
 * Grid: one CTA per SM, each with GROUP + 1 warpgroups. Warpgroup 0 brings pages, each other one owns a query block of the item at
 * hand (attention.cuh says what an item is and how items fall to CTAs): 64 rows of q in registers as the A operand of the first
 * product, 64 x 128 of O in registers as the accumulator of the second.
 *
 * Shared memory: a ring of STAGES pairs of tiles, a page of K and a page of V, 16 KiB each, swizzled by 128 bytes. K and V have
 * barriers of their own, so that a K tile goes back as soon as its product is done. Rows past the pool's page_rows are never
 * written by a copy; they are zeroed once, because 0 * NaN would reach O.
 *
 * Order. A shared step is one page that all warpgroups read: one stage, GROUP times the use. Of the other steps each warpgroup
 * has its own: GROUP stages in turn. So every side can compute which stage comes next, and the ring needs no other message than
 * the page's age and length (`note`). Copies land in any order, and a parity only tells neighbouring phases apart: a warpgroup may wait
 * for a stage only on a barrier of which it has seen every phase. Hence a set of barriers for each reader and one for shared stages;
 * a reader counts phases in a bit a stage. Per page and warpgroup:
 *     wait K -> S = q K^T -> give K back -> softmax in base 2, P to registers -> wait V -> O += P V -> give V back
 * The warpgroups run unsynchronised: while one is in its softmax the others' products keep the tensor cores busy.
 *
 * Position: q is kept turned by the age of the current page. Channel pair (2i, 2i+1) of a row is one register of one thread, so a
 * change of age reloads up to 3 of 8 k-steps from global memory and turns them in place; lists are in order of age, so
 * a list changes age a handful of times.
 *
 * The running maximum is only raised when a row exceeds it by 2^8: a softmax is the same for any reference value, P stays far
 * from f16's limit, and the rescaling of O, 64 multiplications, nearly vanishes.
 *
 * Bound: 4 * 64 * 64 * 128 flop a page and block on the tensor cores (512 cycles), of which 60/64 squared count for 60-token
 * blocks; L2 brings 30.7 KB for each of them, a third of that for a shared page. */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/hopper.cuh"

#include <assert.h>

using namespace hopper;

enum { GROUP = SC_ATT_GROUP, STAGES = 7, HALF = 8192, TILE = 2 * HALF, THREADS = 128 * (GROUP + 1) };

struct ring {
    unsigned char k[STAGES][TILE], v[STAGES][TILE]; /* [halves of 64 channels][64 rows][128 bytes] */
    uint64_t k_full[GROUP + 1][STAGES], v_full[GROUP + 1][STAGES], k_empty[STAGES], v_empty[STAGES]; /* full: by reader, GROUP = all */
    int note[STAGES]; /* age << 7 | rows */
};
enum { SMEM_BYTES = sizeof(ring) + 1024 };

/* A run of steps [begin, end) of one item. slot: where its sums go, -1 = it is the whole item. */
struct piece {
    int seq, head, group, begin, end, slot;
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
        out->seq = item / (p.heads * p.groups);
        const int rest = item - out->seq * p.heads * p.groups, n = p.seq[out->seq].count;
        out->head = rest / p.groups;
        out->group = rest - out->head * p.groups;
        out->begin = begin;
        out->end = left < n - begin ? begin + (int)left : n;
        out->slot = out->end - begin == n ? -1 : 2 * (int)blockIdx.x + (begin == 0);
        if (left != INT64_MAX) at += out->end - begin;
        return true;
    }
};

/* ---- producer: one warp ------------------------------------------------------------------------------------------------- */

/* Page and note of stage `i` of a piece. */
static __device__ __forceinline__ int2 stage_page(const sc_att_params &p, const piece &w, int i) {
    const sc_att_seq &seq = p.seq[w.seq];
    const int shared = max(0, min(w.end, seq.shared) - w.begin);
    int step = w.begin + i, block = w.group * GROUP;
    if (i >= shared) {
        step = w.begin + shared + (i - shared) / GROUP;
        block = min(block + (i - shared) % GROUP, p.blocks - 1);
    }
    const int4 *at = (const int4 *)(seq.slots + (size_t)w.head * seq.slot_stride + att_slot(p, w.seq, w.head, block, step));
    const int4 slot = __ldg(at); /* page, block, chunk */
    const int64_t chunk = (int64_t)(uint32_t)slot.z | (int64_t)slot.w << 32;
    const int rows = __ldg(p.start + slot.y + 1) - __ldg(p.start + slot.y);
    return make_int2(slot.x, slot_age(p.age, seq.chunk_now, chunk) << 7 | rows);
}

static __device__ void produce(const sc_att_params &p, ring &r, const CUtensorMap *k_map, const CUtensorMap *v_map) {
    const int lane = threadIdx.x & 31, bytes = p.page_rows * 256;
    uint32_t n = 0; /* stages brought so far */
    walk work(p);
    piece w;
    while (work.next(p, &w)) {
        const int shared = max(0, min(w.end, p.seq[w.seq].shared) - w.begin);
        const int stages = shared + GROUP * (w.end - w.begin - shared);
        int2 ahead = stage_page(p, w, min(lane, stages - 1));
        for (int base = 0; base < stages; base += 32) {
            const int2 now = ahead;
            if (base + 32 < stages) ahead = stage_page(p, w, min(base + 32 + lane, stages - 1));
            for (int i = 0; i < 32 && base + i < stages; i++, n++) {
                const int page = __shfl_sync(~0u, now.x, i), note = __shfl_sync(~0u, now.y, i);
                if (lane == 0) {
                    const int s = n % STAGES, parity = ((n / STAGES) & 1) ^ 1, y = page * p.page_rows;
                    const int reader = base + i < shared ? GROUP : (base + i - shared) % GROUP;
                    const uint32_t k_full = smem_u32(&r.k_full[reader][s]), v_full = smem_u32(&r.v_full[reader][s]);
                    const uint32_t k = smem_u32(r.k[s]), v = smem_u32(r.v[s]);
                    barrier_wait(smem_u32(&r.k_empty[s]), parity);
                    r.note[s] = note;
                    barrier_expect(k_full, bytes);
                    copy_2d(k, k_map, 0, y, k_full);
                    copy_2d(k + HALF, k_map, 64, y, k_full);
                    barrier_wait(smem_u32(&r.v_empty[s]), parity);
                    barrier_expect(v_full, bytes);
                    copy_2d(v, v_map, 0, y, v_full);
                    copy_2d(v + HALF, v_map, 64, y, v_full);
                }
                __syncwarp();
            }
        }
    }
}

/* ---- consumers: one query block a warpgroup ----------------------------------------------------------------------------- */

/* Registers of q, turned by `age`: k-step ks, lane (row g = lane / 4, t = lane % 4) holds pairs 8 ks + t and 8 ks + t + 4 of rows
 * g and g + 8. `first`: all k-steps, else only those with frame pairs. */
template <typename T>
static __device__ __forceinline__ void load_q(uint32_t (&q)[8][4], const T *row0, const T *row8, const sc_age_rule &rule, int age, bool first) {
    const int t = threadIdx.x & 3;
#pragma unroll
    for (int ks = 0; ks < 8; ks++) {
        if (!first && ks * 8 >= rule.pairs) continue;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int pair = ks * 8 + t + half * 4;
            uint32_t a = row0 ? __ldg((const uint32_t *)row0 + pair) : 0, b = row8 ? __ldg((const uint32_t *)row8 + pair) : 0;
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

template <typename T> static __device__ void consume(const sc_att_params &p, ring &r, int member) {
    const int warp = (threadIdx.x >> 5) & 3, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const float scale = p.scale_log2;
    int next = 0;         /* stage of the step */
    uint32_t phases = 0; /* parity of the phase that comes next: a bit for each shared stage, then for each own */
    walk work(p);
    piece w;
    while (work.next(p, &w)) {
        const int block = w.group * GROUP + member, shared = p.seq[w.seq].shared;
        const bool real = block < p.blocks;
        const int first = real ? p.start[block] : 0, rows = real ? p.start[block + 1] - first : 0;
        const int row = warp * 16 + g;
        const T *q_base = (const T *)p.q + ((size_t)(w.seq * p.heads + w.head) * p.tokens + first) * SC_ATT_DIM;
        const T *row0 = row < rows ? q_base + row * SC_ATT_DIM : nullptr, *row8 = row + 8 < rows ? q_base + (row + 8) * SC_ATT_DIM : nullptr;
        uint32_t q[8][4];
        float o[64], m0 = -INFINITY, m1 = -INFINITY, l0 = 0, l1 = 0;
        int age = 0;
        load_q(q, row0, row8, p.age, 0, true);
#pragma unroll
        for (int i = 0; i < 64; i++) o[i] = 0;

        for (int step = w.begin; step < w.end; step++) {
            const bool mine = step >= shared; /* a page that no other warpgroup reads */
            const int at = mine ? next + member : next, stage = at < STAGES ? at : at - STAGES, uses = mine ? GROUP : 1, reader = mine ? member : GROUP;
            const int bit = mine ? STAGES + stage : stage, parity = (phases >> bit) & 1;
            next = next + uses < STAGES ? next + uses : next + uses - STAGES;
            phases ^= 1u << bit;

            barrier_wait(smem_u32(&r.k_full[reader][stage]), parity);
            const int note = r.note[stage], length = note & 127;
            if (note >> 7 != age) {
                age = note >> 7;
                load_q(q, row0, row8, p.age, age, false);
            }
            float s[32];
            const uint64_t k = tile_desc(smem_u32(r.k[stage]), 16);
            wgmma_fence();
#pragma unroll
            for (int ks = 0; ks < 8; ks++) wgmma_64(s, q[ks], k + (ks & 3) * (32 >> 4) + (ks >> 2) * (HALF >> 4), ks != 0, T());
            wgmma_commit();
            wgmma_wait<0>();
            __syncwarp(); /* all lanes have read the note */
            if (lane == 0) barrier_arrive(smem_u32(&r.k_empty[stage]), uses);

            if (length <= 56) {
#pragma unroll
                for (int i = 0; i < 32; i++)
                    if ((i >> 2) * 8 + 2 * t + (i & 1) >= length) s[i] = -INFINITY;
            } else if (length < 64) {
#pragma unroll
                for (int i = 28; i < 32; i++)
                    if (56 + 2 * t + (i & 1) >= length) s[i] = -INFINITY;
            }
            float top0 = s[0], top1 = s[2];
#pragma unroll
            for (int i = 0; i < 32; i += 4) {
                top0 = fmaxf(top0, fmaxf(s[i], s[i + 1]));
                top1 = fmaxf(top1, fmaxf(s[i + 2], s[i + 3]));
            }
            top0 = fmaxf(top0, __shfl_xor_sync(~0u, top0, 1));
            top1 = fmaxf(top1, __shfl_xor_sync(~0u, top1, 1));
            top0 = fmaxf(top0, __shfl_xor_sync(~0u, top0, 2));
            top1 = fmaxf(top1, __shfl_xor_sync(~0u, top1, 2));
            if (__any_sync(~0u, fmaxf(top0 - m0, top1 - m1) * scale > 8.0f)) {
                const float n0 = fmaxf(m0, top0), n1 = fmaxf(m1, top1);
                const float c0 = exp2_fast((m0 - n0) * scale), c1 = exp2_fast((m1 - n1) * scale);
                m0 = n0, m1 = n1, l0 *= c0, l1 *= c1;
#pragma unroll
                for (int i = 0; i < 64; i += 4) o[i] *= c0, o[i + 1] *= c0, o[i + 2] *= c1, o[i + 3] *= c1;
            }
            const float b0 = m0 * scale, b1 = m1 * scale;
            uint32_t pr[4][4];
#pragma unroll
            for (int i = 0; i < 32; i += 4) {
                const float e0 = exp2_fast(s[i] * scale - b0), e1 = exp2_fast(s[i + 1] * scale - b0);
                const float e2 = exp2_fast(s[i + 2] * scale - b1), e3 = exp2_fast(s[i + 3] * scale - b1);
                l0 += e0 + e1, l1 += e2 + e3;
                pr[i >> 3][(i >> 1) & 2] = sc::pack2<T>(e0, e1);
                pr[i >> 3][((i >> 1) & 2) + 1] = sc::pack2<T>(e2, e3);
            }

            barrier_wait(smem_u32(&r.v_full[reader][stage]), parity);
            const uint64_t v = tile_desc(smem_u32(r.v[stage]), HALF);
            wgmma_fence();
#pragma unroll
            for (int ks = 0; ks < 4; ks++) wgmma_128(o, pr[ks], v + ks * (2048 >> 4), T());
            wgmma_commit();
            wgmma_wait<0>();
            if (lane == 0) barrier_arrive(smem_u32(&r.v_empty[stage]), uses);
        }

        l0 += __shfl_xor_sync(~0u, l0, 1);
        l1 += __shfl_xor_sync(~0u, l1, 1);
        l0 += __shfl_xor_sync(~0u, l0, 2);
        l1 += __shfl_xor_sync(~0u, l1, 2);
        if (w.slot < 0) {
            const float i0 = 1 / l0, i1 = 1 / l1;
            const size_t width = (size_t)p.heads * SC_ATT_DIM;
            T *out = (T *)p.out + ((size_t)w.seq * p.tokens + first + row) * width + w.head * SC_ATT_DIM + 2 * t;
#pragma unroll
            for (int j = 0; j < 16; j++) {
                if (row0) *(uint32_t *)(out + j * 8) = sc::pack2<T>(o[4 * j] * i0, o[4 * j + 1] * i0);
                if (row8) *(uint32_t *)(out + 8 * width + j * 8) = sc::pack2<T>(o[4 * j + 2] * i1, o[4 * j + 3] * i1);
            }
        } else if (real) {
            const size_t place = ((size_t)w.slot * GROUP + member) * SC_ATT_ROWS + row;
            float *out = p.partial + place * SC_ATT_DIM + 2 * t;
#pragma unroll
            for (int j = 0; j < 16; j++) {
                *(float2 *)(out + j * 8) = make_float2(o[4 * j], o[4 * j + 1]);
                *(float2 *)(out + 8 * SC_ATT_DIM + j * 8) = make_float2(o[4 * j + 2], o[4 * j + 3]);
            }
            if (t == 0) p.partial_ml[place] = make_float2(m0, l0), p.partial_ml[place + 8] = make_float2(m1, l1);
        }
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
            for (int reader = 0; reader <= GROUP; reader++) {
                barrier_init(smem_u32(&r.k_full[reader][s]), 1);
                barrier_init(smem_u32(&r.v_full[reader][s]), 1);
            }
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

/* ---- joining the pieces ------------------------------------------------------------------------------------------------- */

/* One CTA per (item of the tail, query block), 4 threads a row: out = sum of O 2^(m - top) / sum of l 2^(m - top). */
template <typename T> __global__ static void __launch_bounds__(256) attention_join_kernel(const __grid_constant__ sc_att_params p) {
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
        const float f = exp2_fast((ml.x - top) * p.scale_log2);
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

/* ---- launcher ----------------------------------------------------------------------------------------------------------- */

/* Whole rounds first. A last round that is nearly full stays whole too: cutting it would cost more than it gains. */
void sc_cuda_attention_cut(sc_att_params *p, int sm_count) {
    p->groups = (p->blocks + GROUP - 1) / GROUP;
    p->items = p->seqs * p->heads * p->groups;
    p->ctas = sm_count;
    p->waves = p->items / sm_count;
    int rest = p->items - p->waves * sm_count;
    if (rest * 16 >= sm_count * 15) p->waves++, rest = 0;
    p->tail_first = p->items - rest;
    p->tail_steps = 0;
    for (int i = p->tail_first; i < p->items; i++) p->tail_steps += p->seq[i / (p->heads * p->groups)].count;
    const int64_t pieces = p->tail_steps / 4; /* fewer than 4 pages a piece are not worth joining */
    p->tail_ctas = pieces < rest ? rest : pieces > sm_count ? sm_count : (int)pieces;
}

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
    const int ctas = p.waves ? p.ctas : p.tail_ctas;
    attention_kernel<T><<<ctas, THREADS, SMEM_BYTES, dev->stream>>>(p, k_map, v_map);
    if (p.items > p.tail_first)
        attention_join_kernel<T><<<dim3(p.items - p.tail_first, GROUP), 256, 0, dev->stream>>>(p);
    return sc_cuda_launched("attention", err);
}

sc_status sc_cuda_attention_hopper(struct sc_cuda *dev, const sc_att_params *args, const sc_pages *pages, sc_error *err) {
    sc_att_params p = *args;
    sc_cuda_attention_cut(&p, dev->sm_count);
    const size_t rows = (size_t)2 * (size_t)p.tail_ctas * GROUP * SC_ATT_ROWS;
    assert(rows * (SC_ATT_DIM * sizeof(float) + sizeof(float2)) <= dev->workspace_bytes);
    p.partial = (float *)dev->workspace;
    p.partial_ml = (float2 *)(p.partial + rows * SC_ATT_DIM);
    return dev->base.act == SC_F16 ? launch<__half>(dev, p, pages, err) : launch<__nv_bfloat16>(dev, p, pages, err);
}

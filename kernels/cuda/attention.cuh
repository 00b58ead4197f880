/* attention.cuh - what the two attention kernels and their launcher share: the arguments as a kernel takes them, and how the work
 * is cut.
 *
 * Work of the Hopper kernel. An *item* is GROUP neighbouring query blocks of one head of one sequence. Its *plan* names the slots
 * that any of them attends, once each, in order of age, with a bit for each block that does. A *step* is an entry of one block's list, and
 * lists are of one length for all blocks: first the `shared` ones (P, or everything when there is no list), which
 * are the plan's first entries too, then the blocks' own, to which the plan's other entries are taken to correspond evenly. Work is counted in
 * *cost*: a shared step brings one page for all blocks, an own one up to GROUP, and takes longer as measured (OWN_COST to SHARED_COST).
 * Items fill `waves` whole rounds of the grid; the items that remain are laid end to end, cost by cost, and cut into `tail_ctas` equal
 * ranges, so that no SM idles through a half-filled last round. A range begins and ends inside items, at the steps that its costs fall in: such
 * pieces leave their unfinished sums (f32 O, running maximum m, sum l) in the workspace, place 2 c for a piece that continues an item and 2 c + 1
 * for one that begins it, c the CTA, and a second small kernel joins them. */
#ifndef SC_KERNELS_CUDA_ATTENTION_CUH
#define SC_KERNELS_CUDA_ATTENTION_CUH
#include "kernels/cuda/cuda_common.cuh"

enum { SC_ATT_GROUP = 3, SC_ATT_ROWS = 64, SC_ATT_DIM = 128 };
enum { SC_ATT_TURNING_PAIRS = 32 }; /* of the Hopper kernel: the most channel pairs that turn with age */
enum { SC_ATT_SHARED_COST = 3, SC_ATT_OWN_COST = 5 };
enum { SC_ATT_CUT_MAX = 255 }; /* the most SMs that work is cut for */
enum { SC_ATT_SLOTS_MAX = 48 << 10 }; /* of the Hopper kernel: the most slots of a head */

struct sc_att_seq {
    const sc_kv_slot *slots;
    int slot_stride, persistent, window_base, window, count, shared;
    const int64_t *chunk_now;
};

struct sc_att_params {
    sc_att_seq seq[SC_MAX_BATCH];
    sc_age_rule age;
    const int32_t *start, *list;
    const void *q, *k, *v;
    void *out;
    int seqs, heads, head_dim, blocks, tokens, page_rows, list_stride;
    float scale, scale_log2; /* of q . k as q is stored */
    /* the Hopper kernel's cut */
    int groups, items, waves, ctas, tail_first, tail_ctas;
    int64_t tail_cost;
    struct { uint8_t first, count; } cut[SC_ATT_CUT_MAX]; /* of each item of the tail: the CTAs whose pieces it is in */
    int plan_stride;
    int32_t *plan;       /* [items][plan_stride]: slot << GROUP | bits */
    int32_t *plan_count; /* [items] */
    float *partial;   /* [2 * tail_ctas][GROUP][ROWS][DIM] */
    float2 *partial_ml; /* [2 * tail_ctas][GROUP][ROWS]; m as a power of two */
};

/* Slot index of entry `i` of the list of (sequence s, head, block). */
__device__ __forceinline__ int att_slot(const sc_att_params &p, int s, int head, int block, int i) {
    if (!p.list) return i < p.seq[s].persistent ? i : p.seq[s].window_base + i - p.seq[s].persistent;
    return __ldg(p.list + ((size_t)(s * p.heads + head) * p.blocks + block) * p.list_stride + i);
}

/* Where step `step` of an item lies in its plan of `planned` entries. */
__device__ __forceinline__ int att_plan_place(const sc_att_seq &seq, int step, int planned) {
    if (step <= seq.shared) return min(step, planned);
    if (step == seq.count) return planned;
    return seq.shared + (int)((int64_t)(step - seq.shared) * (planned - seq.shared) / (seq.count - seq.shared));
}

/* The cost of an item, and the step that cost x of it falls in: `count` for x the whole. */
__host__ __device__ __forceinline__ int att_item_cost(const sc_att_seq &seq) {
    return seq.shared * SC_ATT_SHARED_COST + (seq.count - seq.shared) * SC_ATT_OWN_COST;
}
__host__ __device__ __forceinline__ int att_step_at(const sc_att_seq &seq, int x) {
    const int own = x - seq.shared * SC_ATT_SHARED_COST;
    return own <= 0 ? x / SC_ATT_SHARED_COST : seq.shared + own / SC_ATT_OWN_COST;
}

/* Cost x of the tail: which item, and the cost before x inside it. */
__device__ __forceinline__ void att_locate(const sc_att_params &p, int64_t x, int *item, int *inside) {
    const int per_seq = p.heads * p.groups;
    for (int s = p.tail_first / per_seq; s < p.seqs; s++) {
        const int first = s * per_seq > p.tail_first ? s * per_seq : p.tail_first, cost = att_item_cost(p.seq[s]);
        const int64_t all = (int64_t)((s + 1) * per_seq - first) * cost;
        if (x < all) {
            *item = first + (int)(x / cost);
            *inside = (int)(x % cost);
            return;
        }
        x -= all;
    }
}
__host__ __device__ __forceinline__ int64_t att_tail_begin(const sc_att_params &p, int cta) { return p.tail_cost * cta / p.tail_ctas; }

sc_status sc_cuda_attention_hopper(struct sc_cuda *dev, const sc_att_params *p, const sc_pages *pages, sc_error *err);
sc_status sc_cuda_attention_mma(struct sc_cuda *dev, const sc_att_params *p, sc_error *err);
/* attention_cut.cu: sizes of groups, items, tail and plans; the plans' kernel; the join's, when the tail was cut. The last two launch. */
void sc_cuda_attention_cut(struct sc_att_params *p, int sm_count);
void sc_cuda_attention_plan(struct sc_cuda *dev, const sc_att_params *p);
void sc_cuda_attention_join(struct sc_cuda *dev, const sc_att_params *p);

#endif

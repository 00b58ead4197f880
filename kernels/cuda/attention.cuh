/* attention.cuh - what the two attention kernels and their launcher share: the arguments as a kernel takes them, and how the work
 * is cut.
 *
 * Work of the Hopper kernel. An *item* is GROUP query blocks of one head of one sequence; its *steps* are the entries of their
 * lists, all of one length: first the `shared` ones (P, or everything when there is no list), the same page for every block of
 * the head, then the blocks' own. Items fill `waves` whole rounds of the grid; the items that remain are laid end to end, step by
 * step, and cut into `tail_ctas` equal ranges, so that no SM idles through a half-filled last round. A range begins and ends
 * inside items: such pieces leave their unfinished sums (f32 O, running maximum m, sum l) in the workspace, place 2 c for a
 * piece that continues an item and 2 c + 1 for one that begins it, c the CTA, and a second small kernel joins them. */
#ifndef SC_KERNELS_CUDA_ATTENTION_CUH
#define SC_KERNELS_CUDA_ATTENTION_CUH
#include "kernels/cuda/cuda_common.cuh"

enum { SC_ATT_GROUP = 3, SC_ATT_ROWS = 64, SC_ATT_DIM = 128 };

struct sc_att_seq {
    const sc_kv_slot *slots;
    int slot_stride, persistent, window_base, count, shared;
    int64_t chunk_now;
};

struct sc_att_params {
    sc_att_seq seq[SC_MAX_BATCH];
    sc_age_rule age;
    const int32_t *start, *list;
    const void *q, *k, *v;
    void *out;
    int seqs, heads, head_dim, blocks, tokens, page_rows, list_stride;
    float scale, scale_log2;
    /* the Hopper kernel's cut */
    int groups, items, waves, ctas, tail_first, tail_ctas;
    int64_t tail_steps;
    float *partial;   /* [2 * tail_ctas][GROUP][ROWS][DIM] */
    float2 *partial_ml; /* [2 * tail_ctas][GROUP][ROWS] */
};

/* Slot index of entry `i` of the list of (sequence s, head, block). */
__device__ __forceinline__ int att_slot(const sc_att_params &p, int s, int head, int block, int i) {
    if (!p.list) return i < p.seq[s].persistent ? i : p.seq[s].window_base + i - p.seq[s].persistent;
    return __ldg(p.list + ((size_t)(s * p.heads + head) * p.blocks + block) * p.list_stride + i);
}

/* Step x of the tail: which item, and the step inside it. */
__host__ __device__ __forceinline__ void att_locate(const sc_att_params &p, int64_t x, int *item, int *step) {
    const int per_seq = p.heads * p.groups;
    for (int s = p.tail_first / per_seq; s < p.seqs; s++) {
        const int first = s * per_seq > p.tail_first ? s * per_seq : p.tail_first, n = p.seq[s].count;
        const int64_t steps = (int64_t)((s + 1) * per_seq - first) * n;
        if (x < steps) {
            *item = first + (int)(x / n);
            *step = (int)(x % n);
            return;
        }
        x -= steps;
    }
}
__host__ __device__ __forceinline__ int64_t att_tail_begin(const sc_att_params &p, int cta) { return p.tail_steps * cta / p.tail_ctas; }
/* The CTA whose range holds step x. */
__host__ __device__ __forceinline__ int att_tail_owner(const sc_att_params &p, int64_t x) {
    return (int)(((x + 1) * p.tail_ctas + p.tail_steps - 1) / p.tail_steps) - 1;
}

sc_status sc_cuda_attention_hopper(struct sc_cuda *dev, const sc_att_params *p, const sc_pages *pages, sc_error *err);
sc_status sc_cuda_attention_mma(struct sc_cuda *dev, const sc_att_params *p, sc_error *err);
void sc_cuda_attention_cut(struct sc_att_params *p, int sm_count);

#endif

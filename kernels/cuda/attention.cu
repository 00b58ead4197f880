/* attention.cu - persistent-block sparse attention: arguments checked and flattened, the kernel chosen, the rotations by age.
 *
 * Two kernels compute the same thing. attention_hopper.cu (wgmma, bulk tensor copies) takes heads of 128 channels, half of which at most turn
 * with age, on cards of compute capability 9.0; attention_mma.cu (mma.sync) takes the rest. SC_CUDA_PATH=mma in the environment forces the second. */
#include "kernels/cuda/attention.cuh"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct theta_list {
    double v[SC_MAX_ROPE_PAIRS];
};

/* One CTA per (digit, value), one thread per pair. */
__global__ static void age_table_kernel(float2 *table, theta_list theta, int pairs) {
    const int digit = blockIdx.x / SC_CUDA_AGE_BASE, value = blockIdx.x % SC_CUDA_AGE_BASE, i = threadIdx.x;
    double age = value;
    for (int d = 0; d < digit; d++) age *= SC_CUDA_AGE_BASE;
    double s = 0, c = 1;
    if (i < pairs) sincos(age * theta.v[i], &s, &c);
    table[(size_t)blockIdx.x * SC_MAX_ROPE_PAIRS + i] = make_float2((float)c, (float)s);
}

sc_status sc_cuda_attention_init(struct sc_cuda *dev, sc_error *err) {
    const char *path = getenv("SC_CUDA_PATH");
    const size_t bytes = (size_t)SC_CUDA_AGE_DIGITS * SC_CUDA_AGE_BASE * SC_MAX_ROPE_PAIRS * sizeof(float2);
    dev->age_pairs = -1;
    dev->force_mma = path && !strcmp(path, "mma");
    cudaError_t e = cudaMalloc((void **)&dev->age_table, bytes);
    return e == cudaSuccess ? SC_OK : sc_fail(err, SC_ENOMEM, "rotations by age: %s", cudaGetErrorString(e));
}

void sc_cuda_attention_destroy(struct sc_cuda *dev) {
    cudaFree(dev->age_table);
    dev->age_table = NULL;
}

sc_status sc_cuda_age_rule(struct sc_cuda *dev, const sc_rope *rope, sc_age_rule *out, sc_error *err) {
    assert(rope->frame_pairs >= 0 && rope->frame_pairs <= SC_MAX_ROPE_PAIRS);
    *out = sc_age_rule{(const float2 *)dev->age_table, rope->frame_pairs, rope->chunk_frames, rope->max_distance};
    const size_t bytes = (size_t)rope->frame_pairs * sizeof(double);
    if (dev->age_pairs == rope->frame_pairs && (!bytes || !memcmp(dev->age_theta, rope->theta, bytes))) return SC_OK;
    theta_list theta = {};
    if (bytes) memcpy(theta.v, rope->theta, bytes), memcpy(dev->age_theta, rope->theta, bytes);
    dev->age_pairs = rope->frame_pairs;
    age_table_kernel<<<SC_CUDA_AGE_DIGITS * SC_CUDA_AGE_BASE, SC_MAX_ROPE_PAIRS, 0, dev->stream>>>((float2 *)dev->age_table, theta,
                                                                                                  rope->frame_pairs);
    return sc_cuda_launched("rotations by age", err);
}

sc_status sc_cuda_attention(sc_device *device, const sc_attention_args *a, sc_error *err) {
    struct sc_cuda *dev = (struct sc_cuda *)device;
    sc_att_params p = {};
    assert(a->seqs >= 1 && a->seqs <= SC_MAX_BATCH && a->pages.page_rows <= SC_ATT_ROWS && a->pages.head_dim == a->head_dim);
    sc_status rc = sc_cuda_age_rule(dev, &a->rope, &p.age, err);
    if (rc) return rc;
    for (int s = 0; s < a->seqs; s++) {
        const sc_kv_view *view = &a->view[s];
        const int all = view->persistent + view->window, count = a->list ? a->list_count[s] : all;
        const int shared = a->list ? (view->persistent < count ? view->persistent : count) : all;
        assert(count >= 1);
        p.seq[s] = sc_att_seq{view->slots, view->slot_stride, view->persistent, view->window_base, view->window, count, shared, view->chunk_now};
    }
    p.start = a->blocks.start;
    p.list = a->list;
    p.list_stride = a->list_stride;
    p.q = a->q;
    p.k = a->pages.k;
    p.v = a->pages.v;
    p.out = a->out;
    p.seqs = a->seqs;
    p.heads = a->heads;
    p.head_dim = a->head_dim;
    p.blocks = a->blocks.blocks;
    p.tokens = a->blocks.tokens;
    p.page_rows = a->pages.page_rows;
    const double scale = 1.0 / sqrt((double)a->head_dim) / (double)sc_q_scale(a->q_scale);
    p.scale = (float)scale;
    p.scale_log2 = (float)(1.4426950408889634 * scale);
    bool hopper = dev->cc_major == 9 && a->head_dim == SC_ATT_DIM && a->rope.frame_pairs <= SC_ATT_TURNING_PAIRS && !dev->force_mma;
    for (int s = 0; s < a->seqs; s++) hopper = hopper && p.seq[s].window_base + p.seq[s].window <= SC_ATT_SLOTS_MAX;
    return hopper ? sc_cuda_attention_hopper(dev, &p, &a->pages, err) : sc_cuda_attention_mma(dev, &p, err);
}

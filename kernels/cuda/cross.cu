/* cross.cu - cross attention of picture tokens to the keys of a prompt; see mha.cuh for the kernel.
 *
 * A prompt of n tokens has n + 1 keys: the last stands for all equal padding rows and carries log of their number on its logit.
 * Sequences of different prompts run in one launch. Queries that are not normalised yet are so on their way, where clusters can do it
 * (mha.cuh) or only the weights are asked for (cross_weights.cuh), else by rms_norm in place.
 *
 * A fold is the products of o's rows, one head's part at a time, with the rows of v: the logits of an attention whose queries are o's rows. It
 * lies as the product wants it, [rows][heads * stride]. Thread: engine; asynchronous on the device's stream. */
#include "kernels/cuda/cross_weights.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/mha.cuh"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

using namespace sc;

/* The products of a fold, one launch. `aligned`: all rows stand at 16 bytes. */
static void multiply(struct sc_cuda *c, const mha_args *m, int head_dim, int heads, bool aligned) {
    switch (aligned && m->weights <= head_dim ? head_dim : 0) {
    case 128: SC_ACT_CALL(c->base.act, (mha_launch_tiles<T, 128, false, true, MHA_PRODUCTS>(c, m, heads, 1))); break;
    case 64: SC_ACT_CALL(c->base.act, (mha_launch_tiles<T, 64, false, true, MHA_PRODUCTS>(c, m, heads, 1))); break;
    case 32: SC_ACT_CALL(c->base.act, (mha_launch_tiles<T, 32, false, true, MHA_PRODUCTS>(c, m, heads, 1))); break;
    default: SC_ACT_CALL(c->base.act, (mha_plain_launch<T, false>(m, head_dim, heads, 1, c->stream, MHA_PRODUCTS)));
    }
}

/* The weights alone, one launch; head_dim 32, 64 or 128, all rows at 16 bytes. norm NULL: q is normalised. */
static void weigh(struct sc_cuda *c, const sc_cross_attention_args *a, const float *norm) {
    weights_args w = {};
    w.q = a->q, w.out = a->out, w.norm = norm, w.eps = a->eps;
    w.tokens = a->tokens, w.heads = a->heads, w.stride = a->weights;
    w.scale = 1.4426950408889634f / sqrtf((float)a->head_dim);
    for (int s = 0; s < a->seqs; s++) w.k[s] = a->k[s], w.n[s] = a->n[s], w.last_bias[s] = a->last_bias[s];
    switch (a->head_dim) {
    case 128: SC_ACT_CALL(c->base.act, (weights_launch<T, 128>(c, &w, a->seqs))); break;
    case 64: SC_ACT_CALL(c->base.act, (weights_launch<T, 64>(c, &w, a->seqs))); break;
    default: SC_ACT_CALL(c->base.act, (weights_launch<T, 32>(c, &w, a->seqs)));
    }
}

extern "C" int sc_cuda_fold_stride(sc_device *, const sc_matrix *o, int heads, int n) {
    const int stride = (n + 7) / 8 * 8;
    return stride <= SC_FOLD_MAX && 2 * heads * stride <= o->cols ? stride : 0;
}

extern "C" sc_status sc_cuda_fold_create(sc_device *, sc_matrix **out, const sc_matrix *o, void *memory, int cols, sc_error *err) {
    sc_matrix *m = *out = (sc_matrix *)calloc(1, sizeof *m);
    if (!m) return sc_fail(err, SC_ENOMEM, "matrix: out of memory");
    m->rows = o->rows, m->cols = cols;
    m->w = memory, m->bias_f32 = o->bias_f32, m->bias_act = o->bias_act;
    m->fold = true;
    return SC_OK;
}

extern "C" sc_status sc_cuda_fold(sc_device *dev, const sc_fold_args *a, sc_error *err) {
    mha_args m = {};
    assert(a->n >= 1 && a->n <= a->stride && a->stride <= SC_FOLD_MAX && a->stride % 8 == 0 && a->out->cols == a->heads * a->stride);
    m.q = a->o->w, m.out = a->out->w;
    m.k[0] = a->v, m.n[0] = a->n;
    m.ldq = m.ldk = a->o->cols, m.ldo = a->out->cols;
    m.tokens = a->o->rows, m.weights = a->stride;
    multiply((struct sc_cuda *)dev, &m, a->o->cols / a->heads, a->heads, (((uintptr_t)m.q | (uintptr_t)m.out | (uintptr_t)a->v) & 15) == 0);
    return sc_launched("fold", err);
}

extern "C" sc_status sc_cuda_cross_attention(sc_device *dev, const sc_cross_attention_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    assert(a->seqs >= 1 && a->seqs <= SC_MAX_BATCH);
    const int width = a->heads * a->head_dim;
    mha_args m = {};
    m.q = a->q, m.out = a->out;
    m.ldq = m.ldk = width;
    m.ldo = a->weights ? a->heads * a->weights : width;
    m.weights = a->weights;
    assert(a->weights >= 0 && a->weights <= SC_FOLD_MAX && a->weights % 8 == 0);
    m.tokens = a->tokens;
    m.scale = 1.0f / sqrtf((float)a->head_dim);
    for (int s = 0; s < a->seqs; s++) {
        assert(a->n[s] >= 1 && (!a->weights || a->n[s] <= a->weights));
        m.k[s] = a->k[s], m.v[s] = a->v[s], m.n[s] = a->n[s], m.last_bias[s] = a->last_bias[s];
    }
    bool aligned = (((uintptr_t)a->q | (uintptr_t)a->out) & 15) == 0;
    for (int s = 0; s < a->seqs; s++) aligned = aligned && (((uintptr_t)a->k[s] | (a->weights ? 0 : (uintptr_t)a->v[s])) & 15) == 0;
    const bool sized = a->head_dim == 128 || a->head_dim == 64 || a->head_dim == 32;
    const bool clusters = c->cc_major >= 9 && !c->force_mma && a->heads <= MHA_CLUSTER_MAX, one_cta = a->heads <= WEIGHTS_HEADS && ((uintptr_t)a->norm_q & 15) == 0;
    if (a->norm_q) {
        if (aligned && sized && (a->weights ? one_cta : clusters && ((uintptr_t)a->norm_q & 7) == 0)) m.norm = a->norm_q, m.eps = a->eps;
        else {
            const sc_rms_norm_args norm = {a->q, dev->act, width, a->q, dev->act, a->seqs * a->tokens, width, a->eps, a->norm_q};
            const sc_status rc = sc_cuda_rms_norm(dev, &norm, err);
            if (rc) return rc;
        }
    }
    if (a->weights) {
        if (aligned && sized) weigh(c, a, m.norm);
        else SC_ACT_CALL(dev->act, (mha_plain_launch<T, false>(&m, a->head_dim, a->heads, a->seqs, c->stream, MHA_WEIGHTS)));
        return sc_launched("cross_attention", err);
    }
    switch (aligned ? a->head_dim : 0) {
    case 128: SC_ACT_CALL(dev->act, (mha_launch<T, 128, false>(c, &m, a->heads, a->seqs))); break;
    case 64: SC_ACT_CALL(dev->act, (mha_launch<T, 64, false>(c, &m, a->heads, a->seqs))); break;
    case 32: SC_ACT_CALL(dev->act, (mha_launch<T, 32, false>(c, &m, a->heads, a->seqs))); break;
    default: SC_ACT_CALL(dev->act, (mha_plain_launch<T, false>(&m, a->head_dim, a->heads, a->seqs, c->stream)));
    }
    return sc_launched("cross_attention", err);
}

/* cross.cu - cross attention of picture tokens to the keys of a prompt; see mha.cuh for the kernel.
 *
 * A prompt of n tokens has n + 1 keys: the last stands for all equal padding rows and carries log of their number on its logit.
 * Sequences of different prompts run in one launch. Queries that are not normalised yet are so on their way, where clusters can do it
 * (mha.cuh), else by rms_norm in place. Thread: engine; asynchronous on the device's stream. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/mha.cuh"

#include <assert.h>
#include <math.h>

using namespace sc;

extern "C" sc_status sc_cuda_cross_attention(sc_device *dev, const sc_cross_attention_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    assert(a->seqs >= 1 && a->seqs <= SC_MAX_BATCH);
    const int width = a->heads * a->head_dim;
    mha_args m = {};
    m.q = a->q, m.out = a->out;
    m.ldq = m.ldk = m.ldo = width;
    m.tokens = a->tokens;
    m.scale = 1.0f / sqrtf((float)a->head_dim);
    for (int s = 0; s < a->seqs; s++) {
        assert(a->n[s] >= 1);
        m.k[s] = a->k[s], m.v[s] = a->v[s], m.n[s] = a->n[s], m.last_bias[s] = a->last_bias[s];
    }
    bool aligned = (((uintptr_t)a->q | (uintptr_t)a->out) & 15) == 0;
    for (int s = 0; s < a->seqs; s++) aligned = aligned && (((uintptr_t)a->k[s] | (uintptr_t)a->v[s]) & 15) == 0;
    if (a->norm_q) {
        const bool sized = a->head_dim == 128 || a->head_dim == 64 || a->head_dim == 32;
        if (aligned && sized && a->heads <= MHA_CLUSTER_MAX && ((uintptr_t)a->norm_q & 7) == 0 && c->cc_major >= 9 && !c->force_mma) m.norm = a->norm_q, m.eps = a->eps;
        else {
            const sc_rms_norm_args norm = {a->q, dev->act, width, a->q, dev->act, a->seqs * a->tokens, width, a->eps, a->norm_q};
            const sc_status rc = sc_cuda_rms_norm(dev, &norm, err);
            if (rc) return rc;
        }
    }
    switch (aligned ? a->head_dim : 0) {
    case 128: SC_ACT_CALL(dev->act, (mha_launch<T, 128, false>(c, &m, a->heads, a->seqs))); break;
    case 64: SC_ACT_CALL(dev->act, (mha_launch<T, 64, false>(c, &m, a->heads, a->seqs))); break;
    case 32: SC_ACT_CALL(dev->act, (mha_launch<T, 32, false>(c, &m, a->heads, a->seqs))); break;
    default: SC_ACT_CALL(dev->act, (mha_plain_launch<T, false>(&m, a->head_dim, a->heads, a->seqs, c->stream)));
    }
    return sc_launched("cross_attention", err);
}

/* text.cu - what the text encoder needs besides matrices and norms: attention with a relative bias, and rows of a table.
 *
 * Attention (mha.cuh): no scale, a bias by head and distance added to the logit, from a table in shared memory; real tokens only, no mask.
 * Gather: the token ids are host memory; they travel as kernel arguments, 512 at a time, so nothing is copied or waited for.
 * Thread: engine; asynchronous on the device's stream. */
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/mha.cuh"

#include <assert.h>
#include <string.h>

using namespace sc;

extern "C" sc_status sc_cuda_text_attention(sc_device *dev, const sc_text_attention_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    assert(a->n >= 1);
    mha_args m = {};
    m.q = a->q, m.k[0] = a->k, m.v[0] = a->v, m.out = a->out;
    m.ldq = m.ldk = a->ld;
    m.ldo = a->heads * a->head_dim;
    m.tokens = m.n[0] = a->n;
    m.bias = a->bias, m.reach = a->reach;
    m.scale = 1;
    const bool aligned = a->ld % 8 == 0 && (((uintptr_t)a->q | (uintptr_t)a->k | (uintptr_t)a->v | (uintptr_t)a->out) & 15) == 0;
    switch (aligned && (a->reach <= MHA_REACH_MAX || a->n <= MHA_REACH_MAX) ? a->head_dim : 0) {
    case 128: SC_ACT_CALL(dev->act, (mha_launch<T, 128, true>(c, &m, a->heads, 1))); break;
    case 64: SC_ACT_CALL(dev->act, (mha_launch<T, 64, true>(c, &m, a->heads, 1))); break;
    case 32: SC_ACT_CALL(dev->act, (mha_launch<T, 32, true>(c, &m, a->heads, 1))); break;
    case 16: SC_ACT_CALL(dev->act, (mha_launch<T, 16, true>(c, &m, a->heads, 1))); break;
    default: SC_ACT_CALL(dev->act, (mha_plain_launch<T, true>(&m, a->head_dim, a->heads, 1, c->stream)));
    }
    return sc_launched("text_attention", err);
}

enum { GATHER_ROWS = 512 };
typedef struct { int32_t row[GATHER_ROWS]; } gather_rows;

template <class T> __global__ static void gather_kernel(float *out, const T *table, int cols, const __grid_constant__ gather_rows rows) {
    const T *from = table + (size_t)rows.row[blockIdx.x] * cols;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) out[(size_t)blockIdx.x * cols + i] = to_float(from[i]);
}

extern "C" sc_status sc_cuda_gather(sc_device *dev, float *out, const sc_matrix *table, const int32_t *rows_host, int n, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    for (int at = 0; at < n; at += GATHER_ROWS) {
        const int count = n - at < GATHER_ROWS ? n - at : GATHER_ROWS;
        gather_rows rows;
        memcpy(rows.row, rows_host + at, (size_t)count * sizeof(int32_t));
        SC_ACT_CALL(dev->act, (gather_kernel<T><<<count, 128, 0, c->stream>>>(out + (size_t)at * table->cols, (const T *)table->w, table->cols, rows)));
    }
    return sc_launched("gather", err);
}

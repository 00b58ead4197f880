/* linear.cu - matrices on the card and their products, by cuBLASLt.
 *
 * y[m][rows] = x[m][cols] w^T is, column-major, D (rows x m) = W^T (stored cols x rows) X (cols x m): both operands as they lie.
 * Accumulation is f32. What the epilogue becomes:
 *   NONE, GELU        cuBLASLt's BIAS and GELU_BIAS (its GELU is the tanh one); a pass's GELU to bf16 by linear_hopper.cu, to f16 by a kernel behind
 *                     the product, exactly
 *   SILU              BIAS, then one elementwise kernel in place (small layers only)
 *   RESIDUAL          BIAS with C = D = the f32 stream, beta = 1
 *   GATED             y (bf16, or f32 for f16 models) to the workspace, then one kernel: out += gate[row_mod] * y. cuBLASLt has no
 *                     algorithm that scales D's rows by a vector and adds C
 *   GATED, then norm  the kernel that adds does the norm as well (norms.cu), where the row fits its registers. RESIDUAL has no use for that:
 *                     at 4680 x 1536 the product that adds and the norm take 44 + 15 us, the product and both in one kernel 34 + 29
 * Where cuBLASLt has nothing for a form it falls back to the next simpler one, at last to a plain kernel of our own.
 *
 * product.c chooses among cuBLASLt's algorithms.
 *
 * Workspace: the first SC_CUDA_LT_BYTES are cuBLASLt's, then y. Rows go in pieces when y does not fit.
 * Thread: engine; asynchronous on the device's stream, where the weights themselves arrive in order (upload.h). */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/upload.h"

#include <assert.h>
#include <stdlib.h>

using namespace sc;

enum { THREADS = 256 };

/* ---- weights ------------------------------------------------------------------------------------------------------------ */

template <class O, class I> __global__ static void cast_kernel(O *out, const I *in, size_t count) {
    const size_t stride = (size_t)gridDim.x * THREADS;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride) out[i] = from_float<O>(to_float(in[i]));
}

template <class O> static void cast(O *out, const void *in, sc_dtype type, size_t count, cudaStream_t stream) {
    const unsigned grid = (unsigned)(count / THREADS + 1 < 4096 ? count / THREADS + 1 : 4096);
    if (type == SC_F32) cast_kernel<O, float><<<grid, THREADS, 0, stream>>>(out, (const float *)in, count);
    else if (type == SC_F16) cast_kernel<O, __half><<<grid, THREADS, 0, stream>>>(out, (const __half *)in, count);
    else cast_kernel<O, __nv_bfloat16><<<grid, THREADS, 0, stream>>>(out, (const __nv_bfloat16 *)in, count);
}

/* Host values of any type to the card: to `act` and, unless NULL, to `f32`. Other types are converted there, a piece of the raw values at a time. */
static cudaError_t put(struct sc_cuda *c, void *act, float *f32, const void *host, sc_dtype type, size_t count) {
    const size_t wide = sc_dtype_bytes(type);
    void *raw = NULL;
    cudaError_t e;
    assert(type == SC_F32 || type == SC_F16 || type == SC_BF16);
    if (type == c->base.act && !f32) return sc_cuda_send(c, act, host, count * wide);
    e = sc_cuda_upload_raw(c, &raw);
    for (size_t at = 0, n; at < count && e == cudaSuccess; at += n) {
        n = count - at < SC_UPLOAD_RAW_BYTES / wide ? count - at : SC_UPLOAD_RAW_BYTES / wide;
        if ((e = sc_cuda_send(c, raw, (const char *)host + at * wide, n * wide)) != cudaSuccess) break;
        SC_ACT_CALL(c->base.act, cast<T>((T *)act + at, raw, type, n, c->stream));
        if (f32) cast<float>(f32 + at, raw, type, n, c->stream);
        e = cudaGetLastError();
    }
    return e;
}

extern "C" sc_status sc_cuda_matrix_create(sc_device *dev, sc_matrix **out, const sc_matrix_desc *d, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    sc_matrix *m = (sc_matrix *)calloc(1, sizeof *m);
    cudaError_t e;
    *out = NULL;
    assert(d->parts >= 1 && d->parts <= SC_MAX_PARTS && d->cols >= 1);
    if (!m) return sc_fail(err, SC_ENOMEM, "matrix: out of memory");
    m->cols = d->cols;
    for (int p = 0; p < d->parts; p++) m->rows += d->rows[p];
    e = cudaMalloc(&m->w, (size_t)m->rows * m->cols * 2);
    if (e == cudaSuccess) e = cudaMalloc((void **)&m->bias_f32, (size_t)m->rows * 4);
    if (e == cudaSuccess) e = cudaMalloc(&m->bias_act, (size_t)m->rows * 2);
    if (e == cudaSuccess) e = cudaMemsetAsync(m->bias_f32, 0, (size_t)m->rows * 4, c->stream);
    if (e == cudaSuccess) e = cudaMemsetAsync(m->bias_act, 0, (size_t)m->rows * 2, c->stream);
    for (int p = 0, row = 0; p < d->parts && e == cudaSuccess; row += d->rows[p], p++) {
        e = put(c, (char *)m->w + (size_t)row * m->cols * 2, NULL, d->data[p], d->type[p], (size_t)d->rows[p] * d->cols);
        if (e == cudaSuccess && d->bias[p]) e = put(c, (char *)m->bias_act + (size_t)row * 2, m->bias_f32 + row, d->bias[p], d->bias_type[p], d->rows[p]);
    }
    if (e != cudaSuccess) {
        sc_status rc = sc_fail(err, e == cudaErrorMemoryAllocation ? SC_ENOMEM : SC_EGPU, "matrix %d x %d: %s", m->rows, m->cols, cudaGetErrorString(e));
        if (e == cudaErrorMemoryAllocation) cudaGetLastError();
        sc_cuda_matrix_destroy(dev, m);
        return rc;
    }
    *out = m;
    return SC_OK;
}

extern "C" void sc_cuda_matrix_destroy(sc_device *, sc_matrix *m) {
    if (!m) return;
    sc_cuda_plans_clear(m);
    if (!m->fold) {
        cudaFree(m->w);
        cudaFree(m->bias_f32);
        cudaFree(m->bias_act);
    }
    free(m);
}

/* ---- kernels around the product ----------------------------------------------------------------------------------------- */

/* y += nothing, through an activation, in place. */
template <class O, bool GELU> __global__ static void activate_kernel(O *y, size_t count) {
    const size_t stride = (size_t)gridDim.x * THREADS;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride) {
        const float v = to_float(y[i]);
        y[i] = from_float<O>(GELU ? gelu_tanh(v) : silu(v));
    }
}

__global__ static void gelu_kernel(__half *out, const float *y, size_t count) {
    const size_t stride = (size_t)gridDim.x * THREADS;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride) out[i] = __float2half_rn(gelu_tanh(y[i]));
}

/* out[i][c] += gate[row_mod[i]][c] * y[i][c]; gate NULL: a plain residual. One CTA a row. */
template <class T> __global__ static void gated_add_kernel(float *out, const T *y, const float *gate, int stride, const int32_t *row_mod, int rows) {
    const size_t at = (size_t)blockIdx.x * rows;
    const float *g = gate ? gate + (size_t)(row_mod ? row_mod[blockIdx.x] : 0) * stride : NULL;
    if (rows % 4 == 0 && ((uintptr_t)g & 15) == 0) {
        for (int i = threadIdx.x * 4; i < rows; i += blockDim.x * 4) {
            float o[4], v[4], k[4] = {1, 1, 1, 1};
            load4<float>(o, out + at + i);
            load4<T>(v, y + at + i);
            if (g) load4<float>(k, g + i);
#pragma unroll
            for (int j = 0; j < 4; j++) o[j] += k[j] * v[j];
            store4<float>(out + at + i, o);
        }
    } else
        for (int i = threadIdx.x; i < rows; i += blockDim.x) out[at + i] += (g ? g[i] : 1.0f) * to_float(y[at + i]);
}

/* The last resort: one thread an output. */
template <class T, class O> __global__ static void plain_kernel(O *out, const T *x, const T *w, const float *bias, int rows, int cols) {
    const int n = blockIdx.x * THREADS + threadIdx.x;
    if (n >= rows) return;
    float sum = 0;
    for (int k = 0; k < cols; k++) sum += to_float(x[(size_t)blockIdx.y * cols + k]) * to_float(w[(size_t)n * cols + k]);
    out[(size_t)blockIdx.y * rows + n] = from_float<O>(sum + bias[n]);
}

/* ---- the operation ------------------------------------------------------------------------------------------------------ */

static unsigned flat_grid(size_t count) { return (unsigned)(count / THREADS + 1 < 8192 ? count / THREADS + 1 : 8192); }

/* out = x w^T + bias of out_type, by cuBLASLt or the plain kernel. */
static void affine(struct sc_cuda *c, sc_matrix *w, const void *x, void *out, sc_dtype out_type, int m) {
    if (sc_cuda_product(c, w, SC_FORM_BIAS, out_type, m, x, out)) return;
    const dim3 grid((w->rows + THREADS - 1) / THREADS, m);
    SC_ACT_CALL(c->base.act, {
        if (out_type == SC_F32) plain_kernel<T, float><<<grid, THREADS, 0, c->stream>>>((float *)out, (const T *)x, (const T *)w->w, w->bias_f32, w->rows, w->cols);
        else plain_kernel<T, T><<<grid, THREADS, 0, c->stream>>>((T *)out, (const T *)x, (const T *)w->w, w->bias_f32, w->rows, w->cols);
    });
}

template <bool GELU> static void activate(struct sc_cuda *c, void *y, sc_dtype type, size_t count) {
    if (type == SC_F32) activate_kernel<float, GELU><<<flat_grid(count), THREADS, 0, c->stream>>>((float *)y, count);
    else SC_ACT_CALL(c->base.act, (activate_kernel<T, GELU><<<flat_grid(count), THREADS, 0, c->stream>>>((T *)y, count)));
}

/* Residual through the workspace, in pieces of rows. y is rounded to the act type on its way, but not to f16: at 40, which the residual of
 * the pocket model reaches, that is an error of 0.016 and the blocks kept hang on it. */
static sc_status add_scaled(struct sc_cuda *c, sc_matrix *w, const sc_linear_args *a, const float *gate, sc_error *err) {
    const sc_dtype type = c->base.act == SC_F16 ? SC_F32 : c->base.act;
    const size_t y_at = SC_CUDA_LT_BYTES;
    const size_t room = (c->workspace_bytes - y_at) / ((size_t)w->rows * sc_dtype_bytes(type));
    void *y = (char *)c->workspace + y_at;
    bool normed = false;
    assert(room > 0);
    for (int at = 0, n; at < a->m; at += n) {
        n = (size_t)(a->m - at) < room ? a->m - at : (int)room;
        float *out = (float *)a->out + (size_t)at * w->rows;
        const int32_t *row_mod = a->row_mod ? a->row_mod + at : NULL;
        affine(c, w, (const char *)a->x + (size_t)at * w->cols * 2, y, type, n);
        if (a->then) {
            sc_layer_norm_args norm = *a->then;
            norm.x = out, norm.m = n;
            norm.out = (char *)norm.out + (size_t)at * w->rows * (norm.out_f32 ? 4 : 2);
            if (norm.row_mod) norm.row_mod += at;
            normed = sc_cuda_add_norm(c, y, type, gate, a->gate_stride, row_mod, &norm);
        }
        if (normed) continue;
        if (type == SC_F32) gated_add_kernel<float><<<n, 128, 0, c->stream>>>(out, (const float *)y, gate, a->gate_stride, row_mod, w->rows);
        else gated_add_kernel<__nv_bfloat16><<<n, 128, 0, c->stream>>>(out, (const __nv_bfloat16 *)y, gate, a->gate_stride, row_mod, w->rows);
    }
    return a->then && !normed ? sc_cuda_layer_norm(&c->base, a->then, err) : SC_OK;
}

/* GELU to f16 from an f32 y in the workspace, in pieces of rows: without the approximated tanh of cuBLASLt's epilogue the nearest tie of the pocket
 * vectors falls as in float32 (kernels/README.md). */
static void gelu_f16(struct sc_cuda *c, sc_matrix *w, const sc_linear_args *a) {
    float *y = (float *)((char *)c->workspace + SC_CUDA_LT_BYTES);
    const size_t room = (c->workspace_bytes - SC_CUDA_LT_BYTES) / ((size_t)w->rows * 4);
    assert(room > 0);
    for (int at = 0; at < a->m;) {
        const int n = (size_t)(a->m - at) < room ? a->m - at : (int)room;
        const size_t count = (size_t)n * w->rows;
        affine(c, w, (const char *)a->x + (size_t)at * w->cols * 2, y, SC_F32, n);
        gelu_kernel<<<flat_grid(count), THREADS, 0, c->stream>>>((__half *)a->out + (size_t)at * w->rows, y, count);
        at += n;
    }
}

extern "C" sc_status sc_cuda_linear(sc_device *dev, const sc_linear_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    sc_matrix *w = (sc_matrix *)a->w; /* the plans inside are the only thing that changes */
    const size_t count = (size_t)a->m * w->rows;
    sc_status rc = SC_OK;
    assert(a->out_type == SC_F32 || a->out_type == dev->act);
    assert(!a->then || (a->epilogue >= SC_EPI_RESIDUAL && a->then->x == a->out && a->then->m == a->m && a->then->dim == w->rows));
    if (a->m < 1) return SC_OK;
    switch (a->epilogue) {
    case SC_EPI_NONE: affine(c, w, a->x, a->out, a->out_type, a->m); break;
    case SC_EPI_GELU:
        if (a->out_type == SC_F16) gelu_f16(c, w, a);
        else if (a->out_type == SC_BF16 && sc_cuda_linear_gelu(c, w, a->x, a->out, a->m)) break;
        else if (!sc_cuda_product(c, w, SC_FORM_GELU, a->out_type, a->m, a->x, a->out)) {
            affine(c, w, a->x, a->out, a->out_type, a->m);
            activate<true>(c, a->out, a->out_type, count);
        }
        break;
    case SC_EPI_SILU:
        affine(c, w, a->x, a->out, a->out_type, a->m);
        activate<false>(c, a->out, a->out_type, count);
        break;
    case SC_EPI_RESIDUAL:
        assert(a->out_type == SC_F32);
        if (!sc_cuda_product(c, w, SC_FORM_ADD, SC_F32, a->m, a->x, a->out)) rc = add_scaled(c, w, a, NULL, err);
        else if (a->then) rc = sc_cuda_layer_norm(dev, a->then, err);
        break;
    case SC_EPI_GATED_RESIDUAL:
        assert(a->out_type == SC_F32 && a->gate);
        rc = add_scaled(c, w, a, a->gate, err);
        break;
    }
    return rc ? rc : sc_launched("linear", err);
}

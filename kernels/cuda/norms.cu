/* norms.cu - LayerNorm with modulation, RMSNorm, and the elementwise operations around them.
 *
 * Bound: bytes. A row of f32 is read once and kept in registers between the statistics and the output: one CTA of 128 threads a
 * row, VEC groups of four channels a thread (16-byte loads), VEC a template argument that the launcher picks from the width, so
 * that the row stays in registers. The variance is the mean of squared distances, from the registers, as the twin has it.
 * Widths that are no multiple of four, or wider than 6144, or unaligned operands take the plain kernels that read the row again.
 *
 *   bytes a row: layer_norm dim * (4 + 2), rms_norm dim * (2 + 2); the modulation rows stay in L2.
 * Thread: engine; asynchronous on the device's stream. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/fault.h"

#include <assert.h>

using namespace sc;

enum { ROW_THREADS = 128 };

template <class O, int VEC>
__global__ static void __launch_bounds__(ROW_THREADS) layer_norm_kernel(sc_layer_norm_args a) {
    __shared__ float part[2][ROW_THREADS / 32];
    const int row = blockIdx.x, groups = a.dim / 4;
    const float *x = a.x + (size_t)row * a.dim;
    O *out = (O *)a.out + (size_t)row * a.dim;
    float v[VEC][4], sum = 0, square = 0;
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        const int g = threadIdx.x + i * ROW_THREADS;
        if (g < groups) load4<float>(v[i], x + 4 * g);
        else v[i][0] = v[i][1] = v[i][2] = v[i][3] = 0;
        sum += (v[i][0] + v[i][1]) + (v[i][2] + v[i][3]);
    }
    const float mean = cta_sum<ROW_THREADS>(sum, part[0]) / a.dim;
#pragma unroll
    for (int i = 0; i < VEC; i++)
        if (threadIdx.x + i * ROW_THREADS < groups)
#pragma unroll
            for (int j = 0; j < 4; j++) square += (v[i][j] - mean) * (v[i][j] - mean);
    const float scale = 1.0f / sqrtf(cta_sum<ROW_THREADS>(square, part[1]) / a.dim + a.eps);
    const size_t mod = (size_t)(a.row_mod ? a.row_mod[row] : 0) * a.mod_stride;
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        const int g = threadIdx.x + i * ROW_THREADS;
        if (g >= groups) continue;
        float y[4], p[4], s[4];
#pragma unroll
        for (int j = 0; j < 4; j++) y[j] = (v[i][j] - mean) * scale;
        if (a.weight) {
            load4<float>(p, a.weight + 4 * g);
            if (a.bias) load4<float>(s, a.bias + 4 * g);
            else s[0] = s[1] = s[2] = s[3] = 0;
#pragma unroll
            for (int j = 0; j < 4; j++) y[j] = y[j] * p[j] + s[j];
        }
        if (a.scale) {
            load4<float>(p, a.scale + mod + 4 * g);
            load4<float>(s, a.shift + mod + 4 * g);
#pragma unroll
            for (int j = 0; j < 4; j++) y[j] = y[j] * (1.0f + p[j]) + s[j];
        }
        store4<O>(out + 4 * g, y);
    }
}

template <class O> __global__ static void __launch_bounds__(ROW_THREADS) layer_norm_plain(sc_layer_norm_args a) {
    __shared__ float part[2][ROW_THREADS / 32];
    const int row = blockIdx.x;
    const float *x = a.x + (size_t)row * a.dim;
    float sum = 0, square = 0;
    for (int c = threadIdx.x; c < a.dim; c += ROW_THREADS) sum += x[c];
    const float mean = cta_sum<ROW_THREADS>(sum, part[0]) / a.dim;
    for (int c = threadIdx.x; c < a.dim; c += ROW_THREADS) square += (x[c] - mean) * (x[c] - mean);
    const float scale = 1.0f / sqrtf(cta_sum<ROW_THREADS>(square, part[1]) / a.dim + a.eps);
    const size_t mod = (size_t)(a.row_mod ? a.row_mod[row] : 0) * a.mod_stride;
    for (int c = threadIdx.x; c < a.dim; c += ROW_THREADS) {
        float y = (x[c] - mean) * scale;
        if (a.weight) y = y * a.weight[c] + (a.bias ? a.bias[c] : 0.0f);
        if (a.scale) y = y * (1.0f + a.scale[mod + c]) + a.shift[mod + c];
        ((O *)a.out)[(size_t)row * a.dim + c] = from_float<O>(y);
    }
}

template <class X, class O, int VEC>
__global__ static void __launch_bounds__(ROW_THREADS) rms_norm_kernel(sc_rms_norm_args a) {
    __shared__ float part[ROW_THREADS / 32];
    const int row = blockIdx.x, groups = a.dim / 4;
    const X *x = (const X *)a.x + (size_t)row * a.ldx;
    O *out = (O *)a.out + (size_t)row * a.dim;
    float v[VEC][4], square = 0;
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        const int g = threadIdx.x + i * ROW_THREADS;
        if (g < groups) load4<X>(v[i], x + 4 * g);
        else v[i][0] = v[i][1] = v[i][2] = v[i][3] = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) square += v[i][j] * v[i][j];
    }
    const float scale = 1.0f / sqrtf(cta_sum<ROW_THREADS>(square, part) / a.dim + a.eps);
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        const int g = threadIdx.x + i * ROW_THREADS;
        if (g >= groups) continue;
        float w[4];
        load4<float>(w, a.weight + 4 * g);
#pragma unroll
        for (int j = 0; j < 4; j++) w[j] *= v[i][j] * scale;
        store4<O>(out + 4 * g, w);
    }
}

template <class X, class O> __global__ static void __launch_bounds__(ROW_THREADS) rms_norm_plain(sc_rms_norm_args a) {
    __shared__ float part[ROW_THREADS / 32];
    const X *x = (const X *)a.x + (size_t)blockIdx.x * a.ldx;
    float square = 0;
    for (int c = threadIdx.x; c < a.dim; c += ROW_THREADS) square += to_float(x[c]) * to_float(x[c]);
    const float scale = 1.0f / sqrtf(cta_sum<ROW_THREADS>(square, part) / a.dim + a.eps);
    for (int c = threadIdx.x; c < a.dim; c += ROW_THREADS)
        ((O *)a.out)[(size_t)blockIdx.x * a.dim + c] = from_float<O>(to_float(x[c]) * scale * a.weight[c]);
}

/* Every pointer that is not NULL lies on 16 bytes. */
static bool aligned16(const void *a, const void *b, const void *c, const void *d, const void *e, const void *f) {
    return (((uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d | (uintptr_t)e | (uintptr_t)f) & 15) == 0;
}

/* Groups of four a thread: the smallest of 1, 3, 8, 12 that holds the row, 0 for the plain kernel. */
static int vec_of(int dim, bool fits) {
    const int need = (dim / 4 + ROW_THREADS - 1) / ROW_THREADS;
    if (!fits || dim % 4 || need > 12) return 0;
    return need <= 1 ? 1 : need <= 3 ? 3 : need <= 8 ? 8 : 12;
}

template <class O> static void launch_layer_norm(const sc_layer_norm_args *a, cudaStream_t stream) {
    const bool fits = aligned16(a->x, a->out, a->weight, a->bias, a->shift, a->scale) && a->mod_stride % 4 == 0;
    switch (vec_of(a->dim, fits)) {
    case 1: layer_norm_kernel<O, 1><<<a->m, ROW_THREADS, 0, stream>>>(*a); break;
    case 3: layer_norm_kernel<O, 3><<<a->m, ROW_THREADS, 0, stream>>>(*a); break;
    case 8: layer_norm_kernel<O, 8><<<a->m, ROW_THREADS, 0, stream>>>(*a); break;
    case 12: layer_norm_kernel<O, 12><<<a->m, ROW_THREADS, 0, stream>>>(*a); break;
    default: layer_norm_plain<O><<<a->m, ROW_THREADS, 0, stream>>>(*a);
    }
}

template <class X, class O> static void launch_rms_norm(const sc_rms_norm_args *a, cudaStream_t stream) {
    const bool fits = aligned16(a->x, a->out, a->weight, NULL, NULL, NULL) && a->ldx % 8 == 0;
    switch (vec_of(a->dim, fits)) {
    case 1: rms_norm_kernel<X, O, 1><<<a->m, ROW_THREADS, 0, stream>>>(*a); break;
    case 3: rms_norm_kernel<X, O, 3><<<a->m, ROW_THREADS, 0, stream>>>(*a); break;
    case 8: rms_norm_kernel<X, O, 8><<<a->m, ROW_THREADS, 0, stream>>>(*a); break;
    case 12: rms_norm_kernel<X, O, 12><<<a->m, ROW_THREADS, 0, stream>>>(*a); break;
    default: rms_norm_plain<X, O><<<a->m, ROW_THREADS, 0, stream>>>(*a);
    }
}

extern "C" sc_status sc_cuda_layer_norm(sc_device *dev, const sc_layer_norm_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    if (a->m < 1) return SC_OK;
    if (a->out_f32) launch_layer_norm<float>(a, c->stream);
    else SC_ACT_CALL(dev->act, launch_layer_norm<T>(a, c->stream));
    return sc_launched("layer_norm", err);
}

extern "C" sc_status sc_cuda_rms_norm(sc_device *dev, const sc_rms_norm_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    assert((a->x_type == SC_F32 || a->x_type == dev->act) && (a->out_type == SC_F32 || a->out_type == dev->act));
    if (a->m < 1) return SC_OK;
    if (a->x_type == SC_F32 && a->out_type == SC_F32) launch_rms_norm<float, float>(a, c->stream);
    else if (a->x_type == SC_F32) SC_ACT_CALL(dev->act, (launch_rms_norm<float, T>(a, c->stream)));
    else if (a->out_type == SC_F32) SC_ACT_CALL(dev->act, (launch_rms_norm<T, float>(a, c->stream)));
    else SC_ACT_CALL(dev->act, (launch_rms_norm<T, T>(a, c->stream)));
    return sc_launched("rms_norm", err);
}

/* ---- elementwise -------------------------------------------------------------------------------------------------------- */

enum { FLAT_THREADS = 256 };
enum flat_op { FLAT_CONVERT, FLAT_SILU };

template <class T, int OP> __global__ static void from_f32_kernel(T *out, const float *x, size_t count) {
    const size_t stride = (size_t)gridDim.x * FLAT_THREADS;
    for (size_t i = (size_t)blockIdx.x * FLAT_THREADS + threadIdx.x; i < count; i += stride)
        out[i] = from_float<T>(OP == FLAT_SILU ? silu(x[i]) : x[i]);
}

template <class T> __global__ static void mul_gelu_kernel(T *out, const T *a, const T *b, size_t count) {
    const size_t stride = (size_t)gridDim.x * FLAT_THREADS, vectors = count / 8;
    for (size_t i = (size_t)blockIdx.x * FLAT_THREADS + threadIdx.x; i < vectors; i += stride) {
        float u[8], v[8];
        load8<T>(u, a + 8 * i);
        load8<T>(v, b + 8 * i);
#pragma unroll
        for (int j = 0; j < 8; j++) u[j] *= gelu_tanh(v[j]);
        store8<T>(out + 8 * i, u);
    }
    for (size_t i = 8 * vectors + (size_t)blockIdx.x * FLAT_THREADS + threadIdx.x; i < count; i += stride)
        out[i] = from_float<T>(to_float(a[i]) * gelu_tanh(to_float(b[i])));
}

__global__ static void add_rows_kernel(float *x, const float *table, const int32_t *row, int dim) {
    const float *from = table + (size_t)row[blockIdx.x] * dim;
    float *to = x + (size_t)blockIdx.x * dim;
    for (int c = threadIdx.x; c < dim; c += blockDim.x) to[c] += from[c];
}

static unsigned flat_grid(size_t items) {
    const size_t grid = (items + FLAT_THREADS - 1) / FLAT_THREADS;
    return (unsigned)(grid < 1 ? 1 : grid > 8192 ? 8192 : grid);
}

extern "C" sc_status sc_cuda_convert(sc_device *dev, void *out, const float *x, size_t count, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    SC_ACT_CALL(dev->act, (from_f32_kernel<T, FLAT_CONVERT><<<flat_grid(count), FLAT_THREADS, 0, c->stream>>>((T *)out, x, count)));
    return sc_launched("convert", err);
}

extern "C" sc_status sc_cuda_silu(sc_device *dev, void *out, const float *x, size_t count, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    SC_ACT_CALL(dev->act, (from_f32_kernel<T, FLAT_SILU><<<flat_grid(count), FLAT_THREADS, 0, c->stream>>>((T *)out, x, count)));
    return sc_launched("silu", err);
}

extern "C" sc_status sc_cuda_mul_gelu(sc_device *dev, void *out, const void *a, const void *b, size_t count, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    SC_ACT_CALL(dev->act, (mul_gelu_kernel<T><<<flat_grid(count / 8 + 8), FLAT_THREADS, 0, c->stream>>>((T *)out, (const T *)a, (const T *)b, count)));
    return sc_launched("mul_gelu", err);
}

extern "C" sc_status sc_cuda_add_rows(sc_device *dev, float *x, const float *table, const int32_t *row, int m, int dim, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    if (m > 0) add_rows_kernel<<<m, 256, 0, c->stream>>>(x, table, row, dim);
    return sc_launched("add_rows", err);
}

extern "C" cudaError_t sc_cuda_probe(cudaFuncAttributes *out) { return cudaFuncGetAttributes(out, add_rows_kernel); }

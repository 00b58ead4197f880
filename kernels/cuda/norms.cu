/* norms.cu - LayerNorm with modulation, alone or behind the addition to the residual, RMSNorm, and the elementwise operations around them.
 *
 * Bound: bytes. A row of f32 is read once and kept in registers between the statistics and the output: one CTA of 128 threads a
 * row, VEC groups of four channels a thread (16-byte loads), VEC a template argument that the launcher picks from the width, so
 * that the row stays in registers. The variance is the mean of squared distances, from the registers, as the twin has it.
 * Widths that are no multiple of four, or wider than 6144, or unaligned operands take the plain kernels that read the row again.
 *
 * The addition with the norm that follows has one thread for eight channels: what it adds, it keeps for the norm.
 *
 *   bytes a row: layer_norm dim * (4 + 2), rms_norm dim * (2 + 2), add_norm dim * (2 + 4 + 4 + 2); the modulation rows stay in L2.
 * Thread: engine; asynchronous on the device's stream. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/fault.h"
#include "kernels/cuda/launch.cuh"

#include <assert.h>

using namespace sc;

enum { ROW_THREADS = 128 };

template <class O, int VEC>
__global__ static void __launch_bounds__(ROW_THREADS) layer_norm_kernel(sc_layer_norm_args a) {
    stream_order();
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

/* x += gate * y, out = norm(x). */
struct add_norm_args {
    sc_layer_norm_args norm;
    const void *y;         /* [m][dim] */
    const float *gate;     /* or NULL: 1 */
    int gate_stride;
    const int32_t *gate_mod;
};

/* One CTA a row, VEC groups of eight channels a thread. */
template <class T, class O, int COUNT, int VEC>
__global__ static void __launch_bounds__(COUNT) add_norm_kernel(const __grid_constant__ add_norm_args a) {
    stream_order();
    __shared__ float part[2][COUNT / 32];
    const int row = blockIdx.x, groups = a.norm.dim / 8;
    const T *y = (const T *)a.y + (size_t)row * a.norm.dim;
    float *x = (float *)a.norm.x + (size_t)row * a.norm.dim;
    const float *gate = a.gate ? a.gate + (size_t)(a.gate_mod ? a.gate_mod[row] : 0) * a.gate_stride : NULL;
    float v[VEC][8], sum = 0, square = 0;
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        const int g = threadIdx.x + i * COUNT;
#pragma unroll
        for (int j = 0; j < 8; j++) v[i][j] = 0;
        if (g >= groups) continue;
        float add[8], k[8];
        load8<T>(add, y + 8 * g);
        load8<float>(v[i], x + 8 * g);
        if (gate) load8<float>(k, gate + 8 * g);
#pragma unroll
        for (int j = 0; j < 8; j++) sum += v[i][j] = gate ? v[i][j] + k[j] * add[j] : v[i][j] + add[j];
        store8<float>(x + 8 * g, v[i]);
    }
    const float mean = cta_sum<COUNT>(sum, part[0]) / a.norm.dim;
#pragma unroll
    for (int i = 0; i < VEC; i++)
        if (threadIdx.x + i * COUNT < groups)
#pragma unroll
            for (int j = 0; j < 8; j++) square += (v[i][j] - mean) * (v[i][j] - mean);
    const float scale = 1.0f / sqrtf(cta_sum<COUNT>(square, part[1]) / a.norm.dim + a.norm.eps);
    const size_t mod = (size_t)(a.norm.row_mod ? a.norm.row_mod[row] : 0) * a.norm.mod_stride;
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        const int g = threadIdx.x + i * COUNT;
        if (g >= groups) continue;
        float p[8], s[8];
#pragma unroll
        for (int j = 0; j < 8; j++) v[i][j] = (v[i][j] - mean) * scale;
        if (a.norm.weight) {
            load8<float>(p, a.norm.weight + 8 * g);
#pragma unroll
            for (int j = 0; j < 8; j++) s[j] = 0;
            if (a.norm.bias) load8<float>(s, a.norm.bias + 8 * g);
#pragma unroll
            for (int j = 0; j < 8; j++) v[i][j] = v[i][j] * p[j] + s[j];
        }
        if (a.norm.scale) {
            load8<float>(p, a.norm.scale + mod + 8 * g);
            load8<float>(s, a.norm.shift + mod + 8 * g);
#pragma unroll
            for (int j = 0; j < 8; j++) v[i][j] = v[i][j] * (1.0f + p[j]) + s[j];
        }
        store8<O>((O *)a.norm.out + (size_t)row * a.norm.dim + 8 * g, v[i]);
    }
}

template <class X, class O, int VEC>
__global__ static void __launch_bounds__(ROW_THREADS) rms_norm_kernel(sc_rms_norm_args a) {
    stream_order();
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

template <class O> static void launch_layer_norm(struct sc_cuda *c, const sc_layer_norm_args *a) {
    const bool fits = aligned16(a->x, a->out, a->weight, a->bias, a->shift, a->scale) && a->mod_stride % 4 == 0;
    switch (vec_of(a->dim, fits)) {
    case 1: launch(c, layer_norm_kernel<O, 1>, a->m, ROW_THREADS, 0, 0, *a); break;
    case 3: launch(c, layer_norm_kernel<O, 3>, a->m, ROW_THREADS, 0, 0, *a); break;
    case 8: launch(c, layer_norm_kernel<O, 8>, a->m, ROW_THREADS, 0, 0, *a); break;
    case 12: launch(c, layer_norm_kernel<O, 12>, a->m, ROW_THREADS, 0, 0, *a); break;
    default: layer_norm_plain<O><<<a->m, ROW_THREADS, 0, c->stream>>>(*a);
    }
}

template <class X, class O> static void launch_rms_norm(struct sc_cuda *c, const sc_rms_norm_args *a) {
    const bool fits = aligned16(a->x, a->out, a->weight, NULL, NULL, NULL) && a->ldx % 8 == 0;
    switch (vec_of(a->dim, fits)) {
    case 1: launch(c, rms_norm_kernel<X, O, 1>, a->m, ROW_THREADS, 0, 0, *a); break;
    case 3: launch(c, rms_norm_kernel<X, O, 3>, a->m, ROW_THREADS, 0, 0, *a); break;
    case 8: launch(c, rms_norm_kernel<X, O, 8>, a->m, ROW_THREADS, 0, 0, *a); break;
    case 12: launch(c, rms_norm_kernel<X, O, 12>, a->m, ROW_THREADS, 0, 0, *a); break;
    default: rms_norm_plain<X, O><<<a->m, ROW_THREADS, 0, c->stream>>>(*a);
    }
}

template <class T, class O> static void launch_add_norm(struct sc_cuda *c, const add_norm_args *a) {
    if (a->norm.dim <= 512) launch(c, add_norm_kernel<T, O, 64, 1>, a->norm.m, 64, 0, 0, *a);
    else if (a->norm.dim <= 1536) launch(c, add_norm_kernel<T, O, 192, 1>, a->norm.m, 192, 0, 0, *a);
    else launch(c, add_norm_kernel<T, O, 320, 2>, a->norm.m, 320, 0, 0, *a);
}

extern "C" bool sc_cuda_add_norm(struct sc_cuda *c, const void *y, sc_dtype y_type, const float *gate, int gate_stride, const int32_t *gate_mod,
                                 const sc_layer_norm_args *norm) {
    const add_norm_args a = {*norm, y, gate, gate_stride, gate_mod};
    assert(y_type == SC_F32 || (y_type == SC_BF16 && c->base.act == SC_BF16)); /* f16 models add in f32 */
    const bool fits = norm->dim % 8 == 0 && norm->dim <= 5120 && norm->mod_stride % 4 == 0 && (!gate || gate_stride % 4 == 0) && !norm->out_f32 &&
                      aligned16(norm->x, norm->out, norm->weight, norm->bias, norm->shift, norm->scale) && aligned16(y, gate, NULL, NULL, NULL, NULL);
    if (!fits) return false;
    if (y_type == SC_F32) SC_ACT_CALL(c->base.act, (launch_add_norm<float, T>(c, &a)));
    else launch_add_norm<__nv_bfloat16, __nv_bfloat16>(c, &a);
    return true;
}

extern "C" sc_status sc_cuda_layer_norm(sc_device *dev, const sc_layer_norm_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    if (a->m < 1) return SC_OK;
    if (a->out_f32) launch_layer_norm<float>(c, a);
    else SC_ACT_CALL(dev->act, launch_layer_norm<T>(c, a));
    return sc_launched("layer_norm", err);
}

extern "C" sc_status sc_cuda_rms_norm(sc_device *dev, const sc_rms_norm_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    assert((a->x_type == SC_F32 || a->x_type == dev->act) && (a->out_type == SC_F32 || a->out_type == dev->act));
    if (a->m < 1) return SC_OK;
    if (a->x_type == SC_F32 && a->out_type == SC_F32) launch_rms_norm<float, float>(c, a);
    else if (a->x_type == SC_F32) SC_ACT_CALL(dev->act, (launch_rms_norm<float, T>(c, a)));
    else if (a->out_type == SC_F32) SC_ACT_CALL(dev->act, (launch_rms_norm<T, float>(c, a)));
    else SC_ACT_CALL(dev->act, (launch_rms_norm<T, T>(c, a)));
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

/* Grid (pieces of a row, rows). VECTOR: eight channels a thread, else one. */
template <class T, bool VECTOR> __global__ static void mul_gelu_kernel(T *out, const T *x, int width) {
    stream_order();
    const int i = blockIdx.x * FLAT_THREADS + threadIdx.x;
    const T *gate = x + (size_t)blockIdx.y * 2 * width, *up = gate + width;
    out += (size_t)blockIdx.y * width;
    if (VECTOR) {
        if (8 * i >= width) return;
        float u[8], v[8];
        load8<T>(u, up + 8 * i);
        load8<T>(v, gate + 8 * i);
#pragma unroll
        for (int j = 0; j < 8; j++) u[j] *= gelu_tanh(v[j]);
        store8<T>(out + 8 * i, u);
    } else if (i < width) out[i] = from_float<T>(to_float(up[i]) * gelu_tanh(to_float(gate[i])));
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

extern "C" sc_status sc_cuda_mul_gelu(sc_device *dev, void *out, const void *x, int m, int width, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    const bool vector = width % 8 == 0 && aligned16(out, x, NULL, NULL, NULL, NULL);
    const int items = vector ? width / 8 : width;
    assert(m <= 65535);
    if (m < 1 || width < 1) return SC_OK;
    const dim3 grid((items + FLAT_THREADS - 1) / FLAT_THREADS, m);
    if (vector) SC_ACT_CALL(dev->act, (launch(c, mul_gelu_kernel<T, true>, grid, FLAT_THREADS, 0, 0, (T *)out, (const T *)x, width)));
    else SC_ACT_CALL(dev->act, (launch(c, mul_gelu_kernel<T, false>, grid, FLAT_THREADS, 0, 0, (T *)out, (const T *)x, width)));
    return sc_launched("mul_gelu", err);
}

extern "C" sc_status sc_cuda_add_rows(sc_device *dev, float *x, const float *table, const int32_t *row, int m, int dim, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    if (m > 0) add_rows_kernel<<<m, 256, 0, c->stream>>>(x, table, row, dim);
    return sc_launched("add_rows", err);
}

extern "C" cudaError_t sc_cuda_probe(cudaFuncAttributes *out) { return cudaFuncGetAttributes(out, add_rows_kernel); }

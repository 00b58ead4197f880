/* vae.cu - the Wan VAE's norm, its attention inside a frame, and the step from planes to channels last.
 *
 * channel_norm. A pixel belongs to a few neighbouring threads, up to 4 pieces of 8 channels each: 4 threads at 96 channels, 8 at 192, 16
 * at 384, three pieces every time. Gamma stays in registers while a thread walks over pixels. Bound: bytes, one reading and one
 * writing; 4.8 M pixels of 96 channels are 1.84 GB.
 *
 * frame_attention. One head as wide as the layer: scores = q k^T and out = p v by cuBLASLt, all frames in a batch, scores f32 and p act in
 * the workspace, as many query rows at a time as fit. Between them one kernel a row: maximum, sum, p = exp(s - maximum) / sum, rounded
 * once. 3 frames of 6240 pixels and 384 channels are 179 GFLOP and 0.7 GB of scores read and p written and read.
 * Where cuBLASLt has nothing for a shape, plain kernels multiply.
 * Thread: engine; asynchronous on the device's stream. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/cuda.h"

#include <assert.h>

using namespace sc;

enum { THREADS = 256 };
static const size_t LT_BYTES = (size_t)32 << 20; /* of the workspace, for cuBLASLt */

/* ---- channel_norm ------------------------------------------------------------------------------------------------------- */

/* LANES threads (a power of two up to 32) a pixel; piece p of a thread: channels (p * LANES + lane) * 8 .. */
template <class T, int PIECES, bool SILU> __global__ static void __launch_bounds__(THREADS) norm_kernel(T *out, const T *x, const float *gamma, size_t rows, int ch, int lanes) {
    const int lane = threadIdx.x % lanes;
    const float root = sqrtf((float)ch);
    float g[PIECES][8];
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        const int c = (p * lanes + lane) * 8;
#pragma unroll
        for (int i = 0; i < 8; i++) g[p][i] = c < ch ? gamma[c + i] * root : 0.0f;
    }
    const size_t stride = (size_t)gridDim.x * (THREADS / lanes), first = (size_t)blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes;
    const size_t rounds = (rows + stride - 1) / stride; /* the same for all threads of a warp: they add up together */
    for (size_t k = 0; k < rounds; k++) {
        const size_t row = first + k * stride;
        const T *from = x + row * ch;
        float v[PIECES][8], sum = 0;
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            const int c = (p * lanes + lane) * 8;
#pragma unroll
            for (int i = 0; i < 8; i++) v[p][i] = 0;
            if (row < rows && c < ch) load8<T>(v[p], from + c);
        }
#pragma unroll
        for (int p = 0; p < PIECES; p++)
#pragma unroll
            for (int i = 0; i < 8; i++) sum += v[p][i] * v[p][i];
        for (int o = lanes / 2; o; o /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
        const float scale = 1.0f / fmaxf(sqrtf(sum), 1e-12f);
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            const int c = (p * lanes + lane) * 8;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float y = v[p][i] * scale * g[p][i];
                v[p][i] = SILU ? __fdividef(y, 1.0f + __expf(-y)) : y;
            }
            if (row < rows && c < ch) store8<T>(out + row * ch + c, v[p]);
        }
    }
}

/* Any number of channels: one warp a pixel, read twice. */
template <class T> __global__ static void __launch_bounds__(THREADS) norm_any_kernel(sc_channel_norm_args a) {
    const size_t row = (size_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    if (row >= a.rows) return;
    const T *x = (const T *)a.x + row * a.ch;
    float sum = 0;
    for (int c = threadIdx.x % 32; c < a.ch; c += 32) sum += to_float(x[c]) * to_float(x[c]);
    const float scale = sqrtf((float)a.ch) / fmaxf(sqrtf(warp_sum(sum)), 1e-12f);
    for (int c = threadIdx.x % 32; c < a.ch; c += 32) {
        const float y = to_float(x[c]) * scale * a.gamma[c];
        ((T *)a.out)[row * a.ch + c] = from_float<T>(a.silu ? silu(y) : y);
    }
}

template <class T, bool SILU> static void norm_launch(const sc_channel_norm_args *a, int sm_count, cudaStream_t stream) {
    int lanes = 1;
    while (lanes < 32 && (a->ch / 8 + lanes - 1) / lanes > 4) lanes *= 2;
    const int pieces = (a->ch / 8 + lanes - 1) / lanes;
    const size_t ctas = (a->rows + THREADS / lanes - 1) / (THREADS / lanes), most = (size_t)sm_count * 16;
    const unsigned grid = (unsigned)(ctas < most ? ctas : most);
    T *out = (T *)a->out;
    const T *x = (const T *)a->x;
    if (a->ch % 8 || pieces > 4 || (((uintptr_t)a->x | (uintptr_t)a->out) & 15)) norm_any_kernel<T><<<(unsigned)((a->rows + THREADS / 32 - 1) / (THREADS / 32)), THREADS, 0, stream>>>(*a);
    else if (pieces == 1) norm_kernel<T, 1, SILU><<<grid, THREADS, 0, stream>>>(out, x, a->gamma, a->rows, a->ch, lanes);
    else if (pieces == 2) norm_kernel<T, 2, SILU><<<grid, THREADS, 0, stream>>>(out, x, a->gamma, a->rows, a->ch, lanes);
    else if (pieces == 3) norm_kernel<T, 3, SILU><<<grid, THREADS, 0, stream>>>(out, x, a->gamma, a->rows, a->ch, lanes);
    else norm_kernel<T, 4, SILU><<<grid, THREADS, 0, stream>>>(out, x, a->gamma, a->rows, a->ch, lanes);
}

extern "C" sc_status sc_cuda_channel_norm(sc_device *dev, const sc_channel_norm_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    if (!a->rows) return SC_OK;
    if (a->silu) SC_ACT_CALL(dev->act, (norm_launch<T, true>(a, c->sm_count, c->stream)));
    else SC_ACT_CALL(dev->act, (norm_launch<T, false>(a, c->sm_count, c->stream)));
    return sc_launched("channel_norm", err);
}

/* ---- frame_attention ---------------------------------------------------------------------------------------------------- */

/* One row of scores [frames][room][pixels] to p [frames][room][ldp]: softmax of s * scale. Grid: (rows, frames). */
template <class T> __global__ static void __launch_bounds__(THREADS) softmax_kernel(T *p, const float *s, int room, int pixels, int ldp, float scale) {
    __shared__ float part[2][THREADS / 32];
    const size_t row = (size_t)blockIdx.y * room + blockIdx.x;
    const float *from = s + row * ldp, base = scale * 1.44269504f;
    T *to = p + row * ldp;
    float top = -INFINITY, sum = 0;
    for (int i = threadIdx.x; i < pixels; i += THREADS) top = fmaxf(top, from[i]);
#pragma unroll
    for (int o = 16; o; o /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
    if (threadIdx.x % 32 == 0) part[0][threadIdx.x / 32] = top;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++) top = fmaxf(top, part[0][i]);
    for (int i = threadIdx.x; i < pixels; i += THREADS) sum += exp2f((from[i] - top) * base);
    sum = 1.0f / cta_sum<THREADS>(sum, part[1]);
    for (int i = threadIdx.x; i < ldp; i += THREADS) to[i] = from_float<T>(i < pixels ? exp2f((from[i] - top) * base) * sum : 0.0f);
}

/* d[frame][row][n] = sum over k of a[frame][row * lda + k] * b[frame][n * ldn + k * ldk]. */
template <class D, class T> __global__ static void multiply_kernel(D *d, size_t d_frame, int ldd, const T *a, size_t a_frame, int lda, const T *b, size_t b_frame, int ldn, int ldk, int n, int k) {
    const int col = blockIdx.x * THREADS + threadIdx.x;
    float sum = 0;
    if (col >= n) return;
    a += blockIdx.z * a_frame + (size_t)blockIdx.y * lda;
    b += blockIdx.z * b_frame + (size_t)col * ldn;
    for (int i = 0; i < k; i++) sum += to_float(a[i]) * to_float(b[(size_t)i * ldk]);
    d[blockIdx.z * d_frame + (size_t)blockIdx.y * ldd + col] = from_float<D>(sum);
}

typedef struct {
    const void *data;
    cudaDataType_t type;
    int rows, cols, ld;   /* column-major, as cuBLAS counts */
    size_t frame;         /* elements between frames */
} operand;

static bool layout(cublasLtMatrixLayout_t *out, const operand *m, int frames) {
    const int64_t stride = (int64_t)m->frame;
    const int32_t count = frames;
    return cublasLtMatrixLayoutCreate(out, m->type, m->rows, m->cols, m->ld) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride) == CUBLAS_STATUS_SUCCESS;
}

/* d = op(a) b for each frame, f32 inside; a transposed or not. False: cuBLASLt has nothing for it. */
static bool multiply(struct sc_cuda *c, bool transposed, const operand *a, const operand *b, const operand *d, int frames) {
    const cublasOperation_t op = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const float one = 1, zero = 0;
    cublasLtMatmulDesc_t desc = NULL;
    cublasLtMatrixLayout_t la = NULL, lb = NULL, ld = NULL;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t found;
    const uint32_t align = 2;
    int n = 0;
    bool ok = cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &op, sizeof op) == CUBLAS_STATUS_SUCCESS && layout(&la, a, frames) && layout(&lb, b, frames) &&
              layout(&ld, d, frames) && cublasLtMatmulPreferenceCreate(&preference) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &LT_BYTES, sizeof LT_BYTES) == CUBLAS_STATUS_SUCCESS;
    const uintptr_t low = (uintptr_t)a->data | (uintptr_t)b->data | (uintptr_t)d->data;
    if (ok && (low & 15)) { /* else it counts on 256 bytes, and the strides say the rest */
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align, sizeof align);
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align, sizeof align);
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align, sizeof align);
    }
    ok = ok && cublasLtMatmulAlgoGetHeuristic(c->lt, desc, la, lb, ld, ld, preference, 1, &found, &n) == CUBLAS_STATUS_SUCCESS && n == 1 &&
         cublasLtMatmul(c->lt, desc, &one, a->data, la, b->data, lb, &zero, (void *)d->data, ld, (void *)d->data, ld, &found.algo, c->workspace, LT_BYTES, c->stream) == CUBLAS_STATUS_SUCCESS;
    if (preference) cublasLtMatmulPreferenceDestroy(preference);
    if (la) cublasLtMatrixLayoutDestroy(la);
    if (lb) cublasLtMatrixLayoutDestroy(lb);
    if (ld) cublasLtMatrixLayoutDestroy(ld);
    if (desc) cublasLtMatmulDescDestroy(desc);
    return ok;
}

/* Query rows [first, first + rows) of `frames` frames. */
template <class T> static void attend(struct sc_cuda *c, const T *qkv, T *out, int frames, int pixels, int ch, int first, int rows, float *s, T *p, int ldp) {
    const cudaDataType_t act = c->base.act == SC_F16 ? CUDA_R_16F : CUDA_R_16BF;
    const int ld = 3 * ch;
    const size_t frame = (size_t)pixels * ld, room = (size_t)rows * ldp, out_frame = (size_t)pixels * ch;
    const T *q = qkv + (size_t)first * ld, *k = qkv + ch, *v = qkv + 2 * ch;
    T *to = out + (size_t)first * ch;
    /* column-major: scores^T (pixels x rows) = k^T (stored ch x pixels) . q (ch x rows); out^T (ch x rows) = v^T (ch x pixels) . p^T */
    const operand mk = {k, act, ch, pixels, ld, frame}, mq = {q, act, ch, rows, ld, frame}, ms = {s, CUDA_R_32F, pixels, rows, ldp, room};
    const operand mv = {v, act, ch, pixels, ld, frame}, mp = {p, act, pixels, rows, ldp, room}, mo = {to, act, ch, rows, ch, out_frame};
    if (!multiply(c, true, &mk, &mq, &ms, frames))
        multiply_kernel<float, T><<<dim3((pixels + THREADS - 1) / THREADS, rows, frames), THREADS, 0, c->stream>>>(s, room, ldp, q, frame, ld, k, frame, ld, 1, pixels, ch);
    softmax_kernel<T><<<dim3(rows, frames), THREADS, 0, c->stream>>>(p, s, rows, pixels, ldp, 1.0f / sqrtf((float)ch));
    if (!multiply(c, false, &mv, &mp, &mo, frames))
        multiply_kernel<T, T><<<dim3((ch + THREADS - 1) / THREADS, rows, frames), THREADS, 0, c->stream>>>(to, out_frame, ch, p, room, ldp, v, frame, 1, ld, ch, pixels);
}

extern "C" sc_status sc_cuda_frame_attention(sc_device *dev, const sc_frame_attention_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    const int ldp = (a->pixels + 7) / 8 * 8;
    const size_t room = (c->workspace_bytes - LT_BYTES) / 6 / 256 * 256; /* scores of f32 and as many p */
    const size_t frame = (size_t)a->pixels * ldp, fit = room / frame;
    float *s = (float *)((char *)c->workspace + LT_BYTES);
    void *p = s + room;
    assert((size_t)ldp <= room);
    if (a->n < 1 || a->pixels < 1) return SC_OK;
    const int frames = fit < 1 ? 1 : fit < (size_t)a->n ? (int)fit : a->n;                       /* at a time */
    const int rows = fit < 1 ? (int)(room / ldp < 65535 ? room / ldp : 65535) : a->pixels < 65535 ? a->pixels : 65535;
    for (int f = 0; f < a->n; f += frames)
        for (int first = 0; first < a->pixels; first += rows) {
            const int n = a->n - f < frames ? a->n - f : frames, m = a->pixels - first < rows ? a->pixels - first : rows;
            SC_ACT_CALL(dev->act, attend<T>(c, (const T *)a->qkv + (size_t)f * a->pixels * 3 * a->ch, (T *)a->out + (size_t)f * a->pixels * a->ch, n, a->pixels, a->ch, first, m, s, (T *)p, ldp));
        }
    return sc_launched("frame_attention", err);
}

/* ---- planes_in ---------------------------------------------------------------------------------------------------------- */

template <class T> __global__ static void planes_in_kernel(sc_planes_in_args a) {
    const size_t picture = (size_t)a.h * a.w, at = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= picture * a.n) return;
    const size_t frame = a.first + at / picture, p = at % picture;
    for (int c = 0; c < a.ch; c++) {
        const float x = a.planes[((size_t)c * a.frames + frame) * picture + p];
        ((T *)a.out)[at * a.ch + c] = from_float<T>(a.scale ? x * a.scale[c] + a.shift[c] : x);
    }
}

extern "C" sc_status sc_cuda_planes_in(sc_device *dev, const sc_planes_in_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    const size_t count = (size_t)a->n * a->h * a->w;
    assert(a->first >= 0 && a->first + a->n <= a->frames && !a->scale == !a->shift);
    if (count) SC_ACT_CALL(dev->act, (planes_in_kernel<T><<<(unsigned)((count + THREADS - 1) / THREADS), THREADS, 0, c->stream>>>(*a)));
    return sc_launched("planes_in", err);
}

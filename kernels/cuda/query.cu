/* query.cu - what is made once of the queries of cross attention, and of the keys of a short prompt, so that no query need be made (ops.h).
 *
 * The factor. With the columns of W = [w b], |W y|^2 = y^T (W^T W) y for y = (x, 1), and W^T W = U^T U with U upper triangular, by Cholesky:
 * U's rows are r and c, its corner's square is what the last column keeps that the others do not span, `rest`. The products of bf16 are summed in
 * double, and so is all that follows: a pivot that w does not have (its columns may depend on one another) comes out as noise of 1e-15, and is held
 * at 1e-7 of its column's square, as if that column had so much more of its own. r is rounded to bf16 at last, as w was.
 *   squares: blocks of 64 x 64 on and above the diagonal of W^T W, to the workspace
 *   64 columns at a time: `panel`, the factor of the diagonal block (every CTA makes it, nobody waits for another) and the rows right of it;
 *   then `squares` again, which takes these rows off what is below.
 * 50 launches and 2.3 ms a layer of 1536 channels on a H200 (squares 0.6, panels 24 times 0.05), most of them waiting for a CTA or two: while the
 * weights of the 30 layers come in, at 8 GB/s, it is not seen.
 *
 * Folded keys. a[h * stride + j] = sum over d of head h of w[d] norm[d] k[j][d]: keys to x itself. A CTA takes 64 columns of a head's rows of w,
 * a thread each, keys times norm in shared memory; rounded to bf16, in the rows that the product wants (matrix.h).
 *
 * Thread: engine; asynchronous on the device's stream. The product is query_hopper.cu's. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/matrix.h"

#include <assert.h>
#include <stdlib.h>

using namespace sc;

enum { BLOCK = 64, DEEP = 16, FACTOR_THREADS = 256, KEYS_THREADS = 64, COPY_ROWS = 16 };

/* ---- the factor --------------------------------------------------------------------------------------------------------- */

struct factor_args {
    const __nv_bfloat16 *w;
    const float *b;
    double *g;     /* [dim + BLOCK][dim + BLOCK]: column dim is b's */
    double *whole; /* [dim + BLOCK]: the squares of W's columns */
    __nv_bfloat16 *r;
    float *c, *rest;
    int dim;
};

/* Row k of W, column j. */
__device__ __forceinline__ double of_w(const factor_args &a, int k, int j) {
    return j < a.dim ? (double)to_float(a.w[(size_t)k * a.dim + j]) : j == a.dim ? (double)a.b[k] : 0.0;
}

/* A block of W^T W, or, with `rows` >= 0, what g's solved rows [rows, rows + BLOCK) take off it. Grid (block column, block row), counted from `first`. */
__global__ static void __launch_bounds__(FACTOR_THREADS) squares_kernel(const factor_args a, int rows, int first) {
    __shared__ double left[DEEP][BLOCK], right[DEEP][BLOCK];
    const int bi = first + blockIdx.y, bj = first + blockIdx.x, ld = a.dim + BLOCK, tx = threadIdx.x % 16 * 4, ty = threadIdx.x / 16 * 4;
    double sum[4][4] = {};
    if (bj < bi) return;
    for (int k0 = 0; k0 < (rows < 0 ? a.dim : BLOCK); k0 += DEEP) {
        __syncthreads();
        for (int i = threadIdx.x; i < DEEP * BLOCK; i += FACTOR_THREADS) {
            const int k = i / BLOCK, j = i % BLOCK;
            const double *row = a.g + (size_t)(rows + k0 + k) * ld;
            left[k][j] = rows < 0 ? of_w(a, k0 + k, bi * BLOCK + j) : row[bi * BLOCK + j];
            right[k][j] = rows < 0 ? of_w(a, k0 + k, bj * BLOCK + j) : row[bj * BLOCK + j];
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEEP; k++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] += left[k][ty + i] * right[k][tx + j];
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int r = bi * BLOCK + ty + i, c = bj * BLOCK + tx + j;
            double *at = a.g + (size_t)r * ld + c;
            if (rows >= 0) *at -= sum[i][j];
            else {
                *at = sum[i][j];
                if (r == c) a.whole[r] = sum[i][j];
            }
        }
}

/* Rows [k0, k0 + BLOCK) of the factor. CTA 0 leaves the diagonal block, CTA j > 0 the 64 columns j blocks right of it, in g too. */
__global__ static void __launch_bounds__(FACTOR_THREADS) panel_kernel(const factor_args a, int k0) {
    __shared__ double d[BLOCK][BLOCK], by[BLOCK]; /* the block, and what its rows are multiplied by */
    const int ld = a.dim + BLOCK, t = threadIdx.x, column = t % BLOCK;
    for (int i = t; i < BLOCK * BLOCK; i += FACTOR_THREADS) d[i / BLOCK][i % BLOCK] = a.g[(size_t)(k0 + i / BLOCK) * ld + k0 + i % BLOCK];
    for (int p = 0; p < BLOCK; p++) {
        __syncthreads();
        const double least = 1e-7 * a.whole[k0 + p], pivot = d[p][p] > least ? d[p][p] : least, inverse = pivot > 0 ? rsqrt(pivot) : 0.0;
        if (t == 0) by[p] = inverse;
        const double right = d[p][column] * inverse * inverse;
        for (int i = p + 1 + t / BLOCK; i < BLOCK; i += FACTOR_THREADS / BLOCK)
            if (column >= i) d[i][column] -= d[p][i] * right;
    }
    __syncthreads();
    if (blockIdx.x == 0) {
        for (int i = t; i < BLOCK * BLOCK; i += FACTOR_THREADS) {
            const int p = i / BLOCK, q = i % BLOCK;
            const double least = 1e-7 * a.whole[k0 + p], pivot = d[p][p] > least ? d[p][p] : least;
            a.r[(size_t)(k0 + p) * a.dim + k0 + q] = __float2bfloat16_rn(q < p ? 0.0f : q == p ? (float)sqrt(pivot) : (float)(d[p][q] * by[p]));
        }
        return;
    }
    if (t >= BLOCK) return;
    const int at = k0 + blockIdx.x * BLOCK + t;
    double x[BLOCK];
#pragma unroll
    for (int p = 0; p < BLOCK; p++) x[p] = a.g[(size_t)(k0 + p) * ld + at];
#pragma unroll
    for (int p = 0; p < BLOCK; p++) {
        x[p] *= by[p];
        const double y = by[p] * x[p];
#pragma unroll
        for (int q = p + 1; q < BLOCK; q++) x[q] -= d[p][q] * y;
    }
#pragma unroll
    for (int p = 0; p < BLOCK; p++) {
        a.g[(size_t)(k0 + p) * ld + at] = x[p];
        if (at < a.dim) a.r[(size_t)(k0 + p) * a.dim + at] = __float2bfloat16_rn((float)x[p]);
        else if (at == a.dim) a.c[k0 + p] = (float)x[p];
    }
}

__global__ static void rest_kernel(const factor_args a) {
    const double rest = a.g[(size_t)a.dim * (a.dim + BLOCK) + a.dim];
    *a.rest = rest > 0 ? (float)rest : 0.0f;
}

static void factorize(struct sc_cuda *c, const factor_args &a) {
    const int blocks = a.dim / BLOCK;
    squares_kernel<<<dim3(blocks + 1, blocks + 1), FACTOR_THREADS, 0, c->stream>>>(a, -1, 0);
    for (int k = 0; k < blocks; k++) {
        panel_kernel<<<blocks + 1 - k, FACTOR_THREADS, 0, c->stream>>>(a, k * BLOCK);
        squares_kernel<<<dim3(blocks - k, blocks - k), FACTOR_THREADS, 0, c->stream>>>(a, k * BLOCK, k + 1);
    }
    rest_kernel<<<1, 1, 0, c->stream>>>(a);
}

extern "C" sc_status sc_cuda_query_create(sc_device *dev, sc_query **out, const sc_matrix *q, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    const size_t dim = (size_t)q->cols, side = dim + BLOCK;
    *out = NULL;
    if (c->cc_major != 9 || c->force_mma || dev->act != SC_BF16 || q->rows != q->cols || dim % BLOCK || c->workspace_bytes < side * (side + 1) * sizeof(double)) return SC_OK;
    sc_query *m = (sc_query *)calloc(1, sizeof *m);
    if (!m) return sc_fail(err, SC_ENOMEM, "query: out of memory");
    m->q = q, m->dim = q->cols;
    cudaError_t e = cudaMalloc(&m->r, dim * dim * 2);
    if (e == cudaSuccess) e = cudaMalloc((void **)&m->c, (dim + 1) * sizeof(float));
    if (e == cudaSuccess) e = cudaMemsetAsync(m->r, 0, dim * dim * 2, c->stream);
    if (e == cudaSuccess) {
        m->rest = m->c + dim;
        factorize(c, {(const __nv_bfloat16 *)q->w, q->bias_f32, (double *)c->workspace, (double *)c->workspace + side * side, (__nv_bfloat16 *)m->r, m->c, m->rest, q->cols});
        e = cudaGetLastError();
    }
    if (e != cudaSuccess) {
        const sc_status rc = sc_fail(err, e == cudaErrorMemoryAllocation ? SC_ENOMEM : SC_EGPU, "query of %d: %s", q->cols, cudaGetErrorString(e));
        if (e == cudaErrorMemoryAllocation) cudaGetLastError();
        sc_cuda_query_destroy(dev, m);
        return rc;
    }
    *out = m;
    return SC_OK;
}

extern "C" void sc_cuda_query_destroy(sc_device *, sc_query *m) {
    if (!m) return;
    cudaFree(m->r);
    cudaFree(m->c);
    free(m);
}

/* ---- the keys ----------------------------------------------------------------------------------------------------------- */

struct keys_args {
    const __nv_bfloat16 *w, *k, *r;
    const float *b, *norm, *c;
    __nv_bfloat16 *keys;
    float *bias;  /* behind them */
    int dim, heads, head_dim, n, first; /* first: r's rows that fill the last tile */
};

/* Grid (columns / KEYS_THREADS, heads, and behind them groups of COPY_ROWS of r's rows). Shared: norm * k, f32 [head_dim][8 * EIGHTS]. */
template <int EIGHTS> __global__ static void __launch_bounds__(KEYS_THREADS) keys_kernel(const keys_args a) {
    enum { STRIDE = 8 * EIGHTS };
    extern __shared__ __align__(16) float scaled[];
    const int c = blockIdx.x * KEYS_THREADS + threadIdx.x, h = blockIdx.y, cols = a.heads * STRIDE;
    if (h >= a.heads) {
        const int from = (h - a.heads) * COPY_ROWS, to = min(from + COPY_ROWS, a.first);
        for (int r = from; r < to; r++) {
            a.keys[(size_t)(cols + r) * a.dim + c] = a.r[(size_t)r * a.dim + c];
            if (c == 0) a.bias[cols + r] = a.c[r];
        }
        return;
    }
    for (int d = threadIdx.x; d < a.head_dim; d += KEYS_THREADS) {
        const float norm = a.norm[h * a.head_dim + d];
#pragma unroll
        for (int j = 0; j < STRIDE; j++) scaled[d * STRIDE + j] = j < a.n ? to_float(a.k[(size_t)j * a.dim + h * a.head_dim + d]) * norm : 0.0f;
    }
    __syncthreads();
    if (blockIdx.x == 0 && threadIdx.x < STRIDE) {
        float sum = 0;
        for (int d = 0; d < a.head_dim; d++) sum += a.b[h * a.head_dim + d] * scaled[d * STRIDE + threadIdx.x];
        a.bias[h * STRIDE + threadIdx.x] = sum;
    }
    float sum[STRIDE] = {};
    const __nv_bfloat16 *w = a.w + (size_t)h * a.head_dim * a.dim + c;
#pragma unroll 16
    for (int d = 0; d < a.head_dim; d++) {
        const float x = to_float(w[(size_t)d * a.dim]);
#pragma unroll
        for (int j = 0; j < STRIDE; j += 4) {
            float k[4];
            load4<float>(k, scaled + d * STRIDE + j);
#pragma unroll
            for (int i = 0; i < 4; i++) sum[j + i] += x * k[i];
        }
    }
#pragma unroll
    for (int j = 0; j < STRIDE; j++) a.keys[(size_t)(h * STRIDE + j) * a.dim + c] = __float2bfloat16_rn(sum[j]);
}

template <int EIGHTS> static void fold_keys(struct sc_cuda *c, const keys_args &a) {
    const dim3 grid(a.dim / KEYS_THREADS, a.heads + (a.first + COPY_ROWS - 1) / COPY_ROWS);
    const size_t shared = (size_t)a.head_dim * 8 * EIGHTS * sizeof(float);
    if (shared > 48 * 1024) cudaFuncSetAttribute(keys_kernel<EIGHTS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    keys_kernel<EIGHTS><<<grid, KEYS_THREADS, shared, c->stream>>>(a);
}

extern "C" size_t sc_cuda_query_bytes(sc_device *, const sc_query *q, int heads, int stride) {
    return (size_t)sc_cuda_keys_rows(heads, stride) * ((size_t)q->dim * 2 + sizeof(float));
}

extern "C" sc_status sc_cuda_query_keys(sc_device *dev, const sc_query_keys_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    const sc_query *q = a->query;
    const int rows = sc_cuda_keys_rows(a->heads, a->stride);
    assert(a->n >= 1 && a->n <= a->stride && a->stride <= SC_FOLD_MAX && a->stride % 8 == 0 && q->dim % a->heads == 0);
    const keys_args k = {(const __nv_bfloat16 *)q->q->w, (const __nv_bfloat16 *)a->k, (const __nv_bfloat16 *)q->r, q->q->bias_f32, a->norm, q->c, (__nv_bfloat16 *)a->keys,
                         (float *)((__nv_bfloat16 *)a->keys + (size_t)rows * q->dim), q->dim, a->heads, q->dim / a->heads, a->n, sc_cuda_keys_first(q->dim, a->heads, a->stride)};
    switch (a->stride / 8) {
    case 1: fold_keys<1>(c, k); break;
    case 2: fold_keys<2>(c, k); break;
    case 3: fold_keys<3>(c, k); break;
    case 4: fold_keys<4>(c, k); break;
    case 5: fold_keys<5>(c, k); break;
    case 6: fold_keys<6>(c, k); break;
    case 7: fold_keys<7>(c, k); break;
    default: fold_keys<8>(c, k);
    }
    return sc_launched("query_keys", err);
}

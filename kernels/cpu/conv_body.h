/* conv_body.h - the inner loops of conv_kernels.h, written once over GCC vectors and compiled per instruction set.
 *
 * Before the include: LANES (floats of a vector register), ROWS (accumulator rows; 2 * ROWS + 3 registers are in use) and TABLE,
 * the name of the table that the file exports.
 *
 * Product: ROWS x 2 vectors of sums live in registers; a step of k loads two vectors of weights and broadcasts one value per
 * row, so ROWS + 2 loads feed 2 * ROWS fused multiply-adds: the multiplier is the bound, not the cache. Rows are dealt out
 * evenly (30 rows are 10 + 10 + 10, not 14 + 14 + 2). Every sum is one chain over k, whatever the number of rows.
 * Transforms: columns first into a small array, then rows; each step of a one-dimensional transform is a handful of
 * operations on whole vectors of channels. */
#include "kernels/cpu/conv_kernels.h"

#include <assert.h>
#include <string.h>

typedef float vf __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int vi __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

static inline vf load(const float *p) { return *(const vf *)p; }
static inline void store(float *p, vf v) { *(vf *)p = v; }

/* ---- product ------------------------------------------------------------------------------------------------------------ */

#define PART(R, NV, a, k)                                                                                                          \
    for (int i = 0; i < (k); i++, u += (NV) * LANES) {                                                                             \
        vf w[NV];                                                                                                                  \
        _Pragma("GCC unroll 2") for (int v = 0; v < (NV); v++) w[v] = load(u + v * LANES);                                          \
        _Pragma("GCC unroll 16") for (int r = 0; r < (R); r++) {                                                                    \
            const float x = (a)[(size_t)r * lda + (size_t)i];                                                                     \
            _Pragma("GCC unroll 2") for (int v = 0; v < (NV); v++) sum[r][v] += x * w[v];                                           \
        }                                                                                                                          \
    }

#define DEFINE(R, NV)                                                                                                              \
    static void product_##R##_##NV(float *m, const float *const *a, size_t skip, int parts, int k, size_t lda, const float *u) {    \
        vf sum[R][NV];                                                                                                             \
        _Pragma("GCC unroll 16") for (int r = 0; r < (R); r++)                                                                      \
            _Pragma("GCC unroll 2") for (int v = 0; v < (NV); v++) sum[r][v] = (vf){};                                              \
        for (int part = 0; part < parts; part++) {                                                                                 \
            const float *x0 = a[part] + skip;                                                                                      \
            PART(R, NV, x0, k)                                                                                                     \
        }                                                                                                                          \
        _Pragma("GCC unroll 16") for (int r = 0; r < (R); r++)                                                                      \
            _Pragma("GCC unroll 2") for (int v = 0; v < (NV); v++) store(m + (r * (NV) + v) * LANES, sum[r][v]);                    \
    }
#define BOTH(R) DEFINE(R, 1) DEFINE(R, 2)

typedef void (*product_fn)(float *m, const float *const *a, size_t skip, int parts, int k, size_t lda, const float *u);

BOTH(1) BOTH(2) BOTH(3) BOTH(4) BOTH(5) BOTH(6)
#if ROWS > 6
BOTH(7) BOTH(8) BOTH(9) BOTH(10) BOTH(11) BOTH(12) BOTH(13) BOTH(14)
#endif
static const product_fn products[ROWS + 1][2] = {
    {NULL, NULL}, {product_1_1, product_1_2}, {product_2_1, product_2_2}, {product_3_1, product_3_2}, {product_4_1, product_4_2},
    {product_5_1, product_5_2}, {product_6_1, product_6_2},
#if ROWS > 6
    {product_7_1, product_7_2}, {product_8_1, product_8_2}, {product_9_1, product_9_2}, {product_10_1, product_10_2},
    {product_11_1, product_11_2}, {product_12_1, product_12_2}, {product_13_1, product_13_2}, {product_14_1, product_14_2},
#endif
};

static void gemm(float *m, const float *const a[SC_CONV_PARTS], int parts, int k, size_t lda, const float *u, int rows, int width) {
    const int blocks = (rows + ROWS - 1) / ROWS, each = rows / blocks, more = rows % blocks;
    size_t skip = 0;
    for (int b = 0; b < blocks; b++) {
        const int r = each + (b < more);
        products[r][width / LANES - 1](m, a, skip, parts, k, lda, u);
        m += r * width;
        skip += (size_t)r * lda;
    }
}

/* ---- Winograd F(4x4, 3x3) ----------------------------------------------------------------------------------------------- */

#define A ((float)SC_WINO_A)
#define B ((float)SC_WINO_B)
#define A2 ((float)(SC_WINO_A * SC_WINO_A))
#define B2 ((float)(SC_WINO_B * SC_WINO_B))
#define A3 ((float)(SC_WINO_A * SC_WINO_A * SC_WINO_A))
#define B3 ((float)(SC_WINO_B * SC_WINO_B * SC_WINO_B))
#define SUM ((float)(SC_WINO_A * SC_WINO_A + SC_WINO_B * SC_WINO_B))

/* One column or row of B^T d: the polynomials of the six points, with a^2 b^2 = 1. */
static inline __attribute__((always_inline)) void transform_in(vf t[6], const vf d0, const vf d1, const vf d2, const vf d3, const vf d4, const vf d5) {
    const vf even_a = d4 - B2 * d2, odd_a = d3 - B2 * d1, even_b = d4 - A2 * d2, odd_b = d3 - A2 * d1;
    t[0] = d0 + (d4 - SUM * d2);
    t[1] = even_a + A * odd_a;
    t[2] = even_a - A * odd_a;
    t[3] = even_b + B * odd_b;
    t[4] = even_b - B * odd_b;
    t[5] = d1 + (d5 - SUM * d3);
}

/* One column or row of A^T m. */
static inline __attribute__((always_inline)) void transform_out(vf y[4], const vf m0, const vf m1, const vf m2, const vf m3, const vf m4, const vf m5) {
    const vf s1 = m1 + m2, d1 = m1 - m2, s2 = m3 + m4, d2 = m3 - m4;
    y[0] = m0 + (s1 + s2);
    y[1] = A * d1 + B * d2;
    y[2] = A2 * s1 + B2 * s2;
    y[3] = A3 * d1 + (B3 * d2 + m5);
}

/* Rows 0, 1, 2 of the transformed tile, then 3, 4, 5: 18 columns' values stay in registers, where all 36 would be written out and
 * read back; what is read twice is the input. */
static void wino_in(float *v, size_t stride, const float *const src[SC_WINO_POINTS], int channels) {
    for (int c = 0; c < channels; c += LANES) {
        vf col[6][3], t[6];
        float *to = v + c;
        _Pragma("GCC unroll 6") for (int j = 0; j < 6; j++) {
            const vf d0 = load(src[j] + c), d1 = load(src[6 + j] + c), d2 = load(src[12 + j] + c), d3 = load(src[18 + j] + c), d4 = load(src[24 + j] + c);
            transform_in(t, d0, d1, d2, d3, d4, d4);
            col[j][0] = t[0];
            col[j][1] = t[1];
            col[j][2] = t[2];
        }
        _Pragma("GCC unroll 3") for (int i = 0; i < 3; i++) {
            transform_in(t, col[0][i], col[1][i], col[2][i], col[3][i], col[4][i], col[5][i]);
            _Pragma("GCC unroll 6") for (int j = 0; j < 6; j++, to += stride) store(to, t[j]);
        }
        _Pragma("GCC unroll 6") for (int j = 0; j < 6; j++) {
            const vf d1 = load(src[6 + j] + c), d2 = load(src[12 + j] + c), d3 = load(src[18 + j] + c), d4 = load(src[24 + j] + c), d5 = load(src[30 + j] + c);
            transform_in(t, d1, d1, d2, d3, d4, d5);
            col[j][0] = t[3];
            col[j][1] = t[4];
            col[j][2] = t[5];
        }
        _Pragma("GCC unroll 3") for (int i = 0; i < 3; i++) {
            transform_in(t, col[0][i], col[1][i], col[2][i], col[3][i], col[4][i], col[5][i]);
            _Pragma("GCC unroll 6") for (int j = 0; j < 6; j++, to += stride) store(to, t[j]);
        }
    }
}

/* out = y + residual, relu, for the first `channels` lanes. */
static inline __attribute__((always_inline)) void finish_vector(float *out, vf y, const float *residual, int channels, bool relu) {
    if (residual) {
        vf r = {};
        if (channels >= LANES) r = load(residual);
        else memcpy(&r, residual, (size_t)channels * 4);
        y += r;
    }
    if (relu) y = (vf)((vi)y & ~(vi)(y < 0)); /* nan stays nan, as in the twin */
    if (channels >= LANES) store(out, y);
    else memcpy(out, &y, (size_t)channels * 4);
}

/* One vector of channels of a tile. The constants that callers pass make the common case, a tile and a vector within the picture,
 * free of branches. */
static inline __attribute__((always_inline)) void out_vector(const sc_wino_out_args *a, int c, int rows, int cols, int channels, const float *residual, bool relu) {
    const float *m = a->m + c;
    const vf bias = load(a->bias + c);
    vf col[6][4]; /* [column][row of the picture] */
    _Pragma("GCC unroll 6") for (int j = 0; j < 6; j++, m += a->stride)
        transform_out(col[j], load(m), load(m + 6 * a->stride), load(m + 12 * a->stride), load(m + 18 * a->stride), load(m + 24 * a->stride),
                      load(m + 30 * a->stride));
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
        vf y[4];
        if (i >= rows) break;
        transform_out(y, col[0][i], col[1][i], col[2][i], col[3][i], col[4][i], col[5][i]);
        _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
            const size_t at = (size_t)i * a->row + (size_t)j * a->pixel + (size_t)c;
            if (j < cols) finish_vector(a->out + at, y[j] + bias, residual ? residual + at : NULL, channels, relu);
        }
    }
}

static void wino_out(const sc_wino_out_args *a) {
    int c = 0;
    if (a->rows == 4 && a->cols == 4)
        for (; c + LANES <= a->channels; c += LANES) {
            if (a->residual && a->relu) out_vector(a, c, 4, 4, LANES, a->residual, true);
            else if (!a->residual && a->relu) out_vector(a, c, 4, 4, LANES, NULL, true);
            else if (!a->residual) out_vector(a, c, 4, 4, LANES, NULL, false);
            else out_vector(a, c, 4, 4, LANES, a->residual, false);
        }
    for (; c < a->channels; c += LANES) out_vector(a, c, a->rows, a->cols, a->channels - c, a->residual, a->relu);
}

/* ---- direct form -------------------------------------------------------------------------------------------------------- */

static void finish(float *out, const float *m, const float *bias, const float *residual, int channels, bool relu) {
    for (int c = 0; c < channels; c += LANES)
        finish_vector(out + c, load(m + c) + load(bias + c), residual ? residual + c : NULL, channels - c, relu);
}

const sc_conv_kernels TABLE = {.lanes = LANES, .panel = 2 * LANES, .gemm = gemm, .wino_in = wino_in, .wino_out = wino_out, .finish = finish};

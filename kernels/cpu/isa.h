/* isa.h - the inner loops, one set per instruction set: kernels_avx512.c, kernels_avx2.c, kernels_portable.c.
 *
 * All three compile the same body, kernels.inc, with another vector width and register tile. Only what is inside an item of the
 * thread pool is here; cutting operations into items is the caller's business. */
#ifndef SC_KERNELS_CPU_ISA_H
#define SC_KERNELS_CPU_ISA_H
#include "kernels/cpu/cpu.h"

enum { SC_TILE_ROWS_MAX = 16, SC_TILE_COLS_MAX = 64 };

/* Rows of keys and values seen by one tile of queries. */
typedef struct {
    const float *k, *v; /* rows of strides ldk, ldv */
    int rows;           /* 1..64 */
    int turn;           /* entry of sc_attend.turn for the queries, -1: none */
} sc_attend_keys;

/* Softmax attention of up to 64 queries of one head:
 *   out[i] = softmax_j(scale * turned(q[i]) . k[j] + extra) v[j]
 * extra: bias[j - i] when bias is given, last_bias on the very last key. */
typedef struct {
    const float *q; ptrdiff_t ldq;
    float *out; ptrdiff_t ldo;
    int queries, dim;
    float scale;
    const sc_attend_keys *keys;
    int lists;                 /* entries of keys */
    ptrdiff_t ldk, ldv;
    const float *turn;         /* [any][turn_pairs][2] cos, sin */
    int turn_pairs;
    float last_bias;
    const float *bias;         /* of key 0 and query 0, or NULL */
    int weights;               /* not 0, with one entry of keys: out[i] is the softmax itself, zeros up to so many */
    void *work;                /* sc_attend_work(dim) bytes, 64-byte aligned */
} sc_attend;

struct sc_isa_kernels {
    sc_isa isa;
    const char *name;
    int mr, nr; /* register tile */

    /* c[rows][nr] (+)= a . b: a(r, p) = a[r * rs + p * cs] with rs or cs 1, b row p at b + p * ldb. rows 1..mr. */
    void (*tile)(int rows, const float *a, ptrdiff_t rs, ptrdiff_t cs, const float *b, ptrdiff_t ldb, int k, float *c, ptrdiff_t ldc, bool accumulate);

    /* panel[p * nr + c] = f32 of the bf16 number p of row[c], c < nr, p < k: a packed panel out of rows as a file has them, at any address. */
    void (*widen)(float *panel, const void *const *row, int k);

    /* out[i] = epilogue(y[i] + bias[i]) of one row; gate for SC_EPI_GATED_RESIDUAL. y has room for whole vectors past n. */
    void (*epilogue)(sc_epilogue kind, float *out, const float *y, const float *bias, const float *gate, int n);

    /* One row each. weight, bias, shift, scale may be NULL as in ops.h. */
    void (*layer_norm)(float *out, const float *x, int n, float eps, const float *weight, const float *bias, const float *shift, const float *scale);
    void (*rms_norm)(float *out, const float *x, int n, float eps, const float *weight);

    /* out = x turned pair by pair by cs [dim / 2][2]; sum += out. */
    void (*rotate)(float *out, float *sum, const float *x, const float *cs, int dim);

    void (*mul_gelu)(float *out, const float *a, const float *b, size_t n);
    void (*silu)(float *out, const float *x, size_t n);
    float (*dot)(const float *a, const float *b, int n);
    void (*attend)(const sc_attend *a);
};

extern const sc_isa_kernels sc_kernels_avx512, sc_kernels_avx2, sc_kernels_portable;

/* The set for an ISA, NULL when this processor or build lacks it or the kernel withholds it. AMX: that of AVX-512. */
const sc_isa_kernels *sc_isa_find(sc_isa isa);

/* Bytes of sc_attend.work. */
size_t sc_attend_work(int dim);

#endif

/* matrix.h - the weight of a linear layer on the card, and its products. Shared by linear.cu, product.c, cross.cu (folds), query.cu and text.cu (gather). */
#ifndef SC_KERNELS_CUDA_MATRIX_H
#define SC_KERNELS_CUDA_MATRIX_H
#include "kernels/cuda/cuda.h"

/* What cuBLASLt needs for one shape of the other operand, and the algorithm that was chosen for it. Kept for the matrix's life. */
typedef struct {
    int m, epilogue, align;      /* key: rows of x, the form, alignment of the operands in bytes */
    sc_dtype out_type;
    bool found;                  /* false: cuBLASLt has nothing for it */
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algo;
} sc_cuda_plan;

enum { SC_CUDA_PLANS_MAX = 24 }; /* the oldest is replaced */

/* What was chosen for a shape, for all matrices of that shape: the layers of a model are alike. */
typedef struct {
    int rows, cols, m, epilogue, align;
    sc_dtype out_type;
    bool found;
    cublasLtMatmulAlgo_t algo;
} sc_cuda_choice;

enum { SC_CUDA_CHOICES_MAX = 1024 };
struct sc_cuda_choices { sc_cuda_choice choice[SC_CUDA_CHOICES_MAX]; int count, oldest; };

struct sc_matrix {
    int rows, cols;
    void *w;                /* act [rows][cols] */
    float *bias_f32;        /* [rows], zeros without a bias */
    void *bias_act;
    bool fold;              /* w is the caller's, the bias another matrix's (cross.cu) */
    sc_cuda_plan plan[SC_CUDA_PLANS_MAX];
    int plans, oldest;
};

/* What the queries of a cross attention are to folded keys (query.cu): |w x + b|^2 = |r x + c|^2 + rest, r upper triangular. */
struct sc_query {
    const sc_matrix *q;     /* w [dim][dim] and b */
    int dim;
    void *r;                /* bf16 [dim][dim] */
    float *c, *rest;        /* [dim], [1] */
};

enum { SC_CUDA_KEYS_TILE = 256 }; /* rows of the product that folded keys are a part of (query_hopper.cu) come by so many */

/* Folded keys of `heads` * `stride` columns: whole tiles [rows][dim] bf16, the rows past the keys being r's first ones, and behind them f32 [rows], what
 * is added to each. */
static inline int sc_cuda_keys_rows(int heads, int stride) { return (heads * stride + SC_CUDA_KEYS_TILE - 1) / SC_CUDA_KEYS_TILE * SC_CUDA_KEYS_TILE; }
/* How many of r's rows they are. */
static inline int sc_cuda_keys_first(int dim, int heads, int stride) {
    const int room = sc_cuda_keys_rows(heads, stride) - heads * stride;
    return room < dim ? room : dim;
}

#define SC_CUDA_LT_BYTES ((size_t)32 << 20) /* of the workspace, at its beginning: cuBLASLt's */

enum { SC_FORM_BIAS, SC_FORM_GELU, SC_FORM_ADD }; /* y = x w^T + bias; gelu(y); out + y, f32 */

#ifdef __cplusplus
extern "C" {
#endif
/* product.c: out [m][rows] of out_type from act x [m][cols] in one of the forms. False: cuBLASLt has nothing for it. What is behind its part of the
 * workspace may be written when a shape is seen for the first time. */
bool sc_cuda_product(struct sc_cuda *c, sc_matrix *w, int form, sc_dtype out_type, int m, const void *x, void *out);
void sc_cuda_plans_clear(sc_matrix *m);

/* linear_hopper.cu: out[m][rows] = gelu(x[m][cols] w^T + bias), all bf16. False, and nothing done: it has no kernel for this card, type or shape. */
bool sc_cuda_linear_gelu(struct sc_cuda *c, const sc_matrix *w, const void *x, void *out, int m);
#ifdef __cplusplus
}
#endif
#endif

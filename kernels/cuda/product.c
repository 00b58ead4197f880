/* product.c - a matrix's product by cuBLASLt: which of its algorithms.
 *
 * Per shape of the matrix, rows of x and form, kept (a choice, and a plan of each matrix, matrix.h). From TIMED_ROWS rows on, a pass's, the fastest of
 * the heuristic's first CANDIDATES, timed when the shape is first seen: for one stream while the model is opened. They take turns, ROUNDS times
 * without a pause, and their medians count: one after the other, a few calls each, the card's clock rose meanwhile and chose for them. Up to 512 rows, a
 * prompt's, the heuristic's first, and it is asked for the next of a few numbers of rows: a question, and the loading of a kernel never used
 * before, take milliseconds. Products cut along K are summed in f32.
 *
 * Thread: engine; asynchronous on the device's stream but for the timing, which waits. */
#include "kernels/cuda/matrix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CANDIDATES = 6, ROUNDS = 48, TIMED_ROWS = 1024 };

static void plan_clear(sc_cuda_plan *p) {
    if (p->a) cublasLtMatrixLayoutDestroy(p->a);
    if (p->b) cublasLtMatrixLayoutDestroy(p->b);
    if (p->d) cublasLtMatrixLayoutDestroy(p->d);
    if (p->desc) cublasLtMatmulDescDestroy(p->desc);
    memset(p, 0, sizeof *p);
}

static cudaDataType_t data_type(sc_dtype t) { return t == SC_F32 ? CUDA_R_32F : t == SC_F16 ? CUDA_R_16F : CUDA_R_16BF; }

/* What a call of cuBLASLt needs beside the plan. */
typedef struct {
    const void *x;
    void *out;
} product;

static bool multiply(struct sc_cuda *c, const sc_matrix *w, const sc_cuda_plan *p, const product *r) {
    const float one = 1, zero = 0;
    const float *beta = p->epilogue == SC_FORM_ADD ? &one : &zero;
    return cublasLtMatmul(c->lt, p->desc, &one, w->w, p->a, r->x, p->b, beta, r->out, p->d, r->out, p->d, &p->algo, c->workspace, SC_CUDA_LT_BYTES, c->stream) ==
           CUBLAS_STATUS_SUCCESS;
}

static int alignment(const void *a, const void *b) {
    const uintptr_t low = ((uintptr_t)a | (uintptr_t)b) & 255;
    return low ? (int)(low & (0 - low)) : 256;
}

static bool describe(struct sc_cuda *c, const sc_matrix *w, sc_cuda_plan *p) {
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cudaDataType_t act = data_type(c->base.act), out = data_type(p->out_type);
    const cublasLtEpilogue_t epilogue = p->epilogue == SC_FORM_GELU ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_BIAS;
    const void *bias = p->out_type == SC_F32 ? (const void *)w->bias_f32 : w->bias_act;
    bool ok = cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &out, sizeof out) == CUBLAS_STATUS_SUCCESS;
    return ok && cublasLtMatrixLayoutCreate(&p->a, act, w->cols, w->rows, w->cols) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&p->b, act, w->cols, p->m, w->cols) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutCreate(&p->d, out, w->rows, p->m, w->rows) == CUBLAS_STATUS_SUCCESS;
}

static bool same_shape(const sc_cuda_choice *k, const sc_matrix *w, const sc_cuda_plan *p) {
    return k->rows == w->rows && k->cols == w->cols && k->m == p->m && k->epilogue == p->epilogue && k->align == p->align && k->out_type == p->out_type;
}

static int by_value(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Marks on the stream: [0] before all products, [i] behind the i-th. False, and none is left: there are no more to be had. */
static bool make_marks(cudaEvent_t *mark, int n) {
    for (int i = 0; i < n; i++)
        if (cudaEventCreate(&mark[i]) != cudaSuccess) {
            while (i) cudaEventDestroy(mark[--i]);
            return false;
        }
    return true;
}

/* The candidate with the least median, the first that runs unless another one is faster by more than a measurement errs. ms NULL: that one. In place. */
static int fastest(float (*ms)[ROUNDS], const bool *runs, int n) {
    int chosen = 0;
    float best = INFINITY;
    for (int i = 0; i < n; i++) {
        if (!runs[i]) continue;
        if (!ms) return i;
        qsort(ms[i], ROUNDS, sizeof *ms[i], by_value);
        if (ms[i][ROUNDS / 2] < best * 0.99f) best = ms[i][ROUNDS / 2], chosen = i;
    }
    return chosen;
}

/* p->algo = the fastest of n candidates; the first where they cannot be timed. Writes to the workspace and waits. */
static void time_candidates(struct sc_cuda *c, const sc_matrix *w, sc_cuda_plan *p, const cublasLtMatmulHeuristicResult_t *candidate, int n, const void *x) {
    const product r = {x, (char *)c->workspace + SC_CUDA_LT_BYTES};
    cudaEvent_t mark[CANDIDATES * ROUNDS + 1];
    float ms[CANDIDATES][ROUNDS];
    int turn[CANDIDATES * ROUNDS], turns = 0; /* whose product stands before mark turns + 1 */
    bool runs[CANDIDATES], ok;
    if (n < 2 || (size_t)p->m * w->rows * sc_dtype_bytes(p->out_type) > c->workspace_bytes - SC_CUDA_LT_BYTES || !make_marks(mark, CANDIDATES * ROUNDS + 1)) return;
    for (int i = 0; i < n; i++) { /* the first call loads the kernel */
        p->algo = candidate[i].algo;
        runs[i] = candidate[i].state == CUBLAS_STATUS_SUCCESS && multiply(c, w, p, &r);
    }
    ok = cudaEventRecord(mark[0], c->stream) == cudaSuccess;
    for (int round = 0; round < ROUNDS; round++)
        for (int k = 0; k < n && ok; k++) {
            const int i = (k + round) % n;
            if (!runs[i]) continue;
            p->algo = candidate[i].algo;
            ok = multiply(c, w, p, &r) && cudaEventRecord(mark[turns + 1], c->stream) == cudaSuccess;
            turn[turns++] = i;
        }
    ok = ok && cudaEventSynchronize(mark[turns]) == cudaSuccess;
    int seen[CANDIDATES] = {0};
    for (int t = 0; t < turns && ok; t++) ok = cudaEventElapsedTime(&ms[turn[t]][seen[turn[t]]++], mark[t], mark[t + 1]) == cudaSuccess;
    p->algo = candidate[fastest(ok ? ms : NULL, runs, n)].algo;
    for (int i = 0; i < CANDIDATES * ROUNDS + 1; i++) cudaEventDestroy(mark[i]);
}

/* Fills p->found, p->algo of a plan that is described; x (act [p->m][w->cols]) for timings, or NULL. */
static void ask(struct sc_cuda *c, const sc_matrix *w, sc_cuda_plan *p, const void *x) {
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t best[CANDIDATES];
    const size_t room = SC_CUDA_LT_BYTES;
    const uint32_t align = (uint32_t)p->align, in_f32 = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    int n = 0;

    if (cublasLtMatmulPreferenceCreate(&preference) != CUBLAS_STATUS_SUCCESS) return;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &in_f32, sizeof in_f32);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align, sizeof align);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align, sizeof align);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align, sizeof align);
    if (cublasLtMatmulAlgoGetHeuristic(c->lt, p->desc, p->a, p->b, p->d, p->d, preference, x ? CANDIDATES : 1, best, &n) != CUBLAS_STATUS_SUCCESS) n = 0;
    cublasLtMatmulPreferenceDestroy(preference);
    if (n < 1 || best[0].state != CUBLAS_STATUS_SUCCESS) return;
    p->found = true;
    p->algo = best[0].algo;
    if (x) time_candidates(c, w, p, best, n, x);
}

/* Takes p->found, p->algo from the choices. False: nothing is known of its shape. */
static bool recall(const struct sc_cuda_choices *all, const sc_matrix *w, sc_cuda_plan *p) {
    for (int i = 0; all && i < all->count; i++)
        if (same_shape(&all->choice[i], w, p)) {
            p->found = all->choice[i].found, p->algo = all->choice[i].algo;
            return true;
        }
    return false;
}

static void remember(struct sc_cuda *c, const sc_matrix *w, const sc_cuda_plan *p) {
    if (!c->choices && !(c->choices = calloc(1, sizeof *c->choices))) return; /* asked again next time */
    struct sc_cuda_choices *all = c->choices;
    sc_cuda_choice *k = &all->choice[all->oldest];
    if (all->count < SC_CUDA_CHOICES_MAX) k = &all->choice[all->count++];
    else all->oldest = (all->oldest + 1) % SC_CUDA_CHOICES_MAX;
    *k = (sc_cuda_choice){w->rows, w->cols, p->m, p->epilogue, p->align, p->out_type, p->found, p->algo};
}

/* The number of rows that the heuristic is asked for. */
static int rounded_rows(int m) { return m > 512 ? m : m > 32 ? (m + 63) / 64 * 64 : m > 16 ? 32 : 16; }

/* Describes the plan; fills p->found, p->algo. */
static void choose(struct sc_cuda *c, const sc_matrix *w, sc_cuda_plan *p, const void *x) {
    sc_cuda_plan full = {0};
    cublasLtMatmulHeuristicResult_t check;
    if (!describe(c, w, p) || recall(c->choices, w, p)) return;
    full.m = rounded_rows(p->m), full.epilogue = p->epilogue, full.align = p->align, full.out_type = p->out_type;
    if (full.m != p->m) {
        if (!recall(c->choices, w, &full)) {
            if (describe(c, w, &full)) ask(c, w, &full, NULL);
            remember(c, w, &full);
        }
        if (full.found && cublasLtMatmulAlgoCheck(c->lt, p->desc, p->a, p->b, p->d, p->d, &full.algo, &check) == CUBLAS_STATUS_SUCCESS && check.workspaceSize <= SC_CUDA_LT_BYTES)
            p->found = true, p->algo = full.algo;
        plan_clear(&full);
    }
    if (!p->found) ask(c, w, p, p->m >= TIMED_ROWS ? x : NULL);
    remember(c, w, p);
}

bool sc_cuda_product(struct sc_cuda *c, sc_matrix *w, int form, sc_dtype out_type, int m, const void *x, void *out) {
    const int align = alignment(x, out);
    const product r = {x, out};
    sc_cuda_plan *p = NULL;
    for (int i = 0; i < w->plans && !p; i++) {
        sc_cuda_plan *q = &w->plan[i];
        if (q->m == m && q->epilogue == form && q->out_type == out_type && q->align == align) p = q;
    }
    if (!p) {
        if (w->plans < SC_CUDA_PLANS_MAX) p = &w->plan[w->plans++];
        else {
            p = &w->plan[w->oldest];
            w->oldest = (w->oldest + 1) % SC_CUDA_PLANS_MAX;
            plan_clear(p);
        }
        p->m = m, p->epilogue = form, p->out_type = out_type, p->align = align;
        choose(c, w, p, x);
    }
    return p->found && multiply(c, w, p, &r);
}

void sc_cuda_plans_clear(sc_matrix *m) {
    for (int i = 0; i < m->plans; i++) plan_clear(&m->plan[i]);
    m->plans = 0;
}

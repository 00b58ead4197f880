/* test_cuda_product.c - which of cuBLASLt's algorithms is taken (product.c), with a cuBLASLt and a clock of its own: needs no card.
 *
 * A candidate's number stands in its algorithm. A product takes its candidate's time over the card's clock, which rises from 40 % to all of it within 6 ms of
 * work, as a card's does that was idle. */
#include "kernels/cuda/product.c"

#include <stdio.h>

enum { MOST = 16 };

static struct {
    double now, took[MOST];     /* us */
    int fails, given;           /* a candidate whose product fails, -1: none; how many there are */
    int calls, questions, slow; /* slow: every so many-th product takes five times as long, 0: none */
    int marks, marks_made, no_marks_from;
} card;

static int checks, failures;

static void expect(bool ok, const char *what, int got) {
    checks++;
    if (ok) return;
    failures++;
    printf("  FAIL %s: %d\n", what, got);
}

/* ---- the card ----------------------------------------------------------------------------------------------------------- */

struct CUevent_st { double at; };

cudaError_t cudaEventCreate(cudaEvent_t *e) {
    if (++card.marks_made > card.no_marks_from) return cudaErrorMemoryAllocation;
    card.marks++;
    return (*e = calloc(1, sizeof **e)) ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    card.marks--;
    free(e);
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t stream) {
    (void)stream;
    e->at = card.now;
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) { return (void)e, cudaSuccess; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    *ms = (float)((to->at - from->at) * 1e-3);
    return cudaSuccess;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t lt, cublasLtMatmulDesc_t d, const void *alpha, const void *a, cublasLtMatrixLayout_t al, const void *b, cublasLtMatrixLayout_t bl,
                              const void *beta, const void *c, cublasLtMatrixLayout_t cl, void *out, cublasLtMatrixLayout_t dl, const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t bytes, cudaStream_t stream) {
    const int id = (int)algo->data[0];
    (void)lt, (void)d, (void)alpha, (void)a, (void)al, (void)b, (void)bl, (void)beta, (void)c, (void)cl, (void)out, (void)dl, (void)workspace, (void)bytes, (void)stream;
    if (id == card.fails) return CUBLAS_STATUS_NOT_SUPPORTED;
    card.calls++;
    const double clock = card.now > 6000 ? 1 : 0.4 + card.now / 10000, often = card.slow && card.calls % card.slow == 0 ? 5 : 1;
    card.now += card.took[id] * often / clock;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t lt, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t out, cublasLtMatmulPreference_t p, int wanted, cublasLtMatmulHeuristicResult_t r[], int *n) {
    (void)lt, (void)d, (void)a, (void)b, (void)c, (void)out, (void)p;
    card.questions++;
    *n = wanted < card.given ? wanted : card.given;
    for (int i = 0; i < *n; i++) r[i] = (cublasLtMatmulHeuristicResult_t){.algo = {{(uint64_t)i}}, .state = CUBLAS_STATUS_SUCCESS};
    return *n ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t lt, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                       cublasLtMatrixLayout_t out, const cublasLtMatmulAlgo_t *algo, cublasLtMatmulHeuristicResult_t *r) {
    (void)lt, (void)d, (void)a, (void)b, (void)c, (void)out;
    *r = (cublasLtMatmulHeuristicResult_t){.algo = *algo};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t c, cudaDataType_t t) { return *d = NULL, (void)c, (void)t, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { return (void)d, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, const void *v, size_t n) {
    return (void)d, (void)a, (void)v, (void)n, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType_t t, uint64_t rows, uint64_t cols, int64_t ld) {
    return *l = NULL, (void)t, (void)rows, (void)cols, (void)ld, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) { return (void)l, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) { return *p = NULL, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { return (void)p, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t a, const void *v, size_t n) {
    return (void)p, (void)a, (void)v, (void)n, CUBLAS_STATUS_SUCCESS;
}

/* ---- the choice --------------------------------------------------------------------------------------------------------- */

static struct sc_cuda device;
static char workspace[64]; /* nobody looks into it */

static void fresh(void) {
    free(device.choices);
    device = (struct sc_cuda){.base = {.act = SC_BF16}, .workspace = workspace, .workspace_bytes = (size_t)512 << 20};
    memset(&card, 0, sizeof card);
    card.fails = -1, card.given = CANDIDATES, card.no_marks_from = 1000;
    for (int i = 0; i < MOST; i++) card.took[i] = 200;
}

/* The number of the algorithm that a product of m rows takes; -1: there is none. */
static int taken(sc_matrix *w, int m) {
    static char x[256], out[256];
    if (!sc_cuda_product(&device, w, SC_FORM_BIAS, SC_BF16, m, x, out)) return -1;
    return (int)w->plan[w->plans - 1].algo.data[0];
}

static int taken_once(int m) {
    sc_matrix w = {.rows = 1536, .cols = 8960};
    const int id = taken(&w, m);
    sc_cuda_plans_clear(&w);
    return id;
}

int main(void) {
    int got;
    for (int best = 0; best < CANDIDATES; best++) { /* wherever it stands, the clock rising */
        fresh();
        card.took[best] = 180;
        got = taken_once(4680);
        expect(got == best && card.marks == 0, "the fastest of six", got);
        fresh();
        card.took[best] = 180, card.slow = 7;
        got = taken_once(4680);
        expect(got == best, "the fastest where some are disturbed", got);
        fresh();
        card.took[best] = 180, card.fails = best;
        got = taken_once(4680);
        expect(got == (best == 0), "the first that runs where the fastest fails", got);
    }
    fresh();
    card.took[3] = 199;
    got = taken_once(4680);
    expect(got == 0, "the first where another is hardly faster", got);
    for (int made = 0; made <= CANDIDATES * ROUNDS; made += 9) {
        fresh();
        card.took[2] = 100, card.no_marks_from = made;
        got = taken_once(4680);
        expect(got == 0 && card.marks == 0, "the first where there are no marks, and none is left", got);
    }
    fresh();
    card.given = 0;
    got = taken_once(4680);
    expect(got == -1, "none where the heuristic knows none", got);
    fresh();
    card.given = 1;
    got = taken_once(4680);
    expect(got == 0 && card.calls == 1, "one is not timed", card.calls);

    fresh(); /* kept: for the matrix, and for another one of its shape */
    card.took[4] = 150;
    sc_matrix w[2] = {{.rows = 1536, .cols = 8960}, {.rows = 1536, .cols = 8960}};
    got = taken(&w[0], 4680);
    expect(got == 4, "the fastest", got);
    const int calls = card.calls;
    got = taken(&w[0], 4680);
    expect(got == 4 && taken(&w[1], 4680) == 4 && card.calls == calls + 2 && card.questions == 1, "known", card.calls - calls);
    got = taken(&w[0], 40);
    expect(got == 0 && card.calls == calls + 3, "a prompt's rows are not timed", card.calls - calls);
    expect(taken(&w[0], 41) == 0 && card.questions == 2, "one question for a range of rows", card.questions);
    for (int i = 0; i < 2; i++) sc_cuda_plans_clear(&w[i]);
    free(device.choices);
    printf("%d checks, %d failed\n", checks, failures);
    return failures != 0;
}

/* linear_bench.c - the products of a layer of Wan-1.3B on the card, each with what follows it, against cuBLASLt in one run. Ours is linear_hopper.cu, for GELU;
 * the other lines have cuBLASLt on both sides, what they differ by is the run's noise.
 *
 *   linear_bench [rows of x, default 4680]
 *
 * A line a product: microseconds of both, their ratio, and TFLOP/s of ours. Each is asked for without a pause for HEAT ms, then timed for HEAT ms more: by
 * then its clock is the one that the card's power allows for it, as in a stream. Random weights and activations. */
#include "tests/cuda/cuda_check.h"

#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda.h"

enum { RUN = 40, HEAT = 250, DIM = 1536, FFN = 8960 };

/* us of RUN launches in a row, divided. */
static float run_us(const sc_linear_args *a, cudaEvent_t from, cudaEvent_t to) {
    struct sc_cuda *c = (struct sc_cuda *)cuda;
    float ms = 0;
    cudaEventRecord(from, c->stream);
    for (int i = 0; i < RUN; i++) MUST(cuda->ops->linear(cuda, a, &check_err));
    cudaEventRecord(to, c->stream);
    if (cudaEventSynchronize(to) != cudaSuccess || cudaEventElapsedTime(&ms, from, to) != cudaSuccess) exit(1);
    return ms * 1000 / RUN;
}

/* us of one linear; `own` false: the card is said to be an older one, so that cuBLASLt has it. */
static float time_us(const sc_linear_args *a, bool own) {
    struct sc_cuda *c = (struct sc_cuda *)cuda;
    const int cc = c->cc_major;
    cudaEvent_t from, to;
    float spent = 0, sum = 0;
    int runs = 0;
    if (cudaEventCreate(&from) != cudaSuccess || cudaEventCreate(&to) != cudaSuccess) exit(1);
    if (!own) c->cc_major = 8;
    while (spent < 2 * HEAT) {
        const float us = run_us(a, from, to);
        if (spent >= HEAT) sum += us, runs++;
        spent += us * RUN / 1000;
    }
    c->cc_major = cc;
    cudaEventDestroy(from), cudaEventDestroy(to);
    return sum / (float)runs;
}

static void *filled(size_t n, sc_dtype type, float scale) {
    void *dev;
    float *x = malloc(n * 4);
    for (size_t i = 0; i < n; i++) x[i] = normal_number() * scale;
    void *narrow = narrowed(x, n, type);
    MUST(cuda->ops->alloc(cuda, &dev, n * sc_dtype_bytes(type), &check_err));
    MUST(cuda->ops->upload(cuda, dev, narrow, n * sc_dtype_bytes(type), &check_err));
    free(x), free(narrow);
    return dev;
}

int main(int argc, char **argv) {
    static const struct { const char *name; int rows, cols; sc_epilogue epilogue; bool then; } product[] = {
        {"q k v", 3 * DIM, DIM, SC_EPI_NONE, false}, {"cross q", DIM, DIM, SC_EPI_NONE, false}, {"o, gated, norm", DIM, DIM, SC_EPI_GATED_RESIDUAL, true},
        {"cross o, added, norm", DIM, DIM, SC_EPI_RESIDUAL, true}, {"up, no GELU", FFN, DIM, SC_EPI_NONE, false}, {"up, GELU", FFN, DIM, SC_EPI_GELU, false},
        {"down, gated, norm", DIM, FFN, SC_EPI_GATED_RESIDUAL, true}};
    const int m = argc > 1 ? atoi(argv[1]) : 4680;
    float total[2] = {0, 0};
    if (m < 1 || m > 100000) return fprintf(stderr, "linear_bench: rows between 1 and 100000\n"), 2;
    if (sc_device_open(&cuda, "cuda", 0, SC_BF16, &check_err)) return printf("SKIPPED: %s\n", check_err.text), 77;
    void *x = filled((size_t)m * FFN, SC_BF16, 1), *y, *norm;
    float *mod = filled(3 * DIM, SC_F32, 1e-3f), *stream = filled((size_t)m * DIM, SC_F32, 1);
    MUST(cuda->ops->alloc(cuda, &y, (size_t)m * FFN * 2, &check_err));
    MUST(cuda->ops->alloc(cuda, &norm, (size_t)m * DIM * 2, &check_err));
    printf("%-22s %10s %10s %7s %9s   (%d rows)\n", "product", "cuBLASLt", "own", "ratio", "TFLOP/s", m);
    for (size_t i = 0; i < sizeof product / sizeof *product; i++) {
        const int rows = product[i].rows, cols = product[i].cols;
        const bool adds = product[i].epilogue >= SC_EPI_RESIDUAL;
        float *w = malloc((size_t)rows * (size_t)cols * 4);
        for (size_t k = 0; k < (size_t)rows * (size_t)cols; k++) w[k] = normal_number() / sqrtf((float)cols);
        sc_matrix *matrix;
        void *narrow = narrowed(w, (size_t)rows * (size_t)cols, SC_BF16);
        MUST(cuda->ops->matrix_create(cuda, &matrix, &(sc_matrix_desc){.parts = 1, .cols = cols, .rows = {rows}, .data = {narrow}, .type = {SC_BF16}}, &check_err));
        free(w), free(narrow);
        const sc_layer_norm_args then = {.x = stream, .out = norm, .m = m, .dim = DIM, .eps = 1e-6f, .shift = mod, .scale = mod + DIM, .mod_stride = 0};
        const sc_linear_args a = {.w = matrix, .x = x, .out = adds ? (void *)stream : y, .out_type = adds ? SC_F32 : SC_BF16, .m = m, .epilogue = product[i].epilogue,
                                  .gate = product[i].epilogue == SC_EPI_GATED_RESIDUAL ? mod + 2 * DIM : NULL, .then = product[i].then ? &then : NULL};
        const float old = time_us(&a, false), new = time_us(&a, true);
        printf("%-22s %10.1f %10.1f %7.3f %9.0f\n", product[i].name, old, new, new / old, 2.0 * m * rows * cols / new * 1e-6);
        if (product[i].epilogue != SC_EPI_NONE || i < 2) total[0] += old, total[1] += new;
        cuda->ops->matrix_destroy(cuda, matrix);
    }
    printf("%-22s %10.1f %10.1f %7.3f\n", "a layer", total[0], total[1], total[1] / total[0]);
    sc_device_close(cuda);
    return 0;
}

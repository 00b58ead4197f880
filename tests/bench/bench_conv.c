/* bench_conv.c - the convolutions of the pocket decoder, one chunk of 12 frames, against OpenBLAS's sgemm in the same run.
 *
 *     bench_conv [rounds]        default 15; OPENBLAS_NUM_THREADS should be the number of cores, as the device's
 *
 * Layers run in the decoder's order on buffers of their own, so that a layer meets the cache as the one before left it. Rates count
 * a convolution as the direct one. A round is the whole decoder, then sgemm of 480 x 1024 x 384 for a fifth of its time: medians
 * over the rounds; the ratio is the median of each round's own. */
#include "base/clock.h"
#include "kernels/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef SC_HAVE_OPENBLAS
#include <cblas.h>
#endif

enum { MAX_ROUNDS = 200, BUFFERS = 4 };

typedef struct {
    const char *name;
    int out_ch, in_ch, size, h, w, n, s; /* s: 0 = conv, else grow */
    bool past, up, residual, relu;
    int from, to, skip;                  /* buffers of x, out and residual */
    sc_filter *f;
    double gflop, ms[MAX_ROUNDS];
} layer;

#define MEMORY(level, c, h, w, n)                                                                     \
    {level " [x past]", c, 2 * (c), 3, h, w, n, 0, true, false, false, true, 0, 1, 0, NULL, 0, {0}},  \
    {level " middle", c, c, 3, h, w, n, 0, false, false, false, true, 1, 2, 0, NULL, 0, {0}},         \
    {level " last", c, c, 3, h, w, n, 0, false, false, true, true, 2, 3, 0, NULL, 0, {0}}

static layer layers[] = {
    {"first", 128, 16, 3, 20, 32, 3, 0, false, false, false, true, 0, 1, 0, NULL, 0, {0}},
    MEMORY("1a", 128, 20, 32, 3), MEMORY("1b", 128, 20, 32, 3), MEMORY("1c", 128, 20, 32, 3),
    {"grow 1", 128, 128, 1, 20, 32, 3, 1, false, false, false, false, 3, 0, 0, NULL, 0, {0}},
    {"up 1", 96, 128, 3, 20, 32, 3, 0, false, true, false, false, 0, 1, 0, NULL, 0, {0}},
    MEMORY("2a", 96, 40, 64, 3), MEMORY("2b", 96, 40, 64, 3), MEMORY("2c", 96, 40, 64, 3),
    {"grow 2", 192, 96, 1, 40, 64, 3, 2, false, false, false, false, 3, 0, 0, NULL, 0, {0}},
    {"up 2", 32, 96, 3, 40, 64, 6, 0, false, true, false, false, 0, 1, 0, NULL, 0, {0}},
    MEMORY("3a", 32, 80, 128, 6), MEMORY("3b", 32, 80, 128, 6), MEMORY("3c", 32, 80, 128, 6),
    {"grow 3", 64, 32, 1, 80, 128, 6, 2, false, false, false, false, 3, 0, 0, NULL, 0, {0}},
    {"smooth", 32, 32, 3, 80, 128, 12, 0, false, false, false, true, 0, 1, 0, NULL, 0, {0}},
    {"last", 12, 32, 3, 80, 128, 12, 0, false, false, false, false, 1, 2, 0, NULL, 0, {0}},
};
enum { LAYERS = sizeof layers / sizeof *layers, FLOATS = 12 * 80 * 128 * 32 };

static int ascending(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }

static double median(const double *v, int n) {
    double copy[MAX_ROUNDS];
    memcpy(copy, v, (size_t)n * sizeof *v);
    qsort(copy, (size_t)n, sizeof *copy, ascending);
    return copy[n / 2];
}

static double run_layer(sc_device *dev, const layer *l, float *const *buffer, sc_error *err) {
    uint64_t start = sc_now_ns();
    sc_status rc = l->s ? dev->ops->grow(dev, &(sc_grow_args){.w = l->f, .x = buffer[l->from], .out = buffer[l->to], .n = l->n, .h = l->h, .w_px = l->w, .s = l->s}, err)
                        : dev->ops->conv(dev, &(sc_conv_args){.w = l->f, .x = buffer[l->from], .past = l->past ? buffer[3] : NULL, .out = buffer[l->to],
                                                              .residual = l->residual ? buffer[l->skip] : NULL, .n = l->n, .h = l->h, .w_px = l->w,
                                                              .relu = l->relu, .upsample = l->up}, err);
    if (rc) exit(1);
    return (double)(sc_now_ns() - start) * 1e-6;
}

int main(int argc, char **argv) {
    const int rounds = argc > 1 && atoi(argv[1]) > 0 ? atoi(argv[1]) < MAX_ROUNDS ? atoi(argv[1]) : MAX_ROUNDS : 15;
    sc_device *dev;
    sc_error err;
    float *buffer[BUFFERS], *start = malloc(FLOATS * sizeof(float)), *weights = malloc(256 * 256 * 9 * sizeof *weights);
    double total[MAX_ROUNDS], gflop = 0;
    if (sc_device_open(&dev, "cpu", 0, SC_F32, &err)) return fprintf(stderr, "%s\n", err.text), 1;
    for (int i = 0; i < BUFFERS; i++) {
        if (dev->ops->alloc(dev, (void **)&buffer[i], FLOATS * sizeof(float), &err)) return 1;
        for (int k = 0; k < FLOATS; k++) buffer[i][k] = (float)(k * 7919L % 2003) / 1001.5f - 1;
    }
    memcpy(start, buffer[0], FLOATS * sizeof(float));
    for (int i = 0; i < LAYERS; i++) {
        layer *l = &layers[i];
        const int count = l->out_ch * l->in_ch * l->size * l->size;
        for (int k = 0; k < count; k++) weights[k] = ((float)(k * 104729L % 1009) / 504.5f - 1) * sqrtf(6.0f / (float)(l->in_ch * l->size * l->size));
        if (dev->ops->filter_create(dev, &l->f, &(sc_filter_desc){.out_ch = l->out_ch, .in_ch = l->in_ch, .size = l->size, .stride = 1, .has_past = l->past,
                                                                  .data = weights, .type = SC_F32}, &err)) return 1;
        l->gflop = 2e-9 * l->size * l->size * l->in_ch * l->out_ch * l->h * l->w * (l->up ? 4 : 1) * l->n;
        gflop += l->gflop;
    }
    for (int r = -2; r < rounds; r++) { /* two to warm up */
        double sum = 0;
        memcpy(buffer[0], start, FLOATS * sizeof(float)); /* or values would fade to subnormals, round by round */
        for (int i = 0; i < LAYERS; i++) {
            double ms = run_layer(dev, &layers[i], buffer, &err);
            sum += ms;
            if (r >= 0) layers[i].ms[r] = ms;
        }
        if (r >= 0) total[r] = sum;
#ifdef SC_HAVE_OPENBLAS
        static double rate[MAX_ROUNDS], ratio[MAX_ROUNDS];
        uint64_t began = sc_now_ns(), spent;
        int calls = 0;
        do {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, 480, 1024, 384, 1, buffer[0], 384, buffer[1], 384, 0, buffer[2], 1024);
            calls++;
            spent = sc_now_ns() - began;
        } while ((double)spent * 1e-6 < sum / 5);
        if (r >= 0) {
            rate[r] = 2.0 * 480 * 1024 * 384 * calls / (double)spent;
            ratio[r] = gflop / sum * 1e3 / rate[r];
        }
        if (r == rounds - 1) printf("OpenBLAS sgemm 480x1024x384: %.1f GFLOP/s; convolutions / sgemm: %.2f\n", median(rate, rounds), median(ratio, rounds));
#endif
    }
    printf("%s\n%-14s %9s %9s %9s\n", dev->name, "layer", "GFLOP", "ms", "GFLOP/s");
    for (int i = 0; i < LAYERS; i++) {
        const double ms = median(layers[i].ms, rounds);
        printf("%-14s %9.2f %9.2f %9.1f\n", layers[i].name, layers[i].gflop, ms, layers[i].gflop / ms * 1e3);
        dev->ops->filter_destroy(dev, layers[i].f);
    }
    printf("%-14s %9.2f %9.2f %9.1f\n", "all", gflop, median(total, rounds), gflop / median(total, rounds) * 1e3);
    for (int i = 0; i < BUFFERS; i++) dev->ops->release(dev, buffer[i]);
    free(weights);
    free(start);
    sc_device_close(dev);
    return 0;
}

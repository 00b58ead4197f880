/* norms.c - norms and elementwise operations on all cores. Rows (or spans of elements) are items; the loops are kernels.inc's.
 *
 * These pass over their data once and are bound by memory; the pool is used where a call has enough work to pay for it. */
#include "kernels/cpu/isa.h"

#include <assert.h>

enum { ROW_ITEM = 16, SPAN = 16384 };

static int pieces(size_t count, int size) { return (int)((count + (size_t)size - 1) / (size_t)size); }

typedef struct { const sc_isa_kernels *kern; const void *args; } rows_run;

static void layer_norm_item(void *ctx, int item, int thread) {
    const rows_run *run = ctx;
    const sc_layer_norm_args *a = run->args;

    (void)thread;
    for (int i = item * ROW_ITEM; i < a->m && i < (item + 1) * ROW_ITEM; i++) {
        size_t row = (size_t)i * (size_t)a->dim, mod = (size_t)(a->row_mod ? a->row_mod[i] : 0) * (size_t)a->mod_stride;
        run->kern->layer_norm((float *)a->out + row, a->x + row, a->dim, a->eps, a->weight, a->bias, a->scale ? a->shift + mod : NULL,
                              a->scale ? a->scale + mod : NULL);
    }
}

sc_status sc_fast_layer_norm(sc_device *dev, const sc_layer_norm_args *a, sc_error *err) {
    rows_run run = {sc_cpu(dev)->kern, a};
    (void)err;
    sc_pool_run(sc_cpu(dev)->pool, layer_norm_item, &run, pieces((size_t)a->m, ROW_ITEM));
    return SC_OK;
}

static void rms_norm_item(void *ctx, int item, int thread) {
    const rows_run *run = ctx;
    const sc_rms_norm_args *a = run->args;

    (void)thread;
    for (int i = item * ROW_ITEM; i < a->m && i < (item + 1) * ROW_ITEM; i++)
        run->kern->rms_norm((float *)a->out + (size_t)i * (size_t)a->dim, (const float *)a->x + (size_t)i * (size_t)a->ldx, a->dim, a->eps, a->weight);
}

sc_status sc_fast_rms_norm(sc_device *dev, const sc_rms_norm_args *a, sc_error *err) {
    rows_run run = {sc_cpu(dev)->kern, a};
    (void)err;
    assert(a->x_type == SC_F32 && a->out_type == SC_F32);
    sc_pool_run(sc_cpu(dev)->pool, rms_norm_item, &run, pieces((size_t)a->m, ROW_ITEM));
    return SC_OK;
}

typedef struct { const sc_isa_kernels *kern; float *out; const float *x; size_t width; } gelu_run;

static void mul_gelu_item(void *ctx, int item, int thread) {
    const gelu_run *run = ctx;
    const size_t at = (size_t)item * run->width;
    (void)thread;
    run->kern->mul_gelu(run->out + at, run->x + 2 * at + run->width, run->x + 2 * at, run->width);
}

sc_status sc_fast_mul_gelu(sc_device *dev, void *out, const void *x, int m, int width, sc_error *err) {
    gelu_run run = {sc_cpu(dev)->kern, out, x, (size_t)width};
    (void)err;
    sc_pool_run(sc_cpu(dev)->pool, mul_gelu_item, &run, m);
    return SC_OK;
}

typedef struct { const sc_isa_kernels *kern; float *out; const float *a; size_t count; } span_run;

static size_t span_length(const span_run *run, size_t at) { return run->count - at < SPAN ? run->count - at : SPAN; }

static void silu_item(void *ctx, int item, int thread) {
    const span_run *run = ctx;
    size_t at = (size_t)item * SPAN;
    (void)thread;
    run->kern->silu(run->out + at, run->a + at, span_length(run, at));
}

sc_status sc_fast_silu(sc_device *dev, void *out_act, const float *x, size_t count, sc_error *err) {
    span_run run = {sc_cpu(dev)->kern, out_act, x, count};
    (void)err;
    sc_pool_run(sc_cpu(dev)->pool, silu_item, &run, pieces(count, SPAN));
    return SC_OK;
}

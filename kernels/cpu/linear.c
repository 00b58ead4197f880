/* linear.c - linear layers on all cores: weight packed once, epilogue fused.
 *
 * y [m][n] is cut into items of ROWS rows by COLS columns. An item walks its panels (nr columns of packed weight, 48 KiB for 384
 * inputs); for each panel the register tiles of all its rows run one after another while the panel is in the nearest caches, sums
 * wait in a buffer of ROWS x nr floats in the first level cache, and from there the epilogue takes them to `out`. So `out` is
 * touched once, the residual included, and no result depends on which thread had the item.
 *
 * Bound: 24 FMAs of 16 lanes per step of k and tile, two a cycle. Inputs are broadcast straight from x: packing it was measured
 * and gains nothing. Matrices live in panels only; gather reads rows back out of them. */
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 60, COLS = 256, K_BLOCK = 1024 };

struct sc_matrix {
    sc_packed w;
    float *bias; /* [n rounded up to whole panels] */
};

sc_status sc_fast_matrix_create(sc_device *dev, sc_matrix **out, const sc_matrix_desc *d, sc_error *err) {
    const sc_isa_kernels *kern = sc_cpu(dev)->kern;
    sc_matrix *m = calloc(1, sizeof *m);
    float *all = NULL;
    int n = 0, row = 0;
    sc_status rc = SC_OK;

    *out = NULL;
    assert(d->parts >= 1 && d->parts <= SC_MAX_PARTS && d->cols >= 1);
    for (int p = 0; p < d->parts; p++) n += d->rows[p];
    if (m) m->bias = calloc((size_t)(n + kern->nr), sizeof(float));
    all = sc_cpu_aligned((size_t)n * (size_t)d->cols * sizeof(float));
    if (!m || !m->bias || !all) { rc = sc_fail(err, SC_ENOMEM, "matrix %d x %d: out of memory", n, d->cols); goto cleanup; }
    for (int p = 0; p < d->parts; row += d->rows[p], p++) {
        sc_to_f32(all + (size_t)row * (size_t)d->cols, d->data[p], d->type[p], (size_t)d->rows[p] * (size_t)d->cols);
        if (d->bias[p]) sc_to_f32(m->bias + row, d->bias[p], d->bias_type[p], (size_t)d->rows[p]);
    }
    rc = sc_gemm_pack(&m->w, kern, all, d->cols, n, d->cols, err);
    if (rc) goto cleanup;
    *out = m;
    m = NULL;
cleanup:
    sc_fast_matrix_destroy(dev, m);
    free(all);
    return rc;
}

void sc_fast_matrix_destroy(sc_device *dev, sc_matrix *m) {
    (void)dev;
    if (!m) return;
    sc_gemm_unpack(&m->w);
    free(m->bias);
    free(m);
}

sc_status sc_fast_gather(sc_device *dev, float *out, const sc_matrix *table, const int32_t *rows_host, int n, sc_error *err) {
    (void)dev, (void)err;
    for (int i = 0; i < n; i++) {
        assert(rows_host[i] >= 0 && rows_host[i] < table->w.n);
        sc_gemm_row(&table->w, out + (size_t)i * (size_t)table->w.k, rows_host[i]);
    }
    return SC_OK;
}

typedef struct {
    const sc_linear_args *a;
    const sc_isa_kernels *kern;
    int rows, cols, across; /* of an item; items side by side */
} linear_run;

static void linear_item(void *ctx, int item, int thread) {
    const linear_run *run = ctx;
    const sc_linear_args *a = run->a;
    const sc_isa_kernels *kern = run->kern;
    const sc_packed *w = &a->w->w;
    int i0 = item / run->across * run->rows, i1 = i0 + run->rows < a->m ? i0 + run->rows : a->m;
    int j0 = item % run->across * run->cols, j1 = j0 + run->cols < w->n ? j0 + run->cols : w->n;
    int k = w->k, n = w->n, nr = kern->nr, mr = kern->mr;
    _Alignas(64) float y[ROWS * SC_TILE_COLS_MAX];

    (void)thread;
    for (int j = j0; j < j1; j += nr) {
        const float *panel = w->data + (size_t)j * (size_t)k;
        int cols = n - j < nr ? n - j : nr;
        for (int p = 0; p < k; p += K_BLOCK) {
            int depth = k - p < K_BLOCK ? k - p : K_BLOCK;
            for (int i = i0; i < i1; i += mr)
                kern->tile(i1 - i < mr ? i1 - i : mr, (const float *)a->x + (size_t)i * (size_t)k + (size_t)p, k, 1, panel + (size_t)p * (size_t)nr, nr,
                           depth, y + (i - i0) * nr, nr, p > 0);
        }
        for (int i = i0; i < i1; i++) {
            const float *gate = a->gate ? a->gate + (size_t)(a->row_mod ? a->row_mod[i] : 0) * (size_t)a->gate_stride + j : NULL;
            kern->epilogue(a->epilogue, (float *)a->out + (size_t)i * (size_t)n + (size_t)j, y + (i - i0) * nr, a->w->bias + j, gate, cols);
        }
    }
}

sc_status sc_fast_linear(sc_device *dev, const sc_linear_args *a, sc_error *err) {
    sc_cpu_device *cpu = sc_cpu(dev);
    linear_run run = {.a = a, .kern = cpu->kern, .rows = ROWS, .cols = (COLS + cpu->kern->nr - 1) / cpu->kern->nr * cpu->kern->nr};
    int down, want = 4 * sc_pool_threads(cpu->pool), n = a->w->w.n;

    assert(a->out_type == SC_F32);
    assert(!a->then || (a->epilogue >= SC_EPI_RESIDUAL && a->then->x == a->out && a->then->m == a->m && a->then->dim == n));
    for (;;) { /* small products are cut finer, so that all cores get some */
        run.across = (n + run.cols - 1) / run.cols;
        down = (a->m + run.rows - 1) / run.rows;
        if (run.across * down >= want) break;
        if (run.cols > 2 * cpu->kern->nr) run.cols = (run.cols / 2 + cpu->kern->nr - 1) / cpu->kern->nr * cpu->kern->nr;
        else if (run.rows > cpu->kern->mr) run.rows = (run.rows / 2 + cpu->kern->mr - 1) / cpu->kern->mr * cpu->kern->mr;
        else break;
    }
    sc_pool_run(cpu->pool, linear_item, &run, run.across * down);
    return a->then ? sc_fast_layer_norm(dev, a->then, err) : SC_OK;
}

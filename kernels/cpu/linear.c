/* linear.c - linear layers on all cores: weight packed once, epilogue fused.
 *
 * y [m][n] is cut into items of ROWS rows by COLS columns. An item walks its panels (nr columns of packed weight, 48 KiB for 384
 * inputs); for each panel the register tiles of all its rows run one after another while the panel is in the nearest caches, sums
 * wait in a buffer of ROWS x nr floats in the first level cache, and from there the epilogue takes them to `out`. So `out` is
 * touched once, the residual included, and no result depends on which thread had the item.
 *
 * Bound: 24 FMAs of 16 lanes per step of k and tile, two a cycle. Inputs are broadcast straight from x: packing it was measured
 * and gains nothing. Matrices live in panels only; gather reads rows back out of them.
 *
 * Weights of bf16 stay bf16, in the rows they came in: half the memory, and none at all when they are used where they lie in a mapped
 * file. An item makes each panel itself, K_BLOCK inputs at a time, in its thread's work memory; from there everything is as above, so the
 * results are those of the same weights as f32, bit for bit. Making a panel costs about as much as eight rows of x; an item therefore
 * has more rows (BF16_ROWS), and few tokens are bound by reading the weights. Where there is AMX, linear_amx.c takes these weights. */
#include "kernels/cpu/linear.h"
#include "base/map_ahead.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
enum { ROWS = 60, BF16_ROWS = 180, COLS = 256, K_BLOCK = 1024 };
static const size_t TOUCH_BYTES = (size_t)4 << 20;

typedef struct { const char *from; size_t bytes; } span;

/* Brings pages of a mapped file in, so that the first product does not wait for them. */
static void touch_item(void *ctx, int item, int thread) {
    const span *s = ctx;
    const size_t at = (size_t)item * TOUCH_BYTES, n = s->bytes - at < TOUCH_BYTES ? s->bytes - at : TOUCH_BYTES;

    (void)thread;
    if (sc_map_ahead(s->from + at, n)) return;
    for (size_t i = 0; i < n; i += SC_PAGE_BYTES) (void)*(const volatile char *)(s->from + at + i);
}

static sc_status keep_bf16(sc_device *dev, sc_matrix *m, const sc_matrix_desc *d, sc_error *err) {
    const size_t row = 2 * (size_t)d->cols;
    char *copy = NULL;

    if (!d->stays && !(copy = m->own = sc_cpu_aligned((size_t)m->w.n * row)))
        return sc_fail(err, SC_ENOMEM, "matrix %d x %d: out of memory", m->w.n, d->cols);
    for (int p = 0; p < d->parts; p++) {
        span s = {d->data[p], (size_t)d->rows[p] * row};
        m->part[p] = copy ? copy : s.from;
        m->part_rows[p] = d->rows[p];
        if (copy) memcpy(copy, s.from, s.bytes), copy += s.bytes;
        else sc_pool_run(sc_cpu(dev)->pool, touch_item, &s, (int)((s.bytes + TOUCH_BYTES - 1) / TOUCH_BYTES));
    }
    m->parts = d->parts;
    return SC_OK;
}

static sc_status pack_f32(sc_matrix *m, const sc_isa_kernels *kern, const sc_matrix_desc *d, sc_error *err) {
    const int n = m->w.n;
    float *all = sc_cpu_aligned((size_t)n * (size_t)d->cols * sizeof(float));
    sc_status rc;

    if (!all) return sc_fail(err, SC_ENOMEM, "matrix %d x %d: out of memory", n, d->cols);
    for (int p = 0, row = 0; p < d->parts; row += d->rows[p], p++)
        sc_to_f32(all + (size_t)row * (size_t)d->cols, d->data[p], d->type[p], (size_t)d->rows[p] * (size_t)d->cols);
    rc = sc_gemm_pack(&m->w, kern, all, d->cols, n, d->cols, err);
    free(all);
    return rc;
}

sc_status sc_fast_matrix_create(sc_device *dev, sc_matrix **out, const sc_matrix_desc *d, sc_error *err) {
    const sc_isa_kernels *kern = sc_cpu(dev)->kern;
    sc_matrix *m = calloc(1, sizeof *m);
    bool bf16 = true;
    int n = 0, row = 0;
    sc_status rc = SC_OK;

    *out = NULL;
    assert(d->parts >= 1 && d->parts <= SC_MAX_PARTS && d->cols >= 1);
    for (int p = 0; p < d->parts; p++) n += d->rows[p], bf16 = bf16 && d->type[p] == SC_BF16;
    if (m) m->bias = calloc((size_t)(n + kern->nr), sizeof(float));
    if (!m || !m->bias) { rc = sc_fail(err, SC_ENOMEM, "matrix %d x %d: out of memory", n, d->cols); goto cleanup; }
    for (int p = 0; p < d->parts; row += d->rows[p], p++)
        if (d->bias[p]) sc_to_f32(m->bias + row, d->bias[p], d->bias_type[p], (size_t)d->rows[p]);
    m->w = (sc_packed){.kern = kern, .n = n, .k = d->cols};
    rc = bf16 ? keep_bf16(dev, m, d, err) : pack_f32(m, kern, d, err);
    if (rc) goto cleanup;
    *out = m;
    m = NULL;
cleanup:
    sc_fast_matrix_destroy(dev, m);
    return rc;
}

void sc_fast_matrix_destroy(sc_device *dev, sc_matrix *m) {
    (void)dev;
    if (!m) return;
    if (!m->fold) {
        sc_gemm_unpack(&m->w);
        free(m->own);
        free(m->bias);
    }
    free(m);
}

/* ---- folds: panels that are made while the model runs ---------------------------------------------------------------------- */

/* The tiles of AMX are through the whole product sooner than vectors through the folded one. */
int sc_fast_fold_stride(sc_device *dev, const sc_matrix *o, int heads, int n) {
    return sc_cpu(dev)->amx && o->parts ? 0 : sc_cpu_fold_stride(o->w.k, heads, n);
}

sc_status sc_fast_fold_create(sc_device *dev, sc_matrix **out, const sc_matrix *o, void *memory, int cols, sc_error *err) {
    const sc_isa_kernels *kern = sc_cpu(dev)->kern;

    assert(SC_FOLD_ROWS % kern->nr == 0);
    *out = calloc(1, sizeof **out);
    if (!*out) return sc_fail(err, SC_ENOMEM, "matrix: out of memory");
    **out = (sc_matrix){.w = {.kern = kern, .n = o->w.n, .k = cols, .data = memory}, .bias = o->bias, .fold = true};
    return SC_OK;
}

typedef struct { const sc_fold_args *a; const sc_isa_kernels *kern; float *work; size_t work_row; } fold_run;

/* One panel: a panel of o with v's rows for x lies the way a panel of the fold does. */
static void fold_item(void *ctx, int item, int thread) {
    const fold_run *run = ctx;
    const sc_fold_args *a = run->a;
    const sc_packed *o = &a->o->w;
    const int nr = run->kern->nr, mr = run->kern->mr, dim = o->k / a->heads, cols = a->heads * a->stride;
    float *out = a->out->w.data + (size_t)item * (size_t)cols * (size_t)nr;
    const float *panel = o->data + (size_t)item * (size_t)o->k * (size_t)nr;

    if (a->o->parts) {
        const void *row[SC_TILE_COLS_MAX];
        for (int c = 0; c < nr; c++) row[c] = sc_bf16_row(a->o, item * nr + c < o->n ? item * nr + c : o->n - 1);
        run->kern->widen(run->work + (size_t)thread * run->work_row, row, o->k);
        panel = run->work + (size_t)thread * run->work_row;
    }
    memset(out, 0, (size_t)cols * (size_t)nr * sizeof *out);
    for (int h = 0; h < a->heads; h++)
        for (int j = 0; j < a->n; j += mr)
            run->kern->tile(a->n - j < mr ? a->n - j : mr, (const float *)a->v + (size_t)j * (size_t)o->k + (size_t)(h * dim), o->k, 1, panel + (size_t)(h * dim) * (size_t)nr, nr, dim,
                            out + (size_t)(h * a->stride + j) * (size_t)nr, nr, false);
}

sc_status sc_fast_fold(sc_device *dev, const sc_fold_args *a, sc_error *err) {
    sc_cpu_device *cpu = sc_cpu(dev);
    fold_run run = {.a = a, .kern = cpu->kern, .work_row = ((size_t)a->o->w.k * (size_t)cpu->kern->nr + 15) / 16 * 16};
    void *work = NULL;
    sc_status rc = a->o->parts ? sc_cpu_scratch(dev, &work, run.work_row * sizeof(float) * (size_t)sc_pool_threads(cpu->pool), err) : SC_OK;

    if (rc) return rc;
    assert(a->n >= 1 && a->n <= a->stride && a->out->w.k == a->heads * a->stride);
    run.work = work;
    sc_pool_run(cpu->pool, fold_item, &run, (a->o->w.n + cpu->kern->nr - 1) / cpu->kern->nr);
    return SC_OK;
}

sc_status sc_fast_gather(sc_device *dev, float *out, const sc_matrix *table, const int32_t *rows_host, int n, sc_error *err) {
    (void)dev, (void)err;
    for (int i = 0; i < n; i++) {
        float *to = out + (size_t)i * (size_t)table->w.k;
        assert(rows_host[i] >= 0 && rows_host[i] < table->w.n);
        if (table->parts) sc_to_f32(to, sc_bf16_row(table, rows_host[i]), SC_BF16, (size_t)table->w.k);
        else sc_gemm_row(&table->w, to, rows_host[i]);
    }
    return SC_OK;
}

typedef struct {
    const sc_linear_args *a;
    const sc_isa_kernels *kern;
    int rows, cols, across; /* of an item; items side by side */
    char *work;             /* bf16: a share of work_bytes for each thread: a panel [K_BLOCK][nr], then y [cols / nr][rows][nr] */
    size_t work_bytes;
} linear_run;

/* y [rows][nr] = the products of rows i0 .. i1 - 1 of x with inputs p .. p + depth - 1 of a panel, added to what is there when p > 0. */
static void linear_tiles(const linear_run *run, int i0, int i1, int p, int depth, const float *panel, float *y) {
    const int nr = run->kern->nr, mr = run->kern->mr, k = run->a->w->w.k;

    for (int i = i0; i < i1; i += mr)
        run->kern->tile(i1 - i < mr ? i1 - i : mr, (const float *)run->a->x + (size_t)i * (size_t)k + (size_t)p, k, 1, panel, nr, depth, y + (i - i0) * nr, nr, p > 0);
}

void sc_linear_finish(const sc_linear_args *a, const sc_isa_kernels *kern, int i0, int i1, int j, int cols, const float *y, int ldy) {
    const int n = a->w->w.n;

    for (int i = i0; i < i1; i++) {
        const float *gate = a->gate ? a->gate + (size_t)(a->row_mod ? a->row_mod[i] : 0) * (size_t)a->gate_stride + j : NULL;
        kern->epilogue(a->epilogue, (float *)a->out + (size_t)i * (size_t)n + (size_t)j, y + (size_t)(i - i0) * (size_t)ldy, a->w->bias + j, gate, cols);
    }
}

/* The finished sums of one panel, columns j .. j + nr - 1, on their way out. */
static void linear_finish(const linear_run *run, int i0, int i1, int j, const float *y) {
    const int n = run->a->w->w.n, nr = run->kern->nr;
    sc_linear_finish(run->a, run->kern, i0, i1, j, n - j < nr ? n - j : nr, y, nr);
}

/* Rows [i0, i1) and columns [j0, j1) of an item. */
typedef struct { int i0, i1, j0, j1; } item_range;

static item_range range_of(const linear_run *run, int item) {
    const int m = run->a->m, n = run->a->w->w.n, i = item / run->across * run->rows, j = item % run->across * run->cols;
    return (item_range){i, i + run->rows < m ? i + run->rows : m, j, j + run->cols < n ? j + run->cols : n};
}

static void linear_item(void *ctx, int item, int thread) {
    const linear_run *run = ctx;
    const sc_packed *w = &run->a->w->w;
    const item_range at = range_of(run, item);
    const int i0 = at.i0, i1 = at.i1, j0 = at.j0, j1 = at.j1, k = w->k, nr = run->kern->nr;
    _Alignas(64) float y[ROWS * SC_TILE_COLS_MAX];

    (void)thread;
    for (int j = j0; j < j1; j += nr) {
        for (int p = 0; p < k; p += K_BLOCK)
            linear_tiles(run, i0, i1, p, k - p < K_BLOCK ? k - p : K_BLOCK, w->data + (size_t)j * (size_t)k + (size_t)p * (size_t)nr, y);
        linear_finish(run, i0, i1, j, y);
    }
}

/* Inputs outside, panels inside: K_BLOCK inputs of the item's rows stay in the second level cache while its panels pass. */
static void bf16_item(void *ctx, int item, int thread) {
    const linear_run *run = ctx;
    const sc_packed *w = &run->a->w->w;
    const item_range at = range_of(run, item);
    const int i0 = at.i0, i1 = at.i1, j0 = at.j0, j1 = at.j1, k = w->k, nr = run->kern->nr;
    float *panel = (float *)(run->work + (size_t)thread * run->work_bytes), *y = panel + K_BLOCK * nr;

    for (int p = 0; p < k; p += K_BLOCK) {
        const int depth = k - p < K_BLOCK ? k - p : K_BLOCK;
        for (int j = j0; j < j1; j += nr) {
            const void *row[SC_TILE_COLS_MAX];
            for (int c = 0; c < nr; c++) row[c] = sc_bf16_row(run->a->w, j + c < w->n ? j + c : w->n - 1) + 2 * (size_t)p; /* columns past the last: made, left out */
            run->kern->widen(panel, row, depth);
            linear_tiles(run, i0, i1, p, depth, panel, y + (size_t)(j - j0) * (size_t)run->rows);
        }
    }
    for (int j = j0; j < j1; j += nr) linear_finish(run, i0, i1, j, y + (size_t)(j - j0) * (size_t)run->rows);
}

sc_status sc_fast_linear(sc_device *dev, const sc_linear_args *a, sc_error *err) {
    sc_cpu_device *cpu = sc_cpu(dev);
    const bool bf16 = a->w->parts > 0;
    const int nr = cpu->kern->nr, mr = cpu->kern->mr;
    linear_run run = {.a = a, .kern = cpu->kern, .rows = bf16 ? BF16_ROWS : ROWS, .cols = (COLS + nr - 1) / nr * nr};
    int down, want = 4 * sc_pool_threads(cpu->pool), n = a->w->w.n, least = bf16 ? nr : 2 * nr;
    void *work;
    sc_status rc;

    assert(a->out_type == SC_F32);
    assert(!a->then || (a->epilogue >= SC_EPI_RESIDUAL && a->then->x == a->out && a->then->m == a->m && a->then->dim == n));
    if (bf16 && cpu->amx) {
        if ((rc = sc_amx_linear(dev, a, err))) return rc;
        return a->then ? sc_fast_layer_norm(dev, a->then, err) : SC_OK;
    }
    for (;;) { /* small products are cut finer, so that all cores get some */
        run.across = (n + run.cols - 1) / run.cols;
        down = (a->m + run.rows - 1) / run.rows;
        if (run.across * down >= want) break;
        if (run.cols > least) run.cols = (run.cols / 2 + nr - 1) / nr * nr;
        else if (run.rows > (bf16 ? ROWS : mr) && (!bf16 || a->m > ROWS)) run.rows = (run.rows / 2 + mr - 1) / mr * mr;
        else break;
    }
    if (bf16) {
        run.work_bytes = (((size_t)K_BLOCK * (size_t)nr + (size_t)run.rows * (size_t)run.cols) * sizeof(float) + 63) / 64 * 64;
        if ((rc = sc_cpu_scratch(dev, &work, run.work_bytes * (size_t)sc_pool_threads(cpu->pool), err))) return rc;
        run.work = work;
    }
    sc_pool_run(cpu->pool, bf16 ? bf16_item : linear_item, &run, run.across * down);
    return a->then ? sc_fast_layer_norm(dev, a->then, err) : SC_OK;
}

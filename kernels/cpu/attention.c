/* attention.c - qkv, selection and attention on all cores.
 *
 * Items. qkv: (sequence, block), so that block means are made where the rows are. select: (sequence, head). attention: (sequence,
 * head, query block): up to 64 queries pass over the pages of their list, see `attend` in kernels.inc. cross and text attention:
 * (sequence, head, 64 queries) over 64 keys at a time with the same inner loop.
 *
 * Ages. The turns (cos, sin of age * theta) of all ages that occur in a call are made once, before the items run, in a sorted
 * table; a page names its row. Lists come in order of age, so a query tile turns a handful of times.
 *
 * Work memory: one piece per thread of the device's scratch, asked for before the items run. Thread: engine. */
#include "kernels/cpu/isa.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

size_t sc_attend_work(int dim) {
    size_t d = (size_t)dim, wide = (d + SC_TILE_COLS_MAX - 1) / SC_TILE_COLS_MAX * SC_TILE_COLS_MAX;
    return (2 * d * 64 + 64 * 64 + 2 * 64 * wide) * sizeof(float);
}

/* ---- ages --------------------------------------------------------------------------------------------------------------- */

typedef struct {
    int ages, pairs;
    int64_t *age; /* ascending */
    float *cs;    /* [ages][pairs][2] */
} turn_table;

static int by_age(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int turn_row(const turn_table *t, int64_t age) {
    int low = 0, high = t->ages - 1;
    while (low < high) {
        int mid = (low + high) / 2;
        if (t->age[mid] < age) low = mid + 1;
        else high = mid;
    }
    return low;
}

static int slot_of_column(const sc_kv_view *v, int column) { return column < v->persistent ? column : v->window_base + column - v->persistent; }

/* Distinct ages of all remembered blocks. SC_ENOMEM; freed by the caller with turn_table_free. */
static sc_status turn_table_make(turn_table *t, const sc_kv_view *view, int seqs, int heads, const sc_rope *rope, sc_error *err) {
    size_t n = 0, count = 0;

    *t = (turn_table){.pairs = rope->frame_pairs};
    for (int s = 0; s < seqs; s++) count += (size_t)heads * (size_t)(view[s].persistent + view[s].window);
    t->age = malloc((count + 1) * sizeof *t->age);
    if (!t->age) return sc_fail(err, SC_ENOMEM, "attention: out of memory");
    for (int s = 0; s < seqs; s++)
        for (int h = 0; h < heads; h++)
            for (int j = 0; j < view[s].persistent + view[s].window; j++) {
                int64_t age = sc_cpu_age(rope, &view[s], &view[s].slots[h * view[s].slot_stride + slot_of_column(&view[s], j)]);
                if (!n || t->age[n - 1] != age) t->age[n++] = age; /* columns come in order of age: most repeats are neighbours */
            }
    qsort(t->age, n, sizeof *t->age, by_age);
    for (size_t i = 0; i < n; i++)
        if (!t->ages || t->age[t->ages - 1] != t->age[i]) t->age[t->ages++] = t->age[i];
    t->cs = malloc(((size_t)t->ages * (size_t)t->pairs + 1) * 2 * sizeof(float));
    if (!t->cs) {
        free(t->age);
        return sc_fail(err, SC_ENOMEM, "attention: out of memory");
    }
    for (int i = 0; i < t->ages; i++)
        for (int p = 0; p < t->pairs; p++) {
            float *cs = t->cs + 2 * ((size_t)i * (size_t)t->pairs + (size_t)p);
            cs[0] = (float)cos((double)t->age[i] * rope->theta[p]);
            cs[1] = (float)sin((double)t->age[i] * rope->theta[p]);
        }
    return SC_OK;
}

static void turn_table_free(turn_table *t) {
    free(t->age);
    free(t->cs);
}

/* ---- q, k and v --------------------------------------------------------------------------------------------------------- */

typedef struct { const sc_qkv_args *a; const sc_isa_kernels *kern; float *work; size_t work_row; } qkv_run;

static void qkv_item(void *ctx, int item, int thread) {
    const qkv_run *run = ctx;
    const sc_qkv_args *a = run->a;
    int s = item / a->blocks.blocks, b = item % a->blocks.blocks, dim = a->head_dim, width = a->heads * dim;
    int first = a->blocks.start_host[b], length = a->blocks.start_host[b + 1] - first;
    const sc_kv_view *view = &a->view[s];
    float *nq = run->work + (size_t)thread * run->work_row, *nk = nq + width, *sum_q = nk + width, *sum_k = sum_q + width, q_scale = sc_q_scale(a->q_scale);

    memset(sum_q, 0, 2 * (size_t)width * sizeof(float));
    for (int t = 0; t < length; t++) {
        const float *x = (const float *)a->qkv + ((size_t)s * (size_t)a->blocks.tokens + (size_t)(first + t)) * 3 * (size_t)width;
        const float *cs = a->rope.in_chunk + (size_t)(first + t) * (size_t)dim;
        run->kern->rms_norm(nq, x, width, a->eps, a->norm_q);
        run->kern->rms_norm(nk, x + width, width, a->eps, a->norm_k);
        for (int h = 0; h < a->heads; h++) {
            int page = view->slots[h * view->slot_stride + view->window_base + view->window - a->blocks.blocks + b].page;
            size_t at = ((size_t)page * (size_t)a->pages.page_rows + (size_t)t) * (size_t)dim;
            size_t row = ((size_t)s * (size_t)a->heads + (size_t)h) * (size_t)a->blocks.tokens + (size_t)(first + t);
            float *q = (float *)a->q + row * (size_t)dim;
            run->kern->rotate(q, sum_q + h * dim, nq + h * dim, cs, dim);
            for (int i = 0; q_scale != 1 && i < dim; i++) q[i] *= q_scale;
            run->kern->rotate((float *)a->pages.k + at, sum_k + h * dim, nk + h * dim, cs, dim);
            memcpy((float *)a->pages.v + at, x + 2 * width + h * dim, (size_t)dim * sizeof(float));
        }
    }
    for (int h = 0; h < a->heads; h++) {
        int page = view->slots[h * view->slot_stride + view->window_base + view->window - a->blocks.blocks + b].page;
        float *rep_q = a->rep_q + (((size_t)s * (size_t)a->heads + (size_t)h) * (size_t)a->blocks.blocks + (size_t)b) * (size_t)dim;
        float *rep_k = a->pages.rep_k + (size_t)page * (size_t)dim;
        for (int d = 0; d < dim; d++) {
            rep_q[d] = sum_q[h * dim + d] / (float)length;
            rep_k[d] = sum_k[h * dim + d] / (float)length;
        }
    }
}

sc_status sc_fast_qkv(sc_device *dev, const sc_qkv_args *a, sc_error *err) {
    sc_cpu_device *cpu = sc_cpu(dev);
    qkv_run run = {.a = a, .kern = cpu->kern, .work_row = aligned(4 * (size_t)(a->heads * a->head_dim) * sizeof(float)) / sizeof(float)};
    void *work;
    sc_status rc = sc_cpu_scratch(dev, &work, run.work_row * sizeof(float) * (size_t)sc_pool_threads(cpu->pool), err);

    if (rc) return rc;
    assert(a->qkv_type == SC_F32);
    run.work = work;
    sc_pool_run(cpu->pool, qkv_item, &run, a->seqs * a->blocks.blocks);
    return SC_OK;
}

/* ---- selection ---------------------------------------------------------------------------------------------------------- */

typedef struct { const sc_select_args *a; const sc_isa_kernels *kern; const turn_table *turns; float *work; size_t work_row; } select_run;

static void select_item(void *ctx, int item, int thread) {
    const select_run *run = ctx;
    const sc_select_args *a = run->a;
    int s = item / a->heads, h = item % a->heads, dim = a->head_dim, blocks = a->blocks.blocks, pairs = run->turns->pairs, last = -1;
    const sc_kv_view *view = &a->view[s];
    const sc_kv_slot *slots = view->slots + (size_t)h * (size_t)view->slot_stride;
    size_t row = (size_t)item * (size_t)blocks;
    const float *rep = a->rep_q + row * (size_t)dim;
    float *turned = run->work + (size_t)thread * run->work_row;
    float scale = 1.0f / sqrtf((float)dim);

    memcpy(turned, rep, (size_t)blocks * (size_t)dim * sizeof(float));
    for (int j = 0; j < view->persistent + view->window; j++) {
        const sc_kv_slot *slot = &slots[slot_of_column(view, j)];
        int turn = turn_row(run->turns, sc_cpu_age(&a->rope, view, slot));
        const float *cs = run->turns->cs + 2 * (size_t)turn * (size_t)pairs;
        for (int b = 0; b < blocks; b++) {
            float *q = turned + (size_t)b * (size_t)dim;
            const float *r = rep + (size_t)b * (size_t)dim;
            if (turn != last)
                for (int i = 0; i < pairs; i++) {
                    q[2 * i] = r[2 * i] * cs[2 * i] - r[2 * i + 1] * cs[2 * i + 1];
                    q[2 * i + 1] = r[2 * i] * cs[2 * i + 1] + r[2 * i + 1] * cs[2 * i];
                }
            a->score[(row + (size_t)b) * (size_t)a->score_stride + (size_t)j] = run->kern->dot(q, a->pages.rep_k + (size_t)slot->page * (size_t)dim, dim) * scale;
        }
        last = turn;
    }
    for (int b = 0; b < blocks; b++) {
        int32_t *list = a->list + (row + (size_t)b) * (size_t)a->list_stride;
        for (int j = 0; j < view->persistent; j++) *list++ = j;
        sc_cpu_choose(list, a->score + (row + (size_t)b) * (size_t)a->score_stride + view->persistent, view->window, view->window_base,
               view->window - blocks + b, a->keep[s], (bool *)(turned + (size_t)blocks * (size_t)dim));
    }
}

sc_status sc_fast_select(sc_device *dev, const sc_select_args *a, sc_error *err) {
    sc_cpu_device *cpu = sc_cpu(dev);
    turn_table turns;
    int window = 0;
    void *work;
    sc_status rc = turn_table_make(&turns, a->view, a->seqs, a->heads, &a->rope, err);

    if (rc) return rc;
    for (int s = 0; s < a->seqs; s++) window = a->view[s].window > window ? a->view[s].window : window;
    select_run run = {.a = a, .kern = cpu->kern, .turns = &turns};
    run.work_row = aligned(((size_t)a->blocks.blocks * (size_t)a->head_dim + (size_t)window) * sizeof(float)) / sizeof(float);
    rc = sc_cpu_scratch(dev, &work, run.work_row * sizeof(float) * (size_t)sc_pool_threads(cpu->pool), err);
    if (!rc) {
        run.work = work;
        sc_pool_run(cpu->pool, select_item, &run, a->seqs * a->heads);
    }
    turn_table_free(&turns);
    return rc;
}

/* ---- attention over pages ----------------------------------------------------------------------------------------------- */

typedef struct { const sc_attention_args *a; const sc_isa_kernels *kern; const turn_table *turns; char *work; size_t work_bytes; } attention_run;

static void attention_item(void *ctx, int item, int thread) {
    const attention_run *run = ctx;
    const sc_attention_args *a = run->a;
    int blocks = a->blocks.blocks, b = item % blocks, h = item / blocks % a->heads, s = item / blocks / a->heads, dim = a->head_dim;
    int first = a->blocks.start_host[b];
    const sc_kv_view *view = &a->view[s];
    const sc_kv_slot *slots = view->slots + (size_t)h * (size_t)view->slot_stride;
    const int32_t *list = a->list ? a->list + (size_t)item * (size_t)a->list_stride : NULL;
    char *work = run->work + (size_t)thread * run->work_bytes;
    sc_attend_keys *keys = (sc_attend_keys *)(work + aligned(sc_attend_work(dim)));
    int listed = list ? a->list_count[s] : view->persistent + view->window;

    for (int i = 0; i < listed; i++) {
        const sc_kv_slot *slot = &slots[list ? list[i] : slot_of_column(view, i)];
        size_t at = (size_t)slot->page * (size_t)a->pages.page_rows * (size_t)dim;
        int64_t age = sc_cpu_age(&a->rope, view, slot);
        keys[i] = (sc_attend_keys){(const float *)a->pages.k + at, (const float *)a->pages.v + at,
                                   a->blocks.start_host[slot->block + 1] - a->blocks.start_host[slot->block], age ? turn_row(run->turns, age) : -1};
    }
    run->kern->attend(&(sc_attend){
        .q = (const float *)a->q + (((size_t)s * (size_t)a->heads + (size_t)h) * (size_t)a->blocks.tokens + (size_t)first) * (size_t)dim, .ldq = dim,
        .out = (float *)a->out + (((size_t)s * (size_t)a->blocks.tokens + (size_t)first) * (size_t)a->heads + (size_t)h) * (size_t)dim,
        .ldo = (ptrdiff_t)a->heads * dim, .queries = a->blocks.start_host[b + 1] - first, .dim = dim, .scale = 1.0f / (sc_q_scale(a->q_scale) * sqrtf((float)dim)),
        .keys = keys, .lists = listed, .ldk = dim, .ldv = dim, .turn = run->turns->cs, .turn_pairs = run->turns->pairs, .work = work});
}

sc_status sc_fast_attention(sc_device *dev, const sc_attention_args *a, sc_error *err) {
    sc_cpu_device *cpu = sc_cpu(dev);
    turn_table turns;
    size_t most = 0;
    void *work;
    sc_status rc = turn_table_make(&turns, a->view, a->seqs, a->heads, &a->rope, err);

    if (rc) return rc;
    for (int s = 0; s < a->seqs; s++) {
        size_t n = (size_t)(a->list ? a->list_count[s] : a->view[s].persistent + a->view[s].window);
        most = n > most ? n : most;
    }
    attention_run run = {.a = a, .kern = cpu->kern, .turns = &turns};
    run.work_bytes = aligned(sc_attend_work(a->head_dim)) + aligned(most * sizeof(sc_attend_keys));
    rc = sc_cpu_scratch(dev, &work, run.work_bytes * (size_t)sc_pool_threads(cpu->pool), err);
    if (!rc) {
        run.work = work;
        sc_pool_run(cpu->pool, attention_item, &run, a->seqs * a->heads * a->blocks.blocks);
    }
    turn_table_free(&turns);
    return rc;
}

/* ---- attention over the prompt, attention inside the text encoder ---------------------------------------------------------- */

/* Both are plain attention of rows over rows; the keys go by in pieces of 64. */
typedef struct {
    const sc_cross_attention_args *cross; /* one of the two */
    const sc_text_attention_args *text;
    const sc_isa_kernels *kern;
    int groups; /* pieces of 64 queries */
    char *work;
    size_t work_bytes;
} rows_run;

static int split_keys(sc_attend_keys *keys, const float *k, const float *v, ptrdiff_t ld, int n) {
    int pieces = 0;
    for (int j = 0; j < n; j += 64)
        keys[pieces++] = (sc_attend_keys){k + j * ld, v ? v + j * ld : NULL, n - j < 64 ? n - j : 64, -1};
    return pieces;
}

static void cross_item(void *ctx, int item, int thread) {
    const rows_run *run = ctx;
    const sc_cross_attention_args *a = run->cross;
    int g = item % run->groups, h = item / run->groups % a->heads, s = item / run->groups / a->heads, dim = a->head_dim;
    const ptrdiff_t width = (ptrdiff_t)a->heads * dim, row = (ptrdiff_t)s * a->tokens + g * 64, made = a->weights ? a->weights : dim, ldo = a->heads * made;
    char *work = run->work + (size_t)thread * run->work_bytes;
    sc_attend_keys *keys = (sc_attend_keys *)(work + aligned(sc_attend_work(dim)));
    int pieces = split_keys(keys, (const float *)a->k[s] + h * dim, a->weights ? NULL : (const float *)a->v[s] + h * dim, width, a->n[s]);

    run->kern->attend(&(sc_attend){.q = (const float *)a->q + row * width + h * dim, .ldq = width, .out = (float *)a->out + row * ldo + h * made, .ldo = ldo,
        .queries = a->tokens - g * 64 < 64 ? a->tokens - g * 64 : 64, .dim = dim, .scale = 1.0f / sqrtf((float)dim), .keys = keys,
        .lists = pieces, .ldk = width, .ldv = width, .last_bias = a->last_bias[s], .weights = a->weights, .work = work});
}

static void text_item(void *ctx, int item, int thread) {
    const rows_run *run = ctx;
    const sc_text_attention_args *a = run->text;
    int i = item % run->groups * 64, h = item / run->groups, dim = a->head_dim;
    ptrdiff_t width = (ptrdiff_t)a->heads * dim;
    char *work = run->work + (size_t)thread * run->work_bytes;
    sc_attend_keys *keys = (sc_attend_keys *)(work + aligned(sc_attend_work(dim)));
    int pieces = split_keys(keys, (const float *)a->k + h * dim, (const float *)a->v + h * dim, a->ld, a->n), reach = a->reach;
    float *bias = (float *)((char *)keys + aligned((size_t)pieces * sizeof *keys)) + 63; /* [-63 .. n), by key - first query of the 64 */
    const float *table = a->bias + (ptrdiff_t)h * (2 * reach + 1) + reach;

    for (int r = -63; r < a->n; r++) bias[r] = table[r - i < -reach ? -reach : r - i > reach ? reach : r - i];
    run->kern->attend(&(sc_attend){.q = (const float *)a->q + (ptrdiff_t)i * a->ld + h * dim, .ldq = a->ld,
        .out = (float *)a->out + i * width + h * dim, .ldo = width, .queries = a->n - i < 64 ? a->n - i : 64, .dim = dim, .scale = 1.0f,
        .keys = keys, .lists = pieces, .ldk = a->ld, .ldv = a->ld, .bias = bias, .work = work});
}

static sc_status run_rows(sc_device *dev, rows_run *run, sc_pool_fn fn, int queries, int most_keys, int dim, int heads, sc_error *err) {
    sc_cpu_device *cpu = sc_cpu(dev);
    void *work;
    sc_status rc;

    run->kern = cpu->kern;
    run->groups = (queries + 63) / 64;
    run->work_bytes = aligned(sc_attend_work(dim)) + aligned((size_t)((most_keys + 63) / 64) * sizeof(sc_attend_keys));
    if (run->text) run->work_bytes += aligned((size_t)(most_keys + 63) * sizeof(float));
    rc = sc_cpu_scratch(dev, &work, run->work_bytes * (size_t)sc_pool_threads(cpu->pool), err);
    if (rc) return rc;
    run->work = work;
    sc_pool_run(cpu->pool, fn, run, heads * run->groups);
    return SC_OK;
}

sc_status sc_fast_cross_attention(sc_device *dev, const sc_cross_attention_args *a, sc_error *err) {
    rows_run run = {.cross = a};
    int most = 1, width = a->heads * a->head_dim;
    if (a->norm_q)
        sc_fast_rms_norm(dev, &(sc_rms_norm_args){.x = a->q, .x_type = SC_F32, .ldx = width, .out = a->q, .out_type = SC_F32, .m = a->seqs * a->tokens, .dim = width,
                                                  .eps = a->eps, .weight = a->norm_q}, err);
    for (int s = 0; s < a->seqs; s++) most = a->n[s] > most ? a->n[s] : most;
    assert(!a->weights || (most <= a->weights && a->weights <= SC_FOLD_MAX));
    return run_rows(dev, &run, cross_item, a->tokens, most, a->head_dim, a->seqs * a->heads, err);
}

sc_status sc_fast_text_attention(sc_device *dev, const sc_text_attention_args *a, sc_error *err) {
    rows_run run = {.text = a};
    return run_rows(dev, &run, text_item, a->n, a->n, a->head_dim, a->heads, err);
}

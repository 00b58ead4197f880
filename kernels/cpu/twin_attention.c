/* twin_attention.c - the definition of attention: into the pages, over the pages, over the prompt, inside the text encoder.
 *
 * Position. Keys are stored rotated by their place in their chunk. A query is rotated by its own place in the chunk (qkv) and
 * then, on the frame pairs only, by the age of the page that it looks at: one more turn of age * theta. The turn's angle is
 * computed in double and rounded once.
 *
 * Softmax is the plain one over all keys of a query: largest score, exponentials, sum in double. Thread: engine. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t sc_cpu_age(const sc_rope *rope, const sc_kv_view *view, const sc_kv_slot *slot) {
    int64_t age = (*view->chunk_now - slot->chunk) * rope->chunk_frames;
    return rope->max_distance >= 0 && age > rope->max_distance ? rope->max_distance : age;
}

void sc_cpu_turn(float *out, const float *in, const sc_rope *rope, int head_dim, int64_t age) {
    memcpy(out, in, (size_t)head_dim * sizeof(float));
    if (!age) return;
    for (int i = 0; i < rope->frame_pairs; i++) {
        float c = (float)cos((double)age * rope->theta[i]), s = (float)sin((double)age * rope->theta[i]);
        out[2 * i] = in[2 * i] * c - in[2 * i + 1] * s;
        out[2 * i + 1] = in[2 * i] * s + in[2 * i + 1] * c;
    }
}

void sc_cpu_softmax(float *w, int n) {
    float top = -INFINITY;
    double sum = 0;
    for (int i = 0; i < n; i++) top = w[i] > top ? w[i] : top;
    for (int i = 0; i < n; i++) sum += w[i] = expf(w[i] - top);
    for (int i = 0; i < n; i++) w[i] = (float)(w[i] / sum);
}

/* out[d] = sum over i of w[i] * v[i * ldv + d]. */
static void weighted_sum(float *out, const float *w, const float *v, size_t ldv, int n, int dim) {
    for (int d = 0; d < dim; d++) out[d] = 0;
    for (int i = 0; i < n; i++)
        for (int d = 0; d < dim; d++) out[d] += w[i] * v[(size_t)i * ldv + (size_t)d];
}

static int block_length(const sc_blocks *b, int block) { return b->start_host[block + 1] - b->start_host[block]; }

static float *page_rows(void *pool, const sc_pages *p, int page) {
    assert(page >= 0 && page < p->pages);
    return (float *)pool + (size_t)page * (size_t)p->page_rows * (size_t)p->head_dim;
}

/* Slot of column j, P first, then L. */
static int slot_of_column(const sc_kv_view *v, int column) {
    return column < v->persistent ? column : v->window_base + column - v->persistent;
}

/* ---- q, k and v of a pass ----------------------------------------------------------------------------------------------- */

/* out = rmsnorm(x) * weight over the whole width. */
static void rms_norm(float *out, const float *x, const float *weight, int n, float eps) {
    double square = 0;
    for (int i = 0; i < n; i++) square += (double)x[i] * x[i];
    float scale = (float)(1.0 / sqrt(square / n + (double)eps));
    for (int i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

/* x, one head of one token, turned by its place in the chunk: cs = [dim / 2][2] of cos, sin. */
static void rotate(float *out, const float *x, const float *cs, int dim) {
    for (int i = 0; i < dim; i += 2) {
        out[i] = x[i] * cs[i] - x[i + 1] * cs[i + 1];
        out[i + 1] = x[i] * cs[i + 1] + x[i + 1] * cs[i];
    }
}

sc_status sc_twin_qkv(sc_device *dev, const sc_qkv_args *a, sc_error *err) {
    int dim = a->head_dim, width = a->heads * dim;
    float *row = malloc(2 * (size_t)width * sizeof(float)), *nq = row, *nk = row + width;

    (void)dev;
    if (!row) return sc_fail(err, SC_ENOMEM, "qkv: out of memory");
    assert(a->qkv_type == SC_F32);
    for (int s = 0; s < a->seqs; s++) {
        const sc_kv_view *view = &a->view[s];
        for (int b = 0; b < a->blocks.blocks; b++) {
            int first = a->blocks.start_host[b], length = block_length(&a->blocks, b);
            assert(length >= 1 && length <= a->pages.page_rows);
            for (int t = 0; t < length; t++) {
                const float *x = (const float *)a->qkv + ((size_t)s * (size_t)a->blocks.tokens + (size_t)(first + t)) * 3 * (size_t)width;
                const float *cs = a->rope.in_chunk + (size_t)(first + t) * (size_t)dim;
                rms_norm(nq, x, a->norm_q, width, a->eps);
                rms_norm(nk, x + width, a->norm_k, width, a->eps);
                for (int h = 0; h < a->heads; h++) {
                    int page = view->slots[h * view->slot_stride + view->window_base + view->window - a->blocks.blocks + b].page;
                    size_t head = (size_t)s * (size_t)a->heads + (size_t)h;
                    float *q = (float *)a->q + (head * (size_t)a->blocks.tokens + (size_t)(first + t)) * (size_t)dim;
                    rotate(q, nq + h * dim, cs, dim);
                    rotate(page_rows(a->pages.k, &a->pages, page) + (size_t)t * (size_t)dim, nk + h * dim, cs, dim);
                    memcpy(page_rows(a->pages.v, &a->pages, page) + (size_t)t * (size_t)dim, x + 2 * width + h * dim, (size_t)dim * sizeof(float));
                }
            }
            for (int h = 0; h < a->heads; h++) { /* representatives, then q as it is stored */
                int page = view->slots[h * view->slot_stride + view->window_base + view->window - a->blocks.blocks + b].page;
                size_t head = (size_t)s * (size_t)a->heads + (size_t)h;
                float *q = (float *)a->q + (head * (size_t)a->blocks.tokens + (size_t)first) * (size_t)dim;
                const float *k = page_rows(a->pages.k, &a->pages, page);
                for (int d = 0; d < dim; d++) {
                    float sum_q = 0, sum_k = 0;
                    for (int t = 0; t < length; t++) sum_q += q[(size_t)t * (size_t)dim + (size_t)d], sum_k += k[(size_t)t * (size_t)dim + (size_t)d];
                    a->rep_q[(head * (size_t)a->blocks.blocks + (size_t)b) * (size_t)dim + (size_t)d] = sum_q / (float)length;
                    a->pages.rep_k[(size_t)page * (size_t)dim + (size_t)d] = sum_k / (float)length;
                }
                for (size_t i = 0; i < (size_t)length * (size_t)dim; i++) q[i] *= sc_q_scale(a->q_scale);
            }
        }
    }
    free(row);
    return SC_OK;
}

/* ---- selection ---------------------------------------------------------------------------------------------------------- */

int sc_cpu_choose(int32_t *list, const float *local, int window, int window_base, int own, int keep, bool *taken) {
    int n = 0;

    memset(taken, 0, (size_t)window * sizeof *taken);
    taken[own] = true;
    for (int k = 1; k < keep; k++) {
        int best = -1;
        for (int j = 0; j < window; j++)
            if (!taken[j] && (best < 0 || local[j] > local[best])) best = j;
        if (best < 0) break;
        taken[best] = true;
    }
    for (int j = 0; j < window; j++)
        if (taken[j]) list[n++] = window_base + j;
    return n;
}

sc_status sc_twin_select(sc_device *dev, const sc_select_args *a, sc_error *err) {
    int dim = a->head_dim, blocks = a->blocks.blocks;
    int window = 0;
    float *turned;

    (void)dev;
    for (int s = 0; s < a->seqs; s++) window = a->view[s].window > window ? a->view[s].window : window;
    turned = malloc((size_t)dim * sizeof(float) + (size_t)window * sizeof(bool));
    if (!turned) return sc_fail(err, SC_ENOMEM, "select: out of memory");
    for (int s = 0; s < a->seqs; s++)
        for (int h = 0; h < a->heads; h++)
            for (int b = 0; b < blocks; b++) {
                const sc_kv_view *view = &a->view[s];
                const sc_kv_slot *slots = view->slots + (size_t)h * (size_t)view->slot_stride;
                size_t row = ((size_t)s * (size_t)a->heads + (size_t)h) * (size_t)blocks + (size_t)b;
                float *score = a->score + row * (size_t)a->score_stride, *local = score + view->persistent;
                int32_t *list = a->list + row * (size_t)a->list_stride;
                int n = 0;

                for (int j = 0; j < view->persistent + view->window; j++) {
                    const sc_kv_slot *slot = &slots[slot_of_column(view, j)];
                    sc_cpu_turn(turned, a->rep_q + row * (size_t)dim, &a->rope, dim, sc_cpu_age(&a->rope, view, slot));
                    score[j] = sc_cpu_dot(turned, a->pages.rep_k + (size_t)slot->page * (size_t)dim, dim) / sqrtf((float)dim);
                }
                for (int j = 0; j < view->persistent; j++) list[n++] = j;
                sc_cpu_choose(list + n, local, view->window, view->window_base, view->window - blocks + b, a->keep[s], (bool *)(turned + dim));
            }
    free(turned);
    return SC_OK;
}

/* ---- attention over pages ----------------------------------------------------------------------------------------------- */

sc_status sc_twin_attention(sc_device *dev, const sc_attention_args *a, sc_error *err) {
    int dim = a->head_dim, blocks = a->blocks.blocks, most = 0;
    float *turned, *weight;

    (void)dev;
    for (int s = 0; s < a->seqs; s++) {
        int n = a->list ? a->list_count[s] : a->view[s].persistent + a->view[s].window;
        most = n > most ? n : most;
    }
    turned = malloc(((size_t)dim + (size_t)most * (size_t)a->pages.page_rows) * sizeof(float));
    if (!turned) return sc_fail(err, SC_ENOMEM, "attention: out of memory");
    weight = turned + dim;
    for (int s = 0; s < a->seqs; s++)
        for (int h = 0; h < a->heads; h++)
            for (int b = 0; b < blocks; b++)
                for (int t = a->blocks.start_host[b]; t < a->blocks.start_host[b + 1]; t++) {
                    const sc_kv_view *view = &a->view[s];
                    const sc_kv_slot *slots = view->slots + (size_t)h * (size_t)view->slot_stride;
                    size_t head = (size_t)s * (size_t)a->heads + (size_t)h;
                    const float *q = (const float *)a->q + (head * (size_t)a->blocks.tokens + (size_t)t) * (size_t)dim;
                    const int32_t *list = a->list ? a->list + (head * (size_t)blocks + (size_t)b) * (size_t)a->list_stride : NULL;
                    float *out = (float *)a->out + (((size_t)s * (size_t)a->blocks.tokens + (size_t)t) * (size_t)a->heads + (size_t)h) * (size_t)dim;
                    int listed = list ? a->list_count[s] : view->persistent + view->window, n = 0;

                    for (int i = 0; i < listed; i++) {
                        const sc_kv_slot *slot = &slots[list ? list[i] : slot_of_column(view, i)];
                        const float *k = page_rows(a->pages.k, &a->pages, slot->page);
                        sc_cpu_turn(turned, q, &a->rope, dim, sc_cpu_age(&a->rope, view, slot));
                        for (int j = 0; j < block_length(&a->blocks, slot->block); j++)
                            weight[n++] = sc_cpu_dot(turned, k + (size_t)j * (size_t)dim, dim) / (sc_q_scale(a->q_scale) * sqrtf((float)dim));
                    }
                    sc_cpu_softmax(weight, n);
                    for (int d = 0; d < dim; d++) out[d] = 0;
                    n = 0;
                    for (int i = 0; i < listed; i++) {
                        const sc_kv_slot *slot = &slots[list ? list[i] : slot_of_column(view, i)];
                        const float *v = page_rows(a->pages.v, &a->pages, slot->page);
                        for (int j = 0; j < block_length(&a->blocks, slot->block); j++, n++)
                            for (int d = 0; d < dim; d++) out[d] += weight[n] * v[(size_t)j * (size_t)dim + (size_t)d];
                    }
                }
    free(turned);
    return SC_OK;
}

/* ---- attention over the prompt, attention inside the text encoder ---------------------------------------------------------- */

sc_status sc_twin_cross_attention(sc_device *dev, const sc_cross_attention_args *a, sc_error *err) {
    int dim = a->head_dim, most = 0;
    size_t width = (size_t)a->heads * (size_t)dim;
    float *weight;

    if (a->norm_q)
        sc_twin_rms_norm(dev, &(sc_rms_norm_args){.x = a->q, .x_type = SC_F32, .ldx = (int)width, .out = a->q, .out_type = SC_F32, .m = a->seqs * a->tokens,
                                                  .dim = (int)width, .eps = a->eps, .weight = a->norm_q}, err);
    for (int s = 0; s < a->seqs; s++) most = a->n[s] > most ? a->n[s] : most;
    assert(!a->weights || (most <= a->weights && a->weights <= SC_FOLD_MAX && a->weights % 8 == 0));
    weight = malloc((size_t)most * sizeof(float));
    if (!weight) return sc_fail(err, SC_ENOMEM, "cross attention: out of memory");
    for (int s = 0; s < a->seqs; s++)
        for (int t = 0; t < a->tokens; t++)
            for (int h = 0; h < a->heads; h++) {
                size_t at = ((size_t)s * (size_t)a->tokens + (size_t)t) * width + (size_t)h * (size_t)dim;
                const float *q = (const float *)a->q + at;
                const float *k = (const float *)a->k[s] + h * dim;
                for (int j = 0; j < a->n[s]; j++) weight[j] = sc_cpu_dot(q, k + (size_t)j * width, dim) / sqrtf((float)dim);
                weight[a->n[s] - 1] += a->last_bias[s];
                sc_cpu_softmax(weight, a->n[s]);
                if (!a->weights) {
                    weighted_sum((float *)a->out + at, weight, (const float *)a->v[s] + h * dim, width, a->n[s], dim);
                    continue;
                }
                float *row = (float *)a->out + (((size_t)s * (size_t)a->tokens + (size_t)t) * (size_t)a->heads + (size_t)h) * (size_t)a->weights;
                for (int j = 0; j < a->weights; j++) row[j] = j < a->n[s] ? weight[j] : 0.0f;
            }
    free(weight);
    return SC_OK;
}

sc_status sc_twin_text_attention(sc_device *dev, const sc_text_attention_args *a, sc_error *err) {
    int dim = a->head_dim;
    size_t ld = (size_t)a->ld;
    float *weight = malloc((size_t)a->n * sizeof(float));

    (void)dev;
    if (!weight) return sc_fail(err, SC_ENOMEM, "text attention: out of memory");
    for (int h = 0; h < a->heads; h++) {
        const float *q = (const float *)a->q + h * dim, *k = (const float *)a->k + h * dim, *v = (const float *)a->v + h * dim;
        const float *bias = a->bias + (size_t)h * (size_t)(2 * a->reach + 1) + a->reach;
        for (int i = 0; i < a->n; i++) {
            for (int j = 0; j < a->n; j++) {
                const int r = j - i < -a->reach ? -a->reach : j - i > a->reach ? a->reach : j - i;
                weight[j] = sc_cpu_dot(q + (size_t)i * ld, k + (size_t)j * ld, dim) + bias[r];
            }
            sc_cpu_softmax(weight, a->n);
            weighted_sum((float *)a->out + ((size_t)i * (size_t)a->heads + (size_t)h) * (size_t)dim, weight, v, ld, a->n, dim);
        }
    }
    free(weight);
    return SC_OK;
}

/* text_encoder.c - see text_encoder.h. Per layer:
 *
 *   x += o( attention( rms(x) ) + position bias, no 1/sqrt(d) )      x += fc2( fc1(y) * gelu_tanh(gate(y)) ),  y = rms(x)
 *
 * q, k, v are one product, gate and fc1 another. The bias of a head depends on the distance of key and query alone, and from max_dist on it
 * stays the same: a table of all distances goes to the device at load, so between the ids and the embeddings nothing is computed on the host,
 * copied or waited for. */
#include "engine/text_encoder.h"
#include "engine/devmem.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call) do { if ((rc = (call))) goto cleanup; } while (0)

typedef struct {
    sc_matrix *qkv, *o, *gate_up, *fc2;
    float *norm1, *norm2;  /* device */
    float *bias;           /* host [buckets][heads] */
} t5_layer;

/* For shape.tokens rows, all on the device. */
typedef struct {
    float *x;              /* [dim]; the residual stream */
    float *final;          /* [dim] */
    void *norm;            /* act [dim] */
    void *qkv;             /* act [3 dim_attn] */
    void *heads;           /* act [dim_attn] */
    void *gate_up;         /* act [2 dim_ffn] */
    void *hidden;          /* act [dim_ffn] */
} t5_work;

struct sc_t5 {
    sc_device *dev;
    sc_t5_shape shape;
    sc_matrix *embedding;
    float *norm;
    t5_layer *layer;
    float *bias;           /* device [layers][heads][2 reach + 1], by distance + reach */
    int reach;             /* min(max_dist, tokens - 1) */
    t5_work work;
};

static const float t5_eps = 1e-6f;

/* to [heads][2 reach + 1] */
static void spread_bias(const sc_t5 *t, int layer, int reach, float *to) {
    const int heads = t->shape.heads;
    for (int r = -reach; r <= reach; r++) {
        const float *from = t->layer[layer].bias + sc_t5_bucket(r, t->shape.buckets, t->shape.max_dist) * heads;
        for (int h = 0; h < heads; h++) to[(size_t)h * (2 * (size_t)reach + 1) + (size_t)(reach + r)] = from[h];
    }
}

static sc_status plan_work(sc_t5 *t, sc_error *err) {
    const sc_t5_shape *s = &t->shape;
    const size_t rows = (size_t)s->tokens, act = sc_act_bytes(t->dev), dim = (size_t)s->dim, attn = (size_t)s->dim_attn, ffn = (size_t)s->dim_ffn;
    t5_work *w = &t->work;
    const struct { void **p; size_t bytes; } want[] = {{(void **)&w->x, dim * 4}, {(void **)&w->final, dim * 4}, {&w->norm, dim * act}, {&w->qkv, 3 * attn * act},
                                                       {&w->heads, attn * act}, {&w->gate_up, 2 * ffn * act}, {&w->hidden, ffn * act}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const sc_status rc = t->dev->ops->alloc(t->dev, want[i].p, rows * want[i].bytes, err);
        if (rc) return rc;
    }
    return SC_OK;
}

static sc_status place_bias(sc_t5 *t, sc_error *err) {
    const size_t layer = (size_t)t->shape.heads * (2 * (size_t)t->reach + 1), bytes = (size_t)t->shape.layers * layer * 4;
    float *host = malloc(bytes);
    sc_status rc;

    if (!host) return sc_fail(err, SC_ENOMEM, "text encoder: out of memory");
    for (int i = 0; i < t->shape.layers; i++) spread_bias(t, i, t->reach, host + (size_t)i * layer);
    rc = t->dev->ops->alloc(t->dev, (void **)&t->bias, bytes, err);
    if (!rc) rc = t->dev->ops->upload(t->dev, t->bias, host, bytes, err);
    free(host);
    return rc;
}

sc_status sc_t5_load(sc_t5 **out, sc_device *dev, const sc_tensors *set, const char *prefix, const sc_t5_shape *s, sc_error *err) {
    sc_t5 *t = calloc(1, sizeof *t);
    const char *name = "token_embedding";
    sc_status rc = SC_OK;

    *out = NULL;
    if (!t || !(t->layer = calloc((size_t)s->layers, sizeof *t->layer))) { rc = sc_fail(err, SC_ENOMEM, "text encoder: out of memory"); goto cleanup; }
    t->dev = dev;
    t->shape = *s;
    assert(s->tokens >= 1);
    t->reach = s->max_dist < s->tokens - 1 ? s->max_dist : s->tokens - 1;
    TRY(sc_load_matrix(dev, set, prefix, &name, 1, s->vocab, s->dim, false, &t->embedding, err));
    TRY(sc_load_f32(dev, set, prefix, "norm.weight", s->dim, &t->norm, err));
    for (int i = 0; i < s->layers; i++) {
        static const char *const qkv[] = {"attn.q", "attn.k", "attn.v"}, *const gate_up[] = {"ffn.gate.0", "ffn.fc1"}, *const o[] = {"attn.o"}, *const fc2[] = {"ffn.fc2"};
        t5_layer *l = &t->layer[i];
        const struct { const char *const *name; int parts, rows, cols; sc_matrix **out; } m[] = {
            {qkv, 3, s->dim_attn, s->dim, &l->qkv}, {o, 1, s->dim, s->dim_attn, &l->o}, {gate_up, 2, s->dim_ffn, s->dim, &l->gate_up}, {fc2, 1, s->dim, s->dim_ffn, &l->fc2}};
        const int64_t bias_shape[2] = {s->buckets, s->heads};
        const sc_tensor *bias;
        char p[192], full[256];
        snprintf(p, sizeof p, "%sblocks.%d.", prefix, i);
        for (size_t j = 0; j < sizeof m / sizeof *m; j++) TRY(sc_load_matrix(dev, set, p, m[j].name, m[j].parts, m[j].rows, m[j].cols, false, m[j].out, err));
        TRY(sc_load_f32(dev, set, p, "norm1.weight", s->dim, &l->norm1, err));
        TRY(sc_load_f32(dev, set, p, "norm2.weight", s->dim, &l->norm2, err));
        snprintf(full, sizeof full, "%spos_embedding.embedding.weight", p);
        TRY(sc_tensors_need(set, full, 2, bias_shape, &bias, err));
        if (!(l->bias = sc_tensor_to_f32(bias))) { rc = sc_fail(err, SC_ENOMEM, "text encoder: out of memory"); goto cleanup; }
        sc_tensors_used(set, bias, true);
    }
    TRY(place_bias(t, err));
    TRY(plan_work(t, err));
    *out = t;
    t = NULL;
cleanup:
    sc_t5_close(t);
    return rc;
}

void sc_t5_close(sc_t5 *t) {
    if (!t) return;
    const sc_ops *ops = t->dev ? t->dev->ops : NULL;
    for (int i = 0; t->layer && i < t->shape.layers; i++) {
        t5_layer *l = &t->layer[i];
        sc_matrix *m[] = {l->qkv, l->o, l->gate_up, l->fc2};
        for (size_t j = 0; j < sizeof m / sizeof *m; j++) if (m[j]) ops->matrix_destroy(t->dev, m[j]);
        ops->release(t->dev, l->norm1);
        ops->release(t->dev, l->norm2);
        free(l->bias);
    }
    if (t->embedding) ops->matrix_destroy(t->dev, t->embedding);
    void *p[] = {t->norm, t->bias, t->work.x, t->work.final, t->work.norm, t->work.qkv, t->work.heads, t->work.gate_up, t->work.hidden};
    for (size_t i = 0; i < sizeof p / sizeof *p; i++)
        if (p[i]) ops->release(t->dev, p[i]);
    free(t->layer);
    free(t);
}

void sc_t5_move(sc_t5 *t, sc_device *dev) { t->dev = dev; }

size_t sc_t5_dim(const sc_t5 *t) { return (size_t)t->shape.dim; }

int sc_t5_bucket(int r, int buckets, int max_dist) {
    const int half = buckets / 2, exact = half / 2;
    const int base = r > 0 ? half : 0, a = abs(r);
    if (a < exact) return base + a;
    /* Largest k with a >= exact * (max_dist / exact)^(k / (half - exact)), that is a^n >= exact^(n - k) max_dist^k with
     * n = half - exact: compared in logarithms with a slack far below the distance of neighbouring integers. */
    const int n = half - exact;
    int k = (int)floor(log((double)a / exact) / log((double)max_dist / exact) * n + 1e-9);
    if (k > n - 1) k = n - 1;
    return base + exact + k;
}

void sc_t5_bias(const sc_t5 *t, int layer, int n, float *out) { spread_bias(t, layer, n - 1, out); }

sc_status sc_t5_encode(const sc_t5 *t, const int32_t *ids, int n, float *out, sc_t5_tap *tap, void *tap_ctx, sc_error *err) {
    sc_device *dev = t->dev;
    const sc_ops *ops = dev->ops;
    const sc_t5_shape *s = &t->shape;
    const t5_work *w = &t->work;
    const size_t bytes = (size_t)n * (size_t)s->dim * 4, table = (size_t)s->heads * (2 * (size_t)t->reach + 1);
    sc_status rc = SC_OK;

    assert(n >= 1 && n <= s->tokens);
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= s->vocab) return sc_fail(err, SC_EINVAL, "text encoder: token %d of the prompt is %d, the vocabulary has %d", i, ids[i], s->vocab);
    TRY(ops->gather(dev, w->x, t->embedding, ids, n, err));
    for (int i = 0; i < s->layers; i++) {
        const t5_layer *l = &t->layer[i];
        TRY(ops->rms_norm(dev, &(sc_rms_norm_args){.x = w->x, .x_type = SC_F32, .ldx = s->dim, .out = w->norm, .out_type = dev->act, .m = n, .dim = s->dim,
                                                   .eps = t5_eps, .weight = l->norm1}, err));
        TRY(ops->linear(dev, &(sc_linear_args){.w = l->qkv, .x = w->norm, .out = w->qkv, .out_type = dev->act, .m = n}, err));
        TRY(ops->text_attention(dev, &(sc_text_attention_args){.n = n, .heads = s->heads, .head_dim = s->dim_attn / s->heads, .q = w->qkv,
                                                               .k = sc_act_at(dev, w->qkv, (size_t)s->dim_attn), .v = sc_act_at(dev, w->qkv, 2 * (size_t)s->dim_attn),
                                                               .ld = 3 * s->dim_attn, .bias = t->bias + (size_t)i * table, .reach = t->reach, .out = w->heads}, err));
        TRY(ops->linear(dev, &(sc_linear_args){.w = l->o, .x = w->heads, .out = w->x, .out_type = SC_F32, .m = n, .epilogue = SC_EPI_RESIDUAL}, err));
        TRY(ops->rms_norm(dev, &(sc_rms_norm_args){.x = w->x, .x_type = SC_F32, .ldx = s->dim, .out = w->norm, .out_type = dev->act, .m = n, .dim = s->dim,
                                                   .eps = t5_eps, .weight = l->norm2}, err));
        TRY(ops->linear(dev, &(sc_linear_args){.w = l->gate_up, .x = w->norm, .out = w->gate_up, .out_type = dev->act, .m = n}, err));
        TRY(ops->mul_gelu(dev, w->hidden, w->gate_up, n, s->dim_ffn, err));
        TRY(ops->linear(dev, &(sc_linear_args){.w = l->fc2, .x = w->hidden, .out = w->x, .out_type = SC_F32, .m = n, .epilogue = SC_EPI_RESIDUAL}, err));
        if (tap) {
            TRY(ops->download(dev, out, w->x, bytes, err));
            tap(tap_ctx, i, out);
        }
    }
    TRY(ops->rms_norm(dev, &(sc_rms_norm_args){.x = w->x, .x_type = SC_F32, .ldx = s->dim, .out = w->final, .out_type = SC_F32, .m = n, .dim = s->dim,
                                               .eps = t5_eps, .weight = t->norm}, err));
    TRY(ops->download(dev, out, w->final, bytes, err));
cleanup:
    return rc;
}

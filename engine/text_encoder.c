/* text_encoder.c - see text_encoder.h. Per layer:
 *
 *   x += o( attention( rms(x) ) + position bias, no 1/sqrt(d) )      x += fc2( fc1(y) * gelu_tanh(gate(y)) ),  y = rms(x)
 *
 * A prompt is encoded once and kept by the prompt cache, so this allocates its work memory per call. */
#include "engine/text_encoder.h"
#include "engine/devmem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call) do { if ((rc = (call))) goto cleanup; } while (0)

typedef struct {
    sc_matrix *qkv, *o, *gate, *fc1, *fc2;
    float *norm1, *norm2;  /* device */
    float *bias;           /* host [buckets][heads] */
} t5_layer;

struct sc_t5 {
    sc_device *dev;
    sc_t5_shape shape;
    sc_matrix *embedding;
    float *norm;
    t5_layer *layer;
};

static const float t5_eps = 1e-6f;

sc_status sc_t5_load(sc_t5 **out, sc_device *dev, const sc_tensors *set, const char *prefix, const sc_t5_shape *s, sc_error *err) {
    sc_t5 *t = calloc(1, sizeof *t);
    const char *name = "token_embedding";
    sc_status rc = SC_OK;

    *out = NULL;
    if (!t || !(t->layer = calloc((size_t)s->layers, sizeof *t->layer))) { rc = sc_fail(err, SC_ENOMEM, "text encoder: out of memory"); goto cleanup; }
    t->dev = dev;
    t->shape = *s;
    TRY(sc_load_matrix(dev, set, prefix, &name, 1, s->vocab, s->dim, false, &t->embedding, err));
    TRY(sc_load_f32(dev, set, prefix, "norm.weight", s->dim, &t->norm, err));
    for (int i = 0; i < s->layers; i++) {
        static const char *const qkv[] = {"attn.q", "attn.k", "attn.v"};
        t5_layer *l = &t->layer[i];
        const struct { const char *name; int rows, cols; sc_matrix **out; } m[] = {
            {"attn.o", s->dim, s->dim_attn, &l->o}, {"ffn.gate.0", s->dim_ffn, s->dim, &l->gate},
            {"ffn.fc1", s->dim_ffn, s->dim, &l->fc1}, {"ffn.fc2", s->dim, s->dim_ffn, &l->fc2}};
        const int64_t bias_shape[2] = {s->buckets, s->heads};
        const sc_tensor *bias;
        char p[192], full[256];
        snprintf(p, sizeof p, "%sblocks.%d.", prefix, i);
        TRY(sc_load_matrix(dev, set, p, qkv, 3, s->dim_attn, s->dim, false, &l->qkv, err));
        for (size_t j = 0; j < sizeof m / sizeof *m; j++) TRY(sc_load_matrix(dev, set, p, &m[j].name, 1, m[j].rows, m[j].cols, false, m[j].out, err));
        TRY(sc_load_f32(dev, set, p, "norm1.weight", s->dim, &l->norm1, err));
        TRY(sc_load_f32(dev, set, p, "norm2.weight", s->dim, &l->norm2, err));
        snprintf(full, sizeof full, "%spos_embedding.embedding.weight", p);
        TRY(sc_tensors_need(set, full, 2, bias_shape, &bias, err));
        if (!(l->bias = sc_tensor_to_f32(bias))) { rc = sc_fail(err, SC_ENOMEM, "text encoder: out of memory"); goto cleanup; }
        sc_tensors_used(set, bias, true);
    }
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
        sc_matrix *m[] = {l->qkv, l->o, l->gate, l->fc1, l->fc2};
        for (size_t j = 0; j < sizeof m / sizeof *m; j++) if (m[j]) ops->matrix_destroy(t->dev, m[j]);
        ops->release(t->dev, l->norm1);
        ops->release(t->dev, l->norm2);
        free(l->bias);
    }
    if (t->embedding) ops->matrix_destroy(t->dev, t->embedding);
    if (t->norm) ops->release(t->dev, t->norm);
    free(t->layer);
    free(t);
}

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

void sc_t5_bias(const sc_t5 *t, int layer, int n, float *out) {
    for (int h = 0; h < t->shape.heads; h++)
        for (int r = -(n - 1); r <= n - 1; r++)
            *out++ = t->layer[layer].bias[sc_t5_bucket(r, t->shape.buckets, t->shape.max_dist) * t->shape.heads + h];
}

sc_status sc_t5_encode(const sc_t5 *t, const int32_t *ids, int n, float *out, sc_t5_tap *tap, void *tap_ctx, sc_error *err) {
    sc_device *dev = t->dev;
    const sc_ops *ops = dev->ops;
    const sc_t5_shape *s = &t->shape;
    const size_t act = sc_act_bytes(dev), rows = (size_t)n;
    float *x = NULL, *bias = NULL, *bias_host = NULL, *final = NULL;
    void *norm = NULL, *qkv = NULL, *heads = NULL, *gate = NULL, *up = NULL;
    sc_status rc = SC_OK;

    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= s->vocab) return sc_fail(err, SC_EINVAL, "text encoder: token %d of the prompt is %d, the vocabulary has %d", i, ids[i], s->vocab);
    const size_t bias_bytes = (size_t)s->heads * (2 * rows - 1) * 4;
    if (!(bias_host = malloc(bias_bytes))) { rc = sc_fail(err, SC_ENOMEM, "text encoder: out of memory"); goto cleanup; }
    TRY(ops->alloc(dev, (void **)&x, rows * (size_t)s->dim * 4, err));
    TRY(ops->alloc(dev, (void **)&final, rows * (size_t)s->dim * 4, err));
    TRY(ops->alloc(dev, (void **)&bias, bias_bytes, err));
    TRY(ops->alloc(dev, &norm, rows * (size_t)s->dim * act, err));
    TRY(ops->alloc(dev, &qkv, rows * 3 * (size_t)s->dim_attn * act, err));
    TRY(ops->alloc(dev, &heads, rows * (size_t)s->dim_attn * act, err));
    TRY(ops->alloc(dev, &gate, rows * (size_t)s->dim_ffn * act, err));
    TRY(ops->alloc(dev, &up, rows * (size_t)s->dim_ffn * act, err));
    TRY(ops->gather(dev, x, t->embedding, ids, n, err));
    for (int i = 0; i < s->layers; i++) {
        const t5_layer *l = &t->layer[i];
        sc_t5_bias(t, i, n, bias_host);
        TRY(ops->upload(dev, bias, bias_host, bias_bytes, err));
        TRY(ops->rms_norm(dev, &(sc_rms_norm_args){.x = x, .x_type = SC_F32, .ldx = s->dim, .out = norm, .out_type = dev->act, .m = n, .dim = s->dim,
                                                   .eps = t5_eps, .weight = l->norm1}, err));
        TRY(ops->linear(dev, &(sc_linear_args){.w = l->qkv, .x = norm, .out = qkv, .out_type = dev->act, .m = n}, err));
        TRY(ops->text_attention(dev, &(sc_text_attention_args){.n = n, .heads = s->heads, .head_dim = s->dim_attn / s->heads, .q = qkv,
                                                               .k = sc_act_at(dev, qkv, (size_t)s->dim_attn), .v = sc_act_at(dev, qkv, 2 * (size_t)s->dim_attn),
                                                               .ld = 3 * s->dim_attn, .bias = bias, .out = heads}, err));
        TRY(ops->linear(dev, &(sc_linear_args){.w = l->o, .x = heads, .out = x, .out_type = SC_F32, .m = n, .epilogue = SC_EPI_RESIDUAL}, err));
        TRY(ops->rms_norm(dev, &(sc_rms_norm_args){.x = x, .x_type = SC_F32, .ldx = s->dim, .out = norm, .out_type = dev->act, .m = n, .dim = s->dim,
                                                   .eps = t5_eps, .weight = l->norm2}, err));
        TRY(ops->linear(dev, &(sc_linear_args){.w = l->gate, .x = norm, .out = gate, .out_type = dev->act, .m = n}, err));
        TRY(ops->linear(dev, &(sc_linear_args){.w = l->fc1, .x = norm, .out = up, .out_type = dev->act, .m = n}, err));
        TRY(ops->mul_gelu(dev, gate, up, gate, rows * (size_t)s->dim_ffn, err));
        TRY(ops->linear(dev, &(sc_linear_args){.w = l->fc2, .x = gate, .out = x, .out_type = SC_F32, .m = n, .epilogue = SC_EPI_RESIDUAL}, err));
        if (tap) {
            TRY(ops->download(dev, out, x, rows * (size_t)s->dim * 4, err));
            tap(tap_ctx, i, out);
        }
    }
    TRY(ops->rms_norm(dev, &(sc_rms_norm_args){.x = x, .x_type = SC_F32, .ldx = s->dim, .out = final, .out_type = SC_F32, .m = n, .dim = s->dim,
                                               .eps = t5_eps, .weight = t->norm}, err));
    TRY(ops->download(dev, out, final, rows * (size_t)s->dim * 4, err));
cleanup:
    free(bias_host);
    void *p[] = {x, final, bias, norm, qkv, heads, gate, up};
    for (size_t i = 0; i < sizeof p / sizeof *p; i++) ops->release(dev, p[i]);
    return rc;
}

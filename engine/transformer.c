/* transformer.c - weights of the transformer, and what is computed once: modulation of a timestep, keys and values of a prompt.
 *
 * A timestep touches the network only through its embedding, and the few timesteps of a schedule are known at load: their whole
 * modulation table (every layer's six rows and the head's two, the layer's own modulation added) is made then, on the host in
 * double, and a pass merely indexes it. A prompt touches it only through the cross-attention keys and values.
 *
 * Padding rows of a prompt are all one vector: zero through the text MLP. n equal keys are one key with log n on its logit, so
 * text_len rows become (tokens + 1). With so few keys the product behind cross attention is made with the values beforehand (a fold): what is left
 * of it is a product over heads * rows columns instead of dim. The keys are taken through the product before it in the same way, where the device has
 * queries that need not be made (ops.h).
 *
 * A prompt is made on a queue of its own, in work memory planned at load; dev goes on behind a mark, and nobody waits. */
#include "engine/transformer.h"
#include "engine/devmem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call) do { if ((rc = (call))) goto cleanup; } while (0)

/* Host f32 copy of a tensor of `count` elements. */
static sc_status load_host(const sc_tensors *set, const char *prefix, const char *name, int64_t count, float **out, sc_error *err) {
    char full[256];
    const sc_tensor *t;

    *out = NULL;
    snprintf(full, sizeof full, "%s%s", prefix, name);
    if (!(t = sc_tensors_find(set, full))) return sc_tensors_need(set, full, 0, NULL, &t, err);
    if (t->count != count) return sc_fail(err, SC_EINVAL, "tensor %s: %lld elements where %lld are needed", full, (long long)t->count, (long long)count);
    if (!(*out = sc_tensor_to_f32(t))) return sc_fail(err, SC_EINVAL, "tensor %s: not a float tensor, or no memory for it", full);
    sc_tensors_used(set, t, true);
    return SC_OK;
}

static sc_status load_layer(sc_dit *d, const sc_tensors *set, const char *prefix, int index, sc_error *err) {
    sc_dit_layer *l = &d->layer[index];
    const int dim = d->shape.dim, ffn = d->shape.ffn_dim;
    static const char *const qkv[] = {"self_attn.q", "self_attn.k", "self_attn.v"};
    const struct { const char *name; int rows, cols; sc_matrix **out; } matrices[] = {
        {"self_attn.o", dim, dim, &l->o},      {"cross_attn.q", dim, dim, &l->cross_q}, {"cross_attn.k", dim, dim, &l->cross_k},
        {"cross_attn.v", dim, dim, &l->cross_v}, {"cross_attn.o", dim, dim, &l->cross_o}, {"ffn.0", ffn, dim, &l->ffn_up},
        {"ffn.2", dim, ffn, &l->ffn_down}};
    const struct { const char *name; float **out; } vectors[] = {
        {"self_attn.norm_q.weight", &l->norm_q}, {"self_attn.norm_k.weight", &l->norm_k}, {"cross_attn.norm_q.weight", &l->cross_norm_q},
        {"cross_attn.norm_k.weight", &l->cross_norm_k}, {"norm3.weight", &l->norm3_w}, {"norm3.bias", &l->norm3_b}};
    char p[192];
    sc_status rc;

    snprintf(p, sizeof p, "%sblocks.%d.", prefix, index);
    TRY(sc_load_matrix(d->dev, set, p, qkv, 3, dim, dim, true, &l->qkv, err));
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
        TRY(sc_load_matrix(d->dev, set, p, &matrices[i].name, 1, matrices[i].rows, matrices[i].cols, true, matrices[i].out, err));
    if (d->dev->ops->query_create) TRY(d->dev->ops->query_create(d->dev, &l->query, l->cross_q, err));
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        TRY(sc_load_f32(d->dev, set, p, vectors[i].name, dim, vectors[i].out, err));
    TRY(load_host(set, p, "modulation", 6 * (int64_t)dim, &l->modulation, err));
cleanup:
    return rc;
}

static sc_status plan_prompts(sc_dit *d, sc_error *err) {
    sc_device *dev = d->dev;
    const sc_ops *ops = dev->ops;
    sc_prompt_work *w = d->prompt = calloc(1, sizeof *w);
    const size_t rows = (size_t)d->shape.text_len, dim = rows * (size_t)d->shape.dim, text = rows * (size_t)d->shape.text_dim;
    sc_status rc;

    if (!w || !(w->host = malloc(text * sizeof *w->host))) return sc_fail(err, SC_ENOMEM, "prompt: out of memory");
    TRY(ops->alloc(dev, (void **)&w->in, text * 4, err));
    TRY(ops->alloc(dev, (void **)&w->text, dim * 4, err));
    TRY(ops->alloc(dev, (void **)&w->key, dim * 4, err));
    TRY(ops->alloc(dev, &w->in_act, text * sc_act_bytes(dev), err));
    TRY(ops->alloc(dev, &w->hidden, dim * sc_act_bytes(dev), err));
    TRY(ops->alloc(dev, &w->text_act, dim * sc_act_bytes(dev), err));
    if (ops->mark_create) TRY(ops->mark_create(dev, &w->made, err));
cleanup:
    return rc;
}

static void free_prompts(sc_dit *d) {
    sc_prompt_work *w = d->prompt;
    if (!w) return;
    void *p[] = {w->in, w->text, w->key, w->in_act, w->hidden, w->text_act};
    for (size_t i = 0; i < sizeof p / sizeof *p; i++) d->dev->ops->release(d->dev, p[i]);
    if (w->made) d->dev->ops->mark_destroy(d->dev, w->made);
    free(w->host);
    free(w);
}

sc_status sc_dit_load(sc_dit **out, sc_device *dev, const sc_tensors *set, const char *prefix, const sc_dit_shape *shape, sc_error *err) {
    sc_dit *d = calloc(1, sizeof *d);
    const int dim = shape->dim, patch = shape->patch_h * shape->patch_w;
    const char *name;
    char full[256];
    const sc_tensor *t;
    sc_status rc = SC_OK;

    *out = NULL;
    if (!d || !(d->layer = calloc((size_t)shape->layers, sizeof *d->layer))) { rc = sc_fail(err, SC_ENOMEM, "transformer: out of memory"); goto cleanup; }
    d->dev = d->prompt_dev = dev;
    d->shape = *shape;
    TRY(sc_load_matrix(dev, set, prefix, (name = "patch_embedding", &name), 1, dim, shape->in_ch * patch, true, &d->patch, err));
    TRY(sc_load_matrix(dev, set, prefix, (name = "text_embedding.0", &name), 1, dim, shape->text_dim, true, &d->text0, err));
    TRY(sc_load_matrix(dev, set, prefix, (name = "text_embedding.2", &name), 1, dim, dim, true, &d->text2, err));
    TRY(sc_load_matrix(dev, set, prefix, (name = "head.head", &name), 1, shape->out_ch * patch, dim, true, &d->head, err));
    TRY(load_host(set, prefix, "head.modulation", 2 * (int64_t)dim, &d->head_modulation, err));
    TRY(load_host(set, prefix, "time_embedding.0.weight", (int64_t)dim * shape->freq_dim, &d->time0_w, err));
    TRY(load_host(set, prefix, "time_embedding.0.bias", dim, &d->time0_b, err));
    TRY(load_host(set, prefix, "time_embedding.2.weight", (int64_t)dim * dim, &d->time2_w, err));
    TRY(load_host(set, prefix, "time_embedding.2.bias", dim, &d->time2_b, err));
    TRY(load_host(set, prefix, "time_projection.1.weight", 6 * (int64_t)dim * dim, &d->proj_w, err));
    TRY(load_host(set, prefix, "time_projection.1.bias", 6 * (int64_t)dim, &d->proj_b, err));
    snprintf(full, sizeof full, "%spos_embedding", prefix);
    if ((t = sc_tensors_find(set, full))) {
        if (t->rank != 2 || t->shape[1] != dim) { rc = sc_fail(err, SC_EINVAL, "tensor %s: not [tokens of a frame][%d]", full, dim); goto cleanup; }
        d->pos_rows = t->shape[0];
        TRY(sc_load_f32(dev, set, prefix, "pos_embedding", t->count, &d->pos, err));
    }
    for (int i = 0; i < shape->layers; i++) TRY(load_layer(d, set, prefix, i, err));
    TRY(plan_prompts(d, err));
    for (int i = 0; i < sc_tensors_count(set); i++)
        if (!strncmp(sc_tensors_at(set, i)->name, prefix, strlen(prefix))) d->parameters += (long)sc_tensors_at(set, i)->count;
    *out = d;
    d = NULL;
cleanup:
    sc_dit_close(d);
    return rc;
}

void sc_dit_close(sc_dit *d) {
    if (!d) return;
    const sc_ops *ops = d->dev ? d->dev->ops : NULL;
    for (int i = 0; d->layer && i < d->shape.layers; i++) {
        sc_dit_layer *l = &d->layer[i];
        sc_matrix *m[] = {l->qkv, l->o, l->cross_q, l->cross_k, l->cross_v, l->cross_o, l->ffn_up, l->ffn_down};
        if (l->query) ops->query_destroy(d->dev, l->query);
        float *f[] = {l->norm_q, l->norm_k, l->cross_norm_q, l->cross_norm_k, l->norm3_w, l->norm3_b};
        for (size_t j = 0; j < sizeof m / sizeof *m; j++) if (m[j]) ops->matrix_destroy(d->dev, m[j]);
        for (size_t j = 0; j < sizeof f / sizeof *f; j++) ops->release(d->dev, f[j]);
        free(l->modulation);
    }
    sc_matrix *m[] = {d->patch, d->text0, d->text2, d->head};
    for (size_t j = 0; j < sizeof m / sizeof *m; j++) if (m[j]) ops->matrix_destroy(d->dev, m[j]);
    if (d->pos) ops->release(d->dev, d->pos);
    if (ops) free_prompts(d);
    float *h[] = {d->head_modulation, d->time0_w, d->time0_b, d->time2_w, d->time2_b, d->proj_w, d->proj_b};
    for (size_t j = 0; j < sizeof h / sizeof *h; j++) free(h[j]);
    free(d->layer);
    free(d);
}

/* ---- modulation --------------------------------------------------------------------------------------------------------- */

size_t sc_dit_mod_row(const sc_dit *d) { return ((size_t)d->shape.layers * 6 + 2) * (size_t)d->shape.dim; }

/* y = w x + b in double, rounded once. */
static void affine(float *y, const float *w, const float *b, const float *x, int rows, int cols) {
    for (int r = 0; r < rows; r++) {
        double sum = b[r];
        for (int c = 0; c < cols; c++) sum += (double)w[(size_t)r * (size_t)cols + (size_t)c] * x[c];
        y[r] = (float)sum;
    }
}

static float silu(float x) { return (float)(x / (1.0 + exp(-(double)x))); }

sc_status sc_dit_modulation(const sc_dit *d, double timestep, float *out, float *e_out, float *e0_out, sc_error *err) {
    const int dim = d->shape.dim, freq = d->shape.freq_dim, half = freq / 2;
    float *buf = malloc(((size_t)freq + 9 * (size_t)dim) * sizeof *buf);
    if (!buf) return sc_fail(err, SC_ENOMEM, "time embedding: out of memory");
    float *wave = buf, *hidden = wave + freq, *e = hidden + dim, *act = e + dim, *e0 = act + dim;

    for (int i = 0; i < half; i++) {
        double angle = timestep * pow(10000.0, -(double)i / half);
        wave[i] = (float)cos(angle);
        wave[half + i] = (float)sin(angle);
    }
    affine(hidden, d->time0_w, d->time0_b, wave, dim, freq);
    for (int i = 0; i < dim; i++) hidden[i] = silu(hidden[i]);
    affine(e, d->time2_w, d->time2_b, hidden, dim, dim);
    for (int i = 0; i < dim; i++) act[i] = silu(e[i]);
    affine(e0, d->proj_w, d->proj_b, act, 6 * dim, dim);
    if (out) {
        for (int l = 0; l < d->shape.layers; l++)
            for (int i = 0; i < 6 * dim; i++) *out++ = d->layer[l].modulation[i] + e0[i];
        for (int i = 0; i < 2 * dim; i++) *out++ = d->head_modulation[i] + e[i % dim];
    }
    if (e_out) memcpy(e_out, e, (size_t)dim * sizeof *e);
    if (e0_out) memcpy(e0_out, e0, 6 * (size_t)dim * sizeof *e0);
    free(buf);
    return SC_OK;
}

/* ---- prompt ------------------------------------------------------------------------------------------------------------- */

/* dev's later calls come behind what prompt_dev was asked for so far. */
static sc_status join_prompts(const sc_dit *d, sc_error *err) {
    sc_status rc;

    if (d->prompt_dev == d->dev) return SC_OK;
    if ((rc = d->prompt_dev->ops->mark(d->prompt_dev, d->prompt->made, err))) return rc;
    return d->dev->ops->after(d->dev, d->prompt->made, err);
}

/* Embedded prompt rows to d->prompt->text and text_act; rows >= n, the rest from zero vectors. emb may be d->prompt->host. */
static sc_status embed_text(const sc_dit *d, const float *emb, int n, int rows, sc_error *err) {
    enum { PIECE = 1 << 20 }; /* a device may wait for larger uploads */
    sc_device *dev = d->prompt_dev;
    const sc_ops *ops = dev->ops;
    const sc_prompt_work *w = d->prompt;
    const size_t dim = (size_t)d->shape.dim, td = (size_t)d->shape.text_dim, bytes = (size_t)rows * td * 4;
    sc_status rc;

    if (emb != w->host) memcpy(w->host, emb, (size_t)n * td * 4);
    memset(w->host + (size_t)n * td, 0, (size_t)(rows - n) * td * 4);
    for (size_t at = 0; at < bytes; at += PIECE) TRY(ops->upload(dev, (char *)w->in + at, (const char *)w->host + at, bytes - at < PIECE ? bytes - at : PIECE, err));
    TRY(ops->convert(dev, w->in_act, w->in, (size_t)rows * td, err));
    TRY(ops->linear(dev, &(sc_linear_args){.w = d->text0, .x = w->in_act, .out = w->hidden, .out_type = dev->act, .m = rows, .epilogue = SC_EPI_GELU}, err));
    TRY(ops->linear(dev, &(sc_linear_args){.w = d->text2, .x = w->hidden, .out = w->text, .out_type = SC_F32, .m = rows}, err));
    TRY(ops->convert(dev, w->text_act, w->text, (size_t)rows * dim, err));
cleanup:
    return rc;
}

sc_status sc_dit_text(const sc_dit *d, const float *emb, int n, int rows, float *out, sc_error *err) {
    const sc_status rc = embed_text(d, emb, n, rows, err);
    return rc ? rc : d->prompt_dev->ops->download(d->prompt_dev, out, d->prompt->text, (size_t)rows * (size_t)d->shape.dim * 4, err);
}

/* Act elements of all layers' keys and values; folds begin behind them, at a multiple of 256 bytes. */
static size_t keys_room(const sc_dit *d, int rows) { return (2 * (size_t)d->shape.layers * (size_t)rows * (size_t)d->shape.dim + 127) / 128 * 128; }

/* Act elements of what a layer's fold is made in. */
static size_t fold_room(const sc_dit *d, int stride) {
    return ((size_t)d->shape.dim + SC_FOLD_ROWS - 1) / SC_FOLD_ROWS * SC_FOLD_ROWS * (size_t)(d->shape.heads * stride);
}

static int fold_stride(const sc_dit *d, int rows) {
    const sc_ops *ops = d->dev->ops;
    return ops->fold_stride ? ops->fold_stride(d->dev, d->layer[0].cross_o, d->shape.heads, rows) : 0;
}

sc_status sc_cross_plan(const sc_dit *d, int n, bool collapse, sc_cross *out, sc_error *err) {
    sc_device *dev = d->prompt_dev;
    const sc_ops *ops = dev->ops;
    const int text_len = d->shape.text_len, rows = collapse && n < text_len ? n + 1 : text_len;
    const size_t layers = (size_t)d->shape.layers, keys = keys_room(d, rows);
    sc_status rc;

    memset(out, 0, sizeof *out);
    if (n < 1 || n > text_len) return sc_fail(err, SC_EINVAL, "prompt: %d tokens, the model takes 1 to %d", n, text_len);
    out->serial = ++d->prompt->plans;
    out->rows = rows;
    out->last_bias = collapse && n < text_len ? (float)log((double)(text_len - n)) : 0.0f;
    out->stride = fold_stride(d, rows);
    out->bytes = (keys + layers * fold_room(d, out->stride)) * sc_act_bytes(dev);
    const size_t folded = out->bytes;
    if (out->stride && d->layer[0].query) out->keys_bytes = ops->query_bytes(dev, d->layer[0].query, d->shape.heads, out->stride);
    out->bytes += layers * out->keys_bytes;
    TRY(ops->alloc(dev, &out->kv, out->bytes, err));
    if (out->keys_bytes) out->keys = (char *)out->kv + folded;
    TRY(join_prompts(d, err)); /* also for who gives it back unused */
    if (!out->stride) return SC_OK;
    if (!(out->fold = calloc(layers, sizeof *out->fold))) { rc = sc_fail(err, SC_ENOMEM, "prompt: out of memory"); goto cleanup; }
    for (size_t l = 0; l < layers; l++)
        TRY(ops->fold_create(dev, &out->fold[l], d->layer[l].cross_o, sc_act_at(dev, out->kv, keys + l * fold_room(d, out->stride)), d->shape.heads * out->stride, err));
cleanup:
    if (rc) sc_cross_free(d, out);
    return rc;
}

static sc_status write_keys(const sc_dit *d, const sc_cross *c, const float *emb, int n, sc_error *err) {
    sc_device *dev = d->prompt_dev;
    const sc_ops *ops = dev->ops;
    const int dim = d->shape.dim, rows = c->rows;
    const sc_prompt_work *w = d->prompt;
    sc_status rc;

    TRY(embed_text(d, emb, n, rows, err));
    for (int l = 0; l < d->shape.layers; l++) {
        const sc_dit_layer *layer = &d->layer[l];
        void *k = sc_act_at(dev, c->kv, (size_t)l * 2 * (size_t)rows * (size_t)dim), *v = sc_act_at(dev, k, (size_t)rows * (size_t)dim);
        TRY(ops->linear(dev, &(sc_linear_args){.w = layer->cross_k, .x = w->text_act, .out = w->key, .out_type = SC_F32, .m = rows}, err));
        TRY(ops->rms_norm(dev, &(sc_rms_norm_args){.x = w->key, .x_type = SC_F32, .ldx = dim, .out = k, .out_type = dev->act, .m = rows, .dim = dim,
                                                   .eps = (float)d->shape.eps, .weight = layer->cross_norm_k}, err));
        TRY(ops->linear(dev, &(sc_linear_args){.w = layer->cross_v, .x = w->text_act, .out = v, .out_type = dev->act, .m = rows}, err));
        if (c->fold)
            TRY(ops->fold(dev, &(sc_fold_args){.out = c->fold[l], .o = layer->cross_o, .v = v, .n = rows, .heads = d->shape.heads, .stride = c->stride}, err));
        if (c->keys)
            TRY(ops->query_keys(dev, &(sc_query_keys_args){.query = layer->query, .norm = layer->cross_norm_q, .k = k, .n = rows, .heads = d->shape.heads,
                                                           .stride = c->stride, .keys = c->keys + (size_t)l * c->keys_bytes}, err));
    }
cleanup:
    return rc;
}

sc_status sc_cross_write(const sc_dit *d, const sc_cross *c, const float *emb, int n, sc_error *err) {
    sc_error why;
    const sc_status rc = write_keys(d, c, emb, n, err), joined = join_prompts(d, &why); /* joined after a failure too: the memory goes back on dev */
    return rc ? rc : joined ? sc_fail(err, joined, "%s", why.text) : SC_OK;
}

sc_status sc_cross_create(const sc_dit *d, const float *emb, int n, bool collapse, sc_cross *out, sc_error *err) {
    sc_status rc = sc_cross_plan(d, n, collapse, out, err);

    if (!rc && (rc = sc_cross_write(d, out, emb, n, err))) sc_cross_free(d, out);
    return rc;
}

void sc_cross_free(const sc_dit *d, sc_cross *c) {
    for (int l = 0; c->fold && l < d->shape.layers; l++)
        if (c->fold[l]) d->dev->ops->matrix_destroy(d->dev, c->fold[l]);
    free(c->fold);
    if (c->kv) d->dev->ops->release(d->dev, c->kv);
    memset(c, 0, sizeof *c);
}

sc_status sc_dit_warm(const sc_dit *d, sc_work *w, sc_error *err) {
    sc_device *dev = d->dev;
    const sc_ops *ops = dev->ops;
    const sc_query *query = d->layer[0].query;
    void *room = NULL, *keys = NULL;
    sc_status rc = SC_OK;
    int last = 0;

    for (int n = SC_FOLD_MAX; n >= 1; n--) {
        const int stride = fold_stride(d, n);
        sc_matrix *m;
        if (!stride || stride == last) continue;
        last = stride;
        if (!room) TRY(ops->alloc(dev, &room, fold_room(d, stride) * sc_act_bytes(dev), err)); /* the longest comes first */
        TRY(ops->fold_create(dev, &m, d->layer[0].cross_o, room, d->shape.heads * stride, err));
        rc = ops->linear(dev, &(sc_linear_args){.w = m, .x = w->heads_out, .out = w->x, .out_type = SC_F32, .m = w->tokens, .epilogue = SC_EPI_RESIDUAL}, err);
        ops->matrix_destroy(dev, m);
        if (rc) break;
        if (!query) continue;
        const int few = n < d->shape.text_len ? n : d->shape.text_len; /* any rows will do for keys */
        if (!keys) TRY(ops->alloc(dev, &keys, ops->query_bytes(dev, query, d->shape.heads, stride), err));
        TRY(ops->query_keys(dev, &(sc_query_keys_args){.query = query, .norm = d->layer[0].cross_norm_q, .k = d->prompt->text_act, .n = few, .heads = d->shape.heads,
                                                       .stride = stride, .keys = keys}, err));
        TRY(ops->query_weights(dev, &(sc_query_weights_args){.query = query, .keys = keys, .x = w->norm, .tokens = w->tokens, .n = few, .heads = d->shape.heads,
                                                             .stride = stride, .eps = (float)d->shape.eps, .out = w->heads_out}, err));
    }
cleanup:
    ops->release(dev, keys);
    ops->release(dev, room);
    return rc;
}

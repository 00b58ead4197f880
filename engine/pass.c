/* pass.c - one pass of the transformer over the chunks of a batch of sessions.
 *
 *   latent -> patches -> x
 *   layer:  x += gate1 * o( attention( norm(x) mod 1 ) )      keys and values go to the session's pages on the way
 *           x += cross( norm3(x) )
 *           x += gate2 * ffn( norm(x) mod 2 )
 *   head    -> flow
 *
 * A norm is named by the product whose residual it reads (sc_linear_args.then), so that a device adds and normalises in one go: w->norm is
 * ready when a part of a layer begins, and only the first layer's first norm stands alone.
 * Work memory is planned once; nothing is allocated here. A pass without a flow (the clean pass) stops in the last layer as soon as its
 * keys are written and scored: nobody reads what comes after. */
#include "engine/devmem.h"
#include "engine/transformer.h"

#include <assert.h>
#include <stdlib.h>

#define TRY(call) do { if ((rc = (call))) return rc; } while (0)

sc_status sc_work_create(sc_work **out, const sc_dit *d, const sc_layout *layout, int batch, int slots, int persistent_max, sc_error *err) {
    sc_device *dev = d->dev;
    const sc_ops *ops = dev->ops;
    sc_work *w = calloc(1, sizeof *w);
    const size_t rows = (size_t)batch * (size_t)layout->tokens, dim = (size_t)d->shape.dim, ffn = (size_t)d->shape.ffn_dim;
    const size_t patch = (size_t)(d->shape.patch_h * d->shape.patch_w), in = patch * (size_t)d->shape.in_ch, outw = patch * (size_t)d->shape.out_ch;
    const size_t lists = (size_t)batch * (size_t)d->shape.heads * (size_t)layout->blocks.blocks;

    *out = NULL;
    if (!w) return sc_fail(err, SC_ENOMEM, "work memory: out of memory");
    w->batch = batch;
    w->tokens = layout->tokens;
    w->score_stride = w->list_stride = slots;
    /* f16 models take their representatives from unrounded products. */
    w->qkv_type = dev->act == SC_BF16 ? SC_BF16 : SC_F32;
    const struct { void **p; size_t bytes; } want[] = {
        {(void **)&w->x, rows * dim * 4},
        {&w->norm, rows * (dim > in ? dim : in) * sc_act_bytes(dev)},
        {&w->qkv, rows * 3 * dim * sc_dtype_bytes(w->qkv_type)},
        {&w->q, rows * dim * sc_act_bytes(dev)},
        {&w->heads_out, rows * dim * sc_act_bytes(dev)},
        {&w->ffn, rows * ffn * sc_act_bytes(dev)},
        {(void **)&w->head, (size_t)layout->tokens * outw * 4},
        {(void **)&w->rep_q, lists * (size_t)d->shape.head_dim * 4},
        {(void **)&w->score, lists * (size_t)slots * 4},
        {(void **)&w->list, lists * (size_t)slots * 4},
        {(void **)&w->mass, (size_t)batch * (size_t)d->shape.heads * (size_t)slots * 4},
        {(void **)&w->kept, (size_t)batch * (size_t)d->shape.heads * (size_t)(persistent_max + 1) * 4}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        sc_status rc = ops->alloc(dev, want[i].p, want[i].bytes, err);
        if (rc) { sc_work_free(w, dev); return rc; }
        w->bytes += want[i].bytes;
    }
    *out = w;
    return SC_OK;
}

void sc_work_free(sc_work *w, sc_device *dev) {
    if (!w) return;
    void *p[] = {w->x, w->norm, w->qkv, w->q, w->heads_out, w->ffn, w->head, w->rep_q, w->score, w->list, w->mass, w->kept};
    for (size_t i = 0; i < sizeof p / sizeof *p; i++) dev->ops->release(dev, p[i]);
    free(w);
}

static void tap(const sc_pass_args *a, sc_tap what, int layer, const sc_work *w) {
    if (a->tap) a->tap(a->tap_ctx, what, layer, w);
}

/* x = patches(latent) . patch_embedding (+ pos_embedding). */
static sc_status embed(const sc_dit *d, sc_work *w, const sc_pass_args *a, sc_error *err) {
    const sc_layout *l = a->layout;
    const sc_ops *ops = d->dev->ops;
    const size_t in = (size_t)(d->shape.in_ch * d->shape.patch_h * d->shape.patch_w);
    sc_status rc;

    for (int s = 0; s < a->seqs; s++)
        TRY(ops->patchify(d->dev, &(sc_patch_args){.ch = d->shape.in_ch, .frames = l->frames, .rows = l->rows, .cols = l->cols, .ph = d->shape.patch_h,
                                                   .pw = d->shape.patch_w, .order = l->order, .in = a->latent[s],
                                                   .out = sc_act_at(d->dev, w->norm, (size_t)s * (size_t)l->tokens * in)}, err));
    TRY(ops->linear(d->dev, &(sc_linear_args){.w = d->patch, .x = w->norm, .out = w->x, .out_type = SC_F32, .m = a->seqs * l->tokens}, err));
    for (int s = 0; d->pos && s < a->seqs; s++)
        TRY(ops->add_rows(d->dev, w->x + (size_t)s * (size_t)l->tokens * (size_t)d->shape.dim, d->pos, l->pos_row, l->tokens, d->shape.dim, err));
    tap(a, SC_TAP_X_IN, 0, w);
    return SC_OK;
}

/* Views of one layer: the caller gave those of layer 0. */
static void layer_views(const sc_dit *d, const sc_pass_args *a, int layer, sc_kv_view *out) {
    for (int s = 0; s < a->seqs; s++) {
        out[s] = a->view[s];
        out[s].slots += (size_t)layer * (size_t)d->shape.heads * (size_t)a->view[s].slot_stride;
    }
}

static sc_status select_blocks(const sc_dit *d, sc_work *w, const sc_pass_args *a, const sc_kv_view *view, int layer, sc_error *err) {
    sc_select_args sel = {.seqs = a->seqs, .heads = d->shape.heads, .head_dim = d->shape.head_dim, .blocks = a->layout->blocks, .rope = a->layout->rope,
                          .pages = a->pages, .rep_q = w->rep_q, .score = w->score, .score_stride = w->score_stride, .list = w->list,
                          .list_stride = w->list_stride};
    sc_status rc;
    for (int s = 0; s < a->seqs; s++) {
        sel.view[s] = view[s];
        sel.keep[s] = a->keep[s];
    }
    TRY(d->dev->ops->select(d->dev, &sel, err));
    tap(a, SC_TAP_SELECT, layer, w);
    return SC_OK;
}

/* Ages the memory of the sequences that ask for it, once nothing in this layer reads it any more. */
static sc_status update_memory(const sc_dit *d, sc_work *w, const sc_pass_args *a, const sc_kv_view *view, int layer, sc_error *err) {
    const size_t per_seq = (size_t)d->shape.heads * (size_t)a->layout->blocks.blocks * (size_t)w->score_stride;
    bool any = false;
    sc_status rc;
    for (int s = 0; s < a->seqs; s++) {
        if (!a->update[s]) continue;
        sc_memory_update_args u = {.seqs = 1, .heads = d->shape.heads, .blocks = a->layout->blocks, .view = {view[s]},
                                   .score = w->score + (size_t)s * per_seq, .score_stride = w->score_stride, .capacity = a->capacity,
                                   .mass = w->mass + (size_t)s * (size_t)d->shape.heads * (size_t)w->score_stride,
                                   .kept = w->kept + (size_t)s * (size_t)d->shape.heads * (size_t)a->capacity};
        TRY(d->dev->ops->memory_update(d->dev, &u, err));
        any = true;
    }
    if (any) tap(a, SC_TAP_UPDATE, layer, w);
    return SC_OK;
}

/* The modulated norm of w->x to w->norm: shift and scale are the rows at `mod`. */
static sc_layer_norm_args modulated(const sc_dit *d, sc_work *w, const sc_pass_args *a, const float *mod) {
    return (sc_layer_norm_args){.x = w->x, .out = w->norm, .m = a->seqs * a->layout->tokens, .dim = d->shape.dim, .eps = (float)d->shape.eps, .shift = mod,
                                .scale = mod + d->shape.dim, .mod_stride = (int)sc_dit_mod_row(d), .row_mod = a->row_mod};
}

/* What self attention of `layer` reads; of layer `layers`: what the head reads. */
static sc_layer_norm_args first_norm(const sc_dit *d, sc_work *w, const sc_pass_args *a, int layer) {
    return modulated(d, w, a, a->mods + (size_t)layer * 6 * (size_t)d->shape.dim);
}

/* From w->norm; leaves cross attention's norm there. */
static sc_status self_attention(const sc_dit *d, sc_work *w, const sc_pass_args *a, int layer, bool stop_after_memory, sc_error *err) {
    const sc_dit_layer *l = &d->layer[layer];
    const sc_ops *ops = d->dev->ops;
    const int m = a->seqs * a->layout->tokens, dim = d->shape.dim, stride = (int)sc_dit_mod_row(d);
    const float *mod = a->mods + (size_t)layer * 6 * (size_t)dim;
    const sc_layer_norm_args then = {.x = w->x, .out = w->norm, .m = m, .dim = dim, .eps = (float)d->shape.eps, .weight = l->norm3_w, .bias = l->norm3_b};
    sc_qkv_args qkv = {.qkv = w->qkv, .qkv_type = w->qkv_type, .seqs = a->seqs, .heads = d->shape.heads, .head_dim = d->shape.head_dim, .norm_q = l->norm_q,
                       .norm_k = l->norm_k, .eps = (float)d->shape.eps, .blocks = a->layout->blocks, .rope = a->layout->rope, .pages = a->pages,
                       .q_scale = sc_q_scale_of(d->dev->act, d->shape.head_dim), .q = w->q, .rep_q = w->rep_q};
    sc_attention_args att = {.seqs = a->seqs, .heads = d->shape.heads, .head_dim = d->shape.head_dim, .blocks = a->layout->blocks, .rope = a->layout->rope,
                             .pages = a->pages, .q_scale = qkv.q_scale, .q = w->q, .list = a->sparse ? w->list : NULL, .list_stride = w->list_stride, .out = w->heads_out};
    sc_status rc;

    layer_views(d, a, layer, qkv.view);
    TRY(ops->linear(d->dev, &(sc_linear_args){.w = l->qkv, .x = w->norm, .out = w->qkv, .out_type = w->qkv_type, .m = m}, err));
    TRY(ops->qkv(d->dev, &qkv, err));
    if (a->sparse) TRY(select_blocks(d, w, a, qkv.view, layer, err));
    if (stop_after_memory) return update_memory(d, w, a, qkv.view, layer, err);
    for (int s = 0; s < a->seqs; s++) {
        att.view[s] = qkv.view[s];
        att.list_count[s] = qkv.view[s].persistent + (a->sparse ? a->keep[s] : qkv.view[s].window);
    }
    TRY(ops->attention(d->dev, &att, err));
    TRY(update_memory(d, w, a, qkv.view, layer, err));
    TRY(ops->linear(d->dev, &(sc_linear_args){.w = l->o, .x = w->heads_out, .out = w->x, .out_type = SC_F32, .m = m, .epilogue = SC_EPI_GATED_RESIDUAL,
                                              .gate = mod + 2 * dim, .gate_stride = stride, .row_mod = a->row_mod, .then = &then}, err));
    tap(a, SC_TAP_AFTER_SELF, layer, w);
    return SC_OK;
}

/* Weights of sequence s, whose prompt is folded, from w->norm; out as cross_attention leaves it. */
static sc_status cross_folded(const sc_dit *d, sc_work *w, const sc_pass_args *a, int layer, int s, void *out, sc_error *err) {
    const sc_cross *x = a->cross[s];
    const size_t at = (size_t)s * (size_t)a->layout->tokens * (size_t)d->shape.dim;
    return d->dev->ops->query_weights(d->dev, &(sc_query_weights_args){.query = d->layer[layer].query, .keys = x->keys + (size_t)layer * x->keys_bytes,
                                                                       .x = sc_act_at(d->dev, w->norm, at), .tokens = a->layout->tokens, .n = x->rows,
                                                                       .heads = d->shape.heads, .stride = x->stride, .eps = (float)d->shape.eps,
                                                                       .last_bias = x->last_bias, .out = out}, err);
}

/* Sequences [first, first + n), whose queries are made: attention, to values or, where stride is not 0, to weights. */
static sc_status cross_made(const sc_dit *d, sc_work *w, const sc_pass_args *a, int layer, int first, int n, int stride, void *out, sc_error *err) {
    const size_t at = (size_t)first * (size_t)a->layout->tokens * (size_t)d->shape.dim;
    sc_cross_attention_args c = {.seqs = n, .tokens = a->layout->tokens, .heads = d->shape.heads, .head_dim = d->shape.head_dim, .q = sc_act_at(d->dev, w->q, at),
                                 .norm_q = d->layer[layer].cross_norm_q, .eps = (float)d->shape.eps, .out = out, .weights = stride};
    for (int s = 0; s < n; s++) {
        const sc_cross *x = a->cross[first + s];
        const size_t rows = (size_t)x->rows * (size_t)d->shape.dim;
        c.k[s] = sc_act_at(d->dev, x->kv, (size_t)layer * 2 * rows);
        c.v[s] = sc_act_at(d->dev, x->kv, ((size_t)layer * 2 + 1) * rows);
        c.n[s] = x->rows;
        c.last_bias[s] = x->last_bias;
    }
    return d->dev->ops->cross_attention(d->dev, &c, err);
}

static bool keys_folded(const sc_cross *x) { return x->keys; }

/* Sequences [first, first + n), whose prompts are folded to one stride (0: not folded): attention, and the product behind it. A fold is a prompt's
 * own, so that each sequence has a product of its own then, always of the same number of rows. */
static sc_status cross_group(const sc_dit *d, sc_work *w, const sc_pass_args *a, int layer, int first, int n, sc_error *err) {
    const int tokens = a->layout->tokens, dim = d->shape.dim, stride = a->cross[first]->stride, cols = stride ? d->shape.heads * stride : dim;
    const size_t row = (size_t)first * (size_t)tokens, at = row * (size_t)dim, of_one = (size_t)tokens * (size_t)cols;
    sc_status rc;

    if (!keys_folded(a->cross[first])) TRY(cross_made(d, w, a, layer, first, n, stride, sc_act_at(d->dev, w->heads_out, at), err));
    else
        for (int s = 0; s < n; s++) TRY(cross_folded(d, w, a, layer, first + s, sc_act_at(d->dev, w->heads_out, at + (size_t)s * of_one), err));
    for (int s = 0; s < n; s += stride ? 1 : n) {
        const size_t part = row + (size_t)s * (size_t)tokens;
        sc_layer_norm_args then = modulated(d, w, a, a->mods + ((size_t)layer * 6 + 3) * (size_t)dim);
        then.m = stride ? tokens : n * tokens;
        then.x = w->x + part * (size_t)dim;
        then.out = sc_act_at(d->dev, w->norm, part * (size_t)dim);
        if (a->row_mod) then.row_mod = a->row_mod + part;
        TRY(d->dev->ops->linear(d->dev, &(sc_linear_args){.w = stride ? a->cross[first + s]->fold[layer] : d->layer[layer].cross_o,
                                                          .x = sc_act_at(d->dev, w->heads_out, at + (size_t)s * of_one),
                                                          .out = w->x + part * (size_t)dim, .out_type = SC_F32, .m = then.m, .epilogue = SC_EPI_RESIDUAL,
                                                          .then = &then}, err));
    }
    return SC_OK;
}

/* From w->norm; leaves the feed-forward's norm there. Queries are made of the sequences whose keys are not folded, neighbours at once. */
static sc_status cross_attention(const sc_dit *d, sc_work *w, const sc_pass_args *a, int layer, sc_error *err) {
    const int tokens = a->layout->tokens;
    sc_status rc;

    for (int s = 0, n; s < a->seqs; s += n) {
        const size_t at = (size_t)s * (size_t)tokens * (size_t)d->shape.dim;
        for (n = 1; s + n < a->seqs && keys_folded(a->cross[s + n]) == keys_folded(a->cross[s]);) n++;
        if (!keys_folded(a->cross[s]))
            TRY(d->dev->ops->linear(d->dev, &(sc_linear_args){.w = d->layer[layer].cross_q, .x = sc_act_at(d->dev, w->norm, at), .out = sc_act_at(d->dev, w->q, at),
                                                              .out_type = d->dev->act, .m = n * tokens}, err));
    }
    for (int s = 0, n; s < a->seqs; s += n) {
        for (n = 1; s + n < a->seqs && a->cross[s + n]->stride == a->cross[s]->stride && keys_folded(a->cross[s + n]) == keys_folded(a->cross[s]);) n++;
        TRY(cross_group(d, w, a, layer, s, n, err));
    }
    tap(a, SC_TAP_AFTER_CROSS, layer, w);
    return SC_OK;
}

/* From w->norm; leaves there what the next layer, or the head, begins with. */
static sc_status feed_forward(const sc_dit *d, sc_work *w, const sc_pass_args *a, int layer, sc_error *err) {
    const sc_dit_layer *l = &d->layer[layer];
    const sc_ops *ops = d->dev->ops;
    const int m = a->seqs * a->layout->tokens, dim = d->shape.dim, stride = (int)sc_dit_mod_row(d);
    const float *mod = a->mods + ((size_t)layer * 6 + 3) * (size_t)dim;
    const sc_layer_norm_args then = first_norm(d, w, a, layer + 1);
    sc_status rc;

    TRY(ops->linear(d->dev, &(sc_linear_args){.w = l->ffn_up, .x = w->norm, .out = w->ffn, .out_type = d->dev->act, .m = m, .epilogue = SC_EPI_GELU}, err));
    TRY(ops->linear(d->dev, &(sc_linear_args){.w = l->ffn_down, .x = w->ffn, .out = w->x, .out_type = SC_F32, .m = m, .epilogue = SC_EPI_GATED_RESIDUAL,
                                              .gate = mod + 2 * dim, .gate_stride = stride, .row_mod = a->row_mod, .then = &then}, err));
    tap(a, SC_TAP_OUT, layer, w);
    return SC_OK;
}

static sc_status head(const sc_dit *d, sc_work *w, const sc_pass_args *a, sc_error *err) {
    const sc_layout *l = a->layout;
    const sc_ops *ops = d->dev->ops;
    const int dim = d->shape.dim;
    sc_status rc;

    for (int s = 0; s < a->seqs; s++) {
        TRY(ops->linear(d->dev, &(sc_linear_args){.w = d->head, .x = sc_act_at(d->dev, w->norm, (size_t)s * (size_t)l->tokens * (size_t)dim), .out = w->head,
                                                  .out_type = SC_F32, .m = l->tokens}, err));
        TRY(ops->unpatchify(d->dev, &(sc_patch_args){.ch = d->shape.out_ch, .frames = l->frames, .rows = l->rows, .cols = l->cols, .ph = d->shape.patch_h,
                                                     .pw = d->shape.patch_w, .order = l->order, .in = w->head, .out = a->flow[s]}, err));
    }
    return SC_OK;
}

sc_status sc_dit_pass(const sc_dit *d, sc_work *w, const sc_pass_args *a, sc_error *err) {
    const bool memory_only = !a->flow[0];
    const sc_layer_norm_args norm = first_norm(d, w, a, 0);
    sc_status rc;

    assert(a->seqs >= 1 && a->seqs <= w->batch && a->layout->tokens == w->tokens);
    TRY(embed(d, w, a, err));
    TRY(d->dev->ops->layer_norm(d->dev, &norm, err));
    for (int i = 0; i < d->shape.layers; i++) {
        const bool stop = memory_only && i == d->shape.layers - 1;
        TRY(self_attention(d, w, a, i, stop, err));
        if (stop) return SC_OK;
        TRY(cross_attention(d, w, a, i, err));
        TRY(feed_forward(d, w, a, i, err));
    }
    return head(d, w, a, err);
}

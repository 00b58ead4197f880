/* vectors_pbsa.c - runners for persistent block-sparse attention: single steps (with gradients) and a rollout of six chunks.
 *
 * q and k of these files are given after RoPE, so no age turns anything here: the rope has no frame pairs. An id is chunk x blocks of a
 * chunk + block. The gradients are the attention's own, with the selection constant, in double: they show that the forward pass and the
 * selection are the ones the training code sees. */
#include "cli/vectors.h"
#include "engine/devmem.h"
#include "engine/kv_memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *name;          /* "a", "b", ... */
    int heads, d, block, valid, queries, p, l, keep, capacity;
    const float *q, *k, *v;    /* [heads][queries * block][d], [heads][kv_rows][d] */
    size_t kv_rows;            /* rows of a head in k, v */
    int k_first;               /* first block of k, v that belongs to this case (P, then L) */
    const int32_t *p_ids, *l_ids; /* [heads][p], [l] */
} pbsa_case;

typedef struct { float *score, *mass, *out; int32_t *selected, *p_new; } pbsa_result;

static void result_free(pbsa_result *r) { free(r->score); free(r->mass); free(r->out); free(r->selected); free(r->p_new); }

/* Means over the first `valid` rows of each block of x [blocks][block][d]. */
static void block_means(float *out, const float *x, int blocks, int block, int valid, int d) {
    for (int b = 0; b < blocks; b++)
        for (int c = 0; c < d; c++) {
            double sum = 0;
            for (int t = 0; t < valid; t++) sum += x[((size_t)b * (size_t)block + (size_t)t) * (size_t)d + (size_t)c];
            out[(size_t)b * (size_t)d + (size_t)c] = (float)(sum / valid);
        }
}

/* select, attention and memory_update of one case on the device. selected: local index; p_new: ids (block numbers). */
static bool run_case(sc_vectors *v, const pbsa_case *c, pbsa_result *r) {
    const sc_ops *ops = v->dev->ops;
    const int n = c->p + c->l, tokens = c->queries * c->valid;
    const size_t page = (size_t)(c->block * c->d), H = (size_t)c->heads;
    sc_kv_slot *slots = calloc(H * (size_t)(n + c->capacity), sizeof *slots), *slots_dev;
    int64_t *now_dev;
    const int base = c->capacity > c->p ? c->capacity : c->p, stride = base + c->l;
    float *k = calloc(H * (size_t)stride * page, sizeof *k), *val = calloc(H * (size_t)stride * page, sizeof *val), *rep = calloc(H * (size_t)stride * (size_t)c->d, sizeof *rep);
    float *q = malloc(H * (size_t)tokens * (size_t)c->d * sizeof *q), *rep_q = malloc(H * (size_t)(c->queries * c->d) * sizeof *rep_q);
    int32_t *start = malloc(((size_t)c->queries + 1) * sizeof *start);

    for (int h = 0; h < c->heads; h++) {
        for (int j = 0; j < n; j++) {
            const int s = j < c->p ? j : base + j - c->p, pg = h * stride + s;
            const float *kb = c->k + ((size_t)h * c->kv_rows + (size_t)((c->k_first + j) * c->block)) * (size_t)c->d;
            const int id = j < c->p ? c->p_ids[h * c->p + j] : c->l_ids[j - c->p];
            slots[h * stride + s] = (sc_kv_slot){.page = pg, .chunk = id / c->queries, .block = id % c->queries};
            memcpy(k + (size_t)pg * page, kb, page * sizeof *k);
            memcpy(val + (size_t)pg * page, c->v + (kb - c->k), page * sizeof *k);
            block_means(rep + (size_t)(pg * c->d), kb, 1, c->block, c->valid, c->d);
        }
        for (int s = c->p; s < base; s++) slots[h * stride + s].page = h * stride + s;
        const float *qh = c->q + (size_t)h * (size_t)(c->queries * c->block * c->d);
        block_means(rep_q + (size_t)(h * c->queries * c->d), qh, c->queries, c->block, c->valid, c->d);
        for (int b = 0; b < c->queries; b++)
            memcpy(q + ((size_t)(h * tokens + b * c->valid)) * (size_t)c->d, qh + (size_t)(b * c->block * c->d), (size_t)(c->valid * c->d) * sizeof *q);
    }
    for (int b = 0; b <= c->queries; b++) start[b] = b * c->valid;

    const size_t scores = H * (size_t)(c->queries * n), lists = H * (size_t)(c->queries * stride);
    sc_pages pages = {.pages = c->heads * stride, .page_rows = c->block, .head_dim = c->d, .k = sc_vectors_put(v, k, H * (size_t)stride * page, true),
                      .v = sc_vectors_put(v, val, H * (size_t)stride * page, true), .rep_k = sc_vectors_put(v, rep, H * (size_t)(stride * c->d), false)};
    void *q_dev = sc_vectors_put(v, q, H * (size_t)(tokens * c->d), true), *out_dev = sc_vectors_put(v, q, H * (size_t)(tokens * c->d), true);
    float *rep_dev = sc_vectors_put(v, rep_q, H * (size_t)(c->queries * c->d), false), *score_dev, *mass_dev;
    int32_t *list_dev, *start_dev, *list = malloc(lists * sizeof *list);
    r->score = malloc(scores * sizeof(float));
    r->mass = malloc(H * (size_t)n * sizeof(float));
    r->out = calloc(H * (size_t)(c->queries * c->block * c->d), sizeof(float));
    r->selected = malloc(H * (size_t)(c->queries * c->keep) * sizeof(int32_t));
    r->p_new = malloc(H * (size_t)c->capacity * sizeof(int32_t) + 4);
    if (ops->alloc(v->dev, (void **)&now_dev, sizeof *now_dev, &v->err) || ops->alloc(v->dev, (void **)&slots_dev, H * (size_t)stride * sizeof *slots, &v->err) || ops->alloc(v->dev, (void **)&score_dev, scores * 4, &v->err) ||
        ops->alloc(v->dev, (void **)&mass_dev, H * (size_t)n * 4, &v->err) || ops->alloc(v->dev, (void **)&list_dev, lists * 4, &v->err) ||
        ops->alloc(v->dev, (void **)&start_dev, ((size_t)c->queries + 1) * 4, &v->err) || ops->upload(v->dev, slots_dev, slots, H * (size_t)stride * sizeof *slots, &v->err) ||
        ops->upload(v->dev, start_dev, start, ((size_t)c->queries + 1) * 4, &v->err)) return false;

    const double theta[1] = {0};
    const sc_blocks blocks = {.tokens = tokens, .blocks = c->queries, .start = start_dev, .start_host = start};
    const sc_rope rope = {.theta = theta, .frame_pairs = 0, .chunk_frames = 1, .max_distance = 0};
    const sc_kv_view view = {.slots = slots_dev, .slot_stride = stride, .persistent = c->p, .window_base = base, .window = c->l, .chunk_now = now_dev};
    const sc_select_args sel = {.seqs = 1, .heads = c->heads, .head_dim = c->d, .blocks = blocks, .rope = rope, .pages = pages, .view = {view}, .keep = {c->keep},
                                .rep_q = rep_dev, .score = score_dev, .score_stride = n, .list = list_dev, .list_stride = stride};
    const sc_attention_args att = {.seqs = 1, .heads = c->heads, .head_dim = c->d, .blocks = blocks, .rope = rope, .pages = pages, .view = {view}, .q = q_dev,
                                   .list = list_dev, .list_stride = stride, .list_count = {c->p + c->keep}, .out = out_dev};
    if (ops->select(v->dev, &sel, &v->err) || ops->attention(v->dev, &att, &v->err)) return false;
    if (c->capacity && ops->memory_update(v->dev, &(sc_memory_update_args){.seqs = 1, .heads = c->heads, .blocks = blocks, .view = {view}, .score = score_dev, .score_stride = n,
                                          .capacity = c->capacity, .mass = mass_dev}, &v->err)) return false;
    sc_vectors_get(v, r->score, score_dev, scores, SC_F32);
    if (c->capacity) sc_vectors_get(v, r->mass, mass_dev, H * (size_t)n, SC_F32);
    sc_vectors_get(v, (float *)list, list_dev, lists, SC_F32); /* 32-bit words, whatever they mean */
    sc_vectors_get(v, q, out_dev, H * (size_t)(tokens * c->d), v->dev->act);
    if (ops->download(v->dev, slots, slots_dev, H * (size_t)stride * sizeof *slots, &v->err)) return false;
    for (int h = 0; h < c->heads; h++) {
        for (int b = 0; b < c->queries; b++) {
            for (int s = 0; s < c->keep; s++) r->selected[(h * c->queries + b) * c->keep + s] = list[(size_t)(h * c->queries + b) * (size_t)stride + (size_t)(c->p + s)] - base;
            for (int t = 0; t < c->valid; t++) /* [tokens][heads][d] back to [heads][queries * block][d] */
                memcpy(r->out + ((size_t)(h * c->queries + b) * (size_t)c->block + (size_t)t) * (size_t)c->d, q + ((size_t)(b * c->valid + t) * H + (size_t)h) * (size_t)c->d, (size_t)c->d * 4);
        }
        for (int s = 0; s < c->capacity; s++) r->p_new[h * c->capacity + s] = (int32_t)slots[h * stride + s].chunk * c->queries + slots[h * stride + s].block;
    }
    void *dev[] = {pages.k, pages.v, pages.rep_k, q_dev, out_dev, rep_dev, score_dev, mass_dev, list_dev, start_dev, slots_dev, now_dev};
    for (size_t i = 0; i < sizeof dev / sizeof *dev; i++) ops->release(v->dev, dev[i]);
    free(slots); free(k); free(val); free(rep); free(q); free(rep_q); free(start); free(list);
    return true;
}

/* ---- gradients of case a ------------------------------------------------------------------------------------------------ */

static double dot(const float *a, const float *b, int d) {
    double s = 0;
    for (int i = 0; i < d; i++) s += (double)a[i] * b[i];
    return s;
}

/* For every query row: p = softmax over its keys, ds = p (do . v - sum p do . v); dq += ds k, dk += ds q, dv += p do. */
static void gradients(const pbsa_case *c, const int32_t *selected, const float *dout, double *dq, double *dk, double *dv) {
    const double scale = 1.0 / sqrt(c->d);
    const int keys = (c->p + c->keep) * c->valid;
    double *p = malloc((size_t)keys * 2 * sizeof *p), *g = p + keys;
    int *row = malloc((size_t)keys * sizeof *row);
    for (int h = 0; h < c->heads; h++)
        for (int i = 0; i < c->queries * c->block; i++) {
            const size_t qo = ((size_t)(h * c->queries * c->block) + (size_t)i) * (size_t)c->d, ko = (size_t)h * c->kv_rows;
            double top = -INFINITY, sum = 0, mean = 0;
            for (int j = 0; j < keys; j++) {
                const int b = j / c->valid, block = b < c->p ? b : c->p + selected[(h * c->queries + i / c->block) * c->keep + b - c->p];
                row[j] = (c->k_first + block) * c->block + j % c->valid;
                p[j] = dot(c->q + qo, c->k + (ko + (size_t)row[j]) * (size_t)c->d, c->d) * scale;
                if (p[j] > top) top = p[j];
            }
            for (int j = 0; j < keys; j++) sum += p[j] = exp(p[j] - top);
            for (int j = 0; j < keys; j++) {
                p[j] /= sum;
                g[j] = dot(dout + qo, c->v + (ko + (size_t)row[j]) * (size_t)c->d, c->d);
                mean += p[j] * g[j];
            }
            for (int j = 0; j < keys; j++) {
                const double ds = p[j] * (g[j] - mean) * scale;
                const size_t r = (ko + (size_t)row[j]) * (size_t)c->d;
                for (int x = 0; x < c->d; x++) {
                    dq[qo + (size_t)x] += ds * c->k[r + (size_t)x];
                    dk[r + (size_t)x] += ds * c->q[qo + (size_t)x];
                    dv[r + (size_t)x] += p[j] * dout[qo + (size_t)x];
                }
            }
        }
    free(p);
    free(row);
}

/* A tensor of row numbers, each checked to be below `rows`. */
static int32_t *row_list(sc_vectors *v, const char *name, size_t rows) {
    const sc_tensor *t = sc_vectors_find(v, name);
    int32_t *list = t ? sc_vectors_i32(v, name) : NULL;
    for (int64_t i = 0; list && i < t->count; i++)
        if (list[i] < 0 || (size_t)list[i] >= rows) {
            sc_vectors_check_ints_n(v, name, list, (size_t)t->count + 1); /* said as what it is: a list that does not fit */
            free(list);
            return NULL;
        }
    return list;
}

static void check_gradients(sc_vectors *v, const pbsa_case *c, const int32_t *selected) {
    const size_t qn = (size_t)(c->heads * c->queries * c->block * c->d);
    float *dout = sc_vectors_f32_n(v, "in.dout", qn);
    const sc_tensor *rows_t = sc_vectors_find(v, "out.a.kv_rows");
    int32_t *rows = rows_t ? row_list(v, "out.a.kv_rows", c->kv_rows) : NULL;
    if (!dout || !rows) return;
    const size_t kn = (size_t)c->heads * c->kv_rows * (size_t)c->d, d = (size_t)c->d;
    const size_t blocks = c->kv_rows / (size_t)c->block, count = (size_t)rows_t->count;
    double *grad[3] = {calloc(qn, 8), calloc(kn, 8), calloc(kn, 8)};
    const size_t most = (size_t)c->heads * count * d;
    float *out = malloc((qn > kn ? qn > most ? qn : most : kn > most ? kn : most) * sizeof *out);
    const double half_rel = v->rel;
    if (v->half) v->rel = 2e-2;
    gradients(c, selected, dout, grad[0], grad[1], grad[2]);
    for (size_t i = 0; i < qn; i++) out[i] = (float)grad[0][i];
    sc_vectors_check_n(v, "out.a.dq", out, qn);
    for (int which = 1; which < 3; which++) {
        for (size_t h = 0; h < (size_t)c->heads; h++)
            for (size_t r = 0; r < count; r++)
                for (size_t x = 0; x < d; x++) out[(h * count + r) * d + x] = (float)grad[which][(h * c->kv_rows + (size_t)rows[r]) * d + x];
        sc_vectors_check_n(v, which == 1 ? "out.a.dk_rows" : "out.a.dv_rows", out, (size_t)c->heads * count * d);
        for (size_t h = 0; h < (size_t)c->heads; h++)
            for (size_t b = 0; b < blocks; b++)
                for (size_t x = 0; x < d; x++) {
                    double sum = 0;
                    for (size_t t = 0; t < (size_t)c->block; t++) sum += grad[which][(h * c->kv_rows + b * (size_t)c->block + t) * d + x];
                    out[(h * blocks + b) * d + x] = (float)sum;
                }
        sc_vectors_check_n(v, which == 1 ? "out.a.dk_blocksum" : "out.a.dv_blocksum", out, (size_t)c->heads * blocks * d);
    }
    v->rel = half_rel;
    for (int i = 0; i < 3; i++) free(grad[i]);
    free(out); free(dout); free(rows);
}

/* ---- pbsa --------------------------------------------------------------------------------------------------------------- */

static void check_case(sc_vectors *v, const pbsa_case *c, const pbsa_result *r) {
    char name[48];
    const size_t d = (size_t)c->d;
    const size_t H = (size_t)c->heads, n = (size_t)(c->p + c->l), Q = (size_t)c->queries;
    const struct { const char *key; const float *f; const int32_t *i; size_t count; } outs[] = {
        {"S", r->score, NULL, H * Q * n}, {"score", c->capacity ? r->mass : NULL, NULL, H * n}, {"selected", NULL, r->selected, H * Q * (size_t)c->keep},
        {"P_new_ids", NULL, c->capacity ? r->p_new : NULL, H * (size_t)c->capacity}, {"out", r->out, NULL, H * Q * (size_t)c->block * d}};
    for (size_t i = 0; i < sizeof outs / sizeof *outs; i++) {
        snprintf(name, sizeof name, "out.%s.%s", c->name, outs[i].key);
        if (!sc_vectors_has(v, name)) continue;
        if (outs[i].f) sc_vectors_check_n(v, name, outs[i].f, outs[i].count);
        if (outs[i].i) sc_vectors_check_ints_n(v, name, outs[i].i, outs[i].count);
    }
    snprintf(name, sizeof name, "out.%s.out_rows", c->name);
    if (!sc_vectors_has(v, name)) return;
    const sc_tensor *rows_t = sc_vectors_find(v, "out.rows");
    int32_t *rows = rows_t ? row_list(v, "out.rows", Q * (size_t)c->block) : NULL;
    if (!rows) return;
    const size_t count = (size_t)rows_t->count;
    float *out = malloc((size_t)c->heads * count * d * sizeof *out);
    for (size_t h = 0; h < (size_t)c->heads; h++)
        for (size_t i = 0; i < count; i++)
            memcpy(out + (h * count + i) * d, r->out + (h * (size_t)(c->queries * c->block) + (size_t)rows[i]) * d, d * sizeof *out);
    sc_vectors_check_n(v, name, out, H * count * d);
    free(out);
    free(rows);
}

static int32_t *id_list(const cJSON *array, size_t want) {
    int32_t *ids = calloc(want + 1, sizeof *ids);
    size_t n = 0;
    const cJSON *it, *inner;
    cJSON_ArrayForEach(it, array) {
        if (cJSON_IsNumber(it)) { if (n < want) ids[n++] = it->valueint; }
        else cJSON_ArrayForEach(inner, it) if (n < want) ids[n++] = inner->valueint;
    }
    return ids;
}

static int keep_of(const cJSON *cfg, int local) { return sc_kv_keep(sc_vectors_num(cfg, "keep_ratio", 1.0), local); }

static bool run_single(sc_vectors *v, const cJSON *cfg, const char *which, const char *input) {
    char name[32];
    int heads, queries, L, P, block, d, valid = 0;
    if (!sc_vectors_size(v, cfg, "heads", 1, 256, &heads) || !sc_vectors_size(v, cfg, "query_blocks", 1, 4096, &queries) || !sc_vectors_size(v, cfg, "local_blocks", queries, 65536, &L) ||
        !sc_vectors_size(v, cfg, "persistent_blocks", 0, 65536, &P) || !sc_vectors_size(v, cfg, "block_tokens", 1, SC_BLOCK_TOKENS_MAX, &block) ||
        !sc_vectors_size(v, cfg, "head_dim", 1, 2 * SC_MAX_ROPE_PAIRS, &d)) return false;
    if (!strcmp(which, "b") && !sc_vectors_size(v, cfg, "ragged_valid", 1, block, &valid)) return false;
    if (which[0] == 'c' && queries * (which[1] - '0') > L) { sc_fail(&v->err, SC_EINVAL, "%s: case %s needs %d local blocks, there are %d", v->path, which, queries * (which[1] - '0'), L); return false; }
    int32_t *p_ids = id_list(cJSON_GetObjectItemCaseSensitive(cfg, "persistent_ids"), (size_t)(heads * P)), *l_ids = id_list(cJSON_GetObjectItemCaseSensitive(cfg, "local_ids"), (size_t)L);
    float *q, *k, *val;
    pbsa_result r = {0};
    bool ok = true;
    snprintf(name, sizeof name, "in.%sq", input);
    q = sc_vectors_f32_n(v, name, (size_t)heads * (size_t)(queries * block) * (size_t)d);
    snprintf(name, sizeof name, "in.%sk", input);
    k = sc_vectors_f32_n(v, name, (size_t)heads * (size_t)((P + L) * block) * (size_t)d);
    snprintf(name, sizeof name, "in.%sv", input);
    val = sc_vectors_f32_n(v, name, (size_t)heads * (size_t)((P + L) * block) * (size_t)d);
    if (!q || !k || !val) return true;
    pbsa_case c = {.name = which, .heads = heads, .d = d, .block = block, .valid = block, .queries = queries, .p = P, .l = L,
                   .keep = keep_of(cfg, L), .capacity = P, .q = q, .k = k, .v = val, .kv_rows = (size_t)((P + L) * block), .p_ids = p_ids, .l_ids = l_ids};
    if (valid) c.valid = valid;
    if (which[0] == 'c') { /* no persistent memory: the chunk alone, or with the one before */
        c.l = queries * (which[1] - '0');
        c.k_first = P + L - c.l;
        c.l_ids = l_ids + L - c.l;
        c.p = 0;
        c.keep = keep_of(cfg, c.l);
        c.capacity = queries; /* only to have the column sums */
    }
    ok = run_case(v, &c, &r);
    if (ok) check_case(v, &c, &r);
    if (ok && !strcmp(which, "a") && sc_vectors_has(v, "in.dout")) check_gradients(v, &c, r.selected);
    if (ok && !strcmp(which, "tie")) { /* all scores equal: the lower ids stay */
        float *zero = calloc((size_t)(heads * queries * block * c.d), sizeof *zero);
        result_free(&r);
        c.q = zero;
        ok = run_case(v, &c, &r);
        if (ok && sc_vectors_has(v, "out.tie.zero_q_P_new_ids")) sc_vectors_check_ints_n(v, "out.tie.zero_q_P_new_ids", r.p_new, (size_t)heads * (size_t)c.capacity);
        free(zero);
    }
    result_free(&r);
    free(q); free(k); free(val); free(p_ids); free(l_ids);
    return ok;
}

bool sc_vectors_pbsa(sc_vectors *v) {
    static const char *const cases[] = {"a", "b", "c1", "c2"};
    cJSON *tie = sc_vectors_meta(v, "tie_config");
    bool ok = true;
    for (size_t i = 0; ok && i < 4; i++) {
        char name[16];
        snprintf(name, sizeof name, "out.%s.S", cases[i]);
        if (sc_vectors_has(v, name)) ok = run_single(v, v->config, cases[i], "");
    }
    if (ok && tie) ok = run_single(v, tie, "tie", "tie.");
    cJSON_Delete(tie);
    return ok;
}

/* ---- pbsa_rollout ------------------------------------------------------------------------------------------------------- */

/* out[j] = sum over rows of softmax_j. */
static void column_sums(float *out, const float *score, int rows, int n, int stride) {
    double *sum = calloc((size_t)n + 1, sizeof *sum);
    for (int i = 0; i < rows; i++) {
        double top = -INFINITY, all = 0;
        for (int j = 0; j < n; j++) top = fmax(top, score[i * stride + j]);
        for (int j = 0; j < n; j++) all += exp(score[i * stride + j] - top);
        for (int j = 0; j < n; j++) sum[j] += exp(score[i * stride + j] - top) / all;
    }
    for (int j = 0; j < n; j++) out[j] = (float)sum[j];
    free(sum);
}

bool sc_vectors_pbsa_rollout(sc_vectors *v) {
    const cJSON *c = v->config;
    int heads, d, block, B, chunks, W, C;
    if (!sc_vectors_size(v, c, "heads", 1, 256, &heads) || !sc_vectors_size(v, c, "head_dim", 1, 2 * SC_MAX_ROPE_PAIRS, &d) || !sc_vectors_size(v, c, "block_tokens", 1, SC_BLOCK_TOKENS_MAX, &block) ||
        !sc_vectors_size(v, c, "blocks_per_chunk", 1, 4096, &B) || !sc_vectors_size(v, c, "chunks", 1, 65536, &chunks) || !sc_vectors_size(v, c, "window_chunks", 1, 1024, &W) ||
        !sc_vectors_size(v, c, "persistent_blocks", 0, 65536, &C)) return false;
    const double ratio = sc_vectors_num(c, "keep_ratio", 1.0);
    const sc_ops *ops = v->dev->ops;
    const int tile[3] = {1, 1, block}, tokens = B * block;
    const sc_kv_rule rule = {.pbsa = true, .window_chunks = W, .capacity = C};
    const size_t chunk = (size_t)heads * (size_t)tokens * (size_t)d;
    float *q = sc_vectors_f32_n(v, "in.q", chunk * (size_t)chunks), *k = sc_vectors_f32_n(v, "in.k", chunk * (size_t)chunks), *val = sc_vectors_f32_n(v, "in.v", chunk * (size_t)chunks);
    const sc_tensor *sel_t = sc_vectors_find_rank(v, "out.selected_ids", 4), *score_t = sc_vectors_find_rank(v, "out.score", 3);
    sc_layout *layout;
    sc_kv_memory m;
    if (!q || !k || !val || !sel_t || !score_t) return true;
    if (sc_layout_create(&layout, v->dev, 1, 1, tokens, tile, d, -1, &v->err) || sc_kv_init(&m, v->dev, &rule, layout, 1, heads, 0, &v->err)) return false;
    layout->rope.frame_pairs = 0;

    const size_t page = (size_t)(block * d), slots = (size_t)(heads * m.slots);
    const int keep_max = (int)sel_t->shape[3], columns = (int)score_t->shape[2], S = m.slots;
    int most_kept = 0, most_seen = 0; /* blocks of a list, of a row of scores */
    float *pk = calloc(slots * page, 4), *pv = calloc(slots * page, 4), *rep = calloc(slots * (size_t)d, 4), *rep_q = malloc((size_t)(heads * B * d) * 4);
    float *out = malloc(chunk * (size_t)chunks * 4), *mass = calloc((size_t)(chunks * heads * columns), 4), *one = malloc(chunk * 4), *col = malloc(slots * 4);
    const size_t sel_n = (size_t)(chunks * heads * B) * (size_t)keep_max;
    int32_t *sel = malloc(sel_n * 4), *p_ids = malloc((size_t)(chunks * heads * C) * 4 + 4), *list = malloc(slots * (size_t)B * 4);
    for (size_t i = 0; i < sel_n; i++) sel[i] = -1;
    for (int i = 0; i < chunks * heads * C; i++) p_ids[i] = -1;
    for (int i = 0; i < chunks * heads * columns; i++) mass[i] = -1;
    float *score_dev, *mass_dev;
    int32_t *list_dev;
    if (ops->alloc(v->dev, (void **)&score_dev, slots * (size_t)B * 4, &v->err) || ops->alloc(v->dev, (void **)&mass_dev, slots * 4, &v->err) ||
        ops->alloc(v->dev, (void **)&list_dev, slots * (size_t)B * 4, &v->err)) return false;

    for (int t = 0; t < chunks; t++) {
        if (sc_kv_begin(&m, &v->err)) return false;
        const sc_kv_view view = sc_kv_view_of(&m);
        const int keep = sc_kv_keep(ratio, view.window), n = view.persistent + view.window;
        if (keep > most_kept) most_kept = keep;
        if (n > most_seen) most_seen = n;
        if (ops->download(v->dev, m.host, m.device, slots * sizeof *m.host, &v->err)) return false;
        for (int h = 0; h < heads; h++) {
            block_means(rep_q + (size_t)(h * B * d), q + (size_t)t * chunk + (size_t)(h * tokens * d), B, block, block, d);
            for (int b = 0; b < B; b++) {
                const int pg = m.host[h * S + view.window_base + view.window - B + b].page;
                const size_t src = (size_t)t * chunk + (size_t)(h * tokens + b * block) * (size_t)d;
                memcpy(pk + (size_t)pg * page, k + src, page * 4);
                memcpy(pv + (size_t)pg * page, val + src, page * 4);
                block_means(rep + (size_t)(pg * d), k + src, 1, block, block, d);
            }
        }
        const sc_pages pages = {.pages = (int)slots, .page_rows = block, .head_dim = d, .k = sc_vectors_put(v, pk, slots * page, true), .v = sc_vectors_put(v, pv, slots * page, true),
                                .rep_k = sc_vectors_put(v, rep, slots * (size_t)d, false)};
        float *rep_dev = sc_vectors_put(v, rep_q, (size_t)(heads * B * d), false);
        void *q_dev = sc_vectors_put(v, q + (size_t)t * chunk, chunk, true), *out_dev = sc_vectors_put(v, one, chunk, true);
        const sc_select_args sa = {.seqs = 1, .heads = heads, .head_dim = d, .blocks = layout->blocks, .rope = layout->rope, .pages = pages, .view = {view}, .keep = {keep}, .rep_q = rep_dev,
                                   .score = score_dev, .score_stride = S, .list = list_dev, .list_stride = S};
        const sc_attention_args at = {.seqs = 1, .heads = heads, .head_dim = d, .blocks = layout->blocks, .rope = layout->rope, .pages = pages, .view = {view}, .q = q_dev, .list = list_dev,
                                      .list_stride = S, .list_count = {view.persistent + keep}, .out = out_dev};
        if (ops->select(v->dev, &sa, &v->err) || ops->attention(v->dev, &at, &v->err)) return false;
        sc_vectors_get(v, (float *)list, list_dev, slots * (size_t)B, SC_F32);
        for (int h = 0; h < heads; h++)
            for (int b = 0; b < B; b++)
                for (int s = 0; s < keep && s < keep_max; s++) {
                    const sc_kv_slot *slot = &m.host[h * S + list[(h * B + b) * S + view.persistent + s]];
                    sel[((t * heads + h) * B + b) * keep_max + s] = (int32_t)slot->chunk * B + slot->block;
                }
        sc_vectors_get(v, one, out_dev, chunk, v->dev->act);
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < tokens; i++)
                memcpy(out + (size_t)t * chunk + (size_t)(h * tokens + i) * (size_t)d, one + (size_t)(i * heads + h) * (size_t)d, (size_t)d * 4);
        if (sc_kv_must_update(&m)) {
            if (ops->memory_update(v->dev, &(sc_memory_update_args){.seqs = 1, .heads = heads, .blocks = layout->blocks, .view = {view}, .score = score_dev, .score_stride = S, .capacity = C,
                                   .mass = mass_dev}, &v->err)) return false;
            sc_vectors_get(v, col, mass_dev, slots, SC_F32);
            for (int h = 0; h < heads; h++) memcpy(mass + (t * heads + h) * columns, col + h * S, (size_t)(n < columns ? n : columns) * 4);
        }
        else { /* the window is not full yet: nothing ages, but the sums are defined all the same */
            float *s = malloc(slots * (size_t)B * 4);
            sc_vectors_get(v, s, score_dev, slots * (size_t)B, SC_F32);
            for (int h = 0; h < heads; h++) column_sums(mass + (t * heads + h) * columns, s + (size_t)(h * B * S), B, n < columns ? n : columns, S);
            free(s);
        }
        sc_kv_end(&m);
        if (ops->download(v->dev, m.host, m.device, slots * sizeof *m.host, &v->err)) return false;
        for (int h = 0; h < heads; h++)
            for (int s = 0; s < m.persistent; s++) p_ids[(t * heads + h) * C + s] = (int32_t)m.host[h * S + s].chunk * B + m.host[h * S + s].block;
        void *dev[] = {pages.k, pages.v, pages.rep_k, rep_dev, q_dev, out_dev};
        for (size_t i = 0; i < sizeof dev / sizeof *dev; i++) ops->release(v->dev, dev[i]);
    }
    if (most_kept > keep_max || most_seen > columns) {
        sc_fail(&v->err, SC_EINVAL, "%s: room for %d selected blocks and %d scores, the rollout has %d and %d", v->path, keep_max, columns, most_kept, most_seen);
        return false;
    }
    sc_vectors_check_n(v, "out.out", out, chunk * (size_t)chunks);
    sc_vectors_check_ints_n(v, "out.selected_ids", sel, sel_n);
    sc_vectors_check_ints_n(v, "out.P_ids", p_ids, (size_t)(chunks * heads * C));
    sc_vectors_check_n(v, "out.score", mass, (size_t)(chunks * heads * columns));
    ops->release(v->dev, score_dev);
    ops->release(v->dev, mass_dev);
    ops->release(v->dev, list_dev);
    free(pk); free(pv); free(rep); free(rep_q); free(out); free(mass); free(one); free(col); free(sel); free(p_ids); free(list); free(q); free(k); free(val);
    sc_kv_free(&m);
    sc_layout_free(layout, v->dev);
    return true;
}

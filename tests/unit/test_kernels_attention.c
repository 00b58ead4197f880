/* test_kernels_attention.c - pages, selection, attention and the memory update of the CPU.
 *
 * A scene is a set of sessions with random pages in scattered order, blocks of given lengths and some persistent blocks; the same
 * scene is given to the twin and to the fast path. */
#include "tests/unit/kernels_check.h"

#define FIXTURE struct pair *p = *state; if (!p->fast) skip()
enum { MAX_BLOCKS = 12 };

struct scene {
    int seqs, heads, dim, blocks, chunks, persistent, capacity, frame_pairs, max_distance, page_rows, lengths[MAX_BLOCKS];
    int tokens, slots, pages;
    int32_t start[MAX_BLOCKS + 1];
    float *in_chunk, *k, *v, *rep_k;
    size_t page_floats, rep_floats;
    double theta[SC_MAX_ROPE_PAIRS];
    sc_kv_slot *slot[SC_MAX_BATCH];
    sc_kv_view view[SC_MAX_BATCH];
    int64_t now[SC_MAX_BATCH];
};

static const struct scene scenes[] = {
    {.seqs = 1, .heads = 1, .dim = 2, .blocks = 1, .chunks = 1, .frame_pairs = 1, .max_distance = -1, .page_rows = 1, .lengths = {1}},
    {.seqs = 2, .heads = 3, .dim = 128, .blocks = 8, .chunks = 3, .persistent = 8, .capacity = 8, .frame_pairs = 22, .max_distance = 18, .page_rows = 64,
     .lengths = {60, 60, 60, 60, 60, 60, 60, 60}},
    {.seqs = 1, .heads = 2, .dim = 128, .blocks = 3, .chunks = 2, .persistent = 0, .capacity = 4, .frame_pairs = 22, .max_distance = 18, .page_rows = 64, .lengths = {64, 1, 33}},
    {.seqs = 3, .heads = 2, .dim = 32, .blocks = 4, .chunks = 3, .persistent = 3, .capacity = 5, .frame_pairs = 6, .max_distance = -1, .page_rows = 16, .lengths = {16, 15, 13, 1}},
    {.seqs = 2, .heads = 1, .dim = 10, .blocks = 5, .chunks = 1, .persistent = 2, .capacity = 2, .frame_pairs = 2, .max_distance = 0, .page_rows = 61, .lengths = {61, 59, 12, 13, 11}},
    {.seqs = 1, .heads = 2, .dim = 48, .blocks = 2, .chunks = 4, .persistent = 1, .capacity = 1, .frame_pairs = 24, .max_distance = 5, .page_rows = 64, .lengths = {63, 64}},
};
enum { SCENES = sizeof scenes / sizeof *scenes };

static void set_stage(struct scene *c, const struct scene *from, bool one_age) {
    *c = *from;
    c->start[0] = 0;
    for (int b = 0; b < c->blocks; b++) c->start[b + 1] = c->start[b] + c->lengths[b];
    c->tokens = c->start[c->blocks];
    c->slots = c->capacity + c->chunks * c->blocks;
    c->pages = c->seqs * c->heads * c->slots + 3;
    if (c->pages % 5 == 0) c->pages++;
    c->page_floats = (size_t)c->pages * (size_t)c->page_rows * (size_t)c->dim;
    c->rep_floats = (size_t)c->pages * (size_t)c->dim;
    c->k = random_floats(c->page_floats, 11);
    c->v = random_floats(c->page_floats, 12);
    c->rep_k = random_floats(c->rep_floats, 13);
    c->in_chunk = guarded((size_t)c->tokens * (size_t)c->dim);
    for (int i = 0; i < c->tokens * c->dim / 2; i++) c->in_chunk[2 * i] = cosf((float)i), c->in_chunk[2 * i + 1] = sinf((float)i);
    for (int i = 0; i < c->frame_pairs; i++) c->theta[i] = pow(10000, -(double)i / c->frame_pairs);
    int page = 0;
    for (int s = 0; s < c->seqs; s++) {
        c->slot[s] = calloc((size_t)(c->heads * c->slots), sizeof(sc_kv_slot));
        c->now[s] = 40 + s;
        c->view[s] = (sc_kv_view){c->slot[s], c->slots, c->persistent, c->capacity, c->chunks * c->blocks, &c->now[s]};
        for (int h = 0; h < c->heads; h++)
            for (int j = 0; j < c->slots; j++) {
                sc_kv_slot *slot = &c->slot[s][h * c->slots + j];
                slot->page = (page++ * 5 + 2) % c->pages; /* scattered, distinct: 5 does not divide the number of pages */
                if (j < c->persistent) slot->chunk = one_age ? 30 : 30 + j / 2 + h, slot->block = (j + h) % c->blocks;
                if (j >= c->capacity) slot->chunk = 40 + s - c->chunks + 1 + (j - c->capacity) / c->blocks, slot->block = (j - c->capacity) % c->blocks;
            }
    }
}

static void strike_stage(struct scene *c) {
    release_guarded(c->k, c->page_floats), release_guarded(c->v, c->page_floats), release_guarded(c->rep_k, c->rep_floats);
    release_guarded(c->in_chunk, (size_t)c->tokens * (size_t)c->dim);
    for (int s = 0; s < c->seqs; s++) free(c->slot[s]);
}

static sc_blocks blocks_of(struct scene *c) { return (sc_blocks){c->tokens, c->blocks, c->start, c->start}; }
static sc_rope rope_of(struct scene *c) { return (sc_rope){c->in_chunk, c->theta, c->frame_pairs, 3, c->max_distance}; }
static sc_pages pages_of(struct scene *c) { return (sc_pages){c->k, c->v, c->rep_k, c->pages, c->page_rows, c->dim}; }

static void queries_keys_and_values_match_the_twin(void **state) {
    FIXTURE;
    for (int i = 0; i < SCENES; i++) {
        struct scene c, d;
        set_stage(&c, &scenes[i], false), set_stage(&d, &scenes[i], false);
        size_t width = (size_t)(c.heads * c.dim), rows = (size_t)(c.seqs * c.tokens), reps = (size_t)(c.seqs * c.blocks) * width;
        float *qkv = random_floats(rows * 3 * width, 1), *nq = random_floats(width, 2), *nk = random_floats(width, 3);
        float *q = guarded(rows * width), *want_q = guarded(rows * width), *rep = guarded(reps), *want_rep = guarded(reps);
        sc_qkv_args a = {.qkv = qkv, .seqs = c.seqs, .heads = c.heads, .head_dim = c.dim, .norm_q = nq, .norm_k = nk, .eps = 1e-6f, .blocks = blocks_of(&c),
                         .rope = rope_of(&c), .pages = pages_of(&c), .q_scale = i % 2 ? 1.7f : 0, .q = want_q, .rep_q = want_rep};
        memcpy(a.view, c.view, sizeof a.view);
        assert_int_equal(p->twin->ops->qkv(p->twin, &a, NULL), SC_OK);
        a.pages = pages_of(&d), a.q = q, a.rep_q = rep;
        assert_int_equal(p->fast->ops->qkv(p->fast, &a, NULL), SC_OK);
        assert_close("q", q, want_q, rows * width, 1e-6);
        assert_close("rep_q", rep, want_rep, reps, 1e-6);
        assert_close("k pages", d.k, c.k, c.page_floats, 1e-6);
        assert_memory_equal(d.v, c.v, c.page_floats * sizeof(float));
        assert_close("rep_k", d.rep_k, c.rep_k, c.rep_floats, 1e-6);
        release_guarded(qkv, rows * 3 * width), release_guarded(nq, width), release_guarded(nk, width);
        release_guarded(q, rows * width), release_guarded(want_q, rows * width), release_guarded(rep, reps), release_guarded(want_rep, reps);
        strike_stage(&c), strike_stage(&d);
    }
}

/* Selection and attention of one scene; keep of sequence s is keep - s, at least 1. */
static void select_and_attend(struct pair *p, const struct scene *from, int keep, bool one_age, bool dense) {
    struct scene c;
    set_stage(&c, from, one_age);
    size_t rows = (size_t)(c.seqs * c.heads * c.blocks), width = (size_t)(c.heads * c.dim), count = (size_t)(c.seqs * c.tokens) * width;
    int stride = c.slots + 2;
    float *rep_q = random_floats(rows * (size_t)c.dim, 1), *q = random_floats(count, 2), *score = guarded(rows * (size_t)stride), *want_score = guarded(rows * (size_t)stride);
    float *out = guarded(count), *want = guarded(count);
    int32_t *list = malloc(rows * (size_t)stride * sizeof *list), *want_list = malloc(rows * (size_t)stride * sizeof *list);
    memset(list, 0xff, rows * (size_t)stride * sizeof *list), memset(want_list, 0xff, rows * (size_t)stride * sizeof *list);

    sc_select_args s = {.seqs = c.seqs, .heads = c.heads, .head_dim = c.dim, .blocks = blocks_of(&c), .rope = rope_of(&c), .pages = pages_of(&c), .rep_q = rep_q,
                        .score = want_score, .score_stride = stride, .list = want_list, .list_stride = stride};
    sc_attention_args a = {.seqs = c.seqs, .heads = c.heads, .head_dim = c.dim, .blocks = blocks_of(&c), .rope = rope_of(&c), .pages = pages_of(&c),
                           .q_scale = keep % 2 ? 1.7f : 0, .q = q, .list = dense ? NULL : want_list, .list_stride = stride, .out = want};
    for (size_t i = 0; i < count; i++) q[i] *= sc_q_scale(a.q_scale);
    memcpy(s.view, c.view, sizeof s.view), memcpy(a.view, c.view, sizeof a.view);
    for (int i = 0; i < c.seqs; i++) {
        s.keep[i] = keep - i < 1 ? 1 : keep - i > c.chunks * c.blocks ? c.chunks * c.blocks : keep - i;
        a.list_count[i] = c.persistent + s.keep[i];
    }
    assert_int_equal(p->twin->ops->select(p->twin, &s, NULL), SC_OK);
    s.score = score, s.list = list;
    assert_int_equal(p->fast->ops->select(p->fast, &s, NULL), SC_OK);
    assert_close("scores", score, want_score, rows * (size_t)stride, 1e-6);
    assert_memory_equal(list, want_list, rows * (size_t)stride * sizeof *list);

    assert_int_equal(p->twin->ops->attention(p->twin, &a, NULL), SC_OK);
    a.out = out;
    assert_int_equal(p->fast->ops->attention(p->fast, &a, NULL), SC_OK);
    assert_close("attention", out, want, count, 2e-6);
    memset(want, 0xff, count * sizeof *want);
    a.out = want;
    assert_int_equal(p->fast->ops->attention(p->fast, &a, NULL), SC_OK);
    assert_memory_equal(out, want, count * sizeof *out); /* run to run, whoever took which item */

    release_guarded(rep_q, rows * (size_t)c.dim), release_guarded(q, count), release_guarded(score, rows * (size_t)stride);
    release_guarded(want_score, rows * (size_t)stride), release_guarded(out, count), release_guarded(want, count);
    free(list), free(want_list);
    strike_stage(&c);
}

static void sparse_attention_matches_the_twin_on_awkward_scenes(void **state) {
    FIXTURE;
    for (int i = 0; i < SCENES; i++)
        for (int keep = 1; keep <= 4; keep++) select_and_attend(p, &scenes[i], keep, false, false);
}

static void keeping_everything_matches_the_twin(void **state) {
    FIXTURE;
    for (int i = 0; i < SCENES; i++) select_and_attend(p, &scenes[i], 1000, false, false);
}

static void persistent_blocks_of_one_age_match_the_twin(void **state) {
    FIXTURE;
    for (int i = 0; i < SCENES; i++) select_and_attend(p, &scenes[i], 2, true, false);
}

static void dense_attention_without_lists_matches_the_twin(void **state) {
    FIXTURE;
    for (int i = 0; i < SCENES; i++) select_and_attend(p, &scenes[i], 1, false, true);
}

static void ties_go_to_the_lower_index_and_the_own_block_is_always_there(void **state) {
    FIXTURE;
    sc_device *both[2] = {p->twin, p->fast};
    for (int i = 0; i < 2; i++) {
        struct scene c;
        int32_t list[3 * 8 * 20], *l = list;
        float score[3 * 8 * 40];
        set_stage(&c, &scenes[1], false);
        float *zero = calloc((size_t)(c.heads * c.blocks * c.dim), sizeof *zero);
        sc_select_args s = {.seqs = 1, .heads = c.heads, .head_dim = c.dim, .blocks = blocks_of(&c), .rope = rope_of(&c), .pages = pages_of(&c), .keep = {6}, .rep_q = zero,
                            .score = score, .score_stride = 40, .list = list, .list_stride = 20, .view = {c.view[0]}};
        assert_int_equal(both[i]->ops->select(both[i], &s, NULL), SC_OK);
        for (int row = 0; row < 24; row++, l += 20) {
            for (int j = 0; j < 8 + 5; j++) assert_int_equal(l[j], j); /* P, then the first five of L (window_base is 8) */
            assert_int_equal(l[13], 8 + 16 + row % 8);
        }
        free(zero);
        strike_stage(&c);
    }
}

static void cross_attention_matches_the_twin(void **state) {
    static const int shape[][4] = {{1, 1, 2, 1}, {7, 1, 10, 2}, {64, 3, 128, 33}, {480, 3, 128, 15}, {65, 2, 64, 64}, {130, 2, 16, 65}, {63, 2, 40, 512}};
    FIXTURE;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        int tokens = shape[i][0], heads = shape[i][1], dim = shape[i][2], n = shape[i][3];
        size_t width = (size_t)(heads * dim), count = 2 * (size_t)tokens * width, keys = (size_t)n * width;
        for (int norm = 0; norm < 2; norm++) { /* q may be normalised in place: each side gets its own */
            float *q[2] = {random_floats(count, 1), random_floats(count, 1)}, *k = random_floats(keys, 2), *v = random_floats(keys, 3), *weight = random_floats(width, 4);
            float *out = guarded(count), *want = guarded(count);
            sc_cross_attention_args a = {.seqs = 2, .tokens = tokens, .heads = heads, .head_dim = dim, .q = q[0], .norm_q = norm ? weight : NULL, .eps = 1e-6f, .k = {k, k},
                                         .v = {v, v}, .n = {n, (n + 1) / 2}, .last_bias = {0, logf(17)}, .out = want};
            assert_int_equal(p->twin->ops->cross_attention(p->twin, &a, NULL), SC_OK);
            a.q = q[1], a.out = out;
            assert_int_equal(p->fast->ops->cross_attention(p->fast, &a, NULL), SC_OK);
            assert_close("cross attention", out, want, count, norm ? 4e-6 : 2e-6);
            if (norm) { /* as by rms_norm first */
                float *again = random_floats(count, 1);
                sc_rms_norm_args r = {.x = again, .ldx = (int)width, .out = again, .m = 2 * tokens, .dim = (int)width, .eps = 1e-6f, .weight = weight};
                assert_int_equal(p->twin->ops->rms_norm(p->twin, &r, NULL), SC_OK);
                a.q = again, a.norm_q = NULL, a.out = out;
                assert_int_equal(p->twin->ops->cross_attention(p->twin, &a, NULL), SC_OK);
                assert_memory_equal(out, want, count * sizeof *out);
                release_guarded(again, count);
            }
            release_guarded(q[0], count), release_guarded(q[1], count), release_guarded(k, keys), release_guarded(v, keys), release_guarded(weight, width);
            release_guarded(out, count), release_guarded(want, count);
        }
    }
}

/* Weights, a fold of o and v, and their product, against the twin's; and the twin's against what they stand for. */
static void a_fold_is_the_product_behind_the_values(void **state) {
    static const int shape[][6] = {/* tokens, heads, dim, keys, stride, rows of o */ {1, 1, 2, 1, 8, 1}, {7, 1, 10, 2, 8, 67}, {33, 3, 128, 33, 40, 384}, {480, 3, 128, 15, 16, 129},
                                   {65, 2, 64, 64, 64, 31}, {61, 5, 24, 7, 24, 120}, {67, 12, 32, 9, 16, 384}};
    FIXTURE;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            enum { SEQS = 5 };
            const int tokens = shape[i][0], heads = shape[i][1], dim = shape[i][2], n = shape[i][3], stride = shape[i][4], rows = shape[i][5], width = heads * dim, cols = heads * stride;
            const size_t count = SEQS * (size_t)tokens * (size_t)width, made = SEQS * (size_t)tokens * (size_t)cols, keys = (size_t)n * (size_t)width, flat = (size_t)tokens * (size_t)rows;
            const size_t room = (size_t)((rows + SC_FOLD_ROWS - 1) / SC_FOLD_ROWS * SC_FOLD_ROWS) * (size_t)cols, all = (size_t)rows * (size_t)width;
            float *q = random_floats(count, 1), *k = random_floats(keys, 2), *v = random_floats(keys, 3), *w = random_floats(all, 5), *b = random_floats((size_t)rows, 6);
            float *out = guarded(made), *want = guarded(made), *plain = guarded(count), *memory[2] = {guarded(room), guarded(room)};
            uint16_t *half = malloc(all * sizeof *half);
            for (size_t j = 0; j < all; j++) { /* numbers that bf16 holds */
                uint32_t u;
                memcpy(&u, &w[j], 4);
                half[j] = (uint16_t)(u >> 16), u &= 0xffff0000u;
                memcpy(&w[j], &u, 4);
            }
            sc_cross_attention_args a = {.seqs = SEQS, .tokens = tokens, .heads = heads, .head_dim = dim, .q = q, .eps = 1e-6f, .out = want, .weights = stride};
            for (int s = 0; s < SEQS; s++) a.k[s] = k, a.n[s] = 1 + s * (n - 1) / (SEQS - 1), a.last_bias[s] = s % 2 ? logf(17) : 0;
            assert_int_equal(p->twin->ops->cross_attention(p->twin, &a, NULL), SC_OK);
            a.out = out;
            assert_int_equal(p->fast->ops->cross_attention(p->fast, &a, NULL), SC_OK);
            assert_close("weights", out, want, made, 2e-6);
            a.weights = 0, a.out = plain;
            for (int s = 0; s < SEQS; s++) a.v[s] = v;
            assert_int_equal(p->twin->ops->cross_attention(p->twin, &a, NULL), SC_OK);

            sc_device *dev[2] = {p->twin, p->fast};
            sc_matrix *o[2], *fold[2];
            for (int d = 0; d < 2; d++) {
                const sc_matrix_desc desc = {.parts = 1, .cols = width, .rows = {rows}, .data = {d && bf16 ? (void *)half : w}, .type = {d && bf16 ? SC_BF16 : SC_F32}, .bias = {b}, .bias_type = {SC_F32}};
                assert_int_equal(dev[d]->ops->matrix_create(dev[d], &o[d], &desc, NULL), SC_OK);
                assert_int_equal(dev[d]->ops->fold_create(dev[d], &fold[d], o[d], memory[d], cols, NULL), SC_OK);
            }
            for (int s = SEQS - 1; s >= 0; s--) { /* written again and again; the columns past fewer keys are zero */
                float *x[3] = {plain + (size_t)s * (size_t)tokens * (size_t)width, want + (size_t)s * (size_t)tokens * (size_t)cols, NULL}, *y[3];
                x[2] = x[1];
                for (int d = 0; d < 2; d++) assert_int_equal(dev[d]->ops->fold(dev[d], &(sc_fold_args){.out = fold[d], .o = o[d], .v = v, .n = a.n[s], .heads = heads, .stride = stride}, NULL), SC_OK);
                for (int t = 0; t < 3; t++) {
                    y[t] = random_floats(flat, 7);
                    sc_device *on = t == 2 ? p->fast : p->twin;
                    assert_int_equal(on->ops->linear(on, &(sc_linear_args){.w = t == 0 ? o[0] : fold[t - 1], .x = x[t], .out = y[t], .out_type = SC_F32, .m = tokens, .epilogue = SC_EPI_RESIDUAL}, NULL), SC_OK);
                }
                assert_close("the twin's fold", y[1], y[0], flat, 3e-6);
                assert_close("fold", y[2], y[1], flat, 3e-6);
                for (int t = 0; t < 3; t++) release_guarded(y[t], flat);
            }
            for (int d = 0; d < 2; d++) {
                dev[d]->ops->matrix_destroy(dev[d], fold[d]);
                dev[d]->ops->matrix_destroy(dev[d], o[d]);
                release_guarded(memory[d], room);
            }
            release_guarded(q, count), release_guarded(k, keys), release_guarded(v, keys), release_guarded(w, all), release_guarded(b, (size_t)rows);
            release_guarded(out, made), release_guarded(want, made), release_guarded(plain, count);
            free(half);
        }
}

static void a_device_folds_short_prompts_alone(void **state) {
    FIXTURE;
    float *w = random_floats(96 * 96, 1);
    const sc_matrix_desc desc = {.parts = 1, .cols = 96, .rows = {96}, .data = {w}, .type = {SC_F32}};
    sc_matrix *m;
    assert_int_equal(p->fast->ops->matrix_create(p->fast, &m, &desc, NULL), SC_OK);
    for (int n = 1; n < 200; n++) assert_int_equal(p->fast->ops->fold_stride(p->fast, m, 2, n), n <= 24 ? (n + 7) / 8 * 8 : 0);
    for (int n = 1; n < 200; n++) assert_int_equal(p->fast->ops->fold_stride(p->fast, m, 1, n), n <= 48 ? (n + 7) / 8 * 8 : 0);
    p->fast->ops->matrix_destroy(p->fast, m);
    release_guarded(w, 96 * 96);
}

static void a_last_key_with_log_n_stands_for_n_equal_keys(void **state) {
    enum { DIM = 16, N = 9, REAL = 4 };
    FIXTURE;
    float *q = random_floats(5 * DIM, 1), *k = random_floats(N * DIM, 2), *v = random_floats(N * DIM, 3), out[5 * DIM], want[5 * DIM];
    for (int i = REAL; i < N; i++) memcpy(k + i * DIM, k + (REAL - 1) * DIM, DIM * 4), memcpy(v + i * DIM, v + (REAL - 1) * DIM, DIM * 4);
    sc_cross_attention_args a = {.seqs = 1, .tokens = 5, .heads = 1, .head_dim = DIM, .q = q, .k = {k}, .v = {v}, .n = {N}, .out = want};
    assert_int_equal(p->fast->ops->cross_attention(p->fast, &a, NULL), SC_OK);
    a.n[0] = REAL, a.last_bias[0] = logf(N - REAL + 1), a.out = out;
    assert_int_equal(p->fast->ops->cross_attention(p->fast, &a, NULL), SC_OK);
    assert_close("short form", out, want, 5 * DIM, 1e-6);
    release_guarded(q, 5 * DIM), release_guarded(k, N * DIM), release_guarded(v, N * DIM);
}

static void text_attention_matches_the_twin(void **state) {
    static const int shape[][4] = {/* tokens, heads, dim, reach */ {1, 1, 2, 0}, {9, 3, 64, 8}, {31, 3, 64, 40}, {64, 2, 32, 0}, {65, 2, 10, 7}, {200, 1, 16, 199}, {200, 1, 16, 128}};
    FIXTURE;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        int n = shape[i][0], heads = shape[i][1], dim = shape[i][2], reach = shape[i][3], ld = 3 * heads * dim;
        size_t in = (size_t)(n * ld), count = (size_t)(n * heads * dim), biases = (size_t)(heads * (2 * reach + 1));
        float *qkv = random_floats(in, 1), *bias = random_floats(biases, 2), *out = guarded(count), *want = guarded(count);
        sc_text_attention_args a = {n, heads, dim, qkv, qkv + heads * dim, qkv + 2 * heads * dim, ld, bias, reach, want};
        assert_int_equal(p->twin->ops->text_attention(p->twin, &a, NULL), SC_OK);
        a.out = out;
        assert_int_equal(p->fast->ops->text_attention(p->fast, &a, NULL), SC_OK);
        assert_close("text attention", out, want, count, 3e-6);
        release_guarded(qkv, in), release_guarded(bias, biases), release_guarded(out, count), release_guarded(want, count);
    }
}

static int by_number(const void *a, const void *b) { return *(const int32_t *)a - *(const int32_t *)b; }

static void the_memory_update_keeps_the_best_and_loses_no_page(void **state) {
    FIXTURE;
    for (int i = 0; i < SCENES; i++) {
        struct scene c;
        set_stage(&c, &scenes[i], false);
        int stride = c.slots, capacity = c.capacity, columns = c.persistent + c.chunks * c.blocks, candidates = c.persistent + c.blocks;
        int left = candidates < capacity ? candidates : capacity;
        size_t rows = (size_t)(c.seqs * c.heads);
        float *score = random_floats(rows * (size_t)(c.blocks * stride), 1), *mass = guarded(rows * (size_t)stride);
        int32_t *kept = malloc((rows * (size_t)capacity + 1) * sizeof *kept), pages[2][200];
        sc_kv_slot before[200];
        for (int s = 0; s < c.seqs; s++)
            for (int h = 0; h < c.heads; h++) {
                sc_memory_update_args a = {.seqs = 1, .heads = 1, .blocks = blocks_of(&c), .score = score, .score_stride = stride, .capacity = capacity, .mass = mass, .kept = kept};
                sc_kv_slot *slot = c.slot[s] + h * c.slots;
                a.view[0] = c.view[s], a.view[0].slots = slot;
                memcpy(before, slot, (size_t)c.slots * sizeof *slot);
                assert_int_equal(p->fast->ops->memory_update(p->fast, &a, NULL), SC_OK);
                double total = 0, worst_kept = 1e9;
                for (int j = 0; j < columns; j++) total += mass[j];
                assert_true(fabs(total - c.blocks) < 1e-4);
                for (int n = 0; n < left; n++) {
                    int from = kept[n] < c.persistent ? kept[n] : c.capacity + kept[n] - c.persistent;
                    assert_true(kept[n] >= 0 && kept[n] < candidates && (!n || kept[n] > kept[n - 1]));
                    assert_memory_equal(&slot[n], &before[from], sizeof *slot);
                    worst_kept = fmin(worst_kept, mass[kept[n]]);
                }
                for (int j = 0, n = 0; j < candidates; j++) {
                    if (n < left && kept[n] == j) { n++; continue; }
                    assert_true(mass[j] <= worst_kept);
                }
                for (int j = 0; j < (c.chunks - 1) * c.blocks; j++) assert_memory_equal(&slot[c.capacity + j], &before[c.capacity + c.blocks + j], sizeof *slot);
                for (int b = 0; b < c.blocks; b++) {
                    const sc_kv_slot *next = &slot[c.slots - c.blocks + b];
                    assert_true(next->block == b && next->chunk == c.now[s] + 1);
                }
                for (int j = 0; j < c.slots; j++) pages[0][j] = before[j].page, pages[1][j] = slot[j].page;
                qsort(pages[0], (size_t)c.slots, 4, by_number), qsort(pages[1], (size_t)c.slots, 4, by_number);
                assert_memory_equal(pages[0], pages[1], (size_t)c.slots * 4);
            }
        release_guarded(score, rows * (size_t)(c.blocks * stride)), release_guarded(mass, rows * (size_t)stride);
        free(kept);
        strike_stage(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(queries_keys_and_values_match_the_twin),
        cmocka_unit_test(sparse_attention_matches_the_twin_on_awkward_scenes),
        cmocka_unit_test(keeping_everything_matches_the_twin),
        cmocka_unit_test(persistent_blocks_of_one_age_match_the_twin),
        cmocka_unit_test(dense_attention_without_lists_matches_the_twin),
        cmocka_unit_test(ties_go_to_the_lower_index_and_the_own_block_is_always_there),
        cmocka_unit_test(cross_attention_matches_the_twin),
        cmocka_unit_test(a_fold_is_the_product_behind_the_values),
        cmocka_unit_test(a_device_folds_short_prompts_alone),
        cmocka_unit_test(a_last_key_with_log_n_stands_for_n_equal_keys),
        cmocka_unit_test(text_attention_matches_the_twin),
        cmocka_unit_test(the_memory_update_keeps_the_best_and_loses_no_page),
    };
    return RUN_ON_EVERY_ISA(tests);
}

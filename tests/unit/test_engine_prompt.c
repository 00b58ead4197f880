/* test_engine_prompt.c - prompts: short forms against their long forms, the cache, transitions, bad text.
 *
 * The text encoder is written once more here, in double, on all text_len rows with the padding masked, as the reference runs it. */
#include "tests/unit/engine_model.h"

static sc_ops counted;
static const sc_ops *real_ops;
static int encodings;
static sc_status counting_gather(sc_device *d, float *out, const sc_matrix *t, const int32_t *rows, int n, sc_error *err) {
    encodings++;
    return real_ops->gather(d, out, t, rows, n, err);
}

static void count_encodings(sc_engine *e) {
    real_ops = e->dev->ops;
    counted = *real_ops;
    counted.gather = counting_gather;
    e->dev->ops = &counted;
    encodings = 0;
}

/* ---- one key for all padding -------------------------------------------------------------------------------------------- */

/* Flow of one pass of session s's current chunk under `cross`. */
static void flow_under(sc_session *s, const sc_cross *cross, float *flow) {
    sc_engine *e = s->engine;
    sc_error err = {0};
    sc_pass_args a = {.seqs = 1, .layout = e->layout, .pages = e->pages, .mods = e->mods, .sparse = e->rule.pbsa, .capacity = e->rule.capacity,
                      .cross = {cross}, .latent = {s->x}, .flow = {flow}};
    a.view[0] = sc_kv_view_of(&s->memory);
    a.keep[0] = sc_kv_keep(e->cfg.memory.keep_ratio, a.view[0].window);
    if (sc_dit_pass(e->dit, e->work, &a, &err)) fail_msg("%s", err.text);
}

static void padding_in_one_key_is_the_long_form(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        tiny_shape shape = tiny_default;
        shape.text_len = i ? 131 : 12; /* 131: more than two pieces of 64 keys */
        sc_engine *e = tiny_open(&shape, i ? "cpu" : "twin", 1);
        sc_session *s = tiny_session(e, 5, "a");
        float *emb = malloc((size_t)shape.text_len * TINY_TEXT * sizeof *emb), *want = malloc(e->latent_count * sizeof *want), *got = malloc(e->latent_count * sizeof *got);
        sc_error err = {0};
        assert_true(emb && want && got);
        tiny_chunk(s, false);
        tiny_pass(s); /* a chunk has begun, with some memory behind it */
        for (int k = 0; k < shape.text_len * TINY_TEXT; k++) emb[k] = tiny_random();
        for (int n = 1; n <= shape.text_len; n += n < 14 ? 1 : 13) {
            sc_cross longer = {0}, collapsed = {0};
            if (sc_cross_create(e->dit, emb, n, false, &longer, &err) || sc_cross_create(e->dit, emb, n, true, &collapsed, &err)) fail_msg("%s", err.text);
            assert_int_equal(longer.rows, shape.text_len);
            assert_int_equal(collapsed.rows, n < shape.text_len ? n + 1 : n);
            assert_true(longer.last_bias == 0);
            assert_true(collapsed.last_bias == (float)log((double)(n < shape.text_len ? shape.text_len - n : 1)));
            flow_under(s, &longer, want);
            flow_under(s, &collapsed, got);
            const double d = tiny_distance(got, want, e->latent_count);
            if (!(d < 2e-6)) fail_msg("%d of %d tokens: %g apart", n, shape.text_len, d);
            if (n + 1 < shape.text_len) { /* and the log is needed: without it the flow is another */
                collapsed.last_bias = 0;
                flow_under(s, &collapsed, got);
                assert_true(tiny_distance(got, want, e->latent_count) > 1e-4);
            }
            sc_cross_free(e->dit, &longer);
            sc_cross_free(e->dit, &collapsed);
        }
        sc_cross none;
        assert_int_equal(sc_cross_create(e->dit, emb, 0, true, &none, &err), SC_EINVAL);
        assert_int_equal(sc_cross_create(e->dit, emb, shape.text_len + 1, true, &none, &err), SC_EINVAL);
        free(emb);
        free(want);
        free(got);
        sc_session_destroy(s);
        sc_engine_close(e);
    }
}

/* ---- the text encoder on all rows --------------------------------------------------------------------------------------- */

static int bucket(int r) { /* 32 buckets, 128: integer thresholds */
    static const int from[] = {8, 12, 16, 23, 32, 46, 64, 91};
    const int a = abs(r);
    int b = a;
    if (a >= 8) for (b = 7; b < 15 && a >= from[b - 7]; b++) continue;
    return (r > 0 ? 16 : 0) + b;
}

static const float *weight(tiny_model *m, int layer, const char *name) {
    char full[96];
    if (layer < 0) snprintf(full, sizeof full, "%s", name);
    else snprintf(full, sizeof full, "blocks.%d.%s", layer, name);
    return tiny_find(&m->text, full)->data;
}

static void product(double *y, const float *w, const double *x, int rows, int cols) {
    for (int r = 0; r < rows; r++) {
        y[r] = 0;
        for (int c = 0; c < cols; c++) y[r] += (double)w[r * cols + c] * x[c];
    }
}

static void normed(double *y, const double *x, const float *w) {
    double square = 0;
    for (int c = 0; c < TINY_TEXT; c++) square += x[c] * x[c] / TINY_TEXT;
    for (int c = 0; c < TINY_TEXT; c++) y[c] = x[c] / sqrt(square + 1e-6) * w[c];
}

/* x [length][dim]: all rows, padding included; keys whose mask is 0 get no weight. */
static void encode_long(tiny_model *m, const int32_t *ids, const int *mask, int length, double *x) {
    enum { D = TINY_TEXT, F = TINY_TEXT_FFN, HEADS = TINY_TEXT_HEADS, W = D / HEADS };
    double *q = malloc((size_t)length * D * 4 * sizeof *q), *k = q + length * D, *v = k + length * D, *o = v + length * D, y[D], z[D], gate[F], up[F];
    assert_non_null(q);
    for (int t = 0; t < length; t++)
        for (int c = 0; c < D; c++) x[t * D + c] = weight(m, -1, "token_embedding.weight")[ids[t] * D + c];
    for (int l = 0; l < TINY_TEXT_LAYERS; l++) {
        for (int t = 0; t < length; t++) {
            normed(y, x + t * D, weight(m, l, "norm1.weight"));
            product(q + t * D, weight(m, l, "attn.q.weight"), y, D, D);
            product(k + t * D, weight(m, l, "attn.k.weight"), y, D, D);
            product(v + t * D, weight(m, l, "attn.v.weight"), y, D, D);
        }
        for (int t = 0; t < length; t++)
            for (int h = 0; h < HEADS; h++) {
                double sum = 0, out[W] = {0};
                for (int j = 0; j < length; j++) {
                    double s = weight(m, l, "pos_embedding.embedding.weight")[bucket(j - t) * HEADS + h];
                    if (!mask[j]) continue;
                    for (int c = 0; c < W; c++) s += q[t * D + h * W + c] * k[j * D + h * W + c];
                    sum += exp(s);
                    for (int c = 0; c < W; c++) out[c] += exp(s) * v[j * D + h * W + c];
                }
                for (int c = 0; c < W; c++) o[t * D + h * W + c] = out[c] / sum;
            }
        for (int t = 0; t < length; t++) {
            product(z, weight(m, l, "attn.o.weight"), o + t * D, D, D);
            for (int c = 0; c < D; c++) x[t * D + c] += z[c];
            normed(y, x + t * D, weight(m, l, "norm2.weight"));
            product(gate, weight(m, l, "ffn.gate.0.weight"), y, F, D);
            product(up, weight(m, l, "ffn.fc1.weight"), y, F, D);
            for (int c = 0; c < F; c++) up[c] *= 0.5 * gate[c] * (1 + tanh(0.79788456080286536 * (gate[c] + 0.044715 * gate[c] * gate[c] * gate[c])));
            product(z, weight(m, l, "ffn.fc2.weight"), up, D, F);
            for (int c = 0; c < D; c++) x[t * D + c] += z[c];
        }
    }
    for (int t = 0; t < length; t++) normed(x + t * D, memcpy(y, x + t * D, sizeof y), weight(m, -1, "norm.weight"));
    free(q);
}

static void real_tokens_alone_are_the_padded_and_masked_form(void **state) {
    static const char *const prompts[] = {"", "a", "two red balloons drifting left over the sea at sunset, snowing",
        "a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, "
        "a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city, a city"};
    enum { LENGTH = 140 };
    tiny_shape shape = tiny_default;
    tiny_model *m;

    (void)state;
    shape.text_len = LENGTH;
    m = tiny_build(&shape);
    tiny_save(m);
    for (int r = -300; r <= 300; r++) assert_int_equal(sc_t5_bucket(r, 32, 128), bucket(r));
    for (int d = 0; d < 2; d++) {
        sc_engine *e = tiny_open_saved(d ? "cpu" : "twin", 1);
        for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
            int32_t ids[LENGTH] = {0};
            int mask[LENGTH] = {0}, n;
            double want[LENGTH * TINY_TEXT];
            sc_prompt *p;
            sc_error err = {0};
            if (sc_tokenizer_encode(e->tokenizer, prompts[i], strlen(prompts[i]), ids, LENGTH, &n, &err)) fail_msg("%s", err.text);
            for (int t = 0; t < n; t++) mask[t] = 1;
            encode_long(m, ids, mask, LENGTH, want);
            if (sc_prompt_get(e, prompts[i], strlen(prompts[i]), &p, &err)) fail_msg("%s", err.text);
            assert_int_equal(p->tokens, n);
            for (int k = 0; k < n * TINY_TEXT; k++)
                if (!(fabs(p->emb[k] - want[k]) < 2e-5)) fail_msg("prompt %zu, token %d: %.9g, wanted %.9g", i, k / TINY_TEXT, (double)p->emb[k], want[k]);
            if (i == 3) assert_true(n > 91); /* reaches the last bucket */
            sc_prompt_drop(e, p);
        }
        sc_engine_close(e);
    }
    tiny_free(m);
}

/* ---- cache -------------------------------------------------------------------------------------------------------------- */

static sc_prompt *get(sc_engine *e, const char *text) {
    sc_prompt *p = NULL;
    sc_error err = {0};
    if (sc_prompt_get(e, text, strlen(text), &p, &err)) fail_msg("%s", err.text);
    return p;
}

static void the_cache_keeps_the_16_newest_and_sessions_keep_theirs(void **state) {
    sc_engine *e = tiny_open(&tiny_default, "cpu", 2);
    sc_prompt *p, *q;
    char text[16];

    (void)state;
    count_encodings(e);
    p = get(e, "a boat");
    q = get(e, "a boat");
    assert_ptr_equal(p, q);
    assert_int_equal(encodings, 1);
    assert_int_equal(p->refs, 3); /* two of ours, one of the cache */
    sc_prompt_drop(e, q);
    q = get(e, "a boat "); /* keyed by text, not by tokens */
    assert_ptr_not_equal(p, q);
    sc_prompt_drop(e, q);
    assert_int_equal(encodings, 2);
    for (int i = 0; i < 14; i++) { /* with "a boat" and "a boat " the cache is full */
        snprintf(text, sizeof text, "bird %d", i);
        sc_prompt_drop(e, get(e, text));
    }
    assert_int_equal(encodings, 16);
    sc_prompt_drop(e, get(e, "a boat")); /* now "a boat " is the oldest */
    assert_int_equal(encodings, 16);
    sc_prompt_drop(e, get(e, "one more"));
    assert_int_equal(encodings, 17);
    sc_prompt_drop(e, get(e, "a boat"));
    assert_int_equal(encodings, 17);
    sc_prompt_drop(e, get(e, "a boat "));
    assert_int_equal(encodings, 18);
    sc_prompt_drop(e, p);

    sc_session *s = tiny_session(e, 1, "the session's own");
    p = s->prompt;
    const int before = encodings;
    for (int i = 0; i < 40; i++) {
        snprintf(text, sizeof text, "fish %d", i);
        sc_prompt_drop(e, get(e, text));
    }
    assert_int_equal(encodings, before + 40);
    assert_int_equal(p->refs, 1); /* the cache has let it go, the session has not */
    assert_string_equal(p->text, "the session's own");
    tiny_chunk(s, true);
    sc_session_destroy(s);
    e->dev->ops = real_ops;
    sc_engine_close(e);
}

/* ---- text --------------------------------------------------------------------------------------------------------------- */

static void text_of_any_length_up_to_4096_bytes_is_taken(void **state) {
    sc_engine *e = tiny_open(&tiny_default, "cpu", 1);
    char *text = malloc(SC_PROMPT_BYTES_MAX + 1);
    sc_session *s = NULL;
    sc_error err = {0};

    (void)state;
    assert_non_null(text);
    if (sc_session_create(e, 1, "", 0, 1, &s, &err)) fail_msg("%s", err.text);
    assert_int_equal(s->prompt->tokens, 1); /* the end alone */
    tiny_chunk(s, true);
    for (int kind = 0; kind < 3; kind++) {
        static const char *const unit[] = {"a", "\xc3\xa4", "\xf0\x9f\x8e\x88"};
        const size_t n = strlen(unit[kind]);
        for (size_t i = 0; i + n <= SC_PROMPT_BYTES_MAX; i += n) memcpy(text + i, unit[kind], n);
        if (sc_session_set_prompt(s, text, SC_PROMPT_BYTES_MAX, 2, SC_SWITCH, 0, NULL, &err)) fail_msg("%s", err.text);
        tiny_chunk(s, true);
        assert_in_range(s->prompt->tokens, 2, 12); /* cut to what the model takes */
        assert_int_equal(s->prompt->text_n, SC_PROMPT_BYTES_MAX);
    }
    memset(text, 'b', SC_PROMPT_BYTES_MAX + 1);
    assert_int_equal(sc_session_set_prompt(s, text, SC_PROMPT_BYTES_MAX + 1, 3, SC_SWITCH, 0, NULL, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "4097 bytes, at most 4096"));
    tiny_chunk(s, true);
    sc_session_destroy(s);
    s = NULL;
    assert_int_equal(sc_session_create(e, 1, text, SC_PROMPT_BYTES_MAX + 1, 1, &s, &err), SC_EINVAL);
    assert_null(s);
    s = tiny_session(e, 1, "the place was not lost");
    sc_session_destroy(s);
    free(text);
    sc_engine_close(e);
}

static void bad_utf8_is_refused_with_its_offset(void **state) {
    static const struct { const char *text; size_t n; const char *where; } cases[] = {
        {"\xff", 1, "byte 0"}, {"abc\x80", 4, "byte 3"}, {"abc\xc3(", 5, "byte 3"}, {"\xed\xa0\x80", 3, "byte 0"}, {"ok \xf4\x90\x80\x80", 7, "byte 3"},
        {"\xc3\xa4\xc3\xa4\xe2\x82", 6, "byte 4"}, {"overlong \xc0\xaf", 11, "byte 9"}, {"overlong \xe0\x80\xaf", 12, "byte 9"}, {"\xf0\x9f\x8e\x88\xf0\x9f\x8e", 7, "byte 4"},
        {"a\xfe", 2, "byte 1"}, {"\xf5\x80\x80\x80", 4, "byte 0"}, {"long enough to be cut before this \xbf and after", 45, "byte 34"},
    };
    sc_engine *e = tiny_open(&tiny_default, "cpu", 2);
    sc_session *s = tiny_session(e, 1, "good");

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sc_session *t = NULL;
        sc_error err = {0}, again = {0};
        assert_int_equal(sc_session_set_prompt(s, cases[i].text, cases[i].n, 2, SC_CUT, 0, NULL, &err), SC_EINVAL);
        if (!strstr(err.text, "UTF-8") || !strstr(err.text, cases[i].where)) fail_msg("case %zu: \"%s\" lacks %s", i, err.text, cases[i].where);
        assert_int_equal(sc_session_create(e, 1, cases[i].text, cases[i].n, 1, &t, &again), SC_EINVAL);
        assert_string_equal(again.text, err.text);
        assert_null(t);
    }
    tiny_chunk(s, true);
    sc_session_destroy(s);
    sc_engine_close(e);
}

/* ---- transitions -------------------------------------------------------------------------------------------------------- */

static tiny_shape other_shape(int kind) {
    tiny_shape s = tiny_default;
    if (kind == 1) s.window_frames = 7, s.sink_frames = 1;
    return s;
}

typedef struct { sc_kv_slot *slots; float *k, *v, *rep; size_t slot_n, page, pages; } memory_copy;

static memory_copy copy_memory(const sc_session *s) {
    const sc_kv_memory *m = &s->memory;
    const sc_pages *p = &s->engine->pages;
    memory_copy c = {.slot_n = (size_t)(m->layers * m->heads * m->slots), .page = (size_t)(p->page_rows * p->head_dim), .pages = (size_t)p->pages};
    c.slots = malloc(c.slot_n * sizeof *c.slots);
    c.k = malloc(c.pages * c.page * sizeof *c.k);
    c.v = malloc(c.pages * c.page * sizeof *c.v);
    c.rep = malloc(c.pages * (size_t)p->head_dim * sizeof *c.rep);
    assert_true(c.slots && c.k && c.v && c.rep);
    memcpy(c.slots, m->device, c.slot_n * sizeof *c.slots);
    memcpy(c.k, p->k, c.pages * c.page * sizeof *c.k);
    memcpy(c.v, p->v, c.pages * c.page * sizeof *c.v);
    memcpy(c.rep, p->rep_k, c.pages * (size_t)p->head_dim * sizeof *c.rep);
    return c;
}

static void free_copy(memory_copy *c) {
    free(c->slots);
    free(c->k);
    free(c->v);
    free(c->rep);
}

static bool same_page(const sc_engine *e, int page, const memory_copy *c, int page_of_copy) {
    const size_t a = (size_t)page * c->page, b = (size_t)page_of_copy * c->page, d = (size_t)e->pages.head_dim;
    return !memcmp((float *)e->pages.k + a, c->k + b, c->page * sizeof(float)) && !memcmp((float *)e->pages.v + a, c->v + b, c->page * sizeof(float)) &&
           !memcmp(e->pages.rep_k + (size_t)page * d, c->rep + (size_t)page_of_copy * d, d * sizeof(float));
}

static void a_prompt_applies_from_the_next_chunk_that_begins(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        const tiny_shape shape = other_shape(kind);
        sc_engine *e = tiny_open(&shape, "cpu", 1);
        float *quiet = malloc(8 * e->latent_count * sizeof *quiet), *got = malloc(8 * e->latent_count * sizeof *got);
        sc_session *s = tiny_session(e, 11, "a red car");
        sc_error err = {0};
        assert_true(quiet && got);
        tiny_play(s, 8, quiet);
        sc_session_destroy(s);
        for (int before = 0; before <= 4; before++) { /* passes of chunk 3 that ran before the prompt came */
            uint64_t applies = 99;
            sc_frames f;
            s = tiny_session(e, 11, "a red car");
            tiny_play(s, 3, got);
            for (int p = 0; p < before % 4; p++) tiny_pass(s);
            if (before == 4) for (int p = 0; p < 4; p++) tiny_pass(s);
            const uint64_t want = before == 0 ? 3 : 4;
            if (sc_session_set_prompt(s, "never seen", 10, 6, SC_CUT, 0, &applies, &err)) fail_msg("%s", err.text);
            assert_true(applies == want);
            if (sc_session_set_prompt(s, "a green bird", 12, 7, SC_SWITCH, 0, &applies, &err)) fail_msg("%s", err.text); /* replaces it, cut and all */
            assert_true(applies == want);
            if (s->phase == 0) assert_int_equal(sc_session_next(s).prompt_seq, 7);
            else assert_int_equal(sc_session_next(s).prompt_seq, 1);
            while (s->chunk < 7) {
                const uint64_t c = s->chunk;
                do tiny_pass(s);
                while (s->phase && s->chunk == c && sc_session_next(s).kind != SC_PASS_CLEAN);
                assert_int_equal(sc_session_frames(s, &f, NULL), SC_OK);
                assert_int_equal(f.prompt_seq, c < want ? 1 : 7);
                assert_int_equal(f.first_of_prompt, c == want);
                const bool same = !memcmp(s->x, quiet + c * e->latent_count, e->latent_count * sizeof(float));
                assert_int_equal(same, c < want);
                tiny_pass(s);
            }
            sc_session_destroy(s);
        }
        free(quiet);
        free(got);
        sc_engine_close(e);
    }
}

static void a_switch_changes_keys_and_values_and_leaves_the_memory(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        const tiny_shape shape = other_shape(kind);
        sc_engine *e = tiny_open(&shape, "cpu", 2);
        sc_session *a = tiny_session(e, 1, "a red car"), *b = tiny_session(e, 1, "a red car");
        for (int c = 0; c < 10; c++) {
            if (c == 5) {
                tiny_prompt(a, "a green bird", 2, SC_SWITCH, 0);
                sc_prompt_drop(e, b->prompt); /* by hand */
                b->prompt = get(e, "a green bird");
            }
            tiny_chunk(a, false);
            tiny_chunk(b, false);
            assert_memory_equal(a->x, b->x, e->latent_count * sizeof(float));
        }
        sc_session_destroy(a);
        sc_session_destroy(b);
        sc_engine_close(e);
    }
}

static void a_cut_is_a_new_scene(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++)
        for (int at = 0; at < 7; at += 3) {
            const tiny_shape shape = other_shape(kind);
            sc_engine *e = tiny_open(&shape, "cpu", 2);
            sc_session *s = tiny_session(e, 1, "a red car"), *fresh = tiny_session(e, 1, "a green bird");
            sc_error err = {0};
            sc_frames f;
            for (int c = 0; c < at; c++) tiny_chunk(s, true);
            tiny_prompt(s, "a green bird", 2, SC_CUT, 0);
            fresh->chunk = (uint64_t)at; /* as if it had only begun now */
            if (sc_kv_reset(&fresh->memory, at, &err)) fail_msg("%s", err.text);
            for (int c = 0; c < 8; c++) {
                tiny_chunk(s, true);
                tiny_chunk(fresh, true);
                assert_memory_equal(s->x, fresh->x, e->latent_count * sizeof(float));
                assert_int_equal(sc_session_frames(s, &f, NULL), SC_OK);
                assert_int_equal(f.count, at || c ? 12 : 9); /* the pictures go on: no start-up frames again */
                assert_int_equal(s->past_count, fresh->past_count);
            }
            sc_session_destroy(s);
            sc_session_destroy(fresh);
            sc_engine_close(e);
        }
}

static void a_flush_keeps_persistent_blocks_and_the_newest_chunk_as_they_are(void **state) {
    (void)state;
    for (int at = 1; at < 9; at++) {
        sc_engine *e = tiny_open(&tiny_default, "cpu", 1);
        sc_session *s = tiny_session(e, 1, "a red car");
        const int blocks = e->layout->blocks.blocks, base = e->rule.capacity;
        for (int c = 0; c < at; c++) tiny_chunk(s, false);
        memory_copy before = copy_memory(s);
        const sc_kv_memory *m = &s->memory;
        const int persistent = m->persistent, newest = (m->chunks - 2) * blocks;
        tiny_prompt(s, "a green bird", 2, SC_FLUSH, 0);
        tiny_pass(s); /* the first pass of chunk `at` */
        assert_int_equal(m->persistent, persistent);
        assert_int_equal(m->chunks, 2);
        assert_int_equal(s->past_count, 1);
        for (int h = 0; h < m->layers * m->heads; h++) {
            const sc_kv_slot *now = m->device + h * m->slots, *was = before.slots + h * m->slots;
            for (int i = 0; i < persistent; i++) {
                assert_memory_equal(&now[i], &was[i], sizeof *now);
                assert_true(same_page(e, now[i].page, &before, was[i].page));
            }
            for (int i = 0; i < blocks; i++) {
                assert_true(now[base + i].chunk == at - 1 && now[base + i].block == i && now[base + i].page == was[base + newest + i].page);
                assert_true(same_page(e, now[base + i].page, &before, was[base + newest + i].page));
                assert_true(now[base + blocks + i].chunk == at && now[base + blocks + i].block == i);
            }
        }
        free_copy(&before);
        while (s->phase) tiny_pass(s);
        for (int c = 0; c < 6; c++) tiny_chunk(s, true);
        assert_int_equal(m->chunks, 3);
        assert_int_equal(s->past_count, 2);
        sc_session_destroy(s);
        sc_engine_close(e);
    }
}

/* What a memory would be had the past latents of `of` been remembered under `cross` from the start. */
static void remember(sc_session *s, const sc_session *of, int count, const sc_cross *cross) {
    sc_engine *e = s->engine;
    sc_error err = {0};
    for (int k = 0; k < count; k++) {
        sc_pass_args a = {.seqs = 1, .layout = e->layout, .pages = e->pages, .mods = sc_mods_of(e, e->cfg.step_count), .sparse = true, .capacity = e->rule.capacity,
                          .cross = {cross}, .latent = {sc_session_past(of, k)}};
        if (sc_kv_begin(&s->memory, &err)) fail_msg("%s", err.text);
        a.view[0] = sc_kv_view_of(&s->memory);
        a.keep[0] = sc_kv_keep(e->cfg.memory.keep_ratio, a.view[0].window);
        if (sc_dit_pass(e->dit, e->work, &a, &err)) fail_msg("%s", err.text);
        sc_kv_end(&s->memory);
    }
}

static void a_recache_writes_the_window_again_under_the_new_words(void **state) {
    (void)state;
    for (int at = 1; at < 8; at++) {
        sc_engine *e = tiny_open(&tiny_default, "cpu", 2);
        sc_session *s = tiny_session(e, 1, "a red car"), *built = tiny_session(e, 1, "a green bird");
        const sc_kv_memory *m = &s->memory;
        const int blocks = e->layout->blocks.blocks, base = e->rule.capacity;
        sc_error err = {0};
        for (int c = 0; c < at; c++) tiny_chunk(s, false);
        const int past = s->past_count, persistent = m->persistent;
        assert_int_equal(past, at < 2 ? at : 2);
        memory_copy before = copy_memory(s);
        tiny_prompt(s, "a green bird", 2, SC_RECACHE, 0);
        tiny_pass(s);
        assert_int_equal(m->persistent, persistent);
        /* persistent blocks are left alone, the window's pages are where they were and hold something else */
        for (int h = 0; h < m->layers * m->heads; h++) {
            const sc_kv_slot *now = m->device + h * m->slots, *was = before.slots + h * m->slots;
            assert_memory_equal(now, was, (size_t)m->slots * sizeof *now);
            for (int i = 0; i < persistent; i++) assert_true(same_page(e, now[i].page, &before, was[i].page));
            for (int i = 0; h >= m->heads && i < past * blocks; i++) /* keys of layer 0 are made before the first cross-attention */
                assert_false(same_page(e, now[base + i].page, &before, was[base + i].page));
        }
        if (!persistent) { /* the same memory built from nothing */
            if (sc_kv_reset(&built->memory, at - past, &err)) fail_msg("%s", err.text);
            remember(built, s, past, &built->prompt->cross);
            memory_copy other = copy_memory(built);
            for (int h = 0; h < m->layers * m->heads; h++)
                for (int i = 0; i < past * blocks; i++) {
                    const sc_kv_slot *a = m->device + h * m->slots + base + i, *b = built->memory.device + h * m->slots + base + i;
                    assert_true(a->chunk == b->chunk && a->block == b->block);
                    if (!same_page(e, a->page, &other, b->page)) fail_msg("chunk %d, head %d, slot %d: another page", at, h, i);
                }
            free_copy(&other);
        }
        free_copy(&before);
        while (s->phase) tiny_pass(s);
        tiny_play(s, 4, NULL);
        sc_session_destroy(s);
        sc_session_destroy(built);
        sc_engine_close(e);
    }
}

static void a_recache_under_the_same_words_changes_nothing_while_the_window_fills(void **state) {
    sc_engine *e = tiny_open(&tiny_default, "cpu", 2);
    sc_session *a = tiny_session(e, 1, "a red car"), *b = tiny_session(e, 1, "a red car");
    (void)state;
    for (int c = 0; c < 9; c++) {
        if (c < 3) tiny_prompt(b, "a red car", 2, SC_RECACHE, 0);
        tiny_chunk(a, false);
        tiny_chunk(b, false);
        assert_memory_equal(a->x, b->x, e->latent_count * sizeof(float));
    }
    sc_session_destroy(a);
    sc_session_destroy(b);
    sc_engine_close(e);
}

static void a_blend_moves_the_embeddings_in_equal_steps(void **state) {
    static const char *const words[2] = {"a red car", "two green birds over the desert at night"};
    (void)state;
    for (int way = 0; way < 2; way++)
        for (int n = 1; n <= 5; n++) {
            sc_engine *e = tiny_open(&tiny_default, "cpu", 1);
            sc_session *s = tiny_session(e, 1, words[way]);
            sc_prompt *a = get(e, words[way]), *b = get(e, words[!way]);
            sc_error err = {0};
            assert_int_not_equal(a->tokens, b->tokens);
            for (int c = 0; c < 3; c++) tiny_chunk(s, false);
            tiny_prompt(s, words[!way], 2, SC_BLEND, n);
            for (int k = 1; k <= n + 2; k++) {
                assert_int_equal(sc_session_next(s).prompt_seq, 2);
                tiny_pass(s);
                assert_int_equal(s->fresh_prompt, k == 1);
                assert_ptr_equal(s->prompt, b);
                if (k < n) {
                    const int rows = a->tokens > b->tokens ? a->tokens : b->tokens;
                    float *mix = calloc((size_t)rows * TINY_TEXT, sizeof *mix);
                    sc_cross want = {0};
                    assert_non_null(mix);
                    for (int i = 0; i < rows * TINY_TEXT; i++) {
                        const double from = i < a->tokens * TINY_TEXT ? a->emb[i] : 0, to = i < b->tokens * TINY_TEXT ? b->emb[i] : 0;
                        mix[i] = (float)(from + (to - from) * k / n);
                    }
                    if (sc_cross_create(e->dit, mix, rows, true, &want, &err)) fail_msg("%s", err.text);
                    const sc_cross *mixed = sc_session_blend(s);
                    assert_non_null(mixed->kv);
                    assert_int_equal(mixed->rows, want.rows);
                    assert_true(mixed->last_bias == want.last_bias);
                    const double d = tiny_distance(mixed->kv, want.kv, (size_t)(2 * 2 * want.rows * 16));
                    if (!(d < 1e-6)) fail_msg("chunk %d of %d: %g apart", k, n, d);
                    sc_cross_free(e->dit, &want);
                    free(mix);
                } else assert_true(!s->blend[0].kv && !s->blend[1].kv); /* arrived */
                while (s->phase) tiny_pass(s);
            }
            sc_prompt_drop(e, a);
            sc_prompt_drop(e, b);
            sc_session_destroy(s);
            sc_engine_close(e);
        }
}

static void a_prompt_in_the_middle_of_a_blend_ends_it(void **state) {
    (void)state;
    for (int t = SC_SWITCH; t <= SC_CUT; t++) {
        sc_engine *e = tiny_open(&tiny_default, "cpu", 1);
        sc_session *s = tiny_session(e, 1, "a red car");
        tiny_chunk(s, false);
        tiny_prompt(s, "a green bird", 2, SC_BLEND, 6);
        tiny_chunk(s, false);
        tiny_chunk(s, false);
        assert_non_null(s->blend_from);
        tiny_prompt(s, "snow", 3, (sc_transition)t, 4);
        tiny_pass(s);
        assert_string_equal(s->prompt->text, "snow");
        if (t == SC_BLEND) assert_string_equal(s->blend_from->text, "a green bird");
        else assert_true(!s->blend_from && !s->blend[0].kv && !s->blend[1].kv);
        while (s->phase) tiny_pass(s);
        for (int c = 0; c < 4; c++) tiny_chunk(s, true);
        assert_true(!s->blend_from && !s->blend[0].kv && !s->blend[1].kv);
        sc_session_destroy(s);
        sc_engine_close(e);
    }
}

static void transitions_have_their_words(void **state) {
    static const char *const words[] = {"switch", "blend", "recache", "flush", "cut"}, *const none[] = {"", "Cut", "cuts", "fade", "switch "};
    sc_transition t;
    (void)state;
    for (int i = 0; i < 5; i++) {
        assert_true(sc_transition_parse(words[i], &t));
        assert_int_equal(t, i);
        assert_string_equal(sc_transition_name(t), words[i]);
        assert_false(sc_transition_parse(none[i], &t));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(padding_in_one_key_is_the_long_form),
        cmocka_unit_test(real_tokens_alone_are_the_padded_and_masked_form),
        cmocka_unit_test(the_cache_keeps_the_16_newest_and_sessions_keep_theirs),
        cmocka_unit_test(text_of_any_length_up_to_4096_bytes_is_taken),
        cmocka_unit_test(bad_utf8_is_refused_with_its_offset),
        cmocka_unit_test(a_prompt_applies_from_the_next_chunk_that_begins),
        cmocka_unit_test(a_switch_changes_keys_and_values_and_leaves_the_memory),
        cmocka_unit_test(a_cut_is_a_new_scene),
        cmocka_unit_test(a_flush_keeps_persistent_blocks_and_the_newest_chunk_as_they_are),
        cmocka_unit_test(a_recache_writes_the_window_again_under_the_new_words),
        cmocka_unit_test(a_recache_under_the_same_words_changes_nothing_while_the_window_fills),
        cmocka_unit_test(a_blend_moves_the_embeddings_in_equal_steps),
        cmocka_unit_test(a_prompt_in_the_middle_of_a_blend_ends_it),
        cmocka_unit_test(transitions_have_their_words),
    };
    return cmocka_run_group_tests(tests, NULL, tiny_remove);
}

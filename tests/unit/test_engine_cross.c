/* test_engine_cross.c - the keys of a prompt: folded into the product behind the attention or not, and made beside the chunks that run.
 *
 * Three queues stand in for a card's: each call is made at once, but who comes behind whom is counted as on a card, by marks alone (a vector clock
 * a queue). So keys that are read before their writing is known to have ended are seen here, and so is a chunk that allocates or waits. */
#include "tests/unit/engine_model.h"

enum { CROWD = 5 };

/* ---- folded and not ----------------------------------------------------------------------------------------------------- */

static tiny_shape shape_of(int head_dim, int text_len) {
    tiny_shape s = tiny_default;
    s.head_dim = head_dim;
    s.heads = head_dim == 32 ? 3 : 2;
    s.text_len = text_len;
    return s;
}

/* Flows of one pass of the sessions' current chunks, all in one batch, each under its cross. steps: rows of the modulation table, or NULL. */
static void flows(sc_session *const *s, int n, const sc_cross *const *cross, const int *steps, float *const *flow) {
    sc_engine *e = s[0]->engine;
    sc_error err = {0};
    sc_pass_args a = {.seqs = n, .layout = e->layout, .pages = e->pages, .mods = e->mods, .sparse = e->rule.pbsa, .capacity = e->rule.capacity};
    const int tokens = e->layout->tokens;
    for (int i = 0; i < n; i++) {
        a.view[i] = sc_kv_view_of(&s[i]->memory);
        a.keep[i] = sc_kv_keep(e->cfg.memory.keep_ratio, a.view[i].window);
        a.cross[i] = cross[i], a.latent[i] = s[i]->x, a.flow[i] = flow[i];
        for (int t = 0; steps && t < tokens; t++) e->row_mod_mixed[i * tokens + t] = steps[i];
    }
    if (steps) a.row_mod = e->row_mod_mixed;
    if (sc_dit_pass(e->dit, e->work, &a, &err)) fail_msg("%s", err.text);
}

/* A cross as it would be of a device without folds. */
static sc_cross unfolded(const sc_cross *c) {
    sc_cross u = *c;
    u.fold = NULL;
    u.keys = NULL;
    u.stride = 0;
    return u;
}

static void a_folded_prompt_gives_the_flow_of_an_unfolded_one(void **state) {
    (void)state;
    for (int way = 0; way < 4; way++) {
        const int head_dim = way < 2 ? 16 : 32, text_len = 21;
        const tiny_shape shape = shape_of(head_dim, text_len);
        sc_engine *e = tiny_open(&shape, way % 2 ? "cpu" : "twin", 1);
        sc_session *s = tiny_session(e, 5, "a");
        float *emb = malloc((size_t)text_len * TINY_TEXT * sizeof *emb), *want = malloc(e->latent_count * sizeof *want), *got = malloc(e->latent_count * sizeof *got);
        sc_error err = {0};
        int folded = 0;
        assert_true(emb && want && got);
        tiny_chunk(s, false);
        tiny_pass(s);
        for (int k = 0; k < text_len * TINY_TEXT; k++) emb[k] = tiny_random();
        for (int n = 1; n <= text_len; n++) {
            sc_cross c = {0};
            if (sc_cross_create(e->dit, emb, n, true, &c, &err)) fail_msg("%s", err.text);
            assert_int_equal(c.stride, c.rows <= head_dim / 2 ? (c.rows + 7) / 8 * 8 : 0);
            assert_int_equal(c.keys != NULL, c.stride && way % 2 == 0); /* the twin's queries need not be made */
            const sc_cross u = unfolded(&c);
            const sc_cross *cross[2] = {&c, &u};
            flows(&s, 1, &cross[0], NULL, &got);
            flows(&s, 1, &cross[1], NULL, &want);
            const double d = tiny_distance(got, want, e->latent_count);
            if (!(d < 3e-6)) fail_msg("%s, %d tokens: %g apart", way % 2 ? "cpu" : "twin", n, d);
            if (c.stride) {
                folded++;
                assert_true(d > 0); /* another way of adding up */
                emb[0] += 1; /* written again, the same memory gives another prompt */
                if (sc_cross_write(e->dit, &c, emb, n, &err)) fail_msg("%s", err.text);
                flows(&s, 1, &cross[0], NULL, &got);
                assert_true(tiny_distance(got, want, e->latent_count) > 1e-5);
                flows(&s, 1, &cross[1], NULL, &want);
                assert_true(tiny_distance(got, want, e->latent_count) < 3e-6);
                emb[0] -= 1;
            }
            sc_cross_free(e->dit, &c);
        }
        assert_int_equal(folded, head_dim / 2 - 1);
        free(emb);
        free(want);
        free(got);
        sc_session_destroy(s);
        sc_engine_close(e);
    }
}

static void batch_of(const char *device) {
    static const int words[CROWD] = {3, 3, 12, 20, 5}; /* strides 8, 8, 16, none, 8 */
    static const int steps[CROWD] = {1, 0, 2, 1, 0};
    const tiny_shape shape = shape_of(32, 23);
    sc_engine *e = tiny_open(&shape, device, CROWD);
    sc_session *s[CROWD];
    sc_cross c[CROWD] = {0};
    const sc_cross *cross[CROWD];
    float *want[CROWD], *got[CROWD], *emb = malloc((size_t)shape.text_len * TINY_TEXT * sizeof *emb);
    sc_error err = {0};

    for (int i = 0; i < CROWD; i++) {
        s[i] = tiny_session(e, 20 + (uint64_t)i, "a");
        tiny_chunk(s[i], false);
        tiny_pass(s[i]);
        for (int k = 0; k < shape.text_len * TINY_TEXT; k++) emb[k] = tiny_random();
        if (sc_cross_create(e->dit, emb, words[i], true, &c[i], &err)) fail_msg("%s", err.text);
        cross[i] = &c[i];
        want[i] = malloc(e->latent_count * sizeof(float)), got[i] = malloc(e->latent_count * sizeof(float));
    }
    assert_true(c[0].stride == 8 && c[1].stride == 8 && c[2].stride == 16 && c[3].stride == 0 && c[4].stride == 8);
    for (int mixed = 0; mixed < 2; mixed++) {
        for (int i = 0; i < CROWD; i++) flows(&s[i], 1, &cross[i], mixed ? &steps[i] : NULL, &want[i]);
        flows(s, CROWD, cross, mixed ? steps : NULL, got);
        for (int i = 0; i < CROWD; i++)
            if (memcmp(got[i], want[i], e->latent_count * sizeof(float))) fail_msg("sequence %d of the batch has another flow than alone", i);
    }
    cross[1] = &c[0]; /* and one prompt may be that of two */
    flows(&s[1], 1, &cross[1], NULL, &want[1]);
    flows(s, CROWD, cross, NULL, got);
    assert_memory_equal(got[1], want[1], e->latent_count * sizeof(float));
    for (int i = 1; i < CROWD; i += 3) { /* values folded and keys not, beside one of the same stride that has both */
        sc_cross bare = c[i];
        bare.keys = NULL;
        cross[i] = &bare;
        flows(&s[i], 1, &cross[i], NULL, &want[i]);
        flows(s, CROWD, cross, NULL, got);
        assert_memory_equal(got[i], want[i], e->latent_count * sizeof(float));
        cross[i] = &c[i];
    }
    for (int i = 0; i < CROWD; i++) {
        sc_cross_free(e->dit, &c[i]);
        sc_session_destroy(s[i]);
        free(want[i]);
        free(got[i]);
    }
    free(emb);
    sc_engine_close(e);
}

static sc_prompt *get(sc_engine *e, const char *text) {
    sc_prompt *p;
    sc_error err = {0};
    if (sc_prompt_get(e, text, strlen(text), &p, &err)) fail_msg("%s", err.text);
    return p;
}

static bool known(const sc_engine *e, const char *text) { return sc_engine_prompt_known(e, text, strlen(text)); }

static void sequences_of_one_batch_have_each_its_own_prompt(void **state) {
    (void)state;
    batch_of("cpu");
    batch_of("twin");
}

static void prompts_that_nobody_uses_take_so_much_memory_and_no_more(void **state) {
    static const char *const words[] = {"a", "b", "c", "d", "e", "f"};
    const tiny_shape shape = shape_of(32, 23);
    sc_engine *e = tiny_open(&shape, "cpu", 1);
    sc_prompt *used = get(e, "snow");
    const int layers = e->cfg.dit.layers, dim = e->cfg.dit.dim;

    (void)state;
    assert_true(used->cross.stride == 8);
    assert_in_range(used->cross.bytes, (size_t)layers * (size_t)dim * (size_t)(2 * used->cross.rows + 8 * 3) * 4, (size_t)layers * (size_t)dim * 64 * 4);
    for (int i = 0; i < 6; i++) sc_prompt_drop(e, get(e, words[i]));
    for (int i = 0; i < 6; i++) assert_true(known(e, words[i])); /* a gigabyte has room for all */
    sc_prompt *last[2] = {get(e, "f"), get(e, "a")};
    e->cache_bytes = last[0]->cross.bytes + last[1]->cross.bytes;
    for (int i = 0; i < 2; i++) sc_prompt_drop(e, last[i]);
    sc_prompt_drop(e, get(e, "g")); /* f and a were used last: they stay when g comes */
    for (int i = 1; i < 5; i++) assert_false(known(e, words[i]));
    assert_true(known(e, "a") && known(e, "f") && known(e, "g"));
    e->cache_bytes = 0;
    sc_prompt_drop(e, get(e, "h"));
    assert_true(known(e, "snow") && known(e, "h"));
    assert_false(known(e, "a") || known(e, "f") || known(e, "g"));
    sc_prompt_drop(e, used);
    sc_prompt_drop(e, get(e, "i"));
    assert_true(!known(e, "snow") && !known(e, "h") && known(e, "i"));
    sc_engine_close(e);
}

/* ---- three queues ------------------------------------------------------------------------------------------------------- */

enum { QUEUES = 3, PLACES = 4000 };

struct sc_mark { long seen[QUEUES]; };

static struct {
    const sc_ops *real;
    sc_ops table;
    sc_device *queue[QUEUES];   /* passes, decoding, prompts */
    long seen[QUEUES][QUEUES];  /* [q][p]: how many calls of p have ended when q's next begins; [q][q]: calls of q */
    struct { const void *at; int writer, reader; long written, read; } place[PLACES];
    int places;
    bool in_chunk;
    long forbidden, read, written, unmade; /* unmade: calls of query_weights */
    char what[64];
    const sc_mark *watched;     /* how often the passes' queue was told to wait for it */
    int waits;
} queues;

static int queue_of(const sc_device *d) {
    int q = 0;
    while (queues.queue[q] != d) q++;
    return q;
}

static int place_of(const void *at) {
    int i = 0;
    while (i < queues.places && queues.place[i].at != at) i++;
    assert_true(i < PLACES);
    if (i == queues.places) queues.places++, queues.place[i].at = at, queues.place[i].writer = queues.place[i].reader = -1;
    return i;
}

static void write_at(const sc_device *d, const void *at) {
    const int q = queue_of(d), i = place_of(at);
    if (queues.place[i].reader >= 0 && queues.seen[q][queues.place[i].reader] < queues.place[i].read) fail_msg("keys are written while they may still be read");
    queues.place[i].writer = q, queues.place[i].written = ++queues.seen[q][q];
    queues.written++;
}

static void read_at(const sc_device *d, const void *at) {
    const int q = queue_of(d), i = place_of(at);
    if (queues.place[i].writer < 0) return;
    if (queues.seen[q][queues.place[i].writer] < queues.place[i].written) fail_msg("keys are read before they are known to be written");
    queues.place[i].reader = q, queues.place[i].read = ++queues.seen[q][q];
    queues.read++;
}

static void forbidden(const char *what) {
    if (!queues.in_chunk) return;
    queues.forbidden++;
    snprintf(queues.what, sizeof queues.what, "%s", what);
}

/* Memory that comes again is in order already. */
static void forget(const void *at, size_t n) {
    for (int i = 0; i < queues.places; i++)
        if ((uintptr_t)queues.place[i].at - (uintptr_t)at < n) queues.place[i].writer = queues.place[i].reader = -1;
}

static sc_status q_alloc(sc_device *d, void **out, size_t n, sc_error *err) {
    forbidden("alloc");
    const sc_status rc = queues.real->alloc(d, out, n, err);
    forget(*out, n);
    return rc;
}
static sc_status q_fold_create(sc_device *d, sc_matrix **out, const sc_matrix *o, void *memory, int cols, sc_error *err) {
    const sc_status rc = queues.real->fold_create(d, out, o, memory, cols, err);
    forget(*out, 1);
    return rc;
}
static sc_status q_alloc_host(sc_device *d, void **out, size_t n, sc_error *err) { forbidden("alloc_host"); return queues.real->alloc_host(d, out, n, err); }
static sc_status q_matrix_create(sc_device *d, sc_matrix **out, const sc_matrix_desc *m, sc_error *err) { forbidden("matrix_create"); return queues.real->matrix_create(d, out, m, err); }
static sc_status q_download(sc_device *d, void *host, const void *src, size_t n, sc_error *err) { forbidden("download"); return queues.real->download(d, host, src, n, err); }
static sc_status q_sync(sc_device *d, sc_error *err) { forbidden("sync"); return queues.real->sync(d, err); }
static sc_status q_upload(sc_device *d, void *dst, const void *host, size_t n, sc_error *err) {
    if (n > (size_t)2 << 20) forbidden("upload"); /* of so much may wait */
    return queues.real->upload(d, dst, host, n, err);
}
static sc_status q_fetch(sc_device *d, void *host, const void *src, size_t n, sc_error *err) { return queues.real->download(d, host, src, n, err); }
static sc_status q_mark_create(sc_device *d, sc_mark **out, sc_error *err) {
    (void)d, (void)err;
    forbidden("mark_create");
    assert_non_null(*out = calloc(1, sizeof **out));
    return SC_OK;
}
static void q_mark_destroy(sc_device *d, sc_mark *m) { (void)d, free(m); }
static sc_status q_mark(sc_device *d, sc_mark *m, sc_error *err) {
    (void)err;
    memcpy(m->seen, queues.seen[queue_of(d)], sizeof m->seen);
    return SC_OK;
}
static sc_status q_after(sc_device *d, sc_mark *m, sc_error *err) {
    long *seen = queues.seen[queue_of(d)];
    (void)err;
    queues.waits += m == queues.watched && queue_of(d) == 0;
    for (int i = 0; i < QUEUES; i++) seen[i] = m->seen[i] > seen[i] ? m->seen[i] : seen[i];
    return SC_OK;
}
static sc_status q_wait(sc_device *d, sc_mark *m, sc_error *err) { (void)d, (void)m, (void)err; forbidden("wait"); return SC_OK; }
static bool q_passed(sc_device *d, const sc_mark *m) { (void)d, (void)m; return true; }
static sc_status q_elapsed(sc_device *d, sc_mark *from, sc_mark *to, uint64_t *ns, sc_error *err) { (void)d, (void)from, (void)to, (void)err; *ns = 1; return SC_OK; }
static sc_status q_rms_norm(sc_device *d, const sc_rms_norm_args *a, sc_error *err) {
    if (queue_of(d) == 2) write_at(d, a->out);
    return queues.real->rms_norm(d, a, err);
}
static sc_status q_fold(sc_device *d, const sc_fold_args *a, sc_error *err) {
    write_at(d, a->out);
    return queues.real->fold(d, a, err);
}
static sc_status q_query_keys(sc_device *d, const sc_query_keys_args *a, sc_error *err) {
    write_at(d, a->keys);
    return queues.real->query_keys(d, a, err);
}
static sc_status q_query_weights(sc_device *d, const sc_query_weights_args *a, sc_error *err) {
    read_at(d, a->keys);
    queues.unmade++;
    return queues.real->query_weights(d, a, err);
}
static sc_status q_linear(sc_device *d, const sc_linear_args *a, sc_error *err) {
    if (queue_of(d) == 2) write_at(d, a->out);
    else read_at(d, a->w);
    return queues.real->linear(d, a, err);
}
static sc_status q_cross_attention(sc_device *d, const sc_cross_attention_args *a, sc_error *err) {
    for (int s = 0; s < a->seqs; s++) {
        read_at(d, a->k[s]);
        if (!a->weights) read_at(d, a->v[s]);
    }
    return queues.real->cross_attention(d, a, err);
}

static sc_engine *open_queues(const tiny_shape *shape, const char *device, int sessions) {
    sc_engine *e = tiny_open(shape, device, sessions);
    sc_error err = {0};

    memset(&queues, 0, sizeof queues);
    queues.real = e->dev->ops;
    sc_ops *t = &queues.table;
    *t = *queues.real;
    t->alloc = q_alloc, t->alloc_host = q_alloc_host, t->matrix_create = q_matrix_create, t->download = q_download, t->sync = q_sync, t->upload = q_upload, t->fetch = q_fetch;
    t->mark_create = q_mark_create, t->mark_destroy = q_mark_destroy, t->mark = q_mark, t->after = q_after, t->wait = q_wait, t->passed = q_passed, t->elapsed = q_elapsed;
    t->query_keys = q_query_keys, t->query_weights = q_query_weights;
    t->rms_norm = q_rms_norm, t->fold = q_fold, t->fold_create = q_fold_create, t->linear = q_linear, t->cross_attention = q_cross_attention;
    queues.queue[0] = e->dev;
    for (int i = 1; i < QUEUES; i++)
        if (sc_device_open(&queues.queue[i], device, 1, SC_F16, &err)) fail_msg("%s", err.text);
    for (int i = 0; i < QUEUES; i++) queues.queue[i]->ops = t;
    e->decode_dev = queues.queue[1];
    sc_decoder_move(e->decoder, e->decode_dev);
    e->prompt_dev = e->dit->prompt_dev = queues.queue[2];
    sc_t5_move(e->t5, e->prompt_dev);
    q_mark_create(e->dev, &e->dit->prompt->made, &err);
    return e;
}

static void close_queues(sc_engine *e) {
    q_mark_destroy(e->dev, e->dit->prompt->made);
    e->dit->prompt->made = NULL;
    for (int i = 0; i < QUEUES; i++) queues.queue[i]->ops = queues.real;
    sc_engine_close(e);
}

/* A chunk of both sessions, every pass one batch; the frames are waited for outside. */
static void chunk_of(sc_session *const *s, int n) {
    do {
        sc_error err = {0};
        const bool decode = sc_session_next(s[0]).kind == SC_PASS_DECODE;
        queues.in_chunk = true;
        if (sc_engine_run(s[0]->engine, s, n, &err)) fail_msg("pass: %s", err.text);
        queues.in_chunk = false;
        for (int i = 0; decode && i < n; i++) {
            sc_frames f;
            if (sc_session_frames(s[i], &f, &err)) fail_msg("frames: %s", err.text);
        }
    } while (s[0]->phase);
}

static void a_chunk_of_a_blend_neither_allocates_nor_waits(void **state) {
    static const char *const long_text = "two green birds over the desert at night and a red car";
    (void)state;
    for (int way = 0; way < 3; way++) { /* not folded, values folded, keys too */
        const tiny_shape shape = shape_of(way ? 32 : 8, 23);
        sc_engine *e = open_queues(&shape, way == 2 ? "twin" : "cpu", 2);
        sc_session *s[2] = {tiny_session(e, 1, "a red car"), tiny_session(e, 2, "snow")};
        for (int c = 0; c < 3; c++) chunk_of(s, 2);
        tiny_prompt(s[0], long_text, 2, SC_BLEND, 5);
        const sc_prompt *p = s[0]->next_prompt;
        assert_int_equal(s[0]->next_blend[0].rows, p->cross.rows);
        for (int c = 0; c < 3; c++) {
            chunk_of(s, 2);
            assert_non_null(s[0]->blend_from);
        }
        tiny_prompt(s[1], "rain", 2, SC_BLEND, 2);
        tiny_prompt(s[1], "rain at night", 3, SC_BLEND, 4); /* instead of that one */
        for (int c = 0; c < 2; c++) chunk_of(s, 2);
        assert_true(!s[0]->blend_from && s[1]->blend_from);
        tiny_prompt(s[1], "a boat", 4, SC_BLEND, 3); /* a blend out of a blend */
        for (int c = 0; c < 5; c++) chunk_of(s, 2);
        assert_true(!s[1]->blend_from && !s[1]->blend[0].kv && !s[1]->blend[1].kv);
        if (queues.forbidden) fail_msg("%ld calls of a chunk's path allocate or wait, the last %s", queues.forbidden, queues.what);
        assert_true(queues.read > 100 && queues.written > 100); /* a check that nothing passes by */
        assert_true(way == 2 ? queues.unmade > 100 : !queues.unmade);
        sc_session_destroy(s[0]);
        sc_session_destroy(s[1]);
        close_queues(e);
    }
}

/* Frames first, where decoding and the clean pass would only take turns. */
static void a_pass_that_fills_the_device_begins_when_the_frames_are_drawn(void **state) {
    (void)state;
    for (int full = 0; full < 2; full++) {
        const tiny_shape shape = shape_of(8, 23);
        sc_engine *e = open_queues(&shape, "cpu", 2);
        sc_session *s[2] = {tiny_session(e, 1, "a red car"), tiny_session(e, 2, "snow")};
        e->full_pass = 2L * e->layout->tokens * e->cfg.dit.dim + !full;
        for (int c = 0; c < 3; c++)
            do {
                const sc_pass_kind kind = sc_session_next(s[0]).kind;
                sc_error err = {0};
                queues.watched = s[c % 2]->drawn;
                queues.waits = 0;
                if (sc_engine_run(e, s, 2, &err)) fail_msg("pass: %s", err.text);
                assert_int_equal(queues.waits, full && kind == SC_PASS_CLEAN);
            } while (s[0]->phase);
        sc_session_destroy(s[0]);
        sc_session_destroy(s[1]);
        close_queues(e);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folded_prompt_gives_the_flow_of_an_unfolded_one),
        cmocka_unit_test(sequences_of_one_batch_have_each_its_own_prompt),
        cmocka_unit_test(prompts_that_nobody_uses_take_so_much_memory_and_no_more),
        cmocka_unit_test(a_chunk_of_a_blend_neither_allocates_nor_waits),
        cmocka_unit_test(a_pass_that_fills_the_device_begins_when_the_frames_are_drawn),
    };
    return cmocka_run_group_tests(tests, NULL, tiny_remove);
}

/* test_engine_memory.c - which blocks a session remembers, against a second, plain implementation of the rule.
 *
 * The model here keeps ids only: per head a sorted list of persistent (chunk, block) pairs, and for the window the chunk numbers. What
 * the engine keeps in a page is remembered beside it (owner[page]), so a slot that names the right block but the wrong page is
 * seen. Scores are made up: normal, with ties, all equal, huge, not finite. */
#include "tests/unit/engine_model.h"

typedef struct { int64_t chunk; int block; } block_id;

typedef struct {
    sc_device *dev;
    sc_layout *layout;
    sc_kv_memory m;
    int blocks, layers, heads;
    block_id *owner;   /* [pages]: what was written there last */
    block_id *p;       /* PBSA: [layers][heads][capacity] */
    int p_count;
    int64_t first;     /* chunk that the memory began with */
} world;

static void open_world(world *w, const sc_kv_rule *rule, int frames, int rows, int cols, const int *tile, int64_t first) {
    sc_error err = {0};
    *w = (world){.layers = 2, .heads = 3, .first = first};
    assert_int_equal(sc_twin_open(&w->dev, &err), SC_OK);
    if (sc_layout_create(&w->layout, w->dev, frames, rows, cols, tile, 8, -1, &err)) fail_msg("%s", err.text);
    if (sc_kv_init(&w->m, w->dev, rule, w->layout, w->layers, w->heads, 100, &err)) fail_msg("%s", err.text);
    if (sc_kv_reset(&w->m, first, &err)) fail_msg("%s", err.text);
    w->blocks = w->layout->blocks.blocks;
    const size_t heads = (size_t)(w->layers * w->heads);
    w->owner = calloc(100 + heads * (size_t)w->m.slots, sizeof *w->owner);
    w->p = calloc(heads * (size_t)(rule->capacity + 1), sizeof *w->p);
    assert_true(w->owner && w->p);
}

static void close_world(world *w) {
    sc_kv_free(&w->m);
    sc_layout_free(w->layout, w->dev);
    sc_device_close(w->dev);
    free(w->owner);
    free(w->p);
}

static sc_kv_slot *slots_of(const world *w, int layer, int head) { return w->m.device + ((size_t)layer * (size_t)w->heads + (size_t)head) * (size_t)w->m.slots; }

/* Every head holds exactly its own run of pages, each once. */
static void check_pages(const world *w) {
    for (int l = 0; l < w->layers; l++)
        for (int h = 0; h < w->heads; h++) {
            const sc_kv_slot *s = slots_of(w, l, h);
            const int first = 100 + (l * w->heads + h) * w->m.slots;
            bool seen[512] = {false};
            assert_true(w->m.slots <= 512);
            for (int i = 0; i < w->m.slots; i++) {
                const int page = s[i].page - first;
                if (page < 0 || page >= w->m.slots || seen[page]) fail_msg("layer %d head %d slot %d: page %d is not its own, or there twice", l, h, i, s[i].page);
                seen[page] = true;
            }
        }
}

static void expect_slot(const world *w, int layer, int head, int slot, int64_t chunk, int block, bool own) {
    const sc_kv_slot *s = &slots_of(w, layer, head)[slot];
    if (s->chunk != chunk || s->block != block)
        fail_msg("layer %d head %d slot %d: chunk %lld block %d, wanted %lld %d", layer, head, slot, (long long)s->chunk, s->block, (long long)chunk, block);
    if (own) w->owner[s->page] = (block_id){chunk, block}; /* this pass writes it */
    else if (w->owner[s->page].chunk != chunk || w->owner[s->page].block != block)
        fail_msg("layer %d head %d slot %d: its page holds block %d of chunk %lld", layer, head, slot, w->owner[s->page].block, (long long)w->owner[s->page].chunk);
}

/* ---- persistent blocks -------------------------------------------------------------------------------------------------- */

typedef struct { float mass; block_id id; int at; } candidate;

static int by_mass(const void *a, const void *b) { /* heaviest first, ties: lower id */
    const candidate *x = a, *y = b;
    if (x->mass != y->mass) return x->mass > y->mass ? -1 : 1;
    if (x->id.chunk != y->id.chunk) return x->id.chunk < y->id.chunk ? -1 : 1;
    return x->id.block - y->id.block;
}

static int by_id(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->id.chunk != y->id.chunk) return x->id.chunk < y->id.chunk ? -1 : 1;
    return x->id.block - y->id.block;
}

static float made_up(int mode) {
    switch (mode) {
    case 0: return 3 * tiny_random();
    case 1: return (float)(tiny_state = tiny_state * UINT64_C(6364136223846793005) + 1442695040888963407u, tiny_state >> 62); /* 0..3: ties */
    case 2: return -1.25f;
    case 3: return 300 * tiny_random();
    default: return 0.1f * tiny_random();
    }
}

/* P' of one head by the definition; kept: indices among the candidates. Returns how many. */
static int next_p(const world *w, const float *score, int stride, const block_id *p, int n, int64_t oldest, block_id *out, int32_t *kept) {
    const int window = w->m.rule.window_chunks * w->blocks, columns = n + window, candidates = n + w->blocks, c = w->m.rule.capacity;
    candidate list[64];
    int chosen = candidates < c ? candidates : c;

    assert_true(candidates <= 64);
    for (int j = 0; j < candidates; j++) {
        long double mass = 0;
        for (int i = 0; i < w->blocks; i++) { /* softmax written as 1 / sum of exp(S_k - S_j) */
            long double sum = 0;
            for (int k = 0; k < columns; k++) sum += expl((long double)score[i * stride + k] - score[i * stride + j]);
            mass += 1 / sum;
        }
        list[j] = (candidate){(float)mass, j < n ? p[j] : (block_id){oldest, j - n}, j};
    }
    qsort(list, (size_t)candidates, sizeof *list, by_mass);
    qsort(list, (size_t)chosen, sizeof *list, by_id);
    for (int j = 0; j < chosen; j++) out[j] = list[j].id, kept[j] = list[j].at;
    return chosen;
}

/* One chunk as the engine does it; scores of the given mode. */
static void pbsa_chunk(world *w, int mode) {
    const int chunks = w->m.chunks, c = w->m.rule.capacity, stride = w->m.slots;
    const int64_t now = w->m.chunk;
    sc_error err = {0};
    sc_kv_view view;

    if (sc_kv_begin(&w->m, &err)) fail_msg("%s", err.text);
    view = sc_kv_view_of(&w->m);
    assert_int_equal(*view.chunk_now, now);
    assert_int_equal(view.window, chunks * w->blocks);
    assert_int_equal(view.window_base, c);
    assert_int_equal(view.persistent, w->p_count);
    for (int l = 0; l < w->layers; l++)
        for (int h = 0; h < w->heads; h++) {
            const block_id *p = w->p + (size_t)(l * w->heads + h) * (size_t)(c + 1);
            for (int i = 0; i < w->p_count; i++) expect_slot(w, l, h, i, p[i].chunk, p[i].block, false);
            for (int i = 0; i < view.window; i++)
                expect_slot(w, l, h, c + i, now - chunks + 1 + i / w->blocks, i % w->blocks, i >= view.window - w->blocks);
        }
    check_pages(w);
    assert_int_equal(sc_kv_must_update(&w->m), chunks == w->m.rule.window_chunks);
    if (sc_kv_must_update(&w->m)) {
        const size_t rows = (size_t)w->heads * (size_t)w->blocks;
        float *score = malloc(rows * (size_t)stride * sizeof *score);
        int32_t *kept = malloc((size_t)w->heads * (size_t)(c + 1) * sizeof *kept);
        int count = 0;
        assert_true(score && kept);
        for (int l = 0; l < w->layers; l++) {
            sc_memory_update_args u = {.seqs = 1, .heads = w->heads, .blocks = w->layout->blocks, .view = {view}, .score = score, .score_stride = stride, .capacity = c,
                                       .kept = kept};
            u.view[0].slots = slots_of(w, l, 0);
            for (size_t i = 0; i < rows * (size_t)stride; i++) score[i] = made_up(mode);
            if (w->dev->ops->memory_update(w->dev, &u, &err)) fail_msg("%s", err.text);
            for (int h = 0; h < w->heads; h++) {
                block_id *p = w->p + (size_t)(l * w->heads + h) * (size_t)(c + 1), next[64];
                int32_t want[64];
                count = next_p(w, score + (size_t)h * (size_t)w->blocks * (size_t)stride, stride, p, w->p_count, now - chunks + 1, next, want);
                memcpy(p, next, (size_t)count * sizeof *p);
                for (int i = 0; i < count; i++) assert_int_equal(kept[h * c + i], want[i]);
                for (int i = count; i < c; i++) assert_int_equal(kept[h * c + i], -1);
            }
        }
        w->p_count = count;
        free(score);
        free(kept);
    }
    sc_kv_end(&w->m);
}

static const struct { int window, capacity, frames, rows, cols, tile[3], chunks; } pbsa_cases[] = {
    {3, 3, 3, 2, 2, {3, 2, 1}, 2000}, {3, 8, 3, 4, 4, {3, 2, 2}, 600}, {1, 2, 1, 2, 2, {1, 1, 1}, 600}, {2, 0, 3, 2, 2, {3, 1, 2}, 300},
    {1, 0, 3, 2, 2, {3, 2, 2}, 100}, {4, 1, 2, 3, 1, {2, 1, 1}, 600}, {2, 20, 3, 2, 3, {3, 1, 1}, 600}, {5, 7, 3, 1, 1, {3, 1, 1}, 600},
};

static void persistent_blocks_are_those_of_the_definition_over_thousands_of_chunks(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof pbsa_cases / sizeof *pbsa_cases; i++) {
        const sc_kv_rule rule = {.pbsa = true, .window_chunks = pbsa_cases[i].window, .capacity = pbsa_cases[i].capacity};
        world w;
        tiny_state = i + 1;
        open_world(&w, &rule, pbsa_cases[i].frames, pbsa_cases[i].rows, pbsa_cases[i].cols, pbsa_cases[i].tile, 0);
        assert_int_equal(w.m.slots, rule.capacity + rule.window_chunks * w.blocks);
        assert_int_equal(sc_kv_slots(&rule, w.layout), w.m.slots);
        for (int c = 0; c < pbsa_cases[i].chunks; c++) pbsa_chunk(&w, c % 5);
        assert_int_equal(w.m.chunk, pbsa_cases[i].chunks);
        assert_int_equal(w.p_count, rule.capacity);
        close_world(&w);
    }
}

static void with_equal_scores_the_oldest_blocks_stay_for_good(void **state) {
    const sc_kv_rule rule = {.pbsa = true, .window_chunks = 2, .capacity = 3};
    world w;

    (void)state;
    open_world(&w, &rule, 3, 2, 2, (const int[]){3, 2, 1}, 0);
    for (int c = 0; c < 50; c++) pbsa_chunk(&w, 2);
    for (int h = 0; h < w.layers * w.heads; h++) {
        const block_id *p = w.p + (size_t)h * 4;
        assert_true(p[0].chunk == 0 && p[0].block == 0 && p[1].chunk == 0 && p[1].block == 1 && p[2].chunk == 1 && p[2].block == 0);
    }
    close_world(&w);
}

static void the_window_fills_before_anything_becomes_persistent(void **state) {
    const sc_kv_rule rule = {.pbsa = true, .window_chunks = 4, .capacity = 5};
    static const int persistent[] = {0, 0, 0, 0, 2, 4, 5, 5}, window[] = {2, 4, 6, 8, 8, 8, 8, 8};
    world w;

    (void)state;
    open_world(&w, &rule, 3, 2, 2, (const int[]){3, 2, 1}, 0);
    for (int c = 0; c < 8; c++) {
        const sc_kv_view v = sc_kv_view_of(&w.m);
        assert_int_equal(v.persistent, persistent[c]);
        assert_int_equal(v.window, window[c]);
        pbsa_chunk(&w, 0);
    }
    close_world(&w);
}

static void the_chunk_number_that_a_memory_begins_with_changes_nothing_but_ids(void **state) {
    static const int64_t first[] = {0, INT64_C(1) << 31, (INT64_C(1) << 32) - 5, INT64_C(1) << 40, INT64_C(1) << 58};
    const sc_kv_rule rule = {.pbsa = true, .window_chunks = 3, .capacity = 4};
    block_id want[24] = {{0, 0}};

    (void)state;
    for (size_t i = 0; i < sizeof first / sizeof *first; i++) {
        world w;
        tiny_state = 77;
        open_world(&w, &rule, 3, 2, 2, (const int[]){3, 2, 1}, first[i]);
        for (int c = 0; c < 60; c++) pbsa_chunk(&w, c % 5);
        for (int h = 0; h < w.layers * w.heads; h++)
            for (int k = 0; k < 4; k++) {
                const block_id *p = &w.p[h * 5 + k];
                if (!i) want[h * 4 + k] = *p;
                assert_true(p->chunk - first[i] == want[h * 4 + k].chunk && p->block == want[h * 4 + k].block);
            }
        close_world(&w);
    }
}

static void scores_that_are_not_finite_lose_no_page(void **state) {
    static const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f};
    const sc_kv_rule rule = {.pbsa = true, .window_chunks = 2, .capacity = 3};
    world w;
    sc_error err = {0};

    (void)state;
    open_world(&w, &rule, 3, 4, 2, (const int[]){3, 2, 1}, 0);
    for (int c = 0; c < 200; c++) {
        float score[3 * 4 * 16];
        if (sc_kv_begin(&w.m, &err)) fail_msg("%s", err.text);
        const sc_kv_view view = sc_kv_view_of(&w.m);
        assert_true(w.m.slots <= 16 && w.blocks == 4);
        for (int l = 0; sc_kv_must_update(&w.m) && l < w.layers; l++) {
            sc_memory_update_args u = {.seqs = 1, .heads = w.heads, .blocks = w.layout->blocks, .view = {view}, .score = score, .score_stride = w.m.slots, .capacity = 3};
            u.view[0].slots = slots_of(&w, l, 0);
            for (size_t i = 0; i < sizeof score / sizeof *score; i++) score[i] = c % 3 == 0 || tiny_random() > 1 ? bad[(c + l) % 4] : tiny_random();
            if (w.dev->ops->memory_update(w.dev, &u, &err)) fail_msg("%s", err.text);
        }
        sc_kv_end(&w.m);
        check_pages(&w);
        for (int l = 0; l < w.layers; l++)
            for (int h = 0; h < w.heads; h++)
                for (int i = 1; i < sc_kv_view_of(&w.m).persistent; i++) {
                    const sc_kv_slot *s = slots_of(&w, l, h) + i;
                    assert_true(s[-1].chunk < s->chunk || (s[-1].chunk == s->chunk && s[-1].block < s->block));
                }
    }
    close_world(&w);
}

static void a_flush_keeps_the_persistent_blocks_and_the_newest_chunk(void **state) {
    sc_error err = {0};

    (void)state;
    for (size_t i = 0; i < sizeof pbsa_cases / sizeof *pbsa_cases; i++)
        for (int before = 0; before < 12; before++) {
            const sc_kv_rule rule = {.pbsa = true, .window_chunks = pbsa_cases[i].window, .capacity = pbsa_cases[i].capacity};
            world w;
            tiny_state = i * 100 + (size_t)before + 1;
            open_world(&w, &rule, pbsa_cases[i].frames, pbsa_cases[i].rows, pbsa_cases[i].cols, pbsa_cases[i].tile, 0);
            for (int c = 0; c < before; c++) pbsa_chunk(&w, c % 5);
            const int chunks = w.m.chunks < 2 ? w.m.chunks : 2;
            if (sc_kv_flush(&w.m, &err)) fail_msg("%s", err.text);
            assert_int_equal(w.m.chunks, chunks); /* the newest, and the one to come */
            check_pages(&w);
            for (int c = 0; c < 20; c++) pbsa_chunk(&w, c % 5); /* looks at every slot */
            close_world(&w);
        }
}

static void a_reset_forgets_and_goes_on_counting(void **state) {
    const sc_kv_rule rule = {.pbsa = true, .window_chunks = 3, .capacity = 4};
    world w;
    sc_error err = {0};

    (void)state;
    open_world(&w, &rule, 3, 2, 2, (const int[]){3, 2, 1}, 0);
    for (int round = 0; round < 30; round++) {
        for (int c = 0; c < round; c++) pbsa_chunk(&w, c % 5);
        const int64_t now = w.m.chunk;
        if (sc_kv_reset(&w.m, now, &err)) fail_msg("%s", err.text);
        w.p_count = 0;
        assert_int_equal(w.m.chunk, now);
        assert_int_equal(sc_kv_view_of(&w.m).persistent, 0);
        assert_int_equal(sc_kv_view_of(&w.m).window, w.blocks);
    }
    close_world(&w);
}

/* ---- plain windows ------------------------------------------------------------------------------------------------------ */

/* The reference's cache: latent frames in the order of their slots. */
typedef struct { int64_t frame[64]; int count; } cache;

static void roll(cache *k, int capacity, int sink, int chunk_frames, int64_t chunk) {
    const int overflow = k->count + chunk_frames - capacity;
    if (overflow > 0) {
        for (int i = sink; i + overflow < k->count; i++) k->frame[i] = k->frame[i + overflow];
        k->count -= overflow;
    }
    for (int f = 0; f < chunk_frames; f++) k->frame[k->count++] = chunk * chunk_frames + f;
}

static void window_chunk(world *w, cache *k) {
    const int chunk_frames = w->layout->frames, per_frame = w->blocks / chunk_frames;
    const int64_t now = w->m.chunk;
    sc_error err = {0};
    sc_kv_view view;

    roll(k, w->m.rule.window_frames, w->m.rule.sink_frames, chunk_frames, now);
    for (int pass = 0; pass < 3; pass++) /* later passes of a chunk drop nothing more */
        if (sc_kv_begin(&w->m, &err)) fail_msg("%s", err.text);
    view = sc_kv_view_of(&w->m);
    assert_int_equal(view.persistent, 0);
    assert_int_equal(view.window_base, 0);
    assert_int_equal(view.window, k->count * per_frame);
    assert_true(view.window <= w->m.slots);
    assert_int_equal(*view.chunk_now, now);
    assert_false(sc_kv_must_update(&w->m));
    for (int l = 0; l < w->layers; l++)
        for (int h = 0; h < w->heads; h++)
            for (int s = 0; s < view.window; s++) {
                const int64_t frame = k->frame[s / per_frame];
                expect_slot(w, l, h, s, frame / chunk_frames, (int)(frame % chunk_frames) * per_frame + s % per_frame, s >= view.window - w->blocks);
            }
    check_pages(w);
    sc_kv_end(&w->m);
}

static const struct { int capacity, sink, frames, rows, cols, chunks; } window_cases[] = {
    {6, 1, 3, 2, 2, 1000}, {6, 0, 3, 2, 2, 300}, {3, 0, 3, 2, 2, 300}, {4, 1, 3, 5, 14, 300}, {21, 0, 3, 2, 2, 300}, {21, 3, 3, 2, 2, 300}, {12, 3, 3, 9, 15, 300},
    {7, 2, 2, 2, 2, 300}, {7, 3, 4, 2, 2, 300}, {2, 1, 1, 2, 2, 300}, {1, 0, 1, 2, 2, 300}, {10, 5, 4, 2, 2, 300}, {10, 6, 4, 2, 2, 300},
};

static void windows_roll_as_the_reference_cache_does(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof window_cases / sizeof *window_cases; i++) {
        const sc_kv_rule rule = {.window_frames = window_cases[i].capacity, .sink_frames = window_cases[i].sink};
        world w;
        cache k = {.count = 0};
        open_world(&w, &rule, window_cases[i].frames, window_cases[i].rows, window_cases[i].cols, NULL, 0);
        assert_int_equal(w.m.slots, rule.window_frames * ((window_cases[i].rows * window_cases[i].cols + 63) / 64));
        for (int c = 0; c < window_cases[i].chunks; c++) window_chunk(&w, &k);
        close_world(&w);
    }
}

static void a_window_of_6_with_sink_1_holds_the_frames_of_the_reference_run(void **state) {
    static const int64_t held[4][6] = {{0, 1, 2, -1}, {0, 1, 2, 3, 4, 5}, {0, 4, 5, 6, 7, 8}, {0, 7, 8, 9, 10, 11}};
    const sc_kv_rule rule = {.window_frames = 6, .sink_frames = 1};
    sc_error err = {0};
    world w;

    (void)state;
    open_world(&w, &rule, 3, 2, 2, NULL, 0);
    for (int c = 0; c < 4; c++) {
        if (sc_kv_begin(&w.m, &err)) fail_msg("%s", err.text);
        const sc_kv_slot *s = slots_of(&w, 1, 2);
        for (int i = 0; i < 6 && held[c][i] >= 0; i++) assert_int_equal(s[i].chunk * 3 + s[i].block, held[c][i]);
        sc_kv_end(&w.m);
    }
    close_world(&w);
}

static void once_the_sink_is_full_a_window_is_the_sink_and_the_newest_frames(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof window_cases / sizeof *window_cases; i++) {
        const int capacity = window_cases[i].capacity, sink = window_cases[i].sink, frames = window_cases[i].frames;
        cache k = {.count = 0};
        for (int64_t c = 0; c < 40; c++) {
            const int64_t made = (c + 1) * frames;
            roll(&k, capacity, sink, frames, c);
            if (made <= capacity) continue;
            for (int f = 0; f < k.count; f++) assert_int_equal(k.frame[f], f < sink ? f : made - k.count + f);
        }
    }
}

static void a_flushed_window_keeps_the_sink_and_the_newest_chunk(void **state) {
    sc_error err = {0};

    (void)state;
    for (size_t i = 0; i < sizeof window_cases / sizeof *window_cases; i++)
        for (int before = 0; before < 12; before++) {
            const int sink = window_cases[i].sink, frames = window_cases[i].frames;
            const sc_kv_rule rule = {.window_frames = window_cases[i].capacity, .sink_frames = sink};
            world w;
            cache k = {.count = 0};
            open_world(&w, &rule, frames, window_cases[i].rows, window_cases[i].cols, NULL, 0);
            for (int c = 0; c < before; c++) window_chunk(&w, &k);
            if (sc_kv_flush(&w.m, &err)) fail_msg("%s", err.text);
            while (k.count > sink + frames) {
                memmove(k.frame + sink, k.frame + sink + 1, (size_t)(k.count - sink - 1) * sizeof *k.frame);
                k.count--;
            }
            for (int c = 0; c < 12; c++) window_chunk(&w, &k);
            if (sc_kv_reset(&w.m, w.m.chunk, &err)) fail_msg("%s", err.text);
            k.count = 0;
            for (int c = 0; c < 12; c++) window_chunk(&w, &k);
            close_world(&w);
        }
}

static void a_window_that_cannot_hold_its_sink_and_a_chunk_is_refused(void **state) {
    static const struct { int capacity, sink; bool good; } cases[] = {{4, 2, false}, {4, 1, true}, {3, 0, true}, {2, 0, false}, {5, 3, false}, {6, 3, true}, {0, 0, false}};
    sc_device *dev;
    sc_layout *layout;
    sc_error err = {0};

    (void)state;
    assert_int_equal(sc_twin_open(&dev, &err), SC_OK);
    if (sc_layout_create(&layout, dev, 3, 2, 2, NULL, 8, -1, &err)) fail_msg("%s", err.text);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sc_kv_memory m;
        const sc_kv_rule rule = {.window_frames = cases[i].capacity, .sink_frames = cases[i].sink};
        const sc_status rc = sc_kv_init(&m, dev, &rule, layout, 1, 1, 0, &err);
        if (rc != (cases[i].good ? SC_OK : SC_EINVAL)) fail_msg("capacity %d, sink %d: %s", cases[i].capacity, cases[i].sink, sc_status_name(rc));
        if (rc && (!strstr(err.text, "memory.window_frames") || !strstr(err.text, "a chunk of 3"))) fail_msg("text: %s", err.text);
        sc_kv_free(&m);
    }
    sc_layout_free(layout, dev);
    sc_device_close(dev);
}

static void keep_counts_read_the_ratio_as_it_was_written(void **state) {
    static const struct { double ratio; int window, keep; } cases[] = {{0.25, 12, 3}, {0.3, 4, 2}, {0.3, 8, 3}, {0.3, 12, 4}, {0.3, 10, 3}, {0.1, 10, 1}, {0.1, 30, 3},
        {0.7, 10, 7}, {1, 24, 24}, {1, 1, 1}, {0.001, 8, 1}, {0.25, 1, 1}, {0.25, 24, 6}, {0.25, 25, 7}, {0.01, 300, 3}, {0.99, 3, 3}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_int_equal(sc_kv_keep(cases[i].ratio, cases[i].window), cases[i].keep);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(persistent_blocks_are_those_of_the_definition_over_thousands_of_chunks),
        cmocka_unit_test(with_equal_scores_the_oldest_blocks_stay_for_good),
        cmocka_unit_test(the_window_fills_before_anything_becomes_persistent),
        cmocka_unit_test(the_chunk_number_that_a_memory_begins_with_changes_nothing_but_ids),
        cmocka_unit_test(scores_that_are_not_finite_lose_no_page),
        cmocka_unit_test(a_flush_keeps_the_persistent_blocks_and_the_newest_chunk),
        cmocka_unit_test(a_reset_forgets_and_goes_on_counting),
        cmocka_unit_test(windows_roll_as_the_reference_cache_does),
        cmocka_unit_test(a_window_of_6_with_sink_1_holds_the_frames_of_the_reference_run),
        cmocka_unit_test(once_the_sink_is_full_a_window_is_the_sink_and_the_newest_frames),
        cmocka_unit_test(a_flushed_window_keeps_the_sink_and_the_newest_chunk),
        cmocka_unit_test(a_window_that_cannot_hold_its_sink_and_a_chunk_is_refused),
        cmocka_unit_test(keep_counts_read_the_ratio_as_it_was_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

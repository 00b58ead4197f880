/* test_engine_modes.c - one model, any memory: blocks that stay, a window with a sink, a dense one.
 *
 * The window's reference is built here: a second engine holds every frame of the stream, and each of its passes attends exactly the
 * frames that window and sink name, found by counting and not by the rolling table. Latents must agree to the last bit. */
#include "tests/unit/engine_model.h"

enum { CHUNKS = 9 };

static sc_engine *open_mode(const tiny_shape *shape, const char *memory, const char *device) {
    tiny_model *m = tiny_build(shape);
    sc_engine *e = NULL;
    sc_error err = {0};
    tiny_save(m);
    tiny_free(m);
    if (sc_engine_open(&e, &(sc_engine_options){.model_dir = tiny_dir, .device = device, .threads = 2, .max_sessions = 2, .memory = memory}, &err)) fail_msg("open: %s", err.text);
    return e;
}

static uint64_t frames_of(const tiny_shape *shape, const char *memory, const char *device, int chunks) {
    sc_engine *e = open_mode(shape, memory, device);
    sc_session *s = tiny_session(e, 5, "a red car");
    const uint64_t h = tiny_play(s, chunks, NULL);
    sc_session_destroy(s);
    sc_engine_close(e);
    return h;
}

static tiny_shape window_of(int frames, int sink) {
    tiny_shape s = tiny_default;
    s.window_frames = frames;
    s.sink_frames = sink;
    return s;
}

/* ---- the window, by counting -------------------------------------------------------------------------------------------- */

/* Slots of the frames that a window of W with a sink of S names at chunk c, oldest first, own chunk last; how many frames. */
static int name_frames(const sc_session *all, int c, int W, int S, sc_kv_slot *table) {
    const sc_kv_memory *m = &all->memory;
    const int cf = m->layout->frames, per_frame = m->layout->blocks.blocks / cf, end = (c + 1) * cf;
    int n = 0;
    for (int f = 0; f < end; f++) {
        if (end > W && f >= S && f < end - (W - S)) continue;
        for (int l = 0; l < m->layers * m->heads; l++)
            for (int b = 0; b < per_frame; b++)
                table[l * m->slots + n * per_frame + b] = (sc_kv_slot){.page = m->first_page + l * m->slots + f * per_frame + b, .chunk = f / cf, .block = f % cf * per_frame + b};
        n++;
    }
    return n;
}

static void reference_chunk(sc_session *all, int W, int S, sc_kv_slot *table) {
    sc_engine *e = all->engine;
    const sc_ops *ops = e->dev->ops;
    const int c = (int)all->chunk, per_frame = e->layout->blocks.blocks / e->layout->frames, n = name_frames(all, c, W, S, table);
    const int64_t now = c;
    sc_pass_args a = {.seqs = 1, .layout = e->layout, .pages = e->pages, .cross = {&all->prompt->cross}, .latent = {all->x},
                      .view = {{.slots = table, .slot_stride = all->memory.slots, .window = n * per_frame, .chunk_now = &now}}};
    sc_error err = {0};

    if (ops->noise(e->dev, &(sc_noise_args){.out = all->x, .count = e->latent_count, .seed = all->seed, .chunk = all->chunk}, &err)) fail_msg("%s", err.text);
    for (int i = 0; i < e->cfg.step_count; i++) {
        const bool last = i == e->cfg.step_count - 1;
        a.mods = sc_mods_of(e, i);
        a.flow[0] = all->flow;
        if (sc_dit_pass(e->dit, e->work, &a, &err)) fail_msg("%s", err.text);
        if (!last && ops->noise(e->dev, &(sc_noise_args){.out = e->noise, .count = e->latent_count, .seed = all->seed, .chunk = all->chunk, .step = (uint32_t)i + 1}, &err)) fail();
        if (ops->denoise(e->dev, &(sc_denoise_args){.x = all->x, .flow = all->flow, .noise = e->noise, .count = e->latent_count, .sigma = e->sigma[i],
                                                    .next_sigma = last ? -1.0 : e->sigma[i + 1]}, &err)) fail();
    }
    a.mods = sc_mods_of(e, e->cfg.step_count);
    a.flow[0] = NULL;
    if (sc_dit_pass(e->dit, e->work, &a, &err)) fail_msg("%s", err.text);
    all->chunk++;
}

static void a_window_attends_exactly_the_frames_that_it_and_its_sink_name(void **state) {
    static const struct { int window, sink; } cases[] = {{21, 0}, {12, 3}, {6, 0}, {3, 0}, {7, 1}, {8, 1}, {9, 3}, {11, 4}, {13, 5}, {6, 3}, {200, 0}, {200, 7}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int k = 0; k < 2; k++) {
            const char *device = k ? "twin" : "cpu";
            const tiny_shape shape = window_of(cases[i].window, cases[i].sink), whole = window_of(3 * CHUNKS, 0);
            sc_engine *e = open_mode(&shape, i % 2 ? NULL : "window", device), *w = open_mode(&whole, NULL, device);
            sc_session *s = tiny_session(e, 5, "a red car"), *all = tiny_session(w, 5, "a red car");
            sc_kv_slot *table = calloc((size_t)(all->memory.layers * all->memory.heads * all->memory.slots), sizeof *table);
            assert_non_null(table);
            for (int c = 0; c < CHUNKS; c++) {
                tiny_chunk(s, false);
                reference_chunk(all, cases[i].window, cases[i].sink, table);
                if (memcmp(s->x, all->x, e->latent_count * sizeof(float))) fail_msg("%s: window %d, sink %d: chunk %d differs", device, cases[i].window, cases[i].sink, c);
            }
            free(table);
            sc_session_destroy(s);
            sc_session_destroy(all);
            sc_engine_close(e);
            sc_engine_close(w);
        }
}

/* ---- one mode is another ------------------------------------------------------------------------------------------------ */

static void dense_is_a_window_of_21_frames_without_a_sink(void **state) {
    const tiny_shape dense = window_of(21, 0), long_live = window_of(12, 3);
    const uint64_t want = frames_of(&dense, NULL, "cpu", 10); /* 30 latent frames: it rolls */
    (void)state;
    assert_true(frames_of(&long_live, "dense", "cpu", 10) == want);
    assert_true(frames_of(&tiny_default, "dense", "cpu", 10) == want);
    assert_true(frames_of(&dense, "window", "cpu", 10) == want);
    assert_true(frames_of(&long_live, "window", "cpu", 10) == frames_of(&long_live, NULL, "cpu", 10));
    assert_true(frames_of(&long_live, NULL, "cpu", 10) != want);
}

static void blocks_that_stay_work_on_a_window_model(void **state) {
    tiny_shape window = window_of(12, 3), pbsa = tiny_default;
    (void)state;
    /* What the defaults are for this grid of 2 x 2 tokens and chunks of 3, written out. */
    pbsa.tile_r = pbsa.tile_c = 2;
    pbsa.window_chunks = 3;
    pbsa.capacity = 1;
    pbsa.keep_ratio = 0.25;
    pbsa.max_distance = 18;
    for (int i = 0; i < 2; i++)
        assert_true(frames_of(&window, "pbsa", i ? "twin" : "cpu", 12) == frames_of(&pbsa, NULL, i ? "twin" : "cpu", 12));
    window.latent_h = pbsa.latent_h = 12; /* 6 x 14 tokens: tiles of 3 x 7, 4 blocks a chunk, so that a quarter is not all */
    window.latent_w = pbsa.latent_w = 28;
    pbsa.tile_r = 3;
    pbsa.tile_c = 7;
    pbsa.capacity = 4;
    const uint64_t h = frames_of(&window, "pbsa", "cpu", 8);
    assert_true(h == frames_of(&pbsa, NULL, "cpu", 8));
    pbsa.window_chunks = 4; /* and a PBSA model as a window of 12 frames without a sink */
    window.sink_frames = 0;
    assert_true(frames_of(&pbsa, "window", "cpu", 8) == frames_of(&window, NULL, "cpu", 8));
    assert_true(h != frames_of(&window, NULL, "cpu", 8));
}

static void every_mode_gives_the_same_frames_twice_and_its_own_memory(void **state) {
    static const char *const modes[] = {NULL, "pbsa", "window", "dense"};
    const tiny_shape shapes[] = {tiny_default, window_of(12, 3), window_of(7, 1)};
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t k = 0; k < sizeof modes / sizeof *modes; k++) {
            sc_engine *e = open_mode(&shapes[i], modes[k], "cpu");
            sc_model_info info;
            sc_engine_describe(e, &info);
            /* 4 heads in 2 layers; a window's page is one frame of 4 tokens, a tile's 12 or 6. */
            const bool pbsa = modes[k] ? !strcmp(modes[k], "pbsa") : i == 0, dense = modes[k] && !strcmp(modes[k], "dense");
            const int blocks = i ? 1 : 2, pages = pbsa ? (i ? 1 : 3) + 3 * blocks : dense ? 21 : i ? shapes[i].window_frames : 9;
            assert_int_equal(info.session_pages, 4 * pages);
            sc_session *s = tiny_session(e, 5, "a red car");
            const uint64_t h = tiny_play(s, 9, NULL);
            sc_session_destroy(s);
            sc_engine_close(e);
            assert_true(frames_of(&shapes[i], modes[k], "cpu", 9) == h);
        }
}

/* ---- recache on a window ------------------------------------------------------------------------------------------------ */

/* Keys of all heads and layers in the place of latent frame f; false: it is not held. */
static bool keys_of(const sc_session *s, int64_t f, float *out) {
    const sc_kv_memory *m = &s->memory;
    const sc_pages *p = &s->engine->pages;
    const int cf = m->layout->frames, per_frame = m->layout->blocks.blocks / cf;
    const size_t page = (size_t)(p->page_rows * p->head_dim);
    for (int place = 0; place < m->frames; place++) {
        if (m->frame[place] != f) continue;
        for (int h = 0; h < m->layers * m->heads; h++)
            for (int b = 0; b < per_frame; b++) {
                const sc_kv_slot *slot = &m->device[h * m->slots + place * per_frame + b];
                assert_true(slot->chunk == f / cf && slot->block == f % cf * per_frame + b);
                memcpy(out, (const float *)p->k + (size_t)slot->page * page, page * sizeof *out);
                memcpy(out + page, (const float *)p->v + (size_t)slot->page * page, page * sizeof *out);
                out += 2 * page;
            }
        return true;
    }
    return false;
}

/* The clean passes of chunks [from, to) again under `cross`, in a session that holds every frame: `seen` says which of the frames before
 * a chunk it sees. The same latents give the same keys. */
static void clean_again(sc_session *all, const float *x0, int from, int to, int oldest, int sink, const sc_cross *cross, sc_kv_slot *table) {
    sc_engine *e = all->engine;
    const sc_kv_memory *m = &all->memory;
    const int cf = m->layout->frames, per_frame = m->layout->blocks.blocks / cf;
    sc_error err = {0};
    for (int c = from; c < to; c++) {
        int n = 0;
        for (int f = 0; f < (c + 1) * cf; f++) {
            if (f >= sink && f < oldest && f < c * cf) continue; /* dropped; what the chunk itself lacks it sees in scratch pages */
            for (int l = 0; l < m->layers * m->heads; l++)
                for (int b = 0; b < per_frame; b++) {
                    /* the sink frames of the chunk at hand: in scratch pages, so that later chunks see the old ones */
                    const int home = f >= c * cf && f < sink ? 3 * CHUNKS + f % cf : f;
                    table[l * m->slots + n * per_frame + b] = (sc_kv_slot){.page = m->first_page + l * m->slots + home * per_frame + b, .chunk = f / cf, .block = f % cf * per_frame + b};
                }
            n++;
        }
        const int64_t now = c;
        sc_pass_args a = {.seqs = 1, .layout = e->layout, .pages = e->pages, .mods = sc_mods_of(e, e->cfg.step_count), .cross = {cross}, .latent = {x0 + (size_t)c * e->latent_count},
                          .view = {{.slots = table, .slot_stride = m->slots, .window = n * per_frame, .chunk_now = &now}}};
        if (sc_dit_pass(e->dit, e->work, &a, &err)) fail_msg("%s", err.text);
    }
}

static void a_recache_writes_the_frames_behind_the_sink_again(void **state) {
    static const struct { int window, sink; } cases[] = {{21, 0}, {12, 3}, {7, 1}, {8, 1}, {10, 2}, {6, 0}, {3, 0}, {4, 1}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int at = 1; at < CHUNKS; at++) {
            const int W = cases[i].window, S = cases[i].sink, cf = 3, end = (at + 1) * cf, oldest = end > W ? end - (W - S) : S;
            const tiny_shape shape = window_of(W, S), whole = window_of(3 * CHUNKS + 3, 0);
            sc_engine *e = open_mode(&shape, NULL, "cpu"), *w = open_mode(&whole, NULL, "cpu");
            sc_session *s = tiny_session(e, 5, "a red car"), *all = tiny_session(w, 5, "a red car"), *words = tiny_session(w, 5, "a green bird");
            const size_t count = (size_t)(s->memory.layers * s->memory.heads * 2 * e->pages.page_rows * e->pages.head_dim);
            float *x0 = calloc(CHUNKS * e->latent_count, sizeof *x0), *got = malloc(count * sizeof *got), *want = malloc(count * sizeof *want);
            sc_kv_slot *table = calloc((size_t)(all->memory.layers * all->memory.heads * all->memory.slots), sizeof *table);
            assert_true(x0 && got && want && table);
            for (int c = 0; c < at; c++) {
                tiny_chunk(s, false);
                memcpy(x0 + (size_t)c * e->latent_count, s->x, e->latent_count * sizeof *x0);
                reference_chunk(all, W, S, table);
            }
            tiny_prompt(s, "a green bird", 2, SC_RECACHE, 0);
            /* Only the memory: sc_session_begin_chunk would go on to the noise. */
            sc_error err = {0};
            if (sc_session_begin_chunk(s, &err)) fail_msg("%s", err.text);
            if (oldest / cf < at) clean_again(all, x0, oldest / cf, at, oldest, S, &words->prompt->cross, table);
            /* `all` holds frame f in place f: it never rolled. */
            all->memory.frames = at * cf;
            for (int f = 0; f < at * cf; f++) all->memory.frame[f] = f;
            for (int l = 0; l < all->memory.layers * all->memory.heads; l++)
                for (int f = 0; f < at * cf; f++) all->memory.device[l * all->memory.slots + f] = (sc_kv_slot){.page = all->memory.first_page + l * all->memory.slots + f, .chunk = f / cf, .block = f % cf};
            for (int f = 0; f < at * cf; f++) {
                const bool held = f < S || f >= oldest;
                assert_int_equal(keys_of(s, f, got), held);
                if (!held) continue;
                assert_true(keys_of(all, f, want));
                if (memcmp(got, want, count * sizeof *got)) fail_msg("window %d, sink %d, at chunk %d: frame %d holds something else", W, S, at, f);
            }
            for (int c = 0; c < 3; c++) { /* and the stream goes on */
                tiny_chunk(s, true);
                assert_false(sc_session_failed(s, NULL));
            }
            sc_session_destroy(s);
            sc_session_destroy(all);
            sc_session_destroy(words);
            sc_engine_close(e);
            sc_engine_close(w);
            free(x0);
            free(got);
            free(want);
            free(table);
        }
}

static void what_a_session_keeps_for_it_does_not_grow(void **state) {
    static const struct { int window, sink, chunks; } cases[] = {{21, 0, 6}, {12, 3, 2}, {7, 1, 1}, {8, 1, 2}, {6, 0, 1}, {3, 0, 0}, {4, 1, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const tiny_shape shape = window_of(cases[i].window, cases[i].sink);
        sc_engine *e = open_mode(&shape, NULL, "cpu");
        sc_session *s = tiny_session(e, 5, "a red car");
        assert_int_equal(e->past_chunks, cases[i].chunks);
        for (int c = 1; c < 12; c++) {
            tiny_prompt(s, c % 2 ? "snow" : "rain", (uint32_t)c, SC_RECACHE, 0);
            tiny_chunk(s, false);
            assert_int_equal(s->past_count, c < cases[i].chunks ? c : cases[i].chunks);
        }
        sc_session_destroy(s);
        sc_engine_close(e);
    }
}

static void a_mode_that_cannot_be_is_refused_at_the_door(void **state) {
    static const struct { int chunk, window; const char *mode, *words; } cases[] = {
        {3, 0, "sparse", "memory sparse: not one of pbsa, window, dense"},
        {24, 24, "dense", "memory.dense_frames: 21 does not hold a chunk of 24"},
        {65, 65, "pbsa", "chunk_frames"}, /* the config's own bound comes first */
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny_shape s = tiny_default;
        tiny_model *m;
        sc_engine *e = (sc_engine *)1;
        sc_error err = {0};
        s.chunk_frames = cases[i].chunk;
        s.window_frames = cases[i].window;
        m = tiny_build(&s);
        tiny_save(m);
        tiny_free(m);
        assert_int_equal(sc_engine_open(&e, &(sc_engine_options){.model_dir = tiny_dir, .max_sessions = 1, .memory = cases[i].mode}, &err), SC_EINVAL);
        assert_null(e);
        if (!strstr(err.text, cases[i].words)) fail_msg("\"%s\" lacks \"%s\"", err.text, cases[i].words);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_window_attends_exactly_the_frames_that_it_and_its_sink_name),
        cmocka_unit_test(dense_is_a_window_of_21_frames_without_a_sink),
        cmocka_unit_test(blocks_that_stay_work_on_a_window_model),
        cmocka_unit_test(every_mode_gives_the_same_frames_twice_and_its_own_memory),
        cmocka_unit_test(a_recache_writes_the_frames_behind_the_sink_again),
        cmocka_unit_test(what_a_session_keeps_for_it_does_not_grow),
        cmocka_unit_test(a_mode_that_cannot_be_is_refused_at_the_door),
    };
    return cmocka_run_group_tests(tests, NULL, tiny_remove);
}

/* test_engine_streaming_decoder.c - a stream decoded chunk by chunk gives the pictures of one decoded all at once, bit for bit. */
#include "engine/tae.h"
#include "tests/unit/engine_model.h"

enum { FRAMES = 12, H = 4, W = 6 };

typedef struct {
    sc_device *dev;
    sc_tensors *set;
    sc_tae *tae;
    int patch, height, width;
    float *latent; /* [ch][FRAMES][H][W] */
} world;

static void open_world(world *w, const char *device, int patch) {
    tiny_shape shape = tiny_default;
    tiny_model *m;
    const char *path[1];
    sc_error err = {0};

    shape.patch = patch;
    m = tiny_build(&shape);
    tiny_save(m);
    tiny_free(m);
    *w = (world){.patch = patch};
    path[0] = tiny_path("tae.safetensors");
    if (sc_device_open(&w->dev, device, 3, SC_F16, &err) || sc_tensors_open(&w->set, path, 1, &err)) fail_msg("%s", err.text);
    const sc_tae_shape tae = sc_tae_published(TINY_CH, patch, H, W, FRAMES);
    if (sc_tae_load(&w->tae, w->dev, w->set, "", &tae, &err)) fail_msg("%s", err.text);
    assert_int_equal(sc_tae_scale(w->tae), 8);
    assert_int_equal(sc_tae_time_scale(w->tae), 4);
    assert_int_equal(sc_tae_startup(w->tae), 3);
    w->height = 8 * H;
    w->width = 8 * W;
    w->latent = malloc(sizeof(float) * TINY_CH * FRAMES * H * W);
    assert_non_null(w->latent);
    for (int i = 0; i < TINY_CH * FRAMES * H * W; i++) w->latent[i] = 1.5f * tiny_random();
}

static void close_world(world *w) {
    sc_tae_close(w->tae);
    sc_tensors_close(w->set);
    sc_device_close(w->dev);
    free(w->latent);
}

/* Decodes latents in pieces; rgb [n][3][H][W] and i420 of all frames one after another. Returns how many frames. */
static int decode(const world *w, sc_tae_state *state, const int *pieces, int count, bool keep_startup, float *rgb, uint8_t *i420) {
    const size_t picture = (size_t)w->height * (size_t)w->width;
    int at = 0, made = 0;
    sc_error err = {0};

    for (int p = 0; p < count; p++) {
        const int n = pieces[p];
        float *part = malloc(sizeof *part * TINY_CH * (size_t)n * H * W);
        int got = -1;
        assert_non_null(part);
        for (int c = 0; c < TINY_CH; c++) memcpy(part + c * n * H * W, w->latent + (c * FRAMES + at) * H * W, sizeof *part * (size_t)n * H * W);
        if (sc_tae_decode(w->tae, state, part, n, keep_startup, false, rgb + (size_t)made * 3 * picture, i420 + (size_t)made * picture * 3 / 2, &got, NULL, NULL, &err))
            fail_msg("%s", err.text);
        assert_int_equal(got, 4 * n - (at || keep_startup ? 0 : 3));
        free(part);
        made += got;
        at += n;
    }
    assert_int_equal(at, FRAMES);
    return made;
}

static const struct { int count, piece[FRAMES]; } cuts[] = {
    {4, {3, 3, 3, 3}}, {12, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}}, {2, {1, 11}}, {2, {11, 1}}, {5, {2, 1, 4, 2, 3}}, {3, {5, 6, 1}},
};

static void pieces_give_the_pictures_of_the_whole_on(const char *device, int patch) {
    world w;
    open_world(&w, device, patch);
    const size_t picture = (size_t)w.height * (size_t)w.width, rgb_n = 4 * FRAMES * 3 * picture, i420_n = 4 * FRAMES * picture * 3 / 2;
    float *want = malloc(rgb_n * sizeof *want), *got = malloc(rgb_n * sizeof *got);
    uint8_t *want8 = malloc(i420_n), *got8 = malloc(i420_n);
    sc_tae_state state = {0};
    sc_error err = {0};
    bool varies = false;

    assert_true(want && got && want8 && got8);
    for (int keep = 0; keep < 2; keep++) {
        if (sc_tae_state_init(w.tae, &state, &err)) fail_msg("%s", err.text);
        const int frames = decode(&w, &state, (const int[]){FRAMES}, 1, keep, want, want8);
        assert_int_equal(frames, 4 * FRAMES - (keep ? 0 : 3));
        for (size_t i = 0; i < (size_t)frames * 3 * picture; i++) assert_true(isfinite(want[i]));
        for (int f = 1; f < frames; f++) varies = varies || memcmp(want + (size_t)f * 3 * picture, want, 3 * picture * sizeof *want);
        assert_true(varies);
        for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
            memset(got, 0xff, rgb_n * sizeof *got);
            memset(got8, 0x55, i420_n);
            if (sc_tae_state_init(w.tae, &state, &err)) fail_msg("%s", err.text); /* again: zeros */
            assert_int_equal(decode(&w, &state, cuts[c].piece, cuts[c].count, keep, got, got8), frames);
            if (memcmp(got, want, (size_t)frames * 3 * picture * sizeof *got)) fail_msg("%s, patch %d, cut %zu: colours differ", device, patch, c);
            if (memcmp(got8, want8, (size_t)frames * picture * 3 / 2)) fail_msg("%s, patch %d, cut %zu: I420 differs", device, patch, c);
        }
    }
    sc_tae_state_free(w.tae, &state);
    free(want);
    free(got);
    free(want8);
    free(got8);
    close_world(&w);
}

static void pieces_give_the_pictures_of_the_whole(void **state) {
    (void)state;
    pieces_give_the_pictures_of_the_whole_on("cpu", 2);
    pieces_give_the_pictures_of_the_whole_on("cpu", 1);
    pieces_give_the_pictures_of_the_whole_on("twin", 2);
}

static void what_a_stream_remembers_is_its_own_and_of_constant_size(void **state) {
    world w;
    sc_tae_state one = {0}, two = {0};
    sc_error err = {0};

    (void)state;
    open_world(&w, "cpu", 2);
    const size_t picture = (size_t)w.height * (size_t)w.width, n = 4 * FRAMES * 3 * picture;
    float *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b), *c = malloc(n * sizeof *c);
    uint8_t *bytes = malloc(4 * FRAMES * picture * 3 / 2);
    assert_true(a && b && c && bytes);
    if (sc_tae_state_init(w.tae, &one, &err) || sc_tae_state_init(w.tae, &two, &err)) fail_msg("%s", err.text);
    const size_t bytes_before = one.bytes;
    assert_true(bytes_before > 0 && one.bytes == two.bytes);
    const int frames = decode(&w, &one, cuts[0].piece, 4, false, a, bytes);
    /* a second stream beside it, with other latents in between */
    for (int i = 0; i < TINY_CH * FRAMES * H * W; i++) w.latent[i] = -w.latent[i];
    decode(&w, &one, cuts[0].piece, 4, true, b, bytes);
    for (int i = 0; i < TINY_CH * FRAMES * H * W; i++) w.latent[i] = -w.latent[i];
    decode(&w, &two, cuts[0].piece, 4, false, c, bytes);
    assert_memory_equal(a, c, (size_t)frames * 3 * picture * sizeof *a);
    assert_int_equal(one.bytes, bytes_before);
    free(a);
    free(b);
    free(c);
    free(bytes);
    sc_tae_state_free(w.tae, &one);
    sc_tae_state_free(w.tae, &two);
    sc_tae_state_free(w.tae, &two); /* twice is fine */
    close_world(&w);
}

/* The same weights loaded twice on the twin: grow layers in the convolutions behind them, and by themselves. */
static void grow_layers_multiplied_into_convolutions_give_the_same_pictures(void **state) {
    (void)state;
    for (int patch = 1; patch <= 2; patch++) {
        world w;
        sc_tae *apart;
        sc_tae_state s = {0};
        sc_error err = {0};
        double off = 0, all = 0;
        open_world(&w, "twin", patch);
        assert_true(w.dev->conv_deals);
        const sc_tae_shape shape = sc_tae_published(TINY_CH, patch, H, W, FRAMES);
        const size_t picture = (size_t)w.height * (size_t)w.width, n = 4 * FRAMES * 3 * picture;
        float *one = malloc(n * sizeof *one), *two = malloc(n * sizeof *two);
        uint8_t *bytes = malloc(4 * FRAMES * picture * 3 / 2);
        assert_true(one && two && bytes);
        w.dev->conv_deals = false;
        if (sc_tae_load(&apart, w.dev, w.set, "", &shape, &err) || sc_tae_state_init(w.tae, &s, &err)) fail_msg("%s", err.text);
        assert_int_equal(decode(&w, &s, cuts[0].piece, cuts[0].count, true, one, bytes), 4 * FRAMES);
        sc_tae_close(w.tae);
        w.tae = apart;
        if (sc_tae_state_init(w.tae, &s, &err)) fail_msg("%s", err.text);
        assert_int_equal(decode(&w, &s, cuts[0].piece, cuts[0].count, true, two, bytes), 4 * FRAMES);
        for (size_t i = 0; i < n; i++) off += pow(one[i] - two[i], 2), all += pow(two[i], 2);
        assert_true(all > 0);
        if (!(sqrt(off / all) < 2e-6)) fail_msg("patch %d: pictures differ by %.2g", patch, sqrt(off / all));
        free(one);
        free(two);
        free(bytes);
        sc_tae_state_free(w.tae, &s);
        close_world(&w);
    }
}

static void more_frames_than_fit_are_refused_and_harm_nothing(void **state) {
    world w;
    sc_tae_state s = {0};
    sc_error err = {0};
    int count = 0;

    (void)state;
    open_world(&w, "cpu", 2);
    if (sc_tae_state_init(w.tae, &s, &err)) fail_msg("%s", err.text);
    assert_int_equal(sc_tae_decode(w.tae, &s, w.latent, FRAMES + 1, false, true, NULL, NULL, &count, NULL, NULL, &err), SC_EINVAL);
    assert_non_null(strstr(err.text, "13 latent frames, 1 to 12 fit"));
    assert_int_equal(sc_tae_decode(w.tae, &s, w.latent, 0, false, true, NULL, NULL, &count, NULL, NULL, &err), SC_EINVAL);
    assert_false(s.started);
    sc_tae_state_free(w.tae, &s);
    close_world(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_give_the_pictures_of_the_whole),
        cmocka_unit_test(what_a_stream_remembers_is_its_own_and_of_constant_size),
        cmocka_unit_test(grow_layers_multiplied_into_convolutions_give_the_same_pictures),
        cmocka_unit_test(more_frames_than_fit_are_refused_and_harm_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, tiny_remove);
}

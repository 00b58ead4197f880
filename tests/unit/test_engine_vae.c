/* test_engine_vae.c - a small random Wan VAE: portions of a stream, several streams, other shapes, broken files and devices, a session. */
#include "tests/unit/engine_vae_model.h"

enum { FRAMES = 7 };

/* ---- a file ------------------------------------------------------------------------------------------------------------- */

static void build_encoder(tiny_file *f, const sc_vae_shape *s) {
    long ch = s->dim;
    char name[64];
    int n = 0;

    add_conv(f, "encoder.conv1", ch, 3, 3, 3, 5);
    for (int i = 0; i < s->levels; i++) {
        for (int b = 0; b < s->blocks; b++, ch = s->dim * s->mult[i]) {
            snprintf(name, sizeof name, "encoder.downsamples.%d", n++);
            add_residual(f, name, ch, s->dim * s->mult[i]);
        }
        if (i + 1 == s->levels) break;
        if (s->halves_time[i]) {
            snprintf(name, sizeof name, "encoder.downsamples.%d.time_conv.weight", n);
            tiny_add(f, false, 0, 0.8f / sqrtf(3.0f * (float)ch), name, 5, ch, ch, 3, 1, 1);
            snprintf(name, sizeof name, "encoder.downsamples.%d.time_conv.bias", n);
            tiny_add(f, false, 0, 0.1f, name, 1, ch, 0, 0, 0, 0);
        }
        snprintf(name, sizeof name, "encoder.downsamples.%d.resample.1", n++);
        add_conv(f, name, ch, ch, 1, 3, 4);
    }
    add_middle(f, "encoder", ch);
    add_gamma(f, "encoder.head.0.gamma", ch, 4);
    add_conv(f, "encoder.head.2", 2 * s->z, ch, 3, 3, 5);
    add_conv(f, "conv1", 2 * s->z, 2 * s->z, 1, 1, 5);
}

static void drop_file(tiny_file *f) {
    for (int i = 0; i < f->count; i++) free(f->t[i].data);
    free(f);
}

static sc_tensors *open_file(const tiny_file *f) {
    char path[] = "/tmp/sc_vae_XXXXXX";
    const char *list[1] = {path};
    sc_tensors *set = NULL;
    sc_error err = {0};
    const int fd = mkstemp(path);

    assert_true(fd >= 0);
    close(fd);
    tiny_save_file(f, path);
    if (sc_tensors_open(&set, list, 1, &err)) fail_msg("%s", err.text);
    unlink(path);
    return set;
}

/* ---- a world: device, file, latents ------------------------------------------------------------------------------------- */

typedef struct {
    sc_device *dev;
    sc_tensors *set;
    sc_vae_shape shape;
    float *latent; /* [Z][FRAMES][h][w] */
} world;

static void open_world(world *w, const char *device, const sc_vae_shape *shape, int attention) {
    tiny_file *f = calloc(1, sizeof *f);
    sc_error err = {0};

    assert_non_null(f);
    tiny_state = 77;
    build_decoder(f, shape, attention);
    *w = (world){.set = open_file(f), .shape = *shape};
    drop_file(f);
    if (sc_device_open(&w->dev, device, 3, SC_F16, &err)) fail_msg("%s", err.text);
    const size_t count = (size_t)Z * FRAMES * (size_t)(shape->latent_h * shape->latent_w);
    assert_non_null(w->latent = malloc(count * sizeof *w->latent));
    for (size_t i = 0; i < count; i++) w->latent[i] = tiny_random();
}

static void close_world(world *w) {
    sc_tensors_close(w->set);
    sc_device_close(w->dev);
    free(w->latent);
}

static sc_vae *load(const world *w, int group) {
    sc_vae_shape s = w->shape;
    sc_vae *v = NULL;
    sc_error err = {0};
    s.group = group;
    if (sc_vae_load(&v, w->dev, w->set, "", &s, &err)) fail_msg("%s", err.text);
    return v;
}

static size_t picture_of(const world *w, const sc_vae *v) { return (size_t)(w->shape.latent_h * w->shape.latent_w) * (size_t)(sc_vae_scale(v) * sc_vae_scale(v)); }

/* Latents [at, at + n) of the world, decoded behind `made` pictures; returns how many pictures then. */
static int decode(const world *w, const sc_vae *v, sc_vae_state *s, int at, int n, int made, float *rgb, uint8_t *i420) {
    const size_t px = (size_t)(w->shape.latent_h * w->shape.latent_w), picture = picture_of(w, v);
    float *part = malloc((size_t)n * Z * px * sizeof *part);
    int count = -1;
    sc_error err = {0};

    assert_non_null(part);
    for (int c = 0; c < Z; c++) memcpy(part + (size_t)(c * n) * px, w->latent + (size_t)(c * FRAMES + at) * px, (size_t)n * px * sizeof *part);
    if (sc_vae_decode(v, s, part, n, false, rgb + (size_t)made * 3 * picture, i420 + (size_t)made * picture / 2 * 3, &count, NULL, NULL, &err)) fail_msg("%s", err.text);
    free(part);
    assert_int_equal(count, sc_vae_time_scale(v) * n - (made ? 0 : sc_vae_time_scale(v) - 1));
    return made + count;
}

static sc_vae_state *state_of(const sc_vae *v) {
    sc_vae_state *s = NULL;
    sc_error err = {0};
    if (sc_vae_state_create(v, &s, &err)) fail_msg("%s", err.text);
    return s;
}

typedef struct {
    float *rgb;
    uint8_t *i420;
    size_t rgb_bytes, i420_bytes;
    int frames;
} film;

/* The whole stream in the given portions (they add up to FRAMES). */
static film play(const world *w, const sc_vae *v, const int *portions) {
    const size_t picture = picture_of(w, v);
    film f = {.frames = 1 + (FRAMES - 1) * sc_vae_time_scale(v)};
    sc_vae_state *s = state_of(v);
    int made = 0;

    f.rgb_bytes = (size_t)f.frames * 3 * picture * sizeof(float);
    f.i420_bytes = (size_t)f.frames * picture / 2 * 3;
    f.rgb = malloc(f.rgb_bytes);
    f.i420 = malloc(f.i420_bytes);
    assert_true(f.rgb && f.i420);
    for (int at = 0; at < FRAMES; at += *portions++) made = decode(w, v, s, at, *portions, made, f.rgb, f.i420);
    assert_int_equal(made, f.frames);
    sc_vae_state_destroy(v, s);
    for (size_t i = 0; i < f.rgb_bytes / sizeof(float); i++) assert_true(isfinite(f.rgb[i]));
    return f;
}

static void drop_film(film *f) {
    free(f->rgb);
    free(f->i420);
}

static void assert_same_film(const film *a, const film *b) {
    assert_int_equal(a->frames, b->frames);
    assert_memory_equal(a->rgb, b->rgb, a->rgb_bytes);
    assert_memory_equal(a->i420, b->i420, a->i420_bytes);
}

static const int at_once[] = {7}, ones[] = {1, 1, 1, 1, 1, 1, 1}, chunks[] = {3, 3, 1}, uneven[] = {2, 4, 1};

/* ---- streams ------------------------------------------------------------------------------------------------------------ */

static void any_portions_of_a_stream_give_the_same_bits(void **state) {
    static const char *const devices[] = {"twin", "cpu"};
    static const int *const portions[] = {ones, chunks, uneven};
    (void)state;
    for (int d = 0; d < 2; d++) {
        world w;
        open_world(&w, devices[d], &small, -1);
        sc_vae *whole = load(&w, FRAMES);
        film want = play(&w, whole, at_once);
        for (int group = 0; group <= 3; group++) {
            sc_vae *v = load(&w, group);
            for (size_t i = 0; i < sizeof portions / sizeof *portions; i++) {
                film got = play(&w, v, portions[i]);
                assert_same_film(&got, &want);
                drop_film(&got);
            }
            sc_vae_close(v);
        }
        drop_film(&want);
        sc_vae_close(whole);
        close_world(&w);
    }
}

static void a_stream_is_carried_by_its_state_alone(void **state) {
    world w;
    (void)state;
    open_world(&w, "cpu", &small, -1);
    sc_vae *v = load(&w, 0);
    film want = play(&w, v, ones), got = play(&w, v, ones); /* the second from a new state: nothing of the first is left */
    assert_same_film(&want, &got);
    /* two streams in turn, one a latent ahead of the other */
    sc_vae_state *a = state_of(v), *b = state_of(v);
    const size_t picture = picture_of(&w, v);
    float *other = malloc(want.rgb_bytes);
    uint8_t *other_yuv = malloc(want.i420_bytes);
    assert_true(other && other_yuv);
    memset(got.rgb, 0, got.rgb_bytes);
    int made_a = decode(&w, v, a, 0, 1, 0, got.rgb, got.i420), made_b = 0;
    for (int at = 1; at < FRAMES; at++) {
        made_b = decode(&w, v, b, at - 1, 1, made_b, other, other_yuv);
        made_a = decode(&w, v, a, at, 1, made_a, got.rgb, got.i420);
    }
    assert_same_film(&want, &got);
    assert_memory_equal(other, want.rgb, (size_t)made_b * 3 * picture * sizeof *other);
    /* and the state matters: the same latent as the first and as a later one of a stream */
    int count;
    sc_error err;
    assert_int_equal(sc_vae_decode(v, b, w.latent, 1, false, other, other_yuv, &count, NULL, NULL, &err), SC_OK);
    assert_int_equal(count, 4);
    assert_memory_not_equal(other, want.rgb, 3 * picture * sizeof *other);
    free(other);
    free(other_yuv);
    sc_vae_state_destroy(v, a);
    sc_vae_state_destroy(v, b);
    drop_film(&want);
    drop_film(&got);
    sc_vae_close(v);
    close_world(&w);
}

static void zero_caches_are_not_the_start_of_a_stream(void **state) {
    world w;
    int count;
    sc_error err;
    (void)state;
    open_world(&w, "twin", &small, -1);
    sc_vae *v = load(&w, 0);
    film want = play(&w, v, ones);
    sc_vae_state *s = state_of(v);
    sc_vae_state_pretend_started(s);
    float *rgb = malloc(4 * 3 * picture_of(&w, v) * sizeof *rgb);
    assert_non_null(rgb);
    float latent[Z * H * W];
    for (int c = 0; c < Z; c++) memcpy(latent + c * H * W, w.latent + c * FRAMES * H * W, sizeof latent / Z);
    assert_int_equal(sc_vae_decode(v, s, latent, 1, false, rgb, NULL, &count, NULL, NULL, &err), SC_OK);
    assert_int_equal(count, 4);
    for (size_t f = 0; f < 4; f++) assert_memory_not_equal(rgb + f * 3 * picture_of(&w, v), want.rgb, 3 * picture_of(&w, v) * sizeof *rgb);
    free(rgb);
    sc_vae_state_destroy(v, s);
    drop_film(&want);
    sc_vae_close(v);
    close_world(&w);
}

/* Fewer levels, other doublings in time, more blocks, attention behind the residual blocks of a level: each on both tables. Four
 * channels are the fewest at which a norm is tame: over one it is the sign, and every rounding about zero shows. */
static void other_shapes_run_alike_on_twin_and_cpu(void **state) {
    static const struct { sc_vae_shape shape; int attention, scale, time; } cases[] = {
        {{.z = Z, .dim = 6, .levels = 4, .mult = {1, 2, 3, 2}, .blocks = 1, .latent_h = H, .latent_w = W, .halves_time = {false, true, true}}, -1, 8, 4},
        {{.z = Z, .dim = 4, .levels = 2, .mult = {1, 4}, .blocks = 1, .latent_h = 3, .latent_w = 5, .halves_time = {true}}, 1, 2, 2},
        {{.z = Z, .dim = 3, .levels = 3, .mult = {3, 2, 4}, .blocks = 2, .latent_h = 1, .latent_w = 1, .halves_time = {false, false}}, 0, 4, 1},
        {{.z = Z, .dim = 8, .levels = 4, .mult = {1, 1, 1, 1}, .blocks = 1, .latent_h = 1, .latent_w = 2, .halves_time = {true, true, true}}, 2, 8, 8},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sc_vae_shape shape = cases[i].shape;
        film got[2];
        shape.mean = mean;
        shape.std = std;
        for (int d = 0; d < 2; d++) {
            world w;
            open_world(&w, d ? "cpu" : "twin", &shape, cases[i].attention);
            sc_vae *v = load(&w, d ? 3 : 1);
            assert_int_equal(sc_vae_scale(v), cases[i].scale);
            assert_int_equal(sc_vae_time_scale(v), cases[i].time);
            assert_true(sc_vae_state_bytes(v) > 0 && sc_vae_work_bytes(v) > 0);
            got[d] = play(&w, v, chunks);
            sc_vae_close(v);
            close_world(&w);
        }
        double most = 0, square = 0, off = 0;
        const size_t n = got[0].rgb_bytes / sizeof(float);
        for (size_t k = 0; k < n; k++) {
            const double d = (double)got[0].rgb[k] - (double)got[1].rgb[k];
            most = fmax(most, fabs(d));
            off += d * d;
            square += (double)got[0].rgb[k] * (double)got[0].rgb[k];
        }
        if (!(off <= 1e-10 * square && most <= 2e-4 * sqrt(square / (double)n))) /* relative L2 as for golden data, the peak looser */
            fail_msg("shape %zu: relative L2 %g, off by %g of %g", i, sqrt(off / square), most, sqrt(square / (double)n));
        drop_film(&got[0]);
        drop_film(&got[1]);
    }
}

/* ---- what is refused ---------------------------------------------------------------------------------------------------- */

static sc_status try_load(sc_device *dev, const tiny_file *f, const sc_vae_shape *shape, sc_error *err) {
    sc_tensors *set = open_file(f);
    sc_vae *v = (sc_vae *)&set;
    sc_status rc = sc_vae_load(&v, dev, set, "", shape, err);
    if (rc) assert_null(v);
    sc_vae_close(v);
    sc_tensors_close(set);
    return rc;
}

static void every_tensor_that_is_missing_or_wrong_is_named(void **state) {
    tiny_file *f = calloc(1, sizeof *f);
    sc_device *dev;
    sc_error err = {0};
    (void)state;
    assert_non_null(f);
    assert_int_equal(sc_device_open(&dev, "cpu", 1, SC_F16, &err), SC_OK);
    build_decoder(f, &small, -1);
    if (try_load(dev, f, &small, &err)) fail_msg("%s", err.text);
    for (int i = 0; i < f->count; i++) {
        tiny_tensor *t = &f->t[i], kept = *t;
        for (int how = 0; how < 4; how++) {
            if (how == 0) t->name[strlen(t->name) - 1] = 'x';
            else if (how == 1) t->shape[0]++;
            else if (how == 2) t->shape[t->rank - 1] += 2;
            else t->dtype = "I32";
            err = (sc_error){0};
            const sc_status rc = try_load(dev, f, &small, &err);
            if (rc != (how ? SC_EINVAL : SC_ENOTFOUND) || !strstr(err.text, kept.name)) fail_msg("%s, fault %d: %d \"%s\"", kept.name, how, rc, err.text);
            *t = kept;
        }
    }
    drop_file(f);
    sc_device_close(dev);
}

static void sizes_out_of_range_are_refused(void **state) {
    static const struct { const char *field; size_t at; int value; const char *word; } cases[] = {
        {"z", offsetof(sc_vae_shape, z), 0, "0 latent channels"},      {"z", offsetof(sc_vae_shape, z), 65, "65 latent channels"},
        {"levels", offsetof(sc_vae_shape, levels), 1, "1 levels"},     {"levels", offsetof(sc_vae_shape, levels), 5, "5 levels"},
        {"dim", offsetof(sc_vae_shape, dim), 0, "dim 0"},              {"dim", offsetof(sc_vae_shape, dim), 1 << 30, "out of range"},
        {"blocks", offsetof(sc_vae_shape, blocks), 0, "0 blocks"},     {"blocks", offsetof(sc_vae_shape, blocks), 9, "9 blocks"},
        {"h", offsetof(sc_vae_shape, latent_h), 0, "0 x 3"},           {"w", offsetof(sc_vae_shape, latent_w), -1, "2 x -1"},
        {"mult", offsetof(sc_vae_shape, mult), 17, "multiplier 17"},   {"mult", offsetof(sc_vae_shape, mult) + 12, 0, "multiplier 0 of level 3"},
        {"dim", offsetof(sc_vae_shape, dim), 5, "cannot be halved"},
    };
    tiny_file *f = calloc(1, sizeof *f);
    sc_device *dev;
    sc_error err = {0};
    (void)state;
    assert_non_null(f);
    assert_int_equal(sc_device_open(&dev, "twin", 1, SC_F16, &err), SC_OK);
    build_decoder(f, &small, -1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sc_vae_shape s = small;
        memcpy((char *)&s + cases[i].at, &cases[i].value, sizeof(int));
        assert_int_equal(try_load(dev, f, &s, &err), SC_EINVAL);
        if (!strstr(err.text, cases[i].word)) fail_msg("%s = %d: \"%s\"", cases[i].field, cases[i].value, err.text);
    }
    drop_file(f);
    sc_device_close(dev);
}

static void a_device_that_lacks_an_operation_is_refused_not_called(void **state) {
    static const char *const names[] = {"conv3", "channel_norm", "frame_attention", "planes_in"};
    float clip[3] = {0}, latent[Z * H * W];
    world w;
    (void)state;
    open_world(&w, "cpu", &small, -1);
    for (int i = 0; i < 4; i++) {
        sc_ops ops = *w.dev->ops;
        const sc_ops *kept = w.dev->ops;
        sc_vae *v;
        sc_error err = {0};
        if (i == 0) ops.conv3 = NULL;
        if (i == 1) ops.channel_norm = NULL;
        if (i == 2) ops.frame_attention = NULL;
        if (i == 3) ops.planes_in = NULL;
        w.dev->ops = &ops;
        assert_int_equal(sc_vae_load(&v, w.dev, w.set, "", &w.shape, &err), SC_EINVAL);
        assert_null(v);
        assert_non_null(strstr(err.text, "not on this device"));
        assert_non_null(strstr(err.text, names[i]));
        assert_int_equal(sc_vae_encode(w.dev, w.set, "", &w.shape, clip, 1, latent, &err), SC_EINVAL);
        w.dev->ops = kept;
    }
    close_world(&w);
}

/* ---- memory that runs out ----------------------------------------------------------------------------------------------- */

static const sc_ops *real_ops;
static int calls_left, live; /* until one fails; device memory and filters held */

static sc_status counted_alloc(sc_device *dev, void **out, size_t bytes, sc_error *err) {
    *out = NULL;
    if (calls_left-- == 0) return sc_fail(err, SC_ENOMEM, "no memory, says the test");
    live++;
    return real_ops->alloc(dev, out, bytes, err);
}

static sc_status counted_filter(sc_device *dev, sc_filter **out, const sc_filter_desc *d, sc_error *err) {
    *out = NULL;
    if (calls_left-- == 0) return sc_fail(err, SC_ENOMEM, "no memory, says the test");
    live++;
    return real_ops->filter_create(dev, out, d, err);
}

static void counted_release(sc_device *dev, void *p) {
    live -= p != NULL;
    real_ops->release(dev, p);
}

static void counted_destroy(sc_device *dev, sc_filter *f) {
    live--;
    real_ops->filter_destroy(dev, f);
}

static void nothing_is_kept_when_memory_runs_out(void **state) {
    world w;
    int fails = 0;
    (void)state;
    open_world(&w, "cpu", &small, -1);
    real_ops = w.dev->ops;
    sc_ops ops = *real_ops;
    ops.alloc = counted_alloc;
    ops.release = counted_release;
    ops.filter_create = counted_filter;
    ops.filter_destroy = counted_destroy;
    w.dev->ops = &ops;
    for (int n = 0;; n++, fails++) {
        sc_vae *v;
        sc_vae_state *s = NULL;
        sc_error err = {0};
        calls_left = n;
        sc_status rc = sc_vae_load(&v, w.dev, w.set, "", &w.shape, &err);
        if (!rc) rc = sc_vae_state_create(v, &s, &err);
        if (!rc) {
            sc_vae_state_destroy(v, s);
            sc_vae_close(v);
            break;
        }
        assert_int_equal(rc, SC_ENOMEM);
        assert_null(s);
        sc_vae_close(v);
        assert_int_equal(live, 0);
    }
    assert_int_equal(live, 0);
    assert_true(fails > 60); /* filters, norms, work memory, caches */
    w.dev->ops = real_ops;
    close_world(&w);
}

/* Work memory of large pictures is asked for, not had: nothing runs here. */
static sc_status pretended_alloc(sc_device *dev, void **out, size_t bytes, sc_error *err) { return real_ops->alloc(dev, out, bytes < 1 << 20 ? bytes : 64, err); }

static void a_group_is_as_large_as_its_work_memory_may_be(void **state) {
    static const struct { int h, w, group, made; } cases[] = {{H, W, 0, 1}, {H, W, 3, 3}, {H, W, 64, 64}, {200, 300, 1, 1}, {200, 300, 2, 2}, {200, 300, 3, 2}, {600, 700, 3, 1}};
    world w;
    (void)state;
    open_world(&w, "twin", &small, -1);
    real_ops = w.dev->ops;
    sc_ops ops = *real_ops;
    ops.alloc = pretended_alloc;
    w.dev->ops = &ops;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        w.shape.latent_h = cases[i].h;
        w.shape.latent_w = cases[i].w;
        sc_vae *v = load(&w, cases[i].group);
        const size_t most = 4 * 64 * (size_t)cases[i].h * (size_t)cases[i].w * 6 * sizeof(float); /* the finest level: four pictures, 6 channels */
        assert_int_equal(sc_vae_work_bytes(v), 3 * most * (size_t)cases[i].made);
        assert_true(cases[i].made == 1 || sc_vae_work_bytes(v) <= SC_VAE_WORK_BYTES);
        sc_vae_close(v);
    }
    w.dev->ops = real_ops;
    close_world(&w);
}

/* ---- the encoder -------------------------------------------------------------------------------------------------------- */

static void the_encoder_leaves_out_a_rest_and_looks_only_back(void **state) {
    enum { CLIP = 12, PH = H * 8, PW = W * 8 };
    tiny_file *f = calloc(1, sizeof *f);
    float *clip = malloc(sizeof *clip * 3 * CLIP * PH * PW), *cut = malloc(sizeof *cut * 3 * CLIP * PH * PW), want[Z * 3 * H * W], got[Z * 3 * H * W];
    sc_error err = {0};
    (void)state;
    assert_true(f && clip && cut);
    build_encoder(f, &small);
    sc_tensors *set = open_file(f);
    drop_file(f);
    for (int i = 0; i < 3 * CLIP * PH * PW; i++) clip[i] = 0.5f * tiny_random();
    assert_int_equal(sc_vae_encoded(&small, 0), 0);
    assert_int_equal(sc_vae_encoded(&small, 1), 1);
    assert_int_equal(sc_vae_encoded(&small, 8), 2);
    assert_int_equal(sc_vae_encoded(&small, CLIP), 3);
    for (int d = 0; d < 2; d++) {
        sc_device *dev;
        assert_int_equal(sc_device_open(&dev, d ? "cpu" : "twin", 2, SC_F16, &err), SC_OK);
        if (sc_vae_encode(dev, set, "", &small, clip, CLIP, want, &err)) fail_msg("%s", err.text); /* 1 + 4 + 4, and 3 left out */
        for (int frames = 1; frames <= CLIP; frames++) { /* shorter clips: the latents that there are, to the bit */
            const int made = sc_vae_encoded(&small, frames);
            for (int c = 0; c < 3; c++) memcpy(cut + c * frames * PH * PW, clip + c * CLIP * PH * PW, sizeof *cut * (size_t)frames * PH * PW);
            memset(got, 0xff, sizeof got);
            if (sc_vae_encode(dev, set, "", &small, cut, frames, got, &err)) fail_msg("%s", err.text);
            for (int c = 0; c < Z; c++) assert_memory_equal(got + c * made * H * W, want + c * 3 * H * W, sizeof *got * (size_t)made * H * W);
        }
        assert_int_equal(sc_vae_encode(dev, set, "", &small, clip, 0, got, &err), SC_EINVAL);
        assert_int_equal(sc_vae_encode(dev, set, "other.", &small, clip, 1, got, &err), SC_ENOTFOUND);
        assert_non_null(strstr(err.text, "other.encoder.conv1.weight"));
        sc_device_close(dev);
    }
    sc_tensors_close(set);
    free(clip);
    free(cut);
}

/* ---- a session ---------------------------------------------------------------------------------------------------------- */

static void a_session_decodes_with_the_decoder_of_its_config(void **state) {
    sc_model_info info, plain;
    uint64_t hash[2][2];
    (void)state;
    sc_engine *e = tiny_open(&tiny_default, "cpu", 1);
    sc_engine_describe(e, &plain);
    sc_engine_close(e);
    save_vae_model(&tiny_default, VAE_CONFIG("6"));
    for (int d = 0; d < 2; d++) {
        e = tiny_open_saved(d ? "twin" : "cpu", 2);
        sc_engine_describe(e, &info);
        assert_int_equal(info.width, 32);
        assert_int_equal(info.height, 32);
        assert_int_equal(info.frames_first, 9);
        assert_int_equal(info.frames_chunk, 12);
        assert_true(info.session_bytes > plain.session_bytes);
        assert_true(info.work_bytes > plain.work_bytes);
        for (int k = 0; k < 2; k++) {
            sc_session *s = tiny_session(e, 5, "a red balloon");
            sc_frames f;
            sc_error err;
            tiny_chunk(s, true);
            assert_int_equal(sc_session_frames(s, &f, &err), SC_OK);
            assert_int_equal(f.count, 9);
            hash[d][k] = tiny_hash(0, f.data, (size_t)f.count * f.frame_bytes);
            tiny_chunk(s, true);
            assert_int_equal(sc_session_frames(s, &f, &err), SC_OK);
            assert_int_equal(f.count, 12);
            assert_int_equal(f.first_frame, 9);
            hash[d][k] = tiny_hash(hash[d][k], f.data, (size_t)f.count * f.frame_bytes);
            sc_session_destroy(s);
        }
        assert_true(hash[d][0] == hash[d][1]);
        sc_engine_close(e);
    }
}

static void a_model_with_another_vae_than_its_config_says_is_refused(void **state) {
    sc_engine *e;
    sc_error err = {0};
    (void)state;
    save_vae_model(&tiny_default, VAE_CONFIG("8"));
    assert_int_equal(sc_engine_open(&e, &(sc_engine_options){.model_dir = tiny_dir, .device = "cpu", .threads = 1}, &err), SC_EINVAL);
    assert_null(e);
    assert_non_null(strstr(err.text, "tae.safetensors"));
    assert_non_null(strstr(err.text, "decoder.conv1.weight"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_portions_of_a_stream_give_the_same_bits),
        cmocka_unit_test(a_stream_is_carried_by_its_state_alone),
        cmocka_unit_test(zero_caches_are_not_the_start_of_a_stream),
        cmocka_unit_test(other_shapes_run_alike_on_twin_and_cpu),
        cmocka_unit_test(every_tensor_that_is_missing_or_wrong_is_named),
        cmocka_unit_test(sizes_out_of_range_are_refused),
        cmocka_unit_test(a_device_that_lacks_an_operation_is_refused_not_called),
        cmocka_unit_test(nothing_is_kept_when_memory_runs_out),
        cmocka_unit_test(a_group_is_as_large_as_its_work_memory_may_be),
        cmocka_unit_test(the_encoder_leaves_out_a_rest_and_looks_only_back),
        cmocka_unit_test(a_session_decodes_with_the_decoder_of_its_config),
        cmocka_unit_test(a_model_with_another_vae_than_its_config_says_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, tiny_remove);
}

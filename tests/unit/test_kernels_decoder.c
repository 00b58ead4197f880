/* test_kernels_decoder.c - the decoder's operations put together as TAEHV, against golden data: the pocket decoder's frames, and a
 * small TAEHV's decoder and encoder (which has the strides and the pools) against the reference's float32 run. */
#include "engine/safetensors.h"
#include "tests/unit/kernels_decoder.h"

enum { PASTS = 9, MOST = 1 << 24 };

/* One network on one device. Activations are malloc'ed by each step and freed by the next: this is a test. */
typedef struct {
    sc_device *dev;
    const sc_tensors *set;
    const char *prefix;
    float *past[PASTS]; /* last input of each memory block */
    int n, h, w, ch;    /* of `x` */
    float *x;
} net;

static float *tensor(const sc_tensors *set, const char *name, const sc_tensor **out) {
    const sc_tensor *t = sc_tensors_find(set, name);
    if (!t) fail_msg("no tensor %s", name);
    float *v = sc_tensor_to_f32(t);
    assert_non_null(v);
    if (out) *out = t;
    return v;
}

static sc_filter *filter(const net *t, const char *name, bool has_past, int stride, int *out_ch) {
    char text[96];
    sc_filter *f;
    sc_error err;
    snprintf(text, sizeof text, "%s%s.weight", t->prefix, name);
    const sc_tensor *w = sc_tensors_find(t->set, text);
    snprintf(text, sizeof text, "%s%s.bias", t->prefix, name);
    const sc_tensor *b = sc_tensors_find(t->set, text);
    if (!w) fail_msg("no tensor %s%s.weight", t->prefix, name);
    if (t->dev->ops->filter_create(t->dev, &f, &(sc_filter_desc){.out_ch = (int)w->shape[0], .in_ch = (int)w->shape[1], .size = (int)w->shape[2], .stride = stride,
                                   .has_past = has_past, .data = w->data, .type = w->dtype, .bias = b ? b->data : NULL, .bias_type = b ? b->dtype : SC_F32}, &err))
        fail_msg("%s", err.text);
    *out_ch = (int)w->shape[0];
    return f;
}

static float *conv(const net *t, const char *name, const float *x, const float *past, const float *residual, bool relu, bool up, int stride, int *ch) {
    const int oh = (t->h * (up ? 2 : 1) - 1) / stride + 1, ow = (t->w * (up ? 2 : 1) - 1) / stride + 1;
    sc_error err;
    sc_filter *f = filter(t, name, past != NULL, stride, ch);
    float *out = malloc((size_t)(t->n * oh * ow * *ch) * sizeof *out);
    assert_non_null(out);
    assert_int_equal(t->dev->ops->conv(t->dev, &(sc_conv_args){.w = f, .x = x, .past = past, .residual = residual, .out = out, .n = t->n, .h = t->h, .w_px = t->w,
                                       .relu = relu, .upsample = up}, &err), SC_OK);
    t->dev->ops->filter_destroy(t->dev, f);
    return out;
}

static void step_conv(net *t, const char *name, bool relu, bool up, int stride) {
    float *y = conv(t, name, t->x, NULL, NULL, relu, up, stride, &t->ch);
    free(t->x);
    t->x = y;
    t->h = (t->h * (up ? 2 : 1) - 1) / stride + 1;
    t->w = (t->w * (up ? 2 : 1) - 1) / stride + 1;
}

static void step_memory(net *t, int layer, int which) {
    const size_t frame = (size_t)(t->h * t->w * t->ch);
    char name[32];
    int ch;
    if (!t->past[which]) t->past[which] = calloc(frame, sizeof(float));
    assert_non_null(t->past[which]);
    snprintf(name, sizeof name, "%d.conv.0", layer);
    float *a = conv(t, name, t->x, t->past[which], NULL, true, false, 1, &ch);
    snprintf(name, sizeof name, "%d.conv.2", layer);
    float *b = conv(t, name, a, NULL, NULL, true, false, 1, &ch);
    snprintf(name, sizeof name, "%d.conv.4", layer);
    float *y = conv(t, name, b, NULL, t->x, true, false, 1, &ch);
    memcpy(t->past[which], t->x + (size_t)(t->n - 1) * frame, frame * sizeof(float));
    free(a);
    free(b);
    free(t->x);
    t->x = y;
}

static void step_frames(net *t, int layer, bool pool) {
    char name[32];
    int out_ch;
    sc_error err;
    snprintf(name, sizeof name, "%d.conv", layer);
    sc_filter *f = filter(t, name, false, 1, &out_ch);
    char text[96];
    snprintf(text, sizeof text, "%s%s.weight", t->prefix, name);
    const int s = pool ? (int)sc_tensors_find(t->set, text)->shape[1] / t->ch : out_ch / t->ch, n = pool ? t->n / s : t->n;
    float *y = malloc((size_t)(pool ? n : n * s) * (size_t)(t->h * t->w * t->ch) * sizeof *y);
    assert_non_null(y);
    assert_int_equal((pool ? t->dev->ops->pool : t->dev->ops->grow)(t->dev, &(sc_grow_args){.w = f, .x = t->x, .out = y, .n = n, .h = t->h, .w_px = t->w, .s = s}, &err), SC_OK);
    t->dev->ops->filter_destroy(t->dev, f);
    free(t->x);
    t->x = y;
    t->n = pool ? n : n * s;
}

/* latent [ch][frames][h][w] -> float pictures [n][3][H][W], not clamped; caller frees. */
static float *decode(net *t, const float *latent, int ch, int frames, int h, int w) {
    sc_error err;
    t->n = frames;
    t->h = h;
    t->w = w;
    t->ch = ch;
    t->x = malloc((size_t)(ch * frames * h * w) * sizeof(float));
    assert_non_null(t->x);
    assert_int_equal(t->dev->ops->latent_in(t->dev, &(sc_latent_in_args){.latent = latent, .out = t->x, .ch = ch, .frames = frames, .h = h, .w = w}, &err), SC_OK);
    step_conv(t, "1", true, false, 1);
    for (int level = 0; level < 3; level++) {
        char name[16];
        for (int i = 0; i < 3; i++) step_memory(t, 3 + 6 * level + i, 3 * level + i);
        step_frames(t, 7 + 6 * level, false);
        snprintf(name, sizeof name, "%d", 8 + 6 * level);
        step_conv(t, name, level == 2, level < 2 || sc_tensors_find(t->set, "w.decoder.1.weight"), 1); /* the pocket model shuffles instead */
    }
    step_conv(t, "22", false, false, 1);
    const int p = t->ch == 12 ? 2 : 1;
    float *rgb = malloc((size_t)(t->n * t->h * t->w * t->ch) * sizeof *rgb);
    assert_non_null(rgb);
    assert_int_equal(t->dev->ops->pixels(t->dev, &(sc_pixels_args){.x = t->x, .rgb = rgb, .n = t->n, .h = t->h, .w = t->w, .p = p}, &err), SC_OK);
    t->h *= p;
    t->w *= p;
    free(t->x);
    t->x = NULL;
    return rgb;
}

static void forget(net *t) {
    for (int i = 0; i < PASTS; i++) free(t->past[i]);
}

/* README's rule for float32: relative L2 1e-5, largest error 5e-5 of the rms. */
static void assert_golden(const char *what, const float *got, const float *want, size_t n) {
    double err = 0, sum = 0, most = 0;
    for (size_t i = 0; i < n; i++) {
        const double e = (double)got[i] - (double)want[i];
        err += e * e;
        sum += (double)want[i] * (double)want[i];
        if (!(fabs(e) <= most)) most = fabs(e);
    }
    const double relative = sqrt(err / sum), largest = most / sqrt(sum / (double)n);
    print_message("           %s: relative L2 %.2e, largest error / rms %.2e\n", what, relative, largest);
    assert_true(relative <= 1e-5 && largest <= 5e-5);
}

static sc_tensors *open_set(const char *path) {
    sc_tensors *set;
    sc_error err;
    if (sc_tensors_open(&set, &path, 1, &err)) fail_msg("%s", err.text);
    return set;
}

static void pocket_frames_are_the_golden_ones(void **state) {
    devices *d = *state;
    if (!d->fast) skip();
    sc_tensors *weights = open_set(SC_SOURCE_DIR "/models/pocket/tae.safetensors"), *gold = open_set(SC_SOURCE_DIR "/tests/vectors/pocket.safetensors");
    net t = {.dev = d->fast, .set = weights, .prefix = "decoder."};
    for (int chunk = 0; chunk < 2; chunk++) {
        static const double limit[2] = {6e-5, 4e-5};
        static const int shown[2][3] = {{0, 4, 8}, {0, 5, 11}};
        char name[64];
        snprintf(name, sizeof name, "stream.c%d.x0", chunk);
        float *x0 = tensor(gold, name, NULL), *rgb = decode(&t, x0, 16, 3, 20, 32);
        const int skip_frames = chunk ? 0 : 3, n = t.n - skip_frames, H = t.h, W = t.w;
        float *frame = rgb + skip_frames * 3 * H * W;
        assert_int_equal(n, chunk ? 12 : 9);
        for (int i = 0; i < n * 3 * H * W; i++) frame[i] = fminf(fmaxf(frame[i], 0), 1);
        snprintf(name, sizeof name, "decode.c%d.all_pooled8", chunk);
        float *want = tensor(gold, name, NULL);
        double most = 0;
        for (int i = 0; i < n * 3 * (H / 8) * (W / 8); i++) {
            const int px = i % (W / 8), py = i / (W / 8) % (H / 8), plane = i / (W / 8) / (H / 8);
            double mean = 0;
            for (int k = 0; k < 64; k++) mean += (double)frame[(plane * H + py * 8 + k / 8) * W + px * 8 + k % 8] / 64;
            most = fmax(most, fabs(mean - (double)want[i]));
        }
        print_message("           %s %s: largest error %.2e of %.0e\n", d->isa, name, most, limit[chunk]);
        assert_true(most <= limit[chunk]);
        free(want);
        for (int k = 0; k < 3; k++) {
            snprintf(name, sizeof name, "decode.c%d.frame%d", chunk, shown[chunk][k]);
            want = tensor(gold, name, NULL);
            assert_close(name, frame + shown[chunk][k] * 3 * H * W, want, (size_t)(3 * H * W), 6e-4);
            free(want);
        }
        free(x0);
        free(rgb);
    }
    forget(&t);
    sc_tensors_close(weights);
    sc_tensors_close(gold);
}

static void a_small_taehv_decodes_like_the_reference(void **state) {
    devices *d = *state;
    if (!d->fast) skip();
    sc_tensors *set = open_set(SC_SOURCE_DIR "/tests/vectors/taehv.safetensors");
    float *z = tensor(set, "in.z", NULL), *want = tensor(set, "out.dec.raw", NULL), *latent = malloc(6 * 16 * 24 * sizeof *latent);
    assert_non_null(latent);
    for (int which = 0; which < 2; which++) { /* all six latents, then in chunks of one */
        net t = {.dev = d->fast, .set = set, .prefix = "w.decoder."};
        float *all = malloc(24 * 3 * 32 * 48 * sizeof *all);
        const int step = which ? 1 : 6;
        assert_non_null(all);
        for (int f0 = 0; f0 < 6; f0 += step) {
            for (int c = 0; c < 16; c++)
                for (int f = 0; f < step; f++) memcpy(latent + (c * step + f) * 24, z + ((f0 + f) * 16 + c) * 24, 24 * sizeof *z);
            float *rgb = decode(&t, latent, 16, step, 4, 6);
            memcpy(all + f0 * 4 * 3 * 32 * 48, rgb, (size_t)(step * 4 * 3 * 32 * 48) * sizeof *all);
            free(rgb);
        }
        assert_golden(which ? "decoder, one latent at a time" : "decoder, at once", all, want, 24 * 3 * 32 * 48);
        forget(&t);
        free(all);
    }
    free(latent);
    free(z);
    free(want);
    sc_tensors_close(set);
}

static void a_small_taehv_encodes_like_the_reference(void **state) {
    devices *d = *state;
    if (!d->fast) skip();
    for (int which = 0; which < 2; which++) {
        sc_tensors *set = open_set(SC_SOURCE_DIR "/tests/vectors/taehv.safetensors");
        net t = {.dev = which ? d->fast : d->twin, .set = set, .prefix = "w.encoder.", .n = 12, .h = 32, .w = 48, .ch = 3};
        float *clip = tensor(set, "in.clip", NULL), *want = tensor(set, "out.enc.latents", NULL), *got = malloc(3 * 16 * 24 * sizeof *got);
        t.x = malloc(12 * 3 * 32 * 48 * sizeof *t.x);
        assert_true(t.x && got);
        for (int f = 0; f < 12; f++) /* the end is padded with copies of the last frame */
            for (int p = 0; p < 32 * 48; p++)
                for (int c = 0; c < 3; c++) t.x[(f * 32 * 48 + p) * 3 + c] = clip[((f < 9 ? f : 8) * 3 + c) * 32 * 48 + p];
        step_conv(&t, "0", true, false, 1);
        for (int level = 0; level < 3; level++) {
            char name[16];
            step_frames(&t, 2 + 5 * level, true);
            snprintf(name, sizeof name, "%d", 3 + 5 * level);
            step_conv(&t, name, false, false, 2);
            for (int i = 0; i < 3; i++) step_memory(&t, 4 + 5 * level + i, 3 * level + i);
        }
        step_conv(&t, "17", false, false, 1);
        assert_int_equal(t.n, 3);
        assert_int_equal(t.h * t.w, 24);
        for (int f = 0; f < 3; f++)
            for (int c = 0; c < 16; c++)
                for (int p = 0; p < 24; p++) got[(f * 16 + c) * 24 + p] = t.x[(f * 24 + p) * 16 + c];
        assert_golden(which ? "encoder, fast" : "encoder, twin", got, want, 3 * 16 * 24);
        forget(&t);
        free(t.x);
        free(got);
        free(clip);
        free(want);
        sc_tensors_close(set);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        EVERY_ISA(pocket_frames_are_the_golden_ones),
        EVERY_ISA(a_small_taehv_decodes_like_the_reference),
        EVERY_ISA(a_small_taehv_encodes_like_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

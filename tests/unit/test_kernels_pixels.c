/* test_kernels_pixels.c - the decoder's first and last step: the soft clamp, the shuffle, float RGB and I420. */
#include "tests/unit/kernels_decoder.h"

/* n, h, w, p; all even pictures, so that they have I420 as well, but the last ones. */
static const int shapes[][4] = {{1, 2, 2, 1}, {1, 1, 1, 2}, {2, 3, 5, 2}, {3, 4, 6, 1}, {1, 1, 3, 4}, {2, 17, 9, 2}, {12, 20, 32, 2}, {1, 1, 1, 1}, {2, 3, 7, 3}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

typedef struct {
    float *rgb;
    uint8_t *i420;
} pictures;

static size_t pixels_of(const int s[4]) { return (size_t)(s[0] * s[1] * s[2] * s[3] * s[3]); }
static bool has_i420(const int s[4]) { return s[1] * s[3] % 2 == 0 && s[2] * s[3] % 2 == 0; }

static pictures run_pixels(sc_device *dev, const int s[4], const float *x, bool clamp) {
    sc_error err;
    pictures p = {guarded(pixels_of(s) * 12), has_i420(s) ? guarded(pixels_of(s) * 3 / 2) : NULL};
    assert_int_equal(dev->ops->pixels(dev, &(sc_pixels_args){.x = x, .rgb = p.rgb, .i420 = p.i420, .n = s[0], .h = s[1], .w = s[2], .p = s[3], .clamp = clamp}, &err), SC_OK);
    return p;
}

static void drop(const int s[4], pictures p) {
    guarded_free(p.rgb, pixels_of(s) * 12);
    if (p.i420) guarded_free(p.i420, pixels_of(s) * 3 / 2);
}

/* Values from -0.5 to 1.5: a quarter is clamped at either end. */
static float *picture(const int s[4]) {
    float *x = random_floats(pixels_of(s) * 3, 1);
    for (size_t i = 0; i < pixels_of(s) * 3; i++) x[i] += 0.5f;
    return x;
}

static void channels_become_the_pixels_of_a_patch(void **state) {
    devices *d = *state;
    for (int i = 0; i < SHAPES; i++) {
        const int *s = shapes[i], h = s[1], w = s[2], p = s[3];
        float *x = picture(s);
        for (int clamp = 0; clamp < 2; clamp++) {
            pictures got = run_pixels(d->twin, s, x, clamp);
            for (int n = 0; n < s[0]; n++)
                for (int y = 0; y < h; y++)
                    for (int c = 0; c < w; c++)
                        for (int k = 0; k < 3; k++)
                            for (int r = 0; r < p; r++)
                                for (int q = 0; q < p; q++) {
                                    float want = x[((n * h + y) * w + c) * 3 * p * p + k * p * p + r * p + q];
                                    if (clamp) want = fminf(fmaxf(want, 0), 1);
                                    assert_true(got.rgb[((n * 3 + k) * h * p + y * p + r) * w * p + c * p + q] == want);
                                }
            drop(s, got);
        }
        free(x);
    }
}

static void i420_is_full_range_bt601_of_the_clamped_picture(void **state) {
    devices *d = *state;
    for (int i = 0; i < SHAPES; i++) {
        const int *s = shapes[i], H = s[1] * s[3], W = s[2] * s[3];
        if (!has_i420(s)) continue;
        float *x = picture(s);
        pictures got = run_pixels(d->twin, s, x, true);
        for (int n = 0; n < s[0]; n++) {
            const float *rgb = got.rgb + n * 3 * H * W;
            const uint8_t *luma = got.i420 + n * H * W * 3 / 2;
            for (int y = 0; y < H; y++)
                for (int c = 0; c < W; c++) {
                    const double want = 255 * (0.299 * (double)rgb[y * W + c] + 0.587 * (double)rgb[(H + y) * W + c] + 0.114 * (double)rgb[(2 * H + y) * W + c]);
                    assert_true(fabs(luma[y * W + c] - want) <= 0.5001);
                }
            for (int y = 0; y < H / 2; y++)
                for (int c = 0; c < W / 2; c++) {
                    double cb = 0, cr = 0;
                    for (int q = 0; q < 4; q++) {
                        const int at = (2 * y + q / 2) * W + 2 * c + q % 2;
                        const double r = (double)rgb[at], g = (double)rgb[H * W + at], b = (double)rgb[2 * H * W + at], luminance = 0.299 * r + 0.587 * g + 0.114 * b;
                        cb += 0.25 * (128 + 255 * (b - luminance) / 1.772);
                        cr += 0.25 * (128 + 255 * (r - luminance) / 1.402);
                    }
                    assert_true(fabs(luma[H * W + y * W / 2 + c] - fmin(cb, 255)) <= 0.5001);
                    assert_true(fabs(luma[H * W * 5 / 4 + y * W / 2 + c] - fmin(cr, 255)) <= 0.5001);
                }
        }
        drop(s, got);
        free(x);
    }
}

static void primaries_have_the_known_codes(void **state) {
    devices *d = *state;
    static const struct { float rgb[3]; uint8_t yuv[3]; } known[] = {
        {{0, 0, 0}, {0, 128, 128}}, {{1, 1, 1}, {255, 128, 128}}, {{1, 0, 0}, {76, 85, 255}}, {{0, 1, 0}, {150, 44, 21}}, {{0, 0, 1}, {29, 255, 107}},
        {{-7, -1, 0}, {0, 128, 128}}, {{2, 99, 1}, {255, 128, 128}}, {{NAN, NAN, NAN}, {0, 128, 128}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const int s[4] = {1, 1, 1, 2};
        float x[12];
        for (int k = 0; k < 12; k++) x[k] = known[i].rgb[k / 4];
        pictures got = run_pixels(d->twin, s, x, true);
        for (int k = 0; k < 6; k++) assert_int_equal(got.i420[k], known[i].yuv[k < 4 ? 0 : k - 3]);
        drop(s, got);
    }
}

static void fast_pixels_are_the_twins_to_the_bit(void **state) {
    devices *d = *state;
    if (!d->fast) skip();
    for (int i = 0; i < SHAPES; i++)
        for (int clamp = 0; clamp < 2; clamp++) {
            float *x = picture(shapes[i]);
            pictures a = run_pixels(d->twin, shapes[i], x, clamp), b = run_pixels(d->fast, shapes[i], x, clamp);
            assert_memory_equal(a.rgb, b.rgb, pixels_of(shapes[i]) * 12);
            if (a.i420) assert_memory_equal(a.i420, b.i420, pixels_of(shapes[i]) * 3 / 2);
            drop(shapes[i], a);
            drop(shapes[i], b);
            free(x);
        }
}

static void either_output_may_be_left_out(void **state) {
    devices *d = *state;
    const int *s = shapes[2];
    sc_error err;
    float *x = picture(s);
    if (!d->fast) skip();
    for (int which = 0; which < 2; which++) {
        sc_device *dev = which ? d->fast : d->twin;
        pictures both = run_pixels(dev, s, x, false), each = {guarded(pixels_of(s) * 12), guarded(pixels_of(s) * 3 / 2)};
        assert_int_equal(dev->ops->pixels(dev, &(sc_pixels_args){.x = x, .rgb = each.rgb, .n = s[0], .h = s[1], .w = s[2], .p = s[3]}, &err), SC_OK);
        assert_int_equal(dev->ops->pixels(dev, &(sc_pixels_args){.x = x, .i420 = each.i420, .n = s[0], .h = s[1], .w = s[2], .p = s[3]}, &err), SC_OK);
        assert_memory_equal(both.rgb, each.rgb, pixels_of(s) * 12);
        assert_memory_equal(both.i420, each.i420, pixels_of(s) * 3 / 2);
        drop(s, both);
        drop(s, each);
    }
    free(x);
}

static void latents_are_clamped_softly_and_turned_to_nhwc(void **state) {
    devices *d = *state;
    static const int latents[][4] = {{1, 1, 1, 1}, {16, 3, 20, 32}, {3, 2, 5, 7}, {16, 1, 1, 3}}; /* ch, frames, h, w */
    if (!d->fast) skip();
    for (size_t i = 0; i < sizeof latents / sizeof *latents; i++) {
        const int ch = latents[i][0], frames = latents[i][1], h = latents[i][2], w = latents[i][3];
        const size_t count = (size_t)(ch * frames * h * w);
        float *z = random_floats(count, 8), *out[2];
        sc_error err;
        for (int which = 0; which < 2; which++) {
            sc_device *dev = which ? d->fast : d->twin;
            out[which] = guarded(count * 4);
            assert_int_equal(dev->ops->latent_in(dev, &(sc_latent_in_args){.latent = z, .out = out[which], .ch = ch, .frames = frames, .h = h, .w = w}, &err), SC_OK);
        }
        assert_memory_equal(out[0], out[1], count * 4);
        for (int c = 0; c < ch; c++)
            for (int f = 0; f < frames; f++)
                for (int p = 0; p < h * w; p++) {
                    const double want = 3 * tanh((double)z[(c * frames + f) * h * w + p] / 3);
                    assert_true(fabs((double)out[0][(f * h * w + p) * ch + c] - want) <= 1e-6);
                }
        guarded_free(out[0], count * 4);
        guarded_free(out[1], count * 4);
        free(z);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(channels_become_the_pixels_of_a_patch, setup_portable, teardown),
        cmocka_unit_test_setup_teardown(i420_is_full_range_bt601_of_the_clamped_picture, setup_portable, teardown),
        cmocka_unit_test_setup_teardown(primaries_have_the_known_codes, setup_portable, teardown),
        cmocka_unit_test_setup_teardown(fast_pixels_are_the_twins_to_the_bit, setup_portable, teardown),
        cmocka_unit_test_setup_teardown(either_output_may_be_left_out, setup_portable, teardown),
        cmocka_unit_test_setup_teardown(latents_are_clamped_softly_and_turned_to_nhwc, setup_portable, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_kernels_vae.c - the Wan VAE's operations: the twin against sums written out here in double, the fast path against the twin,
 * one frame at a time against all at once. */
#include "tests/unit/kernels_decoder.h"

typedef struct {
    int n, h, w, in, out, size, taps, stride, time_stride, split;
    bool pad_end, residual, bias;
} shape;

/* Awkward first: one pixel, one channel, one frame, primes, one off the tile of 4 and off the vectors of 4, 8 and 16, more frames
 * than one pass takes; then the layers of a small Wan VAE: 3x3x3, the doubling and the halving in time, the halving in space. */
static const shape shapes[] = {
    {1, 1, 1, 1, 1, 3, 3, 1, 1, 1, false, false, true},
    {1, 1, 1, 1, 1, 1, 3, 1, 1, 1, false, false, false},
    {1, 1, 1, 3, 2, 1, 3, 1, 1, 2, false, true, true},
    {2, 1, 7, 5, 7, 3, 3, 1, 1, 1, false, true, true},
    {1, 7, 1, 17, 13, 3, 3, 1, 1, 1, false, false, true},
    {3, 2, 2, 3, 33, 3, 2, 1, 1, 1, false, false, true},
    {4, 5, 3, 34, 31, 3, 3, 1, 1, 1, false, true, false},
    {19, 6, 5, 8, 12, 3, 3, 1, 1, 1, false, true, true},
    {3, 5, 7, 19, 22, 1, 3, 1, 1, 2, false, false, true},
    {5, 3, 2, 7, 21, 1, 2, 1, 1, 3, false, true, true},
    {4, 3, 5, 6, 11, 1, 3, 1, 2, 1, false, false, true},
    {5, 3, 5, 6, 5, 3, 3, 1, 2, 1, false, true, true},
    {2, 5, 3, 9, 4, 1, 1, 1, 2, 1, false, false, true},
    {3, 4, 6, 13, 37, 3, 1, 2, 1, 1, true, false, true},
    {2, 5, 7, 3, 5, 3, 1, 2, 1, 1, true, true, false},
    {2, 6, 8, 8, 8, 3, 3, 2, 1, 1, true, false, true},
    {2, 3, 3, 5, 6, 3, 3, 2, 1, 1, false, true, true},
    {2, 4, 6, 12, 5, 3, 1, 1, 1, 1, false, false, true},
    {4, 8, 12, 32, 32, 3, 3, 1, 1, 1, false, true, true},
    {2, 8, 12, 384, 40, 3, 3, 1, 1, 1, false, false, true}, /* few rows fit: weights from memory */
    {2, 8, 12, 32, 64, 1, 3, 1, 1, 2, false, false, true},
    {1, 16, 24, 96, 3, 3, 3, 1, 1, 1, false, false, true},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static int made(const shape *s) { return s->n / s->time_stride; }
static int halved(int length, int stride) { return (length + stride - 1) / stride; }
static size_t out_count(const shape *s) { return (size_t)made(s) * (size_t)halved(s->h, s->stride) * (size_t)halved(s->w, s->stride) * (size_t)s->out; }

typedef struct {
    float *x, *past, *residual, *weight, *bias;
} operands;

static operands make(const shape *s) {
    const size_t frame = (size_t)s->h * (size_t)s->w * (size_t)s->in;
    return (operands){random_floats((size_t)s->n * frame, 1), random_floats((size_t)(s->taps - 1) * frame, 1), random_floats(out_count(s), 1),
                      random_floats((size_t)s->out * (size_t)s->in * (size_t)(s->taps * s->size * s->size), 1), random_floats((size_t)s->out, 1)};
}

static void drop(operands *o) {
    free(o->x);
    free(o->past);
    free(o->residual);
    free(o->weight);
    free(o->bias);
}

static sc_filter *filter_of(sc_device *dev, const shape *s, const operands *o) {
    sc_filter *f;
    sc_error err;
    assert_int_equal(dev->ops->filter_create(dev, &f, &(sc_filter_desc){.out_ch = s->out, .in_ch = s->in, .size = s->size, .stride = s->stride, .taps = s->taps,
                                             .time_stride = s->time_stride, .pad_end = s->pad_end, .data = o->weight, .type = SC_F32,
                                             .bias = s->bias ? o->bias : NULL, .bias_type = SC_F32}, &err), SC_OK);
    return f;
}

/* Result of one convolution on `dev`, guarded. */
static float *run_conv(sc_device *dev, const shape *s, const operands *o) {
    sc_filter *f = filter_of(dev, s, o);
    sc_error err;
    float *out = guarded(out_count(s) * sizeof *out);
    assert_int_equal(dev->ops->conv3(dev, &(sc_conv3_args){.w = f, .x = o->x, .past = s->taps > 1 ? o->past : NULL, .residual = s->residual ? o->residual : NULL,
                                     .out = out, .n = s->n, .h = s->h, .w_px = s->w, .split = s->split}, &err), SC_OK);
    dev->ops->filter_destroy(dev, f);
    return out;
}

/* Value `at` of the output straight from the definition, in double. */
static double expected(const shape *s, const operands *o, size_t at) {
    const int group = s->out / s->split, oh = halved(s->h, s->stride), ow = halved(s->w, s->stride), pad = s->pad_end ? 0 : s->size / 2;
    const int within = (int)at % group, x = (int)at / group % ow, y = (int)at / group / ow % oh, frame = (int)at / group / ow / oh;
    const int c = frame % s->split * group + within, newest = (frame / s->split + 1) * s->time_stride - 1;
    double sum = s->bias ? (double)o->bias[c] : 0;
    for (int i = 0; i < s->in; i++)
        for (int t = 0; t < s->taps; t++)
            for (int ky = 0; ky < s->size; ky++)
                for (int kx = 0; kx < s->size; kx++) {
                    const int sy = y * s->stride + ky - pad, sx = x * s->stride + kx - pad, from = newest - s->taps + 1 + t;
                    if (sy < 0 || sx < 0 || sy >= s->h || sx >= s->w) continue;
                    const float *picture = from < 0 ? o->past + (from + s->taps - 1) * s->h * s->w * s->in : o->x + from * s->h * s->w * s->in;
                    sum += (double)o->weight[(((c * s->in + i) * s->taps + t) * s->size + ky) * s->size + kx] * (double)picture[(sy * s->w + sx) * s->in + i];
                }
    return s->residual ? sum + (double)o->residual[at] : sum;
}

/* Uniform operands: a sum of k products has the rms sqrt(k) / 3; the rounding of a chain of k sums grows like k once k is large. */
static double limit_of(const shape *s, double units) {
    const double k = s->in * s->taps * s->size * s->size;
    return units * sqrt(k) / 3 * sqrt(1 + k / 1000) + 1e-6;
}

static void the_twin_is_the_sum_over_the_frames_and_the_window(void **state) {
    devices *d = *state;
    for (int i = 0; i < SHAPES; i++) {
        const shape *s = &shapes[i];
        operands o = make(s);
        float *got = run_conv(d->twin, s, &o);
        for (size_t at = 0; at < out_count(s); at += 1 + out_count(s) / 3000) {
            const double want = expected(s, &o, at);
            if (!(fabs((double)got[at] - want) <= limit_of(s, 1e-5))) fail_msg("shape %d, value %zu: %g, not %g", i, at, (double)got[at], want);
        }
        guarded_free(got, out_count(s) * sizeof *got);
        drop(&o);
    }
}

static void the_fast_convolution_matches_the_twin(void **state) {
    devices *d = *state;
    if (!d->fast) skip();
    for (int i = 0; i < SHAPES; i++) {
        char what[64];
        operands o = make(&shapes[i]);
        float *want = run_conv(d->twin, &shapes[i], &o), *got = run_conv(d->fast, &shapes[i], &o);
        snprintf(what, sizeof what, "%s, shape %d", d->isa, i);
        assert_close(what, got, want, out_count(&shapes[i]), limit_of(&shapes[i], 2e-5));
        guarded_free(want, out_count(&shapes[i]) * sizeof *want);
        guarded_free(got, out_count(&shapes[i]) * sizeof *got);
        drop(&o);
    }
}

/* A stream brings its frames in any portions; every shape without a stride in time, frame by frame with the past carried along. */
static void frames_one_by_one_give_the_same_bits(void **state) {
    devices *d = *state;
    if (!d->fast) skip();
    for (int which = 0; which < 2; which++)
        for (int i = 0; i < SHAPES; i++) {
            const shape *s = &shapes[i];
            sc_device *dev = which ? d->fast : d->twin;
            const size_t frame = (size_t)s->h * (size_t)s->w * (size_t)s->in, count = out_count(s), part = count / (size_t)made(s);
            sc_error err;
            if (s->time_stride > 1) continue;
            operands o = make(s);
            sc_filter *f = filter_of(dev, s, &o);
            float *whole = run_conv(dev, s, &o), *pieces = guarded(count * sizeof *pieces), *past = guarded(2 * frame * sizeof *past);
            for (int k = 0; k < s->n; k++) {
                for (int t = 0; t < s->taps - 1; t++) {
                    const int from = k - (s->taps - 1) + t;
                    memcpy(past + (size_t)t * frame, from < 0 ? o.past + (size_t)(from + s->taps - 1) * frame : o.x + (size_t)from * frame, frame * sizeof *past);
                }
                assert_int_equal(dev->ops->conv3(dev, &(sc_conv3_args){.w = f, .x = o.x + (size_t)k * frame, .past = s->taps > 1 ? past : NULL,
                                                 .residual = s->residual ? o.residual + (size_t)k * part : NULL, .out = pieces + (size_t)k * part, .n = 1,
                                                 .h = s->h, .w_px = s->w, .split = s->split}, &err), SC_OK);
            }
            assert_memory_equal(whole, pieces, count * sizeof *whole);
            dev->ops->filter_destroy(dev, f);
            guarded_free(whole, count * sizeof *whole);
            guarded_free(pieces, count * sizeof *pieces);
            guarded_free(past, 2 * frame * sizeof *past);
            drop(&o);
        }
}

static void results_do_not_depend_on_the_number_of_threads(void **state) {
    devices *d = *state;
    if (!d->fast) skip();
    sc_device *one = open_fast(d->isa, 1), *five = open_fast(d->isa, 5);
    assert_non_null(one);
    assert_non_null(five);
    for (int i = 0; i < SHAPES; i++) {
        const size_t bytes = out_count(&shapes[i]) * sizeof(float);
        operands o = make(&shapes[i]);
        float *a = run_conv(one, &shapes[i], &o), *b = run_conv(five, &shapes[i], &o);
        assert_memory_equal(a, b, bytes);
        guarded_free(a, bytes);
        guarded_free(b, bytes);
        drop(&o);
    }
    sc_device_close(one);
    sc_device_close(five);
}

/* ---- with a norm behind it, doubled --------------------------------------------------------------------------------------- */

typedef enum { OUT, OUT_AND_NORM, IN_PLACE_AND_NORM, NORM } outputs;

/* What is left in out (NULL for NORM) and in the norm's, one behind the other. */
static float *run_then(sc_device *dev, const shape *s, const operands *o, const float *gamma, bool silu, outputs made) {
    const size_t count = out_count(s);
    sc_filter *f = filter_of(dev, s, o);
    float *out = guarded(2 * count * sizeof *out);
    sc_error err;
    memcpy(out, o->residual, count * sizeof *out);
    const sc_channel_norm_args norm = {.out = out + count, .gamma = gamma, .silu = silu};
    assert_int_equal(dev->ops->conv3(dev, &(sc_conv3_args){.w = f, .x = o->x, .past = s->taps > 1 ? o->past : NULL,
                                     .residual = !s->residual ? NULL : made == IN_PLACE_AND_NORM ? out : o->residual, .out = made == NORM ? NULL : out, .n = s->n, .h = s->h,
                                     .w_px = s->w, .split = s->split, .then = made == OUT ? NULL : &norm}, &err), SC_OK);
    dev->ops->filter_destroy(dev, f);
    return out;
}

static void a_norm_behind_a_convolution_is_the_one_then_the_other(void **state) {
    devices *d = *state;
    if (!d->fast) skip();
    for (int which = 0; which < 2; which++)
        for (int i = 0; i < SHAPES; i++)
            for (int silu = 0; silu < 2; silu++) {
                const shape *s = &shapes[i];
                sc_device *dev = which ? d->fast : d->twin;
                const size_t count = out_count(s), ch = (size_t)(s->out / s->split);
                operands o = make(s);
                float *gamma = random_floats(ch, 1), *want = run_then(dev, s, &o, gamma, silu, OUT);
                sc_error err;
                assert_int_equal(dev->ops->channel_norm(dev, &(sc_channel_norm_args){want, want + count, gamma, count / ch, (int)ch, silu}, &err), SC_OK);
                for (outputs made = OUT_AND_NORM; made <= NORM; made++) {
                    float *got = run_then(dev, s, &o, gamma, silu, made);
                    if (made == NORM) assert_memory_equal(got, o.residual, count * sizeof *got); /* nobody's */
                    else assert_memory_equal(got, want, count * sizeof *got);
                    assert_memory_equal(got + count, want + count, count * sizeof *got);
                    guarded_free(got, 2 * count * sizeof *got);
                }
                guarded_free(want, 2 * count * sizeof *want);
                free(gamma);
                drop(&o);
            }
}

static void a_doubled_picture_is_every_pixel_four_times(void **state) {
    static const shape small[] = {{1, 1, 1, 1, 1, 3, 1, 1, 1, 1, false, false, true}, {2, 3, 5, 7, 9, 3, 1, 1, 1, 1, false, false, true}, {1, 8, 5, 32, 17, 3, 1, 1, 1, 1, false, false, false}};
    devices *d = *state;
    if (!d->fast) skip();
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        shape large = small[i];
        large.h *= 2, large.w *= 2;
        operands o = make(&small[i]), twice = o;
        const size_t count = out_count(&large), in = (size_t)small[i].in;
        twice.x = random_floats((size_t)(large.n * large.h * large.w) * in, 1);
        for (int p = 0; p < large.n * large.h * large.w; p++) {
            const int x = p % large.w, y = p / large.w % large.h, frame = p / large.w / large.h;
            memcpy(twice.x + (size_t)p * in, o.x + (size_t)((frame * small[i].h + y / 2) * small[i].w + x / 2) * in, in * sizeof(float));
        }
        float *want = run_conv(d->twin, &large, &twice);
        for (int which = 0; which < 2; which++) {
            sc_device *dev = which ? d->fast : d->twin;
            sc_filter *f = filter_of(dev, &small[i], &o);
            float *got = guarded(count * sizeof *got);
            sc_error err;
            assert_int_equal(dev->ops->conv3(dev, &(sc_conv3_args){.w = f, .x = o.x, .out = got, .n = large.n, .h = small[i].h, .w_px = small[i].w, .upsample = true}, &err), SC_OK);
            assert_close("doubled", got, want, count, limit_of(&large, which ? 2e-5 : 1e-9));
            dev->ops->filter_destroy(dev, f);
            guarded_free(got, count * sizeof *got);
        }
        guarded_free(want, count * sizeof *want);
        free(twice.x);
        drop(&o);
    }
}

/* ---- norm, attention, planes -------------------------------------------------------------------------------------------- */

static void the_norm_divides_by_the_length_of_a_pixel(void **state) {
    static const struct { int rows, ch; float size; } cases[] = {{1, 1, 1}, {3, 1, 1e-14f}, {1, 7, 1}, {2, 16, 0}, {65, 17, 1e-3f}, {64, 33, 3e-13f}, {7, 96, 40}, {130, 384, 1}};
    devices *d = *state;
    if (!d->fast) skip();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int silu = 0; silu < 2; silu++) {
            const size_t ch = (size_t)cases[i].ch, count = (size_t)cases[i].rows * ch;
            float *x = random_floats(count, cases[i].size), *gamma = random_floats(ch, 2), *got[2];
            for (int which = 0; which < 2; which++) {
                sc_device *dev = which ? d->fast : d->twin;
                sc_error err;
                got[which] = guarded(count * sizeof(float));
                assert_int_equal(dev->ops->channel_norm(dev, &(sc_channel_norm_args){.x = x, .out = got[which], .gamma = gamma, .rows = (size_t)cases[i].rows,
                                                        .ch = cases[i].ch, .silu = silu}, &err), SC_OK);
            }
            for (size_t at = 0; at < count; at++) {
                double square = 0;
                for (size_t c = 0; c < ch; c++) square += (double)x[at / ch * ch + c] * (double)x[at / ch * ch + c];
                double want = (double)x[at] / fmax(sqrt(square), 1e-12) * sqrt((double)ch) * (double)gamma[at % ch];
                if (silu) want /= 1 + exp(-want);
                if (!(fabs((double)got[0][at] - want) <= 1e-6 * sqrt((double)ch))) fail_msg("case %zu, value %zu: %g, not %g", i, at, (double)got[0][at], want);
            }
            assert_close("norm", got[1], got[0], count, 2e-6 * sqrt((double)ch));
            guarded_free(got[0], count * sizeof(float));
            guarded_free(got[1], count * sizeof(float));
            free(x);
            free(gamma);
        }
}

static void attention_stays_inside_its_frame(void **state) {
    static const struct { int n, pixels, ch; } cases[] = {{1, 1, 1}, {2, 1, 5}, {3, 2, 8}, {2, 63, 7}, {1, 64, 16}, {2, 65, 17}, {1, 129, 96}, {3, 24, 32}, {1, 70, 384}};
    devices *d = *state;
    if (!d->fast) skip();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const size_t ch = (size_t)cases[i].ch, pixels = (size_t)cases[i].pixels, count = (size_t)cases[i].n * pixels * ch;
        float *qkv = random_floats(3 * count, 2), *got[2];
        double *p = malloc(pixels * sizeof *p);
        assert_non_null(p);
        for (int which = 0; which < 2; which++) {
            sc_device *dev = which ? d->fast : d->twin;
            sc_error err;
            got[which] = guarded(count * sizeof(float));
            assert_int_equal(dev->ops->frame_attention(dev, &(sc_frame_attention_args){.qkv = qkv, .out = got[which], .n = cases[i].n, .pixels = cases[i].pixels,
                                                       .ch = cases[i].ch}, &err), SC_OK);
        }
        for (size_t at = 0; at < count; at += 1 + count / 500) {
            const float *frame = qkv + at / ch / pixels * pixels * 3 * ch, *q = frame + at / ch % pixels * 3 * ch;
            double total = 0, want = 0;
            for (size_t j = 0; j < pixels; j++) {
                double s = 0;
                for (size_t c = 0; c < ch; c++) s += (double)q[c] * (double)frame[j * 3 * ch + ch + c];
                total += p[j] = exp(s / sqrt((double)ch));
            }
            for (size_t j = 0; j < pixels; j++) want += p[j] / total * (double)frame[j * 3 * ch + 2 * ch + at % ch];
            if (!(fabs((double)got[0][at] - want) <= 2e-6)) fail_msg("case %zu, value %zu: %g, not %g", i, at, (double)got[0][at], want);
        }
        assert_close("attention", got[1], got[0], count, 5e-6);
        guarded_free(got[0], count * sizeof(float));
        guarded_free(got[1], count * sizeof(float));
        free(qkv);
        free(p);
    }
}

static void planes_become_pixels_with_channels_scaled(void **state) {
    static const struct { int ch, frames, first, n, h, w; } cases[] = {{1, 1, 0, 1, 1, 1}, {3, 5, 2, 2, 3, 7}, {16, 4, 0, 4, 4, 6}, {17, 3, 2, 1, 5, 1}};
    devices *d = *state;
    if (!d->fast) skip();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int scaled = 0; scaled < 2; scaled++) {
            const int px = cases[i].h * cases[i].w, ch = cases[i].ch;
            const size_t count = (size_t)(cases[i].n * px * ch);
            float *planes = random_floats((size_t)(ch * cases[i].frames * px), 3), *scale = random_floats((size_t)ch, 2), *shift = random_floats((size_t)ch, 1);
            for (int which = 0; which < 2; which++) {
                sc_device *dev = which ? d->fast : d->twin;
                float *got = guarded(count * sizeof *got);
                sc_error err;
                assert_int_equal(dev->ops->planes_in(dev, &(sc_planes_in_args){.planes = planes, .scale = scaled ? scale : NULL, .shift = scaled ? shift : NULL, .out = got,
                                                     .ch = ch, .frames = cases[i].frames, .first = cases[i].first, .n = cases[i].n, .h = cases[i].h, .w = cases[i].w},
                                                     &err), SC_OK);
                for (int at = 0; at < (int)count; at++) {
                    const int c = at % ch, frame = cases[i].first + at / ch / px;
                    const float x = planes[(c * cases[i].frames + frame) * px + at / ch % px];
                    assert_true(fabs((double)got[at] - (scaled ? (double)x * (double)scale[c] + (double)shift[c] : (double)x)) <= 1e-6);
                }
                guarded_free(got, count * sizeof *got);
            }
            free(planes);
            free(scale);
            free(shift);
        }
}

/* Pixels that run from -1 to 1 are the same pictures as their halves moved up by a half. */
static void centred_pixels_are_moved_to_the_unit_range(void **state) {
    devices *d = *state;
    if (!d->fast) skip();
    enum { N = 2, H = 4, W = 6, VALUES = N * H * W * 3, YUV = N * H * W * 3 / 2 };
    float *x = random_floats(VALUES, 1.3f), unit[VALUES];
    for (int i = 0; i < VALUES; i++) unit[i] = x[i] * 0.5f + 0.5f;
    for (int which = 0; which < 2; which++) {
        sc_device *dev = which ? d->fast : d->twin;
        float *rgb[2];
        uint8_t *yuv[2];
        sc_error err;
        for (int c = 0; c < 2; c++) {
            rgb[c] = guarded(VALUES * sizeof(float));
            yuv[c] = guarded(YUV);
            assert_int_equal(dev->ops->pixels(dev, &(sc_pixels_args){.x = c ? x : unit, .rgb = rgb[c], .i420 = yuv[c], .n = N, .h = H, .w = W, .p = 1, .centred = c},
                                              &err), SC_OK);
        }
        assert_memory_equal(rgb[0], rgb[1], VALUES * sizeof(float));
        assert_memory_equal(yuv[0], yuv[1], YUV);
        for (int c = 0; c < 2; c++) {
            guarded_free(rgb[c], VALUES * sizeof(float));
            guarded_free(yuv[c], YUV);
        }
    }
    free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_twin_is_the_sum_over_the_frames_and_the_window, setup_portable, teardown),
        EVERY_ISA(a_norm_behind_a_convolution_is_the_one_then_the_other),
        EVERY_ISA(a_doubled_picture_is_every_pixel_four_times),
        EVERY_ISA(the_fast_convolution_matches_the_twin),
        EVERY_ISA(frames_one_by_one_give_the_same_bits),
        EVERY_ISA(results_do_not_depend_on_the_number_of_threads),
        EVERY_ISA(the_norm_divides_by_the_length_of_a_pixel),
        EVERY_ISA(attention_stays_inside_its_frame),
        EVERY_ISA(planes_become_pixels_with_channels_scaled),
        EVERY_ISA(centred_pixels_are_moved_to_the_unit_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

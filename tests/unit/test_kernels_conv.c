/* test_kernels_conv.c - convolution, grow and pool: the twin against sums written out here, the fast path against the twin. */
#include "tests/unit/kernels_decoder.h"

typedef struct {
    int n, h, w, in, out, size, stride; /* in counts both halves */
    bool past, up, residual, relu, bias;
} shape;

/* Awkward first: one pixel, one channel, primes, one off the tile of 4 and off the vectors of 4, 8 and 16; then real ones. */
static const shape shapes[] = {
    {1, 1, 1, 1, 1, 3, 1, false, false, false, false, true},
    {1, 1, 1, 1, 1, 1, 1, false, false, false, false, false},
    {1, 1, 1, 2, 1, 3, 1, true, false, true, true, true},
    {2, 1, 1, 1, 3, 3, 2, false, false, false, false, true},
    {3, 1, 7, 5, 7, 3, 1, false, false, true, false, true},
    {2, 7, 1, 17, 13, 3, 1, false, false, false, true, true},
    {1, 2, 2, 3, 33, 3, 1, false, true, false, false, true},
    {2, 1, 1, 3, 2, 3, 1, false, true, true, true, true},
    {3, 5, 3, 34, 31, 3, 1, true, true, true, true, true},
    {2, 3, 5, 6, 5, 3, 2, true, true, true, true, true},
    {4, 4, 4, 16, 16, 3, 1, false, false, false, true, false},
    {5, 8, 9, 30, 15, 3, 1, true, false, true, true, true},
    {2, 9, 11, 13, 37, 3, 2, false, false, false, false, true},
    {2, 8, 6, 16, 48, 3, 2, true, false, true, true, false},
    {3, 7, 5, 19, 23, 1, 1, false, false, true, true, true},
    {2, 5, 7, 22, 17, 1, 1, true, false, false, false, true},
    {2, 5, 7, 11, 3, 1, 2, false, true, false, false, true},
    {2, 6, 6, 64, 12, 1, 1, false, false, false, false, true},
    {19, 6, 5, 8, 12, 3, 1, true, false, true, true, true}, /* more frames than one pass takes */
    {1, 13, 17, 128, 96, 3, 1, false, true, false, false, false},
    {3, 20, 32, 256, 128, 3, 1, true, false, true, true, true},
    {2, 40, 24, 64, 32, 3, 1, true, false, false, true, true},
    {1, 6, 6, 257, 9, 3, 2, false, false, false, false, true},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static int out_size(int length, bool up, int stride) { return (length * (up ? 2 : 1) - 1) / stride + 1; }
static size_t out_count(const shape *s) { return (size_t)s->n * (size_t)out_size(s->h, s->up, s->stride) * (size_t)out_size(s->w, s->up, s->stride) * (size_t)s->out; }

typedef struct {
    float *x, *past, *residual, *weight, *bias;
} operands;

static operands make(const shape *s) {
    const size_t frame = (size_t)s->h * (size_t)s->w * (size_t)(s->past ? s->in / 2 : s->in);
    return (operands){random_floats((size_t)s->n * frame, 1), random_floats(frame, 1), random_floats(out_count(s), 1),
                      random_floats((size_t)s->out * (size_t)s->in * (size_t)(s->size * s->size), 1), random_floats((size_t)s->out, 1)};
}

static void drop(operands *o) {
    free(o->x);
    free(o->past);
    free(o->residual);
    free(o->weight);
    free(o->bias);
}

/* Result of one convolution on `dev`, guarded; the residual's last frame is kept beside. */
static float *run_conv(sc_device *dev, const shape *s, const operands *o) {
    sc_filter *f;
    sc_error err;
    const size_t kept = out_count(s) / (size_t)s->n;
    float *out = guarded(out_count(s) * sizeof *out), *keep = s->residual ? guarded(kept * sizeof *keep) : NULL;
    assert_int_equal(dev->ops->filter_create(dev, &f, &(sc_filter_desc){.out_ch = s->out, .in_ch = s->in, .size = s->size, .stride = s->stride, .has_past = s->past,
                                             .data = o->weight, .type = SC_F32, .bias = s->bias ? o->bias : NULL, .bias_type = SC_F32}, &err), SC_OK);
    assert_int_equal(dev->ops->conv(dev, &(sc_conv_args){.w = f, .x = o->x, .past = s->past ? o->past : NULL, .residual = s->residual ? o->residual : NULL, .out = out, .keep = keep,
                                    .n = s->n, .h = s->h, .w_px = s->w, .relu = s->relu, .upsample = s->up}, &err), SC_OK);
    dev->ops->filter_destroy(dev, f);
    if (keep) {
        assert_memory_equal(keep, o->residual + (size_t)(s->n - 1) * kept, kept * sizeof *keep);
        guarded_free(keep, kept * sizeof *keep);
    }
    return out;
}

/* One output value straight from the definition, in double. */
static double expected(const shape *s, const operands *o, int n, int y, int x, int c) {
    const int up = s->up ? 2 : 1, ch = s->past ? s->in / 2 : s->in, pad = s->size / 2;
    const int oh = out_size(s->h, s->up, s->stride), ow = out_size(s->w, s->up, s->stride);
    double sum = s->bias ? (double)o->bias[c] : 0;
    for (int i = 0; i < s->in; i++)
        for (int ky = 0; ky < s->size; ky++)
            for (int kx = 0; kx < s->size; kx++) {
                int sy = y * s->stride + ky - pad, sx = x * s->stride + kx - pad, frame = i < ch ? n : n - 1;
                if (sy < 0 || sx < 0 || sy >= s->h * up || sx >= s->w * up) continue;
                const float *picture = frame < 0 ? o->past : o->x + (size_t)frame * (size_t)(s->h * s->w * ch);
                sum += (double)o->weight[((c * s->in + i) * s->size + ky) * s->size + kx] * (double)picture[(sy / up * s->w + sx / up) * ch + i % ch];
            }
    if (s->residual) sum += (double)o->residual[((n * oh + y) * ow + x) * s->out + c];
    return s->relu && sum < 0 ? 0 : sum;
}

/* Uniform operands: a sum of k products has the rms sqrt(k) / 3. */
static double limit_of(const shape *s, double units) { return units * sqrt((double)(s->in * s->size * s->size)) / 3 + 1e-6; }

static void the_twin_is_the_sum_over_the_window(void **state) {
    devices *d = *state;
    for (int i = 0; i < SHAPES; i++) {
        const shape *s = &shapes[i];
        operands o = make(s);
        float *got = run_conv(d->twin, s, &o);
        const int oh = out_size(s->h, s->up, s->stride), ow = out_size(s->w, s->up, s->stride);
        for (size_t at = 0; at < out_count(s); at += 1 + out_count(s) / 4000) {
            const int c = (int)at % s->out, x = (int)at / s->out % ow, y = (int)at / s->out / ow % oh, n = (int)at / s->out / ow / oh;
            const double want = expected(s, &o, n, y, x, c);
            if (!(fabs((double)got[at] - want) <= limit_of(s, 1e-5))) fail_msg("shape %d [%d][%d][%d][%d]: %g, not %g", i, n, y, x, c, (double)got[at], want);
        }
        guarded_free(got, out_count(s) * sizeof *got);
        drop(&o);
    }
}

static void the_fast_path_matches_the_twin_on_awkward_shapes(void **state) {
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

static void results_do_not_depend_on_the_number_of_threads(void **state) {
    devices *d = *state;
    if (!d->fast) skip();
    sc_device *one = open_fast(d->isa, 1), *five = open_fast(d->isa, 5);
    assert_non_null(one);
    assert_non_null(five);
    for (int i = 0; i < SHAPES; i++) {
        const size_t bytes = out_count(&shapes[i]) * sizeof(float);
        operands o = make(&shapes[i]);
        float *a = run_conv(one, &shapes[i], &o), *b = run_conv(five, &shapes[i], &o), *c = run_conv(five, &shapes[i], &o);
        assert_memory_equal(a, b, bytes);
        assert_memory_equal(b, c, bytes);
        guarded_free(a, bytes);
        guarded_free(b, bytes);
        guarded_free(c, bytes);
        drop(&o);
    }
    sc_device_close(one);
    sc_device_close(five);
}

static void relu_lets_nan_through(void **state) {
    devices *d = *state;
    if (!d->fast) skip();
    const shape s = {1, 4, 4, 16, 16, 3, 1, false, false, false, true, true};
    operands o = make(&s);
    o.bias[3] = NAN;
    float *want = run_conv(d->twin, &s, &o), *got = run_conv(d->fast, &s, &o);
    assert_true(isnan(want[3]));
    assert_close("nan", got, want, out_count(&s), limit_of(&s, 2e-5));
    guarded_free(want, out_count(&s) * sizeof *want);
    guarded_free(got, out_count(&s) * sizeof *got);
    drop(&o);
}

static void half_precision_weights_read_like_their_values(void **state) {
    devices *d = *state;
    if (!d->fast) skip();
    uint16_t f16[9] = {0x3c00, 0xbc00, 0x0001, 0x8000, 0x4000, 0x3800, 0x0400, 0x7bff, 0x3555}, bf16[9], bias = 0x3f80;
    float x[9], out[9];
    sc_error err;
    for (int i = 0; i < 9; i++) x[i] = (float)(i + 1);
    for (int i = 0; i < 9; i++) bf16[i] = (uint16_t)(0x3f80 + i);
    for (int type = 0; type < 2; type++) {
        sc_filter *f;
        double want = 1;
        for (int i = 0; i < 9; i++) want += (double)(type ? sc_from_bf16(bf16[i]) : sc_from_f16(f16[i])) * (double)x[i];
        assert_int_equal(d->fast->ops->filter_create(d->fast, &f, &(sc_filter_desc){.out_ch = 1, .in_ch = 1, .size = 3, .stride = 1, .data = type ? bf16 : f16,
                                                     .type = type ? SC_BF16 : SC_F16, .bias = &bias, .bias_type = SC_BF16}, &err), SC_OK);
        assert_int_equal(d->fast->ops->conv(d->fast, &(sc_conv_args){.w = f, .x = x, .out = out, .n = 1, .h = 3, .w_px = 3}, &err), SC_OK);
        assert_true(fabs((double)out[4] - want) <= 1e-5 * fabs(want));
        d->fast->ops->filter_destroy(d->fast, f);
    }
    d->fast->ops->filter_destroy(d->fast, NULL);
}

/* n, h, w, channels of a frame, s, and for pool the channels of the output. */
static const int frames_of[][5] = {{1, 1, 1, 1, 1}, {1, 1, 1, 1, 2}, {2, 3, 5, 7, 3}, {3, 4, 4, 16, 1}, {2, 5, 3, 33, 2}, {1, 7, 11, 12, 4}, {3, 10, 8, 96, 2}};

static void grow_deals_channel_groups_to_frames_and_pool_stacks_them(void **state) {
    devices *d = *state;
    if (!d->fast) skip();
    for (size_t i = 0; i < sizeof frames_of / sizeof *frames_of; i++) {
        const int n = frames_of[i][0], h = frames_of[i][1], w = frames_of[i][2], c = frames_of[i][3], s = frames_of[i][4], px = h * w;
        const size_t many = (size_t)(n * s * px * c), few = (size_t)(n * px * c);
        float *weight = random_floats((size_t)(s * c * c), 1), *bias = random_floats((size_t)(s * c), 1), *x = random_floats(many, 1);
        for (int pool = 0; pool < 2; pool++) {
            const size_t count = pool ? few : many;
            float *got[2];
            for (int which = 0; which < 2; which++) {
                sc_device *dev = which ? d->fast : d->twin;
                sc_filter *f;
                sc_error err;
                got[which] = guarded(count * sizeof(float));
                assert_int_equal(dev->ops->filter_create(dev, &f, &(sc_filter_desc){.out_ch = pool ? c : s * c, .in_ch = pool ? s * c : c, .size = 1, .stride = 1,
                                                         .data = weight, .type = SC_F32, .bias = bias, .bias_type = SC_F32}, &err), SC_OK);
                assert_int_equal((pool ? dev->ops->pool : dev->ops->grow)(dev, &(sc_grow_args){.w = f, .x = x, .out = got[which], .n = n, .h = h, .w_px = w, .s = s}, &err), SC_OK);
                dev->ops->filter_destroy(dev, f);
            }
            for (size_t at = 0; at < count; at++) { /* the definition */
                const int o = (int)at % c, p = (int)at / c % px, frame = (int)at / c / px;
                double want = (double)bias[pool ? o : frame % s * c + o];
                for (int k = 0; k < (pool ? s * c : c); k++)
                    want += pool ? (double)weight[o * s * c + k] * (double)x[((frame * s + k / c) * px + p) * c + k % c]
                                 : (double)weight[(frame % s * c + o) * c + k] * (double)x[(frame / s * px + p) * c + k];
                assert_true(fabs((double)got[0][at] - want) <= 1e-5 * sqrt((double)(s * c)) + 1e-6);
            }
            assert_close(pool ? "pool" : "grow", got[1], got[0], count, 1e-5 * sqrt((double)(s * c)) + 1e-6);
            guarded_free(got[0], count * sizeof(float));
            guarded_free(got[1], count * sizeof(float));
        }
        free(weight);
        free(bias);
        free(x);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_twin_is_the_sum_over_the_window, setup_portable, teardown),
        EVERY_ISA(the_fast_path_matches_the_twin_on_awkward_shapes),
        EVERY_ISA(results_do_not_depend_on_the_number_of_threads),
        EVERY_ISA(relu_lets_nan_through),
        EVERY_ISA(half_precision_weights_read_like_their_values),
        EVERY_ISA(grow_deals_channel_groups_to_frames_and_pool_stacks_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

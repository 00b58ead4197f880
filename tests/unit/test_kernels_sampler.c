/* test_kernels_sampler.c - noise against the published answers of Philox and the moments of a normal, the denoising step against the
 * reference scheduler's values. */
#include "engine/safetensors.h"
#include "kernels/cpu/conv.h"
#include "tests/unit/kernels_decoder.h"

static void philox_gives_the_published_answers(void **state) {
    /* Random123's kat_vectors, philox4x32-10: counter, key, answer. */
    static const uint32_t known[][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        sc_philox(out, known[i], known[i] + 4);
        assert_memory_equal(out, known[i] + 6, sizeof out);
    }
}

static float *noise_of(sc_device *dev, size_t count, uint64_t seed, uint64_t chunk, uint32_t step) {
    sc_error err;
    float *out = guarded(count * sizeof *out);
    assert_int_equal(dev->ops->noise(dev, &(sc_noise_args){.out = out, .count = count, .seed = seed, .chunk = chunk, .step = step}, &err), SC_OK);
    return out;
}

static void noise_follows_the_formula_of_its_counter(void **state) {
    devices *d = *state;
    const uint64_t seed = 0x299f31d0a4093822, chunk = 0x0370734413198a2e;
    const uint32_t step = 0x85a308d3;
    float *got = noise_of(d->twin, 11, seed, chunk, step);
    for (uint32_t i = 0; i < 11; i++) {
        const uint32_t counter[4] = {i / 4, step, 0x13198a2e, 0x03707344}, key[2] = {0xa4093822, 0x299f31d0};
        uint32_t w[4];
        sc_philox(w, counter, key);
        const double u1 = (w[i % 4 / 2 * 2] + 1.0) / 4294967296.0, angle = 2 * 3.14159265358979323846 * w[i % 4 / 2 * 2 + 1] / 4294967296.0;
        const double want = sqrt(-2 * log(u1)) * (i % 2 ? sin(angle) : cos(angle));
        assert_true(fabs((double)got[i] - want) <= 1e-6 * fabs(want) + 1e-7);
    }
    guarded_free(got, 11 * sizeof *got);
}

static void fast_noise_is_the_twins_to_the_bit(void **state) {
    devices *d = *state;
    static const size_t counts[] = {0, 1, 2, 3, 4, 5, 7, 2047, 2048, 2049, 4097, 30720};
    if (!d->fast) skip();
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const size_t bytes = counts[i] * sizeof(float);
        float *a = noise_of(d->twin, counts[i], 42 + i, i << 33, (uint32_t)i), *b = noise_of(d->fast, counts[i], 42 + i, i << 33, (uint32_t)i);
        assert_memory_equal(a, b, bytes);
        guarded_free(a, bytes);
        guarded_free(b, bytes);
    }
}

static void noise_is_normal(void **state) {
    devices *d = *state;
    enum { N = 1 << 20 };
    float *x = noise_of(d->twin, N, 7, 3, 1);
    double sum[5] = {0}, pairs = 0;
    size_t within = 0;
    for (size_t i = 0; i < N; i++) {
        double p = 1;
        for (int k = 1; k < 5; k++) sum[k] += p *= (double)x[i];
        within += fabsf(x[i]) < 1;
        if (i) pairs += (double)x[i] * (double)x[i - 1];
    }
    /* five standard errors each: var of x, x^2, x^3, x^4 = 1, 2, 15, 96 */
    assert_true(fabs(sum[1] / N) < 5 * sqrt(1.0 / N));
    assert_true(fabs(sum[2] / N - 1) < 5 * sqrt(2.0 / N));
    assert_true(fabs(sum[3] / N) < 5 * sqrt(15.0 / N));
    assert_true(fabs(sum[4] / N - 3) < 5 * sqrt(96.0 / N));
    assert_true(fabs(pairs / N) < 5 * sqrt(1.0 / N));
    assert_true(fabs((double)within / N - 0.682689492137086) < 5 * sqrt(0.6827 * 0.3173 / N));
    guarded_free(x, N * sizeof *x);
}

static void seed_chunk_and_step_each_change_the_noise(void **state) {
    devices *d = *state;
    float *base = noise_of(d->twin, 64, 1, 1, 1);
    const uint64_t other[][3] = {{2, 1, 1}, {1 + (1ull << 32), 1, 1}, {1, 2, 1}, {1, 1 + (1ull << 32), 1}, {1, 1, 2}};
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        float *x = noise_of(d->twin, 64, other[i][0], other[i][1], (uint32_t)other[i][2]);
        for (int k = 0; k < 64; k++) assert_true(x[k] != base[k]);
        guarded_free(x, 64 * sizeof *x);
    }
    guarded_free(base, 64 * sizeof *base);
}

static void denoise_gives_the_reference_schedulers_values(void **state) {
    devices *d = *state;
    const char *path = SC_SOURCE_DIR "/tests/vectors/scheduler.safetensors";
    sc_tensors *set;
    sc_error err;
    if (!d->fast) skip();
    if (sc_tensors_open(&set, &path, 1, &err)) fail_msg("%s", err.text);
    for (int which = 0; which < 2; which++)
        for (int shift = 5; shift <= 8; shift += 3) {
            sc_device *dev = which ? d->fast : d->twin;
            char name[64];
            const sc_tensor *t[7];
            static const char *const names[] = {"in.x0", "in.noise", "in.flow", "in.xt", "out.shift%d.sigma_t", "out.shift%d.x0_from_flow", "out.shift%d.add_noise"};
            float *v[7];
            for (int i = 0; i < 7; i++) {
                snprintf(name, sizeof name, names[i], shift);
                t[i] = sc_tensors_find(set, name);
                if (!t[i]) fail_msg("%s lacks %s", path, name);
                v[i] = sc_tensor_to_f32(t[i]);
                assert_non_null(v[i]);
            }
            const size_t rows = (size_t)t[4]->count, each = (size_t)(t[0]->count / t[4]->count);
            for (size_t r = 0; r < rows; r++) {
                float *x = guarded(each * 4), *x0 = guarded(each * 4), *zero = calloc(each, 4);
                assert_non_null(zero);
                memcpy(x, v[3] + r * each, each * 4);
                assert_int_equal(dev->ops->denoise(dev, &(sc_denoise_args){.x = x, .flow = v[2] + r * each, .x0 = x0, .count = each, .sigma = (double)v[4][r],
                                                   .next_sigma = -1}, &err), SC_OK);
                assert_memory_equal(x, v[5] + r * each, each * 4);
                assert_memory_equal(x0, v[5] + r * each, each * 4);
                memcpy(x, v[0] + r * each, each * 4);
                assert_int_equal(dev->ops->denoise(dev, &(sc_denoise_args){.x = x, .flow = zero, .noise = v[1] + r * each, .count = each, .sigma = 0,
                                                   .next_sigma = (double)v[4][r]}, &err), SC_OK);
                assert_memory_equal(x, v[6] + r * each, each * 4);
                guarded_free(x, each * 4);
                guarded_free(x0, each * 4);
                free(zero);
            }
            for (int i = 0; i < 7; i++) free(v[i]);
        }
    sc_tensors_close(set);
}

static void fast_denoise_is_the_twins_to_the_bit(void **state) {
    devices *d = *state;
    static const size_t counts[] = {0, 1, 3, 16383, 16384, 16385, 50001};
    if (!d->fast) skip();
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int mix = 0; mix < 2; mix++) {
            const size_t n = counts[i], bytes = n * sizeof(float);
            float *x = random_floats(n, 3), *flow = random_floats(n, 4), *noise = random_floats(n, 3), *out[2], *x0[2];
            sc_error err;
            for (int which = 0; which < 2; which++) {
                sc_device *dev = which ? d->fast : d->twin;
                out[which] = memcpy(guarded(bytes), x, bytes);
                x0[which] = guarded(bytes);
                assert_int_equal(dev->ops->denoise(dev, &(sc_denoise_args){.x = out[which], .flow = flow, .noise = noise, .x0 = x0[which], .count = n, .sigma = 0.7321,
                                                   .next_sigma = mix ? 0.4321 : -1}, &err), SC_OK);
            }
            assert_memory_equal(out[0], out[1], bytes);
            assert_memory_equal(x0[0], x0[1], bytes);
            for (int which = 0; which < 2; which++) {
                guarded_free(out[which], bytes);
                guarded_free(x0[which], bytes);
            }
            free(x);
            free(flow);
            free(noise);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_answers),
        cmocka_unit_test_setup_teardown(noise_follows_the_formula_of_its_counter, setup_portable, teardown),
        cmocka_unit_test_setup_teardown(fast_noise_is_the_twins_to_the_bit, setup_portable, teardown),
        cmocka_unit_test_setup_teardown(noise_is_normal, setup_portable, teardown),
        cmocka_unit_test_setup_teardown(seed_chunk_and_step_each_change_the_noise, setup_portable, teardown),
        cmocka_unit_test_setup_teardown(denoise_gives_the_reference_schedulers_values, setup_portable, teardown),
        cmocka_unit_test_setup_teardown(fast_denoise_is_the_twins_to_the_bit, setup_portable, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

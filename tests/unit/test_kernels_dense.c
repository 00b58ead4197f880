/* test_kernels_dense.c - linear layers, packed products, norms and elementwise operations of the CPU against the twin. */
#include "tests/unit/kernels_check.h"
#include "kernels/cpu/gemm.h"

#define FIXTURE struct pair *p = *state; if (!p->fast) skip()

static void linear_matches_twin(struct pair *p, int m, int n, int k, sc_epilogue epilogue, bool bias, bool mods) {
    float *w = random_floats((size_t)n * (size_t)k, 1), *b = random_floats((size_t)n, 2), *x = random_floats((size_t)m * (size_t)k, 3);
    float *gate = random_floats(3 * (size_t)(n + 5), 4), *start = random_floats((size_t)m * (size_t)n, 5);
    float *got = guarded((size_t)m * (size_t)n), *want = guarded((size_t)m * (size_t)n);
    int32_t *row_mod = malloc((size_t)(m + 1) * sizeof *row_mod);
    sc_matrix *slow, *fast;
    int first = n / 3;
    sc_matrix_desc d = {.parts = n > 2 ? 2 : 1, .cols = k, .rows = {n > 2 ? first : n, n - first}, .data = {w, w + (size_t)first * (size_t)k},
                        .bias = {bias ? b : NULL, bias ? b + first : NULL}};
    char what[80];

    for (int i = 0; i < m; i++) row_mod[i] = i % 3;
    if (epilogue >= SC_EPI_RESIDUAL) memcpy(got, start, (size_t)m * (size_t)n * 4), memcpy(want, start, (size_t)m * (size_t)n * 4);
    assert_int_equal(p->twin->ops->matrix_create(p->twin, &slow, &d, NULL), SC_OK);
    assert_int_equal(p->fast->ops->matrix_create(p->fast, &fast, &d, NULL), SC_OK);
    sc_linear_args a = {.w = slow, .x = x, .out = want, .m = m, .epilogue = epilogue, .gate = gate, .gate_stride = n + 5, .row_mod = mods ? row_mod : NULL};
    assert_int_equal(p->twin->ops->linear(p->twin, &a, NULL), SC_OK);
    a.w = fast, a.out = got;
    assert_int_equal(p->fast->ops->linear(p->fast, &a, NULL), SC_OK);
    snprintf(what, sizeof what, "m %d n %d k %d epilogue %d", m, n, k, (int)epilogue);
    assert_close(what, got, want, (size_t)m * (size_t)n, 1e-6 + 1e-7 * sqrt((double)k));
    p->twin->ops->matrix_destroy(p->twin, slow);
    p->fast->ops->matrix_destroy(p->fast, fast);
    release_guarded(w, (size_t)n * (size_t)k), release_guarded(b, (size_t)n), release_guarded(x, (size_t)m * (size_t)k);
    release_guarded(gate, 3 * (size_t)(n + 5)), release_guarded(start, (size_t)m * (size_t)n);
    release_guarded(got, (size_t)m * (size_t)n), release_guarded(want, (size_t)m * (size_t)n);
    free(row_mod);
}

static void linear_layers_match_the_twin_on_awkward_shapes(void **state) {
    static const int shape[][3] = {{1, 1, 1}, {2, 3, 1}, {1, 7, 13}, {5, 33, 31}, {11, 31, 64}, {12, 32, 16}, {13, 65, 17}, {61, 257, 127}, {60, 64, 1025}, {121, 40, 2049}};
    FIXTURE;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int e = SC_EPI_NONE; e <= SC_EPI_GATED_RESIDUAL; e++) linear_matches_twin(p, shape[i][0], shape[i][1], shape[i][2], (sc_epilogue)e, e % 2 == 0, i % 2);
}

static void linear_layers_match_the_twin_on_the_pocket_models_shapes(void **state) {
    FIXTURE;
    linear_matches_twin(p, 480, 1152, 384, SC_EPI_NONE, true, false);
    linear_matches_twin(p, 480, 1024, 384, SC_EPI_GELU, true, false);
    linear_matches_twin(p, 480, 384, 1024, SC_EPI_GATED_RESIDUAL, true, true);
}

static void a_norm_behind_a_residual_is_the_norm_called_next(void **state) {
    enum { M = 37, N = 129, K = 65, STRIDE = 2 * N + 3 };
    FIXTURE;
    float *w = random_floats(N * K, 1), *x = random_floats(M * K, 2), *start = random_floats(M * N, 3), *mod = random_floats(3 * STRIDE, 4), *weight = random_floats(N, 5);
    int32_t row_mod[M];
    const sc_matrix_desc d = {.parts = 1, .cols = K, .rows = {N}, .data = {w}};
    sc_device *both[2] = {p->twin, p->fast};
    for (int i = 0; i < M; i++) row_mod[i] = i % 3;
    for (int i = 0; i < 2; i++)
        for (int gated = 0; gated < 2; gated++) {
            float *sum[2] = {guarded(M * N), guarded(M * N)}, *norm[2] = {guarded(M * N), guarded(M * N)};
            sc_matrix *m;
            assert_int_equal(both[i]->ops->matrix_create(both[i], &m, &d, NULL), SC_OK);
            for (int at_once = 0; at_once < 2; at_once++) {
                sc_layer_norm_args n = {.x = sum[at_once], .out = norm[at_once], .out_f32 = true, .m = M, .dim = N, .eps = 1e-6f};
                sc_linear_args a = {.w = m, .x = x, .out = sum[at_once], .m = M, .epilogue = gated ? SC_EPI_GATED_RESIDUAL : SC_EPI_RESIDUAL, .gate = mod, .gate_stride = STRIDE,
                                    .row_mod = row_mod, .then = at_once ? &n : NULL};
                if (gated) n.shift = mod, n.scale = mod + N, n.mod_stride = STRIDE, n.row_mod = row_mod;
                else n.weight = weight;
                memcpy(sum[at_once], start, M * N * sizeof(float));
                assert_int_equal(both[i]->ops->linear(both[i], &a, NULL), SC_OK);
                if (!at_once) assert_int_equal(both[i]->ops->layer_norm(both[i], &n, NULL), SC_OK);
            }
            assert_memory_equal(sum[0], sum[1], M * N * sizeof(float));
            assert_memory_equal(norm[0], norm[1], M * N * sizeof(float));
            both[i]->ops->matrix_destroy(both[i], m);
            for (int k = 0; k < 2; k++) release_guarded(sum[k], M * N), release_guarded(norm[k], M * N);
        }
    release_guarded(w, N * K), release_guarded(x, M * K), release_guarded(start, M * N), release_guarded(mod, 3 * STRIDE), release_guarded(weight, N);
}

static void weights_of_half_precision_are_widened_exactly(void **state) {
    static const uint16_t half[6] = {0x3c00, 0x8001, 0x7bff, 0x0400, 0xc500, 0x3555}, bias[2] = {0x3f80, 0xc000}; /* f16 [2][3], bf16 [2] */
    static const float one[3] = {1, 0, 0};
    FIXTURE;
    sc_matrix_desc d = {.parts = 1, .cols = 3, .rows = {2}, .data = {half}, .type = {SC_F16}, .bias = {bias}, .bias_type = {SC_BF16}};
    sc_device *both[2] = {p->twin, p->fast};
    for (int i = 0; i < 2; i++) {
        float out[2], rows[6];
        sc_matrix *m;
        assert_int_equal(both[i]->ops->matrix_create(both[i], &m, &d, NULL), SC_OK);
        assert_int_equal(both[i]->ops->linear(both[i], &(sc_linear_args){.w = m, .x = one, .out = out, .m = 1}, NULL), SC_OK);
        assert_true(out[0] == 2.0f && out[1] == 6.103515625e-05f - 2.0f);
        assert_int_equal(both[i]->ops->gather(both[i], rows, m, (const int32_t[]){1, 0}, 2, NULL), SC_OK);
        assert_true(rows[0] == 6.103515625e-05f && rows[1] == -5.0f && rows[4] == -5.9604644775390625e-08f && rows[5] == 65504.0f);
        both[i]->ops->matrix_destroy(both[i], m);
    }
}

/* A bf16 matrix of three parts at an odd address, used where it lies or copied: close to the twin, and the same bits as its values packed as f32
 * but where tiles add in another order. */
static void bf16_matches(struct pair *p, int m, int n, int k, sc_epilogue epilogue, bool stays) {
    const size_t values = (size_t)n * (size_t)k, results = (size_t)m * (size_t)n;
    float *w = random_floats(values, 6), *b = random_floats((size_t)n, 7), *x = random_floats((size_t)m * (size_t)k, 8), *gate = random_floats((size_t)n, 9);
    float *start = random_floats(results, 10), *got = guarded(results), *same = guarded(results), *want = guarded(results), *row = guarded((size_t)k);
    char *raw = malloc(2 * values + 1), *half = raw + 1;
    const int r0 = n / 4, r1 = n / 2 - n / 4, parts = n < 4 ? 1 : 3;
    const size_t a0 = (size_t)r0 * (size_t)k, a1 = a0 + (size_t)r1 * (size_t)k;
    sc_matrix_desc wide = {.parts = parts, .cols = k, .rows = {parts == 1 ? n : r0, r1, n - r0 - r1}, .data = {w, w + a0, w + a1}, .bias = {parts == 1 ? b : NULL, b + r0}};
    sc_matrix_desc d = wide;
    sc_matrix *slow, *packed, *fast;
    char what[80];

    assert_non_null(raw);
    for (size_t i = 0; i < values; i++) { /* cut to bf16; in the file's order */
        uint32_t u;
        memcpy(&u, &w[i], 4);
        u &= 0xffff0000;
        memcpy(&w[i], &u, 4);
        memcpy(half + 2 * i, (const char *)&w[i] + 2, 2);
    }
    d.data[0] = half, d.data[1] = half + 2 * a0, d.data[2] = half + 2 * a1;
    d.type[0] = d.type[1] = d.type[2] = SC_BF16;
    d.stays = stays;
    for (size_t i = 0; i < results; i++) got[i] = same[i] = want[i] = start[i];
    assert_int_equal(p->twin->ops->matrix_create(p->twin, &slow, &d, NULL), SC_OK);
    assert_int_equal(p->fast->ops->matrix_create(p->fast, &packed, &wide, NULL), SC_OK);
    assert_int_equal(p->fast->ops->matrix_create(p->fast, &fast, &d, NULL), SC_OK);
    if (!stays) memset(raw, 0x55, 2 * values + 1); /* the device has a copy of its own */
    sc_linear_args a = {.w = slow, .x = x, .out = want, .m = m, .epilogue = epilogue, .gate = gate};
    assert_int_equal(p->twin->ops->linear(p->twin, &a, NULL), SC_OK);
    a.w = packed, a.out = same;
    assert_int_equal(p->fast->ops->linear(p->fast, &a, NULL), SC_OK);
    a.w = fast, a.out = got;
    assert_int_equal(p->fast->ops->linear(p->fast, &a, NULL), SC_OK);
    snprintf(what, sizeof what, "bf16 m %d n %d k %d epilogue %d", m, n, k, (int)epilogue);
    assert_close(what, got, want, results, 1e-6 + 1e-7 * sqrt((double)k));
    if (sc_cpu(p->fast)->amx) assert_close(what, got, same, results, 1e-6 + 1e-7 * sqrt((double)k));
    else assert_memory_equal(got, same, results * sizeof(float));
    for (int j = 0; j < n; j += n / 5 + 1) {
        assert_int_equal(p->fast->ops->gather(p->fast, row, fast, &j, 1, NULL), SC_OK);
        assert_memory_equal(row, w + (size_t)j * (size_t)k, (size_t)k * sizeof(float));
    }
    p->twin->ops->matrix_destroy(p->twin, slow);
    p->fast->ops->matrix_destroy(p->fast, packed);
    p->fast->ops->matrix_destroy(p->fast, fast);
    release_guarded(w, values), release_guarded(b, (size_t)n), release_guarded(x, (size_t)m * (size_t)k), release_guarded(gate, (size_t)n), release_guarded(start, results);
    release_guarded(got, results), release_guarded(same, results), release_guarded(want, results), release_guarded(row, (size_t)k);
    free(raw);
}

static void bf16_weights_give_the_results_of_the_same_weights_in_f32(void **state) {
    static const int shape[][3] = {{1, 1, 1}, {2, 3, 1}, {1, 4, 33}, {3, 7, 13}, {5, 33, 31}, {11, 31, 64}, {12, 32, 32}, {13, 65, 17}, {20, 96, 1056},
                                   {61, 257, 127}, {60, 64, 1025}, {181, 40, 2049}, {365, 35, 96}};
    FIXTURE;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int e = SC_EPI_NONE; e <= SC_EPI_GATED_RESIDUAL; e++) bf16_matches(p, shape[i][0], shape[i][1], shape[i][2], (sc_epilogue)e, e % 2 == (int)i % 2);
}

static void results_do_not_depend_on_the_number_of_threads(void **state) {
    enum { M = 97, N = 515, K = 130 };
    FIXTURE;
    float *w = random_floats(N * K, 1), *x = random_floats(M * K, 2), *first = guarded(M * N), *again = guarded(M * N);
    sc_matrix_desc d = {.parts = 1, .cols = K, .rows = {N}, .data = {w}};
    for (int threads = 1; threads <= 5; threads++) {
        float *out = threads == 1 ? first : again;
        sc_device *dev;
        sc_matrix *m;
        assert_int_equal(sc_cpu_open(&dev, threads, NULL), SC_OK);
        assert_int_equal(dev->ops->matrix_create(dev, &m, &d, NULL), SC_OK);
        assert_int_equal(dev->ops->linear(dev, &(sc_linear_args){.w = m, .x = x, .out = out, .m = M, .epilogue = SC_EPI_GELU}, NULL), SC_OK);
        assert_memory_equal(out, first, M * N * sizeof(float));
        dev->ops->matrix_destroy(dev, m);
        sc_device_close(dev);
    }
    release_guarded(w, N * K), release_guarded(x, M * K), release_guarded(first, M * N), release_guarded(again, M * N);
}

static void packed_products_overwrite_or_accumulate_with_strides(void **state) {
    static const int shape[][3] = {{1, 1, 1}, {3, 5, 2}, {12, 32, 32}, {25, 100, 33}, {14, 96, 1100}};
    FIXTURE;
    for (size_t t = 0; t < sizeof shape / sizeof *shape; t++) {
        int m = shape[t][0], n = shape[t][1], k = shape[t][2];
        size_t ldc = (size_t)n + 3, lda = (size_t)k + 5, ldb = (size_t)k + 2;
        float *a = random_floats((size_t)m * lda, 1), *b = random_floats((size_t)n * ldb, 2), *c = random_floats((size_t)m * ldc, 3), *want = guarded((size_t)m * ldc);
        sc_packed packed;
        assert_int_equal(sc_gemm_pack(&packed, sc_cpu(p->fast)->kern, b, (ptrdiff_t)ldb, n, k, NULL), SC_OK);
        memcpy(want, c, (size_t)m * ldc * sizeof(float));
        for (int round = 0; round < 2; round++) {
            for (int i = 0; i < m; i++)
                for (int j = 0; j < n; j++) want[(size_t)i * ldc + (size_t)j] = sc_cpu_dot(a + (size_t)i * lda, b + (size_t)j * ldb, k) + (round ? want[(size_t)i * ldc + (size_t)j] : 0);
            sc_gemm_packed(&packed, c, (ptrdiff_t)ldc, a, (ptrdiff_t)lda, m, round);
            assert_close("packed product", c, want, (size_t)m * ldc, 1e-6 + 1e-7 * sqrt((double)k));
        }
        for (int j = 0; j < n; j++) {
            float *row = guarded((size_t)k);
            sc_gemm_row(&packed, row, j);
            assert_memory_equal(row, b + (size_t)j * ldb, (size_t)k * sizeof(float));
            release_guarded(row, (size_t)k);
        }
        sc_gemm_unpack(&packed);
        release_guarded(a, (size_t)m * lda), release_guarded(b, (size_t)n * ldb), release_guarded(c, (size_t)m * ldc), release_guarded(want, (size_t)m * ldc);
    }
}

static void norms_match_the_twin_with_and_without_their_parts(void **state) {
    static const int dims[] = {1, 2, 7, 16, 31, 33, 384, 1537};
    enum { M = 37 };
    FIXTURE;
    for (size_t t = 0; t < sizeof dims / sizeof *dims; t++) {
        int dim = dims[t];
        size_t n = M * (size_t)dim, wide = M * (size_t)(dim + 3);
        float *x = random_floats(wide, 1), *weight = random_floats((size_t)dim, 2), *bias = random_floats((size_t)dim, 3), *mod = random_floats(8 * (size_t)dim, 4);
        float *got = guarded(n), *want = guarded(n);
        int32_t row_mod[M];
        for (int i = 0; i < M; i++) row_mod[i] = i % 4;
        for (int i = 0; i < dim; i++) x[i] *= 1e-4f; /* the first row is so small that eps counts */
        for (int parts = 0; parts < 8; parts++) {
            sc_layer_norm_args a = {.x = x, .out = want, .out_f32 = true, .m = M, .dim = dim, .eps = 1e-6f, .weight = parts & 1 ? weight : NULL,
                .bias = parts & 1 ? bias : NULL, .shift = parts & 2 ? mod : NULL, .scale = parts & 2 ? mod + dim : NULL, .mod_stride = 2 * dim,
                .row_mod = parts & 4 ? row_mod : NULL};
            assert_int_equal(p->twin->ops->layer_norm(p->twin, &a, NULL), SC_OK);
            a.out = got;
            assert_int_equal(p->fast->ops->layer_norm(p->fast, &a, NULL), SC_OK);
            if (dim > 2) assert_close("layer norm", got, want, n, 2e-6); /* one or two values: mean and value cancel */
        }
        sc_rms_norm_args r = {.x = x, .ldx = dim + 3, .out = want, .m = M, .dim = dim, .eps = 1e-6f, .weight = weight};
        assert_int_equal(p->twin->ops->rms_norm(p->twin, &r, NULL), SC_OK);
        r.out = got;
        assert_int_equal(p->fast->ops->rms_norm(p->fast, &r, NULL), SC_OK);
        assert_close("rms norm", got, want, n, 1e-6);
        memcpy(got, x, n * sizeof(float)), r.x = x, r.ldx = dim, r.out = want; /* in place */
        assert_int_equal(p->twin->ops->rms_norm(p->twin, &r, NULL), SC_OK);
        r.x = r.out = got;
        assert_int_equal(p->fast->ops->rms_norm(p->fast, &r, NULL), SC_OK);
        assert_close("rms norm in place", got, want, n, 1e-6);
        release_guarded(x, wide), release_guarded(weight, (size_t)dim), release_guarded(bias, (size_t)dim), release_guarded(mod, 8 * (size_t)dim);
        release_guarded(got, n), release_guarded(want, n);
    }
}

static void activations_are_accurate_from_the_far_left_to_the_far_right(void **state) {
    enum { N = 70001 };
    FIXTURE;
    float *x = guarded(2 * N), *got = guarded(N);
    for (int i = 0; i < N; i++) x[i] = (float)(i - N / 2) * 0.003f, x[N + i] = 1.0f; /* -105 .. 105 */
    x[0] = -3e38f, x[1] = 3e38f, x[2] = 0;
    assert_int_equal(p->fast->ops->silu(p->fast, got, x, N, NULL), SC_OK);
    for (int i = 0; i < N; i++) {
        double want = x[i] / (1 + exp(-(double)x[i]));
        if (!(fabs(got[i] - want) <= 4e-7 * fabs(want) + 1e-35)) fail_msg("silu(%.9g) is %.9g, wanted %.9g", (double)x[i], (double)got[i], want);
    }
    x[0] = -30.0f, x[1] = 1e12f;
    assert_int_equal(p->fast->ops->mul_gelu(p->fast, got, x, 1, N, NULL), SC_OK);
    for (int i = 0; i < N; i++) {
        double y = x[i], want = 0.5 * y * (1 + tanh(0.79788456080286536 * (y + 0.044715 * y * y * y)));
        if (!(fabs(got[i] - want) <= 4e-7 * fabs(want) + 2e-7 * fmin(1, fabs(want) + 0.1))) fail_msg("gelu(%.9g) is %.9g, wanted %.9g", y, (double)got[i], want);
    }
    for (size_t width = 0; width < 40; width++) { /* rows that end inside a vector */
        const size_t n = 19 * width;
        float *part = guarded(n), *want = guarded(n);
        p->fast->ops->mul_gelu(p->fast, part, x + 35500, 19, (int)width, NULL);
        p->twin->ops->mul_gelu(p->twin, want, x + 35500, 19, (int)width, NULL);
        assert_close("mul_gelu", part, want, n, 1e-6);
        release_guarded(part, n), release_guarded(want, n);
    }
    release_guarded(x, 2 * N), release_guarded(got, N);
}

static void patches_come_back_as_the_latent_they_were_cut_from(void **state) {
    enum { CH = 3, FRAMES = 2, ROWS = 3, COLS = 5, TOKENS = FRAMES * ROWS * COLS, COUNT = TOKENS * CH * 4 };
    FIXTURE;
    float *latent = random_floats(COUNT, 1), *rows = guarded(COUNT), *turned = guarded(COUNT), *back = guarded(COUNT);
    int32_t order[TOKENS];
    for (int t = 0; t < TOKENS; t++) order[t] = t * 7 % TOKENS;
    sc_patch_args a = {CH, FRAMES, ROWS, COLS, 2, 2, order, latent, rows};
    assert_int_equal(p->fast->ops->patchify(p->fast, &a, NULL), SC_OK);
    assert_true(rows[4] == latent[FRAMES * ROWS * 2 * COLS * 2]);                  /* token 0, channel 1 */
    assert_true(rows[CH * 4] == latent[(7 / COLS) * 2 * COLS * 2 + 7 % COLS * 2]); /* token 1 is grid place 7 */
    for (int t = 0; t < TOKENS; t++) /* channel first to channel last */
        for (int c = 0; c < CH; c++)
            for (int q = 0; q < 4; q++) turned[(t * 4 + q) * CH + c] = rows[(t * CH + c) * 4 + q];
    a.in = turned, a.out = back;
    assert_int_equal(p->fast->ops->unpatchify(p->fast, &a, NULL), SC_OK);
    assert_memory_equal(back, latent, COUNT * sizeof(float));
    release_guarded(latent, COUNT), release_guarded(rows, COUNT), release_guarded(turned, COUNT), release_guarded(back, COUNT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_layers_match_the_twin_on_awkward_shapes),
        cmocka_unit_test(linear_layers_match_the_twin_on_the_pocket_models_shapes),
        cmocka_unit_test(a_norm_behind_a_residual_is_the_norm_called_next),
        cmocka_unit_test(weights_of_half_precision_are_widened_exactly),
        cmocka_unit_test(bf16_weights_give_the_results_of_the_same_weights_in_f32),
        cmocka_unit_test(results_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(packed_products_overwrite_or_accumulate_with_strides),
        cmocka_unit_test(norms_match_the_twin_with_and_without_their_parts),
        cmocka_unit_test(activations_are_accurate_from_the_far_left_to_the_far_right),
        cmocka_unit_test(patches_come_back_as_the_latent_they_were_cut_from),
    };
    return cmocka_run_group_tests_name("amx", tests, open_amx, close_pair) + RUN_ON_EVERY_ISA(tests);
}

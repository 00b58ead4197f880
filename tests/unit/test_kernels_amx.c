/* test_kernels_amx.c - linear_amx.c on every machine: the same source with tiles in plain C, against the twin.
 *
 * The tiles here do what the processor's manual says of tileloadd, tdpbf16ps and tilestored, roundings included. Where the processor has AMX
 * and the kernel grants it, its own tiles must give the same bits. */
#include "tests/unit/kernels_check.h"
#include "kernels/cpu/linear.h"

static _Thread_local struct { float row[16][16]; } tiles[8];
static _Thread_local bool tiles_open;

static float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

static float upper_half(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    u &= 0xffff0000;
    memcpy(&x, &u, 4);
    return flushed(x);
}

static float lower_half(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    u <<= 16;
    memcpy(&x, &u, 4);
    return flushed(x);
}

static void tile_copy(int t, const void *from) {
    assert_true(tiles_open);
    memcpy(&tiles[t], from, sizeof tiles[t]);
}

static void tile_out(int t, void *to) {
    assert_true(tiles_open);
    memcpy(to, &tiles[t], sizeof tiles[t]);
}

static void tile_clear(int t) { memset(&tiles[t], 0, sizeof tiles[t]); }

/* Pairs of inputs: all even ones in one sum, all odd ones in another, then their sum to C; nearest even. Products of bf16 are exact in f32. */
static void tile_product(int c, int a, int b) {
    assert_true(tiles_open);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) {
            float even = 0, odd = 0;
            for (int k = 0; k < 16; k++) {
                even = flushed(even + lower_half(tiles[a].row[i][k]) * lower_half(tiles[b].row[k][j]));
                odd = flushed(odd + upper_half(tiles[a].row[i][k]) * upper_half(tiles[b].row[k][j]));
            }
            tiles[c].row[i][j] = flushed(flushed(tiles[c].row[i][j]) + flushed(even + odd));
        }
}

#define TILE_BEGIN() (tiles_open = true)
#define TILE_END() (tiles_open = false)
#define TILE_SYNC() ((void)0)
#define TILE_ZERO(t) tile_clear(t)
#define TILE_LOAD(t, from) tile_copy(t, from)
#define TILE_STORE(t, to) tile_out(t, to)
#define TILE_PRODUCT(c, a, b) tile_product(c, a, b)
#define sc_amx_ready plain_ready
#define sc_amx_linear plain_linear
#include "kernels/cpu/linear_amx.c"
#undef sc_amx_ready
#undef sc_amx_linear

enum { GATES = 3 };

struct product {
    int m, n, k;
    size_t results;
    float *x, *gate, *start, *got, *want;
    char *raw, *weights;     /* bf16 [n][k] at an odd address, and nothing behind it */
    int32_t *row_mod;
    float bias[2048];
    sc_matrix_desc desc;     /* of two parts, the second with a bias */
};

static void product_init(struct product *t, int m, int n, int k) {
    const int first = n / 3;
    const size_t values = (size_t)n * (size_t)k;

    *t = (struct product){.m = m, .n = n, .k = k, .results = (size_t)m * (size_t)n};
    assert_true(n <= 2048);
    t->x = random_floats((size_t)m * (size_t)k, 3);
    t->gate = random_floats(GATES * (size_t)(n + 5), 4);
    t->start = random_floats(t->results, 5);
    t->got = guarded(t->results), t->want = guarded(t->results);
    t->row_mod = malloc((size_t)(m + 1) * sizeof *t->row_mod);
    t->raw = malloc(2 * values + 1);
    assert_true(t->row_mod && t->raw);
    t->weights = t->raw + 1;
    float *w = random_floats(values, 1);
    for (size_t i = 0; i < values; i++) memcpy(t->weights + 2 * i, (const char *)&w[i] + 2, 2);
    release_guarded(w, values);
    for (int i = 0; i < n; i++) t->bias[i] = random_number();
    for (int i = 0; i < m; i++) t->row_mod[i] = i % GATES;
    t->desc = (sc_matrix_desc){.parts = 2, .cols = k, .rows = {first, n - first}, .data = {t->weights, t->weights + 2 * (size_t)first * (size_t)k},
                               .type = {SC_BF16, SC_BF16}, .bias = {NULL, t->bias}, .stays = true};
    if (!first) t->desc = (sc_matrix_desc){.parts = 1, .cols = k, .rows = {n}, .data = {t->weights}, .type = {SC_BF16}, .bias = {t->bias}, .stays = true};
}

static void product_free(struct product *t) {
    release_guarded(t->x, (size_t)t->m * (size_t)t->k), release_guarded(t->gate, GATES * (size_t)(t->n + 5)), release_guarded(t->start, t->results);
    release_guarded(t->got, t->results), release_guarded(t->want, t->results);
    free(t->raw), free(t->row_mod);
}

typedef sc_status (*linear_fn)(sc_device *, const sc_linear_args *, sc_error *);

static void product_run(const struct product *t, sc_device *dev, linear_fn linear, sc_epilogue epilogue, float *out) {
    sc_matrix *w;
    memcpy(out, t->start, t->results * sizeof(float));
    assert_int_equal(dev->ops->matrix_create(dev, &w, &t->desc, NULL), SC_OK);
    assert_int_equal(linear(dev, &(sc_linear_args){.w = w, .x = t->x, .out = out, .m = t->m, .epilogue = epilogue, .gate = t->gate, .gate_stride = t->n + 5,
                                                     .row_mod = t->row_mod}, NULL), SC_OK);
    dev->ops->matrix_destroy(dev, w);
}

static void product_matches_twin(struct pair *p, int m, int n, int k, sc_epilogue epilogue) {
    struct product t;
    char what[80];
    product_init(&t, m, n, k);
    product_run(&t, p->twin, p->twin->ops->linear, epilogue, t.want);
    product_run(&t, p->fast, plain_linear, epilogue, t.got);
    snprintf(what, sizeof what, "tiles, m %d n %d k %d epilogue %d", m, n, k, (int)epilogue);
    assert_close(what, t.got, t.want, t.results, 1e-6 + 1e-7 * sqrt((double)k));
    if (sc_isa_find(SC_ISA_AMX)) {
        product_run(&t, p->fast, sc_amx_linear, epilogue, t.want);
        assert_memory_equal(t.got, t.want, t.results * sizeof(float));
    }
    product_free(&t);
}

static void products_match_the_twin_on_awkward_shapes(void **state) {
    static const int shape[][3] = {{1, 1, 1}, {2, 3, 2}, {1, 32, 33}, {15, 16, 31}, {16, 17, 32}, {17, 33, 64}, {31, 31, 65}, {32, 64, 127}, {33, 95, 96}, {15, 257, 513},
                                   {40, 65, 1025}, {127, 40, 95}, {129, 66, 545}, {153, 35, 1056}, {161, 300, 67}, {256, 32, 512}, {273, 33, 700}};
    struct pair *p = *state;
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int e = SC_EPI_NONE; e <= SC_EPI_GATED_RESIDUAL; e++)
            if (i < 8 || e == SC_EPI_NONE || e == (int)(i % 5)) product_matches_twin(p, shape[i][0], shape[i][1], shape[i][2], (sc_epilogue)e);
}

static void a_long_prompt_and_wide_layers_match_the_twin(void **state) {
    struct pair *p = *state;
    product_matches_twin(p, 512, 48, 640, SC_EPI_RESIDUAL);
    product_matches_twin(p, 1, 32, 10240, SC_EPI_NONE);   /* blocks of inputs are longest with few tokens */
    product_matches_twin(p, 15, 64, 4128, SC_EPI_NONE);
    product_matches_twin(p, 17, 2048, 40, SC_EPI_GELU);   /* items of many outputs */
}

/* Sums of f64, to see the error itself: no worse than that of a dot product in f32, whose terms are added one after another. */
static void three_parts_are_as_exact_as_f32(void **state) {
    enum { M = 20, N = 40, K = 4096 };
    struct pair *p = *state;
    struct product t;
    double worst = 0, worst_f32 = 0;
    product_init(&t, M, N, K);
    memset(t.start, 0, t.results * sizeof(float));
    memset(t.bias, 0, sizeof t.bias);
    product_run(&t, p->fast, plain_linear, SC_EPI_NONE, t.got);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            float f32 = 0;
            for (int q = 0; q < K; q++) {
                uint16_t half;
                memcpy(&half, t.weights + 2 * (j * K + q), 2);
                sum += (double)t.x[i * K + q] * (double)sc_from_bf16(half);
                f32 = fmaf(t.x[i * K + q], sc_from_bf16(half), f32);
            }
            worst = fmax(worst, fabs((double)t.got[i * N + j] - sum));
            worst_f32 = fmax(worst_f32, fabs((double)f32 - sum));
        }
    print_message("           largest error over %d inputs: tiles %.2e, FMAs one after another %.2e\n", K, worst, worst_f32);
    assert_true(worst <= worst_f32);
    product_free(&t);
}

/* With the identity as weight the output is hi + mid + lo as the tiles add them: x to the bit, from the largest number down to 2^-103. Below, a part may
 * be subnormal, which counts as zero. */
static void activations_come_through_the_identity_unchanged(void **state) {
    enum { M = 64, K = 64 };
    struct pair *p = *state;
    struct product t;
    const uint16_t one = 0x3f80;
    product_init(&t, M, K, K);
    t.desc.bias[0] = t.desc.bias[1] = NULL;
    memset(t.weights, 0, 2 * K * K);
    for (int i = 0; i < K; i++) memcpy(t.weights + 2 * (i * K + i), &one, 2);
    for (int i = 0; i < M * K; i++) t.x[i] = ldexpf(t.x[i], i % 230 - 108);
    t.x[0] = 3.4028234663852886e38f, t.x[K + 1] = -t.x[0], t.x[2 * K + 2] = 0x1.fffffep-1f, t.x[3 * K + 3] = -0x1.010101p9f;
    t.x[4 * K + 4] = 0x1.000002p-103f, t.x[5 * K + 5] = 0x1.fffffep-110f;
    product_run(&t, p->fast, plain_linear, SC_EPI_NONE, t.got);
    for (int i = 0; i < M * K; i++)
        if (fabsf(t.x[i]) >= 0x1p-103f ? t.x[i] != t.got[i] : fabsf(t.x[i] - t.got[i]) >= 0x1p-126f)
            fail_msg("[%d] is %a, wanted %a", i, (double)t.got[i], (double)t.x[i]);
    product_free(&t);
}

static void what_is_not_finite_stays_so_and_spoils_only_its_row(void **state) {
    enum { M = 19, N = 37, K = 70 };
    struct pair *p = *state;
    struct product t;
    product_init(&t, M, N, K);
    t.x[3 * K + 69] = INFINITY, t.x[17 * K] = -INFINITY, t.x[5 * K + 8] = NAN;
    const uint32_t quiet = 0x7f800001; /* a nan whose upper half is infinity */
    memcpy(&t.x[9 * K + 9], &quiet, 4);
    product_run(&t, p->fast, plain_linear, SC_EPI_NONE, t.got);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            const float y = t.got[i * N + j];
            if (i == 3 || i == 17 ? !isinf(y) : i == 5 || i == 9 ? !isnan(y) : !isfinite(y)) fail_msg("row %d, column %d is %g", i, j, (double)y);
        }
    product_free(&t);
}

static void results_do_not_depend_on_the_number_of_threads(void **state) {
    struct product t;
    (void)state;
    product_init(&t, 150, 515, 130);
    for (int threads = 1; threads <= 5; threads++) {
        sc_device *dev;
        assert_int_equal(sc_cpu_open(&dev, threads, NULL), SC_OK);
        product_run(&t, dev, plain_linear, SC_EPI_GELU, threads == 1 ? t.want : t.got);
        if (threads > 1) assert_memory_equal(t.got, t.want, t.results * sizeof(float));
        sc_device_close(dev);
    }
    product_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_match_the_twin_on_awkward_shapes),
        cmocka_unit_test(a_long_prompt_and_wide_layers_match_the_twin),
        cmocka_unit_test(three_parts_are_as_exact_as_f32),
        cmocka_unit_test(activations_come_through_the_identity_unchanged),
        cmocka_unit_test(what_is_not_finite_stays_so_and_spoils_only_its_row),
        cmocka_unit_test(results_do_not_depend_on_the_number_of_threads),
    };
    return cmocka_run_group_tests(tests, open_portable, close_pair);
}

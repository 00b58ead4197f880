/* cuda_queries.h - test_cuda_ops's test of cross attention without queries: the factor by itself, and weights against the twin, which makes the queries. */
#ifndef SC_TESTS_CUDA_QUERIES_H
#define SC_TESTS_CUDA_QUERIES_H
#include "kernels/cuda/matrix.h"
#include "tests/cuda/cuda_check.h"

/* r, c and rest against W^T W in double: a product of two of r's values is off by two roundings to bf16, 2^-8 each, and a sum of such by no greater share
 * of its columns; the share that keeps pivots up is far below. */
static inline void factor_case(const char *what, const sc_query *q, const float *w, const float *b) {
    const int dim = q->dim;
    const size_t d = (size_t)dim;
    uint16_t *raw = malloc(d * d * 2);
    double *r = malloc(d * (d + 1) * sizeof *r), *square = calloc(d + 1, sizeof *square), worst = 0;
    float *c = malloc((d + 1) * 4);
    char text[100];
    bool triangular = true;
    MUST(cuda->ops->download(cuda, raw, q->r, d * d * 2, &check_err));
    MUST(cuda->ops->download(cuda, c, q->c, (d + 1) * 4, &check_err));
    for (int i = 0; i < dim; i++) {
        for (int j = 0; j < dim; j++) r[(size_t)i * (d + 1) + (size_t)j] = sc_from_bf16(raw[(size_t)i * d + (size_t)j]), triangular = triangular && (j >= i || !raw[(size_t)i * d + (size_t)j]);
        r[(size_t)i * (d + 1) + d] = c[i];
        for (int j = 0; j <= dim; j++) square[j] += j < dim ? (double)w[i * dim + j] * w[i * dim + j] : (double)b[i] * b[i];
    }
    for (int i = 0; i <= dim; i++)
        for (int j = i; j <= dim; j++) {
            double want = 0, got = i == dim ? c[dim] : 0;
            for (int k = 0; k < dim; k++) {
                want += (i < dim ? (double)w[k * dim + i] : b[k]) * (j < dim ? (double)w[k * dim + j] : b[k]);
                got += r[(size_t)k * (d + 1) + (size_t)i] * r[(size_t)k * (d + 1) + (size_t)j];
            }
            const double off = fabs(got - want), room = sqrt(square[i] * square[j]);
            if (!(off <= worst * room)) worst = room > 0 ? off / room : off > 0 ? INFINITY : worst;
        }
    verdict(triangular, what, "r is not triangular");
    snprintf(text, sizeof text, "r and c are off by %.2g of a column", worst);
    verdict(worst <= ldexp(1, -7) * 1.01, what, text);
    free(raw), free(r), free(square), free(c);
}

/* Weights without queries; the second sequence's on three multiprocessors, where a CTA takes tile after tile, and in pieces of rows, with the bits that the whole
 * card gives. w: as it comes; of half the rank, and b among what it reaches; with empty columns, and b 0; all 0 but b. */
static inline void check_queries(bool small) {
    static const int shapes[][5] = {/* heads dim keys stride tokens */ {1, 64, 1, 8, 1}, {2, 64, 9, 16, 131}, {12, 32, 21, 24, 257}, {3, 128, 64, 64, 127},
                                    {1, 64, 3, 8, 64}, {5, 64, 8, 8, 128}, {17, 64, 15, 16, 70}, {12, 64, 7, 24, 1031}, {12, 128, 21, 24, 300}};
    const uint64_t seed = seed_state; /* the tests behind this one keep their numbers */
    const sc_dtype act = cuda->act;
    for (size_t i = 0; i < (small ? 4 : sizeof shapes / sizeof *shapes); i++)
        for (int kind = 0; kind < 4; kind++) {
            const int heads = shapes[i][0], dim = shapes[i][1], n = shapes[i][2], stride = shapes[i][3], tokens = shapes[i][4], width = heads * dim, cols = heads * stride;
            const size_t all = (size_t)width * (size_t)width;
            float *w = weights(all, 1.0f / sqrtf((float)width)), *b = weights((size_t)width, 0.5f);
            struct sc_cuda *card = (struct sc_cuda *)cuda;
            const struct sc_cuda whole = *card;
            struct { sc_matrix *w; sc_query *q; void *keys; } t, c;
            char what[100];
            snprintf(what, sizeof what, "queries %d x %d x %d, %d of %d keys, weights of kind %d", tokens, heads, dim, n, stride, kind);
            for (size_t k = 0; k < all; k++) {
                const size_t row = k / (size_t)width, col = k % (size_t)width;
                if (kind == 1 && row >= (size_t)width / 2) w[k] = w[k - all / 2];
                if ((kind == 2 && (col % 3 == 1 || col == 0)) || kind == 3) w[k] = 0;
            }
            for (int r = 0; r < width; r++) {
                if (kind == 1) b[r] = w[(size_t)r * (size_t)width + 5] * 2;
                if (kind == 2) b[r] = 0;
            }
            MUST(twin->ops->matrix_create(twin, &t.w, &(sc_matrix_desc){.parts = 1, .cols = width, .rows = {width}, .data = {w}, .type = {SC_F32}, .bias = {b}, .bias_type = {SC_F32}}, &check_err));
            MUST(cuda->ops->matrix_create(cuda, &c.w, &(sc_matrix_desc){.parts = 1, .cols = width, .rows = {width}, .data = {w}, .type = {SC_F32}, .bias = {b}, .bias_type = {SC_F32}}, &check_err));
            spoil_workspace();
            MUST(twin->ops->query_create(twin, &t.q, t.w, &check_err));
            MUST(cuda->ops->query_create(cuda, &c.q, c.w, &check_err));
            if (!c.q) verdict(act == SC_F16 || card->force_mma || card->cc_major != 9, what, "are refused");
            else {
                buffer k = input((size_t)(n * width), act, 1), x = input((size_t)(2 * tokens * width), act, 1), g = input((size_t)width, SC_F32, 1), out = output((size_t)(2 * tokens * cols), act);
                if (width <= 768) factor_case(what, c.q, w, b);
                t.keys = calloc(1, twin->ops->query_bytes(twin, t.q, heads, stride));
                MUST(cuda->ops->alloc(cuda, &c.keys, cuda->ops->query_bytes(cuda, c.q, heads, stride), &check_err));
                for (int s = 0; s < 2; s++) { /* two of a batch, of unequal numbers of keys, in one memory after the other */
                    const int few = s ? (n + 1) / 2 : n;
                    const size_t at = (size_t)(s * tokens);
                    buffer again = output((size_t)(tokens * cols), act);
                    sc_query_weights_args more = {c.q, c.keys, (char *)x.dev + at * (size_t)width * 2, tokens, few, heads, stride, 1e-6f, s ? logf(17) : 0, again.dev};
                    BOTH(query_keys, (&(sc_query_keys_args){t.q, g.host, k.host, few, heads, stride, t.keys}), (&(sc_query_keys_args){c.q, g.dev, k.dev, few, heads, stride, c.keys}));
                    BOTH(query_weights,
                         (&(sc_query_weights_args){t.q, t.keys, x.host + at * (size_t)width, tokens, few, heads, stride, 1e-6f, s ? logf(17) : 0, out.host + at * (size_t)cols}),
                         (&(sc_query_weights_args){c.q, c.keys, (char *)x.dev + at * (size_t)width * 2, tokens, few, heads, stride, 1e-6f, s ? logf(17) : 0, (char *)out.dev + at * (size_t)cols * 2}));
                    card->sm_count = 3;
                    if (s) card->workspace_bytes = SC_CUDA_LT_BYTES + (size_t)(cols + 9) * 4 * 200;
                    spoil_workspace();
                    MUST(cuda->ops->query_weights(cuda, &more, &check_err));
                    card->sm_count = whole.sm_count, card->workspace_bytes = whole.workspace_bytes;
                    float *got = fetched(&again, what);
                    uint16_t *first = malloc(again.n * 2);
                    bool same_bits = true;
                    MUST(cuda->ops->download(cuda, first, (char *)out.dev + at * (size_t)cols * 2, again.n * 2, &check_err));
                    for (size_t e = 0; e < again.n; e++) same_bits = same_bits && got[e] == sc_from_bf16(first[e]);
                    verdict(same_bits, what, "other bits on three multiprocessors");
                    free(got), free(first);
                    drop(&again);
                }
                same(what, &out, tolerance_of(act));
                drop(&k), drop(&x), drop(&g);
                free(t.keys);
                cuda->ops->release(cuda, c.keys);
            }
            twin->ops->query_destroy(twin, t.q);
            cuda->ops->query_destroy(cuda, c.q);
            twin->ops->matrix_destroy(twin, t.w);
            cuda->ops->matrix_destroy(cuda, c.w);
            free(w), free(b);
        }
    seed_state = seed;
}

#endif

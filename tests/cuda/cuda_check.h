/* cuda_check.h - what the tests of the CUDA backend share: twin and card side by side, poisoned outputs between guard words,
 * seeded numbers, closeness. A plain program, so that it runs on a bare GPU machine.
 *
 * A buffer is one operand on both sides. Inputs hold values that the card's type holds exactly, so both sides compute on the same
 * numbers; outputs start as NaN on both sides and must be NaN afterwards in the same places. So does the workspace before each operation:
 * who reads there what it has not written itself gets no number. */
#ifndef SC_TESTS_CUDA_CHECK_H
#define SC_TESTS_CUDA_CHECK_H
#include "kernels/cuda/cuda.h"
#include "kernels/ops.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 256 };

static sc_device *cuda;
static __attribute__((unused)) sc_device *twin;
static sc_error check_err;
static const char *check_where = "";
static int checks, failures;

#define MUST(call)                                                                                              \
    do {                                                                                                        \
        if (call) {                                                                                             \
            printf("%s:%d %s: %s\n", __FILE__, __LINE__, check_where, check_err.text);                          \
            exit(1);                                                                                            \
        }                                                                                                       \
    } while (0)
#define BOTH(op, twin_args, cuda_args) spoil_workspace(); MUST(twin->ops->op(twin, twin_args, &check_err)); MUST(cuda->ops->op(cuda, cuda_args, &check_err))

static inline void spoil_workspace(void) {
    const struct sc_cuda *card = (struct sc_cuda *)cuda;
    if (cudaMemsetAsync(card->workspace, 0xff, card->workspace_bytes, card->stream) == cudaSuccess) return;
    printf("%s: the workspace cannot be written\n", check_where);
    exit(1);
}

static inline void verdict(bool ok, const char *what, const char *detail) {
    checks++;
    if (ok) return;
    failures++;
    printf("  FAIL %s: %s %s\n", check_where, what, detail);
}

/* ---- numbers ------------------------------------------------------------------------------------------------------------ */

static uint64_t seed_state = 1;

static inline float normal_number(void) { /* about normal: sum of four uniforms */
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        seed_state = seed_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        sum += (float)(seed_state >> 40) / 16777216.0f - 0.5f;
    }
    return sum * 1.7320508f;
}

static inline uint16_t to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline uint16_t to_f16(float f) {
    _Float16 h = (_Float16)f;
    uint16_t u;
    memcpy(&u, &h, 2);
    return u;
}

static inline float rounded(float f, sc_dtype type) { return type == SC_F16 ? sc_from_f16(to_f16(f)) : type == SC_BF16 ? sc_from_bf16(to_bf16(f)) : f; }

/* n values of `type` (malloc'ed) from f32 that the type holds exactly. */
static inline void *narrowed(const float *x, size_t n, sc_dtype type) {
    uint16_t *out = malloc(n * 4 + 4);
    for (size_t i = 0; type != SC_F32 && i < n; i++) out[i] = type == SC_F16 ? to_f16(x[i]) : to_bf16(x[i]);
    if (type == SC_F32) memcpy(out, x, n * 4);
    return out;
}

/* Weights that f32, f16 and bf16 all hold, small ones too. */
static inline float *weights(size_t n, float scale) {
    float *w = malloc(n * 4 + 4);
    for (size_t i = 0; i < n; i++) w[i] = rounded(rounded(normal_number() * scale, SC_BF16), SC_F16);
    return w;
}

/* ---- buffers ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    float *host; /* the twin's, f32 (or whatever 32-bit words `raw` holds) */
    char *slab;
    void *dev;
    size_t n;
    sc_dtype type;
} buffer;

static inline buffer make_buffer(size_t n, sc_dtype type, const float *x) {
    buffer b = {.n = n, .type = type};
    const size_t bytes = n * sc_dtype_bytes(type);
    char *all = malloc(bytes + 2 * GUARD);
    b.host = malloc(n * 4 + 4);
    memset(all, 0xff, bytes + 2 * GUARD);
    memset(b.host, 0xff, n * 4);
    if (x) {
        void *narrow = narrowed(x, n, type);
        memcpy(b.host, x, n * 4);
        memcpy(all + GUARD, narrow, bytes);
        free(narrow);
    }
    MUST(cuda->ops->alloc(cuda, (void **)&b.slab, bytes + 2 * GUARD, &check_err));
    MUST(cuda->ops->upload(cuda, b.slab, all, bytes + 2 * GUARD, &check_err));
    b.dev = b.slab + GUARD;
    free(all);
    return b;
}

static inline buffer output(size_t n, sc_dtype type) { return make_buffer(n, type, NULL); }

static inline buffer input(size_t n, sc_dtype type, float scale) {
    float *x = malloc(n * 4 + 4);
    for (size_t i = 0; i < n; i++) x[i] = rounded(normal_number() * scale, type);
    buffer b = make_buffer(n, type, x);
    free(x);
    return b;
}

/* 32-bit words as they are. */
static inline buffer words(size_t n, const void *x) { return make_buffer(n, SC_F32, x); }

static inline void drop(buffer *b) {
    cuda->ops->release(cuda, b->slab);
    free(b->host);
}

/* The card's values as f32 (malloc'ed; raw words for F32); looks at the guards. */
static inline float *fetched(const buffer *b, const char *what) {
    const size_t bytes = b->n * sc_dtype_bytes(b->type);
    unsigned char *all = malloc(bytes + 2 * GUARD);
    float *out = malloc(b->n * 4 + 4);
    bool whole = true;
    MUST(cuda->ops->download(cuda, all, b->slab, bytes + 2 * GUARD, &check_err));
    for (size_t i = 0; i < GUARD; i++) whole = whole && all[i] == 0xff && all[GUARD + bytes + i] == 0xff;
    verdict(whole, what, "wrote outside its output");
    sc_to_f32(out, all + GUARD, b->type, b->n);
    free(all);
    return out;
}

/* Relative L2 <= tolerance, largest error <= 20 tolerance * rms, NaN in the same places. Releases the buffer. */
static inline void same(const char *what, buffer *b, double tolerance) {
    float *got = fetched(b, what);
    double diff = 0, norm = 0, worst = 0;
    size_t at = 0, count = 0, odd = 0;
    char text[200];
    for (size_t i = 0; i < b->n; i++) {
        if (!isfinite(got[i]) != !isfinite(b->host[i])) {
            if (!odd++) at = i;
            continue;
        }
        if (!isfinite(got[i])) continue;
        const double d = fabs((double)got[i] - b->host[i]);
        diff += d * d, norm += (double)b->host[i] * b->host[i], count++;
        if (d > worst && !odd) worst = d, at = i;
    }
    const double rel = norm > 0 ? sqrt(diff / norm) : sqrt(diff), rms = count ? sqrt(norm / (double)count) : 0;
    snprintf(text, sizeof text, "rel %.2e of %.1e, [%zu] of %zu is %.7g, not %.7g (rms %.3g); %zu finite on one side only", rel, tolerance, at, b->n,
             b->n ? (double)got[at] : 0, b->n ? (double)b->host[at] : 0, rms, odd);
    verdict(!odd && rel <= tolerance && worst <= 20 * tolerance * rms + 1e-30, what, text);
    free(got);
    drop(b);
}

/* Every bit equal. Releases the buffer. */
static inline void equal(const char *what, buffer *b) {
    float *got = fetched(b, what);
    size_t differ = 0, at = 0;
    char text[120];
    for (size_t i = 0; i < b->n; i++)
        if (memcmp(&got[i], &b->host[i], 4) && !differ++) at = i;
    int32_t g, w;
    memcpy(&g, &got[at], 4);
    memcpy(&w, &b->host[at], 4);
    snprintf(text, sizeof text, "%zu of %zu words differ, first [%zu] %d, not %d", differ, b->n, at, g, w);
    verdict(!differ, what, text);
    free(got);
    drop(b);
}

/* The card's tolerance for an output of this type made from sums of the card's operands. */
static inline double tolerance_of(sc_dtype type) { return type == SC_F32 ? 2e-5 : type == SC_F16 ? 1.5e-3 : 1e-2; }

#endif

/* linear_amx.c - linear layers with weights of bf16 in the processor's tiles (AMX, Sapphire Rapids and later).
 *
 * A tile is 16 rows of 64 bytes. One instruction adds A . B to C, f32 [16 outputs][16 tokens]: A is 16 rows of the weight by 32 inputs, as the
 * weight has them, B is 16 pairs of inputs by 16 tokens. So weights are only copied, and it is the activations that are turned over.
 *
 * Activations are f32, so each is cut into three numbers of bf16, x = hi + mid + lo: hi the top half of x's bits, mid that of x - hi, lo what is
 * left. Three times 8 bits of mantissa are the 24 of f32: the sum is x itself (below 2^-103 a part may be subnormal and lost). All
 * three products go into the same C. bf16 times bf16 is exact in f32; an instruction sums its 32 inputs, even and odd ones apart, rounding to
 * nearest even, and then adds to C: about the error of f32 with FMAs. Subnormals count as zero, in operands and results. Infinite x stay
 * infinite, except with infinite weights, where they may be nan.
 *
 * Bound: 16 cycles an instruction of 8192 multiply-adds, so 170 f32 multiply-adds a cycle against 32 with AVX-512. C of 32 outputs by 32 tokens
 * stays in four tiles; a step of 32 inputs loads 2 tiles of A and 6 of B for 12 instructions, which lets the loop reach 70 % of that. Few tokens
 * are bound by reading the weights. kernels/README.md has the numbers and what was tried.
 *
 *   split    once per product: x [m][k] to parts, [group][block of inputs][pair of 16 tokens][step][hi, mid, lo][tile of the pair], in the order
 *            of their use. A group is up to 128 tokens; a group's block (BLOCK_STEPS tiles of tokens times steps, 384 KiB) stays in the
 *            second level cache while the weights of an item pass.
 *   item     a group by `cols` outputs. Inputs outside, panels of 32 outputs inside: a panel is copied to [step][32][64 bytes], edges filled up
 *            with zeroes, and multiplied with the group's pairs of tokens; sums wait in the thread's work memory. The groups of the same
 *            outputs are neighbours, so weights come from memory once.
 *   finish   sums are turned over, 16 tokens at a time, and go through the epilogue.
 *
 * A value of y depends on its own row and column alone. The tests compile this file a second time with the TILE_ macros in plain C. */
#include "kernels/cpu/linear.h"

#include <assert.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__AMX_BF16__) || defined(TILE_PRODUCT)

#ifndef TILE_PRODUCT
#include <immintrin.h>

/* Eight tiles of 16 rows by 64 bytes. */
static const struct { uint8_t palette, start, none[14]; uint16_t row_bytes[16]; uint8_t rows[16]; } tile_config = {
    .palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
/* The compiler does not know that a load of a tile reads memory: what was written before is written before. */
#define TILE_BEGIN() do { __asm__ volatile("" ::: "memory"); _tile_loadconfig(&tile_config); } while (0)
#define TILE_END() _tile_release()
#define TILE_SYNC() __asm__ volatile("" ::: "memory")
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, from) _tile_loadd(t, from, 64)
#define TILE_STORE(t, to) _tile_stored(t, to, 64)
#define TILE_PRODUCT(c, a, b) _tile_dpbf16ps(c, a, b)
#endif

#define W 16
typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef int32_t vi_any __attribute__((vector_size(64), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))
#include "kernels/cpu/transpose.h"

enum { STEP = 32, PANEL = 32, TILE_BYTES = 1024, PARTS = 3, GROUP_TILES = 8, BLOCK_STEPS = 128, COLS = 256, SPLIT_STEPS = 16 };
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 }; /* Linux 5.16 */

bool sc_amx_ready(void) {
#ifdef __AMX_BF16__
    __builtin_cpu_init();
    return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") && !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
#else
    return false;
#endif
}

typedef struct {
    const sc_linear_args *a;
    const sc_isa_kernels *kern;
    int tiles, steps;       /* 16 tokens, 32 inputs each, the last of them filled up */
    int group, groups;      /* tiles of a group, even; groups */
    int depth;              /* steps of a block */
    int cols;               /* outputs of an item, whole panels */
    char *parts;            /* the split activations */
    char *work;             /* a share of work_bytes for each thread: a panel, sums [panel][tile of the group][2][16][16], rows [16][cols] */
    size_t work_bytes;
} amx_run;

static int least(int a, int b) { return a < b ? a : b; }

/* ---- activations ---------------------------------------------------------------------------------------------------------- */

/* Where hi of a tile of tokens lies at a step; *apart = bytes from part to part. */
static char *part_at(const amx_run *run, int tile, int step, size_t *apart) {
    const int first = tile / run->group * run->group, count = least(run->group, run->tiles - first);
    const int start = step / run->depth * run->depth, depth = least(run->depth, run->steps - start);
    const int pair = (tile - first) / 2 * 2, width = least(2, count - pair);
    const size_t before = (size_t)first * (size_t)run->steps + (size_t)count * (size_t)start + (size_t)pair * (size_t)depth + (size_t)((step - start) * width);

    *apart = (size_t)width * TILE_BYTES;
    return run->parts + before * PARTS * TILE_BYTES + (size_t)(tile - first - pair) * TILE_BYTES;
}

/* *upper = the upper halves of v; v becomes the rest. */
INLINE void cut(vi *upper, vf *v) {
    *upper = (vi)*v & (int32_t)0xffff0000;
    *v = (vf)((vi)(*v - (vf)*upper) & (*v != (vf)*upper)); /* infinite: the rest is 0 */
}

/* Eight rows [pair of inputs][token] of a B tile out of v [token][16 inputs], thrice. */
INLINE void split_square(char *to, size_t apart, vi *v) {
    transpose(v);
#pragma GCC unroll 8
    for (int i = 0; i < W; i += 2) {
        vf even = (vf)v[i], odd = (vf)v[i + 1];
#pragma GCC unroll 3
        for (int part = 0; part < PARTS; part++) {
            vi low, high;
            cut(&low, &even);
            cut(&high, &odd);
            *(vi_any *)(to + (size_t)part * apart + (size_t)i * 32) = (vi)((low >> 16) & 0xffff) | high;
        }
    }
}

/* One step of 16 tokens; rows past the last token are NULL. */
static void split_step(char *to, size_t apart, const float *const row[16], int at, int inputs) {
    for (int half = 0; half < 2; half++, to += TILE_BYTES / 2, at += W, inputs -= W) {
        vi v[W];
        if (inputs >= W && row[15]) {
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) {
                __builtin_prefetch(row[i] + at + 4 * W);
                v[i] = *(const vi_any *)(row[i] + at);
            }
        } else {
            for (int i = 0; i < 16; i++) {
                v[i] = (vi){0};
                if (row[i] && inputs > 0) memcpy(&v[i], row[i] + at, (size_t)least(W, inputs) * sizeof(float));
            }
        }
        split_square(to, apart, v);
    }
}

static void split_item(void *ctx, int item, int thread) {
    const amx_run *run = ctx;
    const int k = run->a->w->w.k, tile = item % run->tiles, from = item / run->tiles * SPLIT_STEPS, to = least(from + SPLIT_STEPS, run->steps);
    const float *row[16];
    size_t apart;

    (void)thread;
    for (int i = 0; i < 16; i++) row[i] = tile * 16 + i < run->a->m ? (const float *)run->a->x + (size_t)(tile * 16 + i) * (size_t)k : NULL;
    for (int s = from; s < to; s++) {
        char *at = part_at(run, tile, s, &apart);
        split_step(at, apart, row, s * STEP, k - s * STEP);
    }
}

/* ---- products ------------------------------------------------------------------------------------------------------------- */

/* Rows of a panel from one block on; NULL past the last output. */
static void rows_of(const amx_run *run, const char *row[PANEL], int j, int step) {
    for (int r = 0; r < PANEL; r++) row[r] = j + r < run->a->w->w.n ? sc_bf16_row(run->a->w, j + r) + (size_t)step * STEP * 2 : NULL;
}

/* panel [step][32][64 bytes], four steps of each row at a time. The rows are far apart, more streams than the processor follows by itself, hence
 * the prefetch, which matters where there are few tokens. */
static void copy_panel(char *panel, const char *const row[PANEL], int inputs) {
    enum { RUN = 4, AHEAD = 512 };

    for (int at = 0; at < inputs; at += RUN * STEP)
        for (int r = 0; r < PANEL; r++) {
            char *to = panel + at / STEP * PANEL * 64 + r * 64;
            for (int i = at; i < inputs && i < at + RUN * STEP; i += STEP, to += PANEL * 64) {
                const char *from = row[r] + 2 * (size_t)i;
                if (!row[r]) memset(to, 0, 64);
                else if (i + STEP <= inputs) __builtin_prefetch(from + AHEAD, 0, 2), memcpy(to, from, 64);
                else memset(to, 0, 64), memcpy(to, from, (size_t)(inputs - i) * 2);
            }
        }
}

/* sums [width][2][16 outputs][16 tokens] (+)= panel . one pair of tiles of tokens, or the last of a group alone. */
INLINE void multiply(const int width, const char *panel, const char *parts, float *sums, int steps, bool add) {
    TILE_SYNC();
    if (add) {
        TILE_LOAD(0, sums);
        TILE_LOAD(1, sums + 256);
        if (width == 2) { TILE_LOAD(2, sums + 512); TILE_LOAD(3, sums + 768); }
    } else {
        TILE_ZERO(0);
        TILE_ZERO(1);
        if (width == 2) { TILE_ZERO(2); TILE_ZERO(3); }
    }
    for (int s = 0; s < steps; s++) {
        TILE_LOAD(4, panel);
        TILE_LOAD(5, panel + TILE_BYTES);
        panel += 2 * TILE_BYTES;
#pragma GCC unroll 3
        for (int part = 0; part < PARTS; part++) {
            TILE_LOAD(6, parts);
            TILE_PRODUCT(0, 4, 6);
            TILE_PRODUCT(1, 5, 6);
            parts += TILE_BYTES;
            if (width == 1) continue;
            TILE_LOAD(7, parts);
            TILE_PRODUCT(2, 4, 7);
            TILE_PRODUCT(3, 5, 7);
            parts += TILE_BYTES;
        }
    }
    TILE_STORE(0, sums);
    TILE_STORE(1, sums + 256);
    if (width == 2) { TILE_STORE(2, sums + 512); TILE_STORE(3, sums + 768); }
}

static void multiply_two(const char *panel, const char *parts, float *sums, int steps, bool add) { multiply(2, panel, parts, sums, steps, add); }
static void multiply_one(const char *panel, const char *parts, float *sums, int steps, bool add) { multiply(1, panel, parts, sums, steps, add); }

/* A group's sums [panel][tile][2][16][16] of outputs j0 .. j1 - 1. */
static void finish(const amx_run *run, int first, int count, int j0, int j1, const float *sums, float *rows) {
    for (int t = 0; t < count; t++) {
        const int i0 = (first + t) * 16;
        for (int j = j0; j < j1; j += 16) {
            const float *from = sums + ((size_t)((j - j0) / PANEL * count + t) * 2 + (size_t)((j - j0) / 16 % 2)) * 256;
            vi v[W];
            for (int i = 0; i < W; i++) v[i] = *(const vi_any *)(from + 16 * i);
            transpose(v);
            for (int i = 0; i < W; i++) *(vi_any *)(rows + i * run->cols + (j - j0)) = v[i];
        }
        sc_linear_finish(run->a, run->kern, i0, least(i0 + 16, run->a->m), j0, j1 - j0, rows, run->cols);
    }
}

static void product_item(void *ctx, int item, int thread) {
    const amx_run *run = ctx;
    const int n = run->a->w->w.n, k = run->a->w->w.k, first = item % run->groups * run->group, count = least(run->group, run->tiles - first);
    const int j0 = item / run->groups * run->cols, j1 = least(j0 + run->cols, n);
    char *panel = run->work + (size_t)thread * run->work_bytes;
    float *sums = (float *)(panel + (size_t)run->depth * PANEL * 64), *turned = sums + (size_t)run->cols / PANEL * (size_t)count * 512;

    TILE_BEGIN();
    for (int start = 0; start < run->steps; start += run->depth) {
        const int depth = least(run->depth, run->steps - start);
        for (int j = j0; j < j1; j += PANEL) {
            const char *row[PANEL];
            rows_of(run, row, j, start);
            copy_panel(panel, row, least(k - start * STEP, depth * STEP));
            for (int t = 0; t < count; t += 2) {
                size_t apart;
                const char *parts = part_at(run, first + t, start, &apart);
                (t + 1 < count ? multiply_two : multiply_one)(panel, parts, sums + ((size_t)((j - j0) / PANEL) * (size_t)count + (size_t)t) * 512, depth, start > 0);
            }
        }
    }
    TILE_END();
    finish(run, first, count, j0, j1, sums, turned);
}

sc_status sc_amx_linear(sc_device *dev, const sc_linear_args *a, sc_error *err) {
    sc_cpu_device *cpu = sc_cpu(dev);
    const int threads = sc_pool_threads(cpu->pool), n = a->w->w.n;
    amx_run run = {.a = a, .kern = cpu->kern, .tiles = (a->m + 15) / 16, .steps = (a->w->w.k + STEP - 1) / STEP, .cols = COLS};
    void *memory;
    sc_status rc;

    assert(a->out_type == SC_F32 && a->w->parts > 0);
    if (!a->m) return SC_OK;
    run.groups = (run.tiles + GROUP_TILES - 1) / GROUP_TILES;
    run.group = ((run.tiles + run.groups - 1) / run.groups + 1) / 2 * 2;
    run.groups = (run.tiles + run.group - 1) / run.group;
    run.depth = least(BLOCK_STEPS / least(run.group, run.tiles), run.steps);
    while (run.cols > PANEL && (n + run.cols - 1) / run.cols * run.groups < 4 * threads) run.cols /= 2; /* so that all cores get some */
    run.work_bytes = (size_t)run.depth * PANEL * 64 + ((size_t)run.cols / PANEL * (size_t)run.group * 512 + 16 * (size_t)run.cols) * sizeof(float);
    const size_t parts_bytes = (size_t)run.tiles * (size_t)run.steps * PARTS * TILE_BYTES;
    if ((rc = sc_cpu_scratch(dev, &memory, parts_bytes + run.work_bytes * (size_t)threads, err))) return rc;
    run.parts = memory;
    run.work = run.parts + parts_bytes;
    sc_pool_run(cpu->pool, split_item, &run, run.tiles * ((run.steps + SPLIT_STEPS - 1) / SPLIT_STEPS));
    sc_pool_run(cpu->pool, product_item, &run, (n + run.cols - 1) / run.cols * run.groups);
    return SC_OK;
}

#else

bool sc_amx_ready(void) { return false; }

sc_status sc_amx_linear(sc_device *dev, const sc_linear_args *a, sc_error *err) {
    (void)dev, (void)a;
    return sc_fail(err, SC_EINVAL, "this build has no AMX");
}

#endif

/* conv.c - the decoder's convolutions on all cores.
 *
 * 3x3 with stride 1 runs as Winograd F(4x4, 3x3): 36 products instead of 144 for a 4x4 patch of the output. Weights are transformed
 * when the filter is made (in double, rounded once). An item of work is a run of tiles, in all frames:
 *
 *     V[36][frame][tile][channels]  = transformed input            (L2)
 *     for each panel of 2 vectors of output channels:
 *         M[36][frame][tile][panel] = V[point] . U[panel][point]   (36 products, weights streamed once per item)
 *         out = inverse transform of M, bias, residual, relu
 *
 * With a past, V holds one frame more, the past first: frame i's rows are the x of frame i and, one frame further up, the past
 * of frame i + 1, so each is transformed once and a product takes its two halves of k from two places of the same array. A causal
 * convolution of three frames is the same with two frames more and three parts of k.
 * An input doubled by nearest neighbour is never made: the transform reads pixel (y / 2, x / 2). A doubled row [a b b c c d]
 * has a zero product for the point -1 of the usual set, but not for ours, which is worth more in accuracy.
 * Run length: V and M together stay near 600 KB, so that they and the weights of a panel fit in 1 MB; runs are made even. Layers so
 * wide that few rows fit (the Wan VAE's) take LEAST_ROWS anyway: their weights come from memory and are worth more rows.
 *
 * The rest (size 1, stride 2, taps in time alone, grow, pool) is one product: rows of the input are gathered (a plain size 1 reads them in place)
 * and multiplied by the packed weights.
 *
 * Every output is computed by one thread with its sums in a fixed order, whatever the run length.
 * Counted as direct convolutions the pocket decoder is 46 GFLOP a chunk; 11.5 of them are left.
 * Source: Lavin and Gray, Fast algorithms for convolutional neural networks (2015); the points: conv_kernels.h. */
#include "kernels/cpu/conv.h"
#include "kernels/cpu/conv_kernels.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { RUN_BYTES = 600 << 10, LEAST_ROWS = 28, GATHER_BYTES = 192 << 10, GATHER_ROWS = 56, FRAMES = 16 /* of one pass over an item */ };

static const sc_conv_kernels *kernels(sc_device *dev) {
#if defined(__x86_64__)
    if (sc_cpu(dev)->isa == SC_ISA_AVX512) return &sc_conv_avx512;
    if (sc_cpu(dev)->isa == SC_ISA_AVX2) return &sc_conv_avx2;
#endif
    (void)dev;
    return &sc_conv_portable;
}

static int round_up(int n, int to) { return (n + to - 1) / to * to; }
static int least(int a, int b) { return a < b ? a : b; }

/* Width of the panel that starts at output channel o. */
static int panel_width(const sc_conv_kernels *k, int out_ch, int o) { return out_ch - o > k->lanes ? k->panel : k->lanes; }

/* ---- filters ------------------------------------------------------------------------------------------------------------ */

/* G of F(4x4, 3x3): row i = (1, p, p^2) / prod (p - q) over the other finite points q; the last is infinity. */
static void weight_transform(double g[6][3]) {
    const double p[5] = {0, SC_WINO_A, -SC_WINO_A, SC_WINO_B, -SC_WINO_B};
    for (int i = 0; i < 5; i++) {
        double scale = 1;
        for (int q = 0; q < 5; q++)
            if (q != i) scale *= p[i] - p[q];
        g[i][0] = 1 / scale;
        g[i][1] = p[i] / scale;
        g[i][2] = p[i] * p[i] / scale;
    }
    g[5][0] = g[5][1] = 0;
    g[5][2] = 1;
}

/* Depth of the product: tap in time, then channel, oldest frame first; with a past as in the file, x before past. */
static void pack_wino(const sc_conv_kernels *k, sc_filter *f, const float *flat) {
    const int depth = f->taps * f->in_ch;
    double g[6][3];
    weight_transform(g);
    for (int o0 = 0; o0 < f->out_ch; o0 += k->panel) {
        const int width = panel_width(k, f->out_ch, o0);
        float *panel = f->wino + (size_t)o0 * SC_WINO_POINTS * (size_t)depth;
        for (int o = o0; o < least(o0 + width, f->out_ch); o++)
            for (int i = 0; i < depth; i++) {
                const float *w = flat + (((size_t)o * (size_t)f->in_ch + (size_t)(i % f->in_ch)) * (size_t)f->taps + (size_t)(i / f->in_ch)) * 9;
                double half[6][3];
                for (int r = 0; r < 6; r++)
                    for (int c = 0; c < 3; c++) half[r][c] = g[r][0] * w[c] + g[r][1] * w[3 + c] + g[r][2] * w[6 + c];
                for (int r = 0; r < 6; r++)
                    for (int c = 0; c < 6; c++)
                        panel[((size_t)(r * 6 + c) * (size_t)depth + (size_t)i) * (size_t)width + (size_t)(o - o0)] =
                            (float)(half[r][0] * g[c][0] + half[r][1] * g[c][1] + half[r][2] * g[c][2]);
            }
    }
}

/* Rows of the product in the order in which gather() writes them: tap in time, in the picture, then channel. */
static void pack_gemm(const sc_conv_kernels *k, sc_filter *f, const float *flat) {
    const size_t taps = (size_t)f->taps * (size_t)f->size * (size_t)f->size, in = (size_t)f->in_ch;
    for (int o0 = 0; o0 < f->out_ch; o0 += k->panel) {
        const int width = panel_width(k, f->out_ch, o0);
        float *panel = f->gemm + (size_t)o0 * taps * in;
        for (int o = o0; o < least(o0 + width, f->out_ch); o++)
            for (size_t i = 0; i < in; i++)
                for (size_t t = 0; t < taps; t++) panel[(t * in + i) * (size_t)width + (size_t)(o - o0)] = flat[((size_t)o * in + i) * taps + t];
    }
}

sc_status sc_fast_filter_create(sc_device *dev, sc_filter **out, const sc_filter_desc *d, sc_error *err) {
    const sc_conv_kernels *k = kernels(dev);
    const size_t frames = (size_t)(d->taps ? d->taps : 1), taps = frames * (size_t)d->size * (size_t)d->size;
    const size_t count = (size_t)d->out_ch * (size_t)d->in_ch * taps;
    const bool wino = d->size == 3 && d->stride == 1 && d->time_stride < 2;
    const size_t packed = (size_t)round_up(d->out_ch, k->lanes) * (size_t)d->in_ch * (wino ? frames * SC_WINO_POINTS : taps) * sizeof(float);
    const size_t bias_bytes = (size_t)(round_up(d->out_ch, k->panel) + k->panel) * sizeof(float); /* finish() starts anywhere */
    sc_filter *f = calloc(1, sizeof *f);
    float *flat = malloc(count * sizeof *flat), *weights = sc_cpu_aligned(packed);
    *out = NULL;
    if (f) {
        *(wino ? &f->wino : &f->gemm) = weights;
        f->bias = sc_cpu_aligned(bias_bytes);
    }
    if (!f || !flat || !weights || !f->bias) {
        free(flat);
        if (!f) free(weights);
        sc_fast_filter_destroy(dev, f);
        return sc_fail(err, SC_ENOMEM, "filter %d x %d x %d x %d: out of memory", d->out_ch, d->in_ch, d->size, d->size);
    }
    sc_filter_sizes(f, d);
    memset(weights, 0, packed); /* channels past out_ch */
    memset(f->bias, 0, bias_bytes);
    sc_to_f32(flat, d->data, d->type, count);
    if (wino) pack_wino(k, f, flat);
    else pack_gemm(k, f, flat);
    if (d->bias) sc_to_f32(f->bias, d->bias, d->bias_type, (size_t)d->out_ch);
    free(flat);
    *out = f;
    return SC_OK;
}

void sc_fast_filter_destroy(sc_device *dev, sc_filter *f) {
    (void)dev;
    if (!f) return;
    free(f->bias);
    free(f->gemm);
    free(f->wino);
    free(f);
}

/* ---- Winograd ----------------------------------------------------------------------------------------------------------- */

typedef struct {
    const sc_conv_kernels *k;
    const sc_conv_args *a;
    const sc_filter *f;
    int ch, ch_pad, extra;  /* channels of x, and rounded up to whole vectors; frames of the past */
    int H, W, up, down, across; /* output size, doubling, tiles */
    int run, frames;        /* tiles of an item, frames of a pass */
    char *scratch;          /* per thread: V, M, then a patch */
    size_t v_bytes, m_bytes, thread_bytes;
    const float *zeros;     /* [ch_pad] */
} wino_job;

/* Distance between points in floats: an odd number of cache lines, or the 36 of a tile would meet in a few sets of the L1. */
static size_t point_stride(size_t rows, int width) {
    size_t lines = (rows * (size_t)width + 15) / 16;
    return (lines | 1) * 16;
}

/* Where the 36 pixels under `tile` lie in `frame`: outside the picture in the zeros; channels that do not fill vectors are copied. */
static void find_patch(const wino_job *j, const float *src[SC_WINO_POINTS], const float *frame, int tile, float *patch) {
    const int y0 = tile / j->across * SC_WINO_TILE - 1, x0 = tile % j->across * SC_WINO_TILE - 1;
    const size_t row = (size_t)j->a->w_px * (size_t)j->ch;
    size_t at[6];
    bool in[6];
    for (int c = 0; c < 6; c++) {
        in[c] = x0 + c >= 0 && x0 + c < j->W;
        at[c] = in[c] ? (size_t)((x0 + c) >> j->up) * (size_t)j->ch : 0;
    }
    for (int r = 0; r < 6; r++) {
        const bool inside = y0 + r >= 0 && y0 + r < j->H;
        const float *line = inside ? frame + (size_t)((y0 + r) >> j->up) * row : NULL;
        for (int c = 0; c < 6; c++) src[r * 6 + c] = inside && in[c] ? line + at[c] : j->zeros;
    }
    if (j->ch == j->ch_pad) return;
    for (int i = 0; i < SC_WINO_POINTS; i++, patch += j->ch_pad) {
        memcpy(patch, src[i], (size_t)j->ch * sizeof *patch);
        memset(patch + j->ch, 0, (size_t)(j->ch_pad - j->ch) * sizeof *patch);
        src[i] = patch;
    }
}

/* Frames [first, first + n) of the tiles [t0, t0 + tiles). */
static void wino_pass(const wino_job *j, int first, int n, int t0, int tiles, float *v, float *m, float *patch) {
    const sc_conv_kernels *k = j->k;
    const sc_filter *f = j->f;
    const int extra = j->extra, parts = extra + 1, width_of_v = j->ch_pad, rows = n * tiles;
    const size_t frame = (size_t)j->a->h * (size_t)j->a->w_px * (size_t)j->ch, picture = (size_t)j->H * (size_t)j->W * (size_t)f->out_ch;
    const size_t v_stride = point_stride((size_t)(n + extra) * (size_t)tiles, width_of_v);
    const float *x = j->a->x, *src[SC_WINO_POINTS];

    for (int i = 0; i < n + extra; i++) {
        const int at = first + i - extra;
        for (int t = 0; t < tiles; t++) {
            find_patch(j, src, at < 0 ? (const float *)j->a->past + (size_t)(extra + at) * frame : x + (size_t)at * frame, t0 + t, patch);
            k->wino_in(v + (size_t)(i * tiles + t) * (size_t)width_of_v, v_stride, src, j->ch_pad);
        }
    }
    for (int o = 0; o < f->out_ch; o += k->panel) {
        const int width = panel_width(k, f->out_ch, o);
        const size_t m_stride = point_stride((size_t)rows, width);
        const float *u = f->wino + (size_t)o * SC_WINO_POINTS * (size_t)(parts * j->ch), *part[SC_CONV_PARTS];
        for (int p = 0; p < SC_WINO_POINTS; p++, u += (size_t)(parts * j->ch) * (size_t)width) {
            for (int i = 0; i < parts; i++)
                part[i] = v + (size_t)p * v_stride + (size_t)((f->has_past ? extra - i : i) * tiles) * (size_t)width_of_v;
            k->gemm(m + (size_t)p * m_stride, part, parts, j->ch, (size_t)width_of_v, u, rows, width);
        }
        for (int r = 0; r < rows; r++) {
            const int tile = t0 + r % tiles, y0 = tile / j->across * SC_WINO_TILE, x0 = tile % j->across * SC_WINO_TILE;
            const size_t at = (size_t)(first + r / tiles) * picture + ((size_t)y0 * (size_t)j->W + (size_t)x0) * (size_t)f->out_ch + (size_t)o;
            k->wino_out(&(sc_wino_out_args){.m = m + (size_t)r * (size_t)width, .stride = m_stride, .bias = f->bias + o,
                                            .residual = j->a->residual ? (const float *)j->a->residual + at : NULL, .out = (float *)j->a->out + at,
                                            .row = (size_t)j->W * (size_t)f->out_ch, .pixel = (size_t)f->out_ch, .width = width,
                                            .channels = least(width, f->out_ch - o), .rows = least(SC_WINO_TILE, j->H - y0),
                                            .cols = least(SC_WINO_TILE, j->W - x0), .relu = j->a->relu});
        }
    }
}

static void wino_item(void *ctx, int item, int thread) {
    const wino_job *j = ctx;
    char *mine = j->scratch + (size_t)thread * j->thread_bytes;
    const int t0 = item * j->run, tiles = least(j->run, j->down * j->across - t0);
    for (int first = 0; first < j->a->n; first += j->frames)
        wino_pass(j, first, least(j->frames, j->a->n - first), t0, tiles, (float *)mine, (float *)(mine + j->v_bytes),
                  (float *)(mine + j->v_bytes + j->m_bytes));
}

static sc_status wino_conv(sc_device *dev, const sc_conv_args *a, sc_error *err) {
    const sc_conv_kernels *k = kernels(dev);
    const sc_filter *f = a->w;
    sc_pool *pool = sc_cpu(dev)->pool;
    const int threads = sc_pool_threads(pool), extra = f->has_past ? 1 : f->taps - 1;
    wino_job j = {.k = k, .a = a, .f = f, .extra = extra, .up = a->upsample, .H = sc_conv_out(a->h, a->upsample, 1), .W = sc_conv_out(a->w_px, a->upsample, 1)};
    j.ch = f->has_past ? f->in_ch / 2 : f->in_ch;
    j.ch_pad = round_up(j.ch, k->lanes);
    j.down = (j.H + SC_WINO_TILE - 1) / SC_WINO_TILE;
    j.across = (j.W + SC_WINO_TILE - 1) / SC_WINO_TILE;
    j.frames = least(a->n, FRAMES);

    const size_t tile_bytes = sizeof(float) * SC_WINO_POINTS * ((size_t)(j.frames + extra) * (size_t)j.ch_pad + (size_t)j.frames * (size_t)k->panel);
    const int tiles = j.down * j.across, fit = tile_bytes < RUN_BYTES ? (int)(RUN_BYTES / tile_bytes) : 1;
    const int most = fit * j.frames >= LEAST_ROWS / 2 ? fit : (LEAST_ROWS + j.frames - 1) / j.frames;
    const int items = round_up((tiles + most - 1) / most, threads); /* an even share for every thread */
    j.run = (tiles + items - 1) / items;

    const size_t patch = (size_t)SC_WINO_POINTS * (size_t)j.ch_pad * sizeof(float), zeros = (size_t)j.ch_pad * sizeof(float);
    void *scratch;
    j.v_bytes = SC_WINO_POINTS * sizeof(float) * point_stride((size_t)(j.frames + extra) * (size_t)j.run, j.ch_pad);
    j.m_bytes = SC_WINO_POINTS * sizeof(float) * point_stride((size_t)j.frames * (size_t)j.run, k->panel);
    j.thread_bytes = (j.v_bytes + j.m_bytes + patch + 63) / 64 * 64;
    sc_status rc = sc_cpu_scratch(dev, &scratch, j.thread_bytes * (size_t)threads + zeros, err);
    if (rc) return rc;
    j.scratch = scratch;
    j.zeros = memset(j.scratch + j.thread_bytes * (size_t)threads, 0, zeros);
    sc_pool_run(pool, wino_item, &j, (tiles + j.run - 1) / j.run);
    return SC_OK;
}

/* ---- direct form -------------------------------------------------------------------------------------------------------- */

typedef struct {
    const sc_conv_kernels *k;
    const sc_filter *f;
    const float *x, *past, *residual;
    float *out;
    int h, w, up, oh, ow;   /* of x, and of the output */
    int grow, pool;         /* frames that an output's, an input's channels are dealt to; 1 = none */
    int keep;               /* of the frames one in `keep` is made, the last */
    bool relu, in_place;
    long rows;              /* n * oh * ow */
    int run;                /* rows of an item */
    char *scratch;          /* per thread: gathered rows, then the product */
    size_t gather_bytes, thread_bytes;
} direct_job;

/* The input values under output row `r`, in the order of the packed weights. */
static void gather(const direct_job *j, long r, float *to) {
    const sc_filter *f = j->f;
    const int ch = f->in_ch / (f->has_past ? 2 : j->pool), pad = f->pad_end ? 0 : f->size / 2, per_frame = f->size * f->size;
    const long n = r / ((long)j->oh * j->ow), last = (n + 1) * j->keep - 1; /* frame that the newest tap sees */
    const int y = (int)(r / j->ow % j->oh), x = (int)(r % j->ow);
    const size_t bytes = (size_t)ch * sizeof *to, frame = (size_t)j->h * (size_t)j->w * (size_t)ch;
    for (int tap = 0; tap < f->taps * per_frame; tap++, to += f->in_ch) {
        const int sy = y * f->stride + tap % per_frame / f->size - pad, sx = x * f->stride + tap % f->size - pad;
        const long from = last - (f->taps - 1) + tap / per_frame;
        if (sy < 0 || sy >= j->h << j->up || sx < 0 || sx >= j->w << j->up) {
            memset(to, 0, (size_t)f->in_ch * sizeof *to);
            continue;
        }
        const size_t at = ((size_t)(sy >> j->up) * (size_t)j->w + (size_t)(sx >> j->up)) * (size_t)ch;
        if (f->has_past) {
            memcpy(to, j->x + (size_t)n * frame + at, bytes);
            memcpy(to + ch, (n ? j->x + (size_t)(n - 1) * frame : j->past) + at, bytes);
        } else if (j->pool > 1) {
            for (int i = 0; i < j->pool; i++) memcpy(to + (size_t)i * (size_t)ch, j->x + (size_t)(n * j->pool + i) * frame + at, bytes);
        } else {
            memcpy(to, (from >= 0 ? j->x + (size_t)from * frame : j->past + (size_t)(from + f->taps - 1) * frame) + at, bytes);
        }
    }
}

static void direct_item(void *ctx, int item, int thread) {
    const direct_job *j = ctx;
    const sc_conv_kernels *k = j->k;
    const sc_filter *f = j->f;
    float *rows_of_x = (float *)(j->scratch + (size_t)thread * j->thread_bytes), *m = (float *)((char *)rows_of_x + j->gather_bytes);
    const long first = (long)item * j->run, picture = (long)j->oh * j->ow;
    const int rows = j->rows - first < j->run ? (int)(j->rows - first) : j->run;
    const size_t depth = (size_t)f->taps * (size_t)f->in_ch * (size_t)f->size * (size_t)f->size;
    const float *x = j->in_place ? j->x + (size_t)first * depth : rows_of_x, *const parts[SC_CONV_PARTS] = {x};
    const int c = f->out_ch / j->grow; /* channels of an output frame */

    if (!j->in_place)
        for (int r = 0; r < rows; r++) gather(j, first + r, rows_of_x + (size_t)r * depth);
    for (int o0 = 0; o0 < f->out_ch; o0 += k->panel) {
        const int width = panel_width(k, f->out_ch, o0), end = least(o0 + width, f->out_ch);
        k->gemm(m, parts, 1, (int)depth, depth, f->gemm + (size_t)o0 * depth, rows, width);
        for (int o = o0, count; o < end; o += count) { /* pieces that go to one frame */
            const int group = o / c;
            count = least(end, (group + 1) * c) - o;
            for (int r = 0; r < rows; r++) {
                const long n = (first + r) / picture, pixel = (first + r) % picture;
                const size_t at = (size_t)((n * j->grow + group) * picture + pixel) * (size_t)c + (size_t)(o - group * c);
                k->finish(j->out + at, m + (size_t)r * (size_t)width + (size_t)(o - o0), f->bias + o, j->residual ? j->residual + at : NULL, count, j->relu);
            }
        }
    }
}

static sc_status run_direct(sc_device *dev, direct_job *j, int n, sc_error *err) {
    const int threads = sc_pool_threads(sc_cpu(dev)->pool);
    const size_t depth = (size_t)j->f->taps * (size_t)j->f->in_ch * (size_t)j->f->size * (size_t)j->f->size;
    void *scratch;
    j->k = kernels(dev);
    j->in_place = j->f->size == 1 && j->f->stride == 1 && j->f->taps == 1 && j->keep == 1 && !j->f->has_past && !j->up && j->pool == 1;
    j->rows = (long)n * j->oh * j->ow;
    j->run = depth * sizeof(float) * GATHER_ROWS <= GATHER_BYTES ? GATHER_ROWS : (int)(GATHER_BYTES / (depth * sizeof(float))) + 1;
    j->gather_bytes = j->in_place ? 0 : ((size_t)j->run * depth * sizeof(float) + 63) / 64 * 64;
    /* finish() reads whole vectors from pieces that may start anywhere, hence the row of slack */
    j->thread_bytes = j->gather_bytes + ((size_t)(j->run + 1) * (size_t)j->k->panel * sizeof(float) + 63) / 64 * 64;
    sc_status rc = sc_cpu_scratch(dev, &scratch, j->thread_bytes * (size_t)threads, err);
    if (rc) return rc;
    j->scratch = scratch;
    sc_pool_run(sc_cpu(dev)->pool, direct_item, j, (int)((j->rows + j->run - 1) / j->run));
    return SC_OK;
}

/* ---- operations --------------------------------------------------------------------------------------------------------- */

sc_status sc_fast_conv(sc_device *dev, const sc_conv_args *a, sc_error *err) {
    const sc_filter *f = a->w;
    const int oh = sc_conv_out(a->h, a->upsample, f->stride), ow = sc_conv_out(a->w_px, a->upsample, f->stride);
    const size_t kept = (size_t)oh * (size_t)ow * (size_t)f->out_ch * sizeof(float);
    assert((!f->has_past || a->past) && f->taps == 1 && f->time_stride == 1 && !f->pad_end && a->s <= 1 && (!a->keep || a->residual));
    if (a->keep && a->n > 0) memcpy(a->keep, (const char *)a->residual + (size_t)(a->n - 1) * kept, kept);
    if (f->wino) return wino_conv(dev, a, err);
    return run_direct(dev, &(direct_job){.f = f, .x = a->x, .past = a->past, .residual = a->residual, .out = a->out, .h = a->h, .w = a->w_px,
                                         .up = a->upsample, .oh = oh, .ow = ow, .grow = 1, .pool = 1, .keep = 1, .relu = a->relu}, a->n, err);
}

sc_status sc_fast_conv3(sc_device *dev, const sc_conv3_args *a, sc_error *err) {
    const sc_filter *f = a->w;
    const int split = a->split ? a->split : 1, oh = sc_conv_out(a->h, a->upsample, f->stride), ow = sc_conv_out(a->w_px, a->upsample, f->stride), made = a->n / f->time_stride;
    void *const out = a->out ? a->out : a->then->out;
    assert((f->taps == 1 || a->past) && f->out_ch % split == 0 && !f->has_past);
    assert(split == 1 || f->size == 1);
    const sc_status rc = f->wino ? wino_conv(dev, &(sc_conv_args){.w = f, .x = a->x, .past = a->past, .residual = a->residual, .out = out, .n = a->n, .h = a->h,
                                                                  .w_px = a->w_px, .upsample = a->upsample}, err)
                                 : run_direct(dev, &(direct_job){.f = f, .x = a->x, .past = a->past, .residual = a->residual, .out = out, .h = a->h, .w = a->w_px,
                                                                 .up = a->upsample, .oh = oh, .ow = ow, .grow = split, .pool = 1, .keep = f->time_stride}, made, err);
    if (rc || !a->then) return rc;
    return sc_fast_channel_norm(dev, &(sc_channel_norm_args){out, a->then->out, a->then->gamma, (size_t)(made * split) * (size_t)oh * (size_t)ow, f->out_ch / split,
                                                             a->then->silu}, err);
}

sc_status sc_fast_grow(sc_device *dev, const sc_grow_args *a, sc_error *err) {
    assert(a->w->size == 1 && a->w->stride == 1 && !a->w->has_past && a->w->out_ch % a->s == 0);
    return run_direct(dev, &(direct_job){.f = a->w, .x = a->x, .out = a->out, .h = a->h, .w = a->w_px, .oh = a->h, .ow = a->w_px, .grow = a->s, .pool = 1, .keep = 1},
                      a->n, err);
}

sc_status sc_fast_pool(sc_device *dev, const sc_pool_args *a, sc_error *err) {
    assert(a->w->size == 1 && a->w->stride == 1 && !a->w->has_past && a->w->in_ch % a->s == 0);
    return run_direct(dev, &(direct_job){.f = a->w, .x = a->x, .out = a->out, .h = a->h, .w = a->w_px, .oh = a->h, .ow = a->w_px, .grow = 1, .pool = a->s, .keep = 1},
                      a->n, err);
}

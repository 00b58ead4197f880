/* vae.c - the Wan VAE's norm, attention and first step on all cores; its convolutions are conv.c's.
 *
 * The norm passes over its data twice while it lies in the nearest cache and is bound by memory. Attention looks at one frame at a
 * time with a single head as wide as the layer (384): items of 64 queries, keys in pieces of 64, kernels.inc's attend. Every output
 * is computed by one thread in a fixed order, so a frame's values do not depend on how many frames come with it. */
#include "kernels/cpu/conv.h"
#include "kernels/cpu/isa.h"

#include <assert.h>
#include <math.h>

enum { ROW_ITEM = 64, PIECE = 64 };

static void planes_item(void *ctx, int item, int thread) {
    (void)thread;
    sc_planes_frame(ctx, item);
}

sc_status sc_fast_planes_in(sc_device *dev, const sc_planes_in_args *a, sc_error *err) {
    (void)err;
    assert(a->first >= 0 && a->first + a->n <= a->frames && !a->scale == !a->shift);
    sc_pool_run(sc_cpu(dev)->pool, planes_item, (void *)a, a->n);
    return SC_OK;
}

typedef struct { const sc_isa_kernels *kern; const sc_channel_norm_args *a; } norm_run;

static void norm_item(void *ctx, int item, int thread) {
    const norm_run *run = ctx;
    const sc_channel_norm_args *a = run->a;
    const size_t first = (size_t)item * ROW_ITEM, end = first + ROW_ITEM < a->rows ? first + ROW_ITEM : a->rows, ch = (size_t)a->ch;
    const float *x = (const float *)a->x + first * ch;
    float *out = (float *)a->out + first * ch;

    (void)thread;
    for (size_t r = first; r < end; r++, x += ch, out += ch) {
        const double length = sqrt((double)run->kern->dot(x, x, a->ch));
        const float scale = (float)(sqrt((double)a->ch) / (length > 1e-12 ? length : 1e-12));
        for (size_t c = 0; c < ch; c++) out[c] = x[c] * scale * a->gamma[c];
    }
    if (a->silu) run->kern->silu((float *)a->out + first * ch, (float *)a->out + first * ch, (end - first) * ch);
}

sc_status sc_fast_channel_norm(sc_device *dev, const sc_channel_norm_args *a, sc_error *err) {
    norm_run run = {sc_cpu(dev)->kern, a};
    (void)err;
    sc_pool_run(sc_cpu(dev)->pool, norm_item, &run, (int)((a->rows + ROW_ITEM - 1) / ROW_ITEM));
    return SC_OK;
}

typedef struct {
    const sc_isa_kernels *kern;
    const sc_frame_attention_args *a;
    int pieces;       /* of 64 queries or keys in a frame */
    char *work;       /* per thread: what attend needs, then the list of keys */
    size_t attend_bytes, thread_bytes;
} attention_run;

static void attention_item(void *ctx, int item, int thread) {
    const attention_run *run = ctx;
    const sc_frame_attention_args *a = run->a;
    const ptrdiff_t ld = 3 * (ptrdiff_t)a->ch;
    const int frame = item / run->pieces, first = item % run->pieces * PIECE;
    const float *qkv = (const float *)a->qkv + (ptrdiff_t)frame * a->pixels * ld;
    char *work = run->work + (size_t)thread * run->thread_bytes;
    sc_attend_keys *keys = (sc_attend_keys *)(work + run->attend_bytes);

    for (int i = 0; i < run->pieces; i++) {
        const float *k = qkv + (ptrdiff_t)i * PIECE * ld + a->ch;
        keys[i] = (sc_attend_keys){k, k + a->ch, a->pixels - i * PIECE < PIECE ? a->pixels - i * PIECE : PIECE, -1};
    }
    run->kern->attend(&(sc_attend){.q = qkv + (ptrdiff_t)first * ld, .ldq = ld, .out = (float *)a->out + ((ptrdiff_t)frame * a->pixels + first) * a->ch,
        .ldo = a->ch, .queries = a->pixels - first < PIECE ? a->pixels - first : PIECE, .dim = a->ch, .scale = 1.0f / sqrtf((float)a->ch), .keys = keys,
        .lists = run->pieces, .ldk = ld, .ldv = ld, .work = work});
}

sc_status sc_fast_frame_attention(sc_device *dev, const sc_frame_attention_args *a, sc_error *err) {
    sc_cpu_device *cpu = sc_cpu(dev);
    attention_run run = {.kern = cpu->kern, .a = a, .pieces = (a->pixels + PIECE - 1) / PIECE};
    void *work;
    run.attend_bytes = (sc_attend_work(a->ch) + 63) / 64 * 64;
    run.thread_bytes = run.attend_bytes + ((size_t)run.pieces * sizeof(sc_attend_keys) + 63) / 64 * 64;
    sc_status rc = sc_cpu_scratch(dev, &work, run.thread_bytes * (size_t)sc_pool_threads(cpu->pool), err);
    if (rc) return rc;
    run.work = work;
    sc_pool_run(cpu->pool, attention_item, &run, a->n * run.pieces);
    return SC_OK;
}

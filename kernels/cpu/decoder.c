/* decoder.c - the decoder's first and last step on all cores: the twin's arithmetic, an item is a run of rows.
 *
 * Both are a small part of a chunk; what counts is that they do not run on one core while the others wait. Every output depends on
 * its own inputs alone, so the results are the twin's to the bit. */
#include "kernels/cpu/conv.h"

enum { PIXEL_ROWS = 8 };

static void latent_item(void *ctx, int item, int thread) {
    const sc_latent_in_args *a = ctx;
    (void)thread;
    sc_latent_frame(a, item);
}

sc_status sc_fast_latent_in(sc_device *dev, const sc_latent_in_args *a, sc_error *err) {
    (void)err;
    sc_pool_run(sc_cpu(dev)->pool, latent_item, (void *)a, a->frames);
    return SC_OK;
}

static void pixel_item(void *ctx, int item, int thread) {
    const sc_pixels_args *a = ctx;
    const int first = item * PIXEL_ROWS, left = a->n * a->h - first;
    (void)thread;
    sc_pixel_rows(a, first, left < PIXEL_ROWS ? left : PIXEL_ROWS);
}

sc_status sc_fast_pixels(sc_device *dev, const sc_pixels_args *a, sc_error *err) {
    (void)err;
    sc_pool_run(sc_cpu(dev)->pool, pixel_item, (void *)a, (a->n * a->h + PIXEL_ROWS - 1) / PIXEL_ROWS);
    return SC_OK;
}

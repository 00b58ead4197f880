/* twin_decoder.c - the decoder's operations (TAEHV) as plain loops: these lines define them.
 *
 * Pictures are NHWC, f32. A convolution runs over its window tap by tap with the output channels innermost, so the weights lie
 * [row][column][in][out]; taps outside the picture are zero and skipped. The nearest-neighbour doubling is a division of the
 * input coordinate by two. Sums are f32 in the order bias, taps row by row, input channels ascending.
 * Thread: engine, one thread.   Source: taehv.py (MemBlock, TGrow, TPool, Clamp), pixel shuffle as torch.nn.PixelShuffle. */
#include "kernels/cpu/conv.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void sc_filter_sizes(sc_filter *f, const sc_filter_desc *d) {
    f->out_ch = d->out_ch;
    f->in_ch = d->in_ch;
    f->size = d->size;
    f->stride = d->stride;
    f->has_past = d->has_past;
    f->pad_end = d->pad_end;
    f->taps = d->taps ? d->taps : 1;
    f->time_stride = d->time_stride ? d->time_stride : 1;
    assert((d->size == 1 || d->size == 3) && (d->stride == 1 || d->stride == 2) && !(d->has_past && d->in_ch % 2));
    assert(f->taps >= 1 && f->taps <= 3 && f->time_stride >= 1 && f->time_stride <= 2 && !(d->has_past && f->taps > 1));
    assert(!d->pad_end || (d->size == 3 && d->stride == 2));
}

sc_status sc_twin_filter_create(sc_device *dev, sc_filter **out, const sc_filter_desc *d, sc_error *err) {
    const size_t taps = (size_t)(d->taps ? d->taps : 1) * (size_t)d->size * (size_t)d->size, count = (size_t)d->out_ch * (size_t)d->in_ch * taps;
    sc_filter *f = calloc(1, sizeof *f);
    float *flat = malloc(count * sizeof *flat);
    (void)dev;
    *out = NULL;
    if (f) {
        f->tap = malloc(count * sizeof *f->tap);
        f->bias = calloc((size_t)d->out_ch, sizeof *f->bias);
    }
    if (!f || !flat || !f->tap || !f->bias) {
        free(flat);
        sc_twin_filter_destroy(dev, f);
        return sc_fail(err, SC_ENOMEM, "filter %d x %d x %d x %d: out of memory", d->out_ch, d->in_ch, d->size, d->size);
    }
    sc_filter_sizes(f, d);
    sc_to_f32(flat, d->data, d->type, count);
    for (int o = 0; o < d->out_ch; o++)
        for (int i = 0; i < d->in_ch; i++)
            for (size_t t = 0; t < taps; t++)
                f->tap[(t * (size_t)d->in_ch + (size_t)i) * (size_t)d->out_ch + (size_t)o] = flat[((size_t)o * (size_t)d->in_ch + (size_t)i) * taps + t];
    if (d->bias) sc_to_f32(f->bias, d->bias, d->bias_type, (size_t)d->out_ch);
    free(flat);
    *out = f;
    return SC_OK;
}

void sc_twin_filter_destroy(sc_device *dev, sc_filter *f) {
    (void)dev;
    if (!f) return;
    free(f->tap);
    free(f->bias);
    free(f);
}

/* sum[o] += w[i * ldw + o] * x[i] over `channels` input channels, o < count. */
static void add_tap(float *sum, const float *x, int channels, const float *w, int ldw, int count) {
    for (int i = 0; i < channels; i++)
        for (int o = 0; o < count; o++) sum[o] += w[(size_t)i * (size_t)ldw + (size_t)o] * x[i];
}

sc_status sc_twin_conv(sc_device *dev, const sc_conv_args *a, sc_error *err) {
    const sc_filter *f = a->w;
    const int up = a->upsample ? 2 : 1, pad = f->size / 2, oh = sc_conv_out(a->h, a->upsample, f->stride), ow = sc_conv_out(a->w_px, a->upsample, f->stride);
    const int ch = f->has_past ? f->in_ch / 2 : f->in_ch; /* channels of x */
    const int s = a->s > 1 ? a->s : 1, c = f->out_ch / s;
    const size_t row = (size_t)a->w_px * (size_t)ch, frame = (size_t)a->h * row;
    (void)dev;
    (void)err;
    assert((!f->has_past || a->past) && f->taps == 1 && f->time_stride == 1 && !f->pad_end);
    assert((s == 1 || (f->out_ch % s == 0 && !f->has_past && !a->residual)) && (!a->keep || a->residual));
    for (int m = 0; m < a->n * s; m++) {
        const int n = m / s, o0 = m % s * c;
        const float *x = (const float *)a->x + (size_t)n * frame;
        const float *past = n ? x - frame : (const float *)a->past;
        for (int y = 0; y < oh; y++)
            for (int xx = 0; xx < ow; xx++) {
                const size_t at = (((size_t)m * (size_t)oh + (size_t)y) * (size_t)ow + (size_t)xx) * (size_t)c;
                float *sum = (float *)a->out + at;
                for (int o = 0; o < c; o++) sum[o] = f->bias[o0 + o];
                for (int ky = 0; ky < f->size; ky++)
                    for (int kx = 0; kx < f->size; kx++) {
                        const int sy = y * f->stride + ky - pad, sx = xx * f->stride + kx - pad;
                        if (sy < 0 || sy >= a->h * up || sx < 0 || sx >= a->w_px * up) continue;
                        const size_t from = (size_t)(sy / up) * row + (size_t)(sx / up) * (size_t)ch;
                        const float *w = f->tap + (size_t)(ky * f->size + kx) * (size_t)f->in_ch * (size_t)f->out_ch + o0;
                        add_tap(sum, x + from, ch, w, f->out_ch, c);
                        if (f->has_past) add_tap(sum, past + from, ch, w + (size_t)ch * (size_t)f->out_ch, f->out_ch, c);
                    }
                for (int o = 0; o < c; o++) {
                    if (a->residual) sum[o] += ((const float *)a->residual)[at + (size_t)o];
                    if (a->relu && sum[o] < 0) sum[o] = 0;
                }
            }
    }
    const size_t kept = (size_t)oh * (size_t)ow * (size_t)f->out_ch;
    if (a->keep && a->n > 0) memcpy(a->keep, (const float *)a->residual + (size_t)(a->n - 1) * kept, kept * sizeof(float));
    return SC_OK;
}

/* Channel o of the product goes to frame o / c of the s new ones. */
sc_status sc_twin_grow(sc_device *dev, const sc_grow_args *a, sc_error *err) {
    const sc_filter *f = a->w;
    const size_t picture = (size_t)a->h * (size_t)a->w_px;
    const int c = f->out_ch / a->s;
    (void)dev;
    (void)err;
    assert(f->size == 1 && f->stride == 1 && !f->has_past && f->out_ch % a->s == 0);
    for (int n = 0; n < a->n; n++)
        for (size_t p = 0; p < picture; p++) {
            const float *x = (const float *)a->x + ((size_t)n * picture + p) * (size_t)f->in_ch;
            for (int k = 0; k < a->s; k++)
                for (int o = 0; o < c; o++) {
                    float sum = f->bias[k * c + o];
                    for (int i = 0; i < f->in_ch; i++) sum += f->tap[(size_t)i * (size_t)f->out_ch + (size_t)(k * c + o)] * x[i];
                    ((float *)a->out)[(((size_t)n * (size_t)a->s + (size_t)k) * picture + p) * (size_t)c + (size_t)o] = sum;
                }
        }
    return SC_OK;
}

/* Input channel k * c + i is channel i of the k-th (oldest first) of the s frames. */
sc_status sc_twin_pool(sc_device *dev, const sc_pool_args *a, sc_error *err) {
    const sc_filter *f = a->w;
    const size_t picture = (size_t)a->h * (size_t)a->w_px;
    const int c = f->in_ch / a->s;
    (void)dev;
    (void)err;
    assert(f->size == 1 && f->stride == 1 && !f->has_past && f->in_ch % a->s == 0);
    for (int n = 0; n < a->n; n++)
        for (size_t p = 0; p < picture; p++) {
            float *sum = (float *)a->out + ((size_t)n * picture + p) * (size_t)f->out_ch;
            for (int o = 0; o < f->out_ch; o++) sum[o] = f->bias[o];
            for (int k = 0; k < a->s; k++)
                add_tap(sum, (const float *)a->x + (((size_t)n * (size_t)a->s + (size_t)k) * picture + p) * (size_t)c, c,
                        f->tap + (size_t)k * (size_t)c * (size_t)f->out_ch, f->out_ch, f->out_ch);
        }
    return SC_OK;
}

void sc_latent_frame(const sc_latent_in_args *a, int f) {
    const size_t picture = (size_t)a->h * (size_t)a->w, ch = (size_t)a->ch, frames = (size_t)a->frames, at = (size_t)f;
    for (size_t c = 0; c < ch; c++)
        for (size_t p = 0; p < picture; p++)
            ((float *)a->out)[(at * picture + p) * ch + c] = 3 * tanhf(a->latent[(c * frames + at) * picture + p] / 3);
}

sc_status sc_twin_latent_in(sc_device *dev, const sc_latent_in_args *a, sc_error *err) {
    (void)dev;
    (void)err;
    for (int f = 0; f < a->frames; f++) sc_latent_frame(a, f);
    return SC_OK;
}

/* ---- pixels ------------------------------------------------------------------------------------------------------------- */

static float clamp01(float v) { return v > 0 ? v < 1 ? v : 1 : 0; } /* nan becomes 0 */

/* v in 0 .. 255 to the nearest integer, halves up. */
static uint8_t to_byte(float v) {
    v += 0.5f;
    return v > 0 ? v < 255 ? (uint8_t)v : 255 : 0;
}

/* Colour k (0 R, 1 G, 2 B) of pixel (y, x) of picture n in 0 .. 1, before any clamp. */
static float colour(const sc_pixels_args *a, size_t n, size_t k, size_t y, size_t x) {
    const size_t p = (size_t)a->p, cell = (n * (size_t)a->h + y / p) * (size_t)a->w + x / p;
    const float v = ((const float *)a->x)[cell * 3 * p * p + (k * p + y % p) * p + x % p];
    return a->centred ? v * 0.5f + 0.5f : v;
}

void sc_pixel_rows(const sc_pixels_args *a, int first, int count) {
    const size_t W = (size_t)a->w * (size_t)a->p, H = (size_t)a->h * (size_t)a->p, p = (size_t)a->p;
    assert(!a->i420 || (W % 2 == 0 && H % 2 == 0));
    for (size_t at = (size_t)first * p; at < (size_t)(first + count) * p; at++) {
        const size_t n = at / H, y = at % H;
        if (a->rgb)
            for (size_t k = 0; k < 3; k++)
                for (size_t x = 0; x < W; x++) {
                    float v = colour(a, n, k, y, x);
                    a->rgb[((n * 3 + k) * H + y) * W + x] = a->clamp ? clamp01(v) : v;
                }
        if (!a->i420) continue;
        uint8_t *luma = a->i420 + n * (H * W * 3 / 2), *cb = luma + H * W, *cr = cb + H * W / 4;
        for (size_t x = 0; x < W; x++) {
            float r = clamp01(colour(a, n, 0, y, x)), g = clamp01(colour(a, n, 1, y, x)), b = clamp01(colour(a, n, 2, y, x));
            luma[y * W + x] = to_byte(255 * (0.299f * r + 0.587f * g + 0.114f * b));
        }
        if (y % 2) continue;
        for (size_t x = 0; x < W; x += 2) { /* chroma is linear in RGB: the mean of four is the chroma of the mean colour */
            float c[3];
            for (size_t k = 0; k < 3; k++)
                c[k] = 0.25f * (clamp01(colour(a, n, k, y, x)) + clamp01(colour(a, n, k, y, x + 1)) + clamp01(colour(a, n, k, y + 1, x)) +
                                clamp01(colour(a, n, k, y + 1, x + 1)));
            cb[y / 2 * (W / 2) + x / 2] = to_byte(128 + 255 * (-0.168735892f * c[0] - 0.331264108f * c[1] + 0.5f * c[2]));
            cr[y / 2 * (W / 2) + x / 2] = to_byte(128 + 255 * (0.5f * c[0] - 0.418687589f * c[1] - 0.081312411f * c[2]));
        }
    }
}

sc_status sc_twin_pixels(sc_device *dev, const sc_pixels_args *a, sc_error *err) {
    (void)dev;
    (void)err;
    sc_pixel_rows(a, 0, a->n * a->h);
    return SC_OK;
}

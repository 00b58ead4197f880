/* twin_vae.c - the operations that only the Wan VAE needs, as plain loops: these lines define them.
 *
 * Pictures are NHWC, f32. A causal convolution is the 2-D one of twin_decoder.c with one loop more: tap t looks at frame
 * i - (taps - 1) + t, so the last tap sees the frame itself. Sums are f32 in the order bias, frames oldest first, taps row by row,
 * input channels ascending; norms and softmax sum in double. A convolution with a norm behind it is the one, then the other.
 * Thread: engine, one thread.   Source: wan/modules/vae.py (CausalConv3d, RMS_norm, AttentionBlock, Resample). */
#include "kernels/cpu/conv.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

/* Adds to sum[out_ch] what the picture `x` [h][w][in_ch], doubled when up is 2, brings to output pixel (y, xx) through the taps `w` [size][size][in_ch][out_ch]. */
static void add_picture(float *sum, const sc_filter *f, const float *w, const float *x, int h, int width, int up, int y, int xx) {
    const int pad = f->pad_end ? 0 : f->size / 2;
    for (int ky = 0; ky < f->size; ky++)
        for (int kx = 0; kx < f->size; kx++) {
            const int sy = y * f->stride + ky - pad, sx = xx * f->stride + kx - pad;
            if (sy < 0 || sy >= h * up || sx < 0 || sx >= width * up) continue;
            const float *pixel = x + ((size_t)(sy / up) * (size_t)width + (size_t)(sx / up)) * (size_t)f->in_ch;
            const float *tap = w + (size_t)(ky * f->size + kx) * (size_t)f->in_ch * (size_t)f->out_ch;
            for (int i = 0; i < f->in_ch; i++)
                for (int o = 0; o < f->out_ch; o++) sum[o] += tap[(size_t)i * (size_t)f->out_ch + (size_t)o] * pixel[i];
        }
}

sc_status sc_twin_channel_norm(sc_device *dev, const sc_channel_norm_args *a, sc_error *err) {
    (void)dev, (void)err;
    for (size_t r = 0; r < a->rows; r++) {
        const float *x = (const float *)a->x + r * (size_t)a->ch;
        float *out = (float *)a->out + r * (size_t)a->ch;
        double square = 0;
        for (int c = 0; c < a->ch; c++) square += (double)x[c] * (double)x[c];
        const double length = sqrt(square), scale = sqrt((double)a->ch) / (length > 1e-12 ? length : 1e-12);
        for (int c = 0; c < a->ch; c++) {
            const float y = (float)((double)x[c] * scale) * a->gamma[c];
            out[c] = a->silu ? y / (1 + expf(-y)) : y;
        }
    }
    return SC_OK;
}

sc_status sc_twin_conv3(sc_device *dev, const sc_conv3_args *a, sc_error *err) {
    const sc_filter *f = a->w;
    const int split = a->split ? a->split : 1, group = f->out_ch / split, oh = sc_conv_out(a->h, a->upsample, f->stride), ow = sc_conv_out(a->w_px, a->upsample, f->stride);
    const size_t frame = (size_t)a->h * (size_t)a->w_px * (size_t)f->in_ch, taps_2d = (size_t)f->size * (size_t)f->size * (size_t)f->in_ch * (size_t)f->out_ch;
    float *out = a->out ? a->out : a->then->out, *sum = malloc((size_t)f->out_ch * sizeof *sum);
    if (!sum) return sc_fail(err, SC_ENOMEM, "conv3: out of memory");
    assert((f->taps == 1 || a->past) && f->out_ch % split == 0 && (split == 1 || f->size == 1) && !f->has_past);
    assert(!a->upsample || (f->taps == 1 && f->size == 3 && f->stride == 1 && f->time_stride == 1 && !a->residual));
    for (int j = 0; j < a->n / f->time_stride; j++) {
        const int i = (j + 1) * f->time_stride - 1;
        for (int y = 0; y < oh; y++)
            for (int x = 0; x < ow; x++) {
                for (int o = 0; o < f->out_ch; o++) sum[o] = f->bias[o];
                for (int t = 0; t < f->taps; t++) {
                    const int at = i - (f->taps - 1) + t;
                    const float *picture = at >= 0 ? (const float *)a->x + (size_t)at * frame : (const float *)a->past + (size_t)(at + f->taps - 1) * frame;
                    add_picture(sum, f, f->tap + (size_t)t * taps_2d, picture, a->h, a->w_px, a->upsample ? 2 : 1, y, x);
                }
                for (int o = 0; o < f->out_ch; o++) {
                    const size_t to = (((size_t)(j * split + o / group) * (size_t)oh + (size_t)y) * (size_t)ow + (size_t)x) * (size_t)group + (size_t)(o % group);
                    out[to] = sum[o] + (a->residual ? ((const float *)a->residual)[to] : 0);
                }
            }
    }
    free(sum);
    return a->then ? sc_twin_channel_norm(dev, &(sc_channel_norm_args){out, a->then->out, a->then->gamma, (size_t)(a->n / f->time_stride * split) * (size_t)oh * (size_t)ow,
                                                                      group, a->then->silu}, err) : SC_OK;
}

sc_status sc_twin_frame_attention(sc_device *dev, const sc_frame_attention_args *a, sc_error *err) {
    const size_t ch = (size_t)a->ch, pixels = (size_t)a->pixels;
    const double scale = 1 / sqrt((double)a->ch);
    double *p = malloc((pixels + ch) * sizeof *p), *sum = p + pixels;
    (void)dev;
    if (!p) return sc_fail(err, SC_ENOMEM, "frame attention: out of memory");
    for (size_t f = 0; f < (size_t)a->n; f++)
        for (size_t i = 0; i < pixels; i++) {
            const float *frame = (const float *)a->qkv + f * pixels * 3 * ch, *q = frame + i * 3 * ch;
            float *out = (float *)a->out + (f * pixels + i) * ch;
            double top = -INFINITY, total = 0;
            for (size_t j = 0; j < pixels; j++) {
                p[j] = (double)sc_cpu_dot(q, frame + j * 3 * ch + ch, a->ch) * scale;
                if (p[j] > top) top = p[j];
            }
            for (size_t j = 0; j < pixels; j++) total += p[j] = exp(p[j] - top);
            for (size_t c = 0; c < ch; c++) sum[c] = 0;
            for (size_t j = 0; j < pixels; j++)
                for (size_t c = 0; c < ch; c++) sum[c] += p[j] * (double)frame[j * 3 * ch + 2 * ch + c];
            for (size_t c = 0; c < ch; c++) out[c] = (float)(sum[c] / total);
        }
    free(p);
    return SC_OK;
}

void sc_planes_frame(const sc_planes_in_args *a, int f) {
    const size_t picture = (size_t)a->h * (size_t)a->w, ch = (size_t)a->ch;
    for (size_t c = 0; c < ch; c++) {
        const float *from = a->planes + (c * (size_t)a->frames + (size_t)(a->first + f)) * picture;
        float *to = (float *)a->out + (size_t)f * picture * ch + c;
        for (size_t p = 0; p < picture; p++) to[p * ch] = a->scale ? from[p] * a->scale[c] + a->shift[c] : from[p];
    }
}

sc_status sc_twin_planes_in(sc_device *dev, const sc_planes_in_args *a, sc_error *err) {
    (void)dev, (void)err;
    assert(a->first >= 0 && a->first + a->n <= a->frames && !a->scale == !a->shift);
    for (int f = 0; f < a->n; f++) sc_planes_frame(a, f);
    return SC_OK;
}

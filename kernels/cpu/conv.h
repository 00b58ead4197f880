/* conv.h - the filter that the decoder's operations share, in the twin's form and in the fast one.
 *
 * Thread: engine; the pool's threads read. A filter belongs to the table that made it. */
#ifndef SC_KERNELS_CPU_CONV_H
#define SC_KERNELS_CPU_CONV_H
#include "kernels/cpu/cpu.h"

struct sc_filter {
    int out_ch, in_ch, size, stride;
    bool has_past, pad_end;
    int taps, time_stride; /* in time, 1 for a 2-D filter */
    float *tap;  /* [taps][size][size][in_ch][out_ch]; twin only */
    float *bias; /* [out_ch], zeros when the model has none; the fast path pads it with zeros to whole vectors */
    float *gemm; /* fast path, direct form: packed [panel][taps * size * size * in_ch][panel width] */
    float *wino; /* fast path, 3x3 with stride 1: packed [panel][36][taps * in_ch][panel width] */
};

/* The sizes of `d`, zeros in it read as what they stand for; asserts that they make sense (twin_decoder.c). */
void sc_filter_sizes(sc_filter *f, const sc_filter_desc *d);

/* Output rows (or columns) of a picture of `length` before the optional doubling. */
static inline int sc_conv_out(int length, bool upsample, int stride) { return (length * (upsample ? 2 : 1) - 1) / stride + 1; }

/* out[0 .. 3] = Philox4x32-10 of counter c and key k (sampler.c). */
void sc_philox(uint32_t out[4], const uint32_t c[4], const uint32_t k[2]);

/* out[0 .. count) = elements [first, first + count) of the stream that a->seed, chunk and step name; first divides by 4 (sampler.c). */
void sc_noise_range(float *out, const sc_noise_args *a, size_t first, size_t count);

/* Elements [first, first + count) of a denoising step (sampler.c). */
void sc_denoise_range(const sc_denoise_args *a, size_t first, size_t count);

/* Frame f of the soft clamp (twin_decoder.c). */
void sc_latent_frame(const sc_latent_in_args *a, int f);

/* Frame f (of n) of planes_in (twin_vae.c). */
void sc_planes_frame(const sc_planes_in_args *a, int f);

/* Rows [first, first + count) of the n * h rows of `a`; any split gives the same pictures (twin_decoder.c). */
void sc_pixel_rows(const sc_pixels_args *a, int first, int count);

#endif

/* conv_kernels.h - the four inner loops of a convolution, one set per instruction set (conv_body.h compiled three times).
 *
 * Words: a *panel* is the run of output channels that one product computes, `panel` wide but for the last, which may be
 * `lanes` wide. A *tile* is a 4x4 patch of the output and the 6x6 patch of the input under it. */
#ifndef SC_KERNELS_CPU_CONV_KERNELS_H
#define SC_KERNELS_CPU_CONV_KERNELS_H
#include "kernels/cpu/cpu.h"

enum { SC_WINO_TILE = 4, SC_WINO_IN = 6, SC_WINO_POINTS = 36 };

/* Interpolation points of F(4x4, 3x3): 0, +-a, +-b and infinity with a = 2/3, b = 3/2. Error against float64 on normal data of 128
 * channels: 1.0e-6 relative L2 and 5.0e-6 of the rms at most (direct f32 sum: 6.0e-7, 4.0e-6); the usual 1 and 2 give 2.2e-6 and
 * 2.4e-5. a * b = 1 saves a product besides. */
#define SC_WINO_A (2.0 / 3.0)
#define SC_WINO_B (3.0 / 2.0)

enum { SC_CONV_PARTS = 3 };

/* m[rows][width] = sum over parts of a[part] . u[part * k .. part * k + k): the a have row stride lda, u is [parts * k][width]. */
typedef void (*sc_conv_gemm_fn)(float *m, const float *const a[SC_CONV_PARTS], int parts, int k, size_t lda, const float *u, int rows, int width);

/* v[point][channel] = B^T d B of one tile; src[36] says where the `channels` values (a multiple of lanes) of each pixel lie.
 * Points are `stride` floats apart. */
typedef void (*sc_wino_in_fn)(float *v, size_t stride, const float *const src[SC_WINO_POINTS], int channels);

/* y = A^T m A of one tile and panel, + bias + residual, relu; pixel (i, j) of the tile goes to out + i * row + j * pixel for
 * i < rows, j < cols, `channels` values each (at most width). m: 36 points, `stride` floats apart. residual may be NULL. */
typedef struct {
    const float *m, *bias, *residual;
    float *out;
    size_t stride, row, pixel;
    int width, channels, rows, cols;
    bool relu;
} sc_wino_out_args;
typedef void (*sc_wino_out_fn)(const sc_wino_out_args *);

/* out[i] = m[i] + bias[i] (+ residual[i]) (relu), i < channels. */
typedef void (*sc_conv_finish_fn)(float *out, const float *m, const float *bias, const float *residual, int channels, bool relu);

typedef struct {
    int lanes, panel;
    sc_conv_gemm_fn gemm;
    sc_wino_in_fn wino_in;
    sc_wino_out_fn wino_out;
    sc_conv_finish_fn finish;
} sc_conv_kernels;

extern const sc_conv_kernels sc_conv_portable;
#if defined(__x86_64__)
extern const sc_conv_kernels sc_conv_avx2, sc_conv_avx512;
#endif

#endif

/* filter.h - the weight of a convolution on the card. Shared by filter.cu (packs), conv.cu (multiplies) and conv3.cu (both, of several frames). */
#ifndef SC_KERNELS_CUDA_FILTER_H
#define SC_KERNELS_CUDA_FILTER_H
#include "kernels/cuda/cuda.h"

/* Packed weights, act type, zeros where padded. NULL: this form is not there.
 *   wide    conv.cuh, all taps:         [step][oc / 64][tap][2 kk][64][8]
 *   phases  conv.cuh, doubled pictures: [phase][step][oc / 64][2 x 2 taps][2 kk][64][8], sums of the 3x3 weights
 *   narrow  conv_narrow.cuh, 3x3 from at most SC_NARROW_IN to at most 3 channels: [slab of 64][32][64], column = 3 tap + channel, swizzled as it
 *           stands in shared memory
 *   ring, ring_phases  conv_ring.cuh, from and to a multiple of 64 channels, and that doubled: [phase][out / rows][source][slab of 64][tap][rows][64], rows
 *           64 or, where out_ch is a multiple, 128; swizzled as it stands in shared memory. Then wide and phases are not there
 *   plain   conv_mma.cuh:               [tap][in / 16][oc padded to 64][16]
 * step = (source, slab of 16 kk channels); the second source is the frame before. */
struct sc_filter {
    int out_ch, in_ch, size, stride, sources;
    int pw, oc_tiles;       /* conv.cuh: its PW, and its CTAs along the output channels */
    void *wide, *phases, *narrow, *ring, *ring_phases, *plain;
    size_t phase_elems;     /* elements of one phase */
    float *bias;            /* f32, zeros past out_ch, [out_ch padded to 128] */
    int taps, time_stride;  /* conv3.cu's filters, which see several frames; 0 in all others. Their packed forms: conv3.cu */
    bool pad_end;
};

enum { SC_NARROW_CHANNELS = 3, SC_NARROW_IN = 256, SC_NARROW3_IN = 128 };

/* w [pairs][3 x 3] to [pairs][2 x 2], the weights of one parity (2 * row + column) of the output pixel: rows and columns of the 3 x 3 that meet the same
 * input pixel of a picture doubled by nearest neighbour, added. */
#ifdef __cplusplus
extern "C"
#endif
void sc_cuda_sum_phase(float *to, const float *w, size_t pairs, int phase);

/* Channels of a stage of conv.cuh, in units of 16. */
static inline int sc_conv_kk(int taps, int pw) { return taps == 9 ? 1 : taps == 4 ? 2 : pw == 1 ? 4 : 2; }
#endif

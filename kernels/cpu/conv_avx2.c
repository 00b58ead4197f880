/* conv_avx2.c - the inner loops of the convolution for AVX2: 12 sums and 3 operands in 16 registers of 8 floats. */
#if defined(__x86_64__)
#define LANES 8
#define ROWS 6
#define TABLE sc_conv_avx2
#include "kernels/cpu/conv_body.h"
#endif

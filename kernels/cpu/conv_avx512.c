/* conv_avx512.c - the inner loops of the convolution for AVX-512: 28 sums and 3 operands in 32 registers of 16 floats. */
#if defined(__x86_64__)
#define LANES 16
#define ROWS 14
#define TABLE sc_conv_avx512
#include "kernels/cpu/conv_body.h"
#endif

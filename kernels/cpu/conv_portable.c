/* conv_portable.c - the inner loops of the convolution for any processor: vectors of 4 floats, which GCC maps to SSE2, NEON or to
 * plain code. arm64 has 32 registers, others at least 16. */
#define LANES 4
#if defined(__aarch64__)
#define ROWS 14
#else
#define ROWS 6
#endif
#define TABLE sc_conv_portable
#include "kernels/cpu/conv_body.h"

/* kernels_avx512.c - the inner loops for AVX-512: 12 x 32 tile, 24 of 32 registers accumulate. */
#if defined(__AVX512F__)
#include <immintrin.h>
#define W 16
#define MR 12
#define NV 2
#define VMAX(a, b) ((vf)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define VMIN(a, b) ((vf)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define KERNELS sc_kernels_avx512
#define ISA SC_ISA_AVX512
#define NAME "avx512"
#include "kernels/cpu/kernels.inc"
#else
typedef int sc_no_avx512; /* another processor family: nothing to compile */
#endif

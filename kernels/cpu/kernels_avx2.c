/* kernels_avx2.c - the inner loops for AVX2 with FMA: 6 x 16 tile, 12 of 16 registers accumulate. */
#if defined(__AVX2__)
#include <immintrin.h>
#define W 8
#define MR 6
#define NV 2
#define VMAX(a, b) ((vf)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define VMIN(a, b) ((vf)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define KERNELS sc_kernels_avx2
#define ISA SC_ISA_AVX2
#define NAME "avx2"
#include "kernels/cpu/kernels.inc"
#else
typedef int sc_no_avx2; /* another processor family: nothing to compile */
#endif

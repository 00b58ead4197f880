/* kernels_portable.c - the inner loops for any processor with 16-byte vectors (SSE2, NEON): 6 x 8 tile. */
#define W 4
#define MR 6
#define NV 2
#define VMAX(a, b) vmax(a, b)
#define VMIN(a, b) vmin(a, b)
typedef float vf4 __attribute__((vector_size(16)));
typedef int vi4 __attribute__((vector_size(16)));
static inline vf4 vmax(vf4 a, vf4 b) { vi4 m = a > b; return (vf4)((m & (vi4)a) | (~m & (vi4)b)); }
static inline vf4 vmin(vf4 a, vf4 b) { vi4 m = a < b; return (vf4)((m & (vi4)a) | (~m & (vi4)b)); }
#define KERNELS sc_kernels_portable
#define ISA SC_ISA_PORTABLE
#define NAME "portable"
#include "kernels/cpu/kernels.inc"

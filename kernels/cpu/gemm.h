/* gemm.h - matrix products with a weight that was packed once; for use inside an item of the thread pool.
 *
 *   c[i][j] = sum over p of a[i][p] * b[j][p]     (or c[i][j] += ..., when accumulate)
 *
 * b is the weight, [n][k] row-major as linear layers keep it; packed, it lies in panels of `nr` rows of b, [panel][k][nr], the last
 * panel filled up with zeroes. One call runs on the calling thread, so callers cut their m (or their
 * many small products) into items. A value of c depends on its own row and column only, never on how m was cut. */
#ifndef SC_KERNELS_CPU_GEMM_H
#define SC_KERNELS_CPU_GEMM_H
#include "kernels/cpu/cpu.h"

typedef struct {
    const sc_isa_kernels *kern;
    int n, k;
    float *data;
} sc_packed;

/* Packs b, row stride ldb elements. SC_ENOMEM. Freed with sc_gemm_unpack (zeroed struct is fine). */
sc_status sc_gemm_pack(sc_packed *out, const sc_isa_kernels *kern, const float *b, ptrdiff_t ldb, int n, int k, sc_error *err);
void sc_gemm_unpack(sc_packed *p);

/* c [m][n] of row stride ldc, a [m][k] of row stride lda; no alignment needed. m may be 0. Neither allocates nor locks. */
void sc_gemm_packed(const sc_packed *b, float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, int m, bool accumulate);

/* out[p] = b[row][p], read back from the panels. */
void sc_gemm_row(const sc_packed *b, float *out, int row);

#endif

/* linear.h - what the two ways of a linear layer share: linear.c (vectors, any weights) and linear_amx.c (tiles, weights of bf16). */
#ifndef SC_KERNELS_CPU_LINEAR_H
#define SC_KERNELS_CPU_LINEAR_H
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"

struct sc_matrix {
    sc_packed w;              /* data NULL: bf16 */
    float *bias;              /* [n rounded up to whole panels] */
    const char *part[SC_MAX_PARTS]; /* bf16 [part_rows][k] at any address */
    int parts, part_rows[SC_MAX_PARTS];
    void *own;                /* what the parts point into, when it is not the caller's */
    bool fold;                /* w.data and bias are somebody else's */
};

/* Row of a bf16 matrix. */
static inline const char *sc_bf16_row(const sc_matrix *m, int row) {
    int p = 0;
    while (row >= m->part_rows[p]) row -= m->part_rows[p++];
    return m->part[p] + 2 * (size_t)row * (size_t)m->w.k;
}

/* Finished sums y [i1 - i0][ldy] of rows i0 .. i1 - 1 and columns j .. j + cols - 1 through the epilogue to a->out. A row of y has room for
 * whole vectors past cols. */
void sc_linear_finish(const sc_linear_args *a, const sc_isa_kernels *kern, int i0, int i1, int j, int cols, const float *y, int ldy);

/* True when this process may use AMX for bf16: the processor has it and the kernel grants its registers, which it is asked for here. Only on
 * a processor with AVX-512. Asking again is fine. */
bool sc_amx_ready(void);

/* linear for a matrix of bf16, `then` left out. Only after sc_amx_ready. SC_ENOMEM. */
sc_status sc_amx_linear(sc_device *dev, const sc_linear_args *a, sc_error *err);

#endif

/* gemm.c - packing weights, and products with them; see gemm.h. The inner loop is the tile of kernels.inc.
 *
 * A panel of b is k * nr floats: 48 KiB for k = 384. Loop order: panels outside, rows of a inside, so that a panel stays in the
 * first or second level cache while the rows pass over it. k runs in blocks of K_BLOCK, which bounds that footprint for wide
 * layers. */
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { K_BLOCK = 1024 };

sc_status sc_gemm_pack(sc_packed *out, const sc_isa_kernels *kern, const float *b, ptrdiff_t ldb, int n, int k, sc_error *err) {
    int nr = kern->nr, panels = (n + nr - 1) / nr;

    *out = (sc_packed){.kern = kern, .n = n, .k = k};
    out->data = sc_cpu_aligned((size_t)panels * (size_t)k * (size_t)nr * sizeof(float));
    if (!out->data) return sc_fail(err, SC_ENOMEM, "matrix %d x %d: out of memory", n, k);
    for (int j = 0; j < panels; j++) {
        float *panel = out->data + (size_t)j * (size_t)k * (size_t)nr;
        for (int c = 0; c < nr; c++)
            for (int p = 0; p < k; p++) panel[(size_t)p * (size_t)nr + (size_t)c] = j * nr + c < n ? b[(ptrdiff_t)(j * nr + c) * ldb + p] : 0.0f;
    }
    return SC_OK;
}

void sc_gemm_unpack(sc_packed *p) {
    free(p->data);
    p->data = NULL;
}

void sc_gemm_row(const sc_packed *b, float *out, int row) {
    int nr = b->kern->nr;
    const float *panel = b->data + (size_t)(row / nr) * (size_t)b->k * (size_t)nr;
    for (int p = 0; p < b->k; p++) out[p] = panel[(size_t)p * (size_t)nr + (size_t)(row % nr)];
}

void sc_gemm_packed(const sc_packed *b, float *c, ptrdiff_t ldc, const float *a, ptrdiff_t lda, int m, bool accumulate) {
    const sc_isa_kernels *kern = b->kern;
    int nr = kern->nr, mr = kern->mr;
    _Alignas(64) float edge[SC_TILE_ROWS_MAX * SC_TILE_COLS_MAX];

    for (int j = 0; j < b->n; j += nr) {
        const float *panel = b->data + (size_t)j * (size_t)b->k;
        int cols = b->n - j < nr ? b->n - j : nr;
        for (int p = 0; p < b->k; p += K_BLOCK) {
            int k = b->k - p < K_BLOCK ? b->k - p : K_BLOCK;
            bool add = accumulate || p > 0;
            for (int i = 0; i < m; i += mr) {
                int rows = m - i < mr ? m - i : mr;
                float *tile = c + (ptrdiff_t)i * ldc + j;
                if (cols == nr) {
                    kern->tile(rows, a + (ptrdiff_t)i * lda + p, lda, 1, panel + (size_t)p * (size_t)nr, nr, k, tile, ldc, add);
                    continue;
                }
                kern->tile(rows, a + (ptrdiff_t)i * lda + p, lda, 1, panel + (size_t)p * (size_t)nr, nr, k, edge, nr, false);
                for (int r = 0; r < rows; r++)
                    for (int q = 0; q < cols; q++) tile[(ptrdiff_t)r * ldc + q] = edge[r * nr + q] + (add ? tile[(ptrdiff_t)r * ldc + q] : 0.0f);
            }
        }
    }
}

/* attention_rows.cuh - what a thread of attention_hopper.cu does with its two rows of a query block: q in registers and turned, scores masked, made exponentials and
 * summed.
 *
 * A warpgroup has 64 rows of 128 channels; the layouts are those of wgmma: thread (warp w, g = lane / 4, t = lane % 4) has rows 16 w + g and 8 below, of a product's columns
 * 8 j + 2 t and the one behind in d[4 j], d[4 j + 1], of the lower row in d[4 j + 2], d[4 j + 3].
 *
 * A softmax is the same for any reference value. In f16 a row's is the maximum of the first page, or of the first that exceeds the one before by 2^8: every page is
 * looked at, since P must not reach the type's end. In bf16, whose range is that of f32, it is 0, q carries 1 / sqrt(d) and log2(e) (ops.h, q_scale), and what S holds
 * goes into the exponential as it is: the look and the multiply-add took a tenth of the kernel's time. A row whose sum ends up outside LOWEST to HIGHEST has its warp do the
 * piece once more, in the manner of f16.
 *
 * Rows past a page's length count for nothing. A page that holds all that it can has zeros there, in K and in V: exponentials of 1 that a weight keeps out of the sums. Only
 * shorter ones, and all in f16, are masked. */
#ifndef SC_KERNELS_CUDA_ATTENTION_ROWS_CUH
#define SC_KERNELS_CUDA_ATTENTION_ROWS_CUH
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/mma.cuh"

#include <math.h>
#include <type_traits>

namespace attention {

/* This thread's first row of its warpgroup's 64; the second is 8 below. */
__device__ __forceinline__ int own_row() { return (threadIdx.x >> 5 & 3) * 16 + (threadIdx.x & 31) / 4; }

/* Registers of q's channels 0 .. 63, turned by `age`: k-step ks, lane (row g = lane / 4, t = lane % 4) holds pairs 8 ks + t and
 * 8 ks + t + 4 of rows g and g + 8. `first`: all k-steps, else only those with frame pairs. No branch on the age or a pair: one made twelve loads a chain. */
template <typename T>
__device__ __forceinline__ void load_q(uint32_t (&q)[4][4], const T *block, int rows, const sc_age_rule &rule, int age, bool first, float factor) {
    const int t = threadIdx.x & 3, row = own_row();
    const uint32_t *at = (const uint32_t *)(block + row * SC_ATT_DIM) + t;
    const float2 *table = rule.table + (age & (SC_CUDA_AGE_BASE - 1)) * SC_MAX_ROPE_PAIRS + t;
#pragma unroll
    for (int ks = 0; ks < 4; ks++) {
        if (!first && ks * 8 >= rule.pairs) continue;
        float2 c = __ldg(table + ks * 8), d = __ldg(table + ks * 8 + 4);
        uint32_t u[4]; /* rows g, g + 8 of one pair, of the other */
#pragma unroll
        for (int i = 0; i < 4; i++) u[i] = row + i % 2 * 8 < rows ? __ldg(at + i % 2 * 4 * SC_ATT_DIM + ks * 8 + i / 2 * 4) : 0;
        if (age >= SC_CUDA_AGE_BASE) c = age_rotation(rule.table, age, ks * 8 + t), d = age_rotation(rule.table, age, ks * 8 + t + 4);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 x = sc::unpack2<T>(u[i]), by = i < 2 ? c : d;
            q[ks][i] = sc::pack2<T>((x.x * by.x - x.y * by.y) * factor, (x.x * by.y + x.y * by.x) * factor);
        }
    }
}

/* Channels 64 .. 127 of the block's rows to the warpgroup's tile, zeros past its end. A thread does half a row. */
template <typename T> __device__ __forceinline__ void store_q_half(unsigned char *tile, const T *block, int rows, float factor) {
    const int row = (threadIdx.x & 127) >> 1, first = (threadIdx.x & 1) * 4;
    const uint4 *from = (const uint4 *)(block + row * SC_ATT_DIM + 64) + first;
    const auto times = [factor](uint32_t u) {
        const float2 x = sc::unpack2<T>(u);
        return sc::pack2<T>(x.x * factor, x.y * factor);
    };
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint4 u = row < rows ? __ldg(from + i) : make_uint4(0, 0, 0, 0);
        *(uint4 *)(tile + row * 128 + (((first + i) ^ (row & 7)) << 4)) = make_uint4(times(u.x), times(u.y), times(u.z), times(u.w));
    }
    hopper::proxy_fence();
}

/* Largest of a row's 64 columns: its four lanes hold 16 each. */
__device__ __forceinline__ float row_top(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

/* Columns past a page's length count for nothing. */
__device__ __forceinline__ void mask_columns(float (&s)[32], int length) {
    const int t = threadIdx.x & 3;
    if (length <= 56) {
#pragma unroll
        for (int i = 0; i < 32; i++)
            if ((i >> 2) * 8 + 2 * t + (i & 1) >= length) s[i] = -INFINITY;
    } else if (length < 64) {
#pragma unroll
        for (int i = 28; i < 32; i++)
            if (56 + 2 * t + (i & 1) >= length) s[i] = -INFINITY;
    }
}

/* Reference values, in scores as S holds them, and sums of this thread's two rows. */
struct softmax_rows {
    float m0, m1, l0, l1;
};

/* Whether P's type ends so soon above the reference that every page's scores are looked at. Else it is 0 and the sums tell whether that was good: above HIGHEST they come near
 * where f32, of which P's type has the range, ends for O, below LOWEST what counts in them may have been lost where it begins. */
template <typename T> constexpr bool narrow = std::is_same<T, __half>::value;
static constexpr float HIGHEST = 0x1p100f, LOWEST = 0x1p-90f;

/* What turns a score into a power of two: in f16 behind the product, in bf16 in q before it. */
template <typename T> __device__ __forceinline__ float score_scale(const sc_att_params &p) { return narrow<T> ? p.scale_log2 : 1.0f; }
template <typename T> __device__ __forceinline__ float q_factor(const sc_att_params &p) { return narrow<T> ? 1.0f : p.scale_log2; }

/* The references, raised when one of the warp's scores exceeds its row's by 2^8; the lanes only talk then. True: they rose, O is to be scaled by c. */
__device__ __forceinline__ bool raise_maxima(const float (&s)[32], softmax_rows &r, float scale, float2 &c) {
    float top[4];
#pragma unroll
    for (int i = 0; i < 4; i++) top[i] = fmaxf(s[i], s[i + 4]);
#pragma unroll
    for (int i = 8; i < 32; i++) top[i & 3] = fmaxf(top[i & 3], s[i]);
    float top0 = fmaxf(top[0], top[1]), top1 = fmaxf(top[2], top[3]);
    if (!__any_sync(~0u, fmaxf(top0 - r.m0, top1 - r.m1) * scale > 8.0f)) return false;
    top0 = row_top(top0), top1 = row_top(top1);
    const float n0 = fmaxf(r.m0, top0), n1 = fmaxf(r.m1, top1);
    c = make_float2(hopper::exp2_fast((r.m0 - n0) * scale), hopper::exp2_fast((r.m1 - n1) * scale));
    r.m0 = n0, r.m1 = n1, r.l0 *= c.x, r.l1 *= c.y;
    return true;
}

/* Columns 56 and up of a page that holds all it can: a thread has two of each row, and weights for them, 0 for those past the end. */
struct page_edge {
    float w0, w1;
    __device__ explicit page_edge(int page_rows) {
        const int column = 56 + 2 * (threadIdx.x & 3);
        w0 = column < page_rows, w1 = column + 1 < page_rows;
    }
};

/* s becomes the exponentials of a page, their sums are counted. A branch on them would cost what looking at the scores costs. */
template <bool REFERENCE> __device__ __forceinline__ void exponentials(float (&s)[32], softmax_rows &r, float scale, page_edge edge) {
    const float b0 = r.m0 * scale, b1 = r.m1 * scale;
#pragma unroll
    for (int i = 0; i < 32; i++) s[i] = hopper::exp2_fast(REFERENCE ? s[i] * scale - (i & 2 ? b1 : b0) : s[i]);
#pragma unroll
    for (int i = 0; i < 28; i += 4) r.l0 += s[i] + s[i + 1], r.l1 += s[i + 2] + s[i + 3];
    r.l0 = fmaf(s[28], edge.w0, fmaf(s[29], edge.w1, r.l0));
    r.l1 = fmaf(s[30], edge.w0, fmaf(s[31], edge.w1, r.l1));
}

__device__ __forceinline__ void scale_rows(float (&o)[64], float2 c) {
#pragma unroll
    for (int i = 0; i < 64; i += 4) o[i] *= c.x, o[i + 1] *= c.x, o[i + 2] *= c.y, o[i + 3] *= c.y;
}

/* P as the A operand of the second product. */
template <typename T> __device__ __forceinline__ void pack_p(uint32_t (&pr)[4][4], const float (&s)[32]) {
#pragma unroll
    for (int i = 0; i < 32; i += 4) {
        pr[i >> 3][(i >> 1) & 2] = sc::pack2<T>(s[i], s[i + 1]);
        pr[i >> 3][((i >> 1) & 2) + 1] = sc::pack2<T>(s[i + 2], s[i + 3]);
    }
}

/* What the four lanes of a row have summed. */
__device__ __forceinline__ void row_sums(softmax_rows &sums) {
    sums.l0 += __shfl_xor_sync(~0u, sums.l0, 1);
    sums.l1 += __shfl_xor_sync(~0u, sums.l1, 1);
    sums.l0 += __shfl_xor_sync(~0u, sums.l0, 2);
    sums.l1 += __shfl_xor_sync(~0u, sums.l1, 2);
}

} // namespace attention
#endif

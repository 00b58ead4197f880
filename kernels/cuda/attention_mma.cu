/* attention_mma.cu - persistent-block sparse attention on mma.sync: any card since compute capability 8.0, any even head size up
 * to 128. The path for what attention_hopper.cu does not take, and its witness in tests.
 *
 * Grid: one CTA of 4 warps per (query block, head, sequence); warp w owns rows 16 w .. 16 w + 15. Channels are padded with zeros to
 * DIM = 32, 64 or 128. Per listed page: K and V to shared memory, S = q K^T, softmax in base 2 with a running maximum, O += P V.
 * Rows of 2 DIM + 16 bytes keep the fragment loads free of bank conflicts. q is turned again when the age of the page changes.
 *
 * Bound: none aimed at; copies and products do not overlap. */
#include "kernels/cuda/attention.cuh"

#include <assert.h>

static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __half) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __nv_bfloat16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* Two 8 x 8 tiles, transposed: the B operand of a product over rows. */
static __device__ __forceinline__ void load_transposed(uint32_t &b0, uint32_t &b1, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(b0), "=r"(b1) : "r"((uint32_t)__cvta_generic_to_shared(row)));
}

template <typename T, int DIM>
static __device__ __forceinline__ void load_q(uint32_t (&q)[DIM / 16][4], const T *base, int row, int rows, const sc_att_params &p, int age) {
    const int t = threadIdx.x & 3;
#pragma unroll
    for (int i = 0; i < DIM / 4; i++) { /* k-step, half, row of the pair */
        const int pair = (i >> 2) * 8 + t + ((i >> 1) & 1) * 4, r = row + (i & 1) * 8;
        uint32_t a = r < rows && 2 * pair < p.head_dim ? *(const uint32_t *)(base + (size_t)r * p.head_dim + 2 * pair) : 0;
        if (age && pair < p.age.pairs) {
            const float2 c = age_rotation(p.age.table, age, pair), x = sc::unpack2<T>(a);
            a = sc::pack2<T>(x.x * c.x - x.y * c.y, x.x * c.y + x.y * c.x);
        }
        q[i >> 2][i & 3] = a;
    }
}

/* One page's rows to shared memory, zeros past its length and past head_dim. */
template <typename T, int DIM>
static __device__ __forceinline__ void load_page(T (*tile)[DIM + 8], const T *page, int length, int head_dim) {
    for (int i = threadIdx.x; i < SC_ATT_ROWS * DIM / 2; i += 128) {
        const int r = i / (DIM / 2), c = i % (DIM / 2) * 2;
        *(uint32_t *)&tile[r][c] = r < length && c < head_dim ? *(const uint32_t *)(page + (size_t)r * head_dim + c) : 0;
    }
}

template <typename T, int DIM> __global__ static void __launch_bounds__(128) attention_kernel(const __grid_constant__ sc_att_params p) {
    __shared__ __align__(16) T k_tile[SC_ATT_ROWS][DIM + 8], v_tile[SC_ATT_ROWS][DIM + 8];
    const int block = blockIdx.x, head = blockIdx.y, s = blockIdx.z;
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, row = warp * 16 + g;
    const int first = p.start[block], rows = p.start[block + 1] - first;
    const sc_att_seq &seq = p.seq[s];
    const T *q_base = (const T *)p.q + ((size_t)(s * p.heads + head) * p.tokens + first) * p.head_dim;
    uint32_t q[DIM / 16][4];
    float o[DIM / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    int age = -1;

    for (int step = 0; step < seq.count; step++) {
        const sc_kv_slot slot = seq.slots[(size_t)head * seq.slot_stride + att_slot(p, s, head, block, step)];
        const int length = p.start[slot.block + 1] - p.start[slot.block], now = slot_age(p.age, seq.chunk_now, slot.chunk);
        const size_t page = (size_t)slot.page * p.page_rows * p.head_dim;
        __syncthreads();
        load_page<T, DIM>(k_tile, (const T *)p.k + page, length, p.head_dim);
        load_page<T, DIM>(v_tile, (const T *)p.v + page, length, p.head_dim);
        if (now != age) load_q<T, DIM>(q, q_base, row, rows, p, age = now);
        __syncthreads();

        float w[8][4];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            w[j][0] = w[j][1] = w[j][2] = w[j][3] = 0;
#pragma unroll
            for (int ks = 0; ks < DIM / 16; ks++) {
                const T *b = &k_tile[j * 8 + g][ks * 16 + 2 * t];
                mma(w[j], q[ks], *(const uint32_t *)b, *(const uint32_t *)(b + 8), T());
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (j * 8 + 2 * t + (i & 1) >= length) w[j][i] = -INFINITY;
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float most = top[r];
            for (int j = 0; j < 8; j++) most = fmaxf(most, fmaxf(w[j][2 * r], w[j][2 * r + 1]));
            most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
            most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
            const float shrink = exp2f((top[r] - most) * p.scale_log2);
            top[r] = most;
            sum[r] *= shrink;
            for (int j = 0; j < DIM / 8; j++) o[j][2 * r] *= shrink, o[j][2 * r + 1] *= shrink;
            for (int j = 0; j < 8; j++)
                for (int i = 2 * r; i < 2 * r + 2; i++) sum[r] += w[j][i] = exp2f((w[j][i] - most) * p.scale_log2);
        }
#pragma unroll
        for (int ks = 0; ks < 4; ks++) {
            const uint32_t a[4] = {sc::pack2<T>(w[2 * ks][0], w[2 * ks][1]), sc::pack2<T>(w[2 * ks][2], w[2 * ks][3]),
                                   sc::pack2<T>(w[2 * ks + 1][0], w[2 * ks + 1][1]), sc::pack2<T>(w[2 * ks + 1][2], w[2 * ks + 1][3])};
#pragma unroll
            for (int j = 0; j < DIM / 8; j++) {
                uint32_t b0, b1;
                load_transposed(b0, b1, &v_tile[ks * 16 + (lane & 15)][j * 8]);
                mma(o[j], a, b0, b1, T());
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
        sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
        if (row + 8 * r >= rows) continue;
        T *out = (T *)p.out + (((size_t)s * p.tokens + first + row + 8 * r) * p.heads + head) * p.head_dim;
        for (int j = 0; j < DIM / 8; j++)
            if (j * 8 + 2 * t < p.head_dim)
                *(uint32_t *)(out + j * 8 + 2 * t) = sc::pack2<T>(o[j][2 * r] / sum[r], o[j][2 * r + 1] / sum[r]);
    }
}

template <typename T> static void launch(const sc_att_params &p, cudaStream_t stream) {
    const dim3 grid(p.blocks, p.heads, p.seqs);
    if (p.head_dim <= 32) attention_kernel<T, 32><<<grid, 128, 0, stream>>>(p);
    else if (p.head_dim <= 64) attention_kernel<T, 64><<<grid, 128, 0, stream>>>(p);
    else attention_kernel<T, 128><<<grid, 128, 0, stream>>>(p);
}

sc_status sc_cuda_attention_mma(struct sc_cuda *dev, const sc_att_params *p, sc_error *err) {
    assert(p->head_dim <= 128 && p->head_dim % 2 == 0);
    if (dev->base.act == SC_F16) launch<__half>(*p, dev->stream);
    else launch<__nv_bfloat16>(*p, dev->stream);
    return sc_cuda_launched("attention", err);
}

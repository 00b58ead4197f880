/* product_hopper.cuh - what the products of our own on Hopper share: x w^T by a CTA that stays, in tiles of 128 rows of x x BN rows of w.
 *
 * A producing thread fills a ring of stages, 64 channels deep, with the bulk tensor copy; two warpgroups multiply 64 rows each, m64 x BN x 16, and
 * keep the sums in registers. A stage's barrier `full` counts its bytes, `empty` the eight warps that have multiplied. How tiles follow one another,
 * and what becomes of their sums, is the kernel's own: linear_hopper.cu, query_hopper.cu. Swizzles: hopper.cuh. */
#ifndef SC_KERNELS_CUDA_PRODUCT_HOPPER_CUH
#define SC_KERNELS_CUDA_PRODUCT_HOPPER_CUH
#include "kernels/cuda/hopper.cuh"

namespace sc {

enum {
    TILE_M = 128, TILE_K = 64, ROW_BYTES = TILE_K * 2,
    PRODUCT_THREADS = 384, PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232,
    PRODUCT_WARPS = 8, /* that multiply */
};

#define SC_GEMM_R4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define SC_GEMM_R16(i) SC_GEMM_R4(i), SC_GEMM_R4((i) + 4), SC_GEMM_R4((i) + 8), SC_GEMM_R4((i) + 12)
#define SC_GEMM_32_NAMES "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define SC_GEMM_64_NAMES SC_GEMM_32_NAMES ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SC_GEMM_96_NAMES SC_GEMM_64_NAMES ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define SC_GEMM_112_NAMES SC_GEMM_96_NAMES ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define SC_GEMM_32_SUMS SC_GEMM_R16(0), SC_GEMM_R16(16)
#define SC_GEMM_64_SUMS SC_GEMM_32_SUMS, SC_GEMM_R16(32), SC_GEMM_R16(48)
#define SC_GEMM_96_SUMS SC_GEMM_64_SUMS, SC_GEMM_R16(64), SC_GEMM_R16(80)
#define SC_GEMM_112_SUMS SC_GEMM_96_SUMS, SC_GEMM_R16(96)
#define SC_GEMM_WGMMA_ADDING(n, SUMS, NAMES, a_, b_) \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" NAMES "}, " a_ ", " b_ ", 1, 1, 1, 0, 0;\n" : SUMS : "l"(a), "l"(b))
#define SC_GEMM_WGMMA_224 \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %114, 0;\nwgmma.mma_async.sync.aligned.m64n224k16.f32.bf16.bf16 {" SC_GEMM_112_NAMES \
                 "}, %112, %113, p, 1, 1, 0, 0;\n}" : SC_GEMM_112_SUMS : "l"(a), "l"(b), "r"(add))
#define SC_GEMM_WGMMA_256 \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" SC_GEMM_112_NAMES \
                 ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, %128, %129, p, 1, 1, 0, 0;\n}" : SC_GEMM_112_SUMS, SC_GEMM_R16(112) : "l"(a), "l"(b), "r"(add))
/* d[64 rows][BN] = a b^T, added to what it holds if `add`; both K-major in shared memory, 16 channels. */
__device__ __forceinline__ void product(float (&d)[112], uint64_t a, uint64_t b, int add) { SC_GEMM_WGMMA_224; }
__device__ __forceinline__ void product(float (&d)[128], uint64_t a, uint64_t b, int add) { SC_GEMM_WGMMA_256; }
/* The first N columns alone, always added. */
template <int N> __device__ __forceinline__ void product_part(float (&d)[128], uint64_t a, uint64_t b) {
    if constexpr (N == 64) SC_GEMM_WGMMA_ADDING("64", SC_GEMM_32_SUMS, SC_GEMM_32_NAMES, "%32", "%33");
    else if constexpr (N == 128) SC_GEMM_WGMMA_ADDING("128", SC_GEMM_64_SUMS, SC_GEMM_64_NAMES, "%64", "%65");
    else SC_GEMM_WGMMA_ADDING("192", SC_GEMM_96_SUMS, SC_GEMM_96_NAMES, "%96", "%97");
}
#undef SC_GEMM_WGMMA_ADDING
#undef SC_GEMM_32_NAMES
#undef SC_GEMM_64_NAMES
#undef SC_GEMM_96_NAMES
#undef SC_GEMM_32_SUMS
#undef SC_GEMM_64_SUMS
#undef SC_GEMM_96_SUMS
#undef SC_GEMM_112_NAMES
#undef SC_GEMM_112_SUMS
#undef SC_GEMM_WGMMA_224
#undef SC_GEMM_WGMMA_256
#undef SC_GEMM_R16
#undef SC_GEMM_R4

__device__ __forceinline__ float2 load_2(uint32_t at) {
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(at) : "memory");
    return v;
}

/* Bytes of a stage. */
template <int BN> struct stage_of { static const int BYTES = (TILE_M + BN) * ROW_BYTES; };

/* The ring in shared memory, as addresses; a barrier takes 8 bytes. */
struct ring { uint32_t stages, full, empty; };

/* A place in the ring, and how often it was passed. */
template <int STAGES> struct cursor {
    uint32_t stage = 0, phase = 0;
    __device__ __forceinline__ void next() {
        if (++stage == STAGES) stage = 0, phase ^= 1;
    }
};

/* By one thread, before any other looks. */
__device__ __forceinline__ void ring_init(const ring &r, int stages) {
    for (int i = 0; i < stages; i++) hopper::barrier_init(r.full + i * 8, 1), hopper::barrier_init(r.empty + i * 8, PRODUCT_WARPS);
}

/* The producing thread: channels from k on of x's rows from m0 and w's from n0, as soon as the stage is free. */
template <int BN, int STAGES> __device__ __forceinline__ void ring_bring(const ring &r, const cursor<STAGES> &at, const CUtensorMap *x, const CUtensorMap *w, int k, int m0, int n0) {
    const uint32_t to = r.stages + at.stage * stage_of<BN>::BYTES, bar = r.full + at.stage * 8;
    hopper::barrier_wait(r.empty + at.stage * 8, at.phase ^ 1);
    hopper::barrier_expect(bar, stage_of<BN>::BYTES);
    hopper::copy_2d(to, x, k, m0, bar);
    hopper::copy_2d(to + TILE_M * ROW_BYTES, w, k, n0, bar);
}

/* A warpgroup asks for a step's products with the tile's 64 rows from `rows` on; returns the barrier that gives the stage back. N < BN: of w's first N
 * rows alone, always added. */
template <int BN, int N = BN, int STAGES> __device__ __forceinline__ uint32_t ring_multiply(float (&d)[BN / 2], const ring &r, cursor<STAGES> &at, int rows, bool add) {
    const uint32_t stage = r.stages + at.stage * stage_of<BN>::BYTES;
    const uint64_t xs = hopper::tile_desc(stage + rows * ROW_BYTES, 0), ws = hopper::tile_desc(stage + TILE_M * ROW_BYTES, 0);
    hopper::barrier_wait(r.full + at.stage * 8, at.phase);
    hopper::wgmma_fence();
#pragma unroll
    for (int i = 0; i < TILE_K / 16; i++)
        if constexpr (N == BN) product(d, xs + 2 * i, ws + 2 * i, add || i > 0);
        else product_part<N>(d, xs + 2 * i, ws + 2 * i);
    hopper::wgmma_commit();
    const uint32_t bar = r.empty + at.stage * 8;
    at.next();
    return bar;
}

/* A warp has multiplied with the stage. */
__device__ __forceinline__ void ring_release(uint32_t bar) {
    if (threadIdx.x % 32 == 0) hopper::barrier_arrive(bar, 1);
}

} // namespace sc
#endif

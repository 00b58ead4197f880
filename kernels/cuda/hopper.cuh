/* hopper.cuh - Hopper's instructions, one wrapper each: mbarrier, the bulk tensor copy, stmatrix, wgmma, setmaxnreg.
 *
 * Shared memory of the tiles is swizzled by 128 bytes: a tile is [halves][rows][64 channels], one row of a half is 128 bytes, the
 * 16-byte pieces of row r stand XORed by r mod 8, eight rows make an atom of 1024 bytes. */
#ifndef SC_KERNELS_CUDA_HOPPER_CUH
#define SC_KERNELS_CUDA_HOPPER_CUH
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

namespace hopper {

__device__ __forceinline__ uint32_t smem_u32(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void barrier_init(uint32_t bar, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count));
}
__device__ __forceinline__ void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void barrier_expect(uint32_t bar, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t bar, uint32_t count) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t bar, uint32_t parity) {
    asm volatile("{\n.reg .pred p;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra done;\n"
                 "bra again;\n"
                 "done:\n}" ::"r"(bar), "r"(parity) : "memory");
}

/* 64 bits of shared memory, written by one thread of the CTA, read by others: what the writer had seen, they see. An exchange and not a store,
 * which costs the same: compute-sanitizer's racecheck follows no release and no chain of barriers, and takes an atomic write for what it is. */
__device__ __forceinline__ void store_release(uint32_t at, uint64_t v) {
    asm volatile("atom.release.cta.shared::cta.exch.b64 _, [%0], %1;" ::"r"(at), "l"(v) : "memory");
}
__device__ __forceinline__ uint64_t load_acquire(uint32_t at) {
    uint64_t v;
    asm volatile("ld.acquire.cta.shared::cta.b64 %0, [%1];" : "=l"(v) : "r"(at) : "memory");
    return v;
}

/* Bytes (a multiple of 16, both ends aligned so) to shared memory; `bar` counts them. */
__device__ __forceinline__ void copy_1d(uint32_t dst, const void *src, uint32_t bytes, uint32_t bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(dst), "l"(src), "r"(bytes), "r"(bar) : "memory");
}
/* Box of the map at column x, row y to shared memory; `bar` counts its bytes. */
__device__ __forceinline__ void copy_2d(uint32_t dst, const CUtensorMap *map, int x, int y, uint32_t bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                 ::"r"(dst), "l"(map), "r"(x), "r"(y), "r"(bar) : "memory");
}
__device__ __forceinline__ void prefetch_map(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* All but the newest LEFT groups of this thread's bulk copies to global memory have read their source. */
template <int LEFT> __device__ __forceinline__ void stores_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(LEFT) : "memory"); }

/* Four matrices of 8 x 8 16-bit values as a warp holds sums, row i of matrix k to the address of lane 8k + i. */
__device__ __forceinline__ void store_matrices(uint32_t at, const uint32_t (&u)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(u[0]), "r"(u[1]), "r"(u[2]), "r"(u[3]) : "memory");
}

/* The same, each matrix turned: column i to the address. */
__device__ __forceinline__ void store_matrices_turned(uint32_t at, const uint32_t (&u)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(u[0]), "r"(u[1]), "r"(u[2]), "r"(u[3]) : "memory");
}

/* Barrier `id` (1 and up) of the calling warpgroup's 128 threads. */
__device__ __forceinline__ void warpgroup_sync(int id) { asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory"); }

template <int N> __device__ __forceinline__ void registers_grow() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> __device__ __forceinline__ void registers_shrink() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- wgmma -------------------------------------------------------------------------------------------------------------- */

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

/* After a wait: nothing that reads these accumulators moves before it. */
template <int N> __device__ __forceinline__ void registers_ready(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}

/* Matrix descriptor of a 128-byte swizzled tile: stride between atoms along the rows 1024; `lead` between halves (bytes; only
 * read when the channels are the N of the product). */
__device__ __forceinline__ uint64_t tile_desc(uint32_t addr, uint32_t lead) {
    return (uint64_t)((addr & 0x3ffff) >> 4) | (uint64_t)(lead >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* The same in halves: the lower is moved by adding 16-byte units to it, without a carry into the upper, which is the same for all. */
__device__ __forceinline__ uint32_t tile_low(uint32_t addr, uint32_t lead) { return (addr & 0x3ffff) >> 4 | (lead >> 4) << 16; }
__device__ __forceinline__ uint64_t tile_desc_of(uint32_t low) { return (uint64_t)low | (uint64_t)(1024 >> 4 | 1 << 30) << 32; }

/* 32 accumulators of a thread, from d[o] on, as operands that are read and written. */
#define SC_WGMMA_ACC32(d, o) \
    "+f"(d[(o) + 0]), "+f"(d[(o) + 1]), "+f"(d[(o) + 2]), "+f"(d[(o) + 3]), \
    "+f"(d[(o) + 4]), "+f"(d[(o) + 5]), "+f"(d[(o) + 6]), "+f"(d[(o) + 7]), \
    "+f"(d[(o) + 8]), "+f"(d[(o) + 9]), "+f"(d[(o) + 10]), "+f"(d[(o) + 11]), \
    "+f"(d[(o) + 12]), "+f"(d[(o) + 13]), "+f"(d[(o) + 14]), "+f"(d[(o) + 15]), \
    "+f"(d[(o) + 16]), "+f"(d[(o) + 17]), "+f"(d[(o) + 18]), "+f"(d[(o) + 19]), \
    "+f"(d[(o) + 20]), "+f"(d[(o) + 21]), "+f"(d[(o) + 22]), "+f"(d[(o) + 23]), \
    "+f"(d[(o) + 24]), "+f"(d[(o) + 25]), "+f"(d[(o) + 26]), "+f"(d[(o) + 27]), \
    "+f"(d[(o) + 28]), "+f"(d[(o) + 29]), "+f"(d[(o) + 30]), "+f"(d[(o) + 31])

/* d[64 rows][64] (+)= a (registers, 64 x 16) . b, b = 64 rows of 16 channels (K-major). */
#define SC_WGMMA_64(T, NAME)                                                                                                      \
    __device__ __forceinline__ void wgmma_64(float (&d)[32], const uint32_t (&a)[4], uint64_t b, int add, T) {                    \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                                                 \
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " "                                              \
                     "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,"    \
                     "%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, p, 1, 1, 0;\n}"                                                   \
                     : SC_WGMMA_ACC32(d, 0)                                                                                       \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                                             \
    }
SC_WGMMA_64(__half, "f16")
SC_WGMMA_64(__nv_bfloat16, "bf16")
#undef SC_WGMMA_64

/* The same with a in shared memory: 64 rows of 16 channels, K-major; always added. */
#define SC_WGMMA_64_SHARED(T, NAME)                                                                                               \
    __device__ __forceinline__ void wgmma_64_shared(float (&d)[32], uint64_t a, uint64_t b, T) {                                  \
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " "                                              \
                     "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,"    \
                     "%28,%29,%30,%31}, %32, %33, 1, 1, 1, 0, 0;\n"                                                               \
                     : SC_WGMMA_ACC32(d, 0)                                                                                       \
                     : "l"(a), "l"(b));                                                                                           \
    }
SC_WGMMA_64_SHARED(__half, "f16")
SC_WGMMA_64_SHARED(__nv_bfloat16, "bf16")
#undef SC_WGMMA_64_SHARED

/* d[64 rows][128] += a (registers, 64 x 16) . b, b = 16 rows of 128 channels (channels are N). */
#define SC_WGMMA_128(T, NAME)                                                                                                     \
    __device__ __forceinline__ void wgmma_128(float (&d)[64], const uint32_t (&a)[4], uint64_t b, T) {                            \
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." NAME "." NAME " "                                             \
                     "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,"    \
                     "%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,"   \
                     "%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, {%64,%65,%66,%67}, %68, 1, 1, 1, 1;\n"                            \
                     : SC_WGMMA_ACC32(d, 0), SC_WGMMA_ACC32(d, 32)                                                                \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                       \
    }
SC_WGMMA_128(__half, "f16")
SC_WGMMA_128(__nv_bfloat16, "bf16")
#undef SC_WGMMA_128
#undef SC_WGMMA_ACC32

} // namespace hopper
#endif

/* launch.cuh - kernels in clusters: the launch, and what the CTAs of a cluster say to one another.
 *
 * Clusters need compute capability 9.0; code for older cards compiles, is never launched, and traps. */
#ifndef SC_KERNELS_CUDA_LAUNCH_CUH
#define SC_KERNELS_CUDA_LAUNCH_CUH
#include <cuda_runtime.h>
#include <stdint.h>

namespace sc {

/* kernel<<<grid, threads, shared, stream>>>(args...), `cluster` neighbours along x together. Its error is cudaGetLastError's. */
template <class... P, class... A>
static inline void launch_clusters(void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared, cudaStream_t stream, unsigned cluster, A... args) {
    cudaLaunchConfig_t how = {};
    cudaLaunchAttribute attribute[1];
    how.gridDim = grid;
    how.blockDim = dim3(threads);
    how.dynamicSmemBytes = shared;
    how.stream = stream;
    how.attrs = attribute;
    how.numAttrs = 1;
    attribute[0].id = cudaLaunchAttributeClusterDimension;
    attribute[0].val.clusterDim.x = cluster;
    attribute[0].val.clusterDim.y = attribute[0].val.clusterDim.z = 1;
    cudaLaunchKernelEx(&how, kernel, args...);
}

/* Every thread of the cluster has come here; what each wrote to shared memory is seen by all. */
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
    __trap();
#endif
}

/* The same in two halves: what lies between them need not wait for the others. */
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#else
    __trap();
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
    __trap();
#endif
}

/* One float, or four (16-byte aligned), that CTA `rank` of the cluster holds where this one holds *p in shared memory. */
__device__ __forceinline__ float load_of(unsigned rank, const float *p) {
    float v = 0;
#if __CUDA_ARCH__ >= 900
    uint32_t at;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"((uint32_t)__cvta_generic_to_shared(p)), "r"(rank));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
#else
    __trap();
#endif
    return v;
}
__device__ __forceinline__ float4 load4_of(unsigned rank, const float *p) {
    float4 v = {};
#if __CUDA_ARCH__ >= 900
    uint32_t at;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"((uint32_t)__cvta_generic_to_shared(p)), "r"(rank));
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(at) : "memory");
#else
    __trap();
#endif
    return v;
}

} // namespace sc
#endif

/* launch.cuh - how the kernels of a pass are launched: early where the card can, in clusters where they ask for it.
 *
 * Early (programmatic dependent launch, compute capability 9.0). Most kernels between the products run for 10 to 30 us, and from the end of
 * one to the first instruction of the next 1.5 us go by. A kernel launched by launch() may take its place on the card while the kernel before
 * it still runs; the rule that keeps this right: the first thing it does is stream_order(), which waits until all earlier kernels of the
 * stream have ended and their writes are seen, since each of those began with the same wait or was launched the ordinary way. Nothing is read
 * or written before, kernel arguments aside. A kernel with that call may be launched the ordinary way too. A capture into a graph keeps the
 * order and the early start.
 *
 * Clusters need compute capability 9.0 too; code for older cards compiles, is never launched, and traps. */
#ifndef SC_KERNELS_CUDA_LAUNCH_CUH
#define SC_KERNELS_CUDA_LAUNCH_CUH
#include "kernels/cuda/cuda.h"
#include <cuda_runtime.h>
#include <stdint.h>

namespace sc {

/* kernel<<<grid, threads, shared>>>(args...) on the device's stream, `cluster` neighbours along x together (0: no clusters). The kernel begins
 * with stream_order(). What goes wrong is cudaGetLastError's. */
template <class... P, class... A>
static inline void launch(const struct sc_cuda *dev, void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared, unsigned cluster, A... args) {
    cudaLaunchConfig_t how = {};
    cudaLaunchAttribute attribute[2];
    how.gridDim = grid;
    how.blockDim = dim3(threads);
    how.dynamicSmemBytes = shared;
    how.stream = dev->stream;
    how.attrs = attribute;
    if (dev->cc_major >= 9 && !dev->force_mma) {
        attribute[how.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute[how.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster) {
        attribute[how.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attribute[how.numAttrs].val.clusterDim.x = cluster;
        attribute[how.numAttrs].val.clusterDim.y = 1;
        attribute[how.numAttrs++].val.clusterDim.z = 1;
    }
    cudaLaunchKernelEx(&how, kernel, args...);
}

/* The first statement of every kernel that launch() launches. Also lets the next kernel come once all CTAs of this one have begun. */
__device__ __forceinline__ void stream_order() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\ngriddepcontrol.launch_dependents;" ::: "memory");
#endif
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

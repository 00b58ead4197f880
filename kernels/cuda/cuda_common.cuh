/* cuda_common.cuh - what the CUDA files share: launch checks, the two 16-bit types behind one set of names, warp sums, and the
 * rotation by age. */
#ifndef SC_KERNELS_CUDA_COMMON_CUH
#define SC_KERNELS_CUDA_COMMON_CUH
#include "kernels/cuda/cuda.h"
#include <cuda_bf16.h>
#include <cuda_fp16.h>

/* After a launch: what the launch itself said. */
static inline sc_status sc_cuda_launched(const char *op, sc_error *err) {
    cudaError_t e = cudaGetLastError();
    return e == cudaSuccess ? SC_OK : sc_fail(err, SC_EGPU, "%s: %s", op, cudaGetErrorString(e));
}

/* half2-like pair <-> two floats; lo is the lower channel. */
__device__ __forceinline__ uint32_t pack2(float lo, float hi, __half) {
    __half2 h = __floats2half2_rn(lo, hi);
    return *reinterpret_cast<uint32_t *>(&h);
}
__device__ __forceinline__ uint32_t pack2(float lo, float hi, __nv_bfloat16) {
    __nv_bfloat162 h = __floats2bfloat162_rn(lo, hi);
    return *reinterpret_cast<uint32_t *>(&h);
}
__device__ __forceinline__ float2 unpack2(uint32_t u, __half) {
    return __half22float2(*reinterpret_cast<__half2 *>(&u));
}
__device__ __forceinline__ float2 unpack2(uint32_t u, __nv_bfloat16) {
    return make_float2(__uint_as_float(u << 16), __uint_as_float(u & 0xffff0000u));
}
__device__ __forceinline__ float to_float(__half h) { return __half2float(h); }
__device__ __forceinline__ float to_float(__nv_bfloat16 h) { return __bfloat162float(h); }
__device__ __forceinline__ float to_float(float h) { return h; }
template <typename T> __device__ __forceinline__ T from_float(float f);
template <> __device__ __forceinline__ __half from_float<__half>(float f) { return __float2half_rn(f); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float f) { return __float2bfloat16_rn(f); }
template <> __device__ __forceinline__ float from_float<float>(float f) { return f; }

__device__ __forceinline__ float warp_sum(float v) {
    for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
    return v;
}
__device__ __forceinline__ float warp_max(float v) {
    for (int d = 16; d; d >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
    return v;
}

/* ---- ages --------------------------------------------------------------------------------------------------------------- */

/* Age of a slot in latent frames (ops.h, sc_kv_view). */
__device__ __forceinline__ int slot_age(int64_t chunk_now, int64_t chunk, int chunk_frames, int max_distance) {
    int64_t age = (chunk_now - chunk) * chunk_frames;
    const int64_t top = max_distance >= 0 ? max_distance : SC_CUDA_AGE_BASE * SC_CUDA_AGE_BASE * SC_CUDA_AGE_BASE - 1;
    return (int)(age < 0 ? 0 : age > top ? top : age);
}

/* cos, sin of age * theta[pair]. */
__device__ __forceinline__ float2 age_rotation(const float2 *table, int age, int pair) {
    float2 r = table[(age & 255) * SC_MAX_ROPE_PAIRS + pair];
    for (int digit = 1; (age >>= 8) && digit < SC_CUDA_AGE_DIGITS; digit++) {
        const float2 t = table[(digit * SC_CUDA_AGE_BASE + (age & 255)) * SC_MAX_ROPE_PAIRS + pair];
        r = make_float2(r.x * t.x - r.y * t.y, r.x * t.y + r.y * t.x);
    }
    return r;
}

/* Makes dev->age_table hold the rotations of this model (a launch on the stream when the angles are new). */
sc_status sc_cuda_age_table(struct sc_cuda *dev, const sc_rope *rope, sc_error *err);

#endif

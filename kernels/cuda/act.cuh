/* act.cuh - the two activation types behind one set of names, and reductions over a warp or a CTA.
 *
 * A kernel is written once as a template on T (__half or __nv_bfloat16) and launched through SC_ACT_CALL, which picks T from the
 * device's act type. Arithmetic is f32; conversions round to nearest even; f16 subnormals are kept. */
#ifndef SC_KERNELS_CUDA_ACT_CUH
#define SC_KERNELS_CUDA_ACT_CUH
#include "base/status.h"
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <stdint.h>

namespace sc {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __half from_float<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

/* Two values as one 32-bit register, the first in the low half. */
template <class T> __device__ __forceinline__ uint32_t pack2(float a, float b);
template <> __device__ __forceinline__ uint32_t pack2<__half>(float a, float b) {
    __half2 h = __floats2half2_rn(a, b);
    return *reinterpret_cast<uint32_t *>(&h);
}
template <> __device__ __forceinline__ uint32_t pack2<__nv_bfloat16>(float a, float b) {
    __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
    return *reinterpret_cast<uint32_t *>(&h);
}
template <class T> __device__ __forceinline__ float2 unpack2(uint32_t u);
template <> __device__ __forceinline__ float2 unpack2<__half>(uint32_t u) { return __half22float2(*reinterpret_cast<__half2 *>(&u)); }
template <> __device__ __forceinline__ float2 unpack2<__nv_bfloat16>(uint32_t u) {
    return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162 *>(&u));
}

/* The larger of each and zero; nan becomes zero. */
template <class T> __device__ __forceinline__ uint32_t relu2(uint32_t u);
template <> __device__ __forceinline__ uint32_t relu2<__half>(uint32_t u) {
    const __half2 v = __hmax2(*reinterpret_cast<__half2 *>(&u), __half2half2(__ushort_as_half(0)));
    return *reinterpret_cast<const uint32_t *>(&v);
}
template <> __device__ __forceinline__ uint32_t relu2<__nv_bfloat16>(uint32_t u) {
    const __nv_bfloat162 v = __hmax2(*reinterpret_cast<__nv_bfloat162 *>(&u), __bfloat162bfloat162(__ushort_as_bfloat16(0)));
    return *reinterpret_cast<const uint32_t *>(&v);
}

/* Four or eight neighbouring elements as floats: one access of 8 or 16 bytes (f32: one or two of 16). */
template <class T> __device__ __forceinline__ void load4(float v[4], const T *p) {
    uint2 u = *reinterpret_cast<const uint2 *>(p);
    float2 a = unpack2<T>(u.x), b = unpack2<T>(u.y);
    v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y;
}
template <> __device__ __forceinline__ void load4<float>(float v[4], const float *p) {
    float4 a = *reinterpret_cast<const float4 *>(p);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
}
template <class T> __device__ __forceinline__ void store4(T *p, const float v[4]) {
    *reinterpret_cast<uint2 *>(p) = make_uint2(pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]));
}
template <> __device__ __forceinline__ void store4<float>(float *p, const float v[4]) {
    *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
}
template <class T> __device__ __forceinline__ void load8(float v[8], const T *p) {
    uint4 u = *reinterpret_cast<const uint4 *>(p);
    float2 a = unpack2<T>(u.x), b = unpack2<T>(u.y), c = unpack2<T>(u.z), d = unpack2<T>(u.w);
    v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y, v[4] = c.x, v[5] = c.y, v[6] = d.x, v[7] = d.y;
}
template <> __device__ __forceinline__ void load8<float>(float v[8], const float *p) {
    load4<float>(v, p);
    load4<float>(v + 4, p + 4);
}
template <class T> __device__ __forceinline__ uint4 pack8(const float v[8]) {
    return make_uint4(pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]), pack2<T>(v[4], v[5]), pack2<T>(v[6], v[7]));
}
template <class T> __device__ __forceinline__ void store8(T *p, const float v[8]) { *reinterpret_cast<uint4 *>(p) = pack8<T>(v); }
template <> __device__ __forceinline__ void store8<float>(float *p, const float v[8]) {
    store4<float>(p, v);
    store4<float>(p + 4, v + 4);
}

__device__ __forceinline__ float gelu_tanh(float y) { return 0.5f * y * (1.0f + tanhf(0.7978845608028654f * (y + 0.044715f * y * y * y))); }
__device__ __forceinline__ float silu(float y) { return y / (1.0f + __expf(-y)); }

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int o = 16; o; o /= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

/* Sum over a CTA of THREADS threads, the same value and the same order of additions in every thread and every run. `part` has room
 * for THREADS / 32 floats; two calls in a row need different `part`. */
template <int THREADS> __device__ __forceinline__ float cta_sum(float v, float *part) {
    v = warp_sum(v);
    if (THREADS == 32) return v;
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++) v += part[i];
    return v;
}

} // namespace sc

/* After a launch: what the launch itself said. */
static inline sc_status sc_launched(const char *op, sc_error *err) {
    const cudaError_t e = cudaGetLastError();
    return e == cudaSuccess ? SC_OK : sc_fail(err, SC_EGPU, "%s: %s", op, cudaGetErrorString(e));
}

/* Runs a statement with T bound to the type that `act` names. */
#define SC_ACT_CALL(act, ...)                                         \
    do {                                                               \
        if ((act) == SC_F16) { using T = __half; __VA_ARGS__; }               \
        else { using T = __nv_bfloat16; __VA_ARGS__; }                        \
    } while (0)

#endif

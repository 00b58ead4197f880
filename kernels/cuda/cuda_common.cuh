/* cuda_common.cuh - what the attention, selection and memory kernels share: the launch check, the view of a session that a
 * kernel takes by value, and the rotation by age. The activation types are in act.cuh. */
#ifndef SC_KERNELS_CUDA_COMMON_CUH
#define SC_KERNELS_CUDA_COMMON_CUH
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/cuda.h"

/* After a launch: what the launch itself said. */
static inline sc_status sc_cuda_launched(const char *op, sc_error *err) {
    cudaError_t e = cudaGetLastError();
    return e == cudaSuccess ? SC_OK : sc_fail(err, SC_EGPU, "%s: %s", op, cudaGetErrorString(e));
}

/* ---- ages --------------------------------------------------------------------------------------------------------------- */

/* How kernels see sc_rope: the table of rotations by age instead of the angles. */
struct sc_age_rule {
    const float2 *table;
    int pairs, chunk_frames, max_distance;
};

/* Age of a slot in latent frames (ops.h, sc_kv_view). */
__device__ __forceinline__ int slot_age(const sc_age_rule &rule, const int64_t *chunk_now, int64_t chunk) {
    const int64_t age = (*chunk_now - chunk) * rule.chunk_frames;
    const int64_t top = rule.max_distance >= 0 ? rule.max_distance
                                               : (int64_t)SC_CUDA_AGE_BASE * SC_CUDA_AGE_BASE * SC_CUDA_AGE_BASE - 1;
    return (int)(age < 0 ? 0 : age > top ? top : age);
}

/* cos, sin of age * theta[pair]. */
__device__ __forceinline__ float2 age_rotation(const float2 *table, int age, int pair) {
    float2 r = __ldg(table + (age & 255) * SC_MAX_ROPE_PAIRS + pair);
    for (int digit = 1; (age >>= 8) && digit < SC_CUDA_AGE_DIGITS; digit++) {
        const float2 t = __ldg(table + (digit * SC_CUDA_AGE_BASE + (age & 255)) * SC_MAX_ROPE_PAIRS + pair);
        r = make_float2(r.x * t.x - r.y * t.y, r.x * t.y + r.y * t.x);
    }
    return r;
}

/* The rule of a model; makes dev->age_table hold its rotations (a launch on the stream when the angles are new). */
sc_status sc_cuda_age_rule(struct sc_cuda *dev, const sc_rope *rope, sc_age_rule *out, sc_error *err);

#endif

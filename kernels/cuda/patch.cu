/* patch.cu - latent frames to patch rows and back.
 *
 * One CTA a token; threads run over the values of its patch. 832x480: 4680 tokens of 64 values, 1.2 MB: launch-bound.
 * Thread: engine; asynchronous on the device's stream. */
#include "kernels/cuda/act.cuh"
#include "kernels/cuda/cuda.h"

using namespace sc;

/* Where channel ch, patch row p, patch column q of the token at place `order` lies in latent [ch][frames][rows*ph][cols*pw]. */
__device__ __forceinline__ size_t latent_index(const sc_patch_args &a, int order, int ch, int p, int q) {
    const int col = order % a.cols, row = order / a.cols % a.rows, frame = order / a.cols / a.rows;
    return (((size_t)ch * a.frames + frame) * (a.rows * a.ph) + row * a.ph + p) * (size_t)(a.cols * a.pw) + col * a.pw + q;
}

template <class T> __global__ static void patchify_kernel(sc_patch_args a) {
    const int n = a.ch * a.ph * a.pw, order = a.order[blockIdx.x];
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        ((T *)a.out)[(size_t)blockIdx.x * n + i] =
            from_float<T>(((const float *)a.in)[latent_index(a, order, i / (a.ph * a.pw), i / a.pw % a.ph, i % a.pw)]);
}

__global__ static void unpatchify_kernel(sc_patch_args a) {
    const int n = a.ch * a.ph * a.pw, order = a.order[blockIdx.x];
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        ((float *)a.out)[latent_index(a, order, i % a.ch, i / (a.ch * a.pw), i / a.ch % a.pw)] = ((const float *)a.in)[(size_t)blockIdx.x * n + i];
}

extern "C" sc_status sc_cuda_patchify(sc_device *dev, const sc_patch_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    SC_ACT_CALL(dev->act, (patchify_kernel<T><<<a->frames * a->rows * a->cols, 64, 0, c->stream>>>(*a)));
    return sc_launched("patchify", err);
}

extern "C" sc_status sc_cuda_unpatchify(sc_device *dev, const sc_patch_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    unpatchify_kernel<<<a->frames * a->rows * a->cols, 64, 0, c->stream>>>(*a);
    return sc_launched("unpatchify", err);
}

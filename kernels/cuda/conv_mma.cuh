/* conv_mma.cuh - convolution of NHWC pictures on mma.sync: any card since compute capability 8.0, any size, stride and channel count.
 * The path for what conv.cuh does not take, and its witness in tests.
 *
 * Grid: (tiles of 64 output pixels, tiles of 64 output channels, frames), 4 warps of 16 pixels. Implicit GEMM, K = (tap, 16 input
 * channels); a stage is 64 x 16 of the picture and 64 x 16 of the weight. Rows of 48 bytes keep ldmatrix free of bank conflicts. An
 * input channel belongs to source channel / ch: the frame and the one before (past), or the frames of a pool.
 *
 * Bound: none aimed at; a stage is loaded, then multiplied. */
#ifndef SC_KERNELS_CUDA_CONV_MMA_CUH
#define SC_KERNELS_CUDA_CONV_MMA_CUH
#include "kernels/cuda/mma.cuh"

namespace sc {

enum { CONV_MMA_THREADS = 128, CONV_MMA_PITCH = 24 };

struct conv_mma_args {
    const void *x, *past, *residual;
    void *out;
    const void *weights;   /* [tap][in / 16][oc padded to 64][16] */
    const float *bias;
    int h, w, oh, ow, ch, in_ch, oc, size, stride, up;
    int pool;              /* 0: source 1 is the frame before; s: source k is frame n * s + k */
    int groups, group_ch;  /* grow: output channel o goes to frame n * groups + o / group_ch */
    bool relu;
};

/* 8 channels from `i` on of picture pixel (y, x) of frame n, as they lie; zeros outside. */
template <class T> __device__ __forceinline__ uint4 conv_mma_load(const conv_mma_args &a, int n, int y, int x, int i, bool inside) {
    const size_t pixel = ((size_t)y * a.w + x) * a.ch, frame = (size_t)a.h * a.w * a.ch;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (!inside || i >= a.in_ch) return v;
    auto source = [&](int k) -> const T * {
        if (a.pool) return (const T *)a.x + ((size_t)n * a.pool + k) * frame;
        return k == 0 ? (const T *)a.x + n * frame : n ? (const T *)a.x + (n - 1) * frame : (const T *)a.past;
    };
    if (a.ch % 8 == 0) return *(const uint4 *)(source(i / a.ch) + pixel + i % a.ch);
    T one[8];
#pragma unroll
    for (int j = 0; j < 8; j++) one[j] = i + j < a.in_ch ? source((i + j) / a.ch)[pixel + (i + j) % a.ch] : from_float<T>(0.0f);
    memcpy(&v, one, sizeof v);
    return v;
}

template <class T> __global__ static void __launch_bounds__(CONV_MMA_THREADS) conv_mma_kernel(const __grid_constant__ conv_mma_args a) {
    __shared__ __align__(16) T pixels[64][CONV_MMA_PITCH], weights[64][CONV_MMA_PITCH];
    const int frame = blockIdx.z, oc0 = blockIdx.y * 64, oc_padded = gridDim.y * 64, slabs = (a.in_ch + 15) / 16, pad = a.size / 2;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = threadIdx.x / 2, half = threadIdx.x % 2 * 8;
    const int p = blockIdx.x * 64 + row, oy = p / a.ow, ox = p % a.ow;
    float d[8][4] = {};
    for (int tap = 0; tap < a.size * a.size; tap++) {
        const int sy = oy * a.stride + tap / a.size - pad, sx = ox * a.stride + tap % a.size - pad;
        const bool inside = p < a.oh * a.ow && sy >= 0 && sy < a.h * a.up && sx >= 0 && sx < a.w * a.up;
        for (int slab = 0; slab < slabs; slab++) {
            const uint4 v = conv_mma_load<T>(a, frame, sy / a.up, sx / a.up, slab * 16 + half, inside);
            const uint4 w = __ldg((const uint4 *)((const T *)a.weights + (((size_t)tap * slabs + slab) * oc_padded + oc0 + row) * 16 + half));
            __syncthreads();
            *(uint4 *)&pixels[row][half] = v;
            *(uint4 *)&weights[row][half] = w;
            __syncthreads();
            uint32_t m[4], b[4];
            ldmatrix4(m, shared_at(&pixels[warp * 16 + lane % 16][lane / 16 * 8]));
#pragma unroll
            for (int j = 0; j < 4; j++) {
                ldmatrix4(b, shared_at(&weights[j * 16 + lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8]));
                mma16816<T>(d[2 * j], m, b[0], b[1]);
                mma16816<T>(d[2 * j + 1], m, b[2], b[3]);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int q = blockIdx.x * 64 + warp * 16 + lane / 4 + e / 2 * 8, o = oc0 + j * 8 + lane % 4 * 2 + e % 2;
            if (q >= a.oh * a.ow || o >= a.oc) continue;
            const size_t at = (((size_t)frame * a.groups + o / a.group_ch) * a.oh * a.ow + q) * a.group_ch + o % a.group_ch;
            float y = d[j][e] + a.bias[o];
            if (a.residual) y += to_float(((const T *)a.residual)[at]);
            ((T *)a.out)[at] = from_float<T>(a.relu ? fmaxf(y, 0.0f) : y);
        }
}

template <class T> static void conv_mma_launch(const conv_mma_args &a, int frames, cudaStream_t stream) {
    conv_mma_kernel<T><<<dim3((a.oh * a.ow + 63) / 64, (a.oc + 63) / 64, frames), CONV_MMA_THREADS, 0, stream>>>(a);
}

} // namespace sc
#endif

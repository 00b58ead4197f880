/* conv3_mma.cuh - causal convolution of NHWC pictures on mma.sync: any card since compute capability 8.0, any size, stride in the plane and
 * in time, padding and channel count. The path for what conv3.cuh does not take, and its witness in tests.
 *
 * Grid: (tiles of 64 output pixels, tiles of 64 output channels, frames made), 4 warps of 16 pixels. Implicit GEMM, K = (frame, tap, 16
 * input channels); a stage is 64 x 16 of the picture and 64 x 16 of the weight, loaded, then multiplied. Rows of 48 bytes keep
 * ldmatrix free of bank conflicts. Bound: none aimed at. */
#ifndef SC_KERNELS_CUDA_CONV3_MMA_CUH
#define SC_KERNELS_CUDA_CONV3_MMA_CUH
#include "kernels/cuda/mma.cuh"

namespace sc {

enum { CONV3_MMA_THREADS = 128, CONV3_MMA_PITCH = 24 };

struct conv3_mma_args {
    const void *x, *past, *residual;
    void *out;
    const void *weights; /* [time][tap][in / 16][oc padded to 64][16] */
    const float *bias;
    int h, w, oh, ow, ch, oc, size, stride, up, pad; /* up: x counts doubled when 2; pad: rows and columns of zeros before the first */
    int times, time_stride;
    int split, group_ch; /* channel o goes to frame n * split + o / group_ch */
};

template <class T> __global__ static void __launch_bounds__(CONV3_MMA_THREADS) conv3_mma_kernel(const __grid_constant__ conv3_mma_args a) {
    __shared__ __align__(16) T pixels[64][CONV3_MMA_PITCH], weights[64][CONV3_MMA_PITCH];
    const int oc0 = blockIdx.y * 64, oc_padded = gridDim.y * 64, slabs = (a.ch + 15) / 16, last = (blockIdx.z + 1) * a.time_stride - 1;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = threadIdx.x / 2, half = threadIdx.x % 2 * 8;
    const int p = blockIdx.x * 64 + row, oy = p / a.ow, ox = p % a.ow;
    const size_t frame = (size_t)a.h * a.w * a.ch;
    float d[8][4] = {};
    for (int time = 0; time < a.times; time++) {
        const int from = last - (a.times - 1) + time;
        const T *picture = from >= 0 ? (const T *)a.x + from * frame : (const T *)a.past + (from + a.times - 1) * frame;
        for (int tap = 0; tap < a.size * a.size; tap++) {
            const int sy = oy * a.stride + tap / a.size - a.pad, sx = ox * a.stride + tap % a.size - a.pad;
            const bool inside = p < a.oh * a.ow && sy >= 0 && sy < a.h * a.up && sx >= 0 && sx < a.w * a.up;
            const T *pixel = picture + (inside ? ((size_t)(sy / a.up) * a.w + sx / a.up) * a.ch : 0);
            for (int slab = 0; slab < slabs; slab++) {
                const int c = slab * 16 + half;
                uint4 v = make_uint4(0, 0, 0, 0);
                if (inside && a.ch % 8 == 0) {
                    if (c < a.ch) v = *(const uint4 *)(pixel + c);
                } else if (inside) {
                    T one[8];
#pragma unroll
                    for (int j = 0; j < 8; j++) one[j] = c + j < a.ch ? pixel[c + j] : from_float<T>(0.0f);
                    memcpy(&v, one, sizeof v);
                }
                const uint4 w = __ldg((const uint4 *)((const T *)a.weights + (((size_t)(time * a.size * a.size + tap) * slabs + slab) * oc_padded + oc0 + row) * 16 + half));
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
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int q = blockIdx.x * 64 + warp * 16 + lane / 4 + e / 2 * 8, o = oc0 + j * 8 + lane % 4 * 2 + e % 2;
            if (q >= a.oh * a.ow || o >= a.oc) continue;
            const size_t at = (((size_t)blockIdx.z * a.split + o / a.group_ch) * a.oh * a.ow + q) * a.group_ch + o % a.group_ch;
            const float y = d[j][e] + a.bias[o];
            ((T *)a.out)[at] = from_float<T>(a.residual ? y + to_float(((const T *)a.residual)[at]) : y);
        }
}

template <class T> static void conv3_mma_launch(const conv3_mma_args &a, int frames, cudaStream_t stream) {
    conv3_mma_kernel<T><<<dim3((a.oh * a.ow + 63) / 64, (a.oc + 63) / 64, frames), CONV3_MMA_THREADS, 0, stream>>>(a);
}

} // namespace sc
#endif

/* conv.cuh - 3x3 and 1x1 convolution of NHWC pictures as implicit GEMM on wgmma (sm_90a).
 *
 * Roles. M = 64 output channels (A, weights), N = 160 pixels (B), K = 16 input channels of one tap: the picture is the wide
 * operand, because a 64-channel layer with pixels as M would read shared memory as fast as it multiplies. A CTA has two warpgroups:
 *   PW = 1   one picture tile of 8 x 20, output channels [0, 64) and [64, 128) of a tile of 128
 *   PW = 2   64 output channels, picture tile of 8 x 40, rows [0, 20) and [20, 40)
 * Eight pixels of a row are the eight rows of a core matrix. 20 divides 60, 120, 240 and 480.
 *
 * Shared memory, two stages: picture with halo, planes [2 KK][PW * 20 + 2][10][8 channels], then weights
 * [oc / 64][tap][2 KK][64][8]. No swizzle: a core matrix is 8 pixels x 16 bytes = 128 contiguous bytes wherever it starts, so all
 * nine taps read the same halo tile at shifted addresses; a pixel is fetched 1.4 times instead of 9. Planes are padded to 64 mod 128
 * bytes so that the writes of cp.async meet no bank twice. A stage holds KK * 16 channels of all taps.
 *
 * Doubling (upsample). A 3x3 convolution of a picture doubled by nearest neighbour is, for each of the four parities of the output
 * pixel, a 2x2 convolution of the small picture with sums of the weights: 4/9 of the flops. `phase` runs over the parities.
 *
 * Order: while stage s is multiplied, stage s + 1 is on its way by cp.async; one barrier a stage; two CTAs a multiprocessor fill each
 * other's gaps. Epilogue: + bias (f32), to act type, transposed through shared memory by stmatrix to rows of channels, + residual,
 * relu, 16-byte stores. Starts early (launch.cuh). Bound: flops. What conv_ring.cuh leaves: 1x1 and odd channels, of TAEHV the first layer. */
#ifndef SC_KERNELS_CUDA_CONV_CUH
#define SC_KERNELS_CUDA_CONV_CUH
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"

namespace sc {

enum { CONV_TH = 20, CONV_N = 8 * CONV_TH, CONV_THREADS = 256, CONV_COLS = 10, CONV_OUT_PITCH = 144 /* bytes: 64 channels + 16 */ };

struct conv_args {
    const void *x, *past, *residual;
    void *out;
    const void *weights;            /* packed, see filter.cu */
    const float *bias;              /* [tiles of 64 * 64] */
    size_t phase_weights;           /* elements between phases */
    int h, w, ch, oc, slabs;        /* picture in; channels of a source; stages of one source */
    int sources;                    /* 2: channels beyond ch come from the frame before */
    int out_scale;                  /* 2: output pixel (2y + phase / 2, 2x + phase % 2) */
    int phases, oc_tiles;           /* oc_tiles: CTAs along the output channels */
    int tiles_x;
    int groups, group_ch;           /* grow: output channel o goes to frame n * groups + o / group_ch, channel o % group_ch */
    bool relu;
};

__host__ __device__ constexpr int conv_plane_bytes(int pw) {
    const int raw = (pw * CONV_TH + 2) * CONV_COLS * 16;
    return (raw + 63) / 128 * 128 + 64;
}
__host__ __device__ constexpr int conv_stage_bytes(int taps, int kk, int pw) {
    return ((2 * kk * conv_plane_bytes(pw) + 127) / 128 * 128) + (pw == 1 ? 2 : 1) * taps * 2 * kk * 64 * 16;
}
__host__ __device__ constexpr int conv_shared_bytes(int taps, int kk, int pw) {
    const int stages = 2 * conv_stage_bytes(taps, kk, pw), out = 2 * CONV_N * CONV_OUT_PITCH;
    return stages > out ? stages : out;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SC_CONV_WGMMA 1
#endif

/* Matrix descriptor without swizzle: `lead` bytes between core matrices along K, `stride` along M or N. */
__device__ __forceinline__ uint64_t conv_descriptor(uint32_t at, uint32_t lead, uint32_t stride) {
    return (uint64_t)((at >> 4) & 0x3fff) | (uint64_t)(lead >> 4) << 16 | (uint64_t)(stride >> 4) << 32;
}

#define SC_R8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SC_WGMMA_160(type)                                                                                                        \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %82, 0;\n"                                                                     \
                 "wgmma.mma_async.sync.aligned.m64n160k16.f32." type "." type " "                                                 \
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29," \
                 "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,"   \
                 "%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79},"                  \
                 " %80, %81, p, 1, 1, 0, 0;\n}\n"                                                                                 \
                 : SC_R8(0), SC_R8(8), SC_R8(16), SC_R8(24), SC_R8(32), SC_R8(40), SC_R8(48), SC_R8(56), SC_R8(64), SC_R8(72)     \
                 : "l"(a), "l"(b), "r"(add))

template <class T> __device__ __forceinline__ void wgmma160(float (&d)[80], uint64_t a, uint64_t b, int add);
#ifdef SC_CONV_WGMMA
template <> __device__ __forceinline__ void wgmma160<__half>(float (&d)[80], uint64_t a, uint64_t b, int add) { SC_WGMMA_160("f16"); }
template <> __device__ __forceinline__ void wgmma160<__nv_bfloat16>(float (&d)[80], uint64_t a, uint64_t b, int add) { SC_WGMMA_160("bf16"); }
#endif

/* TAPS 9: 3x3. 4: 2x2 of a phase. 1: 1x1. Grid: (tiles of the picture, oc_tiles * phases, frames). */
template <class T, int TAPS, int KK, int PW> __global__ static void __launch_bounds__(CONV_THREADS, 2) conv_kernel(const __grid_constant__ conv_args a) {
    stream_order();
#ifdef SC_CONV_WGMMA
    extern __shared__ __align__(1024) unsigned char conv_shared[];
    constexpr int ROWS = PW * CONV_TH + 2, PLANE = conv_plane_bytes(PW), STAGE = conv_stage_bytes(TAPS, KK, PW);
    constexpr int WEIGHTS_AT = (2 * KK * PLANE + 127) / 128 * 128, OC64 = PW == 1 ? 2 : 1, TILE_W = TAPS * 2 * KK * 64 * 8; /* elements of 64 oc */
    const int frame = blockIdx.z, phase = blockIdx.y / a.oc_tiles, oc_tile = blockIdx.y % a.oc_tiles, py = phase / 2, px = phase % 2;
    const int x0 = blockIdx.x % a.tiles_x * 8, y0 = blockIdx.x / a.tiles_x * (PW * CONV_TH);
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const uint32_t base = shared_at(conv_shared);
    const size_t frame_elems = (size_t)a.h * a.w * a.ch;
    const int steps = a.slabs * a.sources, oc64_total = a.oc_tiles * OC64;
    const T *weights = (const T *)a.weights + (size_t)phase * a.phase_weights;
    const T *x = (const T *)a.x + frame * frame_elems, *before = frame ? x - frame_elems : (const T *)a.past;

    auto fetch = [&](int step) {
        const uint32_t at = base + (step & 1) * STAGE;
        const T *from = step < a.slabs ? x : before;
        const int c0 = (step < a.slabs ? step : step - a.slabs) * KK * 16;
        for (int i = threadIdx.x; i < ROWS * CONV_COLS * 2 * KK; i += CONV_THREADS) {
            const int plane = i % (2 * KK), p = i / (2 * KK), r = p / CONV_COLS, c = p % CONV_COLS;
            const int sy = y0 + r - 1, sx = x0 + c - 1, ch = c0 + plane * 8;
            const bool in = sy >= 0 && sy < a.h && sx >= 0 && sx < a.w && ch < a.ch;
            copy16_async(at + plane * PLANE + p * 16, in ? from + ((size_t)sy * a.w + sx) * a.ch + ch : from, in ? 16 : 0);
        }
        /* packed [step][oc / 64][tap][plane][64][8] */
        const T *w = weights + ((size_t)step * oc64_total + oc_tile * OC64) * TILE_W;
        for (int i = threadIdx.x; i < OC64 * TILE_W / 8; i += CONV_THREADS) copy16_async(at + WEIGHTS_AT + i * 16, w + (size_t)i * 8, 16);
        copy_commit();
    };

    float d[80];
#pragma unroll
    for (int i = 0; i < 80; i++) d[i] = 0;
    fetch(0);
    for (int step = 0; step < steps; step++) {
        copy_wait<0>();
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        if (step + 1 < steps) fetch(step + 1);
        const uint32_t stage = base + (step & 1) * STAGE;
        const uint32_t pixels = stage + (PW == 2 ? group * CONV_TH * CONV_COLS * 16 : 0);
        const uint32_t w = stage + WEIGHTS_AT + (PW == 1 ? group * TILE_W * 2 : 0);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int k = 0; k < KK; k++)
#pragma unroll
            for (int tap = 0; tap < TAPS; tap++) {
                const int ky = TAPS == 9 ? tap / 3 : TAPS == 4 ? tap / 2 + py : 1, kx = TAPS == 9 ? tap % 3 : TAPS == 4 ? tap % 2 + px : 1;
                wgmma160<T>(d, conv_descriptor(w + (tap * 2 * KK + 2 * k) * 1024, 1024, 128),
                            conv_descriptor(pixels + 2 * k * PLANE + (ky * CONV_COLS + kx) * 16, PLANE, CONV_COLS * 16), 1);
            }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }
    __syncthreads();

    /* Accumulator: rows = channels 16 * warp + lane / 4 (+ 8), d[4j ..] = picture row j, pixels lane % 4 * 2 (+ 1). */
    const int oc0 = (oc_tile * OC64 + (PW == 1 ? group : 0)) * 64;
    const uint32_t mine = base + group * CONV_N * CONV_OUT_PITCH;
    const float b0 = a.bias[oc0 + warp * 16 + lane / 4], b1 = a.bias[oc0 + warp * 16 + lane / 4 + 8];
#pragma unroll
    for (int j = 0; j < CONV_TH; j += 2) {
        const uint32_t at = mine + ((j + lane / 16) * 8 + lane % 8) * CONV_OUT_PITCH + (warp * 16 + lane / 8 % 2 * 8) * 2;
        asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(pack2<T>(d[4 * j] + b0, d[4 * j + 1] + b0)),
                     "r"(pack2<T>(d[4 * j + 2] + b1, d[4 * j + 3] + b1)), "r"(pack2<T>(d[4 * j + 4] + b0, d[4 * j + 5] + b0)),
                     "r"(pack2<T>(d[4 * j + 6] + b1, d[4 * j + 7] + b1)) : "memory");
    }
    asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory");
    const int oh = a.h * a.out_scale, ow = a.w * a.out_scale;
    const unsigned char *rows = conv_shared + group * CONV_N * CONV_OUT_PITCH;
    for (int i = threadIdx.x % 128; i < CONV_N * 8; i += 128) {
        const int p = i / 8, o = oc0 + i % 8 * 8, y = y0 + (PW == 2 ? group * CONV_TH : 0) + p / 8, xx = x0 + p % 8;
        if (y >= a.h || xx >= a.w || o >= a.oc) continue;
        const size_t n = (size_t)frame * a.groups + o / a.group_ch;
        const size_t at = ((n * oh + y * a.out_scale + py) * ow + xx * a.out_scale + px) * a.group_ch + o % a.group_ch;
        float v[8], r[8];
        load8<T>(v, (const T *)(rows + p * CONV_OUT_PITCH + i % 8 * 16));
        if (a.group_ch % 8 == 0) {
            if (a.residual) {
                load8<T>(r, (const T *)a.residual + at);
#pragma unroll
                for (int j = 0; j < 8; j++) v[j] += r[j];
            }
            if (a.relu)
#pragma unroll
                for (int j = 0; j < 8; j++) v[j] = fmaxf(v[j], 0.0f);
            store8<T>((T *)a.out + at, v);
        } else
#pragma unroll
            for (int j = 0; j < 8; j++) { /* few output channels, one group */
                if (o + j >= a.oc) continue;
                float y1 = v[j] + (a.residual ? to_float(((const T *)a.residual)[at + j]) : 0.0f);
                ((T *)a.out)[at + j] = from_float<T>(a.relu ? fmaxf(y1, 0.0f) : y1);
            }
    }
#endif
}

template <class T, int TAPS, int KK, int PW> static void conv_launch(struct sc_cuda *c, const conv_args &a, int frames) {
    const int bytes = conv_shared_bytes(TAPS, KK, PW), tiles_y = (a.h + PW * CONV_TH - 1) / (PW * CONV_TH);
    cudaFuncSetAttribute(conv_kernel<T, TAPS, KK, PW>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    launch(c, conv_kernel<T, TAPS, KK, PW>, dim3(a.tiles_x * tiles_y, a.oc_tiles * a.phases, frames), CONV_THREADS, bytes, 0, a);
}

} // namespace sc
#endif

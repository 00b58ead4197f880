/* memory.cu - the memory update on the device: attention mass of each block, the best C of the candidates, the slots moved.
 *
 * Three kernels. The mass is what differs from a copy of the definition (kernels/cpu/twin_memory.c) in speed only: it is
 * summed in double and compared in f32, so that both keep the same blocks.
 *   rows: one warp per (sequence, head, query block): the row's largest score and 1 / sum of exponentials.
 *   mass: one thread per column: s_j = sum over rows of exp(S_ij - top_i) / sum_i, rows in order.
 *   move: one CTA per (sequence, head): ranks, then the slots, from a copy of the old ones in the workspace.
 * Once a chunk and layer; some ten microseconds. */
#include "kernels/cuda/cuda_common.cuh"
#include "kernels/cuda/launch.cuh"

#include <assert.h>

struct memory_params {
    sc_kv_view view[SC_MAX_BATCH];
    int seqs, heads, blocks, score_stride, capacity;
    const float *score;
    double2 *row; /* [seqs * heads * blocks]: largest score, 1 / sum */
    float *mass;  /* [seqs * heads][score_stride] */
    sc_kv_slot *old; /* [seqs * heads][old_stride] */
    int32_t *spare;  /* [seqs * heads][old_stride] */
    int old_stride;
    int32_t *kept;
};

__global__ static void __launch_bounds__(128) rows_kernel(const __grid_constant__ memory_params p) {
    sc::stream_order();
    const int row = blockIdx.x * 4 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= p.seqs * p.heads * p.blocks) return;
    const sc_kv_view &v = p.view[row / (p.heads * p.blocks)];
    const float *s = p.score + (size_t)row * p.score_stride;
    const int columns = v.persistent + v.window;
    float top = -INFINITY;
    double sum = 0;
    for (int j = lane; j < columns; j += 32) top = fmaxf(top, s[j]);
    for (int d = 16; d; d >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    for (int j = lane; j < columns; j += 32) sum += exp((double)s[j] - top);
    for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
    if (lane == 0) p.row[row] = make_double2(top, sum);
}

/* Grid (columns / 32, seqs * heads), 32 columns x 8 rows at a time; the eight part sums are added in order. */
__global__ static void __launch_bounds__(256) mass_kernel(const __grid_constant__ memory_params p) {
    sc::stream_order();
    __shared__ double part[8][33];
    const int head = blockIdx.y, j = blockIdx.x * 32 + (threadIdx.x & 31), r = threadIdx.x >> 5;
    const sc_kv_view &v = p.view[head / p.heads];
    const int columns = v.persistent + v.window;
    double sum = 0;
    if (j < columns)
        for (int i = r; i < p.blocks; i += 8) {
            const size_t row = (size_t)head * p.blocks + i;
            const double2 m = p.row[row];
            sum += exp((double)p.score[row * p.score_stride + j] - m.x) / m.y;
        }
    part[r][threadIdx.x & 31] = sum;
    __syncthreads();
    if (r || j >= columns) return;
    for (int i = 1; i < 8; i++) sum += part[i][threadIdx.x];
    p.mass[(size_t)head * p.score_stride + j] = sum >= 0 ? (float)sum : -1.0f; /* no number: below all others, the order stays total */
}

/* Number of set flags before this thread's, over the CTA (1024 threads); total to *all. */
static __device__ int count_before(bool flag, int *all) {
    __shared__ int warps[32];
    const unsigned votes = __ballot_sync(~0u, flag), lane = threadIdx.x & 31;
    __syncthreads();
    if (lane == 0) warps[threadIdx.x >> 5] = __popc(votes);
    __syncthreads();
    int before = 0, sum = 0;
    for (int i = 0; i < 32; i++) {
        if (i < (int)(threadIdx.x >> 5)) before += warps[i];
        sum += warps[i];
    }
    *all = sum;
    return before + __popc(votes & ((1u << lane) - 1));
}

__global__ static void __launch_bounds__(1024) move_kernel(const __grid_constant__ memory_params p) {
    sc::stream_order();
    const int head = blockIdx.x, tid = threadIdx.x, blocks = p.blocks;
    const sc_kv_view &v = p.view[head / p.heads];
    const int end = v.window_base + v.window, candidates = v.persistent + blocks, free_before = v.window_base - v.persistent;
    sc_kv_slot *slots = v.slots + (size_t)(head % p.heads) * v.slot_stride, *old = p.old + (size_t)head * p.old_stride;
    int32_t *spare = p.spare + (size_t)head * p.old_stride, *kept = p.kept ? p.kept + (size_t)head * p.capacity : NULL;
    const float *mass = p.mass + (size_t)head * p.score_stride;

    for (int i = tid; i < end; i += 1024) old[i] = slots[i];
    __syncthreads();
    for (int i = tid; i < free_before; i += 1024) spare[i] = old[v.persistent + i].page;
    int survivors = 0, freed = free_before;
    for (int base = 0; base < candidates; base += 1024) { /* ascending, so the order of ids is that of the columns */
        const int c = base + tid;
        bool stays = false;
        if (c < candidates) {
            int better = 0;
            const float mine = mass[c];
            for (int i = 0; i < candidates; i++) better += mass[i] > mine || (mass[i] == mine && i < c);
            stays = better < p.capacity;
        }
        int all, none;
        const int place = survivors + count_before(stays, &all), gone = freed + count_before(c < candidates && !stays, &none);
        if (c < candidates) {
            const sc_kv_slot from = old[c < v.persistent ? c : v.window_base + c - v.persistent];
            if (stays) {
                slots[place] = from;
                if (kept) kept[place] = c;
            } else spare[gone] = from.page;
        }
        survivors += all;
        freed += none;
    }
    __syncthreads();
    for (int i = survivors + tid; kept && i < p.capacity; i += 1024) kept[i] = -1;
    for (int i = survivors + tid; i < v.window_base; i += 1024) slots[i] = sc_kv_slot{spare[i - survivors], 0, 0};
    for (int i = tid; i < v.window - blocks; i += 1024) slots[v.window_base + i] = old[v.window_base + blocks + i];
    for (int b = tid; b < blocks; b += 1024)
        slots[end - blocks + b] = sc_kv_slot{spare[v.window_base - survivors + b], b, *v.chunk_now + 1};
}

sc_status sc_cuda_memory_update(sc_device *device, const sc_memory_update_args *a, sc_error *err) {
    struct sc_cuda *dev = (struct sc_cuda *)device;
    memory_params p = {};
    int columns = 0;
    for (int s = 0; s < a->seqs; s++) {
        const sc_kv_view *v = &a->view[s];
        assert(v->window >= a->blocks.blocks && v->persistent <= v->window_base);
        p.view[s] = *v;
        p.old_stride = p.old_stride > v->window_base + v->window ? p.old_stride : v->window_base + v->window;
        columns = columns > v->persistent + v->window ? columns : v->persistent + v->window;
    }
    p.seqs = a->seqs;
    p.heads = a->heads;
    p.blocks = a->blocks.blocks;
    p.score = a->score;
    p.score_stride = a->score_stride;
    p.capacity = a->capacity;
    p.kept = a->kept;
    const size_t heads = (size_t)a->seqs * (size_t)a->heads, rows = heads * (size_t)p.blocks;
    unsigned char *at = (unsigned char *)dev->workspace;
    p.row = (double2 *)at, at += rows * sizeof *p.row;
    p.old = (sc_kv_slot *)at, at += heads * (size_t)p.old_stride * sizeof *p.old;
    p.spare = (int32_t *)at, at += heads * (size_t)p.old_stride * sizeof *p.spare;
    p.mass = a->mass ? a->mass : (float *)at, at += heads * (size_t)p.score_stride * sizeof *p.mass;
    assert((size_t)(at - (unsigned char *)dev->workspace) <= dev->workspace_bytes);
    sc::launch(dev, rows_kernel, (unsigned)((rows + 3) / 4), 128, 0, 0, p);
    sc::launch(dev, mass_kernel, dim3((unsigned)((columns + 31) / 32), (unsigned)heads), 256, 0, 0, p);
    sc::launch(dev, move_kernel, (unsigned)heads, 1024, 0, 0, p);
    return sc_cuda_launched("memory update", err);
}

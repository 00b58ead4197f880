/* pbsa_bench.cu - attention over pages, selection and memory update on the card: compared with their definition, then timed.
 *
 *   pbsa_bench check [first [end]]   the shapes of `checks` (from `first` on, counted from 0, to before `end`), both kernels, f16 and bf16,
 *                                    against kernels/cpu/twin_*.c in f32
 *   pbsa_bench time [first [end]]    medians of 20 readings of the shapes of `timings`, after 0.2 s of warm-up
 *   pbsa_bench once [case]           three selections and attentions of one shape of `timings` (0, the steady one), for a profiler
 *
 * Outputs start poisoned (NaN), rows past a block's length hold large values, so that a key that should be masked shows. Errors are
 * relative L2; the bound follows from the type: q and P are rounded once each, 2^-9 (bf16) or 2^-12 (f16), and q a second time by
 * age. Built by run_pbsa.sh; needs no other part of the project. */
#include "kernels/cuda/cuda_common.cuh"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

extern "C" {
#include "kernels/cpu/cpu.h"
}

#define CUDA(call) do { cudaError_t e_ = (call); if (e_) { printf("%s:%d %s\n", __FILE__, __LINE__, cudaGetErrorString(e_)); exit(2); } } while (0)
#define SC(call) do { if (call) { printf("%s:%d %s\n", __FILE__, __LINE__, error.text); exit(2); } } while (0)

extern "C" float sc_cpu_dot(const float *a, const float *b, int n) { /* the twin's dot product, in double here */
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return (float)sum;
}

static sc_error error;
static std::mt19937 rng(1);
static std::normal_distribution<float> normal;

struct shape {
    const char *name;
    int seqs, heads, dim, blocks, page_rows;
    int rows;         /* tokens of a block; 0: different ones from 1 to page_rows */
    int window_chunks, capacity, persistent, keep /* 0: no list */, max_distance;
    int p_age_chunks; /* the oldest persistent block, in chunks before the window; 0: all of one age */
    bool leaps;       /* some rows' scores rise by 57 or 170 and more from page to page, past what the exponential of one holds */
    bool still;       /* no pair turns with age */
};

/* Sequence s has fewer persistent blocks and less window than sequence 0, and another list count. */
static int seq_persistent(const shape &c, int s) { return std::max(0, c.persistent - s); }
static int seq_chunks(const shape &c, int s) { return std::max(1, c.window_chunks - s); }
static int seq_keep(const shape &c, int s) { return std::max(1, std::min(c.keep - s, seq_chunks(c, s) * c.blocks)); }

template <typename T> struct host_type;
static uint16_t round16(float f, bool half) {
    if (half) { __half h = __float2half_rn(f); uint16_t u; memcpy(&u, &h, 2); return u; }
    __nv_bfloat16 h = __float2bfloat16_rn(f); uint16_t u; memcpy(&u, &h, 2); return u;
}
static float widen16(uint16_t u, bool half) { return half ? sc_from_f16(u) : sc_from_bf16(u); }

template <typename T> static T *to_device(const std::vector<T> &v) {
    void *d;
    CUDA(cudaMalloc(&d, std::max<size_t>(v.size() * sizeof(T), 64)));
    CUDA(cudaMemcpy(d, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
    return (T *)d;
}
template <typename T> static std::vector<T> to_host(const T *d, size_t n) {
    std::vector<T> v(n);
    CUDA(cudaDeviceSynchronize());
    CUDA(cudaMemcpy(v.data(), d, n * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
}

__global__ static void fill_kernel(uint16_t *p, size_t n, uint32_t seed, bool half) { /* roughly normal: a sum of four uniforms */
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        uint32_t x = (uint32_t)i * 2654435761u ^ seed ^ (uint32_t)(i >> 32);
        float sum = 0;
        for (int k = 0; k < 4; k++) x = x * 1664525u + 1013904223u, x ^= x >> 15, sum += (float)(x >> 8) * (1.0f / (1 << 24)) - 0.5f;
        sum *= 1.7320508f;
        if (half) ((__half *)p)[i] = __float2half_rn(sum);
        else ((__nv_bfloat16 *)p)[i] = __float2bfloat16_rn(sum);
    }
}

/* One shape's data on both sides. */
struct problem {
    shape c;
    bool half, big; /* big: no host copy of pages, q and out */
    float q_scale = 0; /* in bf16 as the engine stores q, by turns */
    int tokens = 0, pages = 0, stride = 0, score_stride = 0, list_stride = 0, window_base = 0;
    std::vector<int32_t> start;
    std::vector<double> theta;
    std::vector<float> k, v, q, rep_k, rep_q;
    std::vector<sc_kv_slot> slots; /* [seqs][heads][stride] */
    uint16_t *dk, *dv, *dq, *dout;
    float *drep_k, *drep_q, *dscore;
    int32_t *dstart, *dlist;
    sc_kv_slot *dslots;
    std::vector<int64_t> now; /* of each sequence */
    int64_t *dnow;
    size_t out_count;

    problem(const shape &shape_, bool half_, bool big_) : c(shape_), half(half_), big(big_) {
        if (!half && !big && c.blocks % 2) q_scale = sc_q_scale_of(SC_BF16, c.dim);
        start.push_back(0);
        for (int b = 0; b < c.blocks; b++)
            start.push_back(start.back() + (c.rows ? c.rows : b % 3 == 0 ? c.page_rows : 1 + (b * 7) % c.page_rows));
        tokens = start.back();
        window_base = c.capacity;
        stride = c.capacity + c.window_chunks * c.blocks + 2;
        score_stride = c.capacity + c.window_chunks * c.blocks + 1;
        list_stride = score_stride;
        pages = c.seqs * c.heads * stride;
        for (int i = 0; i < 22 && i < c.dim / 2 && !c.still; i++) theta.push_back(pow(10000.0, -2.0 * i / 44));

        std::vector<int32_t> page(pages);
        for (int i = 0; i < pages; i++) page[i] = i;
        std::shuffle(page.begin(), page.end(), rng);
        slots.resize((size_t)pages);
        for (int s = 0; s < c.seqs; s++) now.push_back(100 + 7 * s);
        for (int s = 0; s < c.seqs; s++)
            for (int h = 0; h < c.heads; h++) {
                sc_kv_slot *at = &slots[((size_t)s * c.heads + h) * stride];
                const int n = seq_persistent(c, s), chunks = seq_chunks(c, s);
                const int64_t chunk = now[s];
                for (int i = 0; i < stride; i++) at[i] = {page[((size_t)s * c.heads + h) * stride + i], 0, 0};
                std::vector<std::pair<int64_t, int>> ids;
                for (int i = 0; i < n; i++)
                    ids.push_back({chunk - chunks - (c.p_age_chunks ? (int)(rng() % c.p_age_chunks) : 0), (int)(rng() % c.blocks)});
                std::sort(ids.begin(), ids.end());
                for (int i = 0; i < n; i++) at[i].chunk = ids[i].first, at[i].block = ids[i].second;
                for (int i = 0; i < chunks * c.blocks; i++) {
                    at[window_base + i].chunk = chunk - (chunks - 1) + i / c.blocks;
                    at[window_base + i].block = i % c.blocks;
                }
            }
        const size_t cells = (size_t)pages * c.page_rows * c.dim, q_count = (size_t)c.seqs * c.heads * tokens * c.dim;
        out_count = (size_t)c.seqs * tokens * c.heads * c.dim;
        if (big) {
            CUDA(cudaMalloc((void **)&dk, cells * 2));
            CUDA(cudaMalloc((void **)&dv, cells * 2));
            CUDA(cudaMalloc((void **)&dq, q_count * 2));
            fill_kernel<<<1024, 256>>>(dk, cells, 1, half);
            fill_kernel<<<1024, 256>>>(dv, cells, 2, half);
            fill_kernel<<<1024, 256>>>(dq, q_count, 3, half);
        } else {
            dk = fill(k, cells, 1.0f), dv = fill(v, cells, 1.0f), dq = fill(q, q_count, 1.5f * sc_q_scale(q_scale));
            if (c.leaps) leap();
            poison_tails();
        }
        rep_k.resize((size_t)pages * c.dim);
        rep_q.resize((size_t)c.seqs * c.heads * c.blocks * c.dim);
        for (float &x : rep_k) x = normal(rng);
        for (float &x : rep_q) x = normal(rng);
        if (c.keep && c.window_chunks * c.blocks > 3) /* exact ties: the third and fourth block of the window are one */
            for (int sh = 0; sh < c.seqs * c.heads; sh++) {
                sc_kv_slot *at = &slots[(size_t)sh * stride + window_base];
                if (at[2].chunk == at[3].chunk)
                    memcpy(&rep_k[(size_t)at[3].page * c.dim], &rep_k[(size_t)at[2].page * c.dim], c.dim * sizeof(float));
            }
        drep_k = to_device(rep_k), drep_q = to_device(rep_q), dstart = to_device(start), dslots = to_device(slots), dnow = to_device(now);
        CUDA(cudaMalloc((void **)&dscore, (size_t)c.seqs * c.heads * c.blocks * score_stride * 4));
        CUDA(cudaMalloc((void **)&dlist, (size_t)c.seqs * c.heads * c.blocks * list_stride * 4));
        CUDA(cudaMalloc((void **)&dout, out_count * 2));
    }
    ~problem() {
        for (void *p : {(void *)dk, (void *)dv, (void *)dq, (void *)dout, (void *)drep_k, (void *)drep_q, (void *)dscore, (void *)dstart, (void *)dlist, (void *)dslots, (void *)dnow})
            cudaFree(p);
    }
    uint16_t *fill(std::vector<float> &f, size_t n, float scale) {
        std::vector<uint16_t> u(n);
        f.resize(n);
        for (size_t i = 0; i < n; i++) u[i] = round16(normal(rng) * scale, half), f[i] = widen16(u[i], half);
        return to_device(u);
    }
    /* Every fourth row of q meets a higher key in every second page of the window, every fourth but one two keys far above all else, every fourth but three only keys whose
     * exponentials are nothing at all. Channels that do not turn: which key wins is no matter of rounding. */
    void leap() {
        std::vector<uint16_t> u(q.size());
        for (size_t row = 0; row * c.dim < q.size(); row++)
            for (int leap = 0; leap < 4; leap++) q[row * c.dim + 100 + leap] = (int)(row % 4) == leap && leap != 2 ? 2 * sc_q_scale(q_scale) : 0.0f;
        for (size_t cell = 0; cell < k.size(); cell += c.dim) k[cell + 103] = -1280;
        for (size_t i = 0; i < q.size(); i++) u[i] = round16(q[i], half);
        CUDA(cudaMemcpy(dq, u.data(), u.size() * 2, cudaMemcpyHostToDevice));
        for (int sh = 0; sh < c.seqs * c.heads; sh++)
            for (int i = 0; i < c.window_chunks * c.blocks; i++) {
                float *key = &k[((size_t)slots[(size_t)sh * stride + window_base + i].page * c.page_rows + i % c.rows) * c.dim];
                if (i % 2) key[100] = 320.0f * (float)(i / 2 + 1);
                if (i == 3 || i == 9) key[101] = 960;
            }
    }
    /* Rows past the length of the block that a page holds: large values, in K and V. */
    void poison_tails() {
        std::vector<uint16_t> uk(k.size()), uv(v.size());
        for (const sc_kv_slot &s : slots)
            for (int t = start[s.block + 1] - start[s.block]; t < c.page_rows; t++)
                for (int d = 0; d < c.dim; d++) {
                    const size_t i = ((size_t)s.page * c.page_rows + t) * c.dim + d;
                    k[i] = v[i] = 1000;
                }
        for (size_t i = 0; i < k.size(); i++) uk[i] = round16(k[i], half), uv[i] = round16(v[i], half);
        CUDA(cudaMemcpy(dk, uk.data(), uk.size() * 2, cudaMemcpyHostToDevice));
        CUDA(cudaMemcpy(dv, uv.data(), uv.size() * 2, cudaMemcpyHostToDevice));
    }
    sc_kv_view view(int s, sc_kv_slot *base, bool device) const {
        return {base + (size_t)s * c.heads * stride, stride, seq_persistent(c, s), window_base, seq_chunks(c, s) * c.blocks, (device ? dnow : now.data()) + s};
    }
    sc_rope rope() const { return {NULL, theta.data(), (int)theta.size(), 3, c.max_distance}; }
    sc_select_args select_args(bool device, float *score, int32_t *list) {
        sc_select_args a = {};
        a.seqs = c.seqs, a.heads = c.heads, a.head_dim = c.dim;
        a.blocks = {tokens, c.blocks, device ? dstart : start.data(), start.data()};
        a.rope = rope();
        a.pages = device ? sc_pages{dk, dv, drep_k, pages, c.page_rows, c.dim} : sc_pages{k.data(), v.data(), rep_k.data(), pages, c.page_rows, c.dim};
        for (int s = 0; s < c.seqs; s++) a.view[s] = view(s, device ? dslots : slots.data(), device), a.keep[s] = seq_keep(c, s);
        a.rep_q = device ? drep_q : rep_q.data();
        a.score = score, a.score_stride = score_stride, a.list = list, a.list_stride = list_stride;
        return a;
    }
    sc_attention_args attention_args(bool device, const int32_t *list, void *out) {
        sc_attention_args a = {};
        a.seqs = c.seqs, a.heads = c.heads, a.head_dim = c.dim;
        a.blocks = {tokens, c.blocks, device ? dstart : start.data(), start.data()};
        a.rope = rope();
        a.pages = device ? sc_pages{dk, dv, drep_k, pages, c.page_rows, c.dim} : sc_pages{k.data(), v.data(), rep_k.data(), pages, c.page_rows, c.dim};
        for (int s = 0; s < c.seqs; s++) {
            a.view[s] = view(s, device ? dslots : slots.data(), device);
            a.list_count[s] = seq_persistent(c, s) + seq_keep(c, s);
        }
        a.q_scale = q_scale;
        a.q = device ? (void *)dq : (void *)q.data();
        a.list = c.keep ? list : NULL, a.list_stride = list_stride, a.out = out;
        return a;
    }
    void poison_out() { CUDA(cudaMemset(dout, 0xff, out_count * 2)); }
};

static double relative_l2(const std::vector<uint16_t> &got, const std::vector<float> &want, bool half) {
    double e = 0, n = 0;
    for (size_t i = 0; i < want.size(); i++) {
        const double g = widen16(got[i], half);
        if (!(fabs(g) < 1e30)) return INFINITY;
        e += (g - want[i]) * (g - want[i]), n += (double)want[i] * want[i];
    }
    return sqrt(e / n);
}

static struct sc_cuda dev;

static void open_device() {
    cudaDeviceProp prop;
    CUDA(cudaGetDeviceProperties(&prop, 0));
    dev.sm_count = prop.multiProcessorCount, dev.cc_major = prop.major, dev.cc_minor = prop.minor;
    dev.workspace_bytes = SC_CUDA_WORKSPACE_MIN;
    CUDA(cudaMalloc(&dev.workspace, dev.workspace_bytes));
    CUDA(cudaStreamCreate(&dev.stream));
    SC(sc_cuda_attention_init(&dev, &error));
    printf("card: %s, %d SMs\n", prop.name, prop.multiProcessorCount);
}

/* ---- check -------------------------------------------------------------------------------------------------------------- */

static int failures;
static void verdict(bool ok, const char *what) {
    if (!ok) failures++, printf("  FAILED: %s\n", what);
}

static void check_memory(problem &p, const std::vector<float> &score) {
    const shape &c = p.c;
    sc_memory_update_args a = {};
    const size_t heads = (size_t)c.seqs * c.heads;
    std::vector<float> mass(heads * p.score_stride, -1.0f);
    std::vector<int32_t> kept(heads * c.capacity, -7);
    std::vector<sc_kv_slot> slots = p.slots;
    float *dmass = to_device(mass), *dscore = to_device(score);
    int32_t *dkept = to_device(kept);
    a.seqs = c.seqs, a.heads = c.heads, a.score_stride = p.score_stride, a.capacity = c.capacity;
    for (int device = 0; device < 2; device++) {
        a.blocks = {p.tokens, c.blocks, device ? p.dstart : p.start.data(), p.start.data()};
        for (int s = 0; s < c.seqs; s++) a.view[s] = p.view(s, device ? p.dslots : slots.data(), device);
        a.score = device ? dscore : score.data(), a.mass = device ? dmass : mass.data(), a.kept = device ? dkept : kept.data();
        if (device) SC(sc_cuda_memory_update(&dev.base, &a, &error));
        else SC(sc_twin_memory_update(NULL, &a, &error));
    }
    std::vector<float> got_mass = to_host(dmass, mass.size());
    std::vector<int32_t> got_kept = to_host(dkept, kept.size());
    std::vector<sc_kv_slot> got = to_host(p.dslots, slots.size());
    int wrong = 0;
    double worst = 0;
    for (size_t i = 0; i < slots.size(); i++)
        wrong += got[i].page != slots[i].page || got[i].block != slots[i].block || got[i].chunk != slots[i].chunk;
    for (size_t i = 0; i < mass.size(); i++) worst = fmax(worst, fabs(got_mass[i] - mass[i]));
    printf("  memory: %d slots differ, mass within %.1e\n", wrong, worst);
    verdict(!wrong && worst < 1e-5 && got_kept == kept, "memory update");
    cudaFree(dmass), cudaFree(dscore), cudaFree(dkept);
}

static void check(const shape &c, bool half) {
    problem p(c, half, false);
    const size_t scores = (size_t)c.seqs * c.heads * c.blocks * p.score_stride, lists = (size_t)c.seqs * c.heads * c.blocks * p.list_stride;
    std::vector<float> score(scores, -1.0f), want(p.out_count);
    std::vector<int32_t> list(lists, -1);
    dev.base.act = half ? SC_F16 : SC_BF16;
    printf("%s, %s\n", c.name, half ? "f16" : "bf16");
    CUDA(cudaMemset(p.dlist, 0xff, lists * 4));
    if (c.keep) {
        sc_select_args s = p.select_args(false, score.data(), list.data());
        SC(sc_twin_select(NULL, &s, &error));
        CUDA(cudaMemcpy(p.dscore, std::vector<float>(scores, -1.0f).data(), scores * 4, cudaMemcpyHostToDevice));
        s = p.select_args(true, p.dscore, p.dlist);
        SC(sc_cuda_select(&dev.base, &s, &error));
        std::vector<float> got_score = to_host(p.dscore, scores);
        std::vector<int32_t> got = to_host(p.dlist, lists);
        double worst = 0;
        size_t differ = 0;
        for (size_t i = 0; i < scores; i++) worst = fmax(worst, fabs(got_score[i] - score[i]));
        for (size_t i = 0; i < lists; i++) differ += got[i] != list[i];
        printf("  select: scores within %.1e, %zu of %zu list entries differ\n", worst, differ, lists);
        verdict(worst < 2e-5 && !differ, "select");
        CUDA(cudaMemcpy(p.dlist, list.data(), lists * 4, cudaMemcpyHostToDevice));
    }
    sc_attention_args a = p.attention_args(false, list.data(), want.data());
    SC(sc_twin_attention(NULL, &a, &error));
    a = p.attention_args(true, p.dlist, p.dout);
    const bool wgmma = dev.cc_major == 9 && c.dim == 128;
    for (dev.force_mma = wgmma ? 0 : 1; dev.force_mma < 2; dev.force_mma++) {
        p.poison_out();
        SC(sc_cuda_attention(&dev.base, &a, &error));
        const double e = relative_l2(to_host(p.dout, p.out_count), want, half);
        printf("  attention %s: relative L2 %.2e\n", dev.force_mma ? "mma" : "wgmma", e);
        verdict(e < (half ? 1.5e-3 : 1e-2), "attention");
    }
    dev.force_mma = 0;
    if (c.keep && seq_chunks(c, c.seqs - 1) >= 1) check_memory(p, score);
}

static const shape checks[] = {
    /* name                          seqs heads dim blocks page rows chunks cap pers keep max  ages */
    {"one token, one page",             1, 1, 128,  1, 64,  1, 1,  1,  0,  1, 18,  0},
    {"one block of 64, no list",        1, 1, 128,  1, 64, 64, 1,  1,  0,  0, 18,  0},
    {"60 of 64 rows, three ages",       1, 2, 128,  4, 64, 60, 3,  4,  4,  3, 18,  0},
    {"pages of 60 rows, clamped ages",  1, 3, 128,  8, 60, 60, 3, 16, 16,  7, 18, 12},
    {"primes, ragged blocks",           1, 5, 128,  7, 61,  0, 3, 11, 10,  5, 18,  9},
    {"ages without a limit",            1, 2, 128,  5, 64,  0, 2,  9,  9,  4, -1, 90},
    {"two sequences, no list",          2, 3, 128,  5, 60,  0, 3,  6,  5,  0, 18,  5},
    {"five sequences",                  5, 3, 128,  8, 60, 60, 3, 12, 12,  9, 18,  8},
    {"many items",                      2, 12, 128, 26, 60, 60, 2, 8,  8,  3, 18,  6},
    {"memory not yet full",             1, 2, 128,  4, 64, 60, 3, 12,  3,  3, 18,  2},
    {"head of 32",                      1, 2,  32,  4, 16, 16, 3,  6,  6,  4, 18,  6},
    {"head of 64, ragged",              2, 3,  64,  5, 33,  0, 3,  7,  7,  4, 18,  6},
    {"head of 4",                       1, 1,   4,  2,  2,  2, 3,  2,  2,  3, 18,  3},
    {"window over 1024 blocks",         1, 1, 128, 37,  8,  8, 28, 4,  4, 90, 18,  3},
    {"scores that leap",                1, 2, 128,  5, 60, 60,  3, 6,  6,  0, 18,  4, true},
    {"scores that leap, one piece",     1, 50, 128, 9,  8,  8,  3, 2,  2,  0, 18,  2, true},
    {"no pair turns",                   1, 2, 128,  4, 64, 60, 3,  4,  4,  3, 18,  0, false, true},
};

/* ---- time --------------------------------------------------------------------------------------------------------------- */

template <typename F> static double median_ms(F &&fn, int per) {
    cudaEvent_t a, b;
    CUDA(cudaEventCreate(&a));
    CUDA(cudaEventCreate(&b));
    std::vector<float> ms(20);
    for (float warm = 0; warm < 200;) {
        CUDA(cudaEventRecord(a, dev.stream));
        for (int i = 0; i < per; i++) fn();
        CUDA(cudaEventRecord(b, dev.stream));
        CUDA(cudaEventSynchronize(b));
        float t;
        CUDA(cudaEventElapsedTime(&t, a, b));
        warm += std::max(t, 0.05f);
    }
    for (float &t : ms) {
        CUDA(cudaEventRecord(a, dev.stream));
        for (int i = 0; i < per; i++) fn();
        CUDA(cudaEventRecord(b, dev.stream));
        CUDA(cudaEventSynchronize(b));
        CUDA(cudaEventElapsedTime(&t, a, b));
    }
    CUDA(cudaGetLastError());
    std::sort(ms.begin(), ms.end());
    return 0.5 * (ms[9] + ms[10]) / per;
}

static const shape timings[] = {
    {"steady: 78 + 59 of 234 pages of 60",     1, 12, 128, 78, 60, 60,  3, 78, 78,  59, 18, 5},
    {"steady in pages of 64",                  1, 12, 128, 78, 64, 60,  3, 78, 78,  59, 18, 5},
    {"steady, 4 sequences",                    4, 12, 128, 78, 60, 60,  3, 78, 78,  59, 18, 5},
    {"dense 4680 x 18720",                     1, 12, 128, 78, 60, 60,  3, 78, 78,   0, 18, 5},
    {"65536 keys, 64 + 192 of 960 (25 %)",     1, 12, 128, 80, 64, 64, 12, 64, 64, 192, 18, 5},
    {"65536 keys, 64 + 64 of 960 (12.5 %)",    1, 12, 128, 80, 64, 64, 12, 64, 64,  64, 18, 5},
    {"65536 keys, 64 + own (6.25 %)",          1, 12, 128, 80, 64, 64, 12, 64, 64,   1, 18, 5},
    {"dense 5120 x 65536",                     1, 12, 128, 80, 64, 64, 12, 64, 64,   0, 18, 5},
};

/* A GPU witness at full size: the mma path on the same lists. */
static void agree_with_mma(problem &p, sc_attention_args &a) {
    p.poison_out();
    SC(sc_cuda_attention(&dev.base, &a, &error));
    std::vector<uint16_t> one = to_host(p.dout, p.out_count);
    p.poison_out();
    dev.force_mma = 1;
    SC(sc_cuda_attention(&dev.base, &a, &error));
    dev.force_mma = 0;
    std::vector<uint16_t> two = to_host(p.dout, p.out_count);
    std::vector<float> want(two.size());
    for (size_t i = 0; i < two.size(); i++) want[i] = widen16(two[i], p.half);
    const double e = relative_l2(one, want, p.half);
    printf("  wgmma against mma: relative L2 %.2e\n", e);
    verdict(e < 1e-2, "wgmma and mma agree");
}

static void time_shapes(int first, int end) {
    dev.base.act = SC_BF16;
    printf("| case | attention ms | select ms | both ms | TFLOP/s of tokens | TFLOP/s of tiles | TFLOP/s with selection |\n");
    for (int i = first; i < end; i++) {
        const shape &c = timings[i];
        problem p(c, false, true);
        sc_select_args s = p.select_args(true, p.dscore, p.dlist);
        sc_attention_args a = p.attention_args(true, p.dlist, p.dout);
        if (c.keep) SC(sc_cuda_select(&dev.base, &s, &error));
        agree_with_mma(p, a);
        double flop = 0, tiles = 0;
        for (int q = 0; q < c.seqs; q++) {
            const double pages = c.keep ? a.list_count[q] : seq_persistent(c, q) + seq_chunks(c, q) * c.blocks;
            flop += 4.0 * p.tokens * pages * c.rows * c.heads * c.dim, tiles += 4.0 * c.blocks * 64 * pages * 64 * c.heads * c.dim;
        }
        const double att = median_ms([&] { sc_cuda_attention(&dev.base, &a, &error); }, 4);
        const double sel = c.keep ? median_ms([&] { sc_cuda_select(&dev.base, &s, &error); }, 10) : 0;
        const double both = c.keep ? median_ms([&] { sc_cuda_select(&dev.base, &s, &error), sc_cuda_attention(&dev.base, &a, &error); }, 4) : att;
        printf("| %s | %.4f | %.4f | %.4f | %.0f | %.0f | %.0f |\n", c.name, att, sel, both, flop * 1e-9 / att, tiles * 1e-9 / att, flop * 1e-9 / both);
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "check";
    const int shapes = (int)(!strcmp(what, "check") ? sizeof checks / sizeof *checks : sizeof timings / sizeof *timings);
    const int first = argc > 2 ? std::max(atoi(argv[2]), 0) : 0, end = argc > 3 ? std::min(atoi(argv[3]), shapes) : shapes;
    open_device();
    if (!strcmp(what, "check")) {
        for (int i = first; i < end; i++)
            for (int half = 0; half < 2; half++) check(checks[i], half);
    } else if (!strcmp(what, "time")) {
        time_shapes(first, end);
    } else {
        dev.base.act = SC_BF16;
        if (first >= shapes) return printf("%s: no such case\n", argv[2]), 1;
        problem p(timings[first], false, true);
        sc_select_args s = p.select_args(true, p.dscore, p.dlist);
        sc_attention_args a = p.attention_args(true, p.dlist, p.dout);
        for (int i = 0; i < 3; i++) {
            if (timings[first].keep) SC(sc_cuda_select(&dev.base, &s, &error));
            SC(sc_cuda_attention(&dev.base, &a, &error));
        }
        CUDA(cudaDeviceSynchronize());
    }
    CUDA(cudaDeviceSynchronize());
    printf(failures ? "%d FAILED\n" : "all passed\n", failures);
    return failures != 0;
}

/* cpu.h - what the files of kernels/cpu share: the device, the thread pool, scratch memory, and one declaration per operation.
 *
 * Two tables. sc_twin_ops (twin.c) defines each operation with plain loops on one thread. The fast table (cpu.c) runs the same
 * operations on all cores; where a fast version does not pay it borrows the twin's. Both work on f32 host memory and use the
 * same sc_cpu_device; a matrix or filter belongs to the table that made it.
 *
 * ISA. Code that needs AVX-512 or AVX2 lives in *_avx512.c and *_avx2.c, which alone get those compiler flags, and is reached
 * through function pointers chosen in sc_cpu_open from dev->isa. SC_CPU_ISA=amx|avx512|avx2|portable in the environment forces one;
 * one that the processor lacks is SC_EINVAL. amx is avx512 with linear_amx.c for weights of bf16.
 *
 * Results never depend on the number of threads or on who took which item: an item is computed whole by one thread, in a fixed
 * order. */
#ifndef SC_KERNELS_CPU_CPU_H
#define SC_KERNELS_CPU_CPU_H
#include "kernels/ops.h"

/* ---- thread pool (pool.c) ----------------------------------------------------------------------------------------------- */

typedef struct sc_pool sc_pool;

/* One call per item, 0 <= item < items; `thread` in [0, sc_pool_threads) names the thread, for its share of scratch memory. */
typedef void (*sc_pool_fn)(void *ctx, int item, int thread);

/* threads < 1: one per online core. The thread that calls sc_pool_run counts as one of them. NULL: out of memory or of threads. */
sc_pool *sc_pool_create(int threads);
void sc_pool_destroy(sc_pool *pool);
int sc_pool_threads(const sc_pool *pool);

/* Runs fn for all items and returns when all are done. The caller takes part. Items are handed out one by one in ascending
 * order. One caller at a time; fn does not call sc_pool_run. */
void sc_pool_run(sc_pool *pool, sc_pool_fn fn, void *ctx, int items);

/* ---- device ------------------------------------------------------------------------------------------------------------- */

typedef enum { SC_ISA_PORTABLE, SC_ISA_AVX2, SC_ISA_AVX512, SC_ISA_AMX } sc_isa;

typedef struct sc_isa_kernels sc_isa_kernels; /* isa.h */

typedef struct {
    sc_device base;
    sc_isa isa;                 /* of kern */
    bool amx;                   /* products with weights of bf16 use tiles */
    const sc_isa_kernels *kern; /* NULL on the twin */
    sc_pool *pool;              /* NULL on the twin */
    void *scratch;              /* see sc_cpu_scratch */
    size_t scratch_bytes;
} sc_cpu_device;

static inline sc_cpu_device *sc_cpu(sc_device *dev) { return (sc_cpu_device *)dev; }

/* *out = at least `bytes` of 64-byte aligned memory, valid until the next call (contents are not kept). Grows, never shrinks.
 * Called by the engine's thread before it runs the pool; an operation asks once and divides the memory among its threads. */
sc_status sc_cpu_scratch(sc_device *dev, void **out, size_t bytes, sc_error *err);

/* 64-byte aligned memory, not zeroed; free() releases it. NULL: out of memory. bytes may be 0. */
void *sc_cpu_aligned(size_t bytes);

/* Dot product in sixteen partial sums added pairwise (twin_transformer.c). */
float sc_cpu_dot(const float *a, const float *b, int n);

/* w = softmax(w) in place (twin_attention.c). */
void sc_cpu_softmax(float *w, int n);

/* Age of a slot in latent frames, as ops.h defines it (twin_attention.c). */
int64_t sc_cpu_age(const sc_rope *rope, const sc_kv_view *view, const sc_kv_slot *slot);

/* Turns the first frame_pairs channel pairs of `out` (a copy of `in`, head_dim wide) by age * theta (twin_attention.c). */
void sc_cpu_turn(float *out, const float *in, const sc_rope *rope, int head_dim, int64_t age);

/* list = window_base + j, ascending, of the own block and the keep - 1 others of `window` with the highest score; ties go to the
 * lower index. Returns how many, whatever the scores are. taken: room for `window` flags (twin_attention.c). */
int sc_cpu_choose(int32_t *list, const float *local, int window, int window_base, int own, int keep, bool *taken);

/* ops.h, fold_stride, of an o of `cols` columns: half of them or fewer. */
static inline int sc_cpu_fold_stride(int cols, int heads, int n) {
    const int stride = (n + 7) / 8 * 8;
    return stride <= SC_FOLD_MAX && 2 * heads * stride <= cols ? stride : 0;
}

/* ---- the twin: memory and transformer (twin*.c) ---------------------------------------------------------------------------- */

sc_status sc_twin_alloc(sc_device *, void **, size_t, sc_error *);
void sc_twin_release(sc_device *, void *);
sc_status sc_twin_alloc_host(sc_device *, void **out, size_t bytes, sc_error *);
sc_status sc_twin_upload(sc_device *, void *, const void *, size_t, sc_error *);
sc_status sc_twin_download(sc_device *, void *, const void *, size_t, sc_error *);
sc_status sc_twin_copy(sc_device *, void *, const void *, size_t, sc_error *);
sc_status sc_twin_sync(sc_device *, sc_error *);
void sc_twin_close(sc_device *);

sc_status sc_twin_matrix_create(sc_device *, sc_matrix **, const sc_matrix_desc *, sc_error *);
void sc_twin_matrix_destroy(sc_device *, sc_matrix *);
int sc_twin_fold_stride(sc_device *, const sc_matrix *, int, int);
sc_status sc_twin_fold_create(sc_device *, sc_matrix **, const sc_matrix *, void *, int, sc_error *);
sc_status sc_twin_fold(sc_device *, const sc_fold_args *, sc_error *);
sc_status sc_twin_query_create(sc_device *, sc_query **, const sc_matrix *, sc_error *);
void sc_twin_query_destroy(sc_device *, sc_query *);
size_t sc_twin_query_bytes(sc_device *, const sc_query *, int, int);
sc_status sc_twin_query_keys(sc_device *, const sc_query_keys_args *, sc_error *);
sc_status sc_twin_query_weights(sc_device *, const sc_query_weights_args *, sc_error *);
sc_status sc_twin_linear(sc_device *, const sc_linear_args *, sc_error *);
sc_status sc_twin_layer_norm(sc_device *, const sc_layer_norm_args *, sc_error *);
sc_status sc_twin_rms_norm(sc_device *, const sc_rms_norm_args *, sc_error *);
sc_status sc_twin_qkv(sc_device *, const sc_qkv_args *, sc_error *);
sc_status sc_twin_select(sc_device *, const sc_select_args *, sc_error *);
sc_status sc_twin_attention(sc_device *, const sc_attention_args *, sc_error *);
sc_status sc_twin_memory_update(sc_device *, const sc_memory_update_args *, sc_error *);
sc_status sc_twin_cross_attention(sc_device *, const sc_cross_attention_args *, sc_error *);
sc_status sc_twin_text_attention(sc_device *, const sc_text_attention_args *, sc_error *);
sc_status sc_twin_gather(sc_device *, float *, const sc_matrix *, const int32_t *, int, sc_error *);
sc_status sc_twin_mul_gelu(sc_device *, void *, const void *, int, int, sc_error *);
sc_status sc_twin_convert(sc_device *, void *, const float *, size_t, sc_error *);
sc_status sc_twin_silu(sc_device *, void *, const float *, size_t, sc_error *);
sc_status sc_twin_add_rows(sc_device *, float *, const float *, const int32_t *, int, int, sc_error *);
sc_status sc_twin_patchify(sc_device *, const sc_patch_args *, sc_error *);
sc_status sc_twin_unpatchify(sc_device *, const sc_patch_args *, sc_error *);

/* ---- the twin: sampler and decoder (twin_decoder.c) ------------------------------------------------------------------------ */

sc_status sc_twin_filter_create(sc_device *, sc_filter **, const sc_filter_desc *, sc_error *);
void sc_twin_filter_destroy(sc_device *, sc_filter *);
sc_status sc_twin_noise(sc_device *, const sc_noise_args *, sc_error *);
sc_status sc_twin_denoise(sc_device *, const sc_denoise_args *, sc_error *);
sc_status sc_twin_finite(sc_device *, int32_t *out, const float *x, size_t count, sc_error *);
sc_status sc_twin_latent_in(sc_device *, const sc_latent_in_args *, sc_error *);
sc_status sc_twin_conv(sc_device *, const sc_conv_args *, sc_error *);
sc_status sc_twin_grow(sc_device *, const sc_grow_args *, sc_error *);
sc_status sc_twin_pool(sc_device *, const sc_pool_args *, sc_error *);
sc_status sc_twin_pixels(sc_device *, const sc_pixels_args *, sc_error *);

/* ---- the twin: Wan VAE (twin_vae.c) ---------------------------------------------------------------------------------------- */

sc_status sc_twin_conv3(sc_device *, const sc_conv3_args *, sc_error *);
sc_status sc_twin_channel_norm(sc_device *, const sc_channel_norm_args *, sc_error *);
sc_status sc_twin_frame_attention(sc_device *, const sc_frame_attention_args *, sc_error *);
sc_status sc_twin_planes_in(sc_device *, const sc_planes_in_args *, sc_error *);

/* ---- the fast path: transformer (linear.c, attention.c, norms.c) ----------------------------------------------------------- */

sc_status sc_fast_matrix_create(sc_device *, sc_matrix **, const sc_matrix_desc *, sc_error *);
void sc_fast_matrix_destroy(sc_device *, sc_matrix *);
int sc_fast_fold_stride(sc_device *, const sc_matrix *, int, int);
sc_status sc_fast_fold_create(sc_device *, sc_matrix **, const sc_matrix *, void *, int, sc_error *);
sc_status sc_fast_fold(sc_device *, const sc_fold_args *, sc_error *);
sc_status sc_fast_linear(sc_device *, const sc_linear_args *, sc_error *);
sc_status sc_fast_gather(sc_device *, float *, const sc_matrix *, const int32_t *, int, sc_error *);
sc_status sc_fast_layer_norm(sc_device *, const sc_layer_norm_args *, sc_error *);
sc_status sc_fast_rms_norm(sc_device *, const sc_rms_norm_args *, sc_error *);
sc_status sc_fast_mul_gelu(sc_device *, void *, const void *, int, int, sc_error *);
sc_status sc_fast_silu(sc_device *, void *, const float *, size_t, sc_error *);
sc_status sc_fast_qkv(sc_device *, const sc_qkv_args *, sc_error *);
sc_status sc_fast_select(sc_device *, const sc_select_args *, sc_error *);
sc_status sc_fast_attention(sc_device *, const sc_attention_args *, sc_error *);
sc_status sc_fast_cross_attention(sc_device *, const sc_cross_attention_args *, sc_error *);
sc_status sc_fast_text_attention(sc_device *, const sc_text_attention_args *, sc_error *);

/* ---- the fast path: sampler and decoder (conv*.c, decoder*.c, sampler*.c) -------------------------------------------------- */

sc_status sc_fast_filter_create(sc_device *, sc_filter **, const sc_filter_desc *, sc_error *);
void sc_fast_filter_destroy(sc_device *, sc_filter *);
sc_status sc_fast_noise(sc_device *, const sc_noise_args *, sc_error *);
sc_status sc_fast_denoise(sc_device *, const sc_denoise_args *, sc_error *);
sc_status sc_fast_latent_in(sc_device *, const sc_latent_in_args *, sc_error *);
sc_status sc_fast_conv(sc_device *, const sc_conv_args *, sc_error *);
sc_status sc_fast_grow(sc_device *, const sc_grow_args *, sc_error *);
sc_status sc_fast_pool(sc_device *, const sc_pool_args *, sc_error *);
sc_status sc_fast_pixels(sc_device *, const sc_pixels_args *, sc_error *);
sc_status sc_fast_conv3(sc_device *, const sc_conv3_args *, sc_error *);
sc_status sc_fast_channel_norm(sc_device *, const sc_channel_norm_args *, sc_error *);
sc_status sc_fast_frame_attention(sc_device *, const sc_frame_attention_args *, sc_error *);
sc_status sc_fast_planes_in(sc_device *, const sc_planes_in_args *, sc_error *);

#endif

/* cuda.h - the CUDA backend's device and the operations that its files provide.
 *
 * One device = one stream of a GPU and one workspace. Every operation below has the contract of the entry of the same name in
 * kernels/ops.h: it launches on `stream` and returns; it neither allocates nor synchronises. Plain C, so that the table
 * (cuda.c) needs no CUDA compiler.
 *
 * Workspace. One slab of device memory, allocated by sc_cuda_open, free for use by any operation between its first and its last
 * kernel: operations follow one another on the stream, so nothing in it survives from one to the next. */
#ifndef SC_KERNELS_CUDA_CUDA_H
#define SC_KERNELS_CUDA_CUDA_H
#include "kernels/ops.h"
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#ifdef __cplusplus
extern "C" {
#endif

/* Rotations of the query by the age of a page: age = digit2 * 256^2 + digit1 * 256 + digit0, a table of 256 rotations for each
 * digit (cos, sin computed in double), composed when digit 1 or 2 is not zero. */
enum { SC_CUDA_AGE_DIGITS = 3, SC_CUDA_AGE_BASE = 256 };

enum { SC_CUDA_WORKSPACE_MIN = 64 << 20 }; /* the least that sc_cuda_open allocates; attention needs 2 pieces of 100 KiB per SM */

struct sc_cuda {
    sc_device base;
    cudaStream_t stream;
    cublasLtHandle_t lt;
    void *workspace;
    size_t workspace_bytes;
    int ordinal, sm_count, cc_major, cc_minor;
    struct sc_cuda_upload *upload;            /* upload.c: staging memory while weights come in, else NULL */
    struct sc_cuda_choices *choices;          /* product.c: made by the first product, freed by cuda.c */
    struct sc_cuda_queue *queue;              /* queue.c: ring of small uploads, recorded work */
    struct sc_cuda *first;                    /* of a second queue: the device that it stands beside; else NULL */
    bool pooled;                              /* the table's memory comes from the driver's pool and goes back in the stream's order */

    /* attention.cu, select.cu: the rotations by age, remade on the stream when a model with other angles comes. */
    float *age_table;                         /* device [AGE_DIGITS][AGE_BASE][SC_MAX_ROPE_PAIRS][2] */
    double age_theta[SC_MAX_ROPE_PAIRS];
    int age_pairs;                            /* -1: not made yet */
    int force_mma;                            /* 1: mma.sync everywhere, as on a card without wgmma; 0: wgmma where card and shape allow it */
};

/* Called by sc_cuda_open after stream, workspace and the card's properties are set; and by close. */
sc_status sc_cuda_attention_init(struct sc_cuda *dev, sc_error *err);
void sc_cuda_attention_destroy(struct sc_cuda *dev);

/* norms.cu, for linear.cu: norm->x += gate[gate_mod[row]] * y (y [m][dim] of y_type; gate NULL: 1; gate_mod NULL: row 0), then norm, in one
 * kernel. False, and nothing done: it has none for these sizes or addresses. */
bool sc_cuda_add_norm(struct sc_cuda *dev, const void *y, sc_dtype y_type, const float *gate, int gate_stride, const int32_t *gate_mod,
                      const sc_layer_norm_args *norm);

sc_status sc_cuda_linear(sc_device *, const sc_linear_args *, sc_error *);
sc_status sc_cuda_layer_norm(sc_device *, const sc_layer_norm_args *, sc_error *);
sc_status sc_cuda_rms_norm(sc_device *, const sc_rms_norm_args *, sc_error *);
sc_status sc_cuda_qkv(sc_device *, const sc_qkv_args *, sc_error *);
sc_status sc_cuda_select(sc_device *, const sc_select_args *, sc_error *);
sc_status sc_cuda_attention(sc_device *, const sc_attention_args *, sc_error *);
sc_status sc_cuda_memory_update(sc_device *, const sc_memory_update_args *, sc_error *);
sc_status sc_cuda_cross_attention(sc_device *, const sc_cross_attention_args *, sc_error *);
sc_status sc_cuda_fold(sc_device *, const sc_fold_args *, sc_error *);
sc_status sc_cuda_query_keys(sc_device *, const sc_query_keys_args *, sc_error *);
sc_status sc_cuda_query_weights(sc_device *, const sc_query_weights_args *, sc_error *);
sc_status sc_cuda_text_attention(sc_device *, const sc_text_attention_args *, sc_error *);
sc_status sc_cuda_gather(sc_device *, float *out, const sc_matrix *table, const int32_t *rows_host, int n, sc_error *);
sc_status sc_cuda_mul_gelu(sc_device *, void *out, const void *x, int m, int width, sc_error *);
sc_status sc_cuda_convert(sc_device *, void *out_act, const float *x, size_t count, sc_error *);
sc_status sc_cuda_silu(sc_device *, void *out_act, const float *x, size_t count, sc_error *);
sc_status sc_cuda_add_rows(sc_device *, float *x, const float *table, const int32_t *row, int m, int dim, sc_error *);
sc_status sc_cuda_patchify(sc_device *, const sc_patch_args *, sc_error *);
sc_status sc_cuda_unpatchify(sc_device *, const sc_patch_args *, sc_error *);
sc_status sc_cuda_noise(sc_device *, const sc_noise_args *, sc_error *);
sc_status sc_cuda_denoise(sc_device *, const sc_denoise_args *, sc_error *);
sc_status sc_cuda_finite(sc_device *, int32_t *out, const float *x, size_t count, sc_error *);
sc_status sc_cuda_latent_in(sc_device *, const sc_latent_in_args *, sc_error *);
sc_status sc_cuda_conv(sc_device *, const sc_conv_args *, sc_error *);
sc_status sc_cuda_grow(sc_device *, const sc_grow_args *, sc_error *);
sc_status sc_cuda_pool(sc_device *, const sc_pool_args *, sc_error *);
sc_status sc_cuda_pixels(sc_device *, const sc_pixels_args *, sc_error *);
sc_status sc_cuda_conv3(sc_device *, const sc_conv3_args *, sc_error *);
sc_status sc_cuda_channel_norm(sc_device *, const sc_channel_norm_args *, sc_error *);
sc_status sc_cuda_frame_attention(sc_device *, const sc_frame_attention_args *, sc_error *);
sc_status sc_cuda_planes_in(sc_device *, const sc_planes_in_args *, sc_error *);

sc_status sc_cuda_matrix_create(sc_device *, sc_matrix **out, const sc_matrix_desc *, sc_error *);
void sc_cuda_matrix_destroy(sc_device *, sc_matrix *);
int sc_cuda_fold_stride(sc_device *, const sc_matrix *o, int heads, int n);
sc_status sc_cuda_fold_create(sc_device *, sc_matrix **out, const sc_matrix *o, void *memory, int cols, sc_error *);
sc_status sc_cuda_query_create(sc_device *, sc_query **out, const sc_matrix *q, sc_error *err);
void sc_cuda_query_destroy(sc_device *, sc_query *);
size_t sc_cuda_query_bytes(sc_device *, const sc_query *, int heads, int stride);
sc_status sc_cuda_filter_create(sc_device *, sc_filter **out, const sc_filter_desc *, sc_error *);
sc_status sc_cuda_filter3_create(sc_device *, sc_filter **out, const sc_filter_desc *, sc_error *); /* filters of several frames: conv3.cu */
void sc_cuda_filter_destroy(sc_device *, sc_filter *);

#ifdef __cplusplus
}
#endif
#endif

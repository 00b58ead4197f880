/* text_encoder.h - the UMT5-layout encoder: token ids to embeddings.
 *
 * Source: Self-Forcing, wan/modules/t5.py T5Encoder. Runs on real tokens only: padded keys are masked in the reference, so a real
 * token never sees padding and leaving it out is exact. Thread: engine. */
#ifndef SC_ENGINE_TEXT_ENCODER_H
#define SC_ENGINE_TEXT_ENCODER_H
#include "engine/safetensors.h"
#include "kernels/ops.h"

/* tokens: of the longest prompt. Work memory is planned for it. */
typedef struct { int vocab, dim, dim_attn, dim_ffn, heads, layers, buckets, max_dist, tokens; } sc_t5_shape;
typedef struct sc_t5 sc_t5;

/* Tensors PREFIX + Wan name (token_embedding.weight, blocks.N.attn.q.weight, ...). */
sc_status sc_t5_load(sc_t5 **out, sc_device *dev, const sc_tensors *set, const char *prefix, const sc_t5_shape *shape, sc_error *err);
void sc_t5_close(sc_t5 *t);
void sc_t5_move(sc_t5 *t, sc_device *dev); /* to another queue of its device; its calls before have finished */
size_t sc_t5_dim(const sc_t5 *t);

/* Called after each layer with the residual stream, f32 host [n][dim], when not NULL. */
typedef void sc_t5_tap(void *ctx, int layer, const float *x);

/* out (host f32) [n][dim], n at most shape.tokens. ids in 0..vocab-1 (checked: SC_EINVAL). */
sc_status sc_t5_encode(const sc_t5 *t, const int32_t *ids, int n, float *out, sc_t5_tap *tap, void *tap_ctx, sc_error *err);

/* Bucket of r = key - query. Integer thresholds: |r| = 16, 32, 64 lie exactly on a boundary of the formula
 * half/2 + trunc(ln(|r| / (half/2)) / ln(max_dist / (half/2)) * (half/2)), half = buckets / 2, and must go up. */
int sc_t5_bucket(int r, int buckets, int max_dist);

/* Bias table of one layer, host f32 [heads][2n - 1]: entry r + n - 1 for r = key - query. */
void sc_t5_bias(const sc_t5 *t, int layer, int n, float *out);

#endif

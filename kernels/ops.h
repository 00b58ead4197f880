/* ops.h - the one door between the engine and the devices: a table of operations.
 *
 * The engine is written once against this table. Three tables exist: "twin" (kernels/cpu/twin_*.c: readable loops that define
 * each operation), "cpu" (kernels/cpu: the fast path, tested against the twin) and "cuda" (kernels/cuda, compared with the
 * twin). An operation knows shapes, never sessions or files.
 *
 * Memory. `void *` and `float *` operands are device memory of the same device (host memory for the two CPU tables) unless the
 * comment says host. Activations are of the device's type `act` (f32 on the CPU; f16 or bf16 on CUDA), the residual stream,
 * norms, representatives, scores and all accumulation are f32. Operands are borrowed; outputs are overwritten; no two operands
 * overlap unless said. Shapes list the slowest axis first, all contiguous.
 *
 * Order. Calls are made by one thread, the engine's. A CPU call has finished when it returns. On CUDA a device is a queue, a stream of
 * its own: calls take effect in their order, alloc and release included, and none waits but download, sync, wait, *_create, alloc_host and
 * uploads of more than 2 MiB. `beside` gives a second queue of the same card with the same memory; between two queues only marks, or a caller
 * that waits, tell the order.
 *
 * Errors. Sizes were checked when the model was opened: a wrong size is our own bug and asserted. What is returned: SC_ENOMEM and
 * SC_EGPU, this call has failed: what it writes is undefined (but denoise, which works in place, has not begun), what it reads is as
 * before, and later calls may succeed; SC_ELOST, after which none does and none touches the device, `release` and `close` included.
 *
 * Words: a *row* is a token of a batch; rows of `seqs` sequences (sessions) of `tokens` tokens stand one after another.
 * A *block* is a run of at most 64 consecutive tokens of a chunk (the engine orders tokens tile by tile), a *page* holds the keys
 * and values of one block of one head of one layer, a *slot* says which page, of which chunk and block. */
#ifndef SC_KERNELS_OPS_H
#define SC_KERNELS_OPS_H
#include "base/dtype.h"
#include "base/status.h"
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef struct sc_device sc_device;
typedef struct sc_matrix sc_matrix; /* weight of a linear layer, packed for the device */
typedef struct sc_query sc_query;   /* what queries are to folded keys */
typedef struct sc_filter sc_filter; /* weight of a convolution, packed for the device */
typedef struct sc_mark sc_mark;     /* a place in a queue's order */

enum { SC_MAX_BATCH = 8, SC_MAX_PARTS = 3, SC_MAX_ROPE_PAIRS = 64, SC_BLOCK_TOKENS_MAX = 64, SC_FOLD_MAX = 64, SC_FOLD_ROWS = 64 };

/* ---- weights ------------------------------------------------------------------------------------------------------------ */

/* Weight [rows][cols] = parts stacked along rows (fused q, k, v), each host memory, row-major, F32, F16 or BF16, any alignment.
 * bias[i] (host, same types, rows[i] values) or NULL. The device keeps its own copy, unless `stays` says that data[] outlives the matrix
 * and the device reads such weights where they lie (sc_device.in_place). */
typedef struct {
    int parts, cols, rows[SC_MAX_PARTS];
    const void *data[SC_MAX_PARTS];
    sc_dtype type[SC_MAX_PARTS];
    const void *bias[SC_MAX_PARTS];
    sc_dtype bias_type[SC_MAX_PARTS];
    bool stays;
} sc_matrix_desc;

/* Weight [out_ch][in_ch][size][size] (host), size 1 or 3, zero padding size/2, stride 1 or 2. bias [out_ch] or NULL.
 * in_ch counts both halves when the convolution sees a second input (`past`).
 * taps, time_stride and pad_end make a filter for conv3 alone and are 0 in all others: with taps the weight is [out_ch][in_ch][taps][size][size]. */
typedef struct {
    int out_ch, in_ch, size, stride;
    bool has_past; /* channels [0, in_ch/2) see x, the rest see the frame before */
    int taps;        /* frames that an output sees, 1..3; 0 = 1 */
    int time_stride; /* 1 or 2; 0 = 1 */
    bool pad_end;    /* size 3 with stride 2: the zeros stand after the last row and column, none before the first */
    const void *data; sc_dtype type;
    const void *bias; sc_dtype bias_type;
} sc_filter_desc;

/* ---- transformer -------------------------------------------------------------------------------------------------------- */

typedef enum {
    SC_EPI_NONE,          /* out = y */
    SC_EPI_GELU,          /* out = gelu_tanh(y) */
    SC_EPI_SILU,          /* out = y * sigmoid(y) */
    SC_EPI_RESIDUAL,      /* out (f32) += y */
    SC_EPI_GATED_RESIDUAL /* out (f32) += gate[row_mod[row]][col] * y */
} sc_epilogue;

/* out[i] = norm(x[i]) with norm(x) = (x - mean) / sqrt(var + eps), then * weight + bias when weight is given, then
 * * (1 + scale[r]) + shift[r] when scale is given, r = row_mod[i]. */
typedef struct {
    const float *x;            /* f32 [m][dim] */
    void *out;                 /* act [m][dim], or f32 when out_f32 */
    bool out_f32;
    int m, dim;
    float eps;
    const float *weight, *bias;  /* f32 [dim] or NULL */
    const float *shift, *scale;  /* f32, shift[r * mod_stride + col], or NULL */
    int mod_stride;
    const int32_t *row_mod;      /* [m] or NULL */
} sc_layer_norm_args;

/* y[m][rows] = x[m][cols] . w^T + bias, then the epilogue. `then`, only with one of the residuals, is the layer norm that follows: it sees
 * what the epilogue left in out, as if layer_norm had been called next, and its x is out, its m is m, its dim the rows of w. */
typedef struct {
    const sc_matrix *w;
    const void *x;          /* act [m][cols] */
    void *out;              /* [m][rows]; type out_type (SC_F32 or the act type); residuals are f32 and in place */
    sc_dtype out_type;
    int m;
    sc_epilogue epilogue;
    const float *gate;      /* f32, gate[i * gate_stride + col] */
    int gate_stride;
    const int32_t *row_mod; /* [m] index of the modulation row of each token; NULL = all 0 */
    const sc_layer_norm_args *then; /* or NULL; then->out overlaps neither x nor out */
} sc_linear_args;

/* out[i] = x[i] / sqrt(mean(x[i]^2) + eps) * weight, over the whole row. x: x_type (f32 or act) with row stride ldx elements. */
typedef struct {
    const void *x; sc_dtype x_type; int ldx;
    void *out; sc_dtype out_type;  /* [m][dim], may be x itself when types and strides agree */
    int m, dim;
    float eps;
    const float *weight;           /* f32 [dim] */
} sc_rms_norm_args;

/* How the tokens of a chunk fall into blocks, the same for every session of a model. */
typedef struct {
    int tokens, blocks;
    const int32_t *start;      /* device [blocks + 1]: block b holds tokens start[b] .. start[b+1]-1, at most 64 */
    const int32_t *start_host; /* the same, host */
} sc_blocks;

/* The pool of pages of one engine. Page p: keys at k + p * page_rows * head_dim, row t = token t of the block. Rows past a
 * block's length are never read as tokens (they may hold anything finite). */
typedef struct {
    void *k, *v;       /* act [pages][page_rows][head_dim] */
    float *rep_k;      /* f32 [pages][head_dim]: mean over the block's tokens of the stored (in-chunk rotated) key */
    int pages, page_rows, head_dim;
} sc_pages;

/* One block that a head remembers. Id order = (chunk, block). */
typedef struct {
    int32_t page, block;
    int64_t chunk;
} sc_kv_slot;

/* The memory of one session in one layer, as a pass sees it. slots [heads][slot_stride] (device): entries [0, persistent) are
 * P, ascending id; entries [window_base, window_base + window) are L, oldest first, the own chunk's blocks last in block order.
 * Every other entry holds a free page of this head. Age of a slot, in latent frames: (chunk_now - slot.chunk) * chunk_frames,
 * held at max_distance when that is >= 0. chunk_now, as the only thing here that changes from chunk to chunk of a stream whose memory is
 * full, is device memory too: what was launched for one chunk can be played again for the next (replay). */
typedef struct {
    sc_kv_slot *slots;
    int slot_stride, persistent, window_base, window;
    const int64_t *chunk_now; /* device [1] */
} sc_kv_view;

/* Rotary embedding of a model: channel pairs (2i, 2i+1); the first frame_pairs of them turn with the latent frame. */
typedef struct {
    const float *in_chunk;  /* device f32 [tokens][head_dim / 2][2]: cos, sin of a token's angle by its place in its chunk */
    const double *theta;    /* host [frame_pairs]: angle per latent frame */
    int frame_pairs, chunk_frames, max_distance;
} sc_rope;

/* After the fused q|k|v product: per row, RMSNorm over the whole width of q and of k, rotation by the in-chunk angle; q to `q`,
 * k and v to the pages of the own chunk (slots window_base + window - blocks + b), block means of the rotated q and k (f32,
 * before any rounding to act) to rep_q and pages->rep_k. q is stored times q_scale, rep_q is not. */
typedef struct {
    const void *qkv; sc_dtype qkv_type; /* [seqs * tokens][3 * heads * head_dim] */
    int seqs, heads, head_dim;
    const float *norm_q, *norm_k;       /* f32 [heads * head_dim] */
    float eps;
    sc_blocks blocks;
    sc_rope rope;
    sc_pages pages;
    sc_kv_view view[SC_MAX_BATCH];
    float q_scale;                      /* 0: 1 */
    void *q;                            /* act [seqs][heads][tokens][head_dim] */
    float *rep_q;                       /* f32 [seqs][heads][blocks][head_dim] */
} sc_qkv_args;

/* The q_scale that leaves attention nothing to multiply: in bf16, where a factor costs no precision as long as it comes before the rounding, scores are powers of two at once. In f16
 * the pocket model's choices hang on how q is rounded, and f32 gains nothing. */
static inline float sc_q_scale_of(sc_dtype act, int head_dim) { return act == SC_BF16 ? (float)(1.4426950408889634 / sqrt((double)head_dim)) : 1.0f; }
static inline float sc_q_scale(float q_scale) { return q_scale != 0 ? q_scale : 1.0f; }

/* Which slots each query block attends. Scores S[i][j] = (rep_q[i] rotated by the age of slot j) . rep_k[slot j] / sqrt(d) for
 * all of P and L. list = all of P, then, ascending, the own block and the keep-1 others of L with the highest S (ties: lower
 * index in L). Lists hold slot indices (into view.slots of the head). */
typedef struct {
    int seqs, heads, head_dim;
    sc_blocks blocks;
    sc_rope rope;
    sc_pages pages;
    sc_kv_view view[SC_MAX_BATCH];
    int keep[SC_MAX_BATCH];       /* K = max(1, ceil(keep_ratio * window)) of each sequence */
    const float *rep_q;           /* f32 [seqs][heads][blocks][head_dim] */
    float *score;                 /* f32 [seqs][heads][blocks][score_stride]: P then L; kept for memory_update */
    int score_stride;
    int32_t *list;                /* [seqs][heads][blocks][list_stride] */
    int list_stride;
} sc_select_args;

/* out = softmax(q k^T / (q_scale sqrt(d))) v over the valid tokens of the listed slots; q rotated by the age of the slot it looks at (frame
 * pairs only). Count of list entries is the same for all heads and blocks of a sequence. list NULL: every slot of P and L. */
typedef struct {
    int seqs, heads, head_dim;
    sc_blocks blocks;
    sc_rope rope;
    sc_pages pages;
    sc_kv_view view[SC_MAX_BATCH];
    float q_scale;               /* what q is stored times; 0: 1. See sc_q_scale_of */
    const void *q;               /* act [seqs][heads][tokens][head_dim] */
    const int32_t *list;
    int list_stride, list_count[SC_MAX_BATCH];
    void *out;                   /* act [seqs * tokens][heads * head_dim] */
} sc_attention_args;

/* After a clean pass with a full window: per sequence and head, s_j = sum over query blocks of softmax_j(S) over P and L;
 * candidates are P and the oldest chunk's blocks (the first `blocks` of L); the `capacity` best by s (ties: lower id) become P,
 * ascending id. Window moves up by one chunk. The freed pages fill the rest: entries [new P count, window_base) and the last
 * `blocks` of the window, in ascending order of the freed candidates; those last entries get chunk = chunk_now + 1 and block = 0,
 * 1, ...: they are the next chunk's own. New P count = min(capacity, persistent + blocks); the caller
 * keeps the count. A sum that is no number (a broken model) counts as -1. mass (may be NULL) receives s of all columns [seqs][heads][score_stride], kept (may be NULL)
 * [seqs][heads][capacity] the indices of the survivors among the candidates, ascending. */
typedef struct {
    int seqs, heads;
    sc_blocks blocks;
    sc_kv_view view[SC_MAX_BATCH];
    const float *score; int score_stride;
    int capacity;
    float *mass;
    int32_t *kept;
} sc_memory_update_args;

/* out[row] = softmax(q k^T / sqrt(d) + b) v over n keys of the row's sequence, per head; b = 0 but for the last key: last_bias
 * (log of the number of equal padding rows that it stands for). No RoPE. With norm_q, q is first normalised as by rms_norm over the whole
 * row, in place or on the way: what q holds afterwards is undefined. */
typedef struct {
    int seqs, tokens, heads, head_dim;
    void *q;                                /* act [seqs * tokens][heads * head_dim]; untouched without norm_q */
    const float *norm_q;                    /* f32 [heads * head_dim], or NULL: q is normalised already */
    float eps;
    const void *k[SC_MAX_BATCH], *v[SC_MAX_BATCH]; /* act [n][heads * head_dim] */
    int n[SC_MAX_BATCH];
    float last_bias[SC_MAX_BATCH];
    void *out;                              /* act [seqs * tokens][heads * head_dim] */
    /* Not 0: the weights themselves instead of what they make of v, which is not looked at: out is act [seqs * tokens][heads * weights], column
     * h * weights + j the weight of key j, 0 from n on. A multiple of 8, at least every n, at most SC_FOLD_MAX. */
    int weights;
} sc_cross_attention_args;

/* A fold takes the values of keys that stay the same through the product behind the attention, once for all queries: softmax . v . o^T is
 * weights . (v . o^T). weight[r][h * stride + j] = o[r][h * head_dim ..] . v[j][h * head_dim ..] for j < n, 0 from n on; o's bias. */
typedef struct {
    sc_matrix *out;         /* of fold_create, heads * stride columns */
    const sc_matrix *o;     /* the one it was created like, heads * head_dim columns */
    const void *v;          /* act [n][heads * head_dim] */
    int n, heads, stride;   /* 1 <= n <= stride <= SC_FOLD_MAX, a multiple of 8 */
} sc_fold_args;

/* Queries that nobody keeps. To the n keys of a short prompt the queries q[i] = w x[i] + b of a cross attention are only their logits, and the mean of
 * their squares that the norm divides by: both can be had without q. The keys are taken through w once for all queries, and the sum of the squares
 * |w x + b|^2 = |r x + c|^2 + rest costs half a product, r being triangular.
 * query_keys makes `keys` of a prompt for query_weights: query_bytes of device memory, in an order of the device's own, a multiple of 256 bytes from
 * the start of an alloc. */
typedef struct {
    const sc_query *query;  /* of query_create; w's heads * head_dim rows are its x's columns too */
    const float *norm;      /* f32 [heads * head_dim] */
    const void *k;          /* act [n][heads * head_dim] */
    int n, heads, stride;   /* as of sc_fold_args */
    void *keys;
} sc_query_keys_args;

/* Of one sequence, out as cross_attention would leave it with weights = stride, norm_q = norm and q = w x + b: out[i][h * stride + j] =
 * softmax over j < n of (q_h / sqrt(mean(q^2) + eps) * norm_h . k[j]_h / sqrt(head_dim), + last_bias for the last); 0 from n on. */
typedef struct {
    const sc_query *query;
    const void *keys;       /* of query_keys with the same n, heads, stride */
    const void *x;          /* act [tokens][heads * head_dim] */
    int tokens, n, heads, stride;
    float eps, last_bias;
    void *out;              /* act [tokens][heads * stride] */
} sc_query_weights_args;

/* Text encoder attention, one prompt: no scale, bias[h][reach + r] added, r = key - query held between -reach and reach. q, k, v act
 * [n][heads*head_dim]. */
typedef struct {
    int n, heads, head_dim;
    const void *q, *k, *v; int ld;  /* row stride in elements */
    const float *bias;              /* f32 device [heads][2 * reach + 1] */
    int reach;
    void *out;                      /* act [n][heads * head_dim] */
} sc_text_attention_args;

/* Latent frames to patch rows and back. order (device) [tokens]: token t = (frame * rows + row) * cols + col of the token grid.
 * latent f32 [ch][frames][rows*ph][cols*pw]. patchify: out act [tokens][ch*ph*pw] (channel, patch row, patch column).
 * unpatchify: x f32 [tokens][ph*pw*ch] (patch row, patch column, channel fastest) to latent. */
typedef struct {
    int ch, frames, rows, cols, ph, pw;
    const int32_t *order;
    const void *in;
    void *out;
} sc_patch_args;

/* ---- sampler ------------------------------------------------------------------------------------------------------------ */

/* out[i] = standard normal, Philox4x32-10: key = seed (low, high word), counter = (i / 4, step, chunk low, chunk high); the four
 * words w give two Box-Muller pairs: u1 = (w0 + 1) / 2^32, u2 = w1 / 2^32, r = sqrt(-2 ln u1), (r cos 2 pi u2, r sin 2 pi u2). */
typedef struct {
    float *out;
    size_t count;
    uint64_t seed, chunk;
    uint32_t step;
} sc_noise_args;

/* x0 = x - sigma * flow (in double, rounded once). next_sigma >= 0: x = (1 - next_sigma) * x0 + next_sigma * noise; else x = x0.
 * x0 may be NULL. */
typedef struct {
    float *x;            /* in, out f32 [count] */
    const float *flow;
    const float *noise;
    float *x0;
    size_t count;
    double sigma, next_sigma;
} sc_denoise_args;

/* ---- decoder (TAEHV): frames NHWC, act [n][h][w][ch] --------------------------------------------------------------------- */

/* Convolution of n frames. y = conv(x) + bias (+ residual) (relu). With has_past, frame i sees x[i] and the frame before: x[i-1],
 * or `past` for i = 0. upsample: the input is x doubled in both directions by nearest neighbour (h, w are x's size before).
 * s > 1, only without past and residual and where sc_device.conv_deals: channel group k of s equal ones is frame k of the s that come of
 * one, out [n * s][oh][ow][out_ch / s]. */
typedef struct {
    const sc_filter *w;
    const void *x, *past;
    const void *residual;  /* act, shape of out, or NULL */
    void *out;             /* act [n][oh][ow][out_ch] */
    void *keep;            /* act [oh][ow][out_ch], takes the residual's last frame, or NULL; only with a residual */
    int n, h, w_px;
    bool relu, upsample;
    int s;                 /* 0 = 1 */
} sc_conv_args;

/* 1x1 convolution C to s*C whose channel group k is frame k: x [n][h][w][c] -> out [n*s][h][w][c]. w: filter of size 1. */
typedef struct {
    const sc_filter *w;
    const void *x;
    void *out;
    int n, h, w_px, s;
} sc_grow_args;

/* s frames stacked on channels, oldest first, then 1x1: x [n*s][h][w][c] -> out [n][h][w][c]. */
typedef sc_grow_args sc_pool_args;

/* 3 * tanh(z / 3): latent f32 [ch][frames][h][w] -> act [frames][h][w][ch]. */
typedef struct {
    const float *latent;
    void *out;
    int ch, frames, h, w;
} sc_latent_in_args;

/* Last step: x act [n][h][w][3*p*p] (channel = colour * p * p + row * p + column) shuffled to pictures [h*p][w*p].
 * centred: x runs from -1 to 1 and counts as x / 2 + 1/2. rgb (f32 [n][3][H][W]) is not clamped unless `clamp`; i420 (u8 [n][H*W*3/2], planes Y, U, V of JFIF's full-range BT.601, chroma the
 * mean of 2x2) is clamped. Either may be NULL. */
typedef struct {
    const void *x;
    float *rgb;
    uint8_t *i420;
    int n, h, w, p;
    bool clamp, centred;
} sc_pixels_args;

/* ---- decoder (Wan VAE): frames NHWC as above; a device may lack these operations, then the entry is NULL ------------------- */

/* out[i] = x[i] / max(|x[i]|, 1e-12) * sqrt(ch) * gamma, |.| the L2 norm over the channels of one pixel; then SiLU when `silu`. */
typedef struct {
    const void *x;       /* act [rows][ch] */
    void *out;           /* act [rows][ch]; may be x */
    const float *gamma;  /* f32 [ch] */
    size_t rows;
    int ch;
    bool silu;
} sc_channel_norm_args;

/* Causal convolution in time of n frames. y_i = conv(x[i - taps + 1 .. i]) + bias, the frames before x[0] being `past`
 * [taps - 1][h][w][in_ch], oldest first (NULL when taps is 1). Of these the ones with (i + 1) % time_stride = 0 are made, n /
 * time_stride in all. Then, per frame made, channel group k of `split` (0 = 1; more only with size 1) equal ones is a frame of its
 * own, the k-th, and residual is added: out act [n / time_stride * split][oh][ow][out_ch / split]; oh = h, or (h + 1) / 2 with stride 2.
 * upsample, only with taps 1, size 3 and neither stride nor residual: the pictures are those of x doubled in both directions by nearest
 * neighbour, oh = 2 h. `then` is the norm that follows, as if channel_norm had been called next: its x is out, its rows and ch are out's. */
typedef struct {
    const sc_filter *w;
    const void *x, *past;
    const void *residual;  /* act, shape of out, or NULL; may be out */
    void *out;             /* act; may be NULL with `then`: nobody else reads it */
    int n, h, w_px, split;
    bool upsample;
    const sc_channel_norm_args *then; /* or NULL; then->out overlaps none of x, past, residual and out */
} sc_conv3_args;

/* Attention inside each of n frames, one head: out = softmax(q k^T / sqrt(ch)) v over the frame's `pixels`. */
typedef struct {
    const void *qkv;  /* act [n][pixels][3 * ch]: q, k, v of a pixel */
    void *out;        /* act [n][pixels][ch] */
    int n, pixels, ch;
} sc_frame_attention_args;

/* Frames [first, first + n) of planes f32 [ch][frames][h][w] to act [n][h][w][ch], each value * scale[channel] + shift[channel]
 * (f32 [ch] each, or both NULL: as they are). */
typedef struct {
    const float *planes, *scale, *shift;
    void *out;
    int ch, frames, first, n, h, w;
} sc_planes_in_args;

/* ---- queues ------------------------------------------------------------------------------------------------------------- */

/* Calls that can be made again as a whole. What `launch` calls, on this queue alone and none of those that wait or allocate, follows from
 * `key`; what it leaves on the host the caller knows without it. A device may keep what it launched and, at a later call with the same key,
 * put that on the queue without calling `launch`. */
typedef struct {
    const uint64_t *key;
    int words;           /* at most SC_REPLAY_WORDS */
    sc_status (*launch)(void *ctx, sc_error *);
    void *ctx;
} sc_replay_args;

enum { SC_REPLAY_WORDS = 112 };

/* ---- the table ---------------------------------------------------------------------------------------------------------- */

typedef struct {
    sc_status (*alloc)(sc_device *, void **out, size_t bytes, sc_error *);  /* 64-byte aligned, zeroed */
    void (*release)(sc_device *, void *);                                   /* NULL is fine */
    sc_status (*alloc_host)(sc_device *, void **out, size_t bytes, sc_error *); /* host memory that download fills at full speed; not zeroed */
    void (*release_host)(sc_device *, void *);                              /* NULL is fine */
    sc_status (*upload)(sc_device *, void *dst, const void *host, size_t bytes, sc_error *);
    sc_status (*download)(sc_device *, void *host, const void *src, size_t bytes, sc_error *);
    sc_status (*copy)(sc_device *, void *dst, const void *src, size_t bytes, sc_error *); /* device to device, in order */
    sc_status (*sync)(sc_device *, sc_error *);

    sc_status (*matrix_create)(sc_device *, sc_matrix **out, const sc_matrix_desc *, sc_error *);
    void (*matrix_destroy)(sc_device *, sc_matrix *);
    /* The stride of a fold of n keys; 0: the device gains nothing by one. */
    int (*fold_stride)(sc_device *, const sc_matrix *o, int heads, int n);
    /* A matrix whose weight `fold` makes in `memory`: device, act [rows of o, up to a multiple of SC_FOLD_ROWS][cols], in an order of the device's
     * own, a multiple of 256 bytes from the start of an alloc; borrowed, as is o's bias, for the matrix's life. Neither waits nor allocates there. */
    sc_status (*fold_create)(sc_device *, sc_matrix **out, const sc_matrix *o, void *memory, int cols, sc_error *);
    /* Of w and b of a layer's queries, borrowed for the query's life. *out NULL and SC_OK: the device gains nothing by it. query_bytes: of the keys
     * of one prompt. NULL, all five, on a device that never does: cpu's products know no matrix of which half is left out. */
    sc_status (*query_create)(sc_device *, sc_query **out, const sc_matrix *q, sc_error *err);
    void (*query_destroy)(sc_device *, sc_query *);                         /* NULL is fine */
    size_t (*query_bytes)(sc_device *, const sc_query *, int heads, int stride);
    sc_status (*query_keys)(sc_device *, const sc_query_keys_args *, sc_error *);       /* neither waits nor allocates */
    sc_status (*query_weights)(sc_device *, const sc_query_weights_args *, sc_error *);
    sc_status (*filter_create)(sc_device *, sc_filter **out, const sc_filter_desc *, sc_error *);
    void (*filter_destroy)(sc_device *, sc_filter *);

    sc_status (*linear)(sc_device *, const sc_linear_args *, sc_error *);
    sc_status (*layer_norm)(sc_device *, const sc_layer_norm_args *, sc_error *);
    sc_status (*rms_norm)(sc_device *, const sc_rms_norm_args *, sc_error *);
    sc_status (*qkv)(sc_device *, const sc_qkv_args *, sc_error *);
    sc_status (*select)(sc_device *, const sc_select_args *, sc_error *);
    sc_status (*attention)(sc_device *, const sc_attention_args *, sc_error *);
    sc_status (*memory_update)(sc_device *, const sc_memory_update_args *, sc_error *);
    sc_status (*cross_attention)(sc_device *, const sc_cross_attention_args *, sc_error *);
    sc_status (*fold)(sc_device *, const sc_fold_args *, sc_error *);
    sc_status (*text_attention)(sc_device *, const sc_text_attention_args *, sc_error *);
    sc_status (*gather)(sc_device *, float *out, const sc_matrix *table, const int32_t *rows_host, int n, sc_error *); /* f32 [n][cols] = rows of the table */
    /* act: out [m][width] = x[i][width + c] * gelu_tanh(x[i][c]), x [m][2 * width] */
    sc_status (*mul_gelu)(sc_device *, void *out, const void *x, int m, int width, sc_error *);
    sc_status (*convert)(sc_device *, void *out_act, const float *x, size_t count, sc_error *);            /* f32 -> act */
    sc_status (*silu)(sc_device *, void *out_act, const float *x, size_t count, sc_error *);               /* f32 -> act */
    sc_status (*add_rows)(sc_device *, float *x, const float *table, const int32_t *row, int m, int dim, sc_error *); /* x[i] += table[row[i]] */
    sc_status (*patchify)(sc_device *, const sc_patch_args *, sc_error *);
    sc_status (*unpatchify)(sc_device *, const sc_patch_args *, sc_error *);
    sc_status (*noise)(sc_device *, const sc_noise_args *, sc_error *);
    sc_status (*denoise)(sc_device *, const sc_denoise_args *, sc_error *);
    sc_status (*finite)(sc_device *, int32_t *out, const float *x, size_t count, sc_error *); /* *out (device) = whether every x[i] is finite, 1 or 0 */

    sc_status (*latent_in)(sc_device *, const sc_latent_in_args *, sc_error *);
    sc_status (*conv)(sc_device *, const sc_conv_args *, sc_error *);
    sc_status (*grow)(sc_device *, const sc_grow_args *, sc_error *);
    sc_status (*pool)(sc_device *, const sc_pool_args *, sc_error *);
    sc_status (*pixels)(sc_device *, const sc_pixels_args *, sc_error *);

    void (*close)(sc_device *);
    void (*loaded)(sc_device *); /* all weights are there: what only matrix_create and filter_create need is given back. NULL: nothing is */

    /* NULL on a device that cannot run the Wan VAE. conv3 takes filters of filter_create with taps, time_stride, pad_end. */
    sc_status (*conv3)(sc_device *, const sc_conv3_args *, sc_error *);
    sc_status (*channel_norm)(sc_device *, const sc_channel_norm_args *, sc_error *);
    sc_status (*frame_attention)(sc_device *, const sc_frame_attention_args *, sc_error *);
    sc_status (*planes_in)(sc_device *, const sc_planes_in_args *, sc_error *);

    /* NULL, all of them, on a device whose calls have finished when they return. */
    sc_status (*beside)(sc_device *, sc_device **out, sc_error *); /* another queue, served before this one where both have work; close it first */
    sc_status (*mark_create)(sc_device *, sc_mark **out, sc_error *);
    void (*mark_destroy)(sc_device *, sc_mark *);                  /* NULL is fine */
    sc_status (*mark)(sc_device *, sc_mark *, sc_error *);         /* the mark stands behind all that was called so far, wherever it stood before */
    sc_status (*after)(sc_device *, sc_mark *, sc_error *);        /* what is called from now on begins when the mark has been passed */
    sc_status (*wait)(sc_device *, sc_mark *, sc_error *);         /* the caller waits until then */
    bool (*passed)(sc_device *, const sc_mark *);                  /* wait would not wait; also when it would fail */
    sc_status (*elapsed)(sc_device *, sc_mark *from, sc_mark *to, uint64_t *ns, sc_error *); /* on the device, between two marks that it has passed */
    sc_status (*fetch)(sc_device *, void *host, const void *src, size_t bytes, sc_error *); /* download to memory of alloc_host that does not wait */
    sc_status (*replay)(sc_device *, const sc_replay_args *, sc_error *);
} sc_ops;

/* The operations of the table that take one struct of arguments, for whoever stands in front of all of them. X(name, type of the arguments). */
#define SC_OPS_WITH_ARGS(X) \
    X(linear, sc_linear_args) X(layer_norm, sc_layer_norm_args) X(rms_norm, sc_rms_norm_args) X(qkv, sc_qkv_args) X(select, sc_select_args) \
    X(attention, sc_attention_args) X(memory_update, sc_memory_update_args) X(cross_attention, sc_cross_attention_args) \
    X(fold, sc_fold_args) X(query_keys, sc_query_keys_args) X(query_weights, sc_query_weights_args) X(text_attention, sc_text_attention_args) X(patchify, sc_patch_args) X(unpatchify, sc_patch_args) X(noise, sc_noise_args) \
    X(denoise, sc_denoise_args) \
    X(latent_in, sc_latent_in_args) X(conv, sc_conv_args) X(grow, sc_grow_args) X(pool, sc_pool_args) X(pixels, sc_pixels_args) X(conv3, sc_conv3_args) \
    X(channel_norm, sc_channel_norm_args) X(frame_attention, sc_frame_attention_args) X(planes_in, sc_planes_in_args)

/* A device begins with this; a backend embeds it as its first member. */
struct sc_device {
    const sc_ops *ops;
    sc_dtype act;
    bool in_place;  /* BF16 matrices whose data stays are used where they lie: nothing is copied */
    bool conv_deals; /* conv takes sc_conv_args.s */
    char name[128]; /* "AMD EPYC, 2 threads, avx512", "NVIDIA H100 80GB HBM3" */
};

/* Devices. threads < 1: one per core. `act`: SC_F16 or SC_BF16 for CUDA (the CPU ignores it). Errors: SC_EINVAL for an unknown
 * kind, SC_EGPU when CUDA is not built in or there is no card. */
sc_status sc_device_open(sc_device **out, const char *kind /* "cpu", "twin", "cuda" */, int threads, sc_dtype act, sc_error *err);
void sc_device_close(sc_device *dev);

/* Backends (used by sc_device_open). */
sc_status sc_cpu_open(sc_device **out, int threads, sc_error *err);
sc_status sc_twin_open(sc_device **out, sc_error *err);
sc_status sc_cuda_open(sc_device **out, sc_dtype act, sc_error *err);

/* The pieces of the twin that other tables borrow for operations that are not worth a fast version. */
extern const sc_ops sc_twin_ops;

#ifdef __cplusplus
}
#endif
#endif

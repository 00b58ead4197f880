/* transformer.h - the Wan-layout causal transformer: weights, what depends on a timestep, what depends on a prompt, one pass.
 *
 * Source: Self-Forcing, wan/modules/causal_model.py; tests/vectors/README.md has the semantics step by step. All numbers come from
 * the config; nothing about a model is compiled in. Thread: engine. */
#ifndef SC_ENGINE_TRANSFORMER_H
#define SC_ENGINE_TRANSFORMER_H
#include "engine/safetensors.h"
#include "kernels/ops.h"

typedef struct {
    int dim, heads, head_dim, ffn_dim, layers, text_dim, text_len, freq_dim, in_ch, out_ch, patch_h, patch_w;
    double eps;
} sc_dit_shape;

typedef struct {
    sc_matrix *qkv, *o, *cross_q, *cross_k, *cross_v, *cross_o, *ffn_up, *ffn_down;
    sc_query *query;                                                         /* of cross_q; NULL: the device has none */
    float *norm_q, *norm_k, *cross_norm_q, *cross_norm_k, *norm3_w, *norm3_b; /* device f32 */
    float *modulation;                                                       /* host f32 [6][dim] */
} sc_dit_layer;

/* Where rows of text become keys and values: for one prompt at a time, in the order of prompt_dev. */
typedef struct {
    float *host;             /* [text_len][text_dim]: rows on their way; contents are not kept */
    float *in, *text, *key;  /* device f32 [text_len][text_dim], [text_len][dim], [text_len][dim] */
    void *in_act, *hidden, *text_act; /* device act, of the same shapes */
    uint64_t plans;          /* made so far */
    sc_mark *made;           /* NULL: prompt_dev is dev, or calls have finished when they return */
} sc_prompt_work;

typedef struct {
    sc_device *dev, *prompt_dev; /* prompt_dev: where prompts become keys and values: another queue of dev, or dev */
    sc_dit_shape shape;
    sc_dit_layer *layer;
    sc_matrix *patch, *text0, *text2, *head;
    sc_prompt_work *prompt;
    float *pos;              /* device f32 [tokens of a frame][dim], or NULL when the model has none */
    int64_t pos_rows;
    float *head_modulation;  /* host f32 [2][dim] */
    float *time0_w, *time0_b, *time2_w, *time2_b, *proj_w, *proj_b; /* host f32: the time MLP runs in f32 whatever the device */
    long parameters;
} sc_dit;

/* Tensors are looked up as PREFIX + original Wan name. Errors name the tensor. */
sc_status sc_dit_load(sc_dit **out, sc_device *dev, const sc_tensors *set, const char *prefix, const sc_dit_shape *shape, sc_error *err);
void sc_dit_close(sc_dit *dit);

/* Floats of one row of the modulation table: [layers][6][dim] (shift1 scale1 gate1 shift2 scale2 gate2), then head [2][dim]. */
size_t sc_dit_mod_row(const sc_dit *dit);

/* out (host) = that row for a timestep (0..1000, any real). e, e0 (host [dim], [6 dim]) may be NULL: the time embedding and its
 * projection. Double accumulation. */
sc_status sc_dit_modulation(const sc_dit *dit, double timestep, float *out, float *e, float *e0, sc_error *err);

/* Cross-attention keys and values of one prompt in every layer. Of a prompt so short that the device gains by it the values are folded into the
 * product behind the attention (kernels/ops.h, fold), and where the device can the keys into the one before (query_keys). */
typedef struct {
    void *kv;          /* device act [layers][2][rows][dim], and behind it what the folds are made in, and the folded keys */
    char *keys;        /* of the folded keys of layer 0, those of layer l at l * keys_bytes; NULL without */
    size_t keys_bytes;
    sc_matrix **fold;  /* [layers], or NULL */
    int stride;        /* of the folds; 0 without */
    size_t bytes;      /* of the device's memory */
    uint64_t serial;   /* no other one of the model has it: it stands for all addresses */
    int rows;          /* real tokens, and one more that stands for all padding rows when there are any */
    float last_bias;   /* log of the number of rows the last one stands for */
} sc_cross;

/* plan: memory for a prompt of n tokens, 1 <= n <= text_len. collapse false: all text_len rows are kept (the long form, for tests).
 * write: keys and values out of emb (host f32) [n][text_dim], the encoder's rows of the real tokens; n as planned. It neither allocates nor waits,
 * and may be called again: the caller sees to it that prompt_dev comes behind what reads the old ones (after). dev goes on behind both.
 * create: both. Also used: sc_dit_text, the embedded rows [rows][dim] (host f32 out) alone. */
sc_status sc_cross_plan(const sc_dit *dit, int n, bool collapse, sc_cross *out, sc_error *err);
sc_status sc_cross_write(const sc_dit *dit, const sc_cross *c, const float *emb, int n, sc_error *err);
sc_status sc_cross_create(const sc_dit *dit, const float *emb, int n, bool collapse, sc_cross *out, sc_error *err);
void sc_cross_free(const sc_dit *dit, sc_cross *c); /* a zeroed one is fine */
sc_status sc_dit_text(const sc_dit *dit, const float *emb, int n, int rows, float *out, sc_error *err);

/* How the tokens of a chunk are ordered and grouped, with the tables that follow from it. One per model (sc_layout_*). */
typedef struct {
    int frames, rows, cols, tokens;   /* token grid of a chunk */
    sc_blocks blocks;
    int block_max;                    /* longest block */
    int32_t *order;                   /* device [tokens]: (frame * rows + row) * cols + col */
    int32_t *order_host, *start_host;
    int32_t *pos_row;                 /* device [tokens]: row * cols + col, for pos_embedding */
    float *in_chunk;                  /* device [tokens][head_dim / 2][2] */
    double theta[SC_MAX_ROPE_PAIRS];
    sc_rope rope;
} sc_layout;

/* tile {frames, rows, cols} > 0: blocks are tiles (tile row, tile column; inside frame, row, column). tile NULL: blocks are runs of
 * at most 64 tokens of one frame in raster order. first_frame: place of the chunk's first frame in the in-chunk table (0). */
sc_status sc_layout_create(sc_layout **out, sc_device *dev, int frames, int rows, int cols, const int *tile, int head_dim, int max_distance,
                           sc_error *err);
void sc_layout_free(sc_layout *layout, sc_device *dev);

/* What a pass leaves for whoever looks on (vectors, memory map): called with device pointers, valid during the call. */
typedef enum {
    SC_TAP_X_IN, SC_TAP_AFTER_SELF, SC_TAP_AFTER_CROSS, SC_TAP_OUT, /* f32 [rows][dim] */
    SC_TAP_SELECT,                                                  /* score and list are fresh */
    SC_TAP_UPDATE                                                   /* mass and kept are fresh */
} sc_tap;

/* Work memory of a pass for up to `batch` sequences. */
typedef struct {
    int batch, tokens, score_stride, list_stride;
    float *x, *rep_q, *score, *mass, *head;
    void *norm, *qkv, *q, *heads_out, *ffn;
    sc_dtype qkv_type;
    int32_t *list, *kept;
    size_t bytes;
} sc_work;
sc_status sc_work_create(sc_work **out, const sc_dit *dit, const sc_layout *layout, int batch, int slots, int persistent_max, sc_error *err);
void sc_work_free(sc_work *w, sc_device *dev);

typedef struct {
    int seqs;
    const sc_layout *layout;
    sc_pages pages;
    sc_kv_view view[SC_MAX_BATCH];   /* of layer 0; layer l's slots follow at l * heads * slot_stride */
    const sc_cross *cross[SC_MAX_BATCH];
    const float *mods;               /* device [any][sc_dit_mod_row] */
    const int32_t *row_mod;          /* device [seqs * tokens]; NULL: row 0 for all */
    const float *latent[SC_MAX_BATCH]; /* device f32 [in_ch][frames][h][w] */
    float *flow[SC_MAX_BATCH];         /* device f32 [out_ch][frames][h][w]; NULL for all: the pass only writes the memory */
    bool sparse;                     /* selection, else every slot is attended */
    int keep[SC_MAX_BATCH];
    bool update[SC_MAX_BATCH];       /* age the memory after this pass (clean pass, full window) */
    int capacity;                    /* C */
    void (*tap)(void *ctx, sc_tap tap, int layer, const sc_work *w);
    void *tap_ctx;
} sc_pass_args;

/* Products with folded keys and values of every stride once, `w` being free: a device may time a product when it first sees its shape. */
sc_status sc_dit_warm(const sc_dit *dit, sc_work *w, sc_error *err);

/* One pass of the transformer over the chunks of `seqs` sequences. */
sc_status sc_dit_pass(const sc_dit *dit, sc_work *w, const sc_pass_args *a, sc_error *err);

#endif

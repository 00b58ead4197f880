/* import_make.h - tiny random checkpoints in every layout and naming, for the tests of the importer.
 *
 * Written from the description of the public checkpoints (names and shapes), not from the reader: own lists, own safetensors, ZIP
 * and pickle writers. Every value is k/16 with |k| <= 15, which all float types hold exactly (F8_E4M3 too), so that every layout of
 * one model must come out the same to the last bit. A value depends on the tensor's original name and the element's index alone.
 * Header only, included by one test program at a time. */
#ifndef TESTS_IMPORT_MAKE_H
#define TESTS_IMPORT_MAKE_H
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include "base/dtype.h"
#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- tensors of the families ------------------------------------------------------------------------------------------------ */

typedef struct {
    char wan[128], other[2][128];   /* original name; diffusers or Hugging Face; FastVideo */
    int rank;
    int64_t shape[5];
} mk_tensor;

typedef struct { mk_tensor t[2048]; int n; } mk_list;

static inline int64_t mk_count(const mk_tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->shape[i];
    return n;
}

/* Names hold '#', replaced by the layer. "" means the same as the original. */
static inline void mk_add(mk_list *l, int layer, const char *wan, const char *a, const char *b, int rank, ...) {
    mk_tensor *t = &l->t[l->n++];
    const char *form[3] = {wan, *a ? a : wan, *b ? b : wan};
    char *out[3] = {t->wan, t->other[0], t->other[1]};
    va_list args;

    assert_true(l->n <= 2048);
    for (int i = 0; i < 3; i++) {
        const char *mark = strchr(form[i], '#');
        if (mark) snprintf(out[i], 128, "%.*s%d%s", (int)(mark - form[i]), form[i], layer, mark + 1);
        else snprintf(out[i], 128, "%s", form[i]);
    }
    va_start(args, rank);
    t->rank = rank;
    for (int i = 0; i < rank; i++) t->shape[i] = va_arg(args, int);
    va_end(args);
}

static inline void mk_pair(mk_list *l, int layer, const char *wan, const char *a, const char *b, int rows, int cols) {
    char w[3][128], v[3][128]; /* bases are shorter than 100 */
    const char *base[3] = {wan, *a ? a : wan, *b ? b : wan};
    for (int i = 0; i < 3; i++) {
        snprintf(w[i], 128, "%.110s.weight", base[i]);
        snprintf(v[i], 128, "%.110s.bias", base[i]);
    }
    mk_add(l, layer, w[0], w[1], w[2], 2, rows, cols);
    mk_add(l, layer, v[0], v[1], v[2], 1, rows);
}

static inline void mk_dit(mk_list *l, int D, int F, int layers, int text, int freq, int ch) {
    l->n = 0;
    mk_add(l, 0, "patch_embedding.weight", "", "patch_embedding.proj.weight", 5, D, ch, 1, 2, 2);
    mk_add(l, 0, "patch_embedding.bias", "", "patch_embedding.proj.bias", 1, D);
    mk_pair(l, 0, "text_embedding.0", "condition_embedder.text_embedder.linear_1", "condition_embedder.text_embedder.fc_in", D, text);
    mk_pair(l, 0, "text_embedding.2", "condition_embedder.text_embedder.linear_2", "condition_embedder.text_embedder.fc_out", D, D);
    mk_pair(l, 0, "time_embedding.0", "condition_embedder.time_embedder.linear_1", "condition_embedder.time_embedder.mlp.fc_in", D, freq);
    mk_pair(l, 0, "time_embedding.2", "condition_embedder.time_embedder.linear_2", "condition_embedder.time_embedder.mlp.fc_out", D, D);
    mk_pair(l, 0, "time_projection.1", "condition_embedder.time_proj", "condition_embedder.time_modulation.linear", 6 * D, D);
    for (int i = 0; i < layers; i++) {
        static const char *const part[] = {"q", "k", "v", "o"};
        char w[128], a[128], b[128];
        mk_add(l, i, "blocks.#.modulation", "blocks.#.scale_shift_table", "blocks.#.scale_shift_table", 3, 1, 6, D);
        for (int cross = 0; cross < 2; cross++) {
            for (int p = 0; p < 4; p++) {
                snprintf(w, 128, "blocks.#.%s_attn.%s", cross ? "cross" : "self", part[p]);
                snprintf(a, 128, "blocks.#.attn%d.to_%s", cross + 1, p == 3 ? "out.0" : part[p]);
                snprintf(b, 128, "blocks.#.%sto_%s", cross ? "attn2." : "", p == 3 ? "out" : part[p]);
                mk_pair(l, i, w, a, b, D, D);
            }
            for (int p = 0; p < 2; p++) {
                snprintf(w, 128, "blocks.#.%s_attn.norm_%s.weight", cross ? "cross" : "self", part[p]);
                snprintf(a, 128, "blocks.#.attn%d.norm_%s.weight", cross + 1, part[p]);
                snprintf(b, 128, "blocks.#.%snorm_%s.weight", cross ? "attn2." : "", part[p]);
                mk_add(l, i, w, a, b, 1, D);
            }
        }
        mk_add(l, i, "blocks.#.norm3.weight", "blocks.#.norm2.weight", "blocks.#.self_attn_residual_norm.norm.weight", 1, D);
        mk_add(l, i, "blocks.#.norm3.bias", "blocks.#.norm2.bias", "blocks.#.self_attn_residual_norm.norm.bias", 1, D);
        mk_pair(l, i, "blocks.#.ffn.0", "blocks.#.ffn.net.0.proj", "blocks.#.ffn.fc_in", F, D);
        mk_pair(l, i, "blocks.#.ffn.2", "blocks.#.ffn.net.2", "blocks.#.ffn.fc_out", D, F);
    }
    mk_pair(l, 0, "head.head", "proj_out", "proj_out", ch * 4, D);
    mk_add(l, 0, "head.modulation", "scale_shift_table", "scale_shift_table", 3, 1, 2, D);
}

static inline void mk_t5(mk_list *l, int vocab, int D, int A, int F, int heads, int layers) {
    l->n = 0;
    mk_add(l, 0, "token_embedding.weight", "shared.weight", "", 2, vocab, D);
    for (int i = 0; i < layers; i++) {
        char w[64], h[96];
        mk_add(l, i, "blocks.#.norm1.weight", "encoder.block.#.layer.0.layer_norm.weight", "", 1, D);
        for (const char *p = "qkvo"; *p; p++) {
            snprintf(w, sizeof w, "blocks.#.attn.%c.weight", *p);
            snprintf(h, sizeof h, "encoder.block.#.layer.0.SelfAttention.%c.weight", *p);
            mk_add(l, i, w, h, "", 2, *p == 'o' ? D : A, *p == 'o' ? A : D);
        }
        mk_add(l, i, "blocks.#.pos_embedding.embedding.weight", "encoder.block.#.layer.0.SelfAttention.relative_attention_bias.weight", "", 2, 32, heads);
        mk_add(l, i, "blocks.#.norm2.weight", "encoder.block.#.layer.1.layer_norm.weight", "", 1, D);
        mk_add(l, i, "blocks.#.ffn.gate.0.weight", "encoder.block.#.layer.1.DenseReluDense.wi_0.weight", "", 2, F, D);
        mk_add(l, i, "blocks.#.ffn.fc1.weight", "encoder.block.#.layer.1.DenseReluDense.wi_1.weight", "", 2, F, D);
        mk_add(l, i, "blocks.#.ffn.fc2.weight", "encoder.block.#.layer.1.DenseReluDense.wo.weight", "", 2, D, F);
    }
    mk_add(l, 0, "norm.weight", "encoder.final_layer_norm.weight", "", 1, D);
}

/* NAME.weight [rows][cols][t][k][k] (t 0: no such axis) and NAME.bias. */
static inline void mk_conv(mk_list *l, const char *wan, const char *a, int rows, int cols, int t, int k) {
    char w[2][128], b[2][128];
    const char *other = *a ? a : wan;
    snprintf(w[0], 128, "%.110s.weight", wan);
    snprintf(w[1], 128, "%.110s.weight", other);
    snprintf(b[0], 128, "%.110s.bias", wan);
    snprintf(b[1], 128, "%.110s.bias", other);
    if (t) mk_add(l, 0, w[0], w[1], "", 5, rows, cols, t, k, k);
    else mk_add(l, 0, w[0], w[1], "", 4, rows, cols, k, k);
    mk_add(l, 0, b[0], b[1], "", 1, rows);
}

static inline void mk_res(mk_list *l, const char *wan, const char *a, int in, int out) {
    char w[128], o[128];
#define MK_NAME(x, y) (snprintf(w, 128, "%.100s." x, wan), snprintf(o, 128, "%.100s." y, a))
    MK_NAME("residual.0.gamma", "norm1.gamma");
    mk_add(l, 0, w, o, "", 4, in, 1, 1, 1);
    MK_NAME("residual.2", "conv1");
    mk_conv(l, w, o, out, in, 3, 3);
    MK_NAME("residual.3.gamma", "norm2.gamma");
    mk_add(l, 0, w, o, "", 4, out, 1, 1, 1);
    MK_NAME("residual.6", "conv2");
    mk_conv(l, w, o, out, out, 3, 3);
    if (in == out) return;
    MK_NAME("shortcut", "conv_shortcut");
    mk_conv(l, w, o, out, in, 1, 1);
}

static inline void mk_mid(mk_list *l, const char *half, int c) {
    char w[128], o[128];
#define MK_HALF(x, y) (snprintf(w, 128, "%s." x, half), snprintf(o, 128, "%s." y, half))
    MK_HALF("middle.0", "mid_block.resnets.0");
    mk_res(l, w, o, c, c);
    MK_HALF("middle.1.norm.gamma", "mid_block.attentions.0.norm.gamma");
    mk_add(l, 0, w, o, "", 3, c, 1, 1);
    MK_HALF("middle.1.to_qkv", "mid_block.attentions.0.to_qkv");
    mk_conv(l, w, o, 3 * c, c, 0, 1);
    MK_HALF("middle.1.proj", "mid_block.attentions.0.proj");
    mk_conv(l, w, o, c, c, 0, 1);
    MK_HALF("middle.2", "mid_block.resnets.1");
    mk_res(l, w, o, c, c);
}

/* Wan VAE of narrowest width w, latent z. */
static inline void mk_vae(mk_list *l, int w, int z) {
    static const struct { int index, in, out, level, block; } up[] = {{0, 4, 4, 0, 0}, {1, 4, 4, 0, 1}, {2, 4, 4, 0, 2}, {4, 2, 4, 1, 0}, {5, 4, 4, 1, 1},
        {6, 4, 4, 1, 2}, {8, 2, 2, 2, 0}, {9, 2, 2, 2, 1}, {10, 2, 2, 2, 2}, {12, 1, 1, 3, 0}, {13, 1, 1, 3, 1}, {14, 1, 1, 3, 2}};
    static const struct { int index, in, out; } down[] = {{0, 1, 1}, {1, 1, 1}, {3, 1, 2}, {4, 2, 2}, {6, 2, 4}, {7, 4, 4}, {9, 4, 4}, {10, 4, 4}};
    char a[128], b[128];
    l->n = 0;
    mk_conv(l, "conv1", "quant_conv", 2 * z, 2 * z, 1, 1);
    mk_conv(l, "conv2", "post_quant_conv", z, z, 1, 1);
    mk_conv(l, "encoder.conv1", "encoder.conv_in", w, 3, 3, 3);
    for (size_t i = 0; i < sizeof down / sizeof *down; i++) {
        snprintf(a, 128, "encoder.downsamples.%d", down[i].index);
        snprintf(b, 128, "encoder.down_blocks.%d", down[i].index);
        mk_res(l, a, b, down[i].in * w, down[i].out * w);
    }
    mk_conv(l, "encoder.downsamples.2.resample.1", "encoder.down_blocks.2.resample.1", w, w, 0, 3);
    mk_conv(l, "encoder.downsamples.5.resample.1", "encoder.down_blocks.5.resample.1", 2 * w, 2 * w, 0, 3);
    mk_conv(l, "encoder.downsamples.5.time_conv", "encoder.down_blocks.5.time_conv", 2 * w, 2 * w, 3, 1);
    mk_conv(l, "encoder.downsamples.8.resample.1", "encoder.down_blocks.8.resample.1", 4 * w, 4 * w, 0, 3);
    mk_conv(l, "encoder.downsamples.8.time_conv", "encoder.down_blocks.8.time_conv", 4 * w, 4 * w, 3, 1);
    mk_mid(l, "encoder", 4 * w);
    mk_add(l, 0, "encoder.head.0.gamma", "encoder.norm_out.gamma", "", 4, 4 * w, 1, 1, 1);
    mk_conv(l, "encoder.head.2", "encoder.conv_out", 2 * z, 4 * w, 3, 3);
    mk_conv(l, "decoder.conv1", "decoder.conv_in", 4 * w, z, 3, 3);
    mk_mid(l, "decoder", 4 * w);
    for (size_t i = 0; i < sizeof up / sizeof *up; i++) {
        snprintf(a, 128, "decoder.upsamples.%d", up[i].index);
        snprintf(b, 128, "decoder.up_blocks.%d.resnets.%d", up[i].level, up[i].block);
        mk_res(l, a, b, up[i].in * w, up[i].out * w);
    }
    mk_conv(l, "decoder.upsamples.3.resample.1", "decoder.up_blocks.0.upsamplers.0.resample.1", 2 * w, 4 * w, 0, 3);
    mk_conv(l, "decoder.upsamples.3.time_conv", "decoder.up_blocks.0.upsamplers.0.time_conv", 8 * w, 4 * w, 3, 1);
    mk_conv(l, "decoder.upsamples.7.resample.1", "decoder.up_blocks.1.upsamplers.0.resample.1", 2 * w, 4 * w, 0, 3);
    mk_conv(l, "decoder.upsamples.7.time_conv", "decoder.up_blocks.1.upsamplers.0.time_conv", 8 * w, 4 * w, 3, 1);
    mk_conv(l, "decoder.upsamples.11.resample.1", "decoder.up_blocks.2.upsamplers.0.resample.1", w, 2 * w, 0, 3);
    mk_add(l, 0, "decoder.head.0.gamma", "decoder.norm_out.gamma", "", 4, w, 1, 1, 1);
    mk_conv(l, "decoder.head.2", "decoder.conv_out", 3, w, 3, 3);
}

/* TAEHV with decoder widths w[4], encoder width e. halves: 1 decoder, 2 encoder, 3 both. */
static inline void mk_tae(mk_list *l, const int *w, int e, int z, int halves) {
    static const int grow[] = {1, 2, 2}, pool[] = {2, 2, 1};
    char a[64];
    l->n = 0;
    if (halves & 1) {
        mk_conv(l, "decoder.1", "", w[0], z, 0, 3);
        for (int v = 0; v < 3; v++) {
            for (int b = 0; b < 3; b++)
                for (int c = 0; c < 3; c++) {
                    snprintf(a, 64, "decoder.%d.conv.%d", 3 + 6 * v + b, 2 * c);
                    mk_conv(l, a, "", w[v], c ? w[v] : 2 * w[v], 0, 3);
                }
            snprintf(a, 64, "decoder.%d.conv.weight", 7 + 6 * v);
            mk_add(l, 0, a, "", "", 4, w[v] * grow[v], w[v], 1, 1);
            snprintf(a, 64, "decoder.%d.weight", 8 + 6 * v);
            mk_add(l, 0, a, "", "", 4, w[v + 1], w[v], 3, 3);
        }
        mk_conv(l, "decoder.22", "", 3, w[3], 0, 3);
    }
    if (halves & 2) {
        mk_conv(l, "encoder.0", "", e, 3, 0, 3);
        for (int v = 0; v < 3; v++) {
            snprintf(a, 64, "encoder.%d.conv.weight", 2 + 5 * v);
            mk_add(l, 0, a, "", "", 4, e, e * pool[v], 1, 1);
            snprintf(a, 64, "encoder.%d.weight", 3 + 5 * v);
            mk_add(l, 0, a, "", "", 4, e, e, 3, 3);
            for (int b = 0; b < 3; b++)
                for (int c = 0; c < 3; c++) {
                    snprintf(a, 64, "encoder.%d.conv.%d", 4 + 5 * v + b, 2 * c);
                    mk_conv(l, a, "", e, c ? e : 2 * e, 0, 3);
                }
        }
        mk_conv(l, "encoder.17", "", z, e, 0, 3);
    }
}

/* ---- values ----------------------------------------------------------------------------------------------------------------- */

static inline uint32_t mk_hash(const char *s) {
    uint32_t h = 2166136261u;
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 16777619u;
    return h;
}

/* In sixteenths, -15 to 15. */
static inline int mk_value(uint32_t hash, int64_t i) {
    uint64_t x = hash + (uint64_t)i * 0x9e3779b97f4a7c15u;
    x ^= x >> 29;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 32;
    return (int)(x % 31) - 15;
}

/* k/16, |k| <= 15, in the given type. */
static inline void mk_put(uint8_t *p, sc_dtype type, int k) {
    float f = (float)k / 16;
    double d = f;
    uint32_t u;
    int exp = 0, man = abs(k);
    memcpy(&u, &f, 4);
    switch (type) {
    case SC_F32: memcpy(p, &f, 4); break;
    case SC_F64: memcpy(p, &d, 8); break;
    case SC_BF16: p[0] = (uint8_t)(u >> 16); p[1] = (uint8_t)(u >> 24); break;
    case SC_F16: {
        uint32_t h = k ? (u >> 31 << 15) | ((u >> 23 & 255) - 112) << 10 | (u >> 13 & 1023) : 0;
        p[0] = (uint8_t)h;
        p[1] = (uint8_t)(h >> 8);
        break;
    }
    case SC_F8_E4M3: /* 1.mmm x 2^(e - 7) */
        if (!k) { *p = 0; break; }
        while (man < 8) { man *= 2; exp--; }
        *p = (uint8_t)((k < 0 ? 0x80 : 0) | (exp + 3 - 4 + 7) << 3 | (man & 7));
        break;
    default: fail_msg("no such type here");
    }
}

/* ---- files ------------------------------------------------------------------------------------------------------------------ */

typedef struct { uint8_t *b; size_t n, room; } mk_buf;

static inline void mk_bytes(mk_buf *o, const void *p, size_t n) {
    if (o->n + n > o->room) {
        o->room = (o->n + n) * 2 + 256;
        o->b = realloc(o->b, o->room);
        assert_non_null(o->b);
    }
    if (n) memcpy(o->b + o->n, p, n);
    o->n += n;
}
static inline void mk_int(mk_buf *o, uint64_t v, int bytes) { for (int i = 0; i < bytes; i++) mk_bytes(o, &(uint8_t){(uint8_t)(i < 8 ? v >> (8 * i) : 0)}, 1); }
static inline void mk_text(mk_buf *o, const char *s) { mk_bytes(o, s, strlen(s)); }

static inline void mk_save(const char *path, const mk_buf *o) {
    char dir[512];
    FILE *f;
    snprintf(dir, sizeof dir, "%s", path);
    for (char *p = dir + 1; *p; p++)
        if (*p == '/') { *p = 0; assert_true(!mkdir(dir, 0755) || errno == EEXIST); *p = '/'; }
    f = fopen(path, "wb");
    assert_non_null(f);
    if (o->n) assert_int_equal(fwrite(o->b, 1, o->n, f), o->n);
    assert_int_equal(fclose(f), 0);
}

/* One tensor as a file stores it. */
typedef struct {
    char name[256];
    sc_dtype dtype;
    int rank;
    int64_t shape[5], stride[5];
    mk_buf data;          /* of its storage */
    int64_t storage_count, offset;
    int shared_with;      /* index of the item whose storage it uses; -1: its own */
} mk_item;

typedef struct { mk_item *t; int n, room; } mk_file;

static inline mk_item *mk_new(mk_file *f, const char *name, sc_dtype type, int rank, const int64_t *shape) {
    if (f->n == f->room) {
        f->room = f->room * 2 + 64;
        f->t = realloc(f->t, (size_t)f->room * sizeof *f->t);
        assert_non_null(f->t);
    }
    mk_item *t = &f->t[f->n++];
    memset(t, 0, sizeof *t);
    snprintf(t->name, sizeof t->name, "%s", name);
    t->dtype = type;
    t->rank = rank;
    t->shared_with = -1;
    int64_t step = 1;
    for (int i = rank - 1; i >= 0; i--) {
        t->shape[i] = shape[i];
        t->stride[i] = step;
        step *= shape[i];
    }
    t->storage_count = step;
    return t;
}

enum { MK_TRANSPOSED = 1, MK_SCALED = 2 };

/* The tensor under `name`, its values times 2^-shift of what `hash` gives when scaled by 2^shift (fp8). */
static inline void mk_tensor_item(mk_file *f, const char *name, const mk_tensor *t, sc_dtype type, int how) {
    mk_item *o = mk_new(f, name, type, t->rank, t->shape);
    const uint32_t h = mk_hash(t->wan);
    const size_t wide = sc_dtype_bytes(type);
    const int64_t n = mk_count(t);
    o->data.b = calloc((size_t)n + 1, wide);
    assert_non_null(o->data.b);
    o->data.n = (size_t)n * wide;
    if ((how & MK_TRANSPOSED) && t->rank == 2) {
        o->stride[0] = 1;
        o->stride[1] = t->shape[0];
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t at = t->rank == 2 ? i / t->shape[1] * o->stride[0] + i % t->shape[1] * o->stride[1] : i;
        mk_put(o->data.b + (size_t)at * wide, type, mk_value(h, i));
    }
}

static inline void mk_free(mk_file *f) {
    for (int i = 0; i < f->n; i++) free(f->t[i].data.b);
    free(f->t);
    memset(f, 0, sizeof *f);
}

static inline const char *mk_word(sc_dtype t) {
    return t == SC_F32 ? "F32" : t == SC_F16 ? "F16" : t == SC_BF16 ? "BF16" : t == SC_F64 ? "F64" : t == SC_U8 ? "U8" : t == SC_F8_E4M3 ? "F8_E4M3" : "I64";
}

/* Items [from, to) as safetensors. */
static inline void mk_safetensors(const char *path, const mk_file *f, int from, int to) {
    mk_buf head = {0}, out = {0};
    char line[512];
    size_t at = 0;
    mk_text(&head, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = from; i < to; i++) {
        const mk_item *t = &f->t[i];
        int n = snprintf(line, sizeof line, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name, mk_word(t->dtype));
        for (int k = 0; k < t->rank; k++) n += snprintf(line + n, sizeof line - (size_t)n, "%s%lld", k ? "," : "", (long long)t->shape[k]);
        snprintf(line + n, sizeof line - (size_t)n, "],\"data_offsets\":[%zu,%zu]}", at, at + t->data.n);
        mk_text(&head, line);
        at += t->data.n;
    }
    mk_text(&head, "}");
    mk_int(&out, head.n, 8);
    mk_bytes(&out, head.b, head.n);
    for (int i = from; i < to; i++) mk_bytes(&out, f->t[i].data.b, f->t[i].data.n);
    mk_save(path, &out);
    free(head.b);
    free(out.b);
}

/* ---- ZIP -------------------------------------------------------------------------------------------------------------------- */

static inline uint32_t mk_crc(const void *data, size_t n) {
    const uint8_t *p = data;
    uint32_t c = ~0u;
    while (n--) {
        c ^= *p++;
        for (int k = 0; k < 8; k++) c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
    }
    return ~c;
}

typedef struct { char name[600]; size_t name_n; uint32_t crc, method, flags; uint64_t header, usize, csize; } mk_entry;
typedef struct { mk_buf out; mk_entry *e; int n, room; bool streamed, zip64; } mk_zip;

static inline mk_entry *mk_zip_add(mk_zip *z, const char *name, const void *data, size_t n) {
    if (z->n == z->room) {
        z->room = z->room * 2 + 64;
        z->e = realloc(z->e, (size_t)z->room * sizeof *z->e);
        assert_non_null(z->e);
    }
    mk_entry *e = &z->e[z->n++];
    memset(e, 0, sizeof *e);
    e->name_n = strlen(name);
    assert_true(e->name_n < sizeof e->name);
    memcpy(e->name, name, e->name_n);
    e->crc = mk_crc(data, n);
    e->flags = z->streamed ? 0x808 : 0x800;
    e->header = z->out.n;
    e->usize = e->csize = n;
    /* Data starts at a multiple of 64 by an extra field, as PyTorch aligns it. */
    size_t pad = (64 - (z->out.n + 30 + e->name_n + 4) % 64) % 64;
    mk_int(&z->out, 0x04034b50, 4);
    mk_int(&z->out, 20, 2);
    mk_int(&z->out, e->flags, 2);
    mk_int(&z->out, 0, 2);
    mk_int(&z->out, 0, 4);
    mk_int(&z->out, z->streamed ? 0 : e->crc, 4);
    mk_int(&z->out, z->streamed ? 0 : n, 4);
    mk_int(&z->out, z->streamed ? 0 : n, 4);
    mk_int(&z->out, e->name_n, 2);
    mk_int(&z->out, pad + 4, 2);
    mk_bytes(&z->out, name, e->name_n);
    mk_int(&z->out, 0x4246, 2);
    mk_int(&z->out, pad, 2);
    for (size_t i = 0; i < pad; i++) mk_text(&z->out, "Z");
    mk_bytes(&z->out, data, n);
    if (z->streamed && n) {
        mk_int(&z->out, 0x08074b50, 4);
        mk_int(&z->out, e->crc, 4);
        mk_int(&z->out, n, z->zip64 ? 8 : 4);
        mk_int(&z->out, n, z->zip64 ? 8 : 4);
    }
    return e;
}

static inline void mk_zip_end(mk_zip *z) {
    const uint64_t at = z->out.n;
    for (int i = 0; i < z->n; i++) {
        const mk_entry *e = &z->e[i];
        mk_int(&z->out, 0x02014b50, 4);
        mk_int(&z->out, 20, 2);
        mk_int(&z->out, 20, 2);
        mk_int(&z->out, e->flags, 2);
        mk_int(&z->out, e->method, 2);
        mk_int(&z->out, 0, 4);
        mk_int(&z->out, e->crc, 4);
        mk_int(&z->out, z->zip64 ? 0xffffffff : e->csize, 4);
        mk_int(&z->out, z->zip64 ? 0xffffffff : e->usize, 4);
        mk_int(&z->out, e->name_n, 2);
        mk_int(&z->out, z->zip64 ? 28 : 0, 2);
        mk_int(&z->out, 0, 2 + 2 + 2 + 4);
        mk_int(&z->out, z->zip64 ? 0xffffffff : e->header, 4);
        mk_bytes(&z->out, e->name, e->name_n);
        if (!z->zip64) continue;
        mk_int(&z->out, 1, 2);
        mk_int(&z->out, 24, 2);
        mk_int(&z->out, e->usize, 8);
        mk_int(&z->out, e->csize, 8);
        mk_int(&z->out, e->header, 8);
    }
    const uint64_t end = z->out.n, size = end - at;
    if (z->zip64) {
        mk_int(&z->out, 0x06064b50, 4);
        mk_int(&z->out, 44, 8);
        mk_int(&z->out, 45, 2);
        mk_int(&z->out, 45, 2);
        mk_int(&z->out, 0, 8);
        mk_int(&z->out, (uint64_t)z->n, 8);
        mk_int(&z->out, (uint64_t)z->n, 8);
        mk_int(&z->out, size, 8);
        mk_int(&z->out, at, 8);
        mk_int(&z->out, 0x07064b50, 4);
        mk_int(&z->out, 0, 4);
        mk_int(&z->out, end, 8);
        mk_int(&z->out, 1, 4);
    }
    mk_int(&z->out, 0x06054b50, 4);
    mk_int(&z->out, 0, 4);
    mk_int(&z->out, z->zip64 ? 0xffff : (uint64_t)z->n, 2);
    mk_int(&z->out, z->zip64 ? 0xffff : (uint64_t)z->n, 2);
    mk_int(&z->out, z->zip64 ? 0xffffffff : size, 4);
    mk_int(&z->out, z->zip64 ? 0xffffffff : at, 4);
    mk_int(&z->out, 0, 2);
}

static inline void mk_zip_free(mk_zip *z) {
    free(z->out.b);
    free(z->e);
    memset(z, 0, sizeof *z);
}

/* ---- pickle ----------------------------------------------------------------------------------------------------------------- */

static inline void mk_pstr(mk_buf *o, const char *s) { mk_text(o, "X"); mk_int(o, strlen(s), 4); mk_text(o, s); }
static inline void mk_pint(mk_buf *o, int64_t v) {
    if (v >= 0 && v < 256) { mk_text(o, "K"); mk_int(o, (uint64_t)v, 1); }
    else if (v >= 0 && v < 65536) { mk_text(o, "M"); mk_int(o, (uint64_t)v, 2); }
    else if (v >= INT32_MIN && v <= INT32_MAX) { mk_text(o, "J"); mk_int(o, (uint64_t)v, 4); }
    else { mk_bytes(o, "\x8a\x08", 2); mk_int(o, (uint64_t)v, 8); }
}
static inline void mk_pdims(mk_buf *o, const int64_t *d, int rank) {
    if (rank == 0) { mk_text(o, ")"); return; }
    if (rank > 3) mk_text(o, "(");
    for (int i = 0; i < rank; i++) mk_pint(o, d[i]);
    mk_bytes(o, rank == 1 ? "\x85" : rank == 2 ? "\x86" : rank == 3 ? "\x87" : "t", 1);
}
static inline const char *mk_storage_type(sc_dtype t) {
    return t == SC_F32 ? "FloatStorage" : t == SC_F16 ? "HalfStorage" : t == SC_BF16 ? "BFloat16Storage" : t == SC_F64 ? "DoubleStorage" : t == SC_U8 ? "ByteStorage" : "LongStorage";
}

/* _rebuild_tensor_v2 (v3 for fp8) of item i, its storage under key "i" or the one it shares. */
static inline void mk_ptensor(mk_buf *o, const mk_file *f, int i) {
    const mk_item *t = &f->t[i];
    char key[16];
    bool fp8 = t->dtype == SC_F8_E4M3;
    snprintf(key, sizeof key, "%d", t->shared_with >= 0 ? t->shared_with : i);
    mk_text(o, fp8 ? "ctorch._utils\n_rebuild_tensor_v3\n((" : "ctorch._utils\n_rebuild_tensor_v2\n((");
    mk_pstr(o, "storage");
    if (fp8) mk_text(o, "ctorch.storage\nUntypedStorage\n");
    else { mk_text(o, "ctorch\n"); mk_text(o, mk_storage_type(t->dtype)); mk_text(o, "\n"); }
    mk_pstr(o, key);
    mk_pstr(o, "cpu");
    mk_pint(o, t->storage_count);
    mk_text(o, "tQ");
    mk_pint(o, t->offset);
    mk_pdims(o, t->shape, t->rank);
    mk_pdims(o, t->stride, t->rank);
    mk_bytes(o, "\x89" "ccollections\nOrderedDict\n)R", 28);
    if (fp8) mk_text(o, "ctorch\nfloat8_e4m3fn\n");
    mk_text(o, "tR");
}

/* data.pkl of nested dictionaries: each item's name up to the first '\1' is a top-level key, the rest the key inside. */
static inline void mk_pickle(mk_buf *o, const mk_file *f) {
    char open[64] = "";
    int memo = 0;
    bool inside = false;
    mk_bytes(o, "\x80\x02}q\x00(", 6);
    for (int i = 0; i < f->n; i++) {
        const char *cut = strchr(f->t[i].name, '\1'), *key = cut ? cut + 1 : f->t[i].name;
        char top[64] = "";
        if (cut) snprintf(top, sizeof top, "%.*s", (int)(cut - f->t[i].name), f->t[i].name);
        if (strcmp(top, open)) {
            if (inside) {
                /* what a state_dict carries besides: its _metadata */
                mk_text(o, "u}");
                mk_pstr(o, "_metadata");
                mk_text(o, "ccollections\nOrderedDict\n)Rsb");
            }
            inside = *top;
            if (inside) {
                mk_pstr(o, top);
                mk_text(o, "ccollections\nOrderedDict\n)Rr");
                mk_int(o, (uint64_t)++memo, 4);
                mk_text(o, "(");
            }
            snprintf(open, sizeof open, "%s", top);
        }
        mk_pstr(o, key);
        mk_ptensor(o, f, i);
    }
    if (inside) mk_text(o, "u");
    mk_pstr(o, "step");
    mk_pint(o, 70000);
    mk_pstr(o, "config");
    mk_text(o, "}");
    mk_text(o, "u.");
}

enum { MK_STREAMED = 1, MK_ZIP64 = 2 };

static inline void mk_archive(mk_buf *out, const mk_file *f, const mk_buf *pickle, int how) {
    mk_zip z = {.streamed = how & MK_STREAMED, .zip64 = how & MK_ZIP64};
    char name[64];
    mk_zip_add(&z, "archive/data.pkl", pickle->b, pickle->n);
    mk_zip_add(&z, "archive/byteorder", "little", 6);
    for (int i = 0; f && i < f->n; i++) {
        if (f->t[i].shared_with >= 0) continue;
        snprintf(name, sizeof name, "archive/data/%d", i);
        mk_zip_add(&z, name, f->t[i].data.b, f->t[i].data.n);
    }
    mk_zip_add(&z, "archive/version", "3\n", 2);
    mk_zip_end(&z);
    *out = z.out;
    free(z.e);
}

static inline void mk_pt(const char *path, const mk_file *f, int how) {
    mk_buf pickle = {0}, out = {0};
    mk_pickle(&pickle, f);
    mk_archive(&out, f, &pickle, how);
    mk_save(path, &out);
    free(pickle.b);
    free(out.b);
}

#endif

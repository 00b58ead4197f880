/* names.c - see names.h. One function a family writes its list down; nothing else knows these names. */
#include "import/names.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define S(size, factor) (-((int64_t)(size) * 1000 + (factor)))
#define D S(SC_S_DIM, 1)

/* One entry; names are formats that take `index`. */
static sc_status add(sc_name_list *l, int flags, int index, const char *a, const char *b, const char *c, int rank, const int64_t *dims, sc_error *err) {
    const char *form[SC_SPELLINGS] = {a, b, c};

    if (l->count == l->room) {
        int room = l->room ? 2 * l->room : 256;
        sc_name *more = realloc(l->names, (size_t)room * sizeof *more);
        if (!more) return sc_fail(err, SC_ENOMEM, "names: out of memory");
        l->names = more;
        l->room = room;
    }
    sc_name *n = &l->names[l->count++];
    memset(n, 0, sizeof *n);
    n->rank = rank;
    n->flags = flags;
    memcpy(n->dims, dims, (size_t)rank * sizeof *dims);
    for (int i = 0; i < SC_SPELLINGS; i++) {
        /* The forms below are literals with at most one %d. */
        const char *at = form[i] ? strstr(form[i], "%d") : NULL;
        if (at) snprintf(n->spelling[i], SC_NAME_ROOM, "%.*s%d%s", (int)(at - form[i]), form[i], index, at + 2);
        else if (form[i]) snprintf(n->spelling[i], SC_NAME_ROOM, "%s", form[i]);
    }
    return SC_OK;
}

#define DIMS(...) (const int64_t[]){__VA_ARGS__}, err
#define ADD(...) do { if ((rc = add(__VA_ARGS__))) return rc; } while (0)

/* A layer NAME.weight [rows][cols] and NAME.bias [rows]. */
static sc_status add_linear(sc_name_list *l, int index, const char *a, const char *b, const char *c, int64_t rows, int64_t cols, sc_error *err) {
    char form[2][SC_SPELLINGS][SC_NAME_ROOM];
    const char *base[SC_SPELLINGS] = {a, b, c};
    sc_status rc;

    for (int i = 0; i < SC_SPELLINGS; i++) {
        snprintf(form[0][i], SC_NAME_ROOM, "%s.weight", base[i]);
        snprintf(form[1][i], SC_NAME_ROOM, "%s.bias", base[i]);
    }
    ADD(l, 0, index, form[0][0], form[0][1], form[0][2], 2, DIMS(rows, cols));
    ADD(l, 0, index, form[1][0], form[1][1], form[1][2], 1, DIMS(rows));
    return SC_OK;
}

#define LINEAR(...) do { if ((rc = add_linear(__VA_ARGS__, err))) return rc; } while (0)

static sc_status dit_list(sc_name_list *l, sc_error *err) {
    const int64_t F = S(SC_S_FFN, 1), kv = D;
    sc_status rc;

    ADD(l, 0, 0, "patch_embedding.weight", "patch_embedding.weight", "patch_embedding.proj.weight", 5,
        DIMS(D, S(SC_S_IN, 1), S(SC_S_PATCH_T, 1), S(SC_S_PATCH_H, 1), S(SC_S_PATCH_W, 1)));
    ADD(l, 0, 0, "patch_embedding.bias", "patch_embedding.bias", "patch_embedding.proj.bias", 1, DIMS(D));
    LINEAR(l, 0, "text_embedding.0", "condition_embedder.text_embedder.linear_1", "condition_embedder.text_embedder.fc_in", D, S(SC_S_TEXT, 1));
    LINEAR(l, 0, "text_embedding.2", "condition_embedder.text_embedder.linear_2", "condition_embedder.text_embedder.fc_out", D, D);
    LINEAR(l, 0, "time_embedding.0", "condition_embedder.time_embedder.linear_1", "condition_embedder.time_embedder.mlp.fc_in", D, S(SC_S_FREQ, 1));
    LINEAR(l, 0, "time_embedding.2", "condition_embedder.time_embedder.linear_2", "condition_embedder.time_embedder.mlp.fc_out", D, D);
    LINEAR(l, 0, "time_projection.1", "condition_embedder.time_proj", "condition_embedder.time_modulation.linear", S(SC_S_DIM, 6), D);
    for (int i = 0; i < l->layers; i++) {
        ADD(l, 0, i, "blocks.%d.modulation", "blocks.%d.scale_shift_table", "blocks.%d.scale_shift_table", 3, DIMS(1, 6, D));
        LINEAR(l, i, "blocks.%d.self_attn.q", "blocks.%d.attn1.to_q", "blocks.%d.to_q", D, D);
        LINEAR(l, i, "blocks.%d.self_attn.k", "blocks.%d.attn1.to_k", "blocks.%d.to_k", D, D);
        LINEAR(l, i, "blocks.%d.self_attn.v", "blocks.%d.attn1.to_v", "blocks.%d.to_v", D, D);
        LINEAR(l, i, "blocks.%d.self_attn.o", "blocks.%d.attn1.to_out.0", "blocks.%d.to_out", D, D);
        ADD(l, 0, i, "blocks.%d.self_attn.norm_q.weight", "blocks.%d.attn1.norm_q.weight", "blocks.%d.norm_q.weight", 1, DIMS(D));
        ADD(l, 0, i, "blocks.%d.self_attn.norm_k.weight", "blocks.%d.attn1.norm_k.weight", "blocks.%d.norm_k.weight", 1, DIMS(D));
        LINEAR(l, i, "blocks.%d.cross_attn.q", "blocks.%d.attn2.to_q", "blocks.%d.attn2.to_q", D, D);
        LINEAR(l, i, "blocks.%d.cross_attn.k", "blocks.%d.attn2.to_k", "blocks.%d.attn2.to_k", D, kv);
        LINEAR(l, i, "blocks.%d.cross_attn.v", "blocks.%d.attn2.to_v", "blocks.%d.attn2.to_v", D, kv);
        LINEAR(l, i, "blocks.%d.cross_attn.o", "blocks.%d.attn2.to_out.0", "blocks.%d.attn2.to_out", D, D);
        ADD(l, 0, i, "blocks.%d.cross_attn.norm_q.weight", "blocks.%d.attn2.norm_q.weight", "blocks.%d.attn2.norm_q.weight", 1, DIMS(D));
        ADD(l, 0, i, "blocks.%d.cross_attn.norm_k.weight", "blocks.%d.attn2.norm_k.weight", "blocks.%d.attn2.norm_k.weight", 1, DIMS(D));
        /* The norm before cross-attention: third in the authors' count, second in diffusers'. */
        ADD(l, 0, i, "blocks.%d.norm3.weight", "blocks.%d.norm2.weight", "blocks.%d.self_attn_residual_norm.norm.weight", 1, DIMS(D));
        ADD(l, 0, i, "blocks.%d.norm3.bias", "blocks.%d.norm2.bias", "blocks.%d.self_attn_residual_norm.norm.bias", 1, DIMS(D));
        LINEAR(l, i, "blocks.%d.ffn.0", "blocks.%d.ffn.net.0.proj", "blocks.%d.ffn.fc_in", F, D);
        LINEAR(l, i, "blocks.%d.ffn.2", "blocks.%d.ffn.net.2", "blocks.%d.ffn.fc_out", D, F);
    }
    LINEAR(l, 0, "head.head", "proj_out", "proj_out", S(SC_S_OUT, 1), D);
    ADD(l, 0, 0, "head.modulation", "scale_shift_table", "scale_shift_table", 3, DIMS(1, 2, D));
    ADD(l, SC_NAME_OPTIONAL, 0, "pos_embedding", "pos_embedding", "pos_embedding", 2, DIMS(S(SC_S_POS, 1), D));
    return SC_OK;
}

static sc_status t5_list(sc_name_list *l, sc_error *err) {
    const int64_t A = S(SC_S_ATTN, 1), F = S(SC_S_FFN, 1);
    sc_status rc;

    ADD(l, 0, 0, "token_embedding.weight", "shared.weight", NULL, 2, DIMS(S(SC_S_VOCAB, 1), D));
    for (int i = 0; i < l->layers; i++) {
        ADD(l, 0, i, "blocks.%d.norm1.weight", "encoder.block.%d.layer.0.layer_norm.weight", NULL, 1, DIMS(D));
        ADD(l, 0, i, "blocks.%d.attn.q.weight", "encoder.block.%d.layer.0.SelfAttention.q.weight", NULL, 2, DIMS(A, D));
        ADD(l, 0, i, "blocks.%d.attn.k.weight", "encoder.block.%d.layer.0.SelfAttention.k.weight", NULL, 2, DIMS(A, D));
        ADD(l, 0, i, "blocks.%d.attn.v.weight", "encoder.block.%d.layer.0.SelfAttention.v.weight", NULL, 2, DIMS(A, D));
        ADD(l, 0, i, "blocks.%d.attn.o.weight", "encoder.block.%d.layer.0.SelfAttention.o.weight", NULL, 2, DIMS(D, A));
        ADD(l, 0, i, "blocks.%d.pos_embedding.embedding.weight", "encoder.block.%d.layer.0.SelfAttention.relative_attention_bias.weight", NULL, 2,
            DIMS(S(SC_S_BUCKETS, 1), S(SC_S_HEADS, 1)));
        ADD(l, 0, i, "blocks.%d.norm2.weight", "encoder.block.%d.layer.1.layer_norm.weight", NULL, 1, DIMS(D));
        ADD(l, 0, i, "blocks.%d.ffn.gate.0.weight", "encoder.block.%d.layer.1.DenseReluDense.wi_0.weight", NULL, 2, DIMS(F, D));
        ADD(l, 0, i, "blocks.%d.ffn.fc1.weight", "encoder.block.%d.layer.1.DenseReluDense.wi_1.weight", NULL, 2, DIMS(F, D));
        ADD(l, 0, i, "blocks.%d.ffn.fc2.weight", "encoder.block.%d.layer.1.DenseReluDense.wo.weight", NULL, 2, DIMS(D, F));
    }
    ADD(l, 0, 0, "norm.weight", "encoder.final_layer_norm.weight", NULL, 1, DIMS(D));
    return SC_OK;
}

/* ---- Wan VAE: 3x3x3 causal convolutions, widths 1, 2, 4, 4 times the narrowest ------------------------------------------------ */

#define C(factor) S(SC_S_WIDTH, factor)

/* a.weight of `rank` dimensions [rows][cols][rest...] and a.bias. */
static sc_status vae_conv(sc_name_list *l, int flags, const char *a, const char *b, int64_t rows, int64_t cols, int rank, int t, int hw, sc_error *err) {
    char x[SC_NAME_ROOM], y[SC_NAME_ROOM];
    const int64_t five[] = {rows, cols, t, hw, hw}, four[] = {rows, cols, hw, hw};
    sc_status rc;

    snprintf(x, sizeof x, "%s.weight", a);
    snprintf(y, sizeof y, "%s.weight", b);
    ADD(l, flags, 0, x, y, NULL, rank, rank == 5 ? five : four, err);
    snprintf(x, sizeof x, "%s.bias", a);
    snprintf(y, sizeof y, "%s.bias", b);
    ADD(l, flags, 0, x, y, NULL, 1, DIMS(rows));
    return SC_OK;
}

#define CONV(...) do { if ((rc = vae_conv(__VA_ARGS__, err))) return rc; } while (0)

static sc_status vae_residual(sc_name_list *l, int flags, const char *a, const char *b, int64_t in, int64_t out, sc_error *err) {
    char x[SC_NAME_ROOM], y[SC_NAME_ROOM];
    sc_status rc;

#define PART(ours, theirs) (snprintf(x, sizeof x, "%.100s." ours, a), snprintf(y, sizeof y, "%.100s." theirs, b))
    PART("residual.0.gamma", "norm1.gamma");
    ADD(l, flags, 0, x, y, NULL, 4, DIMS(in, 1, 1, 1));
    PART("residual.2", "conv1");
    CONV(l, flags, x, y, out, in, 5, 3, 3);
    PART("residual.3.gamma", "norm2.gamma");
    ADD(l, flags, 0, x, y, NULL, 4, DIMS(out, 1, 1, 1));
    PART("residual.6", "conv2");
    CONV(l, flags, x, y, out, out, 5, 3, 3);
    if (in != out) {
        PART("shortcut", "conv_shortcut");
        CONV(l, flags, x, y, out, in, 5, 1, 1);
    }
    return SC_OK;
}

#define RESIDUAL(...) do { if ((rc = vae_residual(__VA_ARGS__, err))) return rc; } while (0)

/* The middle is the same in both halves. */
static sc_status vae_middle(sc_name_list *l, int flags, const char *half, sc_error *err) {
    char x[SC_NAME_ROOM], y[SC_NAME_ROOM];
    sc_status rc;

#define HALF(ours, theirs) (snprintf(x, sizeof x, "%.10s." ours, half), snprintf(y, sizeof y, "%.10s." theirs, half))
    HALF("middle.0", "mid_block.resnets.0");
    RESIDUAL(l, flags, x, y, C(4), C(4));
    HALF("middle.1.norm.gamma", "mid_block.attentions.0.norm.gamma");
    ADD(l, flags, 0, x, y, NULL, 3, DIMS(C(4), 1, 1));
    HALF("middle.1.to_qkv", "mid_block.attentions.0.to_qkv");
    CONV(l, flags, x, y, C(12), C(4), 4, 1, 1);
    HALF("middle.1.proj", "mid_block.attentions.0.proj");
    CONV(l, flags, x, y, C(4), C(4), 4, 1, 1);
    HALF("middle.2", "mid_block.resnets.1");
    RESIDUAL(l, flags, x, y, C(4), C(4));
    return SC_OK;
}

static sc_status vae_decoder(sc_name_list *l, sc_error *err) {
    static const int in[] = {4, 2, 2, 1}, out[] = {4, 4, 2, 1}; /* the first block of a level sees what its upsampling halved */
    char x[SC_NAME_ROOM], y[SC_NAME_ROOM];
    sc_status rc;

    CONV(l, 0, "conv2", "post_quant_conv", S(SC_S_Z, 1), S(SC_S_Z, 1), 5, 1, 1);
    CONV(l, 0, "decoder.conv1", "decoder.conv_in", C(4), S(SC_S_Z, 1), 5, 3, 3);
    if ((rc = vae_middle(l, 0, "decoder", err))) return rc;
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 3; j++) {
            snprintf(x, sizeof x, "decoder.upsamples.%d", 4 * i + j);
            snprintf(y, sizeof y, "decoder.up_blocks.%d.resnets.%d", i, j);
            RESIDUAL(l, 0, x, y, C(j ? out[i] : in[i]), C(out[i]));
        }
        if (i == 3) break;
        snprintf(x, sizeof x, "decoder.upsamples.%d.resample.1", 4 * i + 3);
        snprintf(y, sizeof y, "decoder.up_blocks.%d.upsamplers.0.resample.1", i);
        CONV(l, 0, x, y, C(out[i] / 2), C(out[i]), 4, 1, 3);
        if (i == 2) continue; /* the last upsampling is in space only */
        snprintf(x, sizeof x, "decoder.upsamples.%d.time_conv", 4 * i + 3);
        snprintf(y, sizeof y, "decoder.up_blocks.%d.upsamplers.0.time_conv", i);
        CONV(l, 0, x, y, C(2 * out[i]), C(out[i]), 5, 3, 1);
    }
    ADD(l, 0, 0, "decoder.head.0.gamma", "decoder.norm_out.gamma", NULL, 4, DIMS(C(1), 1, 1, 1));
    CONV(l, 0, "decoder.head.2", "decoder.conv_out", 3, C(1), 5, 3, 3);
    return SC_OK;
}

static sc_status vae_encoder(sc_name_list *l, sc_error *err) {
    static const int out[] = {1, 2, 4, 4};
    const int e = SC_NAME_ENCODER;
    char x[SC_NAME_ROOM], y[SC_NAME_ROOM];
    int at = 0;
    sc_status rc;

    CONV(l, e, "conv1", "quant_conv", S(SC_S_Z, 2), S(SC_S_Z, 2), 5, 1, 1);
    CONV(l, e, "encoder.conv1", "encoder.conv_in", C(1), 3, 5, 3, 3);
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 2; j++, at++) {
            snprintf(x, sizeof x, "encoder.downsamples.%d", at);
            snprintf(y, sizeof y, "encoder.down_blocks.%d", at);
            RESIDUAL(l, e, x, y, C(j || !i ? out[i] : out[i - 1]), C(out[i]));
        }
        if (i == 3) break;
        snprintf(x, sizeof x, "encoder.downsamples.%d.resample.1", at);
        snprintf(y, sizeof y, "encoder.down_blocks.%d.resample.1", at);
        CONV(l, e, x, y, C(out[i]), C(out[i]), 4, 1, 3);
        snprintf(x, sizeof x, "encoder.downsamples.%d.time_conv", at);
        snprintf(y, sizeof y, "encoder.down_blocks.%d.time_conv", at);
        if (i) CONV(l, e, x, y, C(out[i]), C(out[i]), 5, 3, 1); /* the first downsampling is in space only */
        at++;
    }
    if ((rc = vae_middle(l, e, "encoder", err))) return rc;
    ADD(l, e, 0, "encoder.head.0.gamma", "encoder.norm_out.gamma", NULL, 4, DIMS(C(4), 1, 1, 1));
    CONV(l, e, "encoder.head.2", "encoder.conv_out", S(SC_S_Z, 2), C(4), 5, 3, 3);
    return SC_OK;
}

/* ---- TAEHV ------------------------------------------------------------------------------------------------------------------ */

/* A convolution of size hw, with or without bias, of both halves. */
static sc_status tae_conv(sc_name_list *l, int flags, const char *name, int index, int64_t rows, int64_t cols, int hw, bool bias, sc_error *err) {
    char x[SC_NAME_ROOM];
    sc_status rc;

    snprintf(x, sizeof x, "%s.weight", name);
    ADD(l, flags, index, x, NULL, NULL, 4, DIMS(rows, cols, hw, hw));
    snprintf(x, sizeof x, "%s.bias", name);
    if (bias) ADD(l, flags & ~SC_NAME_GROW, index, x, NULL, NULL, 1, DIMS(rows));
    return SC_OK;
}

#define TAE(...) do { if ((rc = tae_conv(__VA_ARGS__, err))) return rc; } while (0)

static sc_status tae_list(sc_name_list *l, sc_error *err) {
    static const int time[] = {1, 2, 2}, pool[] = {2, 2, 1};
    const int64_t E = S(SC_S_ENC, 1);
    const int e = SC_NAME_ENCODER;
    sc_status rc;

    TAE(l, 0, "decoder.%d", 1, S(SC_S_DEC0, 1), S(SC_S_Z, 1), 3, true);
    for (int i = 0; i < 3; i++) {
        const int64_t w = S(SC_S_DEC0 + i, 1);
        for (int b = 3 + 6 * i; b < 6 + 6 * i; b++) {
            TAE(l, 0, "decoder.%d.conv.0", b, w, S(SC_S_DEC0 + i, 2), 3, true);
            TAE(l, 0, "decoder.%d.conv.2", b, w, w, 3, true);
            TAE(l, 0, "decoder.%d.conv.4", b, w, w, 3, true);
        }
        TAE(l, SC_NAME_GROW, "decoder.%d.conv", 7 + 6 * i, S(SC_S_DEC0 + i, time[i]), w, 1, false);
        TAE(l, 0, "decoder.%d", 8 + 6 * i, S(SC_S_DEC0 + i + 1, 1), w, 3, false);
    }
    TAE(l, 0, "decoder.%d", 22, S(SC_S_PIXELS, 1), S(SC_S_DEC3, 1), 3, true);

    TAE(l, e, "encoder.%d", 0, E, S(SC_S_PIXELS, 1), 3, true);
    for (int i = 0; i < 3; i++) {
        TAE(l, e, "encoder.%d.conv", 2 + 5 * i, E, S(SC_S_ENC, pool[i]), 1, false);
        TAE(l, e, "encoder.%d", 3 + 5 * i, E, E, 3, false);
        for (int b = 4 + 5 * i; b < 7 + 5 * i; b++) {
            TAE(l, e, "encoder.%d.conv.0", b, E, S(SC_S_ENC, 2), 3, true);
            TAE(l, e, "encoder.%d.conv.2", b, E, E, 3, true);
            TAE(l, e, "encoder.%d.conv.4", b, E, E, 3, true);
        }
    }
    TAE(l, e, "encoder.%d", 17, S(SC_S_Z, 1), E, 3, true);
    return SC_OK;
}

/* ---- public ----------------------------------------------------------------------------------------------------------------- */

sc_status sc_names_create(sc_name_list *out, sc_family family, int layers, sc_error *err) {
    sc_status rc = SC_OK;

    *out = (sc_name_list){.family = family, .layers = layers};
    if (family == SC_FAMILY_DIT || family == SC_FAMILY_T5)
        if (layers < 1 || layers > 256) return sc_fail(err, SC_EINVAL, "%s: %d layers is not in 1..256", sc_family_name(family), layers);
    switch (family) {
    case SC_FAMILY_DIT: out->spellings = 3; rc = dit_list(out, err); break;
    case SC_FAMILY_T5: out->spellings = 2; rc = t5_list(out, err); break;
    case SC_FAMILY_VAE:
        out->spellings = 2;
        rc = vae_decoder(out, err);
        if (!rc) rc = vae_encoder(out, err);
        break;
    case SC_FAMILY_TAE: out->spellings = 1; rc = tae_list(out, err); break;
    default: return sc_fail(err, SC_EINVAL, "%s: has no list of names", sc_family_name(family));
    }
    if (rc) sc_names_free(out);
    return rc;
}

void sc_names_free(sc_name_list *list) {
    free(list->names);
    memset(list, 0, sizeof *list);
}

int64_t sc_name_dim(const sc_name *name, int i, const sc_sizes *sizes) {
    const int64_t d = name->dims[i];
    return d > 0 ? d : sizes->v[-d / 1000] * (-d % 1000);
}

const char *sc_family_name(sc_family family) {
    static const char *const names[SC_FAMILIES] = {"unknown", "transformer", "text encoder", "Wan VAE", "TAEHV decoder", "LoRA"};
    return names[family];
}

const char *sc_spelling_name(sc_family family, int spelling) {
    if (family == SC_FAMILY_T5) return spelling ? "Hugging Face" : "Wan";
    if (family == SC_FAMILY_TAE) return "TAEHV";
    return spelling == 0 ? "Wan" : spelling == 1 ? "diffusers" : "FastVideo";
}

void sc_name_strip(char out[SC_NAME_ROOM], const char *name) {
    static const char *const anywhere[] = {"_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module."};
    static const char *const front[] = {"model.", "diffusion_model.", "module.", "base_model.", "first_stage_model.", "transformer.", "taehv."};
    size_t n = 0;
    bool again = true;

    for (const char *s = name; *s && n + 1 < SC_NAME_ROOM;) {
        bool part = s == name || s[-1] == '.', cut = false;
        for (size_t i = 0; part && i < sizeof anywhere / sizeof *anywhere; i++)
            if (!strncmp(s, anywhere[i], strlen(anywhere[i]))) {
                s += strlen(anywhere[i]);
                cut = true;
                break;
            }
        if (!cut) out[n++] = *s++;
    }
    out[n] = 0;
    while (again) {
        again = false;
        for (size_t i = 0; i < sizeof front / sizeof *front; i++) {
            size_t len = strlen(front[i]);
            if (strncmp(out, front[i], len) || !out[len]) continue;
            memmove(out, out + len, strlen(out + len) + 1);
            again = true;
        }
    }
}

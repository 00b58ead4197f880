/* engine_vae_model.h - a small random Wan VAE: its decoder as a file in memory, and the tiny model of engine_model.h with this decoder. */
#ifndef SC_TESTS_ENGINE_VAE_MODEL_H
#define SC_TESTS_ENGINE_VAE_MODEL_H
#include "engine/vae.h"
#include "tests/unit/engine_model.h"

enum { Z = TINY_CH, H = 2, W = 3 };

static const double mean[Z] = {-0.5, 0.1, 0.9, 0}, std[Z] = {2, 0.5, 1.5, 1};

/* Widths 6, 12, 18, 12 from the pixels down: the decoder meets 12, 6 to 18, 9 to 12, 6. */
static const sc_vae_shape small = {.z = Z, .dim = 6, .levels = 4, .mult = {1, 2, 3, 2}, .blocks = 1, .latent_h = H, .latent_w = W, .halves_time = {false, true, true},
                                   .mean = mean, .std = std};

static void add_conv(tiny_file *f, const char *name, long out, long in, long taps, long size, int rank) {
    char full[96];
    snprintf(full, sizeof full, "%s.weight", name);
    const float spread = 0.8f / sqrtf((float)(in * taps * size * size));
    if (rank == 5) tiny_add(f, false, 0, spread, full, 5, out, in, taps, size, size);
    else tiny_add(f, false, 0, spread, full, 4, out, in, size, size, 0);
    snprintf(full, sizeof full, "%s.bias", name);
    tiny_add(f, false, 0, 0.1f, full, 1, out, 0, 0, 0, 0);
}

static void add_gamma(tiny_file *f, const char *name, long ch, int rank) { tiny_add(f, false, 1, 0.2f, name, rank, ch, 1, 1, 1, 0); }

static void add_residual(tiny_file *f, const char *name, long in, long out) {
    char full[64];
    snprintf(full, sizeof full, "%s.residual.0.gamma", name);
    add_gamma(f, full, in, 4);
    snprintf(full, sizeof full, "%s.residual.2", name);
    add_conv(f, full, out, in, 3, 3, 5);
    snprintf(full, sizeof full, "%s.residual.3.gamma", name);
    add_gamma(f, full, out, 4);
    snprintf(full, sizeof full, "%s.residual.6", name);
    add_conv(f, full, out, out, 3, 3, 5);
    if (in == out) return;
    snprintf(full, sizeof full, "%s.shortcut", name);
    add_conv(f, full, out, in, 1, 1, 5);
}

static void add_attention(tiny_file *f, const char *name, long ch) {
    char full[64];
    snprintf(full, sizeof full, "%s.norm.gamma", name);
    add_gamma(f, full, ch, 3);
    snprintf(full, sizeof full, "%s.to_qkv", name);
    add_conv(f, full, 3 * ch, ch, 1, 1, 4);
    snprintf(full, sizeof full, "%s.proj", name);
    add_conv(f, full, ch, ch, 1, 1, 4);
}

static void add_middle(tiny_file *f, const char *half, long ch) {
    char full[64];
    for (int i = 0; i < 3; i++) {
        snprintf(full, sizeof full, "%s.middle.%d", half, i);
        if (i == 1) add_attention(f, full, ch);
        else add_residual(f, full, ch, ch);
    }
}

/* attention: the level whose residual blocks are followed by attentions, -1: none. */
static void build_decoder(tiny_file *f, const sc_vae_shape *s, int attention) {
    long ch = s->dim * s->mult[s->levels - 1];
    char name[64];
    int n = 0;

    add_conv(f, "conv2", s->z, s->z, 1, 1, 5);
    add_conv(f, "decoder.conv1", ch, s->z, 3, 3, 5);
    add_middle(f, "decoder", ch);
    for (int i = s->levels - 1; i >= 0; i--) {
        const long out = s->dim * s->mult[i];
        for (int b = 0; b <= s->blocks; b++, ch = out) {
            snprintf(name, sizeof name, "decoder.upsamples.%d", n++);
            add_residual(f, name, ch, out);
            if (i != attention) continue;
            snprintf(name, sizeof name, "decoder.upsamples.%d", n++);
            add_attention(f, name, out);
        }
        if (!i) break;
        if (s->halves_time[i - 1]) {
            snprintf(name, sizeof name, "decoder.upsamples.%d.time_conv", n);
            tiny_add(f, false, 0, 0.8f / sqrtf(3.0f * (float)ch), strcat(name, ".weight"), 5, 2 * ch, ch, 3, 1, 1);
            snprintf(name, sizeof name, "decoder.upsamples.%d.time_conv.bias", n);
            tiny_add(f, false, 0, 0.1f, name, 1, 2 * ch, 0, 0, 0, 0);
        }
        snprintf(name, sizeof name, "decoder.upsamples.%d.resample.1", n++);
        add_conv(f, name, ch / 2, ch, 1, 3, 4);
        ch /= 2;
    }
    add_gamma(f, "decoder.head.0.gamma", ch, 4);
    add_conv(f, "decoder.head.2", 3, ch, 3, 3, 5);
}

/* The tiny model of engine_model.h with its decoder exchanged. */
static void save_vae_model(const tiny_shape *tiny, const char *decoder) {
    tiny_model *m = tiny_build(tiny);
    sc_vae_shape shape = small;
    char *at = strstr(m->config, "\"decoder\": {"), *end, rest[2048];

    assert_non_null(at);
    end = strstr(at, "},\n");
    assert_non_null(end);
    snprintf(rest, sizeof rest, "%s", end);
    snprintf(at, sizeof m->config - (size_t)(at - m->config), "\"decoder\": {%s%s", decoder, rest);
    for (int i = 0; i < m->decoder.count; i++) free(m->decoder.t[i].data);
    m->decoder.count = 0;
    shape.latent_h = tiny->latent_h;
    shape.latent_w = tiny->latent_w;
    build_decoder(&m->decoder, &shape, -1);
    tiny_save(m);
    tiny_free(m);
}

#define VAE_CONFIG(dim) "\"kind\": \"wan_vae\", \"z\": 4, \"patch\": 1, \"dim\": " dim ", \"mult\": [1, 2, 3, 2], \"blocks\": 1, " \
                        "\"mean\": [-0.5, 0.1, 0.9, 0], \"std\": [2, 0.5, 1.5, 1], \"file\": \"tae.safetensors\""

#endif

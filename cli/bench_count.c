/* bench_count.c - see bench_count.h. */
#include "cli/bench_count.h"
#include "engine/tae.h"

#include <stdio.h>
#include <string.h>

double sc_flops_sum(sc_flops f) { return f.linear + f.attention + f.decoder; }

sc_flops sc_count_pass(const sc_engine *e, const sc_kv_view *view, int cross_rows) {
    const double dim = e->cfg.dit.dim, ffn = e->cfg.dit.ffn_dim, layers = e->cfg.dit.layers, tokens = e->layout->tokens;
    const double patch = e->cfg.dit.patch[1] * e->cfg.dit.patch[2], blocks = e->layout->blocks.blocks;
    const int seen = view->persistent + (e->rule.pbsa ? sc_kv_keep(e->cfg.memory.keep_ratio, view->window) : view->window);
    const double keys = seen * tokens / blocks; /* of a query; blocks hold tokens / blocks tokens on average */
    return (sc_flops){.linear = 2 * tokens * (layers * (6 * dim * dim + 2 * dim * ffn) + patch * dim * (e->cfg.dit.in_ch + e->cfg.dit.out_ch)),
                      .attention = 4 * tokens * dim * layers * (keys + cross_rows)};
}

sc_flops sc_count_text(const sc_engine *e, int tokens) {
    const double n = tokens, t = e->cfg.t5.dim, a = e->cfg.t5.dim_attn, f = e->cfg.t5.dim_ffn, dim = e->cfg.dit.dim;
    const double rows = tokens < e->cfg.dit.text_len ? n + 1 : n;
    return (sc_flops){.linear = 2 * n * e->cfg.t5.layers * (4 * t * a + 3 * t * f) + 2 * rows * (e->cfg.dit.text_dim * dim + dim * dim + 2 * e->cfg.dit.layers * dim * dim),
                      .attention = 4 * n * n * a * e->cfg.t5.layers};
}

/* Multiplications of decoder.NAME per pixel: rows x inputs x taps. */
static double taps(const sc_engine *e, const char *name) {
    char full[64];
    snprintf(full, sizeof full, "decoder.%s.weight", name);
    const sc_tensor *t = sc_tensors_find(e->decoder_tensors, full);
    return t ? (double)t->count : 0;
}

void sc_count_vae_place(const char *name, double *pixels, double *frames) {
    static const double times[] = {1, 2, 4, 4};
    int index = 0, level = 0;
    bool resample = strstr(name, ".resample.") != NULL;

    if (sscanf(name, "decoder.upsamples.%d", &index) == 1) level = index / 4 + resample;
    else if (!strncmp(name, "decoder.head", 12)) level = 3;
    if (level > 3) level = 3;
    *pixels = (double)(1 << (2 * level));
    *frames = times[level];
}

/* Of a stream that has begun. Attention in the middle of the latent's size is not counted. */
static double vae_flops(const sc_engine *e) {
    const sc_config *c = &e->cfg;
    double sum = 0;

    for (int i = 0; i < sc_tensors_count(e->decoder_tensors); i++) {
        const sc_tensor *t = sc_tensors_at(e->decoder_tensors, i);
        double pixels, frames;
        if (t->rank < 4 || strncmp(t->name, "decoder.", 8)) continue;
        sc_count_vae_place(t->name, &pixels, &frames);
        sum += 2.0 * (double)t->count * pixels * frames;
    }
    return sum * c->latent_h * c->latent_w * c->chunk_frames;
}

sc_flops sc_count_decode(const sc_engine *e) {
    const sc_config *c = &e->cfg;
    if (c->decoder.kind != SC_DECODER_TAEHV) return (sc_flops){.decoder = vae_flops(e)};
    const sc_tae_shape s = sc_tae_published(c->decoder.z, c->decoder.patch, c->latent_h, c->latent_w, c->chunk_frames);
    double pixels = (double)c->chunk_frames * c->latent_h * c->latent_w, sum = pixels * taps(e, "1");
    char name[32];
    for (int i = 0; i < SC_TAE_LEVELS; i++) {
        const int base = 3 + 6 * i;
        for (int k = 0; k < 3 * SC_TAE_BLOCKS; k++) {
            snprintf(name, sizeof name, "%d.conv.%d", base + k / 3, k % 3 * 2);
            sum += pixels * taps(e, name);
        }
        pixels *= s.space[i] * s.space[i];
        snprintf(name, sizeof name, "%d.conv", base + 4);
        sum += pixels * taps(e, name);
        pixels *= s.time[i];
        snprintf(name, sizeof name, "%d", base + 5);
        sum += pixels * taps(e, name);
    }
    return (sc_flops){.decoder = 2 * (sum + pixels * taps(e, "22"))};
}

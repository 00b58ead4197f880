/* plan.c - see plan.h. The formulas stand beside what they follow: engine.c (plan_memory), pass.c (sc_work_create), transformer.c (sc_cross_plan), tae.c, vae_layers.c,
 * kernels/cpu/conv.c (a 3x3 filter becomes 36 numbers a channel pair). */
#include "cli/plan.h"
#include "cli/bench_count.h"
#include "engine/tae.h"
#include "engine/vae.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sc_status open_part(sc_tensors **out, const char *dir, char files[][128], int count, sc_error *err) {
    char (*path)[1200] = malloc((size_t)count * sizeof *path);
    const char *list[32];
    sc_status rc;

    *out = NULL;
    if (!path) return sc_fail(err, SC_ENOMEM, "model %.300s: out of memory", dir);
    for (int i = 0; i < count; i++) {
        snprintf(path[i], sizeof path[i], "%.1000s/%s", dir, files[i]);
        list[i] = path[i];
    }
    rc = sc_tensors_open(out, list, count, err);
    free(path);
    return rc;
}

sc_status sc_plan_open(sc_plan_model *m, const char *dir, sc_error *err) {
    sc_status rc;

    memset(m, 0, sizeof *m);
    rc = sc_config_read(&m->config, dir, err);
    if (!rc) rc = open_part(&m->set[0], dir, m->config.dit_files, m->config.dit_file_count, err);
    if (!rc) rc = open_part(&m->set[1], dir, m->config.text_files, m->config.text_file_count, err);
    if (!rc) rc = open_part(&m->set[2], dir, &m->config.decoder_file, 1, err);
    if (rc) sc_plan_close(m);
    return rc;
}

void sc_plan_close(sc_plan_model *m) {
    for (int i = 0; i < 3; i++) {
        sc_tensors_close(m->set[i]);
        m->set[i] = NULL;
    }
}

/* Only what the engine loads: of a decoder's file not its encoder. */
static double weight_bytes(const sc_plan_model *m, bool cpu) {
    double bytes = 0;

    for (int s = 0; s < 3; s++)
        for (int i = 0; i < sc_tensors_count(m->set[s]); i++) {
            const sc_tensor *t = sc_tensors_at(m->set[s], i);
            const bool spatial = t->rank >= 4 && t->shape[t->rank - 1] == 3;
            if (s == 2 && (!strncmp(t->name, "encoder.", 8) || !strncmp(t->name, "conv1.", 6))) continue;
            if (t->rank < 2) bytes += 4.0 * (double)t->count;
            else if (cpu && spatial) bytes += 4.0 * 36 / 9 * (double)t->count;
            else bytes += (cpu ? 4.0 : 2.0) * (double)t->count;
        }
    return bytes;
}

static sc_kv_rule rule_of(const sc_config *c) {
    const bool pbsa = c->memory.kind == SC_MEMORY_PBSA;
    return (sc_kv_rule){.pbsa = pbsa, .window_chunks = c->memory.window_chunks, .capacity = pbsa ? c->memory.persistent_blocks : 0,
                        .window_frames = c->memory.window_frames, .sink_frames = c->memory.sink_frames};
}

static void plan_decoder(sc_plan *p, const sc_plan_model *m, double act) {
    const sc_config *c = &m->config;
    double pixels = (double)c->latent_h * c->latent_w, most;

    p->decoder = sc_count_decode(&(sc_engine){.cfg = *c, .decoder_tensors = m->set[2]}).decoder;
    if (c->decoder.kind == SC_DECODER_TAEHV) {
        const sc_tae_shape tae = sc_tae_published(c->decoder.z, c->decoder.patch, c->latent_h, c->latent_w, c->chunk_frames);
        double n = c->chunk_frames;
        most = n * pixels * c->decoder.z;
        for (int i = 0; i < SC_TAE_LEVELS; i++) {
            const double wide = c->decoder.dec[i], next = c->decoder.dec[i + 1], out = 3.0 * c->decoder.patch * c->decoder.patch;
            p->session += SC_TAE_BLOCKS * pixels * wide * act;
            n *= tae.time[i]; /* grown before the rows double */
            if (n * pixels * wide > most) most = n * pixels * wide;
            pixels *= tae.space[i] * tae.space[i];
            if (n * pixels * (next > out ? next : out) > most) most = n * pixels * (next > out ? next : out);
        }
        p->work += 3 * most * act;
        return;
    }
    most = pixels * c->decoder.z; /* of one latent */
    for (int i = 0; i < sc_tensors_count(m->set[2]); i++) {
        const sc_tensor *t = sc_tensors_at(m->set[2], i);
        double px, frames, wide;
        if (t->rank < 4 || strncmp(t->name, "decoder.", 8)) continue;
        sc_count_vae_place(t->name, &px, &frames);
        if (t->rank == 5 && t->shape[2] == 3) p->session += 2.0 * (double)t->shape[1] * px * pixels * act; /* its last two input frames */
        wide = (double)t->shape[0];
        if (!strstr(t->name, ".resample.") && wide < (double)t->shape[1]) wide = (double)t->shape[1]; /* what a doubling reads has fewer pixels */
        if (wide * px * frames * pixels > most) most = wide * px * frames * pixels;
    }
    p->work += 3 * most * act * sc_vae_group(c->chunk_frames, (size_t)(3 * most * act));
}

/* A GPU in bf16 has queries that need not be made (kernels/cuda/query.cu). */
static bool has_queries(const sc_config *c, bool cpu) { return !cpu && !c->exact_sigma && c->dit.dim % 64 == 0; }

static double query_bytes(const sc_config *c, bool cpu) {
    return has_queries(c, cpu) ? c->dit.layers * (2.0 * c->dit.dim * c->dit.dim + 4.0 * (c->dit.dim + 1)) : 0;
}

/* Bytes of a prompt of `rows` keys. */
static double prompt_bytes(const sc_config *c, int rows, bool cpu, double act) {
    const int stride = (rows + 7) / 8 * 8, cols = c->dit.heads * stride;
    const double keys = 2.0 * c->dit.layers * rows * c->dit.dim, fold = (c->dit.dim + SC_FOLD_ROWS - 1) / SC_FOLD_ROWS * (double)SC_FOLD_ROWS * cols;
    const bool folded = stride <= SC_FOLD_MAX && 2 * cols <= c->dit.dim; /* as the devices decide */
    const double folded_keys = folded && has_queries(c, cpu) ? c->dit.layers * ceil(cols / 256.0) * 256 * (2.0 * c->dit.dim + 4) : 0;
    return (ceil(keys / 128) * 128 + (folded ? c->dit.layers * fold : 0)) * act + folded_keys;
}

sc_status sc_plan_make(sc_plan *p, const sc_plan_model *m, bool cpu, int batch, sc_error *err) {
    const sc_config *c = &m->config;
    const bool pbsa = c->memory.kind == SC_MEMORY_PBSA;
    const double act = cpu ? 4 : 2, qkv = cpu || c->exact_sigma ? 4 : 2;
    const int *patch = c->dit.patch;
    sc_engine *e = calloc(1, sizeof *e); /* as far as the counting looks at one */
    sc_device *twin = NULL;
    sc_status rc;

    memset(p, 0, sizeof *p);
    if (!e) return sc_fail(err, SC_ENOMEM, "plan: out of memory");
    e->cfg = *c;
    e->rule = rule_of(c);
    if ((rc = sc_device_open(&twin, "twin", 1, SC_F16, err))) goto cleanup;
    if ((rc = sc_layout_create(&e->layout, twin, c->chunk_frames, c->latent_h / patch[1], c->latent_w / patch[2], pbsa ? c->memory.tile : NULL, c->dit.head_dim,
                               pbsa ? c->memory.max_distance : -1, err))) goto cleanup;

    const int blocks = e->layout->blocks.blocks;
    /* In double: the sizes of a config are not bounded together. */
    const double slots = pbsa ? e->rule.capacity + (double)e->rule.window_chunks * blocks : (double)e->rule.window_frames * (blocks / c->chunk_frames);
    const double pages = (double)c->dit.layers * c->dit.heads * slots;
    const double page = (double)e->layout->block_max * c->dit.head_dim * act, latent = (double)c->dit.in_ch * c->chunk_frames * c->latent_h * c->latent_w;
    const double rows = (double)batch * e->layout->tokens, in = (double)c->dit.in_ch * patch[1] * patch[2], dim = c->dit.dim;
    const double lists = (double)batch * c->dit.heads * e->layout->blocks.blocks;

    if (slots > 1e8) { rc = sc_fail(err, SC_EINVAL, "memory: %.0f blocks a head are more than fit a session", slots); goto cleanup; }
    p->weights = weight_bytes(m, cpu) + query_bytes(c, cpu);
    p->session = pages * (2 * page + 4.0 * c->dit.head_dim + (pbsa ? 2 : 1) * sizeof(sc_kv_slot)) + (2 + sc_kv_past(&e->rule, e->layout)) * latent * 4;
    p->pictures = 2 * 1.5 * 4 * c->chunk_frames * SC_PLAN_PIXELS * SC_PLAN_PIXELS * (double)c->latent_h * c->latent_w;
    for (int n = 1; n <= c->dit.text_len; n++) {
        const double bytes = prompt_bytes(c, n, cpu, act);
        p->prompt = bytes > p->prompt ? bytes : p->prompt;
    }
    p->work = rows * (dim * 4 + (dim > in ? dim : in) * act + 3 * dim * qkv + 2 * dim * act + c->dit.ffn_dim * act) + e->layout->tokens * in * 4 +
              lists * (4.0 * c->dit.head_dim + 8 * slots) + 4.0 * batch * c->dit.heads * (slots + e->rule.capacity + 1);
    p->frames = c->chunk_frames * 4;
    plan_decoder(p, m, act);

    const sc_kv_view full = {.persistent = e->rule.capacity, .window = pbsa ? c->memory.window_chunks * blocks : c->memory.window_frames * (blocks / c->chunk_frames)};
    const int words = c->dit.text_len < 64 ? c->dit.text_len : 64; /* a prompt of ordinary length */
    const sc_flops pass = sc_count_pass(e, &full, words);
    p->linear = pass.linear * (c->step_count + 1);
    p->attention = pass.attention * (c->step_count + 1);
cleanup:
    if (twin) {
        sc_layout_free(e->layout, twin);
        sc_device_close(twin);
    }
    free(e);
    return rc;
}

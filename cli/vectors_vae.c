/* vectors_vae.c - runner for the Wan VAE: a stream latent by latent with what lies between, all at once, zero caches, and the encoder.
 *
 * Sizes come from the file: `config` (dim, dim_mult, num_res_blocks, temperal_downsample), the rest from the shapes of the inputs. */
#include "cli/vectors.h"
#include "engine/vae.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One intermediate, gathered over the steps as the file has it: [C][F][h][w]. */
typedef struct {
    const char *name;
    const sc_tensor *want;
    float *got;
    int frames; /* so far */
} gathered;

typedef struct {
    sc_vectors *v;
    gathered stage[3];
    bool wrong; /* more or other pictures than the file has */
} looking;

static void look(void *ctx, sc_vae_stage stage, const void *x, int n, int h, int w, int c) {
    looking *l = ctx;
    gathered *g = &l->stage[stage];
    const size_t px = (size_t)h * (size_t)w, count = (size_t)n * px * (size_t)c;
    float *in;

    if (!g->got) return;
    const size_t frames = (size_t)g->want->shape[2], at = (size_t)g->frames;
    if (g->want->shape[1] != c || g->want->shape[3] != h || g->want->shape[4] != w || at + (size_t)n > frames || !(in = malloc(count * sizeof *in))) {
        l->wrong = true;
        return;
    }
    sc_vectors_get(l->v, in, x, count, l->v->dev->act);
    for (size_t f = 0; f < (size_t)n; f++)
        for (size_t p = 0; p < px; p++)
            for (size_t k = 0; k < (size_t)c; k++) g->got[(k * frames + at + f) * px + p] = in[(f * px + p) * (size_t)c + k];
    g->frames += n;
    free(in);
}

static void watch(looking *l, sc_vae_stage stage, const char *name) {
    gathered *g = &l->stage[stage];
    g->name = name;
    if (!sc_vectors_has(l->v, name) || !(g->want = sc_vectors_find(l->v, name)) || g->want->rank != 5) return;
    g->got = calloc((size_t)g->want->count, sizeof *g->got);
}

static void check_watched(looking *l) {
    for (int i = 0; i < 3; i++) {
        gathered *g = &l->stage[i];
        if (g->got && !l->wrong && g->frames != g->want->shape[2]) l->wrong = true;
        if (g->got) sc_vectors_check(l->v, g->name, g->got);
        free(g->got);
    }
    if (l->wrong) { l->v->failed++; printf("  an intermediate has another shape or count of frames than the file\n"); }
}

/* Pictures [n][3][H][W] in 0..1 to the file's [3][frames][H][W] in -1..1, at frame `at`. */
static void place(float *out, const float *pictures, int n, size_t frames, size_t at, size_t px) {
    for (size_t f = 0; f < (size_t)n; f++)
        for (size_t k = 0; k < 3; k++)
            for (size_t p = 0; p < px; p++) out[(k * frames + at + f) * px + p] = 2 * pictures[(f * 3 + k) * px + p] - 1;
}

static bool shape_of(sc_vectors *v, sc_vae_shape *s, double *mean, double *std) {
    const cJSON *mult = cJSON_GetObjectItemCaseSensitive(v->config, "dim_mult"), *time = cJSON_GetObjectItemCaseSensitive(v->config, "temperal_downsample");
    const sc_tensor *z = sc_vectors_find(v, "in.z");
    float *m = sc_vectors_f32(v, "in.mean"), *d = sc_vectors_f32(v, "in.std");
    const sc_tensor *mt = sc_tensors_find(v->file, "in.mean"), *dt = sc_tensors_find(v->file, "in.std");
    bool ok = z && m && d && z->rank == 5 && z->shape[0] == 1 && z->shape[1] >= 1 && z->shape[1] <= SC_VAE_CHANNELS_MAX && z->shape[2] >= 1 && z->shape[2] <= 4096 &&
              z->shape[3] >= 1 && z->shape[3] <= 4096 && z->shape[4] >= 1 && z->shape[4] <= 4096 && mt->count == z->shape[1] && dt->count == z->shape[1] &&
              cJSON_GetArraySize(mult) >= 2 && cJSON_GetArraySize(mult) <= SC_VAE_LEVELS && cJSON_GetArraySize(time) == cJSON_GetArraySize(mult) - 1;

    if (ok) {
        *s = (sc_vae_shape){.z = (int)z->shape[1], .dim = sc_vectors_int(v, v->config, "dim", 0), .levels = cJSON_GetArraySize(mult),
                            .blocks = sc_vectors_int(v, v->config, "num_res_blocks", 2), .latent_h = (int)z->shape[3], .latent_w = (int)z->shape[4], .group = 1,
                            .mean = mean, .std = std};
        for (int i = 0; i < s->levels; i++) s->mult[i] = cJSON_GetArrayItem(mult, i)->valueint;
        for (int i = 0; i + 1 < s->levels; i++) s->halves_time[i] = cJSON_IsTrue(cJSON_GetArrayItem(time, i));
        for (int i = 0; i < s->z; i++) { mean[i] = m[i]; std[i] = d[i]; }
    } else {
        sc_fail(&v->err, SC_EINVAL, "%s: in.z, in.mean, in.std and config do not describe one Wan VAE", v->path);
    }
    free(m);
    free(d);
    return ok;
}

/* One stream over the first `latents` of z; `each` at a time. frames: the file's layout, `total` of them. */
typedef struct {
    int latents, each;
    bool zero_cache, clamp;
    float *frames;
    size_t total;
    int32_t *per_step;
    looking *look;
} stream;

static bool run_stream(sc_vectors *v, const sc_vae_shape *shape, const float *z, int z_frames, const stream *r) {
    const sc_ops *ops = v->dev->ops;
    const size_t px = (size_t)shape->latent_h * (size_t)shape->latent_w, ch = (size_t)shape->z;
    sc_vae_shape s = *shape;
    sc_vae *vae = NULL;
    sc_vae_state *state = NULL;
    float *part = malloc((size_t)r->each * ch * px * sizeof *part), *host = NULL, *rgb = NULL;
    size_t made = 0;
    bool ok = false;

    s.group = r->each;
    if (!part || sc_vae_load(&vae, v->dev, v->file, "w.", &s, &v->err) || sc_vae_state_create(vae, &state, &v->err)) goto cleanup;
    const size_t scale = (size_t)sc_vae_scale(vae), picture = px * scale * scale, most = (size_t)r->each * (size_t)sc_vae_time_scale(vae);
    if (!(host = malloc(most * 3 * picture * sizeof *host)) || ops->alloc(v->dev, (void **)&rgb, most * 3 * picture * 4, &v->err)) goto cleanup;
    if (r->zero_cache) sc_vae_state_pretend_started(state);
    for (int f = 0, n; f < r->latents; f += n) {
        int count;
        n = r->latents - f < r->each ? r->latents - f : r->each;
        for (size_t c = 0; c < ch; c++) memcpy(part + c * (size_t)n * px, z + (c * (size_t)z_frames + (size_t)f) * px, (size_t)n * px * sizeof *part);
        float *latent = sc_vectors_put(v, part, (size_t)n * ch * px, false);
        const sc_status rc = sc_vae_decode(vae, state, latent, n, r->clamp, rgb, NULL, &count, r->look ? look : NULL, r->look, &v->err);
        ops->release(v->dev, latent);
        if (rc) goto cleanup;
        if (r->per_step) r->per_step[f] = count;
        if (made + (size_t)count > r->total) { sc_fail(&v->err, SC_EINVAL, "%s: %zu frames and more come out, the file has %zu", v->path, made + (size_t)count, r->total); goto cleanup; }
        sc_vectors_get(v, host, rgb, (size_t)count * 3 * picture, SC_F32);
        place(r->frames, host, count, r->total, made, picture);
        made += (size_t)count;
    }
    if (made != r->total) { sc_fail(&v->err, SC_EINVAL, "%s: %zu frames come out, the file has %zu", v->path, made, r->total); goto cleanup; }
    ok = true;
cleanup:
    if (vae) sc_vae_state_destroy(vae, state);
    sc_vae_close(vae);
    ops->release(v->dev, rgb);
    free(part);
    free(host);
    return ok;
}

/* Whether NAME is a tensor of pictures of the decoder's size. */
static const sc_tensor *pictures(sc_vectors *v, const char *name, const sc_vae_shape *s) {
    const sc_tensor *t = sc_vectors_find(v, name);
    const int64_t h = (int64_t)s->latent_h << (s->levels - 1), w = (int64_t)s->latent_w << (s->levels - 1);
    if (!t) return NULL;
    if (t->rank == 5 && t->shape[0] == 1 && t->shape[1] == 3 && t->shape[3] == h && t->shape[4] == w && t->shape[2] >= 1) return t;
    v->failed++;
    printf("  %-34s is not [1][3][frames][%lld][%lld]  FAIL\n", name, (long long)h, (long long)w);
    return NULL;
}

static bool decode(sc_vectors *v, const sc_vae_shape *s) {
    const sc_tensor *z_t = sc_tensors_find(v->file, "in.z"), *want = pictures(v, "out.dec.frames", s), *zero;
    const int latents = (int)z_t->shape[2];
    looking l = {.v = v};
    float *z = sc_vectors_f32(v, "in.z"), *frames, *again;
    int32_t *per_step = calloc((size_t)latents, sizeof *per_step);
    bool ok;

    frames = want ? calloc(2 * (size_t)want->count, sizeof *frames) : NULL;
    if (!want || !z || !per_step || !frames) {
        free(z);
        free(per_step);
        free(frames);
        return !want || !z || !sc_fail(&v->err, SC_ENOMEM, "%s: out of memory", v->path);
    }
    again = frames + want->count;
    watch(&l, SC_VAE_AFTER_CONV2, "out.dec.conv2");
    watch(&l, SC_VAE_AFTER_MIDDLE, "out.dec.after_middle");
    watch(&l, SC_VAE_AFTER_UP0, "out.dec.after_up0");
    ok = run_stream(v, s, z, latents, &(stream){.latents = latents, .each = 1, .frames = frames, .total = (size_t)want->shape[2], .per_step = per_step, .look = &l});
    check_watched(&l);
    if (ok) {
        const sc_tensor *steps = sc_vectors_find(v, "out.dec.frames_per_step");
        sc_vectors_check(v, "out.dec.frames", frames);
        if (steps && steps->count == latents) sc_vectors_check_ints(v, "out.dec.frames_per_step", per_step);
        else v->failed++;
        ok = run_stream(v, s, z, latents, &(stream){.latents = latents, .each = latents, .frames = again, .total = (size_t)want->shape[2]});
    }
    if (ok && !v->half) { /* groups are the same bits on the CPU */
        const bool same = !memcmp(frames, again, (size_t)want->count * sizeof *frames);
        printf("  %-34s %s\n", "all latents at once", same ? "bit-equal  ok" : "differs from one by one  FAIL");
        v->compared++;
        v->failed += !same;
    } else if (ok) {
        sc_vectors_check(v, "out.dec.frames", again);
    }
    free(frames);
    if (ok && sc_vectors_has(v, "out.dec.zero_cache_frames") && (zero = pictures(v, "out.dec.zero_cache_frames", s))) {
        int time = 1;
        for (int i = 0; i + 1 < s->levels; i++) time *= s->halves_time[i] ? 2 : 1;
        frames = calloc((size_t)zero->count, sizeof *frames);
        ok = frames ? run_stream(v, s, z, latents, &(stream){.latents = (int)zero->shape[2] / time < latents ? (int)zero->shape[2] / time : latents, .each = 1, .zero_cache = true,
                                                    .clamp = true, .frames = frames, .total = (size_t)zero->shape[2]})
                    : !sc_fail(&v->err, SC_ENOMEM, "%s: out of memory", v->path);
        if (ok) sc_vectors_check(v, "out.dec.zero_cache_frames", frames);
        free(frames);
    }
    free(z);
    free(per_step);
    return ok;
}

static bool encode(sc_vectors *v, const sc_vae_shape *s) {
    const sc_tensor *clip_t = pictures(v, "in.clip", s), *want = sc_vectors_find(v, "out.enc.latents");
    float *clip = sc_vectors_f32(v, "in.clip"), *latent = NULL;
    bool ok = true;

    if (!clip_t || !want || !clip) { free(clip); return true; }
    const int frames = (int)clip_t->shape[2], made = sc_vae_encoded(s, frames);
    const size_t count = (size_t)s->z * (size_t)made * (size_t)(s->latent_h * s->latent_w);
    if ((size_t)want->count != count) {
        v->failed++;
        printf("  out.enc.latents has %lld values, %zu come out  FAIL\n", (long long)want->count, count);
    } else if (!(latent = malloc(count * sizeof *latent)) || sc_vae_encode(v->dev, v->file, "w.", s, clip, frames, latent, &v->err)) {
        ok = false;
    } else {
        sc_vectors_check(v, "out.enc.latents", latent);
    }
    free(latent);
    free(clip);
    return ok;
}

bool sc_vectors_wan_vae(sc_vectors *v) {
    double mean[SC_VAE_CHANNELS_MAX], std[SC_VAE_CHANNELS_MAX];
    sc_vae_shape shape;

    if (!shape_of(v, &shape, mean, std)) return false;
    return decode(v, &shape) && (!sc_vectors_has(v, "in.clip") || encode(v, &shape));
}

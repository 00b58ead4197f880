/* engine_model.h - a model small enough to run thousands of chunks, written to a folder by the test itself.
 *
 *   tiny_build(&m, &tiny_default)   config and random weights in memory; a test may edit both
 *   tiny_save(&m, dir)              config.json, dit, text encoder and decoder as safetensors, the pocket model's tokenizer
 *
 * Default sizes: 2 layers, 2 heads of 8, 2 x 2 tokens a frame, 3 frames a chunk, tiles of 3 x 2 x 1 = 2 blocks of 6 tokens, a window
 * of 3 chunks, 3 persistent blocks, 2 steps, pictures of 32 x 32. Weights are f32, or f16 when asked. */
#ifndef SC_TESTS_ENGINE_MODEL_H
#define SC_TESTS_ENGINE_MODEL_H
#include "base/log.h"
#include "engine/internal.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- what the test chooses ---------------------------------------------------------------------------------------------- */

typedef struct {
    int layers, heads, head_dim, text_len, window_chunks, capacity, max_distance, chunk_frames;
    int latent_h, latent_w, tile_r, tile_c;
    double keep_ratio;
    const char *steps;      /* JSON */
    int window_frames;      /* > 0: plain window memory */
    int sink_frames;
    int patch;              /* pixel shuffle of the decoder */
    bool f16;               /* weights of all files */
    bool odd_header;        /* safetensors headers of odd length: nothing in the file is aligned */
} tiny_shape;

static const tiny_shape tiny_default = {.layers = 2, .heads = 2, .head_dim = 8, .text_len = 12, .window_chunks = 3, .capacity = 3, .max_distance = 6,
                                        .chunk_frames = 3, .latent_h = 4, .latent_w = 4, .tile_r = 2, .tile_c = 1, .keep_ratio = 0.5,
                                        .steps = "[1000, 500]", .patch = 2};

enum { TINY_CH = 4, TINY_TEXT = 8, TINY_TEXT_FFN = 12, TINY_TEXT_LAYERS = 2, TINY_TEXT_HEADS = 2, TINY_VOCAB = 498, TINY_BUCKETS = 32, TINY_FREQ = 8,
       TINY_FFN = 24, TINY_TENSORS = 160 };

/* ---- tensors in memory, and their file ---------------------------------------------------------------------------------- */

typedef struct {
    char name[96];
    const char *dtype;   /* of the header; data is converted for F32, F16 and BF16, else its bytes are zero */
    int rank;
    long shape[6];
    float *data;         /* [count of the shape at birth] */
    size_t count;
} tiny_tensor;

typedef struct {
    tiny_tensor t[TINY_TENSORS];
    int count;
    bool odd;
} tiny_file;

typedef struct {
    tiny_shape shape;
    char config[4096];
    tiny_file dit, text, decoder;
} tiny_model;

static uint64_t tiny_state = 1;

static inline float tiny_random(void) { /* about normal */
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        tiny_state = tiny_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        sum += (float)(tiny_state >> 40) / 16777216.0f - 0.5f;
    }
    return sum * 1.7320508f;
}

/* A tensor of base + spread * normal numbers. */
static inline void tiny_add(tiny_file *f, bool f16, float base, float spread, const char *name, int rank, long a, long b, long c, long d, long e) {
    tiny_tensor *t = &f->t[f->count++];
    assert_true(f->count <= TINY_TENSORS);
    *t = (tiny_tensor){.dtype = f16 ? "F16" : "F32", .rank = rank, .shape = {a, b, c, d, e}, .count = 1};
    snprintf(t->name, sizeof t->name, "%s", name);
    for (int i = 0; i < rank; i++) t->count *= (size_t)t->shape[i];
    t->data = malloc(t->count * sizeof *t->data);
    assert_non_null(t->data);
    for (size_t i = 0; i < t->count; i++) t->data[i] = base + spread * tiny_random();
}

static inline tiny_tensor *tiny_find(tiny_file *f, const char *name) {
    for (int i = 0; i < f->count; i++)
        if (!strcmp(f->t[i].name, name)) return &f->t[i];
    fail_msg("the tiny model has no tensor %s", name);
    return NULL;
}

static inline uint16_t tiny_half(float x) { /* to nearest, halves away from zero; no subnormals, no overflow */
    uint32_t u;
    memcpy(&u, &x, 4);
    const uint32_t sign = u >> 16 & 0x8000u, rounded = (u & 0x7fffffffu) + 0x1000u;
    if (rounded < 113u << 23) return (uint16_t)sign;
    return (uint16_t)(sign | ((rounded >> 13) - (112u << 10)));
}

static inline void tiny_write(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline size_t tiny_dtype_bytes(const char *dtype) {
    return !strcmp(dtype, "F64") || !strcmp(dtype, "I64") ? 8 : !strcmp(dtype, "F32") || !strcmp(dtype, "I32") ? 4 : !strcmp(dtype, "U8") ? 1 : 2;
}

static inline void tiny_save_file(const tiny_file *f, const char *path) {
    size_t room = 64 + (size_t)f->count * 256, n = 8, data = 0;
    char *b;

    for (int i = 0; i < f->count; i++) {
        size_t count = 1;
        for (int k = 0; k < f->t[i].rank; k++) count *= (size_t)f->t[i].shape[k];
        data += count * 8;
    }
    assert_non_null(b = calloc(1, room + data));
    n += (size_t)sprintf(b + n, "{");
    data = 0;
    for (int i = 0; i < f->count; i++) {
        const tiny_tensor *t = &f->t[i];
        size_t bytes = tiny_dtype_bytes(t->dtype);
        n += (size_t)sprintf(b + n, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t->name, t->dtype);
        for (int k = 0; k < t->rank; k++) {
            n += (size_t)sprintf(b + n, "%s%ld", k ? "," : "", t->shape[k]);
            bytes *= (size_t)t->shape[k];
        }
        n += (size_t)sprintf(b + n, "],\"data_offsets\":[%zu,%zu]}", data, data + bytes);
        data += bytes;
    }
    n += (size_t)sprintf(b + n, "}");
    while (n % 8 != (f->odd ? 1 : 0)) b[n++] = ' ';
    assert_true(n <= room);
    for (int i = 0; i < 8; i++) b[i] = (char)((n - 8) >> (8 * i));
    for (int i = 0; i < f->count; i++) {
        const tiny_tensor *t = &f->t[i];
        size_t count = 1;
        for (int k = 0; k < t->rank; k++) count *= (size_t)t->shape[k];
        for (size_t k = 0; k < count; k++) {
            const float x = k < t->count ? t->data[k] : 0.0f;
            const uint16_t h = tiny_half(x);
            if (!strcmp(t->dtype, "F32")) memcpy(b + n + 4 * k, &x, 4);
            if (!strcmp(t->dtype, "F16")) memcpy(b + n + 2 * k, &h, 2);
            if (!strcmp(t->dtype, "BF16")) memcpy(b + n + 2 * k, (const char *)&x + 2, 2); /* cut, not rounded */
        }
        n += count * tiny_dtype_bytes(t->dtype);
    }
    tiny_write(path, b, n);
    free(b);
}

/* ---- the model ---------------------------------------------------------------------------------------------------------- */

/* Linear layer of `rows` outputs: spread 1 / sqrt(inputs). */
static inline void tiny_linear(tiny_file *f, bool f16, const char *prefix, const char *name, long rows, long cols, bool bias, float gain) {
    char full[96];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    tiny_add(f, f16, 0, gain / sqrtf((float)cols), full, 2, rows, cols, 0, 0, 0);
    if (!bias) return;
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    tiny_add(f, f16, 0, 0.1f, full, 1, rows, 0, 0, 0, 0);
}

static inline void tiny_conv(tiny_file *f, bool f16, const char *name, long out, long in, long size, bool bias, float base) {
    char full[96];
    snprintf(full, sizeof full, "%s.weight", name);
    tiny_add(f, f16, 0, 1.0f / sqrtf((float)(in * size * size)), full, 4, out, in, size, size, 0);
    if (!bias) return;
    snprintf(full, sizeof full, "%s.bias", name);
    tiny_add(f, f16, base, 0.05f, full, 1, out, 0, 0, 0, 0);
}

static inline void tiny_norm(tiny_file *f, bool f16, const char *prefix, const char *name, long dim, float base) {
    char full[96];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    tiny_add(f, f16, base, 0.1f, full, 1, dim, 0, 0, 0, 0);
}

static inline void tiny_build_dit(tiny_file *f, const tiny_shape *s) {
    const long dim = (long)s->heads * s->head_dim;
    const bool h = s->f16;
    char p[64], full[96];

    tiny_add(f, h, 0, 0.25f, "patch_embedding.weight", 5, dim, TINY_CH, 1, 2, 2);
    tiny_add(f, h, 0, 0.1f, "patch_embedding.bias", 1, dim, 0, 0, 0, 0);
    tiny_linear(f, h, "", "text_embedding.0", dim, TINY_TEXT, true, 1);
    tiny_linear(f, h, "", "text_embedding.2", dim, dim, true, 1);
    tiny_linear(f, h, "", "head.head", TINY_CH * 4, dim, true, 1);
    tiny_add(f, h, 0, 0.1f, "head.modulation", 3, 1, 2, dim, 0, 0);
    tiny_linear(f, h, "", "time_embedding.0", dim, TINY_FREQ, true, 1);
    tiny_linear(f, h, "", "time_embedding.2", dim, dim, true, 1);
    tiny_linear(f, h, "", "time_projection.1", 6 * dim, dim, true, 1);
    tiny_add(f, h, 0, 0.3f, "pos_embedding", 2, (long)(s->latent_h / 2) * (s->latent_w / 2), dim, 0, 0, 0);
    for (int i = 0; i < s->layers; i++) {
        static const char *const square[] = {"self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.k", "cross_attn.v", "cross_attn.o"};
        static const char *const norms[] = {"self_attn.norm_q.weight", "self_attn.norm_k.weight", "cross_attn.norm_q.weight", "cross_attn.norm_k.weight", "norm3.weight"};
        snprintf(p, sizeof p, "blocks.%d.", i);
        for (size_t k = 0; k < sizeof square / sizeof *square; k++) tiny_linear(f, h, p, square[k], dim, dim, true, 1);
        tiny_linear(f, h, p, "ffn.0", TINY_FFN, dim, true, 1);
        tiny_linear(f, h, p, "ffn.2", dim, TINY_FFN, true, 1);
        for (size_t k = 0; k < sizeof norms / sizeof *norms; k++) tiny_norm(f, h, p, norms[k], dim, 1);
        tiny_norm(f, h, p, "norm3.bias", dim, 0);
        snprintf(full, sizeof full, "%smodulation", p);
        tiny_add(f, h, 0.3f, 0.2f, full, 3, 1, 6, dim, 0, 0);
    }
}

static inline void tiny_build_text(tiny_file *f, const tiny_shape *s) {
    const bool h = s->f16;
    char p[64], full[96];

    tiny_add(f, h, 0, 1, "token_embedding.weight", 2, TINY_VOCAB, TINY_TEXT, 0, 0, 0);
    tiny_norm(f, h, "", "norm.weight", TINY_TEXT, 1);
    for (int i = 0; i < TINY_TEXT_LAYERS; i++) {
        static const char *const square[] = {"attn.q", "attn.k", "attn.v", "attn.o"};
        snprintf(p, sizeof p, "blocks.%d.", i);
        for (size_t k = 0; k < sizeof square / sizeof *square; k++) tiny_linear(f, h, p, square[k], TINY_TEXT, TINY_TEXT, false, 1);
        tiny_linear(f, h, p, "ffn.gate.0", TINY_TEXT_FFN, TINY_TEXT, false, 1);
        tiny_linear(f, h, p, "ffn.fc1", TINY_TEXT_FFN, TINY_TEXT, false, 1);
        tiny_linear(f, h, p, "ffn.fc2", TINY_TEXT, TINY_TEXT_FFN, false, 1);
        tiny_norm(f, h, p, "norm1.weight", TINY_TEXT, 1);
        tiny_norm(f, h, p, "norm2.weight", TINY_TEXT, 1);
        snprintf(full, sizeof full, "%spos_embedding.embedding.weight", p);
        tiny_add(f, h, 0, 0.5f, full, 2, TINY_BUCKETS, TINY_TEXT_HEADS, 0, 0, 0);
    }
}

static inline void tiny_build_decoder(tiny_file *f, const tiny_shape *s) {
    static const long width[4] = {6, 4, 4, 4}, time[3] = {1, 2, 2};
    const bool h = s->f16;
    char name[64];

    tiny_conv(f, h, "decoder.1", width[0], TINY_CH, 3, true, 0);
    for (int i = 0; i < 3; i++) {
        const int base = 3 + 6 * i;
        for (int b = 0; b < 3; b++)
            for (int c = 0; c < 3; c++) {
                snprintf(name, sizeof name, "decoder.%d.conv.%d", base + b, 2 * c);
                tiny_conv(f, h, name, width[i], c ? width[i] : 2 * width[i], 3, true, 0);
            }
        snprintf(name, sizeof name, "decoder.%d.conv", base + 4);
        tiny_conv(f, h, name, width[i] * time[i], width[i], 1, false, 0);
        snprintf(name, sizeof name, "decoder.%d", base + 5);
        tiny_conv(f, h, name, width[i + 1], width[i], 3, false, 0);
    }
    tiny_conv(f, h, "decoder.22", 3L * s->patch * s->patch, width[3], 3, true, 0.3f);
}

static inline void tiny_config(tiny_model *m) {
    const tiny_shape *s = &m->shape;
    char memory[300];

    if (s->window_frames > 0)
        snprintf(memory, sizeof memory, "\"kind\": \"window\", \"window_frames\": %d, \"sink_frames\": %d, \"max_distance\": -1", s->window_frames, s->sink_frames);
    else
        snprintf(memory, sizeof memory, "\"kind\": \"pbsa\", \"tile\": [%d, %d, %d], \"window_chunks\": %d, \"persistent_blocks\": %d, \"keep_ratio\": %g, \"max_distance\": %d",
                 s->chunk_frames, s->tile_r, s->tile_c, s->window_chunks, s->capacity, s->keep_ratio, s->max_distance);
    snprintf(m->config, sizeof m->config,
             "{\"format\": \"sparsecast-1\", \"name\": \"tiny\", \"fps\": 16, \"chunk_frames\": %d, \"latent_hw\": [%d, %d],\n"
             " \"dit\": {\"dim\": %d, \"heads\": %d, \"head_dim\": %d, \"ffn_dim\": %d, \"layers\": %d, \"text_dim\": %d, \"text_len\": %d, \"freq_dim\": %d,\n"
             "  \"in_ch\": %d, \"out_ch\": %d, \"patch\": [1, 2, 2], \"eps\": 1e-06, \"files\": [\"dit.safetensors\"]},\n"
             " \"t5\": {\"vocab\": %d, \"dim\": %d, \"dim_attn\": %d, \"dim_ffn\": %d, \"heads\": %d, \"layers\": %d, \"buckets\": %d, \"max_dist\": 128,\n"
             "  \"cleaning\": \"raw\", \"files\": [\"text.safetensors\"], \"tokenizer\": \"spiece.model\"},\n"
             " \"decoder\": {\"kind\": \"taehv\", \"dec\": [6, 4, 4, 4], \"z\": %d, \"patch\": %d, \"file\": \"tae.safetensors\"},\n"
             " \"memory\": {%s},\n"
             " \"sampler\": {\"shift\": 3.0, \"steps\": %s, \"sigma\": \"exact\"}}\n",
             s->chunk_frames, s->latent_h, s->latent_w, s->heads * s->head_dim, s->heads, s->head_dim, TINY_FFN, s->layers, TINY_TEXT, s->text_len, TINY_FREQ,
             TINY_CH, TINY_CH, TINY_VOCAB, TINY_TEXT, TINY_TEXT, TINY_TEXT_FFN, TINY_TEXT_HEADS, TINY_TEXT_LAYERS, TINY_BUCKETS, TINY_CH, s->patch, memory, s->steps);
}

static inline tiny_model *tiny_build(const tiny_shape *s) {
    tiny_model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    tiny_state = 20240607;
    sc_log_set_level(SC_LOG_ERROR);
    m->shape = *s;
    m->dit.odd = m->text.odd = m->decoder.odd = s->odd_header;
    tiny_config(m);
    tiny_build_dit(&m->dit, s);
    tiny_build_text(&m->text, s);
    tiny_build_decoder(&m->decoder, s);
    return m;
}

static inline void tiny_free(tiny_model *m) {
    tiny_file *files[] = {&m->dit, &m->text, &m->decoder};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < files[i]->count; k++) free(files[i]->t[k].data);
    free(m);
}

/* ---- the folder --------------------------------------------------------------------------------------------------------- */

static int tiny_threads = 2; /* of the engines that are opened */
static char tiny_dir[64];
static const char *const tiny_files[] = {"config.json", "dit.safetensors", "text.safetensors", "tae.safetensors", "spiece.model"};

static inline const char *tiny_path(const char *name) {
    static char path[4][192];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", tiny_dir, name);
    return p;
}

static inline void *tiny_read(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    char *b;
    long size;
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    size = ftell(f);
    rewind(f);
    assert_non_null(b = malloc((size_t)size + 1));
    assert_int_equal(fread(b, 1, (size_t)size, f), size);
    fclose(f);
    b[size] = 0;
    *n = (size_t)size;
    return b;
}

static inline void tiny_save(const tiny_model *m) {
    if (!tiny_dir[0]) {
        size_t n;
        char *spm = tiny_read(SC_SOURCE_DIR "/models/pocket/spiece.model", &n);
        snprintf(tiny_dir, sizeof tiny_dir, "/tmp/sc_tiny_XXXXXX");
        assert_non_null(mkdtemp(tiny_dir));
        tiny_write(tiny_path("spiece.model"), spm, n);
        free(spm);
    }
    tiny_write(tiny_path("config.json"), m->config, strlen(m->config));
    tiny_save_file(&m->dit, tiny_path("dit.safetensors"));
    tiny_save_file(&m->text, tiny_path("text.safetensors"));
    tiny_save_file(&m->decoder, tiny_path("tae.safetensors"));
}

/* Group teardown. */
static inline int tiny_remove(void **state) {
    (void)state;
    if (!tiny_dir[0]) return 0;
    for (size_t i = 0; i < sizeof tiny_files / sizeof *tiny_files; i++) unlink(tiny_path(tiny_files[i]));
    rmdir(tiny_dir);
    tiny_dir[0] = 0;
    return 0;
}

/* ---- running it --------------------------------------------------------------------------------------------------------- */

static inline sc_engine *tiny_open_saved(const char *device, int sessions) {
    sc_engine *e = NULL;
    sc_error err = {0};
    if (sc_engine_open(&e, &(sc_engine_options){.model_dir = tiny_dir, .device = device, .threads = tiny_threads, .max_sessions = sessions}, &err)) fail_msg("open: %s", err.text);
    return e;
}

static inline sc_engine *tiny_open(const tiny_shape *s, const char *device, int sessions) {
    tiny_model *m = tiny_build(s);
    tiny_save(m);
    tiny_free(m);
    return tiny_open_saved(device, sessions);
}

static inline sc_session *tiny_session(sc_engine *e, uint64_t seed, const char *prompt) {
    sc_session *s = NULL;
    sc_error err = {0};
    if (sc_session_create(e, seed, prompt, strlen(prompt), 1, &s, &err)) fail_msg("session: %s", err.text);
    return s;
}

static inline void tiny_pass(sc_session *s) {
    sc_error err = {0};
    if (sc_engine_run(s->engine, &s, 1, &err)) fail_msg("pass: %s", err.text);
}

/* All passes of a chunk; decode false: the pictures are left out. */
static inline void tiny_chunk(sc_session *s, bool decode) {
    do {
        if (!decode && sc_session_next(s).kind == SC_PASS_DECODE) s->phase++;
        else tiny_pass(s);
    } while (s->phase && !sc_session_failed(s, NULL));
}

static inline void tiny_prompt(sc_session *s, const char *text, uint32_t seq, sc_transition transition, int blend) {
    sc_error err = {0};
    if (sc_session_set_prompt(s, text, strlen(text), seq, transition, blend, NULL, &err)) fail_msg("prompt: %s", err.text);
}

/* FNV-1a, to keep what thousands of frames looked like. */
static inline uint64_t tiny_hash(uint64_t h, const void *data, size_t n) {
    const unsigned char *p = data;
    if (!h) h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * UINT64_C(1099511628211);
    return h;
}

/* Frames of `chunks` chunks, hashed; each chunk's latent too when x0 is given ([chunks][latent_count]). */
static inline uint64_t tiny_play(sc_session *s, int chunks, float *x0) {
    uint64_t h = 0;
    sc_error err = {0};
    for (int c = 0; c < chunks; c++) {
        sc_frames f;
        tiny_chunk(s, true);
        if (sc_session_failed(s, &err) || sc_session_frames(s, &f, &err)) fail_msg("chunk %d: %s", c, err.text);
        h = tiny_hash(h, f.data, (size_t)f.count * f.frame_bytes);
        if (x0) memcpy(x0 + (size_t)c * s->engine->latent_count, s->x, s->engine->latent_count * sizeof *x0);
    }
    return h;
}

/* |a - b| / |b|, L2. */
static inline double tiny_distance(const float *a, const float *b, size_t n) {
    double d = 0, s = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    return sqrt(d / s);
}

#endif

/* random_model.c - see random_model.h.
 *
 * A shape becomes a list of tensors per file (names from the published checkpoints), then a header, then data: the file is mapped and
 * all cores fill pieces of it. Element i of a tensor is a table of 65,536 normal values at a hash of (tensor, i), times the tensor's
 * scale: 1 / sqrt(fan in) for weights, so that 20 GB take seconds and do not depend on the number of cores. */
#include "cli/random_model.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TABLE = 1 << 16, THREADS_MAX = 64, PATH_MAX_BYTES = 1024 };
static const size_t PIECE = (size_t)1 << 22; /* elements a thread takes at a time */

typedef struct {
    const char *name;
    int dim, heads, ffn, layers, latent_h, latent_w, text_dim, text_len, freq;
    int tile[3], window_chunks, persistent;
    double shift;
    struct { int vocab, dim, ffn, heads, layers; } t5;
    int dec[4];       /* TAEHV */
    int vae_dim;      /* > 0: the Wan VAE's decoder instead */
} shape;

#define UMT5_XXL {256384, 4096, 10240, 64, 24}
#define TAEW2_1 {256, 128, 64, 64}
static const shape shapes[] = {
    {"wan-1.3b", 1536, 12, 8960, 30, 60, 104, 4096, 512, 256, {3, 5, 4}, 3, 78, 5, UMT5_XXL, TAEW2_1, 0},
    {"wan-1.3b-vae", 1536, 12, 8960, 30, 60, 104, 4096, 512, 256, {3, 5, 4}, 3, 78, 5, UMT5_XXL, {0}, 96},
    {"wan-14b", 5120, 40, 13824, 40, 60, 104, 4096, 512, 256, {3, 5, 4}, 3, 78, 5, UMT5_XXL, TAEW2_1, 0},
    {"tiny", 256, 2, 320, 2, 12, 16, 96, 24, 64, {3, 3, 4}, 3, 4, 5, {498, 96, 160, 3, 2}, {32, 24, 16, 16}, 0},
    {"tiny-vae", 256, 2, 320, 2, 12, 16, 96, 24, 64, {3, 3, 4}, 3, 4, 5, {498, 96, 160, 3, 2}, {0}, 8},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };
const char *const sc_random_model_shapes[] = {"wan-1.3b", "wan-1.3b-vae", "wan-14b", "tiny", "tiny-vae", NULL};

typedef struct {
    char name[112];
    int rank;
    int64_t shape[5];
    size_t count;
    float scale, offset; /* value = offset + scale * normal */
} tensor;

typedef struct {
    tensor *t;
    int n, room;
    bool failed;
} tensor_list;

/* ---- the tensors of a shape --------------------------------------------------------------------------------------------- */

/* rank dims follow. scale < 0: 1 / sqrt(product of all dims but the first). */
static void add(tensor_list *l, float scale, float offset, int rank, const int64_t *dims, const char *fmt, ...) __attribute__((format(printf, 6, 7)));
static void add(tensor_list *l, float scale, float offset, int rank, const int64_t *dims, const char *fmt, ...) {
    va_list args;
    if (l->n == l->room) {
        const int room = l->room ? 2 * l->room : 256;
        tensor *t = realloc(l->t, (size_t)room * sizeof *t);
        if (!t) { l->failed = true; return; }
        l->t = t;
        l->room = room;
    }
    tensor *t = &l->t[l->n++];
    va_start(args, fmt);
    vsnprintf(t->name, sizeof t->name, fmt, args);
    va_end(args);
    t->rank = rank;
    t->count = 1;
    for (int i = 0; i < rank; i++) {
        t->shape[i] = dims[i];
        t->count *= (size_t)dims[i];
    }
    t->scale = scale < 0 ? 1.0f / sqrtf((float)(t->count / (size_t)dims[0])) : scale;
    t->offset = offset;
}

#define DIMS(...) (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__}

static void add_linear(tensor_list *l, const char *name, int rows, int cols) {
    add(l, -1, 0, DIMS(rows, cols), "%s.weight", name);
    add(l, 0.02f, 0, DIMS(rows), "%s.bias", name);
}

static void transformer(tensor_list *l, const shape *s) {
    static const char *const square[] = {"self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.k", "cross_attn.v", "cross_attn.o"};
    static const char *const norms[] = {"self_attn.norm_q", "self_attn.norm_k", "cross_attn.norm_q", "cross_attn.norm_k", "norm3"};
    char name[96];

    add(l, -1, 0, DIMS(s->dim, 16, 1, 2, 2), "patch_embedding.weight");
    add(l, 0.02f, 0, DIMS(s->dim), "patch_embedding.bias");
    add_linear(l, "text_embedding.0", s->dim, s->text_dim);
    add_linear(l, "text_embedding.2", s->dim, s->dim);
    add_linear(l, "time_embedding.0", s->dim, s->freq);
    add_linear(l, "time_embedding.2", s->dim, s->dim);
    add_linear(l, "time_projection.1", 6 * s->dim, s->dim);
    add_linear(l, "head.head", 64, s->dim);
    add(l, 1.0f / sqrtf((float)s->dim), 0, DIMS(1, 2, s->dim), "head.modulation");
    for (int i = 0; i < s->layers; i++) {
        add(l, 1.0f / sqrtf((float)s->dim), 0, DIMS(1, 6, s->dim), "blocks.%d.modulation", i);
        for (size_t k = 0; k < sizeof square / sizeof *square; k++) {
            snprintf(name, sizeof name, "blocks.%d.%s", i, square[k]);
            add_linear(l, name, s->dim, s->dim);
        }
        for (size_t k = 0; k < sizeof norms / sizeof *norms; k++) add(l, 0.05f, 1, DIMS(s->dim), "blocks.%d.%s.weight", i, norms[k]);
        add(l, 0.02f, 0, DIMS(s->dim), "blocks.%d.norm3.bias", i);
        snprintf(name, sizeof name, "blocks.%d.ffn.0", i);
        add_linear(l, name, s->ffn, s->dim);
        snprintf(name, sizeof name, "blocks.%d.ffn.2", i);
        add_linear(l, name, s->dim, s->ffn);
    }
}

static void text_encoder(tensor_list *l, const shape *s) {
    const int dim = s->t5.dim, ffn = s->t5.ffn;
    add(l, 1, 0, DIMS(s->t5.vocab, dim), "token_embedding.weight");
    add(l, 0.05f, 1, DIMS(dim), "norm.weight");
    for (int i = 0; i < s->t5.layers; i++) {
        for (int k = 0; k < 4; k++) /* no 1 / sqrt(d) in this attention: the scale is the query's */
            add(l, k ? -1.0f : 1.0f / (sqrtf((float)dim) * sqrtf((float)dim / (float)s->t5.heads)), 0, DIMS(dim, dim), "blocks.%d.attn.%c.weight", i, "qkvo"[k]);
        add(l, 1, 0, DIMS(32, s->t5.heads), "blocks.%d.pos_embedding.embedding.weight", i);
        for (int k = 1; k <= 2; k++) add(l, 0.05f, 1, DIMS(dim), "blocks.%d.norm%d.weight", i, k);
        add(l, -1, 0, DIMS(ffn, dim), "blocks.%d.ffn.gate.0.weight", i);
        add(l, -1, 0, DIMS(ffn, dim), "blocks.%d.ffn.fc1.weight", i);
        add(l, -1, 0, DIMS(dim, ffn), "blocks.%d.ffn.fc2.weight", i);
    }
}

static void add_conv(tensor_list *l, const char *name, int out, int in, int size, bool bias) {
    add(l, -1, 0, DIMS(out, in, size, size), "%s.weight", name);
    if (bias) add(l, 0.02f, 0, DIMS(out), "%s.bias", name);
}

static void taehv(tensor_list *l, const shape *s) {
    static const int time[] = {1, 2, 2};
    char name[64];
    add_conv(l, "decoder.1", s->dec[0], 16, 3, true);
    for (int level = 0; level < 3; level++) {
        const int base = 3 + 6 * level, width = s->dec[level];
        for (int b = 0; b < 3; b++)
            for (int c = 0; c < 3; c++) {
                snprintf(name, sizeof name, "decoder.%d.conv.%d", base + b, 2 * c);
                add_conv(l, name, width, c ? width : 2 * width, 3, true);
            }
        snprintf(name, sizeof name, "decoder.%d.conv", base + 4);
        add_conv(l, name, width * time[level], width, 1, false);
        snprintf(name, sizeof name, "decoder.%d", base + 5);
        add_conv(l, name, s->dec[level + 1], width, 3, false);
    }
    add_conv(l, "decoder.22", 3, s->dec[3], 3, true);
}

static void add_conv3(tensor_list *l, const char *name, int out, int in, int t, int size) {
    add(l, -1, 0, DIMS(out, in, t, size, size), "%s.weight", name);
    add(l, 0.02f, 0, DIMS(out), "%s.bias", name);
}

static void vae_residual(tensor_list *l, const char *name, int in, int out) {
    char full[96];
    add(l, 0.05f, 1, DIMS(in, 1, 1, 1), "%s.residual.0.gamma", name);
    snprintf(full, sizeof full, "%s.residual.2", name);
    add_conv3(l, full, out, in, 3, 3);
    add(l, 0.05f, 1, DIMS(out, 1, 1, 1), "%s.residual.3.gamma", name);
    snprintf(full, sizeof full, "%s.residual.6", name);
    add_conv3(l, full, out, out, 3, 3);
    if (in == out) return;
    snprintf(full, sizeof full, "%s.shortcut", name);
    add_conv3(l, full, out, in, 1, 1);
}

/* The decoder half of the Wan VAE: widths 4, 4, 4, 2, 1 times vae_dim; each doubling in space halves the channels. */
static void wan_vae(tensor_list *l, const shape *s) {
    const int d = s->vae_dim, width[] = {4 * d, 4 * d, 4 * d, 2 * d, d};
    char name[64];
    add_conv3(l, "conv2", 16, 16, 1, 1);
    add_conv3(l, "decoder.conv1", 4 * d, 16, 3, 3);
    vae_residual(l, "decoder.middle.0", 4 * d, 4 * d);
    add(l, 0.05f, 1, DIMS(4 * d, 1, 1), "decoder.middle.1.norm.gamma");
    add_conv(l, "decoder.middle.1.to_qkv", 12 * d, 4 * d, 1, true);
    add_conv(l, "decoder.middle.1.proj", 4 * d, 4 * d, 1, true);
    vae_residual(l, "decoder.middle.2", 4 * d, 4 * d);
    for (int level = 0; level < 4; level++) {
        int in = level ? width[level] / 2 : width[0];
        for (int b = 0; b < 3; b++) {
            snprintf(name, sizeof name, "decoder.upsamples.%d", 4 * level + b);
            vae_residual(l, name, in, width[level + 1]);
            in = width[level + 1];
        }
        if (level == 3) break;
        snprintf(name, sizeof name, "decoder.upsamples.%d.resample.1", 4 * level + 3);
        add_conv(l, name, in / 2, in, 3, true);
        if (level < 2) {
            snprintf(name, sizeof name, "decoder.upsamples.%d.time_conv", 4 * level + 3);
            add_conv3(l, name, 2 * in, in, 3, 1);
        }
    }
    add(l, 0.05f, 1, DIMS(d, 1, 1, 1), "decoder.head.0.gamma");
    add_conv3(l, "decoder.head.2", 3, d, 3, 3);
}

/* ---- filling ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    const tensor_list *list;
    uint16_t **data;                 /* where each tensor begins */
    const float *normal;
    pthread_mutex_t lock;
    int next_tensor;                 /* guarded by lock */
    size_t next_at;
} filling;

static uint64_t mix(uint64_t x) { /* splitmix64 */
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint16_t to_bf16(float f) { /* to nearest, ties to even; no NaN here */
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static void *fill_main(void *arg) {
    filling *f = arg;
    for (;;) {
        pthread_mutex_lock(&f->lock);
        while (f->next_tensor < f->list->n && f->next_at >= f->list->t[f->next_tensor].count) f->next_tensor++, f->next_at = 0;
        const int which = f->next_tensor;
        const size_t at = f->next_at;
        f->next_at += PIECE;
        pthread_mutex_unlock(&f->lock);
        if (which >= f->list->n) return NULL;
        const tensor *t = &f->list->t[which];
        const size_t end = at + PIECE < t->count ? at + PIECE : t->count;
        const uint64_t key = mix((uint64_t)which) | 1;
        uint16_t *out = f->data[which];
        for (size_t i = at; i < end; i++) {
            const uint64_t h = (i + 1) * key;
            out[i] = to_bf16(t->offset + t->scale * f->normal[(h ^ h >> 29) * 0x9e3779b97f4a7c15u >> 48]);
        }
    }
}

static float *normal_table(void) {
    float *t = malloc(TABLE * sizeof *t);
    for (int i = 0; t && i < TABLE; i += 2) {
        const double u = ((double)(mix((uint64_t)i) >> 11) + 1) / 9007199254740993.0, v = (double)(mix((uint64_t)i + 1) >> 11) / 9007199254740992.0;
        const double r = sqrt(-2 * log(u));
        t[i] = (float)(r * cos(2 * M_PI * v));
        t[i + 1] = (float)(r * sin(2 * M_PI * v));
    }
    return t;
}

/* ---- files -------------------------------------------------------------------------------------------------------------- */

static char *header_text(const tensor_list *l, size_t *n) {
    char *text = NULL;
    size_t at = 0;
    FILE *f = open_memstream(&text, n);
    if (!f) return NULL;
    fputc('{', f);
    for (int i = 0; i < l->n; i++) {
        const tensor *t = &l->t[i];
        fprintf(f, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[", i ? "," : "", t->name);
        for (int k = 0; k < t->rank; k++) fprintf(f, "%s%lld", k ? "," : "", (long long)t->shape[k]);
        fprintf(f, "],\"data_offsets\":[%zu,%zu]}", at, at + 2 * t->count);
        at += 2 * t->count;
    }
    fputc('}', f);
    while ((size_t)ftello(f) % 8) fputc(' ', f);
    return fclose(f) ? free(text), NULL : text;
}

static sc_status write_tensors(const char *dir, const char *name, tensor_list *l, const float *normal, size_t *bytes, sc_error *err) {
    char path[PATH_MAX_BYTES];
    size_t header_n = 0, total = 0;
    char *header = l->failed ? NULL : header_text(l, &header_n);
    filling f = {.list = l, .normal = normal};
    pthread_t threads[THREADS_MAX];
    void *map = MAP_FAILED;
    int fd = -1, n = 0, cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
    sc_status rc = SC_OK;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (!header || !(f.data = calloc((size_t)l->n, sizeof *f.data))) { rc = sc_fail(err, SC_ENOMEM, "%s: out of memory", path); goto cleanup; }
    for (int i = 0; i < l->n; i++) total += 2 * l->t[i].count;
    if ((fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) < 0) { rc = sc_fail(err, SC_EIO, "%s: %s", path, strerror(errno)); goto cleanup; }
    const int short_of = posix_fallocate(fd, 0, (off_t)(8 + header_n + total)); /* a full disk says so here, not as SIGBUS */
    if (short_of) { rc = sc_fail(err, SC_EIO, "%s: %s", path, strerror(short_of)); goto cleanup; }
    map = mmap(NULL, 8 + header_n + total, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) { rc = sc_fail(err, SC_EIO, "%s: %s", path, strerror(errno)); goto cleanup; }
    for (int i = 0; i < 8; i++) ((unsigned char *)map)[i] = (unsigned char)((uint64_t)header_n >> 8 * i);
    memcpy((char *)map + 8, header, header_n);
    uint16_t *data = (uint16_t *)((char *)map + 8 + header_n);
    for (int i = 0; i < l->n; i++) {
        f.data[i] = data;
        data += l->t[i].count;
    }
    pthread_mutex_init(&f.lock, NULL);
    cores = cores < 1 ? 1 : cores > THREADS_MAX ? THREADS_MAX : cores;
    while (n < cores - 1 && !pthread_create(&threads[n], NULL, fill_main, &f)) n++;
    fill_main(&f);
    while (n > 0) pthread_join(threads[--n], NULL);
    pthread_mutex_destroy(&f.lock);
    if (bytes) *bytes += total;
cleanup:
    if (map != MAP_FAILED) munmap(map, 8 + header_n + total);
    if (fd >= 0 && close(fd) && !rc) rc = sc_fail(err, SC_EIO, "%s: %s", path, strerror(errno));
    free(f.data);
    free(header);
    free(l->t);
    *l = (tensor_list){0};
    return rc;
}

static sc_status write_config(const char *dir, const shape *s, sc_error *err) {
    char path[PATH_MAX_BYTES];
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *f = fopen(path, "we");
    if (!f) return sc_fail(err, SC_EIO, "%s: %s", path, strerror(errno));
    fprintf(f, "{\"format\":\"sparsecast-1\",\"name\":\"random-%s\",\"fps\":16,\n"
               " \"dit\":{\"dim\":%d,\"heads\":%d,\"head_dim\":%d,\"ffn_dim\":%d,\"layers\":%d,\"text_dim\":%d,\"text_len\":%d,\"freq_dim\":%d,\"in_ch\":16,"
               "\"out_ch\":16,\"patch\":[1,2,2],\"eps\":1e-6,\"files\":[\"dit.safetensors\"]},\n",
            s->name, s->dim, s->heads, s->dim / s->heads, s->ffn, s->layers, s->text_dim, s->text_len, s->freq);
    fprintf(f, " \"t5\":{\"vocab\":%d,\"dim\":%d,\"dim_attn\":%d,\"dim_ffn\":%d,\"heads\":%d,\"layers\":%d,\"buckets\":32,\"max_dist\":128,\"cleaning\":\"wan\","
               "\"files\":[\"text_encoder.safetensors\"],\"tokenizer\":\"spiece.model\"},\n",
            s->t5.vocab, s->t5.dim, s->t5.dim, s->t5.ffn, s->t5.heads, s->t5.layers);
    if (s->vae_dim) fprintf(f, " \"decoder\":{\"kind\":\"wan_vae\",\"dim\":%d,\"z\":16,\"patch\":1,\"file\":\"decoder.safetensors\"},\n", s->vae_dim);
    else
        fprintf(f, " \"decoder\":{\"kind\":\"taehv\",\"dec\":[%d,%d,%d,%d],\"z\":16,\"patch\":1,\"file\":\"decoder.safetensors\"},\n", s->dec[0], s->dec[1],
                s->dec[2], s->dec[3]);
    fprintf(f, " \"chunk_frames\":3,\"latent_hw\":[%d,%d],\n \"memory\":{\"kind\":\"pbsa\",\"tile\":[%d,%d,%d],\"window_chunks\":%d,\"persistent_blocks\":%d,"
               "\"keep_ratio\":0.25,\"max_distance\":18},\n \"sampler\":{\"shift\":%g,\"steps\":[1000,750,500,250],\"sigma\":\"table\"}}\n",
            s->latent_h, s->latent_w, s->tile[0], s->tile[1], s->tile[2], s->window_chunks, s->persistent, s->shift);
    if (fclose(f)) return sc_fail(err, SC_EIO, "%s: %s", path, strerror(errno));
    return SC_OK;
}

static sc_status copy_file(const char *from, const char *dir, const char *name, sc_error *err) {
    char path[PATH_MAX_BYTES], buf[65536];
    size_t n;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *in = fopen(from, "re"), *out = in ? fopen(path, "we") : NULL;
    sc_status rc = out ? SC_OK : sc_fail(err, SC_EIO, "%s: %s", in ? path : from, strerror(errno));
    while (out && !rc && (n = fread(buf, 1, sizeof buf, in)) > 0)
        if (fwrite(buf, 1, n, out) != n) rc = sc_fail(err, SC_EIO, "%s: %s", path, strerror(errno));
    if (in) fclose(in);
    if (out && fclose(out) && !rc) rc = sc_fail(err, SC_EIO, "%s: %s", path, strerror(errno));
    return rc;
}

sc_status sc_random_model_write(const char *name, const char *dir, const char *tokenizer, size_t *bytes, sc_error *err) {
    const shape *s = NULL;
    tensor_list l = {0};
    sc_status rc;

    for (int i = 0; i < SHAPES; i++) if (!strcmp(shapes[i].name, name)) s = &shapes[i];
    if (!s) return sc_fail(err, SC_EINVAL, "shape %.60s: not one of wan-1.3b, wan-1.3b-vae, wan-14b, tiny, tiny-vae", name);
    if (mkdir(dir, 0755) && errno != EEXIST) return sc_fail(err, SC_EIO, "%s: %s", dir, strerror(errno));
    float *normal = normal_table();
    if (!normal) return sc_fail(err, SC_ENOMEM, "random weights: out of memory");
    if (bytes) *bytes = 0;
    transformer(&l, s);
    rc = write_tensors(dir, "dit.safetensors", &l, normal, bytes, err);
    if (!rc) {
        text_encoder(&l, s);
        rc = write_tensors(dir, "text_encoder.safetensors", &l, normal, bytes, err);
    }
    if (!rc) {
        if (s->vae_dim) wan_vae(&l, s);
        else taehv(&l, s);
        rc = write_tensors(dir, "decoder.safetensors", &l, normal, bytes, err);
    }
    if (!rc) rc = copy_file(tokenizer, dir, "spiece.model", err);
    if (!rc) rc = write_config(dir, s, err);
    free(normal);
    return rc;
}

void sc_random_model_remove(const char *dir) {
    static const char *const files[] = {"config.json", "dit.safetensors", "text_encoder.safetensors", "decoder.safetensors", "spiece.model"};
    char path[PATH_MAX_BYTES];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        unlink(path);
    }
    rmdir(dir);
}

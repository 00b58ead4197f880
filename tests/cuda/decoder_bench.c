/* decoder_bench.c - the TAEHV decoder at 832x480 (published widths 256, 128, 64, 64, random weights) on the card: 12 frames from 3
 * latents to I420, and its convolutions one by one.
 *
 *   decoder_bench [f16|bf16] [latent rows] [latent columns]
 *
 * Medians of 20 readings between CUDA events after a warm-up. The weights go through a safetensors file in $TMPDIR, as a model's do. */
#include "engine/tae.h"
#include "tests/cuda/cuda_check.h"

#include <cuda_runtime_api.h>
#include <unistd.h>

#include "kernels/cuda/cuda.h"

enum { READINGS = 20, WARM = 10 };

static cudaEvent_t begin, end;

static int by_value(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Median ms of a call. */
static double median_ms(void (*call)(void *), void *ctx) {
    float ms[READINGS];
    cudaStream_t stream = ((struct sc_cuda *)cuda)->stream;
    for (int i = 0; i < WARM; i++) call(ctx);
    for (int i = 0; i < READINGS; i++) {
        cudaEventRecord(begin, stream);
        call(ctx);
        cudaEventRecord(end, stream);
        if (cudaEventSynchronize(end) != cudaSuccess) exit(1);
        cudaEventElapsedTime(&ms[i], begin, end);
    }
    qsort(ms, READINGS, sizeof *ms, by_value);
    return 0.5 * (ms[READINGS / 2 - 1] + ms[READINGS / 2]);
}

/* ---- a safetensors file of random weights ------------------------------------------------------------------------------- */

typedef struct { char header[1 << 14]; size_t at, bytes; FILE *data; } writer;

static void add_tensor(writer *w, const char *name, int rank, const int *shape) {
    size_t n = 1;
    w->at += (size_t)snprintf(w->header + w->at, sizeof w->header - w->at, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[", w->bytes ? "," : "{", name);
    for (int i = 0; i < rank; i++) {
        w->at += (size_t)snprintf(w->header + w->at, sizeof w->header - w->at, "%s%d", i ? "," : "", shape[i]);
        n *= (size_t)shape[i];
    }
    w->at += (size_t)snprintf(w->header + w->at, sizeof w->header - w->at, "],\"data_offsets\":[%zu,%zu]}", w->bytes, w->bytes + 2 * n);
    const float scale = 1.0f / sqrtf((float)(n / (size_t)shape[0]));
    for (size_t i = 0; i < n; i++) {
        const uint16_t u = to_bf16(normal_number() * scale);
        fwrite(&u, 2, 1, w->data);
    }
    w->bytes += 2 * n;
}

static void add_conv(writer *w, const char *name, int out, int in, int size, bool bias) {
    char full[80];
    snprintf(full, sizeof full, "%s.weight", name);
    add_tensor(w, full, 4, (int[]){out, in, size, size});
    snprintf(full, sizeof full, "%s.bias", name);
    if (bias) add_tensor(w, full, 1, (int[]){out});
}

static void write_weights(const char *path) {
    static const int width[] = {256, 128, 64, 64}, time[] = {1, 2, 2};
    static writer w;
    char name[48], piece[4096];
    size_t n;
    w.data = tmpfile();
    add_conv(&w, "decoder.1", width[0], 16, 3, true);
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 9; k++) {
            snprintf(name, sizeof name, "decoder.%d.conv.%d", 3 + 6 * i + k / 3, k % 3 * 2);
            add_conv(&w, name, width[i], k % 3 ? width[i] : 2 * width[i], 3, true);
        }
        snprintf(name, sizeof name, "decoder.%d.conv", 7 + 6 * i);
        add_conv(&w, name, width[i] * time[i], width[i], 1, false);
        snprintf(name, sizeof name, "decoder.%d", 8 + 6 * i);
        add_conv(&w, name, width[i + 1], width[i], 3, false);
    }
    add_conv(&w, "decoder.22", 3, width[3], 3, true);
    strcat(w.header, "}");
    const uint64_t length = strlen(w.header);
    FILE *f = fopen(path, "wb");
    if (!f) { perror(path); exit(1); }
    fwrite(&length, 8, 1, f);
    fwrite(w.header, 1, length, f);
    rewind(w.data);
    while ((n = fread(piece, 1, sizeof piece, w.data))) fwrite(piece, 1, n, f);
    fclose(f);
    fclose(w.data);
}

/* ---- what is timed ------------------------------------------------------------------------------------------------------ */

typedef struct { sc_tae *tae; sc_tae_state state; float *latent; uint8_t *i420; int count; } decoding;

static void decode_once(void *ctx) {
    decoding *d = ctx;
    MUST(sc_tae_decode(d->tae, &d->state, d->latent, 3, true, false, NULL, d->i420, &d->count, NULL, NULL, &check_err));
}

static void conv_once(void *ctx) { MUST(cuda->ops->conv(cuda, ctx, &check_err)); }

static void time_layer(const char *what, int n, int h, int w, int in, int out, int size, bool past, bool up, int s, sc_dtype act) {
    const int scale = up ? 2 : 1, ch = past ? in / 2 : in;
    const size_t taps = (size_t)(size * size), count = (size_t)out * (size_t)in * taps;
    float *weight = malloc(count * 4);
    sc_filter *f;
    for (size_t i = 0; i < count; i++) weight[i] = normal_number() / sqrtf((float)(in * size * size));
    MUST(cuda->ops->filter_create(cuda, &f, &(sc_filter_desc){.out_ch = out, .in_ch = in, .size = size, .stride = 1, .has_past = past, .data = weight, .type = SC_F32}, &check_err));
    buffer x = input((size_t)n * (size_t)(h * w * ch), act, 1), before = input((size_t)(h * w * ch), act, 1), y = output((size_t)n * (size_t)(h * w * scale * scale * out), act);
    sc_conv_args c = {.w = f, .x = x.dev, .past = past ? before.dev : NULL, .out = y.dev, .n = n, .h = h, .w_px = w, .relu = true, .upsample = up, .s = s};
    const double ms = median_ms(conv_once, &c);
    const double flop = 2.0 * n * h * w * scale * scale * out * in * (up ? 4 : (double)taps);
    printf("| %-28s | %2d x %3d x %3d | %3d -> %3d | %.4f | %4.0f |\n", what, n, h, w, in, out, ms, flop * 1e-9 / ms);
    fflush(stdout);
    cuda->ops->filter_destroy(cuda, f);
    drop(&x), drop(&before), drop(&y);
    free(weight);
}

int main(int argc, char **argv) {
    const sc_dtype act = argc > 1 && !strcmp(argv[1], "f16") ? SC_F16 : SC_BF16;
    const int h = argc > 2 ? atoi(argv[2]) : 60, w = argc > 3 ? atoi(argv[3]) : 104;
    const sc_tae_shape shape = sc_tae_published(16, 1, h, w, 3);
    const char *dir = getenv("TMPDIR");
    decoding d = {0};
    sc_tensors *set;
    char path[512];

    if (sc_device_open(&cuda, "cuda", 0, act, &check_err)) {
        printf("SKIPPED: %s\n", check_err.text);
        return 77;
    }
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    snprintf(path, sizeof path, "%s/decoder_bench-%d.safetensors", dir ? dir : "/tmp", (int)getpid());
    write_weights(path);
    MUST(sc_tensors_open(&set, (const char *[]){path}, 1, &check_err));
    unlink(path);
    MUST(sc_tae_load(&d.tae, cuda, set, "", &shape, &check_err));
    MUST(sc_tae_state_init(d.tae, &d.state, &check_err));
    buffer latent = input((size_t)(16 * 3 * h * w), SC_F32, 1);
    d.latent = latent.dev;
    MUST(cuda->ops->alloc(cuda, (void **)&d.i420, (size_t)(12 * 64 * h * w) * 3 / 2, &check_err));
    printf("%s, %s, %d x %d\n", cuda->name, act == SC_F16 ? "f16" : "bf16", w * 8, h * 8);
    const double ms = median_ms(decode_once, &d);
    printf("TAEHV, 12 frames: %.3f ms\n| layer | pictures | channels | ms | TFLOP/s |\n", ms);
    time_layer("first 3x3", 3, h, w, 16, 256, 3, false, false, 0, act);
    time_layer("level 0 memory 3x3", 3, h, w, 512, 256, 3, true, false, 0, act);
    time_layer("level 0 3x3 (x 6)", 3, h, w, 256, 256, 3, false, false, 0, act);
    time_layer("level 0 doubling 3x3", 3, h, w, 256, 128, 3, false, true, 1, act);
    time_layer("level 1 memory 3x3", 3, 2 * h, 2 * w, 256, 128, 3, true, false, 0, act);
    time_layer("level 1 3x3 (x 6)", 3, 2 * h, 2 * w, 128, 128, 3, false, false, 0, act);
    time_layer("level 1 doubling to 2 frames", 3, 2 * h, 2 * w, 128, 128, 3, false, true, 2, act);
    time_layer("level 2 memory 3x3 (x 3)", 6, 4 * h, 4 * w, 128, 64, 3, true, false, 0, act);
    time_layer("level 2 3x3 (x 6)", 6, 4 * h, 4 * w, 64, 64, 3, false, false, 0, act);
    time_layer("level 2 doubling to 2 frames", 6, 4 * h, 4 * w, 64, 128, 3, false, true, 2, act);
    time_layer("last 3x3", 12, 8 * h, 8 * w, 64, 3, 3, false, false, 0, act);
    sc_tae_state_free(d.tae, &d.state);
    sc_tae_close(d.tae);
    sc_tensors_close(set);
    cuda->ops->release(cuda, d.i420);
    drop(&latent);
    sc_device_close(cuda);
    return 0;
}

/* vae_check.c - the Wan VAE's operations on the card: compared with their twins, then timed at 832x480.
 *
 *   vae_check check [bf16|f16]    awkward shapes of conv3, channel_norm, frame_attention, planes_in; both types without a second argument
 *   vae_check small [bf16|f16]    the same without the largest, for compute-sanitizer
 *   vae_check time [bf16|f16]     every layer of the decoder, 3 latents to 12 frames: medians of 20 readings after a warm-up, and their sum
 *
 * Each convolution is made three times: by mma.sync, by wgmma with every CTA a tile at most, and by wgmma as on a card of one
 * multiprocessor, where one CTA walks over all tiles and the wide tiles are chosen for small pictures too; each of these alone, with the norm
 * that follows (a residual then being the output's own memory), and with the norm alone.
 * Tolerances are relative L2: the output is rounded once, by u = 2^-8 (bf16) or 2^-11 (f16) of itself at most, and f32 sums of n products drift by n 2^-24.
 * Another u for a norm, before which some paths round, and for a doubling, whose sums of weights some paths round.
 * Exit: 0 all well, 1 a difference, 77 no card. */
#include "tests/cuda/cuda_check.h"

#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda.h"

enum { READINGS = 20, WARM = 5 };

static bool small;

static double unit(void) { return cuda->act == SC_F16 ? 1.0 / 2048 : 1.0 / 256; }

/* ---- check -------------------------------------------------------------------------------------------------------------- */

typedef struct {
    int n, h, w, in, out, taps, size, stride, time_stride;
    bool pad_end;
    int split;
    bool residual, bias, up;
} conv_shape;

static const conv_shape CONV_SHAPES[] = {
    {1, 1, 1, 8, 8, 3, 3, 1, 1, false, 1, false, true, false},        {1, 1, 1, 1, 1, 3, 3, 1, 1, false, 1, true, false, false},
    {3, 5, 3, 16, 3, 3, 3, 1, 1, false, 1, false, true, false},       {2, 33, 17, 24, 3, 3, 3, 1, 1, false, 1, true, true, false},
    {2, 7, 19, 8, 16, 3, 3, 1, 1, false, 1, true, true, false},       {1, 40, 18, 96, 96, 3, 3, 1, 1, false, 1, true, true, false},
    {3, 32, 16, 40, 96, 3, 3, 1, 1, false, 1, false, true, false},    {1, 17, 33, 16, 192, 3, 3, 1, 1, false, 1, true, true, false},
    {2, 9, 7, 192, 384, 3, 3, 1, 1, false, 1, false, true, false},    {2, 13, 31, 24, 128, 3, 3, 1, 1, false, 1, true, true, false},
    {1, 11, 15, 56, 200, 3, 3, 1, 1, false, 1, true, true, false},    {2, 9, 10, 16, 30, 3, 3, 1, 1, false, 1, true, true, false},
    {4, 21, 70, 96, 3, 3, 3, 1, 1, false, 1, false, true, false},     {1, 8, 32, 64, 1, 3, 3, 1, 1, false, 1, false, false, false},
    {2, 9, 33, 128, 2, 3, 3, 1, 1, false, 1, false, true, false},     {5, 17, 5, 8, 3, 3, 3, 1, 1, false, 1, true, true, false},
    {2, 6, 9, 12, 20, 3, 3, 1, 1, false, 1, false, true, false},      {4, 5, 7, 16, 24, 2, 3, 1, 1, false, 1, true, true, false},
    {3, 6, 13, 384, 768, 3, 1, 1, 1, false, 2, false, true, false},   {2, 19, 21, 24, 48, 3, 1, 1, 1, false, 2, true, true, false},
    {2, 17, 3, 8, 6, 3, 1, 1, 1, false, 3, true, true, false},        {2, 5, 6, 72, 208, 3, 1, 1, 1, false, 1, true, false, false},
    {4, 6, 8, 16, 16, 3, 1, 1, 2, false, 1, false, true, false},      {5, 3, 4, 8, 24, 3, 1, 1, 2, false, 1, false, true, false},
    {2, 8, 10, 16, 24, 1, 3, 2, 1, true, 1, false, true, false},      {1, 9, 7, 24, 16, 1, 3, 2, 1, true, 1, true, true, false},
    {2, 6, 5, 16, 24, 1, 1, 1, 1, false, 1, true, true, false},       {2, 6, 5, 16, 24, 1, 1, 1, 1, false, 3, true, true, false},
    {2, 4, 5, 16, 32, 1, 1, 1, 1, false, 2, false, true, false},      {1, 7, 9, 8, 16, 1, 3, 1, 1, false, 1, true, true, false},
    {1, 24, 20, 16, 384, 3, 3, 1, 1, false, 1, true, true, false},    {1, 49, 3, 8, 120, 3, 3, 1, 1, false, 1, true, true, false},
    {1, 1, 1, 8, 8, 1, 3, 1, 1, false, 1, false, true, true},         {2, 5, 7, 24, 96, 1, 3, 1, 1, false, 1, false, true, true},
    {1, 17, 19, 40, 192, 1, 3, 1, 1, false, 1, false, false, true},   {2, 9, 18, 72, 200, 1, 3, 1, 1, false, 1, false, true, true},
    {2, 3, 4, 5, 6, 1, 3, 1, 1, false, 1, false, true, true},         {3, 33, 17, 8, 40, 1, 3, 1, 1, false, 1, false, true, true},
    {1, 9, 17, 384, 192, 1, 3, 1, 1, false, 1, false, true, true},
};

static sc_filter *make_filter(sc_device *dev, const conv_shape *s, const float *weight, const float *bias) {
    sc_filter *f;
    MUST(dev->ops->filter_create(dev, &f, &(sc_filter_desc){.out_ch = s->out, .in_ch = s->in, .size = s->size, .stride = s->stride, .taps = s->taps,
        .time_stride = s->time_stride, .pad_end = s->pad_end, .data = weight, .type = SC_F32, .bias = s->bias ? bias : NULL, .bias_type = SC_F32}, &check_err));
    return f;
}

/* One call on the card, compared. */
static void check_call(const char *what, sc_filter *f, const conv_shape *s, const buffer *x, const buffer *past, const buffer *residual, const buffer *gamma,
                       const float *want, const float *want_norm, bool silu, double tolerance) {
    const size_t count = residual->n;
    const bool in_place = s->residual && want && want_norm;
    buffer y = in_place ? make_buffer(count, cuda->act, residual->host) : output(count, cuda->act), z = output(count, cuda->act);
    const sc_channel_norm_args norm = {.out = z.dev, .gamma = gamma->dev, .silu = silu};
    char text[160];

    MUST(cuda->ops->conv3(cuda, &(sc_conv3_args){.w = f, .x = x->dev, .past = s->taps > 1 ? past->dev : NULL, .residual = !s->residual ? NULL : in_place ? y.dev : residual->dev,
        .out = want ? y.dev : NULL, .n = s->n, .h = s->h, .w_px = s->w, .split = s->split, .upsample = s->up, .then = want_norm ? &norm : NULL}, &check_err));
    if (want) memcpy(y.host, want, count * 4);
    if (want_norm) memcpy(z.host, want_norm, count * 4);
    same(what, &y, tolerance);
    snprintf(text, sizeof text, "%s, norm%s%s", what, silu ? ", silu" : "", want ? "" : " alone");
    same(text, &z, tolerance + unit());
}

static void check_conv3(const conv_shape *s) {
    struct sc_cuda *card = (struct sc_cuda *)cuda;
    const int up = s->up ? 2 : 1, oh = (s->h * up - 1) / s->stride + 1, ow = (s->w * up - 1) / s->stride + 1, sms = card->sm_count, k = s->in * s->taps * s->size * s->size;
    const int ch = s->out / s->split;
    const size_t frame = (size_t)(s->h * s->w * s->in), count = (size_t)(s->n / s->time_stride * oh * ow * s->out);
    if (small && (double)count * k > 1e8) return;
    float *weight = malloc((size_t)s->out * (size_t)k * 4), *bias = malloc((size_t)s->out * 4), *want[3];
    for (int i = 0; i < 3; i++) want[i] = malloc(count * 4);
    for (size_t i = 0; i < (size_t)s->out * (size_t)k; i++) weight[i] = rounded(normal_number() / sqrtf((float)k), cuda->act);
    for (int i = 0; i < s->out; i++) bias[i] = normal_number();
    sc_filter *mine = make_filter(cuda, s, weight, bias), *theirs = make_filter(twin, s, weight, bias);
    buffer x = input(frame * (size_t)s->n, cuda->act, 1), past = input(frame * (size_t)(s->taps - 1), cuda->act, 1), residual = input(count, cuda->act, 1);
    buffer gamma = input((size_t)ch, SC_F32, 1);
    MUST(twin->ops->conv3(twin, &(sc_conv3_args){.w = theirs, .x = x.host, .past = s->taps > 1 ? past.host : NULL, .residual = s->residual ? residual.host : NULL, .out = want[0],
        .n = s->n, .h = s->h, .w_px = s->w, .split = s->split, .upsample = s->up}, &check_err));
    for (int silu = 0; silu < 2; silu++)
        MUST(twin->ops->channel_norm(twin, &(sc_channel_norm_args){want[0], want[1 + silu], gamma.host, count / (size_t)ch, ch, silu}, &check_err));
    for (int way = 0; way < 3; way++) {
        static const char *const NAMES[] = {"mma.sync", "wgmma", "wgmma, one multiprocessor"};
        const double tolerance = (s->up ? 2 : 1) * unit() + k * 6e-8;
        char what[120];
        card->force_mma = way == 0;
        card->sm_count = way == 2 ? 1 : sms;
        snprintf(what, sizeof what, "conv3 %d x %d x %d, %d -> %d, %d x %d, stride %d/%d, split %d%s, %s", s->n, s->h, s->w, s->in, s->out, s->taps, s->size, s->stride,
                 s->time_stride, s->split, s->up ? ", doubled" : "", NAMES[way]);
        check_call(what, mine, s, &x, &past, &residual, &gamma, want[0], NULL, false, tolerance);
        check_call(what, mine, s, &x, &past, &residual, &gamma, want[0], want[1], false, tolerance);
        check_call(what, mine, s, &x, &past, &residual, &gamma, NULL, want[2], true, tolerance);
        card->force_mma = 0;
        card->sm_count = sms;
    }
    drop(&x), drop(&past), drop(&residual), drop(&gamma);
    cuda->ops->filter_destroy(cuda, mine);
    twin->ops->filter_destroy(twin, theirs);
    for (int i = 0; i < 3; i++) free(want[i]);
    free(weight), free(bias);
}

static void check_norm(size_t rows, int ch, bool silu) {
    char what[80];
    float *values = malloc(rows * (size_t)ch * 4);
    for (size_t i = 0; i < rows * (size_t)ch; i++) values[i] = i / (size_t)ch == rows / 2 && rows > 1 ? 0 : rounded(normal_number() * (float)(1 + i / (size_t)ch % 7), cuda->act);
    buffer x = make_buffer(rows * (size_t)ch, cuda->act, values), gamma = input((size_t)ch, SC_F32, 1), y = output(rows * (size_t)ch, cuda->act);
    BOTH(channel_norm, (&(sc_channel_norm_args){x.host, y.host, gamma.host, rows, ch, silu}), (&(sc_channel_norm_args){x.dev, y.dev, gamma.dev, rows, ch, silu}));
    snprintf(what, sizeof what, "channel_norm %zu x %d%s", rows, ch, silu ? ", silu" : "");
    same(what, &y, unit() + 1e-6);
    drop(&x), drop(&gamma);
    free(values);
}

/* `room`: elements of workspace for the scores; 0 = all there is. */
static void check_attention(int n, int pixels, int ch, size_t room) {
    struct sc_cuda *card = (struct sc_cuda *)cuda;
    const size_t whole = card->workspace_bytes, count = (size_t)(n * pixels * ch);
    char what[80];
    buffer qkv = input(3 * count, cuda->act, 1.5f), y = output(count, cuda->act);
    if (room) card->workspace_bytes = ((size_t)32 << 20) + 6 * room;
    BOTH(frame_attention, (&(sc_frame_attention_args){qkv.host, y.host, n, pixels, ch}), (&(sc_frame_attention_args){qkv.dev, y.dev, n, pixels, ch}));
    MUST(cuda->ops->sync(cuda, &check_err));
    card->workspace_bytes = whole;
    snprintf(what, sizeof what, "frame_attention %d x %d x %d, room %zu", n, pixels, ch, room);
    same(what, &y, 2.5 * unit() + ch * 6e-8); /* p is rounded, then the output */
    drop(&qkv);
}

static void check_planes(int ch, int frames, int first, int n, int h, int w, bool scaled) {
    char what[80];
    const size_t count = (size_t)(n * h * w * ch);
    buffer planes = input((size_t)(ch * frames * h * w), SC_F32, 1), scale = input((size_t)ch, SC_F32, 1), shift = input((size_t)ch, SC_F32, 1), y = output(count, cuda->act);
    BOTH(planes_in, (&(sc_planes_in_args){planes.host, scaled ? scale.host : NULL, scaled ? shift.host : NULL, y.host, ch, frames, first, n, h, w}),
         (&(sc_planes_in_args){planes.dev, scaled ? scale.dev : NULL, scaled ? shift.dev : NULL, y.dev, ch, frames, first, n, h, w}));
    snprintf(what, sizeof what, "planes_in %d x %d, frames %d + %d, %d x %d%s", ch, frames, first, n, h, w, scaled ? ", scaled" : "");
    same(what, &y, unit());
    drop(&planes), drop(&scale), drop(&shift);
}

static void check_all(void) {
    for (size_t i = 0; i < sizeof CONV_SHAPES / sizeof *CONV_SHAPES; i++) check_conv3(&CONV_SHAPES[i]);
    static const struct { size_t rows; int ch; } norms[] = {{1, 1}, {1, 8}, {17, 5}, {5, 96}, {4001, 96}, {1003, 192}, {77, 384}, {40, 16}, {9, 40}, {3, 1024}, {5, 1032}, {11, 344}};
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++) check_norm(norms[i].rows, norms[i].ch, i % 2), check_norm(norms[i].rows, norms[i].ch, i % 2 == 0);
    check_attention(1, 1, 8, 0);
    check_attention(2, 7, 16, 0);
    check_attention(3, 35, 96, 0);
    check_attention(2, 63, 24, 0);
    check_attention(1, 100, 5, 0);
    check_attention(2, 200, 384, 0);
    check_attention(2, 130, 32, 2048);
    check_attention(3, 40, 32, 3840);
    check_planes(16, 3, 1, 2, 5, 7, true);
    check_planes(3, 2, 0, 2, 9, 4, false);
    check_planes(1, 1, 0, 1, 1, 1, true);
}

/* ---- time --------------------------------------------------------------------------------------------------------------- */

static cudaEvent_t begin, end;
static char *x_mem, *past_mem, *residual_mem, *out_mem, *norm_mem;
static const float *gamma_mem;
static double total_ms, total_flop;

static int by_value(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static double median_ms(void (*call)(const void *), const void *args) {
    float ms[READINGS];
    cudaStream_t stream = ((struct sc_cuda *)cuda)->stream;
    for (int i = 0; i < WARM; i++) call(args);
    for (int i = 0; i < READINGS; i++) {
        cudaEventRecord(begin, stream);
        call(args);
        cudaEventRecord(end, stream);
        if (cudaEventSynchronize(end) != cudaSuccess) exit(1);
        cudaEventElapsedTime(&ms[i], begin, end);
    }
    qsort(ms, READINGS, sizeof *ms, by_value);
    return 0.5 * (ms[READINGS / 2 - 1] + ms[READINGS / 2]);
}

static void call_conv(const void *a) { MUST(cuda->ops->conv(cuda, a, &check_err)); }
static void call_conv3(const void *a) { MUST(cuda->ops->conv3(cuda, a, &check_err)); }
static void call_norm(const void *a) { MUST(cuda->ops->channel_norm(cuda, a, &check_err)); }
static void call_attention(const void *a) { MUST(cuda->ops->frame_attention(cuda, a, &check_err)); }
static void call_pixels(const void *a) { MUST(cuda->ops->pixels(cuda, a, &check_err)); }
static void call_copy(const void *bytes) { MUST(cuda->ops->copy(cuda, out_mem, x_mem, *(const size_t *)bytes, &check_err)); }

static void report(const char *what, int times, double ms, double flop, double bytes) {
    total_ms += times * ms, total_flop += times * flop;
    printf("| %-34s | %2d | %7.4f | %7.3f | %4.0f | %4.0f |\n", what, times, ms, times * ms, flop * 1e-9 / ms, bytes * 1e-6 / ms);
    fflush(stdout);
}

typedef enum { OUT, OUT_AND_NORM, NORM } outputs;

static void time_conv(const char *what, int times, int n, int h, int w, int in, int out, int taps, int size, int split, bool residual, bool up, outputs made) {
    const int k = in * taps * size * size;
    const conv_shape s = {n, h, w, in, out, taps > 1 || up ? taps : 0, size, 1, 1, false, split, residual, true, up};
    float *weight = malloc((size_t)out * (size_t)k * 4), *bias = malloc((size_t)out * 4);
    for (size_t i = 0; i < (size_t)out * (size_t)k; i++) weight[i] = normal_number() / sqrtf((float)k);
    for (int i = 0; i < out; i++) bias[i] = normal_number();
    sc_filter *f = make_filter(cuda, &s, weight, bias);
    const sc_channel_norm_args norm = {.out = norm_mem, .gamma = gamma_mem, .silu = true};
    const sc_conv3_args c3 = {.w = f, .x = x_mem, .past = past_mem, .residual = residual ? residual_mem : NULL, .out = made == NORM ? NULL : out_mem, .n = n, .h = h, .w_px = w,
                              .split = split, .upsample = up, .then = made == OUT ? NULL : &norm};
    const sc_conv_args c = {.w = f, .x = x_mem, .residual = residual ? residual_mem : NULL, .out = out_mem, .n = n, .h = h, .w_px = w};
    const double ms = s.taps ? median_ms(call_conv3, &c3) : median_ms(call_conv, &c), pixels = (double)n * h * w * (up ? 4 : 1);
    report(what, times, ms, 2 * pixels * k * out, 2 * ((double)(n + taps - 1) * h * w * in + pixels * out * ((residual ? 2 : 1) + (made == OUT_AND_NORM))));
    cuda->ops->filter_destroy(cuda, f);
    free(weight), free(bias);
}

static void time_norm(const char *what, int times, size_t rows, int ch, bool silu) {
    const sc_channel_norm_args a = {x_mem, out_mem, gamma_mem, rows, ch, silu};
    report(what, times, median_ms(call_norm, &a), 0, 4.0 * (double)rows * ch);
}

static void time_copy(const char *what, int times, size_t frame) {
    const size_t bytes = 4 * frame; /* two frames, 2 bytes a value */
    report(what, times, median_ms(call_copy, &bytes), 0, 2.0 * (double)bytes);
}

/* Device memory full of random numbers of the act type. */
static char *random_memory(size_t bytes) {
    const size_t piece = (size_t)32 << 20, n = piece / 2;
    char *p;
    buffer b = input(n, cuda->act, 1);
    MUST(cuda->ops->alloc(cuda, (void **)&p, bytes, &check_err));
    for (size_t at = 0; at < bytes; at += piece) MUST(cuda->ops->copy(cuda, p + at, b.dev, bytes - at < piece ? bytes - at : piece, &check_err));
    MUST(cuda->ops->sync(cuda, &check_err));
    drop(&b);
    return p;
}

static void time_all(void) {
    const int h = 60, w = 104;
    const size_t px = (size_t)(h * w), most = 12 * 64 * px * 96 * 2;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    x_mem = random_memory(most), past_mem = random_memory(most / 6), residual_mem = random_memory(most), out_mem = random_memory(most), norm_mem = random_memory(most);
    buffer gamma = input(384, SC_F32, 1);
    gamma_mem = gamma.dev;
    const sc_frame_attention_args attention = {x_mem, out_mem, 3, (int)px, 384};
    const sc_pixels_args pixels = {.x = x_mem, .i420 = (uint8_t *)out_mem, .n = 12, .h = 8 * h, .w = 8 * w, .p = 1, .clamp = true, .centred = true};

    printf("| layer | times | ms | sum ms | TFLOP/s | GB/s |\n| --- | --- | --- | --- | --- | --- |\n");
    time_conv("conv2 1x1, 16", 1, 3, h, w, 16, 16, 1, 1, 1, false, false, OUT);
    time_conv("conv1 16 -> 384", 1, 3, h, w, 16, 384, 3, 3, 1, false, false, OUT);
    time_conv("level 0, 384", 5, 3, h, w, 384, 384, 3, 3, 1, false, false, OUT);
    time_conv("level 0, 384, residual", 5, 3, h, w, 384, 384, 3, 3, 1, true, false, OUT);
    time_conv("q, k, v: 1x1 384 -> 1152", 1, 3, h, w, 384, 1152, 1, 1, 1, false, false, OUT);
    report("attention", 1, median_ms(call_attention, &attention), 4.0 * 3 * (double)(px * px) * 384, 0);
    time_conv("1x1 384, residual", 1, 3, h, w, 384, 384, 1, 1, 1, true, false, OUT);
    time_conv("level 0, time 384 -> 768", 1, 3, h, w, 384, 768, 3, 1, 2, false, false, OUT);
    time_conv("level 0, doubling 384 -> 192, norm", 1, 6, h, w, 384, 192, 1, 3, 1, false, true, OUT_AND_NORM);
    time_conv("level 1, 192 -> 384", 1, 6, 2 * h, 2 * w, 192, 384, 3, 3, 1, false, false, OUT);
    time_conv("level 1, 1x1 192 -> 384", 1, 6, 2 * h, 2 * w, 192, 384, 1, 1, 1, false, false, OUT);
    time_conv("level 1, 384", 2, 6, 2 * h, 2 * w, 384, 384, 3, 3, 1, false, false, OUT);
    time_conv("level 1, 384, residual", 3, 6, 2 * h, 2 * w, 384, 384, 3, 3, 1, true, false, OUT);
    time_conv("level 1, time 384 -> 768", 1, 6, 2 * h, 2 * w, 384, 768, 3, 1, 2, false, false, OUT);
    time_conv("level 1, doubling 384 -> 192, norm", 1, 12, 2 * h, 2 * w, 384, 192, 1, 3, 1, false, true, OUT_AND_NORM);
    time_conv("level 2, 192, norm alone", 3, 12, 4 * h, 4 * w, 192, 192, 3, 3, 1, false, false, NORM);
    time_conv("level 2, 192, residual, norm", 2, 12, 4 * h, 4 * w, 192, 192, 3, 3, 1, true, false, OUT_AND_NORM);
    time_conv("level 2, 192, residual", 1, 12, 4 * h, 4 * w, 192, 192, 3, 3, 1, true, false, OUT);
    time_conv("level 2, doubling 192 -> 96, norm", 1, 12, 4 * h, 4 * w, 192, 96, 1, 3, 1, false, true, OUT_AND_NORM);
    time_conv("level 3, 96, norm alone", 3, 12, 8 * h, 8 * w, 96, 96, 3, 3, 1, false, false, NORM);
    time_conv("level 3, 96, residual, norm", 2, 12, 8 * h, 8 * w, 96, 96, 3, 3, 1, true, false, OUT_AND_NORM);
    time_conv("level 3, 96, residual, norm alone", 1, 12, 8 * h, 8 * w, 96, 96, 3, 3, 1, true, false, NORM);
    time_conv("head 96 -> 3", 1, 12, 8 * h, 8 * w, 96, 3, 3, 3, 1, false, false, OUT);
    time_norm("norm 384, no silu", 1, 3 * px, 384, false);
    time_norm("norm 384, level 0", 10, 3 * px, 384, true);
    time_norm("norm 384, level 1", 5, 24 * px, 384, true);
    time_copy("caches, level 0", 11, px * 384);
    time_copy("caches, level 1", 7, 4 * px * 384);
    time_copy("caches, level 2", 6, 16 * px * 192);
    time_copy("caches, level 3", 7, 64 * px * 96);
    report("pixels", 1, median_ms(call_pixels, &pixels), 0, 12 * 64 * (double)px * (6 + 1.5));
    printf("%s, %s: decoder, 12 frames of %d x %d: sum %.2f ms, %.0f TFLOP/s\n", cuda->name, cuda->act == SC_F16 ? "f16" : "bf16", 8 * w, 8 * h, total_ms, total_flop * 1e-9 / total_ms);
    cuda->ops->release(cuda, x_mem), cuda->ops->release(cuda, past_mem), cuda->ops->release(cuda, residual_mem), cuda->ops->release(cuda, out_mem), cuda->ops->release(cuda, norm_mem);
    drop(&gamma);
}

int main(int argc, char **argv) {
    const bool timing = argc > 1 && !strcmp(argv[1], "time");
    small = argc > 1 && !strcmp(argv[1], "small");
    for (int i = 0; i < 2; i++) {
        static const char *const TYPES[] = {"bf16", "f16"};
        if (argc > 2 ? strcmp(argv[2], TYPES[i]) : timing && i) continue;
        if (sc_device_open(&cuda, "cuda", 0, i ? SC_F16 : SC_BF16, &check_err)) {
            printf("SKIPPED: %s\n", check_err.text);
            return 77;
        }
        MUST(sc_twin_open(&twin, &check_err));
        check_where = TYPES[i];
        if (timing) time_all();
        else check_all();
        sc_device_close(twin);
        sc_device_close(cuda);
    }
    if (!timing) printf("%d checks, %d failures\n", checks, failures);
    return failures ? 1 : 0;
}

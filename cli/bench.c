/* bench.c - `sparsecast bench`: where the time of a chunk goes once the stream is in its steady state.
 *
 * Chunks run unmeasured until window and persistent memory are full; then each pass is timed by itself, and a chunk is the sum of its
 * passes (text encoding happens once a prompt and JPEG in another thread of the daemon: they have rows of their own, outside the sum).
 * The yardstick runs between the chunks, a burst of sgemm calls each, so that a slow moment of the machine hits both; OpenBLAS's threads
 * spin for a while after a call, hence the pause behind a burst, and an unmeasured chunk: the first pass after a burst takes half as long again,
 * which no chunk of the daemon does. Medians of both make the ratio. On a machine with other work a product
 * that is cut in two fixed halves suffers more than work that is shared out, which flatters us: the undisturbed ratio, a chunk of
 * the fastest passes against the fastest sgemm, errs the other way and is printed beside it.
 *
 * On a GPU a pass only launches, so each is followed by a wait that counts to it. A daemon waits once a chunk, for its frames, and asks for the
 * clean pass before: so are the three last rows made. "to frames": from the end of a chunk to the frames of the next on the host; "live": the same when
 * a chunk is asked for only as often as a viewer plays one, the card idle between them; "streamed": from chunk to chunk of a stream that never pauses, and
 * "its frames": from the card's beginning of such a chunk to its frames on the host, by the card's clock (of several sessions: the last one's).
 * --shape makes a model directory of random weights in $TMPDIR (/tmp), which is removed as soon as it is open. --sessions runs that many streams
 * whose passes are batched: times are of the whole batch. */
#include "base/clock.h"
#include "base/progress.h"
#include "cli/bench_count.h"
#include "cli/cli.h"
#include "cli/jpeg.h"
#include "cli/random_model.h"
#include "cli/sgemm.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SESSIONS_MAX = 8, BURST = 24, BURST_WARM = 4, PAUSE_MS = 60, SAVES = 3 };
#define GOAL 0.8
static const char prompt[] = "two yellow birds flying left over the sea at sunset";

typedef struct { double *x; size_t n, room; } samples;
typedef enum { TEXT, DENOISE, DECODE, CLEAN, JPEG, CHUNK, FRAMES, LIVE, STREAMED, ITS_FRAMES, SAVE, RESTORE, STAGES } stage;
static const char *const stage_names[STAGES] = {"text encode", "denoise pass", "decode", "clean pass", "jpeg", "chunk", "to frames", "live", "streamed", "its frames", "save", "restore"};
static const char *const stage_keys[STAGES] = {"text_encode", "denoise_pass", "decode", "clean_pass", "jpeg", "chunk", "to_frames", "live", "streamed", "streamed_frames", "save", "restore"};

typedef struct {
    const sc_cli *cli;
    sc_engine *engine;
    sc_model_info model;
    sc_session *session[SESSIONS_MAX];
    int sessions;
    sc_jpeg *jpeg;
    sc_sgemm *sgemm;
    samples time[STAGES], rate;   /* seconds; GFLOP/s */
    double gflop[STAGES];
    sc_flops chunk_flops;
    double ready_s, first_frame_s;
    size_t saved_bytes;
    long warm_kib, end_kib;
    sc_error jpeg_error, sgemm_error;
} bench;

static void add(samples *s, double x) {
    if (s->n == s->room) {
        s->room = s->room ? 2 * s->room : 64;
        if (!(s->x = realloc(s->x, s->room * sizeof *s->x))) { fputs("sparsecast: bench: out of memory\n", stderr); exit(SC_EXIT_FAULT); }
    }
    s->x[s->n++] = x;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Nearest rank. 0 when there is nothing. */
static double percentile(samples *s, int p) {
    if (!s->n) return 0;
    qsort(s->x, s->n, sizeof *s->x, by_value);
    const size_t rank = (s->n * (size_t)p + 99) / 100;
    return s->x[rank ? rank - 1 : 0];
}

/* VmRSS in KiB; 0 where there is no /proc. */
static long resident_kib(void) {
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    long kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmRSS: %ld", &kib) == 1) break;
    if (f) fclose(f);
    return kib;
}

static double seconds_since(uint64_t start) { return (double)(sc_now_ns() - start) * 1e-9; }

/* Chunks until nothing of the memory grows any more. */
static int warm_chunks(const sc_engine *e) {
    if (!e->rule.pbsa) return (e->rule.window_frames + e->cfg.chunk_frames - 1) / e->cfg.chunk_frames;
    const int blocks = e->layout->blocks.blocks;
    return e->rule.window_chunks - 1 + (e->rule.capacity + blocks - 1) / blocks + (e->rule.capacity == 0);
}

/* Until the frames of the newest decode pass are there. */
static sc_status wait_frames(bench *b, sc_error *err) {
    sc_frames f;
    sc_status rc = SC_OK;
    for (int i = 0; !rc && i < b->sessions; i++) {
        rc = sc_session_frames(b->session[i], &f, err);
        if (sc_session_failed(b->session[i], err)) rc = err->status;
    }
    return rc;
}

/* The next pass of all sessions, until it is over. */
static sc_status run_pass(bench *b, sc_error *err) {
    sc_device *dev = b->engine->dev;
    const sc_pass_kind kind = sc_session_next(b->session[0]).kind;
    sc_status rc = sc_engine_run(b->engine, b->session, b->sessions, err);
    if (!rc) rc = dev->ops->sync(dev, err);
    if (kind == SC_PASS_DECODE) return rc ? rc : wait_frames(b, err);
    for (int i = 0; !rc && i < b->sessions; i++)
        if (sc_session_failed(b->session[i], err)) rc = err->status;
    return rc;
}

/* A chunk as a daemon asks for it: every pass, then its frames. */
static sc_status ask_chunk(bench *b, sc_error *err) {
    sc_status rc;
    for (bool clean = false; !clean;) {
        clean = sc_session_next(b->session[0]).kind == SC_PASS_CLEAN;
        if ((rc = sc_engine_run(b->engine, b->session, b->sessions, err))) return rc;
    }
    return wait_frames(b, err);
}

static void sleep_until(uint64_t ns) {
    const uint64_t now = sc_now_ns();
    if (now >= ns) return;
    nanosleep(&(struct timespec){.tv_sec = (time_t)((ns - now) / 1000000000), .tv_nsec = (long)((ns - now) % 1000000000)}, NULL);
}

/* What ask_chunk waited for, by the card's clock. */
static sc_status clock_frames(bench *b, sc_error *err) {
    const sc_session *first = b->session[0], *last = b->session[b->sessions - 1];
    uint64_t ns;
    const sc_status rc = b->engine->decode_dev->ops->elapsed(b->engine->decode_dev, first->from[0], last->decoded, &ns, err);
    if (!rc) add(&b->time[ITS_FRAMES], (double)ns * 1e-9);
    return rc;
}

/* One of the last rows. */
static sc_status ask_chunks(bench *b, stage s, sc_error *err) {
    sc_device *dev = b->engine->dev;
    const uint64_t begin = sc_now_ns();
    sc_status rc = SC_OK;
    for (int i = 0; !rc && i < b->cli->chunks; i++) {
        if (s != STREAMED && (rc = dev->ops->sync(dev, err))) break; /* the clean pass before is over */
        if (s == LIVE) sleep_until(begin + (uint64_t)((i + 1) * 1e9 * b->model.frames_chunk / b->model.fps));
        const uint64_t start = sc_now_ns();
        if ((rc = ask_chunk(b, err))) break;
        add(&b->time[s], seconds_since(start));
        if (s == STREAMED) rc = clock_frames(b, err);
    }
    return rc;
}

/* One chunk, clean pass included. */
static sc_status run_chunk(bench *b, bool measured, sc_error *err) {
    double sum = 0;
    for (;;) {
        const sc_pass next = sc_session_next(b->session[0]);
        const uint64_t start = sc_now_ns();
        sc_status rc = run_pass(b, err);
        const double took = seconds_since(start);
        if (rc) return rc;
        sum += took;
        if (measured) add(&b->time[next.kind == SC_PASS_DENOISE ? DENOISE : next.kind == SC_PASS_DECODE ? DECODE : CLEAN], took);
        if (next.kind == SC_PASS_CLEAN) break;
    }
    if (measured) add(&b->time[CHUNK], sum);
    return SC_OK;
}

static sc_status encode_frames(bench *b, sc_error *err) {
    sc_frames f;
    const uint8_t *data;
    size_t n;
    const uint64_t start = sc_now_ns();
    sc_status rc = sc_session_frames(b->session[0], &f, err);
    for (int i = 0; !rc && i < f.count; i++) rc = sc_jpeg_frame(b->jpeg, f.data + (size_t)i * f.frame_bytes, &data, &n, err);
    if (!rc) add(&b->time[JPEG], seconds_since(start));
    return rc;
}

/* A text that the prompt cache has not seen. */
static sc_status encode_text(bench *b, int index, sc_error *err) {
    char text[128];
    sc_prompt *p;
    const int n = snprintf(text, sizeof text, "%s %d", prompt, index);
    const uint64_t start = sc_now_ns();
    sc_status rc = sc_prompt_get(b->engine, text, (size_t)n, &p, err);
    if (rc) return rc;
    rc = b->engine->prompt_dev->ops->sync(b->engine->prompt_dev, err); /* its keys are made, too */
    add(&b->time[TEXT], seconds_since(start));
    b->gflop[TEXT] = sc_flops_sum(sc_count_text(b->engine, p->tokens)) * 1e-9;
    sc_prompt_drop(b->engine, p);
    return rc;
}

/* The first session to a snapshot and back from it: for so long the engine's thread does nothing else. */
static sc_status save_and_restore(bench *b, sc_error *err) {
    sc_snapshot *snapshot = NULL;
    void *bytes;
    size_t n;
    uint64_t start = sc_now_ns();
    sc_status rc = sc_session_save(b->session[0], &bytes, &n, err);

    if (rc) return rc;
    add(&b->time[SAVE], seconds_since(start));
    b->saved_bytes = n;
    if (!(rc = sc_snapshot_open(&snapshot, b->engine, bytes, n, err))) {
        sc_session_destroy(b->session[0]);
        b->session[0] = NULL;
        start = sc_now_ns();
        if (!(rc = sc_session_restore(b->engine, snapshot, &b->session[0], err))) rc = b->engine->dev->ops->sync(b->engine->dev, err);
        add(&b->time[RESTORE], seconds_since(start));
    }
    sc_snapshot_close(snapshot);
    free(bytes);
    return rc;
}

static void run_yardstick(bench *b) {
    const struct timespec rest = {.tv_nsec = PAUSE_MS * 1000000};
    for (int i = 0; i < BURST_WARM + BURST; i++) {
        const double took = sc_sgemm_run(b->sgemm);
        if (i >= BURST_WARM) add(&b->rate, 2e-9 * SC_SGEMM_M * SC_SGEMM_N * SC_SGEMM_K / took);
    }
    nanosleep(&rest, NULL);
}

static void count(bench *b) {
    const sc_kv_view view = sc_kv_view_of(&b->session[0]->memory);
    const int steps = b->engine->cfg.step_count;
    const sc_flops pass = sc_count_pass(b->engine, &view, b->session[0]->prompt->cross.rows), decode = sc_count_decode(b->engine);
    const double n = b->sessions * 1e-9;
    b->gflop[DENOISE] = b->gflop[CLEAN] = sc_flops_sum(pass) * n;
    b->gflop[DECODE] = sc_flops_sum(decode) * n;
    b->chunk_flops = (sc_flops){.linear = (steps + 1) * pass.linear * n, .attention = (steps + 1) * pass.attention * n, .decoder = decode.decoder * n};
    b->gflop[CHUNK] = b->gflop[STREAMED] = sc_flops_sum(b->chunk_flops);
}

static sc_status measure(bench *b, sc_error *err) {
    const uint64_t start = sc_now_ns();
    const bool cpu = !strcmp(b->cli->device, "cpu");
    sc_status rc;

    for (b->sessions = 0; b->sessions < b->cli->sessions; b->sessions++)
        if ((rc = sc_session_create(b->engine, (uint64_t)b->sessions + 1, prompt, sizeof prompt - 1, 0, &b->session[b->sessions], err))) return rc;
    while (sc_session_next(b->session[0]).kind != SC_PASS_CLEAN)
        if ((rc = run_pass(b, err))) return rc;
    b->first_frame_s = seconds_since(start);
    if ((rc = run_pass(b, err))) return rc;
    for (int i = 1; i < warm_chunks(b->engine); i++)
        if ((rc = run_chunk(b, false, err))) return rc;
    b->warm_kib = resident_kib();
    if (cpu) sc_sgemm_open(&b->sgemm, b->cli->threads, &b->sgemm_error);
    else sc_fail(&b->sgemm_error, SC_EINVAL, "the yardstick is one for --device cpu");
    sc_jpeg_create(&b->jpeg, b->model.width, b->model.height, b->cli->quality, &b->jpeg_error);
    for (int i = 0; i < b->cli->chunks; i++) {
        if (b->sgemm) run_yardstick(b);
        if ((b->sgemm || i == 0) && (rc = run_chunk(b, false, err))) return rc; /* a stream's chunk follows a chunk, not the yardstick */
        if ((rc = run_chunk(b, true, err)) || (rc = encode_text(b, i, err))) return rc;
        if (b->jpeg && (rc = encode_frames(b, err))) return rc;
        if (i == 0) count(b);
    }
    /* Where calls do not run ahead these would be the chunk's row again. */
    if (b->model.behind)
        for (stage s = FRAMES; s <= STREAMED; s++)
            if ((rc = ask_chunks(b, s, err))) return rc;
    b->end_kib = resident_kib();
    for (int i = 0; i < SAVES; i++)
        if ((rc = save_and_restore(b, err))) return rc;
    return SC_OK;
}

static double ratio(bench *b, stage s) {
    const double rate = percentile(&b->rate, 50);
    return rate > 0 && b->gflop[s] > 0 ? percentile(&b->time[s], 50) * rate / b->gflop[s] : 0;
}

/* A chunk of the fastest passes. */
static double fastest_chunk(bench *b) { return b->model.steps * percentile(&b->time[DENOISE], 0) + percentile(&b->time[DECODE], 0) + percentile(&b->time[CLEAN], 0); }

static double undisturbed(bench *b) { return b->rate.n && b->gflop[CHUNK] > 0 ? fastest_chunk(b) * percentile(&b->rate, 100) / b->gflop[CHUNK] : 0; }

static void print_text(bench *b) {
    printf("%s on %s, %dx%d, %d session%s, %d chunks of %d frames after the memory was full\n", b->model.name, b->model.device, b->model.width, b->model.height,
           b->sessions, b->sessions > 1 ? "s" : "", b->cli->chunks, b->model.frames_chunk);
    printf("%-13s %10s %10s %10s %10s %8s\n", "stage", "p50 ms", "p95 ms", "GFLOP", "GFLOP/s", "ratio");
    for (int s = 0; s < STAGES; s++) {
        const double p50 = percentile(&b->time[s], 50);
        if (!b->time[s].n && s >= FRAMES) continue;
        if (!b->time[s].n) { printf("%-13s %s\n", stage_names[s], b->jpeg_error.text); continue; }
        printf("%-13s %10.2f %10.2f", stage_names[s], p50 * 1e3, percentile(&b->time[s], 95) * 1e3);
        if (b->gflop[s] > 0) printf(" %10.2f %10.1f", b->gflop[s], b->gflop[s] / p50);
        if (ratio(b, (stage)s) > 0) printf(" %8.3f", ratio(b, (stage)s));
        putchar('\n');
    }
    printf("chunk = %d denoise + decode + clean; counted %.1f GFLOP: decoder %.1f, linear layers %.1f, attention %.1f\n", b->model.steps, b->gflop[CHUNK],
           b->chunk_flops.decoder, b->chunk_flops.linear, b->chunk_flops.attention);
    const double steps = b->model.steps * percentile(&b->time[DENOISE], 50);
    printf("transformer of a chunk %.2f ms; %d passes and decode %.2f ms\n", (steps + percentile(&b->time[CLEAN], 50)) * 1e3, b->model.steps,
           (steps + percentile(&b->time[DECODE], 50)) * 1e3);
    const double fps = b->model.frames_chunk / percentile(&b->time[b->time[STREAMED].n ? STREAMED : CHUNK], 50);
    printf("%.1f frames/s a session, %.2f x real time\n", fps, fps / b->model.fps);
    if (b->sgemm) {
        printf("sgemm %dx%dx%d: %.1f GFLOP/s p50, %.1f at best (OpenBLAS, kernel %s, %d threads)\n", SC_SGEMM_M, SC_SGEMM_N, SC_SGEMM_K, percentile(&b->rate, 50),
               percentile(&b->rate, 100), sc_sgemm_kernel(b->sgemm), sc_sgemm_threads(b->sgemm));
        printf("ratio %.3f = chunk p50 %.1f ms / %.1f ms at that rate (goal: <= %.1f); undisturbed %.3f (%.1f ms)\n", ratio(b, CHUNK), percentile(&b->time[CHUNK], 50) * 1e3,
               b->gflop[CHUNK] / percentile(&b->rate, 50) * 1e3, GOAL, undisturbed(b), fastest_chunk(b) * 1e3);
    } else printf("no ratio: %s\n", b->sgemm_error.text);
    printf("a snapshot of a session: %.1f MB\n", (double)b->saved_bytes * 1e-6);
    printf("ready %.2f s, first frame %.2f s, resident %.1f MiB (%.1f MiB at the end, yardstick included)\n", b->ready_s, b->first_frame_s, (double)b->warm_kib / 1024,
           (double)b->end_kib / 1024);
}

static void print_json(bench *b) {
    cJSON *o = cJSON_CreateObject(), *stages = cJSON_AddObjectToObject(o, "stages"), *s;
    char *text;
    cJSON_AddStringToObject(o, "model", b->model.name);
    cJSON_AddStringToObject(o, "device", b->model.device);
    cJSON_AddNumberToObject(o, "chunks", b->cli->chunks);
    cJSON_AddNumberToObject(o, "sessions", b->sessions);
    cJSON_AddNumberToObject(o, "frames_chunk", b->model.frames_chunk);
    for (int i = 0; i < STAGES; i++) {
        if (!b->time[i].n) continue;
        s = cJSON_AddObjectToObject(stages, stage_keys[i]);
        cJSON_AddNumberToObject(s, "p50_ms", percentile(&b->time[i], 50) * 1e3);
        cJSON_AddNumberToObject(s, "p95_ms", percentile(&b->time[i], 95) * 1e3);
        if (b->gflop[i] > 0) cJSON_AddNumberToObject(s, "gflop", b->gflop[i]);
        if (ratio(b, (stage)i) > 0) cJSON_AddNumberToObject(s, "ratio", ratio(b, (stage)i));
    }
    if (b->sgemm) {
        s = cJSON_AddObjectToObject(o, "sgemm");
        cJSON_AddStringToObject(s, "kernel", sc_sgemm_kernel(b->sgemm));
        cJSON_AddNumberToObject(s, "threads", sc_sgemm_threads(b->sgemm));
        cJSON_AddNumberToObject(s, "gflops_p50", percentile(&b->rate, 50));
        cJSON_AddNumberToObject(s, "gflops_best", percentile(&b->rate, 100));
        cJSON_AddNumberToObject(o, "ratio", ratio(b, CHUNK));
        cJSON_AddNumberToObject(o, "undisturbed_ratio", undisturbed(b));
        cJSON_AddNumberToObject(o, "undisturbed_chunk_ms", fastest_chunk(b) * 1e3);
        cJSON_AddNumberToObject(o, "goal", GOAL);
    } else cJSON_AddStringToObject(o, "no_ratio", b->sgemm_error.text);
    cJSON_AddNumberToObject(o, "snapshot_bytes", (double)b->saved_bytes);
    cJSON_AddNumberToObject(o, "ready_s", b->ready_s);
    cJSON_AddNumberToObject(o, "first_frame_s", b->first_frame_s);
    cJSON_AddNumberToObject(o, "resident_kib", (double)b->warm_kib);
    cJSON_AddNumberToObject(o, "resident_end_kib", (double)b->end_kib);
    if ((text = cJSON_Print(o))) puts(text);
    cJSON_free(text);
    cJSON_Delete(o);
}

/* Open the model, or a directory of random weights made for this run. */
static sc_status open_engine(bench *b, sc_error *err) {
    sc_progress loading;
    sc_engine_options o = {.model_dir = b->cli->model, .device = b->cli->device, .text_device = b->cli->text_device, .threads = b->cli->threads,
                           .max_sessions = b->cli->sessions, .memory = b->cli->memory, .progress = sc_progress_step, .progress_ctx = &loading};
    const char *tmp = getenv("TMPDIR");
    char dir[512], tokenizer[512];
    uint64_t start = sc_now_ns();
    sc_status rc;

    sc_progress_begin(&loading);
    if (b->cli->shape) {
        snprintf(dir, sizeof dir, "%s/sparsecast-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
        snprintf(tokenizer, sizeof tokenizer, "%s/spiece.model", b->cli->model);
        if (!mkdtemp(dir)) return sc_fail(err, SC_EIO, "%s: cannot make a folder", dir);
        rc = sc_random_model_write(b->cli->shape, dir, tokenizer, NULL, err);
        start = sc_now_ns();
        sc_progress_begin(&loading);
        o.model_dir = dir;
        if (!rc) rc = sc_engine_open(&b->engine, &o, err);
        sc_random_model_remove(dir);
    } else rc = sc_engine_open(&b->engine, &o, err);
    sc_progress_end(&loading);
    b->ready_s = seconds_since(start);
    return rc;
}

int sc_cmd_bench(const sc_cli *cli) {
    bench b = {.cli = cli};
    sc_error err = {0};
    int rc = 0;

    if (open_engine(&b, &err)) return sc_cli_cannot_open(&err);
    sc_engine_describe(b.engine, &b.model);
    if (measure(&b, &err)) {
        fprintf(stderr, "sparsecast: bench: %s\n", err.text);
        rc = SC_EXIT_FAULT;
    } else if (cli->json) print_json(&b);
    else print_text(&b);
    for (int i = 0; i < STAGES; i++) free(b.time[i].x);
    free(b.rate.x);
    sc_sgemm_close(b.sgemm);
    sc_jpeg_destroy(b.jpeg);
    for (int i = 0; i < b.sessions; i++) sc_session_destroy(b.session[i]);
    sc_engine_close(b.engine);
    return rc;
}

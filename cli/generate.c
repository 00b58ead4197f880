/* generate.c - `sparsecast generate`: one session, as fast as it goes, into files.
 *
 * Frames are a function of model, device, seed and prompts alone, so a run that was interrupted is simply run again: it writes the same
 * bytes over what is there. SIGINT and SIGTERM end after the pass that is on; files written so far are whole. A second signal kills. */
#include "base/clock.h"
#include "base/progress.h"
#include "cli/cli.h"
#include "cli/output.h"
#include "engine/engine.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t stop;

static void on_signal(int number) {
    (void)number;
    stop = 1;
}

static void watch_signals(void) {
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    signal(SIGPIPE, SIG_IGN); /* a reader that goes away is an error of write */
}

/* The first chunk that begins at or after a moment: chunk 0 has `first` frames, the others `per`. */
static uint64_t chunk_of(const sc_cli_later *l, const sc_model_info *m) {
    if (l->chunk >= 0) return (uint64_t)l->chunk;
    const double frame = ceil(l->at_s * m->fps - 1e-6);
    if (frame <= 0) return 0;
    if (frame <= m->frames_first) return 1;
    return 1 + (uint64_t)ceil((frame - m->frames_first) / m->frames_chunk);
}

typedef struct {
    const sc_cli *cli;
    sc_model_info model;
    uint64_t chunks, frames;   /* of the whole film */
    uint64_t at[SC_CLI_PROMPTS];
    uint64_t start_ns;
    bool terminal;
} film;

static void plan(film *f, const sc_cli *cli) {
    const double want = ceil(cli->seconds * f->model.fps - 1e-6);
    f->cli = cli;
    f->chunks = want <= f->model.frames_first ? 1 : 1 + (uint64_t)ceil((want - f->model.frames_first) / f->model.frames_chunk);
    f->frames = (uint64_t)f->model.frames_first + (f->chunks - 1) * (uint64_t)f->model.frames_chunk;
    for (int i = 0; i < cli->later_count; i++) {
        f->at[i] = chunk_of(&cli->later[i], &f->model);
        if (f->at[i] >= f->chunks)
            fprintf(stderr, "sparsecast: generate: later prompt %d would apply from chunk %llu, the film has %llu: it is never seen\n", i + 1, (unsigned long long)f->at[i],
                    (unsigned long long)f->chunks);
    }
}

static void progress(const film *f, uint64_t chunk, uint64_t frames) {
    const double s = (double)(sc_now_ns() - f->start_ns) * 1e-9, fps = s > 0 ? (double)frames / s : 0;
    if (!f->terminal) return;
    fprintf(stderr, "\rchunk %llu/%llu  frame %llu/%llu  %.1f fps  eta %.0f s\033[K", (unsigned long long)chunk, (unsigned long long)f->chunks, (unsigned long long)frames,
            (unsigned long long)f->frames, fps, fps > 0 ? (double)(f->frames - frames) / fps : 0);
}

/* Later prompts are encoded once before the first chunk: a bad text is said before any work is done, and the cache has them. */
static sc_status try_prompts(sc_session *s, const sc_cli *cli, sc_error *err) {
    for (int i = cli->later_count - 1; i >= -1 && cli->later_count; i--) {
        const char *text = i >= 0 ? cli->later[i].text : cli->prompt; /* the last call wins: the first prompt */
        sc_status rc = sc_session_set_prompt(s, text, strlen(text), 0, SC_SWITCH, 0, NULL, err);
        if (rc && i >= 0) {
            const sc_error why = *err;
            return sc_fail(err, rc, "later prompt %d: %.400s", i + 1, why.text);
        }
        if (rc) return rc;
    }
    return SC_OK;
}

static sc_status apply_prompts(const film *f, sc_session *s, uint64_t chunk, sc_error *err) {
    sc_transition t;
    sc_transition_parse(f->cli->transition, &t);
    for (int i = 0; i < f->cli->later_count; i++) {
        const char *text = f->cli->later[i].text;
        sc_status rc;
        if (f->at[i] == chunk && (rc = sc_session_set_prompt(s, text, strlen(text), (uint32_t)i + 1, t, f->cli->blend_chunks, NULL, err))) return rc;
    }
    return SC_OK;
}

static sc_status write_frames(const film *f, sc_session *s, sc_output *out, sc_error *err) {
    sc_frames frames;
    sc_status rc;
    if (sc_session_failed(s, err)) return err->status;
    if ((rc = sc_session_frames(s, &frames, err))) return rc;
    for (int i = 0; i < frames.count && !stop; i++)
        if ((rc = sc_output_frame(out, frames.data + (size_t)i * frames.frame_bytes, err))) return rc;
    progress(f, frames.chunk + 1, sc_output_frames(out));
    return SC_OK;
}

static sc_status run(const film *f, sc_engine *engine, sc_session *s, sc_output *out, sc_error *err) {
    while (!stop) {
        const sc_pass next = sc_session_next(s);
        sc_status rc;
        if (next.kind == SC_PASS_DENOISE && next.step == 0 && (rc = apply_prompts(f, s, next.chunk, err))) return rc;
        if ((rc = sc_engine_run(engine, &s, 1, err))) return rc;
        if (next.kind != SC_PASS_DECODE) continue;
        if ((rc = write_frames(f, s, out, err))) return rc;
        if (next.chunk + 1 == f->chunks) break; /* nothing reads the memory that a clean pass would write */
    }
    return SC_OK;
}

int sc_cmd_generate(const sc_cli *cli) {
    film f = {.terminal = isatty(STDERR_FILENO)};
    sc_output_kind kind;
    sc_output *out = NULL;
    sc_engine *engine = NULL;
    sc_session *s = NULL;
    sc_error err = {0};
    sc_progress loading;
    int rc = SC_EXIT_FAULT;

    if (!cli->prompt) return sc_cli_wrong_use("generate: --prompt is missing");
    if (!(cli->seconds > 0)) return sc_cli_wrong_use("generate: --seconds is missing");
    if (!cli->output) return sc_cli_wrong_use("generate: -o is missing");
    if (sc_output_plan(cli->output, &kind, &err)) return sc_cli_wrong_use("generate: %s", err.text);
    if (kind == SC_OUT_STDOUT && isatty(STDOUT_FILENO)) return sc_cli_wrong_use("generate: standard output is a terminal; pipe it, e.g. | ffmpeg -i - out.mp4");
    watch_signals();
    sc_progress_begin(&loading);
    const sc_status opened = sc_engine_open(&engine, &(sc_engine_options){.model_dir = cli->model, .device = cli->device, .text_device = cli->text_device,
                                                                          .threads = cli->threads, .max_sessions = 1, .memory = cli->memory,
                                                                          .progress = sc_progress_step, .progress_ctx = &loading}, &err);
    sc_progress_end(&loading);
    if (opened) {
        rc = sc_cli_cannot_open(&err);
        goto cleanup;
    }
    sc_engine_describe(engine, &f.model);
    plan(&f, cli);
    if (sc_session_create(engine, cli->seed, cli->prompt, strlen(cli->prompt), 0, &s, &err) || try_prompts(s, cli, &err)) {
        fprintf(stderr, "sparsecast: generate: %s\n", err.text);
        rc = err.status == SC_EINVAL ? SC_EXIT_USAGE : SC_EXIT_FAULT;
        goto cleanup;
    }
    if (sc_output_open(&out, cli->output, kind, &(sc_output_picture){f.model.width, f.model.height, f.model.fps, cli->quality}, &err)) {
        rc = err.status == SC_EINVAL ? sc_cli_cannot_open(&err) : (fprintf(stderr, "sparsecast: generate: %s\n", err.text), SC_EXIT_FAULT);
        goto cleanup;
    }
    f.start_ns = sc_now_ns();
    sc_status failed = run(&f, engine, s, out, &err);
    if (f.terminal) fputc('\n', stderr);
    if (!failed && sc_output_frames(out)) failed = sc_output_finish(out, &err); /* a film without a frame is dropped */
    if (failed) {
        fprintf(stderr, "sparsecast: generate: %s\n", err.text);
    } else if (stop && sc_output_frames(out) < f.frames) {
        fprintf(stderr, "sparsecast: generate: interrupted after %llu of %llu frames\n", (unsigned long long)sc_output_frames(out), (unsigned long long)f.frames);
        rc = SC_EXIT_INTERRUPTED;
    } else rc = 0;
cleanup:
    sc_output_close(out);
    sc_session_destroy(s);
    sc_engine_close(engine);
    return rc;
}

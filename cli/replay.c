/* replay.c - `sparsecast replay`: the stream of a log, made again and compared chunk by chunk.
 *
 * A log says all that frames are made of (proto/log_line.h), so on the CPU that made them they are the same, bit for bit, whoever watched, however often the
 * stream stood still, and with any number of threads. It ends at the first chunk that differs, since those behind it remember it. Another CPU
 * or a GPU rounds in other places; a GPU of compute capability 9.0 also by how many sessions shared its passes (engine.h). So with a difference it says what
 * the log was made on, and whether that is another machine. */
#include "base/progress.h"
#include "cli/cli.h"
#include "cli/replay_plan.h"
#include "engine/engine.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static_assert((int)SC_WIRE_SWITCH == (int)SC_SWITCH && (int)SC_WIRE_CUT == (int)SC_CUT, "transitions are cast");

typedef struct {
    const char *name;             /* of the file */
    sc_replay_plan plan;
    sc_model_info model;
    const sc_replay_step *differs; /* NULL: none does */
    char hash[SC_FRAME_HASH_CHARS + 1]; /* of its frames here */
    bool terminal;
} replay;

/* All of a file, or of standard input; owned. */
static sc_status read_file(const char *path, const char *name, char **text, size_t *n, sc_error *err) {
    const bool standard = !strcmp(path, "-");
    FILE *f = standard ? stdin : fopen(path, "rb");
    size_t room = 1 << 16, got = 1;
    sc_status rc = SC_OK;

    *n = 0;
    *text = NULL;
    if (!f) return sc_fail(err, SC_EIO, "%s: %s", name, strerror(errno));
    if (!(*text = malloc(room))) rc = sc_fail(err, SC_ENOMEM, "%s: out of memory", name);
    while (!rc && got) {
        if (*n == room) {
            char *more = room < SC_REPLAY_BYTES_MAX ? realloc(*text, 2 * room) : NULL;
            if (!more) { rc = sc_fail(err, room < SC_REPLAY_BYTES_MAX ? SC_ENOMEM : SC_EINVAL, "%s: %zu bytes and more: no log is that long", name, room); break; }
            *text = more;
            room *= 2;
        }
        got = fread(*text + *n, 1, room - *n, f);
        *n += got;
    }
    if (!rc && ferror(f)) rc = sc_fail(err, SC_EIO, "%s: %s", name, strerror(errno));
    if (!standard) fclose(f);
    if (rc) {
        free(*text);
        *text = NULL;
    }
    return rc;
}

/* What was opened is what the log was made with. */
static sc_status check_model(const replay *r, const char *dir, sc_error *err) {
    const sc_log_made *m = &r->plan.session.made;
    const sc_model_info *i = &r->model;

    if (strcmp(m->digest, i->digest))
        return sc_fail(err, SC_EINVAL, "%s: the log is of model %s with digest %.12s..., %s is %s with %.12s... (--model names another directory)", r->name, m->model, m->digest,
                       dir, i->name, i->digest);
    if (m->width != i->width || m->height != i->height || m->steps != i->steps || m->first_chunk_frames != i->frames_first || m->chunk_frames != i->frames_chunk)
        return sc_fail(err, SC_EINVAL, "%s: the log is of %dx%d in %d steps, %d and %d frames a chunk, %s makes %dx%d in %d steps, %d and %d frames", r->name, m->width, m->height,
                       m->steps, m->first_chunk_frames, m->chunk_frames, dir, i->width, i->height, i->steps, i->frames_first, i->frames_chunk);
    return SC_OK;
}

static sc_status apply(sc_session **s, const sc_replay_step *step, uint64_t *seed, sc_error *err) {
    sc_session *fork = NULL;
    sc_error why = {0};
    sc_status rc = SC_OK;

    if (step->kind == SC_LINE_PROMPT)
        rc = sc_session_set_prompt(*s, step->prompt, step->prompt_bytes, step->seq, (sc_transition)step->transition, step->blend_chunks, NULL, &why);
    else if (step->seed != *seed && !(rc = sc_session_fork(*s, step->seed, &fork, &why))) { /* with the same seed it is the same stream */
        sc_session_destroy(*s);
        *s = fork;
        *seed = step->seed;
    }
    return rc ? sc_fail(err, rc, "line %d: %.400s", step->line, why.text) : SC_OK;
}

static sc_status run(replay *r, sc_engine *engine, sc_session **s, sc_error *err) {
    const sc_replay_plan *p = &r->plan;
    uint64_t seed = p->session.seed;
    sc_frames f;
    sc_status rc;

    for (size_t at = 0; at < p->end && !r->differs;) {
        const sc_pass next = sc_session_next(*s);
        const bool begins = next.kind == SC_PASS_DENOISE && next.step == 0;
        for (; begins && p->step[at].kind != SC_LINE_CHUNK && p->step[at].chunk == next.chunk; at++)
            if ((rc = apply(s, &p->step[at], &seed, err))) return rc;
        if ((rc = sc_engine_run(engine, s, 1, err))) return rc;
        if (sc_session_failed(*s, err)) return err->status;
        if (next.kind != SC_PASS_DECODE) continue;
        if ((rc = sc_session_frames(*s, &f, err))) return rc;
        if (r->terminal) fprintf(stderr, "\rchunk %" PRIu64 "/%" PRIu64 "\033[K", next.chunk + 1, p->chunks);
        const sc_replay_step *step = &p->step[at];
        if (step->kind != SC_LINE_CHUNK || step->chunk != f.chunk) continue; /* its hash is lost */
        sc_frame_hash(f.data, (size_t)f.count * f.frame_bytes, r->hash);
        if (strcmp(r->hash, step->hash)) r->differs = step;
        at++;
    }
    return SC_OK;
}

static int say(const replay *r, const char *device) {
    const sc_replay_plan *p = &r->plan;
    const sc_log_made *m = &p->session.made;
    const sc_replay_step *d = r->differs;

    if (!d) {
        printf("%s: session %s, %" PRIu64 " chunks: ", r->name, p->id, p->chunks);
        if (p->compared < p->chunks) printf("%" PRIu64 " of them compared, the hashes of the others are lost: ", p->compared);
        printf("the same\n");
        return 0;
    }
    printf("%s: session %s, line %d: chunk %" PRIu64 " is the first that differs: the log has %s, here it is %s\n", r->name, p->id, d->line, d->chunk, d->hash, r->hash);
    if (strcmp(m->device, device) || strcmp(m->machine, r->model.device))
        printf("it was made on %s (%s), this is %s (%s): rounding may be all that differs\n", m->device, m->machine, device, r->model.device);
    else if (!strcmp(device, "cuda")) printf("it was made on cuda (%s), as here: there frames may differ in rounding by the company that a session had\n", m->machine);
    return SC_EXIT_CHECK;
}

/* Of the log, unless the command line has another. */
static const char *or_logged(const char *given, const char *logged) { return given ? given : strcmp(logged, "model") ? logged : NULL; }

int sc_cmd_replay(const sc_cli *cli) {
    replay r = {.name = strcmp(cli->arg[0], "-") ? cli->arg[0] : "standard input", .terminal = isatty(STDERR_FILENO)};
    const sc_log_line *first = &r.plan.session;
    char *text = NULL, dir[80];
    size_t n = 0;
    sc_engine *engine = NULL;
    sc_session *s = NULL;
    sc_error err = {0}, why = {0};
    sc_progress loading;
    int rc = SC_EXIT_FAULT;

    sc_status failed = read_file(cli->arg[0], r.name, &text, &n, &err);
    if (!failed && (failed = sc_replay_plan_read(&r.plan, text, n, &why))) sc_fail(&err, failed, "%s: %.400s", r.name, why.text);
    free(text);
    if (failed) {
        fprintf(stderr, "sparsecast: replay: %s\n", err.text);
        return failed == SC_EINVAL ? SC_EXIT_USAGE : SC_EXIT_FAULT;
    }
    const char *model = cli->model, *device = or_logged(cli->device, first->made.device);
    if (!model && (strchr(first->made.model, '/') || first->made.model[0] == '.')) {
        rc = sc_cli_wrong_use("replay: %s: the log's model is called %s: --model must say where it is", r.name, first->made.model);
        goto cleanup;
    }
    snprintf(dir, sizeof dir, "models/%s", first->made.model);
    if (!model) model = dir;
    sc_progress_begin(&loading);
    failed = sc_engine_open(&engine, &(sc_engine_options){.model_dir = model, .device = device, .text_device = or_logged(cli->text_device, first->made.text_device),
                                                          .threads = cli->threads, .max_sessions = r.plan.forks ? 2 : 1, .memory = or_logged(cli->memory, first->made.memory),
                                                          .progress = sc_progress_step, .progress_ctx = &loading}, &err);
    sc_progress_end(&loading);
    if (!failed) {
        sc_engine_describe(engine, &r.model);
        failed = check_model(&r, model, &err);
    }
    if (failed) {
        rc = sc_cli_cannot_open(&err);
        goto cleanup;
    }
    failed = sc_session_create(engine, first->seed, first->prompt, first->prompt_bytes, first->seq, &s, &err);
    if (!failed) failed = run(&r, engine, &s, &err);
    if (r.terminal) fputs("\r\033[K", stderr);
    if (failed) {
        fprintf(stderr, "sparsecast: replay: %s: %s\n", r.name, err.text);
        rc = failed == SC_EINVAL ? SC_EXIT_USAGE : SC_EXIT_FAULT;
    } else rc = say(&r, device ? device : "cpu");
cleanup:
    sc_session_destroy(s);
    sc_engine_close(engine);
    sc_replay_plan_free(&r.plan);
    return rc;
}

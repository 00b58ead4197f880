/* scheduler_return.c - sessions outlive the daemon: saved when it stops, back when it starts. Engine thread, where there is a state directory.
 *
 *     SIGTERM   chunks in work are ended -> each session to DIR/sessions/ID, on this thread, nobody waits for it any more -> viewers get 1001
 *     start     what lies there, before the daemon is ready: the same ids, logs that go on, paused where they were
 *
 * Bounds. After STOP_NS nothing more is begun, neither a pass nor a file; sessions that are left out are named in the journal. A file is whole or not there
 * (snapshot_file.h), and stays until the session is saved again or ends by itself: after kill -9 a session comes back as it was when the daemon last
 * stopped. One that does not load, or finds no place, is reported and stays where it is. */
#include "server/scheduler_internal.h"
#include "base/clock.h"
#include "base/log.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const uint64_t STOP_NS = 20000000000u;

void sc_scheduler_save_all(sc_scheduler *s) {
    const uint64_t end = sc_now_ns() + STOP_NS;

    if (!s->keeper) return;
    for (int i = 0; i < s->n && !s->fault.status; i++) sc_scheduler_end_chunk(s, s->streams[i], end);
    for (int i = 0; i < s->n && !s->fault.status; i++) {
        struct stream *t = s->streams[i];
        const char *id = sc_channel_id(t->channel);
        sc_snapshot_file file = {0};
        sc_error err = {0};
        sc_saved v;
        if (!t->session) continue; /* failed */
        if (sc_now_ns() > end) sc_fail(&err, SC_EBUSY, "there is no time left");
        else if (!sc_scheduler_write_down(s, t, &v, &file, &err)) sc_snapshot_file_write(sc_keeper_sessions(s->keeper), id, INT_MAX, &file, &err);
        if (err.status == SC_ELOST) s->fault = err;
        if (err.status) sc_log(SC_LOG_ERROR, "keeper", "id=%s is not saved: %s", id, err.text);
        else sc_log(SC_LOG_INFO, "session", "id=%s saved chunk=%llu bytes=%llu", id, (unsigned long long)v.chunk, (unsigned long long)file.bytes);
        sc_snapshot_file_free(&file);
    }
}

static void bring_back(sc_scheduler *s, const char *id) {
    sc_keeper_job *job = calloc(1, sizeof *job);
    sc_command *c = calloc(1, sizeof *c);
    sc_error err = {0};

    if (!job || !c) sc_fail(&err, SC_ENOMEM, "out of memory");
    else if (!sc_snapshot_file_read(sc_keeper_sessions(s->keeper), id, &job->file, &err) &&
             !sc_saved_text_read(job->file.text, job->file.text_bytes, &job->words, &err) &&
             !sc_snapshot_open(&job->snapshot, s->engine, job->file.memory, job->file.memory_bytes, &err)) {
        c->kind = SC_COMMAND_RESTORE;
        memcpy(c->id, id, SC_ID_CHARS);
        memcpy(c->name, id, SC_ID_CHARS);
        if (strcmp(job->words.saved.session, id)) sc_fail(&err, SC_EINVAL, "it is of session %s", job->words.saved.session);
        else sc_scheduler_restored(s, c, job);
        if (c->problem.status) sc_fail(&err, SC_EBUSY, "%s", c->problem.detail);
    }
    if (err.status) sc_log(SC_LOG_WARN, "keeper", "session %s does not come back, its file stays: %s", id, err.text);
    sc_keeper_job_free(job);
    free(c);
}

void sc_scheduler_bring_back(sc_scheduler *s) {
    static const char ending[] = ".snapshot";
    const int fd = s->keeper ? openat(sc_keeper_sessions(s->keeper), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0) close(fd);
        return;
    }
    for (const struct dirent *e; !s->fault.status && (e = readdir(d));) {
        char id[SC_ID_CHARS + 1] = {0};
        if (strlen(e->d_name) != SC_ID_CHARS + sizeof ending - 1 || strcmp(e->d_name + SC_ID_CHARS, ending)) continue;
        memcpy(id, e->d_name, SC_ID_CHARS);
        if (sc_id_valid(id, SC_ID_CHARS)) bring_back(s, id);
    }
    closedir(d);
}

/* keeper.c - see keeper.h. */
#include "server/keeper.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct sc_keeper {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    sc_keeper_job *job;         /* guarded by lock, like stop */
    bool stop;
    int dir, sessions;
    void (*done)(void *ctx, sc_keeper_job *job);
    void *ctx;
};

void sc_keeper_job_free(sc_keeper_job *job) {
    if (!job) return;
    sc_snapshot_close(job->snapshot);
    sc_saved_text_free(&job->words);
    sc_snapshot_file_free(&job->file);
    free(job);
}

static void work(const sc_keeper *k, sc_keeper_job *job) {
    if (!job->load) {
        sc_snapshot_file_write(k->dir, job->name, SC_SNAPSHOTS_MOST, &job->file, &job->err);
        free(job->file.memory); /* the most of it, and nobody needs it any more */
        job->file.memory = NULL;
    } else if (!sc_snapshot_file_read(k->dir, job->name, &job->file, &job->err) &&
               !sc_saved_text_read(job->file.text, job->file.text_bytes, &job->words, &job->err)) {
        sc_snapshot_open(&job->snapshot, job->engine, job->file.memory, job->file.memory_bytes, &job->err);
    }
}

static void *keeper_main(void *arg) {
    sc_keeper *k = arg;
    pthread_setname_np(pthread_self(), "keeper");
    for (;;) {
        pthread_mutex_lock(&k->lock);
        while (!k->job && !k->stop) pthread_cond_wait(&k->changed, &k->lock);
        sc_keeper_job *job = k->job;
        pthread_mutex_unlock(&k->lock);
        if (!job) return NULL;
        work(k, job);
        pthread_mutex_lock(&k->lock);
        k->job = NULL;
        pthread_mutex_unlock(&k->lock);
        k->done(k->ctx, job);
    }
}

static int open_dir(const char *dir, const char *name) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path) { errno = ENAMETOOLONG; return -1; }
    if ((mkdir(dir, 0700) && errno != EEXIST) || (mkdir(path, 0700) && errno != EEXIST)) return -1;
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

sc_status sc_keeper_start(sc_keeper **out, const char *dir, void (*done)(void *ctx, sc_keeper_job *job), void *ctx, sc_error *err) {
    sc_keeper *k = calloc(1, sizeof *k);
    *out = NULL;
    if (!k) return sc_fail(err, SC_ENOMEM, "keeper: out of memory");
    if ((k->dir = open_dir(dir, "snapshots")) < 0 || (k->sessions = open_dir(dir, "sessions")) < 0) {
        const int why = errno;
        if (k->dir >= 0) close(k->dir);
        free(k);
        return sc_fail(err, SC_EINVAL, "state-dir: %s: %s", dir, strerror(why));
    }
    k->done = done;
    k->ctx = ctx;
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->changed, NULL);
    if (pthread_create(&k->thread, NULL, keeper_main, k)) {
        close(k->dir);
        close(k->sessions);
        free(k);
        return sc_fail(err, SC_ENOMEM, "keeper: cannot start a thread");
    }
    *out = k;
    return SC_OK;
}

void sc_keeper_give(sc_keeper *k, sc_keeper_job *job) {
    pthread_mutex_lock(&k->lock);
    assert(!k->job);
    k->job = job;
    pthread_cond_signal(&k->changed);
    pthread_mutex_unlock(&k->lock);
}

int sc_keeper_sessions(const sc_keeper *k) { return k->sessions; }
void sc_keeper_forget(sc_keeper *k, const char *id) { sc_snapshot_file_remove(k->sessions, id); }

void sc_keeper_stop(sc_keeper *k) {
    if (!k) return;
    pthread_mutex_lock(&k->lock);
    k->stop = true;
    pthread_cond_signal(&k->changed);
    pthread_mutex_unlock(&k->lock);
    pthread_join(k->thread, NULL);
    pthread_cond_destroy(&k->changed);
    pthread_mutex_destroy(&k->lock);
    close(k->dir);
    close(k->sessions);
    free(k);
}

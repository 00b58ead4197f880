/* video_maker.c - see video_maker.h. */
#include "server/video_maker.h"
#include "base/log.h"
#include "server/jpeg.h"
#include "server/metrics.h"
#include "server/video_file.h"
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A chunk; its pixels follow. */
struct chunk {
    sc_video job;
    uint64_t first;             /* its first frame */
    int count;
    size_t frame_bytes;
    uint8_t pixels[];
};

struct sc_video_maker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct chunk *chunk;        /* guarded by lock, like drop and stop */
    bool drop, stop;
    sc_videos *videos;
    void (*room)(void *ctx);
    void *ctx;

    sc_video_file *file;        /* from here on: the maker's thread only; NULL: none is in work */
    int fd;
    void *jpeg;
    unsigned char *buf;
    size_t cap;
};

static void close_file(sc_video_maker *m) {
    sc_video_file_close(m->file);
    m->file = NULL;
    if (m->fd >= 0) close(m->fd);
    m->fd = -1;
}

static sc_status begin(sc_video_maker *m, const sc_video *job, sc_error *err) {
    const size_t need = sc_jpeg_bytes_max(job->width, job->height);
    sc_status rc;

    close_file(m);
    if (need > m->cap) {
        free(m->buf);
        m->buf = malloc(need);
        m->cap = m->buf ? need : 0;
    }
    if (!m->jpeg) m->jpeg = sc_jpeg_open();
    if (!m->buf || !m->jpeg) return sc_fail(err, SC_ENOMEM, "video: out of memory");
    if ((rc = sc_videos_new_file(m->videos, &m->fd, err))) return rc;
    return sc_video_file_open(&m->file, m->fd, job->width, job->height, job->fps, sc_video_frames(job), err);
}

static sc_status add(sc_video_maker *m, const struct chunk *c, sc_error *err) {
    const sc_video *job = &c->job;
    const int frames = sc_video_frames(job);
    int at = (int)c->first;
    sc_status rc = SC_OK;

    for (int i = 0; !rc && i < c->count && at < frames; i++, at++) {
        size_t n = 0;
        rc = sc_jpeg_encode(m->jpeg, c->pixels + (size_t)i * c->frame_bytes, job->width, job->height, job->jpeg_quality, m->buf, m->cap, &n, err);
        if (!rc) rc = sc_video_file_add(m->file, m->buf, n, err);
        if (!rc) SC_COUNT(frames_made, 1);
    }
    if (!rc && at == frames) rc = sc_video_file_finish(m->file, err);
    if (!rc && at < frames && !sc_videos_progress(m->videos, job, at, sc_video_file_bytes(m->file), err)) rc = err->status ? err->status : SC_EINVAL;
    if (rc || at < frames) return rc;
    const uint64_t bytes = sc_video_file_bytes(m->file);
    const int fd = m->fd;
    m->fd = -1;
    close_file(m);
    sc_videos_complete(m->videos, job, fd, bytes, (int64_t)time(NULL));
    return SC_OK;
}

static void work(sc_video_maker *m, const struct chunk *c) {
    sc_error err = {0};
    sc_status rc = c->first ? SC_OK : begin(m, &c->job, &err);

    if (!m->file && !rc) return; /* what it belongs to went wrong before */
    if (!rc) rc = add(m, c, &err);
    if (!rc) return;
    close_file(m);
    if (err.status == SC_EBUSY) sc_videos_fail(m->videos, &c->job, "storage_full", "There is no room for the file.");
    else if (err.status) {
        sc_log(SC_LOG_ERROR, "videos", "id=" SC_VIDEO_ID_PREFIX "%s %s", c->job.id, err.text);
        sc_videos_fail(m->videos, &c->job, "server_error", "The file could not be written.");
    }
}

static void *maker_main(void *arg) {
    sc_video_maker *m = arg;

    pthread_setname_np(pthread_self(), "videos");
    for (;;) {
        pthread_mutex_lock(&m->lock);
        while (!m->chunk && !m->drop && !m->stop) pthread_cond_wait(&m->changed, &m->lock);
        struct chunk *c = m->chunk;
        const bool drop = m->drop, stop = m->stop;
        m->chunk = NULL;
        m->drop = false;
        pthread_mutex_unlock(&m->lock);
        if (drop) close_file(m);
        if (c && !stop) work(m, c); /* behind a drop it is the beginning of another clip */
        free(c);
        if (stop) break;
        m->room(m->ctx);
    }
    close_file(m);
    sc_jpeg_close(m->jpeg);
    free(m->buf);
    return NULL;
}

sc_status sc_video_maker_start(sc_video_maker **out, sc_videos *videos, void (*room)(void *ctx), void *ctx, sc_error *err) {
    sc_video_maker *m = calloc(1, sizeof *m);

    *out = NULL;
    if (!m) return sc_fail(err, SC_ENOMEM, "videos: out of memory");
    m->videos = videos;
    m->room = room;
    m->ctx = ctx;
    m->fd = -1;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->changed, NULL);
    if (pthread_create(&m->thread, NULL, maker_main, m)) {
        free(m);
        return sc_fail(err, SC_ENOMEM, "videos: cannot start a thread");
    }
    *out = m;
    return SC_OK;
}

void sc_video_maker_stop(sc_video_maker *m) {
    if (!m) return;
    pthread_mutex_lock(&m->lock);
    m->stop = true;
    pthread_cond_signal(&m->changed);
    pthread_mutex_unlock(&m->lock);
    pthread_join(m->thread, NULL);
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

bool sc_video_maker_has_room(sc_video_maker *m) {
    pthread_mutex_lock(&m->lock);
    const bool room = !m->chunk;
    pthread_mutex_unlock(&m->lock);
    return room;
}

sc_status sc_video_maker_give(sc_video_maker *m, const sc_video *job, const sc_frames *f, sc_error *err) {
    const size_t pixels = (size_t)f->count * f->frame_bytes;
    struct chunk *c = malloc(sizeof *c + pixels);

    if (!c) return sc_fail(err, SC_ENOMEM, "video: no memory for a chunk of %zu bytes", pixels);
    c->job = *job;
    c->first = f->first_frame;
    c->count = f->count;
    c->frame_bytes = f->frame_bytes;
    memcpy(c->pixels, f->data, pixels);
    pthread_mutex_lock(&m->lock);
    assert(!m->chunk);
    m->chunk = c;
    pthread_cond_signal(&m->changed);
    pthread_mutex_unlock(&m->lock);
    return SC_OK;
}

void sc_video_maker_drop(sc_video_maker *m) {
    pthread_mutex_lock(&m->lock);
    struct chunk *c = m->chunk;
    m->chunk = NULL;
    m->drop = true;
    pthread_cond_signal(&m->changed);
    pthread_mutex_unlock(&m->lock);
    free(c);
}

/* videos.c - see videos.h. Records stand in the order of their creation, oldest first: 64 of them, so a look is a walk. */
#include "server/videos.h"
#include "base/log.h"
#include "server/metrics.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct record {
    sc_video video;
    int fd;                     /* of a completed one; else -1 */
};

struct sc_videos {
    pthread_mutex_t lock;
    struct record *all[SC_VIDEOS_MAX]; /* guarded by lock, like count and bytes */
    int count;
    uint64_t bytes, bytes_max;  /* of all files */
    int dir;                    /* -1: in memory */
};

const char *sc_video_status_name(sc_video_status s) {
    static const char *const names[] = {"queued", "in_progress", "completed", "failed"};
    return names[s];
}

static void count_status(sc_video_status s, int delta) {
    if (s == SC_VIDEO_QUEUED) SC_COUNT(videos_queued, delta);
    else if (s == SC_VIDEO_IN_PROGRESS) SC_COUNT(videos_in_progress, delta);
}

static void set_status(struct record *r, sc_video_status s) {
    count_status(r->video.status, -1);
    count_status(s, 1);
    r->video.status = s;
}

sc_status sc_videos_create(sc_videos **out, const char *dir, uint64_t bytes_max, sc_error *err) {
    char path[PATH_MAX];
    sc_videos *v = calloc(1, sizeof *v);

    *out = NULL;
    if (!v) return sc_fail(err, SC_ENOMEM, "videos: out of memory");
    v->bytes_max = bytes_max;
    v->dir = -1;
    if (dir) {
        errno = ENAMETOOLONG;
        if (snprintf(path, sizeof path, "%s/videos", dir) < (int)sizeof path && (!mkdir(dir, 0700) || errno == EEXIST) && (!mkdir(path, 0700) || errno == EEXIST))
            v->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (v->dir < 0) {
            free(v);
            return sc_fail(err, SC_EINVAL, "state-dir: %s: %s", dir, strerror(errno));
        }
    }
    pthread_mutex_init(&v->lock, NULL);
    *out = v;
    return SC_OK;
}

/* ---- lock held ---- */

static struct record *find(sc_videos *v, const char *id) {
    for (int i = 0; i < v->count; i++) if (!strcmp(v->all[i]->video.id, id)) return v->all[i];
    return NULL;
}

static struct record *find_job(sc_videos *v, const sc_video *job) {
    struct record *r = find(v, job->id);
    return r && r->video.run == job->run && r->video.status == SC_VIDEO_IN_PROGRESS ? r : NULL;
}

static void forget(sc_videos *v, struct record *r) {
    for (int i = 0; i < v->count; i++) {
        if (v->all[i] != r) continue;
        memmove(v->all + i, v->all + i + 1, sizeof *v->all * (size_t)(--v->count - i));
        break;
    }
    count_status(r->video.status, -1);
    v->bytes -= r->video.bytes;
    if (r->fd >= 0) close(r->fd);
    free(r);
}

static bool finished(const struct record *r) { return r->video.status == SC_VIDEO_COMPLETED || r->video.status == SC_VIDEO_FAILED; }

static void expire(sc_videos *v, int64_t now) {
    for (int i = v->count - 1; i >= 0; i--) if (finished(v->all[i]) && v->all[i]->video.expires <= now) forget(v, v->all[i]);
}

/* The oldest that is finished goes; with_file: of those that take room. */
static bool forget_oldest(sc_videos *v, bool with_file) {
    for (int i = 0; i < v->count; i++) {
        struct record *r = v->all[i];
        if (!finished(r) || (with_file && r->fd < 0)) continue;
        sc_log(SC_LOG_INFO, "videos", "id=" SC_VIDEO_ID_PREFIX "%s makes place for another", r->video.id);
        forget(v, r);
        return true;
    }
    return false;
}

/* ---- who asks ---- */

bool sc_videos_add(sc_videos *v, sc_video *asked, int64_t now, sc_problem *problem) {
    struct record *r = calloc(1, sizeof *r);
    sc_error err;
    int queued = 0;
    bool taken = false;

    if (!r || sc_id_random(asked->id, &err)) {
        free(r);
        sc_problem_set(problem, 503, "Out of memory; try again later.");
        return false;
    }
    asked->status = SC_VIDEO_QUEUED;
    asked->created = now;
    r->video = *asked;
    r->fd = -1;
    pthread_mutex_lock(&v->lock);
    expire(v, now);
    for (int i = 0; i < v->count; i++) queued += v->all[i]->video.status == SC_VIDEO_QUEUED;
    if (queued < SC_VIDEOS_QUEUED && (v->count < SC_VIDEOS_MAX || forget_oldest(v, false))) {
        v->all[v->count++] = r;
        count_status(SC_VIDEO_QUEUED, 1);
        taken = true;
    }
    pthread_mutex_unlock(&v->lock);
    if (taken) return true;
    free(r);
    sc_problem_set(problem, 429, "%d videos wait already, as many as may; try again later.", SC_VIDEOS_QUEUED);
    return false;
}

bool sc_videos_open(sc_videos *v, const char *id, int64_t now, sc_video *out, int *fd) {
    *fd = -1;
    pthread_mutex_lock(&v->lock);
    expire(v, now);
    const struct record *r = find(v, id);
    if (r) *out = r->video;
    if (r && r->fd >= 0) *fd = fcntl(r->fd, F_DUPFD_CLOEXEC, 0);
    pthread_mutex_unlock(&v->lock);
    return r != NULL;
}

bool sc_videos_get(sc_videos *v, const char *id, int64_t now, sc_video *out) {
    pthread_mutex_lock(&v->lock);
    expire(v, now);
    const struct record *r = find(v, id);
    if (r) *out = r->video;
    pthread_mutex_unlock(&v->lock);
    return r != NULL;
}

int sc_videos_list(sc_videos *v, const char *after, bool oldest_first, int64_t now, sc_video *out, int max, bool *more) {
    int n = 0;

    pthread_mutex_lock(&v->lock);
    expire(v, now);
    const int step = oldest_first ? 1 : -1;
    int at = oldest_first ? 0 : v->count - 1;
    if (after) {
        const struct record *r = find(v, after);
        for (at = 0; r && v->all[at] != r;) at++;
        at += step;
        if (!r) n = -1;
    }
    for (; n >= 0 && n < max && at >= 0 && at < v->count; at += step) out[n++] = v->all[at]->video;
    *more = n >= 0 && at >= 0 && at < v->count;
    pthread_mutex_unlock(&v->lock);
    return n;
}

bool sc_videos_remove(sc_videos *v, const char *id) {
    pthread_mutex_lock(&v->lock);
    struct record *r = find(v, id);
    if (r) forget(v, r);
    pthread_mutex_unlock(&v->lock);
    return r != NULL;
}

void sc_videos_destroy(sc_videos *v) {
    if (!v) return;
    while (v->count) forget(v, v->all[0]);
    if (v->dir >= 0) close(v->dir);
    pthread_mutex_destroy(&v->lock);
    free(v);
}

/* ---- who makes them ---- */

bool sc_videos_take(sc_videos *v, sc_video *out) {
    struct record *r = NULL;

    pthread_mutex_lock(&v->lock);
    for (int i = 0; i < v->count && !r; i++) if (v->all[i]->video.status == SC_VIDEO_QUEUED) r = v->all[i];
    if (r) {
        set_status(r, SC_VIDEO_IN_PROGRESS);
        r->video.run++;
        *out = r->video;
    }
    pthread_mutex_unlock(&v->lock);
    return r != NULL;
}

/* What has been made of it is not kept. */
static void begin_anew(sc_videos *v, struct record *r, sc_video_status s) {
    set_status(r, s);
    r->video.done = 0;
    v->bytes -= r->video.bytes;
    r->video.bytes = 0;
}

void sc_videos_put_back(sc_videos *v, const sc_video *job) {
    pthread_mutex_lock(&v->lock);
    struct record *r = find_job(v, job);
    if (r) begin_anew(v, r, SC_VIDEO_QUEUED);
    pthread_mutex_unlock(&v->lock);
}

bool sc_videos_wanted(sc_videos *v, const sc_video *job) {
    pthread_mutex_lock(&v->lock);
    const bool wanted = find_job(v, job) != NULL;
    pthread_mutex_unlock(&v->lock);
    return wanted;
}

void sc_videos_fail(sc_videos *v, const sc_video *job, const char *code, const char *message) {
    pthread_mutex_lock(&v->lock);
    struct record *r = find_job(v, job);
    if (r) {
        const int done = r->video.done;
        begin_anew(v, r, SC_VIDEO_FAILED);
        r->video.done = done;
        r->video.expires = INT64_MAX;
        snprintf(r->video.error_code, sizeof r->video.error_code, "%s", code);
        snprintf(r->video.error_message, sizeof r->video.error_message, "%s", message);
    }
    pthread_mutex_unlock(&v->lock);
    if (!r) return;
    SC_COUNT(videos_failed, 1);
    sc_log(SC_LOG_ERROR, "videos", "id=" SC_VIDEO_ID_PREFIX "%s failed: %s", job->id, message);
}

sc_status sc_videos_new_file(sc_videos *v, int *fd, sc_error *err) {
    char name[64], id[SC_ID_CHARS + 1];
    sc_status rc;

    if (v->dir < 0) *fd = memfd_create("sparsecast-video", MFD_CLOEXEC);
    else if ((rc = sc_id_random(id, err))) return rc;
    else { /* O_TMPFILE would be shorter, and is not on every file system */
        snprintf(name, sizeof name, ".%s.tmp", id);
        *fd = openat(v->dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (*fd >= 0) unlinkat(v->dir, name, 0);
    }
    if (*fd >= 0) return SC_OK;
    return sc_fail(err, errno == ENOSPC || errno == EDQUOT ? SC_EBUSY : SC_EIO, "video: a new file: %s", strerror(errno));
}

bool sc_videos_progress(sc_videos *v, const sc_video *job, int frames, uint64_t bytes, sc_error *err) {
    pthread_mutex_lock(&v->lock);
    struct record *r = find_job(v, job);
    bool room = r != NULL;
    while (r && room && v->bytes - r->video.bytes + bytes > v->bytes_max) room = forget_oldest(v, true);
    if (room) {
        v->bytes += bytes - r->video.bytes;
        r->video.bytes = bytes;
        r->video.done = frames;
    }
    pthread_mutex_unlock(&v->lock);
    if (r && !room) sc_fail(err, SC_EBUSY, "video: there is no room for it");
    return room;
}

void sc_videos_complete(sc_videos *v, const sc_video *job, int fd, uint64_t bytes, int64_t now) {
    sc_error err = {0};

    if (!sc_videos_progress(v, job, sc_video_frames(job), bytes, &err)) { /* the index may be what was too much */
        if (err.status) sc_videos_fail(v, job, "storage_full", "There is no room for the file.");
        close(fd);
        return;
    }
    pthread_mutex_lock(&v->lock);
    struct record *r = find_job(v, job);
    if (r) {
        set_status(r, SC_VIDEO_COMPLETED);
        r->fd = fd;
        r->video.completed = now;
        r->video.expires = now + SC_VIDEO_LIFE_S;
    }
    pthread_mutex_unlock(&v->lock);
    if (!r) {
        close(fd);
        return;
    }
    SC_COUNT(videos_made, 1);
    sc_log(SC_LOG_INFO, "videos", "id=" SC_VIDEO_ID_PREFIX "%s completed frames=%d bytes=%llu", job->id, sc_video_frames(job), (unsigned long long)bytes);
}

/* output.c - see output.h. write(2) itself, so that a full disk is seen by the frame that met it and a signal cuts nothing. */
#include "cli/output.h"
#include "cli/jpeg.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_ROOM = 4096 };

struct sc_output {
    const char *path;
    sc_output_kind kind;
    sc_jpeg *jpeg;
    int fd;                    /* of the one file, or -1 */
    char final[PATH_ROOM], part[PATH_ROOM + 8];
    size_t frame_bytes;
    uint64_t frames;
    uint8_t *packed;           /* Y4M: "FRAME\n" and the picture, so that a frame is one write */
};

sc_status sc_output_plan(const char *path, sc_output_kind *kind, sc_error *err) {
    static const char *const foreign[] = {"mp4", "mkv", "webm", "avi", "mov", "gif", "jpg", "jpeg", "png", "ts", "m4v", "webp", "ogv"};
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');

    *kind = SC_OUT_FOLDER;
    if (!*path) return sc_fail(err, SC_EINVAL, "output: an empty name");
    if (!strcmp(path, "-")) *kind = SC_OUT_STDOUT;
    if (!dot) return SC_OK;
    if (!strcasecmp(dot, ".y4m")) *kind = SC_OUT_Y4M;
    if (!strcasecmp(dot, ".mjpeg") || !strcasecmp(dot, ".mjpg")) *kind = SC_OUT_MJPEG;
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (!strcasecmp(dot + 1, foreign[i]))
            return sc_fail(err, SC_EINVAL, "output %s: .%s is not written here; give a folder, x.mjpeg, x.y4m, or - and pipe it into ffmpeg -i - %s", path, foreign[i], path);
    return SC_OK;
}

/* final = NAME (in the folder), part = .NAME.part beside it. */
static sc_status name_file(sc_output *o, const char *folder, const char *name, sc_error *err) {
    const char *slash = strrchr(name, '/');
    const int dir = slash ? (int)(slash - name + 1) : 0;
    const char *join = *folder && folder[strlen(folder) - 1] != '/' ? "/" : "";
    if (snprintf(o->final, sizeof o->final, "%s%s%s", folder, join, name) >= (int)sizeof o->final ||
        snprintf(o->part, sizeof o->part, "%s%s%.*s.%s.part", folder, join, dir, name, name + dir) >= (int)sizeof o->part)
        return sc_fail(err, SC_EINVAL, "output %.200s...: the name is too long", o->path);
    return SC_OK;
}

static sc_status start_file(sc_output *o, sc_error *err) {
    o->fd = open(o->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    return o->fd < 0 ? sc_fail(err, SC_EIO, "output %s: %s", o->final, strerror(errno)) : SC_OK;
}

static void drop_file(sc_output *o) {
    if (o->fd < 0) return;
    close(o->fd);
    unlink(o->part);
    o->fd = -1;
}

static sc_status write_all(sc_output *o, int fd, const uint8_t *data, size_t n, sc_error *err) {
    while (n) {
        const ssize_t some = write(fd, data, n);
        if (some < 0 && errno == EINTR) continue;
        if (some < 0) {
            const int why = errno;
            if (fd == STDOUT_FILENO) return sc_fail(err, SC_EIO, "standard output: frame %llu: %s", (unsigned long long)o->frames, strerror(why));
            drop_file(o);
            return sc_fail(err, SC_EIO, "output %s: frame %llu: %s", o->final, (unsigned long long)o->frames, strerror(why));
        }
        data += some;
        n -= (size_t)some;
    }
    return SC_OK;
}

static sc_status name_it(sc_output *o, sc_error *err) {
    const int closed = close(o->fd);
    o->fd = -1;
    if (closed || rename(o->part, o->final)) {
        const int why = errno;
        unlink(o->part);
        return sc_fail(err, SC_EIO, "output %s: %s", o->final, strerror(why));
    }
    return SC_OK;
}

static sc_status open_folder(const char *path, sc_error *err) {
    struct stat st;
    if (mkdir(path, 0777) && errno != EEXIST) return sc_fail(err, SC_EIO, "output %s: cannot make the folder: %s", path, strerror(errno));
    if (stat(path, &st)) return sc_fail(err, SC_EIO, "output %s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return sc_fail(err, SC_EIO, "output %s: a file of that name is there, a folder is needed", path);
    return SC_OK;
}

sc_status sc_output_open(sc_output **out, const char *path, sc_output_kind kind, const sc_output_picture *p, sc_error *err) {
    sc_output *o = calloc(1, sizeof *o);
    char head[128];
    sc_status rc = SC_OK;

    *out = NULL;
    if (!o) return sc_fail(err, SC_ENOMEM, "output: out of memory");
    o->path = path;
    o->kind = kind;
    o->fd = -1;
    o->frame_bytes = (size_t)p->width * (size_t)p->height * 3 / 2;
    if (kind == SC_OUT_FOLDER || kind == SC_OUT_MJPEG) {
        if ((rc = sc_jpeg_create(&o->jpeg, p->width, p->height, p->quality, err))) goto cleanup;
    } else if (!(o->packed = malloc(o->frame_bytes + 6))) {
        rc = sc_fail(err, SC_ENOMEM, "output: out of memory");
        goto cleanup;
    }
    if (kind == SC_OUT_FOLDER && (rc = open_folder(path, err))) goto cleanup;
    if (kind == SC_OUT_MJPEG || kind == SC_OUT_Y4M) {
        if ((rc = name_file(o, "", path, err)) || (rc = start_file(o, err))) goto cleanup;
    }
    if (o->packed) {
        memcpy(o->packed, "FRAME\n", 6);
        const int n = snprintf(head, sizeof head, "YUV4MPEG2 W%d H%d F%d:1 Ip A1:1 C420jpeg XCOLORRANGE=FULL\n", p->width, p->height, p->fps);
        if ((rc = write_all(o, kind == SC_OUT_STDOUT ? STDOUT_FILENO : o->fd, (const uint8_t *)head, (size_t)n, err))) goto cleanup;
    }
    *out = o;
    o = NULL;
cleanup:
    sc_output_close(o);
    return rc;
}

sc_status sc_output_frame(sc_output *o, const uint8_t *i420, sc_error *err) {
    const uint8_t *data = o->packed;
    size_t n = o->frame_bytes + 6;
    char name[40];
    sc_status rc;

    if (o->packed) memcpy(o->packed + 6, i420, o->frame_bytes);
    else if ((rc = sc_jpeg_frame(o->jpeg, i420, &data, &n, err))) return rc;
    if (o->kind == SC_OUT_FOLDER) {
        snprintf(name, sizeof name, "frame-%06llu.jpg", (unsigned long long)o->frames);
        if ((rc = name_file(o, o->path, name, err)) || (rc = start_file(o, err))) return rc;
    }
    if ((rc = write_all(o, o->kind == SC_OUT_STDOUT ? STDOUT_FILENO : o->fd, data, n, err))) return rc;
    if (o->kind == SC_OUT_FOLDER && (rc = name_it(o, err))) return rc;
    o->frames++;
    return SC_OK;
}

uint64_t sc_output_frames(const sc_output *o) { return o->frames; }

sc_status sc_output_finish(sc_output *o, sc_error *err) { return o->fd >= 0 ? name_it(o, err) : SC_OK; }

void sc_output_close(sc_output *o) {
    if (!o) return;
    drop_file(o);
    sc_jpeg_destroy(o->jpeg);
    free(o->packed);
    free(o);
}

/* write.c - see write.h. */
#include "import/write.h"
#include "base/sha256.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_ROOM = 1400, MAX_FILES = 3 * SC_SHARDS + 16, HEADER_ALIGN = 64 };

struct sc_folder {
    char dir[1024], temp[1100];
    struct { char name[SC_FILE_NAME], sum[65]; } files[MAX_FILES];
    int count;
    uint64_t bytes;
};

/* ---- elements --------------------------------------------------------------------------------------------------------------- */

uint16_t sc_to_bf16(float f) {
    uint32_t u;

    memcpy(&u, &f, 4);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40); /* nan stays one */
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

uint16_t sc_to_f16(float f) {
    uint32_t u, sign, man;
    int exp;

    memcpy(&u, &f, 4);
    sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (u >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and above round to infinity */
    if (u >= 0x38800000) {                                 /* normal: the carry of rounding may enter the exponent, which is right */
        u -= 112u << 23;
        return (uint16_t)(sign | (u + 0xfff + (u >> 13 & 1)) >> 13);
    }
    exp = (int)(u >> 23);
    if (exp < 102) return (uint16_t)sign;                  /* below half of the smallest subnormal */
    man = (u & 0x7fffff) | 0x800000;
    const int shift = 126 - exp;                           /* value = man * 2^(exp - 150), unit of a subnormal 2^-24 */
    const uint32_t half = 1u << (shift - 1), rest = man & ((1u << shift) - 1), out = man >> shift;
    return (uint16_t)(sign | (out + (rest > half || (rest == half && (out & 1)))));
}

/* ---- files ------------------------------------------------------------------------------------------------------------------ */

typedef struct {
    sc_folder *folder;
    char path[PATH_ROOM];
    const char *name;
    int fd;
    sc_sha256 sum;
} out_file;

static sc_status open_file(out_file *o, sc_folder *folder, const char *name, sc_error *err) {
    o->folder = folder;
    o->name = name;
    o->fd = -1;
    if (folder->count == MAX_FILES) return sc_fail(err, SC_EINVAL, "%.300s: more than %d files", folder->dir, MAX_FILES);
    snprintf(o->path, sizeof o->path, "%s/%s", folder->temp, name);
    o->fd = open(o->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (o->fd < 0) return sc_fail(err, SC_EIO, "%.300s: %s", o->path, strerror(errno));
    sc_sha256_init(&o->sum);
    snprintf(folder->files[folder->count].name, SC_FILE_NAME, "%s", name);
    folder->count++;
    return SC_OK;
}

static sc_status put(out_file *o, const void *data, size_t n, sc_error *err) {
    const char *p = data;

    sc_sha256_add(&o->sum, data, n);
    o->folder->bytes += n;
    while (n) {
        ssize_t done = write(o->fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return sc_fail(err, SC_EIO, "%.300s: cannot write: %s", o->path, done ? strerror(errno) : "nothing was written");
        p += done;
        n -= (size_t)done;
    }
    return SC_OK;
}

/* Also after a failure, whose status `rc` is then kept. */
static sc_status close_file(out_file *o, sc_status rc, sc_error *err) {
    if (o->fd < 0) return rc;
    if (!rc && fsync(o->fd)) rc = sc_fail(err, SC_EIO, "%.300s: cannot sync: %s", o->path, strerror(errno));
    if (close(o->fd) && !rc) rc = sc_fail(err, SC_EIO, "%.300s: cannot close: %s", o->path, strerror(errno));
    o->fd = -1;
    if (!rc) sc_sha256_hex(&o->sum, o->folder->files[o->folder->count - 1].sum);
    return rc;
}

/* ---- the folder ------------------------------------------------------------------------------------------------------------- */

sc_status sc_folder_begin(sc_folder **out, const char *dir, sc_error *err) {
    sc_folder *f = calloc(1, sizeof *f);
    struct stat st;
    size_t n = strlen(dir), cut;
    sc_status rc = SC_OK;

    *out = NULL;
    if (!f) return sc_fail(err, SC_ENOMEM, "%.300s: out of memory", dir);
    while (n > 1 && dir[n - 1] == '/') n--;
    if (n < 1 || n >= sizeof f->dir) { rc = sc_fail(err, SC_EINVAL, "%.100s: no usable path of a model directory", dir); goto cleanup; }
    snprintf(f->dir, sizeof f->dir, "%.*s", (int)n, dir);
    if (!lstat(f->dir, &st)) { rc = sc_fail(err, SC_EINVAL, "%.300s: exists already; remove it or choose another name", f->dir); goto cleanup; }
    cut = strrchr(f->dir, '/') ? (size_t)(strrchr(f->dir, '/') - f->dir) + 1 : 0;
    snprintf(f->temp, sizeof f->temp, "%.*s.%s.import-%ld", (int)cut, f->dir, f->dir + cut, (long)getpid());
    if (mkdir(f->temp, 0755)) {
        rc = sc_fail(err, SC_EIO, "%.300s: cannot make it: %s", f->temp, strerror(errno));
        f->temp[0] = 0;
        goto cleanup;
    }
    *out = f;
    f = NULL;
cleanup:
    free(f);
    return rc;
}

static void remove_all(const sc_folder *f) {
    char path[PATH_ROOM];

    for (int i = 0; i < f->count; i++) {
        snprintf(path, sizeof path, "%s/%s", f->temp, f->files[i].name);
        unlink(path);
    }
    rmdir(f->temp);
}

void sc_folder_abort(sc_folder *f) {
    if (!f) return;
    remove_all(f);
    free(f);
}

static sc_status sync_dir(const char *path, sc_error *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), bad = fd < 0 || (fsync(fd) && errno != EINVAL);
    sc_status rc = bad ? sc_fail(err, SC_EIO, "%.300s: cannot sync: %s", path, strerror(errno)) : SC_OK;

    if (fd >= 0) close(fd);
    return rc;
}

sc_status sc_folder_commit(sc_folder *f, sc_error *err) {
    char parent[1024], *text = malloc((size_t)MAX_FILES * (SC_FILE_NAME + 70)), *slash;
    size_t n = 0;
    struct stat st;
    sc_status rc = SC_OK;

    if (!text) { rc = sc_fail(err, SC_ENOMEM, "%.300s: out of memory", f->dir); goto cleanup; }
    for (int i = 0; i < f->count; i++) n += (size_t)sprintf(text + n, "%s  %s\n", f->files[i].sum, f->files[i].name);
    if ((rc = sc_folder_file(f, "SHA256SUMS", text, n, err))) goto cleanup;
    if ((rc = sync_dir(f->temp, err))) goto cleanup;
    /* rename would replace an empty folder of that name silently */
    if (!lstat(f->dir, &st)) { rc = sc_fail(err, SC_EINVAL, "%.300s: appeared meanwhile; nothing was replaced", f->dir); goto cleanup; }
    if (rename(f->temp, f->dir)) { rc = sc_fail(err, SC_EIO, "%.300s: cannot rename: %s", f->dir, strerror(errno)); goto cleanup; }
    snprintf(parent, sizeof parent, "%s", f->dir);
    slash = strrchr(parent, '/');
    if (slash) slash[slash == parent] = 0;
    rc = sync_dir(slash ? parent : ".", err);
    free(text);
    free(f);
    return rc;
cleanup:
    free(text);
    sc_folder_abort(f);
    return rc;
}

sc_status sc_folder_file(sc_folder *f, const char *name, const void *data, size_t n, sc_error *err) {
    out_file o;
    sc_status rc = open_file(&o, f, name, err);

    if (!rc) rc = put(&o, data, n, err);
    return close_file(&o, rc, err);
}

uint64_t sc_folder_bytes(const sc_folder *f) { return f->bytes; }

/* ---- shards ----------------------------------------------------------------------------------------------------------------- */

typedef struct { char *s; size_t n, room; } text;

static sc_status text_add(text *t, const char *s, size_t n, sc_error *err) {
    if (t->n + n > t->room) {
        size_t room = t->room ? 2 * t->room : 1 << 16;
        while (room < t->n + n) room *= 2;
        char *more = realloc(t->s, room);
        if (!more) return sc_fail(err, SC_ENOMEM, "safetensors header: out of memory");
        t->s = more;
        t->room = room;
    }
    memcpy(t->s + t->n, s, n);
    t->n += n;
    return SC_OK;
}

/* Names are ours (letters, digits, dots and underscores), so nothing needs escaping. The header is padded to a multiple of 64, so that
 * data begins on a cache line of the mapping. */
static sc_status write_header(out_file *o, const sc_out_tensor *t, int count, sc_error *err) {
    text h = {0};
    uint64_t at = 0;
    uint8_t length[8];
    char line[400];
    int n;
    sc_status rc = text_add(&h, "{\"__metadata__\":{\"format\":\"sparsecast-1\"}", 41, err);

    for (int i = 0; i < count && !rc; i++) {
        const uint64_t end = at + (uint64_t)t[i].count * sc_dtype_bytes(t[i].dtype);
        n = snprintf(line, sizeof line, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t[i].name, t[i].dtype == SC_F32 ? "F32" : t[i].dtype == SC_F16 ? "F16" : "BF16");
        for (int k = 0; k < t[i].rank; k++) n += snprintf(line + n, sizeof line - (size_t)n, "%s%lld", k ? "," : "", (long long)t[i].shape[k]);
        n += snprintf(line + n, sizeof line - (size_t)n, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)end);
        rc = text_add(&h, line, (size_t)n, err);
        at = end;
    }
    if (!rc) rc = text_add(&h, "}", 1, err);
    while (!rc && (8 + h.n) % HEADER_ALIGN) rc = text_add(&h, " ", 1, err);
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)h.n >> (8 * i));
    if (!rc) rc = put(o, length, 8, err);
    if (!rc) rc = put(o, h.s, h.n, err);
    free(h.s);
    return rc;
}

static sc_status write_data(out_file *o, const sc_out_tensor *t, int index, sc_fill *fill, void *ctx, float *values, uint16_t *halves, sc_error *err) {
    const int64_t row = t->rank && t->shape[0] ? t->count / t->shape[0] : t->count;
    const int64_t step = row > 0 && row <= SC_FILL_MAX ? SC_FILL_MAX / row * row : SC_FILL_MAX;
    sc_status rc;

    for (int64_t first = 0; first < t->count; first += step) {
        const int64_t n = t->count - first < step ? t->count - first : step;
        if ((rc = fill(ctx, index, first, n, values, err))) return rc;
        for (int64_t i = 0; i < n; i++) {
            if (!isfinite(values[i])) return sc_fail(err, SC_EINVAL, "tensor %.200s: element %lld is not finite", t->name, (long long)(first + i));
            if (t->dtype == SC_F16 && fabsf(values[i]) >= 65520.0f)
                return sc_fail(err, SC_EINVAL, "tensor %.200s: element %lld is %g, which F16 cannot hold; use --dtype bf16", t->name, (long long)(first + i),
                               (double)values[i]);
        }
        if (t->dtype == SC_F32) {
            rc = put(o, values, (size_t)n * 4, err);
        } else {
            if (t->dtype == SC_F16) for (int64_t i = 0; i < n; i++) halves[i] = sc_to_f16(values[i]);
            else for (int64_t i = 0; i < n; i++) halves[i] = sc_to_bf16(values[i]);
            rc = put(o, halves, (size_t)n * 2, err);
        }
        if (rc) return rc;
    }
    return SC_OK;
}

static uint64_t size_of(const sc_out_tensor *t) { return (uint64_t)t->count * sc_dtype_bytes(t->dtype); }

sc_status sc_folder_tensors(sc_folder *f, const char *stem, const sc_out_tensor *t, int count, uint64_t shard_bytes, sc_fill *fill, void *ctx,
                            char files[SC_SHARDS][SC_FILE_NAME], int *file_count, sc_error *err) {
    float *values = malloc((size_t)SC_FILL_MAX * sizeof *values);
    uint16_t *halves = malloc((size_t)SC_FILL_MAX * sizeof *halves);
    int first[SC_SHARDS + 1] = {0}, shards = 0;
    uint64_t bytes = 0;
    sc_status rc = SC_OK;

    *file_count = 0;
    if (!values || !halves) { rc = sc_fail(err, SC_ENOMEM, "%.300s: out of memory", f->dir); goto cleanup; }
    for (int i = 0; i < count; i++) {
        if (bytes && bytes + size_of(&t[i]) > shard_bytes) {
            if (++shards == SC_SHARDS) { rc = sc_fail(err, SC_EINVAL, "%.100s: more than %d files of %llu bytes", stem, SC_SHARDS, (unsigned long long)shard_bytes); goto cleanup; }
            first[shards] = i;
            bytes = 0;
        }
        bytes += size_of(&t[i]);
    }
    first[++shards] = count;
    for (int s = 0; s < shards; s++) {
        out_file o;
        if (shards == 1) snprintf(files[s], SC_FILE_NAME, "%.60s.safetensors", stem);
        else snprintf(files[s], SC_FILE_NAME, "%.60s-%05d-of-%05d.safetensors", stem, s + 1, shards);
        rc = open_file(&o, f, files[s], err);
        if (!rc) rc = write_header(&o, t + first[s], first[s + 1] - first[s], err);
        for (int i = first[s]; i < first[s + 1] && !rc; i++) rc = write_data(&o, &t[i], i, fill, ctx, values, halves, err);
        if ((rc = close_file(&o, rc, err))) goto cleanup;
    }
    *file_count = shards;
cleanup:
    free(values);
    free(halves);
    return rc;
}

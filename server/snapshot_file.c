/* snapshot_file.c - see snapshot_file.h. */
#include "server/snapshot_file.h"
#include "base/frame_hash.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { VERSION = 1, ALIGN = 64, NAME_ROOM = 96 };
static const char magic[8] = {'S', 'C', 'S', 'T', 'R', 'E', 'A', 'M'};
static const char ending[] = ".snapshot";

typedef struct {
    char magic[8];
    uint32_t version, header_bytes;
    uint64_t text_bytes, memory_bytes;
    char text_hash[SC_FRAME_HASH_CHARS], memory_hash[SC_FRAME_HASH_CHARS]; /* hex */
    char zero[32];
} header;
_Static_assert(sizeof(header) == 128 && sizeof(header) % ALIGN == 0, "no gaps");

void sc_snapshot_file_free(sc_snapshot_file *f) {
    free(f->text);
    free(f->memory);
    memset(f, 0, sizeof *f);
}

static uint64_t padded(uint64_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }

static void hash_of(const void *data, size_t n, char out[SC_FRAME_HASH_CHARS]) {
    char text[SC_FRAME_HASH_CHARS + 1];
    sc_frame_hash(data, n, text);
    memcpy(out, text, SC_FRAME_HASH_CHARS);
}

/* ---- writing ---- */

static sc_status failed(const char *name, const char *what, sc_error *err) {
    const int why = errno;
    if (why == ENOSPC || why == EDQUOT || why == EFBIG) return sc_fail(err, SC_EBUSY, "there is no room on the disk for snapshot %s", name);
    return sc_fail(err, SC_EIO, "snapshot %s: %s: %s", name, what, strerror(why));
}

static bool write_all(int fd, const void *data, size_t n) {
    for (const char *p = data; n;) {
        const ssize_t k = write(fd, p, n < 1 << 30 ? n : 1 << 30);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

/* Files of ours in the directory. */
static int count_files(int dir) {
    const int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    int count = 0;
    if (!d) {
        if (fd >= 0) close(fd);
        return 0;
    }
    for (const struct dirent *e; (e = readdir(d));) {
        const size_t n = strlen(e->d_name);
        count += e->d_name[0] != '.' && n >= sizeof ending && !strcmp(e->d_name + n - (sizeof ending - 1), ending);
    }
    closedir(d);
    return count;
}

static sc_status check_count(int dir, const char *file, int most, sc_error *err) {
    struct stat st;
    if (!fstatat(dir, file, &st, AT_SYMLINK_NOFOLLOW) || count_files(dir) < most) return SC_OK;
    return sc_fail(err, SC_EBUSY, "there are %d snapshots, as many as may be; a name that is there can be used again, and files can be removed from the state directory", most);
}

sc_status sc_snapshot_file_write(int dir, const char *name, int most, sc_snapshot_file *f, sc_error *err) {
    static const char zero[ALIGN] = {0};
    header h = {.version = VERSION, .header_bytes = sizeof h, .text_bytes = f->text_bytes, .memory_bytes = f->memory_bytes};
    char file[NAME_ROOM], tmp[NAME_ROOM];
    sc_status rc;
    int fd;

    snprintf(file, sizeof file, "%s%s", name, ending);
    snprintf(tmp, sizeof tmp, ".%s.tmp", name);
    if ((rc = check_count(dir, file, most, err))) return rc;
    memcpy(h.magic, magic, sizeof magic);
    hash_of(f->text, f->text_bytes, h.text_hash);
    hash_of(f->memory, f->memory_bytes, h.memory_hash);
    unlinkat(dir, tmp, 0); /* of a daemon that was killed */
    if ((fd = openat(dir, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600)) < 0) return failed(name, "open", err);
    if (!write_all(fd, &h, sizeof h) || !write_all(fd, f->text, f->text_bytes) || !write_all(fd, zero, (size_t)(padded(f->text_bytes) - f->text_bytes)) ||
        !write_all(fd, f->memory, f->memory_bytes)) rc = failed(name, "write", err);
    else if (fsync(fd)) rc = failed(name, "fsync", err);
    if (close(fd) && !rc) rc = failed(name, "close", err);
    if (!rc && renameat(dir, tmp, dir, file)) rc = failed(name, "rename", err);
    if (rc) unlinkat(dir, tmp, 0);
    else if (fsync(dir)) rc = failed(name, "fsync of the directory", err);
    f->bytes = sizeof h + padded(f->text_bytes) + f->memory_bytes;
    return rc;
}

void sc_snapshot_file_remove(int dir, const char *name) {
    char file[NAME_ROOM];
    snprintf(file, sizeof file, "%s%s", name, ending);
    unlinkat(dir, file, 0);
}

/* ---- reading ---- */

static sc_status read_all(int fd, const char *name, void *data, size_t n, uint64_t at, sc_error *err) {
    for (char *p = data; n;) {
        const ssize_t k = pread(fd, p, n < 1 << 30 ? n : 1 << 30, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return failed(name, "read", err);
        if (k == 0) return sc_fail(err, SC_EINVAL, "snapshot %s: it got shorter while it was read", name);
        p += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return SC_OK;
}

static sc_status check_header(const char *name, const header *h, uint64_t bytes, sc_error *err) {
    if (memcmp(h->magic, magic, sizeof magic)) return sc_fail(err, SC_EINVAL, "snapshot %s: the file is none", name);
    if (h->version != VERSION || h->header_bytes != sizeof *h) return sc_fail(err, SC_EINVAL, "snapshot %s: it has version %u, this daemon reads %d", name, h->version, VERSION);
    if (h->text_bytes > bytes || h->memory_bytes > bytes || sizeof *h + padded(h->text_bytes) + h->memory_bytes != bytes)
        return sc_fail(err, SC_EINVAL, "snapshot %s: it is not as long as it says", name);
    return SC_OK;
}

/* One of the parts. */
static sc_status read_part(int fd, const char *name, size_t n, uint64_t at, const char hash[SC_FRAME_HASH_CHARS], void **out, sc_error *err) {
    char found[SC_FRAME_HASH_CHARS];
    sc_status rc;

    if (!(*out = malloc(n + 1))) return sc_fail(err, SC_ENOMEM, "snapshot %s: out of memory", name);
    if ((rc = read_all(fd, name, *out, n, at, err))) return rc;
    hash_of(*out, n, found);
    return memcmp(found, hash, sizeof found) ? sc_fail(err, SC_EINVAL, "snapshot %s: it is damaged: its hash is another", name) : SC_OK;
}

sc_status sc_snapshot_file_read(int dir, const char *name, sc_snapshot_file *out, sc_error *err) {
    char file[NAME_ROOM];
    struct stat st;
    void *text = NULL;
    header h;
    sc_status rc;

    memset(out, 0, sizeof *out);
    snprintf(file, sizeof file, "%s%s", name, ending);
    const int fd = openat(dir, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return sc_fail(err, SC_ENOTFOUND, "there is no snapshot %s", name);
    if (fd < 0 && errno == ELOOP) return sc_fail(err, SC_EINVAL, "snapshot %s: the file is none", name);
    if (fd < 0 || fstat(fd, &st)) {
        rc = failed(name, "open", err);
        goto cleanup;
    }
    if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof h) {
        rc = sc_fail(err, SC_EINVAL, "snapshot %s: the file is none", name);
        goto cleanup;
    }
    if ((rc = read_all(fd, name, &h, sizeof h, 0, err)) || (rc = check_header(name, &h, (uint64_t)st.st_size, err))) goto cleanup;
    rc = read_part(fd, name, (size_t)h.text_bytes, sizeof h, h.text_hash, &text, err);
    out->text = text;
    if (!rc) rc = read_part(fd, name, (size_t)h.memory_bytes, sizeof h + padded(h.text_bytes), h.memory_hash, &out->memory, err);
    out->text_bytes = (size_t)h.text_bytes;
    out->memory_bytes = (size_t)h.memory_bytes;
    out->bytes = (uint64_t)st.st_size;
cleanup:
    if (fd >= 0) close(fd);
    if (rc) sc_snapshot_file_free(out);
    return rc;
}

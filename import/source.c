/* source.c - see source.h.
 *
 * A .pt is an archive NAME/data.pkl, NAME/data/KEY...: the pickle names tensors and their storages, an entry holds a storage's
 * bytes. A tensor enters the table only when its storage's entry is there and long enough. */
#include "import/source.h"
#include "engine/safetensors.h"
#include "import/pickle.h"
#include "import/zip.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct sc_source {
    char path[1024];
    sc_source_tensor *tensors;
    int count;
    sc_tensors *safetensors;
    void *map;
    size_t bytes;
    sc_zip *zip;
    sc_pickle *pickle;
    uint8_t *verified;   /* of a .pt: per entry of the archive */
};

const char *sc_dtype_word(sc_dtype type) {
    static const char *const words[] = {"F32", "F16", "BF16", "F64", "I32", "I64", "U8", "I8", "I16", "BOOL", "F8_E4M3", "F8_E5M2"};
    return words[type];
}

static sc_status map_file(sc_source *s, sc_error *err) {
    sc_status rc = SC_OK;
    struct stat st;
    int fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || fstat(fd, &st)) {
        rc = sc_fail(err, SC_EIO, "%.300s: %s", s->path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        rc = sc_fail(err, SC_EIO, "%.300s: %s, not a file", s->path, S_ISDIR(st.st_mode) ? "a directory" : "a device or pipe");
    } else if (st.st_size < 8) {
        rc = sc_fail(err, SC_EINVAL, "%.300s: %lld bytes are no checkpoint", s->path, (long long)st.st_size);
    } else {
        s->bytes = (size_t)st.st_size;
        s->map = mmap(NULL, s->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (s->map == MAP_FAILED) {
            s->map = NULL;
            rc = sc_fail(err, SC_EIO, "%.300s: cannot map %zu bytes: %s", s->path, s->bytes, strerror(errno));
        }
    }
    if (fd >= 0) close(fd);
    return rc;
}

/* What the file is, by its first bytes. NULL: safetensors, perhaps; "zip"; else the name of something that is not read here. */
static const char *sniff(const sc_source *s) {
    const uint8_t *b = s->map;

    if (s->bytes > 8 && b[8] == '{' && !b[4] && !b[5] && !b[6] && !b[7]) return NULL;
    if (!memcmp(b, "PK\3\4", 4) || !memcmp(b, "PK\5\6", 4)) return "zip";
    if (!memcmp(b, "GGUF", 4)) return "a GGUF file: its blocks of 4 to 8 bits are not read; take the safetensors or .pth of the same model";
    if (b[0] == 0x80 && b[1] >= 2 && b[1] <= 5)
        return "a bare pickle, as PyTorch wrote before version 1.6; load and save it once with a newer one";
    if (b[0] == 0x1f && b[1] == 0x8b) return "a gzip file";
    if (!memcmp(b, "version ", 8)) return "a Git LFS pointer, not the file itself: run git lfs pull";
    if (b[0] == '<') return "a web page, not a checkpoint";
    return NULL;
}

static bool is_contiguous(const sc_source_tensor *t) {
    int64_t step = 1;

    if (!t->count) return true;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->shape[i] != 1 && t->stride[i] != step) return false;
        step *= t->shape[i];
    }
    return true;
}

static int by_name(const void *a, const void *b) { return strcmp(((const sc_source_tensor *)a)->name, ((const sc_source_tensor *)b)->name); }

static sc_status open_safetensors(sc_source *s, const char *const *paths, int count, sc_error *err) {
    sc_status rc = sc_tensors_open(&s->safetensors, paths, count, err);

    if (rc) return rc;
    s->count = sc_tensors_count(s->safetensors);
    if (!(s->tensors = calloc((size_t)s->count + 1, sizeof *s->tensors))) return sc_fail(err, SC_ENOMEM, "%.300s: out of memory", s->path);
    for (int i = 0; i < s->count; i++) {
        const sc_tensor *t = sc_tensors_at(s->safetensors, i);
        sc_source_tensor *o = &s->tensors[i];
        int64_t step = 1;
        *o = (sc_source_tensor){.name = t->name, .dtype = t->dtype, .rank = t->rank, .count = t->count, .data = t->data, .contiguous = true, .record = -1};
        memcpy(o->shape, t->shape, sizeof o->shape);
        for (int k = t->rank - 1; k >= 0 && t->count; k--) {
            o->stride[k] = step;
            step *= t->shape[k];
        }
    }
    return SC_OK;
}

/* The only entry */
static sc_status find_pickle(const sc_source *s, const sc_zip_entry **out, sc_error *err) {
    *out = NULL;
    for (int i = 0; i < sc_zip_count(s->zip); i++) {
        const sc_zip_entry *e = sc_zip_at(s->zip, i);
        const char *slash = strrchr(e->name, '/'), *base = slash ? slash + 1 : e->name;
        if (strcmp(base, "data.pkl")) continue;
        if (*out) return sc_fail(err, SC_EINVAL, "%.200s: both %.100s and %.100s: which is it?", s->path, (*out)->name, e->name);
        *out = e;
    }
    if (!*out) return sc_fail(err, SC_EINVAL, "%.300s: a ZIP archive without data.pkl is no PyTorch checkpoint", s->path);
    return SC_OK;
}

static sc_status check_byteorder(const sc_source *s, const char *folder, sc_error *err) {
    char name[SC_ZIP_NAME + 16];
    const sc_zip_entry *e;

    snprintf(name, sizeof name, "%sbyteorder", folder);
    e = sc_zip_find(s->zip, name);
    if (e && (e->bytes != 6 || memcmp(e->data, "little", 6))) return sc_fail(err, SC_EINVAL, "%.300s: written on a big-endian machine", s->path);
    return SC_OK;
}

static sc_status place(sc_source *s, const char *folder, const sc_pickle_tensor *p, sc_source_tensor *o, sc_error *err) {
    char name[SC_ZIP_NAME + 80];
    const sc_zip_entry *e;
    const size_t wide = sc_dtype_bytes(p->dtype);
    uint64_t need;

    snprintf(name, sizeof name, "%sdata/%s", folder, p->storage);
    if (!(e = sc_zip_find(s->zip, name)))
        return sc_fail(err, SC_EINVAL, "%.200s: tensor %.120s: its data, entry %.120s, is missing", s->path, p->name, name);
    if (__builtin_mul_overflow((uint64_t)p->storage_count, (uint64_t)wide, &need) || need > e->bytes)
        return sc_fail(err, SC_EINVAL, "%.200s: tensor %.120s: storage of %lld x %zu bytes in entry %.100s of %llu", s->path, p->name,
                       (long long)p->storage_count, wide, name, (unsigned long long)e->bytes);
    *o = (sc_source_tensor){.name = p->name, .dtype = p->dtype, .rank = p->rank, .count = p->count, .data = e->data + (uint64_t)p->offset * (p->count ? wide : 0)};
    memcpy(o->shape, p->shape, sizeof o->shape);
    memcpy(o->stride, p->stride, sizeof o->stride);
    o->contiguous = is_contiguous(o);
    for (int lo = 0, hi = sc_zip_count(s->zip); lo < hi;) { /* the entry's number */
        int mid = lo + (hi - lo) / 2, order = strcmp(name, sc_zip_at(s->zip, mid)->name);
        if (!order) { o->record = mid; break; }
        if (order < 0) hi = mid; else lo = mid + 1;
    }
    return SC_OK;
}

static sc_status open_archive(sc_source *s, sc_error *err) {
    const sc_zip_entry *pickle;
    char folder[SC_ZIP_NAME];
    const char *slash;
    sc_status rc = sc_zip_open(&s->zip, s->map, s->bytes, s->path, err);

    if (rc || (rc = find_pickle(s, &pickle, err))) return rc;
    slash = strrchr(pickle->name, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - pickle->name) + 1 : 0, pickle->name);
    if (sc_crc32(pickle->data, (size_t)pickle->bytes) != pickle->crc)
        return sc_fail(err, SC_EINVAL, "%.300s: %.100s: its CRC-32 does not match: the file is damaged", s->path, pickle->name);
    if ((rc = check_byteorder(s, folder, err))) return rc;
    if ((rc = sc_pickle_open(&s->pickle, pickle->data, (size_t)pickle->bytes, s->path, err))) return rc;
    s->count = sc_pickle_count(s->pickle);
    s->tensors = calloc((size_t)s->count + 1, sizeof *s->tensors);
    s->verified = calloc((size_t)sc_zip_count(s->zip) + 1, 1);
    if (!s->tensors || !s->verified) return sc_fail(err, SC_ENOMEM, "%.300s: out of memory", s->path);
    for (int i = 0; i < s->count; i++)
        if ((rc = place(s, folder, sc_pickle_at(s->pickle, i), &s->tensors[i], err))) return rc;
    return SC_OK;
}

sc_status sc_source_open(sc_source **out, const char *const *paths, int count, sc_error *err) {
    sc_source *s = calloc(1, sizeof *s);
    const char *what;
    sc_status rc;

    *out = NULL;
    if (!s) return sc_fail(err, SC_ENOMEM, "%.300s: out of memory", paths[0]);
    if (strlen(paths[0]) >= sizeof s->path) { rc = sc_fail(err, SC_EINVAL, "%.100s...: the path is too long", paths[0]); goto cleanup; }
    snprintf(s->path, sizeof s->path, "%s", paths[0]);
    if ((rc = map_file(s, err))) goto cleanup;
    what = sniff(s);
    if (what && strcmp(what, "zip")) { rc = sc_fail(err, SC_EINVAL, "%.300s: %s", s->path, what); goto cleanup; }
    if (what && count > 1) { rc = sc_fail(err, SC_EINVAL, "%.300s: a PyTorch archive cannot be one of several shards", s->path); goto cleanup; }
    if (what) {
        rc = open_archive(s, err);
    } else {
        munmap(s->map, s->bytes);
        s->map = NULL;
        rc = open_safetensors(s, paths, count, err);
    }
    if (rc) goto cleanup;
    if (s->count > 1) qsort(s->tensors, (size_t)s->count, sizeof *s->tensors, by_name);
    *out = s;
    s = NULL;
cleanup:
    sc_source_close(s);
    return rc;
}

void sc_source_close(sc_source *s) {
    if (!s) return;
    sc_tensors_close(s->safetensors);
    sc_pickle_close(s->pickle);
    sc_zip_close(s->zip);
    if (s->map) munmap(s->map, s->bytes);
    free(s->tensors);
    free(s->verified);
    free(s);
}

const char *sc_source_path(const sc_source *s) { return s->path; }
const char *sc_source_format(const sc_source *s) { return s->zip ? "PyTorch" : "safetensors"; }
int sc_source_count(const sc_source *s) { return s->count; }
const sc_source_tensor *sc_source_at(const sc_source *s, int index) { return index >= 0 && index < s->count ? &s->tensors[index] : NULL; }

const sc_source_tensor *sc_source_find(const sc_source *s, const char *name) {
    int lo = 0, hi = s->count;

    while (lo < hi) {
        int mid = lo + (hi - lo) / 2, order = strcmp(name, s->tensors[mid].name);
        if (!order) return &s->tensors[mid];
        if (order < 0) hi = mid;
        else lo = mid + 1;
    }
    return NULL;
}

sc_status sc_source_verify(sc_source *s, const sc_source_tensor *t, sc_error *err) {
    if (t->record < 0 || s->verified[t->record]) return SC_OK;
    const sc_zip_entry *e = sc_zip_at(s->zip, t->record);
    if (sc_crc32(e->data, (size_t)e->bytes) != e->crc)
        return sc_fail(err, SC_EINVAL, "%.200s: tensor %.120s: the CRC-32 of entry %.120s does not match: the file is damaged", s->path, t->name, e->name);
    s->verified[t->record] = 1;
    return SC_OK;
}

/* ---- elements --------------------------------------------------------------------------------------------------------------- */

/* float8_e4m3fn: no infinities, 0x7f and 0xff are nan. */
static float from_e4m3(uint8_t b) {
    const int exp = b >> 3 & 15, man = b & 7;
    float f = exp == 15 && man == 7 ? NAN : exp ? ldexpf((float)(8 + man), exp - 10) : ldexpf((float)man, -9);
    return b & 0x80 ? -f : f;
}

/* float8_e5m2 is the upper byte of a float16. */
static float from_e5m2(uint8_t b) { return sc_from_f16((uint16_t)(b << 8)); }

static bool read_run(float *out, const uint8_t *p, sc_dtype type, int64_t n, int64_t stride) {
    const size_t step = (size_t)stride * sc_dtype_bytes(type);
    uint16_t h;
    double d;

    switch (type) {
    case SC_F32: for (int64_t i = 0; i < n; i++, p += step) memcpy(&out[i], p, 4); return true;
    case SC_F16: for (int64_t i = 0; i < n; i++, p += step) { memcpy(&h, p, 2); out[i] = sc_from_f16(h); } return true;
    case SC_BF16: for (int64_t i = 0; i < n; i++, p += step) { memcpy(&h, p, 2); out[i] = sc_from_bf16(h); } return true;
    case SC_F64: for (int64_t i = 0; i < n; i++, p += step) { memcpy(&d, p, 8); out[i] = (float)d; } return true;
    case SC_F8_E4M3: for (int64_t i = 0; i < n; i++, p += step) out[i] = from_e4m3(*p); return true;
    case SC_F8_E5M2: for (int64_t i = 0; i < n; i++, p += step) out[i] = from_e5m2(*p); return true;
    default: return false;
    }
}

bool sc_source_read(const sc_source_tensor *t, int64_t first, int64_t n, float *out) {
    const size_t wide = sc_dtype_bytes(t->dtype);

    if (t->contiguous) return read_run(out, t->data + (size_t)first * wide, t->dtype, n, 1);
    const int64_t inner = t->shape[t->rank - 1];
    while (n > 0) { /* row by row of the last dimension */
        int64_t rest = first / inner, column = first % inner, at = column * t->stride[t->rank - 1], some = inner - column < n ? inner - column : n;
        for (int i = t->rank - 2; i >= 0; i--) {
            at += rest % t->shape[i] * t->stride[i];
            rest /= t->shape[i];
        }
        if (!read_run(out, t->data + (size_t)at * wide, t->dtype, some, t->stride[t->rank - 1])) return false;
        out += some;
        first += some;
        n -= some;
    }
    return true;
}

void sc_source_done(const sc_source_tensor *t) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = ((uintptr_t)t->data + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)t->data + (size_t)t->count * sc_dtype_bytes(t->dtype)) / page * page;

    if (t->contiguous && end > begin) madvise((void *)begin, end - begin, MADV_DONTNEED); /* a private mapping that nobody writes */
}

/* safetensors.c - weights, read where they lie.
 *
 * A file is: 8 bytes little-endian header length n, n bytes of JSON, data. Each file is mapped read-only and its header is
 * believed in nothing: a tensor enters the set only when dtype x shape is exactly the bytes its offsets span and those bytes
 * are inside the file. Sorted by offset the tensors of a file must then touch: an overlap means two names for one weight, a
 * hole or a tail means bytes nobody accounts for; the format forbids both, and so does its reference reader.
 *
 *     set: files[]   mapping + JSON tree (names and metadata point into the tree)
 *          tensors[] in order of file, then offset      by_name[] -> tensors, sorted for bsearch
 *
 * A file that is cut short while it is mapped kills the reader with SIGBUS; that is the price of mapping, so weights are
 * replaced by rename, never written in place. Opened with O_NONBLOCK so that a fifo in place of a file is an error, not a
 * wait.   Thread: any, read only after open.   Source: the safetensors format description. */
#include "engine/safetensors.h"
#include "base/name_distance.h"
#include "engine/json_strict.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_TENSORS = 100000, MAX_FILES = 1000, MAX_HEADER = 100 * 1000 * 1000, VALUES_PER_TENSOR = 24 };

typedef struct {
    const char *path;
    void *map;
    size_t bytes;
    cJSON *header;
    const cJSON *metadata;
} file;

struct sc_tensors {
    file *files;
    int file_count;
    sc_tensor *tensors;
    int count, room;
    sc_tensor **by_name;
    void (*used)(void *ctx, size_t bytes);
    void *used_ctx;
};

static const struct { const char *name; sc_dtype type; } dtypes[] = {
    {"F32", SC_F32}, {"F16", SC_F16}, {"BF16", SC_BF16}, {"F64", SC_F64}, {"I32", SC_I32}, {"I64", SC_I64}, {"U8", SC_U8},
    {"I8", SC_I8}, {"I16", SC_I16}, {"BOOL", SC_BOOL}, {"F8_E4M3", SC_F8_E4M3}, {"F8_E5M2", SC_F8_E5M2},
};

static const char *dtype_name(sc_dtype type) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (dtypes[i].type == type) return dtypes[i].name;
    return "?";
}

/* "[3, 4, 5]" into buf; -1 prints as "any". */
static const char *shape_text(char *buf, size_t n, int rank, const int64_t *shape) {
    size_t at = (size_t)snprintf(buf, n, "[");

    for (int i = 0; i < rank && at < n; i++)
        at += shape[i] < 0 ? (size_t)snprintf(buf + at, n - at, "%sany", i ? ", " : "")
                           : (size_t)snprintf(buf + at, n - at, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (at < n) snprintf(buf + at, n - at, "]");
    return buf;
}

static sc_status map_file(file *f, sc_error *err) {
    sc_status rc = SC_OK;
    struct stat st;
    int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || fstat(fd, &st)) {
        rc = sc_fail(err, SC_EIO, "%.200s: %s", f->path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        rc = sc_fail(err, SC_EIO, "%.200s: %s, not a file", f->path, S_ISDIR(st.st_mode) ? "a directory" : "a device or pipe");
    } else if (st.st_size < 8) {
        rc = sc_fail(err, SC_EINVAL, "%.200s: %lld bytes, the header length alone takes 8", f->path, (long long)st.st_size);
    } else {
        f->bytes = (size_t)st.st_size;
        f->map = mmap(NULL, f->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (f->map == MAP_FAILED) {
            f->map = NULL;
            rc = sc_fail(err, SC_EIO, "%.200s: cannot map %zu bytes: %s", f->path, f->bytes, strerror(errno));
        }
    }
    if (fd >= 0) close(fd);
    return rc;
}

static sc_status read_header(file *f, size_t *data_at, sc_error *err) {
    const unsigned char *b = f->map;
    uint64_t n = 0;

    for (int i = 7; i >= 0; i--) n = n << 8 | b[i];
    if (n > MAX_HEADER)
        return sc_fail(err, SC_EINVAL, "%.200s: header length %llu is above %d", f->path, (unsigned long long)n, MAX_HEADER);
    if (n > f->bytes - 8)
        return sc_fail(err, SC_EINVAL, "%.200s: header length %llu, but only %zu bytes follow", f->path, (unsigned long long)n,
                       f->bytes - 8);
    if (n < 2) return sc_fail(err, SC_EINVAL, "%.200s: header length %llu, no room for {}", f->path, (unsigned long long)n);
    *data_at = 8 + (size_t)n;
    return sc_json_parse(&f->header, (const char *)b + 8, (size_t)n, (size_t)MAX_TENSORS * VALUES_PER_TENSOR, f->path, err);
}

static sc_status read_shape(sc_tensor *t, const cJSON *shape, const char *path, sc_error *err) {
    const cJSON *dim;
    int64_t d;

    if (!cJSON_IsArray(shape)) return sc_fail(err, SC_EINVAL, "%.200s: %.120s: shape is missing or no list", path, t->name);
    t->count = 1;
    cJSON_ArrayForEach(dim, shape) {
        if (t->rank == 8) return sc_fail(err, SC_EINVAL, "%.200s: %.120s: shape has more than 8 dimensions", path, t->name);
        if (!sc_json_int(dim, &d) || d < 0)
            return sc_fail(err, SC_EINVAL, "%.200s: %.120s: shape[%d] is not a whole number of 0 or more", path, t->name, t->rank);
        if (__builtin_mul_overflow(t->count, d, &t->count))
            return sc_fail(err, SC_EINVAL, "%.200s: %.120s: the product of shape overflows at shape[%d] = %lld", path, t->name,
                           t->rank, (long long)d);
        t->shape[t->rank++] = d;
    }
    if (__builtin_mul_overflow((uint64_t)t->count, (uint64_t)sc_dtype_bytes(t->dtype), &t->bytes))
        return sc_fail(err, SC_EINVAL, "%.200s: %.120s: %lld elements of %s overflow", path, t->name, (long long)t->count,
                       dtype_name(t->dtype));
    return SC_OK;
}

static sc_status read_tensor(sc_tensor *t, const cJSON *entry, const file *f, size_t data_at, sc_error *err) {
    const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(entry, "dtype"), *offsets;
    size_t i = 0, room = f->bytes - data_at;
    int64_t begin, end;
    sc_status rc;

    t->name = entry->string;
    if (!cJSON_IsObject(entry)) return sc_fail(err, SC_EINVAL, "%.200s: %.120s: the entry is no object", f->path, t->name);
    if (!cJSON_IsString(dtype)) return sc_fail(err, SC_EINVAL, "%.200s: %.120s: dtype is missing or no string", f->path, t->name);
    while (i < sizeof dtypes / sizeof *dtypes && strcmp(dtypes[i].name, dtype->valuestring)) i++;
    if (i == sizeof dtypes / sizeof *dtypes)
        return sc_fail(err, SC_EINVAL, "%.200s: %.120s: unknown dtype \"%.40s\"", f->path, t->name, dtype->valuestring);
    t->dtype = dtypes[i].type;
    rc = read_shape(t, cJSON_GetObjectItemCaseSensitive(entry, "shape"), f->path, err);
    if (rc) return rc;
    offsets = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 || !sc_json_int(offsets->child, &begin) ||
        !sc_json_int(offsets->child->next, &end))
        return sc_fail(err, SC_EINVAL, "%.200s: %.120s: data_offsets is not a list of two whole numbers", f->path, t->name);
    if (begin < 0 || end < begin)
        return sc_fail(err, SC_EINVAL, "%.200s: %.120s: data_offsets [%lld, %lld] run backwards", f->path, t->name,
                       (long long)begin, (long long)end);
    if ((uint64_t)end > room)
        return sc_fail(err, SC_EINVAL, "%.200s: %.120s: data_offsets [%lld, %lld] leave the file, which has %zu bytes of data",
                       f->path, t->name, (long long)begin, (long long)end, room);
    if ((uint64_t)(end - begin) != t->bytes) {
        char shape[200];
        return sc_fail(err, SC_EINVAL, "%.200s: %.100s: %s %s takes %zu bytes, data_offsets [%lld, %lld] span %lld", f->path,
                       t->name, dtype_name(t->dtype), shape_text(shape, sizeof shape, t->rank, t->shape), t->bytes,
                       (long long)begin, (long long)end, (long long)(end - begin));
    }
    t->data = (const char *)f->map + data_at + begin;
    return SC_OK;
}

static int by_place(const void *a, const void *b) {
    const sc_tensor *x = a, *y = b;

    if (x->data != y->data) return (const char *)x->data < (const char *)y->data ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1; /* empty tensors first: they may share a place */
    return strcmp(x->name, y->name);
}

static sc_status check_layout(const sc_tensor *t, int n, const file *f, size_t data_at, sc_error *err) {
    const char *at = (const char *)f->map + data_at, *end = (const char *)f->map + f->bytes;

    for (int i = 0; i < n; at = (const char *)t[i].data + t[i].bytes, i++) {
        const char *begin = t[i].data;
        if (begin < at)
            return sc_fail(err, SC_EINVAL, "%.200s: %.100s overlaps %.100s by %zu bytes", f->path, t[i].name, t[i - 1].name,
                           (size_t)(at - begin));
        if (begin > at)
            return sc_fail(err, SC_EINVAL, "%.200s: %.100s: a hole of %zu bytes before it", f->path, t[i].name, (size_t)(begin - at));
    }
    if (at != end)
        return sc_fail(err, SC_EINVAL, "%.200s: %zu bytes after the last tensor belong to none", f->path, (size_t)(end - at));
    return SC_OK;
}

static sc_status read_metadata(file *f, const cJSON *node, sc_error *err) {
    const cJSON *item;

    if (!cJSON_IsObject(node)) return sc_fail(err, SC_EINVAL, "%.200s: __metadata__ is no object", f->path);
    cJSON_ArrayForEach(item, node)
        if (!cJSON_IsString(item))
            return sc_fail(err, SC_EINVAL, "%.200s: __metadata__: \"%.120s\" is no string", f->path, item->string);
    f->metadata = node;
    return SC_OK;
}

static sc_status read_file(sc_tensors *set, file *f, sc_error *err) {
    size_t data_at = 0;
    const cJSON *entry;
    int first = set->count;
    sc_status rc = map_file(f, err);

    if (!rc) rc = read_header(f, &data_at, err);
    if (rc) return rc;
    cJSON_ArrayForEach(entry, f->header) {
        if (!strcmp(entry->string, "__metadata__")) {
            if ((rc = read_metadata(f, entry, err))) return rc;
            continue;
        }
        if (set->count == MAX_TENSORS) return sc_fail(err, SC_EINVAL, "%.200s: more than %d tensors", f->path, MAX_TENSORS);
        if (set->count == set->room) {
            int room = set->room ? 2 * set->room : 256;
            sc_tensor *more = realloc(set->tensors, (size_t)room * sizeof *more);
            if (!more) return sc_fail(err, SC_ENOMEM, "%.200s: out of memory for %d tensors", f->path, room);
            set->tensors = more;
            set->room = room;
        }
        set->tensors[set->count] = (sc_tensor){0};
        if ((rc = read_tensor(&set->tensors[set->count], entry, f, data_at, err))) return rc;
        set->count++;
    }
    if (set->count > first) qsort(set->tensors + first, (size_t)(set->count - first), sizeof *set->tensors, by_place);
    return check_layout(set->tensors + first, set->count - first, f, data_at, err);
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(sc_tensor *const *)a)->name, (*(sc_tensor *const *)b)->name);
}

static const file *file_of(const sc_tensors *set, const sc_tensor *t) {
    for (int i = 0; i < set->file_count; i++) {
        const char *map = set->files[i].map;
        if ((const char *)t->data >= map && (const char *)t->data <= map + set->files[i].bytes &&
            cJSON_GetObjectItemCaseSensitive(set->files[i].header, t->name))
            return &set->files[i];
    }
    return &set->files[0];
}

static sc_status index_names(sc_tensors *set, sc_error *err) {
    set->by_name = malloc((size_t)(set->count + 1) * sizeof *set->by_name);
    if (!set->by_name) return sc_fail(err, SC_ENOMEM, "%.200s: out of memory for an index of %d", set->files[0].path, set->count);
    for (int i = 0; i < set->count; i++) set->by_name[i] = &set->tensors[i];
    qsort(set->by_name, (size_t)set->count, sizeof *set->by_name, by_name);
    for (int i = 1; i < set->count; i++)
        if (!strcmp(set->by_name[i - 1]->name, set->by_name[i]->name))
            return sc_fail(err, SC_EINVAL, "%.150s and %.150s: both hold a tensor %.120s",
                           file_of(set, set->by_name[i - 1])->path, file_of(set, set->by_name[i])->path, set->by_name[i]->name);
    return SC_OK;
}

sc_status sc_tensors_open(sc_tensors **out, const char *const *paths, int count, sc_error *err) {
    sc_status rc = SC_OK;
    sc_tensors *set = NULL;

    *out = NULL;
    if (count < 1 || count > MAX_FILES) return sc_fail(err, SC_EINVAL, "tensors: %d files is not in 1..%d", count, MAX_FILES);
    set = calloc(1, sizeof *set);
    if (set) set->files = calloc((size_t)count, sizeof *set->files);
    if (!set || !set->files) {
        rc = sc_fail(err, SC_ENOMEM, "%.200s: out of memory", paths[0]);
        goto cleanup;
    }
    for (int i = 0; i < count && !rc; i++) {
        set->files[i].path = paths[i]; /* borrowed: used in messages of this call only */
        set->file_count = i + 1;
        rc = read_file(set, &set->files[i], err);
    }
    if (!rc) rc = index_names(set, err);
    if (rc) goto cleanup;
    for (int i = 0; i < count; i++) set->files[i].path = NULL;
    *out = set;
    set = NULL;
cleanup:
    sc_tensors_close(set);
    return rc;
}

void sc_tensors_close(sc_tensors *set) {
    if (!set) return;
    for (int i = 0; i < set->file_count; i++) {
        if (set->files[i].map) munmap(set->files[i].map, set->files[i].bytes);
        cJSON_Delete(set->files[i].header);
    }
    free(set->files);
    free(set->tensors);
    free(set->by_name);
    free(set);
}

int sc_tensors_count(const sc_tensors *set) { return set->count; }

const sc_tensor *sc_tensors_at(const sc_tensors *set, int index) {
    return index >= 0 && index < set->count ? &set->tensors[index] : NULL;
}

const sc_tensor *sc_tensors_find(const sc_tensors *set, const char *name) {
    int lo = 0, hi = set->count;

    while (lo < hi) {
        int mid = lo + (hi - lo) / 2, order = strcmp(name, set->by_name[mid]->name);
        if (!order) return set->by_name[mid];
        if (order < 0) hi = mid;
        else lo = mid + 1;
    }
    return NULL;
}

const char *sc_tensors_metadata(const sc_tensors *set, const char *key) {
    for (int i = 0; i < set->file_count; i++) {
        const cJSON *item = set->files[i].metadata ? cJSON_GetObjectItemCaseSensitive(set->files[i].metadata, key) : NULL;
        if (item) return item->valuestring;
    }
    return NULL;
}

sc_status sc_tensors_need(const sc_tensors *set, const char *name, int rank, const int64_t *shape, const sc_tensor **out,
                          sc_error *err) {
    const sc_tensor *t = sc_tensors_find(set, name);
    char want[200], have[200];
    bool fits;

    *out = NULL;
    if (!t) {
        const char *nearest = NULL;
        int best = 1 << 20;
        for (int i = 0; i < set->count; i++) {
            int d = sc_name_distance(name, set->by_name[i]->name, best);
            if (d < best) {
                best = d;
                nearest = set->by_name[i]->name;
            }
        }
        if (!nearest) return sc_fail(err, SC_ENOTFOUND, "tensor %.200s: not found, there are none", name);
        return sc_fail(err, SC_ENOTFOUND, "tensor %.200s: not found; the nearest name is %.200s", name, nearest);
    }
    fits = t->rank == rank;
    for (int i = 0; i < rank && fits; i++) fits = shape[i] == -1 || shape[i] == t->shape[i];
    if (!fits)
        return sc_fail(err, SC_EINVAL, "tensor %.100s: shape %s, wanted %s", name, shape_text(have, sizeof have, t->rank, t->shape),
                       shape_text(want, sizeof want, rank, shape));
    if (t->dtype != SC_F32 && t->dtype != SC_F16 && t->dtype != SC_BF16)
        return sc_fail(err, SC_EINVAL, "tensor %.200s: type %s, wanted F32, F16 or BF16", name, dtype_name(t->dtype));
    *out = t;
    return SC_OK;
}

void sc_tensors_used(const sc_tensors *set, const sc_tensor *tensor, bool drop) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = ((uintptr_t)tensor->data + page - 1) & ~(page - 1),
                    to = ((uintptr_t)tensor->data + tensor->bytes) & ~(page - 1); /* pages that are this tensor's alone */

    if (drop && to > from) madvise((void *)from, to - from, MADV_DONTNEED);
    if (set->used) set->used(set->used_ctx, tensor->bytes);
}

void sc_tensors_watch(sc_tensors *set, void (*used)(void *ctx, size_t bytes), void *ctx) {
    set->used = used;
    set->used_ctx = ctx;
}

void sc_tensors_drop(const sc_tensors *set) {
    for (int i = 0; i < set->file_count; i++) madvise(set->files[i].map, set->files[i].bytes, MADV_DONTNEED);
}

float *sc_tensor_to_f32(const sc_tensor *tensor) {
    size_t n = (size_t)tensor->count, wide = sc_dtype_bytes(tensor->dtype), bytes;
    float *f;

    if (tensor->dtype != SC_F32 && tensor->dtype != SC_F16 && tensor->dtype != SC_BF16) return NULL;
    if (__builtin_mul_overflow(n, sizeof *f, &bytes)) return NULL;
    f = malloc(bytes ? bytes : 1);
    if (!f || !n) return f;
    if ((uintptr_t)tensor->data % wide == 0) {
        sc_to_f32(f, tensor->data, tensor->dtype, n);
    } else { /* a header of odd length: go through an aligned buffer */
        uint32_t part[256];
        for (size_t at = 0; at < n; at += 256) {
            size_t some = n - at < 256 ? n - at : 256;
            memcpy(part, (const char *)tensor->data + at * wide, some * wide);
            sc_to_f32(f + at, part, tensor->dtype, some);
        }
    }
    return f;
}

/* zip.c - see zip.h.
 *
 *     [local header, data, descriptor?]* [central header]* [ZIP64 end, ZIP64 locator]? [end of directory, comment]
 *
 * Found from the back: the end record, whose comment must reach the end of the file exactly; from it the directory, which must lie
 * right before the end records; from each of its headers the local header, which must say the same. Sorted by place, the entries
 * must then follow one another without overlap and end before the directory. Gaps are allowed: writers align data by padding.
 *
 * A writer that streams (miniz, hence PyTorch) sets flag bit 3 and leaves CRC and sizes of the local header 0; what the central
 * directory says must then agree with the data descriptor behind the data.
 * Source: PKWARE APPNOTE 6.3.10, sections 4.3 to 4.5. */
#include "import/zip.h"
#include "engine/utf8.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EOCD = 22, EOCD64 = 56, LOCATOR = 20, CENTRAL = 46, LOCAL = 30, COMMENT_MAX = 65535 };
enum { FLAG_ENCRYPTED = 1, FLAG_STREAMED = 8, FLAG_STRONG = 64, FLAG_MASKED = 8192 };

typedef struct {
    sc_zip_entry entry;
    uint64_t header, end;  /* span in the archive: local header to end of data and descriptor */
} item;

struct sc_zip {
    item *items;           /* by name */
    int count;
    char *names;
};

typedef struct {
    const uint8_t *b;
    uint64_t n;
    const char *where;
    sc_error *err;
} archive;

static uint16_t u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t u32(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }
static uint64_t u64(const uint8_t *p) { return (uint64_t)u32(p) | (uint64_t)u32(p + 4) << 32; }

/* True when [at, at + n) lies inside the first `size` bytes. */
static bool inside(uint64_t at, uint64_t n, uint64_t size) { return at <= size && n <= size - at; }

typedef struct { uint64_t at, bytes, count; } directory;

static sc_status find_end(const archive *a, uint64_t *at) {
    const uint64_t lowest = a->n > EOCD + COMMENT_MAX ? a->n - EOCD - COMMENT_MAX : 0;

    if (a->n < EOCD) return sc_fail(a->err, SC_EINVAL, "%.200s: %llu bytes, no ZIP archive", a->where, (unsigned long long)a->n);
    for (uint64_t i = a->n - EOCD + 1; i-- > lowest;)
        if (u32(a->b + i) == 0x06054b50 && i + EOCD + u16(a->b + i + 20) == a->n) {
            *at = i;
            return SC_OK;
        }
    return sc_fail(a->err, SC_EINVAL, "%.200s: no end of a ZIP directory: the file is cut short, or no ZIP archive", a->where);
}

static sc_status find_directory(const archive *a, directory *d) {
    uint64_t end = 0;
    const uint8_t *e, *z;
    sc_status rc = find_end(a, &end);

    if (rc) return rc;
    e = a->b + end;
    if (u16(e + 4) != 0 && u16(e + 4) != 0xffff) return sc_fail(a->err, SC_EINVAL, "%.200s: disk %u of a split archive", a->where, u16(e + 4));
    *d = (directory){.at = u32(e + 16), .bytes = u32(e + 12), .count = u16(e + 10)};
    if (end >= LOCATOR && u32(e - LOCATOR) == 0x07064b50) {
        const uint64_t at64 = u64(e - LOCATOR + 8), room = end - LOCATOR;
        if (u32(e - LOCATOR + 4) != 0 || u32(e - LOCATOR + 16) > 1) return sc_fail(a->err, SC_EINVAL, "%.200s: a split archive", a->where);
        if (!inside(at64, EOCD64, room))
            return sc_fail(a->err, SC_EINVAL, "%.200s: ZIP64 end record at %llu leaves the file", a->where, (unsigned long long)at64);
        z = a->b + at64;
        if (u32(z) != 0x06064b50) return sc_fail(a->err, SC_EINVAL, "%.200s: no ZIP64 end record at %llu", a->where, (unsigned long long)at64);
        if (u64(z + 4) != room - at64 - 12)
            return sc_fail(a->err, SC_EINVAL, "%.200s: ZIP64 end record of %llu bytes does not end at its locator", a->where,
                           (unsigned long long)u64(z + 4));
        if (u32(z + 16) != 0 || u32(z + 20) != 0 || u64(z + 24) != u64(z + 32))
            return sc_fail(a->err, SC_EINVAL, "%.200s: a split archive", a->where);
        if ((d->at != u64(z + 48) && d->at != 0xffffffff) || (d->bytes != u64(z + 40) && d->bytes != 0xffffffff) ||
            (d->count != u64(z + 32) && d->count != 0xffff))
            return sc_fail(a->err, SC_EINVAL, "%.200s: the two end records contradict each other", a->where);
        *d = (directory){.at = u64(z + 48), .bytes = u64(z + 40), .count = u64(z + 32)};
        end = at64;
    } else if (u16(e + 6) != 0 || u16(e + 8) != u16(e + 10)) {
        return sc_fail(a->err, SC_EINVAL, "%.200s: a split archive", a->where);
    }
    if (d->count > SC_ZIP_ENTRIES)
        return sc_fail(a->err, SC_EINVAL, "%.200s: %llu entries, at most %d are read", a->where, (unsigned long long)d->count, SC_ZIP_ENTRIES);
    if (!inside(d->at, d->bytes, end))
        return sc_fail(a->err, SC_EINVAL, "%.200s: directory of %llu bytes at %llu leaves the file", a->where, (unsigned long long)d->bytes,
                       (unsigned long long)d->at);
    if (d->at + d->bytes != end)
        return sc_fail(a->err, SC_EINVAL, "%.200s: the directory ends at %llu, its end record starts at %llu", a->where,
                       (unsigned long long)(d->at + d->bytes), (unsigned long long)end);
    if (d->bytes / CENTRAL < d->count)
        return sc_fail(a->err, SC_EINVAL, "%.200s: %llu entries do not fit a directory of %llu bytes", a->where, (unsigned long long)d->count,
                       (unsigned long long)d->bytes);
    return SC_OK;
}

/* A name is a path inside the archive, whatever system reads it. */
static const char *name_fault(const char *s, size_t n) {
    if (n < 1) return "an empty name";
    if (n >= SC_ZIP_NAME) return "a name of more than 511 bytes";
    if (sc_utf8_bad(s, n) < n) return "a name that is not UTF-8";
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f) return "a control byte in a name";
        if (s[i] == '\\') return "a backslash in a name";
    }
    if (s[0] == '/') return "an absolute name";
    if (n > 1 && s[1] == ':') return "a name with a drive letter";
    for (size_t i = 0; i < n;) {
        size_t len = 0;
        while (i + len < n && s[i + len] != '/') len++;
        if (len == 0) return "a name with an empty part";
        if ((len == 1 && s[i] == '.') || (len == 2 && s[i] == '.' && s[i + 1] == '.')) return "a name that leaves the archive";
        i += len + 1;
    }
    return NULL;
}

/* Printable form of a name that may be anything. */
static const char *shown(char out[80], const uint8_t *name, size_t n) {
    size_t i = 0;

    for (; i < n && i < 79; i++) out[i] = (char)(name[i] < 0x20 || name[i] >= 0x7f ? '?' : name[i]);
    out[i] = 0;
    return out;
}

/* ZIP64 extra field: 8 bytes for each of the 32-bit fields that says "see there", in fixed order. */
static const char *read_extra64(const uint8_t *x, uint64_t n, uint64_t *usize, uint64_t *csize, uint64_t *header) {
    uint64_t *want[3];
    int wants = 0;

    if (*usize == 0xffffffff) want[wants++] = usize;
    if (*csize == 0xffffffff) want[wants++] = csize;
    if (header && *header == 0xffffffff) want[wants++] = header;
    if (!wants) return NULL;
    while (n >= 4) {
        uint64_t len = u16(x + 2);
        if (len > n - 4) return "an extra field past its end";
        if (u16(x) == 1) {
            if (len < 8 * (uint64_t)wants) return "a ZIP64 field that is too short";
            for (int i = 0; i < wants; i++) *want[i] = u64(x + 4 + 8 * i);
            return NULL;
        }
        x += 4 + len;
        n -= 4 + len;
    }
    return "a size of 4294967295 without a ZIP64 field";
}

/* The descriptor behind streamed data: signature?, crc, sizes of 4 or 8 bytes. 0: none agrees. */
static uint64_t descriptor_bytes(const archive *a, uint64_t at, uint64_t limit, uint32_t crc, uint64_t bytes) {
    for (int sig = 1; sig >= 0; sig--)
        for (int wide = 0; wide < 2; wide++) {
            uint64_t len = (sig ? 4 : 0) + 4 + (wide ? 16 : 8);
            const uint8_t *p = a->b + at;
            if (!inside(at, len, limit)) continue;
            if (sig && u32(p) != 0x08074b50) continue;
            p += sig ? 4 : 0;
            if (u32(p) != crc) continue;
            if (wide ? u64(p + 4) == bytes && u64(p + 12) == bytes : u32(p + 4) == bytes && u32(p + 8) == bytes) return len;
        }
    return 0;
}

/* One central header at `at`; *next receives the place of the following one. */
static sc_status read_entry(const archive *a, const directory *d, uint64_t at, item *out, char *name_out, uint64_t *next) {
    const uint64_t limit = d->at + d->bytes;
    const uint8_t *c = a->b + at, *l;
    char show[80];
    const char *fault;

    if (!inside(at, CENTRAL, limit) || u32(c) != 0x02014b50)
        return sc_fail(a->err, SC_EINVAL, "%.200s: no directory entry at %llu", a->where, (unsigned long long)at);
    const uint64_t name_n = u16(c + 28), extra_n = u16(c + 30), comment_n = u16(c + 32);
    if (!inside(at + CENTRAL, name_n + extra_n + comment_n, limit))
        return sc_fail(a->err, SC_EINVAL, "%.200s: the directory entry at %llu leaves the directory", a->where, (unsigned long long)at);
    const uint8_t *name = c + CENTRAL;
    shown(show, name, name_n);
    if ((fault = name_fault((const char *)name, name_n)) && !(name_n > 1 && name[name_n - 1] == '/' && !name_fault((const char *)name, name_n - 1)))
        return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\": %s", a->where, show, fault);
    const int flags = u16(c + 8), method = u16(c + 10);
    const uint32_t crc = u32(c + 16);
    uint64_t csize = u32(c + 20), usize = u32(c + 24), header = u32(c + 42);
    if (flags & (FLAG_ENCRYPTED | FLAG_STRONG | FLAG_MASKED)) return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\" is encrypted", a->where, show);
    if (method != 0)
        return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\" is compressed (method %d); checkpoints store their entries as they are", a->where,
                       show, method);
    if (u16(c + 34) != 0 && u16(c + 34) != 0xffff) return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\" is on another disk", a->where, show);
    if ((fault = read_extra64(name + name_n, extra_n, &usize, &csize, &header)))
        return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\": %s", a->where, show, fault);
    if (usize != csize)
        return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\": %llu bytes stored as %llu", a->where, show, (unsigned long long)usize,
                       (unsigned long long)csize);
    if (!inside(header, LOCAL, d->at) || u32(a->b + header) != 0x04034b50)
        return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\": no local header at %llu", a->where, show, (unsigned long long)header);

    l = a->b + header;
    const uint64_t lname_n = u16(l + 26), lextra_n = u16(l + 28);
    if (!inside(header + LOCAL, lname_n + lextra_n, d->at))
        return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\": its local header leaves the file", a->where, show);
    if (lname_n != name_n || memcmp(l + LOCAL, name, name_n))
        return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\": its local header has another name", a->where, show);
    const uint64_t begin = header + LOCAL + lname_n + lextra_n;
    if (!inside(begin, usize, d->at))
        return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\": %llu bytes at %llu leave the file", a->where, show, (unsigned long long)usize,
                       (unsigned long long)begin);
    const bool streamed = u16(l + 6) & FLAG_STREAMED;
    uint64_t lcsize = u32(l + 18), lusize = u32(l + 22), tail = 0;
    if (u16(l + 8) != method || (u16(l + 6) & FLAG_ENCRYPTED))
        return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\": its local header has another method", a->where, show);
    if ((fault = read_extra64(l + LOCAL + lname_n, lextra_n, &lusize, &lcsize, NULL)) && !streamed)
        return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\": local header: %s", a->where, show, fault);
    if (streamed && !u32(l + 14) && (!lusize || fault) && (!lcsize || fault)) {
        if (!(tail = descriptor_bytes(a, begin + usize, d->at, crc, usize)) && usize) /* miniz writes none behind nothing */
            return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\": the descriptor behind its data is missing or says something else", a->where, show);
    } else if (fault || lusize != usize || lcsize != csize || u32(l + 14) != crc) {
        return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\": its local header has other sizes", a->where, show);
    }
    memcpy(name_out, name, name_n);
    name_out[name_n] = 0;
    *out = (item){.entry = {.name = name_out, .data = a->b + begin, .bytes = usize, .crc = crc}, .header = header, .end = begin + usize + tail};
    *next = at + CENTRAL + name_n + extra_n + comment_n;
    return SC_OK;
}

static int by_place(const void *a, const void *b) {
    const item *x = a, *y = b;
    return x->header < y->header ? -1 : x->header > y->header;
}

static int by_name(const void *a, const void *b) { return strcmp(((const item *)a)->entry.name, ((const item *)b)->entry.name); }

static sc_status check_entries(sc_zip *z, const archive *a) {
    char show[2][80];

    if (z->count > 1) qsort(z->items, (size_t)z->count, sizeof *z->items, by_place);
    for (int i = 1; i < z->count; i++)
        if (z->items[i].header < z->items[i - 1].end)
            return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\" overlaps \"%s\"", a->where,
                           shown(show[0], (const uint8_t *)z->items[i].entry.name, strlen(z->items[i].entry.name)),
                           shown(show[1], (const uint8_t *)z->items[i - 1].entry.name, strlen(z->items[i - 1].entry.name)));
    if (z->count > 1) qsort(z->items, (size_t)z->count, sizeof *z->items, by_name);
    for (int i = 1; i < z->count; i++)
        if (!strcmp(z->items[i].entry.name, z->items[i - 1].entry.name))
            return sc_fail(a->err, SC_EINVAL, "%.200s: entry \"%s\" comes twice", a->where,
                           shown(show[0], (const uint8_t *)z->items[i].entry.name, strlen(z->items[i].entry.name)));
    return SC_OK;
}

sc_status sc_zip_open(sc_zip **out, const void *data, size_t n, const char *where, sc_error *err) {
    const archive a = {.b = data, .n = n, .where = where, .err = err};
    sc_zip *z = NULL;
    directory d = {0};
    uint64_t at;
    char *name;
    sc_status rc;

    *out = NULL;
    if ((rc = find_directory(&a, &d))) return rc;
    z = calloc(1, sizeof *z);
    if (z) {
        z->items = calloc((size_t)d.count + 1, sizeof *z->items);
        z->names = malloc((size_t)d.bytes + (size_t)d.count + 1); /* every name lies in the directory, and a NUL each */
    }
    if (!z || !z->items || !z->names) { rc = sc_fail(err, SC_ENOMEM, "%.200s: out of memory", where); goto cleanup; }
    at = d.at;
    name = z->names;
    for (uint64_t i = 0; i < d.count; i++) {
        if ((rc = read_entry(&a, &d, at, &z->items[z->count], name, &at))) goto cleanup;
        name += strlen(name) + 1;
        z->count++;
    }
    if (at != d.at + d.bytes) {
        rc = sc_fail(err, SC_EINVAL, "%.200s: %llu bytes of the directory belong to no entry", where, (unsigned long long)(d.at + d.bytes - at));
        goto cleanup;
    }
    if ((rc = check_entries(z, &a))) goto cleanup;
    *out = z;
    z = NULL;
cleanup:
    sc_zip_close(z);
    return rc;
}

void sc_zip_close(sc_zip *z) {
    if (!z) return;
    free(z->items);
    free(z->names);
    free(z);
}

int sc_zip_count(const sc_zip *z) { return z->count; }

const sc_zip_entry *sc_zip_at(const sc_zip *z, int index) { return index >= 0 && index < z->count ? &z->items[index].entry : NULL; }

const sc_zip_entry *sc_zip_find(const sc_zip *z, const char *name) {
    int lo = 0, hi = z->count;

    while (lo < hi) {
        int mid = lo + (hi - lo) / 2, order = strcmp(name, z->items[mid].entry.name);
        if (!order) return &z->items[mid].entry;
        if (order < 0) hi = mid;
        else lo = mid + 1;
    }
    return NULL;
}

/* Eight bytes a round through eight tables: about a gigabyte a second, made on first use by whoever comes first. */
uint32_t sc_crc32(const void *data, size_t n) {
    static _Thread_local uint32_t table[8][256];
    const uint8_t *p = data;
    uint32_t c = 0xffffffff;

    if (!table[0][1]) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t v = i;
            for (int k = 0; k < 8; k++) v = v & 1 ? 0xedb88320 ^ v >> 1 : v >> 1;
            table[0][i] = v;
        }
        for (int t = 1; t < 8; t++)
            for (int i = 0; i < 256; i++) table[t][i] = table[t - 1][i] >> 8 ^ table[0][table[t - 1][i] & 255];
    }
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t a = c ^ u32(p), b = u32(p + 4);
        c = table[7][a & 255] ^ table[6][a >> 8 & 255] ^ table[5][a >> 16 & 255] ^ table[4][a >> 24] ^ table[3][b & 255] ^
            table[2][b >> 8 & 255] ^ table[1][b >> 16 & 255] ^ table[0][b >> 24];
    }
    for (; n; n--, p++) c = c >> 8 ^ table[0][(c ^ *p) & 255];
    return ~c;
}

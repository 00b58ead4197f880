/* fuzz_checkpoint.c - libFuzzer over whole checkpoints, as the importer opens them.
 *
 * The first byte picks: a file as it is (safetensors or an archive), or a pickle that is put into a sound archive with two storages of
 * 64 bytes, since a random file would never get past its checksum. What is accepted is identified and every tensor's first and last
 * element is read. tests/fuzz/run.sh builds and runs it. */
#include "import/family.h"
#include "import/zip.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef FUZZ_CHECK
#define FUZZ_CHECK
static void check(bool ok) {
    if (!ok) abort();
}
#endif

typedef struct { uint8_t *b; size_t n; } bytes;

static void number(bytes *o, uint64_t v, int n) {
    for (int i = 0; i < n; i++) o->b[o->n++] = (uint8_t)(i < 8 ? v >> (8 * i) : 0);
}

static void put(bytes *o, const void *p, size_t n) {
    if (n) memcpy(o->b + o->n, p, n);
    o->n += n;
}

/* Stored entries x/data.pkl, x/data/0, x/data/1. The caller frees. */
static bytes wrap(const uint8_t *pickle, size_t n) {
    static const uint8_t data[64] = {0, 0, 0x80, 0x3f};
    const struct { const char *name; const uint8_t *p; size_t n; } e[3] = {{"x/data.pkl", pickle, n}, {"x/data/0", data, 64}, {"x/data/1", data, 64}};
    bytes o = {malloc(n + 1024), 0};
    size_t at[3], directory;

    check(o.b != NULL);
    for (int i = 0; i < 3; i++) {
        at[i] = o.n;
        number(&o, 0x04034b50, 4);
        number(&o, 0, 10);
        number(&o, sc_crc32(e[i].p, e[i].n), 4);
        number(&o, e[i].n, 4);
        number(&o, e[i].n, 4);
        number(&o, strlen(e[i].name), 2);
        number(&o, 0, 2);
        put(&o, e[i].name, strlen(e[i].name));
        put(&o, e[i].p, e[i].n);
    }
    directory = o.n;
    for (int i = 0; i < 3; i++) {
        number(&o, 0x02014b50, 4);
        number(&o, 0, 8);
        number(&o, 0, 4);
        number(&o, sc_crc32(e[i].p, e[i].n), 4);
        number(&o, e[i].n, 4);
        number(&o, e[i].n, 4);
        number(&o, strlen(e[i].name), 2);
        number(&o, 0, 12);
        number(&o, at[i], 4);
        put(&o, e[i].name, strlen(e[i].name));
    }
    const size_t end = o.n;
    number(&o, 0x06054b50, 4);
    number(&o, 0, 4);
    number(&o, 3, 2);
    number(&o, 3, 2);
    number(&o, end - directory, 4);
    number(&o, directory, 4);
    number(&o, 0, 2);
    return o;
}

static void look(const char *path) {
    sc_source *s;
    sc_found f;
    sc_error err = {0};

    if (sc_source_open(&s, &path, 1, &err)) {
        check(!s && err.text[0]);
        return;
    }
    for (int i = 0; i < sc_source_count(s); i++) {
        const sc_source_tensor *t = sc_source_at(s, i);
        float x;
        if (i) check(strcmp(sc_source_at(s, i - 1)->name, t->name) < 0);
        if (!t->count) continue;
        if (sc_source_read(t, 0, 1, &x)) check(sc_source_read(t, t->count - 1, 1, &x));
        if (!sc_source_verify(s, t, &err)) check(sc_source_find(s, t->name) == t);
    }
    if (!sc_family_find(&f, s, NULL, &err)) {
        char sizes[200];
        sc_family_sizes(&f, sizes, sizeof sizes);
        check(f.found <= f.expected);
        (void)sc_family_check(&f, false, &err);
        sc_family_free(&f);
    }
    sc_source_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    bytes o = {0};
    int fd;

    if (size < 1) return 0;
    if (data[0] & 1) o = wrap(data + 1, size - 1);
    fd = memfd_create("fuzz", MFD_CLOEXEC);
    check(fd >= 0);
    const uint8_t *p = o.b ? o.b : data + 1;
    const size_t n = o.b ? o.n : size - 1;
    check(!n || write(fd, p, n) == (ssize_t)n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    look(path);
    close(fd);
    free(o.b);
    return 0;
}

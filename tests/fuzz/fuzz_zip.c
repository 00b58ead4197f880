/* fuzz_zip.c - libFuzzer over the ZIP reader.
 *
 * What is accepted lies inside the archive: every byte of every entry is read. tests/fuzz/run.sh builds and runs it. */
#include "import/zip.h"

#include <stdlib.h>
#include <string.h>

#ifndef FUZZ_CHECK
#define FUZZ_CHECK
static void check(bool ok) {
    if (!ok) abort();
}
#endif

/* A component "..": "e../y" has none. */
static bool climbs(const char *name) {
    for (const char *p = name; (p = strstr(p, "..")); p++)
        if ((p == name || p[-1] == '/') && (!p[2] || p[2] == '/')) return true;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    sc_zip *z;
    sc_error err = {0};
    uint64_t sum = 0;

    if (sc_zip_open(&z, data, size, "fuzz", &err)) {
        check(!z && err.text[0]);
        return 0;
    }
    for (int i = 0; i < sc_zip_count(z); i++) {
        const sc_zip_entry *e = sc_zip_at(z, i);
        check(e->name[0] && e->name[0] != '/' && strlen(e->name) < SC_ZIP_NAME && !climbs(e->name) && !strchr(e->name, '\\'));
        check(e->data >= data && e->bytes <= size && e->data + e->bytes <= data + size);
        check(sc_zip_find(z, e->name) == e);
        sum += e->bytes;
        (void)sc_crc32(e->data, (size_t)e->bytes);
    }
    check(sum <= size); /* no byte belongs to two entries */
    sc_zip_close(z);
    return 0;
}

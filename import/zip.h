/* zip.h - read-only view of a ZIP archive in memory, as PyTorch writes its checkpoints: stored entries only.
 *
 * The central directory is believed only where the local headers agree. Refused with the entry's name: compression, encryption,
 * several disks, bytes before or after the archive, names that leave the archive (absolute, "..", backslash, control bytes, no
 * UTF-8), a name twice, entries that overlap one another or the directory, sizes and offsets past the end, more than
 * SC_ZIP_ENTRIES entries. Since nothing is compressed, an entry is never larger than the file. Thread: any, read only after open. */
#ifndef SC_IMPORT_ZIP_H
#define SC_IMPORT_ZIP_H
#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SC_ZIP_ENTRIES = 100000, SC_ZIP_NAME = 512 };

typedef struct sc_zip sc_zip;

typedef struct {
    const char *name;     /* NUL-terminated, owned by the archive */
    const uint8_t *data;  /* inside the archive's bytes */
    uint64_t bytes;
    uint32_t crc;         /* CRC-32 as recorded */
} sc_zip_entry;

/* `data` (n bytes) is borrowed until sc_zip_close; `where` stands for the file in messages, borrowed during the call.
 * Errors: SC_EINVAL, SC_ENOMEM. *out is NULL after one. */
sc_status sc_zip_open(sc_zip **out, const void *data, size_t n, const char *where, sc_error *err);
void sc_zip_close(sc_zip *zip); /* NULL is fine */

int sc_zip_count(const sc_zip *zip);
const sc_zip_entry *sc_zip_at(const sc_zip *zip, int index);           /* ascending by name */
const sc_zip_entry *sc_zip_find(const sc_zip *zip, const char *name);  /* NULL when absent; O(log n) */

/* CRC-32 (IEEE 802.3, as ZIP has it) of n bytes. */
uint32_t sc_crc32(const void *data, size_t n);

#endif

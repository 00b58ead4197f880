/* snapshot_file.h - a saved session on the disk: whole or not at all.
 *
 *     header, 128 bytes | text: a line for the session (proto/saved.h), then its log, a line an event | memory (engine/engine.h, sc_session_save)
 *
 * Both parts begin at multiples of 64 bytes and have a hash (XXH3, 128 bits) in the header: what a disk has made of a file is found before anybody looks
 * inside. It is no signature: whoever can write into the directory can write a good file, and the readers of both parts take nothing for granted.
 *
 * A file is written beside its name, synced, renamed and its directory synced: a name has the old file or the new one, whatever happens meanwhile. */
#ifndef SC_SERVER_SNAPSHOT_FILE_H
#define SC_SERVER_SNAPSHOT_FILE_H
#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    char *text;        /* owned, like memory; not ended by NUL */
    size_t text_bytes;
    void *memory;      /* aligned as malloc aligns */
    size_t memory_bytes;
    uint64_t bytes;    /* of the file, when it was written or read */
} sc_snapshot_file;

void sc_snapshot_file_free(sc_snapshot_file *f);

/* In the directory that is open as dir; `name` has been checked (sc_snapshot_name_valid). Errors: SC_EBUSY, the disk is full, or a new name would be one
 * more than `most`; SC_EIO. After one what had the name has it still. */
sc_status sc_snapshot_file_write(int dir, const char *name, int most, sc_snapshot_file *f, sc_error *err);

void sc_snapshot_file_remove(int dir, const char *name); /* if it is there */

/* Takes as much memory as the file is long. Errors: SC_ENOTFOUND, SC_EINVAL (it is damaged, or none), SC_ENOMEM, SC_EIO. *out is zero after one. */
sc_status sc_snapshot_file_read(int dir, const char *name, sc_snapshot_file *out, sc_error *err);

#endif

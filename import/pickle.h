/* pickle.h - the tensors that a PyTorch checkpoint names: a pickle read as data, not run.
 *
 * A pickle is a program for a machine that can import and call anything. This reader is no such machine: an opcode outside its list,
 * a global outside its list or a call of anything but "rebuild this tensor" is an error with its name, and nothing is ever looked
 * up or called. What comes out is a table: dotted name -> type, shape, strides, storage, offset.
 *
 * Bounds: a pickle of at most SC_PICKLE_BYTES; at most one value per opcode; containers hold at most as many items as there were
 * opcodes; a memo index below SC_PICKLE_MEMO; at most SC_PICKLE_TENSORS tensors after nested dictionaries are flattened, which
 * stops at SC_PICKLE_DEPTH levels, at a cycle, and after SC_PICKLE_STEPS items. Memory: below 100 bytes per byte of the pickle.
 * Thread: any. */
#ifndef SC_IMPORT_PICKLE_H
#define SC_IMPORT_PICKLE_H
#include "base/dtype.h"
#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SC_PICKLE_BYTES = 8 << 20, SC_PICKLE_MEMO = 4 << 20, SC_PICKLE_TENSORS = 100000, SC_PICKLE_DEPTH = 16, SC_PICKLE_STEPS = 4 << 20,
    SC_PICKLE_NAME = 512
};

typedef struct {
    const char *name;        /* nested keys joined by '.'; UTF-8 without control bytes; owned by the table */
    sc_dtype dtype;
    int rank;
    int64_t shape[8], stride[8]; /* in elements */
    int64_t count;           /* product of shape */
    int64_t offset;          /* first element in its storage; every element is inside the storage */
    const char *storage;     /* key: the archive entry "data/KEY"; owned by the table */
    int64_t storage_count;   /* elements of the storage */
} sc_pickle_tensor;

typedef struct sc_pickle sc_pickle;

/* Read `data` (n bytes, borrowed during the call). Errors: SC_EINVAL with the offset or the name, SC_ENOMEM. *out is NULL after one. */
sc_status sc_pickle_open(sc_pickle **out, const void *data, size_t n, const char *where, sc_error *err);
void sc_pickle_close(sc_pickle *pickle); /* NULL is fine */

int sc_pickle_count(const sc_pickle *pickle);
const sc_pickle_tensor *sc_pickle_at(const sc_pickle *pickle, int index); /* ascending by name */

#endif

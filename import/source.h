/* source.h - one checkpoint as it lies on disk: safetensors (one file or the shards of one model) or a PyTorch .pt/.pth archive.
 *
 * Either way a table of tensors that point into mapped files; nothing is copied until somebody reads elements. Thread: any, read
 * only after open, but sc_source_verify by one thread at a time. */
#ifndef SC_IMPORT_SOURCE_H
#define SC_IMPORT_SOURCE_H
#include "base/dtype.h"
#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sc_source sc_source;

typedef struct {
    const char *name;            /* as the file has it */
    sc_dtype dtype;
    int rank;
    int64_t shape[8], stride[8]; /* strides in elements */
    int64_t count;
    const uint8_t *data;         /* first element; alignment may be odd */
    bool contiguous;
    int record;                  /* of a .pt: which entry of the archive holds it; -1 for safetensors */
} sc_source_tensor;

/* Open `count` files as one checkpoint; more than one only for safetensors. Errors: SC_EIO, SC_EINVAL, SC_ENOMEM; the text names
 * the file. *out is NULL after one. */
sc_status sc_source_open(sc_source **out, const char *const *paths, int count, sc_error *err);
void sc_source_close(sc_source *source); /* NULL is fine */

const char *sc_source_path(const sc_source *source); /* of the first file */
const char *sc_source_format(const sc_source *source); /* "safetensors", "PyTorch" */
int sc_source_count(const sc_source *source);
const sc_source_tensor *sc_source_at(const sc_source *source, int index); /* ascending by name */
const sc_source_tensor *sc_source_find(const sc_source *source, const char *name);

/* The archive's CRC-32 over the tensor's bytes, once per entry; safetensors has none and is always fine.
 * Errors: SC_EINVAL when the file is damaged. */
sc_status sc_source_verify(sc_source *source, const sc_source_tensor *tensor, sc_error *err);

/* out[i] = element first + i of the tensor in row-major order, as f32, for `n` elements inside it. Types: F32, F16, BF16, F64, F8_E4M3,
 * F8_E5M2. False for another type. */
bool sc_source_read(const sc_source_tensor *tensor, int64_t first, int64_t n, float *out);

/* The tensor will not be read again soon: its pages leave this process (the page cache keeps them while it likes). */
void sc_source_done(const sc_source_tensor *tensor);

const char *sc_dtype_word(sc_dtype type); /* "F32", "BF16", ... */

#endif

/* write.h - the files of a model directory: safetensors shards, small files, a manifest, all into a folder that appears at once.
 *
 * Everything goes to a hidden folder beside the destination; sc_folder_commit renames it. A run that fails or is killed leaves no
 * half model under the model's name. Every byte written passes SHA-256 on its way; the manifest is SHA256SUMS, which
 * `sha256sum -c` reads. Thread: any, one folder by one thread. */
#ifndef SC_IMPORT_WRITE_H
#define SC_IMPORT_WRITE_H
#include "base/dtype.h"
#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

enum { SC_SHARDS = 32, SC_FILE_NAME = 128 };

typedef struct sc_folder sc_folder;

/* Begin DIR. Errors: SC_EINVAL when it exists already, SC_EIO. */
sc_status sc_folder_begin(sc_folder **out, const char *dir, sc_error *err);

/* Put it in place: manifest, everything synced, rename. The folder is gone from memory either way.
 * Errors: SC_EIO; nothing is left behind then. */
sc_status sc_folder_commit(sc_folder *folder, sc_error *err);
void sc_folder_abort(sc_folder *folder); /* removes what was written; NULL is fine */

/* A whole small file. */
sc_status sc_folder_file(sc_folder *folder, const char *name, const void *data, size_t n, sc_error *err);

typedef struct {
    const char *name;
    sc_dtype dtype;       /* F32, F16 or BF16 */
    int rank;
    int64_t shape[8], count;
} sc_out_tensor;

/* out[i] = element first + i of tensor `index`, for n elements. Called in order, a tensor at a time; `first` and n are multiples of
 * the row (count / shape[0]) unless a row is longer than SC_FILL_MAX. */
enum { SC_FILL_MAX = 1 << 20 };
typedef sc_status sc_fill(void *ctx, int index, int64_t first, int64_t n, float *out, sc_error *err);

/* Write `count` tensors as STEM.safetensors, or as STEM-00001-of-0000N.safetensors when they exceed shard_bytes; a tensor is never
 * cut. Names of the files go to files[0..*file_count). Values are rounded to nearest, ties to even.
 * Errors: SC_EINVAL for a value that is not finite or does not fit the type (names the tensor), more than SC_SHARDS files; SC_EIO;
 * SC_ENOMEM; what `fill` returned. */
sc_status sc_folder_tensors(sc_folder *folder, const char *stem, const sc_out_tensor *tensors, int count, uint64_t shard_bytes, sc_fill *fill, void *ctx,
                            char files[SC_SHARDS][SC_FILE_NAME], int *file_count, sc_error *err);

uint64_t sc_folder_bytes(const sc_folder *folder); /* written so far */

/* One element, rounded to nearest even. */
uint16_t sc_to_bf16(float f);
uint16_t sc_to_f16(float f); /* beyond 65504: infinity */

#endif

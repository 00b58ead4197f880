/* safetensors.h - read-only view of one or more safetensors files (shards of one model), mapped into memory.
 *
 * Every number of a header is checked before it is used: header length (at most 100 MB and inside the file), tensor count (at
 * most 100,000), rank (at most 8), products and offsets with overflow builtins, dtype x shape = end - begin, no overlap, no
 * hole past the end, no name twice (across shards too). JSON by cJSON. Thread: any, read only after open. */
#ifndef SC_ENGINE_SAFETENSORS_H
#define SC_ENGINE_SAFETENSORS_H
#include "base/dtype.h"
#include "base/status.h"
#include <stdbool.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef struct sc_tensors sc_tensors;

typedef struct {
    const char *name;
    sc_dtype dtype;
    int rank;
    int64_t shape[8];
    int64_t count;      /* product of shape */
    size_t bytes;
    const void *data;   /* inside the mapping, valid until sc_tensors_close; alignment may be odd: use memcpy or sc_to_f32 only when aligned */
} sc_tensor;

/* Open `count` files as one set. Errors: SC_EIO (cannot open, read), SC_EINVAL (lying file), SC_ENOMEM; text names the file,
 * the tensor and the number. *out is NULL after an error. */
sc_status sc_tensors_open(sc_tensors **out, const char *const *paths, int count, sc_error *err);
void sc_tensors_close(sc_tensors *set); /* NULL is fine */

int sc_tensors_count(const sc_tensors *set);
const sc_tensor *sc_tensors_at(const sc_tensors *set, int index);           /* in order of file, then of offset */
const sc_tensor *sc_tensors_find(const sc_tensors *set, const char *name);  /* NULL when absent; O(log n) */
const char *sc_tensors_metadata(const sc_tensors *set, const char *key);    /* __metadata__ string of the first file that has it, or NULL */

/* The tensor by name with exactly this shape (rank dims; -1 matches anything), float type (F32, F16, BF16).
 * Errors: SC_ENOTFOUND with the nearest existing name in the text, SC_EINVAL with both shapes in the text. */
sc_status sc_tensors_need(const sc_tensors *set, const char *name, int rank, const int64_t *shape, const sc_tensor **out, sc_error *err);

/* A reader that has taken over what it needs of a tensor says so: the watcher hears of its bytes, and with `drop` the pages leave this
 * process (not the page cache, from where a later read fetches them again), so that host memory does not hold what the device holds. */
void sc_tensors_used(const sc_tensors *set, const sc_tensor *tensor, bool drop);
void sc_tensors_watch(sc_tensors *set, void (*used)(void *ctx, size_t bytes), void *ctx); /* ctx is borrowed until the set is closed or watched anew */
void sc_tensors_drop(const sc_tensors *set); /* all pages of all files */

/* A malloc'ed f32 copy of a float tensor; owned by the caller. NULL on no memory or a type that is not F32, F16, BF16. */
float *sc_tensor_to_f32(const sc_tensor *tensor);

#ifdef __cplusplus
}
#endif
#endif

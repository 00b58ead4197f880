/* vectors.h - what the runners of `sparsecast vectors` share.
 *
 * A file of golden vectors says what it is (__metadata__.set) and carries inputs, outputs and often weights; shapes, windows, sinks,
 * tiles and step counts come from it. A runner computes every output with the engine's own parts on the chosen device and compares. */
#ifndef SC_CLI_VECTORS_H
#define SC_CLI_VECTORS_H
#include "engine/safetensors.h"
#include "kernels/ops.h"
#include <cjson/cJSON.h>
#include <stdbool.h>

typedef struct {
    const char *path;
    const sc_tensors *file;
    sc_device *dev;
    const char *device, *model_dir;
    int threads;
    cJSON *config;
    bool *seen;          /* by tensor: a runner looked at it */
    bool half;           /* the device computes in bf16 or f16 */
    double rel, peak;    /* tolerances: relative L2, and largest error over rms */
    int compared, failed;
    sc_error err;
} sc_vectors;

/* Compare `count` values with tensor NAME. A tensor that is not there or has another number of values is a failure. */
void sc_vectors_check_n(sc_vectors *v, const char *name, const float *got, size_t count);
/* The same, but the file may hold only the first of them. */
void sc_vectors_check_first(sc_vectors *v, const char *name, const float *got, size_t count);
/* Largest absolute error; infinite values must be so in both. */
void sc_vectors_check_abs(sc_vectors *v, const char *name, const float *got, size_t count, double tolerance);
/* All values equal; integers of the file may be I32 or U8. */
void sc_vectors_check_ints_n(sc_vectors *v, const char *name, const int32_t *got, size_t count);
/* As long as the tensor is: for runners that have checked its shape. */
void sc_vectors_check(sc_vectors *v, const char *name, const float *got);
void sc_vectors_check_ints(sc_vectors *v, const char *name, const int32_t *got);

const sc_tensor *sc_vectors_find(sc_vectors *v, const char *name);  /* NULL: counted as a failure and said */
/* The same for a tensor of this rank whose axes are all 1..65536; NULL also for another. */
const sc_tensor *sc_vectors_find_rank(sc_vectors *v, const char *name, int rank);
bool sc_vectors_has(const sc_vectors *v, const char *name);
float *sc_vectors_f32(sc_vectors *v, const char *name);             /* malloc'ed */
float *sc_vectors_f32_n(sc_vectors *v, const char *name, size_t count);     /* NULL, and a failure, unless it has `count` values */
int32_t *sc_vectors_i32(sc_vectors *v, const char *name);
int32_t *sc_vectors_i32_n(sc_vectors *v, const char *name, size_t count);
int sc_vectors_int(sc_vectors *v, const cJSON *object, const char *key, int fallback);
/* OBJECT.KEY as a whole number in lo..hi. False: it is not, v->err says so. */
bool sc_vectors_size(sc_vectors *v, const cJSON *object, const char *key, int lo, int hi, int *out);
double sc_vectors_num(const cJSON *object, const char *key, double fallback);
cJSON *sc_vectors_meta(sc_vectors *v, const char *key);             /* parsed; owned by the caller */

/* Device helpers: f32 host values as act or f32 on the device, and back. */
void *sc_vectors_put(sc_vectors *v, const float *x, size_t n, bool act);
void sc_vectors_get(sc_vectors *v, float *out, const void *p, size_t n, sc_dtype type);

/* Runners; false: v->err says why it could not run. */
bool sc_vectors_scheduler(sc_vectors *v);
bool sc_vectors_t5(sc_vectors *v);
bool sc_vectors_taehv(sc_vectors *v);
bool sc_vectors_wan_vae(sc_vectors *v);
bool sc_vectors_dit_block(sc_vectors *v);
bool sc_vectors_dit_model(sc_vectors *v);
bool sc_vectors_rollout(sc_vectors *v);
bool sc_vectors_pbsa(sc_vectors *v);
bool sc_vectors_pbsa_rollout(sc_vectors *v);
bool sc_vectors_pocket(sc_vectors *v);

#endif

/* devmem.h - small helpers for tensors on the device, used by the model parts at load. */
#ifndef SC_ENGINE_DEVMEM_H
#define SC_ENGINE_DEVMEM_H
#include "engine/safetensors.h"
#include "kernels/ops.h"

static inline size_t sc_act_bytes(const sc_device *dev) { return sc_dtype_bytes(dev->act); }

/* `p` advanced by n elements of the device's activation type. */
static inline void *sc_act_at(const sc_device *dev, void *p, size_t n) { return (char *)p + n * sc_act_bytes(dev); }

/* Tensor PREFIXname of `count` elements, whatever its rank, as f32 on the device (owned by the caller, ops->release). */
sc_status sc_load_f32(sc_device *dev, const sc_tensors *set, const char *prefix, const char *name, int64_t count, float **out, sc_error *err);

/* Both tell the set which tensors they have used. A matrix may go on reading its tensors (sc_device.in_place), so the set stays open until
 * the matrix is destroyed.
 *
 * Linear layer PREFIX{name}.weight [rows][cols], bias PREFIX{name}.bias when `bias`. Up to three names are stacked (q, k, v). */
sc_status sc_load_matrix(sc_device *dev, const sc_tensors *set, const char *prefix, const char *const *names, int parts, int rows, int cols,
                         bool bias, sc_matrix **out, sc_error *err);

#endif

/* device.c - opens a backend by name. */
#include "kernels/ops.h"

#include <string.h>

sc_status sc_device_open(sc_device **out, const char *kind, int threads, sc_dtype act, sc_error *err) {
    *out = NULL;
    if (!strcmp(kind, "cpu")) return sc_cpu_open(out, threads, err);
    if (!strcmp(kind, "twin")) return sc_twin_open(out, err);
    if (!strcmp(kind, "cuda")) {
#ifdef SC_HAVE_CUDA
        return sc_cuda_open(out, act, err);
#else
        (void)act;
        return sc_fail(err, SC_EGPU, "device cuda: this build has no CUDA backend");
#endif
    }
    return sc_fail(err, SC_EINVAL, "device %s: not one of cpu, twin, cuda", kind);
}

void sc_device_close(sc_device *dev) {
    if (dev) dev->ops->close(dev);
}

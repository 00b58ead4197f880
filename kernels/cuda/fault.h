/* fault.h - which CUDA errors cannot be survived, and whether a device has met one. */
#ifndef SC_KERNELS_CUDA_FAULT_H
#define SC_KERNELS_CUDA_FAULT_H
#include "kernels/ops.h"
#include <cuda_runtime_api.h>
#ifdef __cplusplus
extern "C" {
#endif

/* Does this cudaError_t ruin the context, so that every later call fails too? Such a one is SC_ELOST above the table, any other SC_EGPU. */
bool sc_cuda_sticky(int error);

/* Has the device met such an error? All its operations then return SC_ELOST without touching CUDA. */
bool sc_cuda_failed(const sc_device *dev);

/* Is there code for the current card in this build? (norms.cu) */
cudaError_t sc_cuda_probe(struct cudaFuncAttributes *out);

#ifdef __cplusplus
}
#endif
#endif

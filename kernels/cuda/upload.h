/* upload.h - weights from host memory, mapped files above all, to the card. See upload.c. Thread: engine. */
#ifndef SC_KERNELS_CUDA_UPLOAD_H
#define SC_KERNELS_CUDA_UPLOAD_H
#include "kernels/cuda/cuda.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { SC_UPLOAD_RAW_BYTES = 64 << 20 };

/* dst (device) [bytes] = host [bytes], in order on the device's stream. When it returns `host` has been read and may change; the copy itself may
 * still be under way. Errors: those of CUDA (staging memory is made at the first call: cudaErrorMemoryAllocation). */
cudaError_t sc_cuda_send(struct sc_cuda *c, void *dst, const void *host, size_t bytes);

/* *out = SC_UPLOAD_RAW_BYTES of device memory for values that a kernel on the stream will convert. The same each time; valid until the end. */
cudaError_t sc_cuda_upload_raw(struct sc_cuda *c, void **out);

/* Waits for what is under way and gives all staging memory and threads back; the next call makes them anew. */
void sc_cuda_upload_end(struct sc_cuda *c);

#ifdef __cplusplus
}
#endif
#endif

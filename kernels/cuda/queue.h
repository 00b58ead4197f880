/* queue.h - a stream's uploads that do not wait, its marks, and the work it plays again. See queue.c. Thread: engine. */
#ifndef SC_KERNELS_CUDA_QUEUE_H
#define SC_KERNELS_CUDA_QUEUE_H
#include "kernels/cuda/cuda.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { SC_CUDA_SEND_SMALL = 2 << 20 }; /* the most that sc_cuda_send_small takes */

/* c->queue for c->stream. Errors: those of CUDA, cudaErrorMemoryAllocation also for host memory. Close: NULL is fine, the stream has drained. */
cudaError_t sc_cuda_queue_open(struct sc_cuda *c);
void sc_cuda_queue_close(struct sc_cuda *c);

/* dst (device) [bytes] = host [bytes], in order. `host` has been read when it returns; nothing is waited for unless the last 4 MiB
 * sent so are still on their way. */
cudaError_t sc_cuda_send_small(struct sc_cuda *c, void *dst, const void *host, size_t bytes);

/* The entries of the same names in kernels/ops.h. */
sc_status sc_cuda_mark_create(sc_device *, sc_mark **out, sc_error *);
void sc_cuda_mark_destroy(sc_device *, sc_mark *);
sc_status sc_cuda_mark(sc_device *, sc_mark *, sc_error *);
sc_status sc_cuda_after(sc_device *, sc_mark *, sc_error *);
sc_status sc_cuda_wait(sc_device *, sc_mark *, sc_error *);
bool sc_cuda_passed(sc_device *, const sc_mark *);
sc_status sc_cuda_elapsed(sc_device *, sc_mark *from, sc_mark *to, uint64_t *ns, sc_error *);
sc_status sc_cuda_replay(sc_device *, const sc_replay_args *, sc_error *);

#ifdef __cplusplus
}
#endif
#endif

/* upload.c - weights to the card: many threads read, the copy engine writes.
 *
 * A copy from ordinary memory is staged by the driver on one thread, which also takes the page faults of a mapped file, at a small part of what the
 * bus carries. Here the threads of a pool take pieces of PIECE bytes; each has two pinned buffers and goes
 *
 *     wait for my buffer's last copy -> map the pages of the piece at once -> memcpy -> cudaMemcpyAsync on the stream -> event
 *
 * so reading, copying on the host and the bus overlap, and pinned memory is bounded: threads x 2 x PIECE, at most 32 MiB. Everything is on the
 * device's own stream, which is idle otherwise while a model loads: kernels that convert weights and later operations follow in order.
 *
 * The staging exists from the first copy to sc_cuda_upload_end (the table's `loaded`). */
#include "kernels/cuda/upload.h"
#include "base/map_ahead.h"
#include "kernels/cpu/cpu.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS_MAX = 16, BUFFERS = 2 };
static const size_t PIECE = (size_t)1 << 20;

typedef struct {
    cudaEvent_t free[BUFFERS]; /* recorded behind the copy from this buffer */
    int turn;
} lane;

struct sc_cuda_upload {
    sc_pool *pool;
    char *pinned;              /* [threads][BUFFERS][PIECE] */
    void *raw;
    lane lane[THREADS_MAX];
};

typedef struct {
    struct sc_cuda *c;
    char *dst;
    const char *host;
    size_t bytes;
    atomic_int error;          /* of a thread that failed; the others stop */
} job;

static void send_piece(void *ctx, int item, int thread) {
    job *j = ctx;
    struct sc_cuda_upload *u = j->c->upload;
    lane *l = &u->lane[thread];
    const int b = l->turn;
    const size_t at = (size_t)item * PIECE, n = j->bytes - at < PIECE ? j->bytes - at : PIECE;
    char *const buffer = u->pinned + (size_t)(thread * BUFFERS + b) * PIECE;
    cudaError_t e;

    if (atomic_load(&j->error)) return;
    e = cudaSetDevice(j->c->ordinal); /* per thread */
    if (e == cudaSuccess) e = cudaEventSynchronize(l->free[b]);
    if (e == cudaSuccess) {
        if (n == PIECE) sc_map_ahead(j->host + at, n); /* one call for 256 faults; an older kernel refuses, and memcpy takes them */
        memcpy(buffer, j->host + at, n);
        e = cudaMemcpyAsync(j->dst + at, buffer, n, cudaMemcpyHostToDevice, j->c->stream);
    }
    if (e == cudaSuccess) e = cudaEventRecord(l->free[b], j->c->stream);
    l->turn = (b + 1) % BUFFERS;
    if (e != cudaSuccess) atomic_store(&j->error, (int)e);
}

static cudaError_t begin(struct sc_cuda *c) {
    struct sc_cuda_upload *u = c->upload = calloc(1, sizeof *u);
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const int threads = cores < 1 ? 1 : cores > THREADS_MAX ? THREADS_MAX : (int)cores;
    cudaError_t e;

    if (!u || !(u->pool = sc_pool_create(threads))) {
        sc_cuda_upload_end(c);
        return cudaErrorMemoryAllocation;
    }
    e = cudaHostAlloc((void **)&u->pinned, (size_t)threads * BUFFERS * PIECE, cudaHostAllocDefault);
    for (int i = 0; i < threads && e == cudaSuccess; i++)
        for (int b = 0; b < BUFFERS && e == cudaSuccess; b++) e = cudaEventCreateWithFlags(&u->lane[i].free[b], cudaEventDisableTiming | cudaEventBlockingSync);
    if (e != cudaSuccess) sc_cuda_upload_end(c);
    return e;
}

cudaError_t sc_cuda_send(struct sc_cuda *c, void *dst, const void *host, size_t bytes) {
    job j = {.c = c, .dst = dst, .host = host, .bytes = bytes};
    cudaError_t e = c->upload ? cudaSuccess : begin(c);

    if (e != cudaSuccess) return e;
    sc_pool_run(c->upload->pool, send_piece, &j, (int)((bytes + PIECE - 1) / PIECE));
    return (cudaError_t)atomic_load(&j.error);
}

cudaError_t sc_cuda_upload_raw(struct sc_cuda *c, void **out) {
    cudaError_t e = c->upload ? cudaSuccess : begin(c);

    if (e == cudaSuccess && !c->upload->raw) e = cudaMalloc(&c->upload->raw, SC_UPLOAD_RAW_BYTES);
    if (e == cudaSuccess) *out = c->upload->raw;
    return e;
}

void sc_cuda_upload_end(struct sc_cuda *c) {
    struct sc_cuda_upload *u = c->upload;

    if (!u) return;
    c->upload = NULL;
    sc_pool_destroy(u->pool);
    cudaStreamSynchronize(c->stream);
    for (int i = 0; i < THREADS_MAX; i++)
        for (int b = 0; b < BUFFERS; b++)
            if (u->lane[i].free[b]) cudaEventDestroy(u->lane[i].free[b]);
    if (u->raw) cudaFree(u->raw);
    if (u->pinned) cudaFreeHost(u->pinned);
    free(u);
}

/* queue.c - see queue.h.
 *
 * Small uploads. A copy from ordinary memory makes the driver wait for the stream. Here the bytes go through a ring of pinned memory, two
 * halves that take turns: an event behind the last copy from a half says when it may be written again.
 *
 * Replay. A pass is some hundred launches, 2 us of the host and a gap on the card each; a CUDA graph of it is one launch. A graph is kept for
 * each key, which holds all that the launches depend on (addresses, counts), so an old graph is never a wrong one, only one that is not
 * asked for any more. Memory of a stream that still grows gives every chunk a key of its own: a key is recorded when it comes for the
 * third time, before that its launches are made as they are. A stream whose memory is full has one graph for each denoising step, one for
 * the clean pass, one for the decoder; RECORDS is room for ten such streams or batches, the least used goes.
 *
 * What cannot be recorded (a call that fails, no memory for the graph) is launched plainly from then on. */
#include "kernels/cuda/queue.h"

#include <stdlib.h>
#include <string.h>

enum { HALF = 4 << 20, RECORDS = 64, RECORD_AT = 3 };

struct sc_mark {
    cudaEvent_t event;
};

typedef struct {
    uint64_t key[SC_REPLAY_WORDS], used; /* used: when it was last asked for; 0: free */
    int words, asked;
    bool plain;                          /* recording failed */
    cudaGraphExec_t exec;
} record;

struct sc_cuda_queue {
    char *pinned;        /* two halves */
    size_t at;           /* in the current half */
    int half;
    cudaEvent_t sent[2]; /* behind the last copy from each half; not recorded yet: passed */
    record record[RECORDS];
    uint64_t clock;
};

cudaError_t sc_cuda_queue_open(struct sc_cuda *c) {
    struct sc_cuda_queue *q = c->queue = calloc(1, sizeof *q);
    cudaError_t e;

    if (!q) return cudaErrorMemoryAllocation;
    e = cudaMallocHost((void **)&q->pinned, 2 * HALF);
    for (int i = 0; i < 2 && e == cudaSuccess; i++) e = cudaEventCreateWithFlags(&q->sent[i], cudaEventDisableTiming | cudaEventBlockingSync);
    return e;
}

void sc_cuda_queue_close(struct sc_cuda *c) {
    struct sc_cuda_queue *q = c->queue;

    if (!q) return;
    c->queue = NULL;
    for (int i = 0; i < RECORDS; i++) if (q->record[i].exec) cudaGraphExecDestroy(q->record[i].exec);
    for (int i = 0; i < 2; i++) if (q->sent[i]) cudaEventDestroy(q->sent[i]);
    if (q->pinned) cudaFreeHost(q->pinned);
    free(q);
}

cudaError_t sc_cuda_send_small(struct sc_cuda *c, void *dst, const void *host, size_t bytes) {
    struct sc_cuda_queue *q = c->queue;
    const size_t room = (bytes + 63) & ~(size_t)63;

    if (bytes > SC_CUDA_SEND_SMALL) return cudaErrorInvalidValue;
    if (q->at + room > HALF) {
        cudaError_t e = cudaEventRecord(q->sent[q->half], c->stream);
        if (e == cudaSuccess) e = cudaEventSynchronize(q->sent[q->half ^ 1]);
        if (e != cudaSuccess) return e;
        q->half ^= 1;
        q->at = 0;
    }
    char *const from = q->pinned + (size_t)q->half * HALF + q->at;
    q->at += room;
    memcpy(from, host, bytes);
    return cudaMemcpyAsync(dst, from, bytes, cudaMemcpyHostToDevice, c->stream);
}

/* ---- marks -------------------------------------------------------------------------------------------------------------- */

static sc_status status_of(cudaError_t e, const char *op, sc_error *err) {
    return e == cudaSuccess ? SC_OK : sc_fail(err, e == cudaErrorMemoryAllocation ? SC_ENOMEM : SC_EGPU, "%s: %s", op, cudaGetErrorString(e));
}

sc_status sc_cuda_mark_create(sc_device *dev, sc_mark **out, sc_error *err) {
    sc_mark *m = calloc(1, sizeof *m);
    cudaError_t e;

    (void)dev;
    *out = NULL;
    if (!m) return sc_fail(err, SC_ENOMEM, "mark: out of memory");
    e = cudaEventCreateWithFlags(&m->event, cudaEventBlockingSync);
    if (e == cudaSuccess) *out = m;
    else free(m);
    return status_of(e, "mark", err);
}

void sc_cuda_mark_destroy(sc_device *dev, sc_mark *m) {
    (void)dev;
    if (!m) return;
    cudaEventDestroy(m->event);
    free(m);
}

sc_status sc_cuda_mark(sc_device *dev, sc_mark *m, sc_error *err) { return status_of(cudaEventRecord(m->event, ((struct sc_cuda *)dev)->stream), "mark", err); }
sc_status sc_cuda_after(sc_device *dev, sc_mark *m, sc_error *err) { return status_of(cudaStreamWaitEvent(((struct sc_cuda *)dev)->stream, m->event, 0), "after", err); }

sc_status sc_cuda_wait(sc_device *dev, sc_mark *m, sc_error *err) {
    (void)dev;
    return status_of(cudaEventSynchronize(m->event), "wait", err);
}

bool sc_cuda_passed(sc_device *dev, const sc_mark *m) {
    (void)dev;
    return cudaEventQuery(m->event) != cudaErrorNotReady; /* which is no error that is remembered */
}

sc_status sc_cuda_elapsed(sc_device *dev, sc_mark *from, sc_mark *to, uint64_t *ns, sc_error *err) {
    float ms = 0;
    const cudaError_t e = cudaEventElapsedTime(&ms, from->event, to->event);

    (void)dev;
    *ns = e == cudaSuccess && ms > 0 ? (uint64_t)((double)ms * 1e6) : 0;
    return status_of(e, "elapsed", err);
}

/* ---- replay ------------------------------------------------------------------------------------------------------------- */

/* The record of a key, a new one where there is none. */
static record *find(struct sc_cuda_queue *q, const sc_replay_args *a) {
    record *oldest = q->record;
    const size_t bytes = (size_t)a->words * sizeof *a->key;

    for (int i = 0; i < RECORDS; i++) {
        record *r = &q->record[i];
        if (r->used && r->words == a->words && !memcmp(r->key, a->key, bytes)) return r;
        if (r->used < oldest->used) oldest = r;
    }
    if (oldest->exec) cudaGraphExecDestroy(oldest->exec); /* one that still runs is freed when it has ended */
    *oldest = (record){.words = a->words};
    memcpy(oldest->key, a->key, bytes);
    return oldest;
}

/* Sets r->exec or r->plain. Nothing runs. */
static void make(struct sc_cuda *c, record *r, const sc_replay_args *a) {
    cudaGraph_t graph = NULL;
    sc_error ignored = {0};
    cudaError_t e = cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal);

    if (e == cudaSuccess) {
        const sc_status rc = a->launch(a->ctx, &ignored);
        e = cudaStreamEndCapture(c->stream, &graph);
        if (rc) e = cudaErrorUnknown;
    }
    if (e == cudaSuccess) e = cudaGraphInstantiate(&r->exec, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    if (e == cudaSuccess) return;
    r->exec = NULL;
    r->plain = true;
    cudaGetLastError();
}

sc_status sc_cuda_replay(sc_device *dev, const sc_replay_args *a, sc_error *err) {
    struct sc_cuda *c = (struct sc_cuda *)dev;
    record *r;

    if (a->words < 1 || a->words > SC_REPLAY_WORDS) return sc_fail(err, SC_EINVAL, "replay: a key of %d words is not in 1..%d", a->words, SC_REPLAY_WORDS);
    r = find(c->queue, a);
    r->used = ++c->queue->clock;
    if (!r->exec && !r->plain && ++r->asked >= RECORD_AT) make(c, r, a);
    return r->exec ? status_of(cudaGraphLaunch(r->exec, c->stream), "replay", err) : a->launch(a->ctx, err);
}

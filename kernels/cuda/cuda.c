/* cuda.c - opens the card, owns its stream and workspace, moves memory, and holds the table of operations.
 *
 * A device is a stream; a second one beside it has a stream of a higher priority and a workspace of its own, and shares the rest. An operation
 * only launches; large uploads, download, *_create and sync may wait. Memory comes from the driver's pool and goes back to it in the stream's
 * order (cudaMalloc and cudaFree would wait for all streams: a session that comes or goes, or a prompt, would stop the others' frames); the
 * engine plans slabs at load and the frame path allocates nothing. Uploads and downloads go over the stream like everything else.
 *
 * Faults. Some errors (an illegal address, a lost card) are sticky: they ruin the context, and every later call fails with the same
 * code. The table's entries therefore pass a guard: it notices such an error once, remembers it in `failed` and makes SC_ELOST of it.
 * From then on every entry returns at once without touching CUDA, frees and the closing included, since a lost driver may not come
 * back from a call. Any other failure stays SC_EGPU: that call did nothing, the next may succeed.
 * Thread: engine. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/fault.h"
#include "kernels/cuda/queue.h"
#include "kernels/cuda/upload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    struct sc_cuda cuda; /* first: an sc_device * is one of these */
    bool failed;
    char reason[160];
} device;

bool sc_cuda_sticky(int error) {
    switch (error) {
    case cudaErrorDevicesUnavailable:    /* 46 */
    case cudaErrorNoDevice:              /* 100: it was there when the device was opened */
    case cudaErrorDeviceUninitialized:   /* 201 */
    case cudaErrorECCUncorrectable:      /* 214 */
    case cudaErrorNvlinkUncorrectable:   /* 220 */
    case cudaErrorContained:             /* 226 */
    case cudaErrorIllegalAddress:        /* 700 */
    case cudaErrorLaunchTimeout:         /* 702 */
    case cudaErrorAssert:                /* 710 */
    case cudaErrorHardwareStackError:    /* 714 */
    case cudaErrorIllegalInstruction:    /* 715 */
    case cudaErrorMisalignedAddress:     /* 716 */
    case cudaErrorInvalidAddressSpace:   /* 717 */
    case cudaErrorInvalidPc:             /* 718 */
    case cudaErrorLaunchFailure:         /* 719 */
    case cudaErrorContextIsDestroyed:    /* 709 */
    case cudaErrorTensorMemoryLeak:      /* 721 */
    case cudaErrorSystemNotReady:        /* 802 */
    case cudaErrorMpsClientTerminated:   /* 810 */
    case cudaErrorUnknown:               /* 999 */ return true;
    default: return false;
    }
}

/* A card is lost for all its queues; the first one's device remembers it. */
static const device *card(const sc_device *dev) {
    const device *d = (const device *)dev;
    return d->cuda.first ? (const device *)d->cuda.first : d;
}

bool sc_cuda_failed(const sc_device *dev) { return card(dev)->failed; }

/* ---- guard -------------------------------------------------------------------------------------------------------------- */

static sc_status refused(const device *d, const char *op, sc_error *err) { return sc_fail(err, SC_ELOST, "%s: device lost earlier (%s)", op, d->reason); }

/* Looks at an operation's status: SC_EGPU for a sticky error becomes SC_ELOST and marks the device; any other is handed back. */
static sc_status guard(sc_device *dev, const char *op, sc_status rc, sc_error *err) {
    device *d = (device *)dev;
    if (rc != SC_EGPU) return rc;
    cudaError_t e = cudaPeekAtLastError();
    if (e == cudaSuccess) e = cudaStreamQuery(d->cuda.stream); /* cuBLASLt's own statuses hide the cause */
    if (!sc_cuda_sticky(e)) {
        cudaGetLastError();
        return rc;
    }
    d = (device *)card(dev);
    d->failed = true;
    snprintf(d->reason, sizeof d->reason, "%s: %s", op, cudaGetErrorString(e));
    return sc_fail(err, SC_ELOST, "device lost: %s", d->reason);
}

#define GUARDED(name, args)                                                                          \
    static sc_status op_##name(sc_device *dev, const args *a, sc_error *err) {                            \
        if (sc_cuda_failed(dev)) return refused(card(dev), #name, err);                              \
        return guard(dev, #name, sc_cuda_##name(dev, a, err), err);                                  \
    }
SC_OPS_WITH_ARGS(GUARDED)
GUARDED(replay, sc_replay_args)

#define REFUSE_IF_LOST(op) if (sc_cuda_failed(dev)) return refused(card(dev), op, err)

static sc_status gather(sc_device *dev, float *out, const sc_matrix *table, const int32_t *rows, int n, sc_error *err) {
    REFUSE_IF_LOST("gather");
    return guard(dev, "gather", sc_cuda_gather(dev, out, table, rows, n, err), err);
}
static sc_status mul_gelu(sc_device *dev, void *out, const void *x, int m, int width, sc_error *err) {
    REFUSE_IF_LOST("mul_gelu");
    return guard(dev, "mul_gelu", sc_cuda_mul_gelu(dev, out, x, m, width, err), err);
}
static sc_status convert(sc_device *dev, void *out, const float *x, size_t count, sc_error *err) {
    REFUSE_IF_LOST("convert");
    return guard(dev, "convert", sc_cuda_convert(dev, out, x, count, err), err);
}
static sc_status silu(sc_device *dev, void *out, const float *x, size_t count, sc_error *err) {
    REFUSE_IF_LOST("silu");
    return guard(dev, "silu", sc_cuda_silu(dev, out, x, count, err), err);
}
static sc_status add_rows(sc_device *dev, float *x, const float *table, const int32_t *row, int m, int dim, sc_error *err) {
    REFUSE_IF_LOST("add_rows");
    return guard(dev, "add_rows", sc_cuda_add_rows(dev, x, table, row, m, dim, err), err);
}
static sc_status op_finite(sc_device *dev, int32_t *out, const float *x, size_t count, sc_error *err) {
    REFUSE_IF_LOST("finite");
    return guard(dev, "finite", sc_cuda_finite(dev, out, x, count, err), err);
}
#define GUARDED_MARK(name, op)                                                                       \
    static sc_status name(sc_device *dev, sc_mark *m, sc_error *err) {                               \
        REFUSE_IF_LOST(#op);                                                                         \
        return guard(dev, #op, sc_cuda_##op(dev, m, err), err);                                      \
    }
GUARDED_MARK(mark, mark)
GUARDED_MARK(after, after)
GUARDED_MARK(wait_for, wait)
static sc_status elapsed(sc_device *dev, sc_mark *from, sc_mark *to, uint64_t *ns, sc_error *err) {
    *ns = 0;
    REFUSE_IF_LOST("elapsed");
    return guard(dev, "elapsed", sc_cuda_elapsed(dev, from, to, ns, err), err);
}
static bool passed(sc_device *dev, const sc_mark *m) { return sc_cuda_failed(dev) || sc_cuda_passed(dev, m); }
static sc_status mark_create(sc_device *dev, sc_mark **out, sc_error *err) {
    *out = NULL;
    REFUSE_IF_LOST("mark_create");
    return guard(dev, "mark_create", sc_cuda_mark_create(dev, out, err), err);
}
static void mark_destroy(sc_device *dev, sc_mark *m) {
    if (!sc_cuda_failed(dev)) sc_cuda_mark_destroy(dev, m);
}
static sc_status matrix_create(sc_device *dev, sc_matrix **out, const sc_matrix_desc *d, sc_error *err) {
    *out = NULL;
    REFUSE_IF_LOST("matrix_create");
    return guard(dev, "matrix_create", sc_cuda_matrix_create(dev, out, d, err), err);
}
static sc_status filter_create(sc_device *dev, sc_filter **out, const sc_filter_desc *d, sc_error *err) {
    *out = NULL;
    REFUSE_IF_LOST("filter_create");
    return guard(dev, "filter_create", sc_cuda_filter_create(dev, out, d, err), err);
}

static sc_status fold_create(sc_device *dev, sc_matrix **out, const sc_matrix *o, void *memory, int cols, sc_error *err) {
    *out = NULL;
    REFUSE_IF_LOST("fold_create");
    return sc_cuda_fold_create(dev, out, o, memory, cols, err);
}

static sc_status query_create(sc_device *dev, sc_query **out, const sc_matrix *q, sc_error *err) {
    *out = NULL;
    REFUSE_IF_LOST("query_create");
    return guard(dev, "query_create", sc_cuda_query_create(dev, out, q, err), err);
}

/* Weights of a lost context are left to the end of the process. */
static void matrix_destroy(sc_device *dev, sc_matrix *m) {
    if (!sc_cuda_failed(dev)) sc_cuda_matrix_destroy(dev, m);
}
static void query_destroy(sc_device *dev, sc_query *q) {
    if (!sc_cuda_failed(dev)) sc_cuda_query_destroy(dev, q);
}
static void filter_destroy(sc_device *dev, sc_filter *w) {
    if (!sc_cuda_failed(dev)) sc_cuda_filter_destroy(dev, w);
}

/* ---- memory ------------------------------------------------------------------------------------------------------------- */

static sc_status status_of(cudaError_t e, const char *op, size_t bytes, sc_error *err) {
    if (e == cudaSuccess) return SC_OK;
    if (e == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return sc_fail(err, SC_ENOMEM, "%s: no %zu bytes left on the device", op, bytes);
    }
    return sc_fail(err, SC_EGPU, "%s of %zu bytes: %s", op, bytes, cudaGetErrorString(e));
}

static void release(sc_device *dev, void *p) {
    const device *d = (device *)dev;
    if (!p || sc_cuda_failed(dev)) return; /* a lost context gives its memory back by itself */
    if (d->cuda.pooled) cudaFreeAsync(p, d->cuda.stream);
    else cudaFree(p);
}

static sc_status alloc(sc_device *dev, void **out, size_t bytes, sc_error *err) {
    device *d = (device *)dev;
    *out = NULL;
    REFUSE_IF_LOST("alloc");
    cudaError_t e = d->cuda.pooled ? cudaMallocAsync(out, bytes ? bytes : 1, d->cuda.stream) : cudaMalloc(out, bytes ? bytes : 1);
    if (e == cudaSuccess) e = cudaMemsetAsync(*out, 0, bytes, d->cuda.stream);
    if (e != cudaSuccess) {
        if (*out && !sc_cuda_sticky(e)) release(dev, *out);
        *out = NULL;
    }
    return guard(dev, "alloc", status_of(e, "alloc", bytes, err), err);
}

static sc_status alloc_host(sc_device *dev, void **out, size_t bytes, sc_error *err) {
    *out = NULL;
    REFUSE_IF_LOST("alloc_host");
    const cudaError_t e = cudaMallocHost(out, bytes ? bytes : 1);
    if (e == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return sc_fail(err, SC_ENOMEM, "alloc_host: no %zu bytes of pinned host memory left", bytes);
    }
    return guard(dev, "alloc_host", status_of(e, "alloc_host", bytes, err), err);
}

static void release_host(sc_device *dev, void *p) {
    if (p && !sc_cuda_failed(dev)) cudaFreeHost(p);
}

static sc_status transfer(sc_device *dev, void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind, const char *op, sc_error *err) {
    device *d = (device *)dev;
    REFUSE_IF_LOST(op);
    cudaError_t e = cudaMemcpyAsync(dst, src, bytes, kind, d->cuda.stream);
    if (e == cudaSuccess && kind != cudaMemcpyDeviceToDevice) e = cudaStreamSynchronize(d->cuda.stream);
    return guard(dev, op, status_of(e, op, bytes, err), err);
}

static sc_status upload(sc_device *dev, void *dst, const void *host, size_t bytes, sc_error *err) {
    REFUSE_IF_LOST("upload");
    if (bytes <= SC_CUDA_SEND_SMALL) return guard(dev, "upload", status_of(sc_cuda_send_small(&((device *)dev)->cuda, dst, host, bytes), "upload", bytes, err), err);
    return transfer(dev, dst, host, bytes, cudaMemcpyHostToDevice, "upload", err);
}
static sc_status download(sc_device *dev, void *host, const void *src, size_t bytes, sc_error *err) {
    return transfer(dev, host, src, bytes, cudaMemcpyDeviceToHost, "download", err);
}
static sc_status copy(sc_device *dev, void *dst, const void *src, size_t bytes, sc_error *err) {
    return transfer(dev, dst, src, bytes, cudaMemcpyDeviceToDevice, "copy", err);
}
static sc_status fetch(sc_device *dev, void *host, const void *src, size_t bytes, sc_error *err) {
    REFUSE_IF_LOST("fetch");
    const cudaError_t e = cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, ((device *)dev)->cuda.stream);
    return guard(dev, "fetch", status_of(e, "fetch", bytes, err), err);
}
static sc_status sync(sc_device *dev, sc_error *err) {
    REFUSE_IF_LOST("sync");
    return guard(dev, "sync", status_of(cudaStreamSynchronize(((device *)dev)->cuda.stream), "sync", 0, err), err);
}

/* ---- open and close ----------------------------------------------------------------------------------------------------- */

static void close_device(sc_device *dev) {
    device *d = (device *)dev;
    if (!d) return;
    free(d->cuda.choices);
    if (sc_cuda_failed(dev)) { /* nothing of it answers any more */
        free(d);
        return;
    }
    sc_cuda_upload_end(&d->cuda);
    if (d->cuda.stream) cudaStreamSynchronize(d->cuda.stream);
    sc_cuda_queue_close(&d->cuda);
    sc_cuda_attention_destroy(&d->cuda);
    if (d->cuda.lt && !d->cuda.first) cublasLtDestroy(d->cuda.lt);
    if (d->cuda.workspace) cudaFree(d->cuda.workspace);
    if (d->cuda.stream) cudaStreamDestroy(d->cuda.stream);
    free(d);
}

static void loaded(sc_device *dev) {
    if (!sc_cuda_failed(dev)) sc_cuda_upload_end(&((device *)dev)->cuda);
}

static sc_status beside(sc_device *dev, sc_device **out, sc_error *err);

const sc_ops sc_cuda_ops = {
    .alloc = alloc, .release = release, .alloc_host = alloc_host, .release_host = release_host, .upload = upload, .download = download, .copy = copy, .sync = sync,
    .matrix_create = matrix_create, .matrix_destroy = matrix_destroy, .fold_stride = sc_cuda_fold_stride, .fold_create = fold_create,
    .query_create = query_create, .query_destroy = query_destroy, .query_bytes = sc_cuda_query_bytes, .query_keys = op_query_keys, .query_weights = op_query_weights,
    .filter_create = filter_create, .filter_destroy = filter_destroy,
    .linear = op_linear, .layer_norm = op_layer_norm, .rms_norm = op_rms_norm, .qkv = op_qkv, .select = op_select, .attention = op_attention,
    .memory_update = op_memory_update, .cross_attention = op_cross_attention, .fold = op_fold, .text_attention = op_text_attention, .gather = gather,
    .mul_gelu = mul_gelu, .convert = convert, .silu = silu, .add_rows = add_rows, .patchify = op_patchify, .unpatchify = op_unpatchify,
    .noise = op_noise, .denoise = op_denoise, .finite = op_finite, .latent_in = op_latent_in, .conv = op_conv, .grow = op_grow, .pool = op_pool,
    .pixels = op_pixels, .conv3 = op_conv3, .channel_norm = op_channel_norm, .frame_attention = op_frame_attention, .planes_in = op_planes_in,
    .close = close_device, .loaded = loaded,
    .beside = beside, .mark_create = mark_create, .mark_destroy = mark_destroy, .mark = mark, .after = after, .wait = wait_for, .passed = passed, .elapsed = elapsed, .fetch = fetch, .replay = op_replay,
};

/* The card with the most multiprocessors among those of compute capability 8.0 and up. */
static sc_status pick(int *ordinal, struct cudaDeviceProp *best, sc_error *err) {
    int count = 0;
    char seen[128] = "";
    cudaError_t e = cudaGetDeviceCount(&count);
    *ordinal = -1;
    if (e != cudaSuccess || count < 1)
        return sc_fail(err, SC_EGPU, "device cuda: no usable card (%s)", e == cudaSuccess ? "none found" : cudaGetErrorString(e));
    for (int i = 0; i < count; i++) {
        struct cudaDeviceProp p;
        if (cudaGetDeviceProperties(&p, i) != cudaSuccess) continue;
        snprintf(seen, sizeof seen, "%.90s has compute capability %d.%d", p.name, p.major, p.minor);
        if (p.major < 8 || (*ordinal >= 0 && p.multiProcessorCount <= best->multiProcessorCount)) continue;
        *ordinal = i;
        *best = p;
    }
    if (*ordinal < 0) return sc_fail(err, SC_EGPU, "device cuda: compute capability 8.0 or newer is needed, %s", *seen ? seen : "and no card answers");
    return SC_OK;
}

/* The driver's pool keeps what comes back to it, and hands no memory to one stream that another has still to give back. False: it has none. */
static bool keep_pool(int ordinal) {
    int there = 0, no = 0;
    uint64_t all = UINT64_MAX;
    cudaMemPool_t pool;
    const bool ok = cudaDeviceGetAttribute(&there, cudaDevAttrMemoryPoolsSupported, ordinal) == cudaSuccess && there &&
                    cudaDeviceGetDefaultMemPool(&pool, ordinal) == cudaSuccess && cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all) == cudaSuccess &&
                    cudaMemPoolSetAttribute(pool, cudaMemPoolReuseAllowInternalDependencies, &no) == cudaSuccess;
    if (!ok) cudaGetLastError();
    return ok;
}

/* Stream, workspace, ring and rotations of a device whose other fields are set. */
static sc_status open_queue(device *d, bool first_served, sc_error *err) {
    int least = 0, greatest = 0;
    cudaError_t e = cudaDeviceGetStreamPriorityRange(&least, &greatest);

    if (e == cudaSuccess) e = cudaStreamCreateWithPriority(&d->cuda.stream, cudaStreamNonBlocking, first_served ? greatest : least);
    if (e == cudaSuccess) e = cudaMalloc(&d->cuda.workspace, d->cuda.workspace_bytes);
    if (e == cudaSuccess) e = sc_cuda_queue_open(&d->cuda);
    if (e == cudaSuccess) return sc_cuda_attention_init(&d->cuda, err);
    cudaGetLastError();
    return sc_fail(err, e == cudaErrorMemoryAllocation ? SC_ENOMEM : SC_EGPU, "device cuda: %.100s: workspace of %zu MiB: %s", d->cuda.base.name,
                   d->cuda.workspace_bytes >> 20, cudaGetErrorString(e));
}

static sc_status beside(sc_device *dev, sc_device **out, sc_error *err) {
    const device *first = (device *)dev;
    device *d;
    sc_status rc;

    *out = NULL;
    REFUSE_IF_LOST("beside");
    if (!(d = calloc(1, sizeof *d))) return sc_fail(err, SC_ENOMEM, "device cuda: out of memory");
    const size_t half = first->cuda.workspace_bytes / 2;
    d->cuda = (struct sc_cuda){.base = first->cuda.base, .lt = first->cuda.lt, .workspace_bytes = half > SC_CUDA_WORKSPACE_MIN ? half : SC_CUDA_WORKSPACE_MIN,
                               .ordinal = first->cuda.ordinal, .sm_count = first->cuda.sm_count, .cc_major = first->cuda.cc_major, .cc_minor = first->cuda.cc_minor,
                               .first = (struct sc_cuda *)dev, .pooled = first->cuda.pooled};
    if ((rc = open_queue(d, true, err))) close_device(&d->cuda.base);
    else *out = &d->cuda.base;
    return rc;
}

sc_status sc_cuda_open(sc_device **out, sc_dtype act, sc_error *err) {
    device *d = NULL;
    struct cudaDeviceProp p;
    struct cudaFuncAttributes attributes;
    cudaError_t e;
    int ordinal;
    sc_status rc;

    *out = NULL;
    if (act != SC_F16 && act != SC_BF16) return sc_fail(err, SC_EINVAL, "device cuda: activations are f16 or bf16");
    if ((rc = pick(&ordinal, &p, err))) return rc;
    if (!(d = calloc(1, sizeof *d))) return sc_fail(err, SC_ENOMEM, "device cuda: out of memory");
    d->cuda.base.ops = &sc_cuda_ops;
    d->cuda.base.act = act;
    d->cuda.base.conv_deals = true;
    snprintf(d->cuda.base.name, sizeof d->cuda.base.name, "%.100s", p.name);
    d->cuda.ordinal = ordinal;
    d->cuda.sm_count = p.multiProcessorCount;
    d->cuda.cc_major = p.major;
    d->cuda.cc_minor = p.minor;
    /* 1/64 of the card, between 64 and 512 MiB: cuBLASLt's workspace and the operations' scratch. */
    d->cuda.workspace_bytes = p.totalGlobalMem / 64 & ~(size_t)0xffff;
    if (d->cuda.workspace_bytes < SC_CUDA_WORKSPACE_MIN) d->cuda.workspace_bytes = SC_CUDA_WORKSPACE_MIN;
    if (d->cuda.workspace_bytes > (size_t)512 << 20) d->cuda.workspace_bytes = (size_t)512 << 20;
    e = cudaSetDevice(ordinal);
    if (e == cudaSuccess) e = sc_cuda_probe(&attributes);
    if (e != cudaSuccess) {
        rc = sc_fail(err, SC_EGPU, "device cuda: this build has no code for %s (compute capability %d.%d): %s", p.name, p.major, p.minor, cudaGetErrorString(e));
        goto cleanup;
    }
    d->cuda.pooled = keep_pool(ordinal);
    if ((rc = open_queue(d, false, err))) goto cleanup;
    if (cublasLtCreate(&d->cuda.lt) != CUBLAS_STATUS_SUCCESS) {
        d->cuda.lt = NULL;
        rc = sc_fail(err, SC_EGPU, "device cuda: cuBLASLt does not start");
        goto cleanup;
    }
    *out = &d->cuda.base;
    d = NULL;
cleanup:
    close_device(d ? &d->cuda.base : NULL);
    return rc;
}

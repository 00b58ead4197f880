/* faulty_device.h - a device whose calls fail when the test says so.
 *
 * sc_faulty_wrap puts a table in front of a device's own. A fault names an operation, which calls of it count, from which one on how many
 * of them fail, and how: SC_EGPU fails like a CUDA call whose error is not sticky (nothing is written, the next call is as good as ever);
 * SC_ELOST fails like one whose error is: from then on every call gives SC_ELOST, frees do nothing, and nothing reaches the device, which is
 * what the guard of kernels/cuda/cuda.c does. `hang`: the call does not come back. Calls after a loss are counted.
 * slow_ms: the call takes that long. One faulty device a process. Thread: the engine's, but for sc_faulty_arm, which a signal handler may call. */
#ifndef SC_TESTS_FAULTY_DEVICE_H
#define SC_TESTS_FAULTY_DEVICE_H
#include "base/clock.h"
#include "kernels/ops.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *op;      /* its name in the table; NULL: all of them */
    long nth, times;     /* of the calls that count, this one (from 1) and times - 1 after it fail; times < 0: all after it */
    sc_status status;    /* SC_EGPU, SC_ELOST */
    bool hang;
    unsigned slow_ms;    /* not 0: such a call takes so much longer and does not fail */
    bool (*counts)(void *ctx, const char *op, const void *what); /* NULL: all. what: the arguments; of copies the memory, see below */
    void *ctx;
} sc_fault;

static struct {
    sc_ops table;
    const sc_ops *real;
    sc_fault fault;
    atomic_bool armed;
    bool lost;
    long calls, counted, failed, after_loss;
    sc_device *dev;
    void *kept[256]; /* what was given back after a loss; given back in earnest with the next plan */
    int kept_count;
} sc_faulty;

static inline void sc_faulty_arm(void) { atomic_store(&sc_faulty.armed, true); }

/* Nothing fails until armed; counting begins then. */
static inline void sc_faulty_plan(const sc_fault *fault, bool armed) {
    while (sc_faulty.kept_count > 0) sc_faulty.real->release(sc_faulty.dev, sc_faulty.kept[--sc_faulty.kept_count]);
    sc_faulty.fault = *fault;
    sc_faulty.lost = false;
    sc_faulty.calls = sc_faulty.counted = sc_faulty.failed = sc_faulty.after_loss = 0;
    atomic_store(&sc_faulty.armed, armed);
}

static inline sc_status sc_faulty_now(const char *op, const void *what, sc_error *err) {
    const sc_fault *f = &sc_faulty.fault;

    sc_faulty.calls++;
    if (sc_faulty.lost) {
        sc_faulty.after_loss++;
        return sc_fail(err, SC_ELOST, "%s: device lost earlier, says the test", op);
    }
    if (!atomic_load(&sc_faulty.armed) || (f->op && strcmp(f->op, op)) || (f->counts && !f->counts(f->ctx, op, what))) return SC_OK;
    const long n = ++sc_faulty.counted;
    if (n < f->nth || (f->times >= 0 && n >= f->nth + f->times)) return SC_OK;
    if (f->slow_ms) {
        usleep(f->slow_ms * 1000);
        return SC_OK;
    }
    sc_faulty.failed++;
    while (f->hang) pause();
    sc_faulty.lost = f->status == SC_ELOST;
    return sc_fail(err, f->status, "%s: call %ld fails, says the test", op, n);
}

#define SC_FAULTY_CALL(op, what, call) do { sc_status rc = sc_faulty_now(op, what, err); return rc ? rc : sc_faulty.real->call; } while (0)
#define SC_FAULTY_DEFINE(name, args) \
    static sc_status sc_faulty_##name(sc_device *d, const args *a, sc_error *err) { SC_FAULTY_CALL(#name, a, name(d, a, err)); }
SC_OPS_WITH_ARGS(SC_FAULTY_DEFINE)

static sc_status sc_faulty_alloc(sc_device *d, void **out, size_t bytes, sc_error *err) {
    *out = NULL;
    SC_FAULTY_CALL("alloc", out, alloc(d, out, bytes, err));
}
static void sc_faulty_release(sc_device *d, void *p) {
    if (!sc_faulty.lost) sc_faulty.real->release(d, p);
    else if (p && sc_faulty.kept_count < 256) sc_faulty.kept[sc_faulty.kept_count++] = p;
}
static sc_status sc_faulty_alloc_host(sc_device *d, void **out, size_t bytes, sc_error *err) {
    *out = NULL;
    SC_FAULTY_CALL("alloc_host", out, alloc_host(d, out, bytes, err));
}
static sc_status sc_faulty_upload(sc_device *d, void *dst, const void *host, size_t n, sc_error *err) { SC_FAULTY_CALL("upload", dst, upload(d, dst, host, n, err)); }
static sc_status sc_faulty_download(sc_device *d, void *host, const void *src, size_t n, sc_error *err) { SC_FAULTY_CALL("download", src, download(d, host, src, n, err)); }
static sc_status sc_faulty_copy(sc_device *d, void *dst, const void *src, size_t n, sc_error *err) { SC_FAULTY_CALL("copy", dst, copy(d, dst, src, n, err)); }
static sc_status sc_faulty_sync(sc_device *d, sc_error *err) { SC_FAULTY_CALL("sync", NULL, sync(d, err)); }
static sc_status sc_faulty_matrix_create(sc_device *d, sc_matrix **out, const sc_matrix_desc *m, sc_error *err) {
    *out = NULL;
    SC_FAULTY_CALL("matrix_create", m, matrix_create(d, out, m, err));
}
static sc_status sc_faulty_filter_create(sc_device *d, sc_filter **out, const sc_filter_desc *f, sc_error *err) {
    *out = NULL;
    SC_FAULTY_CALL("filter_create", f, filter_create(d, out, f, err));
}
static sc_status sc_faulty_gather(sc_device *d, float *out, const sc_matrix *table, const int32_t *rows, int n, sc_error *err) {
    SC_FAULTY_CALL("gather", out, gather(d, out, table, rows, n, err));
}
static sc_status sc_faulty_mul_gelu(sc_device *d, void *out, const void *x, int m, int width, sc_error *err) {
    SC_FAULTY_CALL("mul_gelu", out, mul_gelu(d, out, x, m, width, err));
}
static sc_status sc_faulty_convert(sc_device *d, void *out, const float *x, size_t n, sc_error *err) { SC_FAULTY_CALL("convert", out, convert(d, out, x, n, err)); }
static sc_status sc_faulty_silu(sc_device *d, void *out, const float *x, size_t n, sc_error *err) { SC_FAULTY_CALL("silu", out, silu(d, out, x, n, err)); }
static sc_status sc_faulty_add_rows(sc_device *d, float *x, const float *table, const int32_t *row, int m, int dim, sc_error *err) {
    SC_FAULTY_CALL("add_rows", x, add_rows(d, x, table, row, m, dim, err));
}
static sc_status sc_faulty_finite(sc_device *d, int32_t *out, const float *x, size_t n, sc_error *err) { SC_FAULTY_CALL("finite", x, finite(d, out, x, n, err)); }
/* ---- a device that runs behind its calls, as far as anybody can tell: each mark is passed `late_ns` after it was set ------- */

struct sc_mark { uint64_t set_ns; };
static uint64_t sc_faulty_late_ns;

static sc_status sc_faulty_beside(sc_device *d, sc_device **out, sc_error *err) {
    (void)d;
    sc_status rc = sc_cpu_open(out, 1, err);
    if (!rc) (*out)->ops = &sc_faulty.table;
    return rc;
}
static sc_status sc_faulty_mark_create(sc_device *d, sc_mark **out, sc_error *err) {
    (void)d;
    *out = calloc(1, sizeof **out);
    return *out ? SC_OK : sc_fail(err, SC_ENOMEM, "mark");
}
static void sc_faulty_mark_destroy(sc_device *d, sc_mark *m) { (void)d, free(m); }
static sc_status sc_faulty_mark(sc_device *d, sc_mark *m, sc_error *err) {
    (void)d;
    m->set_ns = sc_now_ns();
    SC_FAULTY_CALL("mark", m, sync(d, err));
}
static sc_status sc_faulty_after(sc_device *d, sc_mark *m, sc_error *err) { SC_FAULTY_CALL("after", m, sync(d, err)); }
static bool sc_faulty_passed(sc_device *d, const sc_mark *m) {
    (void)d;
    return sc_faulty.lost || sc_now_ns() >= m->set_ns + sc_faulty_late_ns;
}
static sc_status sc_faulty_wait(sc_device *d, sc_mark *m, sc_error *err) {
    while (!sc_faulty_passed(d, m)) usleep(200);
    SC_FAULTY_CALL("wait", m, sync(d, err));
}
static sc_status sc_faulty_elapsed(sc_device *d, sc_mark *from, sc_mark *to, uint64_t *ns, sc_error *err) {
    *ns = to->set_ns - from->set_ns;
    SC_FAULTY_CALL("elapsed", from, sync(d, err));
}
static sc_status sc_faulty_fetch(sc_device *d, void *host, const void *src, size_t n, sc_error *err) { SC_FAULTY_CALL("fetch", src, download(d, host, src, n, err)); }
static sc_status sc_faulty_replay(sc_device *d, const sc_replay_args *a, sc_error *err) {
    (void)d;
    return a->launch(a->ctx, err);
}

/* After sc_faulty_wrap, before an engine sees the device. */
static inline void sc_faulty_run_behind(uint64_t late_ns) {
    sc_ops *t = &sc_faulty.table;
    sc_faulty_late_ns = late_ns;
    t->beside = sc_faulty_beside, t->mark_create = sc_faulty_mark_create, t->mark_destroy = sc_faulty_mark_destroy, t->mark = sc_faulty_mark, t->after = sc_faulty_after;
    t->wait = sc_faulty_wait, t->passed = sc_faulty_passed, t->elapsed = sc_faulty_elapsed, t->fetch = sc_faulty_fetch, t->replay = sc_faulty_replay;
}

static void sc_faulty_close(sc_device *d) {
    d->ops = sc_faulty.real;
    d->ops->close(d);
}

/* Until the device is closed. Operations it lacks stay lacking. */
static inline void sc_faulty_wrap(sc_device *d) {
    sc_ops *t = &sc_faulty.table;
    sc_faulty.real = d->ops;
    sc_faulty.dev = d;
    *t = *d->ops;
#define SC_FAULTY_SET(name, args) if (t->name) t->name = sc_faulty_##name;
    SC_OPS_WITH_ARGS(SC_FAULTY_SET)
    t->alloc = sc_faulty_alloc;
    t->release = sc_faulty_release;
    t->alloc_host = sc_faulty_alloc_host;
    t->upload = sc_faulty_upload;
    t->download = sc_faulty_download;
    t->copy = sc_faulty_copy;
    t->sync = sc_faulty_sync;
    t->matrix_create = sc_faulty_matrix_create;
    t->filter_create = sc_faulty_filter_create;
    t->gather = sc_faulty_gather;
    t->mul_gelu = sc_faulty_mul_gelu;
    t->convert = sc_faulty_convert;
    t->silu = sc_faulty_silu;
    t->add_rows = sc_faulty_add_rows;
    t->finite = sc_faulty_finite;
    t->close = sc_faulty_close;
    d->ops = t;
}

#endif

/* pool.c - persistent worker threads that share out the items of one operation.
 *
 * An operation of the transformer lasts 20 us to 2 ms, so starting it must cost well under a microsecond, and on a busy machine a
 * worker that the kernel has put aside must not hold up an operation that the others have finished. Hence:
 *
 *   ticket   one 64-bit word: number of the run | items | next item. Taking an item is one fetch_add, and whether the claim is
 *            good (next < items) is decided by that same word, so that a worker that comes late, even into a later run, either
 *            gets a good item of the run that is on now or nothing.
 *   done     items finished in this run. The caller works too and then waits for done == items, not for the workers.
 *   epoch    rises with every run; idle workers watch it for a few microseconds and then sleep on it.
 *
 * fn and ctx are plain fields: they are written only between runs and read only by somebody who holds a good claim.
 * Thread: sc_pool_run by one caller at a time. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ITEM_BITS = 24, SPINS = 256 };
#define ITEM_MASK ((UINT64_C(1) << ITEM_BITS) - 1)

struct sc_pool {
    sc_pool_fn fn;
    void *ctx;
    uint64_t run;
    int threads, started;
    pthread_t *worker;
    _Alignas(64) atomic_uint_fast64_t ticket;
    _Alignas(64) _Atomic uint32_t done;
    _Atomic uint32_t waiting; /* the caller sleeps on done */
    _Alignas(64) _Atomic uint32_t epoch;
    _Atomic uint32_t sleepers;
    atomic_bool stop;
};

typedef struct { sc_pool *pool; int thread; } worker_arg;

static void futex_wait(_Atomic uint32_t *word, uint32_t value) { syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0); }

static void futex_wake(_Atomic uint32_t *word, int count) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0); }

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Takes items until none is left. */
static void take_part(sc_pool *p, int thread) {
    for (;;) {
        uint64_t t = atomic_fetch_add_explicit(&p->ticket, 1, memory_order_acq_rel);
        uint32_t items = (uint32_t)(t >> ITEM_BITS & ITEM_MASK), item = (uint32_t)(t & ITEM_MASK);
        if (item >= items) return;
        p->fn(p->ctx, (int)item, thread);
        if (atomic_fetch_add_explicit(&p->done, 1, memory_order_seq_cst) + 1 == items &&
            atomic_load_explicit(&p->waiting, memory_order_seq_cst))
            futex_wake(&p->done, 1);
    }
}

static void *worker_main(void *opaque) {
    worker_arg arg = *(worker_arg *)opaque;
    sc_pool *p = arg.pool;
    uint32_t seen = 0;
    char name[16];

    free(opaque);
    snprintf(name, sizeof name, "cpu-%d", arg.thread % 1000);
    pthread_setname_np(pthread_self(), name);
    for (;;) {
        uint32_t now = atomic_load_explicit(&p->epoch, memory_order_acquire);
        for (int i = 0; now == seen && i < SPINS; i++) {
            relax();
            now = atomic_load_explicit(&p->epoch, memory_order_acquire);
        }
        while (now == seen) {
            atomic_fetch_add_explicit(&p->sleepers, 1, memory_order_seq_cst);
            futex_wait(&p->epoch, seen);
            atomic_fetch_sub_explicit(&p->sleepers, 1, memory_order_seq_cst);
            now = atomic_load_explicit(&p->epoch, memory_order_acquire);
        }
        seen = now;
        if (atomic_load_explicit(&p->stop, memory_order_acquire)) return NULL;
        take_part(p, arg.thread);
    }
}

static void next_epoch(sc_pool *p) {
    atomic_fetch_add_explicit(&p->epoch, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&p->sleepers, memory_order_seq_cst)) futex_wake(&p->epoch, p->threads);
}

sc_pool *sc_pool_create(int threads) {
    sc_pool *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);

    if (!p) return NULL;
    if (threads < 1) threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (threads < 1) threads = 1;
    *p = (sc_pool){.threads = threads};
    p->worker = calloc((size_t)threads, sizeof *p->worker);
    if (!p->worker) goto fail;
    for (int i = 1; i < threads; i++) {
        worker_arg *arg = malloc(sizeof *arg);
        if (!arg) goto fail;
        *arg = (worker_arg){p, i};
        if (pthread_create(&p->worker[p->started], NULL, worker_main, arg)) { free(arg); goto fail; }
        p->started++;
    }
    return p;
fail:
    sc_pool_destroy(p);
    return NULL;
}

void sc_pool_destroy(sc_pool *p) {
    if (!p) return;
    atomic_store_explicit(&p->stop, true, memory_order_release);
    next_epoch(p);
    for (int i = 0; i < p->started; i++) pthread_join(p->worker[i], NULL);
    free(p->worker);
    free(p);
}

int sc_pool_threads(const sc_pool *p) { return p->threads; }

void sc_pool_run(sc_pool *p, sc_pool_fn fn, void *ctx, int items) {
    uint32_t done;

    assert(items >= 0 && (uint64_t)items <= ITEM_MASK / 2);
    if (p->threads == 1 || items <= 1) {
        for (int i = 0; i < items; i++) fn(ctx, i, 0);
        return;
    }
    p->fn = fn;
    p->ctx = ctx;
    p->run++;
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    atomic_store_explicit(&p->ticket, p->run << 2 * ITEM_BITS | (uint64_t)items << ITEM_BITS, memory_order_release);
    next_epoch(p);
    take_part(p, 0);
    for (int i = 0; (done = atomic_load_explicit(&p->done, memory_order_acquire)) != (uint32_t)items; i++) {
        relax();
        if (i < 8 * SPINS) continue;
        atomic_store_explicit(&p->waiting, 1, memory_order_seq_cst);
        while ((done = atomic_load_explicit(&p->done, memory_order_seq_cst)) != (uint32_t)items) futex_wait(&p->done, done);
        atomic_store_explicit(&p->waiting, 0, memory_order_seq_cst);
        break;
    }
}

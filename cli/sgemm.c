/* sgemm.c - see sgemm.h. The handle is never closed: OpenBLAS's threads run code of the library. */
#include "cli/sgemm.h"
#include "base/clock.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };

struct sc_sgemm {
    void (*sgemm)(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);
    char *(*corename)(void);
    int (*get_threads)(void);
    float *a, *b, *c;
};

sc_status sc_sgemm_open(sc_sgemm **out, int threads, sc_error *err) {
    sc_sgemm *s = calloc(1, sizeof *s);
    void *lib = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL), (*set_threads)(int);
    sc_status rc = SC_OK;

    *out = NULL;
    if (!s) return sc_fail(err, SC_ENOMEM, "sgemm: out of memory");
    if (!lib) { rc = sc_fail(err, SC_ENOTFOUND, "%s", dlerror()); goto cleanup; }
    *(void **)&s->sgemm = dlsym(lib, "cblas_sgemm");
    *(void **)&s->corename = dlsym(lib, "openblas_get_corename");
    *(void **)&s->get_threads = dlsym(lib, "openblas_get_num_threads");
    *(void **)&set_threads = dlsym(lib, "openblas_set_num_threads");
    if (!s->sgemm || !s->corename || !s->get_threads || !set_threads) { rc = sc_fail(err, SC_ENOTFOUND, "libopenblas.so.0 has not all of OpenBLAS's functions"); goto cleanup; }
    s->a = malloc(SC_SGEMM_M * SC_SGEMM_K * sizeof *s->a);
    s->b = malloc(SC_SGEMM_N * SC_SGEMM_K * sizeof *s->b);
    s->c = malloc(SC_SGEMM_M * SC_SGEMM_N * sizeof *s->c);
    if (!s->a || !s->b || !s->c) { rc = sc_fail(err, SC_ENOMEM, "sgemm: out of memory"); goto cleanup; }
    for (int i = 0; i < SC_SGEMM_M * SC_SGEMM_K; i++) s->a[i] = (float)(i % 17) - 8;
    for (int i = 0; i < SC_SGEMM_N * SC_SGEMM_K; i++) s->b[i] = (float)(i % 13) - 6;
    set_threads(threads < 1 ? (int)sysconf(_SC_NPROCESSORS_ONLN) : threads);
    *out = s;
    s = NULL;
cleanup:
    sc_sgemm_close(s);
    return rc;
}

void sc_sgemm_close(sc_sgemm *s) {
    if (!s) return;
    free(s->a);
    free(s->b);
    free(s->c);
    free(s);
}

const char *sc_sgemm_kernel(const sc_sgemm *s) { return s->corename(); }
int sc_sgemm_threads(const sc_sgemm *s) { return s->get_threads(); }

double sc_sgemm_run(sc_sgemm *s) {
    const uint64_t start = sc_now_ns();
    s->sgemm(ROW_MAJOR, NO_TRANS, TRANS, SC_SGEMM_M, SC_SGEMM_N, SC_SGEMM_K, 1.0f, s->a, SC_SGEMM_K, s->b, SC_SGEMM_K, 0.0f, s->c, SC_SGEMM_N);
    return (double)(sc_now_ns() - start) * 1e-9;
}

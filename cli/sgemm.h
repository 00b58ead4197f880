/* sgemm.h - the yardstick of `sparsecast bench`: OpenBLAS's sgemm, loaded at run time so that the program does not depend on it. */
#ifndef SC_CLI_SGEMM_H
#define SC_CLI_SGEMM_H
#include "base/status.h"

typedef struct sc_sgemm sc_sgemm;

enum { SC_SGEMM_M = 480, SC_SGEMM_N = 1024, SC_SGEMM_K = 384 };

/* libopenblas.so.0 on `threads` threads (< 1: one a core). Errors: SC_ENOTFOUND (no such library, or without the functions), SC_ENOMEM. */
sc_status sc_sgemm_open(sc_sgemm **out, int threads, sc_error *err);
void sc_sgemm_close(sc_sgemm *s); /* NULL is fine; the library stays loaded, its threads with it */

const char *sc_sgemm_kernel(const sc_sgemm *s);  /* "Haswell", "SkylakeX", ... */
int sc_sgemm_threads(const sc_sgemm *s);

/* One product x [480][384] . w^T, w [1024][384]; seconds it took. */
double sc_sgemm_run(sc_sgemm *s);

#endif

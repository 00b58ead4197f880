/* bench_count.h - how many floating point operations the stages of a chunk take, counted as direct convolutions and products:
 * a product m x k by k x n is 2 m k n, whatever trick computes it. Norms, softmax, RoPE, selection and noise are not counted. */
#ifndef SC_CLI_BENCH_COUNT_H
#define SC_CLI_BENCH_COUNT_H
#include "engine/internal.h"

typedef struct { double linear, attention, decoder; } sc_flops;

/* One pass of the transformer over one session's chunk: a query block sees all of P and the selected (or all) blocks of L, and
 * cross_rows keys of the prompt. A clean pass counts like any other, although the engine leaves out what nobody reads of it. */
sc_flops sc_count_pass(const sc_engine *e, const sc_kv_view *view, int cross_rows);

/* The decoder on one later chunk, as published (TAEHV: the 1x1 growth after the upsampling). */
sc_flops sc_count_decode(const sc_engine *e);

/* Text encoder and cross-attention keys and values of a prompt of n tokens. */
sc_flops sc_count_text(const sc_engine *e, int tokens);

double sc_flops_sum(sc_flops f);

/* Where tensor `name` of the Wan VAE's decoder works: pixels of a frame and frames of a chunk, both relative to the latent's. */
void sc_count_vae_place(const char *name, double *pixels, double *frames);

#endif

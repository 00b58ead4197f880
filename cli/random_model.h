/* random_model.h - model directories of random weights in the real shapes, for benchmarks and load tests.
 *
 * Names, shapes and types are those of the published checkpoints (bf16), values are normal with the variance that keeps activations
 * of order one. The same shape gives the same bytes on every machine. */
#ifndef SC_CLI_RANDOM_MODEL_H
#define SC_CLI_RANDOM_MODEL_H
#include "base/status.h"
#include <stddef.h>

/* Shapes: "wan-1.3b" (832x480, persistent blocks, UMT5-XXL, TAEHV), "wan-1.3b-vae" (the same with the Wan VAE's decoder), "wan-14b",
 * "tiny" and "tiny-vae" (seconds on a CPU). NULL-terminated. */
extern const char *const sc_random_model_shapes[];

/* Write DIR (made when missing): config.json, safetensors, and a copy of the SentencePiece file `tokenizer`. *bytes (may be NULL): of
 * all weights. Errors: SC_EINVAL for an unknown shape, SC_EIO (text names the file), SC_ENOMEM. */
sc_status sc_random_model_write(const char *shape, const char *dir, const char *tokenizer, size_t *bytes, sc_error *err);

/* Remove the files that sc_random_model_write made in DIR, and DIR when it is empty then. */
void sc_random_model_remove(const char *dir);

#endif

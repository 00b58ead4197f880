/* tokenizer.h - text to token ids through SentencePiece (thin C++ shim in tokenizer.cc).
 *
 * Thread: any after open (SentencePiece's Encode is const). */
#ifndef SC_ENGINE_TOKENIZER_H
#define SC_ENGINE_TOKENIZER_H
#include "base/status.h"
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef struct sc_tokenizer sc_tokenizer;

/* Load spiece.model. Errors: SC_EIO, SC_EINVAL with the path. */
sc_status sc_tokenizer_open(sc_tokenizer **out, const char *path, sc_error *err);
void sc_tokenizer_close(sc_tokenizer *tok);
int sc_tokenizer_vocab(const sc_tokenizer *tok);

/* ids[0..*count) = the first max-1 pieces of `text` (n bytes UTF-8), then 1 (end). No padding. A typed "</s>" is plain text;
 * empty text gives [1]. `max` >= 1. Errors: SC_EINVAL for bad UTF-8 (says the byte offset), SC_ENOMEM. */
sc_status sc_tokenizer_encode(const sc_tokenizer *tok, const char *text, size_t n, int32_t *ids, int max, int *count, sc_error *err);

/* Clean text as Wan's tokenizer does: ftfy's fixes, HTML unescape twice, white space collapsed, stripped.
 * *out is malloc'ed, NUL-terminated, owned by the caller. */
sc_status sc_text_clean(const char *text, size_t n, char **out, size_t *out_n, sc_error *err);

#ifdef __cplusplus
}
#endif
#endif

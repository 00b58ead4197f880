/* digest.c - see digest.h. */
#include "engine/digest.h"
#include "base/sha256.h"

#include <string.h>

enum { HEAD_BYTES = 4096 };

void sc_model_digest(const sc_tensors *const *sets, int count, char out[65]) {
    sc_sha256 s;
    sc_sha256_init(&s);
    for (int i = 0; i < count; i++)
        for (int j = 0; j < sc_tensors_count(sets[i]); j++) {
            const sc_tensor *t = sc_tensors_at(sets[i], j);
            sc_sha256_add(&s, t->name, strlen(t->name) + 1);
            sc_sha256_add(&s, t->shape, sizeof *t->shape * (size_t)t->rank);
            sc_sha256_add(&s, t->data, t->bytes < HEAD_BYTES ? t->bytes : HEAD_BYTES);
        }
    sc_sha256_hex(&s, out);
}

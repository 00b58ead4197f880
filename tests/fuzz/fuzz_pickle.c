/* fuzz_pickle.c - libFuzzer over the restricted unpickler.
 *
 * What is refused has a reason; what is accepted keeps its promises: names are clean, sorted and unique, every element lies inside its
 * storage. tests/fuzz/run.sh builds and runs it. */
#include "import/pickle.h"

#include <stdlib.h>
#include <string.h>

#ifndef FUZZ_CHECK
#define FUZZ_CHECK
static void check(bool ok) {
    if (!ok) abort();
}
#endif

static void check_tensor(const sc_pickle_tensor *t) {
    int64_t count = 1, last = t->offset;

    check(t->rank >= 0 && t->rank <= 8 && t->offset >= 0 && t->storage[0]);
    check(!strchr(t->storage, '/') && !strchr(t->storage, '.'));
    for (int i = 0; i < t->rank; i++) {
        check(t->shape[i] >= 0 && t->stride[i] >= 0);
        check(!__builtin_mul_overflow(count, t->shape[i], &count));
    }
    check(count == t->count);
    if (!count) return;
    for (int i = 0; i < t->rank; i++) last += (t->shape[i] - 1) * t->stride[i];
    check(last < t->storage_count && count <= t->storage_count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    sc_pickle *p;
    sc_error err = {0};

    if (sc_pickle_open(&p, data, size, "fuzz", &err)) {
        check(!p && err.text[0]);
        return 0;
    }
    for (int i = 0; i < sc_pickle_count(p); i++) {
        const sc_pickle_tensor *t = sc_pickle_at(p, i);
        check(t->name[0] && strlen(t->name) < SC_PICKLE_NAME);
        for (const char *s = t->name; *s; s++) check((unsigned char)*s >= 0x20 && *s != 0x7f);
        if (i) check(strcmp(sc_pickle_at(p, i - 1)->name, t->name) < 0);
        check_tensor(t);
    }
    sc_pickle_close(p);
    return 0;
}

/* frame_hash.c - see frame_hash.h. xxhash.h is compiled in, so no library is needed where it runs. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/frame_hash.h"
#include <inttypes.h>
#include <stdio.h>

void sc_frame_hash(const void *pixels, size_t n, char out[SC_FRAME_HASH_CHARS + 1]) {
    const XXH128_hash_t h = XXH3_128bits(pixels, n);
    snprintf(out, SC_FRAME_HASH_CHARS + 1, "%016" PRIx64 "%016" PRIx64, (uint64_t)h.high64, (uint64_t)h.low64);
}

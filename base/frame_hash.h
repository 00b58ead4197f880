/* frame_hash.h - a name for the pixels of a chunk, for logs and their replay.
 *
 * XXH3 with 128 bits, as `xxhsum -H2` prints it: it costs next to nothing (a chunk of 256x160 0.02 ms, of 832x480 0.22 ms, where base/sha256.c takes 6 and
 * 62 ms), and chunks that differ do not share one by accident. On purpose they could: it is no signature. Any thread. */
#ifndef SC_BASE_FRAME_HASH_H
#define SC_BASE_FRAME_HASH_H
#include <stddef.h>

enum { SC_FRAME_HASH_CHARS = 32 };

/* Of n bytes: lower-case hex, NUL-terminated. */
void sc_frame_hash(const void *pixels, size_t n, char out[SC_FRAME_HASH_CHARS + 1]);

#endif

/* map_ahead.h - pages of a mapped file brought in by one call, instead of a fault for each when they are read. */
#ifndef SC_BASE_MAP_AHEAD_H
#define SC_BASE_MAP_AHEAD_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

enum { SC_PAGE_BYTES = 4096 };

/* All pages that hold from .. from + bytes - 1. False: the kernel is older than that; reading them brings them in. Any thread. */
static inline bool sc_map_ahead(const void *from, size_t bytes) {
    char *const first = (char *)((uintptr_t)from & ~(uintptr_t)(SC_PAGE_BYTES - 1));
    return !madvise(first, (size_t)((const char *)from + bytes - first), MADV_POPULATE_READ);
}

#endif

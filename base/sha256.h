/* sha256.h - SHA-256 (FIPS 180-4), for model digests and manifests. */
#ifndef SC_BASE_SHA256_H
#define SC_BASE_SHA256_H
#include <stddef.h>
#include <stdint.h>

typedef struct { uint32_t h[8]; uint64_t bytes; uint8_t block[64]; } sc_sha256;

void sc_sha256_init(sc_sha256 *s);
void sc_sha256_add(sc_sha256 *s, const void *data, size_t n);
void sc_sha256_hex(sc_sha256 *s, char out[65]); /* finishes; out is NUL-terminated */

#endif

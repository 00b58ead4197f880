/* openapi.h - proto/openapi.json as bytes of the binary. */
#ifndef SC_PROTO_OPENAPI_H
#define SC_PROTO_OPENAPI_H
#include <stddef.h>

extern const unsigned char sc_openapi_json[]; /* a NUL follows, not counted */
extern const size_t sc_openapi_json_size;

#endif

/* jpeg.h - one picture to JPEG: jpeg_turbo.c where TurboJPEG is found at build time, else jpeg_none.c, which says so. */
#ifndef SC_CLI_JPEG_H
#define SC_CLI_JPEG_H
#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct sc_jpeg sc_jpeg;

/* An encoder for pictures of one size. quality 1..100. Errors: SC_EINVAL (no TurboJPEG in this build, or it refuses), SC_ENOMEM. */
sc_status sc_jpeg_create(sc_jpeg **out, int width, int height, int quality, sc_error *err);
void sc_jpeg_destroy(sc_jpeg *j); /* NULL is fine */

/* i420: planes Y, U, V, full range. *data is borrowed until the next call. Errors: SC_EINVAL. */
sc_status sc_jpeg_frame(sc_jpeg *j, const uint8_t *i420, const uint8_t **data, size_t *n, sc_error *err);

#endif

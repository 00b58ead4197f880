/* jpeg_turbo.c - see jpeg.h. TurboJPEG 2.1 writes up to tjBufSize() bytes whatever size it was told, so the buffer has that size. */
#include "cli/jpeg.h"

#include <stdlib.h>
#include <turbojpeg.h>

struct sc_jpeg {
    tjhandle handle;
    unsigned char *buf;
    int width, height, quality;
};

sc_status sc_jpeg_create(sc_jpeg **out, int width, int height, int quality, sc_error *err) {
    sc_jpeg *j = calloc(1, sizeof *j);
    const unsigned long room = tjBufSize(width, height, TJSAMP_420);

    *out = NULL;
    if (!j || room == (unsigned long)-1 || !(j->buf = malloc(room)) || !(j->handle = tjInitCompress())) {
        sc_jpeg_destroy(j);
        return room == (unsigned long)-1 ? sc_fail(err, SC_EINVAL, "JPEG: no pictures of %dx%d", width, height) : sc_fail(err, SC_ENOMEM, "JPEG: out of memory");
    }
    j->width = width;
    j->height = height;
    j->quality = quality;
    *out = j;
    return SC_OK;
}

void sc_jpeg_destroy(sc_jpeg *j) {
    if (!j) return;
    if (j->handle) tjDestroy(j->handle);
    free(j->buf);
    free(j);
}

sc_status sc_jpeg_frame(sc_jpeg *j, const uint8_t *i420, const uint8_t **data, size_t *n, sc_error *err) {
    const int cw = (j->width + 1) / 2, ch = (j->height + 1) / 2;
    const unsigned char *planes[3] = {i420, i420 + (size_t)j->width * (size_t)j->height, i420 + (size_t)j->width * (size_t)j->height + (size_t)cw * (size_t)ch};
    const int strides[3] = {j->width, cw, cw};
    unsigned long size = 0;

    if (tjCompressFromYUVPlanes(j->handle, planes, j->width, strides, j->height, TJSAMP_420, &j->buf, &size, j->quality, TJFLAG_NOREALLOC))
        return sc_fail(err, SC_EINVAL, "JPEG: %s", tjGetErrorStr2(j->handle));
    *data = j->buf;
    *n = size;
    return SC_OK;
}

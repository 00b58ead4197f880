/* jpeg_none.c - see jpeg.h: this build has no TurboJPEG. */
#include "cli/jpeg.h"

sc_status sc_jpeg_create(sc_jpeg **out, int width, int height, int quality, sc_error *err) {
    (void)width;
    (void)height;
    (void)quality;
    *out = NULL;
    return sc_fail(err, SC_EINVAL, "JPEG: this program was built without TurboJPEG; write Y4M instead (-o x.y4m, or -o - for standard output)");
}

void sc_jpeg_destroy(sc_jpeg *j) { (void)j; }

sc_status sc_jpeg_frame(sc_jpeg *j, const uint8_t *i420, const uint8_t **data, size_t *n, sc_error *err) {
    (void)j;
    (void)i420;
    *data = NULL;
    *n = 0;
    return sc_fail(err, SC_EINVAL, "JPEG: this program was built without TurboJPEG");
}

/* output.h - where frames go: a folder of JPEG files, one file of Motion JPEG or Y4M, or Y4M on standard output.
 *
 * Whoever looks at the final name sees whole files only: each is written under a temporary name beside it (".NAME.part") and renamed. */
#ifndef SC_CLI_OUTPUT_H
#define SC_CLI_OUTPUT_H
#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct sc_output sc_output;
typedef enum { SC_OUT_FOLDER, SC_OUT_MJPEG, SC_OUT_Y4M, SC_OUT_STDOUT } sc_output_kind;

/* What a path asks for. Errors: SC_EINVAL for endings of formats that nobody here writes (.mp4, .gif, ...). */
sc_status sc_output_plan(const char *path, sc_output_kind *kind, sc_error *err);

typedef struct { int width, height, fps, quality; } sc_output_picture;

/* Errors: SC_EINVAL (no JPEG in this build), SC_EIO (folder or file cannot be made; names it), SC_ENOMEM. `path` is borrowed until close. */
sc_status sc_output_open(sc_output **out, const char *path, sc_output_kind kind, const sc_output_picture *p, sc_error *err);

/* The next frame, I420. Errors: SC_EIO with the file and the system's reason; the unfinished file is removed. */
sc_status sc_output_frame(sc_output *o, const uint8_t *i420, sc_error *err);
uint64_t sc_output_frames(const sc_output *o); /* written so far */

/* Give the file its name. Errors: SC_EIO. A folder's files have theirs already. */
sc_status sc_output_finish(sc_output *o, sc_error *err);
void sc_output_close(sc_output *o); /* what is not finished is removed; NULL is fine */

#endif

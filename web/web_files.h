/* web_files.h - the viewer's files, compiled into the daemon.
 *
 * The table is written by web/embed.cmake from the files in this folder: "/" is index.html, every other file is "/viewer/NAME". It is
 * constant, so any thread may read it; the data ends in a zero byte that `size` does not count. `etag` holds its quotes and changes with
 * the content only. */
#ifndef SC_WEB_FILES_H
#define SC_WEB_FILES_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sc_web_file {
    const char *path;          /* of the URL, without a query */
    const char *type;          /* media type, with charset for text */
    const unsigned char *data;
    size_t size;
    const char *etag;          /* quoted, as it stands in the header */
};

extern const struct sc_web_file sc_web_files[];
extern const size_t sc_web_file_count;

#ifdef __cplusplus
}
#endif
#endif

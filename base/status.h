/* status.h - how a function says that something went wrong.
 *
 * What the world can cause is returned as a status with a message that names the object; what only our own bug can cause is
 * asserted (release builds keep their asserts). The message is written once, where the fault is seen; callers pass the status
 * up. `main` decides about exiting, the server maps a status to an HTTP code in one switch. */
#ifndef SC_BASE_STATUS_H
#define SC_BASE_STATUS_H
#include <stdarg.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    SC_OK = 0,
    SC_EINVAL = -1,   /* the caller, a file or a client said something that cannot be */
    SC_ENOMEM = -2,   /* host or device memory, or a page of the pool */
    SC_EIO = -3,      /* a file or a socket */
    SC_EGPU = -4,     /* this call to the device; the device itself is well, the next call may succeed */
    SC_EBUSY = -5,    /* no place now, later perhaps */
    SC_ENOTFOUND = -6,/* no such session, tensor, file */
    SC_ELOST = -7     /* the device is gone: no later call on it can succeed, the process has to end */
} sc_status;

typedef struct {
    sc_status status;
    char text[512];
} sc_error;

/* Fill *err (may be NULL) and hand `status` back, so that a failing check is one line. */
sc_status sc_fail(sc_error *err, sc_status status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The status as a word: "ok", "invalid", "out of memory", "i/o", "gpu", "busy", "not found", "gpu lost". */
const char *sc_status_name(sc_status status);

#ifdef __cplusplus
}
#endif
#endif

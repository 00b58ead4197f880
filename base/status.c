/* status.c - filling in an sc_error. */
#include "base/status.h"

#include <stdio.h>

sc_status sc_fail(sc_error *err, sc_status status, const char *fmt, ...) {
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->status = status;
        vsnprintf(err->text, sizeof err->text, fmt, ap);
        va_end(ap);
    }
    return status;
}

const char *sc_status_name(sc_status status) {
    switch (status) {
    case SC_OK: return "ok";
    case SC_EINVAL: return "invalid";
    case SC_ENOMEM: return "out of memory";
    case SC_EIO: return "i/o";
    case SC_EGPU: return "gpu";
    case SC_EBUSY: return "busy";
    case SC_ENOTFOUND: return "not found";
    case SC_ELOST: return "gpu lost";
    }
    return "unknown";
}

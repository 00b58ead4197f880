/* request_id.h - the name of one answer, in its X-Request-Id and in the log.
 *
 * The client's own when that is [A-Za-z0-9-]{1,64}, a random one otherwise. Any thread. */
#ifndef SC_SERVER_REQUEST_ID_H
#define SC_SERVER_REQUEST_ID_H
#include "proto/session_json.h"
#include <string.h>

enum { SC_REQUEST_ID_MAX = 64 };

/* given: n bytes, may be NULL. */
static inline void sc_request_id(char out[SC_REQUEST_ID_MAX + 1], const char *given, size_t n) {
    bool good = given && n >= 1 && n <= SC_REQUEST_ID_MAX;
    for (size_t i = 0; good && i < n; i++)
        good = (given[i] >= 'a' && given[i] <= 'z') || (given[i] >= 'A' && given[i] <= 'Z') || (given[i] >= '0' && given[i] <= '9') || given[i] == '-';
    if (good) {
        memcpy(out, given, n);
        out[n] = 0;
    } else if (sc_id_random(out, NULL)) strcpy(out, "none");
}

#endif

/* json.h - strict JSON from untrusted bytes, as a cJSON tree.
 *
 * cJSON reads more than JSON: invalid UTF-8, raw control bytes, a byte order mark, `01`, `1.`, duplicate keys, text that ends at
 * \u0000. A scanner of our own goes over the text first and refuses all that, with the place; only then cJSON builds the tree.
 * Numbers are handed out as doubles; who needs whole ones checks (see requests.c). Any thread. */
#ifndef SC_PROTO_JSON_H
#define SC_PROTO_JSON_H
#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>

struct cJSON;

enum { SC_JSON_DEPTH_MAX = 16 };

typedef struct {
    bool too_big;        /* more bytes than allowed: HTTP 413 or close code 1009, not 400 */
    size_t offset;       /* of the first byte that is wrong, from 0 */
    int line, column;    /* the same place, from 1; columns count bytes */
    char text[160];      /* what is wrong there, without the place: "expected a value, found '}'" */
} sc_json_error;

/* Parse exactly one JSON value of n bytes (no NUL needed behind it), at most max_bytes. On SC_OK *out is owned, cJSON_Delete().
 * Errors: SC_EINVAL (*err filled), SC_ENOMEM. *out is NULL after one. err is not NULL. */
sc_status sc_json_read(struct cJSON **out, const char *text, size_t n, size_t max_bytes, sc_json_error *err);

/* Offset of the first byte that is not strict UTF-8 (RFC 3629), or n when all is well. */
size_t sc_text_bad_utf8(const char *s, size_t n);

/* Offset of the first byte that a prompt must not have: not UTF-8, NUL, a C0 control other than tab and newline, DEL; or n. */
size_t sc_text_bad_prompt(const char *s, size_t n);

#endif

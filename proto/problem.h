/* problem.h - what the daemon says when it says no: RFC 9457 documents.
 *
 * {"type":"about:blank","title":"Unprocessable Content","status":422,"detail":"...","instance":"/v1/sessions",
 *  "errors":[{"pointer":"/fps","detail":"must be 1 to 60, found 0"}]}
 *
 * `type` is about:blank, so `title` is the status' own phrase; `detail` is the sentence for people, `errors` names the fields
 * (RFC 6901 pointers; "" is the whole body). The same document travels in the WebSocket message `error`.
 * A plain struct without pointers: keep it on the stack, copy it freely. Any thread. */
#ifndef SC_PROTO_PROBLEM_H
#define SC_PROTO_PROBLEM_H
#include "proto/json_out.h"
#include <stdbool.h>
#include <stddef.h>

enum { SC_PROBLEM_ERRORS_MAX = 16 };

#define SC_PROBLEM_MEDIA_TYPE "application/problem+json"

typedef struct {
    char pointer[96];
    char detail[256];
} sc_field_error;

typedef struct {
    int status;          /* HTTP status; 0: no problem */
    char detail[512];
    char instance[128];  /* "" is left out */
    int count;           /* of errors; further ones are only counted in `more` */
    int more;
    sc_field_error errors[SC_PROBLEM_ERRORS_MAX];
} sc_problem;

/* "Not Found" for 404 and so on; "Error" for a status that is not listed. */
const char *sc_problem_title(int status);

/* Forget what was there; status and detail are set. Bytes that do not fit are cut between characters. */
void sc_problem_set(sc_problem *p, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Add a field error. The first one sets status 422 and a detail that names the field, unless a status is set already. */
void sc_problem_add(sc_problem *p, const char *pointer, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Write the document as a value called `name` (NULL: bare). */
void sc_problem_write(sc_json_out *o, const char *name, const sc_problem *p);

/* The document as text: owned, free(); size in *n (may be NULL). `instance` (may be NULL) overrides the struct's.
 * NULL when memory ran out. */
char *sc_problem_json(const sc_problem *p, const char *instance, size_t *n);

#endif

/* saved_text.h - the words of a snapshot's file (snapshot_file.h): a line for the session, then all lines of its log. Any thread. */
#ifndef SC_SERVER_SAVED_TEXT_H
#define SC_SERVER_SAVED_TEXT_H
#include "proto/saved.h"
#include "server/session_log.h"

typedef struct {
    sc_saved saved;
    sc_program *schedule;      /* what is to come of it; owned, or NULL */
    sc_session_log *log;       /* owned */
} sc_saved_text;

/* Owned, free(); schedule: a body of PUT, or NULL. NULL: out of memory. */
char *sc_saved_text_write(const sc_saved *saved, const char *schedule, size_t schedule_bytes, sc_session_log *log, size_t *n);

/* Errors: SC_EINVAL with the line that is wrong, SC_ENOMEM. *out is empty after one. */
sc_status sc_saved_text_read(const char *text, size_t n, sc_saved_text *out, sc_error *err);
void sc_saved_text_free(sc_saved_text *t);

#endif

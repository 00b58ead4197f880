/* session_log.h - what a session has written down (proto/log_line.h), as much of it as is kept.
 *
 *     engine thread --add-->  [session]  notes: prompts, forks, the end   --next(after)-->  HTTP thread: GET /log, GET /events
 *                                        chunks: their hashes
 *
 * Memory. A log keeps 1 MiB, and its first line besides. A chunk takes 48 bytes, a prompt its own length and some: hours of chunks, but a stream has no
 * end. When there is no room the oldest hashes of chunks go first, 128 at a time: without them a replay still makes the same stream, it only does not
 * compare so much of it. Prompts go, oldest first, when no hash is left (there were more than 250 of the longest); then nobody can make the stream
 * again, and the log says so. Numbers of events go on whatever is dropped, so a reader sees a gap, and it is told of it: `next` gives a line "lost"
 * for it. What finds no memory is dropped at once, as if it had been there.
 *
 * A reader holds nothing but the number of the event that it has read last: it cannot hold back the log, and a slow one finds a gap.
 * Any thread may read; all that writes is one thread, the engine's. */
#ifndef SC_SERVER_SESSION_LOG_H
#define SC_SERVER_SESSION_LOG_H
#include "base/status.h"
#include "proto/log_line.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SC_SESSION_LOG_BYTES = 1 << 20 };

typedef struct sc_session_log sc_session_log;

/* Empty; keeps `bytes` besides its first line. NULL: out of memory. */
sc_session_log *sc_session_log_create(size_t bytes);
void sc_session_log_destroy(sc_session_log *log); /* NULL is fine */

/* The next event: it gets its number. The first one is a session, which comes once; lines that are lost are not for adding. */
void sc_session_log_add(sc_session_log *log, const sc_log_line *line);

/* All of `from` into an empty log: a fork's past. SC_ENOMEM: the log is as it was. */
sc_status sc_session_log_copy(sc_session_log *log, const sc_session_log *from, sc_error *err);

/* A line of another log, in its order, with its number; gaps too. False: it does not follow on what is there, and the log is as it was. */
bool sc_session_log_load(sc_session_log *log, const sc_log_line *line);

/* The event behind `after` (0: the first), or the gap that begins there. False: there is none yet. */
bool sc_session_log_next(sc_session_log *log, uint64_t after, sc_log_line *out);

uint64_t sc_session_log_newest(sc_session_log *log, bool *ended); /* number of the newest event, 0: none; whether that is the end */

#endif

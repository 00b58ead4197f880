/* log.h - one line per event to stderr, key=value; journald adds the time.
 *
 * error = a person should look, warn = handled, info = state changes, debug = per chunk. Any thread. */
#ifndef SC_BASE_LOG_H
#define SC_BASE_LOG_H

typedef enum { SC_LOG_ERROR, SC_LOG_WARN, SC_LOG_INFO, SC_LOG_DEBUG } sc_log_level;

/* Lines above this level are dropped. Default SC_LOG_INFO. */
void sc_log_set_level(sc_log_level level);

/* sc_log(SC_LOG_INFO, "engine", "session=%s chunk=%llu took_ms=%.1f", ...). Bytes below 0x20 of the text print as '?', so
 * that what a client sent cannot forge a line. */
void sc_log(sc_log_level level, const char *module, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif

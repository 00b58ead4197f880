/* saved_text.c - see saved_text.h. */
#include "server/saved_text.h"
#include <stdlib.h>
#include <string.h>

typedef struct { char *data; size_t n, room; } text;

/* A line, or what was asked for. */
static bool append(text *t, const char *line, size_t n) {
    if (t->room - t->n < n + 1) {
        const size_t room = 2 * t->room + n + 1;
        char *more = realloc(t->data, room);
        if (!more) return false;
        t->data = more;
        t->room = room;
    }
    memcpy(t->data + t->n, line, n);
    t->data[t->n + n] = '\n';
    t->n += n + 1;
    return true;
}

char *sc_saved_text_write(const sc_saved *saved, const char *schedule, size_t schedule_bytes, sc_session_log *log, size_t *n) {
    char *buf = malloc(SC_LOG_LINE_MAX), *head;
    sc_log_line *line = malloc(sizeof *line);
    text t = {NULL, 0, 0};
    sc_json_out o;
    size_t bytes;

    sc_json_out_grow(&o);
    sc_saved_write(&o, saved, schedule, schedule_bytes);
    head = sc_json_out_take(&o, &bytes);
    bool good = buf && line && head && append(&t, head, bytes);
    for (uint64_t after = 0; good && sc_session_log_next(log, after, line); after = line->kind == SC_LINE_LOST ? line->last : line->event) {
        sc_json_out_init(&o, buf, SC_LOG_LINE_MAX);
        sc_log_line_write(&o, line);
        good = append(&t, buf, sc_json_out_size(&o));
    }
    free(head);
    free(line);
    free(buf);
    if (!good) free(t.data);
    *n = t.n;
    return good ? t.data : NULL;
}

void sc_saved_text_free(sc_saved_text *t) {
    sc_program_release(t->schedule);
    sc_session_log_destroy(t->log);
    memset(t, 0, sizeof *t);
}

static sc_status wrong(const sc_problem *p, int number, sc_error *err) {
    return p->status == 500 ? sc_fail(err, SC_ENOMEM, "snapshot: out of memory") : sc_fail(err, SC_EINVAL, "snapshot: line %d: %s", number, p->detail);
}

static sc_status read_line(sc_saved_text *out, const char *s, size_t n, int number, sc_log_line *line, sc_error *err) {
    sc_problem p = {0};

    if (number == 1) return sc_saved_read(s, n, &out->saved, &out->schedule, &p) ? SC_OK : wrong(&p, number, err);
    if (!sc_log_line_read(s, n, line, &p)) return wrong(&p, number, err);
    if (line->kind == SC_LINE_END || !sc_session_log_load(out->log, line)) return sc_fail(err, SC_EINVAL, "snapshot: line %d: this does not follow on the line before", number);
    return SC_OK;
}

sc_status sc_saved_text_read(const char *s, size_t n, sc_saved_text *out, sc_error *err) {
    sc_log_line *line = malloc(sizeof *line);
    bool ended;
    int number = 0;
    sc_status rc = SC_OK;

    memset(out, 0, sizeof *out);
    if (!line || !(out->log = sc_session_log_create(SC_SESSION_LOG_BYTES))) rc = sc_fail(err, SC_ENOMEM, "snapshot: out of memory");
    for (size_t at = 0; at < n && !rc;) {
        const char *end = memchr(s + at, '\n', n - at);
        if (!end) rc = sc_fail(err, SC_EINVAL, "snapshot: line %d is not whole", number + 1);
        else rc = read_line(out, s + at, (size_t)(end - s) - at, ++number, line, err);
        if (!rc) at = (size_t)(end - s) + 1;
    }
    if (!rc && (number < 2 || !sc_session_log_newest(out->log, &ended))) rc = sc_fail(err, SC_EINVAL, "snapshot: it has no log");
    free(line);
    if (rc) sc_saved_text_free(out);
    return rc;
}

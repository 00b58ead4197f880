/* http_log.c - the log of a session: as JSON lines, as far as it goes now, or as server-sent events, as it is written.
 *
 * Both read line by line behind the number of the event they had last (session_log.h), so an answer takes the memory of one line however long the log
 * is, and holds nothing of it back. Last-Event-ID is such a number: the stream of events goes on behind it. What is not kept any more is a "lost" event
 * that says from where to where; a reader that is slower than the stream for hours gets the same.
 *
 * With nothing new the connection is suspended, and resumed when an event is written (http_feed.c). A
 * comment goes out every HEARTBEAT_NS in which nothing else does, so that proxies keep the connection and a reader that is gone is noticed. The end of the
 * session ends the stream behind its "end" event. A browser then asks again: 204, which tells it to leave it at that, or 404. */
#include "server/http_internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/metrics.h"
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 32768 };
static const uint64_t HEARTBEAT_NS = 10000000000u;

struct log_reader {
    struct feed feed;
    bool events;            /* or lines */
    uint64_t after, last;   /* the event it had; of lines: the one it ends with */
    char *text;             /* being sent, NULL: nothing is */
    size_t text_n, at;
};

typedef enum { GOT, NOTHING_YET, OVER } outcome;

static char *text_of(const struct log_reader *r, const sc_log_line *l, size_t *n) {
    sc_json_out o;
    sc_json_out_grow(&o);
    sc_log_line_write(&o, l);
    char *json = sc_json_out_take(&o, n), *text = json ? malloc(*n + 96) : NULL;
    int head = 0;
    if (text && r->events) head = snprintf(text, 96, "id: %llu\nevent: %s\ndata: ", (unsigned long long)r->after, sc_log_line_kind_name(l->kind));
    if (text) {
        memcpy(text + head, json, *n);
        memcpy(text + head + *n, "\n\n", 2);
        *n += (size_t)head + (r->events ? 2 : 1);
    }
    free(json);
    return text;
}

/* The next thing to send. OVER also when there is no memory for it: a reader of events comes again and goes on where it was. */
static outcome next_text(struct log_reader *r) {
    sc_session_log *log = sc_channel_log(r->feed.channel);
    const uint64_t had = r->after;
    sc_log_line l;
    bool ended;
    if (!r->events && r->after >= r->last) return OVER;
    if (!sc_session_log_next(log, r->after, &l)) return (sc_session_log_newest(log, &ended) == r->after && ended) || sc_channel_closed(r->feed.channel) ? OVER : NOTHING_YET;
    if (l.kind == SC_LINE_LOST && !r->events && l.last > r->last) l.last = r->last;
    r->after = l.kind == SC_LINE_LOST ? l.last : l.event;
    r->text = text_of(r, &l, &r->text_n);
    r->at = 0;
    if (!r->text) r->after = had;
    return r->text ? GOT : OVER;
}

/* Nothing is there to be sent. Looked at once more under the lock: what is written after that resumes it. */
static outcome wait_for_text(struct log_reader *r) {
    const uint64_t now = sc_now_ns();
    pthread_mutex_lock(&r->feed.http->lock);
    outcome what = next_text(r);
    if (what == NOTHING_YET && now - r->feed.wrote_ns >= HEARTBEAT_NS && (r->text = strdup(":\n\n"))) {
        r->text_n = 3;
        r->at = 0;
        what = GOT;
    }
    if (what == NOTHING_YET) http_feed_suspend(&r->feed);
    pthread_mutex_unlock(&r->feed.http->lock);
    return what;
}

static ssize_t reader(void *cls, uint64_t pos, char *buf, size_t max) {
    struct log_reader *r = cls;
    size_t n = 0;
    (void)pos;
    while (n < max) {
        outcome what = r->text ? GOT : next_text(r);
        if (what == NOTHING_YET && !n) what = wait_for_text(r);
        if (what == OVER && !n) return MHD_CONTENT_READER_END_OF_STREAM;
        if (what != GOT) break;
        const size_t left = r->text_n - r->at, part = left < max - n ? left : max - n;
        memcpy(buf + n, r->text + r->at, part);
        n += part;
        if ((r->at += part) < r->text_n) break;
        free(r->text);
        r->text = NULL;
    }
    if (n) r->feed.wrote_ns = sc_now_ns();
    return (ssize_t)n;
}

static void reader_free(void *cls) {
    struct log_reader *r = cls;
    http_feed_end(&r->feed.http->log_readers, &r->feed);
    if (r->events) {
        SC_COUNT(event_readers, -1);
        sc_log(SC_LOG_INFO, "http", "session=%s reader of events left", sc_channel_id(r->feed.channel));
    }
    sc_channel_release(r->feed.channel);
    free(r->text);
    free(r);
}

void http_log_written(sc_http *h, sc_channel *c) { http_feeds_resume(h, &h->log_readers, c, UINT64_MAX); }
void http_log_tick(sc_http *h) { http_feeds_resume(h, &h->log_readers, NULL, sc_now_ns() - HEARTBEAT_NS); }

/* False: *answer is a refusal. */
static bool place_of(struct sc_request *r, sc_channel *c, uint64_t *after, enum MHD_Result *answer) {
    const char *given = http_header(r, "Last-Event-ID");
    bool ended;
    const uint64_t newest = sc_session_log_newest(sc_channel_log(c), &ended);
    *after = 0;
    if (given && *given) { /* an empty one is none */
        const size_t n = strlen(given);
        *after = strtoull(given, NULL, 10);
        if (n > 18 || strspn(given, "0123456789") != n || *after > newest) {
            char detail[128];
            snprintf(detail, sizeof detail, "Last-Event-ID must be the number of an event of this session; the newest is %llu.", (unsigned long long)newest);
            *answer = http_problem(r, 400, detail);
            return false;
        }
    }
    if (!ended || *after < newest) return true;
    *answer = http_answer(r, 204, NULL, "", 0, ANSWER_CONSTANT);
    return false;
}

static enum MHD_Result answer_log(struct sc_request *r, bool events, const char *type) {
    sc_http *h = r->http;
    sc_channel *c = r->session[0] ? sc_hub_find(h->o.hub, r->session) : NULL;
    enum MHD_Result refusal = MHD_NO;
    uint64_t after = 0;
    bool ended, good = c != NULL;
    if (!good) refusal = http_problem(r, 404, "There is no such session.");
    else if (events && !place_of(r, c, &after, &refusal)) good = false;
    else if (!strcmp(r->method, "HEAD")) good = false, refusal = http_answer(r, 200, type, "", 0, ANSWER_CONSTANT);
    else if (events && atomic_load(&sc_count.event_readers) >= h->o.max_viewers)
        good = false, refusal = http_problem(r, 503, "All places for readers of events are taken.");
    struct log_reader *l = good ? calloc(1, sizeof *l) : NULL;
    struct MHD_Response *response = l ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, reader, l, reader_free) : NULL;
    if (!response) {
        sc_channel_release(c);
        free(l);
        return good ? http_problem(r, 503, "Out of memory; try again later.") : refusal;
    }
    *l = (struct log_reader){.feed = {.http = h, .connection = r->connection, .channel = c /* moved */, .wrote_ns = sc_now_ns()}, .events = events, .after = after,
                             .last = sc_session_log_newest(sc_channel_log(c), &ended)};
    http_feed_begin(&h->log_readers, &l->feed);
    if (events) {
        SC_COUNT(event_readers, 1);
        sc_log(SC_LOG_INFO, "http", "session=%s reader of events after=%llu", sc_channel_id(c), (unsigned long long)after);
    }
    return http_send(r, 200, response, type);
}

enum MHD_Result http_get_log(struct sc_request *r) { return answer_log(r, false, "application/jsonl"); }
enum MHD_Result http_get_events(struct sc_request *r) { return answer_log(r, true, "text/event-stream"); }

/* http_pictures.c - the newest frame as a JPEG, and all of them as Motion-JPEG (multipart/x-mixed-replace).
 *
 * A Motion-JPEG viewer takes frames as a WebSocket viewer does: when its socket can take something, the newest one. With nothing newer the
 * connection is suspended, and resumed when the hub releases a frame (http_feed.c). A boundary
 * is sent right behind a picture: browsers show it when they see that. */
#include "server/http_internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/metrics.h"
#include <stdlib.h>
#include <string.h>

#define BOUNDARY "sparsecast-frame"
enum { BLOCK = 32768, SNDBUF = 65536 };

struct motion {
    struct feed feed;
    sc_frame *frame;        /* being sent; NULL: none */
    size_t at, head_n;      /* of head, picture and boundary together */
    char head[256];
    int64_t last;
};

static const char tail[] = "\r\n--" BOUNDARY "\r\n";

enum MHD_Result http_get_snapshot(struct sc_request *r) {
    char number[32];
    sc_channel *c = r->session[0] ? sc_hub_find(r->http->o.hub, r->session) : NULL;
    if (!c) return http_problem(r, 404, "There is no such session.");
    sc_frame *f = sc_channel_newest(c);
    sc_channel_release(c);
    if (!f) return http_problem(r, 503, "The first frame is being made.");
    struct MHD_Response *response = http_response(sc_frame_jpeg(f), f->jpeg_bytes, ANSWER_COPY);
    snprintf(number, sizeof number, "%llu", (unsigned long long)f->head.frame);
    sc_frame_release(f);
    if (!response) return MHD_NO;
    MHD_add_response_header(response, "X-Frame", number);
    return http_send(r, 200, response, "image/jpeg");
}

static bool over(sc_channel *c) {
    sc_channel_view view;
    if (sc_channel_closed(c)) return true;
    sc_channel_read(c, &view, sc_now_ns());
    return view.facts.state == SC_STATE_FAILED;
}

static bool next_frame(struct motion *m) {
    sc_frame *f = sc_channel_newest(m->feed.channel);
    if (!f || (int64_t)f->head.frame <= m->last) { sc_frame_release(f); return false; }
    uint64_t gap = m->last >= 0 ? (uint64_t)((int64_t)f->head.frame - m->last - 1) : 0;
    int n = snprintf(m->head, sizeof m->head, "%sContent-Type: image/jpeg\r\nContent-Length: %zu\r\nX-Frame: %llu\r\nX-Pts-Us: %llu\r\n\r\n",
                     m->last < 0 ? "--" BOUNDARY "\r\n" : "", f->jpeg_bytes, (unsigned long long)f->head.frame, (unsigned long long)f->head.pts_us);
    m->head_n = (size_t)n;
    m->at = 0;
    m->last = (int64_t)f->head.frame;
    m->frame = f;
    sc_channel_count(m->feed.channel, 1, gap);
    SC_COUNT(bytes_sent, f->jpeg_bytes);
    return true;
}

/* Copy what fits of a part of the whole that begins at *base. */
static size_t copy_part(struct motion *m, size_t *base, const void *part, size_t part_n, char *buf, size_t room) {
    size_t from = *base;
    *base += part_n;
    if (m->at < from || m->at >= *base || !room) return 0;
    size_t left = *base - m->at, n = left < room ? left : room;
    memcpy(buf, (const char *)part + (m->at - from), n);
    m->at += n;
    return n;
}

static ssize_t reader(void *cls, uint64_t pos, char *buf, size_t max) {
    struct motion *m = cls;
    (void)pos;
    if (!m->frame && !next_frame(m)) {
        if (over(m->feed.channel)) return MHD_CONTENT_READER_END_OF_STREAM;
        pthread_mutex_lock(&m->feed.http->lock);
        bool got = next_frame(m) || over(m->feed.channel);
        if (!got) http_feed_suspend(&m->feed);
        pthread_mutex_unlock(&m->feed.http->lock);
        if (!m->frame) return got ? MHD_CONTENT_READER_END_OF_STREAM : 0;
    }
    size_t n = 0, base = 0;
    n += copy_part(m, &base, m->head, m->head_n, buf + n, max - n);
    n += copy_part(m, &base, sc_frame_jpeg(m->frame), m->frame->jpeg_bytes, buf + n, max - n);
    n += copy_part(m, &base, tail, sizeof tail - 1, buf + n, max - n);
    if (m->at == base) {
        sc_frame_release(m->frame);
        m->frame = NULL;
    }
    return (ssize_t)n;
}

static void reader_free(void *cls) {
    struct motion *m = cls;
    http_feed_end(&m->feed.http->motions, &m->feed);
    sc_channel_viewer(m->feed.channel, -1, false, sc_now_ns());
    sc_log(SC_LOG_INFO, "http", "session=%s motion-jpeg viewer left", sc_channel_id(m->feed.channel));
    sc_frame_release(m->frame);
    sc_channel_release(m->feed.channel);
    free(m);
}

void http_motions_released(sc_http *h, sc_channel *c) { http_feeds_resume(h, &h->motions, c, UINT64_MAX); }

enum MHD_Result http_get_motion(struct sc_request *r) {
    static const char type[] = "multipart/x-mixed-replace; boundary=" BOUNDARY;
    sc_http *h = r->http;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    const int bytes = SNDBUF; /* otherwise the kernel hides seconds of pictures in front of a slow viewer */
    sc_channel *c = r->session[0] ? sc_hub_find(h->o.hub, r->session) : NULL;
    if (!c) return http_problem(r, 404, "There is no such session.");
    if (!strcmp(r->method, "HEAD") || atomic_load(&sc_count.viewers) >= h->o.max_viewers) {
        sc_channel_release(c);
        return !strcmp(r->method, "HEAD") ? http_answer(r, 200, type, "", 0, ANSWER_CONSTANT) : http_problem(r, 503, "All places for viewers are taken.");
    }
    struct motion *m = calloc(1, sizeof *m);
    struct MHD_Response *response = m ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, reader, m, reader_free) : NULL;
    if (!response) {
        sc_channel_release(c);
        free(m);
        return http_problem(r, 503, "Out of memory; try again later.");
    }
    if (info) setsockopt(info->connect_fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    m->feed = (struct feed){.http = h, .connection = r->connection, .channel = c /* moved */};
    m->last = -1;
    http_feed_begin(&h->motions, &m->feed);
    sc_channel_viewer(c, 1, false, sc_now_ns());
    sc_log(SC_LOG_INFO, "http", "session=%s motion-jpeg viewer", sc_channel_id(c));
    return http_send(r, 200, response, type);
}

/* http_feed.c - connections that are answered bit by bit: Motion-JPEG and events. With nothing to send one is suspended, and resumed when there is; both
 * under http->lock, so that neither misses the other. */
#include "server/http_internal.h"

void http_feed_begin(struct feed **list, struct feed *f) {
    pthread_mutex_lock(&f->http->lock);
    f->next = *list;
    *list = f;
    pthread_mutex_unlock(&f->http->lock);
}

void http_feed_end(struct feed **list, struct feed *f) {
    pthread_mutex_lock(&f->http->lock);
    for (struct feed **p = list; *p; p = &(*p)->next)
        if (*p == f) { *p = f->next; break; }
    pthread_mutex_unlock(&f->http->lock);
}

void http_feed_suspend(struct feed *f) {
    f->suspended = true;
    MHD_suspend_connection(f->connection);
}

void http_feeds_resume(sc_http *h, struct feed *const *list, const sc_channel *c, uint64_t silent_since_ns) {
    pthread_mutex_lock(&h->lock);
    for (struct feed *f = *list; f; f = f->next) {
        if (!f->suspended || (c && f->channel != c) || f->wrote_ns > silent_since_ns) continue;
        f->suspended = false;
        MHD_resume_connection(f->connection);
    }
    pthread_mutex_unlock(&h->lock);
}

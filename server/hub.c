/* hub.c - see hub.h. Callbacks run after the lock is let go: what they need is copied out first. */
#include "server/hub.h"
#include "server/metrics.h"
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { HUB_CHANNELS = 256, LATE_TOLERANCE_NS = 4000000 };

typedef enum { NOTE_FREE, NOTE_RECEIVED, NOTE_APPLIED } note_state;
struct note {
    note_state state;
    uint32_t seq;
    char *text;
    size_t n;
    uint64_t chunk, received_ns, viewer;
    sc_wire_transition transition;
    char ref[SC_REF_MAX + 1];
};

struct sc_hub {
    pthread_mutex_t lock;
    sc_hub_listener on;
    sc_channel *channels[HUB_CHANNELS]; /* guarded by lock, like all of a channel but refs, id and hub */
    int count;
};

struct sc_channel {
    atomic_int refs;
    sc_hub *hub;
    char id[SC_ID_CHARS + 1];
    bool closed;
    sc_frame *queue[SC_CHANNEL_FRAMES_MAX];
    int head, queued, room, expected;
    sc_frame *newest;
    uint64_t period_ns, next_ns;
    bool paused, run_alone;
    int viewers, streams, quality_cap;
    uint64_t seen_ns, sent, dropped;
    uint32_t shown_seq;
    atomic_uint waiting_notes;
    sc_facts facts;
    sc_program *program;
    sc_session_log *log;        /* never another one; has a lock of its own */
    sc_window encode;
    struct note notes[SC_CHANNEL_NOTES];
};

sc_frame *sc_frame_create(const sc_frame_header *head, const void *jpeg, size_t n) {
    sc_frame *f = malloc(sizeof *f + SC_FRAME_HEADROOM + SC_FRAME_HEADER_BYTES + n);
    if (!f) return NULL;
    atomic_init(&f->refs, 1);
    f->head = *head;
    f->ready_ns = 0;
    f->jpeg_bytes = n;
    memset(f->bytes, 0, SC_FRAME_HEADROOM);
    sc_frame_header_write(sc_frame_message(f), head);
    memcpy(sc_frame_message(f) + SC_FRAME_HEADER_BYTES, jpeg, n);
    return f;
}

sc_frame *sc_frame_retain(sc_frame *f) {
    if (f) atomic_fetch_add(&f->refs, 1);
    return f;
}

void sc_frame_release(sc_frame *f) {
    if (f && atomic_fetch_sub(&f->refs, 1) == 1) free(f);
}

const char *sc_state_name(sc_state s) {
    static const char *const names[] = {"starting", "running", "paused", "ended", "failed"};
    return names[s];
}

sc_program_clock sc_facts_clock(const sc_facts *f) {
    return (sc_program_clock){.chunk = (uint64_t)(f->chunk + 1), .pts_us = f->pts_us, .fps = f->fps, .frames_first = f->first_frames,
                              .frames_chunk = f->chunk_frames};
}

sc_hub *sc_hub_create(void) {
    sc_hub *h = calloc(1, sizeof *h);
    if (h) pthread_mutex_init(&h->lock, NULL);
    return h;
}

void sc_hub_destroy(sc_hub *h) {
    if (!h) return;
    assert(h->count == 0);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

void sc_hub_listen(sc_hub *h, const sc_hub_listener *l) { h->on = *l; }

static void wake_frames(sc_hub *h) { if (h->on.frames) h->on.frames(h->on.ctx); }
static void say(sc_channel *c, uint64_t viewer, bool all_but, const char *text, size_t n) {
    if (c->hub->on.say && n) c->hub->on.say(c->hub->on.ctx, c, viewer, all_but, text, n);
}

void sc_hub_say(sc_hub *h, sc_channel *c, uint64_t viewer, bool all_but, const char *text, size_t n) {
    (void)h;
    say(c, viewer, all_but, text, n);
}

sc_channel *sc_channel_create(sc_hub *h, const char *id, int fps, int frames_max, const sc_facts *facts, sc_session_log *log, uint64_t now_ns) {
    sc_channel *c = calloc(1, sizeof *c);
    if (!c) {
        sc_session_log_destroy(log);
        return NULL;
    }
    c->log = log;
    atomic_init(&c->refs, 2); /* the hub's and the caller's */
    c->hub = h;
    memcpy(c->id, id, strnlen(id, SC_ID_CHARS));
    c->room = frames_max < 1 ? 1 : frames_max > SC_CHANNEL_FRAMES_MAX ? SC_CHANNEL_FRAMES_MAX : frames_max;
    c->period_ns = 1000000000u / (uint64_t)fps;
    c->next_ns = c->seen_ns = now_ns;
    c->facts = *facts;
    c->shown_seq = 0;
    pthread_mutex_lock(&h->lock);
    bool fits = h->count < HUB_CHANNELS;
    if (fits) h->channels[h->count++] = c;
    pthread_mutex_unlock(&h->lock);
    if (!fits) {
        sc_session_log_destroy(log);
        free(c);
        return NULL;
    }
    SC_COUNT(sessions, 1);
    return c;
}

sc_channel *sc_channel_retain(sc_channel *c) {
    if (c) atomic_fetch_add(&c->refs, 1);
    return c;
}

void sc_channel_release(sc_channel *c) {
    if (!c || atomic_fetch_sub(&c->refs, 1) != 1) return;
    for (int i = 0; i < c->queued; i++) sc_frame_release(c->queue[(c->head + i) % SC_CHANNEL_FRAMES_MAX]);
    sc_frame_release(c->newest);
    for (int i = 0; i < SC_CHANNEL_NOTES; i++) free(c->notes[i].text);
    sc_program_release(c->program);
    sc_session_log_destroy(c->log);
    free(c);
}

const char *sc_channel_id(const sc_channel *c) { return c->id; }

sc_channel *sc_hub_find(sc_hub *h, const char *id) {
    sc_channel *found = NULL;
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->count && !found; i++)
        if (!strcmp(h->channels[i]->id, id)) found = sc_channel_retain(h->channels[i]);
    pthread_mutex_unlock(&h->lock);
    return found;
}

int sc_hub_list(sc_hub *h, sc_channel **out, int max) {
    int n = 0;
    pthread_mutex_lock(&h->lock);
    for (; n < h->count && n < max; n++) out[n] = sc_channel_retain(h->channels[n]);
    pthread_mutex_unlock(&h->lock);
    return n;
}

void sc_channel_close(sc_channel *c, int code, const char *reason) {
    sc_hub *h = c->hub;
    bool was_in = false;
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->count; i++) {
        if (h->channels[i] != c) continue;
        memmove(&h->channels[i], &h->channels[i + 1], sizeof *h->channels * (size_t)(h->count - i - 1));
        h->count--;
        was_in = true;
        break;
    }
    c->closed = true;
    pthread_mutex_unlock(&h->lock);
    if (!was_in) return;
    SC_COUNT(sessions, -1);
    if (h->on.closed) h->on.closed(h->on.ctx, c, code, reason);
    if (h->on.shown) h->on.shown(h->on.http_ctx, c, UINT32_MAX);
    if (h->on.released) h->on.released(h->on.http_ctx, c);
    if (h->on.logged) h->on.logged(h->on.http_ctx, c);
    sc_channel_release(c);
}

void sc_channel_kick(sc_channel *c, int code, const char *reason) {
    sc_hub *h = c->hub;
    if (h->on.closed) h->on.closed(h->on.ctx, c, code, reason);
    if (h->on.shown) h->on.shown(h->on.http_ctx, c, UINT32_MAX);
    if (h->on.released) h->on.released(h->on.http_ctx, c);
}

bool sc_channel_closed(sc_channel *c) {
    pthread_mutex_lock(&c->hub->lock);
    bool closed = c->closed;
    pthread_mutex_unlock(&c->hub->lock);
    return closed;
}

void sc_channel_publish(sc_channel *c, const sc_facts *facts) {
    pthread_mutex_lock(&c->hub->lock);
    c->facts = *facts;
    pthread_mutex_unlock(&c->hub->lock);
}

void sc_channel_set_program(sc_channel *c, sc_program *program, const sc_facts *facts) {
    sc_program *old = c->program; /* the engine thread's alone to change */
    sc_program_retain(program);
    pthread_mutex_lock(&c->hub->lock);
    c->program = program;
    c->facts = *facts;
    pthread_mutex_unlock(&c->hub->lock);
    sc_program_release(old);
}

sc_program *sc_channel_program(sc_channel *c, sc_facts *facts) {
    pthread_mutex_lock(&c->hub->lock);
    sc_program *program = sc_program_retain(c->program);
    *facts = c->facts;
    pthread_mutex_unlock(&c->hub->lock);
    return program;
}

sc_session_log *sc_channel_log(const sc_channel *c) { return c->log; }

void sc_channel_record(sc_channel *c, const sc_log_line *line) {
    sc_session_log_add(c->log, line);
    if (c->hub->on.logged) c->hub->on.logged(c->hub->on.http_ctx, c);
}

static bool playing(const sc_channel *c) { return !c->closed && !c->paused && (c->viewers > 0 || c->run_alone); }

static uint64_t dry(const sc_channel *c, uint64_t now_ns) {
    int buffered = c->queued + c->expected;
    uint64_t from = c->next_ns;
    if (buffered && from < now_ns) from = now_ns;
    return from + (uint64_t)buffered * c->period_ns;
}

void sc_channel_read(sc_channel *c, sc_channel_view *out, uint64_t now_ns) {
    pthread_mutex_lock(&c->hub->lock);
    out->facts = c->facts;
    out->frame = c->newest ? (int64_t)c->newest->head.frame : -1;
    out->viewers = c->viewers;
    out->sent = c->sent;
    out->dropped = c->dropped;
    uint64_t end = dry(c, now_ns);
    out->lookahead_ns = c->queued + c->expected && end > now_ns ? end - now_ns : 0;
    out->encode.p50_ms = (double)sc_window_quantile(&c->encode, 0.5) * 1e-6;
    out->encode.p95_ms = (double)sc_window_quantile(&c->encode, 0.95) * 1e-6;
    pthread_mutex_unlock(&c->hub->lock);
}

void sc_channel_set_fps(sc_channel *c, int fps) {
    pthread_mutex_lock(&c->hub->lock);
    c->period_ns = 1000000000u / (uint64_t)fps;
    pthread_mutex_unlock(&c->hub->lock);
}

/* Playback goes on where it stood: the moment of the hold does not count as lateness. */
static void resume_clock(sc_channel *c, bool was_playing, uint64_t now_ns) {
    if (!was_playing && playing(c) && c->next_ns < now_ns) c->next_ns = now_ns;
}

void sc_channel_set_play(sc_channel *c, bool paused, bool run_alone, uint64_t now_ns) {
    pthread_mutex_lock(&c->hub->lock);
    bool was = playing(c);
    c->paused = paused;
    c->run_alone = run_alone;
    resume_clock(c, was, now_ns);
    pthread_mutex_unlock(&c->hub->lock);
    wake_frames(c->hub);
}

void sc_channel_hold_until(sc_channel *c, uint64_t ns) {
    pthread_mutex_lock(&c->hub->lock);
    if (c->next_ns < ns) c->next_ns = ns;
    pthread_mutex_unlock(&c->hub->lock);
}

void sc_channel_expect(sc_channel *c, int frames) {
    pthread_mutex_lock(&c->hub->lock);
    c->expected += frames;
    pthread_mutex_unlock(&c->hub->lock);
}

void sc_channel_lost(sc_channel *c, int frames) { sc_channel_expect(c, -frames); }

void sc_channel_push(sc_channel *c, sc_frame *f, uint64_t now_ns, int64_t *lateness_ns) {
    sc_frame *gone = NULL;
    f->ready_ns = now_ns;
    pthread_mutex_lock(&c->hub->lock);
    c->expected--;
    if (lateness_ns) {
        uint64_t slot = c->next_ns + (uint64_t)c->queued * c->period_ns;
        *lateness_ns = (int64_t)(now_ns - slot);
    }
    if (c->queued == c->room) { /* cannot be while the scheduler keeps to its look-ahead */
        gone = c->queue[c->head];
        c->head = (c->head + 1) % SC_CHANNEL_FRAMES_MAX;
        c->queued--;
        c->dropped++;
    }
    c->queue[(c->head + c->queued++) % SC_CHANNEL_FRAMES_MAX] = f;
    pthread_mutex_unlock(&c->hub->lock);
    sc_frame_release(gone);
    SC_COUNT(frames_made, 1);
    wake_frames(c->hub);
}

void sc_channel_note_encode(sc_channel *c, uint64_t ns) {
    pthread_mutex_lock(&c->hub->lock);
    sc_window_add(&c->encode, ns);
    pthread_mutex_unlock(&c->hub->lock);
}

void sc_channel_playout(sc_channel *c, sc_playout *out, uint64_t now_ns) {
    pthread_mutex_lock(&c->hub->lock);
    out->playing = playing(c);
    out->shown_any = c->newest != NULL;
    out->buffered = c->queued + c->expected;
    out->viewers = c->viewers;
    out->dry_ns = out->playing || !c->newest ? dry(c, now_ns) : SC_NEVER;
    out->period_ns = c->period_ns;
    out->seen_ns = c->viewers ? 0 : c->seen_ns;
    out->quality_cap = c->quality_cap;
    pthread_mutex_unlock(&c->hub->lock);
}

/* One frame out of the queue, if due. True: c->newest is new. */
static bool release_one(sc_channel *c, uint64_t now_ns, sc_frame **old) {
    if (!c->queued || (!playing(c) && c->newest)) return false;
    sc_frame *f = c->queue[c->head];
    bool first = !c->newest;
    if (!first && c->next_ns > now_ns) return false;
    c->head = (c->head + 1) % SC_CHANNEL_FRAMES_MAX;
    c->queued--;
    /* Timer jitter must not add up, so the next frame is due one period after this one was due; but when the frame itself came late, or
     * we slept through a whole period, the clock moves: no catching up. */
    bool late = first || f->ready_ns > c->next_ns + LATE_TOLERANCE_NS || now_ns - c->next_ns > c->period_ns;
    uint64_t base = late ? now_ns : c->next_ns;
    if (first && c->next_ns > now_ns) c->next_ns += 0; /* a hold set for the second frame stays */
    else c->next_ns = base + c->period_ns;
    *old = c->newest;
    c->newest = f;
    return true;
}

uint64_t sc_hub_release_due(sc_hub *h, uint64_t now_ns, void (*each)(void *ctx, sc_channel *c), void *ctx) {
    sc_channel *released[HUB_CHANNELS];
    sc_frame *old[HUB_CHANNELS];
    uint32_t seen[HUB_CHANNELS];
    int n = 0;
    uint64_t next = SC_NEVER;

    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->count; i++) {
        sc_channel *c = h->channels[i];
        old[n] = NULL;
        if (release_one(c, now_ns, &old[n])) {
            seen[n] = c->streams ? 0 : c->newest->head.prompt_seq; /* nobody else will say that it was shown */
            released[n++] = sc_channel_retain(c);
        }
        if (c->queued && playing(c) && c->next_ns < next) next = c->next_ns;
    }
    pthread_mutex_unlock(&h->lock);
    for (int i = 0; i < n; i++) {
        sc_frame_release(old[i]);
        if (seen[i]) sc_channel_prompt_shown(released[i], seen[i], now_ns);
        if (each) each(ctx, released[i]);
        if (h->on.released) h->on.released(h->on.http_ctx, released[i]);
        sc_channel_release(released[i]);
    }
    return next;
}

sc_frame *sc_channel_newest(sc_channel *c) {
    pthread_mutex_lock(&c->hub->lock);
    sc_frame *f = sc_frame_retain(c->newest);
    pthread_mutex_unlock(&c->hub->lock);
    return f;
}

void sc_channel_viewer(sc_channel *c, int delta, bool stream, uint64_t now_ns) {
    char text[64];
    pthread_mutex_lock(&c->hub->lock);
    bool was = playing(c);
    c->viewers += delta;
    if (stream) c->streams += delta;
    if (!c->viewers) { c->seen_ns = now_ns; c->quality_cap = 0; }
    resume_clock(c, was, now_ns);
    int count = c->viewers;
    bool closed = c->closed;
    pthread_mutex_unlock(&c->hub->lock);
    SC_COUNT(viewers, delta);
    if (closed) return;
    say(c, 0, false, text, sc_message_viewers(text, sizeof text, count));
    if (c->hub->on.viewers) c->hub->on.viewers(c->hub->on.engine_ctx);
    wake_frames(c->hub);
}

void sc_channel_quality_cap(sc_channel *c, int quality) {
    pthread_mutex_lock(&c->hub->lock);
    c->quality_cap = quality;
    pthread_mutex_unlock(&c->hub->lock);
}

void sc_channel_count(sc_channel *c, uint64_t sent, uint64_t dropped) {
    pthread_mutex_lock(&c->hub->lock);
    c->sent += sent;
    c->dropped += dropped;
    pthread_mutex_unlock(&c->hub->lock);
    SC_COUNT(frames_sent, sent);
    SC_COUNT(frames_dropped, dropped);
}

/* ---- prompts ---- */

static void say_note(sc_channel *c, const struct note *n, sc_prompt_state state) {
    char *buf = malloc(SC_SERVER_MESSAGE_MAX);
    if (!buf) { SC_COUNT(events_lost, 1); return; }
    size_t len = sc_message_prompt(buf, SC_SERVER_MESSAGE_MAX, n->seq, state, n->text, n->n, (int64_t)n->chunk, n->transition, NULL);
    say(c, n->viewer, n->viewer != 0, buf, len);
    if (n->viewer) {
        len = sc_message_prompt(buf, SC_SERVER_MESSAGE_MAX, n->seq, state, n->text, n->n, (int64_t)n->chunk, n->transition, n->ref);
        say(c, n->viewer, false, buf, len);
    }
    free(buf);
}

/* Lock held. Moves the note's content out. */
static void take_note(sc_channel *c, struct note *n, struct note *out) {
    *out = *n;
    memset(n, 0, sizeof *n);
    atomic_fetch_sub(&c->waiting_notes, 1);
}

void sc_channel_prompt_received(sc_channel *c, uint32_t seq, const char *text, size_t n, uint64_t chunk, sc_wire_transition t,
                                const char *ref, uint64_t viewer, uint64_t now_ns) {
    struct note old = {0}, mine = {.state = NOTE_RECEIVED, .seq = seq, .n = n, .chunk = chunk, .received_ns = now_ns, .viewer = viewer,
                                   .transition = t};
    mine.text = malloc(n + 1);
    char *copy = malloc(n + 1);
    if (!mine.text || !copy) { free(mine.text); free(copy); SC_COUNT(events_lost, 1); return; }
    memcpy(mine.text, text, n);
    mine.text[n] = 0;
    memcpy(copy, mine.text, n + 1);
    if (ref) strncpy(mine.ref, ref, sizeof mine.ref - 1);
    pthread_mutex_lock(&c->hub->lock);
    struct note *place = NULL;
    for (int i = 0; i < SC_CHANNEL_NOTES; i++)
        if (c->notes[i].state == NOTE_RECEIVED) take_note(c, &c->notes[i], &old);
    for (int i = 0; i < SC_CHANNEL_NOTES && !place; i++)
        if (c->notes[i].state == NOTE_FREE) place = &c->notes[i];
    if (!place) { /* so many applied and none shown: playback stands; the oldest is no longer news */
        place = &c->notes[0];
        for (int i = 1; i < SC_CHANNEL_NOTES; i++) if (c->notes[i].seq < place->seq) place = &c->notes[i];
        take_note(c, place, &old);
    }
    *place = mine;
    atomic_fetch_add(&c->waiting_notes, 1);
    pthread_mutex_unlock(&c->hub->lock);
    SC_COUNT(prompts, 1);
    if (old.text) {
        SC_COUNT(prompts_superseded, 1);
        say_note(c, &old, SC_PROMPT_SUPERSEDED);
        free(old.text);
    }
    mine.text = copy; /* the note itself may be shown and freed by another thread already */
    say_note(c, &mine, SC_PROMPT_RECEIVED);
    free(copy);
}

void sc_channel_prompt_applied(sc_channel *c, uint32_t seq, uint64_t chunk) {
    struct note copy = {0};
    if (!atomic_load(&c->waiting_notes)) return;
    pthread_mutex_lock(&c->hub->lock);
    for (int i = 0; i < SC_CHANNEL_NOTES; i++) {
        struct note *n = &c->notes[i];
        if (n->state != NOTE_RECEIVED || n->seq != seq) continue;
        n->state = NOTE_APPLIED;
        n->chunk = chunk;
        copy = *n;
        copy.text = malloc(n->n + 1);
        if (copy.text) memcpy(copy.text, n->text, n->n + 1);
    }
    pthread_mutex_unlock(&c->hub->lock);
    if (copy.text) say_note(c, &copy, SC_PROMPT_APPLIED);
    free(copy.text);
}

void sc_channel_prompt_shown(sc_channel *c, uint32_t seq, uint64_t now_ns) {
    struct note done[SC_CHANNEL_NOTES];
    int n = 0;
    bool news = false;
    pthread_mutex_lock(&c->hub->lock);
    if (seq > c->shown_seq) { c->shown_seq = seq; news = true; }
    if (news && atomic_load(&c->waiting_notes))
        for (int i = 0; i < SC_CHANNEL_NOTES; i++)
            if (c->notes[i].state == NOTE_APPLIED && c->notes[i].seq <= seq) take_note(c, &c->notes[i], &done[n++]);
    pthread_mutex_unlock(&c->hub->lock);
    for (int i = 0; i < n; i++) {
        if (done[i].received_ns) sc_metrics_time(SC_TIME_PROMPT_TO_PHOTON, now_ns > done[i].received_ns ? now_ns - done[i].received_ns : 0);
        say_note(c, &done[i], SC_PROMPT_SHOWN);
        free(done[i].text);
    }
    if (news && c->hub->on.shown) c->hub->on.shown(c->hub->on.http_ctx, c, seq);
}

bool sc_channel_prompt_seen(sc_channel *c, uint32_t seq) {
    pthread_mutex_lock(&c->hub->lock);
    bool seen = c->shown_seq >= seq || c->closed;
    pthread_mutex_unlock(&c->hub->lock);
    return seen;
}

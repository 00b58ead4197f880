/* session_log.c - see session_log.h. Two lists, each in the order of events; a reader takes from both the one that comes first. Chunks lie in blocks, so
 * that room is given back and taken in pieces of one size and nothing is moved. */
#include "server/session_log.h"
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_CHUNKS = 128 };

struct chunk {
    uint64_t event, chunk, first_frame;
    uint8_t hash[SC_FRAME_HASH_CHARS / 2];
    int frames;
};

struct block {
    struct block *next;
    int n;
    struct chunk chunk[BLOCK_CHUNKS]; /* oldest first */
};

/* Everything that is no chunk: the part of a line that its kind has. */
struct note {
    struct note *next;
    size_t bytes;       /* of all of it */
    sc_log_line_kind kind;
    uint64_t event, chunk, seed;
    int64_t created;
    uint32_t seq;
    sc_wire_transition transition;
    int blend_chunks;
    char session[SC_ID_CHARS + 1], from[SC_ID_CHARS + 1], state[8];
    size_t text_bytes;
    char text[];        /* prompt, or reason */
};

struct sc_session_log {
    pthread_mutex_t lock;       /* guards all below */
    size_t room, used;
    sc_log_line *session;       /* NULL: nothing was written */
    struct block *blocks, *newest_block;
    struct note *notes, *newest_note;
    uint64_t newest, lost_note; /* number of the newest event; of the newest note that was dropped, 0: none */
    bool ended;
};

sc_session_log *sc_session_log_create(size_t bytes) {
    sc_session_log *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    pthread_mutex_init(&l->lock, NULL);
    l->room = bytes;
    return l;
}

static void drop_block(sc_session_log *l) {
    struct block *b = l->blocks;
    l->blocks = b->next;
    if (!l->blocks) l->newest_block = NULL;
    l->used -= sizeof *b;
    free(b);
}

static void drop_note(sc_session_log *l) {
    struct note *n = l->notes;
    l->notes = n->next;
    if (!l->notes) l->newest_note = NULL;
    l->used -= n->bytes;
    free(n);
}

static void clear(sc_session_log *l) {
    while (l->blocks) drop_block(l);
    while (l->notes) drop_note(l);
    free(l->session);
    l->session = NULL;
}

void sc_session_log_destroy(sc_session_log *l) {
    if (!l) return;
    clear(l);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

/* ---- writing ---- */

static void lose_note(sc_session_log *l, uint64_t event) {
    if (event > l->lost_note) l->lost_note = event;
}

/* Lock held. No note goes while there is a chunk, so what lies before a note that has gone is gone too: one gap. False: there is no room for so much. */
static bool make_room(sc_session_log *l, size_t bytes) {
    while (l->used + bytes > l->room) {
        if (l->blocks) drop_block(l);
        else if (l->notes) {
            lose_note(l, l->notes->event);
            drop_note(l);
        } else return false;
    }
    return true;
}

/* Lock held, and likewise the next ones. */
static void add_chunk(sc_session_log *l, const sc_log_line *line) {
    struct block *b = l->newest_block;
    if (!b || b->n == BLOCK_CHUNKS) {
        if (!make_room(l, sizeof *b) || !(b = calloc(1, sizeof *b))) return;
        if (l->newest_block) l->newest_block->next = b;
        else l->blocks = b;
        l->newest_block = b;
        l->used += sizeof *b;
    }
    struct chunk *c = &b->chunk[b->n++];
    *c = (struct chunk){.event = l->newest, .chunk = line->chunk, .first_frame = line->first_frame, .frames = line->frames};
    for (int i = 0; i < SC_FRAME_HASH_CHARS; i++) {
        const char d = line->hash[i];
        c->hash[i / 2] = (uint8_t)(c->hash[i / 2] << 4 | (d <= '9' ? d - '0' : d - 'a' + 10));
    }
}

static void append_note(sc_session_log *l, struct note *n) {
    n->next = NULL;
    if (l->newest_note) l->newest_note->next = n;
    else l->notes = n;
    l->newest_note = n;
    l->used += n->bytes;
}

static void add_note(sc_session_log *l, const sc_log_line *line) {
    const char *text = line->kind == SC_LINE_END ? line->reason : line->prompt;
    const size_t text_bytes = line->kind == SC_LINE_END ? strlen(line->reason) : line->prompt_bytes, bytes = sizeof(struct note) + text_bytes + 1;
    struct note *n = make_room(l, bytes) ? calloc(1, bytes) : NULL;

    if (!n) {
        lose_note(l, l->newest);
        return;
    }
    *n = (struct note){.bytes = bytes, .kind = line->kind, .event = l->newest, .chunk = line->chunk, .seed = line->seed, .created = line->created,
                       .seq = line->seq, .transition = line->transition, .blend_chunks = line->blend_chunks, .text_bytes = text_bytes};
    memcpy(n->session, line->session, sizeof n->session);
    memcpy(n->from, line->from, sizeof n->from);
    memcpy(n->state, line->state, sizeof n->state);
    memcpy(n->text, text, text_bytes);
    append_note(l, n);
}

void sc_session_log_add(sc_session_log *l, const sc_log_line *line) {
    assert(line->kind != SC_LINE_LOST && (line->kind == SC_LINE_SESSION) == (l->newest == 0)); /* no other thread changes newest */
    pthread_mutex_lock(&l->lock);
    l->newest++;
    l->ended = line->kind == SC_LINE_END;
    if (line->kind == SC_LINE_CHUNK) add_chunk(l, line);
    else if (line->kind != SC_LINE_SESSION) add_note(l, line);
    else if ((l->session = malloc(sizeof *line))) {
        *l->session = *line;
        l->session->event = 1;
    } else lose_note(l, 1);
    pthread_mutex_unlock(&l->lock);
}

bool sc_session_log_load(sc_session_log *l, const sc_log_line *line) {
    if (line->event != l->newest + 1 || (line->kind == SC_LINE_SESSION && l->newest) || l->ended) return false;
    if (line->kind != SC_LINE_LOST) {
        if (!l->newest && line->kind != SC_LINE_SESSION) return false;
        sc_session_log_add(l, line);
        return true;
    }
    pthread_mutex_lock(&l->lock);
    l->newest = line->last;
    if (line->prompts) lose_note(l, line->last);
    pthread_mutex_unlock(&l->lock);
    return true;
}

sc_status sc_session_log_copy(sc_session_log *l, const sc_session_log *from, sc_error *err) {
    const struct block *b;
    const struct note *n;
    bool good = true;

    assert(l->newest == 0 && l->room >= from->room);
    pthread_mutex_lock(&l->lock);
    if (from->session && (good = (l->session = malloc(sizeof *l->session)) != NULL)) *l->session = *from->session;
    for (b = from->blocks; b && good; b = b->next) {
        struct block *copy = malloc(sizeof *copy);
        if (!(good = copy != NULL)) break;
        *copy = *b;
        copy->next = NULL;
        if (l->newest_block) l->newest_block->next = copy;
        else l->blocks = copy;
        l->newest_block = copy;
        l->used += sizeof *copy;
    }
    for (n = from->notes; n && good; n = n->next) {
        struct note *copy = malloc(n->bytes);
        if (!(good = copy != NULL)) break;
        memcpy(copy, n, n->bytes);
        append_note(l, copy);
    }
    if (good) {
        l->newest = from->newest;
        l->lost_note = from->lost_note;
        l->ended = from->ended;
    } else clear(l);
    pthread_mutex_unlock(&l->lock);
    return good ? SC_OK : sc_fail(err, SC_ENOMEM, "session: no memory for a copy of its log");
}

/* ---- reading ---- */

static const struct chunk *chunk_after(const sc_session_log *l, uint64_t after) {
    const struct block *b = l->blocks;
    int lo = 0, hi;

    while (b && b->chunk[b->n - 1].event <= after) b = b->next;
    if (!b) return NULL;
    for (hi = b->n - 1; lo < hi;) {
        const int mid = (lo + hi) / 2;
        if (b->chunk[mid].event <= after) lo = mid + 1;
        else hi = mid;
    }
    return &b->chunk[lo];
}

static const struct note *note_after(const sc_session_log *l, uint64_t after) {
    const struct note *n = l->notes;
    if (l->newest_note && l->newest_note->event <= after) return NULL;
    while (n && n->event <= after) n = n->next;
    return n;
}

static void chunk_line(const struct chunk *c, sc_log_line *out) {
    static const char digits[] = "0123456789abcdef";
    out->kind = SC_LINE_CHUNK;
    out->event = c->event;
    out->chunk = c->chunk;
    out->first_frame = c->first_frame;
    out->frames = c->frames;
    for (int i = 0; i < SC_FRAME_HASH_CHARS; i++) out->hash[i] = digits[c->hash[i / 2] >> (i % 2 ? 0 : 4) & 15];
}

static void note_line(const struct note *n, sc_log_line *out) {
    out->kind = n->kind;
    out->event = n->event;
    out->chunk = n->chunk;
    out->seed = n->seed;
    out->created = n->created;
    out->seq = n->seq;
    out->transition = n->transition;
    out->blend_chunks = n->blend_chunks;
    memcpy(out->session, n->session, sizeof out->session);
    memcpy(out->from, n->from, sizeof out->from);
    memcpy(out->state, n->state, sizeof out->state);
    if (n->kind == SC_LINE_END) memcpy(out->reason, n->text, n->text_bytes);
    else {
        memcpy(out->prompt, n->text, n->text_bytes);
        out->prompt_bytes = n->text_bytes;
    }
}

bool sc_session_log_next(sc_session_log *l, uint64_t after, sc_log_line *out) {
    memset(out, 0, sizeof *out);
    out->transition = SC_WIRE_NOT_GIVEN;
    pthread_mutex_lock(&l->lock);
    const bool any = after < l->newest;
    if (any && after == 0 && l->session) *out = *l->session;
    else if (any) {
        const struct chunk *c = chunk_after(l, after);
        const struct note *n = note_after(l, after);
        const uint64_t next = c && (!n || c->event < n->event) ? c->event : n ? n->event : l->newest + 1;
        if (next > after + 1) {
            out->kind = SC_LINE_LOST;
            out->event = after + 1;
            out->last = next - 1;
            out->prompts = l->lost_note > after && l->lost_note < next;
        } else if (c && c->event == next) chunk_line(c, out);
        else note_line(n, out);
    }
    pthread_mutex_unlock(&l->lock);
    return any;
}

uint64_t sc_session_log_newest(sc_session_log *l, bool *ended) {
    pthread_mutex_lock(&l->lock);
    const uint64_t newest = l->newest;
    *ended = l->ended;
    pthread_mutex_unlock(&l->lock);
    return newest;
}

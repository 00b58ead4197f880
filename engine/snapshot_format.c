/* snapshot_format.c - see snapshot_format.h. One plan of the parts for writing and reading, so that what is written can be read. */
#include "engine/snapshot_format.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "parts are written as they lie in memory");

static const char magic[8] = {'S', 'C', 'M', 'E', 'M', 'O', 'R', 'Y'};
static const char *const names[SC_SHAPE_NUMBERS] = {
    [SC_SHAPE_DTYPE] = "type of activations", [SC_SHAPE_LAYERS] = "layers", [SC_SHAPE_HEADS] = "heads", [SC_SHAPE_HEAD_DIM] = "width of a head",
    [SC_SHAPE_PAGE_ROWS] = "rows of a page", [SC_SHAPE_BLOCKS] = "blocks of a chunk", [SC_SHAPE_CHUNK_FRAMES] = "latent frames of a chunk",
    [SC_SHAPE_PBSA] = "kind of memory", [SC_SHAPE_WINDOW_CHUNKS] = "chunks of the window", [SC_SHAPE_CAPACITY] = "persistent blocks",
    [SC_SHAPE_WINDOW_FRAMES] = "frames of the window", [SC_SHAPE_SINK_FRAMES] = "sink frames", [SC_SHAPE_LATENT] = "size of a latent",
    [SC_SHAPE_PAST] = "latents kept", [SC_SHAPE_DECODER_BYTES] = "memory of the decoder", [SC_SHAPE_FRAME_BYTES] = "size of a picture",
    [SC_SHAPE_TEXT_DIM] = "width of the text", [SC_SHAPE_TEXT_LEN] = "tokens of a prompt"};

typedef struct {
    char magic[8];
    uint32_t version, header_bytes;
    uint64_t bytes;
    char digest[64];
    uint64_t number[SC_SHAPE_NUMBERS];
    sc_snapshot_state state;
} header;

_Static_assert(sizeof(header) == 8 + 8 + 8 + 64 + 8 * SC_SHAPE_NUMBERS + sizeof(sc_snapshot_state) && sizeof(sc_snapshot_state) == 80, "no gaps");

/* ---- the plan ----------------------------------------------------------------------------------------------------------- */

/* Where the next part goes. fresh: what is between the parts is made zeros; it is written too. */
typedef struct { char *base; size_t at; bool fresh; } place;

static char *part(place *p, size_t bytes) {
    char *const here = p->base ? p->base + p->at : NULL;
    const size_t room = (bytes + 63) / 64 * 64;
    if (p->fresh) memset(here + bytes, 0, room - bytes);
    p->at += room;
    return here;
}

/* free(). Much of it by large pages, where the system has them: gigabytes by small ones take longer to be handed out than to be filled. */
static char *room_of(size_t bytes) {
    enum { LARGE = 2 << 20 };
    void *p;
    if (bytes < 4 * LARGE) return malloc(bytes);
    const size_t all = (bytes + LARGE - 1) / LARGE * LARGE;
    if (posix_memalign(&p, LARGE, all)) return NULL;
    madvise(p, all, MADV_HUGEPAGE); /* advice: a system without them is slower */
    return p;
}

/* Of numbers that are right. base NULL: only how much it is. */
static void plan(const sc_snapshot_shape *shape, const sc_snapshot_state *s, char *base, bool fresh, sc_snapshot_parts *p) {
    const uint64_t *n = shape->number;
    const size_t heads = (size_t)(n[SC_SHAPE_LAYERS] * n[SC_SHAPE_HEADS]), begun = s->chunk > 0;
    const uint64_t per_frame = n[SC_SHAPE_BLOCKS] / n[SC_SHAPE_CHUNK_FRAMES];
    place at = {.base = base, .fresh = fresh};
    size_t pages;

    memset(p, 0, sizeof *p);
    p->state = *s;
    p->held = (int)(n[SC_SHAPE_PBSA] ? s->persistent + (s->chunks - 1) * n[SC_SHAPE_BLOCKS] : s->frames * per_frame);
    p->page_bytes = (size_t)(n[SC_SHAPE_PAGE_ROWS] * n[SC_SHAPE_HEAD_DIM]) * sc_dtype_bytes((sc_dtype)n[SC_SHAPE_DTYPE]);
    pages = heads * (size_t)p->held;
    part(&at, sizeof(header));
    for (int i = 0; i < SC_SNAPSHOT_PROMPTS; i++) p->text[i] = part(&at, s->text_bytes[i]);
    for (int i = 0; i < SC_SNAPSHOT_PROMPTS; i++) p->emb[i] = (float *)(void *)part(&at, (size_t)(s->tokens[i] * n[SC_SHAPE_TEXT_DIM]) * sizeof(float));
    p->id = (sc_kv_slot *)(void *)part(&at, heads * s->persistent * sizeof *p->id);
    p->frame = (int64_t *)(void *)part(&at, s->frames * sizeof *p->frame);
    p->k = part(&at, pages * p->page_bytes);
    p->v = part(&at, pages * p->page_bytes);
    p->rep_k = (float *)(void *)part(&at, pages * (size_t)n[SC_SHAPE_HEAD_DIM] * sizeof(float));
    p->past = (float *)(void *)part(&at, (size_t)(s->past * n[SC_SHAPE_LATENT]) * sizeof(float));
    p->decoder = part(&at, begun * (size_t)n[SC_SHAPE_DECODER_BYTES]);
    p->picture = (unsigned char *)part(&at, begun * (size_t)n[SC_SHAPE_FRAME_BYTES]);
    p->bytes = at.at;
}

void *sc_snapshot_layout(const sc_snapshot_shape *shape, const sc_snapshot_state *state, sc_snapshot_parts *parts) {
    header h = {.version = SC_SNAPSHOT_VERSION, .header_bytes = sizeof h, .state = *state};
    sc_snapshot_parts sizes;
    char *bytes;

    plan(shape, state, NULL, false, &sizes);
    if (!(bytes = room_of(sizes.bytes))) return NULL;
    plan(shape, state, bytes, true, parts);
    memcpy(h.magic, magic, sizeof magic);
    h.bytes = parts->bytes;
    memcpy(h.digest, shape->digest, sizeof h.digest);
    memcpy(h.number, shape->number, sizeof h.number);
    memcpy(bytes, &h, sizeof h);
    return bytes;
}

/* ---- reading ------------------------------------------------------------------------------------------------------------ */

static sc_status at_most(const char *what, uint64_t found, uint64_t min, uint64_t max, sc_error *err) {
    if (found >= min && found <= max) return SC_OK;
    return sc_fail(err, SC_EINVAL, "snapshot: %s: %llu is not in %llu..%llu", what, (unsigned long long)found, (unsigned long long)min, (unsigned long long)max);
}

static sc_status check_header(const sc_snapshot_shape *shape, const header *h, size_t n, sc_error *err) {
    if (memcmp(h->magic, magic, sizeof magic)) return sc_fail(err, SC_EINVAL, "snapshot: it is none");
    if (h->version != SC_SNAPSHOT_VERSION || h->header_bytes != sizeof *h)
        return sc_fail(err, SC_EINVAL, "snapshot: it has version %u, this is version %d", h->version, SC_SNAPSHOT_VERSION);
    if (h->bytes != n) return sc_fail(err, SC_EINVAL, "snapshot: it says that it has %llu bytes, and has %zu", (unsigned long long)h->bytes, n);
    if (memcmp(h->digest, shape->digest, sizeof h->digest)) return sc_fail(err, SC_EINVAL, "snapshot: it is of another model (digest %.12s, here %.12s)", h->digest, shape->digest);
    for (int i = 0; i < SC_SHAPE_NUMBERS; i++)
        if (h->number[i] != shape->number[i])
            return sc_fail(err, SC_EINVAL, "snapshot: %s: it has %llu, here are %llu", names[i], (unsigned long long)h->number[i], (unsigned long long)shape->number[i]);
    return SC_OK;
}

static sc_status check_prompts(const uint64_t *n, const sc_snapshot_state *s, sc_error *err) {
    const bool next = s->tokens[SC_SNAPSHOT_NEXT] > 0, blend = s->tokens[SC_SNAPSHOT_BLEND_FROM] > 0;
    const bool counts = blend || (next && s->transition == SC_SNAPSHOT_TRANSITION_BLEND);
    sc_status rc;

    for (int i = 0; i < SC_SNAPSHOT_PROMPTS; i++) {
        if ((rc = at_most("tokens", s->tokens[i], i == SC_SNAPSHOT_PROMPT, n[SC_SHAPE_TEXT_LEN], err))) return rc;
        if ((rc = at_most("bytes of a prompt", s->text_bytes[i], 0, s->tokens[i] ? SC_SNAPSHOT_TEXT_MAX : 0, err))) return rc;
    }
    if (next && blend) return sc_fail(err, SC_EINVAL, "snapshot: a blend that the next prompt ends");
    if ((rc = at_most("next_seq", s->next_seq, 0, next ? UINT32_MAX : 0, err))) return rc;
    if ((rc = at_most("transition", s->transition, 0, next ? SC_SNAPSHOT_TRANSITIONS - 1 : 0, err))) return rc;
    if ((rc = at_most("blend_chunks", s->blend_chunks, counts, counts ? SC_SNAPSHOT_BLEND_MAX : 0, err))) return rc;
    return at_most("blend_done", s->blend_done, 0, blend ? s->blend_chunks - 1 : 0, err);
}

static sc_status check_state(const uint64_t *n, const sc_snapshot_state *s, sc_error *err) {
    const bool pbsa = n[SC_SHAPE_PBSA];
    sc_status rc;

    if ((rc = at_most("chunk", s->chunk, 0, SC_SNAPSHOT_CHUNK_MAX, err))) return rc;
    if ((rc = at_most("chunks", s->chunks, 1, pbsa ? n[SC_SHAPE_WINDOW_CHUNKS] : 1, err))) return rc;
    if ((rc = at_most("chunks", s->chunks, 1, s->chunk + 1, err))) return rc;
    if ((rc = at_most("persistent", s->persistent, 0, pbsa ? n[SC_SHAPE_CAPACITY] : 0, err))) return rc;
    if ((rc = at_most("frames", s->frames, 0, pbsa ? 0 : n[SC_SHAPE_WINDOW_FRAMES], err))) return rc;
    if ((rc = at_most("latents", s->past, 0, n[SC_SHAPE_PAST], err))) return rc;
    if ((rc = at_most("latents", s->past, 0, s->chunk, err))) return rc;
    if ((rc = at_most("shown_seq", s->shown_seq, 0, s->chunk ? UINT32_MAX : 0, err))) return rc;
    return check_prompts(n, s, err);
}

/* Blocks of P are older than the window and ascend, frames ascend. */
static sc_status check_ids(const uint64_t *n, const sc_snapshot_parts *p, sc_error *err) {
    const sc_snapshot_state *s = &p->state;
    const int64_t oldest = (int64_t)s->chunk - (int64_t)s->chunks + 1, end = (int64_t)s->chunk * (int64_t)n[SC_SHAPE_CHUNK_FRAMES];

    for (uint64_t head = 0; head < n[SC_SHAPE_LAYERS] * n[SC_SHAPE_HEADS]; head++)
        for (uint32_t i = 0; i < s->persistent; i++) {
            const sc_kv_slot *id = p->id + head * s->persistent + i;
            const bool rises = i == 0 || id[-1].chunk < id->chunk || (id[-1].chunk == id->chunk && id[-1].block < id->block);
            if (!rises || id->page || id->chunk < 0 || id->chunk >= oldest || id->block < 0 || (uint64_t)id->block >= n[SC_SHAPE_BLOCKS])
                return sc_fail(err, SC_EINVAL, "snapshot: persistent block %u of head %llu is none", i, (unsigned long long)head);
        }
    for (uint32_t i = 0; i < s->frames; i++)
        if (p->frame[i] < 0 || p->frame[i] >= end || (i && p->frame[i - 1] >= p->frame[i])) return sc_fail(err, SC_EINVAL, "snapshot: frame %u of the window is none", i);
    return SC_OK;
}

static bool finite32(const void *data, size_t n) {
    const uint32_t *x = data, mask = 0x7f800000;
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) bad |= (x[i] & mask) == mask;
    return !bad;
}

static bool finite16(const void *data, size_t n, uint16_t mask) {
    const uint16_t *x = data;
    uint16_t bad = 0;
    for (size_t i = 0; i < n; i++) bad |= (x[i] & mask) == mask;
    return !bad;
}

static bool all_finite(sc_dtype type, const void *data, size_t bytes) {
    if (type == SC_F32) return finite32(data, bytes / 4);
    return finite16(data, bytes / 2, type == SC_F16 ? 0x7c00 : 0x7f80);
}

static sc_status check_values(const uint64_t *n, const sc_snapshot_parts *p, sc_error *err) {
    const sc_dtype type = (sc_dtype)n[SC_SHAPE_DTYPE];
    const size_t pages = (size_t)(n[SC_SHAPE_LAYERS] * n[SC_SHAPE_HEADS]) * (size_t)p->held;
    bool good = all_finite(type, p->k, pages * p->page_bytes) && all_finite(type, p->v, pages * p->page_bytes) && finite32(p->rep_k, pages * (size_t)n[SC_SHAPE_HEAD_DIM]);

    good = good && finite32(p->past, (size_t)(p->state.past * n[SC_SHAPE_LATENT]));
    for (int i = 0; i < SC_SNAPSHOT_PROMPTS; i++) good = good && finite32(p->emb[i], (size_t)(p->state.tokens[i] * n[SC_SHAPE_TEXT_DIM]));
    return good ? SC_OK : sc_fail(err, SC_EINVAL, "snapshot: not all of it is finite");
}

sc_status sc_snapshot_read(const sc_snapshot_shape *shape, const void *bytes, size_t n, sc_snapshot_parts *parts, sc_error *err) {
    header h;
    sc_status rc;

    if (n < sizeof h) return sc_fail(err, SC_EINVAL, "snapshot: %zu bytes are none", n);
    memcpy(&h, bytes, sizeof h);
    if ((rc = check_header(shape, &h, n, err)) || (rc = check_state(shape->number, &h.state, err))) return rc;
    plan(shape, &h.state, (char *)(uintptr_t)bytes, false, parts);
    if (parts->bytes != n) return sc_fail(err, SC_EINVAL, "snapshot: its parts take %zu bytes, and it has %zu", parts->bytes, n);
    if ((rc = check_ids(shape->number, parts, err))) return rc;
    return check_values(shape->number, parts, err);
}

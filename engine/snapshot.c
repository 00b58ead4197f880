/* snapshot.c - a session to bytes and back: save, restore. What the bytes are stands in snapshot_format.h.
 *
 * All that decides about the chunks to come is taken: seed and counters, prompts with their embeddings (those that wait and those of a blend too), keys,
 * values and representatives of the pages that hold something, clean latents, what the decoder remembers, the last picture. Left out is what
 * follows from that: keys and values of prompts are computed again, pages get new places (in the order of their slots: attention and selection go by slots,
 * so which page a slot has does not touch a bit).
 *
 * Cost. The engine's thread copies, and other sessions wait for it. A head's pages come from the device at once; while the next head's are on their way,
 * those in use are put one behind the other. 1.3B at 832x480 with a full window (30 layers, 12 heads): 3.45 GB come over the bus, 2.7 GB
 * of them stay, and 1.9 GB more where the decoder is the Wan VAE; memory of the host that is taken until the caller frees it. The pocket model in
 * float32: 35 MB. Restoring reads as much again. Times: docs/performance.md.
 * Thread: engine, but for sc_snapshot_open, which reads what never changes of an engine. */
#include "engine/devmem.h"
#include "engine/internal.h"
#include "engine/snapshot_format.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call) do { if ((rc = (call))) goto cleanup; } while (0)

_Static_assert((int)SC_SNAPSHOT_TEXT_MAX == (int)SC_PROMPT_BYTES_MAX && (int)SC_SNAPSHOT_TRANSITION_BLEND == (int)SC_BLEND && (int)SC_SNAPSHOT_TRANSITIONS == SC_CUT + 1,
               "the format's words are the engine's");

struct sc_snapshot {
    const sc_engine *engine;
    sc_snapshot_parts parts;
};

static sc_snapshot_shape shape_of(const sc_engine *e) {
    const sc_kv_rule *r = &e->rule;
    sc_snapshot_shape s = {.number = {
        [SC_SHAPE_DTYPE] = (uint64_t)e->dev->act, [SC_SHAPE_LAYERS] = (uint64_t)e->cfg.dit.layers, [SC_SHAPE_HEADS] = (uint64_t)e->cfg.dit.heads,
        [SC_SHAPE_HEAD_DIM] = (uint64_t)e->pages.head_dim, [SC_SHAPE_PAGE_ROWS] = (uint64_t)e->pages.page_rows,
        [SC_SHAPE_BLOCKS] = (uint64_t)e->layout->blocks.blocks, [SC_SHAPE_CHUNK_FRAMES] = (uint64_t)e->layout->frames, [SC_SHAPE_PBSA] = r->pbsa,
        [SC_SHAPE_WINDOW_CHUNKS] = r->pbsa ? (uint64_t)r->window_chunks : 0, [SC_SHAPE_CAPACITY] = r->pbsa ? (uint64_t)r->capacity : 0,
        [SC_SHAPE_WINDOW_FRAMES] = r->pbsa ? 0 : (uint64_t)r->window_frames, [SC_SHAPE_SINK_FRAMES] = r->pbsa ? 0 : (uint64_t)r->sink_frames,
        [SC_SHAPE_LATENT] = e->latent_count, [SC_SHAPE_PAST] = (uint64_t)e->past_chunks, [SC_SHAPE_DECODER_BYTES] = sc_decoder_state_bytes(e->decoder),
        [SC_SHAPE_FRAME_BYTES] = e->info.frame_bytes, [SC_SHAPE_TEXT_DIM] = sc_t5_dim(e->t5), [SC_SHAPE_TEXT_LEN] = (uint64_t)e->cfg.dit.text_len}};
    memcpy(s.digest, e->info.digest, sizeof s.digest);
    return s;
}

static uint64_t frames_before(const sc_engine *e, uint64_t chunk) {
    return chunk ? (uint64_t)e->info.frames_first + (chunk - 1) * (uint64_t)e->info.frames_chunk : 0;
}

/* Pages of keys, of values and their representatives: in the pool, of an engine; in the snapshot, [layers][heads][held]. */
typedef struct { char *pool, *bytes; size_t row; } column;

static void columns_of(const sc_engine *e, const sc_snapshot_parts *p, column c[3]) {
    c[0] = (column){e->pages.k, p->k, p->page_bytes};
    c[1] = (column){e->pages.v, p->v, p->page_bytes};
    c[2] = (column){(char *)e->pages.rep_k, (char *)p->rep_k, (size_t)e->pages.head_dim * sizeof *p->rep_k};
}

/* ---- saving ------------------------------------------------------------------------------------------------------------- */

/* Where the pages of a head land. `here`: behind their copy, or NULL where copies have been made when they return. */
typedef struct { char *at; sc_mark *here; } landing;

/* Run n of all: columns one after another, of each the heads of all layers. */
static sc_status ask_for_run(const sc_session *s, const column c[3], int n, const landing *to, sc_error *err) {
    const sc_ops *ops = s->engine->dev->ops;
    const sc_kv_memory *m = &s->memory;
    const column *of = &c[n / (m->layers * m->heads)];
    const char *from = of->pool + ((size_t)m->first_page + (size_t)(n % (m->layers * m->heads)) * (size_t)m->slots) * of->row;
    const size_t bytes = (size_t)m->slots * of->row;
    sc_status rc;

    if (!to->here) return ops->download(s->engine->dev, to->at, from, bytes, err);
    if ((rc = ops->fetch(s->engine->dev, to->at, from, bytes, err))) return rc;
    return ops->mark(s->engine->dev, to->here, err);
}

static sc_status place_run(const sc_session *s, const column c[3], int n, const landing *from, int held, sc_error *err) {
    const sc_kv_memory *m = &s->memory;
    const int run = n % (m->layers * m->heads);
    const column *of = &c[n / (m->layers * m->heads)];
    char *to = of->bytes + (size_t)run * (size_t)held * of->row;
    sc_status rc;

    if (from->here && (rc = s->engine->dev->ops->wait(s->engine->dev, from->here, err))) return rc;
    for (int k = 0; k < held; k++, to += of->row) {
        const int page = sc_kv_at(m, run / m->heads, run % m->heads, k).page - run * m->slots; /* a head's pages stay its own */
        assert(page >= 0 && page < m->slots);
        memcpy(to, from->at + (size_t)page * of->row, of->row);
    }
    return SC_OK;
}

static sc_status save_pages(sc_session *s, const sc_snapshot_parts *p, sc_error *err) {
    sc_device *dev = s->engine->dev;
    const int runs = p->held ? 3 * s->memory.layers * s->memory.heads : 0;
    column c[3];
    landing two[2] = {0};
    sc_error ignored;
    sc_status rc = SC_OK;

    columns_of(s->engine, p, c);
    for (int i = 0; runs && i < 2; i++) {
        TRY(dev->ops->alloc_host(dev, (void **)&two[i].at, (size_t)s->memory.slots * (p->page_bytes > c[2].row ? p->page_bytes : c[2].row), err));
        if (dev->ops->fetch) TRY(dev->ops->mark_create(dev, &two[i].here, err));
    }
    for (int n = 0; n < runs + 1; n++) {
        if (n < runs) TRY(ask_for_run(s, c, n, &two[n & 1], err));
        if (n > 0) TRY(place_run(s, c, n - 1, &two[(n - 1) & 1], p->held, err));
    }
cleanup:
    if (rc) dev->ops->sync(dev, &ignored); /* a copy may be on its way there */
    for (int i = 0; i < 2; i++) {
        if (two[i].here) dev->ops->mark_destroy(dev, two[i].here);
        dev->ops->release_host(dev, two[i].at);
    }
    return rc;
}

static void save_ids(const sc_kv_memory *m, const sc_snapshot_parts *p) {
    sc_kv_slot *id = p->id;

    if (!m->rule.pbsa) memcpy(p->frame, m->frame, (size_t)m->frames * sizeof *p->frame);
    for (int l = 0; l < m->layers; l++)
        for (int h = 0; h < m->heads; h++)
            for (int i = 0; i < m->persistent; i++) {
                *id = sc_kv_at(m, l, h, i);
                id++->page = 0;
            }
}

/* A blend that the next prompt ends with the next chunk is over. */
static void prompts_of(const sc_session *s, const sc_prompt *out[SC_SNAPSHOT_PROMPTS]) {
    out[SC_SNAPSHOT_PROMPT] = s->prompt;
    out[SC_SNAPSHOT_NEXT] = s->next_prompt;
    out[SC_SNAPSHOT_BLEND_FROM] = s->next_prompt ? NULL : s->blend_from;
}

static sc_snapshot_state state_of(const sc_session *s) {
    const sc_prompt *prompt[SC_SNAPSHOT_PROMPTS];
    const bool next = s->next_prompt, blend = !next && s->blend_from;
    sc_snapshot_state t = {.seed = s->seed, .chunk = s->chunk, .persistent = (uint32_t)s->memory.persistent, .chunks = (uint32_t)s->memory.chunks,
                           .frames = (uint32_t)s->memory.frames, .past = (uint32_t)s->past_count, .prompt_seq = s->prompt_seq, .next_seq = next ? s->next_seq : 0,
                           .shown_seq = s->chunk ? s->newest.prompt_seq : 0, .transition = next ? s->transition : 0,
                           .blend_chunks = blend || (next && s->transition == SC_BLEND) ? (uint32_t)s->blend_chunks : 0,
                           .blend_done = blend ? (uint32_t)s->blend_done : 0};

    prompts_of(s, prompt);
    for (int i = 0; i < SC_SNAPSHOT_PROMPTS; i++) {
        t.tokens[i] = prompt[i] ? (uint32_t)prompt[i]->tokens : 0;
        t.text_bytes[i] = prompt[i] ? (uint32_t)prompt[i]->text_n : 0;
    }
    return t;
}

sc_status sc_session_save(sc_session *s, void **bytes, size_t *n, sc_error *err) {
    const sc_engine *e = s->engine;
    const sc_snapshot_shape shape = shape_of(e);
    const sc_prompt *prompt[SC_SNAPSHOT_PROMPTS];
    const size_t latent = e->latent_count * sizeof(float);
    sc_snapshot_parts p;
    void *out = NULL;
    sc_status rc;

    *bytes = NULL;
    if ((rc = sc_session_stands(s, err))) return rc;
    if (s->chunk > SC_SNAPSHOT_CHUNK_MAX) return sc_fail(err, SC_EINVAL, "snapshot: after chunk %llu there is none", (unsigned long long)SC_SNAPSHOT_CHUNK_MAX);
    assert(s->memory.chunk == (int64_t)s->chunk && s->frames_made == frames_before(e, s->chunk) && (s->chunk == 0) == (s->newest.count == 0));
    const sc_snapshot_state state = state_of(s);
    if (!(out = sc_snapshot_layout(&shape, &state, &p))) return sc_fail(err, SC_ENOMEM, "snapshot: out of memory");
    prompts_of(s, prompt);
    for (int i = 0; i < SC_SNAPSHOT_PROMPTS; i++) {
        if (!prompt[i]) continue;
        memcpy(p.text[i], prompt[i]->text, prompt[i]->text_n);
        memcpy(p.emb[i], prompt[i]->emb, (size_t)prompt[i]->tokens * sc_t5_dim(e->t5) * sizeof *p.emb[i]);
    }
    TRY(sc_kv_find(&s->memory, err));
    assert(p.held == sc_kv_held(&s->memory));
    save_ids(&s->memory, &p);
    TRY(save_pages(s, &p, err));
    for (int k = 0; k < s->past_count; k++) TRY(e->dev->ops->download(e->dev, (char *)p.past + (size_t)k * latent, sc_session_past(s, k), latent, err));
    if (s->chunk) {
        TRY(sc_decoder_state_save(e->decoder, s->decoder, p.decoder, err));
        memcpy(p.picture, s->newest.data + (size_t)(s->newest.count - 1) * s->newest.frame_bytes, s->newest.frame_bytes);
    }
    *bytes = out;
    *n = p.bytes;
    out = NULL;
cleanup:
    free(out);
    return rc;
}

/* ---- restoring ---------------------------------------------------------------------------------------------------------- */

sc_status sc_snapshot_open(sc_snapshot **out, const sc_engine *e, const void *bytes, size_t n, sc_error *err) {
    const sc_snapshot_shape shape = shape_of(e);
    sc_snapshot *s = calloc(1, sizeof *s);
    sc_status rc;

    *out = NULL;
    if (!s) return sc_fail(err, SC_ENOMEM, "snapshot: out of memory");
    s->engine = e;
    if ((rc = sc_snapshot_read(&shape, bytes, n, &s->parts, err))) free(s);
    else *out = s;
    return rc;
}

void sc_snapshot_close(sc_snapshot *s) { free(s); }

void sc_snapshot_describe(const sc_snapshot *s, sc_snapshot_info *out) {
    const sc_snapshot_state *t = &s->parts.state;
    *out = (sc_snapshot_info){.seed = t->seed, .chunk = t->chunk, .prompt_seq = t->prompt_seq, .next_seq = t->next_seq};
}

static sc_status load_pages(sc_session *s, const sc_snapshot_parts *p, sc_error *err) {
    const sc_engine *e = s->engine;
    const sc_kv_memory *m = &s->memory;
    const int runs[] = {0, m->persistent, p->held}; /* P and the window: pages side by side in both places */
    column c[3];
    sc_status rc = SC_OK;

    columns_of(e, p, c);
    for (int i = 0; i < 3; i++)
        for (int head = 0; head < m->layers * m->heads; head++)
            for (int r = 0; r < 2 && !rc; r++) {
                const size_t from = (size_t)head * (size_t)p->held + (size_t)runs[r], count = (size_t)(runs[r + 1] - runs[r]);
                if (!count) continue;
                rc = e->dev->ops->upload(e->dev, c[i].pool + (size_t)sc_kv_place(m, head / m->heads, head % m->heads, runs[r]) * c[i].row, c[i].bytes + from * c[i].row,
                                         count * c[i].row, err);
            }
    return rc;
}

static sc_status prompt_at(sc_engine *e, const sc_snapshot_parts *p, sc_snapshot_prompt i, sc_prompt **out, sc_error *err) {
    *out = NULL;
    if (!p->state.tokens[i]) return SC_OK;
    return sc_prompt_of(e, p->text[i], p->state.text_bytes[i], p->emb[i], (int)p->state.tokens[i], out, err);
}

static sc_status load_prompts(sc_session *s, const sc_snapshot_parts *p, sc_error *err) {
    const sc_snapshot_state *t = &p->state;
    sc_engine *e = s->engine;
    sc_status rc;

    if ((rc = prompt_at(e, p, SC_SNAPSHOT_NEXT, &s->next_prompt, err)) || (rc = prompt_at(e, p, SC_SNAPSHOT_BLEND_FROM, &s->blend_from, err))) return rc;
    s->next_seq = t->next_seq;
    s->transition = (sc_transition)t->transition;
    s->blend_chunks = (int)t->blend_chunks;
    s->blend_done = (int)t->blend_done;
    if (s->blend_from) return sc_session_plan_blend(e, s->blend_from, s->prompt, s->blend_chunks, s->blend, err);
    return s->next_prompt && s->transition == SC_BLEND ? sc_session_plan_blend(e, s->prompt, s->next_prompt, s->blend_chunks, s->next_blend, err) : SC_OK;
}

static void show_picture(sc_session *s, const sc_snapshot_parts *p) {
    const sc_model_info *i = &s->engine->info;

    memcpy(s->frames[s->frames_at], p->picture, i->frame_bytes);
    s->newest = (sc_frames){.chunk = s->chunk - 1, .first_frame = s->frames_made - 1, .count = 1, .width = i->width, .height = i->height,
                            .prompt_seq = p->state.shown_seq, .data = s->frames[s->frames_at], .frame_bytes = i->frame_bytes};
}

static sc_status restore_at(sc_engine *e, int place, const sc_snapshot_parts *p, sc_session **out, sc_error *err) {
    const sc_snapshot_state *t = &p->state;
    const sc_kv_content memory = {.chunk = (int64_t)t->chunk, .persistent = (int)t->persistent, .chunks = (int)t->chunks, .frames = (int)t->frames, .id = p->id, .frame = p->frame};
    sc_prompt *prompt = NULL;
    sc_session *s = NULL;
    sc_status rc;

    TRY(prompt_at(e, p, SC_SNAPSHOT_PROMPT, &prompt, err));
    TRY(sc_session_create_at(e, place, t->seed, prompt, t->prompt_seq, &s, err));
    s->chunk = s->first = t->chunk;
    s->frames_made = frames_before(e, t->chunk);
    TRY(load_prompts(s, p, err));
    TRY(sc_kv_load(&s->memory, &memory, err));
    TRY(load_pages(s, p, err));
    if (t->past) TRY(e->dev->ops->upload(e->dev, s->past, p->past, t->past * e->latent_count * sizeof(float), err));
    s->past_count = (int)t->past;
    s->past_at = e->past_chunks ? s->past_count % e->past_chunks : 0;
    if (t->chunk) {
        TRY(sc_decoder_state_load(e->decoder, s->decoder, p->decoder, err));
        show_picture(s, p);
    }
    *out = s;
    s = NULL;
cleanup:
    sc_session_destroy(s);
    sc_prompt_drop(e, prompt);
    return rc;
}

sc_status sc_session_restore(sc_engine *e, const sc_snapshot *snapshot, sc_session **out, sc_error *err) {
    int place;
    sc_status rc;

    assert(snapshot->engine == e);
    *out = NULL;
    if ((rc = sc_session_free_place(e, &place, err))) return rc;
    do rc = restore_at(e, place, &snapshot->parts, out, err);
    while (rc == SC_ENOMEM && sc_prompt_cache_shrink(e));
    return rc;
}

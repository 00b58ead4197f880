/* kv_memory.c - see kv_memory.h. Source: DESIGN.md section 1; Self-Forcing's causal_model.py for the rolling window. */
#include "engine/kv_memory.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int sc_kv_slots(const sc_kv_rule *r, const sc_layout *l) {
    if (r->pbsa) return r->capacity + r->window_chunks * l->blocks.blocks;
    return r->window_frames * (l->blocks.blocks / l->frames);
}

int sc_kv_past(const sc_kv_rule *r, const sc_layout *l) {
    if (r->pbsa) return r->window_chunks - 1;
    return (r->window_frames - r->sink_frames - l->frames + l->frames - 1) / l->frames;
}

int sc_kv_keep(double keep_ratio, int window_blocks) {
    int k = (int)ceil(keep_ratio * window_blocks - 1e-9);
    if (k > window_blocks) k = window_blocks;
    return k < 1 ? 1 : k;
}

sc_status sc_kv_init(sc_kv_memory *m, sc_device *dev, const sc_kv_rule *rule, const sc_layout *layout, int layers, int heads, int first_page,
                     sc_error *err) {
    sc_status rc;

    memset(m, 0, sizeof *m);
    m->dev = dev;
    m->rule = *rule;
    m->layout = layout;
    m->layers = layers;
    m->heads = heads;
    m->first_page = first_page;
    if (!rule->pbsa && rule->window_frames < rule->sink_frames + layout->frames)
        return sc_fail(err, SC_EINVAL, "memory.window_frames: %d is less than sink_frames %d and a chunk of %d together", rule->window_frames, rule->sink_frames, layout->frames);
    m->slots = sc_kv_slots(rule, layout);
    const size_t bytes = (size_t)layers * (size_t)heads * (size_t)m->slots * sizeof(sc_kv_slot);
    m->host = calloc(1, bytes);
    m->frame = calloc((size_t)(rule->pbsa ? 1 : rule->window_frames), sizeof *m->frame);
    m->group = calloc((size_t)(rule->pbsa ? 1 : rule->window_frames), sizeof *m->group);
    if (!m->host || !m->frame || !m->group) rc = sc_fail(err, SC_ENOMEM, "session memory: out of memory");
    else rc = dev->ops->alloc(dev, (void **)&m->device, bytes, err);
    if (!rc) rc = dev->ops->alloc(dev, (void **)&m->now, sizeof *m->now, err);
    if (!rc && rule->pbsa) rc = dev->ops->alloc(dev, (void **)&m->saved, bytes, err);
    if (!rc) rc = sc_kv_reset(m, 0, err);
    if (rc) sc_kv_free(m);
    return rc;
}

void sc_kv_free(sc_kv_memory *m) {
    if (m->dev && m->device) m->dev->ops->release(m->dev, m->device);
    if (m->dev && m->saved) m->dev->ops->release(m->dev, m->saved);
    if (m->dev && m->now) m->dev->ops->release(m->dev, m->now);
    free(m->host);
    free(m->frame);
    free(m->group);
    memset(m, 0, sizeof *m);
}

static int page_of(const sc_kv_memory *m, int layer, int head, int slot) { return m->first_page + (layer * m->heads + head) * m->slots + slot; }

static sc_kv_slot *host_slot(const sc_kv_memory *m, int layer, int head, int slot) {
    return m->host + ((size_t)layer * (size_t)m->heads + (size_t)head) * (size_t)m->slots + slot;
}

static size_t slot_bytes(const sc_kv_memory *m) { return (size_t)m->layers * (size_t)m->heads * (size_t)m->slots * sizeof *m->host; }

static sc_status upload_slots(sc_kv_memory *m, sc_error *err) { return m->dev->ops->upload(m->dev, m->device, m->host, slot_bytes(m), err); }

static sc_status upload_now(sc_kv_memory *m, int64_t chunk, sc_error *err) { return m->dev->ops->upload(m->dev, m->now, &chunk, sizeof chunk, err); }

sc_status sc_kv_save(sc_kv_memory *m, sc_error *err) { return m->saved ? m->dev->ops->copy(m->dev, m->saved, m->device, slot_bytes(m), err) : SC_OK; }
sc_status sc_kv_restore(sc_kv_memory *m, sc_error *err) { return m->saved ? m->dev->ops->copy(m->dev, m->device, m->saved, slot_bytes(m), err) : SC_OK; }

sc_status sc_kv_reset(sc_kv_memory *m, int64_t chunk, sc_error *err) {
    const int blocks = m->layout->blocks.blocks;

    m->chunk = chunk;
    m->begun = false;
    m->persistent = 0;
    m->chunks = 1;
    m->frames = 0;
    for (int i = 0; !m->rule.pbsa && i < m->rule.window_frames; i++) m->group[i] = i;
    for (int l = 0; l < m->layers; l++)
        for (int h = 0; h < m->heads; h++)
            for (int s = 0; s < m->slots; s++) {
                const int w = s - m->rule.capacity; /* place in the window */
                sc_kv_slot *slot = host_slot(m, l, h, s);
                *slot = (sc_kv_slot){.page = page_of(m, l, h, s)};
                if (m->rule.pbsa && w >= 0) { slot->chunk = chunk + w / blocks; slot->block = w % blocks; }
            }
    return upload_slots(m, err);
}

/* WINDOW: make room for one chunk. */
static sc_status begin_window(sc_kv_memory *m, sc_error *err) {
    const int chunk_frames = m->layout->frames;
    const int overflow = m->frames + chunk_frames - m->rule.window_frames;

    if (overflow > 0) { /* the places after the sink move left; their page runs go to the end, free for the new chunk */
        const int sink = m->rule.sink_frames, tail = m->frames - sink - overflow;
        int *dropped = malloc((size_t)overflow * sizeof *dropped);
        if (!dropped) return sc_fail(err, SC_ENOMEM, "session memory: out of memory");
        assert(tail >= 0);
        memcpy(dropped, m->group + sink, (size_t)overflow * sizeof *dropped);
        memmove(m->group + sink, m->group + sink + overflow, (size_t)(m->rule.window_frames - sink - overflow) * sizeof *m->group);
        memmove(m->frame + sink, m->frame + sink + overflow, (size_t)tail * sizeof *m->frame);
        memcpy(m->group + m->rule.window_frames - overflow, dropped, (size_t)overflow * sizeof *dropped);
        free(dropped);
        m->frames -= overflow;
    }
    for (int f = 0; f < chunk_frames; f++) m->frame[m->frames + f] = m->chunk * chunk_frames + f;
    m->frames += chunk_frames;
    return SC_OK;
}

static sc_status upload_window(sc_kv_memory *m, sc_error *err) {
    const int chunk_frames = m->layout->frames, per_frame = m->layout->blocks.blocks / chunk_frames;
    for (int l = 0; l < m->layers; l++)
        for (int h = 0; h < m->heads; h++)
            for (int s = 0; s < m->slots; s++) { /* those past the frames held: free pages */
                const int64_t frame = s / per_frame < m->frames ? m->frame[s / per_frame] : 0;
                *host_slot(m, l, h, s) = (sc_kv_slot){.page = page_of(m, l, h, m->group[s / per_frame] * per_frame + s % per_frame), .chunk = frame / chunk_frames,
                                                      .block = (int)(frame % chunk_frames) * per_frame + s % per_frame};
            }
    return upload_slots(m, err);
}

sc_status sc_kv_begin(sc_kv_memory *m, sc_error *err) {
    sc_status rc;
    if (!m->begun) {
        if (!m->rule.pbsa && (rc = begin_window(m, err))) return rc;
        m->begun = true;
        m->uploaded = m->rule.pbsa;
    }
    if (!m->uploaded && (rc = upload_window(m, err))) return rc;
    m->uploaded = true;
    return upload_now(m, m->chunk, err);
}

sc_kv_view sc_kv_view_of(const sc_kv_memory *m) {
    const int blocks = m->layout->blocks.blocks;
    if (m->rule.pbsa)
        return (sc_kv_view){.slots = m->device, .slot_stride = m->slots, .persistent = m->persistent, .window_base = m->rule.capacity,
                            .window = m->chunks * blocks, .chunk_now = m->now};
    return (sc_kv_view){.slots = m->device, .slot_stride = m->slots, .window = m->frames * (blocks / m->layout->frames), .chunk_now = m->now};
}

sc_status sc_kv_recache(sc_kv_memory *m, int64_t chunk, sc_kv_view *view, bool *held, sc_error *err) {
    const int blocks = m->layout->blocks.blocks, cf = m->layout->frames, per_frame = blocks / cf, own = m->frames - cf;
    const int back = (int)(m->chunk - chunk);
    int before = 0;
    sc_status rc;

    *view = sc_kv_view_of(m);
    if ((rc = upload_now(m, chunk, err))) return rc;
    if (m->rule.pbsa) {
        view->window -= back * blocks;
        *held = view->window > 0;
        return SC_OK;
    }
    *held = false;
    while (before < own && m->frame[before] < chunk * cf) before++;
    for (int p = before; p < own && m->frame[p] < (chunk + 1) * cf; p++) *held = *held || p >= m->rule.sink_frames;
    if (!*held) return SC_OK;
    view->window = (before + cf) * per_frame;
    m->uploaded = false;
    for (int l = 0; l < m->layers; l++)
        for (int h = 0; h < m->heads; h++)
            for (int s = 0; s < m->slots; s++) {
                const int place = s / per_frame, f = place - before;
                int run = place, from = before;
                if (f >= 0 && f < cf) { /* the chunk itself: to where its frame is held, else to the current chunk's pages */
                    while (from < own && m->frame[from] < chunk * cf + f) from++;
                    run = from < own && m->frame[from] == chunk * cf + f && from >= m->rule.sink_frames ? from : own + f;
                }
                const int64_t frame = f < 0 ? m->frame[place] : f < cf ? chunk * cf + f : 0;
                *host_slot(m, l, h, s) = (sc_kv_slot){.page = page_of(m, l, h, m->group[run] * per_frame + s % per_frame), .chunk = frame / cf,
                                                      .block = (int)(frame % cf) * per_frame + s % per_frame};
            }
    return upload_slots(m, err);
}

bool sc_kv_must_update(const sc_kv_memory *m) { return m->rule.pbsa && m->chunks == m->rule.window_chunks; }

void sc_kv_end(sc_kv_memory *m) {
    if (sc_kv_must_update(m)) {
        m->persistent += m->layout->blocks.blocks;
        if (m->persistent > m->rule.capacity) m->persistent = m->rule.capacity;
    } else if (m->rule.pbsa) {
        m->chunks++;
    }
    m->chunk++;
    m->begun = false;
}

sc_status sc_kv_flush(sc_kv_memory *m, sc_error *err) {
    const int blocks = m->layout->blocks.blocks, keep = 2; /* chunks in the window afterwards: the newest, and the one to come */
    sc_status rc;

    if (!m->rule.pbsa) { /* drop what lies between the sink and the newest chunk */
        const int sink = m->rule.sink_frames, chunk = m->layout->frames, drop = m->frames - sink - chunk;
        for (int i = 0; i < drop; i++) { /* rotate one page run at a time to the end */
            const int g = m->group[sink];
            memmove(m->group + sink, m->group + sink + 1, (size_t)(m->rule.window_frames - sink - 1) * sizeof *m->group);
            memmove(m->frame + sink, m->frame + sink + 1, (size_t)(m->frames - sink - 1) * sizeof *m->frame);
            m->group[m->rule.window_frames - 1] = g;
            m->frames--;
        }
        return SC_OK;
    }
    if (m->chunks <= keep) return SC_OK;
    if ((rc = m->dev->ops->download(m->dev, m->host, m->device, slot_bytes(m), err))) return rc;
    for (int l = 0; l < m->layers; l++)
        for (int h = 0; h < m->heads; h++) {
            sc_kv_slot *window = host_slot(m, l, h, m->rule.capacity);
            /* newest finished chunk and own chunk to the front, the pages of the older ones behind them */
            for (int from = m->chunks - keep, round = 0; round < from * blocks; round++) {
                const sc_kv_slot first = window[0];
                memmove(window, window + 1, (size_t)(m->chunks * blocks - 1) * sizeof *window);
                window[m->chunks * blocks - 1] = first;
            }
            for (int i = keep * blocks; i < m->rule.window_chunks * blocks; i++) { /* they wait for the chunks to come */
                window[i].chunk = m->chunk + i / blocks - (keep - 1);
                window[i].block = i % blocks;
            }
        }
    if ((rc = upload_slots(m, err))) return rc;
    m->chunks = keep;
    return SC_OK;
}

sc_status sc_kv_fork(sc_kv_memory *m, const sc_kv_memory *from, sc_error *err) {
    const int32_t shift = m->first_page - from->first_page;
    sc_status rc;

    assert(m->slots == from->slots && m->layers == from->layers && m->heads == from->heads && !from->begun);
    m->chunk = from->chunk;
    m->persistent = from->persistent;
    m->chunks = from->chunks;
    m->frames = from->frames;
    if (!m->rule.pbsa) { /* sc_kv_begin makes the device's table out of these */
        memcpy(m->frame, from->frame, (size_t)m->rule.window_frames * sizeof *m->frame);
        memcpy(m->group, from->group, (size_t)m->rule.window_frames * sizeof *m->group);
        return SC_OK;
    }
    if ((rc = m->dev->ops->download(m->dev, m->host, from->device, slot_bytes(m), err))) return rc;
    for (size_t i = 0; i < (size_t)m->layers * (size_t)m->heads * (size_t)m->slots; i++) m->host[i].page += shift;
    return upload_slots(m, err);
}

int sc_kv_held(const sc_kv_memory *m) {
    const int blocks = m->layout->blocks.blocks;
    return m->rule.pbsa ? m->persistent + (m->chunks - 1) * blocks : m->frames * (blocks / m->layout->frames);
}

sc_status sc_kv_find_persistent(sc_kv_memory *m, sc_error *err) {
    assert(m->rule.pbsa);
    return m->dev->ops->download(m->dev, m->host, m->device, slot_bytes(m), err);
}

sc_status sc_kv_find(sc_kv_memory *m, sc_error *err) {
    assert(!m->begun);
    return m->rule.pbsa ? sc_kv_find_persistent(m, err) : SC_OK;
}

/* The slot of the i-th that is held. */
static int slot_of(const sc_kv_memory *m, int i) { return m->rule.pbsa && i >= m->persistent ? m->rule.capacity + i - m->persistent : i; }

sc_kv_slot sc_kv_at(const sc_kv_memory *m, int layer, int head, int i) {
    const int per_frame = m->layout->blocks.blocks / m->layout->frames;
    sc_kv_slot slot;

    if (!m->rule.pbsa) slot = (sc_kv_slot){.page = page_of(m, layer, head, m->group[i / per_frame] * per_frame + i % per_frame)};
    else slot = *host_slot(m, layer, head, slot_of(m, i));
    slot.page -= m->first_page;
    return slot;
}

int sc_kv_place(const sc_kv_memory *m, int layer, int head, int i) { return page_of(m, layer, head, slot_of(m, i)); }

sc_status sc_kv_load(sc_kv_memory *m, const sc_kv_content *c, sc_error *err) {
    sc_status rc = sc_kv_reset(m, c->chunk - c->chunks + 1, err); /* the window's oldest chunk: its places are numbered from there */

    if (rc) return rc;
    m->chunk = c->chunk;
    m->persistent = c->persistent;
    m->chunks = c->chunks;
    m->frames = c->frames;
    if (!m->rule.pbsa) {
        memcpy(m->frame, c->frame, (size_t)c->frames * sizeof *m->frame);
        return SC_OK;
    }
    for (int l = 0; l < m->layers; l++)
        for (int h = 0; h < m->heads; h++)
            for (int s = 0; s < m->persistent; s++) {
                const sc_kv_slot *id = c->id + ((size_t)l * (size_t)m->heads + (size_t)h) * (size_t)m->persistent + s;
                host_slot(m, l, h, s)->chunk = id->chunk;
                host_slot(m, l, h, s)->block = id->block;
            }
    return upload_slots(m, err);
}

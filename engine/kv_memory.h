/* kv_memory.h - which keys and values one session remembers: slots of pages, per layer and head.
 *
 * Two kinds. PBSA (DESIGN.md section 1): slots [0, C) for persistent blocks, then window_chunks x blocks; which pages are where is
 * decided by memory_update on the device, head by head, so the host knows the counts only. WINDOW: capacity latent frames of which
 * the first `sink` stay; when a chunk would overflow, at its first pass, the frames right after the sink are dropped; the host keeps
 * the table, the same for all layers and heads, and uploads it once a chunk.
 *
 * A session owns a fixed run of pages for its whole life: ageing permutes slots, no key or value is ever moved, and nothing grows.
 * Thread: engine. */
#ifndef SC_ENGINE_KV_MEMORY_H
#define SC_ENGINE_KV_MEMORY_H
#include "engine/transformer.h"
#include <stdbool.h>

typedef struct {
    bool pbsa;
    int window_chunks, capacity;      /* PBSA */
    int window_frames, sink_frames;   /* WINDOW: capacity in latent frames, current chunk and sink included */
} sc_kv_rule;

typedef struct {
    sc_device *dev;
    sc_kv_rule rule;
    const sc_layout *layout;
    int layers, heads, slots;         /* slots of one head */
    int first_page;                   /* of the session's run of layers * heads * slots pages */
    sc_kv_slot *device;               /* [layers][heads][slots] */
    sc_kv_slot *saved;                /* PBSA: device, of the same size: the slots before an update */
    sc_kv_slot *host;                 /* scratch of the same size */
    int64_t chunk;                    /* the current chunk, as slots know it */
    int64_t *now;                     /* device [1]: the chunk whose passes run; chunk, but for a recache */
    int persistent;                   /* PBSA: blocks of P */
    int chunks;                       /* PBSA: chunks in the window, the current one included */
    int frames;                       /* WINDOW: latent frames held, the current chunk included */
    int64_t *frame;                   /* WINDOW: [window_frames] latent frame in each place */
    int *group;                       /* WINDOW: [window_frames] which run of pages holds it */
    bool begun;
    bool uploaded;                    /* WINDOW: the device has this chunk's table */
} sc_kv_memory;

/* Slots a head needs under this rule. */
int sc_kv_slots(const sc_kv_rule *rule, const sc_layout *layout);

/* Chunks before the current one of which a window holds anything but sink frames: so many clean latents a recache can use. */
int sc_kv_past(const sc_kv_rule *rule, const sc_layout *layout);

/* Errors: SC_EINVAL when capacity < sink + chunk (the reference would silently overwrite its sink), SC_ENOMEM. */
sc_status sc_kv_init(sc_kv_memory *m, sc_device *dev, const sc_kv_rule *rule, const sc_layout *layout, int layers, int heads, int first_page,
                     sc_error *err);
void sc_kv_free(sc_kv_memory *m);

/* Forget everything; the next chunk is `chunk`. */
sc_status sc_kv_reset(sc_kv_memory *m, int64_t chunk, sc_error *err);

/* Before the first pass of a chunk. What failed may be tried again. */
sc_status sc_kv_begin(sc_kv_memory *m, sc_error *err);

/* What a pass of the current chunk sees, of layer 0. */
sc_kv_view sc_kv_view_of(const sc_kv_memory *m);

/* PBSA: the clean pass of this chunk must update the memory (the next chunk pushes the oldest out). */
bool sc_kv_must_update(const sc_kv_memory *m);

/* For a recache, after sc_kv_begin: the view in which a clean pass of finished chunk `chunk` writes that chunk's pages again, seeing what is
 * held of the chunks before it. PBSA: the window up to it, and P. WINDOW: sink frames stay as they are; what the chunk has of them, and
 * frames of it that are no longer held, go to the pages of the current chunk, whose own passes write those anew. *held false: nothing of
 * the chunk would stay, leave it out. sc_kv_begin then puts the current chunk's view in force again; both may be tried again. */
sc_status sc_kv_recache(sc_kv_memory *m, int64_t chunk, sc_kv_view *view, bool *held, sc_error *err);

/* PBSA: an update changes the slots layer by layer, on the device. Saved before the pass and restored after one that failed half way,
 * they let the pass be made again; its pages it writes anew anyhow. WINDOW: nothing to do. */
sc_status sc_kv_save(sc_kv_memory *m, sc_error *err);
sc_status sc_kv_restore(sc_kv_memory *m, sc_error *err);

/* After the clean pass: counts move on, the next chunk is current. */
void sc_kv_end(sc_kv_memory *m);

/* PBSA, between chunks: keep P and the newest chunk only. WINDOW: keep the sink and the newest chunk. */
sc_status sc_kv_flush(sc_kv_memory *m, sc_error *err);

/* Between chunks: `m`, fresh from sc_kv_init with the rule and sizes of `from`, holds what that one holds, each page in the same place of its
 * own run. What is in the pages the caller copies, run to run. PBSA: waits for the device, whose slots the host does not know. */
sc_status sc_kv_fork(sc_kv_memory *m, const sc_kv_memory *from, sc_error *err);

/* Between chunks: what of a head is not free. i counts P first, then the window, oldest first. held: how many. find: the host learns where they lie (PBSA:
 * waits for the device); then at: its id, and its page counted from first_page. load: `m`, fresh from sc_kv_init, holds at `chunk` what is
 * described, its pages where sc_kv_place says; id [layers][heads][persistent] and frame [frames] are borrowed, and their numbers have been checked. */
typedef struct {
    int64_t chunk;
    int persistent, chunks, frames;
    const sc_kv_slot *id;   /* PBSA */
    const int64_t *frame;   /* WINDOW */
} sc_kv_content;
int sc_kv_held(const sc_kv_memory *m);
sc_status sc_kv_find_persistent(sc_kv_memory *m, sc_error *err); /* PBSA: at any time between passes, but good for at() of P alone */
sc_status sc_kv_find(sc_kv_memory *m, sc_error *err);
sc_kv_slot sc_kv_at(const sc_kv_memory *m, int layer, int head, int i);
sc_status sc_kv_load(sc_kv_memory *m, const sc_kv_content *content, sc_error *err);
int sc_kv_place(const sc_kv_memory *m, int layer, int head, int i); /* page of what was loaded */

/* K = max(1, ceil(keep_ratio * window blocks)), the ratio as the decimal that was written (0.3 * 10 is 3, not 4). */
int sc_kv_keep(double keep_ratio, int window_blocks);

#endif

/* memory_map.c - which blocks a session has kept for good, as a map over its picture.
 *
 * Which slots hold what is decided on the device, head by head (kv_memory.h), so somebody who asks has them brought to the host: 16 bytes a slot, 1.8 MB of
 * the 1.3B model, behind the passes that were asked for before. Only P is looked at; it changes with the clean pass that ends a chunk and is the same
 * for all passes of one.
 * Thread: engine, between two passes. */
#include "engine/internal.h"

#include <stdlib.h>
#include <string.h>

void sc_memory_map_free(sc_memory_map *m) {
    free(m->held);
    free(m->oldest);
    memset(m, 0, sizeof *m);
}

sc_status sc_session_memory(sc_session *s, sc_memory_map *out, sc_error *err) {
    const sc_engine *e = s->engine;
    sc_kv_memory *m = &s->memory;
    sc_status rc;

    *out = (sc_memory_map){.chunk = s->chunk, .layers = m->layers, .heads = m->heads};
    if (s->failed) return sc_fail(err, s->error.status, "%s", s->error.text);
    if (!m->rule.pbsa) return SC_OK;
    const int *tile = e->cfg.memory.tile, scale = sc_decoder_scale(e->decoder);
    out->rows = (e->layout->rows + tile[1] - 1) / tile[1];
    out->columns = (e->layout->cols + tile[2] - 1) / tile[2];
    out->tile_width = tile[2] * e->cfg.dit.patch[2] * scale;
    out->tile_height = tile[1] * e->cfg.dit.patch[1] * scale;
    out->capacity = m->rule.capacity;
    out->persistent = m->persistent;
    const size_t places = (size_t)out->rows * (size_t)out->columns;
    out->held = calloc((size_t)m->layers * places, sizeof *out->held);
    out->oldest = malloc(places * sizeof *out->oldest);
    rc = out->held && out->oldest ? sc_kv_find_persistent(m, err) : sc_fail(err, SC_ENOMEM, "memory map: out of memory");
    if (rc) {
        sc_memory_map_free(out);
        return rc;
    }
    for (size_t i = 0; i < places; i++) out->oldest[i] = -1;
    for (int l = 0; l < m->layers; l++)
        for (int h = 0; h < m->heads; h++)
            for (int i = 0; i < m->persistent; i++) {
                const sc_kv_slot slot = sc_kv_at(m, l, h, i);
                int64_t *oldest = &out->oldest[slot.block];
                out->held[(size_t)l * places + (size_t)slot.block]++;
                if (*oldest < 0 || slot.chunk < *oldest) *oldest = slot.chunk;
            }
    return SC_OK;
}

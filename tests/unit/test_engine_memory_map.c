/* test_engine_memory_map.c - the map of what a session keeps for good, against the slots themselves; between any two passes, and without a trace in the frames. */
#pragma GCC diagnostic ignored "-Wunused-function" /* of the stories not all are told */
#include "tests/unit/engine_stories.h"

/* The slots lie in the host's memory here: P is the first of each head's. */
static void is_what_the_slots_say(sc_session *s, const sc_memory_map *map) {
    const sc_kv_memory *m = &s->memory;
    const int places = map->rows * map->columns;
    uint32_t *held = calloc((size_t)(m->layers * places), sizeof *held);
    int64_t *oldest = malloc((size_t)places * sizeof *oldest);

    for (int i = 0; i < places; i++) oldest[i] = INT64_MAX;
    for (int l = 0; l < m->layers; l++)
        for (int h = 0; h < m->heads; h++)
            for (int i = 0; i < m->persistent; i++) {
                const sc_kv_slot *slot = &m->device[(l * m->heads + h) * m->slots + i];
                held[l * places + slot->block]++;
                if (slot->chunk < oldest[slot->block]) oldest[slot->block] = slot->chunk;
            }
    for (int i = 0; i < places; i++) if (oldest[i] == INT64_MAX) oldest[i] = -1;
    assert_memory_equal(map->held, held, (size_t)(m->layers * places) * sizeof *held);
    assert_memory_equal(map->oldest, oldest, (size_t)places * sizeof *oldest);
    free(held);
    free(oldest);
}

static void look(sc_session *s) {
    const sc_engine *e = s->engine;
    sc_memory_map map;
    sc_error err = {0};
    uint64_t all = 0;

    if (sc_session_memory(s, &map, &err)) fail_msg("memory: %s", err.text);
    assert_true(map.chunk == sc_session_next(s).chunk && map.layers == e->cfg.dit.layers && map.heads == e->cfg.dit.heads);
    if (!e->rule.pbsa) {
        assert_true(!map.rows && !map.columns && !map.capacity && !map.persistent && !map.held && !map.oldest);
        return;
    }
    assert_int_equal(map.rows * map.columns, e->layout->blocks.blocks);
    assert_true(map.columns * map.tile_width >= e->info.width && (map.columns - 1) * map.tile_width < e->info.width);
    assert_true(map.rows * map.tile_height >= e->info.height && (map.rows - 1) * map.tile_height < e->info.height);
    assert_true(map.persistent <= map.capacity && map.capacity == e->rule.capacity);
    for (int l = 0; l < map.layers; l++) { /* every head keeps as many as any other */
        uint64_t layer = 0;
        for (int i = 0; i < map.rows * map.columns; i++) layer += map.held[l * map.rows * map.columns + i];
        assert_true(layer == (uint64_t)(map.heads * map.persistent));
        all += layer;
    }
    for (int i = 0; i < map.rows * map.columns; i++) assert_true(map.oldest[i] < (int64_t)map.chunk);
    is_what_the_slots_say(s, &map);
    assert_true((all > 0) == (map.persistent > 0));
    sc_memory_map_free(&map);
    assert_true(!map.held && !map.oldest);
}

static void tell(sc_engine *e, const story *k, int kind, const uint64_t *want) {
    sc_session *s = begin(e);
    sc_error err = {0};
    int most = 0;

    for (int c = 0; c < CHUNKS; c++) {
        prompts_of(k, s);
        do {
            look(s);
            if (sc_engine_run(e, &s, 1, &err)) fail_msg("pass: %s", err.text);
        } while (sc_session_next(s).chunk == (uint64_t)c);
        expect(k, kind, "who was looked at", s, want[c]);
        if (s->memory.persistent > most) most = s->memory.persistent;
        if (k->how == SC_CUT && c == k->change_at) assert_int_equal(s->memory.persistent, 0);
    }
    look(s);
    assert_true(most > 0 || !e->rule.pbsa);
    sc_session_destroy(s);
}

static void the_map_is_what_the_slots_say(void **state) {
    (void)state;
    tell_all(tell);
}

/* A call that fails leaves nothing behind, and the stream goes on. */
static void a_map_that_cannot_be_had_costs_nothing(void **state) {
    sc_engine *e = open_kind(PBSA);
    sc_session *s = begin(e);
    sc_memory_map map;
    sc_error err = {0};

    (void)state;
    for (int c = 0; c < 5; c++) chunk_of(&s, 1);
    real_ops = e->dev->ops;
    sc_ops ops = *real_ops;
    ops.download = failing_download;
    e->dev->ops = &ops;
    countdown = 0, failure = SC_EGPU;
    assert_int_equal(sc_session_memory(s, &map, &err), SC_EGPU);
    assert_non_null(strstr(err.text, "says the test"));
    assert_true(!map.held && !map.oldest);
    countdown = -1;
    look(s);
    e->dev->ops = real_ops;
    chunk_of(&s, 1);
    assert_false(sc_session_failed(s, NULL));
    sc_session_destroy(s);
    sc_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_map_is_what_the_slots_say), cmocka_unit_test(a_map_that_cannot_be_had_costs_nothing)};
    return cmocka_run_group_tests(tests, NULL, tiny_remove);
}

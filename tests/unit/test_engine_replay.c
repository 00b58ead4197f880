/* test_engine_replay.c - passes and decodings that a device plays again instead of having them asked for again (kernels/ops.h, replay).
 *
 * A recording device stands in for a CUDA graph: the first call with a key notes every operation with its arguments, later calls make the
 * noted ones without asking the engine. What the key does not say is then frozen, so that frames differ from those of the plain device as
 * soon as a pass depends on anything that is neither in its key nor in device memory. */
#include "tests/unit/engine_model.h"

enum { CROWD = 3, CHUNKS = 9, NOTES = 60000, KEYS = 2000 };

typedef struct { void *dst; const void *src; size_t bytes; } copy_args;
typedef struct { float *x; const float *table; const int32_t *row; int m, dim; } add_rows_args;

#define NAME(name, args) OP_##name,
enum { SC_OPS_WITH_ARGS(NAME) OP_copy, OP_add_rows };

typedef struct {
    int op;
    void *args;
    sc_layer_norm_args then; /* of a linear */
} note;

static struct {
    const sc_ops *real;
    sc_ops table;
    bool noting;
    note note[NOTES];
    int notes;
    struct { uint64_t key[SC_REPLAY_WORDS]; int words, first, count; } record[KEYS];
    int records;
    long recorded, replayed;
} device;

static void *keep(const void *args, size_t bytes) {
    void *p = malloc(bytes);
    assert_non_null(p);
    return memcpy(p, args, bytes);
}

static note *add_note(int op, const void *args, size_t bytes) {
    if (!device.noting) return NULL;
    assert_true(device.notes < NOTES);
    note *n = &device.note[device.notes++];
    *n = (note){.op = op, .args = keep(args, bytes)};
    return n;
}

#define DEFINE(name, type)                                                                    \
    static sc_status note_##name(sc_device *d, const type *a, sc_error *err) {                \
        add_note(OP_##name, a, sizeof *a);                                                    \
        return device.real->name(d, a, err);                                                  \
    }
SC_OPS_WITH_ARGS(DEFINE)

static sc_status note_linear_then(sc_device *d, const sc_linear_args *a, sc_error *err) {
    note *n = add_note(OP_linear, a, sizeof *a);
    if (n && a->then) {
        n->then = *a->then;
        ((sc_linear_args *)n->args)->then = &n->then;
    }
    return device.real->linear(d, a, err);
}

static sc_status note_copy(sc_device *d, void *dst, const void *src, size_t bytes, sc_error *err) {
    add_note(OP_copy, &(copy_args){dst, src, bytes}, sizeof(copy_args));
    return device.real->copy(d, dst, src, bytes, err);
}

static sc_status note_add_rows(sc_device *d, float *x, const float *table, const int32_t *row, int m, int dim, sc_error *err) {
    add_note(OP_add_rows, &(add_rows_args){x, table, row, m, dim}, sizeof(add_rows_args));
    return device.real->add_rows(d, x, table, row, m, dim, err);
}

static sc_status play_note(sc_device *d, const note *n, sc_error *err) {
    const copy_args *c = n->args;
    const add_rows_args *r = n->args;
    switch (n->op) {
#define PLAY(name, type) case OP_##name: return device.real->name(d, n->args, err);
        SC_OPS_WITH_ARGS(PLAY)
    case OP_copy: return device.real->copy(d, c->dst, c->src, c->bytes, err);
    case OP_add_rows: return device.real->add_rows(d, r->x, r->table, r->row, r->m, r->dim, err);
    }
    return SC_EINVAL;
}

/* What a pass may not do: nothing of these can be recorded. */
static sc_status refuse_alloc(sc_device *d, void **out, size_t bytes, sc_error *err) {
    assert_false(device.noting);
    return device.real->alloc(d, out, bytes, err);
}
static sc_status refuse_upload(sc_device *d, void *dst, const void *host, size_t n, sc_error *err) {
    assert_false(device.noting);
    return device.real->upload(d, dst, host, n, err);
}
static sc_status refuse_download(sc_device *d, void *host, const void *src, size_t n, sc_error *err) {
    assert_false(device.noting);
    return device.real->download(d, host, src, n, err);
}
static sc_status refuse_sync(sc_device *d, sc_error *err) {
    assert_false(device.noting);
    return device.real->sync(d, err);
}

static sc_status replay(sc_device *d, const sc_replay_args *a, sc_error *err) {
    sc_status rc = SC_OK;
    assert_true(a->words >= 1 && a->words <= SC_REPLAY_WORDS);
    for (int i = 0; i < device.records; i++) {
        if (device.record[i].words != a->words || memcmp(device.record[i].key, a->key, (size_t)a->words * sizeof *a->key)) continue;
        for (int n = 0; n < device.record[i].count && !rc; n++) rc = play_note(d, &device.note[device.record[i].first + n], err);
        device.replayed++;
        return rc;
    }
    assert_true(device.records < KEYS);
    const int first = device.notes;
    device.noting = true;
    rc = a->launch(a->ctx, err);
    device.noting = false;
    device.record[device.records].words = a->words;
    device.record[device.records].first = first;
    device.record[device.records].count = device.notes - first;
    memcpy(device.record[device.records++].key, a->key, (size_t)a->words * sizeof *a->key);
    device.recorded++;
    return rc;
}

static sc_engine *open_recording(const tiny_shape *shape) {
    sc_engine *e = tiny_open(shape, "cpu", CROWD);
    sc_ops *t = &device.table;
    memset(&device, 0, sizeof device);
    device.real = e->dev->ops;
    *t = *device.real;
#define SET(name, args) if (t->name) t->name = note_##name;
    SC_OPS_WITH_ARGS(SET)
    t->linear = note_linear_then;
    t->copy = note_copy;
    t->add_rows = note_add_rows;
    t->alloc = refuse_alloc;
    t->upload = refuse_upload;
    t->download = refuse_download;
    t->sync = refuse_sync;
    t->replay = replay;
    e->dev->ops = t;
    return e;
}

static void close_recording(sc_engine *e) {
    e->dev->ops = device.real;
    for (int i = 0; i < device.notes; i++) free(device.note[i].args);
    sc_engine_close(e);
}

static tiny_shape shape_of(int kind) {
    tiny_shape s = tiny_default;
    if (kind == 1) s.window_frames = 7, s.sink_frames = 1;
    if (kind == 2) s.window_chunks = 2, s.capacity = 5, s.steps = "[1000, 800, 400]";
    return s;
}

/* CROWD streams, the last begun two chunks later and every second chunk in one batch with the others; their prompts change on the way. */
static void play(sc_engine *e, uint64_t *hash) {
    static const char *const words[CROWD] = {"a red car", "snow", "fog over the sea"};
    static const char *const same_length = "a car red";
    static const sc_transition how[CROWD] = {SC_SWITCH, SC_RECACHE, SC_CUT};
    sc_session *s[CROWD];
    sc_error err = {0};

    for (int i = 0; i < CROWD; i++) s[i] = tiny_session(e, 20 + (uint64_t)i, words[i]), hash[i] = 0;
    for (int c = 0; c < CHUNKS; c++) {
        const int n = c < 2 ? CROWD - 1 : CROWD, together = c % 2 ? n : 1;
        for (int i = 0; c == 6 && i < n; i++) tiny_prompt(s[i], i ? words[(i + 1) % CROWD] : same_length, 2, how[i], 1);
        if (c == 6) assert_int_equal(s[0]->prompt->tokens, s[0]->next_prompt->tokens); /* only the address of its keys is another */
        for (int first = 0; first < n; first += together) {
            bool clean = false;
            for (; !clean;) {
                const sc_pass pass = sc_session_next(s[first]);
                clean = pass.kind == SC_PASS_CLEAN;
                if (sc_engine_run(e, s + first, together, &err)) fail_msg("%s", err.text);
                for (int i = first; pass.kind == SC_PASS_DECODE && i < first + together; i++) {
                    sc_frames f;
                    if (sc_session_frames(s[i], &f, &err)) fail_msg("%s", err.text);
                    hash[i] = tiny_hash(hash[i], f.data, (size_t)f.count * f.frame_bytes);
                }
            }
        }
    }
    for (int i = 0; i < CROWD; i++) sc_session_destroy(s[i]);
}

static void played_again_passes_give_the_frames_of_asked_for_ones(void **state) {
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        const tiny_shape shape = shape_of(kind);
        uint64_t want[CROWD], got[CROWD];
        sc_engine *e = tiny_open(&shape, "cpu", CROWD);
        play(e, want);
        sc_engine_close(e);
        e = open_recording(&shape);
        for (int round = 0; round < 2; round++) { /* the second: of sessions that may lie where the first ones lay */
            play(e, got);
            for (int i = 0; i < CROWD; i++)
                if (got[i] != want[i]) fail_msg("kind %d, round %d: session %d has other frames than asked for", kind, round, i);
        }
        assert_true(want[0] != want[1] && want[1] != want[2]);
        assert_true(device.replayed > 40); /* a check that nothing passes by */
        close_recording(e);
    }
}

static void a_stream_whose_memory_is_full_asks_for_nothing_new(void **state) {
    sc_engine *e = open_recording(&tiny_default);
    sc_session *s = tiny_session(e, 3, "a boat");

    (void)state;
    for (int c = 0; c < 8; c++) tiny_chunk(s, true);
    const long recorded = device.recorded, replayed = device.replayed;
    const int steps = e->cfg.step_count;
    for (int c = 0; c < 20; c++) tiny_chunk(s, true);
    assert_int_equal(device.recorded, recorded);
    assert_int_equal(device.replayed, replayed + 20 * (steps + 2));
    sc_session_destroy(s);
    close_recording(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(played_again_passes_give_the_frames_of_asked_for_ones),
        cmocka_unit_test(a_stream_whose_memory_is_full_asks_for_nothing_new),
    };
    return cmocka_run_group_tests(tests, NULL, tiny_remove);
}

/* cuda_scenes.h - sessions with random pages in scattered order, blocks of given lengths and some persistent blocks, on the twin and
 * on the card. */
#ifndef SC_TESTS_CUDA_SCENES_H
#define SC_TESTS_CUDA_SCENES_H
#include "tests/cuda/cuda_check.h"

enum { MAX_BLOCKS = 12 };

typedef struct {
    int seqs, heads, dim, blocks, chunks, persistent, capacity, frame_pairs, max_distance, page_rows, lengths[MAX_BLOCKS];
    int tokens, slots, pages;
    int32_t start_host[MAX_BLOCKS + 1];
    double theta[SC_MAX_ROPE_PAIRS];
    buffer start, in_chunk, k, v, rep_k, slot, now; /* slot: [seqs][heads][slots], 4 words each; now: [seqs], 2 words each */
} scene;

static const scene scenes[] = {
    {.seqs = 1, .heads = 1, .dim = 2, .blocks = 1, .chunks = 1, .frame_pairs = 1, .max_distance = -1, .page_rows = 1, .lengths = {1}},
    {.seqs = 1, .heads = 1, .dim = 128, .blocks = 1, .chunks = 1, .capacity = 1, .frame_pairs = 22, .max_distance = 18, .page_rows = 64, .lengths = {1}},
    {.seqs = 2, .heads = 3, .dim = 128, .blocks = 8, .chunks = 3, .persistent = 8, .capacity = 8, .frame_pairs = 22, .max_distance = 18, .page_rows = 60,
     .lengths = {60, 60, 60, 60, 60, 60, 60, 60}},
    {.seqs = 1, .heads = 2, .dim = 128, .blocks = 3, .chunks = 2, .persistent = 0, .capacity = 4, .frame_pairs = 22, .max_distance = 18, .page_rows = 64, .lengths = {64, 1, 33}},
    {.seqs = 5, .heads = 3, .dim = 128, .blocks = 7, .chunks = 3, .persistent = 5, .capacity = 11, .frame_pairs = 22, .max_distance = -1, .page_rows = 61, .lengths = {61, 59, 7, 1, 2, 53, 61}},
    {.seqs = 3, .heads = 2, .dim = 32, .blocks = 4, .chunks = 3, .persistent = 3, .capacity = 5, .frame_pairs = 6, .max_distance = -1, .page_rows = 16, .lengths = {16, 15, 13, 1}},
    {.seqs = 2, .heads = 1, .dim = 10, .blocks = 5, .chunks = 1, .persistent = 2, .capacity = 2, .frame_pairs = 2, .max_distance = 0, .page_rows = 61, .lengths = {61, 59, 12, 13, 11}},
    {.seqs = 1, .heads = 2, .dim = 48, .blocks = 2, .chunks = 4, .persistent = 1, .capacity = 1, .frame_pairs = 24, .max_distance = 5, .page_rows = 64, .lengths = {63, 64}},
};
enum { SCENES = sizeof scenes / sizeof *scenes };

static void set_scene(scene *c, const scene *from, bool one_age, sc_dtype act) {
    *c = *from;
    for (int b = 0; b < c->blocks; b++) c->start_host[b + 1] = c->start_host[b] + c->lengths[b];
    c->tokens = c->start_host[c->blocks];
    c->slots = c->capacity + c->chunks * c->blocks;
    c->pages = c->seqs * c->heads * c->slots + 3;
    if (c->pages % 5 == 0) c->pages++;
    const size_t cells = (size_t)c->pages * (size_t)(c->page_rows * c->dim), turns = (size_t)(c->tokens * c->dim), slots = (size_t)(c->seqs * c->heads * c->slots);
    float *turn = malloc(turns * sizeof *turn);
    for (size_t i = 0; i < turns / 2; i++) turn[2 * i] = cosf((float)i), turn[2 * i + 1] = sinf((float)i);
    c->start = words((size_t)c->blocks + 1, c->start_host);
    c->in_chunk = make_buffer(turns, SC_F32, turn);
    c->k = input(cells, act, 1), c->v = input(cells, act, 1), c->rep_k = input((size_t)(c->pages * c->dim), SC_F32, 1);
    for (int i = 0; i < c->frame_pairs; i++) c->theta[i] = pow(10000, -(double)i / c->frame_pairs);
    sc_kv_slot *slot = calloc(slots, sizeof *slot);
    for (int page = 0, s = 0; s < c->seqs; s++)
        for (int h = 0; h < c->heads; h++)
            for (int j = 0; j < c->slots; j++) {
                sc_kv_slot *at = &slot[(s * c->heads + h) * c->slots + j];
                at->page = (page++ * 5 + 2) % c->pages; /* scattered, distinct: 5 does not divide the number of pages */
                if (j < c->persistent) at->chunk = one_age ? 30 : 30 + j / 2 + h, at->block = (j + h) % c->blocks;
                if (j >= c->capacity) at->chunk = 40 + s - c->chunks + 1 + (j - c->capacity) / c->blocks, at->block = (j - c->capacity) % c->blocks;
            }
    int64_t now[SC_MAX_BATCH];
    for (int s = 0; s < c->seqs; s++) now[s] = 40 + s;
    c->now = words((size_t)c->seqs * 2, now);
    c->slot = words(slots * sizeof *slot / 4, slot);
    free(slot);
    free(turn);
}

static void drop_scene(scene *c, bool slots) {
    drop(&c->start), drop(&c->in_chunk), drop(&c->now);
    if (slots) drop(&c->slot);
}

static void views_of(const scene *c, sc_kv_view *view, bool card) {
    sc_kv_slot *slots = card ? c->slot.dev : (void *)c->slot.host;
    const int64_t *now = card ? c->now.dev : (void *)c->now.host;
    for (int s = 0; s < c->seqs; s++)
        view[s] = (sc_kv_view){slots + (size_t)(s * c->heads * c->slots), c->slots, c->persistent, c->capacity, c->chunks * c->blocks, now + s};
}

static sc_blocks blocks_of(const scene *c, bool card) { return (sc_blocks){c->tokens, c->blocks, card ? c->start.dev : (void *)c->start.host, c->start_host}; }
static sc_rope rope_of(const scene *c, bool card) { return (sc_rope){card ? c->in_chunk.dev : (void *)c->in_chunk.host, c->theta, c->frame_pairs, 3, c->max_distance}; }
static sc_pages pages_of(const scene *c, bool card) {
    return (sc_pages){card ? c->k.dev : (void *)c->k.host, card ? c->v.dev : (void *)c->v.host, card ? c->rep_k.dev : (void *)c->rep_k.host, c->pages, c->page_rows, c->dim};
}

#endif

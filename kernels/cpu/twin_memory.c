/* twin_memory.c - the definition of the memory update: which blocks survive when the oldest chunk leaves the window.
 *
 * Per sequence and head, with the scores S that `select` left (rows: query blocks; columns: P, then L):
 *     s_j = sum over query blocks of softmax_j(S)
 * Candidates are P and the oldest chunk's blocks, both already in ascending id, so a lower column is a lower id and decides ties.
 * The slots move, the pages do not:
 *
 *     before  [ P | free ....... | oldest chunk | younger chunks ............... ]
 *     after   [ P' | free ...... | younger chunks ............... | next chunk   ]
 *              0                  window_base
 *
 * Free pages that P' does not need keep their order, the freed candidates follow in ascending order, and together they fill
 * [P', window_base) and then the next chunk's slots. Entries of [P', window_base) get chunk 0, block 0: only their page counts.
 *
 * The work is a few thousand exponentials per head, so the fast table uses this as it is. All sums are double. Thread: engine. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* mass[j] = sum over rows of softmax_j(score), columns long. A sum that is no number (scores of a broken model) becomes -1,
 * below all others, so that the order stays total and exactly `capacity` blocks survive. */
static void attention_mass(double *mass, const float *score, int score_stride, int rows, int columns) {
    for (int j = 0; j < columns; j++) mass[j] = 0;
    for (int i = 0; i < rows; i++) {
        const float *s = score + (size_t)i * (size_t)score_stride;
        double top = -INFINITY, sum = 0;
        for (int j = 0; j < columns; j++) top = s[j] > top ? s[j] : top;
        for (int j = 0; j < columns; j++) sum += exp(s[j] - top);
        for (int j = 0; j < columns; j++) mass[j] += exp(s[j] - top) / sum;
    }
    for (int j = 0; j < columns; j++) mass[j] = mass[j] >= 0 ? mass[j] : -1;
}

/* Candidate c is kept when fewer than `capacity` others come before it. Compared in f32, the precision of the scores: sums that
 * differ by less than that are ties. */
static bool survives(const double *mass, int candidates, int c, int capacity) {
    int before = 0;
    for (int i = 0; i < candidates; i++)
        if ((float)mass[i] > (float)mass[c] || ((float)mass[i] == (float)mass[c] && i < c)) before++;
    return before < capacity;
}

/* Moves the slots of one head. old: room for slot_stride slots, spare: for as many pages. */
static void move_slots(sc_kv_slot *slots, const sc_kv_view *v, const bool *kept, int blocks, sc_kv_slot *old, int32_t *spare) {
    int p = 0, free_pages = 0, used = 0, end = v->window_base + v->window;

    memcpy(old, slots, (size_t)end * sizeof *old);
    for (int i = v->persistent; i < v->window_base; i++) spare[free_pages++] = old[i].page;
    for (int c = 0; c < v->persistent + blocks; c++) {
        const sc_kv_slot *from = &old[c < v->persistent ? c : v->window_base + c - v->persistent];
        if (kept[c]) slots[p++] = *from;
        else spare[free_pages++] = from->page;
    }
    assert(p <= v->window_base);
    for (int i = p; i < v->window_base; i++) slots[i] = (sc_kv_slot){.page = spare[used++]};
    for (int i = 0; i < v->window - blocks; i++) slots[v->window_base + i] = old[v->window_base + blocks + i];
    for (int b = 0; b < blocks; b++)
        slots[end - blocks + b] = (sc_kv_slot){.page = spare[used++], .block = b, .chunk = *v->chunk_now + 1};
    assert(used == free_pages);
}

sc_status sc_twin_memory_update(sc_device *dev, const sc_memory_update_args *a, sc_error *err) {
    int blocks = a->blocks.blocks, most = 0;
    double *mass = NULL;
    sc_kv_slot *old = NULL;
    int32_t *spare = NULL;
    bool *kept = NULL;
    sc_status rc = SC_OK;

    (void)dev;
    for (int s = 0; s < a->seqs; s++) {
        int n = a->view[s].window_base + a->view[s].window;
        most = n > most ? n : most;
    }
    mass = malloc((size_t)most * sizeof *mass);
    old = malloc((size_t)most * sizeof *old);
    spare = malloc((size_t)most * sizeof *spare);
    kept = malloc((size_t)most * sizeof *kept);
    if (!mass || !old || !spare || !kept) { rc = sc_fail(err, SC_ENOMEM, "memory update: out of memory"); goto cleanup; }
    for (int s = 0; s < a->seqs; s++)
        for (int h = 0; h < a->heads; h++) {
            const sc_kv_view *view = &a->view[s];
            int columns = view->persistent + view->window, candidates = view->persistent + blocks, n = 0;
            size_t head = (size_t)s * (size_t)a->heads + (size_t)h;

            assert(view->window >= blocks && view->persistent <= view->window_base);
            attention_mass(mass, a->score + head * (size_t)blocks * (size_t)a->score_stride, a->score_stride, blocks, columns);
            for (int c = 0; c < candidates; c++) kept[c] = survives(mass, candidates, c, a->capacity);
            if (a->mass) for (int j = 0; j < columns; j++) a->mass[head * (size_t)a->score_stride + (size_t)j] = (float)mass[j];
            if (a->kept) {
                int32_t *out = a->kept + head * (size_t)a->capacity;
                for (int c = 0; c < candidates; c++) if (kept[c]) out[n++] = c;
                while (n < a->capacity) out[n++] = -1;
            }
            move_slots(view->slots + (size_t)h * (size_t)view->slot_stride, view, kept, blocks, old, spare);
        }
cleanup:
    free(mass);
    free(old);
    free(spare);
    free(kept);
    return rc;
}

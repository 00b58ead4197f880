/* fuzz_snapshot.c - libFuzzer over what is said to be a snapshot of a session (engine/snapshot_format.h).
 *
 * The first byte picks the kind of memory. The header's constant part is put in front and the size is set right, so that most runs get to the numbers;
 * whatever is taken must hold its promises: the parts are inside, the numbers in range, all that must be finite is. tests/fuzz/run.sh builds and runs it. */
#include "engine/snapshot_format.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD = 88 + 8 * SC_SHAPE_NUMBERS };

static void check(bool ok) {
    if (!ok) abort();
}

static sc_snapshot_shape shape_of(bool pbsa) {
    sc_snapshot_shape s = {.digest = "0123456789012345678901234567890123456789012345678901234567890123",
                           .number = {[SC_SHAPE_PBSA] = pbsa, [SC_SHAPE_DTYPE] = SC_F16, [SC_SHAPE_LAYERS] = 1, [SC_SHAPE_HEADS] = 2, [SC_SHAPE_HEAD_DIM] = 2,
                                      [SC_SHAPE_PAGE_ROWS] = 2, [SC_SHAPE_BLOCKS] = 6, [SC_SHAPE_CHUNK_FRAMES] = 3, [SC_SHAPE_WINDOW_CHUNKS] = pbsa ? 3 : 0,
                                      [SC_SHAPE_CAPACITY] = pbsa ? 4 : 0, [SC_SHAPE_WINDOW_FRAMES] = pbsa ? 0 : 7, [SC_SHAPE_SINK_FRAMES] = pbsa ? 0 : 1,
                                      [SC_SHAPE_LATENT] = 4, [SC_SHAPE_PAST] = 2, [SC_SHAPE_DECODER_BYTES] = 12, [SC_SHAPE_FRAME_BYTES] = 6,
                                      [SC_SHAPE_TEXT_DIM] = 2, [SC_SHAPE_TEXT_LEN] = 8}};
    return s;
}

/* Numbers that are right want so many bytes: now it has them, those that it had over and over. NULL: numbers that are not. */
static unsigned char *of_right_size(unsigned char *b, size_t n, size_t right) {
    const uint64_t bytes = right;
    if (right < HEAD || right > 1 << 20 || n <= HEAD || !(b = realloc(b, right > n ? right : n))) return NULL;
    for (size_t i = n; i < right; i++) b[i] = b[i - (n - HEAD)];
    memcpy(b + 16, &bytes, sizeof bytes);
    return b;
}

/* Touches every byte of a part. */
static unsigned inside(const void *bytes, size_t n, const void *part, size_t size) {
    const unsigned char *b = bytes, *p = part;
    unsigned sum = 0;
    check(p >= b && size <= n && (size_t)(p - b) <= n - size);
    for (size_t i = 0; i < size; i++) sum += p[i];
    return sum;
}

static void holds(const sc_snapshot_shape *shape, const void *bytes, size_t n, const sc_snapshot_parts *p) {
    const uint64_t *m = shape->number;
    const sc_snapshot_state *s = &p->state;
    const size_t heads = (size_t)(m[SC_SHAPE_LAYERS] * m[SC_SHAPE_HEADS]), pages = heads * (size_t)p->held;
    volatile unsigned sum = 0;

    check(p->bytes == n && s->persistent <= m[SC_SHAPE_CAPACITY] && s->chunks >= 1 && s->chunks <= s->chunk + 1 && s->past <= m[SC_SHAPE_PAST]);
    check(s->tokens[SC_SNAPSHOT_PROMPT] && s->transition < SC_SNAPSHOT_TRANSITIONS && s->blend_chunks <= SC_SNAPSHOT_BLEND_MAX);
    for (int i = 0; i < SC_SNAPSHOT_PROMPTS; i++) {
        sum += inside(bytes, n, p->text[i], s->text_bytes[i]) + inside(bytes, n, p->emb[i], s->tokens[i] * m[SC_SHAPE_TEXT_DIM] * 4);
        for (size_t k = 0; k < s->tokens[i] * m[SC_SHAPE_TEXT_DIM]; k++) check(isfinite(p->emb[i][k]));
    }
    sum += inside(bytes, n, p->id, heads * s->persistent * sizeof *p->id) + inside(bytes, n, p->frame, s->frames * sizeof *p->frame);
    for (size_t i = 0; i < heads * s->persistent; i++) check(p->id[i].block >= 0 && (uint64_t)p->id[i].block < m[SC_SHAPE_BLOCKS] && p->id[i].chunk >= 0 && p->id[i].page == 0);
    for (uint32_t i = 0; i < s->frames; i++) check(p->frame[i] >= i && (uint64_t)p->frame[i] < s->chunk * m[SC_SHAPE_CHUNK_FRAMES]);
    sum += inside(bytes, n, p->k, pages * p->page_bytes) + inside(bytes, n, p->v, pages * p->page_bytes) + inside(bytes, n, p->rep_k, pages * 8);
    for (size_t i = 0; i < pages * p->page_bytes / 2; i++) check(isfinite(sc_from_f16(((uint16_t *)(void *)p->k)[i])) && isfinite(sc_from_f16(((uint16_t *)(void *)p->v)[i])));
    sum += inside(bytes, n, p->past, s->past * 16) + inside(bytes, n, p->decoder, s->chunk ? 12 : 0) + inside(bytes, n, p->picture, s->chunk ? 6 : 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const sc_snapshot_state least = {.chunks = 1, .tokens = {1}};
    sc_snapshot_parts parts;
    sc_error err = {0};
    uint64_t bytes;

    if (size == 0) return 0;
    const sc_snapshot_shape shape = shape_of(data[0] & 1);
    const bool whole = data[0] & 2;
    unsigned char *b = malloc(whole ? size : HEAD + size - 1);
    size_t n = whole ? size - 1 : HEAD + size - 1;
    check(b != NULL);
    if (whole) memcpy(b, data + 1, n);
    else {
        unsigned char *head = sc_snapshot_layout(&shape, &least, &parts);
        check(head != NULL);
        memcpy(b, head, HEAD);
        free(head);
        bytes = n;
        memcpy(b + 16, &bytes, sizeof bytes);
        memcpy(b + HEAD, data + 1, size - 1);
    }
    parts.bytes = 0;
    sc_status rc = sc_snapshot_read(&shape, b, n, &parts, &err);
    unsigned char *again = rc ? of_right_size(b, n, parts.bytes) : NULL;
    if (again) rc = sc_snapshot_read(&shape, b = again, n = parts.bytes, &parts, &err);
    if (rc) check(err.status == SC_EINVAL && err.text[0]);
    else holds(&shape, b, n, &parts);
    free(b);
    return 0;
}

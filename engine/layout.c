/* layout.c - the order of a chunk's tokens, their blocks, and their angles.
 *
 * For block-sparse memory the tokens are ordered tile by tile, so that a block is a run of consecutive rows in every activation and
 * pages are filled by straight copies. The only places that see the picture's raster order are patchify and unpatchify.
 *
 * Angles: d = 128 has 64 channel pairs, 22 for the frame, 21 for the row, 21 for the column (d/2 - 2 (d/2 / 3) for the frame), each
 * axis with its own table 10000^(-2i/n), n = 2 x pairs. Computed in double. */
#include "engine/devmem.h"
#include "engine/transformer.h"

#include <math.h>
#include <stdlib.h>

#define TRY(call) do { if ((rc = (call))) goto cleanup; } while (0)

static void order_tiles(sc_layout *l, const int *tile) {
    int t = 0, b = 0;
    for (int tr = 0; tr < l->rows; tr += tile[1])
        for (int tc = 0; tc < l->cols; tc += tile[2]) {
            l->start_host[b++] = t;
            for (int f = 0; f < l->frames; f++)
                for (int r = tr; r < tr + tile[1] && r < l->rows; r++)
                    for (int c = tc; c < tc + tile[2] && c < l->cols; c++) l->order_host[t++] = (f * l->rows + r) * l->cols + c;
        }
    l->start_host[b] = t;
}

static void order_frames(sc_layout *l) {
    int b = 0;
    for (int t = 0; t < l->tokens; t++) {
        l->order_host[t] = t;
        if (t % (l->rows * l->cols) % SC_BLOCK_TOKENS_MAX == 0) l->start_host[b++] = t;
    }
    l->start_host[b] = l->tokens;
}

static void angles(const sc_layout *l, int head_dim, float *table) {
    const int pairs = head_dim / 2, side = pairs / 3, front = pairs - 2 * side;
    for (int t = 0; t < l->tokens; t++) {
        const int g = l->order_host[t], f = g / (l->rows * l->cols), r = g / l->cols % l->rows, c = g % l->cols;
        for (int i = 0; i < pairs; i++) {
            double angle;
            if (i < front) angle = f * pow(10000.0, -2.0 * i / (2.0 * front));
            else if (i < front + side) angle = r * pow(10000.0, -2.0 * (i - front) / (2.0 * side));
            else angle = c * pow(10000.0, -2.0 * (i - front - side) / (2.0 * side));
            *table++ = (float)cos(angle);
            *table++ = (float)sin(angle);
        }
    }
}

sc_status sc_layout_create(sc_layout **out, sc_device *dev, int frames, int rows, int cols, const int *tile, int head_dim, int max_distance,
                           sc_error *err) {
    sc_layout *l = calloc(1, sizeof *l);
    const sc_ops *ops = dev->ops;
    float *table = NULL;
    int32_t *pos = NULL;
    sc_status rc = SC_OK;

    *out = NULL;
    if (!l) return sc_fail(err, SC_ENOMEM, "token layout: out of memory");
    const int front = head_dim / 2 - 2 * (head_dim / 2 / 3), per_frame = (rows * cols + SC_BLOCK_TOKENS_MAX - 1) / SC_BLOCK_TOKENS_MAX;
    l->frames = frames;
    l->rows = rows;
    l->cols = cols;
    l->tokens = frames * rows * cols;
    l->blocks.tokens = l->tokens;
    l->blocks.blocks = tile ? (rows + tile[1] - 1) / tile[1] * ((cols + tile[2] - 1) / tile[2]) : frames * per_frame;
    l->order_host = malloc((size_t)l->tokens * sizeof *l->order_host);
    l->start_host = malloc(((size_t)l->blocks.blocks + 1) * sizeof *l->start_host);
    pos = malloc((size_t)l->tokens * sizeof *pos);
    table = malloc((size_t)l->tokens * (size_t)head_dim * sizeof *table);
    if (!l->order_host || !l->start_host || !pos || !table) { rc = sc_fail(err, SC_ENOMEM, "token layout: out of memory"); goto cleanup; }
    if (tile) order_tiles(l, tile); else order_frames(l);
    for (int b = 0; b < l->blocks.blocks; b++) {
        int n = l->start_host[b + 1] - l->start_host[b];
        if (n > l->block_max) l->block_max = n;
    }
    if (l->block_max > SC_BLOCK_TOKENS_MAX) { rc = sc_fail(err, SC_EINVAL, "memory.tile: %d tokens in a block, at most %d fit a page", l->block_max, SC_BLOCK_TOKENS_MAX); goto cleanup; }
    for (int t = 0; t < l->tokens; t++) pos[t] = l->order_host[t] % (rows * cols);
    angles(l, head_dim, table);
    for (int i = 0; i < front; i++) l->theta[i] = pow(10000.0, -2.0 * i / (2.0 * front));

    TRY(ops->alloc(dev, (void **)&l->order, (size_t)l->tokens * 4, err));
    TRY(ops->alloc(dev, (void **)&l->pos_row, (size_t)l->tokens * 4, err));
    TRY(ops->alloc(dev, (void **)&l->in_chunk, (size_t)l->tokens * (size_t)head_dim * 4, err));
    TRY(ops->alloc(dev, (void **)&l->blocks.start, ((size_t)l->blocks.blocks + 1) * 4, err));
    TRY(ops->upload(dev, l->order, l->order_host, (size_t)l->tokens * 4, err));
    TRY(ops->upload(dev, l->pos_row, pos, (size_t)l->tokens * 4, err));
    TRY(ops->upload(dev, l->in_chunk, table, (size_t)l->tokens * (size_t)head_dim * 4, err));
    TRY(ops->upload(dev, (void *)(uintptr_t)l->blocks.start, l->start_host, ((size_t)l->blocks.blocks + 1) * 4, err));
    l->blocks.start_host = l->start_host;
    l->rope = (sc_rope){.in_chunk = l->in_chunk, .theta = l->theta, .frame_pairs = front, .chunk_frames = frames, .max_distance = max_distance};
    *out = l;
    l = NULL;
cleanup:
    free(pos);
    free(table);
    sc_layout_free(l, dev);
    return rc;
}

void sc_layout_free(sc_layout *l, sc_device *dev) {
    if (!l) return;
    dev->ops->release(dev, l->order);
    dev->ops->release(dev, l->pos_row);
    dev->ops->release(dev, l->in_chunk);
    dev->ops->release(dev, (void *)(uintptr_t)l->blocks.start);
    free(l->order_host);
    free(l->start_host);
    free(l);
}

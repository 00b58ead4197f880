/* snapshot_format.h - the bytes of a snapshot: all that a stream remembers between two chunks.
 *
 *     header | words of its prompts | their embeddings | ids of persistent blocks, or frames of the window | keys | values | representatives |
 *     clean latents | what the decoder remembers | the last picture           each part at a multiple of 64 bytes
 *
 * Little-endian. What follows from something else is not in it: where a page lies (pages stand in the order of their slots), which chunks the window
 * holds, how many frames there were. So a file has few numbers to get wrong; each is checked once, in sc_snapshot_read, before anything is sized by
 * it, and the sizes of the parts then have one right sum. Integrity is not for here: whoever keeps a snapshot on a disk adds a hash.
 *
 * Keys, values and representatives must be finite, since their pages have another owner after the session (kernels/ops.h, sc_pages). Whatever else
 * stands in them touches the frames of its own session alone. Nothing here knows engine or device; any thread. */
#ifndef SC_ENGINE_SNAPSHOT_FORMAT_H
#define SC_ENGINE_SNAPSHOT_FORMAT_H
#include "base/dtype.h"
#include "base/status.h"
#include "kernels/ops.h"
#include <stdbool.h>

/* What two engines must have in common for one to go on with what the other has saved. */
typedef enum {
    SC_SHAPE_PBSA, SC_SHAPE_DTYPE, SC_SHAPE_LAYERS, SC_SHAPE_HEADS, SC_SHAPE_HEAD_DIM, SC_SHAPE_PAGE_ROWS, SC_SHAPE_BLOCKS, SC_SHAPE_CHUNK_FRAMES,
    SC_SHAPE_WINDOW_CHUNKS, SC_SHAPE_CAPACITY, SC_SHAPE_WINDOW_FRAMES, SC_SHAPE_SINK_FRAMES, SC_SHAPE_LATENT, SC_SHAPE_PAST, SC_SHAPE_DECODER_BYTES,
    SC_SHAPE_FRAME_BYTES, SC_SHAPE_TEXT_DIM, SC_SHAPE_TEXT_LEN, SC_SHAPE_NUMBERS
} sc_snapshot_number;

typedef struct {
    char digest[65];                      /* of the model, hex */
    uint64_t number[SC_SHAPE_NUMBERS];
} sc_snapshot_shape;

typedef enum { SC_SNAPSHOT_PROMPT, SC_SNAPSHOT_NEXT, SC_SNAPSHOT_BLEND_FROM, SC_SNAPSHOT_PROMPTS } sc_snapshot_prompt;

enum { SC_SNAPSHOT_VERSION = 1, SC_SNAPSHOT_TEXT_MAX = 4096, SC_SNAPSHOT_BLEND_MAX = 64, SC_SNAPSHOT_TRANSITION_BLEND = 1, SC_SNAPSHOT_TRANSITIONS = 5 };
#define SC_SNAPSHOT_CHUNK_MAX ((uint64_t)INT32_MAX) /* at a chunk in 0.75 s: 51 years */

/* The numbers. Of prompts that are not there tokens and text_bytes are 0: the first always is; the next is one that waits for the chunk to come; the one that
 * a blend goes away from is there in the middle of a blend that no next prompt ends. */
typedef struct {
    uint64_t seed, chunk;                 /* the next chunk */
    uint32_t persistent, chunks, frames;  /* as in sc_kv_memory; chunks includes the one to come */
    uint32_t past;                        /* clean latents kept */
    uint32_t prompt_seq, next_seq, shown_seq; /* shown_seq: of the last picture */
    uint32_t transition, blend_chunks, blend_done;
    uint32_t tokens[SC_SNAPSHOT_PROMPTS], text_bytes[SC_SNAPSHOT_PROMPTS];
} sc_snapshot_state;

/* Where the parts are. */
typedef struct {
    sc_snapshot_state state;
    char *text[SC_SNAPSHOT_PROMPTS];      /* no NUL behind */
    float *emb[SC_SNAPSHOT_PROMPTS];      /* [tokens][text_dim] */
    sc_kv_slot *id;                       /* PBSA: [layers][heads][persistent], page 0 */
    int64_t *frame;                       /* WINDOW: [frames] */
    int held;                             /* pages of a head that hold something */
    char *k, *v;                          /* dtype [layers][heads][held][page_rows][head_dim]: P, then the window, oldest first */
    float *rep_k;                         /* [layers][heads][held][head_dim] */
    float *past;                          /* [past][latent] */
    char *decoder;                        /* decoder_bytes; present, like the picture, from the first chunk on */
    unsigned char *picture;               /* frame_bytes */
    size_t page_bytes, bytes;             /* of a page of keys; of all of it */
} sc_snapshot_parts;

/* Room for it, owned by the caller (free), its header written, the parts to be filled. NULL: out of memory. */
void *sc_snapshot_layout(const sc_snapshot_shape *shape, const sc_snapshot_state *state, sc_snapshot_parts *parts);

/* The parts of n bytes at an address that is aligned as malloc aligns; they point into it and are not for writing.
 * Errors: SC_EINVAL, the text says what is wrong or other. */
sc_status sc_snapshot_read(const sc_snapshot_shape *shape, const void *bytes, size_t n, sc_snapshot_parts *parts, sc_error *err);

#endif

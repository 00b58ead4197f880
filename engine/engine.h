/* engine.h - the door to the engine: a loaded model, and streams that run on it.
 *
 * An engine keeps one model resident on one device with its pool of pages. A session is one running stream: a seed, a prompt, a
 * memory. Its chunks are made in *passes*, the unit of preemption:
 *
 *     chunk n:  denoise 0, 1, 2, 3  ->  decode (frames come out)  ->  clean (memory for later chunks)  ->  chunk n+1
 *
 * Whoever schedules asks sc_session_next() what comes and calls sc_engine_run() for one session, or for several whose next pass
 * is of the same kind (one batched pass). Nothing here knows sockets, JSON or deadlines.
 *
 * Thread: every call on an engine and its sessions comes from one thread at a time (the engine thread), except where "any
 * thread" is said. The same seed and the same prompts at the same chunks give the same frames on the same device, bit for bit; on a card
 * of compute capability 9.0 only as long as it has the same company in its passes: attention's work is cut for the batch as a whole, and where a
 * block's sums are cut decides how they round. */
#ifndef SC_ENGINE_ENGINE_H
#define SC_ENGINE_ENGINE_H
#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef struct sc_engine sc_engine;
typedef struct sc_session sc_session;
typedef struct sc_prompt sc_prompt;

enum { SC_PROMPT_BYTES_MAX = 4096 };

typedef struct {
    const char *model_dir;  /* borrowed during open */
    const char *device;     /* "cpu" (default when NULL), "twin", "cuda" */
    int threads;            /* CPU threads, < 1: one per core */
    int max_sessions;       /* pages are set aside for this many; < 1: 4 */
    const char *memory;     /* NULL: as the config says; "pbsa", "window", "dense" */
    int max_distance;       /* 0: as the config says; otherwise overrides memory.max_distance (-1 = none) */
    const char *text_device; /* where the text encoder lives; NULL: on `device`. On "cpu" its bf16 weights are used where they lie in the mapped
                              * file, so they take page cache and no memory of the device */
    /* Called during open by the thread that opens, at each tensor, when not NULL: `done` of `all` bytes of weights are where they belong; what:
     * "transformer", "text encoder", "decoder", at last "ready" with done = all. done never falls. */
    void (*progress)(void *ctx, const char *what, size_t done, size_t all);
    void *progress_ctx;
} sc_engine_options;

typedef struct {
    char name[64], device[128];
    char digest[65];         /* hex SHA-256 over the model's files' headers and sizes: tells models apart */
    int width, height, fps;
    int frames_first, frames_chunk;   /* video frames of the first chunk (9) and of later ones (12) */
    int latent_frames;                /* of a chunk */
    int steps;                        /* denoising passes of a chunk */
    int max_sessions;
    size_t frame_bytes;               /* I420: width * height * 3 / 2 */
    size_t weight_bytes, session_bytes, work_bytes;
    int session_pages;                /* pages of the pool a session holds from its first to its last chunk */
    int prompt_tokens;                /* longest prompt, the end token included */
    uint64_t first_chunk_ns;          /* what the chunk took that was made when the model was opened (a device that runs `behind`); else 0 */
    bool text_apart;                  /* the text encoder has a CPU device of its own: sc_engine_prompt_ask spares this thread its time */
    bool behind;                      /* the device runs behind the calls: sc_session_frames waits, and only sc_frames knows what passes took */
    long parameters;                  /* of the transformer */
} sc_model_info;

typedef enum { SC_SWITCH, SC_BLEND, SC_RECACHE, SC_FLUSH, SC_CUT } sc_transition;

typedef enum { SC_PASS_DENOISE, SC_PASS_DECODE, SC_PASS_CLEAN } sc_pass_kind;

typedef struct {
    sc_pass_kind kind;
    int step;          /* of a denoise pass, 0-based */
    uint64_t chunk;    /* 0-based */
    uint32_t prompt_seq; /* the prompt in force for this chunk */
} sc_pass;

/* Frames of the newest decoded chunk. data: frames x frame_bytes, I420 (full-range BT.601, as JFIF), borrowed until the session's
 * next decode pass or its end. */
typedef struct {
    uint64_t chunk, first_frame;
    int count, width, height;
    uint32_t prompt_seq;
    bool first_of_prompt;    /* the first chunk made under prompt_seq */
    const uint8_t *data;
    size_t frame_bytes;
    /* What the device took for the passes of this chunk, and for the clean pass before it; all 0 unless the model runs `behind`. */
    uint64_t denoise_ns, decode_ns, clean_ns;
} sc_frames;

/* Open a model. Errors: SC_EINVAL (bad model; text names file, key or tensor), SC_EIO, SC_ENOMEM, SC_EGPU. *out NULL after one. */
sc_status sc_engine_open(sc_engine **out, const sc_engine_options *options, sc_error *err);
void sc_engine_close(sc_engine *engine); /* sessions first; NULL is fine */
void sc_engine_describe(const sc_engine *engine, sc_model_info *out); /* any thread */

/* A new session, chunk 0 next. `prompt`: UTF-8, n bytes, at most SC_PROMPT_BYTES_MAX; its seq is `prompt_seq`.
 * Errors: SC_EBUSY when all max_sessions are taken, SC_EINVAL for bad text (says the offset), SC_ENOMEM. */
sc_status sc_session_create(sc_engine *engine, uint64_t seed, const char *prompt, size_t n, uint32_t prompt_seq, sc_session **out,
                            sc_error *err);
void sc_session_destroy(sc_session *session); /* NULL is fine; gives its pages back */

/* Between two chunks of `from` (what sc_session_next says has not begun): a new session that remembers what `from` remembers and goes on behind it,
 * with the next chunk and frame number, the prompt in force, a blend, a prompt that waits. Given the seed of `from` and the same prompts it makes
 * the same frames, bit for bit; given another seed, others. The two have nothing in common afterwards. Until its own first frames it
 * shows the last one of `from` (sc_session_frames: one frame, of the chunk before), whose frames are waited for.
 * What is copied is a constant amount (sc_model_info.session_bytes), on the device, in the order of its passes.
 * Errors: SC_EBUSY when the next chunk of `from` has begun, or all max_sessions are taken; SC_ENOMEM; SC_EGPU; what sc_session_failed says of
 * `from`; SC_ELOST. After one `from` is as it was. */
sc_status sc_session_fork(sc_session *from, uint64_t seed, sc_session **out, sc_error *err);

/* A snapshot: a session between two chunks as bytes (engine/snapshot.c says what it holds and costs). The session that is restored goes on with the
 * next chunk and frame number and, given the same prompts, makes the same frames as the one that was saved, bit for bit on the same device;
 * until its own first frames it shows the last one, as a fork does. It needs no text encoder for the words that it has.
 *
 * save: *bytes is owned, free(). Errors: those of sc_session_fork, but no place is needed; after one *bytes is NULL and the session is as it was.
 * open: any thread. Checks all of n bytes, which are borrowed until close, aligned as malloc aligns, and may come from anybody; it takes no memory that
 * grows with what they say. Errors: SC_EINVAL (no snapshot, of another model, memory or device type; the text says what), SC_ENOMEM.
 * restore: may be called again with the same one. Errors: SC_EBUSY when all max_sessions are taken, SC_ENOMEM, SC_EGPU, SC_ELOST. */
typedef struct sc_snapshot sc_snapshot;
sc_status sc_session_save(sc_session *session, void **bytes, size_t *n, sc_error *err);
sc_status sc_snapshot_open(sc_snapshot **out, const sc_engine *engine, const void *bytes, size_t n, sc_error *err);
void sc_snapshot_close(sc_snapshot *snapshot); /* NULL is fine */
sc_status sc_session_restore(sc_engine *engine, const sc_snapshot *snapshot, sc_session **out, sc_error *err);

typedef struct {
    uint64_t seed, chunk;       /* the next chunk */
    uint32_t prompt_seq, next_seq; /* next_seq: of a prompt that waits for that chunk; else 0 */
} sc_snapshot_info;
void sc_snapshot_describe(const sc_snapshot *snapshot, sc_snapshot_info *out);

/* What a session remembers for good, between two passes. A model without such memory has rows and columns 0. */
typedef struct {
    uint64_t chunk;                       /* the one in work, or the next */
    int layers, heads, rows, columns;     /* of tiles over the picture */
    int tile_width, tile_height;          /* pixels; tiles at the right and lower edge may be smaller */
    int capacity, persistent;             /* blocks that a head may keep, and does */
    uint32_t *held;                       /* [layers][rows][columns]: blocks of that place, in all heads together */
    int64_t *oldest;                      /* [rows][columns]: the chunk that the oldest of them is of, -1: there is none */
} sc_memory_map;
/* *out is the caller's, sc_memory_map_free. Waits for the passes that were asked for. Errors: SC_ENOMEM, SC_EGPU, what sc_session_failed says, SC_ELOST. */
sc_status sc_session_memory(sc_session *session, sc_memory_map *out, sc_error *err);
void sc_memory_map_free(sc_memory_map *map);

/* Encode `text` now; it applies from the next chunk that starts (*applies_at, may be NULL). A later call before that chunk replaces it.
 * The prompt in force stays when this fails. blend_chunks: for SC_BLEND, over how many chunks (1..64); else ignored. What a blend needs of the
 * device's memory is taken here.
 * Errors: SC_EINVAL for bad text, SC_ENOMEM. */
sc_status sc_session_set_prompt(sc_session *session, const char *text, size_t n, uint32_t seq, sc_transition transition,
                                int blend_chunks, uint64_t *applies_at, sc_error *err);

/* Encoding without waiting, for a model whose text encoder is apart: ask, go on with passes, take the answer when `done` has been called, and the
 * words are known. known: sc_session_create and sc_session_set_prompt will not encode this text. ask: `text` is copied; `done` is called once, on
 * another thread, and calls nothing of the engine. answer: what sc_session_set_prompt would have said; waits before `done`.
 * Errors: ask SC_EBUSY while another text is asked for, SC_EINVAL (too long), SC_ENOMEM; answer SC_ENOTFOUND when nothing was asked. */
bool sc_engine_prompt_known(const sc_engine *engine, const char *text, size_t n);
sc_status sc_engine_prompt_ask(sc_engine *engine, const char *text, size_t n, void (*done)(void *ctx), void *ctx, sc_error *err);
sc_status sc_engine_prompt_answer(sc_engine *engine, sc_error *err);

sc_pass sc_session_next(const sc_session *session);

/* Run the next pass of each of `count` sessions (1..8, all of this engine, all with the same kind next). What is one session's own error
 * (data that is not finite, a device call that fails for it alone) marks that session failed, and the rest go on as if it had not been
 * there. When a device call fails for a batch, its sessions take the pass again one by one, which gives the same frames.
 * Errors: SC_ELOST, the device is gone: nothing of this engine is to be called any more but sc_session_failed, sc_session_frames and
 * sc_session_next; SC_ENOMEM, nothing happened to the sessions that did not move on: the call may be made again for those. */
sc_status sc_engine_run(sc_engine *engine, sc_session *const *sessions, int count, sc_error *err);

bool sc_session_failed(const sc_session *session, sc_error *err); /* true: no more passes, *err says why */

/* The frames of the newest decode pass, which a GPU may still be at: then this waits, and the session's next pass is better asked for first.
 * Errors: SC_ENOTFOUND before the first one; what sc_session_failed says, when that pass made none; SC_ELOST. */
sc_status sc_session_frames(sc_session *session, sc_frames *out, sc_error *err);
bool sc_session_frames_coming(const sc_session *session); /* it would wait now */

/* Words for transitions: "switch", "blend", "recache", "flush", "cut". False: no such word. */
bool sc_transition_parse(const char *word, sc_transition *out);
const char *sc_transition_name(sc_transition t);

#ifdef __cplusplus
}
#endif
#endif

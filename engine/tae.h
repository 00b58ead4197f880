/* tae.h - the TAEHV-layout decoder: latents to frames, carrying its memory between chunks.
 *
 * Source: TAEHV's taehv.py, decode_video and StreamingTAEHV; semantics in tests/vectors/README.md. A memory block looks at its own
 * previous input frame, so a stream needs one frame per block (9) of state and chunks of any length give the same pictures.
 * Thread: engine. */
#ifndef SC_ENGINE_TAE_H
#define SC_ENGINE_TAE_H
#include "engine/safetensors.h"
#include "kernels/ops.h"
#include <stdbool.h>

enum { SC_TAE_LEVELS = 3, SC_TAE_BLOCKS = 3 };

typedef struct sc_tae sc_tae;

/* What is remembered of one stream. */
typedef struct {
    void *past[SC_TAE_LEVELS * SC_TAE_BLOCKS]; /* device act [h][w][c], zeros before the stream */
    bool started;                              /* the 3 frames of the start were dropped */
    size_t bytes;
} sc_tae_state;

/* patch: pixel shuffle of the last convolution, 1 = none. time, space: what each level multiplies frames and rows by (1 or 2).
 * max_frames: latent frames a call may bring. */
typedef struct {
    int latent_ch, patch, latent_h, latent_w, max_frames;
    int time[SC_TAE_LEVELS], space[SC_TAE_LEVELS];
} sc_tae_shape;

/* As published: frames double at the second and third level, rows at all three (at two when a pixel shuffle follows). */
sc_tae_shape sc_tae_published(int latent_ch, int patch, int latent_h, int latent_w, int max_frames);

/* Tensors PREFIX + "decoder.N..."; widths come from them. */
sc_status sc_tae_load(sc_tae **out, sc_device *dev, const sc_tensors *set, const char *prefix, const sc_tae_shape *shape, sc_error *err);
void sc_tae_close(sc_tae *t);
void sc_tae_move(sc_tae *t, sc_device *dev); /* to another queue of its device */
int sc_tae_scale(const sc_tae *t);       /* pixels per latent row */
int sc_tae_time_scale(const sc_tae *t);  /* frames per latent frame (4) */
int sc_tae_startup(const sc_tae *t);     /* frames dropped once per stream (3) */
size_t sc_tae_work_bytes(const sc_tae *t);
size_t sc_tae_state_bytes(const sc_tae *t);

sc_status sc_tae_state_init(const sc_tae *t, sc_tae_state *s, sc_error *err); /* zeros; again: resets in place */
void sc_tae_state_free(const sc_tae *t, sc_tae_state *s);
sc_status sc_tae_state_copy(const sc_tae *t, sc_tae_state *s, const sc_tae_state *from, sc_error *err); /* both of this decoder; in the order of its calls */

/* All that one remembers, sc_tae_state_bytes, to and from the host. load: of a stream that has begun. */
sc_status sc_tae_state_save(const sc_tae *t, const sc_tae_state *s, void *host, sc_error *err);
sc_status sc_tae_state_load(const sc_tae *t, sc_tae_state *s, const void *host, sc_error *err);

/* Called with device tensors: index of the decoder layer of the published model (5, 14), act [n][h][w][c]. */
typedef void sc_tae_tap(void *ctx, int index, const void *x, int n, int h, int w, int c);

/* latent f32 device [ch][frames][h][w]. Outputs (device, either may be NULL): rgb f32 [n][3][H][W], i420 u8 [n][H*W*3/2],
 * n = frames * time_scale, less the start-up frames when keep_startup is false and the stream begins; *count = n. clamp: rgb in 0..1. */
sc_status sc_tae_decode(const sc_tae *t, sc_tae_state *s, const float *latent, int frames, bool keep_startup, bool clamp, float *rgb, uint8_t *i420,
                        int *count, sc_tae_tap *tap, void *tap_ctx, sc_error *err);

#endif

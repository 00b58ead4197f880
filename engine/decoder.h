/* decoder.h - what the engine knows of a decoder: latents in, pictures out, a state for each stream. Two kinds, config.json says which:
 * a TAEHV (tae.h) or the Wan 2.1 VAE (vae.h).
 *
 * Either way a latent frame becomes time_scale frames, and a stream begins with time_scale - 1 fewer.
 * Thread: engine. */
#ifndef SC_ENGINE_DECODER_H
#define SC_ENGINE_DECODER_H
#include "engine/config.h"
#include "engine/safetensors.h"
#include "kernels/ops.h"

typedef struct sc_decoder sc_decoder;
typedef struct sc_decoder_state sc_decoder_state; /* what is remembered of one stream */

/* The decoder that `config` describes, from `set`. Errors: SC_EINVAL, SC_ENOTFOUND (the text names the tensor, or says that the device
 * cannot run this kind), SC_ENOMEM, SC_EGPU. *out is NULL after one. */
sc_status sc_decoder_open(sc_decoder **out, sc_device *dev, const sc_tensors *set, const sc_config *config, sc_error *err);
void sc_decoder_close(sc_decoder *d); /* NULL is fine */

/* From now on it runs on `dev`, another queue of its device (kernels/ops.h, beside); its calls before have finished. */
void sc_decoder_move(sc_decoder *d, sc_device *dev);

int sc_decoder_scale(const sc_decoder *d);      /* pixels per latent row (8) */
int sc_decoder_time_scale(const sc_decoder *d); /* frames per latent frame (4) */
int sc_decoder_startup(const sc_decoder *d);    /* frames that the first chunk of a stream has fewer (3) */
size_t sc_decoder_work_bytes(const sc_decoder *d);
size_t sc_decoder_state_bytes(const sc_decoder *d);

sc_status sc_decoder_state_create(const sc_decoder *d, sc_decoder_state **out, sc_error *err); /* as before the first latent */
void sc_decoder_state_destroy(const sc_decoder *d, sc_decoder_state *s);                       /* NULL is fine */
sc_status sc_decoder_state_copy(const sc_decoder *d, sc_decoder_state *s, const sc_decoder_state *from, sc_error *err); /* in the order of its calls */
/* All of a state that has begun, sc_decoder_state_bytes, to and from the host; both wait. load: the stream has begun. */
sc_status sc_decoder_state_save(const sc_decoder *d, const sc_decoder_state *s, void *host, sc_error *err);
sc_status sc_decoder_state_load(const sc_decoder *d, sc_decoder_state *s, const void *host, sc_error *err);
bool sc_decoder_started(const sc_decoder *d, const sc_decoder_state *s); /* a call came: from now on calls differ by what is in device memory alone */

/* latent f32 device [z][frames][h][w], frames at most a chunk. Device, either may be NULL: rgb f32 [n][3][H][W] in 0..1, i420 u8
 * [n][H*W*3/2]; n = *count = frames * time_scale, less startup when the stream begins. */
sc_status sc_decoder_run(const sc_decoder *d, sc_decoder_state *s, const float *latent, int frames, float *rgb, uint8_t *i420, int *count, sc_error *err);

#endif

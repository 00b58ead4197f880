/* vae.h - the Wan 2.1 VAE: latents to frames, chunk after chunk, and pictures to latents.
 *
 * Every 3x3x3 convolution is causal: it looks at its own last two input frames, so a stream is carried by two frames for each of them
 * and portions of any length give the same pictures. The first latent frame of a stream is one picture and skips the doublings in
 * time (their caches stay empty); each later one is time_scale pictures.
 * Those caches are what a stream costs: 1.9 GB of bf16 at 480x832 (32 convolutions), four fifths of it at the two finest levels.
 * Source: wan/modules/vae.py, WanVAE_.cached_decode and encode; tensors in their original names; tests/vectors/README.md.
 * Thread: engine. */
#ifndef SC_ENGINE_VAE_H
#define SC_ENGINE_VAE_H
#include "engine/safetensors.h"
#include "kernels/ops.h"
#include <stdbool.h>

enum { SC_VAE_LEVELS = 4, SC_VAE_CHANNELS_MAX = 64 };
#define SC_VAE_WORK_BYTES ((size_t)3 << 30) /* three latents at 480x832 in 16 bits take 2.76e9 */

typedef struct sc_vae sc_vae;
typedef struct sc_vae_state sc_vae_state;

/* dim: width at the pixels; mult: its multiples, level by level from the pixels down; blocks: residual blocks of a level of the encoder
 * (the decoder has one more); halves_time[i]: whether the step from level i to i + 1 halves the frames too. latent_h, latent_w: size of a
 * latent (the decoder's input, the encoder's output). group: latents that the decoder takes in one go (0 = 1), fewer where its work memory
 * would be more than SC_VAE_WORK_BYTES. mean, std: of the latent channels (host, z each, borrowed during load). */
typedef struct {
    int z, dim, levels, mult[SC_VAE_LEVELS], blocks, latent_h, latent_w, group;
    bool halves_time[SC_VAE_LEVELS - 1];
    const double *mean, *std;
} sc_vae_shape;

/* Decoder: tensors PREFIX + "conv2...", "decoder...", whose shapes must be those of `shape`. An attention that the file has behind a
 * residual block ("upsamples.N.to_qkv") is run. Errors: SC_EINVAL, SC_ENOTFOUND (the text names tensor and sizes, or says that the
 * device lacks an operation), SC_ENOMEM, SC_EGPU. */
sc_status sc_vae_load(sc_vae **out, sc_device *dev, const sc_tensors *set, const char *prefix, const sc_vae_shape *shape, sc_error *err);
void sc_vae_close(sc_vae *v); /* NULL is fine */
void sc_vae_move(sc_vae *v, sc_device *dev); /* to another queue of its device */
int sc_vae_scale(const sc_vae *v);      /* pixels per latent row (8) */
int sc_vae_time_scale(const sc_vae *v); /* frames per latent frame but the first (4) */
size_t sc_vae_work_bytes(const sc_vae *v);
int sc_vae_group(int wanted, size_t bytes); /* latents of a group when one of them takes `bytes` of work memory, 1 and up */
size_t sc_vae_state_bytes(const sc_vae *v);

sc_status sc_vae_state_create(const sc_vae *v, sc_vae_state **out, sc_error *err); /* before the first latent */
void sc_vae_state_destroy(const sc_vae *v, sc_vae_state *s);
sc_status sc_vae_state_copy(const sc_vae *v, sc_vae_state *s, const sc_vae_state *from, sc_error *err); /* both of this decoder; in the order of its calls */
/* All that one remembers, sc_vae_state_bytes, to and from the host. load: of a stream that has begun. */
sc_status sc_vae_state_save(const sc_vae *v, const sc_vae_state *s, void *host, sc_error *err);
sc_status sc_vae_state_load(const sc_vae *v, sc_vae_state *s, const void *host, sc_error *err);
bool sc_vae_started(const sc_vae_state *s);  /* a call came */

/* The caches stay zero, but the next latent counts as a later one: what a decoder does that is handed tensors of zeros as its
 * caches. Only golden data wants it: a stream begins with its first latent. */
void sc_vae_state_pretend_started(sc_vae_state *s);

typedef enum { SC_VAE_AFTER_CONV2, SC_VAE_AFTER_MIDDLE, SC_VAE_AFTER_UP0 } sc_vae_stage; /* UP0: the coarsest level with its doubling */

/* Called with device tensors, act [n][h][w][c], once per group of latents. */
typedef void sc_vae_tap(void *ctx, sc_vae_stage stage, const void *x, int n, int h, int w, int c);

/* latent f32 device [z][frames][h][w], normalised. Outputs (device, either may be NULL): rgb f32 [n][3][H][W], 0..1 when clamp, else what
 * the model says (its -1..1 moved to 0..1); i420 u8 [n][H*W*3/2]. n = *count = frames * time_scale, less time_scale - 1 when the stream
 * begins. */
sc_status sc_vae_decode(const sc_vae *v, sc_vae_state *s, const float *latent, int frames, bool clamp, float *rgb, uint8_t *i420, int *count,
                        sc_vae_tap *tap, void *tap_ctx, sc_error *err);

/* Encoder: tensors PREFIX + "conv1...", "encoder...". clip (host) [3][frames][H][W] in -1..1, H = scale * latent_h, W likewise; latent (host)
 * [z][n][latent_h][latent_w], normalised means, n = sc_vae_encoded(frames): frames are taken 1, then time_scale at a time, and a rest
 * shorter than that is left out. Allocates as it goes: not for the path of a frame. Errors as for load, or SC_EINVAL for no frames. */
sc_status sc_vae_encode(sc_device *dev, const sc_tensors *set, const char *prefix, const sc_vae_shape *shape, const float *clip, int frames, float *latent,
                        sc_error *err);
int sc_vae_encoded(const sc_vae_shape *shape, int frames);

#endif

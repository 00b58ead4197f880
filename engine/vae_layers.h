/* vae_layers.h - the layers that the Wan VAE's two halves are made of; for vae.c and vae_encoder.c alone.
 *
 *   residual    x + conv(silu(norm(conv(silu(norm(x)))))), 3x3x3 both; x through a 1x1x1 where the width changes
 *   attention   x + proj(attention(qkv(norm(x)))), one head, inside each frame
 *   up          [3x1x1 C to 2C, frames doubled,] nearest 2x, 3x3 C to C/2
 *   down        3x3 with stride 2[, 3x1x1 with stride 2 in time]
 *
 * A net is the list of its layers with the memory they share: three work buffers that take turns, and the sizes of the caches (two
 * frames of a causal convolution's input), which a state holds for one stream. */
#ifndef SC_ENGINE_VAE_LAYERS_H
#define SC_ENGINE_VAE_LAYERS_H
#include "engine/vae.h"

typedef enum { SC_VAE_RESIDUAL, SC_VAE_ATTENTION, SC_VAE_UP, SC_VAE_DOWN } sc_vae_kind;

typedef struct {
    sc_filter *w;
    int cache; /* index of its cache, -1: it looks at the frame alone */
} sc_vae_conv;

typedef struct {
    sc_vae_kind kind;
    int in, out;
    float *gamma[2];
    sc_vae_conv conv[3]; /* residual: first, second, shortcut; attention: qkv, proj; up: time, space; down: space, time. w NULL: none */
} sc_vae_layer;

typedef struct {
    sc_device *dev;
    const sc_tensors *set;   /* while loading */
    const char *prefix;
    sc_vae_conv first, head; /* 3x3x3 each */
    float *head_gamma;
    sc_vae_layer *layer;
    int layers, room;
    size_t *cache_bytes;     /* [caches] of both frames */
    int caches, cache_room;
    int n, h, w, ch;         /* while loading: what arrives at the next layer, in the longest call; ch 0 at first */
    size_t most;             /* bytes of the largest tensor of such a call */
    void *work[3];
} sc_vae_net;

struct sc_vae_state {
    void **past; /* device act [caches][2][h][w][c] */
    bool started;
};

/* What goes from layer to layer: x and two free buffers, of which a holds the norm of x that the next layer begins with when `normed`. x itself
 * is not written by the last layer. */
typedef struct {
    void *x, *a, *b;
    int n, h, w, c;
    bool normed;
} sc_vae_flow;

/* SC_EINVAL when the device has not all operations of the Wan VAE. */
sc_status sc_vae_check_device(const sc_device *dev, sc_error *err);
sc_status sc_vae_check_shape(const sc_vae_shape *shape, sc_error *err);

/* Loading, in the order of the data. `name` is the published one without PREFIX; the net's ch, n, h, w move on. */
sc_status sc_vae_net_conv(sc_vae_net *t, const char *name, int out, int taps, int size, sc_vae_conv *conv, sc_error *err); /* 3x3x3 and 1x1x1: first, head, conv1, conv2 */
sc_status sc_vae_net_gamma(sc_vae_net *t, const char *name, float **gamma, sc_error *err);
sc_status sc_vae_net_residual(sc_vae_net *t, const char *name, int out, sc_error *err);
sc_status sc_vae_net_attention(sc_vae_net *t, const char *name, sc_error *err);
sc_status sc_vae_net_up(sc_vae_net *t, const char *name, bool time, sc_error *err);
sc_status sc_vae_net_down(sc_vae_net *t, const char *name, bool time, sc_error *err);
sc_status sc_vae_net_middle(sc_vae_net *t, const char *half, sc_error *err); /* HALF.middle.0 .. 2 */
bool sc_vae_net_has(const sc_vae_net *t, const char *name, const char *end);
sc_status sc_vae_net_work(sc_vae_net *t, sc_error *err); /* when all is loaded: the work buffers */
void sc_vae_net_free(sc_vae_net *t);

size_t sc_vae_net_state_bytes(const sc_vae_net *t);
sc_status sc_vae_net_state(const sc_vae_net *t, sc_vae_state **out, sc_error *err);
void sc_vae_net_state_free(const sc_vae_net *t, sc_vae_state *s);
sc_status sc_vae_net_state_copy(const sc_vae_net *t, sc_vae_state *s, const sc_vae_state *from, sc_error *err);
sc_status sc_vae_net_state_save(const sc_vae_net *t, const sc_vae_state *s, void *host, sc_error *err);
sc_status sc_vae_net_state_load(const sc_vae_net *t, sc_vae_state *s, const void *host, sc_error *err);

/* Running. conv: `args` without its filter and past, and the cache moves on. layer: the i-th. head: norm, SiLU and the last 3x3x3, to f->b. */
sc_status sc_vae_run_conv(const sc_vae_net *t, const sc_vae_conv *conv, sc_vae_state *s, sc_conv3_args args, sc_error *err);
sc_status sc_vae_run_layer(const sc_vae_net *t, int i, sc_vae_state *s, sc_vae_flow *f, sc_error *err);
sc_status sc_vae_run_head(const sc_vae_net *t, sc_vae_state *s, sc_vae_flow *f, sc_error *err);

#endif

/* decoder.c - see decoder.h. One switch a call: two kinds do not make a table of functions. */
#include "engine/decoder.h"
#include "engine/tae.h"
#include "engine/vae.h"

#include <stdlib.h>

struct sc_decoder {
    sc_decoder_kind kind;
    sc_tae *tae; /* one of the two */
    sc_vae *vae;
};

struct sc_decoder_state {
    sc_tae_state tae;
    sc_vae_state *vae;
};

_Static_assert((int)SC_VAE_MULTS == (int)SC_VAE_LEVELS && (int)SC_VAE_Z_MAX == (int)SC_VAE_CHANNELS_MAX, "the config holds what the VAE takes");

static sc_vae_shape vae_shape(const sc_config *c) {
    sc_vae_shape s = {.z = c->decoder.z, .dim = c->decoder.dim, .levels = SC_VAE_MULTS, .blocks = c->decoder.blocks, .latent_h = c->latent_h,
                      .latent_w = c->latent_w, .group = c->chunk_frames, .halves_time = {false, true, true}, .mean = c->decoder.mean, .std = c->decoder.std};
    for (int i = 0; i < SC_VAE_MULTS; i++) s.mult[i] = c->decoder.mult[i];
    return s;
}

sc_status sc_decoder_open(sc_decoder **out, sc_device *dev, const sc_tensors *set, const sc_config *c, sc_error *err) {
    const sc_tae_shape tae = sc_tae_published(c->decoder.z, c->decoder.patch, c->latent_h, c->latent_w, c->chunk_frames);
    const sc_vae_shape vae = vae_shape(c);
    sc_decoder *d = calloc(1, sizeof *d);
    sc_status rc = SC_OK;

    *out = NULL;
    if (!d) return sc_fail(err, SC_ENOMEM, "decoder: out of memory");
    d->kind = c->decoder.kind;
    switch (d->kind) {
    case SC_DECODER_TAEHV: rc = sc_tae_load(&d->tae, dev, set, "", &tae, err); break;
    case SC_DECODER_WAN_VAE: rc = sc_vae_load(&d->vae, dev, set, "", &vae, err); break;
    }
    if (rc) sc_decoder_close(d);
    else *out = d;
    return rc;
}

void sc_decoder_close(sc_decoder *d) {
    if (!d) return;
    sc_tae_close(d->tae);
    sc_vae_close(d->vae);
    free(d);
}

void sc_decoder_move(sc_decoder *d, sc_device *dev) {
    if (d->tae) sc_tae_move(d->tae, dev);
    else sc_vae_move(d->vae, dev);
}

int sc_decoder_scale(const sc_decoder *d) { return d->tae ? sc_tae_scale(d->tae) : sc_vae_scale(d->vae); }
int sc_decoder_time_scale(const sc_decoder *d) { return d->tae ? sc_tae_time_scale(d->tae) : sc_vae_time_scale(d->vae); }
int sc_decoder_startup(const sc_decoder *d) { return d->tae ? sc_tae_startup(d->tae) : sc_vae_time_scale(d->vae) - 1; }
size_t sc_decoder_work_bytes(const sc_decoder *d) { return d->tae ? sc_tae_work_bytes(d->tae) : sc_vae_work_bytes(d->vae); }
size_t sc_decoder_state_bytes(const sc_decoder *d) { return d->tae ? sc_tae_state_bytes(d->tae) : sc_vae_state_bytes(d->vae); }

sc_status sc_decoder_state_create(const sc_decoder *d, sc_decoder_state **out, sc_error *err) {
    sc_decoder_state *s = calloc(1, sizeof *s);
    sc_status rc = SC_OK;

    *out = NULL;
    if (!s) return sc_fail(err, SC_ENOMEM, "decoder: out of memory for the state of a stream");
    switch (d->kind) {
    case SC_DECODER_TAEHV: rc = sc_tae_state_init(d->tae, &s->tae, err); break;
    case SC_DECODER_WAN_VAE: rc = sc_vae_state_create(d->vae, &s->vae, err); break;
    }
    if (rc) free(s);
    else *out = s;
    return rc;
}

void sc_decoder_state_destroy(const sc_decoder *d, sc_decoder_state *s) {
    if (!s) return;
    switch (d->kind) {
    case SC_DECODER_TAEHV: sc_tae_state_free(d->tae, &s->tae); break;
    case SC_DECODER_WAN_VAE: sc_vae_state_destroy(d->vae, s->vae); break;
    }
    free(s);
}

sc_status sc_decoder_state_copy(const sc_decoder *d, sc_decoder_state *s, const sc_decoder_state *from, sc_error *err) {
    switch (d->kind) {
    case SC_DECODER_TAEHV: return sc_tae_state_copy(d->tae, &s->tae, &from->tae, err);
    case SC_DECODER_WAN_VAE: return sc_vae_state_copy(d->vae, s->vae, from->vae, err);
    }
    return SC_OK;
}

sc_status sc_decoder_state_save(const sc_decoder *d, const sc_decoder_state *s, void *host, sc_error *err) {
    return d->tae ? sc_tae_state_save(d->tae, &s->tae, host, err) : sc_vae_state_save(d->vae, s->vae, host, err);
}

sc_status sc_decoder_state_load(const sc_decoder *d, sc_decoder_state *s, const void *host, sc_error *err) {
    return d->tae ? sc_tae_state_load(d->tae, &s->tae, host, err) : sc_vae_state_load(d->vae, s->vae, host, err);
}

bool sc_decoder_started(const sc_decoder *d, const sc_decoder_state *s) { return d->tae ? s->tae.started : sc_vae_started(s->vae); }

sc_status sc_decoder_run(const sc_decoder *d, sc_decoder_state *s, const float *latent, int frames, float *rgb, uint8_t *i420, int *count, sc_error *err) {
    switch (d->kind) {
    case SC_DECODER_TAEHV: return sc_tae_decode(d->tae, &s->tae, latent, frames, false, true, rgb, i420, count, NULL, NULL, err);
    case SC_DECODER_WAN_VAE: return sc_vae_decode(d->vae, s->vae, latent, frames, true, rgb, i420, count, NULL, NULL, err);
    }
    return SC_OK;
}

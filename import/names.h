/* names.h - the tensors of each model family, and how the world spells their names.
 *
 * A family is a list of entries: the name that our model directories use (the authors' original one), the other spellings in use,
 * and the shape in terms of a few sizes. Lists depend on the number of layers only; sizes are read off the tensors themselves.
 * Source: wan/modules/{model,t5,vae}.py and taehv.py as published; diffusers' convert_wan_to_diffusers.py; FastVideo's wanvideo.py
 * (param_names_mapping). Thread: any. */
#ifndef SC_IMPORT_NAMES_H
#define SC_IMPORT_NAMES_H
#include "base/name_distance.h"
#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { SC_FAMILY_NONE, SC_FAMILY_DIT, SC_FAMILY_T5, SC_FAMILY_VAE, SC_FAMILY_TAE, SC_FAMILY_LORA, SC_FAMILIES } sc_family;

enum { SC_NAME_ROOM = 160, SC_SPELLINGS = 3 };

/* Sizes that shapes are written in. Which are used depends on the family. */
typedef enum {
    SC_S_DIM, SC_S_FFN, SC_S_TEXT, SC_S_FREQ, SC_S_IN, SC_S_OUT /* out_ch x patch area */, SC_S_PATCH_T, SC_S_PATCH_H, SC_S_PATCH_W, SC_S_POS,
    SC_S_VOCAB, SC_S_ATTN, SC_S_HEADS, SC_S_BUCKETS,
    SC_S_WIDTH /* of a VAE's narrowest level */, SC_S_Z,
    SC_S_DEC0, SC_S_DEC1, SC_S_DEC2, SC_S_DEC3, SC_S_PIXELS /* 3 x patch^2 */, SC_S_ENC,
    SC_SIZES
} sc_size;

typedef struct { int64_t v[SC_SIZES]; } sc_sizes; /* 0: not known */

enum {
    SC_NAME_OPTIONAL = 1, /* the model is whole without it */
    SC_NAME_ENCODER = 2,  /* of a decoder's other half: all of them are there, or none */
    SC_NAME_GROW = 4      /* a file may hold more rows; the last ones count (TAEHV's patch_tgrow_layers) */
};

typedef struct {
    char spelling[SC_SPELLINGS][SC_NAME_ROOM]; /* [0]: ours; "" where a spelling has none of its own */
    int rank, flags;
    int64_t dims[5];  /* > 0: that number; else -(size * 1000 + factor) */
} sc_name;

typedef struct {
    sc_family family;
    int layers, spellings;
    sc_name *names;
    int count, room;
} sc_name_list;

/* The list of a family with `layers` layers (ignored where the family has a fixed structure). Errors: SC_ENOMEM, SC_EINVAL for a
 * family without a list or layers not in 1..256. */
sc_status sc_names_create(sc_name_list *out, sc_family family, int layers, sc_error *err);
void sc_names_free(sc_name_list *list);

/* Dimension i of an entry under these sizes; 0 when the size is not known. */
int64_t sc_name_dim(const sc_name *name, int i, const sc_sizes *sizes);

const char *sc_family_name(sc_family family);                       /* "transformer", "text encoder", ... */
const char *sc_spelling_name(sc_family family, int spelling);       /* "Wan", "diffusers", ... */

/* `name` without what training and packing put around it: parts _fsdp_wrapped_module, _orig_mod, _checkpoint_wrapped_module anywhere;
 * model., diffusion_model., module., base_model., first_stage_model., transformer., taehv. in front, as often as they come. */
void sc_name_strip(char out[SC_NAME_ROOM], const char *name);

#endif

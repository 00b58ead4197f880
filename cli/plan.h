/* plan.h - what a model will take on a device, and how fast it may run, told from config.json and the headers of its files alone.
 *
 * The numbers are the engine's own (its layout, its rules for slots, its work buffers); nothing is put on the device. */
#ifndef SC_CLI_PLAN_H
#define SC_CLI_PLAN_H
#include "engine/config.h"
#include "engine/safetensors.h"

enum { SC_PLAN_PIXELS = 8 /* a latent row, in every decoder of the family */ };

/* The three sets of a model directory: transformer, text encoder, decoder. */
typedef struct {
    sc_config config;
    sc_tensors *set[3];
} sc_plan_model;

sc_status sc_plan_open(sc_plan_model *out, const char *dir, sc_error *err); /* "memory" as the config has it */
void sc_plan_close(sc_plan_model *m);

typedef struct {
    double weights;          /* bytes on the device, as it packs them */
    double session;          /* bytes of one session: pages, latents, the decoder's past frames */
    double pictures;         /* ... and its pictures of a chunk, on device and host */
    double prompt;           /* ... and the longest prompt's keys and values, or its fold: whichever length takes most. A blend has two more */
    double work;             /* bytes of the passes and the decoder, shared by all sessions */
    double linear, attention, decoder; /* floating point operations of one chunk with a full memory, the clean pass included */
    int frames;              /* video frames of a chunk */
} sc_plan;

/* cpu: as the CPU packs (f32, 3x3 convolutions transformed), else a GPU's 16 bits. batch: sessions in one pass. */
sc_status sc_plan_make(sc_plan *out, const sc_plan_model *m, bool cpu, int batch, sc_error *err);

#endif

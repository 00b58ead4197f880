/* import.h - public checkpoints into model directories, and the question what a checkpoint is.
 *
 *     SOURCE...  ->  scan (files, shards, folders)  ->  source (tensors of one checkpoint)  ->  family (what it is, is it whole?)
 *                ->  one transformer, one text encoder, one decoder, LoRAs  ->  write (bf16 safetensors, config.json, SHA256SUMS)
 *
 * Whatever comes first on the command line is taken: a distilled transformer named before the folder of the model that it was
 * distilled from replaces that one's transformer. Memory: one tensor's rows at a time; checkpoints are mapped. Thread: any. */
#ifndef SC_IMPORT_IMPORT_H
#define SC_IMPORT_IMPORT_H
#include "base/dtype.h"
#include "base/status.h"
#include "import/family.h"
#include <stdbool.h>
#include <stdint.h>

/* How a family of transformers was trained to be run; the numbers of config.json that no tensor tells. */
typedef struct {
    const char *name;
    bool pbsa;
    int window, sink;       /* latent frames; sink 0 for pbsa */
    double shift;
    int steps[8], step_count;
    const char *words;      /* found in a file's name, separated by '|' */
    const char *note;       /* what of the authors' program this one does not do; NULL: nothing */
} sc_preset;

const sc_preset *sc_preset_at(int index);              /* NULL past the last */
const sc_preset *sc_preset_find(const char *name);     /* NULL: none of that name */

typedef struct {
    const char *const *sources;
    int source_count;
    const char *out;            /* the model directory to make; its last part is the model's name */
    const char *tokenizer;      /* NULL: found among the sources */
    sc_dtype dtype;             /* of transformer and text encoder: SC_BF16, SC_F16, SC_F32 */
    bool decoder_as_dtype;      /* the decoder too; else its tensors keep their 16 bits, and F32 stays F32 */
    const char *preset;         /* NULL: by the file's name, else self-forcing */
    const char *weights;        /* top-level key of a .pt to take: "generator"; NULL: generator_ema, else generator */
    double lora_scale;          /* times alpha / rank; 1 */
    double lora_alpha;          /* where the file does not say; <= 0: the rank itself */
    bool allow_extra;           /* tensors that the family does not know are left out instead of refused */
    int width, height, fps;     /* 832, 480, 16; 0: those */
    int window, sink;           /* < 0: the preset's */
    const char *memory;         /* NULL: the preset's; "pbsa", "window" */
    double shift;               /* 0: the preset's */
    int steps[64], step_count;  /* 0: the preset's */
    int heads;                  /* 0: from config.json beside the file, else dim / 128 */
    uint64_t shard_bytes;       /* 0: 4 GiB */
    void (*say)(void *ctx, const char *line); /* progress, one line without newline; NULL: silent */
    void *say_ctx;
} sc_import_options;

/* Make the model directory. Errors: SC_EINVAL (what a source lacks, with the nearest names), SC_EIO, SC_ENOMEM. Nothing is left
 * behind after one. */
sc_status sc_import_run(const sc_import_options *options, sc_error *err);

/* What one checkpoint is, for people. */
typedef struct {
    sc_family family;
    char what[32], spelling[16], format[16], root[32], sizes[160];
    int expected, found, left_over;
    int64_t parameters;
    int missing_count, unexpected_count, wrong_count; /* of which the first SC_ODD_NAMES are below */
    char missing[SC_ODD_NAMES][SC_ODD_TEXT], unexpected[SC_ODD_NAMES][SC_ODD_TEXT], wrong[SC_ODD_NAMES][SC_ODD_TEXT];
} sc_import_report;

/* `path`: a .safetensors, .pt or .pth file; a shard brings its siblings. Errors: as sc_source_open and sc_family_find. */
sc_status sc_import_identify(const char *path, sc_import_report *out, sc_error *err);

#endif

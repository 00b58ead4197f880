/* family.h - what a checkpoint is: which family, under which spelling, and whether it is whole.
 *
 * Every name is stripped of what packing put around it and looked up in the lists of names.h; the list and spelling with the most
 * hits wins. Sizes come from the shapes of the first tensors that show them; all shapes must then agree. Thread: any. */
#ifndef SC_IMPORT_FAMILY_H
#define SC_IMPORT_FAMILY_H
#include "import/names.h"
#include "import/source.h"

enum { SC_ODD_NAMES = 32, SC_ODD_TEXT = 400 };

/* One expected tensor and where it is. */
typedef struct {
    const sc_name *name;
    const sc_source_tensor *tensor; /* NULL: not there */
    const sc_source_tensor *scale;  /* of a scaled fp8 weight: one factor, or one a row; else NULL */
} sc_match;

/* One low-rank change of a weight: W += scale * up . down. */
typedef struct {
    char target[SC_NAME_ROOM];      /* our name of the weight */
    const sc_source_tensor *down;   /* A [rank][cols] */
    const sc_source_tensor *up;     /* B [rows][rank] */
    double alpha;                   /* scale is alpha / rank; < 0: the file does not say */
} sc_lora_pair;

typedef struct {
    sc_source *source;              /* borrowed */
    sc_family family;
    int spelling, layers;
    char root[32];                  /* what was taken of a checkpoint with several models: "generator_ema." */
    sc_sizes sizes;
    sc_name_list names;
    sc_match *match;                /* [names.count] */
    int expected, found;            /* tensors the family must have, and how many of them are there */
    int left_over;                  /* tensors outside `root` */
    int64_t parameters;
    bool has_encoder;
    const sc_source_tensor *tokenizer; /* Comfy repacks carry spiece.model as a tensor; else NULL */
    sc_lora_pair *lora;
    int lora_count;
    /* The first SC_ODD_NAMES of each, as text: "NAME (nearest: NAME)" or a sentence about a shape. */
    char (*missing)[SC_ODD_TEXT], (*unexpected)[SC_ODD_TEXT], (*wrong)[SC_ODD_TEXT];
    int missing_count, unexpected_count, wrong_count;
} sc_found;

/* Find out what `source` is. `root`: NULL to take generator_ema, else generator, else all; or the top-level key to take.
 * A checkpoint that is not whole is not an error here. Errors: SC_EINVAL when it is no known family, when two tensors are one,
 * SC_ENOMEM. */
sc_status sc_family_find(sc_found *out, sc_source *source, const char *root, sc_error *err);
void sc_family_free(sc_found *found);

/* SC_EINVAL with the first fault when a tensor is missing or of the wrong shape or type, or, unless `extra`, one is not expected. */
sc_status sc_family_check(const sc_found *found, bool extra, sc_error *err);

/* "1536 wide, 30 layers, 1418.4 M" and so on. */
void sc_family_sizes(const sc_found *found, char *out, size_t n);

#endif

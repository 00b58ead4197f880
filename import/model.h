/* model.h - inside of the importer: the chosen parts, and the files made of them. Not for users of import.h. */
#ifndef SC_IMPORT_MODEL_H
#define SC_IMPORT_MODEL_H
#include "import/import.h"
#include "import/write.h"

enum { SC_LORAS = 8, SC_CONFIG_TEXT = 16384 };

/* What a model directory is made of; everything borrowed. */
typedef struct {
    const sc_import_options *options;
    const sc_preset *preset;
    const sc_found *dit, *text, *decoder;
    const sc_found *lora[SC_LORAS];
    int loras;
    int heads, text_len;
} sc_parts;

typedef struct {
    char dit[SC_SHARDS][SC_FILE_NAME], text[SC_SHARDS][SC_FILE_NAME], decoder[SC_SHARDS][SC_FILE_NAME];
    int dit_count, text_count, decoder_count;
} sc_part_files;

/* Write the tensors of one part in our names. `loras` of `parts` are merged into the transformer. */
sc_status sc_part_write(sc_folder *folder, const sc_parts *parts, const sc_found *part, const char *stem, char files[SC_SHARDS][SC_FILE_NAME], int *count,
                        sc_error *err);

/* config.json of the model, checked by the engine's own reader. */
sc_status sc_config_make(char out[SC_CONFIG_TEXT], const sc_parts *parts, const char *name, const sc_part_files *files, sc_error *err);

#endif

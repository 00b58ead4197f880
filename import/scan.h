/* scan.h - from the words of a command line to checkpoints on disk. Thread: any. */
#ifndef SC_IMPORT_SCAN_H
#define SC_IMPORT_SCAN_H
#include "base/status.h"
#include <stdbool.h>

enum { SC_SCAN_CHECKPOINTS = 64, SC_SCAN_SHARDS = 64, SC_SCAN_DEPTH = 3 };

/* One checkpoint: its file, or its shards in order. */
typedef struct {
    char *path[SC_SCAN_SHARDS];
    int count;
    bool named;         /* on the command line, not merely found in a folder */
} sc_checkpoint;

typedef struct {
    sc_checkpoint checkpoint[SC_SCAN_CHECKPOINTS];
    int count;
    char *tokenizer;    /* first spiece.model or other *.model; NULL */
    char *config[SC_SCAN_CHECKPOINTS]; /* config.json beside checkpoint i, or NULL */
} sc_scan;

/* Files are taken as they are (a shard brings its siblings NAME-0000i-of-0000n); folders are searched SC_SCAN_DEPTH levels deep for
 * .safetensors, .pt, .pth, .bin and spiece.model, in alphabetical order, hidden names left out.
 * Errors: SC_EIO, SC_EINVAL (a shard is missing, nothing found, too many), SC_ENOMEM. */
sc_status sc_scan_sources(sc_scan *out, const char *const *sources, int count, sc_error *err);
void sc_scan_free(sc_scan *scan);

#endif

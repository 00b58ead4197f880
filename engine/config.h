/* config.h - what a model directory says about its model.
 *
 * config.json in our own complete format (docs/models.md; "format": "sparsecast-1"), or the older form of the pocket model
 * (models/pocket/config.json as first published), which is read too. Every number is range-checked here, once. */
#ifndef SC_ENGINE_CONFIG_H
#define SC_ENGINE_CONFIG_H
#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif

enum { SC_MAX_STEPS = 64, SC_MAX_LEVELS = 8, SC_VAE_MULTS = 4, SC_VAE_Z_MAX = 64 };

typedef enum { SC_MEMORY_PBSA, SC_MEMORY_WINDOW } sc_memory_kind; /* window covers dense too: window_frames = all */
typedef enum { SC_TEXT_RAW, SC_TEXT_WAN_CLEAN } sc_text_cleaning;
typedef enum { SC_DECODER_TAEHV, SC_DECODER_WAN_VAE } sc_decoder_kind;

typedef struct {
    char name[64];
    struct {
        int dim, heads, head_dim, ffn_dim, layers, text_dim, text_len, freq_dim, in_ch, out_ch, patch[3];
        double eps;
    } dit;
    struct { int vocab, dim, dim_attn, dim_ffn, heads, layers, buckets, max_dist; } t5;
    struct {
        sc_decoder_kind kind;
        int z, patch;            /* latent channels; pixel shuffle, 1 when none */
        int dec[4];              /* TAEHV: widths */
        int dim, mult[SC_VAE_MULTS], blocks; /* WAN_VAE: width, its multiples from the pixels down, residual blocks of an encoder level */
        double mean[SC_VAE_Z_MAX], std[SC_VAE_Z_MAX]; /* WAN_VAE: of the latent channels */
    } decoder;
    int chunk_frames;       /* latent frames of a chunk */
    int latent_h, latent_w;
    int fps;
    struct {                     /* of the kind that is not this one's: what the file names, else 0 (counts that may be 0: -1) */
        sc_memory_kind kind;
        int tile[3];             /* PBSA: frames, rows, columns of a block, in tokens; frames == chunk_frames */
        int window_chunks;       /* PBSA: chunks kept, the current one included */
        int persistent_blocks;   /* PBSA: C */
        double keep_ratio;       /* PBSA */
        int max_distance;        /* PBSA: in latent frames; -1 = no limit */
        int window_frames;       /* WINDOW: capacity in latent frames, current chunk and sink included */
        int sink_frames;         /* WINDOW */
        int dense_frames;        /* of sc_config_memory's "dense" */
    } memory;
    double shift;
    int steps[SC_MAX_STEPS], step_count;
    /* true: t = 1000 * s u / (1 + (s - 1) u), sigma = t / 1000 exactly (pocket). false: nearest entry of the 1000-step table
     * of the reference's FlowMatchScheduler, float32 (Wan family). */
    bool exact_sigma;
    sc_text_cleaning cleaning;
    char dit_files[32][128]; int dit_file_count;   /* names inside the model directory, no '/' */
    char text_files[32][128]; int text_file_count;
    char decoder_file[128];
    char tokenizer_file[128];
} sc_config;

/* Read DIR/config.json. Errors: SC_EIO, SC_EINVAL; the text names file and key ("models/x/config.json: dit.heads: 0 is not in 1..256"). */
sc_status sc_config_read(sc_config *out, const char *dir, sc_error *err);

/* Parse `text` (n bytes) instead; `where` stands for the file in messages. */
sc_status sc_config_parse(sc_config *out, const char *text, size_t n, const char *where, sc_error *err);

/* Run the model with another memory than its file says. NULL: as it says. Else, each with what the file names for it:
 *   "pbsa"    tiles that fill a page best (3 x 5 x 4 at 832x480), a window of 9 latent frames, persistent blocks worth 3, keep 25 %,
 *             ages held at 18 (a window model's max_distance of -1 says nothing: it holds no ages)
 *   "window"  a PBSA model's window_chunks without its persistent blocks, all of it attended, no sink
 *   "dense"   a window of dense_frames (21, what the models were trained on) without a sink
 * Errors: SC_EINVAL for another word, and where the numbers do not fit each other. */
sc_status sc_config_memory(sc_config *c, const char *mode, const char *where, sc_error *err);

/* The largest tile of `frames` x rows x columns that fills a page of 64 tokens as far as it can and divides rows x columns, the squarest of them. */
void sc_config_tile(int frames, int rows, int columns, int tile[3]);

/* The memory in words: "window: 12 latent frames, the first 3 stay". */
void sc_config_memory_text(const sc_config *c, char *out, size_t n);

#ifdef __cplusplus
}
#endif
#endif

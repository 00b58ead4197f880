/* import.c - `sparsecast import`: public checkpoints into a model directory.
 *
 * It has a dozen options that no other command shares, so it reads its own command line, by a table as main.c does. */
#include "import/import.h"
#include "cli/cli.h"
#include "cli/import.h"
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { TEXT, WHOLE, REAL, FLAG, SIZE, STEPS, DTYPE, CHOICE } option_kind;

static const struct option {
    const char *name;
    char letter;
    option_kind kind;
    size_t at;
    double lo, hi;
    const char *value, *help; /* of a CHOICE, value is "a|b" */
} options[] = {
    {"output", 'o', TEXT, offsetof(sc_import_options, out), 0, 0, "DIR", "the model directory to make; it must not exist"},
    {"dtype", 0, DTYPE, offsetof(sc_import_options, dtype), 0, 0, "bf16|f16|f32", "of transformer and text encoder (bf16)"},
    {"decoder-dtype", 0, CHOICE, offsetof(sc_import_options, decoder_as_dtype), 0, 0, "keep|same", "the decoder as stored, or as --dtype says (keep)"},
    {"preset", 0, TEXT, offsetof(sc_import_options, preset), 0, 0, "NAME", "how to run it; else told by the file's name"},
    {"weights", 0, TEXT, offsetof(sc_import_options, weights), 0, 0, "KEY", "top-level key of a .pt (generator_ema, else generator)"},
    {"tokenizer", 0, TEXT, offsetof(sc_import_options, tokenizer), 0, 0, "FILE", "spiece.model, when it is not among the sources"},
    {"lora-scale", 0, REAL, offsetof(sc_import_options, lora_scale), -100, 100, "X", "times alpha / rank (1)"},
    {"lora-alpha", 0, REAL, offsetof(sc_import_options, lora_alpha), 1e-6, 1e6, "X", "where the file does not say (the rank)"},
    {"allow-extra", 0, FLAG, offsetof(sc_import_options, allow_extra), 0, 0, NULL, "leave out tensors that the family does not know"},
    {"size", 0, SIZE, 0, 16, 8192, "WxH", "of the picture (832x480)"},
    {"fps", 0, WHOLE, offsetof(sc_import_options, fps), 1, 240, "N", "of playback (16)"},
    {"memory", 0, CHOICE, offsetof(sc_import_options, memory), 0, 0, "pbsa|window", "instead of the preset's"},
    {"window", 0, WHOLE, offsetof(sc_import_options, window), 1, 3072, "N", "latent frames, chunk at hand and sink included"},
    {"sink", 0, WHOLE, offsetof(sc_import_options, sink), 0, 3072, "N", "first latent frames that stay"},
    {"shift", 0, REAL, offsetof(sc_import_options, shift), 1e-3, 100, "X", "warps the steps"},
    {"steps", 0, STEPS, 0, 1, 1000, "A,B,...", "denoising steps before the warp, descending"},
    {"heads", 0, WHOLE, offsetof(sc_import_options, heads), 1, 256, "N", "of attention, for a model whose heads are not 128 wide"},
    {"help", 'h', FLAG, 0, 0, 0, NULL, "this text"}};
enum { OPTIONS = sizeof options / sizeof *options };

static void help(void) {
    const sc_preset *p;

    printf("usage: sparsecast import [options] SOURCE... -o DIR - make a model directory of public checkpoints\n\n"
           "A SOURCE is a .safetensors, .pt or .pth file, or a folder that is searched for such files. Together the sources must hold a\n"
           "transformer, a text encoder with its spiece.model and a decoder; of two of a kind the first is taken, LoRAs are merged:\n"
           "  sparsecast import self_forcing_dmd.pt taew2_1.pth Wan2.1-T2V-1.3B/ -o models/self-forcing\n\n");
    for (int i = 0; i < OPTIONS; i++) {
        const struct option *o = &options[i];
        char left[64];
        snprintf(left, sizeof left, "%c%c%s --%s %s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ', o->letter ? "," : " ", o->name, o->value ? o->value : "");
        printf("  %-34s %s\n", left, o->help);
    }
    printf("\npresets:");
    for (int i = 0; (p = sc_preset_at(i)); i++) printf(" %s", p->name);
    printf("\n");
}

/* A number that takes the whole word. */
static bool number(const char *s, double lo, double hi, bool whole, double *out) {
    char *end;

    errno = 0;
    if (!((*s >= '0' && *s <= '9') || *s == '.' || (*s == '-' && lo < 0))) return false;
    *out = strtod(s, &end);
    return !*end && !errno && isfinite(*out) && *out >= lo && *out <= hi && (!whole || *out == floor(*out));
}

static int set_size(sc_import_options *o, const struct option *row, const char *value) {
    char w[16];
    const char *x = strchr(value, 'x');
    double a, b;

    snprintf(w, sizeof w, "%.*s", x ? (int)(x - value < 15 ? x - value : 15) : 0, value);
    if (!x || !number(w, row->lo, row->hi, true, &a) || !number(x + 1, row->lo, row->hi, true, &b))
        return sc_cli_wrong_use("import: --size %s: not a size such as 832x480", value);
    o->width = (int)a;
    o->height = (int)b;
    return 0;
}

static int set_steps(sc_import_options *o, const struct option *row, const char *value) {
    const char *s = value;

    o->step_count = 0;
    for (;;) {
        char word[16];
        size_t n = strcspn(s, ",");
        double x;
        snprintf(word, sizeof word, "%.*s", n < sizeof word ? (int)n : 0, s);
        if (o->step_count == (int)(sizeof o->steps / sizeof *o->steps) || !number(word, row->lo, row->hi, true, &x))
            return sc_cli_wrong_use("import: --steps %s: not 1 to 64 whole numbers from 1 to 1000", value);
        o->steps[o->step_count++] = (int)x;
        if (!s[n]) return 0;
        s += n + 1;
    }
}

static int set_option(sc_import_options *o, const struct option *row, const char *value) {
    void *at = (char *)o + row->at;
    double x;

    switch (row->kind) {
    case TEXT: *(const char **)at = value; return 0;
    case FLAG: *(bool *)at = true; return 0;
    case SIZE: return set_size(o, row, value);
    case STEPS: return set_steps(o, row, value);
    case WHOLE: case REAL:
        if (!number(value, row->lo, row->hi, row->kind == WHOLE, &x))
            return sc_cli_wrong_use("import: --%s %s: not a %snumber from %g to %g", row->name, value, row->kind == WHOLE ? "whole " : "", row->lo, row->hi);
        if (row->kind == WHOLE) *(int *)at = (int)x;
        else *(double *)at = x;
        return 0;
    case DTYPE: {
        static const struct { const char *word; sc_dtype type; } types[] = {{"bf16", SC_BF16}, {"f16", SC_F16}, {"f32", SC_F32}};
        for (size_t i = 0; i < sizeof types / sizeof *types; i++)
            if (!strcmp(value, types[i].word)) { *(sc_dtype *)at = types[i].type; return 0; }
        break;
    }
    case CHOICE:
        if (row->at == offsetof(sc_import_options, decoder_as_dtype)) {
            if (!strcmp(value, "keep") || !strcmp(value, "same")) { o->decoder_as_dtype = *value == 's'; return 0; }
        } else if (!strcmp(value, "pbsa") || !strcmp(value, "window")) {
            *(const char **)at = value;
            return 0;
        }
        break;
    }
    return sc_cli_wrong_use("import: --%s %s: not one of %s", row->name, value, row->value);
}

static const struct option *find(const char *word, size_t n, char letter) {
    for (int i = 0; i < OPTIONS; i++)
        if (letter ? options[i].letter == letter : strlen(options[i].name) == n && !memcmp(options[i].name, word, n)) return &options[i];
    return NULL;
}

static void say(void *ctx, const char *line) {
    (void)ctx;
    fprintf(stderr, "%s\n", line);
}

int sc_cli_import(int argc, char **argv) {
    sc_import_options o = {.dtype = SC_BF16, .lora_scale = 1, .window = -1, .sink = -1, .say = say};
    const char **sources = calloc((size_t)argc + 1, sizeof *sources);
    bool only_words = false;
    sc_error err = {0};
    int rc = 0;

    if (!sources) { fputs("sparsecast: out of memory\n", stderr); return SC_EXIT_FAULT; }
    o.sources = sources;
    for (int i = 0; i < argc && !rc; i++) {
        const char *word = argv[i], *value = NULL;
        const struct option *row;
        if (only_words || word[0] != '-' || !word[1]) { sources[o.source_count++] = word; continue; }
        if (!strcmp(word, "--")) { only_words = true; continue; }
        if (word[1] == '-') {
            value = strchr(word + 2, '=');
            row = find(word + 2, value ? (size_t)(value - word - 2) : strlen(word + 2), 0);
            if (value) value++;
        } else {
            row = find(NULL, 0, word[1]);
            if (word[2]) value = word + 2;
        }
        if (!row) { rc = sc_cli_wrong_use("import: no option %s (sparsecast import --help lists them)", word); break; }
        if (row->kind == FLAG && value) { rc = sc_cli_wrong_use("import: %s takes no value", word); break; }
        if (!strcmp(row->name, "help")) { help(); goto cleanup; }
        if (row->kind != FLAG && !value && !(value = i + 1 < argc ? argv[++i] : NULL)) { rc = sc_cli_wrong_use("import: %s needs a value: %s", word, row->value); break; }
        rc = set_option(&o, row, value);
    }
    if (!rc && !o.source_count) rc = sc_cli_wrong_use("import: SOURCE... is missing (sparsecast import --help)");
    if (!rc && !o.out) rc = sc_cli_wrong_use("import: -o DIR is missing (sparsecast import --help)");
    if (!rc && sc_import_run(&o, &err)) rc = sc_cli_cannot_open(&err);
cleanup:
    free(sources);
    return rc;
}

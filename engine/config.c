/* config.c - config.json into sc_config, by table.
 *
 * A form of the file is a table of keys: where it stands, what it holds, its range, the field it fills and when it applies.
 * One loop reads any form: a key of the table that applies must be there, a key in the file that is not in the table is an
 * error with its name, so a typing error cannot become a silent default. Rows run in order; the enums that others depend on
 * ("when") come first. A few keys may be missing: a Wan VAE is the published one unless the file says otherwise. Afterwards `check_whole` looks at what no single key can tell.
 *
 * Two forms: ours ("format": "sparsecast-1"), where every field of sc_config has a key, and the older one of the pocket model,
 * known by the missing "format", which leaves file names and a few constants to this file.
 * Thread: any.   Source: docs/models.md; models/pocket/README.md for the older form. */
#include <stddef.h> /* before config.h, which names size_t */
#include "engine/config.h"
#include "engine/json_strict.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILE = 64 * 1024, MAX_VALUES = 4096, MAX_NAMES = 32, NAME_ROOM = 128 };

typedef enum { INT, INTS, REAL, REALS, STEPS, WORD, NAME, FILE_NAME, FILE_NAMES, IGNORED } kind;
/* Of the other kind of memory a file may name what it takes (sc_config_memory); IF_WAN_VAE and MAY: may be missing. */
typedef enum { ALWAYS, IF_PBSA, IF_WINDOW, IF_TAEHV, IF_WAN_VAE, MAY } condition;

typedef struct {
    const char *section, *key; /* section NULL: top level */
    kind kind;
    size_t at;                 /* offset of the field in sc_config */
    double min, max;           /* numbers; REAL and REALS exclude min itself */
    int n;                     /* INTS: how many; REALS has one per latent channel */
    const char *words[3];      /* WORD: value i is words[i] */
    condition when;
} row;

#define AT(field) offsetof(sc_config, field)

/* The numbers both forms share. */
#define SHARED_DIT \
    {"dit", "dim", INT, AT(dit.dim), 8, 16384, 0, {0}, 0}, \
    {"dit", "heads", INT, AT(dit.heads), 1, 256, 0, {0}, 0}, \
    {"dit", "head_dim", INT, AT(dit.head_dim), 6, 256, 0, {0}, 0}, \
    {"dit", "ffn_dim", INT, AT(dit.ffn_dim), 1, 131072, 0, {0}, 0}, \
    {"dit", "layers", INT, AT(dit.layers), 1, 256, 0, {0}, 0}, \
    {"dit", "text_dim", INT, AT(dit.text_dim), 1, 16384, 0, {0}, 0}, \
    {"dit", "text_len", INT, AT(dit.text_len), 1, 4096, 0, {0}, 0}, \
    {"dit", "freq_dim", INT, AT(dit.freq_dim), 2, 16384, 0, {0}, 0}, \
    {"dit", "in_ch", INT, AT(dit.in_ch), 1, 1024, 0, {0}, 0}, \
    {"dit", "patch", INTS, AT(dit.patch), 1, 16, 3, {0}, 0}, \
    {"dit", "eps", REAL, AT(dit.eps), 0, 0.1, 0, {0}, 0}

#define SHARED_T5 \
    {"t5", "vocab", INT, AT(t5.vocab), 3, 4000000, 0, {0}, 0}, \
    {"t5", "dim", INT, AT(t5.dim), 1, 16384, 0, {0}, 0}, \
    {"t5", "dim_attn", INT, AT(t5.dim_attn), 1, 16384, 0, {0}, 0}, \
    {"t5", "dim_ffn", INT, AT(t5.dim_ffn), 1, 131072, 0, {0}, 0}, \
    {"t5", "heads", INT, AT(t5.heads), 1, 256, 0, {0}, 0}, \
    {"t5", "layers", INT, AT(t5.layers), 1, 256, 0, {0}, 0}, \
    {"t5", "buckets", INT, AT(t5.buckets), 4, 1024, 0, {0}, 0}, \
    {"t5", "max_dist", INT, AT(t5.max_dist), 2, 65536, 0, {0}, 0}

#define DECODER_NUMBERS(section) \
    {section, "dec", INTS, AT(decoder.dec), 1, 8192, 4, {0}, IF_TAEHV}, \
    {section, "z", INT, AT(decoder.z), 1, 1024, 0, {0}, 0}, \
    {section, "patch", INT, AT(decoder.patch), 1, 16, 0, {0}, 0}

#define MEMORY_NUMBERS(section) \
    {section, "tile", INTS, AT(memory.tile), 1, 64, 3, {0}, IF_PBSA}, \
    {section, "window_chunks", INT, AT(memory.window_chunks), 1, 1024, 0, {0}, IF_PBSA}, \
    {section, "persistent_blocks", INT, AT(memory.persistent_blocks), 0, 65536, 0, {0}, IF_PBSA}, \
    {section, "keep_ratio", REAL, AT(memory.keep_ratio), 0, 1, 0, {0}, IF_PBSA}, \
    {section, "dense_frames", INT, AT(memory.dense_frames), 1, 1000000, 0, {0}, MAY}

#define SHARED_TOP \
    {NULL, "chunk_frames", INT, AT(chunk_frames), 1, 64, 0, {0}, 0}, \
    {NULL, "latent_hw", INTS, AT(latent_h), 1, 1024, 2, {0}, 0}

#define VAE_NUMBERS(section) \
    {section, "dim", INT, AT(decoder.dim), 1, 2048, 0, {0}, IF_WAN_VAE}, \
    {section, "mult", INTS, AT(decoder.mult), 1, 16, SC_VAE_MULTS, {0}, IF_WAN_VAE}, \
    {section, "blocks", INT, AT(decoder.blocks), 1, 8, 0, {0}, IF_WAN_VAE}, \
    {section, "mean", REALS, AT(decoder.mean), -1000, 1000, 0, {0}, IF_WAN_VAE}, \
    {section, "std", REALS, AT(decoder.std), 0, 1000, 0, {0}, IF_WAN_VAE}

static const row own_form[] = {
    {NULL, "name", NAME, AT(name), 0, 0, 0, {0}, 0},
    {NULL, "fps", INT, AT(fps), 1, 240, 0, {0}, 0},
    {"memory", "kind", WORD, AT(memory.kind), 0, 0, 0, {"pbsa", "window"}, 0},
    {"decoder", "kind", WORD, AT(decoder.kind), 0, 0, 0, {"taehv", "wan_vae"}, 0},
    SHARED_DIT,
    {"dit", "out_ch", INT, AT(dit.out_ch), 1, 1024, 0, {0}, 0},
    {"dit", "files", FILE_NAMES, AT(dit_files), 0, 0, 0, {0}, 0},
    SHARED_T5,
    {"t5", "cleaning", WORD, AT(cleaning), 0, 0, 0, {"raw", "wan"}, 0},
    {"t5", "files", FILE_NAMES, AT(text_files), 0, 0, 0, {0}, 0},
    {"t5", "tokenizer", FILE_NAME, AT(tokenizer_file), 0, 0, 0, {0}, 0},
    DECODER_NUMBERS("decoder"),
    VAE_NUMBERS("decoder"),
    {"decoder", "file", FILE_NAME, AT(decoder_file), 0, 0, 0, {0}, 0},
    SHARED_TOP,
    MEMORY_NUMBERS("memory"),
    {"memory", "max_distance", INT, AT(memory.max_distance), -1, 1000000, 0, {0}, 0},
    {"memory", "window_frames", INT, AT(memory.window_frames), 1, 1000000, 0, {0}, IF_WINDOW},
    {"memory", "sink_frames", INT, AT(memory.sink_frames), 0, 1000000, 0, {0}, IF_WINDOW},
    {"sampler", "shift", REAL, AT(shift), 0, 100, 0, {0}, 0},
    {"sampler", "steps", STEPS, AT(steps), 1, 1000, 0, {0}, 0},
    {"sampler", "sigma", WORD, 0, 0, 0, 0, {"table", "exact"}, 0}, /* fills exact_sigma, a bool */
};

static const row pocket_form[] = {
    SHARED_DIT,
    SHARED_T5,
    DECODER_NUMBERS("tae"),
    {"tae", "enc", IGNORED, 0, 0, 0, 0, {0}, 0}, /* width of an encoder that was never published */
    SHARED_TOP,
    MEMORY_NUMBERS(NULL),
    {NULL, "max_distance", INT, AT(memory.max_distance), -1, 1000000, 0, {0}, 0},
    {NULL, "shift", REAL, AT(shift), 0, 100, 0, {0}, 0},
    {NULL, "steps", STEPS, AT(steps), 1, 1000, 0, {0}, 0},
};

/* One key at hand; `where` is the file, the rest names the key in messages: "dit.heads". */
typedef struct {
    const row *row;
    const cJSON *item;
    const char *where;
    sc_error *err;
} reading;

static sc_status bad(const reading *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static sc_status bad(const reading *r, const char *fmt, ...) {
    char text[256];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return sc_fail(r->err, SC_EINVAL, "%.200s: %s%s%s: %s", r->where, r->row->section ? r->row->section : "",
                   r->row->section ? "." : "", r->row->key, text);
}

static sc_status read_int(const reading *r, const cJSON *item, int index, int *out) {
    char place[16] = "";
    int64_t v;

    if (index >= 0) snprintf(place, sizeof place, "[%d]: ", index);
    if (!cJSON_IsNumber(item)) return bad(r, "%snot a number", place);
    if (!sc_json_int(item, &v)) return bad(r, "%s%g is not a whole number", place, item->valuedouble);
    if (v < r->row->min || v > r->row->max)
        return bad(r, "%s%lld is not in %.0f..%.0f", place, (long long)v, r->row->min, r->row->max);
    *out = (int)v;
    return SC_OK;
}

static sc_status read_ints(const reading *r, int *out, int least, int most, int *count) {
    const cJSON *item;
    int n = cJSON_IsArray(r->item) ? cJSON_GetArraySize(r->item) : -1, i = 0;
    sc_status rc;

    if (n < 0) return bad(r, "not a list");
    if (n < least || n > most) {
        if (least == most) return bad(r, "%d numbers, not %d", n, least);
        return bad(r, "%d numbers is not in %d..%d", n, least, most);
    }
    cJSON_ArrayForEach(item, r->item) {
        if ((rc = read_int(r, item, i, &out[i]))) return rc;
        i++;
    }
    if (count) *count = n;
    return SC_OK;
}

static sc_status read_reals(const reading *r, double *out, int count) {
    const cJSON *item;
    int i = 0;

    if (!cJSON_IsArray(r->item)) return bad(r, "not a list");
    if (cJSON_GetArraySize(r->item) != count) return bad(r, "%d numbers, not %d", cJSON_GetArraySize(r->item), count);
    cJSON_ArrayForEach(item, r->item) {
        double v = item->valuedouble;
        if (!cJSON_IsNumber(item)) return bad(r, "[%d]: not a number", i);
        if (!isfinite(v) || v <= r->row->min || v > r->row->max) return bad(r, "[%d]: %g is not above %g and up to %g", i, v, r->row->min, r->row->max);
        out[i++] = v;
    }
    return SC_OK;
}

static sc_status read_file_name(const reading *r, const cJSON *item, char *out) {
    if (!cJSON_IsString(item)) return bad(r, "not a string");
    const char *s = item->valuestring;
    size_t n = strlen(s);

    if (n < 1 || n >= NAME_ROOM) return bad(r, "a file name of %zu bytes is not in 1..%d", n, NAME_ROOM - 1);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f) return bad(r, "a control byte in a file name");
    if (strchr(s, '/') || strchr(s, '\\') || !strcmp(s, ".") || strstr(s, ".."))
        return bad(r, "\"%.100s\" is not the name of a file in the model directory", s);
    memcpy(out, s, n + 1);
    return SC_OK;
}

static sc_status read_file_names(const reading *r, char (*out)[NAME_ROOM], int *count) {
    const cJSON *item;
    int n = cJSON_IsArray(r->item) ? cJSON_GetArraySize(r->item) : -1, i = 0;
    sc_status rc;

    if (n < 0) return bad(r, "not a list");
    if (n < 1 || n > MAX_NAMES) return bad(r, "%d names is not in 1..%d", n, MAX_NAMES);
    cJSON_ArrayForEach(item, r->item) {
        if ((rc = read_file_name(r, item, out[i]))) return rc;
        for (int j = 0; j < i; j++)
            if (!strcmp(out[i], out[j])) return bad(r, "\"%.100s\" comes twice", out[i]);
        i++;
    }
    *count = n;
    return SC_OK;
}

static sc_status read_name(const reading *r, char *out, size_t room) {
    const char *ok = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

    if (!cJSON_IsString(r->item)) return bad(r, "not a string");
    const char *s = r->item->valuestring;
    size_t n = strlen(s);

    if (n < 1 || n >= room) return bad(r, "%zu bytes is not in 1..%zu", n, room - 1);
    if (strspn(s, ok) != n) return bad(r, "only letters, digits and . _ - make a name");
    memcpy(out, s, n + 1);
    return SC_OK;
}

static sc_status read_word(const reading *r, int *out) {
    if (!cJSON_IsString(r->item)) return bad(r, "not a string");
    for (int i = 0; r->row->words[i]; i++)
        if (!strcmp(r->item->valuestring, r->row->words[i])) {
            *out = i;
            return SC_OK;
        }
    return bad(r, "\"%.60s\" is neither \"%s\" nor \"%s\"", r->item->valuestring, r->row->words[0], r->row->words[1]);
}

/* The published Wan 2.1 VAE, which the keys of the file then change. */
static void fill_vae(sc_config *c) {
    static const int mult[SC_VAE_MULTS] = {1, 2, 4, 4};
    static const double mean[16] = {-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
                                    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921};
    static const double std[16] = {2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
                                   3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160};

    c->decoder.dim = 96;
    memcpy(c->decoder.mult, mult, sizeof mult);
    c->decoder.blocks = 2;
    memcpy(c->decoder.mean, mean, sizeof mean);
    memcpy(c->decoder.std, std, sizeof std);
}

static sc_status read_value(const reading *r, sc_config *c) {
    const row *w = r->row;
    char *field = (char *)c + w->at;
    int word = 0;
    sc_status rc;

    switch (w->kind) {
    case INT: return read_int(r, r->item, -1, (int *)field);
    case INTS: return read_ints(r, (int *)field, w->n, w->n, NULL);
    case STEPS: return read_ints(r, c->steps, 1, SC_MAX_STEPS, &c->step_count);
    case REAL: {
        double v = r->item->valuedouble;
        if (!cJSON_IsNumber(r->item)) return bad(r, "not a number");
        if (!isfinite(v) || v <= w->min || v > w->max) return bad(r, "%g is not above %g and up to %g", v, w->min, w->max);
        *(double *)field = v;
        return SC_OK;
    }
    case REALS:
        if (c->decoder.z > SC_VAE_Z_MAX) return bad(r, "%d latent channels, a wan_vae has at most %d", c->decoder.z, SC_VAE_Z_MAX);
        return read_reals(r, (double *)field, c->decoder.z);
    case NAME: return read_name(r, field, sizeof c->name);
    case FILE_NAME: return read_file_name(r, r->item, field);
    case FILE_NAMES:
        return w->at == AT(dit_files) ? read_file_names(r, c->dit_files, &c->dit_file_count)
                                      : read_file_names(r, c->text_files, &c->text_file_count);
    case WORD:
        rc = read_word(r, &word);
        if (rc) return rc;
        if (w->at == AT(memory.kind)) c->memory.kind = word ? SC_MEMORY_WINDOW : SC_MEMORY_PBSA;
        else if (w->at == AT(decoder.kind)) {
            c->decoder.kind = word ? SC_DECODER_WAN_VAE : SC_DECODER_TAEHV;
            if (word) fill_vae(c);
        }
        else if (w->at == AT(cleaning)) c->cleaning = word ? SC_TEXT_WAN_CLEAN : SC_TEXT_RAW;
        else c->exact_sigma = word == 1;
        return SC_OK;
    case IGNORED: return SC_OK;
    }
    return SC_OK;
}

static const char *unmet(const row *w, const sc_config *c) {
    if (w->when == IF_TAEHV && c->decoder.kind != SC_DECODER_TAEHV) return "decoder.kind is \"taehv\"";
    if (w->when == IF_WAN_VAE && c->decoder.kind != SC_DECODER_WAN_VAE) return "decoder.kind is \"wan_vae\"";
    return NULL;
}

/* Whether the file may leave the key out; mean and std of other than 16 channels were never published. */
static bool optional(const row *w, const sc_config *c) {
    if (w->when == IF_PBSA) return c->memory.kind != SC_MEMORY_PBSA;
    if (w->when == IF_WINDOW) return c->memory.kind != SC_MEMORY_WINDOW;
    return w->kind == IGNORED || w->when == MAY || (w->when == IF_WAN_VAE && (w->kind != REALS || c->decoder.z == 16));
}

static bool is_section(const row *rows, size_t n, const char *key) {
    for (size_t i = 0; i < n; i++)
        if (rows[i].section && !strcmp(rows[i].section, key)) return true;
    return false;
}

static bool is_key(const row *rows, size_t n, const char *section, const char *key) {
    for (size_t i = 0; i < n; i++)
        if (!strcmp(rows[i].key, key) && !strcmp(rows[i].section ? rows[i].section : "", section)) return true;
    return false;
}

static sc_status check_known(const row *rows, size_t n, const cJSON *root, const char *where, sc_error *err) {
    const cJSON *item, *inner;

    cJSON_ArrayForEach(item, root) {
        if (!strcmp(item->string, "format") || is_key(rows, n, "", item->string)) continue;
        if (!is_section(rows, n, item->string)) return sc_fail(err, SC_EINVAL, "%.200s: %.100s: unknown key", where, item->string);
        if (!cJSON_IsObject(item)) return sc_fail(err, SC_EINVAL, "%.200s: %.100s: not an object", where, item->string);
        cJSON_ArrayForEach(inner, item)
            if (!is_key(rows, n, item->string, inner->string))
                return sc_fail(err, SC_EINVAL, "%.200s: %.60s.%.100s: unknown key", where, item->string, inner->string);
    }
    return SC_OK;
}

static sc_status read_rows(sc_config *c, const row *rows, size_t n, const cJSON *root, const char *where, sc_error *err) {
    sc_status rc = check_known(rows, n, root, where, err);

    for (size_t i = 0; i < n && !rc; i++) {
        reading r = {&rows[i], NULL, where, err};
        const cJSON *home = rows[i].section ? cJSON_GetObjectItemCaseSensitive(root, rows[i].section) : root;
        const char *want = unmet(&rows[i], c);
        r.item = cJSON_GetObjectItemCaseSensitive(home, rows[i].key);
        if (want) rc = r.item ? bad(&r, "belongs only where %s", want) : SC_OK;
        else if (!r.item) rc = optional(&rows[i], c) ? SC_OK : bad(&r, "missing");
        else rc = read_value(&r, c);
    }
    return rc;
}

static sc_status check_pbsa(const sc_config *c, const char *where, sc_error *err) {
    const int *tile = c->memory.tile;
    int rows = c->latent_h / c->dit.patch[1], columns = c->latent_w / c->dit.patch[2];

    if (tile[0] != c->chunk_frames)
        return sc_fail(err, SC_EINVAL, "%.200s: memory.tile: %d frames, but chunk_frames is %d", where, tile[0], c->chunk_frames);
    if (tile[0] * tile[1] * tile[2] > 64)
        return sc_fail(err, SC_EINVAL, "%.200s: memory.tile: %d x %d x %d is %d tokens, a page holds 64", where, tile[0], tile[1],
                       tile[2], tile[0] * tile[1] * tile[2]);
    if (rows % tile[1] || columns % tile[2])
        return sc_fail(err, SC_EINVAL, "%.200s: memory.tile: %d x %d does not divide the %d x %d tokens of a frame", where, tile[1],
                       tile[2], rows, columns);
    return SC_OK;
}

static sc_status check_window(const sc_config *c, const char *where, sc_error *err) {
    const int sink = c->memory.sink_frames < 0 ? 0 : c->memory.sink_frames;
    if (c->memory.window_frames >= sink + c->chunk_frames) return SC_OK;
    return sc_fail(err, SC_EINVAL, "%.200s: memory.window_frames: %d does not hold %d sink frames and a chunk of %d", where, c->memory.window_frames, sink,
                   c->chunk_frames);
}

static sc_status check_whole(const sc_config *c, const char *where, sc_error *err) {
    const int *patch = c->dit.patch;

    if (c->dit.head_dim % 2) return sc_fail(err, SC_EINVAL, "%.200s: dit.head_dim: %d is odd", where, c->dit.head_dim);
    if (c->dit.dim != c->dit.heads * c->dit.head_dim)
        return sc_fail(err, SC_EINVAL, "%.200s: dit.dim: %d is not heads x head_dim = %d x %d", where, c->dit.dim, c->dit.heads,
                       c->dit.head_dim);
    if (c->dit.freq_dim % 2) return sc_fail(err, SC_EINVAL, "%.200s: dit.freq_dim: %d is odd", where, c->dit.freq_dim);
    if (c->dit.out_ch != c->dit.in_ch)
        return sc_fail(err, SC_EINVAL, "%.200s: dit.out_ch: %d, but in_ch is %d", where, c->dit.out_ch, c->dit.in_ch);
    if (patch[0] != 1) return sc_fail(err, SC_EINVAL, "%.200s: dit.patch: %d frames; only 1 is supported", where, patch[0]);
    if (c->latent_h % patch[1] || c->latent_w % patch[2])
        return sc_fail(err, SC_EINVAL, "%.200s: latent_hw: %d x %d is not divisible by dit.patch %d x %d", where, c->latent_h,
                       c->latent_w, patch[1], patch[2]);
    if (c->dit.text_dim != c->t5.dim)
        return sc_fail(err, SC_EINVAL, "%.200s: dit.text_dim: %d, but t5.dim is %d", where, c->dit.text_dim, c->t5.dim);
    if (c->t5.dim_attn % c->t5.heads)
        return sc_fail(err, SC_EINVAL, "%.200s: t5.dim_attn: %d is not divisible by %d heads", where, c->t5.dim_attn, c->t5.heads);
    if (c->t5.buckets % 4 || c->t5.max_dist <= c->t5.buckets / 4)
        return sc_fail(err, SC_EINVAL, "%.200s: t5.buckets: %d is not a multiple of 4 with buckets / 4 below max_dist %d", where,
                       c->t5.buckets, c->t5.max_dist);
    if (c->decoder.z != c->dit.in_ch)
        return sc_fail(err, SC_EINVAL, "%.200s: decoder z: %d, but dit.in_ch is %d", where, c->decoder.z, c->dit.in_ch);
    if (c->decoder.kind == SC_DECODER_WAN_VAE && c->decoder.patch != 1)
        return sc_fail(err, SC_EINVAL, "%.200s: decoder.patch: %d, but a wan_vae has none: 1", where, c->decoder.patch);
    for (int i = 1; i < c->step_count; i++)
        if (c->steps[i] >= c->steps[i - 1])
            return sc_fail(err, SC_EINVAL, "%.200s: steps: %d after %d does not descend", where, c->steps[i], c->steps[i - 1]);
    sc_status rc = c->memory.tile[0] ? check_pbsa(c, where, err) : SC_OK;
    if (!rc && c->memory.window_frames) rc = check_window(c, where, err);
    return rc;
}

/* ---- another memory than the file's ------------------------------------------------------------------------------------- */

void sc_config_tile(int frames, int rows, int columns, int tile[3]) {
    tile[0] = frames;
    tile[1] = tile[2] = 1;
    for (int r = 1; r <= rows && r * frames <= 64; r++)
        for (int k = 1; k <= columns && r * k * frames <= 64; k++)
            if (rows % r == 0 && columns % k == 0 &&
                (r * k > tile[1] * tile[2] || (r * k == tile[1] * tile[2] && abs(r - k) < abs(tile[1] - tile[2])))) {
                tile[1] = r;
                tile[2] = k;
            }
}

/* The paper's figures: a window of 9 latent frames, blocks worth 3 frames stay, a quarter of the window is attended. */
static sc_status use_pbsa(sc_config *c, const char *where, sc_error *err) {
    enum { WINDOW = 9, STAY = 3, DISTANCE = 18 };
    const int rows = c->latent_h / c->dit.patch[1], columns = c->latent_w / c->dit.patch[2];

    if (c->chunk_frames > 64)
        return sc_fail(err, SC_EINVAL, "%.200s: memory pbsa: a block would span the chunk's %d frames, a page holds 64 tokens", where, c->chunk_frames);
    if (!c->memory.tile[0]) sc_config_tile(c->chunk_frames, rows, columns, c->memory.tile);
    const int64_t blocks = (int64_t)(rows / c->memory.tile[1]) * (columns / c->memory.tile[2]), stay = (blocks * STAY + c->chunk_frames - 1) / c->chunk_frames;
    if (c->memory.persistent_blocks < 0 && stay > 65536)
        return sc_fail(err, SC_EINVAL, "%.200s: memory pbsa: %lld blocks of %d x %d x %d tokens would stay, at most 65536; name memory.tile or memory.persistent_blocks", where,
                       (long long)stay, c->memory.tile[0], c->memory.tile[1], c->memory.tile[2]);
    if (!c->memory.window_chunks) c->memory.window_chunks = c->chunk_frames >= WINDOW ? 1 : WINDOW / c->chunk_frames;
    if (c->memory.persistent_blocks < 0) c->memory.persistent_blocks = (int)stay;
    if (!(c->memory.keep_ratio > 0)) c->memory.keep_ratio = 0.25;
    if (c->memory.max_distance < 0) c->memory.max_distance = DISTANCE;
    c->memory.kind = SC_MEMORY_PBSA;
    return SC_OK;
}

sc_status sc_config_memory(sc_config *c, const char *mode, const char *where, sc_error *err) {
    enum { TRAINED = 21 };

    if (!mode) return SC_OK;
    if (!strcmp(mode, "pbsa")) return c->memory.kind == SC_MEMORY_PBSA ? SC_OK : use_pbsa(c, where, err);
    if (!strcmp(mode, "window")) {
        if (c->memory.kind == SC_MEMORY_WINDOW) return SC_OK;
        if (!c->memory.window_frames) c->memory.window_frames = c->memory.window_chunks * c->chunk_frames;
        if (c->memory.sink_frames < 0) c->memory.sink_frames = 0;
        c->memory.kind = SC_MEMORY_WINDOW;
        return check_window(c, where, err);
    }
    if (!strcmp(mode, "dense")) {
        const int frames = c->memory.dense_frames ? c->memory.dense_frames : TRAINED;
        if (frames < c->chunk_frames)
            return sc_fail(err, SC_EINVAL, "%.200s: memory dense: memory.dense_frames: %d does not hold a chunk of %d", where, frames, c->chunk_frames);
        c->memory.window_frames = frames;
        c->memory.sink_frames = 0;
        c->memory.kind = SC_MEMORY_WINDOW;
        return SC_OK;
    }
    return sc_fail(err, SC_EINVAL, "memory %.60s: not one of pbsa, window, dense", mode);
}

void sc_config_memory_text(const sc_config *c, char *out, size_t n) {
    char distance[40] = "no largest distance";
    if (c->memory.kind == SC_MEMORY_WINDOW) {
        snprintf(out, n, "window: %d latent frames, the first %d stay, all attended", c->memory.window_frames, c->memory.sink_frames);
        return;
    }
    if (c->memory.max_distance >= 0) snprintf(distance, sizeof distance, "largest distance %d", c->memory.max_distance);
    snprintf(out, n, "persistent blocks: tiles %dx%dx%d, window %d chunks, %d blocks, keep %g %%, %s", c->memory.tile[0], c->memory.tile[1], c->memory.tile[2],
             c->memory.window_chunks, c->memory.persistent_blocks, c->memory.keep_ratio * 100, distance);
}

/* What the older form leaves unsaid. */
static void fill_pocket(sc_config *c) {
    snprintf(c->name, sizeof c->name, "pocket");
    c->fps = 16;
    c->memory.kind = SC_MEMORY_PBSA;
    c->decoder.kind = SC_DECODER_TAEHV;
    c->exact_sigma = true;
    c->cleaning = SC_TEXT_RAW;
    snprintf(c->dit_files[0], NAME_ROOM, "dit-00001-of-00002.safetensors");
    snprintf(c->dit_files[1], NAME_ROOM, "dit-00002-of-00002.safetensors");
    c->dit_file_count = 2;
    snprintf(c->text_files[0], NAME_ROOM, "text_encoder.safetensors");
    c->text_file_count = 1;
    snprintf(c->decoder_file, NAME_ROOM, "tae.safetensors");
    snprintf(c->tokenizer_file, NAME_ROOM, "spiece.model");
}

sc_status sc_config_parse(sc_config *out, const char *text, size_t n, const char *where, sc_error *err) {
    const cJSON *format;
    cJSON *root;
    sc_config *c;
    sc_status rc;

    if (n > MAX_FILE) return sc_fail(err, SC_EINVAL, "%.200s: %zu bytes, the most is %d", where, n, MAX_FILE);
    rc = sc_json_parse(&root, text, n, MAX_VALUES, where, err);
    if (rc) return rc;
    c = calloc(1, sizeof *c); /* *out changes only when all is well */
    if (c) c->memory.persistent_blocks = c->memory.sink_frames = -1;
    format = cJSON_GetObjectItemCaseSensitive(root, "format");
    if (!c) {
        rc = sc_fail(err, SC_ENOMEM, "%.200s: out of memory", where);
    } else if (!format) {
        fill_pocket(c);
        rc = read_rows(c, pocket_form, sizeof pocket_form / sizeof *pocket_form, root, where, err);
        c->dit.out_ch = c->dit.in_ch;
    } else if (!cJSON_IsString(format) || strcmp(format->valuestring, "sparsecast-1")) {
        rc = sc_fail(err, SC_EINVAL, "%.200s: format: not \"sparsecast-1\"", where);
    } else {
        rc = read_rows(c, own_form, sizeof own_form / sizeof *own_form, root, where, err);
    }
    if (!rc) rc = check_whole(c, where, err);
    if (!rc) *out = *c;
    free(c);
    cJSON_Delete(root);
    return rc;
}

sc_status sc_config_read(sc_config *out, const char *dir, sc_error *err) {
    char path[PATH_MAX], *text = NULL;
    size_t n = 0;
    ssize_t got = 1;
    struct stat st;
    sc_status rc = SC_OK;
    int fd = -1;

    if (snprintf(path, sizeof path, "%s/config.json", dir) >= (int)sizeof path)
        return sc_fail(err, SC_EINVAL, "%.100s...: a path of more than %d bytes", dir, PATH_MAX);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st)) {
        rc = sc_fail(err, SC_EIO, "%.300s: %s", path, strerror(errno));
        goto cleanup;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = sc_fail(err, SC_EIO, "%.300s: %s, not a file", path, S_ISDIR(st.st_mode) ? "a directory" : "a device or pipe");
        goto cleanup;
    }
    text = malloc(MAX_FILE + 1);
    if (!text) {
        rc = sc_fail(err, SC_ENOMEM, "%.300s: out of memory", path);
        goto cleanup;
    }
    while (n < MAX_FILE + 1 && (got = read(fd, text + n, MAX_FILE + 1 - n)) != 0) {
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            rc = sc_fail(err, SC_EIO, "%.300s: %s", path, strerror(errno));
            goto cleanup;
        }
        n += (size_t)got;
    }
    rc = sc_config_parse(out, text, n, path, err);
cleanup:
    free(text);
    if (fd >= 0) close(fd);
    return rc;
}

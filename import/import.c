/* import.c - see import.h: which checkpoint becomes which part, and the order of work.
 *
 * Everything is looked at and checked before the first byte is written. */
#include "import/import.h"
#include "engine/json_strict.h"
#include "import/model.h"
#include "import/scan.h"
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CONFIG_BYTES = 1 << 20, TOKENIZER_BYTES = 64 << 20 };

#define TRY(call) do { if ((rc = (call))) goto cleanup; } while (0)

typedef struct {
    sc_source *source;
    sc_found found;
    const char *config;   /* config.json beside it, or NULL */
} opened;

static void say(const sc_import_options *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(const sc_import_options *o, const char *fmt, ...) {
    char text[1024];
    va_list args;

    if (!o->say) return;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    o->say(o->say_ctx, text);
}

/* The whole of a small file; owned by the caller. */
static sc_status read_file(const char *path, size_t most, char **out, size_t *n, sc_error *err) {
    struct stat st;
    sc_status rc = SC_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    *out = NULL;
    *n = 0;
    if (fd < 0 || fstat(fd, &st)) { rc = sc_fail(err, SC_EIO, "%.300s: %s", path, strerror(errno)); goto cleanup; }
    if (!S_ISREG(st.st_mode)) { rc = sc_fail(err, SC_EIO, "%.300s: not a file", path); goto cleanup; }
    if ((uint64_t)st.st_size > most) { rc = sc_fail(err, SC_EINVAL, "%.300s: %lld bytes, at most %zu are read", path, (long long)st.st_size, most); goto cleanup; }
    if (!(*out = malloc((size_t)st.st_size + 1))) { rc = sc_fail(err, SC_ENOMEM, "%.300s: out of memory", path); goto cleanup; }
    while (*n < (size_t)st.st_size) {
        ssize_t got = read(fd, *out + *n, (size_t)st.st_size - *n);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) { rc = sc_fail(err, SC_EIO, "%.300s: %s", path, got ? strerror(errno) : "ended early"); goto cleanup; }
        *n += (size_t)got;
    }
cleanup:
    if (rc) {
        free(*out);
        *out = NULL;
    }
    if (fd >= 0) close(fd);
    return rc;
}

/* One of `keys` in the authors' config.json beside a checkpoint; 0 when there is none, or no such number. */
static int config_number(const char *path, const char *const *keys, int low, int high) {
    char *text = NULL;
    cJSON *root = NULL;
    size_t n;
    int64_t v, out = 0;

    if (!path || read_file(path, CONFIG_BYTES, &text, &n, NULL)) return 0;
    if (!sc_json_parse(&root, text, n, 10000, path, NULL))
        for (int i = 0; keys[i] && !out; i++)
            if (sc_json_int(cJSON_GetObjectItemCaseSensitive(root, keys[i]), &v) && v >= low && v <= high) out = v;
    cJSON_Delete(root);
    free(text);
    return (int)out;
}

/* ---- choosing --------------------------------------------------------------------------------------------------------------- */

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool holds_word(const char *path, const char *words) {
    char low[1024];
    size_t n = 0;

    for (; path[n] && n + 1 < sizeof low; n++) low[n] = (char)tolower((unsigned char)path[n]);
    low[n] = 0;
    while (*words) {
        char word[64];
        size_t len = strcspn(words, "|");
        snprintf(word, sizeof word, "%.*s", (int)len, words);
        if (strstr(low, word)) return true;
        words += len + (words[len] == '|');
    }
    return false;
}

static sc_status choose_preset(sc_parts *p, sc_error *err) {
    const sc_preset *preset;

    if (p->options->preset) {
        if ((p->preset = sc_preset_find(p->options->preset))) return SC_OK;
        char list[200] = "";
        for (int i = 0; (preset = sc_preset_at(i)); i++) snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", preset->name);
        return sc_fail(err, SC_EINVAL, "--preset %.60s: not one of %s", p->options->preset, list);
    }
    for (int i = 0; (preset = sc_preset_at(i)); i++) {
        bool match = holds_word(sc_source_path(p->dit->source), preset->words);
        for (int l = 0; l < p->loras; l++) match |= holds_word(sc_source_path(p->lora[l]->source), preset->words);
        if (match) { p->preset = preset; return SC_OK; }
    }
    p->preset = sc_preset_at(0);
    return SC_OK;
}

static sc_status take(sc_parts *p, const sc_found *f, sc_error *err) {
    const sc_found **slot = f->family == SC_FAMILY_DIT ? &p->dit : f->family == SC_FAMILY_T5 ? &p->text : &p->decoder;
    char sizes[160];

    sc_family_sizes(f, sizes, sizeof sizes);
    if (f->family == SC_FAMILY_LORA) {
        if (p->loras == SC_LORAS) return sc_fail(err, SC_EINVAL, "%.200s: more than %d LoRAs", sc_source_path(f->source), SC_LORAS);
        p->lora[p->loras++] = f;
    } else if (*slot) {
        say(p->options, "%s: %s is left out, %s came first", sc_family_name(f->family), sc_source_path(f->source), sc_source_path((*slot)->source));
        return SC_OK;
    } else {
        *slot = f;
    }
    say(p->options, "%s: %s (%s, %s names%s%s), %s, %d of %d tensors", sc_family_name(f->family), sc_source_path(f->source), sc_source_format(f->source),
        sc_spelling_name(f->family == SC_FAMILY_LORA ? SC_FAMILY_DIT : f->family, f->spelling), f->root[0] ? ", " : "", f->root, sizes, f->found, f->expected);
    for (int i = 0; i < f->unexpected_count && i < SC_ODD_NAMES && p->options->allow_extra; i++) say(p->options, "  left out: %s", f->unexpected[i]);
    return sc_family_check(f, p->options->allow_extra, err);
}

static sc_status check_parts(const sc_parts *p, sc_error *err) {
    if (!p->dit) return sc_fail(err, SC_EINVAL, "no transformer among the sources: name its .pt or .safetensors");
    if (!p->text) return sc_fail(err, SC_EINVAL, "no text encoder among the sources: name models_t5_umt5-xxl-enc-bf16.pth, a Hugging Face text_encoder folder or a repack");
    if (!p->decoder) return sc_fail(err, SC_EINVAL, "no decoder among the sources: name taew2_1.pth or Wan2.1_VAE.pth");
    return SC_OK;
}

/* ---- work ------------------------------------------------------------------------------------------------------------------- */

static sc_status write_tokenizer(sc_folder *folder, const sc_import_options *o, const sc_scan *scan, const sc_found *text, sc_error *err) {
    const char *path = o->tokenizer ? o->tokenizer : scan->tokenizer;
    char *data = NULL;
    size_t n;
    sc_status rc;

    if (path) {
        rc = read_file(path, TOKENIZER_BYTES, &data, &n, err);
        if (!rc) rc = sc_folder_file(folder, "spiece.model", data, n, err);
        free(data);
        return rc;
    }
    rc = sc_source_verify(text->source, text->tokenizer, err);
    return rc ? rc : sc_folder_file(folder, "spiece.model", text->tokenizer->data, (size_t)text->tokenizer->count, err);
}

static sc_status write_model(const sc_parts *p, const sc_scan *scan, sc_error *err) {
    const sc_import_options *o = p->options;
    char config[SC_CONFIG_TEXT], name[64], dir[1024];
    sc_part_files files = {0};
    sc_folder *folder = NULL;
    size_t n = strlen(o->out);
    sc_status rc;

    while (n > 1 && o->out[n - 1] == '/') n--;
    if (n >= sizeof dir) return sc_fail(err, SC_EINVAL, "%.100s...: the path is too long", o->out);
    snprintf(dir, sizeof dir, "%.*s", (int)n, o->out);
    if (snprintf(name, sizeof name, "%s", base_name(dir)) >= (int)sizeof name) return sc_fail(err, SC_EINVAL, "%.100s: a model's name has at most 63 bytes", base_name(dir));
    /* What is wrong with the numbers shows before gigabytes are written. */
    files.dit_count = files.text_count = files.decoder_count = 1;
    snprintf(files.dit[0], SC_FILE_NAME, "transformer.safetensors");
    snprintf(files.text[0], SC_FILE_NAME, "text_encoder.safetensors");
    snprintf(files.decoder[0], SC_FILE_NAME, "decoder.safetensors");
    if ((rc = sc_config_make(config, p, name, &files, err))) return rc;
    if ((rc = sc_folder_begin(&folder, dir, err))) return rc;
    TRY(write_tokenizer(folder, o, scan, p->text, err));
    say(o, "writing the decoder");
    TRY(sc_part_write(folder, p, p->decoder, "decoder", files.decoder, &files.decoder_count, err));
    say(o, "writing the transformer%s", p->loras ? ", LoRA merged" : "");
    TRY(sc_part_write(folder, p, p->dit, "transformer", files.dit, &files.dit_count, err));
    say(o, "writing the text encoder");
    TRY(sc_part_write(folder, p, p->text, "text_encoder", files.text, &files.text_count, err));
    TRY(sc_config_make(config, p, name, &files, err));
    TRY(sc_folder_file(folder, "config.json", config, strlen(config), err));
    say(o, "%s: %.2f GB", dir, (double)sc_folder_bytes(folder) / 1e9);
    rc = sc_folder_commit(folder, err);
    folder = NULL;
cleanup:
    sc_folder_abort(folder);
    return rc;
}

/* The families' heads are 128 wide; a model that differs says so in its config.json or is told by --heads. */
static sc_status choose_heads(sc_parts *p, const char *config, sc_error *err) {
    static const char *const heads_keys[] = {"num_heads", "num_attention_heads", NULL}, *const text_keys[] = {"text_len", NULL};
    const int64_t dim = p->dit->sizes.v[SC_S_DIM];

    p->heads = p->options->heads ? p->options->heads : config_number(config, heads_keys, 1, 256);
    if (!p->heads && dim % 128 == 0) p->heads = (int)(dim / 128);
    if (p->heads < 1 || dim % p->heads)
        return sc_fail(err, SC_EINVAL, "%.200s: %lld wide, %d heads: tell the number with --heads", sc_source_path(p->dit->source), (long long)dim, p->heads);
    p->text_len = config_number(config, text_keys, 1, 4096);
    if (!p->text_len) p->text_len = 512;
    return SC_OK;
}

sc_status sc_import_run(const sc_import_options *o, sc_error *err) {
    sc_parts p = {.options = o};
    sc_scan *scan = calloc(1, sizeof *scan);
    opened *all = NULL;
    struct stat st;
    int count = 0;
    sc_status rc = SC_OK;

    if (!scan) return sc_fail(err, SC_ENOMEM, "import: out of memory");
    if (!lstat(o->out, &st)) { rc = sc_fail(err, SC_EINVAL, "%.300s: exists already; remove it or choose another name", o->out); goto cleanup; }
    TRY(sc_scan_sources(scan, o->sources, o->source_count, err));
    if (!(all = calloc((size_t)scan->count, sizeof *all))) { rc = sc_fail(err, SC_ENOMEM, "import: out of memory"); goto cleanup; }
    for (int i = 0; i < scan->count; i++) {
        const sc_checkpoint *c = &scan->checkpoint[i];
        opened *a = &all[count];
        sc_error why = {0};
        rc = sc_source_open(&a->source, (const char *const *)c->path, c->count, &why);
        if (!rc) rc = sc_family_find(&a->found, a->source, o->weights && !strcmp(sc_source_format(a->source), "PyTorch") && c->named ? o->weights : NULL, &why);
        /* --weights names a key of the transformer's file; other archives on the command line may not have it. */
        if (rc == SC_EINVAL && a->source && o->weights) rc = sc_family_find(&a->found, a->source, NULL, &why);
        if (rc && (c->named || rc == SC_ENOMEM)) { if (err) *err = why; sc_source_close(a->source); goto cleanup; }
        if (rc) {
            say(o, "skipped: %s", why.text);
            sc_source_close(a->source);
            *a = (opened){0};
            rc = SC_OK;
            continue;
        }
        a->config = scan->config[i];
        count++;
        TRY(take(&p, &a->found, err));
    }
    TRY(check_parts(&p, err));
    if (!o->tokenizer && !scan->tokenizer && !p.text->tokenizer) {
        rc = sc_fail(err, SC_EINVAL, "no spiece.model among the sources: name google/umt5-xxl/spiece.model or tokenizer/spiece.model, or use --tokenizer");
        goto cleanup;
    }
    TRY(choose_preset(&p, err));
    for (int i = 0; i < count; i++)
        if (&all[i].found == p.dit) TRY(choose_heads(&p, all[i].config, err));
    if (o->weights) {
        char root[40];
        snprintf(root, sizeof root, "%.30s.", o->weights);
        if (strcmp(p.dit->root, root)) { rc = sc_fail(err, SC_EINVAL, "%.200s: no top-level key %.60s", sc_source_path(p.dit->source), o->weights); goto cleanup; }
    }
    say(o, "run as %s%s%s", p.preset->name, p.preset->note ? ": " : "", p.preset->note ? p.preset->note : "");
    TRY(write_model(&p, scan, err));
cleanup:
    for (int i = 0; all && i < count; i++) {
        sc_family_free(&all[i].found);
        sc_source_close(all[i].source);
    }
    free(all);
    sc_scan_free(scan);
    free(scan);
    return rc;
}

sc_status sc_import_identify(const char *path, sc_import_report *out, sc_error *err) {
    sc_scan *scan = calloc(1, sizeof *scan);
    sc_source *source = NULL;
    sc_found f;
    sc_status rc;

    memset(out, 0, sizeof *out);
    if (!scan) return sc_fail(err, SC_ENOMEM, "%.300s: out of memory", path);
    TRY(sc_scan_sources(scan, &path, 1, err));
    if (scan->count != 1) { rc = sc_fail(err, SC_EINVAL, "%.300s: %d checkpoints there; name one", path, scan->count); goto cleanup; }
    TRY(sc_source_open(&source, (const char *const *)scan->checkpoint[0].path, scan->checkpoint[0].count, err));
    TRY(sc_family_find(&f, source, NULL, err));
    out->family = f.family;
    snprintf(out->what, sizeof out->what, "%s", sc_family_name(f.family));
    snprintf(out->spelling, sizeof out->spelling, "%s", sc_spelling_name(f.family == SC_FAMILY_LORA ? SC_FAMILY_DIT : f.family, f.spelling));
    snprintf(out->format, sizeof out->format, "%s", sc_source_format(source));
    snprintf(out->root, sizeof out->root, "%s", f.root);
    sc_family_sizes(&f, out->sizes, sizeof out->sizes);
    out->expected = f.expected;
    out->found = f.found;
    out->left_over = f.left_over;
    out->parameters = f.parameters;
    out->missing_count = f.missing_count;
    out->unexpected_count = f.unexpected_count;
    out->wrong_count = f.wrong_count;
    memcpy(out->missing, f.missing, sizeof out->missing);
    memcpy(out->unexpected, f.unexpected, sizeof out->unexpected);
    memcpy(out->wrong, f.wrong, sizeof out->wrong);
    sc_family_free(&f);
cleanup:
    sc_source_close(source);
    sc_scan_free(scan);
    free(scan);
    return rc;
}

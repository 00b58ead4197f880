/* inspect.c - `sparsecast inspect MODEL`: what a model directory or one checkpoint file is, without loading it onto a device.
 *
 * A directory is read through its config.json, as the engine would, and every file that it names is checked; what one session takes is
 * computed with the engine's own layout. A single file is told by the names of its tensors, and by what the importer would make of it. Tensors that differ only in numbers (layers)
 * share a line unless --tensors is given. Names come from files: bytes that could steer a terminal print as '?'. */
#include "cli/cli.h"
#include "cli/plan.h"
#include "engine/digest.h"
#include "engine/tokenizer.h"
#include "import/import.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { GROUPS = 400, NAME_ROOM = 256, PIXELS = SC_PLAN_PIXELS };

static const char *const dtype_names[] = {[SC_F32] = "F32", [SC_F16] = "F16", [SC_BF16] = "BF16", [SC_F64] = "F64", [SC_I32] = "I32", [SC_I64] = "I64", [SC_U8] = "U8",
                                          [SC_I8] = "I8", [SC_I16] = "I16", [SC_BOOL] = "BOOL", [SC_F8_E4M3] = "F8_E4M3", [SC_F8_E5M2] = "F8_E5M2"};

/* ---- text --------------------------------------------------------------------------------------------------------------- */

static const char *size_text(char out[32], double bytes) {
    static const char *const unit[] = {"B", "KB", "MB", "GB", "TB"};
    int u = 0;
    while (bytes >= 1000 && u < 4) { bytes /= 1000; u++; }
    snprintf(out, 32, u ? "%.1f %s" : "%.0f %s", bytes, unit[u]);
    return out;
}

/* A name as one may print it: control bytes become '?'; numbers between dots become N when `fold`. */
static void safe_name(char out[NAME_ROOM], const char *name, bool fold) {
    size_t n = 0;
    for (const char *p = name; *p && n + 1 < NAME_ROOM; p++) {
        const bool begins = p == name || p[-1] == '.';
        const size_t digits = fold && begins ? strspn(p, "0123456789") : 0;
        if (digits && (p[digits] == '.' || !p[digits])) {
            out[n++] = 'N';
            p += digits - 1;
        } else out[n++] = (unsigned char)*p < 0x20 || *p == 0x7f ? '?' : *p;
    }
    out[n] = 0;
}

static const char *shape_text(char out[192], const sc_tensor *t) {
    size_t n = (size_t)snprintf(out, 192, "[");
    for (int i = 0; i < t->rank; i++) n += (size_t)snprintf(out + n, 192 - n, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    snprintf(out + n, 192 - n, "]");
    return out;
}

/* ---- tensors ------------------------------------------------------------------------------------------------------------ */

typedef struct { char name[NAME_ROOM]; const sc_tensor *first; int count; size_t bytes; } group;

static bool same_kind(const sc_tensor *a, const sc_tensor *b) {
    return a->dtype == b->dtype && a->rank == b->rank && !memcmp(a->shape, b->shape, sizeof *a->shape * (size_t)a->rank);
}

static void list_folded(const sc_tensors *set) {
    group *g = calloc(GROUPS, sizeof *g);
    int groups = 0, left = 0;
    char shape[192], size[32];
    if (!g) return;
    for (int i = 0; i < sc_tensors_count(set); i++) {
        const sc_tensor *t = sc_tensors_at(set, i);
        char name[NAME_ROOM];
        int k = 0;
        safe_name(name, t->name, true);
        while (k < groups && (strcmp(g[k].name, name) || !same_kind(g[k].first, t))) k++;
        if (k == GROUPS) { left++; continue; }
        if (k == groups) {
            groups++;
            memcpy(g[k].name, name, sizeof name);
            g[k].first = t;
        }
        g[k].count++;
        g[k].bytes += t->bytes;
    }
    for (int k = 0; k < groups; k++) {
        if (g[k].count == 1) safe_name(g[k].name, g[k].first->name, false);
        printf("    %-44s %3d x %-5s %-22s %s\n", g[k].name, g[k].count, dtype_names[g[k].first->dtype], shape_text(shape, g[k].first), size_text(size, (double)g[k].bytes));
    }
    if (left) printf("    and %d more (--tensors lists them all)\n", left);
    free(g);
}

static void list_all(const sc_tensors *set) {
    char name[NAME_ROOM], shape[192];
    for (int i = 0; i < sc_tensors_count(set); i++) {
        const sc_tensor *t = sc_tensors_at(set, i);
        safe_name(name, t->name, false);
        printf("    %-52s %-5s %-22s %zu\n", name, dtype_names[t->dtype], shape_text(shape, t), t->bytes);
    }
}

/* One line of a part, then its tensors. */
static void print_part(const char *label, const sc_tensors *set, int files, bool all) {
    char size[32], types[96] = "";
    double count = 0, bytes = 0;
    bool seen[sizeof dtype_names / sizeof *dtype_names] = {0};
    size_t n = 0;
    for (int i = 0; i < sc_tensors_count(set); i++) {
        const sc_tensor *t = sc_tensors_at(set, i);
        count += (double)t->count;
        bytes += (double)t->bytes;
        if (!seen[t->dtype]) n += (size_t)snprintf(types + n, sizeof types - n, "%s%s", n ? " " : "", dtype_names[t->dtype]);
        seen[t->dtype] = true;
    }
    printf("  %s: %d tensors in %d file%s, %.0f values, %s, %s\n", label, sc_tensors_count(set), files, files == 1 ? "" : "s", count, size_text(size, bytes), *types ? types : "nothing");
    if (all) list_all(set);
    else list_folded(set);
}

/* ---- one file ----------------------------------------------------------------------------------------------------------- */

/* How many different numbers stand in PREFIXnSUFFIX, wherever PREFIX begins in a name; *one is a tensor of that form. */
static int numbered(const sc_tensors *set, const char *prefix, const char *suffix, const sc_tensor **one) {
    int found = 0;
    for (int i = 0; i < sc_tensors_count(set); i++) {
        const sc_tensor *t = sc_tensors_at(set, i);
        const char *p = strstr(t->name, prefix);
        if (!p) continue;
        p += strlen(prefix);
        const size_t digits = strspn(p, "0123456789");
        if (!digits || strcmp(p + digits, suffix)) continue;
        *one = t;
        found++;
    }
    return found;
}

static bool ends_with_name(const sc_tensors *set, const char *tail) {
    const size_t n = strlen(tail);
    for (int i = 0; i < sc_tensors_count(set); i++) {
        const char *name = sc_tensors_at(set, i)->name;
        const size_t m = strlen(name);
        if (m >= n && !strcmp(name + m - n, tail)) return true;
    }
    return false;
}

static void family(const sc_tensors *set, char *out, size_t room) {
    const sc_tensor *t = NULL;
    const char *vectors = sc_tensors_metadata(set, "set");
    int n;
    if (vectors) snprintf(out, room, "golden vectors of the set %.40s (sparsecast vectors runs them)", vectors);
    else if (sc_tensors_metadata(set, "tokenizer") && sc_tensors_metadata(set, "stream")) snprintf(out, room, "golden vectors of the whole pocket model (sparsecast vectors runs them)");
    else if (ends_with_name(set, "lora_A.weight")) snprintf(out, room, "LoRA, to be merged into its base model");
    else if ((n = numbered(set, "blocks.", ".self_attn.q.weight", &t)))
        snprintf(out, room, "Wan-layout transformer%s, %lld wide, %d layer%s%s", sc_tensors_find(set, "pos_embedding") ? " with positions (pocket)" : "", t->rank ? (long long)t->shape[0] : 0LL, n,
                 n == 1 ? "" : "s", ends_with_name(set, "head.head.weight") && ends_with_name(set, "patch_embedding.weight") ? "" : " (a shard)");
    else if ((n = numbered(set, "blocks.", ".attn1.to_q.weight", &t))) snprintf(out, room, "Wan transformer in Diffusers names, %lld wide, %d layers", t->rank ? (long long)t->shape[0] : 0LL, n);
    else if ((n = numbered(set, "blocks.", ".attn.q.weight", &t))) snprintf(out, room, "UMT5-layout text encoder, %lld wide, %d layers", t->rank > 1 ? (long long)t->shape[1] : 0LL, n);
    else if ((n = numbered(set, "encoder.block.", ".layer.0.SelfAttention.q.weight", &t))) snprintf(out, room, "UMT5 text encoder in Hugging Face names, %d layers", n);
    else if (sc_tensors_find(set, "decoder.3.conv.0.weight")) snprintf(out, room, "TAEHV-layout decoder%s", sc_tensors_find(set, "encoder.0.weight") ? " and encoder" : "");
    else if (sc_tensors_find(set, "decoder.middle.0.residual.0.gamma")) snprintf(out, room, "Wan VAE%s", ends_with_name(set, "encoder.conv1.weight") ? ", decoder and encoder" : " decoder");
    else snprintf(out, room, "no family that is known here");
}

static void print_odd(const char *what, int count, char list[SC_ODD_NAMES][SC_ODD_TEXT]) {
    char name[SC_ODD_TEXT];
    for (int i = 0; i < count && i < SC_ODD_NAMES; i++) {
        snprintf(name, sizeof name, "%s", list[i]);
        for (char *p = name; *p; p++) if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
        printf("    %s: %s\n", what, name);
    }
    if (count > SC_ODD_NAMES) printf("    and %d more\n", count - SC_ODD_NAMES);
}

/* What the importer makes of the file: family, spelling, sizes, and whether it is whole. False when it is of no known family. */
static bool print_report(const char *path, sc_error *err) {
    sc_import_report *r = malloc(sizeof *r);
    if (!r) { sc_fail(err, SC_ENOMEM, "%.300s: out of memory", path); return false; }
    if (sc_import_identify(path, r, err)) { free(r); return false; }
    printf("  import: %s, %s, %s names%s%s; %s; %d of %d tensors%s\n", r->what, r->format, r->spelling, r->root[0] ? " under " : "", r->root, r->sizes, r->found, r->expected,
           r->missing_count + r->unexpected_count + r->wrong_count ? "" : ", whole");
    if (r->left_over) printf("    %d tensors beside %s are another model's\n", r->left_over, r->root);
    print_odd("missing", r->missing_count, r->missing);
    print_odd("not expected", r->unexpected_count, r->unexpected);
    print_odd("wrong", r->wrong_count, r->wrong);
    free(r);
    return true;
}

static bool is_archive(const char *path) {
    FILE *f = fopen(path, "rb");
    char magic[4] = "";
    const bool is = f && fread(magic, 1, 4, f) == 4 && !memcmp(magic, "PK\3\4", 4);
    if (f) fclose(f);
    return is;
}

static int inspect_file(const char *path, bool all) {
    sc_tensors *set;
    sc_error err;
    char what[160], digest[65];
    struct stat st;
    if (!stat(path, &st) && S_ISREG(st.st_mode) && is_archive(path)) {
        printf("%s: PyTorch archive\n", path);
        return print_report(path, &err) ? 0 : sc_cli_cannot_open(&err);
    }
    if (sc_tensors_open(&set, &path, 1, &err)) return sc_cli_cannot_open(&err);
    family(set, what, sizeof what);
    sc_model_digest((const sc_tensors *const[]){set}, 1, digest);
    printf("%s: %s\n", path, what);
    if (strncmp(what, "golden", 6)) print_report(path, &err); /* of no known family: the line above has said so */
    print_part("tensors", set, 1, all);
    printf("  digest: %s\n", digest);
    sc_tensors_close(set);
    return 0;
}

/* ---- a directory -------------------------------------------------------------------------------------------------------- */

static void print_config(const sc_config *c) {
    char memory[160];
    printf("  picture      %dx%d, %d frames/s; a chunk is %d latent frames of %dx%d\n", PIXELS * c->latent_w, PIXELS * c->latent_h, c->fps, c->chunk_frames, c->latent_w, c->latent_h);
    printf("  transformer  %d wide, %d heads x %d, ffn %d, %d layers, patch %dx%d\n", c->dit.dim, c->dit.heads, c->dit.head_dim, c->dit.ffn_dim, c->dit.layers, c->dit.patch[1], c->dit.patch[2]);
    printf("  text         %d wide, %d heads, ffn %d, %d layers, %d pieces, at most %d tokens, cleaning %s\n", c->t5.dim, c->t5.heads, c->t5.dim_ffn, c->t5.layers, c->t5.vocab,
           c->dit.text_len, c->cleaning == SC_TEXT_RAW ? "raw" : "wan");
    if (c->decoder.kind == SC_DECODER_TAEHV)
        printf("  decoder      TAEHV, widths %d %d %d %d, pixel shuffle %d\n", c->decoder.dec[0], c->decoder.dec[1], c->decoder.dec[2], c->decoder.dec[3], c->decoder.patch);
    else printf("  decoder      Wan VAE, %d wide\n", c->decoder.dim);
    sc_config_memory_text(c, memory, sizeof memory);
    printf("  memory       %s\n", memory);
    printf("  sampler      steps");
    for (int i = 0; i < c->step_count; i++) printf(" %d", c->steps[i]);
    printf(", shift %g, %s\n", c->shift, c->exact_sigma ? "exact" : "table of 1000");
}

static int inspect_directory(const char *dir, const char *memory, bool all) {
    static const char *const labels[] = {"transformer", "text encoder", "decoder"};
    sc_plan_model *m = calloc(1, sizeof *m);
    sc_plan plan[2];
    sc_tokenizer *tokenizer = NULL;
    sc_error err;
    char path[1200], digest[65], size[2][32];
    int rc = 0;

    if (!m) { sc_fail(&err, SC_ENOMEM, "model %s: out of memory", dir); return sc_cli_cannot_open(&err); }
    if (sc_plan_open(m, dir, &err) || sc_config_memory(&m->config, memory, dir, &err)) goto fail;
    const sc_config *c = &m->config;
    const int files[] = {c->dit_file_count, c->text_file_count, 1};
    snprintf(path, sizeof path, "%.1000s/%s", dir, c->tokenizer_file);
    if (sc_tokenizer_open(&tokenizer, path, &err)) goto fail;
    if (sc_plan_make(&plan[0], m, true, 1, &err) || sc_plan_make(&plan[1], m, false, 1, &err)) goto fail;
    sc_model_digest((const sc_tensors *const *)m->set, 3, digest);
    safe_name(path, c->name, false);
    printf("%s: %s, Wan-layout transformer, UMT5-layout text encoder, %s decoder\n", dir, path, c->decoder.kind == SC_DECODER_TAEHV ? "TAEHV-layout" : "Wan VAE");
    print_config(c);
    printf("  session      %s on the CPU (f32), %s on a GPU (16 bit)\n", size_text(size[0], plan[0].session + plan[0].pictures), size_text(size[1], plan[1].session + plan[1].pictures));
    printf("  tokenizer    %d pieces\n", sc_tokenizer_vocab(tokenizer));
    printf("  digest       %s\n", digest);
    for (int i = 0; i < 3; i++) print_part(labels[i], m->set[i], files[i], all);
    goto cleanup;
fail:
    rc = sc_cli_cannot_open(&err);
cleanup:
    sc_tokenizer_close(tokenizer);
    sc_plan_close(m);
    free(m);
    return rc;
}

int sc_cmd_inspect(const sc_cli *cli) {
    struct stat st;
    const char *path = cli->arg[0];
    return !stat(path, &st) && S_ISDIR(st.st_mode) ? inspect_directory(path, cli->memory, cli->tensors) : inspect_file(path, cli->tensors);
}

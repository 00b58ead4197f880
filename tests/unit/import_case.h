/* import_case.h - what the tests of the importer share: a folder of one tiny model, importing from it, comparing what came out.
 *
 * Header only, included by one test program at a time. */
#ifndef TESTS_IMPORT_CASE_H
#define TESTS_IMPORT_CASE_H
#include "import_make.h"
#include "base/sha256.h"
#include "engine/safetensors.h"
#include "import/import.h"
#include <dirent.h>

static char dir[] = "/tmp/sc_import_XXXXXX";
static mk_list dit, t5, vae, tae;
static const int tae_widths[4] = {16, 8, 8, 8};

enum { DIM = 256, LAYERS = 2, VOCAB = 498, T5_DIM = 32 };

static inline const char *at(const char *fmt, ...) {
    static char text[64][512];
    static int turn;
    char *p = text[turn++ % 64], name[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    snprintf(p, 512, "%s/%s", dir, name);
    return p;
}

/* Every tensor of the list under prefix + its spelling + suffix rules of the layout. */
static inline void put_all(mk_file *f, const mk_list *l, const char *prefix, int spelling, sc_dtype type, int how) {
    char name[256];
    for (int i = 0; i < l->n; i++) {
        snprintf(name, sizeof name, "%s%s", prefix, spelling ? l->t[i].other[spelling - 1] : l->t[i].wan);
        mk_tensor_item(f, name, &l->t[i], type, how);
    }
}

static inline void make_spiece(const char *path) {
    mk_buf b = {0};
    FILE *f = fopen(SC_SOURCE_DIR "/models/pocket/spiece.model", "rb");
    uint8_t part[4096];
    size_t n;
    assert_non_null(f);
    while ((n = fread(part, 1, sizeof part, f))) mk_bytes(&b, part, n);
    fclose(f);
    mk_save(path, &b);
    free(b.b);
}

static inline int setup(void **state) {
    mk_file f = {0};
    (void)state;
    if (!mkdtemp(dir)) return -1;
    mk_dit(&dit, DIM, 64, LAYERS, T5_DIM, 16, 16);
    mk_t5(&t5, VOCAB, T5_DIM, 32, 24, 4, 2);
    mk_vae(&vae, 4, 16);
    mk_tae(&tae, tae_widths, 4, 16, 3);
    make_spiece(at("base/spiece.model"));
    put_all(&f, &dit, "", 0, SC_F32, 0);
    mk_safetensors(at("base/dit.safetensors"), &f, 0, f.n);
    mk_free(&f);
    put_all(&f, &t5, "", 0, SC_BF16, 0);
    mk_pt(at("base/t5.pth"), &f, MK_STREAMED);
    mk_free(&f);
    put_all(&f, &tae, "", 0, SC_F16, 0);
    mk_pt(at("base/tae.pth"), &f, 0);
    mk_free(&f);
    return 0;
}

static inline int teardown(void **state) {
    char command[600];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

/* ---- importing and comparing ------------------------------------------------------------------------------------------------ */

static char said[16384];
static inline void note(void *ctx, const char *line) {
    (void)ctx;
    if (strlen(said) + strlen(line) + 2 < sizeof said) { strcat(said, line); strcat(said, "\n"); }
}

static inline sc_import_options plain(const char *out, const char *const *sources) {
    sc_import_options o = {.out = out, .sources = sources, .dtype = SC_BF16, .lora_scale = 1, .window = -1, .sink = -1, .width = 64, .height = 64, .say = note};
    while (sources[o.source_count]) o.source_count++;
    return o;
}

static inline void import(const sc_import_options *o) {
    sc_error err = {0};
    said[0] = 0;
    if (sc_import_run(o, &err)) fail_msg("%s: %s\n%s", o->out, err.text, said);
}

static inline void refuse(const sc_import_options *o, const char *word) {
    sc_error err = {0};
    said[0] = 0;
    assert_int_not_equal(sc_import_run(o, &err), SC_OK);
    if (!strstr(err.text, word)) fail_msg("\"%s\" lacks \"%s\"", err.text, word);
    assert_int_equal(access(o->out, F_OK), -1);
}

/* The files STEM*.safetensors of a model directory hold exactly the list, with its values times `factor` where asked. */
static inline void expect(const char *model, const char *stem, const mk_list *l, sc_dtype type) {
    char *paths[64];
    sc_tensors *set;
    sc_error err = {0};
    int n = 0;
    struct dirent *e;
    DIR *d = opendir(model);
    assert_non_null(d);
    while ((e = readdir(d)))
        if (!strncmp(e->d_name, stem, strlen(stem)) && (e->d_name[strlen(stem)] == '.' || e->d_name[strlen(stem)] == '-')) {
            paths[n] = malloc(1024);
            snprintf(paths[n++], 1024, "%s/%s", model, e->d_name);
        }
    closedir(d);
    assert_true(n > 0);
    if (sc_tensors_open(&set, (const char *const *)paths, n, &err)) fail_msg("%s", err.text);
    assert_int_equal(sc_tensors_count(set), l->n);
    for (int i = 0; i < l->n; i++) {
        const sc_tensor *t = sc_tensors_find(set, l->t[i].wan);
        const uint32_t h = mk_hash(l->t[i].wan);
        if (!t) fail_msg("%s: no %s", model, l->t[i].wan);
        assert_int_equal(t->dtype, type);
        assert_int_equal(t->rank, l->t[i].rank);
        for (int k = 0; k < t->rank; k++) assert_int_equal(t->shape[k], l->t[i].shape[k]);
        float *v = sc_tensor_to_f32(t);
        assert_non_null(v);
        for (int64_t k = 0; k < t->count; k++)
            if (v[k] != (float)mk_value(h, k) / 16) fail_msg("%s: %s[%lld] is %g, not %g", model, t->name, (long long)k, (double)v[k], mk_value(h, k) / 16.0);
        free(v);
    }
    sc_tensors_close(set);
    for (int i = 0; i < n; i++) free(paths[i]);
}

/* SHA256SUMS names every other file of the directory with its true sum. */
static inline void check_manifest(const char *model) {
    char path[1024], sum[65], name[256], got[65];
    int lines = 0, files = 0;
    struct dirent *e;
    DIR *d = opendir(model);
    FILE *f;
    while ((e = readdir(d))) files += e->d_name[0] != '.';
    closedir(d);
    snprintf(path, sizeof path, "%s/SHA256SUMS", model);
    assert_non_null(f = fopen(path, "r"));
    while (fscanf(f, "%64s %255s", sum, name) == 2) {
        uint8_t part[4096];
        size_t n;
        sc_sha256 s;
        FILE *g;
        snprintf(path, sizeof path, "%s/%s", model, name);
        assert_non_null(g = fopen(path, "rb"));
        sc_sha256_init(&s);
        while ((n = fread(part, 1, sizeof part, g))) sc_sha256_add(&s, part, n);
        fclose(g);
        sc_sha256_hex(&s, got);
        assert_string_equal(sum, got);
        lines++;
    }
    fclose(f);
    assert_int_equal(lines, files - 1);
}

#endif

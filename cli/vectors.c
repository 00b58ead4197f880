/* vectors.c - `sparsecast vectors FILE...`: run golden vectors, print per output the error against its tolerance.
 *
 * Tolerances (tests/vectors/README.md): relative L2 over a whole tensor in double, and the largest single error against the tensor's rms;
 * index sets must be equal. They are never loosened; the half-precision column counts on a device that computes in bf16 or f16. */
#include "cli/cli.h"
#include "cli/vectors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct { const char *set; double rel, rel_half; bool (*run)(sc_vectors *); } sets[] = {
    {"dit_block", 5e-6, 1.5e-2, sc_vectors_dit_block}, {"dit_model", 5e-6, 1.5e-2, sc_vectors_dit_model},
    {"rollout", 5e-6, 1.5e-2, sc_vectors_rollout},     {"scheduler", 1e-6, 1e-6, sc_vectors_scheduler},
    {"t5", 5e-6, 2e-2, sc_vectors_t5},                 {"taehv", 1e-5, 2.5e-2, sc_vectors_taehv},
    {"pbsa", 1e-5, 1e-2, sc_vectors_pbsa},             {"pbsa_rollout", 1e-5, 1e-2, sc_vectors_pbsa_rollout},
    {"wan_vae", 1e-5, 2.5e-2, sc_vectors_wan_vae},     {"pocket", 0, 5e-3, sc_vectors_pocket}};

static void report(sc_vectors *v, const char *name, bool ok, const char *fmt, double a, double ta, double b, double tb) {
    v->compared++;
    if (!ok) v->failed++;
    printf("  %-34s ", name);
    printf(fmt, a, ta, b, tb);
    printf("  %s\n", ok ? "ok" : "FAIL");
}

static void missing(sc_vectors *v, const char *name, const char *why) {
    v->compared++;
    v->failed++;
    printf("  %-34s %s  FAIL\n", name, why);
}

const sc_tensor *sc_vectors_find(sc_vectors *v, const char *name) {
    const sc_tensor *t = sc_tensors_find(v->file, name);
    if (!t) missing(v, name, "is not in the file");
    else v->seen[t - sc_tensors_at(v->file, 0)] = true;
    return t;
}

const sc_tensor *sc_vectors_find_rank(sc_vectors *v, const char *name, int rank) {
    const sc_tensor *t = sc_vectors_find(v, name);
    bool ok = t && t->rank == rank;
    for (int i = 0; ok && i < rank; i++) ok = t->shape[i] >= 1 && t->shape[i] <= 65536;
    if (t && !ok) missing(v, name, "has a shape that does not fit");
    return ok ? t : NULL;
}

/* The tensor, when it has `count` values or, with `first`, some of them. */
static const sc_tensor *find_count(sc_vectors *v, const char *name, size_t count, bool first) {
    const sc_tensor *t = sc_vectors_find(v, name);
    char why[96];
    if (!t || (first ? t->count >= 1 && (uint64_t)t->count <= count : (uint64_t)t->count == count)) return t;
    snprintf(why, sizeof why, "has %lld values where %zu are needed", (long long)t->count, count);
    missing(v, name, why);
    return NULL;
}

bool sc_vectors_has(const sc_vectors *v, const char *name) { return sc_tensors_find(v->file, name) != NULL; }

float *sc_vectors_f32(sc_vectors *v, const char *name) {
    const sc_tensor *t = sc_vectors_find(v, name);
    float *x = t ? sc_tensor_to_f32(t) : NULL;
    if (t && !x) missing(v, name, "is not a float tensor");
    return x;
}

float *sc_vectors_f32_n(sc_vectors *v, const char *name, size_t count) { return find_count(v, name, count, false) ? sc_vectors_f32(v, name) : NULL; }

int32_t *sc_vectors_i32_n(sc_vectors *v, const char *name, size_t count) { return find_count(v, name, count, false) ? sc_vectors_i32(v, name) : NULL; }

int32_t *sc_vectors_i32(sc_vectors *v, const char *name) {
    const sc_tensor *t = sc_vectors_find(v, name);
    int32_t *x;
    if (!t) return NULL;
    if (t->dtype != SC_I32 && t->dtype != SC_U8 && t->dtype != SC_BOOL) { missing(v, name, "is not a tensor of I32 or U8"); return NULL; }
    if (!(x = malloc((size_t)t->count * sizeof *x + 1))) return NULL;
    for (int64_t i = 0; i < t->count; i++) {
        if (t->dtype == SC_I32) memcpy(&x[i], (const char *)t->data + 4 * i, 4);
        else x[i] = ((const uint8_t *)t->data)[i];
    }
    return x;
}

static void compare(sc_vectors *v, const char *name, const float *got, size_t count) {
    float *want = sc_vectors_f32(v, name);
    double diff = 0, norm = 0, peak = 0;

    if (!want) return;
    for (size_t i = 0; i < count; i++) {
        double d = (double)got[i] - want[i];
        if (!(fabs(d) <= peak)) peak = isfinite(d) ? fabs(d) : INFINITY; /* a NaN anywhere fails */
        diff += d * d;
        norm += (double)want[i] * want[i];
    }
    free(want);
    const double rms = sqrt(norm / (double)count), rel = norm > 0 ? sqrt(diff / norm) : sqrt(diff);
    const double worst = rms > 0 ? peak / rms : peak;
    report(v, name, rel <= v->rel && worst <= v->peak, "rel %.2e (<= %.1e)  max/rms %.2e (<= %.1e)", rel, v->rel, worst, v->peak);
}

void sc_vectors_check_n(sc_vectors *v, const char *name, const float *got, size_t count) {
    if (find_count(v, name, count, false)) compare(v, name, got, count);
}

void sc_vectors_check_first(sc_vectors *v, const char *name, const float *got, size_t count) {
    const sc_tensor *t = find_count(v, name, count, true);
    if (t) compare(v, name, got, (size_t)t->count);
}

void sc_vectors_check(sc_vectors *v, const char *name, const float *got) {
    const sc_tensor *t = sc_vectors_find(v, name);
    if (t) compare(v, name, got, (size_t)t->count);
}

void sc_vectors_check_abs(sc_vectors *v, const char *name, const float *got, size_t count, double tolerance) {
    const sc_tensor *t = find_count(v, name, count, false);
    float *want = t ? sc_tensor_to_f32(t) : NULL;
    double peak = 0, diff = 0, norm = 0;

    if (!want) { if (t) missing(v, name, "is not a float tensor"); return; }
    for (int64_t i = 0; i < t->count; i++) {
        if (isinf(want[i]) && got[i] == want[i]) continue; /* masked */
        double d = (double)got[i] - want[i];
        if (!(fabs(d) <= peak)) peak = isfinite(d) ? fabs(d) : INFINITY;
        diff += d * d;
        norm += (double)want[i] * want[i];
    }
    free(want);
    if (v->half) report(v, name, sqrt(diff) <= v->rel * sqrt(norm), "rel %.2e (<= %.1e)  max abs %.2e (f32: %.1e)", norm > 0 ? sqrt(diff / norm) : 0, v->rel, peak, tolerance);
    else report(v, name, peak <= tolerance, "max abs %.2e (<= %.1e)  rel %.2e%.0s", peak, tolerance, norm > 0 ? sqrt(diff / norm) : 0, 0);
}

void sc_vectors_check_ints_n(sc_vectors *v, const char *name, const int32_t *got, size_t count) {
    if (find_count(v, name, count, false)) sc_vectors_check_ints(v, name, got);
}

void sc_vectors_check_ints(sc_vectors *v, const char *name, const int32_t *got) {
    const sc_tensor *t = sc_vectors_find(v, name);
    int32_t *want = t ? sc_vectors_i32(v, name) : NULL;
    double differ = 0;

    if (!want) return;
    for (int64_t i = 0; i < t->count; i++) differ += got[i] != want[i];
    free(want);
    report(v, name, differ == 0, "%.0f of %.0f differ (0 allowed)%.0s%.0s", differ, (double)t->count, 0, 0);
}

int sc_vectors_int(sc_vectors *v, const cJSON *object, const char *key, int fallback) {
    const double x = sc_vectors_num(object, key, fallback);
    if (!(x >= -1e6 && x <= 1e6)) { missing(v, key, "is out of range"); return fallback; }
    return (int)x;
}

bool sc_vectors_size(sc_vectors *v, const cJSON *object, const char *key, int lo, int hi, int *out) {
    const double x = sc_vectors_num(object, key, NAN);
    if (x >= lo && x <= hi && x == floor(x)) { *out = (int)x; return true; }
    if (isnan(x)) sc_fail(&v->err, SC_EINVAL, "%s: metadata: %s is missing", v->path, key);
    else sc_fail(&v->err, SC_EINVAL, "%s: metadata: %s: %g is not a whole number from %d to %d", v->path, key, x, lo, hi);
    return false;
}

double sc_vectors_num(const cJSON *object, const char *key, double fallback) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNumber(item) ? item->valuedouble : cJSON_IsBool(item) ? cJSON_IsTrue(item) : fallback;
}

cJSON *sc_vectors_meta(sc_vectors *v, const char *key) {
    const char *text = sc_tensors_metadata(v->file, key);
    return text ? cJSON_Parse(text) : NULL;
}

void *sc_vectors_put(sc_vectors *v, const float *x, size_t n, bool act) {
    const sc_ops *ops = v->dev->ops;
    void *f32 = NULL, *out = NULL;
    if (ops->alloc(v->dev, &f32, n * 4 + 4, &v->err) || ops->upload(v->dev, f32, x, n * 4, &v->err)) goto fail;
    if (!act || v->dev->act == SC_F32) return f32;
    if (ops->alloc(v->dev, &out, n * sc_dtype_bytes(v->dev->act) + 4, &v->err) || ops->convert(v->dev, out, f32, n, &v->err) || ops->sync(v->dev, &v->err)) goto fail;
    ops->release(v->dev, f32);
    return out;
fail:
    fprintf(stderr, "sparsecast: %s\n", v->err.text);
    exit(70);
}

void sc_vectors_get(sc_vectors *v, float *out, const void *p, size_t n, sc_dtype type) {
    void *raw = type == SC_F32 ? (void *)out : malloc(n * 2);
    if (!raw || v->dev->ops->download(v->dev, raw, p, n * sc_dtype_bytes(type), &v->err)) {
        fprintf(stderr, "sparsecast: %s\n", raw ? v->err.text : "out of memory");
        exit(70);
    }
    if (type == SC_F32) return;
    sc_to_f32(out, raw, type, n);
    free(raw);
}

/* What no runner looked at was not tested, and that is said. Files of the pocket model have bare names; elsewhere outputs are out.*. */
static void check_seen(sc_vectors *v, bool bare) {
    for (int i = 0; i < sc_tensors_count(v->file); i++) {
        const char *name = sc_tensors_at(v->file, i)->name;
        if (!v->seen[i] && (bare || !strncmp(name, "out.", 4))) missing(v, name, "was compared with nothing");
    }
}

/* One file: 0 passed, 1 a tolerance was missed, 2 it could not be run. */
static int run_file(const char *path, const char *device, int threads, const char *model_dir) {
    sc_vectors v = {.path = path, .device = device, .threads = threads, .model_dir = model_dir, .peak = 5e-5};
    sc_tensors *file = NULL;
    const char *set;
    int rc = 2;

    if (sc_tensors_open(&file, &path, 1, &v.err)) goto cleanup;
    v.file = file;
    if (!(v.seen = calloc((size_t)sc_tensors_count(file) + 1, sizeof *v.seen))) { sc_fail(&v.err, SC_ENOMEM, "%s: out of memory", path); goto cleanup; }
    set = sc_tensors_metadata(file, "set");
    if (!set) set = sc_tensors_metadata(file, "tokenizer") && sc_tensors_metadata(file, "stream") ? "pocket" : "";
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        if (strcmp(set, sets[i].set)) continue;
        const bool f16 = !strcmp(set, "pocket");
        if (sc_device_open(&v.dev, device, threads, f16 ? SC_F16 : SC_BF16, &v.err)) goto cleanup;
        v.half = v.dev->act != SC_F32;
        v.rel = v.half ? sets[i].rel_half : sets[i].rel;
        v.peak = v.half && strcmp(set, "scheduler") ? 0.2 : 5e-5;
        v.config = sc_vectors_meta(&v, "config");
        printf("%s: %s on %s\n", path, set, v.dev->name);
        if (!sets[i].run(&v)) goto cleanup;
        check_seen(&v, f16);
        rc = v.failed || !v.compared ? 1 : 0;
        printf("%s: %d outputs compared, %d outside tolerance\n", path, v.compared, v.failed);
        goto cleanup;
    }
    sc_fail(&v.err, SC_EINVAL, "%s: no set that this program can run (__metadata__.set is \"%s\")", path, set);
cleanup:
    if (rc == 2) fprintf(stderr, "sparsecast: %s\n", v.err.text);
    cJSON_Delete(v.config);
    sc_device_close(v.dev);
    sc_tensors_close(file);
    free(v.seen);
    return rc;
}

int sc_cmd_vectors(const sc_cli *cli) {
    int worst = 0;
    if (cli->args < 1) { fprintf(stderr, "sparsecast: vectors: no file given\n"); return 2; }
    for (int i = 0; i < cli->args; i++) {
        int rc = run_file(cli->arg[i], cli->device, cli->threads, cli->model);
        if (rc > worst) worst = rc;
    }
    return worst;
}

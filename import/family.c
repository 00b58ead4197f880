/* family.c - see family.h. */
#include "import/family.h"
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char name[SC_NAME_ROOM];
    const sc_source_tensor *tensor;
    bool used;
} stripped;

typedef struct {
    stripped *all;      /* by name */
    int count;
} name_set;

static int by_name(const void *a, const void *b) { return strcmp(((const stripped *)a)->name, ((const stripped *)b)->name); }

static stripped *lookup(const name_set *s, const char *name) {
    int lo = 0, hi = s->count;

    while (lo < hi) {
        int mid = lo + (hi - lo) / 2, order = strcmp(name, s->all[mid].name);
        if (!order) return &s->all[mid];
        if (order < 0) hi = mid;
        else lo = mid + 1;
    }
    return NULL;
}

/* ---- which part of the file ------------------------------------------------------------------------------------------------- */

static bool has_prefix(const sc_source *s, const char *prefix) {
    for (int i = 0; i < sc_source_count(s); i++)
        if (!strncmp(sc_source_at(s, i)->name, prefix, strlen(prefix))) return true;
    return false;
}

static sc_status choose_root(sc_found *f, const char *asked, sc_error *err) {
    static const char *const known[] = {"generator_ema.", "generator.", "generator_lora.", "state_dict.", "model_state_dict.", "params."};

    f->root[0] = 0;
    if (asked && strlen(asked) + 2 > sizeof f->root) return sc_fail(err, SC_EINVAL, "%.300s: no top-level key %.60s", sc_source_path(f->source), asked);
    if (asked) {
        snprintf(f->root, sizeof f->root, "%s.", asked);
        if (!has_prefix(f->source, f->root)) return sc_fail(err, SC_EINVAL, "%.300s: no top-level key %.60s", sc_source_path(f->source), asked);
        return SC_OK;
    }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (has_prefix(f->source, known[i])) {
            snprintf(f->root, sizeof f->root, "%s", known[i]);
            break;
        }
    return SC_OK;
}

static sc_status strip_all(sc_found *f, name_set *set, sc_error *err) {
    const size_t root = strlen(f->root);

    if (!(set->all = calloc((size_t)sc_source_count(f->source) + 1, sizeof *set->all)))
        return sc_fail(err, SC_ENOMEM, "%.300s: out of memory", sc_source_path(f->source));
    for (int i = 0; i < sc_source_count(f->source); i++) {
        const sc_source_tensor *t = sc_source_at(f->source, i);
        if (strncmp(t->name, f->root, root)) {
            f->left_over++;
            continue;
        }
        sc_name_strip(set->all[set->count].name, t->name + root);
        set->all[set->count++].tensor = t;
    }
    if (set->count > 1) qsort(set->all, (size_t)set->count, sizeof *set->all, by_name);
    for (int i = 1; i < set->count; i++)
        if (!strcmp(set->all[i - 1].name, set->all[i].name))
            return sc_fail(err, SC_EINVAL, "%.150s: %.140s and %.140s are the same tensor %.60s", sc_source_path(f->source),
                           set->all[i - 1].tensor->name, set->all[i].tensor->name, set->all[i].name);
    return SC_OK;
}

/* Highest N of the names PREFIX N '.', plus one; numbers of more than three digits name no layer. */
static int count_layers(const name_set *s, const char *prefix) {
    const size_t n = strlen(prefix);
    int layers = 0;

    for (int i = 0; i < s->count; i++) {
        const char *p = s->all[i].name + n;
        int digits = 0, v = 0;
        if (strncmp(s->all[i].name, prefix, n)) continue;
        for (; digits < 4 && isdigit((unsigned char)*p); p++, digits++) v = 10 * v + (*p - '0');
        if (digits && digits < 4 && *p == '.' && v < 256 && v >= layers) layers = v + 1;
    }
    return layers;
}

static int count_hits(const name_set *s, const sc_name_list *l, int spelling) {
    int hits = 0;
    for (int i = 0; i < l->count; i++) hits += lookup(s, l->names[i].spelling[spelling]) != NULL;
    return hits;
}

/* HF files tie encoder.embed_tokens to shared and may hold either or both. */
static void untie_embedding(name_set *s) {
    stripped *tied = lookup(s, "encoder.embed_tokens.weight");

    if (!tied) return;
    if (lookup(s, "shared.weight")) {
        tied->used = true;
        return;
    }
    snprintf(tied->name, sizeof tied->name, "shared.weight");
    qsort(s->all, (size_t)s->count, sizeof *s->all, by_name);
}

static sc_status choose_family(sc_found *f, name_set *set, sc_error *err) {
    static const sc_family families[] = {SC_FAMILY_DIT, SC_FAMILY_T5, SC_FAMILY_VAE, SC_FAMILY_TAE};
    int best = 0;
    sc_status rc;

    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        sc_name_list list;
        int layers = count_layers(set, "blocks."), hf = count_layers(set, "encoder.block.");
        if (families[i] == SC_FAMILY_T5 && hf > layers) layers = hf;
        if (layers < 1) layers = 1;
        if ((rc = sc_names_create(&list, families[i], layers, err))) return rc;
        for (int k = 0; k < list.spellings; k++) {
            int hits = count_hits(set, &list, k);
            /* A fifth of the list must be there: a few common names are no family. */
            if (hits > best && hits * 5 >= list.count / (families[i] == SC_FAMILY_VAE || families[i] == SC_FAMILY_TAE ? 2 : 1)) {
                best = hits;
                f->family = families[i];
                f->spelling = k;
                f->layers = layers;
            }
        }
        sc_names_free(&list);
    }
    if (!best) {
        char some[240] = "";
        size_t at = 0;
        for (int i = 0; i < set->count && i < 3 && at < sizeof some - 80; i++)
            at += (size_t)snprintf(some + at, sizeof some - at, "%s%.70s", i ? ", " : "", set->all[i].name);
        return sc_fail(err, SC_EINVAL, "%.200s: no known model family; %d tensors%s%s%s", sc_source_path(f->source), set->count, at ? " (" : "", some,
                       at ? ", ...)" : "");
    }
    return sc_names_create(&f->names, f->family, f->layers, err);
}

/* ---- what is there ---------------------------------------------------------------------------------------------------------- */

static void odd(char (*list)[SC_ODD_TEXT], int *count, const char *name, const char *nearest) {
    if (*count < SC_ODD_NAMES) {
        if (nearest) snprintf(list[*count], SC_ODD_TEXT, "%s (nearest: %s)", name, nearest);
        else snprintf(list[*count], SC_ODD_TEXT, "%s", name);
    }
    ++*count;
}

static const char *auxiliary[] = {".scale_weight", ".weight_scale", ".scale_input", ".input_scale", ".comfy_quant"};

/* True for the factors that stand beside a quantised weight of the list. */
static bool is_auxiliary(const name_set *s, const char *name) {
    for (size_t i = 0; i < sizeof auxiliary / sizeof *auxiliary; i++) {
        size_t n = strlen(name), m = strlen(auxiliary[i]);
        char weight[SC_NAME_ROOM + 8];
        if (n <= m || strcmp(name + n - m, auxiliary[i])) continue;
        snprintf(weight, sizeof weight, "%.*s.weight", (int)(n - m), name);
        const stripped *w = lookup(s, weight);
        return w && w->used;
    }
    return !strcmp(name, "scaled_fp8");
}

static const sc_source_tensor *find_scale(const name_set *s, const char *weight) {
    size_t n = strlen(weight);
    char name[SC_NAME_ROOM + 16];

    if (n < 7 || strcmp(weight + n - 7, ".weight")) return NULL;
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%.*s%s", (int)(n - 7), weight, auxiliary[i]);
        const stripped *found = lookup(s, name);
        if (found) return found->tensor;
    }
    return NULL;
}

static void take_matches(sc_found *f, name_set *set) {
    for (int i = 0; i < f->names.count; i++) {
        const sc_name *n = &f->names.names[i];
        stripped *s = lookup(set, n->spelling[f->spelling]);
        f->match[i] = (sc_match){.name = n, .tensor = s ? s->tensor : NULL};
        if (!s) continue;
        s->used = true;
        f->match[i].scale = find_scale(set, n->spelling[f->spelling]);
        if (n->flags & SC_NAME_ENCODER) f->has_encoder = true;
    }
    stripped *tokenizer = f->family == SC_FAMILY_T5 ? lookup(set, "spiece_model") : NULL;
    if (tokenizer && tokenizer->tensor->dtype == SC_U8 && tokenizer->tensor->contiguous) {
        f->tokenizer = tokenizer->tensor;
        tokenizer->used = true;
    }
}

static bool required(const sc_found *f, const sc_name *n) { return !(n->flags & SC_NAME_OPTIONAL) && (f->has_encoder || !(n->flags & SC_NAME_ENCODER)); }

static void report_names(sc_found *f, const name_set *set) {
    for (int i = 0; i < f->names.count; i++) {
        const sc_match *m = &f->match[i];
        const char *nearest = NULL, *name = m->name->spelling[f->spelling];
        int best = SC_NAME_ROOM;
        if (!required(f, m->name)) continue;
        f->expected++;
        f->found += m->tensor != NULL;
        if (m->tensor) continue;
        for (int j = 0; j < set->count && f->missing_count < SC_ODD_NAMES; j++) {
            int d = set->all[j].used ? best : sc_name_distance(name, set->all[j].name, best);
            if (d < best) { best = d; nearest = set->all[j].name; }
        }
        odd(f->missing, &f->missing_count, name, best * 2 < (int)strlen(name) ? nearest : NULL);
    }
    for (int j = 0; j < set->count; j++) {
        const char *nearest = NULL, *name = set->all[j].name;
        int best = SC_NAME_ROOM;
        if (set->all[j].used || is_auxiliary(set, name)) continue;
        for (int i = 0; i < f->names.count && f->unexpected_count < SC_ODD_NAMES; i++) {
            int d = sc_name_distance(name, f->names.names[i].spelling[f->spelling], best);
            if (d < best) { best = d; nearest = f->names.names[i].spelling[f->spelling]; }
        }
        odd(f->unexpected, &f->unexpected_count, name, best * 2 < (int)strlen(name) ? nearest : NULL);
    }
}

static bool is_float(sc_dtype t) { return t == SC_F32 || t == SC_F16 || t == SC_BF16 || t == SC_F64 || t == SC_F8_E4M3 || t == SC_F8_E5M2; }

static const char *shape_text(char *buf, size_t n, int rank, const int64_t *shape) {
    size_t at = (size_t)snprintf(buf, n, "[");

    for (int i = 0; i < rank && at < n; i++) at += (size_t)snprintf(buf + at, n - at, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (at < n) snprintf(buf + at, n - at, "]");
    return buf;
}

/* Sizes from the first tensors that show them, then every shape against them. */
static void check_shapes(sc_found *f) {
    char text[SC_ODD_TEXT], have[100], want[100];

    for (int i = 0; i < f->names.count; i++) {
        const sc_match *m = &f->match[i];
        if (!m->tensor || m->tensor->rank != m->name->rank) continue;
        for (int k = 0; k < m->name->rank; k++) {
            const int64_t d = m->name->dims[k];
            if (d < 0 && -d % 1000 == 1 && !f->sizes.v[-d / 1000] && m->tensor->shape[k] < INT32_MAX) f->sizes.v[-d / 1000] = m->tensor->shape[k];
        }
    }
    for (int i = 0; i < f->names.count; i++) {
        const sc_match *m = &f->match[i];
        const sc_source_tensor *t = m->tensor;
        int64_t dims[5];
        bool fits;
        if (!t) continue;
        f->parameters += t->count;
        fits = t->rank == m->name->rank;
        for (int k = 0; k < m->name->rank; k++) {
            dims[k] = sc_name_dim(m->name, k, &f->sizes);
            if (fits && t->shape[k] != dims[k]) fits = k == 0 && (m->name->flags & SC_NAME_GROW) && t->shape[0] > dims[0];
            if (dims[k] < 1) fits = false;
        }
        if (!fits) {
            snprintf(text, sizeof text, "%s: shape %s, wanted %s", m->name->spelling[f->spelling], shape_text(have, sizeof have, t->rank, t->shape),
                     shape_text(want, sizeof want, m->name->rank, dims));
            odd(f->wrong, &f->wrong_count, text, NULL);
        } else if (!is_float(t->dtype)) {
            snprintf(text, sizeof text, "%s: type %s, wanted a float type%s", m->name->spelling[f->spelling], sc_dtype_word(t->dtype),
                     t->dtype == SC_U8 ? " (packed 4-bit weights are not read)" : "");
            odd(f->wrong, &f->wrong_count, text, NULL);
        } else if (m->scale && (!is_float(m->scale->dtype) || (m->scale->count != 1 && m->scale->count != t->shape[0]))) {
            snprintf(text, sizeof text, "%s: a scale of %lld values, wanted 1 or %lld", m->name->spelling[f->spelling], (long long)m->scale->count,
                     (long long)t->shape[0]);
            odd(f->wrong, &f->wrong_count, text, NULL);
        }
    }
}

/* ---- LoRA ------------------------------------------------------------------------------------------------------------------- */

/* 1: NAME is BASE + a suffix of the down matrix, 2: of the up matrix, 3: alpha; 0: none. */
static int lora_part(const char *name, size_t *base) {
    static const struct { const char *suffix; int part; } forms[] = {
        {".lora_A.weight", 1}, {".lora_B.weight", 2}, {".lora_A.default.weight", 1}, {".lora_B.default.weight", 2},
        {".lora_down.weight", 1}, {".lora_up.weight", 2}, {".alpha", 3},
    };
    size_t n = strlen(name);

    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        size_t m = strlen(forms[i].suffix);
        if (n > m && !strcmp(name + n - m, forms[i].suffix)) {
            *base = n - m;
            return forms[i].part;
        }
    }
    return 0;
}

static bool is_lora(const name_set *set) {
    size_t base;
    int pairs = 0;

    for (int i = 0; i < set->count; i++) pairs += lora_part(set->all[i].name, &base) != 0;
    return pairs >= 2 && pairs * 2 > set->count;
}

static sc_status find_lora(sc_found *f, name_set *set, sc_error *err) {
    sc_name_list list = {0};
    int layers = count_layers(set, "blocks."), best = -1;
    char weight[SC_NAME_ROOM + 8];
    size_t base;
    sc_status rc;

    f->family = SC_FAMILY_LORA;
    if ((rc = sc_names_create(&list, SC_FAMILY_DIT, layers < 1 ? 1 : layers, err))) return rc;
    if (!(f->lora = calloc((size_t)set->count + 1, sizeof *f->lora))) { rc = sc_fail(err, SC_ENOMEM, "%.300s: out of memory", sc_source_path(f->source)); goto cleanup; }
    f->layers = layers;
    for (int k = 0; k < list.spellings; k++) { /* the spelling under which most bases are weights */
        int hits = 0;
        for (int i = 0; i < list.count; i++) {
            size_t n = strlen(list.names[i].spelling[k]);
            if (n < 7 || strcmp(list.names[i].spelling[k] + n - 7, ".weight")) continue;
            snprintf(weight, sizeof weight, "%.*s.lora_A.weight", (int)(n - 7), list.names[i].spelling[k]);
            hits += lookup(set, weight) != NULL;
            snprintf(weight, sizeof weight, "%.*s.lora_down.weight", (int)(n - 7), list.names[i].spelling[k]);
            hits += lookup(set, weight) != NULL;
            snprintf(weight, sizeof weight, "%.*s.lora_A.default.weight", (int)(n - 7), list.names[i].spelling[k]);
            hits += lookup(set, weight) != NULL;
        }
        if (hits > best) { best = hits; f->spelling = k; }
    }
    for (int j = 0; j < set->count; j++) {
        int part = lora_part(set->all[j].name, &base);
        const sc_name *target = NULL;
        if (part) {
            snprintf(weight, sizeof weight, "%.*s.weight", (int)base, set->all[j].name);
            for (int i = 0; i < list.count && !target; i++)
                if (!strcmp(list.names[i].spelling[f->spelling], weight)) target = &list.names[i];
        }
        if (!target || (target->rank != 2)) {
            odd(f->unexpected, &f->unexpected_count, set->all[j].name, NULL);
            continue;
        }
        sc_lora_pair *p = NULL;
        for (int i = 0; i < f->lora_count && !p; i++)
            if (!strcmp(f->lora[i].target, target->spelling[0])) p = &f->lora[i];
        if (!p) {
            p = &f->lora[f->lora_count++];
            snprintf(p->target, sizeof p->target, "%s", target->spelling[0]);
            p->alpha = -1;
        }
        const sc_source_tensor *t = set->all[j].tensor;
        if (part == 3) {
            float a;
            if (t->count != 1 || !sc_source_read(t, 0, 1, &a) || !(a > 0) || !isfinite(a)) {
                odd(f->wrong, &f->wrong_count, set->all[j].name, NULL);
                continue;
            }
            p->alpha = a;
        } else if (t->rank != 2 || !is_float(t->dtype)) {
            odd(f->wrong, &f->wrong_count, set->all[j].name, NULL);
        } else if (part == 1) {
            p->down = t;
        } else {
            p->up = t;
        }
    }
    for (int i = 0; i < f->lora_count; i++) {
        const sc_lora_pair *p = &f->lora[i];
        char text[SC_ODD_TEXT];
        f->expected += 2;
        f->found += (p->down != NULL) + (p->up != NULL);
        if (!p->down || !p->up) {
            snprintf(text, sizeof text, "%s: one half of its LoRA", p->target);
            odd(f->missing, &f->missing_count, text, NULL);
            continue;
        }
        f->parameters += p->down->count + p->up->count;
        if (p->down->shape[0] != p->up->shape[1] || p->down->shape[0] < 1 || p->down->shape[0] > 8192) {
            snprintf(text, sizeof text, "%s: LoRA of rank %lld below and %lld above", p->target, (long long)p->down->shape[0], (long long)p->up->shape[1]);
            odd(f->wrong, &f->wrong_count, text, NULL);
        }
    }
cleanup:
    sc_names_free(&list);
    return rc;
}

/* ---- public ----------------------------------------------------------------------------------------------------------------- */

sc_status sc_family_find(sc_found *f, sc_source *source, const char *root, sc_error *err) {
    name_set set = {0};
    sc_status rc;

    memset(f, 0, sizeof *f);
    f->source = source;
    f->missing = calloc(SC_ODD_NAMES, sizeof *f->missing);
    f->unexpected = calloc(SC_ODD_NAMES, sizeof *f->unexpected);
    f->wrong = calloc(SC_ODD_NAMES, sizeof *f->wrong);
    if (!f->missing || !f->unexpected || !f->wrong) { rc = sc_fail(err, SC_ENOMEM, "%.300s: out of memory", sc_source_path(source)); goto cleanup; }
    if ((rc = choose_root(f, root, err)) || (rc = strip_all(f, &set, err))) goto cleanup;
    if (is_lora(&set)) {
        rc = find_lora(f, &set, err);
        goto cleanup;
    }
    untie_embedding(&set);
    if ((rc = choose_family(f, &set, err))) goto cleanup;
    if (!(f->match = calloc((size_t)f->names.count, sizeof *f->match))) { rc = sc_fail(err, SC_ENOMEM, "%.300s: out of memory", sc_source_path(source)); goto cleanup; }
    take_matches(f, &set);
    report_names(f, &set);
    check_shapes(f);
cleanup:
    free(set.all);
    if (rc) sc_family_free(f);
    return rc;
}

void sc_family_free(sc_found *f) {
    sc_names_free(&f->names);
    free(f->match);
    free(f->lora);
    free(f->missing);
    free(f->unexpected);
    free(f->wrong);
    memset(f, 0, sizeof *f);
}

sc_status sc_family_check(const sc_found *f, bool extra, sc_error *err) {
    const char *path = sc_source_path(f->source), *what = sc_family_name(f->family);

    if (f->missing_count)
        return sc_fail(err, SC_EINVAL, "%.150s: %s: %d of %d tensors are missing: %.220s%s", path, what, f->missing_count, f->expected, f->missing[0],
                       f->missing_count > 1 ? ", ..." : "");
    if (f->wrong_count) return sc_fail(err, SC_EINVAL, "%.150s: %s: %.300s", path, what, f->wrong[0]);
    if (f->unexpected_count && !extra)
        return sc_fail(err, SC_EINVAL, "%.150s: %s: %d tensors that it should not have: %.220s%s", path, what, f->unexpected_count, f->unexpected[0],
                       f->unexpected_count > 1 ? ", ..." : "");
    return SC_OK;
}

void sc_family_sizes(const sc_found *f, char *out, size_t n) {
    const int64_t *v = f->sizes.v;
    const double m = (double)f->parameters / 1e6;

    switch (f->family) {
    case SC_FAMILY_DIT:
        snprintf(out, n, "%lld wide, ffn %lld, %d layers, text %lld, %.1f M", (long long)v[SC_S_DIM], (long long)v[SC_S_FFN], f->layers,
                 (long long)v[SC_S_TEXT], m);
        break;
    case SC_FAMILY_T5:
        snprintf(out, n, "%lld wide, ffn %lld, %d layers, %lld heads, %lld words, %.1f M", (long long)v[SC_S_DIM], (long long)v[SC_S_FFN], f->layers,
                 (long long)v[SC_S_HEADS], (long long)v[SC_S_VOCAB], m);
        break;
    case SC_FAMILY_VAE: snprintf(out, n, "widths %lld x 1, 2, 4, 4, latent %lld, %.1f M", (long long)v[SC_S_WIDTH], (long long)v[SC_S_Z], m); break;
    case SC_FAMILY_TAE:
        snprintf(out, n, "widths %lld %lld %lld %lld, latent %lld, %.1f M", (long long)v[SC_S_DEC0], (long long)v[SC_S_DEC1], (long long)v[SC_S_DEC2],
                 (long long)v[SC_S_DEC3], (long long)v[SC_S_Z], m);
        break;
    case SC_FAMILY_LORA: snprintf(out, n, "%d weights, rank %lld, %.1f M", f->lora_count, f->lora_count && f->lora[0].down ? (long long)f->lora[0].down->shape[0] : 0, m); break;
    default: snprintf(out, n, "unknown");
    }
}

/* prompt.c - text to cross-attention keys and values, kept in a small cache keyed by text.
 *
 * A prompt is a property of the model, not of a session: two sessions with the same words share one entry. The cache holds the
 * SC_PROMPT_CACHE newest; what a session uses lives on through its reference. Thread: engine. */
#include "engine/internal.h"

#include <stdlib.h>
#include <string.h>

static void prompt_free(sc_engine *e, sc_prompt *p) {
    if (!p) return;
    if (p->cross.kv) sc_cross_free(e->dit, &p->cross);
    free(p->text);
    free(p->emb);
    free(p);
}

void sc_prompt_drop(sc_engine *e, sc_prompt *p) {
    if (p && --p->refs == 0) prompt_free(e, p);
}

void sc_prompt_cache_clear(sc_engine *e) {
    for (int i = 0; i < SC_PROMPT_CACHE; i++) {
        sc_prompt_drop(e, e->cache[i]);
        e->cache[i] = NULL;
    }
}

static sc_status encode(sc_engine *e, const char *text, size_t n, sc_prompt **out, sc_error *err) {
    const int most = e->cfg.dit.text_len;
    sc_prompt *p = calloc(1, sizeof *p);
    int32_t *ids = malloc((size_t)most * sizeof *ids);
    char *clean = NULL;
    size_t clean_n = n;
    sc_status rc = SC_OK;

    *out = NULL;
    if (!p || !ids || !(p->text = malloc(n + 1)) || !(p->emb = malloc((size_t)most * sc_t5_dim(e->t5) * sizeof *p->emb))) {
        rc = sc_fail(err, SC_ENOMEM, "prompt: out of memory");
        goto cleanup;
    }
    memcpy(p->text, text, n);
    p->text[n] = 0;
    p->text_n = n;
    if (e->cfg.cleaning == SC_TEXT_WAN_CLEAN && (rc = sc_text_clean(text, n, &clean, &clean_n, err))) goto cleanup;
    if ((rc = sc_tokenizer_encode(e->tokenizer, clean ? clean : text, clean_n, ids, most, &p->tokens, err))) goto cleanup;
    if ((rc = sc_t5_encode(e->t5, ids, p->tokens, p->emb, NULL, NULL, err))) goto cleanup;
    if ((rc = sc_cross_create(e->dit, p->emb, p->tokens, true, &p->cross, err))) goto cleanup;
    p->refs = 1;
    *out = p;
    p = NULL;
cleanup:
    free(ids);
    free(clean);
    prompt_free(e, p);
    return rc;
}

sc_status sc_prompt_get(sc_engine *e, const char *text, size_t n, sc_prompt **out, sc_error *err) {
    int oldest = 0;
    sc_status rc;

    *out = NULL;
    if (n > SC_PROMPT_BYTES_MAX) return sc_fail(err, SC_EINVAL, "prompt: %zu bytes, at most %d", n, SC_PROMPT_BYTES_MAX);
    for (int i = 0; i < SC_PROMPT_CACHE; i++) {
        sc_prompt *p = e->cache[i];
        if (p && p->text_n == n && !memcmp(p->text, text, n)) {
            p->used = ++e->clock;
            p->refs++;
            *out = p;
            return SC_OK;
        }
        if (!p) oldest = i;
        else if (e->cache[oldest] && p->used < e->cache[oldest]->used) oldest = i;
    }
    if ((rc = encode(e, text, n, out, err))) return rc;
    sc_prompt_drop(e, e->cache[oldest]);
    e->cache[oldest] = *out;
    (*out)->used = ++e->clock;
    (*out)->refs++;
    return SC_OK;
}

sc_status sc_prompt_mix(sc_engine *e, const sc_prompt *a, const sc_prompt *b, double weight_b, sc_cross *out, sc_error *err) {
    const size_t dim = sc_t5_dim(e->t5);
    const int n = a->tokens > b->tokens ? a->tokens : b->tokens;
    float *mix = calloc((size_t)n * dim, sizeof *mix);
    sc_status rc;

    if (!mix) return sc_fail(err, SC_ENOMEM, "prompt: out of memory");
    for (size_t i = 0; i < (size_t)a->tokens * dim; i++) mix[i] += (float)((1.0 - weight_b) * a->emb[i]);
    for (size_t i = 0; i < (size_t)b->tokens * dim; i++) mix[i] += (float)(weight_b * b->emb[i]);
    rc = sc_cross_create(e->dit, mix, n, true, out, err);
    free(mix);
    return rc;
}

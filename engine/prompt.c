/* prompt.c - text to cross-attention keys and values, kept in a small cache keyed by text.
 *
 * A prompt is a property of the model, not of a session: two sessions with the same words share one entry. The cache holds the
 * SC_PROMPT_CACHE newest, as far as they fit into cache_bytes (folded into the product behind the attention a prompt of 20 tokens takes 31 MB of a
 * 1.3B model, 410 of a 14B one, and its folded keys 47 and 420); what a session uses lives on through its reference and does not count. Where
 * memory is short, what only the cache holds goes first, the oldest before the others.
 *
 * Two halves: words to embeddings, which needs the text encoder and nothing else, and embeddings to keys and values. Where the encoder has a
 * device of its own the first half may run on another thread (it takes seconds on a CPU); whoever needs the encoder meanwhile waits for it.
 * Thread: engine, but for ask_main. */
#include "engine/internal.h"

#include <stdlib.h>
#include <string.h>

static void prompt_free(sc_engine *e, sc_prompt *p) {
    if (!p) return;
    sc_cross_free(e->dit, &p->cross);
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

/* The half that needs the text encoder alone: words to embeddings. */
static sc_status read_text(const sc_engine *e, const char *text, size_t n, sc_prompt **out, sc_error *err) {
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
    p->refs = 1;
    *out = p;
    p = NULL;
cleanup:
    free(ids);
    free(clean);
    if (p) {
        free(p->text);
        free(p->emb);
        free(p);
    }
    return rc;
}

/* The oldest prompt that nobody uses but the cache, -1 for none; their device memory to *idle. */
static int oldest_idle(const sc_engine *e, size_t *idle) {
    int oldest = -1;
    *idle = 0;
    for (int i = 0; i < SC_PROMPT_CACHE; i++) {
        const sc_prompt *p = e->cache[i];
        if (!p || p->refs > 1) continue;
        *idle += p->cross.bytes;
        if (oldest < 0 || p->used < e->cache[oldest]->used) oldest = i;
    }
    return oldest;
}

static void drop_entry(sc_engine *e, int i) {
    sc_prompt_drop(e, e->cache[i]);
    e->cache[i] = NULL;
}

bool sc_prompt_cache_shrink(sc_engine *e) {
    size_t idle;
    const int i = oldest_idle(e, &idle);
    if (i < 0) return false;
    drop_entry(e, i);
    return true;
}

/* Until what nobody uses but the cache takes no more than cache_bytes. */
static void make_room(sc_engine *e) {
    size_t idle;
    for (int i; (i = oldest_idle(e, &idle)) >= 0 && idle > e->cache_bytes;) drop_entry(e, i);
}

/* The other half: keys and values, and the place of the oldest in the cache. The reference is the cache's; after an error p is gone. */
static sc_status keep(sc_engine *e, sc_prompt *p, sc_error *err) {
    int oldest = 0;
    sc_status rc;

    make_room(e);
    do rc = sc_cross_create(e->dit, p->emb, p->tokens, true, &p->cross, err);
    while (rc == SC_ENOMEM && sc_prompt_cache_shrink(e));
    if (rc) {
        prompt_free(e, p);
        return rc;
    }
    for (int i = 1; i < SC_PROMPT_CACHE && e->cache[oldest]; i++)
        if (!e->cache[i] || e->cache[i]->used < e->cache[oldest]->used) oldest = i;
    sc_prompt_drop(e, e->cache[oldest]);
    e->cache[oldest] = p;
    p->used = ++e->clock;
    return SC_OK;
}

static sc_prompt *find(const sc_engine *e, const char *text, size_t n) {
    for (int i = 0; i < SC_PROMPT_CACHE; i++) {
        sc_prompt *p = e->cache[i];
        if (p && p->text_n == n && !memcmp(p->text, text, n)) return p;
    }
    return NULL;
}

static sc_status check_length(size_t n, sc_error *err) {
    return n > SC_PROMPT_BYTES_MAX ? sc_fail(err, SC_EINVAL, "prompt: %zu bytes, at most %d", n, SC_PROMPT_BYTES_MAX) : SC_OK;
}

/* ---- on another thread -------------------------------------------------------------------------------------------------- */

static void *ask_main(void *arg) {
    sc_engine *e = arg;
    e->ask.rc = read_text(e, e->ask.text, e->ask.n, &e->ask.prompt, &e->ask.err);
    e->ask.done(e->ask.ctx);
    return NULL;
}

static void join(sc_engine *e) {
    if (!e->ask.asked || e->ask.joined) return;
    pthread_join(e->ask.thread, NULL);
    e->ask.joined = true;
}

bool sc_engine_prompt_known(const sc_engine *e, const char *text, size_t n) { return find(e, text, n) != NULL; }

sc_status sc_engine_prompt_ask(sc_engine *e, const char *text, size_t n, void (*done)(void *ctx), void *ctx, sc_error *err) {
    sc_status rc;

    if (e->ask.asked) return sc_fail(err, SC_EBUSY, "prompt: another one is being encoded");
    if ((rc = check_length(n, err))) return rc;
    memset(&e->ask, 0, sizeof e->ask);
    if (!(e->ask.text = malloc(n + 1))) return sc_fail(err, SC_ENOMEM, "prompt: out of memory");
    memcpy(e->ask.text, text, n);
    e->ask.n = n;
    e->ask.done = done;
    e->ask.ctx = ctx;
    if (pthread_create(&e->ask.thread, NULL, ask_main, e)) {
        free(e->ask.text);
        return sc_fail(err, SC_ENOMEM, "prompt: cannot start a thread");
    }
    e->ask.asked = true;
    return SC_OK;
}

sc_status sc_engine_prompt_answer(sc_engine *e, sc_error *err) {
    if (!e->ask.asked) return sc_fail(err, SC_ENOTFOUND, "prompt: none was asked for");
    join(e);
    e->ask.asked = false;
    free(e->ask.text);
    if (e->ask.rc) return sc_fail(err, e->ask.rc, "%s", e->ask.err.text);
    if (find(e, e->ask.prompt->text, e->ask.prompt->text_n)) { /* it became known meanwhile */
        prompt_free(e, e->ask.prompt);
        return SC_OK;
    }
    return keep(e, e->ask.prompt, err);
}

void sc_prompt_forget(sc_engine *e) {
    if (!e->ask.asked) return;
    join(e);
    e->ask.asked = false;
    free(e->ask.text);
    if (!e->ask.rc) prompt_free(e, e->ask.prompt);
}

sc_status sc_prompt_get(sc_engine *e, const char *text, size_t n, sc_prompt **out, sc_error *err) {
    sc_status rc;

    *out = NULL;
    if ((rc = check_length(n, err))) return rc;
    if (!(*out = find(e, text, n))) {
        join(e); /* one text at a time in the encoder */
        do rc = read_text(e, text, n, out, err);
        while (rc == SC_ENOMEM && sc_prompt_cache_shrink(e));
        if (rc) return rc;
        if ((rc = keep(e, *out, err))) {
            *out = NULL;
            return rc;
        }
    }
    (*out)->used = ++e->clock;
    (*out)->refs++;
    return SC_OK;
}

sc_status sc_prompt_of(sc_engine *e, const char *text, size_t n, const float *emb, int tokens, sc_prompt **out, sc_error *err) {
    const size_t bytes = (size_t)tokens * sc_t5_dim(e->t5) * sizeof *emb;
    sc_prompt *p = find(e, text, n);
    sc_status rc;

    *out = p;
    if (p && p->tokens == tokens && !memcmp(p->emb, emb, bytes)) {
        p->used = ++e->clock;
        p->refs++;
        return SC_OK;
    }
    *out = NULL;
    if (!(p = calloc(1, sizeof *p)) || !(p->text = malloc(n + 1)) || !(p->emb = malloc(bytes))) {
        prompt_free(e, p);
        return sc_fail(err, SC_ENOMEM, "prompt: out of memory");
    }
    memcpy(p->text, text, n);
    p->text[n] = 0;
    p->text_n = n;
    memcpy(p->emb, emb, bytes);
    p->tokens = tokens;
    p->refs = 1;
    do rc = sc_cross_create(e->dit, p->emb, p->tokens, true, &p->cross, err);
    while (rc == SC_ENOMEM && sc_prompt_cache_shrink(e));
    if (rc) prompt_free(e, p);
    else *out = p;
    return rc;
}

static int longer(const sc_prompt *a, const sc_prompt *b) { return a->tokens > b->tokens ? a->tokens : b->tokens; }

sc_status sc_prompt_plan_mix(sc_engine *e, const sc_prompt *a, const sc_prompt *b, sc_cross *out, sc_error *err) {
    sc_status rc;
    do rc = sc_cross_plan(e->dit, longer(a, b), true, out, err);
    while (rc == SC_ENOMEM && sc_prompt_cache_shrink(e));
    return rc;
}

sc_status sc_prompt_mix(sc_engine *e, const sc_prompt *a, const sc_prompt *b, double weight_b, const sc_cross *c, sc_error *err) {
    const size_t dim = sc_t5_dim(e->t5);
    const int n = longer(a, b);
    float *mix = e->dit->prompt->host;

    memset(mix, 0, (size_t)n * dim * sizeof *mix);
    for (size_t i = 0; i < (size_t)a->tokens * dim; i++) mix[i] += (float)((1.0 - weight_b) * a->emb[i]);
    for (size_t i = 0; i < (size_t)b->tokens * dim; i++) mix[i] += (float)(weight_b * b->emb[i]);
    return sc_cross_write(e->dit, c, mix, n, err);
}

/* internal.h - what engine.c, run.c, session.c and prompt.c share; not for users of the engine. */
#ifndef SC_ENGINE_INTERNAL_H
#define SC_ENGINE_INTERNAL_H
#include "engine/config.h"
#include "engine/decoder.h"
#include "engine/engine.h"
#include "engine/kv_memory.h"
#include "engine/schedule.h"
#include "engine/text_encoder.h"
#include "engine/tokenizer.h"
#include "engine/transformer.h"

#include <pthread.h>

enum { SC_PROMPT_CACHE = 16 };

/* An encoded prompt. Reference counted by sessions and by the cache. */
struct sc_prompt {
    char *text;
    size_t text_n;
    int refs;
    uint64_t used;     /* for the cache: when last asked for */
    int tokens;
    float *emb;        /* host [tokens][text_dim] */
    sc_cross cross;
};

struct sc_engine {
    sc_device *dev, *text_dev;  /* text_dev is dev unless the text encoder was given another */
    sc_device *decode_dev, *prompt_dev; /* queues beside dev, or dev where there are none */
    sc_config cfg;
    sc_tensors *dit_tensors, *text_tensors, *decoder_tensors;
    sc_tokenizer *tokenizer;
    sc_t5 *t5;
    sc_dit *dit;
    sc_decoder *decoder;
    sc_layout *layout;
    sc_work *work;
    sc_schedule schedule;
    double timestep[SC_MAX_STEPS + 1], sigma[SC_MAX_STEPS + 1]; /* of the steps; then the clean pass, t = 0 */
    float *mods;            /* device [steps + 1][sc_dit_mod_row] */
    int32_t *row_mod_mixed; /* device [SC_MAX_BATCH * tokens]: for a batch whose sessions are at different steps */
    int32_t *row_mod_host;
    sc_kv_rule rule;
    sc_pages pages;
    int pages_per_session, max_sessions, batch;
    int past_chunks;        /* whose clean latents a session keeps */
    bool taken[256];
    uint64_t sessions_made;
    size_t latent_count;    /* floats of a chunk's latent */
    float *noise;           /* device [latent_count] */
    sc_prompt *cache[SC_PROMPT_CACHE];
    uint64_t clock;         /* of the cache */
    size_t cache_bytes;     /* of the device's memory, for what the cache alone holds */
    long full_pass;         /* elements of the residual stream from which on a pass leaves no room beside it */
    struct {
        bool asked, joined;
        pthread_t thread;
        char *text;
        size_t n;
        void (*done)(void *ctx);
        void *ctx;
        sc_prompt *prompt;  /* from here on: the thread's until it is joined */
        sc_status rc;
        sc_error err;
    } ask;                  /* a text that another thread encodes */
    struct {
        void (*fn)(void *ctx, const char *what, size_t done, size_t all);
        void *ctx;
        const char *what;
        size_t done, all;
    } progress;             /* while the model is opened */
    sc_model_info info;
};

struct sc_session {
    sc_engine *engine;
    uint64_t seed, chunk;
    uint64_t first;        /* its first own chunk: 0, but for a fork */
    int place;             /* which run of pages */
    int phase;             /* 0..steps-1 denoise, steps decode, steps + 1 clean */
    sc_kv_memory memory;
    float *x, *flow;       /* device, latent of the chunk; x is x0 after the last step */
    float *past;           /* device [engine's past_chunks][latent_count]: clean latents of the window for recache, a ring */
    int past_at, past_count; /* where the next one goes; how many there are */
    sc_decoder_state *decoder;
    uint8_t *pixels, *frames[2]; /* device, host: I420. The newest frames stay while the next ones come */
    int frames_at;
    int32_t *finite, *finite_host; /* device, host [1]: of the latent that was decoded last */
    /* Around passes, NULL where calls do not run behind: denoising by step, then two clean passes in turn; decoding, on decode_dev. `drawn` is
     * before `decoded`: the frames have still to go to the host. */
    sc_mark *from[SC_MAX_STEPS + 2], *to[SC_MAX_STEPS + 2], *decode_from, *drawn, *decoded;
    uint64_t serial;       /* no other session of the engine has it */
    sc_frames newest, coming; /* coming: when decoded has been passed and while `awaited` */
    bool awaited;
    uint64_t frames_made;
    sc_prompt *prompt, *next_prompt;
    uint32_t prompt_seq, next_seq;
    sc_transition transition;
    int blend_chunks, blend_done;
    sc_prompt *blend_from;    /* while a blend runs */
    sc_cross blend[2], next_blend[2]; /* its mixes in turn, planned when it is asked for: one is written while the other is read */
    bool mixed;               /* this chunk's mix has been written */
    sc_transition due;        /* what the memory still has to do for the prompt in force; SC_SWITCH: nothing */
    bool begun;               /* this chunk's prompt is settled */
    bool fresh_prompt;        /* this chunk is the first under prompt_seq */
    bool failed;
    sc_error error;
};

/* Of a session's marks, those of a chunk's clean pass. */
static inline int sc_clean_mark(const sc_session *s, uint64_t chunk) { return s->engine->cfg.step_count + (int)(chunk & 1); }

/* While a blend runs: this chunk's mix. */
static inline sc_cross *sc_session_blend(sc_session *s) { return &s->blend[(s->blend_done - 1) & 1]; }

/* The modulation row of one step; steps = the clean pass. */
static inline const float *sc_mods_of(const sc_engine *e, int step) { return e->mods + (size_t)step * sc_dit_mod_row(e->dit); }

/* prompt.c */
sc_status sc_prompt_get(sc_engine *e, const char *text, size_t n, sc_prompt **out, sc_error *err); /* the caller holds a reference */
/* The same from embeddings [tokens][text_dim] that somebody kept. Nobody else gets them for these words. */
sc_status sc_prompt_of(sc_engine *e, const char *text, size_t n, const float *emb, int tokens, sc_prompt **out, sc_error *err);
void sc_prompt_drop(sc_engine *e, sc_prompt *p);
void sc_prompt_cache_clear(sc_engine *e);
bool sc_prompt_cache_shrink(sc_engine *e); /* gives back what the oldest prompt holds that nobody uses; false: there is none */
void sc_prompt_forget(sc_engine *e); /* what was asked for and not answered; waits for it */
/* Plan a blend's keys and values; write them into planned ones. */
sc_status sc_prompt_plan_mix(sc_engine *e, const sc_prompt *a, const sc_prompt *b, sc_cross *out, sc_error *err);
sc_status sc_prompt_mix(sc_engine *e, const sc_prompt *a, const sc_prompt *b, double weight_b, const sc_cross *c, sc_error *err);

/* session.c */
sc_status sc_session_free_place(const sc_engine *e, int *place, sc_error *err); /* SC_EBUSY: there is none */
/* Before its first chunk, at a place that is free, with a reference of its own to the prompt. */
sc_status sc_session_create_at(sc_engine *e, int place, uint64_t seed, sc_prompt *prompt, uint32_t prompt_seq, sc_session **out, sc_error *err);
/* It stands between two chunks, and its frames have come. Errors: what it failed for; SC_EBUSY. */
sc_status sc_session_stands(sc_session *s, sc_error *err);
/* While a blend over `chunks` goes from a to b: memory for its mixes, which are written in turn. After an error there is none. */
sc_status sc_session_plan_blend(sc_engine *e, const sc_prompt *a, const sc_prompt *b, int chunks, sc_cross mix[2], sc_error *err);
float *sc_session_past(const sc_session *s, int k); /* the k-th oldest of past_count; k == past_count: where the next one goes */
sc_status sc_session_begin_chunk(sc_session *s, sc_error *err);

/* run.c */
sc_status sc_engine_pass(sc_engine *e, const sc_pass_args *a, sc_error *err); /* sc_dit_pass; a device may play it again */
sc_status sc_session_collect(sc_session *s, sc_error *err); /* wait for the frames that were asked for last; marks the session failed when they are none */

#endif

/* engine.c - opening a model: files, device, tables, the pool of pages. What runs is in run.c.
 *
 * Everything that a stream will ever need is allocated here or at sc_session_create, so a chunk's path allocates nothing.
 * The pool holds max_sessions runs of pages; a session's memory is constant, so admission is exact. A device whose kernels are loaded and
 * products are planned when they are first called (CUDA) makes one chunk before the model counts as open. */
#include "engine/internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/devmem.h"
#include "engine/digest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call) do { if ((rc = (call))) goto cleanup; } while (0)

static sc_status open_set(sc_tensors **out, const char *dir, char files[][128], int count, sc_error *err) {
    char paths[32][1024];
    const char *list[32];
    for (int i = 0; i < count; i++) {
        if (snprintf(paths[i], sizeof paths[i], "%s/%s", dir, files[i]) >= (int)sizeof paths[i]) return sc_fail(err, SC_EINVAL, "model %s: path too long", dir);
        list[i] = paths[i];
    }
    return sc_tensors_open(out, list, count, err);
}

/* A tensor that is missing or misshapen is a fault of the model: the message gets the files that the tensor was looked for in. */
static sc_status name_files(sc_status rc, const char *dir, char files[][128], int count, sc_error *err) {
    sc_error cause;

    if (!err || (rc != SC_EINVAL && rc != SC_ENOTFOUND)) return rc == SC_ENOTFOUND ? SC_EINVAL : rc;
    cause = *err;
    return sc_fail(err, SC_EINVAL, "%.160s/%.60s%s%.60s: %.220s", dir, files[0], count > 1 ? " .. " : "", count > 1 ? files[count - 1] : "", cause.text);
}

/* ---- weights ------------------------------------------------------------------------------------------------------------- */

static size_t set_bytes(const sc_tensors *set) {
    size_t bytes = 0;
    for (int j = 0; j < sc_tensors_count(set); j++) bytes += sc_tensors_at(set, j)->bytes;
    return bytes;
}

static void tell_progress(sc_engine *e) {
    if (e->progress.fn) e->progress.fn(e->progress.ctx, e->progress.what, e->progress.done, e->progress.all);
}

static void count_used(void *ctx, size_t bytes) {
    sc_engine *e = ctx;
    const size_t left = e->progress.all - e->progress.done;
    e->progress.done += bytes < left ? bytes : left;
    tell_progress(e);
}

/* A part has ended: tensors that nobody asked for (an encoder beside the decoder) count too. */
static void end_part(sc_engine *e, size_t done) {
    if (done > e->progress.done) e->progress.done = done;
    tell_progress(e);
}

static sc_status load_weights(sc_engine *e, const char *dir, char decoder[][128], const sc_dit_shape *dit, const sc_t5_shape *t5, sc_error *err) {
    const sc_config *c = &e->cfg;
    sc_tensors *const sets[] = {e->dit_tensors, e->text_tensors, e->decoder_tensors};
    size_t end[3];
    sc_status rc;

    for (int i = 0; i < 3; i++) {
        end[i] = e->progress.all += set_bytes(sets[i]);
        sc_tensors_watch(sets[i], count_used, e);
    }
    e->progress.what = "transformer";
    TRY(name_files(sc_dit_load(&e->dit, e->dev, e->dit_tensors, "", dit, err), dir, e->cfg.dit_files, c->dit_file_count, err));
    end_part(e, end[0]);
    e->progress.what = "text encoder";
    TRY(name_files(sc_t5_load(&e->t5, e->text_dev, e->text_tensors, "", t5, err), dir, e->cfg.text_files, c->text_file_count, err));
    end_part(e, end[1]);
    e->progress.what = "decoder";
    TRY(name_files(sc_decoder_open(&e->decoder, e->dev, e->decoder_tensors, c, err), dir, decoder, 1, err));
    end_part(e, end[2]);
cleanup:
    for (int i = 0; i < 3; i++) sc_tensors_watch(sets[i], NULL, NULL);
    return rc;
}

/* What loading left behind: staging memory, and pages of the files that lie on the device now. Then each part to its queue. */
static sc_status end_loading(sc_engine *e, sc_error *err) {
    const sc_status rc = e->dev->ops->sync(e->dev, err);
    if (rc) return rc;
    if (e->dev->ops->loaded) e->dev->ops->loaded(e->dev);
    if (e->text_dev != e->dev && e->text_dev->ops->loaded) e->text_dev->ops->loaded(e->text_dev);
    if (!e->text_dev->in_place) sc_tensors_drop(e->text_tensors);
    if (!e->dev->in_place) sc_tensors_drop(e->dit_tensors);
    sc_tensors_drop(e->decoder_tensors);
    e->progress.what = "ready";
    end_part(e, e->progress.all);
    sc_decoder_move(e->decoder, e->decode_dev);
    e->dit->prompt_dev = e->prompt_dev;
    if (e->text_dev == e->dev) sc_t5_move(e->t5, e->prompt_dev);
    return SC_OK;
}

static sc_status load_parts(sc_engine *e, const char *dir, sc_error *err) {
    const sc_config *c = &e->cfg;
    const sc_dit_shape dit = {.dim = c->dit.dim, .heads = c->dit.heads, .head_dim = c->dit.head_dim, .ffn_dim = c->dit.ffn_dim, .layers = c->dit.layers,
                              .text_dim = c->dit.text_dim, .text_len = c->dit.text_len, .freq_dim = c->dit.freq_dim, .in_ch = c->dit.in_ch,
                              .out_ch = c->dit.out_ch, .patch_h = c->dit.patch[1], .patch_w = c->dit.patch[2], .eps = c->dit.eps};
    const sc_t5_shape t5 = {.vocab = c->t5.vocab, .dim = c->t5.dim, .dim_attn = c->t5.dim_attn, .dim_ffn = c->t5.dim_ffn, .heads = c->t5.heads,
                            .layers = c->t5.layers, .buckets = c->t5.buckets, .max_dist = c->t5.max_dist, .tokens = c->dit.text_len};
    char path[1024];
    char decoder[1][128];
    sc_status rc;

    memcpy(decoder[0], c->decoder_file, sizeof decoder[0]);
    snprintf(path, sizeof path, "%s/%s", dir, c->tokenizer_file);
    TRY(sc_tokenizer_open(&e->tokenizer, path, err));
    if (sc_tokenizer_vocab(e->tokenizer) > c->t5.vocab) {
        rc = sc_fail(err, SC_EINVAL, "%s: %d pieces, but t5.vocab in config.json is %d", path, sc_tokenizer_vocab(e->tokenizer), c->t5.vocab);
        goto cleanup;
    }
    TRY(open_set(&e->dit_tensors, dir, e->cfg.dit_files, c->dit_file_count, err));
    TRY(open_set(&e->text_tensors, dir, e->cfg.text_files, c->text_file_count, err));
    TRY(open_set(&e->decoder_tensors, dir, decoder, 1, err));
    TRY(load_weights(e, dir, decoder, &dit, &t5, err));
    if (e->dit->pos && e->dit->pos_rows != (c->latent_h / dit.patch_h) * (c->latent_w / dit.patch_w))
        rc = name_files(sc_fail(err, SC_EINVAL, "tensor pos_embedding: %lld rows, a latent frame has %d tokens", (long long)e->dit->pos_rows,
                                (c->latent_h / dit.patch_h) * (c->latent_w / dit.patch_w)), dir, e->cfg.dit_files, c->dit_file_count, err);
cleanup:
    return rc;
}

/* Timesteps and their modulation rows. */
static sc_status plan_steps(sc_engine *e, sc_error *err) {
    const size_t row = sc_dit_mod_row(e->dit), tokens = (size_t)SC_MAX_BATCH * (size_t)e->layout->tokens;
    const int steps = e->cfg.step_count;
    const sc_ops *ops = e->dev->ops;
    float *host = malloc(row * sizeof *host);
    sc_status rc;

    if (!host) return sc_fail(err, SC_ENOMEM, "timesteps: out of memory");
    TRY(ops->alloc(e->dev, (void **)&e->mods, (size_t)(steps + 1) * row * 4, err));
    TRY(ops->alloc(e->dev, (void **)&e->row_mod_mixed, tokens * 4, err));
    if (!(e->row_mod_host = malloc(tokens * sizeof *e->row_mod_host))) { rc = sc_fail(err, SC_ENOMEM, "timesteps: out of memory"); goto cleanup; }
    sc_schedule_init(&e->schedule, e->cfg.shift, e->cfg.exact_sigma);
    for (int i = 0; i <= steps; i++) {
        e->timestep[i] = i < steps ? sc_schedule_warp(&e->schedule, e->cfg.steps[i]) : 0.0;
        e->sigma[i] = sc_schedule_sigma(&e->schedule, e->timestep[i]);
        TRY(sc_dit_modulation(e->dit, e->timestep[i], host, NULL, NULL, err));
        TRY(ops->upload(e->dev, e->mods + (size_t)i * row, host, row * 4, err));
    }
cleanup:
    free(host);
    return rc;
}

static sc_status plan_memory(sc_engine *e, const char *dir, sc_error *err) {
    const sc_config *c = &e->cfg;
    const bool pbsa = c->memory.kind == SC_MEMORY_PBSA;
    const sc_ops *ops = e->dev->ops;
    sc_status rc;

    TRY(sc_layout_create(&e->layout, e->dev, c->chunk_frames, c->latent_h / c->dit.patch[1], c->latent_w / c->dit.patch[2], pbsa ? c->memory.tile : NULL,
                         c->dit.head_dim, pbsa ? c->memory.max_distance : -1, err));
    e->rule = (sc_kv_rule){.pbsa = pbsa, .window_chunks = c->memory.window_chunks, .capacity = pbsa ? c->memory.persistent_blocks : 0,
                           .window_frames = c->memory.window_frames, .sink_frames = c->memory.sink_frames};
    /* Page numbers are 32-bit; the sizes of a config are not bounded together. */
    const int64_t places = pbsa ? e->rule.capacity + (int64_t)e->rule.window_chunks * e->layout->blocks.blocks
                                : (int64_t)e->rule.window_frames * (e->layout->blocks.blocks / e->layout->frames);
    int64_t pages;
    if (places > INT32_MAX || __builtin_mul_overflow((int64_t)c->dit.layers * c->dit.heads * e->max_sessions, places, &pages) || pages > INT32_MAX) {
        rc = sc_fail(err, SC_EINVAL, "%.200s/config.json: memory: %lld blocks of %d layers and %d heads for %d sessions are more than %d pages", dir, (long long)places,
                     c->dit.layers, c->dit.heads, e->max_sessions, INT32_MAX);
        goto cleanup;
    }
    const int slots = sc_kv_slots(&e->rule, e->layout);
    e->past_chunks = sc_kv_past(&e->rule, e->layout);
    e->pages_per_session = c->dit.layers * c->dit.heads * slots;
    e->pages.head_dim = c->dit.head_dim;
    e->pages.page_rows = e->layout->block_max;
    e->pages.pages = e->pages_per_session * e->max_sessions;
    const size_t page = (size_t)e->pages.page_rows * (size_t)e->pages.head_dim * sc_act_bytes(e->dev);
    TRY(ops->alloc(e->dev, &e->pages.k, (size_t)e->pages.pages * page, err));
    TRY(ops->alloc(e->dev, &e->pages.v, (size_t)e->pages.pages * page, err));
    TRY(ops->alloc(e->dev, (void **)&e->pages.rep_k, (size_t)e->pages.pages * (size_t)e->pages.head_dim * 4, err));
    TRY(sc_work_create(&e->work, e->dit, e->layout, e->batch, slots, e->rule.capacity, err));
    e->latent_count = (size_t)c->dit.in_ch * (size_t)c->chunk_frames * (size_t)(c->latent_h * c->latent_w);
    TRY(ops->alloc(e->dev, (void **)&e->noise, e->latent_count * 4, err));
    e->info.session_bytes = (size_t)e->pages_per_session * (2 * page + (size_t)e->pages.head_dim * 4 + (pbsa ? 2 : 1) * sizeof(sc_kv_slot)) +
                            (size_t)(2 + e->past_chunks) * e->latent_count * 4 +
                            sc_decoder_state_bytes(e->decoder);
    e->info.work_bytes = e->work->bytes + sc_decoder_work_bytes(e->decoder);
cleanup:
    return rc;
}

static void describe(sc_engine *e) {
    sc_model_info *i = &e->info;
    const sc_config *c = &e->cfg;
    const int scale = sc_decoder_scale(e->decoder), time = sc_decoder_time_scale(e->decoder);
    const sc_tensors *const sets[] = {e->dit_tensors, e->text_tensors, e->decoder_tensors};

    snprintf(i->name, sizeof i->name, "%s", c->name);
    snprintf(i->device, sizeof i->device, "%s", e->dev->name);
    i->width = c->latent_w * scale;
    i->height = c->latent_h * scale;
    i->fps = c->fps;
    i->latent_frames = c->chunk_frames;
    i->frames_chunk = c->chunk_frames * time;
    i->frames_first = i->frames_chunk - sc_decoder_startup(e->decoder);
    i->steps = c->step_count;
    i->max_sessions = e->max_sessions;
    i->frame_bytes = (size_t)i->width * (size_t)i->height * 3 / 2;
    i->session_pages = e->pages_per_session;
    i->prompt_tokens = c->dit.text_len;
    i->behind = e->dev->ops->beside != NULL;
    i->text_apart = e->text_dev != e->dev && !e->text_dev->ops->beside;
    i->parameters = e->dit->parameters;
    for (int s = 0; s < 3; s++) i->weight_bytes += set_bytes(sets[s]);
    sc_model_digest(sets, 3, i->digest);
}

/* The first chunk of a stream, thrown away. */
static sc_status warm(sc_engine *e, sc_error *err) {
    static const char prompt[] = "a";
    sc_session *s = NULL;
    sc_frames f;
    sc_status rc = sc_dit_warm(e->dit, e->work, err);
    if (!rc) rc = sc_session_create(e, 0, prompt, sizeof prompt - 1, 0, &s, err);
    const uint64_t begin = sc_now_ns();

    while (!rc && !sc_session_failed(s, err) && sc_session_next(s).chunk == 0) rc = sc_engine_run(e, &s, 1, err);
    if (!rc) {
        rc = sc_session_frames(s, &f, err);
        if (sc_session_failed(s, err)) rc = err->status; /* the cause, which perhaps only the frames have told */
    }
    if (!rc) rc = e->dev->ops->sync(e->dev, err);
    e->info.first_chunk_ns = sc_now_ns() - begin;
    sc_session_destroy(s);
    sc_prompt_cache_clear(e);
    return rc;
}

sc_status sc_engine_open(sc_engine **out, const sc_engine_options *o, sc_error *err) {
    sc_engine *e = calloc(1, sizeof *e);
    sc_status rc = SC_OK;

    *out = NULL;
    if (!e) return sc_fail(err, SC_ENOMEM, "engine: out of memory");
    e->max_sessions = o->max_sessions < 1 ? 4 : o->max_sessions > 256 ? 256 : o->max_sessions;
    e->cache_bytes = (size_t)1 << 30;
    e->full_pass = 128 * 128 * 128; /* a tile of 128 x 128 for each of 128 multiprocessors */
    e->batch = e->max_sessions < SC_MAX_BATCH ? e->max_sessions : SC_MAX_BATCH;
    TRY(sc_config_read(&e->cfg, o->model_dir, err));
    TRY(sc_config_memory(&e->cfg, o->memory, o->model_dir, err));
    if (o->max_distance) e->cfg.memory.max_distance = o->max_distance;
    /* A model whose weights are float16 stays so on the GPU: rounding them to bf16 changes which blocks are kept. */
    const sc_dtype act = !e->cfg.exact_sigma ? SC_BF16 : SC_F16;
    const char *const device = o->device ? o->device : "cpu";
    e->progress.fn = o->progress;
    e->progress.ctx = o->progress_ctx;
    TRY(sc_device_open(&e->dev, device, o->threads, act, err));
    e->text_dev = e->dev;
    if (o->text_device && strcmp(o->text_device, device)) {
        e->text_dev = NULL;
        TRY(sc_device_open(&e->text_dev, o->text_device, o->threads, act, err));
    }
    e->decode_dev = e->prompt_dev = e->dev;
    if (e->dev->ops->beside) {
        TRY(e->dev->ops->beside(e->dev, &e->decode_dev, err));
        TRY(e->dev->ops->beside(e->dev, &e->prompt_dev, err));
    }
    TRY(load_parts(e, o->model_dir, err));
    TRY(plan_memory(e, o->model_dir, err));
    TRY(plan_steps(e, err));
    describe(e);
    TRY(end_loading(e, err));
    if (e->dev->ops->beside) TRY(warm(e, err));
    sc_log(SC_LOG_INFO, "engine", "model=%s device=\"%s\" text_device=\"%s\" parameters=%ld session_mb=%.1f sessions=%d", e->info.name, e->info.device, e->text_dev->name,
           e->info.parameters, (double)e->info.session_bytes / 1e6, e->max_sessions);
    *out = e;
    e = NULL;
cleanup:
    sc_engine_close(e);
    return rc;
}

void sc_engine_close(sc_engine *e) {
    if (!e) return;
    if (e->dev) {
        const sc_ops *ops = e->dev->ops;
        void *p[] = {e->mods, e->row_mod_mixed, e->pages.k, e->pages.v, e->pages.rep_k, e->noise};
        sc_prompt_forget(e);
        sc_prompt_cache_clear(e);
        sc_work_free(e->work, e->dev);
        sc_layout_free(e->layout, e->dev);
        sc_decoder_close(e->decoder);
        sc_dit_close(e->dit);
        sc_t5_close(e->t5);
        for (size_t i = 0; i < sizeof p / sizeof *p; i++) ops->release(e->dev, p[i]);
        if (e->text_dev != e->dev) sc_device_close(e->text_dev);
        if (e->decode_dev != e->dev) sc_device_close(e->decode_dev);
        if (e->prompt_dev != e->dev) sc_device_close(e->prompt_dev);
        sc_device_close(e->dev);
    }
    sc_tokenizer_close(e->tokenizer);
    sc_tensors_close(e->dit_tensors);
    sc_tensors_close(e->text_tensors);
    sc_tensors_close(e->decoder_tensors);
    free(e->row_mod_host);
    free(e);
}

void sc_engine_describe(const sc_engine *e, sc_model_info *out) { *out = e->info; }

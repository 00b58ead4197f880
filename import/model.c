/* model.c - the tensors of a model directory, converted as they pass, and its config.json.
 *
 * A tensor is read a million elements at a time, scaled where it was stored as scaled fp8, changed by its LoRAs and handed on.
 * A LoRA adds scale * B A: A, transposed and scaled, is packed once per weight, and each run of rows of the weight is one product
 * of the same rows of B with it, added in place by the CPU's own matrix product. */
#include "import/model.h"
#include "engine/config.h"
#include "kernels/ops.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call) do { if ((rc = (call))) goto cleanup; } while (0)

typedef struct {
    const sc_found *part;
    const sc_parts *parts;
    const sc_match **item;     /* of each tensor written */
    sc_device *cpu;            /* opened when there are LoRAs */
    int packed_for;            /* the tensor that the matrices below are of; -1: none */
    sc_matrix *matrix[SC_LORAS];
    const sc_lora_pair *pair[SC_LORAS];
    int pairs;
    float *rows;               /* of B */
    size_t rows_room;
    int merged;
} filling;

static void drop_loras(filling *f) {
    for (int i = 0; i < f->pairs; i++) f->cpu->ops->matrix_destroy(f->cpu, f->matrix[i]);
    f->pairs = 0;
}

/* Packs scale * A^T of every LoRA of this weight. */
static sc_status pack_loras(filling *f, const sc_match *m, int index, sc_error *err) {
    float *a = NULL, *at = NULL;
    sc_status rc = SC_OK;

    drop_loras(f);
    f->packed_for = index;
    for (int l = 0; l < f->parts->loras; l++)
        for (int i = 0; i < f->parts->lora[l]->lora_count; i++) {
            const sc_lora_pair *p = &f->parts->lora[l]->lora[i];
            if (strcmp(p->target, m->name->spelling[0])) continue;
            const int64_t rank = p->down->shape[0], cols = p->down->shape[1];
            if (m->tensor->rank != 2 || p->up->shape[0] != m->tensor->shape[0] || cols != m->tensor->shape[1]) {
                rc = sc_fail(err, SC_EINVAL, "%.150s: LoRA of %.100s is %lld x %lld, the weight %lld x %lld", sc_source_path(f->parts->lora[l]->source), p->target,
                             (long long)p->up->shape[0], (long long)cols, (long long)m->tensor->shape[0], (long long)m->tensor->shape[1]);
                goto cleanup;
            }
            if (cols > SC_FILL_MAX || rank > SC_FILL_MAX / 64) { rc = sc_fail(err, SC_EINVAL, "%.100s: LoRA of %lld x %lld is too large", p->target, (long long)rank, (long long)cols); goto cleanup; }
            TRY(sc_source_verify(f->parts->lora[l]->source, p->down, err));
            TRY(sc_source_verify(f->parts->lora[l]->source, p->up, err));
            a = malloc((size_t)(rank * cols) * sizeof *a);
            at = malloc((size_t)(rank * cols) * sizeof *at);
            if (!a || !at) { rc = sc_fail(err, SC_ENOMEM, "%.100s: out of memory for its LoRA", p->target); goto cleanup; }
            sc_source_read(p->down, 0, rank * cols, a);
            const double alpha = p->alpha > 0 ? p->alpha : f->parts->options->lora_alpha > 0 ? f->parts->options->lora_alpha : (double)rank;
            const float scale = (float)(f->parts->options->lora_scale * alpha / (double)rank);
            for (int64_t r = 0; r < rank; r++)
                for (int64_t c = 0; c < cols; c++) at[c * rank + r] = scale * a[r * cols + c];
            TRY(f->cpu->ops->matrix_create(f->cpu, &f->matrix[f->pairs], &(sc_matrix_desc){.parts = 1, .cols = (int)rank, .rows = {(int)cols}, .data = {at}, .type = {SC_F32}}, err));
            f->pair[f->pairs++] = p;
            f->merged++;
            free(a);
            free(at);
            a = at = NULL;
        }
cleanup:
    free(a);
    free(at);
    return rc;
}

static sc_status add_loras(filling *f, int64_t first_row, int64_t rows, float *out, sc_error *err) {
    for (int i = 0; i < f->pairs; i++) {
        const int64_t rank = f->pair[i]->up->shape[1];
        const size_t need = (size_t)(rows * rank);
        sc_status rc;
        if (need > f->rows_room) {
            float *more = realloc(f->rows, need * sizeof *more);
            if (!more) return sc_fail(err, SC_ENOMEM, "%.100s: out of memory for its LoRA", f->pair[i]->target);
            f->rows = more;
            f->rows_room = need;
        }
        sc_source_read(f->pair[i]->up, first_row * rank, rows * rank, f->rows);
        rc = f->cpu->ops->linear(f->cpu, &(sc_linear_args){.w = f->matrix[i], .x = f->rows, .out = out, .out_type = SC_F32, .m = (int)rows, .epilogue = SC_EPI_RESIDUAL}, err);
        if (rc) return rc;
    }
    return SC_OK;
}

static sc_status fill(void *ctx, int index, int64_t first, int64_t n, float *out, sc_error *err) {
    filling *f = ctx;
    const sc_match *m = f->item[index];
    const sc_source_tensor *t = m->tensor;
    const int64_t row = t->rank && t->shape[0] ? t->count / t->shape[0] : t->count;
    int64_t skip = 0;
    sc_status rc;

    if (m->name->flags & SC_NAME_GROW) skip = (t->shape[0] - sc_name_dim(m->name, 0, &f->part->sizes)) * row;
    if (first == 0) {
        if ((rc = sc_source_verify(f->part->source, t, err))) return rc;
        if (m->scale && (rc = sc_source_verify(f->part->source, m->scale, err))) return rc;
        if (f->cpu && (rc = pack_loras(f, m, index, err))) return rc;
    }
    sc_source_read(t, first + skip, n, out);
    if (first + skip + n == t->count) sc_source_done(t);
    if (m->scale) {
        for (int64_t i = 0; i < n;) { /* a run of elements of one row shares its factor */
            const int64_t at = first + i, end = (at / row + 1) * row - first, stop = end < n ? end : n;
            float s;
            sc_source_read(m->scale, m->scale->count == 1 ? 0 : at / row, 1, &s);
            for (; i < stop; i++) out[i] *= s;
        }
    }
    return f->cpu && f->pairs ? add_loras(f, first / row, n / row, out, err) : SC_OK;
}

static sc_dtype out_type(const sc_parts *p, const sc_found *part, const sc_source_tensor *t) {
    if (part->family == SC_FAMILY_DIT || part->family == SC_FAMILY_T5 || p->options->decoder_as_dtype) return p->options->dtype;
    return t->dtype == SC_F16 || t->dtype == SC_BF16 ? t->dtype : t->dtype == SC_F8_E4M3 || t->dtype == SC_F8_E5M2 ? SC_BF16 : SC_F32;
}

sc_status sc_part_write(sc_folder *folder, const sc_parts *p, const sc_found *part, const char *stem, char files[SC_SHARDS][SC_FILE_NAME], int *count,
                        sc_error *err) {
    filling f = {.part = part, .parts = p, .packed_for = -1};
    sc_out_tensor *out = calloc((size_t)part->names.count, sizeof *out);
    int n = 0, wanted = 0;
    uint64_t shard = p->options->shard_bytes ? p->options->shard_bytes : (uint64_t)4 << 30;
    sc_status rc = SC_OK;

    f.item = calloc((size_t)part->names.count, sizeof *f.item);
    if (!out || !f.item) { rc = sc_fail(err, SC_ENOMEM, "%.200s: out of memory", stem); goto cleanup; }
    if (part->family == SC_FAMILY_DIT && p->loras) TRY(sc_device_open(&f.cpu, "cpu", 0, SC_F32, err));
    if (part->family == SC_FAMILY_VAE || part->family == SC_FAMILY_TAE) shard = UINT64_MAX; /* config.json names one file */
    for (int i = 0; i < part->names.count; i++) {
        const sc_match *m = &part->match[i];
        if (!m->tensor) continue;
        sc_out_tensor *o = &out[n];
        *o = (sc_out_tensor){.name = m->name->spelling[0], .rank = m->name->rank, .dtype = out_type(p, part, m->tensor), .count = 1};
        for (int k = 0; k < o->rank; k++) {
            o->shape[k] = sc_name_dim(m->name, k, &part->sizes);
            o->count *= o->shape[k];
        }
        f.item[n++] = m;
    }
    TRY(sc_folder_tensors(folder, stem, out, n, shard, fill, &f, files, count, err));
    for (int l = 0; l < p->loras && f.cpu; l++) wanted += p->lora[l]->lora_count;
    if (f.merged != wanted) rc = sc_fail(err, SC_EINVAL, "LoRA: only %d of %d weights are in the transformer", f.merged, wanted);
cleanup:
    if (f.cpu) {
        drop_loras(&f);
        sc_device_close(f.cpu);
    }
    free(f.rows);
    free(f.item);
    free(out);
    return rc;
}

/* ---- config.json ------------------------------------------------------------------------------------------------------------ */

typedef struct { char *s; size_t n; } page;

static void line(page *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void line(page *p, const char *fmt, ...) {
    va_list args;

    va_start(args, fmt);
    if (p->n < SC_CONFIG_TEXT) p->n += (size_t)vsnprintf(p->s + p->n, SC_CONFIG_TEXT - p->n, fmt, args);
    va_end(args);
}

static void file_list(page *p, char files[SC_SHARDS][SC_FILE_NAME], int count) {
    line(p, "[");
    for (int i = 0; i < count; i++) line(p, "%s\"%s\"", i ? ", " : "", files[i]);
    line(p, "]");
}

static int square_root(int64_t v) {
    int r = 1;
    while ((int64_t)(r + 1) * (r + 1) <= v) r++;
    return r;
}

sc_status sc_config_make(char out[SC_CONFIG_TEXT], const sc_parts *parts, const char *name, const sc_part_files *files, sc_error *err) {
    const sc_import_options *o = parts->options;
    const sc_preset *preset = parts->preset;
    const int64_t *d = parts->dit->sizes.v, *t = parts->text->sizes.v, *v = parts->decoder->sizes.v;
    const bool tae = parts->decoder->family == SC_FAMILY_TAE, pbsa = o->memory ? !strcmp(o->memory, "pbsa") : preset->pbsa;
    const int width = o->width ? o->width : 832, height = o->height ? o->height : 480, chunk = 3;
    const int window = o->window >= 0 ? o->window : preset->window, sink = o->sink >= 0 ? o->sink : preset->sink;
    const int patch = tae ? square_root(v[SC_S_PIXELS] / 3) : 1, scale = 8 / (patch > 1 ? 2 : 1) * (patch > 1 ? patch : 1);
    const int h = height / scale, w = width / scale;
    const int *steps = o->step_count ? o->steps : preset->steps;
    sc_part_files f = *files;
    page p = {out, 0};
    sc_config check;

    if (width % scale || height % scale) return sc_fail(err, SC_EINVAL, "--size %dx%d: not a multiple of %d, the decoder's pixels per latent row", width, height, scale);
    line(&p, "{\n  \"format\": \"sparsecast-1\",\n  \"name\": \"%s\",\n  \"fps\": %d,\n  \"chunk_frames\": %d,\n  \"latent_hw\": [%d, %d],\n", name, o->fps ? o->fps : 16, chunk, h, w);
    line(&p, "  \"dit\": {\n    \"dim\": %lld,\n    \"heads\": %d,\n    \"head_dim\": %lld,\n    \"ffn_dim\": %lld,\n    \"layers\": %d,\n", (long long)d[SC_S_DIM], parts->heads,
         (long long)d[SC_S_DIM] / parts->heads, (long long)d[SC_S_FFN], parts->dit->layers);
    line(&p, "    \"text_dim\": %lld,\n    \"text_len\": %d,\n    \"freq_dim\": %lld,\n    \"in_ch\": %lld,\n    \"out_ch\": %lld,\n    \"patch\": [%lld, %lld, %lld],\n", (long long)d[SC_S_TEXT],
         parts->text_len, (long long)d[SC_S_FREQ], (long long)d[SC_S_IN], (long long)(d[SC_S_OUT] / (d[SC_S_PATCH_H] * d[SC_S_PATCH_W])), (long long)d[SC_S_PATCH_T],
         (long long)d[SC_S_PATCH_H], (long long)d[SC_S_PATCH_W]);
    line(&p, "    \"eps\": 1e-06,\n    \"files\": ");
    file_list(&p, f.dit, f.dit_count);
    line(&p, "\n  },\n  \"t5\": {\n    \"vocab\": %lld,\n    \"dim\": %lld,\n    \"dim_attn\": %lld,\n    \"dim_ffn\": %lld,\n    \"heads\": %lld,\n    \"layers\": %d,\n", (long long)t[SC_S_VOCAB],
         (long long)t[SC_S_DIM], (long long)t[SC_S_ATTN], (long long)t[SC_S_FFN], (long long)t[SC_S_HEADS], parts->text->layers);
    line(&p, "    \"buckets\": %lld,\n    \"max_dist\": 128,\n    \"cleaning\": \"wan\",\n    \"files\": ", (long long)t[SC_S_BUCKETS]);
    file_list(&p, f.text, f.text_count);
    line(&p, ",\n    \"tokenizer\": \"spiece.model\"\n  },\n  \"decoder\": {\n    \"kind\": \"%s\",\n", tae ? "taehv" : "wan_vae");
    if (tae) line(&p, "    \"dec\": [%lld, %lld, %lld, %lld],\n", (long long)v[SC_S_DEC0], (long long)v[SC_S_DEC1], (long long)v[SC_S_DEC2], (long long)v[SC_S_DEC3]);
    else if (v[SC_S_WIDTH] != 96) line(&p, "    \"dim\": %lld,\n", (long long)v[SC_S_WIDTH]);
    line(&p, "    \"z\": %lld,\n    \"patch\": %d,\n    \"file\": \"%s\"\n  },\n", (long long)v[SC_S_Z], patch, f.decoder[0]);
    if (pbsa) {
        const int rows = h / (int)d[SC_S_PATCH_H], columns = w / (int)d[SC_S_PATCH_W];
        int tile[3];
        sc_config_tile(chunk, rows, columns, tile);
        line(&p, "  \"memory\": {\n    \"kind\": \"pbsa\",\n    \"tile\": [%d, %d, %d],\n    \"window_chunks\": %d,\n    \"persistent_blocks\": %d,\n    \"keep_ratio\": 0.25,\n    \"max_distance\": 18\n  },\n",
             chunk, tile[1], tile[2], preset->pbsa || o->window >= 0 ? (window + chunk - 1) / chunk : 3, rows / tile[1] * (columns / tile[2]));
    } else {
        line(&p, "  \"memory\": {\n    \"kind\": \"window\",\n    \"max_distance\": -1,\n    \"window_frames\": %d,\n    \"sink_frames\": %d\n  },\n", window, sink);
    }
    line(&p, "  \"sampler\": {\n    \"shift\": %.10g,\n    \"steps\": [", o->shift > 0 ? o->shift : preset->shift);
    for (int i = 0; i < (o->step_count ? o->step_count : preset->step_count); i++) line(&p, "%s%d", i ? ", " : "", steps[i]);
    line(&p, "],\n    \"sigma\": \"table\"\n  }\n}\n");
    if (p.n >= SC_CONFIG_TEXT) return sc_fail(err, SC_EINVAL, "config.json: longer than %d bytes", SC_CONFIG_TEXT);
    return sc_config_parse(&check, out, p.n, "config.json", err);
}

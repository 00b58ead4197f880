/* twin_transformer.c - the definition of the dense half of the transformer: matrices, norms, activations, patches.
 *
 * A matrix is kept as plain f32 [rows][cols] with its bias (zeroes where a part has none). Long dot products run in sixteen
 * partial sums added pairwise at the end: as plain as one sum, less rounding, and the compiler vectorises it. Thread: engine. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct sc_matrix {
    int rows, cols;
    float *w, *bias; /* [rows][cols], [rows] */
    bool fold;       /* both are somebody else's */
};

float sc_cpu_dot(const float *a, const float *b, int n) {
    float part[16] = {0}, sum = 0;
    int i = 0;

    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) part[j] += a[i + j] * b[i + j];
    for (; i < n; i++) sum += a[i] * b[i];
    for (int step = 8; step; step /= 2)
        for (int j = 0; j < step; j++) part[j] += part[j + step];
    return part[0] + sum;
}

static float gelu_tanh(float y) { return 0.5f * y * (1.0f + tanhf(0.7978845608028654f * (y + 0.044715f * y * y * y))); }

static float silu(float y) { return y / (1.0f + expf(-y)); }

/* ---- linear layers ------------------------------------------------------------------------------------------------------ */

sc_status sc_twin_matrix_create(sc_device *dev, sc_matrix **out, const sc_matrix_desc *d, sc_error *err) {
    sc_matrix *m = calloc(1, sizeof *m);
    int row = 0;

    *out = NULL;
    assert(d->parts >= 1 && d->parts <= SC_MAX_PARTS && d->cols >= 1);
    if (!m) return sc_fail(err, SC_ENOMEM, "matrix: out of memory");
    m->cols = d->cols;
    for (int p = 0; p < d->parts; p++) m->rows += d->rows[p];
    m->w = sc_cpu_aligned((size_t)m->rows * (size_t)m->cols * sizeof(float));
    m->bias = sc_cpu_aligned((size_t)m->rows * sizeof(float));
    if (!m->w || !m->bias) {
        sc_status rc = sc_fail(err, SC_ENOMEM, "matrix %d x %d: out of memory", m->rows, m->cols);
        sc_twin_matrix_destroy(dev, m);
        return rc;
    }
    memset(m->bias, 0, (size_t)m->rows * sizeof(float));
    for (int p = 0; p < d->parts; row += d->rows[p], p++) {
        sc_to_f32(m->w + (size_t)row * (size_t)m->cols, d->data[p], d->type[p], (size_t)d->rows[p] * (size_t)m->cols);
        if (d->bias[p]) sc_to_f32(m->bias + row, d->bias[p], d->bias_type[p], (size_t)d->rows[p]);
    }
    *out = m;
    return SC_OK;
}

void sc_twin_matrix_destroy(sc_device *dev, sc_matrix *m) {
    (void)dev;
    if (!m) return;
    if (!m->fold) {
        free(m->w);
        free(m->bias);
    }
    free(m);
}

int sc_twin_fold_stride(sc_device *dev, const sc_matrix *o, int heads, int n) {
    (void)dev;
    return sc_cpu_fold_stride(o->cols, heads, n);
}

sc_status sc_twin_fold_create(sc_device *dev, sc_matrix **out, const sc_matrix *o, void *memory, int cols, sc_error *err) {
    (void)dev;
    *out = calloc(1, sizeof **out);
    if (!*out) return sc_fail(err, SC_ENOMEM, "matrix: out of memory");
    **out = (sc_matrix){.rows = o->rows, .cols = cols, .w = memory, .bias = o->bias, .fold = true};
    return SC_OK;
}

sc_status sc_twin_fold(sc_device *dev, const sc_fold_args *a, sc_error *err) {
    const int dim = a->o->cols / a->heads;

    (void)dev, (void)err;
    assert(a->n >= 1 && a->n <= a->stride && a->out->cols == a->heads * a->stride);
    for (int r = 0; r < a->o->rows; r++)
        for (int h = 0; h < a->heads; h++)
            for (int j = 0; j < a->stride; j++)
                a->out->w[(size_t)r * (size_t)a->out->cols + (size_t)(h * a->stride + j)] = j >= a->n ? 0.0f :
                    sc_cpu_dot(a->o->w + (size_t)r * (size_t)a->o->cols + h * dim, (const float *)a->v + (size_t)j * (size_t)a->o->cols + h * dim, dim);
    return SC_OK;
}

/* Folded keys are only normed here: the definition goes by the queries. */
struct sc_query { const sc_matrix *q; };

sc_status sc_twin_query_create(sc_device *dev, sc_query **out, const sc_matrix *q, sc_error *err) {
    (void)dev;
    *out = calloc(1, sizeof **out);
    if (!*out) return sc_fail(err, SC_ENOMEM, "query: out of memory");
    (*out)->q = q;
    return SC_OK;
}

void sc_twin_query_destroy(sc_device *dev, sc_query *q) {
    (void)dev;
    free(q);
}

size_t sc_twin_query_bytes(sc_device *dev, const sc_query *q, int heads, int stride) {
    (void)dev, (void)heads;
    return (size_t)stride * (size_t)q->q->rows * sizeof(float);
}

sc_status sc_twin_query_keys(sc_device *dev, const sc_query_keys_args *a, sc_error *err) {
    const size_t width = (size_t)a->query->q->rows;

    (void)dev, (void)err;
    assert(a->n >= 1 && a->n <= a->stride && a->stride <= SC_FOLD_MAX && a->stride % 8 == 0);
    for (size_t i = 0; i < (size_t)a->n * width; i++) ((float *)a->keys)[i] = ((const float *)a->k)[i] * a->norm[i % width];
    return SC_OK;
}

sc_status sc_twin_query_weights(sc_device *dev, const sc_query_weights_args *a, sc_error *err) {
    const sc_matrix *w = a->query->q;
    const int dim = w->rows / a->heads;
    float *q = malloc((size_t)w->rows * sizeof *q);

    (void)dev;
    if (!q) return sc_fail(err, SC_ENOMEM, "query: out of memory");
    for (int t = 0; t < a->tokens; t++) {
        double square = 0;
        for (int r = 0; r < w->rows; r++) {
            q[r] = sc_cpu_dot((const float *)a->x + (size_t)t * (size_t)w->cols, w->w + (size_t)r * (size_t)w->cols, w->cols) + w->bias[r];
            square += (double)q[r] * q[r];
        }
        const float by = (float)(1 / sqrt(square / w->rows + a->eps)) / sqrtf((float)dim);
        for (int h = 0; h < a->heads; h++) {
            float *out = (float *)a->out + ((size_t)t * (size_t)a->heads + (size_t)h) * (size_t)a->stride;
            for (int j = 0; j < a->n; j++) out[j] = by * sc_cpu_dot(q + h * dim, (const float *)a->keys + (size_t)j * (size_t)w->rows + h * dim, dim);
            out[a->n - 1] += a->last_bias;
            sc_cpu_softmax(out, a->n);
            for (int j = a->n; j < a->stride; j++) out[j] = 0;
        }
    }
    free(q);
    return SC_OK;
}

sc_status sc_twin_linear(sc_device *dev, const sc_linear_args *a, sc_error *err) {
    const sc_matrix *w = a->w;
    const float *x = a->x;
    float *out = a->out;

    assert(a->out_type == SC_F32);
    assert(!a->then || (a->epilogue >= SC_EPI_RESIDUAL && a->then->x == out && a->then->m == a->m && a->then->dim == w->rows));
    for (int i = 0; i < a->m; i++) {
        const float *gate = a->gate ? a->gate + (size_t)(a->row_mod ? a->row_mod[i] : 0) * (size_t)a->gate_stride : NULL;
        for (int n = 0; n < w->rows; n++) {
            float y = sc_cpu_dot(x + (size_t)i * (size_t)w->cols, w->w + (size_t)n * (size_t)w->cols, w->cols) + w->bias[n];
            float *o = out + (size_t)i * (size_t)w->rows + n;
            switch (a->epilogue) {
            case SC_EPI_NONE: *o = y; break;
            case SC_EPI_GELU: *o = gelu_tanh(y); break;
            case SC_EPI_SILU: *o = silu(y); break;
            case SC_EPI_RESIDUAL: *o += y; break;
            case SC_EPI_GATED_RESIDUAL: *o += gate[n] * y; break;
            }
        }
    }
    return a->then ? sc_twin_layer_norm(dev, a->then, err) : SC_OK;
}

sc_status sc_twin_gather(sc_device *dev, float *out, const sc_matrix *table, const int32_t *rows_host, int n, sc_error *err) {
    (void)dev, (void)err;
    for (int i = 0; i < n; i++) {
        assert(rows_host[i] >= 0 && rows_host[i] < table->rows);
        memcpy(out + (size_t)i * (size_t)table->cols, table->w + (size_t)rows_host[i] * (size_t)table->cols, (size_t)table->cols * sizeof(float));
    }
    return SC_OK;
}

/* ---- norms -------------------------------------------------------------------------------------------------------------- */

sc_status sc_twin_layer_norm(sc_device *dev, const sc_layer_norm_args *a, sc_error *err) {
    (void)dev, (void)err;
    for (int i = 0; i < a->m; i++) {
        const float *x = a->x + (size_t)i * (size_t)a->dim;
        float *out = (float *)a->out + (size_t)i * (size_t)a->dim;
        size_t mod = (size_t)(a->row_mod ? a->row_mod[i] : 0) * (size_t)a->mod_stride;
        double sum = 0, square = 0;
        for (int c = 0; c < a->dim; c++) sum += x[c];
        double mean = sum / a->dim;
        for (int c = 0; c < a->dim; c++) square += (x[c] - mean) * (x[c] - mean);
        double scale = 1.0 / sqrt(square / a->dim + (double)a->eps);
        for (int c = 0; c < a->dim; c++) {
            float y = (float)((x[c] - mean) * scale);
            if (a->weight) y = y * a->weight[c] + (a->bias ? a->bias[c] : 0.0f);
            if (a->scale) y = y * (1.0f + a->scale[mod + (size_t)c]) + a->shift[mod + (size_t)c];
            out[c] = y;
        }
    }
    return SC_OK;
}

sc_status sc_twin_rms_norm(sc_device *dev, const sc_rms_norm_args *a, sc_error *err) {
    (void)dev, (void)err;
    assert(a->x_type == SC_F32 && a->out_type == SC_F32);
    for (int i = 0; i < a->m; i++) {
        const float *x = (const float *)a->x + (size_t)i * (size_t)a->ldx;
        float *out = (float *)a->out + (size_t)i * (size_t)a->dim;
        double square = 0;
        for (int c = 0; c < a->dim; c++) square += (double)x[c] * x[c];
        float scale = (float)(1.0 / sqrt(square / a->dim + (double)a->eps));
        for (int c = 0; c < a->dim; c++) out[c] = x[c] * scale * a->weight[c];
    }
    return SC_OK;
}

/* ---- elementwise -------------------------------------------------------------------------------------------------------- */

sc_status sc_twin_mul_gelu(sc_device *dev, void *out, const void *x, int m, int width, sc_error *err) {
    (void)dev, (void)err;
    for (int i = 0; i < m; i++) {
        const float *gate = (const float *)x + (size_t)i * 2 * (size_t)width, *up = gate + width;
        for (int c = 0; c < width; c++) ((float *)out)[(size_t)i * (size_t)width + (size_t)c] = up[c] * gelu_tanh(gate[c]);
    }
    return SC_OK;
}

sc_status sc_twin_convert(sc_device *dev, void *out_act, const float *x, size_t count, sc_error *err) {
    return sc_twin_copy(dev, out_act, x, count * sizeof(float), err);
}

sc_status sc_twin_silu(sc_device *dev, void *out_act, const float *x, size_t count, sc_error *err) {
    (void)dev, (void)err;
    for (size_t i = 0; i < count; i++) ((float *)out_act)[i] = silu(x[i]);
    return SC_OK;
}

sc_status sc_twin_add_rows(sc_device *dev, float *x, const float *table, const int32_t *row, int m, int dim, sc_error *err) {
    (void)dev, (void)err;
    for (int i = 0; i < m; i++)
        for (int c = 0; c < dim; c++) x[(size_t)i * (size_t)dim + (size_t)c] += table[(size_t)row[i] * (size_t)dim + (size_t)c];
    return SC_OK;
}

/* ---- patches ------------------------------------------------------------------------------------------------------------ */

/* Where channel c, patch row p, patch column q of the token at place `order` lies in latent [ch][frames][rows*ph][cols*pw]. */
static size_t latent_index(const sc_patch_args *a, int order, int c, int p, int q) {
    int col = order % a->cols, row = order / a->cols % a->rows, frame = order / a->cols / a->rows;
    return (((size_t)c * (size_t)a->frames + (size_t)frame) * (size_t)(a->rows * a->ph) + (size_t)(row * a->ph + p)) * (size_t)(a->cols * a->pw) +
           (size_t)(col * a->pw + q);
}

sc_status sc_twin_patchify(sc_device *dev, const sc_patch_args *a, sc_error *err) {
    const float *in = a->in;
    float *out = a->out;

    (void)dev, (void)err;
    for (int t = 0; t < a->frames * a->rows * a->cols; t++)
        for (int c = 0; c < a->ch; c++)
            for (int p = 0; p < a->ph; p++)
                for (int q = 0; q < a->pw; q++) *out++ = in[latent_index(a, a->order[t], c, p, q)];
    return SC_OK;
}

sc_status sc_twin_unpatchify(sc_device *dev, const sc_patch_args *a, sc_error *err) {
    const float *in = a->in;
    float *out = a->out;

    (void)dev, (void)err;
    for (int t = 0; t < a->frames * a->rows * a->cols; t++)
        for (int p = 0; p < a->ph; p++)
            for (int q = 0; q < a->pw; q++)
                for (int c = 0; c < a->ch; c++) out[latent_index(a, a->order[t], c, p, q)] = *in++;
    return SC_OK;
}

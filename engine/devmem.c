/* devmem.c - see devmem.h. */
#include "engine/devmem.h"

#include <stdio.h>
#include <stdlib.h>

sc_status sc_load_f32(sc_device *dev, const sc_tensors *set, const char *prefix, const char *name, int64_t count, float **out, sc_error *err) {
    char full[256];
    const sc_tensor *t;
    float *host;
    sc_status rc;

    *out = NULL;
    snprintf(full, sizeof full, "%s%s", prefix, name);
    if (!(t = sc_tensors_find(set, full))) return sc_tensors_need(set, full, 0, NULL, &t, err);
    if (t->count != count) return sc_fail(err, SC_EINVAL, "tensor %s: %lld elements where %lld are needed", full, (long long)t->count, (long long)count);
    if (!(host = sc_tensor_to_f32(t))) return sc_fail(err, SC_EINVAL, "tensor %s: not a float tensor, or no memory for it", full);
    rc = dev->ops->alloc(dev, (void **)out, (size_t)count * 4, err);
    if (!rc) rc = dev->ops->upload(dev, *out, host, (size_t)count * 4, err);
    free(host);
    if (!rc) sc_tensors_used(set, t, true);
    return rc;
}

sc_status sc_load_matrix(sc_device *dev, const sc_tensors *set, const char *prefix, const char *const *names, int parts, int rows, int cols,
                         bool bias, sc_matrix **out, sc_error *err) {
    sc_matrix_desc d = {.parts = parts, .cols = cols, .stays = true};
    const sc_tensor *used[2 * SC_MAX_PARTS];
    int used_count = 0;
    bool in_place = dev->in_place;
    sc_status rc;

    *out = NULL;
    for (int i = 0; i < parts; i++) {
        char full[256];
        const sc_tensor *w, *b;
        const int64_t ws[2] = {rows, cols}, bs[1] = {rows};

        snprintf(full, sizeof full, "%s%s.weight", prefix, names[i]);
        /* A patch embedding is stored as a convolution; only its element count must fit. */
        w = sc_tensors_find(set, full);
        if (!w || w->rank == 2) {
            if ((rc = sc_tensors_need(set, full, 2, ws, &w, err))) return rc;
        } else if (w->shape[0] != rows || w->count != (int64_t)rows * cols) {
            return sc_fail(err, SC_EINVAL, "tensor %s: shape does not give [%d][%d]", full, rows, cols);
        } else if (w->dtype != SC_F32 && w->dtype != SC_F16 && w->dtype != SC_BF16) {
            return sc_fail(err, SC_EINVAL, "tensor %s: not a float tensor, wanted F32, F16 or BF16", full);
        }
        d.rows[i] = rows;
        d.data[i] = w->data;
        d.type[i] = w->dtype;
        in_place = in_place && w->dtype == SC_BF16;
        used[used_count++] = w;
        if (!bias) continue;
        snprintf(full, sizeof full, "%s%s.bias", prefix, names[i]);
        if ((rc = sc_tensors_need(set, full, 1, bs, &b, err))) return rc;
        d.bias[i] = b->data;
        d.bias_type[i] = b->dtype;
        used[used_count++] = b;
    }
    if ((rc = dev->ops->matrix_create(dev, out, &d, err))) return rc;
    for (int i = 0; i < used_count; i++) sc_tensors_used(set, used[i], !in_place);
    return SC_OK;
}

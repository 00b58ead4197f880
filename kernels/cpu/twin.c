/* twin.c - the table of the twin: one readable definition of every operation, and the memory of a CPU device.
 *
 * The twin is what the fast CPU path and CUDA are compared with, so it is written in the order of the formulas: f32 data, f32
 * accumulation (double for the sums of norms and of softmax, where it costs nothing to be precise), one thread, no layout of its
 * own. Device memory is host memory; alloc hands out 64-byte aligned zeroes, the rest is memcpy.
 *
 * The fast table (cpu.c) borrows from here what is not worth a fast version. Both tables share sc_cpu_device. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *sc_cpu_aligned(size_t bytes) {
    if (bytes > SIZE_MAX - 63) return NULL;
    bytes = (bytes + 63) / 64 * 64;
    return aligned_alloc(64, bytes ? bytes : 64);
}

sc_status sc_twin_alloc(sc_device *dev, void **out, size_t bytes, sc_error *err) {
    (void)dev;
    *out = sc_cpu_aligned(bytes);
    if (!*out) return sc_fail(err, SC_ENOMEM, "out of host memory for %zu bytes", bytes);
    memset(*out, 0, bytes);
    return SC_OK;
}

void sc_twin_release(sc_device *dev, void *p) {
    (void)dev;
    free(p);
}

sc_status sc_twin_alloc_host(sc_device *dev, void **out, size_t bytes, sc_error *err) {
    (void)dev;
    *out = sc_cpu_aligned(bytes);
    return *out ? SC_OK : sc_fail(err, SC_ENOMEM, "out of host memory for %zu bytes", bytes);
}

sc_status sc_twin_upload(sc_device *dev, void *dst, const void *host, size_t bytes, sc_error *err) {
    (void)dev, (void)err;
    if (bytes) memcpy(dst, host, bytes);
    return SC_OK;
}

sc_status sc_twin_download(sc_device *dev, void *host, const void *src, size_t bytes, sc_error *err) {
    (void)dev, (void)err;
    if (bytes) memcpy(host, src, bytes);
    return SC_OK;
}

sc_status sc_twin_copy(sc_device *dev, void *dst, const void *src, size_t bytes, sc_error *err) {
    (void)dev, (void)err;
    if (bytes) memcpy(dst, src, bytes);
    return SC_OK;
}

sc_status sc_twin_sync(sc_device *dev, sc_error *err) {
    (void)dev, (void)err;
    return SC_OK;
}

sc_status sc_cpu_scratch(sc_device *dev, void **out, size_t bytes, sc_error *err) {
    sc_cpu_device *cpu = sc_cpu(dev);

    if (bytes > cpu->scratch_bytes) {
        void *grown = sc_cpu_aligned(bytes);
        if (!grown) return sc_fail(err, SC_ENOMEM, "out of host memory for %zu bytes of work memory", bytes);
        free(cpu->scratch);
        cpu->scratch = grown;
        cpu->scratch_bytes = bytes;
    }
    *out = cpu->scratch;
    return SC_OK;
}

void sc_twin_close(sc_device *dev) {
    if (!dev) return;
    sc_pool_destroy(sc_cpu(dev)->pool);
    free(sc_cpu(dev)->scratch);
    free(dev);
}

const sc_ops sc_twin_ops = {
    .alloc = sc_twin_alloc,
    .release = sc_twin_release,
    .alloc_host = sc_twin_alloc_host,
    .release_host = sc_twin_release,
    .upload = sc_twin_upload,
    .download = sc_twin_download,
    .copy = sc_twin_copy,
    .sync = sc_twin_sync,
    .matrix_create = sc_twin_matrix_create,
    .matrix_destroy = sc_twin_matrix_destroy,
    .fold_stride = sc_twin_fold_stride,
    .fold_create = sc_twin_fold_create,
    .query_create = sc_twin_query_create,
    .query_destroy = sc_twin_query_destroy,
    .query_bytes = sc_twin_query_bytes,
    .query_keys = sc_twin_query_keys,
    .query_weights = sc_twin_query_weights,
    .filter_create = sc_twin_filter_create,
    .filter_destroy = sc_twin_filter_destroy,
    .linear = sc_twin_linear,
    .layer_norm = sc_twin_layer_norm,
    .rms_norm = sc_twin_rms_norm,
    .qkv = sc_twin_qkv,
    .select = sc_twin_select,
    .attention = sc_twin_attention,
    .memory_update = sc_twin_memory_update,
    .cross_attention = sc_twin_cross_attention,
    .fold = sc_twin_fold,
    .text_attention = sc_twin_text_attention,
    .gather = sc_twin_gather,
    .mul_gelu = sc_twin_mul_gelu,
    .convert = sc_twin_convert,
    .silu = sc_twin_silu,
    .add_rows = sc_twin_add_rows,
    .patchify = sc_twin_patchify,
    .unpatchify = sc_twin_unpatchify,
    .noise = sc_twin_noise,
    .denoise = sc_twin_denoise,
    .finite = sc_twin_finite,
    .latent_in = sc_twin_latent_in,
    .conv = sc_twin_conv,
    .grow = sc_twin_grow,
    .pool = sc_twin_pool,
    .pixels = sc_twin_pixels,
    .close = sc_twin_close,
    .conv3 = sc_twin_conv3,
    .channel_norm = sc_twin_channel_norm,
    .frame_attention = sc_twin_frame_attention,
    .planes_in = sc_twin_planes_in,
};

sc_status sc_twin_open(sc_device **out, sc_error *err) {
    sc_cpu_device *cpu = calloc(1, sizeof *cpu);

    *out = NULL;
    if (!cpu) return sc_fail(err, SC_ENOMEM, "device twin: out of memory");
    cpu->base.ops = &sc_twin_ops;
    cpu->base.act = SC_F32;
    cpu->base.conv_deals = true;
    snprintf(cpu->base.name, sizeof cpu->base.name, "twin, 1 thread");
    *out = &cpu->base;
    return SC_OK;
}

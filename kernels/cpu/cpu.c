/* cpu.c - opens the fast CPU device: picks the instruction set, starts the threads, and holds the table.
 *
 * What moves a few bytes or runs once per prompt is the twin's; the rest is linear.c, norms.c, attention.c and, for the decoder
 * and the sampler, conv*.c, decoder*.c and sampler*.c. */
#include "kernels/cpu/linear.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const sc_isa_kernels *sc_isa_find(sc_isa isa) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (isa >= SC_ISA_AVX512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma"))
        return isa == SC_ISA_AVX512 || sc_amx_ready() ? &sc_kernels_avx512 : NULL;
    if (isa == SC_ISA_AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &sc_kernels_avx2;
#endif
    return isa == SC_ISA_PORTABLE ? &sc_kernels_portable : NULL;
}

/* From SC_CPU_ISA when it is set, else the best that there is. */
static sc_status choose_isa(const sc_isa_kernels **out, bool *amx, sc_error *err) {
    static const char *const names[] = {[SC_ISA_PORTABLE] = "portable", [SC_ISA_AVX2] = "avx2", [SC_ISA_AVX512] = "avx512", [SC_ISA_AMX] = "amx"};
    const char *want = getenv("SC_CPU_ISA");

    for (int isa = SC_ISA_AMX; isa >= SC_ISA_PORTABLE; isa--) {
        if (want && *want && strcmp(want, names[isa])) continue;
        *out = sc_isa_find((sc_isa)isa);
        *amx = isa == SC_ISA_AMX;
        if (*out) return SC_OK;
        if (want && *want) return sc_fail(err, SC_EINVAL, "SC_CPU_ISA=%s: this processor or build lacks it", want);
    }
    return sc_fail(err, SC_EINVAL, "SC_CPU_ISA=%s: not one of amx, avx512, avx2, portable", want);
}

/* The processor's name as the kernel tells it. */
static void processor_name(char *out, size_t size) {
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];

    snprintf(out, size, "CPU");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(out, size, "%s", colon[1] == ' ' ? colon + 2 : colon + 1);
        break;
    }
    if (f) fclose(f);
}

static const sc_ops fast_ops = {
    .alloc = sc_twin_alloc,
    .release = sc_twin_release,
    .alloc_host = sc_twin_alloc_host,
    .release_host = sc_twin_release,
    .upload = sc_twin_upload,
    .download = sc_twin_download,
    .copy = sc_twin_copy,
    .sync = sc_twin_sync,
    .matrix_create = sc_fast_matrix_create,
    .matrix_destroy = sc_fast_matrix_destroy,
    .fold_stride = sc_fast_fold_stride,
    .fold_create = sc_fast_fold_create,
    .filter_create = sc_fast_filter_create,
    .filter_destroy = sc_fast_filter_destroy,
    .linear = sc_fast_linear,
    .layer_norm = sc_fast_layer_norm,
    .rms_norm = sc_fast_rms_norm,
    .qkv = sc_fast_qkv,
    .select = sc_fast_select,
    .attention = sc_fast_attention,
    .memory_update = sc_twin_memory_update,
    .cross_attention = sc_fast_cross_attention,
    .fold = sc_fast_fold,
    .text_attention = sc_fast_text_attention,
    .gather = sc_fast_gather,
    .mul_gelu = sc_fast_mul_gelu,
    .convert = sc_twin_convert,
    .silu = sc_fast_silu,
    .add_rows = sc_twin_add_rows,
    .patchify = sc_twin_patchify,
    .unpatchify = sc_twin_unpatchify,
    .noise = sc_fast_noise,
    .denoise = sc_fast_denoise,
    .finite = sc_twin_finite,
    .latent_in = sc_fast_latent_in,
    .conv = sc_fast_conv,
    .grow = sc_fast_grow,
    .pool = sc_fast_pool,
    .pixels = sc_fast_pixels,
    .close = sc_twin_close,
    .conv3 = sc_fast_conv3,
    .channel_norm = sc_fast_channel_norm,
    .frame_attention = sc_fast_frame_attention,
    .planes_in = sc_fast_planes_in,
};

sc_status sc_cpu_open(sc_device **out, int threads, sc_error *err) {
    const sc_isa_kernels *kern = NULL;
    sc_cpu_device *cpu;
    char name[80];
    bool amx = false;
    sc_status rc = choose_isa(&kern, &amx, err);

    *out = NULL;
    if (rc) return rc;
    cpu = calloc(1, sizeof *cpu);
    if (!cpu) return sc_fail(err, SC_ENOMEM, "device cpu: out of memory");
    cpu->base.ops = &fast_ops;
    cpu->base.act = SC_F32;
    cpu->base.in_place = true;
    cpu->isa = kern->isa;
    cpu->amx = amx;
    cpu->kern = kern;
    cpu->pool = sc_pool_create(threads);
    if (!cpu->pool) {
        free(cpu);
        return sc_fail(err, SC_ENOMEM, "device cpu: no memory for %d threads", threads);
    }
    processor_name(name, sizeof name);
    snprintf(cpu->base.name, sizeof cpu->base.name, "%s, %d thread%s, %s%s", name, sc_pool_threads(cpu->pool), sc_pool_threads(cpu->pool) == 1 ? "" : "s",
             kern->name, amx ? " amx" : "");
    *out = &cpu->base;
    return SC_OK;
}

/* check.c - `sparsecast check MODEL --device D`: before loading, what memory the model takes, how many sessions fit, how fast it may be.
 *
 * Memory follows from the model (plan.h). Speed is the counted work over a rate: on the CPU that of a short product, timed here; on a GPU
 * a share of what its maker states for dense 16-bit products, told by its name. Attention, the decoder and small products do not reach the rate of
 * large ones; the shares below say how much of it they were seen to reach. An estimate, printed as one: `bench` measures.
 * The CUDA driver is asked by dlopen, so that a build without CUDA can answer for the card in its machine. */
#include "base/clock.h"
#include "cli/cli.h"
#include "cli/plan.h"
#include "kernels/ops.h"
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    char name[160];
    double memory;       /* bytes that a model may take */
    double rate;         /* floating point operations a second of a large product */
    double attention, decoder; /* the share of it that they reach */
} machine;

/* ---- CPU -------------------------------------------------------------------------------------------------------------------- */

/* Operations a second of a product like the transformer's, run until a fifth of a second has passed. */
static sc_status probe(sc_device *dev, double *rate, sc_error *err) {
    enum { M = 480, K = 1024, N = 1024 };
    float *w = malloc(sizeof *w * K * N), *x = NULL, *y = NULL;
    sc_matrix *matrix = NULL;
    uint64_t start, spent = 0;
    int runs = 0;
    sc_status rc;

    if (!w) return sc_fail(err, SC_ENOMEM, "check: out of memory");
    for (int i = 0; i < K * N; i++) w[i] = (float)(i % 17 - 8) / 64;
    if ((rc = dev->ops->matrix_create(dev, &matrix, &(sc_matrix_desc){.parts = 1, .cols = K, .rows = {N}, .data = {w}, .type = {SC_F32}}, err))) goto cleanup;
    if ((rc = dev->ops->alloc(dev, (void **)&x, sizeof *x * M * K, err)) || (rc = dev->ops->alloc(dev, (void **)&y, sizeof *y * M * N, err))) goto cleanup;
    for (int i = -1; i < 200 && spent < 200000000; i++) { /* the first run warms up */
        start = sc_now_ns();
        if ((rc = dev->ops->linear(dev, &(sc_linear_args){.w = matrix, .x = x, .out = y, .out_type = SC_F32, .m = M}, err))) goto cleanup;
        if (i < 0) continue;
        spent += sc_now_ns() - start;
        runs++;
    }
    *rate = 2.0 * M * K * N * runs / ((double)spent * 1e-9);
cleanup:
    free(w);
    if (matrix) dev->ops->matrix_destroy(dev, matrix);
    dev->ops->release(dev, x);
    dev->ops->release(dev, y);
    return rc;
}

static double available_memory(void) {
    FILE *f = fopen("/proc/meminfo", "r");
    char line[128];
    double kb = 0;

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %lf", &kb) == 1) break;
    if (f) fclose(f);
    return kb > 0 ? kb * 1024 : (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
}

static sc_status look_at_cpu(machine *m, const sc_cli *cli, sc_error *err) {
    sc_device *dev;
    sc_status rc = sc_device_open(&dev, cli->device, cli->threads, SC_F32, err);

    if (rc) return rc;
    snprintf(m->name, sizeof m->name, "%s", dev->name);
    m->memory = available_memory();
    m->attention = 0.7;
    m->decoder = 2; /* Winograd leaves out three of four products */
    rc = probe(dev, &m->rate, err);
    sc_device_close(dev);
    return rc;
}

/* ---- GPU -------------------------------------------------------------------------------------------------------------------- */

/* Dense bf16 operations a second as the makers state them; the longer name first. */
static const struct { const char *word; double tflops; } cards[] = {
    {"GB200", 2500}, {"B200", 2250}, {"H200", 989}, {"H100 PCIe", 756}, {"H100 NVL", 835}, {"H100", 989}, {"H20", 148}, {"A100", 312}, {"A10", 125},
    {"L40S", 362}, {"L40", 181}, {"L4", 121}, {"RTX PRO 6000", 504}, {"RTX 6000 Ada", 364}, {"RTX 5090", 210}, {"RTX 5080", 113}, {"RTX 4090", 165},
    {"RTX 4080", 98}, {"RTX 3090", 71}, {"A6000", 155},
};

static sc_status look_at_cuda(machine *m, sc_error *err) {
    void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    int (*init)(unsigned), (*get)(int *, int), (*name)(char *, int, int), (*total)(size_t *, int);
    size_t bytes = 0;
    int device = 0;
    sc_status rc = SC_OK;

    if (!lib) return sc_fail(err, SC_EGPU, "device cuda: no CUDA driver on this machine");
    *(void **)&init = dlsym(lib, "cuInit");
    *(void **)&get = dlsym(lib, "cuDeviceGet");
    *(void **)&name = dlsym(lib, "cuDeviceGetName");
    *(void **)&total = dlsym(lib, "cuDeviceTotalMem_v2");
    if (!init || !get || !name || !total || init(0) || get(&device, 0) || name(m->name, sizeof m->name, device) || total(&bytes, device)) {
        rc = sc_fail(err, SC_EGPU, "device cuda: the driver finds no card");
        goto cleanup;
    }
    m->memory = (double)bytes - 1.8e9; /* context, libraries, and the workspaces of three queues */
    m->attention = 0.9;
    m->decoder = 0.5;
    m->rate = 0;
    for (size_t i = 0; i < sizeof cards / sizeof *cards && !(m->rate > 0); i++)
        if (strstr(m->name, cards[i].word)) m->rate = 0.55e12 * cards[i].tflops;
cleanup:
    dlclose(lib);
    return rc;
}

/* ---- the command ------------------------------------------------------------------------------------------------------------ */

static const char *size_text(char out[32], double bytes) {
    snprintf(out, 32, bytes >= 1e9 ? "%.2f GB" : bytes >= 1e6 ? "%.1f MB" : "%.1f KB", bytes / (bytes >= 1e9 ? 1e9 : bytes >= 1e6 ? 1e6 : 1e3));
    return out;
}

int sc_cmd_check(const sc_cli *cli) {
    sc_plan_model *model = calloc(1, sizeof *model);
    const bool cpu = strcmp(cli->device, "cuda") != 0;
    machine m = {0};
    sc_plan p;
    sc_error err = {0};
    char a[32], b[32], d[32], memory[160];
    int rc = 0;

    if (!model) { sc_fail(&err, SC_ENOMEM, "check: out of memory"); return sc_cli_cannot_open(&err); }
    if (sc_plan_open(model, cli->arg[0], &err) || sc_config_memory(&model->config, cli->memory, cli->arg[0], &err) ||
        sc_plan_make(&p, model, cpu, cli->sessions < 8 ? cli->sessions : 8, &err)) { rc = sc_cli_cannot_open(&err); goto cleanup; }
    if (cpu ? look_at_cpu(&m, cli, &err) : look_at_cuda(&m, &err)) { rc = sc_cli_cannot_open(&err); goto cleanup; }

    const sc_config *c = &model->config;
    const double shared = p.weights + p.work, each = p.session + p.pictures + p.prompt, room = m.memory - shared;
    const double seconds = (p.linear + p.attention / m.attention + p.decoder / m.decoder) / m.rate;
    const int fit = room < each ? 0 : room / each > 256 ? 256 : (int)(room / each);
    printf("%s on %s\n", cli->arg[0], m.name);
    printf("  weights     %s\n", size_text(a, p.weights));
    printf("  work        %s, shared by %d session%s\n", size_text(a, p.work), cli->sessions, cli->sessions == 1 ? "" : "s");
    sc_config_memory_text(c, memory, sizeof memory);
    printf("  remembers   %s\n", memory);
    printf("  a session   %s, its pictures %s more, a prompt up to %s\n", size_text(a, p.session), size_text(b, p.pictures), size_text(d, p.prompt));
    printf("  memory      %s can be had, %d session%s fit\n", size_text(a, m.memory), fit, fit == 1 ? "" : "s");
    printf("  a chunk     %.3g TFLOP: products %.3g, attention %.3g, decoder %.3g; %d frames\n", (p.linear + p.attention + p.decoder) / 1e12, p.linear / 1e12,
           p.attention / 1e12, p.decoder / 1e12, p.frames);
    if (m.rate > 0)
        printf("  speed       about %.3g s a chunk at %.3g TFLOP/s: %.3g frames/s, %s %d frames/s of playback (an estimate; sparsecast bench measures)\n", seconds, m.rate / 1e12,
               p.frames / seconds, p.frames / seconds >= c->fps ? "enough for" : "less than the", c->fps);
    else printf("  speed       not known for this card; sparsecast bench measures it\n");
    if (!fit) {
        printf("  does not fit: %s are needed for one session\n", size_text(a, shared + each));
        rc = SC_EXIT_CHECK;
    }
cleanup:
    sc_plan_close(model);
    free(model);
    return rc;
}

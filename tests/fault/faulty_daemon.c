/* faulty_daemon.c - sparsecastd with a device that fails: its own main and server, linked with --wrap=sc_device_open.
 *
 * SC_FAULT in the environment says what fails, as words:
 *     op=NAME nth=N times=N what=gpu|lost|hang [slow=MS] [seed=N] [arm=usr1] [on=KIND] [late=MS]
 * See faulty_device.h. seed: of the calls of `noise`, those of the session with this seed; arm=usr1: nothing fails before SIGUSR1; on: only a device
 * of this kind ("twin") fails; late: it runs behind its calls, as a GPU does.
 * "--device cuda" gives the CPU's table under that name, so that the daemon batches sessions and watches for calls that hang. */
#include "tests/fault/faulty_device.h"

#include <signal.h>
#include <stdlib.h>

sc_status __real_sc_device_open(sc_device **out, const char *kind, int threads, sc_dtype act, sc_error *err);
sc_status __wrap_sc_device_open(sc_device **out, const char *kind, int threads, sc_dtype act, sc_error *err);

static uint64_t seed, late_ms;
static char only[16]; /* the kind of device that fails; "": any */

static bool of_seed(void *ctx, const char *op, const void *what) {
    (void)ctx;
    return !strcmp(op, "noise") && ((const sc_noise_args *)what)->seed == seed;
}

static void on_signal(int signal) {
    (void)signal;
    sc_faulty_arm();
}

static void wrong(const char *word) {
    fprintf(stderr, "SC_FAULT: what is \"%s\"?\n", word);
    _Exit(2);
}

static void plan(void) {
    static char words[256];
    sc_fault f = {.nth = 1, .times = 1, .status = SC_EGPU};
    bool armed = true;

    snprintf(words, sizeof words, "%s", getenv("SC_FAULT") ? getenv("SC_FAULT") : "nth=0 times=0");
    for (char *w = strtok(words, " "); w; w = strtok(NULL, " ")) {
        if (!strncmp(w, "op=", 3)) f.op = w + 3;
        else if (!strncmp(w, "nth=", 4)) f.nth = atol(w + 4);
        else if (!strncmp(w, "times=", 6)) f.times = atol(w + 6);
        else if (!strcmp(w, "what=gpu")) f.status = SC_EGPU;
        else if (!strcmp(w, "what=lost")) f.status = SC_ELOST;
        else if (!strcmp(w, "what=hang")) f.hang = true;
        else if (!strcmp(w, "arm=usr1")) armed = false;
        else if (!strncmp(w, "slow=", 5)) f.slow_ms = (unsigned)atoi(w + 5);
        else if (!strncmp(w, "on=", 3)) snprintf(only, sizeof only, "%s", w + 3);
        else if (!strncmp(w, "late=", 5)) late_ms = strtoull(w + 5, NULL, 10);
        else if (!strncmp(w, "seed=", 5)) {
            seed = strtoull(w + 5, NULL, 10);
            f.counts = of_seed;
        } else wrong(w);
    }
    signal(SIGUSR1, on_signal);
    sc_faulty_plan(&f, armed);
}

sc_status __wrap_sc_device_open(sc_device **out, const char *kind, int threads, sc_dtype act, sc_error *err) {
    sc_status rc = __real_sc_device_open(out, strcmp(kind, "cuda") ? kind : "cpu", threads, act, err);
    if (rc) return rc;
    plan();
    if (*only && strcmp(kind, only)) return SC_OK;
    sc_faulty_wrap(*out);
    if (late_ms) sc_faulty_run_behind(late_ms * 1000000u);
    return SC_OK;
}

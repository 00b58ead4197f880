/* main.c - sparsecastd: configuration, start, signals, end, and what happens when the device is lost.
 *
 *     start   listeners -> hub, access -> stream, http made -> hub listens -> encoder, engine, stream, http, router run
 *     run     the main thread sleeps on signals and on word from the engine thread
 *     end     engine first (sessions are saved where there is a state directory, and end: viewers get 1001, whoever waits gets an answer), then stream, router,
 *             http, encoder, maker of clips
 *
 *     fault the device is lost, or a call into it does not come back: not ready, viewers get 1012, requests 503, and the process ends within
 *           FAULT_MS whatever any thread does: the device is not touched again, for its driver may hang, and nothing is waited for longer.
 *
 * The port is open at once; /readyz says "loading" until the model is there. Exit status: 0 after SIGTERM or SIGINT, 78 for a configuration,
 * model or device that cannot work (systemd does not try again), 70 for a device fault, 69 when the address is taken, 71 for what else the
 * machine refuses. */
#include "base/clock.h"
#include "base/log.h"
#include "base/progress.h"
#include "server/access.h"
#include "server/config.h"
#include "server/http.h"
#include "server/hub.h"
#include "server/jpeg.h"
#include "server/listen.h"
#include "server/router.h"
#include "server/scheduler.h"
#include "server/stream.h"
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

enum { EXIT_FAULT = 70, EXIT_ADDRESS = 69, EXIT_MACHINE = 71, EXIT_CONFIG = 78 };
enum { DRAIN_MS = 3000, FAULT_MS = 2000, FAULT_VIEWERS_MS = 1000, FAULT_ANSWERS_MS = 200, DESCRIPTORS = 8192 };
static const uint64_t VIDEOS_ON_DISK = 1u << 30, VIDEOS_IN_MEMORY = 1u << 28; /* bytes of all clips together */
#ifndef SC_HANG_MS
#define SC_HANG_MS 30000 /* a call into the GPU that takes longer, and 20 times longer than any before, has hung */
#endif

struct daemon {
    sc_server_config config;
    sc_listeners listeners;
    sc_hub *hub;
    sc_access *access;
    sc_stream *stream;
    sc_http *http;
    sc_encoder *encoder;
    sc_videos *videos;
    sc_video_maker *maker;
    sc_scheduler *scheduler;
    sc_router *router;
    char model_dir[PATH_MAX];
    int news;                    /* eventfd: the engine thread has something to say */
    atomic_bool ready, failed;
    sc_error failure;            /* written before `failed` is set */
    uint64_t watchdog_ns, watched_ns; /* watched_ns: engine thread */
    sc_progress progress;             /* engine thread, while the model loads */
};

/* ---- what the engine thread says ---- */

static void tell_main(struct daemon *d) {
    const uint64_t one = 1;
    if (write(d->news, &one, sizeof one) < 0) sc_log(SC_LOG_ERROR, "main", "eventfd: %s", strerror(errno));
}

/* systemd sees how far it has come, and does not take a large checkpoint on a slow disk for a hung start. */
static void on_progress(void *ctx, const char *what, size_t done, size_t all) {
    struct daemon *d = ctx;
    sc_progress_step(&d->progress, what, done, all);
    if (d->progress.fresh)
        sd_notifyf(0, "STATUS=loading the %s: %d %% (%.1f of %.1f GB)\nEXTEND_TIMEOUT_USEC=60000000", done < all ? what : "model", d->progress.percent,
                   (double)done * 1e-9, (double)all * 1e-9);
}

static void on_ready(void *ctx) {
    struct daemon *d = ctx;
    sc_progress_end(&d->progress);
    atomic_store(&d->ready, true);
    tell_main(d);
}

static void end_now(int signal) {
    (void)signal;
    _exit(EXIT_FAULT);
}

/* From here on the process lives FAULT_MS at most, even if every thread hangs. */
static void limit_life(void) {
    static const struct itimerval once = {.it_value = {FAULT_MS / 1000, FAULT_MS % 1000 * 1000}};
    signal(SIGALRM, end_now);
    setitimer(ITIMER_REAL, &once, NULL);
}

static void on_failed(void *ctx, const sc_error *err) {
    struct daemon *d = ctx;
    if (err->status == SC_ELOST) limit_life();
    sc_progress_end(&d->progress);
    d->failure = *err;
    atomic_store(&d->failed, true);
    tell_main(d);
}

/* systemd's watchdog is fed by the engine's own progress: a thread that hangs in the device is a daemon that hangs. */
static void on_alive(void *ctx) {
    struct daemon *d = ctx;
    uint64_t now = sc_now_ns();
    if (!d->watchdog_ns || now - d->watched_ns < d->watchdog_ns / 4) return;
    d->watched_ns = now;
    sd_notify(0, "WATCHDOG=1");
}

/* ---- wiring ---- */

static void viewers_changed(void *ctx) { sc_scheduler_wake(((struct daemon *)ctx)->scheduler); }
static void video_room(void *ctx) { sc_scheduler_wake(((struct daemon *)ctx)->scheduler); }
static int to_http(void *ctx, int fd, const struct sockaddr *addr, socklen_t n) { return sc_http_offer(((struct daemon *)ctx)->http, fd, addr, n); }
static int to_stream(void *ctx, int fd, const sc_route *route) { return sc_stream_offer(((struct daemon *)ctx)->stream, fd, route); }

/* From here; else beside the executable, above it (a build folder), or where an installation puts it. */
static void find_model(struct daemon *d) {
    static const char *const places[] = {"", "/..", "/../..", "/../share/sparsecast"};
    char exe[PATH_MAX] = "", path[PATH_MAX + 64];
    struct stat st;
    snprintf(d->model_dir, sizeof d->model_dir, "%s", d->config.model);
    if (d->config.model[0] == '/' || !stat(d->config.model, &st)) return;
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0) return;
    const char *dir = dirname(exe);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int k = snprintf(path, sizeof path, "%s%s/%s", dir, places[i], d->config.model);
        if (k >= (int)sizeof d->model_dir || stat(path, &st)) continue;
        memcpy(d->model_dir, path, (size_t)k + 1);
        return;
    }
}

static int64_t model_created(const struct daemon *d) {
    char path[PATH_MAX + 16];
    struct stat st;
    snprintf(path, sizeof path, "%s/config.json", d->model_dir);
    return stat(path, &st) ? 0 : (int64_t)st.st_mtime;
}

/* As it was given, else systemd's first; false: there is none. */
static bool find_state(const struct daemon *d, char out[PATH_MAX]) {
    const char *given = d->config.state_dir, *systemd = getenv("STATE_DIRECTORY");
    if (given[0]) snprintf(out, PATH_MAX, "%s", given);
    else snprintf(out, PATH_MAX, "%.*s", systemd ? (int)strcspn(systemd, ":") : 0, systemd ? systemd : "");
    return out[0];
}

static void set_log_level(const char *word) {
    static const char *const words[] = {"error", "warn", "info", "debug"};
    for (int i = 0; i < 4; i++) if (!strcmp(word, words[i])) sc_log_set_level((sc_log_level)i);
}

/* Viewers, requests and waiting sockets each hold a descriptor; shells often allow 1024. */
static void raise_descriptors(void) {
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) || l.rlim_cur >= DESCRIPTORS) return;
    l.rlim_cur = l.rlim_max < DESCRIPTORS ? l.rlim_max : DESCRIPTORS;
    if (setrlimit(RLIMIT_NOFILE, &l)) sc_log(SC_LOG_WARN, "main", "RLIMIT_NOFILE: %s", strerror(errno));
}

static sc_status start(struct daemon *d, sc_error *err) {
    const sc_server_config *c = &d->config;
    char state_dir[PATH_MAX];
    const bool state = find_state(d, state_dir);
    sc_status rc;

    if ((rc = sc_listeners_open(&d->listeners, c, err))) return rc;
    if ((d->news = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) return sc_fail(err, SC_EIO, "eventfd: %s", strerror(errno));
    if (!(d->hub = sc_hub_create()) || !(d->access = sc_access_create(c))) return sc_fail(err, SC_ENOMEM, "out of memory");
    sc_access_port(d->access, d->listeners.port);
    if ((rc = sc_videos_create(&d->videos, state ? state_dir : NULL, state ? VIDEOS_ON_DISK : VIDEOS_IN_MEMORY, err))) return rc;
    if ((rc = sc_stream_create(&d->stream, &(sc_stream_options){.hub = d->hub, .max_viewers = c->max_viewers}, err))) return rc;
    if ((rc = sc_http_create(&d->http, &(sc_http_options){.hub = d->hub, .access = d->access, .videos = d->videos, .max_viewers = c->max_viewers,
                                                          .jpeg_quality = c->jpeg_quality, .model_created = model_created(d)}, err))) return rc;
    sc_hub_listen(d->hub, &(sc_hub_listener){.ctx = d->stream, .frames = sc_stream_frames, .say = sc_stream_say, .closed = sc_stream_closed,
                                             .engine_ctx = d, .viewers = viewers_changed,
                                             .http_ctx = d->http, .released = sc_http_released, .shown = sc_http_shown, .logged = sc_http_logged});
    if ((rc = sc_encoder_start(&d->encoder, d->hub, err))) return rc;
    if ((rc = sc_video_maker_start(&d->maker, d->videos, video_room, d, err))) return rc;
    sc_progress_begin(&d->progress);
    sc_scheduler_options o = {.engine = {.model_dir = d->model_dir, .device = c->device, .threads = c->threads, .max_sessions = c->max_sessions,
                                         .memory = strcmp(c->memory, "model") ? c->memory : NULL,
                                         .text_device = strcmp(c->text_device, "model") ? c->text_device : NULL, .progress = on_progress, .progress_ctx = d},
                              .jpeg_quality = c->jpeg_quality, .idle_timeout_s = c->idle_timeout_s,
                              .state_dir = state ? state_dir : NULL, .videos = d->videos, .maker = d->maker, .ctx = d, .ready = on_ready,
                              .failed = on_failed, .alive = on_alive};
    if ((rc = sc_scheduler_start(&d->scheduler, &o, d->hub, d->encoder, err))) return rc;
    if ((rc = sc_stream_start(d->stream, d->scheduler, err))) return rc;
    if ((rc = sc_http_start(d->http, d->scheduler, err))) return rc;
    return sc_router_start(&d->router, &(sc_router_options){.access = d->access, .listeners = &d->listeners, .ctx = d, .http = to_http,
                                                            .stream = to_stream}, err);
}

static void stop(struct daemon *d, int code, const char *reason, int drain_ms) {
    sc_scheduler_stop(d->scheduler, code, reason);
    sc_stream_stop(d->stream, code, drain_ms);
    sc_router_stop(d->router);
    sc_listeners_close(&d->listeners);
    sc_http_stop(d->http);
    sc_encoder_stop(d->encoder);
    sc_video_maker_stop(d->maker);
    sc_scheduler_free(d->scheduler);
    sc_stream_free(d->stream);
    sc_http_free(d->http);
    sc_videos_destroy(d->videos);
    sc_hub_destroy(d->hub);
    sc_access_destroy(d->access);
    if (d->news >= 0) close(d->news);
    sc_server_config_free(&d->config);
}

/* Sleep until it is time to go; the exit status. */
static int run(struct daemon *d, int signals) {
    bool told = false;
    for (;;) {
        struct pollfd fds[] = {{.fd = signals, .events = POLLIN}, {.fd = d->news, .events = POLLIN}};
        struct signalfd_siginfo info;
        uint64_t ignored;
        if (poll(fds, 2, 1000) < 0 && errno != EINTR) return EXIT_MACHINE;
        sc_http_tick(d->http);
        if (read(d->news, &ignored, sizeof ignored) > 0 && atomic_load(&d->failed)) {
            if (!told) fprintf(stderr, "sparsecastd: %s\n", d->failure.text);
            if (!told && d->failure.status != SC_ELOST) return EXIT_CONFIG;
            sd_notifyf(0, "STATUS=device fault: %s\nSTOPPING=1", d->failure.text);
            return EXIT_FAULT;
        }
        uint64_t hangs_ns = !strcmp(d->config.device, "cuda") ? sc_scheduler_hangs_ns(d->scheduler, SC_HANG_MS * 1000000ull) : 0;
        if (hangs_ns) {
            char why[64];
            limit_life();
            snprintf(why, sizeof why, "a call has not come back for %.1f s", (double)hangs_ns * 1e-9);
            sc_scheduler_fault(d->scheduler, why);
            sd_notifyf(0, "STATUS=device fault: %s\nSTOPPING=1", why);
            return EXIT_FAULT;
        }
        if (!told && atomic_load(&d->ready)) {
            told = true;
            sd_notify(0, "READY=1\nSTATUS=ready");
            sc_log(SC_LOG_INFO, "main", "ready url=%s", d->listeners.url);
        }
        if (read(signals, &info, sizeof info) == (ssize_t)sizeof info) {
            sc_log(SC_LOG_INFO, "main", "%s, draining", strsignal((int)info.ssi_signo));
            return 0;
        }
    }
}

int main(int argc, char **argv) {
    static struct daemon d = {.news = -1};
    sc_error err = {0};
    sigset_t set;
    uint64_t watchdog_us = 0;
    int code = 0;

    sc_status rc = sc_server_config_init(&d.config, &err);
    if (!rc) rc = sc_server_config_args(&d.config, argc, argv, &err);
    if (!rc && (d.config.help || d.config.version)) {
        if (d.config.help) sc_server_config_help(stdout);
        else printf("sparsecastd " SC_VERSION "\n");
        sc_server_config_free(&d.config);
        return 0;
    }
    if (!rc) rc = sc_server_config_check(&d.config, &err);
    if (rc) {
        fprintf(stderr, "sparsecastd: %s\n", err.text);
        sc_server_config_free(&d.config);
        return EXIT_CONFIG;
    }
    set_log_level(d.config.log_level);
    find_model(&d);
    raise_descriptors();
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL); /* before any thread: all of them inherit it */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit on files is a full disk to us */
    int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (sd_watchdog_enabled(0, &watchdog_us) > 0) d.watchdog_ns = watchdog_us * 1000;

    if (signals < 0) rc = sc_fail(&err, SC_EIO, "signalfd: %s", strerror(errno));
    if (!rc) {
        sd_notify(0, "STATUS=loading the model");
        rc = start(&d, &err);
    }
    if (rc) {
        fprintf(stderr, "sparsecastd: %s\n", err.text);
        code = rc == SC_EINVAL ? EXIT_CONFIG : rc == SC_EBUSY ? EXIT_ADDRESS : EXIT_MACHINE;
    } else {
        if (d.listeners.url[0]) printf("sparsecastd: open %s in a browser\n", d.listeners.url);
        if (d.config.unix_path[0]) printf("sparsecastd: serving %s\n", d.config.unix_path);
        fflush(stdout);
        code = run(&d, signals);
    }
    if (code == EXIT_FAULT) {
        sc_stream_stop(d.stream, 1012, FAULT_VIEWERS_MS);
        usleep(FAULT_ANSWERS_MS * 1000); /* answers of requests that waited are on their way */
        sc_log(SC_LOG_ERROR, "main", "device fault, exit status %d", EXIT_FAULT);
        _exit(EXIT_FAULT);
    }
    sd_notify(0, "STOPPING=1\nSTATUS=draining");
    if (signals >= 0) { /* a second signal means at once */
        sigprocmask(SIG_UNBLOCK, &set, NULL);
        close(signals);
    }
    stop(&d, 1001, "shutting down", DRAIN_MS);
    sc_log(SC_LOG_INFO, "main", "stopped, exit status %d", code);
    return code;
}

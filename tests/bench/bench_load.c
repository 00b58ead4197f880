/* bench_load.c - how fast a model of real size opens, what of the host's memory it keeps, and how long prompts and the first frame take.
 *
 *     bench_load [--shape wan-1.3b | --model DIR] [--device cpu] [--text-device D] [--words N]...
 *
 * A shape's random model (cli/random_model.h) is written to a temporary folder ($TMPDIR) and removed in the end, so its files are in the
 * page cache. The yardstick, in the same run: one thread reading all of the files' bytes through a mapping into a buffer of 1 MiB. The ratio is
 * the open's bytes a second over that. Each --words prompts the text encoder three times with about that many words. */
#include "base/clock.h"
#include "cli/random_model.h"
#include "engine/engine.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PROMPTS_MAX = 8, PIECE = 1 << 20 };

static double seconds(uint64_t from) { return (double)(sc_now_ns() - from) * 1e-9; }

static void die(const char *what, const sc_error *err) {
    fprintf(stderr, "bench_load: %s: %s\n", what, err->text);
    exit(1);
}

/* One file's bytes to `buffer`, piece by piece; their number. */
static size_t read_mapped(const char *path, char *buffer) {
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t n = 0;
    if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || !st.st_size) {
        if (fd >= 0) close(fd);
        return 0;
    }
    char *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (p == MAP_FAILED) return 0;
    for (; n < (size_t)st.st_size; n += PIECE) {
        memcpy(buffer, p + n, (size_t)st.st_size - n < PIECE ? (size_t)st.st_size - n : PIECE);
        __asm__ volatile("" ::"r"(buffer) : "memory");
    }
    munmap(p, (size_t)st.st_size);
    return (size_t)st.st_size;
}

/* The yardstick. Bytes of all safetensors of the folder, and the seconds one thread needs for them; read once before, to be in the cache. */
static size_t yardstick(const char *dir, double *took) {
    char path[4096], *buffer = malloc(PIECE);
    size_t bytes = 0;
    if (!buffer) exit(1);
    for (int round = 0; round < 2; round++) {
        const uint64_t start = sc_now_ns();
        DIR *d = opendir(dir);
        bytes = 0;
        for (struct dirent *e; d && (e = readdir(d));) {
            if (!strstr(e->d_name, ".safetensors")) continue;
            snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
            bytes += read_mapped(path, buffer);
        }
        if (d) closedir(d);
        *took = seconds(start);
    }
    free(buffer);
    return bytes;
}

static void say_memory(const char *when) {
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    printf("%s:", when);
    while (f && fgets(line, sizeof line, f)) {
        char name[32];
        long kib;
        if (sscanf(line, "%31[^:]: %ld", name, &kib) == 2 && (!strcmp(name, "VmHWM") || !strcmp(name, "VmRSS") || !strcmp(name, "RssAnon") || !strcmp(name, "RssFile")))
            printf(" %s %ld MB", name, kib / 1024);
    }
    puts("");
    if (f) fclose(f);
}

/* Three prompts of about `words` words, none of them said before. */
static void time_prompts(sc_session *s, int words) {
    static int number;
    char text[SC_PROMPT_BYTES_MAX];
    sc_error err = {0};
    for (int round = 0; round < 3; round++) {
        size_t n = (size_t)snprintf(text, sizeof text, "number %d", number++);
        for (int i = 1; i < words && n + 8 < sizeof text; i++) n += (size_t)snprintf(text + n, sizeof text - n, i % 2 ? " bird" : " sea");
        const uint64_t start = sc_now_ns();
        if (sc_session_set_prompt(s, text, n, 1, SC_SWITCH, 0, NULL, &err)) die("prompt", &err);
        printf("prompt of %d words: %.4f s\n", words, seconds(start));
    }
}

int main(int argc, char **argv) {
    const char *shape = "tiny", *model = NULL;
    sc_engine_options o = {.device = "cpu", .max_sessions = 1};
    sc_engine *engine;
    sc_session *s;
    sc_frames frames;
    sc_error err = {0};
    const char *tmp = getenv("TMPDIR");
    char made[4096] = "";
    int words[PROMPTS_MAX], prompts = 0;
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) return fprintf(stderr, "bench_load: %s needs a value\n", argv[i]), 2;
        if (!strcmp(argv[i], "--shape")) shape = argv[i + 1];
        else if (!strcmp(argv[i], "--model")) model = argv[i + 1];
        else if (!strcmp(argv[i], "--device")) o.device = argv[i + 1];
        else if (!strcmp(argv[i], "--text-device")) o.text_device = argv[i + 1];
        else if (!strcmp(argv[i], "--words") && prompts < PROMPTS_MAX) words[prompts++] = atoi(argv[i + 1]);
        else return fprintf(stderr, "bench_load: %s? [--shape S | --model DIR] [--device D] [--text-device D] [--words N]...\n", argv[i]), 2;
    }
    if (!model) {
        snprintf(made, sizeof made, "%s/sparsecast-load-XXXXXX", tmp && *tmp ? tmp : "/tmp");
        if (!mkdtemp(made)) return perror(made), 1;
        if (sc_random_model_write(shape, made, "models/pocket/spiece.model", NULL, &err)) die(shape, &err);
        model = made;
    }
    double single;
    const size_t bytes = yardstick(model, &single);
    printf("%.2f GB of weights; one thread reads them at %.2f GB/s\n", (double)bytes * 1e-9, (double)bytes * 1e-9 / single);

    o.model_dir = model;
    uint64_t start = sc_now_ns();
    const uint64_t begin = start;
    if (sc_engine_open(&engine, &o, &err)) die("open", &err);
    const double took = seconds(start);
    printf("open %.3f s, %.2f GB/s, ratio %.2f\n", took, (double)bytes * 1e-9 / took, single / took);
    say_memory("opened");
    start = sc_now_ns();
    if (sc_session_create(engine, 1, "a red balloon", 13, 0, &s, &err)) die("session", &err);
    while (sc_session_next(s).kind != SC_PASS_CLEAN)
        if (sc_engine_run(engine, &s, 1, &err) || sc_session_failed(s, &err)) die("first chunk", &err);
    if (sc_session_frames(s, &frames, &err) || sc_session_failed(s, &err)) die("first frames", &err); /* a GPU may still be at them */
    printf("first frame %.3f s after the model was open, %.3f s after it began to open\n", seconds(start), seconds(begin));
    for (int i = 0; i < prompts; i++) time_prompts(s, words[i]);
    say_memory("at the end");
    sc_session_destroy(s);
    sc_engine_close(engine);
    if (*made) sc_random_model_remove(made);
    return 0;
}

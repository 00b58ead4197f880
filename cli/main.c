/* main.c - the command line of `sparsecast`: a table of commands, a table of options, and the parser that both drive.
 *
 * An option belongs to the commands of its mask; another command refuses it by name. Values are checked here, once, so that a
 * command sees numbers in range. Options and other words may stand in any order, "--name=value" and "--" work as everywhere.
 * Wrong use is exit code 2 and one line that says which word is wrong. */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/import.h"
#include "engine/engine.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GENERATE = 1, INSPECT = 2, VECTORS = 4, BENCH = 8, CHECK = 16, REPLAY = 32, ANY = 63, MANY = 1 << 20 };

static const struct command {
    const char *name;
    unsigned bit;
    int (*run)(const sc_cli *);
    int args_min, args_max;
    const char *words, *summary, *text;
} commands[] = {
    {"generate", GENERATE, sc_cmd_generate, 0, 0, "--prompt TEXT --seconds N -o OUT", "make a film from prompts",
     "OUT is a folder (frame-000000.jpg, ...), a file x.mjpeg or x.y4m, or - for Y4M on standard output:\n"
     "  sparsecast generate --prompt \"a red balloon over the sea\" --prompt-at 5s \"... at night\" --seconds 10 -o - | ffmpeg -i - out.mp4\n"
     "The film has whole chunks: 9 frames, then 12 at a time, until N seconds are full. A later prompt applies from the first chunk that\n"
     "begins at or after its moment. The same seed and prompts give the same bytes.\n"},
    {"inspect", INSPECT, sc_cmd_inspect, 1, 1, "MODEL", "say what a model directory or a checkpoint is",
     "MODEL is a directory with config.json, or one .safetensors, .pt or .pth file; of a known family it tells which tensors are missing\n"
     "and which are not expected, each with the nearest known name.\n"},
    {"check", CHECK, sc_cmd_check, 1, 1, "MODEL", "say before loading what a model takes and how fast it may be",
     "Memory of weights, a session and the decoder, how many sessions fit on the device, and the frame rate to expect. Exit code 1 when\n"
     "not even one session fits.\n"},
    {"vectors", VECTORS, sc_cmd_vectors, 1, MANY, "FILE...", "run golden vectors and compare every output",
     "Exit code 1 when an output is outside its tolerance, 2 when a file cannot be run.\n"},
    {"replay", REPLAY, sc_cmd_replay, 1, 1, "FILE", "make the stream of a session's log again and compare it",
     "FILE is what GET /v1/sessions/{id}/log answers, or - for standard input:\n"
     "  curl -s localhost:8080/v1/sessions/$ID/log | sparsecast replay -\n"
     "Model (models/NAME), device and memory are the log's, unless other ones are given. Exit code 1 when a chunk has other frames: the first one\n"
     "is named, and whether the log is of another machine. 2 when the log cannot be read, with the line.\n"},
    {"bench", BENCH, sc_cmd_bench, 0, 0, "", "time the stages of a chunk",
     "Runs chunks with a full window. With --device cpu and libopenblas.so.0 at hand it also prints chunk time over what the chunk's\n"
     "products and convolutions would take at the rate of OpenBLAS's sgemm (480 x 1024 x 384, all cores), measured between the chunks.\n"}};

typedef enum { TEXT, WHOLE, SEED, SECONDS, FLAG, LATER, TRANSITION, CHOICE } option_kind;

static const struct option {
    const char *name;
    char letter;
    option_kind kind;
    unsigned commands;
    size_t at;
    long lo, hi;
    const char *value, *help; /* of a CHOICE, value is "a|b|c" */
} options[] = {
    {"prompt", 'p', TEXT, GENERATE, offsetof(sc_cli, prompt), 0, 0, "TEXT", "what the picture shows from the start"},
    {"prompt-at", 0, LATER, GENERATE, 0, 0, 0, "WHEN TEXT", "a later prompt; WHEN is 5s, 2500ms or 3chunk; may be given 64 times"},
    {"seconds", 's', SECONDS, GENERATE, offsetof(sc_cli, seconds), 0, 86400, "N", "length of the film"},
    {"output", 'o', TEXT, GENERATE, offsetof(sc_cli, output), 0, 0, "OUT", "folder, x.mjpeg, x.y4m or -"},
    {"seed", 0, SEED, GENERATE, offsetof(sc_cli, seed), 0, 0, "S", "0 to 2^64-1 (0)"},
    {"transition", 't', TRANSITION, GENERATE, 0, 0, 0, "T", "how a later prompt meets the memory: switch, blend[:CHUNKS], recache, flush, cut (switch)"},
    {"quality", 'q', WHOLE, GENERATE, offsetof(sc_cli, quality), 1, 100, "Q", "of JPEG files, 1 to 100 (85)"},
    {"chunks", 'n', WHOLE, BENCH, offsetof(sc_cli, chunks), 1, 100000, "N", "chunks to time (20)"},
    {"shape", 0, CHOICE, BENCH, offsetof(sc_cli, shape), 0, 0, "wan-1.3b|wan-1.3b-vae|wan-14b|tiny|tiny-vae", "random weights of these sizes instead of --model"},
    {"sessions", 0, WHOLE, BENCH | CHECK, offsetof(sc_cli, sessions), 1, 8, "N", "sessions that share each pass (1)"},
    {"json", 0, FLAG, BENCH, offsetof(sc_cli, json), 0, 0, NULL, "print one JSON object"},
    {"tensors", 0, FLAG, INSPECT, offsetof(sc_cli, tensors), 0, 0, NULL, "list every tensor"},
    {"model", 'm', TEXT, GENERATE | BENCH | VECTORS | REPLAY, offsetof(sc_cli, model), 0, 0, "DIR", "model directory (models/pocket)"},
    {"memory", 0, CHOICE, GENERATE | BENCH | INSPECT | CHECK | REPLAY, offsetof(sc_cli, memory), 0, 0, "pbsa|window|dense", "instead of the model's own"},
    {"device", 'd', CHOICE, GENERATE | BENCH | VECTORS | CHECK | REPLAY, offsetof(sc_cli, device), 0, 0, "cpu|twin|cuda", "what computes (cpu)"},
    {"text-device", 0, CHOICE, GENERATE | BENCH | REPLAY, offsetof(sc_cli, text_device), 0, 0, "cpu|twin|cuda", "where the text encoder runs (as --device)"},
    {"threads", 0, WHOLE, GENERATE | BENCH | VECTORS | CHECK | REPLAY, offsetof(sc_cli, threads), 1, 1024, "N", "CPU threads (one a core)"},
    {"help", 'h', FLAG, ANY, 0, 0, 0, NULL, "this text"}};
enum { COMMANDS = sizeof commands / sizeof *commands, OPTIONS = sizeof options / sizeof *options };

int sc_cli_wrong_use(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("sparsecast: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    return SC_EXIT_USAGE;
}

int sc_cli_cannot_open(const sc_error *err) {
    fprintf(stderr, "sparsecast: %s\n", err->text);
    return err->status == SC_ENOMEM ? SC_EXIT_FAULT : SC_EXIT_CONFIG;
}

static void help(FILE *f) {
    fputs("sparsecast - video from prompts, chunk by chunk\n\n", f);
    for (int i = 0; i < COMMANDS; i++) fprintf(f, "  sparsecast %-9s %-36s %s\n", commands[i].name, commands[i].words, commands[i].summary);
    fprintf(f, "  sparsecast %-9s %-36s %s\n", "import", "SOURCE... -o DIR", "make a model directory of public checkpoints");
    fputs("\nsparsecast COMMAND --help tells the options of a command.\n", f);
}

static void help_command(const struct command *c) {
    printf("usage: sparsecast %s [options]%s%s - %s\n\n%s\n", c->name, *c->words ? " " : "", c->words, c->summary, c->text);
    for (int i = 0; i < OPTIONS; i++) {
        const struct option *o = &options[i];
        char left[64];
        if (!(o->commands & c->bit)) continue;
        snprintf(left, sizeof left, "%c%c%s --%s %s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ', o->letter ? "," : " ", o->name, o->value ? o->value : "");
        printf("  %-34s %s\n", left, o->help);
    }
}

static bool whole_number(const char *s, long lo, long hi, long *out) {
    char *end;
    errno = 0;
    *out = strtol(s, &end, 10);
    return *s >= '0' && *s <= '9' && !*end && !errno && *out >= lo && *out <= hi;
}

/* A plain decimal number: no sign, no "inf", "nan" or hex. *rest is what follows. */
static bool decimal(const char *s, double *out, const char **rest) {
    char *end;
    if (!((*s >= '0' && *s <= '9') || *s == '.') || s[strspn(s, "0123456789")] == 'x' || s[strspn(s, "0123456789")] == 'X') return false;
    *out = strtod(s, &end);
    *rest = end;
    return end != s && isfinite(*out);
}

static int set_later(sc_cli *cli, const char *when, const char *text) {
    sc_cli_later *l = &cli->later[cli->later_count];
    const char *unit;
    double x;
    if (cli->later_count == SC_CLI_PROMPTS) return sc_cli_wrong_use("--prompt-at: more than %d", SC_CLI_PROMPTS);
    if (!decimal(when, &x, &unit)) return sc_cli_wrong_use("--prompt-at %s: not a moment such as 5s, 2500ms or 3chunk", when);
    *l = (sc_cli_later){.chunk = -1, .text = text};
    if (!strcmp(unit, "s") || !*unit) l->at_s = x;
    else if (!strcmp(unit, "ms")) l->at_s = x / 1000;
    else if (!strcmp(unit, "chunk") && x == floor(x) && x <= 1e9) l->chunk = (int64_t)x;
    else return sc_cli_wrong_use("--prompt-at %s: not a moment such as 5s, 2500ms or 3chunk", when);
    if (l->chunk < 0 && l->at_s > 86400) return sc_cli_wrong_use("--prompt-at %s: past a day", when);
    cli->later_count++;
    return 0;
}

static int set_transition(sc_cli *cli, const char *value) {
    char word[16];
    const char *colon = strchr(value, ':');
    const size_t n = colon ? (size_t)(colon - value) : strlen(value);
    sc_transition t;
    long chunks = 4;
    snprintf(word, sizeof word, "%.*s", n < sizeof word ? (int)n : 0, value);
    if (!sc_transition_parse(word, &t) || (colon && t != SC_BLEND)) return sc_cli_wrong_use("--transition %s: not one of switch, blend[:CHUNKS], recache, flush, cut", value);
    if (colon && !whole_number(colon + 1, 1, 64, &chunks)) return sc_cli_wrong_use("--transition %s: chunks of a blend are 1 to 64", value);
    cli->transition = sc_transition_name(t);
    cli->blend_chunks = (int)chunks;
    return 0;
}

static bool is_choice(const char *list, const char *value) {
    const size_t n = strlen(value);
    for (const char *at = list; n && (at = strstr(at, value)); at++)
        if ((at == list || at[-1] == '|') && (at[n] == '|' || !at[n])) return true;
    return false;
}

static int set_option(sc_cli *cli, const struct option *o, const char *value) {
    void *at = (char *)cli + o->at;
    const char *rest;
    char *end;
    long n;
    double x;
    switch (o->kind) {
    case TEXT: *(const char **)at = value; return 0;
    case FLAG: *(bool *)at = true; return 0;
    case TRANSITION: return set_transition(cli, value);
    case WHOLE:
        if (!whole_number(value, o->lo, o->hi, &n)) return sc_cli_wrong_use("--%s %s: not a whole number from %ld to %ld", o->name, value, o->lo, o->hi);
        *(int *)at = (int)n;
        return 0;
    case SEED:
        errno = 0;
        *(uint64_t *)at = strtoull(value, &end, 10);
        if (*value < '0' || *value > '9' || *end || errno) return sc_cli_wrong_use("--%s %s: not a whole number from 0 to 18446744073709551615", o->name, value);
        return 0;
    case SECONDS:
        if (!decimal(value, &x, &rest) || (*rest && strcmp(rest, "s")) || !(x > 0) || x > (double)o->hi) return sc_cli_wrong_use("--%s %s: not a number above 0, at most %ld", o->name, value, o->hi);
        *(double *)at = x;
        return 0;
    case CHOICE:
        if (!is_choice(o->value, value)) return sc_cli_wrong_use("--%s %s: not one of %s", o->name, value, o->value);
        *(const char **)at = value;
        return 0;
    case LATER: break; /* takes two values, see parse */
    }
    return 0;
}

static const struct option *find_option(const char *word, size_t n, char letter) {
    for (int i = 0; i < OPTIONS; i++)
        if (letter ? options[i].letter == letter : strlen(options[i].name) == n && !memcmp(options[i].name, word, n)) return &options[i];
    return NULL;
}

/* Words after the command. *asked: --help was among them. */
static int parse(sc_cli *cli, const struct command *c, char **argv, bool *asked) {
    bool only_words = false;
    int rc = 0;
    for (int i = 0; argv[i] && !rc && !*asked; i++) {
        const char *word = argv[i], *name, *value = NULL;
        const struct option *o;
        if (only_words || word[0] != '-' || !word[1]) { cli->arg[cli->args++] = word; continue; }
        if (!strcmp(word, "--")) { only_words = true; continue; }
        if (word[1] == '-') {
            name = word + 2;
            value = strchr(name, '=');
            o = find_option(name, value ? (size_t)(value - name) : strlen(name), 0);
            if (value) value++;
        } else {
            o = find_option(NULL, 0, word[1]);
            if (word[2]) value = word + 2;
        }
        if (!o || !(o->commands & c->bit)) return sc_cli_wrong_use("%s: no option %s (sparsecast %s --help lists them)", c->name, word, c->name);
        if (o->kind == FLAG) {
            if (value) return sc_cli_wrong_use("%s: %s takes no value", c->name, word);
            if (!strcmp(o->name, "help")) *asked = true;
            else rc = set_option(cli, o, NULL);
            continue;
        }
        if (!value && !(value = argv[++i])) return sc_cli_wrong_use("%s: %s needs a value: %s", c->name, word, o->value);
        if (o->kind != LATER) { rc = set_option(cli, o, value); continue; }
        if (!argv[++i]) return sc_cli_wrong_use("%s: --prompt-at needs a moment and a text", c->name);
        rc = set_later(cli, value, argv[i]);
    }
    return rc;
}

int main(int argc, char **argv) {
    sc_cli cli = {.model = "models/pocket", .device = "cpu", .transition = "switch", .blend_chunks = 4, .quality = 85, .chunks = 20, .sessions = 1};
    const struct command *c = NULL;
    bool asked = false;
    int rc;

    sc_log_set_level(SC_LOG_WARN);
    if (argc < 2) { help(stderr); return SC_EXIT_USAGE; }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) { help(stdout); return 0; }
    if (!strcmp(argv[1], "import")) return sc_cli_import(argc - 2, argv + 2); /* reads its own options */
    for (int i = 0; i < COMMANDS; i++) if (!strcmp(argv[1], commands[i].name)) c = &commands[i];
    if (!c) return sc_cli_wrong_use("no command %s (sparsecast --help lists them)", argv[1]);
    if (!(cli.arg = calloc((size_t)argc, sizeof *cli.arg))) { fputs("sparsecast: out of memory\n", stderr); return SC_EXIT_FAULT; }
    if (c->bit == REPLAY) cli.model = cli.device = NULL; /* the log's */
    rc = parse(&cli, c, argv + 2, &asked);
    if (!rc && asked) help_command(c);
    else if (!rc && cli.args < c->args_min) rc = sc_cli_wrong_use("%s: %s is missing (sparsecast %s --help)", c->name, c->words, c->name);
    else if (!rc && cli.args > c->args_max) rc = sc_cli_wrong_use("%s: what is %s? (sparsecast %s --help)", c->name, cli.arg[c->args_max], c->name);
    else if (!rc) rc = c->run(&cli);
    free(cli.arg);
    /* A full disk behind standard output shows only now. */
    if ((fflush(stdout) || ferror(stdout)) && !rc) { fprintf(stderr, "sparsecast: standard output: %s\n", strerror(errno)); rc = SC_EXIT_FAULT; }
    return rc;
}

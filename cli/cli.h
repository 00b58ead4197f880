/* cli.h - the program `sparsecast`: one command a file, one struct for the command line. */
#ifndef SC_CLI_CLI_H
#define SC_CLI_CLI_H
#include "base/status.h"
#include <stdbool.h>
#include <stdint.h>

enum { SC_CLI_PROMPTS = 64 };

/* A later prompt: at a moment of the film, or (chunk >= 0) at a chunk, counted from 0. */
typedef struct { double at_s; int64_t chunk; const char *text; } sc_cli_later;

/* The command line, checked. Strings point into argv. */
typedef struct {
    const char *model, *device, *text_device, *memory, *output;
    int threads;
    const char *prompt;
    sc_cli_later later[SC_CLI_PROMPTS];
    int later_count;
    double seconds;
    uint64_t seed;
    const char *transition, *shape;
    int blend_chunks, quality, chunks, sessions;
    bool json, tensors;
    const char **arg;   /* what is not an option */
    int args;
} sc_cli;

enum { SC_EXIT_CHECK = 1, SC_EXIT_USAGE = 2, SC_EXIT_FAULT = 70, SC_EXIT_CONFIG = 78, SC_EXIT_INTERRUPTED = 130 };

/* Each returns the exit code: 0 fine, 1 a check failed, 2 wrong use, 70 a fault, 78 a model or configuration that cannot be used,
 * 130 interrupted. */
int sc_cmd_generate(const sc_cli *cli);
int sc_cmd_inspect(const sc_cli *cli);
int sc_cmd_check(const sc_cli *cli);
int sc_cmd_vectors(const sc_cli *cli);
int sc_cmd_bench(const sc_cli *cli);
int sc_cmd_replay(const sc_cli *cli);

/* Say on stderr what could not be opened; the exit code that fits. */
int sc_cli_cannot_open(const sc_error *err);
int sc_cli_wrong_use(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif

/* cli.h - the program `sparsecast`: one command a file. */
#ifndef SC_CLI_CLI_H
#define SC_CLI_CLI_H
#include <stdbool.h>
#include <stdint.h>

enum { SC_CLI_PROMPTS = 64 };

/* The command line, checked. Strings point into argv. */
typedef struct {
    const char *model, *device, *memory, *output;
    int threads;
    const char *prompt;
    struct { double at_s; const char *text; } later[SC_CLI_PROMPTS];
    int later_count;
    double seconds;
    uint64_t seed;
    const char *transition;
    int quality, chunks;
    bool json;
    const char **arg;   /* what is not an option */
    int args;
} sc_cli;

/* Each returns the exit code: 0 fine, 1 a check failed, 2 wrong use, 70 a fault, 78 a model or configuration that cannot be used. */
int sc_cmd_generate(const sc_cli *cli);
int sc_cmd_inspect(const sc_cli *cli);
int sc_cmd_vectors(const sc_cli *cli);
int sc_cmd_bench(const sc_cli *cli);

#endif

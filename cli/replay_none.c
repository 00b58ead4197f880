/* replay_none.c - `sparsecast replay` in a build without xxHash. */
#include "cli/cli.h"
#include <stdio.h>

int sc_cmd_replay(const sc_cli *cli) {
    fprintf(stderr, "sparsecast: replay: %s: this build has no xxHash, and cannot compare frames (libxxhash-dev)\n", cli->arg[0]);
    return SC_EXIT_CONFIG;
}

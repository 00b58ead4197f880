/* config.h - what the daemon can be told: one table for the command line, the file and --help.
 *
 * `--name value` or `--name=value` on the command line, `name = value` lines in the file of --config ('#' begins a comment). The file is
 * read first wherever --config stands, so the command line wins; lists collect from both. */
#ifndef SC_SERVER_CONFIG_H
#define SC_SERVER_CONFIG_H
#include "base/status.h"
#include <stdbool.h>
#include <stdio.h>

enum { SC_CONFIG_LIST_MAX = 32 };

typedef struct {
    int count;
    char *item[SC_CONFIG_LIST_MAX];
} sc_config_list;

typedef struct {
    char *listen, *unix_path, *model, *device, *text_device, *memory, *state_dir, *log_level, *config;
    int threads, max_sessions, jpeg_quality, idle_timeout_s, max_viewers;
    sc_config_list allow_origin, allow_host, key;
    bool help, version;
    char host[64];       /* after check: of `listen`, without brackets; "" when there is none */
    int port;
    bool ipv6;
} sc_server_config;

/* Defaults. Free with sc_server_config_free whatever happened. Errors: SC_ENOMEM. */
sc_status sc_server_config_init(sc_server_config *c, sc_error *err);
void sc_server_config_free(sc_server_config *c);

/* Errors name the option, what was found and what is allowed: SC_EINVAL; SC_EIO for the file. */
sc_status sc_server_config_set(sc_server_config *c, const char *name, const char *value, sc_error *err);
sc_status sc_server_config_file(sc_server_config *c, const char *path, sc_error *err);
sc_status sc_server_config_args(sc_server_config *c, int argc, char **argv, sc_error *err);

/* What no single option can know: the address is one, and one that others can reach has a key. */
sc_status sc_server_config_check(sc_server_config *c, sc_error *err);

void sc_server_config_help(FILE *out);

#endif

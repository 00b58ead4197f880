/* import.h - the command that reads its own options. */
#ifndef SC_CLI_IMPORT_H
#define SC_CLI_IMPORT_H

/* `sparsecast import` with the words after the command. Exit codes as in cli.h: 78 when a source cannot be used. */
int sc_cli_import(int argc, char **argv);

#endif

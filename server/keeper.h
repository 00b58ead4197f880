/* keeper.h - the state directory, and a thread for the disk, so that the engine's does not wait for it.
 *
 *     engine thread --job--> keeper: write the file | read it, check all of it --done--> engine thread
 *
 * One job at a time, since a session of a large model takes gigabytes while it is on its way. A job is the keeper's from sc_keeper_give until `done` was
 * called, on the keeper's thread. Files of snapshots lie in DIR/snapshots (snapshot_file.h); those of sessions that come back with the daemon in
 * DIR/sessions, which is the engine thread's alone (scheduler_return.c). */
#ifndef SC_SERVER_KEEPER_H
#define SC_SERVER_KEEPER_H
#include "engine/engine.h"
#include "server/saved_text.h"
#include "server/snapshot_file.h"
#include <stdbool.h>

enum { SC_SNAPSHOTS_MOST = 64 };

typedef struct sc_keeper sc_keeper;

typedef struct {
    bool load;
    char name[SC_SNAPSHOT_NAME_MAX + 1];
    sc_snapshot_file file;      /* what is to be written; what was read */
    const sc_engine *engine;    /* load */
    sc_snapshot *snapshot;      /* loaded: of file.memory */
    sc_saved_text words;        /* loaded: of file.text; whoever takes the log sets it to NULL */
    sc_error err;               /* status SC_OK: it is done */
} sc_keeper_job;

void sc_keeper_job_free(sc_keeper_job *job); /* all of it; NULL is fine */

/* Makes what is not there of DIR, DIR/snapshots, DIR/sessions. Errors: SC_EINVAL with the reason, SC_ENOMEM. */
sc_status sc_keeper_start(sc_keeper **out, const char *dir, void (*done)(void *ctx, sc_keeper_job *job), void *ctx, sc_error *err);
void sc_keeper_give(sc_keeper *k, sc_keeper_job *job); /* none is on its way */
int sc_keeper_sessions(const sc_keeper *k);            /* DIR/sessions, open as long as the keeper is there */
void sc_keeper_forget(sc_keeper *k, const char *id);   /* a session that has ended does not come back */
void sc_keeper_stop(sc_keeper *k); /* after the job that is on its way; NULL is fine */

#endif

/* scheduler.h - the engine thread: owns the engine and every session on it.
 *
 * Others talk to it through a bounded queue of commands, taken between two passes (a pass is the unit of preemption, about 100 ms on a
 * CPU). What it knows it publishes into the sessions' channels (hub.h), where everybody reads.
 *
 *     loop:  commands -> housekeeping (viewers, idle sessions) -> plan (plan.h) -> one pass, or sleep until the plan says
 *     chunk: denoise 0..3 -> decode -> frames to the encoder -> clean, at once -> [waits: just in time] -> denoise 0 ...
 *
 * A text encoder on a device of its own (--text-device cpu) takes up to seconds for a prompt. A command with words that are not known yet is then
 * parked until another thread has read them; so is a later one for the same session, which may not overtake it. Everything else goes on.
 *
 * A session makes chunk 0 as soon as it exists, so that snapshots and first viewers find a picture. Later chunks are made while somebody
 * watches (or run_without_viewers was asked for); otherwise its state is "paused" with the reason "no viewers", and the first viewer
 * makes it "running" again.
 *
 * A fork is taken while its source stands between two chunks, all frames out, which nobody who watches that one notices: it waits for the end
 * of the chunk in work, or for as many chunks as were asked for (scheduler_begin.c).
 *
 * A session is saved where a fork would be taken; a thread of its own has to do with the disk (scheduler_save.c, keeper.h).
 *
 * Whole clips are made in the time that sessions leave (scheduler_videos.c).
 *
 * A schedule is prompts to come: each is handed over, as if it had been sent, while the chunk before its own is made (scheduler_program.c).
 *
 * Failures. A device call that fails is a failure of the session (closed with 1011, the others go on) or of the request (500) it was made
 * for. A device that is lost (SC_ELOST) ends everything: `failed` is called, the state becomes failed, all viewers are closed with 1012,
 * requests get 503, and the device is not called again. A thread that hangs in the device is seen from outside: sc_scheduler_hangs_ns. */
#ifndef SC_SERVER_SCHEDULER_H
#define SC_SERVER_SCHEDULER_H
#include "base/status.h"
#include "engine/engine.h"
#include "proto/requests.h"
#include "proto/saved.h"
#include "server/hub.h"
#include "server/jpeg.h"
#include "server/video_maker.h"

typedef struct sc_scheduler sc_scheduler;

typedef struct {
    sc_engine_options engine;
    int jpeg_quality, idle_timeout_s;  /* defaults of a session */
    const char *state_dir;             /* where snapshots are; NULL: nowhere. Borrowed during start */
    sc_videos *videos;                 /* clips to be made, and who makes files of them; NULL: none are. Borrowed until the scheduler is stopped */
    sc_video_maker *maker;
    void *ctx;
    void (*ready)(void *ctx);                         /* engine thread: the model is loaded */
    void (*failed)(void *ctx, const sc_error *err);   /* engine thread: it cannot be loaded, or the device failed */
    void (*alive)(void *ctx);                         /* engine thread, at least every second or so: for the watchdog */
} sc_scheduler_options;

typedef enum { SC_COMMAND_CREATE, SC_COMMAND_FORK, SC_COMMAND_PATCH, SC_COMMAND_DELETE, SC_COMMAND_PROMPT, SC_COMMAND_PAUSE, SC_COMMAND_RESUME,
               SC_COMMAND_SCHEDULE, SC_COMMAND_SAVE, SC_COMMAND_RESTORE, SC_COMMAND_MEMORY,
               SC_COMMAND_SCHEDULED, SC_COMMAND_READ, SC_COMMAND_CLIP /* the last three are the scheduler's own */ } sc_command_kind;

/* A question and its answer. Made with calloc, owned by the scheduler from a successful post until `done`, which frees it. */
typedef struct sc_command sc_command;
struct sc_command {
    sc_command_kind kind;
    char id[SC_ID_CHARS + 1];            /* which session; after CREATE, FORK and RESTORE: the new one */
    sc_create_request create;            /* CLIP uses its prompt */
    sc_fork_request fork;
    uint64_t chunk;                      /* FORK: the scheduler's own: what it begins with, whether it waits for that; after SAVE: the next one */
    bool waits;
    sc_patch_request patch;              /* PATCH; PROMPT, SCHEDULED and READ use its prompt and transition */
    sc_program *program;                 /* CREATE, SCHEDULE: the schedule, or NULL; SCHEDULED: whose entry it is. Whoever frees the command releases it */
    char key[129];                       /* CREATE, FORK: Idempotency-Key, "" for none */
    char name[SC_SNAPSHOT_NAME_MAX + 1]; /* SAVE, RESTORE: of the snapshot */
    uint64_t saved_bytes;                /* after SAVE: of its file; and when */
    int64_t saved_at;
    sc_memory_map memory;                /* after MEMORY. Whoever frees the command frees it */
    char ref[SC_REF_MAX + 1];
    uint64_t viewer;                     /* who sent it over a WebSocket, 0: nobody */
    uint64_t asked_ns;
    void (*done)(sc_command *c);         /* engine thread */
    void *ctx;
    sc_problem problem;                  /* status 0: all is well */
    bool has_seq;
    uint32_t seq;
    int64_t applies_at;
};

sc_status sc_scheduler_start(sc_scheduler **out, const sc_scheduler_options *o, sc_hub *hub, sc_encoder *encoder, sc_error *err);

/* Any thread. Not ready any more, all viewers are closed with 1012. For a device whose calls do not come back; a lost one is found here. */
void sc_scheduler_fault(sc_scheduler *s, const char *why);
/* Any thread. For how long the engine thread hangs in the device: longer than least_ns and 20 times the longest call so far. 0: it does not. */
uint64_t sc_scheduler_hangs_ns(sc_scheduler *s, uint64_t least_ns);

/* Any thread. False: the queue is full (or all is over); the command is still the caller's. */
bool sc_scheduler_post(sc_scheduler *s, sc_command *c);
void sc_scheduler_wake(void *scheduler); /* any thread: viewers changed */

/* Close all sessions with this code and stop. Commands that wait are answered 503. NULL is fine. */
void sc_scheduler_stop(sc_scheduler *s, int code, const char *reason);
void sc_scheduler_free(sc_scheduler *s);

typedef enum { SC_ENGINE_LOADING, SC_ENGINE_READY, SC_ENGINE_DRAINING, SC_ENGINE_FAILED } sc_engine_state;
/* Any thread. *info (may be NULL) is filled when the model is loaded. */
sc_engine_state sc_scheduler_state(sc_scheduler *s, sc_model_info *info);
/* What a chunk of one session costs (p95), and how many sessions there are. Any thread. */
void sc_scheduler_load(sc_scheduler *s, uint64_t *chunk_cost_ns, int *sessions);

#endif

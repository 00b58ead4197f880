/* scheduler_internal.h - what scheduler.c (thread, commands, life of a session), scheduler_begin.c (its beginning) and scheduler_passes.c (what
 * runs next), scheduler_program.c (schedules), scheduler_save.c (snapshots), scheduler_return.c (those of a daemon that stops), scheduler_log.c (what is
 * written down) and scheduler_videos.c (clips) share. Engine thread only, except where it is said. */
#ifndef SC_SERVER_SCHEDULER_INTERNAL_H
#define SC_SERVER_SCHEDULER_INTERNAL_H
#include "server/keeper.h"
#include "server/scheduler.h"
#include <pthread.h>
#include <stdatomic.h>

enum { SC_SCHEDULER_QUEUE = 64, SC_SCHEDULER_KEYS = 64, SC_BLEND_CHUNKS = 4 };

struct stream {
    sc_session *session;       /* NULL once failed */
    sc_channel *channel;
    sc_facts facts;
    char next_prompt[SC_PROMPT_TEXT_MAX + 1]; /* newest prompt given, while it is not in force yet */
    size_t next_prompt_bytes;
    sc_wire_transition next_transition; /* with which it was given, or will have been */
    uint32_t logged_seq;       /* of the newest prompt in its log */
    bool paused, was_playing;
    bool returned;             /* came back with the daemon: it is the session that it was */
    uint64_t first;            /* its first chunk in this daemon */
    uint64_t began_ns;         /* when the chunk in work took its first pass; 0: none in work */
    uint64_t denoise_ns;
    uint64_t wait_ns, decode_ns, last_pts_us; /* of the newest frames; of the last of them */
    uint64_t due_ns, due_began_ns; /* frames are due that were asked for then, of a chunk that took its first pass then; 0: none are */
    sc_program *program;       /* its schedule, NULL: none; where it stands is in facts */
    bool handing, read;        /* of its next entry: it is being handed over; its words were given to read */
    sc_window wait, denoise, decode;
};

/* A clip that is being made. */
struct clip {
    bool active;               /* there is one: `video` */
    bool asked;                /* the command that begins it is on its way, even if the clip is not wanted any more */
    sc_video video;
    sc_session *session;       /* NULL: not begun yet */
    uint64_t due_ns;           /* frames are due that were asked for then; 0: none are */
    sc_window took[3], whole;  /* passes by their kind; chunks, where the device runs behind */
};

/* What an Idempotency-Key was used for. */
struct made {
    char key[129];
    sc_command_kind kind;
    char from[SC_ID_CHARS + 1], id[SC_ID_CHARS + 1]; /* of FORK: whose; the session made */
    union { sc_create_request create; sc_fork_request fork; };
    sc_program *program;                             /* of CREATE */
};

struct sc_scheduler {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    sc_command *queue[SC_SCHEDULER_QUEUE];  /* guarded by lock */
    int head, count;
    bool stop, woken, joined;
    int stop_code;
    char stop_reason[64];
    sc_engine_state state;     /* guarded by lock, like info and what load() tells */
    sc_model_info info;
    uint64_t chunk_cost_ns;
    int sessions;

    atomic_uint_least64_t busy_since_ns; /* the engine thread is in the device since then; 0: it is not */
    atomic_uint_least64_t longest_ns;    /* that it was there at most */

    sc_scheduler_options o;    /* from here on: engine thread only */
    char model_dir[4096], device[64], memory[16];
    sc_hub *hub;
    sc_encoder *encoder;
    sc_engine *engine;
    struct stream *streams[SC_PLAN_JOBS_MAX];
    int n;
    sc_window denoise, decode, clean, whole; /* per chunk, over all sessions */
    struct made *made;
    int made_at;
    bool batches;
    sc_command *parked[SC_SCHEDULER_QUEUE]; /* oldest first: their words are still to be read by a text encoder that stands apart */
    int parked_n;
    sc_command *forks[SC_SCHEDULER_QUEUE]; /* oldest first: they wait for a chunk of their source */
    int forks_n;
    sc_command *saves[SC_SCHEDULER_QUEUE]; /* oldest first: SAVE that waits for the end of a chunk, and what waits for the keeper */
    int saves_n;
    sc_keeper *keeper;         /* NULL: there is no state directory */
    sc_keeper_job *kept;       /* guarded by lock: is back from it */
    sc_command *keeping;       /* whose job it is; NULL: none is on its way */
    struct clip clip;
    bool asking;               /* the engine has been asked for the first one's words */
    atomic_bool text_read;     /* and may answer; set by its thread */
    sc_error fault;            /* status SC_ELOST: the device is gone */
};

/* scheduler.c. Around everything that goes into the device, so that another thread can tell one that does not come back. */
void sc_scheduler_enter_device(sc_scheduler *s);
void sc_scheduler_leave_device(sc_scheduler *s);
void sc_scheduler_publish(struct stream *t); /* its facts, to whoever asks */
void sc_scheduler_set_state(struct stream *t, sc_state state, const char *reason);
void sc_scheduler_end_session(sc_scheduler *s, struct stream *t, int code, const char *reason);
void sc_scheduler_fail_session(struct stream *t, const sc_error *err); /* viewers are closed with 1011, t->session is NULL after it */
void sc_scheduler_update_load(sc_scheduler *s);
struct stream *sc_scheduler_find(sc_scheduler *s, const char *id);
void sc_scheduler_do(sc_scheduler *s, sc_command *c); /* or keep it until it can be done */
void sc_scheduler_free_stream(struct stream *t);      /* and all that is its own, but for the session; NULL is fine */
/* What a request gets for a failure of the engine. A device that is lost is remembered: the loop ends. */
void sc_scheduler_problem(sc_scheduler *s, sc_problem *p, const sc_error *err, const char *pointer);

/* scheduler_begin.c */
bool sc_scheduler_has_place(const sc_scheduler *s, sc_command *c); /* false: it has its answer */
/* t, its session and facts complete, is one of the streams; c has its id. from: whose fork it is; past: the log of what it goes on with (moved, also after
 * an error); or NULL. After an error t is still the caller's. */
sc_status sc_scheduler_enter(sc_scheduler *s, struct stream *t, const struct stream *from, sc_session_log *past, sc_command *c, sc_error *err);
void sc_scheduler_show_past(sc_scheduler *s, struct stream *t); /* its last picture, until it has frames of its own */
void sc_scheduler_create(sc_scheduler *s, sc_command *c);
bool sc_scheduler_fork(sc_scheduler *s, sc_command *c);   /* false: it waits, and is not the caller's any more */
void sc_scheduler_run_forks(sc_scheduler *s);             /* those whose turn has come, before another chunk begins */
sc_command *sc_scheduler_take_fork(sc_scheduler *s);      /* one that waits, given back unanswered; NULL: none does */

/* scheduler_save.c */
sc_status sc_scheduler_open_state(sc_scheduler *s, const char *dir, sc_error *err);
bool sc_scheduler_save(sc_scheduler *s, sc_command *c);   /* SAVE, RESTORE. false: it waits, and is not the caller's any more */
void sc_scheduler_run_saves(sc_scheduler *s);             /* what the keeper has done, and those whose turn has come; before another chunk begins */
sc_command *sc_scheduler_take_save(sc_scheduler *s);      /* one that waits, given back unanswered; NULL: none does */
void sc_scheduler_close_state(sc_scheduler *s);           /* waits for the keeper; its command is answered */

/* Its words and memory, standing between two chunks. */
sc_status sc_scheduler_write_down(sc_scheduler *s, struct stream *t, sc_saved *v, sc_snapshot_file *out, sc_error *err);
void sc_scheduler_restored(sc_scheduler *s, sc_command *c, sc_keeper_job *job); /* what was loaded is a session; with an id in c: that one is back */

/* scheduler_return.c */
void sc_scheduler_save_all(sc_scheduler *s);
void sc_scheduler_bring_back(sc_scheduler *s);

/* scheduler_program.c */
void sc_scheduler_schedule(sc_scheduler *s, struct stream *t, sc_command *c);
void sc_scheduler_hand_over(sc_scheduler *s, struct stream *t); /* an entry whose turn it is; before another chunk begins */
void sc_scheduler_hand_over_all(sc_scheduler *s);
bool sc_scheduler_still_scheduled(const struct stream *t, const sc_command *c); /* no other schedule came while its words were read */

/* scheduler_log.c */
/* The log of a session that begins, from the source's or from `past` (moved) where there is one; owned. t and its facts are complete. */
sc_status sc_scheduler_log_open(const sc_scheduler *s, struct stream *t, const struct stream *from, sc_session_log *past, const char *id, sc_session_log **out,
                                sc_error *err);
void sc_scheduler_log_prompt(struct stream *t, sc_pass begins); /* a chunk begins; its facts say under what */
void sc_scheduler_log_chunk(struct stream *t, const sc_frames *f);
void sc_scheduler_log_end(struct stream *t);                     /* as its facts say */

/* scheduler_videos.c */
void sc_scheduler_begin_clip(sc_scheduler *s, sc_command *c);    /* CLIP */
void sc_scheduler_make_place(sc_scheduler *s);                   /* a session is about to take a place: before it does */
bool sc_scheduler_run_clip(sc_scheduler *s, uint64_t now, uint64_t *wake_ns); /* after run_pass found nothing to do before *wake_ns; as it */
void sc_scheduler_drop_clip(sc_scheduler *s);                    /* back to the queue */

/* scheduler_passes.c */
sc_status sc_scheduler_run_engine(sc_scheduler *s, sc_session *const *sessions, int count, const sc_pass *passes, sc_error *each); /* SC_OK, SC_ELOST */
void sc_scheduler_look_after(sc_scheduler *s, struct stream *t, uint64_t now);
bool sc_scheduler_housekeeping(sc_scheduler *s, uint64_t now); /* false: no session */
void sc_scheduler_end_chunk(sc_scheduler *s, struct stream *t, uint64_t end_ns); /* the chunk in work and its frames; no pass begins after end_ns */
bool sc_scheduler_run_pass(sc_scheduler *s, uint64_t now, uint64_t *wake_ns);

#endif

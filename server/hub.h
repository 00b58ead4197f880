/* hub.h - what a session shows to the world: its frames, its playout clock, the facts that GET answers.
 *
 *     engine thread --facts, prompts-->  channel  <--viewers, "shown"-- stream thread
 *     encoder       --frames---------->  (one a session)  --newest frame--> viewers, snapshot, MJPEG
 *
 * Playout: encoded frames wait in a bounded queue and leave it one by one, `period` apart. A frame that leaves becomes `newest` and is
 * never queued for anybody: a viewer takes the newest when it can take something. When a chunk comes late the clock moves with it:
 * everything behind is as late, nothing is caught up in a burst.
 *
 *     queue  [f7 f8 f9 ...]  --due-->  newest f6        dry = moment at which the queue will be empty = deadline of the next chunk
 *
 * Playback holds while the session is paused or nobody watches; the first frame of a session always comes out, so that a snapshot
 * exists. Time is passed in: tests play days in milliseconds.
 *
 * Lock: one mutex for all channels, held for swaps and copies only. Channels and frames are shared (reference counted). Any thread. */
#ifndef SC_SERVER_HUB_H
#define SC_SERVER_HUB_H
#include "proto/frame_header.h"
#include "proto/messages.h"
#include "proto/session_json.h"
#include "server/plan.h"
#include "server/program.h"
#include "server/session_log.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SC_FRAME_HEADROOM = 32, SC_CHANNEL_FRAMES_MAX = 256, SC_CHANNEL_NOTES = 16 };

/* One picture, ready for the socket. The stream thread alone patches the header in place, per viewer, right before it writes. */
typedef struct {
    atomic_int refs;
    sc_frame_header head;
    uint64_t ready_ns;          /* when it came out of the encoder */
    size_t jpeg_bytes;
    unsigned char bytes[];      /* SC_FRAME_HEADROOM for the WebSocket header, SC_FRAME_HEADER_BYTES, the JPEG */
} sc_frame;

sc_frame *sc_frame_create(const sc_frame_header *head, const void *jpeg, size_t n); /* NULL: out of memory */
sc_frame *sc_frame_retain(sc_frame *f);
void sc_frame_release(sc_frame *f); /* NULL is fine */
static inline unsigned char *sc_frame_message(sc_frame *f) { return f->bytes + SC_FRAME_HEADROOM; }
static inline size_t sc_frame_message_bytes(const sc_frame *f) { return SC_FRAME_HEADER_BYTES + f->jpeg_bytes; }
static inline const unsigned char *sc_frame_jpeg(const sc_frame *f) { return f->bytes + SC_FRAME_HEADROOM + SC_FRAME_HEADER_BYTES; }

typedef enum { SC_STATE_STARTING, SC_STATE_RUNNING, SC_STATE_PAUSED, SC_STATE_ENDED, SC_STATE_FAILED } sc_state;
const char *sc_state_name(sc_state s);

/* What the engine thread publishes about a session. */
typedef struct {
    sc_state state;
    char reason[160];
    char prompt[SC_PROMPT_TEXT_MAX + 1];
    size_t prompt_bytes;
    uint32_t prompt_seq;
    uint64_t prompt_chunk;
    sc_wire_transition transition;
    char model[64];
    uint64_t seed, memory_bytes;
    int width, height, fps, first_frames, chunk_frames;
    int jpeg_quality, lookahead_chunks, idle_timeout_s;
    bool run_without_viewers;
    int64_t created, chunk;     /* chunk: newest decoded, -1 for none */
    char forked_from[SC_ID_CHARS + 1]; /* "": no fork */
    uint64_t forked_chunk;      /* its first own chunk; 0 of any other */
    uint32_t newest_seq;        /* of the prompts that were taken */
    uint64_t pts_us;            /* of the first frame of chunk + 1 */
    sc_program_state program;
    sc_stage_time wait, denoise, decode;
} sc_facts;

sc_program_clock sc_facts_clock(const sc_facts *f); /* where its stream stands */

typedef struct sc_hub sc_hub;
typedef struct sc_channel sc_channel;

/* Who hears of what. Called without the lock held, from the thread that caused it; must not block. Any may be NULL. */
typedef struct {
    void *ctx;
    void (*frames)(void *ctx);   /* a frame was queued or playback changed: look at the clock again */
    /* A text message for the viewers of a channel: all (viewer 0), one, or all but one. */
    void (*say)(void *ctx, sc_channel *c, uint64_t viewer, bool all_but, const char *text, size_t n);
    void (*closed)(void *ctx, sc_channel *c, int code, const char *reason);
    void *engine_ctx;
    void (*viewers)(void *engine_ctx); /* a viewer came or went */
    void *http_ctx;
    void (*released)(void *http_ctx, sc_channel *c);  /* a new newest frame, or the end */
    void (*shown)(void *http_ctx, sc_channel *c, uint32_t seq); /* prompts up to seq were seen; UINT32_MAX: never more */
    void (*logged)(void *http_ctx, sc_channel *c);    /* its log has a new event, or the session is gone */
} sc_hub_listener;

sc_hub *sc_hub_create(void);
void sc_hub_destroy(sc_hub *hub);                        /* all channels are gone by then */
void sc_hub_listen(sc_hub *hub, const sc_hub_listener *l); /* before any thread runs */

/* Takes part in lookups from now on. frames_max: room of the queue. NULL: out of memory. One reference is the caller's. log: moved, also when this
 * fails; NULL where nothing will ask for it. */
sc_channel *sc_channel_create(sc_hub *hub, const char *id, int fps, int frames_max, const sc_facts *facts, sc_session_log *log, uint64_t now_ns);
sc_channel *sc_channel_retain(sc_channel *c);
void sc_channel_release(sc_channel *c);
const char *sc_channel_id(const sc_channel *c);
sc_channel *sc_hub_find(sc_hub *hub, const char *id);    /* retained; NULL when there is none */
int sc_hub_list(sc_hub *hub, sc_channel **out, int max); /* retained, oldest first */

/* The session is over: leaves the lookups, viewers are closed with `code`. */
void sc_channel_close(sc_channel *c, int code, const char *reason);
bool sc_channel_closed(sc_channel *c);
/* Close the viewers; the session stays to be looked at (it failed). */
void sc_channel_kick(sc_channel *c, int code, const char *reason);

void sc_channel_publish(sc_channel *c, const sc_facts *facts);
/* Another schedule (NULL: none), together with the facts of it. Shared. */
void sc_channel_set_program(sc_channel *c, sc_program *program, const sc_facts *facts);
sc_program *sc_channel_program(sc_channel *c, sc_facts *facts); /* retained, and the facts that go with it */
/* What is written down of it, as long as the channel is there. Adding to it is for the engine thread, through sc_channel_record. */
sc_session_log *sc_channel_log(const sc_channel *c);
void sc_channel_record(sc_channel *c, const sc_log_line *line);
/* A copy, with what the hub itself knows. frame < 0: none shown yet. */
typedef struct {
    sc_facts facts;
    int64_t frame;
    int viewers;
    uint64_t sent, dropped, lookahead_ns;
    sc_stage_time encode;
} sc_channel_view;
void sc_channel_read(sc_channel *c, sc_channel_view *out, uint64_t now_ns);

/* Playout. */
void sc_channel_set_fps(sc_channel *c, int fps);
void sc_channel_set_play(sc_channel *c, bool paused, bool run_alone, uint64_t now_ns);
void sc_channel_hold_until(sc_channel *c, uint64_t ns);   /* the next frame is not due before */
void sc_channel_expect(sc_channel *c, int frames);        /* so many went to the encoder */
/* Moved in. first_of_chunk: *lateness_ns (may be NULL) = how late it came against the clock, negative = early. */
void sc_channel_push(sc_channel *c, sc_frame *f, uint64_t now_ns, int64_t *lateness_ns);
void sc_channel_lost(sc_channel *c, int frames);          /* expected frames that will not come */
void sc_channel_note_encode(sc_channel *c, uint64_t ns);

typedef struct {
    bool playing;        /* frames leave the queue */
    bool shown_any;
    int buffered;        /* frames queued or at the encoder */
    int viewers;
    uint64_t dry_ns;     /* when the queue runs dry, may be past; SC_NEVER while playback holds */
    uint64_t period_ns;
    uint64_t seen_ns;    /* when the last viewer left (or the session began); 0 while there is one */
    int quality_cap;     /* what viewers ask for at most; 0: no wish */
} sc_playout;
void sc_channel_playout(sc_channel *c, sc_playout *out, uint64_t now_ns);

/* Release what is due in all channels; `released` of the listener is called for each. Returns when the next frame is due (SC_NEVER: none
 * waits). Stream thread. */
uint64_t sc_hub_release_due(sc_hub *hub, uint64_t now_ns, void (*each)(void *ctx, sc_channel *c), void *ctx);
sc_frame *sc_channel_newest(sc_channel *c);               /* retained; NULL: none yet */

/* Viewers. `stream`: of the WebSocket kind, whose writes decide when a prompt counts as shown. */
void sc_channel_viewer(sc_channel *c, int delta, bool stream, uint64_t now_ns);
void sc_channel_quality_cap(sc_channel *c, int quality);
void sc_channel_count(sc_channel *c, uint64_t sent, uint64_t dropped);

/* A message for the viewers of a channel, see the listener. */
void sc_hub_say(sc_hub *hub, sc_channel *c, uint64_t viewer, bool all_but, const char *text, size_t n);

/* Prompts on their way: received -> applied -> shown, or superseded. Each step is told to the viewers; `ref` only to its sender. now_ns 0: nobody
 * waits for it, so how long it takes is not measured. */
void sc_channel_prompt_received(sc_channel *c, uint32_t seq, const char *text, size_t n, uint64_t chunk, sc_wire_transition t,
                                const char *ref, uint64_t viewer, uint64_t now_ns);
void sc_channel_prompt_applied(sc_channel *c, uint32_t seq, uint64_t chunk);
/* A frame made under `seq` was handed to a socket. Cheap when nothing waits. */
void sc_channel_prompt_shown(sc_channel *c, uint32_t seq, uint64_t now_ns);
bool sc_channel_prompt_seen(sc_channel *c, uint32_t seq);

#endif

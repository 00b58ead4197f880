/* scheduler_log.c - what of a session is written into its log (proto/log_line.h), and when. Engine thread.
 *
 *     chunk 11 begins (under another prompt: "prompt") ... frames out: to the encoder, then "chunk" | chunk 12 begins ...
 *
 * Order. A chunk begins only when the frames of the one before are out, so lines stand in the order in which a replay needs them. Prompts are written when
 * they take hold, from whatever way they came: one that another replaces before its chunk is not part of the stream.
 * Time. Frames are hashed behind the encoder's back, when they are on their way: a viewer does not wait for it. */
#include "server/scheduler_internal.h"
#include <string.h>

static void copy_text(char *to, size_t room, const char *from) {
    const size_t n = strnlen(from, room - 1);
    memcpy(to, from, n);
    to[n] = 0;
}

static void session_line(const sc_scheduler *s, const struct stream *t, const char *id, sc_log_line *l) {
    const sc_engine_options *o = &s->o.engine;
    const sc_facts *f = &t->facts;
    sc_log_made *m = &l->made;

    *l = (sc_log_line){.kind = SC_LINE_SESSION, .created = f->created, .seed = f->seed, .seq = f->prompt_seq, .prompt_bytes = f->prompt_bytes,
                       .made = {.width = s->info.width, .height = s->info.height, .steps = s->info.steps, .first_chunk_frames = s->info.frames_first,
                                .chunk_frames = s->info.frames_chunk}};
    memcpy(l->session, id, sizeof l->session);
    memcpy(l->prompt, f->prompt, sizeof l->prompt);
    copy_text(m->model, sizeof m->model, s->info.name);
    copy_text(m->digest, sizeof m->digest, s->info.digest);
    copy_text(m->device, sizeof m->device, o->device ? o->device : "cpu");
    copy_text(m->machine, sizeof m->machine, s->info.device);
    copy_text(m->text_device, sizeof m->text_device, o->text_device ? o->text_device : "model");
    copy_text(m->memory, sizeof m->memory, o->memory ? o->memory : "model");
}

sc_status sc_scheduler_log_open(const sc_scheduler *s, struct stream *t, const struct stream *from, sc_session_log *past, const char *id, sc_session_log **out,
                                sc_error *err) {
    sc_session_log *log = past ? past : sc_session_log_create(SC_SESSION_LOG_BYTES);
    const sc_facts *f = &t->facts;
    sc_log_line line;

    *out = past;
    if (past && t->returned) return SC_OK;
    *out = NULL;
    if (!log) return sc_fail(err, SC_ENOMEM, "session: no memory for its log");
    if (!from && !past) {
        session_line(s, t, id, &line);
        t->logged_seq = f->prompt_seq;
    } else if (from && sc_session_log_copy(log, sc_channel_log(from->channel), err)) {
        sc_session_log_destroy(log);
        return err->status;
    } else {
        line = (sc_log_line){.kind = SC_LINE_FORK, .chunk = f->forked_chunk, .created = f->created, .seed = f->seed};
        memcpy(line.session, id, sizeof line.session);
        memcpy(line.from, f->forked_from, sizeof line.from);
        if (from) t->logged_seq = from->logged_seq;
    }
    sc_session_log_add(log, &line);
    *out = log;
    return SC_OK;
}

void sc_scheduler_log_prompt(struct stream *t, sc_pass begins) {
    const sc_facts *f = &t->facts;
    const sc_wire_transition how = t->next_transition;
    sc_log_line line = {.kind = SC_LINE_PROMPT, .chunk = begins.chunk, .seq = f->prompt_seq, .prompt_bytes = f->prompt_bytes, .transition = how,
                        .blend_chunks = how == SC_WIRE_BLEND ? SC_BLEND_CHUNKS : 0};

    if (begins.prompt_seq == t->logged_seq) return;
    t->logged_seq = begins.prompt_seq;
    memcpy(line.prompt, f->prompt, sizeof line.prompt);
    sc_channel_record(t->channel, &line);
}

void sc_scheduler_log_chunk(struct stream *t, const sc_frames *f) {
    sc_log_line line = {.kind = SC_LINE_CHUNK, .chunk = f->chunk, .first_frame = f->first_frame, .frames = f->count};

    sc_frame_hash(f->data, (size_t)f->count * f->frame_bytes, line.hash);
    sc_channel_record(t->channel, &line);
}

void sc_scheduler_log_end(struct stream *t) {
    sc_log_line line = {.kind = SC_LINE_END};

    copy_text(line.state, sizeof line.state, sc_state_name(t->facts.state));
    copy_text(line.reason, sizeof line.reason, t->facts.reason);
    sc_channel_record(t->channel, &line);
}

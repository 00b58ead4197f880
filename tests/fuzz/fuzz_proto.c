/* fuzz_proto.c - libFuzzer over everything in proto/ that reads bytes of strangers, and over logs to be replayed.
 *
 * The first byte picks the reader. Whatever is refused must give a problem document that is JSON; whatever is accepted must hold its
 * promises (sizes, ranges, UTF-8). tests/fuzz/run.sh builds and runs it. */
#include "cli/replay_plan.h"
#include "proto/frame_header.h"
#include "proto/json.h"
#include "proto/log_line.h"
#include "proto/messages.h"
#include "proto/program.h"
#include "proto/requests.h"
#include "proto/saved.h"
#include "proto/video_json.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

static void check(bool ok) {
    if (!ok) abort();
}

static void parses(const char *text, size_t n) {
    sc_json_error e;
    cJSON *doc;

    check(n > 0 && sc_json_read(&doc, text, n, 1 << 20, &e) == SC_OK);
    cJSON_Delete(doc);
}

static void refused(const sc_problem *p) {
    static char buf[SC_SERVER_MESSAGE_MAX];
    size_t n;
    char *text = sc_problem_json(p, "/x", &n);

    check(text && p->status >= 400 && p->status < 500 && p->detail[0]);
    parses(text, n);
    free(text);
    parses(buf, sc_message_error(buf, sizeof buf, p, NULL));
}

static void holds(const sc_program *g) {
    sc_program_view view = {.program = g, .in_force = g ? g->count - 1 : -1, .in_force_seq = 7, .count = g ? g->count : 0};
    size_t n;

    check(!g || (g->count >= 1 && g->count <= SC_PROGRAM_ENTRIES_MAX && (!g->loop || g->period > 0) && sc_program_same(g, g)));
    for (int i = 0; i < view.count; i++) {
        const sc_program_entry *e = &g->entry[i];
        check(e->bytes >= 1 && e->bytes <= SC_PROMPT_TEXT_MAX && strlen(sc_program_prompt(g, i)) == e->bytes && e->at < UINT64_C(1) << 53);
        check(sc_text_bad_prompt(sc_program_prompt(g, i), e->bytes) == e->bytes);
        view.coming[i].entry = i;
    }
    char *text = sc_program_json(&view, &n);
    check(text != NULL);
    parses(text, n);
    free(text);
}

static void comes_back(const sc_log_line *l) {
    static sc_log_line again;
    sc_problem problem;
    sc_json_out o;
    size_t n;

    sc_json_out_grow(&o);
    sc_log_line_write(&o, l);
    char *text = sc_json_out_take(&o, &n);
    check(text && !memchr(text, '\n', n) && sc_log_line_read(text, n, &again, &problem) && !memcmp(l, &again, sizeof again));
    free(text);
}

static void log_of_lines(const char *text, size_t n) {
    sc_replay_plan p;
    sc_error err;

    if (sc_replay_plan_read(&p, text, n, &err)) {
        check(err.text[0] && !p.step);
        return;
    }
    check(p.end >= 1 && p.end <= p.count && p.step[p.end - 1].kind == SC_LINE_CHUNK && p.compared <= p.chunks && p.step[p.end - 1].chunk + 1 == p.chunks);
    sc_replay_plan_free(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static sc_create_request create;
    static sc_patch_request patch;
    static sc_fork_request fork;
    static sc_client_message message;
    static char out[SC_SERVER_MESSAGE_MAX];
    static sc_log_line line;
    static sc_saved saved;
    static sc_video_request video;
    char name[SC_SNAPSHOT_NAME_MAX + 1];
    sc_frame_header header;
    sc_problem problem;
    sc_program *program;
    const char *text = (const char *)data + 1;

    if (size == 0) return 0;
    size--;
    switch (data[0] % 11) {
    case 0:
        if (!sc_request_create(text, size, &create, &program, &problem)) {
            check(!program);
            refused(&problem);
            break;
        }
        check(create.prompt_bytes >= 1 && create.prompt_bytes <= SC_PROMPT_TEXT_MAX && strlen(create.prompt) == create.prompt_bytes);
        check(sc_text_bad_prompt(create.prompt, create.prompt_bytes) == create.prompt_bytes);
        check(create.fps >= 0 && create.fps <= 60 && create.lookahead_chunks <= 4 && create.idle_timeout_s <= 86400);
        holds(program);
        sc_program_release(program);
        break;
    case 1:
        if (!sc_request_patch(text, size, &patch, &problem)) refused(&problem);
        else check(patch.has_prompt || patch.state || patch.fps || patch.jpeg_quality || patch.idle_timeout_s);
        break;
    case 2:
        if (!sc_client_message_parse(text, size, &message, &problem)) refused(&problem);
        else if (message.kind == SC_CLIENT_PROMPT)
            parses(out, sc_message_prompt(out, sizeof out, 1, SC_PROMPT_RECEIVED, message.text, message.text_bytes, 0, message.transition, message.ref));
        else if (message.kind == SC_CLIENT_PING) parses(out, sc_message_pong(out, sizeof out, message.t, 1));
        break;
    case 3:
        if (sc_frame_header_read(&header, data + 1, size, NULL) == SC_OK) check(header.header_bytes <= size);
        break;
    case 4:
        if (!sc_request_fork(text, size, &fork, &problem)) {
            refused(&problem);
            break;
        }
        check(fork.has_prompt == (fork.prompt_bytes > 0) && strlen(fork.prompt) == fork.prompt_bytes && fork.prompt_bytes <= SC_PROMPT_TEXT_MAX);
        check(sc_text_bad_prompt(fork.prompt, fork.prompt_bytes) == fork.prompt_bytes && fork.at_chunk < UINT64_C(1) << 53);
        break;
    case 5:
        if (!sc_request_program(text, size, &program, &problem)) {
            check(!program);
            refused(&problem);
            break;
        }
        holds(program);
        sc_program_release(program);
        break;
    case 6:
        if (!sc_log_line_read(text, size, &line, &problem)) refused(&problem);
        else comes_back(&line);
        break;
    case 7: log_of_lines(text, size); break;
    case 8:
        if (!sc_request_snapshot(text, size, name, &problem)) refused(&problem);
        else check(sc_snapshot_name_valid(name, strlen(name)) && !strpbrk(name, "./"));
        break;
    case 9:
        if (!sc_saved_read(text, size, &saved, &program, &problem)) {
            check(!program);
            refused(&problem);
            break;
        }
        check(saved.fps >= 1 && saved.fps <= 60 && saved.prompt_bytes >= 1 && strlen(saved.prompt) == saved.prompt_bytes && saved.newest_seq >= saved.prompt_seq);
        holds(program);
        sc_program_release(program);
        break;
    case 10:
        if (!sc_request_video(text, size, &video, &problem)) {
            refused(&problem);
            break;
        }
        check(video.prompt_bytes >= 1 && video.prompt_bytes <= SC_PROMPT_TEXT_MAX && strlen(video.prompt) == video.prompt_bytes);
        check(video.seconds >= 0 && video.seconds <= SC_VIDEO_SECONDS_MAX && (video.width > 0) == (video.height > 0));
        break;
    }
    return 0;
}

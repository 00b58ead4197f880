/* test_server_snapshot_file.c - a snapshot's file is whole or refused, a full disk leaves the old one, and its words come back as they were. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/program.h"
#include "server/saved_text.h"
#include "server/snapshot_file.h"
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEXT = 1000, MEMORY = 5000, MOST = 4 };
static char path[64];
static int dir;

static int open_folder(void **state) {
    (void)state;
    strcpy(path, "/tmp/sc_snapshots_XXXXXX");
    return !mkdtemp(path) || (dir = open(path, O_RDONLY | O_DIRECTORY)) < 0;
}

static int remove_folder(void **state) {
    DIR *d = opendir(path);
    (void)state;
    for (const struct dirent *e; d && (e = readdir(d));) unlinkat(dir, e->d_name, 0);
    closedir(d);
    close(dir);
    return rmdir(path);
}

static int files(void) {
    DIR *d = opendir(path);
    int n = 0;
    for (const struct dirent *e; (e = readdir(d));) n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(d);
    return n;
}

static sc_snapshot_file make(int seed, size_t text, size_t memory) {
    sc_snapshot_file f = {.text = malloc(text + 1), .text_bytes = text, .memory = malloc(memory + 1), .memory_bytes = memory};
    for (size_t i = 0; i < text; i++) f.text[i] = (char)(seed + (int)i);
    for (size_t i = 0; i < memory; i++) ((unsigned char *)f.memory)[i] = (unsigned char)((seed + (int)i) * 7);
    return f;
}

static void holds(const char *name, int seed, size_t text, size_t memory) {
    sc_snapshot_file want = make(seed, text, memory), got;
    sc_error err = {0};
    if (sc_snapshot_file_read(dir, name, &got, &err)) fail_msg("%s", err.text);
    assert_true(got.text_bytes == text && got.memory_bytes == memory && got.bytes == 128 + (text + 63) / 64 * 64 + memory);
    assert_memory_equal(got.text, want.text, text);
    assert_memory_equal(got.memory, want.memory, memory);
    sc_snapshot_file_free(&got);
    sc_snapshot_file_free(&want);
}

static sc_status save(const char *name, int seed, size_t text, size_t memory, sc_error *err) {
    sc_snapshot_file f = make(seed, text, memory);
    const sc_status rc = sc_snapshot_file_write(dir, name, MOST, &f, err);
    sc_snapshot_file_free(&f);
    return rc;
}

static void a_file_comes_back_as_it_was_and_a_name_may_be_used_again(void **state) {
    static const size_t sizes[][2] = {{0, 0}, {1, 1}, {64, 0}, {63, 65}, {TEXT, MEMORY}};
    (void)state;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(save("a", i, sizes[i][0], sizes[i][1], NULL), SC_OK);
        holds("a", i, sizes[i][0], sizes[i][1]);
    }
    assert_int_equal(files(), 1);
}

static void refused(const char *name, sc_status want, const char *why) {
    sc_snapshot_file f = {.text = (char *)1};
    sc_error err = {0};
    assert_int_equal(sc_snapshot_file_read(dir, name, &f, &err), want);
    assert_true(!f.text && !f.memory);
    if (!strstr(err.text, why)) fail_msg("\"%s\" says nothing of \"%s\"", err.text, why);
}

static void every_flipped_bit_and_every_cut_is_found(void **state) {
    unsigned char byte;
    char file[96];
    struct stat st;

    (void)state;
    assert_int_equal(save("a", 3, TEXT, MEMORY, NULL), SC_OK);
    snprintf(file, sizeof file, "%s/a.snapshot", path);
    const int fd = open(file, O_RDWR);
    assert_true(fd >= 0 && !fstat(fd, &st));
    for (off_t i = 0; i < st.st_size; i += i < 128 ? 1 : 37) {
        const bool padding = (i >= 96 && i < 128) || (i >= 128 + TEXT && i < 128 + (TEXT + 63) / 64 * 64);
        if (padding) continue;
        assert_int_equal(pread(fd, &byte, 1, i), 1);
        byte ^= 16;
        assert_int_equal(pwrite(fd, &byte, 1, i), 1);
        refused("a", SC_EINVAL, "snapshot a: ");
        byte ^= 16;
        assert_int_equal(pwrite(fd, &byte, 1, i), 1);
    }
    holds("a", 3, TEXT, MEMORY);
    for (off_t n = st.st_size - 1; n >= 0; n -= n > 200 ? 41 : 1) {
        assert_int_equal(ftruncate(fd, n), 0);
        refused("a", SC_EINVAL, "snapshot a: ");
    }
    close(fd);
}

static void what_is_no_file_is_refused(void **state) {
    (void)state;
    refused("none", SC_ENOTFOUND, "no snapshot none");
    assert_int_equal(save("a", 1, 1, 1, NULL), SC_OK);
    assert_int_equal(symlinkat("a.snapshot", dir, "link.snapshot"), 0);
    refused("link", SC_EINVAL, "the file is none");
    assert_int_equal(mkfifoat(dir, "pipe.snapshot", 0600), 0);
    refused("pipe", SC_EINVAL, "the file is none");
    assert_int_equal(mkdirat(dir, "folder.snapshot", 0700), 0);
    refused("folder", SC_EINVAL, "the file is none");
    unlinkat(dir, "folder.snapshot", AT_REMOVEDIR);
}

static void a_full_disk_leaves_what_was_there(void **state) {
    struct rlimit was, little = {.rlim_cur = 4096};
    sc_error err = {0};

    (void)state;
    assert_int_equal(save("a", 1, TEXT, 100, NULL), SC_OK);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    little.rlim_max = was.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    assert_int_equal(save("a", 2, TEXT, MEMORY, &err), SC_EBUSY);
    assert_non_null(strstr(err.text, "no room on the disk"));
    assert_int_equal(save("b", 2, TEXT, MEMORY, NULL), SC_EBUSY);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    holds("a", 1, TEXT, 100);
    assert_int_equal(files(), 1);
    assert_int_equal(save("a", 2, TEXT, MEMORY, &err), SC_OK);
    holds("a", 2, TEXT, MEMORY);
}

static void there_are_so_many_names_and_no_more(void **state) {
    char name[2] = "a";
    sc_error err = {0};

    (void)state;
    for (; name[0] < 'a' + MOST; name[0]++) assert_int_equal(save(name, name[0], 1, 1, NULL), SC_OK);
    assert_int_equal(save("z", 0, 1, 1, &err), SC_EBUSY);
    assert_non_null(strstr(err.text, "there are 4 snapshots"));
    assert_int_equal(save("b", 1, TEXT, 1, NULL), SC_OK);
    assert_int_equal(unlinkat(dir, "a.snapshot", 0), 0);
    assert_int_equal(save("z", 0, 1, 1, NULL), SC_OK);
    const int left = openat(dir, ".b.tmp", O_CREAT | O_WRONLY, 0600); /* of a daemon that was killed */
    assert_true(left >= 0 && write(left, "x", 1) == 1);
    close(left);
    assert_int_equal(save("b", 5, TEXT, 7, NULL), SC_OK);
    holds("b", 5, TEXT, 7);
    assert_int_equal(files(), MOST);
}

/* ---- words -------------------------------------------------------------------------------------------------------------- */

static const char id[] = "abcdefghijklmnopqrstuvwxya";

static sc_saved saved_of(void) {
    sc_saved v = {.saved = 1764547200, .chunk = 12, .pts_us = 8812500, .last_pts_us = 8750000, .prompt_seq = 3, .newest_seq = 4, .logged_seq = 3, .prompt_chunk = 7,
                  .prompt = "n\xc3\xa4" "chts\n", .prompt_bytes = 8, .transition = SC_WIRE_NOT_GIVEN, .prompt_transition = SC_WIRE_BLEND, .fps = 15, .jpeg_quality = 77,
                  .lookahead_chunks = 2, .idle_timeout_s = 1234, .run_without_viewers = true, .paused = true, .forked_chunk = 4, .created = 1764540000};
    memcpy(v.forked_from, "zyxwvutsrqponmlkjihgfedcba", sizeof v.forked_from);
    v.prompt_bytes = strlen(v.prompt);
    memcpy(v.session, id, sizeof v.session);
    return v;
}

static sc_session_log *log_of(int chunks, bool with_gap) {
    sc_session_log *log = sc_session_log_create(with_gap ? 32768 : SC_SESSION_LOG_BYTES);
    sc_log_line l = {.kind = SC_LINE_SESSION, .created = 5, .seed = 7, .seq = 1, .prompt = "a", .prompt_bytes = 1, .transition = SC_WIRE_NOT_GIVEN,
                     .made = {.model = "m", .device = "cpu", .machine = "x", .text_device = "model", .memory = "model", .width = 8, .height = 8, .steps = 4,
                              .first_chunk_frames = 9, .chunk_frames = 12}};
    memcpy(l.session, id, sizeof l.session);
    memset(l.made.digest, 'a', 64);
    sc_session_log_add(log, &l);
    for (int c = 0; c < chunks; c++) {
        l = (sc_log_line){.kind = SC_LINE_CHUNK, .chunk = (uint64_t)c, .first_frame = c ? 12 * (uint64_t)c - 3 : 0, .frames = c ? 12 : 9};
        snprintf(l.hash, sizeof l.hash, "%032x", c);
        if (c == 3) {
            sc_log_line p = {.kind = SC_LINE_PROMPT, .chunk = 3, .seq = 2, .prompt = "b", .prompt_bytes = 1, .transition = SC_WIRE_CUT};
            sc_session_log_add(log, &p);
        }
        sc_session_log_add(log, &l);
    }
    return log;
}

static void the_words_come_back_and_numbers_of_events_go_on(void **state) {
    static const char schedule[] = "{\"prompts\":[{\"at_chunk\":20,\"prompt\":\"snow\"}]}";
    const sc_saved v = saved_of();

    (void)state;
    for (int round = 0; round < 2; round++) {
        sc_session_log *log = log_of(round ? 2000 : 12, round);
        sc_log_line a, b;
        sc_saved_text back;
        sc_error err = {0};
        bool ended;
        size_t n, again_n;
        char *text = sc_saved_text_write(&v, round ? schedule : NULL, round ? sizeof schedule - 1 : 0, log, &n), *again;
        if (sc_saved_text_read(text, n, &back, &err)) fail_msg("%s", err.text);
        assert_memory_equal(&back.saved, &v, sizeof v);
        assert_true((back.schedule != NULL) == round);
        if (round) assert_string_equal(sc_program_prompt(back.schedule, 0), "snow");
        assert_true(sc_session_log_newest(back.log, &ended) == sc_session_log_newest(log, &ended) && !ended);
        for (uint64_t at = 0; sc_session_log_next(log, at, &a); at = a.kind == SC_LINE_LOST ? a.last : a.event) {
            assert_true(sc_session_log_next(back.log, at, &b));
            assert_memory_equal(&a, &b, sizeof a);
        }
        again = sc_saved_text_write(&back.saved, round ? schedule : NULL, round ? sizeof schedule - 1 : 0, back.log, &again_n);
        assert_int_equal(again_n, n);
        assert_memory_equal(again, text, n);
        for (size_t cut = 0; cut < (n < 4096 ? n : 4096); cut++) { /* whole lines of a log are a log */
            const bool whole = cut && text[cut - 1] == '\n' && memchr(text, '\n', cut - 1);
            sc_saved_text part;
            const sc_status rc = sc_saved_text_read(text, cut, &part, &err);
            assert_int_equal(rc, whole ? SC_OK : SC_EINVAL);
            sc_saved_text_free(&part);
        }
        for (size_t i = 0; i < n && i < 6000; i++) /* whatever it says, it is read or refused */
            for (int bit = 0; bit < 8; bit += 3) {
                sc_saved_text part;
                text[i] ^= (char)(1 << bit);
                if (!sc_saved_text_read(text, n < 6000 ? n : 6000, &part, &err)) sc_saved_text_free(&part);
                text[i] ^= (char)(1 << bit);
            }
        free(again);
        free(text);
        sc_saved_text_free(&back);
        sc_session_log_destroy(log);
    }
}

static sc_program *program_of(const char *body) {
    sc_program *g;
    sc_problem p = {0};
    if (!sc_request_program(body, strlen(body), &g, &p)) fail_msg("%s", p.detail);
    return g;
}

/* What is to come of it, chunk by chunk, is the same for a schedule that was written down in the middle. */
static void the_rest_of_a_schedule_comes_when_it_would_have_come(void **state) {
    static const char *const bodies[] = {
        "{\"prompts\":[{\"at_chunk\":2,\"prompt\":\"a\"},{\"at_chunk\":9,\"prompt\":\"b\",\"transition\":\"cut\"},{\"at_s\":20.51,\"prompt\":\"c\"}]}",
        "{\"text\":\"a[2s] | b[3.3s] | c[4s]\",\"loop\":true}",
        "{\"text\":\"a[2s] | b[3.3s] | c\"}",
        "{\"prompts\":[{\"at_chunk\":2,\"prompt\":\"a\"},{\"at_chunk\":5,\"prompt\":\"b\"},{\"at_chunk\":6,\"prompt\":\"c\",\"for_chunks\":4}],\"loop\":true}"};
    (void)state;
    for (size_t k = 0; k < sizeof bodies / sizeof *bodies; k++)
        for (uint64_t stop = 1; stop < 40; stop++) {
            sc_program *g = program_of(bodies[k]), *rest = NULL;
            sc_program_clock clock = {.fps = 16, .frames_first = 9, .frames_chunk = 12};
            sc_program_state s, r = {0};
            sc_problem p = {0};
            assert_true(sc_program_begin(g, &clock, 0, "", &s, &p));
            for (uint64_t c = 0; c < 80; c++) {
                const char *heard[2] = {"", ""};
                if (c == stop) {
                    size_t n;
                    char *text = sc_program_rest(g, &s, &clock, &n);
                    if (text) rest = program_of(text);
                    if (!sc_program_begin(rest, &clock, c, "", &r, &p)) fail_msg("%s: %s", text, p.detail);
                    free(text);
                }
                for (int side = 0; side < (c >= stop ? 2 : 1); side++) {
                    const sc_program *who = side ? rest : g;
                    sc_program_state *at = side ? &r : &s;
                    if (sc_program_next_chunk(who, at, &clock) > c + 1) continue;
                    heard[side] = sc_program_prompt(who, sc_program_due(who, at, &clock, c + 1));
                    sc_program_gave(who, at, 1, c + 1, 0);
                }
                if (c >= stop) assert_string_equal(heard[1], heard[0]);
                clock.pts_us = (clock.chunk ? 562500 + clock.chunk * 750000 : 562500);
                clock.chunk++;
            }
            sc_program_release(g);
            sc_program_release(rest);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_file_comes_back_as_it_was_and_a_name_may_be_used_again, open_folder, remove_folder),
        cmocka_unit_test_setup_teardown(every_flipped_bit_and_every_cut_is_found, open_folder, remove_folder),
        cmocka_unit_test_setup_teardown(what_is_no_file_is_refused, open_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_full_disk_leaves_what_was_there, open_folder, remove_folder),
        cmocka_unit_test_setup_teardown(there_are_so_many_names_and_no_more, open_folder, remove_folder),
        cmocka_unit_test(the_words_come_back_and_numbers_of_events_go_on),
        cmocka_unit_test(the_rest_of_a_schedule_comes_when_it_would_have_come),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

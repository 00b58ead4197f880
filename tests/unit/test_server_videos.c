/* test_server_videos.c - the table of clips: orders, bounds, what a second beginning makes of the first; and the thread that makes their files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/jpeg.h"
#include "server/video_maker.h"
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WIDTH = 32, HEIGHT = 16, FPS = 4, FRAME = WIDTH * HEIGHT * 3 / 2 };

static sc_videos *table(uint64_t bytes_max) {
    sc_videos *v;
    sc_error err;
    if (sc_videos_create(&v, NULL, bytes_max, &err)) fail_msg("%s", err.text);
    return v;
}

static sc_video ask(sc_videos *v, int64_t now) {
    sc_video one = {.prompt = "a", .prompt_bytes = 1, .model = "m", .seconds = 2, .width = WIDTH, .height = HEIGHT, .fps = FPS, .jpeg_quality = 85};
    sc_problem p = {0};
    if (!sc_videos_add(v, &one, now, &p)) fail_msg("%s", p.detail);
    return one;
}

static sc_video_status status(sc_videos *v, const sc_video *one) {
    static sc_video got;
    assert_true(sc_videos_get(v, one->id, 0, &got));
    return got.status;
}

/* One of n bytes, from the queue to its file. */
static sc_video finish(sc_videos *v, uint64_t bytes, int64_t now) {
    sc_video job;
    sc_error err = {0};
    int fd;
    assert_true(sc_videos_take(v, &job));
    assert_int_equal(sc_videos_new_file(v, &fd, &err), SC_OK);
    sc_videos_complete(v, &job, fd, bytes, now);
    return job;
}

static void jobs_are_taken_in_order_and_listed_from_both_ends(void **state) {
    sc_videos *v = table(1000);
    sc_video a = ask(v, 1), b = ask(v, 2), c = ask(v, 3), got, list[3];
    bool more;

    (void)state;
    assert_true(sc_videos_take(v, &got));
    assert_string_equal(got.id, a.id);
    assert_int_equal(status(v, &a), SC_VIDEO_IN_PROGRESS);
    assert_int_equal(sc_videos_list(v, NULL, false, 0, list, 2, &more), 2);
    assert_true(more && !strcmp(list[0].id, c.id) && !strcmp(list[1].id, b.id));
    assert_int_equal(sc_videos_list(v, b.id, false, 0, list, 2, &more), 1);
    assert_true(!more && !strcmp(list[0].id, a.id));
    assert_int_equal(sc_videos_list(v, NULL, true, 0, list, 3, &more), 3);
    assert_true(!more && !strcmp(list[0].id, a.id));
    assert_int_equal(sc_videos_list(v, c.id, true, 0, list, 3, &more), 0);
    assert_int_equal(sc_videos_list(v, "nobody", true, 0, list, 3, &more), -1);
    assert_true(sc_videos_remove(v, b.id));
    assert_false(sc_videos_remove(v, b.id));
    assert_true(sc_videos_take(v, &got));
    assert_string_equal(got.id, c.id);
    assert_false(sc_videos_take(v, &got));
    sc_videos_destroy(v);
}

static void so_many_wait_and_no_more(void **state) {
    sc_videos *v = table(1000);
    sc_video one = {.seconds = 1, .fps = 1}, job;
    sc_problem p = {0};

    (void)state;
    for (int i = 0; i < SC_VIDEOS_QUEUED; i++) ask(v, i);
    assert_false(sc_videos_add(v, &one, 0, &p));
    assert_int_equal(p.status, 429);
    assert_true(sc_videos_take(v, &job));
    ask(v, 99);
    sc_videos_destroy(v);
}

static void the_oldest_finished_makes_place_and_a_day_ends_it(void **state) {
    sc_videos *v = table(1000);
    sc_video first, second, got;
    int fd;

    (void)state;
    ask(v, 0);
    first = finish(v, 400, 100);
    ask(v, 1);
    second = finish(v, 400, 200);
    assert_true(sc_videos_open(v, first.id, 0, &got, &fd) && fd >= 0);
    assert_int_equal(got.bytes, 400);
    assert_int_equal(got.done, 8);
    ask(v, 2);
    finish(v, 300, 300); /* 1100 bytes are too many */
    assert_false(sc_videos_get(v, first.id, 0, &got));
    assert_int_equal(lseek(fd, 0, SEEK_END), 0); /* who reads goes on */
    close(fd);
    assert_true(sc_videos_get(v, second.id, 199 + SC_VIDEO_LIFE_S, &got));
    assert_int_equal(got.expires, 200 + SC_VIDEO_LIFE_S);
    assert_false(sc_videos_get(v, second.id, 200 + SC_VIDEO_LIFE_S, &got));
    for (int i = 0; i < SC_VIDEOS_MAX + 3; i++) {
        ask(v, 4);
        finish(v, 1, 300);
    }
    ask(v, 5);
    const sc_video big = finish(v, 1001, 5);
    assert_true(sc_videos_get(v, big.id, 0, &got));
    assert_int_equal(got.status, SC_VIDEO_FAILED);
    assert_string_equal(got.error_code, "storage_full");
    sc_videos_destroy(v);
}

static void what_was_put_back_is_begun_anew_and_its_first_run_says_nothing(void **state) {
    sc_videos *v = table(1000);
    sc_video one = ask(v, 0), first, second, got;
    sc_error err = {0};

    (void)state;
    assert_true(sc_videos_take(v, &first));
    assert_true(sc_videos_progress(v, &first, 4, 100, &err));
    sc_videos_put_back(v, &first);
    assert_true(sc_videos_get(v, one.id, 0, &got));
    assert_true(got.status == SC_VIDEO_QUEUED && got.done == 0 && got.bytes == 0);
    assert_true(sc_videos_take(v, &second));
    assert_false(sc_videos_wanted(v, &first));
    assert_true(sc_videos_wanted(v, &second));
    sc_videos_fail(v, &first, "x", "x");
    assert_false(sc_videos_progress(v, &first, 4, 100, &err));
    assert_int_equal(err.status, SC_OK);
    sc_videos_put_back(v, &first);
    assert_int_equal(status(v, &one), SC_VIDEO_IN_PROGRESS);
    assert_true(sc_videos_remove(v, one.id));
    assert_false(sc_videos_wanted(v, &second));
    sc_videos_destroy(v);
}

static void files_lie_in_the_state_directory_without_a_name(void **state) {
    char dir[] = "/tmp/sparsecast-videos-XXXXXX", path[64];
    sc_videos *v;
    sc_error err;
    int fd, count = 0;

    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(sc_videos_create(&v, dir, 1000, &err), SC_OK);
    assert_int_equal(sc_videos_new_file(v, &fd, &err), SC_OK);
    assert_int_equal(write(fd, "x", 1), 1);
    snprintf(path, sizeof path, "%s/videos", dir);
    DIR *d = opendir(path);
    assert_non_null(d);
    while (readdir(d)) count++;
    closedir(d);
    assert_int_equal(count, 2); /* . and .. */
    close(fd);
    sc_videos_destroy(v);
    rmdir(path);
    rmdir(dir);
    assert_int_equal(sc_videos_create(&v, "/dev/null/x", 1000, &err), SC_EINVAL);
}

/* ---- the thread ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int rooms;

static void room(void *ctx) {
    (void)ctx;
    pthread_mutex_lock(&lock);
    rooms++;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

static void until_done(int n) {
    pthread_mutex_lock(&lock);
    while (rooms < n) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void picture(int frame, uint8_t out[FRAME]) {
    for (int i = 0; i < FRAME; i++) out[i] = (uint8_t)(i * (frame + 3) >> 2);
}

static void chunks_become_a_file_of_the_same_jpegs(void **state) {
    static uint8_t pixels[5 * FRAME];
    static unsigned char jpeg[65536], whole[65536];
    sc_videos *v = table(1 << 20);
    sc_video one, job, got;
    sc_video_maker *m;
    sc_error err;
    size_t n;
    int fd, done = 0;

    (void)state;
    rooms = 0;
    assert_int_equal(sc_video_maker_start(&m, v, room, NULL, &err), SC_OK);
    one = ask(v, 0);
    assert_true(sc_videos_take(v, &job));
    for (int first = 0, count; first < 10; first += count) { /* 2, then 5 and 3 more than are wanted */
        count = first ? 5 : 2;
        for (int i = 0; i < count; i++) picture(first + i, pixels + i * FRAME);
        sc_frames f = {.first_frame = (uint64_t)first, .count = count, .data = pixels, .frame_bytes = FRAME};
        assert_true(sc_video_maker_has_room(m));
        assert_int_equal(sc_video_maker_give(m, &job, &f, &err), SC_OK);
        until_done(++done);
    }
    assert_true(sc_videos_open(v, one.id, 0, &got, &fd) && fd >= 0);
    assert_true(got.status == SC_VIDEO_COMPLETED && got.done == 8);
    assert_int_equal(pread(fd, whole, sizeof whole, 0), got.bytes);
    const unsigned char *at = (unsigned char *)memmem(whole, got.bytes, "mdat", 4) + 4;
    void *handle = sc_jpeg_open();
    for (int i = 0; i < 8; i++, at += n) {
        picture(i, pixels);
        assert_int_equal(sc_jpeg_encode(handle, pixels, WIDTH, HEIGHT, 85, jpeg, sizeof jpeg, &n, &err), SC_OK);
        assert_memory_equal(at, jpeg, n);
    }
    assert_ptr_equal(at, whole + got.bytes);
    sc_jpeg_close(handle);
    close(fd);

    /* One that is dropped in the middle, and one after it. */
    one = ask(v, 1);
    assert_true(sc_videos_take(v, &job));
    sc_frames f = {.count = 5, .data = pixels, .frame_bytes = FRAME};
    assert_int_equal(sc_video_maker_give(m, &job, &f, &err), SC_OK);
    until_done(++done);
    sc_videos_put_back(v, &job);
    sc_video_maker_drop(m);
    until_done(++done);
    assert_true(sc_videos_take(v, &job));
    assert_int_equal(sc_video_maker_give(m, &job, &f, &err), SC_OK);
    until_done(++done);
    assert_true(sc_videos_get(v, one.id, 0, &got));
    assert_true(got.status == SC_VIDEO_IN_PROGRESS && got.done == 5);
    sc_video_maker_stop(m); /* in the middle of it */
    sc_videos_destroy(v);
}

static void no_room_for_a_file_fails_its_job(void **state) {
    static uint8_t pixels[FRAME];
    sc_videos *v = table(100);
    sc_video one = ask(v, 0), job, got;
    sc_video_maker *m;
    sc_error err;
    sc_frames f = {.count = 1, .data = pixels, .frame_bytes = FRAME};

    (void)state;
    rooms = 0;
    assert_int_equal(sc_video_maker_start(&m, v, room, NULL, &err), SC_OK);
    assert_true(sc_videos_take(v, &job));
    assert_int_equal(sc_video_maker_give(m, &job, &f, &err), SC_OK);
    until_done(1);
    assert_true(sc_videos_get(v, one.id, 0, &got));
    assert_true(got.status == SC_VIDEO_FAILED && got.bytes == 0);
    assert_string_equal(got.error_code, "storage_full");
    f.first_frame = 1;
    assert_int_equal(sc_video_maker_give(m, &job, &f, &err), SC_OK); /* was on its way: nothing comes of it */
    until_done(2);
    sc_video_maker_stop(m);
    sc_videos_destroy(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_are_taken_in_order_and_listed_from_both_ends),
        cmocka_unit_test(so_many_wait_and_no_more),
        cmocka_unit_test(the_oldest_finished_makes_place_and_a_day_ends_it),
        cmocka_unit_test(what_was_put_back_is_begun_anew_and_its_first_run_says_nothing),
        cmocka_unit_test(files_lie_in_the_state_directory_without_a_name),
        cmocka_unit_test(chunks_become_a_file_of_the_same_jpegs),
        cmocka_unit_test(no_room_for_a_file_fails_its_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_server_video_file.c - what is packed is read back through the same library: frames to the byte, times without rounding, the index in front. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/video_file.h"
#include <fcntl.h>
#include <libavformat/avformat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { WIDTH = 256, HEIGHT = 160 };

/* A frame as far as a muxer looks: sizes differ, so that no two are taken for each other. */
static size_t frame(int i, unsigned char out[4096]) {
    const size_t n = 100 + (size_t)(i * 37 % 2000);
    for (size_t k = 0; k < n; k++) out[k] = (unsigned char)(i * 131 + (int)k * 7);
    out[0] = 0xff, out[1] = 0xd8, out[n - 2] = 0xff, out[n - 1] = 0xd9;
    return n;
}

static int made(int fps, int frames) {
    unsigned char data[4096];
    sc_video_file *f;
    sc_error err;
    const int fd = memfd_create("video", MFD_CLOEXEC);

    assert_true(fd >= 0);
    if (sc_video_file_open(&f, fd, WIDTH, HEIGHT, fps, frames, &err)) fail_msg("%s", err.text);
    for (int i = 0; i < frames; i++)
        if (sc_video_file_add(f, data, frame(i, data), &err)) fail_msg("%s", err.text);
    if (sc_video_file_finish(f, &err)) fail_msg("%s", err.text);
    assert_int_equal(sc_video_file_bytes(f), lseek(fd, 0, SEEK_END));
    sc_video_file_close(f);
    return fd;
}

static void frames_come_back_to_the_byte_at_their_times(void **state) {
    static const struct { int fps, frames; } cases[] = {{16, 1}, {16, 64}, {1, 3}, {7, 50}, {16, 1920}, {60, 7200}};

    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const int fd = made(cases[c].fps, cases[c].frames);
        unsigned char want[4096];
        char path[64];
        AVFormatContext *in = NULL;
        AVPacket *p = av_packet_alloc();
        int count = 0;

        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        assert_int_equal(avformat_open_input(&in, path, NULL, NULL), 0);
        assert_int_equal(in->nb_streams, 1);
        const AVStream *s = in->streams[0];
        assert_int_equal(s->codecpar->codec_id, AV_CODEC_ID_MJPEG);
        assert_int_equal(s->codecpar->width, WIDTH);
        assert_int_equal(s->codecpar->height, HEIGHT);
        for (; av_read_frame(in, p) >= 0; av_packet_unref(p), count++) {
            const size_t n = frame(count, want);
            assert_int_equal(p->size, n);
            assert_memory_equal(p->data, want, n);
            assert_int_equal(p->pts * s->time_base.num * cases[c].fps, (int64_t)count * s->time_base.den); /* exactly count / fps */
            assert_int_equal(p->duration * s->time_base.num * cases[c].fps, s->time_base.den);
        }
        assert_int_equal(count, cases[c].frames);
        assert_int_equal(s->duration * s->time_base.num * cases[c].fps, (int64_t)count * s->time_base.den);
        av_packet_free(&p);
        avformat_close_input(&in);
        close(fd);
    }
}

static void the_index_stands_in_front_and_the_same_frames_make_the_same_file(void **state) {
    const int a = made(16, 64), b = made(16, 64);
    const off_t n = lseek(a, 0, SEEK_END);

    (void)state;
    assert_int_equal(n, lseek(b, 0, SEEK_END));
    unsigned char *x = mmap(NULL, (size_t)n, PROT_READ, MAP_SHARED, a, 0), *y = mmap(NULL, (size_t)n, PROT_READ, MAP_SHARED, b, 0);
    assert_true(x != MAP_FAILED && y != MAP_FAILED);
    assert_memory_equal(x, y, (size_t)n);
    const unsigned char *moov = memmem(x, (size_t)n, "moov", 4), *mdat = memmem(x, (size_t)n, "mdat", 4);
    assert_true(moov && mdat && moov < mdat);
    munmap(x, (size_t)n);
    munmap(y, (size_t)n);
    close(a);
    close(b);
}

static void a_full_disk_is_said_and_one_given_up_leaves_nothing_behind(void **state) {
    unsigned char data[4096];
    sc_video_file *f;
    sc_error err = {0};
    const int full = open("/dev/full", O_WRONLY), fd = memfd_create("video", MFD_CLOEXEC);

    (void)state;
    assert_true(full >= 0 && fd >= 0);
    sc_status rc = sc_video_file_open(&f, full, WIDTH, HEIGHT, 16, 64, &err);
    for (int i = 0; !rc && i < 1000; i++) rc = sc_video_file_add(f, data, frame(i, data), &err);
    assert_int_equal(rc, SC_EBUSY);
    assert_non_null(strstr(err.text, "no room"));
    sc_video_file_close(f);
    assert_int_equal(sc_video_file_open(&f, fd, WIDTH, HEIGHT, 16, 64, &err), SC_OK);
    assert_int_equal(sc_video_file_add(f, data, frame(0, data), &err), SC_OK);
    sc_video_file_close(f); /* the sanitizer says whether all is freed */
    close(fd);
    close(full);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_come_back_to_the_byte_at_their_times),
        cmocka_unit_test(the_index_stands_in_front_and_the_same_frames_make_the_same_file),
        cmocka_unit_test(a_full_disk_is_said_and_one_given_up_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

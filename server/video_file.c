/* video_file.c - see video_file.h. libavformat writes through callbacks of ours, so it sees no path and what the disk said is kept. */
#include "server/video_file.h"
#include <errno.h>
#include <libavformat/avformat.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BUFFER = 1 << 16, INDEX = 4096, INDEX_A_FRAME = 32 }; /* a frame has a size, a place at most, and nothing else in the index */

struct sc_video_file {
    AVFormatContext *format;
    AVIOContext *io;
    AVPacket *packet;
    int fd, fps, why;           /* why: errno of the first write that failed */
    bool begun;
    int64_t at, end, next;      /* in the file; its end; the next frame */
};

bool sc_video_file_there(void) { return true; }

static int on_write(void *ctx, uint8_t *data, int n) {
    sc_video_file *f = ctx;
    for (int done = 0; done < n;) {
        const ssize_t k = pwrite(f->fd, data + done, (size_t)(n - done), (off_t)f->at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) {
            if (!f->why) f->why = k < 0 ? errno : EIO;
            return AVERROR(f->why);
        }
        done += (int)k;
        f->at += k;
        if (f->at > f->end) f->end = f->at;
    }
    return n;
}

static int64_t on_seek(void *ctx, int64_t to, int whence) {
    sc_video_file *f = ctx;
    switch (whence & ~AVSEEK_FORCE) {
    case AVSEEK_SIZE: return f->end;
    case SEEK_SET: return f->at = to;
    case SEEK_CUR: return f->at += to;
    case SEEK_END: return f->at = f->end + to;
    }
    return AVERROR(EINVAL);
}

/* What libavformat or, before it, the disk said. */
static sc_status failed(sc_video_file *f, const char *what, int code, sc_error *err) {
    char text[128] = "";
    if (!f->why && f->io && f->io->error) code = f->io->error;
    if (f->why == ENOSPC || f->why == EDQUOT || f->why == EFBIG) return sc_fail(err, SC_EBUSY, "video: there is no room for it");
    if (code == AVERROR(ENOMEM)) return sc_fail(err, SC_ENOMEM, "video: out of memory");
    av_strerror(code, text, sizeof text);
    return sc_fail(err, SC_EIO, "video: %s: %s", what, f->why ? strerror(f->why) : text);
}

void sc_video_file_close(sc_video_file *f) {
    if (!f) return;
    if (f->format && f->begun) { /* given up in the middle: what the muxer keeps is freed by its trailer alone, which must not reach the file */
        f->fd = -1;
        av_write_trailer(f->format);
    }
    if (f->io) av_freep(&f->io->buffer);
    avio_context_free(&f->io);
    avformat_free_context(f->format);
    av_packet_free(&f->packet);
    free(f);
}

sc_status sc_video_file_open(sc_video_file **out, int fd, int width, int height, int fps, int frames, sc_error *err) {
    AVDictionary *options = NULL;
    sc_video_file *f = calloc(1, sizeof *f);
    unsigned char *buffer = av_malloc(BUFFER);
    AVStream *s = NULL;
    int rc;

    *out = NULL;
    if (!f || !buffer) {
        free(f);
        av_free(buffer);
        return sc_fail(err, SC_ENOMEM, "video: out of memory");
    }
    f->fd = fd;
    f->fps = fps;
    f->io = avio_alloc_context(buffer, BUFFER, 1, f, NULL, on_write, on_seek);
    if (!f->io) av_free(buffer);
    f->packet = av_packet_alloc();
    avformat_alloc_output_context2(&f->format, NULL, "mp4", NULL);
    if (f->format) s = avformat_new_stream(f->format, NULL);
    if (!f->io || !f->packet || !s) {
        sc_video_file_close(f);
        return sc_fail(err, SC_ENOMEM, "video: out of memory");
    }
    f->format->pb = f->io;
    f->format->flags |= AVFMT_FLAG_CUSTOM_IO | AVFMT_FLAG_BITEXACT;
    s->codecpar->codec_type = AVMEDIA_TYPE_VIDEO;
    s->codecpar->codec_id = AV_CODEC_ID_MJPEG;
    s->codecpar->width = width;
    s->codecpar->height = height;
    s->time_base = (AVRational){1, fps};
    s->avg_frame_rate = (AVRational){fps, 1};
    av_dict_set_int(&options, "moov_size", INDEX + (int64_t)INDEX_A_FRAME * frames, 0);
    rc = avformat_write_header(f->format, &options);
    av_dict_free(&options);
    if (rc < 0) {
        failed(f, "header", rc, err);
        sc_video_file_close(f);
        return err ? err->status : SC_EIO;
    }
    f->begun = true;
    *out = f;
    return SC_OK;
}

sc_status sc_video_file_add(sc_video_file *f, const void *jpeg, size_t n, sc_error *err) {
    AVStream *s = f->format->streams[0];
    int rc;

    if (n > INT32_MAX) return sc_fail(err, SC_EIO, "video: a frame of %zu bytes", n);
    f->packet->data = (uint8_t *)(uintptr_t)jpeg; /* read only: the muxer writes it out before it returns */
    f->packet->size = (int)n;
    f->packet->pts = f->packet->dts = f->next++;
    f->packet->duration = 1;
    f->packet->flags = AV_PKT_FLAG_KEY;
    av_packet_rescale_ts(f->packet, (AVRational){1, f->fps}, s->time_base);
    rc = av_write_frame(f->format, f->packet);
    av_packet_unref(f->packet);
    return rc < 0 || f->why ? failed(f, "frame", rc, err) : SC_OK;
}

uint64_t sc_video_file_bytes(const sc_video_file *f) { return (uint64_t)f->end; }

sc_status sc_video_file_finish(sc_video_file *f, sc_error *err) {
    f->begun = false;
    const int rc = av_write_trailer(f->format);
    avio_flush(f->io);
    return rc < 0 || f->why ? failed(f, "index", rc, err) : SC_OK;
}

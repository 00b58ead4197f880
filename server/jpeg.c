/* jpeg.c - see jpeg.h. TurboJPEG 2.1 writes up to tjBufSize() bytes whatever size it was told, so the scratch has that size. */
#include "server/jpeg.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/metrics.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <turbojpeg.h>

enum { QUEUE = 8 };

struct sc_encoder {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    sc_encode_job *jobs[QUEUE]; /* guarded by lock; each followed by its pixels */
    int head, count;
    bool stop, started;
    sc_hub *hub;
};

void *sc_jpeg_open(void) { return tjInitCompress(); }
void sc_jpeg_close(void *h) { if (h) tjDestroy(h); }
size_t sc_jpeg_bytes_max(int width, int height) { return tjBufSize(width, height, TJSAMP_420); }

sc_status sc_jpeg_encode(void *handle, const uint8_t *i420, int width, int height, int quality, unsigned char *buf, size_t cap,
                         size_t *n, sc_error *err) {
    int cw = (width + 1) / 2, ch = (height + 1) / 2;
    const unsigned char *planes[3] = {i420, i420 + (size_t)width * (size_t)height,
                                      i420 + (size_t)width * (size_t)height + (size_t)cw * (size_t)ch};
    const int strides[3] = {width, cw, cw};
    unsigned long size = cap;

    if (quality < 1 || quality > 100 || width < 1 || height < 1 || cap < sc_jpeg_bytes_max(width, height))
        return sc_fail(err, SC_EINVAL, "jpeg: quality %d, %dx%d, room %zu", quality, width, height, cap);
    if (tjCompressFromYUVPlanes(handle, planes, width, strides, height, TJSAMP_420, &buf, &size, quality, TJFLAG_NOREALLOC))
        return sc_fail(err, SC_EINVAL, "jpeg: %s", tjGetErrorStr2(handle));
    *n = size;
    return SC_OK;
}

static uint32_t us32(uint64_t ns) { return ns / 1000 > UINT32_MAX ? UINT32_MAX : (uint32_t)(ns / 1000); }

/* The chunk's message to viewers, once its last frame is encoded. */
static void tell_chunk(sc_encoder *e, const sc_encode_job *j, uint64_t encode_ns, int64_t lateness_ns) {
    char text[512];
    sc_chunk_times t = {j->chunk, (double)j->wait_ns * 1e-6, (double)j->denoise_ns * 1e-6, (double)j->decode_ns * 1e-6,
                        (double)encode_ns * 1e-6, (double)lateness_ns * 1e-6};
    sc_hub_say(e->hub, j->channel, 0, false, text, sc_message_chunk(text, sizeof text, &t));
}

static void encode_chunk(sc_encoder *e, void *handle, const sc_encode_job *j, unsigned char *buf, size_t cap) {
    uint64_t encode_ns = 0;
    int64_t lateness_ns = 0;
    for (int i = 0; i < j->count; i++) {
        sc_error err;
        size_t n = 0;
        uint64_t begin = sc_now_ns();
        if (sc_jpeg_encode(handle, j->data + (size_t)i * j->frame_bytes, j->width, j->height, j->quality, buf, cap, &n, &err)) {
            sc_log(SC_LOG_ERROR, "encoder", "session=%s chunk=%llu frame=%d %s", sc_channel_id(j->channel),
                   (unsigned long long)j->chunk, i, err.text);
            sc_channel_lost(j->channel, 1);
            continue;
        }
        uint64_t took = sc_now_ns() - begin;
        encode_ns += took;
        sc_metrics_time(SC_TIME_ENCODE, took);
        sc_frame_header head = {
            .flags = (uint16_t)((i == 0 && !j->past ? SC_FRAME_CHUNK : 0) | (i == 0 && j->first_of_prompt ? SC_FRAME_PROMPT : 0)),
            .frame = j->first_frame + (uint64_t)i, .chunk = (uint32_t)j->chunk, .prompt_seq = j->prompt_seq,
            .pts_us = j->first_pts_us + (uint64_t)i * 1000000u / (uint64_t)j->fps,
            .wait_us = us32(j->wait_ns), .denoise_us = us32(j->denoise_ns), .decode_us = us32(j->decode_ns), .encode_us = us32(took),
            .width = (uint16_t)j->width, .height = (uint16_t)j->height,
        };
        sc_frame *f = sc_frame_create(&head, buf, n);
        if (!f) { sc_channel_lost(j->channel, 1); continue; }
        sc_channel_push(j->channel, f, sc_now_ns(), i == 0 ? &lateness_ns : NULL);
    }
    if (j->past) return;
    sc_channel_note_encode(j->channel, encode_ns);
    if (!j->begins) {
        sc_metrics_time(SC_TIME_LATENESS, lateness_ns > 0 ? (uint64_t)lateness_ns : 0);
        if (lateness_ns > 5000000) SC_COUNT(late_chunks, 1);
    } else lateness_ns = 0;
    tell_chunk(e, j, encode_ns, lateness_ns);
}

static void *encoder_main(void *arg) {
    sc_encoder *e = arg;
    void *handle = sc_jpeg_open();
    unsigned char *buf = NULL;
    size_t cap = 0;

    pthread_setname_np(pthread_self(), "encoder");
    for (;;) {
        pthread_mutex_lock(&e->lock);
        while (!e->count && !e->stop) pthread_cond_wait(&e->changed, &e->lock);
        if (e->stop) { pthread_mutex_unlock(&e->lock); break; }
        sc_encode_job *j = e->jobs[e->head];
        e->head = (e->head + 1) % QUEUE;
        e->count--;
        pthread_cond_broadcast(&e->changed);
        pthread_mutex_unlock(&e->lock);
        size_t need = sc_jpeg_bytes_max(j->width, j->height);
        if (need > cap) {
            free(buf);
            buf = malloc(need);
            cap = buf ? need : 0;
        }
        if (handle && buf) encode_chunk(e, handle, j, buf, cap);
        else {
            sc_log(SC_LOG_ERROR, "encoder", "session=%s out of memory, chunk lost", sc_channel_id(j->channel));
            sc_channel_lost(j->channel, j->count);
        }
        sc_channel_release(j->channel);
        free(j);
    }
    sc_jpeg_close(handle);
    free(buf);
    return NULL;
}

sc_status sc_encoder_start(sc_encoder **out, sc_hub *hub, sc_error *err) {
    sc_encoder *e = calloc(1, sizeof *e);
    *out = NULL;
    if (!e) return sc_fail(err, SC_ENOMEM, "encoder: out of memory");
    e->hub = hub;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->changed, NULL);
    if (pthread_create(&e->thread, NULL, encoder_main, e)) {
        free(e);
        return sc_fail(err, SC_ENOMEM, "encoder: cannot start a thread");
    }
    *out = e;
    return SC_OK;
}

void sc_encoder_stop(sc_encoder *e) {
    if (!e) return;
    pthread_mutex_lock(&e->lock);
    e->stop = true;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->thread, NULL);
    for (int i = 0; i < e->count; i++) {
        sc_encode_job *j = e->jobs[(e->head + i) % QUEUE];
        sc_channel_release(j->channel);
        free(j);
    }
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

sc_status sc_encoder_submit(sc_encoder *e, const sc_encode_job *job, sc_error *err) {
    size_t pixels = (size_t)job->count * job->frame_bytes;
    sc_encode_job *j = malloc(sizeof *j + pixels);
    if (!j) {
        sc_channel_lost(job->channel, job->count);
        return sc_fail(err, SC_ENOMEM, "encoder: no memory for a chunk of %zu bytes", pixels);
    }
    *j = *job;
    j->data = memcpy(j + 1, job->data, pixels);
    sc_channel_retain(j->channel);
    pthread_mutex_lock(&e->lock);
    while (e->count == QUEUE && !e->stop) pthread_cond_wait(&e->changed, &e->lock);
    bool taken = !e->stop;
    if (taken) e->jobs[(e->head + e->count++) % QUEUE] = j;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
    if (taken) return SC_OK;
    sc_channel_lost(j->channel, j->count);
    sc_channel_release(j->channel);
    free(j);
    return sc_fail(err, SC_EBUSY, "encoder: it was stopped");
}

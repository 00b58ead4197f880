/* jpeg.h - the encoder thread: I420 pictures of a decoded chunk in, JPEG frames into the session's channel.
 *
 * The engine's frames are borrowed until its next decode pass, so a job is a copy (0.7 MB at 256x160). One thread and one TurboJPEG handle
 * are enough: 12 frames of 832x480 take 7 ms. The queue is bounded; a full one blocks the engine, which is right: nobody could see more.
 * The first frame of a chunk is in the channel while the others are being encoded. */
#ifndef SC_SERVER_JPEG_H
#define SC_SERVER_JPEG_H
#include "base/status.h"
#include "server/hub.h"

typedef struct sc_encoder sc_encoder;

/* A chunk to encode. data is copied; the rest says what the frame headers carry. */
typedef struct {
    sc_channel *channel;        /* retained by the job */
    const uint8_t *data;
    size_t frame_bytes;
    int count, width, height, quality, fps;
    uint64_t chunk, first_frame, first_pts_us;
    uint32_t prompt_seq;
    bool first_of_prompt;
    bool begins;                /* the clock begins with this chunk: early or late it cannot be */
    bool past;                  /* not a chunk, but the last picture of one that others have seen: no news */
    uint64_t wait_ns, denoise_ns, decode_ns;
} sc_encode_job;

sc_status sc_encoder_start(sc_encoder **out, sc_hub *hub, sc_error *err);
void sc_encoder_stop(sc_encoder *e); /* jobs in the queue are dropped; NULL is fine */

/* Engine thread. The channel has been told to expect the frames; on an error they are declared lost. Errors: SC_ENOMEM, SC_EBUSY once it stops. */
sc_status sc_encoder_submit(sc_encoder *e, const sc_encode_job *job, sc_error *err);

/* One picture into buf; cap is at least sc_jpeg_bytes_max(). One handle a thread. Errors: SC_EINVAL. */
sc_status sc_jpeg_encode(void *tjhandle, const uint8_t *i420, int width, int height, int quality, unsigned char *buf, size_t cap,
                         size_t *n, sc_error *err);
size_t sc_jpeg_bytes_max(int width, int height);
void *sc_jpeg_open(void);
void sc_jpeg_close(void *tjhandle);

#endif

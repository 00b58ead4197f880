/* frame_header.c - fields to bytes and back, one at a time. */
#include "proto/frame_header.h"

enum { AT_FLAGS = 6, AT_SENT = 32, AT_DROPPED = 60 };

static void put(uint8_t *p, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++) p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get(const uint8_t *p, int bytes) {
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

void sc_frame_header_write(uint8_t out[SC_FRAME_HEADER_BYTES], const sc_frame_header *h) {
    put(out, SC_FRAME_MAGIC, 4);
    put(out + 4, SC_FRAME_HEADER_BYTES, 2);
    put(out + 8, h->frame, 8);
    put(out + 16, h->chunk, 4);
    put(out + 20, h->prompt_seq, 4);
    put(out + 24, h->pts_us, 8);
    put(out + 40, h->wait_us, 4);
    put(out + 44, h->denoise_us, 4);
    put(out + 48, h->decode_us, 4);
    put(out + 52, h->encode_us, 4);
    put(out + 56, h->width, 2);
    put(out + 58, h->height, 2);
    sc_frame_header_patch(out, h->flags, h->sent_us, h->dropped);
}

void sc_frame_header_patch(uint8_t header[SC_FRAME_HEADER_BYTES], uint16_t flags, uint64_t sent_us, uint32_t dropped) {
    put(header + AT_FLAGS, flags, 2);
    put(header + AT_SENT, sent_us, 8);
    put(header + AT_DROPPED, dropped, 4);
}

sc_status sc_frame_header_read(sc_frame_header *out, const uint8_t *data, size_t n, sc_error *err) {
    if (n < SC_FRAME_HEADER_BYTES)
        return sc_fail(err, SC_EINVAL, "frame of %zu bytes is shorter than its header of %d", n, SC_FRAME_HEADER_BYTES);
    if (get(data, 4) != SC_FRAME_MAGIC)
        return sc_fail(err, SC_EINVAL, "frame begins with 0x%08llx, not with SCF1", (unsigned long long)get(data, 4));
    out->header_bytes = (uint16_t)get(data + 4, 2);
    if (out->header_bytes < SC_FRAME_HEADER_BYTES || out->header_bytes > n)
        return sc_fail(err, SC_EINVAL, "frame header says %u bytes, of a message of %zu", (unsigned)out->header_bytes, n);
    out->flags = (uint16_t)get(data + AT_FLAGS, 2);
    out->frame = get(data + 8, 8);
    out->chunk = (uint32_t)get(data + 16, 4);
    out->prompt_seq = (uint32_t)get(data + 20, 4);
    out->pts_us = get(data + 24, 8);
    out->sent_us = get(data + AT_SENT, 8);
    out->wait_us = (uint32_t)get(data + 40, 4);
    out->denoise_us = (uint32_t)get(data + 44, 4);
    out->decode_us = (uint32_t)get(data + 48, 4);
    out->encode_us = (uint32_t)get(data + 52, 4);
    out->width = (uint16_t)get(data + 56, 2);
    out->height = (uint16_t)get(data + 58, 2);
    out->dropped = (uint32_t)get(data + AT_DROPPED, 4);
    return SC_OK;
}

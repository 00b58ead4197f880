/* frame_header.h - the 64 bytes in front of every JPEG of the stream.
 *
 * Little-endian, written and read byte by byte, so that neither padding nor the host's byte order shows on the wire:
 *
 *     0 u32 magic "SCF1"      16 u32 chunk            40 u32 wait_us        56 u16 width
 *     4 u16 header bytes      20 u32 prompt seq       44 u32 denoise_us     58 u16 height
 *     6 u16 flags             24 u64 pts_us           48 u32 decode_us      60 u32 dropped
 *     8 u64 frame             32 u64 sent_us          52 u32 encode_us
 *
 * All but `flags` (bit 4), `sent_us` and `dropped` is the same for every viewer: write once, patch with sc_frame_header_patch.
 * Pure, any thread. */
#ifndef SC_PROTO_FRAME_HEADER_H
#define SC_PROTO_FRAME_HEADER_H
#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

enum { SC_FRAME_HEADER_BYTES = 64, SC_FRAME_MAGIC = 0x31464353 };

enum {
    SC_FRAME_CHUNK = 1,  /* first frame of a chunk */
    SC_FRAME_PROMPT = 2, /* first frame under a new prompt */
    SC_FRAME_REPEAT = 4, /* the newest frame again, for a late joiner */
};

typedef struct {
    uint16_t header_bytes; /* set by the reader; the writer always writes 64 */
    uint16_t flags;
    uint64_t frame;        /* in the session, from 0 */
    uint32_t chunk, prompt_seq;
    uint64_t pts_us;       /* presentation time in the stream */
    uint64_t sent_us;      /* server's monotonic clock when handed to the socket */
    uint32_t wait_us, denoise_us, decode_us, encode_us;
    uint16_t width, height;
    uint32_t dropped;      /* frames this viewer did not get so far */
} sc_frame_header;

void sc_frame_header_write(uint8_t out[SC_FRAME_HEADER_BYTES], const sc_frame_header *h);

/* Overwrite the three fields of a written header that differ between viewers. */
void sc_frame_header_patch(uint8_t header[SC_FRAME_HEADER_BYTES], uint16_t flags, uint64_t sent_us, uint32_t dropped);

/* Read the header of a binary message of n bytes; the JPEG begins at out->header_bytes.
 * Errors: SC_EINVAL when it is too short, has another magic, or its header does not end inside the message. */
sc_status sc_frame_header_read(sc_frame_header *out, const uint8_t *data, size_t n, sc_error *err);

#endif

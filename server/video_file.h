/* video_file.h - JPEG frames into an MP4 file, through libavformat, which packs and does not encode: what goes in comes out to the byte.
 *
 *     ftyp | moov, in a place kept free for it | free | mdat: frame 0, frame 1, ...
 *
 * MP4 rather than Matroska: libavformat's Matroska counts in milliseconds, so that at 16 frames a second every other frame would stand half a millisecond
 * beside its time; a track of MP4 counts in parts of 1/fps. It is also what clients of OpenAI's API expect (video/mp4). ffmpeg, mpv and VLC play
 * Motion-JPEG in both, browsers in neither. The index stands in front, so that a player may begin with the first bytes. Nothing in the file depends on
 * the moment or the machine: the same frames make the same file.
 * Thread: any, one at a time. */
#ifndef SC_SERVER_VIDEO_FILE_H
#define SC_SERVER_VIDEO_FILE_H
#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sc_video_file sc_video_file;

bool sc_video_file_there(void); /* false: the daemon was built without libavformat (video_file_none.c), and open fails */

/* fd: empty, seekable, borrowed until close. frames: how many there will be, 1 and up. Errors: SC_EIO, SC_ENOMEM. */
sc_status sc_video_file_open(sc_video_file **out, int fd, int width, int height, int fps, int frames, sc_error *err);

/* The next frame; borrowed. Errors: SC_EBUSY, there is no room on the disk; SC_EIO. */
sc_status sc_video_file_add(sc_video_file *f, const void *jpeg, size_t n, sc_error *err);
uint64_t sc_video_file_bytes(const sc_video_file *f);                 /* so far */
sc_status sc_video_file_finish(sc_video_file *f, sc_error *err);      /* after the last frame: the file is whole. Errors as of add */
void sc_video_file_close(sc_video_file *f);                           /* NULL is fine */

#endif

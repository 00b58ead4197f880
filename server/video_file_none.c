/* video_file_none.c - without libavformat the daemon makes no clips, and says so (501). */
#include "server/video_file.h"

bool sc_video_file_there(void) { return false; }
sc_status sc_video_file_open(sc_video_file **out, int fd, int width, int height, int fps, int frames, sc_error *err) {
    (void)fd; (void)width; (void)height; (void)fps; (void)frames;
    *out = NULL;
    return sc_fail(err, SC_EINVAL, "video: this daemon was built without libavformat");
}
sc_status sc_video_file_add(sc_video_file *f, const void *jpeg, size_t n, sc_error *err) {
    (void)f; (void)jpeg; (void)n;
    return sc_fail(err, SC_EINVAL, "video: there is no file");
}
uint64_t sc_video_file_bytes(const sc_video_file *f) { (void)f; return 0; }
sc_status sc_video_file_finish(sc_video_file *f, sc_error *err) { (void)f; return sc_fail(err, SC_EINVAL, "video: there is no file"); }
void sc_video_file_close(sc_video_file *f) { (void)f; }

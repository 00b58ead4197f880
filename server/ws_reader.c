/* ws_reader.c - see ws_reader.h.
 *
 *     head: 2 bytes [+ 2 or 8 of length] + 4 of mask  ->  payload, unmasked as it comes  ->  control frame | end of message | next head
 *
 * A frame's length is judged before its payload is taken, so a frame that declares 2^62 bytes costs nothing. */
#include "server/ws_reader.h"
#include "proto/json.h"
#include <stdlib.h>
#include <string.h>

enum { CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

void sc_ws_reader_init(sc_ws_reader *r, size_t max) {
    memset(r, 0, sizeof *r);
    r->need = 2;
    r->max = max;
}

void sc_ws_reader_free(sc_ws_reader *r) {
    free(r->message);
    r->message = NULL;
}

static sc_ws_event bad(sc_ws_reader *r, int code, const char *why) {
    r->code = code;
    r->why = why;
    return SC_WS_BAD;
}

/* The first two bytes: what kind of frame, how long its head is. */
static sc_ws_event begin(sc_ws_reader *r) {
    unsigned length = r->head[1] & 127u;
    r->fin = r->head[0] & 0x80;
    r->opcode = r->head[0] & 15u;
    if (r->head[0] & 0x70) return bad(r, 1002, "reserved bits are set");
    if (r->opcode > BINARY && (r->opcode < CLOSE || r->opcode > PONG)) return bad(r, 1002, "unknown opcode");
    if (!(r->head[1] & 0x80)) return bad(r, 1002, "frame without a mask");
    if (r->opcode >= CLOSE && (!r->fin || length > 125)) return bad(r, 1002, "control frame in pieces or too long");
    if (r->opcode == CONTINUATION && !r->message_opcode) return bad(r, 1002, "continuation of nothing");
    if ((r->opcode == TEXT || r->opcode == BINARY) && r->message_opcode) return bad(r, 1002, "new message inside another");
    if (r->opcode == BINARY) return bad(r, 1003, "binary messages are not taken");
    r->need = 2 + 4 + (length == 126 ? 2 : length == 127 ? 8 : 0);
    return SC_WS_MORE;
}

static sc_ws_event head_done(sc_ws_reader *r) {
    unsigned length = r->head[1] & 127u, bytes = r->need - 6;
    uint64_t n = bytes ? 0 : length;
    for (unsigned i = 0; i < bytes; i++) n = n << 8 | r->head[2 + i];
    if (bytes == 8 && r->head[2] & 0x80) return bad(r, 1002, "length with its highest bit set");
    if ((bytes == 2 && n < 126) || (bytes == 8 && n < 65536)) return bad(r, 1002, "length not in its shortest form");
    memcpy(r->mask, r->head + 2 + bytes, 4);
    r->left = n;
    r->at = 0;
    r->in_payload = true;
    if (r->opcode >= CLOSE) return SC_WS_MORE;
    if (n > r->max || r->message_n + n > r->max) return bad(r, 1009, "message longer than 16 KiB");
    if (r->opcode != CONTINUATION) r->message_opcode = r->opcode;
    if (!r->message || r->message_n + n > r->message_cap) {
        size_t cap = r->message_n + n < 512 ? 512 : r->message_n + n;
        unsigned char *more = realloc(r->message, cap);
        if (!more) return bad(r, 1011, "out of memory");
        r->message = more;
        r->message_cap = cap;
    }
    return SC_WS_MORE;
}

/* Codes that may stand in a close frame: registered ones, and those of libraries and applications. */
static bool code_exists(int code) {
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

static sc_ws_event close_frame(sc_ws_reader *r) {
    const char *reason = (const char *)r->control + 2;
    if (r->at == 0) { r->code = 1005; return SC_WS_CLOSE; }
    if (r->at == 1) return bad(r, 1002, "close code of one byte");
    int code = r->control[0] << 8 | r->control[1];
    if (!code_exists(code)) return bad(r, 1002, "close code that does not exist");
    if (sc_text_bad_utf8(reason, (size_t)r->at - 2) != r->at - 2) return bad(r, 1007, "close reason is not UTF-8");
    r->code = code;
    return SC_WS_CLOSE;
}

static sc_ws_event frame_done(sc_ws_reader *r) {
    r->in_payload = false;
    r->head_n = 0;
    r->need = 2;
    r->data = r->control;
    r->n = (size_t)r->at;
    if (r->opcode == PING) return SC_WS_PING;
    if (r->opcode == PONG) return SC_WS_PONG;
    if (r->opcode == CLOSE) return close_frame(r);
    if (!r->fin) return SC_WS_MORE;
    r->data = r->message;
    r->n = r->message_n;
    r->message_n = 0;
    r->message_opcode = 0;
    if (sc_text_bad_utf8((const char *)r->data, r->n) != r->n) return bad(r, 1007, "text that is not UTF-8");
    return SC_WS_TEXT;
}

sc_ws_event sc_ws_read(sc_ws_reader *r, const unsigned char **p, const unsigned char *end) {
    sc_ws_event e;
    if (r->code && r->why) return SC_WS_BAD;
    for (;;) {
        if (!r->in_payload) {
            if (*p == end) return SC_WS_MORE;
            r->head[r->head_n++] = *(*p)++;
            if (r->head_n == 2 && (e = begin(r))) return e;
            if (r->head_n < 2 || r->head_n < r->need) continue;
            if ((e = head_done(r))) return e;
        }
        size_t n = (size_t)(end - *p) < r->left ? (size_t)(end - *p) : (size_t)r->left;
        unsigned char *to = r->opcode >= CLOSE ? r->control + r->at : r->message + r->message_n;
        for (size_t i = 0; i < n; i++) to[i] = (*p)[i] ^ r->mask[(r->at + i) & 3];
        if (r->opcode < CLOSE) r->message_n += n;
        *p += n;
        r->at += n;
        r->left -= n;
        if (r->left) return SC_WS_MORE;
        if ((e = frame_done(r)) != SC_WS_MORE) return e;
    }
}

/* ws_reader.h - the frames of a WebSocket client, read strictly (RFC 6455 section 5).
 *
 * libwebsockets 4.1 takes frames without a mask, lengths in long forms and close codes that do not exist. Clients send us short texts
 * only, so the stream thread reads them itself with this: bytes in, messages out, and what is wrong with a close code and a sentence. Frames
 * to the client are libwebsockets'. Pure; memory grows to one message (16 KiB). */
#ifndef SC_SERVER_WS_READER_H
#define SC_SERVER_WS_READER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    SC_WS_MORE,    /* all bytes are taken, nothing is complete */
    SC_WS_TEXT,    /* data, n: a whole message, valid UTF-8 */
    SC_WS_PING,    /* data, n: to be sent back */
    SC_WS_PONG,
    SC_WS_CLOSE,   /* code: as sent, 1005 for none */
    SC_WS_BAD,     /* code, why: close with these; nothing can be read any more */
} sc_ws_event;

typedef struct {
    unsigned char head[14], mask[4], control[125];
    unsigned head_n, need;
    unsigned char opcode, message_opcode; /* message_opcode 0: none begun */
    bool fin, in_payload;
    uint64_t left, at;                    /* of the frame's payload */
    unsigned char *message;               /* owned */
    size_t message_n, message_cap, max;
    const unsigned char *data;            /* of the event, good until the next call */
    size_t n;
    int code;
    const char *why;
} sc_ws_reader;

/* max: bytes a message may have. */
void sc_ws_reader_init(sc_ws_reader *r, size_t max);
void sc_ws_reader_free(sc_ws_reader *r);

/* Take bytes from *p up to end until something is complete; *p moves. */
sc_ws_event sc_ws_read(sc_ws_reader *r, const unsigned char **p, const unsigned char *end);

#endif

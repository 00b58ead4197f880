/* utf8.h - the one reading of UTF-8 inside proto/, strict as RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef SC_PROTO_UTF8_H
#define SC_PROTO_UTF8_H
#include <stddef.h>

/* Bytes of the character at s (n left), 1..4; 0 when these bytes are none. */
static inline size_t sc_utf8_step(const char *s, size_t n) {
    const unsigned char *p = (const unsigned char *)s;
    size_t len;
    unsigned lo = 0x80, hi = 0xbf; /* bounds of the second byte: they exclude overlong forms and surrogates */

    if (n == 0) return 0;
    if (p[0] < 0x80) return 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf) len = 2;
    else if (p[0] >= 0xe0 && p[0] <= 0xef) {
        len = 3;
        if (p[0] == 0xe0) lo = 0xa0;
        if (p[0] == 0xed) hi = 0x9f;
    } else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        len = 4;
        if (p[0] == 0xf0) lo = 0x90;
        if (p[0] == 0xf4) hi = 0x8f;
    } else return 0;
    if (n < len || p[1] < lo || p[1] > hi) return 0;
    for (size_t i = 2; i < len; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return len;
}

#endif

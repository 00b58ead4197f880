/* utf8.h - the one reading of UTF-8 that every parser of the engine shares.
 *
 * Strict as RFC 3629 says: no overlong forms, no surrogates, nothing above U+10FFFF. Header only, pure, any thread. */
#ifndef SC_ENGINE_UTF8_H
#define SC_ENGINE_UTF8_H
#include <stddef.h>
#include <stdint.h>

/* Length in bytes of the character at `s` (n bytes left), its number in *cp; 0 when it is not UTF-8 or n is 0. */
static inline int sc_utf8_next(const char *s, size_t n, uint32_t *cp) {
    const unsigned char *p = (const unsigned char *)s;
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t c;
    int len;

    if (n == 0) return 0;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    if ((p[0] & 0xe0) == 0xc0) { len = 2; c = p[0] & 0x1fu; }
    else if ((p[0] & 0xf0) == 0xe0) { len = 3; c = p[0] & 0x0fu; }
    else if ((p[0] & 0xf8) == 0xf0) { len = 4; c = p[0] & 0x07u; }
    else return 0;
    if (n < (size_t)len) return 0;
    for (int i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (p[i] & 0x3fu);
    }
    if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return 0;
    *cp = c;
    return len;
}

/* Offset of the first byte that is not UTF-8, or n when all is well. */
static inline size_t sc_utf8_bad(const char *s, size_t n) {
    size_t i = 0;
    uint32_t cp;
    int len;

    while (i < n && (len = sc_utf8_next(s + i, n - i, &cp))) i += (size_t)len;
    return i;
}

/* Write `cp` (a valid code point) to dst (room for 4); returns the bytes written. */
static inline int sc_utf8_put(char *dst, uint32_t cp) {
    if (cp < 0x80) {
        dst[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        dst[0] = (char)(0xc0 | cp >> 6);
        dst[1] = (char)(0x80 | (cp & 63));
        return 2;
    }
    if (cp < 0x10000) {
        dst[0] = (char)(0xe0 | cp >> 12);
        dst[1] = (char)(0x80 | (cp >> 6 & 63));
        dst[2] = (char)(0x80 | (cp & 63));
        return 3;
    }
    dst[0] = (char)(0xf0 | cp >> 18);
    dst[1] = (char)(0x80 | (cp >> 12 & 63));
    dst[2] = (char)(0x80 | (cp >> 6 & 63));
    dst[3] = (char)(0x80 | (cp & 63));
    return 4;
}

#endif

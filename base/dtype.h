/* dtype.h - element types of tensors, and the two 16-bit floats read into f32.
 *
 * f16 subnormals are kept (pocket weights have some). */
#ifndef SC_BASE_DTYPE_H
#define SC_BASE_DTYPE_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum { SC_F32, SC_F16, SC_BF16, SC_F64, SC_I32, SC_I64, SC_U8, SC_I8, SC_I16, SC_BOOL, SC_F8_E4M3, SC_F8_E5M2 } sc_dtype;

/* Bytes of one element. */
static inline size_t sc_dtype_bytes(sc_dtype t) {
    switch (t) {
    case SC_F64: case SC_I64: return 8;
    case SC_F32: case SC_I32: return 4;
    case SC_F16: case SC_BF16: case SC_I16: return 2;
    default: return 1;
    }
}

static inline float sc_from_bf16(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline float sc_from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 31u, man = h & 1023u, u;
    float f;
    if (exp == 31) u = sign | 0x7f800000u | man << 13;
    else if (exp) u = sign | (exp + 112) << 23 | man << 13;
    else { /* zero or subnormal: man * 2^-24 */
        f = (float)man * 5.9604644775390625e-8f;
        return sign ? -f : f;
    }
    memcpy(&f, &u, 4);
    return f;
}

/* dst[i] = src[i] as f32; src is F32, F16 or BF16 of n elements at any address (a safetensors header may have an odd length). */
static inline void sc_to_f32(float *dst, const void *src, sc_dtype type, size_t n) {
    const unsigned char *b = (const unsigned char *)src;
    if (type == SC_F32) {
        memcpy(dst, src, n * 4);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, b + 2 * i, 2);
        dst[i] = type == SC_F16 ? sc_from_f16(h) : sc_from_bf16(h);
    }
}

#endif

/* transpose.h - a square of W x W words of 32 bits turned over in registers. The including file defines W and vi, a vector of W int32_t. */
#if W == 16
#define LOG_W 4
#define LOW_HALVES {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23}
#define HIGH_HALVES {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31}
#elif W == 8
#define LOG_W 3
#define LOW_HALVES {0, 8, 1, 9, 2, 10, 3, 11}
#define HIGH_HALVES {4, 12, 5, 13, 6, 14, 7, 15}
#else
#define LOG_W 2
#define LOW_HALVES {0, 4, 1, 5}
#define HIGH_HALVES {2, 6, 3, 7}
#endif

/* v[r][i] becomes v[i][r]. Interleaving rows i and i + W / 2 turns the bits of (row, lane) round by one; after log W turns they have changed places. */
static inline __attribute__((always_inline)) void transpose(vi *v) {
#pragma GCC unroll 4
    for (int turn = 0; turn < LOG_W; turn++) {
        vi t[W];
#pragma GCC unroll 8
        for (int i = 0; i < W / 2; i++) {
            t[2 * i] = __builtin_shuffle(v[i], v[i + W / 2], (vi)LOW_HALVES);
            t[2 * i + 1] = __builtin_shuffle(v[i], v[i + W / 2], (vi)HIGH_HALVES);
        }
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) v[i] = t[i];
    }
}

/* name_distance.c - see name_distance.h. One row of the usual table; a row whose best is past the limit ends it. */
#include "base/name_distance.h"

#include <stdlib.h>
#include <string.h>

int sc_name_distance(const char *a, const char *b, int limit) {
    int row[257], n = (int)strnlen(b, 256), m = (int)strnlen(a, 256);

    if (abs(m - n) >= limit) return limit;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; i <= m; i++) {
        int diagonal = row[0], best = i;
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int up = row[j], d = diagonal + (a[i - 1] != b[j - 1]);
            if (up + 1 < d) d = up + 1;
            if (row[j - 1] + 1 < d) d = row[j - 1] + 1;
            diagonal = up;
            row[j] = d;
            if (d < best) best = d;
        }
        if (best >= limit) return limit;
    }
    return row[n] < limit ? row[n] : limit;
}

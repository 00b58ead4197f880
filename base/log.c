/* log.c - formats a line into one buffer and writes it with one call, so that threads do not mix. */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static atomic_int max_level = SC_LOG_INFO;

void sc_log_set_level(sc_log_level level) { atomic_store(&max_level, (int)level); }

void sc_log(sc_log_level level, const char *module, const char *fmt, ...) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    char line[1024];
    int n, m;
    va_list ap;

    if ((int)level > atomic_load(&max_level)) return;
    n = snprintf(line, sizeof line, "%s %s: ", names[level], module);
    va_start(ap, fmt);
    m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    if (m < 0) return;
    n += m;
    if (n > (int)sizeof line - 2) n = (int)sizeof line - 2;
    for (int i = 0; i < n; i++)
        if ((unsigned char)line[i] < 0x20) line[i] = '?';
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, (size_t)n) < 0) return; /* nobody to tell */
}

/* json_out.h - writes JSON front to back, into a caller's buffer or into one that grows.
 *
 * Commas are set by the writer, names by the caller; text is escaped, bytes that are not UTF-8 become U+FFFD, so that what comes
 * out always parses. A writer that ran out of space (or memory) swallows the rest and says so at the end:
 *
 *     sc_json_out o;
 *     sc_json_out_init(&o, buf, sizeof buf);      or  sc_json_out_grow(&o)
 *     sc_json_object(&o, NULL);
 *     sc_json_u64(&o, "chunk", 7);
 *     sc_json_end_object(&o);
 *     n = sc_json_out_size(&o);                   0: did not fit
 *
 * A name of NULL writes a bare value (an element of an array, or the root). */
#ifndef SC_PROTO_JSON_OUT_H
#define SC_PROTO_JSON_OUT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    char *data;
    size_t cap, used;
    bool grows, failed, comma;
} sc_json_out;

void sc_json_out_init(sc_json_out *o, char *buf, size_t cap); /* buf borrowed; a NUL is kept behind the text */
void sc_json_out_grow(sc_json_out *o);

void sc_json_object(sc_json_out *o, const char *name);
void sc_json_end_object(sc_json_out *o);
void sc_json_array(sc_json_out *o, const char *name);
void sc_json_end_array(sc_json_out *o);
void sc_json_text(sc_json_out *o, const char *name, const char *s);           /* NULL: null */
void sc_json_text_n(sc_json_out *o, const char *name, const char *s, size_t n);
void sc_json_u64(sc_json_out *o, const char *name, uint64_t v);
void sc_json_i64(sc_json_out *o, const char *name, int64_t v);
void sc_json_number(sc_json_out *o, const char *name, double v);              /* shortest that reads back; not finite: null */
void sc_json_ms(sc_json_out *o, const char *name, double v);                  /* three decimals */
void sc_json_bool(sc_json_out *o, const char *name, bool v);
void sc_json_null(sc_json_out *o, const char *name);

/* Bytes written, without the NUL; 0 when it did not fit. */
size_t sc_json_out_size(const sc_json_out *o);

/* Of a growing writer: the text (owned by the caller, free()), its size in *n (may be NULL). NULL when memory ran out. */
char *sc_json_out_take(sc_json_out *o, size_t *n);

#endif

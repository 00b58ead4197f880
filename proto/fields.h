/* fields.h - reading the fields of one JSON object, collecting what is wrong (inside proto/ only).
 *
 * Each reader takes the field away from the object when it is there; what is left at the end is unknown and named. Readers
 * return true when the field was given and is right; a wrong one leaves an error in *problem and returns false. */
#ifndef SC_PROTO_FIELDS_H
#define SC_PROTO_FIELDS_H
#include "proto/problem.h"
#include "proto/requests.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cJSON;

/* Parse text into an object (owned, cJSON_Delete); NULL with *problem filled. `what`: "body", "message". */
struct cJSON *sc_fields_parse(const char *text, size_t n, size_t max_bytes, const char *what, sc_problem *problem);

bool sc_field_prompt(struct cJSON *o, const char *name, bool required, char out[SC_PROMPT_TEXT_MAX + 1], size_t *bytes, sc_problem *p);
bool sc_field_int(struct cJSON *o, const char *name, int64_t min, int64_t max, int64_t *out, sc_problem *p);
bool sc_field_small(struct cJSON *o, const char *name, int min, int max, int *out, sc_problem *p);
bool sc_field_number(struct cJSON *o, const char *name, double *out, sc_problem *p);
bool sc_field_bool(struct cJSON *o, const char *name, bool *out, sc_problem *p);
bool sc_field_seed(struct cJSON *o, const char *name, uint64_t *out, sc_problem *p);
/* A plain text of 1 to cap - 1 bytes. */
bool sc_field_text(struct cJSON *o, const char *name, char *out, size_t cap, sc_problem *p);
/* One of `count` words; its index in *out. */
bool sc_field_word(struct cJSON *o, const char *name, const char *const *words, int count, int *out, sc_problem *p);
bool sc_field_transition(struct cJSON *o, sc_wire_transition *out, sc_problem *p);

/* Names every field still there as unknown; `allowed` lists the known ones for the reader. */
void sc_fields_end(struct cJSON *o, const char *allowed, sc_problem *p);

#endif

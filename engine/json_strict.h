/* json_strict.h - JSON files of a model, read strictly (RFC 8259) into a cJSON tree.
 *
 * For the headers of safetensors files and for config.json; the control protocol has its own door. Thread: any. */
#ifndef SC_ENGINE_JSON_STRICT_H
#define SC_ENGINE_JSON_STRICT_H
#include "base/status.h"
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SC_JSON_DEPTH = 16 };

/* Parse `text` (n bytes, no NUL needed) as one JSON object. *out is owned by the caller (cJSON_Delete), NULL after an error.
 * `max_values` caps the values in the tree, since a node costs 64 bytes and its text may be two.
 * Errors: SC_EINVAL with "`where`: line L, column C: reason" (SC_JSON_DEPTH exceeded, bad UTF-8, NUL, a key twice, trailing
 * text, grammar, too many values), SC_ENOMEM. */
sc_status sc_json_parse(cJSON **out, const char *text, size_t n, size_t max_values, const char *where, sc_error *err);

/* True when `item` is a whole number of at most 2^53 in size; it is then in *value. */
bool sc_json_int(const cJSON *item, int64_t *value);

#endif

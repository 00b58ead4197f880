/* digest.h - a name for a set of weights. */
#ifndef SC_ENGINE_DIGEST_H
#define SC_ENGINE_DIGEST_H
#include "engine/safetensors.h"

/* Hex SHA-256 over name, shape and the first 4096 bytes of every tensor, set by set: tells models apart without reading them whole. */
void sc_model_digest(const sc_tensors *const *sets, int count, char out[65]);

#endif

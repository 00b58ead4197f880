/* name_distance.h - how far apart two names are, for messages that guess which one was meant. */
#ifndef SC_BASE_NAME_DISTANCE_H
#define SC_BASE_NAME_DISTANCE_H
#ifdef __cplusplus
extern "C" {
#endif

/* Edit distance of two names, or `limit` when it is not below it. Names longer than 256 bytes are compared by their first part. */
int sc_name_distance(const char *a, const char *b, int limit);

#ifdef __cplusplus
}
#endif
#endif

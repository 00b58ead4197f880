/* tensor_map.h - what the bulk tensor copy needs to know of an array in device memory. See tensor_map.c. Thread: engine. */
#ifndef SC_KERNELS_CUDA_TENSOR_MAP_H
#define SC_KERNELS_CUDA_TENSOR_MAP_H
#include <cuda.h>
#include <stdbool.h>
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif

/* Map of a matrix [rows][cols] of `type` at `data` (16-byte aligned; rows of cols * element bytes, a multiple of 16, one behind the other) by
 * boxes of box_rows x box_cols, at most 256 each, that stand swizzled in shared memory (a row of a box is at most as many bytes as the swizzle
 * is wide). What a box covers outside the matrix is read as zeros and never written. False: the driver has no such map. */
bool sc_cuda_map_matrix(CUtensorMap *map, CUtensorMapDataType type, const void *data, size_t rows, size_t cols, unsigned box_rows, unsigned box_cols,
                        CUtensorMapSwizzle swizzle);

#ifdef __cplusplus
}
#endif
#endif

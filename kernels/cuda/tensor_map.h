/* tensor_map.h - what the bulk tensor copy needs to know of an array in device memory. See tensor_map.c. Thread: engine. */
#ifndef SC_KERNELS_CUDA_TENSOR_MAP_H
#define SC_KERNELS_CUDA_TENSOR_MAP_H
#include <cuda.h>
#include <stdbool.h>
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif

/* Map of an array of `rank` (2 to 5) axes at `data`, 16-byte aligned: size[] in elements, the fastest axis first, one row behind the other (a row's
 * bytes a multiple of 16), by boxes of box[] elements, at most 256 along an axis, that stand swizzled in shared memory (a row of a box is at most
 * as many bytes as the swizzle is wide). What a box covers outside the array is read as zeros and never written. 16-bit values are 16-bit
 * values: bf16 stands for f16 too, as long as they are only copied. Host work only, less than a microsecond. False: the driver has no such map. */
bool sc_cuda_map(CUtensorMap *map, CUtensorMapDataType type, const void *data, unsigned rank, const cuuint64_t *size, const cuuint32_t *box,
                 CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion);

/* The same of a matrix [rows][cols], lines of 256 bytes brought to L2. */
bool sc_cuda_map_matrix(CUtensorMap *map, CUtensorMapDataType type, const void *data, size_t rows, size_t cols, unsigned box_rows, unsigned box_cols,
                        CUtensorMapSwizzle swizzle);

#ifdef __cplusplus
}
#endif
#endif

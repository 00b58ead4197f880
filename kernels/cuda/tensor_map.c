/* tensor_map.c - maps for the bulk tensor copy; see tensor_map.h. The driver's encoder is asked for at run time, so that nothing links libcuda:
 * a program with the CUDA backend starts on a machine without a driver. */
#include "kernels/cuda/tensor_map.h"
#include <cuda_runtime_api.h>

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                              const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

static size_t element_bytes(CUtensorMapDataType type) { return type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2; }

bool sc_cuda_map(CUtensorMap *map, CUtensorMapDataType type, const void *data, unsigned rank, const cuuint64_t *size, const cuuint32_t *box,
                 CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion) {
    static encode_fn encode;
    static const cuuint32_t step[5] = {1, 1, 1, 1, 1};
    cuuint64_t stride[4];
    if (!encode) {
        enum cudaDriverEntryPointQueryResult found;
        void *fn = NULL;
        if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000, cudaEnableDefault, &found) != cudaSuccess || !fn) return false;
        encode = (encode_fn)fn;
    }
    for (unsigned i = 0; i + 1 < rank; i++) stride[i] = (i ? stride[i - 1] : element_bytes(type)) * size[i];
    return encode(map, type, rank, (void *)data, size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, promotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) ==
           CUDA_SUCCESS;
}

bool sc_cuda_map_matrix(CUtensorMap *map, CUtensorMapDataType type, const void *data, size_t rows, size_t cols, unsigned box_rows, unsigned box_cols,
                        CUtensorMapSwizzle swizzle) {
    const cuuint64_t size[2] = {cols, rows};
    const cuuint32_t box[2] = {box_cols, box_rows};
    return sc_cuda_map(map, type, data, 2, size, box, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
}

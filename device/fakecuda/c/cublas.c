// What the CUDA provider links against of cuBLAS and cuBLASLt. It makes handles
// when it starts; anything else is not supported: no kernel runs on the fake.
#include <stdlib.h>

enum { success = 0, not_supported = 15 };

static int make(void** h) { *h = malloc(64); return success; }
static int destroy(void* h) { free(h); return success; }

int cublasCreate_v2(void** h) { return make(h); }
int cublasDestroy_v2(void* h) { return destroy(h); }
int cublasSetStream_v2(void* h, void* s) { return success; }
int cublasSetMathMode(void* h, int m) { return success; }
int cublasGetMathMode(void* h, int* m) { *m = 0; return success; }
int cublasLtCreate(void** h) { return make(h); }
int cublasLtDestroy(void* h) { return destroy(h); }
const char* cublasGetStatusName(int s) { return s ? "CUBLAS_STATUS_NOT_SUPPORTED" : "CUBLAS_STATUS_SUCCESS"; }
const char* cublasGetStatusString(int s) { return s ? "not supported by the fake" : "success"; }

#define UNSUPPORTED(name) int name(void) { return not_supported; }
UNSUPPORTED(cublasDcopy_v2)
UNSUPPORTED(cublasDgeam)
UNSUPPORTED(cublasDgemmBatched)
UNSUPPORTED(cublasDgemmStridedBatched)
UNSUPPORTED(cublasDgemm_v2)
UNSUPPORTED(cublasDgetrfBatched)
UNSUPPORTED(cublasDgetriBatched)
UNSUPPORTED(cublasGemmBatchedEx)
UNSUPPORTED(cublasGemmEx)
UNSUPPORTED(cublasGemmStridedBatchedEx)
UNSUPPORTED(cublasScopy_v2)
UNSUPPORTED(cublasSgeam)
UNSUPPORTED(cublasSgemmBatched)
UNSUPPORTED(cublasSgemmStridedBatched)
UNSUPPORTED(cublasSgemm_v2)
UNSUPPORTED(cublasSgetrfBatched)
UNSUPPORTED(cublasSgetriBatched)
UNSUPPORTED(cublasSscal_v2)
UNSUPPORTED(cublasLtMatmul)
UNSUPPORTED(cublasLtMatmulAlgoConfigSetAttribute)
UNSUPPORTED(cublasLtMatmulAlgoGetHeuristic)
UNSUPPORTED(cublasLtMatmulAlgoInit)
UNSUPPORTED(cublasLtMatmulDescCreate)
UNSUPPORTED(cublasLtMatmulDescDestroy)
UNSUPPORTED(cublasLtMatmulDescSetAttribute)
UNSUPPORTED(cublasLtMatmulPreferenceCreate)
UNSUPPORTED(cublasLtMatmulPreferenceDestroy)
UNSUPPORTED(cublasLtMatmulPreferenceSetAttribute)
UNSUPPORTED(cublasLtMatrixLayoutCreate)
UNSUPPORTED(cublasLtMatrixLayoutDestroy)
UNSUPPORTED(cublasLtMatrixLayoutSetAttribute)
UNSUPPORTED(cublasLtMatrixTransform)
UNSUPPORTED(cublasLtMatrixTransformDescCreate)
UNSUPPORTED(cublasLtMatrixTransformDescDestroy)

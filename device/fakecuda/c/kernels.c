// The part of the CUDA runtime that runs kernels. Here none runs: registering
// one does nothing, launching one counts, and what only a GPU can do is refused.
#include "state.h"
#include <stddef.h>

enum { success = 0, not_supported = 801 };

extern struct state* fakecuda_state; // of cudart.c

static void* fat[4];
void** __cudaRegisterFatBinary(void* p) { return fat; }
void __cudaRegisterFatBinaryEnd(void** p) {}
void __cudaUnregisterFatBinary(void** p) {}
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}
int __cudaGetKernel(void** k, const void* f) { *k = (void*)f; return success; }
int __cudaPushCallConfiguration(void) { return success; }
int __cudaPopCallConfiguration(void) { return success; }
static int launch(void) { __atomic_add_fetch(&fakecuda_state->launches, 1, __ATOMIC_RELAXED); return success; }
int __cudaLaunchKernel(void) { return launch(); }
int cudaLaunchKernel(void) { return launch(); }
int cudaLaunchKernelExC(void) { return launch(); }

#define UNSUPPORTED(name) int name(void) { return not_supported; }
UNSUPPORTED(cudaFreeAsync)
UNSUPPORTED(cudaFuncGetAttributes)
UNSUPPORTED(cudaFuncSetAttribute)
UNSUPPORTED(cudaGetDriverEntryPointByVersion)
UNSUPPORTED(cudaGraphDestroy)
UNSUPPORTED(cudaGraphExecDestroy)
UNSUPPORTED(cudaGraphInstantiate)
UNSUPPORTED(cudaGraphLaunch)
UNSUPPORTED(cudaKernelSetAttributeForDevice)
UNSUPPORTED(cudaLaunchHostFunc)
UNSUPPORTED(cudaLibraryGetKernel)
UNSUPPORTED(cudaLibraryLoadData)
UNSUPPORTED(cudaLibraryUnload)
UNSUPPORTED(cudaMallocFromPoolAsync)
UNSUPPORTED(cudaMemPoolCreate)
UNSUPPORTED(cudaMemPoolDestroy)
UNSUPPORTED(cudaMemPoolGetAttribute)
UNSUPPORTED(cudaMemPoolSetAttribute)
UNSUPPORTED(cudaMemPoolTrimTo)
UNSUPPORTED(cudaMemcpy2DAsync)
UNSUPPORTED(cudaMemcpyFromSymbol)
UNSUPPORTED(cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags)
UNSUPPORTED(cudaStreamBeginCapture)
UNSUPPORTED(cudaStreamEndCapture)

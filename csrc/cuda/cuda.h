// What the kernels use of CUDA: the real thing under nvcc; under a host compiler, in tests, a stand-in that gives every
// CUDA thread a fiber.
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>

#define FASTVI_SHARED(T, name, count) __shared__ T name[count]
#define FASTVI_LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
// Of a grid: the loops in the kernels stride over it, so that any amount of work fits.
#define FASTVI_MOST_BLOCKS (1 << 20)
// As many as stay in the device's cache from one kernel to the next.
#define FASTVI_CACHED_NUMBERS (1 << 23)
#else
#include "cuda_on_host.h"
#endif

#define FASTVI_DEVICE __device__ __forceinline__

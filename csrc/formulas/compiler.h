// The mark that lets one formula serve the host's vectorised loops and CUDA kernels alike.
#pragma once

#ifdef __CUDACC__
#define FASTVI_HD __host__ __device__ __forceinline__
#else
#define FASTVI_HD inline __attribute__((always_inline))
#endif

// Compiled as C++ for the tests; `nvcc -std=c++20 -c kernels.cu` compiles it unchanged.
#include "kernels.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define FASTVI_SHARED(T, name, count) __shared__ T name[count]
#define FASTVI_LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
#else
#include "cuda_on_host.h"
#endif

namespace {

constexpr unsigned all_lanes = 0xffffffffu;
constexpr int block_size = 128;

struct alignas(16) Vector {
  float values[4];
};

__device__ Vector load(const float* from) {
#ifndef __CUDACC__
  cuda_on_host::check_access(from, sizeof(Vector));
#endif
  return *reinterpret_cast<const Vector*>(from);
}

template <Bug bug>
__device__ float sum_of_columns(const float* row, std::int64_t columns) {
  constexpr int offset = bug == Bug::odd_offset ? 1 : 0;
  const std::int64_t end = bug == Bug::off_by_one ? columns + 1 : columns;
  float sum = 0;
  for (std::int64_t column = 4 * threadIdx.x; column < end; column += 4 * blockDim.x) {
    const Vector vector = load(row + column + offset);
    for (const float value : vector.values) sum += value;
  }
  return sum;
}

template <Bug bug>
__device__ float warp_sum(float value) {
  const unsigned lane = threadIdx.x % 32;
  unsigned mask = all_lanes;
  if (bug == Bug::short_mask) mask = 0xffff;
  if (bug == Bug::mask_without_itself) mask = ~(1u << lane);
  if (bug == Bug::differing_masks && lane >= 16) mask = 0xffff8000u;
  if (bug == Bug::missing_lanes && lane >= 16) return value;
  if (bug == Bug::mixed_collectives && lane == 5) __ballot_sync(mask, 1);
  for (int distance = 1; distance < 32; distance *= 2) value += __shfl_xor_sync(mask, value, distance);
  return value;
}

template <Bug bug>
__global__ void warp_sums_kernel(const float* in, std::int64_t columns, float* out) {
  const float sum = warp_sum<bug>(sum_of_columns<bug>(in + blockIdx.x * columns, columns));
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

template <Bug bug>
__device__ float block_sum(float value) {
  constexpr int warps = block_size / 32;
  FASTVI_SHARED(float, sums, warps);
  const unsigned warp = threadIdx.x / 32;
  value = warp_sum<Bug::none>(value);
  const bool writes = threadIdx.x % 32 == 0 && !(bug == Bug::unwritten_shared && warp == 2);
  if (writes) sums[bug == Bug::shared_overrun ? warp + 1 : warp] = value;
  if (bug == Bug::early_exit && warp == 3) return 0;
  if (bug == Bug::divergent_barrier && warp == 1) {
    __syncthreads();
  } else if (bug != Bug::missing_barrier) {
    __syncthreads();
  }
  float total = 0;
  for (int i = 0; i < warps; ++i) total += sums[i];
  return total;
}

template <Bug bug>
__global__ void __launch_bounds__(block_size) block_sums_kernel(const float* in, std::int64_t columns, float* out) {
  const float sum = block_sum<bug>(sum_of_columns<bug>(in + blockIdx.x * columns, columns));
  // Another thread than the one whose sum comes first, so that each order has its own way to go wrong.
  if (threadIdx.x == 40) out[blockIdx.x] = sum;
}

__global__ void doubled_kernel(const double* in, std::int64_t count, double* out) {
  const std::int64_t threads = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += threads)
    out[i] = 2 * in[i];
}

template <Bug bug>
__global__ void reversed_rows_kernel(const int* in, int* out) {
  FASTVI_SHARED(int, row, 32);
  const unsigned lane = threadIdx.x;
  row[lane] = in[32 * blockIdx.x + lane];
  if (bug != Bug::missing_barrier) __syncwarp();
  out[32 * blockIdx.x + lane] = row[31 - lane];
}

template <Bug bug>
__global__ void votes_kernel(unsigned* out) {
  const unsigned lane = threadIdx.x;
  const int vote = lane % 3 == 0;
  if (bug == Bug::early_exit && lane == 20) return;
  if (bug == Bug::mixed_collectives && lane == 7) __any_sync(0xffffu, vote);
  unsigned* mine = out + 3 * lane;
  if (lane < 16) {
    mine[0] = __ballot_sync(0xffffu, vote);
    mine[1] = static_cast<unsigned>(__any_sync(0xffffu, vote));
    mine[2] = static_cast<unsigned>(__all_sync(0xffffu, vote));
  } else {
    mine[0] = __ballot_sync(0xffff0000u, vote);
    mine[1] = static_cast<unsigned>(__any_sync(0xffff0000u, vote));
    mine[2] = static_cast<unsigned>(__all_sync(0xffff0000u, vote));
  }
}

__global__ void shuffles_kernel(const std::int64_t* in, int operand, int width, std::int64_t* out) {
  const std::int64_t value = in[threadIdx.x];
  std::int64_t* mine = out + 4 * threadIdx.x;
  mine[0] = __shfl_sync(all_lanes, value, operand, width);
  mine[1] = __shfl_up_sync(all_lanes, value, static_cast<unsigned>(operand), width);
  mine[2] = __shfl_down_sync(all_lanes, value, static_cast<unsigned>(operand), width);
  mine[3] = __shfl_xor_sync(all_lanes, value, operand, width);
}

// Calls launch.operator()<bug>() for the bug that is among `bugs`, which a kernel knows.
template <Bug... bugs, class Launch>
void with_bug(Bug bug, const Launch& launch) {
  ((bug == bugs ? launch.template operator()<bugs>() : void()), ...);
}

}  // namespace

void warp_sums(Bug bug, const float* in, std::int64_t rows, std::int64_t columns, float* out) {
  with_bug<Bug::none, Bug::short_mask, Bug::mask_without_itself, Bug::differing_masks, Bug::mixed_collectives,
           Bug::missing_lanes>(bug, [&]<Bug planted>() {
    FASTVI_LAUNCH(warp_sums_kernel<planted>, static_cast<unsigned>(rows), 32, nullptr, in, columns, out);
  });
}

void block_sums(Bug bug, const float* in, std::int64_t rows, std::int64_t columns, float* out) {
  with_bug<Bug::none, Bug::missing_barrier, Bug::divergent_barrier, Bug::early_exit, Bug::unwritten_shared,
           Bug::shared_overrun, Bug::off_by_one, Bug::odd_offset>(bug, [&]<Bug planted>() {
    FASTVI_LAUNCH(block_sums_kernel<planted>, static_cast<unsigned>(rows), block_size, nullptr, in, columns, out);
  });
}

void doubled(const double* in, std::int64_t count, double* out) {
  FASTVI_LAUNCH(doubled_kernel, 3, 50, nullptr, in, count, out);
}

void reversed_rows(Bug bug, const int* in, std::int64_t rows, int* out) {
  with_bug<Bug::none, Bug::missing_barrier>(bug, [&]<Bug planted>() {
    FASTVI_LAUNCH(reversed_rows_kernel<planted>, static_cast<unsigned>(rows), 32, nullptr, in, out);
  });
}

void votes(Bug bug, unsigned* out) {
  with_bug<Bug::none, Bug::early_exit, Bug::mixed_collectives>(
      bug, [&]<Bug planted>() { FASTVI_LAUNCH(votes_kernel<planted>, 1, 32, nullptr, out); });
}

void shuffles(const std::int64_t* in, int operand, int width, std::int64_t* out) {
  FASTVI_LAUNCH(shuffles_kernel, 1, 32, nullptr, in, operand, width, out);
}

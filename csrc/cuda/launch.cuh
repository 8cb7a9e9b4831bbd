// How kernels are launched: on the queue's stream and device, without waiting for them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda.h"
#include "queue.h"

namespace fastvi {

// Makes the queue's device current as long as it lives.
class DeviceGuard {
 public:
  DeviceGuard();
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
};

// Throws std::runtime_error with CUDA's message.
void check_launch(cudaError_t status);

template <class T>
T* scratch(std::int64_t count) {
  return static_cast<T*>(queue().allocate(static_cast<std::size_t>(count) * sizeof(T)));
}

constexpr std::int64_t ceil_divide(std::int64_t numerator, std::int64_t denominator) {
  return (numerator + denominator - 1) / denominator;
}

// Where ptxas would spill a few registers for the sake of more blocks at once, a kernel's bounds name how many are
// enough.
inline constexpr int block_threads = 256;
inline constexpr int warp_threads = 32;

// Starts `kernel` on so many items of work, of which a block takes `items_per_block` at once.
template <class... Parameters>
void launch(void (*kernel)(Parameters...), std::int64_t items, int items_per_block,
            const std::type_identity_t<Parameters>&... arguments) {
  if (items == 0) return;
  const auto blocks =
      static_cast<unsigned>(std::min<std::int64_t>(ceil_divide(items, items_per_block), FASTVI_MOST_BLOCKS));
  FASTVI_LAUNCH(kernel, dim3(blocks), dim3(block_threads), static_cast<cudaStream_t>(queue().stream), arguments...);
  check_launch(cudaGetLastError());
}

}  // namespace fastvi

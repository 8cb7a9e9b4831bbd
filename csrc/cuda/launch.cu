#include <stdexcept>
#include <string>

#include "launch.cuh"

namespace fastvi {

Queue& queue() {
  thread_local Queue current;
  return current;
}

DeviceGuard::DeviceGuard() {
  check_launch(cudaGetDevice(&before_));
  if (queue().device != before_) check_launch(cudaSetDevice(queue().device));
}

DeviceGuard::~DeviceGuard() {
  if (queue().device != before_) cudaSetDevice(before_);
}

void check_launch(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("fastvi: CUDA: ") + cudaGetErrorString(status));
}

}  // namespace fastvi

// Where this thread's next kernels run. Plain C++, for callers that are not compiled by nvcc.
#pragma once

#include <cstddef>
#include <functional>

namespace fastvi {

struct Queue {
  int device = 0;
  void* stream = nullptr;  // a cudaStream_t
  // Scratch memory on the device. It must stay until the kernel function has returned, and from then on until the
  // stream has come past what it holds now.
  std::function<void*(std::size_t)> allocate;
};

Queue& queue();

}  // namespace fastvi

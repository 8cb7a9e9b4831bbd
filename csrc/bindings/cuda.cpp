// The CUDA module: the kernels, and where the calling thread's next ones run.
#include "../cuda/queue.h"
#include "call.h"

namespace fastvi {

// Built for the host, where a stand-in for CUDA runs the kernels, they read the CPU's memory.
#ifdef FASTVI_CUDA_ON_HOST
const std::int32_t backend_device = dlpack::cpu;
#else
const std::int32_t backend_device = dlpack::cuda;
#endif

// Scratch memory comes from PyTorch's allocator and goes back to it when the kernels' function has returned: whoever
// gets it next in the same stream comes after the kernels.
void enter_backend(Library library, const Device& device, std::vector<Result>& scratch) {
  queue() = {device.index, current_stream(library, device), [library, device, &scratch](std::size_t bytes) {
               const pybind11::gil_scoped_acquire gil;
               const std::array elements{static_cast<std::int64_t>((bytes + 7) / 8)};
               return scratch.emplace_back(library, DType::int64, device, elements).data();
             }};
}

}  // namespace fastvi

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "Native kernels of fastvi for CUDA devices.";
  fastvi::bind_operations(m);
}

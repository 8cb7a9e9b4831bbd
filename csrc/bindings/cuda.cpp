// The CUDA module: the kernels, and where the next of them that the calling thread starts run.
#include "../cuda/queue.h"
#include "casters.h"
#include "module.h"

namespace fastvi {
namespace {

namespace py = pybind11;

// The caller keeps `allocate` alive until the kernel function that it calls next has returned.
void use(int device, Address stream, const py::object& allocate) {
  queue() = {device, pointer<void>(stream), [allocate = py::handle(allocate)](std::size_t bytes) {
               const py::gil_scoped_acquire gil;
               return pointer<void>(allocate(bytes).cast<Address>());
             }};
}

}  // namespace
}  // namespace fastvi

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "Native kernels of fastvi for CUDA devices.";
  fastvi::bind_kernels(m);
  m.def("use", &fastvi::use);
}

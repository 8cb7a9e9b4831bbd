// The CUDA module alone: where the next kernels of the calling thread run.
#include "../cuda/queue.h"
#include "backend.h"
#include "casters.h"

namespace fastvi {

namespace py = pybind11;

void bind_backend(py::module_& m) {
  // The caller keeps `allocate` alive until the kernel function that it calls next has returned.
  m.def("use", [](int device, Address stream, const py::object& allocate) {
    queue() = {device, pointer<void>(stream), [allocate = py::handle(allocate)](std::size_t bytes) {
                 const py::gil_scoped_acquire gil;
                 return pointer<void>(allocate(bytes).cast<Address>());
               }};
  });
}

}  // namespace fastvi

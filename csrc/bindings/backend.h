// What a backend's module has besides the kernels.
#pragma once

#include <pybind11/pybind11.h>

namespace fastvi {

void bind_backend(pybind11::module_& m);

}  // namespace fastvi

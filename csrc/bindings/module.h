// What the native modules of all backends have.
#pragma once

#include <pybind11/pybind11.h>

namespace fastvi {

void bind_kernels(pybind11::module_& m);

}  // namespace fastvi

#pragma once

#include <pybind11/pybind11.h>

namespace fastvi {

void bind_chains(pybind11::module_& m);

}  // namespace fastvi

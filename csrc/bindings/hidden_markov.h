#pragma once

#include <pybind11/pybind11.h>

namespace fastvi {

void bind_hidden_markov(pybind11::module_& m);

}  // namespace fastvi

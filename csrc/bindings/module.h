// What the native modules of all backends have.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace fastvi {

using Address = std::uintptr_t;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

void bind_operations(pybind11::module_& m);

}  // namespace fastvi

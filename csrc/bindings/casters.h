// How the views of the kernels cross from Python: as tuples of integers, an address first. Only fastvi's own Python
// layer calls the native module, with addresses of tensors that it holds.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>

#include "../kernels.h"

namespace fastvi {

using Address = std::uintptr_t;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

// Reads a tuple of `count` integers; false (and so a TypeError from pybind11) for anything else.
template <std::size_t count>
bool read_integers(pybind11::handle source, std::array<std::int64_t, count>& values) {
  if (!PyTuple_CheckExact(source.ptr()) || PyTuple_GET_SIZE(source.ptr()) != static_cast<Py_ssize_t>(count))
    return false;
  for (std::size_t i = 0; i < count; ++i) {
    values[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(source.ptr(), static_cast<Py_ssize_t>(i)));
    if (values[i] == -1 && PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      return false;
    }
  }
  return true;
}

}  // namespace fastvi

namespace pybind11::detail {

template <>
struct type_caster<fastvi::Extent> {
  PYBIND11_TYPE_CASTER(fastvi::Extent, const_name("tuple[int, int, int]"));
  bool load(handle source, bool) {
    std::array<std::int64_t, 3> values{};
    if (!fastvi::read_integers(source, values)) return false;
    value = {values[0], values[1], values[2]};
    return true;
  }
};

template <>
struct type_caster<fastvi::AxisExtent> {
  PYBIND11_TYPE_CASTER(fastvi::AxisExtent, const_name("tuple[int, int, int]"));
  bool load(handle source, bool) {
    std::array<std::int64_t, 3> values{};
    if (!fastvi::read_integers(source, values)) return false;
    value = {values[0], values[1], values[2]};
    return true;
  }
};

template <class T>
struct type_caster<fastvi::RowView<T>> {
  PYBIND11_TYPE_CASTER(fastvi::RowView<T>, const_name("tuple[int, int, int]"));
  bool load(handle source, bool) {
    std::array<std::int64_t, 3> values{};
    if (!fastvi::read_integers(source, values)) return false;
    value = {fastvi::pointer<T>(static_cast<fastvi::Address>(values[0])), values[1], values[2]};
    return true;
  }
};

template <class T>
struct type_caster<fastvi::FactorView<T>> {
  PYBIND11_TYPE_CASTER(fastvi::FactorView<T>, const_name("tuple[int, int, int]"));
  bool load(handle source, bool) {
    std::array<std::int64_t, 3> values{};
    if (!fastvi::read_integers(source, values)) return false;
    value = {fastvi::pointer<const T>(static_cast<fastvi::Address>(values[0])), values[1], static_cast<int>(values[2])};
    return true;
  }
};

template <class T>
struct type_caster<fastvi::GradientView<T>> {
  PYBIND11_TYPE_CASTER(fastvi::GradientView<T>, const_name("tuple[int, int]"));
  bool load(handle source, bool) {
    std::array<std::int64_t, 2> values{};
    if (!fastvi::read_integers(source, values)) return false;
    value = {fastvi::pointer<T>(static_cast<fastvi::Address>(values[0])), values[1] != 0};
    return true;
  }
};

}  // namespace pybind11::detail

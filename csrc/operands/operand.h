// What a tensor or an array is to the kernels: memory, dtype, device, shape and strides. PyTorch's tensors are read by
// DLPack's C exchange interface, NumPy's arrays by the buffer protocol. Everything here needs the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

#include "../operations.h"
#include "dlpack.h"
#include "sizes.h"

namespace fastvi {

using dlpack::Device;

// An argument of the wrong type; one of a wrong value is a std::invalid_argument.
struct TypeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Library { none, torch, numpy };

// Memory that could not be had: what() tells for what, in words that stand after the operation's name.
struct NoMemory : std::runtime_error {
  NoMemory(Library of, const char* what, std::span<const std::int64_t> shape, DType dtype, const std::string& reason);

  Library library;
};

// A tensor or an array; empty where an argument was not given.
class Operand {
 public:
  Operand() = default;
  Operand(const Operand&) = delete;
  Operand& operator=(const Operand&) = delete;

  // Reads a tensor or an array. False, without a Python error, for what has no memory that a kernel may read: another
  // type, a subclass of tensors, another layout, a meta tensor, one of a transform, one whose storage was freed.
  bool read(PyObject* object);

  // Reads a contiguous copy of it, broadcast to a shape, in its place.
  void copy(std::span<const std::int64_t> shape);

  // Reads it in another dtype, in its place.
  void cast(DType dtype);

  bool given() const { return library_ != Library::none; }
  PyObject* object() const { return object_.ptr(); }
  Library library() const { return library_; }
  void* data() const { return data_; }
  DType dtype() const { return dtype_; }
  const Device& device() const { return device_; }
  std::span<const std::int64_t> shape() const { return {shape_, rank_}; }
  std::span<const std::int64_t> strides() const { return {strides_, rank_}; }  // in elements
  std::int64_t elements() const { return product(shape()); }
  bool is_on_cpu() const { return device_.type == dlpack::cpu; }
  bool is_contiguous() const { return contiguous(shape(), strides()); }
  bool is_writable() const { return buffer_ == nullptr || buffer_->readonly == 0; }

 private:
  pybind11::object plain_array() const;
  bool read_tensor(PyObject* object);
  bool read_array(PyObject* object);
  void clear();

  pybind11::object object_;  // kept, since the shape may be its own
  Library library_ = Library::none;
  void* data_ = nullptr;
  DType dtype_ = DType::other;
  Device device_{};
  std::size_t rank_ = 0;
  const std::int64_t* shape_ = nullptr;
  const std::int64_t* strides_ = nullptr;
  std::unique_ptr<Py_buffer, void (*)(Py_buffer*)> buffer_{nullptr, nullptr};
  Sizes own_strides_;
};

// New memory of a library, which becomes a tensor or an array of it; else it is given back.
class Result {
 public:
  Result() = default;
  Result(Library library, DType dtype, const Device& device, std::span<const std::int64_t> shape);

  void* data() const { return data_; }
  bool given() const { return managed_ != nullptr || array_; }

  // The tensor or the array.
  pybind11::object release();

 private:
  struct Delete {
    void operator()(dlpack::ManagedTensor* tensor) const { tensor->deleter(tensor); }
  };
  std::unique_ptr<dlpack::ManagedTensor, Delete> managed_;
  pybind11::object array_;
  void* data_ = nullptr;
};

// What may be done with the tensors of a call at once.
enum class Route {
  run,     // nothing watches: the kernels' results are those of the call
  record,  // the same, but PyTorch records the call for a backward pass
  other    // a transform, a mode, a tracer, or a tensor that is not plain
};

// From `first_number` on, numbers among the tensors are passed over, as None is; before, they are another route.
inline constexpr std::size_t no_numbers = static_cast<std::size_t>(-1);

Route route_of(std::span<PyObject* const> tensors, std::size_t first_number = no_numbers);

// Whether a backward pass may go straight to the kernels: nothing watches, and no derivative of it is recorded.
bool runs_backward(std::span<PyObject* const> tensors);

// PyTorch hands its number of threads to OpenMP in each thread of the program when it is first asked there.
void adopt_thread_count();

// The stream of a device in which PyTorch queues its work now.
void* current_stream(Library library, const Device& device);

// A tensor with a seed from PyTorch's generator.
pybind11::object new_seed();

std::string dtype_name(const Operand& operand);
pybind11::tuple shape_tuple(std::span<const std::int64_t> shape);

// A tensor of a shape in another dtype.
pybind11::object to_dtype(const pybind11::object& tensor, std::span<const std::int64_t> shape, DType dtype);

// Gives this module PyTorch's functions, before it reads the first tensor.
void use_torch(const pybind11::dict& functions);

}  // namespace fastvi

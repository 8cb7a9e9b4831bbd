// What native functions over whole tables share: how they read tensors. Python has made all arguments itself, so that
// what is refused here is a mistake in it.
#pragma once

#include <array>
#include <string>

#include "call.h"

namespace fastvi {

[[noreturn]] inline void refuse(const std::string& what) { throw std::invalid_argument("fastvi: " + what); }

// The tensors of a call, on one device; the first is `x` or densities, the others are contiguous and have a known
// number of elements.
class Tensors {
 public:
  const Operand& read(const char* name, PyObject* object) {
    Operand& operand = operands_[count_++];
    const bool fits = operand.read(object) && operand.device().type == backend_device;
    if (!fits || operand.device().index != operands_[0].device().index) {
      refuse(std::string(name) + " has no memory that a kernel may read");
    }
    return operand;
  }

  // Its memory, or null where it is None.
  void* data(const char* name, PyObject* object, std::int64_t elements, DType dtype) {
    if (object == Py_None) return nullptr;
    const Operand& operand = read(name, object);
    if (operand.dtype() != dtype || !operand.is_contiguous() || operand.elements() != elements) {
      refuse(std::string(name) + " is " + dtype_name(operand) + " of shape " + to_string(operand.shape()));
    }
    return operand.data();
  }

 private:
  std::size_t count_ = 0;
  std::array<Operand, 14> operands_;
};

}  // namespace fastvi

// One pass of expectation-maximisation as a native function of the CPU's modules. Python has made all arguments itself,
// so that what is refused here is a mistake in it.
#include "mixtures.h"

#include <optional>

#include "../cpu/mixture.h"
#include "call.h"

namespace fastvi {
namespace {

namespace py = pybind11;

constexpr const char* operation = "mixture_pass";

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(std::string(operation) + ": " + what); }

// The tensors of a call; but for x they are contiguous and have a known number of elements.
class Tensors {
 public:
  const Operand& read(const char* name, PyObject* object) {
    Operand& operand = operands_[count_++];
    if (!operand.read(object) || operand.device().type != backend_device) {
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
  std::array<Operand, 13> operands_;
};

int index_of(const char* name, PyObject* object, int count) {
  const auto index = static_cast<int>(PyLong_AsLongLong(object));
  if (index < 0 || index >= count) refuse(std::string(name) + " is " + std::to_string(index));
  return index;
}

template <class T>
double run(DType dtype, Tensors& tensors, const Operand& x, Arguments arguments) {
  MixturePass<T> pass{};
  pass.kind = static_cast<MixtureKind>(index_of("kind", arguments[0], num_mixture_kinds));
  pass.moments = static_cast<MixtureMoments>(index_of("moments", arguments[1], num_mixture_moments));
  const auto own = [&](std::size_t i, const char* name, std::int64_t elements) {
    return static_cast<T*>(tensors.data(name, arguments[i], elements, dtype));
  };
  const auto sums = [&](std::size_t i, const char* name, std::int64_t elements) {
    return static_cast<double*>(tensors.data(name, arguments[i], elements, DType::float64));
  };
  const std::int64_t rows = x.shape()[0], columns = x.shape()[1];
  const Operand& offset = tensors.read("offset", arguments[4]);
  const std::int64_t components = offset.elements(), matrix = columns * columns;
  if (offset.dtype() != dtype || !offset.is_contiguous() || components == 0 || columns == 0) refuse("offset is wrong");
  const std::int64_t scales[num_mixture_kinds] = {0, components * columns, matrix, components * matrix};
  const std::int64_t seconds[num_mixture_moments] = {0, 0, components * columns, components * matrix};
  pass.rows = rows;
  pass.columns = columns;
  pass.components = components;
  pass.x = static_cast<const T*>(x.data());
  pass.row_stride = x.strides()[0];
  pass.column_stride = x.strides()[1];
  pass.shift = own(3, "shift", columns);
  pass.offset = static_cast<const T*>(offset.data());
  pass.location = own(5, "location", components * columns);
  pass.scale = own(6, "scale", scales[static_cast<int>(pass.kind)]);
  pass.weights = own(7, "weights", rows);
  pass.given = own(8, "given", rows * components);
  pass.log_likelihood = own(9, "log_likelihood", rows);
  pass.responsibilities = own(10, "responsibilities", rows * components);
  pass.log_densities = own(11, "log_densities", rows * components);
  if (pass.moments != MixtureMoments::none) {
    pass.count = sums(12, "count", components);
    pass.first = sums(13, "first", components * columns);
    pass.second = sums(14, "second", seconds[static_cast<int>(pass.moments)]);
  }
  const bool lacks_sums = pass.moments != MixtureMoments::none &&
                          (pass.count == nullptr || pass.first == nullptr ||
                           (pass.moments != MixtureMoments::first && pass.second == nullptr));
  if (pass.shift == nullptr || pass.location == nullptr || lacks_sums ||
      (pass.kind != MixtureKind::linear && pass.scale == nullptr)) {
    refuse("an argument is missing");
  }
  adopt_thread_count();
  const py::gil_scoped_release release;
  return MixtureKernels<T>::pass(pass);
}

// mixture_pass(kind, moments, x, shift, offset, location, scale, weights, given, log_likelihood, responsibilities,
// log_densities, count, first, second): see MixturePass; the last six are written to.
py::object mixture_pass(Arguments arguments) {
  Tensors tensors;
  const Operand& x = tensors.read("x", arguments[2]);
  if (x.shape().size() != 2) refuse("x has shape " + to_string(x.shape()));
  if (x.dtype() == DType::float64) return py::float_(run<double>(x.dtype(), tensors, x, arguments));
  if (x.dtype() != DType::float32) refuse("x is " + dtype_name(x));
  return py::float_(run<float>(x.dtype(), tensors, x, arguments));
}

}  // namespace

void bind_mixtures(py::module_& m) { add_function(m, operation, 15, mixture_pass); }

}  // namespace fastvi

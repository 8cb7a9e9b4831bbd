// A pass of expectation-maximisation over the rows of a mixture as a native function.
#include "../mixture.h"
#include "passes.h"

namespace fastvi {
namespace {

namespace py = pybind11;

int index_of(const char* name, PyObject* object, int count) {
  const auto index = static_cast<int>(PyLong_AsLongLong(object));
  if (index < 0 || index >= count) refuse(std::string(name) + " is " + std::to_string(index));
  return index;
}

template <class T>
void run(DType dtype, Tensors& tensors, const Operand& x, Arguments arguments) {
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
  pass.total = sums(12, "total", 1);
  if (pass.moments != MixtureMoments::none) {
    pass.count = sums(13, "count", components);
    pass.first = sums(14, "first", components * columns);
    pass.second = sums(15, "second", seconds[static_cast<int>(pass.moments)]);
  }
  const bool lacks_sums =
      pass.moments != MixtureMoments::none && (pass.count == nullptr || pass.first == nullptr ||
                                               (pass.moments != MixtureMoments::first && pass.second == nullptr));
  if (pass.shift == nullptr || pass.location == nullptr || pass.total == nullptr || lacks_sums ||
      (pass.kind != MixtureKind::linear && pass.scale == nullptr)) {
    refuse("an argument is missing");
  }
  std::vector<Result> scratch;
  enter_backend(x.library(), x.device(), scratch);
  const py::gil_scoped_release release;
  MixtureKernels<T>::pass(pass);
}

// mixture_pass(kind, moments, x, shift, offset, location, scale, weights, given, log_likelihood, responsibilities,
// log_densities, total, count, first, second): see MixturePass; the last seven are written to.
py::object mixture_pass(Arguments arguments) {
  Tensors tensors;
  const Operand& x = tensors.read("x", arguments[2]);
  if (x.shape().size() != 2) refuse("x has shape " + to_string(x.shape()));
  if (x.dtype() == DType::float64) {
    run<double>(x.dtype(), tensors, x, arguments);
  } else if (x.dtype() == DType::float32) {
    run<float>(x.dtype(), tensors, x, arguments);
  } else {
    refuse("x is " + dtype_name(x));
  }
  return py::none();
}

}  // namespace

void bind_mixtures(py::module_& m) { add_function(m, "mixture_pass", 16, mixture_pass); }

}  // namespace fastvi

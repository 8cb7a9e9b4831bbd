// Passes of expectation-maximisation as native functions of the CPU's modules: over the rows of a mixture, and forward
// and backward through hidden Markov models. Python has made all arguments itself, so that what is refused here is a
// mistake in it.
#include "mixtures.h"

#include "../cpu/hidden_markov.h"
#include "../cpu/mixture.h"
#include "call.h"

namespace fastvi {
namespace {

namespace py = pybind11;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("fastvi.em: " + what); }

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
  const bool lacks_sums =
      pass.moments != MixtureMoments::none && (pass.count == nullptr || pass.first == nullptr ||
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

// A model of the arguments log_densities, starts, log_start, log_transition.
HiddenMarkov read_model(Tensors& tensors, Arguments arguments) {
  const Operand& densities = tensors.read("log_densities", arguments[0]);
  const Operand& starts = tensors.read("starts", arguments[1]);
  if (densities.dtype() != DType::float64 || !densities.is_contiguous() || densities.shape().size() != 2) {
    refuse("log_densities is " + dtype_name(densities) + " of shape " + to_string(densities.shape()));
  }
  const std::int64_t rows = densities.shape()[0], states = densities.shape()[1];
  const auto* const first = static_cast<const std::int64_t*>(starts.data());
  const std::int64_t sequences = starts.elements() - 1;
  bool fits = starts.dtype() == DType::int64 && starts.is_contiguous() && sequences > 0 && states > 0;
  for (std::int64_t s = 0; fits && s < sequences; ++s) fits = first[s] < first[s + 1];
  if (!fits || first[0] != 0 || first[sequences] != rows) refuse("starts do not cut the rows into sequences");
  const auto own = [&](std::size_t i, const char* name, std::int64_t elements) {
    const auto* const found = static_cast<const double*>(tensors.data(name, arguments[i], elements, DType::float64));
    if (found == nullptr) refuse(std::string(name) + " is missing");
    return found;
  };
  return {sequences,
          states,
          first,
          static_cast<const double*>(densities.data()),
          own(2, "log_start", states),
          own(3, "log_transition", states * states)};
}

// hidden_markov_posteriors(log_densities, starts, log_start, log_transition, posterior, transitions) -> log-likelihood
py::object hidden_markov_posteriors(Arguments arguments) {
  Tensors tensors;
  const HiddenMarkov model = read_model(tensors, arguments);
  const std::int64_t rows = model.starts[model.sequences], states = model.states;
  auto* const posterior = static_cast<double*>(tensors.data("posterior", arguments[4], rows * states, DType::float64));
  auto* const transitions =
      static_cast<double*>(tensors.data("transitions", arguments[5], states * states, DType::float64));
  if (posterior == nullptr || transitions == nullptr) refuse("a result is missing");
  adopt_thread_count();
  double total = 0;
  {
    const py::gil_scoped_release release;
    total = HiddenMarkovKernels::posteriors(model, posterior, transitions);
  }
  return py::float_(total);
}

// hidden_markov_path(log_densities, starts, log_start, log_transition, path)
py::object hidden_markov_path(Arguments arguments) {
  Tensors tensors;
  const HiddenMarkov model = read_model(tensors, arguments);
  auto* const path =
      static_cast<std::int64_t*>(tensors.data("path", arguments[4], model.starts[model.sequences], DType::int64));
  if (path == nullptr) refuse("path is missing");
  adopt_thread_count();
  {
    const py::gil_scoped_release release;
    HiddenMarkovKernels::best_path(model, path);
  }
  return py::none();
}

}  // namespace

void bind_mixtures(py::module_& m) {
  add_function(m, "mixture_pass", 15, mixture_pass);
  add_function(m, "hidden_markov_posteriors", 6, hidden_markov_posteriors);
  add_function(m, "hidden_markov_path", 5, hidden_markov_path);
}

}  // namespace fastvi

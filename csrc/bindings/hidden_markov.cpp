// Passes forward and backward through hidden Markov models as native functions of the CPU's modules.
#include "hidden_markov.h"

#include "../cpu/hidden_markov.h"
#include "passes.h"

namespace fastvi {
namespace {

namespace py = pybind11;

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

void bind_hidden_markov(py::module_& m) {
  add_function(m, "hidden_markov_posteriors", 6, hidden_markov_posteriors);
  add_function(m, "hidden_markov_path", 5, hidden_markov_path);
}

}  // namespace fastvi

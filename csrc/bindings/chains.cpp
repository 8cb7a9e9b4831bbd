// Trajectories of Markov chains as native functions of the CPU's modules. Python has checked what the user gives; what
// is refused here is a mistake in it.
#include "chains.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "../cpu/chains.h"
#include "../cpu/parallel.h"
#include "call.h"

namespace fastvi {
namespace {

namespace py = pybind11;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("fastvi.mcmc: " + what); }

// The tensors of a call: contiguous, of one dtype but for the prior.
class Tensors {
 public:
  const Operand& read(const char* name, PyObject* object) {
    Operand& operand = operands_[count_++];
    const bool is_read = operand.read(object) && operand.library() == Library::torch;
    if (!is_read || operand.device().type != backend_device || !operand.is_contiguous()) {
      refuse(std::string(name) + " has no contiguous memory that a kernel may read");
    }
    return operand;
  }

  // Its memory, or null where it is None.
  const void* data(const char* name, PyObject* object, std::int64_t elements, DType dtype) {
    if (object == Py_None) return nullptr;
    const Operand& operand = read(name, object);
    if (operand.dtype() != dtype || operand.elements() != elements) {
      refuse(std::string(name) + " is " + dtype_name(operand) + " of shape " + to_string(operand.shape()));
    }
    return operand.data();
  }

 private:
  std::size_t count_ = 0;
  std::array<Operand, 12> operands_;
};

std::int64_t whole(const char* name, PyObject* object) {
  const std::int64_t value = PyLong_AsLongLong(object);
  if (value < 0) {
    PyErr_Clear();
    refuse(std::string(name) + " is no whole number");
  }
  return value;
}

double number(PyObject* object) {
  const double value = PyFloat_AsDouble(object);
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  return value;
}

// Rows of kind, dimension, location, rate, weight and slope.
constexpr std::int64_t term_numbers = 6;

template <class T>
std::vector<PriorTerm<T>> read_prior(Tensors& tensors, PyObject* object, std::int64_t dimensions) {
  if (object == Py_None) return {};
  const Operand& table = tensors.read("prior", object);
  if (table.dtype() != DType::float64 || table.elements() % term_numbers != 0) refuse("the prior is wrong");
  std::vector<PriorTerm<T>> terms(static_cast<std::size_t>(table.elements() / term_numbers));
  const auto* from = static_cast<const double*>(table.data());
  for (PriorTerm<T>& term : terms) {
    const bool fits =
        from[0] >= 0 && from[0] < num_prior_kinds && from[1] >= 0 && from[1] < static_cast<double>(dimensions);
    if (!fits) refuse("a term of the prior has no place");
    term = {static_cast<PriorKind>(static_cast<int>(from[0])),
            static_cast<std::int64_t>(from[1]),
            static_cast<T>(from[2]),
            static_cast<T>(from[3]),
            static_cast<T>(from[4]),
            static_cast<T>(from[5])};
    from += term_numbers;
  }
  return terms;
}

// The arguments that all targets have, from place `first` on: prior, constant, position, momentum, gradient, step_size,
// inverse_mass, num_steps. `run` follows the trajectory; what it ends with is returned.
constexpr std::size_t chain_arguments = 8;

template <class T, class Run>
py::object follow(Tensors& tensors, const Operand& position, Arguments arguments, const Run& run) {
  const std::int64_t chains = position.shape()[0], dimensions = position.shape()[1], size = chains * dimensions;
  const DType dtype = position.dtype();
  const std::vector<PriorTerm<T>> prior = read_prior<T>(tensors, arguments[0], dimensions);
  const std::int64_t steps = whole("num_steps", arguments[7]);
  const auto own = [&](std::size_t i, const char* name, std::int64_t elements) {
    return static_cast<const T*>(tensors.data(name, arguments[i], elements, dtype));
  };
  ChainTrajectory<T> trajectory{};
  trajectory.chains = chains;
  trajectory.dimensions = dimensions;
  trajectory.num_steps = steps;
  trajectory.position = static_cast<const T*>(position.data());
  trajectory.prior = prior;
  trajectory.constant = number(arguments[1]);
  T step{};
  std::array<Result, 4> results;
  if (steps > 0) {
    trajectory.momentum = own(3, "momentum", size);
    trajectory.gradient = own(4, "gradient", size);
    if (PyFloat_CheckExact(arguments[5])) {
      step = static_cast<T>(PyFloat_AS_DOUBLE(arguments[5]));
      trajectory.step_size = &step;
    } else {
      trajectory.step_size = own(5, "step_size", chains);
      trajectory.step_per_chain = true;
    }
    if (arguments[6] != Py_None) {
      const Operand& mass = tensors.read("inverse_mass", arguments[6]);
      trajectory.dense_mass = mass.shape().size() == 2;
      if (mass.dtype() != dtype || mass.elements() != (trajectory.dense_mass ? dimensions : 1) * dimensions) {
        refuse("inverse_mass is " + dtype_name(mass) + " of shape " + to_string(mass.shape()));
      }
      trajectory.inverse_mass = static_cast<const T*>(mass.data());
    }
    if (trajectory.momentum == nullptr || trajectory.gradient == nullptr || trajectory.step_size == nullptr) {
      refuse("an argument is missing");
    }
    for (std::size_t i : {0, 1}) results[i] = Result(Library::torch, dtype, position.device(), position.shape());
  }
  results[2] = Result(Library::torch, dtype, position.device(), position.shape().first(1));
  results[3] = Result(Library::torch, dtype, position.device(), position.shape());
  trajectory.end_position = static_cast<T*>(results[0].data());
  trajectory.end_momentum = static_cast<T*>(results[1].data());
  trajectory.log_density = static_cast<T*>(results[2].data());
  trajectory.end_gradient = static_cast<T*>(results[3].data());
  adopt_thread_count();
  {
    const py::gil_scoped_release release;
    run(trajectory);
  }
  if (steps == 0) return py::make_tuple(results[2].release(), results[3].release());
  return py::make_tuple(results[0].release(), results[1].release(), results[2].release(), results[3].release());
}

// Calls body.operator()<T>() for the dtype of the position.
template <class Body>
py::object with_position(const Operand& position, const Body& body) {
  if (position.shape().size() != 2) refuse("position has shape " + to_string(position.shape()));
  if (position.dtype() == DType::float64) return body.template operator()<double>();
  if (position.dtype() != DType::float32) refuse("position is " + dtype_name(position));
  return body.template operator()<float>();
}

// regression_trajectory(kind, rows, columns, design, outcome, weight, offset, shift, has_log_scale, count, square,
// prior, constant, position, momentum, gradient, step_size, inverse_mass, num_steps) -> (position, momentum,
// log_density, gradient), or without steps the last two: see RegressionRows and ChainTrajectory.
constexpr std::size_t regression_arguments = 11;

py::object regression_trajectory(Arguments arguments) {
  Tensors tensors;
  const Operand& position = tensors.read("position", arguments[regression_arguments + 2]);
  return with_position(position, [&]<class T> {
    RegressionRows<T> rows{};
    const std::int64_t kind = whole("kind", arguments[0]);
    if (kind >= num_regressions) refuse("there is no such regression");
    rows.kind = static_cast<Regression>(kind);
    rows.rows = whole("rows", arguments[1]);
    rows.columns = whole("columns", arguments[2]);
    const auto own = [&](std::size_t i, const char* name, std::int64_t elements) {
      return static_cast<const T*>(tensors.data(name, arguments[i], elements, position.dtype()));
    };
    rows.design = own(3, "design", ceil_divide(rows.rows, design_tile) * design_tile * rows.columns);
    rows.outcome = own(4, "outcome", rows.rows);
    rows.weight = own(5, "weight", rows.rows);
    rows.offset = own(6, "offset", rows.rows);
    rows.shift = own(7, "shift", rows.columns);
    rows.has_log_scale = arguments[8] == Py_True;
    rows.count = number(arguments[9]);
    rows.square = number(arguments[10]);
    const std::int64_t dimensions = rows.columns + (rows.has_log_scale ? 1 : 0);
    if (position.shape()[1] != dimensions || (rows.has_log_scale && rows.kind != Regression::normal)) {
      refuse("position has shape " + to_string(position.shape()));
    }
    if (rows.rows > 0 && (rows.outcome == nullptr || (rows.columns > 0 && rows.design == nullptr))) {
      refuse("an argument is missing");
    }
    return follow<T>(tensors, position, arguments.subspan(regression_arguments),
                     [&](const ChainTrajectory<T>& trajectory) { ChainKernels<T>::follow(trajectory, rows); });
  });
}

// mixture_trajectory(rows, columns, components, x, weight, concentration, and from the prior on as above)
constexpr std::size_t mixture_arguments = 6;

py::object mixture_trajectory(Arguments arguments) {
  Tensors tensors;
  const Operand& position = tensors.read("position", arguments[mixture_arguments + 2]);
  return with_position(position, [&]<class T> {
    MixtureRows<T> rows{};
    rows.rows = whole("rows", arguments[0]);
    rows.columns = whole("columns", arguments[1]);
    rows.components = whole("components", arguments[2]);
    const auto own = [&](std::size_t i, const char* name, std::int64_t elements) {
      return static_cast<const T*>(tensors.data(name, arguments[i], elements, position.dtype()));
    };
    rows.x = own(3, "x", rows.rows * rows.columns);
    rows.weight = own(4, "weight", rows.rows);
    rows.concentration = own(5, "concentration", rows.components);
    if (rows.components == 0 || position.shape()[1] != rows.components * (2 * rows.columns + 1) - 1) {
      refuse("position has shape " + to_string(position.shape()));
    }
    if (rows.rows > 0 && rows.columns > 0 && rows.x == nullptr) refuse("an argument is missing");
    return follow<T>(tensors, position, arguments.subspan(mixture_arguments),
                     [&](const ChainTrajectory<T>& trajectory) { ChainKernels<T>::follow(trajectory, rows); });
  });
}

// draw_momenta(position, seed, first_chain, scale) -> (momentum, threshold): see ChainDraw.
py::object draw_momenta(Arguments arguments) {
  Tensors tensors;
  const Operand& position = tensors.read("position", arguments[0]);
  return with_position(position, [&]<class T> {
    ChainDraw<T> draw{};
    draw.chains = position.shape()[0];
    draw.dimensions = position.shape()[1];
    const std::int64_t seed = whole("seed", arguments[1]);
    draw.seed = &seed;
    draw.first_chain = whole("first_chain", arguments[2]);
    draw.scale = static_cast<const T*>(tensors.data("scale", arguments[3], draw.dimensions, position.dtype()));
    Result momentum(Library::torch, position.dtype(), position.device(), position.shape());
    Result threshold(Library::torch, position.dtype(), position.device(), position.shape().first(1));
    draw.momentum = static_cast<T*>(momentum.data());
    draw.threshold = static_cast<T*>(threshold.data());
    adopt_thread_count();
    {
      const py::gil_scoped_release release;
      TransitionKernels<T>::draw(draw);
    }
    return py::object(py::make_tuple(momentum.release(), threshold.release()));
  });
}

// choose_states(position, momentum, log_density, gradient, kinetic, end_position, end_momentum, end_log_density,
// end_gradient, end_kinetic, threshold, inverse_mass) -> (position, log_density, gradient, probability, energy, error):
// see ChainChoice. Both kinetic energies are None, or neither is.
py::object choose_states(Arguments arguments) {
  Tensors tensors;
  const Operand& position = tensors.read("position", arguments[0]);
  return with_position(position, [&]<class T> {
    ChainChoice<T> choice{};
    choice.chains = position.shape()[0];
    choice.dimensions = position.shape()[1];
    const std::int64_t size = choice.chains * choice.dimensions;
    const auto own = [&](std::size_t i, const char* name, std::int64_t elements) {
      return static_cast<const T*>(tensors.data(name, arguments[i], elements, position.dtype()));
    };
    choice.start = {static_cast<const T*>(position.data()), own(1, "momentum", size),
                    own(2, "log_density", choice.chains), own(3, "gradient", size), own(4, "kinetic", choice.chains)};
    choice.end = {own(5, "end_position", size), own(6, "end_momentum", size), own(7, "end_log_density", choice.chains),
                  own(8, "end_gradient", size), own(9, "end_kinetic", choice.chains)};
    choice.threshold = own(10, "threshold", choice.chains);
    choice.inverse_mass = own(11, "inverse_mass", choice.dimensions);
    if ((choice.start.kinetic == nullptr) != (choice.end.kinetic == nullptr)) refuse("one kinetic energy is missing");
    for (const auto& point : {choice.start, choice.end}) {
      const void* needed[] = {point.position, point.momentum, point.log_density, point.gradient, choice.threshold};
      if (std::count(std::begin(needed), std::end(needed), nullptr) > 0) refuse("an argument is missing");
    }
    std::array<Result, 6> results;
    for (std::size_t i : {0, 2}) {
      results[i] = Result(Library::torch, position.dtype(), position.device(), position.shape());
    }
    for (std::size_t i : {1, 3, 4, 5}) {
      results[i] = Result(Library::torch, position.dtype(), position.device(), position.shape().first(1));
    }
    choice.position = static_cast<T*>(results[0].data());
    choice.log_density = static_cast<T*>(results[1].data());
    choice.gradient = static_cast<T*>(results[2].data());
    choice.probability = static_cast<T*>(results[3].data());
    choice.energy = static_cast<T*>(results[4].data());
    choice.error = static_cast<T*>(results[5].data());
    adopt_thread_count();
    {
      const py::gil_scoped_release release;
      TransitionKernels<T>::choose(choice);
    }
    return py::object(py::make_tuple(results[0].release(), results[1].release(), results[2].release(),
                                     results[3].release(), results[4].release(), results[5].release()));
  });
}

}  // namespace

void bind_chains(py::module_& m) {
  add_function(m, "draw_momenta", 4, draw_momenta);
  add_function(m, "choose_states", 12, choose_states);
  add_function(m, "regression_trajectory", regression_arguments + chain_arguments, regression_trajectory);
  add_function(m, "mixture_trajectory", mixture_arguments + chain_arguments, mixture_trajectory);
}

}  // namespace fastvi

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
    if (rows.rows > 0 && rows.columns > 0 && (rows.design == nullptr || rows.outcome == nullptr)) {
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

}  // namespace

void bind_chains(py::module_& m) {
  add_function(m, "regression_trajectory", regression_arguments + chain_arguments, regression_trajectory);
  add_function(m, "mixture_trajectory", mixture_arguments + chain_arguments, mixture_trajectory);
}

}  // namespace fastvi

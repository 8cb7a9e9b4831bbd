// Sparse codes as native functions of the CPU's modules: the Lasso of many rows, and a step of proximal gradient
// descent.
#include "sparse_codes.h"

#include "../cpu/lasso.h"
#include "passes.h"

namespace fastvi {
namespace {

namespace py = pybind11;

std::int64_t whole(const char* name, PyObject* object) {
  const std::int64_t value = PyLong_AsLongLong(object);
  if (value < 0) {
    PyErr_Clear();
    refuse(std::string(name) + " is no whole number");
  }
  return value;
}

// A table (rows, atoms) from which the kernels read, or to which they write.
const Operand& table(Tensors& tensors, const char* name, PyObject* object) {
  const Operand& found = tensors.read(name, object);
  if (found.shape().size() != 2 || !found.is_contiguous()) refuse(std::string(name) + " is no contiguous table");
  return found;
}

void* present(const char* name, void* memory) {
  if (memory == nullptr) refuse(std::string(name) + " is missing");
  return memory;
}

template <class T>
void run_lasso(Tensors& tensors, const Operand& correlations, Arguments arguments) {
  const std::int64_t rows = correlations.shape()[0], atoms = correlations.shape()[1];
  const DType dtype = correlations.dtype();
  const auto own = [&](std::size_t i, const char* name, std::int64_t elements, DType of) {
    return present(name, tensors.data(name, arguments[i], elements, of));
  };
  LassoRows<T> problem{};
  problem.rows = rows;
  problem.atoms = atoms;
  problem.correlations = static_cast<const T*>(correlations.data());
  problem.gram = static_cast<const T*>(own(1, "gram", atoms * atoms, dtype));
  problem.rank = whole("rank", arguments[2]);
  problem.threshold = PyFloat_AsDouble(arguments[3]);
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  problem.max_steps = whole("max_steps", arguments[4]);
  problem.codes = static_cast<T*>(own(5, "codes", rows * atoms, dtype));
  problem.steps = static_cast<std::int64_t*>(own(6, "steps", rows, DType::int64));
  problem.converged = static_cast<std::int64_t*>(own(7, "converged", rows, DType::int64));
  adopt_thread_count();
  const py::gil_scoped_release release;
  SparseCodingKernels<T>::lasso(problem);
}

// lasso_rows(correlations, gram, rank, threshold, max_steps, codes, steps, converged): see LassoRows; the last three
// are written to.
py::object lasso_rows(Arguments arguments) {
  Tensors tensors;
  const Operand& correlations = table(tensors, "correlations", arguments[0]);
  if (correlations.dtype() == DType::float64) {
    run_lasso<double>(tensors, correlations, arguments);
  } else if (correlations.dtype() == DType::float32) {
    run_lasso<float>(tensors, correlations, arguments);
  } else {
    refuse("correlations is " + dtype_name(correlations));
  }
  return py::none();
}

template <class T>
void run_step(Tensors& tensors, const Operand& direction, Arguments arguments) {
  const std::int64_t rows = direction.shape()[0], atoms = direction.shape()[1];
  const auto own = [&](std::size_t i, const char* name, std::int64_t elements) {
    return static_cast<T*>(tensors.data(name, arguments[i], elements, direction.dtype()));
  };
  ProximalStep<T> step{};
  step.rows = rows;
  step.atoms = atoms;
  step.direction = static_cast<const T*>(direction.data());
  step.step = static_cast<const T*>(present("step", own(1, "step", rows)));
  step.threshold = static_cast<const T*>(present("threshold", own(2, "threshold", rows)));
  step.codes = static_cast<T*>(present("codes", own(3, "codes", rows * atoms)));
  step.extrapolated = own(4, "extrapolated", rows * atoms);
  step.momentum = own(5, "momentum", rows);
  step.restarts = whole("restarts", arguments[6]) != 0;
  if ((step.extrapolated == nullptr) != (step.momentum == nullptr)) refuse("momentum is for extrapolated codes");
  adopt_thread_count();
  const py::gil_scoped_release release;
  SparseCodingKernels<T>::step(step);
}

// proximal_step(direction, step, threshold, codes, extrapolated, momentum, restarts): see ProximalStep; the codes,
// `extrapolated` and the momentum are written to.
py::object proximal_step(Arguments arguments) {
  Tensors tensors;
  const Operand& direction = table(tensors, "direction", arguments[0]);
  if (direction.dtype() == DType::float64) {
    run_step<double>(tensors, direction, arguments);
  } else if (direction.dtype() == DType::float32) {
    run_step<float>(tensors, direction, arguments);
  } else {
    refuse("direction is " + dtype_name(direction));
  }
  return py::none();
}

}  // namespace

void bind_sparse_codes(py::module_& m) {
  add_function(m, "lasso_rows", 8, lasso_rows);
  add_function(m, "proximal_step", 7, proximal_step);
}

}  // namespace fastvi

// What the native modules of all backends have: the functions of every operation. Those in `attempt` and
// `attempt_backward` are for calls of the public functions, with any arguments; those in `forward` and `backward` for
// tensors that PyTorch hands to an operator; those in `numpy` for arrays.
#include "module.h"

#include "call.h"

namespace fastvi {
namespace {

namespace py = pybind11;

py::list names(std::span<const char* const> all) {
  py::list result;
  for (const char* const name : all) result.append(name);
  return result;
}

template <class Operation>
py::list constants_of(const Operation& operation) {
  py::list result;
  for (const Constant& constant : operation.constants) result.append(constant.name);
  return result;
}

// The lists of operations as Python reads them.
py::list described_rows() {
  py::list result;
  for (const RowOperation& operation : row_operations()) {
    result.append(
        py::make_tuple(operation.name, names(operation.operands), operation.required, constants_of(operation)));
  }
  return result;
}

py::list described_maps() {
  py::list result;
  for (const MapOperation& operation : map_operations()) {
    result.append(py::make_tuple(operation.name, names(operation.states), names(operation.factors),
                                 operation.required_factors, constants_of(operation), operation.outputs));
  }
  return result;
}

// True where kernels may run on the tensors at once, None where PyTorch is to record the call, else NotImplemented.
py::object route(Arguments tensors) {
  switch (route_of(tensors)) {
    case Route::run:
      return py::bool_(true);
    case Route::record:
      return py::none();
    default:
      return py::reinterpret_borrow<py::object>(Py_NotImplemented);
  }
}

}  // namespace

void bind_operations(py::module_& m) {
  for (const char* const name : {"attempt", "forward", "attempt_backward", "backward", "numpy"}) m.def_submodule(name);
  bind_rows(m);
  bind_maps(m);
  bind_axes(m);
  bind_sampling(m);
  add_function(m, "route", any_count, route);
  add_function(m, "runs_backward", any_count, [](Arguments tensors) { return py::bool_(runs_backward(tensors)); });
  m.def("use_torch", &use_torch);
  m.def("row_operations", &described_rows);
  m.def("map_operations", &described_maps);
}

}  // namespace fastvi

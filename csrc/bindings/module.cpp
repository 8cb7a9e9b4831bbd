// What the native modules of all backends have: the functions of every operation. Those in `attempt` and
// `attempt_backward` are for calls of the public functions, with any arguments; those in `forward` and `backward` for
// tensors that PyTorch hands to an operator; those in `numpy` for arrays.
#include "call.h"

namespace fastvi {
namespace {

namespace py = pybind11;

template <class Range, class Describe>
py::list listed(const Range& range, const Describe& describe) {
  py::list result;
  for (const auto& each : range) result.append(describe(each));
  return result;
}

py::list names(std::span<const char* const> all) {
  return listed(all, [](const char* name) { return name; });
}

py::list names(std::span<const Constant> all) {
  return listed(all, [](const Constant& constant) { return constant.name; });
}

// The lists of operations as Python reads them.
py::list described_rows() {
  return listed(row_operations(), [](const RowOperation& operation) {
    return py::make_tuple(operation.name, names(operation.operands), operation.required, names(operation.constants));
  });
}

py::list described_maps() {
  return listed(map_operations(), [](const MapOperation& operation) {
    return py::make_tuple(operation.name, names(operation.states), names(operation.factors), operation.required_factors,
                          names(operation.constants), operation.outputs);
  });
}

}  // namespace

void bind_operations(py::module_& m) {
  for (const char* const name : {"attempt", "forward", "attempt_backward", "backward", "numpy"}) m.def_submodule(name);
  bind_rows(m);
  bind_maps(m);
  bind_axes(m);
  bind_layers(m);
  bind_mixtures(m);
  bind_sampling(m);
  add_function(m, "route", any_count, [](Arguments tensors) { return answer(route_of(tensors)); });
  add_function(m, "runs_backward", any_count, [](Arguments tensors) { return py::bool_(runs_backward(tensors)); });
  m.def("use_torch", &use_torch);
  m.def("row_operations", &described_rows);
  m.def("map_operations", &described_maps);
}

}  // namespace fastvi

// Map operations as native functions.
#include "call.h"

namespace fastvi {
namespace {

namespace py = pybind11;

// The operands of a map operation, and how the kernels see them.
struct MapCall {
  const MapOperation& operation;
  Call call;
  Sizes full;
  std::int64_t rows = 0, columns = 0;
  std::array<View, max_operands> states{};
  std::array<FactorView<void>, max_operands> factors{};
  std::array<double, max_operands> constants{};

  // `wide_factors` says whether factors may have the dtype of the arithmetic where the states are narrower.
  MapCall(const MapOperation& of, Library library, Arguments tensors, Arguments numbers, bool wide_factors)
      : operation(of), call(of.name, library), wide_factors_(wide_factors) {
    for (std::size_t i = 0; i < of.constants.size(); ++i) constants[i] = call.number(of.constants[i], numbers[i]);
    for (std::size_t i = 0; i < num_states(); ++i) call.read(of.states[i], tensors[i]);
    for (std::size_t i = 0; i < of.factors.size(); ++i) read_factor(i, tensors[num_states() + i]);
    std::array<Layout, max_operands> layouts;
    full = broadcast_shapes(of.name, {layouts.data(), call.layouts(call.size(), layouts)});
    if (full.rank == 0)
      call.refuse(std::string(of.states[0]) + " has no dimension; expected the event in the last one");
  }

  std::size_t num_states() const { return operation.states.size(); }
  std::size_t num_tensors() const { return num_states() + operation.factors.size(); }
  const Operand& factor(std::size_t i) const { return call[num_states() + i]; }

  // Whether a factor has one number a column, and not one a row or a single one.
  bool by_column(std::size_t i) const {
    const auto shape = factor(i).shape();
    return factor(i).given() && !shape.empty() && shape.back() == full[full.rank - 1] && shape.back() != 1;
  }

  // Rows that are merged, and factors that have one number a row or one a column.
  void make_views() {
    for (std::size_t i = num_states(); i < num_tensors(); ++i) {
      if (call[i].given() && is_half(call[i].dtype())) call[i].cast(DType::float32);
    }
    std::array<std::array<std::int64_t, max_rank>, max_operands> strides;
    std::array<Layout, max_operands> layouts;
    std::array<std::size_t, max_operands> places;
    std::size_t count = 0;
    for (std::size_t i = 0; i < num_tensors(); ++i) {
      if (i >= num_states() && !by_column(i - num_states())) continue;
      expand_strides(call.layout(i), full, strides[i].data());
      layouts[count] = {call.layout(i).name, full, {strides[i].data(), static_cast<std::size_t>(full.rank)}};
      places[count++] = i;
    }
    const RowPlan plan = plan_rows(operation.name, {layouts.data(), count}, 0);
    rows = plan.extent.rows;
    columns = plan.extent.columns;
    for (std::size_t place = 0; place < count; ++place) {
      const std::size_t i = places[place];
      const View view = call.view(i, plan, place);
      if (i < num_states()) {
        states[i] = view;
      } else {
        factors[i - num_states()] = {view.data, view.row_stride, 1};
      }
    }
    Sizes by_row = full;
    by_row[by_row.rank - 1] = 1;
    for (std::size_t i = 0; i < operation.factors.size(); ++i) {
      Operand& given = call[num_states() + i];
      if (numbers_[i] != nullptr) factors[i] = {numbers_[i], 0, 0};
      if (!given.given() || by_column(i)) continue;
      const bool single = given.elements() == 1;
      if (!single) given.copy(by_row);
      factors[i] = {given.data(), single ? 0 : 1, 0};
    }
  }

  std::size_t dtype() const { return static_cast<std::size_t>(call.dtype()); }

 private:
  // A tensor, or a number, which half precision would round.
  void read_factor(std::size_t i, PyObject* object) {
    const char* const name = operation.factors[i];
    const bool number = PyFloat_CheckExact(object) || PyLong_CheckExact(object);
    if (object == Py_None && i < operation.required_factors) {
      throw TypeError(std::string(operation.name) + ": " + name + " must be a torch.Tensor or a number, got NoneType");
    }
    call.read(name, number ? Py_None : object, number || i >= operation.required_factors, wide_factors_);
    if (!number) return;
    const double value = call.number({name}, object);
    wide_[i] = value;
    narrow_[i] = static_cast<float>(value);
    numbers_[i] = call.dtype() == DType::float64 ? static_cast<const void*>(&wide_[i]) : &narrow_[i];
  }

  bool wide_factors_;
  std::array<double, max_operands> wide_;
  std::array<float, max_operands> narrow_;
  std::array<const void*, max_operands> numbers_{};
};

py::object only_or_tuple(std::span<Result> results) {
  if (results.size() == 1) return results[0].release();
  py::tuple found(results.size());
  for (std::size_t i = 0; i < results.size(); ++i) found[i] = results[i].release();
  return found;
}

py::object forward(const MapOperation& operation, Library library, Arguments arguments, bool wide_factors) {
  const std::size_t tensors = operation.states.size() + operation.factors.size();
  MapCall map(operation, library, arguments.first(tensors), arguments.subspan(tensors), wide_factors);
  map.make_views();
  std::array<Result, max_operands> results;
  std::array<void*, max_operands> outputs;
  for (std::size_t i = 0; i < operation.outputs; ++i) {
    results[i] = map.call.result(map.full);
    outputs[i] = results[i].data();
  }
  map.call.run([&] {
    operation.forward[map.dtype()](map.rows, map.columns, map.states.data(), map.factors.data(), map.constants.data(),
                                   outputs.data());
  });
  return only_or_tuple({results.data(), operation.outputs});
}

py::object backward(const MapOperation& operation, Arguments arguments) {
  const std::size_t outputs = operation.outputs, states = operation.states.size();
  const std::size_t tensors = states + operation.factors.size();
  const std::vector<bool> needs = read_needs(arguments.back(), tensors);
  MapCall map(operation, Library::torch, arguments.subspan(outputs, tensors), arguments.subspan(outputs + tensors),
              true);
  Call& call = map.call;
  call.check_needs(needs);
  const DType dtype = call.dtype();
  std::array<Sizes, max_operands> own_shapes;
  std::array<DType, max_operands> own_dtypes;
  bool rounds_too_early = false;  // half precision, before what was broadcast is summed
  for (std::size_t i = 0; i < tensors; ++i) {
    if (!needs[i]) continue;
    own_shapes[i] = Sizes(call[i].shape());
    own_dtypes[i] = call[i].dtype();
    rounds_too_early |= i < states && is_half(dtype) && !equal(own_shapes[i], map.full);
  }

  py::tuple found(tensors);
  const bool empty = product(map.full) == 0;
  for (std::size_t i = 0; i < tensors; ++i) {
    found[i] = needs[i] && empty ? call.zeros(own_shapes[i], own_dtypes[i]) : py::object(py::none());
  }
  if (empty) return found;

  std::array<Operand, max_operands> upstream;
  std::array<const void*, max_operands> by_output;
  for (std::size_t i = 0; i < outputs; ++i) {
    if (arguments[i] == Py_None) {
      upstream[i].read(call.zeros(map.full, dtype).ptr());
    } else {
      call.read_upstream(upstream[i], arguments[i], map.full);
    }
    make_contiguous(upstream[i]);
  }
  if (rounds_too_early) {
    for (std::size_t i = 0; i < states; ++i) call[i].cast(DType::float32);
    for (std::size_t i = 0; i < outputs; ++i) upstream[i].cast(DType::float32);
  }
  for (std::size_t i = 0; i < outputs; ++i) by_output[i] = upstream[i].data();
  map.make_views();

  std::array<Result, max_operands> results;
  std::array<Sizes, max_operands> shapes;
  std::array<void*, max_operands> targets{};
  for (std::size_t i = 0; i < tensors; ++i) {
    if (!needs[i]) continue;
    shapes[i] = map.full;
    if (i >= states && !map.by_column(i - states)) shapes[i][map.full.rank - 1] = 1;
    results[i] = call.result(shapes[i], i < states ? call.dtype() : compute_dtype(dtype));
    targets[i] = results[i].data();
  }
  call.run([&] {
    operation.backward[map.dtype()](map.rows, map.columns, map.states.data(), map.factors.data(), map.constants.data(),
                                    by_output.data(), targets.data());
  });
  for (std::size_t i = 0; i < tensors; ++i) {
    if (!needs[i]) continue;
    const DType computed = i < states ? call.dtype() : compute_dtype(dtype);
    py::object gradient = call.summed(std::move(results[i]), shapes[i], own_shapes[i], computed);
    found[i] = computed == own_dtypes[i] ? std::move(gradient) : to_dtype(gradient, own_dtypes[i]);
  }
  return found;
}

}  // namespace

void bind_maps(py::module_& m) {
  for (const MapOperation& operation : map_operations()) {
    const std::size_t tensors = operation.states.size() + operation.factors.size();
    const std::size_t count = tensors + operation.constants.size();
    const auto body = [&operation](bool wide_factors) {
      return [&operation, wide_factors](Library library, Arguments arguments) {
        return forward(operation, library, arguments, wide_factors);
      };
    };
    add_forward(m, operation.name, tensors, count, body(false), operation.states.size(), body(true));
    add_backward(m, operation.name, tensors + operation.outputs, count + operation.outputs + 1,
                 [&operation](Arguments arguments) { return backward(operation, arguments); });
  }
}

}  // namespace fastvi

// Map operations as native functions.
#include "gradients.h"

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

  // The kernels give a gradient as large as the result, or one number a row for a factor that has no columns; those of
  // factors are never narrower than the arithmetic.
  GradientPlan gradient(std::size_t i) const {
    const bool is_state = i < num_states();
    Sizes shape = full;
    if (!is_state && !by_column(i - num_states())) shape[full.rank - 1] = 1;
    return {shape, false, is_state && !equal(full, call[i].shape())};
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
  const std::size_t outputs = operation.outputs, tensors = operation.states.size() + operation.factors.size();
  const std::vector<bool> needs = read_needs(operation.name, arguments.back(), tensors);
  MapCall map(operation, Library::torch, arguments.subspan(outputs, tensors), arguments.subspan(outputs + tensors),
              true);
  Call& call = map.call;
  std::array<Operand, max_operands> upstream;
  std::array<Operand*, max_operands> above;
  for (std::size_t i = 0; i < outputs; ++i) {
    above[i] = &upstream[i];
    if (arguments[i] == Py_None) {
      upstream[i].read(call.zeros(map.full, call.dtype()).ptr());
    } else {
      call.read_upstream(upstream[i], arguments[i], map.full);
    }
    make_contiguous(upstream[i]);
  }
  OperandGradients gradients(
      call, needs, {above.data(), outputs}, product(map.full) == 0, [&](std::size_t i) { return map.gradient(i); },
      [] {});
  if (gradients.is_empty()) return gradients.release();

  map.make_views();
  std::array<const void*, max_operands> by_output;
  std::array<void*, max_operands> targets{};
  for (std::size_t i = 0; i < outputs; ++i) by_output[i] = upstream[i].data();
  for (std::size_t i = 0; i < tensors; ++i) targets[i] = gradients.target(i).data;
  call.run([&] {
    operation.backward[map.dtype()](map.rows, map.columns, map.states.data(), map.factors.data(), map.constants.data(),
                                    by_output.data(), targets.data());
  });
  return gradients.release();
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

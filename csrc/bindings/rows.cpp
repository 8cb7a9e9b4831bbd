// Row operations as native functions.
#include "call.h"

namespace fastvi {
namespace {

namespace py = pybind11;

// The operands of a row operation, and how the kernels see them.
struct RowCall {
  const RowOperation& operation;
  Call call;
  RowPlan plan;
  std::array<View, max_operands> views{};
  std::array<double, max_operands> constants{};

  RowCall(const RowOperation& of, Library library, Arguments tensors, Arguments numbers)
      : operation(of), call(of.name, library) {
    for (std::size_t i = 0; i < of.constants.size(); ++i) constants[i] = call.number(of.constants[i], numbers[i]);
    for (std::size_t i = 0; i < of.operands.size(); ++i) call.read(of.operands[i], tensors[i], i >= of.required);
    lay_out();
  }

  // Of operands that may be left out all are given or none.
  void lay_out() {
    std::array<Layout, max_operands> layouts;
    const std::size_t given = call.layouts(call.size(), layouts);
    if (given != operation.required && given != call.size()) {
      throw Incomplete(std::string(call.operation()) + ": expected both " + operation.operands[operation.required] +
                       " and " + operation.operands[operation.required + 1] + ", or neither");
    }
    plan = plan_rows(call.operation(), {layouts.data(), given});
  }

  void make_views() {
    for (std::size_t i = 0; i < call.size(); ++i) views[i] = call[i].given() ? call.view(i, plan, i) : View{};
  }

  std::int64_t elements() const { return product(plan.leading) * plan.extent.columns; }
};

py::object forward(const RowOperation& operation, Library library, Arguments arguments) {
  const std::size_t count = operation.operands.size();
  RowCall rows(operation, library, arguments.first(count), arguments.subspan(count));
  rows.make_views();
  Result out = rows.call.result(rows.plan.leading);
  rows.call.run([&] {
    operation.forward[static_cast<std::size_t>(rows.call.dtype())](rows.plan.extent, rows.views.data(),
                                                                   rows.constants.data(), out.data());
  });
  return out.release();
}

// A gradient of shape `leading`, of any strides that one view can have.
View upstream_view(Operand& upstream, const Extent& extent) {
  const auto strides = upstream.strides();
  if (std::all_of(strides.begin(), strides.end(), [](std::int64_t stride) { return stride == 0; })) {
    return {upstream.data(), 0, 0};
  }
  if (extent.samples == 1 && strides.size() == 1) return {upstream.data(), 0, strides[0]};
  make_contiguous(upstream);
  return {upstream.data(), extent.rows, 1};
}

py::object backward(const RowOperation& operation, Arguments arguments) {
  const std::size_t count = operation.operands.size();
  const std::vector<bool> needs = read_needs(arguments.back(), count);
  RowCall rows(operation, Library::torch, arguments.subspan(1, count), arguments.subspan(1 + count));
  Call& call = rows.call;
  Operand upstream;
  call.read_upstream(upstream, arguments[0], rows.plan.leading);
  call.check_needs(needs);

  std::array<GradientPlan, max_operands> plans;
  std::array<Sizes, max_operands> shapes;  // of the operands, before any is copied
  bool rounds_too_early = false;
  for (std::size_t i = 0; i < count; ++i) {
    if (!needs[i]) continue;
    shapes[i] = Sizes(call[i].shape());
    plans[i] = rows.plan.gradient(call.layout(i));
    rounds_too_early |= plans[i].broadcast && is_half(call.dtype());
  }
  py::tuple found(count);
  for (std::size_t i = 0; i < count; ++i) found[i] = py::none();
  if (rows.elements() == 0) {  // every gradient is an empty sum
    for (std::size_t i = 0; i < count; ++i) {
      if (needs[i]) found[i] = call.zeros(shapes[i], call.dtype());
    }
    return found;
  }

  const DType dtype = call.dtype();
  if (rounds_too_early) {  // half precision would round before what was broadcast is summed
    for (std::size_t i = 0; i < count; ++i) {
      if (call[i].given()) call[i].cast(DType::float32);
    }
    upstream.cast(DType::float32);
    rows.lay_out();  // other strides may be merged otherwise
    for (std::size_t i = 0; i < count; ++i) {
      if (needs[i]) plans[i] = rows.plan.gradient(call.layout(i));
    }
  }
  rows.make_views();
  const View by_row = upstream_view(upstream, rows.plan.extent);
  std::array<Result, max_operands> results;
  std::array<GradientView<void>, max_operands> targets{};
  for (std::size_t i = 0; i < count; ++i) {
    if (!needs[i]) continue;
    results[i] = call.result(plans[i].shape);
    targets[i] = {results[i].data(), plans[i].sums_samples};
  }
  call.run([&] {
    operation.backward[static_cast<std::size_t>(call.dtype())](rows.plan.extent, rows.views.data(),
                                                               rows.constants.data(), by_row, targets.data());
  });
  for (std::size_t i = 0; i < count; ++i) {
    if (!needs[i]) continue;
    py::object gradient = call.summed(std::move(results[i]), plans[i].shape, shapes[i], call.dtype());
    found[i] = rounds_too_early ? to_dtype(gradient, dtype) : std::move(gradient);
  }
  return found;
}

}  // namespace

void bind_rows(py::module_& m) {
  for (const RowOperation& operation : row_operations()) {
    const std::size_t tensors = operation.operands.size(), count = tensors + operation.constants.size();
    add_forward(m, operation.name, tensors, count,
                [&operation](Library library, Arguments arguments) { return forward(operation, library, arguments); });
    add_backward(m, operation.name, tensors + 1, count + 2,
                 [&operation](Arguments arguments) { return backward(operation, arguments); });
  }
}

}  // namespace fastvi

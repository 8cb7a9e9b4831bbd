// Row operations as native functions.
#include "gradients.h"

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
  const std::vector<bool> needs = read_needs(operation.name, arguments.back(), count);
  RowCall rows(operation, Library::torch, arguments.subspan(1, count), arguments.subspan(1 + count));
  Call& call = rows.call;
  Operand upstream;
  call.read_upstream(upstream, arguments[0], rows.plan.leading);
  const std::array<Operand*, 1> above{&upstream};
  OperandGradients gradients(call, rows.plan, needs, above, [&] { rows.lay_out(); });
  if (gradients.is_empty()) return gradients.release();

  rows.make_views();
  const View by_row = upstream_view(upstream, rows.plan.extent);
  std::array<GradientView<void>, max_operands> targets{};
  for (std::size_t i = 0; i < count; ++i) targets[i] = gradients.target(i);
  call.run([&] {
    operation.backward[static_cast<std::size_t>(call.dtype())](rows.plan.extent, rows.views.data(),
                                                               rows.constants.data(), by_row, targets.data());
  });
  return gradients.release();
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

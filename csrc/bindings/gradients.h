// The gradients of a call's operands: memory for those that are needed, and how they come back in the operands' shapes.
#pragma once

#include "call.h"

namespace fastvi {

class OperandGradients {
 public:
  // Before any operand is copied; `plan_of(i)` says what the kernels give of operand i. Half precision would round
  // before what was broadcast is summed: where that is so, the operands and `upstream` are read in float32, and
  // `lay_out()` plans them again, whose strides may be merged otherwise. `is_empty` says that there is nothing to sum.
  template <class PlanOf, class LayOut>
  OperandGradients(Call& call, const std::vector<bool>& needs, std::span<Operand* const> upstream, bool is_empty,
                   const PlanOf& plan_of, const LayOut& lay_out)
      : call_(call), needs_(needs), is_empty_(is_empty) {
    call.check_needs(needs);
    bool rounds_too_early = false;
    for (std::size_t i = 0; i < call.size(); ++i) {
      if (!needs[i]) continue;
      shapes_[i] = Sizes(call[i].shape());
      dtypes_[i] = call[i].dtype();
      plans_[i] = plan_of(i);
      rounds_too_early |= plans_[i].broadcast && is_half(dtypes_[i]);
    }
    if (!rounds_too_early || is_empty) return;
    for (std::size_t i = 0; i < call.size(); ++i) {
      if (call[i].given()) call[i].cast(DType::float32);
    }
    for (Operand* const each : upstream) {
      if (each->given()) each->cast(DType::float32);
    }
    lay_out();
    for (std::size_t i = 0; i < call.size(); ++i) {
      if (needs[i]) plans_[i] = plan_of(i);
    }
  }

  // Of operands that are rows.
  template <class LayOut>
  OperandGradients(Call& call, RowPlan& plan, const std::vector<bool>& needs, std::span<Operand* const> upstream,
                   const LayOut& lay_out)
      : OperandGradients(
            call, needs, upstream, product(plan.leading) * plan.extent.columns == 0,
            [&](std::size_t i) { return plan.gradient(call.layout(i)); }, lay_out) {}

  // Where every gradient is zero.
  bool is_empty() const { return is_empty_; }

  // Where the kernels put the gradient of operand i, in its dtype: null where it is not needed.
  GradientView<void> target(std::size_t i) {
    if (!needs_[i]) return {};
    results_[i] = call_.result(plans_[i].shape, call_[i].dtype());
    return {results_[i].data(), plans_[i].sums_samples};
  }

  // One for each operand, None where it is not needed, and None for `others` behind them.
  pybind11::tuple release(std::size_t others = 0);

 private:
  Call& call_;
  std::vector<bool> needs_;
  bool is_empty_;
  std::array<Sizes, max_operands> shapes_;
  std::array<DType, max_operands> dtypes_;
  std::array<GradientPlan, max_operands> plans_;
  std::array<Result, max_operands> results_;
};

}  // namespace fastvi

// Row operations as the tests call them: by their names in the list, for numbers stored as S.
#pragma once

#include <array>
#include <cstdlib>
#include <string>
#include <vector>

#include "../../csrc/operations.h"
#include "check.h"

namespace fastvi::test {

// The place of S in `DType`.
template <class S>
inline constexpr std::size_t dtype_index = 0;
template <>
inline constexpr std::size_t dtype_index<double> = 1;
template <>
inline constexpr std::size_t dtype_index<BFloat16> = 2;
template <>
inline constexpr std::size_t dtype_index<Float16> = 3;

template <class Operation>
const Operation& named(std::span<const Operation> list, const std::string& name) {
  for (const Operation& operation : list) {
    if (name == operation.name) return operation;
  }
  std::cerr << "no operation is named " << name << '\n';
  std::exit(1);
}

template <class S>
View untyped(const RowView<const S>& view) {
  return {view.data, view.sample_stride, view.row_stride};
}

// A row operation of which the first `inputs` operands are given.
template <class S, std::size_t inputs>
class RowKernel {
 public:
  explicit RowKernel(const std::string& name, std::vector<double> constants = {})
      : operation_(named(row_operations(), name)), constants_(std::move(constants)) {
    check(constants_.size() == operation_.constants.size(), name + ": number of constants");
  }

  void forward(const Extent& extent, const std::array<RowView<const S>, inputs>& operands, S* out) const {
    operation_.forward[dtype_index<S>](extent, views(operands).data(), constants_.data(), out);
  }

  void backward(const Extent& extent, const std::array<RowView<const S>, inputs>& operands,
                const RowView<const S>& upstream, const std::array<GradientView<S>, inputs>& gradients) const {
    std::vector<GradientView<void>> targets(operation_.operands.size());
    for (std::size_t i = 0; i < inputs; ++i) targets[i] = {gradients[i].data, gradients[i].sums_samples};
    operation_.backward[dtype_index<S>](extent, views(operands).data(), constants_.data(), untyped(upstream),
                                        targets.data());
  }

 private:
  std::vector<View> views(const std::array<RowView<const S>, inputs>& operands) const {
    std::vector<View> made(operation_.operands.size());
    for (std::size_t i = 0; i < inputs; ++i) made[i] = untyped(operands[i]);
    return made;
  }

  const RowOperation& operation_;
  std::vector<double> constants_;
};

// See check_row_kernels.
template <class S, std::size_t inputs, class Formula>
void check_row_operation(const std::string& name, const std::vector<double>& constants, const Formula& term,
                         const std::array<Domain, inputs>& domains = {}) {
  const RowKernel<S, inputs> kernel(name, constants);
  check_row_kernels<S, inputs>(
      name + " of " + std::to_string(inputs), [&](const auto&... arguments) { kernel.forward(arguments...); },
      [&](const auto&... arguments) { kernel.backward(arguments...); }, term, domains);
}

// The operation's value for one row of numbers, all operands alike broadcast to `columns` columns.
template <class S, std::size_t inputs>
S row_value(const RowKernel<S, inputs>& kernel, const std::array<double, inputs>& numbers) {
  std::array<S, inputs> memory;
  std::array<RowView<const S>, inputs> views;
  for (std::size_t i = 0; i < inputs; ++i) {
    memory[i] = stored<S>(numbers[i]);
    views[i] = {&memory[i], 0, 0};
  }
  S out;
  kernel.forward({1, 1, 1}, views, &out);
  return out;
}

// The operation's gradients there, for an upstream gradient of one.
template <class S, std::size_t inputs>
std::array<S, inputs> row_gradient(const RowKernel<S, inputs>& kernel, const std::array<double, inputs>& numbers) {
  std::array<S, inputs> memory, found;
  std::array<RowView<const S>, inputs> views;
  std::array<GradientView<S>, inputs> targets;
  for (std::size_t i = 0; i < inputs; ++i) {
    memory[i] = stored<S>(numbers[i]);
    views[i] = {&memory[i], 0, 0};
    targets[i] = {&found[i], false};
  }
  const S one = stored<S>(1);
  kernel.backward({1, 1, 1}, views, {&one, 0, 0}, targets);
  return found;
}

}  // namespace fastvi::test

// Map operations against their formulas in long double, with every kind of factor.
#pragma once

#include "row_operations.h"

namespace fastvi::test {

enum class Kind { absent, number, by_row, by_column, by_both };
inline constexpr Kind all_kinds[] = {Kind::absent, Kind::number, Kind::by_row, Kind::by_column, Kind::by_both};

// A factor, stored as its kind needs.
template <class T>
struct Factor {
  Kind kind;
  std::int64_t row_stride;
  std::vector<T> memory;

  Factor(Kind given, std::int64_t rows, std::int64_t columns, Random<T>& random)
      : kind(given),
        row_stride(kind == Kind::by_row    ? 1
                   : kind == Kind::by_both ? columns
                                           : 0) {
    const std::int64_t sizes[] = {0, 1, rows, columns, rows * columns};
    memory = random.normal(sizes[static_cast<int>(kind)]);
  }

  bool by_column() const { return kind == Kind::by_column || kind == Kind::by_both; }
  FactorView<void> view() const {
    return {kind == Kind::absent ? nullptr : memory.data(), row_stride, by_column() ? 1 : 0};
  }
  Exact at(std::int64_t row, std::int64_t column) const {
    return kind == Kind::absent
               ? Exact{1}
               : exact(memory[static_cast<std::size_t>(row * row_stride + (by_column() ? column : 0))]);
  }
  // Where an element's part of the gradient goes, and how many elements share one place.
  std::size_t place(std::int64_t row, std::int64_t column, std::int64_t columns) const {
    return static_cast<std::size_t>(by_column() ? row * columns + column : row);
  }
};

// What a map gives for one element, and its derivatives by states and factors times upstream gradients.
template <std::size_t outputs, std::size_t arguments>
struct MapTerm {
  std::array<Bounded, outputs> value;
  std::array<Bounded, arguments> gradient;
};

template <class S, std::size_t states, std::size_t factors, std::size_t outputs>
class MapKernel {
 public:
  using T = ComputeType<S>;

  explicit MapKernel(const std::string& name, std::vector<double> constants = {})
      : operation_(named(map_operations(), name)), constants_(std::move(constants)) {
    check(operation_.states.size() == states && operation_.factors.size() == factors && operation_.outputs == outputs &&
              operation_.constants.size() == constants_.size(),
          name + ": numbers of arguments");
  }

  void forward(std::int64_t rows, std::int64_t columns, const std::array<RowView<const S>, states>& views,
               const std::array<FactorView<void>, factors>& factor_views, const std::array<S*, outputs>& out) const {
    std::array<void*, outputs> targets;
    for (std::size_t i = 0; i < outputs; ++i) targets[i] = out[i];
    operation_.forward[dtype_index<S>](rows, columns, untyped_views(views).data(), factor_views.data(),
                                       constants_.data(), targets.data());
  }

  void backward(std::int64_t rows, std::int64_t columns, const std::array<RowView<const S>, states>& views,
                const std::array<FactorView<void>, factors>& factor_views,
                const std::array<const S*, outputs>& upstream, const std::array<S*, states>& by_states,
                const std::array<T*, factors>& by_factors) const {
    std::array<const void*, outputs> sources;
    for (std::size_t i = 0; i < outputs; ++i) sources[i] = upstream[i];
    std::array<void*, states + factors> targets;
    for (std::size_t i = 0; i < states; ++i) targets[i] = by_states[i];
    for (std::size_t i = 0; i < factors; ++i) targets[states + i] = by_factors[i];
    operation_.backward[dtype_index<S>](rows, columns, untyped_views(views).data(), factor_views.data(),
                                        constants_.data(), sources.data(), targets.data());
  }

 private:
  static std::array<View, states> untyped_views(const std::array<RowView<const S>, states>& views) {
    std::array<View, states> made;
    for (std::size_t i = 0; i < states; ++i) made[i] = untyped(views[i]);
    return made;
  }

  const MapOperation& operation_;
  std::vector<double> constants_;
};

// One problem: values, and gradients with all of them wanted or one of them.
//   term(states, factors, upstream) -> MapTerm
template <class S, std::size_t states, std::size_t factors, std::size_t outputs, class Formula>
void check_map(const MapKernel<S, states, factors, outputs>& kernel, const std::string& name, const Extent& whole,
               const std::array<Kind, factors>& kinds, Layout layout, Random<S>& random, const Formula& term) {
  using T = ComputeType<S>;
  constexpr std::size_t arguments = states + factors;
  const std::int64_t rows = whole.rows, columns = whole.columns;
  const Extent extent{1, rows, columns};
  std::string what = name + describe(extent) + ", factors";
  Random<T> factor_random(17);
  std::vector<Operand<S>> operands;
  std::array<RowView<const S>, states> views;
  for (std::size_t i = 0; i < states; ++i) {
    operands.emplace_back(extent, layout, random);
    views[i] = operands[i].view();
  }
  std::vector<Factor<T>> given;
  std::array<FactorView<void>, factors> factor_views;
  for (std::size_t i = 0; i < factors; ++i) {
    what += " " + std::to_string(static_cast<int>(kinds[i]));
    given.emplace_back(kinds[i], rows, columns, factor_random);
    factor_views[i] = given[i].view();
  }
  const auto size = static_cast<std::size_t>(rows * columns);
  std::array<std::vector<S>, outputs> upstream;
  std::array<const S*, outputs> upstream_data;
  std::array<std::vector<Bounded>, outputs> values;
  for (std::size_t i = 0; i < outputs; ++i) {
    upstream[i] = random.normal(rows * columns);
    upstream_data[i] = upstream[i].data();
    values[i].resize(size);
  }
  std::array<std::vector<Bounded>, arguments> gradients;
  for (std::size_t i = 0; i < arguments; ++i) {
    const bool by_element = i < states || given[i - states].by_column();
    gradients[i].resize(by_element ? size : static_cast<std::size_t>(rows));
  }
  for_each_element(extent, [&](std::int64_t, std::int64_t b, std::int64_t d) {
    const auto at = flat(extent, 0, b, d);
    std::array<Exact, states> state;
    std::array<Exact, factors> factor;
    std::array<Exact, outputs> by;
    for (std::size_t i = 0; i < states; ++i) state[i] = operands[i].at(0, b, d);
    for (std::size_t i = 0; i < factors; ++i) factor[i] = given[i].at(b, d);
    for (std::size_t i = 0; i < outputs; ++i) by[i] = exact(upstream[i][at]);
    const MapTerm<outputs, arguments> found = term(state, factor, by);
    for (std::size_t i = 0; i < outputs; ++i) values[i][at].add(found.value[i].value, found.value[i].magnitude);
    for (std::size_t i = 0; i < arguments; ++i) {
      const std::size_t place = i < states ? at : given[i - states].place(b, d, columns);
      gradients[i][place].add(found.gradient[i].value, found.gradient[i].magnitude);
    }
  });

  const std::vector<S> all_values = on_any_threads(what, [&] {
    std::vector<S> out = unwritten<S>(outputs * size);
    std::array<S*, outputs> targets;
    for (std::size_t i = 0; i < outputs; ++i) targets[i] = out.data() + i * size;
    kernel.forward(rows, columns, views, factor_views, targets);
    return out;
  });
  for (std::size_t i = 0; i < outputs; ++i) {
    const auto start = all_values.begin() + static_cast<std::ptrdiff_t>(i * size);
    check_close(std::vector<S>(start, start + static_cast<std::ptrdiff_t>(size)), values[i], 1,
                what + ", output " + std::to_string(i));
  }

  for (const unsigned wanted : choices(arguments)) {
    std::array<std::vector<S>, states> of_states;
    std::array<std::vector<T>, factors> of_factors;
    on_any_threads(what + ", gradients", [&] {
      std::array<S*, states> by_states{};
      std::array<T*, factors> by_factors{};
      for (std::size_t i = 0; i < arguments; ++i) {
        if ((wanted >> i) % 2 == 0) continue;
        if (i < states) {
          of_states[i] = unwritten<S>(gradients[i].size());
          by_states[i] = of_states[i].data();
        } else {
          of_factors[i - states] = unwritten<T>(gradients[i].size());
          by_factors[i - states] = of_factors[i - states].data();
        }
      }
      kernel.backward(rows, columns, views, factor_views, upstream_data, by_states, by_factors);
      std::vector<T> all;
      for (const auto& part : of_states) {
        for (const S number : part) all.push_back(static_cast<T>(number));
      }
      for (const auto& part : of_factors) all.insert(all.end(), part.begin(), part.end());
      return all;
    });
    for (std::size_t i = 0; i < arguments; ++i) {
      if ((wanted >> i) % 2 == 0) continue;
      const std::string which = what + ", gradient " + std::to_string(i);
      if (i < states) {
        check_close(of_states[i], gradients[i], 1, which);
      } else {
        check_close(of_factors[i - states], gradients[i], columns, which);
      }
    }
  }
}

// The map on every extent, with every kind of each factor, in several layouts.
template <class S, std::size_t states, std::size_t factors, std::size_t outputs, class Formula>
void check_map_operation(const std::string& name, const std::vector<double>& constants, const Formula& term) {
  const MapKernel<S, states, factors, outputs> kernel(name, constants);
  constexpr std::size_t kinds = std::size(all_kinds);
  std::size_t combinations = 1;
  for (std::size_t i = 0; i < factors; ++i) combinations *= kinds;
  Random<S> random(19870903);
  for (const Extent& extent : extents()) {
    for (std::size_t combination = 0; combination < combinations; ++combination) {
      std::array<Kind, factors> chosen;
      std::size_t rest = combination;
      for (std::size_t i = 0; i < factors; ++i, rest /= kinds) chosen[i] = all_kinds[rest % kinds];
      for (const Layout layout : {Layout::full, Layout::padded_rows, Layout::one}) {
        check_map(kernel, name, extent, chosen, layout, random, term);
      }
    }
  }
}

}  // namespace fastvi::test

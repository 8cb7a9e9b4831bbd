// Operations whose results have the shape of their operands, out[b, d] = term(state[b, d]..., factor[b, d]...), and
// their gradients. A factor is one number, one a row, or one a column.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <tuple>

#include "../operation_tables.h"
#include "columns.cuh"
#include "launch.cuh"
#include "rows.cuh"

namespace fastvi {

// A factor at column d of a row.
template <class T>
FASTVI_DEVICE T factor_at(const FactorView<T>& factor, std::int64_t row, std::int64_t d) {
  return factor.data == nullptr ? T(1) : factor.data[row * factor.row_stride + d * factor.column_step];
}

template <class T, std::size_t factors>
FASTVI_DEVICE std::array<T, factors> factors_at(const std::array<FactorView<T>, factors>& views, std::int64_t row,
                                                std::int64_t d) {
  return array_of<factors>([&](std::size_t i) { return factor_at(views[i], row, d); });
}

template <class T, std::size_t first, std::size_t second>
FASTVI_DEVICE std::array<T, first + second> joined(const std::array<T, first>& a, const std::array<T, second>& b) {
  return array_of<first + second>([&](std::size_t i) { return i < first ? a[i] : b[i - first]; });
}

// `count` of the values, from a place on.
template <std::size_t from, std::size_t count, class T, std::size_t all>
FASTVI_DEVICE std::array<T, count> section(const std::array<T, all>& values) {
  return array_of<count>([&](std::size_t i) { return values[from + i]; });
}

// What a map takes, and its term with the arguments in arrays.
template <class S, std::size_t state_count, std::size_t factor_count, std::size_t output_count, class Term>
struct Map {
  using T = ComputeType<S>;
  static constexpr std::size_t states = state_count, factors = factor_count, outputs = output_count;

  std::int64_t rows, columns;
  std::array<RowView<const S>, states> views;
  std::array<FactorView<T>, factors> factor_views;
  Term term;

  FASTVI_DEVICE std::array<T, outputs> value(const std::array<T, states>& state,
                                             const std::array<T, factors>& factor) const {
    return std::apply([this](auto... each) { return term.value(each...); }, joined(state, factor));
  }

  FASTVI_DEVICE std::array<T, states + factors> gradient(const std::array<T, outputs>& upstream,
                                                         const std::array<T, states>& state,
                                                         const std::array<T, factors>& factor) const {
    return std::apply([&](auto... each) { return term.gradient(upstream, each...); }, joined(state, factor));
  }

  // At column d of a row, from memory.
  FASTVI_DEVICE std::array<T, states + factors> gradient_at(const std::array<const S*, outputs>& upstream,
                                                            std::int64_t row, std::int64_t d) const {
    const auto by = array_of<outputs>([&](std::size_t i) { return static_cast<T>(upstream[i][row * columns + d]); });
    const auto state = array_of<states>([&](std::size_t i) { return static_cast<T>(views[i].row(0, row)[d]); });
    return gradient(by, state, factors_at(factor_views, row, d));
  }
};

template <class S, class Map>
__global__ void __launch_bounds__(block_threads)
    map_kernel(Map map, std::array<S*, Map::outputs> out, std::int64_t pieces) {
  using T = ComputeType<S>;
  for (std::int64_t item = WarpGroup::first(); item < map.rows * pieces; item += WarpGroup::count()) {
    const RowPiece piece(item, pieces, map.columns);
    map_columns<S>(row_of(map.views, 0, piece.row, piece.first), further(out, piece.start), piece.count,
                   WarpGroup::lane(), WarpGroup::threads, [&](std::int64_t d, const std::array<T, Map::states>& state) {
                     return map.value(state, factors_at(map.factor_views, piece.row, piece.first + d));
                   });
  }
}

// The gradients by states, null where not wanted.
template <class S, class Map>
__global__ void __launch_bounds__(block_threads, 3)
    map_gradients_kernel(Map map, std::array<const S*, Map::outputs> upstream, std::array<S*, Map::states> gradients,
                         std::int64_t pieces) {
  using T = ComputeType<S>;
  constexpr std::size_t states = Map::states, outputs = Map::outputs;
  for (std::int64_t item = WarpGroup::first(); item < map.rows * pieces; item += WarpGroup::count()) {
    const RowPiece piece(item, pieces, map.columns);
    const auto in = joined(further(upstream, piece.start), row_of(map.views, 0, piece.row, piece.first));
    map_columns<S>(in, further(gradients, piece.start), piece.count, WarpGroup::lane(), WarpGroup::threads,
                   [&](std::int64_t d, const std::array<T, outputs + states>& values) {
                     const auto factor = factors_at(map.factor_views, piece.row, piece.first + d);
                     return section<0, states>(
                         map.gradient(section<0, outputs>(values), section<outputs, states>(values), factor));
                   });
  }
}

// The gradients by factors that are one number a column, null where not wanted.
template <class S, class Map>
__global__ void __launch_bounds__(block_threads)
    map_column_factors_kernel(Map map, std::array<const S*, Map::outputs> upstream,
                              std::array<ComputeType<S>*, Map::factors> gradients) {
  for (std::int64_t i = ThreadGroup::first(); i < map.rows * map.columns; i += ThreadGroup::count()) {
    const Place place(i, map.columns);
    const auto found = map.gradient_at(upstream, place.outer, place.inner);
#pragma unroll
    for (std::size_t j = 0; j < Map::factors; ++j) {
      if (gradients[j] != nullptr) gradients[j][i] = found[Map::states + j];
    }
  }
}

// Those by factors that are one number a row.
template <class Group, class S, class Map>
__global__ void __launch_bounds__(block_threads)
    map_row_factors_kernel(Map map, std::array<const S*, Map::outputs> upstream,
                           RowSums<ComputeType<S>, Map::factors> sums) {
  using T = ComputeType<S>;
  sums.template of_group<Group>([&](const RowPart& part) {
    LongSums<T, Map::factors> found;
    for (std::int64_t d = part.first + Group::lane(); d < part.first + part.count; d += Group::threads) {
      const auto gradient = map.gradient_at(upstream, part.row, d);
#pragma unroll
      for (std::size_t j = 0; j < Map::factors; ++j) found.add(j, gradient[Map::states + j]);
      found.next();
    }
    return array_of<Map::factors>([&](std::size_t j) { return found.result(j); });
  });
}

template <class S, std::size_t states, std::size_t factors, std::size_t outputs, class Term>
void map_rows(std::int64_t rows, std::int64_t columns, const std::array<RowView<const S>, states>& views,
              const std::array<FactorView<ComputeType<S>>, factors>& factor_views, const std::array<S*, outputs>& out,
              const Term& term) {
  using Problem = Map<S, states, factors, outputs, Term>;
  const DeviceGuard guard;
  const std::int64_t pieces = RowPiece::of_row(columns);
  launch(map_kernel<S, Problem>, rows * pieces, WarpGroup::per_block, Problem{rows, columns, views, factor_views, term},
         out, pieces);
}

template <class S, std::size_t states, std::size_t factors, std::size_t outputs, class Term>
void map_gradients(std::int64_t rows, std::int64_t columns, const std::array<RowView<const S>, states>& views,
                   const std::array<FactorView<ComputeType<S>>, factors>& factor_views,
                   const std::array<const S*, outputs>& upstream, const MapGradients<S, states, factors>& gradients,
                   const Term& term) {
  using T = ComputeType<S>;
  using Problem = Map<S, states, factors, outputs, Term>;
  const DeviceGuard guard;
  const Problem problem{rows, columns, views, factor_views, term};
  bool by_states = false, by_column_factors = false, by_row_factors = false;
  for (const S* gradient : gradients.state) by_states |= gradient != nullptr;
  std::array<T*, factors> of_columns{}, of_rows{};
  for (std::size_t i = 0; i < factors; ++i) {
    const bool by_column = factor_views[i].column_step != 0;
    (by_column ? of_columns : of_rows)[i] = gradients.factor[i];
    (by_column ? by_column_factors : by_row_factors) |= gradients.factor[i] != nullptr;
  }
  if (by_states) {
    const std::int64_t pieces = RowPiece::of_row(columns);
    launch(map_gradients_kernel<S, Problem>, rows * pieces, WarpGroup::per_block, problem, upstream, gradients.state,
           pieces);
  }
  if (by_column_factors) {
    launch(map_column_factors_kernel<S, Problem>, rows * columns, ThreadGroup::per_block, problem, upstream,
           of_columns);
  }
  if (!by_row_factors) return;
  sum_rows<T, factors>(rows, columns, of_rows, [&]<class Group>(const RowSums<T, factors>& sums) {
    launch(map_row_factors_kernel<Group, S, Problem>, sums.items, Group::per_block, problem, upstream, sums);
  });
}

}  // namespace fastvi

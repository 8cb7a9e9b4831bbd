// Operations whose results have the shape of their operands, out[b, d] = term(state[b, d]..., factor[b, d]...), and
// their gradients. A factor is one number, one a row, or one a column.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

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
  std::array<T, factors> found;
#pragma unroll
  for (std::size_t i = 0; i < factors; ++i) found[i] = factor_at(views[i], row, d);
  return found;
}

// What a map takes, and its term with the arguments in arrays.
template <class S, std::size_t state_count, std::size_t factor_count, std::size_t output_count, class Term>
struct Map {
  using T = ComputeType<S>;
  static constexpr std::size_t states = state_count, factors = factor_count, outputs = output_count;
  using StateIndices = std::make_index_sequence<states>;
  using FactorIndices = std::make_index_sequence<factors>;

  std::int64_t rows, columns;
  std::array<RowView<const S>, states> views;
  std::array<FactorView<T>, factors> factor_views;
  Term term;

  FASTVI_DEVICE std::array<T, outputs> value(const std::array<T, states>& state,
                                             const std::array<T, factors>& factor) const {
    return value(state, factor, StateIndices{}, FactorIndices{});
  }

  FASTVI_DEVICE std::array<T, states + factors> gradient(const std::array<T, outputs>& upstream,
                                                         const std::array<T, states>& state,
                                                         const std::array<T, factors>& factor) const {
    return gradient(upstream, state, factor, StateIndices{}, FactorIndices{});
  }

  // At column d of a row, from memory.
  FASTVI_DEVICE std::array<T, states + factors> gradient_at(const std::array<const S*, outputs>& upstream,
                                                            std::int64_t row, std::int64_t d) const {
    std::array<T, outputs> by;
    std::array<T, states> state;
#pragma unroll
    for (std::size_t i = 0; i < outputs; ++i) by[i] = static_cast<T>(upstream[i][row * columns + d]);
#pragma unroll
    for (std::size_t i = 0; i < states; ++i) state[i] = static_cast<T>(views[i].row(0, row)[d]);
    return gradient(by, state, factors_at(factor_views, row, d));
  }

 private:
  template <std::size_t... i, std::size_t... j>
  FASTVI_DEVICE std::array<T, outputs> value(const std::array<T, states>& state, const std::array<T, factors>& factor,
                                             std::index_sequence<i...>, std::index_sequence<j...>) const {
    return term.value(state[i]..., factor[j]...);
  }

  template <std::size_t... i, std::size_t... j>
  FASTVI_DEVICE std::array<T, states + factors> gradient(const std::array<T, outputs>& upstream,
                                                         const std::array<T, states>& state,
                                                         const std::array<T, factors>& factor,
                                                         std::index_sequence<i...>, std::index_sequence<j...>) const {
    return term.gradient(upstream, state[i]..., factor[j]...);
  }
};

// The piece of a row that a warp has of arrays of shape (rows, columns).
struct MapPiece {
  std::int64_t row, first, start, count;

  FASTVI_DEVICE MapPiece(std::int64_t item, std::int64_t pieces, std::int64_t columns) {
    const Place piece(item, pieces);
    row = piece.outer;
    first = piece.inner * gradient_piece;
    start = row * columns + first;
    const std::int64_t rest = columns - first;
    count = rest < gradient_piece ? rest : gradient_piece;
  }
};

template <class S, class Map>
__global__ void __launch_bounds__(block_threads)
    map_kernel(Map map, std::array<S*, Map::outputs> out, std::int64_t pieces) {
  using T = ComputeType<S>;
  for (std::int64_t item = WarpGroup::first(); item < map.rows * pieces; item += WarpGroup::count()) {
    const MapPiece piece(item, pieces, map.columns);
    std::array<S*, Map::outputs> target;
#pragma unroll
    for (std::size_t i = 0; i < Map::outputs; ++i) target[i] = out[i] + piece.start;
    map_columns<S>(row_of(map.views, 0, piece.row, piece.first), target, piece.count, WarpGroup::lane(),
                   WarpGroup::threads, [&](std::int64_t d, const std::array<T, Map::states>& state) {
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
  constexpr std::size_t inputs = Map::outputs + Map::states;
  for (std::int64_t item = WarpGroup::first(); item < map.rows * pieces; item += WarpGroup::count()) {
    const MapPiece piece(item, pieces, map.columns);
    std::array<const S*, inputs> in;
#pragma unroll
    for (std::size_t i = 0; i < Map::outputs; ++i) in[i] = upstream[i] + piece.start;
#pragma unroll
    for (std::size_t i = 0; i < Map::states; ++i) {
      in[Map::outputs + i] = map.views[i].row(0, piece.row) + piece.first;
    }
    std::array<S*, Map::states> target = gradients;
#pragma unroll
    for (std::size_t i = 0; i < Map::states; ++i) {
      if (target[i] != nullptr) target[i] += piece.start;
    }
    map_columns<S>(in, target, piece.count, WarpGroup::lane(), WarpGroup::threads,
                   [&](std::int64_t d, const std::array<T, inputs>& values) {
                     std::array<T, Map::outputs> by;
                     std::array<T, Map::states> state, wanted;
#pragma unroll
                     for (std::size_t i = 0; i < Map::outputs; ++i) by[i] = values[i];
#pragma unroll
                     for (std::size_t i = 0; i < Map::states; ++i) state[i] = values[Map::outputs + i];
                     const auto found =
                         map.gradient(by, state, factors_at(map.factor_views, piece.row, piece.first + d));
#pragma unroll
                     for (std::size_t i = 0; i < Map::states; ++i) wanted[i] = found[i];
                     return wanted;
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
    map_row_factors_kernel(Map map, std::array<const S*, Map::outputs> upstream, std::int64_t items, Pieces pieces,
                           RowSums<ComputeType<S>, Map::factors> sums) {
  using T = ComputeType<S>;
  for (std::int64_t item = Group::first(); item < items; item += Group::count()) {
    const auto piece = RowPiece::of<Group>(item, map.rows, map.columns, pieces);
    LongSums<T, Map::factors> found;
    for (std::int64_t d = piece.first + Group::lane(); d < piece.first + piece.count; d += Group::threads) {
      const auto gradient = map.gradient_at(upstream, piece.row, d);
#pragma unroll
      for (std::size_t j = 0; j < Map::factors; ++j) found.add(j, gradient[Map::states + j]);
      found.next();
    }
    std::array<T, Map::factors> totals;
#pragma unroll
    for (std::size_t j = 0; j < Map::factors; ++j) totals[j] = Group::sum(found.result(j));
    if (Group::lane() == 0) sums.store(item, totals);
  }
}

template <class S, std::size_t states, std::size_t factors, std::size_t outputs, class Term>
void map_rows(std::int64_t rows, std::int64_t columns, const std::array<RowView<const S>, states>& views,
              const std::array<FactorView<ComputeType<S>>, factors>& factor_views, const std::array<S*, outputs>& out,
              const Term& term) {
  using Problem = Map<S, states, factors, outputs, Term>;
  const DeviceGuard guard;
  const std::int64_t pieces = ceil_divide(columns, gradient_piece);
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
    const std::int64_t pieces = ceil_divide(columns, gradient_piece);
    launch(map_gradients_kernel<S, Problem>, rows * pieces, WarpGroup::per_block, problem, upstream, gradients.state,
           pieces);
  }
  if (by_column_factors) {
    launch(map_column_factors_kernel<S, Problem>, rows * columns, ThreadGroup::per_block, problem, upstream,
           of_columns);
  }
  if (!by_row_factors) return;
  sum_rows<T, factors>(rows, columns, of_rows,
                       [&]<class Group>(std::int64_t items, const Pieces& pieces, const RowSums<T, factors>& sums) {
                         launch(map_row_factors_kernel<Group, S, Problem>, items, Group::per_block, problem, upstream,
                                items, pieces, sums);
                       });
}

}  // namespace fastvi

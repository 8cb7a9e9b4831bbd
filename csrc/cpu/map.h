// Loops for operations whose results have the shape of their operands: out[b, d] = term(state[b, d]..., factor[b,
// d]...), and their gradients. A factor is one number, one a row, or one a column.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>

#include "../operation_tables.h"
#include "rows.h"

namespace fastvi {

template <class T>
constexpr T one = T(1);

template <class T, std::size_t factors>
using Factors = std::array<FactorView<T>, factors>;

template <int... steps>
using ColumnSteps = std::integer_sequence<int, steps...>;

// Calls body with the column steps of all factors as constants, so that each case is a plain vector loop.
template <int... known, class T, std::size_t factors, class Body>
void with_column_steps(const Factors<T, factors>& views, const Body& body) {
  if constexpr (sizeof...(known) == factors) {
    body(ColumnSteps<known...>{});
  } else if (views[sizeof...(known)].column_step == 0) {
    with_column_steps<known..., 0>(views, body);
  } else {
    with_column_steps<known..., 1>(views, body);
  }
}

template <class T, std::size_t factors>
std::array<const T*, factors> factor_rows(const Factors<T, factors>& views, std::int64_t row, std::int64_t first) {
  std::array<const T*, factors> rows;
  for (std::size_t i = 0; i < factors; ++i) {
    const FactorView<T>& view = views[i];
    rows[i] = view.data == nullptr ? &one<T> : view.data + row * view.row_stride + first * view.column_step;
  }
  return rows;
}

// Contiguous rows that share all factors are one long row: no short loops.
template <class S, std::size_t states, std::size_t factors>
void join_rows(std::int64_t& rows, std::int64_t& columns, const std::array<RowView<const S>, states>& views,
               const Factors<ComputeType<S>, factors>& factor_views) {
  for (const auto& view : views) {
    if (view.row_stride != columns) return;
  }
  for (const auto& view : factor_views) {
    if (view.row_stride != 0 || view.column_step != 0) return;
  }
  columns *= rows;
  rows = columns == 0 ? 0 : 1;
}

// The piece of a row that an item of work has.
struct MapPiece {
  std::int64_t row, first, count;

  MapPiece(std::int64_t item, std::int64_t columns, std::int64_t length)
      : row(item / ceil_divide(columns, length)),
        first(item % ceil_divide(columns, length) * length),
        count(std::min(length, columns - first)) {}
};

// out[i][d] = what the term gives for column d, for `count` columns. (std::apply: see sum_term.)
template <class T, std::size_t states, std::size_t factors, std::size_t outputs, int... steps, class Term>
void map_columns(std::int64_t count, const std::array<const T*, states>& states_in,
                 const std::array<const T*, factors>& factors_in, const std::array<T*, outputs>& out,
                 ColumnSteps<steps...>, const Term& term) {
  std::apply(
      [&](auto... state) {
        std::apply(
            [&](auto... factor) {
              std::apply(
                  [&](auto... target) {
                    for_columns<T>(count, [=](std::int64_t d) {
                      std::size_t i = 0;
                      const std::array<T, outputs> value = term.value(state[d]..., factor[d * steps]...);
                      ((target[d] = value[i++]), ...);
                    });
                  },
                  out);
            },
            factors_in);
      },
      states_in);
}

template <class S, std::size_t states, std::size_t factors, std::size_t outputs, class Term>
void map_rows(std::int64_t rows, std::int64_t columns, const std::array<RowView<const S>, states>& views,
              const Factors<ComputeType<S>, factors>& factor_views, const std::array<S*, outputs>& out,
              const Term& term) {
  using T = ComputeType<S>;
  constexpr std::int64_t length = gradient_piece<S>;
  const auto work = static_cast<std::int64_t>(static_cast<double>(rows * columns) * Term::cost);
  join_rows<S>(rows, columns, views, factor_views);
  with_column_steps(factor_views, [&](auto steps) {
    parallel_for(rows * ceil_divide(columns, length), work, [&](std::int64_t item) {
      const MapPiece piece(item, columns, length);
      const std::int64_t start = piece.row * columns + piece.first;
      RowBuffers<S, states, length> buffers;
      RowBuffer<S, length> found[outputs];
      std::array<T*, outputs> targets;
      for (std::size_t i = 0; i < outputs; ++i) targets[i] = found[i].target(out[i] + start);
      map_columns<T>(piece.count, buffers.load(views, 0, piece.row, piece.first, piece.count),
                     factor_rows(factor_views, piece.row, piece.first), targets, steps, term);
      for (std::size_t i = 0; i < outputs; ++i) found[i].store(out[i] + start, piece.count);
    });
  });
}

// What the gradients on a part of one row, of at most `length` columns, are made of.
template <class S, std::size_t states, std::size_t factors, std::size_t outputs, std::int64_t length>
class GradientRow {
 public:
  using T = ComputeType<S>;

  [[gnu::always_inline]] GradientRow(const std::array<RowView<const S>, outputs>& upstream,
                                     const std::array<RowView<const S>, states>& views,
                                     const Factors<T, factors>& factor_views, std::int64_t row, std::int64_t first,
                                     std::int64_t count, const std::array<bool, states>& needed) {
    upstream_ = upstream_buffers_.load(upstream, 0, row, first, count);
    // A state that no gradient reads is not loaded; its place is taken by numbers that are there.
    for (std::size_t i = 0; i < states; ++i) {
      states_[i] = needed[i] ? state_buffers_[i].load(views[i].row(0, row) + first, count) : upstream_[0];
    }
    factors_ = factor_rows(factor_views, row, first);
  }

  // The gradient of argument `which` of the term as a function of the column: the compiler drops the others.
  template <std::size_t which, int... steps, class Term>
  auto gradient(ColumnSteps<steps...>, const Term& term) const {
    return std::apply(
        [&](auto... by) {
          return std::apply(
              [&](auto... state) {
                return std::apply(
                    [&](auto... factor) {
                      return [=](std::int64_t d) {
                        return term.gradient(std::array<T, outputs>{{by[d]...}}, state[d]...,
                                             factor[d * steps]...)[which];
                      };
                    },
                    factors_);
              },
              states_);
        },
        upstream_);
  }

 private:
  RowBuffers<S, outputs, length> upstream_buffers_;
  RowBuffer<S, length> state_buffers_[states];
  std::array<const T*, outputs> upstream_;
  std::array<const T*, states> states_;
  std::array<const T*, factors> factors_;
};

// Calls visit with each of 0, 1, ..., count - 1 as a constant.
template <std::size_t count, class Visit>
void for_each_index(const Visit& visit) {
  [&]<std::size_t... i>(std::index_sequence<i...>) {
    (visit(std::integral_constant<std::size_t, i>{}), ...);
  }(std::make_index_sequence<count>{});
}

template <class S, std::size_t states, std::size_t factors, std::size_t outputs, class Term>
void map_gradients(std::int64_t rows, std::int64_t columns, const std::array<RowView<const S>, states>& views,
                   const Factors<ComputeType<S>, factors>& factor_views,
                   const std::array<const S*, outputs>& upstream_data,
                   const MapGradients<S, states, factors>& gradients, const Term& term) {
  using T = ComputeType<S>;
  constexpr std::int64_t length = gradient_piece<S>;
  const auto work = static_cast<std::int64_t>(static_cast<double>(rows * columns) * 2 * Term::cost);
  bool by_states = false, by_factors = false;
  for (const S* gradient : gradients.state) by_states |= gradient != nullptr;
  for (const T* gradient : gradients.factor) by_factors |= gradient != nullptr;
  if (!by_factors) join_rows<S>(rows, columns, views, factor_views);
  std::array<RowView<const S>, outputs> upstream;
  for (std::size_t i = 0; i < outputs; ++i) upstream[i] = {upstream_data[i], 0, columns};

  with_column_steps(factor_views, [&]<int... steps>(ColumnSteps<steps...> column_steps) {
    constexpr std::array<int, factors> step{steps...};
    bool by_column_factors = false;
    std::array<bool, states> needed{};
    for (std::size_t j = 0; j < states; ++j) {
      for (std::size_t i = 0; i < states; ++i) needed[j] |= gradients.state[i] != nullptr && Term::reads(i, j);
      for (std::size_t i = 0; i < factors; ++i) {
        if (step[i] == 0 || gradients.factor[i] == nullptr) continue;
        by_column_factors = true;
        needed[j] |= Term::reads(states + i, j);
      }
    }
    if (by_states || by_column_factors) {
      // (flatten: each loop is called in one place, and the call would cost a short row more than its loop.)
      parallel_for(rows * ceil_divide(columns, length), work, [&](std::int64_t item) __attribute__((flatten)) {
        const MapPiece piece(item, columns, length);
        const std::int64_t start = piece.row * columns + piece.first;
        const auto write = [&]<class Out>(Out* target, const auto& gradient) {
          RowBuffer<Out, length> found;
          T* const out = found.target(target + start);
          for_columns<T>(piece.count, [=](std::int64_t d) { out[d] = gradient(d); });
          found.store(target + start, piece.count);
        };
        const GradientRow<S, states, factors, outputs, length> row(upstream, views, factor_views, piece.row,
                                                                   piece.first, piece.count, needed);
        for_each_index<states>([&](auto i) {
          if (gradients.state[i] != nullptr) write(gradients.state[i], row.template gradient<i>(column_steps, term));
        });
        for_each_index<factors>([&](auto i) {
          if constexpr (step[i] != 0) {
            if (gradients.factor[i] == nullptr) return;
            write(gradients.factor[i], row.template gradient<states + i>(column_steps, term));
          }
        });
      });
    }
    for_each_index<factors>([&](auto i) {
      if constexpr (step[i] == 0) {
        if (gradients.factor[i] == nullptr) return;
        sum_rows(rows, columns, gradients.factor[i], 2 * Term::cost,
                 [&](std::int64_t b, std::int64_t first, std::int64_t count) {
                   std::array<bool, states> read;
                   for (std::size_t j = 0; j < states; ++j) read[j] = Term::reads(states + i, j);
                   const GradientRow<S, states, factors, outputs, row_block> row(upstream, views, factor_views, b,
                                                                                 first, count, read);
                   return sum_columns<T>(count, row.template gradient<states + i>(column_steps, term));
                 });
      }
    });
  });
}

}  // namespace fastvi

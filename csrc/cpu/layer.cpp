#include "../formulas/activation.h"
#include "rows.h"

namespace fastvi {
namespace {

constexpr std::int64_t strip_columns = 512;  // columns that a work item takes at once
constexpr std::int64_t item_rows = 64;       // rows of a work item

// What of a (rows, columns) array one work item does. Which thread does it changes no sum.
struct Tile {
  std::int64_t part, first_row, last_row, column, width;

  Tile(std::int64_t item, std::int64_t rows, std::int64_t columns, std::int64_t strips)
      : part(item / strips),
        first_row(part * item_rows),
        last_row(std::min(first_row + item_rows, rows)),
        column(item % strips * strip_columns),
        width(std::min(strip_columns, columns - column)) {}
};

// Calls body(tile) for tiles that cover a (rows, columns) array, on several threads.
template <class Body>
void for_each_tile(std::int64_t rows, std::int64_t columns, double cost, const Body& body) {
  const std::int64_t strips = ceil_divide(columns, strip_columns);
  const auto work = static_cast<std::int64_t>(static_cast<double>(rows * columns) * cost);
  parallel_for(ceil_divide(rows, item_rows) * strips, work,
               [&](std::int64_t item) { body(Tile(item, rows, columns, strips)); });
}

// Calls body(d) for d in [0, count) once each, so that it may overwrite what it reads.
template <class Body>
[[gnu::always_inline]] inline void each_column(std::int64_t count, const Body& body) {
#pragma omp simd
  for (std::int64_t d = 0; d < count; ++d) body(d);
}

}  // namespace

template <class T>
void LayerKernels<T>::activate(std::int64_t rows, std::int64_t columns, Activation activation, T* product,
                               const T* bias, T* slope, T* copy) {
  with_activation<T>(activation, [&]<class Formula> {
    for_each_tile(rows, columns, Formula::cost, [&](const Tile& tile) {
      alignas(64) static constexpr T zeros[strip_columns] = {};
      const T* const shift = bias == nullptr ? zeros : bias + tile.column;
      for (std::int64_t row = tile.first_row; row < tile.last_row; ++row) {
        const std::int64_t start = row * columns + tile.column;
        T* const value = product + start;
        if constexpr (!Formula::keeps_slope) {
          each_column(tile.width, [=](std::int64_t d) { value[d] = Formula::value(value[d] + shift[d]); });
        } else if (slope != nullptr) {
          T* const kept = slope + start;
          each_column(tile.width, [=](std::int64_t d) {
            const auto found = Formula::value_and_slope(value[d] + shift[d]);
            kept[d] = found.slope;
            value[d] = found.value;
          });
        } else {
          each_column(tile.width,
                      [=](std::int64_t d) { value[d] = Formula::value_and_slope(value[d] + shift[d]).value; });
        }
        if (copy != nullptr) std::copy_n(value, tile.width, copy + start);
      }
    });
  });
}

template <class T>
void LayerKernels<T>::gradient(std::int64_t rows, std::int64_t columns, Activation activation, T* gradient,
                               const T* value, const T* slope, const T* scale, T* scaled, T* bias_gradient) {
  with_activation<T>(activation, [&]<class Formula> {
    const std::int64_t parts = ceil_divide(rows, item_rows);
    const auto partial = piece_sums(columns, parts);
    for_each_tile(rows, columns, Formula::cost, [&](const Tile& tile) {
      alignas(64) T sums[strip_columns];
      std::fill_n(sums, tile.width, T(0));
      T* const sum = sums;
      for (std::int64_t row = tile.first_row; row < tile.last_row; ++row) {
        const std::int64_t start = row * columns + tile.column;
        const T by = scale == nullptr ? T(1) : scale[row];
        T* const upstream = gradient + start;
        const T* const values = value + start;
        if constexpr (Formula::keeps_slope) {
          const T* const slopes = slope + start;
          each_column(tile.width, [=](std::int64_t d) { sum[d] += upstream[d] = by * upstream[d] * slopes[d]; });
        } else {
          each_column(tile.width,
                      [=](std::int64_t d) { sum[d] += upstream[d] = by * upstream[d] * Formula::slope(values[d]); });
        }
        if (scaled != nullptr) {
          T* const target = scaled + start;
          each_column(tile.width, [=](std::int64_t d) { target[d] = by * values[d]; });
        }
      }
      if (bias_gradient == nullptr) return;
      for (std::int64_t d = 0; d < tile.width; ++d) {
        if (parts == 1) {
          bias_gradient[tile.column + d] = sums[d];
        } else {
          partial[static_cast<std::size_t>((tile.column + d) * parts + tile.part)] = static_cast<double>(sums[d]);
        }
      }
    });
    if (parts > 1 && bias_gradient != nullptr) add_pieces(columns, parts, partial.get(), bias_gradient);
  });
}

template struct LayerKernels<float>;
template struct LayerKernels<double>;

}  // namespace fastvi

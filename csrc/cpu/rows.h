// Loops over rows for operations that sum a term over the last dimension: out[k, b] = sum_d term(a[k, b, d], ...).
// Each operand has its own strides over samples (k) and rows (b), zero where it is broadcast; d is contiguous.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <tuple>

#include "../formulas/compiler.h"
#include "parallel.h"

namespace fastvi {

struct Extent {
  std::int64_t samples, rows, columns;
};

template <class T>
struct RowView {
  T* data;
  std::int64_t sample_stride, row_stride;

  T* row(std::int64_t k, std::int64_t b) const { return data + k * sample_stride + b * row_stride; }
};

// Where the gradient of one operand goes: contiguous (samples, rows, columns), or (rows, columns) with the samples
// summed. A null pointer means that nobody asked for it.
template <class T>
struct GradientView {
  T* data;
  bool sums_samples;
};

// Long rows are cut here; the pieces' sums are added in order, whoever computed them.
inline constexpr std::int64_t row_piece = 16384;
inline constexpr std::int64_t gradient_piece = 2048;

template <class T>
inline constexpr int simd_lanes = static_cast<int>(32 / sizeof(T));
inline constexpr int accumulators = 4;

// Sum of `count` partial sums, a power of two, by halves.
template <class T, int count>
FASTVI_HD T sum_lanes(T* partial) {
  for (int half = count / 2; half > 0; half /= 2) {
#pragma omp simd
    for (int lane = 0; lane < half; ++lane) partial[lane] += partial[lane + half];
  }
  return partial[0];
}

// Adds term(d) for d in [0, count), count >= width, to `partial`. The last block overlaps the one before it and leaves
// out what that has added, so that no element is left to scalar code.
template <int width, class T, class Term>
FASTVI_HD void add_columns(std::int64_t count, const Term& term, T* partial) {
  std::int64_t d = 0;
  for (; d + width <= count; d += width) {
#pragma omp simd
    for (int lane = 0; lane < width; ++lane) partial[lane] += term(d + lane);
  }
  if (d == count) return;
  // Two loops: in one, gcc would make the sum's condition a branch around the term, and no vector code.
  const std::int64_t start = count - width;
  const int done = static_cast<int>(d - start);
  T value[width];
#pragma omp simd
  for (int lane = 0; lane < width; ++lane) value[lane] = term(start + lane);
#pragma omp simd
  for (int lane = 0; lane < width; ++lane) partial[lane] += lane < done ? T(0) : value[lane];
}

// Sum of term(d) for d in [0, count). (flatten: a term that is called more than once is inlined all the same, without
// which there is no vector code.)
template <class T, class Term>
[[gnu::flatten]] T sum_columns(std::int64_t count, const Term& term) {
  constexpr int lanes = simd_lanes<T>;
  constexpr int wide = lanes * accumulators;
  T partial[wide] = {};
  if (count >= wide) {
    add_columns<wide>(count, term, partial);
    return sum_lanes<T, wide>(partial);
  }
  if (count >= lanes) {
    add_columns<lanes>(count, term, partial);
    return sum_lanes<T, lanes>(partial);
  }
  for (std::int64_t d = 0; d < count; ++d) partial[0] += term(d);
  return partial[0];
}

// Calls store(d) for d in [0, count), each at least once: the last vector may overlap the one before.
template <class T, class Store>
[[gnu::flatten]] void for_columns(std::int64_t count, const Store& store) {
  constexpr int lanes = simd_lanes<T>;
  if (count < lanes) {
    for (std::int64_t d = 0; d < count; ++d) store(d);
    return;
  }
  std::int64_t d = 0;
  for (; d + lanes <= count; d += lanes) {
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) store(d + lane);
  }
  if (d < count) {
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) store(count - lanes + lane);
  }
}

// out[k, b] = sum over pieces of row_sum(rows of the operands, piece length).
template <class T, std::size_t inputs, class RowSum>
void reduce_rows(const Extent& extent, const std::array<RowView<const T>, inputs>& operands, T* out,
                 double nanoseconds_per_element, const RowSum& row_sum) {
  const std::int64_t rows = extent.samples * extent.rows;
  const std::int64_t pieces = std::max<std::int64_t>(1, ceil_divide(extent.columns, row_piece));
  const auto work = static_cast<std::int64_t>(static_cast<double>(rows * extent.columns) * nanoseconds_per_element);
  const std::unique_ptr<T[]> partial(pieces > 1 ? new T[static_cast<std::size_t>(rows * pieces)] : nullptr);
  T* const sums = pieces > 1 ? partial.get() : out;
  parallel_for(rows * pieces, work, [&](std::int64_t item) {
    const std::int64_t row = item / pieces, first = item % pieces * row_piece;
    const std::int64_t k = row / extent.rows, b = row % extent.rows;
    std::array<const T*, inputs> start;
    for (std::size_t i = 0; i < inputs; ++i) start[i] = operands[i].row(k, b) + first;
    sums[item] = row_sum(start, std::min(row_piece, extent.columns - first));
  });
  if (pieces == 1) return;
  for (std::int64_t row = 0; row < rows; ++row) {
    T total = 0;
    for (std::int64_t piece = 0; piece < pieces; ++piece) total += partial[row * pieces + piece];
    out[row] = total;
  }
}

// The same where a term is a function of one column of each operand. (std::apply makes each operand's pointer a
// variable of its own: pointers inside an array keep gcc from vectorising.)
template <class T, std::size_t inputs, class Term>
void reduce_rows_by_term(const Extent& extent, const std::array<RowView<const T>, inputs>& operands, T* out,
                         double nanoseconds_per_element, const Term& term) {
  reduce_rows<T, inputs>(
      extent, operands, out, nanoseconds_per_element, [&](const std::array<const T*, inputs>& row, std::int64_t count) {
        return std::apply(
            [&](auto... in) { return sum_columns<T>(count, [=](std::int64_t d) { return term.value(in[d]...); }); },
            row);
      });
}

// Writes scale * term's derivative to out[i], one array an operand, for `count` columns.
template <class T, std::size_t inputs, class Term>
FASTVI_HD void column_gradients(std::int64_t count, const std::array<const T*, inputs>& in,
                                const std::array<T*, inputs>& out, T scale, const Term& term) {
  std::apply(
      [&](auto... operand) {
        std::apply(
            [&](auto... target) {
              for_columns<T>(count, [=](std::int64_t d) {
                std::size_t i = 0;
                const std::array<T, inputs> value = term.gradient(scale, operand[d]...);
                ((target[d] = value[i++]), ...);
              });
            },
            out);
      },
      in);
}

template <class T, std::size_t inputs, class Term>
void row_gradients(const Extent& extent, const std::array<RowView<const T>, inputs>& operands,
                   const RowView<const T>& upstream, const std::array<GradientView<T>, inputs>& gradients,
                   double nanoseconds_per_element, const Term& term) {
  bool sums_samples = false, complete = true;
  for (const auto& gradient : gradients) {
    sums_samples |= gradient.data != nullptr && gradient.sums_samples && extent.samples != 1;
    complete &= gradient.data != nullptr;
  }
  const std::int64_t pieces = std::max<std::int64_t>(1, ceil_divide(extent.columns, gradient_piece));
  const auto work = static_cast<std::int64_t>(static_cast<double>(extent.samples * extent.rows * extent.columns) *
                                              nanoseconds_per_element);
  const auto starts = [&](std::int64_t k, std::int64_t b, std::int64_t first) {
    std::array<const T*, inputs> in;
    for (std::size_t i = 0; i < inputs; ++i) in[i] = operands[i].row(k, b) + first;
    return in;
  };
  const auto target = [&](std::size_t i, std::int64_t k, std::int64_t b, std::int64_t first) {
    const std::int64_t row = gradients[i].sums_samples ? b : k * extent.rows + b;
    return gradients[i].data + row * extent.columns + first;
  };

  if (complete && !sums_samples) {
    parallel_for(extent.samples * extent.rows * pieces, work, [&](std::int64_t item) {
      const std::int64_t row = item / pieces, first = item % pieces * gradient_piece;
      const std::int64_t k = row / extent.rows, b = row % extent.rows;
      std::array<T*, inputs> out;
      for (std::size_t i = 0; i < inputs; ++i) out[i] = target(i, k, b, first);
      column_gradients<T>(std::min(gradient_piece, extent.columns - first), starts(k, b, first), out,
                          *upstream.row(k, b), term);
    });
    return;
  }

  // The general case computes all gradients of a piece into a small buffer and stores or adds those that are wanted.
  const std::int64_t samples_inside = sums_samples ? extent.samples : 1;
  const std::int64_t samples_outside = sums_samples ? 1 : extent.samples;
  parallel_for(samples_outside * extent.rows * pieces, work, [&](std::int64_t item) {
    const std::int64_t row = item / pieces, first = item % pieces * gradient_piece;
    const std::int64_t b = row % extent.rows;
    const std::int64_t count = std::min(gradient_piece, extent.columns - first);
    alignas(64) T buffer[inputs][gradient_piece];
    std::array<T*, inputs> found;
    for (std::size_t i = 0; i < inputs; ++i) found[i] = buffer[i];
    for (std::int64_t inside = 0; inside < samples_inside; ++inside) {
      const std::int64_t k = sums_samples ? inside : row / extent.rows;
      column_gradients<T>(count, starts(k, b, first), found, *upstream.row(k, b), term);
      for (std::size_t i = 0; i < inputs; ++i) {
        if (gradients[i].data == nullptr) continue;
        T* const out = target(i, k, b, first);
        if (gradients[i].sums_samples && inside > 0) {
#pragma omp simd
          for (std::int64_t d = 0; d < count; ++d) out[d] += buffer[i][d];
        } else {
          std::copy_n(buffer[i], count, out);
        }
      }
    }
  });
}

}  // namespace fastvi

// Loops over rows for operations that sum a term over the last dimension: out[k, b] = sum_d term(a[k, b, d], ...).
// Each operand has its own strides over samples (k) and rows (b), zero where it is broadcast; d is contiguous.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <utility>

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

// Sum of term(d) for d in [0, count). The last, partial vector overlaps the one before it, so that no element is
// left to scalar code.
template <class T, class Term>
FASTVI_HD T sum_columns(std::int64_t count, const Term& term) {
  constexpr int lanes = simd_lanes<T>;
  constexpr int wide = lanes * accumulators;
  T total = 0;
  if (count < lanes) {
    for (std::int64_t d = 0; d < count; ++d) total += term(d);
    return total;
  }
  T partial[wide] = {};
  std::int64_t d = 0;
  for (; d + wide <= count; d += wide) {
#pragma omp simd
    for (int lane = 0; lane < wide; ++lane) partial[lane] += term(d + lane);
  }
  for (; d + lanes <= count; d += lanes) {
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) partial[lane] += term(d + lane);
  }
  if (d < count) {
    const std::int64_t start = count - lanes;
    const int done = static_cast<int>(d - start);
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) {
      const T value = term(start + lane);
      partial[lane] += lane < done ? T(0) : value;
    }
  }
  for (int lane = 0; lane < lanes; ++lane) {
    T sum = 0;
    for (int i = 0; i < accumulators; ++i) sum += partial[i * lanes + lane];
    total += sum;
  }
  return total;
}

// Calls store(d) for d in [0, count), each at least once: the last vector may overlap the one before.
template <class T, class Store>
FASTVI_HD void for_columns(std::int64_t count, const Store& store) {
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

template <class T, class Term, std::size_t... I>
void reduce_rows_by_term(const Extent& extent, const std::array<RowView<const T>, sizeof...(I)>& operands, T* out,
                         double nanoseconds_per_element, const Term& term, std::index_sequence<I...>) {
  reduce_rows<T, sizeof...(I)>(extent, operands, out, nanoseconds_per_element,
                               [&](const std::array<const T*, sizeof...(I)>& row, std::int64_t count) {
                                 return sum_columns<T>(count, [=](std::int64_t d) { return term.value(row[I][d]...); });
                               });
}

template <class T, std::size_t inputs, class Term>
void reduce_rows_by_term(const Extent& extent, const std::array<RowView<const T>, inputs>& operands, T* out,
                         double nanoseconds_per_element, const Term& term) {
  reduce_rows_by_term<T>(extent, operands, out, nanoseconds_per_element, term, std::make_index_sequence<inputs>{});
}

template <class T, class Term, std::size_t... I>
void row_gradients(const Extent& extent, const std::array<RowView<const T>, sizeof...(I)>& operands,
                   const RowView<const T>& upstream, const std::array<GradientView<T>, sizeof...(I)>& gradients,
                   double nanoseconds_per_element, const Term& term, std::index_sequence<I...>) {
  constexpr std::size_t inputs = sizeof...(I);
  bool sums_samples = false, complete = true;
  for (const auto& gradient : gradients) {
    sums_samples |= gradient.data != nullptr && gradient.sums_samples && extent.samples != 1;
    complete &= gradient.data != nullptr;
  }
  const std::int64_t pieces = std::max<std::int64_t>(1, ceil_divide(extent.columns, gradient_piece));
  const auto work = static_cast<std::int64_t>(
      static_cast<double>(extent.samples * extent.rows * extent.columns) * nanoseconds_per_element);
  const auto starts = [&](std::int64_t k, std::int64_t b, std::int64_t first) {
    return std::array<const T*, inputs>{(operands[I].row(k, b) + first)...};
  };
  const auto target = [&](std::size_t i, std::int64_t k, std::int64_t b, std::int64_t first) {
    const std::int64_t row = gradients[i].sums_samples ? b : k * extent.rows + b;
    return gradients[i].data + row * extent.columns + first;
  };

  if (complete && !sums_samples) {
    parallel_for(extent.samples * extent.rows * pieces, work, [&](std::int64_t item) {
      const std::int64_t row = item / pieces, first = item % pieces * gradient_piece;
      const std::int64_t k = row / extent.rows, b = row % extent.rows;
      const std::array<const T*, inputs> in = starts(k, b, first);
      const std::array<T*, inputs> out{target(I, k, b, first)...};
      const T scale = *upstream.row(k, b);
      for_columns<T>(std::min(gradient_piece, extent.columns - first), [=](std::int64_t d) {
        const std::array<T, inputs> value = term.gradient(scale, in[I][d]...);
        ((out[I][d] = value[I]), ...);
      });
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
    for (std::int64_t inside = 0; inside < samples_inside; ++inside) {
      const std::int64_t k = sums_samples ? inside : row / extent.rows;
      const std::array<const T*, inputs> in = starts(k, b, first);
      const T scale = *upstream.row(k, b);
      for_columns<T>(count, [&](std::int64_t d) {
        const std::array<T, inputs> value = term.gradient(scale, in[I][d]...);
        ((buffer[I][d] = value[I]), ...);
      });
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

template <class T, std::size_t inputs, class Term>
void row_gradients(const Extent& extent, const std::array<RowView<const T>, inputs>& operands,
                   const RowView<const T>& upstream, const std::array<GradientView<T>, inputs>& gradients,
                   double nanoseconds_per_element, const Term& term) {
  row_gradients<T>(extent, operands, upstream, gradients, nanoseconds_per_element, term,
                   std::make_index_sequence<inputs>{});
}

}  // namespace fastvi

#include "log_mean_exp.h"

#include <cmath>
#include <limits>
#include <vector>

#include "../formulas/exp.h"
#include "../formulas/log.h"
#include "rows.h"

namespace fastvi {
namespace {

constexpr double exponential_cost = 0.8;
constexpr std::int64_t strip_columns = 256;  // columns that a work item handles at once
constexpr std::int64_t strip_elements = 4096;
constexpr std::int64_t strip_count = 128;        // the least that it goes along the axis
constexpr std::int64_t contiguous_count = 4096;  // what it goes where the axis itself is contiguous

// How far along the axis a piece goes: the piece of a strip stays in the first cache, or nearly.
std::int64_t piece_count(const AxisExtent& extent) {
  return extent.inner == 1 ? contiguous_count
                           : std::max(strip_count, strip_elements / std::max<std::int64_t>(extent.inner, 1));
}

// The exponentials of one piece of a column, relative to `shift`, which is the piece's maximum where that is finite.
template <class T>
struct Piece {
  T maximum = -std::numeric_limits<T>::infinity();
  T shift = 0;
  T sum = 0;
  T sum_of_squares = 0;
};

template <class T>
T shift_for(T maximum) {
  return std::isfinite(maximum) ? maximum : T(0);
}

// The factor that takes a piece's exponentials to the whole column's shift. An empty piece (all minus infinity) has
// sum 0 or NaN, which any finite factor keeps.
template <class T>
T rescale(const Piece<T>& piece, T shift) {
  return piece.maximum == -std::numeric_limits<T>::infinity() ? T(1) : exp(piece.shift - shift);
}

template <class T>
void raise_maximum(std::int64_t count, const T* values, T* maximum) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) maximum[i] = values[i] > maximum[i] ? values[i] : maximum[i];
}

template <class T>
void add_exponentials(std::int64_t count, const T* values, const T* shift, T* exponentials, T* sum, T* squares) {
  for_columns<T>(count, [=](std::int64_t i) { exponentials[i] = exp(values[i] - shift[i]); });
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    sum[i] += exponentials[i];
    squares[i] += exponentials[i] * exponentials[i];
  }
}

template <class T>
void scale_columns(std::int64_t count, T scale, T* values) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) values[i] *= scale;
}

template <class T>
class Pieces {
 public:
  Pieces(const AxisExtent& extent, const T* x, T* exponentials)
      : extent_(extent),
        piece_count_(piece_count(extent)),
        per_column_(ceil_divide(extent.count, piece_count_)),
        pieces_(static_cast<std::size_t>(extent.outer * per_column_ * extent.inner)) {
    const std::int64_t work =
        static_cast<std::int64_t>(static_cast<double>(extent.outer * extent.count * extent.inner) * exponential_cost);
    if (extent.inner == 1) {
      parallel_for(extent.outer * per_column_, work,
                   [&](std::int64_t item) { reduce_contiguous(item, x, exponentials); });
    } else {
      const std::int64_t strips = ceil_divide(extent.inner, strip_columns);
      parallel_for(extent.outer * per_column_ * strips, work,
                   [&](std::int64_t item) { reduce_strip(item / strips, item % strips, x, exponentials); });
    }
  }

  std::int64_t per_column() const { return per_column_; }
  const Piece<T>& at(std::int64_t outer, std::int64_t piece, std::int64_t inner) const {
    return pieces_[static_cast<std::size_t>((outer * per_column_ + piece) * extent_.inner + inner)];
  }

  // Calls visit(outer * inner size + inner, the whole column) for every column.
  template <class Visit>
  void for_each_column(const Visit& visit) const {
    constexpr std::int64_t block = 64;
    const std::int64_t columns = extent_.outer * extent_.inner;
    parallel_for(ceil_divide(columns, block), columns * per_column_ * 10, [&](std::int64_t item) {
      for (std::int64_t i = item * block; i < std::min((item + 1) * block, columns); ++i) {
        visit(i, column(i / extent_.inner, i % extent_.inner));
      }
    });
  }

 private:
  // All pieces of a column together, always added in the same order.
  Piece<T> column(std::int64_t outer, std::int64_t inner) const {
    Piece<T> whole;
    for (std::int64_t piece = 0; piece < per_column_; ++piece) {
      whole.maximum = std::max(whole.maximum, at(outer, piece, inner).maximum);
    }
    whole.shift = shift_for(whole.maximum);
    for (std::int64_t piece = 0; piece < per_column_; ++piece) {
      const Piece<T>& part = at(outer, piece, inner);
      const T factor = rescale(part, whole.shift);
      whole.sum += factor * part.sum;
      whole.sum_of_squares += factor * factor * part.sum_of_squares;
    }
    return whole;
  }

  Piece<T>& at(std::int64_t outer, std::int64_t piece, std::int64_t inner) {
    return pieces_[static_cast<std::size_t>((outer * per_column_ + piece) * extent_.inner + inner)];
  }

  void reduce_contiguous(std::int64_t item, const T* x, T* exponentials) {
    const std::int64_t outer = item / per_column_, first = item % per_column_ * contiguous_count;
    const std::int64_t count = std::min(contiguous_count, extent_.count - first);
    const T* const values = x + outer * extent_.count + first;
    Piece<T>& piece = at(outer, item % per_column_, 0);
    T maximum = piece.maximum;
#pragma omp simd reduction(max : maximum)
    for (std::int64_t k = 0; k < count; ++k) maximum = values[k] > maximum ? values[k] : maximum;
    const T shift = shift_for(maximum);
    piece.maximum = maximum;
    piece.shift = shift;
    if (exponentials == nullptr) {
      piece.sum = sum_columns<T>(count, [=](std::int64_t k) { return exp(values[k] - shift); });
      piece.sum_of_squares = sum_columns<T>(count, [=](std::int64_t k) { return exp(T(2) * (values[k] - shift)); });
      return;
    }
    T* const out = exponentials + outer * extent_.count + first;
    for_columns<T>(count, [=](std::int64_t k) { out[k] = exp(values[k] - shift); });
    piece.sum = sum_columns<T>(count, [=](std::int64_t k) { return out[k]; });
  }

  // Narrow rows are folded: several of them, which lie one behind the other, count as one wide row, so that vectors are
  // full; the columns of the wide row that belong together are added at the end.
  void reduce_strip(std::int64_t row, std::int64_t strip, const T* x, T* exponentials) {
    const std::int64_t outer = row / per_column_, first = row % per_column_ * piece_count_;
    const std::int64_t count = std::min(piece_count_, extent_.count - first);
    const std::int64_t column = strip * strip_columns;
    const std::int64_t width = std::min(strip_columns, extent_.inner - column);
    const std::int64_t fold = std::min(count, strip_columns / extent_.inner > 1 ? strip_columns / extent_.inner : 1);
    const std::int64_t wide = fold * width;
    const std::int64_t start = (outer * extent_.count + first) * extent_.inner + column;

    T maximum[strip_columns], shift[strip_columns], sum[strip_columns], squares[strip_columns];
    std::fill_n(maximum, wide, -std::numeric_limits<T>::infinity());
    const auto for_wide_rows = [&](const auto& visit) {
      for (std::int64_t k = 0; k < count; k += fold) {
        visit(start + k * extent_.inner, std::min(fold, count - k) * width);
      }
    };
    for_wide_rows([&](std::int64_t offset, std::int64_t length) { raise_maximum(length, x + offset, maximum); });
    for (std::int64_t i = width; i < wide; ++i) {
      maximum[i % width] = maximum[i] > maximum[i % width] ? maximum[i] : maximum[i % width];
    }
    for (std::int64_t i = 0; i < wide; ++i) shift[i] = shift_for(maximum[i % width]);

    std::fill_n(sum, wide, T(0));
    std::fill_n(squares, wide, T(0));
    for_wide_rows([&](std::int64_t offset, std::int64_t length) {
      T term[strip_columns];
      add_exponentials(length, x + offset, shift, exponentials == nullptr ? term : exponentials + offset, sum, squares);
    });
    for (std::int64_t i = width; i < wide; ++i) {
      sum[i % width] += sum[i];
      squares[i % width] += squares[i];
    }
    for (std::int64_t i = 0; i < width; ++i) {
      at(outer, row % per_column_, column + i) = {maximum[i], shift[i], sum[i], squares[i]};
    }
  }

  AxisExtent extent_;
  std::int64_t piece_count_, per_column_;
  std::vector<Piece<T>> pieces_;
};

}  // namespace

template <class T>
void LogMeanExpKernels<T>::log_mean_exp(const AxisExtent& extent, const T* x, T* out) {
  const Pieces<T> pieces(extent, x, nullptr);
  const T log_count = std::log(static_cast<T>(extent.count));
  pieces.for_each_column(
      [&](std::int64_t index, const Piece<T>& whole) { out[index] = whole.shift + (log(whole.sum) - log_count); });
}

template <class T>
void LogMeanExpKernels<T>::scaled_softmax(const AxisExtent& extent, const T* x, const T* scale, bool as_gradient,
                                          T* out) {
  const Pieces<T> pieces(extent, x, out);
  const std::int64_t columns = extent.outer * extent.inner;
  std::vector<T> factor(static_cast<std::size_t>(columns * pieces.per_column()));
  pieces.for_each_column([&](std::int64_t index, const Piece<T>& whole) {
    const std::int64_t outer = index / extent.inner, inner = index % extent.inner;
    const bool finite = std::isfinite(whole.maximum);
    T by_sum = (scale == nullptr ? T(1) : scale[index]) / whole.sum;
    if (as_gradient && whole.maximum < T(0) && !finite && whole.sum == T(0)) by_sum = T(0);
    if (!as_gradient && !finite) by_sum = std::numeric_limits<T>::quiet_NaN();
    for (std::int64_t piece = 0; piece < pieces.per_column(); ++piece) {
      factor[static_cast<std::size_t>((outer * pieces.per_column() + piece) * extent.inner + inner)] =
          finite ? by_sum * rescale(pieces.at(outer, piece, inner), whole.shift) : by_sum;
    }
  });
  const std::int64_t length = piece_count(extent);
  parallel_for(extent.outer * pieces.per_column(), extent.outer * extent.count * extent.inner / 4,
               [&](std::int64_t item) {
                 const std::int64_t outer = item / pieces.per_column(), first = item % pieces.per_column() * length;
                 const T* const by = factor.data() + item * extent.inner;
                 if (extent.inner == 1) {
                   scale_columns(std::min(length, extent.count - first), *by, out + outer * extent.count + first);
                   return;
                 }
                 for (std::int64_t k = first; k < std::min(first + length, extent.count); ++k) {
                   T* const row = out + (outer * extent.count + k) * extent.inner;
#pragma omp simd
                   for (std::int64_t i = 0; i < extent.inner; ++i) row[i] *= by[i];
                 }
               });
}

template <class T>
void LogMeanExpKernels<T>::effective_sample_size(const AxisExtent& extent, const T* x, T* out) {
  const Pieces<T> pieces(extent, x, nullptr);
  pieces.for_each_column([&](std::int64_t index, const Piece<T>& whole) {
    out[index] = std::isfinite(whole.maximum) ? whole.sum * whole.sum / whole.sum_of_squares
                                              : std::numeric_limits<T>::quiet_NaN();
  });
}

template struct LogMeanExpKernels<float>;
template struct LogMeanExpKernels<double>;

}  // namespace fastvi

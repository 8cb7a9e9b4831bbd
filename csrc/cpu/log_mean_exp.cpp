#include "../formulas/log_mean_exp.h"

#include <cmath>
#include <vector>

#include "rows.h"

namespace fastvi {
namespace {

constexpr double exponential_cost = 0.8;
constexpr std::int64_t strip_columns = 256;  // columns that a work item handles at once
constexpr std::int64_t strip_elements = 4096;
constexpr std::int64_t strip_count = 128;        // the least that it goes along the axis
constexpr std::int64_t contiguous_count = 4096;  // what it goes where the axis itself is contiguous
constexpr std::int64_t most_folded = 64;         // rows of a strip that are handled as one

// How far along the axis a piece goes: the piece of a strip stays in the first cache, or nearly.
std::int64_t piece_count(const AxisExtent& extent) {
  return extent.inner == 1 ? contiguous_count
                           : std::max(strip_count, strip_elements / std::max<std::int64_t>(extent.inner, 1));
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

// Some columns of a piece. Narrow rows are folded: several of them, which lie one behind the other, count as one wide
// row, so that vectors are full.
struct Strip {
  std::int64_t start, count, width, fold, row_length;

  Strip(const AxisExtent& extent, std::int64_t outer, std::int64_t first, std::int64_t most, std::int64_t column)
      : start((outer * extent.count + first) * extent.inner + column),
        count(std::min(most, extent.count - first)),
        width(std::min(strip_columns, extent.inner - column)),
        fold(std::clamp<std::int64_t>(strip_columns / extent.inner, 1, std::min(count, most_folded))),
        row_length(extent.inner) {}

  std::int64_t wide() const { return fold * width; }

  // Calls visit(offset, length) for every wide row.
  template <class Visit>
  void for_each_row(const Visit& visit) const {
    for (std::int64_t k = 0; k < count; k += fold) visit(start + k * row_length, std::min(fold, count - k) * width);
  }
};

template <class S>
class Pieces {
 public:
  using T = ComputeType<S>;

  // Leaves the exponentials of all elements in `exponentials`, where it is given.
  Pieces(const AxisExtent& extent, const S* x, T* exponentials)
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
    // Fewer at once where each has many pieces, but not so few that threads would write to the same cache lines.
    const std::int64_t block = std::clamp<std::int64_t>(512 / std::max<std::int64_t>(per_column_, 1), 8, 64);
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
    double sum = 0, sum_of_squares = 0;
    for (std::int64_t piece = 0; piece < per_column_; ++piece) {
      const Piece<T>& part = at(outer, piece, inner);
      const double factor = static_cast<double>(rescale(part, whole.shift));
      sum += factor * static_cast<double>(part.sum);
      sum_of_squares += factor * factor * static_cast<double>(part.sum_of_squares);
    }
    whole.sum = static_cast<T>(sum);
    whole.sum_of_squares = static_cast<T>(sum_of_squares);
    return whole;
  }

  Piece<T>& at(std::int64_t outer, std::int64_t piece, std::int64_t inner) {
    return pieces_[static_cast<std::size_t>((outer * per_column_ + piece) * extent_.inner + inner)];
  }

  void reduce_contiguous(std::int64_t item, const S* x, T* exponentials) {
    const std::int64_t outer = item / per_column_, first = item % per_column_ * contiguous_count;
    const std::int64_t count = std::min(contiguous_count, extent_.count - first);
    RowBuffer<S, contiguous_count> buffer;
    const T* const values = buffer.load(x + outer * extent_.count + first, count);
    Piece<T>& piece = at(outer, item % per_column_, 0);
    T maximum = piece.maximum;
#pragma omp simd reduction(max : maximum)
    for (std::int64_t k = 0; k < count; ++k) maximum = values[k] > maximum ? values[k] : maximum;
    const T shift = shift_for(maximum);
    piece.maximum = maximum;
    piece.shift = shift;
    const auto sum = [count](const auto& term) {
      return static_cast<T>(sum_blocks(0, count, [&](std::int64_t start, std::int64_t length) {
        return sum_columns<T>(length, [=](std::int64_t k) { return term(start + k); });
      }));
    };
    if (exponentials == nullptr) {
      piece.sum = sum([=](std::int64_t k) { return exp(values[k] - shift); });
      piece.sum_of_squares = sum([=](std::int64_t k) { return exp(T(2) * (values[k] - shift)); });
      return;
    }
    T* const out = exponentials + outer * extent_.count + first;
    for_columns<T>(count, [=](std::int64_t k) { out[k] = exp(values[k] - shift); });
    piece.sum = sum([=](std::int64_t k) { return out[k]; });
  }

  void reduce_strip(std::int64_t row, std::int64_t number, const S* x, T* exponentials) {
    const std::int64_t outer = row / per_column_, first = row % per_column_ * piece_count_;
    const std::int64_t column = number * strip_columns;
    const Strip strip(extent_, outer, first, piece_count_, column);
    const std::int64_t width = strip.width, wide = strip.wide();
    RowBuffer<S, strip_columns> buffer;

    T maximum[strip_columns], shift[strip_columns];
    std::fill_n(maximum, wide, -infinity<T>);
    strip.for_each_row([&](std::int64_t offset, std::int64_t length) {
      raise_maximum(length, buffer.load(x + offset, length), maximum);
    });
    for (std::int64_t i = width; i < wide; ++i) {
      maximum[i % width] = maximum[i] > maximum[i % width] ? maximum[i] : maximum[i % width];
    }
    for (std::int64_t i = 0; i < wide; ++i) shift[i] = shift_for(maximum[i % width]);

    SampleSums<T, strip_columns> sums(wide), sums_of_squares(wide);
    strip.for_each_row([&](std::int64_t offset, std::int64_t length) {
      T term[strip_columns];
      add_exponentials(length, buffer.load(x + offset, length), shift,
                       exponentials == nullptr ? term : exponentials + offset, sums.sums(), sums_of_squares.sums());
      sums.end_sample();
      sums_of_squares.end_sample();
    });
    // The columns of the wide row that belong together.
    T* const sum = sums.result();
    T* const squares = sums_of_squares.result();
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

template <class T>
void scale_columns(std::int64_t count, T scale, T* values) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) values[i] *= scale;
}

// Multiplies the exponentials of one piece, which stand in `out`, by one number a column.
template <class T>
void scale_piece(const AxisExtent& extent, std::int64_t outer, std::int64_t first, std::int64_t count, const T* by,
                 T* out) {
  if (extent.inner == 1) {
    scale_columns(std::min(count, extent.count - first), *by, out + outer * extent.count + first);
    return;
  }
  for (std::int64_t k = first; k < std::min(first + count, extent.count); ++k) {
    T* const row = out + (outer * extent.count + k) * extent.inner;
#pragma omp simd
    for (std::int64_t i = 0; i < extent.inner; ++i) row[i] *= by[i];
  }
}

// The same where `out` is too narrow for exponentials to wait in: they are computed again from x.
template <class S>
void scale_piece_again(const AxisExtent& extent, const Pieces<S>& pieces, std::int64_t outer, std::int64_t number,
                       const ComputeType<S>* by, const S* x, S* out) {
  using T = ComputeType<S>;
  const std::int64_t count = piece_count(extent), first = number * count;
  if (extent.inner == 1) {
    const std::int64_t start = outer * extent.count + first, length = std::min(count, extent.count - first);
    RowBuffer<S, contiguous_count> values, results;
    const T* const value = values.load(x + start, length);
    T* const result = results.target(out + start);
    const T shift = pieces.at(outer, number, 0).shift, scale = *by;
    for_columns<T>(length, [=](std::int64_t k) { result[k] = exp(value[k] - shift) * scale; });
    results.store(out + start, length);
    return;
  }
  RowBuffer<S, strip_columns> values, results;
  T scale[strip_columns], shift[strip_columns];
  for (std::int64_t column = 0; column < extent.inner; column += strip_columns) {
    const Strip strip(extent, outer, first, count, column);
    for (std::int64_t start = 0; start < strip.wide(); start += strip.width) {
      for (std::int64_t i = 0; i < strip.width; ++i) {
        scale[start + i] = by[column + i];
        shift[start + i] = pieces.at(outer, number, column + i).shift;
      }
    }
    strip.for_each_row([&](std::int64_t offset, std::int64_t length) {
      const T* const value = values.load(x + offset, length);
      T* const result = results.target(out + offset);
      for_columns<T>(length, [&, value, result](std::int64_t i) { result[i] = exp(value[i] - shift[i]) * scale[i]; });
      results.store(out + offset, length);
    });
  }
}

}  // namespace

template <class S>
void LogMeanExpKernels<S>::log_mean_exp(const AxisExtent& extent, const S* x, S* out) {
  using T = ComputeType<S>;
  const Pieces<S> pieces(extent, x, nullptr);
  const T log_count = std::log(static_cast<T>(extent.count));
  pieces.for_each_column(
      [&](std::int64_t index, const Piece<T>& whole) { out[index] = S(log_mean(whole, log_count)); });
}

template <class S>
void LogMeanExpKernels<S>::scaled_softmax(const AxisExtent& extent, const S* x, const S* scale, bool as_gradient,
                                          S* out) {
  using T = ComputeType<S>;
  T* exponentials = nullptr;
  if constexpr (!is_narrow<S>) exponentials = out;
  const Pieces<S> pieces(extent, x, exponentials);
  const std::int64_t columns = extent.outer * extent.inner;
  std::vector<T> factor(static_cast<std::size_t>(columns * pieces.per_column()));
  pieces.for_each_column([&](std::int64_t index, const Piece<T>& whole) {
    const std::int64_t outer = index / extent.inner, inner = index % extent.inner;
    const bool finite = is_finite(whole.maximum);
    const T by_sum = softmax_factor(whole, scale == nullptr ? T(1) : static_cast<T>(scale[index]), as_gradient);
    for (std::int64_t piece = 0; piece < pieces.per_column(); ++piece) {
      factor[static_cast<std::size_t>((outer * pieces.per_column() + piece) * extent.inner + inner)] =
          finite ? by_sum * rescale(pieces.at(outer, piece, inner), whole.shift) : by_sum;
    }
  });
  const std::int64_t length = piece_count(extent);
  parallel_for(extent.outer * pieces.per_column(), extent.outer * extent.count * extent.inner / 4,
               [&](std::int64_t item) {
                 const std::int64_t outer = item / pieces.per_column(), piece = item % pieces.per_column();
                 const T* const by = factor.data() + item * extent.inner;
                 if constexpr (is_narrow<S>) {
                   scale_piece_again(extent, pieces, outer, piece, by, x, out);
                 } else {
                   scale_piece(extent, outer, piece * length, length, by, out);
                 }
               });
}

template <class S>
void LogMeanExpKernels<S>::effective_sample_size(const AxisExtent& extent, const S* x, S* out) {
  using T = ComputeType<S>;
  const Pieces<S> pieces(extent, x, nullptr);
  pieces.for_each_column([&](std::int64_t index, const Piece<T>& whole) { out[index] = S(effective_size(whole)); });
}

template struct LogMeanExpKernels<float>;
template struct LogMeanExpKernels<double>;
template struct LogMeanExpKernels<BFloat16>;
template struct LogMeanExpKernels<Float16>;

}  // namespace fastvi

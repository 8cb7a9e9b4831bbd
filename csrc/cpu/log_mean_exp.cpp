#include "../formulas/log_mean_exp.h"

#include <cmath>
#include <memory>

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
  for_columns<T>(count, [=](std::int64_t i) { maximum[i] = values[i] > maximum[i] ? values[i] : maximum[i]; });
}

// The largest of `count` numbers that are not NaN; minus infinity where there are none.
template <class T>
T largest_of(std::int64_t count, const T* values) {
  constexpr int lanes = simd_lanes<T> * accumulators;
  T largest[lanes];
  std::fill_n(largest, lanes, -infinity<T>);
  if (count < lanes) {
    raise_maximum(count, values, largest);
  } else {
    for (std::int64_t k = 0; k < count; k += lanes) {
      const T* const block = values + std::min(k, count - lanes);
#pragma omp simd
      for (int lane = 0; lane < lanes; ++lane)
        largest[lane] = block[lane] > largest[lane] ? block[lane] : largest[lane];
    }
  }
  for (int half = lanes / 2; half > 0; half /= 2) raise_maximum(half, largest + half, largest);
  return largest[0];
}

// What is found of a strip or of a contiguous piece besides its maximum.
struct Wanted {
  bool squares;   // the sum of squares, too
  bool overflow;  // exponents may be above zero, where the maximum is plus infinity
};

// Calls use.template operator()<wanted>() with the flags as constants.
template <class Use>
void with_wanted(const Wanted& wanted, const Use& use) {
  if (wanted.overflow) {
    use.template operator()<Wanted{true, true}>();
  } else if (wanted.squares) {
    use.template operator()<Wanted{true, false}>();
  } else {
    use.template operator()<Wanted{false, false}>();
  }
}

// Both functions have the same bits where both may be called.
template <Wanted wanted, class T>
FASTVI_HD T exponential(T exponent) {
  if constexpr (wanted.overflow) {
    return exp(exponent);
  } else {
    return exp_nonpositive(exponent);
  }
}

template <Wanted wanted, class T>
[[gnu::flatten]] void add_exponentials(std::int64_t count, const T* values, const T* shift, T* exponentials, T* sum,
                                       T* squares) {
  constexpr int lanes = simd_lanes<T>;
  const auto add = [=](std::int64_t i, T value) {
    sum[i] += value;
    if constexpr (wanted.squares) squares[i] += value * value;
  };
  std::int64_t d = 0;
  for (; d + lanes <= count; d += lanes) {
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) {
      const T value = exponential<wanted>(values[d + lane] - shift[d + lane]);
      exponentials[d + lane] = value;
      add(d + lane, value);
    }
  }
  if (d == count) return;
  const std::int64_t start = std::max<std::int64_t>(count - lanes, 0);  // a last vector overlaps the one before
  for_columns<T>(count - start, [=](std::int64_t i) {
    exponentials[start + i] = exponential<wanted>(values[start + i] - shift[start + i]);
  });
  for (; d < count; ++d) add(d, exponentials[d]);
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

// Pieces as one array for each of their numbers, so that loops over columns are vector code.
template <class T>
struct PieceArrays {
  T *maximum, *shift, *sum, *sum_of_squares;

  PieceArrays(T* numbers, std::int64_t count)
      : maximum(numbers), shift(maximum + count), sum(shift + count), sum_of_squares(sum + count) {}

  FASTVI_HD Piece<T> at(std::int64_t i) const { return {maximum[i], shift[i], sum[i], sum_of_squares[i]}; }
  FASTVI_HD void put(std::int64_t i, const Piece<T>& piece) const {
    maximum[i] = piece.maximum;
    shift[i] = piece.shift;
    sum[i] = piece.sum;
    sum_of_squares[i] = piece.sum_of_squares;
  }
};

// Memory for numbers that are all written before they are read.
template <class T>
std::unique_ptr<T[]> new_numbers(std::int64_t count) {
  return std::unique_ptr<T[]>(new T[static_cast<std::size_t>(count)]);
}

template <class S>
class Pieces {
 public:
  using T = ComputeType<S>;

  // Leaves the exponentials of all elements in `exponentials`, where it is given. The sums of squares are found only if
  // they are wanted.
  Pieces(const AxisExtent& extent, const S* x, T* exponentials, bool squares)
      : extent_(extent),
        squares_(squares),
        piece_count_(piece_count(extent)),
        per_column_(ceil_divide(extent.count, piece_count_)),
        numbers_(new_numbers<T>(4 * extent.outer * per_column_ * extent.inner)),
        pieces_(numbers_.get(), extent.outer * per_column_ * extent.inner) {
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
  std::int64_t index(std::int64_t outer, std::int64_t piece, std::int64_t inner) const {
    return (outer * per_column_ + piece) * extent_.inner + inner;
  }
  Piece<T> at(std::int64_t outer, std::int64_t piece, std::int64_t inner) const {
    return pieces_.at(index(outer, piece, inner));
  }

  // Calls visit(outer * inner size + inner, the whole column) for every column, in vector loops.
  template <class Visit>
  void for_each_column(const Visit& visit) const {
    const std::int64_t columns = extent_.outer * extent_.inner;
    if (per_column_ == 1) return visit_all(columns, pieces_, visit);
    // Fewer at once where each has many pieces, but not so few that threads would write to the same cache lines.
    const std::int64_t block = std::clamp<std::int64_t>(512 / per_column_, 8, 64);
    const auto numbers = new_numbers<T>(4 * columns);
    const PieceArrays<T> whole(numbers.get(), columns);
    parallel_for(ceil_divide(columns, block), columns * per_column_ * 10, [&](std::int64_t item) {
      for (std::int64_t i = item * block; i < std::min((item + 1) * block, columns); ++i) {
        whole.put(i, column(i / extent_.inner, i % extent_.inner));
      }
    });
    visit_all(columns, whole, visit);
  }

 private:
  template <class Visit>
  static void visit_all(std::int64_t columns, const PieceArrays<T>& whole, const Visit& visit) {
    constexpr std::int64_t block = 512;
    parallel_for(ceil_divide(columns, block), columns * 2, [&](std::int64_t item) {
      const std::int64_t start = item * block;
      for_columns<T>(std::min(block, columns - start), [=](std::int64_t i) { visit(start + i, whole.at(start + i)); });
    });
  }

  // All pieces of a column together, always added in the same order.
  Piece<T> column(std::int64_t outer, std::int64_t inner) const {
    Piece<T> whole;
    for (std::int64_t piece = 0; piece < per_column_; ++piece) {
      whole.maximum = std::max(whole.maximum, at(outer, piece, inner).maximum);
    }
    whole.shift = shift_for(whole.maximum);
    double sum = 0, sum_of_squares = 0;
    for (std::int64_t piece = 0; piece < per_column_; ++piece) {
      const Piece<T> part = at(outer, piece, inner);
      const double factor = static_cast<double>(rescale(part, whole.shift));
      sum += factor * static_cast<double>(part.sum);
      sum_of_squares += factor * factor * static_cast<double>(part.sum_of_squares);
    }
    whole.sum = static_cast<T>(sum);
    whole.sum_of_squares = static_cast<T>(sum_of_squares);
    return whole;
  }

  void reduce_contiguous(std::int64_t item, const S* x, T* exponentials) {
    const std::int64_t outer = item / per_column_, first = item % per_column_ * contiguous_count;
    const std::int64_t count = std::min(contiguous_count, extent_.count - first);
    RowBuffer<S, contiguous_count> buffer;
    const T* const values = buffer.load(x + outer * extent_.count + first, count);
    Piece<T> piece;
    piece.maximum = largest_of(count, values);
    piece.shift = shift_for(piece.maximum);
    alignas(64) T terms[contiguous_count];
    T* const out = exponentials == nullptr ? terms : exponentials + outer * extent_.count + first;
    const auto sum = [count](const auto& term) {
      return static_cast<T>(sum_blocks(0, count, [&](std::int64_t start, std::int64_t length) {
        return sum_columns<T>(length, [=](std::int64_t k) { return term(start + k); });
      }));
    };
    with_wanted({squares_, piece.maximum == infinity<T>}, [&, shift = piece.shift]<Wanted wanted> {
      for_columns<T>(count, [=](std::int64_t k) { out[k] = exponential<wanted>(values[k] - shift); });
    });
    piece.sum = sum([=](std::int64_t k) { return out[k]; });
    if (squares_) piece.sum_of_squares = sum([=](std::int64_t k) { return out[k] * out[k]; });
    pieces_.put(item, piece);
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
    for (std::int64_t start = width; start < wide; start += width) raise_maximum(width, maximum + start, maximum);
    for_columns<T>(width, [&](std::int64_t i) { shift[i] = shift_for(maximum[i]); });
    for (std::int64_t start = width; start < wide; start += width) std::copy_n(shift, width, shift + start);

    SampleSums<T, strip_columns> sums(wide), sums_of_squares(wide);
    with_wanted({squares_, largest_of(width, maximum) == infinity<T>}, [&]<Wanted wanted> {
      strip.for_each_row([&](std::int64_t offset, std::int64_t length) {
        T terms[strip_columns];
        add_exponentials<wanted>(length, buffer.load(x + offset, length), shift,
                                 exponentials == nullptr ? terms : exponentials + offset, sums.sums(),
                                 sums_of_squares.sums());
        sums.end_sample();
        sums_of_squares.end_sample();
      });
    });
    // The columns of the wide row that belong together.
    T* const sum = sums.result();
    T* const squares = sums_of_squares.result();
    for (std::int64_t start = width; start < wide; start += width) {
#pragma omp simd
      for (std::int64_t i = 0; i < width; ++i) {
        sum[i] += sum[start + i];
        squares[i] += squares[start + i];
      }
    }
    const std::int64_t to = index(outer, row % per_column_, column);
    for (std::int64_t i = 0; i < width; ++i) pieces_.put(to + i, {maximum[i], shift[i], sum[i], squares[i]});
  }

  AxisExtent extent_;
  bool squares_;
  std::int64_t piece_count_, per_column_;
  std::unique_ptr<T[]> numbers_;
  PieceArrays<T> pieces_;
};

// Calls visit(start, count) for blocks of so many elements.
template <class Visit>
void for_blocks(std::int64_t elements, const Visit& visit) {
  constexpr std::int64_t block = 4096;
  parallel_for(ceil_divide(elements, block), elements / 4,
               [&](std::int64_t item) { visit(item * block, std::min(block, elements - item * block)); });
}

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
  const Pieces<S> pieces(extent, x, nullptr, false);
  const T log_count = std::log(static_cast<T>(extent.count));
  pieces.for_each_column(
      [=](std::int64_t index, const Piece<T>& whole) { out[index] = S(log_mean(whole, log_count)); });
}

template <class S>
void LogMeanExpKernels<S>::scaled_softmax(const AxisExtent& extent, const S* x, const S* scale, bool as_gradient,
                                          S* out) {
  using T = ComputeType<S>;
  T* exponentials = nullptr;
  if constexpr (!is_narrow<S>) exponentials = out;
  const Pieces<S> pieces(extent, x, exponentials, false);
  const std::int64_t columns = extent.outer * extent.inner, per_column = pieces.per_column();
  const auto factors = new_numbers<T>(columns * per_column);
  T* const factor = factors.get();
  const auto by_sum = [=](std::int64_t index, const Piece<T>& whole) {
    return softmax_factor(whole, scale == nullptr ? T(1) : static_cast<T>(scale[index]), as_gradient);
  };
  if (per_column == 1) {
    pieces.for_each_column([=](std::int64_t index, const Piece<T>& whole) { factor[index] = by_sum(index, whole); });
  } else {
    pieces.for_each_column([&](std::int64_t index, const Piece<T>& whole) {
      const std::int64_t outer = index / extent.inner, inner = index % extent.inner;
      const T of_whole = by_sum(index, whole);
      for (std::int64_t piece = 0; piece < per_column; ++piece) {
        factor[pieces.index(outer, piece, inner)] =
            is_finite(whole.maximum) ? of_whole * rescale(pieces.at(outer, piece, inner), whole.shift) : of_whole;
      }
    });
  }
  const std::int64_t length = piece_count(extent);
  parallel_for(extent.outer * per_column, extent.outer * extent.count * extent.inner / 4, [&](std::int64_t item) {
    const std::int64_t outer = item / per_column, piece = item % per_column;
    const T* const by = factor + item * extent.inner;
    if constexpr (is_narrow<S>) {
      scale_piece_again(extent, pieces, outer, piece, by, x, out);
    } else {
      scale_piece(extent, outer, piece * length, length, by, out);
    }
  });
}

template <class S>
void LogMeanExpKernels<S>::weights_backward(const AxisExtent& extent, const S* upstream, const S* x, S* out) {
  using T = ComputeType<S>;
  const std::int64_t elements = extent.outer * extent.count * extent.inner;
  if constexpr (is_narrow<S>) {
    // The weights are not rounded before they are multiplied.
    const auto numbers = new_numbers<T>(3 * elements);
    T *const wide_upstream = numbers.get(), *const wide_x = wide_upstream + elements, *const found = wide_x + elements;
    for_blocks(elements, [=](std::int64_t start, std::int64_t count) {
      convert(upstream + start, count, wide_upstream + start);
      convert(x + start, count, wide_x + start);
    });
    LogMeanExpKernels<T>::weights_backward(extent, wide_upstream, wide_x, found);
    for_blocks(elements, [=](std::int64_t start, std::int64_t count) { convert(found + start, count, out + start); });
  } else {
    scaled_softmax(extent, x, nullptr, false, out);
    const auto numbers = new_numbers<T>(elements + extent.outer * extent.inner);
    T *const products = numbers.get(), *const sums = products + elements;
    for_blocks(elements, [=](std::int64_t start, std::int64_t count) {
      for_columns<T>(count, [=](std::int64_t i) { products[start + i] = out[start + i] * upstream[start + i]; });
    });
    SumKernels<T>::axis_sum(extent, products, nullptr, sums);
    // (Plain loops, because for_columns() may handle an element twice.)
    if (extent.inner == 1) {
      parallel_for(extent.outer, elements / 4, [=](std::int64_t outer) {
        T* const weights = out + outer * extent.count;
        const T* const by = upstream + outer * extent.count;
        const T sum = sums[outer];
#pragma omp simd
        for (std::int64_t k = 0; k < extent.count; ++k) weights[k] *= by[k] - sum;
      });
      return;
    }
    parallel_for(extent.outer * extent.count, elements / 4, [=](std::int64_t row) {
      T* const weights = out + row * extent.inner;
      const T *const by = upstream + row * extent.inner, *const sum = sums + row / extent.count * extent.inner;
#pragma omp simd
      for (std::int64_t i = 0; i < extent.inner; ++i) weights[i] *= by[i] - sum[i];
    });
  }
}

template <class S>
void LogMeanExpKernels<S>::effective_sample_size(const AxisExtent& extent, const S* x, S* out) {
  using T = ComputeType<S>;
  const Pieces<S> pieces(extent, x, nullptr, true);
  pieces.for_each_column([=](std::int64_t index, const Piece<T>& whole) { out[index] = S(effective_size(whole)); });
}

template struct LogMeanExpKernels<float>;
template struct LogMeanExpKernels<double>;
template struct LogMeanExpKernels<BFloat16>;
template struct LogMeanExpKernels<Float16>;

}  // namespace fastvi

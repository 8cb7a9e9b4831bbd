// Loops over rows for operations that sum a term over the last dimension: out[k, b] = sum_d term(a[k, b, d], ...).
// Each operand has its own strides over samples (k) and rows (b), zero where it is broadcast; d is contiguous.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <tuple>

#include "../kernels.h"
#include "parallel.h"
#include "storage.h"

namespace fastvi {

// Buffers for a row of each operand.
template <class S, std::size_t inputs, std::int64_t length>
class RowBuffers {
 public:
  // `count` columns of each operand, from `first` on.
  std::array<const ComputeType<S>*, inputs> load(const std::array<RowView<const S>, inputs>& operands, std::int64_t k,
                                                 std::int64_t b, std::int64_t first, std::int64_t count) {
    std::array<const ComputeType<S>*, inputs> rows;
    for (std::size_t i = 0; i < inputs; ++i) rows[i] = buffers_[i].load(operands[i].row(k, b) + first, count);
    return rows;
  }

 private:
  RowBuffer<S, length> buffers_[inputs];
};

// Long rows are cut here; the pieces' sums are added in order, whoever computed them.
inline constexpr std::int64_t row_piece = 16384;

// Columns that a sum takes up in the compute type; sums of longer rows go on in float64, so that the length of a row
// does not add to the error.
inline constexpr std::int64_t row_block = 1536;

// Gradients are written in pieces, of which the narrow types hold buffers.
template <class S>
inline constexpr std::int64_t gradient_piece = is_narrow<S> ? 512 : 2048;

inline constexpr int accumulators = 4;

// Sum of `count` partial sums, a power of two, by halves. (One function for each half: a loop over halves would not be
// unrolled.)
template <class T, int count>
FASTVI_HD T sum_lanes(const T* partial) {
  if constexpr (count == 1) {
    return partial[0];
  } else {
    constexpr int half = count / 2;
    T sums[half];
#pragma omp simd
    for (int lane = 0; lane < half; ++lane) sums[lane] = partial[lane] + partial[lane + half];
    return sum_lanes<T, half>(sums);
  }
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

// Sum of block_sum(first, count) over blocks of [begin, end).
template <class BlockSum>
double sum_blocks(std::int64_t begin, std::int64_t end, const BlockSum& block_sum) {
  double total = 0;
  for (std::int64_t first = begin; first < end; first += row_block) {
    total += static_cast<double>(block_sum(first, std::min(row_block, end - first)));
  }
  return total;
}

template <class S>
S rounded_sum(double sum) {
  return S(static_cast<ComputeType<S>>(sum));
}

// Memory for the sums of rows' pieces, where rows have several.
inline std::unique_ptr<double[]> piece_sums(std::int64_t rows, std::int64_t pieces) {
  return std::unique_ptr<double[]>(pieces > 1 ? new double[static_cast<std::size_t>(rows * pieces)] : nullptr);
}

template <class S>
void add_pieces(std::int64_t rows, std::int64_t pieces, const double* partial, S* out) {
  for (std::int64_t row = 0; row < rows; ++row) {
    double total = 0;
    for (std::int64_t piece = 0; piece < pieces; ++piece) total += partial[row * pieces + piece];
    out[row] = rounded_sum<S>(total);
  }
}

// out[row] = sum of block_sum(row, first column, count) over the row's blocks.
template <class S, class BlockSum>
void sum_rows(std::int64_t rows, std::int64_t columns, S* out, double nanoseconds_per_element,
              const BlockSum& block_sum) {
  const std::int64_t pieces = std::max<std::int64_t>(1, ceil_divide(columns, row_piece));
  const auto work = static_cast<std::int64_t>(static_cast<double>(rows * columns) * nanoseconds_per_element);
  const auto partial = piece_sums(rows, pieces);
  parallel_for(rows * pieces, work, [&](std::int64_t item) {
    const std::int64_t row = item / pieces, first = item % pieces * row_piece;
    const double sum = sum_blocks(first, std::min(first + row_piece, columns),
                                  [&](std::int64_t start, std::int64_t count) { return block_sum(row, start, count); });
    if (pieces == 1) {
      out[row] = rounded_sum<S>(sum);
    } else {
      partial[static_cast<std::size_t>(item)] = sum;
    }
  });
  if (pieces > 1) add_pieces(rows, pieces, partial.get(), out);
}

// Sums over samples, one a column. Those of many samples go on in float64, as rows' sums do.
template <class T, std::int64_t length>
class SampleSums {
 public:
  SampleSums() = default;  // for an array; `start` then begins a sum
  explicit SampleSums(std::int64_t columns) { start(columns); }

  void start(std::int64_t columns) {
    columns_ = columns;
    std::fill_n(sums_, columns, T(0));
  }

  // What the next sample is to be added to.
  T* sums() { return sums_; }

  void end_sample() {
    if (++samples_ == most_samples) carry();
  }

  // The sums over all samples, of which no more come.
  T* result() {
    if (carried_) {
      carry();
      for (std::int64_t d = 0; d < columns_; ++d) sums_[d] = static_cast<T>(total_[d]);
      carried_ = false;
    }
    return sums_;
  }

 private:
  static constexpr int most_samples = 64;

  void carry() {
    for (std::int64_t d = 0; d < columns_; ++d) {
      total_[d] = (carried_ ? total_[d] : 0.0) + static_cast<double>(sums_[d]);
    }
    std::fill_n(sums_, columns_, T(0));
    samples_ = 0;
    carried_ = true;
  }

  alignas(64) T sums_[length];
  alignas(64) double total_[length];
  std::int64_t columns_ = 0;
  int samples_ = 0;
  bool carried_ = false;
};

// The sum of a term over columns of its operands; one that has a faster way than adding its values has an overload of
// its own. (std::apply makes each operand's pointer a variable of its own: pointers inside an array keep gcc from
// vectorising.)
template <class T, std::size_t inputs, class Term>
T sum_term(const Term& term, const std::array<const T*, inputs>& row, std::int64_t count) {
  return std::apply(
      [&](auto... in) { return sum_columns<T>(count, [=](std::int64_t d) { return term.value(in[d]...); }); }, row);
}

// Whether sum_term() adds the term's values, so that those of several rows may be found together.
template <class Term>
inline constexpr bool adds_values = true;

// Rows of at most so many columns are handled several at once: a loop of its own for each would take longer to start
// and to end than to run.
inline constexpr std::int64_t short_row = 128;
inline constexpr std::int64_t group_elements = 1024;

// Sum of a short row's values. Behind them `values` may have others, which count as zero, and reaches to a multiple of
// the width.
inline constexpr int value_lanes = 16;

template <class T>
FASTVI_HD T sum_values(std::int64_t count, const T* values) {
  T partial[value_lanes] = {};
  std::int64_t d = 0;
  for (; d + value_lanes <= count; d += value_lanes) {
#pragma omp simd
    for (int lane = 0; lane < value_lanes; ++lane) partial[lane] += values[d + lane];
  }
  const int rest = static_cast<int>(count - d);
#pragma omp simd
  for (int lane = 0; lane < value_lanes; ++lane) partial[lane] += lane < rest ? values[d + lane] : T(0);
  return sum_lanes<T, value_lanes>(partial);
}

// Whether a term has a part of its last operand alone, a pair of numbers that its value() takes behind the operands
// with the same bits. Where samples share that operand, several of them share the pair.
template <class Term, class T>
concept PreparesLast = requires(const Term& term, T last) { term.prepare(last); };

inline constexpr std::int64_t samples_prepared = 16;

template <class T, class Term>
void prepare_columns(std::int64_t count, const T* last, T* first_numbers, T* second_numbers, const Term& term) {
  for_columns<T>(count, [=](std::int64_t d) {
    const std::array<T, 2> pair = term.prepare(last[d]);
    first_numbers[d] = pair[0];
    second_numbers[d] = pair[1];
  });
}

template <class T, class Columns, class Term>
void find_values(std::int64_t count, const Columns& columns, T* values, const Term& term) {
  std::apply([&](auto... in) { for_columns<T>(count, [=](std::int64_t d) { values[d] = term.value(in[d]...); }); },
             columns);
}

// reduce_rows() for short rows: the term's values first, then the sums.
template <class S, class Term>
void reduce_short_rows(const Extent& extent, const std::array<RowView<const S>, Term::operands>& operands, S* out,
                       const Term& term) {
  using T = ComputeType<S>;
  constexpr std::size_t inputs = Term::operands;
  constexpr bool prepares = PreparesLast<Term, T>;
  constexpr std::int64_t prepared_elements = prepares ? group_elements : 1;
  const std::int64_t columns = extent.columns, rows_in_group = group_elements / columns;
  const std::int64_t groups = ceil_divide(extent.rows, rows_in_group);
  const bool shared = prepares && operands[inputs - 1].sample_stride == 0 && extent.samples > 1;
  const std::int64_t together = shared ? samples_prepared : 1;
  const auto work = static_cast<std::int64_t>(static_cast<double>(extent.samples * extent.rows * columns) * Term::cost);
  // Rows that lie one behind the other are read where they are, others from a copy that lies so, which one row for all
  // samples and rows has once: the values, which are vector code's in any case, do not depend on the layout.
  const std::int64_t most_rows = std::min(rows_in_group, extent.rows);
  alignas(64) T repeated[inputs][group_elements];
  const auto repeats = [&](std::size_t i) { return operands[i].row_stride == 0 && operands[i].sample_stride == 0; };
  const auto copy_rows = [&](std::size_t i, std::int64_t k, std::int64_t first, std::int64_t rows, T* to) {
    const bool joined = operands[i].row_stride == columns;
    const std::int64_t length = rows * columns, step = joined ? length : columns;
    for (std::int64_t start = 0; start < length; start += step) {
      convert(operands[i].row(k, first + start / columns), step, to + start);
    }
    std::fill(to + length, to + std::max<std::int64_t>(length, simd_lanes<T>), T(0));
  };
  for (std::size_t i = 0; i < inputs; ++i) {
    if (repeats(i) && extent.samples * extent.rows > 0) copy_rows(i, 0, 0, most_rows, repeated[i]);
  }
  parallel_for(ceil_divide(extent.samples, together) * groups, work, [&](std::int64_t item) {
    const std::int64_t first_sample = item / groups * together, first = item % groups * rows_in_group;
    const std::int64_t rows = std::min(rows_in_group, extent.rows - first), length = rows * columns;
    const std::int64_t padded = std::max<std::int64_t>(length, simd_lanes<T>);
    alignas(64) T copies[inputs][group_elements], values[group_elements + value_lanes];
    std::array<const T*, inputs> found;
    alignas(64) T prepared[2][prepared_elements];
    for (std::int64_t k = first_sample; k < std::min(first_sample + together, extent.samples); ++k) {
      for (std::size_t i = 0; i < inputs; ++i) {
        if constexpr (!is_narrow<S>) {
          found[i] = operands[i].row(k, first);
          if (operands[i].row_stride == columns && padded == length) continue;
        }
        found[i] = repeats(i) ? repeated[i] : copies[i];
        const bool copied = repeats(i) || (k > first_sample && operands[i].sample_stride == 0);
        if (!copied) copy_rows(i, k, first, rows, copies[i]);
      }
      if constexpr (prepares) {
        if (shared && k == first_sample) prepare_columns(padded, found[inputs - 1], prepared[0], prepared[1], term);
        const auto pair = std::tuple<const T*, const T*>(prepared[0], prepared[1]);
        shared ? find_values(padded, std::tuple_cat(found, pair), values, term)
               : find_values(padded, found, values, term);
      } else {
        find_values(padded, found, values, term);
      }
      std::fill_n(values + length, value_lanes, T(0));
      for (std::int64_t row = 0; row < rows; ++row) {
        out[k * extent.rows + first + row] = S(sum_values(columns, values + row * columns));
      }
    }
  });
}

// out[k, b] = the sum of the term over the operands' rows.
template <class S, class Term>
void reduce_rows(const Extent& extent, const std::array<RowView<const S>, Term::operands>& operands, S* out,
                 const Term& term) {
  using T = ComputeType<S>;
  if constexpr (adds_values<Term>) {
    if (extent.columns > 0 && extent.columns <= short_row) return reduce_short_rows(extent, operands, out, term);
  }
  sum_rows(extent.samples * extent.rows, extent.columns, out, Term::cost,
           [&](std::int64_t row, std::int64_t first, std::int64_t count) {
             RowBuffers<S, Term::operands, row_block> buffers;
             return sum_term<T>(term, buffers.load(operands, row / extent.rows, row % extent.rows, first, count),
                                count);
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

// The operands' gradients, upstream times the term's derivatives.
template <class S, class Term>
void row_gradients(const Extent& extent, const std::array<RowView<const S>, Term::operands>& operands,
                   const RowView<const S>& upstream, const std::array<GradientView<S>, Term::operands>& gradients,
                   const Term& term) {
  using T = ComputeType<S>;
  constexpr std::size_t inputs = Term::operands;
  constexpr std::int64_t piece = gradient_piece<S>;
  bool sums_samples = false, complete = true;
  for (const auto& gradient : gradients) {
    sums_samples |= gradient.data != nullptr && gradient.sums_samples && extent.samples != 1;
    complete &= gradient.data != nullptr;
  }
  const std::int64_t pieces = std::max<std::int64_t>(1, ceil_divide(extent.columns, piece));
  const auto work =
      static_cast<std::int64_t>(static_cast<double>(extent.samples * extent.rows * extent.columns) * Term::cost);
  const auto target = [&](std::size_t i, std::int64_t k, std::int64_t b, std::int64_t first) {
    const std::int64_t row = gradients[i].sums_samples ? b : k * extent.rows + b;
    return gradients[i].data + row * extent.columns + first;
  };

  if (complete && !sums_samples) {
    parallel_for(extent.samples * extent.rows * pieces, work, [&](std::int64_t item) {
      const std::int64_t row = item / pieces, first = item % pieces * piece;
      const std::int64_t k = row / extent.rows, b = row % extent.rows;
      const std::int64_t count = std::min(piece, extent.columns - first);
      RowBuffers<S, inputs, piece> buffers;
      RowBuffer<S, piece> found[inputs];
      std::array<T*, inputs> out;
      for (std::size_t i = 0; i < inputs; ++i) out[i] = found[i].target(target(i, k, b, first));
      column_gradients<T>(count, buffers.load(operands, k, b, first, count), out, static_cast<T>(*upstream.row(k, b)),
                          term);
      for (std::size_t i = 0; i < inputs; ++i) found[i].store(target(i, k, b, first), count);
    });
    return;
  }

  // The general case computes all gradients of a piece into a small buffer and stores or adds those that are wanted.
  const std::int64_t samples_inside = sums_samples ? extent.samples : 1;
  const std::int64_t samples_outside = sums_samples ? 1 : extent.samples;
  parallel_for(samples_outside * extent.rows * pieces, work, [&](std::int64_t item) {
    const std::int64_t row = item / pieces, first = item % pieces * piece;
    const std::int64_t b = row % extent.rows;
    const std::int64_t count = std::min(piece, extent.columns - first);
    RowBuffers<S, inputs, piece> buffers;
    alignas(64) T buffer[inputs][piece];
    std::array<T*, inputs> found;
    for (std::size_t i = 0; i < inputs; ++i) found[i] = buffer[i];
    SampleSums<T, piece> sums[inputs];
    std::array<bool, inputs> summed;
    for (std::size_t i = 0; i < inputs; ++i) {
      summed[i] = sums_samples && gradients[i].data != nullptr && gradients[i].sums_samples;
      if (summed[i]) sums[i].start(count);
    }
    for (std::int64_t inside = 0; inside < samples_inside; ++inside) {
      const std::int64_t k = sums_samples ? inside : row / extent.rows;
      column_gradients<T>(count, buffers.load(operands, k, b, first, count), found, static_cast<T>(*upstream.row(k, b)),
                          term);
      for (std::size_t i = 0; i < inputs; ++i) {
        if (summed[i]) {
          T* const out = sums[i].sums();
#pragma omp simd
          for (std::int64_t d = 0; d < count; ++d) out[d] += buffer[i][d];
          sums[i].end_sample();
        } else if (gradients[i].data != nullptr) {
          convert(buffer[i], count, target(i, k, b, first));
        }
      }
    }
    for (std::size_t i = 0; i < inputs; ++i) {
      if (summed[i]) convert(sums[i].result(), count, target(i, 0, b, first));
    }
  });
}

}  // namespace fastvi

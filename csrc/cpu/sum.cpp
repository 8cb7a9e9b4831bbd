#include "rows.h"

namespace fastvi {
namespace {

constexpr double sum_cost = 0.2;
constexpr std::int64_t strip_columns = 512;  // columns that a work item adds up at once
constexpr std::int64_t piece_rows = 1024;    // how far along the axis it goes

// Adds weight * row to the sums, a column each.
template <class T>
void add_row(std::int64_t count, const T* row, T weight, T* sums) {
#pragma omp simd
  for (std::int64_t d = 0; d < count; ++d) sums[d] += weight * row[d];
}

}  // namespace

template <class S>
void SumKernels<S>::axis_sum(const AxisExtent& extent, const S* x, const S* weights, S* out) {
  using T = ComputeType<S>;
  const std::int64_t piece_length = extent.inner == 1 ? row_piece : piece_rows;
  const std::int64_t pieces = std::max<std::int64_t>(1, ceil_divide(extent.count, piece_length));
  const std::int64_t strips = ceil_divide(extent.inner, strip_columns), columns = extent.outer * extent.inner;
  const auto work = static_cast<std::int64_t>(static_cast<double>(columns * extent.count) * sum_cost);
  const auto partial = piece_sums(columns, pieces);
  parallel_for(extent.outer * pieces * strips, work, [&](std::int64_t item) {
    const std::int64_t strip = item % strips, piece = item / strips % pieces, outer = item / strips / pieces;
    const std::int64_t first = piece * piece_length, end = std::min(first + piece_length, extent.count);
    const std::int64_t column = strip * strip_columns, width = std::min(strip_columns, extent.inner - column);
    const auto keep = [&](std::int64_t d, double sum) {
      const std::int64_t index = outer * extent.inner + column + d;
      if (pieces == 1) {
        out[index] = rounded_sum<S>(sum);
      } else {
        partial[static_cast<std::size_t>(index * pieces + piece)] = sum;
      }
    };
    if (extent.inner == 1) {  // the axis is contiguous
      keep(0, sum_blocks(first, end, [&](std::int64_t start, std::int64_t count) {
             RowBuffer<S, row_block> value_buffer, weight_buffer;
             const T* const values = value_buffer.load(x + outer * extent.count + start, count);
             if (weights == nullptr) return sum_columns<T>(count, [=](std::int64_t k) { return values[k]; });
             const T* const by = weight_buffer.load(weights + start, count);
             return sum_columns<T>(count, [=](std::int64_t k) { return by[k] * values[k]; });
           }));
      return;
    }
    SampleSums<T, strip_columns> sums(width);
    RowBuffer<S, strip_columns> buffer;
    for (std::int64_t k = first; k < end; ++k) {
      const T* const row = buffer.load(x + (outer * extent.count + k) * extent.inner + column, width);
      add_row(width, row, weights == nullptr ? T(1) : static_cast<T>(weights[k]), sums.sums());
      sums.end_sample();
    }
    const T* const found = sums.result();
    for (std::int64_t d = 0; d < width; ++d) keep(d, static_cast<double>(found[d]));
  });
  if (pieces > 1) add_pieces(columns, pieces, partial.get(), out);
}

template struct SumKernels<float>;
template struct SumKernels<double>;
template struct SumKernels<BFloat16>;
template struct SumKernels<Float16>;

}  // namespace fastvi

// Operations that sum a term over the last dimension, out[k, b] = sum_d term(a[k, b, d], ...), and their gradients.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "../kernels.h"
#include "columns.cuh"
#include "launch.cuh"
#include "reduce.cuh"

namespace fastvi {

template <class S, std::size_t inputs>
FASTVI_DEVICE std::array<const S*, inputs> row_of(const std::array<RowView<const S>, inputs>& operands, std::int64_t k,
                                                  std::int64_t b) {
  std::array<const S*, inputs> row;
#pragma unroll
  for (std::size_t i = 0; i < inputs; ++i) row[i] = operands[i].row(k, b);
  return row;
}

// A place in an array of shape (outer, inner), by 32-bit division where that is enough: it is several times as fast.
struct Place {
  std::int64_t outer, inner;

  FASTVI_DEVICE Place(std::int64_t index, std::int64_t inner_size) {
    if (static_cast<std::uint64_t>(index | inner_size) >> 32 == 0) {
      const auto short_index = static_cast<std::uint32_t>(index), short_size = static_cast<std::uint32_t>(inner_size);
      outer = short_index / short_size;
      inner = short_index % short_size;
    } else {
      outer = index / inner_size;
      inner = index % inner_size;
    }
  }
};

// The sum of a term over the columns of a row.
template <class T, class Term>
struct TermSum {
  Term term;
  LongSum<T> sum;

  template <std::size_t inputs>
  FASTVI_DEVICE void add(const std::array<T, inputs>& values) {
    add_value(values, std::make_index_sequence<inputs>{});
  }

  FASTVI_DEVICE T result() { return sum.result(); }

 private:
  template <std::size_t inputs, std::size_t... i>
  FASTVI_DEVICE void add_value(const std::array<T, inputs>& values, std::index_sequence<i...>) {
    sum.add(term.value(values[i]...));
  }
};

// out[row] = the result of a copy of `empty` to which the row's columns were added.
template <class Group, class S, std::size_t inputs, class Sum>
__global__ void __launch_bounds__(block_threads)
    reduce_rows_kernel(Extent extent, std::array<RowView<const S>, inputs> operands, Sum empty, S* out) {
  using T = ComputeType<S>;
  const std::int64_t rows = extent.samples * extent.rows;
  for (std::int64_t row = Group::first(); row < rows; row += Group::count()) {
    const Place place(row, extent.rows);
    Sum sum = empty;
    for_each_column<S>(row_of(operands, place.outer, place.inner), extent.columns, Group::lane(), Group::threads,
                       [&sum](std::int64_t, const std::array<T, inputs>& values) { sum.add(values); });
    const T total = Group::sum(sum.result());
    if (Group::lane() == 0) out[row] = S(total);
  }
}

template <class S, std::size_t inputs, class Sum>
void reduce_rows(const Extent& extent, const std::array<RowView<const S>, inputs>& operands, const Sum& empty, S* out) {
  const DeviceGuard guard;
  with_group(extent.columns, [&]<class Group>() {
    launch(reduce_rows_kernel<Group, S, inputs, Sum>, extent.samples * extent.rows, Group::per_block, extent, operands,
           empty, out);
  });
}

template <class S, std::size_t inputs, class Term>
void reduce_rows_by_term(const Extent& extent, const std::array<RowView<const S>, inputs>& operands, S* out,
                         const Term& term) {
  reduce_rows<S, inputs>(extent, operands, TermSum<ComputeType<S>, Term>{term, {}}, out);
}

template <class T, std::size_t inputs, class Term, std::size_t... i>
FASTVI_DEVICE std::array<T, inputs> gradient_of(const Term& term, T upstream, const std::array<T, inputs>& values,
                                                std::index_sequence<i...>) {
  return term.gradient(upstream, values[i]...);
}

// Long rows are cut into pieces of this many columns, each for a group of its own.
inline constexpr std::int64_t gradient_piece = 4096;

// out[i] = upstream * the term's derivative by operand i, contiguous (samples, rows, columns), where it is not null.
template <class S, std::size_t inputs, class Term>
__global__ void __launch_bounds__(block_threads)
    row_gradients_kernel(Extent extent, std::array<RowView<const S>, inputs> operands, RowView<const S> upstream,
                         std::array<S*, inputs> out, Term term, std::int64_t pieces) {
  using T = ComputeType<S>;
  const std::int64_t items = extent.samples * extent.rows * pieces;
  for (std::int64_t item = WarpGroup::first(); item < items; item += WarpGroup::count()) {
    const Place piece(item, pieces), place(piece.outer, extent.rows);
    const std::int64_t first = piece.inner * gradient_piece;
    const std::int64_t rest = extent.columns - first;
    const T scale = static_cast<T>(*upstream.row(place.outer, place.inner));
    std::array<const S*, inputs> in = row_of(operands, place.outer, place.inner);
    std::array<S*, inputs> target = out;
#pragma unroll
    for (std::size_t i = 0; i < inputs; ++i) {
      in[i] += first;
      if (target[i] != nullptr) target[i] += piece.outer * extent.columns + first;
    }
    map_columns<S>(in, target, rest < gradient_piece ? rest : gradient_piece, WarpGroup::lane(), WarpGroup::threads,
                   [&](std::int64_t, const std::array<T, inputs>& values) {
                     return gradient_of(term, scale, values, std::make_index_sequence<inputs>{});
                   });
  }
}

// How samples are cut into chunks, whose sums are then added in order: more of them the fewer columns there are to keep
// a device busy, and none so short that adding up takes longer. By the shape alone, so that every device adds up alike.
struct Chunks {
  std::int64_t count, length;

  Chunks(std::int64_t samples, std::int64_t sums) {
    constexpr std::int64_t enough_threads = std::int64_t{1} << 16, least_samples = 16;
    const std::int64_t wanted = ceil_divide(enough_threads, std::max<std::int64_t>(sums, 1));
    const std::int64_t most = std::max<std::int64_t>(ceil_divide(samples, least_samples), 1);
    length = ceil_divide(std::max<std::int64_t>(samples, 1), std::min({wanted, most, most_parts}));
    count = ceil_divide(std::max<std::int64_t>(samples, 1), length);
  }
};

// The same where some operands have no samples of their own: a thread goes through the samples of one column. Their
// sums go to `partial`, of shape (inputs, chunks, rows * columns), where there are several chunks.
template <class S, std::size_t inputs, class Term>
__global__ void __launch_bounds__(block_threads)
    summed_gradients_kernel(Extent extent, std::array<RowView<const S>, inputs> operands, RowView<const S> upstream,
                            std::array<GradientView<S>, inputs> out, Term term, Chunks chunks,
                            ComputeType<S>* partial) {
  using T = ComputeType<S>;
  const std::int64_t plane = extent.rows * extent.columns, items = plane * chunks.count;
  for (std::int64_t item = ThreadGroup::first(); item < items; item += ThreadGroup::count()) {
    const Place chunk(item, plane), place(chunk.inner, extent.columns);
    const std::int64_t first = chunk.outer * chunks.length, end = first + chunks.length;
    LongSums<T, inputs> sums;
    for (std::int64_t k = first; k < (end < extent.samples ? end : extent.samples); ++k) {
      const std::array<const S*, inputs> row = row_of(operands, k, place.outer);
      std::array<T, inputs> values;
#pragma unroll
      for (std::size_t i = 0; i < inputs; ++i) values[i] = static_cast<T>(row[i][place.inner]);
      const std::array<T, inputs> found =
          gradient_of(term, static_cast<T>(*upstream.row(k, place.outer)), values, std::make_index_sequence<inputs>{});
#pragma unroll
      for (std::size_t i = 0; i < inputs; ++i) {
        if (out[i].sums_samples) {
          sums.add(i, found[i]);
        } else if (out[i].data != nullptr) {
          out[i].data[k * plane + chunk.inner] = S(found[i]);
        }
      }
      sums.next();
    }
#pragma unroll
    for (std::size_t i = 0; i < inputs; ++i) {
      if (!out[i].sums_samples || out[i].data == nullptr) continue;
      const T sum = sums.result(i);
      if (chunks.count == 1) {
        out[i].data[chunk.inner] = S(sum);
      } else {
        partial[(static_cast<std::int64_t>(i) * chunks.count + chunk.outer) * plane + chunk.inner] = sum;
      }
    }
  }
}

// out[i] = the sum of partial[i] over chunks, where it is not null.
template <class Group, class S, std::size_t inputs>
__global__ void __launch_bounds__(block_threads)
    add_chunks_kernel(std::int64_t plane, std::int64_t chunks, const ComputeType<S>* partial,
                      std::array<S*, inputs> out) {
  using T = ComputeType<S>;
  const std::int64_t items = static_cast<std::int64_t>(inputs) * plane;
  for (std::int64_t item = Group::first(); item < items; item += Group::count()) {
    const Place place(item, plane);
    S* target = nullptr;
#pragma unroll
    for (std::size_t i = 0; i < inputs; ++i) {
      if (static_cast<std::int64_t>(i) == place.outer) target = out[i];
    }
    if (target == nullptr) continue;
    const T* const own = partial + place.outer * chunks * plane + place.inner;
    const T total = sum_of_parts<Group, T>(chunks, [&](std::int64_t chunk) { return own[chunk * plane]; });
    if (Group::lane() == 0) target[place.inner] = S(total);
  }
}

template <class S, std::size_t inputs, class Term>
void row_gradients(const Extent& extent, const std::array<RowView<const S>, inputs>& operands,
                   const RowView<const S>& upstream, const std::array<GradientView<S>, inputs>& gradients,
                   const Term& term) {
  using T = ComputeType<S>;
  const DeviceGuard guard;
  bool sums_samples = false;
  std::array<S*, inputs> each;
  for (std::size_t i = 0; i < inputs; ++i) {
    sums_samples |= gradients[i].data != nullptr && gradients[i].sums_samples && extent.samples != 1;
    each[i] = gradients[i].data;
  }
  if (!sums_samples) {
    const std::int64_t pieces = std::max<std::int64_t>(1, ceil_divide(extent.columns, gradient_piece));
    launch(row_gradients_kernel<S, inputs, Term>, extent.samples * extent.rows * pieces, WarpGroup::per_block, extent,
           operands, upstream, each, term, pieces);
    return;
  }
  const std::int64_t plane = extent.rows * extent.columns;
  const Chunks chunks(extent.samples, plane);
  T* const partial = chunks.count == 1 ? nullptr : scratch<T>(static_cast<std::int64_t>(inputs) * chunks.count * plane);
  launch(summed_gradients_kernel<S, inputs, Term>, plane * chunks.count, ThreadGroup::per_block, extent, operands,
         upstream, gradients, term, chunks, partial);
  if (chunks.count == 1) return;
  std::array<S*, inputs> summed;
  for (std::size_t i = 0; i < inputs; ++i) summed[i] = gradients[i].sums_samples ? gradients[i].data : nullptr;
  with_joining_group(chunks.count, [&]<class Group>() {
    launch(add_chunks_kernel<Group, S, inputs>, static_cast<std::int64_t>(inputs) * plane, Group::per_block, plane,
           chunks.count, partial, summed);
  });
}

}  // namespace fastvi

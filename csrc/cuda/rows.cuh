// Operations that sum a term over the last dimension, out[k, b] = sum_d term(a[k, b, d], ...), and their gradients.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "../kernels.h"
#include "columns.cuh"
#include "launch.cuh"
#include "reduce.cuh"

namespace fastvi {

// Each operand's row, from one of its columns on. (Added to the address in one step, it costs the gradients of four
// operands in 16 bits some 16 registers.)
template <class S, std::size_t inputs>
FASTVI_DEVICE std::array<const S*, inputs> row_of(const std::array<RowView<const S>, inputs>& operands, std::int64_t k,
                                                  std::int64_t b, std::int64_t column = 0) {
  std::array<const S*, inputs> row;
#pragma unroll
  for (std::size_t i = 0; i < inputs; ++i) row[i] = operands[i].row(k, b);
#pragma unroll
  for (std::size_t i = 0; i < inputs; ++i) row[i] += column;
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

// How the rows that are summed by blocks are cut where there are too few of them to keep a device busy. By the shape
// alone, so that every device adds up alike; and so that all pieces are aligned as their row is.
struct Pieces {
  std::int64_t count, length;

  Pieces(std::int64_t rows, std::int64_t columns) {
    constexpr std::int64_t enough_blocks = 1024, least_piece = 4096, unit = 16;
    static_assert(enough_blocks <= most_parts);
    const std::int64_t wanted = ceil_divide(enough_blocks, std::max<std::int64_t>(rows, 1));
    const std::int64_t most = std::max<std::int64_t>(columns / least_piece, 1);
    length = ceil_divide(ceil_divide(columns, std::min(wanted, most)), unit) * unit;
    count = std::max<std::int64_t>(ceil_divide(columns, std::max<std::int64_t>(length, 1)), 1);
  }
};

// The columns that an item of work has of a row, of which a warp always has the whole.
struct RowPiece {
  std::int64_t row, first, count;

  template <class Group>
  static FASTVI_DEVICE RowPiece of(std::int64_t item, std::int64_t rows, std::int64_t columns, const Pieces& pieces) {
    if constexpr (Group::threads <= warp_threads) {
      return {item, 0, columns};
    } else {
      const Place place(item, rows);
      const std::int64_t first = place.outer * pieces.length, rest = columns - first;
      return {place.inner, first, rest < pieces.length ? rest : pieces.length};
    }
  }
};

// Where the sums of `outputs` kinds over rows go, those of pieces by way of `partial`, of shape (outputs, pieces,
// rows). Nothing goes to where an output is null.
template <class S, std::size_t outputs>
struct RowSums {
  std::array<S*, outputs> out;
  ComputeType<S>* partial;
  std::int64_t items;

  FASTVI_DEVICE void store(std::int64_t item, const std::array<ComputeType<S>, outputs>& sums) const {
#pragma unroll
    for (std::size_t i = 0; i < outputs; ++i) {
      if (partial != nullptr) {
        partial[static_cast<std::int64_t>(i) * items + item] = sums[i];
      } else if (out[i] != nullptr) {
        out[i][item] = S(sums[i]);
      }
    }
  }
};

// out[i] = the sum of partial[i], of shape (parts, plane), over parts, where it is not null.
template <class Group, class S, std::size_t outputs>
__global__ void __launch_bounds__(block_threads)
    add_parts_kernel(std::int64_t plane, std::int64_t parts, const ComputeType<S>* partial,
                     std::array<S*, outputs> out) {
  using T = ComputeType<S>;
  const std::int64_t items = static_cast<std::int64_t>(outputs) * plane;
  for (std::int64_t item = Group::first(); item < items; item += Group::count()) {
    const Place place(item, plane);
    S* target = nullptr;
#pragma unroll
    for (std::size_t i = 0; i < outputs; ++i) {
      if (static_cast<std::int64_t>(i) == place.outer) target = out[i];
    }
    if (target == nullptr) continue;
    const T* const own = partial + place.outer * parts * plane + place.inner;
    const T total = sum_of_parts<Group, T>(parts, [&](std::int64_t part) { return own[part * plane]; });
    if (Group::lane() == 0) target[place.inner] = S(total);
  }
}

template <class S, std::size_t outputs>
void add_parts(std::int64_t plane, std::int64_t parts, const ComputeType<S>* partial,
               const std::array<S*, outputs>& out) {
  with_joining_group(parts, [&]<class Group>() {
    launch(add_parts_kernel<Group, S, outputs>, static_cast<std::int64_t>(outputs) * plane, Group::per_block, plane,
           parts, partial, out);
  });
}

// Sums over rows into `out`. Calls run.operator()<Group>(items, pieces, sums), which launches a kernel on as many
// items: it takes RowPiece::of<Group>(item, ...) of each, and gives what that comes to to sums.store(item, ...).
template <class S, std::size_t outputs, class Run>
void sum_rows(std::int64_t rows, std::int64_t columns, const std::array<S*, outputs>& out, const Run& run) {
  using T = ComputeType<S>;
  const DeviceGuard guard;
  with_group(rows, columns, [&]<class Group>() {
    const Pieces pieces(rows, columns);
    const std::int64_t items = rows * pieces.count;
    T* const partial = pieces.count == 1 ? nullptr : scratch<T>(static_cast<std::int64_t>(outputs) * items);
    run.template operator()<Group>(items, pieces, RowSums<S, outputs>{out, partial, items});
    if (pieces.count > 1) add_parts(rows, pieces.count, partial, out);
  });
}

// An empty sum of the term over columns; a term that has a faster way than adding its values has an overload of its
// own.
template <class T, class Term>
TermSum<T, Term> empty_sum(const Term& term) {
  return {term, {}};
}

// The result of a copy of `empty` to which a row's columns were added.
template <class Group, class S, std::size_t inputs, class Sum>
__global__ void __launch_bounds__(block_threads)
    reduce_rows_kernel(Extent extent, std::array<RowView<const S>, inputs> operands, Sum empty, std::int64_t items,
                       Pieces pieces, RowSums<S, 1> sums) {
  using T = ComputeType<S>;
  for (std::int64_t item = Group::first(); item < items; item += Group::count()) {
    const auto piece = RowPiece::of<Group>(item, extent.samples * extent.rows, extent.columns, pieces);
    const Place place(piece.row, extent.rows);
    Sum sum = empty;
    for_each_column<S>(row_of(operands, place.outer, place.inner, piece.first), piece.count, Group::lane(),
                       Group::threads, [&sum](std::int64_t, const std::array<T, inputs>& values) { sum.add(values); });
    const T total = Group::sum(sum.result());
    if (Group::lane() == 0) sums.store(item, {{total}});
  }
}

// out[k, b] = the sum of the term over the operands' rows.
template <class S, class Term>
void reduce_rows(const Extent& extent, const std::array<RowView<const S>, Term::operands>& operands, S* out,
                 const Term& term) {
  const auto empty = empty_sum<ComputeType<S>>(term);
  using Sum = std::remove_const_t<decltype(empty)>;
  sum_rows<S, 1>(extent.samples * extent.rows, extent.columns, {{out}},
                 [&]<class Group>(std::int64_t items, const Pieces& pieces, const RowSums<S, 1>& sums) {
                   launch(reduce_rows_kernel<Group, S, Term::operands, Sum>, items, Group::per_block, extent, operands,
                          empty, items, pieces, sums);
                 });
}

template <class T, std::size_t inputs, class Term, std::size_t... i>
FASTVI_DEVICE std::array<T, inputs> gradient_of(const Term& term, T upstream, const std::array<T, inputs>& values,
                                                std::index_sequence<i...>) {
  return term.gradient(upstream, values[i]...);
}

// Long rows are cut into pieces of this many columns, each for a warp.
inline constexpr std::int64_t gradient_piece = 1024;

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
    const std::array<const S*, inputs> in = row_of(operands, place.outer, place.inner, first);
    std::array<S*, inputs> target = out;
#pragma unroll
    for (std::size_t i = 0; i < inputs; ++i) {
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

// The operands' gradients, upstream times the term's derivatives.
template <class S, class Term>
void row_gradients(const Extent& extent, const std::array<RowView<const S>, Term::operands>& operands,
                   const RowView<const S>& upstream, const std::array<GradientView<S>, Term::operands>& gradients,
                   const Term& term) {
  using T = ComputeType<S>;
  constexpr std::size_t inputs = Term::operands;
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
  add_parts(plane, chunks.count, partial, summed);
}

}  // namespace fastvi

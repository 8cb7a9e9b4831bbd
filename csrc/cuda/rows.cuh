// Operations that sum a term over the last dimension, out[k, b] = sum_d term(a[k, b, d], ...), and their gradients.
#pragma once

#include <array>
#include <cstdint>
#include <tuple>
#include <type_traits>

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
  const auto rows = array_of<inputs>([&](std::size_t i) { return operands[i].row(k, b); });
  return array_of<inputs>([&](std::size_t i) { return rows[i] + column; });
}

// Each pointer `distance` elements further on; null stays null.
template <class S, std::size_t count>
FASTVI_DEVICE std::array<S*, count> further(const std::array<S*, count>& pointers, std::int64_t distance) {
  return array_of<count>([&](std::size_t i) { return pointers[i] == nullptr ? nullptr : pointers[i] + distance; });
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
    sum.add(std::apply([this](auto... each) { return term.value(each...); }, values));
  }

  FASTVI_DEVICE T result() { return sum.result(); }
};

// How the rows that are summed by blocks are cut where there are too few of them to keep a device busy. By the shape
// alone, so that every device adds up alike; and so that all parts are aligned as their row is.
struct Parts {
  std::int64_t count, length;

  Parts(std::int64_t rows, std::int64_t columns) {
    constexpr std::int64_t enough_blocks = 1024, least_part = 4096, unit = 16;
    static_assert(enough_blocks <= most_parts);
    const std::int64_t wanted = ceil_divide(enough_blocks, std::max<std::int64_t>(rows, 1));
    const std::int64_t most = std::max<std::int64_t>(columns / least_part, 1);
    length = ceil_divide(ceil_divide(columns, std::min(wanted, most)), unit) * unit;
    count = std::max<std::int64_t>(ceil_divide(columns, std::max<std::int64_t>(length, 1)), 1);
  }
};

// The columns that an item of work has of a row.
struct RowPart {
  std::int64_t row, first, count;
};

// Sums of `outputs` kinds over rows, and where they go: those of parts by way of `partial`, of shape (outputs, parts,
// rows). Nothing goes to where an output is null.
template <class S, std::size_t outputs>
struct RowSums {
  using T = ComputeType<S>;

  std::int64_t rows, columns;
  Parts parts;
  std::array<S*, outputs> out;
  T* partial;
  std::int64_t items;

  // Calls add(part), which returns what its part of a row comes to in this thread, for all that fall to the group.
  template <class Group, class Add>
  FASTVI_DEVICE void of_group(const Add& add) const {
    for (std::int64_t item = Group::first(); item < items; item += Group::count()) {
      const std::array<T, outputs> own = add(part<Group>(item));
      const auto sums = array_of<outputs>([&](std::size_t i) { return Group::sum(own[i]); });
      if (Group::lane() == 0) store(item, sums);
    }
  }

 private:
  // A warp always has the whole row.
  template <class Group>
  FASTVI_DEVICE RowPart part(std::int64_t item) const {
    if constexpr (Group::threads <= warp_threads) {
      return {item, 0, columns};
    } else {
      const Place place(item, rows);
      const std::int64_t first = place.outer * parts.length, rest = columns - first;
      return {place.inner, first, rest < parts.length ? rest : parts.length};
    }
  }

  FASTVI_DEVICE void store(std::int64_t item, const std::array<T, outputs>& sums) const {
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

// Sums over rows into `out`. Calls run.operator()<Group>(sums), which launches a kernel on sums.items: it calls
// sums.of_group<Group>(add).
template <class S, std::size_t outputs, class Run>
void sum_rows(std::int64_t rows, std::int64_t columns, const std::array<S*, outputs>& out, const Run& run) {
  const DeviceGuard guard;
  const Parts parts(rows, columns);
  const std::int64_t items = rows * parts.count;
  auto* const partial =
      parts.count == 1 ? nullptr : scratch<ComputeType<S>>(static_cast<std::int64_t>(outputs) * items);
  const RowSums<S, outputs> sums{rows, columns, parts, out, partial, items};
  with_group(rows, columns, [&]<class Group>() { run.template operator()<Group>(sums); });
  if (parts.count > 1) add_parts(rows, parts.count, partial, out);
}

// An empty sum of the term over columns; a term that has a faster way than adding its values has an overload of its
// own.
template <class T, class Term>
TermSum<T, Term> empty_sum(const Term& term) {
  return {term, {}};
}

// The result of a copy of `empty` to which a row's columns were added. (Without a bound, float64 would spill; nought
// is none.)
template <class Group, class S, std::size_t inputs, class Sum>
__global__ void __launch_bounds__(block_threads, sizeof(S) == 8 ? 2 : 0)
    reduce_rows_kernel(std::int64_t rows, std::array<RowView<const S>, inputs> operands, Sum empty,
                       RowSums<S, 1> sums) {
  using T = ComputeType<S>;
  sums.template of_group<Group>([&](const RowPart& part) {
    const Place place(part.row, rows);
    Sum sum = empty;
    for_each_column<S>(row_of(operands, place.outer, place.inner, part.first), part.count, Group::lane(),
                       Group::threads, [&sum](std::int64_t, const std::array<T, inputs>& values) { sum.add(values); });
    return std::array<T, 1>{{sum.result()}};
  });
}

// out[k, b] = the sum of the term over the operands' rows.
template <class S, class Term>
void reduce_rows(const Extent& extent, const std::array<RowView<const S>, Term::operands>& operands, S* out,
                 const Term& term) {
  const auto empty = empty_sum<ComputeType<S>>(term);
  using Sum = std::remove_const_t<decltype(empty)>;
  sum_rows<S, 1>(extent.samples * extent.rows, extent.columns, {{out}}, [&]<class Group>(const RowSums<S, 1>& sums) {
    launch(reduce_rows_kernel<Group, S, Term::operands, Sum>, sums.items, Group::per_block, extent.rows, operands,
           empty, sums);
  });
}

template <class T, std::size_t inputs, class Term>
FASTVI_DEVICE std::array<T, inputs> gradient_of(const Term& term, T upstream, const std::array<T, inputs>& values) {
  return std::apply([&](auto... each) { return term.gradient(upstream, each...); }, values);
}

// The piece of a row that a warp has of contiguous arrays of shape (rows, columns), where nothing is summed: `start` is
// its place there.
struct RowPiece {
  static constexpr std::int64_t length = 1024;

  std::int64_t row, first, start, count;

  FASTVI_DEVICE RowPiece(std::int64_t item, std::int64_t of_row, std::int64_t columns) {
    const Place place(item, of_row);
    row = place.outer;
    first = place.inner * length;
    start = row * columns + first;
    const std::int64_t rest = columns - first;
    count = rest < length ? rest : length;
  }

  static std::int64_t of_row(std::int64_t columns) { return ceil_divide(columns, length); }
};

// out[i] = upstream * the term's derivative by operand i, contiguous (samples, rows, columns), where it is not null.
// (A long term in 16 bits, which has eight elements at once, would spill registers without a bound.)
template <class S, std::size_t inputs, class Term>
__global__ void __launch_bounds__(block_threads, sizeof(S) == 2 && Term::cost > 5 ? 2 : 0)
    row_gradients_kernel(Extent extent, std::array<RowView<const S>, inputs> operands, RowView<const S> upstream,
                         std::array<S*, inputs> out, Term term, std::int64_t pieces) {
  using T = ComputeType<S>;
  const std::int64_t items = extent.samples * extent.rows * pieces;
  for (std::int64_t item = WarpGroup::first(); item < items; item += WarpGroup::count()) {
    const RowPiece piece(item, pieces, extent.columns);
    const Place place(piece.row, extent.rows);
    const T scale = static_cast<T>(*upstream.row(place.outer, place.inner));
    map_columns<S>(row_of(operands, place.outer, place.inner, piece.first), further(out, piece.start), piece.count,
                   WarpGroup::lane(), WarpGroup::threads,
                   [&](std::int64_t, const std::array<T, inputs>& values) { return gradient_of(term, scale, values); });
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
      const auto values = array_of<inputs>([&](std::size_t i) { return static_cast<T>(row[i][place.inner]); });
      const auto found = gradient_of(term, static_cast<T>(*upstream.row(k, place.outer)), values);
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
    const std::int64_t pieces = RowPiece::of_row(extent.columns);
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

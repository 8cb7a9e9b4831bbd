// Reductions over one axis of a contiguous (outer, count, inner) array: which threads share a column, and how what they
// found is joined.
#pragma once

#include <cstdint>

#include "../kernels.h"
#include "launch.cuh"
#include "reduce.cuh"
#include "rows.cuh"

namespace fastvi {

// How the threads of a block share columns: `slices` of them, a power of two, go through each of `columns` columns, of
// which a piece of `length` elements. Where the axis is contiguous neighbouring threads take neighbouring slices; where
// it is not, neighbouring columns, of float32 at least as many as the memory has in a sector of 32 bytes.
struct Sharing {
  int slices, columns;
  bool neighbouring_slices;
  std::int64_t length, pieces;

  explicit Sharing(const AxisExtent& extent) {
    constexpr int few_terms = 4, enough_terms = 16, sector_columns = 8, enough_blocks = 256;
    static_assert(enough_blocks <= most_parts);
    slices = 1;
    neighbouring_slices = extent.inner == 1;
    const int most_slices = neighbouring_slices ? block_threads : block_threads / sector_columns;
    while (slices < most_slices && slices * few_terms < extent.count) slices *= 2;
    columns = block_threads / slices;
    const std::int64_t blocks = ceil_divide(extent.outer * extent.inner, columns);
    const std::int64_t wanted = ceil_divide(enough_blocks, std::max<std::int64_t>(blocks, 1));
    const std::int64_t most = ceil_divide(extent.count, std::int64_t{slices} * enough_terms);
    length = ceil_divide(extent.count, std::min(wanted, most));
    pieces = ceil_divide(extent.count, length);
  }

  std::int64_t blocks(const AxisExtent& extent) const {
    return ceil_divide(extent.outer * extent.inner, columns) * pieces;
  }
};

// The elements of one piece of a column that fall to this thread.
class Slice {
 public:
  FASTVI_DEVICE Slice(const AxisExtent& extent, const Sharing& sharing, std::int64_t item) {
    const int thread = static_cast<int>(threadIdx.x);
    slice = sharing.neighbouring_slices ? thread % sharing.slices : thread / sharing.columns;
    const int own = sharing.neighbouring_slices ? thread / sharing.slices : thread % sharing.columns;
    const Place place(item, sharing.pieces);
    piece = place.inner;
    column = place.outer * sharing.columns + own;
    local_column = own;
    inside = column < extent.outer * extent.inner;
    const Place at(inside ? column : 0, extent.inner);
    start = at.outer * extent.count * extent.inner + at.inner;
    first = piece * sharing.length;
    end = first + sharing.length < extent.count ? first + sharing.length : extent.count;
    first += slice;
    if (!inside) end = first;
  }

  // Calls visit(index of the element, its place along the axis).
  template <class Visit>
  FASTVI_DEVICE void for_each_place(const AxisExtent& extent, const Sharing& sharing, const Visit& visit) const {
    for (std::int64_t k = first; k < end; k += sharing.slices) visit(start + k * extent.inner, k);
  }

  // Calls visit(index of the element).
  template <class Visit>
  FASTVI_DEVICE void for_each(const AxisExtent& extent, const Sharing& sharing, const Visit& visit) const {
    for_each_place(extent, sharing, [&](std::int64_t i, std::int64_t) { visit(i); });
  }

  std::int64_t column, piece;
  int slice, local_column;
  bool inside;

 private:
  std::int64_t start, first, end;
};

// Joins the slices' values of each column, by halves, for all of its threads.
template <class T, class Join>
FASTVI_DEVICE T join_slices(const Sharing& sharing, const Slice& slice, T value, const Join& join) {
  FASTVI_SHARED(T, values, block_threads);
  T* const own = values + slice.local_column * sharing.slices + slice.slice;
  *own = value;
  __syncthreads();
  for (int half = sharing.slices / 2; half > 0; half /= 2) {
    if (slice.slice < half) *own = join(own[0], own[half]);
    __syncthreads();
  }
  const T joined = values[slice.local_column * sharing.slices];
  __syncthreads();  // the next values come into the same memory
  return joined;
}

}  // namespace fastvi

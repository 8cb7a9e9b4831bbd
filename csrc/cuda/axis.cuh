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
// which a part of `length` elements. Where the axis is contiguous neighbouring threads take neighbouring slices; where
// it is not, neighbouring columns, of float32 at least as many as the memory has in a sector of 32 bytes.
struct Sharing {
  AxisExtent extent;
  int slices = 1, columns;
  bool neighbouring_slices;
  std::int64_t all_columns, length, parts, blocks;

  explicit Sharing(const AxisExtent& of) : extent(of), neighbouring_slices(of.inner == 1) {
    constexpr int few_terms = 4, enough_terms = 16, sector_columns = 8, enough_blocks = 256;
    static_assert(enough_blocks <= most_parts);
    const int most_slices = neighbouring_slices ? block_threads : block_threads / sector_columns;
    while (slices < most_slices && slices * few_terms < extent.count) slices *= 2;
    columns = block_threads / slices;
    all_columns = extent.outer * extent.inner;
    const std::int64_t whole_blocks = ceil_divide(all_columns, columns);
    const std::int64_t wanted = ceil_divide(enough_blocks, std::max<std::int64_t>(whole_blocks, 1));
    const std::int64_t most = ceil_divide(extent.count, std::int64_t{slices} * enough_terms);
    length = ceil_divide(extent.count, std::min(wanted, most));
    parts = ceil_divide(extent.count, length);
    blocks = whole_blocks * parts;
  }
};

// The elements of one part of a column that fall to this thread.
class Slice {
 public:
  FASTVI_DEVICE Slice(const Sharing& sharing, std::int64_t item) : sharing_(sharing) {
    const int thread = static_cast<int>(threadIdx.x);
    slice = sharing.neighbouring_slices ? thread % sharing.slices : thread / sharing.columns;
    local_column = sharing.neighbouring_slices ? thread / sharing.slices : thread % sharing.columns;
    const Place place(item, sharing.parts);
    part = place.inner;
    column = place.outer * sharing.columns + local_column;
    inside = column < sharing.all_columns;
  }

  // Calls visit(index of the element, its place along the axis).
  template <class Visit>
  FASTVI_DEVICE void for_each(const Visit& visit) const {
    if (!inside) return;
    const AxisExtent& extent = sharing_.extent;
    const Place at(column, extent.inner);
    const std::int64_t start = at.outer * extent.count * extent.inner + at.inner;
    const std::int64_t first = part * sharing_.length, end = first + sharing_.length;
    for (std::int64_t k = first + slice; k < (end < extent.count ? end : extent.count); k += sharing_.slices) {
      visit(start + k * extent.inner, k);
    }
  }

  // Joins the slices' values of each column, by halves, for all of its threads.
  template <class T, class Join>
  FASTVI_DEVICE T join(T value, const Join& join) const {
    FASTVI_SHARED(T, values, block_threads);
    T* const column_values = values + local_column * sharing_.slices;
    T* const own = column_values + slice;
    *own = value;
    __syncthreads();
    for (int half = sharing_.slices / 2; half > 0; half /= 2) {
      if (slice < half) *own = join(own[0], own[half]);
      __syncthreads();
    }
    const T joined = *column_values;
    __syncthreads();  // the next values come into the same memory
    return joined;
  }

  // Whether this thread writes what its column, or its part, comes to.
  FASTVI_DEVICE bool writes() const { return inside && slice == 0; }

  std::int64_t column, part;
  int slice, local_column;
  bool inside;

 private:
  const Sharing& sharing_;
};

}  // namespace fastvi

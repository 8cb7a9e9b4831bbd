// Rows as they are stored and as the arithmetic sees them. For float32 and float64 these are the same; bfloat16 and
// float16 are widened into a buffer first and narrowed from one at the end, so that between the two every loop is that
// of float32.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../formulas/half.h"

namespace fastvi {

template <class S>
inline constexpr bool is_narrow = !std::is_same_v<S, ComputeType<S>>;

template <class T>
inline constexpr int simd_lanes = static_cast<int>(32 / sizeof(T));

// Calls store(d) for d in [0, count), each at least once: the last vector may overlap the one before.
template <class T, class Store>
[[gnu::flatten]] void for_columns(std::int64_t count, const Store& store) {
  constexpr int lanes = simd_lanes<T>;
  if (count < lanes) {
    for (std::int64_t d = 0; d < count; ++d) store(d);
    return;
  }
  std::int64_t d = 0;
  for (; d + lanes <= count; d += lanes) {
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) store(d + lane);
  }
  if (d < count) {
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) store(count - lanes + lane);
  }
}

// Copies numbers from one type to another; the arrays do not overlap.
template <class From, class To>
void convert(const From* from, std::int64_t count, To* to) {
  if constexpr (std::is_same_v<From, To>) {
    std::copy_n(from, count, to);
  } else {
    using Narrower = std::conditional_t<(sizeof(From) < sizeof(To)), From, To>;
    for_columns<Narrower>(count, [=](std::int64_t d) { to[d] = static_cast<To>(from[d]); });
  }
}

// One row of at most `length` columns in the type of the arithmetic.
template <class S, std::int64_t length>
class RowBuffer {
 public:
  using T = ComputeType<S>;

  // The row to read: itself, or its widened copy.
  const T* load(const S* row, std::int64_t count) {
    if constexpr (is_narrow<S>) {
      convert(row, count, values_);
      return values_;
    } else {
      return row;
    }
  }

  // Where to write what `store` then puts into the row.
  T* target(S* row) {
    if constexpr (is_narrow<S>) {
      return values_;
    } else {
      return row;
    }
  }

  void store(S* row, std::int64_t count) const {
    if constexpr (is_narrow<S>) convert(values_, count, row);
  }

 private:
  alignas(64) T values_[is_narrow<S> ? length : 1];
};

}  // namespace fastvi

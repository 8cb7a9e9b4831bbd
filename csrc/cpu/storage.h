// Rows as they are stored and as the arithmetic sees them. For float32 and float64 these are the same; bfloat16 and
// float16 are widened into a buffer first and narrowed from one at the end, so that between the two every loop is that
// of float32.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../formulas/half.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace fastvi {

template <class S>
inline constexpr bool is_narrow = !std::is_same_v<S, ComputeType<S>>;

template <class T>
inline constexpr int simd_lanes = static_cast<int>(32 / sizeof(T));

// Calls store(d) for d in [0, count), each at least once: the last vector may overlap the one before. (A copy of
// `store` is in no memory that it might write to, so that the numbers in it stay in registers.)
template <class T, class Store>
[[gnu::flatten]] void for_columns(std::int64_t count, const Store& given) {
  constexpr int lanes = simd_lanes<T>;
  const Store store = given;
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
    using Narrow = std::conditional_t<(sizeof(From) < sizeof(To)), From, To>;
    for_columns<Narrow>(count, [=](std::int64_t d) { to[d] = static_cast<To>(from[d]); });
  }
}

#if defined(__F16C__)
// float16 by the instructions for it, several times as fast as work on the bits; gcc 12 finds them for single numbers
// only.
template <class From, class To, class Eight>
void convert_by_eight(const From* from, std::int64_t count, To* to, const Eight& eight) {
  if (count < 8) {
    for (std::int64_t d = 0; d < count; ++d) to[d] = static_cast<To>(from[d]);
    return;
  }
  for (std::int64_t d = 0; d + 8 <= count; d += 8) eight(from + d, to + d);
  eight(from + count - 8, to + count - 8);
}

inline void convert(const Float16* from, std::int64_t count, float* to) {
  convert_by_eight(from, count, to, [](const Float16* narrow, float* wide) {
    _mm256_storeu_ps(wide, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(narrow))));
  });
}

inline void convert(const float* from, std::int64_t count, Float16* to) {
  convert_by_eight(from, count, to, [](const float* wide, Float16* narrow) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(narrow),
                     _mm256_cvtps_ph(_mm256_loadu_ps(wide), _MM_FROUND_TO_NEAREST_INT));
  });
}
#endif

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

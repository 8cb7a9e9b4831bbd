// Columns of rows, in vectors of 16 bytes where every pointer is aligned, one by one where not and at the end.
#pragma once

#include <array>
#include <cstdint>

#include "../formulas/half.h"
#include "cuda.h"

namespace fastvi {

template <class S, int count>
struct alignas(sizeof(S) * count < 16 ? sizeof(S) * count : 16) Vector {
  S value[count];
};

template <class S>
inline constexpr int vector_width = 16 / static_cast<int>(sizeof(S));

// Whether a vector of `count` numbers may be read or written there.
template <int count, class S>
FASTVI_DEVICE bool aligned(const S* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % alignof(Vector<S, count>) == 0;
}

template <int count, class S>
FASTVI_DEVICE Vector<S, count> load_vector(const S* pointer) {
#ifndef __CUDACC__
  cuda_on_host::check_access(pointer, alignof(Vector<S, count>));
#endif
  return *reinterpret_cast<const Vector<S, count>*>(pointer);
}

template <int count, class S>
FASTVI_DEVICE void store_vector(S* pointer, const Vector<S, count>& vector) {
#ifndef __CUDACC__
  cuda_on_host::check_access(pointer, alignof(Vector<S, count>));
#endif
  *reinterpret_cast<Vector<S, count>*>(pointer) = vector;
}

// Calls visit(d, the columns d of all rows) for the columns that fall to thread `lane` of `lanes`.
template <class S, std::size_t inputs, class Visit>
FASTVI_DEVICE void for_each_column(const std::array<const S*, inputs>& in, std::int64_t count, int lane, int lanes,
                                   const Visit& visit) {
  using T = ComputeType<S>;
  constexpr int width = vector_width<S>;
  bool all_aligned = true;
#pragma unroll
  for (std::size_t i = 0; i < inputs; ++i) all_aligned &= aligned<width>(in[i]);
  const std::int64_t vectors = all_aligned ? count / width : 0;
  for (std::int64_t v = lane; v < vectors; v += lanes) {
    Vector<S, width> loaded[inputs];
#pragma unroll
    for (std::size_t i = 0; i < inputs; ++i) loaded[i] = load_vector<width>(in[i] + v * width);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      std::array<T, inputs> values;
#pragma unroll
      for (std::size_t i = 0; i < inputs; ++i) values[i] = static_cast<T>(loaded[i].value[j]);
      visit(v * width + j, values);
    }
  }
  for (std::int64_t d = vectors * width + lane; d < count; d += lanes) {
    std::array<T, inputs> values;
#pragma unroll
    for (std::size_t i = 0; i < inputs; ++i) values[i] = static_cast<T>(in[i][d]);
    visit(d, values);
  }
}

// Writes map(d, the columns d of all rows), an array, to the columns d of `out`; nothing to those that are null. An
// output may be one of the rows that are read.
template <class S, std::size_t inputs, std::size_t outputs, class Map>
FASTVI_DEVICE void map_columns(const std::array<const S*, inputs>& in, const std::array<S*, outputs>& out,
                               std::int64_t count, int lane, int lanes, const Map& map) {
  using T = ComputeType<S>;
  constexpr int width = vector_width<S>;
  bool all_aligned = true;
#pragma unroll
  for (std::size_t i = 0; i < inputs; ++i) all_aligned &= aligned<width>(in[i]);
#pragma unroll
  for (std::size_t i = 0; i < outputs; ++i) all_aligned &= aligned<width>(out[i]);
  const std::int64_t vectors = all_aligned ? count / width : 0;
  for (std::int64_t v = lane; v < vectors; v += lanes) {
    Vector<S, width> loaded[inputs], stored[outputs];
#pragma unroll
    for (std::size_t i = 0; i < inputs; ++i) loaded[i] = load_vector<width>(in[i] + v * width);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      std::array<T, inputs> values;
#pragma unroll
      for (std::size_t i = 0; i < inputs; ++i) values[i] = static_cast<T>(loaded[i].value[j]);
      const std::array<T, outputs> mapped = map(v * width + j, values);
#pragma unroll
      for (std::size_t i = 0; i < outputs; ++i) stored[i].value[j] = S(mapped[i]);
    }
#pragma unroll
    for (std::size_t i = 0; i < outputs; ++i) {
      if (out[i] != nullptr) store_vector<width>(out[i] + v * width, stored[i]);
    }
  }
  for (std::int64_t d = vectors * width + lane; d < count; d += lanes) {
    std::array<T, inputs> values;
#pragma unroll
    for (std::size_t i = 0; i < inputs; ++i) values[i] = static_cast<T>(in[i][d]);
    const std::array<T, outputs> mapped = map(d, values);
#pragma unroll
    for (std::size_t i = 0; i < outputs; ++i) {
      if (out[i] != nullptr) out[i][d] = S(mapped[i]);
    }
  }
}

// Up to four neighbouring columns, as a draw's block has them; zeros beyond `count`.
template <class S>
FASTVI_DEVICE void load_four(const S* from, std::int64_t count, ComputeType<S>* values) {
  using T = ComputeType<S>;
  if (count >= 4 && aligned<4>(from)) {
    const Vector<S, 4> loaded = load_vector<4>(from);
#pragma unroll
    for (int j = 0; j < 4; ++j) values[j] = static_cast<T>(loaded.value[j]);
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) values[j] = j < count ? static_cast<T>(from[j]) : T(0);
}

template <class S>
FASTVI_DEVICE void store_four(const ComputeType<S>* values, std::int64_t count, S* to) {
  if (count >= 4 && aligned<4>(to)) {
    Vector<S, 4> stored;
#pragma unroll
    for (int j = 0; j < 4; ++j) stored.value[j] = S(values[j]);
    store_vector<4>(to, stored);
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j < count) to[j] = S(values[j]);
  }
}

}  // namespace fastvi

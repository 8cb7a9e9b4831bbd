// Columns of rows, in vectors of 16 bytes where every pointer is aligned, one by one where not and at the end.
#pragma once

#include <array>
#include <cstdint>

#include "../formulas/half.h"
#include "cuda.h"

namespace fastvi {

// {of(0), of(1), ...}
template <std::size_t count, class Of>
FASTVI_DEVICE auto array_of(const Of& of) {
  std::array<decltype(of(std::size_t{0})), count> made;
#pragma unroll
  for (std::size_t i = 0; i < count; ++i) made[i] = of(i);
  return made;
}

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

template <int count, class S, std::size_t pointers>
FASTVI_DEVICE bool aligned(const std::array<S*, pointers>& all) {
  bool found = true;
#pragma unroll
  for (std::size_t i = 0; i < pointers; ++i) found &= aligned<count>(all[i]);
  return found;
}

// Calls step.operator()<width>(d) for the vectors, from column d on, that fall to thread `lane` of `lanes`; a vector of
// one column may always be read.
template <class S, class Step>
FASTVI_DEVICE void for_each_vector(bool all_aligned, std::int64_t count, int lane, int lanes, const Step& step) {
  constexpr int width = vector_width<S>;
  const std::int64_t vectors = all_aligned ? count / width : 0;
  for (std::int64_t v = lane; v < vectors; v += lanes) step.template operator()<width>(v * width);
  for (std::int64_t d = vectors * width + lane; d < count; d += lanes) step.template operator()<1>(d);
}

// Calls visit(j, the columns d + j of all rows) for a vector from column d on.
template <int width, class S, std::size_t inputs, class Visit>
FASTVI_DEVICE void visit_vector(const std::array<const S*, inputs>& in, std::int64_t d, const Visit& visit) {
  const auto loaded = array_of<inputs>([&](std::size_t i) { return load_vector<width>(in[i] + d); });
#pragma unroll
  for (int j = 0; j < width; ++j) {
    visit(j, array_of<inputs>([&](std::size_t i) { return static_cast<ComputeType<S>>(loaded[i].value[j]); }));
  }
}

// Calls visit(d, the columns d of all rows) for the columns that fall to thread `lane` of `lanes`.
template <class S, std::size_t inputs, class Visit>
FASTVI_DEVICE void for_each_column(const std::array<const S*, inputs>& in, std::int64_t count, int lane, int lanes,
                                   const Visit& visit) {
  for_each_vector<S>(aligned<vector_width<S>>(in), count, lane, lanes, [&]<int width>(std::int64_t d) {
    visit_vector<width>(in, d, [&](int j, const auto& values) { visit(d + j, values); });
  });
}

// Writes map(d, the columns d of all rows), an array, to the columns d of `out`; nothing to those that are null. An
// output may be one of the rows that are read.
template <class S, std::size_t inputs, std::size_t outputs, class Map>
FASTVI_DEVICE void map_columns(const std::array<const S*, inputs>& in, const std::array<S*, outputs>& out,
                               std::int64_t count, int lane, int lanes, const Map& map) {
  const bool all_aligned = aligned<vector_width<S>>(in) && aligned<vector_width<S>>(out);
  for_each_vector<S>(all_aligned, count, lane, lanes, [&]<int width>(std::int64_t d) {
    Vector<S, width> stored[outputs];
    visit_vector<width>(in, d, [&](int j, const auto& values) {
      const auto mapped = map(d + j, values);
#pragma unroll
      for (std::size_t i = 0; i < outputs; ++i) stored[i].value[j] = S(mapped[i]);
    });
#pragma unroll
    for (std::size_t i = 0; i < outputs; ++i) {
      if (out[i] != nullptr) store_vector<width>(out[i] + d, stored[i]);
    }
  });
}

// Up to four neighbouring columns, as a quad of draws is for; zeros beyond `count`.
template <class S>
FASTVI_DEVICE void load_quad(const S* from, std::int64_t count, ComputeType<S>* values) {
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
FASTVI_DEVICE void store_quad(const ComputeType<S>* values, std::int64_t count, S* to) {
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

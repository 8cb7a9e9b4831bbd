// Sums that do not depend on how many threads share them: each thread's in order, then those of the threads by halves.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../formulas/compiler.h"
#include "launch.cuh"

namespace fastvi {

// Sums of any length that grow by a term each at a time: after each 64 of them what they came to is added with its
// rounding error kept, so that the length does not add to the error. One count for all of them saves registers.
template <class T, std::size_t sums>
class LongSums {
 public:
  FASTVI_DEVICE void add(std::size_t i, T term) { recent_[i] += term; }

  // After the terms that belong together, at most one of each sum.
  FASTVI_DEVICE void next() {
    if (++count_ < 64) return;
#pragma unroll
    for (std::size_t i = 0; i < sums; ++i) carry(i);
    count_ = 0;
  }

  FASTVI_DEVICE T result(std::size_t i) const { return (total_[i] + recent_[i]) + error_[i]; }

 private:
  FASTVI_DEVICE void carry(std::size_t i) {
    const T sum = total_[i] + recent_[i];
    const T added = sum - total_[i];
    const T error = (total_[i] - (sum - added)) + (recent_[i] - added);  // exact (Knuth, TAOCP 2, 4.2.2)
    // The error of infinities would be NaN.
    error_[i] += error == error ? error : T(0);
    total_[i] = sum;
    recent_[i] = T(0);
  }

  T total_[sums] = {}, recent_[sums] = {}, error_[sums] = {};
  int count_ = 0;
};

template <class T>
class LongSum {
 public:
  FASTVI_DEVICE void add(T term) {
    sum_.add(0, term);
    sum_.next();
  }

  FASTVI_DEVICE T result() const { return sum_.result(0); }

 private:
  LongSums<T, 1> sum_;
};

inline constexpr unsigned whole_warp = 0xFFFFFFFFu;

// The threads that share an item of work: one, a warp, or a block. `first` and `count` tell which items a group takes;
// `sum` adds up the values of its threads, all of which must call it, for the first of them. `maximum`, of
// those groups that put parts together, is alike.
template <int size>
struct Group {
  static constexpr int threads = size;
  static constexpr int per_block = block_threads / size;

  static FASTVI_DEVICE int lane() { return static_cast<int>(threadIdx.x) % size; }
  static FASTVI_DEVICE std::int64_t first() {
    return std::int64_t{blockIdx.x} * per_block + static_cast<int>(threadIdx.x) / size;
  }
  static FASTVI_DEVICE std::int64_t count() { return std::int64_t{gridDim.x} * per_block; }

  template <class T>
  static FASTVI_DEVICE T sum(T value) {
    if constexpr (size <= warp_threads) {
#pragma unroll
      for (int distance = size / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(whole_warp, value, distance);
      }
      return value;
    } else {
      using Warp = Group<warp_threads>;
      constexpr int warps = size / warp_threads;
      FASTVI_SHARED(T, warp_sums, warps);
      value = Warp::sum(value);
      if (Warp::lane() == 0) warp_sums[lane() / warp_threads] = value;
      __syncthreads();
      T total = T(0);
      if (lane() < warp_threads) total = Warp::sum(lane() < warps ? warp_sums[lane()] : T(0));
      __syncthreads();  // the next row's sums come into the same memory
      return total;
    }
  }

  template <class T>
  static FASTVI_DEVICE T maximum(T value) {
    static_assert(size <= warp_threads);
#pragma unroll
    for (int distance = size / 2; distance > 0; distance /= 2) {
      const T other = __shfl_xor_sync(whole_warp, value, distance);
      value = other > value ? other : value;
    }
    return value;
  }
};

using ThreadGroup = Group<1>;
using WarpGroup = Group<warp_threads>;
using BlockGroup = Group<block_threads>;

// Calls run.operator()<Group>() with the group for a row: a warp where rows are short, a block where they are long, or
// few and not short.
template <class Run>
void with_group(std::int64_t rows, std::int64_t columns, const Run& run) {
  constexpr std::int64_t few_rows = 1024, longest_of_many = 4096, longest_of_few = 1024;
  if (columns < (rows < few_rows ? longest_of_few : longest_of_many)) {
    run.template operator()<WarpGroup>();
  } else {
    run.template operator()<BlockGroup>();
  }
}

// Work is cut into no more parts than this, whose results a warp puts together, or a thread where they are not many.
// That is so few for each thread that they are added as they come.
inline constexpr std::int64_t most_parts = 1024, many_parts = 16;

// The sum of part(i) over all of `count` parts, for the first thread of the group.
template <class Group, class T, class Part>
FASTVI_DEVICE T sum_of_parts(std::int64_t count, const Part& part) {
  T sum = T(0);
  for (std::int64_t i = Group::lane(); i < count; i += Group::threads) sum += part(i);
  return Group::sum(sum);
}

// Calls run.operator()<Group>() with the group that puts so many parts together.
template <class Run>
void with_joining_group(std::int64_t parts, const Run& run) {
  if (parts < many_parts) {
    run.template operator()<ThreadGroup>();
  } else {
    run.template operator()<WarpGroup>();
  }
}

}  // namespace fastvi

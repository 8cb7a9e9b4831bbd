// Work sharing by OpenMP. Which thread does an item never changes a result: items are cut by the problem's shape
// alone, and every reduction adds its partial results in one fixed order.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace fastvi {

// Below this many nanoseconds of work, waking the other threads costs more than it saves.
inline constexpr std::int64_t serial_nanoseconds = 12000;

constexpr std::int64_t ceil_divide(std::int64_t numerator, std::int64_t denominator) {
  return (numerator + denominator - 1) / denominator;
}

// Whether this process was forked off one that had loaded this module. Only the forking thread lives on in it, and
// libgomp would wait for the others for ever; so loops are serial there, with the same results.
extern bool forked;

// Calls body(i) for i in [begin, end). One copy of the loop serves any number of threads: of two, inlined in different
// places, the compiler may fuse other products and sums, so that their results differ in the last bit.
template <class Body>
#if defined(__GNUC__) && !defined(__clang__)
[[gnu::noinline, gnu::noclone]]
#else
[[gnu::noinline]]
#endif
void for_range(std::int64_t begin, std::int64_t end, const Body& body) {
  for (std::int64_t i = begin; i < end; ++i) body(i);
}

// Calls body(i) for i in [0, count); `nanoseconds` estimates the work of all of them on one thread. Inside the body of
// another such loop that is shared among threads already, this thread does them all.
template <class Body>
void parallel_for(std::int64_t count, std::int64_t nanoseconds, const Body& body) {
  const int threads = forked || nanoseconds < serial_nanoseconds || omp_in_parallel() != 0
                          ? 1
                          : static_cast<int>(std::min<std::int64_t>(omp_get_max_threads(), count));
  if (threads <= 1) return for_range(0, count, body);
#pragma omp parallel num_threads(threads)
  {
    const std::int64_t parts = omp_get_num_threads(), part = omp_get_thread_num();
    for_range(count * part / parts, count * (part + 1) / parts, body);
  }
}

}  // namespace fastvi

// Vectors of the instruction set that is compiled for: loads, stores, and the transposition of a square of them.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace fastvi {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64;
#elif defined(__AVX__)
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif

template <class T>
struct VectorOf {
  using Type [[gnu::vector_size(vector_bytes)]] = T;
};
template <class T>
using Vector = typename VectorOf<T>::Type;
template <class T>
inline constexpr int lanes = vector_bytes / static_cast<int>(sizeof(T));

template <class T>
[[gnu::always_inline]] inline Vector<T> load(const T* from) {
  Vector<T> vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

template <class T>
[[gnu::always_inline]] inline void store(const Vector<T>& vector, T* to) {
  std::memcpy(to, &vector, sizeof vector);
}

// Two rows of a square whose blocks of `size` columns change places between them.
template <class T, int size, int... lane>
[[gnu::always_inline]] inline void exchange(Vector<T>& a, Vector<T>& b, std::integer_sequence<int, lane...>) {
  constexpr int n = lanes<T>;
  const Vector<T> first = a, second = b;
#if defined(__clang__)
  a = __builtin_shufflevector(first, second, ((lane & size) != 0 ? n + lane - size : lane)...);
  b = __builtin_shufflevector(first, second, ((lane & size) != 0 ? n + lane : lane + size)...);
#else
  using Index = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  a = __builtin_shuffle(first, second, Vector<Index>{Index{(lane & size) != 0 ? n + lane - size : lane}...});
  b = __builtin_shuffle(first, second, Vector<Index>{Index{(lane & size) != 0 ? n + lane : lane + size}...});
#endif
}

template <class T, int size>
[[gnu::always_inline]] inline void transpose_from(Vector<T> (&rows)[lanes<T>]) {
  if constexpr (size < lanes<T>) {
    for (int i = 0; i < lanes<T>; ++i) {
      if ((i & size) == 0) {
        exchange<T, size>(rows[i], rows[i + size], std::make_integer_sequence<int, lanes<T>>());
      }
    }
    transpose_from<T, 2 * size>(rows);
  }
}

}  // namespace fastvi

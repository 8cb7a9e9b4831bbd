// Shapes and strides, and the arithmetic of broadcasting on them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

namespace fastvi {

inline constexpr int max_rank = 64;

// Up to 64 sizes; those behind the last are not initialised.
struct Sizes {
  int rank = 0;
  std::array<std::int64_t, max_rank> values;

  Sizes() {}  // leaves the values as they are: to clear them would cost more than a small call
  explicit Sizes(std::span<const std::int64_t> sizes) : rank(static_cast<int>(sizes.size())) {
    std::copy(sizes.begin(), sizes.end(), values.begin());
  }

  std::int64_t& operator[](int axis) { return values[static_cast<std::size_t>(axis)]; }
  std::int64_t operator[](int axis) const { return values[static_cast<std::size_t>(axis)]; }
  void append(std::int64_t size) { (*this)[rank++] = size; }
  std::span<const std::int64_t> span() const { return {values.data(), static_cast<std::size_t>(rank)}; }
  operator std::span<const std::int64_t>() const { return span(); }
};

inline bool equal(std::span<const std::int64_t> a, std::span<const std::int64_t> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

inline std::int64_t product(std::span<const std::int64_t> sizes) {
  std::int64_t result = 1;
  bool too_large = false;
  for (const std::int64_t size : sizes) {
    if (size == 0) return 0;
    too_large |= __builtin_mul_overflow(result, size, &result);
  }
  return too_large ? std::numeric_limits<std::int64_t>::max() : result;
}

// Whether an array of these strides is contiguous, in C order.
inline bool contiguous(std::span<const std::int64_t> shape, std::span<const std::int64_t> strides) {
  std::int64_t expected = 1;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    if (shape[axis] == 0) return true;
    if (shape[axis] != 1 && strides[axis] != expected) return false;
    expected *= shape[axis];
  }
  return true;
}

// As Python writes a tuple of them.
std::string to_string(std::span<const std::int64_t> sizes);

}  // namespace fastvi

// The layout of IEEE 754 numbers and the two tools every formula is made of: a view of the bits and a polynomial.
#pragma once

#include <cstdint>
#include <limits>

#include "compiler.h"

namespace fastvi {

template <class T>
struct FloatFormat;

template <>
struct FloatFormat<float> {
  using Bits = std::uint32_t;
  using SignedBits = std::int32_t;
  static constexpr int mantissa_bits = 23;
  static constexpr int exponent_bias = 127;
};

template <>
struct FloatFormat<double> {
  using Bits = std::uint64_t;
  using SignedBits = std::int64_t;
  static constexpr int mantissa_bits = 52;
  static constexpr int exponent_bias = 1023;
};

template <class T>
using BitsOf = typename FloatFormat<T>::Bits;

template <class T>
using SignedBitsOf = typename FloatFormat<T>::SignedBits;

// As constants, because device code may not call the functions of std::numeric_limits.
template <class T>
inline constexpr T infinity = std::numeric_limits<T>::infinity();

template <class T>
inline constexpr T not_a_number = std::numeric_limits<T>::quiet_NaN();

template <class T>
inline constexpr T smallest_normal = std::numeric_limits<T>::min();

template <class T>
inline constexpr T epsilon = std::numeric_limits<T>::epsilon();

// Adding it to a |x| < 2^(mantissa_bits - 2) rounds x to an integer, which then stands in the low bits of the sum.
// Unlike a conversion it exists for float64 on every instruction set.
template <class T>
inline constexpr T round_magic = T(3) * T(BitsOf<T>(1) << (FloatFormat<T>::mantissa_bits - 1));

template <class T>
FASTVI_HD constexpr BitsOf<T> to_bits(T x) {
  return __builtin_bit_cast(BitsOf<T>, x);
}

FASTVI_HD constexpr float from_bits(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }
FASTVI_HD constexpr double from_bits(std::uint64_t bits) { return __builtin_bit_cast(double, bits); }

// c0 + c1 x + c2 x^2 + ..., four terms at a time: Horner's rule in x^4 waits for a quarter as many results, and a loop
// over an array is bound by that waiting. Repeated powers are merged by the compiler.
template <class T>
FASTVI_HD constexpr T polynomial(T, T c0) {
  return c0;
}
template <class T>
FASTVI_HD constexpr T polynomial(T x, T c0, T c1) {
  return c0 + x * c1;
}
template <class T>
FASTVI_HD constexpr T polynomial(T x, T c0, T c1, T c2) {
  return (c0 + x * c1) + (x * x) * c2;
}
template <class T, class... Rest>
FASTVI_HD constexpr T polynomial(T x, T c0, T c1, T c2, T c3, Rest... rest) {
  const T square = x * x;
  const T low = (c0 + x * c1) + square * (c2 + x * c3);
  if constexpr (sizeof...(rest) == 0) {
    return low;
  } else {
    return low + (square * square) * polynomial(x, rest...);
  }
}

}  // namespace fastvi

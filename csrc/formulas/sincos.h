// Sine and cosine of a 32-bit fraction of a full turn. The quadrant and the remainder are integers, so the reduction is
// exact.
#pragma once

#include <cstdint>

#include "floating_point.h"

namespace fastvi {

// With x in turns, |x| <= 1/8: sin(2 pi x) = 8 x + x p(x^2) and cos(2 pi x) = 1 + x^2 p(x^2). The product 8 x is exact,
// which 2 pi x would not be.
FASTVI_HD float sine_tail(float square) {
  return polynomial(square, -1.71681476F, -41.3416061F, 81.5822983F, -74.9454575F);
}
FASTVI_HD double sine_tail(double square) {
  return polynomial(square, -1.7168146928204135, -41.34170224039962, 81.605249275934753, -76.705859700352008,
                    42.058684500449189, -15.093772659390428, 3.7801542453364418);
}
FASTVI_HD float cosine_tail(float square) {
  return polynomial(square, -19.7392082F, 64.9391479F, -85.4245224F, 58.6210594F);
}
FASTVI_HD double cosine_tail(double square) {
  return polynomial(square, -19.739208802178716, 64.939394022666676, -85.456817205989267, 60.244641227241949,
                    -26.426241133216362, 7.9026293275175563, -1.6882994533525311);
}

// sine and cosine of 2 pi turn / 2^32.
template <class T>
FASTVI_HD void sincos_turn(std::uint32_t turn, T& sine, T& cosine) {
  constexpr std::uint32_t eighth = std::uint32_t(1) << 29;
  constexpr int sign_bit = 8 * static_cast<int>(sizeof(T)) - 1;
  const std::uint32_t quadrant = (turn + eighth) >> 30;
  const auto remainder = static_cast<std::int32_t>(turn - (quadrant << 30));
  const T x = static_cast<T>(remainder) * T(0x1p-32);
  const T square = x * x;
  const T s = T(8) * x + x * sine_tail(square);
  const T c = T(1) + square * cosine_tail(square);
  const bool swap = (quadrant & 1) != 0;
  const BitsOf<T> sine_sign = BitsOf<T>(quadrant >> 1) << sign_bit;
  const BitsOf<T> cosine_sign = BitsOf<T>(((quadrant + 1) >> 1) & 1) << sign_bit;
  sine = from_bits(to_bits(swap ? c : s) ^ sine_sign);
  cosine = from_bits(to_bits(swap ? s : c) ^ cosine_sign);
}

}  // namespace fastvi

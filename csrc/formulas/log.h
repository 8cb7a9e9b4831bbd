// ln x, ln(1 + x) and -ln of a uniform number: x = 2^k (1 + f), ln x = k ln 2 + ln(1 + f). In float32 ln(1 + f) is a
// polynomial; in float64, where that would be long, 2 artanh(f / (2 + f)), whose series in the square converges faster.
#pragma once

#include <cmath>

#include "exp.h"
#include "floating_point.h"

namespace fastvi {

// (2 artanh(s) / s - 2) / s^2 as a function of s^2 <= 1/9.
FASTVI_HD double artanh_tail(double square) {
  return polynomial(square, 0.66666666666666308, 0.40000000000155911, 0.28571428548010996, 0.22222223960657878,
                    0.1818174422061811, 0.15386554120899582, 0.13301043471493795, 0.12105581166407407,
                    0.083421090443560095, 0.1701520719198229);
}

// (ln(1 + f) - f + f^2/2) / f^3 on |f| <= 1/3.
FASTVI_HD float log1p_tail(float f) {
  return polynomial(f, 0.333332151F, -0.249997988F, 0.200104341F, -0.166804776F, 0.140056953F, -0.121842317F,
                    0.139841095F, -0.128916264F);
}

// The same on 0 <= x <= 1, and for -x on 0 <= x <= 1/2, where ln(1 - x) = -(x + x^2/2 + x^3 tail).
FASTVI_HD float log1p_unit_tail(float x) {
  return polynomial(x, 0.333322495F, -0.249750942F, 0.197743222F, -0.155695453F, 0.110251404F, -0.0609215125F,
                    0.0218754392F, -0.00367747759F);
}
FASTVI_HD float log1m_half_tail(float x) {
  return polynomial(x, 0.333309889F, 0.250977874F, 0.184428975F, 0.293477505F, -0.441874743F, 1.6858871F, -2.18335772F,
                    1.61725771F);
}

// k ln 2 + ln(1 + f), -1/3 <= f <= 1/3.
FASTVI_HD float log_reduced(float k, float f) {
  using Constants = ExpConstants<float>;
  return k * Constants::ln2_high + (f + (f * f * (f * log1p_tail(f) - 0.5F) + k * Constants::ln2_low));
}
FASTVI_HD double log_reduced(double k, double f) {
  using Constants = ExpConstants<double>;
  const double half_square = 0.5 * f * f;
  const double s = f / (2.0 + f);
  const double square = s * s;
  const double tail = s * (half_square + square * artanh_tail(square));
  return k * Constants::ln2_high + (f - (half_square - (tail + k * Constants::ln2_low)));
}

// ln(1 + x) for 0 <= x <= 1 or NaN, where nothing needs reducing.
FASTVI_HD float log1p_unit(float x) {
  const float square = x * x;
  return x - (0.5F * square - square * x * log1p_unit_tail(x));
}
FASTVI_HD double log1p_unit(double x) { return log_reduced(0.0, x); }

// -ln(1 - x) for 0 <= x <= 1/2.
FASTVI_HD float neg_log1m(float x) {
  const float square = x * x;
  return x + square * (0.5F + x * log1m_half_tail(x));
}
FASTVI_HD double neg_log1m(double x) { return -log_reduced(0.0, -x); }

// x = 2^k m with 2/3 <= m < 4/3, so that ln x has no cancellation near 1: `exponent` is k + exponent_bias.
template <class T>
struct LogReduction {
  BitsOf<T> exponent;
  T mantissa;
};

template <class T>
FASTVI_HD LogReduction<T> reduce_log(T x) {
  constexpr int mantissa_bits = FloatFormat<T>::mantissa_bits;
  constexpr BitsOf<T> lowest = to_bits(T(2) / T(3));
  constexpr BitsOf<T> mask = (BitsOf<T>(1) << mantissa_bits) - 1;
  const BitsOf<T> shifted = to_bits(x) + (to_bits(T(1)) - lowest);
  return {shifted >> mantissa_bits, from_bits((shifted & mask) + lowest)};
}

// A small integer as a number; float64 goes through the bits of 2^52 + i because int64 conversions are missing before
// AVX-512.
FASTVI_HD float to_float(std::uint32_t i) { return static_cast<float>(static_cast<std::int32_t>(i)); }
FASTVI_HD double to_float(std::uint64_t i) { return from_bits(i | to_bits(0x1p52)) - 0x1p52; }

template <class T>
FASTVI_HD T log(T x) {
  constexpr int bias = FloatFormat<T>::exponent_bias;
  constexpr int lift = FloatFormat<T>::mantissa_bits + 1;
  const bool subnormal = x < smallest_normal<T>;
  const auto [exponent, mantissa] = reduce_log(subnormal ? x * T(BitsOf<T>(1) << lift) : x);
  const T k = to_float(exponent) - (subnormal ? T(bias + lift) : T(bias));
  T result = log_reduced(k, mantissa - T(1));
  result = x == infinity<T> ? x : result;
  return x > T(0) ? result : (x == T(0) ? -infinity<T> : not_a_number<T>);
}

template <class T>
FASTVI_HD T log1p(T x) {
  constexpr int bias = FloatFormat<T>::exponent_bias;
  const auto [exponent, mantissa] = reduce_log(T(1) + x);
  const T k = to_float(exponent) - T(bias);
  // f = 2^-k x + (2^-k - 1) has the digits that 1 + x lost; 4 * 2^-k is normal for every k.
  const T scale = from_bits((BitsOf<T>(2 * bias + 2) - exponent) << FloatFormat<T>::mantissa_bits);
  T result = log_reduced(k, T(0.25) * x * scale + (T(0.25) * scale - T(1)));
  result = std::fabs(x) < epsilon<T> / T(4) ? x : result;  // keeps -0 and the subnormals
  result = x == infinity<T> ? x : result;
  return x > T(-1) ? result : (x == T(-1) ? -infinity<T> : not_a_number<T>);
}

// -ln(u), u = (word + 1/2) 2^-32. The upper half is -ln(1 - t), t the distance to 1, of which no digit is lost; in the
// lower half t = u = 2^-k m with 1/2 <= m < 1, where both terms of k ln 2 - ln m are positive: no cancellation
// anywhere.
template <class T>
FASTVI_HD T neg_log_uniform(std::uint32_t word) {
  using Constants = ExpConstants<T>;
  constexpr int mantissa_bits = FloatFormat<T>::mantissa_bits;
  constexpr BitsOf<T> mask = (BitsOf<T>(1) << mantissa_bits) - 1;
  const std::uint32_t distance = word < ~word ? word : ~word;
  const bool upper = word > ~word;
  const T t = static_cast<T>(static_cast<std::int32_t>(distance)) * T(0x1p-32) + T(0x1p-33);
  const BitsOf<T> bits = to_bits(t);
  const T mantissa = from_bits((bits & mask) | to_bits(T(0.5)));
  const T k = upper ? T(0) : T(FloatFormat<T>::exponent_bias - 1) - to_float(bits >> mantissa_bits);
  const T complement = upper ? t : T(1) - mantissa;
  return k * Constants::ln2_high + (neg_log1m(complement) + k * Constants::ln2_low);
}

}  // namespace fastvi

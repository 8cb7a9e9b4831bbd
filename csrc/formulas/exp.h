// e^x, e^x - 1, e^x - 1 - x, and a e^x with a^2 e^x: x = n ln 2 + r with |r| <= ln(2)/2, e^x = 2^n (1 + r + r^2 q(r)),
// q a minimax polynomial.
#pragma once

#include <cmath>

#include "floating_point.h"

namespace fastvi {

template <class T>
struct ExpConstants;

// ln2_high has so few bits that n * ln2_high is exact, with or without fused multiply-add.
template <>
struct ExpConstants<float> {
  static constexpr float log2_e = 1.44269504F;
  static constexpr float ln2_high = 0.693359375F;
  static constexpr float ln2_low = -2.12194440e-4F;
  static constexpr float underflow = -104.0F;        // e^x rounds to zero
  static constexpr float expm1_is_minus_1 = -20.0F;  // e^x - 1 rounds to -1
  static constexpr float largest = 88.7F;            // e^x is still finite
  // Beyond these a^2 e^x is zero for every finite a, or infinite for every a but zero.
  static constexpr float square_underflow = -284.0F, square_overflow = 300.0F;
};

template <>
struct ExpConstants<double> {
  static constexpr double log2_e = 1.4426950408889634;
  static constexpr double ln2_high = 0.693147180369123816490;
  static constexpr double ln2_low = 1.90821492927058770002e-10;
  static constexpr double underflow = -745.2;
  static constexpr double expm1_is_minus_1 = -40.0;
  static constexpr double largest = 709.7;
  static constexpr double square_underflow = -2166.0, square_overflow = 2200.0;
};

// q(r) = (e^r - 1 - r) / r^2 on |r| <= ln(2)/2, weighted for the relative error of e^r - 1.
FASTVI_HD float exp_tail(float r) {
  return polynomial(r, 0.49999997F, 0.16666539F, 0.0416677482F, 0.00836708769F, 0.00138378621F);
}
FASTVI_HD double exp_tail(double r) {
  return polynomial(r, 0.5, 0.16666666666666677, 0.041666666666666685, 0.0083333333333220176, 0.0013888888888899283,
                    0.00019841269883592654, 2.4801587215553969e-05, 2.7557247731136512e-06, 2.7557431565264853e-07,
                    2.5107628844732736e-08, 2.0849585779057765e-09);
}

// (q(r) - 1/2) / r on |r| <= 0.62, weighted for the relative error of q.
FASTVI_HD float exp_wide_tail(float r) {
  return polynomial(r, 0.166666687F, 0.0416666716F, 0.00833294261F, 0.00138879777F, 0.000200355847F, 2.51260026e-05F);
}
FASTVI_HD double exp_wide_tail(double r) {
  return polynomial(r, 0.16666666666666666, 0.041666666666666664, 0.0083333333333339855, 0.0013888888888890657,
                    0.00019841269839946624, 2.4801587298552847e-05, 2.7557320373358153e-06, 2.7557321382316153e-07,
                    2.505162314907324e-08, 2.0876047901111927e-09, 1.6157346699096621e-10, 1.157335232130874e-11);
}

// x = n ln 2 + remainder; the low bits of `exponent` hold n + offset. Where e^x overflows n stops at its largest useful
// value and the remainder goes on growing, with it every polynomial in it, up to infinity. The limit is an integer
// minimum because one of floating-point numbers becomes a branch to gcc, which then isolates a path for its constant;
// NaN goes through the remainder.
template <class T>
struct ExpReduction {
  T n;
  T remainder;
  BitsOf<T> exponent;
};

enum class ExpRange { all, no_overflow };

template <int offset, ExpRange range = ExpRange::all, class T>
FASTVI_HD ExpReduction<T> reduce_exp(T x) {
  using Constants = ExpConstants<T>;
  using Signed = SignedBitsOf<T>;
  constexpr T magic = round_magic<T> + T(offset);
  constexpr Signed largest = static_cast<Signed>(to_bits(magic + T(FloatFormat<T>::exponent_bias + 1)));
  auto shifted = static_cast<Signed>(to_bits(x * Constants::log2_e + magic));
  if constexpr (range == ExpRange::all) shifted = shifted < largest ? shifted : largest;
  const auto exponent = static_cast<BitsOf<T>>(shifted);
  const T n = from_bits(exponent) - magic;
  return {n, (x - n * Constants::ln2_high) - n * Constants::ln2_low, exponent};
}

template <class T>
FASTVI_HD T exp(T x) {
  constexpr int mantissa_bits = FloatFormat<T>::mantissa_bits;
  // 2^n reaches beyond the normal numbers at both ends, its two halves do not; the offset makes the exponent positive
  // and is the bias of both halves.
  const auto [n, r, exponent] = reduce_exp<2 * FloatFormat<T>::exponent_bias>(x);
  const BitsOf<T> half = exponent >> 1;
  const T first = from_bits(half << mantissa_bits);
  const T second = from_bits((exponent - half) << mantissa_bits);
  const T result = (T(1) + (r + r * r * exp_tail(r))) * first * second;
  return x < ExpConstants<T>::underflow ? T(0) : result;
}

// exp for x <= 0 or NaN, with a single scale: 2^(n + lift) is normal for every n that does not give zero.
template <class T>
FASTVI_HD T exp_nonpositive(T x) {
  constexpr int mantissa_bits = FloatFormat<T>::mantissa_bits;
  constexpr int lift = mantissa_bits + 2;
  constexpr T lower = T(1) / T(BitsOf<T>(1) << lift);
  const auto [n, r, exponent] = reduce_exp<FloatFormat<T>::exponent_bias + lift, ExpRange::no_overflow>(x);
  const T lifted = (T(1) + (r + r * r * exp_tail(r))) * from_bits(exponent << mantissa_bits);
  return x < ExpConstants<T>::underflow ? T(0) : lifted * lower;
}

template <class T>
struct ScaledByExp {
  T linear;  // a e^x
  T square;  // a^2 e^x
};

// What multiplies a by e^x where e^x alone would overflow or vanish, though its product with a or a^2 does not: 2^(n/4)
// four times in turn, which is exact and has no infinity in it, and a weight. A zero stays zero for every x but NaN.
template <class T>
struct ExpScale {
  T quarter;  // 2^(n/4), rounded down to a power of two
  T weight;   // e^x / quarter^4

  static FASTVI_HD ExpScale of(T x) {
    using Constants = ExpConstants<T>;
    constexpr int mantissa_bits = FloatFormat<T>::mantissa_bits;
    constexpr int bias = FloatFormat<T>::exponent_bias;
    T limited = x < Constants::square_underflow ? Constants::square_underflow : x;  // NaN stays
    limited = limited > Constants::square_overflow ? Constants::square_overflow : limited;
    const auto [n, r, exponent] = reduce_exp<4 * bias, ExpRange::no_overflow>(limited);
    const T remaining = from_bits(((exponent & 3) + bias) << mantissa_bits);
    return {from_bits((exponent >> 2) << mantissa_bits), (T(1) + (r + r * r * exp_tail(r))) * remaining};
  }

  FASTVI_HD ScaledByExp<T> scale(T a) const {
    const T half_scaled = a * quarter * quarter;
    const T weighted = half_scaled * weight;
    return {weighted * quarter * quarter, weighted * half_scaled};
  }
};

template <class T>
FASTVI_HD ScaledByExp<T> scale_by_exp(T a, T x) {
  return ExpScale<T>::of(x).scale(a);
}

// e^(x / 4), finite: where that overflows the largest stands for it, so that its product with zero is zero. Multiplied
// by it four times, every number but zero overflows there.
template <class T>
FASTVI_HD T exp_quarter(T x) {
  const T quarter = T(0.25) * x;
  return exp(quarter > ExpConstants<T>::largest ? ExpConstants<T>::largest : quarter);
}

// e^x - 1 = (2^n - 1 + 2^n r) + 2^n r^2 q(r): where the terms in brackets cancel their sum is exact.
template <class T>
FASTVI_HD T expm1(T x) {
  const auto [n, r, exponent] = reduce_exp<FloatFormat<T>::exponent_bias - 1>(x);
  const T half_scale = from_bits(exponent << FloatFormat<T>::mantissa_bits);  // 2^(n - 1), since 2^n may overflow
  const T tail = r * r * exp_tail(r);
  const T large = T(2) * (((half_scale - T(0.5)) + half_scale * r) + half_scale * tail);
  const T result = n == T(0) ? r + tail : large;
  return std::copysign(x < ExpConstants<T>::expm1_is_minus_1 ? T(1) : result, x);  // the sign matters at -0
}

// e^x - 1 - x = (2^n - 1 - n ln 2) + (2^n - 1) r + 2^n r^2 q(r), where no x is left that could cancel. Near zero the
// first two would vanish altogether, and x^2 q(x) is taken on an interval so wide that beyond it the rounding of r does
// no harm.
template <class T>
FASTVI_HD T exp_minus_1_minus(T x) {
  using Constants = ExpConstants<T>;
  const auto [n, remainder, exponent] = reduce_exp<FloatFormat<T>::exponent_bias - 1>(x);
  const T half_scale = from_bits(exponent << FloatFormat<T>::mantissa_bits);
  const bool near_zero = std::fabs(x) < T(0.6);
  const T r = near_zero ? x : remainder;
  const T square = r * r;
  const T tail = T(0.5) * square + square * r * exp_wide_tail(r);
  const T slope = half_scale - T(0.5);
  const T linear = (slope - n * (T(0.5) * Constants::ln2_high)) + (slope * r - n * (T(0.5) * Constants::ln2_low));
  const T result = near_zero ? tail : T(2) * (linear + half_scale * tail);
  return x < Constants::expm1_is_minus_1 ? T(-1) - x : result;
}

}  // namespace fastvi

// The logarithm of the gamma function and its derivative, digamma, for x > 0: Stirling's series (Abramowitz & Stegun
// 1964, 6.1.41 and 6.3.18) from `gamma_shift` on, and below it the recurrence that leads there, or for log-gamma to the
// neighbourhood of its zero at 2. Differences of them for counts, which cancel where they are taken apart.
#pragma once

#include <cmath>

#include "exp.h"
#include "log.h"

namespace fastvi {

// From here on the polynomials below stand for Stirling's series.
template <class T>
inline constexpr int gamma_shift = sizeof(T) == 4 ? 4 : 8;

template <class T>
inline constexpr T half_log_two_pi = T(0.91893853320467274178032973640562);

// ln Gamma(2 + t) / t on -2/3 <= t <= 1/3.
FASTVI_HD float log_gamma_core(float t) {
  return polynomial(t, 0.42278433F, 0.32246706F, -0.067352064F, 0.020579055F, -0.0073890886F, 0.0029190318F,
                    -0.0011431946F, 0.000382582F, -0.00052154466F);
}
FASTVI_HD double log_gamma_core(double t) {
  return polynomial(t, 0.42278433509846713, 0.3224670334241133, -0.06735230105319813, 0.020580808427758775,
                    -0.007385551028596418, 0.0028905103329054244, -0.0011927539149842296, 0.000509669441669805,
                    -0.00022315475721137136, 9.945914485057316e-05, -4.4924270815419134e-05, 2.0491166114674293e-05,
                    -9.477361522919783e-06, 4.433809138677756e-06, -1.7648973061108707e-06, 1.0875234985514137e-06,
                    -1.0695485403748464e-06, -8.840836701263186e-07, -7.268081597475538e-07);
}

// z (ln Gamma(z) - (z - 1/2) ln z + z - ln(2 pi) / 2) as a function of 1 / z^2, z >= gamma_shift.
FASTVI_HD float stirling_tail(float square) { return polynomial(square, 0.08333332F, -0.002776073F, 0.00073576777F); }
FASTVI_HD double stirling_tail(double square) {
  return polynomial(square, 0.0833333333333331, -0.0027777777773651427, 0.0007936505788586754, -0.0005951900344108997,
                    0.0008364811431501064, -0.0016339572578886628);
}

// (p(a) - p(b)) / (a - b) of the polynomial p(s) = c0 + c1 s + ..., in which nothing cancels but what does in p.
template <class T>
FASTVI_HD constexpr T divided_difference(T, T, T) {
  return T(0);
}
template <class T, class... Rest>
FASTVI_HD constexpr T divided_difference(T a, T b, T, T c1, Rest... rest) {
  return polynomial(a, c1, rest...) + b * divided_difference(a, b, c1, rest...);
}

// That of ln z - 1 / (2 z) - digamma(z) as a function of 1 / z^2, likewise; for b = 0 it is the function divided by a.
FASTVI_HD float digamma_tail(float a, float b) {
  return divided_difference(a, b, 0.0F, 0.08333319F, -0.008318538F, 0.0035359655F);
}
FASTVI_HD double digamma_tail(double a, double b) {
  return divided_difference(a, b, 0.0, 0.08333333333332575, -0.00833333332383456, 0.003968249990639843,
                            -0.0041658961916547395, 0.007499441687333199, -0.017268933068608133);
}

// What Stirling's series adds to (z - 1/2) ln z - z + ln(2 pi) / 2, from 1 / z.
template <class T>
FASTVI_HD T stirling_correction(T inverse) {
  return inverse * stirling_tail(inverse * inverse);
}

// (z + 1) (z + 2) ... (z + gamma_shift).
FASTVI_HD float rising_product(float z) {
  const float w = z * (z + 5.0F);
  return (w + 4.0F) * (w + 6.0F);
}
FASTVI_HD double rising_product(double z) {
  const double w = z * (z + 9.0);
  return ((w + 8.0) * (w + 14.0)) * ((w + 18.0) * (w + 20.0));
}

// 1 / (x + 1) + 1 / (x + 2) + ... + 1 / (x + gamma_shift - 1).
FASTVI_HD float inverse_sum(float x) {
  const float w = x * (x + 4.0F);
  return (11.0F + 3.0F * w) / ((x + 2.0F) * (3.0F + w));
}
FASTVI_HD double inverse_sum(double x) {
  const double w = x * (x + 8.0);
  return polynomial(w, 13068.0, 3283.0, 266.0, 7.0) / ((x + 4.0) * polynomial(w, 1260.0, 369.0, 34.0, 1.0));
}

// ln Gamma(x), NaN for x < 0. With a whole number of steps x = 2 + t + steps, -2/3 <= t < 1/3, and ln Gamma(2 + t) =
// t core(t), so that the zeros at 1 and 2 are exact and numbers near them keep their digits.
template <class T>
FASTVI_HD T log_gamma(T x) {
  constexpr int steps = gamma_shift<T> - 2;
  constexpr T third = T(1) / T(3);
  const bool below_1 = x < third, below_2 = x < T(1) + third;
  T t = below_1 ? x : x - (below_2 ? T(1) : T(2));
  T product = below_1 ? x * (x + T(1)) : (below_2 ? x : T(1));
  for (int step = 1; step <= steps; ++step) {
    const bool beyond = x >= T(step + 1) + third;
    t = beyond ? x - T(step + 2) : t;
    product = beyond ? product * (x - T(step)) : product;
  }
  const bool is_large = x >= T(steps + 2) + third;
  const T logarithm = log(is_large ? x : product);
  const T small = t * log_gamma_core(t) + (below_2 ? -logarithm : logarithm);
  const T large = (x - T(0.5)) * (logarithm - T(1)) + (half_log_two_pi<T> - T(0.5) + stirling_correction(T(1) / x));
  const T result = is_large ? large : small;
  return x < T(0) ? not_a_number<T> : result;
}

// The derivative of log_gamma, NaN for x < 0. Around its zero, at 1.46, the error is in proportion to 1.
template <class T>
FASTVI_HD T digamma(T x) {
  constexpr T shift = T(gamma_shift<T>);
  const bool is_small = x < shift;
  const T z = is_small ? x + shift : x;
  const T inverse = T(1) / z;
  const T large = log(z) - inverse * (T(0.5) + inverse * digamma_tail(inverse * inverse, T(0)));
  const T result = is_small ? large - inverse_sum(x) - T(1) / x : large;
  return x < T(0) ? not_a_number<T> : result;
}

// digamma(other) - digamma(z) for z > 0, other > 0 and the distance other - z, which a caller may know better than
// that. Every part has the sign of the distance: nothing cancels, and the error is in proportion to the difference,
// however small it is beside digamma(z).
template <class T>
FASTVI_HD T digamma_difference(T z, T other, T distance) {
  constexpr T shift = T(gamma_shift<T>);
  const bool is_small = (other < z ? other : z) < shift;
  T steps = distance / other / z;
  for (int step = 1; step < gamma_shift<T>; ++step) steps += distance / ((z + T(step)) * (other + T(step)));
  const T first = is_small ? z + shift : z;
  const T inverse = T(1) / first, inverse_last = T(1) / (first + distance), ratio = distance * inverse;
  const T tails =
      ratio * inverse_last * (inverse + inverse_last) * digamma_tail(inverse * inverse, inverse_last * inverse_last);
  return log1p(ratio) + (T(0.5) * ratio * inverse_last + tails) + (is_small ? steps : T(0));
}

// ln Gamma(x + r) - ln Gamma(r) - ln Gamma(x + 1) for x >= 0, r > 0. With the smaller of the two, a, and the larger, b,
// it is ln(r / (x + r)) + ln Gamma(a + b + 1) - ln Gamma(b + 1) - ln Gamma(a + 1); Stirling's series of each, from
// gamma_shift on or `lift` above it, leaves a ln((a + b) / a) + (b + 1/2) ln(1 + a / b) and small numbers. The error is
// in proportion to these, not to the ln Gamma, which cancel where a number is large. NaN where a number is below 0.
template <class T>
FASTVI_HD T log_rising_coefficient(T x, T r) {
  constexpr int shift = gamma_shift<T>;
  const T a = x < r ? x : r, b = x < r ? r : x;
  const bool lifts_a = a < T(shift), lifts_b = b < T(shift);
  const T lift = lifts_a ? T(shift) : T(0);
  const T first = a + lift, second = lifts_b ? b + T(shift) : b, sum = second + a;
  const T inverse_first = T(1) / first, inverse_second = T(1) / second;
  constexpr int squarings = sizeof(T) == 4 ? 2 : 3;
  static_assert(1 << squarings == shift);
  T power = inverse_first;  // ^shift
  for (int count = 0; count < squarings; ++count) power *= power;
  const T lifted_a = rising_product(a) * power, lifted_b = rising_product(b), lifted_sum = rising_product(a + b);
  const T lifted = (lifts_a ? lifted_a : T(1)) * (lifts_b ? lifted_b : T(1));
  const T part = r / ((x + r) * (lifts_b ? lifted_sum : T(1)));
  const T small = log(lifted * part * std::sqrt(inverse_first)) + (lift - half_log_two_pi<T>);
  const T corrections =
      stirling_correction(T(1) / sum) - stirling_correction(inverse_second) - stirling_correction(inverse_first);
  const T result =
      a * log(sum * inverse_first) + (second + T(0.5)) * log1p_unit(a * inverse_second) + (small + corrections);
  const T none = x == T(0) ? T(0) : result;
  return a < T(0) ? not_a_number<T> : none;
}

}  // namespace fastvi

// The log-likelihood of the Poisson distribution with the rate exp(log_rate), one dimension at a time, and its
// derivatives: x log_rate - exp(log_rate) - ln Gamma(x + 1).
#pragma once

#include <array>
#include <cstddef>

#include "exp.h"
#include "gamma.h"

namespace fastvi {

// x + 1, of which the gamma function is taken; NaN below 1.
template <class T>
FASTVI_HD T poisson_argument(T x) {
  return x < T(0) ? not_a_number<T> : x + T(1);
}

// What x is multiplied with: 0 in place of an infinity that a rate of zero makes of x = 0 (0 ln 0 = 0), or that the
// rate itself outweighs.
template <class T>
FASTVI_HD T poisson_weight(T x, T log_rate) {
  const T of_no_rate = x == T(0) ? T(0) : log_rate;
  const T not_above = log_rate == infinity<T> ? T(0) : log_rate;
  return log_rate == -infinity<T> ? of_no_rate : not_above;
}

template <class T>
struct PoissonLogDensity {
  static constexpr std::size_t operands = 2;
  static constexpr double cost = 3.0;

  FASTVI_HD T value(T x, T log_rate) const {
    return (x * poisson_weight(x, log_rate) - exp(log_rate)) - log_gamma(poisson_argument(x));
  }

  FASTVI_HD std::array<T, 2> gradient(T upstream, T x, T log_rate) const {
    return {{upstream * (poisson_weight(x, log_rate) - digamma(poisson_argument(x))), upstream * (x - exp(log_rate))}};
  }

  // Data have no gradient as a rule, and digamma costs more than all else.
  struct OfParameters {
    static constexpr std::size_t operands = 2;
    static constexpr double cost = 0.6;

    FASTVI_HD std::array<T, 2> gradient(T upstream, T x, T log_rate) const {
      return {{T(0), upstream * (x - exp(log_rate))}};
    }
  };
};

}  // namespace fastvi

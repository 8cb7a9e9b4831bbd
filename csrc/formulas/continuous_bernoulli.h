// Terms of the continuous Bernoulli log density (Loaiza-Ganem and Cunningham 2019), x l - softplus(l) + log C(l), one
// dimension at a time, and its derivatives. With C(l) = l / tanh(l/2) it is x l - log((e^l - 1) / l), or, symmetric in
// l and with a = |l|,
//   (x - 1/2) l - s(l),  s(l) = log(sinh(l/2) / (l/2)),        near l = 0, where s is a series in l^2, and
//   x l - max(l, 0) + log(a / (1 - e^-a))                      elsewhere.
// An infinite logit is the density of a certain outcome: minus infinity but at that outcome, where it is infinite.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>

#include "bernoulli.h"
#include "exp.h"
#include "log.h"

namespace fastvi {

// s(l) / l^2 as a function of l^2 <= 1.
FASTVI_HD float log_sinhc_tail(float square) {
  return polynomial(square, 0.041666668F, -0.00034722174F, 5.5089554e-06F, -9.928577e-08F);
}
FASTVI_HD double log_sinhc_tail(double square) {
  return polynomial(square, 0.041666666666666664, -0.00034722222222222055, 5.511463844761539e-06,
                    -1.0333994680402995e-07, 2.087674571263071e-09, -4.403249895313385e-11, 9.530103585668802e-13,
                    -1.9377336539338034e-14);
}

// The derivative s'(l) / l likewise: s'(l) + 1/2 is the distribution's mean.
FASTVI_HD float log_sinhc_slope(float square) {
  return polynomial(square, 0.083333336F, -0.0013888839F, 3.304387e-05F, -7.8639783e-07F);
}
FASTVI_HD double log_sinhc_slope(double square) {
  return polynomial(square, 0.08333333333333333, -0.0013888888888888586, 3.306878306814682e-05, -8.267195716163814e-07,
                    2.0876736863406492e-08, -5.283758295019947e-10, 1.3330990825199535e-11, -3.066054656288215e-13);
}

template <class T>
struct ContinuousBernoulliLogDensity {
  static constexpr std::size_t operands = 2;
  static constexpr double cost = 1.4;

  FASTVI_HD T value(T x, T logit) const {
    const T magnitude = std::fabs(logit), square = logit * logit;
    const T near = (x - T(0.5)) * logit - square * log_sinhc_tail(square);
    const T weight = bernoulli_weight(x, logit);
    const T linear = weight == T(0) ? T(0) : weight * logit;
    const T far = linear + log(magnitude / (T(1) - exp_nonpositive(-magnitude)));
    return magnitude < T(1) ? near : (linear == -infinity<T> ? linear : far);
  }

  FASTVI_HD std::array<T, 2> gradient(T upstream, T x, T logit) const {
    const T magnitude = std::fabs(logit);
    const T weight = bernoulli_weight(x, logit);
    // Zero where x * l is, as in the Bernoulli term.
    const bool certain = weight == T(0) && magnitude == infinity<T>;
    const T exponential = exp_nonpositive(-magnitude);
    const T rest = T(1) / magnitude - exponential / (T(1) - exponential);  // what the mean lacks of the sure outcome
    const T far = weight + (logit < T(0) ? -rest : rest);
    const T near = (x - T(0.5)) - logit * log_sinhc_slope(logit * logit);
    return {{certain ? T(0) : upstream * logit, upstream * (magnitude < T(1) ? near : far)}};
  }
};

}  // namespace fastvi

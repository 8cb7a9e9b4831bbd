// Terms of the diagonal Gaussian, one dimension at a time: divergence, log density, entropy, log ratio, and their
// derivatives (Kingma & Welling 2014, appendix B; Roeder, Wu & Duvenaud 2017 for the detached log ratio).
#pragma once

#include <array>

#include "exp.h"

namespace fastvi {

template <class T>
inline constexpr T log_two_pi = T(1.8378770664093454835606594728112);

// KL(N(mean, exp(logvar)) || N(0, 1)) of one dimension, at least free_bits nats.
template <class T>
struct StandardDivergence {
  T free_bits;

  FASTVI_HD T value(T mean, T logvar) const {
    const T divergence = T(0.5) * (mean * mean + exp_minus_1_minus(logvar));
    return divergence < free_bits ? free_bits : divergence;  // written so that NaN stays
  }

  FASTVI_HD std::array<T, 2> gradient(T upstream, T mean, T logvar) const {
    return {{upstream * mean, T(0.5) * upstream * expm1(logvar)}};
  }
};

// The same where free bits may clamp: a clamped dimension sends no gradient.
template <class T>
struct ClampedStandardDivergence : StandardDivergence<T> {
  FASTVI_HD std::array<T, 2> gradient(T upstream, T mean, T logvar) const {
    const T divergence = T(0.5) * (mean * mean + exp_minus_1_minus(logvar));
    const T passed = divergence < this->free_bits ? T(0) : upstream;
    return StandardDivergence<T>::gradient(passed, mean, logvar);
  }
};

// KL(N(mean, exp(logvar)) || N(prior_mean, exp(prior_logvar))) of one dimension, at least free_bits nats.
template <class T>
struct Divergence {
  T free_bits;

  FASTVI_HD T unclamped(T mean, T logvar, T prior_mean, T prior_logvar) const {
    const T difference = mean - prior_mean;
    return T(0.5) * (difference * difference * exp(-prior_logvar) + exp_minus_1_minus(logvar - prior_logvar));
  }

  FASTVI_HD T value(T mean, T logvar, T prior_mean, T prior_logvar) const {
    const T divergence = unclamped(mean, logvar, prior_mean, prior_logvar);
    return divergence < free_bits ? free_bits : divergence;
  }

  FASTVI_HD std::array<T, 4> gradient(T upstream, T mean, T logvar, T prior_mean, T prior_logvar) const {
    const T passed = unclamped(mean, logvar, prior_mean, prior_logvar) < free_bits ? T(0) : upstream;
    const T difference = mean - prior_mean;
    const T scaled = difference * exp(-prior_logvar);
    const T variance_ratio_minus_1 = expm1(logvar - prior_logvar);
    const T by_mean = passed * scaled;
    return {{by_mean, T(0.5) * passed * variance_ratio_minus_1, -by_mean,
             T(-0.5) * passed * (difference * scaled + variance_ratio_minus_1)}};
  }
};

template <class T>
struct NormalLogDensity {
  FASTVI_HD T value(T x, T mean, T logvar) const {
    const T difference = x - mean;
    return T(-0.5) * (difference * difference * exp(-logvar) + logvar + log_two_pi<T>);
  }

  FASTVI_HD std::array<T, 3> gradient(T upstream, T x, T mean, T logvar) const {
    const T difference = x - mean;
    const T scaled = difference * exp(-logvar);
    const T by_mean = upstream * scaled;
    return {{-by_mean, by_mean, T(0.5) * upstream * (difference * scaled - T(1))}};
  }
};

template <class T>
struct NormalEntropy {
  FASTVI_HD T value(T logvar) const { return T(0.5) * (logvar + (T(1) + log_two_pi<T>)); }

  FASTVI_HD std::array<T, 1> gradient(T upstream, T) const { return {{T(0.5) * upstream}}; }
};

// log p(z) - log q(z) of one dimension for z = mean + scale * noise, and what comes back along the sampled path:
// the derivative by z, that by logvar outside of z, and those by the prior's parameters.
template <class T>
struct LogRatio {
  static FASTVI_HD T value(T noise, T logvar, T z, T prior_mean, T prior_logvar, T prior_precision) {
    const T difference = z - prior_mean;
    return T(0.5) * ((noise * noise + logvar) - (difference * difference * prior_precision + prior_logvar));
  }

  static FASTVI_HD T standard_value(T noise, T logvar, T z) { return T(0.5) * (noise * noise - z * z + logvar); }
};

}  // namespace fastvi

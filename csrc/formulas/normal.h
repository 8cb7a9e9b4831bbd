// Terms of the diagonal Gaussian, one dimension at a time: divergence, log density, entropy, log ratio, and their
// derivatives (Kingma & Welling 2014, appendix B; Roeder, Wu & Duvenaud 2017 for the detached log ratio). A term's cost
// is the nanoseconds that a thread of a CPU takes for it, which decide only whether more threads are worth waking.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>

#include "exp.h"

namespace fastvi {

template <class T>
inline constexpr T log_two_pi = T(1.8378770664093454835606594728112);

// KL(N(mean, exp(logvar)) || N(0, 1)) of one dimension, at least free_bits nats.
template <class T>
struct StandardDivergence {
  static constexpr std::size_t operands = 2;
  static constexpr double cost = 0.6;

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
  static constexpr double cost = 1.2;

  FASTVI_HD std::array<T, 2> gradient(T upstream, T mean, T logvar) const {
    const T divergence = T(0.5) * (mean * mean + exp_minus_1_minus(logvar));
    const T passed = divergence < this->free_bits ? T(0) : upstream;
    return StandardDivergence<T>::gradient(passed, mean, logvar);
  }
};

// KL(N(mean, exp(logvar)) || N(prior_mean, exp(prior_logvar))) of one dimension, at least free_bits nats.
template <class T>
struct Divergence {
  static constexpr std::size_t operands = 4;
  static constexpr double cost = 1.2;

  T free_bits;

  FASTVI_HD T unclamped(T mean, T logvar, T prior_mean, T prior_logvar) const {
    const T square = scale_by_exp(mean - prior_mean, -prior_logvar).square;
    return T(0.5) * (square + exp_minus_1_minus(logvar - prior_logvar));
  }

  FASTVI_HD T value(T mean, T logvar, T prior_mean, T prior_logvar) const {
    const T divergence = unclamped(mean, logvar, prior_mean, prior_logvar);
    return divergence < free_bits ? free_bits : divergence;
  }

  FASTVI_HD std::array<T, 4> gradient(T upstream, T mean, T logvar, T prior_mean, T prior_logvar) const {
    const T passed = unclamped(mean, logvar, prior_mean, prior_logvar) < free_bits ? T(0) : upstream;
    const ScaledByExp<T> scaled = scale_by_exp(mean - prior_mean, -prior_logvar);
    const T variance_ratio_minus_1 = expm1(logvar - prior_logvar);
    const T by_mean = passed * scaled.linear;
    return {{by_mean, T(0.5) * passed * variance_ratio_minus_1, -by_mean,
             T(-0.5) * passed * (scaled.square + variance_ratio_minus_1)}};
  }
};

template <class T>
struct NormalLogDensity {
  static constexpr std::size_t operands = 3;
  static constexpr double cost = 0.6;

  FASTVI_HD std::array<T, 2> prepare(T logvar) const {
    const auto scale = ExpScale<T>::of(-logvar);
    return {{scale.quarter, scale.weight}};
  }

  FASTVI_HD T value(T x, T mean, T logvar, T quarter, T weight) const {
    return T(-0.5) * (ExpScale<T>{quarter, weight}.scale(x - mean).square + logvar + log_two_pi<T>);
  }

  FASTVI_HD T value(T x, T mean, T logvar) const {
    const auto scale = ExpScale<T>::of(-logvar);
    return value(x, mean, logvar, scale.quarter, scale.weight);
  }

  FASTVI_HD std::array<T, 3> gradient(T upstream, T x, T mean, T logvar) const {
    const ScaledByExp<T> scaled = scale_by_exp(x - mean, -logvar);
    const T by_mean = upstream * scaled.linear;
    return {{-by_mean, by_mean, T(0.5) * upstream * (scaled.square - T(1))}};
  }
};

template <class T>
struct NormalEntropy {
  static constexpr std::size_t operands = 1;
  static constexpr double cost = 0.1;

  FASTVI_HD T value(T logvar) const { return T(0.5) * (logvar + (T(1) + log_two_pi<T>)); }

  FASTVI_HD std::array<T, 1> gradient(T upstream, T) const { return {{T(0.5) * upstream}}; }
};

// A sample. CUDA's compiler may fuse a product and a sum into one rounding, here but not there: by name it does so
// everywhere, because a sample's bits do not depend on the kernel that draws it. The CPU's code never fuses.
template <class T>
FASTVI_HD T sample_of(T mean, T scale, T noise) {
#if defined(__CUDACC__) || defined(FASTVI_CUDA_ON_HOST)
  return std::fma(scale, noise, mean);
#else
  return mean + scale * noise;
#endif
}

// Above this logarithm of the two variances' ratio, that of the deviations is beyond T, or nearly.
template <class T>
inline constexpr T far_apart = sizeof(T) == 4 ? T(177) : T(1419);

// What the log ratio log p(z) - log q(z) takes of one dimension's parameters, z = mean + scale * noise. In units of the
// prior's deviation z - prior_mean is u = shift + ratio * noise, free of the rounding of z: where q is the prior, u is
// the noise and the ratio exactly zero, however small the variance. Where q is that much wider that the ratio is
// infinite, the units are those of q's deviation, u = shift + noise. (No two conditions are joined by && or ||, which
// gcc makes branches of, and no vector code.)
template <class T>
struct LogRatio {
  T shift;          // (mean - prior_mean) e^(-prior_logvar / 2)
  T ratio;          // e^((logvar - prior_logvar) / 2)
  T log_variances;  // logvar - prior_logvar

  static FASTVI_HD LogRatio of(T mean, T logvar, T prior_mean, T prior_logvar) {
    const T log_variances = logvar - prior_logvar;
    const bool far = log_variances > far_apart<T>;
    return {scale_by_exp(mean - prior_mean, T(-0.5) * (far ? logvar : prior_logvar)).linear,
            far ? infinity<T> : exp(T(0.5) * log_variances), log_variances};
  }

  // Of a finite mean in units of a deviation that is almost infinite nothing is left.
  static FASTVI_HD LogRatio with_standard_prior(T mean, T logvar, T scale) {
    const bool far = logvar > far_apart<T>;
    const T left = mean - mean == T(0) ? T(0) : mean;
    return {far ? left : mean, far ? infinity<T> : scale, logvar};
  }

  // Of two infinities against each other one is left: they stand for numbers whose sum is beyond T, too.
  FASTVI_HD T standardised(T noise) const {
    const T scaled = (ratio == infinity<T> ? T(1) : ratio) * noise, sum = shift + scaled;
    const T left = scaled == scaled ? shift : sum;
    return sum == sum ? sum : left;
  }

  // What `standardised` gives in units of the prior's deviation.
  FASTVI_HD T in_prior_units(T u) const {
    const T scaled = u * (ratio == infinity<T> ? infinity<T> : T(1));
    return u == T(0) ? u : scaled;
  }

  FASTVI_HD T value(T noise) const {
    const T u = in_prior_units(standardised(noise));
    return T(0.5) * ((noise - u) * (noise + u) + log_variances);
  }
};

// The root of what takes u to the derivative of the prior's log density, u e^(-prior_logvar / 2) in its own units.
template <class T>
FASTVI_HD T prior_root(T logvar, T prior_logvar) {
  return exp_quarter(logvar - prior_logvar > far_apart<T> ? logvar - T(2) * prior_logvar : -prior_logvar);
}

// How the log densities' derivatives by z, noise e^(-logvar / 2) and u e^(-prior_logvar / 2), are joined: each times
// its weight here, then both times root^2, so that two that are equal cancel before they can overflow. The first one
// comes in where q's parameters are detached; else it cancels what reaches z through them.
template <class T>
struct LogRatioPath {
  T root, posterior_weight, prior_weight;

  static FASTVI_HD LogRatioPath of(T logvar, T prior_logvar, bool detach_posterior) {
    const bool by_posterior = detach_posterior && logvar < prior_logvar;
    const T apart = exp(T(-0.5) * std::fabs(logvar - prior_logvar));
    return {by_posterior ? exp_quarter(-logvar) : prior_root(logvar, prior_logvar),
            detach_posterior ? (by_posterior ? T(1) : apart) : T(0), by_posterior ? apart : T(1)};
  }
};

// What one sample sends back, where `upstream` comes to the log ratio and by_z to z.
template <class T>
struct LogRatioBackward {
  T by_path;         // to the mean, besides by_z, once multiplied by root^2
  T by_half_logvar;  // less what logvar gets outside of z
  T by_prior_mean;   // once multiplied by prior_root^2
  T by_prior_logvar;

  FASTVI_HD LogRatioBackward(const LogRatio<T>& terms, const LogRatioPath<T>& path, T noise, bool detach_posterior,
                             T upstream, T scaled_by_z) {
    const T u = terms.standardised(noise);
    by_prior_mean = upstream * u;
    by_prior_logvar = T(0.5) * (by_prior_mean * terms.in_prior_units(u) - upstream);
    const T by_posterior = detach_posterior ? upstream * noise : T(0);
    by_path = by_posterior * path.posterior_weight - by_prior_mean * path.prior_weight;
    // Where z itself is infinite its square outweighs it.
    const T from_ratio = by_posterior - terms.ratio * by_prior_mean;
    const bool outweighs = std::fabs(from_ratio) == infinity<T>;
    by_half_logvar = (outweighs ? from_ratio : scaled_by_z + from_ratio) * noise;
  }
};

// The gradients, from the sums over samples of what came to z and of what LogRatioBackward sends.
template <class T>
FASTVI_HD T gradient_by_mean(T z_sum, T path_sum, T root) {
  return z_sum + path_sum * root * root;
}

template <class T>
FASTVI_HD T gradient_by_logvar(T half_logvar_sum, T upstream_sum, bool detach_posterior) {
  return T(0.5) * half_logvar_sum + (detach_posterior ? T(0) : T(0.5) * upstream_sum);
}

template <class T>
FASTVI_HD T gradient_by_prior_mean(T prior_mean_sum, T logvar, T prior_logvar) {
  const T root = prior_root(logvar, prior_logvar);
  return prior_mean_sum * root * root;
}

}  // namespace fastvi

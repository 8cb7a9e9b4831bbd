// Terms of the Bernoulli log-likelihood with logits, x * logit - softplus(logit), one dimension at a time. An infinite
// logit is certainty: an outcome that it is sure of and that comes true has likelihood one, by 0 * inf = 0.
#pragma once

#include <array>
#include <cstddef>

#include "exp.h"
#include "log.h"
#include "logistic.h"

namespace fastvi {

// softplus(l) = max(l, 0) + log(1 + e), e = exp(-|l|). A sum of the logarithms is the logarithm of a product, which is
// kept as "product - 1" so that small terms keep their digits: one log1p serves many dimensions.
template <class T>
struct BernoulliTerm {
  T linear;       // x * l - max(l, 0)
  T exponential;  // exp(-|l|)
};

// What l is multiplied with in x * l - max(l, 0).
template <class T>
FASTVI_HD T bernoulli_weight(T x, T logit) {
  return logit < T(0) ? x : x - T(1);
}

template <class T>
FASTVI_HD BernoulliTerm<T> bernoulli_term(T x, T logit) {
  const T weight = bernoulli_weight(x, logit);
  const T minus_magnitude = logit < T(0) ? logit : -logit;  // NaN stays, and with it the exponential
  return {weight == T(0) ? T(0) : weight * logit, exp_nonpositive(minus_magnitude)};
}

// How many factors 1 + exp(-|l|), each at most two, such a product takes: it stays far from overflow in float32.
inline constexpr int factors_of_a_product = 48;

template <class T>
FASTVI_HD T append_to_product_minus_1(T product_minus_1, T exponential) {
  return product_minus_1 * exponential + exponential + product_minus_1;
}

// x - sigmoid(l), from the exponential that the value already needed.
template <class T>
FASTVI_HD T bernoulli_residual(T x, T logit, T exponential) {
  const T numerator = logit < T(0) ? exponential : T(1);
  return x - numerator / (T(1) + exponential);
}

template <class T>
struct BernoulliLogDensity {
  static constexpr std::size_t operands = 2;
  static constexpr double cost = 0.8;

  FASTVI_HD T value(T x, T logit) const {
    const BernoulliTerm<T> term = bernoulli_term(x, logit);
    return term.linear - log1p_unit(term.exponential);
  }

  FASTVI_HD std::array<T, 2> gradient(T upstream, T x, T logit) const {
    const T minus_magnitude = logit < T(0) ? logit : -logit;
    // Zero where x * l is: the derivative that PyTorch gives 0 * log 0 (torch.xlogy).
    const bool certain = bernoulli_weight(x, logit) == T(0) && minus_magnitude == -infinity<T>;
    return {
        {certain ? T(0) : upstream * logit, upstream * bernoulli_residual(x, logit, exp_nonpositive(minus_magnitude))}};
  }
};

}  // namespace fastvi

// The Bernoulli log-likelihood x * l - log(1 + exp(l)) in long double.
#pragma once

#include "check.h"

namespace fastvi::test {

inline Exact softplus_exact(Exact logit) { return std::max(logit, Exact{0}) + std::log1p(std::exp(-std::fabs(logit))); }
inline Exact sigmoid_exact(Exact logit) { return 1 / (1 + std::exp(-logit)); }

inline Bounded log_prob_exact(Exact x, Exact logit) {
  return {x * logit - softplus_exact(logit), std::fabs(x * logit) + std::fabs(logit) + softplus_exact(logit)};
}

}  // namespace fastvi::test

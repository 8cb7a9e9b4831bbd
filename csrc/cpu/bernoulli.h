// How the Bernoulli log-likelihood is summed over columns: one logarithm for many of them.
#pragma once

#include <array>
#include <cstdint>

#include "../formulas/bernoulli.h"
#include "rows.h"

namespace fastvi {

// Sum of the log-likelihood for the logits that logit(d) gives; visit(d, logit, exponential) may use them again. Each
// lane multiplies the factors 1 + exp(-|l|) of several columns before it takes a logarithm.
template <class T, class Logit, class Visit>
FASTVI_HD T sum_log_prob(std::int64_t count, const T* x, const Logit& logit, const Visit& visit) {
  constexpr int lanes = simd_lanes<T> * accumulators;
  constexpr std::int64_t most = std::int64_t{factors_of_a_product} * lanes;
  T total = 0;
  for (std::int64_t first = 0; first < count; first += most) {
    const std::int64_t length = std::min(most, count - first);
    T linear[lanes] = {}, product_minus_1[lanes] = {};
    const auto add = [&](std::int64_t d, int lane) {
      const T l = logit(d);
      const BernoulliTerm<T> term = bernoulli_term(x[d], l);
      linear[lane] += term.linear;
      product_minus_1[lane] = append_to_product_minus_1(product_minus_1[lane], term.exponential);
      visit(d, l, term.exponential);
    };
    std::int64_t d = first;
    for (; d + lanes <= first + length; d += lanes) {
#pragma omp simd
      for (int lane = 0; lane < lanes; ++lane) add(d + lane, lane);
    }
    const int rest = static_cast<int>(first + length - d);
#pragma omp simd
    for (int lane = 0; lane < rest; ++lane) add(d + lane, lane);
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) linear[lane] -= log1p(product_minus_1[lane]);
    total += sum_lanes<T, lanes>(linear);
  }
  return total;
}

template <class T>
inline constexpr bool adds_values<BernoulliLogDensity<T>> = false;

template <class T>
T sum_term(const BernoulliLogDensity<T>&, const std::array<const T*, 2>& row, std::int64_t count) {
  const T* const logits = row[1];
  return sum_log_prob<T>(count, row[0], [logits](std::int64_t d) { return logits[d]; }, [](std::int64_t, T, T) {});
}

}  // namespace fastvi

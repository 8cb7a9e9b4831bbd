// How the Bernoulli log-likelihood is summed over columns: one logarithm for many of them.
#pragma once

#include <array>

#include "../formulas/bernoulli.h"
#include "rows.cuh"

namespace fastvi {

// Each thread multiplies the factors 1 + exp(-|l|) of several columns before it takes a logarithm.
template <class T>
class LogProbSum {
 public:
  FASTVI_DEVICE void add_term(const BernoulliTerm<T>& term) {
    linear_ += term.linear;
    product_minus_1_ = append_to_product_minus_1(product_minus_1_, term.exponential);
    if (++count_ == factors_of_a_product) carry();
  }

  // Columns of x and of the logits.
  FASTVI_DEVICE void add(const std::array<T, 2>& values) { add_term(bernoulli_term(values[0], values[1])); }

  FASTVI_DEVICE T result() {
    carry();
    return sum_.result();
  }

 private:
  FASTVI_DEVICE void carry() {
    sum_.add(linear_ - log1p(product_minus_1_));
    linear_ = product_minus_1_ = T(0);
    count_ = 0;
  }

  T linear_ = T(0), product_minus_1_ = T(0);
  int count_ = 0;
  LongSum<T> sum_;
};

template <class T>
LogProbSum<T> empty_sum(const BernoulliLogDensity<T>&) {
  return {};
}

}  // namespace fastvi

// softplus(x) = ln(1 + e^x) and its derivative, the logistic function, both from e^-|x| so that neither tail loses
// digits.
#pragma once

#include <cmath>

#include "exp.h"
#include "log.h"

namespace fastvi {

template <class T>
struct SoftplusSigmoid {
  T softplus;
  T sigmoid;
};

template <class T>
FASTVI_HD T softplus_from(T x, T exp_minus_abs) {
  return (x > T(0) ? x : T(0)) + log1p_unit(exp_minus_abs);
}

// With p = e / (1 + e), the smaller of the two probabilities: 1 - p on the right, e - e p on the left, where dividing
// alone would add the rounding of 1 + e to the result in full.
template <class T>
FASTVI_HD T sigmoid_from(T x, T exp_minus_abs) {
  const T smaller = exp_minus_abs / (T(1) + exp_minus_abs);
  const T factor = x < T(0) ? exp_minus_abs : T(1);
  return factor - factor * smaller;
}

template <class T>
FASTVI_HD T softplus(T x) {
  return softplus_from(x, exp_nonpositive(-std::fabs(x)));
}

template <class T>
FASTVI_HD T sigmoid(T x) {
  return sigmoid_from(x, exp_nonpositive(-std::fabs(x)));
}

template <class T>
FASTVI_HD SoftplusSigmoid<T> softplus_sigmoid(T x) {
  const T exp_minus_abs = exp_nonpositive(-std::fabs(x));
  return {softplus_from(x, exp_minus_abs), sigmoid_from(x, exp_minus_abs)};
}

}  // namespace fastvi

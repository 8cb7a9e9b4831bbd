// The log-likelihood of the negative binomial distribution, alone and with extra zeros, one dimension at a time, and
// its derivatives: ln C + r ln sigmoid(-l) + x ln sigmoid(l), with C = Gamma(x + r) / (Gamma(r) Gamma(x + 1)), the
// number r of failures that are counted to and the logits l of success.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>

#include "exp.h"
#include "gamma.h"
#include "log.h"
#include "logistic.h"

namespace fastvi {

// Success, of the probability sigmoid(l), and failure, from one exponential of -|l|.
template <class T>
struct Outcomes {
  T minus_magnitude, exponential, log1p_exponential;
  bool failure_is_likely;

  explicit FASTVI_HD Outcomes(T logit)
      : minus_magnitude(logit < T(0) ? logit : -logit),
        exponential(exp_nonpositive(minus_magnitude)),
        log1p_exponential(log1p_unit(exponential)),
        failure_is_likely(logit < T(0)) {}

  // r ln sigmoid(-l) + x ln sigmoid(l). An infinite logit is certainty: 0 inf = 0.
  FASTVI_HD T log_prob(T x, T r) const {
    const T successes = x * log_success(), failures = r * log_failure();
    return (x == T(0) ? T(0) : successes) + (r == T(0) ? T(0) : failures);
  }

  FASTVI_HD T log_success() const { return (failure_is_likely ? minus_magnitude : T(0)) - log1p_exponential; }
  FASTVI_HD T log_failure() const { return (failure_is_likely ? T(0) : minus_magnitude) - log1p_exponential; }

  // The derivatives of the log-likelihood. That of x ln sigmoid(l) by x = 0 is 0 where the logarithm is infinite, as
  // torch.xlogy has it.
  FASTVI_HD T by_x(T x, T r) const {
    const T of_x = log_success();
    const T of_zero = of_x == -infinity<T> ? T(0) : of_x;
    return digamma_difference(x + T(1), x + r, r - T(1)) + (x == T(0) ? of_zero : of_x);
  }
  FASTVI_HD T by_r(T x, T r) const { return digamma_difference(r, x + r, x) + log_failure(); }
  FASTVI_HD T by_logit(T x, T r) const {
    const T likely = T(1) / (T(1) + exponential), unlikely = exponential * likely;
    return failure_is_likely ? x * likely - r * unlikely : x * unlikely - r * likely;
  }
};

template <class T>
struct NegativeBinomialLogDensity {
  static constexpr std::size_t operands = 3;
  static constexpr double cost = 8.0;

  FASTVI_HD T value(T x, T r, T logit) const {
    return log_rising_coefficient(x, r) + Outcomes<T>(logit).log_prob(x, r);
  }

  FASTVI_HD std::array<T, 3> gradient(T upstream, T x, T r, T logit) const {
    const Outcomes<T> outcomes(logit);
    return {{upstream * outcomes.by_x(x, r), upstream * outcomes.by_r(x, r), upstream * outcomes.by_logit(x, r)}};
  }

  // Data have no gradient as a rule, and theirs costs as much as both others.
  struct OfParameters {
    static constexpr std::size_t operands = 3;
    static constexpr double cost = 4.0;

    FASTVI_HD std::array<T, 3> gradient(T upstream, T x, T r, T logit) const {
      const Outcomes<T> outcomes(logit);
      return {{T(0), upstream * outcomes.by_r(x, r), upstream * outcomes.by_logit(x, r)}};
    }
  };
};

// A likelihood of counts, whose logarithm is `count`, with zeros besides, of the probability sigmoid(g).
template <class T>
struct ZeroInflation {
  T count, gate, apart;

  FASTVI_HD ZeroInflation(T log_prob, T gate_logit)
      : count(log_prob),
        gate(gate_logit),
        apart(gate == count ? T(0) : gate - count) {}  // two infinities are no distance apart

  // ln(sigmoid(g) + sigmoid(-g) e^count) where x = 0, and ln sigmoid(-g) + count elsewhere.
  FASTVI_HD T log_prob(T x) const {
    const Outcomes<T> outcomes(gate);
    const T regular = count + outcomes.log_failure();
    const T larger = apart > T(0) ? outcomes.log_success() : regular;
    const T zero = larger + log1p_unit(exp_nonpositive(-std::fabs(apart)));
    return x == T(0) ? zero : regular;
  }

  // What the derivatives of `count` are multiplied with: the probability that a zero is one of the counts' own.
  FASTVI_HD T passed(T x, T upstream) const {
    const T of_zero = upstream * sigmoid(-apart);
    return x == T(0) ? of_zero : upstream;
  }

  // The probability that x is an extra zero, less the same before it was seen; as a product, in which nothing cancels.
  FASTVI_HD T by_gate(T x) const {
    const T of_zero = -expm1(count) * sigmoid(apart) * sigmoid(-gate), of_others = -sigmoid(gate);
    return x == T(0) ? of_zero : of_others;
  }
};

template <class T>
struct ZeroInflatedNegativeBinomialLogDensity {
  static constexpr std::size_t operands = 4;
  static constexpr double cost = 9.0;

  FASTVI_HD T value(T x, T r, T logit, T gate) const {
    return ZeroInflation<T>(NegativeBinomialLogDensity<T>{}.value(x, r, logit), gate).log_prob(x);
  }

  // By x = 0 there is no derivative: it is 0.
  FASTVI_HD std::array<T, 4> gradient(T upstream, T x, T r, T logit, T gate) const {
    const Outcomes<T> outcomes(logit);
    const ZeroInflation<T> inflation(outcomes.log_prob(T(0), r), gate);
    const T passed = inflation.passed(x, upstream), by_x = upstream * outcomes.by_x(x, r);
    return {{x == T(0) ? T(0) : by_x, scaled(passed, outcomes.by_r(x, r)), scaled(passed, outcomes.by_logit(x, r)),
             upstream * inflation.by_gate(x)}};
  }

  struct OfParameters {
    static constexpr std::size_t operands = 4;
    static constexpr double cost = 5.0;

    FASTVI_HD std::array<T, 4> gradient(T upstream, T x, T r, T logit, T gate) const {
      const Outcomes<T> outcomes(logit);
      const ZeroInflation<T> inflation(outcomes.log_prob(T(0), r), gate);
      const T passed = inflation.passed(x, upstream);
      return {{T(0), scaled(passed, outcomes.by_r(x, r)), scaled(passed, outcomes.by_logit(x, r)),
               upstream * inflation.by_gate(x)}};
    }
  };

 private:
  // The derivative of what has no part in the likelihood is 0, also where it is infinite.
  static FASTVI_HD T scaled(T passed, T derivative) {
    const T product = passed * derivative;
    return passed == T(0) ? T(0) : product;
  }
};

}  // namespace fastvi

// The continuous Bernoulli log density against x l - log((e^l - 1) / l), near l = 0 and at its extremes, too.
#include "row_operations.h"

namespace fastvi::test {
namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

// s(l) = log(sinh(l/2) / (l/2)) and its derivative: near zero the sum of B_2k l^2k / (2k (2k)!), B the Bernoulli
// numbers.
struct LogSinhc {
  Exact value = 0, slope = 0;

  explicit LogSinhc(Exact l) {
    const Exact magnitude = std::fabs(l);
    if (magnitude >= Exact{0.25}) {
      const Exact exponential = std::exp(-magnitude);
      value = magnitude / 2 + std::log((1 - exponential) / magnitude);
      slope = std::copysign(Exact{0.5} + exponential / (1 - exponential) - 1 / magnitude, l);
      return;
    }
    const Exact numbers[] = {1.0L / 6,       -1.0L / 30, 1.0L / 42,      -1.0L / 30,     5.0L / 66,
                             -691.0L / 2730, 7.0L / 6,   -3617.0L / 510, 43867.0L / 798, -174611.0L / 330};
    Exact power = 1, factorial = 1;
    for (int k = 1; k <= 10; ++k) {
      const Exact order = 2 * k;
      factorial *= order * (order - 1);
      slope += numbers[k - 1] * power * l / factorial;
      power *= l * l;
      value += numbers[k - 1] * power / (order * factorial);
    }
  }
};

Term<2> term_exact(Exact x, Exact l) {
  const LogSinhc s(l);
  const Exact size = std::fabs(l) < 1 ? (std::fabs(x) + Exact{0.5}) * std::fabs(l) + s.value
                                      : (std::fabs(x) + 2) * std::fabs(l) + std::fabs(std::log(std::fabs(l)));
  return {{(x - Exact{0.5}) * l - s.value, size}, {{{l, std::fabs(l)}, {x - Exact{0.5} - s.slope, std::fabs(x) + 1}}}};
}

template <class S>
void check_number(S found, const Bounded& expected, const std::string& what) {
  if (std::isnan(expected.value)) return check(std::isnan(exact(found)), what + " is not NaN");
  if (std::isinf(expected.value)) {
    return check(exact(found) == expected.value, what + ": " + std::to_string(exact(found)));
  }
  check_close(std::vector<S>{found}, {expected}, 1, what);
}

template <class S>
void check_logits() {
  const RowKernel<S, 2> kernel("continuous_bernoulli_log_prob");
  for (const double logit : {0.0, 1e-30, 1e-9, 1e-4, 0.01, 0.24, 0.26, 0.5, 0.99, 1.0, 1.01, 2.0, 10.0, 80.0, 1e4}) {
    for (const double x : {0.0, 0.25, 0.5, 0.75, 1.0}) {
      for (const double sign : {-1.0, 1.0}) {
        const std::string what =
            "continuous_bernoulli_log_prob of " + std::to_string(x) + ", " + std::to_string(sign * logit);
        const Exact l = exact(stored<S>(sign * logit));
        const Term<2> expected = term_exact(x, l);
        check_number(row_value(kernel, {x, sign * logit}), expected.value, what);
        const auto gradient = row_gradient(kernel, {x, sign * logit});
        check_number(gradient[0], expected.gradient[0], what + ", gradient of x");
        check_number(gradient[1], expected.gradient[1], what + ", gradient of logits");
      }
    }
  }
}

template <class S>
void check_extremes() {
  const RowKernel<S, 2> kernel("continuous_bernoulli_log_prob");
  struct Case {
    double x, logit, value, by_x, by_logit;
  };
  constexpr Case cases[] = {{1, infinite, infinite, 0, 0},
                            {0, -infinite, infinite, 0, 0},
                            {0, infinite, -infinite, infinite, -1},
                            {1, -infinite, -infinite, -infinite, 1},
                            {0.25, infinite, -infinite, infinite, -0.75},
                            {nan, 0, nan, 0, nan},
                            {0.5, nan, nan, nan, nan},
                            {nan, infinite, nan, infinite, nan}};
  for (const Case& each : cases) {
    const std::string what =
        "continuous_bernoulli_log_prob of " + std::to_string(each.x) + ", " + std::to_string(each.logit);
    check_number(row_value(kernel, {each.x, each.logit}), {each.value, 0}, what);
    const auto gradient = row_gradient(kernel, {each.x, each.logit});
    check_number(gradient[0], {each.by_x, 0}, what + ", gradient of x");
    check_number(gradient[1], {each.by_logit, 0}, what + ", gradient of logits");
  }
}

template <class S>
void check_all() {
  check_row_operation<S, 2>("continuous_bernoulli_log_prob", {},
                            [](const std::array<Exact, 2>& in) { return term_exact(in[0], in[1]); });
  check_logits<S>();
  check_extremes<S>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::for_each_type([]<class S> { fastvi::test::check_all<S>(); });
  return fastvi::test::report("continuous_bernoulli");
}

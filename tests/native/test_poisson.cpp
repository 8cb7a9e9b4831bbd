// The Poisson log-likelihood against x log_rate - e^log_rate - ln Gamma(x + 1), and its extremes.
#include "gamma.h"
#include "row_operations.h"

namespace fastvi::test {
namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();

template <class S>
void check_log_prob() {
  check_row_operation<S, 2>(
      "poisson_log_prob", {},
      [](const std::array<Exact, 2>& in) {
        const auto [x, log_rate] = in;
        const Exact rate = std::exp(log_rate), log_factorial = std::lgamma(x + 1), slope = digamma_exact(x + 1);
        const Exact size = std::fabs(x * log_rate) + rate * (1 + std::fabs(log_rate)) + std::fabs(log_factorial) + 1;
        return Term<2>{{x * log_rate - rate - log_factorial, size},
                       {{{log_rate - slope, std::fabs(log_rate) + std::fabs(slope) + 1},
                         {x - rate, x + rate * (1 + std::fabs(log_rate))}}}};
      },
      {Domain::not_negative});
}

template <class S>
void check_extremes() {
  const RowKernel<S, 2> kernel("poisson_log_prob");
  struct Case {
    double x, log_rate, value;
  };
  constexpr Case cases[] = {{0, -infinite, 0},
                            {1, -infinite, -infinite},
                            {0, infinite, -infinite},
                            {3, infinite, -infinite},
                            {2, 1e4, -infinite},
                            {0, -1e4, 0},
                            {1, 0, -1},
                            {0, 0, -1}};
  for (const Case& each : cases) {
    const S found = row_value(kernel, {each.x, each.log_rate});
    check(exact(found) == each.value, "poisson_log_prob of " + std::to_string(each.x) + ", " +
                                          std::to_string(each.log_rate) + ": " + std::to_string(exact(found)));
  }
  const auto certain = row_gradient(kernel, {0, -infinite});
  check(std::fabs(exact(certain[0]) - 0.5772156649L) < 0.01L, "poisson_log_prob, gradient of a certain zero");
  check(exact(certain[1]) == 0, "poisson_log_prob, gradient of a rate of zero");
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const std::array<double, 2>& numbers : {std::array{nan, 0.0}, {0.0, nan}, {-1.5, 0.0}}) {
    check(std::isnan(exact(row_value(kernel, numbers))), "poisson_log_prob of NaN, or of x below 0, is not NaN");
  }
}

template <class S>
void check_all() {
  check_log_prob<S>();
  check_extremes<S>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::for_each_type([]<class S> { fastvi::test::check_all<S>(); });
  return fastvi::test::report("poisson");
}

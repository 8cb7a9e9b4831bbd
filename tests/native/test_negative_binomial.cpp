// The negative binomial log-likelihood, alone and with extra zeros, against its formula, and its extremes.
#include "gamma.h"
#include "row_operations.h"

namespace fastvi::test {
namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

Exact log_sigmoid_exact(Exact l) { return l < 0 ? l - std::log1p(std::exp(l)) : -std::log1p(std::exp(-l)); }
Exact sigmoid_exact(Exact l) { return 1 / (1 + std::exp(-l)); }

// What is known of one element: the logarithm of its likelihood, the derivatives of that by x, r and l, and the sizes
// of what they are made of.
struct Counted {
  Bounded value;
  std::array<Bounded, 3> gradient;
};

Counted counted(Exact x, Exact r, Exact l) {
  const Exact coefficient = std::lgamma(x + r) - std::lgamma(r) - std::lgamma(x + 1);
  const Exact success = log_sigmoid_exact(l), failure = log_sigmoid_exact(-l), p = sigmoid_exact(l),
              q = sigmoid_exact(-l);
  const Exact a = std::min(x, r), b = std::max(x, r), entropy = a * std::log1p(b / std::max(a, Exact{1e-30L})) + a;
  const Exact size = std::fabs(coefficient) + entropy - x * success - r * failure + 2;
  const Exact by_x = digamma_exact(x + r) - digamma_exact(x + 1), by_r = digamma_exact(x + r) - digamma_exact(r);
  return {{coefficient + r * failure + x * success, size},
          {{{by_x + success, std::fabs(by_x) - success},
            {by_r + failure, by_r - failure},
            {x * q - r * p, x * q + r * p}}}};
}

template <class S>
void check_log_prob() {
  check_row_operation<S, 3>("negative_binomial_log_prob", {},
                            [](const std::array<Exact, 3>& in) {
                              const auto [value, gradient] = counted(in[0], in[1], in[2]);
                              return Term<3>{value, gradient};
                            },
                            {Domain::not_negative, Domain::positive});
}

template <class S>
void check_zero_inflated() {
  check_row_operation<S, 4>("zero_inflated_negative_binomial_log_prob", {},
                            [](const std::array<Exact, 4>& in) {
                              const auto [x, r, l, gate] = in;
                              const Counted regular = counted(x, r, l);
                              const Exact inflation = sigmoid_exact(gate), none = regular.value.value;
                              Term<4> made{regular.value,
                                           {{regular.gradient[0], regular.gradient[1], regular.gradient[2], {}}}};
                              if (x != 0) {
                                made.value.add(log_sigmoid_exact(-gate), 1 + std::fabs(gate));
                                made.gradient[3] = {-inflation, inflation};
                                return made;
                              }
                              const Exact probability = inflation + (1 - inflation) * std::exp(none);
                              const Exact own = (1 - inflation) * std::exp(none) / probability;
                              made.value = {std::log(probability), 2 + std::fabs(gate) - none};
                              made.gradient[0] = {};
                              for (const std::size_t i : {1, 2}) {
                                made.gradient[i].value *= own;
                                made.gradient[i].magnitude *= own * (1 - none);
                              }
                              const Exact by_gate = inflation * (1 - inflation) * (1 - std::exp(none)) / probability;
                              made.gradient[3] = {by_gate, by_gate * (2 - none)};
                              return made;
                            },
                            {Domain::count, Domain::positive});
}

// Numbers so large or so small that the logarithms of the gamma function, taken apart, would leave nothing.
template <class S>
void check_digits() {
  if constexpr (is_narrow<S>) return;
  const RowKernel<S, 3> kernel("negative_binomial_log_prob");
  constexpr Exact epsilon_of_type = std::numeric_limits<ComputeType<S>>::epsilon();
  for (const double x : {0.0, 0.25, 1.0, 2.0, 3.0, 7.0, 8.0, 9.0, 100.0, 1e4, 1e6, 1e7}) {
    for (const double r : {1e-6, 0.01, 0.5, 1.0, 3.0, 5.0, 7.75, 8.0, 30.0, 1e3, 1e5, 1e7}) {
      for (const double shift : {-2.0, 0.0, 3.0}) {
        const double l = std::log((x + 0.5) / r) + shift;
        const Exact exact_x = exact(stored<S>(x)), exact_r = exact(stored<S>(r)), exact_l = exact(stored<S>(l));
        const Counted expected = counted(exact_x, exact_r, exact_l);
        const std::string what =
            "negative_binomial_log_prob of " + std::to_string(x) + ", " + std::to_string(r) + ", " + std::to_string(l);
        const Exact own = 1e-17L * (exact_x + exact_r);  // long double's ln Gamma cancels, too
        const auto error = [&](S found, const Bounded& wanted, Exact of_exact) {
          return std::fabs(exact(found) - wanted.value) / (epsilon_of_type * wanted.magnitude + of_exact);
        };
        check(error(row_value(kernel, {x, r, l}), expected.value, own) < 8, what);
        const auto gradient = row_gradient(kernel, {x, r, l});
        for (const std::size_t i : {0, 1, 2}) {
          check(error(gradient[i], expected.gradient[i], 1e-17L) < 16, what + ", gradient " + std::to_string(i));
        }
      }
    }
  }
}

template <class S>
void check_extremes() {
  const RowKernel<S, 3> kernel("negative_binomial_log_prob");
  struct Case {
    double x, r, l, value;
  };
  constexpr Case cases[] = {{0, 2, -infinite, 0},
                            {1, 2, -infinite, -infinite},
                            {0, 2, infinite, -infinite},
                            {3, 2, infinite, -infinite},
                            {0, 2, -1e4, 0},
                            {0, 0, 1, 0},
                            {2, 0, 1, -infinite},
                            {-1, 2, 0, nan},
                            {1, -2, 0, nan},
                            {nan, 2, 0, nan},
                            {1, nan, 0, nan},
                            {1, 2, nan, nan}};
  const auto same = [](S found, double expected) {
    return std::isnan(expected) ? std::isnan(exact(found)) : exact(found) == expected;
  };
  for (const Case& each : cases) {
    check(same(row_value(kernel, {each.x, each.r, each.l}), each.value),
          "negative_binomial_log_prob of " + std::to_string(each.x) + ", " + std::to_string(each.r) + ", " +
              std::to_string(each.l));
  }
  const RowKernel<S, 4> inflated("zero_inflated_negative_binomial_log_prob");
  struct Inflated {
    double x, l, gate, value;
  };
  constexpr Inflated more[] = {{0, 0, infinite, 0},
                               {0, infinite, infinite, 0},
                               {0, infinite, -infinite, -infinite},
                               {1, 0, infinite, -infinite},
                               {0, -infinite, 0, 0},
                               {0, -infinite, -infinite, 0},
                               {0, 0, nan, nan},
                               {nan, 0, 0, nan},
                               {1, -infinite, 0, -infinite}};
  for (const Inflated& each : more) {
    check(same(row_value(inflated, {each.x, 2, each.l, each.gate}), each.value),
          "zero_inflated_negative_binomial_log_prob of " + std::to_string(each.x) + ", " + std::to_string(each.l) +
              ", " + std::to_string(each.gate));
  }
  for (const double gate : {-1e4, -40.0, 40.0, 1e4}) {
    for (const double l : {-1e4, -40.0, 40.0, 1e4}) {
      for (const double x : {0.0, 1.0}) {
        for (const S each : row_gradient(inflated, {x, 2, l, gate})) {
          check(std::isfinite(exact(each)), "zero_inflated_negative_binomial_log_prob, a gradient that is not finite");
        }
      }
    }
  }
}

template <class S>
void check_all() {
  check_log_prob<S>();
  check_zero_inflated<S>();
  check_digits<S>();
  check_extremes<S>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::for_each_type([]<class S> { fastvi::test::check_all<S>(); });
  return fastvi::test::report("negative_binomial");
}

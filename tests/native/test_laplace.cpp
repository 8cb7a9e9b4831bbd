// The Laplace log density against -(|x - loc| e^(-log_scale) + log_scale + ln 2), and its extremes.
#include "row_operations.h"

namespace fastvi::test {
namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
const Exact log_two_exact = std::log(Exact{2});

Exact sign_of(Exact x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }

template <class S>
void check_density() {
  check_row_operation<S, 3>("laplace_log_prob", {}, [](const std::array<Exact, 3>& in) {
    const auto [x, loc, log_scale] = in;
    const Exact precision = std::exp(-log_scale), difference = x - loc, deviations = std::fabs(difference) * precision;
    // Rounding an exponent by its own size times epsilon does so to the exponential.
    const Exact exponent = 1 + std::fabs(log_scale), spread = (std::fabs(x) + std::fabs(loc)) * precision * exponent;
    const Exact by_loc = sign_of(difference) * precision;
    return Term<3>{{-(deviations + log_scale + log_two_exact), spread + exponent + log_two_exact},
                   {{{-by_loc, precision * exponent}, {by_loc, precision * exponent}, {deviations - 1, spread + 1}}}};
  });
}

// A relative error within rounding, or the same infinity or NaN.
template <class S>
void check_number(S found, Exact expected, Exact magnitude, const std::string& what) {
  if (std::isnan(expected)) return check(std::isnan(exact(found)), what + " is not NaN");
  if (std::isinf(expected)) return check(exact(found) == expected, what + ": " + std::to_string(exact(found)));
  check_close(std::vector<S>{found}, {{expected, magnitude}}, 1, what);
}

template <class S>
void check_extremes() {
  const RowKernel<S, 3> kernel("laplace_log_prob");
  struct Case {
    double x, loc, log_scale;
  };
  // At its own location the density is exact for every scale; else neither e^(-log_scale) nor its product with a number
  // overflows or vanishes before the result does.
  constexpr Case finite[] = {{0.5, 0.5, -1000}, {0, 0, 1000},  {-3, -3, -80}, {1, 0, 80},   {1, 0, -5},
                             {1e-4, 0, -9},     {0, 1e-4, -9}, {2, -1, 0},    {-1, 2, 300}, {0.125, 0.25, 5}};
  for (const Case& each : finite) {
    const std::string what = "laplace_log_prob of " + std::to_string(each.x) + ", " + std::to_string(each.loc) + ", " +
                             std::to_string(each.log_scale);
    const Exact x = exact(stored<S>(each.x)), loc = exact(stored<S>(each.loc));
    const Exact log_scale = exact(stored<S>(each.log_scale)), size = 1 + std::fabs(log_scale);
    const Exact deviations = std::fabs(x - loc) * std::exp(-log_scale);
    const Exact by_loc = sign_of(x - loc) * std::exp(-log_scale);
    check_number(row_value(kernel, {each.x, each.loc, each.log_scale}), -(deviations + log_scale + log_two_exact),
                 deviations * size + size + log_two_exact, what);
    const auto gradient = row_gradient(kernel, {each.x, each.loc, each.log_scale});
    // A float32 below its normal numbers has no relative error to speak of.
    const Exact least = static_cast<Exact>(std::numeric_limits<ComputeType<S>>::min());
    check_number(gradient[0], -by_loc, std::fabs(by_loc) * size + least, what + ", gradient of x");
    check_number(gradient[1], by_loc, std::fabs(by_loc) * size + least, what + ", gradient of loc");
    check_number(gradient[2], deviations - 1, deviations * size + 1, what + ", gradient of log_scale");
  }
  struct Special {
    double x, loc, log_scale, value;
  };
  constexpr Special special[] = {{nan, 0, 0, nan},
                                 {0, nan, 0, nan},
                                 {0, 0, nan, nan},
                                 {infinite, 0, 0, -infinite},
                                 {0, -infinite, 3, -infinite},
                                 {1, 0, -1000, -infinite},
                                 {1, 0, infinite, -infinite},
                                 {infinite, infinite, 0, nan}};
  for (const Special& each : special) {
    check_number(row_value(kernel, {each.x, each.loc, each.log_scale}), each.value, 1,
                 "laplace_log_prob of " + std::to_string(each.x) + ", " + std::to_string(each.loc) + ", " +
                     std::to_string(each.log_scale));
  }
  // The sign of NaN is 0, as in PyTorch; the derivative by the scale has NaN itself.
  for (const std::array<double, 3>& numbers : {std::array{nan, 0.0, 0.0}, {0.0, nan, 0.0}, {1.0, 0.0, nan}}) {
    const auto found = row_gradient(kernel, numbers);
    check(std::isnan(exact(found[2])), "laplace_log_prob, the scale's gradient of NaN is not NaN");
    for (const std::size_t i : {0, 1}) {
      const bool fits = std::isnan(numbers[2]) ? std::isnan(exact(found[i])) : exact(found[i]) == 0;
      check(fits, "laplace_log_prob, a gradient of NaN");
    }
  }
}

// A tiny upstream gradient times a huge e^(-log_scale) is finite.
template <class S>
void check_scaled_upstream() {
  using T = ComputeType<S>;
  if constexpr (!is_narrow<S>) {
    const T exponent = std::is_same_v<T, float> ? T(95) : T(720);
    const S upstream = std::numeric_limits<T>::min(), x = 1, loc = 0, log_scale = -exponent;
    const RowKernel<S, 3> kernel("laplace_log_prob");
    S by_x = 0;
    kernel.backward({1, 1, 1}, {{{&x, 0, 0}, {&loc, 0, 0}, {&log_scale, 0, 0}}}, {&upstream, 0, 0},
                    {{{&by_x, false}, {}, {}}});
    const Exact expected = -std::exp(exact(exponent)) * exact(upstream);
    check_number(by_x, expected, std::fabs(expected), "laplace_log_prob, a tiny upstream gradient");
  }
}

// A row of very many columns, and very many samples of one element.
template <class S>
void check_long_sums() {
  const RowKernel<S, 3> kernel("laplace_log_prob");
  const std::vector<S> numbers(very_many, stored<S>(0.0625)), zeros(very_many, stored<S>(0));
  const std::vector<S> small(very_many, stored<S>(0.0003));  // whose sum float16 can hold
  const RowView<const S> row{numbers.data(), very_many, very_many}, none{zeros.data(), very_many, very_many};
  const std::string what = "laplace_log_prob of a long row";
  check_long_sum(on_any_threads(what,
                                [&] {
                                  std::vector<S> out = unwritten<S>(1);
                                  kernel.forward({1, 1, very_many}, {row, none, none}, out.data());
                                  return out;
                                }),
                 -very_many * (exact(numbers[0]) + log_two_exact), what);
  std::vector<S> by_loc = unwritten<S>(1);
  kernel.backward({very_many, 1, 1}, {{{numbers.data(), 1, 1}, {zeros.data(), 0, 0}, {zeros.data(), 0, 0}}},
                  {small.data(), 1, 1}, {{{}, {by_loc.data(), true}, {}}});
  check_long_sum(by_loc, very_many * exact(small[0]), "laplace_log_prob, gradient of very many samples");
}

template <class S>
void check_all() {
  check_density<S>();
  check_extremes<S>();
  check_scaled_upstream<S>();
  check_long_sums<S>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::for_each_type([]<class S> { fastvi::test::check_all<S>(); });
  return fastvi::test::report("laplace");
}

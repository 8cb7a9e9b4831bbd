// The Gaussian row operations against their formulas.
#include "row_operations.h"

namespace fastvi::test {
namespace {

// Closer than this to the threshold of free bits, rounding may decide either way.
constexpr Exact undecided = 1e-4L;
constexpr Exact unbounded = std::numeric_limits<Exact>::infinity();

Bounded clamp(Bounded divergence, Exact free_bits, Exact& passed, Exact& doubt) {
  passed = divergence.value < free_bits ? 0.0L : 1.0L;
  doubt = free_bits > 0 && std::fabs(divergence.value - free_bits) < undecided ? unbounded : 0.0L;
  return {std::max(divergence.value, free_bits), divergence.magnitude + free_bits};
}

template <class S>
void check_divergence(double free_bits) {
  const Exact threshold = free_bits;
  check_row_operation<S, 2>("kl_normal", {free_bits}, [&](const std::array<Exact, 2>& in) {
    const auto [mean, logvar] = in;
    const Exact variance = std::exp(logvar);
    Exact passed, doubt;
    const Bounded value =
        clamp({(mean * mean + variance - 1 - logvar) / 2, (mean * mean + variance + 1 + std::fabs(logvar)) / 2},
              threshold, passed, doubt);
    return Term<2>{
        value, {{{passed * mean, std::fabs(mean) + doubt}, {passed * (variance - 1) / 2, (variance + 1) / 2 + doubt}}}};
  });
  check_row_operation<S, 4>("kl_normal", {free_bits}, [&](const std::array<Exact, 4>& in) {
    const auto [mean, logvar, prior_mean, prior_logvar] = in;
    const Exact precision = std::exp(-prior_logvar), difference = mean - prior_mean;
    const Exact ratio = std::exp(logvar - prior_logvar);
    // Rounding an exponent by its own size times epsilon does so to the exponential.
    const Exact spread = std::fabs(mean) + std::fabs(prior_mean),
                exponent = std::fabs(logvar) + std::fabs(prior_logvar);
    const Exact square_size = spread * spread * precision * (1 + exponent), ratio_size = ratio * (1 + exponent) + 1;
    Exact passed, doubt;
    const Bounded value = clamp({(difference * difference * precision + ratio - 1 - (logvar - prior_logvar)) / 2,
                                 (square_size + ratio_size + exponent) / 2},
                                threshold, passed, doubt);
    const Exact by_mean = passed * difference * precision;
    const Exact mean_size = spread * precision * (1 + exponent) + doubt;
    return Term<4>{
        value,
        {{{by_mean, mean_size},
          {passed * (ratio - 1) / 2, ratio_size / 2 + doubt},
          {-by_mean, mean_size},
          {-passed * (difference * difference * precision + ratio - 1) / 2, (square_size + ratio_size) / 2 + doubt}}}};
  });
}

template <class S>
void check_density_and_entropy() {
  const Exact log_two_pi_exact = std::log(8 * std::atan(Exact{1}));
  check_row_operation<S, 3>("normal_log_prob", {}, [&](const std::array<Exact, 3>& in) {
    const auto [x, mean, logvar] = in;
    const Exact precision = std::exp(-logvar), difference = x - mean;
    const Exact spread = std::fabs(x) + std::fabs(mean), exponent = 1 + std::fabs(logvar);
    const Exact square_size = spread * spread * precision * exponent;
    return Term<3>{{-(difference * difference * precision + logvar + log_two_pi_exact) / 2,
                    (square_size + exponent + log_two_pi_exact) / 2},
                   {{{-difference * precision, spread * precision * exponent},
                     {difference * precision, spread * precision * exponent},
                     {(difference * difference * precision - 1) / 2, (square_size + 1) / 2}}}};
  });
  check_row_operation<S, 1>("normal_entropy", {}, [&](const std::array<Exact, 1>& in) {
    return Term<1>{{(in[0] + 1 + log_two_pi_exact) / 2, (std::fabs(in[0]) + 1 + log_two_pi_exact) / 2},
                   {{{0.5L, 0.5L}}}};
  });
}

// A row of very many columns, and very many samples of one element.
template <class S>
void check_long_sums() {
  const RowKernel<S, 1> entropy("normal_entropy");
  const std::vector<S> numbers(very_many, stored<S>(0.3));
  const std::vector<S> small(very_many, stored<S>(0.0003));  // whose sum float16 can hold
  const Exact number = exact(numbers[0]), weight = exact(small[0]), count = very_many;
  const Exact log_two_pi_exact = std::log(8 * std::atan(Exact{1}));
  const RowView<const S> row{numbers.data(), very_many, very_many}, column{small.data(), 1, 1};
  check_long_sum(on_any_threads("normal_entropy of a long row",
                                [&] {
                                  std::vector<S> out = unwritten<S>(1);
                                  entropy.forward({1, 1, very_many}, {row}, out.data());
                                  return out;
                                }),
                 count * (number + 1 + log_two_pi_exact) / 2, "normal_entropy of a long row");

  const Extent samples{very_many, 1, 1};
  std::vector<S> by_logvar = unwritten<S>(1);
  entropy.backward(samples, {{{numbers.data(), 0, 0}}}, column, {{{by_logvar.data(), true}}});
  check_long_sum(by_logvar, count * weight / 2, "normal_entropy, gradient of very many samples");
}

template <class S>
void check_all() {
  check_divergence<S>(0);
  check_divergence<S>(0.5);
  check_density_and_entropy<S>();
  check_long_sums<S>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::for_each_type([]<class S> { fastvi::test::check_all<S>(); });
  return fastvi::test::report("normal");
}

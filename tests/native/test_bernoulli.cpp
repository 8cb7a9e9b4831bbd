// The Bernoulli kernels against x * l - log(1 + exp(l)).
#include "check.h"

namespace fastvi::test {
namespace {

Exact softplus_exact(Exact logit) { return std::max(logit, Exact{0}) + std::log1p(std::exp(-std::fabs(logit))); }
Exact sigmoid_exact(Exact logit) { return 1 / (1 + std::exp(-logit)); }

Bounded log_prob_exact(Exact x, Exact logit) {
  return {x * logit - softplus_exact(logit), std::fabs(x * logit) + std::fabs(logit) + softplus_exact(logit)};
}

template <class S>
void check_log_prob() {
  using Kernels = BernoulliKernels<S>;
  check_row_kernels<S, 2>("bernoulli_log_prob", Kernels::bernoulli_log_prob, Kernels::bernoulli_log_prob_backward,
                          [](const std::array<Exact, 2>& in) {
                            const auto [x, logit] = in;
                            return Term<2>{log_prob_exact(x, logit),
                                           {{{logit, std::fabs(logit)}, {x - sigmoid_exact(logit), std::fabs(x) + 1}}}};
                          });
}

// Logits of zero make the largest factors of the product whose logarithm is taken once for many columns.
template <class S>
void check_many_zero_logits() {
  constexpr std::int64_t columns = 20000;
  const std::vector<S> zeros(columns, stored<S>(0));
  std::vector<S> out(1);
  const RowView<const S> view{zeros.data(), 0, 0};
  BernoulliKernels<S>::bernoulli_log_prob({1, 1, columns}, {view, view}, out.data());
  const Exact expected = -columns * std::log(Exact{2});
  check_close(out, {{expected, -expected}}, columns, "bernoulli_log_prob of zero logits");
}

template <class S>
void check_epilogue() {
  Random<S> random(17130704);
  for (const Extent& extent : extents()) {
    for (int variant = 0; variant < layouts; ++variant) {
      const std::string what = "bernoulli_epilogue" + describe(extent) + ", variant " + std::to_string(variant);
      const Operand<S> x(extent, static_cast<Layout>(variant), random);
      const std::vector<S> logits = random.normal(extent.samples * extent.rows * extent.columns);
      const std::vector<S> bias = random.normal(extent.columns);
      for (const bool biased : {false, true}) {
        const auto rows = static_cast<std::size_t>(extent.samples * extent.rows);
        std::vector<Bounded> sums(rows), residuals(logits.size());
        for_each_element(extent, [&](std::int64_t k, std::int64_t b, std::int64_t d) {
          const Exact plain = exact(logits[flat(extent, k, b, d)]);
          const Exact shift = biased ? exact(bias[static_cast<std::size_t>(d)]) : 0;
          const Exact target = x.at(k, b, d);
          const Bounded value = log_prob_exact(target, plain + shift);
          const Exact rounding = (std::fabs(plain) + std::fabs(shift)) * (1 + std::fabs(target));
          sums[static_cast<std::size_t>(k * extent.rows + b)].add(value.value, value.magnitude + rounding);
          residuals[flat(extent, k, b, d)].add(target - sigmoid_exact(plain + shift), 1 + rounding + std::fabs(target));
        });
        for (const bool keep : {false, true}) {
          std::vector<S> overwritten;
          check_close(on_any_threads(what,
                                     [&] {
                                       overwritten = logits;
                                       std::vector<S> out = unwritten<S>(rows);
                                       BernoulliKernels<S>::bernoulli_epilogue(extent, overwritten.data(),
                                                                               biased ? bias.data() : nullptr, x.view(),
                                                                               keep, out.data());
                                       return out;
                                     }),
                      sums, extent.columns, what);
          if (keep) {
            check_close(overwritten, residuals, 1, what + ", residual");
          } else {
            check(same_bits(overwritten, logits), what + ": logits were written to");
          }
        }
      }
    }
  }
}

template <class S>
void check_all() {
  check_log_prob<S>();
  check_many_zero_logits<S>();
  check_epilogue<S>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::for_each_type([]<class S> { fastvi::test::check_all<S>(); });
  return fastvi::test::report("bernoulli");
}

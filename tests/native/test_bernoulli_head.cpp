// The Bernoulli log-likelihood as the end of a linear layer against its formula.
#include "bernoulli.h"

namespace fastvi::test {
namespace {

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
                                       BernoulliHeadKernels<S>::bernoulli_epilogue(extent, overwritten.data(),
                                                                                   biased ? bias.data() : nullptr,
                                                                                   x.view(), keep, out.data());
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

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::for_each_type([]<class S> { fastvi::test::check_epilogue<S>(); });
  return fastvi::test::report("bernoulli_head");
}

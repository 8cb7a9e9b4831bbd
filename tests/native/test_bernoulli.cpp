// The Bernoulli log-likelihood with logits against its formula.
#include "bernoulli.h"
#include "row_operations.h"

namespace fastvi::test {
namespace {

template <class S>
void check_log_prob() {
  check_row_operation<S, 2>("bernoulli_log_prob", {}, [](const std::array<Exact, 2>& in) {
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
  RowKernel<S, 2>("bernoulli_log_prob").forward({1, 1, columns}, {view, view}, out.data());
  const Exact expected = -columns * std::log(Exact{2});
  check_close(out, {{expected, -expected}}, columns, "bernoulli_log_prob of zero logits");
}

template <class S>
void check_all() {
  check_log_prob<S>();
  check_many_zero_logits<S>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::for_each_type([]<class S> { fastvi::test::check_all<S>(); });
  return fastvi::test::report("bernoulli");
}

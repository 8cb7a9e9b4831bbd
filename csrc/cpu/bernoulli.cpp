#include "../formulas/bernoulli.h"

#include "rows.h"

namespace fastvi {
namespace {

constexpr double log_prob_cost = 0.8;

// Sum of the log-likelihood for the logits that logit(d) gives; visit(d, logit, exponential) may use them again. Each
// lane multiplies the factors 1 + exp(-|l|) of at most `factors` columns, a product far from overflow in float32.
template <class T, class Logit, class Visit>
FASTVI_HD T sum_log_prob(std::int64_t count, const T* x, const Logit& logit, const Visit& visit) {
  constexpr int lanes = simd_lanes<T> * accumulators;
  constexpr std::int64_t factors = 48;
  T total = 0;
  for (std::int64_t first = 0; first < count; first += factors * lanes) {
    const std::int64_t length = std::min(factors * lanes, count - first);
    T linear[lanes] = {}, product_minus_1[lanes] = {};
    std::int64_t d = first;
    for (; d + lanes <= first + length; d += lanes) {
#pragma omp simd
      for (int lane = 0; lane < lanes; ++lane) {
        const T l = logit(d + lane);
        const BernoulliTerm<T> term = bernoulli_term(x[d + lane], l);
        linear[lane] += term.linear;
        product_minus_1[lane] = append_to_product_minus_1(product_minus_1[lane], term.exponential);
        visit(d + lane, l, term.exponential);
      }
    }
    const int rest = static_cast<int>(first + length - d);
#pragma omp simd
    for (int lane = 0; lane < rest; ++lane) {
      const T l = logit(d + lane);
      const BernoulliTerm<T> term = bernoulli_term(x[d + lane], l);
      linear[lane] += term.linear;
      product_minus_1[lane] = append_to_product_minus_1(product_minus_1[lane], term.exponential);
      visit(d + lane, l, term.exponential);
    }
#pragma omp simd
    for (int lane = 0; lane < lanes; ++lane) linear[lane] -= log1p(product_minus_1[lane]);
    total += sum_lanes<T, lanes>(linear);
  }
  return total;
}

}  // namespace

template <class S>
void BernoulliKernels<S>::bernoulli_log_prob(const Extent& extent, const std::array<RowView<const S>, 2>& operands,
                                             S* out) {
  using T = ComputeType<S>;
  reduce_rows<S, 2>(extent, operands, out, log_prob_cost, [](const std::array<const T*, 2>& row, std::int64_t count) {
    const T* const logits = row[1];
    return sum_log_prob<T>(count, row[0], [logits](std::int64_t d) { return logits[d]; }, [](std::int64_t, T, T) {});
  });
}

template <class S>
void BernoulliKernels<S>::bernoulli_log_prob_backward(const Extent& extent,
                                                      const std::array<RowView<const S>, 2>& operands,
                                                      const RowView<const S>& upstream,
                                                      const std::array<GradientView<S>, 2>& gradients) {
  row_gradients<S>(extent, operands, upstream, gradients, log_prob_cost, BernoulliLogDensity<ComputeType<S>>{});
}

template <class S>
void BernoulliKernels<S>::bernoulli_epilogue(const Extent& extent, S* logits, const S* bias, const RowView<const S>& x,
                                             bool keep_residual, S* out) {
  using T = ComputeType<S>;
  const auto block_log_prob = [&](std::int64_t item, std::int64_t first, std::int64_t count) {
    S* const stored = logits + item * extent.columns + first;
    RowBuffer<S, row_block> logit_buffer, bias_buffer, target_buffer, residual_buffer;
    const T* const row = logit_buffer.load(stored, count);
    const T* const shift = bias == nullptr ? nullptr : bias_buffer.load(bias + first, count);
    const T* const target = target_buffer.load(x.row(item / extent.rows, item % extent.rows) + first, count);
    T* const residual = residual_buffer.target(stored);
    const auto plain = [row](std::int64_t d) { return row[d]; };
    const auto biased = [row, shift](std::int64_t d) { return row[d] + shift[d]; };
    const auto store = [residual, target](std::int64_t d, T logit, T exponential) {
      residual[d] = bernoulli_residual(target[d], logit, exponential);
    };
    const auto forget = [](std::int64_t, T, T) {};
    if (!keep_residual) {
      return shift == nullptr ? sum_log_prob<T>(count, target, plain, forget)
                              : sum_log_prob<T>(count, target, biased, forget);
    }
    const T sum =
        shift == nullptr ? sum_log_prob<T>(count, target, plain, store) : sum_log_prob<T>(count, target, biased, store);
    residual_buffer.store(stored, count);
    return sum;
  };
  sum_rows(extent.samples * extent.rows, extent.columns, out, log_prob_cost, block_log_prob);
}

template struct BernoulliKernels<float>;
template struct BernoulliKernels<double>;
template struct BernoulliKernels<BFloat16>;
template struct BernoulliKernels<Float16>;

}  // namespace fastvi

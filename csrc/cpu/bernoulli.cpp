#include "bernoulli.h"

#include "../formulas/bernoulli.h"

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

template <class T>
void BernoulliKernels<T>::bernoulli_log_prob(const Extent& extent, const std::array<RowView<const T>, 2>& operands,
                                             T* out) {
  reduce_rows<T, 2>(extent, operands, out, log_prob_cost, [](const std::array<const T*, 2>& row, std::int64_t count) {
    const T* const logits = row[1];
    return sum_log_prob<T>(count, row[0], [logits](std::int64_t d) { return logits[d]; }, [](std::int64_t, T, T) {});
  });
}

template <class T>
void BernoulliKernels<T>::bernoulli_log_prob_backward(const Extent& extent,
                                                      const std::array<RowView<const T>, 2>& operands,
                                                      const RowView<const T>& upstream,
                                                      const std::array<GradientView<T>, 2>& gradients) {
  row_gradients<T>(extent, operands, upstream, gradients, log_prob_cost, BernoulliLogDensity<T>{});
}

template <class T>
void BernoulliKernels<T>::bernoulli_epilogue(const Extent& extent, T* logits, const T* bias, const RowView<const T>& x,
                                             bool keep_residual, T* out) {
  const std::int64_t rows = extent.samples * extent.rows;
  const auto work = static_cast<std::int64_t>(static_cast<double>(rows * extent.columns) * log_prob_cost);
  parallel_for(rows, work, [&](std::int64_t item) {
    T* const row = logits + item * extent.columns;
    const T* const target = x.row(item / extent.rows, item % extent.rows);
    const auto plain = [row](std::int64_t d) { return row[d]; };
    const auto biased = [row, bias](std::int64_t d) { return row[d] + bias[d]; };
    const auto store = [row, target](std::int64_t d, T logit, T exponential) {
      row[d] = bernoulli_residual(target[d], logit, exponential);
    };
    const auto forget = [](std::int64_t, T, T) {};
    if (keep_residual) {
      out[item] = bias == nullptr ? sum_log_prob<T>(extent.columns, target, plain, store)
                                  : sum_log_prob<T>(extent.columns, target, biased, store);
    } else {
      out[item] = bias == nullptr ? sum_log_prob<T>(extent.columns, target, plain, forget)
                                  : sum_log_prob<T>(extent.columns, target, biased, forget);
    }
  });
}

template struct BernoulliKernels<float>;
template struct BernoulliKernels<double>;

}  // namespace fastvi

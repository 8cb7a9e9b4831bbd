#include "bernoulli.h"

namespace fastvi {

template <class S>
void BernoulliHeadKernels<S>::bernoulli_epilogue(const Extent& extent, S* logits, const S* bias,
                                                 const RowView<const S>& x, bool keep_residual, S* out) {
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
  sum_rows(extent.samples * extent.rows, extent.columns, out, BernoulliLogDensity<T>::cost, block_log_prob);
}

template struct BernoulliHeadKernels<float>;
template struct BernoulliHeadKernels<double>;
template struct BernoulliHeadKernels<BFloat16>;
template struct BernoulliHeadKernels<Float16>;

}  // namespace fastvi

// The Bernoulli log-likelihood with logits, alone and as the end of a linear layer, of numbers stored as S.
#pragma once

#include "rows.h"

namespace fastvi {

template <class S>
struct BernoulliKernels {
  // Operands: x, logits.
  static void bernoulli_log_prob(const Extent& extent, const std::array<RowView<const S>, 2>& operands, S* out);

  static void bernoulli_log_prob_backward(const Extent& extent, const std::array<RowView<const S>, 2>& operands,
                                          const RowView<const S>& upstream,
                                          const std::array<GradientView<S>, 2>& gradients);

  // The log-likelihood for logits + bias (bias may be null). With `keep_residual`, the contiguous logits are
  // overwritten by the residual x - sigmoid(logits + bias), which is all that the backward pass needs.
  static void bernoulli_epilogue(const Extent& extent, S* logits, const S* bias, const RowView<const S>& x,
                                 bool keep_residual, S* out);
};

}  // namespace fastvi

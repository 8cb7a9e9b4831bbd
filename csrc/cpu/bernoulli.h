// The Bernoulli log-likelihood with logits, alone and as the end of a linear layer.
#pragma once

#include "rows.h"

namespace fastvi {

template <class T>
struct BernoulliKernels {
  // Operands: x, logits.
  static void bernoulli_log_prob(const Extent& extent, const std::array<RowView<const T>, 2>& operands, T* out);

  static void bernoulli_log_prob_backward(const Extent& extent, const std::array<RowView<const T>, 2>& operands,
                                          const RowView<const T>& upstream,
                                          const std::array<GradientView<T>, 2>& gradients);

  // The log-likelihood for logits + bias (bias may be null). With `keep_residual`, the contiguous logits are
  // overwritten by the residual x - sigmoid(logits + bias), which is all that the backward pass needs.
  static void bernoulli_epilogue(const Extent& extent, T* logits, const T* bias, const RowView<const T>& x,
                                 bool keep_residual, T* out);
};

}  // namespace fastvi

// Operations on diagonal Gaussians: divergence, log density, entropy, reparameterised samples with their log ratio.
// Numbers are stored as S; arithmetic runs in its compute type.
#pragma once

#include "rows.h"

namespace fastvi {

// The parameters of a Gaussian sample z[k, b, d] = mean[b, d] + exp(logvar[b, d] / 2) * eps[k, b, d] and of the prior
// (null pointers: standard normal); their sample strides are zero.
template <class S>
struct SampleParameters {
  RowView<const S> mean, logvar, prior_mean, prior_logvar;
  std::uint64_t seed;
  std::int64_t row_offset;
};

template <class S>
struct LogRatioGradients {
  S *mean, *logvar, *prior_mean, *prior_logvar;
};

template <class S>
struct NormalKernels {
  using T = ComputeType<S>;

  // A null prior_mean pointer (with a null prior_logvar) stands for the standard normal prior.
  static void kl_normal(const Extent& extent, const std::array<RowView<const S>, 4>& operands, T free_bits, S* out);

  static void kl_normal_backward(const Extent& extent, const std::array<RowView<const S>, 4>& operands, T free_bits,
                                 const RowView<const S>& upstream, const std::array<GradientView<S>, 4>& gradients);

  // Operands: x, mean, logvar.
  static void normal_log_prob(const Extent& extent, const std::array<RowView<const S>, 3>& operands, S* out);

  static void normal_log_prob_backward(const Extent& extent, const std::array<RowView<const S>, 3>& operands,
                                       const RowView<const S>& upstream,
                                       const std::array<GradientView<S>, 3>& gradients);

  static void normal_entropy(const Extent& extent, const RowView<const S>& logvar, S* out);

  static void normal_entropy_backward(const Extent& extent, const RowView<const S>& logvar,
                                      const RowView<const S>& upstream, const GradientView<S>& gradient);

  static void rsample_normal(const Extent& extent, const SampleParameters<S>& parameters, S* z);

  // `upstream` is contiguous (samples, rows, columns); the gradients are (rows, columns), null where not wanted.
  static void rsample_normal_backward(const Extent& extent, const SampleParameters<S>& parameters, const S* upstream,
                                      S* mean_gradient, S* logvar_gradient);

  static void rsample_normal_with_log_ratio(const Extent& extent, const SampleParameters<S>& parameters, S* z,
                                            S* log_ratio);

  // Either upstream gradient may be null: contiguous (samples, rows, columns) for z, (samples, rows) for the log ratio.
  static void rsample_normal_with_log_ratio_backward(const Extent& extent, const SampleParameters<S>& parameters,
                                                     bool detach_posterior, const S* z_upstream,
                                                     const RowView<const S>& ratio_upstream,
                                                     const LogRatioGradients<S>& gradients);
};

}  // namespace fastvi

// Operations on diagonal Gaussians: divergence, log density, entropy, reparameterised samples with their log ratio.
#pragma once

#include "rows.h"

namespace fastvi {

// The parameters of a Gaussian sample z[k, b, d] = mean[b, d] + exp(logvar[b, d] / 2) * eps[k, b, d] and of the prior
// (null pointers: standard normal); their sample strides are zero.
template <class T>
struct SampleParameters {
  RowView<const T> mean, logvar, prior_mean, prior_logvar;
  std::uint64_t seed;
  std::int64_t row_offset;
};

template <class T>
struct LogRatioGradients {
  T *mean, *logvar, *prior_mean, *prior_logvar;
};

template <class T>
struct NormalKernels {
  // A null prior_mean pointer (with a null prior_logvar) stands for the standard normal prior.
  static void kl_normal(const Extent& extent, const std::array<RowView<const T>, 4>& operands, T free_bits, T* out);

  static void kl_normal_backward(const Extent& extent, const std::array<RowView<const T>, 4>& operands, T free_bits,
                                 const RowView<const T>& upstream, const std::array<GradientView<T>, 4>& gradients);

  // Operands: x, mean, logvar.
  static void normal_log_prob(const Extent& extent, const std::array<RowView<const T>, 3>& operands, T* out);

  static void normal_log_prob_backward(const Extent& extent, const std::array<RowView<const T>, 3>& operands,
                                       const RowView<const T>& upstream,
                                       const std::array<GradientView<T>, 3>& gradients);

  static void normal_entropy(const Extent& extent, const RowView<const T>& logvar, T* out);

  static void normal_entropy_backward(const Extent& extent, const RowView<const T>& logvar,
                                      const RowView<const T>& upstream, const GradientView<T>& gradient);

  static void rsample_normal(const Extent& extent, const SampleParameters<T>& parameters, T* z);

  // `upstream` is contiguous (samples, rows, columns); the gradients are (rows, columns), null where not wanted.
  static void rsample_normal_backward(const Extent& extent, const SampleParameters<T>& parameters, const T* upstream,
                                      T* mean_gradient, T* logvar_gradient);

  static void rsample_normal_with_log_ratio(const Extent& extent, const SampleParameters<T>& parameters, T* z,
                                            T* log_ratio);

  // Either upstream gradient may be null: contiguous (samples, rows, columns) for z, (samples, rows) for the log ratio.
  static void rsample_normal_with_log_ratio_backward(const Extent& extent, const SampleParameters<T>& parameters,
                                                     bool detach_posterior, const T* z_upstream,
                                                     const RowView<const T>& ratio_upstream,
                                                     const LogRatioGradients<T>& gradients);
};

}  // namespace fastvi

// The kernels, for numbers stored as S, and the views through which they see their operands. Every backend defines all
// of them (csrc/cpu, csrc/cuda), each for a module of its own.
#pragma once

#include <array>
#include <cstdint>

#include "formulas/half.h"

namespace fastvi {

struct Extent {
  std::int64_t samples, rows, columns;
};

// An operand with its own strides over samples (k) and rows (b), zero where it is broadcast; columns are contiguous.
template <class T>
struct RowView {
  T* data;
  std::int64_t sample_stride, row_stride;

  FASTVI_HD T* row(std::int64_t k, std::int64_t b) const { return data + k * sample_stride + b * row_stride; }
};

// Where the gradient of one operand goes: contiguous (samples, rows, columns), or (rows, columns) with the samples
// summed. A null pointer means that nobody asked for it.
template <class T>
struct GradientView {
  T* data;
  bool sums_samples;
};

// Seeds stay in memory, that of the backend's device, so that a captured graph may draw anew.
using Seed = const std::int64_t*;

template <class S>
struct NoiseKernels {
  // Draw i depends on (seed, i) alone; 16-bit draws are those of float32, rounded.
  static void standard_normal(S* out, std::int64_t count, Seed seed);

  // eps[k, b, d] depends on (seed, k, b + row_offset, d) alone.
  static void normal_noise(S* out, const Extent& extent, Seed seed, std::int64_t row_offset);
};

// The Philox words that the first 4 * blocks flat draws are made of.
void philox_words(std::uint32_t* out, std::int64_t blocks, Seed seed);

// The parameters of a Gaussian sample z[k, b, d] = mean[b, d] + exp(logvar[b, d] / 2) * eps[k, b, d] and of the prior
// (null pointers: standard normal); their sample strides are zero.
template <class S>
struct SampleParameters {
  RowView<const S> mean, logvar, prior_mean, prior_logvar;
  Seed seed;
  std::int64_t row_offset;
};

// Null where not wanted; (rows, columns) each.
template <class S>
struct LogRatioGradients {
  S *mean, *logvar, *prior_mean, *prior_logvar;
};

// Operations on diagonal Gaussians: divergence, log density, entropy, reparameterised samples with their log ratio.
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

// The Bernoulli log-likelihood with logits, alone and as the end of a linear layer.
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

struct AxisExtent {
  std::int64_t outer, count, inner;
};

// The sum over one axis of a contiguous (outer, count, inner) array, each element times weights[its place along the
// axis], one where they are null: what PyTorch's sums and matrix products give, with the same bits for any number of
// threads, which those do not promise.
template <class S>
struct SumKernels {
  static void axis_sum(const AxisExtent& extent, const S* x, const S* weights, S* out);
};

// Log-mean-exp over one axis of a contiguous (outer, count, inner) array, the normalised weights that are its
// derivative, and the effective sample size: the arithmetic of the importance-weighted bound (Burda et al. 2016).
template <class S>
struct LogMeanExpKernels {
  static void log_mean_exp(const AxisExtent& extent, const S* x, S* out);

  // scale[outer, inner] * softmax(x), one where scale is null: the importance weights. With `as_gradient` it is the
  // gradient of log_mean_exp: a column of minus infinities gives zeros, and where there is a plus infinity the finite
  // elements do; as weights, both are NaN.
  static void scaled_softmax(const AxisExtent& extent, const S* x, const S* scale, bool as_gradient, S* out);

  static void effective_sample_size(const AxisExtent& extent, const S* x, S* out);
};

// A factor that is one number a row (`column_step` 0) or one a column (`column_step` 1); null data stands for one.
template <class T>
struct FactorView {
  const T* data;
  std::int64_t row_stride;
  int column_step;
};

template <class S>
struct LeapfrogInputs {
  RowView<const S> position, momentum, gradient;
  FactorView<ComputeType<S>> step_size, inverse_mass;  // so that a step size that is a number is not rounded
  ComputeType<S> kick;
};

// Contiguous (rows, columns) each, null where not wanted; a factor with column_step 0 takes one number a row.
template <class S>
struct LeapfrogGradients {
  S *momentum, *gradient;
  ComputeType<S>*step_size, *inverse_mass;
};

// The leapfrog step and its derivative for many chains at once, and the kinetic energy.
template <class S>
struct LeapfrogKernels {
  static void leapfrog_step(std::int64_t rows, std::int64_t columns, const LeapfrogInputs<S>& inputs, S* new_position,
                            S* new_momentum);

  // The upstream gradients are contiguous.
  static void leapfrog_step_backward(std::int64_t rows, std::int64_t columns, const LeapfrogInputs<S>& inputs,
                                     const S* by_position, const S* by_momentum, const LeapfrogGradients<S>& gradients);

  // Operands: momentum, inverse mass (null data: one).
  static void kinetic_energy(const Extent& extent, const std::array<RowView<const S>, 2>& operands, S* out);

  static void kinetic_energy_backward(const Extent& extent, const std::array<RowView<const S>, 2>& operands,
                                      const RowView<const S>& upstream,
                                      const std::array<GradientView<S>, 2>& gradients);
};

}  // namespace fastvi

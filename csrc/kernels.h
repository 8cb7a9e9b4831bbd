// The views through which kernels see their operands, and the kernels that follow no pattern (those that do stand in
// operations.h), for numbers stored as S. Every backend defines all of them (csrc/cpu, csrc/cuda), each for a module of
// its own.
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

// The Philox words that the first quads of flat draws are made of.
void philox_words(std::uint32_t* out, std::int64_t quads, Seed seed);

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

// Reparameterised samples of diagonal Gaussians, and their log ratio.
template <class S>
struct SamplingKernels {
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

// The Bernoulli log-likelihood as the end of a linear layer.
template <class S>
struct BernoulliHeadKernels {
  // The log-likelihood for logits + bias (bias may be null). With `keep_residual`, the contiguous logits are
  // overwritten by the residual x - sigmoid(logits + bias), which is all that the backward pass needs.
  static void bernoulli_epilogue(const Extent& extent, S* logits, const S* bias, const RowView<const S>& x,
                                 bool keep_residual, S* out);
};

enum class Activation : int;  // see formulas/activation.h

// What follows the matrix products of a perceptron's layer, in the type of the arithmetic; all arrays are contiguous
// (rows, columns).
template <class T>
struct LayerKernels {
  // Overwrites the product by activation(product + bias); bias may be null. `slope` takes the activation's slope, where
  // it does not follow from its value, `copy` another copy of the result; both may be null.
  static void activate(std::int64_t rows, std::int64_t columns, Activation activation, T* product, const T* bias,
                       T* slope, T* copy);

  // Overwrites the gradient by the layer's value, which is first multiplied by scale[row], by the gradient by the
  // product. `value` has the layer's values, `slope` the slopes that were kept. `bias_gradient` takes the sums of
  // columns, `scaled` scale[row] * value; scale, bias_gradient and scaled may be null.
  static void gradient(std::int64_t rows, std::int64_t columns, Activation activation, T* gradient, const T* value,
                       const T* slope, const T* scale, T* scaled, T* bias_gradient);
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

  // The gradient of the importance weights w: w (upstream - the sum of w upstream over the axis).
  static void weights_backward(const AxisExtent& extent, const S* upstream, const S* x, S* out);

  static void effective_sample_size(const AxisExtent& extent, const S* x, S* out);
};

// A factor that is one number a row (`column_step` 0) or one a column (`column_step` 1); null data stands for one.
template <class T>
struct FactorView {
  const T* data;
  std::int64_t row_stride;
  int column_step;
};

// What is known without its type, seen as elements of type S.
template <class S>
S* typed(void* data) {
  return static_cast<S*>(data);
}
template <class S>
const S* typed(const void* data) {
  return static_cast<const S*>(data);
}
template <class S>
RowView<const S> typed(const RowView<const void>& view) {
  return {typed<S>(view.data), view.sample_stride, view.row_stride};
}
template <class S>
GradientView<S> typed(const GradientView<void>& view) {
  return {typed<S>(view.data), view.sums_samples};
}
template <class S>
FactorView<S> typed(const FactorView<void>& view) {
  return {typed<S>(view.data), view.row_stride, view.column_step};
}

}  // namespace fastvi

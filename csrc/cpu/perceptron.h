// Both passes over a perceptron of few rows, all layers in one call: see product.h for its matrix products. Python
// calls PyTorch's products for more rows, layer by layer.
#pragma once

#include <cstdint>
#include <span>

#include "../formulas/activation.h"
#include "../kernels.h"

namespace fastvi {

// The arrays are contiguous; a gradient that is not wanted has a null pointer.
template <class T>
struct PerceptronLayer {
  const T *weight, *bias;  // (outputs, inputs); (outputs,), which may be null
  std::int64_t inputs, outputs;
  T *weight_gradient, *bias_gradient;
};

// With `narrow` the factors of the matrix products are rounded to bfloat16: float alone, where there are
// has_narrow_products().
template <class T>
struct PerceptronKernels {
  using Layers = std::span<const PerceptronLayer<T>>;

  // Numbers that the forward pass keeps of a row: for each activated layer its values, and its slopes where they do not
  // follow from these. They lie behind each other, all rows of the one before all rows of the other.
  static std::int64_t kept_columns(Layers active, Activation activation);

  // The values of activated layers, written to `memory`; returns those of the last one, or x where there is none.
  static const T* activate(Layers active, Activation activation, std::int64_t rows, const T* x, T* memory,
                           bool narrow = false);

  // The values that `activate` returned.
  static const T* last_value(Layers active, Activation activation, std::int64_t rows, const T* x, const T* memory);

  // out = x weight' + bias.
  static void linear(const PerceptronLayer<T>& layer, std::int64_t rows, const T* x, T* out, bool narrow = false);

  // The Bernoulli log-likelihood of x, (batch, outputs of the last layer), for the logits that the layers give for z,
  // (rows, inputs of the first), the last one without activation. Row r of z goes with row r % batch of x. Nothing is
  // kept: the rows are taken in blocks whose hidden units and logits stay in a core's cache, and those of a row have
  // the same bits whatever the others are.
  static void bernoulli_log_prob(Layers layers, Activation activation, std::int64_t rows, const T* z,
                                 std::int64_t batch, const T* x, T* out, bool narrow = false);

  // The layer's gradients, and that by x, which may be null. `scale` multiplies the rows of the upstream gradient for
  // that of the bias alone.
  static void linear_backward(const PerceptronLayer<T>& layer, std::int64_t rows, const T* x, const T* upstream,
                              const T* scale, T* x_gradient, bool narrow = false);

  // The gradients of activated layers, given that by the values of the last one, which is multiplied by scale[row]
  // first where scale is not null, and overwritten. `scaled` takes scale[row] times these values, `x_gradient` the
  // gradient by x; both may be null.
  static void activate_backward(Layers active, Activation activation, std::int64_t rows, const T* x, const T* memory,
                                T* gradient, const T* scale, T* scaled, T* x_gradient, bool narrow = false);
};

}  // namespace fastvi

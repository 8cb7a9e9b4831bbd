// Log-mean-exp over one axis of a contiguous (outer, count, inner) array, the normalised weights that are its
// derivative, and the effective sample size: the arithmetic of the importance-weighted bound (Burda et al. 2016).
#pragma once

#include <cstdint>

namespace fastvi {

struct AxisExtent {
  std::int64_t outer, count, inner;
};

template <class S>
struct LogMeanExpKernels {
  static void log_mean_exp(const AxisExtent& extent, const S* x, S* out);

  // scale[outer, inner] * softmax(x), one where scale is null: the importance weights. With `as_gradient` it is the
  // gradient of log_mean_exp: a column of minus infinities gives zeros, and where there is a plus infinity the finite
  // elements do; as weights, both are NaN.
  static void scaled_softmax(const AxisExtent& extent, const S* x, const S* scale, bool as_gradient, S* out);

  static void effective_sample_size(const AxisExtent& extent, const S* x, S* out);
};

}  // namespace fastvi

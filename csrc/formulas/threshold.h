// Soft thresholding, sign(x) max(|x| - t, 0), the proximal map of t |x| (Daubechies, Defrise & De Mol 2004), and its
// derivatives, which are zero where |x| <= t.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>

#include "compiler.h"

namespace fastvi {

template <class T>
struct SoftThresholdTerm {
  static constexpr double cost = 0.2;

  // Whether the gradient of argument `which` reads state `state`.
  static constexpr bool reads(std::size_t, std::size_t) { return true; }

  FASTVI_HD std::array<T, 1> value(T x, T threshold) const {
    const T rest = x - sign(x) * threshold;
    return {{std::fabs(x) <= threshold ? T(0) : rest}};  // written so that NaN stays
  }

  FASTVI_HD std::array<T, 2> gradient(const std::array<T, 1>& upstream, T x, T threshold) const {
    const T passed = std::fabs(x) <= threshold ? T(0) : upstream[0];
    return {{passed, -sign(x) * passed}};
  }

 private:
  static FASTVI_HD T sign(T x) { return (x > T(0) ? T(1) : T(0)) - (x < T(0) ? T(1) : T(0)); }
};

}  // namespace fastvi

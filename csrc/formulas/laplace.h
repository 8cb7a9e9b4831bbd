// The log density of the Laplace distribution with the scale exp(log_scale), one dimension at a time, and its
// derivatives:
// -(|x - loc| e^(-log_scale) + log_scale + ln 2).
#pragma once

#include <array>
#include <cmath>
#include <cstddef>

#include "exp.h"

namespace fastvi {

template <class T>
inline constexpr T log_two = T(0.69314718055994530941723212145818);

template <class T>
struct LaplaceLogDensity {
  static constexpr std::size_t operands = 3;
  static constexpr double cost = 0.6;

  FASTVI_HD T value(T x, T loc, T log_scale) const {
    return -(scale_by_exp(std::fabs(x - loc), -log_scale).linear + log_scale + log_two<T>);
  }

  FASTVI_HD std::array<T, 3> gradient(T upstream, T x, T loc, T log_scale) const {
    const T difference = x - loc;
    const T sign = (difference > T(0) ? T(1) : T(0)) - (difference < T(0) ? T(1) : T(0));
    const T by_loc = scale_by_exp(upstream * sign, -log_scale).linear;
    const T deviations = scale_by_exp(std::fabs(difference), -log_scale).linear;
    return {{-by_loc, by_loc, upstream * (deviations - T(1))}};
  }
};

}  // namespace fastvi

// The gamma function's logarithm and derivatives in long double, which std::lgamma has and the others have not.
#pragma once

#include "check.h"

namespace fastvi::test {

// 1 / z is added up until Stirling's series has all digits.
inline Exact digamma_exact(Exact z) {
  Exact steps = 0;
  for (; z < 30; ++z) steps += 1 / z;
  const Exact square = 1 / (z * z);
  const Exact tail =
      square * (1.0L / 12 - square * (1.0L / 120 - square * (1.0L / 252 - square * (1.0L / 240 - square / 132))));
  return std::log(z) - 1 / (2 * z) - tail - steps;
}

}  // namespace fastvi::test

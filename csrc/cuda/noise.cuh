// Standard normal draws by Philox4x32-10 and the Box-Muller transform: a quad for each thread.
#pragma once

#include <cmath>
#include <cstdint>

#include "../formulas/log.h"
#include "../formulas/philox.h"
#include "../formulas/sincos.h"
#include "../kernels.h"
#include "cuda.h"

namespace fastvi {

template <class T>
FASTVI_DEVICE void quad_of_normals(const PhiloxBlock& counter, std::uint64_t seed, T* normals) {
  const PhiloxBlock words = philox(counter, seed);
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    const T radius = std::sqrt(T(2) * neg_log_uniform<T>(words.word[2 * pair]));
    T sine, cosine;
    sincos_turn(words.word[2 * pair + 1], sine, cosine);
    normals[2 * pair] = radius * cosine;
    normals[2 * pair + 1] = radius * sine;
  }
}

FASTVI_DEVICE std::uint64_t read_seed(Seed seed) { return static_cast<std::uint64_t>(*seed); }

// The noise of a quad of columns of row `row`, counted over the whole batch, of sample k.
template <class T>
FASTVI_DEVICE void sample_noise(std::uint64_t seed, std::int64_t k, std::int64_t row, std::int64_t quad, T* noise) {
  quad_of_normals(
      sample_counter(static_cast<std::uint32_t>(quad), static_cast<std::uint64_t>(row), static_cast<std::uint32_t>(k)),
      seed, noise);
}

}  // namespace fastvi

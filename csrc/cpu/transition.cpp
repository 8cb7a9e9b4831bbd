// The beginning and the end of a transition of Hamiltonian Monte Carlo, for many chains at once.
#include <algorithm>
#include <cmath>

#include "../formulas/floating_point.h"
#include "../kernels.h"
#include "aligned.h"
#include "chains.h"
#include "parallel.h"

namespace fastvi {
namespace {

// p' M^-1 p / 2 of one chain. In double: energies are large beside the differences that decide.
template <class T>
double kinetic_energy(std::int64_t dimensions, const T* momentum, const T* inverse_mass) {
  double sum = 0;
  if (inverse_mass == nullptr) {
#pragma omp simd reduction(+ : sum)
    for (std::int64_t d = 0; d < dimensions; ++d) {
      sum += static_cast<double>(momentum[d]) * static_cast<double>(momentum[d]);
    }
  } else {
#pragma omp simd reduction(+ : sum)
    for (std::int64_t d = 0; d < dimensions; ++d) {
      sum += static_cast<double>(momentum[d]) * static_cast<double>(inverse_mass[d]) * static_cast<double>(momentum[d]);
    }
  }
  return 0.5 * sum;
}

template <class T>
double energy_of(const ChainChoice<T>& choice, const typename ChainChoice<T>::Point& point, std::int64_t c) {
  const double kinetic =
      point.kinetic == nullptr
          ? kinetic_energy(choice.dimensions, point.momentum + c * choice.dimensions, choice.inverse_mass)
          : static_cast<double>(point.kinetic[c]);
  return kinetic - static_cast<double>(point.log_density[c]);
}

}  // namespace

template <class T>
void TransitionKernels<T>::draw(const ChainDraw<T>& draw) {
  const std::int64_t chains = draw.chains, dimensions = draw.dimensions, columns = dimensions + 2;
  const Buffer<T> noise(chains * columns);
  NoiseKernels<T>::normal_noise(noise.get(), Extent{1, chains, columns}, draw.seed, draw.first_chain);
  parallel_for(chains, chains * dimensions / 2, [&](std::int64_t c) {
    const T* const own = noise.get() + c * columns;
    T* const momentum = draw.momentum + c * dimensions;
    if (draw.scale == nullptr) {
      std::copy_n(own, dimensions, momentum);
    } else {
      for (std::int64_t d = 0; d < dimensions; ++d) momentum[d] = own[d] * draw.scale[d];
    }
    // Half the sum of two squared normals is minus the logarithm of a uniform number.
    const T first = own[dimensions], second = own[dimensions + 1];
    draw.threshold[c] = T(0.5) * (first * first + second * second);
  });
}

template <class T>
void TransitionKernels<T>::choose(const ChainChoice<T>& choice) {
  const std::int64_t dimensions = choice.dimensions;
  parallel_for(choice.chains, choice.chains * (2 * dimensions + 20), [&](std::int64_t c) {
    const double start = energy_of(choice, choice.start, c), end = energy_of(choice, choice.end, c);
    T error = static_cast<T>(end - start);
    if (!(std::fabs(error) < infinity<T>)) error = infinity<T>;  // NaN too
    const bool is_accepted = error <= choice.threshold[c];
    const auto& chosen = is_accepted ? choice.end : choice.start;
    std::copy_n(chosen.position + c * dimensions, dimensions, choice.position + c * dimensions);
    std::copy_n(chosen.gradient + c * dimensions, dimensions, choice.gradient + c * dimensions);
    choice.log_density[c] = chosen.log_density[c];
    choice.energy[c] = static_cast<T>(is_accepted ? end : start);
    choice.error[c] = error;
    choice.probability[c] = static_cast<T>(std::exp(-std::max(0.0, static_cast<double>(error))));
  });
}

template struct TransitionKernels<float>;
template struct TransitionKernels<double>;

}  // namespace fastvi

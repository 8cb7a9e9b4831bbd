// The leapfrog step of Hamiltonian dynamics with a diagonal mass matrix (Neal 2011, section 2.3), and the kinetic
// energy, one dimension at a time, with their derivatives.
#pragma once

#include <array>

#include "compiler.h"

namespace fastvi {

template <class T>
FASTVI_HD T leapfrog_momentum(T momentum, T gradient, T step_size, T kick) {
  return momentum - kick * step_size * gradient;
}

template <class T>
FASTVI_HD T leapfrog_position(T position, T new_momentum, T step_size, T inverse_mass) {
  return position + step_size * inverse_mass * new_momentum;
}

// By the factors; by the momentum it is `total` below, and by the gradient -kick * step_size * total.
template <class T>
struct LeapfrogDerivative {
  T step_size, inverse_mass;
};

template <class T>
FASTVI_HD LeapfrogDerivative<T> leapfrog_derivative(T by_position, T by_momentum, T momentum, T gradient, T step_size,
                                                    T inverse_mass, T kick) {
  const T new_momentum = leapfrog_momentum(momentum, gradient, step_size, kick);
  const T total = by_momentum + step_size * inverse_mass * by_position;
  return {inverse_mass * new_momentum * by_position - kick * gradient * total, step_size * new_momentum * by_position};
}

template <class T>
struct KineticEnergy {
  FASTVI_HD T value(T momentum) const { return T(0.5) * momentum * momentum; }

  FASTVI_HD std::array<T, 1> gradient(T upstream, T momentum) const { return {{upstream * momentum}}; }
};

template <class T>
struct WeightedKineticEnergy {
  // By the mass before the square, which may overflow or vanish where the energy does not.
  FASTVI_HD T value(T momentum, T inverse_mass) const { return T(0.5) * (momentum * inverse_mass) * momentum; }

  FASTVI_HD std::array<T, 2> gradient(T upstream, T momentum, T inverse_mass) const {
    return {{upstream * momentum * inverse_mass, T(0.5) * upstream * momentum * momentum}};
  }
};

}  // namespace fastvi

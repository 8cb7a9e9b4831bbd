// The leapfrog step of Hamiltonian dynamics with a diagonal mass matrix (Neal 2011, section 2.3), and the kinetic
// energy, one dimension at a time, with their derivatives.
#pragma once

#include <array>
#include <cstddef>

#include "compiler.h"

namespace fastvi {

// The new momentum p - kick * step_size * grad, and the new position q + step_size * inverse_mass * (new momentum).
template <class T>
struct LeapfrogTerm {
  static constexpr double cost = 0.4;

  // Whether the gradient of argument `which` reads state `state`: none of them reads q, and the states' none at all.
  static constexpr bool reads(std::size_t which, std::size_t state) { return which >= 3 && state > 0; }

  T kick;

  FASTVI_HD T momentum(T p, T grad, T step_size) const { return p - kick * step_size * grad; }

  FASTVI_HD std::array<T, 2> value(T q, T p, T grad, T step_size, T inverse_mass) const {
    const T new_momentum = momentum(p, grad, step_size);
    return {{q + step_size * inverse_mass * new_momentum, new_momentum}};
  }

  FASTVI_HD std::array<T, 5> gradient(const std::array<T, 2>& upstream, T, T p, T grad, T step_size,
                                      T inverse_mass) const {
    const auto [by_position, by_momentum] = upstream;
    const T new_momentum = momentum(p, grad, step_size);
    const T total = by_momentum + step_size * inverse_mass * by_position;
    return {{by_position, total, -kick * step_size * total,
             inverse_mass * new_momentum * by_position - kick * grad * total, step_size * new_momentum * by_position}};
  }
};

// The kick alone, which closes a trajectory.
template <class T>
struct MomentumKickTerm {
  static constexpr double cost = 0.2;

  static constexpr bool reads(std::size_t which, std::size_t state) { return which == 2 && state == 1; }

  T kick;

  FASTVI_HD std::array<T, 1> value(T p, T grad, T step_size) const { return {{p - kick * step_size * grad}}; }

  FASTVI_HD std::array<T, 3> gradient(const std::array<T, 1>& upstream, T, T grad, T step_size) const {
    return {{upstream[0], -kick * step_size * upstream[0], -kick * grad * upstream[0]}};
  }
};

template <class T>
struct KineticEnergy {
  static constexpr std::size_t operands = 1;
  static constexpr double cost = 0.2;

  FASTVI_HD T value(T momentum) const { return T(0.5) * momentum * momentum; }

  FASTVI_HD std::array<T, 1> gradient(T upstream, T momentum) const { return {{upstream * momentum}}; }
};

template <class T>
struct WeightedKineticEnergy {
  static constexpr std::size_t operands = 2;
  static constexpr double cost = 0.2;

  // By the mass before the square, which may overflow or vanish where the energy does not.
  FASTVI_HD T value(T momentum, T inverse_mass) const { return T(0.5) * (momentum * inverse_mass) * momentum; }

  FASTVI_HD std::array<T, 2> gradient(T upstream, T momentum, T inverse_mass) const {
    return {{upstream * momentum * inverse_mass, T(0.5) * upstream * momentum * momentum}};
  }
};

}  // namespace fastvi

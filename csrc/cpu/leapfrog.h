// The leapfrog step and its derivative for many chains at once, and the kinetic energy.
#pragma once

#include "rows.h"

namespace fastvi {

// A factor that is one number a row (`column_step` 0) or one a column (`column_step` 1); null data stands for one.
template <class T>
struct FactorView {
  const T* data;
  std::int64_t row_stride;
  int column_step;
};

template <class S>
struct LeapfrogInputs {
  RowView<const S> position, momentum, gradient;
  FactorView<ComputeType<S>> step_size, inverse_mass;  // so that a step size that is a number is not rounded
  ComputeType<S> kick;
};

// Contiguous (rows, columns) each, null where not wanted; a factor with column_step 0 takes one number a row.
template <class S>
struct LeapfrogGradients {
  S *momentum, *gradient;
  ComputeType<S>*step_size, *inverse_mass;
};

template <class S>
struct LeapfrogKernels {
  static void leapfrog_step(std::int64_t rows, std::int64_t columns, const LeapfrogInputs<S>& inputs, S* new_position,
                            S* new_momentum);

  // The upstream gradients are contiguous.
  static void leapfrog_step_backward(std::int64_t rows, std::int64_t columns, const LeapfrogInputs<S>& inputs,
                                     const S* by_position, const S* by_momentum, const LeapfrogGradients<S>& gradients);

  // Operands: momentum, inverse mass (null data: one).
  static void kinetic_energy(const Extent& extent, const std::array<RowView<const S>, 2>& operands, S* out);

  static void kinetic_energy_backward(const Extent& extent, const std::array<RowView<const S>, 2>& operands,
                                      const RowView<const S>& upstream,
                                      const std::array<GradientView<S>, 2>& gradients);
};

}  // namespace fastvi

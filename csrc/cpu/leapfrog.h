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

template <class T>
struct LeapfrogInputs {
  RowView<const T> position, momentum, gradient;
  FactorView<T> step_size, inverse_mass;
  T kick;
};

// Contiguous (rows, columns) each, null where not wanted; a factor with column_step 0 takes one number a row.
template <class T>
struct LeapfrogGradients {
  T *momentum, *gradient, *step_size, *inverse_mass;
};

template <class T>
struct LeapfrogKernels {
  static void leapfrog_step(std::int64_t rows, std::int64_t columns, const LeapfrogInputs<T>& inputs, T* new_position,
                            T* new_momentum);

  // The upstream gradients are contiguous.
  static void leapfrog_step_backward(std::int64_t rows, std::int64_t columns, const LeapfrogInputs<T>& inputs,
                                     const T* by_position, const T* by_momentum, const LeapfrogGradients<T>& gradients);

  // Operands: momentum, inverse mass (null data: one).
  static void kinetic_energy(const Extent& extent, const std::array<RowView<const T>, 2>& operands, T* out);

  static void kinetic_energy_backward(const Extent& extent, const std::array<RowView<const T>, 2>& operands,
                                      const RowView<const T>& upstream,
                                      const std::array<GradientView<T>, 2>& gradients);
};

}  // namespace fastvi

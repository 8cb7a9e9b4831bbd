#include "leapfrog.h"

#include <type_traits>

#include "../formulas/leapfrog.h"

namespace fastvi {
namespace {

constexpr double step_cost = 0.4, energy_cost = 0.2;

template <class T>
constexpr T one = T(1);

// Calls body with the column steps of both factors as constants, so that each case is a plain vector loop.
template <class T, class Body>
void with_column_steps(const LeapfrogInputs<T>& inputs, const Body& body) {
  using Constant0 = std::integral_constant<int, 0>;
  using Constant1 = std::integral_constant<int, 1>;
  const bool step = inputs.step_size.column_step != 0, mass = inputs.inverse_mass.column_step != 0;
  if (step && mass) return body(Constant1{}, Constant1{});
  if (step) return body(Constant1{}, Constant0{});
  if (mass) return body(Constant0{}, Constant1{});
  return body(Constant0{}, Constant0{});
}

template <class T>
const T* factor_row(const FactorView<T>& factor, std::int64_t row, std::int64_t first) {
  return factor.data == nullptr ? &one<T> : factor.data + row * factor.row_stride + first * factor.column_step;
}

bool constant(const auto& factor) { return factor.row_stride == 0 && factor.column_step == 0; }

// Contiguous rows that share both factors are one long row: no short loops.
template <class T>
void join_rows(std::int64_t& rows, std::int64_t& columns, const LeapfrogInputs<T>& inputs) {
  const auto contiguous = [&](const RowView<const T>& view) { return view.row_stride == columns; };
  if (contiguous(inputs.position) && contiguous(inputs.momentum) && contiguous(inputs.gradient) &&
      constant(inputs.step_size) && constant(inputs.inverse_mass)) {
    columns *= rows;
    rows = columns == 0 ? 0 : 1;
  }
}

}  // namespace

template <class T>
void LeapfrogKernels<T>::leapfrog_step(std::int64_t rows, std::int64_t columns, const LeapfrogInputs<T>& inputs,
                                       T* new_position, T* new_momentum) {
  const auto work = static_cast<std::int64_t>(static_cast<double>(rows * columns) * step_cost);
  join_rows(rows, columns, inputs);
  const std::int64_t pieces = ceil_divide(columns, gradient_piece);
  with_column_steps(inputs, [&](auto step_step, auto mass_step) {
    parallel_for(rows * pieces, work, [&](std::int64_t item) {
      const std::int64_t row = item / pieces, first = item % pieces * gradient_piece;
      const T* const position = inputs.position.row(0, row) + first;
      const T* const momentum = inputs.momentum.row(0, row) + first;
      const T* const gradient = inputs.gradient.row(0, row) + first;
      const T* const step_size = factor_row(inputs.step_size, row, first);
      const T* const inverse_mass = factor_row(inputs.inverse_mass, row, first);
      T* const position_out = new_position + row * columns + first;
      T* const momentum_out = new_momentum + row * columns + first;
      const T kick = inputs.kick;
      for_columns<T>(std::min(gradient_piece, columns - first), [=](std::int64_t d) {
        const T step = step_size[d * decltype(step_step)::value];
        const T kicked = leapfrog_momentum(momentum[d], gradient[d], step, kick);
        momentum_out[d] = kicked;
        position_out[d] = leapfrog_position(position[d], kicked, step, inverse_mass[d * decltype(mass_step)::value]);
      });
    });
  });
}

template <class T>
void LeapfrogKernels<T>::leapfrog_step_backward(std::int64_t rows, std::int64_t columns,
                                                const LeapfrogInputs<T>& inputs, const T* by_position,
                                                const T* by_momentum, const LeapfrogGradients<T>& gradients) {
  const auto work = static_cast<std::int64_t>(static_cast<double>(rows * columns) * 2 * step_cost);
  if (gradients.step_size == nullptr && gradients.inverse_mass == nullptr) join_rows(rows, columns, inputs);
  const std::int64_t pieces = ceil_divide(columns, gradient_piece);
  with_column_steps(inputs, [&](auto step_step, auto mass_step) {
    constexpr int step_of_step = decltype(step_step)::value, step_of_mass = decltype(mass_step)::value;
    const T kick = inputs.kick;
    parallel_for(rows * pieces, work, [&](std::int64_t item) {
      const std::int64_t row = item / pieces, first = item % pieces * gradient_piece, start = row * columns + first;
      const T* const step_size = factor_row(inputs.step_size, row, first);
      const T* const inverse_mass = factor_row(inputs.inverse_mass, row, first);
      const T* const position_upstream = by_position + start;
      const T* const momentum_upstream = by_momentum + start;
      const auto store = [&](T* target, const auto& derivative) {
        if (target == nullptr) return;
        T* const out = target + start;
        for_columns<T>(std::min(gradient_piece, columns - first), [=](std::int64_t d) {
          out[d] = derivative(momentum_upstream[d] +
                                  step_size[d * step_of_step] * inverse_mass[d * step_of_mass] * position_upstream[d],
                              step_size[d * step_of_step]);
        });
      };
      store(gradients.momentum, [](T total, T) { return total; });
      store(gradients.gradient, [kick](T total, T step) { return -kick * step * total; });
    });
    if (gradients.step_size == nullptr && gradients.inverse_mass == nullptr) return;

    // A factor's gradient: one number a column, or the row's sum.
    parallel_for(rows, work, [&](std::int64_t row) {
      const T* const momentum = inputs.momentum.row(0, row);
      const T* const gradient = inputs.gradient.row(0, row);
      const T* const step_size = factor_row(inputs.step_size, row, 0);
      const T* const inverse_mass = factor_row(inputs.inverse_mass, row, 0);
      const T* const position_upstream = by_position + row * columns;
      const T* const momentum_upstream = by_momentum + row * columns;
      const auto derivative = [=](std::int64_t d) {
        return leapfrog_derivative(position_upstream[d], momentum_upstream[d], momentum[d], gradient[d],
                                   step_size[d * step_of_step], inverse_mass[d * step_of_mass], kick);
      };
      const auto store_or_sum = [&](T* target, int column_step, const auto& of_factor) {
        if (target == nullptr) return;
        if (column_step == 0) {
          target[row] = sum_columns<T>(columns, of_factor);
        } else {
          T* const out = target + row * columns;
          for_columns<T>(columns, [=](std::int64_t d) { out[d] = of_factor(d); });
        }
      };
      store_or_sum(gradients.step_size, step_of_step, [=](std::int64_t d) { return derivative(d).step_size; });
      store_or_sum(gradients.inverse_mass, step_of_mass, [=](std::int64_t d) { return derivative(d).inverse_mass; });
    });
  });
}

template <class T>
void LeapfrogKernels<T>::kinetic_energy(const Extent& extent, const std::array<RowView<const T>, 2>& operands, T* out) {
  if (operands[1].data == nullptr) {
    reduce_rows_by_term<T>(extent, std::array<RowView<const T>, 1>{operands[0]}, out, energy_cost, KineticEnergy<T>{});
  } else {
    reduce_rows_by_term<T>(extent, operands, out, energy_cost, WeightedKineticEnergy<T>{});
  }
}

template <class T>
void LeapfrogKernels<T>::kinetic_energy_backward(const Extent& extent, const std::array<RowView<const T>, 2>& operands,
                                                 const RowView<const T>& upstream,
                                                 const std::array<GradientView<T>, 2>& gradients) {
  if (operands[1].data == nullptr) {
    row_gradients<T>(extent, std::array<RowView<const T>, 1>{operands[0]}, upstream,
                     std::array<GradientView<T>, 1>{gradients[0]}, energy_cost, KineticEnergy<T>{});
  } else {
    row_gradients<T>(extent, operands, upstream, gradients, energy_cost, WeightedKineticEnergy<T>{});
  }
}

template struct LeapfrogKernels<float>;
template struct LeapfrogKernels<double>;

}  // namespace fastvi

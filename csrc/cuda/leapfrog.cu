#include "../formulas/leapfrog.h"
#include "rows.cuh"

namespace fastvi {
namespace {

// A factor at column d of a row.
template <class T>
FASTVI_DEVICE T factor_at(const FactorView<T>& factor, std::int64_t row, std::int64_t d) {
  return factor.data == nullptr ? T(1) : factor.data[row * factor.row_stride + d * factor.column_step];
}

template <class S>
__global__ void __launch_bounds__(block_threads)
    leapfrog_step_kernel(std::int64_t rows, std::int64_t columns, LeapfrogInputs<S> inputs, S* new_position,
                         S* new_momentum, std::int64_t pieces) {
  using T = ComputeType<S>;
  for (std::int64_t item = WarpGroup::first(); item < rows * pieces; item += WarpGroup::count()) {
    const Place piece(item, pieces);
    const std::int64_t row = piece.outer, first = piece.inner * gradient_piece, start = row * columns + first;
    const std::int64_t rest = columns - first;
    const std::array<const S*, 3> in{{inputs.position.row(0, row) + first, inputs.momentum.row(0, row) + first,
                                      inputs.gradient.row(0, row) + first}};
    map_columns<S>(in, std::array<S*, 2>{{new_position + start, new_momentum + start}},
                   rest < gradient_piece ? rest : gradient_piece, WarpGroup::lane(), WarpGroup::threads,
                   [&](std::int64_t d, const std::array<T, 3>& state) {
                     const T step = factor_at(inputs.step_size, row, first + d);
                     const T momentum = leapfrog_momentum(state[1], state[2], step, inputs.kick);
                     const T mass = factor_at(inputs.inverse_mass, row, first + d);
                     return std::array<T, 2>{{leapfrog_position(state[0], momentum, step, mass), momentum}};
                   });
  }
}

// The gradients by momentum and gradient.
template <class S>
__global__ void __launch_bounds__(block_threads, 3)
    leapfrog_backward_kernel(std::int64_t rows, std::int64_t columns, LeapfrogInputs<S> inputs, const S* by_position,
                             const S* by_momentum, LeapfrogGradients<S> gradients, std::int64_t pieces) {
  using T = ComputeType<S>;
  for (std::int64_t item = WarpGroup::first(); item < rows * pieces; item += WarpGroup::count()) {
    const Place piece(item, pieces);
    const std::int64_t row = piece.outer, first = piece.inner * gradient_piece, start = row * columns + first;
    const std::int64_t rest = columns - first;
    const std::array<const S*, 2> in{{by_position + start, by_momentum + start}};
    const std::array<S*, 2> out{{gradients.momentum == nullptr ? nullptr : gradients.momentum + start,
                                 gradients.gradient == nullptr ? nullptr : gradients.gradient + start}};
    map_columns<S>(in, out, rest < gradient_piece ? rest : gradient_piece, WarpGroup::lane(), WarpGroup::threads,
                   [&](std::int64_t d, const std::array<T, 2>& upstream) {
                     const T step = factor_at(inputs.step_size, row, first + d);
                     const T mass = factor_at(inputs.inverse_mass, row, first + d);
                     const T total = upstream[1] + step * mass * upstream[0];
                     return std::array<T, 2>{{total, -inputs.kick * step * total}};
                   });
  }
}

// The derivatives by both factors at column d of a row.
template <class S>
FASTVI_DEVICE LeapfrogDerivative<ComputeType<S>> derivative_at(const LeapfrogInputs<S>& inputs, const S* by_position,
                                                               const S* by_momentum, std::int64_t columns,
                                                               std::int64_t row, std::int64_t d) {
  using T = ComputeType<S>;
  const std::int64_t at = row * columns + d;
  return leapfrog_derivative(static_cast<T>(by_position[at]), static_cast<T>(by_momentum[at]),
                             static_cast<T>(inputs.momentum.row(0, row)[d]),
                             static_cast<T>(inputs.gradient.row(0, row)[d]), factor_at(inputs.step_size, row, d),
                             factor_at(inputs.inverse_mass, row, d), inputs.kick);
}

// The gradients by factors that are one number a column, null where not wanted.
template <class S>
__global__ void __launch_bounds__(block_threads)
    leapfrog_column_factors_kernel(std::int64_t rows, std::int64_t columns, LeapfrogInputs<S> inputs,
                                   const S* by_position, const S* by_momentum, ComputeType<S>* by_step_size,
                                   ComputeType<S>* by_inverse_mass) {
  for (std::int64_t i = ThreadGroup::first(); i < rows * columns; i += ThreadGroup::count()) {
    const Place place(i, columns);
    const auto found = derivative_at(inputs, by_position, by_momentum, columns, place.outer, place.inner);
    if (by_step_size != nullptr) by_step_size[i] = found.step_size;
    if (by_inverse_mass != nullptr) by_inverse_mass[i] = found.inverse_mass;
  }
}

// Those by factors that are one number a row: of the step size and of the inverse mass.
template <class Group, class S>
__global__ void __launch_bounds__(block_threads)
    leapfrog_row_factors_kernel(std::int64_t rows, std::int64_t columns, LeapfrogInputs<S> inputs, const S* by_position,
                                const S* by_momentum, std::int64_t items, Pieces pieces,
                                RowSums<ComputeType<S>, 2> sums) {
  using T = ComputeType<S>;
  for (std::int64_t item = Group::first(); item < items; item += Group::count()) {
    const auto piece = RowPiece::of<Group>(item, rows, columns, pieces);
    LongSums<T, 2> found;
    for (std::int64_t d = piece.first + Group::lane(); d < piece.first + piece.count; d += Group::threads) {
      const auto derivative = derivative_at(inputs, by_position, by_momentum, columns, piece.row, d);
      found.add(0, derivative.step_size);
      found.add(1, derivative.inverse_mass);
      found.next();
    }
    const std::array<T, 2> totals{{Group::sum(found.result(0)), Group::sum(found.result(1))}};
    if (Group::lane() == 0) sums.store(item, totals);
  }
}

}  // namespace

template <class S>
void LeapfrogKernels<S>::leapfrog_step(std::int64_t rows, std::int64_t columns, const LeapfrogInputs<S>& inputs,
                                       S* new_position, S* new_momentum) {
  const DeviceGuard guard;
  const std::int64_t pieces = ceil_divide(columns, gradient_piece);
  launch(leapfrog_step_kernel<S>, rows * pieces, WarpGroup::per_block, rows, columns, inputs, new_position,
         new_momentum, pieces);
}

template <class S>
void LeapfrogKernels<S>::leapfrog_step_backward(std::int64_t rows, std::int64_t columns,
                                                const LeapfrogInputs<S>& inputs, const S* by_position,
                                                const S* by_momentum, const LeapfrogGradients<S>& gradients) {
  using T = ComputeType<S>;
  const DeviceGuard guard;
  if (gradients.momentum != nullptr || gradients.gradient != nullptr) {
    const std::int64_t pieces = ceil_divide(columns, gradient_piece);
    launch(leapfrog_backward_kernel<S>, rows * pieces, WarpGroup::per_block, rows, columns, inputs, by_position,
           by_momentum, gradients, pieces);
  }
  const bool step_by_column = inputs.step_size.column_step != 0, mass_by_column = inputs.inverse_mass.column_step != 0;
  const auto chosen = [](bool condition, T* gradient) { return condition ? gradient : nullptr; };
  T* const column_step = chosen(step_by_column, gradients.step_size);
  T* const column_mass = chosen(mass_by_column, gradients.inverse_mass);
  if (column_step != nullptr || column_mass != nullptr) {
    launch(leapfrog_column_factors_kernel<S>, rows * columns, ThreadGroup::per_block, rows, columns, inputs,
           by_position, by_momentum, column_step, column_mass);
  }
  T* const row_step = chosen(!step_by_column, gradients.step_size);
  T* const row_mass = chosen(!mass_by_column, gradients.inverse_mass);
  if (row_step == nullptr && row_mass == nullptr) return;
  sum_rows<T, 2>(rows, columns, {{row_step, row_mass}},
                 [&]<class Group>(std::int64_t items, const Pieces& pieces, const RowSums<T, 2>& sums) {
                   launch(leapfrog_row_factors_kernel<Group, S>, items, Group::per_block, rows, columns, inputs,
                          by_position, by_momentum, items, pieces, sums);
                 });
}

template <class S>
void LeapfrogKernels<S>::kinetic_energy(const Extent& extent, const std::array<RowView<const S>, 2>& operands, S* out) {
  using T = ComputeType<S>;
  if (operands[1].data == nullptr) {
    reduce_rows_by_term<S>(extent, std::array<RowView<const S>, 1>{operands[0]}, out, KineticEnergy<T>{});
  } else {
    reduce_rows_by_term<S>(extent, operands, out, WeightedKineticEnergy<T>{});
  }
}

template <class S>
void LeapfrogKernels<S>::kinetic_energy_backward(const Extent& extent, const std::array<RowView<const S>, 2>& operands,
                                                 const RowView<const S>& upstream,
                                                 const std::array<GradientView<S>, 2>& gradients) {
  using T = ComputeType<S>;
  if (operands[1].data == nullptr) {
    row_gradients<S>(extent, std::array<RowView<const S>, 1>{operands[0]}, upstream,
                     std::array<GradientView<S>, 1>{gradients[0]}, KineticEnergy<T>{});
  } else {
    row_gradients<S>(extent, operands, upstream, gradients, WeightedKineticEnergy<T>{});
  }
}

template struct LeapfrogKernels<float>;
template struct LeapfrogKernels<double>;
template struct LeapfrogKernels<BFloat16>;
template struct LeapfrogKernels<Float16>;

}  // namespace fastvi

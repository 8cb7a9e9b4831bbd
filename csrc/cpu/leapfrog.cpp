#include "../formulas/leapfrog.h"

#include <type_traits>

#include "rows.h"

namespace fastvi {
namespace {

constexpr double step_cost = 0.4, energy_cost = 0.2;

template <class T>
constexpr T one = T(1);

// Calls body with the column steps of both factors as constants, so that each case is a plain vector loop.
template <class S, class Body>
void with_column_steps(const LeapfrogInputs<S>& inputs, const Body& body) {
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
template <class S>
void join_rows(std::int64_t& rows, std::int64_t& columns, const LeapfrogInputs<S>& inputs) {
  const auto contiguous = [&](const RowView<const S>& view) { return view.row_stride == columns; };
  if (contiguous(inputs.position) && contiguous(inputs.momentum) && contiguous(inputs.gradient) &&
      constant(inputs.step_size) && constant(inputs.inverse_mass)) {
    columns *= rows;
    rows = columns == 0 ? 0 : 1;
  }
}

// What the derivatives on a part of one row, of at most `length` columns, are made of; momentum and gradient are needed
// for those by the factors alone.
template <class S, std::int64_t length>
class BackwardRow {
 public:
  using T = ComputeType<S>;

  const T *step_size, *inverse_mass, *by_position, *by_momentum, *momentum, *gradient;

  BackwardRow(const LeapfrogInputs<S>& inputs, const S* position_upstream, const S* momentum_upstream,
              std::int64_t columns, std::int64_t row, std::int64_t first, std::int64_t count, bool by_factors)
      : step_size(factor_row(inputs.step_size, row, first)),
        inverse_mass(factor_row(inputs.inverse_mass, row, first)),
        by_position(buffers_[0].load(position_upstream + row * columns + first, count)),
        by_momentum(buffers_[1].load(momentum_upstream + row * columns + first, count)),
        momentum(by_factors ? buffers_[2].load(inputs.momentum.row(0, row) + first, count) : nullptr),
        gradient(by_factors ? buffers_[3].load(inputs.gradient.row(0, row) + first, count) : nullptr) {}

 private:
  RowBuffer<S, length> buffers_[4];
};

}  // namespace

template <class S>
void LeapfrogKernels<S>::leapfrog_step(std::int64_t rows, std::int64_t columns, const LeapfrogInputs<S>& inputs,
                                       S* new_position, S* new_momentum) {
  using T = ComputeType<S>;
  constexpr std::int64_t piece = gradient_piece<S>;
  const auto work = static_cast<std::int64_t>(static_cast<double>(rows * columns) * step_cost);
  join_rows(rows, columns, inputs);
  const std::int64_t pieces = ceil_divide(columns, piece);
  with_column_steps(inputs, [&](auto step_step, auto mass_step) {
    parallel_for(rows * pieces, work, [&](std::int64_t item) {
      const std::int64_t row = item / pieces, first = item % pieces * piece;
      const std::int64_t count = std::min(piece, columns - first), start = row * columns + first;
      RowBuffer<S, piece> buffers[5];
      const T* const position = buffers[0].load(inputs.position.row(0, row) + first, count);
      const T* const momentum = buffers[1].load(inputs.momentum.row(0, row) + first, count);
      const T* const gradient = buffers[2].load(inputs.gradient.row(0, row) + first, count);
      const T* const step_size = factor_row(inputs.step_size, row, first);
      const T* const inverse_mass = factor_row(inputs.inverse_mass, row, first);
      T* const position_out = buffers[3].target(new_position + start);
      T* const momentum_out = buffers[4].target(new_momentum + start);
      const T kick = inputs.kick;
      for_columns<T>(count, [=](std::int64_t d) {
        const T step = step_size[d * decltype(step_step)::value];
        const T kicked = leapfrog_momentum(momentum[d], gradient[d], step, kick);
        momentum_out[d] = kicked;
        position_out[d] = leapfrog_position(position[d], kicked, step, inverse_mass[d * decltype(mass_step)::value]);
      });
      buffers[3].store(new_position + start, count);
      buffers[4].store(new_momentum + start, count);
    });
  });
}

template <class S>
void LeapfrogKernels<S>::leapfrog_step_backward(std::int64_t rows, std::int64_t columns,
                                                const LeapfrogInputs<S>& inputs, const S* by_position,
                                                const S* by_momentum, const LeapfrogGradients<S>& gradients) {
  using T = ComputeType<S>;
  constexpr std::int64_t piece = gradient_piece<S>;
  const auto work = static_cast<std::int64_t>(static_cast<double>(rows * columns) * 2 * step_cost);
  if (gradients.step_size == nullptr && gradients.inverse_mass == nullptr) join_rows(rows, columns, inputs);
  const std::int64_t pieces = ceil_divide(columns, piece);
  with_column_steps(inputs, [&](auto step_step, auto mass_step) {
    constexpr int step_of_step = decltype(step_step)::value, step_of_mass = decltype(mass_step)::value;
    const T kick = inputs.kick;
    const auto of_step = [](const LeapfrogDerivative<T>& found) { return found.step_size; };
    const auto of_mass = [](const LeapfrogDerivative<T>& found) { return found.inverse_mass; };
    // By the factors of column d of a row.
    const auto derivative = [kick](const auto& row, std::int64_t d) {
      return leapfrog_derivative(row.by_position[d], row.by_momentum[d], row.momentum[d], row.gradient[d],
                                 row.step_size[d * step_of_step], row.inverse_mass[d * step_of_mass], kick);
    };
    // All that is one number a column.
    const bool by_factors = (step_of_step == 1 && gradients.step_size != nullptr) ||
                            (step_of_mass == 1 && gradients.inverse_mass != nullptr);
    parallel_for(rows * pieces, work, [&](std::int64_t item) {
      const std::int64_t row = item / pieces, first = item % pieces * piece, start = row * columns + first;
      const std::int64_t count = std::min(piece, columns - first);
      const BackwardRow<S, piece> in(inputs, by_position, by_momentum, columns, row, first, count, by_factors);
      RowBuffer<S, piece> out;
      const auto store = [&](S* target, const auto& value) {
        if (target == nullptr) return;
        T* const found = out.target(target + start);
        for_columns<T>(count, [&, found](std::int64_t d) { found[d] = value(d); });
        out.store(target + start, count);
      };
      const auto total = [&](std::int64_t d) {
        return in.by_momentum[d] +
               in.step_size[d * step_of_step] * in.inverse_mass[d * step_of_mass] * in.by_position[d];
      };
      store(gradients.momentum, total);
      store(gradients.gradient, [&](std::int64_t d) { return -kick * in.step_size[d * step_of_step] * total(d); });
      const auto store_factor = [&](T* target, const auto& part) {
        if (target == nullptr) return;
        T* const found = target + start;
        for_columns<T>(count, [&, found](std::int64_t d) { found[d] = part(derivative(in, d)); });
      };
      if constexpr (step_of_step == 1) store_factor(gradients.step_size, of_step);
      if constexpr (step_of_mass == 1) store_factor(gradients.inverse_mass, of_mass);
    });
    const auto sum_factor = [&](T* target, const auto& part) {
      if (target == nullptr) return;
      sum_rows(rows, columns, target, 2 * step_cost, [&](std::int64_t row, std::int64_t first, std::int64_t count) {
        const BackwardRow<S, row_block> in(inputs, by_position, by_momentum, columns, row, first, count, true);
        return sum_columns<T>(count, [&](std::int64_t d) { return part(derivative(in, d)); });
      });
    };
    if constexpr (step_of_step == 0) sum_factor(gradients.step_size, of_step);
    if constexpr (step_of_mass == 0) sum_factor(gradients.inverse_mass, of_mass);
  });
}

template <class S>
void LeapfrogKernels<S>::kinetic_energy(const Extent& extent, const std::array<RowView<const S>, 2>& operands, S* out) {
  using T = ComputeType<S>;
  if (operands[1].data == nullptr) {
    reduce_rows_by_term<S>(extent, std::array<RowView<const S>, 1>{operands[0]}, out, energy_cost, KineticEnergy<T>{});
  } else {
    reduce_rows_by_term<S>(extent, operands, out, energy_cost, WeightedKineticEnergy<T>{});
  }
}

template <class S>
void LeapfrogKernels<S>::kinetic_energy_backward(const Extent& extent, const std::array<RowView<const S>, 2>& operands,
                                                 const RowView<const S>& upstream,
                                                 const std::array<GradientView<S>, 2>& gradients) {
  using T = ComputeType<S>;
  if (operands[1].data == nullptr) {
    row_gradients<S>(extent, std::array<RowView<const S>, 1>{operands[0]}, upstream,
                     std::array<GradientView<S>, 1>{gradients[0]}, energy_cost, KineticEnergy<T>{});
  } else {
    row_gradients<S>(extent, operands, upstream, gradients, energy_cost, WeightedKineticEnergy<T>{});
  }
}

template struct LeapfrogKernels<float>;
template struct LeapfrogKernels<double>;
template struct LeapfrogKernels<BFloat16>;
template struct LeapfrogKernels<Float16>;

}  // namespace fastvi

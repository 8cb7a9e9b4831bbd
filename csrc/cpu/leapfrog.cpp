#include "leapfrog.h"

#include <type_traits>

#include "../formulas/leapfrog.h"

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

// The derivatives by the factors of one step, on a part of one row of at most `length` columns.
template <class S, std::int64_t length, int step_of_step, int step_of_mass>
class FactorDerivatives {
 public:
  using T = ComputeType<S>;

  // The derivatives of column first + d, d in [0, count).
  auto load(const LeapfrogInputs<S>& inputs, const S* by_position, const S* by_momentum, std::int64_t columns,
            std::int64_t row, std::int64_t first, std::int64_t count) {
    const std::int64_t start = row * columns + first;
    const T* const momentum = momentum_.load(inputs.momentum.row(0, row) + first, count);
    const T* const gradient = gradient_.load(inputs.gradient.row(0, row) + first, count);
    const T* const step_size = factor_row(inputs.step_size, row, first);
    const T* const inverse_mass = factor_row(inputs.inverse_mass, row, first);
    const T* const position_upstream = by_position_.load(by_position + start, count);
    const T* const momentum_upstream = by_momentum_.load(by_momentum + start, count);
    const T kick = inputs.kick;
    return [=](std::int64_t d) {
      return leapfrog_derivative(position_upstream[d], momentum_upstream[d], momentum[d], gradient[d],
                                 step_size[d * step_of_step], inverse_mass[d * step_of_mass], kick);
    };
  }

 private:
  RowBuffer<S, length> momentum_, gradient_, by_position_, by_momentum_;
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
    const auto of_step = [](const LeapfrogDerivative<T>& derivative) { return derivative.step_size; };
    const auto of_mass = [](const LeapfrogDerivative<T>& derivative) { return derivative.inverse_mass; };
    // All that is one number a column.
    parallel_for(rows * pieces, work, [&](std::int64_t item) {
      const std::int64_t row = item / pieces, first = item % pieces * piece, start = row * columns + first;
      const std::int64_t count = std::min(piece, columns - first);
      RowBuffer<S, piece> out;
      const auto store = [&](S* target, const auto& derivative) {
        if (target == nullptr) return;
        T* const row_out = out.target(target + start);
        for_columns<T>(count, [=](std::int64_t d) { row_out[d] = derivative(d); });
        out.store(target + start, count);
      };
      if (gradients.momentum != nullptr || gradients.gradient != nullptr) {
        RowBuffer<S, piece> buffers[2];
        const T* const step_size = factor_row(inputs.step_size, row, first);
        const T* const inverse_mass = factor_row(inputs.inverse_mass, row, first);
        const T* const position_upstream = buffers[0].load(by_position + start, count);
        const T* const momentum_upstream = buffers[1].load(by_momentum + start, count);
        const auto total = [=](std::int64_t d) {
          return momentum_upstream[d] +
                 step_size[d * step_of_step] * inverse_mass[d * step_of_mass] * position_upstream[d];
        };
        store(gradients.momentum, total);
        store(gradients.gradient, [=](std::int64_t d) { return -kick * step_size[d * step_of_step] * total(d); });
      }
      const auto store_factor = [&](T* target, const auto& part) {
        if (target == nullptr) return;
        FactorDerivatives<S, piece, step_of_step, step_of_mass> buffers;
        const auto derivative = buffers.load(inputs, by_position, by_momentum, columns, row, first, count);
        T* const row_out = target + start;
        for_columns<T>(count, [=](std::int64_t d) { row_out[d] = part(derivative(d)); });
      };
      if constexpr (step_of_step == 1) store_factor(gradients.step_size, of_step);
      if constexpr (step_of_mass == 1) store_factor(gradients.inverse_mass, of_mass);
    });
    const auto sum_factor = [&](T* target, const auto& part) {
      if (target == nullptr) return;
      sum_rows(rows, columns, target, 2 * step_cost, [&](std::int64_t row, std::int64_t first, std::int64_t count) {
        FactorDerivatives<S, row_block, step_of_step, step_of_mass> buffers;
        const auto derivative = buffers.load(inputs, by_position, by_momentum, columns, row, first, count);
        return sum_columns<T>(count, [=](std::int64_t d) { return part(derivative(d)); });
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

// The leapfrog step with every kind of step size and mass against the formula in long double, and the kinetic energy.
#include "check.h"

namespace fastvi::test {
namespace {

enum class Kind { absent, number, by_row, by_column, by_both };

// A step size or an inverse mass, stored as its kind needs.
template <class T>
struct Factor {
  Kind kind;
  std::int64_t row_stride;
  std::vector<T> memory;

  Factor(Kind given, std::int64_t rows, std::int64_t columns, Random<T>& random)
      : kind(given),
        row_stride(kind == Kind::by_row    ? 1
                   : kind == Kind::by_both ? columns
                                           : 0) {
    const std::int64_t sizes[] = {0, 1, rows, columns, rows * columns};
    memory = random.normal(sizes[static_cast<int>(kind)]);
  }

  bool by_column() const { return kind == Kind::by_column || kind == Kind::by_both; }
  FactorView<T> view() const {
    return {kind == Kind::absent ? nullptr : memory.data(), row_stride, by_column() ? 1 : 0};
  }
  Exact at(std::int64_t row, std::int64_t column) const {
    return kind == Kind::absent
               ? Exact{1}
               : exact(memory[static_cast<std::size_t>(row * row_stride + (by_column() ? column : 0))]);
  }
  // Where an element's part of the gradient goes, and how many elements share one place.
  std::size_t place(std::int64_t row, std::int64_t column, std::int64_t columns) const {
    return static_cast<std::size_t>(by_column() ? row * columns + column : row);
  }
};

template <class S>
void check_step(const Extent& whole, Kind step_kind, Kind mass_kind, Layout layout, Random<S>& random) {
  const std::int64_t rows = whole.rows, columns = whole.columns;
  const Extent extent{1, rows, columns};
  const std::string what = "leapfrog_step" + describe(extent) + ", factors " +
                           std::to_string(static_cast<int>(step_kind)) + " and " +
                           std::to_string(static_cast<int>(mass_kind));
  const Operand<S> position(extent, layout, random), momentum(extent, layout, random), gradient(extent, layout, random);
  using T = ComputeType<S>;
  Random<T> factor_random(17);
  const Factor<T> step(step_kind, rows, columns, factor_random), mass(mass_kind, rows, columns, factor_random);
  const auto elements = rows * columns;
  const auto size = static_cast<std::size_t>(elements);
  const std::vector<S> by_position = random.normal(elements), by_momentum = random.normal(elements);
  const T kick = 0.75;
  const LeapfrogInputs<S> inputs{position.view(), momentum.view(), gradient.view(), step.view(), mass.view(), kick};

  std::vector<Bounded> new_position(size), new_momentum(size);
  std::array<std::vector<Bounded>, 4> gradients;
  gradients[0].resize(size);
  gradients[1].resize(size);
  gradients[2].resize(step.by_column() ? size : static_cast<std::size_t>(rows));
  gradients[3].resize(mass.by_column() ? size : static_cast<std::size_t>(rows));
  for_each_element(extent, [&](std::int64_t, std::int64_t b, std::int64_t d) {
    const Exact p = momentum.at(0, b, d), g = gradient.at(0, b, d), q = position.at(0, b, d);
    const Exact eps = step.at(b, d), m = mass.at(b, d), kappa = kick;
    const Exact kicked = p - kappa * eps * g, kicked_size = std::fabs(p) + std::fabs(kappa * eps * g);
    const auto i = flat(extent, 0, b, d);
    const Exact by_q = exact(by_position[i]), by_p = exact(by_momentum[i]);
    new_momentum[i].add(kicked, kicked_size);
    new_position[i].add(q + eps * m * kicked, std::fabs(q) + std::fabs(eps * m) * kicked_size);
    const Exact total = by_p + eps * m * by_q, total_size = std::fabs(by_p) + std::fabs(eps * m * by_q);
    gradients[0][i].add(total, total_size);
    gradients[1][i].add(-kappa * eps * total, std::fabs(kappa * eps) * total_size);
    gradients[2][step.place(b, d, columns)].add(m * kicked * by_q - kappa * g * total,
                                                std::fabs(m * by_q) * kicked_size + std::fabs(kappa * g) * total_size);
    gradients[3][mass.place(b, d, columns)].add(eps * kicked * by_q, std::fabs(eps * by_q) * kicked_size);
  });

  std::vector<S> found_momentum;
  check_close(on_any_threads(what,
                             [&] {
                               std::vector<S> next_position = unwritten<S>(size);
                               std::vector<S> next_momentum = unwritten<S>(size);
                               LeapfrogKernels<S>::leapfrog_step(rows, columns, inputs, next_position.data(),
                                                                 next_momentum.data());
                               check(found_momentum.empty() || same_bits(found_momentum, next_momentum),
                                     what + ": the momentum has other bits");
                               found_momentum = next_momentum;
                               return next_position;
                             }),
              new_position, 1, what + ", position");
  check_close(found_momentum, new_momentum, 1, what + ", momentum");

  for (const unsigned wanted : choices(4)) {
    const auto memory = [&]<class Number>(std::size_t i, std::vector<Number>& found) {
      if ((wanted >> i) % 2 == 0) return static_cast<Number*>(nullptr);
      found = unwritten<Number>(gradients[i].size());
      return found.data();
    };
    std::array<std::vector<S>, 2> of_states;
    std::array<std::vector<T>, 2> of_factors;
    bool first = true;
    on_any_threads(what + ", gradients", [&] {
      std::array<std::vector<S>, 2> states;
      std::array<std::vector<T>, 2> factors;
      LeapfrogKernels<S>::leapfrog_step_backward(
          rows, columns, inputs, by_position.data(), by_momentum.data(),
          {memory(0, states[0]), memory(1, states[1]), memory(2, factors[0]), memory(3, factors[1])});
      if (first) {
        of_states = states;
        of_factors = factors;
        first = false;
      }
      std::vector<T> all;
      for (const auto& part : states) {
        for (const S number : part) all.push_back(static_cast<T>(number));
      }
      for (const auto& part : factors) all.insert(all.end(), part.begin(), part.end());
      return all;
    });
    for (std::size_t i = 0; i < 4; ++i) {
      if ((wanted >> i) % 2 == 0) continue;
      const std::string which = what + ", gradient " + std::to_string(i);
      if (i < 2) {
        check_close(of_states[i], gradients[i], columns, which);
      } else {
        check_close(of_factors[i - 2], gradients[i], columns, which);
      }
    }
  }
}

template <class S>
void check_energy() {
  using Kernels = LeapfrogKernels<S>;
  check_row_kernels<S, 1>(
      "kinetic_energy",
      [](const Extent& extent, const std::array<RowView<const S>, 1>& in, S* out) {
        Kernels::kinetic_energy(extent, {in[0], {}}, out);
      },
      [](const Extent& extent, const std::array<RowView<const S>, 1>& in, const RowView<const S>& upstream,
         const std::array<GradientView<S>, 1>& out) {
        Kernels::kinetic_energy_backward(extent, {in[0], {}}, upstream, {out[0], {}});
      },
      [](const std::array<Exact, 1>& in) {
        const Exact energy = in[0] * in[0] / 2;
        return Term<1>{{energy, energy}, {{{in[0], std::fabs(in[0])}}}};
      });
  check_row_kernels<S, 2>("kinetic_energy, mass", Kernels::kinetic_energy, Kernels::kinetic_energy_backward,
                          [](const std::array<Exact, 2>& in) {
                            const auto [momentum, mass] = in;
                            const Exact half_square = momentum * momentum / 2;
                            return Term<2>{
                                {half_square * mass, half_square * std::fabs(mass)},
                                {{{momentum * mass, std::fabs(momentum * mass)}, {half_square, half_square}}}};
                          });
}

// The gradient of one step size for a row of very many columns.
template <class S>
void check_long_row() {
  const std::vector<S> numbers(very_many, stored<S>(0.03)), none(very_many, stored<S>(0));
  const ComputeType<S> one = 1;
  const RowView<const S> row{numbers.data(), 0, 0};
  const LeapfrogInputs<S> inputs{row, row, {none.data(), 0, 0}, {&one, 0, 0}, {}, ComputeType<S>(0.5)};
  const std::string what = "leapfrog_step, step size's gradient of a long row";
  check_long_sum(on_any_threads(what,
                                [&] {
                                  std::vector<ComputeType<S>> out = unwritten<ComputeType<S>>(1);
                                  LeapfrogKernels<S>::leapfrog_step_backward(1, very_many, inputs, numbers.data(),
                                                                             none.data(),
                                                                             {nullptr, nullptr, out.data(), nullptr});
                                  return out;
                                }),
                 very_many * exact(numbers[0]) * exact(numbers[0]), what);
}

template <class S>
void check_all() {
  constexpr Kind kinds[] = {Kind::absent, Kind::number, Kind::by_row, Kind::by_column, Kind::by_both};
  Random<S> random(19870903);
  for (const Extent& extent : extents()) {
    for (const Kind step : kinds) {
      for (const Kind mass : kinds) {
        for (const Layout layout : {Layout::full, Layout::padded_rows, Layout::one}) {
          check_step(extent, step, mass, layout, random);
        }
      }
    }
  }
  check_energy<S>();
  check_long_row<S>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::for_each_type([]<class S> { fastvi::test::check_all<S>(); });
  return fastvi::test::report("leapfrog");
}

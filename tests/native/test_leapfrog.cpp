// The leapfrog step with every kind of step size and mass against the formula in long double, the kick alone, and the
// kinetic energy.
#include "map_operations.h"

namespace fastvi::test {
namespace {

template <class S>
void check_step() {
  const Exact kappa = 0.75;
  check_map_operation<S, 3, 2, 2>(
      "leapfrog_step", {0.75},
      [&](const std::array<Exact, 3>& states, const std::array<Exact, 2>& factors,
          const std::array<Exact, 2>& upstream) {
        const auto [q, p, g] = states;
        const auto [eps, m] = factors;
        const auto [by_q, by_p] = upstream;
        const Exact kicked = p - kappa * eps * g, kicked_size = std::fabs(p) + std::fabs(kappa * eps * g);
        const Exact total = by_p + eps * m * by_q, total_size = std::fabs(by_p) + std::fabs(eps * m * by_q);
        return MapTerm<2, 5>{
            {{{q + eps * m * kicked, std::fabs(q) + std::fabs(eps * m) * kicked_size}, {kicked, kicked_size}}},
            {{{by_q, 0},
              {total, total_size},
              {-kappa * eps * total, std::fabs(kappa * eps) * total_size},
              {m * kicked * by_q - kappa * g * total,
               std::fabs(m * by_q) * kicked_size + std::fabs(kappa * g) * total_size},
              {eps * kicked * by_q, std::fabs(eps * by_q) * kicked_size}}}};
      });
}

template <class S>
void check_kick() {
  check_map_operation<S, 2, 1, 1>(
      "momentum_kick", {0.75},
      [](const std::array<Exact, 2>& states, const std::array<Exact, 1>& factors,
         const std::array<Exact, 1>& upstream) {
        const auto [p, g] = states;
        const Exact kappa = 0.75, eps = factors[0], above = upstream[0];
        const Exact kicked = kappa * eps * g, by_grad = kappa * eps * above, by_eps = kappa * g * above;
        return MapTerm<1, 3>{{{{p - kicked, std::fabs(p) + std::fabs(kicked)}}},
                             {{{above, 0}, {-by_grad, std::fabs(by_grad)}, {-by_eps, std::fabs(by_eps)}}}};
      });
}

template <class S>
void check_energy() {
  check_row_operation<S, 1>("kinetic_energy", {}, [](const std::array<Exact, 1>& in) {
    const Exact energy = in[0] * in[0] / 2;
    return Term<1>{{energy, energy}, {{{in[0], std::fabs(in[0])}}}};
  });
  check_row_operation<S, 2>("kinetic_energy", {}, [](const std::array<Exact, 2>& in) {
    const auto [momentum, mass] = in;
    const Exact half_square = momentum * momentum / 2;
    return Term<2>{{half_square * mass, half_square * std::fabs(mass)},
                   {{{momentum * mass, std::fabs(momentum * mass)}, {half_square, half_square}}}};
  });
}

// The gradient of one step size for a row of very many columns.
template <class S>
void check_long_row() {
  using T = ComputeType<S>;
  const std::vector<S> numbers(very_many, stored<S>(0.03)), none(very_many, stored<S>(0));
  const T one = 1;
  const RowView<const S> row{numbers.data(), 0, 0}, zeros{none.data(), 0, 0};
  const MapKernel<S, 3, 2, 2> kernel("leapfrog_step", {0.5});
  const std::string what = "leapfrog_step, step size's gradient of a long row";
  check_long_sum(on_any_threads(what,
                                [&] {
                                  std::vector<T> out = unwritten<T>(1);
                                  kernel.backward(1, very_many, {row, row, zeros}, {{{&one, 0, 0}, {}}},
                                                  {numbers.data(), none.data()}, {}, {out.data(), nullptr});
                                  return out;
                                }),
                 very_many * exact(numbers[0]) * exact(numbers[0]), what);
}

template <class S>
void check_all() {
  check_step<S>();
  check_kick<S>();
  check_energy<S>();
  check_long_row<S>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::for_each_type([]<class S> { fastvi::test::check_all<S>(); });
  return fastvi::test::report("leapfrog");
}

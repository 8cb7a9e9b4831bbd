// Log densities and gradients of many chains against loops in long double: regressions, mixtures and all terms of a
// prior; trajectories against leapfrog steps one by one; and equal bits on any threads and beside any other chains.
#include "../../csrc/cpu/chains.h"
#include "check.h"

namespace fastvi::test {
namespace {

Exact softplus(Exact x) { return std::max<Exact>(x, 0) + std::log1p(std::exp(-std::fabs(x))); }

// A log density and its gradient, and magnitudes that their rounding errors are in proportion to.
struct Density {
  Bounded value;
  std::vector<Bounded> gradient;
};

template <class T>
void add_prior(const std::vector<PriorTerm<T>>& prior, const std::vector<Exact>& q, Density& found) {
  for (const PriorTerm<T>& term : prior) {
    const auto d = static_cast<std::size_t>(term.dimension);
    const Exact location = term.location, rate = term.rate, weight = term.weight, slope = term.slope;
    const Exact distance = q[d] - location, inner = rate * q[d] + location;
    Exact value = 0, by = 0;
    switch (term.kind) {
      case PriorKind::square:
        value = -weight * distance * distance;
        by = -2 * weight * distance;
        break;
      case PriorKind::magnitude:
        value = -weight * std::fabs(distance);
        by = distance > 0 ? -weight : weight;
        break;
      case PriorKind::heavy_tail:
        value = -weight * std::log1p(rate * distance * rate * distance);
        by = -2 * weight * rate * rate * distance / (1 + rate * distance * rate * distance);
        break;
      case PriorKind::exponential:
        value = slope * q[d] - weight * std::exp(inner);
        by = slope - weight * rate * std::exp(inner);
        break;
      case PriorKind::logistic:
        value = slope * q[d] - weight * softplus(inner);
        by = slope - weight * rate / (1 + std::exp(-inner));
        break;
    }
    const Exact size = 1 + std::fabs(slope * q[d]) + std::fabs(weight) * (1 + std::fabs(inner) + distance * distance);
    found.value.add(value, std::fabs(value) + size);
    found.gradient[d].add(by, std::fabs(by) + size);
  }
}

// Five terms on the first numbers of a position, as many as it has.
template <class T>
std::vector<PriorTerm<T>> some_prior(std::int64_t dimensions) {
  std::vector<PriorTerm<T>> terms;
  for (int kind = 0; kind < num_prior_kinds; ++kind) {
    terms.push_back({static_cast<PriorKind>(kind), kind % dimensions, T(0.25), T(0.75), T(1.5), T(0.5)});
  }
  return terms;
}

template <class T>
struct RegressionProblem {
  std::int64_t rows, columns;
  Regression kind;
  bool is_full;  // with weights, offsets and a shift, and with a scale where that is possible
  std::vector<T> x, design, outcome, weight, offset, shift;
  std::vector<PriorTerm<T>> prior;

  RegressionProblem(std::int64_t n, std::int64_t d, Regression of, bool full, Random<T>& random)
      : rows(n), columns(d), kind(of), is_full(full), x(random.normal(n * d)), outcome(random.normal(n)) {
    for (T& each : x) each /= T(2) * std::sqrt(static_cast<T>(d));  // rates that stay small on a trajectory
    const std::int64_t tiles = (n + design_tile - 1) / design_tile;
    design.resize(static_cast<std::size_t>(tiles * design_tile * d));
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t c = 0; c < d; ++c) {
        design[static_cast<std::size_t>((r / design_tile * d + c) * design_tile + r % design_tile)] = at(r, c);
      }
    }
    for (T& y : outcome) {
      if (kind == Regression::logistic) y = y > T(0) ? T(1) : (y < T(-1) ? T(0.25) : T(0));
      if (kind == Regression::poisson) y = std::floor(std::fabs(T(2) * y));
    }
    if (full) {
      weight = random.normal(n);
      for (T& w : weight) w = std::fabs(w);
      offset = random.normal(n);
      shift = random.normal(d);
    }
    prior = some_prior<T>(dimensions());
  }

  bool has_log_scale() const { return is_full && kind == Regression::normal; }
  std::int64_t dimensions() const { return columns + (has_log_scale() ? 1 : 0); }
  T at(std::int64_t r, std::int64_t c) const { return x[static_cast<std::size_t>(r * columns + c)]; }

  void follow(const ChainTrajectory<T>& trajectory) const {
    const auto given = [&](const std::vector<T>& all) { return is_full ? all.data() : nullptr; };
    ChainKernels<T>::follow(
        trajectory, RegressionRows<T>{kind, rows, columns, design.data(), outcome.data(), given(weight), given(offset),
                                      given(shift), has_log_scale(), 7.5, 2.25});
  }

  Density density(const std::vector<Exact>& q) const {
    Density found{{}, std::vector<Bounded>(static_cast<std::size_t>(dimensions()))};
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto row = static_cast<std::size_t>(r);
      Exact eta = is_full ? exact(offset[row]) : Exact{0}, size = std::fabs(eta) + 1;
      for (std::int64_t d = 0; d < columns; ++d) {
        const auto column = static_cast<std::size_t>(d);
        const Exact term = exact(at(r, d)) * (q[column] - (is_full ? exact(shift[column]) : Exact{0}));
        eta += term;
        size += std::fabs(term);
      }
      const Exact y = exact(outcome[row]), w = is_full ? exact(weight[row]) : Exact{1};
      Exact value = 0, residual = 0, slope = 1;
      switch (kind) {
        case Regression::normal:
          residual = y - eta;
          value = -residual * residual / 2;
          break;
        case Regression::logistic:
          residual = y - 1 / (1 + std::exp(-eta));
          value = y * eta - softplus(eta);
          break;
        case Regression::poisson:
          slope = std::exp(eta);
          residual = y - slope;
          value = y * eta - slope;
      }
      found.value.add(w * value, w * (std::fabs(value) + (std::fabs(y) + slope + std::fabs(residual)) * size));
      for (std::int64_t d = 0; d < columns; ++d) {
        const Exact factor = exact(at(r, d)) * w;
        found.gradient[static_cast<std::size_t>(d)].add(
            factor * residual, std::fabs(factor) * (std::fabs(y) + std::fabs(residual) + slope * size));
      }
    }
    if (has_log_scale()) {
      const Exact s = q.back(), precision = std::exp(-2 * s), size = precision * (found.value.magnitude + 2);
      const Exact of_squares = precision * (found.value.value - Exact{2.25} / 2);
      for (Bounded& each : found.gradient) each = {each.value * precision, each.magnitude * precision * 2};
      found.gradient.back() = {-2 * of_squares - Exact{7.5}, 2 * size + 8};
      found.value = {of_squares - Exact{7.5} * s, size + 8 * std::fabs(s)};
    }
    add_prior(prior, q, found);
    return found;
  }

  std::string describe() const {
    return "regression " + std::to_string(static_cast<int>(kind)) + (is_full ? ", full" : "") + " (" +
           std::to_string(rows) + ", " + std::to_string(columns) + ")";
  }
};

template <class T>
struct MixtureProblem {
  std::int64_t rows, columns, components;
  bool is_full;  // with weights and a Dirichlet prior
  std::vector<T> x, weight, concentration;
  std::vector<PriorTerm<T>> prior;

  MixtureProblem(std::int64_t n, std::int64_t d, std::int64_t k, bool full, Random<T>& random)
      : rows(n), columns(d), components(k), is_full(full), x(random.normal(n * d)) {
    if (full) {
      weight = random.normal(n);
      for (T& w : weight) w = std::fabs(w);
      for (std::int64_t i = 0; i < k; ++i) concentration.push_back(static_cast<T>(i) + T(0.5));
    }
    prior = some_prior<T>(dimensions());
  }

  std::int64_t dimensions() const { return components * (2 * columns + 1) - 1; }

  void follow(const ChainTrajectory<T>& trajectory) const {
    ChainKernels<T>::follow(trajectory,
                            MixtureRows<T>{rows, columns, components, x.data(), is_full ? weight.data() : nullptr,
                                           is_full ? concentration.data() : nullptr});
  }

  Density density(const std::vector<Exact>& q) const {
    Density found{{}, std::vector<Bounded>(static_cast<std::size_t>(dimensions()))};
    const auto size = static_cast<std::size_t>(components * columns), width = static_cast<std::size_t>(columns);
    const auto count = static_cast<std::size_t>(components);
    std::vector<Exact> log_probability(count);
    Exact total = 0, prior_total = 0;
    for (std::size_t k = 0; k < count; ++k) {
      log_probability[k] = k + 1 < count ? q[2 * size + k] : Exact{0};
      total += std::exp(log_probability[k]);
    }
    for (Exact& each : log_probability) each -= std::log(total);
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
      const Exact w = is_full ? exact(weight[r]) : Exact{1};
      std::vector<Exact> density(count);
      Exact sum = 0, most = 1;
      for (std::size_t k = 0; k < count; ++k) {
        density[k] = log_probability[k];
        for (std::size_t p = k * width; p < (k + 1) * width; ++p) {
          const Exact z = (exact(x[r * width + p - k * width]) - q[p]) * std::exp(-q[size + p]);
          density[k] -= q[size + p] + z * z / 2 + std::log(2 * std::acos(Exact{-1})) / 2;
          most += z * z + std::fabs(q[size + p]) + 1;
        }
        sum += std::exp(density[k]);
      }
      found.value.add(w * std::log(sum), w * (std::fabs(std::log(sum)) + most));
      for (std::size_t k = 0; k < count; ++k) {
        const Exact responsibility = w * std::exp(density[k]) / sum;
        for (std::size_t p = k * width; p < (k + 1) * width; ++p) {
          const Exact scale = std::exp(-q[size + p]), z = (exact(x[r * width + p - k * width]) - q[p]) * scale;
          found.gradient[p].add(responsibility * z * scale, responsibility * (std::fabs(z) + 1) * scale * most);
          found.gradient[size + p].add(responsibility * (z * z - 1), responsibility * (z * z + 1) * most);
        }
        if (k + 1 < count) {
          found.gradient[2 * size + k].add(responsibility - w * std::exp(log_probability[k]), w * most);
        }
      }
    }
    for (std::size_t k = 0; is_full && k < count; ++k) prior_total += exact(concentration[k]);
    for (std::size_t k = 0; is_full && k < count; ++k) {
      const Exact own = exact(concentration[k]);
      found.value.add(own * log_probability[k], own * (1 + std::fabs(log_probability[k])));
      if (k + 1 < count) {
        found.gradient[2 * size + k].add(own - prior_total * std::exp(log_probability[k]), own + prior_total);
      }
    }
    add_prior(prior, q, found);
    return found;
  }

  std::string describe() const {
    return std::string("mixture") + (is_full ? ", full" : "") + " (" + std::to_string(rows) + ", " +
           std::to_string(columns) + ", " + std::to_string(components) + ")";
  }
};

template <class T>
struct Chains {
  std::vector<T> position, momentum, gradient, log_density;

  bool operator==(const Chains& other) const {
    return same_bits(position, other.position) && same_bits(momentum, other.momentum) &&
           same_bits(gradient, other.gradient) && same_bits(log_density, other.log_density);
  }
};

// Step sizes of the chains, empty for one number, and the inverse mass: empty for ones, its diagonal, or all of it.
template <class T>
struct Steps {
  std::int64_t count;
  std::vector<T> sizes, inverse_mass;
};

// Chains [first, first + count) alone.
template <class T, class Problem>
Chains<T> run(const Problem& problem, const Chains<T>& start, std::int64_t first, std::int64_t count,
              const Steps<T>& steps) {
  const std::int64_t dimensions = problem.dimensions();
  const auto size = static_cast<std::size_t>(count * dimensions), moved = steps.count > 0 ? size : 0;
  Chains<T> end{unwritten<T>(moved), unwritten<T>(moved), unwritten<T>(size),
                unwritten<T>(static_cast<std::size_t>(count))};
  const auto part = [&](const std::vector<T>& all) {
    const auto begin = all.begin() + first * dimensions;
    return std::vector<T>(begin, begin + count * dimensions);
  };
  const std::vector<T> position = part(start.position), momentum = part(start.momentum);
  const std::vector<T> gradient = steps.count > 0 ? part(start.gradient) : std::vector<T>();
  const T one = T(0.03125);
  ChainTrajectory<T> trajectory{};
  trajectory.chains = count;
  trajectory.dimensions = dimensions;
  trajectory.num_steps = steps.count;
  trajectory.position = position.data();
  trajectory.momentum = momentum.data();
  trajectory.gradient = gradient.data();
  trajectory.step_size = steps.sizes.empty() ? &one : steps.sizes.data() + first;
  trajectory.step_per_chain = !steps.sizes.empty();
  trajectory.inverse_mass = steps.inverse_mass.empty() ? nullptr : steps.inverse_mass.data();
  trajectory.dense_mass = static_cast<std::int64_t>(steps.inverse_mass.size()) > dimensions;
  trajectory.prior = problem.prior;
  trajectory.constant = 1.25;
  trajectory.end_position = end.position.data();
  trajectory.end_momentum = end.momentum.data();
  trajectory.log_density = end.log_density.data();
  trajectory.end_gradient = end.gradient.data();
  problem.follow(trajectory);
  return end;
}

template <class T>
std::vector<Exact> chain(const std::vector<T>& all, std::int64_t c, std::int64_t dimensions) {
  std::vector<Exact> found;
  for (std::int64_t d = 0; d < dimensions; ++d)
    found.push_back(exact(all[static_cast<std::size_t>(c * dimensions + d)]));
  return found;
}

// Roundings of sums of rows, most of which cancel: a handful for each of the dimensions of a row.
template <class T>
void check_number(T found, const Bounded& expected, Exact roundings, const std::string& what) {
  const Exact allowed = std::numeric_limits<T>::epsilon() * roundings * (expected.magnitude + 1);
  const Exact error = std::fabs(exact(found) - expected.value);
  check(error <= allowed,
        what + " is " + std::to_string(exact(found)) + ", expected " + std::to_string(expected.value));
}

// The matrix diag(a) + a a' / D of a vector a.
template <class T>
std::vector<T> with_product(const std::vector<T>& a) {
  std::vector<T> matrix;
  for (const T& row : a) {
    for (const T& column : a) {
      matrix.push_back(row * column / static_cast<T>(a.size()) + (&row == &column ? row : T(0)));
    }
  }
  return matrix;
}

template <class T, class Problem>
void check_problem(const Problem& problem, Random<T>& random) {
  constexpr std::int64_t chains = 37;
  const std::int64_t dimensions = problem.dimensions();
  Chains<T> start{random.normal(chains * dimensions), random.normal(chains * dimensions), {}, {}};
  for (T& each : start.position) each *= T(0.5);
  const std::string what = problem.describe();
  for (const auto& [steps, dense] : {std::pair<std::int64_t, bool>{0, false}, {3, false}, {2, true}}) {
    Steps<T> given{steps, {}, {}};
    if (steps > 0) {
      for (std::int64_t c = 0; c < chains; ++c) given.sizes.push_back(T(0.001) * static_cast<T>(1 + c % 4));
      given.inverse_mass = random.normal(dimensions);
      for (T& each : given.inverse_mass) each = std::fabs(each);
      if (dense) given.inverse_mass = with_product(given.inverse_mass);
    }
    omp_set_num_threads(1);
    const Chains<T> found = run(problem, start, 0, chains, given);
    for (const int threads : {2, 3}) {
      omp_set_num_threads(threads);
      check(run(problem, start, 0, chains, given) == found, what + ": other bits on other threads");
    }
    for (const std::int64_t first : {0, 5, 36}) {
      const std::int64_t count = std::min<std::int64_t>(chains - first, 17);
      const Chains<T> some = run(problem, start, first, count, given);
      const auto begin = found.gradient.begin() + first * dimensions;
      check(same_bits(some.gradient, std::vector<T>(begin, begin + count * dimensions)), what + ": other bits alone");
    }
    for (std::int64_t c = 0; c < chains; ++c) {
      std::vector<Exact> q = chain(start.position, c, dimensions), v = chain(start.momentum, c, dimensions);
      Density density = problem.density(q);
      const Exact size = steps > 0 ? exact(given.sizes[static_cast<std::size_t>(c)]) : Exact{0};
      for (std::int64_t i = 0; i < steps; ++i) {
        for (std::size_t d = 0; d < q.size(); ++d) {
          v[d] += size / 2 * density.gradient[d].value;
        }
        for (std::size_t d = 0; d < q.size(); ++d) {
          Exact velocity = 0;
          for (std::size_t e = 0; e < q.size(); ++e) {
            if (dense) velocity += exact(given.inverse_mass[d * q.size() + e]) * v[e];
          }
          q[d] += size * (dense ? velocity : exact(given.inverse_mass[d]) * v[d]);
        }
        density = problem.density(q);
        for (std::size_t d = 0; d < q.size(); ++d) v[d] += size / 2 * density.gradient[d].value;
      }
      // Steps carry the errors of those before.
      const Exact roundings = (16 + static_cast<Exact>(dimensions)) * (steps > 0 ? 16 : 1);
      density.value.value += Exact{1.25};
      check_number(found.log_density[static_cast<std::size_t>(c)], density.value, roundings, what + ": log density");
      for (std::size_t d = 0; d < q.size(); ++d) {
        const std::size_t at = static_cast<std::size_t>(c * dimensions) + d;
        const std::string where = ", " + std::to_string(steps) + " steps, chain " + std::to_string(c) + ": ";
        check_number(found.gradient[at], density.gradient[d], roundings, what + where + "gradient");
        if (steps == 0) continue;
        const Exact pull = 1 + size * density.gradient[d].magnitude;
        check_number(found.position[at], {q[d], std::fabs(q[d]) + pull}, roundings, what + where + "position");
        check_number(found.momentum[at], {v[d], std::fabs(v[d]) + pull}, roundings, what + where + "momentum");
      }
    }
    // The steps begin with the gradient of where they begin.
    if (steps == 0) start.gradient = found.gradient;
  }
}

template <class T>
void check_all() {
  Random<T> random(20111226);
  // Remainders of tiles, vectors and columns; a chunk and a bit; several pieces, which threads share.
  const std::int64_t shapes[][2] = {{0, 3}, {1, 1}, {7, 2}, {8, 9}, {65, 5}, {300, 17}, {700, 6}, {3000, 3}};
  for (const auto& [rows, columns] : shapes) {
    for (int kind = 0; kind < num_regressions; ++kind) {
      for (const bool full : {false, true}) {
        check_problem<T>(RegressionProblem<T>(rows, columns, static_cast<Regression>(kind), full, random), random);
      }
    }
  }
  const std::int64_t mixtures[][3] = {{0, 1, 2}, {1, 1, 1}, {65, 2, 3}, {300, 1, 5}, {600, 4, 2}};
  for (const auto& [rows, columns, components] : mixtures) {
    for (const bool full : {false, true}) {
      check_problem<T>(MixtureProblem<T>(rows, columns, components, full, random), random);
    }
  }
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::check_all<float>();
  fastvi::test::check_all<double>();
  return fastvi::test::report("chains");
}

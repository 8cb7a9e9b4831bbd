// The Lasso by active sets against the conditions of its minimum, and proximal steps against their formula.
#include "../../csrc/cpu/lasso.h"
#include "check.h"

namespace fastvi::test {
namespace {

struct Shape {
  std::int64_t rows, columns, atoms;
};
// One row and several chunks of them, fewer and more atoms than columns, no rows.
const Shape shapes[] = {{1, 1, 1}, {5, 7, 3}, {0, 4, 6}, {70, 6, 17}, {200, 20, 50}};

// Small integers, whose products and sums are exact, so that atoms are there twice, and ties are ties.
template <class T>
std::vector<T> integers(Random<T>& random, std::int64_t count, T scale) {
  std::vector<T> values = random.normal(count);
  for (T& each : values) each = std::round(scale * each);
  return values;
}

template <class T>
std::vector<T> products(const std::vector<T>& a, const std::vector<T>& b, std::int64_t columns) {
  const std::int64_t rows = static_cast<std::int64_t>(a.size()) / columns;
  const std::int64_t others = static_cast<std::int64_t>(b.size()) / columns;
  std::vector<T> result(static_cast<std::size_t>(rows * others));
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < others; ++j) {
      Exact sum = 0;
      for (std::int64_t k = 0; k < columns; ++k) {
        sum +=
            Exact{a[static_cast<std::size_t>(i * columns + k)]} * Exact{b[static_cast<std::size_t>(j * columns + k)]};
      }
      result[static_cast<std::size_t>(i * others + j)] = static_cast<T>(sum);
    }
  }
  return result;
}

template <class T>
void check_lasso(const Shape& shape, bool whole, double threshold) {
  const auto [rows, columns, atoms] = shape;
  Random<T> random(20000401);
  const auto numbers = [&](std::int64_t count, T scale) {
    return whole ? integers(random, count, scale) : random.normal(count);
  };
  const std::vector<T> dictionary = numbers(atoms * columns, T(1)), x = numbers(rows * columns, T(3));
  const std::vector<T> correlations = products(x, dictionary, columns),
                       gram = products(dictionary, dictionary, columns);
  const std::string what = "Lasso (" + std::to_string(rows) + ", " + std::to_string(columns) + ", " +
                           std::to_string(atoms) + (whole ? "), integers" : ")");
  for (const bool started : {false, true}) {
    const std::vector<T> start =
        started ? random.normal(rows * atoms) : std::vector<T>(static_cast<std::size_t>(rows * atoms));
    std::vector<std::int64_t> steps(static_cast<std::size_t>(rows)), converged(steps);
    const std::vector<T> codes = on_any_threads(what, [&] {
      std::vector<T> found = start;
      SparseCodingKernels<T>::lasso({rows, atoms, columns, correlations.data(), gram.data(), threshold, 20 * atoms,
                                     found.data(), steps.data(), converged.data()});
      return found;
    });
    for (std::int64_t i = 0; i < rows; ++i) {
      check(converged[static_cast<std::size_t>(i)] == 1, what + ": row " + std::to_string(i) + " has not converged");
      const T* const own = codes.data() + i * atoms;
      Exact largest = threshold;
      for (std::int64_t j = 0; j < atoms; ++j) {
        largest = std::max(largest, std::fabs(Exact{correlations[static_cast<std::size_t>(i * atoms + j)]}));
      }
      const Exact allowed = 1e4L * std::numeric_limits<T>::epsilon() * largest;
      for (std::int64_t j = 0; j < atoms; ++j) {
        Exact rest = correlations[static_cast<std::size_t>(i * atoms + j)];
        for (std::int64_t k = 0; k < atoms; ++k)
          rest -= Exact{own[k]} * Exact{gram[static_cast<std::size_t>(j * atoms + k)]};
        const Exact sign = own[j] > T(0) ? 1 : -1;
        const Exact error =
            own[j] != T(0) ? std::fabs(rest - sign * threshold) : std::max(Exact{0}, std::fabs(rest) - threshold);
        check(error <= allowed, what + ": row " + std::to_string(i) + ", atom " + std::to_string(j) +
                                    " misses the conditions by " + std::to_string(error));
      }
    }
  }
}

template <class T>
void check_limits() {
  const std::vector<T> gram{2, 1, 1, 2}, correlations{5, 5, std::numeric_limits<T>::quiet_NaN(), 1, 0, 0};
  std::vector<T> codes(6, T(0));
  std::vector<std::int64_t> steps(3), converged(3);
  SparseCodingKernels<T>::lasso(
      {3, 2, 2, correlations.data(), gram.data(), 1.0, 1, codes.data(), steps.data(), converged.data()});
  check(steps == std::vector<std::int64_t>{1, 0, 0}, "steps up to the limit");
  check(converged == std::vector<std::int64_t>{0, 0, 1}, "what has come to the limit, and what is not finite");
  check_near(std::vector<T>{codes[0] + codes[1], codes[4], codes[5]}, {2, 0, 0}, 1e-6L, "codes of one atom");
  check(codes[2] != codes[2] && codes[3] != codes[3], "codes of what is not finite");
}

template <class T>
T shrunk(T value, T threshold) {
  return value > threshold ? value - threshold : value < -threshold ? value + threshold : T(0);
}

// Steps with numbers that are exact in binary.
template <class T>
void check_step(std::int64_t rows, std::int64_t atoms) {
  Random<T> random(20090101);
  const std::string what = "proximal step (" + std::to_string(rows) + ", " + std::to_string(atoms) + ")";
  const std::vector<T> direction = random.normal(rows * atoms), before = random.normal(rows * atoms);
  const std::vector<T> from = random.normal(rows * atoms), length(static_cast<std::size_t>(rows), T(0.25));
  const std::vector<T> threshold(static_cast<std::size_t>(rows), T(0.125));
  const std::vector<T> momentum(static_cast<std::size_t>(rows), T(3));

  std::vector<Exact> expected;
  for (std::size_t i = 0; i < before.size(); ++i) {
    expected.push_back(shrunk(Exact{before[i]} + Exact{0.25} * Exact{direction[i]}, Exact{0.125}));
  }
  check_near(on_any_threads(what,
                            [&] {
                              std::vector<T> codes = before;
                              SparseCodingKernels<T>::step({rows, atoms, direction.data(), length.data(),
                                                            threshold.data(), codes.data(), nullptr, false, nullptr});
                              return codes;
                            }),
             expected, 4 * std::numeric_limits<T>::epsilon(), what);

  for (const bool restarts : {false, true}) {
    std::vector<Exact> codes, extrapolated, after;
    for (std::int64_t i = 0; i < rows; ++i) {
      Exact uphill = 0;
      for (std::int64_t j = 0; j < atoms; ++j) {
        const std::size_t k = static_cast<std::size_t>(i * atoms + j);
        codes.push_back(shrunk(Exact{from[k]} + Exact{0.25} * Exact{direction[k]}, Exact{0.125}));
        uphill += (Exact{from[k]} - codes[k]) * (codes[k] - Exact{before[k]});
      }
      const Exact old = restarts && uphill > 0 ? 1 : 3, next = (1 + std::sqrt(1 + 4 * old * old)) / 2;
      after.push_back(next);
      for (std::int64_t j = 0; j < atoms; ++j) {
        const std::size_t k = static_cast<std::size_t>(i * atoms + j);
        extrapolated.push_back(codes[k] + (old - 1) / next * (codes[k] - Exact{before[k]}));
      }
    }
    std::vector<Exact> all = codes;
    all.insert(all.end(), extrapolated.begin(), extrapolated.end());
    all.insert(all.end(), after.begin(), after.end());
    check_near(
        on_any_threads(what + ", momentum",
                       [&] {
                         std::vector<T> own = before, other = from, t = momentum;
                         SparseCodingKernels<T>::step({rows, atoms, direction.data(), length.data(), threshold.data(),
                                                       own.data(), other.data(), restarts, t.data()});
                         own.insert(own.end(), other.begin(), other.end());
                         own.insert(own.end(), t.begin(), t.end());
                         return own;
                       }),
        all, 16 * std::numeric_limits<T>::epsilon(), what + ", momentum");
  }
}

template <class T>
void check_all() {
  for (const Shape& shape : shapes) {
    for (const double threshold : {0.25, 2.0}) {
      check_lasso<T>(shape, false, threshold);
      check_lasso<T>(shape, true, threshold);
    }
  }
  check_limits<T>();
  for (const auto& [rows, atoms] : {std::array<std::int64_t, 2>{1, 1}, {3, 17}, {0, 5}, {257, 64}}) {
    check_step<T>(rows, atoms);
  }
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::check_all<float>();
  fastvi::test::check_all<double>();
  return fastvi::test::report("lasso");
}

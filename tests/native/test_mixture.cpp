// A pass over a mixture, every kind of density with all moments, against loops in long double.
#include "../../csrc/mixture.h"
#include "check.h"

namespace fastvi::test {
namespace {

struct Shape {
  std::int64_t rows, columns, components;
};
// Remainders of vectors, tiles and blocks; rows enough for several groups of blocks; components enough for whole ones
// of products to be an item of work.
const Shape shapes[] = {{0, 2, 3},   {1, 1, 1},    {5, 3, 2},     {64, 8, 6},   {65, 9, 7},
                        {257, 4, 1}, {300, 17, 5}, {1100, 3, 18}, {9001, 2, 3}, {70, 70, 4}};

std::string describe(MixtureKind kind, MixtureMoments moments, const Shape& shape) {
  return "kind " + std::to_string(static_cast<int>(kind)) + ", moments " + std::to_string(static_cast<int>(moments)) +
         " (" + std::to_string(shape.rows) + ", " + std::to_string(shape.columns) + ", " +
         std::to_string(shape.components) + ")";
}

template <class T>
struct Problem {
  Shape shape;
  std::vector<T> x, shift, offset, location, scale, weights;

  Problem(MixtureKind kind, const Shape& of, Random<T>& random)
      : shape(of),
        x(random.normal(of.rows * of.columns)),
        shift(random.normal(of.columns)),
        offset(random.normal(of.components)),
        location(random.normal(of.components * of.columns)),
        weights(random.normal(of.rows)) {
    const std::int64_t square = of.columns * of.columns;
    if (kind == MixtureKind::diagonal) scale = random.normal(of.components * of.columns);
    if (kind == MixtureKind::tied) scale = random.normal(square);
    if (kind == MixtureKind::full) scale = random.normal(of.components * square);
    for (std::size_t i = 0; kind >= MixtureKind::tied && i < scale.size(); ++i) {
      const auto place = static_cast<std::int64_t>(i) % square;
      if (place / of.columns > place % of.columns) scale[i] = T(0);
    }
    for (T& each : weights) each = std::fabs(each);
  }

  T at(std::int64_t row, std::int64_t column) const {
    return x[static_cast<std::size_t>(row * shape.columns + column)];
  }

  Exact y(std::int64_t row, std::int64_t d) const {
    return exact(at(row, d)) - exact(shift[static_cast<std::size_t>(d)]);
  }

  Exact log_density(MixtureKind kind, std::int64_t row, std::int64_t k) const {
    const std::int64_t columns = shape.columns;
    Exact sum = 0;
    for (std::int64_t e = 0; e < columns; ++e) {
      const Exact place = exact(location[static_cast<std::size_t>(k * columns + e)]);
      if (kind == MixtureKind::linear) {
        sum += place * y(row, e);
        continue;
      }
      Exact difference = -place;
      if (kind == MixtureKind::diagonal) {
        difference += exact(scale[static_cast<std::size_t>(k * columns + e)]) * y(row, e);
      } else {
        const std::int64_t first = kind == MixtureKind::full ? k * columns * columns : 0;
        for (std::int64_t d = 0; d <= e; ++d) {
          difference += exact(scale[static_cast<std::size_t>(first + d * columns + e)]) * y(row, d);
        }
      }
      sum -= difference * difference / 2;
    }
    return sum + exact(offset[static_cast<std::size_t>(k)]);
  }
};

template <class T>
struct Found {
  std::vector<T> log_likelihood, responsibilities, log_densities;
  std::vector<double> count, first, second;
  double total;

  bool operator==(const Found& other) const {
    return same_bits(log_likelihood, other.log_likelihood) && same_bits(responsibilities, other.responsibilities) &&
           same_bits(log_densities, other.log_densities) && same_bits(count, other.count) &&
           same_bits(first, other.first) && same_bits(second, other.second) && total == other.total;
  }
};

template <class T>
Found<T> run(const Problem<T>& problem, MixtureKind kind, MixtureMoments moments) {
  const auto [rows, columns, components] = problem.shape;
  const auto wide = static_cast<std::size_t>(rows * components);
  const std::int64_t second = moments == MixtureMoments::products  ? components * columns * columns
                              : moments == MixtureMoments::squares ? components * columns
                                                                   : 0;
  Found<T> found{unwritten<T>(static_cast<std::size_t>(rows)),
                 unwritten<T>(wide),
                 unwritten<T>(wide),
                 std::vector<double>(static_cast<std::size_t>(components)),
                 std::vector<double>(static_cast<std::size_t>(components * columns)),
                 std::vector<double>(static_cast<std::size_t>(second)),
                 0};
  MixtureKernels<T>::pass({kind,
                           moments,
                           rows,
                           columns,
                           components,
                           problem.x.data(),
                           columns,
                           1,
                           problem.shift.data(),
                           problem.offset.data(),
                           problem.location.data(),
                           problem.scale.data(),
                           problem.weights.data(),
                           nullptr,
                           found.log_likelihood.data(),
                           found.responsibilities.data(),
                           found.log_densities.data(),
                           &found.total,
                           found.count.data(),
                           found.first.data(),
                           found.second.data()});
  return found;
}

template <class T>
void check_pass(MixtureKind kind, MixtureMoments moments, const Shape& shape, Random<T>& random) {
  const Problem<T> problem(kind, shape, random);
  const std::string what = describe(kind, moments, shape);
  const auto [rows, columns, components] = shape;
  std::vector<Exact> densities, likelihoods, responsibilities;
  std::vector<Exact> count(static_cast<std::size_t>(components)), first(static_cast<std::size_t>(components * columns));
  const bool products = moments == MixtureMoments::products;
  const std::int64_t inner = products ? columns : moments == MixtureMoments::squares ? 1 : 0;
  std::vector<Exact> second(static_cast<std::size_t>(components * columns * inner));
  Exact total = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    const Exact weight = exact(problem.weights[static_cast<std::size_t>(row)]);
    std::vector<Exact> own;
    for (std::int64_t k = 0; k < components; ++k) own.push_back(problem.log_density(kind, row, k));
    const Exact largest = *std::max_element(own.begin(), own.end());
    Exact sum = 0;
    for (const Exact each : own) sum += std::exp(each - largest);
    likelihoods.push_back(largest + std::log(sum));
    total += weight * likelihoods.back();
    for (std::int64_t k = 0; k < components; ++k) {
      const Exact share = std::exp(own[static_cast<std::size_t>(k)] - likelihoods.back());
      densities.push_back(own[static_cast<std::size_t>(k)]);
      responsibilities.push_back(share);
      count[static_cast<std::size_t>(k)] += weight * share;
      for (std::int64_t d = 0; d < columns; ++d) {
        const Exact value = problem.y(row, d);
        first[static_cast<std::size_t>(k * columns + d)] += weight * share * value;
        for (std::int64_t e = 0; e < inner; ++e) {
          const Exact other = products ? problem.y(row, e) : value;
          second[static_cast<std::size_t>((k * columns + d) * inner + e)] += weight * share * value * other;
        }
      }
    }
  }
  omp_set_num_threads(1);
  const Found<T> found = run(problem, kind, moments);
  omp_set_num_threads(3);
  check(run(problem, kind, moments) == found, what + ": other bits on three threads");
  // Densities of random scales reach thousands; a responsibility has the absolute error of one.
  Exact scale = 1;
  for (const Exact each : densities) scale = std::max(scale, std::fabs(each));
  const Exact unit = std::numeric_limits<T>::epsilon() * 16;
  check_near(found.log_densities, densities, unit, what + ", log densities");
  check_near(found.log_likelihood, likelihoods, unit, what + ", log-likelihoods");
  check_near(found.responsibilities, responsibilities, unit * scale, what + ", responsibilities");
  check_near(std::vector<double>{found.total}, {total}, unit * scale, what + ", total");
  if (moments == MixtureMoments::none) return;
  check_near(found.count, count, unit * scale, what + ", counts");
  check_near(found.first, first, unit * scale, what + ", sums");
  check_near(found.second, second, unit * scale, what + ", second moments");
}

template <class T>
void check_passes() {
  Random<T> random(19770101);
  for (int kind = 0; kind < num_mixture_kinds; ++kind) {
    for (int moments = 0; moments < num_mixture_moments; ++moments) {
      for (const Shape& shape : shapes) {
        check_pass(static_cast<MixtureKind>(kind), static_cast<MixtureMoments>(moments), shape, random);
      }
    }
  }
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::check_passes<float>();
  fastvi::test::check_passes<double>();
  return fastvi::test::report("mixture");
}

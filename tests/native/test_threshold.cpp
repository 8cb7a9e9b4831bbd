// Soft thresholding with every kind of threshold against sign(x) max(|x| - t, 0), and its corner cases.
#include "map_operations.h"

namespace fastvi::test {
namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

Exact sign_of(Exact x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }

template <class S>
void check_map_of_numbers() {
  check_map_operation<S, 1, 1, 1>("soft_threshold", {},
                                  [](const std::array<Exact, 1>& states, const std::array<Exact, 1>& factors,
                                     const std::array<Exact, 1>& upstream) {
                                    const Exact x = states[0], t = factors[0], size = std::fabs(x) + std::fabs(t);
                                    const Exact passed = std::fabs(x) > t ? upstream[0] : 0;
                                    return MapTerm<1, 2>{{{{sign_of(x) * std::max(std::fabs(x) - t, Exact{0}), size}}},
                                                         {{{passed, 0}, {-sign_of(x) * passed, std::fabs(passed)}}}};
                                  });
}

// In every lane of a vector and beside it.
template <class S>
void check_corners() {
  struct Corner {
    double x, threshold, value, by_x, by_threshold;
  };
  constexpr Corner corners[] = {{2, 0.5, 1.5, 1, -1},
                                {-2, 0.5, -1.5, 1, 1},
                                {0.25, 0.5, 0, 0, 0},
                                {-0.25, 0.5, 0, 0, 0},
                                {0.5, 0.5, 0, 0, 0},
                                {-0.5, 0.5, 0, 0, 0},
                                {3, 0, 3, 1, -1},
                                {-3, 0, -3, 1, 1},
                                {0, 0, 0, 0, 0},
                                {0, 1, 0, 0, 0},
                                {infinite, 1, infinite, 1, -1},
                                {-infinite, 1, -infinite, 1, 1},
                                {5, infinite, 0, 0, 0},
                                {-5, infinite, 0, 0, 0},
                                {nan, 1, nan, 1, 0},
                                {1, nan, nan, 1, -1},
                                {nan, nan, nan, 1, 0},
                                {infinite, infinite, 0, 0, 0},
                                {-infinite, infinite, 0, 0, 0}};
  using T = ComputeType<S>;
  const MapKernel<S, 1, 1, 1> kernel("soft_threshold");
  const auto same = [](Exact found, double expected) {
    return std::isnan(expected) ? std::isnan(found) : found == static_cast<Exact>(expected);
  };
  for (const Corner& corner : corners) {
    for (const std::int64_t columns : {1, 3, 8, 37, 20000}) {
      const std::string what = "soft_threshold of " + std::to_string(corner.x) + ", threshold " +
                               std::to_string(corner.threshold) + ", " + std::to_string(columns) + " columns";
      const auto size = static_cast<std::size_t>(columns);
      const std::vector<S> x(size, stored<S>(corner.x)), upstream(size, stored<S>(1));
      const std::vector<T> thresholds(size, static_cast<T>(corner.threshold));
      for (const int by_column : {0, 1}) {
        std::vector<S> out = unwritten<S>(size), by_x = unwritten<S>(size);
        std::vector<T> by_threshold = unwritten<T>(by_column == 1 ? size : 1);
        const std::array<RowView<const S>, 1> view{{{x.data(), 0, columns}}};
        const std::array<FactorView<void>, 1> factor{{{thresholds.data(), 0, by_column}}};
        kernel.forward(1, columns, view, factor, {out.data()});
        kernel.backward(1, columns, view, factor, {upstream.data()}, {by_x.data()}, {by_threshold.data()});
        for (std::size_t d = 0; d < size; ++d) {
          check(same(exact(out[d]), corner.value), what);
          check(same(exact(by_x[d]), corner.by_x), what + ", gradient of x");
        }
        const double each = by_column == 1 ? corner.by_threshold : static_cast<double>(columns) * corner.by_threshold;
        for (const T found : by_threshold) check(same(exact(found), each), what + ", gradient of the threshold");
      }
    }
  }
}

// The gradient of one threshold for a row of very many columns.
template <class S>
void check_long_row() {
  using T = ComputeType<S>;
  const std::vector<S> numbers(very_many, stored<S>(-0.03));
  const T threshold = static_cast<T>(0.01);
  const MapKernel<S, 1, 1, 1> kernel("soft_threshold");
  const std::string what = "soft_threshold, threshold's gradient of a long row";
  check_long_sum(on_any_threads(what,
                                [&] {
                                  std::vector<T> out = unwritten<T>(1);
                                  kernel.backward(1, very_many, {{{numbers.data(), 0, 0}}}, {{{&threshold, 0, 0}}},
                                                  {numbers.data()}, {}, {out.data()});
                                  return out;
                                }),
                 very_many * exact(numbers[0]), what);
}

template <class S>
void check_all() {
  check_map_of_numbers<S>();
  check_corners<S>();
  check_long_row<S>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::for_each_type([]<class S> { fastvi::test::check_all<S>(); });
  return fastvi::test::report("threshold");
}

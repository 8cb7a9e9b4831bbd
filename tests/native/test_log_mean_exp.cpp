// Log-mean-exp, its weights and their effective size against sums of exponentials in long double, and the corner cases:
// columns that hold infinities and NaN.
#include <algorithm>

#include "../../csrc/cpu/log_mean_exp.h"
#include "check.h"

namespace fastvi::test {
namespace {

// Pieces of the reduced axis meet at 256 (columns side by side) and 4096 (a contiguous axis).
std::vector<AxisExtent> axis_extents() {
  std::vector<AxisExtent> made{{0, 5, 3}, {4, 5, 0}, {2, 5000, 20}};
  for (const std::int64_t count : {1, 7, 8, 9, 31, 33, 50, 1023, 4097, 16385}) {
    made.push_back({1, count, 1});
    made.push_back({3, count, 1});
  }
  for (const std::int64_t count : {1, 2, 255, 256, 257, 600}) {
    for (const std::int64_t inner : {2, 7, 8, 9, 31, 32, 33, 50, 129}) made.push_back({2, count, inner});
  }
  return made;
}

std::string describe(const AxisExtent& e) {
  return " (" + std::to_string(e.outer) + ", " + std::to_string(e.count) + ", " + std::to_string(e.inner) + ")";
}

template <class T>
void check_finite(const AxisExtent& extent, Random<T>& random) {
  const auto columns = static_cast<std::size_t>(extent.outer * extent.inner);
  const std::vector<T> x = random.normal(extent.outer * extent.count * extent.inner);
  const std::vector<T> scale = random.normal(static_cast<std::int64_t>(columns));
  std::vector<Bounded> value(columns), size(columns), weights(x.size()), scaled(x.size());
  for (std::int64_t outer = 0; outer < extent.outer; ++outer) {
    for (std::int64_t inner = 0; inner < extent.inner; ++inner) {
      const auto column = static_cast<std::size_t>(outer * extent.inner + inner);
      const auto at = [&](std::int64_t k) {
        return static_cast<std::size_t>((outer * extent.count + k) * extent.inner + inner);
      };
      Exact sum = 0, squares = 0, largest = 0;
      for (std::int64_t k = 0; k < extent.count; ++k) {
        sum += std::exp(static_cast<Exact>(x[at(k)]));
        squares += std::exp(2 * static_cast<Exact>(x[at(k)]));
        largest = std::max(largest, std::fabs(static_cast<Exact>(x[at(k)])));
      }
      const Exact rounding = 1 + 2 * largest,
                  log_sum = std::log(sum);  // exponents are rounded in proportion to their size
      value[column].add(log_sum - std::log(static_cast<Exact>(extent.count)), rounding + std::fabs(log_sum));
      size[column].add(sum * sum / squares, sum * sum / squares * 4 * rounding);
      for (std::int64_t k = 0; k < extent.count; ++k) {
        const Exact weight = std::exp(static_cast<Exact>(x[at(k)])) / sum, factor = scale[column];
        weights[at(k)].add(weight, weight * rounding);
        scaled[at(k)].add(factor * weight, std::fabs(factor) * weight * rounding);
      }
    }
  }
  using Kernels = LogMeanExpKernels<T>;
  const std::string what = describe(extent);
  // Where columns stand side by side, a column's piece is added up one by one.
  const std::int64_t terms = extent.inner == 1 ? extent.count : 16 * std::min<std::int64_t>(extent.count, 256);
  const auto run = [&](const std::string& name, std::size_t elements, const auto& kernel) {
    return on_any_threads(name + what, [&] {
      std::vector<T> out(elements, std::numeric_limits<T>::quiet_NaN());
      kernel(out.data());
      return out;
    });
  };
  check_close(run("log_mean_exp", columns, [&](T* out) { Kernels::log_mean_exp(extent, x.data(), out); }), value, terms,
              "log_mean_exp" + what);
  check_close(
      run("effective_sample_size", columns, [&](T* out) { Kernels::effective_sample_size(extent, x.data(), out); }),
      size, terms, "effective_sample_size" + what);
  check_close(run("importance weights", x.size(),
                  [&](T* out) { Kernels::scaled_softmax(extent, x.data(), nullptr, false, out); }),
              weights, terms, "importance weights" + what);
  check_close(run("scaled_softmax", x.size(),
                  [&](T* out) { Kernels::scaled_softmax(extent, x.data(), scale.data(), true, out); }),
              scaled, terms, "scaled_softmax" + what);
}

// One column of each kind, both along a contiguous axis and side by side.
template <class T>
void check_special() {
  constexpr T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  constexpr std::int64_t count = 5000, kinds = 4;
  for (const bool contiguous : {false, true}) {
    const AxisExtent extent = contiguous ? AxisExtent{kinds, count, 1} : AxisExtent{1, count, kinds};
    std::vector<T> x(static_cast<std::size_t>(count * kinds));
    const auto at = [&](std::int64_t kind, std::int64_t k) {
      return static_cast<std::size_t>(contiguous ? kind * count + k : k * kinds + kind);
    };
    for (std::int64_t k = 0; k < count; ++k) x[at(0, k)] = -infinity;
    x[at(1, 4500)] = infinity;
    x[at(2, 4500)] = nan;
    for (std::int64_t k = 0; k < count - 1; ++k) x[at(3, k)] = -infinity;
    x[at(3, count - 1)] = T(2);
    std::vector<T> value(kinds), size(kinds), weights(x.size()), gradient(x.size());
    LogMeanExpKernels<T>::log_mean_exp(extent, x.data(), value.data());
    LogMeanExpKernels<T>::effective_sample_size(extent, x.data(), size.data());
    LogMeanExpKernels<T>::scaled_softmax(extent, x.data(), nullptr, false, weights.data());
    LogMeanExpKernels<T>::scaled_softmax(extent, x.data(), nullptr, true, gradient.data());
    check(value[0] == -infinity, "log_mean_exp of minus infinities");
    check(value[1] == infinity, "log_mean_exp of an infinite weight");
    check(std::isnan(value[2]), "log_mean_exp of NaN");
    check_close(std::vector<T>{value[3]}, {{2 - std::log(static_cast<Exact>(count)), 10}}, 1,
                "log_mean_exp of one weight");
    check(std::isnan(size[0]) && std::isnan(size[2]) && size[3] == T(1), "effective_sample_size of special columns");
    for (std::int64_t k = 0; k < count; ++k) {
      check(std::isnan(weights[at(0, k)]) && gradient[at(0, k)] == T(0), "weights of minus infinities");
      check(std::isnan(weights[at(2, k)]) && std::isnan(gradient[at(2, k)]), "weights of NaN");
      check(weights[at(3, k)] == T(k == count - 1), "weights of one finite weight");
    }
  }
}

template <class T>
void check_all() {
  Random<T> random(20150901);
  for (const AxisExtent& extent : axis_extents()) check_finite(extent, random);
  check_special<T>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::check_all<float>();
  fastvi::test::check_all<double>();
  return fastvi::test::report("log_mean_exp");
}

// Log-mean-exp, its weights and their effective size against sums of exponentials in long double, and the corner cases:
// columns that hold infinities and NaN.
#include <algorithm>

#include "check.h"

namespace fastvi::test {
namespace {

// Narrow rows are folded, 64 at most: where their sums come together they are added one after the other again.
constexpr Exact fold_roundings = 64.0L / 4;

template <class S>
void check_finite(const AxisExtent& extent, Random<S>& random) {
  const auto columns = static_cast<std::size_t>(extent.outer * extent.inner);
  const std::vector<S> x = random.normal(extent.outer * extent.count * extent.inner);
  const std::vector<S> scale = random.normal(static_cast<std::int64_t>(columns));
  const std::vector<S> upstream = random.normal(static_cast<std::int64_t>(x.size()));
  std::vector<Bounded> value(columns), size(columns), weights(x.size()), scaled(x.size()), gradient(x.size());
  for (std::int64_t outer = 0; outer < extent.outer; ++outer) {
    for (std::int64_t inner = 0; inner < extent.inner; ++inner) {
      const auto column = static_cast<std::size_t>(outer * extent.inner + inner);
      const auto at = [&](std::int64_t k) {
        return static_cast<std::size_t>((outer * extent.count + k) * extent.inner + inner);
      };
      Exact sum = 0, squares = 0, largest = 0;
      for (std::int64_t k = 0; k < extent.count; ++k) {
        sum += std::exp(exact(x[at(k)]));
        squares += std::exp(2 * exact(x[at(k)]));
        largest = std::max(largest, std::fabs(exact(x[at(k)])));
      }
      const Exact rounding = 1 + 2 * largest,
                  log_sum = std::log(sum);  // exponents are rounded in proportion to their size
      value[column].add(log_sum - std::log(static_cast<Exact>(extent.count)), rounding + std::fabs(log_sum));
      size[column].add(sum * sum / squares, sum * sum / squares * 4 * rounding);
      for (std::int64_t k = 0; k < extent.count; ++k) {
        const Exact weight = std::exp(exact(x[at(k)])) / sum, factor = exact(scale[column]);
        weights[at(k)].add(weight, weight * rounding);
        scaled[at(k)].add(factor * weight, std::fabs(factor) * weight * rounding);
      }
      Exact weighted = 0, weighted_magnitude = 0;
      for (std::int64_t k = 0; k < extent.count; ++k) {
        const Exact term = weights[at(k)].value * exact(upstream[at(k)]);
        weighted += term;
        weighted_magnitude += std::fabs(term);
      }
      for (std::int64_t k = 0; k < extent.count; ++k) {
        const Exact weight = weights[at(k)].value, by = exact(upstream[at(k)]);
        gradient[at(k)].add(weight * (by - weighted), weight * (std::fabs(by) + 2 * weighted_magnitude) * rounding);
      }
    }
  }
  using Kernels = LogMeanExpKernels<S>;
  const std::string what = describe(extent);
  // Where columns stand side by side, a column's piece is added up one by one.
  const std::int64_t terms = extent.inner == 1 ? extent.count : 16 * std::min<std::int64_t>(extent.count, 256);
  const auto run = [&](const std::string& name, std::size_t elements, const auto& kernel) {
    return on_any_threads(name + what, [&] {
      std::vector<S> out = unwritten<S>(elements);
      kernel(out.data());
      return out;
    });
  };
  check_close(run("log_mean_exp", columns, [&](S* out) { Kernels::log_mean_exp(extent, x.data(), out); }), value, terms,
              "log_mean_exp" + what);
  check_close(
      run("effective_sample_size", columns, [&](S* out) { Kernels::effective_sample_size(extent, x.data(), out); }),
      size, terms, "effective_sample_size" + what);
  check_close(run("importance weights", x.size(),
                  [&](S* out) { Kernels::scaled_softmax(extent, x.data(), nullptr, false, out); }),
              weights, terms, "importance weights" + what);
  check_close(run("scaled_softmax", x.size(),
                  [&](S* out) { Kernels::scaled_softmax(extent, x.data(), scale.data(), true, out); }),
              scaled, terms, "scaled_softmax" + what);
  check_close(run("weights_backward", x.size(),
                  [&](S* out) { Kernels::weights_backward(extent, upstream.data(), x.data(), out); }),
              gradient, terms, "weights_backward" + what);
}

// One column of each kind, both along a contiguous axis and side by side.
template <class S>
void check_special() {
  constexpr Exact infinity = std::numeric_limits<Exact>::infinity();
  constexpr std::int64_t count = 5000, kinds = 4;
  for (const bool contiguous : {false, true}) {
    const AxisExtent extent = contiguous ? AxisExtent{kinds, count, 1} : AxisExtent{1, count, kinds};
    std::vector<S> x(static_cast<std::size_t>(count * kinds));
    const auto at = [&](std::int64_t kind, std::int64_t k) {
      return static_cast<std::size_t>(contiguous ? kind * count + k : k * kinds + kind);
    };
    for (std::int64_t k = 0; k < count; ++k) x[at(0, k)] = stored<S>(-INFINITY);
    x[at(1, 4500)] = stored<S>(INFINITY);
    x[at(2, 4500)] = stored<S>(NAN);
    for (std::int64_t k = 0; k < count - 1; ++k) x[at(3, k)] = stored<S>(-INFINITY);
    x[at(3, count - 1)] = stored<S>(2);
    std::vector<S> value(kinds), size(kinds), weights(x.size()), gradient(x.size()), backward(x.size());
    const std::vector<S> upstream(x.size(), stored<S>(3));
    LogMeanExpKernels<S>::log_mean_exp(extent, x.data(), value.data());
    LogMeanExpKernels<S>::effective_sample_size(extent, x.data(), size.data());
    LogMeanExpKernels<S>::scaled_softmax(extent, x.data(), nullptr, false, weights.data());
    LogMeanExpKernels<S>::scaled_softmax(extent, x.data(), nullptr, true, gradient.data());
    LogMeanExpKernels<S>::weights_backward(extent, upstream.data(), x.data(), backward.data());
    check(exact(value[0]) == -infinity, "log_mean_exp of minus infinities");
    check(exact(value[1]) == infinity, "log_mean_exp of an infinite weight");
    check(std::isnan(exact(value[2])), "log_mean_exp of NaN");
    check_close(std::vector<S>{value[3]}, {{2 - std::log(static_cast<Exact>(count)), 10}}, 1,
                "log_mean_exp of one weight");
    check(std::isnan(exact(size[0])) && std::isnan(exact(size[2])) && exact(size[3]) == 1,
          "effective_sample_size of special columns");
    for (std::int64_t k = 0; k < count; ++k) {
      check(std::isnan(exact(weights[at(0, k)])) && exact(gradient[at(0, k)]) == 0, "weights of minus infinities");
      for (const std::int64_t kind : {0, 1, 2}) {
        check(std::isnan(exact(backward[at(kind, k)])), "the gradient where there are no weights");
      }
      check(exact(backward[at(3, k)]) == 0, "the gradient of a single weight, which is one");
      check(std::isnan(exact(weights[at(2, k)])) && std::isnan(exact(gradient[at(2, k)])), "weights of NaN");
      check(exact(weights[at(3, k)]) == (k == count - 1 ? 1 : 0), "weights of one finite weight");
    }
  }
}

// Very many weights in two steps, so that sums of the smaller ones round in one direction: the logarithm has a sum's
// relative error as its absolute one. One column, and columns side by side, whose pieces are of another kind.
template <class S>
void check_long_columns() {
  for (const std::int64_t inner : {1, 2, 40, 300}) {
    const AxisExtent extent{1, very_many / inner, inner};
    std::vector<S> x(static_cast<std::size_t>(extent.count * inner), stored<S>(-0.1));
    const auto columns = static_cast<std::size_t>(inner);
    for (std::size_t i = 0; i < columns; ++i) x[i] = stored<S>(0);
    const Exact rest = std::exp(exact(x.back())), others = static_cast<Exact>(extent.count - 1);
    const Exact sum = 1 + others * rest, squares = 1 + others * rest * rest;
    const std::string what = " of a long column, " + std::to_string(inner) + " side by side";
    std::vector<S> mean = unwritten<S>(columns), size = unwritten<S>(columns);
    LogMeanExpKernels<S>::log_mean_exp(extent, x.data(), mean.data());
    LogMeanExpKernels<S>::effective_sample_size(extent, x.data(), size.data());
    // Of log(sum) - log(count) both are rounded, too.
    const Exact value = std::log(sum) - std::log(static_cast<Exact>(extent.count));
    const Exact unit = std::numeric_limits<ComputeType<S>>::epsilon();
    const Exact allowed = unit * (fold_roundings + roundings_of_a_long_sum + 2 * std::log(sum));
    for (const S found : mean) {
      check(std::fabs(exact(found) - value) <= allowed + storage_rounding<S>(std::fabs(value) + allowed),
            "log_mean_exp" + what + ": " + std::to_string(exact(found)) + ", expected " + std::to_string(value));
    }
    const Exact expected_size = sum * sum / squares;
    const Exact size_error = 4 * unit * (fold_roundings + roundings_of_a_long_sum) * expected_size;
    for (const S found : size) {
      check(std::fabs(exact(found) - expected_size) <= size_error + storage_rounding<S>(expected_size + size_error),
            "effective_sample_size" + what + ": " + std::to_string(exact(found)));
    }
  }
}

template <class S>
void check_all() {
  Random<S> random(20150901);
  for (const AxisExtent& extent : axis_extents()) check_finite(extent, random);
  check_special<S>();
  check_long_columns<S>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::for_each_type([]<class S> { fastvi::test::check_all<S>(); });
  return fastvi::test::report("log_mean_exp");
}

// Sums over one axis, weighted or not, against sums in long double.
#include "check.h"

namespace fastvi::test {
namespace {

template <class S>
void check_sums(const AxisExtent& extent, Random<S>& random) {
  const auto columns = static_cast<std::size_t>(extent.outer * extent.inner);
  const std::vector<S> x = random.normal(extent.outer * extent.count * extent.inner);
  const std::vector<S> weights = random.normal(extent.count);
  std::vector<Bounded> plain(columns), weighted(columns);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    const std::int64_t outer = at / (extent.count * extent.inner), k = at / extent.inner % extent.count;
    const auto column = static_cast<std::size_t>(outer * extent.inner + at % extent.inner);
    const Exact value = exact(x[i]), product = exact(weights[static_cast<std::size_t>(k)]) * value;
    plain[column].add(value, std::fabs(value));
    weighted[column].add(product, std::fabs(product));
  }
  // Where columns stand side by side, up to 64 of a column are added up one by one.
  const std::int64_t terms = extent.inner == 1 ? extent.count : 16 * std::min<std::int64_t>(extent.count, 64);
  for (const bool with_weights : {false, true}) {
    const std::string what = (with_weights ? "weighted sum" : "sum") + describe(extent);
    const std::vector<S> found = on_any_threads(what, [&] {
      std::vector<S> out = unwritten<S>(columns);
      SumKernels<S>::axis_sum(extent, x.data(), with_weights ? weights.data() : nullptr, out.data());
      return out;
    });
    check_close(found, with_weights ? weighted : plain, terms, what);
  }
}

template <class S>
void check_long_sums() {
  const std::vector<S> small(very_many, stored<S>(0.0003));  // whose sum float16 can hold
  for (const std::int64_t inner : {1, 2, 40, 1000}) {
    const std::int64_t count = very_many / inner;
    std::vector<S> out = unwritten<S>(static_cast<std::size_t>(inner));
    SumKernels<S>::axis_sum({1, count, inner}, small.data(), nullptr, out.data());
    check_long_sum(out, static_cast<Exact>(count) * exact(small[0]),
                   "sum of a long axis, " + std::to_string(inner) + " side by side");
  }
}

template <class S>
void check_all() {
  Random<S> random(19990101);
  for (const AxisExtent& extent : axis_extents()) check_sums(extent, random);
  check_long_sums<S>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::for_each_type([]<class S> { fastvi::test::check_all<S>(); });
  return fastvi::test::report("sum");
}

// What the native tests share: checks that count failures, inputs in memory of exactly their size (so that
// AddressSanitizer sees a read or write past it), and naive sums in long double to compare with.
#pragma once

#include <omp.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "../../csrc/cpu/rows.h"

namespace fastvi::test {

using Exact = long double;

inline int failures = 0;

inline void check(bool passed, const std::string& what) {
  if (passed) return;
  constexpr int most_shown = 20;
  if (++failures <= most_shown) std::cerr << "FAILED: " << what << '\n';
}

// The exit status of a test.
inline int report(const char* name) {
  std::cout << name << ": " << (failures == 0 ? "passed" : std::to_string(failures) + " checks failed") << '\n';
  return failures == 0 ? 0 : 1;
}

// Calls checks.operator()<S>() for every type that numbers are stored in.
template <class Checks>
void for_each_type(const Checks& checks) {
  checks.template operator()<float>();
  checks.template operator()<double>();
  checks.template operator()<BFloat16>();
  checks.template operator()<Float16>();
}

inline std::string describe(const Extent& e) {
  return " (" + std::to_string(e.samples) + ", " + std::to_string(e.rows) + ", " + std::to_string(e.columns) + ")";
}

// A number in the type that it is stored in, and what is stored as the tests compute with it.
template <class S>
S stored(double value) {
  return S(static_cast<ComputeType<S>>(value));
}

template <class S>
Exact exact(S value) {
  return static_cast<Exact>(static_cast<ComputeType<S>>(value));
}

// Outputs start as NaN, so that none is forgotten.
template <class S>
std::vector<S> unwritten(std::size_t count) {
  return std::vector<S>(count, stored<S>(std::numeric_limits<double>::quiet_NaN()));
}

// Relative to the largest number that is expected, or to one.
template <class V>
void check_near(const std::vector<V>& found, const std::vector<Exact>& expected, Exact tolerance,
                const std::string& what) {
  check(found.size() == expected.size(), what + ": size");
  Exact largest = 1;
  for (const Exact each : expected) largest = std::max(largest, std::fabs(each));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    check(std::fabs(static_cast<Exact>(found[i]) - expected[i]) <= tolerance * largest,
          what + ": element " + std::to_string(i) + " is " + std::to_string(found[i]) + ", expected " +
              std::to_string(expected[i]));
  }
}

template <class S>
bool same_bits(const std::vector<S>& a, const std::vector<S>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(S)) == 0);
}

// A value, and the sum of the magnitudes of what it was added up from: rounding errors are in proportion to those.
struct Bounded {
  Exact value = 0, magnitude = 0;

  void add(Exact term, Exact size) {
    value += term;
    magnitude += size;
  }
};

// Significant bits and the least exponent of a 16-bit type.
template <class S>
inline constexpr int significant_bits = 0;
template <>
inline constexpr int significant_bits<BFloat16> = 8;
template <>
inline constexpr int significant_bits<Float16> = 11;
template <class S>
inline constexpr int least_exponent = std::is_same_v<S, Float16> ? -14 : -126;

// What rounding a result to its 16-bit type may add: half a unit in the last place of the largest number that the
// unrounded one may be; all there is beyond the type's numbers, which become infinite.
template <class S>
Exact storage_rounding(Exact magnitude) {
  if constexpr (!is_narrow<S>) return 0;
  if (magnitude == 0) return 0;
  if (std::is_same_v<S, Float16> && magnitude >= 65520) return std::numeric_limits<Exact>::infinity();
  return std::ldexp(Exact{1}, std::max(std::ilogb(magnitude), least_exponent<S>) - significant_bits<S>);
}

// Each term carries a few roundings; a sum adds one a step, on at least 16 lanes that work in parallel, up to
// `row_block` terms. Then it goes on in float64, where each part is another rounding.
template <class S>
void check_close(const std::vector<S>& actual, const std::vector<Bounded>& expected, std::int64_t terms,
                 const std::string& what) {
  using T = ComputeType<S>;
  constexpr Exact roundings_of_a_term = 16;
  check(actual.size() == expected.size(), what + ": size");
  const Exact roundings = roundings_of_a_term + static_cast<Exact>(std::min(terms, row_block)) / 16;
  const Exact unit = std::numeric_limits<T>::epsilon() * roundings +
                     std::numeric_limits<double>::epsilon() * static_cast<Exact>(terms / row_block);
  for (std::size_t i = 0; i < std::min(actual.size(), expected.size()); ++i) {
    const Exact allowed = unit * expected[i].magnitude;
    const Exact error = std::fabs(exact(actual[i]) - expected[i].value);
    if (!(error <= allowed + storage_rounding<S>(std::fabs(expected[i].value) + allowed))) {
      check(false, what + ": element " + std::to_string(i) + " is " + std::to_string(exact(actual[i])) + ", expected " +
                       std::to_string(expected[i].value));
    }
  }
}

// Runs `compute`, which returns a vector, with 1, 2 and 3 threads; the bits must be the same.
template <class Compute>
auto on_any_threads(const std::string& what, const Compute& compute) {
  omp_set_num_threads(1);
  const auto serial = compute();
  for (const int threads : {2, 3}) {
    omp_set_num_threads(threads);
    check(same_bits(serial, compute()), what + ": other bits on " + std::to_string(threads) + " threads");
  }
  return serial;
}

// Vector loops meet every remainder, pieces of rows their seams (512, 1536, 2048, 4096 and 16384 columns), and sums
// over samples theirs (64 and 128; 256 in the CUDA kernels); two are large enough for several threads, and one has more
// long rows than a grid of the CUDA kernels has blocks on the host.
inline const std::vector<Extent>& extents() {
  static const std::vector<Extent> all = [] {
    std::vector<Extent> made;
    for (const std::int64_t columns : {0, 1, 7, 8, 9, 31, 32, 33, 50, 63, 65, 129, 1023}) {
      made.push_back({1, 1, columns});
      made.push_back({2, 3, columns});
    }
    for (const Extent& extent :
         {Extent{0, 3, 5}, Extent{2, 0, 5}, Extent{1, 2, 2049}, Extent{2, 4, 4099}, Extent{2, 1, 16385},
          Extent{1, 1, 40000}, Extent{3, 257, 50}, Extent{9, 130, 33}, Extent{150, 1, 9}, Extent{600, 1, 5}}) {
      made.push_back(extent);
    }
    return made;
  }();
  return all;
}

// Pieces of a reduced axis meet at 256, 512 and 1024 (columns side by side), and at 4096 and 16384 (a contiguous axis).
inline std::vector<AxisExtent> axis_extents() {
  std::vector<AxisExtent> made{{0, 5, 3}, {4, 5, 0}, {2, 5000, 20}};
  for (const std::int64_t count : {1, 7, 8, 9, 31, 33, 50, 1023, 4097, 16385}) {
    made.push_back({1, count, 1});
    made.push_back({3, count, 1});
  }
  for (const std::int64_t count : {1, 2, 255, 256, 257, 600}) {
    for (const std::int64_t inner : {2, 7, 8, 9, 31, 32, 33, 50, 129}) made.push_back({2, count, inner});
  }
  for (const std::int64_t count : {1024, 1025, 2500}) made.push_back({2, count, 5});
  made.push_back({2, 3, 1030});
  return made;
}

inline std::string describe(const AxisExtent& e) {
  return " (" + std::to_string(e.outer) + ", " + std::to_string(e.count) + ", " + std::to_string(e.inner) + ")";
}

template <class S>
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  std::vector<S> normal(std::int64_t count) {
    std::normal_distribution<double> distribution;
    std::vector<S> values(static_cast<std::size_t>(count));
    for (S& value : values) value = stored<S>(distribution(engine_));
    return values;
  }

 private:
  std::mt19937_64 engine_;
};

// What the numbers of an operand may be; a count is zero as often as not.
enum class Domain { all, not_negative, positive, count };

template <class S>
std::vector<S> in_domain(std::vector<S> numbers, Domain domain) {
  for (S& each : numbers) {
    const double number = static_cast<double>(exact(each)), magnitude = std::fabs(number);
    if (domain == Domain::not_negative) each = stored<S>(magnitude);
    if (domain == Domain::positive) each = stored<S>(magnitude + 0.125);
    if (domain == Domain::count) each = stored<S>(number > 0 ? number : 0);
  }
  return numbers;
}

enum class Layout { full, padded_rows, one_per_row, one_per_sample, one };
inline constexpr int layouts = 5;

// An operand of a row kernel in one of the layouts: what is broadcast has stride zero and is not stored.
template <class S>
struct Operand {
  std::vector<S> memory;
  std::int64_t sample_stride = 0, row_stride = 0;

  Operand(const Extent& extent, Layout layout, Random<S>& random, Domain domain = Domain::all) {
    const bool by_sample = layout != Layout::one_per_row && layout != Layout::one;
    const bool by_row = layout != Layout::one_per_sample && layout != Layout::one;
    const std::int64_t row_length = extent.columns + (layout == Layout::padded_rows ? 3 : 0);
    row_stride = by_row ? row_length : 0;
    sample_stride = by_sample ? (by_row ? extent.rows : 1) * row_length : 0;
    const std::int64_t count = (by_sample ? extent.samples : 1) * (by_row ? extent.rows : 1);
    memory = in_domain(random.normal(count == 0 ? 0 : (count - 1) * row_length + extent.columns), domain);
  }

  RowView<const S> view() const { return {memory.data(), sample_stride, row_stride}; }
  Exact at(std::int64_t k, std::int64_t b, std::int64_t d) const {
    return exact(memory[static_cast<std::size_t>(k * sample_stride + b * row_stride + d)]);
  }
};

inline std::size_t flat(const Extent& extent, std::int64_t k, std::int64_t b, std::int64_t d) {
  return static_cast<std::size_t>((k * extent.rows + b) * extent.columns + d);
}

// Which of `inputs` gradients are asked for, as bits: all of them, and each alone.
inline std::vector<unsigned> choices(std::size_t inputs) {
  std::vector<unsigned> made{(1u << inputs) - 1};
  for (std::size_t i = 0; inputs > 1 && i < inputs; ++i) made.push_back(1u << i);
  return made;
}

template <class Body>
void for_each_element(const Extent& extent, const Body& body) {
  for (std::int64_t k = 0; k < extent.samples; ++k) {
    for (std::int64_t b = 0; b < extent.rows; ++b) {
      for (std::int64_t d = 0; d < extent.columns; ++d) body(k, b, d);
    }
  }
}

// A term of a sum over columns and its derivatives, by the naive formula.
template <std::size_t inputs>
struct Term {
  Bounded value;
  std::array<Bounded, inputs> gradient;
};

// A sum of very many equal terms of one sign, where roundings do not cancel: 64 of them at most are added one after
// the other in the compute type, each within half a unit in the last place of a sum that grows to its end, which makes
// half of 64 halves; then come 5 additions of lanes, 4 roundings of a term and that of the result.
inline constexpr std::int64_t very_many = 1'000'000;
inline constexpr Exact roundings_of_a_long_sum = 64.0L / 4 + 10.0L / 2;

template <class S>
void check_long_sum(const std::vector<S>& actual, Exact expected, const std::string& what) {
  // Parts of 64 terms are added up in float64, which has digits to spare unless it is the compute type itself.
  const Exact parts = std::is_same_v<S, double> ? Exact{very_many / 64} / 4 : 0;
  const Exact allowed =
      std::numeric_limits<ComputeType<S>>::epsilon() * (roundings_of_a_long_sum + parts) * std::fabs(expected);
  const Exact rounding = storage_rounding<S>(std::fabs(expected) + allowed);
  for (const S found : actual) {
    const Exact error = std::fabs(exact(found) - expected);
    check(error <= allowed + rounding,
          what + ": " + std::to_string(exact(found)) + ", expected " + std::to_string(expected));
  }
}

// A kernel that sums term(operands...) over columns, and its backward kernel, on every extent, in every layout, with
// all gradients wanted or one of them.
//   forward(extent, views, out); backward(extent, views, upstream, gradients); term(values) -> Term.
template <class S, std::size_t inputs, class Forward, class Backward, class Formula>
void check_row_kernels(const std::string& name, const Forward& forward, const Backward& backward, const Formula& term,
                       const std::array<Domain, inputs>& domains = {}) {
  Random<S> random(20110711);
  for (const Extent& extent : extents()) {
    for (int variant = 0; variant < layouts; ++variant) {
      const std::string what = name + describe(extent) + ", variant " + std::to_string(variant);
      std::vector<Operand<S>> operands;
      std::array<RowView<const S>, inputs> views;
      for (std::size_t i = 0; i < inputs; ++i) {
        operands.emplace_back(extent, static_cast<Layout>((variant + static_cast<int>(i)) % layouts), random,
                              domains[i]);
        views[i] = operands[i].view();
      }
      const std::int64_t rows = extent.samples * extent.rows;
      // The upstream gradient comes row by row, from one number (as that of a sum does), or every second.
      const std::int64_t step = variant % 3;
      const std::vector<S> upstream_memory = random.normal(rows == 0 || step == 0 ? 1 : (rows - 1) * step + 1);
      const RowView<const S> upstream{upstream_memory.data(), extent.rows * step, step};

      std::vector<Bounded> sums(static_cast<std::size_t>(rows));
      std::array<std::vector<Bounded>, inputs> each, over_samples;
      for (std::size_t i = 0; i < inputs; ++i) {
        each[i].resize(static_cast<std::size_t>(rows * extent.columns));
        over_samples[i].resize(static_cast<std::size_t>(extent.rows * extent.columns));
      }
      for_each_element(extent, [&](std::int64_t k, std::int64_t b, std::int64_t d) {
        std::array<Exact, inputs> values;
        for (std::size_t i = 0; i < inputs; ++i) values[i] = operands[i].at(k, b, d);
        const Term<inputs> found = term(values);
        sums[static_cast<std::size_t>(k * extent.rows + b)].add(found.value.value, found.value.magnitude);
        const Exact scale = exact(*upstream.row(k, b));
        for (std::size_t i = 0; i < inputs; ++i) {
          const Exact gradient = scale * found.gradient[i].value;
          const Exact size = std::fabs(scale) * found.gradient[i].magnitude;
          each[i][flat(extent, k, b, d)].add(gradient, size);
          over_samples[i][flat(extent, 0, b, d)].add(gradient, size);
        }
      });

      check_close(on_any_threads(what,
                                 [&] {
                                   std::vector<S> out = unwritten<S>(static_cast<std::size_t>(rows));
                                   forward(extent, views, out.data());
                                   return out;
                                 }),
                  sums, extent.columns, what);

      for (const unsigned wanted : choices(inputs)) {
        // Whether a gradient is summed over samples goes through all combinations with the variants.
        const auto summed = [&](std::size_t i) { return (static_cast<std::size_t>(variant) >> i) % 2 == 1; };
        const auto size = [&](std::size_t i) { return summed(i) ? over_samples[i].size() : each[i].size(); };
        const std::vector<S> all = on_any_threads(what + ", gradients", [&] {
          std::array<std::vector<S>, inputs> found;
          std::array<GradientView<S>, inputs> targets{};
          for (std::size_t i = 0; i < inputs; ++i) {
            if ((wanted >> i) % 2 == 0) continue;
            // A sum over no samples is the caller's to write: an operand without elements has no address, which to some
            // kernels means that there is no such operand.
            found[i] = extent.samples == 0 ? std::vector<S>(size(i)) : unwritten<S>(size(i));
            targets[i] = {found[i].data(), summed(i)};
          }
          backward(extent, views, upstream, targets);
          std::vector<S> joined;
          for (const auto& part : found) joined.insert(joined.end(), part.begin(), part.end());
          return joined;
        });
        auto next = all.begin();
        for (std::size_t i = 0; i < inputs; ++i) {
          if ((wanted >> i) % 2 == 0) continue;
          const auto last = next + static_cast<std::ptrdiff_t>(size(i));
          check_close(std::vector<S>(next, last), summed(i) ? over_samples[i] : each[i], 16 * extent.samples,
                      what + ", gradient " + std::to_string(i));
          next = last;
        }
      }
    }
  }
}

}  // namespace fastvi::test

// The generator: published vectors of Philox4x32-10 (Random123, kat_vectors), and the vectorised noise against the
// scalar formula, number by number.
#include <cmath>

#include "../../csrc/formulas/log.h"
#include "../../csrc/formulas/philox.h"
#include "../../csrc/formulas/sincos.h"
#include "check.h"

namespace fastvi::test {
namespace {

void check_known_answers() {
  struct Answer {
    PhiloxBlock counter;
    std::uint64_t key;
    PhiloxBlock expected;
  };
  const Answer answers[] = {
      {{{0, 0, 0, 0}}, 0, {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}}},
      {{{0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu}},
       0xffffffffffffffffu,
       {{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}}},
      {{{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}},
       0x299f31d0a4093822u,
       {{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}}},
  };
  for (const Answer& answer : answers) {
    const PhiloxBlock found = philox(answer.counter, answer.key);
    check(std::memcmp(found.word, answer.expected.word, sizeof found.word) == 0, "philox: published vector");
  }
}

// The normal that stands at place `index` of a quad.
template <class T>
T scalar_normal(const PhiloxBlock& counter, std::int64_t index, std::int64_t seed) {
  const PhiloxBlock words = philox(counter, static_cast<std::uint64_t>(seed));
  const std::int64_t pair = index / 2 * 2;
  T sine, cosine;
  sincos_turn(words.word[pair + 1], sine, cosine);
  return std::sqrt(T(2) * neg_log_uniform<T>(words.word[pair])) * (index % 2 == 0 ? cosine : sine);
}

template <class S>
void check_flat_draws() {
  for (const std::int64_t seed : {std::int64_t{0}, std::int64_t{0x7fffffff12345678}}) {
    for (const std::int64_t count : {0, 1, 3, 4, 5, 31, 127, 128, 129, 1023, 1024, 1025, 5000, 16385}) {
      const std::string what = "standard_normal, " + std::to_string(count);
      const std::vector<S> draws = on_any_threads(what, [&] {
        std::vector<S> out(static_cast<std::size_t>(count));
        NoiseKernels<S>::standard_normal(out.data(), count, &seed);
        return out;
      });
      for (std::int64_t i = 0; i < count; ++i) {
        const auto draw = scalar_normal<ComputeType<S>>(flat_counter(static_cast<std::uint64_t>(i / 4)), i % 4, seed);
        check(exact(draws[static_cast<std::size_t>(i)]) == exact(S(draw)), what + ": draw " + std::to_string(i));
      }
    }
  }
}

template <class S>
void check_sample_noise() {
  const std::int64_t seed = 0x123456789abcdef;
  for (const Extent& extent : extents()) {
    for (const std::int64_t row_offset : {std::int64_t{0}, (std::int64_t{1} << 32) - 1}) {  // a carry into word 2
      const std::string what = "normal_noise" + describe(extent) + " from row " + std::to_string(row_offset);
      const std::vector<S> noise = on_any_threads(what, [&] {
        std::vector<S> out(static_cast<std::size_t>(extent.samples * extent.rows * extent.columns));
        NoiseKernels<S>::normal_noise(out.data(), extent, &seed, row_offset);
        return out;
      });
      for_each_element(extent, [&](std::int64_t k, std::int64_t b, std::int64_t d) {
        const PhiloxBlock counter =
            sample_counter(static_cast<std::uint32_t>(d / 4), static_cast<std::uint64_t>(b + row_offset),
                           static_cast<std::uint32_t>(k));
        const auto draw = scalar_normal<ComputeType<S>>(counter, d % 4, seed);
        check(exact(noise[flat(extent, k, b, d)]) == exact(S(draw)), what);
      });
    }
  }
}

template <class S>
void check_all() {
  check_flat_draws<S>();
  check_sample_noise<S>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  using namespace fastvi::test;
  check_known_answers();
  for_each_type([]<class S> { check_all<S>(); });
  return report("noise");
}

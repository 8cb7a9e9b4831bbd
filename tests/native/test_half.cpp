// The 16-bit types by their definition: every number of theirs, every tie between two of them, and the float32 numbers
// around, alone and in rows of every length.
#include "check.h"

namespace fastvi::test {
namespace {

template <class S>
S from_pattern(std::uint32_t bits) {
  S number;
  number.bits = static_cast<std::uint16_t>(bits);
  return number;
}

// sign, exponent and mantissa put together by the definition of a binary format.
template <class S>
Exact defined_value(std::uint32_t bits) {
  constexpr int mantissa_bits = significant_bits<S> - 1;
  const int exponent = static_cast<int>((bits & 0x7FFFu) >> mantissa_bits);
  const auto mantissa = static_cast<Exact>(bits & ((1u << mantissa_bits) - 1));
  const Exact sign = bits >> 15 != 0 ? -1 : 1;
  const bool largest = exponent == (0x7FFF >> mantissa_bits);
  if (largest) return mantissa == 0 ? sign * INFINITY : NAN;
  const Exact leading = exponent == 0 ? 0 : std::ldexp(Exact{1}, mantissa_bits);
  return sign * std::ldexp(leading + mantissa, std::max(exponent, 1) - 1 + least_exponent<S> - mantissa_bits);
}

template <class S>
void check_narrowing(float value, std::uint32_t expected) {
  check(S(value).bits == expected, "narrowing " + std::to_string(value) + " to " + std::to_string(expected));
}

template <class S>
void check_numbers() {
  constexpr std::uint32_t infinity_bits = 0x7FFFu >> (significant_bits<S> - 1) << (significant_bits<S> - 1);
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const auto wide = static_cast<float>(from_pattern<S>(bits));
    if ((bits & 0x7FFFu) > infinity_bits) {
      check(std::isnan(wide) && (S(wide).bits & 0x7FFFu) > infinity_bits, "NaN stays NaN");
      continue;
    }
    check(static_cast<Exact>(wide) == defined_value<S>(bits) && std::signbit(wide) == (bits >> 15 != 0),
          "widening " + std::to_string(bits));
    check_narrowing<S>(wide, bits);
    if ((bits & 0x7FFFu) == infinity_bits) continue;
    // Half way to the next one away from zero, which behind the largest would be the next power of two.
    const std::uint32_t next = bits + 1;
    const Exact beyond = (next & 0x7FFFu) == infinity_bits
                             ? std::copysign(std::ldexp(Exact{1}, 1 - least_exponent<S> + 1), static_cast<Exact>(wide))
                             : defined_value<S>(next);
    const auto tie = static_cast<float>((defined_value<S>(bits) + beyond) / 2);
    check_narrowing<S>(tie, bits % 2 == 0 ? bits : next);
    check_narrowing<S>(std::nextafter(tie, 0.0F), bits);
    check_narrowing<S>(std::nextafter(tie, std::copysign(INFINITY, tie)), next);
  }
}

// Rows of every length, the vectors' remainders among them.
template <class S>
void check_rows() {
  Random<float> random(19850101);
  for (std::int64_t count = 0; count <= 70; ++count) {
    const std::vector<float> wide = random.normal(count);
    std::vector<S> narrow = unwritten<S>(wide.size());
    std::vector<float> back = unwritten<float>(wide.size());
    convert(wide.data(), count, narrow.data());
    convert(narrow.data(), count, back.data());
    for (std::size_t i = 0; i < wide.size(); ++i) {
      check(narrow[i].bits == S(wide[i]).bits && back[i] == static_cast<float>(S(wide[i])), "a row's conversion");
    }
  }
}

template <class S>
void check_all() {
  check_numbers<S>();
  check_rows<S>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::check_all<fastvi::BFloat16>();
  fastvi::test::check_all<fastvi::Float16>();
  return fastvi::test::report("half");
}

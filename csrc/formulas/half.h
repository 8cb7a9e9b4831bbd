// The two 16-bit formats that numbers are stored in, and the type that arithmetic on a stored type runs in: float32 for
// both. Conversions work on the bits without branches, so that loops over them become vector code everywhere.
#pragma once

#include <cstdint>

#include "compiler.h"
#include "floating_point.h"

namespace fastvi {

// `condition ? yes : no` on bits; a mask keeps gcc from making a branch of it.
FASTVI_HD constexpr std::uint32_t select_bits(bool condition, std::uint32_t yes, std::uint32_t no) {
  const std::uint32_t mask = std::uint32_t{0} - static_cast<std::uint32_t>(condition);
  return (yes & mask) | (no & ~mask);
}

// The upper half of a float32.
struct BFloat16 {
  std::uint16_t bits;

  BFloat16() = default;

  // Rounds to nearest, ties to even: the largest finite numbers carry into infinity.
  explicit FASTVI_HD constexpr BFloat16(float value) : bits(0) {
    const std::uint32_t wide = to_bits(value);
    const bool is_nan = (wide & 0x7FFFFFFFu) > 0x7F800000u;
    const std::uint32_t rounded = wide + 0x7FFFu + ((wide >> 16) & 1u);
    bits = static_cast<std::uint16_t>(select_bits(is_nan, wide | 0x400000u, rounded) >> 16);
  }

  explicit FASTVI_HD constexpr operator float() const { return from_bits(std::uint32_t{bits} << 16); }
};

// IEEE 754 binary16: 5 exponent and 10 mantissa bits.
struct Float16 {
  std::uint16_t bits;

  Float16() = default;

  // Rounds to nearest, ties to even: from 65520 on to infinity.
  explicit FASTVI_HD constexpr Float16(float value) : bits(0) {
    constexpr std::uint32_t first_normal = (127u - 14u) << 23, beyond = (127u + 16u) << 23;
    constexpr std::uint32_t rebias = (127u - 15u) << 23;
    const std::uint32_t wide = to_bits(value);
    const std::uint32_t magnitude = wide & 0x7FFFFFFFu;
    const std::uint32_t normal = (magnitude - rebias + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
    // The last bit of 1/2 is worth the smallest subnormal, 2^-24, so this addition rounds to a multiple of it.
    const std::uint32_t subnormal = to_bits(from_bits(magnitude) + 0.5F) - to_bits(0.5F);
    const std::uint32_t special = select_bits(magnitude > 0x7F800000u, 0x7E00u, 0x7C00u);
    const std::uint32_t finite = select_bits(magnitude < first_normal, subnormal, normal);
    bits = static_cast<std::uint16_t>(select_bits(magnitude >= beyond, special, finite) | ((wide >> 16) & 0x8000u));
  }

  explicit FASTVI_HD constexpr operator float() const {
    constexpr std::uint32_t rebias = (127u - 15u) << 23, first_normal = (127u - 14u) << 23;
    const std::uint32_t magnitude = (std::uint32_t{bits} & 0x7FFFu) << 13;
    const std::uint32_t normal = magnitude + rebias;
    // The mantissa behind a leading one, which is subtracted again: exact, and no subnormal float32 takes part, which a
    // processor may be told to flush.
    const std::uint32_t subnormal = to_bits(from_bits(magnitude | first_normal) - from_bits(first_normal));
    const std::uint32_t finite = select_bits(magnitude < (1u << 23), subnormal, normal);
    const std::uint32_t wide = select_bits(magnitude >= (31u << 23), normal + rebias, finite);
    return from_bits(wide | ((std::uint32_t{bits} & 0x8000u) << 16));
  }
};

// What sums and formulas of numbers stored as S are computed in; results are rounded to S once, when they are stored.
template <class S>
struct ComputeTypeOf {
  using type = S;
};
template <>
struct ComputeTypeOf<BFloat16> {
  using type = float;
};
template <>
struct ComputeTypeOf<Float16> {
  using type = float;
};
template <class S>
using ComputeType = typename ComputeTypeOf<S>::type;

}  // namespace fastvi

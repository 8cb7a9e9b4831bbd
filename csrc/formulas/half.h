// The two 16-bit formats that numbers are stored in, and the type that arithmetic on a stored type runs in: float32 for
// both. Conversions work on the bits without branches, so that loops over them become vector code everywhere; a GPU has
// an instruction for each of float16's.
#pragma once

#include <cstdint>

#include "compiler.h"
#include "floating_point.h"

namespace fastvi {

// The upper half of a float32.
struct BFloat16 {
  std::uint16_t bits;

  BFloat16() = default;

  // Rounds to nearest, ties to even: the largest finite numbers carry into infinity.
  explicit FASTVI_HD constexpr BFloat16(float value) {
    const std::uint32_t wide = to_bits(value);
    const std::uint32_t rounded = wide + 0x7FFFu + ((wide >> 16) & 1u);
    // A mask, where `?:` would cost gcc more instructions.
    const std::uint32_t is_nan = (wide & 0x7FFFFFFFu) > 0x7F800000u ? ~0u : 0u;
    bits = static_cast<std::uint16_t>((((wide | 0x400000u) & is_nan) | (rounded & ~is_nan)) >> 16);
  }

  explicit FASTVI_HD constexpr operator float() const { return from_bits(std::uint32_t{bits} << 16); }
};

// IEEE 754 binary16: 5 exponent and 10 mantissa bits. Magnitudes are signed integers, since instruction sets before
// AVX-512 compare no others.
struct Float16 {
  std::uint16_t bits;

  Float16() = default;

  // Rounds to nearest, ties to even: from 65520 on to infinity.
  explicit FASTVI_HD constexpr Float16(float value) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    constexpr std::int32_t beyond = (127 + 16) << 23;
    const std::uint32_t wide = to_bits(value);
    const auto magnitude = static_cast<std::int32_t>(wide & 0x7FFFFFFFu);
    const std::int32_t normal = (magnitude - rebias + 0xFFF + ((magnitude >> 13) & 1)) >> 13;
    // The last bit of 1/2 is worth the smallest subnormal, 2^-24: this addition rounds to a multiple of it.
    const auto subnormal = static_cast<std::int32_t>(to_bits(from_bits(wide & 0x7FFFFFFFu) + 0.5F) - to_bits(0.5F));
    const std::int32_t special = magnitude > 0x7F800000 ? 0x7E00 : 0x7C00;
    const std::int32_t finite = magnitude < rebias + lowest_exponent ? subnormal : normal;
    const std::int32_t narrow = magnitude >= beyond ? special : finite;
    bits = static_cast<std::uint16_t>(static_cast<std::uint32_t>(narrow) | ((wide >> 16) & 0x8000u));
#endif
  }

  explicit FASTVI_HD constexpr operator float() const {
#ifdef __CUDA_ARCH__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#else
    const std::int32_t magnitude = (std::int32_t{bits} & 0x7FFF) << 13;
    // A subnormal is taken for the mantissa behind a leading one, which is subtracted again: exact, and no subnormal
    // float32 takes part, which a processor may be told to flush.
    const bool is_subnormal = magnitude < lowest_exponent;
    const std::int32_t leading_one = is_subnormal ? lowest_exponent : 0;
    const float excess = is_subnormal ? 0x1p-14F : 0.0F;
    const std::int32_t to_largest_exponent = magnitude >= 31 * lowest_exponent ? rebias : 0;
    const float wide =
        from_bits(static_cast<std::uint32_t>(magnitude + rebias + leading_one + to_largest_exponent)) - excess;
    return from_bits(to_bits(wide) | ((std::uint32_t{bits} & 0x8000u) << 16));
#endif
  }

 private:
  // In a float32: the exponent 1, and what to add to a binary16's exponent.
  static constexpr std::int32_t lowest_exponent = 1 << 23, rebias = (127 - 15) << 23;
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

// The one instruction that Philox lives on: 32 x 32 -> 64 bit products of the low halves of 64-bit lanes. gcc 12 makes
// two to three times as many instructions of the same product in portable code, so it is named here for x86-64.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastvi {

#if defined(__AVX512F__)
inline constexpr int wide_bytes = 64;
#elif defined(__AVX2__)
inline constexpr int wide_bytes = 32;
#else
inline constexpr int wide_bytes = 16;
#endif

inline constexpr int wide_lanes = wide_bytes / 8;
typedef std::uint64_t WideVector __attribute__((vector_size(wide_bytes)));
typedef std::uint32_t HalfVector __attribute__((vector_size(wide_bytes / 2)));

// The upper halves of a's and b's lanes are ignored.
inline WideVector multiply_low_halves(WideVector a, WideVector b) {
#if defined(__AVX512F__)
  return reinterpret_cast<WideVector>(
      _mm512_maskz_mul_epu32(0xFF, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<WideVector>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
  return reinterpret_cast<WideVector>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  constexpr std::uint64_t low_half = 0xFFFFFFFFu;
  return (a & low_half) * (b & low_half);
#endif
}

}  // namespace fastvi

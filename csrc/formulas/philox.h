// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
// 1, 2, 3" (SC 2011): four 32-bit words that depend on a 128-bit counter and a 64-bit key alone.
#pragma once

#include <cstdint>

#include "compiler.h"

namespace fastvi {

struct PhiloxBlock {
  std::uint32_t word[4];
};

inline constexpr int philox_rounds = 10;
inline constexpr std::uint32_t philox_multiplier_0 = 0xD2511F53u;
inline constexpr std::uint32_t philox_multiplier_1 = 0xCD9E8D57u;
inline constexpr std::uint32_t philox_weyl_0 = 0x9E3779B9u;
inline constexpr std::uint32_t philox_weyl_1 = 0xBB67AE85u;

FASTVI_HD PhiloxBlock philox(PhiloxBlock counter, std::uint64_t key) {
  std::uint32_t key_0 = static_cast<std::uint32_t>(key);
  std::uint32_t key_1 = static_cast<std::uint32_t>(key >> 32);
  std::uint32_t word_0 = counter.word[0], word_1 = counter.word[1], word_2 = counter.word[2], word_3 = counter.word[3];
  for (int round = 0; round < philox_rounds; ++round) {
    const std::uint64_t product_0 = std::uint64_t{philox_multiplier_0} * word_0;
    const std::uint64_t product_1 = std::uint64_t{philox_multiplier_1} * word_2;
    word_0 = static_cast<std::uint32_t>(product_1 >> 32) ^ word_1 ^ key_0;
    word_2 = static_cast<std::uint32_t>(product_0 >> 32) ^ word_3 ^ key_1;
    word_1 = static_cast<std::uint32_t>(product_1);
    word_3 = static_cast<std::uint32_t>(product_0);
    key_0 += philox_weyl_0;
    key_1 += philox_weyl_1;
  }
  return {{word_0, word_1, word_2, word_3}};
}

// Which number a counter means. A Gaussian sample's block of four columns is counted by (column block, row, sample);
// a flat draw's block of four by its position, with a last word that no sample has.
inline constexpr std::uint32_t flat_draw_tag = 0xFFFFFFFFu;

FASTVI_HD PhiloxBlock sample_counter(std::uint32_t column_block, std::uint64_t row, std::uint32_t sample) {
  return {{column_block, static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(row >> 32), sample}};
}

FASTVI_HD PhiloxBlock flat_counter(std::uint64_t block) {
  return {{static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), 0u, flat_draw_tag}};
}

}  // namespace fastvi

#include "noise.h"

#include <cmath>
#include <cstring>

#include "../formulas/log.h"
#include "../formulas/philox.h"
#include "../formulas/sincos.h"

namespace fastvi {
namespace {

constexpr int lanes = 32;

// Counters and words of `lanes` blocks at once, one array for each word.
struct PhiloxLanes {
  alignas(64) std::uint32_t word[4][lanes];
};

#if defined(__AVX512F__)
// Words in 64-bit lanes: one widening multiplication gives both halves of a product. Measured faster than 32-bit lanes
// where vectors are 512 bits wide, and slower where they are 256.
void run_philox(PhiloxLanes& block, std::uint64_t seed) {
  alignas(64) std::uint64_t word[4][lanes];
  for (int w = 0; w < 4; ++w) {
    for (int i = 0; i < lanes; ++i) word[w][i] = block.word[w][i];
  }
  std::uint64_t key_0 = static_cast<std::uint32_t>(seed), key_1 = seed >> 32;
  for (int round = 0; round < philox_rounds; ++round) {
#pragma omp simd
    for (int i = 0; i < lanes; ++i) {
      const std::uint64_t product_0 = (word[0][i] & 0xFFFFFFFFu) * std::uint64_t{philox_multiplier_0};
      const std::uint64_t product_1 = (word[2][i] & 0xFFFFFFFFu) * std::uint64_t{philox_multiplier_1};
      word[0][i] = (product_1 >> 32) ^ word[1][i] ^ key_0;
      word[2][i] = (product_0 >> 32) ^ word[3][i] ^ key_1;
      word[1][i] = product_1;
      word[3][i] = product_0;
    }
    key_0 = static_cast<std::uint32_t>(key_0 + philox_weyl_0);
    key_1 = static_cast<std::uint32_t>(key_1 + philox_weyl_1);
  }
  for (int w = 0; w < 4; ++w) {
    for (int i = 0; i < lanes; ++i) block.word[w][i] = static_cast<std::uint32_t>(word[w][i]);
  }
}
#else
void run_philox(PhiloxLanes& block, std::uint64_t seed) {
#pragma omp simd
  for (int i = 0; i < lanes; ++i) {
    const PhiloxBlock out = philox({{block.word[0][i], block.word[1][i], block.word[2][i], block.word[3][i]}}, seed);
    for (int w = 0; w < 4; ++w) block.word[w][i] = out.word[w];
  }
}
#endif

// normals[4 * i + w] is the w-th normal of block i.
template <class T>
void box_muller(const PhiloxLanes& block, T* normals) {
  alignas(64) T planar[4][lanes];
  for (int pair = 0; pair < 2; ++pair) {
    const std::uint32_t* const radius_word = block.word[2 * pair];
    const std::uint32_t* const angle_word = block.word[2 * pair + 1];
    T* const first = planar[2 * pair];
    T* const second = planar[2 * pair + 1];
#pragma omp simd
    for (int i = 0; i < lanes; ++i) {
      const T radius = std::sqrt(T(2) * neg_log_uniform<T>(radius_word[i]));
      T sine, cosine;
      sincos_turn(angle_word[i], sine, cosine);
      first[i] = radius * cosine;
      second[i] = radius * sine;
    }
  }
#pragma omp simd
  for (int i = 0; i < lanes; ++i) {
    normals[4 * i] = planar[0][i];
    normals[4 * i + 1] = planar[1][i];
    normals[4 * i + 2] = planar[2][i];
    normals[4 * i + 3] = planar[3][i];
  }
}

// Normals of `count` blocks whose counters next_counters(block, how many) writes.
template <class T, class NextCounters>
void fill_blocks(T* out, std::int64_t count, std::uint64_t seed, NextCounters&& next_counters) {
  PhiloxLanes block{};
  for (; count > 0; count -= lanes, out += 4 * lanes) {
    next_counters(block);
    run_philox(block, seed);
    if (count >= lanes) {
      box_muller(block, out);
    } else {
      alignas(64) T last[4 * lanes];
      box_muller(block, last);
      std::copy_n(last, 4 * count, out);
    }
  }
}

void store_counter(PhiloxLanes& block, int lane, const PhiloxBlock& counter) {
  for (int w = 0; w < 4; ++w) block.word[w][lane] = counter.word[w];
}

}  // namespace

template <class T>
void fill_noise(T* noise, std::uint64_t seed, std::int64_t sample, const NoiseTile& tile) {
  std::uint64_t row = tile.first_row;
  std::int64_t column_block = 0;
  fill_blocks(noise, tile.rows * tile.blocks, seed, [&](PhiloxLanes& block) {
    for (int lane = 0; lane < lanes; ++lane) {
      store_counter(block, lane,
                    sample_counter(static_cast<std::uint32_t>(tile.first_block + column_block), row,
                                   static_cast<std::uint32_t>(sample)));
      if (++column_block == tile.blocks) {
        column_block = 0;
        ++row;
      }
    }
  });
}

template <class T>
void standard_normal(T* out, std::int64_t count, std::uint64_t seed) {
  constexpr std::int64_t piece = 4 * lanes * 16;
  parallel_for(ceil_divide(count, piece), count * 3, [&](std::int64_t item) {
    const std::int64_t first = item * piece, length = std::min(piece, count - first);
    std::uint64_t next = static_cast<std::uint64_t>(first) / 4;
    const auto counters = [&](PhiloxLanes& block) {
      for (int lane = 0; lane < lanes; ++lane) store_counter(block, lane, flat_counter(next + static_cast<unsigned>(lane)));
      next += lanes;
    };
    const std::int64_t whole = length / 4;
    fill_blocks(out + first, whole, seed, counters);
    if (length % 4 != 0) {
      T last[4];
      next = static_cast<std::uint64_t>(first) / 4 + static_cast<std::uint64_t>(whole);
      fill_blocks(last, 1, seed, counters);
      std::copy_n(last, length % 4, out + first + 4 * whole);
    }
  });
}

template <class T>
void normal_noise(T* out, const Extent& extent, std::uint64_t seed, std::int64_t row_offset) {
  const NoiseTiling tiling(extent.rows, extent.columns, row_offset);
  parallel_for(extent.samples * tiling.count(), extent.samples * extent.rows * extent.columns * 3,
               [&](std::int64_t item) {
                 const std::int64_t k = item / tiling.count(), index = item % tiling.count();
                 alignas(64) T noise[tile_elements];
                 const NoiseTile tile = tiling.tile(index);
                 fill_noise(noise, seed, k, tile);
                 for (std::int64_t row = 0; row < tile.rows; ++row) {
                   const std::int64_t b = tiling.first_row(index) + row;
                   std::copy_n(noise + row * tile.row_length(), tiling.columns(index),
                               out + (k * extent.rows + b) * extent.columns + tiling.first_column(index));
                 }
               });
}

template void fill_noise(float*, std::uint64_t, std::int64_t, const NoiseTile&);
template void fill_noise(double*, std::uint64_t, std::int64_t, const NoiseTile&);
template void standard_normal(float*, std::int64_t, std::uint64_t);
template void standard_normal(double*, std::int64_t, std::uint64_t);
template void normal_noise(float*, const Extent&, std::uint64_t, std::int64_t);
template void normal_noise(double*, const Extent&, std::uint64_t, std::int64_t);

}  // namespace fastvi

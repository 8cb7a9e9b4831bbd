#include "noise.h"

#include <cmath>
#include <cstring>

#include "../formulas/log.h"
#include "../formulas/philox.h"
#include "../formulas/sincos.h"
#include "wide_multiply.h"

namespace fastvi {
namespace {

constexpr int lanes = 64;
static_assert(tile_blocks % lanes == 0, "vectors read whole lanes of a tile's counters");

// The words of `lanes` blocks at once, one array for each word.
struct PhiloxLanes {
  alignas(64) std::uint32_t word[4][lanes];
};

constexpr int vectors = 4;  // independent chains of rounds: they hide the multiplication's latency
static_assert(lanes % (vectors * wide_lanes) == 0);

WideVector load_wide(const std::uint32_t* words) {
  HalfVector half;
  std::memcpy(&half, words, sizeof half);
  return __builtin_convertvector(half, WideVector);
}

void store_low_halves(WideVector wide, std::uint32_t* words) {
  const HalfVector half = __builtin_convertvector(wide, HalfVector);
  std::memcpy(words, &half, sizeof half);
}

// philox() for the blocks that `counters` holds from `first` on. The rounds run on 64-bit lanes, whose upper halves may
// hold rests of products in between.
void run_philox(const PhiloxCounters& counters, std::int64_t first, std::uint64_t seed, PhiloxLanes& out) {
  const WideVector multiplier_0 = WideVector{} + philox_multiplier_0, multiplier_1 = WideVector{} + philox_multiplier_1;
  for (int base = 0; base < lanes; base += vectors * wide_lanes) {
    WideVector word[4][vectors];
    for (int v = 0; v < vectors; ++v) {
      for (int w = 0; w < 3; ++w) word[w][v] = load_wide(counters.word[w] + first + base + v * wide_lanes);
      word[3][v] = WideVector{} + counters.last_word;
    }
    std::uint32_t key_0 = static_cast<std::uint32_t>(seed), key_1 = static_cast<std::uint32_t>(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < philox_rounds; ++round) {
      for (int v = 0; v < vectors; ++v) {
        const WideVector product_0 = multiply_low_halves(word[0][v], multiplier_0);
        const WideVector product_1 = multiply_low_halves(word[2][v], multiplier_1);
        word[0][v] = (product_1 >> 32) ^ word[1][v] ^ std::uint64_t{key_0};
        word[2][v] = (product_0 >> 32) ^ word[3][v] ^ std::uint64_t{key_1};
        word[1][v] = product_1;
        word[3][v] = product_0;
      }
      key_0 += philox_weyl_0;
      key_1 += philox_weyl_1;
    }
    for (int w = 0; w < 4; ++w) {
      for (int v = 0; v < vectors; ++v) store_low_halves(word[w][v], out.word[w] + base + v * wide_lanes);
    }
  }
}

// normals[4 * i + w] is the w-th normal of block i.
template <class T>
void box_muller(const PhiloxLanes& block, T* normals) {
  alignas(64) T planar[4][lanes];
  for (int pair = 0; pair < 2; ++pair) {
    const std::uint32_t* const radius_word = block.word[2 * pair];
    const std::uint32_t* const angle_word = block.word[2 * pair + 1];
    T* const first = planar[2 * pair];
    T* const second = planar[2 * pair + 1];
    // Two short loops: one long body would wait for its own latencies.
    alignas(64) T radius[lanes];
#pragma omp simd
    for (int i = 0; i < lanes; ++i) radius[i] = std::sqrt(T(2) * neg_log_uniform<T>(radius_word[i]));
#pragma omp simd
    for (int i = 0; i < lanes; ++i) {
      T sine, cosine;
      sincos_turn(angle_word[i], sine, cosine);
      first[i] = radius[i] * cosine;
      second[i] = radius[i] * sine;
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

// Normals of the first `count` blocks of `counters`.
template <class T>
void fill_blocks(T* out, std::int64_t count, const PhiloxCounters& counters, std::uint64_t seed) {
  PhiloxLanes block;
  for (std::int64_t first = 0; first < count; first += lanes) {
    run_philox(counters, first, seed, block);
    if (count - first >= lanes) {
      box_muller(block, out + 4 * first);
    } else {
      alignas(64) T last[4 * lanes];
      box_muller(block, last);
      std::copy_n(last, 4 * (count - first), out + 4 * first);
    }
  }
}

}  // namespace

NoiseTile::NoiseTile(std::uint64_t first_row, std::int64_t rows, std::int64_t first_block, std::int64_t blocks)
    : count_(rows * blocks) {
  std::int64_t i = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::uint64_t number = first_row + static_cast<std::uint64_t>(row);
    for (std::int64_t block = 0; block < blocks; ++block, ++i) {
      const PhiloxBlock counter = sample_counter(static_cast<std::uint32_t>(first_block + block), number, 0);
      for (int w = 0; w < 3; ++w) counters_.word[w][i] = counter.word[w];
    }
  }
}

template <class T>
void NoiseTile::fill(T* noise, std::uint64_t seed, std::int64_t sample) {
  counters_.last_word = static_cast<std::uint32_t>(sample);
  fill_blocks(noise, count_, counters_, seed);
}

template <class S>
void NoiseKernels<S>::standard_normal(S* out, std::int64_t count, Seed seed) {
  using T = ComputeType<S>;
  const std::uint64_t key = read_seed(seed);
  parallel_for(ceil_divide(count, tile_elements), count * 3, [&](std::int64_t item) {
    const std::int64_t start = item * tile_elements, length = std::min(tile_elements, count - start);
    const std::uint64_t first = static_cast<std::uint64_t>(start) / 4;
    PhiloxCounters counters;
    for (std::uint64_t i = 0; i < tile_blocks; ++i) {
      const PhiloxBlock counter = flat_counter(first + i);
      for (int w = 0; w < 3; ++w) counters.word[w][i] = counter.word[w];
      counters.last_word = counter.word[3];
    }
    if constexpr (!is_narrow<S>) {
      if (length % 4 == 0) return fill_blocks(out + start, length / 4, counters, key);
    }
    alignas(64) T draws[tile_elements];
    fill_blocks(draws, ceil_divide(length, 4), counters, key);
    convert(draws, length, out + start);
  });
}

template <class S>
void NoiseKernels<S>::normal_noise(S* out, const Extent& extent, Seed seed, std::int64_t row_offset) {
  const std::uint64_t key = read_seed(seed);
  const NoiseTiling tiling(extent.rows, extent.columns, row_offset);
  parallel_for(extent.samples * tiling.count(), extent.samples * extent.rows * extent.columns * 3,
               [&](std::int64_t item) {
                 const std::int64_t k = item / tiling.count(), index = item % tiling.count();
                 alignas(64) ComputeType<S> noise[tile_elements];
                 NoiseTile tile = tiling.tile(index);
                 tile.fill(noise, key, k);
                 for (std::int64_t row = 0; row < tiling.rows(index); ++row) {
                   const std::int64_t b = tiling.first_row(index) + row;
                   convert(noise + row * tiling.row_length(index), tiling.columns(index),
                           out + (k * extent.rows + b) * extent.columns + tiling.first_column(index));
                 }
               });
}

void philox_words(std::uint32_t* out, std::int64_t blocks, Seed seed) {
  const std::uint64_t key = read_seed(seed);
  for (std::int64_t first = 0; first < blocks; first += lanes) {
    PhiloxCounters counters;
    for (std::int64_t i = 0; i < lanes; ++i) {
      const PhiloxBlock counter = flat_counter(static_cast<std::uint64_t>(first + i));
      for (int w = 0; w < 3; ++w) counters.word[w][i] = counter.word[w];
      counters.last_word = counter.word[3];
    }
    PhiloxLanes block;
    run_philox(counters, 0, key, block);
    for (std::int64_t i = 0; i < std::min<std::int64_t>(lanes, blocks - first); ++i) {
      for (int w = 0; w < 4; ++w) out[4 * (first + i) + w] = block.word[w][i];
    }
  }
}

template void NoiseTile::fill(float*, std::uint64_t, std::int64_t);
template void NoiseTile::fill(double*, std::uint64_t, std::int64_t);
template struct NoiseKernels<float>;
template struct NoiseKernels<double>;
template struct NoiseKernels<BFloat16>;
template struct NoiseKernels<Float16>;

}  // namespace fastvi

// Standard normal draws by Philox4x32-10 and the Box-Muller transform: the noise of the Gaussian samples, which the
// backward pass draws again instead of storing it.
#pragma once

#include <cstdint>

#include "rows.h"

namespace fastvi {

inline constexpr std::int64_t tile_elements = 1024;
inline constexpr std::int64_t tile_blocks = tile_elements / 4;

// Counters of up to `tile_blocks` blocks, which differ in all but their last word. A vector may read past the blocks
// that are meant: what it draws there is dropped.
struct PhiloxCounters {
  alignas(64) std::uint32_t word[3][tile_blocks] = {};
  std::uint32_t last_word = 0;
};

// The noise of a part of a sample: `rows` rows of `blocks` blocks of four columns.
class NoiseTile {
 public:
  NoiseTile(std::uint64_t first_row, std::int64_t rows, std::int64_t first_block, std::int64_t blocks);

  // Fills noise[row * 4 * blocks + column] for sample number `sample`.
  template <class T>
  void fill(T* noise, std::uint64_t seed, std::int64_t sample);

 private:
  PhiloxCounters counters_;
  std::int64_t count_;
};

inline std::uint64_t read_seed(Seed seed) { return static_cast<std::uint64_t>(*seed); }

// The tiles of a (rows, columns) plane, and the part of the plane that each covers.
class NoiseTiling {
 public:
  NoiseTiling(std::int64_t rows, std::int64_t columns, std::int64_t row_offset)
      : rows_(rows), columns_(columns), row_offset_(row_offset), blocks_(ceil_divide(columns, 4)) {
    blocks_per_tile_ = std::clamp<std::int64_t>(blocks_, 1, tile_blocks);
    rows_per_tile_ = std::clamp<std::int64_t>(tile_blocks / blocks_per_tile_, 1, std::max<std::int64_t>(rows, 1));
    tiles_across_ = ceil_divide(blocks_, blocks_per_tile_);
  }

  std::int64_t count() const { return down() * tiles_across_; }
  std::int64_t down() const { return ceil_divide(rows_, rows_per_tile_); }
  std::int64_t across() const { return tiles_across_; }

  std::int64_t first_row(std::int64_t index) const { return index / tiles_across_ * rows_per_tile_; }
  std::int64_t first_column(std::int64_t index) const { return index % tiles_across_ * blocks_per_tile_ * 4; }
  std::int64_t rows(std::int64_t index) const { return std::min(rows_per_tile_, rows_ - first_row(index)); }
  std::int64_t columns(std::int64_t index) const {
    return std::min(blocks_per_tile_ * 4, columns_ - first_column(index));
  }

  // Length of a tile's rows, padded to whole blocks.
  std::int64_t row_length(std::int64_t index) const { return 4 * ceil_divide(columns(index), 4); }

  NoiseTile tile(std::int64_t index) const {
    return {static_cast<std::uint64_t>(row_offset_ + first_row(index)), rows(index), first_column(index) / 4,
            row_length(index) / 4};
  }

 private:
  std::int64_t rows_, columns_, row_offset_, blocks_, blocks_per_tile_, rows_per_tile_, tiles_across_;
};

}  // namespace fastvi

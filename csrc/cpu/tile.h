// How matrices are cut into parts, and those into tiles whose height the compiler knows.
#pragma once

#include <cstdint>
#include <type_traits>

namespace fastvi {

// Where part i of `parts` begins, of `count` things cut as evenly as can be.
constexpr std::int64_t part_start(std::int64_t count, std::int64_t parts, std::int64_t i) { return count * i / parts; }

// Calls tile(std::integral_constant<int, height>) for a height from 1 to `most`.
template <int most, class Tile>
[[gnu::always_inline]] inline void with_height(std::int64_t height, const Tile& tile) {
  if constexpr (most == 1) {
    tile(std::integral_constant<int, 1>());
  } else if (height >= most) {
    tile(std::integral_constant<int, most>());
  } else {
    with_height<most - 1>(height, tile);
  }
}

}  // namespace fastvi

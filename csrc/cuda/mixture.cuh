// What the kernels of a pass over a mixture share: tiles of results, 64 by 32, of which each thread of a block has a
// quad by a pair, and the rows and responsibilities that they are made of.
#pragma once

#include "../mixture.h"
#include "rows.cuh"

namespace fastvi {

inline constexpr int long_side = 64, short_side = 32, depth = 16, pairs_of_side = short_side / 2;
inline constexpr int quad_stride = long_side / 4 + 1, pair_stride = pairs_of_side + 1;  // odd, for the memory's banks
static_assert(long_side / 4 * pairs_of_side == block_threads);

template <class T>
using Quad = Vector<T, 4>;
template <class T>
using Pair = Vector<T, 2>;

// Where a thread's quad and its pair are in a tile.
FASTVI_DEVICE int own_quad() { return static_cast<int>(threadIdx.x) / pairs_of_side; }
FASTVI_DEVICE int own_pair() { return static_cast<int>(threadIdx.x) % pairs_of_side; }

// A thread's part of a tile.
template <class T>
struct Tile {
  T value[4][2] = {};

  FASTVI_DEVICE void add(int i, int j, T term) { value[i][j] += term; }
};

// Puts of(i, place) into a slab, i up to the side of a tile, place up to its depth; neighbouring threads have
// neighbours in i or in place.
template <bool along_side, int width, class T, class Of>
FASTVI_DEVICE void fill(Vector<T, width>* slab, const Of& of) {
  constexpr int side = width == 4 ? long_side : short_side;
#pragma unroll 2
  for (int n = static_cast<int>(threadIdx.x); n < side * depth; n += block_threads) {
    const int i = along_side ? n % side : n / depth, place = along_side ? n / side : n % depth;
    slab[place * (side / width + 1) + i / width].value[i % width] = of(i, place);
  }
}

// Adds all products of two slabs to a tile: sums.add(i, j, product).
template <class T, class Sums>
FASTVI_DEVICE void add_products(const Quad<T>* quads, const Pair<T>* pairs, Sums& sums) {
#pragma unroll 4
  for (int place = 0; place < depth; ++place) {
    const Quad<T> quad = quads[place * quad_stride + own_quad()];
    const Pair<T> pair = pairs[place * pair_stride + own_pair()];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) sums.add(i, j, quad.value[i] * pair.value[j]);
    }
  }
}

// The rows of a chunk, less the shift, if there is one.
template <class T>
struct ShiftedRows {
  const T* x;
  std::int64_t row_stride, column_stride;
  const T* shift;
  std::int64_t count, columns;

  // Zero beyond the last row or column.
  FASTVI_DEVICE T at(std::int64_t r, std::int64_t d) const {
    if (r >= count || d >= columns) return T(0);
    const T value = x[r * row_stride + d * column_stride];
    return shift == nullptr ? value : value - shift[d];
  }

  FASTVI_DEVICE void load(std::int64_t first_row, std::int64_t first_column, Quad<T>* quads) const {
    const auto value = [&](int i, int place) { return at(first_row + i, first_column + place); };
    if (row_stride < column_stride) {
      fill<true>(quads, value);
    } else {
      fill<false>(quads, value);
    }
  }
};

// What is summed of a row: responsibilities (rows, components) times weights, where they are not null.
template <class T>
struct Shares {
  const T *responsibilities, *weights;
  std::int64_t components;

  FASTVI_DEVICE T at(std::int64_t r, std::int64_t k) const {
    const T share = responsibilities[r * components + k];
    return weights == nullptr ? share : weights[r] * share;
  }
};

// Adds to the target's sums those over parts, (parts, sums), in their order: in float64 whatever the rows are.
template <class Group, class Target, class Out, class T>
__global__ void __launch_bounds__(block_threads)
    add_moments_kernel(std::int64_t sums, std::int64_t parts, const T* partial, Target target) {
  for (std::int64_t item = Group::first(); item < sums; item += Group::count()) {
    if (!target.wants(item)) continue;
    const Out sum = sum_of_parts<Group, Out>(
        parts, [&](std::int64_t part) { return static_cast<Out>(partial[part * sums + item]); });
    if (Group::lane() == 0) target.add(item, sum);
  }
}

template <class Target, class T>
void add_moments(std::int64_t sums, std::int64_t parts, const T* partial, const Target& target) {
  with_joining_group(parts, [&]<class Group>() {
    launch(add_moments_kernel<Group, Target, double, T>, sums, Group::per_block, sums, parts, partial, target);
  });
}

// Adds the sums over a chunk's rows to those of the pass. They need so much scratch memory where a chunk has no more
// rows.
template <class T>
std::int64_t partial_size(const MixturePass<T>& pass, std::int64_t rows);
template <class T>
void add_sums(const MixturePass<T>& pass, const ShiftedRows<T>& rows, const Shares<T>& shares, T* partial);

}  // namespace fastvi

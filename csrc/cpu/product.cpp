// The result is cut into tiles that fit the registers: up to six rows of up to four vectors. For the tiles of a panel,
// the columns of one vector group, the right matrix is packed, so that they read it in order; a transposed one is
// turned by shuffles while it is.
#include "product.h"

#include <algorithm>

#include "parallel.h"
#include "tile.h"
#include "vector.h"

namespace fastvi {
namespace {

#if defined(__AVX512F__)
constexpr int tile_vectors = 4;
#else
constexpr int tile_vectors = 2;
#endif
constexpr int tile_rows = 6;
constexpr std::int64_t inner_block = 512;   // of the inner dimension, how much is packed at once
constexpr std::int64_t unpacked_rows = 24;  // so few rows read a right matrix as it stands
constexpr std::int64_t least_part = 24;     // rows

template <class T>
constexpr int panel_columns = tile_vectors * lanes<T>;

// Copies `inner` rows of `width` columns from `column` of the right matrix, zeros behind them up to whole vectors.
template <class T>
void pack(const Matrix<T>& right, std::int64_t first, std::int64_t inner, std::int64_t column, std::int64_t width,
          T* panel) {
  constexpr std::int64_t step = panel_columns<T>, side = lanes<T>;
  const T* const from = right.data + first * right.row_stride + column * right.column_stride;
  if (right.column_stride == 1) {
    for (std::int64_t k = 0; k < inner; ++k) {
      T* const row = panel + k * step;
      std::copy_n(from + k * right.row_stride, width, row);
      std::fill(row + width, row + step, T(0));
    }
    return;
  }
  std::int64_t d = 0;
  for (; d + side <= width; d += side) {
    const T* const block = from + d * right.column_stride;
    std::int64_t k = 0;
    for (; k + side <= inner; k += side) {
      Vector<T> rows[lanes<T>];
      for (int i = 0; i < lanes<T>; ++i) rows[i] = load(block + i * right.column_stride + k);
      transpose_from<T, 1>(rows);
      for (int i = 0; i < lanes<T>; ++i) store(rows[i], panel + (k + i) * step + d);
    }
    for (; k < inner; ++k) {
      for (std::int64_t i = 0; i < side; ++i) panel[k * step + d + i] = block[i * right.column_stride + k];
    }
  }
  for (; d < step; ++d) {
    for (std::int64_t k = 0; k < inner; ++k) panel[k * step + d] = d < width ? from[d * right.column_stride + k] : T(0);
  }
}

// What the tiles of a panel read and write.
template <class T>
struct Panel {
  const T* left;
  std::int64_t left_row_stride, left_column_stride;
  const T* right;
  std::int64_t right_stride;
  T* out;
  std::int64_t out_stride;
  std::int64_t inner;
  bool adds;  // to what is there
};

template <class T, int height, int vectors>
void tile(const Panel<T>& panel, std::int64_t row) {
  constexpr int n = lanes<T>;
  Vector<T> sums[height][vectors];
  T* const out = panel.out + row * panel.out_stride;
  for (int i = 0; i < height; ++i) {
    for (int j = 0; j < vectors; ++j) {
      sums[i][j] = panel.adds ? load(out + i * panel.out_stride + j * n) : Vector<T>{};
    }
  }
  const T* left = panel.left + row * panel.left_row_stride;
  const T* right = panel.right;
  for (std::int64_t k = 0; k < panel.inner; ++k) {
    Vector<T> values[vectors];
    for (int j = 0; j < vectors; ++j) values[j] = load(right + j * n);
    for (int i = 0; i < height; ++i) {
      const Vector<T> factor = left[i * panel.left_row_stride] - Vector<T>{};
      for (int j = 0; j < vectors; ++j) sums[i][j] += factor * values[j];
    }
    left += panel.left_column_stride;
    right += panel.right_stride;
  }
  for (int i = 0; i < height; ++i) {
    for (int j = 0; j < vectors; ++j) store(sums[i][j], out + i * panel.out_stride + j * n);
  }
}

template <class T, int vectors>
void tile_of_height(int height, const Panel<T>& panel, std::int64_t row) {
  static_assert(tile_rows == 6);
  switch (height) {
    case 1:
      return tile<T, 1, vectors>(panel, row);
    case 2:
      return tile<T, 2, vectors>(panel, row);
    case 3:
      return tile<T, 3, vectors>(panel, row);
    case 4:
      return tile<T, 4, vectors>(panel, row);
    case 5:
      return tile<T, 5, vectors>(panel, row);
    default:
      return tile<T, 6, vectors>(panel, row);
  }
}

template <class T>
void tile_of(int height, int vectors, const Panel<T>& panel, std::int64_t row) {
  if constexpr (tile_vectors == 4) {
    if (vectors == 4) return tile_of_height<T, 4>(height, panel, row);
    if (vectors == 3) return tile_of_height<T, 3>(height, panel, row);
  }
  return vectors == 2 ? tile_of_height<T, 2>(height, panel, row) : tile_of_height<T, 1>(height, panel, row);
}

// Rows [begin, end) of `width` columns of the result from `column` on.
template <class T>
void multiply_panel(const Matrix<T>& left, const Matrix<T>& right, std::int64_t begin, std::int64_t end,
                    std::int64_t column, std::int64_t width, T* out) {
  alignas(64) T packed[inner_block * panel_columns<T>];
  alignas(64) T edge[tile_rows * panel_columns<T>];
  const int vectors = static_cast<int>(ceil_divide(width, lanes<T>));
  const bool is_whole = width == vectors * lanes<T>;
  const bool packs = !is_whole || right.column_stride != 1 || end - begin > unpacked_rows;
  const std::int64_t blocks = std::max<std::int64_t>(1, ceil_divide(left.columns, inner_block));
  const std::int64_t tiles = ceil_divide(end - begin, tile_rows), stride = right.columns;
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t first = part_start(left.columns, blocks, block);
    const std::int64_t inner = part_start(left.columns, blocks, block + 1) - first;
    const T* from = right.data + first * right.row_stride + column;
    if (packs) pack(right, first, inner, column, width, packed);
    Panel<T> panel{left.data + begin * left.row_stride + first * left.column_stride,
                   left.row_stride,
                   left.column_stride,
                   packs ? packed : from,
                   packs ? panel_columns<T> : right.row_stride,
                   out + begin * stride + column,
                   stride,
                   inner,
                   block > 0};
    for (std::int64_t i = 0; i < tiles; ++i) {
      const std::int64_t row = part_start(end - begin, tiles, i);
      const int height = static_cast<int>(part_start(end - begin, tiles, i + 1) - row);
      if (is_whole) {
        tile_of(height, vectors, panel, row);
        continue;
      }
      T* const target = panel.out + row * stride;
      Panel<T> apart = panel;
      apart.left += row * left.row_stride;
      apart.out = edge;
      apart.out_stride = panel_columns<T>;
      for (int r = 0; block > 0 && r < height; ++r)
        std::copy_n(target + r * stride, width, edge + r * apart.out_stride);
      tile_of(height, vectors, apart, 0);
      for (int r = 0; r < height; ++r) std::copy_n(edge + r * apart.out_stride, width, target + r * stride);
    }
  }
}

}  // namespace

template <class T>
void multiply(const Matrix<T>& left, const Matrix<T>& right, T* out) {
  const std::int64_t vectors = ceil_divide(right.columns, lanes<T>), panels = ceil_divide(vectors, tile_vectors);
  const auto work = static_cast<std::int64_t>(static_cast<double>(left.rows * right.columns) *
                                              static_cast<double>(left.columns) * nanoseconds_per_product);
  // Rows are shared out only where there are more threads than panels, since each part packs the panel for itself.
  const std::int64_t wanted = omp_get_max_threads() / std::max<std::int64_t>(1, panels);
  const std::int64_t parts = std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(1, left.rows / least_part));
  parallel_for(panels * parts, work, [&](std::int64_t item) {
    const std::int64_t panel = item / parts, part = item % parts;
    const std::int64_t column = part_start(vectors, panels, panel) * lanes<T>;
    const std::int64_t end = std::min(part_start(vectors, panels, panel + 1) * lanes<T>, right.columns);
    multiply_panel(left, right, part_start(left.rows, parts, part), part_start(left.rows, parts, part + 1), column,
                   end - column, out);
  });
}

template void multiply(const Matrix<float>&, const Matrix<float>&, float*);
template void multiply(const Matrix<double>&, const Matrix<double>&, double*);

}  // namespace fastvi

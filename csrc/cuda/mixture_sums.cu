// The second half of a pass over a mixture: sums over rows, as tiles of components, or columns, by columns. Each part
// of the rows is a block's, and the parts' sums are added in their order.
#include <algorithm>

#include "mixture.cuh"

namespace fastvi {
namespace {

// Sums over rows, and how rows are cut into parts, by the shape alone. For counts and sums of y (and of squares) there
// is one matrix of components by 1, y (and squares); for products one of columns by columns for each component.
struct MomentTiles {
  std::int64_t matrices, height, width, strips, tiles, most, length, parts;

  template <class T>
  static MomentTiles of_dots(const MixturePass<T>& pass, std::int64_t rows) {
    return {1, pass.components, 1 + pass.columns * (pass.moments == MixtureMoments::squares ? 2 : 1), rows};
  }

  template <class T>
  static MomentTiles of_products(const MixturePass<T>& pass, std::int64_t rows) {
    return {pass.components, pass.columns, pass.columns, rows};
  }

  MomentTiles(std::int64_t of_matrices, std::int64_t of_height, std::int64_t of_width, std::int64_t rows)
      : matrices(of_matrices), height(of_height), width(of_width), strips(ceil_divide(of_width, long_side)) {
    tiles = matrices * ceil_divide(height, short_side) * strips;
    constexpr std::int64_t partial_numbers = std::int64_t{1} << 23, enough_blocks = 512, least_part = 512;
    most = std::clamp<std::int64_t>(
        std::min({ceil_divide(enough_blocks, tiles), rows / least_part, partial_numbers / sums()}), 1, most_parts);
    length = ceil_divide(ceil_divide(rows, most), depth) * depth;
    parts = ceil_divide(rows, length);
  }

  FASTVI_HD std::int64_t sums() const { return matrices * height * width; }
};

// A tile of sums of any length.
template <class T>
class LongTile {
 public:
  FASTVI_DEVICE void add(int i, int j, T term) { sums_.add(place(i, j), term); }
  FASTVI_DEVICE void next() { sums_.next(); }
  FASTVI_DEVICE T result(int i, int j) const { return sums_.result(place(i, j)); }

 private:
  static FASTVI_DEVICE std::size_t place(int i, int j) { return static_cast<std::size_t>(2 * i + j); }

  LongSums<T, 8> sums_;
};

// Sums of each part of the rows, (parts, sums). Of products nothing below the diagonal is wanted.
template <class T, bool products>
__global__ void __launch_bounds__(block_threads, sizeof(T) == 8 ? 2 : 4)
    moments_kernel(MomentTiles tiles, ShiftedRows<T> rows, Shares<T> shares, T* partial) {
  FASTVI_SHARED(Quad<T>, right, depth * quad_stride);
  FASTVI_SHARED(Pair<T>, left, depth * pair_stride);
  for (std::int64_t item = blockIdx.x; item < tiles.tiles * tiles.parts; item += gridDim.x) {
    const Place of_part(item, tiles.tiles), of_strip(of_part.inner, tiles.strips);
    const Place of_matrix(of_strip.outer, tiles.tiles / tiles.strips / tiles.matrices);
    const std::int64_t first = of_matrix.inner * short_side, first_column = of_strip.inner * long_side;
    if (products && first_column + long_side <= first) continue;
    const std::int64_t begin = of_part.outer * tiles.length, rest = begin + tiles.length;
    const std::int64_t end = rest < rows.count ? rest : rows.count;
    LongTile<T> sums;
    for (std::int64_t r = begin; r < end; r += depth) {
      fill<true>(right, [&](int i, int place) {
        const std::int64_t column = first_column + i;
        if (r + place >= end) return T(0);
        if constexpr (products) {
          return rows.at(r + place, column);
        } else {
          if (column == 0) return T(1);
          const bool is_square = column > rows.columns;
          const T value = rows.at(r + place, column - 1 - (is_square ? rows.columns : 0));
          return is_square ? value * value : value;
        }
      });
      fill<true>(left, [&](int i, int place) {
        if (r + place >= end || first + i >= tiles.height) return T(0);
        if constexpr (products) {
          return shares.at(r + place, of_matrix.outer) * rows.at(r + place, first + i);
        } else {
          return shares.at(r + place, first + i);
        }
      });
      __syncthreads();
      add_products(right, left, sums);
      sums.next();
      __syncthreads();
    }
    T* const out = partial + of_part.outer * tiles.sums() + of_matrix.outer * tiles.height * tiles.width;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const std::int64_t row = first + 2 * own_pair() + j, column = first_column + 4 * own_quad() + i;
        if (row < tiles.height && column < tiles.width) {
          out[row * tiles.width + column] = sums.result(i, j);
        }
      }
    }
  }
}

// Where sum number i goes.
template <class Out>
struct Moments {
  std::int64_t columns, width;
  Out *count, *first, *second;

  static FASTVI_DEVICE bool wants(std::int64_t) { return true; }
  FASTVI_DEVICE void add(std::int64_t i, Out value) const {
    const Place place(i, width);
    const std::int64_t k = place.outer, column = place.inner;
    Out* const target = column == 0         ? count + k
                        : column <= columns ? first + k * columns + column - 1
                                            : second + k * columns + column - 1 - columns;
    *target += value;
  }
};

template <class Out>
struct Products {
  std::int64_t columns;
  Out* second;

  FASTVI_DEVICE bool wants(std::int64_t i) const {
    const Place place(i, columns);
    return place.inner >= Place(place.outer, columns).inner;
  }
  FASTVI_DEVICE void add(std::int64_t i, Out value) const {
    const Place place(i, columns), row(place.outer, columns);
    Out* const matrix = second + row.outer * columns * columns;
    const Out sum = matrix[row.inner * columns + place.inner] + value;
    matrix[row.inner * columns + place.inner] = sum;
    matrix[place.inner * columns + row.inner] = sum;
  }
};

}  // namespace

template <class T>
std::int64_t partial_size(const MixturePass<T>& pass, std::int64_t rows) {
  if (pass.moments == MixtureMoments::none) return 0;
  const MomentTiles dots = MomentTiles::of_dots(pass, rows);
  if (pass.moments != MixtureMoments::products) return dots.most * dots.sums();
  const MomentTiles products = MomentTiles::of_products(pass, rows);
  return std::max(dots.most * dots.sums(), products.most * products.sums());
}

template <class T>
void add_sums(const MixturePass<T>& pass, const ShiftedRows<T>& rows, const Shares<T>& shares, T* partial) {
  const MomentTiles dots = MomentTiles::of_dots(pass, rows.count);
  launch(moments_kernel<T, false>, dots.tiles * dots.parts, 1, dots, rows, shares, partial);
  add_moments(dots.sums(), dots.parts, partial,
              Moments<double>{rows.columns, dots.width, pass.count, pass.first, pass.second});
  if (pass.moments != MixtureMoments::products) return;
  const MomentTiles products = MomentTiles::of_products(pass, rows.count);
  launch(moments_kernel<T, true>, products.tiles * products.parts, 1, products, rows, shares, partial);
  add_moments(products.sums(), products.parts, partial, Products<double>{rows.columns, pass.second});
}

template std::int64_t partial_size(const MixturePass<float>&, std::int64_t);
template std::int64_t partial_size(const MixturePass<double>&, std::int64_t);
template void add_sums(const MixturePass<float>&, const ShiftedRows<float>&, const Shares<float>&, float*);
template void add_sums(const MixturePass<double>&, const ShiftedRows<double>&, const Shares<double>&, double*);

}  // namespace fastvi

// The second half of a pass over a mixture: sums over rows, as tiles of dot products of responsibilities with columns,
// or of columns with columns. One thread makes each sum, over all blocks in their order.
#include <algorithm>
#include <cmath>

#include "mixture_block.h"
#include "parallel.h"

namespace fastvi {
namespace {

#if defined(__AVX512F__)
constexpr int dot_height = 6, square_height = 3;
#else
constexpr int dot_height = 3, square_height = 1;
#endif
constexpr int dot_width = 4;
constexpr std::int64_t held_rows = 256;  // rows that are gathered before their products are added
constexpr double nanoseconds_per_product = 0.03;

// Rows whose share in a component is smaller have no part in its products: all of them together are less than the
// rounding of one row.
template <class T>
constexpr T least_share = sizeof(T) == 8 ? T(1e-24) : T(1e-14);

template <class T>
double sum_lanes(const Vector<T>& vector) {
  double sum = 0;
  for (int lane = 0; lane < lanes<T>; ++lane) sum += static_cast<double>(vector[lane]);
  return sum;
}

// Sums of components [k, k + height) with dot_width columns from d on; with those of the first columns, the counts.
template <class T, bool squares, int height>
void dot_tile(const MixturePass<T>& pass, const Block<T>* blocks, std::int64_t count, std::int64_t k, std::int64_t d) {
  Vector<T> counts[height] = {}, sums[height][dot_width] = {};
  [[maybe_unused]] Vector<T> of_squares[height][dot_width] = {};
  for (std::int64_t b = 0; b < count; ++b) {
    const T* columns[dot_width];
    for (int j = 0; j < dot_width; ++j) columns[j] = blocks[b].column(std::min(d + j, pass.columns - 1));
    const T* const l = blocks[b].component(k);
    const std::int64_t stride = blocks[b].stride;
    for (std::int64_t r = 0; r < blocks[b].padded; r += lanes<T>) {
      Vector<T> values[dot_width];
      [[maybe_unused]] Vector<T> squared[dot_width];
      for (int j = 0; j < dot_width; ++j) {
        values[j] = load(columns[j] + r);
        if constexpr (squares) squared[j] = values[j] * values[j];
      }
      for (int i = 0; i < height; ++i) {
        const Vector<T> weight = load(l + i * stride + r);
        for (int j = 0; j < dot_width; ++j) {
          sums[i][j] += weight * values[j];
          if constexpr (squares) of_squares[i][j] += weight * squared[j];
        }
      }
    }
    for (int i = 0; d == 0 && i < height; ++i) {
      for (std::int64_t r = 0; r < blocks[b].padded; r += lanes<T>) counts[i] += load(l + i * stride + r);
    }
  }
  for (int i = 0; i < height; ++i) {
    if (d == 0) pass.count[k + i] += sum_lanes<T>(counts[i]);
    for (int j = 0; j < dot_width && d + j < pass.columns; ++j) {
      const std::int64_t place = (k + i) * pass.columns + d + j;
      pass.first[place] += sum_lanes<T>(sums[i][j]);
      if constexpr (squares) pass.second[place] += sum_lanes<T>(of_squares[i][j]);
    }
  }
}

// Calls body(item) for all items, on several threads where they share them.
template <class Body>
void for_items(bool shares, std::int64_t count, double nanoseconds, const Body& body) {
  if (shares) return parallel_for(count, static_cast<std::int64_t>(nanoseconds), body);
  for_range(0, count, body);
}

template <class T, bool squares>
void add_dots(const MixturePass<T>& pass, const Block<T>* blocks, std::int64_t count, bool shares) {
  constexpr int most = squares ? square_height : dot_height;
  const std::int64_t strips = ceil_divide(pass.columns, dot_width), tiles = ceil_divide(pass.components, most);
  const double products = static_cast<double>(count * blocks[0].padded * pass.components * pass.columns);
  const double work = products * (squares ? 2.0 : 1.0) * nanoseconds_per_product;
  for_items(shares, tiles * strips, work, [&](std::int64_t item) {
    const std::int64_t k = item / strips * most, d = item % strips * dot_width;
    with_height<most>(pass.components - k, [&]<int height>(std::integral_constant<int, height>) {
      dot_tile<T, squares, height>(pass, blocks, count, k, d);
    });
  });
}

// The products of one component, or of some of its tiles: [i, i + dot_height) with all dot_widths of columns from about
// i on.
template <class T>
class Products {
 public:
  static constexpr std::int64_t tile_numbers = dot_height * dot_width * lanes<T>;
  static constexpr std::int64_t stride = held_rows + lanes<T>;

  static std::int64_t tiles(std::int64_t columns) { return ceil_divide(columns, dot_height); }
  static std::int64_t first_column(std::int64_t tile) { return tile * dot_height / dot_width * dot_width; }
  static std::int64_t widths(std::int64_t columns, std::int64_t tile) {
    return ceil_divide(columns - first_column(tile), dot_width);
  }
  // Sums of all tiles; rows that are gathered, with their weights; weighted columns.
  static std::int64_t numbers(std::int64_t columns) {
    std::int64_t sums = 0;
    for (std::int64_t tile = 0; tile < tiles(columns); ++tile) sums += widths(columns, tile) * tile_numbers;
    return sums + (columns + 1 + dot_height) * stride;
  }

  Products(const MixturePass<T>& pass, std::int64_t component, std::int64_t first_tile, std::int64_t last_tile,
           T* scratch)
      : pass_(pass), component_(component), first_tile_(first_tile), last_tile_(last_tile) {
    std::int64_t size = 0;
    for (std::int64_t tile = first_tile; tile < last_tile; ++tile) size += widths(pass.columns, tile) * tile_numbers;
    sums_ = scratch;
    held_ = sums_ + size;
    weights_ = held_ + pass.columns * stride;
    weighted_ = weights_ + stride;
    std::fill_n(sums_, size, T(0));
  }

  void add(const Block<T>& block) {
    const T* const l = block.component(component_);
    std::int32_t chosen[held_rows];
    std::int64_t count = 0;
    for (std::int64_t r = 0; r < block.count; ++r) {
      chosen[count] = static_cast<std::int32_t>(r);
      count += std::fabs(l[r]) > least_share<T> * block.weight[r] ? 1 : 0;
    }
    if (2 * count > block.count) return add_rows(block.y, block.stride, l, block.padded);
    if (num_held_ + count > held_rows) flush();
    for (std::int64_t d = 0; d < pass_.columns; ++d) {
      const T* const from = block.column(d);
      T* const to = held_ + d * stride + num_held_;
      for (std::int64_t i = 0; i < count; ++i) to[i] = from[chosen[i]];
    }
    for (std::int64_t i = 0; i < count; ++i) weights_[num_held_ + i] = l[chosen[i]];
    num_held_ += count;
  }

  void flush() {
    if (num_held_ == 0) return;
    const std::int64_t padded = ceil_divide(num_held_, lanes<T>) * lanes<T>;
    for (std::int64_t d = 0; d < pass_.columns; ++d) {
      std::fill(held_ + d * stride + num_held_, held_ + d * stride + padded, T(0));
    }
    std::fill(weights_ + num_held_, weights_ + padded, T(0));
    add_rows(held_, stride, weights_, padded);
    num_held_ = 0;
  }

  void write() const {
    const std::int64_t columns = pass_.columns;
    double* const out = pass_.second + component_ * columns * columns;
    const T* from = sums_;
    for (std::int64_t tile = first_tile_; tile < last_tile_; ++tile) {
      for (std::int64_t j = first_column(tile); j < columns; j += dot_width) {
        for (std::int64_t place = 0; place < dot_height * dot_width; ++place, from += lanes<T>) {
          const std::int64_t row = tile * dot_height + place / dot_width, column = j + place % dot_width;
          if (row > column || column >= columns) continue;
          out[row * columns + column] += sum_lanes<T>(load(from));
          out[column * columns + row] = out[row * columns + column];
        }
      }
    }
  }

 private:
  void add_rows(const T* y, std::int64_t y_stride, const T* weights, std::int64_t rows) {
    const std::int64_t last = pass_.columns - 1;
    T* sums = sums_;
    for (std::int64_t tile = first_tile_; tile < last_tile_; ++tile) {
      for (int i = 0; i < dot_height; ++i) {
        const T* const column = y + std::min(tile * dot_height + i, last) * y_stride;
        T* const to = weighted_ + i * stride;
        for (std::int64_t r = 0; r < rows; r += lanes<T>) store(load(weights + r) * load(column + r), to + r);
      }
      for (std::int64_t j = first_column(tile); j <= last; j += dot_width, sums += tile_numbers) {
        const T* columns[dot_width];
        for (int i = 0; i < dot_width; ++i) columns[i] = y + std::min(j + i, last) * y_stride;
        add_tile(columns, rows, sums);
      }
    }
  }

  void add_tile(const T* const (&columns)[dot_width], std::int64_t rows, T* out) const {
    constexpr int n = lanes<T>;
    Vector<T> sums[dot_height][dot_width];
    for (int i = 0; i < dot_height; ++i) {
      for (int j = 0; j < dot_width; ++j) sums[i][j] = load(out + (i * dot_width + j) * n);
    }
    for (std::int64_t r = 0; r < rows; r += n) {
      Vector<T> values[dot_width];
      for (int j = 0; j < dot_width; ++j) values[j] = load(columns[j] + r);
      for (int i = 0; i < dot_height; ++i) {
        const Vector<T> weighted = load(weighted_ + i * stride + r);
        for (int j = 0; j < dot_width; ++j) sums[i][j] += weighted * values[j];
      }
    }
    for (int i = 0; i < dot_height; ++i) {
      for (int j = 0; j < dot_width; ++j) store(sums[i][j], out + (i * dot_width + j) * n);
    }
  }

  const MixturePass<T>& pass_;
  std::int64_t component_, first_tile_, last_tile_, num_held_ = 0;
  T *sums_, *held_, *weights_, *weighted_;
};

template <class T>
void add_products(const MixturePass<T>& pass, const Block<T>* blocks, std::int64_t count, T* scratch, bool shares) {
  // A component is one thread's, or for few components its tiles are shared out.
  const std::int64_t tiles = Products<T>::tiles(pass.columns), size = scratch_size(pass);
  const std::int64_t parts = !shares || pass.components >= 16 ? 1 : tiles;
  const double products = static_cast<double>(count * blocks[0].padded * pass.components) *
                          static_cast<double>(pass.columns * (pass.columns / 2 + 1));
  for_items(shares, pass.components * parts, products * nanoseconds_per_product, [&](std::int64_t item) {
    const std::int64_t k = item / parts, part = item % parts;
    Products<T> found(pass, k, tiles * part / parts, tiles * (part + 1) / parts,
                      shares ? scratch + size * omp_get_thread_num() : scratch);
    for (std::int64_t b = 0; b < count; ++b) found.add(blocks[b]);
    found.flush();
    found.write();
  });
}

}  // namespace

template <class T>
std::int64_t scratch_size(const MixturePass<T>& pass) {
  return pass.moments == MixtureMoments::products ? Products<T>::numbers(pass.columns) : 0;
}

template <class T>
void add_sums(const MixturePass<T>& pass, const Block<T>* blocks, std::int64_t count, T* scratch, bool shares) {
  if (pass.moments == MixtureMoments::squares) return add_dots<T, true>(pass, blocks, count, shares);
  add_dots<T, false>(pass, blocks, count, shares);
  if (pass.moments == MixtureMoments::products) add_products(pass, blocks, count, scratch, shares);
}

template std::int64_t scratch_size(const MixturePass<float>&);
template std::int64_t scratch_size(const MixturePass<double>&);
template void add_sums(const MixturePass<float>&, const Block<float>*, std::int64_t, float*, bool);
template void add_sums(const MixturePass<double>&, const Block<double>*, std::int64_t, double*, bool);

}  // namespace fastvi

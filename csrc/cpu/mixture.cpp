// Rows are turned into columns of a block, so that vectors hold rows: log densities are tiles of components by rows
// whose inner loop runs over columns, log-sum-exp is a pass down the components, and sums over rows are tiles of
// dot products. Blocks are worked on in groups: first each block by itself, then each sum over all blocks of the group.
// Threads have parts of the blocks with sums of their own or, where sums are too large for that, share each group.
#include "../mixture.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "../formulas/log.h"
#include "mixture_block.h"
#include "parallel.h"

namespace fastvi {
namespace {

#if defined(__AVX512F__)
constexpr int row_vectors = 4;
#else
constexpr int row_vectors = 2;
#endif
constexpr int tile_height = 6;
constexpr std::int64_t most_block_rows = 256, group_bytes = 2 << 20, least_group = 8, most_group = 32;
constexpr std::int64_t small_group_bytes = 1 << 20, most_small_group = 16;  // of a part, which is one thread's
constexpr std::int64_t least_parts = 8, most_parts = 32, most_partial_bytes = 64 << 20;
constexpr double nanoseconds_per_product = 0.03;

template <class T>
constexpr std::int64_t row_step = row_vectors * lanes<T>;

// How rows are cut, by the problem's shape alone.
template <class T>
struct Cut {
  std::int64_t block_rows, stride, blocks, group, small_group;

  explicit Cut(const MixturePass<T>& pass) {
    const std::int64_t numbers = pass.columns + pass.components, size = sizeof(T);
    const std::int64_t wanted = numbers * most_block_rows * size * least_group > 4 * group_bytes ? 64 : most_block_rows;
    block_rows = std::max(row_step<T>, std::min(wanted, ceil_divide(pass.rows, row_step<T>) * row_step<T>));
    stride = block_rows + vector_bytes / size;  // else all columns would lie in the same lines of the cache
    blocks = ceil_divide(pass.rows, block_rows);
    group = std::clamp(group_bytes / (numbers * block_rows * size), least_group, most_group);
    small_group = std::clamp<std::int64_t>(small_group_bytes / (numbers * block_rows * size), 1, most_small_group);
  }
};

template <class T>
void load_rows(const MixturePass<T>& pass, const Block<T>& block) {
  const T* const from = pass.x + block.start * pass.row_stride;
  constexpr int n = lanes<T>;
  std::int64_t done_columns = 0;
  const std::int64_t done_rows = block.count / n * n;
  if (pass.column_stride == 1) {
    for (; done_columns + n <= pass.columns; done_columns += n) {
      const Vector<T> shift = load(pass.shift + done_columns);
      for (std::int64_t r = 0; r < done_rows; r += n) {
        Vector<T> square[lanes<T>];
        for (int i = 0; i < n; ++i) square[i] = load(from + (r + i) * pass.row_stride + done_columns) - shift;
        transpose_from<T, 1>(square);
        for (int i = 0; i < n; ++i) store(square[i], block.column(done_columns + i) + r);
      }
    }
  }
  for (std::int64_t d = 0; d < pass.columns; ++d) {
    T* const to = block.column(d);
    for (std::int64_t r = d < done_columns ? done_rows : 0; r < block.count; ++r) {
      to[r] = from[r * pass.row_stride + d * pass.column_stride] - pass.shift[d];
    }
    std::fill(to + block.count, to + block.padded, T(0));
  }
}

// l[k] of components by a product of y and parameters (`linear`), or by squares of scaled differences; a null scale
// stands for ones.
template <class T, bool linear, bool scaled, int height>
void density_tile(const MixturePass<T>& pass, const Block<T>& block, const T* y, std::int64_t k, std::int64_t r) {
  constexpr int n = lanes<T>;
  Vector<T> sums[height][row_vectors] = {};
  const T* const location = pass.location + k * pass.columns;
  [[maybe_unused]] const T* const scale = scaled ? pass.scale + k * pass.columns : nullptr;
  for (std::int64_t d = 0; d < pass.columns; ++d) {
    Vector<T> values[row_vectors];
    for (int j = 0; j < row_vectors; ++j) values[j] = load(y + d * block.stride + r + j * n);
    for (int i = 0; i < height; ++i) {
      const Vector<T> at = location[i * pass.columns + d] - Vector<T>{};
      if constexpr (linear) {
        for (int j = 0; j < row_vectors; ++j) sums[i][j] += at * values[j];
      } else {
        for (int j = 0; j < row_vectors; ++j) {
          Vector<T> difference;
          if constexpr (scaled) {
            difference = scale[i * pass.columns + d] * values[j] - at;
          } else {
            difference = values[j] - at;
          }
          sums[i][j] += difference * difference;
        }
      }
    }
  }
  for (int i = 0; i < height; ++i) {
    const T offset = pass.offset[k + i];
    for (int j = 0; j < row_vectors; ++j) {
      const Vector<T> found = linear ? offset + sums[i][j] : offset - T(0.5) * sums[i][j];
      store(found, block.component(k + i) + r + j * n);
    }
  }
}

template <class T, bool linear, bool scaled>
void density_tiles(const MixturePass<T>& pass, const Block<T>& block, const T* y) {
  for (std::int64_t k = 0; k < pass.components; k += tile_height) {
    for (std::int64_t r = 0; r < block.padded; r += row_step<T>) {
      with_height<tile_height>(pass.components - k, [&]<int height>(std::integral_constant<int, height>) {
        density_tile<T, linear, scaled, height>(pass, block, y, k, r);
      });
    }
  }
}

// Columns [e, e + height) of y U, U upper triangular, for row_step rows: they are stored, less `location`, or their
// squares are added to `squares`.
template <class T, int height>
[[gnu::always_inline]] inline void triangular_tile(const MixturePass<T>& pass, const Block<T>& block, const T* upper,
                                                   const T* location, std::int64_t e, std::int64_t r,
                                                   Vector<T> (&squares)[row_vectors], T* out) {
  constexpr int n = lanes<T>;
  Vector<T> sums[height][row_vectors];
  for (int i = 0; i < height; ++i) {
    for (int j = 0; j < row_vectors; ++j) sums[i][j] = (location == nullptr ? T(0) : -location[e + i]) - Vector<T>{};
  }
  const T* factors = upper + e;
  for (std::int64_t d = 0; d < e + height; ++d) {
    Vector<T> values[row_vectors];
    for (int j = 0; j < row_vectors; ++j) values[j] = load(block.column(d) + r + j * n);
    for (int i = 0; i < height; ++i) {
      const Vector<T> factor = factors[i] - Vector<T>{};
      for (int j = 0; j < row_vectors; ++j) sums[i][j] += factor * values[j];
    }
    factors += pass.columns;
  }
  for (int i = 0; i < height; ++i) {
    for (int j = 0; j < row_vectors; ++j) {
      if (out != nullptr) {
        store(sums[i][j], out + (e + i) * block.stride + r + j * n);
      } else {
        squares[j] += sums[i][j] * sums[i][j];
      }
    }
  }
}

// All columns of y U for row_step rows.
template <class T>
void triangular(const MixturePass<T>& pass, const Block<T>& block, const T* upper, const T* location, std::int64_t r,
                Vector<T> (&squares)[row_vectors], T* out) {
  for (std::int64_t e = 0; e < pass.columns; e += tile_height) {
    with_height<tile_height>(pass.columns - e, [&]<int height>(std::integral_constant<int, height>) {
      triangular_tile<T, height>(pass, block, upper, location, e, r, squares, out);
    });
  }
}

template <class T>
void find_densities(const MixturePass<T>& pass, const Block<T>& block) {
  switch (pass.kind) {
    case MixtureKind::linear:
      return density_tiles<T, true, false>(pass, block, block.y);
    case MixtureKind::diagonal:
      return density_tiles<T, false, true>(pass, block, block.y);
    case MixtureKind::tied: {
      Vector<T> none[row_vectors] = {};
      for (std::int64_t r = 0; r < block.padded; r += row_step<T>) {
        triangular<T>(pass, block, pass.scale, nullptr, r, none, block.whitened);
      }
      return density_tiles<T, false, false>(pass, block, block.whitened);
    }
    case MixtureKind::full:
      for (std::int64_t r = 0; r < block.padded; r += row_step<T>) {
        for (std::int64_t k = 0; k < pass.components; ++k) {
          Vector<T> squares[row_vectors] = {};
          triangular<T>(pass, block, pass.scale + k * pass.columns * pass.columns, pass.location + k * pass.columns, r,
                        squares, nullptr);
          for (int j = 0; j < row_vectors; ++j) {
            store(pass.offset[k] - T(0.5) * squares[j], block.component(k) + r + j * lanes<T>);
          }
        }
      }
  }
}

template <class T>
void write_rows(const MixturePass<T>& pass, const Block<T>& block, T* out) {
  if (out == nullptr) return;
  for (std::int64_t k = 0; k < pass.components; ++k) {
    for (std::int64_t r = 0; r < block.count; ++r) out[(block.start + r) * pass.components + k] = block.component(k)[r];
  }
}

// Turns l from log densities into weight times responsibility; returns the sum of weight times log-likelihood.
template <class T>
double find_responsibilities(const MixturePass<T>& pass, const Block<T>& block) {
  alignas(64) T largest[most_block_rows], sum[most_block_rows];
  const T* const weight = block.weight;
  const std::int64_t padded = block.padded;
  std::fill_n(largest, padded, -infinity<T>);
  std::fill_n(sum, padded, T(0));
  for (std::int64_t k = 0; k < pass.components; ++k) {
    const T* const l = block.component(k);
#pragma omp simd
    for (std::int64_t r = 0; r < padded; ++r) largest[r] = l[r] > largest[r] ? l[r] : largest[r];
  }
#pragma omp simd
  for (std::int64_t r = 0; r < padded; ++r) largest[r] = largest[r] == -infinity<T> ? T(0) : largest[r];
  for (std::int64_t k = 0; k < pass.components; ++k) {
    T* const l = block.component(k);
#pragma omp simd
    for (std::int64_t r = 0; r < padded; ++r) {
      l[r] = exp_nonpositive(l[r] - largest[r]);
      sum[r] += l[r];
    }
  }
#pragma omp simd
  for (std::int64_t r = 0; r < padded; ++r) {
    largest[r] += log(sum[r]);
    sum[r] = sum[r] == T(0) ? T(0) : T(1) / sum[r];
  }
  if (pass.log_likelihood != nullptr) std::copy_n(largest, block.count, pass.log_likelihood + block.start);
  double total = 0;
  for (std::int64_t r = 0; r < block.count; ++r) {
    if (weight[r] != T(0)) total += static_cast<double>(weight[r]) * static_cast<double>(largest[r]);
  }
  if (pass.responsibilities != nullptr) {
    for (std::int64_t k = 0; k < pass.components; ++k) {
      T* const l = block.component(k);
      for (std::int64_t r = 0; r < padded; ++r) l[r] *= sum[r];
    }
    write_rows(pass, block, pass.responsibilities);
    std::fill_n(sum, padded, T(1));
  }
  for (std::int64_t k = 0; pass.moments != MixtureMoments::none && k < pass.components; ++k) {
    T* const l = block.component(k);
#pragma omp simd
    for (std::int64_t r = 0; r < padded; ++r) l[r] *= sum[r] * weight[r];
  }
  return total;
}

template <class T>
void take_given(const MixturePass<T>& pass, const Block<T>& block) {
  for (std::int64_t k = 0; k < pass.components; ++k) {
    T* const l = block.component(k);
    for (std::int64_t r = 0; r < block.count; ++r) {
      l[r] = pass.given[(block.start + r) * pass.components + k] * block.weight[r];
    }
    std::fill(l + block.count, l + block.padded, T(0));
  }
}

template <class T>
double first_half(const MixturePass<T>& pass, const Block<T>& block) {
  load_rows(pass, block);
  for (std::int64_t r = 0; r < block.padded; ++r) {
    block.weight[r] = r >= block.count ? T(0) : pass.weights == nullptr ? T(1) : pass.weights[block.start + r];
  }
  if (pass.given == nullptr || pass.log_densities != nullptr) {
    find_densities(pass, block);
    write_rows(pass, block, pass.log_densities);
  }
  if (pass.given == nullptr) return find_responsibilities(pass, block);
  take_given(pass, block);
  return 0;
}

// Memory for the blocks of one group.
template <class T>
class Group {
 public:
  Group(const MixturePass<T>& pass, const Cut<T>& cut, std::int64_t held)
      : cut_(cut),
        columns_(pass.columns),
        components_(pass.components),
        is_tied_(pass.kind == MixtureKind::tied),
        y_(held * pass.columns * cut.stride),
        l_(held * pass.components * cut.stride),
        weight_(held * cut.stride),
        whitened_(is_tied_ ? held * pass.columns * cut.stride : 0),
        blocks_(static_cast<std::size_t>(held)) {}

  // The `count` blocks from `first` on.
  const Block<T>* cut_from(std::int64_t rows, std::int64_t first, std::int64_t count) {
    const std::int64_t whole = columns_ * cut_.stride;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t start = (first + i) * cut_.block_rows, own = std::min(cut_.block_rows, rows - start);
      blocks_[static_cast<std::size_t>(i)] = {start,
                                              own,
                                              cut_.stride,
                                              ceil_divide(own, row_step<T>) * row_step<T>,
                                              y_.get() + i * whole,
                                              l_.get() + i * components_ * cut_.stride,
                                              weight_.get() + i * cut_.stride,
                                              whitened_.get() + (is_tied_ ? i * whole : 0)};
    }
    return blocks_.data();
  }

 private:
  Cut<T> cut_;
  std::int64_t columns_, components_;
  bool is_tied_;
  Buffer<T> y_, l_, weight_, whitened_;
  std::vector<Block<T>> blocks_;
};

template <class T>
std::int64_t second_size(const MixturePass<T>& pass) {
  const std::int64_t wide = pass.components * pass.columns;
  return pass.moments == MixtureMoments::products  ? wide * pass.columns
         : pass.moments == MixtureMoments::squares ? wide
                                                   : 0;
}

// All blocks, one group after the other: threads share the blocks, then the sums.
template <class T>
void pass_by_groups(const MixturePass<T>& pass, const Cut<T>& cut, double nanoseconds, double* totals) {
  const std::int64_t held = std::min(cut.group, cut.blocks);
  Group<T> group(pass, cut, held);
  const bool sums = pass.moments != MixtureMoments::none;
  const Buffer<T> scratch(sums ? scratch_size(pass) * omp_get_max_threads() : 0);
  for (std::int64_t begin = 0; begin < cut.blocks; begin += held) {
    const std::int64_t count = std::min(held, cut.blocks - begin);
    const Block<T>* const blocks = group.cut_from(pass.rows, begin, count);
    parallel_for(count, static_cast<std::int64_t>(nanoseconds * static_cast<double>(count)),
                 [&](std::int64_t i) { totals[begin + i] = first_half(pass, blocks[i]); });
    if (sums) add_sums(pass, blocks, count, scratch.get(), true);
  }
}

// Parts of the blocks, each with sums of its own, which are added up in their order at the end: threads meet once.
template <class T>
void pass_by_parts(const MixturePass<T>& pass, const Cut<T>& cut, std::int64_t parts, double nanoseconds,
                   double* totals) {
  const bool sums = pass.moments != MixtureMoments::none;
  const std::int64_t held = std::min(cut.small_group, ceil_divide(cut.blocks, parts));
  const std::int64_t wide = pass.components * pass.columns, second = second_size(pass);
  const std::int64_t size = sums ? pass.components + wide + second : 0;
  std::vector<double> partial(static_cast<std::size_t>(parts * size));
  std::vector<Group<T>> groups;
  const auto threads = static_cast<std::size_t>(std::min<std::int64_t>(parts, omp_get_max_threads()));
  groups.reserve(threads);
  for (std::size_t i = 0; i < threads; ++i) groups.emplace_back(pass, cut, held);
  const std::int64_t scratch_numbers = sums ? scratch_size(pass) : 0;
  const Buffer<T> scratch(scratch_numbers * static_cast<std::int64_t>(threads));
  parallel_for(parts, static_cast<std::int64_t>(nanoseconds * static_cast<double>(cut.blocks)), [&](std::int64_t part) {
    const auto thread = static_cast<std::size_t>(omp_get_thread_num());
    MixturePass<T> own = pass;
    own.count = partial.data() + part * size;
    own.first = own.count + pass.components;
    own.second = own.first + wide;
    const std::int64_t end = cut.blocks * (part + 1) / parts;
    for (std::int64_t begin = cut.blocks * part / parts; begin < end; begin += held) {
      const std::int64_t count = std::min(held, end - begin);
      const Block<T>* const blocks = groups[thread].cut_from(pass.rows, begin, count);
      for (std::int64_t i = 0; i < count; ++i) totals[begin + i] = first_half(own, blocks[i]);
      if (sums) {
        add_sums(own, blocks, count, scratch.get() + scratch_numbers * static_cast<std::int64_t>(thread), false);
      }
    }
  });
  for (std::int64_t part = 0; sums && part < parts; ++part) {
    const double* const from = partial.data() + part * size;
    for (std::int64_t i = 0; i < pass.components; ++i) pass.count[i] += from[i];
    for (std::int64_t i = 0; i < wide; ++i) pass.first[i] += from[pass.components + i];
    for (std::int64_t i = 0; i < second; ++i) pass.second[i] += from[pass.components + wide + i];
  }
}

}  // namespace

template <class T>
void MixtureKernels<T>::pass(const MixturePass<T>& pass) {
  if (pass.rows == 0) return;
  const std::int64_t wide = pass.components * pass.columns, second = second_size(pass);
  const Cut<T> cut(pass);
  std::vector<double> totals(static_cast<std::size_t>(cut.blocks));
  const bool is_full = pass.kind == MixtureKind::full || pass.moments == MixtureMoments::products;
  const double products = static_cast<double>(wide * (is_full ? pass.columns : 4) / 2 + 40 * pass.components);
  const double nanoseconds = static_cast<double>(cut.block_rows) * products * nanoseconds_per_product;
  const std::int64_t bytes = (wide + second) * static_cast<std::int64_t>(sizeof(double));
  const std::int64_t parts = std::min({most_parts, most_partial_bytes / std::max<std::int64_t>(bytes, 1), cut.blocks});
  if (parts >= least_parts || parts == cut.blocks) {
    pass_by_parts(pass, cut, parts, nanoseconds, totals.data());
  } else {
    pass_by_groups(pass, cut, nanoseconds, totals.data());
  }
  for (const double each : totals) *pass.total += each;
}

template struct MixtureKernels<float>;
template struct MixtureKernels<double>;

}  // namespace fastvi

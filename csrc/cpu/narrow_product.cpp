// Both factors are packed as pairs, of which the instruction multiplies and adds both: the numbers of two places that
// follow each other along the inner dimension, in one word. The right one is packed by panels of the result's columns,
// the left one as a whole.
#include "narrow_product.h"

#if defined(__AVX512BW__) && defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "parallel.h"
#include "tile.h"

#define FASTVI_NARROW [[gnu::target("avx512bf16")]]

namespace fastvi {
namespace {

using Pair = std::uint32_t;

constexpr int lanes = 16, tile_vectors = 4, tile_rows = 6;
constexpr std::int64_t panel_columns = tile_vectors * lanes;
constexpr std::int64_t inner_pairs = 256;  // how many pairs of the inner dimension are packed at once
constexpr std::int64_t least_part = 24;    // rows
constexpr double nanoseconds_per_narrow_product = 0.012, nanoseconds_per_packed = 0.1;

constexpr __mmask16 mask_of(std::int64_t count) {
  return static_cast<__mmask16>(count >= lanes ? 0xffff : (1u << count) - 1);
}

// Pairs of 16 numbers each of two rows.
FASTVI_NARROW inline __m512i pairs_of(__m512 even, __m512 odd) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even));
  const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// Pairs of `count` numbers, at most 32, of one row.
FASTVI_NARROW inline __m512i pairs_along(const float* from, std::int64_t count) {
  const __m512 first = _mm512_maskz_loadu_ps(mask_of(count), from);
  const __m512 second =
      count > lanes ? _mm512_maskz_loadu_ps(mask_of(count - lanes), from + lanes) : _mm512_setzero_ps();
  return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}

// Pairs of the rows [2 first, 2 last) of a matrix with `rows` rows of `width` contiguous numbers: one row of `stride`
// words for each pair, with zeros behind the `width` words up to whole vectors.
FASTVI_NARROW void pack_rows(const float* from, std::int64_t row_stride, std::int64_t rows, std::int64_t first,
                             std::int64_t last, std::int64_t width, Pair* to, std::int64_t stride) {
  for (std::int64_t pair = first; pair < last; ++pair, to += stride) {
    const float* const even = from + 2 * pair * row_stride;
    const bool is_single = 2 * pair + 1 == rows;
    const float* const odd = is_single ? even : even + row_stride;
    for (std::int64_t d = 0; d < width; d += lanes) {
      const __mmask16 mask = mask_of(width - d);
      const __m512 second = _mm512_maskz_loadu_ps(is_single ? __mmask16(0) : mask, odd + d);
      _mm512_mask_storeu_epi32(to + d, stride - d >= lanes ? __mmask16(0xffff) : mask_of(stride - d),
                               pairs_of(_mm512_maskz_loadu_ps(mask, even + d), second));
    }
  }
}

// The transposed of a square of words.
FASTVI_NARROW inline void transpose(__m512i (&rows)[lanes]) {
  __m512i turned[lanes];
  for (int i = 0; i < lanes; i += 2) {  // squares of two words
    turned[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    turned[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < lanes; i += 4) {  // of four
    rows[i] = _mm512_unpacklo_epi64(turned[i], turned[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(turned[i], turned[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(turned[i + 1], turned[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(turned[i + 1], turned[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {  // of eight, then of sixteen
    const __m512i a = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    const __m512i c = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    const __m512i d = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
    turned[i] = _mm512_shuffle_i32x4(a, b, 0x88);
    turned[i + 8] = _mm512_shuffle_i32x4(a, b, 0xdd);
    turned[i + 4] = _mm512_shuffle_i32x4(c, d, 0x88);
    turned[i + 12] = _mm512_shuffle_i32x4(c, d, 0xdd);
  }
  std::memcpy(rows, turned, sizeof rows);
}

// The panel of `width` columns, contiguous each, whose inner places are [2 first, 2 last) of `inner`.
FASTVI_NARROW void pack_columns(const float* from, std::int64_t column_stride, std::int64_t inner, std::int64_t first,
                                std::int64_t last, std::int64_t width, Pair* panel) {
  for (std::int64_t pair = first; pair < last; pair += lanes) {
    const std::int64_t count = std::min(inner, 2 * last) - 2 * pair,
                       stored = std::min<std::int64_t>(lanes, last - pair);
    for (std::int64_t d = 0; d < width; d += lanes) {
      __m512i rows[lanes];
      for (int i = 0; i < lanes; ++i) {
        const bool is_there = d + i < width;
        rows[i] = is_there ? pairs_along(from + (d + i) * column_stride + 2 * pair, std::min<std::int64_t>(32, count))
                           : _mm512_setzero_si512();
      }
      transpose(rows);
      for (std::int64_t i = 0; i < stored; ++i) {
        _mm512_storeu_si512(panel + (pair - first + i) * panel_columns + d, rows[i]);
      }
    }
  }
}

// The left matrix, packed: `by_row` words from row to row, `by_pair` from pair to pair.
struct Left {
  std::unique_ptr<Pair[]> words;
  std::int64_t by_row, by_pair;
};

FASTVI_NARROW void pack_along(const float* from, std::int64_t inner, Pair* to) {
  for (std::int64_t k = 0; k < inner; k += 2 * lanes) {
    const std::int64_t count = std::min<std::int64_t>(2 * lanes, inner - k);
    _mm512_mask_storeu_epi32(to + k / 2, mask_of((count + 1) / 2), pairs_along(from + k, count));
  }
}

Left pack_left(const Matrix<float>& left, std::int64_t pairs) {
  Left packed{std::make_unique_for_overwrite<Pair[]>(static_cast<std::size_t>(left.rows * pairs)), pairs, 1};
  const auto work = static_cast<std::int64_t>(static_cast<double>(left.rows * pairs) * nanoseconds_per_packed);
  if (left.column_stride == 1) {
    parallel_for(left.rows, work, [&](std::int64_t row) {
      pack_along(left.data + row * left.row_stride, left.columns, packed.words.get() + row * pairs);
    });
    return packed;
  }
  packed.by_row = 1;
  packed.by_pair = left.rows;
  parallel_for(pairs, work, [&](std::int64_t pair) {
    pack_rows(left.data, left.column_stride, left.columns, pair, pair + 1, left.rows,
              packed.words.get() + pair * left.rows, left.rows);
  });
  return packed;
}

// What the tiles of a panel read and write.
struct Panel {
  const Pair* left;
  std::int64_t by_row, by_pair;
  const Pair* right;
  float* out;
  std::int64_t out_stride, pairs, width;
  bool adds;  // to what is there
};

template <int height, int vectors>
FASTVI_NARROW void tile(const Panel& panel, std::int64_t row) {
  __m512 sums[height][vectors];
  float* const out = panel.out + row * panel.out_stride;
  __mmask16 masks[vectors];
  for (int j = 0; j < vectors; ++j) masks[j] = mask_of(panel.width - j * lanes);
  for (int i = 0; i < height; ++i) {
    for (int j = 0; j < vectors; ++j) {
      sums[i][j] =
          panel.adds ? _mm512_maskz_loadu_ps(masks[j], out + i * panel.out_stride + j * lanes) : _mm512_setzero_ps();
    }
  }
  const Pair* left = panel.left + row * panel.by_row;
  const Pair* right = panel.right;
  for (std::int64_t k = 0; k < panel.pairs; ++k) {
    __m512i values[vectors];
    for (int j = 0; j < vectors; ++j) values[j] = _mm512_loadu_si512(right + j * lanes);
    for (int i = 0; i < height; ++i) {
      const __m512i factor = _mm512_set1_epi32(static_cast<int>(left[i * panel.by_row]));
      for (int j = 0; j < vectors; ++j) {
        sums[i][j] = _mm512_dpbf16_ps(sums[i][j], (__m512bh)factor, (__m512bh)values[j]);
      }
    }
    left += panel.by_pair;
    right += panel_columns;
  }
  for (int i = 0; i < height; ++i) {
    for (int j = 0; j < vectors; ++j) {
      _mm512_mask_storeu_ps(out + i * panel.out_stride + j * lanes, masks[j], sums[i][j]);
    }
  }
}

void tile_of(std::int64_t height, std::int64_t vectors, const Panel& panel, std::int64_t row) {
  with_height<tile_rows>(height, [&]<int rows>(std::integral_constant<int, rows>) {
    with_height<tile_vectors>(vectors,
                              [&]<int width>(std::integral_constant<int, width>) { tile<rows, width>(panel, row); });
  });
}

// Rows [begin, end) of `width` columns of the result from `column` on.
void multiply_panel(const Left& left, const Matrix<float>& right, std::int64_t begin, std::int64_t end,
                    std::int64_t column, std::int64_t width, float* out) {
  alignas(64) Pair packed[inner_pairs * panel_columns];
  const std::int64_t pairs = ceil_divide(right.rows, std::int64_t{2});
  const std::int64_t blocks = std::max<std::int64_t>(1, ceil_divide(pairs, inner_pairs));
  const std::int64_t tiles = ceil_divide(end - begin, std::int64_t{tile_rows}),
                     vectors = ceil_divide(width, std::int64_t{lanes});
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t first = part_start(pairs, blocks, block), last = part_start(pairs, blocks, block + 1);
    const float* const from = right.data + column * right.column_stride;
    if (right.column_stride == 1) {
      pack_rows(from, right.row_stride, right.rows, first, last, width, packed, panel_columns);
    } else {
      pack_columns(from, right.column_stride, right.rows, first, last, width, packed);
    }
    const Panel panel{left.words.get() + begin * left.by_row + first * left.by_pair,
                      left.by_row,
                      left.by_pair,
                      packed,
                      out + begin * right.columns + column,
                      right.columns,
                      last - first,
                      width,
                      block > 0};
    for (std::int64_t i = 0; i < tiles; ++i) {
      const std::int64_t row = part_start(end - begin, tiles, i);
      tile_of(part_start(end - begin, tiles, i + 1) - row, vectors, panel, row);
    }
  }
}

}  // namespace

bool has_narrow_products() {
  static const bool has = __builtin_cpu_supports("avx512bf16") != 0;
  return has;
}

void multiply_narrow(const Matrix<float>& left, const Matrix<float>& right, float* out) {
  const std::int64_t pairs = ceil_divide(left.columns, std::int64_t{2});
  const Left packed = pack_left(left, pairs);
  const std::int64_t vectors = ceil_divide(right.columns, std::int64_t{lanes}),
                     panels = ceil_divide(vectors, std::int64_t{tile_vectors});
  const auto work = static_cast<std::int64_t>(static_cast<double>(left.rows * right.columns) *
                                              static_cast<double>(left.columns) * nanoseconds_per_narrow_product);
  // As in product.cpp.
  const std::int64_t wanted = omp_get_max_threads() / std::max<std::int64_t>(1, panels);
  const std::int64_t parts = std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(1, left.rows / least_part));
  parallel_for(panels * parts, work, [&](std::int64_t item) {
    const std::int64_t panel = item / parts, part = item % parts;
    const std::int64_t column = part_start(vectors, panels, panel) * lanes;
    const std::int64_t end = std::min(part_start(vectors, panels, panel + 1) * lanes, right.columns);
    multiply_panel(packed, right, part_start(left.rows, parts, part), part_start(left.rows, parts, part + 1), column,
                   end - column, out);
  });
}

}  // namespace fastvi

#else

namespace fastvi {

bool has_narrow_products() { return false; }

void multiply_narrow(const Matrix<float>& left, const Matrix<float>& right, float* out) { multiply(left, right, out); }

}  // namespace fastvi

#endif

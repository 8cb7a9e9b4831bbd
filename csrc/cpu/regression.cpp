// Rows of a regression are taken in chunks: linear predictors by tiles of eight rows, whose numbers are multiplied with
// vectors of chains, then what the gradient by each predictor is, in their place, and its products with the columns.
// The arrays of a chunk stay in the first level of the cache.
#include <algorithm>
#include <cmath>

#include "../formulas/bernoulli.h"
#include "../formulas/exp.h"
#include "../formulas/poisson.h"
#include "tile.h"
#include "trajectory.h"

namespace fastvi {
namespace {

constexpr std::int64_t chunk_rows = Pieces::chunk_rows;

#if defined(__AVX512F__)
constexpr int predictor_rows = 8;  // what the registers hold of a tile at once
constexpr int most_columns = 8;
#else
constexpr int predictor_rows = 4;
constexpr int most_columns = 4;
#endif

// Predictors of `height` rows of a tile.
template <class T, int vectors, int height>
[[gnu::always_inline]] inline void predict(std::int64_t columns, const T* tile, const T* offset, const T* position,
                                           T* out) {
  constexpr int n = lanes<T>;
  Vector<T> sums[height][vectors];
  for (int i = 0; i < height; ++i) {
    for (int j = 0; j < vectors; ++j) sums[i][j] = (offset == nullptr ? T(0) : offset[i]) - Vector<T>{};
  }
  for (std::int64_t d = 0; d < columns; ++d) {
    Vector<T> values[vectors];
    for (int j = 0; j < vectors; ++j) values[j] = load(position + (d * vectors + j) * n);
    for (int i = 0; i < height; ++i) {
      const Vector<T> at = tile[d * design_tile + i] - Vector<T>{};
      for (int j = 0; j < vectors; ++j) sums[i][j] += at * values[j];
    }
  }
  for (int i = 0; i < height; ++i) {
    for (int j = 0; j < vectors; ++j) store(sums[i][j], out + (i * vectors + j) * n);
  }
}

// Adds to the gradient by `height` columns the residuals of `tiles` tiles times their columns.
template <class T, int vectors, int height>
[[gnu::always_inline]] inline void add_products(std::int64_t columns, std::int64_t tiles, const T* design,
                                                const T* residual, T* gradient) {
  constexpr int n = lanes<T>;
  Vector<T> sums[height][vectors];
  for (int i = 0; i < height; ++i) {
    for (int j = 0; j < vectors; ++j) sums[i][j] = load(gradient + (i * vectors + j) * n);
  }
  for (std::int64_t t = 0; t < tiles; ++t, design += columns * design_tile) {
    for (int r = 0; r < static_cast<int>(design_tile); ++r) {
      Vector<T> values[vectors];
      for (int j = 0; j < vectors; ++j) values[j] = load(residual + j * n);
      residual += vectors * n;
      for (int i = 0; i < height; ++i) {
        const Vector<T> at = design[i * design_tile + r] - Vector<T>{};
        for (int j = 0; j < vectors; ++j) sums[i][j] += at * values[j];
      }
    }
  }
  for (int i = 0; i < height; ++i) {
    for (int j = 0; j < vectors; ++j) store(sums[i][j], gradient + (i * vectors + j) * n);
  }
}

// The derivative by the predictor, and the log-likelihood, of one row.
template <class T, Regression kind>
struct Link {
  T residual, value;
};

template <class T, Regression kind, bool with_value>
[[gnu::always_inline]] inline Link<T, kind> link(T y, T eta) {
  if constexpr (kind == Regression::normal) {
    const T residual = y - eta;
    return {residual, T(-0.5) * residual * residual};
  } else if constexpr (kind == Regression::logistic) {
    const T exponential = exp_nonpositive(eta < T(0) ? eta : -eta);
    T value = T(0);
    if constexpr (with_value) {
      const T factor = bernoulli_weight(y, eta);
      value = (factor == T(0) ? T(0) : factor * eta) - log1p_unit(exponential);
    }
    return {bernoulli_residual(y, eta, exponential), value};
  } else {
    const T mean = exp(eta);
    return {y - mean, with_value ? y * poisson_weight(y, eta) - mean : T(0)};
  }
}

// Predictors become derivatives by them, times the rows' weights; the log-likelihoods' sum is added to `value`.
// One copy serves blocks of any width: see ChainLoops.
template <class T, Regression kind, bool with_value>
[[gnu::noinline]] void differentiate(std::int64_t rows, std::int64_t width, const T* outcome, const T* weight, T* eta,
                                     double* value) {
  constexpr int n = lanes<T>;
  for (std::int64_t j = 0; j < width; j += n) {
    alignas(64) T sum[lanes<T>] = {};
    for (std::int64_t r = 0; r < rows; ++r) {
      const T y = outcome[r], factor = weight == nullptr ? T(1) : weight[r];
      T* const at = eta + r * width + j;
#pragma omp simd
      for (int lane = 0; lane < n; ++lane) {
        const Link<T, kind> found = link<T, kind, with_value>(y, at[lane]);
        at[lane] = factor * found.residual;
        if constexpr (with_value) sum[lane] += factor * found.value;
      }
    }
    if constexpr (with_value) {
      for (int lane = 0; lane < n; ++lane) value[j + lane] += static_cast<double>(sum[lane]);
    }
  }
}

template <class T>
class RegressionPieces {
 public:
  explicit RegressionPieces(const RegressionRows<T>& rows) : rows_(rows), pieces_(rows.rows) {}

  Pieces pieces() const { return pieces_; }

  double nanoseconds() const {
    const double products = 2 * 0.3 * static_cast<double>(rows_.columns), links = 8;
    return static_cast<double>(rows_.rows) * (products + links) + 20 * static_cast<double>(rows_.columns);
  }

  std::int64_t scratch(std::int64_t width) const { return (chunk_rows + rows_.columns) * width; }

  void piece(std::int64_t i, const T* position, std::int64_t width, bool with_value, T* gradient, double* value,
             T* scratch) const {
    const std::int64_t columns = rows_.columns, own = columns + (rows_.has_log_scale ? 1 : 0);
    std::fill_n(gradient, own * width, T(0));
    std::fill_n(value, width, 0.0);
    T* const eta = scratch;
    const T* from = position;
    if (rows_.shift != nullptr) {
      T* const shifted = scratch + chunk_rows * width;
      for (std::int64_t d = 0; d < columns; ++d) {
        for (std::int64_t c = 0; c < width; ++c) shifted[d * width + c] = position[d * width + c] - rows_.shift[d];
      }
      from = shifted;
    }
    for (std::int64_t first = pieces_.begin(i); first < pieces_.end(i); first += chunk_rows) {
      const std::int64_t count = std::min(chunk_rows, pieces_.end(i) - first);
      if (width == lanes<T>) {
        chunk<1>(first, count, from, with_value, eta, gradient, value);
      } else {
        chunk<2>(first, count, from, with_value, eta, gradient, value);
      }
    }
  }

  void finish(const T* position, std::int64_t width, T* gradient, double* value) const {
    if (!rows_.has_log_scale) return;
    const T* const log_scale = position + rows_.columns * width;
    for (std::int64_t c = 0; c < width; ++c) {
      const double precision = std::exp(-2 * static_cast<double>(log_scale[c]));
      const double of_squares = precision * (value[c] - rows_.square / 2);
      for (std::int64_t d = 0; d < rows_.columns; ++d) gradient[d * width + c] *= static_cast<T>(precision);
      gradient[rows_.columns * width + c] = static_cast<T>(-2 * of_squares - rows_.count);
      value[c] = of_squares - rows_.count * static_cast<double>(log_scale[c]);
    }
  }

 private:
  template <int vectors>
  void chunk(std::int64_t first, std::int64_t count, const T* position, bool with_value, T* eta, T* gradient,
             double* value) const {
    constexpr std::int64_t width = vectors * lanes<T>;
    const std::int64_t columns = rows_.columns, tiles = ceil_divide(count, design_tile);
    const T* const design = rows_.design + first * columns;
    for (std::int64_t t = 0; t < tiles; ++t) {
      // The offsets of rows that are not there are not read.
      T own_offset[design_tile] = {};
      if (rows_.offset != nullptr) {
        std::copy_n(rows_.offset + first + t * design_tile, std::min(design_tile, count - t * design_tile), own_offset);
      }
      for (int r = 0; r < static_cast<int>(design_tile); r += predictor_rows) {
        predict<T, vectors, predictor_rows>(columns, design + t * columns * design_tile + r,
                                            rows_.offset == nullptr ? nullptr : own_offset + r, position,
                                            eta + (t * design_tile + r) * width);
      }
    }
    const T* const weight = rows_.weight == nullptr ? nullptr : rows_.weight + first;
    differentiate_all(count, width, with_value || rows_.has_log_scale, rows_.outcome + first, weight, eta, value);
    std::fill(eta + count * width, eta + tiles * design_tile * width, T(0));
    const std::int64_t parts = ceil_divide(columns, std::int64_t{most_columns});
    for (std::int64_t i = 0; i < parts; ++i) {
      const std::int64_t d = part_start(columns, parts, i);
      with_height<most_columns>(
          part_start(columns, parts, i + 1) - d, [&]<int height>(std::integral_constant<int, height>) {
            add_products<T, vectors, height>(columns, tiles, design + d * design_tile, eta, gradient + d * width);
          });
    }
  }

  void differentiate_all(std::int64_t count, std::int64_t width, bool with_value, const T* outcome, const T* weight,
                         T* eta, double* value) const {
    const auto run = [&]<Regression kind>(std::integral_constant<Regression, kind>) {
      const auto chosen = with_value ? differentiate<T, kind, true> : differentiate<T, kind, false>;
      chosen(count, width, outcome, weight, eta, value);
    };
    switch (rows_.kind) {
      case Regression::normal:
        return run(std::integral_constant<Regression, Regression::normal>());
      case Regression::logistic:
        return run(std::integral_constant<Regression, Regression::logistic>());
      case Regression::poisson:
        return run(std::integral_constant<Regression, Regression::poisson>());
    }
  }

  const RegressionRows<T>& rows_;
  Pieces pieces_;
};

}  // namespace

template <class T>
void ChainKernels<T>::follow(const ChainTrajectory<T>& trajectory, const RegressionRows<T>& rows) {
  follow_rows(trajectory, RegressionPieces<T>(rows));
}

template void ChainKernels<float>::follow(const ChainTrajectory<float>&, const RegressionRows<float>&);
template void ChainKernels<double>::follow(const ChainTrajectory<double>&, const RegressionRows<double>&);

}  // namespace fastvi

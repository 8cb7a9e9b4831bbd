// A mixture of diagonal Gaussians whose parameters are the chains' positions: for each row the components' log
// densities of all chains of a vector, log-sum-exp over components, and moments weighted by responsibilities, of which
// the gradient is made when all rows of a piece are done.
#include <algorithm>
#include <cmath>

#include "../formulas/exp.h"
#include "../formulas/log.h"
#include "trajectory.h"

namespace fastvi {
namespace {

constexpr double half_log_two_pi = 0.91893853320467274178;

// What is made of a position before the rows: (components, columns) vectors of 1 / scale, and (components) of log
// probabilities, of probabilities, and of the constants of log densities.
template <class T>
struct Prepared {
  T *inverse_scale, *log_probability, *probability, *constant;
};

// The arrays of one vector of chains; `sums` of responsibilities have (components) vectors, those of z and z^2
// (components, columns), as z itself, which is (x - mean) / scale of a row.
template <class T>
struct Moments {
  T *sums, *first, *second, *z, *density;
};

template <class T>
[[gnu::noinline]] void prepare(const MixtureRows<T>& rows, std::int64_t width, const T* position,
                               const Prepared<T>& prepared) {
  constexpr int n = lanes<T>;
  const std::int64_t columns = rows.columns, components = rows.components, size = components * columns;
  const T* const log_scale = position + size * width;
  const T* const logit = log_scale + size * width;
  for (std::int64_t j = 0; j < width; j += n) {
    for (std::int64_t k = 0; k < components; ++k) {
      T sum[lanes<T>] = {};
      for (std::int64_t p = k * columns; p < (k + 1) * columns; ++p) {
        const T* const own = log_scale + p * width + j;
        T* const to = prepared.inverse_scale + p * width + j;
#pragma omp simd
        for (int lane = 0; lane < n; ++lane) {
          to[lane] = exp(-own[lane]);
          sum[lane] += own[lane];
        }
      }
      T* const to = prepared.constant + k * width + j;
      for (int lane = 0; lane < n; ++lane) {
        to[lane] = -sum[lane] - static_cast<T>(half_log_two_pi * static_cast<double>(columns));
      }
    }
    // The last logit is 0.
    T largest[lanes<T>] = {}, total[lanes<T>];
    for (std::int64_t k = 0; k + 1 < components; ++k) {
      for (int lane = 0; lane < n; ++lane) largest[lane] = std::max(largest[lane], logit[k * width + j + lane]);
    }
    for (int lane = 0; lane < n; ++lane) total[lane] = exp_nonpositive(-largest[lane]);
    for (std::int64_t k = 0; k + 1 < components; ++k) {
#pragma omp simd
      for (int lane = 0; lane < n; ++lane) total[lane] += exp_nonpositive(logit[k * width + j + lane] - largest[lane]);
    }
    for (std::int64_t k = 0; k < components; ++k) {
#pragma omp simd
      for (int lane = 0; lane < n; ++lane) {
        const T own = k + 1 < components ? logit[k * width + j + lane] : T(0);
        const T log_probability = own - largest[lane] - log(total[lane]);
        prepared.log_probability[k * width + j + lane] = log_probability;
        prepared.probability[k * width + j + lane] = exp_nonpositive(log_probability);
        prepared.constant[k * width + j + lane] += log_probability;
      }
    }
  }
}

// Adds rows [begin, end) to the moments of the vector of chains from j on, and to their log-likelihoods.
template <class T>
[[gnu::noinline]] void add_rows(const MixtureRows<T>& rows, std::int64_t begin, std::int64_t end, std::int64_t width,
                                std::int64_t j, const T* position, const Prepared<T>& prepared,
                                const Moments<T>& moments, double* value) {
  constexpr int n = lanes<T>;
  const std::int64_t columns = rows.columns, components = rows.components;
  T found[lanes<T>] = {};
  for (std::int64_t r = begin; r < end; ++r) {
    const T weight = rows.weight == nullptr ? T(1) : rows.weight[r];
    T largest[lanes<T>], total[lanes<T>] = {};
    for (int lane = 0; lane < n; ++lane) largest[lane] = -infinity<T>;
    for (std::int64_t k = 0; k < components; ++k) {
      T squares[lanes<T>] = {};
      for (std::int64_t p = 0; p < columns; ++p) {
        const T x = rows.x[r * columns + p];
        const T* const mean = position + (k * columns + p) * width + j;
        const T* const inverse_scale = prepared.inverse_scale + (k * columns + p) * width + j;
        T* const z = moments.z + (k * columns + p) * n;
#pragma omp simd
        for (int lane = 0; lane < n; ++lane) {
          z[lane] = (x - mean[lane]) * inverse_scale[lane];
          squares[lane] += z[lane] * z[lane];
        }
      }
      const T* const constant = prepared.constant + k * width + j;
      T* const density = moments.density + k * n;
#pragma omp simd
      for (int lane = 0; lane < n; ++lane) {
        density[lane] = constant[lane] - T(0.5) * squares[lane];
        largest[lane] = density[lane] > largest[lane] ? density[lane] : largest[lane];
      }
    }
    for (std::int64_t k = 0; k < components; ++k) {
      T* const density = moments.density + k * n;
#pragma omp simd
      for (int lane = 0; lane < n; ++lane) {
        density[lane] = exp_nonpositive(density[lane] - largest[lane]);
        total[lane] += density[lane];
      }
    }
    T factor[lanes<T>];
#pragma omp simd
    for (int lane = 0; lane < n; ++lane) {
      found[lane] += weight * (largest[lane] + log(total[lane]));
      factor[lane] = weight / total[lane];
    }
    for (std::int64_t k = 0; k < components; ++k) {
      T* const responsibility = moments.density + k * n;
      T* const sum = moments.sums + k * n;
#pragma omp simd
      for (int lane = 0; lane < n; ++lane) {
        responsibility[lane] *= factor[lane];
        sum[lane] += responsibility[lane];
      }
      for (std::int64_t p = k * columns; p < (k + 1) * columns; ++p) {
        const T* const z = moments.z + p * n;
        T* const first = moments.first + p * n;
        T* const second = moments.second + p * n;
#pragma omp simd
        for (int lane = 0; lane < n; ++lane) {
          const T weighted = responsibility[lane] * z[lane];
          first[lane] += weighted;
          second[lane] += weighted * z[lane];
        }
      }
    }
  }
  for (int lane = 0; lane < n; ++lane) value[j + lane] += static_cast<double>(found[lane]);
}

template <class T>
class MixturePieces {
 public:
  explicit MixturePieces(const MixtureRows<T>& rows)
      : rows_(rows), pieces_(rows.rows), size_(rows.components * rows.columns) {}

  Pieces pieces() const { return pieces_; }

  double nanoseconds() const {
    return static_cast<double>(rows_.rows) *
           (3 * static_cast<double>(size_) + 8 * static_cast<double>(rows_.components) + 8);
  }

  std::int64_t scratch(std::int64_t width) const {
    return (size_ + 3 * rows_.components) * width + (3 * size_ + 2 * rows_.components) * lanes<T>;
  }

  void piece(std::int64_t i, const T* position, std::int64_t width, bool, T* gradient, double* value,
             T* scratch) const {
    constexpr int n = lanes<T>;
    const std::int64_t components = rows_.components, first_row = pieces_.begin(i);
    const Prepared<T> prepared = prepared_in(scratch, width);
    prepare(rows_, width, position, prepared);
    T* const sums = prepared.constant + components * width;
    T* const first = sums + components * n;
    const Moments<T> moments{sums, first, first + size_ * n, first + 2 * size_ * n, first + 3 * size_ * n};
    std::fill_n(value, width, 0.0);
    for (std::int64_t j = 0; j < width; j += n) {
      std::fill_n(sums, (components + 2 * size_) * n, T(0));
      for (std::int64_t row = first_row; row < pieces_.end(i); row += Pieces::chunk_rows) {
        add_rows(rows_, row, std::min(row + Pieces::chunk_rows, pieces_.end(i)), width, j, position, prepared, moments,
                 value);
      }
      differentiate(moments, prepared, width, j, gradient);
    }
  }

  // The Dirichlet prior, and the sum of probabilities, of which each row's responsibilities are counted.
  void finish(const T* position, std::int64_t width, T* gradient, double* value) const {
    if (rows_.concentration == nullptr) return;
    const Buffer<T> memory(scratch(width));
    const Prepared<T> prepared = prepared_in(memory.get(), width);
    prepare(rows_, width, position, prepared);
    T all = 0;
    for (std::int64_t k = 0; k < rows_.components; ++k) all += rows_.concentration[k];
    T* const by_logit = gradient + 2 * size_ * width;
    for (std::int64_t k = 0; k < rows_.components; ++k) {
      const T own = rows_.concentration[k];
      for (std::int64_t c = 0; c < width; ++c) {
        value[c] += static_cast<double>(own * prepared.log_probability[k * width + c]);
        if (k + 1 < rows_.components) by_logit[k * width + c] += own - all * prepared.probability[k * width + c];
      }
    }
  }

 private:
  Prepared<T> prepared_in(T* memory, std::int64_t width) const {
    const std::int64_t components = rows_.components * width;
    T* const rest = memory + size_ * width;
    return {memory, rest, rest + components, rest + 2 * components};
  }

  void differentiate(const Moments<T>& moments, const Prepared<T>& prepared, std::int64_t width, std::int64_t j,
                     T* gradient) const {
    constexpr int n = lanes<T>;
    const std::int64_t columns = rows_.columns, components = rows_.components;
    T all[lanes<T>] = {};
    for (std::int64_t k = 0; k < components; ++k) {
      const T* const sum = moments.sums + k * n;
      for (int lane = 0; lane < n; ++lane) all[lane] += sum[lane];
      for (std::int64_t p = k * columns; p < (k + 1) * columns; ++p) {
        T* const by_mean = gradient + p * width + j;
        T* const by_log_scale = gradient + (size_ + p) * width + j;
        const T* const inverse_scale = prepared.inverse_scale + p * width + j;
        for (int lane = 0; lane < n; ++lane) {
          by_mean[lane] = moments.first[p * n + lane] * inverse_scale[lane];
          by_log_scale[lane] = moments.second[p * n + lane] - sum[lane];
        }
      }
    }
    for (std::int64_t k = 0; k + 1 < components; ++k) {
      T* const by_logit = gradient + (2 * size_ + k) * width + j;
      for (int lane = 0; lane < n; ++lane) {
        by_logit[lane] = moments.sums[k * n + lane] - all[lane] * prepared.probability[k * width + j + lane];
      }
    }
  }

  const MixtureRows<T>& rows_;
  Pieces pieces_;
  std::int64_t size_;
};

}  // namespace

template <class T>
void ChainKernels<T>::follow(const ChainTrajectory<T>& trajectory, const MixtureRows<T>& rows) {
  follow_rows(trajectory, MixturePieces<T>(rows));
}

template void ChainKernels<float>::follow(const ChainTrajectory<float>&, const MixtureRows<float>&);
template void ChainKernels<double>::follow(const ChainTrajectory<double>&, const MixtureRows<double>&);

}  // namespace fastvi

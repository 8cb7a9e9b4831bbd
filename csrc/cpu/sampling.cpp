#include "../formulas/normal.h"
#include "noise.h"

namespace fastvi {
namespace {

constexpr double sample_cost = 3.0;  // nanoseconds an element, see normal.h

// Samples that share one evaluation of exp(logvar / 2).
constexpr std::int64_t samples_per_item = 8;

// Parameters of one tile, scale = exp(logvar / 2) evaluated once for all its samples. Rows have the tile's padded
// length; padding holds zeros so that vector loops may run over it.
template <class T>
struct TileParameters {
  alignas(64) T mean[tile_elements];
  alignas(64) T logvar[tile_elements];
  alignas(64) T scale[tile_elements];
};

// The same for the log ratio of samples, see LogRatio; priors that were not given are zeros, as the standard one's are.
template <class T>
struct TileRatio {
  alignas(64) T shift[tile_elements];
  alignas(64) T ratio[tile_elements];
  alignas(64) T log_variances[tile_elements];
  alignas(64) T prior_logvar[tile_elements];

  LogRatio<T> at(std::int64_t i) const { return {shift[i], ratio[i], log_variances[i]}; }

  void put(std::int64_t i, const LogRatio<T>& terms) {
    shift[i] = terms.shift;
    ratio[i] = terms.ratio;
    log_variances[i] = terms.log_variances;
  }
};

// And for its derivatives along the samples' paths, see LogRatioPath.
template <class T>
struct TilePath {
  alignas(64) T root[tile_elements];
  alignas(64) T posterior_weight[tile_elements];
  alignas(64) T prior_weight[tile_elements];

  LogRatioPath<T> at(std::int64_t i) const { return {root[i], posterior_weight[i], prior_weight[i]}; }
};

template <class S>
struct TileOf {
  using T = ComputeType<S>;

  std::int64_t first_row, rows, first_column, columns, row_length;
  NoiseTile noise;

  TileOf(const NoiseTiling& tiling, std::int64_t index)
      : first_row(tiling.first_row(index)),
        rows(tiling.rows(index)),
        first_column(tiling.first_column(index)),
        columns(tiling.columns(index)),
        row_length(tiling.row_length(index)),
        noise(tiling.tile(index)) {}

  std::int64_t size() const { return rows * row_length; }

  void load(T* target, const RowView<const S>& source) const {
    for (std::int64_t row = 0; row < rows; ++row) {
      T* const to = target + row * row_length;
      convert(source.row(0, first_row + row) + first_column, columns, to);
      std::fill(to + columns, to + row_length, T(0));
    }
  }

  // Rows of an array of shape (samples, rows, columns).
  void load(T* target, const Extent& extent, std::int64_t k, const S* source) const {
    load(target, {source + k * extent.rows * extent.columns, 0, extent.columns});
  }

  // The same number for all of a row.
  void spread(std::int64_t row, T number, T* target) const {
    std::fill_n(target + row * row_length, row_length, number);
  }

  // Writes gradient(i) of the tile's elements i to an array of shape (rows, columns), if it is given.
  template <class Gradient>
  void store(const Extent& extent, S* target, const Gradient& gradient) const {
    if (target == nullptr) return;
    alignas(64) T found[tile_elements];
#pragma omp simd
    for (std::int64_t i = 0; i < size(); ++i) found[i] = gradient(i);
    for (std::int64_t row = 0; row < rows; ++row) {
      convert(found + row * row_length, columns, target + offset(extent, 0, row));
    }
  }

  // Writes one row of a sample.
  void store_sample(const TileParameters<T>& posterior, const T* noise_of_tile, std::int64_t row, S* to) const {
    const std::int64_t start = row * row_length;
    const T *const mean = posterior.mean + start, *const scale = posterior.scale + start;
    const T* const eps = noise_of_tile + start;
    RowBuffer<S, tile_elements> buffer;
    T* const out = buffer.target(to);
    for_columns<T>(columns, [=](std::int64_t d) { out[d] = sample_of(mean[d], scale[d], eps[d]); });
    buffer.store(to, columns);
  }

  void load_posterior(TileParameters<T>& tile, const SampleParameters<S>& parameters) const {
    load(tile.mean, parameters.mean);
    load(tile.logvar, parameters.logvar);
#pragma omp simd
    for (std::int64_t i = 0; i < size(); ++i) tile.scale[i] = exp(T(0.5) * tile.logvar[i]);
  }

  void load_ratio(TileRatio<T>& ratio, const TileParameters<T>& posterior,
                  const SampleParameters<S>& parameters) const {
    if (parameters.prior_mean.data == nullptr) {
      std::fill_n(ratio.prior_logvar, size(), T(0));
#pragma omp simd
      for (std::int64_t i = 0; i < size(); ++i) {
        ratio.put(i, LogRatio<T>::with_standard_prior(posterior.mean[i], posterior.logvar[i], posterior.scale[i]));
      }
      return;
    }
    alignas(64) T prior_mean[tile_elements];
    load(prior_mean, parameters.prior_mean);
    load(ratio.prior_logvar, parameters.prior_logvar);
#pragma omp simd
    for (std::int64_t i = 0; i < size(); ++i) {
      ratio.put(i, LogRatio<T>::of(posterior.mean[i], posterior.logvar[i], prior_mean[i], ratio.prior_logvar[i]));
    }
  }

  void load_path(TilePath<T>& path, const TileParameters<T>& posterior, const TileRatio<T>& ratio,
                 bool detach_posterior) const {
#pragma omp simd
    for (std::int64_t i = 0; i < size(); ++i) {
      const auto terms = LogRatioPath<T>::of(posterior.logvar[i], ratio.prior_logvar[i], detach_posterior);
      path.root[i] = terms.root;
      path.posterior_weight[i] = terms.posterior_weight;
      path.prior_weight[i] = terms.prior_weight;
    }
  }

  // Where row `row` of the tile stands in an array of shape (samples, rows, columns).
  std::int64_t offset(const Extent& extent, std::int64_t k, std::int64_t row) const {
    return (k * extent.rows + first_row + row) * extent.columns + first_column;
  }
};

std::int64_t sample_work(const Extent& extent) {
  return static_cast<std::int64_t>(static_cast<double>(extent.samples * extent.rows * extent.columns) * sample_cost);
}

}  // namespace

template <class S>
void SamplingKernels<S>::rsample_normal(const Extent& extent, const SampleParameters<S>& parameters, S* z) {
  using T = ComputeType<S>;
  const NoiseTiling tiling(extent.rows, extent.columns, parameters.row_offset);
  const std::uint64_t seed = read_seed(parameters.seed);
  const std::int64_t groups = ceil_divide(extent.samples, samples_per_item);
  parallel_for(groups * tiling.count(), sample_work(extent), [&](std::int64_t item) {
    TileOf<S> tile(tiling, item % tiling.count());
    const std::int64_t first_sample = item / tiling.count() * samples_per_item;
    TileParameters<T> local;
    tile.load_posterior(local, parameters);
    alignas(64) T noise[tile_elements];
    for (std::int64_t k = first_sample; k < std::min(first_sample + samples_per_item, extent.samples); ++k) {
      tile.noise.fill(noise, seed, k);
      for (std::int64_t row = 0; row < tile.rows; ++row) {
        tile.store_sample(local, noise, row, z + tile.offset(extent, k, row));
      }
    }
  });
}

template <class S>
void SamplingKernels<S>::rsample_normal_backward(const Extent& extent, const SampleParameters<S>& parameters,
                                                 const S* upstream, S* mean_gradient, S* logvar_gradient) {
  using T = ComputeType<S>;
  const NoiseTiling tiling(extent.rows, extent.columns, parameters.row_offset);
  const std::uint64_t seed = read_seed(parameters.seed);
  parallel_for(tiling.count(), sample_work(extent), [&](std::int64_t item) {
    TileOf<S> tile(tiling, item);
    alignas(64) T noise[tile_elements];
    SampleSums<T, tile_elements> gradient_sums(tile.size()), noise_sums(tile.size());
    RowBuffer<S, tile_elements> buffer;
    for (std::int64_t k = 0; k < extent.samples; ++k) {
      if (logvar_gradient != nullptr) tile.noise.fill(noise, seed, k);
      for (std::int64_t row = 0; row < tile.rows; ++row) {
        const T* const gradient = buffer.load(upstream + tile.offset(extent, k, row), tile.columns);
        T* const sum = gradient_sums.sums() + row * tile.row_length;
        T* const weighted = noise_sums.sums() + row * tile.row_length;
        const T* const eps = noise + row * tile.row_length;
        if (logvar_gradient != nullptr) {
#pragma omp simd
          for (std::int64_t d = 0; d < tile.columns; ++d) {
            sum[d] += gradient[d];
            weighted[d] += gradient[d] * eps[d];
          }
        } else {
#pragma omp simd
          for (std::int64_t d = 0; d < tile.columns; ++d) sum[d] += gradient[d];
        }
      }
      gradient_sums.end_sample();
      noise_sums.end_sample();
    }
    const T* const gradient_sum = gradient_sums.result();
    const T* const noise_sum = noise_sums.result();
    for (std::int64_t row = 0; row < tile.rows; ++row) {
      const std::int64_t start = row * tile.row_length, to = tile.offset(extent, 0, row);
      if (mean_gradient != nullptr) convert(gradient_sum + start, tile.columns, mean_gradient + to);
      if (logvar_gradient == nullptr) continue;
      const T* const logvar =
          buffer.load(parameters.logvar.row(0, tile.first_row + row) + tile.first_column, tile.columns);
      RowBuffer<S, tile_elements> found;
      T* const out = found.target(logvar_gradient + to);
      for_columns<T>(tile.columns, [=](std::int64_t d) {
        const T root = exp_quarter(logvar[d]);
        out[d] = T(0.5) * noise_sum[start + d] * root * root;
      });
      found.store(logvar_gradient + to, tile.columns);
    }
  });
}

template <class S>
void SamplingKernels<S>::rsample_normal_with_log_ratio(const Extent& extent, const SampleParameters<S>& parameters,
                                                       S* z, S* log_ratio) {
  using T = ComputeType<S>;
  const NoiseTiling tiling(extent.rows, extent.columns, parameters.row_offset);
  const std::uint64_t seed = read_seed(parameters.seed);
  const std::int64_t groups = ceil_divide(extent.samples, samples_per_item);
  if (extent.columns == 0) std::fill_n(log_ratio, extent.samples * extent.rows, S(T(0)));
  constexpr std::int64_t tiles_per_piece = row_piece / tile_elements;
  const std::int64_t pieces = ceil_divide(tiling.across(), tiles_per_piece);
  const auto partial = piece_sums(extent.samples * extent.rows, pieces);
  parallel_for(groups * tiling.down() * pieces, sample_work(extent), [&](std::int64_t item) {
    const std::int64_t piece = item % pieces, down = item / pieces % tiling.down();
    const std::int64_t first_sample = item / pieces / tiling.down() * samples_per_item;
    const std::int64_t last_sample = std::min(first_sample + samples_per_item, extent.samples);
    const std::int64_t first_tile = piece * tiles_per_piece;
    const std::int64_t last_tile = std::min(first_tile + tiles_per_piece, tiling.across());
    TileParameters<T> local;
    TileRatio<T> ratio;
    alignas(64) T noise[tile_elements];
    double totals[samples_per_item][tile_blocks];  // a tile has at least one block a row
    for (std::int64_t across = first_tile; across < last_tile; ++across) {
      TileOf<S> tile(tiling, down * tiling.across() + across);
      tile.load_posterior(local, parameters);
      tile.load_ratio(ratio, local, parameters);
      for (std::int64_t k = first_sample; k < last_sample; ++k) {
        tile.noise.fill(noise, seed, k);
        for (std::int64_t row = 0; row < tile.rows; ++row) {
          const std::int64_t start = row * tile.row_length;
          tile.store_sample(local, noise, row, z + tile.offset(extent, k, row));
          const T sum = sum_columns<T>(
              tile.columns, [&, start](std::int64_t d) { return ratio.at(start + d).value(noise[start + d]); });
          double& total = totals[k - first_sample][row];
          total = (across == first_tile ? 0.0 : total) + static_cast<double>(sum);
          if (across + 1 < last_tile) continue;
          const std::int64_t index = k * extent.rows + tile.first_row + row;
          if (pieces == 1) {
            log_ratio[index] = rounded_sum<S>(total);
          } else {
            partial[static_cast<std::size_t>(index * pieces + piece)] = total;
          }
        }
      }
    }
  });
  if (pieces > 1) add_pieces(extent.samples * extent.rows, pieces, partial.get(), log_ratio);
}

template <class S>
void SamplingKernels<S>::rsample_normal_with_log_ratio_backward(const Extent& extent,
                                                                const SampleParameters<S>& parameters,
                                                                bool detach_posterior, const S* z_upstream,
                                                                const RowView<const S>& ratio_upstream,
                                                                const LogRatioGradients<S>& gradients) {
  using T = ComputeType<S>;
  const NoiseTiling tiling(extent.rows, extent.columns, parameters.row_offset);
  const std::uint64_t seed = read_seed(parameters.seed);
  const bool prior_wanted = gradients.prior_mean != nullptr || gradients.prior_logvar != nullptr;
  parallel_for(tiling.count(), sample_work(extent), [&](std::int64_t item) {
    TileOf<S> tile(tiling, item);
    TileParameters<T> local;
    tile.load_posterior(local, parameters);
    TileRatio<T> ratio{};  // zeros, so that nothing infinite meets an upstream gradient that is not there
    TilePath<T> path{};
    alignas(64) T scale_root[tile_elements];
#pragma omp simd
    for (std::int64_t i = 0; i < tile.size(); ++i) scale_root[i] = exp_quarter(local.logvar[i]);
    if (ratio_upstream.data != nullptr) {
      tile.load_ratio(ratio, local, parameters);
      tile.load_path(path, local, ratio, detach_posterior);
    }
    alignas(64) T noise[tile_elements], upstream[tile_elements], by_ratio[tile_elements];
    std::fill_n(by_ratio, tile.size(), T(0));
    SampleSums<T, tile_elements> z_sums(tile.size()), path_sums(tile.size()), half_logvar_sums(tile.size()),
        prior_mean_sums(tile.size()), prior_logvar_sums(tile.size());
    SampleSums<T, tile_blocks> ratio_sums(tile.rows);  // one a row
    for (std::int64_t k = 0; k < extent.samples; ++k) {
      tile.noise.fill(noise, seed, k);
      T* const z_sum = z_sums.sums();
      T* const path_sum = path_sums.sums();
      T* const half_logvar_sum = half_logvar_sums.sums();
      T* const prior_mean_sum = prior_mean_sums.sums();
      T* const prior_logvar_sum = prior_logvar_sums.sums();
      for (std::int64_t row = 0; ratio_upstream.data != nullptr && row < tile.rows; ++row) {
        const T of_row = static_cast<T>(*ratio_upstream.row(k, tile.first_row + row));
        ratio_sums.sums()[row] += of_row;
        tile.spread(row, of_row, by_ratio);
      }
      const auto sent = [&](std::int64_t i, T scaled_by_z) {
        return LogRatioBackward<T>(ratio.at(i), path.at(i), noise[i], detach_posterior, by_ratio[i], scaled_by_z);
      };
      const auto add = [&](std::int64_t i, const LogRatioBackward<T>& each) {
        path_sum[i] += each.by_path;
        half_logvar_sum[i] += each.by_half_logvar;
      };
      if (z_upstream != nullptr) {
        tile.load(upstream, extent, k, z_upstream);
#pragma omp simd
        for (std::int64_t i = 0; i < tile.size(); ++i) {
          z_sum[i] += upstream[i];
          const T root = scale_root[i];
          add(i, sent(i, upstream[i] * root * root));
        }
      } else if (ratio_upstream.data != nullptr) {
#pragma omp simd
        for (std::int64_t i = 0; i < tile.size(); ++i) add(i, sent(i, T(0)));
      }
      if (prior_wanted) {
#pragma omp simd
        for (std::int64_t i = 0; i < tile.size(); ++i) {
          const LogRatioBackward<T> each = sent(i, T(0));
          prior_mean_sum[i] += each.by_prior_mean;
          prior_logvar_sum[i] += each.by_prior_logvar;
        }
      }
      z_sums.end_sample();
      path_sums.end_sample();
      half_logvar_sums.end_sample();
      prior_mean_sums.end_sample();
      prior_logvar_sums.end_sample();
      ratio_sums.end_sample();
    }
    const T* const z_sum = z_sums.result();
    const T* const path_sum = path_sums.result();
    const T* const half_logvar_sum = half_logvar_sums.result();
    const T* const prior_mean_sum = prior_mean_sums.result();
    const T* const prior_logvar_sum = prior_logvar_sums.result();
    const T* const ratio_sum = ratio_sums.result();
    for (std::int64_t row = 0; row < tile.rows; ++row) tile.spread(row, ratio_sum[row], by_ratio);
    tile.store(extent, gradients.mean,
               [&](std::int64_t i) { return gradient_by_mean(z_sum[i], path_sum[i], path.root[i]); });
    tile.store(extent, gradients.logvar,
               [&](std::int64_t i) { return gradient_by_logvar(half_logvar_sum[i], by_ratio[i], detach_posterior); });
    tile.store(extent, gradients.prior_mean, [&](std::int64_t i) {
      return gradient_by_prior_mean(prior_mean_sum[i], local.logvar[i], ratio.prior_logvar[i]);
    });
    tile.store(extent, gradients.prior_logvar, [&](std::int64_t i) { return prior_logvar_sum[i]; });
  });
}

template struct SamplingKernels<float>;
template struct SamplingKernels<double>;
template struct SamplingKernels<BFloat16>;
template struct SamplingKernels<Float16>;

}  // namespace fastvi

#include "../formulas/normal.h"
#include "noise.cuh"
#include "rows.cuh"

namespace fastvi {
namespace {

// The four neighbouring columns of one row that a draw's block makes: where they stand, and their parameters.
template <class S>
struct FourColumns {
  using T = ComputeType<S>;

  std::int64_t row, block, count;
  T mean[4], logvar[4], scale[4];

  FASTVI_DEVICE FourColumns(const Extent& extent, const SampleParameters<S>& parameters, std::int64_t b,
                            std::int64_t column_block)
      : row(b), block(column_block), count(extent.columns - 4 * column_block) {
    load_four(parameters.mean.row(0, row) + 4 * block, count, mean);
    load_four(parameters.logvar.row(0, row) + 4 * block, count, logvar);
#pragma unroll
    for (int j = 0; j < 4; ++j) scale[j] = exp(T(0.5) * logvar[j]);
  }

  // Where they are in an array of shape (samples, rows, columns).
  FASTVI_DEVICE std::int64_t offset(const Extent& extent, std::int64_t k) const {
    return (k * extent.rows + row) * extent.columns + 4 * block;
  }
};

// The prior's parameters in the same places; zeros for the standard one.
template <class S>
struct FourPriors {
  using T = ComputeType<S>;

  T mean[4] = {}, logvar[4] = {};
  bool standard;

  FASTVI_DEVICE FourPriors(const SampleParameters<S>& parameters, const FourColumns<S>& columns)
      : standard(parameters.prior_mean.data == nullptr) {
    if (standard) return;
    load_four(parameters.prior_mean.row(0, columns.row) + 4 * columns.block, columns.count, mean);
    load_four(parameters.prior_logvar.row(0, columns.row) + 4 * columns.block, columns.count, logvar);
  }

  FASTVI_DEVICE LogRatio<T> ratio(const FourColumns<S>& columns, int j) const {
    return standard ? LogRatio<T>::with_standard_prior(columns.mean[j], columns.logvar[j], columns.scale[j])
                    : LogRatio<T>::of(columns.mean[j], columns.logvar[j], mean[j], logvar[j]);
  }
};

template <class S>
__global__ void __launch_bounds__(block_threads) rsample_kernel(Extent extent, SampleParameters<S> parameters, S* z) {
  using T = ComputeType<S>;
  const std::uint64_t seed = read_seed(parameters.seed);
  const std::int64_t blocks = ceil_divide(extent.columns, 4), items = extent.samples * extent.rows * blocks;
  for (std::int64_t item = ThreadGroup::first(); item < items; item += ThreadGroup::count()) {
    const Place block(item, blocks), place(block.outer, extent.rows);
    const FourColumns<S> columns(extent, parameters, place.inner, block.inner);
    T drawn[4];
    sample_noise(seed, place.outer, columns.row + parameters.row_offset, columns.block, drawn);
#pragma unroll
    for (int j = 0; j < 4; ++j) drawn[j] = sample_of(columns.mean[j], columns.scale[j], drawn[j]);
    store_four(drawn, columns.count, z + columns.offset(extent, place.outer));
  }
}

template <class Group, class S>
__global__ void __launch_bounds__(block_threads)
    rsample_with_log_ratio_kernel(Extent extent, SampleParameters<S> parameters, S* z, std::int64_t items,
                                  Pieces pieces, RowSums<S, 1> sums) {
  using T = ComputeType<S>;
  const std::uint64_t seed = read_seed(parameters.seed);
  for (std::int64_t item = Group::first(); item < items; item += Group::count()) {
    const auto piece = RowPiece::of<Group>(item, extent.samples * extent.rows, extent.columns, pieces);
    const Place place(piece.row, extent.rows);
    const std::int64_t first = piece.first / 4, end = first + ceil_divide(piece.count, 4);
    LongSum<T> sum;
    for (std::int64_t block = first + Group::lane(); block < end; block += Group::threads) {
      const FourColumns<S> columns(extent, parameters, place.inner, block);
      T noise[4], drawn[4];
      sample_noise(seed, place.outer, columns.row + parameters.row_offset, block, noise);
#pragma unroll
      for (int j = 0; j < 4; ++j) drawn[j] = sample_of(columns.mean[j], columns.scale[j], noise[j]);
      const FourPriors<S> priors(parameters, columns);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (j < columns.count) sum.add(priors.ratio(columns, j).value(noise[j]));
      }
      store_four(drawn, columns.count, z + columns.offset(extent, place.outer));
    }
    const T total = Group::sum(sum.result());
    if (Group::lane() == 0) sums.store(item, {{total}});
  }
}

// Where the sums of one chunk of samples wait for those of the others: (chunks, kinds, 4, rows * column blocks), so
// that neighbouring threads write to neighbouring places.
template <class T, int kinds>
struct PartialSums {
  T* data;
  std::int64_t items;

  FASTVI_DEVICE T& at(std::int64_t chunk, int kind, int column, std::int64_t item) const {
    return data[((chunk * kinds + kind) * 4 + column) * items + item];
  }
};

// What the samples send back to the parameters of four columns: sums of what comes to z (kind 0), to half of logvar
// (1), and where the log ratio has a gradient, see LogRatioBackward, of what comes along the path (2), and to the
// prior's mean (3) and logvar (4) where that is wanted. Last comes the sum of the log ratio's upstream gradient, one a
// row.
template <int kinds, class S>
struct SampleBackward {
  using T = ComputeType<S>;
  static constexpr int kept = kinds + 1;
  static constexpr bool has_ratio = kinds > 2;
  // Those of each kind for each column, and the log ratio's.
  using Sums = LongSums<T, 4 * kinds + 1>;

  Extent extent;
  SampleParameters<S> parameters;
  const S* z_upstream;
  RowView<const S> ratio_upstream;
  bool detach_posterior;
  LogRatioGradients<S> gradients;
  Chunks chunks;
  PartialSums<T, kept> partial;

  // Adds what the samples of one chunk send.
  FASTVI_DEVICE void add(const FourColumns<S>& columns, std::int64_t chunk, Sums& sums) const {
    const std::uint64_t seed = read_seed(parameters.seed);
    LogRatio<T> ratios[4] = {};
    LogRatioPath<T> paths[4] = {};
    if constexpr (has_ratio) {
      const FourPriors<S> priors(parameters, columns);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        ratios[j] = priors.ratio(columns, j);
        paths[j] = LogRatioPath<T>::of(columns.logvar[j], priors.logvar[j], detach_posterior);
      }
    }
    const std::int64_t first = chunk * chunks.length, end = first + chunks.length;
    for (std::int64_t k = first; k < (end < extent.samples ? end : extent.samples); ++k) {
      T noise[4] = {}, upstream[4] = {};
      if (has_ratio || gradients.logvar != nullptr) {
        sample_noise(seed, k, columns.row + parameters.row_offset, columns.block, noise);
      }
      if (z_upstream != nullptr) load_four(z_upstream + columns.offset(extent, k), columns.count, upstream);
      const T by_ratio = has_ratio ? static_cast<T>(*ratio_upstream.row(k, columns.row)) : T(0);
      sums.add(4 * kinds, by_ratio);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const T scaled_by_z = z_upstream == nullptr ? T(0) : columns.scale[j] * upstream[j];
        sums.add(j, upstream[j]);
        if constexpr (!has_ratio) {
          sums.add(4 + j, scaled_by_z * noise[j]);
        } else {
          const LogRatioBackward<T> sent(ratios[j], paths[j], noise[j], detach_posterior, by_ratio, scaled_by_z);
          sums.add(4 + j, sent.by_half_logvar);
          sums.add(4 * 2 + j, sent.by_path);
          if constexpr (kinds > 3) {  // the prior's, too
            sums.add(4 * 3 + j, sent.by_prior_mean);
            sums.add(4 * 4 + j, sent.by_prior_logvar);
          }
        }
      }
      sums.next();
    }
  }

  FASTVI_DEVICE void store(const FourColumns<S>& columns, T (&sums)[5][4], T ratio_sum) const {
    const std::int64_t to = columns.offset(extent, 0);
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[1][j] = gradient_by_logvar(sums[1][j], ratio_sum, detach_posterior);
    if constexpr (has_ratio) {
      const FourPriors<S> priors(parameters, columns);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const T root = LogRatioPath<T>::of(columns.logvar[j], priors.logvar[j], detach_posterior).root;
        sums[0][j] = gradient_by_mean(sums[0][j], sums[2][j], root);
        sums[3][j] = gradient_by_prior_mean(sums[3][j], columns.logvar[j], priors.logvar[j]);
      }
    }
    if (gradients.mean != nullptr) store_four(sums[0], columns.count, gradients.mean + to);
    if (gradients.logvar != nullptr) store_four(sums[1], columns.count, gradients.logvar + to);
    if (gradients.prior_mean != nullptr) store_four(sums[3], columns.count, gradients.prior_mean + to);
    if (gradients.prior_logvar != nullptr) store_four(sums[4], columns.count, gradients.prior_logvar + to);
  }
};

template <int kinds, class S>
__global__ void __launch_bounds__(block_threads, sizeof(S) == 8 ? 1 : 2)
    rsample_backward_kernel(SampleBackward<kinds, S> backward) {
  using T = ComputeType<S>;
  const std::int64_t blocks = ceil_divide(backward.extent.columns, 4), items = backward.partial.items;
  for (std::int64_t item = ThreadGroup::first(); item < items * backward.chunks.count; item += ThreadGroup::count()) {
    const Place chunk(item, items), place(chunk.inner, blocks);
    const FourColumns<S> columns(backward.extent, backward.parameters, place.outer, place.inner);
    typename SampleBackward<kinds, S>::Sums sums;
    backward.add(columns, chunk.outer, sums);
    if (backward.chunks.count == 1) {
      T totals[5][4] = {};
#pragma unroll
      for (int kind = 0; kind < kinds; ++kind) {
#pragma unroll
        for (int j = 0; j < 4; ++j) totals[kind][j] = sums.result(4 * kind + j);
      }
      backward.store(columns, totals, sums.result(4 * kinds));
      continue;
    }
#pragma unroll
    for (int kind = 0; kind < kinds; ++kind) {
#pragma unroll
      for (int j = 0; j < 4; ++j) backward.partial.at(chunk.outer, kind, j, chunk.inner) = sums.result(4 * kind + j);
    }
    backward.partial.at(chunk.outer, kinds, 0, chunk.inner) = sums.result(4 * kinds);
  }
}

template <class Group, int kinds, class S>
__global__ void __launch_bounds__(block_threads) rsample_finish_kernel(SampleBackward<kinds, S> backward) {
  using T = ComputeType<S>;
  const std::int64_t blocks = ceil_divide(backward.extent.columns, 4), items = backward.partial.items;
  for (std::int64_t item = Group::first(); item < items; item += Group::count()) {
    T totals[5][4] = {}, ratio_sum = T(0);
    for (std::int64_t chunk = Group::lane(); chunk < backward.chunks.count; chunk += Group::threads) {
#pragma unroll
      for (int kind = 0; kind < kinds; ++kind) {
#pragma unroll
        for (int j = 0; j < 4; ++j) totals[kind][j] += backward.partial.at(chunk, kind, j, item);
      }
      ratio_sum += backward.partial.at(chunk, kinds, 0, item);
    }
#pragma unroll
    for (int kind = 0; kind < kinds; ++kind) {
#pragma unroll
      for (int j = 0; j < 4; ++j) totals[kind][j] = Group::sum(totals[kind][j]);
    }
    ratio_sum = Group::sum(ratio_sum);
    if (Group::lane() != 0) continue;
    const Place place(item, blocks);
    backward.store(FourColumns<S>(backward.extent, backward.parameters, place.outer, place.inner), totals, ratio_sum);
  }
}

template <int kinds, class S>
void sample_backward(const Extent& extent, const SampleParameters<S>& parameters, bool detach_posterior,
                     const S* z_upstream, const RowView<const S>& ratio_upstream,
                     const LogRatioGradients<S>& gradients) {
  using Backward = SampleBackward<kinds, S>;
  using T = ComputeType<S>;
  const DeviceGuard guard;
  const std::int64_t items = extent.rows * ceil_divide(extent.columns, 4);
  const Chunks chunks(extent.samples, items);
  T* const memory = chunks.count == 1 ? nullptr : scratch<T>(chunks.count * Backward::kept * 4 * items);
  const Backward backward{extent,           parameters, z_upstream, ratio_upstream,
                          detach_posterior, gradients,  chunks,     {memory, items}};
  launch(rsample_backward_kernel<kinds, S>, items * chunks.count, ThreadGroup::per_block, backward);
  if (chunks.count == 1) return;
  with_joining_group(chunks.count, [&]<class Group>() {
    launch(rsample_finish_kernel<Group, kinds, S>, items, Group::per_block, backward);
  });
}

}  // namespace

template <class S>
void SamplingKernels<S>::rsample_normal(const Extent& extent, const SampleParameters<S>& parameters, S* z) {
  const DeviceGuard guard;
  launch(rsample_kernel<S>, extent.samples * extent.rows * ceil_divide(extent.columns, 4), ThreadGroup::per_block,
         extent, parameters, z);
}

template <class S>
void SamplingKernels<S>::rsample_normal_backward(const Extent& extent, const SampleParameters<S>& parameters,
                                                 const S* upstream, S* mean_gradient, S* logvar_gradient) {
  sample_backward<2, S>(extent, parameters, false, upstream, {}, {mean_gradient, logvar_gradient, nullptr, nullptr});
}

template <class S>
void SamplingKernels<S>::rsample_normal_with_log_ratio(const Extent& extent, const SampleParameters<S>& parameters,
                                                       S* z, S* log_ratio) {
  sum_rows<S, 1>(extent.samples * extent.rows, extent.columns, {{log_ratio}},
                 [&]<class Group>(std::int64_t items, const Pieces& pieces, const RowSums<S, 1>& sums) {
                   launch(rsample_with_log_ratio_kernel<Group, S>, items, Group::per_block, extent, parameters, z,
                          items, pieces, sums);
                 });
}

template <class S>
void SamplingKernels<S>::rsample_normal_with_log_ratio_backward(const Extent& extent,
                                                                const SampleParameters<S>& parameters,
                                                                bool detach_posterior, const S* z_upstream,
                                                                const RowView<const S>& ratio_upstream,
                                                                const LogRatioGradients<S>& gradients) {
  const bool has_prior = gradients.prior_mean != nullptr || gradients.prior_logvar != nullptr;
  const auto backward = ratio_upstream.data == nullptr ? sample_backward<2, S>
                        : has_prior                    ? sample_backward<5, S>
                                                       : sample_backward<3, S>;
  backward(extent, parameters, detach_posterior, z_upstream, ratio_upstream, gradients);
}

template struct SamplingKernels<float>;
template struct SamplingKernels<double>;
template struct SamplingKernels<BFloat16>;
template struct SamplingKernels<Float16>;

}  // namespace fastvi

#include "../formulas/normal.h"
#include "noise.cuh"
#include "rows.cuh"

namespace fastvi {
namespace {

template <class S>
std::array<RowView<const S>, 2> posterior_of(const std::array<RowView<const S>, 4>& operands) {
  return {operands[0], operands[1]};
}

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

// The prior's parameters in the same places.
template <class S>
struct FourPriors {
  using T = ComputeType<S>;

  T mean[4], logvar[4], precision[4];

  FASTVI_DEVICE FourPriors(const SampleParameters<S>& parameters, const FourColumns<S>& columns) {
    if (parameters.prior_mean.data == nullptr) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        mean[j] = logvar[j] = T(0);
        precision[j] = T(1);
      }
      return;
    }
    load_four(parameters.prior_mean.row(0, columns.row) + 4 * columns.block, columns.count, mean);
    load_four(parameters.prior_logvar.row(0, columns.row) + 4 * columns.block, columns.count, logvar);
#pragma unroll
    for (int j = 0; j < 4; ++j) precision[j] = exp(-logvar[j]);
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

template <class Group, bool standard, class S>
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
      if constexpr (standard) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (j < columns.count) sum.add(LogRatio<T>::standard_value(noise[j], columns.logvar[j], drawn[j]));
        }
      } else {
        const FourPriors<S> prior(parameters, columns);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (j < columns.count) {
            sum.add(LogRatio<T>::value(noise[j], columns.logvar[j], drawn[j], prior.mean[j], prior.logvar[j],
                                       prior.precision[j]));
          }
        }
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

// The gradients that go back to four columns, from the sums over samples of what comes to z (kind 0), of that times the
// noise (1), of what comes to the prior's mean (2) and logvar (3), and half the sum of what comes to the log ratio.
template <class S>
FASTVI_DEVICE void store_gradients(const FourColumns<S>& columns, std::int64_t to, const ComputeType<S> (*sums)[4],
                                   ComputeType<S> by_ratio, const LogRatioGradients<S>& gradients) {
  using T = ComputeType<S>;
  if (gradients.mean != nullptr) store_four(sums[0], columns.count, gradients.mean + to);
  if (gradients.logvar != nullptr) {
    T by_logvar[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) by_logvar[j] = T(0.5) * columns.scale[j] * sums[1][j] + by_ratio;
    store_four(by_logvar, columns.count, gradients.logvar + to);
  }
  if (gradients.prior_mean != nullptr) store_four(sums[2], columns.count, gradients.prior_mean + to);
  if (gradients.prior_logvar != nullptr) store_four(sums[3], columns.count, gradients.prior_logvar + to);
}

// What the samples send back to the parameters of four columns. `kinds` is 2 for a plain sample or where the prior's
// gradients are not wanted, 4 with them; a fifth sum, that of the log ratio's upstream gradient, is one a row.
template <int kinds, class S>
struct SampleBackward {
  using T = ComputeType<S>;
  static constexpr int kept = kinds + 1;
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
    const FourPriors<S> prior(parameters, columns);
    const bool has_ratio = ratio_upstream.data != nullptr, draws = has_ratio || gradients.logvar != nullptr;
    const std::int64_t first = chunk * chunks.length, end = first + chunks.length;
    for (std::int64_t k = first; k < (end < extent.samples ? end : extent.samples); ++k) {
      T noise[4] = {}, upstream[4] = {};
      if (draws) sample_noise(seed, k, columns.row + parameters.row_offset, columns.block, noise);
      if (z_upstream != nullptr) load_four(z_upstream + columns.offset(extent, k), columns.count, upstream);
      const T by_ratio = has_ratio ? static_cast<T>(*ratio_upstream.row(k, columns.row)) : T(0);
      sums.add(4 * kinds, by_ratio);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        T total = upstream[j];
        if (has_ratio) {
          const T difference = sample_of(columns.mean[j], columns.scale[j], noise[j]) - prior.mean[j];
          const T scaled = difference * prior.precision[j];
          // The log density of q along the path: its own parameters' part cancels the path's unless they are detached.
          const T by_posterior = detach_posterior ? noise[j] / columns.scale[j] : T(0);
          total += by_ratio * (by_posterior - scaled);
          if constexpr (kinds == 4) {
            sums.add(4 * 2 + j, by_ratio * scaled);
            sums.add(4 * 3 + j, T(0.5) * by_ratio * (difference * scaled - T(1)));
          }
        }
        sums.add(j, total);
        sums.add(4 + j, total * noise[j]);
      }
      sums.next();
    }
  }

  FASTVI_DEVICE void store(const FourColumns<S>& columns, const T (&sums)[4][4], T ratio_sum) const {
    store_gradients(columns, columns.offset(extent, 0), sums, detach_posterior ? T(0) : T(0.5) * ratio_sum, gradients);
  }
};

template <int kinds, class S>
__global__ void __launch_bounds__(block_threads) rsample_backward_kernel(SampleBackward<kinds, S> backward) {
  using T = ComputeType<S>;
  const std::int64_t blocks = ceil_divide(backward.extent.columns, 4), items = backward.partial.items;
  for (std::int64_t item = ThreadGroup::first(); item < items * backward.chunks.count; item += ThreadGroup::count()) {
    const Place chunk(item, items), place(chunk.inner, blocks);
    const FourColumns<S> columns(backward.extent, backward.parameters, place.outer, place.inner);
    typename SampleBackward<kinds, S>::Sums sums;
    backward.add(columns, chunk.outer, sums);
    if (backward.chunks.count == 1) {
      T totals[4][4] = {};
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
    T totals[4][4] = {}, ratio_sum = T(0);
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
void NormalKernels<S>::kl_normal(const Extent& extent, const std::array<RowView<const S>, 4>& operands, T free_bits,
                                 S* out) {
  if (operands[2].data == nullptr) {
    reduce_rows_by_term<S>(extent, posterior_of(operands), out, StandardDivergence<T>{free_bits});
  } else {
    reduce_rows_by_term<S>(extent, operands, out, Divergence<T>{free_bits});
  }
}

template <class S>
void NormalKernels<S>::kl_normal_backward(const Extent& extent, const std::array<RowView<const S>, 4>& operands,
                                          T free_bits, const RowView<const S>& upstream,
                                          const std::array<GradientView<S>, 4>& gradients) {
  const std::array<GradientView<S>, 2> posterior_gradients{gradients[0], gradients[1]};
  if (operands[2].data != nullptr) {
    row_gradients<S>(extent, operands, upstream, gradients, Divergence<T>{free_bits});
  } else if (free_bits > T(0)) {
    row_gradients<S>(extent, posterior_of(operands), upstream, posterior_gradients,
                     ClampedStandardDivergence<T>{{free_bits}});
  } else {
    row_gradients<S>(extent, posterior_of(operands), upstream, posterior_gradients, StandardDivergence<T>{free_bits});
  }
}

template <class S>
void NormalKernels<S>::normal_log_prob(const Extent& extent, const std::array<RowView<const S>, 3>& operands, S* out) {
  reduce_rows_by_term<S>(extent, operands, out, NormalLogDensity<T>{});
}

template <class S>
void NormalKernels<S>::normal_log_prob_backward(const Extent& extent, const std::array<RowView<const S>, 3>& operands,
                                                const RowView<const S>& upstream,
                                                const std::array<GradientView<S>, 3>& gradients) {
  row_gradients<S>(extent, operands, upstream, gradients, NormalLogDensity<T>{});
}

template <class S>
void NormalKernels<S>::normal_entropy(const Extent& extent, const RowView<const S>& logvar, S* out) {
  reduce_rows_by_term<S>(extent, std::array<RowView<const S>, 1>{logvar}, out, NormalEntropy<T>{});
}

template <class S>
void NormalKernels<S>::normal_entropy_backward(const Extent& extent, const RowView<const S>& logvar,
                                               const RowView<const S>& upstream, const GradientView<S>& gradient) {
  row_gradients<S>(extent, std::array<RowView<const S>, 1>{logvar}, upstream, std::array<GradientView<S>, 1>{gradient},
                   NormalEntropy<T>{});
}

template <class S>
void NormalKernels<S>::rsample_normal(const Extent& extent, const SampleParameters<S>& parameters, S* z) {
  const DeviceGuard guard;
  launch(rsample_kernel<S>, extent.samples * extent.rows * ceil_divide(extent.columns, 4), ThreadGroup::per_block,
         extent, parameters, z);
}

template <class S>
void NormalKernels<S>::rsample_normal_backward(const Extent& extent, const SampleParameters<S>& parameters,
                                               const S* upstream, S* mean_gradient, S* logvar_gradient) {
  sample_backward<2, S>(extent, parameters, false, upstream, {}, {mean_gradient, logvar_gradient, nullptr, nullptr});
}

template <class S>
void NormalKernels<S>::rsample_normal_with_log_ratio(const Extent& extent, const SampleParameters<S>& parameters, S* z,
                                                     S* log_ratio) {
  sum_rows<S, 1>(extent.samples * extent.rows, extent.columns, {{log_ratio}},
                 [&]<class Group>(std::int64_t items, const Pieces& pieces, const RowSums<S, 1>& sums) {
                   const auto kernel = parameters.prior_mean.data == nullptr
                                           ? rsample_with_log_ratio_kernel<Group, true, S>
                                           : rsample_with_log_ratio_kernel<Group, false, S>;
                   launch(kernel, items, Group::per_block, extent, parameters, z, items, pieces, sums);
                 });
}

template <class S>
void NormalKernels<S>::rsample_normal_with_log_ratio_backward(const Extent& extent,
                                                              const SampleParameters<S>& parameters,
                                                              bool detach_posterior, const S* z_upstream,
                                                              const RowView<const S>& ratio_upstream,
                                                              const LogRatioGradients<S>& gradients) {
  if (gradients.prior_mean != nullptr || gradients.prior_logvar != nullptr) {
    sample_backward<4>(extent, parameters, detach_posterior, z_upstream, ratio_upstream, gradients);
  } else {
    sample_backward<2>(extent, parameters, detach_posterior, z_upstream, ratio_upstream, gradients);
  }
}

template struct NormalKernels<float>;
template struct NormalKernels<double>;
template struct NormalKernels<BFloat16>;
template struct NormalKernels<Float16>;

}  // namespace fastvi

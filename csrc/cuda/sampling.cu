#include "../formulas/normal.h"
#include "noise.cuh"
#include "rows.cuh"

namespace fastvi {
namespace {

// The columns of one row that a quad of draws is for, up to four: where they stand, and their parameters.
template <class S>
struct Quad {
  using T = ComputeType<S>;

  std::int64_t row, index, count;
  T mean[4], logvar[4], scale[4];

  FASTVI_DEVICE Quad(const Extent& extent, const SampleParameters<S>& parameters, std::int64_t b, std::int64_t quad)
      : row(b), index(quad), count(extent.columns - 4 * quad) {
    load_quad(parameters.mean.row(0, row) + 4 * index, count, mean);
    load_quad(parameters.logvar.row(0, row) + 4 * index, count, logvar);
#pragma unroll
    for (int j = 0; j < 4; ++j) scale[j] = exp(T(0.5) * logvar[j]);
  }

  // Where they are in an array of shape (samples, rows, columns).
  FASTVI_DEVICE std::int64_t offset(const Extent& extent, std::int64_t k) const {
    return (k * extent.rows + row) * extent.columns + 4 * index;
  }

  FASTVI_DEVICE void draw(const SampleParameters<S>& parameters, std::uint64_t seed, std::int64_t k, T* noise) const {
    sample_noise(seed, k, row + parameters.row_offset, index, noise);
  }

  // Writes the samples that the noise makes.
  FASTVI_DEVICE void store_samples(const Extent& extent, std::int64_t k, const T* noise, S* z) const {
    T samples[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) samples[j] = sample_of(mean[j], scale[j], noise[j]);
    store_quad(samples, count, z + offset(extent, k));
  }
};

// The prior's parameters in the same places; zeros for the standard one.
template <class S>
struct QuadPriors {
  using T = ComputeType<S>;

  T mean[4] = {}, logvar[4] = {};
  bool standard;

  FASTVI_DEVICE QuadPriors(const SampleParameters<S>& parameters, const Quad<S>& quad)
      : standard(parameters.prior_mean.data == nullptr) {
    if (standard) return;
    load_quad(parameters.prior_mean.row(0, quad.row) + 4 * quad.index, quad.count, mean);
    load_quad(parameters.prior_logvar.row(0, quad.row) + 4 * quad.index, quad.count, logvar);
  }

  FASTVI_DEVICE LogRatio<T> ratio(const Quad<S>& quad, int j) const {
    return standard ? LogRatio<T>::with_standard_prior(quad.mean[j], quad.logvar[j], quad.scale[j])
                    : LogRatio<T>::of(quad.mean[j], quad.logvar[j], mean[j], logvar[j]);
  }
};

template <class S>
__global__ void __launch_bounds__(block_threads) rsample_kernel(Extent extent, SampleParameters<S> parameters, S* z) {
  const std::uint64_t seed = read_seed(parameters.seed);
  const std::int64_t quads = ceil_divide(extent.columns, 4), items = extent.samples * extent.rows * quads;
  for (std::int64_t item = ThreadGroup::first(); item < items; item += ThreadGroup::count()) {
    const Place at(item, quads), place(at.outer, extent.rows);
    const Quad<S> quad(extent, parameters, place.inner, at.inner);
    ComputeType<S> noise[4];
    quad.draw(parameters, seed, place.outer, noise);
    quad.store_samples(extent, place.outer, noise, z);
  }
}

template <class Group, class S>
__global__ void __launch_bounds__(block_threads)
    rsample_with_log_ratio_kernel(Extent extent, SampleParameters<S> parameters, S* z, RowSums<S, 1> sums) {
  using T = ComputeType<S>;
  const std::uint64_t seed = read_seed(parameters.seed);
  sums.template of_group<Group>([&](const RowPart& part) {
    const Place place(part.row, extent.rows);
    const std::int64_t first = part.first / 4, end = first + ceil_divide(part.count, 4);
    LongSum<T> sum;
    for (std::int64_t index = first + Group::lane(); index < end; index += Group::threads) {
      const Quad<S> quad(extent, parameters, place.inner, index);
      T noise[4];
      quad.draw(parameters, seed, place.outer, noise);
      const QuadPriors<S> priors(parameters, quad);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (j < quad.count) sum.add(priors.ratio(quad, j).value(noise[j]));
      }
      quad.store_samples(extent, place.outer, noise, z);
    }
    return std::array<T, 1>{{sum.result()}};
  });
}

// Where the sums of one chunk of samples wait for those of the others: (chunks, kinds, 4, rows * quads), so
// that neighbouring threads write to neighbouring places.
template <class T, int kinds>
struct PartialSums {
  T* data;
  std::int64_t items;

  FASTVI_DEVICE T& at(std::int64_t chunk, int kind, int column, std::int64_t item) const {
    return data[((chunk * kinds + kind) * 4 + column) * items + item];
  }
};

// What the samples send back to the parameters of a quad of columns: sums of what comes to z (kind 0), to half of
// logvar (1), and where the log ratio has a gradient, see LogRatioBackward, of what comes along the path (2), and to
// the prior's mean (3) and logvar (4) where that is wanted. Last comes the sum of the log ratio's upstream gradient,
// one a row.
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
  FASTVI_DEVICE void add(const Quad<S>& quad, std::int64_t chunk, Sums& sums) const {
    const std::uint64_t seed = read_seed(parameters.seed);
    LogRatio<T> ratios[4] = {};
    LogRatioPath<T> paths[4] = {};
    if constexpr (has_ratio) {
      const QuadPriors<S> priors(parameters, quad);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        ratios[j] = priors.ratio(quad, j);
        paths[j] = LogRatioPath<T>::of(quad.logvar[j], priors.logvar[j], detach_posterior);
      }
    }
    const std::int64_t first = chunk * chunks.length, end = first + chunks.length;
    for (std::int64_t k = first; k < (end < extent.samples ? end : extent.samples); ++k) {
      T noise[4] = {}, upstream[4] = {};
      if (has_ratio || gradients.logvar != nullptr) {
        quad.draw(parameters, seed, k, noise);
      }
      if (z_upstream != nullptr) load_quad(z_upstream + quad.offset(extent, k), quad.count, upstream);
      const T by_ratio = has_ratio ? static_cast<T>(*ratio_upstream.row(k, quad.row)) : T(0);
      sums.add(4 * kinds, by_ratio);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const T scaled_by_z = z_upstream == nullptr ? T(0) : quad.scale[j] * upstream[j];
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

  FASTVI_DEVICE void store(const Quad<S>& quad, T (&sums)[5][4], T ratio_sum) const {
    const std::int64_t to = quad.offset(extent, 0);
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[1][j] = gradient_by_logvar(sums[1][j], ratio_sum, detach_posterior);
    if constexpr (has_ratio) {
      const QuadPriors<S> priors(parameters, quad);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const T root = LogRatioPath<T>::of(quad.logvar[j], priors.logvar[j], detach_posterior).root;
        sums[0][j] = gradient_by_mean(sums[0][j], sums[2][j], root);
        sums[3][j] = gradient_by_prior_mean(sums[3][j], quad.logvar[j], priors.logvar[j]);
      }
    }
    if (gradients.mean != nullptr) store_quad(sums[0], quad.count, gradients.mean + to);
    if (gradients.logvar != nullptr) store_quad(sums[1], quad.count, gradients.logvar + to);
    if (gradients.prior_mean != nullptr) store_quad(sums[3], quad.count, gradients.prior_mean + to);
    if (gradients.prior_logvar != nullptr) store_quad(sums[4], quad.count, gradients.prior_logvar + to);
  }
};

template <int kinds, class S>
__global__ void __launch_bounds__(block_threads, sizeof(S) == 8 ? 1 : 2)
    rsample_backward_kernel(SampleBackward<kinds, S> backward) {
  using T = ComputeType<S>;
  const std::int64_t quads = ceil_divide(backward.extent.columns, 4), items = backward.partial.items;
  for (std::int64_t item = ThreadGroup::first(); item < items * backward.chunks.count; item += ThreadGroup::count()) {
    const Place chunk(item, items), place(chunk.inner, quads);
    const Quad<S> quad(backward.extent, backward.parameters, place.outer, place.inner);
    typename SampleBackward<kinds, S>::Sums sums;
    backward.add(quad, chunk.outer, sums);
    if (backward.chunks.count == 1) {
      T totals[5][4] = {};
#pragma unroll
      for (int kind = 0; kind < kinds; ++kind) {
#pragma unroll
        for (int j = 0; j < 4; ++j) totals[kind][j] = sums.result(4 * kind + j);
      }
      backward.store(quad, totals, sums.result(4 * kinds));
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
  const std::int64_t quads = ceil_divide(backward.extent.columns, 4), items = backward.partial.items;
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
    const Place place(item, quads);
    backward.store(Quad<S>(backward.extent, backward.parameters, place.outer, place.inner), totals, ratio_sum);
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
  sum_rows<S, 1>(
      extent.samples * extent.rows, extent.columns, {{log_ratio}}, [&]<class Group>(const RowSums<S, 1>& sums) {
        launch(rsample_with_log_ratio_kernel<Group, S>, sums.items, Group::per_block, extent, parameters, z, sums);
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

#include <cmath>

#include "../formulas/log_mean_exp.h"
#include "axis.cuh"
#include "rows.cuh"

namespace fastvi {
namespace {

// What comes of the part of a column that a slice belongs to.
template <class S>
FASTVI_DEVICE Piece<ComputeType<S>> reduce_part(const Slice& slice, const S* x) {
  using T = ComputeType<S>;
  T maximum = -infinity<T>;
  slice.for_each([&](std::int64_t i, std::int64_t) {
    const T value = static_cast<T>(x[i]);
    maximum = value > maximum ? value : maximum;  // NaN is left to the sum
  });
  maximum = slice.join(maximum, [](T a, T b) { return a > b ? a : b; });
  const T shift = shift_for(maximum);
  LongSum<T> sum, sum_of_squares;
  slice.for_each([&](std::int64_t i, std::int64_t) {
    const T exponential = exp(static_cast<T>(x[i]) - shift);
    sum.add(exponential);
    sum_of_squares.add(exponential * exponential);
  });
  const auto add = [](T a, T b) { return a + b; };
  const T total = slice.join(sum.result(), add);
  return {maximum, shift, total, slice.join(sum_of_squares.result(), add)};
}

// All parts of a column together, for the first thread of the group.
template <class Group, class T>
FASTVI_DEVICE Piece<T> join_parts(const Piece<T>* parts, std::int64_t count) {
  T maximum = -infinity<T>;
  for (std::int64_t i = Group::lane(); i < count; i += Group::threads) {
    maximum = parts[i].maximum > maximum ? parts[i].maximum : maximum;
  }
  maximum = Group::maximum(maximum);
  const T shift = shift_for(maximum);
  const T sum = sum_of_parts<Group, T>(count, [&](std::int64_t i) { return rescale(parts[i], shift) * parts[i].sum; });
  const T sum_of_squares = sum_of_parts<Group, T>(count, [&](std::int64_t i) {
    const T factor = rescale(parts[i], shift);
    return factor * factor * parts[i].sum_of_squares;
  });
  return {maximum, shift, sum, sum_of_squares};
}

// What becomes of a column, or of a part of one.
template <class T>
struct Unchanged {
  using Result = Piece<T>;
  FASTVI_DEVICE Result operator()(const Piece<T>& part, std::int64_t) const { return part; }
};

template <class S>
struct LogMean {
  using Result = S;
  ComputeType<S> log_count;
  FASTVI_DEVICE S operator()(const Piece<ComputeType<S>>& whole, std::int64_t) const {
    return S(log_mean(whole, log_count));
  }
};

template <class S>
struct EffectiveSize {
  using Result = S;
  FASTVI_DEVICE S operator()(const Piece<ComputeType<S>>& whole, std::int64_t) const {
    return S(effective_size(whole));
  }
};

template <class T>
struct ShiftAndFactor {
  T shift, factor;
};

// What is taken from a column before the exponential, and what that is multiplied with; `scale` null stands for one.
template <class S>
struct SoftmaxFactor {
  using T = ComputeType<S>;
  using Result = ShiftAndFactor<T>;
  const S* scale;
  bool as_gradient;

  FASTVI_DEVICE Result operator()(const Piece<T>& whole, std::int64_t column) const {
    const T factor = scale == nullptr ? T(1) : static_cast<T>(scale[column]);
    return {whole.shift, softmax_factor(whole, factor, as_gradient)};
  }
};

// out[column, part] = finish(what comes of it, column).
template <class S, class Finish>
__global__ void __launch_bounds__(block_threads)
    reduce_columns_kernel(Sharing sharing, const S* x, Finish finish, typename Finish::Result* out) {
  for (std::int64_t item = blockIdx.x; item < sharing.blocks; item += gridDim.x) {
    const Slice slice(sharing, item);
    const auto reduced = reduce_part(slice, x);
    if (slice.writes()) out[slice.column * sharing.parts + slice.part] = finish(reduced, slice.column);
  }
}

template <class Group, class T, class Finish>
__global__ void __launch_bounds__(block_threads)
    join_parts_kernel(std::int64_t columns, std::int64_t count, const Piece<T>* parts, Finish finish,
                      typename Finish::Result* out) {
  for (std::int64_t i = Group::first(); i < columns; i += Group::count()) {
    const auto whole = join_parts<Group>(parts + i * count, count);
    if (Group::lane() == 0) out[i] = finish(whole, i);
  }
}

template <class S>
FASTVI_DEVICE void write_softmax(const Slice& slice, const S* x, const ShiftAndFactor<ComputeType<S>>& by, S* out) {
  slice.for_each(
      [&](std::int64_t i, std::int64_t) { out[i] = S(exp(static_cast<ComputeType<S>>(x[i]) - by.shift) * by.factor); });
}

template <class S>
__global__ void __launch_bounds__(block_threads)
    softmax_kernel(Sharing sharing, const S* x, SoftmaxFactor<S> factor, S* out) {
  for (std::int64_t item = blockIdx.x; item < sharing.blocks; item += gridDim.x) {
    const Slice slice(sharing, item);
    const auto whole = reduce_part(slice, x);
    if (slice.inside) write_softmax(slice, x, factor(whole, slice.column), out);
  }
}

// The same of columns that were reduced in parts.
template <class S>
__global__ void __launch_bounds__(block_threads)
    softmax_parts_kernel(Sharing sharing, const S* x, const ShiftAndFactor<ComputeType<S>>* factors, S* out) {
  for (std::int64_t item = blockIdx.x; item < sharing.blocks; item += gridDim.x) {
    const Slice slice(sharing, item);
    if (slice.inside) write_softmax(slice, x, factors[slice.column], out);
  }
}

// What the weights of a slice send to their column's sum, for all of the column's threads.
template <class S>
FASTVI_DEVICE ComputeType<S> weighted_sum(const Slice& slice, const S* x, const ShiftAndFactor<ComputeType<S>>& by,
                                          const S* upstream) {
  using T = ComputeType<S>;
  LongSum<T> sum;
  slice.for_each([&](std::int64_t i, std::int64_t) {
    sum.add(exp(static_cast<T>(x[i]) - by.shift) * by.factor * static_cast<T>(upstream[i]));
  });
  return slice.join(sum.result(), [](T a, T b) { return a + b; });
}

template <class S>
FASTVI_DEVICE void write_weights_gradient(const Slice& slice, const S* x, const ShiftAndFactor<ComputeType<S>>& by,
                                          const S* upstream, ComputeType<S> sum, S* out) {
  using T = ComputeType<S>;
  slice.for_each([&](std::int64_t i, std::int64_t) {
    out[i] = S(exp(static_cast<T>(x[i]) - by.shift) * by.factor * (static_cast<T>(upstream[i]) - sum));
  });
}

template <class S>
__global__ void __launch_bounds__(block_threads)
    weights_backward_kernel(Sharing sharing, const S* upstream, const S* x, SoftmaxFactor<S> factor, S* out) {
  for (std::int64_t item = blockIdx.x; item < sharing.blocks; item += gridDim.x) {
    const Slice slice(sharing, item);
    const auto by = factor(reduce_part(slice, x), slice.column);
    write_weights_gradient(slice, x, by, upstream, weighted_sum(slice, x, by, upstream), out);
  }
}

// The same of columns that were reduced in parts, in three steps.
template <class S>
__global__ void __launch_bounds__(block_threads)
    weighted_sums_kernel(Sharing sharing, const S* upstream, const S* x, const ShiftAndFactor<ComputeType<S>>* factors,
                         ComputeType<S>* out) {
  for (std::int64_t item = blockIdx.x; item < sharing.blocks; item += gridDim.x) {
    const Slice slice(sharing, item);
    const auto by = slice.inside ? factors[slice.column] : ShiftAndFactor<ComputeType<S>>{};
    const auto sum = weighted_sum(slice, x, by, upstream);
    if (slice.writes()) out[slice.column * sharing.parts + slice.part] = sum;
  }
}

template <class Group, class T>
__global__ void __launch_bounds__(block_threads)
    join_sums_kernel(std::int64_t columns, std::int64_t count, const T* parts, T* out) {
  for (std::int64_t i = Group::first(); i < columns; i += Group::count()) {
    const T sum = sum_of_parts<Group, T>(count, [&](std::int64_t part) { return parts[i * count + part]; });
    if (Group::lane() == 0) out[i] = sum;
  }
}

template <class S>
__global__ void __launch_bounds__(block_threads)
    weights_backward_parts_kernel(Sharing sharing, const S* upstream, const S* x,
                                  const ShiftAndFactor<ComputeType<S>>* factors, const ComputeType<S>* sums, S* out) {
  for (std::int64_t item = blockIdx.x; item < sharing.blocks; item += gridDim.x) {
    const Slice slice(sharing, item);
    if (slice.inside) write_weights_gradient(slice, x, factors[slice.column], upstream, sums[slice.column], out);
  }
}

// out[column] = finish(the whole column, column).
template <class S, class Finish>
void reduce_columns(const Sharing& sharing, const S* x, const Finish& finish, typename Finish::Result* out) {
  using T = ComputeType<S>;
  if (sharing.parts == 1) {
    launch(reduce_columns_kernel<S, Finish>, sharing.blocks, 1, sharing, x, finish, out);
    return;
  }
  auto* const parts = scratch<Piece<T>>(sharing.all_columns * sharing.parts);
  launch(reduce_columns_kernel<S, Unchanged<T>>, sharing.blocks, 1, sharing, x, Unchanged<T>{}, parts);
  with_joining_group(sharing.parts, [&]<class Group>() {
    launch(join_parts_kernel<Group, T, Finish>, sharing.all_columns, Group::per_block, sharing.all_columns,
           sharing.parts, parts, finish, out);
  });
}

}  // namespace

template <class S>
void LogMeanExpKernels<S>::log_mean_exp(const AxisExtent& extent, const S* x, S* out) {
  const DeviceGuard guard;
  reduce_columns(Sharing(extent), x, LogMean<S>{std::log(static_cast<ComputeType<S>>(extent.count))}, out);
}

template <class S>
void LogMeanExpKernels<S>::effective_sample_size(const AxisExtent& extent, const S* x, S* out) {
  const DeviceGuard guard;
  reduce_columns(Sharing(extent), x, EffectiveSize<S>{}, out);
}

template <class S>
void LogMeanExpKernels<S>::scaled_softmax(const AxisExtent& extent, const S* x, const S* scale, bool as_gradient,
                                          S* out) {
  const DeviceGuard guard;
  const Sharing sharing(extent);
  const SoftmaxFactor<S> factor{scale, as_gradient};
  if (sharing.parts == 1) {
    launch(softmax_kernel<S>, sharing.blocks, 1, sharing, x, factor, out);
    return;
  }
  auto* const factors = scratch<ShiftAndFactor<ComputeType<S>>>(sharing.all_columns);
  reduce_columns(sharing, x, factor, factors);
  launch(softmax_parts_kernel<S>, sharing.blocks, 1, sharing, x, factors, out);
}

template <class S>
void LogMeanExpKernels<S>::weights_backward(const AxisExtent& extent, const S* upstream, const S* x, S* out) {
  using T = ComputeType<S>;
  const DeviceGuard guard;
  const Sharing sharing(extent);
  const SoftmaxFactor<S> factor{nullptr, false};
  if (sharing.parts == 1) {
    launch(weights_backward_kernel<S>, sharing.blocks, 1, sharing, upstream, x, factor, out);
    return;
  }
  auto* const factors = scratch<ShiftAndFactor<T>>(sharing.all_columns);
  reduce_columns(sharing, x, factor, factors);
  auto* const parts = scratch<T>(sharing.all_columns * sharing.parts);
  auto* const sums = scratch<T>(sharing.all_columns);
  launch(weighted_sums_kernel<S>, sharing.blocks, 1, sharing, upstream, x, factors, parts);
  with_joining_group(sharing.parts, [&]<class Group>() {
    launch(join_sums_kernel<Group, T>, sharing.all_columns, Group::per_block, sharing.all_columns, sharing.parts, parts,
           sums);
  });
  launch(weights_backward_parts_kernel<S>, sharing.blocks, 1, sharing, upstream, x, factors, sums, out);
}

template struct LogMeanExpKernels<float>;
template struct LogMeanExpKernels<double>;
template struct LogMeanExpKernels<BFloat16>;
template struct LogMeanExpKernels<Float16>;

}  // namespace fastvi

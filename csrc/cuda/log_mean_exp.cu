#include <cmath>

#include "../formulas/log_mean_exp.h"
#include "axis.cuh"
#include "rows.cuh"

namespace fastvi {
namespace {

template <class S>
FASTVI_DEVICE Piece<ComputeType<S>> reduce_piece(const AxisExtent& extent, const Sharing& sharing, const Slice& slice,
                                                 const S* x) {
  using T = ComputeType<S>;
  T maximum = -infinity<T>;
  slice.for_each(extent, sharing, [&](std::int64_t i) {
    const T value = static_cast<T>(x[i]);
    maximum = value > maximum ? value : maximum;  // NaN is left to the sum
  });
  maximum = join_slices(sharing, slice, maximum, [](T a, T b) { return a > b ? a : b; });
  const T shift = shift_for(maximum);
  LongSum<T> sum, sum_of_squares;
  slice.for_each(extent, sharing, [&](std::int64_t i) {
    const T exponential = exp(static_cast<T>(x[i]) - shift);
    sum.add(exponential);
    sum_of_squares.add(exponential * exponential);
  });
  const auto add = [](T a, T b) { return a + b; };
  const T total = join_slices(sharing, slice, sum.result(), add);
  return {maximum, shift, total, join_slices(sharing, slice, sum_of_squares.result(), add)};
}

// All pieces of a column together, for the first thread of the group.
template <class Group, class T>
FASTVI_DEVICE Piece<T> join_pieces(const Piece<T>* pieces, std::int64_t count) {
  T maximum = -infinity<T>;
  for (std::int64_t i = Group::lane(); i < count; i += Group::threads) {
    maximum = pieces[i].maximum > maximum ? pieces[i].maximum : maximum;
  }
  maximum = Group::maximum(maximum);
  const T shift = shift_for(maximum);
  const T sum =
      sum_of_parts<Group, T>(count, [&](std::int64_t i) { return rescale(pieces[i], shift) * pieces[i].sum; });
  const T sum_of_squares = sum_of_parts<Group, T>(count, [&](std::int64_t i) {
    const T factor = rescale(pieces[i], shift);
    return factor * factor * pieces[i].sum_of_squares;
  });
  return {maximum, shift, sum, sum_of_squares};
}

// What becomes of a column.
template <class T>
struct LogMean {
  T log_count;
  FASTVI_DEVICE T operator()(const Piece<T>& whole) const { return log_mean(whole, log_count); }
};

template <class T>
struct EffectiveSize {
  FASTVI_DEVICE T operator()(const Piece<T>& whole) const { return effective_size(whole); }
};

// What the exponentials of a column are multiplied with; `scale` null stands for one.
template <class S>
struct SoftmaxFactor {
  const S* scale;
  bool as_gradient;

  using T = ComputeType<S>;
  FASTVI_DEVICE T operator()(const Piece<T>& whole, std::int64_t column) const {
    return softmax_factor(whole, scale == nullptr ? T(1) : static_cast<T>(scale[column]), as_gradient);
  }
};

template <class S, class Finish>
__global__ void __launch_bounds__(block_threads)
    reduce_columns_kernel(AxisExtent extent, Sharing sharing, std::int64_t blocks, const S* x, Finish finish, S* out) {
  for (std::int64_t item = blockIdx.x; item < blocks; item += gridDim.x) {
    const Slice slice(extent, sharing, item);
    const auto whole = reduce_piece(extent, sharing, slice, x);
    if (slice.inside && slice.slice == 0) out[slice.column] = S(finish(whole));
  }
}

template <class S>
__global__ void __launch_bounds__(block_threads)
    reduce_pieces_kernel(AxisExtent extent, Sharing sharing, std::int64_t blocks, const S* x,
                         Piece<ComputeType<S>>* pieces) {
  for (std::int64_t item = blockIdx.x; item < blocks; item += gridDim.x) {
    const Slice slice(extent, sharing, item);
    const auto piece = reduce_piece(extent, sharing, slice, x);
    if (slice.inside && slice.slice == 0) pieces[slice.column * sharing.pieces + slice.piece] = piece;
  }
}

template <class Group, class S, class Finish>
__global__ void __launch_bounds__(block_threads)
    join_pieces_kernel(std::int64_t columns, std::int64_t count, const Piece<ComputeType<S>>* pieces, Finish finish,
                       S* out) {
  for (std::int64_t i = Group::first(); i < columns; i += Group::count()) {
    const auto whole = join_pieces<Group>(pieces + i * count, count);
    if (Group::lane() == 0) out[i] = S(finish(whole));
  }
}

template <class S>
__global__ void __launch_bounds__(block_threads) softmax_kernel(AxisExtent extent, Sharing sharing, std::int64_t blocks,
                                                                const S* x, SoftmaxFactor<S> factor, S* out) {
  using T = ComputeType<S>;
  for (std::int64_t item = blockIdx.x; item < blocks; item += gridDim.x) {
    const Slice slice(extent, sharing, item);
    const Piece<T> whole = reduce_piece(extent, sharing, slice, x);
    if (!slice.inside) continue;
    const T by = factor(whole, slice.column);
    slice.for_each(extent, sharing, [&](std::int64_t i) { out[i] = S(exp(static_cast<T>(x[i]) - whole.shift) * by); });
  }
}

// A column's shift and factor, from its pieces.
template <class T>
struct ShiftAndFactor {
  T shift, factor;
};

template <class Group, class S>
__global__ void __launch_bounds__(block_threads)
    softmax_factors_kernel(std::int64_t columns, std::int64_t count, const Piece<ComputeType<S>>* pieces,
                           SoftmaxFactor<S> factor, ShiftAndFactor<ComputeType<S>>* out) {
  for (std::int64_t i = Group::first(); i < columns; i += Group::count()) {
    const auto whole = join_pieces<Group>(pieces + i * count, count);
    if (Group::lane() == 0) out[i] = {whole.shift, factor(whole, i)};
  }
}

template <class S>
__global__ void __launch_bounds__(block_threads)
    softmax_pieces_kernel(AxisExtent extent, Sharing sharing, std::int64_t blocks, const S* x,
                          const ShiftAndFactor<ComputeType<S>>* factors, S* out) {
  using T = ComputeType<S>;
  for (std::int64_t item = blockIdx.x; item < blocks; item += gridDim.x) {
    const Slice slice(extent, sharing, item);
    if (!slice.inside) continue;
    const ShiftAndFactor<T> by = factors[slice.column];
    slice.for_each(extent, sharing,
                   [&](std::int64_t i) { out[i] = S(exp(static_cast<T>(x[i]) - by.shift) * by.factor); });
  }
}

template <class S>
Piece<ComputeType<S>>* reduce_pieces(const AxisExtent& extent, const Sharing& sharing, const S* x) {
  auto* const pieces = scratch<Piece<ComputeType<S>>>(extent.outer * extent.inner * sharing.pieces);
  const std::int64_t blocks = sharing.blocks(extent);
  launch(reduce_pieces_kernel<S>, blocks, 1, extent, sharing, blocks, x, pieces);
  return pieces;
}

// out = finish(column).
template <class S, class Finish>
void reduce_columns(const AxisExtent& extent, const S* x, const Finish& finish, S* out) {
  const DeviceGuard guard;
  const Sharing sharing(extent);
  const std::int64_t columns = extent.outer * extent.inner, blocks = sharing.blocks(extent);
  if (columns == 0) return;
  if (sharing.pieces == 1) {
    launch(reduce_columns_kernel<S, Finish>, blocks, 1, extent, sharing, blocks, x, finish, out);
  } else {
    const auto* const pieces = reduce_pieces(extent, sharing, x);
    with_joining_group(sharing.pieces, [&]<class Group>() {
      launch(join_pieces_kernel<Group, S, Finish>, columns, Group::per_block, columns, sharing.pieces, pieces, finish,
             out);
    });
  }
}

}  // namespace

template <class S>
void LogMeanExpKernels<S>::log_mean_exp(const AxisExtent& extent, const S* x, S* out) {
  using T = ComputeType<S>;
  reduce_columns(extent, x, LogMean<T>{std::log(static_cast<T>(extent.count))}, out);
}

template <class S>
void LogMeanExpKernels<S>::effective_sample_size(const AxisExtent& extent, const S* x, S* out) {
  reduce_columns(extent, x, EffectiveSize<ComputeType<S>>{}, out);
}

template <class S>
void LogMeanExpKernels<S>::scaled_softmax(const AxisExtent& extent, const S* x, const S* scale, bool as_gradient,
                                          S* out) {
  using T = ComputeType<S>;
  const DeviceGuard guard;
  const Sharing sharing(extent);
  const std::int64_t columns = extent.outer * extent.inner, blocks = sharing.blocks(extent);
  if (columns == 0) return;
  const SoftmaxFactor<S> factor{scale, as_gradient};
  if (sharing.pieces == 1) {
    launch(softmax_kernel<S>, blocks, 1, extent, sharing, blocks, x, factor, out);
    return;
  }
  const Piece<T>* const pieces = reduce_pieces(extent, sharing, x);
  auto* const factors = scratch<ShiftAndFactor<T>>(columns);
  with_joining_group(sharing.pieces, [&]<class Group>() {
    launch(softmax_factors_kernel<Group, S>, columns, Group::per_block, columns, sharing.pieces, pieces, factor,
           factors);
  });
  launch(softmax_pieces_kernel<S>, blocks, 1, extent, sharing, blocks, x, factors, out);
}

template struct LogMeanExpKernels<float>;
template struct LogMeanExpKernels<double>;
template struct LogMeanExpKernels<BFloat16>;
template struct LogMeanExpKernels<Float16>;

}  // namespace fastvi
